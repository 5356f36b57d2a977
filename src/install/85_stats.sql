-- Counters of this node.

CREATE FUNCTION cozesync.node_stats(OUT captured_transactions bigint, OUT captured_rows bigint,
    OUT applied_transactions bigint, OUT applied_rows bigint, OUT applied_conflicts bigint, OUT log_bytes bigint,
    OUT oldest_unstable_hlc timestamptz, OUT cut timestamptz, OUT horizon timestamptz, OUT held_back_by_pid integer, OUT log_held_by text,
    OUT log_is_too_large boolean)
AS 'MODULE_PATHNAME', 'coze_group_node_stats'
LANGUAGE C VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.node_stats() IS 'counters of this node since the server started';

CREATE VIEW cozesync.stats AS
SELECT m.node_name, s.*, cozesync.clock_leap() AS clock_leap,
       (SELECT count(*) FROM cozesync.conflict) AS conflicts,
       (SELECT coalesce(jsonb_object_agg(t.conflict_type, t.n), '{}')
        FROM (SELECT c.conflict_type, count(*) AS n FROM cozesync.conflict AS c GROUP BY 1) AS t) AS conflicts_by_type
FROM cozesync.local_node AS n
LEFT JOIN cozesync.member AS m USING (origin)
CROSS JOIN cozesync.node_stats() AS s;
COMMENT ON VIEW cozesync.stats IS 'what this node has captured and applied since its server started, and how far it can forget';
COMMENT ON COLUMN cozesync.stats.oldest_unstable_hlc IS 'oldest entry that some member may not have yet, NULL if none';
COMMENT ON COLUMN cozesync.stats.clock_leap IS 'what the machine''s clock has leapt by and is not followed in, NULL if it has not';
COMMENT ON COLUMN cozesync.stats.held_back_by_pid IS 'backend whose commit holds back what may be sent, NULL if none';
COMMENT ON COLUMN cozesync.stats.log_held_by IS 'node that entries of the change log are kept for, being away or behind; NULL if none';
COMMENT ON COLUMN cozesync.stats.log_is_too_large IS 'is the change log above cozesync.max_log_size?';

-- Counters hold no contents of rows.
REVOKE ALL ON cozesync.stats FROM PUBLIC;
REVOKE ALL ON FUNCTION cozesync.node_stats() FROM PUBLIC;
GRANT SELECT ON cozesync.stats TO pg_monitor;
GRANT EXECUTE ON FUNCTION cozesync.node_stats(), cozesync.clock_leap() TO pg_monitor;
