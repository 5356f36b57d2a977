/*-------------------------------------------------------------------------
 *
 * state.c
 *		What the processes of one database share: who the node is, and its place
 *		in shared memory.
 *
 * Everything is read off the tables before its first use after a server start, so the
 * clock never falls behind anything that is in the log.
 *
 * Attaching.  The tables are read without any lock, since that may wait for
 * another transaction's.  What was read is taken over only if nothing of it has
 * changed meanwhile: database->changes counts detaching and what the applier
 * publishes, after it has become visible.  A transaction that changed
 * local_node sees its own state (own_view), which nobody else does until it commits.
 * On a standby nothing is kept: its tables change without us.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/memutils.h"

#include "debug.h"
#include "log/restore.h"
#include "log/shared.h"
#include "log/state.h"
#include "settings.h"

CozeRegistry *coze_registry = NULL;
CozeDatabase *coze_mine = NULL;

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

	coze_registry = ShmemInitStruct("cozesync state", coze_state_shmem_size(), &found);
	if (!found)
	{
		memset(coze_registry, 0, coze_state_shmem_size());
		LWLockInitialize(&coze_registry->lock, LWLockNewTrancheId());
	}
	LWLockRegisterTranche(coze_registry->lock.tranche, "cozesync");
	if (found)
		return;
	if (!pg_strong_random(&coze_registry->instance, sizeof(uint64)) || coze_registry->instance == 0)
		elog(FATAL, "could not draw a number for this start of the server");
	p = (char *) coze_registry + MAXALIGN(offsetof(CozeRegistry, databases) +
									 cozesync_max_databases * sizeof(CozeDatabase));
	for (int i = 0; i < cozesync_max_databases; i++)
	{
		CozeDatabase *db = &coze_registry->databases[i];
		CozeSharedVector *vectors[] = {&db->held, &db->base, &db->pending};

		LWLockInitialize(&db->lock, coze_registry->lock.tranche);
		pg_atomic_init_u64(&db->clock, 0);
		pg_atomic_init_u64(&db->own_committed, 0);
		pg_atomic_init_u64(&db->captured_transactions, 0);
		pg_atomic_init_u64(&db->captured_rows, 0);
		pg_atomic_init_u64(&db->commit_lsn, 0);
		pg_atomic_init_u64(&db->cut, 0);
		pg_atomic_init_u64(&db->generation, 1);
		pg_atomic_init_u32(&db->segment, 0);
		pg_atomic_init_u64(&db->rotations, 1);
		pg_atomic_init_u32(&db->linker_heeds, 0);
		pg_atomic_init_u32(&db->nwaiters, 0);
		pg_atomic_init_u32(&db->nawaiting, 0);
		for (int v = 0; v < 3; v++)
		{
			vectors[v]->e = (CozeVectorEntry *) p;
			p += sizeof(CozeVectorEntry) * cozesync_max_nodes;
		}
	}
	coze_registry->slots = (CozeSlot *) p;
	coze_registry->nslots = MaxBackends;
	for (int i = 0; i < coze_registry->nslots; i++)
		pg_atomic_init_u64(&coze_registry->slots[i].bound, 0);
}

uint64
coze_instance(void)
{
	return coze_registry->instance;
}

bool
coze_preloaded(void)
{
	return coze_registry != NULL;
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

CozeVector
coze_shared_view(const CozeSharedVector *shared)
{
	CozeVector	v = {shared->n, 0, shared->e};

	return v;
}

void
coze_shared_raise(CozeSharedVector *shared, CozeOrigin origin, CozeHlc hlc)
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

void
coze_atomic_raise(pg_atomic_uint64 *a, uint64 value)
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

	LWLockAcquire(&coze_registry->lock, LW_EXCLUSIVE);
	for (int i = 0; i < cozesync_max_databases && found == NULL; i++)
	{
		CozeDatabase *db = &coze_registry->databases[i];

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
	LWLockRelease(&coze_registry->lock);
	if (found == NULL && take)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many databases of this server use cozesync"),
				 errhint("Increase cozesync.max_databases (now %d) and restart the server.",
						 cozesync_max_databases)));
	return found;
}

void
coze_need_database(void)
{
	if (coze_mine == NULL)
		coze_mine = find_database(true);
}

static void
shared_replace(CozeSharedVector *shared, const CozeVector *v)
{
	shared->n = 0;
	for (int i = 0; i < v->n; i++)
		coze_shared_raise(shared, v->e[i].origin, v->e[i].hlc);
}

/* Take over what the tables say.  The lock is held. */
static void
install_restored(CozeDatabase *db, const CozeRestored *restored, bool on_standby)
{
	shared_replace(&db->held, &restored->held);
	shared_replace(&db->base, &restored->base);
	for (int i = 0; i < db->pending.n; i++) /* keep the room made for them */
		coze_shared_raise(&db->held, db->pending.e[i].origin, 0);
	if (db->origin != restored->origin)
		pg_atomic_write_u64(&db->own_committed, 0);
	if (pg_atomic_read_u32(&db->segment) == 0 || db->on_standby)
		coze_shared_set_segment(db, restored->segment);
	db->state = restored->state;
	db->origin = restored->origin;
	memcpy(db->group_id, restored->group_id, sizeof(db->group_id));
	pg_atomic_write_u64(&db->cut, restored->cut);
	coze_atomic_raise(&db->own_committed, restored->own_last);
	coze_atomic_raise(&db->clock, restored->clock);
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

		if (coze_mine != NULL)
		{
			LWLockAcquire(&coze_mine->lock, LW_SHARED);
			changes = coze_mine->changes;
			LWLockRelease(&coze_mine->lock);
		}
		COZE_DEBUG_POINT("attach-before-read");
		coze_restore(&restored);
		COZE_DEBUG_POINT("attach-read");
		if (coze_mine == NULL && restored.state == COZE_NODE_NONE)
			return COZE_NODE_NONE;	/* takes no place from those who need one */
		if (coze_mine == NULL)
			coze_need_database();	/* and once more, since changes was not known */
		else
		{
			LWLockAcquire(&coze_mine->lock, LW_EXCLUSIVE);
			done = coze_mine->changes == changes || !COZE_RULE("attach-whole");
			if (done)
				install_restored(coze_mine, &restored, on_standby);
			LWLockRelease(&coze_mine->lock);
		}
		coze_vector_free(&restored.held);
		coze_vector_free(&restored.base);
		if (done)
			return restored.state;
	}
}

/* The node as this transaction, which has changed it, sees it. */
CozeNodeState
coze_attach_own_view(void)
{
	if (!coze_ending.own_view_valid)
	{
		MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);

		coze_restore(&coze_ending.own_view);
		MemoryContextSwitchTo(old);
		coze_ending.own_view_valid = true;
		LWLockAcquire(&coze_mine->lock, LW_EXCLUSIVE);
		coze_atomic_raise(&coze_mine->clock, coze_ending.own_view.clock);
		if (pg_atomic_read_u32(&coze_mine->segment) == 0)
			coze_shared_set_segment(coze_mine, coze_ending.own_view.segment);
		LWLockRelease(&coze_mine->lock);
	}
	return coze_ending.own_view.state;
}

CozeNodeState
coze_attach(void)
{
	if (coze_ending.detach_at_end)
		return coze_attach_own_view();
	if (coze_mine == NULL)
	{
		coze_check_preloaded();
		coze_mine = find_database(false);
	}
	if (coze_mine != NULL && coze_mine->attached && !coze_mine->on_standby)
	{
		pg_read_barrier();
		return coze_mine->state;
	}
	return attach_anew();
}

List *
coze_registered_databases(void)
{
	List	   *databases = NIL;
	Oid		   *oids = palloc(cozesync_max_databases * sizeof(Oid));
	int			n = 0;

	LWLockAcquire(&coze_registry->lock, LW_SHARED);
	for (int i = 0; i < cozesync_max_databases; i++)
		if (OidIsValid(coze_registry->databases[i].dboid))
			oids[n++] = coze_registry->databases[i].dboid;
	LWLockRelease(&coze_registry->lock);
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
	coze_shared_set_segment(db, 0);
	pg_atomic_write_u32(&db->linker_heeds, 0);
	pg_atomic_write_u32(&db->nwaiters, 0);
	pg_atomic_write_u32(&db->nawaiting, 0);
	for (int i = 0; i < COZE_WORKER_KINDS; i++)
		db->worker_pid[i] = 0;
	LWLockRelease(&db->lock);
}

void
coze_forget_database(Oid dboid)
{
	LWLockAcquire(&coze_registry->lock, LW_EXCLUSIVE);
	for (int i = 0; i < cozesync_max_databases; i++)
	{
		CozeDatabase *db = &coze_registry->databases[i];

		if (OidIsValid(dboid) && db->dboid == dboid)
		{
			clear_database(db);
			db->dboid = InvalidOid;
		}
	}
	LWLockRelease(&coze_registry->lock);
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
	if (coze_ending.detach_at_end && coze_ending.own_view_valid)
		return coze_ending.own_view.origin;
	return coze_mine != NULL ? coze_mine->origin : 0;
}

CozeNodeState
coze_node_state(void)
{
	return coze_attach();
}

const uint8 *
coze_group_id(void)
{
	if (coze_ending.detach_at_end && coze_ending.own_view_valid)
		return coze_ending.own_view.group_id;
	Assert(coze_mine != NULL);
	return coze_mine->group_id;
}
