/*-------------------------------------------------------------------------
 *
 * conflict.h
 *		Writing the conflict log.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_CONFLICT_H
#define COZE_CONFLICT_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "apply/relation.h"
#include "base/policy.h"
#include "base/vector.h"

/* A loss.  Named by (table, key, loser, decided). */
typedef struct CozeConflict
{
	const CozeTable *table;
	Datum		key;			/* jsonb */
	CozeConflictType type;
	const char *policy;
	const char *outcome;
	const char *reason;			/* or NULL */
	List	   *columns;		/* names of those that it is about; NIL: the row */
	CozeVersion loser;
	CozeVersion decided;
	CozeVersion local;			/* hlc 0: not known */
	CozeVersion remote;
	Datum		local_row;		/* jsonb, or 0 */
	Datum		remote_row;
	Datum		base_row;
	Datum		result_row;
} CozeConflict;

/* Why a row is not as the change log has it: nobody knows.  Never withdrawn. */
#define COZE_REASON_UNEXPLAINED "nothing in the change log explains it: the nodes differed before"

extern Datum coze_row_to_jsonb(const CozeTable *table, const CozeRow *row);
extern Datum coze_key_to_jsonb(const CozeTable *table, const Datum *key);

/* In the current transaction; noted in memory until coze_conflict_flush(). */
extern void coze_conflict_note(const CozeConflict *conflict);
extern void coze_conflict_withdraw(const CozeTable *table, Datum key, CozeVersion loser,
								   CozeVersion decided);
extern void coze_conflict_withdraw_seen(const CozeTable *table, Datum key, CozeVersion version,
										const CozeVector *seen);
extern void coze_conflict_relieve(void);
extern int	coze_conflict_flush(void);
extern void coze_conflict_forget(void);

/* In transactions of their own. */
extern void coze_conflict_notify(void);
extern void coze_conflict_retain(void);

#endif							/* COZE_CONFLICT_H */
