/*-------------------------------------------------------------------------
 *
 * apply.h
 *		The applier, as others see it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_APPLY_H
#define COZE_APPLY_H

#include "postgres.h"

#include "base/version.h"

/* Background worker: one per database; main_arg is the database's oid. */
extern PGDLLEXPORT void coze_applier_main(Datum main_arg);

extern Size coze_apply_shmem_size(void);
extern void coze_apply_shmem_init(void);
extern void coze_stop_forget_database(Oid dboid);	/* it was dropped */

/* What the applier shows of itself; an origin whose stream is stopped, or waits. */
typedef struct CozeApplyStop
{
	CozeOrigin	origin;			/* whose stream; 0: free */
	CozeHlc		hlc;			/* of the entry */
	Oid			relid;
	int64		since;			/* TimestampTz */
	int			held_back_by;	/* pid of a backend whose lock is waited for, or 0 */
	char		key[128];
	char		error[512];		/* never holds a DSN */
} CozeApplyStop;

typedef struct CozeApplyCounters
{
	uint64		transactions;
	uint64		rows;
	uint64		conflicts;
} CozeApplyCounters;

extern bool coze_apply_stop_of(CozeOrigin origin, CozeApplyStop *stop);
extern void coze_apply_counters(CozeApplyCounters *counters);

/* Try stopped origins at once (retry()). */
extern void coze_apply_retry(void);

/* Apply no more until resumed (tests, joins); survives nothing. */
extern bool coze_in_applier;	/* is this process applying?  Capture is silent then. */

#endif							/* COZE_APPLY_H */
