/*-------------------------------------------------------------------------
 *
 * precommit.c
 *		From captured changes to an entry of the log, at commit.
 *
 * Order: write what may take long, publish a lower bound of the hlc to come, draw
 * it, write the head.  ending.c withdraws the bound when the transaction has become
 * visible, or has failed.  Nothing may be captured afterwards.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"

#include "capture/buffer.h"
#include "capture/capture.h"
#include "capture/precommit.h"
#include "debug.h"
#include "log/log.h"
#include "log/state.h"

static bool beat = false;		/* leave an entry though nothing was captured */
static CozeDrawnCallback when_drawn = NULL;	/* of this transaction */
static CozeVersion drawn_version;	/* of this transaction's entry */
static CozeVersion last_version;	/* of the last transaction that committed with one */

void
coze_capture_beat(void)
{
	(void) GetTopTransactionId();
	beat = true;
}

CozeVersion
coze_capture_last_version(void)
{
	return last_version;
}

void
coze_capture_when_drawn(CozeDrawnCallback callback)
{
	when_drawn = callback;
}

/* --- the entry ---------------------------------------------------------------------- */

/* Most that a head takes beside its vector and body. */
#define HEAD_FIXED_MAX 80

static bool
fits_beside_head(uint64 body_size, const CozeVector *seen)
{
	Size		vector = (Size) seen->n * (sizeof(CozeOrigin) + COZE_VARINT_MAX);

	return HEAD_FIXED_MAX + vector + body_size <= COZE_WIRE_PIECE_MAX;
}

/*
 * What is not beside the head must be in chunks.  Those are written before hlc and
 * vector are drawn, so that others do not wait for them; should the vector have grown
 * too large meanwhile, afterwards.
 */
static void
write_body(CozeBufferTotals *totals, const CozeVector *seen)
{
	if (totals->nchanges > 0 &&
		(totals->nchunks > 0 || !fits_beside_head(totals->body_size, seen)))
	{
		coze_buffer_write();
		coze_buffer_totals(totals);
	}
}

static void
write_entry(CozeBufferTotals *totals)
{
	CozeEntryHead head = {COZE_ENTRY_DATA};
	CozeBuf		buf;

	coze_held(&head.seen);
	write_body(totals, &head.seen);
	coze_clock_publish();
	COZE_DEBUG_POINT("precommit-before-draw");
	head.version = coze_clock_draw(&head.seen);
	COZE_DEBUG_POINT("precommit-after-draw");
	if (totals->nchunks == 0)
		write_body(totals, &head.seen);

	if (totals->nchanges == 0)
		head.kind = COZE_ENTRY_BEAT;
	head.xid = (uint64) coze_log_chunks_id();
	head.nchanges = totals->nchanges;
	head.nchunks = totals->nchunks;
	head.body_size = totals->body_size;
	if (totals->nchunks == 0)
	{
		head.inline_body = totals->body;
		head.inline_size = totals->body_size;
	}
	coze_buf_init(&buf);
	coze_wire_put_head(&buf, &head);
	COZE_DEBUG_POINT("precommit-before-insert");
	coze_log_append_own_head(head.version, head.nchunks > 0 ? (int64) head.xid : 0,
							 buf.data, buf.size);
	coze_count_captured(totals->nchanges);
	coze_buf_free(&buf);
	coze_vector_free(&head.seen);
	drawn_version = head.version;
}

static void
before_commit(void)
{
	CozeBufferTotals totals;

	if (coze_buffer_totals(&totals) || beat)
		write_entry(&totals);
	coze_capture_closed = true;
	if (when_drawn != NULL && drawn_version.hlc != 0)
		when_drawn(drawn_version);
}

/* --- callbacks ------------------------------------------------------------------------ */

static void
before_prepare(void)
{
	CozeBufferTotals totals;

	if (coze_buffer_totals(&totals) && COZE_RULE("prepare"))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot PREPARE a transaction that has changed synced tables"),
				 errhint("Commit it with COMMIT, or keep two-phase transactions to tables that are not under sync.")));
	coze_capture_closed = true;
}

static void
after_end(bool committed)
{
	coze_log_append_ended(committed);
	if (committed)
	{
		coze_plan_descriptors_committed();
		if (drawn_version.hlc != 0)
			last_version = drawn_version;
	}
	drawn_version.hlc = 0;
	when_drawn = NULL;
	beat = false;
	coze_capture_closed = false;
	coze_buffer_forget();
}

static void
at_transaction(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			before_commit();
			break;
		case XACT_EVENT_PRE_PREPARE:
			before_prepare();
			break;
		case XACT_EVENT_COMMIT:
			after_end(true);
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			after_end(false);
			break;
		case XACT_EVENT_PARALLEL_PRE_COMMIT:
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_PARALLEL_ABORT:
			break;				/* parallel workers write nothing */
	}
}

static void
at_subtransaction(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *arg)
{
	switch (event)
	{
		case SUBXACT_EVENT_START_SUB:
			break;
		case SUBXACT_EVENT_PRE_COMMIT_SUB:
			coze_buffer_before_release();
			break;
		case SUBXACT_EVENT_COMMIT_SUB:
			coze_buffer_release();
			break;
		case SUBXACT_EVENT_ABORT_SUB:
			coze_buffer_roll_back();
			break;
	}
}

void
coze_capture_init(void)
{
#ifdef COZE_TESTING
	coze_debug_capture_init();
#endif
	RegisterXactCallback(at_transaction, NULL);
	RegisterSubXactCallback(at_subtransaction, NULL);
}
