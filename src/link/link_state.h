/*-------------------------------------------------------------------------
 *
 * link_state.h
 *		What the processes of a database know of its peers and links.
 *
 * One slot per peer: how its two links stand (ours to it, its to us), whoever
 * works them; what it has applied; how its clock differs from ours.  All of it
 * is lost at a server start and told again with the next greeting.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_LINK_STATE_H
#define COZE_LINK_STATE_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "base/vector.h"
#include "log/wall.h"

typedef enum CozeLinkState
{
	COZE_LINK_IDLE,				/* no connection wanted from here -> CONNECTING */
	COZE_LINK_CONNECTING,		/* libpq handshake -> GREETING | BACKOFF */
	COZE_LINK_GREETING,			/* protocol, identity, positions -> STREAMING | BACKOFF */
	COZE_LINK_STREAMING,		/* batches flow -> BACKOFF | IDLE */
	COZE_LINK_BACKOFF,			/* waiting out an error -> CONNECTING */
} CozeLinkState;

#define COZE_LINK_STATES (COZE_LINK_BACKOFF + 1)

typedef enum CozeLinkDirection
{
	COZE_LINK_OUT,				/* from this node to the peer */
	COZE_LINK_IN,				/* from the peer to this node */
} CozeLinkDirection;

#define COZE_LINK_DIRECTIONS (COZE_LINK_IN + 1)

/* The longest error text that is kept, with its end. */
#define COZE_LINK_ERROR_MAX 512

typedef struct CozeLinkStatus
{
	CozeLinkState state;
	bool		behind;			/* streaming, with more to come than one batch */
	int			pid;			/* linker here, or the backend that the peer's uses; 0: none */
	CozeHlc		sent_hlc;		/* of the last entry that went over it */
	CozeMoment	heard_at;		/* when the other end last said anything over it; 0: not yet */
	uint64		transactions;	/* that went over it since the server started */
	uint64		bytes;
	uint64		duplicates;		/* of these, what another road had brought already */
	uint64		duplicate_bytes;
	TimestampTz last_error_at;	/* 0: none yet */
	char		last_error_code[6]; /* SQLSTATE */
	char		last_error[COZE_LINK_ERROR_MAX];
} CozeLinkStatus;

typedef struct CozePeerStatus
{
	CozeOrigin	peer;
	CozeLinkStatus link[COZE_LINK_DIRECTIONS];
	bool		has_skew;
	int64		clock_skew;		/* us that its clock is ahead of ours */
	CozeMoment	skew_at;		/* when that was measured */
	CozeVector	applied;		/* there, flushed, as it said itself */
	CozeMoment	told_at;		/* when it said so; 0: not since the server started */
} CozePeerStatus;

typedef struct CozeLinkSlot CozeLinkSlot;

extern Size coze_link_state_shmem_size(void);
extern void coze_link_state_shmem_init(void);

/*
 * The slot of a peer of this database, made if need be.  Stays valid for as
 * long as the process lives; writing to a slot that has been given to another
 * peer since does nothing.
 */
extern CozeLinkSlot *coze_link_slot(CozeOrigin peer);

extern void coze_link_forget_database(Oid database);

/* Forget all peers of this database but these. */
extern void coze_link_keep(const CozeOrigin *peers, int n);

/* Of a link that this process works.  The word of a process that serves the peer goes first. */
extern void coze_link_set_state(CozeLinkSlot *slot, CozeLinkDirection direction,
								CozeLinkState state, bool behind);
extern void coze_link_release(CozeLinkSlot *slot, CozeLinkDirection direction);
/* At the end of a process: of all links. */
extern void coze_link_release_all(void);
extern void coze_link_count(CozeLinkSlot *slot, CozeLinkDirection direction,
							CozeHlc sent_hlc, uint64 transactions, uint64 bytes);
extern void coze_link_count_duplicates(CozeLinkSlot *slot, uint64 transactions, uint64 bytes);

/* The other end has said something. */
extern void coze_link_heard(CozeLinkSlot *slot, CozeLinkDirection direction);

/* Returns true if it is not the error that the link had last, so that it is worth logging. */
extern bool coze_link_set_error(CozeLinkSlot *slot, CozeLinkDirection direction,
								const char *code, const char *message);

/* Streaming again: the next error is worth logging whatever it is. */
extern void coze_link_error_over(CozeLinkSlot *slot, CozeLinkDirection direction);

/*
 * How far the peer's clock is ahead of ours (us).  A rough one does not know how long
 * its word took to come here, and counts only where there is no other.
 */
extern void coze_link_set_skew(CozeLinkSlot *slot, int64 skew, bool rough);

/* What the peer has applied and flushed.  Returns true if that is more than was known. */
extern bool coze_link_set_applied(CozeLinkSlot *slot, const CozeVector *applied);
/* False, and nothing, if the peer has not told since this server started. */
extern bool coze_link_get_applied(CozeOrigin peer, CozeVector *applied);

/* All of a peer; false if there is nothing.  applied is palloc'd. */
extern bool coze_link_get_status(CozeOrigin peer, CozePeerStatus *status);

/* Call for each peer of this database; must take no lock. */
typedef void (*CozePeerCallback) (void *arg, const CozePeerStatus *status);
extern void coze_link_for_each_peer(CozePeerCallback callback, void *arg);

/*
 * The peer greets, from a start of its server.  False: another database is this node, and
 * is here.  The sessions and links of a start that is not the current one any more must end.
 */
extern bool coze_link_greeted(CozeLinkSlot *slot, uint64 instance);
extern bool coze_link_is_current(CozeLinkSlot *slot, uint64 instance);

/* The peer has been heard of: whoever waits to connect to it tries at once. */
extern void coze_link_ask_retry(CozeLinkSlot *slot);
extern bool coze_link_take_retry(CozeLinkSlot *slot);

/* The peer works the link, in a session that this process serves; or does so no more. */
extern void coze_link_set_served(CozeLinkSlot *slot, CozeLinkDirection direction, bool served);
extern bool coze_link_is_served(CozeLinkSlot *slot, CozeLinkDirection direction);

/*
 * The peer should work the link and has not done so for a while, though it has been
 * heard of, over whatever connection: it may not know yet that it should.
 */
extern bool coze_link_is_neglected(CozeLinkSlot *slot, CozeLinkDirection direction);

/*
 * This database is not, or not any more, what its peers know under its name: no
 * link may open until it has become another node or the server has started anew.
 */
extern void coze_link_close_all(const char *reason);
/* palloc'd reason, or NULL */
extern char *coze_link_closed_reason(void);

#endif							/* COZE_LINK_STATE_H */
