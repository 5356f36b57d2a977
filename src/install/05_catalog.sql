-- Who this database is.  At most one row.  A copy of the database carries it along,
-- and is found out by system_identifier and database_oid.
CREATE TABLE cozesync.local_node (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    origin bigint NOT NULL CHECK (origin > 0),
    group_id uuid NOT NULL,
    group_name text NOT NULL,
    state text NOT NULL CHECK (state IN ('joining', 'ready', 'left')),
    system_identifier bigint NOT NULL,
    database_oid oid NOT NULL,
    cut bigint NOT NULL DEFAULT 0 CHECK (cut >= 0),
    -- no entry above this is missing from the log because its segment was emptied
    emptied bigint NOT NULL DEFAULT 0 CHECK (emptied >= 0)
);
COMMENT ON TABLE cozesync.local_node IS 'who this database is in its group';

-- The members of the group, a row per incarnation.  Travels through the log.
CREATE TABLE cozesync.member (
    origin bigint PRIMARY KEY CHECK (origin > 0),
    node_name text NOT NULL CHECK (node_name <> ''),
    dsn text,
    system_identifier bigint NOT NULL,
    database_oid bigint NOT NULL,
    server_version integer NOT NULL,
    joined_at timestamptz NOT NULL DEFAULT now(),
    dropped_at timestamptz,
    -- set by the node itself, with its first entry
    ready_at timestamptz,
    -- which numbers it draws from sequences that are spread
    slot integer NOT NULL CHECK (slot >= 0),
    -- the member that it joined through, if it was to have a link with that one alone
    only_via bigint
);
CREATE UNIQUE INDEX member_node_name ON cozesync.member (node_name) WHERE dropped_at IS NULL;
COMMENT ON TABLE cozesync.member IS 'members of the group, one row per incarnation; known to every node';

-- Members that were dropped, or left.  Rows are only added, so that nothing written about a
-- member by who had not heard of it can bring it back.  Travels through the log.
CREATE TABLE cozesync.dropped_member (
    origin bigint PRIMARY KEY CHECK (origin > 0),
    dropped_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE cozesync.dropped_member IS 'members that were dropped from the group; known to every node';

-- By which entry this node has learnt that a member was dropped: whoever has seen that entry
-- has learnt it, too.  Only this node's business.
CREATE TABLE cozesync.drop_entry (
    origin bigint PRIMARY KEY,
    by_origin bigint NOT NULL,
    by_hlc bigint NOT NULL
);
COMMENT ON TABLE cozesync.drop_entry IS 'entries of the log by which members were dropped';

-- How two members are linked, where it is not the default.  Travels through the log.
CREATE TABLE cozesync.link_mode (
    source bigint NOT NULL,
    target bigint NOT NULL,
    mode text NOT NULL CHECK (mode IN ('push', 'pull', 'off')),
    PRIMARY KEY (source, target),
    CHECK (source <> target)
);
COMMENT ON TABLE cozesync.link_mode IS 'links whose mode was set; all others are push; known to every node';

-- Tables under sync, by name.  Travels through the log.
CREATE TABLE cozesync.synced_table (
    schema_name text NOT NULL,
    table_name text NOT NULL,
    added_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (schema_name, table_name)
);
COMMENT ON TABLE cozesync.synced_table IS 'tables under sync; known to every node';

-- Conflict rules.  The rules of a table with one (version_hlc, version_origin) are one
-- version of its policy, complete; the highest is in force.  Former ones stay, since a
-- change is decided by the version that it names.  Travels through the log.
CREATE TABLE cozesync.rule (
    rule_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    schema_name text NOT NULL,
    table_name text NOT NULL,
    version_hlc bigint NOT NULL CHECK (version_hlc > 0),
    version_origin bigint NOT NULL CHECK (version_origin > 0),
    column_name text,
    conflict_type text CHECK (conflict_type IN ('insert_exists', 'update_update', 'update_deleted',
        'delete_updated', 'unique_violation', 'truncate_write')),
    policy text NOT NULL,
    version_column text,
    node_order text[],
    resolver text,
    resolver_digest text,
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (column_name IS NULL OR conflict_type IS NULL),
    CHECK ((version_column IS NOT NULL) = (policy = 'highest_version')),
    CHECK ((node_order IS NOT NULL) = (policy = 'node_order')),
    CHECK ((resolver IS NOT NULL) = (policy = 'resolver') AND (resolver IS NULL) = (resolver_digest IS NULL)),
    CHECK (CASE WHEN column_name IS NOT NULL
           THEN policy IN ('last_update_wins', 'delta', 'max', 'min', 'json_merge', 'set_merge', 'hold')
           WHEN conflict_type = 'unique_violation' THEN policy IN ('first_update_wins', 'last_update_wins')
           ELSE policy IN ('last_update_wins', 'first_update_wins', 'highest_version', 'node_order',
                           'merge', 'resolver', 'hold') END)
);
CREATE INDEX rule_table ON cozesync.rule (schema_name, table_name);
COMMENT ON TABLE cozesync.rule IS 'conflict rules in force and former ones; known to every node';

-- Conflicts that somebody settled: by the row that was written then, or by leaving it as
-- it is.  Named as in the conflict log.  Travels through the log.
CREATE TABLE cozesync.settlement (
    settlement_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    schema_name text NOT NULL,
    table_name text NOT NULL,
    key jsonb NOT NULL,
    loser_origin bigint NOT NULL,
    loser_hlc bigint NOT NULL,
    choice text NOT NULL CHECK (choice IN ('local', 'remote', 'row')),
    result_row jsonb,
    settled_by text NOT NULL,
    settled_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX settlement_loser ON cozesync.settlement (loser_hlc, loser_origin);
COMMENT ON TABLE cozesync.settlement IS 'conflicts that were settled by hand; known to every node';

-- Sequences behind columns of synced tables from which each node draws numbers of its
-- own: base or more, and congruent to its slot modulo max_nodes.  Travels through the log.
CREATE TABLE cozesync.spread_sequence (
    schema_name text NOT NULL,
    table_name text NOT NULL,
    column_name text NOT NULL,
    max_nodes integer NOT NULL CHECK (max_nodes > 1),
    base bigint NOT NULL CHECK (base > 0),
    PRIMARY KEY (schema_name, table_name, column_name)
);
COMMENT ON TABLE cozesync.spread_sequence IS 'sequences that are spread over the nodes; known to every node';

-- DDL that was executed everywhere.  Travels through the log; where it is applied, it is
-- executed.
CREATE TABLE cozesync.ddl (
    ddl_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    executed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    role_name text NOT NULL,
    -- of the session that it was executed in, as far as the meaning of SQL depends on them
    settings jsonb NOT NULL,
    sql text NOT NULL
);
COMMENT ON TABLE cozesync.ddl IS 'DDL that was executed by execute_everywhere(); known to every node';

-- Columns that such DDL has dropped: values for them that were on their way are let go.
CREATE TABLE cozesync.dropped_column (
    schema_name text NOT NULL,
    table_name text NOT NULL,
    column_name text NOT NULL,
    PRIMARY KEY (schema_name, table_name, column_name)
);
COMMENT ON TABLE cozesync.dropped_column IS 'columns of synced tables that execute_everywhere() has dropped';

-- Entries that an operator said are to have no effect.  Travels through the log.
CREATE TABLE cozesync.skipped_entry (
    origin bigint NOT NULL CHECK (origin > 0),
    hlc bigint NOT NULL CHECK (hlc > 0),
    skipped_on bigint NOT NULL,
    skipped_by text NOT NULL,
    skipped_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (origin, hlc)
);
COMMENT ON TABLE cozesync.skipped_entry IS 'entries without effect, by skip_entry(); known to every node';

-- Those of them of which this node has yet to record what is lost and, where it was called,
-- to tell the others how its rows are.  Only this node's business.
CREATE TABLE cozesync.skip_todo (
    origin bigint NOT NULL,
    hlc bigint NOT NULL,
    tells boolean NOT NULL,
    PRIMARY KEY (origin, hlc)
);
COMMENT ON TABLE cozesync.skip_todo IS 'skipped entries that are not settled on this node';

-- How far this node has come with joining; a row while it is at it.  Only its own
-- business.  admitted_*: the entry by which the donor made it a member; waits_for: the
-- members that must count it before it may write.
CREATE TABLE cozesync.join_run (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    phase text NOT NULL CHECK (phase IN ('admitting', 'copying', 'catching up')),
    origin bigint NOT NULL CHECK (origin > 0),
    node_name text NOT NULL,
    dsn text,
    via text NOT NULL,
    copy_data boolean NOT NULL,
    direct_links boolean NOT NULL,
    donor bigint NOT NULL CHECK (donor > 0),
    admitted_hlc bigint,
    waits_for bigint[] NOT NULL DEFAULT '{}',
    last_error text,
    CHECK (phase = 'admitting' OR admitted_hlc IS NOT NULL)
);
COMMENT ON TABLE cozesync.join_run IS 'how far this node has come with joining its group';

-- Tables that a joining node copies.  held: the vector of the snapshot of the donor that
-- its rows are from, but for rows of the keys that are stale.
CREATE TABLE cozesync.join_table (
    schema_name text NOT NULL,
    table_name text NOT NULL,
    copied_rows bigint,
    copied_bytes bigint,
    of_bytes bigint,
    held jsonb,
    stale text[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (schema_name, table_name)
);
COMMENT ON TABLE cozesync.join_table IS 'tables that a joining node copies, and which of them it has';

-- Links that were paused here; only this node's business.
CREATE TABLE cozesync.paused_link (
    peer bigint PRIMARY KEY
);
COMMENT ON TABLE cozesync.paused_link IS 'peers whose links to and from this node are paused';

-- What a former incarnation of this node had written and not sent, in the order in which it
-- was written, as changes() shows it.  Only this node's business.
CREATE TABLE cozesync.unsent (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    origin text NOT NULL,
    hlc timestamptz NOT NULL,
    xid bigint,
    relation text NOT NULL,
    operation text NOT NULL,
    key jsonb,
    old_row jsonb,
    new_row jsonb
);
COMMENT ON TABLE cozesync.unsent IS 'what a former incarnation of this node had not sent';

-- A dump takes along what the group is and who this node was in it; a database made from
-- it is found out as a copy by its identity.
SELECT pg_catalog.pg_extension_config_dump('cozesync.local_node', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.member', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.dropped_member', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.drop_entry', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.link_mode', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.synced_table', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.rule', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.settlement', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.spread_sequence', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.skipped_entry', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.skip_todo', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.ddl', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.dropped_column', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.unsent', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.unsent_id_seq', '');

-- Nothing here is anybody's business: cozesync.member holds DSNs.
REVOKE ALL ON ALL TABLES IN SCHEMA cozesync FROM PUBLIC;
