/*-------------------------------------------------------------------------
 *
 * link.h
 *		A link that is worked from this end: connecting, greeting, streaming.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_LINK_H
#define COZE_LINK_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "link/link_state.h"
#include "link/topology.h"
#include "log/wall.h"

typedef struct CozeLink CozeLink;

/* In CurrentMemoryContext.  OUT: we push; IN: we pull.  It connects when run. */
extern CozeLink *coze_link_make(const CozeMember *peer, CozeLinkDirection direction,
								const char *local_name);
extern void coze_link_free(CozeLink *link);

/* Was the link made for this? */
extern bool coze_link_is(const CozeLink *link, const CozeMember *peer,
						 CozeLinkDirection direction, const char *local_name);
extern CozeOrigin coze_link_peer(const CozeLink *link);
extern CozeLinkDirection coze_link_direction(const CozeLink *link);
extern bool coze_link_is_open(const CozeLink *link);	/* is it streaming? */

/*
 * Do whatever can be done without waiting.  Errors of the link are recorded and
 * waited out, never thrown.  may_send: entries may leave this node.
 */
extern void coze_link_run(CozeLink *link, bool may_send);

/* The peer has been heard of: do not wait out an error any longer. */
extern void coze_link_retry(CozeLink *link);

/* Has it greeted its peer, or failed to? */
extern bool coze_link_was_tried(const CozeLink *link);

/* When to run it though nothing has happened. */
extern CozeMoment coze_link_due(const CozeLink *link);

/* What it waits for; may change with every run. */
extern pgsocket coze_link_socket(const CozeLink *link);
extern uint32 coze_link_events(const CozeLink *link);
extern bool coze_link_is_connecting(const CozeLink *link);

/*
 * Until when what comes on the socket may be left there: 0, not at all; the answer to a
 * batch tells little that is wanted at once, and the processor has better things to do
 * while the batch is being applied.
 */
extern CozeMoment coze_link_leave_until(const CozeLink *link);

#endif							/* COZE_LINK_H */
