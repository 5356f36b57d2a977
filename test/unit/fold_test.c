/*-------------------------------------------------------------------------
 *
 * fold_test.c
 *		The fold on cases that can be done by hand.
 *
 * Rows are written (a, n, m, l, s, h, v, u); X is NULL.  Three nodes, whose
 * entries have seen what see() says.
 *
 *-------------------------------------------------------------------------
 */
#include "history.h"

#define X		INT32_MIN
#define ROW(...) row_make((const int[COLUMNS]) {__VA_ARGS__})

static History h;
static CozeFoldPolicy policy;
static CozeFoldEntry entries[8];
static CozeVector seen[8];
static CozeFoldOp ops[8][KEYS];
static int	n;
static CozeFoldNote last_note;
static CozeFoldCallbacks noting;

static void
remember_note(void *arg, const CozeFoldNote *note)
{
	History    *history = arg;

	last_note = *note;
	losses_add(&history->notes, (Loss) {note->key, note->loser, note->decided, note->outcome});
}

static void
begin(CozeRowPolicy row, int nuniques)
{
	memset(&h, 0, sizeof(h));
	history_set_table(&h, nuniques);
	noting = *h.table.callbacks;
	noting.note = remember_note;
	h.table.callbacks = &noting;
	h.limit = 20;
	memset(&policy, 0, sizeof(policy));
	for (int t = 0; t < COZE_CONFLICT_TYPES; t++)
		policy.row[t] = row;
	policy.unique = COZE_ROW_FIRST_UPDATE_WINS;
	policy.columns = table_columns;
	memset(entries, 0, sizeof(entries));
	memset(seen, 0, sizeof(seen));
	memset(ops, 0, sizeof(ops));
	memset(&last_note, 0, sizeof(last_note));
	n = 0;
}

/* The next entry; what it has seen of origins 1, 2, 3. */
static void
entry(CozeOrigin origin, CozeHlc hlc, CozeHlc one, CozeHlc two, CozeHlc three)
{
	CozeHlc		of[] = {one, two, three};
	CozeFoldEntry *e = &entries[n];

	for (CozeOrigin o = 1; o <= 3; o++)
	{
		if (o != origin && of[o - 1] > 0)
			coze_vector_set(&seen[n], o, of[o - 1]);
	}
	*e = (CozeFoldEntry) {{hlc, origin}, &seen[n], false, 0, ops[n]};
	n++;
}

/* An operation of the entry above. */
static void
op(int key, const CozeFoldRow *old, const CozeFoldRow *new)
{
	CozeFoldEntry *e = &entries[n - 1];

	ops[n - 1][e->nops++] = (CozeFoldOp) {key, &policy, old, new};
}

static CozeFold *
fold(const CozeFoldRow *first, const CozeFoldRow *second)
{
	const CozeState *states[KEYS];

	for (int k = 0; k < KEYS; k++)
		states[k] = coze_state_of_row(k == 0 ? first : k == 1 ? second : NULL);
	return coze_fold(&h.table, KEYS, states, entries, n);
}

static bool
is(CozeFold *fold, int key, const CozeFoldRow *row)
{
	return !fold->incomplete && coze_row_equal(&h.table, fold->states[key]->row, row);
}

static void
test_merge(void)
{
	CozeFold   *f;
	CozeFoldRow *base = ROW(0, 0, 5, 5, 3, 0, 0, X);

	begin(COZE_ROW_MERGE, 1);
	entry(1, 10, 0, 0, 0);
	op(0, base, ROW(1, 4, 9, 5, 7, 0, 0, X));
	entry(2, 11, 0, 0, 0);
	op(0, base, ROW(0, 3, 8, 4, 2, 0, 1, X));
	f = fold(base, NULL);
	tap_ok(is(f, 0, ROW(1, 7, 9, 4, 6, 0, 1, X)), "columns are merged, each by its rule");
	tap_ok(last_note.type == COZE_CONFLICT_UPDATE_UPDATE &&
		   last_note.outcome == COZE_OUTCOME_MERGED && last_note.loser.hlc == 11,
		   "the lower of two under max is noted");

	begin(COZE_ROW_MERGE, 1);
	base = ROW(0, 15, 5, 5, 3, 0, 0, X);
	entry(1, 10, 0, 0, 0);
	op(0, base, ROW(1, 20, 5, 5, 3, 0, 0, X));
	entry(2, 11, 0, 0, 0);
	op(0, base, ROW(0, 19, 5, 5, 3, 0, 0, X));
	f = fold(base, NULL);
	tap_ok(is(f, 0, ROW(0, 19, 5, 5, 3, 0, 0, X)), "a sum that overflows leaves the later row, whole");

	begin(COZE_ROW_MERGE, 1);
	entry(1, 10, 0, 0, 0);
	op(0, base, ROW(0, 15, 10, 5, 3, 0, 0, X));
	entry(2, 15, 0, 0, 0);
	op(0, base, ROW(0, 15, 5, 5, 3, 0, 9, X));
	entry(1, 20, 0, 0, 0);
	op(0, ROW(0, 15, 10, 5, 3, 0, 0, X), ROW(0, 15, 3, 5, 3, 0, 0, X));
	f = fold(base, NULL);
	tap_ok(is(f, 0, ROW(0, 15, 3, 5, 3, 0, 9, X)), "unseen is judged by column");

	begin(COZE_ROW_MERGE, 1);
	entry(1, 10, 0, 0, 0);
	op(0, base, ROW(0, 15, 5, 5, 3, 1, 0, X));
	entry(2, 11, 0, 0, 0);
	op(0, base, ROW(0, 15, 5, 5, 3, 2, 4, X));
	f = fold(base, NULL);
	tap_ok(is(f, 0, ROW(0, 15, 5, 5, 3, 1, 4, X)) && last_note.outcome == COZE_OUTCOME_HELD,
		   "hold sets the column aside, not the operation");

	begin(COZE_ROW_MERGE, 1);
	entry(1, 10, 0, 0, 0);
	op(0, base, ROW(9, 15, 5, 5, 3, 0, 0, X));
	entry(2, 11, 0, 0, 0);
	op(0, base, ROW(0, 15, 5, 5, 3, 7, 0, X));
	f = fold(base, NULL);
	tap_ok(is(f, 0, ROW(9, 15, 5, 5, 3, 7, 0, X)) && h.notes.n == 0,
		   "a column that one side changed alone is that side's, also under hold");

	begin(COZE_ROW_MERGE, 1);
	entry(1, 10, 0, 0, 0);
	op(0, base, ROW(9, 15, 5, 5, 3, 7, 0, X));
	entry(2, 11, 0, 0, 0);
	op(0, base, ROW(9, 16, 5, 5, 3, 7, 0, X));
	f = fold(base, NULL);
	tap_ok(is(f, 0, ROW(9, 16, 5, 5, 3, 7, 0, X)) && h.notes.n == 0,
		   "who writes the same is in nobody's way");
}

static void
test_deletion(void)
{
	CozeFold   *f;
	CozeFoldRow *p = ROW(1, 1, 1, 1, 1, 1, 1, X);
	CozeFoldRow *r = ROW(2, 2, 2, 2, 2, 2, 2, X);

	begin(COZE_ROW_MERGE, 1);
	entry(2, 10, 0, 0, 0);
	op(0, NULL, p);
	entry(1, 20, 0, 10, 0);
	op(0, p, NULL);
	entry(3, 25, 0, 0, 0);
	op(0, NULL, r);
	entry(2, 30, 0, 0, 25);
	op(0, r, ROW(2, 2, 2, 2, 2, 2, 3, X));
	f = fold(NULL, NULL);
	tap_ok(is(f, 0, ROW(2, 2, 2, 2, 2, 2, 3, X)), "deleted content does not come back");

	begin(COZE_ROW_FIRST_UPDATE_WINS, 1);
	entry(1, 10, 0, 0, 0);
	op(0, p, ROW(5, 1, 1, 1, 1, 1, 1, X));
	entry(2, 20, 0, 0, 0);
	op(0, p, ROW(6, 1, 1, 1, 1, 1, 1, X));
	entry(3, 30, 10, 0, 0);
	op(0, ROW(5, 1, 1, 1, 1, 1, 1, X), ROW(7, 1, 1, 1, 1, 1, 1, X));
	f = fold(p, NULL);
	tap_ok(is(f, 0, ROW(7, 1, 1, 1, 1, 1, 1, X)) && h.notes.n == 1,
		   "what had no effect is in nobody's way");

	begin(COZE_ROW_LAST_UPDATE_WINS, 1);
	entry(1, 10, 0, 0, 0);
	entries[0].truncate = true;
	entry(2, 11, 0, 0, 0);
	op(0, NULL, r);
	f = fold(p, p);
	tap_ok(is(f, 0, r) && is(f, 1, NULL) && last_note.type == COZE_CONFLICT_TRUNCATE_WRITE,
		   "a TRUNCATE takes what is not later");
}

static void
test_types(void)
{
	CozeFoldRow *p = ROW(1, 1, 1, 1, 1, 1, 1, X);
	CozeFoldRow *q = ROW(2, 1, 1, 1, 1, 1, 1, X);
	struct
	{
		const CozeFoldRow *base,
				   *first,
				   *second;
		CozeConflictType type;
	}			cases[] = {
		{NULL, p, q, COZE_CONFLICT_INSERT_EXISTS},
		{p, q, p, COZE_CONFLICT_UPDATE_UPDATE},
		{p, NULL, q, COZE_CONFLICT_UPDATE_DELETED},
		{p, q, NULL, COZE_CONFLICT_DELETE_UPDATED},
		{p, NULL, NULL, COZE_CONFLICT_DELETE_DELETED},
	};

	for (int i = 0; i < 5; i++)
	{
		begin(COZE_ROW_LAST_UPDATE_WINS, 1);
		entry(1, 10, 0, 0, 0);
		op(0, cases[i].base, cases[i].first);
		entry(2, 11, 0, 0, 0);
		op(0, cases[i].base, cases[i].second);
		tap_ok(is(fold(cases[i].base, NULL), 0, cases[i].second) && h.notes.n == 1 &&
			   last_note.type == cases[i].type && last_note.loser.hlc == 10 &&
			   last_note.winner.hlc == 11 && last_note.op == &ops[1][0],
			   "the later decides the type: %s", coze_conflict_type_name(cases[i].type));
	}
	policy.row[COZE_CONFLICT_DELETE_UPDATED] = COZE_ROW_HOLD;
	h.notes.n = 0;
	ops[0][0].new = q;
	tap_ok(is(fold(p, NULL), 0, q) && last_note.outcome == COZE_OUTCOME_HELD &&
		   last_note.winner.hlc == 10, "each type has its own policy");
}

static void
test_unique(void)
{
	CozeFold   *f;
	CozeFoldRow *a = ROW(1, 1, 1, 1, 1, 1, 1, 3);
	CozeFoldRow *b = ROW(1, 1, 2, 2, 1, 1, 1, 2);

	begin(COZE_ROW_MERGE, 1);
	entry(1, 10, 0, 0, 0);
	op(0, a, ROW(1, 1, 1, 1, 1, 1, 1, 1));
	entry(2, 11, 0, 0, 0);
	op(1, b, ROW(9, 1, 2, 2, 1, 1, 1, 1));
	f = fold(a, b);
	tap_ok(is(f, 0, ROW(1, 1, 1, 1, 1, 1, 1, 1)) && is(f, 1, ROW(9, 1, 2, 2, 1, 1, 1, 2)),
		   "the later keeps its old value, and the rest of what it wrote");
	tap_ok(last_note.type == COZE_CONFLICT_UNIQUE_VIOLATION && last_note.key == 1 &&
		   last_note.other == 0 && last_note.loser.hlc == 11 && last_note.winner.hlc == 10,
		   "both rows are in the note");
	policy.unique = COZE_ROW_LAST_UPDATE_WINS;
	f = fold(a, b);
	tap_ok(is(f, 0, NULL) && is(f, 1, ROW(9, 1, 2, 2, 1, 1, 1, 1)) && last_note.key == 0,
		   "under last_update_wins the other row goes");

	begin(COZE_ROW_MERGE, 1);
	entry(1, 10, 0, 0, 0);
	op(0, a, ROW(1, 1, 1, 1, 1, 1, 1, 2));
	op(1, b, ROW(1, 1, 2, 2, 1, 1, 1, 3));
	f = fold(a, b);
	tap_ok(is(f, 0, ROW(1, 1, 1, 1, 1, 1, 1, 2)) && is(f, 1, ROW(1, 1, 2, 2, 1, 1, 1, 3)) &&
		   h.notes.n == 0, "two values change places in one transaction");

	/* The author of @12 saw the value given up by @11, which was set aside. */
	begin(COZE_ROW_FIRST_UPDATE_WINS, 1);
	policy.unique = COZE_ROW_LAST_UPDATE_WINS;
	entry(1, 10, 0, 0, 0);
	op(0, a, ROW(2, 1, 1, 1, 1, 1, 1, 3));
	entry(2, 11, 0, 0, 0);
	op(0, a, ROW(1, 1, 1, 1, 1, 1, 1, 1));
	entry(2, 12, 10, 0, 0);
	op(1, b, ROW(1, 1, 2, 2, 1, 1, 1, 3));
	f = fold(a, b);
	tap_ok(is(f, 0, NULL) && last_note.key == 0 && last_note.loser.hlc == 12 &&
		   last_note.decided.hlc == 12, "no row goes without a note, nor is what was seen a loser");
}

/* With a second unique index, over l and m where a is not 0. */
static void
test_units(void)
{
	CozeFold   *f;
	CozeFoldRow *base = ROW(1, 1, 1, 1, 1, 1, 1, X);

	begin(COZE_ROW_MERGE, 2);
	entry(1, 10, 0, 0, 0);
	op(0, base, ROW(1, 1, 1, 2, 1, 1, 1, X));
	entry(2, 11, 0, 0, 0);
	op(0, base, ROW(1, 1, 2, 1, 1, 1, 5, X));
	f = fold(base, NULL);
	tap_ok(is(f, 0, ROW(1, 1, 2, 1, 1, 1, 5, X)), "no unique value is pieced together by a merge");

	begin(COZE_ROW_RESOLVER, 2);
	entry(1, 10, 0, 0, 0);
	op(0, base, ROW(4, 1, 1, 2, 1, 1, 1, X));
	entry(2, 11, 0, 0, 0);
	op(0, base, ROW(1, 2, 2, 1, 1, 1, 5, X));
	f = fold(base, NULL);
	tap_ok(is(f, 0, ROW(1, 2, 2, 1, 1, 1, 5, X)), "nor by a resolver");

	begin(COZE_ROW_MERGE, 2);
	entry(1, 10, 0, 0, 0);
	op(0, base, ROW(1, 1, 4, 4, 1, 1, 1, X));
	entry(2, 11, 0, 0, 0);
	op(1, ROW(3, 1, 7, 7, 1, 1, 1, X), ROW(8, 1, 4, 4, 1, 1, 1, 2));
	f = fold(base, ROW(3, 1, 7, 7, 1, 1, 1, X));
	tap_ok(is(f, 1, ROW(3, 1, 7, 7, 1, 1, 1, 2)), "who gives way gives the columns of that index, no others");
}

static CozeFoldValue
copy_value(void *arg, int column, CozeFoldValue value)
{
	(void) arg, (void) column;
	return value;
}

static void
test_states(void)
{
	CozeFoldRow *base = ROW(1, 1, 1, 1, 1, 1, 1, X);
	CozeFoldRow *part = ROW(1, 1, 1, 1, 1, 1, 1, X);
	bool		known[COLUMNS] = {[COLUMN_U] = true};
	CozeFold   *f;

	begin(COZE_ROW_MERGE, 1);
	entry(1, 10, 0, 0, 0);
	op(0, base, ROW(2, 1, 1, 1, 1, 1, 1, X));
	entry(2, 11, 0, 0, 0);
	op(0, base, ROW(1, 4, 1, 1, 1, 1, 1, X));
	f = fold(base, NULL);
	tap_ok(coze_state_equal(&h.table, f->states[0],
							coze_state_copy(&h.table, f->states[0], copy_value)) &&
		   !coze_state_equal(&h.table, f->states[0], coze_state_of_row(f->states[0]->row)),
		   "a copied state is the same, one without its marks is not");

	part->known = known;
	entries[0].nops = 0;
	ops[1][0].old = part;
	ops[1][0].new = part;
	f = fold(base, NULL);
	tap_ok(is(f, 0, base), "a column that the entry does not have keeps its value");
	entries[0].nops = 1;
	f = fold(base, NULL);
	tap_ok(is(f, 0, ROW(2, 1, 1, 1, 1, 1, 1, X)), "also in a merge");
	ops[1][0].new = base;
	f = fold(base, NULL);
	tap_ok(f->incomplete, "an old value that is needed and not there is told");
}

int
main(void)
{
	test_merge();
	test_deletion();
	test_types();
	test_unique();
	test_units();
	test_states();
	tap_free_all();
	return tap_done();
}
