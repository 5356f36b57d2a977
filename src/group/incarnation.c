/*-------------------------------------------------------------------------
 *
 * incarnation.c
 *		A node that has lost transactions goes on as another origin.
 *
 * What its peers hold of it and it does not would be lost, or worse, if it wrote on
 * under its origin: new entries in the place of old ones.  So it becomes a new
 * origin under the name that it had, admitted by a member which drops the former
 * one in the same entry.  From there on it joins like any other node (join.c), only
 * that most of its rows are here already: see begin_incarnation() in install/79.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/uuid.h"

#include "compat.h"
#include "group/peer.h"
#include "log/state.h"

PG_FUNCTION_INFO_V1(coze_group_admit_incarnation_on);

static char *
number(int64 n)
{
	return psprintf(INT64_FORMAT, n);
}

/* Ask the member at the other end; the version of the entry that admits us, as text. */
static CozePeerRows *
be_admitted(CozePeerConnection *peer, int64 former, int64 origin)
{
	pg_uuid_t	group;
	const char *params[6];

	memcpy(group.data, coze_group_id(), UUID_LEN);
	params[0] = DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&group)));
	params[1] = number(former);
	params[2] = number(origin);
	params[3] = number((int64) GetSystemIdentifier());
	params[4] = number(MyDatabaseId);
	params[5] = number(COZE_SERVER_VERSION);
	coze_peer_query(peer, "SELECT cozesync.admit_incarnation($1::uuid, $2::bigint, $3::bigint, $4::bigint,"
					" $5::bigint, $6::integer)", 6, params);
	return coze_peer_query(peer, "SELECT v.origin, v.hlc FROM cozesync.last_version() AS v", 0, NULL);
}

/*
 * admit_incarnation_on(node_name text, dsn text, former bigint, origin bigint, OUT donor bigint,
 * OUT admitted_hlc bigint): NULLs, with a WARNING, if the node cannot be reached.
 */
Datum
coze_group_admit_incarnation_on(PG_FUNCTION_ARGS)
{
	char	   *node_name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *error;
	CozePeerConnection *peer = coze_peer_connect(text_to_cstring(PG_GETARG_TEXT_PP(1)), &error);
	TupleDesc	desc;
	Datum		values[2] = {0};
	bool		nulls[2] = {true, true};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (peer == NULL)
		ereport(WARNING,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("could not ask node \"%s\": %s", node_name, error)));
	else
	{
		CozePeerRows *version;

		if (coze_peer_is_here(peer))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("the DSN of node \"%s\" leads to this database", node_name),
					 errhint("Correct the DSN with cozesync.set_dsn().")));
		version = be_admitted(peer, PG_GETARG_INT64(2), PG_GETARG_INT64(3));
		for (int i = 0; i < 2; i++)
		{
			values[i] = Int64GetDatum(strtoi64(version->values[i], NULL, 10));
			nulls[i] = false;
		}
		coze_peer_close(peer);
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
