/*-------------------------------------------------------------------------
 *
 * twins.c
 *		Two databases that are one node: a copy that was started beside the original.
 *
 * Nothing in a copy of a node's files tells it from the original; but each start of a
 * server draws a number, and one that has ended never comes back.  So who greets with a
 * number that was followed by another one shows that both are running.  Each greeting
 * with another number ends the sessions of the one before, and if that lives it greets
 * again at once.
 *
 * A greeting may be late, and come to us after that of the next start: so it takes
 * several returns in a short time.  Then who came second is refused for as long as
 * the first is heard of.
 *
 * Pure.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "debug.h"
#include "link/twins.h"

#define RETURNS_MAX 5
#define RETURNS_WITHIN INT64CONST(20000000) /* us */

static void
begin_with(CozeTwins *twins, uint64 instance)
{
	memset(twins, 0, sizeof(*twins));
	twins->current = twins->first = instance;
}

/* The one before the current one is back. */
static bool
came_back(CozeTwins *twins, uint64 instance, CozeMoment now)
{
	uint64		second = twins->first == instance ? twins->current : instance;

	if (now - twins->since > RETURNS_WITHIN)
	{
		twins->returns = 0;
		twins->since = now;
	}
	twins->other = twins->current;
	twins->current = instance;
	if (++twins->returns < RETURNS_MAX || !COZE_RULE("twins"))
		return true;
	begin_with(twins, twins->first);
	twins->refused = second;
	return instance != second;
}

bool
coze_twins_greeted(CozeTwins *twins, uint64 instance, CozeMoment now, bool is_here)
{
	if (instance == 0 || instance == twins->current)
		return true;
	if (instance == twins->refused && is_here)
		return false;
	if (instance == twins->other)
		return came_back(twins, instance, now);
	if (twins->current == 0 || instance == twins->refused)
	{
		begin_with(twins, instance);
		return true;
	}
	twins->first = twins->other = twins->current;
	twins->current = instance;
	twins->returns = 0;
	twins->since = now;
	return true;
}
