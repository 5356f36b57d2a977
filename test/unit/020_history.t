#!/bin/sh
#
# The core in C agrees with the model: rows, base records, conflict logs, the
# reach of the cut and beats, as the model's nodes lived them and in other orders
# of arrival.
#
# HISTORIES: how many a policy (200).  100,000 take some minutes for the core, and
# the model's time to make them:
#   model.py --runs 100000 --export - | test/build/history/history_test -

cd "$(dirname "$0")/../.." || exit 1
if ! command -v python3 >/dev/null; then
	echo "1..0 # SKIP no python3"
	exit 0
fi
make -s -C test/unit >/dev/null || exit 1

build=test/build/history
runs=${HISTORIES:-200}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
policies='mixed last_update_wins first_update_wins highest_version node_order merge resolver hold'

# Two at a time; seeds other than those of 010_model.t.
export runs work
echo "$policies" | tr ' ' '\n' | xargs -P 2 -I{} sh -c \
	'python3 test/model.py --seed 10000 --runs $runs --policy {} --export "$work/{}" >/dev/null' || exit 1
head -n 40000 "$work/merge" | awk '{ kept = kept $0 "\n" } $0 == "." { printf "%s", kept; kept = "" }' >"$work/sanitized"
cd "$work" && set -- $policies
{
	"$OLDPWD/$build/history_test" "$@"
	"$OLDPWD/$build/history_test_san" -o 2 sanitized | sed 's/^\(not ok\|ok\) 1 /\1 9 /; /^1\.\./d'
} | awk '/^1\.\./ { next } { print; if ($0 ~ /^(not )?ok /) n++ } END { print "1..9"; exit n != 9 }'
