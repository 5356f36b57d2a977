/*-------------------------------------------------------------------------
 *
 * together.h
 *		Deciding about keys of a table that folds, together.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_TOGETHER_H
#define COZE_TOGETHER_H

#include "postgres.h"

#include "apply/ops.h"
#include "apply/row.h"
#include "base/wire.h"

/* Has a change to do with anything that the entry's author had not seen? */
extern bool coze_together_concerns(const CozeEntryHead *head, const CozeMap *map,
								   const CozeChange *change);

/* What an entry does to one such table, gathered. */
typedef struct CozeTogether
{
	CozeTable  *table;
	const CozeDescriptor *desc;
	const CozeEntryHead *head;
	bool		truncate;
	HTAB	   *keys;			/* hash of key -> list of operations */
	List	   *ops;			/* all of them */
} CozeTogether;

extern CozeTogether *coze_together_begin(CozeTable *table, const CozeDescriptor *desc, const CozeEntryHead *head);
extern void coze_together_take(CozeTogether *together, const CozeMap *map, const CozeChange *change);

/*
 * At the end of the entry; false: what was decided is stale.  The entry may be one of the
 * log, and then this puts right what it has changed too late to be seen.
 */
extern bool coze_together_apply(CozeTogether *together, CozeTarget *target);

#endif							/* COZE_TOGETHER_H */
