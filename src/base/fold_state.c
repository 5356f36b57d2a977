/*-------------------------------------------------------------------------
 *
 * fold_state.c
 *		Rows, marks and states, the values that a fold works on.
 *
 * None of them is changed once others can see it; all that looks like a change
 * makes a new one, which shares what it can.  Sets of marks stay small: of each
 * origin they hold what no later one of them has seen.
 *
 *-------------------------------------------------------------------------
 */
#include "base/fold_internal.h"

/* --- rows --- */

/* All columns known and NULL. */
CozeFoldRow *
coze_row_make(int ncolumns)
{
	CozeFoldRow *row = coze_alloc0(sizeof(CozeFoldRow));

	row->values = coze_alloc0(ncolumns * sizeof(CozeFoldValue));
	row->isnull = coze_alloc(ncolumns * sizeof(bool));
	memset(row->isnull, true, ncolumns * sizeof(bool));
	return row;
}

/* The values themselves are shared. */
CozeFoldRow *
coze_row_copy(int ncolumns, const CozeFoldRow *row)
{
	CozeFoldRow *copy = coze_alloc0(sizeof(CozeFoldRow));

	copy->values = coze_alloc(ncolumns * sizeof(CozeFoldValue));
	memcpy(copy->values, row->values, ncolumns * sizeof(CozeFoldValue));
	copy->isnull = coze_alloc(ncolumns * sizeof(bool));
	memcpy(copy->isnull, row->isnull, ncolumns * sizeof(bool));
	if (row->known != NULL)
	{
		copy->known = coze_alloc(ncolumns * sizeof(bool));
		memcpy(copy->known, row->known, ncolumns * sizeof(bool));
	}
	return copy;
}

bool
coze_row_knows(const CozeFoldRow *row, int column)
{
	return row->known == NULL || row->known[column];
}

/* Is every column known? */
bool
coze_row_complete(int ncolumns, const CozeFoldRow *row)
{
	for (int c = 0; c < ncolumns; c++)
	{
		if (!coze_row_knows(row, c))
			return false;
	}
	return true;
}

/* Take a column over from another row, which must know it. */
void
coze_row_put(CozeFoldRow *row, int column, const CozeFoldRow *from)
{
	row->values[column] = from->values[column];
	row->isnull[column] = from->isnull[column];
	if (row->known != NULL)
		row->known[column] = true;
}

/* Do two rows have the same bytes, or NULL, in a column that both know? */
bool
coze_value_same(const CozeFoldTable *table, int column, const CozeFoldRow *a, const CozeFoldRow *b)
{
	if (a->isnull[column] || b->isnull[column])
		return a->isnull[column] && b->isnull[column];
	return table->callbacks->equal(table->arg, column, a->values[column], b->values[column]);
}

/* The same in what is known, and the same known?  NULL is an absence. */
bool
coze_row_equal(const CozeFoldTable *table, const CozeFoldRow *a, const CozeFoldRow *b)
{
	if (a == NULL || b == NULL || a == b)
		return a == b;
	for (int c = 0; c < table->ncolumns; c++)
	{
		if (coze_row_knows(a, c) != coze_row_knows(b, c))
			return false;
		if (coze_row_knows(a, c) && !coze_value_same(table, c, a, b))
			return false;
	}
	return true;
}

/* --- marks --- */

bool
coze_fold_has_seen(const CozeFoldEntry *entry, CozeVersion version)
{
	return coze_vector_has_seen(entry->seen, entry->version, version);
}

static CozeMarks *
make_marks(int n)
{
	CozeMarks  *marks = coze_alloc(offsetof(CozeMarks, v) + n * sizeof(CozeVersion));

	marks->n = 0;
	return marks;
}

/* Those that the entry had not seen; NULL if it had seen all. */
const CozeMarks *
coze_marks_unseen(const CozeMarks *marks, const CozeFoldEntry *entry)
{
	CozeMarks  *unseen = NULL;
	int			n = marks != NULL ? marks->n : 0;

	for (int i = 0; i < n; i++)
	{
		if (coze_fold_has_seen(entry, marks->v[i]))
			continue;
		if (unseen == NULL)
			unseen = make_marks(n - i);
		unseen->v[unseen->n++] = marks->v[i];
	}
	return unseen != NULL && unseen->n == n ? marks : unseen;
}

const CozeMarks *
coze_marks_union(const CozeMarks *a, const CozeMarks *b)
{
	CozeMarks  *both;
	int			i = 0,
				j = 0;

	if (a == NULL || a == b)
		return b;
	if (b == NULL)
		return a;
	both = make_marks(a->n + b->n);
	while (i < a->n || j < b->n)
	{
		int			cmp = i == a->n ? 1 : j == b->n ? -1 : coze_version_cmp(a->v[i], b->v[j]);

		both->v[both->n++] = cmp <= 0 ? a->v[i] : b->v[j];
		if (cmp <= 0)
			i++;
		if (cmp >= 0)
			j++;
	}
	return both;
}

const CozeMarks *
coze_marks_add(const CozeMarks *marks, CozeVersion version)
{
	CozeMarks  *one = make_marks(1);

	one->v[one->n++] = version;
	return coze_marks_union(marks, one);
}

static bool
marks_equal(const CozeMarks *a, const CozeMarks *b)
{
	int			n = a != NULL ? a->n : 0;

	if (n != (b != NULL ? b->n : 0))
		return false;
	for (int i = 0; i < n; i++)
	{
		if (!coze_version_equal(a->v[i], b->v[i]))
			return false;
	}
	return true;
}

/* --- states --- */

/* A state at the cut: in it, what no entry of the suffix can fail to have seen. */
const CozeState *
coze_state_of_row(const CozeFoldRow *row)
{
	CozeState  *state = coze_alloc0(sizeof(CozeState));

	state->row = state->ranked = row;
	return state;
}

/* The state that an operation leaves when it replaces everything. */
CozeState *
coze_state_of(const CozeFoldEntry *entry, const CozeFoldRow *row, const CozeFoldRow *ranked)
{
	CozeState  *state = coze_alloc0(sizeof(CozeState));

	state->row = row;
	state->ranked = ranked != NULL ? ranked : row;
	state->presence = state->all_columns = coze_marks_add(NULL, entry->version);
	return state;
}

const CozeMarks *
coze_state_marks(const CozeState *state, int column)
{
	return state->columns != NULL ? state->columns[column] : state->all_columns;
}

/* The marks of each column, in an array of its own. */
const CozeMarks **
coze_state_columns(const CozeFoldTable *table, const CozeState *state)
{
	const CozeMarks **columns = coze_alloc(table->ncolumns * sizeof(CozeMarks *));

	for (int c = 0; c < table->ncolumns; c++)
		columns[c] = coze_state_marks(state, c);
	return columns;
}

/* All that the state shows, in presence or a column, and the entry had not seen. */
const CozeMarks *
coze_state_unseen(const CozeFoldTable *table, const CozeState *state, const CozeFoldEntry *entry)
{
	const CozeMarks *unseen = coze_marks_unseen(state->presence, entry);
	const CozeMarks *last = state->presence;

	if (state->columns == NULL && state->all_columns != last)
		return coze_marks_union(unseen, coze_marks_unseen(state->all_columns, entry));
	for (int c = 0; state->columns != NULL && c < table->ncolumns; c++)
	{
		if (state->columns[c] == last)
			continue;
		last = state->columns[c];
		unseen = coze_marks_union(unseen, coze_marks_unseen(last, entry));
	}
	return unseen;
}

bool
coze_state_shows_unseen(const CozeFoldTable *table, const CozeState *state,
						const CozeFoldEntry *entry)
{
	return coze_state_unseen(table, state, entry) != NULL;
}

/* The same row, marks and rank? */
bool
coze_state_equal(const CozeFoldTable *table, const CozeState *a, const CozeState *b)
{
	if (!coze_row_equal(table, a->row, b->row) || !marks_equal(a->presence, b->presence) ||
		!coze_row_equal(table, a->ranked, b->ranked))
		return false;
	for (int c = 0; c < table->ncolumns; c++)
	{
		if (!marks_equal(coze_state_marks(a, c), coze_state_marks(b, c)))
			return false;
	}
	return true;
}

static const CozeMarks *
copy_marks(const CozeMarks *marks)
{
	CozeMarks  *copy;

	if (marks == NULL)
		return NULL;
	copy = make_marks(marks->n);
	memcpy(copy, marks, offsetof(CozeMarks, v) + marks->n * sizeof(CozeVersion));
	return copy;
}

static const CozeFoldRow *
copy_row_deep(const CozeFoldTable *table, const CozeFoldRow *row,
			  CozeFoldValue (*copy) (void *arg, int column, CozeFoldValue value))
{
	CozeFoldRow *result;

	if (row == NULL)
		return NULL;
	result = coze_row_copy(table->ncolumns, row);
	for (int c = 0; c < table->ncolumns; c++)
	{
		if (!row->isnull[c] && coze_row_knows(row, c))
			result->values[c] = copy(table->arg, c, row->values[c]);
	}
	return result;
}

/*
 * A copy that shares nothing: copy() copies a value of a column into the
 * current context, where the rest goes too.
 */
CozeState *
coze_state_copy(const CozeFoldTable *table, const CozeState *state,
				CozeFoldValue (*copy) (void *arg, int column, CozeFoldValue value))
{
	CozeState  *result = coze_alloc0(sizeof(CozeState));

	result->truncated = state->truncated;
	result->row = copy_row_deep(table, state->row, copy);
	result->ranked = state->ranked == state->row ? result->row :
		copy_row_deep(table, state->ranked, copy);
	result->presence = copy_marks(state->presence);
	if (state->columns == NULL)
		result->all_columns = copy_marks(state->all_columns);
	else
	{
		const CozeMarks **columns = coze_state_columns(table, state);

		for (int c = 0; c < table->ncolumns; c++)
			columns[c] = copy_marks(columns[c]);
		result->columns = columns;
	}
	return result;
}
