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
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/memutils.h"

#include "apply/conflict.h"
#include "apply/decide.h"
#include "apply/index.h"
#include "base/fold.h"
#include "debug.h"
#include "log/state.h"

/* --- neighbours --- */

static int
compare_versions(const void *a, const void *b)
{
	return coze_version_cmp(*(const CozeVersion *) a, *(const CozeVersion *) b);
}

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

/* Operations on the key, or on all keys, in version order; NULL if all were seen. */
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
	if (!unseen)
		return NULL;
	qsort(versions, *n, sizeof(CozeVersion), compare_versions);
	return versions;
}

/* Is nothing at all known of the key? */
bool
coze_decide_unknown(const CozeDeciding *deciding, CozeTable *table, uint32 hash)
{
	return skip_own(deciding, coze_index_first(table->relid, COZE_SLOT_KEY, hash)) == NULL &&
		!coze_index_has_truncates();
}

/* Look for the neighbours among the candidates, asking the log if they mean this key. */
static void
find_neighbours(CozeDeciding *deciding, CozeHit *hit, const CozeVersion *versions, int n)
{
	CozeVersion mine = deciding->head->version;
	int			at = 0;

	hit->has_before = hit->has_after = false;
	while (at < n && coze_version_cmp(versions[at], mine) < 0)
		at++;
	for (int i = at; i < n && !hit->has_after; i++)
		hit->has_after = coze_op_load(versions[i], hit->table, hit->key, &hit->after);
	for (int i = at - 1; i >= 0 && !hit->has_before; i--)
		hit->has_before = coze_op_load(versions[i], hit->table, hit->key, &hit->before);
}

/*
 * NULL: the operation has seen all that is known of the key.  Else the
 * neighbours; the same for each change of the entry on this key.
 */
CozeHit *
coze_decide(CozeDeciding *deciding, CozeTable *table, const Datum *key, uint32 hash)
{
	MemoryContext old;
	CozeVersion *versions;
	CozeHit    *hit;
	ListCell   *lc;
	int			n;

	foreach(lc, deciding->hits)
	{
		hit = lfirst(lc);
		if (hit->table == table && hit->hash == hash && coze_key_equal(table, hit->key, key))
			return hit;
	}
	if (!COZE_RULE("tombstones"))
		return NULL;
	versions = candidates(deciding, table, hash, &n);
	if (versions == NULL)
		return NULL;
	old = MemoryContextSwitchTo(deciding->context);
	hit = palloc0(sizeof(CozeHit));
	hit->table = table;
	hit->hash = hash;
	hit->key = coze_key_copy(table, key);
	hit->mine.version = deciding->head->version;
	hit->mine.seen = deciding->head->seen;
	find_neighbours(deciding, hit, versions, n);
	if (hit->has_before || hit->has_after)
		deciding->hits = lappend(deciding->hits, hit);
	else
		hit = NULL;
	MemoryContextSwitchTo(old);
	return hit;
}

/* The index was brought up to date meanwhile. */
void
coze_decide_again(CozeDeciding *deciding, CozeHit *hit)
{
	MemoryContext old = MemoryContextSwitchTo(deciding->context);
	CozeVersion *versions;
	int			n;

	versions = candidates(deciding, hit->table, hit->hash, &n);
	if (versions != NULL)
		find_neighbours(deciding, hit, versions, n);
	MemoryContextSwitchTo(old);
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
note_loss(CozeDeciding *deciding, CozeHit *hit, const Line *line, const CozeLatestLoss *loss,
		  Datum key)
{
	const CozeOp *loser = line->op[loss->loser];
	const CozeOp *winner = line->op[loss->decided];
	bool		own = hit->mine.version.origin == coze_own_origin();
	bool		remote_lost = (loser == &hit->mine) != own;
	const CozeOp *remote = remote_lost ? loser : winner;
	const CozeOp *local = remote_lost ? winner : loser;
	CozeConflict conflict = {
		.table = hit->table,
		.key = key,
		.type = loss->type,
		.policy = coze_row_policy_name(COZE_ROW_LAST_UPDATE_WINS),
		.outcome = remote_lost ? "kept local" : "took remote",
		.loser = loser->version,
		.decided = winner->version,
		.local = local->version,
		.remote = remote->version,
		.local_row = row_of(local, hit->table),
		.remote_row = row_of(remote, hit->table),
		.result_row = result_of(line, hit->table),
	};

	coze_conflict_note(&conflict);
}

static void
report_hit(CozeDeciding *deciding, CozeHit *hit)
{
	Line		with = {0};
	Line		without = {0};
	CozeLatestLoss losses[6];
	CozeLatestLoss former[6];
	int			nlosses,
				nformer;
	CozeOwnerState owner;
	Datum		key;

	if (hit->has_before)
	{
		put_on_line(&with, &hit->before);
		put_on_line(&without, &hit->before);
	}
	put_on_line(&with, &hit->mine);
	if (hit->has_after)
	{
		put_on_line(&with, &hit->after);
		put_on_line(&without, &hit->after);
	}
	coze_fold_latest(with.ops, with.n, losses, &nlosses);
	coze_fold_latest(without.ops, without.n, former, &nformer);
	if (nlosses == 0 && nformer == 0 && !hit->has_after)
		return;
	coze_owner_enter(hit->table, &owner);
	key = coze_key_to_jsonb(hit->table, hit->key);
	/* A loser has one record: the old one goes before a new one is noted. */
	if (hit->has_after)
		coze_conflict_withdraw_seen(hit->table, key, deciding->head->version, &deciding->head->seen);
	for (int i = 0; i < nformer; i++)
	{
		CozeVersion loser = without.ops[former[i].loser].version;
		CozeVersion decided = without.ops[former[i].decided].version;

		if (!is_among(&with, losses, nlosses, loser, decided))
			coze_conflict_withdraw(hit->table, key, loser, decided);
	}
	for (int i = 0; i < nlosses; i++)
	{
		if (!is_among(&without, former, nformer, with.ops[losses[i].loser].version,
					  with.ops[losses[i].decided].version))
			note_loss(deciding, hit, &with, &losses[i], key);
	}
	coze_owner_leave(&owner);
}

/* At the end of the entry, when it is known what it does to each key. */
void
coze_decide_report(CozeDeciding *deciding)
{
	MemoryContext old = MemoryContextSwitchTo(deciding->context);
	ListCell   *lc;

	foreach(lc, deciding->hits)
	{
		report_hit(deciding, lfirst(lc));
	}
	deciding->hits = NIL;
	MemoryContextSwitchTo(old);
	coze_ops_trim_cache();
}
