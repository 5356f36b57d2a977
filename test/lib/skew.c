/*-------------------------------------------------------------------------
 *
 * skew.c
 *		A clock that a test can set: preloaded into a server, shifts the wall
 *		clock by the milliseconds that the file $SKEW_FILE holds, as a long.
 *
 * The file is mapped, so that the shift can change while the server runs.  Other
 * clocks, and what waits, are left alone.  Safe in signal handlers.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long none;
static const volatile long *shift = &none;

__attribute__((constructor)) static void
map_shift(void)
{
	const char *name = getenv("SKEW_FILE");
	int			file = name ? open(name, O_RDONLY) : -1;
	void	   *place;

	if (file < 0)
		return;
	place = mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
	if (place != MAP_FAILED)
		shift = place;
	close(file);
}

int
clock_gettime(clockid_t clock, struct timespec *t)
{
	int			result = (int) syscall(SYS_clock_gettime, clock, t);

	if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
	{
		long		ms = *shift;

		t->tv_sec += ms / 1000;
		t->tv_nsec += ms % 1000 * 1000000L;
		if (t->tv_nsec < 0)
		{
			t->tv_nsec += 1000000000L;
			t->tv_sec--;
		}
		else if (t->tv_nsec >= 1000000000L)
		{
			t->tv_nsec -= 1000000000L;
			t->tv_sec++;
		}
	}
	return result;
}

int
gettimeofday(struct timeval *restrict v, void *restrict zone)
{
	struct timespec t;

	(void) zone;
	if (clock_gettime(CLOCK_REALTIME, &t) != 0)
		return -1;
	v->tv_sec = t.tv_sec;
	v->tv_usec = t.tv_nsec / 1000;
	return 0;
}

time_t
time(time_t *place)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	if (place != NULL)
		*place = t.tv_sec;
	return t.tv_sec;
}
