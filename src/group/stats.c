/*-------------------------------------------------------------------------
 *
 * stats.c
 *		Counters of this node, for cozesync.stats.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "apply/apply.h"
#include "log/log.h"
#include "log/members.h"
#include "log/state.h"
#include "settings.h"

PG_FUNCTION_INFO_V1(coze_group_node_stats);
PG_FUNCTION_INFO_V1(coze_group_log_alarm);

/* The lowest entry above the cut, of any origin; 0: there is none. */
static CozeHlc
oldest_unstable(CozeHlc horizon)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	CozeVector	after;
	CozeVector	upto;
	CozeLogReader *reader;
	CozeLogEntry entry;
	CozeHlc		oldest = 0;

	coze_vector_init(&after);
	coze_vector_init(&upto);
	coze_held(&upto);
	coze_vector_set(&upto, coze_own_origin(), horizon - 1);
	for (int i = 0; i < upto.n; i++)
		coze_vector_set(&after, upto.e[i].origin, coze_cut());
	reader = coze_log_open(&after, &upto, snapshot);
	if (coze_log_next(reader, &entry))
		oldest = entry.version.hlc;
	coze_log_close(reader);
	UnregisterSnapshot(snapshot);
	return oldest;
}

static void
put_time(Datum *value, bool *isnull, CozeHlc hlc)
{
	*value = TimestampTzGetDatum(hlc);
	*isnull = hlc == 0;
}

/* node_stats(OUT ...): see install/85_stats.sql */
Datum
coze_group_node_stats(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[12] = {0};
	bool		nulls[12];
	char	   *held_by;
	CozeApplyCounters applied;
	CozeNodeState state = coze_attach();
	uint64		transactions;
	uint64		rows;
	CozeHlc		horizon;
	int			pid;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	desc = BlessTupleDesc(desc);
	memset(nulls, state == COZE_NODE_NONE || state == COZE_NODE_LEFT, sizeof(nulls));
	if (nulls[0])
		PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
	coze_captured(&transactions, &rows);
	coze_apply_counters(&applied);
	horizon = coze_clock_horizon(&pid);
	values[0] = Int64GetDatum((int64) transactions);
	values[1] = Int64GetDatum((int64) rows);
	values[2] = Int64GetDatum((int64) applied.transactions);
	values[3] = Int64GetDatum((int64) applied.rows);
	values[4] = Int64GetDatum((int64) applied.conflicts);
	values[5] = Int64GetDatum(coze_log_size());
	put_time(&values[6], &nulls[6], oldest_unstable(horizon));
	put_time(&values[7], &nulls[7], coze_cut());
	put_time(&values[8], &nulls[8], horizon);
	values[9] = Int32GetDatum(pid);
	nulls[9] = pid == 0;
	held_by = coze_log_held_by();
	nulls[10] = held_by == NULL;
	if (held_by != NULL)
		values[10] = CStringGetTextDatum(held_by);
	values[11] = BoolGetDatum(coze_log_is_too_large());
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

/* log_alarm() returns text: NULL, or, if the log is too large, the node that it is kept for */
Datum
coze_group_log_alarm(PG_FUNCTION_ARGS)
{
	char	   *held_by = NULL;

	if (coze_attach() == COZE_NODE_READY && coze_log_is_too_large())
		held_by = coze_log_held_by();
	if (held_by == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(held_by));
}
