/*-------------------------------------------------------------------------
 *
 * resolver.h
 *		Functions of users that decide conflicts.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_RESOLVER_H
#define COZE_RESOLVER_H

#include "postgres.h"

#include "base/fold.h"

typedef struct CozeResolver CozeResolver;

/* name: as regprocedure; digest: of its definition when it was chosen. */
extern CozeResolver *coze_resolver_make(const char *name, const char *digest);

/* For the fold, with the rights of the table's owner. */
extern CozeResolution coze_resolver_call(void *arg, const CozeFoldPolicy *policy, CozeConflictType type,
										 const CozeFoldRow *earlier, const CozeFoldRow *later,
										 const CozeFoldRow *base, CozeFoldRow *result,
										 const char **reason);

#endif							/* COZE_RESOLVER_H */
