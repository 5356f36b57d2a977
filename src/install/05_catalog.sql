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
    cut bigint NOT NULL DEFAULT 0 CHECK (cut >= 0)
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
    dropped_at timestamptz
);
CREATE UNIQUE INDEX member_node_name ON cozesync.member (node_name) WHERE dropped_at IS NULL;
COMMENT ON TABLE cozesync.member IS 'members of the group, one row per incarnation; known to every node';

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

-- Conflict rules, every version of them: a change is decided by the version that it
-- names.  Travels through the log.
CREATE TABLE cozesync.rule (
    rule_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    schema_name text NOT NULL,
    table_name text NOT NULL,
    column_name text,
    conflict_type text,
    policy text NOT NULL,
    version_column text,
    node_order text[],
    resolver text,
    since timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE cozesync.rule IS 'conflict rules in force and former ones; known to every node';

-- Links that were paused here; only this node's business.
CREATE TABLE cozesync.paused_link (
    peer bigint PRIMARY KEY
);
COMMENT ON TABLE cozesync.paused_link IS 'peers whose links to and from this node are paused';

-- Nothing here is anybody's business: cozesync.member holds DSNs.
REVOKE ALL ON ALL TABLES IN SCHEMA cozesync FROM PUBLIC;
