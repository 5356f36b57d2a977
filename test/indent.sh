#!/bin/bash
#
# The layout of the C sources, as PostgreSQL's pgindent has it but for lines of 99
# characters: test/indent.sh shows what differs, test/indent.sh --write mends it.
#
# The names of types are read off the sources.  Needs the package pg-bsd-indent.

set -euo pipefail
cd "$(dirname "$0")/.."

test/deps.sh --packages pg-bsd-indent
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

{
	grep -rhoP '^\}\s*\K\w+(?=;)' src --include='*.[ch]'
	grep -rhoP '^typedef .*?\b\K\w+(?=;)' src --include='*.[ch]'
	grep -rhoP '^typedef (struct|enum|union) \K\w+' src --include='*.[ch]'
	# types of the server, by how they are used
	grep -rhoP '(?<=[\s(,])[A-Z]\w*[a-z]\w*(?=\s+\**[a-z_]\w*\s*[;,=)\[])' src --include='*.[ch]'
	printf '%s\n' bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 size_t bytea slock_t pid_t text \
		pg_atomic_uint64 pg_atomic_uint32 int2vector PGconn PGresult XLogRecPtr dlist_node pg_uuid_t \
		LWLock Oid HTAB HASHCTL FmgrInfo PGPROC LOCKTAG LOCKMODE
} | sort -u >"$work/typedefs"

for file in src/*.[ch] src/*/*.[ch]; do
	out=$work/out.c
	cp "$file" "$out"
	# it leaves a copy of the input where it stands
	(cd "$work" && pg_bsd_indent -bad -bap -bbb -bc -bl -cli1 -cp33 -cdb -nce -d0 -di12 -nfc1 -i4 -l99 -lp -lpl -nip \
		-npro -sac -tpg -ts4 -U"$work/typedefs" "$out" >/dev/null)
	if [ "${1:-}" = --write ]; then
		cmp -s "$file" "$out" || cat "$out" >"$file"
	else
		diff -u --label "$file" --label "$file, indented" "$file" "$out" || true
	fi
done
