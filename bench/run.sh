#!/bin/bash
#
# Measure cozesync against plain PostgreSQL: bench/run.sh [options of measure.py]
#
# Builds (without COZE_TESTING) into a private copy of PostgreSQL, measures
# there, prints the table and keeps it as bench/results-<date>.md.  Figures are
# ratios within one run, so that they mean something on a shared machine.

set -euo pipefail
cd "$(dirname "$0")/.."
. test/lib/private_pg.sh

top=$PWD
revision=$(git describe --always --dirty 2>/dev/null || echo unknown)
trap private_pg_remove EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

test/deps.sh
private_pg_make czb
private_tree_copy
if ! private_run make -s -j "$(nproc)" PG_CONFIG="$bindir/pg_config" with_llvm=no \
	all install >"$work/make.log" 2>&1; then
	cat "$work/make.log"
	exit 1
fi

status=0
private_run python3 -u bench/measure.py --folder "$work/b" --bindir "$bindir" \
	--revision "$revision" --output "$work/results.md" "$@" &
wait $! || status=$?
if [ -s "$work/results.md" ]; then
	kept=$top/bench/results-$(date +%Y-%m-%d).md
	cp "$work/results.md" "$kept"
	echo "kept as ${kept#"$top"/}"
fi
exit $status
