/*-------------------------------------------------------------------------
 *
 * vector.h
 *		Vectors: for each origin the hlc of the last entry held or seen.
 *
 * Sorted by origin, no origin twice.  An absent origin counts as 0; a stored 0
 * is allowed and means the same.  A vector of zeroes (memset) is empty and
 * owns nothing.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_VECTOR_H
#define COZE_VECTOR_H

#include "base/version.h"

typedef struct CozeVectorEntry
{
	CozeOrigin	origin;
	CozeHlc		hlc;
} CozeVectorEntry;

typedef struct CozeVector
{
	int			n;				/* entries in use */
	int			cap;			/* entries allocated; 0: e is borrowed or NULL */
	CozeVectorEntry *e;			/* sorted by origin */
} CozeVector;

extern void coze_vector_init(CozeVector *v);
extern void coze_vector_free(CozeVector *v);
extern void coze_vector_reserve(CozeVector *v, int cap);
extern void coze_vector_copy(CozeVector *to, const CozeVector *from);
extern CozeHlc coze_vector_get(const CozeVector *v, CozeOrigin origin);
extern void coze_vector_set(CozeVector *v, CozeOrigin origin, CozeHlc hlc);
extern bool coze_vector_raise(CozeVector *v, CozeOrigin origin, CozeHlc hlc);
extern void coze_vector_remove(CozeVector *v, CozeOrigin origin);
extern void coze_vector_merge(CozeVector *to, const CozeVector *from);
extern bool coze_vector_covers(const CozeVector *a, const CozeVector *b);
extern bool coze_vector_equal(const CozeVector *a, const CozeVector *b);
extern bool coze_vector_is_valid(const CozeVector *v);
extern CozeHlc coze_vector_max(const CozeVector *v);
extern bool coze_vector_has_seen(const CozeVector *seen, CozeVersion own, CozeVersion other);
extern CozeOrigin coze_vector_missing(const CozeVector *held, const CozeVector *seen);
extern void coze_vector_least(CozeVector *to, const CozeVector *const *vectors, int n);

#endif							/* COZE_VECTOR_H */
