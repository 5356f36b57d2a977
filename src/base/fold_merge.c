/*-------------------------------------------------------------------------
 *
 * fold_merge.c
 *		The merge of two rows, column by column.
 *
 * Of each column that the operation changed: if its author had seen all that
 * the column shows, its value stands; else the column's policy decides.  Columns that
 * it did not change show what they showed, and keep their marks: so an operation that
 * had seen everything is merged like any other.  Where one of two values stays, the other has no part in the column and leaves no
 * mark; where they are combined, both do.  The columns that a unique index reads
 * are a unit and go together; see CozeFoldUnique.
 *
 *-------------------------------------------------------------------------
 */
#include "base/fold_internal.h"

/* What becomes of one column. */
typedef enum ColumnResult
{
	COLUMN_REPLACED,			/* the operation's value */
	COLUMN_COMBINED,			/* a value made of both */
	COLUMN_OVERRULED,			/* likewise, in which the earlier lost a part */
	COLUMN_AGREED,				/* as it was, which is the operation's, too */
	COLUMN_KEPT,				/* as it was */
	COLUMN_IMPOSSIBLE,			/* the merge cannot be done */
} ColumnResult;

/* A merge on its way. */
typedef struct Merge
{
	CozeFoldRow *row;			/* so far */
	const CozeMarks **columns;	/* its marks */
	const CozeMarks *own;		/* the operation's */
	bool	   *decided;		/* columns over which somebody lost; shared by the notes */
	bool		effect;			/* has the operation a part in it? */
	bool		lost;			/* did it lose a column, or a part of one? */
	bool		held;			/* one under hold? */
	bool		possible;
} Merge;

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
combine(CozeTurn *turn, CozeColumnPolicy policy, int column, Merge *merge)
{
	const CozeFoldTable *table = turn->fold->table;
	const CozeFoldOp *op = turn->op;
	int			result = table->callbacks->combine(table->arg, policy, column, turn->state->row,
												   op->old, op->new, merge->row);

	if (result == COZE_COMBINE_IMPOSSIBLE)
		return COLUMN_IMPOSSIBLE;
	if (result & COZE_COMBINE_UNLIKE)
	{
		coze_row_put(merge->row, column, op->new);
		return COLUMN_REPLACED;
	}
	if (result & COZE_COMBINE_LOST_LATER)
		merge->lost = merge->decided[column] = true;
	return (result & COZE_COMBINE_LOST_EARLIER) ? COLUMN_OVERRULED : COLUMN_COMBINED;
}

static ColumnResult
decide(CozeTurn *turn, CozeColumnPolicy policy, int column, Merge *merge)
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
			return combine(turn, policy, column, merge);
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
		coze_row_put(merge->row, column, op->new);
	return wins ? COLUMN_REPLACED : COLUMN_KEPT;
}

/*
 * The rule for a column.  Of the columns of a unit one value as a whole stays:
 * a unique value that was pieced together, or added up, is one that nobody wrote
 * and nobody could have looked out for.
 */
static CozeColumnPolicy
policy_of(CozeTurn *turn, int column)
{
	const CozeFold *fold = turn->fold;
	const CozeColumnPolicy *columns = turn->op->policy->columns;
	int			size = 0;

	if (columns == NULL)
		return COZE_COLUMN_LAST_UPDATE_WINS;
	if (fold->unit == NULL || fold->unit[column] < 0)
		return columns[column];
	for (int c = column; c < fold->table->ncolumns; c++)
	{
		if (fold->unit[c] != column)
			continue;
		if (columns[c] == COZE_COLUMN_HOLD)
			return COZE_COLUMN_HOLD;
		size++;
	}
	if (size == 1 && (columns[column] == COZE_COLUMN_MAX || columns[column] == COZE_COLUMN_MIN))
		return columns[column];
	return COZE_COLUMN_LAST_UPDATE_WINS;
}

/* Is c the column, or one of the unit that the column leads? */
static bool
belongs(const CozeFold *fold, int c, int column)
{
	return c == column || (fold->unit != NULL && fold->unit[c] == column);
}

/* Somebody lost over the column, or the unit that it leads. */
static void
note_decided(CozeTurn *turn, Merge *merge, int column)
{
	for (int c = column; c < turn->fold->table->ncolumns; c++)
	{
		if (belongs(turn->fold, c, column))
			merge->decided[c] = true;
	}
}

static void
note_losers(CozeTurn *turn, Merge *merge, int column, const CozeMarks *losers)
{
	note_decided(turn, merge, column);
	for (int i = 0; i < losers->n; i++)
		coze_turn_lost(turn, losers->v[i], COZE_OUTCOME_MERGED)->columns = merge->decided;
}

/* The column, or the unit that it leads, gets the operation's values. */
static void
take_over(CozeTurn *turn, Merge *merge, int column)
{
	for (int c = column; c < turn->fold->table->ncolumns; c++)
	{
		if (!belongs(turn->fold, c, column))
			continue;
		if (coze_row_knows(turn->op->new, c))
			coze_row_put(merge->row, c, turn->op->new);
		merge->columns[c] = merge->own;
	}
	merge->effect = true;
}

/* Have both written the same, where that is an answer? */
static bool
agrees(CozeTurn *turn, CozeColumnPolicy policy, int column)
{
	const CozeFoldRow *new = turn->op->new;
	const CozeFoldRow *here = turn->state->row;

	if (policy == COZE_COLUMN_DELTA || policy == COZE_COLUMN_SET_MERGE || policy == COZE_COLUMN_JSON_MERGE)
		return false;
	for (int c = column; c < turn->fold->table->ncolumns; c++)
	{
		if (belongs(turn->fold, c, column) &&
			(!coze_row_knows(new, c) || !coze_row_knows(here, c) ||
			 !coze_value_same(turn->fold->table, c, new, here)))
			return false;
	}
	return true;
}

/* One column, or the unit that it leads. */
static void
merge_column(CozeTurn *turn, Merge *merge, int column)
{
	const CozeFold *fold = turn->fold;
	CozeColumnPolicy policy = policy_of(turn, column);
	const CozeMarks *others = NULL;
	bool		differs = false;

	for (int c = column; c < fold->table->ncolumns; c++)
	{
		if (!belongs(fold, c, column))
			continue;
		differs |= changed(turn, c);
		others = coze_marks_union(others, coze_marks_unseen(merge->columns[c], turn->entry));
	}
	if (!differs)
		return;
	if (others == NULL)
	{
		take_over(turn, merge, column);
		return;
	}
	switch (agrees(turn, policy, column) ? COLUMN_AGREED : decide(turn, policy, column, merge))
	{
		case COLUMN_AGREED:
			for (int c = column; c < fold->table->ncolumns; c++)
			{
				if (belongs(fold, c, column))
					merge->columns[c] = coze_marks_union(others, merge->own);
			}
			merge->effect = true;
			break;
		case COLUMN_REPLACED:
			note_losers(turn, merge, column, others);
			take_over(turn, merge, column);
			break;
		case COLUMN_OVERRULED:
			note_losers(turn, merge, column, others);
			/* FALLTHROUGH */
		case COLUMN_COMBINED:
			merge->columns[column] = coze_marks_union(others, merge->own);
			merge->effect = true;
			break;
		case COLUMN_KEPT:
			note_decided(turn, merge, column);
			merge->lost = true;
			merge->held |= policy == COZE_COLUMN_HOLD;
			break;
		case COLUMN_IMPOSSIBLE:
			merge->possible = false;
			break;
	}
}

/*
 * Both sides have a row.  If what comes out cannot be stored, the later one
 * stays, whole.
 */
const CozeState *
coze_fold_merge(CozeTurn *turn)
{
	const CozeFoldTable *table = turn->fold->table;
	const int  *unit = turn->fold->unit;
	Merge		merge = {.possible = true};
	CozeState  *merged;

	merge.row = coze_row_copy(table->ncolumns, turn->state->row);
	merge.columns = coze_state_columns(table, turn->state);
	merge.decided = coze_alloc0(Max(1, table->ncolumns) * sizeof(bool));
	merge.own = coze_marks_add(NULL, turn->entry->version);
	for (int c = 0; c < table->ncolumns && merge.possible; c++)
	{
		if (unit == NULL || unit[c] < 0 || unit[c] == c)
			merge_column(turn, &merge, c);
	}
	if (merge.possible && table->callbacks->valid != NULL)
		merge.possible = table->callbacks->valid(table->arg, merge.row);
	if (merge.lost)
		coze_turn_lost(turn, turn->entry->version, merge.possible && merge.held ?
					   COZE_OUTCOME_HELD : COZE_OUTCOME_MERGED)->columns = merge.possible ? merge.decided : NULL;
	if (!merge.possible)
		return coze_fold_later(turn);

	merged = coze_alloc0(sizeof(CozeState));
	merged->row = merged->ranked = merge.row;
	merged->columns = merge.columns;
	merged->presence = turn->state->presence;
	if (merge.effect)
		merged->presence = coze_marks_union(coze_marks_unseen(turn->state->presence, turn->entry),
											merge.own);
	return merged;
}
