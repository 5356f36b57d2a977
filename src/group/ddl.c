/*-------------------------------------------------------------------------
 *
 * ddl.c
 *		DDL on every node: execute_everywhere().
 *
 * The caller's SQL is executed here, then written to cozesync.ddl, whose row
 * travels like any other; where it is applied a trigger executes the SQL in the
 * applier's transaction, as the same role and with the settings that the meaning of
 * SQL depends on.
 *
 * Invariants: the row is the first change of its entry, so that no change of a table
 * as it was comes after it there; the SQL itself leaves no captured change, since what
 * it did to rows would then be done twice.  The role cannot become another one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "parser/parser.h"
#include "tcop/cmdtag.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

#include "apply/apply.h"
#include "apply/stop.h"
#include "capture/buffer.h"
#include "log/catalog.h"
#include "log/state.h"

PG_FUNCTION_INFO_V1(coze_ddl_is_applying);
PG_FUNCTION_INFO_V1(coze_ddl_in_progress);
PG_FUNCTION_INFO_V1(coze_ddl_run);
PG_FUNCTION_INFO_V1(coze_execute_everywhere);

static bool in_progress = false;

/* What the meaning of SQL depends on. */
static const char *const carried_settings[] = {
	"search_path", "TimeZone", "DateStyle", "IntervalStyle", "check_function_bodies",
	"standard_conforming_strings",
};

Datum
coze_ddl_is_applying(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(coze_in_applier && coze_applying.version.hlc != 0);
}

Datum
coze_ddl_in_progress(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(in_progress);
}

/* --- executing ---------------------------------------------------------------------- */

/* In an open SPI connection. */
static void
execute(const char *sql)
{
	int			result;

	in_progress = true;
	PG_TRY();
	{
		result = SPI_execute(sql, false, 0);
	}
	PG_FINALLY();
	{
		in_progress = false;
	}
	PG_END_TRY();
	if (result >= 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 result == SPI_ERROR_TRANSACTION ?
			 errmsg("SQL that is executed everywhere must not begin or end transactions") :
			 result == SPI_ERROR_COPY ?
			 errmsg("SQL that is executed everywhere must not COPY from or to the client") :
			 errmsg("could not execute the SQL: %s", SPI_result_code_string(result))));
}

/* For people: what kind of command it is, without anything that may be secret. */
static const char *
command_of(const char *sql)
{
	List	   *statements = raw_parser(sql, RAW_PARSE_DEFAULT);

	if (statements == NIL)
		return "nothing";
	return GetCommandTagName(CreateCommandTag((Node *) linitial_node(RawStmt, statements)));
}

/* --- on other nodes --------------------------------------------------------------------- */

static void
apply_settings(ArrayType *names, ArrayType *values)
{
	Datum	   *name;
	Datum	   *value;
	int			n;
	int			nvalues;

	deconstruct_array(names, TEXTOID, -1, false, TYPALIGN_INT, &name, NULL, &n);
	deconstruct_array(values, TEXTOID, -1, false, TYPALIGN_INT, &value, NULL, &nvalues);
	/* event triggers are to fire as they did over there */
	(void) set_config_option("session_replication_role", "origin", PGC_SUSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	for (int i = 0; i < Min(n, nvalues); i++)
		(void) set_config_option(TextDatumGetCString(name[i]), TextDatumGetCString(value[i]),
								 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

static void
execute_as(Oid role, ArrayType *names, ArrayType *values, const char *sql)
{
	Oid			user;
	int			context;
	int			nest;

	GetUserIdAndSecContext(&user, &context);
	nest = NewGUCNestLevel();
	apply_settings(names, values);
	SetUserIdAndSecContext(role, SECURITY_LOCAL_USERID_CHANGE);
	SPI_connect();
	execute(sql);
	SPI_finish();
	AtEOXact_GUC(false, nest);
	SetUserIdAndSecContext(user, context);
}

/* run_ddl(role_name text, names text[], settings text[], sql text) */
Datum
coze_ddl_run(PG_FUNCTION_ARGS)
{
	char	   *role_name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *sql = text_to_cstring(PG_GETARG_TEXT_PP(3));
	MemoryContext memory = CurrentMemoryContext;

	PG_TRY();
	{
		execute_as(get_role_oid(role_name, false), PG_GETARG_ARRAYTYPE_P(1),
				   PG_GETARG_ARRAYTYPE_P(2), sql);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(memory);
		error = CopyErrorData();
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED || error->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN ||
			error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE || error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED)
			PG_RE_THROW();
		FlushErrorState();
		ereport(ERROR,
				(errcode(error->sqlerrcode),
				 errmsg("%s, executed everywhere by role \"%s\", fails here: %s", command_of(sql),
						role_name, error->message),
				 errhint("Mend what stands in its way; it is tried again, at once after cozesync.retry().")));
	}
	PG_END_TRY();
	PG_RETURN_VOID();
}

/* --- where it is called ----------------------------------------------------------------- */

/* Execute our own SQL, whatever rights the caller has. */
static void
execute_as_owner(const char *sql, int n, Datum *values)
{
	Oid			types[] = {TEXTOID, TEXTARRAYOID, TEXTARRAYOID, TEXTOID};
	Oid			user;
	int			context;

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(coze_extension_owner(), context | SECURITY_LOCAL_USERID_CHANGE);
	if (SPI_execute_with_args(sql, n, types, values, NULL, false, 0) < 0)
		elog(ERROR, "could not execute \"%s\"", sql);
	SetUserIdAndSecContext(user, context);
}

static void
put_settings(Datum *values)
{
	Datum		names[lengthof(carried_settings)];
	Datum		settings[lengthof(carried_settings)];
	int			n = lengthof(carried_settings);

	for (int i = 0; i < n; i++)
	{
		names[i] = CStringGetTextDatum(carried_settings[i]);
		settings[i] = CStringGetTextDatum(GetConfigOption(carried_settings[i], false, false));
	}
	values[0] = PointerGetDatum(construct_array(names, n, TEXTOID, -1, false, TYPALIGN_INT));
	values[1] = PointerGetDatum(construct_array(settings, n, TEXTOID, -1, false, TYPALIGN_INT));
}

static void
check_may_begin(void)
{
	if (coze_buffer_has_changes())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("execute_everywhere() must come before changes of synced tables in its transaction"),
				 errhint("Call it first, and once, or in a transaction of its own.")));
}

static void
check_has_changed_no_rows(void)
{
	if (coze_buffer_has_changes())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("SQL that is executed everywhere must not change rows of synced tables"),
				 errhint("Execute it as it is: what it changes reaches every node by itself.")));
}

/* execute_everywhere(sql text) */
Datum
coze_execute_everywhere(PG_FUNCTION_ARGS)
{
	char	   *sql;
	Datum		values[4];

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the SQL must not be NULL")));
	coze_check_preloaded();
	sql = text_to_cstring(PG_GETARG_TEXT_PP(0));
	SPI_connect();
	execute_as_owner("SELECT cozesync.check_may_change_group()", 0, NULL);
	check_may_begin();
	values[0] = CStringGetTextDatum(GetUserNameFromId(GetUserId(), false));
	put_settings(&values[1]);
	values[3] = PointerGetDatum(PG_GETARG_TEXT_PP(0));
	execute(sql);
	check_has_changed_no_rows();
	execute_as_owner("SELECT cozesync.check_synced_tables_exist()", 0, NULL);
	execute_as_owner("INSERT INTO cozesync.ddl (role_name, settings, sql)"
					 " VALUES ($1, pg_catalog.jsonb_object($2, $3), $4)", 4, values);
	SPI_finish();
	PG_RETURN_VOID();
}
