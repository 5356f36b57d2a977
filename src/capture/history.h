/*-------------------------------------------------------------------------
 *
 * history.h
 *		What the transaction at hand has done to rows, read off their headers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_CAPTURE_HISTORY_H
#define COZE_CAPTURE_HISTORY_H

#include "postgres.h"

#include "access/htup_details.h"
#include "executor/tuptable.h"

#include "capture/relation.h"

/* The command of this transaction that made the row, that deleted or replaced it. */
extern CommandId coze_row_made_by(HeapTupleHeader row);
extern CommandId coze_row_ended_by(HeapTupleHeader row);

/* Has this transaction already deleted or replaced the row? */
extern bool coze_row_is_superseded(HeapTupleHeader row);

/* A change by this command is about to be captured: bring the history up to it. */
extern void coze_history_begin(CozeTableHistory *history, Relation rel, CommandId command);

/* A row with a new key was made by this command, and is captured. */
extern void coze_history_note_insert(CozeTableHistory *history, CommandId command);

/* Did this transaction write the row? */
extern bool coze_history_is_own(const CozeTableHistory *history, HeapTupleHeader row);

/*
 * Does the key of a row that the command ended live again, as far as that is
 * captured already?
 */
extern bool coze_history_key_lives(const CozeTableHistory *history, CozePlan *plan,
								   Relation rel, TupleTableSlot *slot, CommandId command);

#endif							/* COZE_CAPTURE_HISTORY_H */
