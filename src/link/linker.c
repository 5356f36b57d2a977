/*-------------------------------------------------------------------------
 *
 * linker.c
 *		The process that works all links of a database.
 *
 * Keeps one CozeLink for each link that this end works: those we push over, and
 * those we pull over.  Sleeps on one wait set with the sockets of all; woken by
 * commits that left an entry, by group changes, by peers that greet us.  Starts
 * the applier of the database and starts it again when it dies.
 *
 * After a start nothing of ours is sent until every peer has been tried once: one
 * of them may hold what this database has lost (see session.c).
 *
 * Who gives a link up keeps it until the other has taken it over, since the news
 * that the peer should work it may have no other road.  For the same reason we stand
 * in for a peer that can be heard of and does not work a link that it should.
 *
 * The process ends when the database is no member (any more), and with an error
 * when it has become another node; the launcher starts the next.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "libpq-fe.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "link/launcher.h"
#include "link/link.h"
#include "link/linker.h"
#include "link/remote.h"
#include "link/roads.h"
#include "link/session.h"
#include "log/state.h"
#include "log/wall.h"
#include "settings.h"

/* The applier is started again after so many us, doubled each time. */
#define APPLIER_RESTART_MIN INT64CONST(100000)
#define APPLIER_RESTART_MAX INT64CONST(30000000)

/* Peers that cannot be reached hold others up for so long (us) after a start. */
#define SETTLE_TIMEOUT INT64CONST(3000000)

/* Look so often (us) at links that a peer should work and does not. */
#define STAND_IN_CHECK INT64CONST(1000000)

/* Look so often (us) at connections that are about to be closed. */
#define SWEEP_DELAY INT64CONST(20000)

/* Look so often (us) at the machine's clock; peers' clocks count if measured lately. */
#define CLOCK_CHECK INT64CONST(1000000)
#define SKEW_MAX_AGE INT64CONST(10000000)

/* Sleep no longer than this (us), so that nothing is overlooked for good. */
#define LONGEST_SLEEP INT64CONST(10000000)

static MemoryContext linker_context;
static List *links;				/* CozeLink * */

/* What the links were made from. */
static uint64 generation;
static MemoryContext topology_context;
static CozeTopology *topology;
static CozeOrigin own_origin;
static CozeMoment	matched_at;	/* when links were last made and freed */
static bool stands_in;			/* a peer does not work a link: match again soon */
static bool is_joining;
CozeJoiningHook coze_joining_hook = NULL;

static bool closed;				/* links are closed until the identity is confirmed */

static bool wait_set_is_stale = true;

static BackgroundWorkerHandle *applier;
static CozeMoment	applier_start_at;
static int64 applier_delay = APPLIER_RESTART_MIN;

/* --- the applier ----------------------------------------------------------------------- */

static void
stop_applier(int code, Datum arg)
{
	if (applier != NULL)
		TerminateBackgroundWorker(applier);
}

static void
start_applier(CozeMoment now)
{
	BackgroundWorker worker = {
		.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
		.bgw_start_time = BgWorkerStart_RecoveryFinished,
		.bgw_restart_time = BGW_NEVER_RESTART,
		.bgw_library_name = "cozesync",
		.bgw_function_name = "coze_applier_main",
		.bgw_type = "cozesync applier",
		.bgw_main_arg = ObjectIdGetDatum(MyDatabaseId),
		.bgw_notify_pid = MyProcPid,
	};
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	snprintf(worker.bgw_name, BGW_MAXLEN, "cozesync applier for database %u", MyDatabaseId);
	if (!RegisterDynamicBackgroundWorker(&worker, &applier))
	{
		applier = NULL;
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no background worker slot is free for the cozesync applier"),
				 errhint("Increase max_worker_processes: cozesync needs one, and two for each database.")));
	}
	MemoryContextSwitchTo(old);
	applier_start_at = now;
}

static void
release_links(int code, Datum arg)
{
	coze_link_release_all();
}

/* Returns when to look again. */
static CozeMoment
tend_applier(CozeMoment now)
{
	pid_t		pid;

	if (applier != NULL && GetBackgroundWorkerPid(applier, &pid) == BGWH_STOPPED)
	{
		pfree(applier);
		applier = NULL;
		if (now - applier_start_at > APPLIER_RESTART_MAX)
			applier_delay = APPLIER_RESTART_MIN;
		applier_start_at = now + applier_delay;
		applier_delay = Min(applier_delay * 2, APPLIER_RESTART_MAX);
	}
	if (applier == NULL && now >= applier_start_at)
	{
		start_applier(now);
		if (applier == NULL)
			applier_start_at = now + APPLIER_RESTART_MAX;
	}
	return applier == NULL ? applier_start_at : now + LONGEST_SLEEP;
}

/* --- who we are ---------------------------------------------------------------------------- */

/* Exits unless this database is a member. */
static void
check_member(void)
{
	CozeIdentity identity;

	StartTransactionCommand();
	if (!coze_identity_read(&identity) || identity.left)
	{
		CommitTransactionCommand();
		coze_launcher_is_no_member();
		proc_exit(0);
	}
	is_joining = coze_attach() == COZE_NODE_JOINING;
	if (own_origin != 0 && own_origin != identity.origin)
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this database has become another node; its linker starts anew")));
	own_origin = identity.origin;
	CommitTransactionCommand();
}

/* --- which links there are -------------------------------------------------------------------- */

static CozeLink *
find_link(const CozeMember *peer, CozeLinkDirection direction, const char *local_name)
{
	ListCell   *lc;

	foreach(lc, links)
	{
		CozeLink   *link = lfirst(lc);

		if (coze_link_is(link, peer, direction, local_name))
			return link;
	}
	return NULL;
}

/* Does one node lack what the other holds, by what the peer has said last? */
static bool
has_work(const CozeMember *peer, CozeLinkDirection direction)
{
	CozeVector	ours = {0};
	CozeVector	theirs;
	bool		has;

	coze_link_get_applied(peer->origin, &theirs);
	coze_held(&ours);
	if (coze_own_committed_max() != 0)
		coze_vector_set(&ours, own_origin, coze_own_committed_max());
	if (direction == COZE_LINK_OUT)
	{
		coze_vector_remove(&ours, peer->origin);
		has = !coze_vector_covers(&theirs, &ours);
	}
	else
	{
		coze_vector_remove(&theirs, own_origin);
		has = !coze_vector_covers(&ours, &theirs);
	}
	coze_vector_free(&ours);
	coze_vector_free(&theirs);
	return has;
}

/* The peer should work the link and does not.  The link by which we do so instead, or NULL. */
static CozeLink *
stand_in(const CozeMember *peer, CozeLinkDirection direction, const char *local_name)
{
	CozeLinkSlot *slot = coze_link_slot(peer->origin);
	ListCell   *lc;

	if (coze_link_is_served(slot, direction))
		return NULL;
	stands_in = true;			/* or may have to before long */
	foreach(lc, links)
	{
		CozeLink   *link = lfirst(lc);

		if (coze_link_peer(link) == peer->origin && coze_link_direction(link) == direction &&
			(coze_link_is_open(link) || coze_link_is(link, peer, direction, local_name)))
			return link;
	}
	if (peer->dsn == NULL || !coze_link_is_neglected(slot, direction) ||
		!has_work(peer, direction))
		return NULL;
	return coze_link_make(peer, direction, local_name);
}

/* The link by which we work this direction, old or new; NULL: we do not. */
static CozeLink *
link_for(const CozeMember *peer, CozeLinkDirection direction, const char *local_name)
{
	bool		out = direction == COZE_LINK_OUT;
	CozeLinkMode mode;
	CozeLink   *link;

	if (peer->is_local || peer->dropped || closed ||
		coze_topology_is_paused(topology, peer->origin))
		return NULL;
	mode = out ? coze_topology_mode(topology, own_origin, peer->origin) :
		coze_topology_mode(topology, peer->origin, own_origin);
	if (mode == COZE_MODE_OFF)
		return NULL;
	if (mode != (out ? COZE_MODE_PUSH : COZE_MODE_PULL))
		return stand_in(peer, direction, local_name);
	link = find_link(peer, direction, local_name);
	return link != NULL ? link : coze_link_make(peer, direction, local_name);
}

/* Make the links that should be, keep those that are right, free the rest. */
static void
match_links(void)
{
	const CozeMember *local = coze_topology_local(topology);
	List	   *right = NIL;
	ListCell   *lc;

	stands_in = false;
	matched_at = coze_monotonic();
	for (int i = 0; local != NULL && i < topology->nmembers; i++)
	{
		const CozeMember *peer = &topology->members[i];

		for (int d = 0; d < COZE_LINK_DIRECTIONS; d++)
		{
			CozeLink   *link = link_for(peer, d, local->node_name);

			if (link == NULL)
				continue;
			right = lappend(right, link);
		}
	}
	foreach(lc, links)
	{
		if (!list_member_ptr(right, lfirst(lc)))
			coze_link_free(lfirst(lc));
	}
	list_free(links);
	links = right;
	wait_set_is_stale = true;	/* a new link may lie where a freed one did */
}

static void
forget_former_peers(void)
{
	CozeOrigin *peers = palloc(topology->nmembers * sizeof(CozeOrigin) + 1);
	int			n = 0;

	for (int i = 0; i < topology->nmembers; i++)
	{
		if (!topology->members[i].dropped && !topology->members[i].is_local)
			peers[n++] = topology->members[i].origin;
	}
	coze_link_keep(peers, n);
	pfree(peers);
}

/* May there be links at all?  Says so once if not. */
static bool
identity_is_right(void)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool right = true;

	PG_TRY();
	{
		coze_check_identity();
	}
	PG_CATCH();
	{
		right = false;
		MemoryContextSwitchTo(context);
		if (closed)
			FlushErrorState();
		else
		{
			ErrorData  *error = CopyErrorData();

			FlushErrorState();
			error->elevel = LOG;
			ThrowErrorData(error);
		}
	}
	PG_END_TRY();
	return right;
}

/* Members, links or our identity may have changed. */
static void
read_topology(void)
{
	MemoryContext fresh = AllocSetContextCreate(linker_context, "cozesync topology",
												ALLOCSET_DEFAULT_SIZES);
	MemoryContext former = topology_context;

	generation = coze_group_generation();
	check_member();
	StartTransactionCommand();
	closed = !identity_is_right();
	if (closed)
		AbortCurrentTransaction();
	else
		CommitTransactionCommand();
	StartTransactionCommand();
	MemoryContextSwitchTo(fresh);
	topology = coze_topology_read();
	CommitTransactionCommand();
	topology_context = fresh;
	MemoryContextSwitchTo(linker_context);
	match_links();
	forget_former_peers();
	coze_roads_set_topology(topology);
	if (former != NULL)
		MemoryContextDelete(former);
}

/* --- sleeping ----------------------------------------------------------------------------------------- */

/* What the wait set was made for. */
typedef struct Watch
{
	CozeLink   *link;
	pgsocket	socket;
	uint32		events;
} Watch;

static WaitEventSet *wait_set;
static Watch *watches;
static int	nwatches;

/* Is the wait set right for the links as they are?  Events alone are corrected. */
static bool
wait_set_fits(void)
{
	int			n = 0;
	ListCell   *lc;

	if (wait_set_is_stale)
		return false;
	foreach(lc, links)
	{
		CozeLink   *link = lfirst(lc);
		pgsocket	sock = coze_link_socket(link);
		uint32		events;

		if (sock == PGINVALID_SOCKET)
			continue;

		/* libpq may have closed a socket and opened another under its number */
		if (coze_link_is_connecting(link) || n >= nwatches || watches[n].link != link ||
			watches[n].socket != sock)
			return false;
		events = coze_link_events(link);
		if (events != watches[n].events)
			ModifyWaitEvent(wait_set, n + 2, events, NULL);
		watches[n++].events = events;
	}
	return n == nwatches;
}

static void
make_wait_set(void)
{
	ListCell   *lc;

	if (wait_set != NULL)
		FreeWaitEventSet(wait_set);
	wait_set = coze_create_wait_event_set(list_length(links) + 2);
	AddWaitEventToSet(wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	if (watches != NULL)
		pfree(watches);
	watches = palloc((list_length(links) + 1) * sizeof(Watch));
	nwatches = 0;
	wait_set_is_stale = false;
	foreach(lc, links)
	{
		Watch	   *watch = &watches[nwatches];

		watch->link = lfirst(lc);
		watch->socket = coze_link_socket(watch->link);
		if (watch->socket == PGINVALID_SOCKET)
			continue;
		watch->events = coze_link_events(watch->link);
		AddWaitEventToSet(wait_set, watch->events, watch->socket, NULL, NULL);
		nwatches++;
	}
}

/* Until when no link needs what comes on its socket, be there any; 0: one does. */
static CozeMoment
sockets_left_until(void)
{
	CozeMoment	until = PG_INT64_MAX;
	ListCell   *lc;

	foreach(lc, links)
		until = Min(until, coze_link_leave_until(lfirst(lc)));
	return until;
}

static void
sleep_until(CozeMoment due)
{
	CozeMoment	now = coze_monotonic();
	CozeMoment	left_until = sockets_left_until();
	bool		leave = left_until > now;
	int64		us = Max(0, Min((leave ? Min(due, left_until) : due) - now, LONGEST_SLEEP));
	WaitEvent	event;

	if (leave)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 (us + 999) / 1000, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		return;
	}
	if (!wait_set_fits())
		make_wait_set();
	(void) WaitEventSetWait(wait_set, (us + 999) / 1000, &event, 1, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
}

/* --- the clock ----------------------------------------------------------------------------------------- */

typedef struct Skews
{
	int			n;
	int64	   *skew;
} Skews;

static void
take_skew(void *arg, const CozePeerStatus *status)
{
	Skews	   *skews = arg;

	if (status->has_skew && coze_monotonic() - status->skew_at < SKEW_MAX_AGE)
		skews->skew[skews->n++] = status->clock_skew;
}

/* Has the machine's clock leapt?  Then ask the peers, and tell the server's log once, each way. */
static void
watch_clock(void)
{
	static int64 told = 0;
	int64		leap;
	Skews		skews = {0};

	(void) coze_wall();
	leap = coze_wall_leap();
	if (leap == 0)
	{
		if (told != 0)
			ereport(LOG,
					(errmsg("the clock of this machine is back where it was expected")));
		told = 0;
		return;
	}
	skews.skew = palloc(cozesync_max_nodes * sizeof(int64));
	coze_link_for_each_peer(take_skew, &skews);
	if (coze_wall_judge(skews.skew, skews.n))
	{
		ereport(LOG,
				(errmsg("the clock of this machine was set by %.3f s, and is followed", leap / 1000000.0),
				 errdetail("The clocks of most peers confirm it.")));
		told = 0;
	}
	else if (told == 0 || (told < 0) != (leap < 0))
	{
		ereport(WARNING,
				(errmsg("the clock of this machine has leapt by %.3f s, and is not followed", leap / 1000000.0),
				 errdetail("No majority of peers that are connected confirms it."),
				 errhint("Set the clock right; if it is right now, restart the server.")));
		told = leap;
	}
	pfree(skews.skew);
}

/* --- the loop --------------------------------------------------------------------------------------------- */

/* Has every peer been tried since the start? */
static bool
has_settled(CozeMoment started_at)
{
	ListCell   *lc;

	if (coze_monotonic() - started_at > SETTLE_TIMEOUT)
		return true;
	foreach(lc, links)
	{
		if (!coze_link_was_tried(lfirst(lc)))
			return false;
	}
	return true;
}

/* Peers that greeted us can be reached, most likely. */
static void
retry_links(void)
{
	ListCell   *lc;

	for (int i = 0; i < topology->nmembers; i++)
	{
		const CozeMember *peer = &topology->members[i];

		if (peer->is_local || peer->dropped ||
			!coze_link_take_retry(coze_link_slot(peer->origin)))
			continue;
		foreach(lc, links)
		{
			if (coze_link_peer(lfirst(lc)) == peer->origin)
				coze_link_retry(lfirst(lc));
		}
	}
}

/*
 * What is there to be woken for?  Commits, where a link sends; what the applier has done, where
 * there is a third node to pass it on to, or a link that pulls may wait for room.
 */
static uint32
what_to_heed(void)
{
	bool		others = false;
	uint32		heeds = 0;
	ListCell   *lc;

	for (int i = 0, peers = 0; i < topology->nmembers; i++)
	{
		if (!topology->members[i].is_local && !topology->members[i].dropped)
			others = ++peers > 1;
	}
	foreach(lc, links)
	{
		if (!coze_link_is_open(lfirst(lc)))
			continue;
		if (coze_link_direction(lfirst(lc)) == COZE_LINK_OUT)
			heeds |= COZE_HEED_COMMITS | (others ? COZE_HEED_APPLIED : 0);
		else
			heeds |= COZE_HEED_APPLIED;
	}
	return heeds;
}

/* Returns when to run again. */
static CozeMoment
run_links(bool may_send)
{
	CozeMoment	due = coze_monotonic() + LONGEST_SLEEP;
	uint32		heeds = what_to_heed();
	ListCell   *lc;

	coze_linker_heed(heeds);
	retry_links();
	foreach(lc, links)
	{
		coze_link_run(lfirst(lc), may_send);
		due = Min(due, coze_link_due(lfirst(lc)));
	}
	/* a link has just opened: what came since it read the log did not wake us */
	return (what_to_heed() & ~heeds) != 0 ? coze_monotonic() : due;
}

static void
start_up(Oid database)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	coze_launcher_enter();
	if (coze_launcher_is_held(database))
		proc_exit(0);
	SetConfigOption("search_path", "", PGC_SUSET, PGC_S_OVERRIDE);
	linker_context = AllocSetContextCreate(TopMemoryContext, "cozesync linker",
										   ALLOCSET_DEFAULT_SIZES);
	check_member();
	MemoryContextSwitchTo(linker_context);
	coze_worker_register(COZE_WORKER_LINKER);
	before_shmem_exit(stop_applier, (Datum) 0);
	on_shmem_exit(release_links, (Datum) 0);
	coze_launcher_is_member();
	read_topology();
	if (is_joining && coze_joining_hook != NULL)
		coze_joining_hook();
}

void
coze_linker_main(Datum main_arg)
{
	CozeMoment started_at = coze_monotonic();
	CozeMoment	clock_at = 0;
	bool		settled = false;

	start_up(DatumGetObjectId(main_arg));
	for (;;)
	{
		CozeMoment due;
		char	   *reason;

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		reason = coze_link_closed_reason();
		if (generation != coze_group_generation() || (reason != NULL && !closed))
			read_topology();
		else if (stands_in && coze_monotonic() - matched_at > STAND_IN_CHECK)
			match_links();
		if (reason != NULL)
			pfree(reason);
		if (!settled)
			settled = has_settled(started_at);
		due = run_links(settled);
		if (coze_monotonic() >= clock_at)
		{
			watch_clock();
			clock_at = coze_monotonic() + CLOCK_CHECK;
		}
		due = Min(due, clock_at);
		if (stands_in)
			due = Min(due, matched_at + STAND_IN_CHECK);
		if (!settled && has_settled(started_at))
			continue;
		if (coze_remote_sweep())
			due = Min(due, coze_monotonic() + SWEEP_DELAY);
		sleep_until(Min(due, tend_applier(coze_monotonic())));
	}
}
