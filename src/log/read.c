/*-------------------------------------------------------------------------
 *
 * read.c
 *		Entries of the change log, in version order.
 *
 * A stream for each origin and segment that holds anything (stream.c), merged.
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
#include "access/table.h"
#include "storage/bufmgr.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "debug.h"
#include "log/catalog.h"
#include "log/log.h"
#include "log/state.h"
#include "log/stream.h"

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

/* Of other nodes' entries all are in the index. */
static bool
is_sparse(CozeOrigin origin)
{
	return origin == coze_own_origin();
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

/* The chunks of a row of log_N, 0 if it has none. */
static int64
row_chunks(HeapTuple tuple, TupleDesc desc)
{
	bool		isnull;
	Datum		chunks = heap_getattr(tuple, COZE_LOG_CHUNKS, desc, &isnull);

	return isnull ? 0 : DatumGetInt64(chunks);
}

/* The head in a row of log_N as it was appended: its version is in columns. */
static Size
row_head(HeapTuple tuple, TupleDesc desc, MemoryContext context, char **buf, Size *cap)
{
	CozeVersion version = coze_row_version(tuple);
	bool		isnull;
	struct varlena *payload = (struct varlena *)
		DatumGetPointer(heap_getattr(tuple, COZE_LOG_PAYLOAD, desc, &isnull));
	Size		size = COZE_WIRE_VERSION_SIZE + VARSIZE_ANY_EXHDR(payload);

	if (*cap < size)
	{
		if (*buf != NULL)
			pfree(*buf);
		*cap = size + 512;
		*buf = MemoryContextAlloc(context, *cap);
	}
	coze_store_u64(*buf, version.origin);
	coze_store_u64(*buf + 8, (uint64) version.hlc);
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
		Relation	rel = coze_segment_open(COZE_SEGMENT_LOG, i);

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

			coze_stream_open(stream, reader->segments[s], origin, from, upto->e[i].hlc,
							 is_sparse(origin), snapshot);
			if (stream->tuple == NULL)
				coze_stream_close(stream);
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
		coze_stream_advance(reader->current);
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
	entry->chunks = row_chunks(lowest->tuple, lowest->desc);
	entry->size = row_head(lowest->tuple, lowest->desc, reader->context, &reader->head, &reader->head_cap);
	entry->head = reader->head;
	return true;
}

void
coze_log_close(CozeLogReader *reader)
{
	for (int i = 0; i < reader->nstreams; i++)
		coze_stream_close(&reader->streams[i]);
	for (int i = 0; i < reader->nsegments; i++)
		table_close(reader->segments[i], AccessShareLock);
	if (reader->head != NULL)
		pfree(reader->head);
	pfree(reader->streams);
	pfree(reader);
}

bool
coze_log_read_is_whole(const CozeVector *after)
{
	CozeHlc		emptied = coze_log_emptied();

	for (int i = 0; i < after->n; i++)
		if (after->e[i].hlc < emptied && after->e[i].hlc < coze_base_of(after->e[i].origin))
			return false;
	return true;
}

/* The last entry of an origin with after < hlc <= upto; its head, palloc'd, if wanted. */
static bool
find_last(CozeOrigin origin, CozeHlc after, CozeHlc upto, bool sparse, Snapshot snapshot,
		  bool with_head, CozeLogEntry *entry)
{
	bool		found = false;

	for (int i = 1; i <= COZE_LOG_SEGMENTS && after < upto; i++)
	{
		Relation	rel = coze_segment_open(COZE_SEGMENT_LOG, i);
		HeapTuple	tuple;

		if (rel == NULL)
			continue;
		tuple = coze_stream_last(rel, origin, after, upto, sparse, snapshot);
		if (tuple != NULL)
		{
			char	   *head = NULL;
			Size		cap = 0;

			found = true;
			entry->version = coze_row_version(tuple);
			entry->chunks = row_chunks(tuple, RelationGetDescr(rel));
			if (with_head)
				entry->size = row_head(tuple, RelationGetDescr(rel), CurrentMemoryContext, &head, &cap);
			entry->head = head;
			heap_freetuple(tuple);
			after = entry->version.hlc;
		}
		table_close(rel, AccessShareLock);
	}
	return found;
}

bool
coze_log_last(CozeOrigin origin, CozeHlc upto, Snapshot snapshot,
			  CozeHlc *hlc, char **head, Size *size)
{
	CozeLogEntry entry;

	if (!find_last(origin, 0, upto, is_sparse(origin), snapshot, head != NULL, &entry))
		return false;
	*hlc = entry.version.hlc;
	if (head != NULL)
	{
		*head = unconstify(char *, entry.head);
		*size = entry.size;
	}
	return true;
}

CozeHlc
coze_log_highest(CozeOrigin origin, Snapshot snapshot)
{
	CozeLogEntry entry;

	return find_last(origin, 0, PG_INT64_MAX, true, snapshot, false, &entry) ? entry.version.hlc : 0;
}

/* --- entries by their versions ------------------------------------------------------ */

struct CozeLogFinder
{
	Snapshot	snapshot;
	int			n;
	Relation	segments[COZE_LOG_SEGMENTS];
	int			last;			/* where the last one was: the segment, and the page in it */
	BlockNumber block;
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
	finder->block = InvalidBlockNumber;
	for (int i = 1; i <= COZE_LOG_SEGMENTS; i++)
	{
		Relation	rel = coze_segment_open(COZE_SEGMENT_LOG, i);

		if (rel != NULL)
			finder->segments[finder->n++] = rel;
	}
	return finder;
}

/* Entries that are wanted one after another are likely to be close to each other. */
static HeapTuple
find_row(CozeLogFinder *finder, CozeVersion version)
{
	HeapTuple	tuple = NULL;

	if (finder->block != InvalidBlockNumber)
		tuple = coze_stream_find_in_page(finder->segments[finder->last], finder->block, version, finder->snapshot);
	for (int i = 0; i < finder->n && tuple == NULL; i++)
	{
		int			s = (finder->last + i) % finder->n;

		tuple = coze_stream_last(finder->segments[s], version.origin, version.hlc - 1, version.hlc,
								 is_sparse(version.origin), finder->snapshot);
		if (tuple == NULL)
			continue;
		finder->last = s;
		finder->block = ItemPointerGetBlockNumber(&tuple->t_self);
	}
	return tuple;
}

bool
coze_log_find(CozeLogFinder *finder, CozeVersion version, CozeLogEntry *entry)
{
	HeapTuple	tuple = find_row(finder, version);
	TupleDesc	desc;

	if (tuple == NULL)
		return false;
	desc = RelationGetDescr(finder->segments[finder->last]);
	entry->version = version;
	entry->chunks = row_chunks(tuple, desc);
	entry->size = row_head(tuple, desc, finder->context, &finder->head, &finder->head_cap);
	entry->head = finder->head;
	heap_freetuple(tuple);
	return true;
}

void
coze_log_find_end(CozeLogFinder *finder)
{
	for (int i = 0; i < finder->n; i++)
		table_close(finder->segments[i], AccessShareLock);
	if (finder->head != NULL)
		pfree(finder->head);
	pfree(finder);
}

/* --- what a segment is needed for ------------------------------------------------ */

/* The least origin above one that a segment has entries of; false if there is none. */
static bool
next_origin(Relation segment, Snapshot snapshot, CozeOrigin *origin)
{
	Relation	index = coze_segment_index_open(segment);
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
	Relation	index = coze_segment_index_open(chunk_segment);
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

		coze_stream_open(&stream, segment, origin, limit, PG_INT64_MAX, is_sparse(origin), snapshot);
		while (!found && stream.tuple != NULL)
		{
			int64		chunks = row_chunks(stream.tuple, stream.desc);

			found = chunk_segment == NULL ||
				(chunks != 0 && holds_chunks(chunk_segment, chunks, snapshot));
			if (!found)
				coze_stream_advance(&stream);
		}
		coze_stream_close(&stream);
	}
	return found;
}

bool
coze_log_segment_is_needed(int segment, CozeHlc limit, Snapshot snapshot)
{
	Relation	heads = coze_segment_open(COZE_SEGMENT_LOG, segment);
	Relation	chunks = coze_segment_open(COZE_SEGMENT_CHUNK, segment);
	bool		needed = heads != NULL && has_entry_above(heads, limit, NULL, snapshot);

	for (int i = 1; i <= COZE_LOG_SEGMENTS && chunks != NULL && !needed &&
		 COZE_RULE("open-segment"); i++)
	{
		Relation	rel = coze_segment_open(COZE_SEGMENT_LOG, i);

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

/* The chunks of one entry in one segment. */
typedef struct ChunkStream
{
	Relation	segment;
	Relation	index;
	SysScanDesc scan;
	HeapTuple	tuple;			/* next one; NULL: at the end */
	uint64		seq;
} ChunkStream;

static void
chunk_advance(ChunkStream *stream)
{
	bool		isnull;

	stream->tuple = systable_getnext_ordered(stream->scan, ForwardScanDirection);
	if (stream->tuple != NULL)
		stream->seq = (uint64) DatumGetInt64(heap_getattr(stream->tuple, 2, RelationGetDescr(stream->segment),
														  &isnull));
}

/*
 * Merges the segments: a long transaction may have begun in one and ended in
 * another, and its chunks need not have been written in the order of their numbers.
 */
void
coze_log_read_chunks(int64 chunks, Snapshot snapshot, CozeChunkCallback callback, void *arg)
{
	ChunkStream streams[COZE_LOG_SEGMENTS];
	int			n = 0;

	for (int i = 1; i <= COZE_LOG_SEGMENTS; i++)
	{
		Relation	rel = coze_segment_open(COZE_SEGMENT_CHUNK, i);
		ChunkStream *stream = &streams[n];

		if (rel == NULL)
			continue;
		stream->segment = rel;
		stream->index = coze_segment_index_open(rel);
		stream->scan = chunk_scan(rel, stream->index, chunks, 0, snapshot);
		chunk_advance(stream);
		n++;
	}
	for (;;)
	{
		ChunkStream *lowest = NULL;
		Datum		payload;
		bool		isnull;

		for (int i = 0; i < n; i++)
			if (streams[i].tuple != NULL && (lowest == NULL || streams[i].seq < lowest->seq))
				lowest = &streams[i];
		if (lowest == NULL)
			break;
		payload = heap_getattr(lowest->tuple, 3, RelationGetDescr(lowest->segment), &isnull);
		callback(arg, VARDATA_ANY(DatumGetPointer(payload)),
				 VARSIZE_ANY_EXHDR(DatumGetPointer(payload)));
		chunk_advance(lowest);
	}
	for (int i = 0; i < n; i++)
	{
		systable_endscan_ordered(streams[i].scan);
		index_close(streams[i].index, AccessShareLock);
		table_close(streams[i].segment, AccessShareLock);
	}
}

bool
coze_log_read_chunk(int64 chunks, uint64 from, Snapshot snapshot,
					uint64 *seq, char **data, Size *size)
{
	bool		found = false;

	for (int i = 1; i <= COZE_LOG_SEGMENTS; i++)
	{
		Relation	rel = coze_segment_open(COZE_SEGMENT_CHUNK, i);
		Relation	index;
		SysScanDesc scan;
		HeapTuple	tuple;

		if (rel == NULL)
			continue;
		index = coze_segment_index_open(rel);
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
