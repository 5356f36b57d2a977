-- Joining a group.  The first half is what the member at the other end, the donor, is
-- asked for; the second is the joining node's own.

-- On the donor.

CREATE FUNCTION cozesync.take_snapshot() RETURNS text
AS 'MODULE_PATHNAME', 'coze_donor_take_snapshot'
LANGUAGE C VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.take_snapshot() IS 'exports a snapshot in which the entries of this node have no holes';

CREATE FUNCTION cozesync.last_version(OUT origin bigint, OUT hlc bigint)
AS 'MODULE_PATHNAME', 'coze_donor_last_version'
LANGUAGE C VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.last_version() IS 'the entry that the last transaction of this session left';

CREATE FUNCTION cozesync.changed_keys(relation regclass, origins bigint[], hlcs bigint[],
    upto_origins bigint[], upto_hlcs bigint[])
RETURNS SETOF text[]
AS 'MODULE_PATHNAME', 'coze_donor_changed_keys'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.changed_keys(regclass, bigint[], bigint[], bigint[], bigint[]) IS
    'keys of a table that entries between two vectors touch; a NULL among them: more than keys can tell';

-- The hlc of the last entry of an origin that the snapshot of the caller shows in the log.
CREATE FUNCTION cozesync.last_logged(origin bigint)
RETURNS bigint
AS 'MODULE_PATHNAME', 'coze_donor_last_logged'
LANGUAGE C STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.last_logged(bigint) IS 'the last entry of an origin in the change log';

-- What this node holds, in the order of origins, as the snapshot of the caller shows it.
CREATE FUNCTION cozesync.held_in_snapshot(OUT origins bigint[], OUT hlcs bigint[])
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH known AS (SELECT origin FROM cozesync.member UNION SELECT origin FROM cozesync.base),
    held AS (
        SELECT o.origin, greatest(
            (SELECT b.hlc FROM cozesync.base AS b WHERE b.origin = o.origin), cozesync.last_logged(o.origin)) AS hlc
        FROM known AS o)
    SELECT coalesce(array_agg(h.origin ORDER BY h.origin), '{}'), coalesce(array_agg(h.hlc ORDER BY h.origin), '{}')
    FROM held AS h WHERE h.hlc IS NOT NULL;
$$;
COMMENT ON FUNCTION cozesync.held_in_snapshot() IS 'the vector that belongs to the snapshot of the caller';

-- Raises what stands against admitting a node of that name.
CREATE FUNCTION cozesync.check_may_admit(node_name text, origin bigint, system_identifier bigint, database_oid bigint)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    other cozesync.member;
BEGIN
    PERFORM cozesync.check_may_change_group();
    SELECT * INTO other FROM cozesync.member AS m
    WHERE m.origin = check_may_admit.origin AND m.dropped_at IS NOT NULL;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('node "%s" was dropped from the group', other.node_name),
            HINT = 'Use cozesync.leave_group() on it, then let it join again.';
    END IF;
    -- Somebody who never became ready, in this very database, is an attempt that failed.
    SELECT * INTO other FROM cozesync.member AS m
    WHERE m.node_name = check_may_admit.node_name AND m.dropped_at IS NULL AND m.origin <> check_may_admit.origin
      AND NOT (m.ready_at IS NULL AND m.system_identifier = check_may_admit.system_identifier
               AND m.database_oid = check_may_admit.database_oid);
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'duplicate_object',
            MESSAGE = format('there is already a node "%s" in this group', check_may_admit.node_name),
            HINT = 'Choose another name, or remove that node with cozesync.drop_node().';
    END IF;
    SELECT * INTO other FROM cozesync.member AS m
    WHERE m.system_identifier = check_may_admit.system_identifier AND m.database_oid = check_may_admit.database_oid
      AND m.dropped_at IS NULL AND m.ready_at IS NOT NULL AND m.origin <> check_may_admit.origin;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'duplicate_object',
            MESSAGE = format('this database is already node "%s" of the group', other.node_name),
            HINT = format('Remove that node first: SELECT cozesync.drop_node(%L)', other.node_name);
    END IF;
END
$$;
COMMENT ON FUNCTION cozesync.check_may_admit(text, bigint, bigint, bigint) IS 'an error if a node cannot be admitted to the group';

-- Make a node a member.  Calling it again with the same origin admits it anew, so that
-- who was interrupted learns by which entry it was admitted.
CREATE FUNCTION cozesync.admit_node(node_name text, origin bigint, dsn text, system_identifier bigint,
    database_oid bigint, server_version integer, direct_links boolean)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    free_slot integer;
    least_nodes integer;
BEGIN
    -- No table is added between this and the entry: its rows might miss the new node.
    LOCK TABLE cozesync.synced_table IN SHARE UPDATE EXCLUSIVE MODE;
    PERFORM cozesync.check_may_admit(admit_node.node_name, admit_node.origin,
        admit_node.system_identifier, admit_node.database_oid);
    UPDATE cozesync.member AS m SET joined_at = clock_timestamp() WHERE m.origin = admit_node.origin;
    IF FOUND THEN
        RETURN;
    END IF;
    LOCK TABLE cozesync.dropped_member IN SHARE ROW EXCLUSIVE MODE;
    INSERT INTO cozesync.dropped_member (origin)
    SELECT m.origin FROM cozesync.member AS m
    WHERE m.system_identifier = admit_node.system_identifier AND m.database_oid = admit_node.database_oid
      AND m.dropped_at IS NULL
    ON CONFLICT DO NOTHING;
    -- Numbers that a dropped node has drawn may still turn up: its slot is the last choice.
    SELECT s INTO free_slot FROM generate_series(0, (SELECT count(*)::integer FROM cozesync.member)) AS s
    LEFT JOIN cozesync.member AS m ON m.slot = s
    GROUP BY s HAVING count(m.origin) = 0 ORDER BY s LIMIT 1;
    SELECT min(q.max_nodes) INTO least_nodes FROM cozesync.spread_sequence AS q;
    IF free_slot >= least_nodes THEN
        SELECT min(s) INTO free_slot FROM generate_series(0, least_nodes - 1) AS s
        WHERE NOT EXISTS (SELECT FROM cozesync.member AS m WHERE m.slot = s AND m.dropped_at IS NULL);
        IF free_slot IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = 'program_limit_exceeded',
                MESSAGE = format('sequences are spread over %s nodes and all of them are taken', least_nodes),
                HINT = 'Spread them over more nodes with cozesync.spread_sequences().';
        END IF;
    END IF;
    INSERT INTO cozesync.member (origin, node_name, dsn, system_identifier, database_oid, server_version, slot, only_via)
    SELECT admit_node.origin, admit_node.node_name, admit_node.dsn, admit_node.system_identifier,
           admit_node.database_oid, admit_node.server_version, free_slot, CASE WHEN NOT admit_node.direct_links THEN n.origin END
    FROM cozesync.local_node AS n;
    INSERT INTO cozesync.link_mode (source, target, mode)
    SELECT pair.source, pair.target, 'off'
    FROM cozesync.local_node AS n, cozesync.member AS m,
         LATERAL (VALUES (m.origin, admit_node.origin), (admit_node.origin, m.origin)) AS pair (source, target)
    WHERE m.dropped_at IS NULL AND m.origin <> admit_node.origin AND m.origin <> n.origin
      AND (NOT admit_node.direct_links OR m.only_via IS NOT NULL);
END
$$;
COMMENT ON FUNCTION cozesync.admit_node(text, bigint, text, bigint, bigint, integer, boolean) IS 'make a node a member of the group; called by the node';

-- Is a node that catches up still a member?  Raises undefined_object with the reason if not.
CREATE FUNCTION cozesync.check_admitted(node_name text, origin bigint) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    IF EXISTS (SELECT FROM cozesync.member AS m WHERE m.origin = check_admitted.origin AND m.dropped_at IS NOT NULL) THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('node "%s" was dropped from the group while it joined', check_admitted.node_name),
            HINT = 'Use cozesync.leave_group(), then join again.';
    ELSIF NOT EXISTS (SELECT FROM cozesync.member AS m WHERE m.origin = check_admitted.origin)
        AND EXISTS (SELECT FROM cozesync.member AS m WHERE m.node_name = check_admitted.node_name AND m.dropped_at IS NULL) THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('another database has joined as node "%s" at the same time', check_admitted.node_name),
            HINT = 'Use cozesync.leave_group(), then join under another name.';
    END IF;
END
$$;
COMMENT ON FUNCTION cozesync.check_admitted(text, bigint) IS 'an error if a node that joins is not a member of the group any more';

-- What the role in other nodes' DSNs needs: to link, and to be asked about tables.  A role
-- that nodes join with must be able to read all tables besides (pg_read_all_data).
CREATE FUNCTION cozesync.grant_to_peer(role regrole) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    granted regprocedure;
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA cozesync TO %s', role);
    FOR granted IN
        SELECT p.oid FROM pg_proc AS p
        WHERE p.pronamespace = 'cozesync'::regnamespace
          AND p.proname IN ('hello', 'receive', 'send', 'about', 'describe_table', 'next_number', 'let_go', 'describe_resolver',
                            'check_may_admit', 'hide_parameters', 'admit_node', 'admit_incarnation', 'give_other_slot', 'check_admitted', 'last_version', 'take_snapshot',
                            'held_in_snapshot', 'last_logged', 'changed_keys')
    LOOP
        EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO %s', granted, role);
    END LOOP;
END
$$;
COMMENT ON FUNCTION cozesync.grant_to_peer(regrole) IS 'grants a role what it needs to be named in the DSN of this node';

-- On the joining node.

-- Join a group through the member at via; see the manual.  Called again after an
-- interruption it goes on where it was.
CREATE PROCEDURE cozesync.join_group(node_name text, dsn text, via text, copy_schema boolean DEFAULT true,
    copy_data boolean DEFAULT true, direct_links boolean DEFAULT true, wait boolean DEFAULT true)
AS 'MODULE_PATHNAME', 'coze_join_group'
LANGUAGE C;
COMMENT ON PROCEDURE cozesync.join_group(text, text, text, boolean, boolean, boolean, boolean) IS
    'join a group through one of its members: schema, data, then the stream';

-- A table that the donor syncs, if it exists here, must be the same and, if rows are to be
-- copied, empty.
CREATE FUNCTION cozesync.check_table_here(schema_name text, table_name text, here_node text, there_node text,
    there jsonb, must_be_empty boolean)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    here jsonb := (SELECT to_jsonb(d) FROM cozesync.describe_table(schema_name, table_name) AS d);
    relation regclass := cozesync.find_relation(schema_name, table_name);
BEGIN
    IF relation IS NULL THEN
        RETURN;
    END IF;
    PERFORM cozesync.check_syncable(relation);
    PERFORM cozesync.check_same_table(schema_name, table_name, here_node, here, there_node, there);
    IF must_be_empty AND NOT (here ->> 'is_empty')::boolean THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('table %s has rows here', relation),
            DETAIL = 'A node that joins takes its rows from the group.',
            HINT = 'Empty the table, or use copy_data => false if its rows are those of the group.';
    END IF;
END
$$;
COMMENT ON FUNCTION cozesync.check_table_here(text, text, text, text, jsonb, boolean) IS 'an error if a table here stands in the way of joining';

-- Begin to take a table over from the donor: from here on nobody else writes to it.
CREATE FUNCTION cozesync.take_on_table(schema_name text, table_name text, here_node text, there_node text,
    there jsonb, must_be_empty boolean)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    relation regclass := cozesync.find_relation(take_on_table.schema_name, take_on_table.table_name);
BEGIN
    IF relation IS NULL THEN
        PERFORM cozesync.check_same_table(take_on_table.schema_name, take_on_table.table_name,
            take_on_table.here_node, '{"exists": false}', take_on_table.there_node, take_on_table.there);
    END IF;
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', relation);
    PERFORM cozesync.check_table_here(take_on_table.schema_name, take_on_table.table_name,
        take_on_table.here_node, take_on_table.there_node, take_on_table.there, take_on_table.must_be_empty);
    PERFORM cozesync.attach_capture(relation);
    INSERT INTO cozesync.join_table (schema_name, table_name) VALUES (take_on_table.schema_name, take_on_table.table_name)
    ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON FUNCTION cozesync.take_on_table(text, text, text, text, jsonb, boolean) IS 'begins to take a table over from the donor';

-- The donor does not sync a table any more that it did when the join began.
CREATE FUNCTION cozesync.give_up_table(schema_name text, table_name text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    relation regclass := cozesync.find_relation(give_up_table.schema_name, give_up_table.table_name);
BEGIN
    IF relation IS NOT NULL THEN
        PERFORM cozesync.detach_capture(relation);
    END IF;
    DELETE FROM cozesync.join_table AS t
    WHERE t.schema_name = give_up_table.schema_name AND t.table_name = give_up_table.table_name;
END
$$;
COMMENT ON FUNCTION cozesync.give_up_table(text, text) IS 'leaves out a table that is not under sync any more';

REVOKE ALL ON FUNCTION cozesync.take_snapshot(), cozesync.last_version(),
    cozesync.changed_keys(regclass, bigint[], bigint[], bigint[], bigint[]), cozesync.held_in_snapshot(),
    cozesync.last_logged(bigint), cozesync.check_may_admit(text, bigint, bigint, bigint), cozesync.check_admitted(text, bigint),
    cozesync.admit_node(text, bigint, text, bigint, bigint, integer, boolean), cozesync.grant_to_peer(regrole),
    cozesync.check_table_here(text, text, text, text, jsonb, boolean),
    cozesync.take_on_table(text, text, text, text, jsonb, boolean), cozesync.give_up_table(text, text) FROM PUBLIC;
REVOKE ALL ON PROCEDURE cozesync.join_group(text, text, text, boolean, boolean, boolean, boolean) FROM PUBLIC;
