--
-- Settling conflicts by hand: an ordinary write that closes the conflict everywhere.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE DATABASE resolve_a;
CREATE DATABASE resolve_b;
SELECT format('host=%s port=%s dbname=', split_part(current_setting('unix_socket_directories'), ',', 1),
              current_setting('port')) AS server \gset
\set a :server resolve_a
\set b :server resolve_b
\c resolve_a
CREATE EXTENSION cozesync;
CREATE TABLE t (id int PRIMARY KEY, v text, w int GENERATED ALWAYS AS IDENTITY, at timestamptz DEFAULT '2020-01-01 12:00+00');
INSERT INTO t (id, v) SELECT g, 'start' FROM generate_series(1, 6) AS g;
SELECT cozesync.create_group('g', 'a', :'a');
SELECT cozesync.add_table('t');
\c resolve_b
SET client_min_messages = warning;
CREATE EXTENSION cozesync;
CALL cozesync.join_group('b', :'b', :'a');
SELECT cozesync.wait_for_sync('30 s');
SELECT cozesync.pause();
\c resolve_a
SELECT cozesync.pause();
-- Concurrent writes: b's are the later ones.
UPDATE t SET v = 'a' WHERE id <= 5;
\c resolve_b
UPDATE t SET v = 'b' WHERE id <= 4;
DELETE FROM t WHERE id = 5;
SELECT cozesync.resume();
\c resolve_a
SELECT cozesync.resume();
SELECT cozesync.wait_for_sync('30 s');
\c resolve_b
SELECT cozesync.wait_for_sync('30 s');
SELECT * FROM t ORDER BY id;
SELECT key, conflict_type, outcome, local_row ->> 'v' AS local, remote_row ->> 'v' AS remote, local_origin, remote_origin
FROM cozesync.conflicts ORDER BY key ->> 'id';
\c resolve_a
\set SHOW_CONTEXT never
SELECT * FROM t ORDER BY id;
SELECT key, conflict_type, outcome, local_row ->> 'v' AS local, remote_row ->> 'v' AS remote, local_origin, remote_origin
FROM cozesync.conflicts ORDER BY key ->> 'id';
SELECT id AS one FROM cozesync.conflicts WHERE key ->> 'id' = '1' \gset
SELECT id AS two FROM cozesync.conflicts WHERE key ->> 'id' = '2' \gset
SELECT id AS three FROM cozesync.conflicts WHERE key ->> 'id' = '3' \gset
SELECT id AS four FROM cozesync.conflicts WHERE key ->> 'id' = '4' \gset
SELECT id AS five FROM cozesync.conflicts WHERE key ->> 'id' = '5' \gset

-- Bad input.
SELECT cozesync.resolve_conflict(0, 'local');
SELECT cozesync.resolve_conflict(:one, 'mine');
SELECT cozesync.resolve_conflict(:one, NULL);
SELECT cozesync.resolve_conflict(:one, 'local', '{}');
SELECT cozesync.resolve_conflict(:one, 'row', '{"id": 7}');

SET timezone = 'Asia/Kathmandu';
SELECT cozesync.resolve_conflict(:one, 'local');
SELECT cozesync.resolve_conflict(:two, 'remote');
SELECT cozesync.resolve_conflict(:three, 'row', '{"v": "both"}');
UPDATE t SET v = 'changed' WHERE id = 4;
SELECT cozesync.resolve_conflict(:four, 'local');
SELECT cozesync.resolve_conflict(:four, 'row', NULL);
SELECT cozesync.resolve_conflict(:five, 'local');
RESET timezone;
SELECT id, v, w, at = '2020-01-01 12:00+00' AS same_time FROM t ORDER BY id;
SELECT key, outcome, result_row ->> 'v' AS result, resolved_by IS NOT NULL AS by FROM cozesync.conflicts ORDER BY key ->> 'id';
-- Decided anew.
SELECT cozesync.resolve_conflict(:three, 'row', '{"v": "neither"}');
SELECT cozesync.wait_for_sync('30 s');
\c resolve_b
SELECT id, v, w FROM t ORDER BY id;
SELECT key, outcome, result_row ->> 'v' AS result, resolved_by IS NOT NULL AS by FROM cozesync.conflicts ORDER BY key ->> 'id';
SELECT count(*) FROM cozesync.purge_conflicts(now());
SELECT cozesync.leave_group();
\c resolve_a
SELECT cozesync.leave_group();
\c postgres
DROP DATABASE resolve_a;
DROP DATABASE resolve_b;
