-- The conflict log.  A conflict is named by relation, key, the version that lost and the
-- version at whose turn that was decided; ids are this node's own.  Versions are (hlc,
-- origin) as in the change log; "remote" is the side that came from elsewhere.
CREATE TABLE cozesync.conflict (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    detected_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    schema_name text NOT NULL,
    table_name text NOT NULL,
    key jsonb NOT NULL,
    conflict_type text NOT NULL CHECK (conflict_type IN ('insert_exists', 'update_update',
        'update_deleted', 'delete_updated', 'delete_deleted', 'unique_violation', 'truncate_write',
        'update_missing', 'delete_missing')),
    policy text NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('kept local', 'took remote', 'merged', 'held',
        'resolved')),
    reason text,
    columns text[],
    loser_origin bigint NOT NULL,
    loser_hlc bigint NOT NULL,
    decided_origin bigint NOT NULL,
    decided_hlc bigint NOT NULL,
    local_origin bigint,
    local_hlc bigint,
    local_row jsonb,
    remote_origin bigint,
    remote_hlc bigint,
    remote_row jsonb,
    base_row jsonb,
    result_row jsonb,
    resolved_at timestamptz,
    resolved_by text,
    CHECK ((outcome = 'resolved') = (resolved_at IS NOT NULL))
);
-- A key may be too long for a btree entry; its digest is not.  It comes first: an entry may lose on
-- a million keys, and a key to a million entries.
CREATE UNIQUE INDEX conflict_name ON cozesync.conflict
    (md5(key::text), loser_origin, loser_hlc, decided_origin, decided_hlc, schema_name, table_name);
CREATE INDEX conflict_detected_at ON cozesync.conflict (detected_at);
CREATE INDEX conflict_decided ON cozesync.conflict (md5(key::text), decided_hlc);
COMMENT ON TABLE cozesync.conflict IS 'conflict log of this node: what lost, to what, with both rows';

-- Base records: states at the cut of keys on which an unfinished conflict straddles it.
-- Written by the transaction that moves the cut.
CREATE TABLE cozesync.base_record (
    schema_name text NOT NULL,
    table_name text NOT NULL,
    key bytea NOT NULL,
    state bytea NOT NULL
);
CREATE INDEX base_record_table ON cozesync.base_record (schema_name, table_name);
ALTER TABLE cozesync.base_record ALTER state SET STORAGE EXTERNAL;
COMMENT ON TABLE cozesync.base_record IS 'states at the cut that pruning keeps, where an unfinished conflict straddles it';

SELECT pg_catalog.pg_extension_config_dump('cozesync.conflict', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.conflict_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.base_record', '');

REVOKE ALL ON cozesync.conflict, cozesync.base_record FROM PUBLIC;

-- Forget conflicts that need nobody any more: all but those that are held.  Age counts from the
-- settling where there was one.  What was decided above the cut may be decided again, and would come
-- back: that stays until all members hold it.
CREATE FUNCTION cozesync.purge_conflicts(before timestamptz)
RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH gone AS (
        DELETE FROM cozesync.conflict
        WHERE coalesce(resolved_at, detected_at) OPERATOR(pg_catalog.<) before AND outcome OPERATOR(pg_catalog.<>) 'held'
          AND decided_hlc OPERATOR(pg_catalog.<=) (SELECT cut FROM cozesync.local_node)
        RETURNING id)
    SELECT pg_catalog.count(*) FROM gone;
$$;
COMMENT ON FUNCTION cozesync.purge_conflicts(timestamptz) IS 'forget settled conflicts older than that, whose writes all members hold; returns how many';
-- Conflicts hold rows of all tables.
REVOKE ALL ON FUNCTION cozesync.purge_conflicts(timestamptz) FROM PUBLIC;
