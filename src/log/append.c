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
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "log/catalog.h"
#include "log/log.h"
#include "log/state.h"

/* Insert a row whose first two columns are, in this order, its index's key. */
static void
insert_row(Oid relid, Datum *values, int nindexed)
{
	Relation	rel = table_open(relid, RowExclusiveLock);
	bool		isnull[4] = {false, false, false, false};
	HeapTuple	tuple = heap_form_tuple(RelationGetDescr(rel), values, isnull);
	List	   *indexes;
	ListCell   *lc;

	heap_insert(rel, tuple, GetCurrentCommandId(true), 0, NULL);
	indexes = RelationGetIndexList(rel);
	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), RowExclusiveLock);
		IndexInfo  *info = BuildIndexInfo(index);

		Assert(IndexRelationGetNumberOfKeyAttributes(index) == nindexed);
		index_insert(index, values, isnull, &tuple->t_self, rel,
					 info->ii_Unique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO, false, info);
		index_close(index, NoLock);
		pfree(info);
	}
	list_free(indexes);
	heap_freetuple(tuple);
	table_close(rel, NoLock);
}

/* Bytes as a bytea datum with an uncompressed four-byte header. */
static Datum
bytes_datum(const char *data, Size size)
{
	bytea	   *b = palloc(VARHDRSZ + size);

	SET_VARSIZE(b, VARHDRSZ + size);
	memcpy(VARDATA(b), data, size);
	return PointerGetDatum(b);
}

static Oid
segment_table(const char *kind)
{
	char		name[NAMEDATALEN];

	snprintf(name, sizeof(name), "%s_%d", kind, coze_current_segment());
	return coze_relation_oid(name, false);
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

	values[0] = Int64GetDatum(chunks);
	values[1] = Int64GetDatum((int64) seq);
	values[2] = bytes_datum(data, size);
	insert_row(segment_table("chunk"), values, 2);
	pfree(DatumGetPointer(values[2]));
}

void
coze_log_append_head(CozeVersion version, int64 chunks, const char *head, Size size)
{
	Datum		values[4];

	values[0] = Int64GetDatum((int64) version.origin);
	values[1] = Int64GetDatum(version.hlc);
	values[2] = Int64GetDatum(chunks);
	values[3] = bytes_datum(head, size);
	insert_row(segment_table("log"), values, 2);
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
