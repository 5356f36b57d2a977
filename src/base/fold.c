/*-------------------------------------------------------------------------
 *
 * fold.c
 *		The fold: one entry after the other, in version order, over states.
 *
 * At its turn an operation that had seen everything in the state of its key
 * replaces it; one that had not is combined with it by the policy that the
 * change names.  What is set aside leaves the state as it was.  When all
 * operations of an entry had their turns, unique values are settled, and then
 * the entry's conflicts are reported.
 *
 * Under last_update_wins, first_update_wins and hold an operation is set aside
 * iff something in effect is unseen, so only what took effect is ever marked.
 *
 *-------------------------------------------------------------------------
 */
#include "base/fold_internal.h"

/*
 * The conflicts of one entry, chained by key, so that each loss is reported
 * once, with its last outcome.
 */
struct CozeFoldNotes
{
	int			n;
	int			cap;
	CozeFoldNote *note;
	int		   *next;			/* by note: another of the same key, or -1 */
	int		   *head;			/* by key: its latest note, or -1 */
};

/* --- conflicts --- */

static CozeFoldNotes *
make_notes(int nkeys)
{
	CozeFoldNotes *notes = coze_alloc0(sizeof(CozeFoldNotes));

	notes->head = coze_alloc(nkeys * sizeof(int));
	for (int k = 0; k < nkeys; k++)
		notes->head[k] = -1;
	return notes;
}

static int
find_note(CozeFoldNotes *notes, int key, CozeVersion loser)
{
	int			i = notes->head[key];

	while (i >= 0 && !coze_version_equal(notes->note[i].loser, loser))
		i = notes->next[i];
	return i;
}

static int
append_note(CozeFoldNotes *notes, int key)
{
	if (notes->n == notes->cap)
	{
		notes->cap = Max(8, notes->cap * 2);
		notes->note = coze_realloc(notes->note, notes->cap * sizeof(CozeFoldNote));
		notes->next = coze_realloc(notes->next, notes->cap * sizeof(int));
	}
	notes->next[notes->n] = notes->head[key];
	notes->head[key] = notes->n;
	return notes->n++;
}

/*
 * Note a loss, to be reported at the end of the entry.  The caller fills in
 * what is known beyond the arguments.  A loss that was noted in this entry
 * already takes the new outcome.
 */
CozeFoldNote *
coze_fold_note(CozeFold *fold, const CozeFoldEntry *entry, int key, CozeVersion loser,
			   CozeOutcome outcome, CozeConflictType type)
{
	CozeFoldNotes *notes = fold->notes;
	CozeFoldNote *note;
	const CozeState *before = fold->states[key];
	int			i = find_note(notes, key, loser);

	if (i >= 0)
		before = notes->note[i].before;
	else
		i = append_note(notes, key);
	note = &notes->note[i];
	memset(note, 0, sizeof(CozeFoldNote));
	note->key = key;
	note->loser = loser;
	note->decided = entry->version;
	note->winner = entry->version;
	note->outcome = outcome;
	note->type = type;
	note->before = before;
	note->index = note->other = -1;
	return note;
}

/* Note a loss at an operation's turn: of itself, or of what it had not seen. */
CozeFoldNote *
coze_turn_lost(CozeTurn *turn, CozeVersion loser, CozeOutcome outcome)
{
	CozeFoldNote *note = coze_fold_note(turn->fold, turn->entry, turn->op->key, loser, outcome,
										turn->type);

	note->op = turn->op;
	if (coze_version_equal(loser, turn->entry->version))
		note->winner = turn->unseen->v[turn->unseen->n - 1];
	return note;
}

static void
report_notes(CozeFold *fold)
{
	const CozeFoldTable *table = fold->table;
	CozeFoldNotes *notes = fold->notes;

	for (int i = 0; i < notes->n; i++)
	{
		CozeFoldNote *note = &notes->note[i];

		note->after = fold->states[note->key];
		notes->head[note->key] = -1;
		if (table->callbacks->note != NULL)
			table->callbacks->note(table->arg, note);
	}
	notes->n = 0;
}

/* --- one operation --- */

static CozeConflictType
conflict_type(const CozeState *state, const CozeFoldOp *op)
{
	if (state->truncated)
		return COZE_CONFLICT_TRUNCATE_WRITE;
	if (op->new == NULL)
		return state->row != NULL ? COZE_CONFLICT_DELETE_UPDATED : COZE_CONFLICT_DELETE_DELETED;
	if (state->row == NULL)
		return COZE_CONFLICT_UPDATE_DELETED;
	return op->old == NULL ? COZE_CONFLICT_INSERT_EXISTS : COZE_CONFLICT_UPDATE_UPDATE;
}

static CozeRowPolicy
row_policy(const CozeFoldPolicy *policy, CozeConflictType type)
{
	if (type == COZE_CONFLICT_DELETE_DELETED)
		type = COZE_CONFLICT_DELETE_UPDATED;
	return policy->row[type];
}

/* The new row of an operation, a column that it does not know as it is here. */
static const CozeFoldRow *
new_row(CozeTurn *turn)
{
	const CozeFoldRow *new = turn->op->new;
	const CozeFoldRow *here = turn->state->row;
	int			ncolumns = turn->fold->table->ncolumns;
	CozeFoldRow *row;

	if (new == NULL || here == NULL || coze_row_complete(ncolumns, new))
		return new;
	row = coze_row_copy(ncolumns, new);
	for (int c = 0; c < ncolumns; c++)
	{
		if (!coze_row_knows(new, c) && coze_row_knows(here, c))
			coze_row_put(row, c, here);
	}
	return row;
}

/* The operation's state, in place of all that was there. */
static CozeState *
replace(CozeTurn *turn)
{
	const CozeFoldRow *new = new_row(turn);

	for (int i = 0; turn->unseen != NULL && i < turn->unseen->n; i++)
		coze_turn_lost(turn, turn->unseen->v[i], COZE_OUTCOME_REPLACED);
	return coze_state_of(turn->entry, new, new != NULL ? new : turn->op->old);
}

static const CozeState *
set_aside(CozeTurn *turn, CozeOutcome outcome)
{
	coze_turn_lost(turn, turn->entry->version, outcome);
	return turn->state;
}

/*
 * The later of two that merge cannot join, whole.  What it had not seen stays
 * in the mark of presence until somebody has: else an earlier content could
 * come back through a third.
 */
const CozeState *
coze_fold_later(CozeTurn *turn)
{
	CozeState  *state = replace(turn);

	state->presence = coze_marks_union(state->presence, turn->unseen);
	return state;
}

static const CozeState *
highest_version(CozeTurn *turn)
{
	const CozeFoldTable *table = turn->fold->table;
	const CozeFoldOp *op = turn->op;
	const CozeFoldRow *mine = op->new != NULL ? op->new : op->old;

	/* A deletion ranks by the row it deleted, a TRUNCATE below all. */
	if (turn->state->ranked == NULL ||
		table->callbacks->rank(table->arg, op->policy, mine, turn->state->ranked) >= 0)
		return replace(turn);
	return set_aside(turn, COZE_OUTCOME_SET_ASIDE);
}

static int
node_rank(const CozeFoldPolicy *policy, CozeOrigin origin)
{
	int			i = 0;

	while (i < policy->norder && policy->order[i] != origin)
		i++;
	return i;
}

static const CozeState *
node_order(CozeTurn *turn)
{
	const CozeFoldPolicy *policy = turn->op->policy;
	int			mine = node_rank(policy, turn->entry->version.origin);

	for (int i = 0; i < turn->unseen->n; i++)
	{
		if (node_rank(policy, turn->unseen->v[i].origin) < mine)
			return set_aside(turn, COZE_OUTCOME_SET_ASIDE);
	}
	return replace(turn);
}

/* The result is marked by both sides. */
static const CozeState *
resolve(CozeTurn *turn)
{
	const CozeFoldTable *table = turn->fold->table;
	const CozeFoldOp *op = turn->op;
	const CozeFoldRow *new = new_row(turn);
	CozeFoldRow *row = coze_row_make(table->ncolumns);
	const char *reason = NULL;
	CozeState  *state;

	switch (table->callbacks->resolve(table->arg, op->policy, turn->type, turn->state->row, new,
									  op->old, row, &reason))
	{
		case COZE_RESOLUTION_HOLD:
			coze_turn_lost(turn, turn->entry->version, COZE_OUTCOME_HELD)->reason = reason;
			return turn->state;
		case COZE_RESOLUTION_DELETE:
			row = NULL;
			break;
		case COZE_RESOLUTION_ROW:
			coze_unique_whole_units(turn->fold, row, turn->state->row, new);
			if (table->callbacks->valid != NULL && !table->callbacks->valid(table->arg, row))
				return replace(turn);
			break;
	}
	coze_turn_lost(turn, turn->entry->version, COZE_OUTCOME_MERGED);
	state = coze_state_of(turn->entry, row, row != NULL ? row : new != NULL ? new : op->old);
	state->presence = state->all_columns = coze_marks_union(state->presence, turn->unseen);
	return state;
}

static const CozeState *
merge(CozeTurn *turn)
{
	if (turn->op->new == NULL || turn->state->row == NULL)
		return coze_fold_later(turn);
	return coze_fold_merge(turn);
}

/* The state that an operation leaves; the old one where it is set aside. */
static const CozeState *
step(CozeFold *fold, const CozeFoldEntry *entry, const CozeFoldOp *op)
{
	const CozeState *state = fold->states[op->key];
	CozeTurn	turn = {fold, entry, op, state, NULL, conflict_type(state, op)};
	CozeRowPolicy policy;

	turn.unseen = coze_state_unseen(fold->table, state, entry);
	policy = row_policy(op->policy, turn.type);
	if (turn.unseen == NULL)
	{
		/* Only the columns that it changed are its own in a merge that is to come. */
		return policy == COZE_ROW_MERGE && turn.type == COZE_CONFLICT_UPDATE_UPDATE ?
			coze_fold_merge(&turn) : replace(&turn);
	}
	switch (policy)
	{
		case COZE_ROW_LAST_UPDATE_WINS:
			return replace(&turn);
		case COZE_ROW_FIRST_UPDATE_WINS:
			return set_aside(&turn, COZE_OUTCOME_SET_ASIDE);
		case COZE_ROW_HIGHEST_VERSION:
			return highest_version(&turn);
		case COZE_ROW_NODE_ORDER:
			return node_order(&turn);
		case COZE_ROW_MERGE:
			return merge(&turn);
		case COZE_ROW_RESOLVER:
			return resolve(&turn);
		case COZE_ROW_HOLD:
			return set_aside(&turn, COZE_OUTCOME_HELD);
	}
	Assert(false);
	return state;
}

/* --- one entry --- */

/* A TRUNCATE is the deletion, by last_update_wins, of every key there could be. */
static void
truncate_all(CozeFold *fold, const CozeFoldEntry *entry)
{
	CozeState  *absent = coze_state_of(entry, NULL, NULL);

	absent->truncated = true;
	for (int k = 0; k < fold->nkeys; k++)
	{
		const CozeState *state = fold->states[k];
		const CozeMarks *unseen = NULL;

		if (state->row != NULL)
			unseen = coze_state_unseen(fold->table, state, entry);
		for (int i = 0; unseen != NULL && i < unseen->n; i++)
			coze_fold_note(fold, entry, k, unseen->v[i], COZE_OUTCOME_TRUNCATED,
						   COZE_CONFLICT_TRUNCATE_WRITE);
		coze_fold_set_state(fold, k, absent);
	}
}

void
coze_fold_set_state(CozeFold *fold, int key, const CozeState *state)
{
	bool		moves = fold->hash != NULL && fold->states[key]->row != state->row;

	if (moves)
		coze_unique_forget(fold, key);
	fold->states[key] = state;
	if (moves)
		coze_unique_remember(fold, key);
}

/* Fold the next entry, which must have a higher version than all before it. */
void
coze_fold_entry(CozeFold *fold, const CozeFoldEntry *entry)
{
	const CozeState **before = NULL;

	if (entry->nops > 0 && fold->hash != NULL)
	{
		before = coze_alloc(entry->nops * sizeof(CozeState *));
		for (int i = 0; i < entry->nops; i++)
			before[i] = fold->states[entry->ops[i].key];
	}
	if (entry->truncate)
		truncate_all(fold, entry);
	for (int i = 0; i < entry->nops; i++)
	{
		const CozeFoldOp *op = &entry->ops[i];

		Assert(op->key >= 0 && op->key < fold->nkeys);
		Assert(i == 0 || entry->ops[i - 1].key < op->key);
		coze_fold_set_state(fold, op->key, step(fold, entry, op));
	}
	if (before != NULL)
	{
		coze_unique_settle(fold, entry, before);
		coze_free(before);
	}
	report_notes(fold);
}

/* states: of each key, at the cut or as left by an earlier fold. */
CozeFold *
coze_fold_begin(const CozeFoldTable *table, int nkeys, const CozeState *const *states)
{
	CozeFold   *fold = coze_alloc0(sizeof(CozeFold));

	fold->table = table;
	fold->nkeys = nkeys;
	fold->states = coze_alloc(nkeys * sizeof(CozeState *));
	for (int k = 0; k < nkeys; k++)
		fold->states[k] = states[k];
	fold->notes = make_notes(nkeys);
	if (table->nuniques > 0)
		coze_unique_begin(fold);
	return fold;
}

/* All of it: n entries in version order. */
CozeFold *
coze_fold(const CozeFoldTable *table, int nkeys, const CozeState *const *states,
		  const CozeFoldEntry *entries, int n)
{
	CozeFold   *fold = coze_fold_begin(table, nkeys, states);

	for (int i = 0; i < n; i++)
		coze_fold_entry(fold, &entries[i]);
	return fold;
}
