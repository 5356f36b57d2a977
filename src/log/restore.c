/*-------------------------------------------------------------------------
 *
 * restore.c
 *		State as the tables have it.
 *
 * Invariant: what is restored covers every entry that is committed here, so
 * that the clock never falls behind the log and nothing is applied twice.  The
 * origins to look for are the members, former ones too, and those of the prune
 * base: an entry of an origin is applied only after the row that made it a member.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/uuid.h"

#include "debug.h"
#include "log/catalog.h"
#include "log/log.h"
#include "log/members.h"
#include "log/restore.h"

static CozeNodeState
state_by_name(const char *name)
{
	if (strcmp(name, "joining") == 0)
		return COZE_NODE_JOINING;
	if (strcmp(name, "ready") == 0)
		return COZE_NODE_READY;
	return COZE_NODE_LEFT;
}

/* The row of cozesync.local_node; false if there is none. */
static bool
restore_local_node(CozeRestored *restored, Snapshot snapshot)
{
	Oid			relid = coze_relation_oid("local_node", true);
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		isnull;

	if (!OidIsValid(relid))
		return false;
	rel = table_open(relid, AccessShareLock);
	scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0, NULL);
	tuple = systable_getnext(scan);
	if (tuple != NULL)
	{
		TupleDesc	desc = RelationGetDescr(rel);
		Datum		d;

		restored->origin = (CozeOrigin) DatumGetInt64(heap_getattr(tuple, 2, desc, &isnull));
		d = heap_getattr(tuple, 3, desc, &isnull);
		memcpy(restored->group_id, DatumGetUUIDP(d)->data, UUID_LEN);
		d = heap_getattr(tuple, 5, desc, &isnull);
		restored->state = state_by_name(TextDatumGetCString(d));
		restored->cut = DatumGetInt64(heap_getattr(tuple, 8, desc, &isnull));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return restored->origin != 0;
}

static void
restore_base(CozeRestored *restored, Snapshot snapshot)
{
	Relation	rel = table_open(coze_relation_oid("base", false), AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0, NULL);
	HeapTuple	tuple;
	bool		isnull;

	while ((tuple = systable_getnext(scan)) != NULL)
	{
		CozeOrigin	origin = (CozeOrigin) DatumGetInt64(heap_getattr(tuple, 1, RelationGetDescr(rel), &isnull));
		CozeHlc		hlc = DatumGetInt64(heap_getattr(tuple, 2, RelationGetDescr(rel), &isnull));

		coze_vector_raise(&restored->base, origin, hlc);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
}

static void
restore_origin(CozeRestored *restored, CozeOrigin origin, Snapshot snapshot)
{
	CozeHlc		hlc = coze_vector_get(&restored->base, origin);

	hlc = Max(hlc, coze_log_highest(origin, snapshot));
	restored->clock = Max(restored->clock, hlc);
	if (origin == restored->origin)
		restored->own_last = hlc;
	else if (hlc != 0)
		coze_vector_raise(&restored->held, origin, hlc);
}

void
coze_restore(CozeRestored *restored)
{
	Snapshot	snapshot;
	CozeMember *members;
	int			n;

	memset(restored, 0, sizeof(*restored));
	coze_vector_init(&restored->held);
	coze_vector_init(&restored->base);
	restored->state = COZE_NODE_NONE;
	restored->segment = 1;

	snapshot = RegisterSnapshot(GetLatestSnapshot());
	if (restore_local_node(restored, snapshot))
	{
		if (COZE_RULE("base-vector"))
			restore_base(restored, snapshot);
		for (int i = 0; i < restored->base.n; i++)
			restore_origin(restored, restored->base.e[i].origin, snapshot);
		PushActiveSnapshot(snapshot);
		members = coze_members_read(&n);
		PopActiveSnapshot();
		for (int i = 0; i < n; i++)
			restore_origin(restored, members[i].origin, snapshot);
		restore_origin(restored, restored->origin, snapshot);
		restored->clock = COZE_RULE("clock-restore") ? Max(restored->clock, restored->cut) : 0;
		restored->segment = coze_log_last_segment();
	}
	UnregisterSnapshot(snapshot);
}
