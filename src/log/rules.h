/*-------------------------------------------------------------------------
 *
 * rules.h
 *		Conflict rules as the group has agreed on them.
 *
 * A policy version is one complete set of rules for a table; a change names the
 * version under which it was captured.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_RULES_H
#define COZE_RULES_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "base/version.h"

/* A row of cozesync.rule.  NULL where it does not apply. */
typedef struct CozeRule
{
	char	   *column;
	char	   *conflict_type;
	char	   *policy;
	char	   *version_column;
	List	   *node_order;		/* of char * */
	char	   *resolver;		/* as regprocedure */
	char	   *resolver_digest;
} CozeRule;

/* The version in force, by what others have committed; (0, 0): the default. */
extern CozeVersion coze_rules_in_force(const char *schema, const char *table, bool *folds);

/* The rules of a version, NIL if it is not known; with what this transaction wrote. */
extern List *coze_rules_of_version(const char *schema, const char *table, CozeVersion version);

/* Has any version a policy that folds? */
extern bool coze_rules_ever_fold(const char *schema, const char *table);

#endif							/* COZE_RULES_H */
