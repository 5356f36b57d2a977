/*-------------------------------------------------------------------------
 *
 * peer.c
 *		A conversation with another node while a user's command waits for it.
 *
 * Invariant: nothing of a DSN but host, port and user, which libpq itself puts in
 * its messages, is ever shown; the text that the user gave may hold a password
 * where libpq does not expect one.
 *
 * A result is copied into the caller's memory and freed at once, so that an
 * error can leave only the connection itself behind, and that belongs to a
 * memory context.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "libpq-fe.h"
#include "libpq/libpq-be-fe-helpers.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/lmgr.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "group/peer.h"

/* Seconds to wait for a connection where the DSN does not say. */
#define CONNECT_TIMEOUT "10"

/* What a session needs so that its answers mean the same everywhere. */
#define SESSION_SETTINGS \
	"SET search_path = pg_catalog, pg_temp; SET DateStyle = 'ISO, YMD';" \
	" SET IntervalStyle = 'postgres'; SET extra_float_digits = 3; SET bytea_output = 'hex';" \
	" SET row_security = off; SET statement_timeout = 0; SET lock_timeout = 0;" \
	" SET idle_in_transaction_session_timeout = 0;" \
	" SET default_transaction_isolation = 'read committed';" \
	" SET default_transaction_read_only = off"

struct CozePeerConnection
{
	PGconn	   *conn;			/* NULL: closed */
	char	   *copied;			/* last piece of a COPY, libpq's */
	MemoryContextCallback on_reset;
};

/* --- connection strings ------------------------------------------------------- */

static PQconninfoOption *
parse_dsn(const char *dsn)
{
	char	   *error = NULL;
	PQconninfoOption *options = PQconninfoParse(dsn, &error);

	if (error != NULL)
		PQfreemem(error);
	return options;
}

void
coze_peer_check_dsn(const char *dsn, const char *what)
{
	PQconninfoOption *options = parse_dsn(dsn);

	if (options == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is not a connection string", what),
				 errhint("Write it as keyword = value pairs, such as host=berlin dbname=app, or as a URI.")));
	PQconninfoFree(options);
}

static bool
is_secret(const PQconninfoOption *option)
{
	return option->dispchar[0] == '*' || strcmp(option->keyword, "password") == 0 ||
		strcmp(option->keyword, "sslpassword") == 0;
}

char *
coze_peer_dsn_without_password(const char *dsn, char **password)
{
	PQconninfoOption *options;
	StringInfoData shown;

	coze_peer_check_dsn(dsn, "the DSN");
	options = parse_dsn(dsn);
	*password = NULL;
	initStringInfo(&shown);
	for (PQconninfoOption *o = options; o->keyword != NULL; o++)
	{
		if (o->val == NULL || o->val[0] == '\0')
			continue;
		if (strcmp(o->keyword, "password") == 0)
			*password = pstrdup(o->val);
		if (is_secret(o))
			continue;
		appendStringInfo(&shown, "%s%s='", shown.len > 0 ? " " : "", o->keyword);
		for (const char *p = o->val; *p; p++)
		{
			if (*p == '\'' || *p == '\\')
				appendStringInfoChar(&shown, '\\');
			appendStringInfoChar(&shown, *p);
		}
		appendStringInfoChar(&shown, '\'');
	}
	PQconninfoFree(options);
	return shown.data;
}

/* --- errors -------------------------------------------------------------------------- */

static char *
copy_or_null(const char *s)
{
	return s != NULL && s[0] != '\0' ? pchomp(s) : NULL;
}

/* Raise what the other node said; clears the result.  sql may be NULL. */
static void
report_error(CozePeerConnection *peer, PGresult *result, const char *sql)
{
	char	   *state = copy_or_null(PQresultErrorField(result, PG_DIAG_SQLSTATE));
	char	   *message = copy_or_null(PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY));
	char	   *detail = copy_or_null(PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL));
	char	   *hint = copy_or_null(PQresultErrorField(result, PG_DIAG_MESSAGE_HINT));
	int			code = ERRCODE_CONNECTION_FAILURE;

	if (state != NULL && strlen(state) == 5)
		code = MAKE_SQLSTATE(state[0], state[1], state[2], state[3], state[4]);
	if (message == NULL)
		message = copy_or_null(PQerrorMessage(peer->conn));
	PQclear(result);
	ereport(ERROR,
			(errcode(code),
			 message ? errmsg_internal("%s", message) : errmsg("connection to the other node was lost"),
			 detail ? errdetail_internal("%s", detail) : 0,
			 hint ? errhint("%s", hint) : 0,
			 sql ? errcontext("remote command \"%s\"", sql) : 0));
}

/* --- connecting ------------------------------------------------------------------------ */

static void
close_on_reset(void *arg)
{
	coze_peer_close(arg);
}

void
coze_peer_close(CozePeerConnection *peer)
{
	if (peer->copied != NULL)
		PQfreemem(peer->copied);
	peer->copied = NULL;
	if (peer->conn != NULL)
		libpqsrv_disconnect(peer->conn);
	peer->conn = NULL;
}

static PGconn *
start_connection(const char *dsn)
{
	/* What follows the DSN overrides it, what stands before it is its default. */
	const char *keywords[] = {"connect_timeout", "dbname", "fallback_application_name",
	"client_encoding", NULL};
	const char *values[] = {CONNECT_TIMEOUT, dsn, "cozesync", GetDatabaseEncodingName(), NULL};

	return libpqsrv_connect_params(keywords, values, true, PG_WAIT_EXTENSION);
}

CozePeerConnection *
coze_peer_connect(const char *dsn, char **error)
{
	CozePeerConnection *peer = palloc0(sizeof(CozePeerConnection));

	coze_peer_check_dsn(dsn, "the DSN");
	peer->on_reset.func = close_on_reset;
	peer->on_reset.arg = peer;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &peer->on_reset);

	peer->conn = start_connection(dsn);
	if (peer->conn == NULL || PQstatus(peer->conn) != CONNECTION_OK)
	{
		*error = peer->conn ? pchomp(PQerrorMessage(peer->conn)) : pstrdup("out of memory");
		coze_peer_close(peer);
		return NULL;
	}
	coze_peer_query(peer, SESSION_SETTINGS, 0, NULL);
	return peer;
}

CozePeerConnection *
coze_peer_open(const char *dsn, const char *what)
{
	char	   *error;
	CozePeerConnection *peer = coze_peer_connect(dsn, &error);

	if (peer == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("could not connect to %s", what),
				 errdetail_internal("%s", error)));
	return peer;
}

/*
 * An advisory lock is known to one database of one server.  What we hold here,
 * nobody else gets there, if there is here.
 */
bool
coze_peer_is_here(CozePeerConnection *peer)
{
	LOCKTAG		tag;
	uint32		nonce[2];
	char		text[32];
	const char *params[1] = {text};
	bool		here;

	if (!pg_strong_random(nonce, sizeof(nonce)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, nonce[0], nonce[1], 1);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
	snprintf(text, sizeof(text), INT64_FORMAT, (int64) (((uint64) nonce[0] << 32) | nonce[1]));
	here = strcmp(coze_peer_query_value(peer, "SELECT pg_catalog.pg_try_advisory_xact_lock($1::int8)",
										1, params), "f") == 0;
	LockRelease(&tag, ExclusiveLock, false);
	return here;
}

/* --- asking ------------------------------------------------------------------------------- */

/* The next result, watching for interrupts; NULL at the end. */
static PGresult *
next_result(PGconn *conn)
{
	while (PQisBusy(conn))
	{
		int			rc = WaitLatchOrSocket(MyLatch,
										   WL_EXIT_ON_PM_DEATH | WL_LATCH_SET | WL_SOCKET_READABLE,
										   PQsocket(conn), 0, PG_WAIT_EXTENSION);

		if (rc & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		}
		if (PQconsumeInput(conn) == 0)
			break;
	}
	return PQgetResult(conn);
}

static bool
failed(const PGresult *result)
{
	switch (PQresultStatus(result))
	{
		case PGRES_COMMAND_OK:
		case PGRES_TUPLES_OK:
		case PGRES_EMPTY_QUERY:
		case PGRES_COPY_OUT:
			return false;
		default:
			return true;
	}
}

static CozePeerRows *
copy_rows(const PGresult *result)
{
	CozePeerRows *rows = palloc(sizeof(CozePeerRows));
	int			n;

	rows->nrows = PQntuples(result);
	rows->ncolumns = PQnfields(result);
	n = rows->nrows * rows->ncolumns;
	rows->values = palloc0(Max(n, 1) * sizeof(char *));
	for (int i = 0; i < n; i++)
		if (!PQgetisnull(result, i / rows->ncolumns, i % rows->ncolumns))
			rows->values[i] = pstrdup(PQgetvalue(result, i / rows->ncolumns, i % rows->ncolumns));
	return rows;
}

static void
send_query(CozePeerConnection *peer, const char *sql, int nparams, const char *const *params)
{
	int			sent;

	if (peer->conn == NULL)
		elog(ERROR, "connection is closed");
	if (nparams > 0)
		sent = PQsendQueryParams(peer->conn, sql, nparams, NULL, params, NULL, NULL, 0);
	else
		sent = PQsendQuery(peer->conn, sql);
	if (!sent)
		report_error(peer, NULL, sql);
}

CozePeerRows *
coze_peer_query(CozePeerConnection *peer, const char *sql, int nparams, const char *const *params)
{
	CozePeerRows *rows = NULL;
	PGresult   *result;

	send_query(peer, sql, nparams, params);
	while ((result = next_result(peer->conn)) != NULL)
	{
		if (failed(result))
			report_error(peer, result, sql);
		rows = copy_rows(result);
		PQclear(result);
	}
	if (rows == NULL)
		report_error(peer, NULL, sql);
	return rows;
}

char *
coze_peer_query_value(CozePeerConnection *peer, const char *sql, int nparams,
					  const char *const *params)
{
	CozePeerRows *rows = coze_peer_query(peer, sql, nparams, params);

	if (rows->nrows != 1 || rows->ncolumns != 1)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("the other node answered with %d rows where one was expected", rows->nrows),
				 errcontext("remote command \"%s\"", sql)));
	return rows->values[0];
}

/* --- COPY ----------------------------------------------------------------------------------- */

void
coze_peer_copy_begin(CozePeerConnection *peer, const char *sql)
{
	PGresult   *result;

	send_query(peer, sql, 0, NULL);
	result = next_result(peer->conn);
	if (PQresultStatus(result) != PGRES_COPY_OUT)
		report_error(peer, result, sql);
	PQclear(result);
}

/* All is read: fetch the command's outcome. */
static void
end_copy(CozePeerConnection *peer)
{
	PGresult   *result;

	while ((result = next_result(peer->conn)) != NULL)
	{
		if (failed(result))
			report_error(peer, result, NULL);
		PQclear(result);
	}
}

int
coze_peer_copy_read(CozePeerConnection *peer, char **data)
{
	int			size;

	if (peer->copied != NULL)
		PQfreemem(peer->copied);
	peer->copied = NULL;
	while ((size = PQgetCopyData(peer->conn, &peer->copied, 1)) == 0)
	{
		int			rc = WaitLatchOrSocket(MyLatch,
										   WL_EXIT_ON_PM_DEATH | WL_LATCH_SET | WL_SOCKET_READABLE,
										   PQsocket(peer->conn), 0, PG_WAIT_EXTENSION);

		if (rc & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		}
		if (PQconsumeInput(peer->conn) == 0)
			report_error(peer, NULL, NULL);
	}
	if (size == -2)
		report_error(peer, NULL, NULL);
	if (size == -1)
	{
		end_copy(peer);
		return 0;
	}
	*data = peer->copied;
	return size;
}
