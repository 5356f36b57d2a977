#!/bin/bash
#
# Fuzz the decoders of the wire format: test/fuzz/run.sh [SECONDS]
#
# SECONDS (20) are spent on all targets together.  Prints TAP, a test a target;
# what made a target fail is left in test/build/fuzz/.

set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
build=$here/../build/fuzz
log=$(mktemp)
seconds=${1:-20}
targets="head chunk change descriptor frame hello ack"
export UBSAN_OPTIONS=print_stacktrace=1

if ! make -s -C "$here" >"$log" 2>&1; then
	sed 's/^/# /' "$log"
	rm -f "$log"
	echo "Bail out! the fuzzers do not compile"
	exit 1
fi
rm -f "$log"
cd "$build"
rm -rf seeds
mkdir -p seeds
./wire_test seeds || echo "# see also wire_test, which fails"

set -- $targets
each=$((seconds / $#))
number=0
failed=0
echo "1..$#"
for target; do
	number=$((number + 1))
	if "./fuzz_$target" -max_total_time=$((each > 0 ? each : 1)) -max_len=4096 -rss_limit_mb=1024 \
		-artifact_prefix="$target-" -print_final_stats=1 "seeds/$target" >"$target.log" 2>&1; then
		echo "ok $number - $target"
	else
		failed=1
		echo "not ok $number - $target"
		tail -n 40 "$target.log" | sed 's/^/# /'
	fi
	sed -n 's/^stat::number_of_executed_units: /# inputs: /p' "$target.log"
done
exit $failed
