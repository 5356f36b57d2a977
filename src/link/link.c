/*-------------------------------------------------------------------------
 *
 * link.c
 *		A link that is worked from this end: connecting, greeting, streaming.
 *
 *		CONNECTING --> GREETING --> STREAMING
 *		   ^  |            |            |
 *		   |  v            v            v
 *		   +-------------- BACKOFF <----+
 *
 * What passes while it streams is the matter of link_stream.c.
 *
 * Nothing here waits; all times are those of coze_link_run()'s begin.  Errors of a
 * peer end in BACKOFF and concern no other link.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/pg_prng.h"
#include "libpq-fe.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "debug.h"
#include "link/link_internal.h"
#include "link/session.h"
#include "log/state.h"
#include "log/wall.h"
#include "settings.h"

/* All in us. */
#define CONNECT_TIMEOUT INT64CONST(10000000)

/* What is larger is no greeting or question, but a batch. */
#define MAX_QUESTION_SIZE 4096

/* --- making ---------------------------------------------------------------------------- */

CozeLink *
coze_link_make(const CozeMember *peer, CozeLinkDirection direction, const char *local_name)
{
	CozeLink   *link = palloc0(sizeof(CozeLink));

	link->context = CurrentMemoryContext;
	link->own = coze_own_origin();
	link->peer = peer->origin;
	link->direction = direction;
	link->peer_name = pstrdup(peer->node_name);
	link->dsn = pstrdup(peer->dsn);
	link->application_name = psprintf("cozesync %s", local_name);
	link->slot = coze_link_slot(peer->origin);
	link->state = COZE_LINK_IDLE;
	return link;
}

static void
end_session(CozeLink *link)
{
	coze_remote_retire(link->remote);
	link->remote = NULL;
	if (link->session != NULL)
		MemoryContextDelete(link->session);
	link->session = NULL;
	link->source = NULL;
	link->target = NULL;
	link->nflight = 0;
}

void
coze_link_free(CozeLink *link)
{
	end_session(link);
	coze_link_release(link->slot, link->direction);
	pfree(link->peer_name);
	pfree(link->dsn);
	pfree(link->application_name);
	pfree(link);
}

bool
coze_link_is(const CozeLink *link, const CozeMember *peer, CozeLinkDirection direction,
			 const char *local_name)
{
	return link->peer == peer->origin && link->direction == direction &&
		strcmp(link->peer_name, peer->node_name) == 0 &&
		peer->dsn != NULL && strcmp(link->dsn, peer->dsn) == 0 &&
		strcmp(link->application_name + strlen("cozesync "), local_name) == 0;
}

CozeOrigin
coze_link_peer(const CozeLink *link)
{
	return link->peer;
}

CozeLinkDirection
coze_link_direction(const CozeLink *link)
{
	return link->direction;
}

bool
coze_link_is_open(const CozeLink *link)
{
	return link->state == COZE_LINK_STREAMING;
}

/* --- states -------------------------------------------------------------------------------- */

static void
enter(CozeLink *link, CozeLinkState state, int64 timeout)
{
	link->state = state;
	link->deadline = link->now + timeout;
	coze_link_set_state(link->slot, link->direction, state, false);
}

/* The session is over; try again later. */
void
coze_link_fail(CozeLink *link, const char *code, const char *message)
{
	int64		longest = Max(cozesync_retry_min, cozesync_retry_max) * INT64CONST(1000);
	int64		delay = cozesync_retry_min * INT64CONST(1000) << Min(link->failures, 20);

	MemoryContextSwitchTo(link->context);
	if (coze_link_set_error(link->slot, link->direction, code, message))
		ereport(LOG,
				(errmsg(link->direction == COZE_LINK_OUT ?
						"link to node \"%s\" is interrupted: %s" :
						"link from node \"%s\" is interrupted: %s",
						link->peer_name, message)));
	end_session(link);
	link->failures++;
	link->was_tried = true;
	delay = Min(delay, longest);
	delay = delay / 2 + (int64) (delay / 2 * pg_prng_double(&pg_global_prng_state));
	enter(link, COZE_LINK_BACKOFF, delay);
}

void
coze_link_fail_remote(CozeLink *link)
{
	CozeRemoteError error;

	MemoryContextSwitchTo(link->context);
	coze_remote_error(link->remote, &error);
	coze_link_fail(link, error.code, error.message);
	if (strcmp(error.code, COZE_SQLSTATE_TWIN) == 0)
		coze_link_close_all(error.message);
	pfree(error.message);
	if (strcmp(error.code, COZE_SQLSTATE_DROPPED) == 0 && coze_dropped_hook != NULL)
		coze_dropped_hook(link->own);
}

void
coze_link_retry(CozeLink *link)
{
	if (link->state == COZE_LINK_BACKOFF)
		link->deadline = 0;
}

bool
coze_link_was_tried(const CozeLink *link)
{
	return link->was_tried;
}

bool
coze_link_is_connecting(const CozeLink *link)
{
	return link->state == COZE_LINK_CONNECTING;
}

pgsocket
coze_link_socket(const CozeLink *link)
{
	return link->remote != NULL ? coze_remote_socket(link->remote) : PGINVALID_SOCKET;
}

uint32
coze_link_events(const CozeLink *link)
{
	return coze_remote_events(link->remote);
}

CozeMoment
coze_link_leave_until(const CozeLink *link)
{
	if (link->remote == NULL)
		return PG_INT64_MAX;
	if (link->state != COZE_LINK_STREAMING || link->direction != COZE_LINK_OUT ||
		link->must_begin || link->nflight != 1 || link->flight[0].kind != FLIGHT_BATCH ||
		coze_source_is_behind(link->source) || coze_peers_are_awaited() ||
		coze_link_events(link) != WL_SOCKET_READABLE)
		return 0;
	return link->flight[0].sent_at + ANSWER_LEFT;
}

/* --- statements ------------------------------------------------------------------------------ */

/*
 * False: the link has failed.  first is freed here, since it may lie in the session,
 * which a failure ends; the caller must hold nothing else that does.
 */
bool
coze_link_send(CozeLink *link, const char *sql, int n, CozeBuf *first,
			   const CozeBuf *second, FlightKind kind)
{
	const CozeBuf *params[2] = {first, second};
	Size		size = first != NULL ? first->size : 0;
	bool		sent = coze_remote_send(link->remote, sql, n, params);

	if (first != NULL)
		coze_buf_free(first);
	if (!sent)
	{
		coze_link_fail_remote(link);
		return false;
	}
	Assert(link->nflight < MAX_IN_FLIGHT);
	if (link->nflight == 0)
		link->heard_at = link->now;
	link->flight[link->nflight].size = size;
	link->flight[link->nflight].kind = kind;
	link->flight[link->nflight++].sent_at = link->now;
	return true;
}

InFlight
coze_link_take_flight(CozeLink *link)
{
	InFlight	first = link->flight[0];

	memmove(&link->flight[0], &link->flight[1], --link->nflight * sizeof(InFlight));
	link->heard_at = link->now;
	coze_link_heard(link->slot, link->direction);
	return first;
}

/*
 * Half the way there and half the way back, so that what remains is the clocks'
 * difference.  Not of batches, which take longer there than back.
 */
void
coze_link_measure_skew(CozeLink *link, const InFlight *flight, CozeHlc clock)
{
	int64		way = coze_monotonic() - flight->sent_at;

	if (flight->size > MAX_QUESTION_SIZE)
		return;
	coze_link_set_skew(link->slot, clock + way / 2 - coze_wall(), false);
}

/* --- connecting, greeting --------------------------------------------------------------------- */

static void
start_connecting(CozeLink *link)
{
	link->session = AllocSetContextCreate(link->context, "cozesync link session",
										  ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(link->session);
	link->remote = coze_remote_open(link->dsn, link->application_name);
	link->proven = false;
	link->must_begin = true;
	link->begin_at = 0;
	link->rewind_after = REWIND_FIRST;
	link->clock_at = 0;
	enter(link, COZE_LINK_CONNECTING, CONNECT_TIMEOUT);
}

static void
run_connecting(CozeLink *link)
{
	CozeBuf		hello = {0};

	switch (coze_remote_connect(link->remote))
	{
		case COZE_REMOTE_WAITING:
			if (link->now >= link->deadline)
				coze_link_fail(link, "08001", "the peer does not answer");
			return;
		case COZE_REMOTE_FAILED:
			coze_link_fail_remote(link);
			return;
		case COZE_REMOTE_READY:
			break;
	}
	StartTransactionCommand();
	coze_check_identity();
	MemoryContextSwitchTo(link->session);
	coze_hello_make(&hello);
	CommitTransactionCommand();
	MemoryContextSwitchTo(link->session);
	if (coze_link_send(link, "SELECT cozesync.hello($1)", 1, &hello, NULL, FLIGHT_ORDINARY))
		enter(link, COZE_LINK_GREETING, CONNECT_TIMEOUT);
}

static void
run_greeting(CozeLink *link)
{
	CozeAnswer	answer;
	CozeHello	hello;
	CozeVector	held = {0};
	InFlight	flight;

	switch (coze_remote_receive(link->remote, &answer))
	{
		case COZE_REMOTE_WAITING:
			if (link->now >= link->deadline)
				coze_link_fail(link, "08001", "the peer does not answer");
			return;
		case COZE_REMOTE_FAILED:
			coze_link_fail_remote(link);
			return;
		case COZE_REMOTE_READY:
			break;
	}
	flight = coze_link_take_flight(link);
	if (answer.is_error)
	{
		coze_link_fail_remote(link);
		return;
	}
	if (answer.is_null)
	{
		coze_link_fail(link, "57P03", "this node is not known there as a member of the group; if it or the peer has just joined, the news are on their way");
		return;
	}
	StartTransactionCommand();
	MemoryContextSwitchTo(link->session);
	coze_hello_check(answer.data, answer.size, link->peer, &hello);
	CommitTransactionCommand();
	MemoryContextSwitchTo(link->session);
	coze_link_measure_skew(link, &flight, hello.clock);
	for (int i = 0; i < hello.held.n; i++)
		coze_vector_set(&held, hello.held.p[i].origin, hello.held.p[i].hlc);
	coze_link_set_applied(link->slot, &held);
	coze_vector_free(&held);
	if (link->direction == COZE_LINK_OUT)
		link->source = coze_source_make(&hello, link->session);
	else
		link->target = coze_target_make(link->peer, link->peer_name, link->slot, link->session);
	link->instance = hello.instance;
	link->was_tried = true;
	link->ask_after = ASK_FIRST;
	link->ask_at = 0;
	enter(link, COZE_LINK_STREAMING, 0);
}

CozeMoment
coze_link_due(const CozeLink *link)
{
	return link->state == COZE_LINK_STREAMING ? link->due : link->deadline;
}

/* --- running --------------------------------------------------------------------------------------------- */

static void
run_state(CozeLink *link, bool may_send)
{
	CozeLinkState before;

	do
	{
		before = link->state;
		switch (link->state)
		{
			case COZE_LINK_IDLE:
				start_connecting(link);
				break;
			case COZE_LINK_CONNECTING:
				run_connecting(link);
				break;
			case COZE_LINK_GREETING:
				run_greeting(link);
				break;
			case COZE_LINK_STREAMING:
				coze_link_stream(link, may_send);
				break;
			case COZE_LINK_BACKOFF:
				if (link->now >= link->deadline)
					start_connecting(link);
				break;
		}
	} while (link->state != before && link->state != COZE_LINK_BACKOFF);
}

/* An ERROR is the end of this session, not of the process. */
static void
recover(CozeLink *link, MemoryContext context)
{
	ErrorData  *error;
	char	   *message;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	FlushErrorState();
	if (IsTransactionOrTransactionBlock())
		AbortCurrentTransaction();
	LWLockReleaseAll();
	MemoryContextSwitchTo(context);
	message = psprintf("%s%s%s%s%s", error->message,
					   error->detail != NULL ? " Detail: " : "",
					   error->detail != NULL ? error->detail : "",
					   error->hint != NULL ? " Hint: " : "",
					   error->hint != NULL ? error->hint : "");
	coze_link_fail(link, unpack_sql_state(error->sqlerrcode), message);
	pfree(message);
	FreeErrorData(error);
}

void
coze_link_run(CozeLink *link, bool may_send)
{
	MemoryContext context = CurrentMemoryContext;

	link->now = coze_monotonic();
	PG_TRY();
	{
		run_state(link, may_send);
	}
	PG_CATCH();
	{
		recover(link, context);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
}
