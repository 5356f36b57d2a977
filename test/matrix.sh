#!/bin/bash
#
# Tests on another major of PostgreSQL: test/matrix.sh MAJOR [SUITE...]
#
# Each major is a Debian suite of its own, in a chroot that mmdebstrap makes once
# and later calls reuse (MATRIX_DIR, default /var/tmp/coze_matrix; delete it at
# will).  Needs root.  With "make" for the suites it only makes the chroot.
#
# Exit status 77, and a line "skipped: REASON", if there is no chroot to be had: no
# such suite, no network, not in time.

set -euo pipefail
cd "$(dirname "$0")/.."

major=${1:?usage: test/matrix.sh MAJOR [SUITE...]}
shift
base=${MATRIX_DIR:-/var/tmp/coze_matrix}
root=$base/pg$major
make_limit=${MATRIX_MAKE_LIMIT:-420}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
extra=()
pin=

skip()
{
	echo "skipped: $*"
	exit 77
}

# Where this machine has its packages from; also in the older form of such files.
find_mirror()
{
	local uri
	uri=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/debian.sources 2>/dev/null | head -1)
	[ -n "$uri" ] || uri=$(sed -n 's/^deb .*\(https\{0,1\}:[^ ]*\/debian\/\{0,1\}\) .*/\1/p' /etc/apt/sources.list 2>/dev/null | head -1)
	echo "$uri"
}

mirror=$(find_mirror)
case $major in
	15) suite=bookworm ;;
	17) suite=trixie ;;
	18) suite=forky ;;
	19)
		suite=sid
		extra=("deb [signed-by=$keyring] $mirror experimental main")
		pin=$(printf 'Package: *\nPin: release a=experimental\nPin-Priority: 400\n\nPackage: postgresql-19 postgresql-client-19 postgresql-server-dev-19\nPin: release a=experimental\nPin-Priority: 990\n')
		;;
	*) skip "no Debian suite has PostgreSQL $major" ;;
esac

make_root()
{
	rm -rf --one-file-system "$root"
	mmdebstrap --quiet --variant=minbase --mode=root \
		--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
		--include=ca-certificates,debian-archive-keyring \
		--aptopt='Acquire::Check-Valid-Until "false"' --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
		--dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		--customize-hook='printf "#!/bin/sh\nexit 101\n" >"$1/usr/sbin/policy-rc.d"; chmod 755 "$1/usr/sbin/policy-rc.d"' \
		"$suite" "$root" "deb [signed-by=$keyring] $mirror $suite main" "${extra[@]}" || return 1
	[ -z "$pin" ] || echo "$pin" >"$root/etc/apt/preferences"
	mkdir -p "$root/co/test"
	cp test/deps.sh "$root/co/test/"
	mount_all
	chroot "$root" env PG_MAJOR="$major" /co/test/deps.sh || return 1
	touch "$root/.ready"
}

mount_all()
{
	mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
	mountpoint -q "$root/dev" || mount --bind /dev "$root/dev"
}

leave()
{
	trap - EXIT INT TERM
	umount "$root/dev" "$root/proc" 2>/dev/null || true
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

[ "$(id -u)" = 0 ] || skip "a chroot needs root"
[ -n "$mirror" ] || skip "this machine names no mirror of Debian"
mkdir -p "$base"

# Whoever comes second waits for the chroot that is being made.
exec 9>"$base/pg$major.lock"
flock -w "$make_limit" 9 || skip "another run makes the chroot of PostgreSQL $major"
if [ ! -e "$root/.ready" ]; then
	test/deps.sh --packages mmdebstrap >"$base/pg$major.log" 2>&1 ||
		skip "mmdebstrap cannot be installed"
	export -f make_root mount_all
	export root mirror suite keyring pin major
	if ! timeout -k 20 "$make_limit" bash -c 'extra=("${@}"); make_root' x "${extra[@]}" >"$base/pg$major.log" 2>&1; then
		tail -n 5 "$base/pg$major.log"
		skip "no chroot with PostgreSQL $major (suite $suite) could be made within $make_limit s"
	fi
fi
flock -u 9
[ "${1:-}" != make ] || exit 0

mount_all
co=$(mktemp -d "$root/tmp/co.XXXXXX")
trap 'rm -rf --one-file-system "$co"; leave' EXIT
chmod 755 "$co"
tar --exclude=./.git --exclude='*.o' --exclude='*.so' --exclude='*.d' --exclude=./test/build \
	-cf - . | tar -C "$co" -xf -
status=0
chroot "$root" env PG_MAJOR="$major" TESTS="${TESTS:-}" TAP_TESTS="${TAP_TESTS:-}" CI="${CI:-}" COZE_TOTAL_LIMIT="${COZE_TOTAL_LIMIT:-}" \
	"/tmp/$(basename "$co")/test/${MATRIX_RUN:-run.sh}" "$@" || status=$?
exit $status
