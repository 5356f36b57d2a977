/*-------------------------------------------------------------------------
 *
 * written.c
 *		What the transaction at hand has written to.
 *
 * A set of places (table, key or unique value or TRUNCATE, hash), with which every
 * own entry is compared that comes to light before the commit.  It is added to with
 * every row and asked rarely: so there is only a list of it until somebody asks.  What
 * is too much for memory goes to runs (run.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/memutils.h"

#include "apply/run.h"
#include "apply/written.h"
#include "settings.h"

typedef struct Written
{
	Oid			relid;			/* 0: free */
	uint32		hash;
	uint8		slot;
} Written;

static MemoryContext written_context = NULL;
static Written *written = NULL; /* in the order in which they came */
static uint32 nwritten = 0;
static uint32 written_cap = 0;
static Written *set = NULL;		/* open hash table, of the first nset of them */
static uint32 nset = 0;
static uint32 set_cap = 0;
static List *relids = NIL;		/* of what was ever added */
static List *spilled = NIL;		/* CozeRun */

/* So much of it stays from transaction to transaction. */
#define KEPT_CAP 65536

/* --- the set --- */

static bool
find(Oid relid, uint8 slot, uint32 hash, uint32 *place)
{
	*place = coze_place_hash(relid, slot, hash) & (set_cap - 1);
	while (set[*place].relid != InvalidOid)
	{
		Written    *w = &set[*place];

		if (w->hash == hash && w->relid == relid && w->slot == slot)
			return true;
		*place = (*place + 1) & (set_cap - 1);
	}
	return false;
}

/* Make the set hold all of the list. */
static void
bring_set_up_to_date(void)
{
	if (set_cap == 0 || set_cap < 2 * nwritten)
	{
		uint32		cap = Max(1024, set_cap);

		while (cap < 2 * nwritten)
			cap *= 2;
		if (set != NULL)
			pfree(set);
		set = NULL;
		set_cap = 0;
		set = MemoryContextAllocExtended(written_context, cap * sizeof(Written),
										 MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
		set_cap = cap;
		nset = 0;
	}
	for (; nset < nwritten; nset++)
	{
		const Written *w = &written[nset];
		uint32		place;

		if (!find(w->relid, w->slot, w->hash, &place))
			set[place] = *w;
	}
}

static void
empty_set(void)
{
	if (set != NULL && nset > 0)
	{
		if (set_cap > KEPT_CAP)
		{
			pfree(set);
			set = NULL;
			set_cap = 0;
		}
		else
			memset(set, 0, set_cap * sizeof(Written));
	}
	nset = 0;
}

/* --- adding --- */

/* With its set the list takes some five times its size. */
static bool
is_too_much(void)
{
	return (Size) nwritten * sizeof(Written) * 5 > (Size) cozesync_index_memory * 1024 / 4;
}

static void
spill(void)
{
	CozeRunOp  *ops = MemoryContextAllocExtended(written_context, nwritten * sizeof(CozeRunOp),
												 MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	MemoryContext old;
	CozeRun    *run;

	for (uint32 i = 0; i < nwritten; i++)
	{
		ops[i].relid = written[i].relid;
		ops[i].hash = written[i].hash;
		ops[i].slot = written[i].slot;
	}
	run = coze_run_write(ops, nwritten, 10);
	pfree(ops);
	old = MemoryContextSwitchTo(written_context);
	spilled = lappend(spilled, run);
	MemoryContextSwitchTo(old);
	empty_set();
	nwritten = 0;
}

static void
remember_relid(Oid relid)
{
	MemoryContext old;

	if (relids != NIL && (llast_oid(relids) == relid || list_member_oid(relids, relid)))
		return;
	old = MemoryContextSwitchTo(written_context);
	relids = lappend_oid(relids, relid);
	MemoryContextSwitchTo(old);
}

static void
make_room(void)
{
	if (written_context == NULL)
		written_context = AllocSetContextCreate(TopMemoryContext, "cozesync written",
												ALLOCSET_DEFAULT_SIZES);
	if (nwritten > 0 && is_too_much())
		spill();
	else
	{
		uint32		cap = Max(1024, 2 * written_cap);

		written = written == NULL ? MemoryContextAllocHuge(written_context, cap * sizeof(Written)) :
			repalloc_huge(written, cap * sizeof(Written));
		written_cap = cap;
	}
}

void
coze_written_add(Oid relid, uint8 slot, uint32 hash)
{
	Written    *w;

	if (nwritten == written_cap)
		make_room();
	w = &written[nwritten++];
	w->relid = relid;
	w->hash = hash;
	w->slot = slot;
	remember_relid(relid);
}

/* --- asking --- */

static bool
found_in_run(void *arg, const CozeRunOp *op)
{
	*(bool *) arg = true;
	return false;
}

bool
coze_written_has(Oid relid, uint8 slot, uint32 hash)
{
	bool		found = false;
	uint32		place;
	ListCell   *lc;

	if (relids == NIL)
		return false;
	bring_set_up_to_date();
	found = find(relid, slot, hash, &place);
	foreach(lc, spilled)
	{
		if (!found)
			coze_run_find(lfirst(lc), relid, slot, hash, found_in_run, &found);
	}
	return found;
}

/* Anything in the table? */
bool
coze_written_any(Oid relid)
{
	return list_member_oid(relids, relid);
}

/* The transaction is over. */
void
coze_written_forget(void)
{
	ListCell   *lc;

	foreach(lc, spilled)
	{
		coze_run_free(lfirst(lc));
	}
	list_free(spilled);
	list_free(relids);
	spilled = relids = NIL;
	empty_set();
	nwritten = 0;
	if (written_cap > KEPT_CAP)
	{
		pfree(written);
		written = NULL;
		written_cap = 0;
	}
}
