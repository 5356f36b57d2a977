/*-------------------------------------------------------------------------
 *
 * group.c
 *		Small steps of making and changing a group that SQL cannot take itself.
 *
 * The calls that users know are in install/50_group.sql and its neighbours; they
 * change rows, and triggers on those rows come here to tell the processes of this
 * node about it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "tcop/tcopprot.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "base/wire.h"
#include "group/group.h"
#include "group/join.h"
#include "group/peer.h"
#include "link/launcher.h"
#include "link/session.h"
#include "log/state.h"

PG_FUNCTION_INFO_V1(coze_group_check_preloaded);
PG_FUNCTION_INFO_V1(coze_group_new_origin);
PG_FUNCTION_INFO_V1(coze_group_hide);
PG_FUNCTION_INFO_V1(coze_group_wire_version);
PG_FUNCTION_INFO_V1(coze_group_node_changed);
PG_FUNCTION_INFO_V1(coze_group_facts_changed);
PG_FUNCTION_INFO_V1(coze_group_check_own_dsn);
PG_FUNCTION_INFO_V1(coze_group_tell_node);
PG_FUNCTION_INFO_V1(coze_group_describe_table_on);
PG_FUNCTION_INFO_V1(coze_group_next_number_on);
PG_FUNCTION_INFO_V1(coze_group_about_on);
PG_FUNCTION_INFO_V1(coze_group_describe_resolver_on);
PG_FUNCTION_INFO_V1(coze_group_hlc_time);
PG_FUNCTION_INFO_V1(coze_group_time_hlc);
PG_FUNCTION_INFO_V1(coze_group_holds);

Datum
coze_group_check_preloaded(PG_FUNCTION_ARGS)
{
	coze_check_preloaded();
	PG_RETURN_VOID();
}

void
coze_group_hide_statement(const char *shown)
{
	debug_query_string = MemoryContextStrdup(MessageContext != NULL ? MessageContext : TopMemoryContext,
											 shown);
	pgstat_report_activity(STATE_RUNNING, shown);
}

/* hide_statement(shown text) */
Datum
coze_group_hide(PG_FUNCTION_ARGS)
{
	coze_group_hide_statement(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	PG_RETURN_VOID();
}

Datum
coze_group_new_origin(PG_FUNCTION_ARGS)
{
	uint64		origin;

	do
	{
		if (!pg_strong_random(&origin, sizeof(origin)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random values")));
		origin &= PG_INT64_MAX;
	} while (origin == 0);
	PG_RETURN_INT64((int64) origin);
}

Datum
coze_group_wire_version(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(COZE_WIRE_VERSION);
}

void
coze_group_node_changed_at_commit(void)
{
	coze_group_changed_at_commit();
	coze_detach_at_end();
	coze_launcher_wake(MyDatabaseId);
}

/*
 * A peer says that this node was dropped; its word is as good as the row itself.  Not if
 * the database has become another node since.
 */
static void
was_dropped(CozeOrigin origin)
{
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	if (SPI_execute(psprintf("UPDATE cozesync.local_node SET state = 'left'"
							 " WHERE state OPERATOR(pg_catalog.<>) 'left' AND origin OPERATOR(pg_catalog.=) " UINT64_FORMAT,
							 origin), false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not note that this node was dropped");
	if (SPI_processed > 0)
	{
		ereport(WARNING,
				(errmsg("this node was dropped from its group"),
				 errhint("Use cozesync.join_group() to join again.")));
		coze_group_node_changed_at_commit();
	}
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
}

void
coze_group_init(void)
{
	coze_dropped_hook = was_dropped;
	coze_join_init();
}

Datum
coze_group_node_changed(PG_FUNCTION_ARGS)
{
	coze_group_node_changed_at_commit();
	PG_RETURN_VOID();
}

Datum
coze_group_facts_changed(PG_FUNCTION_ARGS)
{
	coze_group_changed_at_commit();
	PG_RETURN_VOID();
}

/*
 * A DSN that leads to another database would let two nodes take each other's
 * place, so it is an error; one that leads nowhere yet may be right all the same.
 */
Datum
coze_group_check_own_dsn(PG_FUNCTION_ARGS)
{
	char	   *dsn;
	char	   *error;
	CozePeerConnection *peer;

	if (PG_ARGISNULL(0))
		PG_RETURN_VOID();
	dsn = text_to_cstring(PG_GETARG_TEXT_PP(0));
	if (dsn[strspn(dsn, " \t\r\n")] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the DSN must not be empty"),
				 errhint("Use NULL for a node that cannot be reached from outside and makes its own connections.")));
	coze_peer_check_dsn(dsn, "the DSN");
	peer = coze_peer_connect(dsn, &error);
	if (peer == NULL)
	{
		ereport(WARNING,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("could not connect to this node over its DSN"),
				 errdetail_internal("%s", error),
				 errhint("Other nodes will need it; correct it with cozesync.set_dsn().")));
		PG_RETURN_VOID();
	}
	if (!coze_peer_is_here(peer))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the DSN does not lead to this database"),
				 errdetail("It leads to another one, or to a copy of this one."),
				 errhint("The DSN of a node is how other nodes reach it.")));
	coze_peer_close(peer);
	PG_RETURN_VOID();
}

/* Tell another node something; the error that it may raise becomes a WARNING. */
static bool
tell(const char *node_name, const char *dsn, const char *command, const char *argument)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool told = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		CozePeerConnection *peer = coze_peer_open(dsn, psprintf("node \"%s\"", node_name));

		coze_peer_query(peer, command, 1, &argument);
		coze_peer_close(peer);
		ReleaseCurrentSubTransaction();
		told = true;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			PG_RE_THROW();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("could not tell node \"%s\": %s", node_name, error->message),
				 error->detail ? errdetail_internal("%s", error->detail) : 0));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return told;
}

Datum
coze_group_tell_node(PG_FUNCTION_ARGS)
{
	for (int i = 0; i < 4; i++)
		if (PG_ARGISNULL(i))
			PG_RETURN_BOOL(false);
	PG_RETURN_BOOL(tell(text_to_cstring(PG_GETARG_TEXT_PP(0)), text_to_cstring(PG_GETARG_TEXT_PP(1)),
						text_to_cstring(PG_GETARG_TEXT_PP(2)), text_to_cstring(PG_GETARG_TEXT_PP(3))));
}

/*
 * Ask a node something that has one value.  The first arguments are its name and
 * DSN, the others what it is asked about.
 */
static char *
ask_node(FunctionCallInfo fcinfo, const char *question)
{
	char	   *node_name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	CozePeerConnection *peer = coze_peer_open(text_to_cstring(PG_GETARG_TEXT_PP(1)),
											  psprintf("node \"%s\"", node_name));
	const char *params[FUNC_MAX_ARGS];
	char	   *answer;

	for (int i = 2; i < PG_NARGS(); i++)
		params[i - 2] = text_to_cstring(PG_GETARG_TEXT_PP(i));
	answer = coze_peer_query_value(peer, question, PG_NARGS() - 2, params);
	coze_peer_close(peer);
	return answer;
}

/* describe_table_on(node_name text, dsn text, schema_name text, table_name text) returns jsonb */
Datum
coze_group_describe_table_on(PG_FUNCTION_ARGS)
{
	char	   *answer = ask_node(fcinfo, "SELECT pg_catalog.to_jsonb(d) FROM cozesync.describe_table($1, $2) AS d");

	PG_RETURN_DATUM(DirectFunctionCall1(jsonb_in, CStringGetDatum(answer)));
}

/* describe_resolver_on(node_name text, dsn text, signature text) returns text */
Datum
coze_group_describe_resolver_on(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(ask_node(fcinfo, "SELECT cozesync.describe_resolver($1)")));
}

/*
 * next_number_on(node_name text, dsn text, schema_name text, table_name text,
 * column_name text) returns bigint
 */
Datum
coze_group_next_number_on(PG_FUNCTION_ARGS)
{
	char	   *answer = ask_node(fcinfo, "SELECT cozesync.next_number($1, $2, $3)");

	PG_RETURN_INT64(strtoi64(answer, NULL, 10));
}

/* about_on(node_name text, dsn text) returns jsonb */
Datum
coze_group_about_on(PG_FUNCTION_ARGS)
{
	char	   *answer = ask_node(fcinfo, "SELECT pg_catalog.to_jsonb(a) FROM cozesync.about() AS a");

	PG_RETURN_DATUM(DirectFunctionCall1(jsonb_in, CStringGetDatum(answer)));
}

/* hlc_time(hlc bigint) returns timestamptz */
Datum
coze_group_hlc_time(PG_FUNCTION_ARGS)
{
	PG_RETURN_TIMESTAMPTZ(PG_GETARG_INT64(0));
}

/* time_hlc(hlc timestamptz) returns bigint */
Datum
coze_group_time_hlc(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(PG_GETARG_TIMESTAMPTZ(0));
}

/* holds(origin bigint, hlc bigint) returns boolean */
Datum
coze_group_holds(PG_FUNCTION_ARGS)
{
	CozeOrigin	origin = (CozeOrigin) PG_GETARG_INT64(0);
	CozeVector	held = {0};

	coze_check_member();
	coze_held_visible(&held);
	coze_vector_set(&held, coze_own_origin(), PG_INT64_MAX);
	PG_RETURN_BOOL(coze_vector_get(&held, origin) >= PG_GETARG_INT64(1));
}
