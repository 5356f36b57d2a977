/*-------------------------------------------------------------------------
 *
 * source.h
 *		What is sent to one peer, over a link that either end works.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_SOURCE_H
#define COZE_SOURCE_H

#include "postgres.h"

#include "base/wire.h"
#include "link/topology.h"
#include "log/wall.h"

typedef struct CozeSource CozeSource;

/* A batch may be larger than its limit by this much: an entry, and what describes it. */
#define COZE_SOURCE_SLACK (64 * 1024)

typedef enum CozeSourceLook
{
	COZE_SOURCE_NOTHING,		/* the peer has all that may go now */
	COZE_SOURCE_ASK,			/* what the peer has is not known well enough: have it say */
	COZE_SOURCE_DATA,			/* fill a batch */
} CozeSourceLook;

/* In a memory context of its own below parent; hello: the peer's. */
extern CozeSource *coze_source_make(const CozeHello *hello, MemoryContext parent);
extern void coze_source_free(CozeSource *source);

/* (Re)start behind what the peer says it has queued; nothing is on its way. */
extern void coze_source_begin(CozeSource *source, const CozeAck *ack);

/* What the peer has queued by now, be it from us or from others. */
extern void coze_source_acknowledge(CozeSource *source, const CozeAck *ack);

/* Must the stream begin anew before anything else is sent? */
extern bool coze_source_must_begin(const CozeSource *source);

/* Is there anything to send?  Looks at shared memory only. */
extern CozeSourceLook coze_source_look(CozeSource *source, CozeMoment now);

/* After NOTHING: look again after so long (us) if nobody wakes; -1: no need to. */
extern int64 coze_source_wait(CozeSource *source);

/*
 * Put the next frames into batch, limit bytes and at most COZE_SOURCE_SLACK more, but
 * for relations with very many columns.  What
 * they say is flushed.  Needs a transaction without snapshot.  False: there was
 * nothing to send after all, or it must begin anew.
 */
extern bool coze_source_fill(CozeSource *source, CozeBuf *batch, Size limit);

/* Has the peer queued all entries that were sent in full, some at least? */
extern bool coze_source_sent_is_queued(const CozeSource *source, const CozeAck *ack);

/*
 * Has the peer applied all that it has, as far as we know?  Until then it may lose
 * some of it, and the stream must begin anew.
 */
extern bool coze_source_all_is_applied(const CozeSource *source, const CozeAck *ack);

/* Is an entry sent in part? */
extern bool coze_source_in_entry(const CozeSource *source);

/* Of the batch filled last: entries completed in it, the highest hlc, is there more? */
extern uint64 coze_source_batch_entries(const CozeSource *source);
extern CozeHlc coze_source_batch_hlc(const CozeSource *source);
extern bool coze_source_is_behind(const CozeSource *source);

#endif							/* COZE_SOURCE_H */
