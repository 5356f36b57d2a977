/*-------------------------------------------------------------------------
 *
 * buffer.h
 *		The captured changes of the transaction at hand.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_CAPTURE_BUFFER_H
#define COZE_CAPTURE_BUFFER_H

#include "postgres.h"

#include "base/wire.h"

/*
 * Begin a change: where to encode it, and the context to encode it in.  No other
 * change may be begun before coze_buffer_end_change().  An error in between rolls
 * back the subtransaction, and so the piece.
 */
extern CozeBuf *coze_buffer_begin_change(CozeChangeContext **context);
extern void coze_buffer_end_change(void);

/* A number for this transaction that no other of this process has; never 0. */
extern uint64 coze_buffer_transaction(void);

/* --- other things that go with a subtransaction ---------------------------------- */

/* Descriptors that were stored, or found, in the transaction. */
extern void coze_buffer_note_descriptor(uint64 hash);
extern bool coze_buffer_has_descriptor(uint64 hash);
typedef void (*CozeDescriptorCallback) (uint64 hash);
extern void coze_buffer_each_descriptor(CozeDescriptorCallback callback);

/* Partitioned tables whose TRUNCATE is under way. */
extern void coze_buffer_begin_truncate(Oid root);
extern void coze_buffer_end_truncate(Oid root);
extern bool coze_buffer_in_truncate(Oid root);

/* Has the transaction captured any change so far? */
extern bool coze_buffer_has_changes(void);

/* --- for precommit.c ---------------------------------------------------------------- */

typedef struct CozeBufferTotals
{
	uint32		nchanges;
	uint32		nchunks;		/* written so far */
	uint64		body_size;
	const char *body;			/* all of it if nchunks is 0 */
} CozeBufferTotals;

/* False if nothing is captured. */
extern bool coze_buffer_totals(CozeBufferTotals *totals);

/* Write all that is in memory as chunks. */
extern void coze_buffer_write(void);

/* A subtransaction is about to end well, has ended well, has been rolled back. */
extern void coze_buffer_before_release(void);
extern void coze_buffer_release(void);
extern void coze_buffer_roll_back(void);

/* The transaction has ended; its memory goes with TopTransactionContext. */
extern void coze_buffer_forget(void);

#endif							/* COZE_CAPTURE_BUFFER_H */
