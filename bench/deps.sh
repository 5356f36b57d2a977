#!/bin/bash
#
# Install what the benchmark needs (Debian): a driver, and the peers that are packaged.
#
# A peer that is not to be had is left out; the benchmark names it.  Nothing is
# upgraded, nothing is started.  Without root nothing is installed.

set -euo pipefail

major=${PG_MAJOR:-15}
driver="python3-psycopg2"
peers="postgresql-$major-pglogical postgresql-$major-slony1-2 slony1-2-bin postgresql-$major-pgq3
	postgresql-$major-londiste-sql python3-londiste pgqd"

missing()
{
	local p
	for p in "$@"; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || echo "$p"
	done
}

apt()
{
	DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 "$@" \
		>/dev/null
}

wanted=$(missing $driver)
[ -n "${NO_PEERS:-}" ] || wanted="$wanted $(missing $peers)"
[ -n "${wanted// /}" ] || exit 0
if [ "$(id -u)" != 0 ]; then
	echo "not installed (that needs root):" $wanted >&2
	exit 0
fi
echo "installing" $wanted
apt update
for p in $wanted; do
	apt install -y --no-install-recommends --no-upgrade "$p" || echo "not to be had: $p" >&2
done
