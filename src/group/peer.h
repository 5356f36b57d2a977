/*-------------------------------------------------------------------------
 *
 * peer.h
 *		A conversation with another node while a user's command waits for it.
 *
 * For calls that ask or tell another node something once: checks of a DSN,
 * add_table(), join_group().  (Links keep their connections elsewhere.)  Waiting
 * can be interrupted.  A connection ends with the memory context it was made in.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_PEER_H
#define COZE_PEER_H

#include "postgres.h"

typedef struct CozePeerConnection CozePeerConnection;

/* Rows of an answer; NULL values are NULL pointers.  Everything is palloc'd. */
typedef struct CozePeerRows
{
	int			nrows;
	int			ncolumns;
	char	  **values;			/* row by row */
} CozePeerRows;

static inline const char *
coze_peer_value(const CozePeerRows *rows, int row, int column)
{
	return rows->values[row * rows->ncolumns + column];
}

/* ERROR unless the text is a connection string.  Never shows any of it. */
extern void coze_peer_check_dsn(const char *dsn, const char *what);

/*
 * Connect in the current memory context.  NULL if that is not possible; *error is
 * then a palloc'd text without the DSN.
 */
extern CozePeerConnection *coze_peer_connect(const char *dsn, char **error);
/* The same with an ERROR that says what the connection was for. */
extern CozePeerConnection *coze_peer_open(const char *dsn, const char *what);
extern void coze_peer_close(CozePeerConnection *peer);

/*
 * Is this very database, of this very server, at the other end?  Needs no right
 * over there and cannot be fooled by copies of a database.
 */
extern bool coze_peer_is_here(CozePeerConnection *peer);

/*
 * Execute one statement, in text format.  An error over there is raised here with
 * its SQLSTATE, detail and hint.
 */
extern CozePeerRows *coze_peer_query(CozePeerConnection *peer, const char *sql,
									 int nparams, const char *const *params);
/* The only value of the only row; palloc'd, or NULL. */
extern char *coze_peer_query_value(CozePeerConnection *peer, const char *sql,
								   int nparams, const char *const *params);

/* COPY ... TO STDOUT: begin, then read pieces until 0; *data stays until the next call. */
extern void coze_peer_copy_begin(CozePeerConnection *peer, const char *sql);
extern int	coze_peer_copy_read(CozePeerConnection *peer, char **data);

/*
 * The connection string without passwords, to be shown in a process list, and the
 * password that it held (or NULL).  Both palloc'd.
 */
extern char *coze_peer_dsn_without_password(const char *dsn, char **password);

#endif							/* COZE_PEER_H */
