/*-------------------------------------------------------------------------
 *
 * catalog.c
 *		The extension's own tables, found by name.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

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
static Oid	oids[lengthof(segment_table_names)][COZE_LOG_SEGMENTS + 1];

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

static Oid
look_up(CozeSegmentTable table, int segment)
{
	static bool registered = false;
	char		name[NAMEDATALEN];
	Oid			found;

	if (!registered)
		CacheRegisterSyscacheCallback(RELOID, forget_oids, (Datum) 0);
	registered = true;
	snprintf(name, sizeof(name), "%s_%d", segment_table_names[table], segment);
	found = coze_relation_oid(name, false);
	/* not before: looking it up may have brought news */
	oids[table][segment] = found;
	return found;
}

Oid
coze_segment_oid(CozeSegmentTable table, int segment)
{
	Oid			found = oids[table][segment];

	return OidIsValid(found) ? found : look_up(table, segment);
}
