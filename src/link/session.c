/*-------------------------------------------------------------------------
 *
 * session.c
 *		How a link begins: greetings, identities, positions.
 *
 * Either side tells who it is and which entry of each origin it holds last, and
 * either side checks what it is told, before anything else passes:
 *
 *	- protocol and group are ours;
 *	- the other is a live member, the one that was meant, and not ourselves;
 *	- either database is the one that joined: a copy has another system identifier
 *	  or another oid;
 *	- every position that we can judge names an entry that we hold, with the same
 *	  checksum.  A peer that holds an entry of ours which we do not hold shows that
 *	  this database went back in time: a lagging standby that was promoted, an older
 *	  backup.  Then all links close, since what we would write next would lie in
 *	  the place of what was lost.
 *
 * Invariant: a position is the hlc of an entry that its sender holds, and is
 * flushed before it is told.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "debug.h"
#include "link/session.h"
#include "log/log.h"
#include "log/state.h"
#include "log/wall.h"

CozeDroppedHook coze_dropped_hook = NULL;

/* --- our greeting ---------------------------------------------------------------- */

static const CozePosition *
find_position(const CozePositions *positions, CozeOrigin origin)
{
	for (int i = 0; i < positions->n; i++)
	{
		if (positions->p[i].origin == origin)
			return &positions->p[i];
	}
	return NULL;
}

CozePosition
coze_position_of(CozeOrigin origin, CozeHlc held, const CozePositions *base)
{
	CozePosition position = {.origin = origin, .hlc = held};
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	const CozePosition *pruned = find_position(base, origin);
	CozeHlc		hlc;
	char	   *head;
	Size		size;

	if (coze_log_last(origin, held, snapshot, &hlc, &head, &size) && hlc == held)
	{
		position.crc = coze_wire_head_crc(head, size);
		pfree(head);
	}
	else if (pruned != NULL && pruned->hlc == held)
		position.crc = pruned->crc;
	UnregisterSnapshot(snapshot);
	return position;
}

static int
compare_positions(const void *a, const void *b)
{
	CozeOrigin	x = ((const CozePosition *) a)->origin;
	CozeOrigin	y = ((const CozePosition *) b)->origin;

	return x < y ? -1 : x > y ? 1 : 0;
}

void
coze_hello_make(CozeBuf *buf)
{
	CozeTopology *topology = coze_topology_read();
	const CozeMember *local = coze_topology_local(topology);
	CozeVector	held = {0};
	CozePositions base;
	CozeHello	hello = {
		.protocol = COZE_WIRE_VERSION,
		.origin = coze_own_origin(),
		.system_identifier = GetSystemIdentifier(),
		.database_oid = MyDatabaseId,
		.server_version = COZE_SERVER_VERSION,
		.instance = coze_instance(),
	};

	memcpy(hello.group_id, coze_group_id(), sizeof(hello.group_id));
	hello.node_name = local != NULL ? local->node_name : "?";
	coze_held_visible(&held);
	coze_base_read(&base);
	hello.held.p = palloc((held.n + 1) * sizeof(CozePosition));
	for (int i = 0; i < held.n; i++)
		hello.held.p[hello.held.n++] = coze_position_of(held.e[i].origin, held.e[i].hlc, &base);
	hello.held.p[hello.held.n++] = coze_position_of(hello.origin, coze_own_committed(), &base);
	qsort(hello.held.p, hello.held.n, sizeof(CozePosition), compare_positions);
	coze_flush();
	hello.clock = coze_wall();
	coze_wire_put_hello(buf, &hello);
	coze_vector_free(&held);
}

/* --- identity ---------------------------------------------------------------------- */

/*
 * Is this database another than the one that cozesync.local_node was written in?
 * If so *identity says which that was.
 */
static bool
is_elsewhere(CozeIdentity *identity)
{
	return coze_identity_read(identity) && COZE_RULE("identity") &&
		(identity->system_identifier != GetSystemIdentifier() ||
		 identity->database_oid != MyDatabaseId);
}

char *
coze_identity_problem(void)
{
	CozeIdentity identity;
	char	   *reason;

	(void) coze_attach();
	reason = coze_link_closed_reason();
	if (reason == NULL && is_elsewhere(&identity))
		reason = pstrdup("this database is not the one that joined the group");
	return reason;
}

void
coze_check_identity(void)
{
	CozeIdentity identity;
	char	   *reason = coze_link_closed_reason();

	if (reason != NULL)
		ereport(ERROR,
				(errcode(COZE_ERRCODE_NEEDS_COPY),
				 errmsg("the links of this database are closed: %s", reason),
				 errhint("Call cozesync.confirm_identity(new_incarnation => true) to go on as a new incarnation.")));
	if (is_elsewhere(&identity))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this database is not the one that joined the group"),
				 errdetail("Its system identifier is %llu and its oid %u; the node has system identifier %llu and oid %u.",
						   (unsigned long long) GetSystemIdentifier(), MyDatabaseId,
						   (unsigned long long) identity.system_identifier,
						   identity.database_oid),
				 errhint("If it was moved or upgraded and the original is gone, call cozesync.confirm_identity(). If it is a copy, call cozesync.leave_group() here.")));
}

/*
 * The peer's database is the one that its row in cozesync.member names, or it
 * has entries of its own that we lack: its confirmation may be among them.
 */
static void
check_peer_identity(const CozeHello *hello, const CozeMember *member)
{
	const CozePosition *own = find_position(&hello->held, hello->origin);

	if (!COZE_RULE("identity") ||
		(hello->system_identifier == member->system_identifier &&
		 hello->database_oid == member->database_oid))
		return;
	if (own != NULL && own->hlc > coze_held_of(hello->origin))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the database that calls itself node \"%s\" is not the one that joined as such",
					member->node_name),
			 errdetail("Its system identifier is %llu and its oid %u; the node has system identifier %llu and oid %u.",
					   (unsigned long long) hello->system_identifier, hello->database_oid,
					   (unsigned long long) member->system_identifier, member->database_oid),
			 errhint("If it was moved or upgraded, call cozesync.confirm_identity() there.")));
}

void
coze_check_peer(const CozeTopology *topology, CozeOrigin peer, const char *name)
{
	const CozeMember *member = coze_topology_member(topology, peer);

	if (member == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("node \"%s\" is not known here as a member of the group", name),
				 errhint("If it has just joined, the news are on their way.")));
	if (member->dropped)
		ereport(ERROR,
				(errcode(COZE_ERRCODE_DROPPED),
				 errmsg("node \"%s\" is not a member of the group any more", member->node_name)));
	if (coze_topology_is_paused(topology, peer))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the links with node \"%s\" are paused", member->node_name),
				 errhint("Call cozesync.resume() on the node where they were paused.")));
}

/* --- positions ---------------------------------------------------------------------- */

COZE_NORETURN static void
report_lost(const CozeHello *hello, CozeHlc hlc)
{
	char	   *reason = psprintf("node \"%s\" holds a transaction of this node (%s) that is not in its log",
								  hello->node_name, timestamptz_to_str(hlc));

	coze_link_close_all(reason);
	coze_worker_wake(COZE_WORKER_LINKER);
	ereport(ERROR,
			(errcode(COZE_ERRCODE_NEEDS_COPY),
			 errmsg("this database has lost transactions: %s", reason),
			 errdetail("A standby that lagged was promoted, or an older state was restored."),
			 errhint("Drop this node on another member with cozesync.drop_node() and join it anew.")));
}

/* Do we hold exactly this entry, or have we pruned it, so that we cannot know? */
static bool
holds_position(const CozePosition *position, const CozePositions *base)
{
	const CozePosition *pruned = find_position(base, position->origin);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	CozeHlc		hlc;
	char	   *head;
	Size		size;
	uint32		crc = 0;
	bool		found = coze_log_last(position->origin, position->hlc, snapshot, &hlc, &head, &size) &&
		hlc == position->hlc;

	UnregisterSnapshot(snapshot);
	if (found)
		crc = coze_wire_head_crc(head, size);
	else if (pruned != NULL && pruned->hlc == position->hlc)
		crc = pruned->crc;
	else
		return position->hlc <= coze_base_of(position->origin);
	return crc == 0 || position->crc == 0 || crc == position->crc;
}

/*
 * What the peer holds must be what we hold, as far as both have got.  Of our own
 * entries it cannot hold more than we do.
 */
static void
check_positions(const CozeHello *hello)
{
	CozeOrigin	own = coze_own_origin();
	CozeHlc		own_committed = coze_own_committed();
	CozeVector	held = {0};
	CozePositions base;

	if (!COZE_RULE("position-check"))
		return;
	coze_base_read(&base);
	coze_held_visible(&held);
	for (int i = 0; i < hello->held.n; i++)
	{
		const CozePosition *position = &hello->held.p[i];
		bool		is_own = position->origin == own;
		CozeHlc		ours = is_own ? own_committed :
			coze_vector_get(&held, position->origin);

		if (is_own ? position->hlc <= ours && holds_position(position, &base) :
			position->hlc > ours || holds_position(position, &base))
			continue;
		if (is_own)
			report_lost(hello, position->hlc);
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("node \"%s\" and this node hold different transactions of one origin",
						hello->node_name),
				 errdetail("Origin %llu, at %s.", (unsigned long long) position->origin,
						   timestamptz_to_str(position->hlc)),
				 errhint("One of the databases was restored to an older state; drop and join it anew.")));
	}
}

/* --- the greeting of a peer -------------------------------------------------------------- */

static void
decode_hello(const char *data, Size size, CozeHello *hello)
{
	const char *error = coze_wire_get_hello(data, size, hello);

	if (error == NULL)
		return;
	if (hello->protocol != 0 && hello->protocol != COZE_WIRE_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the other node speaks version %u of the protocol, this one version %d",
						hello->protocol, COZE_WIRE_VERSION),
				 errhint("Bring both nodes to the same version of cozesync.")));
	ereport(ERROR,
			(errcode(ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("invalid greeting: %s", error)));
}

static void
check_right_node(const CozeHello *hello, CozeOrigin expected, const CozeTopology *topology)
{
	const CozeMember *meant = coze_topology_member(topology, expected);

	if (memcmp(hello->group_id, coze_group_id(), sizeof(hello->group_id)) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("node \"%s\" belongs to another group", hello->node_name),
				 errhint("Correct the DSN with cozesync.set_dsn().")));
	if (hello->origin == coze_own_origin())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the node is connected to itself"),
				 errhint("Correct the DSN with cozesync.set_dsn(). If one database is a copy of the other, call cozesync.leave_group() in the copy.")));
	if (expected != 0 && hello->origin != expected)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the DSN of node \"%s\" leads to node \"%s\"",
						meant != NULL ? meant->node_name : "?", hello->node_name),
				 errhint("Correct the DSN with cozesync.set_dsn().")));
}

bool
coze_hello_is_of_stranger(const char *data, Size size)
{
	CozeHello	hello;

	if (coze_wire_get_hello(data, size, &hello) != NULL)
		return false;
	return memcmp(hello.group_id, coze_group_id(), sizeof(hello.group_id)) == 0 &&
		hello.origin != coze_own_origin() &&
		coze_topology_member(coze_topology_read(), hello.origin) == NULL;
}

void
coze_hello_check(const char *data, Size size, CozeOrigin expected, CozeHello *hello)
{
	CozeTopology *topology = coze_topology_read();

	decode_hello(data, size, hello);
	coze_check_identity();
	check_right_node(hello, expected, topology);
	coze_check_peer(topology, hello->origin, hello->node_name);
	check_peer_identity(hello, coze_topology_member(topology, hello->origin));
	check_positions(hello);
	if (!coze_link_greeted(coze_link_slot(hello->origin), hello->instance))
		ereport(ERROR,
				(errcode(COZE_ERRCODE_TWIN),
				 errmsg("another database is linked as node \"%s\"", hello->node_name),
				 errdetail("It was here before, and both are running."),
				 errhint("In a copy of a node call cozesync.leave_group(). If the copy is to be the node, stop the original, then restart the copy.")));
}
