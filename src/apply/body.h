/*-------------------------------------------------------------------------
 *
 * body.h
 *		Bodies of entries: their changes, and where each stands.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_BODY_H
#define COZE_BODY_H

#include "postgres.h"

#include "utils/snapshot.h"

#include "base/wire.h"
#include "log/log.h"

/*
 * Where a change begins: in which chunk (0: of an inline body), at which byte of its
 * body; and what it may leave out because the change before it named it.  Places are
 * good in this process only.
 */
typedef struct CozePlace
{
	uint64		seq;
	uint16		offset;
	uint16		context;		/* number, or COZE_CONTEXT_UNKNOWN */
} CozePlace;

#define COZE_CONTEXT_UNKNOWN	UINT16_MAX

/* Chunk by chunk, or the inline body at once. */
typedef struct CozeBodyReader
{
	CozeChangeReader reader;
	uint64		seq;			/* of the chunk that was fed last */
	Size		rest;			/* bytes from earlier chunks before it in the buffer */
	uint64		rest_seq;		/* where they begin */
	Size		rest_offset;
	CozeChangeContext named;	/* what number stands for */
	uint16		number;
} CozeBodyReader;

extern void coze_body_begin(CozeBodyReader *body);
extern void coze_body_feed(CozeBodyReader *body, uint64 seq, const char *data, Size size);
extern int	coze_body_next(CozeBodyReader *body, CozeChange *change, CozePlace *place);
extern bool coze_body_at_end(const CozeBodyReader *body);
extern void coze_body_end(CozeBodyReader *body);

/* --- of the log ------------------------------------------------------------------ */

/* change, place: valid until the callback returns. */
typedef void (*CozePlacedCallback) (void *arg, const CozeChange *change, const CozePlace *place);
typedef void (*CozeChangeCallback) (void *arg, const CozeChange *change);

extern void coze_read_placed(const CozeEntryHead *head, int64 chunks, Snapshot snapshot,
							 CozePlacedCallback callback, void *arg);
extern void coze_read_changes(const CozeEntryHead *head, int64 chunks, Snapshot snapshot,
							  CozeChangeCallback callback, void *arg);
extern bool coze_find_head(CozeLogFinder *finder, CozeVersion version, CozeEntryHead *head,
						   int64 *chunks);
extern bool coze_read_entry(CozeVersion version, CozeEntryHead *head, uint32 max,
							CozeChangeCallback callback, void *arg);

/* One change of an entry that has chunks. */
extern void coze_read_change_at(int64 chunks, const CozePlace *place,
								CozeChangeCallback callback, void *arg);

#endif							/* COZE_BODY_H */
