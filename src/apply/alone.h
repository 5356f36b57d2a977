/*-------------------------------------------------------------------------
 *
 * alone.h
 *		Deciding about one key of a table that folds and has no second unique key.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_ALONE_H
#define COZE_ALONE_H

#include "postgres.h"

#include "apply/ops.h"
#include "apply/row.h"

/* Lock the row with a key, if there is one. */
extern void coze_alone_hold(CozeTarget *target, const Datum *key);

/*
 * Fold an operation in, write the row, note conflicts.  The row is held, and the index
 * has been brought up to date since.  op is that of the entry at hand.
 */
extern void coze_alone_apply(CozeTable *table, CozeTarget *target, const Datum *key, const CozeOp *op);

/* For the index: an operation came in; what is known may not be so any more. */
extern void coze_alone_added(Oid relid, uint32 hash, CozeVersion version);
extern void coze_alone_reset(void);

#endif							/* COZE_ALONE_H */
