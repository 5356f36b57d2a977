/*-------------------------------------------------------------------------
 *
 * policy.c
 *		Policy versions of a table, as the fold wants them.
 *
 * A version never changes, so it is read once and kept as long as the table.  Only
 * whom a node_order's names stand for may grow: incarnations are added, and then the
 * numbers are made anew.  Those of one name stand together, so the order among
 * those that were there is kept.
 *
 * A version that a change names has been applied before it, since causes come
 * first; who commits facts of the group begins a new round (applier.c), so that
 * all that follows is decided with them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "apply/combine.h"
#include "apply/policy.h"
#include "apply/unique.h"
#include "debug.h"
#include "log/members.h"
#include "log/rules.h"
#include "log/state.h"

/* Rows: the later stays.  A unique value: who had it first keeps it. */
const CozeFoldPolicy coze_default_policy = {
	.row = {0},
	.unique = COZE_ROW_FIRST_UPDATE_WINS,
};

/* --- from rules --- */

static int
column_by_name(const CozeTable *table, const char *name)
{
	for (int i = 0; i < table->desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(table->desc, i);

		if (!att->attisdropped && strcmp(NameStr(att->attname), name) == 0)
			return i;
	}
	return -1;
}

static void
take_row_rule(CozePolicy *policy, CozeTable *table, const CozeRule *rule)
{
	int			row = coze_row_policy_by_name(rule->policy);
	int			type = rule->conflict_type != NULL ?
		coze_conflict_type_by_name(rule->conflict_type) : -1;

	if (row < 0 || (rule->conflict_type != NULL && type < 0))
		elog(ERROR, "unknown policy \"%s\"", rule->policy);
	if (type == COZE_CONFLICT_UNIQUE_VIOLATION)
	{
		policy->fold.unique = row;
		return;
	}
	for (int t = 0; type < 0 && t < COZE_CONFLICT_TYPES; t++)
		policy->fold.row[t] = row;
	if (type >= 0)
		policy->fold.row[type] = row;
	policy->folds |= row != COZE_ROW_LAST_UPDATE_WINS;
	if (rule->version_column != NULL)
	{
		policy->rank_column = column_by_name(table, rule->version_column);
		if (policy->rank_column < 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("table \"%s.%s\" has no column \"%s\", by which its conflicts are decided",
							table->schema, table->name, rule->version_column),
					 errhint("Add the column as it is on the other nodes.")));
	}
	if (rule->node_order != NIL)
		policy->node_order = rule->node_order;
	if (rule->resolver != NULL)
		policy->resolver = coze_resolver_make(rule->resolver, rule->resolver_digest);
}

/* A column that is not here is merged where it is. */
static void
take_column_rule(CozePolicy *policy, CozeTable *table, const CozeRule *rule)
{
	CozeColumnPolicy *columns = (CozeColumnPolicy *) policy->fold.columns;
	int			column = column_by_name(table, rule->column);
	int			number = coze_column_policy_by_name(rule->policy);

	if (number < 0)
		elog(ERROR, "unknown column policy \"%s\"", rule->policy);
	if (columns == NULL)
	{
		columns = palloc0(table->desc->natts * sizeof(CozeColumnPolicy));
		policy->fold.columns = columns;
	}
	if (column >= 0)
		columns[column] = number;
}

CozePolicy *
coze_policy_make(CozeTable *table, CozeVersion version, List *rules)
{
	CozePolicy *policy = palloc0(sizeof(CozePolicy));
	ListCell   *lc;

	policy->version = version;
	policy->fold = coze_default_policy;
	policy->fold.extra = policy;
	policy->rank_column = -1;
	/* What is for all types first. */
	for (int pass = 0; pass < 2; pass++)
	{
		foreach(lc, rules)
		{
			const CozeRule *rule = lfirst(lc);

			if (rule->column != NULL)
			{
				if (pass == 0)
					take_column_rule(policy, table, rule);
			}
			else if ((rule->conflict_type == NULL) == (pass == 0))
				take_row_rule(policy, table, rule);
		}
	}
	return policy;
}

/* --- node_order --- */

static int
compare_origins(const void *a, const void *b)
{
	CozeOrigin	x = *(const CozeOrigin *) a;
	CozeOrigin	y = *(const CozeOrigin *) b;

	return (x > y) - (x < y);
}

static void
fill_order(CozeTable *table, CozePolicy *policy)
{
	CozeMember *members;
	CozeOrigin *order;
	int			nmembers;
	int			n = 0;
	ListCell   *lc;

	PushActiveSnapshot(GetLatestSnapshot());
	members = coze_members_read(&nmembers);
	PopActiveSnapshot();
	order = MemoryContextAlloc(table->context, Max(1, nmembers) * sizeof(CozeOrigin));
	foreach(lc, policy->node_order)
	{
		int			first = n;

		for (int i = 0; i < nmembers; i++)
		{
			if (strcmp(members[i].node_name, lfirst(lc)) == 0 && n < nmembers)
				order[n++] = members[i].origin;
		}
		qsort(order + first, n - first, sizeof(CozeOrigin), compare_origins);
	}
	policy->fold.order = order;
	policy->fold.norder = n;
}

void
coze_policy_prepare(CozeTable *table, CozePolicy *policy)
{
	if (policy->node_order == NIL || policy->generation == coze_group_generation())
		return;
	policy->generation = coze_group_generation();
	fill_order(table, policy);
}

/* --- finding one --- */

static CozePolicy *
find_policy(CozeTable *table, CozeVersion version)
{
	ListCell   *lc;

	foreach(lc, table->policies)
	{
		CozePolicy *policy = lfirst(lc);

		if (coze_version_equal(policy->version, version))
			return policy;
	}
	return NULL;
}

static CozePolicy *
load_policy(CozeTable *table, CozeVersion version)
{
	MemoryContext old = MemoryContextSwitchTo(table->context);
	List	   *rules = coze_rules_of_version(table->schema, table->name, version);
	CozePolicy *policy;

	if (rules == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("a change of table \"%s.%s\" names a conflict policy that is not known here",
						table->schema, table->name),
				 errdetail("Its version is %lld of origin %llu.", (long long) version.hlc,
						   (unsigned long long) version.origin)));
	policy = coze_policy_make(table, version, rules);
	table->policies = lappend(table->policies, policy);
	MemoryContextSwitchTo(old);
	return policy;
}

const CozeFoldPolicy *
coze_policy_get(CozeTable *table, CozeVersion version)
{
	CozePolicy *policy;

	if (!COZE_RULE("policy-named"))
	{
		bool		folds;

		version = coze_rules_in_force(table->schema, table->name, &folds);
	}
	if (version.hlc == 0)
		return &coze_default_policy;
	policy = find_policy(table, version);
	if (policy == NULL)
		policy = load_policy(table, version);
	coze_policy_prepare(table, policy);
	return &policy->fold;
}

bool
coze_policy_is_news(CozeTable *table, CozeVersion version)
{
	if (version.hlc == 0 || table->folds || find_policy(table, version) != NULL)
		return false;
	if (load_policy(table, version)->folds)
		coze_tables_refresh_rules();
	return table->folds;
}

const char *
coze_policy_name(const CozeFoldPolicy *policy, CozeConflictType type)
{
	if (type == COZE_CONFLICT_UNIQUE_VIOLATION)
		return coze_row_policy_name(policy->unique);
	if (type == COZE_CONFLICT_DELETE_DELETED)
		type = COZE_CONFLICT_DELETE_UPDATED;
	return coze_row_policy_name(policy->row[type]);
}

/* NULL ranks below all, as does what is not known. */
int
coze_policy_rank(void *arg, const CozeFoldPolicy *policy, const CozeFoldRow *a, const CozeFoldRow *b)
{
	int			column = ((CozePolicy *) policy->extra)->rank_column;
	bool		no_a = a == NULL || a->isnull[column];
	bool		no_b = b == NULL || b->isnull[column];

	if (no_a || no_b)
		return (int) no_b - (int) no_a;
	return coze_combine_compare(arg, column, a->values[column], b->values[column]);
}
