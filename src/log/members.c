/*-------------------------------------------------------------------------
 *
 * members.c
 *		The members of the group, as this node knows them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "log/catalog.h"
#include "log/members.h"
#include "log/state.h"

static void
read_member(CozeMember *member, HeapTuple tuple, TupleDesc desc)
{
	Datum		d;
	bool		isnull;

	member->origin = (CozeOrigin) DatumGetInt64(heap_getattr(tuple, 1, desc, &isnull));
	member->node_name = TextDatumGetCString(heap_getattr(tuple, 2, desc, &isnull));
	d = heap_getattr(tuple, 3, desc, &isnull);
	member->dsn = isnull ? NULL : TextDatumGetCString(d);
	member->system_identifier = (uint64) DatumGetInt64(heap_getattr(tuple, 4, desc, &isnull));
	member->database_oid = (Oid) DatumGetInt64(heap_getattr(tuple, 5, desc, &isnull));
	(void) heap_getattr(tuple, 8, desc, &isnull);
	member->dropped = !isnull;
	member->is_local = coze_own_origin() == member->origin;
}

CozeMember *
coze_members_read(int *n)
{
	Relation	rel = table_open(coze_relation_oid("member", false), AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, GetActiveSnapshot(), 0, NULL);
	int			cap = 8;
	CozeMember *members = palloc(cap * sizeof(CozeMember));
	HeapTuple	tuple;

	*n = 0;
	while ((tuple = systable_getnext(scan)) != NULL)
	{
		if (*n == cap)
			members = repalloc(members, (cap *= 2) * sizeof(CozeMember));
		read_member(&members[(*n)++], tuple, RelationGetDescr(rel));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return members;
}

CozeDrop *
coze_drops_read(int *n)
{
	Relation	rel = table_open(coze_relation_oid("drop_entry", false), AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, GetActiveSnapshot(), 0, NULL);
	int			cap = 8;
	CozeDrop   *drops = palloc(cap * sizeof(CozeDrop));
	HeapTuple	tuple;
	bool		isnull;

	*n = 0;
	while ((tuple = systable_getnext(scan)) != NULL)
	{
		CozeDrop   *drop;

		if (*n == cap)
			drops = repalloc(drops, (cap *= 2) * sizeof(CozeDrop));
		drop = &drops[(*n)++];
		drop->origin = (CozeOrigin) DatumGetInt64(heap_getattr(tuple, 1, RelationGetDescr(rel), &isnull));
		drop->entry.origin = (CozeOrigin) DatumGetInt64(heap_getattr(tuple, 2, RelationGetDescr(rel), &isnull));
		drop->entry.hlc = DatumGetInt64(heap_getattr(tuple, 3, RelationGetDescr(rel), &isnull));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return drops;
}

CozeVersion *
coze_skipped_read(int *n)
{
	Relation	rel = table_open(coze_relation_oid("skipped_entry", false), AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, GetActiveSnapshot(), 0, NULL);
	int			cap = 8;
	CozeVersion *skipped = palloc(cap * sizeof(CozeVersion));
	HeapTuple	tuple;
	bool		isnull;

	*n = 0;
	while ((tuple = systable_getnext(scan)) != NULL)
	{
		if (*n == cap)
			skipped = repalloc(skipped, (cap *= 2) * sizeof(CozeVersion));
		skipped[*n].origin = (CozeOrigin) DatumGetInt64(heap_getattr(tuple, 1, RelationGetDescr(rel), &isnull));
		skipped[(*n)++].hlc = DatumGetInt64(heap_getattr(tuple, 2, RelationGetDescr(rel), &isnull));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return skipped;
}
