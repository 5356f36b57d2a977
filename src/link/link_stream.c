/*-------------------------------------------------------------------------
 *
 * link_stream.c
 *		What a link that is worked from this end does while it streams.
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
 * Nothing here waits; all times are those of coze_link_run()'s begin.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"

#include "debug.h"
#include "link/link_internal.h"
#include "log/state.h"
#include "settings.h"

/* All in us. */
#define SLOWEST 50000			/* bytes a second that a working link carries at least */
#define ASK_IDLE INT64CONST(2000000)	/* everything is applied there */
#define CLOCK_INTERVAL INT64CONST(2000000)	/* what the peer's clock says, when pulling */
#define ASK_CALM INT64CONST(100000)	/* nothing was sent for so long, and not all is applied */
#define ASK_OVERDUE INT64CONST(1000000)	/* no news of what is applied */
#define ASK_LONGEST INT64CONST(250000)
#define REWIND_LONGEST INT64CONST(2000000)
#define WINDOW_POLL INT64CONST(10000)	/* our own queue is full */

/* --- pushing ------------------------------------------------------------------------------------- */

/* The stream must begin anew, soon; later each time that nothing comes of it. */
static void
rewind_stream(CozeLink *link)
{
	link->must_begin = true;
	link->begin_at = link->now + link->rewind_after;
	link->rewind_after = Min(link->rewind_after * 2, REWIND_LONGEST);
}

/*
 * Is it urgent to know what the peer has applied?  Somebody waits to hear it, the window
 * does, or nothing has been heard of it for long.
 */
static bool
asks_urgently(const CozeLink *link)
{
	return coze_peers_are_awaited() || link->window <= COZE_SOURCE_SLACK ||
		link->now - link->progress_at > ASK_OVERDUE;
}

/*
 * Has the peer applied all that it has?  If not, ask again before long.  To answer it must
 * flush its WAL, and batches sent meanwhile wait for that: so while some are sent, whose
 * answers tell what happens to be flushed, there are no questions that are not urgent.
 */
static void
plan_question(CozeLink *link, const CozeAck *ack, bool progress, bool asked)
{
	bool		urgent;
	CozeMoment	at;

	if (progress)
		link->progress_at = link->now;
	if (coze_source_all_is_applied(link->source, ack) &&
		ack->window > COZE_SOURCE_SLACK)
	{
		link->all_is_applied = true;
		link->progress_at = link->now;
		link->ask_after = ASK_FIRST;
		link->ask_at = link->now + ASK_IDLE;
		return;
	}
	link->all_is_applied = false;
	urgent = asks_urgently(link);
	if (progress)
		link->ask_after = ASK_FIRST;
	else if (asked)
		link->ask_after = Min(link->ask_after * 2, ASK_LONGEST);
	at = link->now + (urgent ? link->ask_after : Max(link->ask_after, ASK_CALM));
	link->ask_at = urgent && !asked ? Min(link->ask_at, at) : at;
}

static void
take_acknowledgement(CozeLink *link, const InFlight *flight, const CozeAck *ack)
{
	bool		progress = coze_link_set_applied(link->slot, &ack->applied);

	coze_link_measure_skew(link, flight, ack->clock);
	link->window = ack->window;
	if (flight->kind == FLIGHT_BEGIN)
	{
		link->progress_at = link->now;
		coze_source_begin(link->source, ack);
		link->must_begin = false;
	}
	else
		coze_source_acknowledge(link->source, ack);
	if (link->nflight == 0 && coze_source_sent_is_queued(link->source, ack))
		link->rewind_after = REWIND_FIRST;
	plan_question(link, ack, progress, flight->kind != FLIGHT_BATCH);
	if (progress)
		coze_waiters_wake();
}

/* False: the link has failed. */
static bool
take_push_answer(CozeLink *link, const CozeAnswer *answer)
{
	InFlight	flight = coze_link_take_flight(link);
	CozeAck		ack;
	const char *error;

	if (answer->is_error)
	{
		coze_link_fail_remote(link);
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
		look = coze_source_look(link->source, coze_monotonic());
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
		if (!coze_link_send(link, "SELECT cozesync.receive($1)", 1, &batch, NULL,
							FLIGHT_BATCH))
			return false;
		coze_link_count(link->slot, COZE_LINK_OUT, coze_source_batch_hlc(link->source),
						coze_source_batch_entries(link->source), size);
		link->ask_after = ASK_FIRST;
		link->all_is_applied = false;
	}
	return true;
}

/* Ask what the peer has applied, if it is time. */
static void
ask(CozeLink *link)
{
	bool		urgent = !link->all_is_applied && asks_urgently(link);

	if (urgent)
		link->ask_at = Min(link->ask_at, link->now + link->ask_after);
	if (link->now < link->ask_at || link->nflight >= (urgent ? MAX_IN_FLIGHT : 1))
		return;
	link->ask_at = link->now + ASK_IDLE;
	(void) coze_link_send(link, "SELECT cozesync.receive($1)", 1, NULL, NULL,
						  FLIGHT_ORDINARY);
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
			(void) coze_link_send(link, "SELECT cozesync.receive($1)", 1, &empty, NULL,
								  FLIGHT_BEGIN);
		return;
	}
	if (may_send && !push_batches(link))
		return;
	ask(link);
}

/* --- pulling ---------------------------------------------------------------------------------------- */

/* False: the link has failed. */
static bool
take_pull_answer(CozeLink *link, const CozeAnswer *answer)
{
	InFlight	flight = coze_link_take_flight(link);
	bool		taken;

	if (answer->is_error)
	{
		coze_link_fail_remote(link);
		return false;
	}
	if (flight.kind == FLIGHT_CLOCK)
	{
		if (!answer->is_null && answer->size == sizeof(uint64))
			coze_link_measure_skew(link, &flight, (CozeHlc) coze_load_u64(answer->data));
		return true;
	}
	link->was_empty = answer->is_null || answer->size == 0;
	if (link->was_empty)
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
	(void) coze_link_send(link, "SELECT pg_catalog.clock_timestamp()", 0, NULL, NULL,
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
	coze_target_acknowledge(link->target, begins || link->was_empty, &ack);
	link->window = ack.window;
	if (ack.window > COZE_SOURCE_SLACK)
		coze_wire_put_ack(&request, &ack);
	coze_wire_free_ack(&ack);
	if (request.size > 0 &&
		coze_link_send(link, "CALL cozesync.send($1, $2)", 2, &request,
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
		coze_link_fail_remote(link);
	return status != COZE_REMOTE_FAILED;
}

/* How long a peer may be silent, given what it has to read. */
static CozeMoment
silent_until(const CozeLink *link)
{
	Size		bytes = 0;

	for (int i = 0; i < link->nflight; i++)
		bytes += link->flight[i].size;
	return link->heard_at + cozesync_link_timeout * INT64CONST(1000) + bytes * INT64CONST(1000000) / SLOWEST;
}

/* When to look again though nothing has happened. */
static CozeMoment
streaming_due(CozeLink *link)
{
	CozeMoment	due = link->now + ASK_IDLE;
	int64		wait = -1;

	if (link->nflight > 0)
	{
		due = Min(due, silent_until(link) + 1);
		if (link->direction == COZE_LINK_OUT && link->nflight < MAX_IN_FLIGHT &&
			!link->must_begin && !link->all_is_applied && asks_urgently(link))
			due = Min(due, link->ask_at);
	}
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

void
coze_link_stream(CozeLink *link, bool may_send)
{
	if (!take_answers(link))
		return;
	if (!coze_link_is_current(link->slot, link->instance))
	{
		coze_link_fail(link, "55006", "the peer has greeted from another start of its server");
		return;
	}
	if (link->nflight > 0 && link->now > silent_until(link))
	{
		coze_link_fail(link, "08006", "the peer has been silent for too long");
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
