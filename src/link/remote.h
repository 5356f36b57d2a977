/*-------------------------------------------------------------------------
 *
 * remote.h
 *		A connection to a peer that never waits.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_REMOTE_H
#define COZE_REMOTE_H

#include "postgres.h"

#include "base/buf.h"

typedef struct CozeRemote CozeRemote;

typedef enum CozeRemoteStatus
{
	COZE_REMOTE_WAITING,		/* for the socket */
	COZE_REMOTE_READY,			/* connected; or: an answer is here */
	COZE_REMOTE_FAILED,			/* see the error; only good for closing */
} CozeRemoteStatus;

/* What came back for one statement.  Bytes are valid until the next call. */
typedef struct CozeAnswer
{
	bool		is_error;		/* the statement failed; the connection goes on */
	bool		is_null;
	const char *data;			/* of the first column of the only row */
	Size		size;
} CozeAnswer;

/* An error of the connection, or one that the peer reported. */
typedef struct CozeRemoteError
{
	char		code[6];		/* SQLSTATE */
	char	   *message;		/* with detail and hint; palloc'd */
} CozeRemoteError;

/*
 * Begin to connect.  Never NULL.  The server's descriptor count knows of it.
 * application_name overrides what the DSN says.
 */
extern CozeRemote *coze_remote_open(const char *dsn, const char *application_name);
extern void coze_remote_close(CozeRemote *remote);

/*
 * Close it once the server is done with what it was sent, or after a while, so that
 * the server does not complain.  sweep() does that; true: there are some left.
 */
extern void coze_remote_retire(CozeRemote *remote);
extern bool coze_remote_sweep(void);

/* While connecting: go on as far as possible. */
extern CozeRemoteStatus coze_remote_connect(CozeRemote *remote);

/* Socket and WL_SOCKET_* events that are waited for; PGINVALID_SOCKET: none. */
extern pgsocket coze_remote_socket(const CozeRemote *remote);
extern uint32 coze_remote_events(const CozeRemote *remote);

/*
 * Send a statement, a constant of which there are few, with bytea parameters (NULL: NULL),
 * behind what was sent before; each is a transaction of its own.  Answers come in the same
 * order.
 */
extern bool coze_remote_send(CozeRemote *remote, const char *sql, int n,
							 const CozeBuf *const *params);

/* Read what has come: READY with the next answer, WAITING if there is none yet. */
extern CozeRemoteStatus coze_remote_receive(CozeRemote *remote, CozeAnswer *answer);

/* Of a failed connection, or of the answer received last.  Never tells a DSN or password. */
extern void coze_remote_error(const CozeRemote *remote, CozeRemoteError *error);

extern bool coze_dsn_is_valid(const char *dsn);

#endif							/* COZE_REMOTE_H */
