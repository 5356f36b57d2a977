/*-------------------------------------------------------------------------
 *
 * vector.c
 *		Vectors: for each origin the hlc of the last entry held or seen.
 *
 * Pure.  Groups have some hundred origins at most, so a sorted array does.
 * A vector whose cap is 0 may borrow its entries from a message or from shared
 * memory: it can be read by all functions here, and the first change copies it.
 *
 *-------------------------------------------------------------------------
 */
#include "base/vector.h"

/* The place of an origin, or where it would have to be inserted. */
static int
place(const CozeVector *v, CozeOrigin origin, bool *found)
{
	int			low = 0,
				high = v->n;

	while (low < high)
	{
		int			mid = (low + high) / 2;

		if (v->e[mid].origin < origin)
			low = mid + 1;
		else
			high = mid;
	}
	*found = low < v->n && v->e[low].origin == origin;
	return low;
}

void
coze_vector_init(CozeVector *v)
{
	v->n = v->cap = 0;
	v->e = NULL;
}

/* Leaves an empty vector. */
void
coze_vector_free(CozeVector *v)
{
	if (v->cap > 0)
		coze_free(v->e);
	coze_vector_init(v);
}

/*
 * Make room for cap entries, of our own: afterwards up to that many origins can
 * be set without allocation.
 */
void
coze_vector_reserve(CozeVector *v, int cap)
{
	if (cap <= v->cap)
		return;
	cap = Max(cap, v->n);
	if (v->cap > 0)
		v->e = coze_realloc(v->e, cap * sizeof(CozeVectorEntry));
	else
	{
		CozeVectorEntry *e = coze_alloc(cap * sizeof(CozeVectorEntry));

		if (v->n > 0)
			memcpy(e, v->e, v->n * sizeof(CozeVectorEntry));
		v->e = e;
	}
	v->cap = cap;
}

/* Replaces what is in to, which must be initialized; to == from is allowed. */
void
coze_vector_copy(CozeVector *to, const CozeVector *from)
{
	if (to == from)
		return;
	if (to->cap < from->n)
	{
		coze_vector_free(to);
		coze_vector_reserve(to, from->n);
	}
	else if (to->cap == 0)
		coze_vector_init(to);
	if (from->n > 0)
		memcpy(to->e, from->e, from->n * sizeof(CozeVectorEntry));
	to->n = from->n;
}

CozeHlc
coze_vector_get(const CozeVector *v, CozeOrigin origin)
{
	bool		found;
	int			i = place(v, origin, &found);

	return found ? v->e[i].hlc : 0;
}

/* The entry of an origin, inserted with 0 if need be, in memory of our own. */
static CozeVectorEntry *
make_entry(CozeVector *v, CozeOrigin origin)
{
	bool		found;
	int			i = place(v, origin, &found);

	if (v->cap == 0 || (!found && v->n == v->cap))
		coze_vector_reserve(v, Max(8, found ? v->n : v->n + v->n / 2 + 1));
	if (!found)
	{
		memmove(&v->e[i + 1], &v->e[i], (v->n - i) * sizeof(CozeVectorEntry));
		v->e[i].origin = origin;
		v->e[i].hlc = 0;
		v->n++;
	}
	return &v->e[i];
}

void
coze_vector_set(CozeVector *v, CozeOrigin origin, CozeHlc hlc)
{
	make_entry(v, origin)->hlc = hlc;
}

/* Set to the higher of both; did it rise? */
bool
coze_vector_raise(CozeVector *v, CozeOrigin origin, CozeHlc hlc)
{
	if (hlc <= coze_vector_get(v, origin))
		return false;
	coze_vector_set(v, origin, hlc);
	return true;
}

void
coze_vector_remove(CozeVector *v, CozeOrigin origin)
{
	bool		found;
	int			i = place(v, origin, &found);

	if (!found)
		return;
	coze_vector_reserve(v, v->n);
	memmove(&v->e[i], &v->e[i + 1], (v->n - i - 1) * sizeof(CozeVectorEntry));
	v->n--;
}

/* Raise each origin of to that is higher in from. */
void
coze_vector_merge(CozeVector *to, const CozeVector *from)
{
	for (int i = 0; i < from->n; i++)
		coze_vector_raise(to, from->e[i].origin, from->e[i].hlc);
}

/*
 * The first origin by which seen is above held, or 0: of which origin an entry
 * with this V still lacks a cause (or its own prefix) where held is what is
 * there.
 */
CozeOrigin
coze_vector_missing(const CozeVector *held, const CozeVector *seen)
{
	int			i = 0;

	for (int j = 0; j < seen->n; j++)
	{
		while (i < held->n && held->e[i].origin < seen->e[j].origin)
			i++;
		if (seen->e[j].hlc <= 0)
			continue;
		if (i == held->n || held->e[i].origin != seen->e[j].origin ||
			held->e[i].hlc < seen->e[j].hlc)
			return seen->e[j].origin;
	}
	return 0;
}

/* a >= b everywhere */
bool
coze_vector_covers(const CozeVector *a, const CozeVector *b)
{
	return coze_vector_missing(a, b) == 0;
}

bool
coze_vector_equal(const CozeVector *a, const CozeVector *b)
{
	return coze_vector_covers(a, b) && coze_vector_covers(b, a);
}

/* What every vector must be; for those that come from elsewhere. */
bool
coze_vector_is_valid(const CozeVector *v)
{
	for (int i = 0; i < v->n; i++)
	{
		if (v->e[i].origin == 0 || v->e[i].hlc < 0)
			return false;
		if (i > 0 && v->e[i - 1].origin >= v->e[i].origin)
			return false;
	}
	return true;
}

/* The highest hlc, or 0. */
CozeHlc
coze_vector_max(const CozeVector *v)
{
	CozeHlc		max = 0;

	for (int i = 0; i < v->n; i++)
		max = Max(max, v->e[i].hlc);
	return max;
}

/*
 * Had the entry named own, with this V, seen the entry named other?
 *
 * V leaves out the entry's own origin, all of whose earlier entries it has
 * seen; an entry counts as having seen itself.
 */
bool
coze_vector_has_seen(const CozeVector *seen, CozeVersion own, CozeVersion other)
{
	if (other.origin == own.origin)
		return other.hlc <= own.hlc;
	return other.hlc <= coze_vector_get(seen, other.origin);
}

/*
 * The least over n vectors, origin by origin; origins that one of them lacks
 * are left out.  to must be initialized and none of the vectors.
 */
void
coze_vector_least(CozeVector *to, const CozeVector *const *vectors, int n)
{
	to->n = 0;
	if (n == 0)
		return;
	coze_vector_reserve(to, vectors[0]->n);
	for (int i = 0; i < vectors[0]->n; i++)
	{
		CozeVectorEntry e = vectors[0]->e[i];

		for (int j = 1; j < n; j++)
			e.hlc = Min(e.hlc, coze_vector_get(vectors[j], e.origin));
		if (e.hlc > 0)
			to->e[to->n++] = e;
	}
}
