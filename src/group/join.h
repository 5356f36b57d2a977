/*-------------------------------------------------------------------------
 *
 * join.h
 *		How a database becomes a member of a group that exists.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_JOIN_H
#define COZE_JOIN_H

#include "postgres.h"

#include "group/peer.h"

/*
 * The joining node's way, each phase committed before the next begins; cozesync.join_run
 * has it, so that whoever is interrupted goes on.
 */
typedef enum CozeJoinPhase
{
	COZE_JOIN_NONE,				/* not begun; schema and checks -> ADMITTING */
	COZE_JOIN_ADMITTING,		/* tables are taken on, the donor is asked -> COPYING */
	COZE_JOIN_COPYING,			/* rows, then facts and log -> CATCHING_UP */
	COZE_JOIN_CATCHING_UP,		/* the stream runs; until all members count us -> done */
} CozeJoinPhase;

typedef struct CozeJoin
{
	char	   *node_name;
	char	   *dsn;			/* NULL: cannot be reached from outside */
	char	   *via;
	bool		copy_schema;
	bool		copy_data;
	bool		direct_links;
	bool		wait;
	CozeJoinPhase phase;
	int64		origin;			/* ours */
	int64		donor;			/* origin of the member at via */
	char	   *donor_name;
	char	   *group_id;
	char	   *group_name;
	CozePeerConnection *peer;	/* at via */
	MemoryContext context;		/* for the whole run */
} CozeJoin;

/* --- join.c ----------------------------------------------------------------------------- */

/* One process at a time, until its session ends; false: another is at it. */
extern bool coze_join_lock(void);

/*
 * Go on where an earlier call was.  Needs a non-atomic SPI connection.  False if
 * there is nothing to go on with.
 */
extern bool coze_join_resume(void);

/* --- join_worker.c ---------------------------------------------------------------------- */

/* From coze_group_init: who was joining when the server stopped goes on when it starts. */
extern void coze_join_init(void);

/* Let a background worker go on. */
extern void coze_join_continue(void);
extern PGDLLEXPORT void coze_join_worker_main(Datum main_arg);

/* --- join_schema.c ------------------------------------------------------------------ */

/*
 * Create here what the donor's database has and this one has not, in this transaction.
 * snapshot: exported over there.
 */
extern void coze_join_copy_schema(const char *via, const char *snapshot);

/*
 * Note the DDL that was executed everywhere as the session at the donor shows it; what was
 * not known here is executed first, if that is asked for.
 */
extern void coze_join_take_ddl(CozePeerConnection *peer, bool execute);

/* --- join_copy.c --------------------------------------------------------------------- */

/* Of the donor's tables those that exist here must be as they are there. */
extern void coze_join_check_tables(CozeJoin *join);

/* Take on every table that the donor syncs, and no other. */
extern void coze_join_take_on_tables(CozeJoin *join);

/*
 * Copy rows, table by table in transactions of their own, then in one transaction the
 * facts and the log.  Begins and ends outside of a step.
 */
extern void coze_join_copy(CozeJoin *join);

#endif							/* COZE_JOIN_H */
