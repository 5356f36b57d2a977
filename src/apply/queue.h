/*-------------------------------------------------------------------------
 *
 * queue.h
 *		Received batches on their way to the applier.
 *
 * One queue per database, in dynamic shared memory: each batch is one
 * allocation, first in first out per peer.  Whoever receives (the backend that
 * executes cozesync.receive(), or the linker for pulled links) has checked the
 * frames and puts whole batches; the applier takes them.  A batch that does not
 * fit is refused, never waited for: the sender is told its window.
 *
 * What is queued is not durable.  Acknowledged is only what is applied.
 *
 * Locking: one LWLock per database, for the list only; bytes are written before
 * the batch is linked in and read after.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_QUEUE_H
#define COZE_QUEUE_H

#include "postgres.h"

#include "base/vector.h"
#include "base/version.h"

extern Size coze_queue_shmem_size(void);
extern void coze_queue_shmem_init(void);
extern void coze_queue_forget_database(Oid dboid);	/* it was dropped */

/*
 * A peer's stream begins anew: what it had queued in part (an entry whose chunks are
 * not complete) is forgotten.  *queued: what is applied or queued in full, from
 * whomever; the stream continues there.  Returns the stream's number, which all of its
 * batches name: what a session that is not yet dead still brings of the former
 * stream is refused.
 */
extern uint64 coze_queue_begin(CozeOrigin peer, CozeVector *queued);

/*
 * Does the stream go on?  False when another has begun or the queue was dropped:
 * nobody else tells a receiver to whom nothing is sent any more.
 */
extern bool coze_queue_goes_on(CozeOrigin peer, uint64 stream);

typedef enum CozeQueuePut
{
	COZE_QUEUE_TAKEN,			/* queued, the applier is woken */
	COZE_QUEUE_FULL,			/* does not fit now: send again once the window opens */
	COZE_QUEUE_GAP,				/* does not continue what is queued (the queue was begun
								 * anew here, say): coze_queue_begin() and greet again */
} CozeQueuePut;

/* Queue a checked batch of frames, all of it or nothing. */
extern CozeQueuePut coze_queue_put(CozeOrigin peer, uint64 stream, const char *data, Size size);

/* What is applied or queued in full, and how many bytes a peer may send now. */
extern void coze_queue_state(CozeOrigin peer, CozeVector *queued, uint64 *window);

/* --- for the applier -------------------------------------------------------- */

typedef struct CozeBatch
{
	uint64		id;
	CozeOrigin	peer;
	const char *data;			/* in shared memory until done; size 0: the peer's
								 * stream begins anew */
	Size		size;
} CozeBatch;

/* Next batch that was not taken yet, of any peer; false if there is none. */
extern bool coze_queue_take(CozeBatch *batch);
/* Its bytes are not needed any more. */
extern void coze_queue_done(const CozeBatch *batch);

/*
 * The applier starts anew (after an error, a restart): everything is dropped and
 * peers, whose next batch is a gap, begin their streams anew.
 */
extern void coze_queue_restart(void);

#endif							/* COZE_QUEUE_H */
