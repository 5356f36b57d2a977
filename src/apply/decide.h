/*-------------------------------------------------------------------------
 *
 * decide.h
 *		Deciding about a key under plain last_update_wins.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_DECIDE_H
#define COZE_DECIDE_H

#include "postgres.h"

#include "apply/ops.h"
#include "apply/relation.h"
#include "base/wire.h"

/*
 * A key on which the entry at hand has an operation, and others that it had not
 * seen: its neighbours in version order.
 */
typedef struct CozeHit
{
	bool		has_before;
	bool		has_after;		/* a later operation: the entry's has no effect */
	CozeOp		before;
	CozeOp		after;
} CozeHit;

/* The entry that is being decided. */
typedef struct CozeDeciding
{
	const CozeEntryHead *head;
	MemoryContext context;		/* as long as the entry */
	uint32		change;			/* number of the change at hand, from 0 */
	uint8	   *marks;			/* a bit for each change that has a hit */
	Size		marks_size;
	struct CozeGathered *gathered;	/* see coze_decide_gather() */
} CozeDeciding;

extern bool coze_decide(CozeDeciding *deciding, CozeTable *table, const Datum *key, uint32 hash,
						CozeHit *hit);
extern bool coze_decide_unknown(const CozeDeciding *deciding, CozeTable *table, uint32 hash);

/* A change of which conflicts are to be reported at the entry's end. */
extern void coze_decide_mark(CozeDeciding *deciding);
extern bool coze_decide_any_marked(const CozeDeciding *deciding);

/*
 * Report conflicts: gather what the entry does to the keys of marked changes (all: of
 * any change that meets something unseen), by its changes in order, then report.
 * Once more through all changes if that returns true.
 */
extern void coze_decide_gather(CozeDeciding *deciding, const CozeMap *map, const CozeChange *change,
							   bool all);
extern bool coze_decide_report(CozeDeciding *deciding);

#endif							/* COZE_DECIDE_H */
