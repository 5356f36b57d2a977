/*-------------------------------------------------------------------------
 *
 * history.c
 *		What the transaction at hand has done to rows, read off their headers.
 *
 * A row's trigger runs after the command that changed it; meanwhile triggers of
 * other rows, and what they called, may have changed it again, and their changes are
 * captured already.  So a change must not be taken for what is true now:
 * an image counts only if the row is not superseded, and a deletion only if no row
 * with the key lives again.  Then whatever is captured last for a key is what the
 * transaction left there, since the last change of a key is captured after it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relscan.h"
#include "access/skey.h"
#include "access/stratnum.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "utils/combocid.h"
#include "utils/snapmgr.h"

#include "capture/buffer.h"
#include "capture/history.h"
#include "compat.h"
#include "debug.h"

CommandId
coze_row_made_by(HeapTupleHeader row)
{
	/* COPY FREEZE: the header does not tell it any more */
	if (HeapTupleHeaderXminFrozen(row))
		return GetCurrentCommandId(false);
	return HeapTupleHeaderGetCmin(row);
}

CommandId
coze_row_ended_by(HeapTupleHeader row)
{
	return HeapTupleHeaderGetCmax(row);
}

bool
coze_row_is_superseded(HeapTupleHeader row)
{
	if (!COZE_RULE("superseded"))
		return false;
	if ((row->t_infomask & HEAP_XMAX_INVALID) || HEAP_XMAX_IS_LOCKED_ONLY(row->t_infomask))
		return false;
	/* what a rolled back subtransaction did to it counts for nothing */
	return TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetUpdateXid(row));
}

void
coze_history_begin(CozeTableHistory *history, Relation rel, CommandId command)
{
	Oid			filenode = rel->rd_rel->relfilenode;

	if (history->transaction != coze_buffer_transaction())
	{
		memset(history, 0, sizeof(*history));
		history->transaction = coze_buffer_transaction();
		history->filenode = filenode;
		if (coze_relation_is_rewritten(rel))
			history->rewritten = command;
	}
	else if (history->filenode != filenode)
	{
		history->filenode = filenode;
		history->rewritten = command;
	}
}

void
coze_history_note_insert(CozeTableHistory *history, CommandId command)
{
	if (!history->inserted || history->newest_insert < command)
		history->newest_insert = command;
	history->inserted = true;
}

/*
 * ALTER TABLE may give every row our xid.  So in a table that was rewritten only
 * what is newer than that counts.
 */
bool
coze_history_is_own(const CozeTableHistory *history, HeapTupleHeader row)
{
	if (!TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetRawXmin(row)))
		return false;
	return history->rewritten == 0 || !COZE_RULE("own-since-rewrite") || coze_row_made_by(row) >= history->rewritten;
}

/* Is there a live row with the key of slot, for this transaction as of now? */
static bool
key_lives(CozePlan *plan, Relation rel, TupleTableSlot *slot)
{
	ScanKeyData keys[INDEX_MAX_KEYS];
	Relation	index = index_open(plan->key_index, AccessShareLock);
	IndexScanDesc scan = coze_index_beginscan(rel, index, SnapshotSelf, plan->nkeys);
	TupleTableSlot *found = table_slot_create(rel, NULL);
	bool		lives;

	slot_getsomeattrs(slot, plan->key_natts);
	for (int i = 0; i < plan->nkeys; i++)
		ScanKeyEntryInitializeWithInfo(&keys[i], 0, i + 1, BTEqualStrategyNumber, InvalidOid,
									   plan->key_collations[i], &plan->key_equal[i],
									   slot->tts_values[plan->columns[i].attindex]);
	index_rescan(scan, keys, plan->nkeys, NULL, 0);
	lives = index_getnext_slot(scan, ForwardScanDirection, found);
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(found);
	index_close(index, AccessShareLock);
	return lives;
}

/*
 * Only a later command can have made a row with the key before this change had its
 * turn, so mostly there is nothing to look for.
 */
bool
coze_history_key_lives(const CozeTableHistory *history, CozePlan *plan,
					   Relation rel, TupleTableSlot *slot, CommandId command)
{
	if (!history->inserted || history->newest_insert <= command)
		return false;
	return COZE_RULE("key-lives-again") && key_lives(plan, rel, slot);
}
