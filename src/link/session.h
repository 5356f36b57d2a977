/*-------------------------------------------------------------------------
 *
 * session.h
 *		How a link begins: greetings, identities, positions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_SESSION_H
#define COZE_SESSION_H

#include "postgres.h"

#include "base/wire.h"
#include "link/link_state.h"
#include "link/topology.h"

/* How a node is told that it was dropped from the group. */
#define COZE_ERRCODE_DROPPED	MAKE_SQLSTATE('C', 'Z', '0', '0', '1')
#define COZE_SQLSTATE_DROPPED	"CZ001"

/* How a node is told, or tells, that what one of the two holds cannot be brought up to date. */
#define COZE_ERRCODE_NEEDS_COPY	MAKE_SQLSTATE('C', 'Z', '0', '0', '2')

/* How a database is told that another one is linked as the node that it says it is. */
#define COZE_ERRCODE_TWIN	MAKE_SQLSTATE('C', 'Z', '0', '0', '3')
#define COZE_SQLSTATE_TWIN	"CZ003"

/* Called, outside of a transaction, when a peer says that we were dropped. */
typedef void (*CozeDroppedHook) (CozeOrigin own);
extern CozeDroppedHook coze_dropped_hook;

/*
 * Our greeting; what it says is flushed.  Needs a transaction in a member
 * database.
 */
extern void coze_hello_make(CozeBuf *buf);

/*
 * Take a peer's greeting: decode it and check it against all that we know.
 * expected: whom we meant to reach, 0 if it reached us.  ERROR if anything does not
 * fit.  Positions that show that this database lost entries of its own close all
 * links.  Needs a transaction; *hello is palloc'd.
 */
extern void coze_hello_check(const char *data, Size size, CozeOrigin expected,
							 CozeHello *hello);

/*
 * Does a greeting come from our group, of a node that is not known here?  It may have
 * joined a moment ago, or this node knows nobody yet, since it is being copied.
 */
extern bool coze_hello_is_of_stranger(const char *data, Size size);

/*
 * ERROR unless this database may have links at all: it is what
 * cozesync.local_node says, and none of its peers has shown that it is not.
 */
extern void coze_check_identity(void);

/* Why it may not, in short; NULL: it may.  palloc'd. */
extern char *coze_identity_problem(void);

/* ERROR unless the peer is a live member whose links are not paused here. */
extern void coze_check_peer(const CozeTopology *topology, CozeOrigin peer, const char *name);

/* Which entry of an origin this node holds last, with its checksum if known. */
extern CozePosition coze_position_of(CozeOrigin origin, CozeHlc held, const CozePositions *base);

#endif							/* COZE_SESSION_H */
