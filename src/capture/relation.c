/*-------------------------------------------------------------------------
 *
 * relation.c
 *		Plans: how to capture changes of a table.
 *
 * One per table in this process, made at the first change and thrown away
 * when the server says that a definition has changed: the table's or its
 * root's, or any type or schema, whose names are in descriptors.
 *
 * Invariant: a plan is never freed while a change is being captured, though
 * looking at catalogs can throw it away at any time.  What is replaced lives
 * on until the transaction ends.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_trigger.h"
#include "nodes/nodes.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "capture/buffer.h"
#include "capture/relation.h"
#include "compat.h"
#include "log/catalog.h"
#include "log/log.h"
#include "log/rules.h"
#include "log/state.h"

typedef struct CozePlanEntry
{
	Oid			relid;			/* hash key */
	Oid			root;
	bool		valid;			/* there is a plan */
	bool		outdated;		/* and it, or the one being made, is not to be used again */
	MemoryContext context;		/* of plan; NULL: there is none */
	CozePlan   *plan;
	CozeTableHistory history;
} CozePlanEntry;

/* A descriptor that this process has stored or found stored. */
typedef struct CozeKnownDescriptor
{
	uint64		hash;			/* hash key */
	bool		committed;		/* else: perhaps by a transaction that is not to last */
} CozeKnownDescriptor;

static HTAB *plans = NULL;
static HTAB *known_descriptors = NULL;
static Oid	descriptor_table = InvalidOid;	/* where they were seen */
static CozePlanEntry *last_entry = NULL;	/* used last; entries do not move */
static long sweep_at = 256;		/* look for entries of dropped tables at so many */

/* --- invalidation ---------------------------------------------------------------- */

/* Nothing here may look at a catalog or fail. */
static void
invalidate(Oid relid)
{
	HASH_SEQ_STATUS scan;
	CozePlanEntry *entry;

	hash_seq_init(&scan, plans);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (relid == InvalidOid || entry->relid == relid || entry->root == relid)
			entry->outdated = true;
	}

	/* The table of descriptors may have been replaced by an empty one. */
	if (relid == InvalidOid || relid == descriptor_table)
	{
		CozeKnownDescriptor *known;

		descriptor_table = InvalidOid;
		hash_seq_init(&scan, known_descriptors);
		while ((known = hash_seq_search(&scan)) != NULL)
			known->committed = false;
		hash_seq_init(&scan, plans);
		while ((entry = hash_seq_search(&scan)) != NULL)
			if (entry->plan != NULL)
				entry->plan->descriptor_known = false;
	}
}

static void
on_relation_change(Datum arg, Oid relid)
{
	invalidate(relid);
}

static void
on_schema_change(Datum arg, int cacheid, uint32 hashvalue)
{
	invalidate(InvalidOid);
}

/* hashvalue: of the type; 0: of any. */
static void
on_type_change(Datum arg, int cacheid, uint32 hashvalue)
{
	HASH_SEQ_STATUS scan;
	CozePlanEntry *entry;

	hash_seq_init(&scan, plans);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		/* A plan that is being made has not noted its types yet. */
		if (hashvalue == 0 || !entry->valid)
			entry->outdated = true;
		for (int i = 0; !entry->outdated && i < entry->plan->ncolumns; i++)
			if (entry->plan->columns[i].type_hash == hashvalue)
				entry->outdated = true;
	}
}

static void
make_caches(void)
{
	HASHCTL		ctl = {0};

	ctl.keysize = sizeof(uint64);
	ctl.entrysize = sizeof(CozeKnownDescriptor);
	ctl.hcxt = TopMemoryContext;
	known_descriptors = hash_create("cozesync known descriptors", 64, &ctl,
									HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(CozePlanEntry);
	plans = hash_create("cozesync capture plans", 64, &ctl,
						HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CacheRegisterRelcacheCallback(on_relation_change, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, on_type_change, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, on_schema_change, (Datum) 0);
}

/* --- making a plan --------------------------------------------------------------- */

/*
 * The table that stands for this one: where the trigger was made of which this
 * one is a clone.
 */
static Oid
find_root(Oid relid, Oid trigger)
{
	Relation	pg_trigger = table_open(TriggerRelationId, AccessShareLock);
	Oid			root = relid;

	while (OidIsValid(trigger))
	{
		ScanKeyData key;
		SysScanDesc scan;
		HeapTuple	tuple;

		ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ,
					ObjectIdGetDatum(trigger));
		scan = systable_beginscan(pg_trigger, TriggerOidIndexId, true, NULL, 1, &key);
		tuple = systable_getnext(scan);
		trigger = InvalidOid;
		if (HeapTupleIsValid(tuple))
		{
			Form_pg_trigger form = (Form_pg_trigger) GETSTRUCT(tuple);

			root = form->tgrelid;
			trigger = form->tgparentid;
		}
		systable_endscan(scan);
	}
	table_close(pg_trigger, AccessShareLock);
	return root;
}

/* ERROR for a table that got a trigger and lost what made it fit for one. */
static Oid
check_table(Relation rel)
{
	Oid			key_index = coze_capture_key_index(rel);

	if (rel->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot capture changes of table \"%s\"", RelationGetRelationName(rel)),
				 errdetail("The table is temporary or unlogged."),
				 errhint("Take it out of sync with cozesync.remove_table(), or make it LOGGED.")));
	if (!OidIsValid(key_index))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot capture changes of table \"%s\"", RelationGetRelationName(rel)),
				 errdetail("The table has no key."),
				 errhint("Add a primary key, or take the table out of sync with cozesync.remove_table().")));
	return key_index;
}

/* The index of a partition that belongs to an index of its root. */
static Oid
local_key_index(Relation rel, Oid root, Oid key_index)
{
	List	   *indexes;
	ListCell   *lc;
	Oid			found = InvalidOid;

	if (RelationGetRelid(rel) == root)
		return key_index;
	indexes = RelationGetIndexList(rel);
	foreach(lc, indexes)
	{
		Oid			index = lfirst_oid(lc);
		List	   *ancestors;

		if (!get_rel_relispartition(index))
			continue;
		ancestors = get_partition_ancestors(index);
		if (list_member_oid(ancestors, key_index))
			found = index;
		list_free(ancestors);
	}
	list_free(indexes);
	return found;
}

/* The number of a column of the root in the table at hand. */
static int
local_column(Relation rel, Relation root, AttrNumber attnum)
{
	const char *name = NameStr(TupleDescAttr(RelationGetDescr(root), attnum - 1)->attname);
	TupleDesc	desc = RelationGetDescr(rel);

	if (rel == root)
		return attnum - 1;
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && strcmp(NameStr(att->attname), name) == 0)
			return i;
	}
	elog(ERROR, "partition \"%s\" has no column \"%s\"", RelationGetRelationName(rel), name);
}

/*
 * The columns that unique indexes besides the key's read.  Of a generated column
 * it is not looked up what it was made of: then it is all columns.
 */
static Bitmapset *
unique_columns(Relation rel, Oid key_index)
{
	TupleDesc	desc = RelationGetDescr(rel);
	Bitmapset  *columns = NULL;
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *lc;
	int			x = -1;

	foreach(lc, indexes)
	{
		Relation	index;

		if (lfirst_oid(lc) == key_index)
			continue;
		index = index_open(lfirst_oid(lc), AccessShareLock);
		if (index->rd_index->indisunique)
		{
			for (int i = 0; i < index->rd_index->indnkeyatts; i++)
				if (index->rd_index->indkey.values[i] != 0)
					columns = bms_add_member(columns, index->rd_index->indkey.values[i] -
											 FirstLowInvalidHeapAttributeNumber);
			pull_varattnos((Node *) RelationGetIndexExpressions(index), 1, &columns);
			pull_varattnos((Node *) RelationGetIndexPredicate(index), 1, &columns);
		}
		index_close(index, AccessShareLock);
	}
	list_free(indexes);

	while ((x = bms_next_member(columns, x)) >= 0)
	{
		int			attnum = x + FirstLowInvalidHeapAttributeNumber;

		/* 0: the whole row */
		if (attnum == 0 ||
			(attnum > 0 && TupleDescAttr(desc, attnum - 1)->attgenerated != '\0'))
			return bms_add_range(columns, 1 - FirstLowInvalidHeapAttributeNumber,
								 desc->natts - FirstLowInvalidHeapAttributeNumber);
	}
	return columns;
}

/* How keys are compared: as the key's index does. */
static void
fill_key_equality(CozePlan *plan, Oid key_index)
{
	Relation	index = index_open(key_index, AccessShareLock);

	plan->key_equal = palloc0(sizeof(FmgrInfo) * plan->nkeys);
	plan->key_collations = palloc0(sizeof(Oid) * plan->nkeys);
	for (int i = 0; i < plan->nkeys; i++)
	{
		Oid			type = index->rd_opcintype[i];
		Oid			operator = get_opfamily_member(index->rd_opfamily[i], type, type,
												   BTEqualStrategyNumber);

		if (!OidIsValid(operator))
			elog(ERROR, "missing equality operator in opfamily %u", index->rd_opfamily[i]);
		fmgr_info(get_opcode(operator), &plan->key_equal[i]);
		plan->key_collations[i] = index->rd_indcollation[i];
	}
	index_close(index, AccessShareLock);
}

/* In CurrentMemoryContext, where all that the plan holds comes to lie. */
static CozePlan *
make_plan(Relation rel, Oid root_oid)
{
	bool		is_root = root_oid == RelationGetRelid(rel);
	Relation	root = is_root ? rel : table_open(root_oid, AccessShareLock);
	Oid			key_index = check_table(root);
	CozePlan   *plan = palloc0(sizeof(CozePlan));
	Bitmapset  *unique = unique_columns(root, key_index);
	CozeRelationDescriptor d;

	coze_relation_descriptor(root, key_index, &d);
	plan->relid = RelationGetRelid(rel);
	plan->root = root_oid;
	plan->descriptor_hash = d.descriptor.hash;
	plan->descriptor = d.encoded.data;
	plan->descriptor_size = d.encoded.size;
	plan->nkeys = d.descriptor.nkeys;
	plan->ncolumns = d.descriptor.ncolumns;
	plan->columns = palloc0(sizeof(CozePlanColumn) * plan->ncolumns);
	for (int i = 0; i < plan->ncolumns; i++)
	{
		CozePlanColumn *column = &plan->columns[i];
		Form_pg_attribute att;

		column->attindex = local_column(rel, root, d.attnums[i]);
		att = TupleDescAttr(RelationGetDescr(rel), column->attindex);
		column->codec = d.codecs[i];
		column->type_hash = GetSysCacheHashValue1(TYPEOID, ObjectIdGetDatum(att->atttypid));
		column->byval = att->attbyval;
		column->typlen = att->attlen;
		column->unique = bms_is_member(d.attnums[i] - FirstLowInvalidHeapAttributeNumber, unique);
		plan->has_unique |= column->unique;
		if (i < plan->nkeys)
			plan->key_natts = Max(plan->key_natts, column->attindex + 1);
	}
	fill_key_equality(plan, key_index);
	plan->key_index = local_key_index(rel, root_oid, key_index);
	if (!is_root)
		table_close(root, AccessShareLock);
	return plan;
}

/* What this process knows to be in force for a table; partitions go by their root. */
typedef struct PolicyInForce
{
	Oid			root;			/* hash key */
	uint64		generation;		/* of the group's facts when it was read; 0: never */
	uint64		transaction;	/* that captures under it */
	CozeVersion version;
	bool		folds;
} PolicyInForce;

static PolicyInForce *
policy_of_root(Oid root)
{
	static HTAB *policies = NULL;
	PolicyInForce *policy;
	bool		found;

	if (policies == NULL)
	{
		HASHCTL		ctl = {0};

		ctl.keysize = sizeof(Oid);
		ctl.entrysize = sizeof(PolicyInForce);
		ctl.hcxt = TopMemoryContext;
		policies = hash_create("cozesync policies", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	policy = hash_search(policies, &root, HASH_ENTER, &found);
	if (!found)
		memset((char *) policy + sizeof(Oid), 0, sizeof(*policy) - sizeof(Oid));
	return policy;
}

/* The plan is not used any more, but perhaps by somebody further up. */
static void
discard_plan(CozePlanEntry *entry)
{
	if (entry->context != NULL)
		MemoryContextSetParent(entry->context, TopTransactionContext);
	entry->context = NULL;
	entry->plan = NULL;
	entry->valid = false;
}

/*
 * Tables come and go.  What is outdated, and has not been met in this transaction, may
 * be of one that is gone.
 */
static void
sweep(void)
{
	HASH_SEQ_STATUS scan;
	CozePlanEntry *entry;

	hash_seq_init(&scan, plans);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (entry->history.transaction == coze_buffer_transaction() ||
			(entry->valid && !entry->outdated))
			continue;
		discard_plan(entry);
		hash_search(plans, &entry->relid, HASH_REMOVE, NULL);
	}
	last_entry = NULL;
	sweep_at = Max(256, 2 * hash_get_num_entries(plans));
}

/* Make the entry's plan anew. */
static void
renew(CozePlanEntry *entry, Relation rel, Oid trigger)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cozesync capture plan",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	CozePlan   *plan;

	/* What is changed from now on is newer than what is looked at. */
	entry->valid = false;
	entry->outdated = false;
	entry->root = find_root(RelationGetRelid(rel), trigger);
	plan = make_plan(rel, entry->root);
	/* Rules go by name. */
	policy_of_root(entry->root)->generation = 0;
	MemoryContextSwitchTo(old);

	discard_plan(entry);
	MemoryContextSetParent(context, CacheMemoryContext);
	entry->context = context;
	entry->plan = plan;
	plan->history = &entry->history;
	entry->valid = true;
}

CozePlan *
coze_plan_get(Relation rel, Oid trigger, CozeTableHistory **history)
{
	Oid			relid = RelationGetRelid(rel);
	CozePlanEntry *entry = last_entry;

	if (entry == NULL || entry->relid != relid)
	{
		bool		found;

		if (plans == NULL)
			make_caches();
		if (hash_get_num_entries(plans) >= sweep_at)
			sweep();
		entry = hash_search(plans, &relid, HASH_ENTER, &found);
		if (!found)
			memset((char *) entry + sizeof(Oid), 0, sizeof(*entry) - sizeof(Oid));
		last_entry = entry;
	}
	/* A change that is seen while the plan is made outdates it at once. */
	for (int i = 0; (!entry->valid || entry->outdated) && i < 3; i++)
		renew(entry, rel, trigger);
	*history = &entry->history;
	return entry->plan;
}

/* --- policies -------------------------------------------------------------------- */

/*
 * One version for all that a transaction does to a table, partitions and all: an
 * operation is made of several changes, and what its policy needs must be in each.
 */
static void
pin_policy(CozePlan *plan)
{
	PolicyInForce *policy = policy_of_root(plan->root);
	uint64		generation = coze_group_generation();

	if (policy->transaction != coze_buffer_transaction())
	{
		if (policy->generation != generation)
		{
			char	   *schema = get_namespace_name(get_rel_namespace(plan->root));
			char	   *name = get_rel_name(plan->root);

			if (schema == NULL || name == NULL)
				elog(ERROR, "cache lookup failed for relation %u", plan->root);
			policy->version = coze_rules_in_force(schema, name, &policy->folds);
			policy->generation = generation;
		}
		policy->transaction = coze_buffer_transaction();
	}
	plan->history->policy = policy->version;
	plan->history->folds = policy->folds;
	plan->history->policy_transaction = policy->transaction;
}

CozeVersion
coze_capture_policy(CozePlan *plan, bool *folds)
{
	if (plan->history->policy_transaction != coze_buffer_transaction())
		pin_policy(plan);
	*folds = plan->history->folds;
	return plan->history->policy;
}

/* --- descriptors ----------------------------------------------------------------- */

/*
 * Whether it has committed is not asked of the log, which also shows what this
 * transaction stored, but learnt when a transaction that saw it commits.
 */
void
coze_plan_store_descriptor(CozePlan *plan)
{
	CozeKnownDescriptor *known;
	uint64		hash = plan->descriptor_hash;
	bool		found;

	if (plan->descriptor_known || coze_buffer_has_descriptor(hash))
		return;
	known = hash_search(known_descriptors, &hash, HASH_ENTER, &found);
	if (!found)
		known->committed = false;
	if (known->committed)
	{
		plan->descriptor_known = true;
		return;
	}
	descriptor_table = coze_relation_oid("descriptor", false);
	if (!coze_log_has_descriptor(hash))
		coze_log_put_descriptor(hash, plan->descriptor, plan->descriptor_size);
	coze_buffer_note_descriptor(hash);
}

static void
descriptor_committed(uint64 hash)
{
	CozeKnownDescriptor *known = hash_search(known_descriptors, &hash, HASH_FIND, NULL);

	if (known != NULL && OidIsValid(descriptor_table))
		known->committed = true;
}

void
coze_plan_descriptors_committed(void)
{
	if (known_descriptors != NULL)
		coze_buffer_each_descriptor(descriptor_committed);
}
