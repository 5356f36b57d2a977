/*-------------------------------------------------------------------------
 *
 * index.c
 *		The suffix index: which operations of the suffix touch a key.
 *
 * An operation of origin o is remembered while a member other than o and this
 * node has, by its own last entry applied here (K), not seen it; one of a table
 * that folds, or a TRUNCATE, until the cut passes it.  So between two nodes under the default
 * policy this is just the local tail.
 *
 * Own entries are added when they are visible, not when they are below the
 * horizon: those above it are remembered one by one, so that none is counted
 * twice when the horizon passes it.
 *
 * Invariant (Check after write): whoever decides has called coze_index_extend()
 * before, and calls it again when he holds what he wrote; what that brings to
 * light is compared with what this transaction wrote.
 *
 * Operations of a transaction that is not over are taken out again should it abort.
 *
 * Memory.  Where operations take more than half of cozesync.index_memory all of them go
 * to a sorted run in a temporary file (run.c), what the transaction at hand has added to
 * one that it takes with it if it aborts.  Runs of like size are merged, four at a
 * time, so that there are few; what has been forgotten goes then, and a run of
 * which everything has.  TRUNCATEs stay in memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "apply/alone.h"
#include "apply/body.h"
#include "apply/index.h"
#include "apply/ops.h"
#include "apply/run.h"
#include "apply/written.h"
#include "debug.h"
#include "log/log.h"
#include "log/members.h"
#include "log/state.h"
#include "settings.h"

/* A list of an origin's operations, by rising hlc. */
typedef struct OpList
{
	CozeIndexOp *first;
	CozeIndexOp *last;
} OpList;

typedef struct IndexOrigin
{
	CozeOrigin	origin;
	CozeHlc		least;			/* all members that count have seen up to here */
	CozeHlc		applied;		/* last entry that was applied and committed here */
	OpList		plain;			/* forgotten up to least, or the cut */
	OpList		folds;			/* forgotten up to the cut */
} IndexOrigin;

/* What a member, not this node, is known to have seen. */
typedef struct IndexMember
{
	CozeOrigin	origin;
	bool		dropped;		/* may still send: counts with the cut */
	CozeVector	known;
} IndexMember;

static MemoryContext index_context = NULL;
static MemoryContext op_context = NULL; /* slab */

static CozeIndexOp **buckets = NULL;	/* newest first */
static uint32 nbuckets = 0;
static uint32 nops = 0;
static uint32 ntruncates = 0;

static IndexOrigin *origins = NULL;
static int	norigins = 0;
static int	origins_cap = 0;

static IndexMember *members = NULL;
static int	nmembers = 0;

static bool built = false;
static uint64 group_generation = 0; /* of what members holds */
static bool least_known = false;
static CozeHlc trimmed_to = 0;		/* nothing of tables that fold is at or below it */

/* Own entries up to here are indexed; above it, those in above. */
static CozeHlc indexed_upto = 0;
static CozeHlc *above = NULL;
static int	nabove = 0;
static int	above_cap = 0;

/* The transaction at hand. */
static CozeIndexOp **added = NULL;	/* operations of entries applied in it */
static int	nadded = 0;
static int	added_cap = 0;
static CozeEntryHead *heads = NULL; /* those entries: version and seen */
static int	nheads = 0;
static int	heads_cap = 0;
static bool stale = false;

/* Operations for which there was no memory. */
typedef struct IndexRun
{
	CozeRun    *run;
	bool		pending;		/* of the transaction at hand */
	CozeHlc		folds_upto;		/* highest of tables that fold */
	CozeVector	plain_upto;		/* of others, by origin */
} IndexRun;

static IndexRun *runs = NULL;	/* newest last */
static int	nruns = 0;
static int	runs_cap = 0;
static bool spilling = false;	/* stays true when that fails half-way */

#define MERGED_AT_ONCE 4

/* Whose operations are being added. */
static IndexOrigin *adding_origin = NULL;
static CozeVersion adding;
static CozePlace adding_at;		/* where the change begins */
static bool adding_truncates;	/* the entry has truncated a table */
static bool adding_applied;		/* by the transaction at hand */
static const CozeVector *adding_seen = NULL;	/* of an own entry that has just come to light */
static bool adding_late;

static bool building = false;	/* of own entries only those above built_upto can be late */
static CozeHlc built_upto = 0;

/* A table of which own entries are looked out for (coze_index_extend_on). */
static Oid	watched = InvalidOid;
static bool watched_met = false;

static CozeVersion *late = NULL;	/* outlives the index */
static int	nlate = 0;
static int	late_cap = 0;

static void append(OpList *list, CozeIndexOp *op);

/* --- hash table --- */

static void
grow_buckets(void)
{
	uint32		n = nbuckets == 0 ? 1024 : nbuckets * 2;
	CozeIndexOp **grown = MemoryContextAllocExtended(index_context, n * sizeof(CozeIndexOp *),
													 MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	CozeIndexOp ***tails = MemoryContextAllocExtended(index_context, n * sizeof(CozeIndexOp **),
													  MCXT_ALLOC_HUGE);

	/* Newest first, as before: the chains keep their order. */
	for (uint32 i = 0; i < n; i++)
		tails[i] = &grown[i];
	for (uint32 i = 0; i < nbuckets; i++)
	{
		for (CozeIndexOp *op = buckets[i], *next; op != NULL; op = next)
		{
			uint32		b = coze_place_hash(op->relid, op->slot, op->hash) & (n - 1);

			next = op->chain;
			op->chain = NULL;
			*tails[b] = op;
			tails[b] = &op->chain;
		}
	}
	pfree(tails);
	if (buckets != NULL)
		pfree(buckets);
	buckets = grown;
	nbuckets = n;
}

static void
unlink_op(CozeIndexOp *op)
{
	CozeIndexOp **p = &buckets[coze_place_hash(op->relid, op->slot, op->hash) & (nbuckets - 1)];

	while (*p != op)
		p = &(*p)->chain;
	*p = op->chain;
	nops--;
	if (op->slot == COZE_SLOT_TRUNCATE)
		ntruncates--;
	pfree(op);
}

static CozeIndexOp *
first_in_memory(Oid relid, uint8 slot, uint32 hash)
{
	CozeIndexOp *op;

	if (nops == 0)
		return NULL;
	op = buckets[coze_place_hash(relid, slot, hash) & (nbuckets - 1)];
	while (op != NULL && (op->hash != hash || op->relid != relid || op->slot != slot))
		op = op->chain;
	return op;
}

CozeIndexOp *
coze_index_next(const CozeIndexOp *op)
{
	CozeIndexOp *next = op->chain;

	while (next != NULL &&
		   (next->hash != op->hash || next->relid != op->relid || next->slot != op->slot))
		next = next->chain;
	return next;
}

CozeVersion
coze_index_version(const CozeIndexOp *op)
{
	CozeVersion version = {op->hlc, origins[op->origin].origin};

	return version;
}

CozePlace
coze_index_place(const CozeIndexOp *op)
{
	CozePlace	place = {op->seq, op->offset, op->context};

	return place;
}

bool
coze_index_has_truncates(void)
{
	return ntruncates > 0;
}

Size
coze_index_size(void)
{
	Size		size = (Size) nops * sizeof(CozeIndexOp) + (Size) nbuckets * sizeof(void *) +
		(Size) added_cap * sizeof(void *);

	for (int i = 0; i < nruns; i++)
		size += coze_run_memory(runs[i].run);
	return size;
}

/* --- origins --- */

static IndexOrigin *
origin_entry(CozeOrigin origin)
{
	for (int i = 0; i < norigins; i++)
	{
		if (origins[i].origin == origin)
			return &origins[i];
	}
	if (norigins == origins_cap)
	{
		origins_cap = Max(8, 2 * origins_cap);
		origins = origins == NULL ?
			MemoryContextAlloc(index_context, origins_cap * sizeof(IndexOrigin)) :
			repalloc(origins, origins_cap * sizeof(IndexOrigin));
	}
	memset(&origins[norigins], 0, sizeof(IndexOrigin));
	origins[norigins].origin = origin;
	least_known = false;
	return &origins[norigins++];
}

/* Up to where every member that an entry may still come from has seen an origin. */
static void
compute_least(void)
{
	CozeHlc		cut = coze_cut();

	for (int i = 0; i < norigins; i++)
	{
		CozeHlc		least = PG_INT64_MAX;

		for (int m = 0; m < nmembers; m++)
		{
			if (members[m].origin == origins[i].origin)
				continue;
			least = Min(least, members[m].dropped ? cut :
						coze_vector_get(&members[m].known, origins[i].origin));
		}
		origins[i].least = Max(least, cut);
	}
	least_known = true;
}

static void
trim_list(OpList *list, CozeHlc upto)
{
	while (list->first != NULL && list->first->hlc <= upto)
	{
		CozeIndexOp *op = list->first;

		list->first = op->later;
		if (list->first == NULL)
			list->last = NULL;
		unlink_op(op);
	}
}

/* --- spilling --- */

static bool
is_remembered(const CozeRunOp *op)
{
	return op->hlc > ((op->flags & COZE_OP_FOLDS) ? trimmed_to : origins[op->origin].least);
}

/* Is all that a run holds forgotten? */
static bool
is_forgotten(const IndexRun *run)
{
	if (run->pending || run->folds_upto > trimmed_to)
		return false;
	for (int i = 0; i < run->plain_upto.n; i++)
	{
		if (run->plain_upto.e[i].hlc > origin_entry(run->plain_upto.e[i].origin)->least)
			return false;
	}
	return true;
}

static void
drop_run(int i)
{
	coze_run_free(runs[i].run);
	coze_vector_free(&runs[i].plain_upto);
	memmove(&runs[i], &runs[i + 1], (nruns - i - 1) * sizeof(IndexRun));
	nruns--;
}

static void
drop_forgotten_runs(void)
{
	for (int i = nruns - 1; i >= 0; i--)
	{
		if (is_forgotten(&runs[i]))
			drop_run(i);
	}
}

/* In memory, for one more operation, of so many. */
static int
filter_bits(uint64 n)
{
	Size		bits = (Size) cozesync_index_memory * 1024 * 8 / 4;

	for (int i = 0; i < nruns; i++)
		n += coze_run_count(runs[i].run);
	return (int) Min(10, bits / Max(1, n));
}

static void
add_run(const IndexRun *run)
{
	if (nruns == runs_cap)
	{
		int			cap = Max(8, 2 * runs_cap);

		runs = runs == NULL ? MemoryContextAlloc(index_context, cap * sizeof(IndexRun)) :
			repalloc(runs, cap * sizeof(IndexRun));
		runs_cap = cap;
	}
	runs[nruns++] = *run;
}

/* Note that a run holds an operation. */
static void
count_in(IndexRun *run, const CozeRunOp *op)
{
	if (op->flags & COZE_OP_FOLDS)
		run->folds_upto = Max(run->folds_upto, op->hlc);
	else
		coze_vector_raise(&run->plain_upto, origins[op->origin].origin, op->hlc);
}

/* Smaller and larger runs: each size is four times the one below. */
static int
size_class(uint64 n)
{
	int			class = 0;

	for (; n > 1024; n /= MERGED_AT_ONCE)
		class++;
	return class;
}

/* Make one of several runs; which: their numbers, rising. */
static void
merge_runs(const int *which, int n)
{
	MemoryContext old = MemoryContextSwitchTo(index_context);
	CozeRun    *parts[MERGED_AT_ONCE];
	IndexRun	merged = {0};

	for (int i = 0; i < n; i++)
	{
		IndexRun   *part = &runs[which[i]];

		parts[i] = part->run;
		merged.folds_upto = Max(merged.folds_upto, part->folds_upto);
		coze_vector_merge(&merged.plain_upto, &part->plain_upto);
	}
	merged.run = coze_run_merge(parts, n, filter_bits(0), is_remembered);
	for (int i = n - 1; i >= 0; i--)
		drop_run(which[i]);
	add_run(&merged);
	MemoryContextSwitchTo(old);
}

static bool
merge_some(void)
{
	for (int i = 0; i < nruns; i++)
	{
		int			class = size_class(coze_run_count(runs[i].run));
		int			which[MERGED_AT_ONCE];
		int			n = 0;

		for (int j = i; j < nruns && n < MERGED_AT_ONCE; j++)
		{
			if (!runs[j].pending && size_class(coze_run_count(runs[j].run)) == class)
				which[n++] = j;
		}
		if (n == MERGED_AT_ONCE && !runs[i].pending)
		{
			merge_runs(which, n);
			return true;
		}
	}
	return false;
}

static void
tend_runs(void)
{
	drop_forgotten_runs();
	while (merge_some())
		;
}

static void
copy_to_run(CozeRunOp *to, const CozeIndexOp *op, IndexRun *run)
{
	to->hlc = op->hlc;
	to->seq = op->seq;
	to->relid = op->relid;
	to->hash = op->hash;
	to->origin = op->origin;
	to->offset = op->offset;
	to->context = op->context;
	to->slot = op->slot;
	to->flags = op->flags;
	count_in(run, to);
}

static void
spill_ops(CozeIndexOp *const *ops, Size n, bool pending)
{
	CozeRunOp  *copies;
	IndexRun	run = {.pending = pending};

	if (n == 0)
		return;
	elog(DEBUG1, "%zu operations of the suffix index go to a file", n);
	copies = MemoryContextAllocHuge(index_context, n * sizeof(CozeRunOp));
	for (Size i = 0; i < n; i++)
		copy_to_run(&copies[i], ops[i], &run);
	run.run = coze_run_write(copies, n, filter_bits(n));
	pfree(copies);
	add_run(&run);
	for (Size i = 0; i < n; i++)
		unlink_op(ops[i]);
}

/* What goes to a run; the list is left with the rest. */
static Size
take_from_list(OpList *list, CozeIndexOp **ops, Size n)
{
	OpList		rest = {NULL, NULL};

	for (CozeIndexOp *op = list->first, *later; op != NULL; op = later)
	{
		later = op->later;
		if (op->slot != COZE_SLOT_TRUNCATE)
			ops[n++] = op;
		else
			append(&rest, op);
	}
	*list = rest;
	return n;
}

static void
spill(void)
{
	MemoryContext old = MemoryContextSwitchTo(index_context);
	CozeIndexOp **ops = MemoryContextAllocHuge(index_context, Max(1, nops) * sizeof(CozeIndexOp *));
	Size		n = 0;
	int			rest = 0;

	spilling = true;
	for (int i = 0; i < norigins; i++)
	{
		n = take_from_list(&origins[i].plain, ops, n);
		n = take_from_list(&origins[i].folds, ops, n);
	}
	spill_ops(ops, n, false);
	n = 0;
	for (int i = 0; i < nadded; i++)
	{
		if (added[i]->slot != COZE_SLOT_TRUNCATE)
			ops[n++] = added[i];
		else
			added[rest++] = added[i];
	}
	spill_ops(ops, n, true);
	nadded = rest;
	pfree(ops);
	tend_runs();
	spilling = false;
	MemoryContextSwitchTo(old);
}

static void
spill_if_much(void)
{
	Size		in_memory = (Size) nops * (sizeof(CozeIndexOp) + 2 * sizeof(void *));

	if (in_memory > (Size) cozesync_index_memory * 1024 / 2)
		spill();
}

/* The runs of the transaction at hand are for good, or go with it. */
static void
end_pending_runs(bool committed)
{
	for (int i = nruns - 1; i >= 0; i--)
	{
		if (!runs[i].pending)
			continue;
		if (committed)
			runs[i].pending = false;
		else
			drop_run(i);
	}
}

/* --- looking up --- */

typedef struct Lookup
{
	CozeIndexOp *first;
	CozeIndexOp **end;
} Lookup;

static CozeIndexOp *
add_found(Lookup *lookup)
{
	CozeIndexOp *op = palloc0(sizeof(CozeIndexOp));

	*lookup->end = op;
	lookup->end = &op->chain;
	return op;
}

static bool
found_in_run(void *arg, const CozeRunOp *found)
{
	CozeIndexOp *op;

	if (!is_remembered(found))
		return true;
	op = add_found(arg);
	op->hlc = found->hlc;
	op->seq = found->seq;
	op->relid = found->relid;
	op->hash = found->hash;
	op->origin = found->origin;
	op->offset = found->offset;
	op->context = found->context;
	op->slot = found->slot;
	op->flags = found->flags;
	return true;
}

/* In memory those of the index itself; where runs have some, copies of all. */
CozeIndexOp *
coze_index_first(Oid relid, uint8 slot, uint32 hash)
{
	CozeIndexOp *in_memory = first_in_memory(relid, slot, hash);
	Lookup		lookup = {NULL, &lookup.first};

	if (nruns == 0 || slot == COZE_SLOT_TRUNCATE)
		return in_memory;
	for (int i = nruns - 1; i >= 0; i--)
		coze_run_find(runs[i].run, relid, slot, hash, found_in_run, &lookup);
	if (lookup.first == NULL)
		return in_memory;
	for (const CozeIndexOp *op = in_memory; op != NULL; op = coze_index_next(op))
	{
		CozeIndexOp *copy = add_found(&lookup);

		*copy = *op;
		copy->chain = NULL;
	}
	return lookup.first;
}

static int
compare_versions(const void *a, const void *b)
{
	return coze_version_cmp(*(const CozeVersion *) a, *(const CozeVersion *) b);
}

/* Versions, sorted and without doubles whenever there are many more of them. */
typedef struct VersionSet
{
	Oid			relid;
	CozeVersion *versions;
	int			n;
	int			cap;
	int			nsorted;		/* so many are sorted, and each is there once */
} VersionSet;

static void
sort_versions(VersionSet *set)
{
	int			n = 0;

	if (set->nsorted == set->n)
		return;
	qsort(set->versions, set->n, sizeof(CozeVersion), compare_versions);
	for (int i = 0; i < set->n; i++)
	{
		if (i == 0 || !coze_version_equal(set->versions[i], set->versions[n - 1]))
			set->versions[n++] = set->versions[i];
	}
	set->n = set->nsorted = n;
}

static void
add_version(VersionSet *set, CozeVersion version)
{
	if (set->n > 0 && coze_version_equal(set->versions[set->n - 1], version))
		return;
	if (set->n == set->cap)
	{
		sort_versions(set);
		if (set->n * 2 > set->cap)
			set->versions = repalloc_huge(set->versions, (set->cap *= 2) * sizeof(CozeVersion));
	}
	set->versions[set->n++] = version;
}

static bool
add_version_of(void *arg, const CozeRunOp *op)
{
	VersionSet *set = arg;
	CozeVersion version = {op->hlc, origins[op->origin].origin};

	if (op->relid == set->relid && op->slot == COZE_SLOT_KEY && is_remembered(op))
		add_version(set, version);
	return true;
}

CozeVersion *
coze_index_entries_on(Oid relid, int *n)
{
	VersionSet	set = {.relid = relid,.cap = 1024};

	set.versions = palloc(set.cap * sizeof(CozeVersion));
	for (uint32 i = 0; i < nbuckets; i++)
	{
		for (CozeIndexOp *op = buckets[i]; op != NULL; op = op->chain)
		{
			if (op->relid == relid && op->slot == COZE_SLOT_KEY)
				add_version(&set, coze_index_version(op));
		}
	}
	for (int i = 0; i < nruns; i++)
		coze_run_each(runs[i].run, add_version_of, &set);
	set.nsorted = -1;
	sort_versions(&set);
	*n = set.n;
	return set.versions;
}

CozeVersion *
coze_index_versions(Oid relid, uint8 slot, uint32 hash, CozeVersion from, CozeVersion except, int *n)
{
	VersionSet	set = {.cap = 64};

	set.versions = palloc(set.cap * sizeof(CozeVersion));
	for (CozeIndexOp *op = coze_index_first(relid, slot, hash); op != NULL; op = coze_index_next(op))
	{
		CozeVersion version = coze_index_version(op);

		if (!coze_version_equal(version, except) && coze_version_cmp(version, from) > 0)
			add_version(&set, version);
	}
	set.nsorted = -1;
	sort_versions(&set);
	*n = set.n;
	return set.versions;
}

/* --- forgetting --- */

/* Forget what nothing that is still to come can be concurrent with. */
void
coze_index_trim(void)
{
	if (!built)
		return;
	compute_least();
	trimmed_to = coze_cut();
	for (int i = 0; i < norigins; i++)
	{
		trim_list(&origins[i].plain, origins[i].least);
		trim_list(&origins[i].folds, trimmed_to);
	}
	drop_forgotten_runs();
}

/* --- what was written --- */

void
coze_index_wrote(Oid relid, uint8 slot, uint32 hash)
{
	coze_written_add(relid, slot, hash);
}

bool
coze_index_is_stale(void)
{
	return stale;
}

/* An own entry has come to light: does it touch what was written here? */
static void
compare_with_written(Oid relid, uint8 slot, uint32 hash)
{
	if (slot == COZE_SLOT_TRUNCATE)
		stale |= coze_written_any(relid);
	else
		/* A TRUNCATE was written on every key. */
		stale |= coze_written_has(relid, slot, hash) ||
			coze_written_has(relid, COZE_SLOT_TRUNCATE, 0);
}

/* --- adding --- */

static void
append(OpList *list, CozeIndexOp *op)
{
	op->later = NULL;
	if (list->last == NULL)
		list->first = op;
	else if (list->last->hlc <= op->hlc)
		list->last->later = op;
	else
	{
		/* Own entries above the horizon come to light in any order. */
		CozeIndexOp **p = &list->first;

		while (*p != NULL && (*p)->hlc <= op->hlc)
			p = &(*p)->later;
		op->later = *p;
		*p = op;
		return;
	}
	list->last = op;
}

static void
remember_added(CozeIndexOp *op)
{
	if (nadded == added_cap)
	{
		added_cap = Max(256, 2 * added_cap);
		added = added == NULL ?
			MemoryContextAllocHuge(index_context, added_cap * sizeof(CozeIndexOp *)) :
			repalloc_huge(added, added_cap * sizeof(CozeIndexOp *));
	}
	added[nadded++] = op;
}

/* Can an entry that is still to come be concurrent with what is being added? */
static bool
is_needed(bool folds)
{
	if (folds)
		return adding.hlc > coze_cut();
	if (!least_known)
		compute_least();
	return adding.hlc > adding_origin->least;
}

/* Had the own entry not seen an operation there that is applied here? */
static bool
misses_something(Oid relid, uint8 slot, uint32 hash)
{
	for (CozeIndexOp *op = coze_index_first(relid, slot, hash); op != NULL; op = coze_index_next(op))
	{
		IndexOrigin *origin = &origins[op->origin];

		if (origin != adding_origin && op->hlc <= origin->applied &&
			op->hlc > coze_vector_get(adding_seen, origin->origin))
			return true;
	}
	return false;
}

bool
coze_index_take_late(CozeVersion *version)
{
	if (nlate == 0)
		return false;
	*version = late[--nlate];
	return true;
}

static void
remember_late(CozeVersion version)
{
	if (nlate == late_cap)
	{
		late_cap = Max(16, 2 * late_cap);
		late = late == NULL ? MemoryContextAlloc(TopMemoryContext, late_cap * sizeof(CozeVersion)) :
			repalloc(late, late_cap * sizeof(CozeVersion));
	}
	late[nlate++] = version;
}

void
coze_index_put_back_late(CozeVersion version)
{
	remember_late(version);
	late[nlate - 1] = late[0];
	late[0] = version;
}

CozeHlc
coze_index_lowest_late(void)
{
	CozeHlc		lowest = PG_INT64_MAX;

	for (int i = 0; i < nlate; i++)
		lowest = Min(lowest, late[i].hlc);
	return lowest;
}

/* What was decided in this transaction is not to be relied on. */
void
coze_index_spoil(void)
{
	stale = true;
}

void
coze_index_add(const CozeTable *table, uint8 slot, uint32 hash, uint8 flags)
{
	bool		folds;
	CozeIndexOp *op;
	uint32		bucket;

	/*
	 * A TRUNCATE of a row that is gone anyway ends its conflicts without a record.
	 * What the entry does to the row afterwards is kept as long as the TRUNCATE.
	 */
	adding_truncates |= slot == COZE_SLOT_TRUNCATE;
	folds = coze_table_folds(table) || adding_truncates;
	if (!adding_applied)
	{
		compare_with_written(table->relid, slot, hash);
		watched_met |= table->relid == watched;
	}
	if (slot == COZE_SLOT_KEY && folds && table->nuniques == 0)
		coze_alone_added(table->relid, hash, adding);
	if (adding_seen != NULL && !adding_late && (folds || !building))
		adding_late = misses_something(table->relid, slot, hash) ||
			(ntruncates > 0 && misses_something(table->relid, COZE_SLOT_TRUNCATE, 0));
	if (!is_needed(folds))
		return;
	if (nops >= nbuckets)
		grow_buckets();
	op = MemoryContextAlloc(op_context, sizeof(CozeIndexOp));
	op->hlc = adding.hlc;
	op->seq = adding_at.seq;
	op->offset = adding_at.offset;
	op->context = adding_at.context;
	op->relid = table->relid;
	op->hash = hash;
	op->origin = adding_origin - origins;
	op->slot = slot;
	op->flags = flags | (folds ? COZE_OP_FOLDS : 0);
	bucket = coze_place_hash(op->relid, slot, hash) & (nbuckets - 1);
	op->chain = buckets[bucket];
	buckets[bucket] = op;
	nops++;
	if (slot == COZE_SLOT_TRUNCATE)
		ntruncates++;
	if (adding_applied)
		remember_added(op);
	else
		append(folds ? &adding_origin->folds : &adding_origin->plain, op);
	if (nops % 1024 == 0)
		spill_if_much();
}

static void
begin_adding(CozeVersion version, bool applied)
{
	adding = version;
	adding_origin = origin_entry(version.origin);
	adding_applied = applied;
	adding_truncates = false;
	adding_at.seq = 0;
	adding_at.context = COZE_CONTEXT_UNKNOWN;
}

void
coze_index_at(const CozePlace *place)
{
	adding_at = *place;
}

void
coze_index_entry(const CozeEntryHead *head)
{
	MemoryContext old = MemoryContextSwitchTo(index_context);

	begin_adding(head->version, true);
	if (nheads == heads_cap)
	{
		heads_cap = Max(64, 2 * heads_cap);
		heads = heads == NULL ? palloc(heads_cap * sizeof(CozeEntryHead)) :
			repalloc(heads, heads_cap * sizeof(CozeEntryHead));
	}
	memset(&heads[nheads], 0, sizeof(CozeEntryHead));
	heads[nheads].version = head->version;
	coze_vector_copy(&heads[nheads].seen, &head->seen);
	nheads++;
	MemoryContextSwitchTo(old);
}

/* What a member has seen, by an entry of its own. */
static void
note_known(CozeVersion version, const CozeVector *seen)
{
	for (int m = 0; m < nmembers; m++)
	{
		if (members[m].origin == version.origin)
		{
			coze_vector_merge(&members[m].known, seen);
			coze_vector_raise(&members[m].known, version.origin, version.hlc);
		}
	}
}

static void
forget_transaction(void)
{
	for (int i = 0; i < nheads; i++)
		coze_vector_free(&heads[i].seen);
	nheads = 0;
	nadded = 0;
	stale = false;
	adding_seen = NULL;
	coze_written_forget();
}

void
coze_index_commit(void)
{
	MemoryContext old;

	if (index_context == NULL)
		return;
	old = MemoryContextSwitchTo(index_context);
	for (int i = 0; i < nadded; i++)
	{
		CozeIndexOp *op = added[i];
		IndexOrigin *origin = &origins[op->origin];

		append((op->flags & COZE_OP_FOLDS) ? &origin->folds : &origin->plain, op);
	}
	end_pending_runs(true);
	for (int i = 0; i < nheads; i++)
	{
		IndexOrigin *origin = origin_entry(heads[i].version.origin);

		origin->applied = Max(origin->applied, heads[i].version.hlc);
		note_known(heads[i].version, &heads[i].seen);
	}
	forget_transaction();
	MemoryContextSwitchTo(old);
}

void
coze_index_abort(void)
{
	if (spilling)
	{
		/* Half of it is in the file, half is not: read the log again. */
		coze_index_reset();
		return;
	}
	for (int i = nadded - 1; i >= 0; i--)
		unlink_op(added[i]);
	end_pending_runs(false);
	forget_transaction();
	coze_alone_reset();
}

/* --- entries of the log --- */

static void
decode_head(const CozeLogEntry *entry, CozeEntryHead *head)
{
	const char *error = coze_wire_get_head(entry->head, entry->size, head);

	if (error != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("an entry of the change log is damaged: %s", error)));
}

static void
index_change(void *arg, const CozeChange *change, const CozePlace *place)
{
	coze_index_at(place);
	coze_ops_index(change);
}

static void
index_entry(const CozeLogEntry *entry, Snapshot snapshot)
{
	CozeEntryHead head;

	begin_adding(entry->version, false);
	decode_head(entry, &head);
	if (built || (entry->version.origin == coze_own_origin() && entry->version.hlc > built_upto))
		adding_seen = &head.seen;
	adding_late = false;
	if (head.kind == COZE_ENTRY_DATA)
		coze_read_placed(&head, entry->chunks, snapshot, index_change, NULL);
	adding_seen = NULL;
	if (adding_late)
		remember_late(entry->version);
	note_known(head.version, &head.seen);
	coze_vector_free(&head.seen);
}

/* --- own entries --- */

static bool
is_above(CozeHlc hlc)
{
	for (int i = 0; i < nabove; i++)
	{
		if (above[i] == hlc)
			return true;
	}
	return false;
}

static void
remember_above(CozeHlc hlc)
{
	if (nabove == above_cap)
	{
		above_cap = Max(64, 2 * above_cap);
		above = above == NULL ? MemoryContextAlloc(index_context, above_cap * sizeof(CozeHlc)) :
			repalloc(above, above_cap * sizeof(CozeHlc));
	}
	above[nabove++] = hlc;
}

static void
set_indexed_upto(CozeHlc upto)
{
	int			n = 0;

	indexed_upto = upto;
	for (int i = 0; i < nabove; i++)
	{
		if (above[i] > upto)
			above[n++] = above[i];
	}
	nabove = n;
}

/*
 * Could an own entry be visible that is not indexed?  Not if nobody is between
 * drawing and having committed, and all that committed is indexed.
 */
static bool
may_be_more(CozeHlc *horizon)
{
	CozeHlc		clock = coze_clock_last();

	*horizon = coze_clock_horizon(NULL);
	return *horizon <= clock || coze_own_committed_max() > indexed_upto;
}

/* Bring the index up to every own entry that is visible now. */
void
coze_index_extend(void)
{
	CozeHlc		horizon;
	CozeVectorEntry from = {coze_own_origin(), indexed_upto};
	CozeVectorEntry to = {coze_own_origin(), PG_INT64_MAX};
	CozeVector	after = {1, 0, &from};
	CozeVector	upto = {1, 0, &to};
	CozeLogReader *reader;
	CozeLogEntry entry;
	MemoryContext context,
				old;
	Snapshot	snapshot;
	CozeVersion interrupted = adding;
	CozePlace	interrupted_at = adding_at;
	bool		was_applied = adding_applied;
	bool		had_truncated = adding_truncates;

	if (!may_be_more(&horizon))
		return;
	context = AllocSetContextCreate(CurrentMemoryContext, "cozesync extend", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	if (!least_known)
		compute_least();
	/* Tables that fold need all above the cut, also what every member has seen. */
	from.hlc = Max(indexed_upto, Min(horizon - 1, coze_cut()));
	if (nmembers == 0)
		from.hlc = horizon - 1; /* nobody to be concurrent with */
	reader = coze_log_open(&after, &upto, snapshot);
	while (coze_log_next(reader, &entry))
	{
		if (is_above(entry.version.hlc))
			continue;
		index_entry(&entry, snapshot);
		if (entry.version.hlc >= horizon)
			remember_above(entry.version.hlc);
	}
	coze_log_close(reader);
	UnregisterSnapshot(snapshot);
	if (horizon - 1 > indexed_upto)
		set_indexed_upto(horizon - 1);
	if (interrupted.hlc != 0)
	{
		begin_adding(interrupted, was_applied);
		adding_at = interrupted_at;
		adding_truncates = had_truncated;
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* The same; did an own entry come to light that touches the table? */
bool
coze_index_extend_on(Oid relid)
{
	watched = relid;
	watched_met = false;
	coze_index_extend();
	watched = InvalidOid;
	return watched_met;
}

/* --- building --- */

void
coze_index_reset(void)
{
	coze_written_forget();
	coze_run_free_all();
	runs = NULL;
	nruns = runs_cap = 0;
	spilling = false;
	if (index_context != NULL)
		MemoryContextDelete(index_context);
	index_context = op_context = NULL;
	buckets = NULL;
	nbuckets = nops = ntruncates = 0;
	origins = NULL;
	norigins = origins_cap = 0;
	members = NULL;
	nmembers = 0;
	above = NULL;
	nabove = above_cap = 0;
	built_upto = Max(built_upto, indexed_upto);
	indexed_upto = 0;
	added = NULL;
	nadded = added_cap = 0;
	heads = NULL;
	nheads = heads_cap = 0;
	adding_seen = NULL;
	stale = built = least_known = false;
	adding.hlc = 0;
	coze_alone_reset();
}

static void
read_members(Snapshot snapshot)
{
	int			n;
	CozeMember *all;

	PushActiveSnapshot(snapshot);
	all = coze_members_read(&n);
	PopActiveSnapshot();
	members = MemoryContextAllocZero(index_context, Max(1, n) * sizeof(IndexMember));
	for (int i = 0; i < n; i++)
	{
		MemoryContext old;
		CozeHlc		hlc;
		char	   *head;
		Size		size;
		CozeEntryHead decoded;

		if (all[i].is_local)
			continue;
		old = MemoryContextSwitchTo(index_context);
		coze_vector_reserve(&members[nmembers].known, 8);
		members[nmembers].origin = all[i].origin;
		members[nmembers].dropped = all[i].dropped;
		nmembers++;
		MemoryContextSwitchTo(old);
		if (coze_log_last(all[i].origin, PG_INT64_MAX, snapshot, &hlc, &head, &size) &&
			coze_wire_get_head(head, size, &decoded) == NULL)
		{
			old = MemoryContextSwitchTo(index_context);
			note_known(decoded.version, &decoded.seen);
			MemoryContextSwitchTo(old);
		}
	}
}

/* Read the suffix, of all origins, off the log. */
static void
build(void)
{
	CozeHlc		horizon = coze_clock_horizon(NULL);
	CozeVector	after = {0};
	CozeVector	upto = {0};
	CozeLogReader *reader;
	CozeLogEntry entry;
	Snapshot	snapshot;

	coze_index_reset();
	index_context = AllocSetContextCreate(TopMemoryContext, "cozesync index", ALLOCSET_DEFAULT_SIZES);
	op_context = SlabContextCreate(index_context, "cozesync operations", SLAB_LARGE_BLOCK_SIZE,
								   sizeof(CozeIndexOp));
	grow_buckets();
	group_generation = coze_group_generation();
	coze_held(&upto);
	coze_vector_set(&upto, coze_own_origin(), PG_INT64_MAX);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	read_members(snapshot);
	for (int i = 0; i < upto.n; i++)
	{
		if (upto.e[i].origin != coze_own_origin())
			origin_entry(upto.e[i].origin)->applied = upto.e[i].hlc;
	}
	building = true;
	for (int i = 0; i < upto.n && nmembers > 0; i++)
		coze_vector_set(&after, upto.e[i].origin, coze_cut());
	if (nmembers > 0)
	{
		reader = coze_log_open(&after, &upto, snapshot);
		while (coze_log_next(reader, &entry))
		{
			CHECK_FOR_INTERRUPTS();
			index_entry(&entry, snapshot);
			if (entry.version.origin == coze_own_origin() && entry.version.hlc >= horizon)
				remember_above(entry.version.hlc);
		}
		coze_log_close(reader);
	}
	UnregisterSnapshot(snapshot);
	set_indexed_upto(horizon - 1);
	building = false;
	built = true;
}

/*
 * Before a round of decisions.  Membership or tables that changed make the index
 * anew: a member that is let in may not have seen what was forgotten.
 */
void
coze_index_begin(void)
{
	bool		facts = !built || group_generation != coze_group_generation();

	if (facts)
		coze_tables_refresh_rules();
	if (coze_map_take_changed() || facts)
	{
		MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cozesync build",
													  ALLOCSET_DEFAULT_SIZES);
		MemoryContext old = MemoryContextSwitchTo(context);

		build();
		MemoryContextSwitchTo(old);
		MemoryContextDelete(context);
	}
	else
		coze_index_extend();

	/* A fold goes on from the states at the cut: nothing below it may be folded again. */
	if (coze_cut() > trimmed_to)
		coze_index_trim();
}
