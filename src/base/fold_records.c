/*-------------------------------------------------------------------------
 *
 * fold_records.c
 *		States at the cut: where they come from, and which must be kept.
 *
 * An operation of the suffix is partial if its author did not hold everything
 * at or below the cut.  For the keys that partial operations bear on, the state
 * at the cut is kept as a base record.  Every other key needs none: the lowest
 * operation of the suffix on it had seen all of the cut, and its old row is the
 * state; or no operation is on it, and the row is.
 *
 * What arrives later is never partial, so records only ever go away.
 *
 *-------------------------------------------------------------------------
 */
#include "base/fold_internal.h"

/*
 * The state of a key at the cut.  record: its base record, or NULL.  lowest: the
 * lowest operation of the suffix on it, or NULL.  truncated: is there a TRUNCATE
 * in the suffix?  row: what the key has now, or NULL; needed only without a record
 * and an operation.
 */
const CozeState *
coze_fold_base(const CozeState *record, const CozeFoldOp *lowest, bool truncated,
			   const CozeFoldRow *row)
{
	if (record != NULL)
		return record;
	if (lowest != NULL)
		return coze_state_of_row(lowest->old);
	return coze_state_of_row(truncated ? NULL : row);
}

/* at_cut: of each origin the last entry at or below the cut. */
bool
coze_fold_partial(const CozeFoldEntry *entry, const CozeVector *at_cut)
{
	for (int i = 0; i < at_cut->n; i++)
	{
		CozeVersion last = {at_cut->e[i].hlc, at_cut->e[i].origin};

		if (last.hlc > 0 && !coze_fold_has_seen(entry, last))
			return true;
	}
	return false;
}

/* A row that a partial operation left or met, in the chain of its bucket. */
typedef struct Carried
{
	uint32		hash;
	int			index;
	const CozeFoldRow *row;
	int			next;
} Carried;

typedef struct CarriedValues
{
	int			n;
	uint32		mask;
	int		   *head;
	Carried    *carried;
} CarriedValues;

static void
carry(const CozeFoldTable *table, CarriedValues *values, const CozeFoldRow *row)
{
	for (int i = 0; row != NULL && i < table->nuniques; i++)
	{
		Carried    *c = &values->carried[values->n];
		int		   *head;

		if (!table->callbacks->unique_hash(table->arg, i, row, &c->hash))
			continue;
		head = &values->head[(c->hash + i) & values->mask];
		c->index = i;
		c->row = row;
		c->next = *head;
		*head = values->n++;
	}
}

static bool
is_carried(const CozeFoldTable *table, const CarriedValues *values, const CozeFoldRow *row)
{
	for (int i = 0; i < table->nuniques; i++)
	{
		uint32		hash;

		if (!table->callbacks->unique_hash(table->arg, i, row, &hash))
			continue;
		for (int j = values->head[(hash + i) & values->mask]; j >= 0; j = values->carried[j].next)
		{
			const Carried *c = &values->carried[j];

			if (c->index == i && c->hash == hash &&
				table->callbacks->unique_equal(table->arg, i, c->row, row))
				return true;
		}
	}
	return false;
}

/* Old values as well as new ones: a partial operation gives up what it had. */
static void
carry_values(const CozeFoldTable *table, CarriedValues *values,
			 const CozeFoldEntry *const *partial, int npartial)
{
	int			room = 0;
	uint32		buckets = 4;

	for (int p = 0; p < npartial; p++)
		room += 2 * partial[p]->nops * table->nuniques;
	while (buckets < (uint32) room)
		buckets *= 2;
	values->n = 0;
	values->mask = buckets - 1;
	values->carried = coze_alloc(room * sizeof(Carried));
	values->head = coze_alloc(buckets * sizeof(int));
	for (uint32 b = 0; b < buckets; b++)
		values->head[b] = -1;
	for (int p = 0; table->nuniques > 0 && p < npartial; p++)
	{
		for (int i = 0; i < partial[p]->nops; i++)
		{
			carry(table, values, partial[p]->ops[i].old);
			carry(table, values, partial[p]->ops[i].new);
		}
	}
}

/* Is there a partial TRUNCATE that had not seen all that the state shows? */
static bool
truncated_unseen(const CozeFoldTable *table, const CozeState *state,
				 const CozeFoldEntry *const *partial, int npartial)
{
	for (int p = 0; p < npartial; p++)
	{
		if (partial[p]->truncate && coze_state_shows_unseen(table, state, partial[p]))
			return true;
	}
	return false;
}

/*
 * Which base records must be kept?
 *
 * base: the exact state of each key at the cut; suffix: the n entries above it, in
 * any order; at_cut: the base vector.  record: on entry which keys have one, on
 * return which must have one, with the state from base.
 *
 * To be called when the cut moves and when an entry has arrived.  The keys need
 * not be all of the table: those of the partial operations, those with records,
 * those that carry a unique value that a partial operation carries, new or old,
 * and, for a partial TRUNCATE, those that were written above the previous cut.
 */
void
coze_fold_keep_records(const CozeFoldTable *table, int nkeys, const CozeState *const *base,
					   const CozeFoldEntry *suffix, int n, const CozeVector *at_cut,
					   bool *record)
{
	const CozeFoldEntry **partial = coze_alloc(n * sizeof(CozeFoldEntry *));
	int			npartial = 0;
	CarriedValues values;

	for (int i = 0; i < n; i++)
	{
		if ((suffix[i].nops > 0 || suffix[i].truncate) && coze_fold_partial(&suffix[i], at_cut))
			partial[npartial++] = &suffix[i];
	}
	carry_values(table, &values, partial, npartial);
	for (int k = 0; k < nkeys; k++)
	{
		const CozeFoldRow *row = base[k]->row;

		record[k] = npartial > 0 &&
			(record[k] ||
			 (row != NULL && (is_carried(table, &values, row) ||
							  truncated_unseen(table, base[k], partial, npartial))));
	}
	for (int p = 0; p < npartial; p++)
	{
		for (int i = 0; i < partial[p]->nops; i++)
			record[partial[p]->ops[i].key] = true;
	}
	coze_free(values.carried);
	coze_free(values.head);
	coze_free(partial);
}
