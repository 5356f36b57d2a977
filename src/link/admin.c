/*-------------------------------------------------------------------------
 *
 * admin.c
 *		What the SQL functions that manage links need of C.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "apply/apply.h"
#include "fmgr.h"
#include "libpq-fe.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "debug.h"
#include "link/link_state.h"
#include "link/remote.h"
#include "log/state.h"
#include "log/wall.h"

PG_FUNCTION_INFO_V1(coze_links_changed);
PG_FUNCTION_INFO_V1(coze_retry_link);
PG_FUNCTION_INFO_V1(coze_check_dsn);
PG_FUNCTION_INFO_V1(coze_links_closed);
PG_FUNCTION_INFO_V1(coze_clock_leap_interval);
PG_FUNCTION_INFO_V1(coze_system_identifier);

/* This transaction changed links: the linker looks at them when it has committed. */
Datum
coze_links_changed(PG_FUNCTION_ARGS)
{
	coze_check_preloaded();
	coze_group_changed_at_commit();
	PG_RETURN_VOID();
}

/* Try the links to and from a peer at once. */
Datum
coze_retry_link(PG_FUNCTION_ARGS)
{
	coze_check_preloaded();
	coze_check_member();
	coze_link_ask_retry(coze_link_slot((CozeOrigin) PG_GETARG_INT64(0)));
	coze_apply_retry();
	coze_worker_wake(COZE_WORKER_LINKER);
	PG_RETURN_VOID();
}

/*
 * ERROR unless the current user may name this DSN.  The linker connects with it as
 * the server's operating system user, whose trust, passfiles and certificates a
 * DSN can call on; so nobody but a superuser may name one.
 */
Datum
coze_check_dsn(PG_FUNCTION_ARGS)
{
	char	   *dsn = text_to_cstring(PG_GETARG_TEXT_PP(0));

	if (!superuser() && COZE_RULE("superuser-dsn"))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to name a DSN"),
				 errdetail("The server connects with it on its own authority."),
				 errhint("Have a superuser do it.")));
	if (!coze_dsn_is_valid(dsn))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the DSN is malformed"),
				 errhint("A DSN looks like 'host=berlin dbname=app user=sync' or 'postgresql://sync@berlin/app'; special characters in a URI are percent-encoded.")));
	PG_RETURN_VOID();
}

/* Why the links of this database are closed; NULL: they are not. */
Datum
coze_links_closed(PG_FUNCTION_ARGS)
{
	char	   *reason;

	coze_check_preloaded();
	(void) coze_attach();
	reason = coze_link_closed_reason();
	if (reason == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(reason));
}

/* What the machine's clock has leapt by and is not followed in; NULL: nothing. */
Datum
coze_clock_leap_interval(PG_FUNCTION_ARGS)
{
	Interval   *interval = palloc0(sizeof(Interval));

	coze_check_preloaded();
	(void) coze_wall();
	interval->time = coze_wall_leap();
	if (interval->time == 0)
		PG_RETURN_NULL();
	PG_RETURN_INTERVAL_P(interval);
}

Datum
coze_system_identifier(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64((int64) GetSystemIdentifier());
}
