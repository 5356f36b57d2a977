/*-------------------------------------------------------------------------
 *
 * ops.c
 *		Operations: what one entry does to one key, read off its changes.
 *
 * A change of a key is a deletion of the old one and an insert of the new one.
 * A superseded change says what was there before; what came of it is said by
 * another change of the same entry.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/ilist.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "apply/index.h"
#include "apply/ops.h"
#include "log/log.h"

static MemoryContext change_context = NULL;

/* Memory for one change. */
static MemoryContext
enter_change_context(void)
{
	if (change_context == NULL)
		change_context = AllocSetContextCreate(TopMemoryContext, "cozesync change",
											   ALLOCSET_DEFAULT_SIZES);
	return MemoryContextSwitchTo(change_context);
}

static void
leave_change_context(MemoryContext old)
{
	MemoryContextSwitchTo(old);
	MemoryContextReset(change_context);
}

bool
coze_table_folds(const CozeTable *table)
{
	return table->nuniques > 0;
}

/* --- for the index --- */

static uint32
hash_key(const CozeMap *map, const CozeImage *image)
{
	Datum		key[INDEX_MAX_KEYS];

	coze_map_key(map, image, key);
	return coze_key_hash(map->table, key);
}

static uint8
flags_of(const CozeChange *change)
{
	switch (change->kind)
	{
		case COZE_CHANGE_INSERT:
			return COZE_OP_LEAVES_ROW;
		case COZE_CHANGE_UPDATE:
			return COZE_OP_LEAVES_ROW | ((change->flags & COZE_CHANGE_OLD_KEY) ? 0 : COZE_OP_EXISTED);
		case COZE_CHANGE_DELETE:
			return COZE_OP_EXISTED;
		case COZE_CHANGE_TRUNCATE:
			return COZE_OP_TRUNCATE;
		case COZE_CHANGE_SUPERSEDED:
			break;
	}
	return 0;
}

/* Columns that decide about unique values. */
static void
know_unique_columns(const CozeTable *table, CozeRow *row)
{
	memset(row->known, false, table->desc->natts * sizeof(bool));
	for (int i = 0; i < table->nkeys; i++)
		row->known[table->keys[i] - 1] = true;
	for (int i = 0; i < table->nuniques; i++)
	{
		for (int j = 0; j < table->uniques[i].ncolumns; j++)
			row->known[table->uniques[i].columns[j]] = true;
	}
}

/* The row before a change, as far as the change says. */
static CozeRow *
old_row(const CozeMap *map, const CozeChange *change)
{
	CozeRow    *row = coze_row_alloc(map->table);
	const CozeImage *key = (change->flags & COZE_CHANGE_OLD_KEY) ? &change->old_key : &change->key;

	if (change->flags & COZE_CHANGE_OLD_ROW)
	{
		coze_map_row(map, key, &change->old_row, row);
		return row;
	}
	if (!(change->flags & COZE_CHANGE_NEW_ROW))
		return row;
	coze_map_row(map, key, &change->new_row, row);
	coze_map_old_unique(map, change, row);
	know_unique_columns(map->table, row);
	return row;
}

static CozeRow *
new_row(const CozeMap *map, const CozeChange *change)
{
	CozeRow    *row = coze_row_alloc(map->table);

	coze_map_row(map, &change->key, &change->new_row, row);
	return row;
}

/* Every value that a change puts into a unique index or takes out of it. */
void
coze_ops_unique_values(const CozeMap *map, const CozeChange *change,
					   void (*callback) (void *arg, CozeTable *table, int index,
										 const CozeUniqueValue *value), void *arg)
{
	CozeTable  *table = map->table;
	CozeRow    *new = NULL;
	CozeRow    *old = NULL;
	CozeUniqueValue value;

	if (change->flags & COZE_CHANGE_NEW_ROW)
		new = new_row(map, change);
	if (change->kind != COZE_CHANGE_INSERT &&
		(new == NULL || (change->flags & (COZE_CHANGE_OLD_UNIQUE | COZE_CHANGE_OLD_ROW))))
		old = old_row(map, change);
	for (int i = 0; i < table->nuniques; i++)
	{
		if (new != NULL && coze_unique_value(table, i, new, &value))
			callback(arg, table, i, &value);
		if (old != NULL && coze_unique_value(table, i, old, &value))
			callback(arg, table, i, &value);
	}
}

static void
index_unique_value(void *arg, CozeTable *table, int index, const CozeUniqueValue *value)
{
	coze_index_add(table, COZE_SLOT_UNIQUE(index), value->hash, *(uint8 *) arg);
}

/* Add what a change does to unique values to the index, as an entry that is applied. */
void
coze_ops_index_uniques(const CozeMap *map, const CozeChange *change)
{
	uint8		flags = flags_of(change);

	coze_ops_unique_values(map, change, index_unique_value, &flags);
}

static void
index_values(const CozeMap *map, const CozeChange *change)
{
	CozeOwnerState owner;
	MemoryContext old = enter_change_context();

	coze_owner_enter(map->table, &owner);
	if (coze_table_folds(map->table))
		coze_ops_index_uniques(map, change);
	if (change->kind != COZE_CHANGE_SUPERSEDED)
		coze_index_add(map->table, COZE_SLOT_KEY, hash_key(map, &change->key), flags_of(change));
	if (change->flags & COZE_CHANGE_OLD_KEY)
		coze_index_add(map->table, COZE_SLOT_KEY, hash_key(map, &change->old_key), COZE_OP_EXISTED);
	coze_owner_leave(&owner);
	leave_change_context(old);
}

void
coze_ops_index(const CozeChange *change)
{
	CozeMap    *map = coze_map_get(change->relation);

	if (!coze_map_resolve(map, true))
	{
		map->skipped = true;
		return;
	}
	if (change->kind == COZE_CHANGE_TRUNCATE)
		coze_index_add(map->table, COZE_SLOT_TRUNCATE, 0, COZE_OP_TRUNCATE);
	else
		index_values(map, change);
}

/* --- taking changes together --- */

static bool
is_key(const CozeMap *map, const CozeImage *image, const Datum *key)
{
	MemoryContext old = enter_change_context();
	Datum		other[INDEX_MAX_KEYS];
	bool		equal;

	coze_map_key(map, image, other);
	equal = coze_key_equal(map->table, other, key);
	leave_change_context(old);
	return equal;
}

/* The first one that was not made by the entry itself is what the author met. */
static void
take_old(CozeOp *op, const CozeMap *map, const CozeChange *change)
{
	if (op->existed || (change->flags & COZE_CHANGE_OLD_OWN))
		return;
	op->existed = true;
	op->old = old_row(map, change);
}

void
coze_op_take(CozeOp *op, const CozeMap *map, const Datum *key, const CozeChange *change)
{
	op->policy = change->policy;
	if (change->kind == COZE_CHANGE_TRUNCATE)
	{
		op->truncate = true;
		op->found = op->existed = op->leaves_row = false;
		op->old = op->new = NULL;
		return;
	}
	if ((change->flags & COZE_CHANGE_OLD_KEY) && is_key(map, &change->old_key, key))
	{
		op->found = true;
		op->leaves_row = false;
		op->new = NULL;
		take_old(op, map, change);
		return;
	}
	if (!is_key(map, &change->key, key))
		return;
	op->found = true;
	switch (change->kind)
	{
		case COZE_CHANGE_INSERT:
		case COZE_CHANGE_UPDATE:
			if (change->kind == COZE_CHANGE_UPDATE && !(change->flags & COZE_CHANGE_OLD_KEY))
				take_old(op, map, change);
			op->leaves_row = true;
			op->new = new_row(map, change);
			break;
		case COZE_CHANGE_DELETE:
			take_old(op, map, change);
			op->leaves_row = false;
			op->new = NULL;
			break;
		case COZE_CHANGE_SUPERSEDED:
			if (change->flags & COZE_CHANGE_OLD_ROW)
				take_old(op, map, change);
			break;
		case COZE_CHANGE_TRUNCATE:
			break;
	}
}

/* --- from the log --- */

/* An operation with its key. */
typedef struct CachedOp
{
	Datum	   *key;
	uint32		hash;
	CozeOp		op;
} CachedOp;

/*
 * What an entry does to a table, read off the log once for all who ask; conflicts
 * come in clusters, on the same few rows.
 */
typedef struct CachedEntry
{
	struct CacheKey
	{
		CozeHlc		hlc;
		CozeOrigin	origin;
		CozeTable  *table;
	}			key;
	MemoryContext context;
	bool		there;			/* it is in the log */
	bool		truncate;
	CozeVector	seen;
	int			nops;
	int			cap;
	CachedOp   *ops;
	Size		memory;
	dlist_node	lru;
} CachedEntry;

/* Entries with more changes than this are read each time, for one key. */
#define CACHED_CHANGES_MAX 1000
#define CACHED_BYTES_MAX (16 * 1024 * 1024)

static MemoryContext cache_context = NULL;
static HTAB *cache = NULL;
static Size cache_memory = 0;
static dlist_head cache_lru = DLIST_STATIC_INIT(cache_lru);	/* the longest unused last */

static void
evict(CachedEntry *entry)
{
	struct CacheKey key = entry->key;

	dlist_delete(&entry->lru);
	cache_memory -= entry->memory;
	MemoryContextDelete(entry->context);
	hash_search(cache, &key, HASH_REMOVE, NULL);
}

/* Make room; whatever coze_op_load() has given out before may be gone. */
void
coze_ops_trim_cache(void)
{
	if (cache == NULL)
		return;
	while (cache_memory > CACHED_BYTES_MAX && !dlist_is_empty(&cache_lru))
		evict(dlist_tail_element(CachedEntry, lru, &cache_lru));
}

static void
init_cache(void)
{
	HASHCTL		ctl = {0};

	cache_context = AllocSetContextCreate(TopMemoryContext, "cozesync operations read",
										  ALLOCSET_DEFAULT_SIZES);
	ctl.keysize = sizeof(struct CacheKey);
	ctl.entrysize = sizeof(CachedEntry);
	ctl.hcxt = cache_context;
	cache = hash_create("cozesync operations read", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static CachedOp *
cached_op(CachedEntry *entry, const Datum *key, bool make)
{
	CozeTable  *table = entry->key.table;
	uint32		hash = coze_key_hash(table, key);
	CachedOp   *op;

	for (int i = 0; i < entry->nops; i++)
	{
		if (entry->ops[i].hash == hash && coze_key_equal(table, entry->ops[i].key, key))
			return &entry->ops[i];
	}
	if (!make)
		return NULL;
	if (entry->nops == entry->cap)
	{
		entry->cap = Max(4, 2 * entry->cap);
		entry->ops = entry->ops == NULL ? palloc(entry->cap * sizeof(CachedOp)) :
			repalloc(entry->ops, entry->cap * sizeof(CachedOp));
	}
	op = &entry->ops[entry->nops++];
	memset(op, 0, sizeof(*op));
	op->key = coze_key_copy(table, key);
	op->hash = hash;
	return op;
}

static void
cache_key(CachedEntry *entry, const CozeMap *map, const CozeImage *image, const CozeChange *change)
{
	Datum		key[INDEX_MAX_KEYS];
	CachedOp   *op;

	coze_map_key(map, image, key);
	op = cached_op(entry, key, true);
	coze_op_take(&op->op, map, op->key, change);
}

static void
cache_change(void *arg, const CozeChange *change)
{
	CachedEntry *entry = arg;
	CozeMap    *map = coze_map_get(change->relation);

	if (!coze_map_resolve(map, true) || map->table != entry->key.table)
		return;
	if (change->kind == COZE_CHANGE_TRUNCATE)
	{
		entry->truncate = true;
		for (int i = 0; i < entry->nops; i++)
			coze_op_take(&entry->ops[i].op, map, NULL, change);
		return;
	}
	if (change->flags & COZE_CHANGE_OLD_KEY)
		cache_key(entry, map, &change->old_key, change);
	cache_key(entry, map, &change->key, change);
}

/* With the owner's rights.  NULL: too large to be cached. */
static CachedEntry *
cached_entry(CozeVersion version, CozeTable *table)
{
	struct CacheKey key = {version.hlc, version.origin, table};
	bool		found;
	CachedEntry *entry;
	MemoryContext context,
				old;
	CozeEntryHead head;
	CachedEntry made = {0};

	if (cache == NULL)
		init_cache();
	entry = hash_search(cache, &key, HASH_FIND, NULL);
	if (entry != NULL)
	{
		dlist_move_head(&cache_lru, &entry->lru);
		return entry;
	}
	context = AllocSetContextCreate(cache_context, "cozesync entry read", ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	made.key = key;
	made.context = context;
	made.there = coze_read_entry(version, &head, CACHED_CHANGES_MAX, cache_change, &made);
	MemoryContextSwitchTo(old);
	if (made.there && head.nchanges > CACHED_CHANGES_MAX)
	{
		MemoryContextDelete(context);
		return NULL;
	}
	if (made.there)
		made.seen = head.seen;
	made.memory = MemoryContextMemAllocated(context, true);
	cache_memory += made.memory;
	entry = hash_search(cache, &key, HASH_ENTER, &found);
	*entry = made;
	dlist_push_head(&cache_lru, &entry->lru);
	return entry;
}

typedef struct LoadArg
{
	CozeTable  *table;
	const Datum *key;
	CozeOp	   *op;
} LoadArg;

static void
load_change(void *arg, const CozeChange *change)
{
	LoadArg    *load = arg;
	CozeMap    *map = coze_map_get(change->relation);

	if (coze_map_resolve(map, true) && map->table == load->table)
		coze_op_take(load->op, map, load->key, change);
}

/* Of a large entry, in CurrentMemoryContext. */
static bool
load_uncached(CozeVersion version, CozeTable *table, const Datum *key, CozeOp *op)
{
	LoadArg		load = {table, key, op};
	CozeEntryHead head;

	if (!coze_read_entry(version, &head, UINT32_MAX, load_change, &load))
		return false;
	op->version = version;
	op->seen = head.seen;
	return op->found || op->truncate;
}

bool
coze_op_load(CozeVersion version, CozeTable *table, const Datum *key, CozeOp *op)
{
	CozeOwnerState owner;
	CachedEntry *entry;
	CachedOp   *cached;
	bool		found;

	memset(op, 0, sizeof(*op));
	coze_owner_enter(table, &owner);
	entry = cached_entry(version, table);
	if (entry == NULL)
		found = load_uncached(version, table, key, op);
	else
	{
		cached = cached_op(entry, key, false);
		found = entry->there && (cached != NULL || entry->truncate);
		if (cached != NULL)
			*op = cached->op;
		op->truncate = entry->truncate;
		op->version = version;
		op->seen = entry->seen;
	}
	coze_owner_leave(&owner);
	return found;
}

/*
 * Every key that an entry of the log does something to in a table, with what it
 * does; false: it is too large for that, or gone.  Valid until coze_ops_trim_cache().
 */
bool
coze_ops_each(CozeVersion version, CozeTable *table,
			  void (*callback) (void *arg, const Datum *key, const CozeOp *op), void *arg)
{
	CozeOwnerState owner;
	CachedEntry *entry;

	coze_owner_enter(table, &owner);
	entry = cached_entry(version, table);
	coze_owner_leave(&owner);
	if (entry == NULL)
		return false;
	for (int i = 0; i < entry->nops; i++)
		callback(arg, entry->ops[i].key, &entry->ops[i].op);
	return true;
}
