/*-------------------------------------------------------------------------
 *
 * wall.c
 *		What time it is.
 *
 * The machine's wall clock can be set, by a person or by a service that is wrong.
 * Set forward by much, it would make this node draw hlcs that its peers do not take for
 * as long as they lie ahead; set back, it would make all peers look as if they were ahead.  So it is
 * watched against a clock that cannot be set: what is shared is the distance between
 * the two.  Small changes of it are followed (clocks are slewed, and measured at not quite the same
 * moment); a leap is left out until the clocks of most peers confirm it, or the wall
 * clock is back, or the server starts anew.
 *
 * One atomic for each number; two processes that follow at once do no harm, since
 * either wrote what it had just measured.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "port/atomics.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "debug.h"
#include "log/wall.h"

/* A difference (us) that is followed without a question, and one that is not worth a write. */
#define TOLERANCE INT64CONST(5000000)
#define NEGLIGIBLE INT64CONST(1000)

/* So that 0 is long ago, even just after the machine was started. */
#define MOMENT_BASE (INT64CONST(1) << 50)

#ifdef CLOCK_BOOTTIME
#define CLOCK_THAT_STAYS CLOCK_BOOTTIME
#else
#define CLOCK_THAT_STAYS CLOCK_MONOTONIC
#endif

typedef struct ClockShared
{
	pg_atomic_uint64 distance;	/* wall clock less monotonic clock, as it is believed */
	pg_atomic_uint64 leap;		/* what the wall clock says beyond that; int64 */
} ClockShared;

static ClockShared *shared;

static inline int64
magnitude(int64 us)
{
	return us < 0 ? -us : us;
}

Size
coze_wall_shmem_size(void)
{
	return MAXALIGN(sizeof(ClockShared));
}

void
coze_wall_shmem_init(void)
{
	bool		found;

	shared = ShmemInitStruct("cozesync wall clock", coze_wall_shmem_size(), &found);
	if (found)
		return;
	pg_atomic_init_u64(&shared->distance, (uint64) (GetCurrentTimestamp() - coze_monotonic()));
	pg_atomic_init_u64(&shared->leap, 0);
}

CozeMoment
coze_monotonic(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THAT_STAYS, &t);
	return MOMENT_BASE + (int64) t.tv_sec * INT64CONST(1000000) + t.tv_nsec / 1000;
}

TimestampTz
coze_wall_of(CozeMoment moment)
{
	return moment + (int64) pg_atomic_read_u64(&shared->distance);
}

TimestampTz
coze_wall(void)
{
	TimestampTz wall = GetCurrentTimestamp();
	CozeMoment	now = coze_monotonic();
	int64		distance = (int64) pg_atomic_read_u64(&shared->distance);
	int64		change = wall - now - distance;

	if (magnitude(change) > TOLERANCE && COZE_RULE("clock-leap"))
	{
		pg_atomic_write_u64(&shared->leap, (uint64) change);
		return now + distance;
	}
	if (magnitude(change) > NEGLIGIBLE)
		pg_atomic_write_u64(&shared->distance, (uint64) (distance + change));
	if (pg_atomic_read_u64(&shared->leap) != 0)
		pg_atomic_write_u64(&shared->leap, 0);
	return wall;
}

int64
coze_wall_leap(void)
{
	return (int64) pg_atomic_read_u64(&shared->leap);
}

bool
coze_wall_judge(const int64 *skews, int n)
{
	uint64		stored = pg_atomic_read_u64(&shared->leap);
	int64		leap = (int64) stored;
	int			agree = 0;

	for (int i = 0; i < n; i++)
		agree += magnitude(skews[i] - leap) < magnitude(skews[i]);
	if (leap == 0 || 2 * agree <= n)
		return false;

	/* each database has somebody who judges; one of them adds it */
	if (!pg_atomic_compare_exchange_u64(&shared->leap, &stored, 0))
		return false;
	pg_atomic_fetch_add_u64(&shared->distance, leap);
	return true;
}
