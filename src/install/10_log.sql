-- The change log: a ring of segments, each a table of entry heads and a table of chunks.
-- PLAIN: rows are sized to need no TOAST.  No fillfactor, no vacuum of deletes: rows are
-- only inserted, and a whole segment is truncated.
--
-- The indexes of heads lack some entries of this node (src/log/stream.c).  Their predicate is true
-- and nothing implies it, so that no query by origin and hlc goes through them.  What builds them
-- anew makes them whole.
CREATE FUNCTION cozesync.log_is_sparse(bigint)
RETURNS boolean
AS 'MODULE_PATHNAME', 'coze_log_is_sparse'
LANGUAGE C IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION cozesync.log_is_sparse(bigint) IS 'true: predicate of indexes that do not have all rows and are only for those who know';
-- Nobody else has a use for it.
REVOKE ALL ON FUNCTION cozesync.log_is_sparse(bigint) FROM PUBLIC;

CREATE TABLE cozesync.log_1 (
    origin bigint NOT NULL,
    hlc bigint NOT NULL,
    chunks bigint,
    payload bytea NOT NULL
) WITH (autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_threshold = 2147483647);
ALTER TABLE cozesync.log_1 ALTER payload SET STORAGE PLAIN;
CREATE UNIQUE INDEX log_1_origin_hlc ON cozesync.log_1 (origin, hlc) WHERE cozesync.log_is_sparse(origin);
COMMENT ON TABLE cozesync.log_1 IS 'segment 1 of the change log: heads of entries';
CREATE TABLE cozesync.chunk_1 (
    id bigint NOT NULL,
    seq bigint NOT NULL,
    payload bytea NOT NULL
) WITH (autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_threshold = 2147483647);
ALTER TABLE cozesync.chunk_1 ALTER payload SET STORAGE PLAIN;
CREATE UNIQUE INDEX chunk_1_id_seq ON cozesync.chunk_1 (id, seq);
COMMENT ON TABLE cozesync.chunk_1 IS 'segment 1 of the change log: bodies of large entries';

CREATE TABLE cozesync.log_2 (
    origin bigint NOT NULL,
    hlc bigint NOT NULL,
    chunks bigint,
    payload bytea NOT NULL
) WITH (autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_threshold = 2147483647);
ALTER TABLE cozesync.log_2 ALTER payload SET STORAGE PLAIN;
CREATE UNIQUE INDEX log_2_origin_hlc ON cozesync.log_2 (origin, hlc) WHERE cozesync.log_is_sparse(origin);
COMMENT ON TABLE cozesync.log_2 IS 'segment 2 of the change log: heads of entries';
CREATE TABLE cozesync.chunk_2 (
    id bigint NOT NULL,
    seq bigint NOT NULL,
    payload bytea NOT NULL
) WITH (autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_threshold = 2147483647);
ALTER TABLE cozesync.chunk_2 ALTER payload SET STORAGE PLAIN;
CREATE UNIQUE INDEX chunk_2_id_seq ON cozesync.chunk_2 (id, seq);
COMMENT ON TABLE cozesync.chunk_2 IS 'segment 2 of the change log: bodies of large entries';

CREATE TABLE cozesync.log_3 (
    origin bigint NOT NULL,
    hlc bigint NOT NULL,
    chunks bigint,
    payload bytea NOT NULL
) WITH (autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_threshold = 2147483647);
ALTER TABLE cozesync.log_3 ALTER payload SET STORAGE PLAIN;
CREATE UNIQUE INDEX log_3_origin_hlc ON cozesync.log_3 (origin, hlc) WHERE cozesync.log_is_sparse(origin);
COMMENT ON TABLE cozesync.log_3 IS 'segment 3 of the change log: heads of entries';
CREATE TABLE cozesync.chunk_3 (
    id bigint NOT NULL,
    seq bigint NOT NULL,
    payload bytea NOT NULL
) WITH (autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_threshold = 2147483647);
ALTER TABLE cozesync.chunk_3 ALTER payload SET STORAGE PLAIN;
CREATE UNIQUE INDEX chunk_3_id_seq ON cozesync.chunk_3 (id, seq);
COMMENT ON TABLE cozesync.chunk_3 IS 'segment 3 of the change log: bodies of large entries';

CREATE TABLE cozesync.log_4 (
    origin bigint NOT NULL,
    hlc bigint NOT NULL,
    chunks bigint,
    payload bytea NOT NULL
) WITH (autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_threshold = 2147483647);
ALTER TABLE cozesync.log_4 ALTER payload SET STORAGE PLAIN;
CREATE UNIQUE INDEX log_4_origin_hlc ON cozesync.log_4 (origin, hlc) WHERE cozesync.log_is_sparse(origin);
COMMENT ON TABLE cozesync.log_4 IS 'segment 4 of the change log: heads of entries';
CREATE TABLE cozesync.chunk_4 (
    id bigint NOT NULL,
    seq bigint NOT NULL,
    payload bytea NOT NULL
) WITH (autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_threshold = 2147483647);
ALTER TABLE cozesync.chunk_4 ALTER payload SET STORAGE PLAIN;
CREATE UNIQUE INDEX chunk_4_id_seq ON cozesync.chunk_4 (id, seq);
COMMENT ON TABLE cozesync.chunk_4 IS 'segment 4 of the change log: bodies of large entries';

CREATE TABLE cozesync.log_5 (
    origin bigint NOT NULL,
    hlc bigint NOT NULL,
    chunks bigint,
    payload bytea NOT NULL
) WITH (autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_threshold = 2147483647);
ALTER TABLE cozesync.log_5 ALTER payload SET STORAGE PLAIN;
CREATE UNIQUE INDEX log_5_origin_hlc ON cozesync.log_5 (origin, hlc) WHERE cozesync.log_is_sparse(origin);
COMMENT ON TABLE cozesync.log_5 IS 'segment 5 of the change log: heads of entries';
CREATE TABLE cozesync.chunk_5 (
    id bigint NOT NULL,
    seq bigint NOT NULL,
    payload bytea NOT NULL
) WITH (autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_threshold = 2147483647);
ALTER TABLE cozesync.chunk_5 ALTER payload SET STORAGE PLAIN;
CREATE UNIQUE INDEX chunk_5_id_seq ON cozesync.chunk_5 (id, seq);
COMMENT ON TABLE cozesync.chunk_5 IS 'segment 5 of the change log: bodies of large entries';

CREATE TABLE cozesync.log_6 (
    origin bigint NOT NULL,
    hlc bigint NOT NULL,
    chunks bigint,
    payload bytea NOT NULL
) WITH (autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_threshold = 2147483647);
ALTER TABLE cozesync.log_6 ALTER payload SET STORAGE PLAIN;
CREATE UNIQUE INDEX log_6_origin_hlc ON cozesync.log_6 (origin, hlc) WHERE cozesync.log_is_sparse(origin);
COMMENT ON TABLE cozesync.log_6 IS 'segment 6 of the change log: heads of entries';
CREATE TABLE cozesync.chunk_6 (
    id bigint NOT NULL,
    seq bigint NOT NULL,
    payload bytea NOT NULL
) WITH (autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_threshold = 2147483647);
ALTER TABLE cozesync.chunk_6 ALTER payload SET STORAGE PLAIN;
CREATE UNIQUE INDEX chunk_6_id_seq ON cozesync.chunk_6 (id, seq);
COMMENT ON TABLE cozesync.chunk_6 IS 'segment 6 of the change log: bodies of large entries';

CREATE TABLE cozesync.log_7 (
    origin bigint NOT NULL,
    hlc bigint NOT NULL,
    chunks bigint,
    payload bytea NOT NULL
) WITH (autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_threshold = 2147483647);
ALTER TABLE cozesync.log_7 ALTER payload SET STORAGE PLAIN;
CREATE UNIQUE INDEX log_7_origin_hlc ON cozesync.log_7 (origin, hlc) WHERE cozesync.log_is_sparse(origin);
COMMENT ON TABLE cozesync.log_7 IS 'segment 7 of the change log: heads of entries';
CREATE TABLE cozesync.chunk_7 (
    id bigint NOT NULL,
    seq bigint NOT NULL,
    payload bytea NOT NULL
) WITH (autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_threshold = 2147483647);
ALTER TABLE cozesync.chunk_7 ALTER payload SET STORAGE PLAIN;
CREATE UNIQUE INDEX chunk_7_id_seq ON cozesync.chunk_7 (id, seq);
COMMENT ON TABLE cozesync.chunk_7 IS 'segment 7 of the change log: bodies of large entries';

CREATE TABLE cozesync.log_8 (
    origin bigint NOT NULL,
    hlc bigint NOT NULL,
    chunks bigint,
    payload bytea NOT NULL
) WITH (autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_threshold = 2147483647);
ALTER TABLE cozesync.log_8 ALTER payload SET STORAGE PLAIN;
CREATE UNIQUE INDEX log_8_origin_hlc ON cozesync.log_8 (origin, hlc) WHERE cozesync.log_is_sparse(origin);
COMMENT ON TABLE cozesync.log_8 IS 'segment 8 of the change log: heads of entries';
CREATE TABLE cozesync.chunk_8 (
    id bigint NOT NULL,
    seq bigint NOT NULL,
    payload bytea NOT NULL
) WITH (autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_threshold = 2147483647);
ALTER TABLE cozesync.chunk_8 ALTER payload SET STORAGE PLAIN;
CREATE UNIQUE INDEX chunk_8_id_seq ON cozesync.chunk_8 (id, seq);
COMMENT ON TABLE cozesync.chunk_8 IS 'segment 8 of the change log: bodies of large entries';

-- The prune base: of each origin the last entry at or below the cut, and the vector that it
-- had seen.  Written by the transaction that moves the cut.
CREATE TABLE cozesync.base (
    origin bigint PRIMARY KEY,
    hlc bigint NOT NULL,
    crc bigint NOT NULL,
    seen bytea NOT NULL
);
COMMENT ON TABLE cozesync.base IS 'last pruned entry of each origin';

-- Relation descriptors that entries name by the hash of their content.
CREATE TABLE cozesync.descriptor (
    hash bigint NOT NULL,
    payload bytea NOT NULL
);
CREATE INDEX descriptor_hash ON cozesync.descriptor (hash);
COMMENT ON TABLE cozesync.descriptor IS 'descriptors of captured relations, by content hash; duplicates are harmless';

-- A dump takes the log along: what the rows of a dump hold is what its base and its log
-- say, so that a database made from it neither asks for what it has nor lacks what it
-- still owes.
SELECT pg_catalog.pg_extension_config_dump('cozesync.base', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.descriptor', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.log_1', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.log_2', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.log_3', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.log_4', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.log_5', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.log_6', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.log_7', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.log_8', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.chunk_1', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.chunk_2', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.chunk_3', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.chunk_4', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.chunk_5', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.chunk_6', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.chunk_7', '');
SELECT pg_catalog.pg_extension_config_dump('cozesync.chunk_8', '');

REVOKE ALL ON ALL TABLES IN SCHEMA cozesync FROM PUBLIC;
