/*-------------------------------------------------------------------------
 *
 * cut.h
 *		The cut: below which hlc everything may be forgotten.
 *
 * Pure arithmetic on what members' own entries say that they hold.  What an
 * acknowledgement says outside the stream must not come in here: with it two
 * nodes could forget a winner whose loser is still on its way.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_CUT_H
#define COZE_CUT_H

#include "base/vector.h"

/*
 * A member, as node and as origin.  A dropped one (or an incarnation that is no
 * more) stays in the list; it stops counting by itself once it is closed.
 */
typedef struct CozeCutMember
{
	CozeOrigin	origin;

	/* The last entry of its own stream that is applied here; 0 and NULL: none. */
	CozeHlc		last;
	const CozeVector *seen;		/* that entry's V */

	/* The entry that dropped it; hlc 0: it is not dropped. */
	CozeVersion drop;
} CozeCutMember;

extern CozeHlc coze_cut_known(const CozeCutMember *member, CozeOrigin origin);
extern bool coze_cut_closed(const CozeCutMember *members, int n, int which);
extern CozeHlc coze_cut_reach(const CozeCutMember *members, int n, CozeHlc cut,
							  int *held_back_by);
extern bool coze_cut_beat_due(const CozeCutMember *members, int n, CozeOrigin own,
							  CozeHlc highest, const CozeVector *held);
extern int	coze_cut_unaware(const CozeCutMember *members, int n, CozeVersion version,
							 CozeOrigin except);

#endif							/* COZE_CUT_H */
