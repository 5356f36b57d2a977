/*-------------------------------------------------------------------------
 *
 * wake.c
 *		Who is woken when something happens: the workers, and backends that wait.
 *
 * A process is known by its number, whose latch is set; numbers are guarded by
 * database->lock, and whoever registered is taken out when he exits.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"

#include "compat.h"
#include "log/shared.h"
#include "log/state.h"

static bool registered_waiter = false;
static bool awaits_peers = false;

void
coze_wake_process(int procno)
{
	if (procno >= 0)
		SetLatch(&GetPGProcByNumber(procno)->procLatch);
}

static void
unregister_worker(int code, Datum arg)
{
	int			kind = DatumGetInt32(arg);

	LWLockAcquire(&coze_mine->lock, LW_EXCLUSIVE);
	if (coze_mine->worker_pid[kind] == MyProcPid)
		coze_mine->worker_pid[kind] = 0;
	LWLockRelease(&coze_mine->lock);
}

void
coze_worker_register(CozeWorkerKind kind)
{
	int			other;

	coze_need_database();
	LWLockAcquire(&coze_mine->lock, LW_EXCLUSIVE);
	other = coze_mine->worker_pid[kind];
	if (other == 0 || other == MyProcPid)
	{
		coze_mine->worker_pid[kind] = MyProcPid;
		coze_mine->worker_proc[kind] = coze_my_proc_number();
		other = 0;
	}
	LWLockRelease(&coze_mine->lock);
	if (other != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("process %d already does this work for the database", other)));
	on_shmem_exit(unregister_worker, Int32GetDatum(kind));
}

int
coze_worker_pid(CozeWorkerKind kind)
{
	return coze_mine->worker_pid[kind];
}

void
coze_worker_wake(CozeWorkerKind kind)
{
	if (coze_mine->worker_pid[kind] != 0)
		coze_wake_process(coze_mine->worker_proc[kind]);
}

void
coze_linker_heed(uint32 heeds)
{
	if (pg_atomic_read_u32(&coze_mine->linker_heeds) == heeds)
		return;
	pg_atomic_write_u32(&coze_mine->linker_heeds, heeds);
	pg_memory_barrier();
}

static void
forget_waiter(int code, Datum arg)
{
	coze_waiter_remove();
	coze_await_peers(false);
}

void
coze_await_peers(bool await)
{
	if (await == awaits_peers)
		return;
	awaits_peers = await;
	if (await)
	{
		pg_atomic_fetch_add_u32(&coze_mine->nawaiting, 1);
		coze_worker_wake(COZE_WORKER_LINKER);
	}
	else
		pg_atomic_fetch_sub_u32(&coze_mine->nawaiting, 1);
}

bool
coze_peers_are_awaited(void)
{
	return pg_atomic_read_u32(&coze_mine->nawaiting) > 0;
}

void
coze_waiter_add(void)
{
	static bool exit_callback = false;
	uint32		n;

	if (registered_waiter)
		return;
	LWLockAcquire(&coze_mine->lock, LW_EXCLUSIVE);
	n = pg_atomic_read_u32(&coze_mine->nwaiters);
	if (n < COZE_MAX_WAITERS)
	{
		coze_mine->waiters[n] = coze_my_proc_number();
		pg_atomic_write_u32(&coze_mine->nwaiters, n + 1);
		registered_waiter = true;
	}
	LWLockRelease(&coze_mine->lock);
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
	LWLockAcquire(&coze_mine->lock, LW_EXCLUSIVE);
	n = pg_atomic_read_u32(&coze_mine->nwaiters);
	for (uint32 i = 0; i < n; i++)
	{
		if (coze_mine->waiters[i] == coze_my_proc_number())
		{
			coze_mine->waiters[i] = coze_mine->waiters[n - 1];
			pg_atomic_write_u32(&coze_mine->nwaiters, n - 1);
			break;
		}
	}
	LWLockRelease(&coze_mine->lock);
	registered_waiter = false;
}

void
coze_waiters_wake(void)
{
	int			procs[COZE_MAX_WAITERS];
	uint32		n;

	if (pg_atomic_read_u32(&coze_mine->nwaiters) == 0)
		return;
	LWLockAcquire(&coze_mine->lock, LW_SHARED);
	n = pg_atomic_read_u32(&coze_mine->nwaiters);
	memcpy(procs, coze_mine->waiters, n * sizeof(int));
	LWLockRelease(&coze_mine->lock);
	for (uint32 i = 0; i < n; i++)
		coze_wake_process(procs[i]);
}
