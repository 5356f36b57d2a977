/*-------------------------------------------------------------------------
 *
 * utility.c
 *		Commands of others that the workers must make room for.
 *
 * DROP DATABASE, ALTER DATABASE ... RENAME and SET TABLESPACE, and CREATE DATABASE
 * with a template fail while anybody is connected to the database.  So our workers
 * and the sessions of peers leave it for as long as the command takes.  Only for
 * who may give the command: anybody else gets the server's error, undisturbed.
 *
 * DROP EXTENSION takes the tables away under everything that was read off them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/syscache.h"

#include "compat.h"
#include "link/launcher.h"
#include "link/utility.h"
#include "log/state.h"

static ProcessUtility_hook_type previous_hook;

/* --- databases ----------------------------------------------------------------------- */

/* The name in an option like TEMPLATE = name, or NULL. */
static const char *
name_option(List *options, const char *option)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		if (strcmp(def->defname, option) == 0 && def->arg != NULL)
			return defGetString(def);
	}
	return NULL;
}

/* May the current user copy this database?  As CREATE DATABASE sees it. */
static bool
may_copy(Oid database)
{
	HeapTuple	tuple;
	bool		is_template = false;

	if (coze_owns_database(database))
		return true;
	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	if (HeapTupleIsValid(tuple))
	{
		is_template = ((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
		ReleaseSysCache(tuple);
	}
	return is_template && have_createdb_privilege();
}

/* The database that must be without sessions for this command, or InvalidOid. */
static Oid
database_to_clear(Node *statement)
{
	const char *name = NULL;
	Oid			database;

	switch (nodeTag(statement))
	{
		case T_DropdbStmt:
			name = ((DropdbStmt *) statement)->dbname;
			break;
		case T_RenameStmt:
			if (((RenameStmt *) statement)->renameType == OBJECT_DATABASE)
				name = ((RenameStmt *) statement)->subname;
			break;
		case T_AlterDatabaseStmt:
			if (name_option(((AlterDatabaseStmt *) statement)->options, "tablespace") != NULL)
				name = ((AlterDatabaseStmt *) statement)->dbname;
			break;
		case T_CreatedbStmt:
			name = name_option(((CreatedbStmt *) statement)->options, "template");
			if (name == NULL)
				name = "template1";
			break;
		default:
			break;
	}
	if (name == NULL)
		return InvalidOid;
	database = get_database_oid(name, true);
	if (!OidIsValid(database) || database == MyDatabaseId)
		return InvalidOid;
	if (IsA(statement, CreatedbStmt) ? !may_copy(database) : !coze_owns_database(database))
		return InvalidOid;
	return database;
}

static void
release_at_exit(int code, Datum arg)
{
	coze_launcher_release(DatumGetObjectId(arg));
}

/* --- the extension --------------------------------------------------------------------- */

static bool
may_drop_extension(Node *statement)
{
	return IsA(statement, DropStmt) || IsA(statement, DropOwnedStmt);
}

/* The extension was dropped by this transaction: nobody may go on with what it knew. */
static void
extension_dropped(void)
{
	coze_detach_at_end();
	coze_group_changed_at_commit();
}

/* --- the hook ---------------------------------------------------------------------------- */

static void
run_next(PlannedStmt *pstmt, const char *query, bool read_only, ProcessUtilityContext context,
		 ParamListInfo params, QueryEnvironment *env, DestReceiver *dest, QueryCompletion *qc)
{
	if (previous_hook != NULL)
		previous_hook(pstmt, query, read_only, context, params, env, dest, qc);
	else
		standard_ProcessUtility(pstmt, query, read_only, context, params, env, dest, qc);
}

static void
utility_hook(PlannedStmt *pstmt, const char *query, bool read_only,
			 ProcessUtilityContext context, ParamListInfo params, QueryEnvironment *env,
			 DestReceiver *dest, QueryCompletion *qc)
{
	Node	   *statement = pstmt->utilityStmt;
	Oid			database = database_to_clear(statement);
	bool		had_extension;

	if (OidIsValid(database))
	{
		PG_ENSURE_ERROR_CLEANUP(release_at_exit, ObjectIdGetDatum(database));
		{
			coze_launcher_hold(database);
			run_next(pstmt, query, read_only, context, params, env, dest, qc);
		}
		PG_END_ENSURE_ERROR_CLEANUP(release_at_exit, ObjectIdGetDatum(database));
		coze_launcher_release(database);
		coze_launcher_wake(InvalidOid);
		return;
	}
	had_extension = may_drop_extension(statement) && OidIsValid(get_extension_oid("cozesync", true));
	run_next(pstmt, query, read_only, context, params, env, dest, qc);
	if (had_extension && !OidIsValid(get_extension_oid("cozesync", true)))
		extension_dropped();
}

void
coze_utility_init(void)
{
	previous_hook = ProcessUtility_hook;
	ProcessUtility_hook = utility_hook;
}
