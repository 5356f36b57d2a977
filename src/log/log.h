/*-------------------------------------------------------------------------
 *
 * log.h
 *		The change log: append to it, read it.
 *
 * The log is a ring of COZE_LOG_SEGMENTS segments, each a pair of tables:
 * cozesync.log_N (origin, hlc, chunks, payload), with a sparse unique index on (origin, hlc)
 * (stream.c), holds the heads of entries; cozesync.chunk_N (id, seq, payload), unique on (id, seq), the
 * bodies of entries too large for one row.  payload is the head but its version, which is
 * in the columns; chunks is NULL or the id of the chunks, which lie in the segments that
 * were current when they were written.
 *
 * Rows are only inserted, with the rights of nobody; a segment is emptied by TRUNCATE,
 * never by DELETE.  A transaction keeps its RowExclusiveLock on every segment
 * that it wrote in until it ends.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_LOG_H
#define COZE_LOG_H

#include "postgres.h"

#include "utils/snapshot.h"

#include "base/vector.h"
#include "base/wire.h"

#define COZE_LOG_SEGMENTS 8

/* --- appending, in the current transaction ------------------------------------ */

/* The tables of the current segment, for who writes to them by other ways; locked as by a writer. */
extern void coze_log_lock_current(Oid *log, Oid *chunk);

/* Id for the chunks of this transaction: its 64-bit xid, assigned if need be. */
extern int64 coze_log_chunks_id(void);
/* data: a chunk as coze_wire_put_chunk() makes it, at most COZE_WIRE_PIECE_MAX + 64 bytes */
extern void coze_log_append_chunk(int64 chunks, uint64 seq, const char *data, Size size);
/* head: as coze_wire_put_head() makes it, same limit */
extern void coze_log_append_head(CozeVersion version, int64 chunks, const char *head, Size size);
/* The same for an entry that this backend has drawn, at the end of its transaction, which ... */
extern void coze_log_append_own_head(CozeVersion version, int64 chunks, const char *head, Size size);
/* ... has committed, or has not. */
extern void coze_log_append_ended(bool committed);
/* Descriptors are kept in cozesync.descriptor (hash, payload), duplicates are harmless. */
extern bool coze_log_has_descriptor(uint64 hash);	/* latest snapshot and own changes */
extern void coze_log_put_descriptor(uint64 hash, const char *data, Size size);
extern char *coze_log_get_descriptor(uint64 hash, Size *size);	/* palloc'd; NULL: unknown */

/* --- reading --------------------------------------------------------------------- */

typedef struct CozeLogEntry
{
	CozeVersion version;
	int64		chunks;			/* 0: body inline in head */
	const char *head;			/* encoded; valid until the next call */
	Size		size;
} CozeLogEntry;

typedef struct CozeLogReader CozeLogReader;

/*
 * Entries of each origin o with after[o] < hlc <= upto[o], in version order over
 * all origins.  Origins that upto does not name are not read.  What upto may name:
 * horizon - 1 for the own origin, coze_held() for others (or more, for who wants
 * to see what is visible above the horizon).
 *
 * The snapshot must be registered or active and live until close.  The caller
 * took it after it read the horizon.  Because TRUNCATE is not MVCC-safe, the
 * caller checks when the log is open, or later, that what it asked for was there:
 * coze_log_read_is_whole(), or that the prune base has not passed it.
 */
extern CozeLogReader *coze_log_open(const CozeVector *after, const CozeVector *upto,
									Snapshot snapshot);
extern bool coze_log_next(CozeLogReader *reader, CozeLogEntry *entry);
extern void coze_log_close(CozeLogReader *reader);

/*
 * One entry after another, by their versions; false: it is not in the log.  For the
 * snapshot and what was truncated it is as with coze_log_open().
 */
typedef struct CozeLogFinder CozeLogFinder;

extern CozeLogFinder *coze_log_find_begin(Snapshot snapshot);
extern bool coze_log_find(CozeLogFinder *finder, CozeVersion version, CozeLogEntry *entry);
extern void coze_log_find_end(CozeLogFinder *finder);

/*
 * No entry above after[o] is missing: what was pruned stays in the log until its segment
 * is emptied, and up to coze_log_emptied() it may have been.
 */
extern bool coze_log_read_is_whole(const CozeVector *after);
extern CozeHlc coze_log_emptied(void);

/* Calls for every chunk row of an entry, in order of seq; payload as stored. */
typedef void (*CozeChunkCallback) (void *arg, const char *data, Size size);
extern void coze_log_read_chunks(int64 chunks, Snapshot snapshot, CozeChunkCallback callback,
								 void *arg);

/*
 * The same, one at a time: the first chunk of the entry with a number of at least
 * from; false if there is none.  data is palloc'd.
 */
extern bool coze_log_read_chunk(int64 chunks, uint64 from, Snapshot snapshot,
								uint64 *seq, char **data, Size *size);

/*
 * The last entry of this node that has committed and has none before it still to
 * come: the own component of vector().  Needs a transaction.
 */
extern CozeHlc coze_own_committed(void);

/* The last entry of an origin at or below hlc: false if none is in the log. */
extern bool coze_log_last(CozeOrigin origin, CozeHlc upto, Snapshot snapshot,
						  CozeHlc *hlc, char **head, Size *size);

/* The last one in the log, 0 if there is none; also where it is not known yet which node this is. */
extern CozeHlc coze_log_highest(CozeOrigin origin, Snapshot snapshot);

/* --- segments and the cut (segment.c, prune.c) --------------------------------------- */

extern int64 coze_log_size(void);	/* bytes on disk, all segments */
extern int	coze_log_last_segment(void); /* where writing goes on after a restart */

/* Surely neither head nor chunk that any snapshot shows; false: perhaps not. */
extern bool coze_log_segment_is_empty(int segment);

/* Does anything in the segment, head or chunk, belong to an entry above limit? (read.c) */
extern bool coze_log_segment_is_needed(int segment, CozeHlc limit, Snapshot snapshot);

/*
 * The node's upkeep, by the applier between its transactions, in a transaction of
 * its own each: move the cut as far as the members' entries allow and write the
 * base vector; rotate and empty segments.  Returns true if anything was done.
 */
extern bool coze_log_prune(void);
extern bool coze_log_rotate(void);

/* Is it above cozesync.max_log_size?  The alarm says so in the server's log. */
extern bool coze_log_is_too_large(void);
extern void coze_log_alarm(void);
/* For which other node entries are kept, palloc'd; NULL: for none. */
extern char *coze_log_held_by(void);

/*
 * Called in the transaction that moves the cut, before it is stored: what straddles
 * the new cut must be kept as base records.
 */
typedef void (*CozePruneHook) (CozeHlc old_cut, CozeHlc new_cut);
extern CozePruneHook coze_prune_hook;

/* Up to where the cut may go for all that is still to be done with entries here. */
typedef CozeHlc (*CozePruneLimitHook) (void);
extern CozePruneLimitHook coze_prune_limit_hook;

/* Does this node owe the group a beat?  cut.h's rule on what the log says. */
extern bool coze_log_beat_due(void);

#endif							/* COZE_LOG_H */
