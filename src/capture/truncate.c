/*-------------------------------------------------------------------------
 *
 * truncate.c
 *		The TRUNCATE triggers.
 *
 * A TRUNCATE is captured by the AFTER trigger of the table that the changes are
 * named by.  TRUNCATE of a partition alone fires nothing there, and named by the root
 * it would empty every partition elsewhere; so partitions have a BEFORE trigger, which
 * captures each row as deleted.  When the root is truncated their triggers run too,
 * after the root's BEFORE trigger, whose mark keeps them silent.
 *
 * Triggers of other tables in the same command may have filled the table again
 * before its AFTER trigger has its turn.  What is there then is captured once more,
 * behind the TRUNCATE.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "apply/apply.h"
#include "capture/buffer.h"
#include "capture/capture.h"
#include "capture/history.h"
#include "debug.h"

PG_FUNCTION_INFO_V1(coze_capture_truncate);

/* The oid of the table's row trigger, InvalidOid if it has none. */
static Oid
row_trigger(Relation rel)
{
	TriggerDesc *triggers = rel->trigdesc;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
		if (strcmp(triggers->triggers[i].tgname, COZE_ROW_TRIGGER) == 0)
			return triggers->triggers[i].tgoid;
	return InvalidOid;
}

static void
capture_row(CozePlan *plan, CozeTableHistory *history, CozeChangeKind kind,
			TupleTableSlot *slot)
{
	CozeRowChange change = {kind, .key = slot};

	slot_getallattrs(slot);
	if (kind == COZE_CHANGE_DELETE)
	{
		change.old_row = slot;
		change.old_own = coze_history_is_own(history, ExecFetchSlotHeapTuple(slot, false, NULL)->t_data);
	}
	else
		change.new_row = slot;
	coze_capture_put(plan, &change);
}

/* Capture every row of a table, which is locked, as inserted or deleted. */
static void
capture_rows(Relation rel, CozeChangeKind kind)
{
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext, "cozesync row",
													  ALLOCSET_DEFAULT_SIZES);
	CozeTableHistory *history;
	CozePlan *plan = coze_plan_get(rel, row_trigger(rel), &history);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, SnapshotSelf, 0, NULL);

	coze_history_begin(history, rel, GetCurrentCommandId(false));
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		MemoryContext old = MemoryContextSwitchTo(row_context);

		CHECK_FOR_INTERRUPTS();
		capture_row(plan, history, kind, slot);
		MemoryContextSwitchTo(old);
		MemoryContextReset(row_context);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	MemoryContextDelete(row_context);
}

static void
capture_rows_since(Relation rel)
{
	List	   *tables = find_all_inheritors(RelationGetRelid(rel), NoLock, NULL);
	ListCell   *lc;

	foreach(lc, tables)
	{
		Relation	table = table_open(lfirst_oid(lc), NoLock);

		if (table->rd_rel->relkind == RELKIND_RELATION &&
			RelationGetNumberOfBlocks(table) > 0)
			capture_rows(table, COZE_CHANGE_INSERT);
		table_close(table, NoLock);
	}
	list_free(tables);
}

static void
capture_truncate(Relation rel)
{
	CozeRowChange change = {COZE_CHANGE_TRUNCATE};
	CozeTableHistory *history;

	coze_capture_put(coze_plan_get(rel, row_trigger(rel), &history), &change);
	capture_rows_since(rel);
}

/*
 * cozesync.capture_truncate(): trigger, AFTER TRUNCATE on tables that changes are named
 * by, BEFORE TRUNCATE also on partitioned ones and on partitions.
 */
Datum
coze_capture_truncate(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	Relation	rel;
	CozeTableHistory *history;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BY_TRUNCATE(data->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" must be a trigger for TRUNCATE",
						"cozesync.capture_truncate")));
	rel = data->tg_relation;
	/* a partition keeps this trigger when it is detached, but not its row trigger */
	if (coze_in_applier || !OidIsValid(row_trigger(rel)) || !coze_capture_wanted(rel))
		return PointerGetDatum(NULL);

	if (TRIGGER_FIRED_AFTER(data->tg_event))
	{
		capture_truncate(rel);
		coze_buffer_end_truncate(RelationGetRelid(rel));
	}
	else if (rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		coze_buffer_begin_truncate(RelationGetRelid(rel));
	else if (COZE_RULE("leaf-truncate") &&
			 !coze_buffer_in_truncate(coze_plan_get(rel, row_trigger(rel), &history)->root))
		capture_rows(rel, COZE_CHANGE_DELETE);
	return PointerGetDatum(NULL);
}
