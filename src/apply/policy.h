/*-------------------------------------------------------------------------
 *
 * policy.h
 *		Policy versions of a table, as the fold wants them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_APPLY_POLICY_H
#define COZE_APPLY_POLICY_H

#include "postgres.h"

#include "apply/relation.h"
#include "apply/resolver.h"
#include "base/fold.h"

/* What changes are decided by that name no version. */
extern const CozeFoldPolicy coze_default_policy;

typedef struct CozePolicy
{
	CozeVersion version;
	CozeFoldPolicy fold;		/* its extra is this */
	bool		folds;
	int			rank_column;	/* number from 0, or -1 */
	List	   *node_order;		/* names */
	uint64		generation;		/* of the group's facts that fold.order is from */
	CozeResolver *resolver;
} CozePolicy;

/*
 * The rules of a version; ERROR if it is not known here, or names what is not here.
 * Valid as long as the table.
 */
extern const CozeFoldPolicy *coze_policy_get(CozeTable *table, CozeVersion version);

/* From rules that need not be in the catalog; in CurrentMemoryContext. */
extern CozePolicy *coze_policy_make(CozeTable *table, CozeVersion version, List *rules);

/* Bring what may have grown up to date. */
extern void coze_policy_prepare(CozeTable *table, CozePolicy *policy);

/* Does a change that names the version make the table fold, which does not yet? */
extern bool coze_policy_is_news(CozeTable *table, CozeVersion version);

/* The name of the policy by which a conflict is decided. */
extern const char *coze_policy_name(const CozeFoldPolicy *policy, CozeConflictType type);

/* For the fold. */
extern int	coze_policy_rank(void *arg, const CozeFoldPolicy *policy, const CozeFoldRow *a,
							 const CozeFoldRow *b);

#endif							/* COZE_APPLY_POLICY_H */
