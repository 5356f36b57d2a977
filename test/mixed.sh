#!/bin/bash
#
# One group with a node of each major on loopback: test/mixed.sh [MAJOR...]
#
# The first is made of the distribution's own PostgreSQL; each other joins through
# the one before it, by the newer pg_dump.  All are written to, at once and apart;
# in the end all hold the same.  A major that cannot be had is left out, and counted
# as skipped; with none left there is nothing to show (exit status 77).

set -euo pipefail
cd "$(dirname "$0")/.."

majors=${*:-15 17 18}
limit=${MIXED_LIMIT:-420}
dir=$(mktemp -d)
bin=/usr/lib/postgresql/15/bin
passed=0 failed=0 skipped=0
declare -A port_of pid_of

cleanup()
{
	trap - EXIT INT TERM
	exec 7>&- 8>&- 9>&- 2>/dev/null || true
	local m
	for m in "${!pid_of[@]}"; do
		# its input has ended, so it goes; give it time to clean up
		timeout 60 tail --pid="${pid_of[$m]}" -f /dev/null || kill -TERM "${pid_of[$m]}" 2>/dev/null || true
	done
	rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 143' INT TERM

ok()
{
	if [ "$1" = 0 ]; then
		passed=$((passed + 1))
		echo "ok - $2"
	else
		failed=$((failed + 1))
		echo "not ok - $2"
	fi
}

dsn()
{
	echo "host=127.0.0.1 port=${port_of[$1]} dbname=app user=postgres"
}

sql()
{
	"$bin/psql" -XAtq -v ON_ERROR_STOP=1 -d "$(dsn "$1") connect_timeout=10" -c "$2"
}

free_port()
{
	local p
	while :; do
		p=$(shuf -i 21000-29000 -n 1)
		(exec 3<>"/dev/tcp/127.0.0.1/$p") 2>/dev/null || break
	done
	echo "$p"
}

# Start a node of each major, building side by side.
start_nodes()
{
	local m n=7
	for m in $majors; do
		port_of[$m]=$(free_port)
		mkfifo "$dir/$m.in"
		if [ "$m" = 15 ]; then
			PG_MAJOR=15 test/lib/mixed_node.sh "${port_of[$m]}" <"$dir/$m.in" >"$dir/$m.log" 2>&1 &
		else
			MATRIX_RUN=lib/mixed_node.sh test/matrix.sh "$m" "${port_of[$m]}" <"$dir/$m.in" >"$dir/$m.log" 2>&1 &
		fi
		pid_of[$m]=$!
		eval "exec $n>\"$dir/$m.in\""
		n=$((n + 1))
	done
}

# Wait for a node; false: it will not come.
await_node()
{
	local m=$1 end=$(($(date +%s) + limit))
	while ! grep -q 'listens on' "$dir/$m.log"; do
		if ! kill -0 "${pid_of[$m]}" 2>/dev/null || [ "$(date +%s)" -gt $end ]; then
			return 1
		fi
		sleep 0.5
	done
}

digest_of()
{
	sql "$1" "SELECT count(*) || ' ' || md5(string_agg(t::text, E'\n' ORDER BY id)) FROM items t" || echo "none on $1"
}

same_everywhere()
{
	local m first=
	for m in $nodes; do
		sql "$m" "SELECT cozesync.wait_for_sync('60 s')" >/dev/null || return 1
	done
	for m in $nodes; do
		first=${first:-$(digest_of "$m")}
		[ "$(digest_of "$m")" = "$first" ] || return 1
	done
}

start_nodes
test/deps.sh
nodes=
for m in $majors; do
	if await_node "$m"; then
		nodes="$nodes $m"
	elif grep -q '^skipped: ' "$dir/$m.log"; then
		echo "PostgreSQL $m: $(grep '^skipped: ' "$dir/$m.log")"
		skipped=$((skipped + 1))
	else
		tail -n 20 "$dir/$m.log"
		ok 1 "a node of PostgreSQL $m starts"
	fi
done
set -- $nodes
if [ $# -lt 2 ]; then
	[ $failed != 0 ] || { echo "skipped: only one major of PostgreSQL is to be had"; exit 77; }
	echo "$passed passed, $failed failed, $skipped skipped"
	exit 1
fi

first=$1
sql "$first" "CREATE TABLE items (id int PRIMARY KEY, name text, price numeric(10,2), tags text[], doc jsonb,
		at timestamptz DEFAULT now(), r int4range);
	INSERT INTO items SELECT g, 'item ' || g, g / 7.0, ARRAY['a', g::text], jsonb_build_object('n', g), now(), int4range(g, g + 3)
		FROM generate_series(1, 1000) g;
	SELECT cozesync.create_group('mixed', 'n$first', '$(dsn "$first")');
	SELECT cozesync.add_schema('public')" >/dev/null
before=$first
shift
for m in "$@"; do
	status=0
	sql "$m" "CALL cozesync.join_group('n$m', '$(dsn "$m")', '$(dsn "$before")')" || status=1
	ok $status "PostgreSQL $m joins through PostgreSQL $before"
	before=$m
done
status=0
same_everywhere || status=1
ok $status "all have the rows that were there"

n=0
for m in $nodes; do
	n=$((n + 1))
	sql "$m" "INSERT INTO items SELECT $n * 10000 + g, 'of $m', g FROM generate_series(1, 500) g;
		UPDATE items SET price = price + 1 WHERE id % 10 = $n; DELETE FROM items WHERE id BETWEEN $n * 100 AND $n * 100 + 9" &
done
wait $(jobs -p | grep -v -x -F -e "$(printf '%s\n' "${pid_of[@]}")") 2>/dev/null || true
status=0
same_everywhere || status=1
ok $status "all have what each wrote"

for m in $nodes; do sql "$m" "SELECT cozesync.pause()" >/dev/null; done
for m in $nodes; do sql "$m" "UPDATE items SET name = 'by $m' WHERE id = 1"; done
for m in $nodes; do sql "$m" "SELECT cozesync.resume()" >/dev/null; done
status=0
same_everywhere || status=1
ok $status "conflicts end alike"
for m in $nodes; do
	[ "$(sql "$m" "SELECT count(*) > 0 FROM cozesync.conflicts WHERE relation::text = 'items'")" = t ] || status=1
done
ok $status "and are in every log"

if [ $skipped != 0 ]; then
	echo "$passed passed, $failed failed, $skipped skipped"
else
	echo "$passed passed, $failed failed"
fi
[ $failed = 0 ]
