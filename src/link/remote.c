/*-------------------------------------------------------------------------
 *
 * remote.c
 *		A connection to a peer that never waits.
 *
 * libpq in non-blocking pipeline mode, each statement closed by a sync, so that
 * one that fails does not take the next with it.  The caller waits, for all of its
 * connections at once.  (Looking up a host name does block; hostaddr in the DSN
 * avoids that.)
 *
 * Error texts: what libpq says of a connection names host, port, user and
 * database, never the password.  What it says of a malformed DSN may quote any
 * part of it, so that is never passed on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "libpq-fe.h"
#include "mb/pg_wchar.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "catalog/pg_type.h"
#include "link/remote.h"
#include "log/wall.h"
#include "settings.h"

/* How many different statements a connection is used for. */
#define MAX_PREPARED 4
#define MAX_PARAMS 2

struct CozeRemote
{
	PGconn	   *conn;
	PGresult   *result;			/* holds the answer received last */
	bool		connected;
	bool		holds_fd;
	bool		unsent;			/* something waits for room in the socket */
	PostgresPollingStatusType polling;
	int			unanswered;		/* statements whose sync has not come */
	int			nprepared;
	const char *prepared[MAX_PREPARED];	/* statement i is prepared as "i" */
	CozeMoment	retired_at;
	const char *failure;		/* of our own, instead of libpq's */
};

/* Retired connections are closed after so long (us), whatever the server does. */
#define RETIRED_MAX INT64CONST(3000000)

static List *retired;			/* CozeRemote *, in TopMemoryContext */

/* --- opening, closing --------------------------------------------------------------- */

static void
ignore_notice(void *arg, const PGresult *result)
{
}

/*
 * Does libpq take the DSN?  A host with an "@" is a part of a password: it was not
 * percent-encoded.
 */
bool
coze_dsn_is_valid(const char *dsn)
{
	PQconninfoOption *options = PQconninfoParse(dsn, NULL);
	bool		valid = options != NULL;

	for (PQconninfoOption *o = options; o != NULL && o->keyword != NULL; o++)
	{
		if (strcmp(o->keyword, "host") == 0 && o->val != NULL && strchr(o->val, '@') != NULL)
			valid = o->val[0] == '@';	/* an abstract socket */
	}
	PQconninfoFree(options);
	return valid;
}

CozeRemote *
coze_remote_open(const char *dsn, const char *application_name)
{
	CozeRemote *remote = MemoryContextAllocZero(TopMemoryContext, sizeof(CozeRemote));

	char	   *timeout = psprintf("%d", cozesync_link_timeout);

	/* What comes before dbname is a default, what comes after it overrides. */
	const char *const keywords[] = {
		"keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
		"dbname", "application_name", "client_encoding", NULL
	};
	const char *const values[] = {
		"10", "5", "3", timeout,
		dsn, application_name, GetDatabaseEncodingName(), NULL
	};

	if (!coze_dsn_is_valid(dsn))
	{
		remote->failure = "the DSN is malformed";
		return remote;
	}
	if (!AcquireExternalFD())
	{
		remote->failure = "there are too many open files on this node's server";
		return remote;
	}
	remote->holds_fd = true;
	remote->conn = PQconnectStartParams(keywords, values, 1);
	if (remote->conn == NULL)
		remote->failure = "out of memory";
	else
		PQsetNoticeReceiver(remote->conn, ignore_notice, NULL);
	remote->polling = PGRES_POLLING_WRITING;
	return remote;
}

void
coze_remote_close(CozeRemote *remote)
{
	if (remote == NULL)
		return;
	if (remote->result != NULL)
		PQclear(remote->result);
	if (remote->conn != NULL)
		PQfinish(remote->conn);
	if (remote->holds_fd)
		ReleaseExternalFD();
	pfree(remote);
}

void
coze_remote_retire(CozeRemote *remote)
{
	MemoryContext old;

	if (remote == NULL)
		return;
	if (!remote->connected || remote->unanswered == 0 || PQstatus(remote->conn) != CONNECTION_OK)
	{
		coze_remote_close(remote);
		return;
	}
	old = MemoryContextSwitchTo(TopMemoryContext);
	remote->retired_at = coze_monotonic();
	retired = lappend(retired, remote);
	MemoryContextSwitchTo(old);
}

bool
coze_remote_sweep(void)
{
	ListCell   *lc;

	foreach(lc, retired)
	{
		CozeRemote *remote = lfirst(lc);
		CozeAnswer	answer;
		CozeRemoteStatus status;

		while ((status = coze_remote_receive(remote, &answer)) == COZE_REMOTE_READY)
			;
		if (status == COZE_REMOTE_WAITING && remote->unanswered > 0 &&
			coze_monotonic() - remote->retired_at < RETIRED_MAX)
			continue;
		retired = foreach_delete_current(retired, lc);
		coze_remote_close(remote);
	}
	return retired != NIL;
}

CozeRemoteStatus
coze_remote_connect(CozeRemote *remote)
{
	if (remote->failure != NULL || PQstatus(remote->conn) == CONNECTION_BAD)
		return COZE_REMOTE_FAILED;
	remote->polling = PQconnectPoll(remote->conn);
	if (remote->polling == PGRES_POLLING_FAILED)
		return COZE_REMOTE_FAILED;
	if (remote->polling != PGRES_POLLING_OK)
		return COZE_REMOTE_WAITING;
	if (PQsetnonblocking(remote->conn, 1) != 0 || !PQenterPipelineMode(remote->conn))
		return COZE_REMOTE_FAILED;
	remote->connected = true;
	return COZE_REMOTE_READY;
}

pgsocket
coze_remote_socket(const CozeRemote *remote)
{
	return remote->conn != NULL ? PQsocket(remote->conn) : PGINVALID_SOCKET;
}

/* Must not touch the connection: libpq closes the socket when writing fails. */
uint32
coze_remote_events(const CozeRemote *remote)
{
	if (!remote->connected)
		return remote->polling == PGRES_POLLING_READING ? WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE;
	return WL_SOCKET_READABLE | (remote->unsent ? WL_SOCKET_WRITEABLE : 0);
}

/* --- statements ------------------------------------------------------------------------ */

/* Write what fits; false: the connection is broken. */
static bool
flush(CozeRemote *remote)
{
	int			result = PQflush(remote->conn);

	remote->unsent = result == 1;
	return result >= 0;
}

/*
 * The name of a statement over there, which is parsed and planned once a connection; its
 * preparation goes before it if need be.  False: the connection is broken.
 */
static bool
prepare(CozeRemote *remote, const char *sql, int n, char *name, Size size)
{
	static const Oid types[MAX_PARAMS] = {BYTEAOID, BYTEAOID};
	int			i = 0;

	while (i < remote->nprepared && strcmp(remote->prepared[i], sql) != 0)
		i++;
	snprintf(name, size, "%d", i);
	if (i < remote->nprepared)
		return true;
	if (i == MAX_PREPARED)
		elog(ERROR, "too many different statements for one connection");
	remote->prepared[remote->nprepared++] = sql;
	return PQsendPrepare(remote->conn, name, sql, n, types);
}

bool
coze_remote_send(CozeRemote *remote, const char *sql, int n, const CozeBuf *const *params)
{
	const char *values[MAX_PARAMS];
	int			lengths[MAX_PARAMS];
	int			formats[MAX_PARAMS] = {1, 1};
	char		name[16];

	Assert(n <= MAX_PARAMS);
	for (int i = 0; i < n; i++)
	{
		values[i] = params[i] == NULL ? NULL : params[i]->size > 0 ? params[i]->data : "";
		lengths[i] = params[i] == NULL ? 0 : (int) params[i]->size;
	}
	remote->unanswered++;
	return prepare(remote, sql, n, name, sizeof(name)) &&
		PQsendQueryPrepared(remote->conn, name, n, values, lengths, formats, 1) &&
		PQpipelineSync(remote->conn) && flush(remote);
}

/* A result into an answer; false if it is of no interest. */
static bool
read_result(const PGresult *result, CozeAnswer *answer)
{
	memset(answer, 0, sizeof(*answer));
	switch (PQresultStatus(result))
	{
		case PGRES_TUPLES_OK:
			answer->is_null = PQntuples(result) != 1 || PQnfields(result) < 1 ||
				PQgetisnull(result, 0, 0);
			if (!answer->is_null)
			{
				answer->data = PQgetvalue(result, 0, 0);
				answer->size = PQgetlength(result, 0, 0);
			}
			return true;
		case PGRES_PIPELINE_SYNC:
		case PGRES_COMMAND_OK:	/* prepared */
			return false;
		default:
			answer->is_error = true;
			return true;
	}
}

/* Results are separated by NULL and each statement's end by a sync; both are passed over. */
CozeRemoteStatus
coze_remote_receive(CozeRemote *remote, CozeAnswer *answer)
{
	int			empty = 0;

	if (remote->result != NULL)
		PQclear(remote->result);
	remote->result = NULL;
	if (!flush(remote) || PQconsumeInput(remote->conn) == 0)
		return COZE_REMOTE_FAILED;

	/* Twice nothing in a row: there is no statement without an answer. */
	while (empty < 2)
	{
		if (PQisBusy(remote->conn))
			return COZE_REMOTE_WAITING;
		remote->result = PQgetResult(remote->conn);
		if (remote->result == NULL)
		{
			empty++;
			continue;
		}
		empty = 0;
		if (read_result(remote->result, answer))
			return PQstatus(remote->conn) == CONNECTION_BAD ? COZE_REMOTE_FAILED : COZE_REMOTE_READY;
		if (PQresultStatus(remote->result) == PGRES_PIPELINE_SYNC)
			remote->unanswered--;
		PQclear(remote->result);
		remote->result = NULL;
	}
	return PQstatus(remote->conn) == CONNECTION_BAD ? COZE_REMOTE_FAILED : COZE_REMOTE_WAITING;
}

/* --- errors ----------------------------------------------------------------------------- */

static char *
without_last_newline(const char *text)
{
	char	   *copy = pstrdup(text);
	int			n = strlen(copy);

	while (n > 0 && copy[n - 1] == '\n')
		copy[--n] = '\0';
	return copy;
}

/* What the peer reported: message, detail and hint. */
static char *
reported_message(const PGresult *result)
{
	const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
	const char *detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL);
	const char *hint = PQresultErrorField(result, PG_DIAG_MESSAGE_HINT);

	if (message == NULL)
		return without_last_newline(PQresultErrorMessage(result));
	return psprintf("%s%s%s%s%s", message,
					detail != NULL ? " Detail: " : "", detail != NULL ? detail : "",
					hint != NULL ? " Hint: " : "", hint != NULL ? hint : "");
}

void
coze_remote_error(const CozeRemote *remote, CozeRemoteError *error)
{
	const char *code = NULL;

	if (remote->failure != NULL)
		error->message = pstrdup(remote->failure);
	else if (remote->result != NULL && PQresultStatus(remote->result) == PGRES_FATAL_ERROR)
	{
		code = PQresultErrorField(remote->result, PG_DIAG_SQLSTATE);
		error->message = reported_message(remote->result);
	}
	else
		error->message = without_last_newline(PQerrorMessage(remote->conn));
	if (error->message[0] == '\0')
		error->message = pstrdup("the connection broke");
	strlcpy(error->code, code != NULL ? code : "08006", sizeof(error->code));
}
