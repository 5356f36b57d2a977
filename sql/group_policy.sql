--
-- Conflict policies that are taken, and those that make no sense.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE DATABASE group_policy;
\c group_policy
CREATE EXTENSION cozesync;
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE t (id int PRIMARY KEY, version int NOT NULL, maybe int, name text, u int UNIQUE, tags text[], pts point[],
    doc jsonb, doc_text json, amount numeric(10, 2), price money, pos positive, made int GENERATED ALWAYS AS (version * 2) STORED, pt point NOT NULL DEFAULT '(0,0)');
CREATE TABLE parted (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
CREATE TABLE outside (id int PRIMARY KEY, v int);

SELECT cozesync.set_conflict_policy('t', 'hold');
SELECT format('host=%s port=%s dbname=', split_part(current_setting('unix_socket_directories'), ',', 1),
              current_setting('port')) AS server \gset
\set here :server group_policy
SELECT cozesync.create_group('g', 'one', :'here');
SELECT cozesync.add_table('t');
SELECT cozesync.add_table('parted');
SET client_min_messages = notice;

-- Tables.
SELECT cozesync.set_conflict_policy('outside', 'hold');
SELECT cozesync.set_conflict_policy('parted_1', 'hold');
SELECT cozesync.set_conflict_policy('cozesync.member', 'hold');
SELECT cozesync.set_conflict_policy(NULL, 'hold');
SELECT cozesync.set_conflict_policy('parted', 'hold');

-- Words.
SELECT cozesync.set_conflict_policy('t', 'best_wins');
SELECT cozesync.set_conflict_policy('t', NULL);
SELECT cozesync.set_conflict_policy('t', 'hold', 'update_missing');
SELECT cozesync.set_conflict_policy('t', 'hold', 'unique_violation');
SELECT cozesync.set_conflict_policy('t', 'hold', version_column => 'version');
SELECT cozesync.set_conflict_policy('t', 'merge', node_order => ARRAY['one']);

-- The version column.
SELECT cozesync.set_conflict_policy('t', 'highest_version');
SELECT cozesync.set_conflict_policy('t', 'highest_version', version_column => 'nothing');
SELECT cozesync.set_conflict_policy('t', 'highest_version', version_column => 'maybe');
SELECT cozesync.set_conflict_policy('t', 'highest_version', version_column => 'pt');
SELECT cozesync.set_conflict_policy('t', 'highest_version', version_column => 'made');

-- The order of nodes.
SELECT cozesync.set_conflict_policy('t', 'node_order');
SELECT cozesync.set_conflict_policy('t', 'node_order', node_order => '{}');
SELECT cozesync.set_conflict_policy('t', 'node_order', node_order => ARRAY['one', 'two']);
SELECT cozesync.set_conflict_policy('t', 'node_order', node_order => ARRAY['one', 'one']);

-- The resolver.
CREATE FUNCTION wrong_arguments(t, t, text) RETURNS t IMMUTABLE LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION wrong_result(t, t, t, text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $4';
CREATE FUNCTION wrong_set(t, t, t, text) RETURNS SETOF t IMMUTABLE LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION not_immutable(t, t, t, text) RETURNS t STABLE LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION good(earlier t, later t, base t, conflict_type text) RETURNS t IMMUTABLE LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION other(earlier t, later t, base t, conflict_type text) RETURNS t IMMUTABLE LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION not_for_all(t, t, t, text) RETURNS t IMMUTABLE LANGUAGE sql AS 'SELECT $1';
REVOKE ALL ON FUNCTION not_for_all FROM PUBLIC;
CREATE ROLE regress_policy_owner;
ALTER TABLE t OWNER TO regress_policy_owner;
SELECT cozesync.set_conflict_policy('t', 'resolver');
SELECT cozesync.set_conflict_policy('t', 'resolver', resolver => 'wrong_arguments(t, t, text)');
SELECT cozesync.set_conflict_policy('t', 'resolver', resolver => 'wrong_result(t, t, t, text)');
SELECT cozesync.set_conflict_policy('t', 'resolver', resolver => 'wrong_set(t, t, t, text)');
SELECT cozesync.set_conflict_policy('t', 'resolver', resolver => 'not_immutable(t, t, t, text)');
SELECT cozesync.set_conflict_policy('t', 'resolver', resolver => 'not_for_all(t, t, t, text)');
SELECT cozesync.set_conflict_policy('t', 'resolver', 'insert_exists', resolver => 'good(t, t, t, text)');
SELECT cozesync.set_conflict_policy('t', 'resolver', 'update_update', resolver => 'other(t, t, t, text)');
SELECT relation, conflict_type, policy, resolver FROM cozesync.policies WHERE relation = 't'::regclass ORDER BY conflict_type;

-- Columns, without merging and with it.
SELECT cozesync.set_column_policy('t', 'amount', 'delta');
SELECT cozesync.set_conflict_policy('t', 'merge');
SELECT cozesync.set_column_policy('t', 'amount', 'sum');
SELECT cozesync.set_column_policy('t', 'nothing', 'delta');
SELECT cozesync.set_column_policy('t', 'id', 'max');
SELECT cozesync.set_column_policy('t', 'made', 'max');
SELECT cozesync.set_column_policy('t', 'name', 'delta');
SELECT cozesync.set_column_policy('t', 'price', 'delta');
SELECT cozesync.set_column_policy('t', 'pos', 'delta');
SELECT cozesync.set_column_policy('t', 'u', 'delta');
SELECT cozesync.set_column_policy('t', 'name', 'json_merge');
SELECT cozesync.set_column_policy('t', 'doc_text', 'json_merge');
SELECT cozesync.set_column_policy('t', 'name', 'set_merge');
SELECT cozesync.set_column_policy('t', 'pt', 'max');
SELECT cozesync.set_column_policy('outside', 'v', 'max');
SELECT cozesync.set_column_policy('t', 'amount', 'delta');
SELECT cozesync.set_column_policy('t', 'doc', 'json_merge');
SELECT cozesync.set_column_policy('t', 'tags', 'set_merge');
SELECT cozesync.set_column_policy('t', 'u', 'hold');
SELECT cozesync.set_column_policy('t', 'name', 'max');
SELECT cozesync.set_column_policy('t', 'name', 'last_update_wins');
SELECT column_name, conflict_type, policy FROM cozesync.policies WHERE relation = 't'::regclass ORDER BY column_name, conflict_type;

-- A rule for one type leaves the others; without merging there are none for columns.
SELECT cozesync.set_conflict_policy('t', 'last_update_wins', 'unique_violation');
SELECT cozesync.set_conflict_policy('t', 'hold', 'delete_updated');
SELECT column_name, conflict_type, policy FROM cozesync.policies WHERE relation = 't'::regclass ORDER BY column_name, conflict_type;
SELECT cozesync.set_conflict_policy('t', 'highest_version', version_column => 'version');
SELECT column_name, conflict_type, policy, version_column FROM cozesync.policies WHERE relation = 't'::regclass ORDER BY conflict_type;
SELECT relation, policy FROM cozesync.tables ORDER BY relation::text;

-- What was captured names the version in force before the transaction.
SELECT count(DISTINCT version_hlc) > 5 AS versions FROM cozesync.rule WHERE table_name = 't';
BEGIN;
SELECT cozesync.set_conflict_policy('t', 'first_update_wins');
SAVEPOINT s;
SELECT cozesync.set_conflict_policy('t', 'hold');
INSERT INTO t (id, version) VALUES (1, 1);
ROLLBACK TO s;
INSERT INTO t (id, version) VALUES (2, 1);
COMMIT;
SELECT policy FROM cozesync.tables WHERE relation = 't'::regclass;

-- Nothing to try it on, and nobody else may.
SELECT * FROM cozesync.try_policy('t', 'hold');
SELECT * FROM cozesync.try_policy('t', 'highest_version', version_column => 'maybe');
SELECT policy FROM cozesync.tables WHERE relation = 't'::regclass;
SET ROLE regress_policy_owner;
SELECT cozesync.set_conflict_policy('t', 'hold');
RESET ROLE;

SELECT cozesync.leave_group();
\c postgres
DROP DATABASE group_policy WITH (FORCE);
DROP ROLE regress_policy_owner;
