/*-------------------------------------------------------------------------
 *
 * step.c
 *		Transactions of a command that runs several of them, and SQL in them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "tcop/pquery.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"

#include "apply/apply.h"
#include "group/step.h"

#define MAX_PARAMS 8

/* For the transaction at hand. */
static void
set_locally(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_SUSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
}

/*
 * A procedure has the snapshot of its portal to run SQL under; a background worker
 * has no portal.
 */
static void
begin(void)
{
	if (ActivePortal == NULL)
		PushActiveSnapshot(GetTransactionSnapshot());
}

static void
end(void)
{
	if (ActivePortal == NULL && ActiveSnapshotSet())
		PopActiveSnapshot();
	coze_in_applier = false;
}

void
coze_step_begin(void)
{
	begin();
	set_locally("search_path", "pg_catalog, pg_temp");
	set_locally("session_replication_role", "replica");
	set_locally("row_security", "off");
	coze_in_applier = true;
}

void
coze_step_begin_captured(void)
{
	begin();
	set_locally("search_path", "pg_catalog, pg_temp");
	set_locally("session_replication_role", "origin");
	coze_in_applier = false;
}

void
coze_step_end(void)
{
	end();
	SPI_commit();
}

void
coze_step_abandon(void)
{
	end();
	SPI_rollback();
}

void
coze_step_run(const char *sql, int nparams, const char *const *params)
{
	Oid			types[MAX_PARAMS] = {0};
	Datum		values[MAX_PARAMS] = {0};
	char		nulls[MAX_PARAMS + 1] = {0};

	Assert(nparams <= MAX_PARAMS);
	for (int i = 0; i < nparams; i++)
	{
		types[i] = TEXTOID;
		nulls[i] = params[i] != NULL ? ' ' : 'n';
		if (params[i] != NULL)
			values[i] = CStringGetTextDatum(params[i]);
	}
	if (SPI_execute_with_args(sql, nparams, types, values, nulls, false, 0) < 0)
		elog(ERROR, "could not execute \"%s\"", sql);
}

CozePeerRows *
coze_step_fetch(const char *sql, int nparams, const char *const *params)
{
	CozePeerRows *rows = palloc(sizeof(CozePeerRows));

	coze_step_run(sql, nparams, params);
	if (SPI_tuptable == NULL)
		elog(ERROR, "\"%s\" returned no rows", sql);
	rows->nrows = (int) SPI_processed;
	rows->ncolumns = SPI_tuptable->tupdesc->natts;
	rows->values = palloc0(Max(1, rows->nrows * rows->ncolumns) * sizeof(char *));
	for (int i = 0; i < rows->nrows * rows->ncolumns; i++)
		rows->values[i] = SPI_getvalue(SPI_tuptable->vals[i / rows->ncolumns],
									   SPI_tuptable->tupdesc, i % rows->ncolumns + 1);
	return rows;
}
