/*-------------------------------------------------------------------------
 *
 * serve.c
 *		What a peer's linker calls here: hello(), receive(), send().
 *
 * These are all that the role in this node's DSN needs for links.  They read and
 * write nothing through SQL, so the role needs no right on any table: the right to
 * call them is the right to be a peer.
 *
 * A session begins with hello() and belongs to one peer.  Any ERROR ends it: what
 * it knew of the peer's stream may be half right by then.  It is looked at again
 * when the group has changed.
 *
 * receive() never waits.  send() waits for up to a second for something to send, and
 * while it does it holds no snapshot, no lock and no xid.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "debug.h"
#include "link/launcher.h"
#include "link/roads.h"
#include "link/session.h"
#include "link/source.h"
#include "link/target.h"
#include "log/state.h"
#include "log/wall.h"
#include "settings.h"

/* send() waits so long (us), or so long while the peer has not applied everything. */
#define LONGEST_WAIT INT64CONST(1000000)
#define FIRST_WAIT INT64CONST(5000)		/* doubled each time */
#define LONGEST_UNAPPLIED_WAIT INT64CONST(250000)

typedef struct Session
{
	MemoryContext context;		/* NULL: nobody has greeted, or an ERROR came between */
	CozeHello	hello;
	CozeLinkSlot *slot;
	uint64		generation;		/* of the group, when it was looked at last */
	CozeSource *source;			/* once the peer pulls */
	CozeTarget *target;			/* once the peer pushes */
	int64		wait;
} Session;

static Session session;

PG_FUNCTION_INFO_V1(coze_hello);
PG_FUNCTION_INFO_V1(coze_receive);
PG_FUNCTION_INFO_V1(coze_send);
PG_FUNCTION_INFO_V1(coze_hide_parameters);

/* --- sessions ------------------------------------------------------------------------- */

static void
release_links(void)
{
	coze_link_release(session.slot, COZE_LINK_IN);
	coze_link_release(session.slot, COZE_LINK_OUT);
	if (session.source != NULL)
		coze_link_set_served(session.slot, COZE_LINK_OUT, false);
	if (session.target != NULL)
		coze_link_set_served(session.slot, COZE_LINK_IN, false);
}

static void
forget_session(void)
{
	MemoryContext context = session.context;

	if (context == NULL)
		return;
	release_links();
	memset(&session, 0, sizeof(session));
	MemoryContextDelete(context);
}

static void
forget_session_at_exit(int code, Datum arg)
{
	coze_link_release_all();
}

static void
check_not_held(void)
{
	if (coze_launcher_is_held(MyDatabaseId))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("the database is being dropped, renamed or copied")));
}

/* The server log does not show what is passed to statements of this session. */
static void
hide_parameters(void)
{
	static const char *const no_parameters[] = {
		"log_parameter_max_length", "log_parameter_max_length_on_error",
	};

	for (int i = 0; i < lengthof(no_parameters); i++)
		SetConfigOption(no_parameters[i], "0", PGC_SUSET, PGC_S_SESSION);
}

Datum
coze_hide_parameters(PG_FUNCTION_ARGS)
{
	hide_parameters();
	PG_RETURN_VOID();
}

/*
 * Settings of a link's session, which the peer's role must not need the right to
 * make.  Time limits meant for users would cut it.  Parameters are batches: other
 * people's rows, and the DSNs of members, do not belong in the server log.
 */
static void
set_up_session(void)
{
	char		timeout[16];
	static const char *const no_limit[] = {
		"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout",
	};

	for (int i = 0; i < lengthof(no_limit); i++)
		SetConfigOption(no_limit[i], "0", PGC_USERSET, PGC_S_SESSION);
	hide_parameters();

	/* A peer says something every few seconds, so one that is silent is gone, or frozen. */
	snprintf(timeout, sizeof(timeout), "%dms", Min(cozesync_link_timeout, INT_MAX / 2) * 2);
	SetConfigOption("idle_session_timeout", timeout, PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("tcp_user_timeout", timeout, PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("default_transaction_isolation", "read committed", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("default_transaction_read_only", "off", PGC_USERSET, PGC_S_SESSION);
}

static void
remember_session(const char *data, Size size)
{
	static bool registered = false;
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "cozesync session",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	CozeHello	hello;
	const char *error = coze_wire_get_hello(data, size, &hello);

	if (error != NULL)
		elog(ERROR, "a greeting that was checked cannot be read: %s", error);
	MemoryContextSwitchTo(old);
	session.hello = hello;
	session.slot = coze_link_slot(hello.origin);
	session.generation = coze_group_generation();
	session.wait = FIRST_WAIT;
	session.context = context;
	if (!registered)
		on_shmem_exit(forget_session_at_exit, (Datum) 0);
	registered = true;
}

/* What this peer holds, as it says itself. */
static void
note_applied(const CozeVector *applied)
{
	if (coze_link_set_applied(session.slot, applied))
		coze_waiters_wake();
}

/*
 * The session that hello() began; ERROR if there is none, or if it must not go on.
 * The caller forgets it unless the call ends well.
 */
static void
check_session(void)
{
	CozeTopology *topology;
	char	   *reason;

	if (session.context == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("a link begins with cozesync.hello()")));
	check_not_held();
	if (!coze_link_is_current(session.slot, session.hello.instance))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("node \"%s\" has greeted from another start of its server", session.hello.node_name)));
	reason = coze_link_closed_reason();
	if (session.generation == coze_group_generation() && reason == NULL)
		return;
	session.generation = coze_group_generation();
	coze_check_member();
	coze_check_identity();
	topology = coze_topology_read();
	coze_check_peer(topology, session.hello.origin, session.hello.node_name);
}

static void
check_direction(CozeOrigin source, CozeOrigin target)
{
	CozeTopology *topology = coze_topology_read();

	coze_roads_set_topology(topology);
	if (coze_topology_mode(topology, source, target) == COZE_MODE_OFF)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("there is no link between these nodes in this direction"),
				 errhint("Set one with cozesync.set_link().")));
}

Datum
coze_hello(PG_FUNCTION_ARGS)
{
	bytea	   *greeting = PG_GETARG_BYTEA_PP(0);
	CozeHello	hello;
	CozeBuf		reply = {0};
	CozeVector	held = {0};

	forget_session();
	coze_check_preloaded();
	coze_launcher_enter_session();
	coze_check_member();
	check_not_held();
	/* no ERROR, which would fill the server's log while nodes join */
	if (coze_hello_is_of_stranger(VARDATA_ANY(greeting), VARSIZE_ANY_EXHDR(greeting)))
		PG_RETURN_NULL();
	coze_hello_check(VARDATA_ANY(greeting), VARSIZE_ANY_EXHDR(greeting), 0, &hello);
	coze_hello_make(&reply);
	remember_session(VARDATA_ANY(greeting), VARSIZE_ANY_EXHDR(greeting));
	for (int i = 0; i < hello.held.n; i++)
		coze_vector_set(&held, hello.held.p[i].origin, hello.held.p[i].hlc);
	note_applied(&held);
	coze_link_set_skew(session.slot, hello.clock - coze_wall(), true);
	coze_link_ask_retry(session.slot);
	coze_worker_wake(COZE_WORKER_LINKER);
	set_up_session();
	PG_RETURN_BYTEA_P(cstring_to_text_with_len(reply.data, reply.size));
}

/* --- receive ------------------------------------------------------------------------------ */

static void
ensure_target(void)
{
	if (session.target != NULL)
		return;
	check_direction(session.hello.origin, coze_own_origin());
	session.target = coze_target_make(session.hello.origin, session.hello.node_name,
									  session.slot, session.context);
	coze_link_error_over(session.slot, COZE_LINK_IN);
	coze_link_set_served(session.slot, COZE_LINK_IN, true);
}

/* False: refused. */
static bool
receive_batch(const char *data, Size size)
{
	ensure_target();
	coze_link_set_state(session.slot, COZE_LINK_IN, COZE_LINK_STREAMING, false);
	coze_link_heard(session.slot, COZE_LINK_IN);
	if (data == NULL)
		return !coze_target_must_begin(session.target);
	if (size > 0)
		return coze_target_take(session.target, data, size);
	coze_target_begin(session.target);
	return true;
}

/*
 * A batch from the peer; empty: its stream begins anew; NULL: it asks what is applied, all
 * of it.  A batch is answered without waiting for a flush, since others follow it.
 * Returns an acknowledgement, or NULL if the batch is refused, or something that was
 * queued is lost, and the stream must begin anew.
 */
Datum
coze_receive(PG_FUNCTION_ARGS)
{
	bytea	   *batch = PG_ARGISNULL(0) ? NULL : PG_GETARG_BYTEA_PP(0);
	CozeBuf		reply = {0};
	CozeAck		ack;
	volatile bool taken = false;

	coze_check_preloaded();
	PG_TRY();
	{
		check_session();
		taken = receive_batch(batch != NULL ? VARDATA_ANY(batch) : NULL,
							  batch != NULL ? VARSIZE_ANY_EXHDR(batch) : 0);
	}
	PG_CATCH();
	{
		forget_session();
		PG_RE_THROW();
	}
	PG_END_TRY();
	if (!taken)
		PG_RETURN_NULL();
	coze_target_acknowledge(session.target, batch == NULL || VARSIZE_ANY_EXHDR(batch) == 0, &ack);
	coze_wire_put_ack(&reply, &ack);
	PG_RETURN_BYTEA_P(cstring_to_text_with_len(reply.data, reply.size));
}

/* --- send ---------------------------------------------------------------------------------- */

/* The peer's request; begins: its stream begins anew. */
static uint64
take_request(const char *data, Size size, bool begins)
{
	CozeAck		ack;
	const char *error = coze_wire_get_ack(data, size, &ack);
	uint64		window;

	if (error != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("received an acknowledgement that is not valid: %s", error)));
	if (session.source == NULL)
	{
		check_direction(coze_own_origin(), session.hello.origin);
		session.source = coze_source_make(&session.hello, session.context);
		coze_link_error_over(session.slot, COZE_LINK_OUT);
		coze_link_set_served(session.slot, COZE_LINK_OUT, true);
	}
	coze_link_set_state(session.slot, COZE_LINK_OUT, COZE_LINK_STREAMING,
						coze_source_is_behind(session.source));
	coze_link_heard(session.slot, COZE_LINK_OUT);
	coze_link_set_skew(session.slot, ack.clock - coze_wall(), true);
	note_applied(&ack.applied);
	if (begins || coze_source_must_begin(session.source))
		coze_source_begin(session.source, &ack);
	else
		coze_source_acknowledge(session.source, &ack);
	if (coze_source_all_is_applied(session.source, &ack))
		session.wait = LONGEST_WAIT;
	else
		session.wait = session.wait >= LONGEST_WAIT ? FIRST_WAIT :
			Min(session.wait * 2, LONGEST_UNAPPLIED_WAIT);
	window = ack.window;
	coze_wire_free_ack(&ack);
	return window;
}

/* Sleep until woken or something may be due, at most until the given time. */
static void
wait_for_entries(CozeMoment until)
{
	CozeMoment	now = coze_monotonic();
	int64		us = coze_source_wait(session.source);

	us = us < 0 ? until - now : Min(us, until - now);
	if (us <= 0)
		return;
	InvalidateCatalogSnapshotConditionally();
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 us / 1000 + 1, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/*
 * Between transactions, as far as that can be in a procedure.  Returns true with a
 * batch, false when there was nothing for as long as one waits.
 */
static bool
wait_for_batch(CozeBuf *batch, Size limit)
{
	CozeMoment until = coze_monotonic() + session.wait;

	for (;;)
	{
		CozeMoment	now = coze_monotonic();
		CozeSourceLook look = coze_source_look(session.source, now);

		if (look == COZE_SOURCE_DATA)
		{
			bool		filled = coze_source_fill(session.source, batch, limit);

			SPI_commit();
			if (filled || coze_source_must_begin(session.source))
				return filled;
		}
		if (look == COZE_SOURCE_ASK || now >= until)
			return false;
		if (coze_launcher_is_held(MyDatabaseId))
			return false;
		wait_for_entries(until);
	}
}

static void
send_batch(bytea *request, bool begins, CozeBuf *batch)
{
	uint64		window;

	check_session();
	coze_waiter_add();
	window = take_request(VARDATA_ANY(request), VARSIZE_ANY_EXHDR(request), begins);
	SPI_commit();
	if (window <= COZE_SOURCE_SLACK)
		return;
	COZE_DEBUG_POINT("link-before-send");
	if (wait_for_batch(batch, Min(cozesync_batch_size * UINT64CONST(1024),
								 window - COZE_SOURCE_SLACK)))
		coze_link_count(session.slot, COZE_LINK_OUT, coze_source_batch_hlc(session.source),
						coze_source_batch_entries(session.source), batch->size);
}

/* The procedure's only output: (batch bytea). */
static Datum
batch_row(FunctionCallInfo fcinfo, const CozeBuf *batch)
{
	TupleDesc	desc;
	Datum		value;
	bool		isnull = false;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "cozesync.send() must be called as a procedure");
	value = PointerGetDatum(cstring_to_text_with_len(batch->size > 0 ? batch->data : "", batch->size));
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), &value, &isnull));
}

Datum
coze_send(PG_FUNCTION_ARGS)
{
	CozeBuf		batch = {0};
	bytea	   *request;
	bool		begins = !PG_ARGISNULL(1);
	MemoryContext context = CurrentMemoryContext;

	coze_check_preloaded();
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("request must not be null")));
	request = PG_GETARG_BYTEA_P_COPY(0);
	coze_buf_reserve(&batch, 1);	/* it shall outlive the transactions */
	PG_TRY();
	{
		if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
			elog(ERROR, "SPI_connect failed");
		send_batch(request, begins, &batch);
		coze_waiter_remove();
		SPI_finish();
	}
	PG_CATCH();
	{
		coze_waiter_remove();
		forget_session();
		PG_RE_THROW();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	PG_RETURN_DATUM(batch_row(fcinfo, &batch));
}
