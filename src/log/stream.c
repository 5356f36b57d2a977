/*-------------------------------------------------------------------------
 *
 * stream.c
 *		Heads of one origin in one segment, in the order of hlc.
 *
 * The index of log_N on (origin, hlc) is sparse: of this node's own entries it may lack
 * some.  An entry that it lacks is a follower.
 *
 * Invariant: each follower lies in the page of a leader, an entry of the same origin
 * that is in the index, was committed before the follower was inserted, and has an hlc
 * lower than the follower's by at most COZE_LOG_SPAN.
 *
 * So who looks for the entries of an interval finds all of them in the pages of the leaders
 * of that interval, begun COZE_LOG_SPAN earlier: whoever sees the follower sees its leader.
 * Entries of other origins, whatever came by SQL (a joiner's copy, a dump that is restored)
 * and all that is there when the index is built (REINDEX, VACUUM FULL) are in it: who reads
 * may find an entry as a leader that was written as a follower, and needs not know.  For
 * the log is emptied when the node's origin changes, no other origin's is sparse.
 *
 * The invariant lasts, since rows are neither updated nor deleted: the page of a committed
 * row stays, and so does its row in the index.  What moves rows makes another file, and with
 * it a whole index.  append.c sees to the rest: whom a backend takes for a leader.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "fmgr.h"
#include "storage/bufmgr.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "debug.h"
#include "log/log.h"
#include "log/stream.h"

PG_FUNCTION_INFO_V1(coze_log_is_sparse);

/* A row in hand. */
typedef struct StreamRow
{
	pairingheap_node node;
	CozeHlc		hlc;
	HeapTuple	tuple;
} StreamRow;

/* Which rows of a page are wanted: those of origin with after < hlc <= upto. */
typedef struct PageWanted
{
	CozeOrigin	origin;
	CozeHlc		after;
	CozeHlc		upto;
} PageWanted;

/*
 * log_is_sparse(bigint): true.  The predicate of the sparse indexes; nothing implies it, so the
 * planner uses them for nobody's query, which would miss the followers.
 */
Datum
coze_log_is_sparse(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(true);
}

Relation
coze_segment_open(CozeSegmentTable table, int segment)
{
	Relation	rel;

	if (coze_log_segment_is_empty(segment))
		return NULL;
	rel = table_open(coze_segment_oid(table, segment), AccessShareLock);
	if (RelationGetNumberOfBlocks(rel) == 0)
	{
		table_close(rel, AccessShareLock);
		return NULL;
	}
	return rel;
}

/* While REINDEX CONCURRENTLY runs, or if it has failed, there are others beside the valid one. */
Relation
coze_segment_index_open(Relation rel)
{
	List	   *indexes = RelationGetIndexList(rel);
	Relation	found = NULL;

	for (int i = 0; i < list_length(indexes) && found == NULL; i++)
	{
		found = index_open(list_nth_oid(indexes, i), AccessShareLock);
		if (!found->rd_index->indisvalid)
		{
			index_close(found, AccessShareLock);
			found = NULL;
		}
	}
	list_free(indexes);
	if (found == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cozesync.%s has no valid index", RelationGetRelationName(rel)),
				 errhint("Use REINDEX TABLE cozesync.%s.", RelationGetRelationName(rel))));
	return found;
}

/* The first two columns are of fixed width and never null. */
CozeVersion
coze_row_version(HeapTuple tuple)
{
	const int64 *columns = (const int64 *) ((char *) tuple->t_data + tuple->t_data->t_hoff);
	CozeVersion version;

	version.origin = (CozeOrigin) columns[COZE_LOG_ORIGIN - 1];
	version.hlc = (CozeHlc) columns[COZE_LOG_HLC - 1];
	return version;
}

static CozeHlc
span(void)
{
	return COZE_RULE("begin-earlier") ? COZE_LOG_SPAN : 0;
}

/* --- the rows of a page ------------------------------------------------------------- */

/* The next row of a page that is wanted and visible, behind *offset; the page is locked. */
static bool
next_in_page(Relation segment, Buffer buffer, const PageWanted *wanted, Snapshot snapshot,
			 OffsetNumber *offset, HeapTuple tuple)
{
	Page		page = BufferGetPage(buffer);
	OffsetNumber last = PageGetMaxOffsetNumber(page);

	for (OffsetNumber i = OffsetNumberNext(*offset); i <= last; i = OffsetNumberNext(i))
	{
		ItemId		item = PageGetItemId(page, i);
		CozeVersion version;

		if (!ItemIdIsNormal(item))
			continue;
		tuple->t_data = (HeapTupleHeader) PageGetItem(page, item);
		tuple->t_len = ItemIdGetLength(item);
		tuple->t_tableOid = RelationGetRelid(segment);
		ItemPointerSet(&tuple->t_self, BufferGetBlockNumber(buffer), i);
		version = coze_row_version(tuple);
		if (version.origin == wanted->origin && version.hlc > wanted->after &&
			version.hlc <= wanted->upto && HeapTupleSatisfiesVisibility(tuple, snapshot, buffer))
		{
			*offset = i;
			return true;
		}
	}
	return false;
}

static Buffer
lock_page(Relation segment, BlockNumber block)
{
	Buffer		buffer = ReadBuffer(segment, block);

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	return buffer;
}

/* --- forwards ------------------------------------------------------------------------- */

/* The heap gives the greatest first. */
static int
lower_first(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	CozeHlc		x = pairingheap_const_container(StreamRow, node, a)->hlc;
	CozeHlc		y = pairingheap_const_container(StreamRow, node, b)->hlc;

	return x < y ? 1 : x > y ? -1 : 0;
}

static SysScanDesc
scan_leaders(Relation segment, Relation index, CozeOrigin origin, CozeHlc after, CozeHlc upto,
			 bool sparse, Snapshot snapshot)
{
	ScanKeyData keys[3];

	if (sparse)
		after = Max(after, span()) - span();
	ScanKeyInit(&keys[0], COZE_LOG_ORIGIN, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum((int64) origin));
	ScanKeyInit(&keys[1], COZE_LOG_HLC, BTGreaterStrategyNumber, F_INT8GT, Int64GetDatum(after));
	ScanKeyInit(&keys[2], COZE_LOG_HLC, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(upto));
	return systable_beginscan_ordered(segment, index, snapshot, 3, keys);
}

/*
 * Take the rows of a leader's page that may be its followers, and itself.  Where the index is
 * whole each row of the page is a leader: so those of the next ones are taken, too.
 */
static void
take_page(CozeLogStream *stream, BlockNumber block, CozeVersion leader)
{
	CozePageTaken *taken = &stream->taken[block % COZE_PAGES_TAKEN];
	PageWanted	wanted = {leader.origin, Max(stream->after, leader.hlc - 1), leader.hlc + COZE_LOG_SPAN};
	OffsetNumber offset = InvalidOffsetNumber;
	HeapTupleData tuple;
	Buffer		buffer;
	MemoryContext old;

	if (taken->block == block)
	{
		if (wanted.upto <= taken->upto)
			return;
		wanted.after = Max(wanted.after, taken->upto);
	}
	taken->block = block;
	taken->upto = wanted.upto + COZE_LOG_SPAN;
	wanted.upto = Min(stream->upto, taken->upto);
	if (wanted.after >= wanted.upto)
		return;
	old = MemoryContextSwitchTo(stream->context);
	buffer = lock_page(stream->segment, block);
	while (next_in_page(stream->segment, buffer, &wanted, stream->snapshot, &offset, &tuple))
	{
		StreamRow  *row = palloc(sizeof(StreamRow));

		row->tuple = heap_copytuple(&tuple);
		row->hlc = coze_row_version(&tuple).hlc;
		pairingheap_add(stream->rows, &row->node);
	}
	UnlockReleaseBuffer(buffer);
	MemoryContextSwitchTo(old);
}

/*
 * The lowest row in hand, taken out, if there can be no lower one.  A row that is in the
 * pages of two leaders comes twice.
 */
static HeapTuple
next_in_hand(CozeLogStream *stream)
{
	while (!pairingheap_is_empty(stream->rows))
	{
		StreamRow  *row = pairingheap_container(StreamRow, node, pairingheap_first(stream->rows));
		HeapTuple	tuple = row->tuple;
		CozeHlc		hlc = row->hlc;

		if (hlc > stream->reached)
			return NULL;
		(void) pairingheap_remove_first(stream->rows);
		pfree(row);
		if (hlc > stream->after)
			return tuple;
		heap_freetuple(tuple);
	}
	return NULL;
}

static void
advance_sparse(CozeLogStream *stream)
{
	if (stream->tuple != NULL)
		heap_freetuple(stream->tuple);
	while ((stream->tuple = next_in_hand(stream)) == NULL && stream->reached < PG_INT64_MAX)
	{
		HeapTuple	leader = systable_getnext_ordered(stream->scan, ForwardScanDirection);

		if (leader == NULL)
			stream->reached = PG_INT64_MAX;
		else
		{
			CozeVersion version = coze_row_version(leader);

			stream->reached = version.hlc;
			take_page(stream, ItemPointerGetBlockNumber(&leader->t_self), version);
		}
	}
}

void
coze_stream_advance(CozeLogStream *stream)
{
	if (stream->sparse)
		advance_sparse(stream);
	else
		stream->tuple = systable_getnext_ordered(stream->scan, ForwardScanDirection);
	if (stream->tuple == NULL)
		return;
	stream->version = coze_row_version(stream->tuple);
	stream->after = stream->version.hlc;
}

void
coze_stream_open(CozeLogStream *stream, Relation segment, CozeOrigin origin, CozeHlc after,
				 CozeHlc upto, bool sparse, Snapshot snapshot)
{
	memset(stream, 0, sizeof(*stream));
	stream->desc = RelationGetDescr(segment);
	stream->segment = segment;
	stream->snapshot = snapshot;
	stream->after = after;
	stream->upto = upto;
	stream->sparse = sparse;
	for (int i = 0; i < COZE_PAGES_TAKEN; i++)
		stream->taken[i].block = InvalidBlockNumber;
	stream->context = CurrentMemoryContext;
	if (sparse)
		stream->rows = pairingheap_allocate(lower_first, NULL);
	stream->index = coze_segment_index_open(segment);
	stream->scan = scan_leaders(segment, stream->index, origin, after, upto, sparse, snapshot);
	coze_stream_advance(stream);
}

void
coze_stream_close(CozeLogStream *stream)
{
	systable_endscan_ordered(stream->scan);
	index_close(stream->index, AccessShareLock);
	if (!stream->sparse)
		return;
	if (stream->tuple != NULL)
		heap_freetuple(stream->tuple);
	while (!pairingheap_is_empty(stream->rows))
	{
		StreamRow  *row = pairingheap_container(StreamRow, node, pairingheap_remove_first(stream->rows));

		heap_freetuple(row->tuple);
		pfree(row);
	}
	pairingheap_free(stream->rows);
}

/* --- backwards ------------------------------------------------------------------------- */

/* The highest row of a page that is wanted, palloc'd, or NULL. */
static HeapTuple
last_in_page(Relation segment, BlockNumber block, PageWanted *wanted, Snapshot snapshot)
{
	Buffer		buffer = lock_page(segment, block);
	OffsetNumber offset = InvalidOffsetNumber;
	HeapTupleData tuple;
	HeapTupleData best = {0};
	HeapTuple	copy;

	while (next_in_page(segment, buffer, wanted, snapshot, &offset, &tuple))
	{
		best = tuple;
		wanted->after = coze_row_version(&tuple).hlc;
	}
	copy = best.t_data != NULL ? heap_copytuple(&best) : NULL;
	UnlockReleaseBuffer(buffer);
	return copy;
}

HeapTuple
coze_stream_find_in_page(Relation segment, BlockNumber block, CozeVersion version, Snapshot snapshot)
{
	PageWanted	wanted = {version.origin, version.hlc - 1, version.hlc};

	return last_in_page(segment, block, &wanted, snapshot);
}

/*
 * The last leader need not be that of the last follower: others may have begun earlier, but
 * not by more than the span.
 */
HeapTuple
coze_stream_last(Relation segment, CozeOrigin origin, CozeHlc after, CozeHlc upto, bool sparse,
				 Snapshot snapshot)
{
	Relation	index = coze_segment_index_open(segment);
	SysScanDesc scan = scan_leaders(segment, index, origin, after, upto, sparse, snapshot);
	HeapTuple	found = NULL;
	HeapTuple	leader;

	while (after < upto &&
		   (leader = systable_getnext_ordered(scan, BackwardScanDirection)) != NULL)
	{
		CozeHlc		hlc = coze_row_version(leader).hlc;
		PageWanted	wanted = {origin, Max(after, hlc - 1), Min(upto, hlc + COZE_LOG_SPAN)};
		HeapTuple	better;

		if (!sparse)
		{
			found = heap_copytuple(leader);
			break;
		}
		if (hlc + span() <= after)
			break;
		better = last_in_page(segment, ItemPointerGetBlockNumber(&leader->t_self), &wanted, snapshot);
		if (better == NULL)
			continue;
		if (found != NULL)
			heap_freetuple(found);
		found = better;
		after = wanted.after;
	}
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	return found;
}
