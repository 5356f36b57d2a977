/*-------------------------------------------------------------------------
 *
 * compat.h
 *		Differences between server versions 15 to 19.
 *
 * The one place where PG_VERSION_NUM is looked at.  Wrappers have the newest
 * signature.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_COMPAT_H
#define COZE_COMPAT_H

#include "postgres.h"

#include "miscadmin.h"
#include "storage/proc.h"

#if PG_VERSION_NUM < 150000
#error "cozesync needs PostgreSQL 15 or later"
#endif

/* Index of a process in ProcGlobal->allProcs. */
static inline int
coze_my_proc_number(void)
{
#if PG_VERSION_NUM >= 170000
	return MyProcNumber;
#else
	return MyProc->pgprocno;
#endif
}

#ifndef GetPGProcByNumber
#define GetPGProcByNumber(n) (&ProcGlobal->allProcs[(n)])
#endif

#endif							/* COZE_COMPAT_H */
