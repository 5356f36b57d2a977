/*-------------------------------------------------------------------------
 *
 * row.c
 *		Rows of tables here: find them by key, write them.
 *
 * Invariant (Absent): "no such row" only when no transaction in progress holds
 * the key and a snapshot taken after that shows none.  A search under a dirty
 * snapshot alone would miss a row that is just being moved; one under an MVCC
 * snapshot alone would miss a row that is just being committed.
 *
 * A table is opened once in a transaction, with its indexes, and closed before
 * the commit.  Triggers marked ALWAYS or REPLICA fire row by row, so that
 * they run with the rights of their table's owner.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/multixact.h"
#include "access/skey.h"
#include "access/subtrans.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/partition.h"
#include "catalog/pg_inherits.h"
#include "commands/trigger.h"
#include "executor/execPartition.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "apply/row.h"
#include "apply/stop.h"
#include "compat.h"
#include "debug.h"

struct CozeHeap
{
	CozeHeap   *next;
	CozeTarget *target;
	Oid			relid;
	Relation	rel;
	ResultRelInfo *rri;
	Relation	key_index;
	ScanKeyData scan_keys[INDEX_MAX_KEYS];	/* in the order of the index */
	int			key_of[INDEX_MAX_KEYS]; /* the table's key at that place */
	TupleTableSlot *found;
	TupleTableSlot *written;
	AttrNumber *attnums;		/* by the table's attnum - 1; NULL: the same */
};

struct CozeTarget
{
	CozeTarget *next;
	CozeTable  *table;
	Relation	rel;
	EState	   *estate;
	ResultRelInfo *rri;
	EPQState	epq;
	CozeHeap   *heaps;
	ModifyTableState *mtstate;	/* partitioned: */
	PartitionTupleRouting *routing;
	TupleTableSlot *root_slot;
	ExprState **defaults;		/* by attnum - 1, made when first needed */
	bool		have_defaults;
};

struct CozeRowScan
{
	CozeTarget *target;
	List	   *relids;			/* still to do */
	Relation	rel;
	CozeHeap	heap;			/* only rel, attnums, found, target are set */
	TableScanDesc scan;
};

static CozeTarget *targets = NULL;
static MemoryContext target_context = NULL;

/* --- opening --- */

/* Lock, telling while we wait whom we wait for. */
static void
lock_table(Oid relid, LOCKMODE mode)
{
	if (ConditionalLockRelationOid(relid, mode))
		return;
	coze_applying.held_back_by = coze_lock_holder(relid, mode);
	coze_stop_waiting();
	LockRelationOid(relid, mode);
	coze_stop_waited();
}

/* Against all who write to it or read it: nobody is just bringing a row in. */
void
coze_target_lock_exclusively(CozeTarget *target)
{
	lock_table(target->table->relid, AccessExclusiveLock);
}

static Bitmapset *
all_columns(const CozeTable *table)
{
	Bitmapset  *columns = NULL;

	for (int i = 0; i < table->desc->natts; i++)
		columns = bms_add_member(columns, i + 1 - FirstLowInvalidHeapAttributeNumber);
	return columns;
}

static AttrNumber *
map_attributes(TupleDesc from, TupleDesc to)
{
	AttrNumber *attnums = palloc0(from->natts * sizeof(AttrNumber));
	bool		same = from->natts == to->natts;

	for (int i = 0; i < from->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(from, i);

		for (int j = 0; j < to->natts && !att->attisdropped; j++)
		{
			Form_pg_attribute other = TupleDescAttr(to, j);

			if (!other->attisdropped && strcmp(NameStr(att->attname), NameStr(other->attname)) == 0)
				attnums[i] = other->attnum;
		}
		same &= attnums[i] == i + 1;
	}
	if (!same)
		return attnums;
	pfree(attnums);
	return NULL;
}

static AttrNumber
heap_attnum(const CozeHeap *heap, AttrNumber attnum)
{
	return heap->attnums != NULL ? heap->attnums[attnum - 1] : attnum;
}

/* Find the key's index among those that are open, and what to search it with. */
static void
open_key(CozeHeap *heap)
{
	const CozeTable *table = heap->target->table;
	Bitmapset  *keys = NULL;
	Oid			oid;

	for (int i = 0; i < table->nkeys; i++)
		keys = bms_add_member(keys, heap_attnum(heap, table->keys[i]));
	oid = coze_find_key_index(heap->rel, keys);
	if (!OidIsValid(oid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("partition \"%s\" has no unique index on the key of its table",
						RelationGetRelationName(heap->rel))));
	heap->key_index = index_open(oid, RowExclusiveLock);
	for (int i = 0; i < table->nkeys; i++)
	{
		int			k = 0;

		while (heap_attnum(heap, table->keys[k]) != heap->key_index->rd_index->indkey.values[i])
			k++;
		heap->key_of[i] = k;
		ScanKeyEntryInitialize(&heap->scan_keys[i], 0, i + 1, BTEqualStrategyNumber, InvalidOid,
							   heap->key_index->rd_indcollation[i],
							   get_opcode(table->operators[k]), (Datum) 0);
	}
}

static CozeHeap *
open_heap(CozeTarget *target, ResultRelInfo *rri)
{
	MemoryContext old = MemoryContextSwitchTo(target_context);
	CozeHeap   *heap = palloc0(sizeof(CozeHeap));

	heap->target = target;
	heap->rri = rri;
	heap->rel = rri->ri_RelationDesc;
	heap->relid = RelationGetRelid(heap->rel);
	if (heap->rel != target->rel)
		heap->attnums = map_attributes(target->table->desc, RelationGetDescr(heap->rel));
	if (rri->ri_IndexRelationDescs == NULL)
		ExecOpenIndices(rri, false);
	open_key(heap);
	heap->found = table_slot_create(heap->rel, NULL);
	heap->written = MakeSingleTupleTableSlot(RelationGetDescr(heap->rel), &TTSOpsVirtual);
	heap->next = target->heaps;
	target->heaps = heap;
	MemoryContextSwitchTo(old);
	return heap;
}

static CozeTarget *
make_target(CozeTable *table, Relation rel)
{
	CozeTarget *target = palloc0(sizeof(CozeTarget));
	EState	   *estate = CreateExecutorState();
	RangeTblEntry *rte = makeNode(RangeTblEntry);

	target->table = table;
	target->rel = rel;
	target->estate = estate;
	rte->rtekind = RTE_RELATION;
	rte->relid = table->relid;
	rte->relkind = rel->rd_rel->relkind;
	rte->rellockmode = RowExclusiveLock;
	coze_init_range_table(estate, rte, all_columns(table));
	estate->es_output_cid = GetCurrentCommandId(true);
	target->rri = makeNode(ResultRelInfo);
	InitResultRelInfo(target->rri, rel, 1, NULL, 0);
	estate->es_opened_result_relations = lappend(estate->es_opened_result_relations, target->rri);
	coze_epq_init(&target->epq, estate);
	target->root_slot = MakeSingleTupleTableSlot(table->desc, &TTSOpsVirtual);
	if (table->partitioned)
	{
		target->mtstate = makeNode(ModifyTableState);
		target->mtstate->ps.state = estate;
		target->mtstate->operation = CMD_INSERT;
		target->mtstate->resultRelInfo = target->rri;
		target->routing = ExecSetupPartitionTupleRouting(estate, rel);
	}
	return target;
}

/* NULL: the table has changed since it was looked up; do that again. */
CozeTarget *
coze_target_open(CozeTable *table)
{
	CozeTarget *target;
	MemoryContext old;
	Relation	rel;

	for (target = targets; target != NULL; target = target->next)
	{
		if (target->table == table)
			return target;
	}
	lock_table(table->relid, RowExclusiveLock);
	if (!table->valid)
		return NULL;
	rel = table_open(table->relid, NoLock);
	if (target_context == NULL)
		target_context = AllocSetContextCreate(TopTransactionContext, "cozesync targets",
											   ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(target_context);
	target = make_target(table, rel);
	target->next = targets;
	targets = target;
	if (!table->partitioned)
		open_heap(target, target->rri);
	MemoryContextSwitchTo(old);
	return target;
}

Relation
coze_target_relation(const CozeTarget *target)
{
	return target->rel;
}

static void
close_target(CozeTarget *target)
{
	for (CozeHeap *heap = target->heaps; heap != NULL; heap = heap->next)
	{
		ExecDropSingleTupleTableSlot(heap->found);
		ExecDropSingleTupleTableSlot(heap->written);
		index_close(heap->key_index, NoLock);
	}
	ExecDropSingleTupleTableSlot(target->root_slot);
	EvalPlanQualEnd(&target->epq);
	if (target->routing != NULL)
		ExecCleanupTupleRouting(target->mtstate, target->routing);
	ExecCloseResultRelations(target->estate);
	ExecResetTupleTable(target->estate->es_tupleTable, false);
	FreeExecutorState(target->estate);
	table_close(target->rel, NoLock);
}

void
coze_target_close_all(void)
{
	for (CozeTarget *target = targets; target != NULL; target = target->next)
		close_target(target);
	targets = NULL;
	if (target_context != NULL)
		MemoryContextDelete(target_context);
	target_context = NULL;
}

void
coze_target_forget_all(void)
{
	targets = NULL;
	target_context = NULL;
}

/* --- which heap --- */

static CozeHeap *
heap_of(CozeTarget *target, ResultRelInfo *rri)
{
	CozeHeap   *heap = target->heaps;

	while (heap != NULL && heap->rri != rri)
		heap = heap->next;
	return heap != NULL ? heap : open_heap(target, rri);
}

/* The partition that what is in root_slot belongs in. */
static CozeHeap *
route(CozeTarget *target)
{
	ResultRelInfo *rri;

	ResetPerTupleExprContext(target->estate);
	rri = ExecFindPartition(target->mtstate, target->rri, target->routing, target->root_slot,
							target->estate);
	return heap_of(target, rri);
}

/* A key holds what its table is partitioned by. */
static CozeHeap *
heap_for_key(CozeTarget *target, const Datum *key)
{
	const CozeTable *table = target->table;
	TupleTableSlot *slot = target->root_slot;

	if (!table->partitioned)
		return target->heaps;
	ExecClearTuple(slot);
	memset(slot->tts_isnull, true, table->desc->natts * sizeof(bool));
	for (int i = 0; i < table->nkeys; i++)
	{
		slot->tts_values[table->keys[i] - 1] = key[i];
		slot->tts_isnull[table->keys[i] - 1] = false;
	}
	ExecStoreVirtualTuple(slot);
	return route(target);
}

/* --- finding --- */

static bool
scan_index(Relation rel, Relation index, ScanKey keys, int nkeys, Snapshot snapshot,
		   TupleTableSlot *slot)
{
	IndexScanDesc scan = coze_index_beginscan(rel, index, snapshot, nkeys);
	bool		found;

	index_rescan(scan, keys, nkeys, NULL, 0);
	found = index_getnext_slot(scan, ForwardScanDirection, slot);
	if (found)
		ExecMaterializeSlot(slot);
	index_endscan(scan);
	return found;
}

static bool
scan_fresh(CozeHeap *heap, Relation index, ScanKey keys, int nkeys)
{
	bool		found;

	PushActiveSnapshot(GetLatestSnapshot());
	found = scan_index(heap->rel, index, keys, nkeys, GetActiveSnapshot(), heap->found);
	PopActiveSnapshot();
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
lock_row(CozeHeap *heap, CozeLook look, bool *waited)
{
	LockTupleMode mode = look == COZE_LOOK_TO_DELETE ? LockTupleExclusive : LockTupleNoKeyExclusive;
	TM_FailureData tmfd;
	TM_Result	result;

	PushActiveSnapshot(GetLatestSnapshot());
	result = table_tuple_lock(heap->rel, &heap->found->tts_tid, GetActiveSnapshot(), heap->found,
							  GetCurrentCommandId(false), mode, LockWaitSkip, 0, &tmfd);
	if (result == TM_WouldBlock)
	{
		*waited = true;
		wait_begins(holder_of_tuple(heap->found));
		result = table_tuple_lock(heap->rel, &heap->found->tts_tid, GetActiveSnapshot(),
								  heap->found, GetCurrentCommandId(false), mode, LockWaitBlock,
								  0, &tmfd);
		coze_stop_waited();
	}
	PopActiveSnapshot();
	switch (result)
	{
		case TM_Ok:
			return true;
		case TM_Updated:
		case TM_Deleted:
			*waited = true;
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

/* The search proper, in one heap and by one of its unique indexes. */
static bool
find_in_heap(CozeHeap *heap, Relation index, ScanKey keys, int nkeys, CozeLook look, bool *waited)
{
	for (;;)
	{
		SnapshotData dirty;

		CHECK_FOR_INTERRUPTS();
		if (scan_fresh(heap, index, keys, nkeys))
		{
			if (look == COZE_LOOK_ONLY || lock_row(heap, look, waited))
				return true;
			continue;
		}
		if (look == COZE_LOOK_ONLY || !COZE_RULE("absent-wait"))
			return false;
		InitDirtySnapshot(dirty);
		if (scan_index(heap->rel, index, keys, nkeys, &dirty, heap->found))
		{
			*waited = true;
			if (TransactionIdIsValid(dirty.xmin) || TransactionIdIsValid(dirty.xmax))
				wait_for(&dirty);
			continue;
		}
		if (!scan_fresh(heap, index, keys, nkeys))
			return false;
	}
}

/* Find the row of a key: one that is not there is not found in any partition. */
bool
coze_row_find(CozeTarget *target, const Datum *key, CozeLook look, CozeFound *found)
{
	CozeHeap   *heap = heap_for_key(target, key);

	for (int i = 0; i < target->table->nkeys; i++)
		heap->scan_keys[i].sk_argument = key[heap->key_of[i]];
	found->heap = heap;
	found->slot = heap->found;
	found->waited = false;
	return find_in_heap(heap, heap->key_index, heap->scan_keys, target->table->nkeys, look,
						&found->waited);
}

/*
 * The partition that a unique value can be in: a unique index of a partitioned
 * table has all columns that the table is partitioned by.
 */
static CozeHeap *
heap_for_value(CozeTarget *target, const CozeUnique *unique, const CozeUniqueValue *value)
{
	TupleTableSlot *slot = target->root_slot;

	if (!target->table->partitioned)
		return target->heaps;
	ExecClearTuple(slot);
	memset(slot->tts_isnull, true, target->table->desc->natts * sizeof(bool));
	for (int i = 0; i < value->n; i++)
	{
		AttrNumber	attnum = unique->info->ii_IndexAttrNumbers[i];

		if (attnum == 0)
			continue;
		slot->tts_values[attnum - 1] = value->values[i];
		slot->tts_isnull[attnum - 1] = value->isnull[i];
	}
	ExecStoreVirtualTuple(slot);
	return route(target);
}

/* The row that has a value in a unique index. */
bool
coze_row_find_unique(CozeTarget *target, int index, const CozeUniqueValue *value, CozeLook look,
					 CozeFound *found)
{
	const CozeUnique *unique = &target->table->uniques[index];
	CozeHeap   *heap = heap_for_value(target, unique, value);
	Oid			oid = target->table->partitioned ? index_get_partition(heap->rel, unique->index) :
		unique->index;
	ScanKeyData keys[INDEX_MAX_KEYS];
	Relation	rel;
	bool		there;

	for (int i = 0; i < value->n; i++)
		ScanKeyEntryInitialize(&keys[i], value->isnull[i] ? SK_ISNULL | SK_SEARCHNULL : 0, i + 1,
							   value->isnull[i] ? InvalidStrategy : BTEqualStrategyNumber,
							   InvalidOid, unique->collations[i],
							   value->isnull[i] ? InvalidOid : get_opcode(unique->operators[i]),
							   value->isnull[i] ? (Datum) 0 : value->values[i]);
	rel = index_open(oid, RowExclusiveLock);
	found->heap = heap;
	found->slot = heap->found;
	found->waited = false;
	there = find_in_heap(heap, rel, keys, value->n, look, &found->waited);
	index_close(rel, NoLock);
	return there;
}

/* --- writing --- */

static void
init_defaults(CozeTarget *target)
{
	MemoryContext old = MemoryContextSwitchTo(target_context);
	TupleDesc	desc = target->table->desc;

	target->defaults = palloc0(desc->natts * sizeof(ExprState *));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		Expr	   *expr;

		if (att->attisdropped || att->attgenerated != '\0' || att->attidentity != '\0')
			continue;
		expr = (Expr *) build_column_default(target->rel, i + 1);
		if (expr != NULL)
			target->defaults[i] = ExecInitExpr(expression_planner(expr), NULL);
	}
	target->have_defaults = true;
	MemoryContextSwitchTo(old);
}

/* What an insert has not been told. */
static void
fill_defaults(CozeTarget *target, CozeRow *row)
{
	ExprContext *econtext = GetPerTupleExprContext(target->estate);

	for (int i = 0; i < target->table->desc->natts; i++)
	{
		if (row->known[i] || target->table->codecs[i] == NULL)
			continue;
		if (!target->have_defaults)
			init_defaults(target);
		if (target->defaults[i] != NULL)
			row->values[i] = ExecEvalExpr(target->defaults[i], econtext, &row->isnull[i]);
	}
}

static TupleTableSlot *
store_row(CozeHeap *heap, const CozeRow *row, TupleTableSlot *over)
{
	TupleTableSlot *slot = heap->written;
	int			natts = heap->target->table->desc->natts;

	ExecClearTuple(slot);
	if (over != NULL)
	{
		slot_getallattrs(over);
		memcpy(slot->tts_values, over->tts_values, slot->tts_tupleDescriptor->natts * sizeof(Datum));
		memcpy(slot->tts_isnull, over->tts_isnull, slot->tts_tupleDescriptor->natts * sizeof(bool));
	}
	else
		memset(slot->tts_isnull, true, slot->tts_tupleDescriptor->natts * sizeof(bool));
	for (int i = 0; i < natts; i++)
	{
		AttrNumber	attnum = heap_attnum(heap, i + 1);

		if (attnum == 0 || (over != NULL && !row->known[i]))
			continue;
		slot->tts_values[attnum - 1] = row->values[i];
		slot->tts_isnull[attnum - 1] = row->isnull[i];
	}
	return ExecStoreVirtualTuple(slot);
}

static void
begin_write(CozeTarget *target)
{
	ResetPerTupleExprContext(target->estate);
	target->estate->es_output_cid = GetCurrentCommandId(true);
	PushActiveSnapshot(GetTransactionSnapshot());
	AfterTriggerBeginQuery();
}

static void
end_write(CozeTarget *target)
{
	AfterTriggerEndQuery(target->estate);
	PopActiveSnapshot();
	CommandCounterIncrement();
}

void
coze_row_insert(CozeTarget *target, const CozeRow *row)
{
	CozeRow		full = *row;
	CozeHeap   *heap;

	begin_write(target);
	fill_defaults(target, &full);
	if (target->table->partitioned)
	{
		TupleTableSlot *slot = target->root_slot;
		int			natts = target->table->desc->natts;

		ExecClearTuple(slot);
		memcpy(slot->tts_values, full.values, natts * sizeof(Datum));
		memcpy(slot->tts_isnull, full.isnull, natts * sizeof(bool));
		ExecStoreVirtualTuple(slot);
		heap = route(target);
	}
	else
		heap = target->heaps;
	ExecSimpleRelationInsert(heap->rri, target->estate, store_row(heap, &full, NULL));
	end_write(target);
}

void
coze_row_update(CozeTarget *target, const CozeFound *found, const CozeRow *row)
{
	CozeHeap   *heap = found->heap;

	begin_write(target);
	ExecSimpleRelationUpdate(heap->rri, target->estate, &target->epq, heap->found,
							 store_row(heap, row, heap->found));
	end_write(target);
}

void
coze_row_delete(CozeTarget *target, const CozeFound *found)
{
	CozeHeap   *heap = found->heap;

	begin_write(target);
	ExecSimpleRelationDelete(heap->rri, target->estate, &target->epq, heap->found);
	end_write(target);
}

void
coze_row_of_slot(CozeTarget *target, const CozeFound *found, CozeRow *row)
{
	CozeHeap   *heap = found->heap;

	slot_getallattrs(found->slot);
	for (int i = 0; i < target->table->desc->natts; i++)
	{
		AttrNumber	attnum = heap_attnum(heap, i + 1);

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
		scan->heap.attnums = map_attributes(scan->target->table->desc, RelationGetDescr(scan->rel));
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
