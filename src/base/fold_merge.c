/*-------------------------------------------------------------------------
 *
 * fold_merge.c
 *		The merge of two rows, column by column.
 *
 * Of each column that the operation changed: if its author had seen all that
 * the column shows, its value stands; else the column's policy decides.  Where
 * one of two values stays, the other has no part in the column and leaves no
 * mark; where they are combined, both do.
 *
 *-------------------------------------------------------------------------
 */
#include "base/fold_internal.h"

/* What becomes of one column. */
typedef enum ColumnResult
{
	COLUMN_REPLACED,			/* the operation's value */
	COLUMN_COMBINED,			/* a value made of both */
	COLUMN_KEPT,				/* as it was */
	COLUMN_IMPOSSIBLE,			/* the merge cannot be done */
} ColumnResult;

static bool
changed(CozeTurn *turn, int column)
{
	const CozeFoldOp *op = turn->op;

	if (!coze_row_knows(op->new, column))
		return false;
	if (op->old == NULL)
		return true;
	if (!coze_row_knows(op->old, column))
	{
		turn->fold->incomplete = true;
		return true;
	}
	return !coze_value_same(turn->fold->table, column, op->old, op->new);
}

/* max and min: a NULL loses against any value, and ties stay. */
static bool
goes_beyond(const CozeFoldTable *table, int column, const CozeFoldRow *new,
			const CozeFoldRow *here, int direction)
{
	if (new->isnull[column] || here->isnull[column])
		return here->isnull[column] && !new->isnull[column];
	return direction * table->callbacks->compare(table->arg, column, new->values[column],
												 here->values[column]) > 0;
}

static ColumnResult
decide(CozeTurn *turn, CozeColumnPolicy policy, int column, CozeFoldRow *row)
{
	const CozeFoldTable *table = turn->fold->table;
	const CozeFoldOp *op = turn->op;
	const CozeFoldRow *here = turn->state->row;
	bool		wins = false;

	if (!coze_row_knows(here, column))
		turn->fold->incomplete = true;
	switch (policy)
	{
		case COZE_COLUMN_DELTA:
		case COZE_COLUMN_SET_MERGE:
		case COZE_COLUMN_JSON_MERGE:
			return table->callbacks->combine(table->arg, policy, column, here, op->old, op->new,
											 row) ? COLUMN_COMBINED : COLUMN_IMPOSSIBLE;
		case COZE_COLUMN_LAST_UPDATE_WINS:
			wins = true;
			break;
		case COZE_COLUMN_MAX:
			wins = goes_beyond(table, column, op->new, here, 1);
			break;
		case COZE_COLUMN_MIN:
			wins = goes_beyond(table, column, op->new, here, -1);
			break;
		case COZE_COLUMN_HOLD:
			break;
	}
	if (wins)
		coze_row_put(row, column, op->new);
	return wins ? COLUMN_REPLACED : COLUMN_KEPT;
}

/*
 * Both sides have a row.  If what comes out cannot be stored, the later one
 * stays, whole.
 */
const CozeState *
coze_fold_merge(CozeTurn *turn)
{
	const CozeFoldTable *table = turn->fold->table;
	const CozeFoldOp *op = turn->op;
	const CozeState *state = turn->state;
	CozeFoldRow *row = coze_row_copy(table->ncolumns, state->row);
	const CozeMarks **columns = coze_state_columns(table, state);
	const CozeMarks *own = coze_marks_add(NULL, turn->entry->version);
	CozeState  *merged;
	bool		effect = false,
				lost = false,
				held = false,
				possible = true;

	for (int c = 0; c < table->ncolumns && possible; c++)
	{
		CozeColumnPolicy policy = op->policy->columns != NULL ? op->policy->columns[c] :
			COZE_COLUMN_LAST_UPDATE_WINS;
		const CozeMarks *others;

		if (!changed(turn, c))
			continue;
		others = coze_marks_unseen(columns[c], turn->entry);
		if (others == NULL)
		{
			coze_row_put(row, c, op->new);
			columns[c] = own;
			effect = true;
			continue;
		}
		switch (decide(turn, policy, c, row))
		{
			case COLUMN_REPLACED:
				for (int i = 0; i < others->n; i++)
					coze_turn_lost(turn, others->v[i], COZE_OUTCOME_MERGED);
				columns[c] = own;
				effect = true;
				break;
			case COLUMN_COMBINED:
				columns[c] = coze_marks_union(others, own);
				effect = true;
				break;
			case COLUMN_KEPT:
				lost = true;
				held |= policy == COZE_COLUMN_HOLD;
				break;
			case COLUMN_IMPOSSIBLE:
				possible = false;
				break;
		}
	}
	if (possible && table->callbacks->valid != NULL)
		possible = table->callbacks->valid(table->arg, row);
	if (lost)
		coze_turn_lost(turn, turn->entry->version,
					   possible && held ? COZE_OUTCOME_HELD : COZE_OUTCOME_MERGED);
	if (!possible)
		return coze_fold_later(turn);

	merged = coze_alloc0(sizeof(CozeState));
	merged->row = merged->ranked = row;
	merged->columns = columns;
	merged->presence = state->presence;
	if (effect)
		merged->presence = coze_marks_union(coze_marks_unseen(state->presence, turn->entry), own);
	return merged;
}
