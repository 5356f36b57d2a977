/*-------------------------------------------------------------------------
 *
 * fold_unique.c
 *		Unique values among the states of a fold.
 *
 * In version order, no two states carry the same unique value before an entry,
 * and none do after it.  An operation whose row collides with another key's
 * either gives way: its unique columns keep the values that the key had, or all
 * of it is set aside; or, under last_update_wins, it takes the other's place.
 *
 * Deciding by pairs of operations would not do: which values a state carries
 * may come from several of them.
 *
 * A chained hash table per index over the keys finds whom a row collides with.
 *
 *-------------------------------------------------------------------------
 */
#include "base/fold_internal.h"

/* One per (index, key): a place in the chain of those with the same bucket. */
typedef struct Place
{
	uint32		hash;
	bool		linked;
	int			next;			/* keys, or -1 */
	int			prev;
} Place;

struct CozeFoldHash
{
	uint32		mask;
	int		  **head;			/* by index and bucket: a key, or -1 */
	Place	  **place;			/* by index and key */
	int		   *turn_of;		/* by key: its operation in the entry at hand, or -1 */
	int		   *others;			/* room for the keys that one row collides with */
};

static bool
hash_of(const CozeFoldTable *table, int index, const CozeFoldRow *row, uint32 *hash)
{
	return row != NULL && table->callbacks->unique_hash(table->arg, index, row, hash);
}

static void
join_units(int *unit, int ncolumns, int a, int b)
{
	for (int c = 0; c < ncolumns; c++)
	{
		if (unit[c] == Max(a, b))
			unit[c] = Min(a, b);
	}
}

/* Each column's unit: the columns of an index, and of those that overlap with it. */
static int *
make_units(const CozeFoldTable *table)
{
	int		   *unit = coze_alloc(table->ncolumns * sizeof(int));

	for (int c = 0; c < table->ncolumns; c++)
		unit[c] = -1;
	for (int i = 0; i < table->nuniques; i++)
	{
		const CozeFoldUnique *unique = &table->uniques[i];

		for (int j = 0; j < unique->ncolumns; j++)
		{
			int			column = unique->columns[j];
			int			other = unit[unique->columns[0]];

			if (unit[column] < 0)
				unit[column] = column;
			if (j > 0)
				join_units(unit, table->ncolumns, unit[column], other);
		}
	}
	return unit;
}

/*
 * Make each unit of a row that was made of two one of theirs: where it is neither
 * a's nor b's it becomes b's.  Either may be NULL.
 */
void
coze_unique_whole_units(CozeFold *fold, CozeFoldRow *row, const CozeFoldRow *a,
						const CozeFoldRow *b)
{
	const CozeFoldTable *table = fold->table;
	const CozeFoldRow *from = b != NULL ? b : a;

	for (int u = 0; fold->unit != NULL && from != NULL && u < table->ncolumns; u++)
	{
		bool		is_a = a != NULL,
					is_b = b != NULL;

		for (int c = u; fold->unit[u] == u && c < table->ncolumns; c++)
		{
			if (fold->unit[c] != u)
				continue;
			is_a = is_a && coze_row_knows(a, c) && coze_value_same(table, c, a, row);
			is_b = is_b && coze_row_knows(b, c) && coze_value_same(table, c, b, row);
		}
		for (int c = u; !is_a && !is_b && c < table->ncolumns; c++)
		{
			if (fold->unit[c] == u && coze_row_knows(from, c))
				coze_row_put(row, c, from);
		}
	}
}

void
coze_unique_begin(CozeFold *fold)
{
	const CozeFoldTable *table = fold->table;
	CozeFoldHash *hash = coze_alloc0(sizeof(CozeFoldHash));
	uint32		buckets = 4;

	while (buckets < (uint32) fold->nkeys)
		buckets *= 2;
	hash->mask = buckets - 1;
	fold->unit = make_units(table);
	hash->head = coze_alloc(table->nuniques * sizeof(int *));
	hash->place = coze_alloc(table->nuniques * sizeof(Place *));
	hash->turn_of = coze_alloc(fold->nkeys * sizeof(int));
	hash->others = coze_alloc(fold->nkeys * sizeof(int));
	for (int i = 0; i < table->nuniques; i++)
	{
		hash->head[i] = coze_alloc(buckets * sizeof(int));
		for (uint32 b = 0; b < buckets; b++)
			hash->head[i][b] = -1;
		hash->place[i] = coze_alloc0(fold->nkeys * sizeof(Place));
	}
	fold->hash = hash;
	for (int k = 0; k < fold->nkeys; k++)
	{
		hash->turn_of[k] = -1;
		coze_unique_remember(fold, k);
	}
}

/* Before a key's state changes. */
void
coze_unique_forget(CozeFold *fold, int key)
{
	CozeFoldHash *hash = fold->hash;

	for (int i = 0; i < fold->table->nuniques; i++)
	{
		Place	   *place = &hash->place[i][key];

		if (!place->linked)
			continue;
		if (place->prev >= 0)
			hash->place[i][place->prev].next = place->next;
		else
			hash->head[i][place->hash & hash->mask] = place->next;
		if (place->next >= 0)
			hash->place[i][place->next].prev = place->prev;
		place->linked = false;
	}
}

/* After a key's state changed. */
void
coze_unique_remember(CozeFold *fold, int key)
{
	CozeFoldHash *hash = fold->hash;

	for (int i = 0; i < fold->table->nuniques; i++)
	{
		Place	   *place = &hash->place[i][key];
		int		   *head;

		place->linked = hash_of(fold->table, i, fold->states[key]->row, &place->hash);
		if (!place->linked)
			continue;
		head = &hash->head[i][place->hash & hash->mask];
		place->next = *head;
		place->prev = -1;
		if (*head >= 0)
			hash->place[i][*head].prev = key;
		*head = key;
	}
}

/* The keys, ascending, whose rows collide with key's in an index. */
static int
find_others(CozeFold *fold, int index, int key)
{
	const CozeFoldTable *table = fold->table;
	CozeFoldHash *hash = fold->hash;
	Place	   *place = &hash->place[index][key];
	int			n = 0;

	if (!place->linked)
		return 0;
	for (int k = hash->head[index][place->hash & hash->mask]; k >= 0; k = hash->place[index][k].next)
	{
		int			at = n;

		if (k == key || hash->place[index][k].hash != place->hash ||
			!table->callbacks->unique_equal(table->arg, index, fold->states[key]->row,
											fold->states[k]->row))
			continue;
		for (; at > 0 && hash->others[at - 1] > k; at--)
			hash->others[at] = hash->others[at - 1];
		hash->others[at] = k;
		n++;
	}
	return n;
}

/* What the columns of an index show. */
static const CozeMarks *
index_marks(const CozeFoldTable *table, int index, const CozeState *state)
{
	const CozeFoldUnique *unique = &table->uniques[index];
	const CozeMarks *marks = NULL;

	for (int i = 0; i < unique->ncolumns; i++)
		marks = coze_marks_union(marks, coze_state_marks(state, unique->columns[i]));
	return marks;
}

static void
note_taken(CozeFold *fold, const CozeFoldEntry *entry, int index, int key, int other,
		   CozeVersion loser)
{
	CozeFoldNote *note = coze_fold_note(fold, entry, other, loser, COZE_OUTCOME_UNIQUE,
										COZE_CONFLICT_UNIQUE_VIOLATION);

	note->index = index;
	note->other = key;
	note->other_state = fold->states[key];
}

/*
 * last_update_wins: the other row is absent from here on.
 *
 * What the entry had not seen of the value, or of the row as a whole, lost.  (What
 * other columns show may have been forgotten elsewhere.)  If it had seen all (its author saw the value
 * given up by an operation that was set aside since), the row's loss goes by the
 * entry's own name: the marks may have been forgotten elsewhere.
 */
static void
take_place(CozeFold *fold, const CozeFoldEntry *entry, int index, int key, int other)
{
	const CozeState *state = fold->states[other];
	const CozeMarks *lost = coze_marks_union(coze_marks_unseen(index_marks(fold->table, index, state), entry),
											 coze_marks_unseen(state->presence, entry));

	for (int i = 0; lost != NULL && i < lost->n; i++)
		note_taken(fold, entry, index, key, other, lost->v[i]);
	if (lost == NULL)
		note_taken(fold, entry, index, key, other, entry->version);
	coze_fold_set_state(fold, other, coze_state_of(entry, NULL, state->row));
}

/*
 * The key's state with the unit of an index as it was, or NULL: there was
 * no row, or it would collide all the same, or it cannot be stored.
 */
static const CozeState *
with_old_values(CozeFold *fold, int index, const CozeState *before, const CozeState *state)
{
	const CozeFoldTable *table = fold->table;
	const CozeFoldUnique *unique = &table->uniques[index];
	int			unit = unique->ncolumns > 0 ? fold->unit[unique->columns[0]] : -1;
	const CozeMarks **columns;
	CozeFoldRow *row;
	CozeState  *kept;
	bool		differs = false;

	if (before->row == NULL || unit < 0)
		return NULL;
	row = coze_row_copy(table->ncolumns, state->row);
	columns = coze_state_columns(table, state);
	for (int c = unit; c < table->ncolumns; c++)
	{
		if (fold->unit[c] != unit)
			continue;
		if (!coze_row_knows(before->row, c) || !coze_row_knows(row, c))
		{
			fold->incomplete = true;
			return NULL;
		}
		differs |= !coze_value_same(table, c, before->row, row);
		coze_row_put(row, c, before->row);
		columns[c] = coze_state_marks(before, c);
	}
	if (!differs || (table->callbacks->valid != NULL && !table->callbacks->valid(table->arg, row)))
		return NULL;
	kept = coze_alloc(sizeof(CozeState));
	*kept = *state;
	kept->row = row;
	kept->columns = columns;
	return kept;
}

static void
give_way(CozeFold *fold, const CozeFoldEntry *entry, const CozeFoldOp *op, int index,
		 const CozeState *before, int other)
{
	int			key = op->key;
	const CozeMarks *theirs = index_marks(fold->table, index, fold->states[other]);
	const CozeState *kept = with_old_values(fold, index, before, fold->states[key]);
	CozeFoldNote *note = coze_fold_note(fold, entry, key, entry->version, COZE_OUTCOME_UNIQUE,
										COZE_CONFLICT_UNIQUE_VIOLATION);

	note->op = op;
	note->before = before;
	note->winner = theirs != NULL ? theirs->v[theirs->n - 1] : (CozeVersion) {0, 0};
	note->index = index;
	note->other = other;
	note->other_state = fold->states[other];
	coze_fold_set_state(fold, key, kept != NULL ? kept : before);
}

/* Settle the collisions of one key's row.  Were there any? */
static bool
settle_key(CozeFold *fold, const CozeFoldEntry *entry, const CozeFoldOp *op,
		   const CozeState *before)
{
	bool		any = false;

	for (int i = 0; i < fold->table->nuniques; i++)
	{
		int			n = find_others(fold, i, op->key);

		for (int j = 0; j < n; j++)
		{
			int			other = fold->hash->others[j];

			any = true;
			if (op->policy->unique != COZE_ROW_LAST_UPDATE_WINS ||
				fold->hash->turn_of[other] >= 0)
			{
				give_way(fold, entry, op, i, before, other);
				return true;
			}
			take_place(fold, entry, i, op->key, other);
		}
	}
	return any;
}

/*
 * At the end of an entry: no value twice.  before: the state of each operation's
 * key as the entry met it.
 *
 * Ends, since a key gives way once per index before it is back at what it was,
 * and a row whose place was taken is gone.
 */
void
coze_unique_settle(CozeFold *fold, const CozeFoldEntry *entry, const CozeState *const *before)
{
	int		   *turn_of = fold->hash->turn_of;
	bool		again = true;

	for (int i = 0; i < entry->nops; i++)
		turn_of[entry->ops[i].key] = i;
	while (again)
	{
		again = false;
		for (int i = 0; i < entry->nops; i++)
		{
			if (fold->states[entry->ops[i].key] == before[i])
				continue;
			again |= settle_key(fold, entry, &entry->ops[i], before[i]);
		}
	}
	for (int i = 0; i < entry->nops; i++)
		turn_of[entry->ops[i].key] = -1;
}
