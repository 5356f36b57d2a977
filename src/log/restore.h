/*-------------------------------------------------------------------------
 *
 * restore.h
 *		State as the tables have it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_RESTORE_H
#define COZE_RESTORE_H

#include "postgres.h"

#include "base/vector.h"
#include "log/state.h"

typedef struct CozeRestored
{
	CozeNodeState state;
	CozeOrigin	origin;
	uint8		group_id[16];
	CozeHlc		cut;
	CozeHlc		own_last;		/* own last entry */
	CozeHlc		clock;			/* highest hlc of any entry */
	CozeVector	held;			/* last entry of each origin but the own */
	CozeVector	base;			/* last pruned entry of each origin */
	int			segment;		/* that writing goes on in, from 1 */
} CozeRestored;

/* Reads cozesync.local_node, cozesync.base and the log, as of now. */
extern void coze_restore(CozeRestored *restored);

#endif							/* COZE_RESTORE_H */
