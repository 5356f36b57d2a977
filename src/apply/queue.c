/*-------------------------------------------------------------------------
 *
 * queue.c
 *		Received batches on their way to the applier.
 *
 * Invariant: the frames of one origin's entries, in the order in which batches
 * were put, are a run without holes that begins behind what is applied here;
 * entries that another peer had delivered before are in it again, and the
 * applier drops them.  So whoever receives can tell at once whether a batch
 * continues the stream, without asking the applier.
 *
 * A batch names the stream that it is part of, and only the one that its peer began
 * last goes on: two sessions of one peer (the linker over there has died and come back,
 * the backend here that it had talked to does not know yet) must not mix their chunks.
 * When the queue is dropped all streams end.  What is not part of a stream that goes
 * on is answered with a gap.
 *
 * Locking: db->lock guards everything in CozeQueueDb and the batches' links.  It
 * is never held while bytes are copied.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/dsa.h"
#include "utils/memutils.h"

#include "apply/queue.h"
#include "base/wire.h"
#include "debug.h"
#include "log/state.h"
#include "settings.h"

/* How many batches of full size a peer may have on their way. */
#define WINDOW_BATCHES 4

typedef struct CozeQueuedBatch
{
	dsa_pointer next;
	dsa_pointer prev;
	uint64		id;
	CozeOrigin	peer;
	Size		size;
	bool		taken;
	char		data[FLEXIBLE_ARRAY_MEMBER];
} CozeQueuedBatch;

typedef struct CozeQueuePeer
{
	CozeOrigin	origin;			/* 0: free */
	uint64		stream;			/* its number, 0: none goes on */
	uint64		bytes;			/* queued and not done */
	CozeVersion partial;		/* entry whose chunks are not complete; hlc 0: none */
	uint32		chunks_missing;
} CozeQueuePeer;

typedef struct CozeQueueDb
{
	Oid			dboid;			/* InvalidOid: free */
	LWLock		lock;
	dsa_handle	area;
	bool		has_area;
	dsa_pointer head;
	dsa_pointer tail;
	dsa_pointer next_untaken;
	uint64		next_id;
	uint64		last_stream;	/* number given last */
	int			nqueued;		/* last entry of each origin that is queued in full */
	CozeVectorEntry *queued;
	CozeQueuePeer *peers;		/* cozesync_max_nodes */
} CozeQueueDb;

typedef struct CozeQueues
{
	LWLock		lock;			/* for dboid of all */
	CozeQueueDb db[FLEXIBLE_ARRAY_MEMBER];
} CozeQueues;

static CozeQueues *queues = NULL;
static CozeQueueDb *mine = NULL;
static dsa_area *area = NULL;

/* --- shared memory ------------------------------------------------------------ */

Size
coze_queue_shmem_size(void)
{
	Size		size = MAXALIGN(offsetof(CozeQueues, db) +
								cozesync_max_databases * sizeof(CozeQueueDb));
	Size		node = sizeof(CozeVectorEntry) + sizeof(CozeQueuePeer);

	return add_size(size, mul_size(cozesync_max_databases, mul_size(cozesync_max_nodes, node)));
}

void
coze_queue_shmem_init(void)
{
	bool		found;
	char	   *p;

	queues = ShmemInitStruct("cozesync queues", coze_queue_shmem_size(), &found);
	if (found)
		return;
	memset(queues, 0, coze_queue_shmem_size());
	LWLockInitialize(&queues->lock, LWLockNewTrancheId());
	p = (char *) queues + MAXALIGN(offsetof(CozeQueues, db) +
								   cozesync_max_databases * sizeof(CozeQueueDb));
	for (int i = 0; i < cozesync_max_databases; i++)
	{
		CozeQueueDb *db = &queues->db[i];

		LWLockInitialize(&db->lock, queues->lock.tranche);
		db->queued = (CozeVectorEntry *) p;
		p += cozesync_max_nodes * sizeof(CozeVectorEntry);
		db->peers = (CozeQueuePeer *) p;
		p += cozesync_max_nodes * sizeof(CozeQueuePeer);
	}
}

/*
 * This database's queue.  A slot stays with its database until that is dropped;
 * there are as many as coze_attach() lets databases in.
 */
static CozeQueueDb *
my_queue(void)
{
	if (mine != NULL)
		return mine;
	coze_check_preloaded();
	LWLockAcquire(&queues->lock, LW_EXCLUSIVE);
	for (int i = 0; i < cozesync_max_databases && mine == NULL; i++)
	{
		if (queues->db[i].dboid == MyDatabaseId)
			mine = &queues->db[i];
	}
	for (int i = 0; i < cozesync_max_databases && mine == NULL; i++)
	{
		if (queues->db[i].dboid == InvalidOid)
		{
			mine = &queues->db[i];
			mine->dboid = MyDatabaseId;
		}
	}
	LWLockRelease(&queues->lock);
	if (mine == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many databases have a queue of received changes"),
				 errhint("Increase cozesync.max_databases (now %d), or restart the server after dropping databases.",
						 cozesync_max_databases)));
	return mine;
}

/* Nobody is connected to the database, and nobody will be. */
void
coze_queue_forget_database(Oid dboid)
{
	LWLockAcquire(&queues->lock, LW_EXCLUSIVE);
	for (int i = 0; i < cozesync_max_databases; i++)
	{
		CozeQueueDb *db = &queues->db[i];

		if (db->dboid != dboid)
			continue;
		if (db->has_area)
		{
			dsa_area   *gone = dsa_attach(db->area);

			dsa_unpin(gone);
			dsa_detach(gone);
		}
		db->has_area = false;
		db->head = db->tail = db->next_untaken = InvalidDsaPointer;
		db->nqueued = 0;
		memset(db->peers, 0, cozesync_max_nodes * sizeof(CozeQueuePeer));
		db->dboid = InvalidOid;
	}
	LWLockRelease(&queues->lock);
}

/* The dynamic area of the queue, made by whoever needs it first. */
static dsa_area *
my_area(CozeQueueDb *db)
{
	MemoryContext old;

	if (area != NULL)
		return area;
	old = MemoryContextSwitchTo(TopMemoryContext);
	LWLockRegisterTranche(queues->lock.tranche, "cozesync_queue");
	LWLockAcquire(&db->lock, LW_EXCLUSIVE);
	if (!db->has_area)
	{
		area = dsa_create(queues->lock.tranche);
		dsa_pin(area);
		db->area = dsa_get_handle(area);
		db->has_area = true;
	}
	else
		area = dsa_attach(db->area);
	LWLockRelease(&db->lock);
	dsa_pin_mapping(area);
	MemoryContextSwitchTo(old);
	return area;
}

static CozeQueuedBatch *
batch_at(dsa_pointer p)
{
	return (CozeQueuedBatch *) dsa_get_address(area, p);
}

/* --- what is queued (under the lock) --------------------------------------------- */

static uint64
window_size(void)
{
	return (uint64) cozesync_batch_size * 1024 * WINDOW_BATCHES;
}

/* A new one takes a free place, or one of a peer that has nothing here and will begin anew. */
static CozeQueuePeer *
find_peer(CozeQueueDb *db, CozeOrigin origin, bool make)
{
	CozeQueuePeer *unused = NULL;
	CozeQueuePeer *idle = NULL;

	for (int i = 0; i < cozesync_max_nodes; i++)
	{
		CozeQueuePeer *peer = &db->peers[i];

		if (peer->origin == origin)
			return peer;
		if (unused == NULL && peer->origin == 0)
			unused = peer;
		if (idle == NULL && peer->bytes == 0)
			idle = peer;
	}
	if (unused == NULL)
		unused = idle;
	if (!make || unused == NULL)
		return NULL;
	memset(unused, 0, sizeof(*unused));
	unused->origin = origin;
	return unused;
}

static int
queued_place(CozeQueueDb *db, CozeOrigin origin)
{
	int			i = 0;

	while (i < db->nqueued && db->queued[i].origin != origin)
		i++;
	return i;
}

/* Merge what is queued into *v, which is what is held. */
static void
add_queued(CozeQueueDb *db, CozeVector *v)
{
	for (int i = 0; i < db->nqueued; i++)
		coze_vector_raise(v, db->queued[i].origin, db->queued[i].hlc);
}

/* False: there are too many origins. */
static bool
make_place(CozeQueueDb *db, CozeOrigin origin)
{
	int			i = queued_place(db, origin);

	if (i < db->nqueued)
		return true;
	if (db->nqueued == cozesync_max_nodes)
		return false;
	db->queued[i].origin = origin;
	db->queued[i].hlc = 0;
	db->nqueued++;
	return true;
}

/* --- checking a batch ---------------------------------------------------------------- */

/* What a batch does to the streams: an entry, or the chunks that it begins with. */
typedef struct Item
{
	CozeVersion version;		/* hlc 0: chunks of the entry that is partial */
	CozeHlc		prev;
	uint32		nchunks;		/* of the entry, by its head */
	uint32		chunks;			/* that follow it here */
} Item;

static Item *
read_items(const char *data, Size size, int *nitems)
{
	Item	   *items;
	int			cap = 64;
	int			n = 0;
	Size		pos = 0;

	items = palloc(cap * sizeof(Item));
	for (;;)
	{
		CozeFrame	frame;
		CozeEntryHead head;
		const char *error = coze_wire_get_frame(data, size, &pos, &frame);

		if (error == NULL && frame.kind == COZE_FRAME_ENTRY)
			error = coze_wire_get_head(frame.data, frame.size, &head);
		if (error != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_PROTOCOL_VIOLATION),
					 errmsg("received changes are damaged: %s", error)));
		if (frame.kind == COZE_FRAME_END)
			break;
		if (frame.kind == COZE_FRAME_RELATION)
			continue;
		if (frame.kind == COZE_FRAME_CHUNK && n > 0)
		{
			items[n - 1].chunks++;
			continue;
		}
		if (n == cap)
			items = repalloc(items, (cap *= 2) * sizeof(Item));
		memset(&items[n], 0, sizeof(Item));
		if (frame.kind == COZE_FRAME_CHUNK)
			items[n].chunks = 1;
		else
		{
			items[n].version = head.version;
			items[n].prev = frame.prev;
			items[n].nchunks = head.nchunks;
			coze_vector_free(&head.seen);
		}
		n++;
	}
	*nitems = n;
	return items;
}

/*
 * Does the batch continue the streams?  *queued and *peer are brought forward;
 * they are copies.
 */
static bool
continues(const Item *items, int n, CozeVector *queued, CozeQueuePeer *peer)
{
	CozeOrigin	own = coze_own_origin();

	for (int i = 0; i < n; i++)
	{
		const Item *item = &items[i];
		CozeHlc		last;

		if (item->version.hlc == 0)
		{
			if (peer->partial.hlc == 0 || item->chunks > peer->chunks_missing)
				return false;
			peer->chunks_missing -= item->chunks;
		}
		else
		{
			if (peer->partial.hlc != 0 || item->chunks > item->nchunks)
				return false;
			last = coze_vector_get(queued, item->version.origin);
			if (item->version.origin != own && item->version.hlc > last && item->prev != last)
				return false;
			peer->partial = item->version;
			peer->chunks_missing = item->nchunks - item->chunks;
		}
		if (peer->chunks_missing > 0)
			continue;
		if (peer->partial.origin != own)
			coze_vector_raise(queued, peer->partial.origin, peer->partial.hlc);
		peer->partial.hlc = 0;
	}
	return true;
}

/* --- for receivers ---------------------------------------------------------------------- */

static void
link_batch(CozeQueueDb *db, dsa_pointer p)
{
	CozeQueuedBatch *batch = batch_at(p);

	batch->id = ++db->next_id;
	batch->next = InvalidDsaPointer;
	batch->prev = db->tail;
	if (DsaPointerIsValid(db->tail))
		batch_at(db->tail)->next = p;
	else
		db->head = p;
	db->tail = p;
	if (!DsaPointerIsValid(db->next_untaken))
		db->next_untaken = p;
}

static dsa_pointer
make_batch(CozeQueueDb *db, CozeOrigin peer, const char *data, Size size)
{
	dsa_pointer p = dsa_allocate_extended(my_area(db), offsetof(CozeQueuedBatch, data) + size,
										  DSA_ALLOC_HUGE);
	CozeQueuedBatch *batch = batch_at(p);

	batch->peer = peer;
	batch->size = size;
	batch->taken = false;
	if (size > 0)
		memcpy(batch->data, data, size);
	return p;
}

uint64
coze_queue_begin(CozeOrigin peer, CozeVector *queued)
{
	CozeQueueDb *db = my_queue();
	dsa_pointer p = make_batch(db, peer, NULL, 0);
	uint64		stream = 0;
	CozeQueuePeer *q;

	coze_held(queued);
	LWLockAcquire(&db->lock, LW_EXCLUSIVE);
	q = find_peer(db, peer, true);
	if (q != NULL)
	{
		q->stream = stream = ++db->last_stream;
		q->partial.hlc = 0;
		q->chunks_missing = 0;
		add_queued(db, queued);
		link_batch(db, p);
	}
	LWLockRelease(&db->lock);
	if (q == NULL)
	{
		dsa_free(area, p);
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many peers send changes to this database"),
				 errhint("Increase cozesync.max_nodes (now %d) and restart the server.",
						 cozesync_max_nodes)));
	}
	coze_worker_wake(COZE_WORKER_APPLIER);
	return stream;
}

bool
coze_queue_goes_on(CozeOrigin peer, uint64 stream)
{
	CozeQueueDb *db = my_queue();
	CozeQueuePeer *q;
	bool		goes_on;

	LWLockAcquire(&db->lock, LW_SHARED);
	q = find_peer(db, peer, false);
	goes_on = q != NULL && stream != 0 && q->stream == stream;
	LWLockRelease(&db->lock);
	return goes_on;
}

/* Whose entry, or whose chunks, are these? */
static CozeOrigin
origin_of(const Item *item, const CozeQueuePeer *peer)
{
	return item->version.hlc != 0 ? item->version.origin : peer->partial.origin;
}

/* Under the lock: take over what continues() found, or nothing of it. */
static bool
commit_put(CozeQueueDb *db, CozeQueuePeer *peer, const CozeQueuePeer *after,
		   const CozeVector *queued, const Item *items, int nitems)
{
	for (int i = 0; i < nitems; i++)
	{
		CozeOrigin	origin = origin_of(&items[i], peer);

		if (origin != coze_own_origin() && !make_place(db, origin))
			return false;
	}
	for (int i = 0; i < nitems; i++)
	{
		CozeOrigin	origin = origin_of(&items[i], peer);

		if (origin != coze_own_origin())
			db->queued[queued_place(db, origin)].hlc = coze_vector_get(queued, origin);
	}
	*peer = *after;
	return true;
}

CozeQueuePut
coze_queue_put(CozeOrigin peer, uint64 stream, const char *data, Size size)
{
	CozeQueueDb *db = my_queue();
	CozeQueuePut result = COZE_QUEUE_TAKEN;
	CozeVector	queued = {0};
	int			nitems;
	Item	   *items = read_items(data, size, &nitems);
	dsa_pointer p;
	CozeQueuePeer *q;

	if (size == 0)
		return COZE_QUEUE_TAKEN;
	p = make_batch(db, peer, data, size);
	coze_held(&queued);
	LWLockAcquire(&db->lock, LW_EXCLUSIVE);
	q = find_peer(db, peer, false);
	add_queued(db, &queued);
	if (q == NULL || stream == 0 || q->stream != stream)
		result = COZE_QUEUE_GAP;
	else if (q->bytes > 0 && q->bytes + size > window_size())
		result = COZE_QUEUE_FULL;
	else
	{
		CozeQueuePeer after = *q;

		if (!continues(items, nitems, &queued, &after) ||
			!commit_put(db, q, &after, &queued, items, nitems))
			result = COZE_QUEUE_GAP;
		else
		{
			q->bytes += size;
			link_batch(db, p);
		}
	}
	LWLockRelease(&db->lock);
	if (result != COZE_QUEUE_TAKEN)
		dsa_free(area, p);
	else
		coze_worker_wake(COZE_WORKER_APPLIER);
	coze_vector_free(&queued);
	pfree(items);
	return result;
}

void
coze_queue_state(CozeOrigin peer, CozeVector *queued, uint64 *window)
{
	CozeQueueDb *db = my_queue();
	CozeQueuePeer *q;
	uint64		bytes;

	coze_held(queued);
	LWLockAcquire(&db->lock, LW_SHARED);
	q = find_peer(db, peer, false);
	bytes = q != NULL ? q->bytes : 0;
	add_queued(db, queued);
	LWLockRelease(&db->lock);
	if (window != NULL)
		*window = bytes < window_size() ? window_size() - bytes : 0;
}

/* --- for the applier ------------------------------------------------------------------------ */

bool
coze_queue_take(CozeBatch *batch)
{
	CozeQueueDb *db = my_queue();
	bool		found = false;

	if (!db->has_area)
		return false;
	my_area(db);
	LWLockAcquire(&db->lock, LW_EXCLUSIVE);
	if (DsaPointerIsValid(db->next_untaken))
	{
		dsa_pointer p = db->next_untaken;
		CozeQueuedBatch *queued = batch_at(p);

		queued->taken = true;
		db->next_untaken = queued->next;
		batch->id = (uint64) p;
		batch->peer = queued->peer;
		batch->data = queued->data;
		batch->size = queued->size;
		found = true;
	}
	LWLockRelease(&db->lock);
	return found;
}

/* Under the lock. */
static void
unlink_batch(CozeQueueDb *db, dsa_pointer p)
{
	CozeQueuedBatch *batch = batch_at(p);
	CozeQueuePeer *peer = find_peer(db, batch->peer, false);

	if (peer != NULL)
		peer->bytes -= Min(peer->bytes, batch->size);
	if (DsaPointerIsValid(batch->prev))
		batch_at(batch->prev)->next = batch->next;
	else
		db->head = batch->next;
	if (DsaPointerIsValid(batch->next))
		batch_at(batch->next)->prev = batch->prev;
	else
		db->tail = batch->prev;
	if (db->next_untaken == p)
		db->next_untaken = batch->next;
}

void
coze_queue_done(const CozeBatch *batch)
{
	CozeQueueDb *db = my_queue();
	dsa_pointer p = (dsa_pointer) batch->id;

	LWLockAcquire(&db->lock, LW_EXCLUSIVE);
	unlink_batch(db, p);
	LWLockRelease(&db->lock);
	dsa_free(area, p);
}

void
coze_queue_restart(void)
{
	CozeQueueDb *db = my_queue();
	dsa_pointer p;

	COZE_DEBUG_POINT("queue-before-restart");
	LWLockAcquire(&db->lock, LW_EXCLUSIVE);
	p = db->head;
	db->head = db->tail = db->next_untaken = InvalidDsaPointer;
	db->nqueued = 0;
	for (int i = 0; i < cozesync_max_nodes; i++)
	{
		db->peers[i].bytes = 0;
		db->peers[i].stream = 0;
	}
	LWLockRelease(&db->lock);
	/* Whoever queued the first batch may have made the area while we waited for the lock. */
	if (DsaPointerIsValid(p))
		my_area(db);
	while (DsaPointerIsValid(p))
	{
		dsa_pointer next = batch_at(p)->next;

		dsa_free(area, p);
		p = next;
	}
}
