/*-------------------------------------------------------------------------
 *
 * run.h
 *		Sorted runs of operations in temporary files.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_RUN_H
#define COZE_RUN_H

#include "postgres.h"

#include "base/version.h"

/* An operation as it is in a file; see CozeIndexOp. */
typedef struct CozeRunOp
{
	CozeHlc		hlc;
	uint64		seq;
	Oid			relid;
	uint32		hash;
	uint16		origin;
	uint16		offset;
	uint16		context;
	uint8		slot;
	uint8		flags;
} CozeRunOp;

typedef struct CozeRun CozeRun;

/* Sorts ops, which are the caller's.  filter_bits: of memory for each. */
extern CozeRun *coze_run_write(CozeRunOp *ops, Size n, int filter_bits);

/* Of several one, without what keep says no to; they stay. */
extern CozeRun *coze_run_merge(CozeRun *const *runs, int nruns, int filter_bits,
							   bool (*keep) (const CozeRunOp *op));
extern void coze_run_free(CozeRun *run);
extern void coze_run_free_all(void);

extern Size coze_run_memory(const CozeRun *run);
extern uint64 coze_run_count(const CozeRun *run);

/* Every operation at a place, or every one; until the callback says no. */
typedef bool (*CozeRunCallback) (void *arg, const CozeRunOp *op);
extern void coze_run_find(CozeRun *run, Oid relid, uint8 slot, uint32 hash,
						  CozeRunCallback callback, void *arg);
extern void coze_run_each(CozeRun *run, CozeRunCallback callback, void *arg);

extern uint32 coze_place_hash(Oid relid, uint8 slot, uint32 hash);

#endif							/* COZE_RUN_H */
