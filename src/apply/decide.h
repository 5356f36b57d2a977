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
	CozeTable  *table;
	uint32		hash;
	Datum	   *key;
	bool		has_before;
	bool		has_after;		/* a later operation: the entry's has no effect */
	CozeOp		before;
	CozeOp		after;
	CozeOp		mine;
} CozeHit;

/* The entry that is being decided. */
typedef struct CozeDeciding
{
	const CozeEntryHead *head;
	MemoryContext context;		/* as long as the entry */
	List	   *hits;
} CozeDeciding;

extern CozeHit *coze_decide(CozeDeciding *deciding, CozeTable *table, const Datum *key, uint32 hash);
extern void coze_decide_again(CozeDeciding *deciding, CozeHit *hit);
extern bool coze_decide_unknown(const CozeDeciding *deciding, CozeTable *table, uint32 hash);
extern void coze_decide_report(CozeDeciding *deciding);

#endif							/* COZE_DECIDE_H */
