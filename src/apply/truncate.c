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

/* --- keys that others wrote to, unseen --- */

/* Is an operation known that is later? */
static bool
is_any_later(const CozeEntryHead *head, Oid relid)
{
	CozeVersion *versions;
	int			n;

	versions = coze_index_entries_on(relid, &n);
	for (int i = 0; i < n; i++)
	{
		if (coze_version_cmp(versions[i], head->version) > 0 &&
			!coze_vector_has_seen(&head->seen, head->version, versions[i]))
			return true;
	}
	return false;
}

/* --- rows --- */

/* Its rows go, unless something later is known of them. */
static void
delete_rows(CozeDeciding *deciding, CozeTable *table, CozeTarget *target)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cozesync truncated row",
												  ALLOCSET_SMALL_SIZES);
	CozeRowScan *scan = coze_row_scan_begin(target);
	CozeFound	scanned;

	while (coze_row_scan_next(scan, &scanned))
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		CozeRow    *row = coze_row_alloc(table);
		Datum		key[INDEX_MAX_KEYS];
		CozeHit		hit;
		CozeFound	found;

		CHECK_FOR_INTERRUPTS();
		coze_row_of_slot(target, &scanned, row);
		coze_key_of_row(table, row, key);
		coze_decide(deciding, table, key, coze_key_hash(table, key), &hit);
		if ((!hit.has_after || !COZE_RULE("truncate-newer")) &&
			coze_row_find(target, key, COZE_LOOK_TO_DELETE, &found))
			coze_row_delete(target, &found);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
		coze_ops_trim_cache();
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
coze_truncate_apply(CozeDeciding *deciding, CozeTable *table, CozeTarget *target)
{
	coze_target_lock_exclusively(target);
	/* Who has just let go of the table may have written to it. */
	coze_index_extend();
	coze_decide_mark(deciding);
	if (is_any_later(deciding->head, table->relid) || is_referred_to(table->relid))
		delete_rows(deciding, table, target);
	else
		cut_off(target, table);
	coze_index_wrote(table->relid, COZE_SLOT_TRUNCATE, 0);
	coze_index_add(table, COZE_SLOT_TRUNCATE, 0, COZE_OP_TRUNCATE);
}
