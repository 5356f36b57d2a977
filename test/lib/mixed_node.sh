#!/bin/bash
#
# A node of a group of mixed majors: test/lib/mixed_node.sh PORT
#
# Builds the tree into a private copy of PostgreSQL PG_MAJOR and starts a server on
# 127.0.0.1 with the extension in database app.  Ends, and leaves nothing behind, when
# its input ends.  Run by test/mixed.sh, for other majors in a chroot (test/matrix.sh).

set -euo pipefail
cd "$(dirname "$0")/../.."
. test/lib/private_pg.sh

port=$1
trap private_pg_remove EXIT
trap 'exit 143' TERM INT HUP

private_pg_make mx
private_tree_copy
private_run env Q="'" bash -c '
	set -e
	make -s PG_CONFIG="$PG_CONFIG" with_llvm=no -j2 all
	make -s PG_CONFIG="$PG_CONFIG" with_llvm=no install
	initdb -D "$COZE_WORK/d" -A trust -N -U postgres --no-locale -E UTF8
	cat >>"$COZE_WORK/d/postgresql.conf" <<-CONF
		shared_preload_libraries = cozesync
		listen_addresses = ${Q}127.0.0.1${Q}
		port = $0
		unix_socket_directories = $Q$COZE_WORK$Q
		fsync = off
		cozesync.beat_interval = 100ms
	CONF
	pg_ctl -s -w -D "$COZE_WORK/d" -l "$COZE_WORK/server.log" start
	createdb -h 127.0.0.1 -p "$0" -U postgres app
	psql -X -q -h 127.0.0.1 -p "$0" -U postgres -d app -c "CREATE EXTENSION cozesync"
' "$port" >"$work/make.log" 2>&1 </dev/null || {
	tail -n 40 "$work/make.log"
	exit 1
}
echo "PostgreSQL $major listens on $port"
cat >/dev/null
grep -E 'TRAP|terminated by signal|PANIC' "$work/server.log" || true
