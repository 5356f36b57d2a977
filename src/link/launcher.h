/*-------------------------------------------------------------------------
 *
 * launcher.h
 *		Which databases have workers: starting, keeping, sending them away.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_LAUNCHER_H
#define COZE_LAUNCHER_H

#include "postgres.h"

extern Size coze_launcher_shmem_size(void);
extern void coze_launcher_shmem_init(void);

/* From _PG_init: the static background worker. */
extern void coze_launcher_register(void);
extern PGDLLEXPORT void coze_launcher_main(Datum main_arg);

/*
 * If this transaction commits: look whether the database is a member now, or not
 * any more, and start its workers.  InvalidOid: look which databases there are.
 */
extern void coze_launcher_wake(Oid database);

/* --- for workers ------------------------------------------------------------- */

/* This process works for this database, until it exits. */
extern void coze_launcher_enter(void);

/* This session is one of a peer, until it ends; calling it again is no error. */
extern void coze_launcher_enter_session(void);

/* This database is a member: its workers are to be kept alive. */
extern void coze_launcher_is_member(void);

/* It is not: do not come back until woken again. */
extern void coze_launcher_is_no_member(void);

/* --- for whoever needs a database without sessions ----------------------------- */

/*
 * Keep workers and links out of a database, and send those that are there away;
 * waits for them, but not for long.  Must be released, whatever happens.
 */
extern void coze_launcher_hold(Oid database);
extern void coze_launcher_release(Oid database);
extern bool coze_launcher_is_held(Oid database);

#endif							/* COZE_LAUNCHER_H */
