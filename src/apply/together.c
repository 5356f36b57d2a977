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
 * brought up to date a last time; who wrote to one of them shows up there.  Without
 * second unique keys each key stands alone (alone.c), unless there is a TRUNCATE.
 *
 * An entry that had seen all that is known of its keys and values takes the
 * straight way (entry.c): its author saw the very states that are here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "nodes/pg_list.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "apply/alone.h"
#include "apply/closure.h"
#include "apply/index.h"
#include "apply/outcome.h"
#include "apply/together.h"
#include "debug.h"

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

/*
 * Where columns are merged and rows vie for a value, a row's state may follow from what
 * its author had not seen of another row.  So what is above the cut of the key is folded
 * even if he had seen it all: his image shows what the state was to him.
 */
static void
look_for_others(ConcernArg *arg, const CozeTable *table, uint32 hash)
{
	if (!table->folds || table->nuniques == 0 || !COZE_RULE("image-is-his"))
		return;
	for (CozeIndexOp *op = coze_index_first(table->relid, COZE_SLOT_KEY, hash); op != NULL && !arg->unseen;
		 op = coze_index_next(op))
		arg->unseen = !coze_version_equal(coze_index_version(op), arg->head->version);
}

static void
look_at_key(ConcernArg *arg, const CozeMap *map, const CozeImage *image)
{
	Datum		key[INDEX_MAX_KEYS];
	uint32		hash;

	coze_map_key(map, image, key);
	hash = coze_key_hash(map->table, key);
	look_for_unseen(arg, map->table->relid, COZE_SLOT_KEY, hash);
	look_for_others(arg, map->table, hash);
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

/* --- the fold --- */

/* What is decided about an entry's keys of one table, all together. */
typedef struct Deciding
{
	CozeOutcomes outcomes;		/* first: what the fold's callbacks get */
	CozeClosure closure;
	CozeClosureFold fold;
	bool		truncates;		/* does the entry? */
	const CozeState **expected; /* what the rows here should be: all without the entry */
} Deciding;

/*
 * Fold all; up to the entry it is the same with and without it, conflicts and all,
 * and behind it both are wanted.
 */
static const CozeState **
fold_states(Deciding *d)
{
	CozeClosureFold *f = &d->fold;
	CozeOutcomes *o = &d->outcomes;
	CozeFold   *fold;
	const CozeState **before;
	int			at = 0;

	while (at < f->nentries && !coze_version_equal(f->entries[at].version, o->version))
		at++;
	if (at < f->nentries && f->entries[at].nops > 0)
		o->policy = f->entries[at].ops[0].policy;
	f->callbacks.note = NULL;
	before = coze_fold(&f->table, f->nkeys, f->base, f->entries, at)->states;
	f->callbacks.note = coze_outcomes_note;
	d->expected = before;
	if (at < f->nentries - 1)
	{
		o->without = true;
		d->expected = coze_fold(&f->table, f->nkeys, before, &f->entries[at + 1],
								f->nentries - at - 1)->states;
		o->without = false;
	}
	fold = coze_fold(&f->table, f->nkeys, before, &f->entries[at], f->nentries - at);
	return fold->states;
}

static void
prepare(Deciding *d)
{
	CozeClosureFold *f = &d->fold;

	d->outcomes.arg = d->closure.arg;
	coze_closure_prepare(&d->closure, f, coze_outcomes_note, d);
	d->outcomes.keys = palloc(Max(1, f->nkeys) * sizeof(Datum *));
	for (int k = 0; k < f->nkeys; k++)
		d->outcomes.keys[k] = f->keys[k]->key;
}

/* --- writing --- */

static void
delete_key(CozeTarget *target, const Datum *key)
{
	CozeFound	found;

	if (coze_row_find(target, key, COZE_LOOK_TO_DELETE, &found))
		coze_row_delete(target, &found);
}

static void
write_rows(Deciding *d, CozeTarget *target, const CozeState *const *states)
{
	CozeTable  *table = d->closure.table;
	CozeRow   **rows = palloc0(Max(1, d->fold.nkeys) * sizeof(CozeRow *));

	for (int k = 0; k < d->fold.nkeys; k++)
	{
		CozeClosureKey *key = d->fold.keys[k];
		CozeRow    *row = coze_row_of_fold(table, states[k]->row);

		if (row != NULL)
			coze_outcome_fill_in(table, row, key->row);
		if (key->row == NULL)
			rows[k] = row;
		else if (row == NULL)
			delete_key(target, key->key);
		else if (!coze_outcome_unique_same(table, key->row, row))
		{
			delete_key(target, key->key);
			rows[k] = row;
		}
	}
	for (int k = 0; k < d->fold.nkeys; k++)
	{
		CozeClosureKey *key = d->fold.keys[k];
		CozeRow    *row = coze_row_of_fold(table, states[k]->row);
		CozeFound	found;

		if (rows[k] != NULL)
			coze_row_insert(target, rows[k]);
		else if (row != NULL && !coze_outcome_same(table, key->row, row) &&
				 coze_row_find(target, key->key, COZE_LOOK_TO_UPDATE, &found))
			coze_row_update(target, &found, row);
	}
}

/* --- rows that are not as the log has them --- */

/* Is what the key's state was before the entry known from anything but the row here? */
static bool
is_accounted_for(const Deciding *d, const CozeClosureKey *key)
{
	int			own = 0;
	ListCell   *lc;

	if (key->record != NULL)
		return true;
	foreach(lc, key->ops)
	{
		if (coze_version_equal(((const CozeOp *) lfirst(lc))->version, d->outcomes.version))
			own = 1;
	}
	return list_length(key->ops) > (d->truncates ? own : 0);
}

static void
note_hidden_changes(Deciding *d, const CozeState *const *states)
{
	for (int k = 0; k < d->fold.nkeys; k++)
	{
		const CozeClosureKey *key = d->fold.keys[k];

		if (is_accounted_for(d, key))
			coze_outcome_check_row(&d->outcomes, key->key, key->ops, key->row, d->expected[k]->row,
								   states[k]->row);
	}
}

/* A TRUNCATE: rows of which the suffix knows nothing. */
static void
delete_others(Deciding *d, CozeTarget *target)
{
	CozeTable  *table = d->closure.table;
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
		for (int k = 0; k < d->fold.nkeys && !known; k++)
			known = coze_key_equal(table, d->fold.keys[k]->key, key);
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

/* The closure of the entry's keys, as of what is known now. */
static void
gather_closure(CozeTogether *together, Deciding *d, CozeTarget *target, bool lock, bool note)
{
	memset(d, 0, sizeof(*d));
	d->outcomes.version = together->head->version;
	d->truncates = together->truncate;
	coze_closure_begin(&d->closure, together->table, target, lock, together->head->version);
	d->closure.note = note;
	add_own_ops(together, &d->closure);
	coze_closure_complete(&d->closure);
}

static bool
apply_closure(CozeTogether *together, CozeTarget *target)
{
	Deciding   *d = palloc0(sizeof(Deciding));
	const CozeState **states;

	COZE_DEBUG_POINT("together-begun");
	if (together->truncate)
		coze_target_lock_exclusively(target);
	gather_closure(together, d, target, true, false);
	if (coze_index_extend_on(together->table->relid))
	{
		/* What came to light while a lock was waited for is part of it; now all is held. */
		gather_closure(together, d, target, true, true);
		coze_index_extend();
	}
	else
		coze_closure_note_written(&d->closure);
	if (coze_index_is_stale() && COZE_RULE("check-after-write"))
		return false;
	/* what was read since a change of the table was read for another one */
	if (COZE_RULE("table-stays") && !coze_table_is_current(together->table))
		return false;
	COZE_DEBUG_POINT("apply-decided");
	prepare(d);
	if (!COZE_RULE("unique-states"))
		d->fold.table.nuniques = 0;
	states = fold_states(d);
	note_hidden_changes(d, states);
	if (together->truncate)
		delete_others(d, target);
	write_rows(d, target, states);
	coze_outcomes_report(&d->outcomes);
	return true;
}

bool
coze_together_apply(CozeTogether *together, CozeTarget *target)
{
	CozeTable  *table = together->table;
	ListCell   *lc;

	if (table->nuniques > 0 || together->truncate ||
		coze_index_first(table->relid, COZE_SLOT_TRUNCATE, 0) != NULL)
		return apply_closure(together, target);

	/* Keys that stand alone: hold all of them, then know all that is to be known. */
	foreach(lc, together->ops)
	{
		coze_alone_hold(target, ((Gathered *) lfirst(lc))->key);
	}
	coze_index_extend();
	if (coze_index_first(table->relid, COZE_SLOT_TRUNCATE, 0) != NULL || !coze_table_is_current(table))
		return false;
	foreach(lc, together->ops)
	{
		Gathered   *g = lfirst(lc);

		if (g->op.found)
			coze_alone_apply(table, target, g->key, &g->op);
	}
	return true;
}
