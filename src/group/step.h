/*-------------------------------------------------------------------------
 *
 * step.h
 *		Transactions of a command that runs several of them, and SQL in them.
 *
 * For procedures and background workers in a non-atomic SPI connection.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_STEP_H
#define COZE_STEP_H

#include "postgres.h"

#include "group/peer.h"

/*
 * A step is a transaction whose settings do not depend on the user, in which nothing
 * is captured and no trigger of users fires.
 */
extern void coze_step_begin(void);
extern void coze_step_end(void);
extern void coze_step_abandon(void);
/* The next step is not to go on like that: what it writes is captured. */
extern void coze_step_begin_captured(void);

/* Execute a statement with at most 8 text parameters, NULL pointers being NULLs. */
extern void coze_step_run(const char *sql, int nparams, const char *const *params);

/* The rows of a query, as text. */
extern CozePeerRows *coze_step_fetch(const char *sql, int nparams, const char *const *params);

#endif							/* COZE_STEP_H */
