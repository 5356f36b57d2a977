#!/bin/bash
#
# Measure cozesync beside plain PostgreSQL and its peers: bench/run.sh [options of main.py]
#
# Builds (without COZE_TESTING) into a private copy of PostgreSQL, measures there, prints
# the tables and keeps them as bench/results/<date>*.md, with the figures as .json and a
# picture of each workload as .svg.  --quick takes some five minutes; --help says more.
# Peers come from Debian's packages (NO_PEERS=1: not); what is not to be had is named.

set -euo pipefail
cd "$(dirname "$0")/.."
. test/lib/private_pg.sh

top=$PWD
revision=$(git describe --always --dirty 2>/dev/null || echo unknown)
trap private_pg_remove EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

test/deps.sh
bench/deps.sh
private_pg_make czb
private_tree_copy
for folder in . bench/empty_trigger; do
	if ! private_run make -s -C "$folder" -j "$(nproc)" PG_CONFIG="$bindir/pg_config" with_llvm=no \
		all install >"$work/make.log" 2>&1; then
		cat "$work/make.log"
		exit 1
	fi
done

name=$(date +%Y-%m-%d)
case " $* " in
	*" --quick "*) name=$name-quick ;;
esac
status=0
mkdir "$work/results"
if [ "$(id -u)" = 0 ]; then
	chown postgres: "$work/results"
fi
private_run env BENCH_ARGUMENTS="$*" /usr/bin/python3 -u bench/main.py --base "$work/b" --bindir "$bindir" \
	--revision "$revision" --output "$work/results/$name" "$@" &
wait $! || status=$?
if [ -s "$work/results/$name.md" ]; then
	mkdir -p "$top/bench/results"
	cp "$work/results/"* "$top/bench/results/"
	echo "kept as bench/results/$name.*"
fi
exit $status
