/*-------------------------------------------------------------------------
 *
 * clock.c
 *		The clock, the horizon, and what is held.
 *
 * Horizon.  A backend publishes a lower bound of its hlc in its slot, then
 * draws; a reader reads the clock, then the slots, then takes its snapshot.
 * The slot is cleared in the commit callback (ending.c), which runs after the transaction
 * has become visible.  So whatever the reader does not find in a slot either
 * drew an hlc not below the clock that it read, or is visible to it.
 *
 * Order and Seen.  hlc and V are drawn in one critical section.  A pending
 * transaction of the applier counts iff its xid has committed: between its
 * visibility and the publishing of the vector a user may already have written
 * on what it brought.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "storage/procarray.h"

#include "compat.h"
#include "debug.h"
#include "log/shared.h"
#include "log/state.h"
#include "log/wall.h"
#include "settings.h"

/* --- clock -------------------------------------------------------------------------- */

void
coze_clock_publish(void)
{
	CozeSlot   *slot = &coze_registry->slots[coze_my_proc_number()];

	if (coze_ending.detach_at_end)
	{
		coze_ending.own_view_valid = false; /* as late as can be */
		(void) coze_attach_own_view();
	}
	coze_at_end();
	slot->dboid = MyDatabaseId;
	pg_write_barrier();
	if (COZE_RULE("publish-before-draw"))
		pg_atomic_write_u64(&slot->bound, pg_atomic_read_u64(&coze_mine->clock) + 1);
	coze_ending.bound_published = true;
	pg_memory_barrier();
}

/*
 * Does the pending transaction count, being visible to every snapshot taken from now
 * on?  It is in the commit log a moment before that.  The lock is held.
 */
bool
coze_pending_counts(void)
{
	return TransactionIdIsValid(coze_mine->pending_xid) && COZE_RULE("pending-seen") &&
		!TransactionIdIsInProgress(coze_mine->pending_xid) &&
		TransactionIdDidCommit(coze_mine->pending_xid);
}

/* Into a vector that has room for all nodes.  The lock is held. */
static void
copy_visible(CozeVector *v)
{
	v->n = 0;
	for (int i = 0; i < coze_mine->held.n; i++)
		if (coze_mine->held.e[i].hlc != 0)	/* 0: room made for a pending one */
			v->e[v->n++] = coze_mine->held.e[i];
}

/* V into a vector that has room for all nodes.  The lock is held. */
static void
copy_held(CozeVector *v)
{
	copy_visible(v);
	if (coze_pending_counts())
		for (int i = 0; i < coze_mine->pending.n; i++)
			coze_vector_raise(v, coze_mine->pending.e[i].origin, coze_mine->pending.e[i].hlc);
}

/* V of an entry drawn now.  The lock is held. */
static void
copy_seen(CozeVector *seen)
{
	if (!coze_ending.detach_at_end || (coze_mine->attached && coze_mine->origin == coze_ending.own_view.origin))
	{
		copy_held(seen);
		return;
	}
	/* this transaction made the node what it is: only it knows */
	seen->n = 0;
	for (int i = 0; i < coze_ending.own_view.held.n; i++)
		seen->e[seen->n++] = coze_ending.own_view.held.e[i];
}

/* With the lock held: is what a draw needs there? */
static bool
can_draw(void)
{
	return coze_ending.detach_at_end || coze_mine->attached;
}

/* The lock is held. */
static void
draw_hlc(void)
{
	coze_ending.drawn.origin = coze_ending.detach_at_end ? coze_ending.own_view.origin : coze_mine->origin;
	coze_ending.drawn.hlc = coze_hlc_next(pg_atomic_read_u64(&coze_mine->clock), coze_wall());
	pg_atomic_write_u64(&coze_mine->clock, coze_ending.drawn.hlc);
}

CozeVersion
coze_clock_draw(CozeVector *seen)
{
	Assert(coze_ending.bound_published);
	coze_vector_reserve(seen, cozesync_max_nodes);
	LWLockAcquire(&coze_mine->lock, LW_EXCLUSIVE);
	while (!can_draw())
	{
		LWLockRelease(&coze_mine->lock);
		(void) coze_attach();
		LWLockAcquire(&coze_mine->lock, LW_EXCLUSIVE);
	}
	draw_hlc();
	if (!COZE_RULE("draw-together"))
	{
		LWLockRelease(&coze_mine->lock);
		COZE_DEBUG_POINT("draw-between");
		LWLockAcquire(&coze_mine->lock, LW_EXCLUSIVE);
	}
	copy_seen(seen);
	LWLockRelease(&coze_mine->lock);
	COZE_DEBUG_POINT("draw-done");
	if (coze_ending.drawn.origin == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this database has ceased to be a member of its group")));
	return coze_ending.drawn;
}

void
coze_count_captured(uint32 changes)
{
	coze_ending.captured = changes;
}

void
coze_captured(uint64 *transactions, uint64 *rows)
{
	*transactions = pg_atomic_read_u64(&coze_mine->captured_transactions);
	*rows = pg_atomic_read_u64(&coze_mine->captured_rows);
}

CozeHlc
coze_clock_horizon(int *held_back_by)
{
	CozeHlc		horizon = (CozeHlc) pg_atomic_read_u64(&coze_mine->clock) + 1;

	if (held_back_by)
		*held_back_by = 0;
	pg_memory_barrier();
	for (int i = 0; i < coze_registry->nslots; i++)
	{
		CozeSlot   *slot = &coze_registry->slots[i];
		uint64		bound = pg_atomic_read_u64(&slot->bound);

		if (bound == 0)
			continue;
		pg_read_barrier();
		if (slot->dboid == MyDatabaseId && (CozeHlc) bound < horizon)
		{
			horizon = (CozeHlc) bound;
			if (held_back_by)
				*held_back_by = GetPGProcByNumber(i)->pid;
		}
	}
	pg_memory_barrier();
	return horizon;
}

bool
coze_clock_advance(CozeHlc received)
{
	if ((CozeHlc) pg_atomic_read_u64(&coze_mine->clock) >= received)
		return true;
	if (coze_hlc_too_far(received, coze_wall(), cozesync_max_clock_drift * INT64CONST(1000)))
		return false;
	LWLockAcquire(&coze_mine->lock, LW_EXCLUSIVE);
	coze_atomic_raise(&coze_mine->clock, received);
	LWLockRelease(&coze_mine->lock);
	return true;
}

CozeHlc
coze_clock_last(void)
{
	return (CozeHlc) pg_atomic_read_u64(&coze_mine->clock);
}

/* --- the vector ------------------------------------------------------------------------ */

void
coze_held(CozeVector *v)
{
	coze_vector_reserve(v, cozesync_max_nodes);
	LWLockAcquire(&coze_mine->lock, LW_SHARED);
	copy_held(v);
	LWLockRelease(&coze_mine->lock);
}

void
coze_held_visible(CozeVector *v)
{
	coze_vector_reserve(v, cozesync_max_nodes);
	LWLockAcquire(&coze_mine->lock, LW_SHARED);
	copy_visible(v);
	LWLockRelease(&coze_mine->lock);
}

XLogRecPtr
coze_held_with_end(CozeVector *v)
{
	CozeHlc		own = coze_own_committed_max();	/* raised behind commit_lsn */
	XLogRecPtr	end;

	coze_vector_reserve(v, cozesync_max_nodes);
	LWLockAcquire(&coze_mine->lock, LW_SHARED);
	copy_visible(v);
	end = pg_atomic_read_u64(&coze_mine->commit_lsn);
	LWLockRelease(&coze_mine->lock);
	if (own != 0)
		coze_vector_set(v, coze_own_origin(), own);
	return end;
}

CozeHlc
coze_held_of(CozeOrigin origin)
{
	CozeVector	held;
	CozeHlc		hlc;

	LWLockAcquire(&coze_mine->lock, LW_SHARED);
	held = coze_shared_view(&coze_mine->held);
	hlc = coze_vector_get(&held, origin);
	if (coze_pending_counts())
	{
		held = coze_shared_view(&coze_mine->pending);
		hlc = Max(hlc, coze_vector_get(&held, origin));
	}
	LWLockRelease(&coze_mine->lock);
	return hlc;
}

CozeHlc
coze_own_committed_max(void)
{
	return (CozeHlc) pg_atomic_read_u64(&coze_mine->own_committed);
}

void
coze_held_pending(const CozeVector *progress)
{
	TransactionId xid = GetTopTransactionId();

	coze_at_end();
	LWLockAcquire(&coze_mine->lock, LW_EXCLUSIVE);
	coze_mine->pending.n = 0;
	for (int i = 0; i < progress->n; i++)
		coze_shared_raise(&coze_mine->pending, progress->e[i].origin, progress->e[i].hlc);
	/* room is made sure of here, since the callback must not fail */
	for (int i = 0; i < progress->n; i++)
		coze_shared_raise(&coze_mine->held, progress->e[i].origin, 0);
	coze_mine->pending_xid = xid;
	coze_ending.pending_set = true;
	LWLockRelease(&coze_mine->lock);
}

/* --- durability --------------------------------------------------------------------------- */

/*
 * The end of the WAL that was inserted so far, as XLogFlush() takes it: where the
 * next record would begin a page, that page's header does not count.
 */
static XLogRecPtr
end_of_inserted_wal(void)
{
	XLogRecPtr	ptr = GetXLogInsertRecPtr();
	Size		offset = ptr % XLOG_BLCKSZ;

	if (offset == SizeOfXLogShortPHD ||
		(offset == SizeOfXLogLongPHD && (ptr - offset) % wal_segment_size == 0))
		ptr -= offset;
	return ptr;
}

void
coze_flush(void)
{
	bool		pending;

	if (!COZE_RULE("flush-before-send"))
		return;
	LWLockAcquire(&coze_mine->lock, LW_SHARED);
	pending = coze_pending_counts();
	LWLockRelease(&coze_mine->lock);

	/*
	 * A pending transaction may have committed and not yet said where; all else
	 * that is below the horizon or in the vector has raised commit_lsn.
	 */
	if (pending)
		XLogFlush(end_of_inserted_wal());
	else
		XLogFlush(pg_atomic_read_u64(&coze_mine->commit_lsn));
}
