/*-------------------------------------------------------------------------
 *
 * together.c
 *		Deciding about keys of a table that folds, together.
 *
 * What becomes of a row depends on whom it shares unique values with, so all that
 * an entry does to such a table is gathered first, and at the entry's end the
 * keys that belong together are folded, from their states at the cut, over all
 * operations of the suffix.  What differs from what is here is written: what goes
 * goes first, so that two rows can exchange a value.
 *
 * All rows and values that the fold depends on are held before the index is
 * brought up to date a last time; who wrote to one of them shows up there.
 *
 * An entry that had seen all that is known of its keys and values takes the
 * straight way (entry.c): its author saw the very states that are here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "nodes/pg_list.h"
#include "utils/datum.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "apply/closure.h"
#include "apply/conflict.h"
#include "apply/index.h"
#include "apply/together.h"
#include "debug.h"
#include "log/state.h"

/* An operation of the entry, with its key. */
typedef struct Gathered
{
	Datum	   *key;
	CozeOp		op;
} Gathered;

typedef struct KeySlot
{
	uint32		hash;
	List	   *gathered;
} KeySlot;

/* --- is it concurrent with anything? --- */

typedef struct ConcernArg
{
	const CozeEntryHead *head;
	bool		unseen;
} ConcernArg;

static void
look_for_unseen(ConcernArg *arg, Oid relid, uint8 slot, uint32 hash)
{
	for (CozeIndexOp *op = coze_index_first(relid, slot, hash); op != NULL && !arg->unseen;
		 op = coze_index_next(op))
		arg->unseen = !coze_vector_has_seen(&arg->head->seen, arg->head->version,
											coze_index_version(op));
}

static void
look_at_value(void *arg, CozeTable *table, int index, const CozeUniqueValue *value)
{
	look_for_unseen(arg, table->relid, COZE_SLOT_UNIQUE(index), value->hash);
}

static void
look_at_key(ConcernArg *arg, const CozeMap *map, const CozeImage *image)
{
	Datum		key[INDEX_MAX_KEYS];

	coze_map_key(map, image, key);
	look_for_unseen(arg, map->table->relid, COZE_SLOT_KEY, coze_key_hash(map->table, key));
}

bool
coze_together_concerns(const CozeEntryHead *head, const CozeMap *map, const CozeChange *change)
{
	ConcernArg	arg = {head, false};

	look_for_unseen(&arg, map->table->relid, COZE_SLOT_TRUNCATE, 0);
	if (change->kind == COZE_CHANGE_TRUNCATE)
		return true;
	look_at_key(&arg, map, &change->key);
	if (change->flags & COZE_CHANGE_OLD_KEY)
		look_at_key(&arg, map, &change->old_key);
	if (!arg.unseen)
		coze_ops_unique_values(map, change, look_at_value, &arg);
	return arg.unseen;
}

/* --- gathering --- */

CozeTogether *
coze_together_begin(CozeTable *table, const CozeDescriptor *desc, const CozeEntryHead *head)
{
	CozeTogether *together = palloc0(sizeof(CozeTogether));
	HASHCTL		ctl = {0};

	together->table = table;
	together->desc = desc;
	together->head = head;
	ctl.keysize = sizeof(uint32);
	ctl.entrysize = sizeof(KeySlot);
	ctl.hcxt = CurrentMemoryContext;
	together->keys = hash_create("cozesync gathered keys", 64, &ctl,
								 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	return together;
}

static Gathered *
gathered_of(CozeTogether *together, const Datum *key)
{
	CozeTable  *table = together->table;
	uint32		hash = coze_key_hash(table, key);
	bool		found;
	KeySlot    *slot = hash_search(together->keys, &hash, HASH_ENTER, &found);
	Gathered   *g;
	ListCell   *lc;

	if (!found)
		slot->gathered = NIL;
	foreach(lc, slot->gathered)
	{
		g = lfirst(lc);
		if (coze_key_equal(table, g->key, key))
			return g;
	}
	g = palloc0(sizeof(Gathered));
	g->key = coze_key_copy(table, key);
	g->op.version = together->head->version;
	g->op.seen = together->head->seen;
	slot->gathered = lappend(slot->gathered, g);
	together->ops = lappend(together->ops, g);
	return g;
}

static void
take_for_key(CozeTogether *together, const CozeMap *map, const CozeImage *image,
			 const CozeChange *change)
{
	Datum		key[INDEX_MAX_KEYS];
	Gathered   *g;

	coze_map_key(map, image, key);
	g = gathered_of(together, key);
	coze_op_take(&g->op, map, g->key, change);
}

/* In the context that was current at coze_together_begin(), with the owner's rights. */
void
coze_together_take(CozeTogether *together, const CozeMap *map, const CozeChange *change)
{
	ListCell   *lc;

	if (change->kind == COZE_CHANGE_TRUNCATE)
	{
		together->truncate = true;
		foreach(lc, together->ops)
		{
			coze_op_take(&((Gathered *) lfirst(lc))->op, map, NULL, change);
		}
		return;
	}
	if (change->flags & COZE_CHANGE_OLD_KEY)
		take_for_key(together, map, &change->old_key, change);
	take_for_key(together, map, &change->key, change);
}

/* --- conflicts --- */

typedef struct NoteArg
{
	CozeClosure closure;		/* first: what the fold's callbacks get */
	CozeVersion version;		/* of the entry at hand */
	CozeClosureFold fold;
	List	   *notes;			/* CozeFoldNote: with the entry */
	List	   *former;			/* likewise: without it */
	bool		without;		/* which of the two is being folded */
	bool		truncates;		/* does the entry? */
	const CozeState **expected; /* what the rows here should be: all without the entry */
} NoteArg;

static Datum
state_row(CozeTable *table, const CozeState *state)
{
	return state != NULL && state->row != NULL ?
		coze_row_to_jsonb(table, coze_row_of_fold(table, state->row)) : (Datum) 0;
}

static Datum
op_row(CozeTable *table, const CozeFoldOp *op)
{
	return op != NULL && op->new != NULL ?
		coze_row_to_jsonb(table, coze_row_of_fold(table, op->new)) : (Datum) 0;
}

static const char *
reason_of(CozeTable *table, const CozeFoldNote *note)
{
	if (note->index < 0)
		return NULL;
	return psprintf("another row has the value in unique index \"%s\"",
					get_rel_name(table->uniques[note->index].index));
}

/* Whose row is which, as seen from here: "remote" is the entry that came. */
static void
take_sides(NoteArg *arg, const CozeFoldNote *note, CozeConflict *c, Datum loser_row, Datum winner_row)
{
	bool		loser_is_remote;

	if (arg->version.origin == coze_own_origin())
		loser_is_remote = !coze_version_equal(note->loser, arg->version);
	else if (coze_version_equal(note->loser, arg->version))
		loser_is_remote = true;
	else
		loser_is_remote = !coze_version_equal(note->winner, arg->version) &&
			note->loser.origin != coze_own_origin();

	c->local = loser_is_remote ? note->winner : note->loser;
	c->remote = loser_is_remote ? note->loser : note->winner;
	c->local_row = loser_is_remote ? winner_row : loser_row;
	c->remote_row = loser_is_remote ? loser_row : winner_row;
	c->outcome = loser_is_remote ? "kept local" : "took remote";
}

static void
take_note(void *a, const CozeFoldNote *note)
{
	NoteArg    *arg = a;
	CozeFoldNote *copy = palloc(sizeof(CozeFoldNote));

	*copy = *note;
	if (arg->without)
		arg->former = lappend(arg->former, copy);
	else
		arg->notes = lappend(arg->notes, copy);
}

static void
record(NoteArg *arg, const CozeFoldNote *note)
{
	CozeTable  *table = arg->closure.table;
	CozeConflict c = {0};
	bool		gave_way = note->op != NULL && coze_version_equal(note->loser, note->decided);
	Datum		loser_row;
	Datum		winner_row;

	loser_row = gave_way ? op_row(table, note->op) : state_row(table, note->before);
	winner_row = note->index >= 0 ? state_row(table, note->other_state) :
		gave_way ? state_row(table, note->before) : op_row(table, note->op);
	c.table = table;
	c.key = coze_key_to_jsonb(table, arg->fold.keys[note->key]->key);
	c.type = note->type;
	c.policy = coze_row_policy_name(note->index >= 0 ? coze_default_policy.unique :
									COZE_ROW_LAST_UPDATE_WINS);
	c.reason = reason_of(table, note);
	c.loser = note->loser;
	c.decided = note->decided;
	c.result_row = state_row(table, note->after);
	take_sides(arg, note, &c, loser_row, winner_row);
	if (gave_way && note->index >= 0 && note->after->row != NULL && note->before->row != NULL &&
		note->after != note->before)
		c.outcome = "merged";
	coze_conflict_note(&c);
}

static int
compare_notes(const ListCell *a, const ListCell *b)
{
	const CozeFoldNote *na = lfirst(a);
	const CozeFoldNote *nb = lfirst(b);
	int			result = coze_version_cmp(na->decided, nb->decided);

	if (result == 0)
		result = coze_version_cmp(na->loser, nb->loser);
	return result != 0 ? result : na->key - nb->key;
}

/* The same type, for the same reason? */
static bool
same_kind(const CozeFoldNote *a, const CozeFoldNote *b)
{
	return a->type == b->type && a->index == b->index;
}

/*
 * Record the conflicts that there are with the entry and were not without it, and
 * withdraw those of which it is the other way round.
 */
static void
report(NoteArg *arg)
{
	ListCell   *with,
			   *without;

	list_sort(arg->notes, compare_notes);
	list_sort(arg->former, compare_notes);
	with = list_head(arg->notes);
	without = list_head(arg->former);
	while (with != NULL || without != NULL)
	{
		int			order = with == NULL ? 1 : without == NULL ? -1 : compare_notes(with, without);

		if (order < 0 || (order == 0 && !same_kind(lfirst(with), lfirst(without))))
			record(arg, lfirst(with));
		else if (order > 0)
		{
			const CozeFoldNote *note = lfirst(without);
			CozeTable  *table = arg->closure.table;

			coze_conflict_withdraw(table, coze_key_to_jsonb(table, arg->fold.keys[note->key]->key),
								   note->loser, note->decided);
		}
		if (order <= 0)
			with = lnext(arg->notes, with);
		if (order >= 0)
			without = lnext(arg->former, without);
	}
}

/* --- the fold --- */

/*
 * Fold all; up to the entry it is the same with and without it, conflicts and all,
 * and behind it both are wanted.
 */
static const CozeState **
fold_states(NoteArg *arg)
{
	CozeClosureFold *f = &arg->fold;
	CozeFold   *fold;
	const CozeState **before;
	int			at = 0;

	while (at < f->nentries && !coze_version_equal(f->entries[at].version, arg->version))
		at++;
	f->callbacks.note = NULL;
	before = coze_fold(&f->table, f->nkeys, f->base, f->entries, at)->states;
	f->callbacks.note = take_note;
	arg->expected = before;
	if (at < f->nentries - 1)
	{
		arg->without = true;
		arg->expected = coze_fold(&f->table, f->nkeys, before, &f->entries[at + 1],
								  f->nentries - at - 1)->states;
		arg->without = false;
	}
	fold = coze_fold(&f->table, f->nkeys, before, &f->entries[at], f->nentries - at);
	return fold->states;
}

/* --- writing --- */

static bool
columns_same(const CozeTable *table, const CozeRow *a, const CozeRow *b, const int *columns, int n)
{
	for (int i = 0; i < n; i++)
	{
		int			c = columns != NULL ? columns[i] : i;
		Form_pg_attribute att = TupleDescAttr(table->desc, c);

		if (table->codecs[c] == NULL || !b->known[c])
			continue;
		if (a->isnull[c] != b->isnull[c] ||
			(!a->isnull[c] && !datum_image_eq(a->values[c], b->values[c], att->attbyval, att->attlen)))
			return false;
	}
	return true;
}

static bool
unique_same(const CozeTable *table, const CozeRow *a, const CozeRow *b)
{
	for (int i = 0; i < table->nuniques; i++)
	{
		if (!columns_same(table, a, b, table->uniques[i].columns, table->uniques[i].ncolumns))
			return false;
	}
	return true;
}

/* Columns that the fold does not know are as they are here. */
static void
fill_in(const CozeTable *table, CozeRow *row, const CozeRow *here)
{
	for (int i = 0; here != NULL && i < table->desc->natts; i++)
	{
		if (row->known[i] || table->codecs[i] == NULL)
			continue;
		row->values[i] = here->values[i];
		row->isnull[i] = here->isnull[i];
		row->known[i] = true;
	}
}

static void
delete_key(CozeTarget *target, const Datum *key)
{
	CozeFound	found;

	if (coze_row_find(target, key, COZE_LOOK_TO_DELETE, &found))
		coze_row_delete(target, &found);
}

static void
write_rows(NoteArg *arg, CozeTarget *target, const CozeState *const *states)
{
	CozeTable  *table = arg->closure.table;
	CozeRow   **rows = palloc0(Max(1, arg->fold.nkeys) * sizeof(CozeRow *));

	for (int k = 0; k < arg->fold.nkeys; k++)
	{
		CozeClosureKey *key = arg->fold.keys[k];
		CozeRow    *row = coze_row_of_fold(table, states[k]->row);

		if (row != NULL)
			fill_in(table, row, key->row);
		if (key->row == NULL)
			rows[k] = row;
		else if (row == NULL)
			delete_key(target, key->key);
		else if (!unique_same(table, key->row, row))
		{
			delete_key(target, key->key);
			rows[k] = row;
		}
	}
	for (int k = 0; k < arg->fold.nkeys; k++)
	{
		CozeClosureKey *key = arg->fold.keys[k];
		CozeRow    *row = coze_row_of_fold(table, states[k]->row);
		CozeFound	found;

		if (rows[k] != NULL)
			coze_row_insert(target, rows[k]);
		else if (row != NULL && !columns_same(table, key->row, row, NULL, table->desc->natts) &&
				 coze_row_find(target, key->key, COZE_LOOK_TO_UPDATE, &found))
			coze_row_update(target, &found, row);
	}
}

/* --- rows that are not as the log has them --- */

static const CozeOp *
own_op(const NoteArg *arg, const CozeClosureKey *key)
{
	ListCell   *lc;

	foreach(lc, key->ops)
	{
		const CozeOp *op = lfirst(lc);

		if (coze_version_equal(op->version, arg->version))
			return op;
	}
	return NULL;
}

/* Is what the key's state was before the entry known from anything but the row here? */
static bool
is_accounted_for(const NoteArg *arg, const CozeClosureKey *key)
{
	if (key->record != NULL)
		return true;
	return list_length(key->ops) > (own_op(arg, key) != NULL && arg->truncates ? 1 : 0);
}

static void
note_unexplained(NoteArg *arg, const CozeClosureKey *key, const CozeRow *expected)
{
	CozeTable  *table = arg->closure.table;
	const CozeOp *op = own_op(arg, key);
	CozeRow    *remote = op != NULL && op->leaves_row ? op->new : NULL;
	CozeConflict conflict = {
		.table = table,
		.key = coze_key_to_jsonb(table, key->key),
		.type = key->row == NULL ?
		(remote != NULL ? COZE_CONFLICT_UPDATE_MISSING : COZE_CONFLICT_DELETE_MISSING) :
		expected == NULL ? COZE_CONFLICT_INSERT_EXISTS : COZE_CONFLICT_UPDATE_UPDATE,
		.policy = coze_row_policy_name(COZE_ROW_LAST_UPDATE_WINS),
		.outcome = "took remote",
		.reason = COZE_REASON_UNEXPLAINED,
		.loser = arg->version,
		.decided = arg->version,
		.remote = arg->version,
		.local_row = coze_row_to_jsonb(table, key->row),
		.remote_row = coze_row_to_jsonb(table, remote),
		.result_row = coze_row_to_jsonb(table, remote),
	};

	coze_conflict_note(&conflict);
}

/*
 * A row that was changed behind the log's back would be lost without a trace when it is
 * folded again: each is to be what the fold without the entry makes of it.
 */
static void
note_hidden_changes(NoteArg *arg)
{
	CozeTable  *table = arg->closure.table;

	for (int k = 0; k < arg->fold.nkeys; k++)
	{
		const CozeClosureKey *key = arg->fold.keys[k];
		CozeRow    *expected = coze_row_of_fold(table, arg->expected[k]->row);

		if (is_accounted_for(arg, key) &&
			((expected == NULL) != (key->row == NULL) ||
			 (expected != NULL && !columns_same(table, key->row, expected, NULL, table->desc->natts))))
			note_unexplained(arg, key, expected);
	}
}

/* A TRUNCATE: rows of which the suffix knows nothing. */
static void
delete_others(NoteArg *arg, CozeTarget *target)
{
	CozeTable  *table = arg->closure.table;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cozesync truncated row",
												  ALLOCSET_SMALL_SIZES);
	CozeRowScan *scan = coze_row_scan_begin(target);
	CozeFound	found;

	while (coze_row_scan_next(scan, &found))
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		CozeRow    *row = coze_row_alloc(table);
		Datum		key[INDEX_MAX_KEYS];
		bool		known = false;

		coze_row_of_slot(target, &found, row);
		coze_key_of_row(table, row, key);
		for (int k = 0; k < arg->fold.nkeys && !known; k++)
			known = coze_key_equal(table, arg->fold.keys[k]->key, key);
		if (!known)
			delete_key(target, key);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	}
	coze_row_scan_end(scan);
	MemoryContextDelete(context);
}

/* --- all of it --- */

static void
add_own_ops(CozeTogether *together, CozeClosure *closure)
{
	ListCell   *lc;

	foreach(lc, together->ops)
	{
		Gathered   *g = lfirst(lc);
		CozeClosureKey *key = coze_closure_add_key(closure, g->key);

		if (g->op.found)
			key->ops = lappend(key->ops, &g->op);
	}
	if (together->truncate)
	{
		CozeOp	   *truncate = palloc0(sizeof(CozeOp));

		truncate->version = together->head->version;
		truncate->seen = together->head->seen;
		truncate->truncate = true;
		closure->truncates = lappend(closure->truncates, truncate);
		if (closure->lock)
			coze_index_wrote(closure->table->relid, COZE_SLOT_TRUNCATE, 0);
		coze_closure_add_all(closure);
	}
}

bool
coze_together_apply(CozeTogether *together, CozeTarget *target)
{
	NoteArg    *arg = palloc0(sizeof(NoteArg));
	const CozeState **states;

	arg->version = together->head->version;
	arg->truncates = together->truncate;
	coze_closure_begin(&arg->closure, together->table, target, true, together->head->version);
	COZE_DEBUG_POINT("together-begun");
	if (together->truncate)
		coze_target_lock_exclusively(target);
	add_own_ops(together, &arg->closure);
	coze_closure_complete(&arg->closure);

	/* All that counts is held: what has become visible until now must be known. */
	coze_index_extend();
	if (coze_index_is_stale() && COZE_RULE("check-after-write"))
		return false;
	/* what was read since a change of the table was read for another one */
	if (COZE_RULE("table-stays") && !coze_table_is_current(together->table))
		return false;
	COZE_DEBUG_POINT("apply-decided");
	coze_closure_prepare(&arg->closure, &arg->fold, take_note);
	if (!COZE_RULE("unique-states"))
		arg->fold.table.nuniques = 0;
	states = fold_states(arg);
	note_hidden_changes(arg);
	if (together->truncate)
		delete_others(arg, target);
	write_rows(arg, target, states);
	report(arg);
	return true;
}

void
coze_together_report(CozeTogether *together, CozeTarget *target)
{
	NoteArg    *arg = palloc0(sizeof(NoteArg));

	arg->version = together->head->version;
	arg->truncates = together->truncate;
	coze_closure_begin(&arg->closure, together->table, target, false, together->head->version);
	add_own_ops(together, &arg->closure);
	coze_closure_complete(&arg->closure);
	coze_closure_prepare(&arg->closure, &arg->fold, take_note);
	fold_states(arg);
	report(arg);
}
