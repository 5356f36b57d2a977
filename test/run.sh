#!/bin/bash
#
# Run the tests: test/run.sh [build] [unit] [regress] [isolation] [tap] [rules]
#
# Everything happens in a private folder that is removed at the end, also after
# an interrupt: a copy of PostgreSQL, a copy of this tree built into it, and
# servers on sockets in there.  The last line is "N passed, N failed", counted
# from what ran; a suite that has files and ran none of them has failed.  "rules" asks
# whether the others have shown what doc/interleavings.md says.
#
# TESTS='021 verify' takes only files whose name contains one of the words, TAP_TESTS
# is the same for tap alone; COZE_SANITIZE=1 has the servers run under address and
# undefined-behaviour sanitizers, of which each report is a failure; KEEP=1 leaves the folder behind; PG_MAJOR picks the server version.

set -euo pipefail
cd "$(dirname "$0")/.."
. test/lib/private_pg.sh

suites=${*:-build unit regress isolation tap rules}
total_limit=${COZE_TOTAL_LIMIT:-1380}
runner=

cleanup()
{
	trap - EXIT INT TERM HUP
	if [ -n "$runner" ] && kill -0 "$runner" 2>/dev/null; then
		kill -TERM -- -"$runner" 2>/dev/null || kill -TERM "$runner" 2>/dev/null || true
	fi
	private_pg_remove
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# Add the counts that the suites left; one that left none did not finish.
tally()
{
	local suite passed=0 failed=0 skipped=0 p f s
	for suite in $suites; do
		if ! read -r p f s 2>/dev/null <"$work/r/$suite.counts"; then
			echo "$suite: did not finish"
			p=0 f=1 s=0
		fi
		passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
	done
	if [ $((passed + failed)) = 0 ]; then
		echo "no test ran"
		failed=1
	fi
	if [ $skipped != 0 ]; then
		echo "$passed passed, $failed failed, $skipped skipped"
	else
		echo "$passed passed, $failed failed"
	fi
	[ $failed = 0 ]
}

main()
{
	test/deps.sh
	private_pg_make
	schemas=${COZE_SCHEMAS:-$work/schemas}
	case " $suites :${TAP_TESTS:-${TESTS:-050_schemas}}" in
		*" tap "*:*050*|*" tap "*:*schemas*) test/deps.sh "$schemas" || echo "packages with schemas are not to be had" ;;
	esac
	private_tree_copy
	private_run timeout -k 10 "$total_limit" env COZE_SCHEMAS="$schemas" CI="${CI:-}" \
		TESTS="${TESTS:-}" TAP_TESTS="${TAP_TESTS:-}" COZE_SANITIZE="${COZE_SANITIZE:-}" JOBS="${JOBS:-$(nproc)}" test/lib/suites.sh $suites &
	runner=$!
	wait "$runner" || true
	runner=
}

main
tally
