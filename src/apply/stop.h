/*-------------------------------------------------------------------------
 *
 * stop.h
 *		What is being applied now, and which origins' streams are stopped.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_STOP_H
#define COZE_STOP_H

#include "postgres.h"

#include "apply/apply.h"
#include "base/wire.h"

/* For errcontext and for the views, should an error come. */
typedef struct CozeApplying
{
	CozeVersion version;		/* hlc 0: nothing */
	const CozeDescriptor *relation; /* NULL: no change yet */
	const CozeImage *key;		/* NULL: none */
	Oid			relid;
	bool		group;			/* one of the extension's own tables */
	const char *column;
	int			held_back_by;	/* pid, if a user's lock is waited for */
} CozeApplying;

#define COZE_KEY_TEXT_SIZE 128

extern CozeApplying coze_applying;

extern void coze_applying_context(void *arg);	/* an ErrorContextCallback */
extern void coze_applying_clear(void);
extern void coze_applying_key(char *text);	/* COZE_KEY_TEXT_SIZE */

/* Under which error, or wait, an origin's stream stands still.  error NULL: none. */
extern void coze_stop_set(CozeOrigin origin, CozeHlc hlc, Oid relid, int held_back_by,
						  const char *key, const char *error);
extern void coze_stop_waiting(void);
extern void coze_stop_waited(void);
extern void coze_stop_clear(CozeOrigin origin);
extern void coze_stop_clear_all(void);
extern void coze_stop_count(uint64 transactions, uint64 rows, uint64 conflicts);
extern uint64 coze_stop_retries(void);

#endif							/* COZE_STOP_H */
