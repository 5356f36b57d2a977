# Private copies of the installed PostgreSQL, and their removal (sourced).
#
# PostgreSQL's programs find their libraries and share files relative to
# themselves, so a copy of the two folders is an installation of its own, into
# which the extension can be put without touching the system's.  All that is
# started lives in one folder with an unguessable name; whatever still runs
# from there when we leave is ours.
#
# Uses $major; sets work (the folder), bindir (in it), as_user (a command
# prefix that drops root's rights: initdb refuses root).

major=${PG_MAJOR:-15}

private_pg_make()
{
	# short: a socket's path may have 107 bytes
	work=$(mktemp -d "/tmp/${1:-cz}.XXXXXX")
	bindir=$work/pg/lib/postgresql/$major/bin
	as_user=()
	mkdir -p "$work/pg/lib/postgresql" "$work/pg/share/postgresql" "$work/t"
	cp -a "/usr/lib/postgresql/$major" "$work/pg/lib/postgresql/"
	cp -a "/usr/share/postgresql/$major" "$work/pg/share/postgresql/"
	ln -s /usr/include "$work/pg/include"
	# a cozesync that is installed in the system must not stand in for ours
	rm -f "$work/pg/share/postgresql/$major/extension/"cozesync* \
		"$work/pg/lib/postgresql/$major/lib/cozesync.so"
	if [ "$(id -u)" = 0 ]; then
		as_user=(runuser -u postgres --)
	fi
}

# Copy the checkout (run from its top) without what a build left in it.
private_tree_copy()
{
	mkdir -p "$work/co"
	tar --exclude=./.git --exclude='*.o' --exclude='*.so' --exclude='*.d' \
		--exclude='*.bc' --exclude=./.build-stamp --exclude=./test/build \
		--exclude=__pycache__ --exclude=./results --exclude=./tmp_check \
		-cf - . | tar -C "$work/co" -xf -
	chmod 755 "$work"
	if [ "$(id -u)" = 0 ]; then
		chown -R postgres: "$work"
	fi
}

# Run a command in the copy as the unprivileged user, in a clean environment.
private_run()
{
	(
		cd "$work/co"
		for v in ${!PG@}; do unset "$v"; done
		unset MAKEFLAGS MAKELEVEL MFLAGS MAKEOVERRIDES
		exec setsid "${as_user[@]}" env HOME="$work" TMPDIR="$work/t" LC_ALL=C \
			PATH="$bindir:/usr/local/bin:/usr/bin:/bin" \
			PERL5LIB="$("$bindir/pg_config" --pkglibdir)/pgxs/src/test/perl:$work/co/test/lib" \
			PG_CONFIG="$bindir/pg_config" COZE_WORK="$work" "$@"
	)
}

# Pids of what runs from our folder: with "servers" only PostgreSQL's processes,
# with "others" only the rest.
private_pids()
{
	local p exe cwd kind
	for p in /proc/[0-9]*; do
		exe=$(readlink "$p/exe" 2>/dev/null) || continue
		cwd=$(readlink "$p/cwd" 2>/dev/null) || continue
		case "$exe|$cwd" in
			"$work"/*/postgres\|*|"$work"/*/postgres.real\|*) kind=servers ;;
			"$work"/*|*"|$work"/*|*"|$work") kind=others ;;
			*) continue ;;
		esac
		[ "$kind" != "$1" ] || echo "${p#/proc/}"
	done
}

# Send a signal until no such process is left, for some 10 s at most.
private_kill()
{
	local pids i
	for ((i = 0; i < 100; i++)); do
		pids=$(private_pids "$2")
		[ -n "$pids" ] || return 0
		kill "-$1" $pids 2>/dev/null || true
		sleep 0.1
	done
	return 1
}

# Stop everything in the folder, then remove it.  First whatever could start
# another server; servers are asked to leave, so that they give back their
# shared memory.
private_pg_remove()
{
	[ -n "${work:-}" ] && [ -d "$work" ] || return 0
	cd /
	private_kill KILL others || true
	private_kill QUIT servers || private_kill KILL servers || true
	if [ -n "${KEEP:-}" ]; then
		echo "kept: $work" >&2
	else
		rm -rf "$work"
	fi
}
