-- Links: what peers call, what managers call, what one looks at.
--
-- The role in a node's DSN needs this set of functions and nothing else: no right on
-- any table, no superuser.
--
--     GRANT USAGE ON SCHEMA cozesync TO sync;
--     GRANT EXECUTE ON FUNCTION cozesync.hello(bytea), cozesync.receive(bytea) TO sync;
--     GRANT EXECUTE ON PROCEDURE cozesync.send(bytea, bytea) TO sync;
--
-- cozesync.grant_to_peer() grants these, and what joining needs.  Who may call them can
-- read and write everything under sync, as a node of the group.

CREATE FUNCTION cozesync.hello(greeting bytea)
RETURNS bytea
AS 'MODULE_PATHNAME', 'coze_hello'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.hello(bytea) IS 'for peers: begins a link; both sides tell who they are and what they hold; NULL: the peer is not known here (yet)';
-- Peers only.
REVOKE ALL ON FUNCTION cozesync.hello(bytea) FROM PUBLIC;

-- No setting is pinned on it: that took a seventh of a peer's session, and it looks up nothing by name.
CREATE FUNCTION cozesync.receive(batch bytea)
RETURNS bytea
AS 'MODULE_PATHNAME', 'coze_receive'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cozesync.receive(bytea) IS 'for peers: takes a batch of changes and acknowledges; NULL in asks only, NULL out refuses';
-- Peers only.
REVOKE ALL ON FUNCTION cozesync.receive(bytea) FROM PUBLIC;

-- No setting is pinned on it, since it ends transactions; it looks up nothing by name.
CREATE PROCEDURE cozesync.send(request bytea, INOUT batch bytea)
AS 'MODULE_PATHNAME', 'coze_send'
LANGUAGE C;
COMMENT ON PROCEDURE cozesync.send(bytea, bytea) IS 'for peers: gives a batch of changes, waiting up to a second for one; not NULL in begins the stream anew';
-- Peers only.
REVOKE ALL ON PROCEDURE cozesync.send(bytea, bytea) FROM PUBLIC;

CREATE FUNCTION cozesync.hide_parameters()
RETURNS void
AS 'MODULE_PATHNAME', 'coze_hide_parameters'
LANGUAGE C VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.hide_parameters() IS 'for nodes that join: what this session passes to statements, such as a DSN, stays out of the server log';
-- Peers only.
REVOKE ALL ON FUNCTION cozesync.hide_parameters() FROM PUBLIC;

-- --- for the functions below --------------------------------------------------------

CREATE FUNCTION cozesync.links_changed()
RETURNS void
AS 'MODULE_PATHNAME', 'coze_links_changed'
LANGUAGE C VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.links_changed() IS 'has the workers read members, links and tables anew when this transaction has committed';
-- Only who manages the group may disturb the workers.
REVOKE ALL ON FUNCTION cozesync.links_changed() FROM PUBLIC;

CREATE FUNCTION cozesync.retry_link(peer bigint)
RETURNS void
AS 'MODULE_PATHNAME', 'coze_retry_link'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.retry_link(bigint) IS 'ends the wait of the links with a peer, and of stopped streams';
-- Only who manages the group may disturb the workers.
REVOKE ALL ON FUNCTION cozesync.retry_link(bigint) FROM PUBLIC;

CREATE FUNCTION cozesync.check_dsn(dsn text)
RETURNS void
AS 'MODULE_PATHNAME', 'coze_check_dsn'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.check_dsn(text) IS 'raises an error unless the current user may name this DSN, and it can be parsed';
REVOKE ALL ON FUNCTION cozesync.check_dsn(text) FROM PUBLIC;

CREATE FUNCTION cozesync.links_closed()
RETURNS text
AS 'MODULE_PATHNAME', 'coze_links_closed'
LANGUAGE C STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.links_closed() IS 'why all links of this database are closed; NULL if they are not';
REVOKE ALL ON FUNCTION cozesync.links_closed() FROM PUBLIC;

CREATE FUNCTION cozesync.clock_leap()
RETURNS interval
AS 'MODULE_PATHNAME', 'coze_clock_leap_interval'
LANGUAGE C VOLATILE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.clock_leap() IS 'what the machine''s clock has leapt by and is not followed in; NULL if it has not';
REVOKE ALL ON FUNCTION cozesync.clock_leap() FROM PUBLIC;

CREATE FUNCTION cozesync.system_identifier()
RETURNS bigint
AS 'MODULE_PATHNAME', 'coze_system_identifier'
LANGUAGE C STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.system_identifier() IS 'the system identifier of this server';
REVOKE ALL ON FUNCTION cozesync.system_identifier() FROM PUBLIC;

-- Raises undefined_object, with the names there are.
CREATE FUNCTION cozesync.member_origin(node_name text)
RETURNS bigint
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found_origin bigint;
    names text;
BEGIN
    SELECT m.origin INTO found_origin
    FROM cozesync.member m
    WHERE m.node_name = member_origin.node_name AND m.dropped_at IS NULL;
    IF found_origin IS NULL THEN
        SELECT string_agg(m.node_name, ', ' ORDER BY m.node_name) INTO names
        FROM cozesync.member m
        WHERE m.dropped_at IS NULL;
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_object',
            MESSAGE = format('there is no node "%s"', node_name),
            HINT = coalesce(format('The nodes of the group are: %s.', names),
                            'This database is not a member of a group.');
    END IF;
    RETURN found_origin;
END
$$;
COMMENT ON FUNCTION cozesync.member_origin(text) IS 'the origin of a live member';
REVOKE ALL ON FUNCTION cozesync.member_origin(text) FROM PUBLIC;

-- --- managing links -------------------------------------------------------------------

-- Stop the links to and from a peer, or all peers, keeping their positions.
-- Raises undefined_object if there is no such node; pausing twice is no error.
CREATE FUNCTION cozesync.pause(node_name text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF pause.node_name IS NOT NULL THEN
        PERFORM cozesync.member_origin(pause.node_name);
    END IF;
    INSERT INTO cozesync.paused_link
    SELECT m.origin
    FROM cozesync.member m
    WHERE m.dropped_at IS NULL
        AND (pause.node_name IS NULL OR m.node_name = pause.node_name)
        AND NOT EXISTS (SELECT FROM cozesync.local_node l WHERE l.origin = m.origin)
    ON CONFLICT DO NOTHING;
    PERFORM cozesync.links_changed();
END
$$;
COMMENT ON FUNCTION cozesync.pause(text) IS 'stop the links of this node, all or those with one peer; nothing is lost';
-- Only who manages the group may interrupt a link.
REVOKE ALL ON FUNCTION cozesync.pause(text) FROM PUBLIC;

CREATE FUNCTION cozesync.resume(node_name text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM cozesync.paused_link p
    WHERE resume.node_name IS NULL OR p.peer = cozesync.member_origin(resume.node_name);
    IF resume.node_name IS NOT NULL THEN
        PERFORM cozesync.member_origin(resume.node_name);
    END IF;
    PERFORM cozesync.links_changed();
END
$$;
COMMENT ON FUNCTION cozesync.resume(text) IS 'restart links of this node that were paused, all or those with one peer';
-- Only who manages the group may restart a link.
REVOKE ALL ON FUNCTION cozesync.resume(text) FROM PUBLIC;

CREATE FUNCTION cozesync.retry(node_name text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF retry.node_name IS NOT NULL THEN
        PERFORM cozesync.member_origin(retry.node_name);
    END IF;
    PERFORM cozesync.retry_link(m.origin)
    FROM cozesync.member m
    WHERE m.dropped_at IS NULL
        AND (retry.node_name IS NULL OR m.node_name = retry.node_name)
        AND NOT EXISTS (SELECT FROM cozesync.local_node l WHERE l.origin = m.origin);
END
$$;
COMMENT ON FUNCTION cozesync.retry(text) IS 'try interrupted links and stopped streams at once, all or those with one peer';
-- Only who manages the group may disturb the workers.
REVOKE ALL ON FUNCTION cozesync.retry(text) FROM PUBLIC;

-- Raises undefined_object for unknown nodes, invalid_parameter_value for unknown modes.
CREATE FUNCTION cozesync.set_link(source text, target text, mode text)
RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    source_origin bigint := cozesync.member_origin(set_link.source);
    target_origin bigint := cozesync.member_origin(set_link.target);
BEGIN
    IF set_link.mode NOT IN ('push', 'pull', 'off') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('invalid link mode "%s"', set_link.mode),
            HINT = 'The modes are: push, pull, off.';
    END IF;
    IF source_origin = target_origin THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'a node has no link to itself';
    END IF;
    INSERT INTO cozesync.link_mode AS l (source, target, mode)
    VALUES (source_origin, target_origin, set_link.mode)
    ON CONFLICT ON CONSTRAINT link_mode_pkey DO UPDATE SET mode = EXCLUDED.mode
    WHERE l.mode <> EXCLUDED.mode;
    PERFORM cozesync.links_changed();
END
$$;
COMMENT ON FUNCTION cozesync.set_link(text, text, text) IS 'how changes get from one node to another: push, pull, or off (over other nodes)';
-- Only who manages the group decides how it is linked.
REVOKE ALL ON FUNCTION cozesync.set_link(text, text, text) FROM PUBLIC;

CREATE FUNCTION cozesync.set_dsn(node_name text, dsn text)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    node_origin bigint;
BEGIN
    PERFORM cozesync.hide_statement('SELECT cozesync.set_dsn(...)');
    node_origin := cozesync.member_origin(set_dsn.node_name);
    PERFORM cozesync.check_dsn(set_dsn.dsn);
    UPDATE cozesync.member m SET dsn = set_dsn.dsn
    WHERE m.origin = node_origin AND m.dsn IS DISTINCT FROM set_dsn.dsn;
    PERFORM cozesync.links_changed();
END
$$;
COMMENT ON FUNCTION cozesync.set_dsn(text, text) IS 'how other nodes reach this one; NULL: they cannot, and it makes its own connections';
-- DSNs may hold passwords, and name whom the server connects to.
REVOKE ALL ON FUNCTION cozesync.set_dsn(text, text) FROM PUBLIC;

-- This database is the node that it claims to be, though it lies elsewhere now: moved, upgraded
-- with pg_upgrade, restored from a dump that holds all that the node had sent.  The original must
-- be gone.  What a restore left out is captured again.
-- Raises object_not_in_prerequisite_state when a peer has shown that transactions are lost: then
-- the database can only go on as a new incarnation, see begin_incarnation().
CREATE FUNCTION cozesync.confirm_identity(new_incarnation boolean DEFAULT false)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    here bigint := cozesync.system_identifier();
    this_database oid;
    node cozesync.local_node;
BEGIN
    SELECT * INTO node FROM cozesync.local_node;
    IF NOT FOUND OR node.state = 'left' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'this database is not a member of a group';
    ELSIF new_incarnation THEN
        PERFORM cozesync.begin_incarnation();
        RETURN;
    END IF;
    IF cozesync.links_closed() IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('this database cannot go on as the node it was: %s', cozesync.links_closed()),
            HINT = 'Call cozesync.confirm_identity(new_incarnation => true); see cozesync.salvage() for what it has not sent.';
    END IF;
    SELECT d.oid INTO this_database
    FROM pg_catalog.pg_database d
    WHERE d.datname = pg_catalog.current_database();
    UPDATE cozesync.local_node l SET system_identifier = here, database_oid = this_database;
    PERFORM cozesync.node_changed();
    PERFORM cozesync.attach_capture(relation) FROM cozesync.fact_tables() AS relation;
    PERFORM cozesync.attach_capture(found.relation)
    FROM (SELECT cozesync.find_relation(s.schema_name, s.table_name) AS relation
          FROM cozesync.synced_table AS s ORDER BY s.schema_name, s.table_name) AS found
    WHERE found.relation IS NOT NULL;
    UPDATE cozesync.member m
    SET system_identifier = here, database_oid = this_database::bigint,
        server_version = pg_catalog.current_setting('server_version_num')::integer
    FROM cozesync.local_node l
    WHERE m.origin = l.origin;
    PERFORM cozesync.links_changed();
END
$$;
COMMENT ON FUNCTION cozesync.confirm_identity(boolean) IS 'says that this database is the node it claims to be, after pg_upgrade or a move; the original must be gone. With true: that it goes on as a new incarnation, after a restore or a promotion that lost transactions';
-- Two databases of one identity are the end of consistency.
REVOKE ALL ON FUNCTION cozesync.confirm_identity(boolean) FROM PUBLIC;

-- --- what a node holds ------------------------------------------------------------------

CREATE FUNCTION cozesync.node_name()
RETURNS text
AS 'MODULE_PATHNAME', 'coze_node_name'
LANGUAGE C STABLE PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.node_name() IS 'the name of this node; NULL if this database is not a member of a group';
REVOKE ALL ON FUNCTION cozesync.node_name() FROM PUBLIC;

CREATE FUNCTION cozesync.vector()
RETURNS jsonb
AS 'MODULE_PATHNAME', 'coze_vector'
LANGUAGE C VOLATILE PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.vector() IS 'what this node holds: of each origin the last transaction';
REVOKE ALL ON FUNCTION cozesync.vector() FROM PUBLIC;

CREATE FUNCTION cozesync.wait_for_vector(vector jsonb, timeout interval DEFAULT NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'coze_wait_for_vector'
LANGUAGE C VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.wait_for_vector(jsonb, interval) IS 'waits until this node holds at least what another did; false when the time is up';
REVOKE ALL ON FUNCTION cozesync.wait_for_vector(jsonb, interval) FROM PUBLIC;

CREATE FUNCTION cozesync.wait_for_sync(timeout interval DEFAULT NULL, node_name text DEFAULT NULL)
RETURNS boolean
AS 'MODULE_PATHNAME', 'coze_wait_for_sync'
LANGUAGE C VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.wait_for_sync(interval, text) IS 'waits until everything committed here before the call is applied and durable on all peers, or on one; false when the time is up';
REVOKE ALL ON FUNCTION cozesync.wait_for_sync(interval, text) FROM PUBLIC;

-- --- how links stand -----------------------------------------------------------------------

CREATE FUNCTION cozesync.link_stats(
    OUT peer bigint, OUT direction text, OUT mode text, OUT state text, OUT pid integer,
    OUT sent_hlc timestamptz, OUT applied_hlc timestamptz,
    OUT lag interval, OUT lag_transactions bigint, OUT lag_bytes bigint,
    OUT transactions bigint, OUT bytes bigint,
    OUT duplicate_transactions bigint, OUT duplicate_bytes bigint,
    OUT heard_at timestamptz, OUT clock_skew interval,
    OUT last_error text, OUT last_error_code text, OUT last_error_at timestamptz,
    OUT stopped_origin bigint, OUT stopped_hlc timestamptz,
    OUT stopped_relation text, OUT stopped_key text,
    OUT held_back_by_pid integer)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'coze_link_stats'
LANGUAGE C VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.link_stats() IS 'the links to and from this node; what cozesync.links is made of';
REVOKE ALL ON FUNCTION cozesync.link_stats() FROM PUBLIC;

CREATE FUNCTION cozesync.log_alarm()
RETURNS text
AS 'MODULE_PATHNAME', 'coze_group_log_alarm'
LANGUAGE C VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.log_alarm() IS 'the node for which the change log is kept, if it is larger than cozesync.max_log_size; NULL if it is not';
REVOKE ALL ON FUNCTION cozesync.log_alarm() FROM PUBLIC;

CREATE TYPE cozesync.stopped_at AS (
    origin text,
    hlc timestamptz,
    relation text,
    key text
);
COMMENT ON TYPE cozesync.stopped_at IS 'the transaction that a stopped stream cannot get past';

CREATE VIEW cozesync.links AS
SELECT
    CASE s.direction WHEN 'out' THEN cozesync.node_name() ELSE m.node_name END AS source,
    CASE s.direction WHEN 'out' THEN m.node_name ELSE cozesync.node_name() END AS target,
    s.mode,
    s.state,
    s.pid,
    s.sent_hlc,
    s.applied_hlc,
    s.lag,
    s.lag_transactions,
    s.lag_bytes,
    s.transactions,
    s.bytes,
    s.duplicate_transactions,
    s.duplicate_bytes,
    s.heard_at,
    s.clock_skew,
    s.last_error,
    s.last_error_code,
    s.last_error_at,
    CASE WHEN s.stopped_origin IS NOT NULL THEN
        ROW(s.stopped_origin::text, s.stopped_hlc, s.stopped_relation, s.stopped_key)::cozesync.stopped_at
    END AS stopped_at,
    s.held_back_by_pid,
    s.direction = 'out' AND m.node_name IS NOT DISTINCT FROM a.kept_for AS log_alarm
FROM (SELECT cozesync.log_alarm() AS kept_for) a
CROSS JOIN cozesync.link_stats() s
JOIN cozesync.member m ON m.origin = s.peer;
COMMENT ON VIEW cozesync.links IS 'the links to and from this node, and what the target lacks';
COMMENT ON COLUMN cozesync.links.log_alarm IS 'is the change log larger than cozesync.max_log_size, and kept for the target?';

-- Monitoring sees no row contents and no DSN here; stopped_at shows a key.
GRANT USAGE ON SCHEMA cozesync TO pg_monitor;
GRANT SELECT ON cozesync.links TO pg_monitor;
GRANT EXECUTE ON FUNCTION cozesync.link_stats(), cozesync.log_alarm(), cozesync.node_name(), cozesync.vector() TO pg_monitor;
