/*-------------------------------------------------------------------------
 *
 * relation.c
 *		Descriptors of captured relations, mapped to the tables here.
 *
 * A descriptor names its table by schema and name.  What is found under that
 * name is kept until the server invalidates it; a renamed table is looked up by
 * name again.  The key is whichever unique index here stands on the columns that
 * the descriptor calls the key, the primary key first.
 *
 * Invariant: nothing that a table's owner could have planted (domain checks,
 * index expressions, triggers) runs outside of coze_owner_enter() and
 * coze_owner_leave().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/nbtree.h"
#include "access/relation.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "nodes/bitmapset.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "apply/relation.h"
#include "apply/stop.h"
#include "debug.h"
#include "log/catalog.h"
#include "log/log.h"
#include "log/rules.h"

/* What of the extension's own travels through the log. */
static const char *const group_tables[] = {"member", "dropped_member", "link_mode", "synced_table",
"rule", "settlement", "spread_sequence", "ddl", "skipped_entry"};

static HTAB *maps = NULL;		/* uint64 hash -> CozeMap */
static HTAB *tables = NULL;		/* relid -> TableSlot */
static bool changed = false;	/* what the index was made with is not what is now */

typedef struct TableSlot
{
	Oid			relid;
	CozeTable  *table;
} TableSlot;

/* --- invalidation --- */

static void
relation_changed(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS seq;
	TableSlot  *slot;

	if (OidIsValid(relid))
	{
		slot = hash_search(tables, &relid, HASH_FIND, NULL);
		if (slot != NULL && slot->table != NULL)
			slot->table->valid = false;
		return;
	}
	hash_seq_init(&seq, tables);
	while ((slot = hash_seq_search(&seq)) != NULL)
	{
		if (slot->table != NULL)
			slot->table->valid = false;
	}
}

static void
namespace_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	relation_changed(arg, InvalidOid);
}

static void
init_caches(void)
{
	HASHCTL		ctl = {0};

	if (maps != NULL)
		return;
	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(TableSlot);
	ctl.hcxt = TopMemoryContext;
	tables = hash_create("cozesync tables", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ctl.keysize = sizeof(uint64);
	ctl.entrysize = sizeof(CozeMap);
	maps = hash_create("cozesync descriptors", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, namespace_changed, (Datum) 0);
}

/*
 * Has a table become another (or has one appeared) since this was asked last, so
 * that hashes of its keys are not what they were?
 */
bool
coze_map_take_changed(void)
{
	bool		result = changed;

	changed = false;
	return result;
}

/* --- keys --- */

/* The equality operator of an index column. */
static Oid
index_equality(Relation index, int column)
{
	Oid			type = index->rd_opcintype[column];
	Oid			op = get_opfamily_member(index->rd_opfamily[column], type, type,
										 BTEqualStrategyNumber);

	if (!OidIsValid(op))
		elog(ERROR, "no equality operator for column %d of index %u", column, RelationGetRelid(index));
	return op;
}

/* The functions that go with an equality operator. */
static void
equality_functions(Oid op, FmgrInfo *equal, FmgrInfo *hash, MemoryContext context)
{
	RegProcedure left,
				right;

	fmgr_info_cxt(get_opcode(op), equal, context);
	if (get_op_hash_functions(op, &left, &right))
		fmgr_info_cxt(left, hash, context);
	else
		memset(hash, 0, sizeof(*hash));
}

/* Is this a plain unique index on exactly these attributes of its table? */
static bool
index_is_on(Relation index, const Bitmapset *keys)
{
	Form_pg_index form = index->rd_index;
	Bitmapset  *columns = NULL;
	bool		result;

	if (!form->indisunique || !form->indisvalid ||
		(!form->indimmediate && COZE_RULE("immediate-key")) ||
		RelationGetIndexPredicate(index) != NIL || RelationGetIndexExpressions(index) != NIL)
		return false;
	for (int i = 0; i < form->indnkeyatts; i++)
		columns = bms_add_member(columns, form->indkey.values[i]);
	result = bms_equal(columns, keys);
	bms_free(columns);
	return result;
}

/*
 * The index that a row is found by: the primary key, else the replica identity,
 * else any.
 */
Oid
coze_find_key_index(Relation rel, const Bitmapset *keys)
{
	Oid			found = InvalidOid;
	int			best = 0;
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *lc;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);
		int			rank = index->rd_index->indisprimary ? 3 :
			index->rd_index->indisreplident ? 2 : 1;

		if (rank > best && index_is_on(index, keys))
		{
			found = lfirst_oid(lc);
			best = rank;
		}
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	return found;
}

static void
fill_key(CozeTable *table, Relation rel, Bitmapset *keys)
{
	Oid			oid = coze_find_key_index(rel, keys);
	Relation	index;
	int			n = bms_num_members(keys);
	int			attnum = -1;

	if (!OidIsValid(oid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s.%s\" has no unique index on the columns that changes name as its key",
						table->schema, table->name),
				 errhint("Create the key that the table has on the other nodes.")));
	table->nkeys = n;
	table->keys = palloc(n * sizeof(AttrNumber));
	table->equal = palloc(n * sizeof(FmgrInfo));
	table->hash = palloc(n * sizeof(FmgrInfo));
	table->compare = palloc(n * sizeof(FmgrInfo));
	table->collations = palloc(n * sizeof(Oid));
	table->operators = palloc(n * sizeof(Oid));
	index = index_open(oid, AccessShareLock);
	for (int i = 0; (attnum = bms_next_member(keys, attnum)) >= 0; i++)
	{
		int			column = 0;

		while (index->rd_index->indkey.values[column] != attnum)
			column++;
		table->keys[i] = (AttrNumber) attnum;
		table->operators[i] = index_equality(index, column);
		table->collations[i] = index->rd_indcollation[column];
		equality_functions(table->operators[i], &table->equal[i], &table->hash[i], table->context);
		fmgr_info_cxt(index_getprocid(index, column + 1, BTORDER_PROC), &table->compare[i],
					  table->context);
	}
	index_close(index, AccessShareLock);
}

/* --- second unique indexes --- */

/* In place of a generated column those that it is made of. */
static Bitmapset *
plain_columns(TupleDesc desc, Bitmapset *columns)
{
	Bitmapset  *plain = NULL;
	int			x = -1;

	while ((x = bms_next_member(columns, x)) >= 0)
	{
		int			attnum = x + FirstLowInvalidHeapAttributeNumber;
		TupleConstr *constr = desc->constr;

		if (attnum <= 0)
			continue;
		if (TupleDescAttr(desc, attnum - 1)->attgenerated == '\0')
		{
			plain = bms_add_member(plain, x);
			continue;
		}
		for (int i = 0; i < constr->num_defval; i++)
		{
			if (constr->defval[i].adnum == attnum)
				pull_varattnos(stringToNode(constr->defval[i].adbin), 1, &plain);
		}
	}
	return plain;
}

static void
fill_unique(CozeUnique *unique, Relation index, TupleDesc desc, MemoryContext context)
{
	Bitmapset  *columns = NULL;
	int			x = -1;

	unique->index = RelationGetRelid(index);
	unique->info = BuildIndexInfo(index);
	unique->nkeys = IndexRelationGetNumberOfKeyAttributes(index);
	unique->nulls_not_distinct = unique->info->ii_NullsNotDistinct;
	unique->hash = palloc(unique->nkeys * sizeof(FmgrInfo));
	unique->equal = palloc(unique->nkeys * sizeof(FmgrInfo));
	unique->collations = palloc(unique->nkeys * sizeof(Oid));
	unique->operators = palloc(unique->nkeys * sizeof(Oid));
	unique->byval = palloc(unique->nkeys * sizeof(bool));
	unique->len = palloc(unique->nkeys * sizeof(int16));
	for (int i = 0; i < unique->nkeys; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(index), i);

		if (index->rd_index->indkey.values[i] != 0)
			columns = bms_add_member(columns, index->rd_index->indkey.values[i] -
									 FirstLowInvalidHeapAttributeNumber);
		unique->byval[i] = att->attbyval;
		unique->len[i] = att->attlen;
		unique->collations[i] = index->rd_indcollation[i];
		unique->operators[i] = index_equality(index, i);
		equality_functions(unique->operators[i], &unique->equal[i], &unique->hash[i], context);
	}
	pull_varattnos((Node *) unique->info->ii_Expressions, 1, &columns);
	pull_varattnos((Node *) unique->info->ii_Predicate, 1, &columns);
	columns = plain_columns(desc, columns);
	unique->columns = palloc(Max(1, bms_num_members(columns)) * sizeof(int));
	while ((x = bms_next_member(columns, x)) >= 0)
		unique->columns[unique->ncolumns++] = x + FirstLowInvalidHeapAttributeNumber - 1;
}

static void
fill_uniques(CozeTable *table, Relation rel, const Bitmapset *keys)
{
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *lc;

	table->uniques = palloc0(Max(1, list_length(indexes)) * sizeof(CozeUnique));
	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		/* A unique index on the key's columns and more can never be violated alone. */
		if (index->rd_index->indisunique && index->rd_index->indisready)
		{
			Bitmapset  *columns = NULL;

			for (int i = 0; i < index->rd_index->indnkeyatts; i++)
				columns = bms_add_member(columns, index->rd_index->indkey.values[i]);
			if (!bms_is_subset(keys, columns))
				fill_unique(&table->uniques[table->nuniques++], index, table->desc, table->context);
			bms_free(columns);
		}
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
}

/* --- tables --- */

static bool
is_group_table(Oid relid)
{
	for (int i = 0; i < lengthof(group_tables); i++)
	{
		if (coze_relation_oid(group_tables[i], true) == relid)
			return true;
	}
	return false;
}

/* Is the table under sync, as of now and with this transaction's changes? */
static bool
is_synced(const char *schema, const char *name)
{
	Relation	rel = table_open(coze_relation_oid("synced_table", false), AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData keys[2];
	SysScanDesc scan;
	bool		found;

	ScanKeyEntryInitialize(&keys[0], 0, 1, BTEqualStrategyNumber, InvalidOid, DEFAULT_COLLATION_OID,
						   F_TEXTEQ, CStringGetTextDatum(schema));
	ScanKeyEntryInitialize(&keys[1], 0, 2, BTEqualStrategyNumber, InvalidOid, DEFAULT_COLLATION_OID,
						   F_TEXTEQ, CStringGetTextDatum(name));
	scan = systable_beginscan(rel, coze_relation_oid("synced_table_pkey", true), true, snapshot,
							  2, keys);
	found = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	return found;
}

static void
fill_codecs(CozeTable *table)
{
	table->codecs = palloc0(table->desc->natts * sizeof(CozeCodec *));
	for (int i = 0; i < table->desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(table->desc, i);

		if (!att->attisdropped && att->attgenerated == '\0')
			table->codecs[i] = coze_codec_make(att->atttypid, att->atttypmod);
	}
}

/* keys: attribute numbers of the key. */
static CozeTable *
make_table(Relation rel, Bitmapset *keys)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "cozesync table",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	CozeTable  *table = palloc0(sizeof(CozeTable));

	table->context = context;
	table->relid = RelationGetRelid(rel);
	table->partitioned = rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE;
	table->schema = get_namespace_name(RelationGetNamespace(rel));
	table->name = pstrdup(RelationGetRelationName(rel));
	table->owner = rel->rd_rel->relowner;
	table->desc = CreateTupleDescCopyConstr(RelationGetDescr(rel));
	table->group = is_group_table(table->relid);
	fill_codecs(table);
	fill_key(table, rel, keys);
	fill_uniques(table, rel, keys);
	table->folds = coze_rules_ever_fold(table->schema, table->name);
	table->valid = true;
	MemoryContextSwitchTo(old);
	return table;
}

static bool
same_keys(const CozeTable *table, const Bitmapset *keys)
{
	int			attnum = -1;

	for (int i = 0; i < table->nkeys; i++)
	{
		attnum = bms_next_member(keys, attnum);
		if (attnum != table->keys[i])
			return false;
	}
	return bms_next_member(keys, attnum) < 0;
}

/* Do both describe the same table in the same way? */
static bool
same_table(const CozeTable *a, const CozeTable *b)
{
	if (a->relid != b->relid || a->owner != b->owner || a->partitioned != b->partitioned ||
		strcmp(a->schema, b->schema) != 0 || strcmp(a->name, b->name) != 0 ||
		a->nkeys != b->nkeys || a->nuniques != b->nuniques ||
		!equalTupleDescs(a->desc, b->desc))
		return false;
	for (int i = 0; i < a->nkeys; i++)
		if (a->keys[i] != b->keys[i] || a->operators[i] != b->operators[i] ||
			a->collations[i] != b->collations[i])
			return false;
	/* what an index is on does not change as long as it is the same one */
	for (int i = 0; i < a->nuniques; i++)
		if (a->uniques[i].index != b->uniques[i].index)
			return false;
	return true;
}

/*
 * Rules have changed: does a table fold now that did not?  True if one does; the index
 * must be made anew, since it forgot what tables that do not fold need no more.
 */
bool
coze_tables_refresh_rules(void)
{
	HASH_SEQ_STATUS seq;
	TableSlot  *slot;
	List	   *plain = NIL;
	ListCell   *lc;
	bool		any = false;

	init_caches();
	hash_seq_init(&seq, tables);
	while ((slot = hash_seq_search(&seq)) != NULL)
	{
		if (slot->table != NULL && !slot->table->folds)
			plain = lappend(plain, slot->table);
	}
	foreach(lc, plain)
	{
		CozeTable  *table = lfirst(lc);

		table->folds = coze_rules_ever_fold(table->schema, table->name);
		any |= table->folds;
	}
	if (any)
		changed = true;
	return any;
}

/*
 * The table as it is now.  The server often says that a table has changed when it has not
 * (ANALYZE, TRUNCATE): then it stays the same CozeTable, since operations under way
 * are told apart by it.  One that did change is left where it is.
 */
CozeTable *
coze_table_get(Relation rel, Bitmapset *keys)
{
	Oid			relid = RelationGetRelid(rel);
	bool		found;
	TableSlot  *slot;
	CozeTable  *made;

	init_caches();
	slot = hash_search(tables, &relid, HASH_ENTER, &found);

	if (!found)
		slot->table = NULL;
	if (slot->table != NULL && slot->table->valid && same_keys(slot->table, keys))
		return slot->table;
	made = make_table(rel, keys);
	if (slot->table != NULL && COZE_RULE("table-stays") && same_table(slot->table, made))
	{
		changed |= made->folds && !slot->table->folds;
		slot->table->folds |= made->folds;
		MemoryContextDelete(made->context);
		slot->table->valid = true;
	}
	else
		slot->table = made;
	return slot->table;
}

/* Has nothing else taken the place of a table that was looked up before? */
bool
coze_table_is_current(const CozeTable *table)
{
	TableSlot  *slot = hash_search(tables, &table->relid, HASH_FIND, NULL);

	return slot != NULL && slot->table == table;
}

/* --- descriptors --- */

static CozeMap *
find_map(uint64 hash)
{
	init_caches();
	return hash_search(maps, &hash, HASH_FIND, NULL);
}

static CozeMap *
add_map(uint64 hash, const char *data, Size size)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	char	   *bytes = palloc(size);
	CozeDescriptor desc;
	const char *error;
	CozeMap    *map;

	memcpy(bytes, data, size);
	error = coze_wire_get_descriptor(bytes, size, &desc);
	MemoryContextSwitchTo(old);
	if (error != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("a relation descriptor is damaged: %s", error)));
	desc.hash = hash;
	map = hash_search(maps, &hash, HASH_ENTER, NULL);
	memset(map, 0, sizeof(*map));
	map->hash = hash;
	map->bytes = bytes;
	map->size = size;
	map->desc = desc;
	return map;
}

/* A descriptor that a peer has sent. */
void
coze_map_offer(const char *data, Size size)
{
	uint64		hash = coze_codec_descriptor_hash(data, size);

	if (find_map(hash) == NULL)
		add_map(hash, data, size);
}

/* By hash, from what peers sent or from cozesync.descriptor. */
CozeMap *
coze_map_get(uint64 hash)
{
	static CozeMap *last = NULL;
	CozeMap    *map;
	char	   *data;
	Size		size;

	if (last != NULL && last->hash == hash)
		return last;
	map = find_map(hash);
	if (map == NULL)
	{
		data = coze_log_get_descriptor(hash, &size);
		if (data == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("a change names a relation descriptor that is not known here"),
					 errdetail("Its hash is %llx.", (unsigned long long) hash)));
		map = add_map(hash, data, size);
		map->stored = true;
		pfree(data);
	}
	last = map;
	return map;
}

/* Before an entry that names it commits: it must be in the table, too. */
void
coze_map_store(CozeMap *map)
{
	if (map->stored)
		return;
	if (!coze_log_has_descriptor(map->hash))
		coze_log_put_descriptor(map->hash, map->bytes, map->size);
	map->stored = true;
}

/* After an abort nothing that was stored can be counted on. */
void
coze_map_forget_stored(void)
{
	HASH_SEQ_STATUS seq;
	CozeMap    *map;

	if (maps == NULL)
		return;
	hash_seq_init(&seq, maps);
	while ((map = hash_seq_search(&seq)) != NULL)
		map->stored = false;
}

static AttrNumber
attribute_by_name(TupleDesc desc, const char *name)
{
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && strcmp(NameStr(att->attname), name) == 0)
			return att->attnum;
	}
	return 0;
}

/* Was the column dropped by DDL that was executed everywhere? */
static bool
column_was_dropped(const CozeDescriptor *d, const char *column)
{
	const char *names[] = {d->schema, d->table, column};
	Relation	rel = table_open(coze_relation_oid("dropped_column", false), AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData keys[lengthof(names)];
	SysScanDesc scan;
	bool		found;

	for (int i = 0; i < lengthof(names); i++)
		ScanKeyEntryInitialize(&keys[i], 0, i + 1, BTEqualStrategyNumber, InvalidOid,
							   DEFAULT_COLLATION_OID, F_TEXTEQ, CStringGetTextDatum(names[i]));
	scan = systable_beginscan(rel, coze_relation_oid("dropped_column_pkey", true), true, snapshot,
							  lengthof(names), keys);
	found = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	return found;
}

/* Columns by name; the key's must be there. */
static Bitmapset *
match_columns(CozeMap *map, Relation rel)
{
	const CozeDescriptor *d = &map->desc;
	Bitmapset  *keys = NULL;

	if (map->context != NULL)
		MemoryContextDelete(map->context);
	map->context = AllocSetContextCreate(TopMemoryContext, "cozesync descriptor",
										 ALLOCSET_SMALL_SIZES);
	map->attnums = MemoryContextAlloc(map->context, d->ncolumns * sizeof(AttrNumber));
	map->dropped = MemoryContextAlloc(map->context, d->ncolumns * sizeof(bool));
	map->keys = MemoryContextAlloc(map->context, d->nkeys * sizeof(int));
	for (int i = 0; i < d->ncolumns; i++)
	{
		map->attnums[i] = attribute_by_name(RelationGetDescr(rel), d->columns[i].name);
		map->dropped[i] = map->attnums[i] == 0 && column_was_dropped(d, d->columns[i].name);
		if (i >= d->nkeys)
			continue;
		if (map->attnums[i] == 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("table \"%s.%s\" has no column \"%s\", which is part of its key elsewhere",
							d->schema, d->table, d->columns[i].name)));
		keys = bms_add_member(keys, map->attnums[i]);
	}
	return keys;
}

static void
match_keys(CozeMap *map)
{
	for (int i = 0; i < map->table->nkeys; i++)
	{
		int			j = 0;

		while (map->attnums[j] != map->table->keys[i])
			j++;
		map->keys[i] = j;
	}
}

static uint64
mix(uint64 seed, uint32 value)
{
	return hash_combine64(seed, hash_uint32_extended(value, 0));
}

/* All that hashes of keys and unique values depend on. */
static uint64
signature_of(const CozeTable *table)
{
	uint64		s = mix(0, table->relid);

	for (int i = 0; i < table->nkeys; i++)
		s = mix(mix(mix(s, table->keys[i]), table->operators[i]), table->collations[i]);
	for (int i = 0; i < table->nuniques; i++)
		s = mix(s, table->uniques[i].index);
	return s;
}

static void
note_change(CozeMap *map)
{
	uint64		signature = signature_of(map->table);

	if (map->skipped || (map->signature != 0 && map->signature != signature))
		changed = true;
	map->skipped = false;
	map->signature = signature;
}

static bool
has_local_table_kind(Relation rel)
{
	return rel->rd_rel->relkind == RELKIND_RELATION ||
		rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE;
}

/*
 * Make map->table valid.  False: the table is not under sync (any more).  A
 * table under sync that does not exist here is an error, or false if missing_ok.
 */
bool
coze_map_resolve(CozeMap *map, bool missing_ok)
{
	const CozeDescriptor *d = &map->desc;
	Oid			namespace;
	Oid			relid;
	Relation	rel;
	Bitmapset  *keys;

	if (map->table != NULL && map->table->valid)
		return true;
	map->table = NULL;
	namespace = get_namespace_oid(d->schema, true);
	relid = OidIsValid(namespace) ? get_relname_relid(d->table, namespace) : InvalidOid;
	rel = OidIsValid(relid) ? try_relation_open(relid, AccessShareLock) : NULL;
	if (rel == NULL || !has_local_table_kind(rel))
	{
		if (rel != NULL)
			relation_close(rel, AccessShareLock);
		if (missing_ok || !is_synced(d->schema, d->table))
			return false;
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table \"%s.%s\" is under sync but does not exist here", d->schema, d->table),
				 errhint("Create the table as it is on the other nodes.")));
	}
	if (!is_group_table(relid) && !is_synced(d->schema, d->table))
	{
		relation_close(rel, AccessShareLock);
		return false;
	}
	keys = match_columns(map, rel);
	map->table = coze_table_get(rel, keys);
	bms_free(keys);
	match_keys(map);
	note_change(map);
	relation_close(rel, AccessShareLock);
	return true;
}

/* Every table under sync here of which a descriptor is known. */
List *
coze_tables_known(void)
{
	HASH_SEQ_STATUS seq;
	CozeMap    *map;
	List	   *all = NIL;
	List	   *found = NIL;
	ListCell   *lc;

	init_caches();
	hash_seq_init(&seq, maps);
	while ((map = hash_seq_search(&seq)) != NULL)
		all = lappend(all, map);
	foreach(lc, all)
	{
		map = lfirst(lc);
		if (coze_map_resolve(map, true))
			found = list_append_unique_ptr(found, map->table);
	}
	return found;
}

/* --- values --- */

CozeRow *
coze_row_alloc(const CozeTable *table)
{
	CozeRow    *row = palloc(sizeof(CozeRow));
	int			n = table->desc->natts;

	row->values = palloc0(n * sizeof(Datum));
	row->isnull = palloc(n * sizeof(bool));
	memset(row->isnull, true, n * sizeof(bool));
	row->known = palloc0(n * sizeof(bool));
	return row;
}

/* In one piece of memory. */
CozeRow *
coze_row_clone(const CozeTable *table, const CozeRow *row)
{
	int			n = table->desc->natts;
	Size		values_at = MAXALIGN(sizeof(CozeRow));
	Size		size = values_at + n * sizeof(Datum) + MAXALIGN(2 * n * sizeof(bool));
	CozeRow    *copy;
	char	   *to;

	for (int i = 0; i < n; i++)
	{
		Form_pg_attribute att = TupleDescAttr(table->desc, i);

		if (!row->isnull[i] && !att->attbyval)
			size += MAXALIGN(datumGetSize(row->values[i], false, att->attlen));
	}
	copy = palloc(size);
	copy->values = (Datum *) ((char *) copy + values_at);
	copy->isnull = (bool *) (copy->values + n);
	copy->known = copy->isnull + n;
	memcpy(copy->values, row->values, n * sizeof(Datum));
	memcpy(copy->isnull, row->isnull, n * sizeof(bool));
	memcpy(copy->known, row->known, n * sizeof(bool));
	to = (char *) copy + values_at + n * sizeof(Datum) + MAXALIGN(2 * n * sizeof(bool));
	for (int i = 0; i < n; i++)
	{
		Form_pg_attribute att = TupleDescAttr(table->desc, i);
		Size		bytes;

		if (row->isnull[i] || att->attbyval)
			continue;
		bytes = datumGetSize(row->values[i], false, att->attlen);
		memcpy(to, DatumGetPointer(row->values[i]), bytes);
		copy->values[i] = PointerGetDatum(to);
		to += MAXALIGN(bytes);
	}
	return copy;
}

static void
image_misfit(const CozeMap *map)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("a change does not fit the descriptor of relation \"%s.%s\"",
					map->desc.schema, map->desc.table)));
}

/* Value of descriptor column c, as the column here has it. */
static Datum
get_value(const CozeMap *map, int c, const CozeValue *value, bool *isnull)
{
	CozeCodec  *codec = map->table->codecs[map->attnums[c] - 1];
	bool		binary = (map->desc.columns[c].flags & COZE_COLUMN_BINARY) != 0;
	Datum		datum;

	coze_applying.column = map->desc.columns[c].name;
	datum = coze_codec_get(codec, binary, value, isnull);
	coze_applying.column = NULL;
	return datum;
}

/* In the order of the table's keys. */
void
coze_map_key(const CozeMap *map, const CozeImage *image, Datum *key)
{
	if (image->n != map->desc.nkeys)
		image_misfit(map);
	for (int i = 0; i < map->table->nkeys; i++)
	{
		int			c = map->keys[i];
		bool		isnull;

		key[i] = get_value(map, c, &image->values[c], &isnull);
		if (isnull)
			image_misfit(map);
	}
}

static void
put_value(const CozeMap *map, int c, const CozeValue *value, CozeRow *row)
{
	AttrNumber	attnum = map->attnums[c];

	if (attnum == 0)
	{
		if (value->size < 0 || map->dropped[c])
			return;
		coze_applying.column = map->desc.columns[c].name;
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("table \"%s.%s\" has no column \"%s\", of which a value came",
						map->desc.schema, map->desc.table, map->desc.columns[c].name),
				 errhint("Add the column as it is on the other nodes.")));
	}
	if (map->table->codecs[attnum - 1] == NULL)
		return;					/* generated: computed here */
	row->values[attnum - 1] = get_value(map, c, value, &row->isnull[attnum - 1]);
	row->known[attnum - 1] = true;
}

/* A full row: key columns and all others. */
void
coze_map_row(const CozeMap *map, const CozeImage *key, const CozeImage *image, CozeRow *row)
{
	const CozeDescriptor *d = &map->desc;

	if (key->n != d->nkeys || image->n != d->ncolumns - d->nkeys)
		image_misfit(map);
	for (int c = 0; c < d->ncolumns; c++)
		put_value(map, c, c < d->nkeys ? &key->values[c] : &image->values[c - d->nkeys], row);
}

/* Old values of unique columns that changed, over what row holds. */
void
coze_map_old_unique(const CozeMap *map, const CozeChange *change, CozeRow *row)
{
	for (int i = 0; i < change->nold_unique; i++)
	{
		int			c = change->old_unique_columns[i];

		if (c >= map->desc.ncolumns)
			image_misfit(map);
		if (map->attnums[c] != 0)
			put_value(map, c, &change->old_unique[i], row);
	}
}

/* What a test sees that takes the rule of equal keys out: keys as bytes. */
static uint32
hash_bytes_of(const CozeTable *table, int i, Datum key)
{
	Form_pg_attribute att = TupleDescAttr(table->desc, table->keys[i] - 1);

	return datum_image_hash(key, att->attbyval, att->attlen);
}

uint32
coze_key_hash(const CozeTable *table, const Datum *key)
{
	uint32		hash = table->relid;

	for (int i = 0; i < table->nkeys; i++)
	{
		uint32		h = 0;

		if (!COZE_RULE("key-equality"))
			h = hash_bytes_of(table, i, key[i]);
		else if (OidIsValid(table->hash[i].fn_oid))
			h = DatumGetUInt32(FunctionCall1Coll(&table->hash[i], table->collations[i], key[i]));
		hash = hash_combine(hash, h);
	}
	return hash;
}

bool
coze_key_equal(const CozeTable *table, const Datum *a, const Datum *b)
{
	for (int i = 0; i < table->nkeys; i++)
	{
		if (!DatumGetBool(FunctionCall2Coll(&table->equal[i], table->collations[i], a[i], b[i])))
			return false;
	}
	return true;
}

Datum *
coze_key_copy(const CozeTable *table, const Datum *key)
{
	Datum	   *copy = palloc(table->nkeys * sizeof(Datum));

	for (int i = 0; i < table->nkeys; i++)
	{
		Form_pg_attribute att = TupleDescAttr(table->desc, table->keys[i] - 1);

		copy[i] = datumCopy(key[i], att->attbyval, att->attlen);
	}
	return copy;
}

void
coze_key_of_row(const CozeTable *table, const CozeRow *row, Datum *key)
{
	for (int i = 0; i < table->nkeys; i++)
		key[i] = row->values[table->keys[i] - 1];
}

/* --- whose rights --- */

void
coze_owner_enter(const CozeTable *table, CozeOwnerState *state)
{
	GetUserIdAndSecContext(&state->user, &state->context);
	SetUserIdAndSecContext(table->owner, state->context | SECURITY_RESTRICTED_OPERATION);
	state->guc_level = NewGUCNestLevel();
}

void
coze_owner_leave(const CozeOwnerState *state)
{
	AtEOXact_GUC(false, state->guc_level);
	SetUserIdAndSecContext(state->user, state->context);
}
