/*-------------------------------------------------------------------------
 *
 * append.c
 *		Rows into the change log.
 *
 * Straight into the heap and its one index, without executor, planner or
 * privileges: every writer of a synced table comes through here at commit.
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

#include "log/catalog.h"
#include "log/log.h"
#include "log/state.h"

/* Columns 1 and 2, unique: the indexes of all segments are alike. */
static IndexInfo *index_info = NULL;

static IndexInfo *
segment_index_info(Relation index)
{
	if (index_info == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		index_info = BuildIndexInfo(index);
		MemoryContextSwitchTo(old);
		Assert(index_info->ii_Unique && index_info->ii_NumIndexKeyAttrs == 2);
	}
	return index_info;
}

/*
 * The current segment's table.  It is the current one also after it is locked, so
 * that it is not emptied while it is written in, and no reader takes a segment for empty
 * that still is to be written in (coze_log_segment_is_empty).
 */
static Relation
open_current(CozeSegmentTable table, CozeSegmentOids *found)
{
	for (;;)
	{
		int			segment = coze_current_segment();
		Relation	rel;

		*found = coze_segment_oids(table, segment);
		rel = table_open(found->table, RowExclusiveLock);
		if (segment == coze_current_segment())
			return rel;
		table_close(rel, NoLock);
	}
}

void
coze_log_lock_current(Oid *log, Oid *chunk)
{
	CozeSegmentOids found;

	table_close(open_current(COZE_SEGMENT_LOG, &found), NoLock);
	*log = found.table;
	table_close(open_current(COZE_SEGMENT_CHUNK, &found), NoLock);
	*chunk = found.table;
}

/* Insert a row into the current segment; its first two columns are the index's key. */
static void
insert_row(CozeSegmentTable table, Datum *values, bool *isnull)
{
	CozeSegmentOids found;
	Relation	rel = open_current(table, &found);
	Relation	index;
	HeapTuple	tuple;

	tuple = heap_form_tuple(RelationGetDescr(rel), values, isnull);
	heap_insert(rel, tuple, GetCurrentCommandId(true), 0, NULL);
	index = index_open(found.index, RowExclusiveLock);
	index_insert(index, values, isnull, &tuple->t_self, rel, UNIQUE_CHECK_YES, false,
				 segment_index_info(index));
	index_close(index, NoLock);
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
	insert_row(COZE_SEGMENT_CHUNK, values, isnull);
	pfree(DatumGetPointer(values[2]));
}

void
coze_log_append_head(CozeVersion version, int64 chunks, const char *head, Size size)
{
	Datum		values[4];
	bool		isnull[4] = {false, false, chunks == 0, false};

	Assert(coze_load_u64(head) == version.origin && coze_load_u64(head + 8) == (uint64) version.hlc);
	values[0] = Int64GetDatum((int64) version.origin);
	values[1] = Int64GetDatum(version.hlc);
	values[2] = Int64GetDatum(chunks);
	values[3] = bytes_datum(head + COZE_WIRE_VERSION_SIZE, size - COZE_WIRE_VERSION_SIZE);
	insert_row(COZE_SEGMENT_LOG, values, isnull);
	pfree(DatumGetPointer(values[3]));
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
