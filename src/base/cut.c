/*-------------------------------------------------------------------------
 *
 * cut.c
 *		The cut: below which hlc everything may be forgotten.
 *
 * No entry still to arrive may lie at or below the cut, or have failed to see one
 * that does.  A member's further entries have seen at least what its last one
 * here had seen, so the least of that over all members and origins is safe; it is
 * never more than what is held here, since entries arrive after their causes.
 *
 *-------------------------------------------------------------------------
 */
#include "base/cut.h"

/* K_m[o]: up to where a member is known, by its own stream, to hold an origin. */
CozeHlc
coze_cut_known(const CozeCutMember *member, CozeOrigin origin)
{
	if (origin == member->origin)
		return member->last;
	return member->seen != NULL ? coze_vector_get(member->seen, origin) : 0;
}

static bool
is_dropped(const CozeCutMember *member)
{
	return member->drop.hlc != 0;
}

/* Has a member seen of all that were dropped that they were? */
static bool
knows_drops(const CozeCutMember *members, int n, const CozeCutMember *member)
{
	for (int i = 0; i < n; i++)
	{
		if (is_dropped(&members[i]) &&
			coze_cut_known(member, members[i].drop.origin) < members[i].drop.hlc)
			return false;
	}
	return true;
}

/*
 * Has a dropped member left the cut?  Once every survivor has seen the drop and
 * all name the same last entry of it: then its tail is even, and nothing more of
 * it will come from anybody.  (Of every drop: from another dropped member who was
 * not known as such, a survivor could still have got more of it.)
 */
bool
coze_cut_closed(const CozeCutMember *members, int n, int which)
{
	const CozeCutMember *gone = &members[which];
	CozeHlc		last = -1;

	if (!is_dropped(gone))
		return false;
	for (int i = 0; i < n; i++)
	{
		CozeHlc		known;

		if (is_dropped(&members[i]))
			continue;
		if (!knows_drops(members, n, &members[i]))
			return false;
		known = coze_cut_known(&members[i], gone->origin);
		if (last >= 0 && known != last)
			return false;
		last = known;
	}
	return last >= 0;
}

/*
 * How far the cut may go, never back from where it is.  held_back_by, if not
 * NULL: the number of a member whose next entry could let it go further, or -1.
 */
CozeHlc
coze_cut_reach(const CozeCutMember *members, int n, CozeHlc cut, int *held_back_by)
{
	bool	   *closed = coze_alloc(n * sizeof(bool));
	CozeHlc		least = 0;
	int			by = -1;

	for (int i = 0; i < n; i++)
		closed[i] = coze_cut_closed(members, n, i);
	for (int m = 0; m < n; m++)
	{
		for (int o = 0; !closed[m] && o < n; o++)
		{
			CozeHlc		known;

			if (closed[o])
				continue;
			known = coze_cut_known(&members[m], members[o].origin);
			if (by < 0 || known < least)
			{
				least = known;
				by = m;
			}
		}
	}
	coze_free(closed);
	if (held_back_by != NULL)
		*held_back_by = by;
	return Max(cut, least);
}

/*
 * Does the node named own owe the group an empty entry?
 *
 * highest: the highest hlc of an entry in the log that is not empty, or 0; held:
 * what this node holds.  Beats end: when all that is not empty is known by all to
 * be known by all, and also while a member is away.
 */
bool
coze_cut_beat_due(const CozeCutMember *members, int n, CozeOrigin own,
				  CozeHlc highest, const CozeVector *held)
{
	int			self = 0;

	if (highest == 0)
		return false;
	while (self < n && members[self].origin != own)
		self++;
	if (self == n || members[self].last < highest)
		return true;
	for (int i = 0; i < held->n; i++)
	{
		CozeOrigin	origin = held->e[i].origin;
		CozeHlc		seen = coze_cut_known(&members[self], origin);

		if (origin == own || held->e[i].hlc <= seen)
			continue;
		if (seen < highest)
			return true;
		for (int m = 0; m < n; m++)
		{
			if (members[m].origin == origin && is_dropped(&members[m]) &&
				!coze_cut_closed(members, n, m))
				return true;
		}
	}
	return false;
}

/*
 * The number of a member, neither dropped nor the excepted one, whose own stream
 * does not show yet that it holds an entry; -1: all do.  A joiner writes only when
 * every old member holds the entry that added it, and so counts it in its cut.
 */
int
coze_cut_unaware(const CozeCutMember *members, int n, CozeVersion version, CozeOrigin except)
{
	for (int m = 0; m < n; m++)
	{
		if (members[m].origin != except && !is_dropped(&members[m]) &&
			coze_cut_known(&members[m], version.origin) < version.hlc)
			return m;
	}
	return -1;
}
