/*-------------------------------------------------------------------------
 *
 * oplog.c
 *		Operations of entries of the log.
 *
 * Small entries are read as a whole and kept for a while, as conflicts come in
 * clusters on the same few rows.  Of a large one only the head is kept: the index
 * knows where each change is that bears on a key, and these are read one by one.  So
 * what a conflict costs does not depend on the size of the entries that are in it.
 *
 * Who wants many of them has a loader, by which the log stays open from one to the
 * next.  It holds a snapshot and locks segments: nobody waits for anything with one.
 *
 * Invariant: what is kept is in the log.  When a transaction is undone, what it
 * had applied must be forgotten here, since it will get other chunks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/ilist.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "apply/body.h"
#include "apply/index.h"
#include "apply/ops.h"

/* An operation with its key. */
typedef struct KnownOp
{
	Datum	   *key;
	uint32		hash;
	CozeOp		op;
} KnownOp;

/* What an entry does to a table. */
typedef struct KnownEntry
{
	struct KnownKey
	{
		CozeHlc		hlc;
		CozeOrigin	origin;
		CozeTable  *table;
	}			key;
	MemoryContext context;
	bool		there;			/* it is in the log */
	bool		large;			/* its operations are not kept */
	int64		chunks;
	bool		truncate;
	CozeVector	seen;
	int			nops;
	int			cap;
	KnownOp    *ops;
	Size		memory;
	dlist_node	lru;
} KnownEntry;

/* Entries beyond one of these are large. */
#define KNOWN_CHANGES_MAX 1000
#define KNOWN_BODY_MAX (256 * 1024)
#define KNOWN_BYTES_MAX (16 * 1024 * 1024)

static MemoryContext known_context = NULL;
static MemoryContext reading_context = NULL;	/* for one entry */
static HTAB *known = NULL;
static Size known_memory = 0;
static dlist_head known_lru = DLIST_STATIC_INIT(known_lru); /* the longest unused last */

/* --- keeping --- */

static void
evict(KnownEntry *entry)
{
	struct KnownKey key = entry->key;

	dlist_delete(&entry->lru);
	known_memory -= entry->memory;
	MemoryContextDelete(entry->context);
	hash_search(known, &key, HASH_REMOVE, NULL);
}

static void
trim_to(Size bytes)
{
	while (known_memory > bytes && !dlist_is_empty(&known_lru))
		evict(dlist_tail_element(KnownEntry, lru, &known_lru));
}

/* Make room; whatever coze_op_load() has given out before may be gone. */
void
coze_ops_trim_cache(void)
{
	trim_to(KNOWN_BYTES_MAX);
}

/* A transaction was undone. */
void
coze_ops_forget_cache(void)
{
	trim_to(0);
}

static void
init_known(void)
{
	HASHCTL		ctl = {0};

	known_context = AllocSetContextCreate(TopMemoryContext, "cozesync operations read",
										  ALLOCSET_DEFAULT_SIZES);
	reading_context = AllocSetContextCreate(TopMemoryContext, "cozesync operations being read",
											ALLOCSET_DEFAULT_SIZES);
	ctl.keysize = sizeof(struct KnownKey);
	ctl.entrysize = sizeof(KnownEntry);
	ctl.hcxt = known_context;
	known = hash_create("cozesync operations read", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* --- small entries --- */

static KnownOp *
known_op(KnownEntry *entry, const Datum *key, bool make)
{
	CozeTable  *table = entry->key.table;
	uint32		hash = coze_key_hash(table, key);
	KnownOp    *op;

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
		entry->ops = entry->ops == NULL ? palloc(entry->cap * sizeof(KnownOp)) :
			repalloc(entry->ops, entry->cap * sizeof(KnownOp));
	}
	op = &entry->ops[entry->nops++];
	memset(op, 0, sizeof(*op));
	op->key = coze_key_copy(table, key);
	op->hash = hash;
	return op;
}

static void
take_for_key(KnownEntry *entry, const CozeMap *map, const CozeImage *image, const CozeChange *change)
{
	Datum		key[INDEX_MAX_KEYS];
	KnownOp    *op;

	coze_map_key(map, image, key);
	op = known_op(entry, key, true);
	coze_op_take(&op->op, map, op->key, change);
}

static void
take_change(void *arg, const CozeChange *change)
{
	KnownEntry *entry = arg;
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
		take_for_key(entry, map, &change->old_key, change);
	take_for_key(entry, map, &change->key, change);
}

/* The result is in CurrentMemoryContext, which is full of other things. */
static void
read_known(CozeOpLoader *loader, KnownEntry *entry)
{
	CozeVersion version = {entry->key.hlc, entry->key.origin};
	CozeEntryHead head;

	entry->there = coze_find_head(loader->finder, version, &head, &entry->chunks);
	if (!entry->there)
		return;
	entry->seen = head.seen;
	entry->large = head.nchanges > KNOWN_CHANGES_MAX || head.body_size > KNOWN_BODY_MAX;
	if (!entry->large)
		coze_read_changes(&head, entry->chunks, loader->snapshot, take_change, entry);
}

static CozeRow *
copy_row(const CozeTable *table, const CozeRow *row)
{
	return row == NULL ? NULL : coze_row_clone(table, row);
}

/* Into memory of its own, without what was needed to read it. */
static void
keep_known(KnownEntry *entry)
{
	CozeTable  *table = entry->key.table;
	CozeVector	seen = entry->seen;
	KnownOp    *ops = entry->ops;

	entry->context = AllocSetContextCreate(known_context, "cozesync entry read", ALLOCSET_SMALL_SIZES);
	MemoryContextSwitchTo(entry->context);
	memset(&entry->seen, 0, sizeof(entry->seen));
	coze_vector_copy(&entry->seen, &seen);
	entry->cap = entry->nops;
	entry->ops = palloc(Max(1, entry->nops) * sizeof(KnownOp));
	for (int i = 0; i < entry->nops; i++)
	{
		entry->ops[i] = ops[i];
		entry->ops[i].key = coze_key_copy(table, ops[i].key);
		entry->ops[i].op.old = copy_row(table, ops[i].op.old);
		entry->ops[i].op.new = copy_row(table, ops[i].op.new);
	}
	entry->memory = MemoryContextMemAllocated(entry->context, true);
}

/* With the owner's rights. */
static KnownEntry *
known_entry(CozeOpLoader *loader, CozeVersion version)
{
	struct KnownKey key = {version.hlc, version.origin, loader->table};
	KnownEntry	made = {.key = key};
	KnownEntry *entry;
	MemoryContext old;

	if (known == NULL)
		init_known();
	entry = hash_search(known, &key, HASH_FIND, NULL);
	if (entry != NULL)
	{
		dlist_move_head(&known_lru, &entry->lru);
		return entry;
	}
	if (loader->finder == NULL)
	{
		loader->snapshot = RegisterSnapshot(GetLatestSnapshot());
		loader->finder = coze_log_find_begin(loader->snapshot);
	}
	MemoryContextReset(reading_context);
	old = MemoryContextSwitchTo(reading_context);
	read_known(loader, &made);
	keep_known(&made);
	MemoryContextSwitchTo(old);
	known_memory += made.memory;
	entry = hash_search(known, &key, HASH_ENTER, NULL);
	*entry = made;
	dlist_push_head(&known_lru, &entry->lru);
	return entry;
}

/* --- large entries --- */

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

static int
compare_places(const void *a, const void *b)
{
	const CozePlace *pa = a;
	const CozePlace *pb = b;

	if (pa->seq != pb->seq)
		return pa->seq < pb->seq ? -1 : 1;
	return (int) pa->offset - (int) pb->offset;
}

typedef struct Places
{
	int			n;
	int			cap;
	CozePlace  *places;
	bool		known;			/* all of them? */
} Places;

static void
add_places(Places *p, CozeVersion version, Oid relid, uint8 slot, uint32 hash)
{
	for (CozeIndexOp *op = coze_index_first(relid, slot, hash); op != NULL; op = coze_index_next(op))
	{
		if (!coze_version_equal(coze_index_version(op), version))
			continue;
		if (p->n == p->cap)
		{
			p->cap = Max(8, 2 * p->cap);
			p->places = p->places == NULL ? palloc(p->cap * sizeof(CozePlace)) :
				repalloc(p->places, p->cap * sizeof(CozePlace));
		}
		p->places[p->n] = coze_index_place(op);
		p->known &= p->places[p->n++].context != COZE_CONTEXT_UNKNOWN;
	}
}

/* Where the changes of an entry are that may bear on a key, in order. */
static Places
places_of(CozeVersion version, CozeTable *table, const Datum *key)
{
	Places		p = {.known = true};
	int			n = 0;

	add_places(&p, version, table->relid, COZE_SLOT_KEY, coze_key_hash(table, key));
	if (coze_index_has_truncates())
		add_places(&p, version, table->relid, COZE_SLOT_TRUNCATE, 0);
	if (p.n == 0 || !p.known)
		return p;
	qsort(p.places, p.n, sizeof(CozePlace), compare_places);
	for (int i = 0; i < p.n; i++)
	{
		if (i == 0 || compare_places(&p.places[i], &p.places[i - 1]) != 0)
			p.places[n++] = p.places[i];
	}
	p.n = n;
	return p;
}

static void
load_large(const KnownEntry *entry, CozeVersion version, const Datum *key, CozeOp *op)
{
	LoadArg		load = {entry->key.table, key, op};
	Places		p = places_of(version, load.table, key);
	CozeEntryHead head;

	for (int i = 0; i < p.n && p.known; i++)
		coze_read_change_at(entry->chunks, &p.places[i], load_change, &load);
	if (!p.known)
		coze_read_entry(version, &head, UINT32_MAX, load_change, &load);
}

/* --- for all --- */

/* What it opens is in CurrentMemoryContext. */
void
coze_ops_load_begin(CozeOpLoader *loader, CozeTable *table)
{
	loader->table = table;
	loader->snapshot = NULL;
	loader->finder = NULL;
}

void
coze_ops_load_end(CozeOpLoader *loader)
{
	if (loader->finder == NULL)
		return;
	coze_log_find_end(loader->finder);
	UnregisterSnapshot(loader->snapshot);
	loader->finder = NULL;
}

/*
 * The operation of an entry of the log on a key; false: it has none.  Points into
 * a cache, or is in CurrentMemoryContext: valid until coze_ops_trim_cache().
 */
bool
coze_op_load(CozeOpLoader *loader, CozeVersion version, const Datum *key, CozeOp *op)
{
	CozeOwnerState owner;
	KnownEntry *entry;

	memset(op, 0, sizeof(*op));
	coze_owner_enter(loader->table, &owner);
	entry = known_entry(loader, version);
	if (entry->there && entry->large)
		load_large(entry, version, key, op);
	else if (entry->there)
	{
		KnownOp    *found = known_op(entry, key, false);

		if (found != NULL)
			*op = found->op;
		op->truncate = entry->truncate;
	}
	op->version = version;
	op->seen = entry->seen;
	coze_owner_leave(&owner);
	return op->found || op->truncate;
}

/*
 * Every key that an entry of the log does something to in the table, with what it
 * does; false: it is too large for that, or gone.  Valid until coze_ops_trim_cache().
 */
bool
coze_ops_each(CozeOpLoader *loader, CozeVersion version,
			  void (*callback) (void *arg, const Datum *key, const CozeOp *op), void *arg)
{
	CozeOwnerState owner;
	KnownEntry *entry;

	coze_owner_enter(loader->table, &owner);
	entry = known_entry(loader, version);
	coze_owner_leave(&owner);
	if (entry->large)
		return false;
	for (int i = 0; i < entry->nops; i++)
		callback(arg, entry->ops[i].key, &entry->ops[i].op);
	return true;
}
