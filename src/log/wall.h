/*-------------------------------------------------------------------------
 *
 * wall.h
 *		What time it is.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_WALL_H
#define COZE_WALL_H

#include "postgres.h"

#include "datatype/timestamp.h"

/* us of a clock that nobody can set; 0 is long ago */
typedef int64 CozeMoment;

extern Size coze_wall_shmem_size(void);
extern void coze_wall_shmem_init(void);

/* For deadlines and ages.  Goes on while the machine sleeps; the same in all processes. */
extern CozeMoment coze_monotonic(void);

/* The same moment on the wall clock. */
extern TimestampTz coze_wall_of(CozeMoment moment);

/* The wall clock; a leap that nobody has confirmed is left out. */
extern TimestampTz coze_wall(void);

/* The leap (us) that is left out now; 0: none. */
extern int64 coze_wall_leap(void);

/*
 * How far the clocks of peers are ahead of coze_wall() (us): if most of them are nearer
 * to the machine's own clock, its leap was right and is followed.  True if so.
 */
extern bool coze_wall_judge(const int64 *skews, int n);

#endif							/* COZE_WALL_H */
