/*-------------------------------------------------------------------------
 *
 * entry.h
 *		Applying one entry in the current transaction.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_ENTRY_H
#define COZE_ENTRY_H

#include "postgres.h"

#include "apply/intake.h"

typedef enum CozeApplied
{
	COZE_APPLIED,
	COZE_APPLIED_FACTS,			/* and facts of the group changed: commit before the next */
	COZE_APPLIED_STALE,			/* what was decided may be wrong: undo, and decide again */
} CozeApplied;

/* careful: after an error, or alone in its transaction: look twice before an insert. */
extern CozeApplied coze_entry_apply(CozeQueuedEntry *entry, bool careful, uint64 *rows);

/*
 * Write down what conflicts an own entry has brought, and bring rows in line with it
 * (coze_index_take_late); false: to be done again.
 */
extern bool coze_entry_report(CozeVersion version);

/* These entries have no effect when they are applied. */
extern void coze_entry_set_skipped(const CozeVersion *versions, int n);

#endif							/* COZE_ENTRY_H */
