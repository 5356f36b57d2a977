/*-------------------------------------------------------------------------
 *
 * linker.h
 *		The process that works all links of a database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_LINKER_H
#define COZE_LINKER_H

#include "postgres.h"

/* Background worker; main_arg is the database's oid. */
extern PGDLLEXPORT void coze_linker_main(Datum main_arg);

/* Called when a linker starts in a database that has not yet finished joining. */
typedef void (*CozeJoiningHook) (void);
extern CozeJoiningHook coze_joining_hook;

#endif							/* COZE_LINKER_H */
