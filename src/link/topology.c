/*-------------------------------------------------------------------------
 *
 * topology.c
 *		Who is linked with whom, and who works the links.
 *
 * Reads the extension's tables by scanning them, without SQL: the roles of
 * peers that come this way have no right on any table and need none.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "link/topology.h"
#include "log/catalog.h"

/* Of each table of the extension that is read here, in the order of its columns. */
#define LINK_MODE_SOURCE		1
#define LINK_MODE_TARGET		2
#define LINK_MODE_MODE			3

#define PAUSED_LINK_PEER		1

#define LOCAL_NODE_ORIGIN		2
#define LOCAL_NODE_STATE		5
#define LOCAL_NODE_SYSTEM		6
#define LOCAL_NODE_DATABASE		7

#define BASE_ORIGIN				1
#define BASE_HLC				2
#define BASE_CRC				3

static const char *const mode_names[] = {
	[COZE_MODE_OFF] = "off",
	[COZE_MODE_PUSH] = "push",
	[COZE_MODE_PULL] = "pull",
};

StaticAssertDecl(lengthof(mode_names) == COZE_LINK_MODES, "a link mode has no name");

typedef void (*RowCallback) (void *arg, HeapTuple tuple, TupleDesc desc);

/* Call for every row of a table of the extension that the latest snapshot shows. */
static void
scan_table(const char *name, RowCallback callback, void *arg)
{
	Relation	rel = table_open(coze_relation_oid(name, false), AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan;
	HeapTuple	tuple;

	scan = table_beginscan(rel, snapshot, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
		callback(arg, tuple, RelationGetDescr(rel));
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
}

/* A column that cannot be NULL. */
static Datum
column(HeapTuple tuple, int number, TupleDesc desc)
{
	bool		isnull;

	return heap_getattr(tuple, number, desc, &isnull);
}

static CozeLinkMode
mode_from_name(const char *name)
{
	for (int i = 0; i < COZE_LINK_MODES; i++)
	{
		if (strcmp(name, mode_names[i]) == 0)
			return (CozeLinkMode) i;
	}
	elog(ERROR, "unknown link mode \"%s\"", name);
}

const char *
coze_link_mode_name(CozeLinkMode mode)
{
	return mode_names[mode];
}

static void
take_link(void *arg, HeapTuple tuple, TupleDesc desc)
{
	CozeTopology *topology = arg;
	CozeConfiguredLink *link;

	topology->links = repalloc(topology->links,
							   (topology->nlinks + 1) * sizeof(CozeConfiguredLink));
	link = &topology->links[topology->nlinks++];
	link->source = DatumGetInt64(column(tuple, LINK_MODE_SOURCE, desc));
	link->target = DatumGetInt64(column(tuple, LINK_MODE_TARGET, desc));
	link->mode = mode_from_name(TextDatumGetCString(column(tuple, LINK_MODE_MODE, desc)));
}

static void
take_paused(void *arg, HeapTuple tuple, TupleDesc desc)
{
	CozeTopology *topology = arg;

	topology->paused = repalloc(topology->paused, (topology->npaused + 1) * sizeof(CozeOrigin));
	topology->paused[topology->npaused++] =
		DatumGetInt64(column(tuple, PAUSED_LINK_PEER, desc));
}

CozeTopology *
coze_topology_read(void)
{
	CozeTopology *topology = palloc0(sizeof(CozeTopology));

	PushActiveSnapshot(GetLatestSnapshot());
	topology->members = coze_members_read(&topology->nmembers);
	PopActiveSnapshot();
	topology->links = palloc(sizeof(CozeConfiguredLink));
	topology->paused = palloc(sizeof(CozeOrigin));
	scan_table("link_mode", take_link, topology);
	scan_table("paused_link", take_paused, topology);
	return topology;
}

const CozeMember *
coze_topology_member(const CozeTopology *topology, CozeOrigin origin)
{
	for (int i = 0; i < topology->nmembers; i++)
	{
		if (topology->members[i].origin == origin)
			return &topology->members[i];
	}
	return NULL;
}

/* NULL if the local node is not among the members yet. */
const CozeMember *
coze_topology_local(const CozeTopology *topology)
{
	for (int i = 0; i < topology->nmembers; i++)
	{
		if (topology->members[i].is_local)
			return &topology->members[i];
	}
	return NULL;
}

bool
coze_topology_is_paused(const CozeTopology *topology, CozeOrigin peer)
{
	for (int i = 0; i < topology->npaused; i++)
	{
		if (topology->paused[i] == peer)
			return true;
	}
	return false;
}

CozeLinkMode
coze_topology_mode(const CozeTopology *topology, CozeOrigin source, CozeOrigin target)
{
	const CozeMember *from = coze_topology_member(topology, source);
	const CozeMember *to = coze_topology_member(topology, target);
	CozeLinkMode mode = COZE_MODE_PUSH;

	if (from == NULL || to == NULL || from == to || from->dropped || to->dropped)
		return COZE_MODE_OFF;
	for (int i = 0; i < topology->nlinks; i++)
	{
		if (topology->links[i].source == source && topology->links[i].target == target)
			mode = topology->links[i].mode;
	}
	if (mode == COZE_MODE_PUSH && to->dsn == NULL)
		mode = COZE_MODE_PULL;
	else if (mode == COZE_MODE_PULL && from->dsn == NULL)
		mode = COZE_MODE_PUSH;
	if ((mode == COZE_MODE_PUSH && to->dsn == NULL) ||
		(mode == COZE_MODE_PULL && from->dsn == NULL))
		mode = COZE_MODE_OFF;
	return mode;
}

static void
take_identity(void *arg, HeapTuple tuple, TupleDesc desc)
{
	CozeIdentity *identity = arg;

	identity->left =
		strcmp(TextDatumGetCString(column(tuple, LOCAL_NODE_STATE, desc)), "left") == 0;
	identity->origin = DatumGetInt64(column(tuple, LOCAL_NODE_ORIGIN, desc));
	identity->system_identifier = DatumGetInt64(column(tuple, LOCAL_NODE_SYSTEM, desc));
	identity->database_oid = DatumGetObjectId(column(tuple, LOCAL_NODE_DATABASE, desc));
}

bool
coze_identity_read(CozeIdentity *identity)
{
	memset(identity, 0, sizeof(*identity));
	if (!OidIsValid(coze_relation_oid("local_node", true)))
		return false;
	scan_table("local_node", take_identity, identity);
	return identity->origin != 0;
}

static void
take_base(void *arg, HeapTuple tuple, TupleDesc desc)
{
	CozePositions *base = arg;
	CozePosition *position;

	base->p = repalloc(base->p, (base->n + 1) * sizeof(CozePosition));
	position = &base->p[base->n++];
	position->origin = DatumGetInt64(column(tuple, BASE_ORIGIN, desc));
	position->hlc = DatumGetInt64(column(tuple, BASE_HLC, desc));
	position->crc = (uint32) DatumGetInt64(column(tuple, BASE_CRC, desc));
}

void
coze_base_read(CozePositions *base)
{
	base->n = 0;
	base->p = palloc(sizeof(CozePosition));
	scan_table("base", take_base, base);
}
