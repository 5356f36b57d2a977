/*-------------------------------------------------------------------------
 *
 * row.c
 *		Rows of tables here: find them by key, or all of them.
 *
 * Invariant (Absent): "no such row" only when no transaction in progress holds
 * the key and a snapshot taken after that shows none.  A search under a dirty
 * snapshot alone would miss a row that is just being moved; one under an MVCC
 * snapshot alone would miss a row that is just being committed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/relscan.h"
#include "access/multixact.h"
#include "access/subtrans.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/partition.h"
#include "catalog/pg_inherits.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "apply/stop.h"
#include "apply/target.h"
#include "compat.h"
#include "debug.h"

struct CozeRowScan
{
	CozeTarget *target;
	List	   *relids;			/* still to do */
	Relation	rel;
	CozeHeap	heap;			/* only rel, attnums, found, target are set */
	TableScanDesc scan;
};

/* --- finding --- */

/* One row, by a unique index of its heap. */
typedef struct Search
{
	CozeHeap   *heap;
	IndexScanDesc scan;
	ScanKey		keys;
	int			nkeys;
	CozeLook	look;
	bool		waited;			/* for one who held the row or key */
} Search;

#if COZE_READS_HEAP
/*
 * The server's own look at a row first prunes its page if less than a tenth of it is free. A
 * page that was full when it was loaded is so after each update, and a backlog of small
 * updates spent most of its time with that. So here only a page without room for the row's
 * next version is pruned, and every so many times that one is met: meanwhile such versions
 * go to other pages, and soon there is room in all of them.
 */
#define PRUNE_EVERY 4

/* The row that an index entry leads to, if the snapshot sees one. */
static bool
fetch_row(IndexScanDesc scan, TupleTableSlot *slot)
{
	static uint32 full_met = 0;
	Relation	rel = scan->heapRelation;
	ItemPointerData tid = scan->xs_heaptid;
	Buffer		buffer = ReadBuffer(rel, ItemPointerGetBlockNumber(&tid));
	HeapTupleData tuple;
	bool		all_dead = false;
	bool		full = false;
	bool		found;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	found = heap_hot_search_buffer(&tid, rel, buffer, scan->xs_snapshot, &tuple, &all_dead, true);
	if (found)
		full = PageGetHeapFreeSpace(BufferGetPage(buffer)) < MAXALIGN(tuple.t_len);
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
	scan->kill_prior_tuple = all_dead;
	if (found)
	{
		ExecStoreBufferHeapTuple(&tuple, slot, buffer);
		ExecMaterializeSlot(slot);	/* pruning moves it */
	}
	if (full && ++full_met % PRUNE_EVERY == 0)
		heap_page_prune_opt(rel, buffer);
	ReleaseBuffer(buffer);
	return found;
}
#else
static bool
fetch_row(IndexScanDesc scan, TupleTableSlot *slot)
{
	bool		found = index_fetch_heap(scan, slot);

	if (found)
		ExecMaterializeSlot(slot);
	return found;
}
#endif

/* Leaves a copy in heap->found, and the scan without a pin on any page. */
static bool
scan_index(const Search *search, Snapshot snapshot)
{
	IndexScanDesc scan = search->scan;
	TupleTableSlot *slot = search->heap->found;
	MemoryContext old = MemoryContextSwitchTo(coze_target_context());	/* what a scan keeps */
	bool		found = false;

	scan->xs_snapshot = snapshot;
	index_rescan(scan, search->keys, search->nkeys, NULL, 0);
	while (!found && index_getnext_tid(scan, ForwardScanDirection) != NULL)
	{
		COZE_DEBUG_POINT("row-between-index-and-heap");
		found = fetch_row(scan, slot);
	}
	index_rescan(scan, search->keys, search->nkeys, NULL, 0);
	scan->xs_snapshot = SnapshotAny;
	MemoryContextSwitchTo(old);
	return found;
}

static int
pid_of_xid(TransactionId xid)
{
	return TransactionIdIsValid(xid) ? BackendXidGetPid(SubTransGetTopmostTransaction(xid)) : 0;
}

/* Who has updated, deleted or locked the tuple that was found? */
static int
holder_of_tuple(TupleTableSlot *slot)
{
	bool		should_free;
	HeapTuple	tuple = ExecFetchSlotHeapTuple(slot, false, &should_free);
	TransactionId xmax = HeapTupleHeaderGetRawXmax(tuple->t_data);
	bool		multi = (tuple->t_data->t_infomask & HEAP_XMAX_IS_MULTI) != 0;
	int			pid = 0;

	if (should_free)
		heap_freetuple(tuple);
	if (!multi)
		return TransactionIdIsInProgress(xmax) ? pid_of_xid(xmax) : 0;
	{
		MultiXactMember *members;
		int			n = GetMultiXactIdMembers(xmax, &members, false, false);

		for (int i = 0; i < n && pid == 0; i++)
		{
			if (TransactionIdIsInProgress(members[i].xid))
				pid = pid_of_xid(members[i].xid);
		}
	}
	return pid;
}

static void
wait_begins(int pid)
{
	coze_applying.held_back_by = pid;
	coze_stop_waiting();
}

/* Wait, for as long as lock_timeout lets us, for one who holds the key. */
static void
wait_for(const SnapshotData *dirty)
{
	TransactionId xid = TransactionIdIsValid(dirty->xmin) ? dirty->xmin : dirty->xmax;

	wait_begins(pid_of_xid(xid));
	if (dirty->speculativeToken != 0)
		SpeculativeInsertionWait(xid, dirty->speculativeToken);
	else
		XactLockTableWait(xid, NULL, NULL, XLTW_None);
	coze_stop_waited();
}

/* Lock what was found; false: it has changed meanwhile. */
static bool
lock_row(Search *search)
{
	CozeHeap   *heap = search->heap;
	LockTupleMode mode = search->look == COZE_LOOK_TO_DELETE ? LockTupleExclusive : LockTupleNoKeyExclusive;
	TM_FailureData tmfd;
	TM_Result	result;

	result = table_tuple_lock(heap->rel, &heap->found->tts_tid, GetActiveSnapshot(), heap->found,
							  GetCurrentCommandId(false), mode, LockWaitSkip, 0, &tmfd);
	if (result == TM_WouldBlock)
	{
		search->waited = true;
		wait_begins(holder_of_tuple(heap->found));
		result = table_tuple_lock(heap->rel, &heap->found->tts_tid, GetActiveSnapshot(),
								  heap->found, GetCurrentCommandId(false), mode, LockWaitBlock,
								  0, &tmfd);
		coze_stop_waited();
	}
	switch (result)
	{
		case TM_Ok:
			return true;
		case TM_Updated:
		case TM_Deleted:
			search->waited = true;
			return false;
		case TM_Invisible:
		case TM_SelfModified:
		case TM_BeingModified:
		case TM_WouldBlock:
			break;
	}
	elog(ERROR, "unexpected result %u of locking a row", result);
	return false;
}

typedef enum Sight
{
	SIGHT_NOTHING,
	SIGHT_ROW,					/* locked, if it was looked for to write to it */
	SIGHT_MOVED,				/* it was there, and has changed before it was locked */
} Sight;

static Sight
look_afresh(Search *search)
{
	Sight		sight = SIGHT_NOTHING;

	PushActiveSnapshot(GetLatestSnapshot());
	if (scan_index(search, GetActiveSnapshot()))
		sight = search->look == COZE_LOOK_ONLY || lock_row(search) ? SIGHT_ROW : SIGHT_MOVED;
	PopActiveSnapshot();
	return sight;
}

/*
 * The search proper.  A look with a dirty snapshot alone would not do: it misses a row
 * that is updated, and so moved, between the look at the index and that at the row.
 */
static bool
find_in_heap(Search *search)
{
	coze_row_flush();
	for (;;)
	{
		SnapshotData dirty;
		Sight		sight = SIGHT_NOTHING;

		CHECK_FOR_INTERRUPTS();
		if (COZE_RULE("fresh-look"))
			sight = look_afresh(search);
		if (sight == SIGHT_ROW)
			return true;
		if (sight == SIGHT_MOVED)
			continue;
		if (search->look == COZE_LOOK_ONLY || !COZE_RULE("absent-wait"))
			return false;
		InitDirtySnapshot(dirty);
		if (scan_index(search, &dirty))
		{
			search->waited = true;
			if (TransactionIdIsValid(dirty.xmin) || TransactionIdIsValid(dirty.xmax))
				wait_for(&dirty);
			continue;
		}
		if (!COZE_RULE("fresh-look"))
			return false;

		/* what was committed between the two looks */
		sight = look_afresh(search);
		if (sight != SIGHT_MOVED)
			return sight == SIGHT_ROW;
	}
}

/* Find the row of a key: one that is not there is not found in any partition. */
bool
coze_row_find(CozeTarget *target, const Datum *key, CozeLook look, CozeFound *found)
{
	CozeHeap   *heap = coze_heap_for_key(target, key);
	Search		search = {
		.heap = heap,.scan = heap->key_scan,.keys = heap->scan_keys,
		.nkeys = target->table->nkeys,.look = look,
	};
	bool		there;

	for (int i = 0; i < target->table->nkeys; i++)
		heap->scan_keys[i].sk_argument = key[heap->key_of[i]];
	there = find_in_heap(&search);
	found->heap = heap;
	found->slot = heap->found;
	found->waited = search.waited;
	return there;
}

/* The row that has a value in a unique index. */
bool
coze_row_find_unique(CozeTarget *target, int index, const CozeUniqueValue *value, CozeLook look,
					 CozeFound *found)
{
	const CozeUnique *unique = &target->table->uniques[index];
	CozeHeap   *heap = coze_heap_for_value(target, unique, value);
	Oid			oid = target->table->partitioned ? index_get_partition(heap->rel, unique->index) :
		unique->index;
	ScanKeyData keys[INDEX_MAX_KEYS];
	Search		search = {.heap = heap,.keys = keys,.nkeys = value->n,.look = look};
	Relation	rel;
	bool		there;

	for (int i = 0; i < value->n; i++)
		ScanKeyEntryInitialize(&keys[i], value->isnull[i] ? SK_ISNULL | SK_SEARCHNULL : 0, i + 1,
							   value->isnull[i] ? InvalidStrategy : BTEqualStrategyNumber,
							   InvalidOid, unique->collations[i],
							   value->isnull[i] ? InvalidOid : get_opcode(unique->operators[i]),
							   value->isnull[i] ? (Datum) 0 : value->values[i]);
	rel = index_open(oid, RowExclusiveLock);
	search.scan = coze_index_beginscan(heap->rel, rel, SnapshotAny, value->n);
	there = find_in_heap(&search);
	index_endscan(search.scan);
	index_close(rel, NoLock);
	found->heap = heap;
	found->slot = heap->found;
	found->waited = search.waited;
	return there;
}

void
coze_row_of_slot(CozeTarget *target, const CozeFound *found, CozeRow *row)
{
	CozeHeap   *heap = found->heap;

	slot_getallattrs(found->slot);
	for (int i = 0; i < target->table->desc->natts; i++)
	{
		AttrNumber	attnum = coze_heap_attnum(heap, i + 1);

		row->known[i] = attnum != 0;
		row->isnull[i] = attnum == 0 || found->slot->tts_isnull[attnum - 1];
		row->values[i] = row->isnull[i] ? (Datum) 0 : found->slot->tts_values[attnum - 1];
	}
}

/* --- all rows --- */

CozeRowScan *
coze_row_scan_begin(CozeTarget *target)
{
	CozeRowScan *scan = palloc0(sizeof(CozeRowScan));

	coze_row_flush();
	scan->target = target;
	if (target->table->partitioned)
		scan->relids = find_all_inheritors(target->table->relid, RowExclusiveLock, NULL);
	else
		scan->relids = list_make1_oid(target->table->relid);
	PushActiveSnapshot(GetLatestSnapshot());
	return scan;
}

static void
close_scanned(CozeRowScan *scan)
{
	table_endscan(scan->scan);
	ExecDropSingleTupleTableSlot(scan->heap.found);
	table_close(scan->rel, NoLock);
	scan->rel = NULL;
}

bool
coze_row_scan_next(CozeRowScan *scan, CozeFound *found)
{
	for (;;)
	{
		if (scan->rel != NULL)
		{
			if (table_scan_getnextslot(scan->scan, ForwardScanDirection, scan->heap.found))
			{
				found->heap = &scan->heap;
				found->slot = scan->heap.found;
				return true;
			}
			close_scanned(scan);
		}
		if (scan->relids == NIL)
			return false;
		scan->rel = table_open(linitial_oid(scan->relids), RowExclusiveLock);
		scan->relids = list_delete_first(scan->relids);
		if (scan->rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		{
			table_close(scan->rel, NoLock);
			scan->rel = NULL;
			continue;
		}
		scan->heap.target = scan->target;
		scan->heap.rel = scan->rel;
		scan->heap.attnums = coze_map_attributes(scan->target->table->desc, RelationGetDescr(scan->rel));
		scan->heap.found = table_slot_create(scan->rel, NULL);
		scan->scan = table_beginscan(scan->rel, GetActiveSnapshot(), 0, NULL);
	}
}

void
coze_row_scan_end(CozeRowScan *scan)
{
	if (scan->rel != NULL)
		close_scanned(scan);
	PopActiveSnapshot();
	pfree(scan);
}
