/*-------------------------------------------------------------------------
 *
 * join_copy.c
 *		Rows, facts and log of the donor, copied to a node that joins.
 *
 * Everything is read in one snapshot of the donor, in which its own entries have
 * no holes: rows, prune base, log above the cut, conflicts, members, rules.  So
 * what is here afterwards is what the donor was at one vector, and the stream
 * goes on from there: nothing of the tail is applied that the rows show already, and
 * what is concurrent with the tail is decided as it was at the donor.
 *
 * TRUNCATE, and DDL that writes a table anew, keep no snapshot: the table is empty, or
 * other, in ours at once, though the log that we copy does not say why.  So a table of which
 * that is true is not taken, and all begins again with another snapshot.
 *
 * Rows are copied in a transaction a table, which also notes the vector that they
 * belong to.  After an interruption the snapshot is a new one.  Tables that were
 * finished under an earlier one are brought up to it: the rows of keys that the log
 * of the donor touches in between are fetched anew, or the whole table where keys
 * do not tell enough.  The donor's log still has what lies in between: its cut
 * stands still since it admitted us.
 *
 * Facts and log come last, in one transaction.  Until it commits this node knows no
 * members, so it has no links and applies nothing.
 *
 * Ids of chunks are transaction ids of the donor, or what it made of its own donor's;
 * they are taken over negative, odd or even, so that they are never taken for ours
 * nor for each other.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/namespace.h"
#include "commands/copy.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_relation.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "debug.h"
#include "group/group.h"
#include "group/join.h"
#include "group/step.h"
#include "log/catalog.h"
#include "log/log.h"
#include "log/state.h"

/*
 * One snapshot of the donor.  The connection on which it was taken keeps it; another
 * reads with it, in a transaction a table, so that no table there stays locked.
 */
typedef struct Source
{
	CozePeerConnection *peer;	/* reads */
	char	   *snapshot;		/* its exported name */
	char	   *origins;		/* what the donor holds in it, as two arrays */
	char	   *hlcs;
	char	   *cut;
} Source;

/* Where copy_source() reads from: COPY's callback has no argument. */
static struct
{
	CozePeerConnection *peer;
	const char *data;
	int			size;			/* what is left of data */
	bool		at_end;
	uint64		bytes;
} copying;

/* --- COPY from there to here ----------------------------------------------------------- */

static int
copy_source(void *out, int minread, int maxread)
{
	int			done = 0;

	while (done < minread && !copying.at_end)
	{
		int			n;

		if (copying.size == 0)
		{
			char	   *data;

			copying.size = coze_peer_copy_read(copying.peer, &data);
			copying.data = data;
			copying.bytes += copying.size;
			copying.at_end = copying.size == 0;
			continue;
		}
		n = Min(copying.size, maxread - done);
		memcpy((char *) out + done, copying.data, n);
		copying.data += n;
		copying.size -= n;
		done += n;
	}
	return done;
}

/* Execute a COPY there whose rows have these columns of a table here; returns how many. */
static uint64
copy_into(CozePeerConnection *peer, const char *command, Oid relid, List *columns, bool binary)
{
	Relation	rel = table_open(relid, RowExclusiveLock);
	ParseState *pstate = make_parsestate(NULL);
	List	   *options = NIL;
	CopyFromState state;
	uint64		rows;

	memset(&copying, 0, sizeof(copying));
	copying.peer = peer;
	coze_peer_copy_begin(peer, command);
	if (binary)
		options = list_make1(makeDefElem("format", (Node *) makeString("binary"), -1));
	(void) addRangeTableEntryForRelation(pstate, rel, AccessShareLock, NULL, false, false);
	PushActiveSnapshot(GetTransactionSnapshot());
	state = BeginCopyFrom(pstate, rel, NULL, NULL, false, copy_source, columns, options);
	rows = CopyFrom(state);
	EndCopyFrom(state);
	PopActiveSnapshot();
	free_parsestate(pstate);
	/* COPY in binary format ends before its stream does */
	while (!copying.at_end)
	{
		char	   *data;

		copying.at_end = coze_peer_copy_read(peer, &data) == 0;
	}
	table_close(rel, NoLock);
	CommandCounterIncrement();
	return rows;
}

/*
 * The columns that COPY carries, quoted, and as a list; *binary: do all have types whose
 * binary form means the same in both databases?
 */
static char *
copied_columns(Relation rel, List **list, bool *binary)
{
	TupleDesc	desc = RelationGetDescr(rel);
	StringInfoData names;

	initStringInfo(&names);
	*list = NIL;
	*binary = true;
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute a = TupleDescAttr(desc, i);

		if (a->attisdropped || a->attgenerated != '\0')
			continue;
		appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "", quote_identifier(NameStr(a->attname)));
		*list = lappend(*list, makeString(pstrdup(NameStr(a->attname))));
		if (a->atttypid >= FirstUnpinnedObjectId)
			*binary = false;
	}
	return names.data;
}

static char *
qualified(const char *schema, const char *table)
{
	return quote_qualified_identifier(schema, table);
}

/*
 * Copy rows of a table of the donor; where: NULL, or which ones.  No columns at all is a
 * table that COPY handles all the same.
 */
static uint64
copy_rows(Source *source, Oid relid, const char *where)
{
	Relation	rel = table_open(relid, AccessShareLock);
	char	   *name = qualified(get_namespace_name(RelationGetNamespace(rel)),
								 RelationGetRelationName(rel));
	List	   *list;
	bool		binary;
	char	   *columns = copied_columns(rel, &list, &binary);
	char	   *command;

	table_close(rel, NoLock);
	command = psprintf("COPY (SELECT %s FROM %s AS t%s%s) TO STDOUT%s", columns, name,
					   where ? " WHERE " : "", where ? where : "", binary ? " (FORMAT binary)" : "");
	return copy_into(source->peer, command, relid, list, binary);
}

/* --- the snapshot ------------------------------------------------------------------------- */

static void
begin_reading(Source *source)
{
	coze_peer_query(source->peer, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", 0, NULL);
	coze_peer_query(source->peer, psprintf("SET TRANSACTION SNAPSHOT %s",
										   quote_literal_cstr(source->snapshot)), 0, NULL);
}

static void
end_reading(Source *source)
{
	coze_peer_query(source->peer, "COMMIT", 0, NULL);
}

static Source *
open_source(CozeJoin *join)
{
	Source	   *source = palloc0(sizeof(Source));
	CozePeerRows *held;

	coze_peer_query(join->peer, "BEGIN ISOLATION LEVEL READ COMMITTED", 0, NULL);
	source->snapshot = coze_peer_query_value(join->peer, "SELECT cozesync.take_snapshot()", 0, NULL);
	source->peer = coze_peer_open(join->via, psprintf("node \"%s\"", join->donor_name));
	begin_reading(source);
	held = coze_peer_query(source->peer, "SELECT h.origins, h.hlcs, n.cut"
						   " FROM cozesync.held_in_snapshot() AS h, cozesync.local_node AS n", 0, NULL);
	end_reading(source);
	if (held->nrows != 1)
		elog(ERROR, "the donor is not a node any more");
	source->origins = held->values[0];
	source->hlcs = held->values[1];
	source->cut = held->values[2];
	return source;
}

static void
close_source(CozeJoin *join, Source *source)
{
	coze_peer_close(source->peer);
	coze_peer_query(join->peer, "COMMIT", 0, NULL);
}

/* --- which tables ---------------------------------------------------------------------------- */

/* Call a function of this node about a table that the donor has. */
static void
compare(CozeJoin *join, CozePeerConnection *peer, const char *function, const char *schema,
		const char *table)
{
	const char *ask[2] = {schema, table};
	char	   *there = coze_peer_query_value(peer, "SELECT pg_catalog.to_jsonb(d)"
											  " FROM cozesync.describe_table($1, $2) AS d", 2, ask);
	const char *params[6] = {schema, table, join->node_name, join->donor_name, there,
	join->copy_data ? "t" : "f"};

	coze_step_run(psprintf("SELECT cozesync.%s($1, $2, $3, $4, $5::jsonb, $6::boolean)", function),
				  6, params);
}

static CozePeerRows *
synced_there(CozePeerConnection *peer)
{
	return coze_peer_query(peer, "SELECT s.schema_name, s.table_name FROM cozesync.synced_table AS s"
						   " ORDER BY 1, 2", 0, NULL);
}

void
coze_join_check_tables(CozeJoin *join)
{
	CozePeerRows *there = synced_there(join->peer);

	for (int i = 0; i < there->nrows; i++)
		compare(join, join->peer, "check_table_here", coze_peer_value(there, i, 0),
				coze_peer_value(there, i, 1));
}

/* Tables that the donor syncs, as the session shows them. */
static void
take_on_tables_of(CozeJoin *join, CozePeerConnection *peer)
{
	CozePeerRows *there = synced_there(peer);
	CozePeerRows *here = coze_step_fetch("SELECT t.schema_name, t.table_name FROM cozesync.join_table AS t ORDER BY 1, 2", 0, NULL);
	int			j = 0;

	for (int i = 0; i < there->nrows; i++)
	{
		const char *schema = coze_peer_value(there, i, 0);
		const char *table = coze_peer_value(there, i, 1);

		for (j = 0; j < here->nrows; j++)
			if (strcmp(coze_peer_value(here, j, 0), schema) == 0 &&
				strcmp(coze_peer_value(here, j, 1), table) == 0)
				break;
		if (j == here->nrows)
			compare(join, peer, "take_on_table", schema, table);
		else
			here->values[j * 2] = "";	/* accounted for */
	}
	for (j = 0; j < here->nrows; j++)
		if (coze_peer_value(here, j, 0)[0] != '\0')
			coze_step_run("SELECT cozesync.give_up_table($1, $2)", 2, (const char *const *) &here->values[j * 2]);
}

void
coze_join_take_on_tables(CozeJoin *join)
{
	take_on_tables_of(join, join->peer);
}

/* --- rows ------------------------------------------------------------------------------------- */

/* The donor's table with all its partitions and TOAST, in bytes. */
static char *
size_there(Source *source, const char *name)
{
	const char *params[1] = {name};

	return coze_peer_query_value(source->peer, "SELECT sum(pg_catalog.pg_table_size(t.relid))"
								 " FROM pg_catalog.pg_partition_tree($1) AS t", 1, params);
}

/*
 * False: the table, or a partition of it, has got another file since our snapshot, so what was
 * read of it is not what it was then.  COPY has locked it: nothing more can happen to it.
 */
static bool
is_as_in_snapshot(Source *source, const char *name)
{
	const char *params[1] = {name};

	return !COZE_RULE("truncated-since") ||
		coze_peer_query_value(source->peer,
							  "SELECT EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid = $1::regclass)"
							  " AND NOT EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.relkind = 'r'"
							  " AND (c.oid = $1::regclass OR c.oid IN (SELECT t.relid FROM pg_catalog.pg_partition_tree($1) AS t))"
							  " AND c.relfilenode IS DISTINCT FROM pg_catalog.pg_relation_filenode(c.oid))",
							  1, params)[0] == 't';
}

static void
note_copied(Source *source, const char *schema, const char *table, uint64 rows)
{
	const char *params[6] = {schema, table, psprintf(UINT64_FORMAT, rows),
	psprintf(UINT64_FORMAT, copying.bytes), source->origins, source->hlcs};

	coze_step_run("UPDATE cozesync.join_table AS t SET copied_rows = $3::bigint, copied_bytes = $4::bigint,"
		" held = pg_catalog.jsonb_build_array($5, $6), stale = '{}' WHERE t.schema_name = $1 AND t.table_name = $2",
		6, params);
}

/* False: the table was truncated meanwhile, and there must be another snapshot. */
static bool
copy_whole_table(Source *source, const char *schema, const char *table, Oid relid)
{
	char	   *name = qualified(schema, table);
	const char *params[3] = {schema, table, size_there(source, name)};
	uint64		rows;

	coze_step_run("UPDATE cozesync.join_table AS t SET of_bytes = $3::bigint"
		" WHERE t.schema_name = $1 AND t.table_name = $2", 3, params);
	coze_step_end();

	coze_step_begin();
	coze_step_run(psprintf("DELETE FROM %s", name), 0, NULL);	/* of an earlier attempt */
	rows = copy_rows(source, relid, NULL);
	COZE_DEBUG_POINT("join-table-copied");
	if (!is_as_in_snapshot(source, name))
		return false;
	note_copied(source, schema, table, rows);
	ereport(NOTICE,
			(errmsg("copied table %s: " UINT64_FORMAT " rows", name, rows)));
	return true;
}

/* The key columns of a table here: quoted names, and the text array's elements cast to their types. */
static void
key_columns(Oid relid, char **names, char **casts)
{
	CozePeerRows *rows = coze_step_fetch(psprintf(
										"SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY k.n),"
										" string_agg(format('k.key[%%s]::%%s', k.n, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY k.n)"
										" FROM pg_index AS i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, n), pg_attribute AS a"
										" WHERE i.indexrelid = cozesync.key_index(%u) AND k.n <= i.indnkeyatts"
										" AND a.attrelid = i.indrelid AND a.attnum = k.attnum", relid), 0, NULL);

	*names = rows->values[0];
	*casts = rows->values[1];
}

/* Keys that changed between the table's vector and the source's; NULL: too much has. */
static char *
changed_keys(Source *source, const char *name, const char *origins, const char *hlcs)
{
	const char *params[5] = {name, origins, hlcs, source->origins, source->hlcs};
	CozePeerRows *rows = coze_peer_query(source->peer,
										 "SELECT pg_catalog.array_agg(DISTINCT k.key::text), pg_catalog.bool_or(k.key IS NULL)"
										 " FROM cozesync.changed_keys($1::regclass, $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[]) AS k (key)",
										 5, params);

	if (rows->values[1] == NULL)
		return "{}";
	return rows->values[1][0] == 't' ? NULL : rows->values[0];
}

/*
 * Bring a table that is here as of an earlier snapshot up to this one, rows of stale keys
 * included.  False: as copy_whole_table().
 */
static bool
bring_up_to_date(Source *source, const char *schema, const char *table, Oid relid,
				 const char *origins, const char *hlcs, const char *stale)
{
	char	   *name = qualified(schema, table);
	char	   *keys = changed_keys(source, name, origins, hlcs);
	uint64		rows;
	char	   *names;
	char	   *casts;
	char	   *where;

	if (keys == NULL)
		return copy_whole_table(source, schema, table, relid);
	key_columns(relid, &names, &casts);
	where = psprintf("(%s) IN (SELECT %s FROM (SELECT pg_catalog.unnest(%s::text[] || %s::text[])::text[] AS key) AS k)",
					 names, casts, quote_literal_cstr(keys),
					 quote_literal_cstr(COZE_RULE("stale-keys") ? stale : "{}"));
	coze_step_run(psprintf("DELETE FROM %s AS t WHERE %s", name, where), 0, NULL);
	rows = copy_rows(source, relid, where);
	if (!is_as_in_snapshot(source, name))
		return false;
	coze_step_run("UPDATE cozesync.join_table AS t SET held = pg_catalog.jsonb_build_array($3, $4), stale = '{}'"
		" WHERE t.schema_name = $1 AND t.table_name = $2", 4,
		(const char *const[]) {schema, table, source->origins, source->hlcs});
	ereport(NOTICE,
			(errmsg("brought table %s up to date: " UINT64_FORMAT " rows", name, rows)));
	return true;
}

/* False: not all can be read in this snapshot. */
static bool
copy_tables(CozeJoin *join, Source *source)
{
	CozePeerRows *tables;

	coze_step_begin();
	begin_reading(source);
	coze_join_take_ddl(source->peer, true);
	take_on_tables_of(join, source->peer);
	end_reading(source);
	tables = coze_step_fetch("SELECT t.schema_name, t.table_name, t.held->>0, t.held->>1, t.stale"
							 " FROM cozesync.join_table AS t ORDER BY 1, 2", 0, NULL);
	coze_step_end();

	for (int i = 0; i < tables->nrows && join->copy_data; i++)
	{
		const char *schema = coze_peer_value(tables, i, 0);
		const char *table = coze_peer_value(tables, i, 1);
		const char *origins = coze_peer_value(tables, i, 2);
		const char *hlcs = coze_peer_value(tables, i, 3);
		const char *stale = coze_peer_value(tables, i, 4);
		Oid			relid;
		bool		whole = true;

		coze_step_begin();
		begin_reading(source);
		relid = get_relname_relid(table, get_namespace_oid(schema, false));
		if (origins == NULL)
			whole = copy_whole_table(source, schema, table, relid);
		else if (strcmp(origins, source->origins) != 0 || strcmp(hlcs, source->hlcs) != 0 ||
				 strcmp(stale, "{}") != 0)
			whole = bring_up_to_date(source, schema, table, relid, origins, hlcs, stale);
		end_reading(source);
		if (!whole)
		{
			coze_step_abandon();
			return false;
		}
		coze_step_end();
		COZE_DEBUG_POINT("join-table-done");
	}
	return true;
}

/* --- facts and log ------------------------------------------------------------------------------- */

/* Members first: sequences are spread by the slot of this node. */
static const char *const facts[] = {
	"member", "dropped_member", "drop_entry", "link_mode", "synced_table", "rule", "settlement",
	"spread_sequence", "dropped_column", "skipped_entry",
	"base", "descriptor", "base_record", "conflict",
};

/* What becomes of an id of chunks. */
#define CHUNKS_ID(id) "CASE WHEN " id " < 0 THEN 2 * " id " - 1 ELSE -2 * " id " END"

/* What the copied rows show and is not forgotten: it counts as held, and does not come again. */
static void
copy_log(Source *source)
{
	Oid			log;
	Oid			chunk;
	List	   *log_columns = list_make4(makeString("origin"), makeString("hlc"),
										 makeString("chunks"), makeString("payload"));
	List	   *chunk_columns = list_make3(makeString("id"), makeString("seq"), makeString("payload"));
	StringInfoData large;

	if (!COZE_RULE("tail-held"))
		return;
	coze_log_lock_current(&log, &chunk);
	initStringInfo(&large);
	for (int i = 1; i <= COZE_LOG_SEGMENTS; i++)
	{
		copy_into(source->peer,
				  psprintf("COPY (SELECT l.origin, l.hlc, " CHUNKS_ID("l.chunks") ", l.payload FROM cozesync.log_%d AS l"
						   " WHERE l.hlc > %s) TO STDOUT (FORMAT binary)", i, source->cut),
				  log, log_columns, true);
		appendStringInfo(&large, "%sSELECT l.chunks FROM cozesync.log_%d AS l WHERE l.hlc > %s AND l.chunks <> 0",
						 i > 1 ? " UNION ALL " : "", i, source->cut);
	}
	for (int i = 1; i <= COZE_LOG_SEGMENTS; i++)
		copy_into(source->peer,
				  psprintf("COPY (SELECT " CHUNKS_ID("c.id") ", c.seq, c.payload FROM cozesync.chunk_%d AS c"
						   " WHERE c.id IN (%s)) TO STDOUT (FORMAT binary)", i, large.data),
				  chunk, chunk_columns, true);
}

/* Sequences that number rows go on behind what the donor has drawn. */
static void
copy_sequences(Source *source)
{
	CozePeerRows *there = coze_peer_query(source->peer,
										  "SELECT s.schema_name, s.table_name, a.attname, q.last_value"
										  " FROM cozesync.synced_table AS s"
										  " JOIN pg_catalog.pg_namespace AS n ON n.nspname = s.schema_name"
										  " JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = s.table_name"
										  " JOIN pg_catalog.pg_depend AS d ON d.refobjid = c.oid AND d.refclassid = 'pg_catalog.pg_class'::regclass"
										  " AND d.classid = 'pg_catalog.pg_class'::regclass AND d.deptype IN ('a', 'i')"
										  " JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid"
										  " JOIN pg_catalog.pg_class AS x ON x.oid = d.objid AND x.relkind = 'S'"
										  " JOIN pg_catalog.pg_namespace AS xn ON xn.oid = x.relnamespace"
										  " JOIN pg_catalog.pg_sequences AS q ON q.schemaname = xn.nspname AND q.sequencename = x.relname"
										  " WHERE q.last_value IS NOT NULL", 0, NULL);

	for (int i = 0; i < there->nrows; i++)
		coze_step_run("SELECT cozesync.advance_sequence($1, $2, $3, $4::bigint)", 4,
			(const char *const *) &there->values[i * 4]);
}

/*
 * Whom this node waits for before it may write.  Not for others that are joining: of two
 * that know of each other neither would become ready, and they forget nothing before
 * those who are ready count them and us.
 */
static void
note_catching_up(void)
{
	coze_step_run("UPDATE cozesync.join_run SET phase = 'catching up', waits_for ="
		" (SELECT coalesce(array_agg(m.origin), '{}') FROM cozesync.member AS m"
		" WHERE m.dropped_at IS NULL AND m.ready_at IS NOT NULL AND m.origin <> join_run.origin)", 0, NULL);
}

/* Has the donor pruned meanwhile what its snapshot should have shown? */
static bool
is_whole(CozeJoin *join, Source *source)
{
	char	   *cut = coze_peer_query_value(join->peer, "SELECT n.cut FROM cozesync.local_node AS n", 0, NULL);

	return strcmp(cut, source->cut) == 0;
}

static bool
take_over(CozeJoin *join, Source *source)
{
	coze_step_begin();
	(void) coze_attach();		/* not later, when uncommitted rows would be read */
	begin_reading(source);
	for (int i = 0; i < lengthof(facts); i++)
		(void) copy_rows(source, coze_relation_oid(facts[i], false), NULL);
	coze_step_run("SELECT setval(pg_get_serial_sequence('cozesync.conflict', 'id'), max(c.id))"
		" FROM cozesync.conflict AS c HAVING max(c.id) IS NOT NULL", 0, NULL);
	copy_log(source);
	copy_sequences(source);
	end_reading(source);
	if (!is_whole(join, source))
	{
		coze_step_abandon();
		return false;
	}
	coze_step_run(psprintf("UPDATE cozesync.local_node SET cut = %s, emptied = %s", source->cut, source->cut), 0, NULL);
	note_catching_up();
	COZE_DEBUG_POINT("join-before-takeover");
	coze_group_node_changed_at_commit();
	coze_step_end();
	return true;
}

void
coze_join_copy(CozeJoin *join)
{
	bool		done;

	do
	{
		Source	   *source = open_source(join);

		done = copy_tables(join, source) && take_over(join, source);
		close_source(join, source);
	} while (!done);
}
