/*-------------------------------------------------------------------------
 *
 * rules.c
 *		Conflict rules as the group has agreed on them.
 *
 * Rows of cozesync.rule are never changed.  A call that sets a rule writes the
 * complete set of the table's rules under a new version, in one transaction, so
 * that one version says all; the highest is in force.  A transaction captures
 * under what had committed before, never under what it set itself: that could be
 * rolled back to a savepoint while its changes stay.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "log/catalog.h"
#include "log/rules.h"

/* Columns of cozesync.rule. */
enum
{
	RULE_SCHEMA = 2, RULE_TABLE, RULE_VERSION_HLC, RULE_VERSION_ORIGIN, RULE_COLUMN, RULE_TYPE,
	RULE_POLICY, RULE_VERSION_COLUMN, RULE_NODE_ORDER, RULE_RESOLVER, RULE_RESOLVER_DIGEST
};

typedef void (*RuleCallback) (void *arg, HeapTuple tuple, TupleDesc desc);

static void
each_rule(const char *schema, const char *table, RuleCallback callback, void *arg)
{
	Relation	rel = table_open(coze_relation_oid("rule", false), AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyEntryInitialize(&keys[0], 0, RULE_SCHEMA, BTEqualStrategyNumber, InvalidOid,
						   DEFAULT_COLLATION_OID, F_TEXTEQ, CStringGetTextDatum(schema));
	ScanKeyEntryInitialize(&keys[1], 0, RULE_TABLE, BTEqualStrategyNumber, InvalidOid,
						   DEFAULT_COLLATION_OID, F_TEXTEQ, CStringGetTextDatum(table));
	scan = systable_beginscan(rel, coze_relation_oid("rule_table", true), true, snapshot, 2, keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		callback(arg, tuple, RelationGetDescr(rel));
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
}

static char *
text_of(HeapTuple tuple, TupleDesc desc, int column)
{
	bool		isnull;
	Datum		datum = heap_getattr(tuple, column, desc, &isnull);

	return isnull ? NULL : TextDatumGetCString(datum);
}

static CozeVersion
version_of(HeapTuple tuple, TupleDesc desc)
{
	bool		isnull;
	CozeVersion version;

	version.hlc = DatumGetInt64(heap_getattr(tuple, RULE_VERSION_HLC, desc, &isnull));
	version.origin = (CozeOrigin) DatumGetInt64(heap_getattr(tuple, RULE_VERSION_ORIGIN, desc, &isnull));
	return version;
}

/* Is it about rows, and not the default? */
static bool
rule_folds(HeapTuple tuple, TupleDesc desc)
{
	char	   *type = text_of(tuple, desc, RULE_TYPE);

	return text_of(tuple, desc, RULE_COLUMN) == NULL &&
		(type == NULL || strcmp(type, "unique_violation") != 0) &&
		strcmp(text_of(tuple, desc, RULE_POLICY), "last_update_wins") != 0;
}

/* --- the version in force --- */

typedef struct InForce
{
	CozeVersion version;
	bool		folds;
} InForce;

static void
take_highest(void *arg, HeapTuple tuple, TupleDesc desc)
{
	InForce    *best = arg;
	CozeVersion version = version_of(tuple, desc);
	int			cmp = coze_version_cmp(version, best->version);

	if (cmp < 0 || TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data)))
		return;
	if (cmp > 0)
	{
		best->version = version;
		best->folds = false;
	}
	best->folds |= rule_folds(tuple, desc);
}

CozeVersion
coze_rules_in_force(const char *schema, const char *table, bool *folds)
{
	InForce		best = {{0, 0}, false};

	each_rule(schema, table, take_highest, &best);
	*folds = best.folds;
	return best.version;
}

/* --- one version --- */

typedef struct OfVersion
{
	CozeVersion version;
	List	   *rules;
} OfVersion;

static List *
names_of(HeapTuple tuple, TupleDesc desc, int column)
{
	bool		isnull;
	Datum		datum = heap_getattr(tuple, column, desc, &isnull);
	Datum	   *values;
	bool	   *nulls;
	int			n;
	List	   *names = NIL;

	if (isnull)
		return NIL;
	deconstruct_array(DatumGetArrayTypePCopy(datum), TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		if (!nulls[i])
			names = lappend(names, TextDatumGetCString(values[i]));
	}
	return names;
}

static void
take_rule(void *arg, HeapTuple tuple, TupleDesc desc)
{
	OfVersion  *of = arg;
	CozeRule   *rule;

	if (!coze_version_equal(version_of(tuple, desc), of->version))
		return;
	rule = palloc0(sizeof(CozeRule));
	rule->column = text_of(tuple, desc, RULE_COLUMN);
	rule->conflict_type = text_of(tuple, desc, RULE_TYPE);
	rule->policy = text_of(tuple, desc, RULE_POLICY);
	rule->version_column = text_of(tuple, desc, RULE_VERSION_COLUMN);
	rule->node_order = names_of(tuple, desc, RULE_NODE_ORDER);
	rule->resolver = text_of(tuple, desc, RULE_RESOLVER);
	rule->resolver_digest = text_of(tuple, desc, RULE_RESOLVER_DIGEST);
	of->rules = lappend(of->rules, rule);
}

List *
coze_rules_of_version(const char *schema, const char *table, CozeVersion version)
{
	OfVersion	of = {version, NIL};

	each_rule(schema, table, take_rule, &of);
	return of.rules;
}

/* --- all of them --- */

static void
take_folds(void *arg, HeapTuple tuple, TupleDesc desc)
{
	*(bool *) arg |= rule_folds(tuple, desc);
}

bool
coze_rules_ever_fold(const char *schema, const char *table)
{
	bool		folds = false;

	each_rule(schema, table, take_folds, &folds);
	return folds;
}
