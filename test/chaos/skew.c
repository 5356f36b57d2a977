/*-------------------------------------------------------------------------
 *
 * skew.c
 *		Preloaded into a server: moves its wall clock, fills its disk.
 *
 * SKEW_FILE names a file of two longs that a test changes while the server runs:
 * milliseconds added to the wall clock, and whether the disk is full: if so, no
 * file grows and none is made.  Waits and monotonic clocks are left alone.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static long nothing[2];
static volatile long *words = nothing;

__attribute__((constructor)) static void
init(void)
{
	const char *path = getenv("SKEW_FILE");
	int			fd = path ? open(path, O_RDONLY) : -1;
	void	   *p;

	if (fd < 0)
		return;
	p = mmap(NULL, sizeof(nothing), PROT_READ, MAP_SHARED, fd, 0);
	if (p != MAP_FAILED)
		words = p;
	close(fd);
}

/* --- the clock ----------------------------------------------------------------- */

int
clock_gettime(clockid_t id, struct timespec *t)
{
	int			result = syscall(SYS_clock_gettime, id, t);
	long		ms = words[0];

	if (result != 0 || ms == 0 || (id != CLOCK_REALTIME && id != CLOCK_REALTIME_COARSE))
		return result;
	t->tv_sec += ms / 1000;
	t->tv_nsec += (ms % 1000) * 1000000L;
	if (t->tv_nsec < 0)
	{
		t->tv_nsec += 1000000000L;
		t->tv_sec--;
	}
	if (t->tv_nsec >= 1000000000L)
	{
		t->tv_nsec -= 1000000000L;
		t->tv_sec++;
	}
	return result;
}

int
gettimeofday(struct timeval *restrict tv, void *restrict tz)
{
	struct timespec t;

	if (clock_gettime(CLOCK_REALTIME, &t) != 0)
		return -1;
	tv->tv_sec = t.tv_sec;
	tv->tv_usec = t.tv_nsec / 1000;
	return 0;
}

time_t
time(time_t *p)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	if (p)
		*p = t.tv_sec;
	return t.tv_sec;
}

/* --- the disk -------------------------------------------------------------------- */

/* Would writing up to here make a regular file grow while the disk is full? */
static int
is_full(int fd, off_t end)
{
	struct stat s;

	if (words[1] == 0 || syscall(SYS_fstat, fd, &s) != 0 || !S_ISREG(s.st_mode) ||
		end <= s.st_size)
		return 0;
	errno = ENOSPC;
	return 1;
}

static off_t
size_of(const struct iovec *iov, int n)
{
	off_t		size = 0;

	for (int i = 0; i < n; i++)
		size += iov[i].iov_len;
	return size;
}

ssize_t
pwrite64(int fd, const void *data, size_t n, off64_t at)
{
	return is_full(fd, at + n) ? -1 : syscall(SYS_pwrite64, fd, data, n, at);
}

ssize_t
pwrite(int fd, const void *data, size_t n, off_t at)
{
	return pwrite64(fd, data, n, at);
}

ssize_t
pwritev64(int fd, const struct iovec *iov, int n, off64_t at)
{
	return is_full(fd, at + size_of(iov, n)) ? -1 :
		syscall(SYS_pwritev, fd, iov, n, (unsigned long) at, (unsigned long) ((unsigned long long) at >> 32));
}

ssize_t
pwritev(int fd, const struct iovec *iov, int n, off_t at)
{
	return pwritev64(fd, iov, n, at);
}
