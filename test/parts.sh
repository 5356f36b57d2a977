#!/bin/bash
#
# Run parts of the tests one after the other and add up what they counted:
# test/parts.sh PART...
#
#   full      everything, on the distribution's own PostgreSQL
#   fast      what says most in two minutes: regress, isolation, one pair of nodes
#   pg15, pg17, pg18, pg19   the same on another major (test/matrix.sh); all-pg17 is everything
#   mixed     one group with a node of each major
#   sanitize  fast, under address and undefined-behaviour sanitizers
#   valgrind  capture and decoding in a single-user server under valgrind
#
# Each has a limit of time.  What cannot be had here (no network for another
# major, say) is skipped with its reason; what comes from experimental never fails.  The
# last line is "N passed, N failed[, N skipped]".

set -euo pipefail
cd "$(dirname "$0")/.."

results=$(mktemp -d)
trap 'rm -rf "$results"; [ -z "$making" ] || kill "$making" 2>/dev/null || true' EXIT
passed=0 failed=0 skipped=0
making=

fast_suites="build regress isolation tap"
fast_tap=001_pair

# limit and command of a part
part_limit()
{
	case $1 in
		full | all-*) echo 1500 ;;
		*) echo 900 ;;
	esac
}

run_part()
{
	case $1 in
		full) test/run.sh ;;
		fast) TAP_TESTS=$fast_tap test/run.sh $fast_suites ;;
		all-pg*) test/matrix.sh "${1#all-pg}" ;;
		pg*) TAP_TESTS=$fast_tap test/matrix.sh "${1#pg}" $fast_suites ;;
		mixed) test/mixed.sh ;;
		sanitize) COZE_SANITIZE=1 TAP_TESTS=$fast_tap test/run.sh regress isolation tap ;;
		valgrind) test/valgrind.sh ;;
		*)
			echo "there is no part \"$1\""
			return 2
			;;
	esac
}

# Does a failure of this part count?
is_experimental()
{
	case $1 in
		*pg19) return 0 ;;
		*) return 1 ;;
	esac
}

note()
{
	printf '%-10s %s\n' "$1" "$2" >>"$results/summary"
}

count_part()
{
	local part=$1 status=$2 log=$3 seconds=$4 p=0 f=0 s=0 line
	line=$(grep -E '^[0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?$' "$log" | tail -n 1 || true)
	if [ "$status" = 77 ]; then
		skipped=$((skipped + 1))
		note "$part" "$(grep '^skipped: ' "$log" | tail -n 1)"
		return
	fi
	read -r p f s < <(echo "$line" | sed -E 's/ passed, / /; s/ failed(, )?/ /; s/ skipped//') || true
	p=${p:-0} f=${f:-0} s=${s:-0}
	if [ -z "$line" ] || { [ "$status" != 0 ] && [ "$f" = 0 ]; }; then
		f=$((f + 1))
		line="${line:-did not finish} (status $status)"
	fi
	if [ "$f" != 0 ] && is_experimental "$part"; then
		skipped=$((skipped + f))
		f=0
		line="$line; from experimental, counted as skipped"
	fi
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
	note "$part" "$line in $seconds s"
}

# Chroots are made while the first parts run; what goes wrong is told when they are wanted.
case $1 in
	pg* | all-* | mixed) ;;
	*)
		for part in "$@"; do
			case $part in
				pg* | all-pg*) echo "${part#*pg}" ;;
				mixed) printf '17\n18\n' ;;
			esac
		done | sort -u | while read -r major; do
			nice -n 10 test/matrix.sh "$major" make || true
		done >/dev/null 2>&1 </dev/null &
		making=$!
		;;
esac

for part in "$@"; do
	begin=$(date +%s)
	log=$results/$part.log
	status=0
	export -f run_part
	export fast_tap fast_suites
	timeout -k 30 "$(part_limit "$part")" bash -c 'set -euo pipefail; run_part "$1"' x "$part" \
		> >(tee "$log" | sed -u "s/^/[$part] /") 2>&1 </dev/null || status=$?
	# what the pipe still holds
	sleep 0.2
	count_part "$part" "$status" "$log" $(($(date +%s) - begin))
done

echo
cat "$results/summary"
if [ $skipped != 0 ]; then
	echo "$passed passed, $failed failed, $skipped skipped"
else
	echo "$passed passed, $failed failed"
fi
[ $failed = 0 ] && [ $((passed + failed)) != 0 ]
