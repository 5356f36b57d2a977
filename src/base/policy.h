/*-------------------------------------------------------------------------
 *
 * policy.h
 *		The words for conflicts: policies, types of conflict, outcomes.
 *
 * The numbers travel in entries and stay in logs: new ones go to the end.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_POLICY_H
#define COZE_POLICY_H

#include "base/version.h"

typedef enum CozeRowPolicy
{
	COZE_ROW_LAST_UPDATE_WINS,	/* the higher version */
	COZE_ROW_FIRST_UPDATE_WINS, /* the lower version among the concurrent */
	COZE_ROW_HIGHEST_VERSION,	/* the larger value of the version column */
	COZE_ROW_NODE_ORDER,		/* the node that stands first */
	COZE_ROW_MERGE,				/* column by column */
	COZE_ROW_RESOLVER,			/* what a user's function says */
	COZE_ROW_HOLD,				/* the earlier, until somebody settles it */
} CozeRowPolicy;

#define COZE_ROW_POLICIES	(COZE_ROW_HOLD + 1)

typedef enum CozeColumnPolicy
{
	COZE_COLUMN_LAST_UPDATE_WINS,	/* the later write of the column */
	COZE_COLUMN_DELTA,			/* what each side added */
	COZE_COLUMN_MAX,			/* the larger */
	COZE_COLUMN_MIN,			/* the smaller */
	COZE_COLUMN_JSON_MERGE,		/* objects by key, against the base */
	COZE_COLUMN_SET_MERGE,		/* arrays as sets, against the base */
	COZE_COLUMN_HOLD,			/* the earlier, until somebody settles it */
} CozeColumnPolicy;

#define COZE_COLUMN_POLICIES	(COZE_COLUMN_HOLD + 1)

/*
 * Named after the later of two operations, by version, never by side.
 */
typedef enum CozeConflictType
{
	COZE_CONFLICT_INSERT_EXISTS,	/* both inserted the key */
	COZE_CONFLICT_UPDATE_UPDATE,	/* both left a row */
	COZE_CONFLICT_UPDATE_DELETED,	/* the later one leaves a row */
	COZE_CONFLICT_DELETE_UPDATED,	/* the later one deletes */
	COZE_CONFLICT_UNIQUE_VIOLATION, /* another row has the unique value */
	COZE_CONFLICT_TRUNCATE_WRITE,	/* one of the two is a TRUNCATE */
	COZE_CONFLICT_DELETE_DELETED,	/* both delete: nothing is lost */
	COZE_CONFLICT_UPDATE_MISSING,	/* a sign of divergence; never from a fold */
	COZE_CONFLICT_DELETE_MISSING,	/* likewise */
} CozeConflictType;

#define COZE_CONFLICT_TYPES (COZE_CONFLICT_DELETE_MISSING + 1)

typedef enum CozeOutcome
{
	COZE_OUTCOME_REPLACED,		/* the loser was in the row and no longer is */
	COZE_OUTCOME_SET_ASIDE,		/* the loser never had an effect */
	COZE_OUTCOME_HELD,			/* likewise, or a column of it; waits to be settled */
	COZE_OUTCOME_MERGED,		/* the loser keeps a part at most */
	COZE_OUTCOME_UNIQUE,		/* the loser gave way over a unique value */
	COZE_OUTCOME_TRUNCATED,		/* the loser's row fell to a TRUNCATE */
} CozeOutcome;

#define COZE_OUTCOMES	(COZE_OUTCOME_TRUNCATED + 1)

/* The names that users write and read; NULL for a number that is none. */
extern const char *coze_row_policy_name(int policy);
extern const char *coze_column_policy_name(int policy);
extern const char *coze_conflict_type_name(int type);
extern const char *coze_outcome_name(int outcome);

/* And back: -1 for a name that is none. */
extern int	coze_row_policy_by_name(const char *name);
extern int	coze_column_policy_by_name(const char *name);
extern int	coze_conflict_type_by_name(const char *name);

#endif							/* COZE_POLICY_H */
