/*-------------------------------------------------------------------------
 *
 * fold_internal.h
 *		What the files of the fold share with each other and with nobody else.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_FOLD_INTERNAL_H
#define COZE_FOLD_INTERNAL_H

#include "base/fold.h"

/* One operation at its turn. */
typedef struct CozeTurn
{
	CozeFold   *fold;
	const CozeFoldEntry *entry;
	const CozeFoldOp *op;
	const CozeState *state;		/* as the operation meets it */
	const CozeMarks *unseen;	/* what of it its author had not seen */
	CozeConflictType type;
} CozeTurn;

/* fold_state.c */
extern bool coze_value_same(const CozeFoldTable *table, int column,
							const CozeFoldRow *a, const CozeFoldRow *b);
extern void coze_row_put(CozeFoldRow *row, int column, const CozeFoldRow *from);
extern bool coze_fold_has_seen(const CozeFoldEntry *entry, CozeVersion version);
extern const CozeMarks *coze_marks_unseen(const CozeMarks *marks, const CozeFoldEntry *entry);
extern const CozeMarks *coze_marks_union(const CozeMarks *a, const CozeMarks *b);
extern const CozeMarks *coze_marks_add(const CozeMarks *marks, CozeVersion version);
extern bool coze_state_shows_unseen(const CozeFoldTable *table, const CozeState *state,
									const CozeFoldEntry *entry);
extern const CozeMarks *coze_state_unseen(const CozeFoldTable *table, const CozeState *state,
										  const CozeFoldEntry *entry);
extern CozeState *coze_state_of(const CozeFoldEntry *entry, const CozeFoldRow *row,
								const CozeFoldRow *ranked);
extern const CozeMarks **coze_state_columns(const CozeFoldTable *table, const CozeState *state);

/* fold.c */
extern void coze_fold_set_state(CozeFold *fold, int key, const CozeState *state);
extern CozeFoldNote *coze_fold_note(CozeFold *fold, const CozeFoldEntry *entry, int key,
									CozeVersion loser, CozeOutcome outcome,
									CozeConflictType type);
extern const CozeState *coze_fold_later(CozeTurn *turn);
extern CozeFoldNote *coze_turn_lost(CozeTurn *turn, CozeVersion loser, CozeOutcome outcome);

/* fold_merge.c */
extern const CozeState *coze_fold_merge(CozeTurn *turn);

/* fold_unique.c */
extern void coze_unique_begin(CozeFold *fold);
extern void coze_unique_whole_units(CozeFold *fold, CozeFoldRow *row, const CozeFoldRow *a,
									const CozeFoldRow *b);
extern void coze_unique_forget(CozeFold *fold, int key);
extern void coze_unique_remember(CozeFold *fold, int key);
extern void coze_unique_settle(CozeFold *fold, const CozeFoldEntry *entry,
							   const CozeState *const *before);

#endif							/* COZE_FOLD_INTERNAL_H */
