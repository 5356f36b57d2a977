#!/bin/bash
#
# Run the tests with other majors of PostgreSQL: test/matrix.sh MAJOR [SUITE...]
#
# Each major is a Debian suite of its own, in a chroot that mmdebstrap makes once
# and later calls reuse (MATRIX_DIR, default /var/tmp/coze_matrix; delete it at
# will).  Needs root and the package mmdebstrap.

set -euo pipefail
cd "$(dirname "$0")/.."

major=${1:?usage: test/matrix.sh MAJOR [SUITE...]}
shift
base=${MATRIX_DIR:-/var/tmp/coze_matrix}
root=$base/pg$major
mirror=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/debian.sources | head -1)
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
extra=()
pin=

case $major in
	15) suite=bookworm ;;
	17) suite=trixie ;;
	18) suite=forky ;;
	19)
		suite=sid
		extra=("deb [signed-by=$keyring] $mirror experimental main")
		pin=$(printf 'Package: *\nPin: release a=experimental\nPin-Priority: 400\n\nPackage: postgresql-19 postgresql-client-19 postgresql-server-dev-19\nPin: release a=experimental\nPin-Priority: 990\n')
		;;
	*)
		echo "no Debian suite has PostgreSQL $major" >&2
		exit 2
		;;
esac

make_root()
{
	rm -rf "$root"
	mmdebstrap --quiet --variant=minbase --mode=root \
		--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
		--include=ca-certificates,debian-archive-keyring \
		--aptopt='Acquire::Check-Valid-Until "false"' --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
		--dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		--customize-hook='printf "#!/bin/sh\nexit 101\n" >"$1/usr/sbin/policy-rc.d"; chmod 755 "$1/usr/sbin/policy-rc.d"' \
		"$suite" "$root" "deb [signed-by=$keyring] $mirror $suite main" "${extra[@]}" >"$base/make.log" 2>&1 || {
		tail -n 30 "$base/make.log"
		exit 1
	}
	[ -z "$pin" ] || echo "$pin" >"$root/etc/apt/preferences"
	chroot "$root" apt-get -qq update
	touch "$root/.ready"
}

leave()
{
	trap - EXIT INT TERM
	umount "$root/dev" "$root/proc" 2>/dev/null || true
	rm -rf "$root/co"
}

mkdir -p "$base"
if [ ! -e "$root/.ready" ]; then
	make_root
fi
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
mountpoint -q "$root/dev" || mount --bind /dev "$root/dev"
rm -rf "$root/co"
mkdir "$root/co"
tar --exclude=./.git --exclude='*.o' --exclude='*.so' --exclude='*.d' --exclude=./test/build \
	-cf - . | tar -C "$root/co" -xf -
status=0
chroot "$root" env PG_MAJOR="$major" TESTS="${TESTS:-}" CI="${CI:-}" /co/test/run.sh "$@" || status=$?
exit $status
