/*-------------------------------------------------------------------------
 *
 * precommit.h
 *		From captured changes to an entry of the log, at commit.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_PRECOMMIT_H
#define COZE_PRECOMMIT_H

#include "postgres.h"

#include "base/version.h"

/* Transaction and subtransaction callbacks; once, from _PG_init. */
extern void coze_capture_init(void);

/*
 * This transaction shall leave an entry even if it captures nothing: a beat.
 * Assigns an xid.
 */
extern void coze_capture_beat(void);

/*
 * Called before the commit of this transaction, when its entry has been drawn and written; not
 * if it leaves none.  For what must be noted beside the entry, in tables that are not captured.
 */
typedef void (*CozeDrawnCallback) (CozeVersion version);
extern void coze_capture_when_drawn(CozeDrawnCallback callback);

/* The version of the entry that this backend's last committed transaction left; hlc 0: none yet. */
extern CozeVersion coze_capture_last_version(void);

#ifdef COZE_TESTING
/* Before the above, so that its writing comes after (debug_capture.c). */
extern void coze_debug_capture_init(void);
#endif

#endif							/* COZE_PRECOMMIT_H */
