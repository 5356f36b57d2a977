#!/bin/bash
#
# Build the tree in the current folder and run suites of tests in it.
#
# Called by test/run.sh as an ordinary user, in a copy of the checkout, with
# PG_CONFIG and PATH naming a private PostgreSQL and COZE_WORK its folder.
# Suites run side by side, each with a server of its own; each leaves
# "passed failed skipped" in $COZE_WORK/r/<suite>.counts.

set -euo pipefail

out=$COZE_WORK/r
bindir=$("$PG_CONFIG" --bindir)
pgxs=$(dirname "$(dirname "$("$PG_CONFIG" --pgxs)")")
mkflags=(-s PG_CONFIG="$PG_CONFIG" with_llvm=no ${CI:+WERROR=1})
if [ -n "${COZE_SANITIZE:-}" ]; then
	mkflags+=(COPT='-fsanitize=address,undefined -O1 -g -fno-omit-frame-pointer'
		SHLIB_LINK='-fsanitize=address,undefined')
fi
export PG_REGRESS=$pgxs/test/regress/pg_regress
export TESTDIR=$PWD
mkdir -p "$out"

# Of the given paths, those that exist and that TESTS selects.
selected()
{
	local path word
	for path in "$@"; do
		[ -e "$path" ] || continue
		if [ -z "${TESTS:-}" ]; then
			echo "$path"
			continue
		fi
		for word in $TESTS; do
			case "$(basename "$path")" in
				*"$word"*) echo "$path"; break ;;
			esac
		done
	done
}

names_of()
{
	local path
	for path in "$@"; do
		basename "${path%.*}"
	done
}

counts()
{
	local suite=$1
	shift
	echo "$@" >"$out/$suite.counts"
}

# Start a server for one suite; its folder is $out/<suite>.
start_server()
{
	local dir=$out/$1
	mkdir -p "$dir/s"
	initdb -D "$dir/d" -A trust -N -U postgres --no-locale -E UTF8 >"$dir/initdb.log"
	cat >>"$dir/d/postgresql.conf" <<-CONF
		shared_preload_libraries = 'cozesync'
		listen_addresses = ''
		unix_socket_directories = '$dir/s'
		fsync = off
		max_worker_processes = 32
		max_prepared_transactions = 4
		restart_after_crash = off
		log_line_prefix = '%m [%p] %q%a '
	CONF
	if ! pg_ctl -s -w -D "$dir/d" -l "$dir/server.log" start; then
		tail -n 40 "$dir/server.log"
		return 1
	fi
}

stop_server()
{
	pg_ctl -s -w -m fast -D "$out/$1/d" stop
}

# Count pg_regress's verdicts in its output: "test x ... ok" before 16, "ok 1 - x" since.
count_regress()
{
	local log=$1 expected=$2 ok failed
	ok=$(grep -c -E '^(test |     )?[a-zA-Z0-9_.-]+ +\.\.\. ok |^ok [0-9]+ ' "$log" || true)
	failed=$(grep -c -E '\.\.\. FAILED|^not ok [0-9]+ ' "$log" || true)
	# what was given but has no verdict did not run
	if [ $((ok + failed)) -lt "$expected" ]; then
		echo "$((expected - ok - failed)) did not run"
		failed=$((expected - ok))
	fi >&2
	echo "$ok $failed 0"
}

# Run pg_regress or its isolation twin: suite, program, input folder, test paths.
run_regress_program()
{
	local suite=$1 program=$2 input=$3 log=$out/$1.log result
	shift 3
	if [ $# = 0 ]; then
		counts "$suite" 0 0 0
		return
	fi
	mkdir -p "$out/$suite"
	if ! start_server "$suite"; then
		counts "$suite" 0 1 0
		return
	fi
	timeout -k 10 900 "$program" --inputdir="$input" --outputdir="$out/$suite" \
		--bindir="$bindir" --host="$out/$suite/s" --port=5432 --user=postgres \
		--dbname="${suite}_cozesync" --encoding=UTF8 $(names_of "$@") >"$log" 2>&1 || true
	stop_server "$suite" || true
	result=$(count_regress "$log" $#)
	if [ "${result#* }" != "0 0" ]; then
		cat "$log"
		head -n 400 "$out/$suite/regression.diffs" 2>/dev/null || true
		if [ ! -s "$out/$suite/regression.diffs" ]; then
			echo "--- end of the $suite server's log"
			tail -n 30 "$out/$suite/server.log"
		fi
	else
		grep -E '\.\.\. ok|^ok ' "$log" || true
	fi
	counts "$suite" "$result"
}

suite_regress()
{
	run_regress_program regress "$PG_REGRESS" . $(selected sql/*.sql)
}

suite_isolation()
{
	run_regress_program isolation "$pgxs/test/isolation/pg_isolation_regress" test \
		$(selected test/specs/*.spec)
}

run_tap_programs()
{
	local suite=$1 jobs=$2
	shift 2
	if [ $# = 0 ]; then
		counts "$suite" 0 0 0
		return
	fi
	mkdir -p "$out/$suite"
	perl test/lib/run_tap.pl "$jobs" "$out/$suite" "$out/$suite.counts" "$@" || true
}

suite_tap()
{
	TESTS=${TAP_TESTS:-${TESTS:-}} programs=$(selected test/t/*.pl)
	run_tap_programs tap "${JOBS:-2}" $programs
}

# Rounds of the chaos test, one after the other, each with a seed and a folder of its own; what
# a failed one leaves goes to CHAOS_OUT, if that is set.
suite_chaos()
{
	local seed first rounds ok bad passed=0 failed=0 dir
	first=${SEED:-$(od -An -N3 -tu4 /dev/urandom | tr -d ' ')}
	rounds=${ROUNDS:-1}
	for ((seed = first; seed < first + rounds; seed++)); do
		dir=$out/chaos/$seed
		mkdir -p "$dir"
		if SEED=$seed TESTDIR=$dir \
			timeout -k 10 $((${CHAOS_SECONDS:-30} + ${CHAOS_PATIENCE:-420})) \
			perl test/chaos/round.pl >"$dir/tap" 2>&1; then bad=0; else bad=1; fi
		ok=$(grep -c '^ok ' "$dir/tap" || true)
		passed=$((passed + ok))
		if [ $bad = 0 ] && grep -q '^1\.\.' "$dir/tap"; then
			echo "seed $seed: ok, $(sed -n 's/^# //; /nodes,.*faults/p' "$dir/tap" | head -1)"
		else
			failed=$((failed + 1))
			echo "seed $seed: FAILED"
			grep -v '^ok ' "$dir/tap" | cut -c1-600 | tail -n 80
			if [ -n "${CHAOS_OUT:-}" ] && mkdir -p "$CHAOS_OUT/$seed"; then
				cp -r "$dir/tap" "$dir/tmp_check/log" "$CHAOS_OUT/$seed/" 2>/dev/null || true
			fi
		fi
		rm -rf "$dir/tmp_check"
	done
	counts chaos $passed $failed 0
}

# Ten minutes of steady load.
suite_steady()
{
	run_tap_programs steady 1 test/chaos/steady.pl
	grep '^# ' "$out/steady/steady.tap" || true
}

# Programs without a server.  test/unit/*.t run what test/unit/Makefile builds; the
# wire format's own test and a short round of its fuzzers print TAP themselves.
suite_unit()
{
	local dir programs
	for dir in test/unit test/fuzz; do
		[ -e $dir/Makefile ] || continue
		if ! make "${mkflags[@]}" -j "${JOBS:-2}" -C $dir >"$out/unit.log" 2>&1; then
			cat "$out/unit.log"
			counts unit 0 1 0
			return
		fi
	done
	programs=$(selected test/unit/*.t test/build/fuzz/wire_test test/fuzz/run.sh)
	run_tap_programs unit "${JOBS:-2}" $programs
}

# After the others, when all of them ran: does every rule have its scenario?
suite_rules()
{
	case " $* " in
		*" unit "*" tap "*) ;;
		*) local TESTS=some ;;
	esac
	if [ -n "${TESTS:-}${TAP_TESTS:-}" ]; then
		counts rules 0 0 0
		return
	fi
	export COZE_TAP_OUTPUT=$out/tap:$out/unit
	TESTS='' run_tap_programs rules 1 test/lib/rules.pl
}

# The ordinary build: without warnings, and without anything meant for tests.
suite_build()
{
	local tree=$COZE_WORK/plain passed=0 failed=0
	mkdir "$tree"
	cp -a Makefile cozesync.control src "$tree/"
	if make -C "$tree" "${mkflags[@]}" WERROR=1 clean all >"$out/build.log" 2>&1; then
		passed=1
		if nm "$tree/cozesync.so" | grep -q 'coze_debug_'; then
			echo "build: a debug function is in the ordinary library"
			failed=1
		else
			passed=2
		fi
	else
		cat "$out/build.log"
		failed=1
	fi
	counts build $passed $failed 0
}

# A server that died of a fault fails the run, whoever noticed, and so does one of
# which a sanitizer had something to report.
report_crashes()
{
	local found fault='was terminated by signal (4|6|7|8|11):|^TRAP:|: runtime error:|ERROR: AddressSanitizer'
	found=$(grep -r -l -E "$fault" --include='*.log' "$out" tmp_check 2>/dev/null || true)
	[ -n "$found" ] || return 0
	for log in $found; do
		echo "--- a server crashed: $log"
		grep -n -E -B 12 -A 20 "$fault" "$log" | tail -n 60
	done
	return 1
}

# Let the private PostgreSQL's servers load the sanitizers' library first.  It looks
# for a function of the Swift runtime, and would wait for it forever.
sanitize_servers()
{
	local shim=$COZE_WORK/shim.so
	echo 'char *swift_demangle(void) { return 0; }' | gcc -shared -fPIC -o "$shim" -x c -
	mv "$bindir/postgres" "$bindir/postgres.real"
	cat >"$bindir/postgres" <<-WRAPPER
		#!/bin/bash
		export LD_PRELOAD="$(gcc -print-file-name=libasan.so) $shim"
		export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1
		export UBSAN_OPTIONS=print_stacktrace=1
		exec -a "\$0" "$bindir/postgres.real" "\$@"
	WRAPPER
	chmod 755 "$bindir/postgres"
}

if ! make "${mkflags[@]}" -j "${JOBS:-2}" COZE_TESTING=1 all >"$out/make.log" 2>&1 ||
	! make "${mkflags[@]}" COZE_TESTING=1 install >>"$out/make.log" 2>&1; then
	cat "$out/make.log"
	echo "the build failed"
	exit 1
fi

if [ -n "${COZE_SANITIZE:-}" ]; then
	sanitize_servers
fi
for suite in "$@"; do
	[ "$suite" = rules ] || "suite_$suite" &
done
wait
case " $* " in
	*" rules "*) suite_rules "$@" ;;
esac

if ! report_crashes; then
	read -r p f s <"$out/$1.counts" || { p=0 f=0 s=0; }
	counts "$1" "$p" $((f + 1)) "$s"
	exit 1
fi
