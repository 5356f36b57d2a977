/*-------------------------------------------------------------------------
 *
 * closure.h
 *		Keys that must be folded together, with all that is known of them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_CLOSURE_H
#define COZE_CLOSURE_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "apply/ops.h"
#include "apply/relation.h"
#include "apply/row.h"
#include "apply/unique.h"
#include "base/fold.h"

typedef struct CozeClosureKey
{
	Datum	   *key;
	uint32		hash;
	int			number;			/* in the order of keys */
	bool		done;
	List	   *ops;			/* CozeOp, of the suffix, and of the entry at hand */
	CozeRow    *row;			/* as it is here now, or NULL */
	const CozeState *record;	/* its base record, or NULL */
} CozeClosureKey;

typedef struct CozeClosure
{
	CozeFoldArg arg;			/* first: what the fold's callbacks get */
	CozeTable  *table;
	CozeTarget *target;
	bool		lock;			/* hold rows and values */
	bool		note;			/* and note them as written, at once */
	CozeVersion mine;			/* entry whose operations the caller adds; or hlc 0 */
	List	   *keys;			/* CozeClosureKey */
	List	   *values;			/* unique values that were followed */
	List	   *truncates;		/* CozeOp: TRUNCATEs of the suffix */
	List	   *records;		/* CozeBaseRecord */
} CozeClosure;

extern void coze_closure_begin(CozeClosure *closure, CozeTable *table, CozeTarget *target,
							   bool lock, CozeVersion mine);
extern CozeClosureKey *coze_closure_add_key(CozeClosure *closure, const Datum *key);
extern void coze_closure_add_all(CozeClosure *closure);
extern void coze_closure_follow_row(CozeClosure *closure, const CozeRow *row);
extern void coze_closure_complete(CozeClosure *closure);
extern bool coze_closure_recheck(CozeClosure *closure);
extern void coze_closure_note_written(const CozeClosure *closure);

/* A fold over the closure: entries in version order, and the states at the cut. */
typedef struct CozeClosureFold
{
	CozeFoldTable table;
	CozeFoldCallbacks callbacks;
	int			nkeys;
	CozeClosureKey **keys;		/* by number */
	const CozeState **base;
	int			nentries;
	CozeFoldEntry *entries;
} CozeClosureFold;

extern void coze_closure_prepare(CozeClosure *closure, CozeClosureFold *fold,
								 void (*note) (void *arg, const CozeFoldNote *note), void *arg);

#endif							/* COZE_CLOSURE_H */
