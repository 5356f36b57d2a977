/*-------------------------------------------------------------------------
 *
 * capture.h
 *		From rows to changes in the transaction's buffer.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_CAPTURE_H
#define COZE_CAPTURE_H

#include "postgres.h"

#include "executor/tuptable.h"

#include "capture/relation.h"

/* A change of one row; a slot is NULL if the change has no such part. */
typedef struct CozeRowChange
{
	CozeChangeKind kind;
	TupleTableSlot *key;		/* NULL for a TRUNCATE */
	TupleTableSlot *old_key;
	TupleTableSlot *new_row;
	TupleTableSlot *old_row;
	TupleTableSlot *old_unique;
	bool		old_own;		/* the old row was written by this transaction */
	bool		checkpoint;		/* by last_update_wins, whatever the table's policy */
} CozeRowChange;

/* Is capture to be done?  ERROR where writing is refused. */
extern bool coze_capture_wanted(Relation rel);

/* Encode a change into the buffer (encode.c). */
extern void coze_capture_put(CozePlan *plan, const CozeRowChange *change);

/*
 * Does the transaction still write entries?  Set by precommit.c: what is captured
 * after the entry was written would never be in the log.
 */
extern bool coze_capture_closed;

#endif							/* COZE_CAPTURE_H */
