/*-------------------------------------------------------------------------
 *
 * outcome.h
 *		What comes of a fold: conflicts to be recorded or withdrawn, rows that
 *		differ.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_OUTCOME_H
#define COZE_OUTCOME_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "apply/ops.h"
#include "apply/relation.h"
#include "apply/unique.h"
#include "base/fold.h"

/* The conflicts of a fold with an entry and of one without it. */
typedef struct CozeOutcomes
{
	CozeFoldArg arg;			/* first: what the fold's callbacks get */
	CozeVersion version;		/* of the entry */
	const CozeFoldPolicy *policy;	/* of the entry's operations; NULL: the default */
	const Datum **keys;			/* by number in the fold */
	bool		without;		/* which of the two is being folded */
	List	   *notes;			/* CozeFoldNote: with the entry */
	List	   *former;			/* likewise: without it */
} CozeOutcomes;

/* The fold's note callback; arg is a CozeOutcomes. */
extern void coze_outcomes_note(void *arg, const CozeFoldNote *note);

/* Record and withdraw. */
extern void coze_outcomes_report(CozeOutcomes *o);

/* Does a row here have all that is known of another? */
extern bool coze_outcome_same(const CozeTable *table, const CozeRow *here, const CozeRow *row);
extern bool coze_outcome_unique_same(const CozeTable *table, const CozeRow *here, const CozeRow *row);

/* What is not known of a row is as it is here. */
extern void coze_outcome_fill_in(const CozeTable *table, CozeRow *row, const CozeRow *here);

extern void coze_outcome_check_row(const CozeOutcomes *o, const Datum *key, const List *ops,
								   const CozeRow *here, const CozeFoldRow *expected,
								   const CozeFoldRow *result);

#endif							/* COZE_OUTCOME_H */
