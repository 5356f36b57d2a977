/*-------------------------------------------------------------------------
 *
 * launcher.c
 *		Which databases have workers: starting, keeping, sending them away.
 *
 * Nothing outside of a database tells whether it is a member of a group.  So the
 * launcher, which is connected to none, starts a linker in every database once,
 * after a server start or when it is new, one at a time; a linker that finds itself in the wrong
 * place says so and exits.  From then on calls that make a database a member wake
 * the launcher.  A linker that fails is started again, later each time; the applier is
 * its linker's business.
 *
 * Who needs a database without sessions (to drop, rename or copy it) holds it:
 * the launcher starts nothing there, greetings are refused, and all that is there
 * is told to leave.
 *
 * A server that was told to stop when its clients are gone (smart shutdown) does not
 * count our workers, but the sessions of peers, who do not go by themselves.  So the
 * launcher ends those once there are no other sessions; no new ones come then.
 *
 * Invariant: a wake-up is not lost.  An entry counts wake-ups; a linker takes back
 * only as many as it had seen when it looked.
 *
 * Locking: launcher->lock for all of the shared struct.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/pidfile.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "apply/apply.h"
#include "apply/queue.h"
#include "compat.h"
#include "link/launcher.h"
#include "link/link_state.h"
#include "link/roads.h"
#include "log/state.h"
#include "log/wall.h"
#include "settings.h"

/* Databases that are looked at at the same time, beside the members. */
#define SPARE_ENTRIES 16
#define MAX_HOLDS 16
#define WORKERS_PER_DATABASE 4
#define SESSIONS_PER_NODE 3

/* How often the launcher looks whether the server waits for its clients to go, in ms. */
#define SHUTDOWN_POLL 1000

/* How long hold() waits for workers to leave, and how often it looks, in ms. */
#define LEAVE_TIMEOUT 5000
#define LEAVE_POLL 10

/* A failed linker is started again after so many ms, doubled each time. */
#define RESTART_MIN 200
#define RESTART_MAX 60000

typedef struct Entry
{
	Oid			database;		/* InvalidOid: free */
	uint64		wakes;
	bool		is_member;		/* as its linker found */
	bool		probed;			/* its linker has looked */
} Entry;

typedef struct Hold
{
	Oid			database;		/* InvalidOid: free */
	int			pid;
} Hold;

typedef struct Worker
{
	Oid			database;		/* InvalidOid: free */
	int			pid;
	bool		is_session;		/* of a peer */
} Worker;

typedef struct LauncherShared
{
	LWLock		lock;
	int			proc;			/* the launcher's, -1: not running */
	bool		rescan;			/* look at all databases again */
	int			nentries;
	int			nworkers;
	Hold		holds[MAX_HOLDS];
	Worker	   *workers;
	Entry		entries[FLEXIBLE_ARRAY_MEMBER];
} LauncherShared;

/* What the launcher itself knows of a database. */
typedef struct Watched
{
	Oid			database;
	BackgroundWorkerHandle *handle; /* NULL: not started */
	int			failures;		/* in a row */
	CozeMoment	start_at;
} Watched;

static LauncherShared *shared;
static List *to_wake;			/* oids, at the end of this transaction */
static uint64 seen_wakes;		/* in a linker: when it started to look */

/* In the launcher. */
static List *watched;			/* Watched * */
static List *seen;				/* oids of all databases that were, or will be, looked at */
static List *to_probe;			/* of those that were not yet */
static bool told_of_slots;

/* --- shared memory ------------------------------------------------------------------- */

static int
entry_count(void)
{
	return cozesync_max_databases + SPARE_ENTRIES;
}

static Size
entries_size(void)
{
	return MAXALIGN(add_size(offsetof(LauncherShared, entries),
							 mul_size(entry_count(), sizeof(Entry))));
}

static int
worker_count(void)
{
	return entry_count() * WORKERS_PER_DATABASE +
		cozesync_max_databases * cozesync_max_nodes * SESSIONS_PER_NODE;
}

Size
coze_launcher_shmem_size(void)
{
	return add_size(entries_size(), mul_size(worker_count(), sizeof(Worker)));
}

void
coze_launcher_shmem_init(void)
{
	bool		found;

	shared = ShmemInitStruct("cozesync launcher", coze_launcher_shmem_size(), &found);
	if (!found)
	{
		memset(shared, 0, coze_launcher_shmem_size());
		LWLockInitialize(&shared->lock, LWLockNewTrancheId());
		shared->proc = -1;
		shared->nentries = entry_count();
		shared->nworkers = worker_count();
		shared->workers = (Worker *) ((char *) shared + entries_size());
	}
	LWLockRegisterTranche(shared->lock.tranche, "cozesync launcher");
}

/* The caller holds the lock.  database may be InvalidOid: a free entry. */
static Entry *
find_entry(Oid database)
{
	for (int i = 0; i < shared->nentries; i++)
	{
		if (shared->entries[i].database == database)
			return &shared->entries[i];
	}
	return NULL;
}

/* The caller holds the lock exclusively. */
static bool
want(Oid database)
{
	Entry	   *entry = find_entry(database);

	if (entry == NULL)
	{
		entry = find_entry(InvalidOid);
		if (entry == NULL)
			return false;
		memset(entry, 0, sizeof(*entry));
		entry->database = database;
	}
	entry->wakes++;
	return true;
}

static void
wake_launcher(void)
{
	int			proc = shared->proc;

	if (proc >= 0)
		SetLatch(&GetPGProcByNumber(proc)->procLatch);
}

/* --- waking it from SQL calls ---------------------------------------------------------- */

static void
wake_at_end(XactEvent event, void *arg)
{
	ListCell   *lc;

	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT)
		return;
	if (event == XACT_EVENT_COMMIT && to_wake != NIL)
	{
		LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
		foreach(lc, to_wake)
		{
			if (OidIsValid(lfirst_oid(lc)) && !want(lfirst_oid(lc)))
				shared->rescan = true;
		}
		LWLockRelease(&shared->lock);
		wake_launcher();
	}
	to_wake = NIL;				/* it lay in the transaction's memory */
}

void
coze_launcher_wake(Oid database)
{
	static bool registered = false;
	MemoryContext old;

	coze_check_preloaded();
	if (!registered)
		RegisterXactCallback(wake_at_end, NULL);
	registered = true;
	old = MemoryContextSwitchTo(TopTransactionContext);
	to_wake = list_append_unique_oid(to_wake, database);
	MemoryContextSwitchTo(old);
}

/* --- for workers -------------------------------------------------------------------------- */

static void
leave(int code, Datum arg)
{
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < shared->nworkers; i++)
	{
		if (OidIsValid(shared->workers[i].database) && shared->workers[i].pid == MyProcPid)
			shared->workers[i].database = InvalidOid;
	}
	LWLockRelease(&shared->lock);
}

/* The caller holds the lock exclusively. */
static void
take_place(bool is_session)
{
	for (int i = 0; i < shared->nworkers; i++)
	{
		if (OidIsValid(shared->workers[i].database))
			continue;
		shared->workers[i].database = MyDatabaseId;
		shared->workers[i].pid = MyProcPid;
		shared->workers[i].is_session = is_session;
		break;
	}
}

void
coze_launcher_enter_session(void)
{
	static bool entered = false;

	if (entered)
		return;
	on_shmem_exit(leave, (Datum) 0);
	entered = true;
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	take_place(true);
	LWLockRelease(&shared->lock);
}

void
coze_launcher_enter(void)
{
	Entry	   *entry;

	on_shmem_exit(leave, (Datum) 0);
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	take_place(false);
	entry = find_entry(MyDatabaseId);
	seen_wakes = entry != NULL ? entry->wakes : 0;
	LWLockRelease(&shared->lock);
}

void
coze_launcher_is_member(void)
{
	Entry	   *entry;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	entry = find_entry(MyDatabaseId);
	if (entry != NULL)
		entry->is_member = entry->probed = true;
	LWLockRelease(&shared->lock);
	wake_launcher();
}

void
coze_launcher_is_no_member(void)
{
	Entry	   *entry;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	entry = find_entry(MyDatabaseId);
	if (entry != NULL)
	{
		entry->is_member = false;
		entry->probed = true;
		if (entry->wakes == seen_wakes)
			entry->database = InvalidOid;
	}
	LWLockRelease(&shared->lock);
}

/* --- holding a database ---------------------------------------------------------------------- */

bool
coze_launcher_is_held(Oid database)
{
	bool		held = false;

	if (shared == NULL)
		return false;
	LWLockAcquire(&shared->lock, LW_SHARED);
	for (int i = 0; i < MAX_HOLDS; i++)
		held |= shared->holds[i].database == database;
	LWLockRelease(&shared->lock);
	return held;
}

/* pids of a database's workers, and of the sessions that its peers have there. */
static int
pids_in(Oid database, int *pids, int max)
{
	int			n = 0;

	LWLockAcquire(&shared->lock, LW_SHARED);
	for (int i = 0; i < shared->nworkers && n < max; i++)
	{
		if (shared->workers[i].database == database)
			pids[n++] = shared->workers[i].pid;
	}
	LWLockRelease(&shared->lock);
	return n;
}

/* Not a process of somebody else, who has got its number since. */
static void
end_process(int pid)
{
	if (BackendPidGetProc(pid) != NULL)
		kill(pid, SIGTERM);
}

static void
send_away(Oid database)
{
	int			pids[256];
	CozeMoment until = TimestampTzPlusMilliseconds(coze_monotonic(), LEAVE_TIMEOUT);

	for (;;)
	{
		int			n = pids_in(database, pids, lengthof(pids));
		int			others = 0;

		for (int i = 0; i < n; i++)
		{
			if (pids[i] == MyProcPid)
				continue;
			others++;
			end_process(pids[i]);
		}
		if (others == 0 || coze_monotonic() >= until)
			return;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 LEAVE_POLL, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

void
coze_launcher_hold(Oid database)
{
	bool		done = false;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_HOLDS && !done; i++)
	{
		if (OidIsValid(shared->holds[i].database))
			continue;
		shared->holds[i].database = database;
		shared->holds[i].pid = MyProcPid;
		done = true;
	}
	LWLockRelease(&shared->lock);
	if (!done)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("too many databases are being dropped, renamed or copied at once"),
				 errhint("Try again.")));
	send_away(database);
}

void
coze_launcher_release(Oid database)
{
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_HOLDS; i++)
	{
		if (shared->holds[i].database == database && shared->holds[i].pid == MyProcPid)
			shared->holds[i].database = InvalidOid;
	}
	LWLockRelease(&shared->lock);
	wake_launcher();
}

/* --- the launcher ------------------------------------------------------------------------------ */

void
coze_launcher_register(void)
{
	BackgroundWorker worker = {
		.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
		.bgw_start_time = BgWorkerStart_RecoveryFinished,
		.bgw_restart_time = 5,
		.bgw_library_name = "cozesync",
		.bgw_function_name = "coze_launcher_main",
		.bgw_name = "cozesync launcher",
		.bgw_type = "cozesync launcher",
	};

	RegisterBackgroundWorker(&worker);
}

/* Databases that one can connect to; *all: these and all others. */
static List *
list_databases(List **all)
{
	List	   *connectable = NIL;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;
	MemoryContext old = CurrentMemoryContext;

	*all = NIL;
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext inner = MemoryContextSwitchTo(old);

		*all = lappend_oid(*all, form->oid);
		if (form->datallowconn && !form->datistemplate)
			connectable = lappend_oid(connectable, form->oid);
		MemoryContextSwitchTo(inner);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(old);
	return connectable;
}

static Watched *
watch(Oid database)
{
	ListCell   *lc;
	Watched    *w;

	foreach(lc, watched)
	{
		w = lfirst(lc);
		if (w->database == database)
			return w;
	}
	w = palloc0(sizeof(Watched));
	w->database = database;
	watched = lappend(watched, w);
	return w;
}

/* Databases of which there is a trace in shared memory. */
static List *
list_known(void)
{
	List	   *known = coze_registered_databases();

	LWLockAcquire(&shared->lock, LW_SHARED);
	for (int i = 0; i < shared->nentries; i++)
	{
		if (OidIsValid(shared->entries[i].database))
			known = list_append_unique_oid(known, shared->entries[i].database);
	}
	LWLockRelease(&shared->lock);
	return known;
}

/* Forget databases that are gone, wherever there is a trace of them. */
static void
forget_dropped(const List *known, const List *all)
{
	ListCell   *lc;

	foreach(lc, known)
	{
		Oid			database = lfirst_oid(lc);
		Entry	   *entry;

		if (list_member_oid(all, database))
			continue;
		coze_forget_database(database);
		coze_queue_forget_database(database);
		coze_stop_forget_database(database);
		coze_link_forget_database(database);
		coze_roads_forget_database(database);
		LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
		entry = find_entry(database);
		if (entry != NULL)
			entry->database = InvalidOid;
		LWLockRelease(&shared->lock);
	}
}

/* Find databases that are new, or gone; or look at all of them anew. */
static void
scan_databases(bool probe_all)
{
	List	   *known = list_known();	/* first: what is known and not listed is gone */
	List	   *all;
	List	   *connectable = list_databases(&all);
	ListCell   *lc;

	forget_dropped(known, all);
	list_free(known);
	foreach(lc, connectable)
	{
		if (probe_all || !list_member_oid(seen, lfirst_oid(lc)))
			to_probe = list_append_unique_oid(to_probe, lfirst_oid(lc));
	}
	list_free(all);
	list_free(seen);
	seen = connectable;
}

/* One that was not looked at yet, if none is being looked at; others wait. */
static void
probe_next(void)
{
	bool		busy = false;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < shared->nentries; i++)
		busy |= OidIsValid(shared->entries[i].database) && !shared->entries[i].probed;
	if (!busy && to_probe != NIL && want(linitial_oid(to_probe)))
		to_probe = list_delete_first(to_probe);
	LWLockRelease(&shared->lock);
}

/* Its linker is gone, whether it said what it found or not. */
static void
linker_gone(Watched *w)
{
	Entry	   *entry;

	pfree(w->handle);
	w->handle = NULL;
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	entry = find_entry(w->database);
	if (entry != NULL)
		entry->probed = true;
	LWLockRelease(&shared->lock);
}

static bool
start_linker(Watched *w)
{
	BackgroundWorker worker = {
		.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
		.bgw_start_time = BgWorkerStart_RecoveryFinished,
		.bgw_restart_time = BGW_NEVER_RESTART,
		.bgw_library_name = "cozesync",
		.bgw_function_name = "coze_linker_main",
		.bgw_type = "cozesync linker",
		.bgw_main_arg = ObjectIdGetDatum(w->database),
		.bgw_notify_pid = MyProcPid,
	};

	snprintf(worker.bgw_name, BGW_MAXLEN, "cozesync linker for database %u", w->database);
	if (RegisterDynamicBackgroundWorker(&worker, &w->handle))
	{
		told_of_slots = false;
		return true;
	}
	w->handle = NULL;
	if (!told_of_slots)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no background worker slot is free for cozesync"),
				 errhint("Increase max_worker_processes: cozesync needs one, and two for each database.")));
	told_of_slots = true;
	return false;
}

/*
 * Bring one database's linker in line with what is wanted.  Returns when to look
 * again, in ms; -1: when woken.
 */
static long
tend(Watched *w, bool wanted)
{
	CozeMoment	now = coze_monotonic();
	pid_t		pid;

	if (w->handle != NULL)
	{
		if (GetBackgroundWorkerPid(w->handle, &pid) != BGWH_STOPPED)
			return -1;
		linker_gone(w);
		if (wanted)
		{
			int			delay = Min(RESTART_MAX, RESTART_MIN << Min(w->failures, 16));

			if (now - w->start_at > RESTART_MAX * INT64CONST(1000))
				delay = RESTART_MIN;	/* it ran for long */
			w->failures = delay == RESTART_MIN ? 1 : w->failures + 1;
			w->start_at = TimestampTzPlusMilliseconds(now, delay);
		}
	}
	if (!wanted)
		return -1;
	if (now >= w->start_at && !coze_launcher_is_held(w->database))
	{
		w->start_at = now;
		if (start_linker(w))
			return -1;
		w->start_at = TimestampTzPlusMilliseconds(now, RESTART_MIN * 5);
	}
	return Max(RESTART_MIN, (w->start_at - now) / 1000 + 1);
}

/* Returns when to look again, in ms; -1: when woken. */
static long
tend_all(void)
{
	long		timeout = -1;
	List	   *wanted = NIL;
	ListCell   *lc;

	LWLockAcquire(&shared->lock, LW_SHARED);
	for (int i = 0; i < shared->nentries; i++)
	{
		if (OidIsValid(shared->entries[i].database))
			wanted = lappend_oid(wanted, shared->entries[i].database);
	}
	LWLockRelease(&shared->lock);
	foreach(lc, wanted)
		(void) watch(lfirst_oid(lc));
	foreach(lc, watched)
	{
		Watched    *w = lfirst(lc);
		long		again = tend(w, list_member_oid(wanted, w->database));

		if (again >= 0 && (timeout < 0 || again < timeout))
			timeout = again;
	}
	foreach(lc, watched)
	{
		Watched    *w = lfirst(lc);

		if (w->handle != NULL || list_member_oid(wanted, w->database))
			continue;
		watched = foreach_delete_current(watched, lc);
		pfree(w);
	}
	list_free(wanted);
	return timeout;
}

/* The next launcher knows nothing of linkers that it did not start. */
static void
launcher_left(int code, Datum arg)
{
	ListCell   *lc;

	shared->proc = -1;
	foreach(lc, watched)
	{
		Watched    *w = lfirst(lc);

		if (w->handle != NULL)
			TerminateBackgroundWorker(w->handle);
	}
}

/* --- smart shutdown -------------------------------------------------------------------------------- */

/* Has the postmaster been told to stop?  It says so in its lock file only. */
static bool
is_stopping(void)
{
	FILE	   *file = AllocateFile("postmaster.pid", "r");
	char		line[MAXPGPATH];
	bool		stopping = false;

	if (file == NULL)
		return false;
	for (int i = 1; fgets(line, sizeof(line), file) != NULL; i++)
	{
		if (i == LOCK_FILE_LINE_PM_STATUS)
			stopping = strncmp(line, PM_STATUS_STOPPING, strlen(PM_STATUS_STOPPING)) == 0;
	}
	FreeFile(file);
	return stopping;
}

/* pids of the sessions of peers in all databases. */
static List *
session_pids(void)
{
	List	   *pids = NIL;

	LWLockAcquire(&shared->lock, LW_SHARED);
	for (int i = 0; i < shared->nworkers; i++)
	{
		if (OidIsValid(shared->workers[i].database) && shared->workers[i].is_session)
			pids = lappend_int(pids, shared->workers[i].pid);
	}
	LWLockRelease(&shared->lock);
	return pids;
}

/* Are there sessions beside these? */
static bool
has_other_sessions(const List *pids)
{
	bool		has = false;

	for (int i = 1; i <= pgstat_fetch_stat_numbackends() && !has; i++)
	{
		const PgBackendStatus *status = coze_backend_status(i);

		has = status->st_backendType == B_BACKEND && !list_member_int(pids, status->st_procpid);
	}
	pgstat_clear_backend_activity_snapshot();
	return has;
}

/* End the sessions of peers if the server waits for nothing else. */
static void
end_sessions_at_shutdown(void)
{
	List	   *pids;
	ListCell   *lc;

	if (!is_stopping())
		return;
	pids = session_pids();
	if (!has_other_sessions(pids))
	{
		foreach(lc, pids)
			end_process(lfirst_int(lc));
	}
	list_free(pids);
}

void
coze_launcher_main(Datum main_arg)
{
	bool		probe_all = true;
	bool		scan = true;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	MemoryContextSwitchTo(AllocSetContextCreate(TopMemoryContext, "cozesync launcher",
												ALLOCSET_DEFAULT_SIZES));
	before_shmem_exit(launcher_left, (Datum) 0);
	shared->proc = coze_my_proc_number();

	for (;;)
	{
		long		timeout;
		int			events;

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
		probe_all |= shared->rescan;
		shared->rescan = false;
		LWLockRelease(&shared->lock);
		if (scan)
			scan_databases(probe_all);
		probe_all = false;
		probe_next();
		timeout = tend_all();
		end_sessions_at_shutdown();
		events = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						   timeout >= 0 ? Min(timeout, SHUTDOWN_POLL) : SHUTDOWN_POLL,
						   PG_WAIT_EXTENSION);
		scan = (events & WL_LATCH_SET) != 0;
		ResetLatch(MyLatch);
	}
}
