#!/bin/sh
#
# The executable specification holds under every policy, and every rule is
# needed: taken out, some policy breaks a promise.
#
# MODEL_RUNS: histories a policy (50).

cd "$(dirname "$0")/../.." || exit 1
model=test/model.py
runs=${MODEL_RUNS:-50}
n=0

# usage: report STATUS DESCRIPTION OUTPUT
report()
{
	n=$((n + 1))
	if [ "$1" = 0 ]; then
		echo "ok $n - $2"
	else
		echo "not ok $n - $2"
		echo "$3" | tail -n 5 | sed 's/^/# /'
	fi
}

if ! command -v python3 >/dev/null; then
	echo "1..0 # SKIP no python3"
	exit 0
fi
echo "1..17"

for policy in mixed last_update_wins first_update_wins highest_version node_order merge \
	resolver hold; do
	output=$(python3 $model --runs "$runs" --policy $policy 2>&1)
	report $? "no violation under $policy in $runs histories" "$output"
done

for pair in records:first_update_wins effect:first_update_wins columns:merge gate:merge \
	unique:resolver instream:mixed ready:mixed even:mixed named:mixed; do
	rule=${pair%%:*}
	policy=${pair##*:}
	output=$(python3 $model --runs 600 --policy $policy --without $rule 2>&1)
	case $output in
		*violation:*) status=0 ;;
		*) status=1 ;;
	esac
	report $status "without the rule \"$rule\" $policy breaks a promise" "$output"
done
