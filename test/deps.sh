#!/bin/bash
#
# Install what building and testing need (Debian); nothing to do when it is there.
#
# No database cluster is created or started: the tests make their own.
# PG_MAJOR picks the server version; the distribution's own is the default.
# With a folder as argument, the packages whose schemas test/t/*_schemas.pl loads
# are unpacked there; with --packages, those that follow are installed instead.
# Without root it only says what is missing.

set -euo pipefail

major=${PG_MAJOR:-15}
packages="make gcc libc6-dev libpq-dev libicu-dev perl python3 procps openssl libipc-run-perl
	postgresql-$major postgresql-server-dev-$major"
schema_packages="roundcube-core icinga2-ido-pgsql ejabberd"

missing_packages()
{
	local p
	for p in "$@"; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] ||
			echo "$p"
	done
}

apt()
{
	local log
	log=$(mktemp)
	if ! DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=3 \
		-o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1; then
		cat "$log" >&2
		rm -f "$log"
		return 1
	fi
	rm -f "$log"
}

install_packages()
{
	local missing dir=/etc/postgresql-common
	missing=$(missing_packages $packages)
	[ -n "$missing" ] || return 0
	if [ "$(id -u)" != 0 ]; then
		echo "missing packages (install them as root):" $missing >&2
		return 1
	fi
	echo "installing" $missing
	# postgresql-common creates and starts a cluster unless told before
	if [ ! -e $dir/createcluster.conf ]; then
		mkdir -p $dir
		echo "create_main_cluster = false" >$dir/createcluster.conf
	fi
	apt update
	apt install -y --no-install-recommends $missing
}

# Fetch packages without installing them: only their SQL files are wanted.
unpack_schemas()
{
	local into=$1 p
	mkdir -p "$into"
	for p in $schema_packages; do
		[ ! -e "$into/$p/.ready" ] || continue
		rm -rf "${into:?}/$p"
		mkdir "$into/$p"
		(
			cd "$into/$p"
			apt download "$p" || { apt update && apt download "$p"; }
			dpkg-deb -x ./*.deb .
			find . -type f ! -name '*.sql' -delete
			# whoever runs the tests reads them
			chmod -R a+rX .
			touch .ready
		)
	done
}

if [ "${1:-}" = --packages ]; then
	shift
	packages=$*
	set --
fi
install_packages
if [ $# -gt 0 ]; then
	unpack_schemas "$1"
fi
