/*-------------------------------------------------------------------------
 *
 * applier.c
 *		The applier: one process per database that applies what others wrote.
 *
 * A round is one local transaction.  It takes entries, lowest version first,
 * whose causes are held here or applied in the same round, until some
 * milliseconds have gone by; then what was decided is checked against what has
 * become visible meanwhile, and all of it is committed at once.  After an error,
 * or where the check fails, the round is undone and its entries are taken one
 * by one; an entry that fails alone stops its origin, with growing pauses, and
 * nobody else.
 *
 *		take batches -> round: begin index -> apply ... -> check -> commit
 *		                  ^                      |          |
 *		                  |  undo, one by one  <-+----------+
 *		                  +----------------------+
 *
 * Invariants.  Causes first: an entry's V is covered by what is held and by what
 * its round has applied before it.  Check after write: see index.c.  The
 * process waits with neither transaction nor snapshot.
 *
 * Between rounds the applier also does the node's upkeep: it prunes and rotates
 * the log, beats, and forgets old conflicts.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "apply/apply.h"
#include "apply/conflict.h"
#include "apply/entry.h"
#include "apply/index.h"
#include "apply/intake.h"
#include "apply/ops.h"
#include "apply/records.h"
#include "apply/relation.h"
#include "apply/row.h"
#include "apply/stop.h"
#include "capture/precommit.h"
#include "debug.h"
#include "log/catalog.h"
#include "log/log.h"
#include "log/members.h"
#include "log/state.h"
#include "log/wall.h"
#include "settings.h"

/* A round ends after this long, or this many bytes. */
#define ROUND_MS 10
/* Batches are taken while less than this waits; the others hold their senders back. */
#define INTAKE_BYTES (256 * 1024)
#define ROUND_BYTES (4 * 1024 * 1024)

/* How often an entry is decided anew before its origin is set aside for a while. */
#define STALE_MAX 100

#define RETAIN_INTERVAL_MS (10 * 60 * 1000)

bool		coze_in_applier = false;

/* Why a round ended as it did. */
typedef enum RoundResult
{
	ROUND_IDLE,					/* nothing can be applied now */
	ROUND_DONE,					/* committed */
	ROUND_STALE,				/* undone: decided on what was no longer so */
	ROUND_FAILED,				/* undone: an error */
	ROUND_AGAIN,				/* undone before it began: the group has changed */
} RoundResult;

/* The round at hand, and what of earlier ones it must heed. */
typedef struct Round
{
	CozeVector	held;			/* with what the round has applied */
	CozeVector	progress;
	List	   *applied;		/* CozeOriginQueue of each, in order */
	int			one_by_one;		/* so many entries to go */
	int			stale;			/* times in a row, with one entry */
	CozeOriginQueue *current;	/* whose entry is being applied */
	uint64		rows;
	ErrorData  *error;
} Round;

static uint64 generation = 0;	/* of the group, as this process knows it */
static int	nskipped = 0;		/* entries that are to have no effect */
static MemoryContext applier_context = NULL;	/* lives as long as the process */
static MemoryContext round_context = NULL;
static Round current_round;
static uint64 retries_seen = 0;
static int64 last_upkeep = 0;
static int64 last_retain = 0;
static CozeVersion reporting = {0, 0};	/* own entry that is being reported */

/* --- settings that must not depend on the user's configuration --- */

static void
pin_settings(void)
{
	static const char *const pinned[][2] = {
		{"session_replication_role", "replica"},
		{"search_path", "pg_catalog, pg_temp"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"row_security", "off"},
		{"DateStyle", "ISO, YMD"},
		{"IntervalStyle", "postgres"},
		{"TimeZone", "UTC"},
		{"extra_float_digits", "3"},
		{"bytea_output", "hex"},
		{"check_function_bodies", "off"},
		{"statement_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
		/* A user's lock is not waited for for long; of a deadlock we are the victim. */
		{"lock_timeout", "200"},
		{"deadlock_timeout", "50"},
		/* What is lost in a crash comes again; what leaves the node is flushed before. */
		{"synchronous_commit", "off"},
	};

	for (int i = 0; i < lengthof(pinned); i++)
		SetConfigOption(pinned[i][0], pinned[i][1], PGC_SUSET, PGC_S_OVERRIDE);
}

/* What users made part of their tables may be SQL, which wants a snapshot. */
static void
begin_transaction(void)
{
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
}

static void
end_transaction(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/* Deferred triggers would fire at commit, with our rights: fire them with the row. */
static void
make_constraints_immediate(void)
{
	ConstraintsSetStmt *stmt = makeNode(ConstraintsSetStmt);

	stmt->constraints = NIL;
	stmt->deferred = false;
	AfterTriggerSetState(stmt);
}

/* --- which entry is next --- */

/* The first entry of a queue that the round has not applied. */
static CozeQueuedEntry *
next_of(CozeOriginQueue *queue)
{
	if (queue->next == NULL)
		return queue->taken == 0 ? coze_intake_head(queue) : NULL;
	return queue->next;
}

static void
move_on(CozeOriginQueue *queue, CozeQueuedEntry *entry)
{
	queue->taken++;
	queue->next = dlist_has_next(&queue->entries, &entry->node) ?
		dlist_container(CozeQueuedEntry, node, dlist_next_node(&queue->entries, &entry->node)) : NULL;
}

/* Begin at the heads again: the round was undone, or is over. */
static void
rewind_queues(void)
{
	CozeOriginQueue *queue;

	for (int i = 0; (queue = coze_intake_queue(i)) != NULL; i++)
	{
		queue->next = NULL;
		queue->taken = 0;
	}
}

/* Are the causes of an entry here, and the one that it follows? */
static bool
is_ready(const CozeOriginQueue *queue, const CozeQueuedEntry *entry)
{
	if (queue->stopped && queue->retry_at > coze_monotonic())
		return false;
	if (entry->prev != coze_vector_get(&current_round.held, queue->origin))
		return false;
	return !COZE_RULE("gate") || coze_vector_missing(&current_round.held, &entry->head.seen) == 0;
}

/* Of the entries that can be applied the one with the lowest version; NULL: none. */
static CozeOriginQueue *
next_ready(void)
{
	CozeOriginQueue *best = NULL;
	CozeVersion lowest = {0, 0};
	CozeOriginQueue *queue;

	for (int i = 0; (queue = coze_intake_queue(i)) != NULL; i++)
	{
		CozeQueuedEntry *entry = next_of(queue);

		if (entry == NULL ||
			(best != NULL && coze_version_cmp(entry->head.version, lowest) > 0) ||
			!is_ready(queue, entry))
			continue;
		best = queue;
		lowest = entry->head.version;
	}
	return best;
}

/* What is held here and visible, all own entries included. */
static void
begin_held(void)
{
	MemoryContext old = MemoryContextSwitchTo(applier_context);

	coze_held(&current_round.held);
	coze_vector_set(&current_round.held, coze_own_origin(), PG_INT64_MAX);
	current_round.progress.n = 0;
	MemoryContextSwitchTo(old);
}

/* Entries that were applied before they were queued a second time. */
static void
drop_duplicates(void)
{
	CozeOriginQueue *queue;

	for (int i = 0; (queue = coze_intake_queue(i)) != NULL; i++)
	{
		CozeQueuedEntry *entry;

		while ((entry = coze_intake_head(queue)) != NULL &&
			   entry->head.version.hlc <= coze_vector_get(&current_round.held, queue->origin))
			coze_intake_done(queue);
	}
}

/* --- stopped origins --- */

static void
start_again(CozeOriginQueue *queue)
{
	if (!queue->stopped)
		return;
	queue->stopped = false;
	queue->delay = 0;
	if (queue->error != NULL)
		pfree(queue->error);
	queue->error = NULL;
	coze_stop_clear(queue->origin);
}

/* Set an origin aside for a while; tell the server's log when the reason changes. */
static void
stop_origin(CozeOriginQueue *queue, ErrorData *error, const char *key, Oid relid, int held_back_by,
			bool group_table)
{
	bool		lock = error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
		error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED;

	queue->stopped = true;
	queue->delay = queue->delay == 0 || lock ? cozesync_retry_min :
		Min(2 * queue->delay, cozesync_retry_max);
	queue->retry_at = coze_monotonic() + queue->delay * INT64CONST(1000);
	coze_stop_set(queue->origin, coze_intake_head(queue)->head.version.hlc, relid,
				  lock ? held_back_by : 0, key, error->message);
	if (queue->error != NULL && strcmp(queue->error, error->message) == 0)
		return;
	if (queue->error != NULL)
		pfree(queue->error);
	queue->error = MemoryContextStrdup(applier_context, error->message);
	/* Details may show a row, and rows of cozesync.member hold passwords. */
	if (group_table)
		error->detail = error->detail_log = NULL;
	error->elevel = lock ? DEBUG1 : LOG;
	ThrowErrorData(error);
}

static void
retry_if_asked(void)
{
	uint64		retries = coze_stop_retries();
	CozeOriginQueue *queue;

	if (retries == retries_seen)
		return;
	retries_seen = retries;
	for (int i = 0; (queue = coze_intake_queue(i)) != NULL; i++)
		queue->retry_at = 0;
}

/* --- a round --- */

static bool
round_is_long_enough(const instr_time *begin, Size bytes)
{
	instr_time	now;

	if (current_round.one_by_one > 0 || bytes >= ROUND_BYTES)
		return true;
	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, *begin);
	return INSTR_TIME_GET_MILLISEC(now) >= ROUND_MS;
}

/* Apply entries in the open transaction; false: what was decided is stale. */
static bool
apply_entries(void)
{
	CozeOriginQueue *queue;
	instr_time	begin;
	Size		bytes = 0;

	INSTR_TIME_SET_CURRENT(begin);
	while ((queue = next_ready()) != NULL)
	{
		CozeQueuedEntry *entry = next_of(queue);
		MemoryContext old;
		CozeApplied applied;
		uint64		rows;

		/* Chunks are numbered by the transaction, so there is one such entry in it. */
		if (entry->head.nchunks > 0 && current_round.applied != NIL)
			break;
		current_round.current = queue;
		applied = coze_entry_apply(entry, current_round.one_by_one > 0, &rows);
		if (applied == COZE_APPLIED_STALE)
			return false;
		old = MemoryContextSwitchTo(applier_context);
		coze_vector_set(&current_round.held, queue->origin, entry->head.version.hlc);
		coze_vector_set(&current_round.progress, queue->origin, entry->head.version.hlc);
		MemoryContextSwitchTo(round_context);
		current_round.applied = lappend(current_round.applied, queue);
		MemoryContextSwitchTo(old);
		current_round.rows += rows;
		bytes += entry->memory;
		move_on(queue, entry);
		CHECK_FOR_INTERRUPTS();
		if (entry->head.nchunks > 0 || applied == COZE_APPLIED_FACTS ||
			round_is_long_enough(&begin, bytes))
			break;
	}
	return true;
}

/* The check after the write: has anything become visible that touches it? */
static bool
is_still_right(void)
{
	if (!COZE_RULE("check-after-write"))
		return true;
	coze_index_extend();
	return !coze_index_is_stale();
}

static RoundResult
commit_round(void)
{
	int			conflicts;
	int			n = list_length(current_round.applied);
	ListCell   *lc;

	coze_target_close_all();
	conflicts = coze_conflict_flush();
	coze_held_pending(&current_round.progress);
	COZE_DEBUG_POINT("apply-before-commit");
	end_transaction();

	coze_index_commit();
	foreach(lc, current_round.applied)
	{
		CozeOriginQueue *queue = lfirst(lc);

		start_again(queue);
		coze_intake_done(queue);
	}
	current_round.one_by_one = Max(0, current_round.one_by_one - n);
	current_round.stale = 0;
	coze_stop_count(n, current_round.rows, conflicts);
	return ROUND_DONE;
}

static void
undo_round(void)
{
	AbortCurrentTransaction();
	coze_index_abort();
	coze_target_forget_all();
	coze_conflict_forget();
	coze_map_forget_stored();
	coze_ops_forget_cache();
}

/*
 * Nobody drops a member between what a round applies of it and the round's end.  False:
 * somebody has done so, or changed the group otherwise, since this process looked.
 */
static bool
lock_membership(void)
{
	if (!COZE_RULE("drop-lock"))
		return true;
	LockRelationOid(coze_relation_oid("dropped_member", false), RowExclusiveLock);
	return generation == coze_group_generation();
}

static RoundResult
try_round(void)
{
	RoundResult result = ROUND_DONE;

	PG_TRY();
	{
		begin_transaction();
		make_constraints_immediate();
		coze_index_begin();
		if (!lock_membership())
			result = ROUND_AGAIN;
		else if (!apply_entries() || !is_still_right())
			result = ROUND_STALE;
		else
			result = commit_round();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(round_context);
		current_round.error = CopyErrorData();
		FlushErrorState();
		result = ROUND_FAILED;
	}
	PG_END_TRY();
	return result;
}

/* A round that failed before it came to an entry; told when the reason changes. */
static void
report_failure(const char *message)
{
	static char reported[256] = "";

	if (strncmp(reported, message, sizeof(reported) - 1) == 0)
		return;
	strlcpy(reported, message, sizeof(reported));
	ereport(LOG,
			(errmsg("could not apply changes: %s", message)));
}

/* Unique indexes of the whole table never stop a stream; who knows of one of a partition? */
static void
explain_violation(ErrorData *error, const CozeDescriptor *relation)
{
	if (error->sqlerrcode != ERRCODE_UNIQUE_VIOLATION || error->hint != NULL ||
		relation == NULL || error->table_name == NULL ||
		strcmp(error->table_name, relation->table) == 0)
		return;
	error->hint = MemoryContextStrdup(round_context,
									  "A unique index on one partition only cannot be heeded when conflicts are decided: drop it, or create it on the partitioned table on every node.");
}

/* What becomes of a round that failed: one by one, or the origin is set aside. */
static void
after_failure(RoundResult result)
{
	CozeApplying at = coze_applying;
	char		key[COZE_KEY_TEXT_SIZE];
	int			n = list_length(current_round.applied) + 1;
	bool		alone = current_round.one_by_one > 0;

	coze_applying_key(key);
	undo_round();
	coze_applying_clear();
	if (!alone)
	{
		current_round.one_by_one = n;
		return;
	}
	if (result == ROUND_STALE)
	{
		ErrorData	error = {0};

		if (++current_round.stale < STALE_MAX || current_round.current == NULL)
			return;
		current_round.stale = 0;
		error.sqlerrcode = ERRCODE_LOCK_NOT_AVAILABLE;
		error.message = "rows change faster here than they can be decided about";
		stop_origin(current_round.current, &error, key, at.relid, 0, true);
	}
	else if (current_round.current != NULL)
	{
		/* One that was missing a row and now meets it is simply tried again. */
		if (current_round.error->sqlerrcode == ERRCODE_UNIQUE_VIOLATION && ++current_round.stale < 3)
			return;
		explain_violation(current_round.error, at.relation);
		stop_origin(current_round.current, current_round.error, key, at.relid, at.held_back_by, at.group);
	}
	else
		report_failure(current_round.error->message);
	current_round.one_by_one = Max(0, current_round.one_by_one - 1);
}

static RoundResult
run_round(void)
{
	ErrorContextCallback callback = {.callback = coze_applying_context,.previous = error_context_stack};
	MemoryContext old = MemoryContextSwitchTo(round_context);
	RoundResult result = ROUND_IDLE;

	MemoryContextReset(round_context);
	current_round.applied = NIL;
	current_round.current = NULL;
	current_round.rows = 0;
	current_round.error = NULL;
	begin_held();
	rewind_queues();
	drop_duplicates();
	if (next_ready() != NULL)
	{
		error_context_stack = &callback;
		result = try_round();
		if (result == ROUND_STALE || result == ROUND_FAILED)
			after_failure(result);
		else if (result == ROUND_AGAIN)
			undo_round();
		error_context_stack = callback.previous;
	}
	rewind_queues();
	MemoryContextSwitchTo(old);
	return result;
}

/* --- upkeep --- */

static void
beat(void)
{
	StartTransactionCommand();
	if (coze_log_beat_due())
		coze_capture_beat();
	CommitTransactionCommand();
}

/* Keep the index near what is visible, so that no round has much to read. */
static void
tend_index(void)
{
	begin_transaction();
	coze_index_begin();
	coze_index_trim();
	end_transaction();
	coze_index_commit();
}

/* The one at hand was not done with. */
static void
keep_reporting(void)
{
	if (reporting.hlc != 0)
		coze_index_put_back_late(reporting);
	reporting.hlc = 0;
}

/* The cut stays below those. */
static CozeHlc
late_limit(void)
{
	if (!COZE_RULE("late-first"))
		return PG_INT64_MAX;
	coze_index_begin();
	return coze_index_lowest_late() - 1;
}

/*
 * Own entries that did not see what was applied before they became visible: their
 * conflicts, and what they wrote although it lost.
 */
static void
report_late(void)
{
	while (coze_index_take_late(&reporting))
	{
		begin_transaction();
		make_constraints_immediate();
		coze_index_begin();
		if (!coze_entry_report(reporting) || !is_still_right())
		{
			undo_round();
			break;
		}
		coze_target_close_all();
		coze_conflict_flush();
		end_transaction();
		coze_index_commit();
		reporting.hlc = 0;
	}
	keep_reporting();
}

static void
try_report_late(void)
{
	PG_TRY();
	{
		report_late();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(applier_context);
		EmitErrorReport();
		FlushErrorState();
		undo_round();
		keep_reporting();
	}
	PG_END_TRY();
}

/*
 * What skip_entry() leaves to do once the entry is held: before the log is pruned, since
 * its changes are read there.  What it tells others is an own entry, so it is captured.
 */
static void
settle_skipped(void)
{
	if (nskipped == 0)
		return;
	coze_in_applier = false;
	PG_TRY();
	{
		begin_transaction();
		SPI_connect();
		if (SPI_execute("SELECT cozesync.settle_skipped() WHERE EXISTS (SELECT FROM cozesync.skip_todo)",
						false, 0) != SPI_OK_SELECT)
			elog(ERROR, "could not settle skipped entries");
		SPI_finish();
		end_transaction();
	}
	PG_FINALLY();
	{
		coze_in_applier = true;
	}
	PG_END_TRY();
}

static void
do_upkeep(int64 now)
{
	settle_skipped();
	tend_index();
	try_report_late();
	beat();
	coze_log_prune();
	coze_log_rotate();
	coze_log_alarm();
	coze_conflict_notify();
	if (last_retain == 0 || now - last_retain > RETAIN_INTERVAL_MS * INT64CONST(1000))
	{
		last_retain = now;
		coze_conflict_retain();
	}
}

static void
upkeep(void)
{
	int64		now = coze_monotonic();

	if (now - last_upkeep < cozesync_beat_interval * INT64CONST(1000))
		return;
	last_upkeep = now;
	PG_TRY();
	{
		do_upkeep(now);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(applier_context);
		EmitErrorReport();
		FlushErrorState();
		undo_round();
	}
	PG_END_TRY();
}

/* --- the process --- */

/* Leave when the database is no member (any more). */
static void
exit_unless_member(void)
{
	CozeNodeState state = coze_attach();

	if (state == COZE_NODE_NONE || state == COZE_NODE_LEFT)
		proc_exit(0);
}

/* Entries that are to have no effect; are there any? */
static void
read_skipped(void)
{
	CozeVersion *versions;
	int			n;

	PushActiveSnapshot(GetLatestSnapshot());
	versions = coze_skipped_read(&n);
	PopActiveSnapshot();
	coze_entry_set_skipped(versions, n);
	if (n > nskipped)
	{
		last_upkeep = 0;
		coze_apply_retry();
	}
	nskipped = n;
}

/* Those members that were dropped. */
static void
read_dropped(CozeVector *dropped)
{
	CozeMember *members;
	int			n;

	PushActiveSnapshot(GetLatestSnapshot());
	members = coze_members_read(&n);
	PopActiveSnapshot();
	for (int i = 0; i < n; i++)
		if (members[i].dropped)
			coze_vector_set(dropped, members[i].origin, 1);
}

/*
 * The group has changed: leave when the database is no member (any more).
 *
 * Of a member that was dropped nothing is taken any more from itself (Cut: once we
 * have said that we know of the drop, what we get of it another survivor held before). So
 * what is queued is dropped, whosever it is; survivors send again what we lack.
 */
static void
heed_group(void)
{
	CozeVector	dropped = {0};

	StartTransactionCommand();
	exit_unless_member();
	read_dropped(&dropped);
	read_skipped();
	if (coze_intake_refuse(&dropped))
		coze_stop_clear_all();
	coze_vector_free(&dropped);
	CommitTransactionCommand();
}

/* In ms, until there is something to do without being woken. */
static long
pause_length(void)
{
	int64		now = coze_monotonic();
	int64		until = last_upkeep + cozesync_beat_interval * INT64CONST(1000);
	CozeOriginQueue *queue;

	for (int i = 0; (queue = coze_intake_queue(i)) != NULL; i++)
	{
		if (queue->stopped)
			until = Min(until, queue->retry_at);
	}
	return Max(1, (until - now) / 1000 + 1);
}

static void
work(void)
{
	RoundResult result;

	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		if (generation != coze_group_generation())
		{
			generation = coze_group_generation();
			heed_group();
		}
		ResetLatch(MyLatch);
		while (coze_intake_memory() < INTAKE_BYTES && coze_intake_take())
			;
		retry_if_asked();
		result = run_round();
		if (result == ROUND_IDLE)
		{
			/* What waits here may wait for what has not been taken, or sent, yet. */
			coze_intake_detach();
			if (coze_intake_take())
				continue;
		}
		coze_conflict_notify();
		upkeep();
		if (result == ROUND_FAILED && current_round.current == NULL)
			(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, cozesync_retry_min,
							 PG_WAIT_EXTENSION);
		if (result == ROUND_IDLE)
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 pause_length(), PG_WAIT_EXTENSION);
	}
}

void
coze_applier_main(Datum main_arg)
{
	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(main_arg), InvalidOid, 0);
	pgstat_report_appname("cozesync applier");
	pin_settings();
	StartTransactionCommand();
	exit_unless_member();
	CommitTransactionCommand();
	coze_worker_register(COZE_WORKER_APPLIER);
	coze_in_applier = true;
	applier_context = AllocSetContextCreate(TopMemoryContext, "cozesync applier",
											ALLOCSET_DEFAULT_SIZES);
	round_context = AllocSetContextCreate(applier_context, "cozesync round",
										  ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(applier_context);
	coze_vector_reserve(&current_round.held, cozesync_max_nodes + 1);
	coze_vector_reserve(&current_round.progress, cozesync_max_nodes);
	coze_stop_clear_all();
	coze_intake_start();
	heed_group();
	retries_seen = coze_stop_retries();
	coze_prune_hook = coze_records_keep;
	coze_prune_limit_hook = late_limit;
	work();
}
