/*-------------------------------------------------------------------------
 *
 * join.c
 *		How a database becomes a member of a group that exists.
 *
 *	NONE -> ADMITTING -> COPYING -> CATCHING_UP -> ready
 *
 * NONE: the donor's schema is created here; every table that it syncs is checked and
 * captured, which refuses writes from here on; our origin is drawn.
 * ADMITTING: the donor makes us a member, by an entry.  From then on its cut, and
 * that of whoever applies the entry, stands still.
 * COPYING: see join_copy.c.
 * CATCHING_UP: the links are open.  Invariant (Membership): this node may be written to
 * only once every old member counts it, that is, once we have applied an entry of
 * each that has seen the one that made us a member.  Then what they had forgotten
 * before is here, and what we write they judge knowing of us.
 *
 * Each phase ends with a commit, and cozesync.join_run says which is next; so a join
 * that was interrupted, by an error or by a crash, goes on when join_group() is
 * called again, or in the background (join_worker.c) after a restart.
 *
 * Locking: a lock for the whole session makes sure that one process works on it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "apply/apply.h"
#include "base/wire.h"
#include "compat.h"
#include "debug.h"
#include "group/group.h"
#include "group/join.h"
#include "group/step.h"
#include "log/log.h"
#include "log/state.h"

PG_FUNCTION_INFO_V1(coze_join_group);

/* How often a node that catches up looks whether it may be written to, in ms. */
#define READY_POLL 100
/* How often it tells whom it waits for, and asks whether it still is a member, in ms. */
#define READY_TELL 10000
#define READY_ASK 2000

/* --- helpers ------------------------------------------------------------------------- */

static char *
number(int64 n)
{
	return psprintf(INT64_FORMAT, n);
}

static bool
is_true(const char *text)
{
	return text != NULL && text[0] == 't';
}

/* --- one process at a time -------------------------------------------------------------- */

static LOCKTAG
join_lock(void)
{
	LOCKTAG		tag;

	/* the last number sets it apart from the advisory locks of SQL */
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0x636f7a65, 0x6a6f696e, 3);
	return tag;
}

bool
coze_join_lock(void)
{
	LOCKTAG		tag = join_lock();

	return LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
}

static void
unlock_join(void)
{
	LOCKTAG		tag = join_lock();

	LockRelease(&tag, ExclusiveLock, true);
}

/* --- NONE: checks ------------------------------------------------------------------------- */

/* The phase that an earlier call has reached, and what it was called with. */
static void
read_run(CozeJoin *join)
{
	CozePeerRows *rows = coze_step_fetch("SELECT r.phase, r.origin, r.donor, r.node_name, r.dsn, r.via,"
										 " r.copy_data, r.direct_links FROM cozesync.join_run AS r", 0, NULL);
	char	  **run = rows->values;

	join->phase = COZE_JOIN_NONE;
	if (rows->nrows == 0)
		return;
	join->phase = strcmp(run[0], "admitting") == 0 ? COZE_JOIN_ADMITTING :
		strcmp(run[0], "copying") == 0 ? COZE_JOIN_COPYING : COZE_JOIN_CATCHING_UP;
	join->origin = strtoi64(run[1], NULL, 10);
	join->donor = strtoi64(run[2], NULL, 10);
	if (join->node_name != NULL && strcmp(join->node_name, run[3]) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this database is already joining a group as node \"%s\"", run[3]),
				 errhint("Go on with that name, or give up with cozesync.leave_group().")));
	join->node_name = run[3];
	if (join->via == NULL)
	{
		join->dsn = run[4];
		join->via = run[5];
	}
	join->copy_data = is_true(run[6]);
	join->direct_links = is_true(run[7]);
}

static void
check_versions(CozeJoin *join)
{
	CozePeerRows *rows = coze_peer_query(join->peer,
										 "SELECT e.extversion FROM pg_catalog.pg_extension AS e WHERE e.extname = 'cozesync'", 0, NULL);
	char	   *own;

	if (rows->nrows == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the database at \"via\" does not have the extension cozesync"),
				 errhint("\"via\" must lead to a member of the group.")));
	own = coze_step_fetch("SELECT e.extversion FROM pg_extension AS e WHERE e.extname = 'cozesync'",
						  0, NULL)->values[0];
	if (strcmp(own, rows->values[0]) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the member at \"via\" has version %s of cozesync, this database has version %s",
						rows->values[0], own),
				 errhint("Bring both to the same version with ALTER EXTENSION cozesync UPDATE.")));
}

/* Who is at the other end, and does that fit? */
static void
check_donor(CozeJoin *join)
{
	CozePeerRows *about = coze_peer_query(join->peer,
										  "SELECT a.state, a.origin, a.node_name, a.group_id, a.group_name, a.encoding, a.wire_version"
										  " FROM cozesync.about() AS a", 0, NULL);
	const char *state = about->values[0];

	if (strtol(about->values[6], NULL, 10) != COZE_WIRE_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the member at \"via\" speaks version %s of the protocol, this node version %d",
						about->values[6], COZE_WIRE_VERSION),
				 errhint("Bring both servers to the same version of cozesync and restart them.")));
	if (strcmp(state, "ready") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the database at \"via\" is not a ready member of a group"),
				 strcmp(state, "joining") == 0 ? errdetail("It is still joining itself.") :
				 strcmp(state, "copy") == 0 ? errdetail("It is a copy of a member's database.") :
				 errdetail("It is in no group."),
				 errhint("\"via\" must lead to a member whose state in cozesync.nodes is ready.")));
	if (strcmp(about->values[5], GetDatabaseEncodingName()) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the encodings of the databases differ"),
				 errdetail("It is %s at the member at \"via\" and %s here.",
						   about->values[5], GetDatabaseEncodingName()),
				 errhint("Create this database with the encoding of the group.")));
	join->donor_name = about->values[2];
	join->group_id = about->values[3];
	join->group_name = about->values[4];
	if (join->phase == COZE_JOIN_NONE)
		join->donor = strtoi64(about->values[1], NULL, 10);
	else
	{
		CozePeerRows *own = coze_step_fetch("SELECT n.group_id, n.group_name FROM cozesync.local_node AS n",
											0, NULL);

		if (strcmp(own->values[0], join->group_id) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("this database is already joining group \"%s\"", own->values[1]),
					 errdetail("\"via\" leads to a member of group \"%s\".", join->group_name),
					 errhint("Give up joining the first with cozesync.leave_group().")));
		if (join->donor != strtoi64(about->values[1], NULL, 10) && join->phase != COZE_JOIN_CATCHING_UP)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("this database has begun to join through another member than node \"%s\"",
							join->donor_name),
					 errhint("Go on through that member, or begin anew after cozesync.leave_group().")));
	}
}

/* What the donor needs to know of this database to admit it. */
static void
own_identity(CozeJoin *join, const char **params)
{
	params[0] = join->node_name;
	params[1] = number(join->origin);
	params[2] = number((int64) GetSystemIdentifier());
	params[3] = number(MyDatabaseId);
}

static void
check_may_be_admitted(CozeJoin *join)
{
	const char *params[4];

	own_identity(join, params);
	coze_peer_query(join->peer, "SELECT cozesync.check_may_admit($1, $2::bigint, $3::bigint, $4::bigint)",
					4, params);
}

/* Everything that can be said before anything is changed. */
static void
check_all(CozeJoin *join)
{
	const char *params[2];

	coze_step_begin();
	read_run(join);
	params[0] = join->node_name;
	params[1] = join->dsn;
	if (join->phase == COZE_JOIN_NONE)
		coze_step_run("SELECT cozesync.check_no_group()", 0, NULL);
	coze_step_run("SELECT cozesync.check_given($1, 'node name')", 1, params);
	coze_peer_check_dsn(join->via, "\"via\"");
	coze_step_run("SELECT cozesync.check_own_dsn($1)", 1, &params[1]);
	join->peer = coze_peer_open(join->via, "the member at \"via\"");
	if (coze_peer_is_here(join->peer))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"via\" leads to this database itself"),
				 errhint("\"via\" must lead to a member of the group, \"dsn\" to this database.")));
	check_versions(join);
	check_donor(join);
	if (join->phase == COZE_JOIN_NONE)
		check_may_be_admitted(join);
	coze_step_end();
}

/* --- NONE -> ADMITTING: schema, tables, who we are ------------------------------------------- */

/* Schema and list of DDL as one snapshot of the donor shows them. */
static void
copy_schema(CozeJoin *join)
{
	char	   *snapshot;

	coze_peer_query(join->peer, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", 0, NULL);
	if (join->copy_schema)
	{
		snapshot = coze_peer_query_value(join->peer, "SELECT pg_catalog.pg_export_snapshot()", 0, NULL);
		ereport(NOTICE,
				(errmsg("creating the schema of node \"%s\"", join->donor_name)));
		coze_join_copy_schema(join->via, snapshot);
		CommandCounterIncrement();
	}
	coze_join_take_ddl(join->peer, false);
	coze_peer_query(join->peer, "COMMIT", 0, NULL);
}

/* In one transaction, so that an error leaves nothing behind. */
static void
begin_run(CozeJoin *join)
{
	const char *node[3];
	const char *params[8];

	coze_step_begin();
	coze_join_check_tables(join);
	coze_step_run("LOCK TABLE cozesync.local_node IN SHARE ROW EXCLUSIVE MODE", 0, NULL);
	coze_step_run("SELECT cozesync.check_no_group()", 0, NULL);
	coze_step_run("SELECT cozesync.forget_group()", 0, NULL);
	copy_schema(join);
	node[0] = coze_step_fetch("SELECT cozesync.new_origin()", 0, NULL)->values[0];
	node[1] = join->group_id;
	node[2] = join->group_name;
	join->origin = strtoi64(node[0], NULL, 10);
	coze_step_run("SELECT cozesync.become_node($1::bigint, $2::uuid, $3, 'joining')", 3, node);

	params[0] = node[0];
	params[1] = join->node_name;
	params[2] = join->dsn;
	params[3] = join->via;
	params[4] = join->copy_data ? "t" : "f";
	params[5] = join->direct_links ? "t" : "f";
	params[6] = number(join->donor);
	coze_step_run("INSERT INTO cozesync.join_run (phase, origin, node_name, dsn, via, copy_data, direct_links, donor)"
		" VALUES ('admitting', $1::bigint, $2, $3, $4, $5::boolean, $6::boolean, $7::bigint)", 7, params);
	coze_join_take_on_tables(join);
	coze_step_end();
	join->phase = COZE_JOIN_ADMITTING;
}

/* --- ADMITTING -> COPYING ---------------------------------------------------------------------- */

/* Ask the donor; returns the error that it answered with, or NULL. */
static ErrorData *
ask_for_admission(CozeJoin *join)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;
	const char *params[7];

	own_identity(join, params);
	params[4] = join->dsn;
	params[5] = number(COZE_SERVER_VERSION);
	params[6] = join->direct_links ? "t" : "f";
	PG_TRY();
	{
		/* the DSN may hold a password */
		coze_peer_query(join->peer, "SELECT cozesync.hide_parameters()", 0, NULL);
		coze_peer_query(join->peer, "SELECT cozesync.admit_node($1, $2::bigint, $5, $3::bigint, $4::bigint,"
						" $6::integer, $7::boolean)", 7, params);
	}
	PG_CATCH();
	{
		/* nothing but a conversation was going on: there is nothing to clean up */
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	return error;
}

static void
be_admitted(CozeJoin *join)
{
	ErrorData  *error = ask_for_admission(join);
	CozePeerRows *version;

	if (error != NULL)
	{
		/* a lost connection tells nothing about what the donor did */
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_CONNECTION_EXCEPTION &&
			ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_OPERATOR_INTERVENTION)
		{
			coze_step_begin();
			coze_step_run("SELECT cozesync.forget_group()", 0, NULL);
			coze_step_end();
		}
		ThrowErrorData(error);
	}
	version = coze_peer_query(join->peer, "SELECT v.origin, v.hlc FROM cozesync.last_version() AS v", 0, NULL);
	COZE_DEBUG_POINT("join-admitted");
	coze_step_begin();
	coze_step_run("UPDATE cozesync.join_run SET phase = 'copying', donor = $1::bigint, admitted_hlc = $2::bigint", 2,
		(const char *const *) version->values);
	coze_step_end();
	join->phase = COZE_JOIN_COPYING;
}

/* --- COPYING -> CATCHING_UP ---------------------------------------------------------------------- */

static void
copy(CozeJoin *join)
{
	coze_join_copy(join);
	(void) coze_attach();
	join->phase = COZE_JOIN_CATCHING_UP;
}

/* --- CATCHING_UP -> ready --------------------------------------------------------------------------- */

/*
 * Has the last entry of a member that we hold seen the one by which we were
 * admitted?  Then the member counts us.
 */
static bool
counts_us(CozeOrigin member, CozeVersion admitted)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	CozeHlc		hlc;
	char	   *data;
	Size		size;
	CozeEntryHead head;
	bool		counted = false;

	if (coze_log_last(member, coze_held_of(member), snapshot, &hlc, &data, &size) &&
		coze_wire_get_head(data, size, &head) == NULL)
		counted = coze_vector_has_seen(&head.seen, head.version, admitted);
	UnregisterSnapshot(snapshot);
	return counted || !COZE_RULE("ready");
}

/* The names of members that do not count us yet; NULL: all do. */
static char *
still_awaited(void)
{
	CozePeerRows *rows = coze_step_fetch("SELECT m.origin, m.node_name, r.donor, r.admitted_hlc"
										 " FROM cozesync.join_run AS r, cozesync.member AS m"
										 " WHERE m.origin = ANY (r.waits_for) AND m.dropped_at IS NULL"
										 " ORDER BY m.node_name", 0, NULL);
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < rows->nrows; i++)
	{
		char	  **row = &rows->values[i * 4];
		CozeVersion admitted = {.origin = (CozeOrigin) strtoi64(row[2], NULL, 10),
		.hlc = strtoi64(row[3], NULL, 10)};

		if (!counts_us((CozeOrigin) strtoi64(row[0], NULL, 10), admitted))
			appendStringInfo(&names, "%s\"%s\"", names.len > 0 ? ", " : "", row[1]);
	}
	return names.len > 0 ? names.data : NULL;
}

/*
 * The node may be written to; its own row is its first entry.  All at once: who has been
 * ready without having said so would never say it.
 */
static void
become_ready(void)
{
	coze_step_begin_captured();
	coze_step_run("UPDATE cozesync.local_node SET state = 'ready' WHERE state = 'joining'", 0, NULL);
	coze_step_run("DELETE FROM cozesync.join_run", 0, NULL);
	coze_step_run("DELETE FROM cozesync.join_table", 0, NULL);
	coze_group_node_changed_at_commit();
	coze_step_run("UPDATE cozesync.member AS m SET ready_at = clock_timestamp()"
		" FROM cozesync.local_node AS n WHERE m.origin = n.origin", 0, NULL);
	coze_step_end();
}

/*
 * Two databases that join under one name at the same time do not both stay members, and
 * who does not is not told over its links, which are closed then.  If the member at
 * "via" cannot be asked, the links will tell.
 */
static void
check_still_admitted(CozeJoin *join)
{
	char	   *error;
	CozePeerConnection *peer = coze_peer_connect(join->via, &error);
	const char *params[2] = {join->node_name, number(join->origin)};

	if (peer == NULL)
		return;
	coze_peer_query(peer, "SELECT cozesync.check_admitted($1, $2::bigint)", 2, params);
	coze_peer_close(peer);
}

/*
 * Two that joined at once may have been given one slot of the sequences.  Each is given
 * another, and waits until all members have seen that; false: there was no need.
 */
static bool
is_given_another_slot(CozeJoin *join)
{
	CozePeerConnection *peer;
	CozePeerRows *version;
	const char *params[1] = {number(join->origin)};
	bool		shared;

	coze_step_begin();
	shared = COZE_RULE("own-slot") && is_true(coze_step_fetch("SELECT cozesync.shares_slot()", 0, NULL)->values[0]);
	coze_step_end();
	if (!shared)
		return false;
	peer = coze_peer_open(join->via, "the member at \"via\"");
	coze_peer_query(peer, "SELECT cozesync.give_other_slot($1::bigint)", 1, params);
	version = coze_peer_query(peer, "SELECT v.origin, v.hlc FROM cozesync.last_version() AS v", 0, NULL);
	coze_peer_close(peer);
	coze_step_begin();
	coze_step_run("UPDATE cozesync.join_run SET donor = $1::bigint, admitted_hlc = $2::bigint", 2,
		(const char *const *) version->values);
	coze_step_end();
	return true;
}

/* True, and the time is now, if so many ms have gone by since. */
static bool
is_time(TimestampTz *since, int ms)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!TimestampDifferenceExceeds(*since, now, ms))
		return false;
	*since = now;
	return true;
}

static void
catch_up(CozeJoin *join)
{
	TimestampTz told = GetCurrentTimestamp();
	TimestampTz asked = told;
	bool		ready = false;

	while (!ready)
	{
		char	   *names;

		if (coze_attach() != COZE_NODE_JOINING)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("this database is not joining any more")));
		coze_step_begin();
		names = still_awaited();
		coze_step_end();
		ready = names == NULL;
		if (ready && is_given_another_slot(join))
			ready = false;
		else if (!ready && is_time(&asked, READY_ASK))
			check_still_admitted(join);
		if (!ready)
		{
			if (is_time(&told, READY_TELL))
				ereport(NOTICE,
						(errmsg("waiting until all members know of this node: %s", names)));
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, READY_POLL,
							 PG_WAIT_EXTENSION);
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		}
	}
	COZE_DEBUG_POINT("join-before-ready");
	become_ready();
}

/* --- the whole way ------------------------------------------------------------------------------------ */

/* In the foreground as far as errors of the call can show. */
static void
go_in(CozeJoin *join)
{
	check_all(join);
	if (join->phase == COZE_JOIN_NONE)
		begin_run(join);
	if (join->phase == COZE_JOIN_ADMITTING)
		be_admitted(join);
}

static void
go_on(CozeJoin *join)
{
	if (join->phase == COZE_JOIN_COPYING)
		copy(join);
	if (join->peer != NULL)
		coze_peer_close(join->peer);
	catch_up(join);
}

bool
coze_join_resume(void)
{
	CozeJoin	join = {.wait = true};

	coze_step_begin();
	read_run(&join);
	coze_step_end();
	if (join.phase == COZE_JOIN_NONE)
		return false;
	if (join.phase != COZE_JOIN_CATCHING_UP)
		go_in(&join);
	go_on(&join);
	return true;
}

static void
run_join(CozeJoin *join)
{
	if (!coze_join_lock())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("another process is letting this database join a group"),
				 errhint("See cozesync.join_progress for how far it is.")));
	PG_TRY();
	{
		go_in(join);
		if (join->wait)
			go_on(join);
	}
	PG_FINALLY();
	{
		coze_in_applier = false;
		unlock_join();
	}
	PG_END_TRY();
	if (!join->wait)
		coze_join_continue();
	else
		ereport(NOTICE,
				(errmsg("node \"%s\" is ready", join->node_name)));
}

static char *
text_or_null(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n));
}

static bool
bool_or_true(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) || PG_GETARG_BOOL(n);
}

/*
 * CALL join_group(node_name text, dsn text, via text, copy_schema bool, copy_data bool,
 * direct_links bool, wait bool)
 */
Datum
coze_join_group(PG_FUNCTION_ARGS)
{
	CozeJoin	join = {0};
	bool		atomic = fcinfo->context == NULL || !IsA(fcinfo->context, CallContext) ||
		castNode(CallContext, fcinfo->context)->atomic;

	coze_group_hide_statement("CALL cozesync.join_group(...)");
	if (atomic)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("join_group() cannot be called in a transaction block or from a function")));
	coze_check_preloaded();
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to let a database join a group")));
	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("\"via\" must not be NULL"),
				 errhint("It is a connection string that leads to a member of the group.")));
	SPI_connect_ext(SPI_OPT_NONATOMIC);
	join.node_name = PG_ARGISNULL(0) ? "" : text_or_null(fcinfo, 0);
	join.dsn = text_or_null(fcinfo, 1);
	join.via = text_or_null(fcinfo, 2);
	join.copy_schema = bool_or_true(fcinfo, 3);
	join.copy_data = bool_or_true(fcinfo, 4);
	join.direct_links = bool_or_true(fcinfo, 5);
	join.wait = bool_or_true(fcinfo, 6);
	run_join(&join);
	SPI_finish();
	PG_RETURN_VOID();
}
