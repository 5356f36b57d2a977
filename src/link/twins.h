/*-------------------------------------------------------------------------
 *
 * twins.h
 *		Two databases that are one node: a copy that was started beside the original.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_TWINS_H
#define COZE_TWINS_H

#include "postgres.h"

#include "log/wall.h"

/* The starts of a server in which a peer has greeted; zeroed: none yet. */
typedef struct CozeTwins
{
	uint64		current;		/* greeted last */
	uint64		other;			/* the one before it, 0: none */
	uint64		first;			/* of the two, who was here first */
	int			returns;		/* how often either has come back after the other */
	CozeMoment	since;			/* counted from */
	uint64		refused;		/* known to be a twin of one that is here, 0: none */
} CozeTwins;

/*
 * A start of the peer's server greets; 0 does not say which.  is_here: has the current
 * one been heard of lately?  False: it is a twin, and must not be let in.
 */
extern bool coze_twins_greeted(CozeTwins *twins, uint64 instance, CozeMoment now, bool is_here);

#endif							/* COZE_TWINS_H */
