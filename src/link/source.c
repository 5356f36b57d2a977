/*-------------------------------------------------------------------------
 *
 * source.c
 *		What is sent to one peer, over a link that either end works.
 *
 * Entries leave in version order over all origins that the peer lacks: our own
 * below the horizon, those of others as far as they are held here, unless the peer
 * has them come by another road (roads.c). An entry
 * too large for a batch goes on in the next.  Descriptors go before the first
 * bytes that name them, once a session.
 *
 * Invariants: an entry is sent behind prev, the entry of its origin that we hold
 * before it, and that is what the peer has last; a position that the peer got
 * from somebody else is believed only when our log, or our prune base, has an entry
 * there.  Everything in a batch is flushed before the batch is handed out.
 *
 * Order of reading: horizon, then what is held, then the snapshot, then the segments of
 * the log are opened, then the prune base is looked at.  A segment may be truncated under
 * a snapshot, but not while it is open, and not before the base has passed what it held:
 * so what the base has not passed is read whole.
 *
 * That a peer lacks what is pruned here is said only of a peer that was asked after it
 * was pruned: an older word of it may be out of date.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "debug.h"
#include "link/session.h"
#include "link/source.h"
#include "log/log.h"
#include "log/state.h"
#include "log/wall.h"

/*
 * How old (us) the peer's word on what it has, and on what it wants from us, may be while
 * it lacks what is left to others.
 */
#define WORD_MAX_AGE INT64CONST(500000)

/* Look again so soon (us) at what lay above the horizon. */
#define HORIZON_DELAY INT64CONST(10000)

/* An entry of which some chunks are still to be sent. */
typedef struct OpenEntry
{
	CozeVersion version;		/* hlc 0: none */
	int64		chunks;
	uint64		next_seq;
	uint32		chunks_left;
	CozeChangeReader reader;
} OpenEntry;

struct CozeSource
{
	MemoryContext context;
	CozeOrigin	peer;
	CozePositions greeted;		/* the peer's greeting: positions with checksums */
	CozeVector	after;			/* entries go behind this: sent, or had from others */
	CozeVector	sent;			/* entries that were sent in full since the begin */
	CozeVector	verified;		/* positions that this node is known to hold */
	CozeVector	upto;			/* while filling */
	CozeVector	leave;			/* origins whose entries come to the peer from others */
	HTAB	   *described;		/* hashes of descriptors that were sent */
	OpenEntry	open;
	bool		ask;			/* the prune base has passed after */
	CozeVector	asked;			/* the prune base when the peer was asked last */
	CozeMoment	word_at;		/* when the peer last said what it has */
	CozeHlc		horizon;		/* when reading found nothing, and */
	CozeMoment	look_again;		/* not before, unless the horizon has moved */
	uint64		batch_entries;
	CozeHlc		batch_hlc;
	bool		behind;
	Size		pace;			/* most for one batch, see PACE_FIRST */
};

/*
 * The peer takes a batch as a whole: while a large one is read, sent and checked nobody
 * over there has anything to apply.  So who has fallen behind gets a small one first, and
 * each is twice as large as the one before.
 */
#define PACE_FIRST	(64 * 1024)
#define PACE_MAX	(1024 * 1024 * 1024)

/* --- making, beginning ------------------------------------------------------------ */

CozeSource *
coze_source_make(const CozeHello *hello, MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "cozesync source", ALLOCSET_DEFAULT_SIZES);
	CozeSource *source = MemoryContextAllocZero(context, sizeof(CozeSource));
	Size		size = hello->held.n * sizeof(CozePosition);

	source->context = context;
	source->peer = hello->origin;
	source->greeted.n = hello->held.n;
	source->greeted.p = MemoryContextAlloc(context, size + 1);
	memcpy(source->greeted.p, hello->held.p, size);
	source->ask = true;
	source->pace = PACE_FIRST;
	return source;
}

void
coze_source_free(CozeSource *source)
{
	if (source != NULL)
		MemoryContextDelete(source->context);
}

static void
forget_descriptors(CozeSource *source)
{
	HASHCTL		ctl = {
		.keysize = sizeof(uint64),
		.entrysize = sizeof(uint64),
		.hcxt = source->context,
	};

	if (source->described != NULL)
		hash_destroy(source->described);
	source->described = hash_create("cozesync sent descriptors", 64, &ctl,
									HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static void
close_entry(CozeSource *source)
{
	coze_wire_reader_free(&source->open.reader);
	memset(&source->open, 0, sizeof(source->open));
}

void
coze_source_begin(CozeSource *source, const CozeAck *ack)
{
	MemoryContext old = MemoryContextSwitchTo(source->context);

	close_entry(source);
	forget_descriptors(source);
	coze_vector_copy(&source->after, &ack->queued);
	coze_vector_copy(&source->leave, &ack->leave);
	source->sent.n = 0;
	source->ask = false;
	source->look_again = 0;
	source->word_at = coze_monotonic();
	MemoryContextSwitchTo(old);
}

/* An entry that is sent in part goes on, even if another road was faster. */
void
coze_source_acknowledge(CozeSource *source, const CozeAck *ack)
{
	MemoryContext old = MemoryContextSwitchTo(source->context);
	CozeOrigin	open = source->open.version.origin;
	CozeHlc		keep = coze_vector_get(&source->after, open);

	coze_vector_merge(&source->after, &ack->queued);
	coze_vector_copy(&source->leave, &ack->leave);
	if (open != 0)
		coze_vector_set(&source->after, open, keep);
	source->word_at = coze_monotonic();
	MemoryContextSwitchTo(old);
}

bool
coze_source_sent_is_queued(const CozeSource *source, const CozeAck *ack)
{
	return source->sent.n > 0 && !coze_source_in_entry(source) &&
		coze_vector_covers(&ack->queued, &source->sent);
}

bool
coze_source_all_is_applied(const CozeSource *source, const CozeAck *ack)
{
	return coze_vector_covers(&ack->applied, &source->after);
}

bool
coze_source_in_entry(const CozeSource *source)
{
	return source->open.version.hlc != 0;
}

uint64
coze_source_batch_entries(const CozeSource *source)
{
	return source->batch_entries;
}

CozeHlc
coze_source_batch_hlc(const CozeSource *source)
{
	return source->batch_hlc;
}

bool
coze_source_is_behind(const CozeSource *source)
{
	return source->behind;
}

/* --- what may be sent now ------------------------------------------------------------ */

static bool
is_left_to_others(const CozeSource *source, CozeOrigin origin)
{
	return coze_vector_get(&source->leave, origin) != 0;
}

/* What others wrote and is held here, but for what the peer gets from them. */
static void
what_to_forward(CozeSource *source, CozeVector *upto)
{
	coze_held(upto);
	coze_vector_remove(upto, source->peer);
	for (int i = 0; i < source->leave.n; i++)
		coze_vector_remove(upto, source->leave.e[i].origin);
}

/* Does the peer lack anything that is held here: of what goes by us, or what does not? */
static bool
lacks(const CozeSource *source, const CozeVector *held, bool left_to_others)
{
	for (int i = 0; i < held->n; i++)
	{
		if (held->e[i].hlc > coze_vector_get(&source->after, held->e[i].origin) &&
			held->e[i].origin != source->peer &&
			is_left_to_others(source, held->e[i].origin) == left_to_others)
			return true;
	}
	return false;
}

/* Has something been committed here that was not sent, be it above the horizon? */
static bool
owes_own(const CozeSource *source)
{
	return coze_own_committed_max() > coze_vector_get(&source->after, coze_own_origin());
}

CozeSourceLook
coze_source_look(CozeSource *source, CozeMoment now)
{
	CozeVector	held = {0};
	CozeSourceLook look = COZE_SOURCE_NOTHING;

	if (source->ask)
		return COZE_SOURCE_ASK;
	if (coze_source_in_entry(source))
		return COZE_SOURCE_DATA;
	if (owes_own(source) &&
		(now >= source->look_again || coze_clock_horizon(NULL) != source->horizon))
		return COZE_SOURCE_DATA;
	coze_held(&held);
	if (lacks(source, &held, false))
		look = COZE_SOURCE_DATA;
	else if (now - source->word_at > WORD_MAX_AGE && lacks(source, &held, true))
		look = COZE_SOURCE_ASK;
	coze_vector_free(&held);
	return look;
}

bool
coze_source_must_begin(const CozeSource *source)
{
	return source->ask;
}

int64
coze_source_wait(CozeSource *source)
{
	CozeVector	held = {0};
	int64		wait = -1;

	coze_held(&held);
	coze_vector_remove(&held, source->peer);
	if (owes_own(source))
		wait = HORIZON_DELAY;
	else if (lacks(source, &held, true))
		wait = WORD_MAX_AGE;
	coze_vector_free(&held);
	return wait;
}

/* --- positions ------------------------------------------------------------------------- */

static uint32
greeted_crc(const CozeSource *source, CozeOrigin origin, CozeHlc hlc)
{
	for (int i = 0; i < source->greeted.n; i++)
	{
		const CozePosition *position = &source->greeted.p[i];

		if (position->origin == origin && position->hlc == hlc)
			return position->crc;
	}
	return 0;
}

/* Is hlc the position of an entry that we hold, and that the peer greeted us with? */
static bool
holds(const CozeSource *source, CozeOrigin origin, CozeHlc hlc, Snapshot snapshot)
{
	uint32		greeted = greeted_crc(source, origin, hlc);
	CozeHlc		last;
	char	   *head;
	Size		size;
	uint32		crc;

	if (hlc == coze_base_of(origin))
		return true;
	if (hlc == 0 || !coze_log_last(origin, hlc, snapshot, &last, &head, &size) || last != hlc)
		return false;
	crc = coze_wire_head_crc(head, size);
	pfree(head);
	return greeted == 0 || greeted == crc;
}

/*
 * The peer has after[origin] last: is that an entry of ours?  False: the base has
 * passed it, and what the peer has must be asked for.
 */
static bool
verify_position(CozeSource *source, CozeOrigin origin, Snapshot snapshot)
{
	CozeHlc		after = coze_vector_get(&source->after, origin);
	MemoryContext old;

	if (!COZE_RULE("position-check"))
		return true;
	if (coze_vector_get(&source->verified, origin) == after && after != 0)
		return true;
	if (!holds(source, origin, after, snapshot))
	{
		if (after < coze_base_of(origin))
			return false;
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("the peer holds a transaction of origin %llu that this node does not hold",
						(unsigned long long) origin),
				 errdetail("At %s.", timestamptz_to_str(after)),
				 errhint("One of the databases was restored to an older state; drop and join it anew.")));
	}
	old = MemoryContextSwitchTo(source->context);
	coze_vector_set(&source->verified, origin, after);
	MemoryContextSwitchTo(old);
	return true;
}

/* The peer is to say again what it has. */
static void
ask_again(CozeSource *source)
{
	MemoryContext old = MemoryContextSwitchTo(source->context);

	source->ask = true;
	for (int i = 0; i < source->upto.n; i++)
		coze_vector_set(&source->asked, source->upto.e[i].origin,
						coze_base_of(source->upto.e[i].origin));
	MemoryContextSwitchTo(old);
}

/*
 * With the log open: is all that the peer lacks still kept?  False: as far as we know
 * it is not, and the peer must be asked.  ERROR: it was, and lacks what was pruned then.
 * What is read for it has no holes, then.  The peer would not take them either, since each
 * entry names the one it follows, but could only begin anew, or complain about a node that
 * is well.
 */
static bool
check_kept(const CozeSource *source)
{
	for (int i = 0; i < source->upto.n; i++)
	{
		CozeOrigin	origin = source->upto.e[i].origin;
		CozeHlc		after = coze_vector_get(&source->after, origin);

		if (coze_base_of(origin) <= after)
			continue;
		if (after >= coze_vector_get(&source->asked, origin) && COZE_RULE("ask-first"))
			return false;
		ereport(ERROR,
				(errcode(COZE_ERRCODE_NEEDS_COPY),
				 errmsg("the peer lacks transactions that this node no longer keeps"),
				 errdetail("Origin %llu: it has them up to %s, they are kept from %s on.",
						   (unsigned long long) origin,
						   after == 0 ? "none" : pstrdup(timestamptz_to_str(after)),
						   timestamptz_to_str(coze_base_of(origin))),
				 errhint("Drop the peer with cozesync.drop_node() and join it anew.")));
	}
	return true;
}

/* --- frames ------------------------------------------------------------------------------ */

static void
put_frame(CozeBuf *batch, CozeFrameKind kind, CozeHlc prev, const char *data, Size size)
{
	CozeFrame	frame = {.kind = kind, .prev = prev, .data = data, .size = size};

	coze_wire_put_frame(batch, &frame);
}

static void
describe(CozeSource *source, CozeBuf *batch, uint64 hash)
{
	bool		found;
	char	   *data;
	Size		size;

	hash_search(source->described, &hash, HASH_ENTER, &found);
	if (found)
		return;
	data = coze_log_get_descriptor(hash, &size);
	if (data == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("descriptor %016llx, which the change log names, is missing",
						(unsigned long long) hash)));
	put_frame(batch, COZE_FRAME_RELATION, 0, data, size);
	pfree(data);
}

/* Send the descriptors that the changes read so far name. */
static void
describe_changes(CozeSource *source, CozeBuf *batch, CozeChangeReader *reader)
{
	CozeChange	change;
	int			result;

	while ((result = coze_wire_reader_next(reader, &change)) > 0)
	{
		if ((change.flags & COZE_CHANGE_SAME_RELATION) == 0)
			describe(source, batch, change.relation);
	}
	if (result < 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the change log is damaged: %s", reader->error)));
}

/* The entry's last frame is in the batch. */
static void
entry_sent(CozeSource *source, CozeVersion version)
{
	MemoryContext old = MemoryContextSwitchTo(source->context);

	coze_vector_set(&source->after, version.origin, version.hlc);
	coze_vector_set(&source->sent, version.origin, version.hlc);
	coze_vector_set(&source->verified, version.origin, version.hlc);
	MemoryContextSwitchTo(old);
	source->batch_entries++;
	source->batch_hlc = Max(source->batch_hlc, version.hlc);
}

static void
put_entry(CozeSource *source, CozeBuf *batch, const CozeLogEntry *entry)
{
	CozeHlc		prev = coze_vector_get(&source->after, entry->version.origin);
	CozeEntryHead head;
	const char *error = coze_wire_get_head(entry->head, entry->size, &head);

	if (error != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the change log is damaged: %s", error)));
	coze_vector_free(&head.seen);
	if (head.nchunks == 0)
	{
		CozeChangeReader reader;

		coze_wire_reader_init(&reader);
		coze_wire_reader_feed(&reader, head.inline_body, head.inline_size);
		describe_changes(source, batch, &reader);
		coze_wire_reader_free(&reader);
	}
	put_frame(batch, COZE_FRAME_ENTRY, prev, entry->head, entry->size);
	if (head.nchunks == 0)
	{
		entry_sent(source, entry->version);
		return;
	}
	source->open.version = entry->version;
	source->open.chunks = entry->chunks;
	source->open.chunks_left = head.nchunks;
	coze_wire_reader_init(&source->open.reader);
}

/* Go on with the open entry until the batch is full or the entry sent. */
static void
put_chunks(CozeSource *source, CozeBuf *batch, Size limit, Snapshot snapshot)
{
	OpenEntry  *open = &source->open;

	while (open->chunks_left > 0 && batch->size < limit)
	{
		CozeChunk	chunk;
		uint64		seq;
		char	   *data;
		Size		size;
		const char *error;
		MemoryContext old;

		if (!coze_log_read_chunk(open->chunks, open->next_seq, snapshot, &seq, &data, &size))
			error = "a chunk is missing";
		else
			error = coze_wire_get_chunk(data, size, &chunk);
		if (error != NULL)
		{
			ask_again(source);	/* truncated under us? then it is not needed any more */
			if (coze_base_of(open->version.origin) >= open->version.hlc)
				return;
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("the change log is damaged: %s", error)));
		}
		old = MemoryContextSwitchTo(source->context);
		coze_wire_reader_feed(&open->reader, chunk.body, chunk.size);
		describe_changes(source, batch, &open->reader);
		MemoryContextSwitchTo(old);
		put_frame(batch, COZE_FRAME_CHUNK, 0, data, size);
		pfree(data);
		open->next_seq = seq + 1;
		open->chunks_left--;
	}
	if (open->chunks_left == 0)
	{
		entry_sent(source, open->version);
		close_entry(source);
	}
}

/* --- a batch -------------------------------------------------------------------------------- */

/* Entries behind after, until the batch is full; false: begin anew. */
static bool
put_entries(CozeSource *source, CozeBuf *batch, Size limit, Snapshot snapshot)
{
	CozeLogReader *reader;
	CozeLogEntry entry;
	bool		fits;

	COZE_DEBUG_POINT("source-before-read");
	reader = coze_log_open(&source->after, &source->upto, snapshot);
	fits = check_kept(source);
	while (batch->size < limit && fits && coze_log_next(reader, &entry))
	{
		fits = verify_position(source, entry.version.origin, snapshot);
		if (fits)
			put_entry(source, batch, &entry);
		if (coze_source_in_entry(source))
			put_chunks(source, batch, limit, snapshot);
		if (source->ask)
			fits = false;
	}
	coze_log_close(reader);
	return fits;
}

bool
coze_source_fill(CozeSource *source, CozeBuf *batch, Size limit)
{
	CozeHlc		horizon;
	CozeMoment	now = coze_monotonic();
	Snapshot	snapshot;
	MemoryContext old;

	COZE_DEBUG_POINT("source-before-fill");
	limit = Min(limit, source->pace);
	horizon = coze_clock_horizon(NULL);
	source->batch_entries = 0;
	source->batch_hlc = 0;
	old = MemoryContextSwitchTo(source->context);
	what_to_forward(source, &source->upto);
	coze_vector_set(&source->upto, coze_own_origin(), horizon - 1);
	MemoryContextSwitchTo(old);

	snapshot = RegisterSnapshot(GetLatestSnapshot());
	PushActiveSnapshot(snapshot);
	if (coze_source_in_entry(source))
		put_chunks(source, batch, limit, snapshot);
	if (!source->ask && batch->size < limit && !put_entries(source, batch, limit, snapshot))
		ask_again(source);
	PopActiveSnapshot();
	UnregisterSnapshot(snapshot);

	if (source->ask)
		batch->size = 0;
	source->behind = batch->size >= limit;
	source->pace = source->behind ? Min(2 * source->pace, PACE_MAX) : PACE_FIRST;
	if (batch->size == 0)
	{
		source->horizon = horizon;
		source->look_again = now + HORIZON_DELAY;
		return false;
	}
	coze_flush();
	return true;
}
