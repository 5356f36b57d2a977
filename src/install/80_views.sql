-- Views of the group, for people and for monitoring.

CREATE VIEW cozesync.nodes AS
SELECT m.node_name,
       CASE WHEN m.ready_at IS NULL THEN 'joining'
            WHEN l.needs_copy OR (m.origin = n.origin AND cozesync.links_closed() IS NOT NULL) THEN 'needs_copy'
            WHEN l.is_down THEN 'unreachable'
            ELSE 'ready' END AS state,
       m.origin = n.origin AS is_local,
       m.system_identifier, m.server_version, m.joined_at, m.ready_at, m.slot, m.origin,
       m.dsn IS NOT NULL AS has_dsn
FROM cozesync.member AS m JOIN cozesync.local_node AS n ON n.state <> 'left'
LEFT JOIN (
    SELECT s.peer, bool_or(s.state = 'backing off')
               AND NOT bool_or(s.state IN ('streaming', 'catching up', 'paused')) AS is_down,
           bool_or(s.last_error_code = 'CZ002' AND s.state NOT IN ('streaming', 'catching up')) AS needs_copy
    FROM cozesync.link_stats() AS s GROUP BY s.peer) AS l ON l.peer = m.origin
WHERE m.dropped_at IS NULL
UNION ALL
SELECT r.node_name, 'joining', true, n.system_identifier, current_setting('server_version_num')::integer, NULL, NULL, NULL,
       r.origin, r.dsn IS NOT NULL
FROM cozesync.join_run AS r JOIN cozesync.local_node AS n ON n.state <> 'left'
WHERE NOT EXISTS (SELECT FROM cozesync.member AS m WHERE m.origin = r.origin);
COMMENT ON VIEW cozesync.nodes IS 'members of the group';
COMMENT ON COLUMN cozesync.nodes.node_name IS 'name of the node';
COMMENT ON COLUMN cozesync.nodes.state IS 'joining: not to be written to yet; ready; unreachable: no link with it is up; needs_copy: it has lost transactions and must be dropped and joined anew';
COMMENT ON COLUMN cozesync.nodes.is_local IS 'is it this node?';
COMMENT ON COLUMN cozesync.nodes.slot IS 'which numbers it draws from spread sequences';
COMMENT ON COLUMN cozesync.nodes.has_dsn IS 'can other nodes connect to it?';

CREATE VIEW cozesync.tables AS
SELECT cozesync.find_relation(s.schema_name, s.table_name) AS relation, s.schema_name, s.table_name,
       coalesce((SELECT r.policy FROM cozesync.rules_in_force AS r
                 WHERE r.schema_name = s.schema_name AND r.table_name = s.table_name
                   AND r.column_name IS NULL AND r.conflict_type IS NULL), 'last_update_wins') AS policy,
       (SELECT count(*) FROM cozesync.conflict AS c
        WHERE c.schema_name = s.schema_name AND c.table_name = s.table_name) AS conflicts,
       (SELECT count(*) FROM cozesync.conflict AS c
        WHERE c.schema_name = s.schema_name AND c.table_name = s.table_name AND c.outcome = 'held') AS held_conflicts,
       s.added_at
FROM cozesync.synced_table AS s;
COMMENT ON VIEW cozesync.tables IS 'tables under sync';
COMMENT ON COLUMN cozesync.tables.relation IS 'the table; NULL if it does not exist on this node';
COMMENT ON COLUMN cozesync.tables.policy IS 'how conflicts are decided where no rule for a type or column says otherwise';
COMMENT ON COLUMN cozesync.tables.conflicts IS 'conflicts in the log of this node';

-- An hlc is a timestamptz by another type.
CREATE FUNCTION cozesync.hlc_time(hlc bigint) RETURNS timestamptz
AS 'MODULE_PATHNAME', 'coze_group_hlc_time'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.hlc_time(bigint) IS 'an hlc as the time that it is';
REVOKE ALL ON FUNCTION cozesync.hlc_time(bigint) FROM PUBLIC;

CREATE VIEW cozesync.conflicts AS
SELECT c.id, c.detected_at, cozesync.find_relation(c.schema_name, c.table_name) AS relation,
       c.schema_name, c.table_name, c.key, c.conflict_type, c.policy,
       c.outcome, c.reason, c.local_row, c.remote_row, c.base_row, c.result_row,
       (SELECT m.node_name FROM cozesync.member AS m WHERE m.origin = c.local_origin) AS local_origin,
       cozesync.hlc_time(c.local_hlc) AS local_hlc,
       (SELECT m.node_name FROM cozesync.member AS m WHERE m.origin = c.remote_origin) AS remote_origin,
       cozesync.hlc_time(c.remote_hlc) AS remote_hlc,
       c.resolved_at, c.resolved_by, c.columns
FROM cozesync.conflict AS c;
COMMENT ON VIEW cozesync.conflicts IS 'conflict log of this node: concurrent writes to one key or unique value, and what became of them';
COMMENT ON COLUMN cozesync.conflicts.id IS 'number on this node, for resolve_conflict()';
COMMENT ON COLUMN cozesync.conflicts.relation IS 'the table; NULL if it does not exist any more';
COMMENT ON COLUMN cozesync.conflicts.local_row IS 'the row as it was here; NULL: deleted';
COMMENT ON COLUMN cozesync.conflicts.remote_row IS 'the row as it came; NULL: deleted';
COMMENT ON COLUMN cozesync.conflicts.columns IS 'columns of a merge that the conflict is about; NULL: the whole row';
COMMENT ON COLUMN cozesync.conflicts.base_row IS 'what both had seen, where the policy needs it';

CREATE VIEW cozesync.join_progress AS
SELECT coalesce(cozesync.find_relation(t.schema_name, t.table_name)::text, format('%I.%I', t.schema_name, t.table_name)) AS relation,
       coalesce(t.copied_rows, p.tuples_processed) AS rows,
       coalesce(t.copied_bytes, p.bytes_processed) AS bytes,
       t.of_bytes,
       CASE WHEN r.phase = 'catching up' OR t.held IS NOT NULL THEN 'copied'
            WHEN p.relid IS NOT NULL THEN 'copying'
            ELSE 'waiting' END AS state,
       r.phase, r.last_error
FROM cozesync.join_table AS t CROSS JOIN cozesync.join_run AS r
LEFT JOIN pg_stat_progress_copy AS p
    ON p.relid = cozesync.find_relation(t.schema_name, t.table_name) AND p.command = 'COPY FROM'
        AND p.datname = current_database();
COMMENT ON VIEW cozesync.join_progress IS 'tables that this node copies while it joins';
COMMENT ON COLUMN cozesync.join_progress.of_bytes IS 'size of the table at the donor, to compare bytes with';
COMMENT ON COLUMN cozesync.join_progress.phase IS 'what the whole node is at: admitting, copying, catching up';

CREATE VIEW cozesync.policies AS
SELECT cozesync.find_relation(r.schema_name, r.table_name) AS relation, r.schema_name, r.table_name, r.column_name, r.conflict_type, r.policy,
       r.version_column, r.node_order, r.resolver, r.since
FROM cozesync.rules_in_force AS r;
COMMENT ON VIEW cozesync.policies IS 'conflict rules in force; every other conflict is decided by last_update_wins';

-- Views show no DSN.  Who monitors sees all but what rows contain.
REVOKE ALL ON cozesync.nodes, cozesync.tables, cozesync.conflicts, cozesync.join_progress, cozesync.policies
    FROM PUBLIC;
GRANT USAGE ON SCHEMA cozesync TO pg_monitor;
GRANT SELECT ON cozesync.nodes, cozesync.tables, cozesync.join_progress, cozesync.policies TO pg_monitor;
GRANT SELECT (id, detected_at, relation, schema_name, table_name, conflict_type, policy, outcome, reason, local_origin, local_hlc,
              remote_origin, remote_hlc, resolved_at, resolved_by) ON cozesync.conflicts TO pg_monitor;
GRANT EXECUTE ON FUNCTION cozesync.find_relation(text, text), cozesync.hlc_time(bigint), cozesync.links_closed() TO pg_monitor;
