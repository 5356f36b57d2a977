/*-------------------------------------------------------------------------
 *
 * state.h
 *		What the processes of one database share: who the node is, its clock,
 *		what it holds.
 *
 * Everything here is read off durable tables (cozesync.local_node, the change
 * log, cozesync.base) before its first use after a server start, so that a
 * crash loses nothing.
 *
 * Locking: each database has one LWLock.  It guards the clock together with the
 * vector, so that an hlc and the vector seen at it are drawn as one.  It is
 * held for a few instructions, never over I/O on tables.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_STATE_H
#define COZE_STATE_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "nodes/pg_list.h"
#include "storage/latch.h"

#include "base/vector.h"
#include "base/version.h"

typedef enum CozeNodeState
{
	COZE_NODE_NONE,				/* no member of a group */
	COZE_NODE_JOINING,			/* being copied; writes to synced tables are refused */
	COZE_NODE_READY,
	COZE_NODE_LEFT,				/* left or was dropped; kept for salvage() */
} CozeNodeState;

/* Processes that others wake. */
typedef enum CozeWorkerKind
{
	COZE_WORKER_LINKER,			/* woken by commits with an entry if it heeds them, by what
								 * is applied, by group changes */
	COZE_WORKER_APPLIER,		/* woken by receivers, by group changes */
} CozeWorkerKind;

/* --- start-up --------------------------------------------------------------- */

extern Size coze_state_shmem_size(void);
extern void coze_state_shmem_init(void);

/* A number that was drawn when this server started; not 0. */
extern uint64 coze_instance(void);

/* Is the library in shared_preload_libraries? */
extern bool coze_preloaded(void);

/* ERROR with the line to add, unless coze_preloaded(). */
extern void coze_check_preloaded(void);

/*
 * Make this database's shared state usable, reading it from the tables if
 * nobody has since the server started.  Needs a transaction.  Returns the
 * node's state.  Cheap when done already.
 */
extern CozeNodeState coze_attach(void);

/* ERROR object_not_in_prerequisite_state unless this database is a member. */
extern void coze_check_member(void);

/*
 * This transaction changed cozesync.local_node (or restored the log): everybody
 * attaches anew, this backend at once, the others when it has committed.
 */
extern void coze_detach_at_end(void);

/* A database was dropped: its place in shared memory is free. */
extern void coze_forget_database(Oid dboid);
/* Oids of those that have a place; palloc'd. */
extern List *coze_registered_databases(void);

/* --- the node (after coze_attach) --------------------------------------------- */

extern CozeOrigin coze_own_origin(void);
extern CozeNodeState coze_node_state(void);
extern const uint8 *coze_group_id(void);	/* 16 bytes */

/* --- clock --------------------------------------------------------------------- */

/*
 * At pre-commit, in this order: publish a lower bound of the hlc to come, do what
 * may take long, draw, append the entry.  The commit or abort callback in
 * ending.c withdraws the bound, after the transaction has become visible.
 */
extern void coze_clock_publish(void);

/* Draw the version and copy V (without the own origin) in one critical section. */
extern CozeVersion coze_clock_draw(CozeVector *seen);

/* How many changes the entry has that was drawn for; counted if it commits. */
extern void coze_count_captured(uint32 changes);
/* What was captured here since the server started. */
extern void coze_captured(uint64 *transactions, uint64 *rows);

/*
 * Every entry of this node below the horizon has ended and is visible to any
 * snapshot taken after this call.  pid: the backend that holds it back, or 0.
 */
extern CozeHlc coze_clock_horizon(int *held_back_by);

/*
 * The clock shall not fall behind an hlc received from a peer.  False, and
 * nothing done, if that is ahead of our wall clock by more than
 * cozesync.max_clock_drift.
 */
extern bool coze_clock_advance(CozeHlc received);

extern CozeHlc coze_clock_last(void);

/* --- the vector -------------------------------------------------------------------- */

/*
 * What is applied here and visible, of all origins but the own; a pending
 * transaction counts iff it has committed.
 */
extern void coze_held(CozeVector *v);
extern CozeHlc coze_held_of(CozeOrigin origin);

/*
 * The same without a pending transaction, for whoever looks at the rows next: it has
 * committed a moment before any snapshot shows it.
 */
extern void coze_held_visible(CozeVector *v);

/*
 * The same with the own component, and where the WAL ends that holds all of it: once that
 * is flushed a peer may be told.
 */
extern XLogRecPtr coze_held_with_end(CozeVector *v);

/* The highest own hlc that has committed here, be there lower ones still to come. */
extern CozeHlc coze_own_committed_max(void);

/*
 * Before the applier commits: with this transaction, which has an xid, entries of
 * these origins up to these hlcs become visible.  Withdrawn or made part of the
 * vector by ending.c's transaction callback.
 */
extern void coze_held_pending(const CozeVector *progress);

/* --- durability ------------------------------------------------------------------- */

/*
 * Flush the WAL of everything that was visible when this was called, local
 * or applied.  Before anything leaves the node.
 */
extern void coze_flush(void);

/* --- the cut --------------------------------------------------------------------------- */

extern CozeHlc coze_cut(void);

/*
 * After the transaction commits that stored them in cozesync.local_node and
 * cozesync.base; base names the origins whose base has moved.
 */
extern void coze_set_cut_at_commit(CozeHlc cut, const CozeVector *base);

/* The last pruned entry of an origin, 0 if none; raised before the cut moves. */
extern CozeHlc coze_base_of(CozeOrigin origin);

/* --- the log's current segment ------------------------------------------------------------ */

extern int	coze_current_segment(void);
extern void coze_set_current_segment(int segment);
/* Rises whenever another segment becomes current; 0: none is known to be. */
extern uint64 coze_segment_rotations(void);

/* --- group changes, waking ------------------------------------------------------------------ */

/* Rises whenever members, links, tables or rules have changed (at commit). */
extern uint64 coze_group_generation(void);
extern void coze_group_changed_at_commit(void);

/* This process is the worker of its kind until it exits; ERROR if there is one. */
extern void coze_worker_register(CozeWorkerKind kind);
extern int	coze_worker_pid(CozeWorkerKind kind);
extern void coze_worker_wake(CozeWorkerKind kind);

/* What wakes the linker, beside news of the group; each costs somebody a signal. */
typedef enum CozeHeed
{
	COZE_HEED_COMMITS = 1,		/* of users here */
	COZE_HEED_APPLIED = 2,		/* of the applier: it passes on, or waits for room */
} CozeHeed;

/* The linker: who heeds more than before must look afterwards, since what came before was silent. */
extern void coze_linker_heed(uint32 heeds);

/* Backends that wait for new entries (pull links, wait_for_*): latch set at commits. */
extern void coze_waiter_add(void);
extern void coze_waiter_remove(void);
extern void coze_waiters_wake(void);

/*
 * A backend that has been a waiter waits, until it says otherwise or exits, to hear what
 * peers hold: then links ask for it at once.
 */
extern void coze_await_peers(bool await);
extern bool coze_peers_are_awaited(void);

#endif							/* COZE_STATE_H */
