/*-------------------------------------------------------------------------
 *
 * rows.c
 *		Rows that a table has when it is put under sync, or when others are told of them.
 *
 * They travel as inserts in the entry of the transaction that adds the table.
 * Nobody writes to the table between the scan and the end of the transaction:
 * attaching its triggers has locked it against writers.  Memory is bounded,
 * since the capture buffer goes to the log as it fills.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_inherits.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "capture/capture.h"
#include "capture/history.h"
#include "capture/relation.h"
#include "log/state.h"

PG_FUNCTION_INFO_V1(coze_group_capture_rows);
PG_FUNCTION_INFO_V1(coze_group_key_index);
PG_FUNCTION_INFO_V1(coze_group_capture_present);
PG_FUNCTION_INFO_V1(coze_group_capture_absent);

/* One table with storage of its own. */
static uint64
capture_table(Relation rel)
{
	Oid			trigger = get_trigger_oid(RelationGetRelid(rel), COZE_ROW_TRIGGER, false);
	CozeTableHistory *history;
	CozePlan   *plan = coze_plan_get(rel, trigger, &history);
	MemoryContext per_row = AllocSetContextCreate(CurrentMemoryContext, "cozesync rows",
												  ALLOCSET_DEFAULT_SIZES);
	/* Not the transaction's snapshot: the lock may be younger than that. */
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	uint64		rows = 0;

	coze_history_begin(history, rel, GetCurrentCommandId(true));
	coze_history_note_insert(history, GetCurrentCommandId(true));
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CozeRowChange change = {.kind = COZE_CHANGE_INSERT, .key = slot, .new_row = slot};
		MemoryContext old = MemoryContextSwitchTo(per_row);

		CHECK_FOR_INTERRUPTS();
		slot_getallattrs(slot);
		coze_capture_put(plan, &change);
		MemoryContextSwitchTo(old);
		MemoryContextReset(per_row);
		rows++;
	}
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	MemoryContextDelete(per_row);
	return rows;
}

/* capture_rows(relation regclass) returns bigint: how many there were */
Datum
coze_group_capture_rows(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	uint64		rows = 0;
	ListCell   *cell;

	coze_check_member();
	foreach(cell, find_all_inheritors(relid, ShareRowExclusiveLock, NULL))
	{
		Relation	rel = table_open(lfirst_oid(cell), NoLock);

		if (RELKIND_HAS_TABLE_AM(rel->rd_rel->relkind) && coze_capture_wanted(rel))
			rows += capture_table(rel);
		table_close(rel, NoLock);
	}
	PG_RETURN_INT64((int64) rows);
}

/* --- how a row is -------------------------------------------------------------- */

/*
 * A change that says what there is, whatever there was: a checkpoint under every policy.
 * The change behind it tells whoever applies it that nothing has to explain what he
 * finds.
 */
static void
capture_state(Relation rel, TupleTableSlot *slot, bool present)
{
	CozeTableHistory *history;
	CozePlan   *plan = coze_plan_get(rel, get_trigger_oid(RelationGetRelid(rel), COZE_ROW_TRIGGER, false),
									 &history);
	CozeRowChange change = {
		.kind = present ? COZE_CHANGE_INSERT : COZE_CHANGE_DELETE,
		.key = slot,
		.new_row = present ? slot : NULL,
		.old_row = present ? NULL : slot,	/* its key is known */
		.checkpoint = true,
	};
	CozeRowChange explanation = {.kind = COZE_CHANGE_SUPERSEDED,.key = slot,.checkpoint = true};

	slot_getallattrs(slot);
	coze_history_begin(history, rel, GetCurrentCommandId(true));
	coze_capture_put(plan, &change);
	coze_capture_put(plan, &explanation);
}

/* capture_present(leaf regclass, place tid) */
Datum
coze_group_capture_present(PG_FUNCTION_ARGS)
{
	Relation	rel = table_open(PG_GETARG_OID(0), NoLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());

	coze_check_member();
	if (!table_tuple_fetch_row_version(rel, (ItemPointer) PG_GETARG_POINTER(1), snapshot, slot))
		elog(ERROR, "the row is not there any more");
	capture_state(rel, slot, true);
	UnregisterSnapshot(snapshot);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, NoLock);
	PG_RETURN_VOID();
}

/* capture_absent(leaf regclass, key_row record) */
Datum
coze_group_capture_absent(PG_FUNCTION_ARGS)
{
	Relation	rel = table_open(PG_GETARG_OID(0), NoLock);
	HeapTupleHeader row = PG_GETARG_HEAPTUPLEHEADER(1);
	HeapTupleData tuple = {.t_len = HeapTupleHeaderGetDatumLength(row),.t_data = row};
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsHeapTuple);

	coze_check_member();
	ItemPointerSetInvalid(&tuple.t_self);
	ExecStoreHeapTuple(&tuple, slot, false);
	capture_state(rel, slot, false);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, NoLock);
	PG_RETURN_VOID();
}

/* key_index(relation regclass) returns regclass */
Datum
coze_group_key_index(PG_FUNCTION_ARGS)
{
	Relation	rel = table_open(PG_GETARG_OID(0), AccessShareLock);
	Oid			index = InvalidOid;

	if (rel->rd_rel->relkind == RELKIND_RELATION ||
		rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		index = coze_capture_key_index(rel);
	table_close(rel, AccessShareLock);
	if (!OidIsValid(index))
		PG_RETURN_NULL();
	PG_RETURN_OID(index);
}
