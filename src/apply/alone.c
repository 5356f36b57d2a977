/*-------------------------------------------------------------------------
 *
 * alone.c
 *		Deciding about one key of a table that folds and has no second unique key.
 *
 * Such a key's row depends on its own operations alone.  With the row held the index
 * is brought up to date, so nothing that its holders did before is missed, however
 * often it is written to; then its operations are folded over its state at the cut.
 *
 * A row that is written to all the time has a thousand operations above the cut.  Of
 * such keys some intermediate states are kept (checkpoints), from which a fold goes
 * on.  A checkpoint at version v is what the fold of all operations up to v comes to,
 * so it holds until an operation at or below v comes in, or the cut passes v, since then
 * operations between v and the cut may be forgotten.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "nodes/pg_list.h"
#include "utils/datum.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "apply/alone.h"
#include "apply/index.h"
#include "apply/outcome.h"
#include "apply/policy.h"
#include "apply/records.h"
#include "debug.h"
#include "log/state.h"

/* Keys with fewer operations above the cut are folded from there. */
#define HOT_OPS			32
/* Operations between two checkpoints. */
#define SPACING			16
#define CHECKPOINTS_MAX 24
#define HOT_KEYS_MAX	256
/* Larger states are not kept. */
#define STATE_BYTES_MAX	(32 * 1024)

/* --- checkpoints --- */

typedef struct Checkpoint
{
	CozeVersion version;
	MemoryContext context;
	const CozeState *state;
} Checkpoint;

typedef struct HotKey
{
	struct HotName
	{
		Oid			relid;
		uint32		hash;
	}			name;			/* hash key */
	CozeTable  *table;
	Datum	   *key;
	MemoryContext context;
	int			n;
	Checkpoint	points[CHECKPOINTS_MAX];	/* by rising version */
} HotKey;

static HTAB *hot_keys = NULL;

static CozeFoldValue
copy_value(void *arg, int column, CozeFoldValue value)
{
	Form_pg_attribute att = TupleDescAttr(((CozeFoldArg *) arg)->table->desc, column);

	return (CozeFoldValue) datumCopy((Datum) value, att->attbyval, att->attlen);
}

static void
drop_points(HotKey *hot, int from)
{
	for (int i = from; i < hot->n; i++)
		MemoryContextDelete(hot->points[i].context);
	hot->n = from;
}

static void
drop_hot_key(HotKey *hot)
{
	struct HotName name = hot->name;

	MemoryContextDelete(hot->context);
	hash_search(hot_keys, &name, HASH_REMOVE, NULL);
}

void
coze_alone_added(Oid relid, uint32 hash, CozeVersion version)
{
	struct HotName name = {relid, hash};
	HotKey	   *hot;
	int			keep = 0;

	if (hot_keys == NULL || hash_get_num_entries(hot_keys) == 0)
		return;
	hot = hash_search(hot_keys, &name, HASH_FIND, NULL);
	if (hot == NULL)
		return;
	while (keep < hot->n && coze_version_cmp(hot->points[keep].version, version) < 0)
		keep++;
	drop_points(hot, keep);
}

void
coze_alone_reset(void)
{
	HASH_SEQ_STATUS seq;
	HotKey	   *hot;

	if (hot_keys == NULL)
		return;
	hash_seq_init(&seq, hot_keys);
	while ((hot = hash_seq_search(&seq)) != NULL)
		drop_hot_key(hot);
}

/* NULL: none is kept of it. */
static HotKey *
find_hot_key(CozeTable *table, const Datum *key, uint32 hash)
{
	struct HotName name = {table->relid, hash};
	HotKey	   *hot;

	if (hot_keys == NULL)
		return NULL;
	hot = hash_search(hot_keys, &name, HASH_FIND, NULL);
	if (hot == NULL)
		return NULL;
	if (hot->table == table && coze_key_equal(table, hot->key, key))
		return hot;
	drop_hot_key(hot);
	return NULL;
}

static HotKey *
make_hot_key(CozeTable *table, const Datum *key, uint32 hash)
{
	struct HotName name = {table->relid, hash};
	MemoryContext old;
	HotKey	   *hot;
	bool		found;

	if (hot_keys == NULL)
	{
		HASHCTL		ctl = {0};

		ctl.keysize = sizeof(struct HotName);
		ctl.entrysize = sizeof(HotKey);
		ctl.hcxt = TopMemoryContext;
		hot_keys = hash_create("cozesync hot keys", HOT_KEYS_MAX, &ctl,
							   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	if (hash_get_num_entries(hot_keys) >= HOT_KEYS_MAX)
		coze_alone_reset();
	hot = hash_search(hot_keys, &name, HASH_ENTER, &found);
	hot->table = table;
	hot->n = 0;
	hot->context = AllocSetContextCreate(TopMemoryContext, "cozesync hot key", ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(hot->context);
	hot->key = coze_key_copy(table, key);
	MemoryContextSwitchTo(old);
	return hot;
}

/* The older half of them at twice the distance. */
static void
thin_out(HotKey *hot)
{
	int			kept = 0;

	for (int i = 0; i < hot->n; i++)
	{
		if (i < CHECKPOINTS_MAX / 2 && i % 2 == 0)
			MemoryContextDelete(hot->points[i].context);
		else
			hot->points[kept++] = hot->points[i];
	}
	hot->n = kept;
}

/* Versions must rise. */
static void
add_point(HotKey *hot, const CozeFoldTable *fold_table, CozeVersion version, const CozeState *state)
{
	MemoryContext context = AllocSetContextCreate(hot->context, "cozesync checkpoint",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	CozeState  *copy = coze_state_copy(fold_table, state, copy_value);

	MemoryContextSwitchTo(old);
	if (MemoryContextMemAllocated(context, true) > STATE_BYTES_MAX)
	{
		MemoryContextDelete(context);
		return;
	}
	if (hot->n == CHECKPOINTS_MAX)
		thin_out(hot);
	hot->points[hot->n++] = (Checkpoint) {version, context, copy};
}

/* The highest checkpoint below a version that still holds, or NULL. */
static const Checkpoint *
point_below(HotKey *hot, CozeVersion version)
{
	for (int i = hot != NULL ? hot->n - 1 : -1; i >= 0; i--)
	{
		if (hot->points[i].version.hlc < coze_cut())
			break;
		if (coze_version_cmp(hot->points[i].version, version) < 0)
			return &hot->points[i];
	}
	return NULL;
}

/* --- operations --- */

/* One key that is being decided. */
typedef struct Alone
{
	CozeOutcomes outcomes;		/* first: what the fold's callbacks get */
	CozeFoldTable fold_table;
	CozeFoldCallbacks callbacks;
	CozeTable  *table;
	CozeTarget *target;
	const Datum *key;
	uint32		hash;
	const CozeOp *mine;
	HotKey	   *hot;
	List	   *ops;			/* CozeOp: those that are folded */
	int			n;				/* the same, as entries */
	int			at;				/* number of the one at hand */
	CozeFoldEntry *entries;
	CozeRow    *here;			/* the row, or NULL */
	const CozeState *base;
	const CozeState *expected;	/* without the entry */
} Alone;

static void
add_op(Alone *a, const CozeOp *op)
{
	CozeFoldOp *fold_op = palloc(sizeof(CozeFoldOp));

	*fold_op = (CozeFoldOp) {
		.key = 0,
		.policy = coze_policy_get(a->table, op->policy),
		.old = op->existed ? coze_fold_row(a->table, op->old) : NULL,
		.new = op->leaves_row ? coze_fold_row(a->table, op->new) : NULL,
	};
	a->ops = lappend(a->ops, unconstify(CozeOp *, op));
	a->entries[a->n++] = (CozeFoldEntry) {
		.version = op->version,.seen = &op->seen,.nops = 1,.ops = fold_op
	};
}

/* The operations to be folded, from a checkpoint on if there is one. */
static void
load_ops(Alone *a)
{
	const Checkpoint *point = point_below(a->hot, a->mine->version);
	CozeVersion from = {0, 0};
	CozeVersion *versions;
	int			n;
	bool		mine_added = false;
	CozeOpLoader loader;

	if (point != NULL)
		from = point->version;
	versions = coze_index_versions(a->table->relid, COZE_SLOT_KEY, a->hash, from, a->mine->version, &n);
	coze_ops_load_begin(&loader, a->table);
	a->entries = palloc_extended((n + 1) * sizeof(CozeFoldEntry), MCXT_ALLOC_HUGE);
	for (int i = 0; i < n; i++)
	{
		CozeOp	   *op = palloc(sizeof(CozeOp));

		if (!mine_added && coze_version_cmp(a->mine->version, versions[i]) < 0)
		{
			a->at = a->n;
			add_op(a, a->mine);
			mine_added = true;
		}
		if (coze_op_load(&loader, versions[i], a->key, op) && op->found)
			add_op(a, op);
	}
	coze_ops_load_end(&loader);
	if (!mine_added)
	{
		a->at = a->n;
		add_op(a, a->mine);
	}
	/* A copy: checkpoints come and go while the fold goes on. */
	if (point != NULL)
		a->base = coze_state_copy(&a->fold_table, point->state, copy_value);
}

static CozeRow *
copy_of_slot(Alone *a, const CozeFound *found)
{
	CozeRow    *row = coze_row_alloc(a->table);

	coze_row_of_slot(a->target, found, row);
	for (int i = 0; i < a->table->desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(a->table->desc, i);

		if (!row->isnull[i])
			row->values[i] = att->attlen == -1 ?
				PointerGetDatum(PG_DETOAST_DATUM_COPY(row->values[i])) :
				datumCopy(row->values[i], att->attbyval, att->attlen);
	}
	return row;
}

/* The state at the cut, unless the fold goes on from a checkpoint. */
static void
find_base(Alone *a)
{
	const CozeState *record;

	if (a->base != NULL)
		return;
	record = COZE_RULE("records") ?
		coze_record_of_key(coze_records_read(a->table), a->table, a->key) : NULL;
	a->base = coze_fold_base(record, &a->entries[0].ops[0], false, NULL);
}

/* --- the fold --- */

/* Fold from..to - 1, leaving checkpoints on the way if that is wanted. */
static const CozeState *
fold_some(Alone *a, const CozeState *state, int from, int to, bool checkpoints)
{
	CozeFold   *fold = coze_fold_begin(&a->fold_table, 1, &state);
	int			since = 0;

	for (int i = from; i < to; i++)
	{
		CozeVersion version = a->entries[i].version;

		coze_fold_entry(fold, &a->entries[i]);
		if (checkpoints && a->hot != NULL && ++since >= SPACING && version.hlc > coze_cut() &&
			(a->hot->n == 0 || coze_version_cmp(a->hot->points[a->hot->n - 1].version, version) < 0))
		{
			add_point(a->hot, &a->fold_table, version, fold->states[0]);
			since = 0;
		}
	}
	return fold->states[0];
}

/* Up to the entry it is the same with and without it; behind it both are wanted. */
static const CozeState *
fold_all(Alone *a)
{
	const CozeState *before;

	a->outcomes.policy = a->entries[a->at].ops[0].policy;
	a->callbacks.note = NULL;
	before = fold_some(a, a->base, 0, a->at, true);
	a->callbacks.note = coze_outcomes_note;
	a->expected = before;
	if (a->at < a->n - 1)
	{
		a->outcomes.without = true;
		a->expected = fold_some(a, before, a->at + 1, a->n, false);
		a->outcomes.without = false;
	}
	return fold_some(a, before, a->at, a->n, true);
}

/* --- the row --- */

void
coze_alone_hold(CozeTarget *target, const Datum *key)
{
	CozeFound	found;

	coze_row_find(target, key, COZE_LOOK_TO_DELETE, &found);
}

static void
write_row(Alone *a, CozeFound *found, const CozeState *state)
{
	CozeRow    *row = coze_row_of_fold(a->table, state->row);

	if (row != NULL)
		coze_outcome_fill_in(a->table, row, a->here);
	if (row == NULL && a->here != NULL)
		coze_row_delete(a->target, found);
	else if (row != NULL && a->here == NULL)
		coze_row_insert(a->target, row);
	else if (row != NULL && !coze_outcome_same(a->table, a->here, row))
		coze_row_update(a->target, found, row);
}

static void
decide(Alone *a)
{
	const Datum *keys[1] = {a->key};
	CozeFound	found;
	const CozeState *state;

	coze_unique_fold_table(a->table, &a->fold_table, &a->callbacks, coze_outcomes_note, a);
	a->outcomes.arg.table = a->table;
	a->outcomes.version = a->mine->version;
	a->outcomes.keys = keys;
	a->hot = find_hot_key(a->table, a->key, a->hash);
	load_ops(a);
	if (a->hot == NULL && a->n >= HOT_OPS)
		a->hot = make_hot_key(a->table, a->key, a->hash);
	find_base(a);
	state = fold_all(a);
	if (coze_row_find(a->target, a->key, COZE_LOOK_TO_DELETE, &found))
		a->here = copy_of_slot(a, &found);
	coze_outcome_check_row(&a->outcomes, a->key, a->ops, a->here, a->expected->row,
						   state->row);
	write_row(a, &found, state);
	coze_outcomes_report(&a->outcomes);
}

void
coze_alone_apply(CozeTable *table, CozeTarget *target, const Datum *key, const CozeOp *op)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cozesync key",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Alone		a = {.table = table,.target = target,.key = key,.mine = op};

	a.hash = coze_key_hash(table, key);
	coze_ops_trim_cache();
	coze_index_wrote(table->relid, COZE_SLOT_KEY, a.hash);
	COZE_DEBUG_POINT("apply-decided");
	decide(&a);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
