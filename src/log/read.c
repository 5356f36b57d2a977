/*-------------------------------------------------------------------------
 *
 * read.c
 *		Entries of the change log, in version order.
 *
 * A run of index scans, one per origin and segment that holds anything, merged.
 * A segment that is empty when the reader opens it is passed over: what may be
 * written there later is not visible to the reader's snapshot.
 *
 * Invariant: TRUNCATE takes rows away under a snapshot that should still see
 * them.  So the reader locks its segments while it reads, and whoever reads
 * asks afterwards whether the prune base has passed what he wanted.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/table.h"
#include "storage/bufmgr.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "debug.h"
#include "log/catalog.h"
#include "log/log.h"
#include "log/state.h"

/* One origin in one segment. */
typedef struct CozeLogStream
{
	Relation	index;
	SysScanDesc scan;
	HeapTuple	tuple;			/* next one; NULL: at the end */
	CozeVersion version;
	TupleDesc	desc;
} CozeLogStream;

struct CozeLogReader
{
	Snapshot	snapshot;
	int			nsegments;
	Relation	segments[COZE_LOG_SEGMENTS];
	int			nstreams;
	CozeLogStream *streams;
	CozeLogStream *current;		/* gave the last entry; moves on with the next call */
	char	   *head;			/* the last entry's, in context */
	Size		head_cap;
	MemoryContext context;
};

/* NULL: it is empty. */
static Relation
open_segment(CozeSegmentTable table, int segment)
{
	Relation	rel;

	if (coze_log_segment_is_empty(segment))
		return NULL;
	rel = table_open(coze_segment_oids(table, segment).table, AccessShareLock);
	if (RelationGetNumberOfBlocks(rel) == 0)
	{
		table_close(rel, AccessShareLock);
		return NULL;
	}
	return rel;
}

static Relation
open_only_index(Relation rel)
{
	List	   *indexes = RelationGetIndexList(rel);
	Oid			indexid = linitial_oid(indexes);

	list_free(indexes);
	return index_open(indexid, AccessShareLock);
}

static void
stream_advance(CozeLogStream *stream, ScanDirection direction)
{
	bool		isnull;

	stream->tuple = systable_getnext_ordered(stream->scan, direction);
	if (stream->tuple == NULL)
		return;
	stream->version.origin = (CozeOrigin) DatumGetInt64(heap_getattr(stream->tuple, 1, stream->desc, &isnull));
	stream->version.hlc = DatumGetInt64(heap_getattr(stream->tuple, 2, stream->desc, &isnull));
}

/* Columns have the same numbers in the table and in its index. */
static void
stream_range(ScanKey keys, CozeOrigin origin, CozeHlc after, CozeHlc upto)
{
	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum((int64) origin));
	ScanKeyInit(&keys[1], 2, BTGreaterStrategyNumber, F_INT8GT, Int64GetDatum(after));
	ScanKeyInit(&keys[2], 2, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(upto));
}

/* Entries of origin with after < hlc <= upto in one segment. */
static void
stream_open(CozeLogStream *stream, Relation segment, CozeOrigin origin, CozeHlc after,
			CozeHlc upto, Snapshot snapshot, ScanDirection direction)
{
	ScanKeyData keys[3];

	stream_range(keys, origin, after, upto);
	stream->desc = RelationGetDescr(segment);
	stream->index = open_only_index(segment);
	stream->scan = systable_beginscan_ordered(segment, stream->index, snapshot, 3, keys);
	stream_advance(stream, direction);
}

/* The same with the scan that is open. */
static void
stream_reopen(CozeLogStream *stream, CozeOrigin origin, CozeHlc after, CozeHlc upto)
{
	ScanKeyData keys[3];

	stream_range(keys, origin, after, upto);
	index_rescan(stream->scan->iscan, keys, lengthof(keys), NULL, 0);
	stream_advance(stream, ForwardScanDirection);
}

static void
stream_close(CozeLogStream *stream)
{
	systable_endscan_ordered(stream->scan);
	index_close(stream->index, AccessShareLock);
}

/* Chunks of one entry in one segment, from a number on. */
static SysScanDesc
chunk_scan(Relation segment, Relation index, int64 chunks, uint64 from, Snapshot snapshot)
{
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(chunks));
	ScanKeyInit(&keys[1], 2, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum((int64) from));
	return systable_beginscan_ordered(segment, index, snapshot, 2, keys);
}

/* The chunks of the stream's tuple, 0 if it has none. */
static int64
stream_chunks(CozeLogStream *stream)
{
	bool		isnull;
	Datum		chunks = heap_getattr(stream->tuple, 3, stream->desc, &isnull);

	return isnull ? 0 : DatumGetInt64(chunks);
}

/* The head of the stream's tuple as it was appended: its version is in columns. */
static Size
stream_head(CozeLogStream *stream, MemoryContext context, char **buf, Size *cap)
{
	bool		isnull;
	struct varlena *payload = (struct varlena *)
		DatumGetPointer(heap_getattr(stream->tuple, 4, stream->desc, &isnull));
	Size		size = COZE_WIRE_VERSION_SIZE + VARSIZE_ANY_EXHDR(payload);

	if (*cap < size)
	{
		if (*buf != NULL)
			pfree(*buf);
		*cap = size + 512;
		*buf = MemoryContextAlloc(context, *cap);
	}
	coze_store_u64(*buf, stream->version.origin);
	coze_store_u64(*buf + 8, (uint64) stream->version.hlc);
	memcpy(*buf + COZE_WIRE_VERSION_SIZE, VARDATA_ANY(payload), VARSIZE_ANY_EXHDR(payload));
	return size;
}

CozeLogReader *
coze_log_open(const CozeVector *after, const CozeVector *upto, Snapshot snapshot)
{
	CozeLogReader *reader = palloc0(sizeof(CozeLogReader));

	reader->snapshot = snapshot;
	reader->context = CurrentMemoryContext;
	for (int i = 1; i <= COZE_LOG_SEGMENTS; i++)
	{
		Relation	rel = open_segment(COZE_SEGMENT_LOG, i);

		if (rel != NULL)
			reader->segments[reader->nsegments++] = rel;
	}
	reader->streams = palloc0(sizeof(CozeLogStream) * Max(1, reader->nsegments * upto->n));
	for (int i = 0; i < upto->n; i++)
	{
		CozeOrigin	origin = upto->e[i].origin;
		CozeHlc		from = coze_vector_get(after, origin);

		for (int s = 0; s < reader->nsegments && from < upto->e[i].hlc; s++)
		{
			CozeLogStream *stream = &reader->streams[reader->nstreams];

			stream_open(stream, reader->segments[s], origin, from, upto->e[i].hlc,
						snapshot, ForwardScanDirection);
			if (stream->tuple == NULL)
				stream_close(stream);
			else
				reader->nstreams++;
		}
	}
	return reader;
}

bool
coze_log_next(CozeLogReader *reader, CozeLogEntry *entry)
{
	CozeLogStream *lowest = NULL;

	if (reader->current != NULL)
		stream_advance(reader->current, ForwardScanDirection);
	for (int i = 0; i < reader->nstreams; i++)
	{
		CozeLogStream *stream = &reader->streams[i];

		if (stream->tuple != NULL &&
			(lowest == NULL || coze_version_cmp(stream->version, lowest->version) < 0))
			lowest = stream;
	}
	reader->current = lowest;
	if (lowest == NULL)
		return false;
	entry->version = lowest->version;
	entry->chunks = stream_chunks(lowest);
	entry->size = stream_head(lowest, reader->context, &reader->head, &reader->head_cap);
	entry->head = reader->head;
	return true;
}

void
coze_log_close(CozeLogReader *reader)
{
	for (int i = 0; i < reader->nstreams; i++)
		stream_close(&reader->streams[i]);
	for (int i = 0; i < reader->nsegments; i++)
		table_close(reader->segments[i], AccessShareLock);
	if (reader->head != NULL)
		pfree(reader->head);
	pfree(reader->streams);
	pfree(reader);
}

/* --- entries by their versions ------------------------------------------------------ */

/* More of them cost as much as to look the version up in the index. */
#define FIND_STEPS 4

struct CozeLogFinder
{
	Snapshot	snapshot;
	int			n;
	Relation	segments[COZE_LOG_SEGMENTS];
	CozeLogStream streams[COZE_LOG_SEGMENTS];	/* scan is NULL: not looked into yet */
	CozeVersion sought[COZE_LOG_SEGMENTS];	/* last, in each */
	int			last;			/* where the last one was */
	char	   *head;
	Size		head_cap;
	MemoryContext context;
};

CozeLogFinder *
coze_log_find_begin(Snapshot snapshot)
{
	CozeLogFinder *finder = palloc0(sizeof(CozeLogFinder));

	finder->snapshot = snapshot;
	finder->context = CurrentMemoryContext;
	for (int i = 1; i <= COZE_LOG_SEGMENTS; i++)
	{
		Relation	rel = open_segment(COZE_SEGMENT_LOG, i);

		if (rel != NULL)
			finder->segments[finder->n++] = rel;
	}
	return finder;
}

/* Does a stream come to the version within a few steps?  It stays before or at it, or behind. */
static bool
stream_walk(CozeLogStream *stream, CozeVersion version)
{
	for (int i = 0; i < FIND_STEPS && stream->tuple != NULL && stream->version.hlc < version.hlc; i++)
		stream_advance(stream, ForwardScanDirection);
	return stream->tuple == NULL || stream->version.hlc >= version.hlc;
}

/* Rising versions of one origin are likely to be close to each other. */
static bool
find_in_segment(CozeLogFinder *finder, int s, CozeVersion version)
{
	CozeLogStream *stream = &finder->streams[s];
	CozeVersion sought = finder->sought[s];

	finder->sought[s] = version;
	if (stream->scan == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(finder->context);

		stream_open(stream, finder->segments[s], version.origin, version.hlc - 1, PG_INT64_MAX,
					finder->snapshot, ForwardScanDirection);
		MemoryContextSwitchTo(old);
	}
	else if (sought.origin != version.origin || sought.hlc > version.hlc ||
			 !stream_walk(stream, version))
		stream_reopen(stream, version.origin, version.hlc - 1, PG_INT64_MAX);
	return stream->tuple != NULL && stream->version.hlc == version.hlc;
}

bool
coze_log_find(CozeLogFinder *finder, CozeVersion version, CozeLogEntry *entry)
{
	for (int i = 0; i < finder->n; i++)
	{
		int			s = (finder->last + i) % finder->n;
		CozeLogStream *stream = &finder->streams[s];

		if (!find_in_segment(finder, s, version))
			continue;
		finder->last = s;
		entry->version = version;
		entry->chunks = stream_chunks(stream);
		entry->size = stream_head(stream, finder->context, &finder->head, &finder->head_cap);
		entry->head = finder->head;
		return true;
	}
	return false;
}

void
coze_log_find_end(CozeLogFinder *finder)
{
	for (int i = 0; i < finder->n; i++)
	{
		if (finder->streams[i].scan != NULL)
			stream_close(&finder->streams[i]);
		table_close(finder->segments[i], AccessShareLock);
	}
	if (finder->head != NULL)
		pfree(finder->head);
	pfree(finder);
}

/* --- what is there ---------------------------------------------------------------------- */

bool
coze_log_read_is_whole(const CozeVector *after)
{
	CozeHlc		emptied = coze_log_emptied();

	for (int i = 0; i < after->n; i++)
		if (after->e[i].hlc < emptied && after->e[i].hlc < coze_base_of(after->e[i].origin))
			return false;
	return true;
}

bool
coze_log_last(CozeOrigin origin, CozeHlc upto, Snapshot snapshot,
			  CozeHlc *hlc, char **head, Size *size)
{
	bool		found = false;

	for (int i = 1; i <= COZE_LOG_SEGMENTS; i++)
	{
		Relation	rel = open_segment(COZE_SEGMENT_LOG, i);
		CozeLogStream stream;

		if (rel == NULL)
			continue;
		stream_open(&stream, rel, origin, found ? *hlc : 0, upto, snapshot, BackwardScanDirection);
		if (stream.tuple != NULL)
		{
			*hlc = stream.version.hlc;
			found = true;
			if (head != NULL)
			{
				Size		cap = 0;

				*head = NULL;
				*size = stream_head(&stream, CurrentMemoryContext, head, &cap);
			}
		}
		stream_close(&stream);
		table_close(rel, AccessShareLock);
	}
	return found;
}

/* --- what a segment is needed for ------------------------------------------------ */

/* The least origin above one that a segment has entries of; false if there is none. */
static bool
next_origin(Relation segment, Snapshot snapshot, CozeOrigin *origin)
{
	Relation	index = open_only_index(segment);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		isnull;

	ScanKeyInit(&key, 1, BTGreaterStrategyNumber, F_INT8GT, Int64GetDatum((int64) *origin));
	scan = systable_beginscan_ordered(segment, index, snapshot, 1, &key);
	tuple = systable_getnext_ordered(scan, ForwardScanDirection);
	if (tuple != NULL)
		*origin = (CozeOrigin) DatumGetInt64(heap_getattr(tuple, 1, RelationGetDescr(segment), &isnull));
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	return tuple != NULL;
}

static bool
holds_chunks(Relation chunk_segment, int64 chunks, Snapshot snapshot)
{
	Relation	index = open_only_index(chunk_segment);
	SysScanDesc scan = chunk_scan(chunk_segment, index, chunks, 0, snapshot);
	bool		found = systable_getnext_ordered(scan, ForwardScanDirection) != NULL;

	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	return found;
}

/*
 * Does a segment hold the head of an entry above limit; and if chunk_segment is not
 * NULL, of one that has chunks there?
 */
static bool
has_entry_above(Relation segment, CozeHlc limit, Relation chunk_segment, Snapshot snapshot)
{
	CozeOrigin	origin = 0;
	bool		found = false;

	while (!found && next_origin(segment, snapshot, &origin))
	{
		CozeLogStream stream;

		stream_open(&stream, segment, origin, limit, PG_INT64_MAX, snapshot,
					ForwardScanDirection);
		while (!found && stream.tuple != NULL)
		{
			int64		chunks = stream_chunks(&stream);

			found = chunk_segment == NULL ||
				(chunks != 0 && holds_chunks(chunk_segment, chunks, snapshot));
			if (!found)
				stream_advance(&stream, ForwardScanDirection);
		}
		stream_close(&stream);
	}
	return found;
}

bool
coze_log_segment_is_needed(int segment, CozeHlc limit, Snapshot snapshot)
{
	Relation	heads = open_segment(COZE_SEGMENT_LOG, segment);
	Relation	chunks = open_segment(COZE_SEGMENT_CHUNK, segment);
	bool		needed = heads != NULL && has_entry_above(heads, limit, NULL, snapshot);

	for (int i = 1; i <= COZE_LOG_SEGMENTS && chunks != NULL && !needed &&
		 COZE_RULE("open-segment"); i++)
	{
		Relation	rel = open_segment(COZE_SEGMENT_LOG, i);

		if (rel == NULL)
			continue;
		needed = has_entry_above(rel, limit, chunks, snapshot);
		table_close(rel, AccessShareLock);
	}
	if (heads != NULL)
		table_close(heads, AccessShareLock);
	if (chunks != NULL)
		table_close(chunks, AccessShareLock);
	return needed;
}

CozeHlc
coze_own_committed(void)
{
	CozeHlc		horizon = coze_clock_horizon(NULL);
	CozeHlc		last = coze_own_committed_max();

	if (last >= horizon)
	{
		Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());

		if (!coze_log_last(coze_own_origin(), horizon - 1, snapshot, &last, NULL, NULL))
			last = coze_base_of(coze_own_origin());
		UnregisterSnapshot(snapshot);
	}
	return last;
}

/* --- chunks -------------------------------------------------------------------- */

/*
 * Merges the segments: a long transaction may have begun in one and ended in
 * another, and its chunks need not have been written in the order of their numbers.
 */
void
coze_log_read_chunks(int64 chunks, Snapshot snapshot, CozeChunkCallback callback, void *arg)
{
	Relation	segments[COZE_LOG_SEGMENTS];
	CozeLogStream streams[COZE_LOG_SEGMENTS];
	int			n = 0;

	for (int i = 1; i <= COZE_LOG_SEGMENTS; i++)
	{
		Relation	rel = open_segment(COZE_SEGMENT_CHUNK, i);
		CozeLogStream *stream = &streams[n];

		if (rel == NULL)
			continue;
		stream->index = open_only_index(rel);
		stream->desc = RelationGetDescr(rel);
		stream->scan = chunk_scan(rel, stream->index, chunks, 0, snapshot);
		stream_advance(stream, ForwardScanDirection);
		segments[n++] = rel;
	}
	for (;;)
	{
		CozeLogStream *lowest = NULL;
		Datum		payload;
		bool		isnull;

		/* version.hlc is the second column: here the number of the chunk */
		for (int i = 0; i < n; i++)
			if (streams[i].tuple != NULL &&
				(lowest == NULL || streams[i].version.hlc < lowest->version.hlc))
				lowest = &streams[i];
		if (lowest == NULL)
			break;
		payload = heap_getattr(lowest->tuple, 3, lowest->desc, &isnull);
		callback(arg, VARDATA_ANY(DatumGetPointer(payload)),
				 VARSIZE_ANY_EXHDR(DatumGetPointer(payload)));
		stream_advance(lowest, ForwardScanDirection);
	}
	for (int i = 0; i < n; i++)
	{
		stream_close(&streams[i]);
		table_close(segments[i], AccessShareLock);
	}
}

bool
coze_log_read_chunk(int64 chunks, uint64 from, Snapshot snapshot,
					uint64 *seq, char **data, Size *size)
{
	bool		found = false;

	for (int i = 1; i <= COZE_LOG_SEGMENTS; i++)
	{
		Relation	rel = open_segment(COZE_SEGMENT_CHUNK, i);
		Relation	index;
		SysScanDesc scan;
		HeapTuple	tuple;

		if (rel == NULL)
			continue;
		index = open_only_index(rel);
		scan = chunk_scan(rel, index, chunks, from, snapshot);
		tuple = systable_getnext_ordered(scan, ForwardScanDirection);
		if (tuple != NULL)
		{
			bool		isnull;
			uint64		number = (uint64) DatumGetInt64(heap_getattr(tuple, 2, RelationGetDescr(rel), &isnull));

			if (!found || number < *seq)
			{
				Datum		payload = heap_getattr(tuple, 3, RelationGetDescr(rel), &isnull);

				found = true;
				*seq = number;
				*size = VARSIZE_ANY_EXHDR(DatumGetPointer(payload));
				*data = palloc(*size);
				memcpy(*data, VARDATA_ANY(DatumGetPointer(payload)), *size);
			}
		}
		systable_endscan_ordered(scan);
		index_close(index, AccessShareLock);
		table_close(rel, AccessShareLock);
	}
	return found;
}
