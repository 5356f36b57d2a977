/*-------------------------------------------------------------------------
 *
 * intake.c
 *		From received batches to entries, in order, by origin.
 *
 * An entry that is complete in its batch is used in place, in shared memory; one
 * that goes over several batches is spooled to a temporary file and counts
 * as queued when it is complete.  While an origin stands still what comes of it
 * goes to a file, too, so that it takes no room from the others; and what waits for
 * long in memory is copied out of its batches.
 *
 * Invariants: a queue holds a run of its origin's entries without holes, which
 * begins behind what is applied.  What another peer had delivered already is
 * dropped here.  Entries that lie in batches are the last of their queue, so that
 * coze_intake_detach() finds all of them: what waits holds no batch for ever, and a peer
 * whose batches are held has no room to send what is waited for.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/resowner.h"

#include "apply/intake.h"
#include "apply/queue.h"
#include "apply/relation.h"
#include "debug.h"
#include "log/state.h"
#include "settings.h"

struct CozeTakenBatch
{
	CozeBatch	batch;
	int			uses;
};

/* An entry of which chunks are still to come, per peer. */
typedef struct Partial
{
	CozeOrigin	peer;
	CozeQueuedEntry *entry;		/* NULL: none */
	uint32		nchunks;		/* so far */
} Partial;

/* Of an origin that stands still so many batches wait in memory, the rest in a file. */
#define BATCHES_IN_MEMORY 2

/* So much of a file is brought back at once. */
#define POP_BYTES (256 * 1024)

static MemoryContext intake_context = NULL;
static ResourceOwner intake_owner = NULL;	/* intake happens outside of transactions */
static List *queues = NIL;
static List *partials = NIL;
static CozeVector refused;		/* peers */

/* --- files outside of transactions --- */

static BufFile *
make_file(void)
{
	ResourceOwner owner = CurrentResourceOwner;
	MemoryContext old = MemoryContextSwitchTo(intake_context);
	BufFile    *file;

	/* It outlives transactions, so it must not remember one's resource owner. */
	CurrentResourceOwner = NULL;
	file = BufFileCreateTemp(true);
	CurrentResourceOwner = owner;
	MemoryContextSwitchTo(old);
	return file;
}

static void
read_exactly(BufFile *file, void *data, Size size)
{
	if (BufFileRead(file, data, size) != size)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read back received changes from a temporary file")));
}

static void
write_sized(BufFile *file, const char *data, Size size)
{
	uint64		n = size;

	BufFileWrite(file, &n, sizeof(n));
	BufFileWrite(file, unconstify(char *, data), size);
}

static void
rewind_file(BufFile *file)
{
	if (BufFileSeek(file, 0, 0, SEEK_SET) != 0)
		elog(ERROR, "could not rewind a temporary file");
}

/* --- entries --- */

static CozeQueuedEntry *
make_entry(CozeHlc prev, const char *data, Size size, CozeTakenBatch *batch)
{
	CozeQueuedEntry *entry = palloc0(sizeof(CozeQueuedEntry));
	const char *error;

	if (batch == NULL)
		data = memcpy(palloc(size), data, size);
	else
		batch->uses++;
	entry->prev = prev;
	entry->batch = batch;
	entry->data = data;
	entry->size = entry->memory = size;
	error = coze_wire_get_head(data, size, &entry->head);
	if (error != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("received changes are damaged: %s", error)));
	return entry;
}

static void
release_batch(CozeTakenBatch *batch)
{
	if (--batch->uses > 0)
		return;
	coze_queue_done(&batch->batch);
	pfree(batch);
}

static void
free_entry(CozeQueuedEntry *entry)
{
	coze_vector_free(&entry->head.seen);
	if (entry->spool != NULL)
		BufFileClose(entry->spool);
	if (entry->chunks != NULL)
		pfree(entry->chunks);
	if (entry->batch != NULL)
		release_batch(entry->batch);
	else
		pfree(unconstify(char *, entry->data));
	pfree(entry);
}

/* A copy of an entry that lies in a batch, with so many of its chunks in a file. */
static CozeQueuedEntry *
copy_of(const CozeQueuedEntry *entry, uint32 nchunks)
{
	CozeQueuedEntry *copy = make_entry(entry->prev, entry->data, entry->size, NULL);

	copy->memory = entry->memory;
	if (entry->head.nchunks > 0)
		copy->spool = make_file();
	for (uint32 i = 0; i < nchunks; i++)
		write_sized(copy->spool, entry->chunks[i].data, entry->chunks[i].size);
	return copy;
}

/* --- queues --- */

static CozeOriginQueue *
queue_of(CozeOrigin origin)
{
	CozeOriginQueue *queue;
	ListCell   *lc;

	foreach(lc, queues)
	{
		queue = lfirst(lc);
		if (queue->origin == origin)
			return queue;
	}
	queue = palloc0(sizeof(CozeOriginQueue));
	queue->origin = origin;
	queue->last = coze_held_of(origin);
	dlist_init(&queue->entries);
	queues = lappend(queues, queue);
	return queue;
}

CozeOriginQueue *
coze_intake_queue(int i)
{
	return i < list_length(queues) ? list_nth(queues, i) : NULL;
}

/* Copy out of their batches what lies in some: the last entries. */
static void
detach_queue(CozeOriginQueue *queue)
{
	dlist_node *node = queue->n > 0 ? dlist_tail_node(&queue->entries) : NULL;

	while (node != NULL)
	{
		CozeQueuedEntry *entry = dlist_container(CozeQueuedEntry, node, node);
		CozeQueuedEntry *copy;

		if (entry->batch == NULL)
			return;
		copy = copy_of(entry, entry->head.nchunks);
		dlist_insert_before(&entry->node, &copy->node);
		dlist_delete(&entry->node);
		free_entry(entry);
		node = dlist_has_prev(&queue->entries, &copy->node) ?
			dlist_prev_node(&queue->entries, &copy->node) : NULL;
	}
}

static void
push(CozeOriginQueue *queue, CozeQueuedEntry *entry)
{
	if (entry->batch == NULL && COZE_RULE("batches-last"))
		detach_queue(queue);
	dlist_push_tail(&queue->entries, &entry->node);
	queue->n++;
	queue->memory += entry->memory;
}

/* Write an entry to the end of the queue's file instead. */
static void
push_to_file(CozeOriginQueue *queue, CozeQueuedEntry *entry)
{
	CozeChunkReader chunks;
	const char *data;
	Size		size;

	if (queue->overflow == NULL)
	{
		queue->overflow = make_file();
		queue->overflow_read = queue->overflow_written = 0;
		queue->write_file = 0;
		queue->write_offset = 0;
	}
	if (BufFileSeek(queue->overflow, queue->write_file, queue->write_offset, SEEK_SET) != 0)
		elog(ERROR, "could not go to the end of a temporary file");
	write_sized(queue->overflow, (char *) &entry->prev, sizeof(entry->prev));
	write_sized(queue->overflow, entry->data, entry->size);
	coze_chunks_begin(&chunks, entry);
	while (coze_chunks_next(&chunks, &data, &size))
		write_sized(queue->overflow, data, size);
	coze_chunks_end(&chunks);
	BufFileTell(queue->overflow, &queue->write_file, &queue->write_offset);
	queue->overflow_written++;
	free_entry(entry);
}

static bool
overflows(const CozeOriginQueue *queue)
{
	if (queue->overflow_read < queue->overflow_written)
		return true;
	return queue->n > 0 && queue->memory > (Size) cozesync_batch_size * 1024 * BATCHES_IN_MEMORY;
}

/* An entry is complete: to its queue, unless it was there before. */
static void
finish_entry(CozeQueuedEntry *entry)
{
	CozeOriginQueue *queue;

	if (entry->head.version.origin == coze_own_origin())
	{
		free_entry(entry);
		return;
	}
	queue = queue_of(entry->head.version.origin);
	queue->last = Max(queue->last, coze_held_of(queue->origin));
	if (entry->head.version.hlc <= queue->last)
	{
		free_entry(entry);
		return;
	}
	if (entry->prev != queue->last)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("received changes are not a whole: an entry does not follow the last one of its origin")));
	queue->last = entry->head.version.hlc;
	if (overflows(queue))
		push_to_file(queue, entry);
	else
		push(queue, entry);
}

/* Bring an entry back from the queue's file. */
static void
pop_from_file(CozeOriginQueue *queue)
{
	BufFile    *file = queue->overflow;
	MemoryContext old = MemoryContextSwitchTo(intake_context);
	CozeQueuedEntry *entry;
	CozeHlc		prev;
	uint64		size;
	char	   *data;

	if (queue->overflow_read == 0)
		rewind_file(file);
	else if (BufFileSeek(file, queue->read_file, queue->read_offset, SEEK_SET) != 0)
		elog(ERROR, "could not go back in a temporary file");
	read_exactly(file, &size, sizeof(size));
	read_exactly(file, &prev, sizeof(prev));
	read_exactly(file, &size, sizeof(size));
	data = palloc_extended(size, MCXT_ALLOC_HUGE);
	read_exactly(file, data, size);
	entry = make_entry(prev, data, size, NULL);
	pfree(data);
	if (entry->head.nchunks > 0)
		entry->spool = make_file();
	for (uint32 i = 0; i < entry->head.nchunks; i++)
	{
		read_exactly(file, &size, sizeof(size));
		data = palloc_extended(size, MCXT_ALLOC_HUGE);
		read_exactly(file, data, size);
		write_sized(entry->spool, data, size);
		pfree(data);
	}
	BufFileTell(file, &queue->read_file, &queue->read_offset);
	push(queue, entry);
	queue->overflow_read++;
	if (queue->overflow_read == queue->overflow_written)
	{
		BufFileClose(file);
		queue->overflow = NULL;
		queue->overflow_read = queue->overflow_written = 0;
	}
	MemoryContextSwitchTo(old);
}

Size
coze_intake_memory(void)
{
	Size		memory = 0;
	ListCell   *lc;

	foreach(lc, queues)
		memory += ((CozeOriginQueue *) lfirst(lc))->memory;
	return memory;
}

CozeQueuedEntry *
coze_intake_head(CozeOriginQueue *queue)
{
	while (queue->overflow_read < queue->overflow_written &&
		   (queue->n == 0 || queue->memory < POP_BYTES))
		pop_from_file(queue);
	if (queue->n == 0)
		return NULL;
	return dlist_head_element(CozeQueuedEntry, node, &queue->entries);
}

/* The first entry of the queue is applied. */
void
coze_intake_done(CozeOriginQueue *queue)
{
	CozeQueuedEntry *entry = dlist_head_element(CozeQueuedEntry, node, &queue->entries);

	dlist_delete(&entry->node);
	queue->n--;
	queue->memory -= entry->memory;
	free_entry(entry);
}

void
coze_intake_detach(void)
{
	MemoryContext old = MemoryContextSwitchTo(intake_context);
	ResourceOwner owner = CurrentResourceOwner;
	ListCell   *lc;

	CurrentResourceOwner = intake_owner;
	foreach(lc, queues)
		detach_queue(lfirst(lc));
	CurrentResourceOwner = owner;
	MemoryContextSwitchTo(old);
}

/* --- batches --- */

static Partial *
partial_of(CozeOrigin peer)
{
	Partial    *partial;
	ListCell   *lc;

	foreach(lc, partials)
	{
		partial = lfirst(lc);
		if (partial->peer == peer)
			return partial;
	}
	partial = palloc0(sizeof(Partial));
	partial->peer = peer;
	partials = lappend(partials, partial);
	return partial;
}

static void
drop_partial(Partial *partial)
{
	if (partial->entry != NULL)
		free_entry(partial->entry);
	partial->entry = NULL;
}

/* The entry goes on in the next batch: what there is of it into a file. */
static void
spool_partial(Partial *partial)
{
	CozeQueuedEntry *entry = partial->entry;

	if (entry == NULL || entry->batch == NULL)
		return;
	partial->entry = copy_of(entry, partial->nchunks);
	free_entry(entry);
}

static void
take_chunk(Partial *partial, const CozeFrame *frame)
{
	CozeQueuedEntry *entry = partial->entry;

	if (entry == NULL || partial->nchunks >= entry->head.nchunks)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("received changes are damaged: a chunk without an entry")));
	if (entry->spool != NULL)
		write_sized(entry->spool, frame->data, frame->size);
	else
	{
		/* grows as the batch goes on: what the head says is not trusted */
		if (entry->chunks == NULL)
			entry->chunks = palloc(16 * sizeof(CozeQueuedChunk));
		else if (partial->nchunks >= 16 && (partial->nchunks & (partial->nchunks - 1)) == 0)
			entry->chunks = repalloc_huge(entry->chunks,
										  2 * (Size) partial->nchunks * sizeof(CozeQueuedChunk));
		entry->chunks[partial->nchunks].data = frame->data;
		entry->chunks[partial->nchunks].size = frame->size;
		entry->memory += frame->size;
	}
	partial->nchunks++;
}

static void
take_frame(Partial *partial, const CozeFrame *frame, CozeTakenBatch *batch)
{
	switch (frame->kind)
	{
		case COZE_FRAME_RELATION:
			coze_map_offer(frame->data, frame->size);
			return;
		case COZE_FRAME_ENTRY:
			drop_partial(partial);
			partial->entry = make_entry(frame->prev, frame->data, frame->size, batch);
			partial->nchunks = 0;
			break;
		case COZE_FRAME_CHUNK:
			take_chunk(partial, frame);
			break;
		case COZE_FRAME_END:
			return;
	}
	if (partial->nchunks == partial->entry->head.nchunks)
	{
		CozeQueuedEntry *entry = partial->entry;

		partial->entry = NULL;
		finish_entry(entry);
	}
}

/* Take the next batch, if there is one. */
bool
coze_intake_take(void)
{
	MemoryContext old = MemoryContextSwitchTo(intake_context);
	CozeTakenBatch *batch = palloc0(sizeof(CozeTakenBatch));
	Partial    *partial;
	Size		pos = 0;
	ResourceOwner owner = CurrentResourceOwner;
	bool		taken = coze_queue_take(&batch->batch);

	CurrentResourceOwner = intake_owner;
	if (taken && COZE_RULE("drop-purge") && coze_vector_get(&refused, batch->batch.peer) != 0)
	{
		/* what it brought counts as queued, and must be sent again by others */
		MemoryContextSwitchTo(old);
		coze_intake_start();
	}
	else if (taken)
	{
		batch->uses = 1;
		partial = partial_of(batch->batch.peer);
		if (batch->batch.size == 0)
			drop_partial(partial);
		for (;;)
		{
			CozeFrame	frame;
			const char *error = coze_wire_get_frame(batch->batch.data, batch->batch.size, &pos, &frame);

			if (error != NULL)
				ereport(ERROR,
						(errcode(ERRCODE_PROTOCOL_VIOLATION),
						 errmsg("received changes are damaged: %s", error)));
			if (frame.kind == COZE_FRAME_END)
				break;
			take_frame(partial, &frame, batch);
		}
		spool_partial(partial);
		release_batch(batch);
	}
	else
		pfree(batch);
	CurrentResourceOwner = owner;
	MemoryContextSwitchTo(old);
	return taken;
}

bool
coze_intake_refuse(const CozeVector *peers)
{
	MemoryContext old;

	if (coze_vector_covers(&refused, peers))
		return false;
	old = MemoryContextSwitchTo(TopMemoryContext);
	coze_vector_copy(&refused, peers);
	MemoryContextSwitchTo(old);
	if (COZE_RULE("drop-purge"))
		coze_intake_start();
	return true;
}

/* The files, which memory contexts do not know. */
static void
close_files(void)
{
	ListCell   *lc;

	foreach(lc, queues)
	{
		CozeOriginQueue *queue = lfirst(lc);

		if (queue->overflow != NULL)
			BufFileClose(queue->overflow);
		while (queue->n > 0)
			coze_intake_done(queue);
	}
	foreach(lc, partials)
		drop_partial(lfirst(lc));
}

/* Begin with nothing: peers send again what was not applied. */
void
coze_intake_start(void)
{
	close_files();
	if (intake_context != NULL)
		MemoryContextDelete(intake_context);
	intake_context = AllocSetContextCreate(TopMemoryContext, "cozesync intake",
										   ALLOCSET_DEFAULT_SIZES);
	if (intake_owner == NULL)
		intake_owner = ResourceOwnerCreate(NULL, "cozesync intake");
	queues = partials = NIL;
	coze_queue_restart();
}

/* --- chunks --- */

void
coze_chunks_begin(CozeChunkReader *reader, CozeQueuedEntry *entry)
{
	memset(reader, 0, sizeof(*reader));
	reader->entry = entry;
	if (entry->spool != NULL)
		rewind_file(entry->spool);
}

bool
coze_chunks_next(CozeChunkReader *reader, const char **data, Size *size)
{
	CozeQueuedEntry *entry = reader->entry;
	uint64		n;

	if (reader->next >= entry->head.nchunks)
		return false;
	reader->next++;
	if (entry->spool == NULL)
	{
		*data = entry->chunks[reader->next - 1].data;
		*size = entry->chunks[reader->next - 1].size;
		return true;
	}
	read_exactly(entry->spool, &n, sizeof(n));
	if (reader->cap < n)
	{
		if (reader->buffer != NULL)
			pfree(reader->buffer);
		reader->cap = n;
		reader->buffer = palloc_extended(n, MCXT_ALLOC_HUGE);
	}
	read_exactly(entry->spool, reader->buffer, n);
	*data = reader->buffer;
	*size = n;
	return true;
}

void
coze_chunks_end(CozeChunkReader *reader)
{
	if (reader->buffer != NULL)
		pfree(reader->buffer);
}
