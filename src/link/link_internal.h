/*-------------------------------------------------------------------------
 *
 * link_internal.h
 *		What link.c (connecting, greeting) and link_stream.c (streaming) share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_LINK_INTERNAL_H
#define COZE_LINK_INTERNAL_H

#include "postgres.h"

#include "link/link.h"
#include "link/remote.h"
#include "link/source.h"
#include "link/target.h"

/* Batches that may be on their way. */
#define MAX_IN_FLIGHT 4

/* us */
#define ASK_FIRST INT64CONST(5000)	/* something is not; doubled from here */
#define ANSWER_LEFT INT64CONST(5000)	/* to a batch that is alone on its way */
#define REWIND_FIRST INT64CONST(20000)	/* the stream must begin anew; doubled */

typedef enum FlightKind
{
	FLIGHT_ORDINARY,			/* a greeting, a request, a question */
	FLIGHT_BATCH,				/* pushed */
	FLIGHT_BEGIN,				/* has the stream begin anew */
	FLIGHT_CLOCK,				/* asks for the time there */
} FlightKind;

/* What was not answered yet. */
typedef struct InFlight
{
	FlightKind	kind;
	Size		size;
	CozeMoment	sent_at;
} InFlight;

struct CozeLink
{
	MemoryContext context;
	CozeOrigin	own;			/* who we are */
	uint64		instance;		/* the start of the peer's server that greeted */
	CozeOrigin	peer;
	CozeLinkDirection direction;
	char	   *peer_name;
	char	   *dsn;
	char	   *application_name;
	CozeLinkSlot *slot;
	CozeLinkState state;
	bool		was_tried;
	int			failures;		/* in a row */
	CozeMoment	now;			/* of this run */
	CozeMoment	deadline;		/* of the state; BACKOFF: its end */

	/* of the session */
	MemoryContext session;
	CozeRemote *remote;
	CozeSource *source;
	CozeTarget *target;
	bool		proven;			/* an answer has come while streaming */
	int			nflight;
	InFlight	flight[MAX_IN_FLIGHT];	/* oldest first */
	CozeMoment	heard_at;
	CozeMoment	due;			/* when streaming */
	uint64		window;
	int64		ask_after;
	CozeMoment	ask_at;
	bool		all_is_applied; /* of what was sent, as far as heard */
	CozeMoment	progress_at;	/* when more was heard to be applied */
	bool		was_empty;		/* the last answer, when pulling */
	bool		must_begin;
	CozeMoment	begin_at;
	int64		rewind_after;
	CozeMoment	clock_at;		/* when to ask for the time there */
};

/* The session is over; try again later. */
extern void coze_link_fail(CozeLink *link, const char *code, const char *message);
extern void coze_link_fail_remote(CozeLink *link);

/*
 * Send a statement.  False: the link has failed.  first is freed, since it may lie in the
 * session, which a failure ends; the caller must hold nothing else that does.
 */
extern bool coze_link_send(CozeLink *link, const char *sql, int n, CozeBuf *first,
						   const CozeBuf *second, FlightKind kind);

/* What the answer that has come belongs to. */
extern InFlight coze_link_take_flight(CozeLink *link);

/* An answer that told the time there. */
extern void coze_link_measure_skew(CozeLink *link, const InFlight *flight, CozeHlc clock);

/* In link_stream.c: what a link does while it streams. */
extern void coze_link_stream(CozeLink *link, bool may_send);

#endif							/* COZE_LINK_INTERNAL_H */
