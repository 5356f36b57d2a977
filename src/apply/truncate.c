/*-------------------------------------------------------------------------
 *
 * truncate.c
 *		Applying a TRUNCATE.
 *
 * A TRUNCATE is the deletion, by last_update_wins, of every key there could be:
 * rows on which no later operation is known go, under the table's lock and with
 * a snapshot taken after it, so that nobody is just bringing one in.
 *
 * Where no later operation is known at all and no table refers to this one, the
 * file is cut off as the server does it; else row by row, so that what refers
 * to the table from outside the group stops nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/heap.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "commands/tablecmds.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "apply/index.h"
#include "apply/truncate.h"
#include "compat.h"
#include "debug.h"

typedef struct Truncating
{
	CozeDeciding *deciding;
	CozeMap    *map;
	CozeTarget *target;
	const CozeChange *change;
	bool		any_later;		/* is an operation later than this known? */
} Truncating;

/* --- keys that others wrote to, unseen --- */

static void
take_key(Truncating *t, const CozeImage *image)
{
	CozeTable  *table = t->map->table;
	Datum		key[INDEX_MAX_KEYS];
	CozeHit    *hit;

	coze_map_key(t->map, image, key);
	hit = coze_decide(t->deciding, table, key, coze_key_hash(table, key));
	if (hit != NULL)
		coze_op_take(&hit->mine, t->map, hit->key, t->change);
}

/* A change of an entry that the TRUNCATE's author had not seen. */
static void
take_unseen_change(void *arg, const CozeChange *change)
{
	Truncating *t = arg;
	CozeMap    *map = coze_map_get(change->relation);
	CozeMap    *mine = t->map;

	if (change->kind == COZE_CHANGE_TRUNCATE || !coze_map_resolve(map, true) ||
		map->table != mine->table)
		return;
	t->map = map;
	take_key(t, &change->key);
	if (change->flags & COZE_CHANGE_OLD_KEY)
		take_key(t, &change->old_key);
	t->map = mine;
}

/* Note a hit for every key on which an operation is known that was not seen. */
static void
take_unseen(Truncating *t)
{
	const CozeEntryHead *head = t->deciding->head;
	CozeVersion *versions;
	int			n;

	versions = coze_index_entries_on(t->map->table->relid, &n);
	for (int i = 0; i < n; i++)
	{
		CozeEntryHead other;

		if (coze_vector_has_seen(&head->seen, head->version, versions[i]))
			continue;
		if (coze_version_cmp(versions[i], head->version) > 0)
			t->any_later = true;
		if (coze_read_entry(versions[i], &other, UINT32_MAX, take_unseen_change, t))
			coze_vector_free(&other.seen);
	}
}

/* --- rows --- */

/* Its rows go, unless something later is known of them. */
static void
delete_rows(Truncating *t)
{
	CozeTable  *table = t->map->table;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cozesync truncated row",
												  ALLOCSET_SMALL_SIZES);
	CozeRowScan *scan = coze_row_scan_begin(t->target);
	CozeFound	scanned;

	while (coze_row_scan_next(scan, &scanned))
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		CozeRow    *row = coze_row_alloc(table);
		Datum		key[INDEX_MAX_KEYS];
		CozeHit    *hit;
		CozeFound	found;

		CHECK_FOR_INTERRUPTS();
		coze_row_of_slot(t->target, &scanned, row);
		coze_key_of_row(table, row, key);
		hit = coze_decide(t->deciding, table, key, coze_key_hash(table, key));
		if ((hit == NULL || !hit->has_after || !COZE_RULE("truncate-newer")) &&
			coze_row_find(t->target, key, COZE_LOOK_TO_DELETE, &found))
			coze_row_delete(t->target, &found);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	}
	coze_row_scan_end(scan);
	MemoryContextDelete(context);
}

static void
cut_off(CozeTarget *target, CozeTable *table)
{
	List	   *rels = list_make1(table_open(table->relid, NoLock));
	List	   *relids = list_make1_oid(table->relid);
	ListCell   *lc;

	if (table->partitioned)
	{
		foreach(lc, find_all_inheritors(table->relid, AccessExclusiveLock, NULL))
		{
			if (lfirst_oid(lc) == table->relid)
				continue;
			rels = lappend(rels, table_open(lfirst_oid(lc), NoLock));
			relids = lappend_oid(relids, lfirst_oid(lc));
		}
	}
	coze_target_close_all();
	PushActiveSnapshot(GetTransactionSnapshot());
	coze_execute_truncate(rels, relids);
	PopActiveSnapshot();
	foreach(lc, rels)
	{
		table_close(lfirst(lc), NoLock);
	}
}

static bool
is_referred_to(Oid relid)
{
	List	   *referring = heap_truncate_find_FKs(list_make1_oid(relid));

	return referring != NIL;
}

void
coze_truncate_apply(CozeDeciding *deciding, CozeMap *map, CozeTarget *target,
					const CozeChange *change)
{
	Truncating	t = {deciding, map, target, change, false};
	CozeTable  *table = map->table;

	coze_target_lock_exclusively(target);
	/* Who has just let go of the table may have written to it. */
	coze_index_extend();
	take_unseen(&t);
	if (t.any_later || is_referred_to(table->relid))
		delete_rows(&t);
	else
		cut_off(target, table);
	coze_index_wrote(table->relid, COZE_SLOT_TRUNCATE, 0);
	coze_index_add(table, COZE_SLOT_TRUNCATE, 0, COZE_OP_TRUNCATE);
}
