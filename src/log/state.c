/*-------------------------------------------------------------------------
 *
 * state.c
 *		What the processes of one database share: who the node is, its clock,
 *		what it holds.
 *
 * Invariants kept here:
 *
 *	Horizon.  A backend publishes a lower bound of its hlc in its slot, then
 *	draws; a reader reads the clock, then the slots, then takes its snapshot.
 *	The slot is cleared in the commit callback, which runs after the transaction
 *	has become visible.  So whatever the reader does not find in a slot either
 *	drew an hlc not below the clock that it read, or is visible to it.
 *
 *	Order and Seen.  hlc and V are drawn in one critical section.  A pending
 *	transaction of the applier counts iff its xid has committed: between its
 *	visibility and the publishing of the vector a user may already have written
 *	on what it brought.
 *
 *	The clock never falls behind anything that is in the log: state is read off
 *	the tables before the first draw after a server start (coze_attach).
 *
 * Attaching.  The tables are read without any lock, since that may wait for
 * another transaction's.  What was read is taken over only if nothing of it has
 * changed meanwhile: database->changes counts detaching and what the applier
 * publishes, after it has become visible.  A transaction that changed
 * local_node sees its own state (own_view), which nobody else does until it commits.
 * On a standby nothing is kept: its tables change without us.
 *
 * Locking: database->lock guards the clock, the vector and what is pending; it
 * is held for a few instructions.  registry->lock guards the list of databases.
 * Slots, cut, LSN, generation are atomics.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "debug.h"
#include "log/restore.h"
#include "log/state.h"
#include "settings.h"

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
	pg_atomic_uint32 segment;
	pg_atomic_uint32 linker_heeds;	/* does the linker want to know of commits? */

	CozeSharedVector held;		/* under lock */
	CozeSharedVector base;		/* under lock: last pruned entry of each origin */
	CozeSharedVector pending;	/* under lock: held once pending_xid has committed */
	TransactionId pending_xid;

	/* Processes to wake: pids and numbers, under lock. */
	int			worker_pid[COZE_WORKER_KINDS];
	int			worker_proc[COZE_WORKER_KINDS];
	pg_atomic_uint32 nwaiters;
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
	int			nslots;
	CozeSlot   *slots;
	CozeDatabase databases[FLEXIBLE_ARRAY_MEMBER];	/* cozesync_max_databases */
} CozeRegistry;

static CozeRegistry *registry = NULL;
static CozeDatabase *mine = NULL;	/* this backend's database */

/* What this transaction does at its end. */
static bool bound_published = false;
static CozeVersion drawn;		/* hlc 0: nothing */
static uint32 captured = 0;		/* changes in the entry that was drawn for */
static bool pending_set = false;
static bool detach_at_end = false;
static bool group_changed = false;
static CozeHlc new_cut = 0;
static CozeVector new_base;		/* with new_cut; in the transaction's memory */
static bool callback_registered = false;

/* With detach_at_end: the node as this transaction sees it. */
static CozeRestored own_view;	/* in the transaction's memory */
static bool own_view_valid = false;

static bool registered_waiter = false;

/* --- start-up --------------------------------------------------------------- */

static Size
database_vectors_size(void)
{
	return 3 * mul_size(sizeof(CozeVectorEntry), cozesync_max_nodes);
}

Size
coze_state_shmem_size(void)
{
	Size		size = offsetof(CozeRegistry, databases);

	size = add_size(size, mul_size(cozesync_max_databases, sizeof(CozeDatabase)));
	size = add_size(MAXALIGN(size), mul_size(cozesync_max_databases, database_vectors_size()));
	size = add_size(size, mul_size(MaxBackends, sizeof(CozeSlot)));
	return size;
}

void
coze_state_shmem_init(void)
{
	bool		found;
	char	   *p;

	registry = ShmemInitStruct("cozesync state", coze_state_shmem_size(), &found);
	if (!found)
	{
		memset(registry, 0, coze_state_shmem_size());
		LWLockInitialize(&registry->lock, LWLockNewTrancheId());
	}
	LWLockRegisterTranche(registry->lock.tranche, "cozesync");
	if (found)
		return;
	p = (char *) registry + MAXALIGN(offsetof(CozeRegistry, databases) +
									 cozesync_max_databases * sizeof(CozeDatabase));
	for (int i = 0; i < cozesync_max_databases; i++)
	{
		CozeDatabase *db = &registry->databases[i];
		CozeSharedVector *vectors[] = {&db->held, &db->base, &db->pending};

		LWLockInitialize(&db->lock, registry->lock.tranche);
		pg_atomic_init_u64(&db->clock, 0);
		pg_atomic_init_u64(&db->own_committed, 0);
		pg_atomic_init_u64(&db->captured_transactions, 0);
		pg_atomic_init_u64(&db->captured_rows, 0);
		pg_atomic_init_u64(&db->commit_lsn, 0);
		pg_atomic_init_u64(&db->cut, 0);
		pg_atomic_init_u64(&db->generation, 1);
		pg_atomic_init_u32(&db->segment, 0);
		pg_atomic_init_u32(&db->linker_heeds, 0);
		pg_atomic_init_u32(&db->nwaiters, 0);
		for (int v = 0; v < 3; v++)
		{
			vectors[v]->e = (CozeVectorEntry *) p;
			p += sizeof(CozeVectorEntry) * cozesync_max_nodes;
		}
	}
	registry->slots = (CozeSlot *) p;
	registry->nslots = MaxBackends;
	for (int i = 0; i < registry->nslots; i++)
		pg_atomic_init_u64(&registry->slots[i].bound, 0);
}

bool
coze_preloaded(void)
{
	return registry != NULL;
}

void
coze_check_preloaded(void)
{
	if (!coze_preloaded())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cozesync is not preloaded"),
				 errhint("Add this line to postgresql.conf and restart the server: shared_preload_libraries = 'cozesync'")));
}

/* --- vectors in shared memory ---------------------------------------------------- */

static CozeVector
view_of(const CozeSharedVector *shared)
{
	CozeVector	v = {shared->n, 0, shared->e};

	return v;
}

static void
shared_raise(CozeSharedVector *shared, CozeOrigin origin, CozeHlc hlc)
{
	int			i = 0;

	while (i < shared->n && shared->e[i].origin < origin)
		i++;
	if (i < shared->n && shared->e[i].origin == origin)
	{
		shared->e[i].hlc = Max(shared->e[i].hlc, hlc);
		return;
	}
	if (shared->n >= cozesync_max_nodes)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many nodes"),
				 errhint("Increase cozesync.max_nodes (now %d) and restart the server.",
						 cozesync_max_nodes)));
	memmove(&shared->e[i + 1], &shared->e[i], (shared->n - i) * sizeof(CozeVectorEntry));
	shared->e[i].origin = origin;
	shared->e[i].hlc = hlc;
	shared->n++;
}

static void
atomic_raise(pg_atomic_uint64 *a, uint64 value)
{
	uint64		old = pg_atomic_read_u64(a);

	while (old < value && !pg_atomic_compare_exchange_u64(a, &old, value))
		;
}

/* --- attaching ------------------------------------------------------------------- */

/* This database's place in the registry, taken now if it has none and take is set. */
static CozeDatabase *
find_database(bool take)
{
	CozeDatabase *found = NULL;
	CozeDatabase *unused = NULL;

	LWLockAcquire(&registry->lock, LW_EXCLUSIVE);
	for (int i = 0; i < cozesync_max_databases && found == NULL; i++)
	{
		CozeDatabase *db = &registry->databases[i];

		if (db->dboid == MyDatabaseId)
			found = db;
		else if (db->dboid == InvalidOid && unused == NULL)
			unused = db;
	}
	if (found == NULL && take && unused != NULL)
	{
		found = unused;
		found->dboid = MyDatabaseId;
	}
	LWLockRelease(&registry->lock);
	if (found == NULL && take)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many databases of this server use cozesync"),
				 errhint("Increase cozesync.max_databases (now %d) and restart the server.",
						 cozesync_max_databases)));
	return found;
}

static void
need_database(void)
{
	if (mine == NULL)
		mine = find_database(true);
}

static void
shared_replace(CozeSharedVector *shared, const CozeVector *v)
{
	shared->n = 0;
	for (int i = 0; i < v->n; i++)
		shared_raise(shared, v->e[i].origin, v->e[i].hlc);
}

/* Take over what the tables say.  The lock is held. */
static void
install_restored(CozeDatabase *db, const CozeRestored *restored, bool on_standby)
{
	shared_replace(&db->held, &restored->held);
	shared_replace(&db->base, &restored->base);
	for (int i = 0; i < db->pending.n; i++) /* keep the room made for them */
		shared_raise(&db->held, db->pending.e[i].origin, 0);
	if (db->origin != restored->origin)
		pg_atomic_write_u64(&db->own_committed, 0);
	if (pg_atomic_read_u32(&db->segment) == 0 || db->on_standby)
		pg_atomic_write_u32(&db->segment, restored->segment);
	db->state = restored->state;
	db->origin = restored->origin;
	memcpy(db->group_id, restored->group_id, sizeof(db->group_id));
	pg_atomic_write_u64(&db->cut, restored->cut);
	atomic_raise(&db->own_committed, restored->own_last);
	atomic_raise(&db->clock, restored->clock);
	db->on_standby = on_standby;
	pg_write_barrier();
	db->attached = true;
}

/* Read the tables until nothing changes meanwhile, and let everybody know. */
static CozeNodeState
attach_anew(void)
{
	for (;;)
	{
		bool		on_standby = RecoveryInProgress();
		uint64		changes = 0;
		CozeRestored restored;
		bool		done = false;

		if (mine != NULL)
		{
			LWLockAcquire(&mine->lock, LW_SHARED);
			changes = mine->changes;
			LWLockRelease(&mine->lock);
		}
		COZE_DEBUG_POINT("attach-before-read");
		coze_restore(&restored);
		COZE_DEBUG_POINT("attach-read");
		if (mine == NULL && restored.state == COZE_NODE_NONE)
			return COZE_NODE_NONE;	/* takes no place from those who need one */
		if (mine == NULL)
			need_database();	/* and once more, since changes was not known */
		else
		{
			LWLockAcquire(&mine->lock, LW_EXCLUSIVE);
			done = mine->changes == changes || !COZE_RULE("attach-whole");
			if (done)
				install_restored(mine, &restored, on_standby);
			LWLockRelease(&mine->lock);
		}
		coze_vector_free(&restored.held);
		coze_vector_free(&restored.base);
		if (done)
			return restored.state;
	}
}

/* The node as this transaction, which has changed it, sees it. */
static CozeNodeState
attach_own_view(void)
{
	if (!own_view_valid)
	{
		MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);

		coze_restore(&own_view);
		MemoryContextSwitchTo(old);
		own_view_valid = true;
		LWLockAcquire(&mine->lock, LW_EXCLUSIVE);
		atomic_raise(&mine->clock, own_view.clock);
		if (pg_atomic_read_u32(&mine->segment) == 0)
			pg_atomic_write_u32(&mine->segment, own_view.segment);
		LWLockRelease(&mine->lock);
	}
	return own_view.state;
}

CozeNodeState
coze_attach(void)
{
	if (detach_at_end)
		return attach_own_view();
	if (mine == NULL)
	{
		coze_check_preloaded();
		mine = find_database(false);
	}
	if (mine != NULL && mine->attached && !mine->on_standby)
	{
		pg_read_barrier();
		return mine->state;
	}
	return attach_anew();
}

List *
coze_registered_databases(void)
{
	List	   *databases = NIL;
	Oid		   *oids = palloc(cozesync_max_databases * sizeof(Oid));
	int			n = 0;

	LWLockAcquire(&registry->lock, LW_SHARED);
	for (int i = 0; i < cozesync_max_databases; i++)
		if (OidIsValid(registry->databases[i].dboid))
			oids[n++] = registry->databases[i].dboid;
	LWLockRelease(&registry->lock);
	for (int i = 0; i < n; i++)
		databases = lappend_oid(databases, oids[i]);
	pfree(oids);
	return databases;
}

/* Nothing of one database may be found by the next one in its place. */
static void
clear_database(CozeDatabase *db)
{
	LWLockAcquire(&db->lock, LW_EXCLUSIVE);
	db->changes++;
	db->attached = false;
	db->on_standby = false;
	db->origin = 0;
	db->state = COZE_NODE_NONE;
	db->held.n = db->base.n = db->pending.n = 0;
	db->pending_xid = InvalidTransactionId;
	pg_atomic_write_u64(&db->clock, 0);
	pg_atomic_write_u64(&db->own_committed, 0);
	pg_atomic_write_u64(&db->captured_transactions, 0);
	pg_atomic_write_u64(&db->captured_rows, 0);
	pg_atomic_write_u64(&db->commit_lsn, 0);
	pg_atomic_write_u64(&db->cut, 0);
	pg_atomic_write_u32(&db->segment, 0);
	pg_atomic_write_u32(&db->linker_heeds, 0);
	pg_atomic_write_u32(&db->nwaiters, 0);
	for (int i = 0; i < COZE_WORKER_KINDS; i++)
		db->worker_pid[i] = 0;
	LWLockRelease(&db->lock);
}

void
coze_forget_database(Oid dboid)
{
	LWLockAcquire(&registry->lock, LW_EXCLUSIVE);
	for (int i = 0; i < cozesync_max_databases; i++)
	{
		CozeDatabase *db = &registry->databases[i];

		if (OidIsValid(dboid) && db->dboid == dboid)
		{
			clear_database(db);
			db->dboid = InvalidOid;
		}
	}
	LWLockRelease(&registry->lock);
}

void
coze_check_member(void)
{
	CozeNodeState state = coze_attach();

	if (state == COZE_NODE_NONE || state == COZE_NODE_LEFT)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this database is not a member of a group"),
				 errhint("Use cozesync.create_group() on the first node, cozesync.join_group() on all others.")));
}

CozeOrigin
coze_own_origin(void)
{
	if (detach_at_end && own_view_valid)
		return own_view.origin;
	return mine != NULL ? mine->origin : 0;
}

CozeNodeState
coze_node_state(void)
{
	return coze_attach();
}

const uint8 *
coze_group_id(void)
{
	if (detach_at_end && own_view_valid)
		return own_view.group_id;
	Assert(mine != NULL);
	return mine->group_id;
}

/* --- what happens when a transaction ends ------------------------------------------- */

static void
wake(int procno)
{
	if (procno >= 0)
		SetLatch(&GetPGProcByNumber(procno)->procLatch);
}

/* What the applier's transaction brought, or would have brought. */
static void
end_pending(bool committed)
{
	if (committed)
		COZE_DEBUG_POINT("apply-after-commit-before-publish");
	LWLockAcquire(&mine->lock, LW_EXCLUSIVE);
	if (committed)
	{
		mine->changes++;
		for (int i = 0; i < mine->pending.n; i++)
			shared_raise(&mine->held, mine->pending.e[i].origin, mine->pending.e[i].hlc);
		atomic_raise(&mine->commit_lsn, XactLastCommitEnd);
	}
	mine->pending_xid = InvalidTransactionId;
	mine->pending.n = 0;
	LWLockRelease(&mine->lock);
}

/* The base first: who sees the new cut, or a log emptied up to it, sees the base. */
static void
publish_cut(void)
{
	LWLockAcquire(&mine->lock, LW_EXCLUSIVE);
	mine->changes++;
	for (int i = 0; i < new_base.n; i++)
		shared_raise(&mine->base, new_base.e[i].origin, new_base.e[i].hlc);
	atomic_raise(&mine->cut, new_cut);
	LWLockRelease(&mine->lock);
}

/* The bound that was published is withdrawn. */
static void
end_bound(bool committed)
{
	if (committed && drawn.hlc != 0)
	{
		atomic_raise(&mine->commit_lsn, XactLastCommitEnd);
		atomic_raise(&mine->own_committed, drawn.hlc);
		if (captured > 0)
			pg_atomic_fetch_add_u64(&mine->captured_transactions, 1);
		pg_atomic_fetch_add_u64(&mine->captured_rows, captured);
	}
	pg_write_barrier();
	pg_atomic_write_u64(&registry->slots[coze_my_proc_number()].bound, 0);
}

/* What local_node says has changed; gone: there is no node any more. */
static void
end_attachment(bool gone)
{
	LWLockAcquire(&mine->lock, LW_EXCLUSIVE);
	mine->changes++;
	mine->attached = false;
	if (gone)
	{
		mine->origin = 0;
		pg_atomic_write_u64(&mine->own_committed, 0);
	}
	LWLockRelease(&mine->lock);
}

/*
 * The transaction's effects in shared memory, once it is visible, or gone.
 * Nothing here may fail.
 */
static void
end_of_transaction(XactEvent event, void *arg)
{
	bool		committed = event == XACT_EVENT_COMMIT;
	bool		wakes;

	if (event == XACT_EVENT_PRE_PREPARE && (detach_at_end || group_changed))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot PREPARE a transaction that has changed what this node is or knows of its group")));
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT)
		return;
	if (mine == NULL)
		return;

	wakes = committed && (drawn.hlc != 0 || pending_set || group_changed);
	if (pending_set)
		end_pending(committed);
	if (new_cut != 0 && committed)
		publish_cut();
	if (bound_published)
		end_bound(committed);
	if (detach_at_end && committed)
		end_attachment(own_view_valid && own_view.state == COZE_NODE_NONE);
	if (group_changed && committed)
		pg_atomic_fetch_add_u64(&mine->generation, 1);
	if (wakes)
	{
		/* what was published above must be out before it is asked who heeds it */
		pg_memory_barrier();
		if (pending_set || group_changed || pg_atomic_read_u32(&mine->linker_heeds) != 0)
			coze_worker_wake(COZE_WORKER_LINKER);
		if (group_changed)
			coze_worker_wake(COZE_WORKER_APPLIER);
		coze_waiters_wake();
	}
	bound_published = pending_set = detach_at_end = group_changed = own_view_valid = false;
	drawn.hlc = 0;
	captured = 0;
	new_cut = 0;
	memset(&new_base, 0, sizeof(new_base));
}

/* What a subtransaction made of local_node is gone with it. */
static void
end_of_subtransaction(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		own_view_valid = false;
}

static void
at_end(void)
{
	Assert(mine != NULL);
	if (!callback_registered)
	{
		RegisterXactCallback(end_of_transaction, NULL);
		RegisterSubXactCallback(end_of_subtransaction, NULL);
		callback_registered = true;
	}
}

void
coze_detach_at_end(void)
{
	coze_check_preloaded();
	need_database();
	at_end();
	CommandCounterIncrement();
	detach_at_end = true;
	own_view_valid = false;
}

/* --- clock -------------------------------------------------------------------------- */

void
coze_clock_publish(void)
{
	CozeSlot   *slot = &registry->slots[coze_my_proc_number()];

	if (detach_at_end)
	{
		own_view_valid = false; /* as late as can be */
		(void) attach_own_view();
	}
	at_end();
	slot->dboid = MyDatabaseId;
	pg_write_barrier();
	if (COZE_RULE("publish-before-draw"))
		pg_atomic_write_u64(&slot->bound, pg_atomic_read_u64(&mine->clock) + 1);
	bound_published = true;
	pg_memory_barrier();
}

/*
 * Does the pending transaction count, being visible to every snapshot taken from now
 * on?  It is in the commit log a moment before that.  The lock is held.
 */
static bool
pending_counts(void)
{
	return TransactionIdIsValid(mine->pending_xid) && COZE_RULE("pending-seen") &&
		!TransactionIdIsInProgress(mine->pending_xid) &&
		TransactionIdDidCommit(mine->pending_xid);
}

/* Into a vector that has room for all nodes.  The lock is held. */
static void
copy_visible(CozeVector *v)
{
	v->n = 0;
	for (int i = 0; i < mine->held.n; i++)
		if (mine->held.e[i].hlc != 0)	/* 0: room made for a pending one */
			v->e[v->n++] = mine->held.e[i];
}

/* V into a vector that has room for all nodes.  The lock is held. */
static void
copy_held(CozeVector *v)
{
	copy_visible(v);
	if (pending_counts())
		for (int i = 0; i < mine->pending.n; i++)
			coze_vector_raise(v, mine->pending.e[i].origin, mine->pending.e[i].hlc);
}

/* V of an entry drawn now.  The lock is held. */
static void
copy_seen(CozeVector *seen)
{
	if (!detach_at_end || (mine->attached && mine->origin == own_view.origin))
	{
		copy_held(seen);
		return;
	}
	/* this transaction made the node what it is: only it knows */
	seen->n = 0;
	for (int i = 0; i < own_view.held.n; i++)
		seen->e[seen->n++] = own_view.held.e[i];
}

/* With the lock held: is what a draw needs there? */
static bool
can_draw(void)
{
	return detach_at_end || mine->attached;
}

/* The lock is held. */
static void
draw_hlc(void)
{
	drawn.origin = detach_at_end ? own_view.origin : mine->origin;
	drawn.hlc = coze_hlc_next(pg_atomic_read_u64(&mine->clock), GetCurrentTimestamp());
	pg_atomic_write_u64(&mine->clock, drawn.hlc);
}

CozeVersion
coze_clock_draw(CozeVector *seen)
{
	Assert(bound_published);
	coze_vector_reserve(seen, cozesync_max_nodes);
	LWLockAcquire(&mine->lock, LW_EXCLUSIVE);
	while (!can_draw())
	{
		LWLockRelease(&mine->lock);
		(void) coze_attach();
		LWLockAcquire(&mine->lock, LW_EXCLUSIVE);
	}
	draw_hlc();
	if (!COZE_RULE("draw-together"))
	{
		LWLockRelease(&mine->lock);
		COZE_DEBUG_POINT("draw-between");
		LWLockAcquire(&mine->lock, LW_EXCLUSIVE);
	}
	copy_seen(seen);
	LWLockRelease(&mine->lock);
	COZE_DEBUG_POINT("draw-done");
	if (drawn.origin == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this database has ceased to be a member of its group")));
	return drawn;
}

void
coze_count_captured(uint32 changes)
{
	captured = changes;
}

void
coze_captured(uint64 *transactions, uint64 *rows)
{
	*transactions = pg_atomic_read_u64(&mine->captured_transactions);
	*rows = pg_atomic_read_u64(&mine->captured_rows);
}

CozeHlc
coze_clock_horizon(int *held_back_by)
{
	CozeHlc		horizon = (CozeHlc) pg_atomic_read_u64(&mine->clock) + 1;

	if (held_back_by)
		*held_back_by = 0;
	pg_memory_barrier();
	for (int i = 0; i < registry->nslots; i++)
	{
		CozeSlot   *slot = &registry->slots[i];
		uint64		bound = pg_atomic_read_u64(&slot->bound);

		if (bound == 0)
			continue;
		pg_read_barrier();
		if (slot->dboid == MyDatabaseId && (CozeHlc) bound < horizon)
		{
			horizon = (CozeHlc) bound;
			if (held_back_by)
				*held_back_by = GetPGProcByNumber(i)->pid;
		}
	}
	pg_memory_barrier();
	return horizon;
}

bool
coze_clock_advance(CozeHlc received)
{
	if ((CozeHlc) pg_atomic_read_u64(&mine->clock) >= received)
		return true;
	if (coze_hlc_too_far(received, GetCurrentTimestamp(), cozesync_max_clock_drift * INT64CONST(1000)))
		return false;
	LWLockAcquire(&mine->lock, LW_EXCLUSIVE);
	atomic_raise(&mine->clock, received);
	LWLockRelease(&mine->lock);
	return true;
}

CozeHlc
coze_clock_last(void)
{
	return (CozeHlc) pg_atomic_read_u64(&mine->clock);
}

/* --- the vector ------------------------------------------------------------------------ */

void
coze_held(CozeVector *v)
{
	coze_vector_reserve(v, cozesync_max_nodes);
	LWLockAcquire(&mine->lock, LW_SHARED);
	copy_held(v);
	LWLockRelease(&mine->lock);
}

void
coze_held_visible(CozeVector *v)
{
	coze_vector_reserve(v, cozesync_max_nodes);
	LWLockAcquire(&mine->lock, LW_SHARED);
	copy_visible(v);
	LWLockRelease(&mine->lock);
}

CozeHlc
coze_held_of(CozeOrigin origin)
{
	CozeVector	held;
	CozeHlc		hlc;

	LWLockAcquire(&mine->lock, LW_SHARED);
	held = view_of(&mine->held);
	hlc = coze_vector_get(&held, origin);
	if (pending_counts())
	{
		held = view_of(&mine->pending);
		hlc = Max(hlc, coze_vector_get(&held, origin));
	}
	LWLockRelease(&mine->lock);
	return hlc;
}

CozeHlc
coze_own_committed_max(void)
{
	return (CozeHlc) pg_atomic_read_u64(&mine->own_committed);
}

void
coze_held_pending(const CozeVector *progress)
{
	TransactionId xid = GetTopTransactionId();

	at_end();
	LWLockAcquire(&mine->lock, LW_EXCLUSIVE);
	mine->pending.n = 0;
	for (int i = 0; i < progress->n; i++)
		shared_raise(&mine->pending, progress->e[i].origin, progress->e[i].hlc);
	/* room is made sure of here, since the callback must not fail */
	for (int i = 0; i < progress->n; i++)
		shared_raise(&mine->held, progress->e[i].origin, 0);
	mine->pending_xid = xid;
	pending_set = true;
	LWLockRelease(&mine->lock);
}

/* --- durability --------------------------------------------------------------------------- */

/*
 * The end of the WAL that was inserted so far, as XLogFlush() takes it: where the
 * next record would begin a page, that page's header does not count.
 */
static XLogRecPtr
end_of_inserted_wal(void)
{
	XLogRecPtr	ptr = GetXLogInsertRecPtr();
	Size		offset = ptr % XLOG_BLCKSZ;

	if (offset == SizeOfXLogShortPHD ||
		(offset == SizeOfXLogLongPHD && (ptr - offset) % wal_segment_size == 0))
		ptr -= offset;
	return ptr;
}

void
coze_flush(void)
{
	bool		pending;

	if (!COZE_RULE("flush-before-send"))
		return;
	LWLockAcquire(&mine->lock, LW_SHARED);
	pending = pending_counts();
	LWLockRelease(&mine->lock);

	/*
	 * A pending transaction may have committed and not yet said where; all else
	 * that is below the horizon or in the vector has raised commit_lsn.
	 */
	if (pending)
		XLogFlush(end_of_inserted_wal());
	else
		XLogFlush(pg_atomic_read_u64(&mine->commit_lsn));
}

/* --- cut, segment, generation ------------------------------------------------------------------ */

CozeHlc
coze_cut(void)
{
	return (CozeHlc) pg_atomic_read_u64(&mine->cut);
}

void
coze_set_cut_at_commit(CozeHlc cut, const CozeVector *base)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);

	at_end();
	coze_vector_init(&new_base);
	coze_vector_copy(&new_base, base);
	MemoryContextSwitchTo(old);
	/* room is made sure of here, since the callback must not fail */
	LWLockAcquire(&mine->lock, LW_EXCLUSIVE);
	for (int i = 0; i < base->n; i++)
		shared_raise(&mine->base, base->e[i].origin, 0);
	LWLockRelease(&mine->lock);
	new_cut = cut;
}

CozeHlc
coze_base_of(CozeOrigin origin)
{
	CozeVector	base;
	CozeHlc		hlc;

	LWLockAcquire(&mine->lock, LW_SHARED);
	base = view_of(&mine->base);
	hlc = coze_vector_get(&base, origin);
	LWLockRelease(&mine->lock);
	return hlc;
}

int
coze_current_segment(void)
{
	return (int) pg_atomic_read_u32(&mine->segment);
}

void
coze_set_current_segment(int segment)
{
	pg_atomic_write_u32(&mine->segment, (uint32) segment);
}

uint64
coze_group_generation(void)
{
	return pg_atomic_read_u64(&mine->generation);
}

void
coze_group_changed_at_commit(void)
{
	(void) coze_attach();
	need_database();
	at_end();
	group_changed = true;
}

/* --- waking ----------------------------------------------------------------------------------------- */

static void
unregister_worker(int code, Datum arg)
{
	int			kind = DatumGetInt32(arg);

	LWLockAcquire(&mine->lock, LW_EXCLUSIVE);
	if (mine->worker_pid[kind] == MyProcPid)
		mine->worker_pid[kind] = 0;
	LWLockRelease(&mine->lock);
}

void
coze_worker_register(CozeWorkerKind kind)
{
	int			other;

	need_database();
	LWLockAcquire(&mine->lock, LW_EXCLUSIVE);
	other = mine->worker_pid[kind];
	if (other == 0 || other == MyProcPid)
	{
		mine->worker_pid[kind] = MyProcPid;
		mine->worker_proc[kind] = coze_my_proc_number();
		other = 0;
	}
	LWLockRelease(&mine->lock);
	if (other != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("process %d already does this work for the database", other)));
	on_shmem_exit(unregister_worker, Int32GetDatum(kind));
}

int
coze_worker_pid(CozeWorkerKind kind)
{
	return mine->worker_pid[kind];
}

void
coze_worker_wake(CozeWorkerKind kind)
{
	if (mine->worker_pid[kind] != 0)
		wake(mine->worker_proc[kind]);
}

void
coze_linker_heed_commits(bool heeds)
{
	if ((pg_atomic_read_u32(&mine->linker_heeds) != 0) == heeds)
		return;
	pg_atomic_write_u32(&mine->linker_heeds, heeds ? 1 : 0);
	pg_memory_barrier();
}

static void
forget_waiter(int code, Datum arg)
{
	coze_waiter_remove();
}

void
coze_waiter_add(void)
{
	static bool exit_callback = false;
	uint32		n;

	if (registered_waiter)
		return;
	LWLockAcquire(&mine->lock, LW_EXCLUSIVE);
	n = pg_atomic_read_u32(&mine->nwaiters);
	if (n < COZE_MAX_WAITERS)
	{
		mine->waiters[n] = coze_my_proc_number();
		pg_atomic_write_u32(&mine->nwaiters, n + 1);
		registered_waiter = true;
	}
	LWLockRelease(&mine->lock);
	if (!exit_callback)
		before_shmem_exit(forget_waiter, (Datum) 0);
	exit_callback = true;
}

void
coze_waiter_remove(void)
{
	uint32		n;

	if (!registered_waiter)
		return;
	LWLockAcquire(&mine->lock, LW_EXCLUSIVE);
	n = pg_atomic_read_u32(&mine->nwaiters);
	for (uint32 i = 0; i < n; i++)
	{
		if (mine->waiters[i] == coze_my_proc_number())
		{
			mine->waiters[i] = mine->waiters[n - 1];
			pg_atomic_write_u32(&mine->nwaiters, n - 1);
			break;
		}
	}
	LWLockRelease(&mine->lock);
	registered_waiter = false;
}

void
coze_waiters_wake(void)
{
	int			procs[COZE_MAX_WAITERS];
	uint32		n;

	if (pg_atomic_read_u32(&mine->nwaiters) == 0)
		return;
	LWLockAcquire(&mine->lock, LW_SHARED);
	n = pg_atomic_read_u32(&mine->nwaiters);
	memcpy(procs, mine->waiters, n * sizeof(int));
	LWLockRelease(&mine->lock);
	for (uint32 i = 0; i < n; i++)
		wake(procs[i]);
}
