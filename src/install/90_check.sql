-- The doctor.

-- What about() says on another node.
CREATE FUNCTION cozesync.about_on(node_name text, dsn text) RETURNS jsonb
AS 'MODULE_PATHNAME', 'coze_group_about_on'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.about_on(text, text) IS 'what another node says of itself';

-- Findings about who this database is, and about this server.
CREATE FUNCTION cozesync.check_node() RETURNS TABLE (severity text, object text, finding text, hint text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    node cozesync.local_node;
    workers integer := current_setting('max_worker_processes')::integer;
BEGIN
    SELECT * INTO node FROM cozesync.local_node;
    IF NOT FOUND OR node.state = 'left' THEN
        RETURN QUERY SELECT 'info', 'node', 'this database is not a member of a group',
            'Use cozesync.create_group() on the first node, cozesync.join_group() on all others.';
        RETURN;
    ELSIF NOT cozesync.is_member() THEN
        RETURN QUERY SELECT 'error', 'node', 'this database is not the one that joined the group: all its links are closed',
            'After a move or an upgrade use cozesync.confirm_identity(); to make a copy independent, cozesync.leave_group().';
    ELSIF cozesync.links_closed() LIKE 'another database is linked as%' THEN
        RETURN QUERY SELECT 'error', 'node', 'this database is a copy of one that is running: ' || cozesync.links_closed(),
            'Call cozesync.leave_group() here; or, if this one is to be the node, stop the other and restart this server.';
    ELSIF cozesync.links_closed() IS NOT NULL THEN
        RETURN QUERY SELECT 'error', 'node', 'this database has lost transactions: ' || cozesync.links_closed(),
            'Use cozesync.confirm_identity(new_incarnation => true); cozesync.salvage() has what it had not sent.';
    ELSIF node.state = 'joining' THEN
        RETURN QUERY SELECT 'info', 'node', 'this node is joining its group', 'See cozesync.join_progress.';
    END IF;
    IF workers < 8 THEN
        RETURN QUERY SELECT 'warning', 'max_worker_processes', format('there is room for %s background workers', workers),
            'cozesync takes one for the server and two for each database in a group, and parallel queries take theirs.';
    END IF;
    RETURN QUERY SELECT 'warning', s.name::text, format('%s is %s', s.name, s.setting),
        'A crash of the server can lose or damage what has been committed, and other nodes may have it.'
    FROM pg_settings AS s WHERE s.name IN ('fsync', 'full_page_writes') AND s.setting = 'off';
    RETURN QUERY SELECT 'warning', 'cozesync.max_nodes', format('there are %s members and former members, and room for %s', n, s.setting),
        'Increase cozesync.max_nodes on every node and restart the servers.'
    FROM pg_settings AS s, (SELECT count(*) AS n FROM cozesync.member) AS m
    WHERE s.name = 'cozesync.max_nodes' AND m.n > s.setting::integer * 0.8;
    RETURN QUERY SELECT 'warning', 'change log', format('it takes %s', pg_size_pretty(s.log_bytes)),
        'A member that is away or behind holds it up; see cozesync.nodes and cozesync.links.'
    FROM cozesync.stats AS s, pg_settings AS l
    WHERE l.name = 'cozesync.max_log_size' AND l.setting::bigint >= 0 AND s.log_bytes > pg_size_bytes(l.setting || l.unit);
    RETURN QUERY SELECT 'warning', 'change log', format('process %s holds back what may be sent', s.held_back_by_pid),
        'It has stood in its commit for a while; see pg_stat_activity.'
    FROM cozesync.stats AS s WHERE s.held_back_by_pid IS NOT NULL AND s.horizon < clock_timestamp() - interval '10 s';
    RETURN QUERY SELECT 'warning', 'conflicts', format('%s conflicts are held until somebody settles them', n), 'See cozesync.conflicts and cozesync.resolve_conflict().'
    FROM (SELECT count(*) AS n FROM cozesync.conflict AS c WHERE c.outcome = 'held') AS h WHERE n > 0;
    RETURN QUERY SELECT 'error', format('%I.%I', c.schema_name, c.table_name),
        format('%s rows were not as the change log has them', count(*)), 'Something wrote past capture; compare the nodes, and see cozesync.conflicts.'
    FROM cozesync.conflict AS c WHERE c.conflict_type IN ('update_missing', 'delete_missing') GROUP BY 2;
END
$$;
COMMENT ON FUNCTION cozesync.check_node() IS 'findings about this node and its server';

-- Findings about tables.
CREATE FUNCTION cozesync.check_tables() RETURNS TABLE (severity text, object text, finding text, hint text)
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH synced AS (
        SELECT s.schema_name, s.table_name, format('%I.%I', s.schema_name, s.table_name) AS name,
               cozesync.find_relation(s.schema_name, s.table_name) AS relation
        FROM cozesync.synced_table AS s)
    SELECT 'error', s.name, 'it is under sync and does not exist here', 'Create it as it is on the other nodes.'
    FROM synced AS s WHERE s.relation IS NULL
    UNION ALL
    SELECT 'error', s.name, 'it is under sync and its changes are not captured', 'Use cozesync.confirm_identity(), which captures again what a restore left out.'
    FROM synced AS s WHERE NOT cozesync.has_trigger(s.relation, '!cozesync_capture', false)
    UNION ALL
    SELECT 'error', s.name, 'it cannot be synced any more: ' || w.reason, w.hint
    FROM synced AS s, cozesync.why_not_syncable(s.relation) AS w WHERE w.reason IS NOT NULL
    UNION ALL
    SELECT 'error', s.name, 'its capture is disabled', format('ALTER TABLE %s ENABLE TRIGGER %I', s.name, t.tgname)
    FROM synced AS s JOIN pg_trigger AS t ON t.tgrelid = s.relation AND t.tgname LIKE '!cozesync%' AND t.tgenabled = 'D'
    UNION ALL
    SELECT 'warning', c.oid::regclass::text, 'it is not under sync, unlike other tables of its schema: ' || w.reason, w.hint
    FROM pg_class AS c, cozesync.why_not_syncable(c.oid) AS w
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND w.reason IS NOT NULL
      AND c.relnamespace IN (SELECT x.relnamespace FROM synced AS s JOIN pg_class AS x ON x.oid = s.relation)
      AND NOT EXISTS (SELECT FROM synced AS s WHERE s.relation = c.oid)
    UNION ALL
    SELECT 'warning', s.name, format('trigger %I fires for rows that come from other nodes, too', t.tgname),
        'What it writes to synced tables is then written on every node: ALTER TABLE ... ENABLE TRIGGER lets it fire for users only.'
    FROM synced AS s JOIN pg_trigger AS t ON t.tgrelid = s.relation AND NOT t.tgisinternal
        AND t.tgenabled IN ('A', 'R') AND t.tgname NOT LIKE '!cozesync%'
    UNION ALL
    SELECT 'warning', s.name, format('column %I draws its numbers from sequence %s, which other nodes draw from, too', a.attname, q.sequence),
        'Use cozesync.spread_sequences().'
    FROM synced AS s JOIN pg_attribute AS a ON a.attrelid = s.relation AND a.attnum > 0 AND NOT a.attisdropped,
         LATERAL (SELECT cozesync.sequence_of(s.schema_name, s.table_name, a.attname) AS sequence) AS q
    WHERE q.sequence IS NOT NULL
      AND (SELECT count(*) FROM cozesync.member AS m WHERE m.dropped_at IS NULL) > 1
      AND NOT EXISTS (SELECT FROM cozesync.spread_sequence AS f WHERE f.schema_name = s.schema_name
                      AND f.table_name = s.table_name AND f.column_name = a.attname)
    UNION ALL
    SELECT 'error', m.node_name, format('it draws the same numbers from sequences that are spread as node %s', o.node_name),
        'Let one of the two leave and join again.'
    FROM cozesync.member AS m JOIN cozesync.member AS o ON o.slot = m.slot AND o.origin <> m.origin AND o.origin < m.origin
    WHERE m.dropped_at IS NULL AND o.dropped_at IS NULL AND m.ready_at IS NOT NULL AND o.ready_at IS NOT NULL
      AND EXISTS (SELECT FROM cozesync.spread_sequence)
    UNION ALL
    SELECT 'info', s.name, format('unique index %s can be violated by two nodes at once', i.indexrelid::regclass),
        'The earlier row keeps the value; see unique_violation in cozesync.conflicts.'
    FROM synced AS s JOIN pg_index AS i ON i.indrelid = s.relation AND i.indisunique
    WHERE i.indexrelid <> cozesync.key_index(s.relation)
    UNION ALL
    SELECT 'warning', c.collname, format('collation %I was made with version %s of its library, which is now %s', c.collname,
        c.collversion, pg_collation_actual_version(c.oid)), 'Rebuild the indexes that use it, then ALTER COLLATION ... REFRESH VERSION.'
    FROM pg_collation AS c WHERE c.collversion IS NOT NULL AND c.collversion <> pg_collation_actual_version(c.oid);
$$;
COMMENT ON FUNCTION cozesync.check_tables() IS 'findings about tables under sync';

-- Findings about other members and the links with them.
CREATE FUNCTION cozesync.check_peers() RETURNS TABLE (severity text, object text, finding text, hint text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    peer record;
    here jsonb := (SELECT to_jsonb(a) FROM cozesync.about() AS a);
    there jsonb;
BEGIN
    RETURN QUERY SELECT 'error', format('link %s -> %s', l.source, l.target),
        format('its stream is stopped at %s: %s', (l.stopped_at).hlc, l.last_error),
        'Mend what stands in its way, then cozesync.retry(); or cozesync.skip_entry().'
    FROM cozesync.links AS l WHERE l.stopped_at IS NOT NULL AND l.held_back_by_pid IS NULL;
    RETURN QUERY SELECT 'warning', format('link %s -> %s', l.source, l.target), 'it is paused', 'Use cozesync.resume().'
    FROM cozesync.links AS l WHERE l.state = 'paused';
    RETURN QUERY SELECT DISTINCT ON (m.node_name) CASE WHEN abs(extract(epoch FROM s.clock_skew)) * 1000 > d.setting::numeric THEN 'error' ELSE 'warning' END,
        format('node %s', m.node_name), format('its clock differs from the one here by %s', s.clock_skew),
        'Synchronise the clocks; what comes from too far ahead waits.'
    FROM cozesync.link_stats() AS s JOIN cozesync.member AS m ON m.origin = s.peer, pg_settings AS d
    WHERE d.name = 'cozesync.max_clock_drift' AND abs(extract(epoch FROM s.clock_skew)) > 1;
    FOR peer IN
        SELECT m.node_name, m.dsn FROM cozesync.member AS m
        WHERE m.dropped_at IS NULL AND m.origin <> (SELECT n.origin FROM cozesync.local_node AS n)
        ORDER BY m.node_name
    LOOP
        severity := 'warning';
        object := format('node %s', peer.node_name);
        IF peer.dsn IS NULL THEN
            CONTINUE;
        END IF;
        BEGIN
            there := cozesync.about_on(peer.node_name, peer.dsn);
        EXCEPTION WHEN OTHERS THEN
            finding := 'it cannot be asked: ' || SQLERRM;
            hint := 'Until it comes back it holds up the change log of all members; cozesync.drop_node() if it will not.';
            RETURN NEXT;
            CONTINUE;
        END;
        IF there ->> 'encoding' <> here ->> 'encoding' THEN
            severity := 'error';
            finding := format('its encoding is %s, here it is %s', there ->> 'encoding', here ->> 'encoding');
            hint := 'All databases of a group must have one encoding.';
            RETURN NEXT;
        END IF;
        IF there ->> 'extension_version' <> here ->> 'extension_version' THEN
            finding := format('it has version %s of cozesync, this node has %s', there ->> 'extension_version', here ->> 'extension_version');
            hint := 'Bring both to the same version with ALTER EXTENSION cozesync UPDATE.';
            RETURN NEXT;
        END IF;
        IF there ->> 'state' = 'copy' THEN
            severity := 'error';
            finding := 'its DSN leads to a copy of the database that joined';
            hint := 'See cozesync.check() there.';
            RETURN NEXT;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION cozesync.check_peers() IS 'findings about other members and the links with them';

-- What is not as it should be, on this node and as it sees the others; no row: nothing.
CREATE FUNCTION cozesync.check() RETURNS TABLE (severity text, object text, finding text, hint text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM cozesync.check_preloaded();
    RETURN QUERY SELECT * FROM cozesync.check_node();
    IF cozesync.is_member() THEN
        RETURN QUERY SELECT * FROM cozesync.check_tables();
        RETURN QUERY SELECT * FROM cozesync.check_peers();
    END IF;
END
$$;
COMMENT ON FUNCTION cozesync.check() IS 'what is not as it should be, with the way out';

-- It asks other nodes, and names tables.
REVOKE ALL ON FUNCTION cozesync.about_on(text, text), cozesync.check_node(), cozesync.check_tables(), cozesync.check_peers(),
    cozesync.check() FROM PUBLIC;
