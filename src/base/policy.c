/*-------------------------------------------------------------------------
 *
 * policy.c
 *		The words for conflicts: policies, types of conflict, outcomes.
 *
 *-------------------------------------------------------------------------
 */
#include "base/policy.h"

static const char *const row_policies[] = {
	"last_update_wins", "first_update_wins", "highest_version", "node_order",
	"merge", "resolver", "hold",
};

static const char *const column_policies[] = {
	"last_update_wins", "delta", "max", "min", "json_merge", "set_merge", "hold",
};

static const char *const conflict_types[] = {
	"insert_exists", "update_update", "update_deleted", "delete_updated",
	"unique_violation", "truncate_write", "delete_deleted", "update_missing",
	"delete_missing",
};

static const char *const outcomes[] = {
	"replaced", "set aside", "held", "merged", "unique", "truncated",
};

#define NAMES(table) ((int) (sizeof(table) / sizeof((table)[0])))
#define NAMES_MATCH(table, count) \
	typedef char table##_names_match[NAMES(table) == (count) ? 1 : -1] pg_attribute_unused()

NAMES_MATCH(row_policies, COZE_ROW_POLICIES);
NAMES_MATCH(column_policies, COZE_COLUMN_POLICIES);
NAMES_MATCH(conflict_types, COZE_CONFLICT_TYPES);
NAMES_MATCH(outcomes, COZE_OUTCOMES);

static int
by_name(const char *const *names, int n, const char *name)
{
	for (int i = 0; i < n; i++)
	{
		if (strcmp(names[i], name) == 0)
			return i;
	}
	return -1;
}

const char *
coze_row_policy_name(int policy)
{
	return policy >= 0 && policy < COZE_ROW_POLICIES ? row_policies[policy] : NULL;
}

const char *
coze_column_policy_name(int policy)
{
	return policy >= 0 && policy < COZE_COLUMN_POLICIES ? column_policies[policy] : NULL;
}

const char *
coze_conflict_type_name(int type)
{
	return type >= 0 && type < COZE_CONFLICT_TYPES ? conflict_types[type] : NULL;
}

const char *
coze_outcome_name(int outcome)
{
	return outcome >= 0 && outcome < COZE_OUTCOMES ? outcomes[outcome] : NULL;
}

int
coze_row_policy_by_name(const char *name)
{
	return by_name(row_policies, NAMES(row_policies), name);
}

int
coze_column_policy_by_name(const char *name)
{
	return by_name(column_policies, NAMES(column_policies), name);
}

int
coze_conflict_type_by_name(const char *name)
{
	return by_name(conflict_types, NAMES(conflict_types), name);
}
