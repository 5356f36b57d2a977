/*-------------------------------------------------------------------------
 *
 * table.c
 *		The model's table: its values, policies and callbacks.
 *
 *-------------------------------------------------------------------------
 */
#include "history.h"

const CozeColumnPolicy table_columns[COLUMNS] = {
	COZE_COLUMN_LAST_UPDATE_WINS, COZE_COLUMN_DELTA, COZE_COLUMN_MAX, COZE_COLUMN_MIN,
	COZE_COLUMN_SET_MERGE, COZE_COLUMN_HOLD, COZE_COLUMN_LAST_UPDATE_WINS,
	COZE_COLUMN_LAST_UPDATE_WINS, COZE_COLUMN_JSON_MERGE
};

const CozeColumnPolicy table_columns_other[COLUMNS] = {
	COZE_COLUMN_LAST_UPDATE_WINS, COZE_COLUMN_DELTA, COZE_COLUMN_MIN, COZE_COLUMN_MAX,
	COZE_COLUMN_LAST_UPDATE_WINS, COZE_COLUMN_LAST_UPDATE_WINS, COZE_COLUMN_HOLD,
	COZE_COLUMN_LAST_UPDATE_WINS, COZE_COLUMN_JSON_MERGE
};

/* values: COLUMNS of them; INT32_MIN is NULL */
CozeFoldRow *
row_make(const int *values)
{
	CozeFoldRow *row = coze_row_make(COLUMNS);

	for (int c = 0; c < COLUMNS; c++)
	{
		row->isnull[c] = values[c] == INT32_MIN;
		row->values[c] = (CozeFoldValue) (intptr_t) values[c];
	}
	return row;
}

int
row_get(const CozeFoldRow *row, int column)
{
	return row->isnull[column] ? INT32_MIN : (int) (intptr_t) row->values[column];
}

static int
or_zero(const CozeFoldRow *row, int column)
{
	return row == NULL || row->isnull[column] ? 0 : row_get(row, column);
}

static void
row_set(CozeFoldRow *row, int column, int value)
{
	row->values[column] = (CozeFoldValue) (intptr_t) value;
	row->isnull[column] = false;
}

static bool
equal(void *arg, int column, CozeFoldValue a, CozeFoldValue b)
{
	(void) arg, (void) column;
	return a == b;
}

static int
compare(void *arg, int column, CozeFoldValue a, CozeFoldValue b)
{
	(void) arg, (void) column;
	return ((intptr_t) a > (intptr_t) b) - ((intptr_t) a < (intptr_t) b);
}

/*
 * An object is a number, as the model's Export has it: two bits each for members a and b,
 * for what member o is (1: a value, 2: an object), for x or that value, and for y.  Bit 10:
 * no object.  A member is a run of bits, 0 where it is missing.
 */
#define NO_OBJECT	(1 << 10)
#define O_KIND		(3 << 4)
#define O_OBJECT	(2 << 4)

static int
merge_member(int mask, int *here, int old, int new)
{
	int			was = old & mask,
				now = *here & mask,
				to = new & mask;

	if (was == to || now == to)
		return 0;
	if (to == 0 && now != was)
		return COZE_COMBINE_LOST_LATER;
	*here = (*here & ~mask) | to;
	return now != was ? COZE_COMBINE_LOST_EARLIER : 0;
}

static int
merge_objects(int *here, int old, int new)
{
	const int	whole = O_KIND | 3 << 6 | 3 << 8;
	int			lost = merge_member(3, here, old, new) | merge_member(3 << 2, here, old, new);

	if ((*here & O_KIND) != O_OBJECT || (new & O_KIND) != O_OBJECT)
		return lost | merge_member(whole, here, old, new);
	if ((old & O_KIND) != O_OBJECT)
		old &= ~whole;
	return lost | merge_member(3 << 6, here, old, new) | merge_member(3 << 8, here, old, new);
}

static int
merge_json(const CozeFoldRow *here, const CozeFoldRow *old, const CozeFoldRow *new, int *result)
{
	int			from = old == NULL ? 0 : row_get(old, COLUMN_J);

	*result = row_get(here, COLUMN_J);
	if ((*result | row_get(new, COLUMN_J)) & NO_OBJECT)
		return COZE_COMBINE_UNLIKE;
	return COZE_COMBINE_BOTH |
		merge_objects(result, from & NO_OBJECT ? 0 : from, row_get(new, COLUMN_J));
}

static int
combine(void *arg, CozeColumnPolicy policy, int column, const CozeFoldRow *here,
		const CozeFoldRow *old, const CozeFoldRow *new, CozeFoldRow *result)
{
	History    *h = arg;
	int			x = or_zero(here, column),
				from = or_zero(old, column),
				to = or_zero(new, column),
				done = COZE_COMBINE_BOTH;

	if (policy == COZE_COLUMN_DELTA)
		x += to - from;
	else if (policy == COZE_COLUMN_SET_MERGE)
		x = (x | (to & ~from)) & ~(from & ~to);
	else
		done = merge_json(here, old, new, &x);
	if (policy == COZE_COLUMN_DELTA && (x > h->limit || x < -h->limit))
		return COZE_COMBINE_IMPOSSIBLE;
	if (!(done & COZE_COMBINE_UNLIKE))
		row_set(result, column, x);
	return done;
}

static bool
valid(void *arg, const CozeFoldRow *row)
{
	(void) arg;
	return !(row_get(row, COLUMN_A) == 3 && row_get(row, COLUMN_H) == 3);
}

static int
rank(void *arg, const CozeFoldPolicy *policy, const CozeFoldRow *a, const CozeFoldRow *b)
{
	(void) policy;
	return compare(arg, COLUMN_V, a->values[COLUMN_V], b->values[COLUMN_V]);
}

/* As resolve() in the model. */
static CozeResolution
resolve(void *arg, const CozeFoldPolicy *policy, CozeConflictType type,
		const CozeFoldRow *earlier, const CozeFoldRow *later, const CozeFoldRow *base,
		CozeFoldRow *result, const char **reason)
{
	int			x = (earlier ? row_get(earlier, COLUMN_N) : 3) + (later ? row_get(later, COLUMN_N) : 5);
	const CozeFoldRow *from = later ? later : earlier;

	(void) arg, (void) policy, (void) type, (void) reason;
	x = (x % 5 + 5) % 5;
	if (x == 0)
		return COZE_RESOLUTION_HOLD;
	if (x == 1 || from == NULL)
		return COZE_RESOLUTION_DELETE;
	for (int c = 0; c < COLUMNS; c++)
	{
		result->values[c] = from->values[c];
		result->isnull[c] = from->isnull[c];
	}
	if (earlier && later)
	{
		row_set(result, COLUMN_A, row_get(earlier, COLUMN_A));
		row_set(result, COLUMN_N, row_get(earlier, COLUMN_N) + row_get(later, COLUMN_N) -
				or_zero(base, COLUMN_N));
	}
	return COZE_RESOLUTION_ROW;
}

/*
 * Index 0 is on u.  Index 1, where there is one, is on (l, m) where a is not 0.
 * The hash is poor, so that unequal values share it.
 */
static bool
unique_hash(void *arg, int index, const CozeFoldRow *row, uint32 *hash)
{
	(void) arg;
	if (index == 0)
	{
		if (row->isnull[COLUMN_U])
			return false;
		*hash = row_get(row, COLUMN_U) / 2;
		return true;
	}
	if (!coze_row_knows(row, COLUMN_L) || row->isnull[COLUMN_L] || row->isnull[COLUMN_M] ||
		row_get(row, COLUMN_A) == 0)
		return false;
	*hash = row_get(row, COLUMN_L);
	return true;
}

static bool
unique_equal(void *arg, int index, const CozeFoldRow *a, const CozeFoldRow *b)
{
	(void) arg;
	if (index == 0)
		return row_get(a, COLUMN_U) == row_get(b, COLUMN_U);
	return row_get(a, COLUMN_L) == row_get(b, COLUMN_L) &&
		row_get(a, COLUMN_M) == row_get(b, COLUMN_M);
}

/* Keeps the loss, and sees to it that the note makes sense. */
static void
note(void *arg, const CozeFoldNote *note)
{
	History    *h = arg;
	Loss		loss = {note->key, note->loser, note->decided, note->outcome};

	if (coze_version_cmp(note->loser, note->decided) > 0 ||
		(note->index < 0 && coze_version_equal(note->loser, note->winner)) ||
		note->before == NULL || note->after == NULL ||
		coze_conflict_type_name(note->type) == NULL ||
		(note->op != NULL && note->op->key != note->key) ||
		(note->type == COZE_CONFLICT_UNIQUE_VIOLATION) != (note->index >= 0) ||
		(note->index >= 0) != (note->other_state != NULL))
		h->bad_note = true;
	losses_add(&h->notes, loss);
}

static const CozeFoldCallbacks callbacks = {
	.equal = equal,
	.compare = compare,
	.combine = combine,
	.valid = valid,
	.rank = rank,
	.resolve = resolve,
	.unique_hash = unique_hash,
	.unique_equal = unique_equal,
	.note = note,
};

static const int index_u[] = {COLUMN_U};
static const int index_lm[] = {COLUMN_L, COLUMN_M, COLUMN_A};
static const CozeFoldUnique uniques[] = {{1, index_u}, {3, index_lm}};

void
history_set_table(History *h, int nuniques)
{
	h->table.ncolumns = COLUMNS;
	h->table.nuniques = nuniques;
	h->table.uniques = uniques;
	h->table.callbacks = &callbacks;
	h->table.arg = h;
}

void
losses_add(Losses *losses, Loss loss)
{
	if (losses->n == losses->cap)
	{
		losses->cap = Max(16, 2 * losses->cap);
		losses->loss = coze_realloc(losses->loss, losses->cap * sizeof(Loss));
	}
	losses->loss[losses->n++] = loss;
}

static int
compare_losses(const void *a, const void *b)
{
	const Loss *x = a,
			   *y = b;
	int			cmp = x->key - y->key;

	if (cmp == 0)
		cmp = coze_version_cmp(x->loser, y->loser);
	return cmp != 0 ? cmp : coze_version_cmp(x->decided, y->decided);
}

void
losses_sort(Losses *losses)
{
	if (losses->n > 0)
		qsort(losses->loss, losses->n, sizeof(Loss), compare_losses);
}

/* Sorts both. */
bool
losses_equal(Losses *a, Losses *b)
{
	losses_sort(a);
	losses_sort(b);
	if (a->n != b->n)
		return false;
	for (int i = 0; i < a->n; i++)
	{
		if (compare_losses(&a->loss[i], &b->loss[i]) != 0 ||
			a->loss[i].outcome != b->loss[i].outcome)
			return false;
	}
	return true;
}
