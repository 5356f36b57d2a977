/*-------------------------------------------------------------------------
 *
 * entry.c
 *		Applying one entry in the current transaction.
 *
 * The entry's own bytes go to the log first; then its changes are taken one by
 * one, as they come off the batch or the spool, so that memory holds a row, not an
 * entry: map, decide, find, write.  What it means for conflicts is known, and
 * noted, at its end.
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
#include "utils/datum.h"
#include "utils/memutils.h"

#include "apply/conflict.h"
#include "apply/decide.h"
#include "apply/entry.h"
#include "apply/index.h"
#include "apply/ops.h"
#include "apply/row.h"
#include "apply/stop.h"
#include "apply/together.h"
#include "apply/truncate.h"
#include "debug.h"
#include "log/log.h"

/* A row that was not there, or was, though nothing says why. */
typedef struct Surprise
{
	CozeTable  *table;
	Datum	   *key;
	CozeConflictType type;
	CozeRow    *local;
	CozeRow    *remote;
} Surprise;

typedef struct Applying
{
	CozeQueuedEntry *entry;
	CozeDeciding deciding;
	MemoryContext change_context;
	bool		careful;
	bool		together;		/* tables that fold: gather, decide at the end */
	bool		stale;
	uint64		rows;
	List	   *surprises;
	List	   *gathered;		/* CozeTogether */

	/* The change at hand. */
	const CozeChange *change;
	CozeMap    *map;
	CozeTarget *target;
} Applying;

/* --- surprises --- */

static CozeRow *
copy_row(const CozeTable *table, const CozeRow *row)
{
	CozeRow    *copy = coze_row_alloc(table);

	for (int i = 0; i < table->desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(table->desc, i);

		copy->known[i] = row->known[i];
		copy->isnull[i] = row->isnull[i];
		if (!row->isnull[i])
			copy->values[i] = datumCopy(row->values[i], att->attbyval, att->attlen);
	}
	return copy;
}

/*
 * Of a table that folds the row may differ from what the author saw for reasons that
 * neither its key nor its values show; all that is known is to be looked at.
 */
static void
note_surprise(Applying *a, const Datum *key, CozeConflictType type, const CozeRow *local,
			  const CozeRow *remote)
{
	MemoryContext old;
	Surprise   *s;

	if (coze_table_folds(a->map->table))
	{
		a->stale = true;
		return;
	}
	old = MemoryContextSwitchTo(a->deciding.context);
	s = palloc0(sizeof(Surprise));
	s->table = a->map->table;
	s->key = coze_key_copy(s->table, key);
	s->type = type;
	s->local = local != NULL ? copy_row(s->table, local) : NULL;
	s->remote = remote != NULL ? copy_row(s->table, remote) : NULL;
	a->surprises = lappend(a->surprises, s);
	MemoryContextSwitchTo(old);
}

/* What the transaction had done to the key before explains it. */
static void
explain_surprises(Applying *a, const Datum *key)
{
	ListCell   *lc;

	foreach(lc, a->surprises)
	{
		Surprise   *s = lfirst(lc);

		if (s->table == a->map->table && coze_key_equal(s->table, s->key, key))
			a->surprises = foreach_delete_current(a->surprises, lc);
	}
}

static void
report_surprises(Applying *a)
{
	ListCell   *lc;

	foreach(lc, a->surprises)
	{
		Surprise   *s = lfirst(lc);
		CozeConflict conflict = {
			.table = s->table,
			.type = s->type,
			.policy = coze_row_policy_name(COZE_ROW_LAST_UPDATE_WINS),
			.outcome = "took remote",
			.reason = COZE_REASON_UNEXPLAINED,
			.loser = a->deciding.head->version,
			.decided = a->deciding.head->version,
			.remote = a->deciding.head->version,
		};
		CozeOwnerState owner;

		coze_owner_enter(s->table, &owner);
		conflict.key = coze_key_to_jsonb(s->table, s->key);
		conflict.local_row = coze_row_to_jsonb(s->table, s->local);
		conflict.remote_row = conflict.result_row = coze_row_to_jsonb(s->table, s->remote);
		coze_owner_leave(&owner);
		coze_conflict_note(&conflict);
	}
}

/* --- one key --- */

/* Does the entry's operation on the key have an effect?  *hit: NULL, or with whom it is concurrent. */
static bool
decide(Applying *a, const Datum *key, uint32 hash, CozeHit **hit)
{
	*hit = coze_decide(&a->deciding, a->map->table, key, hash);
	if (*hit != NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(a->deciding.context);

		coze_op_take(&(*hit)->mine, a->map, (*hit)->key, a->change);
		MemoryContextSwitchTo(old);
	}
	COZE_DEBUG_POINT("apply-decided");
	return *hit == NULL || !(*hit)->has_after;
}

/*
 * Somebody had held the row, or the key, and has ended: now that it is ours, see
 * what he did.
 */
static bool
decide_again(Applying *a, const Datum *key, uint32 hash, CozeHit **hit)
{
	coze_index_extend();
	if (coze_index_is_stale() || coze_table_folds(a->map->table))
	{
		a->stale = true;
		return false;
	}
	if (*hit == NULL)
		return decide(a, key, hash, hit);
	coze_decide_again(&a->deciding, *hit);
	return !(*hit)->has_after;
}

/* An insert of a key of which nothing is known is tried without looking first. */
static bool
may_insert_blindly(const Applying *a, const CozeHit *hit, uint32 hash)
{
	return !a->careful && hit == NULL && a->change->kind == COZE_CHANGE_INSERT &&
		coze_decide_unknown(&a->deciding, a->map->table, hash);
}

/* Is it told nowhere why the row is there, or is not? */
static bool
is_unexplained(const CozeHit *hit, bool there)
{
	return hit == NULL || !hit->has_before ||
		(hit->before.truncate && !hit->before.found ? there : hit->before.leaves_row != there);
}

static void
put_row(Applying *a, const Datum *key, uint32 hash, CozeRow *row)
{
	CozeTable  *table = a->map->table;
	CozeHit    *hit;
	CozeFound	found;
	bool		there;

	if (!decide(a, key, hash, &hit))
		return;
	if (may_insert_blindly(a, hit, hash))
	{
		coze_row_insert(a->target, row);
		coze_index_wrote(table->relid, COZE_SLOT_KEY, hash);
		return;
	}
	there = coze_row_find(a->target, key, COZE_LOOK_TO_UPDATE, &found);
	if (found.waited && !decide_again(a, key, hash, &hit))
		return;
	if (there)
	{
		if (a->change->kind == COZE_CHANGE_INSERT && is_unexplained(hit, true))
		{
			CozeRow    *local = coze_row_alloc(table);

			coze_row_of_slot(a->target, &found, local);
			note_surprise(a, key, COZE_CONFLICT_INSERT_EXISTS, local, row);
		}
		coze_row_update(a->target, &found, row);
	}
	else
	{
		if (a->change->kind == COZE_CHANGE_UPDATE && (a->change->flags & COZE_CHANGE_OLD_KEY) == 0 &&
			is_unexplained(hit, false))
			note_surprise(a, key, COZE_CONFLICT_UPDATE_MISSING, NULL, row);
		coze_row_insert(a->target, row);
	}
	coze_index_wrote(table->relid, COZE_SLOT_KEY, hash);
}

static void
remove_row(Applying *a, const Datum *key, uint32 hash)
{
	CozeHit    *hit;
	CozeFound	found;
	bool		there;

	if (!decide(a, key, hash, &hit))
		return;
	there = coze_row_find(a->target, key, COZE_LOOK_TO_DELETE, &found);
	if (found.waited && !decide_again(a, key, hash, &hit))
		return;
	if (there)
		coze_row_delete(a->target, &found);
	else if (a->change->kind == COZE_CHANGE_DELETE && is_unexplained(hit, false))
		note_surprise(a, key, COZE_CONFLICT_DELETE_MISSING, NULL, NULL);
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
			explain_surprises(a, key);
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
		coze_truncate_apply(&a->deciding, a->map, a->target, a->change);
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
	if (open_target(a))
	{
		coze_owner_enter(a->map->table, &owner);
		if (coze_table_folds(a->map->table) && a->together)
			gather_change(a);
		else if (!coze_table_folds(a->map->table) || may_go_straight(a))
			apply_here(a);
		coze_owner_leave(&owner);
		a->rows++;
	}
	coze_applying.relation = NULL;
	coze_applying.key = NULL;
	MemoryContextSwitchTo(old);
	MemoryContextReset(a->change_context);
}

/* --- the entry --- */

static void
apply_changes(Applying *a, CozeChangeReader *reader, const char *data, Size size)
{
	CozeChange	change;
	int			result = 1;

	coze_wire_reader_feed(reader, data, size);
	while (!a->stale && (result = coze_wire_reader_next(reader, &change)) > 0)
		apply_change(a, &change);
	if (result < 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("a received entry is damaged: %s", reader->error)));
}

static void
apply_body(Applying *a)
{
	CozeChangeReader reader;
	CozeChunkReader chunks;
	const char *data;
	Size		size;

	coze_wire_reader_init(&reader);
	if (a->entry->head.nchunks == 0)
		apply_changes(a, &reader, a->entry->head.inline_body, a->entry->head.inline_size);
	coze_chunks_begin(&chunks, a->entry);
	while (!a->stale && coze_chunks_next(&chunks, &data, &size))
	{
		CozeChunk	chunk;
		const char *error = coze_wire_get_chunk(data, size, &chunk);

		if (error != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("a received entry is damaged: %s", error)));
		apply_changes(a, &reader, chunk.body, chunk.size);
		CHECK_FOR_INTERRUPTS();
	}
	coze_chunks_end(&chunks);
	if (!a->stale && !coze_wire_reader_at_end(&reader))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("a received entry is damaged: its body is cut off")));
	coze_wire_reader_free(&reader);
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
		const char *error = coze_wire_get_chunk(data, size, &chunk);

		if (error != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("a received entry is damaged: %s", error)));
		coze_log_append_chunk(id, chunk.seq, data, size);
	}
	coze_chunks_end(&chunks);
	coze_log_append_head(entry->head.version, id, entry->data, entry->size);
	CommandCounterIncrement();
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
		a.together = careful || (entry->head.nchunks == 0 && concerns_others(&a));
		apply_body(&a);
		if (!a.stale)
			apply_gathered(&a);
	}
	if (!a.stale)
	{
		coze_decide_report(&a.deciding);
		report_surprises(&a);
	}
	*rows = a.rows;
	coze_applying.version.hlc = 0;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return a.stale ? COZE_APPLIED_STALE : COZE_APPLIED;
}

/* --- own entries --- */

static void
report_key(Applying *a, const CozeImage *image)
{
	Datum		key[INDEX_MAX_KEYS];
	CozeHit    *hit;

	coze_map_key(a->map, image, key);
	hit = coze_decide(&a->deciding, a->map->table, key, coze_key_hash(a->map->table, key));
	if (hit != NULL)
		coze_op_take(&hit->mine, a->map, hit->key, a->change);
}

static void
report_change(void *arg, const CozeChange *change)
{
	Applying   *a = arg;
	CozeOwnerState owner;

	a->change = change;
	a->map = coze_map_get(change->relation);
	if (!coze_map_resolve(a->map, true))
		return;
	coze_owner_enter(a->map->table, &owner);
	if (coze_table_folds(a->map->table))
		coze_together_take(together_of(a), a->map, change);
	else if (change->kind != COZE_CHANGE_TRUNCATE)
	{
		report_key(a, &change->key);
		if (change->flags & COZE_CHANGE_OLD_KEY)
			report_key(a, &change->old_key);
	}
	coze_owner_leave(&owner);
}

void
coze_entry_report(CozeVersion version)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cozesync own entry",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	CozeEntryHead head;
	Applying	a = {.deciding = {.head = &head,.context = context}};
	ListCell   *lc;

	if (coze_read_entry(version, &head, UINT32_MAX, report_change, &a))
	{
		coze_decide_report(&a.deciding);
		foreach(lc, a.gathered)
		{
			CozeTogether *together = lfirst(lc);
			CozeTarget *target = coze_target_open(together->table);
			CozeOwnerState owner;

			if (target == NULL)
				continue;
			coze_owner_enter(together->table, &owner);
			coze_together_report(together, target);
			coze_owner_leave(&owner);
		}
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
