/*-------------------------------------------------------------------------
 *
 * inspect.c
 *		The entries of the change log, as rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "base/wire.h"
#include "log/log.h"
#include "log/members.h"
#include "log/state.h"
#include "settings.h"

PG_FUNCTION_INFO_V1(coze_entries);

/* The name of an origin's node, or its number where it has none. */
static const char *
node_name_of(const CozeMember *members, int n, CozeOrigin origin)
{
	for (int i = 0; i < n; i++)
		if (members[i].origin == origin)
			return members[i].node_name;
	return psprintf(UINT64_FORMAT, origin);
}

/* {"node": hlc} of a vector. */
static Datum
vector_to_jsonb(const CozeVector *v, const CozeMember *members, int n)
{
	JsonbParseState *state = NULL;
	JsonbValue *object;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < v->n; i++)
	{
		JsonbValue	key;
		JsonbValue	value;

		key.type = jbvString;
		key.val.string.val = unconstify(char *, node_name_of(members, n, v->e[i].origin));
		key.val.string.len = strlen(key.val.string.val);
		value.type = jbvString;
		value.val.string.val = pstrdup(timestamptz_to_str(v->e[i].hlc));
		value.val.string.len = strlen(value.val.string.val);
		pushJsonbValue(&state, WJB_KEY, &key);
		pushJsonbValue(&state, WJB_VALUE, &value);
	}
	object = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return JsonbPGetDatum(JsonbValueToJsonb(object));
}

static void
put_entry(ReturnSetInfo *result, const CozeLogEntry *entry, const CozeMember *members, int n)
{
	CozeEntryHead head;
	const char *error = coze_wire_get_head(entry->head, entry->size, &head);
	Datum		values[7];
	bool		nulls[7] = {0};

	if (error != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("entry in the change log is damaged: %s", error)));
	values[0] = CStringGetTextDatum(node_name_of(members, n, entry->version.origin));
	values[1] = TimestampTzGetDatum(entry->version.hlc);
	values[2] = Int64GetDatum((int64) head.xid);
	values[3] = CStringGetTextDatum(head.kind == COZE_ENTRY_BEAT ? "beat" : "data");
	values[4] = Int64GetDatum((int64) head.nchanges);
	values[5] = Int64GetDatum((int64) (entry->chunks != 0 ? entry->size + head.body_size : entry->size));
	values[6] = vector_to_jsonb(&head.seen, members, n);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/*
 * entries(after timestamptz) returns setof (origin text, hlc timestamptz, xid bigint,
 * kind text, changes bigint, bytes bigint, seen jsonb): what the log of this node
 * holds above a time, in version order.  An own entry above the horizon is not shown.
 */
Datum
coze_entries(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	CozeHlc		from = PG_ARGISNULL(0) ? 0 : PG_GETARG_TIMESTAMPTZ(0);
	CozeHlc		horizon;
	CozeVector	after;
	CozeVector	upto;
	CozeLogReader *reader;
	CozeLogEntry entry;
	CozeMember *members;
	Snapshot	snapshot;
	MemoryContext per_entry;
	int			n;

	if (coze_attach() == COZE_NODE_NONE)	/* a former member may look, too */
		coze_check_member();
	InitMaterializedSRF(fcinfo, 0);
	members = coze_members_read(&n);
	horizon = coze_clock_horizon(NULL);
	coze_vector_init(&after);
	coze_vector_init(&upto);
	coze_held(&upto);
	coze_vector_set(&upto, coze_own_origin(), horizon - 1);
	for (int i = 0; i < upto.n; i++)
		coze_vector_set(&after, upto.e[i].origin, from);

	per_entry = AllocSetContextCreate(CurrentMemoryContext, "cozesync entry",
									  ALLOCSET_DEFAULT_SIZES);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	reader = coze_log_open(&after, &upto, snapshot);
	while (coze_log_next(reader, &entry))
	{
		MemoryContext old = MemoryContextSwitchTo(per_entry);

		CHECK_FOR_INTERRUPTS();
		put_entry(result, &entry, members, n);
		MemoryContextSwitchTo(old);
		MemoryContextReset(per_entry);
	}
	coze_log_close(reader);
	UnregisterSnapshot(snapshot);
	return (Datum) 0;
}
