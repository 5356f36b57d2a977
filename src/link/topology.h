/*-------------------------------------------------------------------------
 *
 * topology.h
 *		Who is linked with whom, and who works the links.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_TOPOLOGY_H
#define COZE_TOPOLOGY_H

#include "postgres.h"

#include "base/wire.h"
#include "log/members.h"

typedef enum CozeLinkMode
{
	COZE_MODE_OFF,				/* no direct link */
	COZE_MODE_PUSH,				/* the source connects to the target */
	COZE_MODE_PULL,				/* the target connects to the source */
} CozeLinkMode;

#define COZE_LINK_MODES (COZE_MODE_PULL + 1)

typedef struct CozeConfiguredLink
{
	CozeOrigin	source;
	CozeOrigin	target;
	CozeLinkMode mode;
} CozeConfiguredLink;

typedef struct CozeTopology
{
	int			nmembers;
	CozeMember *members;
	int			nlinks;			/* those that are not the default */
	CozeConfiguredLink *links;
	int			npaused;		/* peers whose links are paused here */
	CozeOrigin *paused;
} CozeTopology;

/*
 * As the latest snapshot shows it, in CurrentMemoryContext.  Needs a transaction;
 * no rights on any table.
 */
extern CozeTopology *coze_topology_read(void);

extern const CozeMember *coze_topology_member(const CozeTopology *topology, CozeOrigin origin);
extern const CozeMember *coze_topology_local(const CozeTopology *topology);
extern bool coze_topology_is_paused(const CozeTopology *topology, CozeOrigin peer);
extern const char *coze_link_mode_name(CozeLinkMode mode);

/*
 * The mode that the link really has: who cannot be connected to makes its own
 * connections.  Off if one of the two is not a live member.
 */
extern CozeLinkMode coze_topology_mode(const CozeTopology *topology,
									   CozeOrigin source, CozeOrigin target);

/* What cozesync.local_node says that this database is; false if it has no row, or is missing. */
typedef struct CozeIdentity
{
	CozeOrigin	origin;
	bool		left;			/* is no member any more */
	uint64		system_identifier;
	Oid			database_oid;
} CozeIdentity;

extern bool coze_identity_read(CozeIdentity *identity);

/* The last pruned entries, with their checksums. */
extern void coze_base_read(CozePositions *base);

#endif							/* COZE_TOPOLOGY_H */
