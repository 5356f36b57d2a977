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
#include "catalog/pg_database.h"
#include "commands/tablecmds.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#if PG_VERSION_NUM >= 160000
#include "parser/parse_relation.h"
#endif
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/sinvaladt.h"
#include "utils/acl.h"
#include "utils/backend_status.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#if PG_VERSION_NUM < 150000
#error "cozesync needs PostgreSQL 15 or later"
#endif

/* What a node tells others of its server. */
#define COZE_SERVER_VERSION PG_VERSION_NUM

#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* Before the declaration of a function that does not return. */
#if PG_VERSION_NUM >= 180000
#define COZE_NORETURN pg_noreturn
#else
#define COZE_NORETURN pg_attribute_noreturn()
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

/* Is the heap read as it was in 15 to 18?  From 19 on that is left to its access method. */
#define COZE_READS_HEAP (PG_VERSION_NUM < 190000)

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

/* One relation, number 1, of which the given columns count as updated. */
static inline void
coze_init_range_table(EState *estate, RangeTblEntry *rte, Bitmapset *updated)
{
#if PG_VERSION_NUM >= 160000
	List	   *infos = NIL;

	addRTEPermissionInfo(&infos, rte)->updatedCols = updated;
#if PG_VERSION_NUM >= 180000
	ExecInitRangeTable(estate, list_make1(rte), infos, bms_make_singleton(1));
#else
	ExecInitRangeTable(estate, list_make1(rte), infos);
#endif
#else
	rte->updatedCols = updated;
	ExecInitRangeTable(estate, list_make1(rte));
#endif
}

/* Into all indexes of a row that was inserted; which of them are to be checked later. */
static inline List *
coze_insert_index_tuples(ResultRelInfo *rri, TupleTableSlot *slot, EState *estate)
{
#if PG_VERSION_NUM >= 190000
	return ExecInsertIndexTuples(rri, estate, 0, slot, NIL, NULL);
#elif PG_VERSION_NUM >= 160000
	return ExecInsertIndexTuples(rri, slot, estate, false, false, NULL, NIL, false);
#else
	return ExecInsertIndexTuples(rri, slot, estate, false, false, NULL, NIL);
#endif
}

static inline void
coze_epq_init(EPQState *epq, EState *estate)
{
#if PG_VERSION_NUM >= 160000
	EvalPlanQualInit(epq, estate, NULL, NIL, -1, NIL);
#else
	EvalPlanQualInit(epq, estate, NULL, NIL, -1);
#endif
}

/* Cut off the files of relations that are open and locked; sequences go on. */
static inline void
coze_execute_truncate(List *rels, List *relids)
{
#if PG_VERSION_NUM >= 160000
	ExecuteTruncateGuts(rels, relids, NIL, DROP_RESTRICT, false, false);
#else
	ExecuteTruncateGuts(rels, relids, NIL, DROP_RESTRICT, false);
#endif
}

/* The pid of one who holds a lock on a relation that conflicts with mode, or 0. */
static inline int
coze_lock_holder(Oid relid, LOCKMODE mode)
{
	LOCKTAG		tag;
	VirtualTransactionId *holders;
	PGPROC	   *proc;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, relid);
	holders = GetLockConflicts(&tag, mode, NULL);
	if (!VirtualTransactionIdIsValid(holders[0]))
		return 0;
#if PG_VERSION_NUM >= 170000
	proc = ProcNumberGetProc(holders[0].procNumber);
#else
	proc = BackendIdGetProc(holders[0].backendId);
#endif
	return proc != NULL ? proc->pid : 0;
}

static inline bool
coze_owns_database(Oid database)
{
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(DatabaseRelationId, database, GetUserId());
#else
	return pg_database_ownercheck(database, GetUserId());
#endif
}

/* The n-th of pgstat_fetch_stat_numbackends() processes, from 1. */
static inline const PgBackendStatus *
coze_backend_status(int n)
{
#if PG_VERSION_NUM >= 160000
	return &pgstat_get_local_beentry_by_index(n)->backendStatus;
#else
	return &pgstat_fetch_stat_local_beentry(n)->backendStatus;
#endif
}

/* A wait set that lives until it is freed. */
static inline WaitEventSet *
coze_create_wait_event_set(int nevents)
{
#if PG_VERSION_NUM >= 170000
	return CreateWaitEventSet(NULL, nevents);
#else
	return CreateWaitEventSet(TopMemoryContext, nevents);
#endif
}

#endif							/* COZE_COMPAT_H */
