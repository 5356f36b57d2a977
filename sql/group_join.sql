--
-- Joining a group: what is checked before anything is changed.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE DATABASE join_a;
CREATE DATABASE join_b;
CREATE DATABASE join_bare;
CREATE DATABASE join_other;
CREATE DATABASE join_latin ENCODING 'LATIN1' TEMPLATE template0;
SELECT format('host=%s port=%s dbname=', split_part(current_setting('unix_socket_directories'), ',', 1),
              current_setting('port')) AS server \gset
\set a :server join_a
\set b :server join_b
\set bare :server join_bare
\set other :server join_other
\set latin :server join_latin

\c join_a
CREATE EXTENSION cozesync;
CREATE TABLE item (id serial PRIMARY KEY, name text NOT NULL, price numeric(10,2));
CREATE TABLE "Odd" ("Key" uuid PRIMARY KEY, tags text[], data jsonb, made timestamptz DEFAULT now());
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TABLE feeling (id int PRIMARY KEY, mood mood, moods mood[], doubled int GENERATED ALWAYS AS (id * 2) STORED);
CREATE TABLE part (id int, d date, PRIMARY KEY (id, d)) PARTITION BY RANGE (d);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2';
CREATE VIEW cheap AS SELECT * FROM item WHERE price < 1;
CREATE TABLE item_note (id int PRIMARY KEY, item int REFERENCES item, note text);
INSERT INTO item (name, price) SELECT 'item ' || g, g / 10.0 FROM generate_series(1, 50) AS g;
INSERT INTO item_note SELECT g, g, repeat('long ', 5000) FROM generate_series(1, 5) AS g;
INSERT INTO "Odd" SELECT md5(g::text)::uuid, ARRAY['a', NULL, g::text], jsonb_build_object('g', g), '2020-01-01' FROM generate_series(1, 3) AS g;
INSERT INTO feeling (id, mood, moods) VALUES (1, 'sad', '{sad,glad}'), (2, NULL, NULL);
INSERT INTO part VALUES (1, '2020-05-05');
SELECT cozesync.create_group('g', 'a', :'a');
SELECT cozesync.add_schema('public');
SELECT cozesync.spread_sequences();
INSERT INTO item (name) VALUES ('after') RETURNING id;

\c join_other
CREATE EXTENSION cozesync;
SELECT cozesync.create_group('h', 'other', :'other');
\c join_latin
CREATE EXTENSION cozesync;

\c join_b
CREATE EXTENSION cozesync;
-- Nothing but a call at the top will do.
BEGIN;
CALL cozesync.join_group('b', :'b', :'a');
ROLLBACK;
-- Arguments.
CALL cozesync.join_group('', :'b', :'a');
CALL cozesync.join_group(NULL, :'b', :'a');
CALL cozesync.join_group('b', :'b', NULL);
CALL cozesync.join_group('b', :'b', 'nonsense');
CALL cozesync.join_group('b', 'nonsense', :'a');
CALL cozesync.join_group('b', '', :'a');
-- DSNs that lead to the wrong place.
CALL cozesync.join_group('b', :'b', :'b');
CALL cozesync.join_group('b', :'a', :'a');
CALL cozesync.join_group('b', :'b', :'bare');
CALL cozesync.join_group('b', :'b', :'latin');
\set VERBOSITY terse
CALL cozesync.join_group('b', :'b', 'host=/nonexistent');
\set VERBOSITY default
-- A name that is taken.
CALL cozesync.join_group('a', :'b', :'a');
-- Other versions and encodings.
UPDATE pg_extension SET extversion = '0.0' WHERE extname = 'cozesync';
CALL cozesync.join_group('b', :'b', :'a');
UPDATE pg_extension SET extversion = '0.1' WHERE extname = 'cozesync';
\c join_latin
\set SHOW_CONTEXT never
CALL cozesync.join_group('b', :'latin', :'a');
\c join_b
\set SHOW_CONTEXT never
-- Schemas that differ: nothing is touched.
CREATE TABLE item (id int PRIMARY KEY, name varchar(20) NOT NULL, cost numeric(10,2));
CALL cozesync.join_group('b', :'b', :'a');
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = 'item'::regclass AND attnum > 0 ORDER BY attnum;
SELECT count(*) FROM cozesync.nodes;
CALL cozesync.join_group('b', :'b', :'a', copy_schema => false);
DROP TABLE item;
SELECT to_regclass('cheap') AS cheap, to_regclass('item_note') AS item_note;
CALL cozesync.join_group('b', :'b', :'a', copy_schema => false);
-- Rows in a synced table.
CREATE TABLE item (id serial PRIMARY KEY, name text NOT NULL, price numeric(10,2));
INSERT INTO item VALUES (1, 'mine');
CALL cozesync.join_group('b', :'b', :'a');
SELECT * FROM item;
SELECT count(*) FROM pg_trigger WHERE tgfoid = 'cozesync.capture'::regproc;
SELECT count(*) FROM cozesync.nodes;
-- Without the right.
CREATE ROLE regress_nobody;
GRANT USAGE ON SCHEMA cozesync TO regress_nobody;
SET ROLE regress_nobody;
CALL cozesync.join_group('b', :'b', :'a');
SELECT cozesync.create_group('g', 'b', NULL);
SELECT * FROM cozesync.nodes;
SELECT dsn FROM cozesync.member;
RESET ROLE;
GRANT EXECUTE ON PROCEDURE cozesync.join_group(text, text, text, boolean, boolean, boolean, boolean) TO regress_nobody;
SET ROLE regress_nobody;
CALL cozesync.join_group('b', :'b', :'a');
RESET ROLE;
-- The donor has noticed nothing of all that.
\c join_a
SELECT node_name, state FROM cozesync.nodes;

-- Now it may.
\c join_b
\set SHOW_CONTEXT never
DELETE FROM item;
CALL cozesync.join_group('b', :'b', :'a');
SELECT node_name, state, is_local, slot FROM cozesync.nodes ORDER BY 1;
SELECT count(*), sum(price) FROM item;
SELECT id, item, length(note) FROM item_note ORDER BY 1;
SELECT * FROM feeling ORDER BY 1;
SELECT "Key", tags, data FROM "Odd" ORDER BY 1;
SELECT tableoid::regclass, * FROM part;
SELECT * FROM cheap LIMIT 1;
SELECT twice(2);
SELECT relation FROM cozesync.tables ORDER BY relation::text COLLATE "C";
SELECT * FROM cozesync.join_progress;
INSERT INTO item (name) VALUES ('from b') RETURNING id % 16 AS id_mod_16;
CALL cozesync.join_group('b', :'b', :'a');
SELECT cozesync.create_group('x', 'b', :'b');
\c join_other
\set SHOW_CONTEXT never
CALL cozesync.join_group('other', :'other', :'a');

-- The donor knows it, and rows flow.
\c join_b
SELECT cozesync.wait_for_sync('30 s');
\c join_a
SELECT cozesync.wait_for_sync('30 s');
SELECT node_name, state, is_local FROM cozesync.nodes ORDER BY 1;
SELECT name FROM item WHERE name LIKE 'from%';
SELECT source, target, mode, state FROM cozesync.links ORDER BY 1;
SELECT applied_transactions > 0 AS applied, held_back_by_pid FROM cozesync.stats;

-- Who monitors sees everything but contents and DSNs.
CREATE ROLE regress_monitor IN ROLE pg_monitor;
SET ROLE regress_monitor;
SELECT count(*) FROM cozesync.nodes;
SELECT count(*) FROM cozesync.links;
SELECT count(*) FROM cozesync.tables;
SELECT count(*) FROM cozesync.join_progress;
SELECT count(*) FROM cozesync.policies;
SELECT count(*) FROM cozesync.stats;
SELECT count(id) FROM cozesync.conflicts;
SELECT local_row FROM cozesync.conflicts;
SELECT dsn FROM cozesync.member;
SELECT cozesync.leave_group();
RESET ROLE;

-- Everything says what it is.
SELECT p.oid::regprocedure FROM pg_proc AS p
WHERE p.pronamespace = 'cozesync'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL
    AND p.proname NOT LIKE 'debug%' ORDER BY 1;
SELECT c.oid::regclass FROM pg_class AS c
WHERE c.relnamespace = 'cozesync'::regnamespace AND c.relkind IN ('r', 'v')
    AND obj_description(c.oid, 'pg_class') IS NULL ORDER BY 1;
-- Nothing is open to everybody but the trigger functions that partitions need.
SELECT p.oid::regprocedure FROM pg_proc AS p
WHERE p.pronamespace = 'cozesync'::regnamespace AND has_function_privilege('regress_nobody', p.oid, 'EXECUTE')
ORDER BY 1;
SELECT c.oid::regclass FROM pg_class AS c
WHERE c.relnamespace = 'cozesync'::regnamespace AND c.relkind IN ('r', 'v')
    AND has_table_privilege('regress_nobody', c.oid, 'SELECT') ORDER BY 1;

-- Leaving, from either end.
\c join_b
\set SHOW_CONTEXT never
SELECT cozesync.leave_group();
SELECT node_name FROM cozesync.nodes;
\c join_a
SELECT node_name, state FROM cozesync.nodes;
SELECT cozesync.leave_group();
SELECT node_name FROM cozesync.nodes;
\c join_other
SELECT cozesync.leave_group();
\c postgres
DROP DATABASE join_a;
DROP DATABASE join_b;
DROP DATABASE join_bare;
DROP DATABASE join_other;
DROP DATABASE join_latin;
DROP ROLE regress_nobody, regress_monitor;
