/*-------------------------------------------------------------------------
 *
 * target.c
 *		What arrives from one peer, over a link that either end works.
 *
 * A batch is checked whole before any of it is queued: frames, checksums, every
 * change of every entry, that each relation was described, that each entry
 * continues what is queued of its origin.  Entries that another peer was faster
 * with are let through; the applier drops them.  Bytes that do not fit are an
 * ERROR, and the session is over.
 *
 * An entry from too far in the future is not taken, and neither is what its origin
 * wrote after it: both come again when the peer sees that they are missing.
 *
 * Invariant: the clock has reached the hlc of an entry before it is queued.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "apply/queue.h"
#include "base/codec.h"
#include "compat.h"
#include "debug.h"
#include "link/roads.h"
#include "link/target.h"
#include "log/state.h"
#include "log/wall.h"

/* The entry whose chunks are awaited. */
typedef struct OpenEntry
{
	CozeVersion version;		/* hlc 0: none */
	bool		skipped;		/* too far in the future: so are its chunks */
	uint32		chunks_left;
	uint64		next_seq;
	uint64		bytes_left;
	uint32		changes_left;
	uint64		bytes;			/* of its frames so far */
	CozeChangeReader reader;
} OpenEntry;

struct CozeTarget
{
	MemoryContext context;
	CozeOrigin	peer;
	char	   *peer_name;
	CozeLinkSlot *slot;
	bool		refusing;		/* until the stream begins anew */
	uint64		stream;			/* its number in the queue */
	HTAB	   *described;		/* hashes of descriptors that came */
	CozeVector	flushed;		/* what was applied here, and is flushed */
	CozeVector	unflushed;		/* and is, once the WAL is up to unflushed_end */
	XLogRecPtr	unflushed_end;
	CozeVector	received;		/* complete entries that came since the begin */
	CozeVector	skipped;		/* first entry of an origin that was not taken */
	OpenEntry	open;
};

/* Of the batch that is being checked. */
typedef struct Batch
{
	CozeVector	queued;			/* with what the batch brings */
	CozeBuf		kept;			/* frames to queue, if some are left out */
	bool		copying;		/* some are */
	Size		begin;			/* of the current frame */
	CozeHlc		last_hlc;
	uint64		entries;
	CozeVector	came;			/* origins of its entries and chunks */
	uint64		duplicates;		/* of its entries, complete ones that were queued before */
	uint64		duplicate_bytes;
} Batch;

COZE_NORETURN static void
violation(const char *error)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("received a batch that is not valid: %s", error)));
}

/* --- making, beginning --------------------------------------------------------------- */

CozeTarget *
coze_target_make(CozeOrigin peer, const char *peer_name, CozeLinkSlot *slot,
				 MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "cozesync target", ALLOCSET_DEFAULT_SIZES);
	CozeTarget *target = MemoryContextAllocZero(context, sizeof(CozeTarget));

	target->context = context;
	target->peer = peer;
	target->peer_name = MemoryContextStrdup(context, peer_name);
	target->slot = slot;
	target->refusing = true;
	return target;
}

void
coze_target_free(CozeTarget *target)
{
	if (target != NULL)
		MemoryContextDelete(target->context);
}

void
coze_target_begin(CozeTarget *target)
{
	HASHCTL		ctl = {
		.keysize = sizeof(uint64),
		.entrysize = sizeof(uint64),
		.hcxt = target->context,
	};
	CozeVector	queued = {0};

	target->stream = coze_queue_begin(target->peer, &queued);
	coze_vector_free(&queued);
	if (target->described != NULL)
		hash_destroy(target->described);
	target->described = hash_create("cozesync received descriptors", 64, &ctl,
									HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	coze_wire_reader_free(&target->open.reader);
	memset(&target->open, 0, sizeof(target->open));
	target->received.n = 0;
	target->skipped.n = 0;
	target->refusing = false;
}

bool
coze_target_must_begin(const CozeTarget *target)
{
	return target->refusing || target->skipped.n > 0 ||
		!coze_queue_goes_on(target->peer, target->stream);
}

uint64
coze_target_window(const CozeTarget *target)
{
	CozeVector	queued = {0};
	uint64		window;

	coze_queue_state(target->peer, &queued, &window);
	coze_vector_free(&queued);
	return window;
}

/* Bring target->flushed forward as far as the WAL is flushed already. */
static void
note_flushed(CozeTarget *target)
{
	MemoryContext old;

	if (target->unflushed_end > GetFlushRecPtr(NULL))
		return;
	old = MemoryContextSwitchTo(target->context);
	coze_vector_copy(&target->flushed, &target->unflushed);
	target->unflushed_end = coze_held_with_end(&target->unflushed);
	if (target->unflushed_end <= GetFlushRecPtr(NULL))
		coze_vector_copy(&target->flushed, &target->unflushed);
	MemoryContextSwitchTo(old);
}

static void
flush_all(CozeTarget *target)
{
	MemoryContext old = MemoryContextSwitchTo(target->context);

	target->unflushed_end = coze_held_with_end(&target->unflushed);
	coze_flush();
	coze_vector_copy(&target->flushed, &target->unflushed);
	MemoryContextSwitchTo(old);
}

void
coze_target_acknowledge(CozeTarget *target, bool all, CozeAck *ack)
{
	memset(ack, 0, sizeof(*ack));
	if (all)
		flush_all(target);
	else
		note_flushed(target);
	coze_vector_copy(&ack->applied, &target->flushed);
	coze_queue_state(target->peer, &ack->queued, &ack->window);
	coze_roads_left_to_others(target->peer, &ack->queued, &ack->leave);
	ack->clock = coze_wall();
}

/* --- changes ---------------------------------------------------------------------------- */

static void
take_descriptor(CozeTarget *target, const CozeFrame *frame)
{
	CozeDescriptor descriptor;
	const char *error = coze_wire_get_descriptor(frame->data, frame->size, &descriptor);
	uint64		hash = coze_codec_descriptor_hash(frame->data, frame->size);

	if (error != NULL)
		violation(error);
	coze_wire_free_descriptor(&descriptor);
	hash_search(target->described, &hash, HASH_ENTER, NULL);
}

/* Walk over the changes that have been fed to the reader; counts them down. */
static void
check_changes(CozeTarget *target, CozeChangeReader *reader, uint32 *left)
{
	CozeChange	change;
	int			result;

	while ((result = coze_wire_reader_next(reader, &change)) > 0)
	{
		if (*left == 0)
			violation("an entry has more changes than it says");
		(*left)--;
		if ((change.flags & COZE_CHANGE_SAME_RELATION) == 0 &&
			hash_search(target->described, &change.relation, HASH_FIND, NULL) == NULL)
			violation("a change names a relation that was not described");
	}
	if (result < 0)
		violation(reader->error);
}

static void
check_inline_body(CozeTarget *target, const CozeEntryHead *head)
{
	CozeChangeReader reader;
	uint32		left = head->nchanges;

	coze_wire_reader_init(&reader);
	coze_wire_reader_feed(&reader, head->inline_body, head->inline_size);
	check_changes(target, &reader, &left);
	if (left > 0 || !coze_wire_reader_at_end(&reader))
		violation("an entry has fewer changes than it says");
	coze_wire_reader_free(&reader);
}

/* --- entries ------------------------------------------------------------------------------ */

/*
 * Does the entry go behind what is queued of its origin?  False: something is
 * missing in between.
 */
static bool
continues(CozeTarget *target, const Batch *batch, CozeVersion version, CozeHlc prev)
{
	CozeHlc		queued = coze_vector_get(&batch->queued, version.origin);

	if (prev >= version.hlc || version.hlc <= coze_vector_get(&target->received, version.origin))
		violation("an entry does not follow the one before it");
	if (version.hlc <= queued || prev == queued || !COZE_RULE("position-check"))
		return true;
	if (prev > queued)
		return false;
	ereport(ERROR,
			(errcode(ERRCODE_DATA_EXCEPTION),
			 errmsg("node \"%s\" lacks a transaction that it must hold", target->peer_name),
			 errdetail("Origin %llu, at %s.", (unsigned long long) version.origin,
					   timestamptz_to_str(queued)),
			 errhint("One of the databases was restored to an older state; drop and join it anew.")));
}

static void
entry_complete(CozeTarget *target, Batch *batch, CozeVersion version, uint64 bytes)
{
	MemoryContext old = MemoryContextSwitchTo(target->context);

	if (version.hlc <= coze_vector_get(&batch->queued, version.origin))
	{
		batch->duplicates++;
		batch->duplicate_bytes += bytes;
	}
	coze_vector_set(&target->received, version.origin, version.hlc);
	MemoryContextSwitchTo(old);
	coze_vector_raise(&batch->queued, version.origin, version.hlc);
	batch->entries++;
	batch->last_hlc = Max(batch->last_hlc, version.hlc);
}

/* Not now: its hlc lies too far ahead of our clock, or it follows such a one. */
static bool
must_skip(CozeTarget *target, CozeVersion version)
{
	MemoryContext old;
	char		message[COZE_LINK_ERROR_MAX];
	int64		ahead = version.hlc - coze_wall();

	if (coze_vector_get(&target->skipped, version.origin) != 0)
		return true;
	if (coze_clock_advance(version.hlc))
		return false;
	old = MemoryContextSwitchTo(target->context);
	coze_vector_set(&target->skipped, version.origin, version.hlc);
	MemoryContextSwitchTo(old);
	snprintf(message, sizeof(message),
			 "clock skew: node \"%s\" sends a transaction that is %.3f s ahead of this node's clock",
			 target->peer_name, ahead / 1000000.0);
	if (coze_link_set_error(target->slot, COZE_LINK_IN, "22008", message))
		ereport(LOG,
				(errmsg("%s", message),
				 errdetail("It is taken once the clock has come within cozesync.max_clock_drift of it.")));
	return true;
}

static bool
take_entry(CozeTarget *target, Batch *batch, const CozeFrame *frame, bool *skip)
{
	CozeEntryHead head;
	OpenEntry  *open = &target->open;
	const char *error = coze_wire_get_head(frame->data, frame->size, &head);

	if (error != NULL)
		violation(error);
	coze_vector_free(&head.seen);
	if (open->version.hlc != 0)
		violation("an entry begins before the one before it is complete");
	if (head.version.origin == coze_own_origin())
		violation("an entry is one of this node's own");
	coze_vector_set(&batch->came, head.version.origin, 1);
	*skip = must_skip(target, head.version);
	if (!*skip && !continues(target, batch, head.version, frame->prev))
		return false;
	if (head.nchunks == 0)
	{
		check_inline_body(target, &head);
		if (!*skip)
			entry_complete(target, batch, head.version, frame->size);
		return true;
	}
	memset(open, 0, sizeof(*open));
	open->version = head.version;
	open->skipped = *skip;
	open->chunks_left = head.nchunks;
	open->bytes_left = head.body_size;
	open->changes_left = head.nchanges;
	open->bytes = frame->size;
	coze_wire_reader_init(&open->reader);
	return true;
}

static void
take_chunk(CozeTarget *target, Batch *batch, const CozeFrame *frame, bool *skip)
{
	OpenEntry  *open = &target->open;
	CozeChunk	chunk;
	const char *error = coze_wire_get_chunk(frame->data, frame->size, &chunk);
	MemoryContext old;

	if (error != NULL)
		violation(error);
	if (open->version.hlc == 0)
		violation("a chunk belongs to no entry");
	if (chunk.seq < open->next_seq || chunk.size > open->bytes_left)
		violation("a chunk does not continue its entry");
	open->next_seq = chunk.seq + 1;
	open->bytes_left -= chunk.size;
	open->chunks_left--;
	open->bytes += frame->size;
	coze_vector_set(&batch->came, open->version.origin, 1);
	*skip = open->skipped;
	old = MemoryContextSwitchTo(target->context);
	coze_wire_reader_feed(&open->reader, chunk.body, chunk.size);
	check_changes(target, &open->reader, &open->changes_left);
	MemoryContextSwitchTo(old);
	if (open->chunks_left > 0)
		return;
	if (open->bytes_left > 0 || open->changes_left > 0 || !coze_wire_reader_at_end(&open->reader))
		violation("an entry is shorter than it says");
	if (!open->skipped)
		entry_complete(target, batch, open->version, open->bytes);
	coze_wire_reader_free(&open->reader);
	memset(open, 0, sizeof(*open));
}

/* --- batches ---------------------------------------------------------------------------------- */

/* Leave the frame from batch->begin to end out of what is queued, or keep it. */
static void
sort_out(Batch *batch, const char *data, Size end, bool skip)
{
	if (skip && !batch->copying)
	{
		coze_buf_put(&batch->kept, data, batch->begin);
		batch->copying = true;
	}
	else if (!skip && batch->copying)
		coze_buf_put(&batch->kept, data + batch->begin, end - batch->begin);
}

/* Check all frames; false if something is missing before them. */
static bool
check_batch(CozeTarget *target, Batch *batch, const char *data, Size size)
{
	Size		pos = 0;

	for (;;)
	{
		CozeFrame	frame;
		bool		skip = false;
		const char *error;

		batch->begin = pos;
		error = coze_wire_get_frame(data, size, &pos, &frame);
		if (error != NULL)
			violation(error);
		switch (frame.kind)
		{
			case COZE_FRAME_END:
				return true;
			case COZE_FRAME_RELATION:
				take_descriptor(target, &frame);
				break;
			case COZE_FRAME_ENTRY:
				if (!take_entry(target, batch, &frame, &skip))
					return false;
				break;
			case COZE_FRAME_CHUNK:
				take_chunk(target, batch, &frame, &skip);
				break;
		}
		sort_out(batch, data, pos, skip);
	}
}

bool
coze_target_take(CozeTarget *target, const char *data, Size size)
{
	Batch		batch = {0};
	bool		taken;

	if (target->refusing)
		return false;
	coze_queue_state(target->peer, &batch.queued, NULL);
	taken = check_batch(target, &batch, data, size);
	if (taken && batch.copying)
		taken = batch.kept.size == 0 ||
			coze_queue_put(target->peer, target->stream, batch.kept.data,
						   batch.kept.size) == COZE_QUEUE_TAKEN;
	else if (taken)
		taken = coze_queue_put(target->peer, target->stream, data, size) == COZE_QUEUE_TAKEN;
	if (taken)
	{
		coze_link_count(target->slot, COZE_LINK_IN, batch.last_hlc, batch.entries, size);
		if (batch.duplicates > 0)
			coze_link_count_duplicates(target->slot, batch.duplicates, batch.duplicate_bytes);
		coze_roads_came(target->peer, &batch.came);
	}
	target->refusing = !taken;
	coze_vector_free(&batch.queued);
	coze_vector_free(&batch.came);
	coze_buf_free(&batch.kept);
	return taken;
}
