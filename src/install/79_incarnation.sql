-- A node that has lost transactions, since an older state of it was restored or a standby that
-- lagged was promoted, goes on as a new origin: confirm_identity(new_incarnation => true).

-- On the member that admits it.

-- Drop a node and admit its database again as another origin, in one entry, so that at no time
-- the cut may pass what the database has.  Raises object_in_use if the former node lives.
CREATE FUNCTION cozesync.admit_incarnation(group_id uuid, former bigint, origin bigint, system_identifier bigint,
    database_oid bigint, server_version integer)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    was cozesync.member;
BEGIN
    PERFORM cozesync.check_may_change_group();
    SELECT * INTO was FROM cozesync.member AS m WHERE m.origin = admit_incarnation.former;
    IF NOT FOUND OR admit_incarnation.group_id <> (SELECT n.group_id FROM cozesync.local_node AS n) THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('node "%s" does not know this database as a member of its group', cozesync.node_name());
    ELSIF EXISTS (SELECT FROM cozesync.link_stats() AS s WHERE s.peer = was.origin
                  AND s.state IN ('streaming', 'catching up') AND s.heard_at > clock_timestamp() - interval '10 s') THEN
        RAISE EXCEPTION USING ERRCODE = 'object_in_use',
            MESSAGE = format('node "%s" is linked with node "%s", as the node that it was', was.node_name, cozesync.node_name()),
            DETAIL = 'Either it has lost nothing, or another database is that node.',
            HINT = 'In a copy of a node that lives call cozesync.leave_group(), then join under another name.';
    END IF;
    -- as admit_node() does, in its order
    LOCK TABLE cozesync.synced_table IN SHARE UPDATE EXCLUSIVE MODE;
    LOCK TABLE cozesync.dropped_member IN SHARE ROW EXCLUSIVE MODE;
    INSERT INTO cozesync.dropped_member (origin) VALUES (was.origin) ON CONFLICT DO NOTHING;
    PERFORM cozesync.admit_node(was.node_name, admit_incarnation.origin, was.dsn, admit_incarnation.system_identifier,
                                admit_incarnation.database_oid, admit_incarnation.server_version, true);
    -- Linked as it was.
    UPDATE cozesync.member AS m SET only_via = was.only_via
    WHERE m.origin = admit_incarnation.origin AND was.only_via IS NOT NULL;
    INSERT INTO cozesync.link_mode (source, target, mode)
    SELECT CASE WHEN l.source = was.origin THEN admit_incarnation.origin ELSE l.source END,
           CASE WHEN l.target = was.origin THEN admit_incarnation.origin ELSE l.target END, l.mode
    FROM cozesync.link_mode AS l WHERE was.origin IN (l.source, l.target)
    ON CONFLICT (source, target) DO UPDATE SET mode = EXCLUDED.mode;
END
$$;
COMMENT ON FUNCTION cozesync.admit_incarnation(uuid, bigint, bigint, bigint, bigint, integer) IS
    'drop a node that has lost transactions and make its database a member again; called by the node';

-- On the node.

CREATE FUNCTION cozesync.admit_incarnation_on(node_name text, dsn text, former bigint, origin bigint,
    OUT donor bigint, OUT admitted_hlc bigint)
AS 'MODULE_PATHNAME', 'coze_group_admit_incarnation_on'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.admit_incarnation_on(text, text, bigint, bigint) IS
    'be admitted as a new incarnation by another node; NULL if it cannot be reached';

-- This database becomes a node that is copying, whose tables are here as of what the group holds
-- of them.  What the former node had not sent is kept for salvage() and has no part in that: the
-- rows that it touched are fetched anew, with those that the group has changed since.
CREATE FUNCTION cozesync.begin_incarnation() RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    node cozesync.local_node;
    own_name text;
    own bigint := cozesync.new_origin();
    sent bigint;
    origins bigint[];
    hlcs bigint[];
    tables jsonb;
    unsent_ddl text[];
    other record;
    donor bigint;
    admitted_hlc bigint;
    via text;
BEGIN
    IF pg_current_xact_id_if_assigned() IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'active_sql_transaction',
            MESSAGE = 'a node cannot become a new incarnation in a transaction that has changed something';
    END IF;
    PERFORM cozesync.check_preloaded();
    SELECT * INTO node FROM cozesync.local_node FOR UPDATE;
    IF node.state = 'joining' THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'this node is still joining its group',
            HINT = 'See cozesync.join_progress; cozesync.leave_group() gives up.';
    END IF;
    SELECT m.node_name INTO own_name FROM cozesync.member AS m WHERE m.origin = node.origin;

    -- From here on nobody writes, and nothing is applied.
    LOCK TABLE cozesync.dropped_member IN SHARE ROW EXCLUSIVE MODE;
    FOR other IN
        SELECT cozesync.find_relation(s.schema_name, s.table_name) AS relation FROM cozesync.synced_table AS s
        ORDER BY s.schema_name, s.table_name
    LOOP
        IF other.relation IS NOT NULL THEN
            EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', other.relation);
        END IF;
    END LOOP;

    -- What is here as the group has it, and what only this node wrote.
    sent := coalesce(cozesync.time_hlc(cozesync.sent_upto()), 0);
    SELECT array_agg(h.origin ORDER BY h.origin), array_agg(CASE WHEN h.origin = node.origin THEN sent ELSE h.hlc END ORDER BY h.origin)
    INTO origins, hlcs
    FROM (SELECT unnest(i.origins), unnest(i.hlcs) FROM cozesync.held_in_snapshot() AS i) AS h (origin, hlc)
    WHERE h.origin <> node.origin OR sent > 0;
    SELECT jsonb_agg(jsonb_build_array(t.schema_name, t.table_name, k.keys, k.lost))
    INTO tables
    FROM (SELECT s.schema_name, s.table_name, cozesync.find_relation(s.schema_name, s.table_name) AS relation
          FROM cozesync.synced_table AS s) AS t
    CROSS JOIN LATERAL (
        SELECT array_agg(DISTINCT c.key::text) AS keys, coalesce(bool_or(c.key IS NULL), false) AS lost
        FROM cozesync.changed_keys(t.relation, ARRAY[node.origin], ARRAY[sent], ARRAY[node.origin],
                                   ARRAY[9223372036854775807]) AS c (key)) AS k
    WHERE t.relation IS NOT NULL;
    INSERT INTO cozesync.unsent (origin, hlc, xid, relation, operation, key, old_row, new_row)
    SELECT u.* FROM cozesync.unsent_changes() AS u;
    unsent_ddl := ARRAY(
        SELECT c.key[1] FROM cozesync.changed_keys('cozesync.ddl', ARRAY[node.origin], ARRAY[sent],
            ARRAY[node.origin], ARRAY[9223372036854775807]) AS c (key));

    FOR other IN
        SELECT m.node_name, m.dsn FROM cozesync.member AS m
        WHERE m.dropped_at IS NULL AND m.ready_at IS NOT NULL AND m.dsn IS NOT NULL AND m.origin <> node.origin
        ORDER BY m.node_name
    LOOP
        SELECT a.donor, a.admitted_hlc, other.dsn INTO donor, admitted_hlc, via
        FROM cozesync.admit_incarnation_on(other.node_name, other.dsn, node.origin, own) AS a;
        EXIT WHEN donor IS NOT NULL;
    END LOOP;
    IF donor IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'no other member of the group can be asked',
            HINT = 'A new incarnation goes on from what another member holds. If there is no other, call cozesync.drop_node() for each of them.';
    END IF;

    PERFORM cozesync.forget_node();
    DELETE FROM cozesync.ddl AS d WHERE d.ddl_id::text = ANY (unsent_ddl);
    IF FOUND THEN
        RAISE WARNING USING MESSAGE = 'DDL that was executed here has not reached the group and is not known there',
            HINT = 'Where a table is not as it is on the other nodes, last_error in cozesync.join_progress says so.';
    END IF;
    PERFORM cozesync.become_node(own, node.group_id, node.group_name, 'joining');
    INSERT INTO cozesync.join_run (phase, origin, node_name, dsn, via, copy_data, direct_links, donor, admitted_hlc)
    VALUES ('copying', own, own_name, NULL, via, true, true, donor, admitted_hlc);
    INSERT INTO cozesync.join_table (schema_name, table_name, held, stale)
    SELECT t.value ->> 0, t.value ->> 1,
           CASE WHEN NOT (t.value ->> 3)::boolean THEN jsonb_build_array(origins::text, hlcs::text) END,
           ARRAY(SELECT jsonb_array_elements_text(nullif(t.value -> 2, 'null')))
    FROM jsonb_array_elements(tables) AS t;
    PERFORM cozesync.attach_capture(cozesync.find_relation(t.schema_name, t.table_name)) FROM cozesync.join_table AS t;
    RAISE NOTICE USING MESSAGE = format('node "%s" goes on as a new incarnation', own_name),
        HINT = 'See cozesync.join_progress for how far it is, and cozesync.salvage() for what it had not sent.';
END
$$;
COMMENT ON FUNCTION cozesync.begin_incarnation() IS 'lets this database join its group again, with the rows that it has, as another origin';

-- Forget what salvage() shows on a node that is a member.
CREATE FUNCTION cozesync.purge_salvage() RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    n bigint;
BEGIN
    DELETE FROM cozesync.unsent;
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END
$$;
COMMENT ON FUNCTION cozesync.purge_salvage() IS 'forgets what a former incarnation of this node had not sent; returns how many changes that were';

-- Only who manages the group decides who is in it; other nodes are granted admit_incarnation().
REVOKE ALL ON FUNCTION cozesync.admit_incarnation(uuid, bigint, bigint, bigint, bigint, integer),
    cozesync.admit_incarnation_on(text, text, bigint, bigint), cozesync.begin_incarnation(), cozesync.purge_salvage() FROM PUBLIC;
