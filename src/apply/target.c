/*-------------------------------------------------------------------------
 *
 * target.c
 *		Tables that are open for applying.
 *
 * A table is opened once in a transaction, with its indexes, and closed before
 * the commit.  A partitioned one has a heap for each partition that has come up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "nodes/makefuncs.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/reltrigger.h"
#include "utils/snapmgr.h"

#include "apply/stop.h"
#include "apply/target.h"
#include "compat.h"

static CozeTarget *targets = NULL;
static MemoryContext target_context = NULL;

MemoryContext
coze_target_context(void)
{
	return target_context;
}

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
	coze_row_flush();
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

AttrNumber *
coze_map_attributes(TupleDesc from, TupleDesc to)
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

/* Find the key's index among those that are open, and what to search it with. */
static void
open_key(CozeHeap *heap)
{
	const CozeTable *table = heap->target->table;
	Bitmapset  *keys = NULL;
	Oid			oid;

	for (int i = 0; i < table->nkeys; i++)
		keys = bms_add_member(keys, coze_heap_attnum(heap, table->keys[i]));
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

		while (coze_heap_attnum(heap, table->keys[k]) != heap->key_index->rd_index->indkey.values[i])
			k++;
		heap->key_of[i] = k;
		ScanKeyEntryInitialize(&heap->scan_keys[i], 0, i + 1, BTEqualStrategyNumber, InvalidOid,
							   heap->key_index->rd_indcollation[i],
							   get_opcode(table->operators[k]), (Datum) 0);
	}
	heap->key_scan = coze_index_beginscan(heap->rel, heap->key_index, SnapshotAny, table->nkeys);
}

/* While applying: one that is marked ALWAYS or REPLICA. */
static bool
has_firing_trigger(const TriggerDesc *triggers)
{
	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		char		enabled = triggers->triggers[i].tgenabled;

		if (enabled == TRIGGER_FIRES_ALWAYS || enabled == TRIGGER_FIRES_ON_REPLICA)
			return true;
	}
	return false;
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
		heap->attnums = coze_map_attributes(target->table->desc, RelationGetDescr(heap->rel));
	if (rri->ri_IndexRelationDescs == NULL)
		ExecOpenIndices(rri, false);
	open_key(heap);
	heap->fires = has_firing_trigger(heap->rel->trigdesc);
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
	coze_row_flush();
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
		for (int i = 0; heap->buffered != NULL && heap->buffered[i] != NULL; i++)
			ExecDropSingleTupleTableSlot(heap->buffered[i]);
		index_endscan(heap->key_scan);
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
	coze_row_flush();
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
	coze_row_forget_buffered();
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
CozeHeap *
coze_target_route(CozeTarget *target)
{
	ResultRelInfo *rri;

	ResetPerTupleExprContext(target->estate);
	rri = ExecFindPartition(target->mtstate, target->rri, target->routing, target->root_slot,
							target->estate);
	return heap_of(target, rri);
}

/* A key holds what its table is partitioned by. */
CozeHeap *
coze_heap_for_key(CozeTarget *target, const Datum *key)
{
	const CozeTable *table = target->table;
	TupleTableSlot *slot;

	if (!table->partitioned)
		return target->heaps;
	slot = coze_target_begin_root(target);
	for (int i = 0; i < table->nkeys; i++)
	{
		slot->tts_values[table->keys[i] - 1] = key[i];
		slot->tts_isnull[table->keys[i] - 1] = false;
	}
	ExecStoreVirtualTuple(slot);
	return coze_target_route(target);
}

/*
 * The partition that a unique value can be in: a unique index of a partitioned
 * table has all columns that the table is partitioned by.
 */
CozeHeap *
coze_heap_for_value(CozeTarget *target, const CozeUnique *unique, const CozeUniqueValue *value)
{
	TupleTableSlot *slot;

	if (!target->table->partitioned)
		return target->heaps;
	slot = coze_target_begin_root(target);
	for (int i = 0; i < value->n; i++)
	{
		AttrNumber	attnum = unique->info->ii_IndexAttrNumbers[i];

		if (attnum == 0)
			continue;
		slot->tts_values[attnum - 1] = value->values[i];
		slot->tts_isnull[attnum - 1] = value->isnull[i];
	}
	ExecStoreVirtualTuple(slot);
	return coze_target_route(target);
}
