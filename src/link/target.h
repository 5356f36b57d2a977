/*-------------------------------------------------------------------------
 *
 * target.h
 *		What arrives from one peer, over a link that either end works.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_TARGET_H
#define COZE_TARGET_H

#include "postgres.h"

#include "base/wire.h"
#include "link/link_state.h"

typedef struct CozeTarget CozeTarget;

/* In a memory context of its own below parent. */
extern CozeTarget *coze_target_make(CozeOrigin peer, const char *peer_name,
									CozeLinkSlot *slot, MemoryContext parent);
extern void coze_target_free(CozeTarget *target);

/* The peer's stream begins (anew), behind what the next acknowledgement says. */
extern void coze_target_begin(CozeTarget *target);

/*
 * Check a batch and queue it for the applier.  False: refused, and so is what
 * follows until the stream begins anew.  Bad bytes are an ERROR; then nothing
 * was taken, and the target is not to be used any more.
 */
extern bool coze_target_take(CozeTarget *target, const char *data, Size size);

/*
 * Is something of what came since the begin lost (the queue was dropped), or was it
 * left out?  Then it comes again only if the stream begins anew.
 */
extern bool coze_target_must_begin(const CozeTarget *target);

/* How many bytes the peer may send now. */
extern uint64 coze_target_window(const CozeTarget *target);

/*
 * What this node has applied and flushed, what it has queued, and its window.  all: flush
 * what is not; else only what happens to be flushed is told, so that nothing waits.
 */
extern void coze_target_acknowledge(CozeTarget *target, bool all, CozeAck *ack);

#endif							/* COZE_TARGET_H */
