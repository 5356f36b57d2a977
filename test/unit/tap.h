/*-------------------------------------------------------------------------
 *
 * tap.h
 *		Test results as the Test Anything Protocol; memory freed at one stroke.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TAP_H
#define TAP_H

#include "base/alloc.h"

/* One line of result; the format names what must hold.  Returns ok. */
extern bool tap_ok(bool ok, const char *format,...) __attribute__((format(printf, 2, 3)));
extern void tap_note(const char *format,...) __attribute__((format(printf, 1, 2)));

/* The plan and the exit status. */
extern int	tap_done(void);

/* Random numbers that are the same everywhere for a seed. */
extern void tap_seed(uint64 seed);
extern uint32 tap_random(uint32 below);

/* Free all that was allocated since the last call. */
extern void tap_free_all(void);

#endif							/* TAP_H */
