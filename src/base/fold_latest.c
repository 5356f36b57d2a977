/*-------------------------------------------------------------------------
 *
 * fold_latest.c
 *		The fold of a key under plain last_update_wins, without states.
 *
 * Without unique indexes the highest version simply stays, and each operation
 * that the next one had not seen lost to it.
 *
 *-------------------------------------------------------------------------
 */
#include "base/fold.h"

static CozeConflictType
type_of(const CozeLatestOp *earlier, const CozeLatestOp *later)
{
	if (earlier->truncate || later->truncate)
		return COZE_CONFLICT_TRUNCATE_WRITE;
	if (!later->leaves_row)
		return earlier->leaves_row ? COZE_CONFLICT_DELETE_UPDATED : COZE_CONFLICT_DELETE_DELETED;
	if (!earlier->leaves_row)
		return COZE_CONFLICT_UPDATE_DELETED;
	return later->existed ? COZE_CONFLICT_UPDATE_UPDATE : COZE_CONFLICT_INSERT_EXISTS;
}

/*
 * ops: the n operations on one key, in version order.  Returns the number of the
 * one that stays, -1 if there is none.  losses: room for n, *nlosses are filled
 * in; may be NULL.
 */
int
coze_fold_latest(const CozeLatestOp *ops, int n, CozeLatestLoss *losses, int *nlosses)
{
	if (losses != NULL)
		*nlosses = 0;
	for (int i = 1; losses != NULL && i < n; i++)
	{
		const CozeLatestOp *earlier = &ops[i - 1];
		const CozeLatestOp *later = &ops[i];
		CozeLatestLoss *loss = &losses[*nlosses];

		if (coze_vector_has_seen(later->seen, later->version, earlier->version))
			continue;
		/* A TRUNCATE takes nothing from an absence. */
		if (later->truncate && !earlier->leaves_row)
			continue;
		loss->loser = i - 1;
		loss->decided = i;
		loss->outcome = later->truncate ? COZE_OUTCOME_TRUNCATED : COZE_OUTCOME_REPLACED;
		loss->type = type_of(earlier, later);
		(*nlosses)++;
	}
	return n - 1;
}
