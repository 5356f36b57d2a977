/*-------------------------------------------------------------------------
 *
 * version.h
 *		Versions: the names of entries, and of the operations in them.
 *
 * An entry is named by the hlc that it drew and by its origin.  Versions are
 * totally ordered, and this order extends that of causes: an entry's hlc is
 * above every hlc that its author had seen.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_VERSION_H
#define COZE_VERSION_H

#include "base/alloc.h"

/* Microseconds since the PostgreSQL epoch, as TimestampTz; 0: never, none. */
typedef int64 CozeHlc;

/* The incarnation id of a node, random, 63 bits; 0: none. */
typedef uint64 CozeOrigin;

typedef struct CozeVersion
{
	CozeHlc		hlc;
	CozeOrigin	origin;
} CozeVersion;

static inline int
coze_version_cmp(CozeVersion a, CozeVersion b)
{
	if (a.hlc != b.hlc)
		return a.hlc < b.hlc ? -1 : 1;
	if (a.origin != b.origin)
		return a.origin < b.origin ? -1 : 1;
	return 0;
}

static inline bool
coze_version_equal(CozeVersion a, CozeVersion b)
{
	return a.hlc == b.hlc && a.origin == b.origin;
}

/*
 * The hlc that a clock draws at wall time now, having drawn or received last:
 * never back, and always above what was received.
 */
static inline CozeHlc
coze_hlc_next(CozeHlc last, CozeHlc now)
{
	return now > last ? now : last + 1;
}

/* Does a received hlc lie further ahead of our wall clock than allowed? */
static inline bool
coze_hlc_too_far(CozeHlc received, CozeHlc now, int64 max_drift)
{
	return received > now && received - now > max_drift;
}

#endif							/* COZE_VERSION_H */
