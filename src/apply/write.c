/*-------------------------------------------------------------------------
 *
 * write.c
 *		Rows of tables here: write them.
 *
 * Triggers marked ALWAYS or REPLICA fire row by row, so that they run with the
 * rights of their table's owner.
 *
 * Runs of inserts are made together, as COPY does it, where no trigger would fire:
 * the rows wait in the heap's slots until there are enough of them, and at the
 * latest until something else is done in any table or the entry is over.
 *
 * Invariant: nobody looks at a table while rows of it wait (coze_row_flush()).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/tableam.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/nodeModifyTable.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "apply/target.h"
#include "compat.h"

static void
init_defaults(CozeTarget *target)
{
	MemoryContext old = MemoryContextSwitchTo(coze_target_context());
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
store_row(CozeHeap *heap, TupleTableSlot *slot, const CozeRow *row, TupleTableSlot *over)
{
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
		AttrNumber	attnum = coze_heap_attnum(heap, i + 1);

		if (attnum == 0 || (over != NULL && !row->known[i]))
			continue;
		slot->tts_values[attnum - 1] = row->values[i];
		slot->tts_isnull[attnum - 1] = row->isnull[i];
	}
	slot->tts_tableOid = RelationGetRelid(heap->rel);
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

/* The heap that a row belongs in. */
static CozeHeap *
heap_for_row(CozeTarget *target, const CozeRow *row)
{
	TupleTableSlot *slot;
	int			natts = target->table->desc->natts;

	if (!target->table->partitioned)
		return target->heaps;
	slot = coze_target_begin_root(target);
	memcpy(slot->tts_values, row->values, natts * sizeof(Datum));
	memcpy(slot->tts_isnull, row->isnull, natts * sizeof(bool));
	ExecStoreVirtualTuple(slot);
	return coze_target_route(target);
}

void
coze_row_insert(CozeTarget *target, const CozeRow *row)
{
	CozeRow		full = *row;
	CozeHeap   *heap;

	coze_row_flush();
	begin_write(target);
	fill_defaults(target, &full);
	heap = heap_for_row(target, &full);
	ExecSimpleRelationInsert(heap->rri, target->estate, store_row(heap, heap->written, &full, NULL));
	end_write(target);
}

/* --- several inserts together --- */

#define BUFFERED_MAX 500
#define BUFFERED_BYTES_MAX (128 * 1024)

static CozeHeap *buffering = NULL;	/* whose rows wait; NULL: no rows do */

void
coze_row_forget_buffered(void)
{
	buffering = NULL;
}

/* With the rights of the table's owner, whoever it is that cannot wait any longer. */
void
coze_row_flush(void)
{
	CozeHeap   *heap = buffering;
	CozeTarget *target;
	EState	   *estate;
	CozeOwnerState owner;
	MemoryContext old;

	if (heap == NULL)
		return;
	buffering = NULL;
	target = heap->target;
	estate = target->estate;
	coze_owner_enter(target->table, &owner);
	begin_write(target);
	old = MemoryContextSwitchTo(GetPerTupleMemoryContext(estate));
	table_multi_insert(heap->rel, heap->buffered, heap->nbuffered, estate->es_output_cid, 0, NULL);
	MemoryContextSwitchTo(old);
	for (int i = 0; i < heap->nbuffered; i++)
	{
		if (heap->rri->ri_NumIndices > 0)
			list_free(coze_insert_index_tuples(heap->rri, heap->buffered[i], estate));
		ExecClearTuple(heap->buffered[i]);
		ResetPerTupleExprContext(estate);
	}
	heap->nbuffered = 0;
	heap->buffered_bytes = 0;
	end_write(target);
	coze_owner_leave(&owner);
}

static TupleTableSlot *
next_slot(CozeHeap *heap)
{
	MemoryContext old = MemoryContextSwitchTo(coze_target_context());
	TupleTableSlot **slot;

	if (heap->buffered == NULL)
		heap->buffered = palloc0((BUFFERED_MAX + 1) * sizeof(TupleTableSlot *));
	slot = &heap->buffered[heap->nbuffered];
	if (*slot == NULL)
		*slot = table_slot_create(heap->rel, NULL);
	MemoryContextSwitchTo(old);
	return *slot;
}

/* Values of its own, checked, and computed where the table computes them. */
static Size
complete(CozeHeap *heap, TupleTableSlot *slot)
{
	TupleConstr *constr = RelationGetDescr(heap->rel)->constr;
	EState	   *estate = heap->target->estate;
	bool		should_free;

	if (constr != NULL || heap->rel->rd_rel->relispartition)
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		if (constr != NULL && constr->has_generated_stored)
			ExecComputeStoredGenerated(heap->rri, estate, slot, CMD_INSERT);
		if (constr != NULL)
			ExecConstraints(heap->rri, slot, estate);
		if (heap->rel->rd_rel->relispartition)
			ExecPartitionCheck(heap->rri, slot, estate, true);
		PopActiveSnapshot();
	}
	ExecMaterializeSlot(slot);
	return ExecFetchSlotHeapTuple(slot, false, &should_free)->t_len;
}

static bool
is_complete(const CozeTable *table, const CozeRow *row)
{
	for (int i = 0; i < table->desc->natts; i++)
	{
		if (!row->known[i] && table->codecs[i] != NULL)
			return false;
	}
	return true;
}

/* A default may be anything, so a row that needs one is inserted by itself. */
void
coze_row_insert_later(CozeTarget *target, const CozeRow *row)
{
	CozeHeap   *heap;
	TupleTableSlot *slot;

	if (!is_complete(target->table, row))
	{
		coze_row_insert(target, row);
		return;
	}
	ResetPerTupleExprContext(target->estate);
	heap = heap_for_row(target, row);
	if (heap->fires)
	{
		coze_row_insert(target, row);
		return;
	}
	if (buffering != heap)
		coze_row_flush();
	slot = store_row(heap, next_slot(heap), row, NULL);
	heap->buffered_bytes += complete(heap, slot);
	heap->nbuffered++;
	buffering = heap;
	if (heap->nbuffered == BUFFERED_MAX || heap->buffered_bytes >= BUFFERED_BYTES_MAX)
		coze_row_flush();
}

/* --- one row --- */

void
coze_row_update(CozeTarget *target, const CozeFound *found, const CozeRow *row)
{
	CozeHeap   *heap = found->heap;

	begin_write(target);
	ExecSimpleRelationUpdate(heap->rri, target->estate, &target->epq, heap->found,
							 store_row(heap, heap->written, row, heap->found));
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
