/*-------------------------------------------------------------------------
 *
 * closure.c
 *		Keys that must be folded together, with all that is known of them.
 *
 * A late operation can change verdicts on other keys of the suffix: on those
 * that shared a unique value with it, and on those that shared one with them.  The
 * closure follows values, new and old, of the operations of the suffix, of base
 * records and of rows, until nothing new comes up.  It may hold more keys than it
 * must; never fewer.
 *
 * With lock set, every row and value that comes up is held, so that after it is
 * complete nobody but us can change what the fold depends on.  Who waited for a lock may
 * have missed what its holder did: then it is gathered again, with all locks held.
 *
 * Everything is made in the context that was current at coze_closure_begin() and
 * stays there; use a context of its own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/datum.h"
#include "utils/memutils.h"

#include "apply/closure.h"
#include "apply/index.h"
#include "apply/policy.h"
#include "apply/records.h"
#include "debug.h"

typedef struct FollowedValue
{
	int			index;
	CozeUniqueValue value;
} FollowedValue;

/* --- keys --- */

CozeClosureKey *
coze_closure_add_key(CozeClosure *closure, const Datum *key)
{
	CozeTable  *table = closure->table;
	uint32		hash = coze_key_hash(table, key);
	CozeClosureKey *k;
	ListCell   *lc;

	foreach(lc, closure->keys)
	{
		k = lfirst(lc);
		if (k->hash == hash && coze_key_equal(table, k->key, key))
			return k;
	}
	k = palloc0(sizeof(CozeClosureKey));
	k->key = coze_key_copy(table, key);
	k->hash = hash;
	k->record = coze_record_of_key(closure->records, table, key);
	closure->keys = lappend(closure->keys, k);
	if (closure->note)
		coze_index_wrote(table->relid, COZE_SLOT_KEY, hash);
	return k;
}

static void
add_key_of_row(CozeClosure *closure, const CozeRow *row)
{
	Datum		key[INDEX_MAX_KEYS];

	coze_key_of_row(closure->table, row, key);
	coze_closure_add_key(closure, key);
}

/* --- values --- */

typedef struct CarrierArg
{
	CozeClosure *closure;
	const FollowedValue *followed;	/* NULL: every key */
	bool		carries;
} CarrierArg;

static void
compare_value(void *arg, CozeTable *table, int index, const CozeUniqueValue *value)
{
	CarrierArg *c = arg;

	if (index == c->followed->index && coze_unique_same(table, index, value, &c->followed->value))
		c->carries = true;
}

/* Add the keys of a change that carries the value. */
static void
add_carrier(void *arg, const CozeChange *change)
{
	CarrierArg *c = arg;
	CozeMap    *map = coze_map_get(change->relation);
	Datum		key[INDEX_MAX_KEYS];

	if (change->kind == COZE_CHANGE_TRUNCATE || !coze_map_resolve(map, true) ||
		map->table != c->closure->table)
		return;
	c->carries = c->followed == NULL;
	if (c->followed != NULL)
		coze_ops_unique_values(map, change, compare_value, c);
	if (!c->carries)
		return;
	coze_map_key(map, &change->key, key);
	coze_closure_add_key(c->closure, key);
	if (change->flags & COZE_CHANGE_OLD_KEY)
	{
		coze_map_key(map, &change->old_key, key);
		coze_closure_add_key(c->closure, key);
	}
}

/* Does the row have the value? */
static bool
row_carries(CarrierArg *c, const CozeRow *row)
{
	CozeUniqueValue value;

	return row != NULL && coze_unique_value(c->closure->table, c->followed->index, row, &value) &&
		coze_unique_same(c->closure->table, c->followed->index, &value, &c->followed->value);
}

static void
add_if_carrier(void *arg, const Datum *key, const CozeOp *op)
{
	CarrierArg *c = arg;

	if (c->followed == NULL || row_carries(c, op->new) || row_carries(c, op->old))
		coze_closure_add_key(c->closure, key);
}

static void
add_carriers(CozeClosure *closure, CozeOpLoader *loader, CozeVersion version,
			 const FollowedValue *followed)
{
	CarrierArg	arg = {closure, followed, false};
	CozeEntryHead head;

	if (coze_ops_each(loader, version, add_if_carrier, &arg))
		return;
	if (coze_read_entry(version, &head, UINT32_MAX, add_carrier, &arg))
		coze_vector_free(&head.seen);
}

static bool
was_followed(CozeClosure *closure, int index, const CozeUniqueValue *value)
{
	ListCell   *lc;

	foreach(lc, closure->values)
	{
		FollowedValue *followed = lfirst(lc);

		if (followed->index == index &&
			coze_unique_same(closure->table, index, &followed->value, value))
			return true;
	}
	return false;
}

/* Whoever carries the value: operations, the row that has it now, base records. */
static void
follow_value(CozeClosure *closure, int index, const CozeUniqueValue *value)
{
	CozeTable  *table = closure->table;
	FollowedValue *followed;
	CozeFound	found;
	CozeIndexOp *op;
	CozeOpLoader loader;

	if (was_followed(closure, index, value))
		return;
	followed = palloc(sizeof(FollowedValue));
	followed->index = index;
	coze_unique_copy(table, index, &followed->value, value);
	closure->values = lappend(closure->values, followed);
	if (closure->note)
		coze_index_wrote(table->relid, COZE_SLOT_UNIQUE(index), value->hash);

	coze_ops_load_begin(&loader, table);
	for (op = coze_index_first(table->relid, COZE_SLOT_UNIQUE(index), followed->value.hash);
		 op != NULL; op = coze_index_next(op))
	{
		if (!coze_version_equal(coze_index_version(op), closure->mine))
			add_carriers(closure, &loader, coze_index_version(op), followed);
	}
	coze_ops_load_end(&loader);
	if (coze_row_find_unique(closure->target, index, &followed->value,
							 closure->lock ? COZE_LOOK_TO_UPDATE : COZE_LOOK_ONLY, &found))
	{
		CozeRow    *row = coze_row_alloc(table);

		coze_row_of_slot(closure->target, &found, row);
		add_key_of_row(closure, row);
	}
	coze_records_with_value(closure, index, &followed->value);
}

void
coze_closure_follow_row(CozeClosure *closure, const CozeRow *row)
{
	CozeUniqueValue value;

	for (int i = 0; row != NULL && i < closure->table->nuniques; i++)
	{
		if (coze_unique_value(closure->table, i, row, &value))
			follow_value(closure, i, &value);
	}
}

/* --- one key --- */

static void
load_ops(CozeClosure *closure, CozeClosureKey *k)
{
	CozeTable  *table = closure->table;
	int			n;
	CozeVersion *versions = coze_index_versions(table->relid, COZE_SLOT_KEY, k->hash,
												(CozeVersion) {0, 0}, closure->mine, &n);
	CozeOpLoader loader;

	coze_ops_load_begin(&loader, table);
	for (int i = 0; i < n; i++)
	{
		CozeOp	   *op = palloc(sizeof(CozeOp));

		if (coze_op_load(&loader, versions[i], k->key, op) && op->found)
			k->ops = lappend(k->ops, op);
	}
	coze_ops_load_end(&loader);
}

static CozeRow *
copy_of_slot(CozeClosure *closure, const CozeFound *found)
{
	CozeTable  *table = closure->table;
	CozeRow    *row = coze_row_alloc(table);

	coze_row_of_slot(closure->target, found, row);
	for (int i = 0; i < table->desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(table->desc, i);

		if (!row->isnull[i])
			row->values[i] = att->attlen == -1 ?
				PointerGetDatum(PG_DETOAST_DATUM_COPY(row->values[i])) :
				datumCopy(row->values[i], att->attbyval, att->attlen);
	}
	return row;
}

static void
complete_key(CozeClosure *closure, CozeClosureKey *k)
{
	CozeFound	found;
	ListCell   *lc;

	k->done = true;
	load_ops(closure, k);
	if (coze_row_find(closure->target, k->key,
					  closure->lock ? COZE_LOOK_TO_DELETE : COZE_LOOK_ONLY, &found))
		k->row = copy_of_slot(closure, &found);
	coze_closure_follow_row(closure, k->row);
	if (k->record != NULL)
		coze_closure_follow_row(closure, coze_row_of_fold(closure->table, k->record->row));
	foreach(lc, k->ops)
	{
		CozeOp	   *op = lfirst(lc);

		coze_closure_follow_row(closure, op->old);
		coze_closure_follow_row(closure, op->new);
	}
}

/* --- the whole --- */

void
coze_closure_begin(CozeClosure *closure, CozeTable *table, CozeTarget *target, bool lock,
				   CozeVersion mine)
{
	memset(closure, 0, sizeof(*closure));
	closure->arg.table = table;
	closure->table = table;
	closure->target = target;
	closure->lock = lock;
	closure->mine = mine;
	closure->records = coze_records_read(table);
	coze_ops_trim_cache();
}

/* Every key with an operation in the suffix, or a base record, for a TRUNCATE. */
void
coze_closure_add_all(CozeClosure *closure)
{
	int			n;
	CozeVersion *versions = coze_index_entries_on(closure->table->relid, &n);
	ListCell   *lc;
	CozeOpLoader loader;

	if (COZE_RULE("truncate-records"))
	{
		foreach(lc, closure->records)
		{
			coze_closure_add_key(closure, ((CozeBaseRecord *) lfirst(lc))->key);
		}
	}
	coze_ops_load_begin(&loader, closure->table);
	for (int i = 0; i < n; i++)
	{
		if (!coze_version_equal(versions[i], closure->mine))
			add_carriers(closure, &loader, versions[i], NULL);
	}
	coze_ops_load_end(&loader);
}

static void
ignore_change(void *arg, const CozeChange *change)
{
}

static void
load_truncates(CozeClosure *closure)
{
	for (CozeIndexOp *op = coze_index_first(closure->table->relid, COZE_SLOT_TRUNCATE, 0); op != NULL;
		 op = coze_index_next(op))
	{
		CozeVersion version = coze_index_version(op);
		CozeEntryHead head;
		CozeOp	   *truncate;

		if (coze_version_equal(version, closure->mine) ||
			!coze_read_entry(version, &head, 0, ignore_change, NULL))
			continue;
		truncate = palloc0(sizeof(CozeOp));
		truncate->version = version;
		truncate->seen = head.seen;
		truncate->truncate = true;
		closure->truncates = lappend(closure->truncates, truncate);
	}
}

/* Follow everything to its end. */
void
coze_closure_complete(CozeClosure *closure)
{
	/* The list grows while it is gone through. */
	for (int i = 0; i < list_length(closure->keys); i++)
	{
		CozeClosureKey *k = list_nth(closure->keys, i);

		if (!k->done)
			complete_key(closure, k);
	}
	load_truncates(closure);
}

/*
 * The index has grown since: what a row shows, or that it is not there, may come of an
 * entry that is known only now, and is not what its key has at the cut.  True if so; then
 * the closure must be completed again.
 */
bool
coze_closure_recheck(CozeClosure *closure)
{
	bool		any = false;
	ListCell   *lc;

	foreach(lc, closure->keys)
	{
		CozeClosureKey *k = lfirst(lc);

		k->done = k->ops != NIL ||
			coze_index_first(closure->table->relid, COZE_SLOT_KEY, k->hash) == NULL;
		any |= !k->done;
	}
	if (any)
		closure->truncates = NIL;
	return any;
}

/* Note all keys and values as written. */
void
coze_closure_note_written(const CozeClosure *closure)
{
	Oid			relid = closure->table->relid;
	ListCell   *lc;

	foreach(lc, closure->keys)
	{
		coze_index_wrote(relid, COZE_SLOT_KEY, ((CozeClosureKey *) lfirst(lc))->hash);
	}
	foreach(lc, closure->values)
	{
		const FollowedValue *followed = lfirst(lc);

		coze_index_wrote(relid, COZE_SLOT_UNIQUE(followed->index), followed->value.hash);
	}
}

/* --- for the fold --- */

static CozeTable *sort_table;

static int
compare_keys(const void *a, const void *b)
{
	const CozeClosureKey *ka = *(CozeClosureKey *const *) a;
	const CozeClosureKey *kb = *(CozeClosureKey *const *) b;

	for (int i = 0; i < sort_table->nkeys; i++)
	{
		int			result = DatumGetInt32(FunctionCall2Coll(&sort_table->compare[i],
															 sort_table->collations[i],
															 ka->key[i], kb->key[i]));

		if (result != 0)
			return result;
	}
	return 0;
}

static void
number_keys(CozeClosure *closure, CozeClosureFold *fold)
{
	ListCell   *lc;

	fold->keys = palloc(Max(1, list_length(closure->keys)) * sizeof(CozeClosureKey *));
	foreach(lc, closure->keys)
	{
		fold->keys[fold->nkeys++] = lfirst(lc);
	}
	sort_table = closure->table;
	qsort(fold->keys, fold->nkeys, sizeof(CozeClosureKey *), compare_keys);
	for (int i = 0; i < fold->nkeys; i++)
		fold->keys[i]->number = i;
}

/* One operation with its key, to be sorted. */
typedef struct Placed
{
	int			key;			/* -1: a TRUNCATE */
	CozeOp	   *op;
} Placed;

static int
compare_placed(const void *a, const void *b)
{
	const Placed *pa = a;
	const Placed *pb = b;
	int			result = coze_version_cmp(pa->op->version, pb->op->version);

	return result != 0 ? result : pa->key - pb->key;
}

static Placed *
place_ops(CozeClosure *closure, CozeClosureFold *fold, int *n)
{
	int			cap = list_length(closure->truncates);
	Placed	   *placed;
	ListCell   *lc;

	for (int i = 0; i < fold->nkeys; i++)
		cap += list_length(fold->keys[i]->ops);
	placed = palloc_extended(Max(1, cap) * sizeof(Placed), MCXT_ALLOC_HUGE);
	*n = 0;
	foreach(lc, closure->truncates)
	{
		placed[(*n)++] = (Placed) {-1, lfirst(lc)};
	}
	for (int i = 0; i < fold->nkeys; i++)
	{
		foreach(lc, fold->keys[i]->ops)
		{
			placed[(*n)++] = (Placed) {i, lfirst(lc)};
		}
	}
	qsort(placed, *n, sizeof(Placed), compare_placed);
	return placed;
}

static CozeFoldOp
fold_op(CozeTable *table, int key, const CozeOp *op)
{
	CozeFoldOp	result = {
		.key = key,
		.policy = coze_policy_get(table, op->policy),
		.old = op->existed ? coze_fold_row(table, op->old) : NULL,
		.new = op->leaves_row ? coze_fold_row(table, op->new) : NULL,
	};

	return result;
}

/* Entries in version order, each with its operations in the order of keys. */
static void
make_entries(CozeClosure *closure, CozeClosureFold *fold)
{
	int			n;
	Placed	   *placed = place_ops(closure, fold, &n);

	fold->entries = palloc_extended(Max(1, n) * sizeof(CozeFoldEntry), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (int i = 0; i < n;)
	{
		CozeFoldEntry *entry = &fold->entries[fold->nentries++];
		CozeFoldOp *ops;
		int			begin = i;

		while (i < n && coze_version_equal(placed[i].op->version, placed[begin].op->version))
			i++;
		ops = palloc((i - begin) * sizeof(CozeFoldOp));
		entry->version = placed[begin].op->version;
		entry->seen = &placed[begin].op->seen;
		entry->ops = ops;
		for (int j = begin; j < i; j++)
		{
			if (placed[j].key < 0)
				entry->truncate = true;
			else
				ops[entry->nops++] = fold_op(closure->table, placed[j].key, placed[j].op);
		}
	}
}

/* The state of each key at the cut. */
static void
make_base(CozeClosure *closure, CozeClosureFold *fold)
{
	const CozeFoldOp **lowest = palloc0(Max(1, fold->nkeys) * sizeof(CozeFoldOp *));
	bool		truncated = false;

	for (int i = 0; i < fold->nentries; i++)
	{
		truncated |= fold->entries[i].truncate;
		for (int j = 0; j < fold->entries[i].nops; j++)
		{
			const CozeFoldOp *op = &fold->entries[i].ops[j];

			if (lowest[op->key] == NULL)
				lowest[op->key] = op;
		}
	}
	fold->base = palloc(Max(1, fold->nkeys) * sizeof(CozeState *));
	for (int k = 0; k < fold->nkeys; k++)
		fold->base[k] = coze_fold_base(COZE_RULE("records") ? fold->keys[k]->record : NULL, lowest[k],
									   truncated, coze_fold_row(closure->table, fold->keys[k]->row));
}

void
coze_closure_prepare(CozeClosure *closure, CozeClosureFold *fold,
					 void (*note) (void *arg, const CozeFoldNote *note), void *arg)
{
	memset(fold, 0, sizeof(*fold));
	coze_unique_fold_table(closure->table, &fold->table, &fold->callbacks, note, arg);
	number_keys(closure, fold);
	make_entries(closure, fold);
	make_base(closure, fold);
}
