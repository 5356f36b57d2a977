/*-------------------------------------------------------------------------
 *
 * written.c
 *		What the transaction at hand has written to.
 *
 * A set of places (table, key or unique value or TRUNCATE, hash), with which every
 * own entry is compared that comes to light before the commit.  It is asked rarely and
 * added to with every row; what is too much for memory goes to runs (run.c).
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
static Written *written = NULL; /* open hash table */
static uint32 nwritten = 0;
static uint32 written_cap = 0;
static List *relids = NIL;		/* of what was ever added */
static List *spilled = NIL;		/* CozeRun */

/* So much of it stays from transaction to transaction. */
#define KEPT_CAP 65536

static bool
find(Oid relid, uint8 slot, uint32 hash, uint32 *place)
{
	*place = coze_place_hash(relid, slot, hash) & (written_cap - 1);
	while (written[*place].relid != InvalidOid)
	{
		Written    *w = &written[*place];

		if (w->hash == hash && w->relid == relid && w->slot == slot)
			return true;
		*place = (*place + 1) & (written_cap - 1);
	}
	return false;
}

static void
grow(void)
{
	Written    *old = written;
	uint32		old_cap = written_cap;

	written = MemoryContextAllocExtended(written_context, Max(1024, 2 * old_cap) * sizeof(Written),
										 MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	written_cap = Max(1024, 2 * old_cap);
	for (uint32 i = 0; i < old_cap; i++)
	{
		uint32		place;

		if (old[i].relid == InvalidOid)
			continue;
		find(old[i].relid, old[i].slot, old[i].hash, &place);
		written[place] = old[i];
	}
	if (old != NULL)
		pfree(old);
}

static bool
is_too_much(void)
{
	return (Size) written_cap * sizeof(Written) * 2 > (Size) cozesync_index_memory * 1024 / 8;
}

static void
spill(void)
{
	CozeRunOp  *ops = MemoryContextAllocExtended(written_context, nwritten * sizeof(CozeRunOp),
												 MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	Size		n = 0;
	MemoryContext old;
	CozeRun    *run;

	for (uint32 i = 0; i < written_cap; i++)
	{
		if (written[i].relid == InvalidOid)
			continue;
		ops[n].relid = written[i].relid;
		ops[n].hash = written[i].hash;
		ops[n++].slot = written[i].slot;
	}
	run = coze_run_write(ops, n, 10);
	pfree(ops);
	old = MemoryContextSwitchTo(written_context);
	spilled = lappend(spilled, run);
	MemoryContextSwitchTo(old);
	memset(written, 0, written_cap * sizeof(Written));
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

void
coze_written_add(Oid relid, uint8 slot, uint32 hash)
{
	uint32		place;

	if (written_context == NULL)
		written_context = AllocSetContextCreate(TopMemoryContext, "cozesync written",
												ALLOCSET_DEFAULT_SIZES);
	if (nwritten * 2 >= written_cap)
	{
		if (written_cap > 0 && is_too_much())
			spill();
		else
			grow();
	}
	if (find(relid, slot, hash, &place))
		return;
	written[place].relid = relid;
	written[place].hash = hash;
	written[place].slot = slot;
	nwritten++;
	remember_relid(relid);
}

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
	if (nwritten == 0)
		return;
	nwritten = 0;
	if (written_cap > KEPT_CAP)
	{
		pfree(written);
		written = NULL;
		written_cap = 0;
	}
	else
		memset(written, 0, written_cap * sizeof(Written));
}
