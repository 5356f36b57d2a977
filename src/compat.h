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

#include "access/genam.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/rel.h"

#if PG_VERSION_NUM < 150000
#error "cozesync needs PostgreSQL 15 or later"
#endif

#if PG_VERSION_NUM >= 160000
#include "varatt.h"
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

/*
 * An index scan that nobody instruments, on a table that is not parallel.  (The
 * flags of 19 are hints for the table's access method.)
 */
static inline IndexScanDesc
coze_index_beginscan(Relation rel, Relation index, Snapshot snapshot, int nkeys)
{
#if PG_VERSION_NUM >= 190000
	return index_beginscan(rel, index, snapshot, NULL, nkeys, 0, 0);
#elif PG_VERSION_NUM >= 180000
	return index_beginscan(rel, index, snapshot, NULL, nkeys, 0);
#else
	return index_beginscan(rel, index, snapshot, nkeys, 0);
#endif
}

/* Was the table's storage replaced by this transaction, which did not create it? */
static inline bool
coze_relation_is_rewritten(Relation rel)
{
	if (rel->rd_createSubid != InvalidSubTransactionId)
		return false;
#if PG_VERSION_NUM >= 160000
	return rel->rd_firstRelfilelocatorSubid != InvalidSubTransactionId;
#else
	return rel->rd_firstRelfilenodeSubid != InvalidSubTransactionId;
#endif
}

#endif							/* COZE_COMPAT_H */
