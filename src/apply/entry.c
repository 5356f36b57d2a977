/*-------------------------------------------------------------------------
 *
 * entry.c
 *		Applying one entry in the current transaction.
 *
 * The entry's own bytes go to the log first; then its changes are taken one by
 * one, as they come off the batch or the spool, so that memory holds a row, not an
 * entry: map, decide, find, write.  What it means for conflicts is known only at
 * its end; then those changes that met any are gone through again (decide.c).
 *
 * A decision is only as good as the index was when it was made.  Where another
 * process held the row or key meanwhile the index is brought up to date
 * with the row in our hands, and the decision made again; all else is checked
 * once for the whole transaction, by the applier.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "apply/body.h"
#include "apply/conflict.h"
#include "apply/decide.h"
#include "apply/entry.h"
#include "apply/index.h"
#include "apply/ops.h"
#include "apply/policy.h"
#include "apply/row.h"
#include "apply/stop.h"
#include "apply/together.h"
#include "apply/truncate.h"
#include "debug.h"
#include "log/log.h"

/* Entries that are to have no effect (skip_entry()). */
static CozeVersion *skipped = NULL;
static int	nskipped = 0;

typedef struct Applying
{
	CozeQueuedEntry *entry;
	bool		skipped;		/* it has no effect */
	CozeDeciding deciding;
	MemoryContext change_context;
	bool		careful;
	bool		together;		/* tables that fold: gather, decide at the end */
	bool		stale;
	bool		facts;			/* a row of the group's own tables was changed */
	uint64		rows;
	HTAB	   *surprises;		/* keys of which one was noted; NULL: none */
	List	   *gathered;		/* CozeTogether */

	/* The change at hand. */
	const CozeChange *change;
	CozeMap    *map;
	CozeTarget *target;
} Applying;

/* --- surprises --- */

/* A key, by its hash. */
typedef struct SurprisedKey
{
	Oid			relid;
	uint32		hash;
} SurprisedKey;

static void
remember_surprise(Applying *a, uint32 hash)
{
	SurprisedKey name = {a->map->table->relid, hash};

	if (a->surprises == NULL)
	{
		HASHCTL		ctl = {0};

		ctl.keysize = ctl.entrysize = sizeof(SurprisedKey);
		ctl.hcxt = a->deciding.context;
		a->surprises = hash_create("cozesync surprises", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	hash_search(a->surprises, &name, HASH_ENTER, NULL);
}

/*
 * A row was not there, or was, though nothing says why.
 *
 * Of a table that folds the row may differ from what the author saw for reasons that
 * neither its key nor its values show; all that is known is to be looked at.
 */
static void
note_surprise(Applying *a, const Datum *key, uint32 hash, CozeConflictType type,
			  const CozeRow *local, const CozeRow *remote)
{
	CozeTable  *table = a->map->table;
	CozeConflict conflict = {
		.table = table,
		.type = type,
		.policy = coze_row_policy_name(COZE_ROW_LAST_UPDATE_WINS),
		.outcome = "took remote",
		.reason = COZE_REASON_UNEXPLAINED,
		.loser = a->deciding.head->version,
		.decided = a->deciding.head->version,
		.remote = a->deciding.head->version,
	};

	if (coze_table_folds(table))
	{
		a->stale = true;
		return;
	}
	conflict.key = coze_key_to_jsonb(table, key);
	conflict.local_row = coze_row_to_jsonb(table, local);
	conflict.remote_row = conflict.result_row = coze_row_to_jsonb(table, remote);
	coze_conflict_note(&conflict);
	remember_surprise(a, hash);
}

/*
 * The change at hand tells what the key had before the entry, though others of the
 * entry came first (see wire.h), and so explains what those met.  True if there was
 * anything to explain.
 */
static bool
explain_surprise(Applying *a, const Datum *key, uint32 hash)
{
	SurprisedKey name = {a->map->table->relid, hash};
	CozeVersion mine = a->deciding.head->version;

	if (a->change->kind != COZE_CHANGE_SUPERSEDED && (a->change->flags & COZE_CHANGE_OLD_OWN))
		return false;
	if (a->surprises == NULL || hash_search(a->surprises, &name, HASH_FIND, NULL) == NULL)
		return false;
	coze_conflict_withdraw(a->map->table, coze_key_to_jsonb(a->map->table, key), mine, mine);
	return true;
}

/* --- one key --- */

/* Does the entry's operation on the key have an effect?  *hit: with whom it is concurrent. */
static bool
decide(Applying *a, const Datum *key, uint32 hash, CozeHit *hit)
{
	if (coze_decide(&a->deciding, a->map->table, key, hash, hit))
		coze_decide_mark(&a->deciding);
	COZE_DEBUG_POINT("apply-decided");
	return !hit->has_after;
}

/*
 * Somebody had held the row, or the key, and has ended: now that it is ours, see
 * what he did.
 */
static bool
decide_again(Applying *a, const Datum *key, uint32 hash, CozeHit *hit)
{
	coze_index_extend();
	if (coze_index_is_stale() || coze_table_folds(a->map->table))
	{
		a->stale = true;
		return false;
	}
	return decide(a, key, hash, hit);
}

/* An insert of a key of which nothing is known is tried without looking first. */
static bool
may_insert_blindly(const Applying *a, const CozeHit *hit, uint32 hash)
{
	return !a->careful && !hit->has_before && a->change->kind == COZE_CHANGE_INSERT &&
		coze_decide_unknown(&a->deciding, a->map->table, hash);
}

/* Is it told nowhere why the row is there, or is not? */
static bool
is_unexplained(const CozeHit *hit, bool there)
{
	return !hit->has_before ||
		(hit->before.truncate && !hit->before.found ? there : hit->before.leaves_row != there);
}

static void
put_row(Applying *a, const Datum *key, uint32 hash, CozeRow *row)
{
	CozeTable  *table = a->map->table;
	CozeHit		hit;
	CozeFound	found;
	bool		there;

	if (!decide(a, key, hash, &hit))
		return;
	if (may_insert_blindly(a, &hit, hash))
	{
		coze_row_insert_later(a->target, row);
		coze_index_wrote(table->relid, COZE_SLOT_KEY, hash);
		return;
	}
	there = coze_row_find(a->target, key, COZE_LOOK_TO_UPDATE, &found);
	if (found.waited && !decide_again(a, key, hash, &hit))
		return;
	if (there)
	{
		if (a->change->kind == COZE_CHANGE_INSERT && is_unexplained(&hit, true))
		{
			CozeRow    *local = coze_row_alloc(table);

			coze_row_of_slot(a->target, &found, local);
			note_surprise(a, key, hash, COZE_CONFLICT_INSERT_EXISTS, local, row);
		}
		coze_row_update(a->target, &found, row);
	}
	else
	{
		if (a->change->kind == COZE_CHANGE_UPDATE && (a->change->flags & COZE_CHANGE_OLD_KEY) == 0 &&
			is_unexplained(&hit, false))
			note_surprise(a, key, hash, COZE_CONFLICT_UPDATE_MISSING, NULL, row);
		coze_row_insert(a->target, row);
	}
	coze_index_wrote(table->relid, COZE_SLOT_KEY, hash);
}

static void
remove_row(Applying *a, const Datum *key, uint32 hash)
{
	CozeHit		hit;
	CozeFound	found;
	bool		there;
	bool		explained = explain_surprise(a, key, hash);

	if (!decide(a, key, hash, &hit))
		return;
	there = coze_row_find(a->target, key, COZE_LOOK_TO_DELETE, &found);
	if (found.waited && !decide_again(a, key, hash, &hit))
		return;
	if (there)
		coze_row_delete(a->target, &found);
	else if (a->change->kind == COZE_CHANGE_DELETE && !explained && is_unexplained(&hit, false))
		note_surprise(a, key, hash, COZE_CONFLICT_DELETE_MISSING, NULL, NULL);
	coze_index_wrote(a->map->table->relid, COZE_SLOT_KEY, hash);
}

/* --- one change --- */

static void
apply_old_key(Applying *a)
{
	CozeTable  *table = a->map->table;
	Datum		key[INDEX_MAX_KEYS];
	uint32		hash;

	coze_map_key(a->map, &a->change->old_key, key);
	hash = coze_key_hash(table, key);
	remove_row(a, key, hash);
	coze_index_add(table, COZE_SLOT_KEY, hash, COZE_OP_EXISTED);
}

static void
apply_new_row(Applying *a, const Datum *key, uint32 hash)
{
	CozeRow    *row = coze_row_alloc(a->map->table);

	coze_map_row(a->map, &a->change->key, &a->change->new_row, row);
	put_row(a, key, hash, row);
}

static void
apply_row_change(Applying *a)
{
	const CozeChange *change = a->change;
	CozeTable  *table = a->map->table;
	Datum		key[INDEX_MAX_KEYS];
	uint32		hash;
	CozeHit		hit;

	coze_map_key(a->map, &change->key, key);
	hash = coze_key_hash(table, key);
	if (change->flags & COZE_CHANGE_OLD_KEY)
		apply_old_key(a);
	switch (change->kind)
	{
		case COZE_CHANGE_INSERT:
			apply_new_row(a, key, hash);
			coze_index_add(table, COZE_SLOT_KEY, hash, COZE_OP_LEAVES_ROW);
			break;
		case COZE_CHANGE_UPDATE:
			apply_new_row(a, key, hash);
			coze_index_add(table, COZE_SLOT_KEY, hash, COZE_OP_LEAVES_ROW |
						   ((change->flags & COZE_CHANGE_OLD_KEY) ? 0 : COZE_OP_EXISTED));
			break;
		case COZE_CHANGE_DELETE:
			remove_row(a, key, hash);
			coze_index_add(table, COZE_SLOT_KEY, hash, COZE_OP_EXISTED);
			break;
		case COZE_CHANGE_SUPERSEDED:
			(void) decide(a, key, hash, &hit);
			(void) explain_surprise(a, key, hash);
			coze_index_add(table, COZE_SLOT_KEY, hash, 0);
			break;
		case COZE_CHANGE_TRUNCATE:
			break;
	}
}

/* --- tables that fold --- */

static CozeTogether *
together_of(Applying *a)
{
	CozeTogether *together;
	MemoryContext old;
	ListCell   *lc;

	foreach(lc, a->gathered)
	{
		together = lfirst(lc);
		if (together->table == a->map->table)
			return together;
	}
	old = MemoryContextSwitchTo(a->deciding.context);
	together = coze_together_begin(a->map->table, &a->map->desc, a->deciding.head);
	a->gathered = lappend(a->gathered, together);
	MemoryContextSwitchTo(old);
	return together;
}

static void
gather_change(Applying *a)
{
	CozeTogether *together = together_of(a);
	MemoryContext old = MemoryContextSwitchTo(a->deciding.context);

	coze_together_take(together, a->map, a->change);
	MemoryContextSwitchTo(old);
	coze_ops_index(a->change);
}

static void
note_written_value(void *arg, CozeTable *table, int index, const CozeUniqueValue *value)
{
	coze_index_wrote(table->relid, COZE_SLOT_UNIQUE(index), value->hash);
}

/*
 * The straight way: the author had seen all that is known.  Else what was applied
 * of the entry so far has to be undone, and all of it gathered.
 */
static bool
may_go_straight(Applying *a)
{
	if (coze_together_concerns(a->deciding.head, a->map, a->change))
	{
		a->stale = true;
		return false;
	}
	coze_ops_unique_values(a->map, a->change, note_written_value, NULL);
	coze_ops_index_uniques(a->map, a->change);
	return true;
}

static void
apply_gathered(Applying *a)
{
	ListCell   *lc;

	foreach(lc, a->gathered)
	{
		CozeTogether *together = lfirst(lc);
		CozeTarget *target = coze_target_open(together->table);
		CozeOwnerState owner;

		if (target == NULL)
		{
			a->stale = true;
			return;
		}
		coze_applying.relid = together->table->relid;
		coze_applying.group = together->table->group;
		coze_applying.relation = together->desc;
		coze_owner_enter(together->table, &owner);
		a->stale = !coze_together_apply(together, target);
		coze_owner_leave(&owner);
		if (a->stale)
			return;
	}
}

/* Is an entry that is at hand in full concurrent with anything in a table that folds? */
static bool
concerns_others(Applying *a)
{
	CozeChangeReader reader;
	CozeChange	change;
	bool		concerns = false;

	coze_wire_reader_init(&reader);
	coze_wire_reader_feed(&reader, a->entry->head.inline_body, a->entry->head.inline_size);
	while (!concerns && coze_wire_reader_next(&reader, &change) > 0)
	{
		MemoryContext old = MemoryContextSwitchTo(a->change_context);
		CozeMap    *map = coze_map_get(change.relation);
		CozeOwnerState owner;

		if (coze_map_resolve(map, true) && coze_table_folds(map->table))
		{
			coze_owner_enter(map->table, &owner);
			concerns = coze_together_concerns(a->deciding.head, map, &change);
			coze_owner_leave(&owner);
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(a->change_context);
	}
	coze_wire_reader_free(&reader);
	return concerns;
}

/* --- one change, of any table --- */

/* Nothing that it has needed is needed any more. */
static void
end_change(Applying *a)
{
	MemoryContextReset(a->change_context);
	coze_ops_trim_cache();
	coze_conflict_relieve();
}

/* False: the table is not under sync any more, and the change is nobody's business. */
static bool
open_target(Applying *a)
{
	do
	{
		if (!coze_map_resolve(a->map, false))
			return false;
		coze_applying.relid = a->map->table->relid;
		coze_applying.group = a->map->table->group;
		/* Triggers on the group's facts may alter tables, which must not be open. */
		if (a->map->table->group)
			coze_target_close_all();
		a->target = coze_target_open(a->map->table);
	} while (a->target == NULL);
	return true;
}

static void
apply_here(Applying *a)
{
	if (a->change->kind == COZE_CHANGE_TRUNCATE)
		coze_truncate_apply(&a->deciding, a->map->table, a->target);
	else
		apply_row_change(a);
}

static void
apply_change(Applying *a, const CozeChange *change)
{
	CozeOwnerState owner;
	MemoryContext old = MemoryContextSwitchTo(a->change_context);

	a->change = change;
	a->map = coze_map_get(change->relation);
	coze_applying.relation = &a->map->desc;
	coze_applying.key = change->kind == COZE_CHANGE_TRUNCATE ? NULL : &change->key;
	coze_map_store(a->map);
	if (!a->skipped && open_target(a))
	{
		a->facts |= a->map->table->group;
		coze_owner_enter(a->map->table, &owner);
		if (coze_policy_is_news(a->map->table, change->policy))
			a->stale = true;
		else if (coze_table_folds(a->map->table) && a->together)
			gather_change(a);
		else if (!coze_table_folds(a->map->table) || may_go_straight(a))
			apply_here(a);
		coze_owner_leave(&owner);
		a->rows++;
	}
	coze_applying.relation = NULL;
	coze_applying.key = NULL;
	MemoryContextSwitchTo(old);
	end_change(a);
}

/* --- conflicts of one change --- */

static void
gather_conflicts(Applying *a, const CozeChange *change)
{
	CozeOwnerState owner;
	MemoryContext old = MemoryContextSwitchTo(a->change_context);

	a->map = coze_map_get(change->relation);
	if (coze_map_resolve(a->map, true) && !coze_table_folds(a->map->table))
	{
		coze_owner_enter(a->map->table, &owner);
		coze_decide_gather(&a->deciding, a->map, change, false);
		coze_owner_leave(&owner);
	}
	MemoryContextSwitchTo(old);
	end_change(a);
}

/* --- the entry --- */

typedef void (*EachChange) (Applying *a, const CozeChange *change);

static void
damaged(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("a received entry is damaged: %s", what)));
}

static void
get_chunk(const char *data, Size size, CozeChunk *chunk)
{
	const char *error = coze_wire_get_chunk(data, size, chunk);

	if (error != NULL)
		damaged(error);
}

static void
each_in(Applying *a, CozeBodyReader *body, uint64 seq, const char *data, Size size, EachChange each)
{
	CozeChange	change;
	CozePlace	place;
	int			result = 1;

	coze_body_feed(body, seq, data, size);
	while (!a->stale && (result = coze_body_next(body, &change, &place)) > 0)
	{
		coze_index_at(&place);
		each(a, &change);
		a->deciding.change++;
	}
	if (result < 0)
		damaged(body->reader.error);
}

/* Each change of the entry, until something turns out to be stale. */
static void
each_change(Applying *a, EachChange each)
{
	CozeBodyReader body;
	CozeChunkReader chunks;
	const char *data;
	Size		size;

	a->deciding.change = 0;
	coze_body_begin(&body);
	if (a->entry->head.nchunks == 0)
		each_in(a, &body, 0, a->entry->head.inline_body, a->entry->head.inline_size, each);
	coze_chunks_begin(&chunks, a->entry);
	while (!a->stale && coze_chunks_next(&chunks, &data, &size))
	{
		CozeChunk	chunk;

		get_chunk(data, size, &chunk);
		each_in(a, &body, chunk.seq, chunk.body, chunk.size, each);
		CHECK_FOR_INTERRUPTS();
	}
	coze_chunks_end(&chunks);
	if (!a->stale && !coze_body_at_end(&body))
		damaged("its body is cut off");
	coze_body_end(&body);
}

void
coze_entry_set_skipped(const CozeVersion *versions, int n)
{
	if (skipped != NULL)
		pfree(skipped);
	skipped = MemoryContextAlloc(TopMemoryContext, Max(1, n) * sizeof(CozeVersion));
	memcpy(skipped, versions, n * sizeof(CozeVersion));
	nskipped = n;
}

static bool
is_skipped(CozeVersion version)
{
	for (int i = 0; i < nskipped; i++)
	{
		if (coze_version_cmp(skipped[i], version) == 0)
			return true;
	}
	return false;
}

/* The same bytes as came, under a number of chunks of our own. */
static void
append_to_log(CozeQueuedEntry *entry)
{
	CozeChunkReader chunks;
	const char *data;
	Size		size;
	int64		id = 0;

	if (entry->head.nchunks > 0)
		id = coze_log_chunks_id();
	coze_chunks_begin(&chunks, entry);
	while (coze_chunks_next(&chunks, &data, &size))
	{
		CozeChunk	chunk;

		get_chunk(data, size, &chunk);
		coze_log_append_chunk(id, chunk.seq, data, size);
	}
	coze_chunks_end(&chunks);
	coze_log_append_head(entry->head.version, id, entry->data, entry->size);
	CommandCounterIncrement();
}

static void
report_conflicts(Applying *a)
{
	do
		each_change(a, gather_conflicts);
	while (coze_decide_report(&a->deciding));
}

CozeApplied
coze_entry_apply(CozeQueuedEntry *entry, bool careful, uint64 *rows)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cozesync entry",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Applying	a = {0};

	a.entry = entry;
	a.deciding.head = &entry->head;
	a.deciding.context = context;
	a.careful = careful;
	a.change_context = AllocSetContextCreate(context, "cozesync applied change",
											 ALLOCSET_SMALL_SIZES);
	coze_applying_clear();
	coze_applying.version = entry->head.version;
	coze_index_entry(&entry->head);
	append_to_log(entry);
	if (entry->head.kind == COZE_ENTRY_DATA)
	{
		a.skipped = is_skipped(entry->head.version);
		a.together = careful || (entry->head.nchunks == 0 && !a.skipped && concerns_others(&a));
		each_change(&a, apply_change);
		coze_row_flush();
		if (!a.stale)
			apply_gathered(&a);
		if (!a.stale && coze_decide_any_marked(&a.deciding))
			report_conflicts(&a);
	}
	*rows = a.rows;
	coze_applying.version.hlc = 0;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return a.stale ? COZE_APPLIED_STALE : a.facts ? COZE_APPLIED_FACTS : COZE_APPLIED;
}

/* --- own entries --- */

static void
gather_own_change(void *arg, const CozeChange *change)
{
	Applying   *a = arg;
	CozeOwnerState owner;
	MemoryContext old;

	a->map = coze_map_get(change->relation);
	if (!coze_map_resolve(a->map, true))
		return;
	coze_owner_enter(a->map->table, &owner);
	if (coze_table_folds(a->map->table))
		coze_together_take(together_of(a), a->map, change);
	else if (change->kind != COZE_CHANGE_TRUNCATE)
	{
		old = MemoryContextSwitchTo(a->change_context);
		coze_decide_gather(&a->deciding, a->map, change, true);
		MemoryContextSwitchTo(old);
	}
	coze_owner_leave(&owner);
	end_change(a);
}

bool
coze_entry_report(CozeVersion version)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cozesync own entry",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	CozeEntryHead head;
	Applying	a = {.deciding = {.head = &head,.context = context}};
	ListCell   *lc;

	a.change_context = AllocSetContextCreate(context, "cozesync own change", ALLOCSET_SMALL_SIZES);
	if (coze_read_entry(version, &head, UINT32_MAX, gather_own_change, &a))
	{
		(void) coze_decide_report(&a.deciding);
		foreach(lc, a.gathered)
		{
			CozeTogether *together = lfirst(lc);
			CozeTarget *target = coze_target_open(together->table);
			CozeOwnerState owner;

			if (!COZE_RULE("late-own"))
				break;
			a.stale |= target == NULL;
			if (a.stale)
				break;
			coze_owner_enter(together->table, &owner);
			a.stale = !coze_together_apply(together, target);
			coze_owner_leave(&owner);
		}
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return !a.stale;
}
