#!/bin/bash
#
# Capture, commit and the decoding of what they wrote, in a single-user server under
# valgrind.  An error counts if a function of the extension is on its stack:
# the server itself, as packaged, is not free of reports.

set -euo pipefail
cd "$(dirname "$0")/.."
. test/lib/private_pg.sh
trap private_pg_remove EXIT
trap 'exit 143' TERM INT HUP

test/deps.sh
if ! test/deps.sh --packages valgrind libc6-dbg; then
	echo "skipped: valgrind cannot be installed"
	exit 77
fi
private_pg_make vg
private_tree_copy
status=0
private_run timeout -k 10 "${VALGRIND_LIMIT:-600}" test/lib/valgrind_run.sh </dev/null || status=$?
exit $status
