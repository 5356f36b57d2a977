/*-------------------------------------------------------------------------
 *
 * catalog.c
 *		The extension's own tables, found by name.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"

#include "log/catalog.h"

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
