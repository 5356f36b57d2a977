/*-------------------------------------------------------------------------
 *
 * join_worker.c
 *		Joining a group in the background.
 *
 * A worker is started by join_group(wait => false), and by the linker of a
 * database that was joining when its server stopped.  It tries again after an
 * error, whose text cozesync.join_progress shows, and exits when another process
 * is at it, or when the node is ready or has left.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/wait_event.h"

#include "apply/apply.h"
#include "group/join.h"
#include "group/step.h"
#include "link/launcher.h"
#include "link/linker.h"

/* After an error, in ms. */
#define RETRY_AFTER 5000

void
coze_join_continue(void)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ObjectIdGetDatum(MyDatabaseId);
	strlcpy(worker.bgw_library_name, "cozesync", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "coze_join_worker_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, "cozesync join", sizeof(worker.bgw_name));
	strlcpy(worker.bgw_type, "cozesync join", sizeof(worker.bgw_type));
	if (!RegisterDynamicBackgroundWorker(&worker, NULL))
		ereport(WARNING,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not start a background worker that goes on with joining"),
				 errhint("Increase max_worker_processes, or call cozesync.join_group() again with wait => true.")));
}

void
coze_join_init(void)
{
	coze_joining_hook = coze_join_continue;
}

/* Keep the reason for the views; the transaction at hand has failed. */
static void
note_error(const char *message)
{
	AbortCurrentTransaction();
	coze_in_applier = false;
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	coze_step_run("UPDATE cozesync.join_run SET last_error = $1", 1, &message);
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/* Returns true if there is nothing more to do. */
static bool
try_once(MemoryContext context)
{
	volatile bool done = false;

	PG_TRY();
	{
		StartTransactionCommand();
		SPI_connect_ext(SPI_OPT_NONATOMIC);
		(void) coze_join_resume();
		SPI_finish();
		CommitTransactionCommand();
		done = true;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		HOLD_INTERRUPTS();
		EmitErrorReport();
		error = CopyErrorData();
		FlushErrorState();
		note_error(error->message);
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	return done;
}

void
coze_join_worker_main(Datum main_arg)
{
	Oid			database = DatumGetObjectId(main_arg);
	MemoryContext context;

	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	coze_launcher_enter();
	if (coze_launcher_is_held(database) || !coze_join_lock())
		proc_exit(0);

	/* where SPI keeps what outlives its transactions */
	context = AllocSetContextCreate(TopMemoryContext, "cozesync join", ALLOCSET_DEFAULT_SIZES);
	PortalContext = context;
	for (;;)
	{
		MemoryContextSwitchTo(context);
		if (try_once(context))
			break;
		MemoryContextReset(context);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, RETRY_AFTER,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
	}
	proc_exit(0);
}
