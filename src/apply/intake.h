/*-------------------------------------------------------------------------
 *
 * intake.h
 *		From received batches to entries, in order, by origin.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_INTAKE_H
#define COZE_INTAKE_H

#include "postgres.h"

#include "lib/ilist.h"
#include "storage/buffile.h"

#include "base/wire.h"

/* A batch of which entries are in use. */
typedef struct CozeTakenBatch CozeTakenBatch;

/* An entry that is complete. */
typedef struct CozeQueuedEntry
{
	dlist_node	node;
	CozeEntryHead head;			/* points into data */
	CozeHlc		prev;			/* entry of its origin that it follows; 0: none */
	const char *data;			/* as it goes to the log */
	Size		size;
	Size		memory;			/* of data and chunks, wherever they are */
	CozeTakenBatch *batch;		/* in which data and chunks are, or NULL: our own memory */
	struct CozeQueuedChunk *chunks; /* head.nchunks of them, unless in the spool */
	BufFile    *spool;			/* sizes and bytes of the chunks */
} CozeQueuedEntry;

typedef struct CozeQueuedChunk
{
	const char *data;
	Size		size;
} CozeQueuedChunk;

/* An origin's entries that wait to be applied, and why they wait. */
typedef struct CozeOriginQueue
{
	CozeOrigin	origin;
	dlist_head	entries;
	int			n;
	Size		memory;
	CozeHlc		last;			/* last one that was queued */

	BufFile    *overflow;		/* further entries, written while it stood still */
	Size		overflow_read;
	Size		overflow_written;
	int			read_file;
	off_t		read_offset;
	int			write_file;
	off_t		write_offset;

	CozeQueuedEntry *next;		/* the round at hand: first one not applied, if taken > 0 */
	int			taken;			/* applied in it */

	bool		stopped;		/* by an error, or by somebody's lock */
	int64		retry_at;		/* us, of the clock that never goes back */
	int			delay;			/* ms */
	char	   *error;			/* last one that was reported */
} CozeOriginQueue;

extern void coze_intake_start(void);

/*
 * Nothing is taken from these peers.  If there are others among them than before,
 * intake starts anew; returns true then.
 */
extern bool coze_intake_refuse(const CozeVector *peers);
extern bool coze_intake_take(void);
extern Size coze_intake_memory(void);	/* of what waits in memory, all origins */
extern CozeOriginQueue *coze_intake_queue(int i);	/* NULL: no more */
extern CozeQueuedEntry *coze_intake_head(CozeOriginQueue *queue);
extern void coze_intake_done(CozeOriginQueue *queue);

/*
 * Nothing can be applied now: what waits must not keep the batches in which it came,
 * for they count in their senders' windows with all that is in them.
 */
extern void coze_intake_detach(void);

/* The chunks of an entry, one by one; *data is valid until the next call. */
typedef struct CozeChunkReader
{
	CozeQueuedEntry *entry;
	uint32		next;
	char	   *buffer;
	Size		cap;
} CozeChunkReader;

extern void coze_chunks_begin(CozeChunkReader *reader, CozeQueuedEntry *entry);
extern bool coze_chunks_next(CozeChunkReader *reader, const char **data, Size *size);
extern void coze_chunks_end(CozeChunkReader *reader);

#endif							/* COZE_INTAKE_H */
