/*-------------------------------------------------------------------------
 *
 * row.h
 *		Rows of tables here: find them by key, write them.
 *
 * Everything here happens in the current transaction, between
 * coze_owner_enter() and coze_owner_leave().
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_ROW_H
#define COZE_ROW_H

#include "postgres.h"

#include "executor/tuptable.h"

#include "apply/relation.h"
#include "apply/unique.h"

/* A table opened for writing in this transaction. */
typedef struct CozeTarget CozeTarget;

/* One heap of it: the table itself, or a partition. */
typedef struct CozeHeap CozeHeap;

extern CozeTarget *coze_target_open(CozeTable *table);
extern Relation coze_target_relation(const CozeTarget *target);
extern void coze_target_lock_exclusively(CozeTarget *target);
extern void coze_target_close_all(void);	/* before commit */
extern void coze_target_forget_all(void);	/* after abort */

/* A row that was found, and locked if that was asked for. */
typedef struct CozeFound
{
	CozeHeap   *heap;
	TupleTableSlot *slot;		/* valid until the next search in the same heap */
	bool		waited;			/* somebody else held the key or the row */
} CozeFound;

typedef enum CozeLook
{
	COZE_LOOK_ONLY,				/* as a fresh snapshot shows it */
	COZE_LOOK_TO_UPDATE,		/* lock it; believe in its absence only when nobody
								 * in progress holds the key */
	COZE_LOOK_TO_DELETE,		/* likewise */
} CozeLook;

extern bool coze_row_find(CozeTarget *target, const Datum *key, CozeLook look, CozeFound *found);

extern bool coze_row_find_unique(CozeTarget *target, int index, const CozeUniqueValue *value,
								 CozeLook look, CozeFound *found);

/* row: known columns are stored, others keep their value or take their default. */
extern void coze_row_insert(CozeTarget *target, const CozeRow *row);
/* Perhaps only when coze_row_flush() is called, here or by whoever looks at rows. */
extern void coze_row_insert_later(CozeTarget *target, const CozeRow *row);
extern void coze_row_flush(void);
extern void coze_row_update(CozeTarget *target, const CozeFound *found, const CozeRow *row);
extern void coze_row_delete(CozeTarget *target, const CozeFound *found);

/* What a slot of a heap holds, as a row of the table.  Points into the slot. */
extern void coze_row_of_slot(CozeTarget *target, const CozeFound *found, CozeRow *row);

/* Every row that the latest snapshot shows, one by one; false at the end. */
typedef struct CozeRowScan CozeRowScan;
extern CozeRowScan *coze_row_scan_begin(CozeTarget *target);
extern bool coze_row_scan_next(CozeRowScan *scan, CozeFound *found);
extern void coze_row_scan_end(CozeRowScan *scan);

#endif							/* COZE_ROW_H */
