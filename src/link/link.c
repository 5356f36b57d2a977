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
 * Pushing: batches go to cozesync.receive() over there, several at a time; each
 * answer acknowledges.  An answer of NULL refuses a batch and all behind it; then
 * the stream begins anew where the peer says.  NULL instead of a batch only asks
 * for an acknowledgement, an empty batch begins the stream anew.
 *
 * What a peer has queued it may still lose, be it from us or from another: then its
 * stream has ended, and it refuses even a question.  So we ask until all is applied.
 *
 * Pulling: cozesync.send() over there gets our acknowledgement and answers with a
 * batch, if need be after a while; one request at a time.
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
#include "link/link.h"
#include "link/remote.h"
#include "link/session.h"
#include "link/source.h"
#include "link/target.h"
#include "log/state.h"
#include "settings.h"

/* Batches that may be on their way. */
#define MAX_IN_FLIGHT 4

/* All in us. */
#define CONNECT_TIMEOUT INT64CONST(10000000)
#define SLOWEST 50000			/* bytes a second that a working link carries at least */
#define ASK_IDLE INT64CONST(2000000)	/* everything is applied there */
#define CLOCK_INTERVAL INT64CONST(2000000)	/* what the peer's clock says, when pulling */
#define ASK_FIRST INT64CONST(5000)	/* something is not; doubled from here */
#define ASK_LONGEST INT64CONST(250000)
#define REWIND_FIRST INT64CONST(20000)	/* the stream must begin anew; doubled */
#define REWIND_LONGEST INT64CONST(2000000)
#define WINDOW_POLL INT64CONST(10000)	/* our own queue is full */

/* What is larger is no greeting or question, but a batch. */
#define MAX_QUESTION_SIZE 4096

typedef enum FlightKind
{
	FLIGHT_ORDINARY,			/* a greeting, a batch, a request, a question */
	FLIGHT_BEGIN,				/* has the stream begin anew */
	FLIGHT_CLOCK,				/* asks for the time there */
} FlightKind;

/* What was not answered yet. */
typedef struct InFlight
{
	FlightKind	kind;
	Size		size;
	TimestampTz sent_at;
} InFlight;

struct CozeLink
{
	MemoryContext context;
	CozeOrigin	peer;
	CozeLinkDirection direction;
	char	   *peer_name;
	char	   *dsn;
	char	   *application_name;
	CozeLinkSlot *slot;
	CozeLinkState state;
	bool		was_tried;
	int			failures;		/* in a row */
	TimestampTz now;			/* of this run */
	TimestampTz deadline;		/* of the state; BACKOFF: its end */

	/* of the session */
	MemoryContext session;
	CozeRemote *remote;
	CozeSource *source;
	CozeTarget *target;
	bool		proven;			/* an answer has come while streaming */
	int			nflight;
	InFlight	flight[MAX_IN_FLIGHT];	/* oldest first */
	TimestampTz heard_at;
	TimestampTz due;			/* when streaming */
	uint64		window;
	int64		ask_after;
	TimestampTz ask_at;
	bool		must_begin;
	TimestampTz begin_at;
	int64		rewind_after;
	TimestampTz clock_at;		/* when to ask for the time there */
};

/* --- making ---------------------------------------------------------------------------- */

CozeLink *
coze_link_make(const CozeMember *peer, CozeLinkDirection direction, const char *local_name)
{
	CozeLink   *link = palloc0(sizeof(CozeLink));

	link->context = CurrentMemoryContext;
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
static void
fail(CozeLink *link, const char *code, const char *message)
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

static void
fail_remote(CozeLink *link)
{
	CozeRemoteError error;

	MemoryContextSwitchTo(link->context);
	coze_remote_error(link->remote, &error);
	fail(link, error.code, error.message);
	pfree(error.message);
	if (strcmp(error.code, COZE_SQLSTATE_DROPPED) == 0 && coze_dropped_hook != NULL)
		coze_dropped_hook();
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

/* --- statements ------------------------------------------------------------------------------ */

/*
 * False: the link has failed.  first is freed here, since it may lie in the session,
 * which a failure ends; the caller must hold nothing else that does.
 */
static bool
send_statement(CozeLink *link, const char *sql, int n, CozeBuf *first,
			   const CozeBuf *second, FlightKind kind)
{
	const CozeBuf *params[2] = {first, second};
	Size		size = first != NULL ? first->size : 0;
	bool		sent = coze_remote_send(link->remote, sql, n, params);

	if (first != NULL)
		coze_buf_free(first);
	if (!sent)
	{
		fail_remote(link);
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

static InFlight
take_flight(CozeLink *link)
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
static void
measure_skew(CozeLink *link, const InFlight *flight, CozeHlc clock)
{
	TimestampTz now = GetCurrentTimestamp();

	if (flight->size > MAX_QUESTION_SIZE)
		return;
	coze_link_set_skew(link->slot, clock - (flight->sent_at + (now - flight->sent_at) / 2));
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
				fail(link, "08001", "the peer does not answer");
			return;
		case COZE_REMOTE_FAILED:
			fail_remote(link);
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
	if (send_statement(link, "SELECT cozesync.hello($1)", 1, &hello, NULL, FLIGHT_ORDINARY))
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
				fail(link, "08001", "the peer does not answer");
			return;
		case COZE_REMOTE_FAILED:
			fail_remote(link);
			return;
		case COZE_REMOTE_READY:
			break;
	}
	flight = take_flight(link);
	if (answer.is_error)
	{
		fail_remote(link);
		return;
	}
	if (answer.is_null)
	{
		fail(link, "57P03", "this node is not known there as a member of the group; if it or the peer has just joined, the news are on their way");
		return;
	}
	StartTransactionCommand();
	MemoryContextSwitchTo(link->session);
	coze_hello_check(answer.data, answer.size, link->peer, &hello);
	CommitTransactionCommand();
	MemoryContextSwitchTo(link->session);
	measure_skew(link, &flight, hello.clock);
	for (int i = 0; i < hello.held.n; i++)
		coze_vector_set(&held, hello.held.p[i].origin, hello.held.p[i].hlc);
	coze_link_set_applied(link->slot, &held);
	coze_vector_free(&held);
	if (link->direction == COZE_LINK_OUT)
		link->source = coze_source_make(&hello, link->session);
	else
		link->target = coze_target_make(link->peer, link->peer_name, link->slot, link->session);
	link->was_tried = true;
	link->ask_after = ASK_FIRST;
	link->ask_at = 0;
	enter(link, COZE_LINK_STREAMING, 0);
}

/* --- pushing ------------------------------------------------------------------------------------- */

/* The stream must begin anew, soon; later each time that nothing comes of it. */
static void
rewind_stream(CozeLink *link)
{
	link->must_begin = true;
	link->begin_at = link->now + link->rewind_after;
	link->rewind_after = Min(link->rewind_after * 2, REWIND_LONGEST);
}

/* Has the peer applied all that it has?  If not, ask again before long. */
static void
plan_question(CozeLink *link, const CozeAck *ack, bool progress)
{
	if (coze_source_all_is_applied(link->source, ack) &&
		ack->window > COZE_SOURCE_SLACK)
	{
		link->ask_after = ASK_FIRST;
		link->ask_at = link->now + ASK_IDLE;
		return;
	}
	link->ask_after = progress ? ASK_FIRST : Min(link->ask_after * 2, ASK_LONGEST);
	link->ask_at = link->now + link->ask_after;
}

static void
take_acknowledgement(CozeLink *link, const InFlight *flight, const CozeAck *ack)
{
	bool		progress = coze_link_set_applied(link->slot, &ack->applied);

	measure_skew(link, flight, ack->clock);
	link->window = ack->window;
	if (flight->kind == FLIGHT_BEGIN)
	{
		coze_source_begin(link->source, ack);
		link->must_begin = false;
	}
	else
		coze_source_acknowledge(link->source, ack);
	if (link->nflight == 0 && coze_source_sent_is_queued(link->source, ack))
		link->rewind_after = REWIND_FIRST;
	plan_question(link, ack, progress);
	if (progress)
		coze_waiters_wake();
}

/* False: the link has failed. */
static bool
take_push_answer(CozeLink *link, const CozeAnswer *answer)
{
	InFlight	flight = take_flight(link);
	CozeAck		ack;
	const char *error;

	if (answer->is_error)
	{
		fail_remote(link);
		return false;
	}
	if (answer->is_null)
	{
		if (!link->must_begin)
			rewind_stream(link);
		return true;
	}
	error = coze_wire_get_ack(answer->data, answer->size, &ack);
	if (error != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("received an acknowledgement that is not valid: %s", error)));
	take_acknowledgement(link, &flight, &ack);
	coze_wire_free_ack(&ack);
	return true;
}

/* Read from the log what goes next; false: nothing does. */
static bool
fill_batch(CozeLink *link, CozeBuf *batch, Size limit)
{
	bool		filled;

	MemoryContextSwitchTo(link->session);
	coze_buf_reserve(batch, 1); /* it shall live here, all else in the transaction */
	StartTransactionCommand();
	filled = coze_source_fill(link->source, batch, limit);
	CommitTransactionCommand();
	MemoryContextSwitchTo(link->session);
	return filled;
}

/* Send what may be sent; false: the link has failed. */
static bool
push_batches(CozeLink *link)
{
	while (link->nflight < MAX_IN_FLIGHT)
	{
		CozeBuf		batch = {0};
		uint64		on_its_way = 0;
		CozeSourceLook look;
		Size		size;

		for (int i = 0; i < link->nflight; i++)
			on_its_way += link->flight[i].size;
		if (link->window <= on_its_way + COZE_SOURCE_SLACK)
			return true;
		look = coze_source_look(link->source, GetCurrentTimestamp());
		if (look == COZE_SOURCE_ASK && link->nflight == 0)
			link->ask_at = link->now;
		if (look != COZE_SOURCE_DATA)
			return true;
		if (!fill_batch(link, &batch, Min(cozesync_batch_size * UINT64CONST(1024),
										  link->window - on_its_way - COZE_SOURCE_SLACK)))
		{
			coze_buf_free(&batch);
			return true;
		}
		COZE_DEBUG_POINT("link-before-send");
		size = batch.size;
		if (!send_statement(link, "SELECT cozesync.receive($1)", 1, &batch, NULL,
							FLIGHT_ORDINARY))
			return false;
		coze_link_count(link->slot, COZE_LINK_OUT, coze_source_batch_hlc(link->source),
						coze_source_batch_entries(link->source), size);
		link->ask_after = ASK_FIRST;
	}
	return true;
}

static void
push_more(CozeLink *link, bool may_send)
{
	CozeBuf		empty = {0};

	if (coze_source_must_begin(link->source) && !link->must_begin)
	{
		link->must_begin = true;
		link->begin_at = link->now;
	}
	if (link->must_begin)
	{
		if (link->nflight == 0 && link->now >= link->begin_at)
			(void) send_statement(link, "SELECT cozesync.receive($1)", 1, &empty, NULL,
								  FLIGHT_BEGIN);
		return;
	}
	if (may_send && !push_batches(link))
		return;
	if (link->nflight == 0 && link->now >= link->ask_at)
		(void) send_statement(link, "SELECT cozesync.receive($1)", 1, NULL, NULL,
							  FLIGHT_ORDINARY);
}

/* --- pulling ---------------------------------------------------------------------------------------- */

/* False: the link has failed. */
static bool
take_pull_answer(CozeLink *link, const CozeAnswer *answer)
{
	InFlight	flight = take_flight(link);
	bool		taken;

	if (answer->is_error)
	{
		fail_remote(link);
		return false;
	}
	if (flight.kind == FLIGHT_CLOCK)
	{
		if (!answer->is_null && answer->size == sizeof(uint64))
			measure_skew(link, &flight, (CozeHlc) coze_load_u64(answer->data));
		return true;
	}
	if (answer->is_null || answer->size == 0)
		return true;
	StartTransactionCommand();	/* for its resources and memory */
	taken = coze_target_take(link->target, answer->data, answer->size);
	CommitTransactionCommand();
	MemoryContextSwitchTo(link->session);
	if (taken && !coze_target_must_begin(link->target))
		link->rewind_after = REWIND_FIRST;
	return true;
}

/*
 * The peer's clock as it goes now, which a batch does not tell; and a sign of life of
 * ours while we have no room for a batch.
 */
static void
ask_clock(CozeLink *link)
{
	link->clock_at = link->now + CLOCK_INTERVAL;
	(void) send_statement(link, "SELECT pg_catalog.clock_timestamp()", 0, NULL, NULL,
						  FLIGHT_CLOCK);
}

static void
pull_more(CozeLink *link)
{
	static const CozeBuf empty = {0};
	CozeBuf		request = {0};
	CozeAck		ack;
	bool		begins;

	/* The peer, who sent it, cannot know what became of it here. */
	if (link->nflight == 0 && !link->must_begin && coze_target_must_begin(link->target))
		rewind_stream(link);
	if (link->nflight == 0 && link->now >= link->clock_at)
	{
		ask_clock(link);
		return;
	}
	begins = link->must_begin;
	if (link->nflight > 0 || (begins && link->now < link->begin_at))
		return;
	if (begins)
	{
		/* each begin goes through the queue, too */
		if (coze_target_window(link->target) <= COZE_SOURCE_SLACK)
		{
			link->begin_at = link->now + WINDOW_POLL;
			return;
		}
		coze_target_begin(link->target);
	}
	coze_target_acknowledge(link->target, &ack);
	link->window = ack.window;
	if (ack.window > COZE_SOURCE_SLACK)
		coze_wire_put_ack(&request, &ack);
	coze_wire_free_ack(&ack);
	if (request.size > 0 &&
		send_statement(link, "CALL cozesync.send($1, $2)", 2, &request,
					   begins ? &empty : NULL, begins ? FLIGHT_BEGIN : FLIGHT_ORDINARY))
		link->must_begin = false;
}

/* --- streaming ---------------------------------------------------------------------------------------- */

/* Take all answers that are here; false: the link has failed. */
static bool
take_answers(CozeLink *link)
{
	CozeAnswer	answer;
	CozeRemoteStatus status;

	while ((status = coze_remote_receive(link->remote, &answer)) == COZE_REMOTE_READY)
	{
		if (link->nflight == 0)
			elog(ERROR, "an answer without a question");
		if (!(link->direction == COZE_LINK_OUT ? take_push_answer(link, &answer) :
			  take_pull_answer(link, &answer)))
			return false;
		if (!link->proven)
		{
			link->proven = true;
			link->failures = 0;
			coze_link_error_over(link->slot, link->direction);
		}
	}
	if (status == COZE_REMOTE_FAILED)
		fail_remote(link);
	return status != COZE_REMOTE_FAILED;
}

/* How long a peer may be silent, given what it has to read. */
static TimestampTz
silent_until(const CozeLink *link)
{
	Size		bytes = 0;

	for (int i = 0; i < link->nflight; i++)
		bytes += link->flight[i].size;
	return link->heard_at + cozesync_link_timeout * INT64CONST(1000) + bytes * INT64CONST(1000000) / SLOWEST;
}

/* When to look again though nothing has happened. */
static TimestampTz
streaming_due(CozeLink *link)
{
	TimestampTz due = link->now + ASK_IDLE;
	int64		wait = -1;

	if (link->nflight > 0)
		due = Min(due, silent_until(link) + 1);
	else if (link->must_begin)
		due = link->begin_at;
	else if (link->direction == COZE_LINK_IN)
		due = link->now + WINDOW_POLL;
	else
		due = Min(due, link->ask_at);
	if (link->direction == COZE_LINK_OUT && link->nflight < MAX_IN_FLIGHT && !link->must_begin)
		wait = coze_source_wait(link->source);
	return wait >= 0 ? Min(due, link->now + wait) : due;
}

static void
run_streaming(CozeLink *link, bool may_send)
{
	if (!take_answers(link))
		return;
	if (link->nflight > 0 && link->now > silent_until(link))
	{
		fail(link, "08006", "the peer has been silent for too long");
		return;
	}
	if (link->direction == COZE_LINK_OUT)
		push_more(link, may_send);
	else
		pull_more(link);
	if (link->state != COZE_LINK_STREAMING)
		return;
	coze_link_set_state(link->slot, link->direction, COZE_LINK_STREAMING,
						link->source != NULL && coze_source_is_behind(link->source));
	link->due = streaming_due(link);
}

TimestampTz
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
				run_streaming(link, may_send);
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
	fail(link, unpack_sql_state(error->sqlerrcode), message);
	pfree(message);
	FreeErrorData(error);
}

void
coze_link_run(CozeLink *link, bool may_send)
{
	MemoryContext context = CurrentMemoryContext;

	link->now = GetCurrentTimestamp();
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
