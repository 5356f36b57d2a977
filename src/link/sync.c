/*-------------------------------------------------------------------------
 *
 * sync.c
 *		Vectors for users: what this node holds, and waiting for it, here or
 *		on the peers.
 *
 * What a peer has applied is known from its acknowledgements, over a direct link,
 * or from its own entries: the V of its last entry that is applied here.  Both name
 * only what is flushed there.
 *
 * Waiting takes no lock, and no snapshot beyond that of the calling statement.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/wire.h"
#include "compat.h"
#include "link/link_state.h"
#include "link/topology.h"
#include "log/log.h"
#include "log/state.h"

/* Look again after so long, in ms, at what nobody wakes us for. */
#define HORIZON_POLL 10
#define PEER_POLL 200

PG_FUNCTION_INFO_V1(coze_node_name);
PG_FUNCTION_INFO_V1(coze_vector);
PG_FUNCTION_INFO_V1(coze_wait_for_vector);
PG_FUNCTION_INFO_V1(coze_wait_for_sync);

/* --- waiting ---------------------------------------------------------------------------- */

/* When a time-out given as interval ends; NULL: never. */
static TimestampTz
end_of_timeout(FunctionCallInfo fcinfo, int arg)
{
	if (PG_ARGISNULL(arg))
		return DT_NOEND;
	return DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
												   TimestampTzGetDatum(GetCurrentTimestamp()),
												   PG_GETARG_DATUM(arg)));
}

typedef bool (*Condition) (void *arg);

/*
 * Until the condition holds or the time is up; true if it holds.  It is asked
 * again when entries or acknowledgements come, and every poll ms.
 */
static bool
wait_until(Condition condition, void *arg, TimestampTz until, long poll)
{
	volatile bool holds = false;

	coze_waiter_add();
	PG_TRY();
	{
		for (;;)
		{
			TimestampTz now = GetCurrentTimestamp();
			long		ms = poll;

			ResetLatch(MyLatch);
			holds = condition(arg);
			if (holds || now >= until)
				break;
			if (until != DT_NOEND)
				ms = Min(ms, (until - now) / 1000 + 1);
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 ms, PG_WAIT_EXTENSION);
			CHECK_FOR_INTERRUPTS();
		}
	}
	PG_FINALLY();
	{
		coze_waiter_remove();
		coze_await_peers(false);
	}
	PG_END_TRY();
	return holds;
}

/* --- this node ------------------------------------------------------------------------------ */

Datum
coze_node_name(PG_FUNCTION_ARGS)
{
	const CozeMember *local;
	CozeNodeState state;

	coze_check_preloaded();
	state = coze_attach();
	if (state == COZE_NODE_NONE)
		PG_RETURN_NULL();
	local = coze_topology_local(coze_topology_read());
	if (local == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(local->node_name));
}

/*
 * The own component is the highest that has committed, even if a lower one has
 * yet to: who waits for it elsewhere then waits for both.
 */
static void
add_own(CozeVector *v)
{
	if (coze_own_committed_max() != 0)
		coze_vector_set(v, coze_own_origin(), coze_own_committed_max());
}

/* {"origin": "hlc"}, hlc as timestamptz in UTC. */
Datum
coze_vector(PG_FUNCTION_ARGS)
{
	CozeVector	v = {0};
	StringInfoData json;
	int			utc = 0;
	Datum		result;

	coze_check_preloaded();
	coze_check_member();
	coze_held(&v);
	add_own(&v);
	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	for (int i = 0; i < v.n; i++)
	{
		char		hlc[MAXDATELEN + 1];

		JsonEncodeDateTime(hlc, TimestampTzGetDatum(v.e[i].hlc), TIMESTAMPTZOID, &utc);
		appendStringInfo(&json, "%s\"%llu\": \"%s\"", i > 0 ? ", " : "",
						 (unsigned long long) v.e[i].origin, hlc);
	}
	appendStringInfoChar(&json, '}');
	result = DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
	PG_RETURN_DATUM(result);
}

COZE_NORETURN static void
invalid_vector(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid vector"),
			 errhint("A vector is what cozesync.vector() returns.")));
}

static CozeOrigin
origin_from_json(const JsonbValue *value)
{
	char	   *text = pnstrdup(value->val.string.val, value->val.string.len);
	char	   *end;
	CozeOrigin	origin;

	errno = 0;
	origin = strtoull(text, &end, 10);
	if (errno != 0 || *text == '\0' || *end != '\0' || origin == 0 || origin > PG_INT64_MAX)
		invalid_vector();
	pfree(text);
	return origin;
}

static CozeHlc
hlc_from_json(const JsonbValue *value)
{
	if (value->type != jbvString)
		invalid_vector();
	return DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in,
												   CStringGetDatum(pnstrdup(value->val.string.val,
																			value->val.string.len)),
												   ObjectIdGetDatum(InvalidOid),
												   Int32GetDatum(-1)));
}

static void
vector_from_json(Jsonb *json, CozeVector *v)
{
	JsonbIterator *it = JsonbIteratorInit(&json->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	CozeOrigin	origin = 0;
	bool		skip_nested = false;

	if (!JB_ROOT_IS_OBJECT(json))
		invalid_vector();
	while ((token = JsonbIteratorNext(&it, &value, skip_nested)) != WJB_DONE)
	{
		skip_nested = true;
		if (token == WJB_KEY)
			origin = origin_from_json(&value);
		else if (token == WJB_VALUE)
			coze_vector_set(v, origin, hlc_from_json(&value));
	}
}

static bool
holds_vector(void *arg)
{
	CozeVector	held = {0};
	bool		holds;

	coze_held_visible(&held);
	add_own(&held);
	holds = coze_vector_covers(&held, arg);
	coze_vector_free(&held);
	return holds;
}

Datum
coze_wait_for_vector(PG_FUNCTION_ARGS)
{
	CozeVector	wanted = {0};

	coze_check_preloaded();
	coze_check_member();
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	vector_from_json(PG_GETARG_JSONB_P(0), &wanted);
	PG_RETURN_BOOL(wait_until(holds_vector, &wanted, end_of_timeout(fcinfo, 1), PEER_POLL));
}

/* --- the peers ------------------------------------------------------------------------------- */

typedef struct PeerWait
{
	CozeVector	target;			/* what the peers shall have */
	char	   *node_name;		/* NULL: all of them */
	MemoryContext context;		/* for what follows */
	uint64		generation;
	CozeTopology *topology;
	int			next;			/* the first member that may lack something */
} PeerWait;

static bool
horizon_has_passed(void *arg)
{
	return coze_clock_horizon(NULL) > *(CozeHlc *) arg;
}

/* What the peer has told in its own stream that it had seen.  False: nothing. */
static bool
told_in_stream(CozeOrigin peer, CozeVector *seen)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	CozeHlc		hlc;
	char	   *data;
	Size		size;
	CozeEntryHead head;
	bool		found = coze_log_last(peer, PG_INT64_MAX, snapshot, &hlc, &data, &size);

	UnregisterSnapshot(snapshot);
	if (!found || coze_wire_get_head(data, size, &head) != NULL)
		return false;
	*seen = head.seen;
	pfree(data);
	return true;
}

/* Of its own entries a peer has all that we have. */
static bool
has_target(CozeOrigin peer, const CozeVector *target)
{
	CozeVector	has = {0};
	bool		covers = false;

	if (coze_link_get_applied(peer, &has))
	{
		coze_vector_set(&has, peer, PG_INT64_MAX);
		covers = coze_vector_covers(&has, target);
	}
	coze_vector_free(&has);
	if (covers || !told_in_stream(peer, &has))
		return covers;
	coze_vector_set(&has, peer, PG_INT64_MAX);
	covers = coze_vector_covers(&has, target);
	coze_vector_free(&has);
	return covers;
}

static bool
peers_have_target(void *arg)
{
	PeerWait   *wait = arg;

	if (wait->topology == NULL || wait->generation != coze_group_generation())
	{
		MemoryContext old;

		MemoryContextReset(wait->context);
		old = MemoryContextSwitchTo(wait->context);
		wait->generation = coze_group_generation();
		wait->topology = coze_topology_read();
		MemoryContextSwitchTo(old);
		wait->next = 0;
	}
	for (; wait->next < wait->topology->nmembers; wait->next++)
	{
		const CozeMember *member = &wait->topology->members[wait->next];

		if (member->is_local || member->dropped ||
			(wait->node_name != NULL && strcmp(wait->node_name, member->node_name) != 0))
			continue;
		if (!has_target(member->origin, &wait->target))
			return false;
	}
	return true;
}

static void
check_node_name(const char *name)
{
	CozeTopology *topology = coze_topology_read();
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < topology->nmembers; i++)
	{
		const CozeMember *member = &topology->members[i];

		if (member->dropped)
			continue;
		if (strcmp(member->node_name, name) == 0)
			return;
		appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "", member->node_name);
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("there is no node \"%s\"", name),
			 errhint("The nodes of the group are: %s.", names.data)));
}

/*
 * The last entry of an origin up to upto that is not a beat; 0 if there is none in
 * the log: what was pruned, everybody has.
 */
static CozeHlc
last_transaction(CozeOrigin origin, CozeHlc upto, Snapshot snapshot)
{
	CozeHlc		hlc;
	char	   *data;
	Size		size;

	while (coze_log_last(origin, upto, snapshot, &hlc, &data, &size))
	{
		CozeEntryHead head;

		if (coze_wire_get_head(data, size, &head) != NULL)
			return hlc;
		coze_vector_free(&head.seen);
		pfree(data);
		if (head.kind != COZE_ENTRY_BEAT)
			return hlc;
		upto = hlc - 1;
	}
	return 0;
}

/*
 * All that has committed here, own and applied; now was the clock at the call.
 * Beats do not count: who has seen all the rest need not tell that he has seen them.
 */
static void
all_committed(CozeVector *target, const CozeVector *held, CozeHlc now)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	CozeOrigin	own = coze_own_origin();

	for (int i = 0; i < held->n; i++)
		coze_vector_set(target, held->e[i].origin,
						last_transaction(held->e[i].origin, held->e[i].hlc, snapshot));
	coze_vector_set(target, own, last_transaction(own, now, snapshot));
	UnregisterSnapshot(snapshot);
}

Datum
coze_wait_for_sync(PG_FUNCTION_ARGS)
{
	TimestampTz until = end_of_timeout(fcinfo, 0);
	PeerWait	wait = {0};
	CozeVector	held = {0};
	CozeHlc		now;

	coze_check_preloaded();
	coze_check_member();
	if (!PG_ARGISNULL(1))
	{
		wait.node_name = text_to_cstring(PG_GETARG_TEXT_PP(1));
		check_node_name(wait.node_name);
	}
	coze_held(&held);

	/* What had committed before the call drew no hlc above the clock. */
	now = coze_clock_last();
	if (!wait_until(horizon_has_passed, &now, until, HORIZON_POLL))
		PG_RETURN_BOOL(false);
	all_committed(&wait.target, &held, now);
	wait.context = AllocSetContextCreate(CurrentMemoryContext, "cozesync wait",
										 ALLOCSET_DEFAULT_SIZES);
	coze_await_peers(true);		/* until wait_until() is over */
	PG_RETURN_BOOL(wait_until(peers_have_target, &wait, until, PEER_POLL));
}
