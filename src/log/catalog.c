/*-------------------------------------------------------------------------
 *
 * catalog.c
 *		The extension's own tables, found by name.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/namespace.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/syscache.h"

#include "log/catalog.h"
#include "log/log.h"

static const char *const segment_table_names[] = {"log", "chunk"};

/* Of segments, from 1; InvalidOid: not looked up. */
static CozeSegmentOids oids[lengthof(segment_table_names)][COZE_LOG_SEGMENTS + 1];

Oid
coze_relation_oid(const char *name, bool missing_ok)
{
	Oid			namespace_oid = get_namespace_oid("cozesync", true);
	Oid			relid = InvalidOid;

	if (OidIsValid(namespace_oid))
		relid = get_relname_relid(name, namespace_oid);
	if (!OidIsValid(relid) && !missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table cozesync.%s does not exist", name),
				 errhint("Create the extension with CREATE EXTENSION cozesync.")));
	return relid;
}

Oid
coze_extension_owner(void)
{
	Relation	rel = RelationIdGetRelation(coze_relation_oid("local_node", false));
	Oid			owner = rel->rd_rel->relowner;

	RelationClose(rel);
	return owner;
}

/* Something in pg_class has changed. */
static void
forget_oids(Datum arg, int cacheid, uint32 hashvalue)
{
	memset(oids, 0, sizeof(oids));
}

static CozeSegmentOids
look_up(CozeSegmentTable table, int segment)
{
	static bool registered = false;
	char		name[NAMEDATALEN];
	Relation	rel;
	List	   *indexes;
	CozeSegmentOids found;

	if (!registered)
		CacheRegisterSyscacheCallback(RELOID, forget_oids, (Datum) 0);
	registered = true;
	snprintf(name, sizeof(name), "%s_%d", segment_table_names[table], segment);
	rel = table_open(coze_relation_oid(name, false), AccessShareLock);
	indexes = RelationGetIndexList(rel);
	if (list_length(indexes) != 1)
		elog(ERROR, "cozesync.%s has %d indexes", name, list_length(indexes));
	found.table = RelationGetRelid(rel);
	found.index = linitial_oid(indexes);
	list_free(indexes);
	table_close(rel, AccessShareLock);
	/* not before: opening it may have brought news */
	oids[table][segment] = found;
	return found;
}

CozeSegmentOids
coze_segment_oids(CozeSegmentTable table, int segment)
{
	CozeSegmentOids found = oids[table][segment];

	return OidIsValid(found.table) ? found : look_up(table, segment);
}
