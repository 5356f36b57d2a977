/*-------------------------------------------------------------------------
 *
 * ending.c
 *		What a transaction leaves in shared memory when it ends.
 *
 * Invariant (Horizon): the slot of a backend is cleared in the commit callback, which
 * runs after the transaction has become visible.  Everything that a transaction will make
 * known is noted in coze_ending first; the callback publishes it, or drops it after an
 * abort, and must not fail: room is made sure of before.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "compat.h"
#include "debug.h"
#include "log/shared.h"
#include "log/state.h"

CozeEnding coze_ending;

static bool callback_registered = false;

/* --- what happens when a transaction ends ------------------------------------------- */

/* What the applier's transaction brought, or would have brought. */
static void
end_pending(bool committed)
{
	if (committed)
		COZE_DEBUG_POINT("apply-after-commit-before-publish");
	LWLockAcquire(&coze_mine->lock, LW_EXCLUSIVE);
	if (committed)
	{
		coze_mine->changes++;
		for (int i = 0; i < coze_mine->pending.n; i++)
			coze_shared_raise(&coze_mine->held, coze_mine->pending.e[i].origin,
							  coze_mine->pending.e[i].hlc);
		coze_atomic_raise(&coze_mine->commit_lsn, XactLastCommitEnd);
	}
	coze_mine->pending_xid = InvalidTransactionId;
	coze_mine->pending.n = 0;
	LWLockRelease(&coze_mine->lock);
}

/* The base first: who sees the new cut, or a log emptied up to it, sees the base. */
static void
publish_cut(void)
{
	LWLockAcquire(&coze_mine->lock, LW_EXCLUSIVE);
	coze_mine->changes++;
	for (int i = 0; i < coze_ending.new_base.n; i++)
		coze_shared_raise(&coze_mine->base, coze_ending.new_base.e[i].origin, coze_ending.new_base.e[i].hlc);
	coze_atomic_raise(&coze_mine->cut, coze_ending.new_cut);
	LWLockRelease(&coze_mine->lock);
}

/* The bound that was published is withdrawn. */
static void
end_bound(bool committed)
{
	if (committed && coze_ending.drawn.hlc != 0)
	{
		coze_atomic_raise(&coze_mine->commit_lsn, XactLastCommitEnd);
		coze_atomic_raise(&coze_mine->own_committed, coze_ending.drawn.hlc);
		if (coze_ending.captured > 0)
			pg_atomic_fetch_add_u64(&coze_mine->captured_transactions, 1);
		pg_atomic_fetch_add_u64(&coze_mine->captured_rows, coze_ending.captured);
	}
	pg_write_barrier();
	pg_atomic_write_u64(&coze_registry->slots[coze_my_proc_number()].bound, 0);
}

/* What local_node says has changed; gone: there is no node any more. */
static void
end_attachment(bool gone)
{
	LWLockAcquire(&coze_mine->lock, LW_EXCLUSIVE);
	coze_mine->changes++;
	coze_mine->attached = false;
	if (gone)
	{
		coze_mine->origin = 0;
		pg_atomic_write_u64(&coze_mine->own_committed, 0);
	}
	LWLockRelease(&coze_mine->lock);
}

/*
 * The transaction's effects in shared memory, once it is visible, or gone.
 * Nothing here may fail.
 */
static void
end_of_transaction(XactEvent event, void *arg)
{
	bool		committed = event == XACT_EVENT_COMMIT;
	uint32		heeded = (coze_ending.pending_set ? COZE_HEED_APPLIED : 0) |
		(coze_ending.drawn.hlc != 0 ? COZE_HEED_COMMITS : 0);
	bool		wakes;

	if (event == XACT_EVENT_PRE_PREPARE && (coze_ending.detach_at_end || coze_ending.group_changed))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot PREPARE a transaction that has changed what this node is or knows of its group")));
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT)
		return;
	if (coze_mine == NULL)
		return;

	wakes = committed && (heeded != 0 || coze_ending.group_changed);
	if (coze_ending.pending_set)
		end_pending(committed);
	if (coze_ending.new_cut != 0 && committed)
		publish_cut();
	if (coze_ending.bound_published)
		end_bound(committed);
	if (coze_ending.detach_at_end && committed)
		end_attachment(coze_ending.own_view_valid && coze_ending.own_view.state == COZE_NODE_NONE);
	if (coze_ending.group_changed && committed)
		pg_atomic_fetch_add_u64(&coze_mine->generation, 1);
	if (wakes)
	{
		/* what was published above must be out before it is asked who heeds it */
		pg_memory_barrier();
		if (coze_ending.group_changed ||
			(pg_atomic_read_u32(&coze_mine->linker_heeds) & heeded) != 0)
			coze_worker_wake(COZE_WORKER_LINKER);
		if (coze_ending.group_changed)
			coze_worker_wake(COZE_WORKER_APPLIER);
		coze_waiters_wake();
	}
	memset(&coze_ending, 0, sizeof(coze_ending));
}

/* What a subtransaction made of local_node is gone with it. */
static void
end_of_subtransaction(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		coze_ending.own_view_valid = false;
}

void
coze_at_end(void)
{
	Assert(coze_mine != NULL);
	if (!callback_registered)
	{
		RegisterXactCallback(end_of_transaction, NULL);
		RegisterSubXactCallback(end_of_subtransaction, NULL);
		callback_registered = true;
	}
}

void
coze_detach_at_end(void)
{
	coze_check_preloaded();
	coze_need_database();
	coze_at_end();
	CommandCounterIncrement();
	coze_ending.detach_at_end = true;
	coze_ending.own_view_valid = false;
}

/* --- cut, segment, generation ------------------------------------------------------------------ */

CozeHlc
coze_cut(void)
{
	return (CozeHlc) pg_atomic_read_u64(&coze_mine->cut);
}

void
coze_set_cut_at_commit(CozeHlc cut, const CozeVector *base)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);

	coze_at_end();
	coze_vector_init(&coze_ending.new_base);
	coze_vector_copy(&coze_ending.new_base, base);
	MemoryContextSwitchTo(old);
	/* room is made sure of here, since the callback must not fail */
	LWLockAcquire(&coze_mine->lock, LW_EXCLUSIVE);
	for (int i = 0; i < base->n; i++)
		coze_shared_raise(&coze_mine->base, base->e[i].origin, 0);
	LWLockRelease(&coze_mine->lock);
	coze_ending.new_cut = cut;
}

CozeHlc
coze_base_of(CozeOrigin origin)
{
	CozeVector	base;
	CozeHlc		hlc;

	LWLockAcquire(&coze_mine->lock, LW_SHARED);
	base = coze_shared_view(&coze_mine->base);
	hlc = coze_vector_get(&base, origin);
	LWLockRelease(&coze_mine->lock);
	return hlc;
}

int
coze_current_segment(void)
{
	return (int) pg_atomic_read_u32(&coze_mine->segment);
}

void
coze_set_current_segment(int segment)
{
	coze_shared_set_segment(coze_mine, segment);
}

void
coze_shared_set_segment(CozeDatabase *db, int segment)
{
	pg_atomic_fetch_add_u64(&db->rotations, 1);
	pg_atomic_write_u32(&db->segment, (uint32) segment);
}

uint64
coze_segment_rotations(void)
{
	return coze_mine != NULL && pg_atomic_read_u32(&coze_mine->segment) != 0 ?
		pg_atomic_read_u64(&coze_mine->rotations) : 0;
}

uint64
coze_group_generation(void)
{
	return pg_atomic_read_u64(&coze_mine->generation);
}

void
coze_group_changed_at_commit(void)
{
	(void) coze_attach();
	coze_need_database();
	coze_at_end();
	coze_ending.group_changed = true;
}
