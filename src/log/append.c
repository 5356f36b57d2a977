/*-------------------------------------------------------------------------
 *
 * append.c
 *		Rows into the change log.
 *
 * Straight into the heap and its index, without executor, planner or
 * privileges: every writer of a synced table comes through here at commit.
 *
 * Some heads go into the heap alone: those of this backend's own entries behind one that is
 * in the index (stream.c has the invariant).  What a backend takes for the leader is its
 * own last entry that it put into the index, from the moment at which that has committed: one
 * whose transaction aborts, or a server that crashes, leads nobody.  Whether a row has got into
 * the leader's page is seen when it is there; a segment that was emptied or written anew is
 * another file.
 *
 * Invariant: a transaction keeps its RowExclusiveLock on each segment that it
 * wrote in, so that a segment that can be locked exclusively holds nothing of a
 * transaction still in progress.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/index.h"
#include "executor/executor.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "debug.h"
#include "log/catalog.h"
#include "log/log.h"
#include "log/state.h"
#include "log/stream.h"

/* Columns 1 and 2, unique: the indexes of all segments are alike. */
static IndexInfo *index_info = NULL;

/* An own entry in the index, and where it lies. */
typedef struct CozeLeader
{
	CozeVersion version;		/* hlc 0: there is none */
	Oid			table;
	Oid			file;			/* its relfilenode, until it is emptied */
	BlockNumber block;
} CozeLeader;

static CozeLeader leader;		/* has committed */
static CozeLeader next_leader;	/* was inserted by the transaction at hand */

static IndexInfo *
segment_index_info(Relation index)
{
	const Form_pg_index form = index->rd_index;

	if (!form->indisunique || form->indnkeyatts != 2 || form->indkey.values[0] != 1 || form->indkey.values[1] != 2)
		elog(ERROR, "index \"%s\" is not one of the log's", RelationGetRelationName(index));
	if (index_info == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		index_info = BuildIndexInfo(index);
		MemoryContextSwitchTo(old);
	}
	return index_info;
}

/*
 * The current segment's table.  It is the current one also after it is locked, so
 * that it is not emptied while it is written in, and no reader takes a segment for empty
 * that still is to be written in (coze_log_segment_is_empty).
 */
static Relation
open_current(CozeSegmentTable table)
{
	for (;;)
	{
		int			segment = coze_current_segment();
		Relation	rel = table_open(coze_segment_oid(table, segment), RowExclusiveLock);

		if (segment == coze_current_segment())
			return rel;
		table_close(rel, NoLock);
	}
}

void
coze_log_lock_current(Oid *log, Oid *chunk)
{
	Relation	rel = open_current(COZE_SEGMENT_LOG);

	*log = RelationGetRelid(rel);
	table_close(rel, NoLock);
	rel = open_current(COZE_SEGMENT_CHUNK);
	*chunk = RelationGetRelid(rel);
	table_close(rel, NoLock);
}

static bool
is_follower(const CozeLeader *place)
{
	return leader.version.hlc != 0 && leader.version.origin == place->version.origin &&
		leader.version.hlc < place->version.hlc &&
		(place->version.hlc - leader.version.hlc <= COZE_LOG_SPAN || !COZE_RULE("follower-near")) &&
		leader.table == place->table && leader.file == place->file &&
		(leader.block == place->block || !COZE_RULE("follower-in-page"));
}

/* Does the own entry that now lies there need a row in the index? */
static bool
becomes_leader(Relation rel, const ItemPointerData *tid, CozeVersion version)
{
	CozeLeader	place = {version, RelationGetRelid(rel), rel->rd_rel->relfilenode,
	ItemPointerGetBlockNumber(tid)};

	if (is_follower(&place))
		return false;
	next_leader = place;
	if (!COZE_RULE("leader-committed"))
		leader = place;
	return true;
}

void
coze_log_append_ended(bool committed)
{
	if (committed && next_leader.version.hlc != 0)
		leader = next_leader;
	next_leader.version.hlc = 0;
}

/* Into the index; into two of them while REINDEX CONCURRENTLY runs. */
static void
index_row(Relation rel, Datum *values, bool *isnull, HeapTuple tuple)
{
	List	   *indexes = RelationGetIndexList(rel);

	for (int i = 0; i < list_length(indexes); i++)
	{
		Relation	index = index_open(list_nth_oid(indexes, i), RowExclusiveLock);

		if (index->rd_index->indisready)
			index_insert(index, values, isnull, &tuple->t_self, rel, UNIQUE_CHECK_YES, false,
						 segment_index_info(index));
		index_close(index, NoLock);
	}
	list_free(indexes);
}

/*
 * Insert a row into the current segment; its first two columns are the index's key.  own: the
 * version, if it is the head of an own entry.
 */
static void
insert_row(CozeSegmentTable table, Datum *values, bool *isnull, const CozeVersion *own)
{
	Relation	rel = open_current(table);
	HeapTuple	tuple;

	tuple = heap_form_tuple(RelationGetDescr(rel), values, isnull);
	heap_insert(rel, tuple, GetCurrentCommandId(true), 0, NULL);
	if (own == NULL || becomes_leader(rel, &tuple->t_self, *own))
		index_row(rel, values, isnull, tuple);
	heap_freetuple(tuple);
	table_close(rel, NoLock);
}

/* Bytes as a bytea datum, neither compressed nor to be aligned where that can be. */
static Datum
bytes_datum(const char *data, Size size)
{
	bytea	   *b = palloc(VARHDRSZ + size);

	if (size + VARHDRSZ_SHORT <= VARATT_SHORT_MAX)
		SET_VARSIZE_SHORT(b, VARHDRSZ_SHORT + size);
	else
		SET_VARSIZE(b, VARHDRSZ + size);
	memcpy(VARDATA_ANY(b), data, size);
	return PointerGetDatum(b);
}

int64
coze_log_chunks_id(void)
{
	return (int64) U64FromFullTransactionId(GetTopFullTransactionId());
}

void
coze_log_append_chunk(int64 chunks, uint64 seq, const char *data, Size size)
{
	Datum		values[3];
	bool		isnull[3] = {false, false, false};

	values[0] = Int64GetDatum(chunks);
	values[1] = Int64GetDatum((int64) seq);
	values[2] = bytes_datum(data, size);
	insert_row(COZE_SEGMENT_CHUNK, values, isnull, NULL);
	pfree(DatumGetPointer(values[2]));
}

static void
append_head(CozeVersion version, int64 chunks, const char *head, Size size, bool own)
{
	Datum		values[4];
	bool		isnull[4] = {false, false, chunks == 0, false};

	Assert(coze_load_u64(head) == version.origin && coze_load_u64(head + 8) == (uint64) version.hlc);
	values[0] = Int64GetDatum((int64) version.origin);
	values[1] = Int64GetDatum(version.hlc);
	values[2] = Int64GetDatum(chunks);
	values[3] = bytes_datum(head + COZE_WIRE_VERSION_SIZE, size - COZE_WIRE_VERSION_SIZE);
	insert_row(COZE_SEGMENT_LOG, values, isnull, own ? &version : NULL);
	pfree(DatumGetPointer(values[3]));
}

void
coze_log_append_head(CozeVersion version, int64 chunks, const char *head, Size size)
{
	append_head(version, chunks, head, size, false);
}

void
coze_log_append_own_head(CozeVersion version, int64 chunks, const char *head, Size size)
{
	Assert(GetCurrentTransactionNestLevel() == 1);
	append_head(version, chunks, head, size, true);
}

/* --- descriptors ------------------------------------------------------------ */

char *
coze_log_get_descriptor(uint64 hash, Size *size)
{
	Relation	rel = table_open(coze_relation_oid("descriptor", false), AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	char	   *data = NULL;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum((int64) hash));
	scan = systable_beginscan(rel, coze_relation_oid("descriptor_hash", false), true,
							  snapshot, 1, &key);
	tuple = systable_getnext(scan);
	if (tuple != NULL)
	{
		bool		isnull;
		bytea	   *b = DatumGetByteaPP(heap_getattr(tuple, 2, RelationGetDescr(rel), &isnull));

		*size = VARSIZE_ANY_EXHDR(b);
		data = palloc(*size);
		memcpy(data, VARDATA_ANY(b), *size);
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	return data;
}

bool
coze_log_has_descriptor(uint64 hash)
{
	Size		size;
	char	   *data = coze_log_get_descriptor(hash, &size);

	if (data == NULL)
		return false;
	pfree(data);
	return true;
}

void
coze_log_put_descriptor(uint64 hash, const char *data, Size size)
{
	Relation	rel = table_open(coze_relation_oid("descriptor", false), RowExclusiveLock);
	Datum		values[2];
	bool		isnull[2] = {false, false};
	HeapTuple	tuple;

	values[0] = Int64GetDatum((int64) hash);
	values[1] = bytes_datum(data, size);
	tuple = heap_form_tuple(RelationGetDescr(rel), values, isnull);
	CatalogTupleInsert(rel, tuple);
	CommandCounterIncrement();
	table_close(rel, NoLock);
}
