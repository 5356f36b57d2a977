/*-------------------------------------------------------------------------
 *
 * shared.h
 *		What lies in shared memory, for the files that look after it.
 *
 * Private to state.c (who the node is), clock.c (clock and vector), ending.c (what a
 * transaction leaves behind at its end) and wake.c (who is woken); all others use state.h.
 *
 * Locking: database->lock guards the clock, the vector and what is pending; it
 * is held for a few instructions.  registry->lock guards the list of databases.
 * Slots, cut, LSN, generation are atomics.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_SHARED_H
#define COZE_SHARED_H

#include "postgres.h"

#include "port/atomics.h"
#include "storage/lwlock.h"

#include "log/restore.h"
#include "log/state.h"

#define COZE_WORKER_KINDS 2
#define COZE_MAX_WAITERS 64

/* A vector in shared memory: room for cozesync.max_nodes. */
typedef struct CozeSharedVector
{
	int			n;
	CozeVectorEntry *e;
} CozeSharedVector;

typedef struct CozeDatabase
{
	Oid			dboid;			/* InvalidOid: free */
	LWLock		lock;

	/* Written under lock, read under it or when attached. */
	uint64		changes;		/* of what the tables say, since the server started */
	bool		attached;
	bool		on_standby;		/* as it was when that was read */
	CozeNodeState state;
	CozeOrigin	origin;
	uint8		group_id[16];

	pg_atomic_uint64 clock;		/* last hlc drawn or received; written under lock */
	pg_atomic_uint64 own_committed; /* highest own hlc that has committed */
	pg_atomic_uint64 captured_transactions; /* since the server started */
	pg_atomic_uint64 captured_rows;
	pg_atomic_uint64 commit_lsn;	/* WAL to flush before anything leaves */
	pg_atomic_uint64 cut;
	pg_atomic_uint64 generation;
	pg_atomic_uint32 segment;	/* current one, from 1; 0: not known yet */
	pg_atomic_uint64 rotations; /* rises before another one becomes current */
	pg_atomic_uint32 linker_heeds;	/* CozeHeed of what the linker wants to know */

	CozeSharedVector held;		/* under lock */
	CozeSharedVector base;		/* under lock: last pruned entry of each origin */
	CozeSharedVector pending;	/* under lock: held once pending_xid has committed */
	TransactionId pending_xid;

	/* Processes to wake: pids and numbers, under lock. */
	int			worker_pid[COZE_WORKER_KINDS];
	int			worker_proc[COZE_WORKER_KINDS];
	pg_atomic_uint32 nwaiters;
	pg_atomic_uint32 nawaiting; /* backends that wait for what peers hold */
	int			waiters[COZE_MAX_WAITERS];
} CozeDatabase;

/* One per process: the bound below which it will not draw, 0 if it is not committing. */
typedef struct CozeSlot
{
	pg_atomic_uint64 bound;
	Oid			dboid;
} CozeSlot;

typedef struct CozeRegistry
{
	LWLock		lock;
	uint64		instance;		/* of this start of the server */
	int			nslots;
	CozeSlot   *slots;
	CozeDatabase databases[FLEXIBLE_ARRAY_MEMBER];	/* cozesync_max_databases */
} CozeRegistry;

extern void coze_shared_set_segment(CozeDatabase *db, int segment);

extern CozeRegistry *coze_registry;
extern CozeDatabase *coze_mine; /* this backend's database */

/* What the transaction at hand does at its end. */
typedef struct CozeEnding
{
	bool		bound_published;
	CozeVersion drawn;			/* hlc 0: nothing */
	uint32		captured;		/* changes in the entry that was drawn for */
	bool		pending_set;
	bool		detach_at_end;
	bool		group_changed;
	CozeHlc		new_cut;
	CozeVector	new_base;		/* with new_cut; in the transaction's memory */

	/* With detach_at_end: the node as this transaction sees it. */
	CozeRestored own_view;		/* in the transaction's memory */
	bool		own_view_valid;
} CozeEnding;

extern CozeEnding coze_ending;

/* Something of coze_ending is about to be set. */
extern void coze_at_end(void);

/* Vectors in shared memory; with the database's lock held. */
extern CozeVector coze_shared_view(const CozeSharedVector *shared);
extern void coze_shared_raise(CozeSharedVector *shared, CozeOrigin origin, CozeHlc hlc);
extern void coze_atomic_raise(pg_atomic_uint64 *a, uint64 value);

/* Take a place in the registry, if this database has none. */
extern void coze_need_database(void);
/* Read what this transaction has made of the node, if it has not been read since. */
extern CozeNodeState coze_attach_own_view(void);

/* Does the pending transaction count?  With the lock held. */
extern bool coze_pending_counts(void);

extern void coze_wake_process(int procno);

#endif							/* COZE_SHARED_H */
