/*-------------------------------------------------------------------------
 *
 * link_state.c
 *		What the processes of a database know of its peers and links.
 *
 * Slots lie in static shared memory, max_databases * max_nodes of them.  The
 * vectors, whose size is the group's business, lie in a DSA area that was made
 * in place, so that it needs no process to own it.
 *
 * Locking: directory->lock guards who owns which slot (exclusive to give a slot
 * away); slot->lock all that is in it.  In this order.  Neither is held over I/O.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/dsa.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "link/link_state.h"
#include "link/twins.h"
#include "log/state.h"
#include "settings.h"

struct CozeLinkSlot
{
	LWLock		lock;
	Oid			database;		/* InvalidOid: free */
	bool		retry;
	bool		has_skew;
	bool		skew_is_rough;
	int			sessions[COZE_LINK_DIRECTIONS]; /* in which the peer works the link */
	CozeMoment	served_at[COZE_LINK_DIRECTIONS];	/* when the last of them ended, or the
													 * slot was made */
	CozeMoment	heard_at;		/* when the peer last told what it has applied */
	CozeTwins	twins;
	CozeOrigin	peer;
	CozeLinkStatus link[COZE_LINK_DIRECTIONS];
	bool		error_is_over[COZE_LINK_DIRECTIONS];
	int64		clock_skew;
	CozeMoment	skew_at;		/* when that was measured */
	bool		has_applied;
	int			applied_n;
	int			applied_cap;
	dsa_pointer applied;		/* CozeVectorEntry[applied_cap] */
};

/* Why the links of a database are closed, if they are. */
typedef struct ClosedDatabase
{
	Oid			database;		/* InvalidOid: free */
	CozeOrigin	origin;			/* who it was: somebody else it concerns no more */
	char		reason[COZE_LINK_ERROR_MAX];
} ClosedDatabase;

typedef struct LinkDirectory
{
	LWLock		lock;
	int			nslots;
	int			nclosed;
	Size		dsa_offset;		/* from the start of this struct */
	Size		closed_offset;
	CozeLinkSlot slots[FLEXIBLE_ARRAY_MEMBER];
} LinkDirectory;

/* What this process found before; slots never move. */
typedef struct KnownSlot
{
	CozeLinkSlot *slot;
	CozeOrigin	peer;
} KnownSlot;

/* Room for the vectors before the DSA area takes segments of its own. */
#define DSA_INITIAL_SIZE (256 * 1024)

/* A database that was heard of so lately (us) is taken to live. */
#define ALIVE INT64CONST(5000000)

/* See coze_link_is_neglected(); us. */
#define PATIENCE INT64CONST(3000000)
#define HEARD_LATELY INT64CONST(30000000)

/* A skew that was measured both ways counts for so long (us) before a rough one. */
#define ROUGH_SKEW_AFTER INT64CONST(5000000)

static LinkDirectory *directory;
static dsa_area *area;
static bool serves[COZE_LINK_DIRECTIONS];	/* does this process serve a peer that works it? */
static CozeLinkSlot *served_slot;
static KnownSlot *known;
static int	nknown;

/* --- shared memory ------------------------------------------------------------- */

static int
slot_count(void)
{
	return cozesync_max_databases * cozesync_max_nodes;
}

static Size
slots_size(void)
{
	return MAXALIGN(add_size(offsetof(LinkDirectory, slots),
							 mul_size(slot_count(), sizeof(CozeLinkSlot))));
}

static Size
closed_size(void)
{
	return MAXALIGN(mul_size(cozesync_max_databases, sizeof(ClosedDatabase)));
}

Size
coze_link_state_shmem_size(void)
{
	return add_size(add_size(slots_size(), closed_size()), DSA_INITIAL_SIZE);
}

static void
init_slots(void)
{
	int			tranche = LWLockNewTrancheId();

	LWLockInitialize(&directory->lock, tranche);
	directory->nslots = slot_count();
	directory->nclosed = cozesync_max_databases;
	directory->closed_offset = slots_size();
	directory->dsa_offset = directory->closed_offset + closed_size();
	for (int i = 0; i < directory->nslots; i++)
	{
		memset(&directory->slots[i], 0, sizeof(CozeLinkSlot));
		LWLockInitialize(&directory->slots[i].lock, tranche);
	}
	memset((char *) directory + directory->closed_offset, 0, closed_size());
}

void
coze_link_state_shmem_init(void)
{
	bool		found;

	directory = ShmemInitStruct("cozesync links", coze_link_state_shmem_size(), &found);
	if (!found)
	{
		char	   *place;
		dsa_area   *dsa;

		init_slots();
		place = (char *) directory + directory->dsa_offset;
		dsa = dsa_create_in_place(place, DSA_INITIAL_SIZE, LWLockNewTrancheId(), NULL);
		dsa_pin(dsa);
		dsa_detach(dsa);
	}
	LWLockRegisterTranche(directory->lock.tranche, "cozesync links");
}

/* The area of the vectors, attached for as long as this process lives. */
static dsa_area *
vector_area(void)
{
	if (area == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		area = dsa_attach_in_place((char *) directory + directory->dsa_offset, NULL);
		dsa_pin_mapping(area);
		MemoryContextSwitchTo(old);
	}
	return area;
}

/* --- whose slot ------------------------------------------------------------------ */

static bool
is_slot_of(const CozeLinkSlot *slot, Oid database, CozeOrigin peer)
{
	return slot->database == database && slot->peer == peer;
}

/* The caller holds the directory's lock. */
static CozeLinkSlot *
find_slot(CozeOrigin peer)
{
	for (int i = 0; i < directory->nslots; i++)
	{
		if (is_slot_of(&directory->slots[i], MyDatabaseId, peer))
			return &directory->slots[i];
	}
	return NULL;
}

/* The caller holds the directory's lock exclusively. */
static CozeLinkSlot *
take_free_slot(CozeOrigin peer)
{
	for (int i = 0; i < directory->nslots; i++)
	{
		CozeLinkSlot *slot = &directory->slots[i];

		if (OidIsValid(slot->database))
			continue;
		LWLockAcquire(&slot->lock, LW_EXCLUSIVE);
		slot->database = MyDatabaseId;
		slot->peer = peer;
		slot->retry = false;
		slot->has_skew = false;
		for (int d = 0; d < COZE_LINK_DIRECTIONS; d++)
		{
			slot->sessions[d] = 0;
			slot->served_at[d] = coze_monotonic();
		}
		slot->heard_at = 0;
		memset(&slot->twins, 0, sizeof(slot->twins));
		slot->has_applied = false;
		slot->applied_n = 0;
		slot->clock_skew = 0;
		memset(slot->link, 0, sizeof(slot->link));
		memset(slot->error_is_over, 0, sizeof(slot->error_is_over));
		LWLockRelease(&slot->lock);
		return slot;
	}
	return NULL;
}

/* Remember whom the slot was for when this process found it. */
static void
know_slot(CozeLinkSlot *slot, CozeOrigin peer)
{
	for (int i = 0; i < nknown; i++)
	{
		if (known[i].slot == slot)
		{
			known[i].peer = peer;
			return;
		}
	}
	if (known == NULL)
		known = MemoryContextAlloc(TopMemoryContext, sizeof(KnownSlot));
	else
		known = repalloc(known, (nknown + 1) * sizeof(KnownSlot));
	known[nknown].slot = slot;
	known[nknown++].peer = peer;
}

CozeLinkSlot *
coze_link_slot(CozeOrigin peer)
{
	CozeLinkSlot *slot;

	LWLockAcquire(&directory->lock, LW_EXCLUSIVE);
	slot = find_slot(peer);
	if (slot == NULL)
		slot = take_free_slot(peer);
	LWLockRelease(&directory->lock);
	if (slot == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many nodes"),
				 errhint("Raise cozesync.max_nodes and restart the server.")));
	know_slot(slot, peer);
	return slot;
}

/* Lock a slot for writing; false if it is not this process's peer's any more. */
static bool
lock_slot(CozeLinkSlot *slot)
{
	CozeOrigin	peer = 0;

	for (int i = 0; i < nknown; i++)
	{
		if (known[i].slot == slot)
			peer = known[i].peer;
	}
	LWLockAcquire(&slot->lock, LW_EXCLUSIVE);
	if (is_slot_of(slot, MyDatabaseId, peer))
		return true;
	LWLockRelease(&slot->lock);
	return false;
}

static void
keep_slots(Oid database, const CozeOrigin *peers, int n)
{
	LWLockAcquire(&directory->lock, LW_EXCLUSIVE);
	for (int i = 0; i < directory->nslots; i++)
	{
		CozeLinkSlot *slot = &directory->slots[i];
		bool		keep = slot->database != database;

		for (int j = 0; j < n && !keep; j++)
			keep = slot->peer == peers[j];
		if (keep)
			continue;
		LWLockAcquire(&slot->lock, LW_EXCLUSIVE);
		slot->database = InvalidOid;
		LWLockRelease(&slot->lock);
	}
	LWLockRelease(&directory->lock);
}

void
coze_link_keep(const CozeOrigin *peers, int n)
{
	keep_slots(MyDatabaseId, peers, n);
}

/* --- how a link stands -------------------------------------------------------------- */

void
coze_link_set_state(CozeLinkSlot *slot, CozeLinkDirection direction,
					CozeLinkState state, bool behind)
{
	CozeLinkStatus *link = &slot->link[direction];

	/* What only this process changes can be compared without the lock. */
	if (link->pid == MyProcPid && link->state == state && link->behind == behind)
		return;
	if (!lock_slot(slot))
		return;
	if (serves[direction] || slot->sessions[direction] == 0)
	{
		link->state = state;
		link->behind = behind;
		link->pid = MyProcPid;
	}
	LWLockRelease(&slot->lock);
}

/* The slot's lock is held. */
static void
release(CozeLinkStatus *link)
{
	if (link->pid != MyProcPid)
		return;
	link->pid = 0;
	link->state = COZE_LINK_IDLE;
	link->behind = false;
	link->heard_at = 0;
}

void
coze_link_release(CozeLinkSlot *slot, CozeLinkDirection direction)
{
	if (!lock_slot(slot))
		return;
	release(&slot->link[direction]);
	LWLockRelease(&slot->lock);
}

void
coze_link_count(CozeLinkSlot *slot, CozeLinkDirection direction,
				CozeHlc sent_hlc, uint64 transactions, uint64 bytes)
{
	CozeLinkStatus *link = &slot->link[direction];

	if (!lock_slot(slot))
		return;
	if (sent_hlc > link->sent_hlc)
		link->sent_hlc = sent_hlc;
	link->transactions += transactions;
	link->bytes += bytes;
	LWLockRelease(&slot->lock);
}

void
coze_link_count_duplicates(CozeLinkSlot *slot, uint64 transactions, uint64 bytes)
{
	if (!lock_slot(slot))
		return;
	slot->link[COZE_LINK_IN].duplicates += transactions;
	slot->link[COZE_LINK_IN].duplicate_bytes += bytes;
	LWLockRelease(&slot->lock);
}

void
coze_link_heard(CozeLinkSlot *slot, CozeLinkDirection direction)
{
	if (!lock_slot(slot))
		return;
	slot->link[direction].heard_at = coze_monotonic();
	LWLockRelease(&slot->lock);
}

bool
coze_link_set_error(CozeLinkSlot *slot, CozeLinkDirection direction,
					const char *code, const char *message)
{
	CozeLinkStatus *link = &slot->link[direction];
	char		clipped[COZE_LINK_ERROR_MAX];
	bool		is_new;

	strlcpy(clipped, message, sizeof(clipped));
	clipped[pg_mbcliplen(clipped, strlen(clipped), sizeof(clipped) - 1)] = '\0';
	if (!lock_slot(slot))
		return false;
	is_new = link->last_error_at == 0 || slot->error_is_over[direction] ||
		strcmp(link->last_error_code, code) != 0 ||
		strcmp(link->last_error, clipped) != 0;
	strlcpy(link->last_error_code, code, sizeof(link->last_error_code));
	strlcpy(link->last_error, clipped, sizeof(link->last_error));
	link->last_error_at = GetCurrentTimestamp();
	slot->error_is_over[direction] = false;
	LWLockRelease(&slot->lock);
	return is_new;
}

void
coze_link_error_over(CozeLinkSlot *slot, CozeLinkDirection direction)
{
	if (!lock_slot(slot))
		return;
	slot->error_is_over[direction] = true;
	LWLockRelease(&slot->lock);
}

void
coze_link_set_skew(CozeLinkSlot *slot, int64 skew, bool rough)
{
	CozeMoment	now = coze_monotonic();

	if (!lock_slot(slot))
		return;
	if (!rough || !slot->has_skew || slot->skew_is_rough || now - slot->skew_at > ROUGH_SKEW_AFTER)
	{
		slot->has_skew = true;
		slot->skew_is_rough = rough;
		slot->clock_skew = skew;
		slot->skew_at = now;
	}
	LWLockRelease(&slot->lock);
}

bool
coze_link_greeted(CozeLinkSlot *slot, uint64 instance)
{
	CozeMoment	now = coze_monotonic();
	CozeMoment	heard_at;
	bool		welcome;

	if (!lock_slot(slot))
		return true;
	heard_at = Max(slot->heard_at, Max(slot->link[COZE_LINK_OUT].heard_at,
									   slot->link[COZE_LINK_IN].heard_at));
	welcome = coze_twins_greeted(&slot->twins, instance, now, now - heard_at < ALIVE);
	LWLockRelease(&slot->lock);
	return welcome;
}

bool
coze_link_is_current(CozeLinkSlot *slot, uint64 instance)
{
	return instance == 0 || slot->twins.current == instance;
}

void
coze_link_ask_retry(CozeLinkSlot *slot)
{
	if (!lock_slot(slot))
		return;
	slot->retry = true;
	LWLockRelease(&slot->lock);
}

bool
coze_link_take_retry(CozeLinkSlot *slot)
{
	bool		retry;

	if (!slot->retry || !lock_slot(slot))
		return false;
	retry = slot->retry;
	slot->retry = false;
	LWLockRelease(&slot->lock);
	return retry;
}

void
coze_link_set_served(CozeLinkSlot *slot, CozeLinkDirection direction, bool served)
{
	if (!lock_slot(slot))
		return;
	slot->sessions[direction] = Max(0, slot->sessions[direction] + (served ? 1 : -1));
	slot->served_at[direction] = coze_monotonic();
	LWLockRelease(&slot->lock);
	serves[direction] = served;
	served_slot = slot;
}

bool
coze_link_is_served(CozeLinkSlot *slot, CozeLinkDirection direction)
{
	return slot->sessions[direction] > 0;
}

bool
coze_link_is_neglected(CozeLinkSlot *slot, CozeLinkDirection direction)
{
	CozeMoment	now = coze_monotonic();
	bool		neglected;

	if (!lock_slot(slot))
		return false;
	neglected = slot->sessions[direction] == 0 &&
		now - slot->served_at[direction] > PATIENCE && now - slot->heard_at < HEARD_LATELY;
	LWLockRelease(&slot->lock);
	return neglected;
}

/* --- what a peer has applied --------------------------------------------------------- */

/* The caller holds the slot's lock. */
static CozeVector
borrowed_applied(CozeLinkSlot *slot)
{
	CozeVector	v = {.n = slot->applied_n};

	if (v.n > 0)
		v.e = dsa_get_address(vector_area(), slot->applied);
	return v;
}

bool
coze_link_set_applied(CozeLinkSlot *slot, const CozeVector *applied)
{
	CozeVector	before;
	bool		more;

	vector_area();
	if (!lock_slot(slot))
		return false;
	before = borrowed_applied(slot);
	more = !slot->has_applied || !coze_vector_covers(&before, applied);
	if (slot->applied_cap < applied->n)
	{
		int			cap = applied->n + 8;
		dsa_pointer bigger = dsa_allocate_extended(area, cap * sizeof(CozeVectorEntry),
												   DSA_ALLOC_NO_OOM);

		if (!DsaPointerIsValid(bigger))
		{
			LWLockRelease(&slot->lock);
			ereport(ERROR,
					(errcode(ERRCODE_OUT_OF_MEMORY),
					 errmsg("out of shared memory for the vectors of peers")));
		}
		if (slot->applied_cap > 0)
			dsa_free(area, slot->applied);
		slot->applied = bigger;
		slot->applied_cap = cap;
	}
	if (applied->n > 0)
		memcpy(dsa_get_address(area, slot->applied), applied->e,
			   applied->n * sizeof(CozeVectorEntry));
	slot->applied_n = applied->n;
	slot->has_applied = true;
	slot->heard_at = coze_monotonic();
	LWLockRelease(&slot->lock);
	return more;
}

static bool
copy_applied(CozeLinkSlot *slot, CozeVector *applied)
{
	CozeVector	held = borrowed_applied(slot);

	coze_vector_init(applied);
	if (!slot->has_applied)
		return false;
	coze_vector_copy(applied, &held);
	return true;
}

bool
coze_link_get_applied(CozeOrigin peer, CozeVector *applied)
{
	CozeLinkSlot *slot;
	bool		has = false;

	vector_area();
	coze_vector_init(applied);
	LWLockAcquire(&directory->lock, LW_SHARED);
	slot = find_slot(peer);
	if (slot != NULL)
	{
		LWLockAcquire(&slot->lock, LW_SHARED);
		has = copy_applied(slot, applied);
		LWLockRelease(&slot->lock);
	}
	LWLockRelease(&directory->lock);
	return has;
}

/* The slot's lock is held. */
static void
copy_status(CozeLinkSlot *slot, CozePeerStatus *status)
{
	status->peer = slot->peer;
	memcpy(status->link, slot->link, sizeof(status->link));
	status->has_skew = slot->has_skew;
	status->clock_skew = slot->clock_skew;
	status->skew_at = slot->skew_at;
	status->told_at = slot->has_applied ? slot->heard_at : 0;
	copy_applied(slot, &status->applied);
}

void
coze_link_for_each_peer(CozePeerCallback callback, void *arg)
{
	vector_area();
	LWLockAcquire(&directory->lock, LW_SHARED);
	for (int i = 0; i < directory->nslots; i++)
	{
		CozeLinkSlot *slot = &directory->slots[i];
		CozePeerStatus status;

		if (slot->database != MyDatabaseId)
			continue;
		LWLockAcquire(&slot->lock, LW_SHARED);
		copy_status(slot, &status);
		LWLockRelease(&slot->lock);
		callback(arg, &status);
		coze_vector_free(&status.applied);
	}
	LWLockRelease(&directory->lock);
}

bool
coze_link_get_status(CozeOrigin peer, CozePeerStatus *status)
{
	CozeLinkSlot *slot;

	memset(status, 0, sizeof(*status));
	vector_area();
	LWLockAcquire(&directory->lock, LW_SHARED);
	slot = find_slot(peer);
	if (slot != NULL)
	{
		LWLockAcquire(&slot->lock, LW_SHARED);
		copy_status(slot, status);
		LWLockRelease(&slot->lock);
	}
	LWLockRelease(&directory->lock);
	return slot != NULL;
}

/* This process works no link any more. */
void
coze_link_release_all(void)
{
	for (int d = 0; d < COZE_LINK_DIRECTIONS; d++)
	{
		if (serves[d])
			coze_link_set_served(served_slot, d, false);
	}
	LWLockAcquire(&directory->lock, LW_SHARED);
	for (int i = 0; i < directory->nslots; i++)
	{
		CozeLinkSlot *slot = &directory->slots[i];

		LWLockAcquire(&slot->lock, LW_EXCLUSIVE);
		for (int d = 0; d < COZE_LINK_DIRECTIONS; d++)
			release(&slot->link[d]);
		LWLockRelease(&slot->lock);
	}
	LWLockRelease(&directory->lock);
}

/* --- closed for good ------------------------------------------------------------------ */

static ClosedDatabase *
closed_databases(void)
{
	return (ClosedDatabase *) ((char *) directory + directory->closed_offset);
}

/* The caller holds the directory's lock.  database may be InvalidOid: a free one. */
static ClosedDatabase *
find_closed(Oid database)
{
	ClosedDatabase *closed = closed_databases();

	for (int i = 0; i < directory->nclosed; i++)
	{
		if (closed[i].database == database)
			return &closed[i];
	}
	return NULL;
}

void
coze_link_close_all(const char *reason)
{
	ClosedDatabase *closed;

	LWLockAcquire(&directory->lock, LW_EXCLUSIVE);
	closed = find_closed(MyDatabaseId);
	if (closed == NULL)
		closed = find_closed(InvalidOid);
	if (closed != NULL)
	{
		closed->database = MyDatabaseId;
		closed->origin = coze_own_origin();
		strlcpy(closed->reason, reason, sizeof(closed->reason));
	}
	LWLockRelease(&directory->lock);
}

char *
coze_link_closed_reason(void)
{
	char		reason[COZE_LINK_ERROR_MAX] = "";
	CozeOrigin	own = coze_own_origin();
	ClosedDatabase *closed;

	LWLockAcquire(&directory->lock, LW_SHARED);
	closed = find_closed(MyDatabaseId);
	if (closed != NULL && closed->origin == own)
		strlcpy(reason, closed->reason, sizeof(reason));
	LWLockRelease(&directory->lock);
	return reason[0] != '\0' ? pstrdup(reason) : NULL;
}

static void
reopen(Oid database)
{
	ClosedDatabase *closed;

	LWLockAcquire(&directory->lock, LW_EXCLUSIVE);
	closed = find_closed(database);
	if (closed != NULL)
		closed->database = InvalidOid;
	LWLockRelease(&directory->lock);
}

void
coze_link_forget_database(Oid database)
{
	keep_slots(database, NULL, 0);
	reopen(database);
}
