/*-------------------------------------------------------------------------
 *
 * decide.c
 *		Deciding about a key under plain last_update_wins.
 *
 * Without second unique keys the highest version stays, so an operation has an
 * effect iff no later one on its key is known; and each operation that the next
 * one in version order had not seen lost to it.  An entry that arrives between
 * two operations therefore makes new neighbours: what the earlier lost to the
 * later is withdrawn, and may now be lost to the entry in between.
 *
 * A TRUNCATE is an operation on every key.
 *
 * What an entry does to a key is known only at its end, so that is when conflicts are
 * reported.  Until then a bit is kept for each change that met any, not what it
 * met: all of that can be looked up again.  What the entry itself does to those keys
 * is gathered by going through its changes again, as many times as it takes to
 * hold no more than GATHERED_BYTES_MAX of it.  So memory does not grow with
 * conflicts; only the keys that others wrote to and a TRUNCATE had not seen are
 * gathered all at once.
 *
 * Invariant: of a key that is gathered, every change of the entry is marked, and
 * loses its mark when it is taken.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "apply/body.h"
#include "apply/conflict.h"
#include "apply/decide.h"
#include "apply/index.h"
#include "base/fold.h"
#include "debug.h"
#include "log/state.h"

/* --- neighbours --- */

static bool
has_seen(const CozeDeciding *deciding, CozeVersion version)
{
	return coze_vector_has_seen(&deciding->head->seen, deciding->head->version, version);
}

/* The first operation in a chain, then the next, of other entries than this. */
static CozeIndexOp *
skip_own(const CozeDeciding *deciding, CozeIndexOp *op)
{
	while (op != NULL &&
		   coze_version_equal(coze_index_version(op), deciding->head->version))
		op = coze_index_next(op);
	return op;
}

/* Operations on the key, or on all keys; NULL if all were seen. */
static CozeVersion *
candidates(const CozeDeciding *deciding, CozeTable *table, uint32 hash, int *n)
{
	CozeVersion *versions = NULL;
	int			cap = 0;
	bool		unseen = false;

	*n = 0;
	for (int pass = 0; pass < 2; pass++)
	{
		CozeIndexOp *op;

		if (pass == 1 && !coze_index_has_truncates())
			break;
		op = pass == 0 ? coze_index_first(table->relid, COZE_SLOT_KEY, hash) :
			coze_index_first(table->relid, COZE_SLOT_TRUNCATE, 0);
		for (op = skip_own(deciding, op); op != NULL; op = skip_own(deciding, coze_index_next(op)))
		{
			CozeVersion version = coze_index_version(op);

			if (!has_seen(deciding, version))
				unseen = true;
			if (*n == cap)
			{
				cap = Max(16, 2 * cap);
				versions = versions == NULL ? palloc(cap * sizeof(CozeVersion)) :
					repalloc(versions, cap * sizeof(CozeVersion));
			}
			versions[(*n)++] = version;
		}
	}
	return unseen ? versions : NULL;
}

/* Is nothing at all known of the key? */
bool
coze_decide_unknown(const CozeDeciding *deciding, CozeTable *table, uint32 hash)
{
	return skip_own(deciding, coze_index_first(table->relid, COZE_SLOT_KEY, hash)) == NULL &&
		!coze_index_has_truncates();
}

/* Take out of *n versions the nearest after "mine", or before it; false: there is none. */
static bool
take_nearest(CozeVersion *versions, int *n, CozeVersion mine, bool after, CozeVersion *nearest)
{
	int			best = -1;

	for (int i = 0; i < *n; i++)
	{
		int			side = coze_version_cmp(versions[i], mine);

		if (after ? side < 0 : side >= 0)
			continue;
		if (best < 0 || (coze_version_cmp(versions[i], versions[best]) < 0) == after)
			best = i;
	}
	if (best < 0)
		return false;
	*nearest = versions[best];
	versions[best] = versions[--*n];
	return true;
}

/*
 * Look for the neighbours among the candidates, asking the log if they mean this key: nearly
 * always the nearest does, so that many of a hot key need not be sorted.
 */
static void
find_neighbours(CozeDeciding *deciding, CozeHit *hit, CozeTable *table, const Datum *key,
				CozeVersion *versions, int n)
{
	CozeVersion mine = deciding->head->version;
	CozeVersion nearest;
	CozeOpLoader loader;

	coze_ops_load_begin(&loader, table);
	while (!hit->has_after && take_nearest(versions, &n, mine, true, &nearest))
		hit->has_after = coze_op_load(&loader, nearest, key, &hit->after);
	while (!hit->has_before && take_nearest(versions, &n, mine, false, &nearest))
		hit->has_before = coze_op_load(&loader, nearest, key, &hit->before);
	coze_ops_load_end(&loader);
}

/*
 * False: the operation has seen all that is known of the key.  Else the
 * neighbours, in CurrentMemoryContext or until coze_ops_trim_cache().
 */
bool
coze_decide(CozeDeciding *deciding, CozeTable *table, const Datum *key, uint32 hash, CozeHit *hit)
{
	CozeVersion *versions;
	int			n;

	hit->has_before = hit->has_after = false;
	if (!COZE_RULE("tombstones"))
		return false;
	versions = candidates(deciding, table, hash, &n);
	if (versions == NULL)
		return false;
	find_neighbours(deciding, hit, table, key, versions, n);
	return hit->has_before || hit->has_after;
}

/* --- marks --- */

void
coze_decide_mark(CozeDeciding *deciding)
{
	Size		byte = deciding->change / 8;

	if (byte >= deciding->marks_size)
	{
		Size		size = Max(64, 2 * byte);
		uint8	   *marks = MemoryContextAllocExtended(deciding->context, size,
													   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);

		if (deciding->marks != NULL)
		{
			memcpy(marks, deciding->marks, deciding->marks_size);
			pfree(deciding->marks);
		}
		deciding->marks = marks;
		deciding->marks_size = size;
	}
	deciding->marks[byte] |= 1 << (deciding->change % 8);
}

static bool
is_marked(const CozeDeciding *deciding)
{
	Size		byte = deciding->change / 8;

	return byte < deciding->marks_size &&
		(deciding->marks[byte] & (1 << (deciding->change % 8))) != 0;
}

static void
clear_mark(CozeDeciding *deciding)
{
	Size		byte = deciding->change / 8;

	if (byte < deciding->marks_size)
		deciding->marks[byte] &= ~(1 << (deciding->change % 8));
}

bool
coze_decide_any_marked(const CozeDeciding *deciding)
{
	return deciding->marks != NULL;
}

/* --- conflicts --- */

/* Operations in version order, with what stands for each in a fold. */
typedef struct Line
{
	int			n;
	CozeLatestOp ops[6];
	const CozeOp *op[6];
} Line;

/* An entry that truncates and then writes has two operations on the key. */
static void
put_on_line(Line *line, const CozeOp *op)
{
	for (int truncate = 1; truncate >= 0; truncate--)
	{
		CozeLatestOp *latest = &line->ops[line->n];

		if (!(truncate ? op->truncate : op->found))
			continue;
		memset(latest, 0, sizeof(*latest));
		latest->version = op->version;
		latest->seen = &op->seen;
		latest->truncate = truncate;
		latest->leaves_row = !truncate && op->leaves_row;
		latest->existed = !truncate && op->existed;
		line->op[line->n++] = op;
	}
}

static bool
is_among(const Line *line, const CozeLatestLoss *losses, int n, CozeVersion loser,
		 CozeVersion decided)
{
	for (int i = 0; i < n; i++)
	{
		if (coze_version_equal(line->ops[losses[i].loser].version, loser) &&
			coze_version_equal(line->ops[losses[i].decided].version, decided))
			return true;
	}
	return false;
}

static Datum
row_of(const CozeOp *op, const CozeTable *table)
{
	return op->leaves_row ? coze_row_to_jsonb(table, op->new) : (Datum) 0;
}

/* What the row is now: as the last on the line leaves it. */
static Datum
result_of(const Line *line, const CozeTable *table)
{
	return row_of(line->op[line->n - 1], table);
}

static void
note_loss(CozeTable *table, const CozeOp *mine, const Line *line, const CozeLatestLoss *loss,
		  Datum key)
{
	const CozeOp *loser = line->op[loss->loser];
	const CozeOp *winner = line->op[loss->decided];
	bool		own = mine->version.origin == coze_own_origin();
	bool		remote_lost = (loser == mine) != own;
	const CozeOp *remote = remote_lost ? loser : winner;
	const CozeOp *local = remote_lost ? winner : loser;
	CozeConflict conflict = {
		.table = table,
		.key = key,
		.type = loss->type,
		.policy = coze_row_policy_name(COZE_ROW_LAST_UPDATE_WINS),
		.outcome = remote_lost ? "kept local" : "took remote",
		.loser = loser->version,
		.decided = winner->version,
		.local = local->version,
		.remote = remote->version,
		.local_row = row_of(local, table),
		.remote_row = row_of(remote, table),
		.result_row = result_of(line, table),
	};

	coze_conflict_note(&conflict);
}

static void
report_hit(CozeDeciding *deciding, CozeTable *table, const Datum *key, const CozeHit *hit,
		   const CozeOp *mine)
{
	Line		with = {0};
	Line		without = {0};
	CozeLatestLoss losses[6];
	CozeLatestLoss former[6];
	int			nlosses,
				nformer;
	Datum		json;

	if (hit->has_before)
	{
		put_on_line(&with, &hit->before);
		put_on_line(&without, &hit->before);
	}
	put_on_line(&with, mine);
	if (hit->has_after)
	{
		put_on_line(&with, &hit->after);
		put_on_line(&without, &hit->after);
	}
	coze_fold_latest(with.ops, with.n, losses, &nlosses);
	coze_fold_latest(without.ops, without.n, former, &nformer);
	if (nlosses == 0 && nformer == 0 && !hit->has_after)
		return;
	json = coze_key_to_jsonb(table, key);
	/* A loser has one record: the old one goes before a new one is noted. */
	if (hit->has_after)
		coze_conflict_withdraw_seen(table, json, deciding->head->version, &deciding->head->seen);
	for (int i = 0; i < nformer; i++)
	{
		CozeVersion loser = without.ops[former[i].loser].version;
		CozeVersion decided = without.ops[former[i].decided].version;

		if (!is_among(&with, losses, nlosses, loser, decided))
			coze_conflict_withdraw(table, json, loser, decided);
	}
	for (int i = 0; i < nlosses; i++)
	{
		if (!is_among(&without, former, nformer, with.ops[losses[i].loser].version,
					  with.ops[losses[i].decided].version))
			note_loss(table, mine, &with, &losses[i], json);
	}
}

/* --- gathering --- */

/* What the entry does to a key. */
typedef struct GatheredKey
{
	struct GatheredKey *next;	/* same hash */
	CozeTable  *table;
	Datum	   *key;
	uint32		hash;
	CozeOp		mine;
} GatheredKey;

typedef struct GatheredSlot
{
	uint32		hash;
	GatheredKey *keys;
} GatheredSlot;

typedef struct CozeGathered
{
	MemoryContext context;
	HTAB	   *slots;
	List	   *keys;			/* GatheredKey, in the order in which they came */
	List	   *truncated;		/* CozeTable: that the entry has truncated */
	bool		left;			/* a mark remains */
} CozeGathered;

/* In tests little, so that they see what becomes of very large entries. */
#ifdef COZE_TESTING
#define GATHERED_BYTES_MAX (64 * 1024)
#else
#define GATHERED_BYTES_MAX (16 * 1024 * 1024)
#endif

static CozeGathered *
gathered_of(CozeDeciding *deciding)
{
	MemoryContext context;
	MemoryContext old;
	CozeGathered *g;
	HASHCTL		ctl = {0};

	if (deciding->gathered != NULL)
		return deciding->gathered;
	context = AllocSetContextCreate(deciding->context, "cozesync gathered keys",
									ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	g = palloc0(sizeof(CozeGathered));
	g->context = context;
	ctl.keysize = sizeof(uint32);
	ctl.entrysize = sizeof(GatheredSlot);
	ctl.hcxt = context;
	g->slots = hash_create("cozesync gathered keys", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	deciding->gathered = g;
	MemoryContextSwitchTo(old);
	return g;
}

static GatheredKey *
find_gathered(CozeGathered *g, const CozeTable *table, const Datum *key, uint32 hash)
{
	GatheredSlot *slot = hash_search(g->slots, &hash, HASH_FIND, NULL);
	GatheredKey *k = slot != NULL ? slot->keys : NULL;

	while (k != NULL && (k->table != table || !coze_key_equal(table, k->key, key)))
		k = k->next;
	return k;
}

/* In g->context. */
static GatheredKey *
add_gathered(CozeDeciding *deciding, CozeTable *table, const Datum *key, uint32 hash)
{
	CozeGathered *g = deciding->gathered;
	GatheredKey *k = palloc0(sizeof(GatheredKey));
	GatheredSlot *slot;
	bool		found;

	k->table = table;
	k->key = coze_key_copy(table, key);
	k->hash = hash;
	k->mine.version = deciding->head->version;
	k->mine.seen = deciding->head->seen;
	k->mine.truncate = list_member_ptr(g->truncated, table);
	slot = hash_search(g->slots, &hash, HASH_ENTER, &found);
	k->next = found ? slot->keys : NULL;
	slot->keys = k;
	g->keys = lappend(g->keys, k);
	return k;
}

/* The keys of a change: its key, and if that changed its old one. */
typedef struct ChangeKeys
{
	int			n;
	Datum		keys[2][INDEX_MAX_KEYS];
	uint32		hashes[2];
} ChangeKeys;

static void
get_keys(const CozeMap *map, const CozeChange *change, ChangeKeys *k)
{
	k->n = 0;
	coze_map_key(map, &change->key, k->keys[k->n++]);
	if (change->flags & COZE_CHANGE_OLD_KEY)
		coze_map_key(map, &change->old_key, k->keys[k->n++]);
	for (int i = 0; i < k->n; i++)
		k->hashes[i] = coze_key_hash(map->table, k->keys[i]);
}

static bool
meets_unseen(CozeDeciding *deciding, CozeTable *table, const ChangeKeys *k)
{
	int			n;

	for (int i = 0; i < k->n; i++)
	{
		if (candidates(deciding, table, k->hashes[i], &n) != NULL)
			return true;
	}
	return false;
}

/* A change of an entry that the TRUNCATE's author had not seen. */
typedef struct UnseenArg
{
	CozeDeciding *deciding;
	CozeTable  *table;
	MemoryContext context;		/* of a change */
} UnseenArg;

static void
gather_unseen_change(void *arg, const CozeChange *change)
{
	UnseenArg  *u = arg;
	CozeGathered *g = u->deciding->gathered;
	CozeMap    *map = coze_map_get(change->relation);
	MemoryContext old;
	ChangeKeys	k;

	if (change->kind == COZE_CHANGE_TRUNCATE || !coze_map_resolve(map, true) ||
		map->table != u->table)
		return;
	old = MemoryContextSwitchTo(u->context);
	get_keys(map, change, &k);
	MemoryContextSwitchTo(g->context);
	for (int i = 0; i < k.n; i++)
	{
		if (find_gathered(g, u->table, k.keys[i], k.hashes[i]) == NULL)
			add_gathered(u->deciding, u->table, k.keys[i], k.hashes[i]);
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(u->context);
}

/* Every key on which an operation is known that was not seen. */
static void
gather_unseen(CozeDeciding *deciding, CozeTable *table)
{
	const CozeEntryHead *head = deciding->head;
	UnseenArg	u = {deciding, table};
	CozeVersion *versions;
	int			n;

	u.context = AllocSetContextCreate(CurrentMemoryContext, "cozesync unseen key",
									  ALLOCSET_SMALL_SIZES);
	versions = coze_index_entries_on(table->relid, &n);
	for (int i = 0; i < n; i++)
	{
		CozeEntryHead other;

		if (coze_vector_has_seen(&head->seen, head->version, versions[i]))
			continue;
		if (coze_read_entry(versions[i], &other, UINT32_MAX, gather_unseen_change, &u))
			coze_vector_free(&other.seen);
	}
	MemoryContextDelete(u.context);
}

static void
gather_truncate(CozeDeciding *deciding, const CozeMap *map, const CozeChange *change)
{
	CozeGathered *g = deciding->gathered;
	MemoryContext old = MemoryContextSwitchTo(g->context);
	ListCell   *lc;

	g->truncated = list_append_unique_ptr(g->truncated, map->table);
	MemoryContextSwitchTo(old);
	foreach(lc, g->keys)
	{
		GatheredKey *k = lfirst(lc);

		if (k->table == map->table)
			coze_op_take(&k->mine, map, k->key, change);
	}
	if (is_marked(deciding))
		gather_unseen(deciding, map->table);
	clear_mark(deciding);
}

/* With the owner's rights, of a table that does not fold. */
void
coze_decide_gather(CozeDeciding *deciding, const CozeMap *map, const CozeChange *change, bool all)
{
	CozeGathered *g = gathered_of(deciding);
	CozeTable  *table = map->table;
	GatheredKey *known[2] = {NULL, NULL};
	MemoryContext old;
	ChangeKeys	k;

	if (change->kind == COZE_CHANGE_TRUNCATE)
	{
		gather_truncate(deciding, map, change);
		return;
	}
	get_keys(map, change, &k);
	for (int i = 0; i < k.n; i++)
		known[i] = find_gathered(g, table, k.keys[i], k.hashes[i]);
	if (known[0] == NULL && known[1] == NULL)
	{
		if (!(all ? meets_unseen(deciding, table, &k) : is_marked(deciding)))
			return;
		if (!all && MemoryContextMemAllocated(g->context, false) > GATHERED_BYTES_MAX)
		{
			g->left = true;
			return;
		}
	}
	old = MemoryContextSwitchTo(g->context);
	/* in the order in which they lose and get a row */
	for (int i = k.n - 1; i >= 0; i--)
	{
		if (known[i] == NULL)
			known[i] = find_gathered(g, table, k.keys[i], k.hashes[i]);
		if (known[i] == NULL)
			known[i] = add_gathered(deciding, table, k.keys[i], k.hashes[i]);
		coze_op_take(&known[i]->mine, map, known[i]->key, change);
	}
	MemoryContextSwitchTo(old);
	clear_mark(deciding);
}

/* With our own rights.  True: there is more to gather. */
bool
coze_decide_report(CozeDeciding *deciding)
{
	CozeGathered *g = deciding->gathered;
	MemoryContext context,
				old;
	ListCell   *lc;
	bool		left;

	if (g == NULL)
		return false;
	context = AllocSetContextCreate(deciding->context, "cozesync reported key", ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	foreach(lc, g->keys)
	{
		GatheredKey *k = lfirst(lc);
		CozeOwnerState owner;
		CozeHit		hit;

		coze_owner_enter(k->table, &owner);
		if (coze_decide(deciding, k->table, k->key, k->hash, &hit))
			report_hit(deciding, k->table, k->key, &hit, &k->mine);
		coze_owner_leave(&owner);
		coze_conflict_relieve();
		coze_ops_trim_cache();
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	left = g->left;
	deciding->gathered = NULL;
	MemoryContextDelete(g->context);
	return left;
}
