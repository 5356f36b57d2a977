--
-- Capture: what a transaction did to rows is what the change log says of it.
--
-- Needs a test build.  What must hold is shown in two ways: by the changes, and by
-- differences(), which makes a copy of a table from them and counts how they differ.
-- (g is a generated column wherever there is one.)
--
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE SCHEMA capture_test;
SET search_path = capture_test, public;
CREATE EXTENSION IF NOT EXISTS citext SCHEMA public;
DROP EXTENSION IF EXISTS cozesync CASCADE;
CREATE EXTENSION cozesync;
CREATE FUNCTION write_late(text) RETURNS void
AS '$libdir/cozesync', 'coze_debug_write_late' LANGUAGE C;

CREATE TABLE mark (hlc timestamptz);
INSERT INTO mark VALUES ('-infinity');

-- The changes since the last call, other than of the fixtures.
CREATE FUNCTION news(OUT relation text, OUT operation text, OUT key jsonb, OUT old_row jsonb, OUT new_row jsonb)
RETURNS SETOF record LANGUAGE plpgsql AS $$
DECLARE
    c record;
BEGIN
    FOR c IN SELECT * FROM cozesync.changes((SELECT m.hlc FROM mark m)) LOOP
        relation := replace(c.relation, 'capture_test.', '');
        operation := c.operation; key := c.key; old_row := c.old_row; new_row := c.new_row;
        UPDATE mark SET hlc = c.hlc;
        RETURN NEXT;
    END LOOP;
END $$;

-- What somebody has who makes the changes of a table one by one; in how many rows that differs.
CREATE FUNCTION differences(rel regclass) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    c record;
    n bigint;
    name text := format('%I.%I', nspname, relname) FROM pg_class r JOIN pg_namespace s ON s.oid = relnamespace
                 WHERE r.oid = rel;
BEGIN
    CREATE TEMP TABLE copy (key jsonb PRIMARY KEY, r jsonb);
    FOR c IN SELECT * FROM cozesync.changes() ch WHERE ch.relation = name LOOP
        IF c.operation = 'truncate' THEN
            DELETE FROM copy;
        ELSIF c.operation = 'delete' THEN
            DELETE FROM copy WHERE copy.key = c.key;
        ELSIF c.operation IN ('insert', 'update') THEN
            DELETE FROM copy WHERE copy.key = (SELECT jsonb_object_agg(k, c.old_row->k)
                                               FROM jsonb_object_keys(c.key) k WHERE c.old_row ? k);
            INSERT INTO copy VALUES (c.key, c.new_row) ON CONFLICT (key) DO UPDATE SET r = excluded.r;
        END IF;
    END LOOP;
    EXECUTE format('SELECT count(*) FROM (SELECT to_jsonb(t) - ''g'' r FROM %s t) t FULL JOIN copy c ON t.r = c.r'
                   ' WHERE t.r IS NULL OR c.r IS NULL', rel) INTO n;
    DROP TABLE copy;
    RETURN n;
END $$;

-- Nobody's member: nothing happens.
CREATE TABLE t (id int PRIMARY KEY, v int, e text);
SELECT cozesync.attach_capture('t');
INSERT INTO t VALUES (0, 0, 'before');
DELETE FROM t;
TRUNCATE t;
SELECT count(*) FROM cozesync.log_1;
SELECT * FROM cozesync.changes();
SELECT cozesync.create_group('capture', 'here', NULL);
SELECT cozesync.attach_capture('t');

-- All kinds of change.
INSERT INTO t VALUES (1, 1, 'one'), (2, 2, NULL);
UPDATE t SET v = v * 10;
UPDATE t SET v = v WHERE id = 1;
UPDATE t SET id = 3 WHERE id = 2;
DELETE FROM t WHERE id = 1;
SELECT * FROM news();
TRUNCATE t;
INSERT INTO t VALUES (4, 4, 'four') ON CONFLICT (id) DO UPDATE SET v = t.v + excluded.v;
INSERT INTO t VALUES (4, 4, 'four') ON CONFLICT (id) DO UPDATE SET v = t.v + excluded.v;
INSERT INTO t VALUES (4, 4, 'four') ON CONFLICT DO NOTHING;
MERGE INTO t USING (VALUES (4), (5), (6)) s(id) ON t.id = s.id
WHEN MATCHED THEN UPDATE SET e = 'matched'
WHEN NOT MATCHED AND s.id = 5 THEN INSERT VALUES (5, 5, 'merged');
WITH d AS (DELETE FROM t WHERE id = 4 RETURNING *) INSERT INTO t SELECT id + 3, v, e FROM d;
COPY t FROM stdin;
8	8	copied
\.
SELECT * FROM news();
-- One transaction is one entry; one that changed nothing leaves none.
BEGIN;
INSERT INTO t VALUES (9, 9, 'nine');
UPDATE t SET v = 90 WHERE id = 9;
COMMIT;
BEGIN;
SELECT 1 AS nothing;
COMMIT;
BEGIN;
INSERT INTO t VALUES (10);
ROLLBACK;
SELECT count(DISTINCT hlc), count(DISTINCT xid), count(*) FROM cozesync.changes((SELECT hlc FROM mark));
SELECT * FROM news();
SELECT differences('t');

-- Cursors.
BEGIN;
DECLARE c CURSOR FOR SELECT * FROM t ORDER BY id FOR UPDATE;
FETCH 2 FROM c;
UPDATE t SET e = 'current' WHERE CURRENT OF c;
SAVEPOINT a;
FETCH 1 FROM c;
DELETE FROM t WHERE CURRENT OF c;
ROLLBACK TO a;
COMMIT;
SELECT * FROM news();

-- Rows that replication itself writes are not captured.
BEGIN;
SET LOCAL session_replication_role = replica;
INSERT INTO t VALUES (20, 20, 'replica');
COMMIT;
DELETE FROM t WHERE id = 20;
SELECT * FROM news();

-- Savepoints.
BEGIN;
INSERT INTO t VALUES (30, 0, 'kept');
SAVEPOINT a;
INSERT INTO t VALUES (31, 0, 'lost');
SAVEPOINT b;
INSERT INTO t VALUES (32, 0, 'lost');
RELEASE b;
ROLLBACK TO a;
INSERT INTO t VALUES (33, 0, 'kept');
SAVEPOINT c;
SAVEPOINT d;
UPDATE t SET v = 1 WHERE id = 33;
SAVEPOINT e;
UPDATE t SET v = 2 WHERE id = 33;
ROLLBACK TO e;
RELEASE d;
INSERT INTO t VALUES (34, 0, 'kept');
ROLLBACK TO c;
INSERT INTO t VALUES (35, 0, 'kept');
COMMIT;
SELECT * FROM news();

-- The same when the buffer overflows at every level; chunks of what is rolled back vanish.
SET cozesync.capture_buffer = '16kB';
CREATE FUNCTION many(first int, n int) RETURNS void LANGUAGE sql AS
$$INSERT INTO t SELECT i, i, repeat('x', 200) FROM generate_series(first, first + n - 1) i$$;
BEGIN;
SELECT many(1000, 40);			-- in memory
SAVEPOINT a;
SELECT many(2000, 400);			-- overflows, lost
SAVEPOINT b;
SELECT many(3000, 400);			-- overflows, lost with its parent
RELEASE b;
ROLLBACK TO a;
SELECT many(4000, 400);			-- kept
SAVEPOINT b;
SELECT many(5000, 1);
RELEASE b;
SAVEPOINT b;
SELECT many(6000, 400);			-- lost
ROLLBACK TO b;
SAVEPOINT c;
SAVEPOINT d;
SELECT many(7000, 400);			-- kept, three levels down
RELEASE d;
SELECT many(8000, 10);
RELEASE c;
RELEASE a;
SELECT many(9000, 10);
COMMIT;
SELECT differences('t');
SELECT id / 1000 AS run, count(*) FROM t WHERE id >= 1000 GROUP BY 1 ORDER BY 1;
-- Many short subtransactions below a full buffer; half are rolled back.
DO $$
BEGIN
    PERFORM many(10000, 100);
    FOR i IN 1..3000 LOOP
        BEGIN
            PERFORM many(20000 + i, 1);
            IF i % 2 = 0 THEN
                RAISE EXCEPTION 'no';
            END IF;
        EXCEPTION WHEN raise_exception THEN NULL;
        END;
    END LOOP;
    -- chunks are full, however many subtransactions they come from
    IF pg_relation_size('cozesync.chunk_1') > 2000000 THEN
        RAISE EXCEPTION 'the log has % bytes', pg_relation_size('cozesync.chunk_1');
    END IF;
    IF (SELECT sum(total_bytes) FROM pg_backend_memory_contexts WHERE name IN ('cozesync capture', 'cozesync chunks')) > 200000 THEN
        RAISE EXCEPTION 'too much memory';
    END IF;
END $$;
SELECT differences('t');
RESET cozesync.capture_buffer;
TRUNCATE t;
SELECT count(*) FROM news() WHERE operation <> 'insert';

-- Nested triggers: those of row 1 change row 2 before it has its turn.
CREATE FUNCTION nested() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_ARGV[0] = 'update' AND NEW.id = 1 THEN
        UPDATE t SET v = v + 100 WHERE id = 2;
    ELSIF TG_ARGV[0] = 'delete' AND NEW.id = 1 THEN
        DELETE FROM t WHERE id = 2;
    ELSIF TG_ARGV[0] = 'own' AND NEW.v < 1000 THEN
        UPDATE t SET v = 1000 WHERE id = NEW.id;
    ELSIF TG_ARGV[0] = 'return' AND OLD.id = 1 THEN
        INSERT INTO t VALUES (2, 7, 'back');
    ELSIF TG_ARGV[0] = 'return and go' AND OLD.id = 1 THEN
        INSERT INTO t VALUES (2, 7, 'back');
        DELETE FROM t WHERE id = 2;
    ELSIF TG_ARGV[0] = 'aborted' AND NEW.id = 1 THEN
        BEGIN
            UPDATE t SET v = v + 100 WHERE id = 2;
            RAISE EXCEPTION 'no';
        EXCEPTION WHEN raise_exception THEN NULL;
        END;
    ELSIF TG_ARGV[0] = 'locked' AND NEW.id = 1 THEN
        BEGIN
            PERFORM FROM t WHERE id = 2 FOR KEY SHARE;
        EXCEPTION WHEN raise_exception THEN NULL;
        END;
        BEGIN
            UPDATE t SET v = v + 100 WHERE id = 2;
        EXCEPTION WHEN raise_exception THEN NULL;
        END;
    END IF;
    RETURN NULL;
END $$;
-- Each in a transaction of its own behind rows that were there before it.
CREATE PROCEDURE nest(kind text, events text, command text) LANGUAGE plpgsql AS $$
BEGIN
    TRUNCATE t;
    INSERT INTO t VALUES (1, 1, 'one'), (2, 2, 'two');
    COMMIT;
    PERFORM count(*) FROM news();
    EXECUTE format('CREATE TRIGGER nested AFTER %s ON t FOR EACH ROW EXECUTE FUNCTION nested(%L)', events, kind);
    EXECUTE command;
    COMMIT;
    DROP TRIGGER nested ON t;
    COMMIT;
END $$;
CALL nest('update', 'UPDATE', 'UPDATE t SET v = v * 10');
SELECT * FROM news();
SELECT differences('t');
CALL nest('delete', 'UPDATE', 'UPDATE t SET v = v * 10');
SELECT * FROM news();
SELECT differences('t');
CALL nest('own', 'INSERT', 'INSERT INTO t VALUES (3, 3), (4, 4)');
SELECT * FROM news();
SELECT differences('t');
CALL nest('return', 'DELETE', 'DELETE FROM t');
SELECT * FROM news();
SELECT differences('t');
CALL nest('return and go', 'DELETE', 'DELETE FROM t');
SELECT * FROM news();
SELECT differences('t');
CALL nest('return', 'UPDATE', 'UPDATE t SET id = id + 5');
SELECT * FROM news();
SELECT differences('t');
CALL nest('aborted', 'UPDATE', 'UPDATE t SET v = v * 10');
SELECT * FROM news();
SELECT differences('t');
CALL nest('locked', 'UPDATE', 'UPDATE t SET v = v * 10');
SELECT * FROM news();
SELECT differences('t');
-- A BEFORE trigger that makes room deletes before it is inserted, whatever the commands' numbers.
CREATE FUNCTION make_room() RETURNS trigger LANGUAGE plpgsql AS
'BEGIN DELETE FROM t WHERE id = NEW.id; RETURN NEW; END';
CREATE TRIGGER make_room BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION make_room();
INSERT INTO t VALUES (1, 11, 'replaced'), (2, 22, 'replaced');
SELECT * FROM news();
SELECT differences('t');
DROP TRIGGER make_room ON t;

-- Whatever triggers do: random changes, nested and rolled back in part.
CREATE TABLE f (id int PRIMARY KEY, v int, e text);
SELECT cozesync.attach_capture('f');
CREATE FUNCTION r(n int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT floor(random() * n)::int';
CREATE FUNCTION act(depth int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    k int := r(8);
BEGIN
    PERFORM set_config('capture_test.depth', (depth + 1)::text, true);
    BEGIN
        CASE r(9)
            WHEN 0 THEN INSERT INTO f VALUES (k, r(100));
            WHEN 1 THEN INSERT INTO f SELECT r(8), r(100) FROM generate_series(1, 3) ON CONFLICT (id) DO NOTHING;
            WHEN 2 THEN UPDATE f SET v = v + 1000 WHERE id >= k;
            WHEN 3 THEN UPDATE f SET id = r(8) WHERE id = k;
            WHEN 4 THEN UPDATE f SET id = id + 10 WHERE id IN (k, r(8));
            WHEN 5 THEN DELETE FROM f WHERE id >= k OR id = r(8);
            WHEN 6 THEN
                DELETE FROM f WHERE id = k;
                INSERT INTO f VALUES (k, r(100)), (r(8), 5) ON CONFLICT (id) DO UPDATE SET v = f.v + excluded.v;
            WHEN 7 THEN UPDATE f SET id = id % 10 WHERE id >= 10;
            WHEN 8 THEN
                WITH d AS (DELETE FROM f WHERE id <= k RETURNING *)
                INSERT INTO f SELECT id + 20, v FROM d ON CONFLICT DO NOTHING;
        END CASE;
        IF r(4) = 0 THEN
            RAISE EXCEPTION 'no';
        END IF;
    EXCEPTION WHEN unique_violation OR raise_exception OR triggered_data_change_violation OR cardinality_violation THEN NULL;
    END;
    PERFORM set_config('capture_test.depth', depth::text, true);
END $$;
CREATE FUNCTION act_again() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    depth int := coalesce(nullif(current_setting('capture_test.depth', true), ''), '0')::int;
BEGIN
    IF depth < 3 AND r(3) = 0 THEN
        PERFORM act(depth);
    END IF;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;
CREATE TRIGGER a AFTER INSERT OR UPDATE OR DELETE ON f FOR EACH ROW EXECUTE FUNCTION act_again();
CREATE TRIGGER b BEFORE INSERT OR UPDATE OR DELETE ON f FOR EACH ROW EXECUTE FUNCTION act_again();
CREATE CONSTRAINT TRIGGER c AFTER INSERT OR UPDATE OR DELETE ON f DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION act_again();
CREATE PROCEDURE act_often(n int) LANGUAGE plpgsql AS $$
DECLARE
    bad int := 0;
BEGIN
    FOR i IN 1..n LOOP
        PERFORM setseed(i::float / n);
        FOR j IN 1..1 + r(3) LOOP
            PERFORM act(0);
        END LOOP;
        COMMIT;
        IF i % 10 = 0 AND differences('f') <> 0 THEN
            bad := bad + 1;
        END IF;
        COMMIT;
    END LOOP;
    RAISE WARNING '% times different', bad;
END $$;
CALL act_often(300);
DROP TABLE f;
SELECT count(*) > 100 FROM news();

-- Foreign keys act, and so do deferred triggers.
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY, a int REFERENCES parent ON UPDATE CASCADE ON DELETE CASCADE,
    b int REFERENCES parent ON UPDATE SET DEFAULT ON DELETE SET NULL);
SELECT cozesync.attach_capture('parent'), cozesync.attach_capture('child');
INSERT INTO parent VALUES (1), (2), (3);
INSERT INTO child VALUES (11, 1, 2), (12, 2, 3), (13, 3, 1);
SELECT count(*) FROM news();
UPDATE parent SET id = 20 WHERE id = 1;
DELETE FROM parent WHERE id = 3;
SELECT * FROM news();
SELECT differences('parent'), differences('child');
TRUNCATE parent CASCADE;
SELECT * FROM news();

-- Old values of unique indexes, expressions and predicates and all, when they change.
CREATE TABLE u (id int PRIMARY KEY, a text UNIQUE, b text, c int, d int, e int,
    g int GENERATED ALWAYS AS (e * 2) STORED);
CREATE UNIQUE INDEX ON u (lower(b)) WHERE c > 0;
SELECT cozesync.attach_capture('u');
INSERT INTO u VALUES (1, 'a', 'b', 1, 1, 1);
UPDATE u SET d = 2;
UPDATE u SET a = 'A', d = 3;
UPDATE u SET c = 2, b = 'B';
UPDATE u SET id = 2, a = NULL;
SELECT * FROM news();
-- A unique generated column stands for all.
CREATE UNIQUE INDEX ON u (g);
UPDATE u SET d = 4;
SELECT * FROM news();

-- Keys: which one, and that equal is what its index calls equal.
CREATE TABLE k1 (a int, b int NOT NULL, c int NOT NULL, d int NOT NULL, PRIMARY KEY (c, a));
CREATE TABLE k2 (a int NOT NULL, b int NOT NULL, c int NOT NULL);
CREATE UNIQUE INDEX k2_z ON k2 (c);
CREATE UNIQUE INDEX k2_b ON k2 (b, a);
CREATE UNIQUE INDEX k2_partial ON k2 (a) WHERE a > 0;
CREATE UNIQUE INDEX k2_a_expression ON k2 ((a + 1));
ALTER TABLE k2 ADD CONSTRAINT k2_a_deferrable UNIQUE (a) DEFERRABLE;
SELECT cozesync.attach_capture('k1'), cozesync.attach_capture('k2');
INSERT INTO k1 VALUES (1, 2, 3, 4);
INSERT INTO k2 VALUES (1, 2, 3);
SELECT * FROM news();
ALTER TABLE k2 REPLICA IDENTITY USING INDEX k2_z;
UPDATE k2 SET b = 9;
SELECT * FROM news();
CREATE TABLE ci (id citext PRIMARY KEY, n numeric UNIQUE, v int);
SELECT cozesync.attach_capture('ci');
INSERT INTO ci VALUES ('a', 1.0, 1);
UPDATE ci SET id = 'A';
UPDATE ci SET id = 'b', n = 1.00;
DELETE FROM ci;
SELECT * FROM news();
CREATE TABLE no_key (a int);
SELECT cozesync.attach_capture('no_key');
INSERT INTO no_key VALUES (1);
DROP TABLE no_key;

-- Dropped and generated columns are left out; DDL shows at once, in the same transaction too.
CREATE TABLE d (a int, gone int, id int PRIMARY KEY, g int GENERATED ALWAYS AS (id + 1) STORED, v text);
ALTER TABLE d DROP COLUMN gone;
SELECT cozesync.attach_capture('d');
BEGIN;
INSERT INTO d (a, id, v) VALUES (1, 1, 'x');
ALTER TABLE d ADD COLUMN w int DEFAULT 7;
UPDATE d SET v = 'y';
ALTER TABLE d ALTER COLUMN a TYPE text USING 'a' || a;
UPDATE d SET v = 'z';
SAVEPOINT a;
ALTER TABLE d RENAME TO dd;
ALTER TABLE dd RENAME COLUMN v TO vv;
INSERT INTO dd (id) VALUES (2);
ROLLBACK TO a;
INSERT INTO d (id) VALUES (3);
ALTER TABLE d DROP COLUMN a;
DELETE FROM d WHERE id = 1;
COMMIT;
SELECT * FROM news();
-- What was rolled back left no descriptor.
SELECT count(*), count(DISTINCT hash) FROM cozesync.descriptor
    WHERE encode(payload, 'escape') LIKE '%capture_test%' AND encode(payload, 'escape') LIKE '%vv%';
CREATE TYPE mood AS ENUM ('well', 'so so');
CREATE TABLE m (id int PRIMARY KEY, m mood);
SELECT cozesync.attach_capture('m');
INSERT INTO m VALUES (1, 'well');
ALTER TYPE mood RENAME VALUE 'well' TO 'good';
ALTER TYPE mood RENAME TO temper;
UPDATE m SET m = 'good';
SELECT * FROM news();
ALTER TABLE m SET UNLOGGED;
UPDATE m SET m = 'good';
SELECT * FROM news();

-- Other people's operators and functions are not met on the way.
CREATE SCHEMA evil;
CREATE FUNCTION evil.boom(int, int) RETURNS bool LANGUAGE plpgsql AS $$BEGIN RAISE 'boom'; END$$;
CREATE FUNCTION evil.boom(bigint, bigint) RETURNS bool LANGUAGE plpgsql AS $$BEGIN RAISE 'boom'; END$$;
CREATE OPERATOR evil.= (LEFTARG = int, RIGHTARG = int, FUNCTION = evil.boom);
CREATE OPERATOR evil.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.boom);
CREATE FUNCTION evil.to_jsonb(anyelement) RETURNS jsonb LANGUAGE plpgsql AS $$BEGIN RAISE 'boom'; END$$;
BEGIN;
SET LOCAL search_path = evil, pg_catalog, capture_test;
INSERT INTO t VALUES (50, 50, 'fifty');
UPDATE t SET v = 51 WHERE id OPERATOR(pg_catalog.=) 50;
SELECT count(*) > 1000 FROM cozesync.changes();
SELECT cozesync.detach_capture('t');
SELECT cozesync.attach_capture('t');
COMMIT;
SELECT operation, new_row FROM news();

-- Types: what goes in comes out.
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE pair AS (a int, b text);
CREATE TABLE ty (id uuid PRIMARY KEY, a bool, b "char", c int2, d int8, e oid, f real, g float8, h numeric(30, 10),
    i text, j varchar(9), k char(5), l bytea, m date, n time, o timetz, p timestamp, q timestamptz, r interval,
    s json, t jsonb, u int[], v text[], w inet, x cidr, y macaddr, z bit(3), aa varbit, ab point, ac box,
    ad tsvector, ae int4range, af tstzrange, ag temper, ah positive, ai pair, aj name, ak regclass, al citext,
    am positive[], an temper[], ao pair[]);
SELECT cozesync.attach_capture('ty');
SET timezone = 'UTC';
INSERT INTO ty VALUES ('00000000-0000-0000-0000-000000000001', true, 'c', -2, 1234567890123, 4000000000, 1.5, -0.1,
    12345678901234567890.0123456789, E'text\n"quoted"', 'varchar', 'char', '\x00ff', '2020-02-29', '12:34:56.789',
    '12:34:56+02', '2020-02-29 12:34:56.789', 'infinity', '1 year 2 days 3 seconds', '{"a": [1, null]}',
    '{"a": [1, null]}', '{1,NULL,3}', '{a,"b c",NULL}', '10.0.0.1/8', '10.0.0.0/8', '01:02:03:04:05:06',
    B'101', B'1', '(1,2)', '(1,2),(3,4)', 'a:1 b:2', '[1,5)', '[2020-01-01,2020-01-02)', 'good', 5,
    '(1,"a b")', 'a name', 'pg_class', 'CiText', '{1,2}', '{good,"so so"}', '{"(1,a)","(2,b)"}');
INSERT INTO ty (id) VALUES ('00000000-0000-0000-0000-000000000002');
SELECT c.key, c.value FROM news() n, jsonb_each(n.new_row) c WHERE n.key->>'id' LIKE '%1';
DROP TABLE ty;
-- After that the log can still be read.
SELECT operation, key, new_row->'ag' AS ag, new_row->'ai' AS ai, new_row->'an' AS an
FROM cozesync.changes() WHERE relation = 'capture_test.ty' ORDER BY key;
DROP TYPE pair;
DROP TYPE temper CASCADE;
SELECT operation, key, new_row->'ag' AS ag, new_row->'ai' AS ai, new_row->'an' AS an
FROM cozesync.changes() WHERE relation = 'capture_test.ty' ORDER BY key;

-- As many columns as a table can have, and large values.
DO $$
BEGIN
    EXECUTE (SELECT format('CREATE TABLE wide (%s)', string_agg(format('c%s int2', i), ', ')) FROM generate_series(1, 1600) i);
    ALTER TABLE wide ADD PRIMARY KEY (c1600);
END $$;
SELECT cozesync.attach_capture('wide');
INSERT INTO wide (c1, c2, c1600) VALUES (1, 2, 3);
UPDATE wide SET c3 = 3, c1600 = 4;
SELECT operation, key, new_row->'c3' AS c3, (SELECT count(*) FROM jsonb_object_keys(new_row)) FROM news();
CREATE TABLE large (id int PRIMARY KEY, a text, b bytea);
ALTER TABLE large ALTER b SET STORAGE EXTERNAL;
SELECT cozesync.attach_capture('large');
INSERT INTO large SELECT 1, repeat('0123456789', 100000), decode(repeat('00ff', 500000), 'hex');
UPDATE large SET id = 2;
SELECT operation, key, md5(new_row->>'a') = md5(a) AND md5(new_row->>'b') = md5(b::text) AS same FROM news(), large;
SELECT differences('large');

-- Partitions.
CREATE TABLE p (id int, k int, v text, g int GENERATED ALWAYS AS (id + k) STORED, PRIMARY KEY (k, id)) PARTITION BY RANGE (k);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
CREATE TABLE p2 (g int GENERATED ALWAYS AS (id + k) STORED, v text, gone int, k int NOT NULL, id int NOT NULL);
ALTER TABLE p2 DROP COLUMN gone;
SELECT cozesync.attach_capture('p');
ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (10) TO (20);
CREATE TABLE p3 PARTITION OF p FOR VALUES FROM (20) TO (30) PARTITION BY RANGE (id);
CREATE TABLE p31 PARTITION OF p3 FOR VALUES FROM (0) TO (10);
CREATE TABLE ref (id int PRIMARY KEY, k int, pid int, FOREIGN KEY (k, pid) REFERENCES p ON UPDATE CASCADE);
SELECT cozesync.attach_capture('ref');
INSERT INTO p VALUES (1, 1, 'one'), (2, 11, 'two'), (3, 21, 'three');
INSERT INTO ref VALUES (1, 1, 1);
SELECT * FROM news();
UPDATE p SET k = k + 10 WHERE k < 10;
UPDATE p2 SET v = 'TWO' WHERE id = 2;
UPDATE p2 SET k = 12 WHERE id = 2;
SELECT * FROM news();
SELECT differences('p'), differences('ref');
DROP TABLE ref;
-- TRUNCATE of a partition is the deletion of its rows; of the root it is one change.
TRUNCATE p2;
SELECT * FROM news();
INSERT INTO p VALUES (1, 1, 'one'), (2, 11, 'two');
TRUNCATE p3;
TRUNCATE p;
SELECT operation, key FROM news();
INSERT INTO p VALUES (1, 1, 'one'), (2, 11, 'two'), (3, 21, 'three');
TRUNCATE p1, p;
SELECT operation, key FROM news();
BEGIN;
INSERT INTO p VALUES (1, 1, 'one'), (2, 11, 'two'), (3, 21, 'three');
SAVEPOINT a;
TRUNCATE p;
ROLLBACK TO a;
TRUNCATE p2;
COMMIT;
SELECT operation, key FROM news();
SELECT differences('p');
-- A partition that goes is not captured any more, and one that comes is.
ALTER TABLE p DETACH PARTITION p2;
INSERT INTO p2 VALUES (DEFAULT, 'alone', 12, 5);
TRUNCATE p2;
SELECT operation, key FROM news();
ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (10) TO (20);
INSERT INTO p2 VALUES (DEFAULT, 'back', 12, 5);
TRUNCATE p2;
SELECT operation, key FROM news();
-- Owners of partitioned tables need no right of ours.
CREATE ROLE capture_owner;
GRANT USAGE, CREATE ON SCHEMA capture_test TO capture_owner;
ALTER TABLE p OWNER TO capture_owner;
SET ROLE capture_owner;
CREATE TABLE p4 PARTITION OF p FOR VALUES FROM (40) TO (50);
INSERT INTO p VALUES (4, 44, 'four');
TRUNCATE p4;
SELECT count(*) FROM cozesync.changes();
RESET ROLE;
SELECT operation, key FROM news();
SELECT cozesync.detach_capture('p');
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname LIKE '!cozesync%' AND tgrelid IN (SELECT relid FROM pg_partition_tree('p'));
INSERT INTO p VALUES (5, 45, 'unseen');
TRUNCATE p4;
SELECT * FROM news();

-- TRUNCATE, and what others' triggers put there before ours has its turn.
CREATE TABLE t0 (id int);
CREATE FUNCTION refill() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN INSERT INTO t VALUES (70, 70, 'refilled'); RETURN NULL; END$$;
CREATE TRIGGER refill AFTER TRUNCATE ON t0 EXECUTE FUNCTION refill();
INSERT INTO t VALUES (71, 71, 'goes');
TRUNCATE t0, t;
SELECT operation, key FROM news();
SELECT differences('t');
DROP TABLE t0;
BEGIN;
TRUNCATE t;
COPY t FROM stdin (FREEZE);
72	72	frozen
\.
UPDATE t SET v = v + 1;
COMMIT;
SELECT * FROM news();

-- When capture refuses.
BEGIN;
INSERT INTO t VALUES (80, 80, 'prepared');
PREPARE TRANSACTION 'capture_test';
SELECT count(*) FROM t WHERE id = 80;
BEGIN;
SAVEPOINT a;
INSERT INTO t VALUES (81, 81, 'rolled back');
ROLLBACK TO a;
CREATE TABLE prepared ();
PREPARE TRANSACTION 'capture_test';
COMMIT PREPARED 'capture_test';
BEGIN;
INSERT INTO t VALUES (82, 82, 'early');
SELECT write_late('INSERT INTO capture_test.t VALUES (83, 83, ''late'')');
COMMIT;
BEGIN;
SELECT write_late('INSERT INTO capture_test.t VALUES (83, 83, ''late'')');
COMMIT;
SELECT count(*) FROM t WHERE id >= 80;
SELECT * FROM news();
SELECT cozesync.capture();
CREATE TRIGGER wrong BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION cozesync.capture();
INSERT INTO t VALUES (84);
DROP TRIGGER wrong ON t;

-- Reading.
INSERT INTO t VALUES (90, 90, 'ninety');
INSERT INTO t VALUES (91, 91, 'ninety-one');
SELECT origin, key FROM cozesync.changes((SELECT hlc FROM mark), max_rows => 1);
SELECT origin, key FROM cozesync.changes((SELECT hlc FROM mark), 'here');
SELECT origin, key FROM cozesync.changes(max_rows => 0);
SELECT origin, key FROM cozesync.changes(origin => 'nowhere');
SELECT count(*) FROM cozesync.changes() WHERE relation LIKE 'cozesync.%';

DROP OWNED BY capture_owner CASCADE;
DROP ROLE capture_owner;
SET client_min_messages = error;
DROP SCHEMA capture_test, evil CASCADE;
SELECT cozesync.leave_group();
DROP EXTENSION cozesync;
