/*-------------------------------------------------------------------------
 *
 * stream.h
 *		Heads of one origin in one segment of the log, found through its sparse
 *		index; for read.c and who appends.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_STREAM_H
#define COZE_STREAM_H

#include "postgres.h"

#include "access/genam.h"
#include "access/htup.h"
#include "lib/pairingheap.h"
#include "storage/block.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

#include "base/version.h"
#include "log/catalog.h"

/* How much later than its leader an entry may be that is not in the index, in us. */
#define COZE_LOG_SPAN INT64CONST(100000)

/* Columns of log_N. */
#define COZE_LOG_ORIGIN 1
#define COZE_LOG_HLC 2
#define COZE_LOG_CHUNKS 3
#define COZE_LOG_PAYLOAD 4

/* A page that was read, and up to which hlc. */
typedef struct CozePageTaken
{
	BlockNumber block;
	CozeHlc		upto;
} CozePageTaken;

#define COZE_PAGES_TAKEN 8

typedef struct CozeLogStream
{
	HeapTuple	tuple;			/* the next one, valid until the next call; NULL: at the end */
	CozeVersion version;		/* its */
	TupleDesc	desc;

	/* private to stream.c */
	Relation	segment;
	Relation	index;
	SysScanDesc scan;
	Snapshot	snapshot;
	CozeHlc		after;
	CozeHlc		upto;
	bool		sparse;
	CozeHlc		reached;		/* of sparse ones: all rows up to there are in hand */
	CozePageTaken taken[COZE_PAGES_TAKEN];	/* by number of page */
	pairingheap *rows;			/* in hand */
	MemoryContext context;
} CozeLogStream;

/* NULL if it is empty: what comes is not visible to a snapshot taken before. */
extern Relation coze_segment_open(CozeSegmentTable table, int segment);
/* The index by which to read a segment's table. */
extern Relation coze_segment_index_open(Relation rel);

/*
 * Entries of origin with after < hlc <= upto, the first one at once.  sparse: the origin may
 * be this node's.
 */
extern void coze_stream_open(CozeLogStream *stream, Relation segment, CozeOrigin origin, CozeHlc after,
							 CozeHlc upto, bool sparse, Snapshot snapshot);
extern void coze_stream_advance(CozeLogStream *stream);
extern void coze_stream_close(CozeLogStream *stream);

/* The last of them, palloc'd, or NULL. */
extern HeapTuple coze_stream_last(Relation segment, CozeOrigin origin, CozeHlc after, CozeHlc upto,
								  bool sparse, Snapshot snapshot);

/* The entry, if it is in that page of the segment, palloc'd, or NULL. */
extern HeapTuple coze_stream_find_in_page(Relation segment, BlockNumber block, CozeVersion version,
										  Snapshot snapshot);

/* Its version, of a row of log_N. */
extern CozeVersion coze_row_version(HeapTuple tuple);

#endif							/* COZE_STREAM_H */
