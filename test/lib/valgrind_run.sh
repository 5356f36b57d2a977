#!/bin/bash
#
# What test/valgrind.sh runs as an ordinary user in the private copy.

set -euo pipefail

d=$COZE_WORK/d
make -s PG_CONFIG="$PG_CONFIG" with_llvm=no -j2 COZE_TESTING=1 COPT='-O1 -g' all
make -s PG_CONFIG="$PG_CONFIG" with_llvm=no COZE_TESTING=1 COPT='-O1 -g' install >/dev/null
initdb -D "$d" -A trust -N -U postgres --no-locale -E UTF8 >/dev/null
cat >>"$d/postgresql.conf" <<CONF
shared_preload_libraries = 'cozesync'
listen_addresses = ''
unix_socket_directories = '$COZE_WORK'
shared_buffers = 8MB
max_connections = 10
fsync = off
CONF
pg_ctl -s -w -D "$d" -l "$COZE_WORK/server.log" start
psql -Xq -h "$COZE_WORK" -U postgres postgres <<'SQL'
CREATE EXTENSION cozesync;
CREATE TABLE t (id int PRIMARY KEY, v text, n numeric, j jsonb, a int[], b bytea, at timestamptz, u text UNIQUE);
CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
CREATE TABLE p2 PARTITION OF p DEFAULT;
SELECT cozesync.create_group('g', 'here', NULL);
SELECT cozesync.add_schema('public');
SQL
pg_ctl -s -w -m fast -D "$d" stop

# Single-user mode takes a line for a statement.
cat >"$COZE_WORK/script" <<'SQL'
INSERT INTO t SELECT g, repeat('v', g), g / 3.0, jsonb_build_object('n', g), ARRAY[g, NULL, 3], '\xdeadbeef', now(), 'u' || g FROM generate_series(1, 50) g;
UPDATE t SET v = v || 'x', n = 'NaN', a = NULL WHERE id % 2 = 0;
UPDATE t SET id = id + 1000 WHERE id > 40;
DELETE FROM t WHERE id % 3 = 0;
SET cozesync.capture_buffer = '16kB';
BEGIN;
INSERT INTO t (id, v) SELECT g, repeat('w', 300) FROM generate_series(2000, 2200) g;
SAVEPOINT s;
UPDATE t SET v = v || 's';
ROLLBACK TO s;
UPDATE t SET v = v || 'k' WHERE id < 20;
COMMIT;
INSERT INTO p SELECT g, 'p' FROM generate_series(0, 20) g;
UPDATE p SET id = id + 30 WHERE id < 5;
TRUNCATE p1;
TRUNCATE p;
SELECT count(*), sum(length(new_row::text)), sum(length(old_row::text)) FROM cozesync.changes();
SELECT count(*), sum(length(seen::text)) FROM cozesync.entries();
SELECT cozesync.vector();
SQL
valgrind --quiet --num-callers=40 --log-file="$COZE_WORK/valgrind.%p" --trace-children=no \
	"$(dirname "$PG_CONFIG")/postgres" --single -D "$d" postgres <"$COZE_WORK/script" >"$COZE_WORK/out" 2>&1 || {
	tail -n 20 "$COZE_WORK/out"
	echo "the server under valgrind failed"
	echo "0 passed, 1 failed"
	exit 1
}
# statements ran, and told no error
if grep -E 'ERROR|FATAL|PANIC' "$COZE_WORK/out"; then
	echo "0 passed, 1 failed"
	exit 1
fi
# errors are separated by lines without text
reports=$(cat "$COZE_WORK"/valgrind.* | sed -E 's/^==[0-9]+== ?//' | awk -v RS= '/coze_/ { print; print "" }')
if [ -n "$reports" ]; then
	echo "$reports" | head -n 80
	echo "0 passed, 1 failed"
	exit 1
fi
echo "capture, log and decoding under valgrind: nothing to report ($(grep -c ' = ' "$COZE_WORK/out" || true) values read)"
echo "1 passed, 0 failed"
