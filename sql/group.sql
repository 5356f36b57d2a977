--
-- Making a group, and what cannot be put under sync.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE DATABASE group_one;
CREATE DATABASE group_other;
\c group_one
CREATE EXTENSION cozesync;
SELECT format('host=%s port=%s dbname=', split_part(current_setting('unix_socket_directories'), ',', 1),
              current_setting('port')) AS server \gset
\set here :server group_one
\set there :server group_other

-- Without a group there is nothing to change.
SELECT cozesync.add_schema('public');
SELECT cozesync.drop_node('b');
SELECT cozesync.leave_group();
SELECT count(*) FROM cozesync.nodes;

-- Bad input leaves nothing behind.
SELECT cozesync.create_group('', 'one', NULL);
SELECT cozesync.create_group('  ', 'one', NULL);
SELECT cozesync.create_group(NULL, 'one', NULL);
SELECT cozesync.create_group('g', '', NULL);
SELECT cozesync.create_group('g', NULL, NULL);
SELECT cozesync.create_group('g', 'one', '');
SELECT cozesync.create_group('g', 'one', 'password=secret hosts');
SELECT cozesync.create_group('g', 'one', 'hosts=berlin');
SELECT cozesync.create_group('g', 'one', :'there');
SELECT count(*) FROM cozesync.member;
SELECT count(*) FROM pg_trigger WHERE tgfoid = 'cozesync.capture'::regproc;

-- A DSN that leads nowhere yet may be right all the same.
BEGIN;
\set VERBOSITY terse
SELECT cozesync.create_group('g', 'one', 'host=/nonexistent dbname=group_one password=secret');
\set VERBOSITY default
SELECT node_name, state, is_local, has_dsn FROM cozesync.nodes;
ROLLBACK;
SELECT count(*) FROM cozesync.nodes;

SELECT cozesync.create_group('g', 'one', :'here');
SELECT node_name, state, is_local, has_dsn, slot FROM cozesync.nodes;
SELECT state, group_name, node_name, nodes FROM cozesync.about();
SELECT cozesync.create_group('g', 'one', :'here');
SELECT cozesync.create_group('h', 'two', NULL);
SELECT cozesync.drop_node('nobody');
SELECT cozesync.drop_node('one');
SELECT cozesync.drop_node(NULL);

-- Tables that can be synced, and how often.
CREATE TABLE plain (id int PRIMARY KEY, v text);
CREATE TABLE by_unique (id int NOT NULL UNIQUE, v text);
CREATE TABLE by_identity (id int NOT NULL, v text);
CREATE UNIQUE INDEX by_identity_id ON by_identity (id);
ALTER TABLE by_identity REPLICA IDENTITY USING INDEX by_identity_id;
CREATE TABLE parts (id int, d date, v text, PRIMARY KEY (id, d)) PARTITION BY RANGE (d);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE "odd name" ("the key" int PRIMARY KEY, "a ""b""" text);
SELECT cozesync.add_table('plain');
SELECT cozesync.add_table('plain');
SELECT cozesync.add_table('by_unique');
SELECT cozesync.add_table('by_identity');
SELECT cozesync.add_table('parts');
SELECT cozesync.add_table('"odd name"');
SELECT relation, policy, conflicts FROM cozesync.tables ORDER BY relation::text COLLATE "C";
INSERT INTO plain VALUES (1, 'a');
INSERT INTO by_identity VALUES (1, 'a');
INSERT INTO parts VALUES (1, '2020-06-01', 'a');
INSERT INTO "odd name" VALUES (1, 'a');
SELECT relation, operation, key, new_row FROM cozesync.changes();

-- Tables that cannot.
CREATE TABLE no_key (id int);
SELECT cozesync.add_table('no_key');
CREATE TABLE null_key (id int UNIQUE);
SELECT cozesync.add_table('null_key');
CREATE TABLE partial_key (id int NOT NULL);
CREATE UNIQUE INDEX ON partial_key (id) WHERE id > 0;
SELECT cozesync.add_table('partial_key');
CREATE TABLE expression_key (id text NOT NULL);
CREATE UNIQUE INDEX ON expression_key (lower(id));
SELECT cozesync.add_table('expression_key');
CREATE TABLE deferrable_key (id int PRIMARY KEY DEFERRABLE);
SELECT cozesync.add_table('deferrable_key');
CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY);
SELECT cozesync.add_table('unlogged');
CREATE TEMP TABLE temporary (id int PRIMARY KEY);
SELECT cozesync.add_table('temporary');
CREATE FOREIGN DATA WRAPPER dummy;
CREATE SERVER dummy FOREIGN DATA WRAPPER dummy;
CREATE FOREIGN TABLE far_away (id int) SERVER dummy;
SELECT cozesync.add_table('far_away');
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
SELECT cozesync.add_table('parent');
SELECT cozesync.add_table('child');
SELECT cozesync.add_table('parts_1');
CREATE TABLE excluding (id int PRIMARY KEY, r int4range, EXCLUDE USING gist (r WITH &&));
SELECT cozesync.add_table('excluding');
CREATE TABLE mixed_parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE UNLOGGED TABLE mixed_parts_1 PARTITION OF mixed_parts FOR VALUES FROM (0) TO (9);
SELECT cozesync.add_table('mixed_parts');
CREATE ACCESS METHOD heap_too TYPE TABLE HANDLER heap_tableam_handler;
CREATE TABLE not_heap (id int PRIMARY KEY) USING heap_too;
SELECT cozesync.add_table('not_heap');
CREATE VIEW a_view AS SELECT 1 AS id;
SELECT cozesync.add_table('a_view');
CREATE SEQUENCE a_sequence;
SELECT cozesync.add_table('a_sequence');
SELECT cozesync.add_table('pg_class');
SELECT cozesync.add_table('cozesync.member');
SELECT cozesync.add_table('missing');
SELECT cozesync.add_table(NULL);

-- A schema is taken as far as it can be.
\set VERBOSITY terse
CREATE TABLE one_more (id int PRIMARY KEY);
SELECT cozesync.add_schema('public');
SELECT cozesync.add_schema('missing');
SELECT cozesync.add_schema(NULL);
\set VERBOSITY default
SELECT relation FROM cozesync.tables ORDER BY relation::text COLLATE "C";

-- Taken off again, changes are the node's own.
SELECT cozesync.remove_table('one_more');
SELECT cozesync.remove_table('one_more');
SELECT cozesync.remove_table('no_key');
SELECT cozesync.remove_table(NULL);
INSERT INTO one_more VALUES (1);
SELECT count(*) FROM cozesync.changes() WHERE relation LIKE '%one_more%';
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'one_more'::regclass;

-- Leaving: tables stay and are captured no more.
SELECT cozesync.leave_group();
SELECT cozesync.leave_group();
SELECT count(*) FROM pg_trigger WHERE tgfoid IN ('cozesync.capture'::regproc, 'cozesync.capture_truncate'::regproc);
SELECT count(*) FROM plain;
INSERT INTO plain VALUES (2, 'b');
SELECT cozesync.add_table('one_more');

-- And beginning anew.
SELECT cozesync.create_group('h', 'two', NULL);
SELECT node_name, state, has_dsn FROM cozesync.nodes;
SELECT count(*) FROM cozesync.tables;
SELECT cozesync.add_table('plain');
SELECT count(*) FROM cozesync.changes();
SELECT cozesync.leave_group();

\c postgres
DROP DATABASE group_one;
DROP DATABASE group_other;
