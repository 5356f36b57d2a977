/*-------------------------------------------------------------------------
 *
 * link_stats.c
 *		How the links of this node stand, as rows.
 *
 * What a peer lacks is counted in the log at the time of asking, so the numbers
 * hold for links that are interrupted too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "apply/apply.h"
#include "apply/queue.h"
#include "base/wire.h"
#include "link/link_state.h"
#include "link/session.h"
#include "link/topology.h"
#include "log/log.h"
#include "log/state.h"

PG_FUNCTION_INFO_V1(coze_link_stats);

#define COLUMNS 24

/* What the target of a link lacks of what the source holds. */
typedef struct Lag
{
	bool		known;
	CozeHlc		oldest;			/* first transaction that is lacking; 0: none */
	uint64		transactions;
	uint64		bytes;
} Lag;

/* A row under construction. */
typedef struct Row
{
	Datum		values[COLUMNS];
	bool		nulls[COLUMNS];
	int			n;
} Row;

static void
put(Row *row, Datum value, bool isnull)
{
	Assert(row->n < COLUMNS);
	row->values[row->n] = value;
	row->nulls[row->n++] = isnull;
}

static void
put_text(Row *row, const char *value)
{
	put(row, value != NULL ? CStringGetTextDatum(value) : (Datum) 0, value == NULL);
}

static void
put_time(Row *row, TimestampTz value)
{
	put(row, TimestampTzGetDatum(value), value == 0);
}

/* Microseconds as an interval. */
static void
put_interval(Row *row, int64 us, bool isnull)
{
	Interval   *interval = palloc0(sizeof(Interval));

	interval->time = us;
	put(row, IntervalPGetDatum(interval), isnull);
}

static void
put_pid(Row *row, int pid)
{
	put(row, Int32GetDatum(pid), pid == 0);
}

/* --- lag --------------------------------------------------------------------------------- */

/* What this node holds and the peer, having applied this, does not. */
static void
lag_behind_us(CozeOrigin peer, const CozeVector *applied, Lag *lag)
{
	CozeHlc		horizon = coze_clock_horizon(NULL);
	CozeVector	held = {0};
	Snapshot	snapshot;
	CozeLogReader *reader;
	CozeLogEntry entry;

	coze_held(&held);
	coze_vector_remove(&held, peer);
	coze_vector_set(&held, coze_own_origin(), horizon - 1);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	reader = coze_log_open(applied, &held, snapshot);
	while (coze_log_next(reader, &entry))
	{
		CozeEntryHead head;

		CHECK_FOR_INTERRUPTS();
		if (coze_wire_get_head(entry.head, entry.size, &head) != NULL)
			continue;
		coze_vector_free(&head.seen);
		if (head.kind != COZE_ENTRY_DATA)
			continue;
		if (lag->oldest == 0)
			lag->oldest = entry.version.hlc;
		lag->transactions++;
		lag->bytes += head.body_size;
	}
	coze_log_close(reader);
	UnregisterSnapshot(snapshot);
	coze_vector_free(&held);
	lag->known = true;
}

static void
put_lag(Row *row, const Lag *lag, TimestampTz now)
{
	put_interval(row, lag->oldest != 0 ? Max(0, now - lag->oldest) : 0, !lag->known);
	put(row, Int64GetDatum((int64) lag->transactions), !lag->known);
	put(row, Int64GetDatum((int64) lag->bytes), !lag->known);
}

/* The last of our entries, or of those that came to us, that the peer has applied too. */
static CozeHlc
applied_of_ours(CozeOrigin peer, const CozeVector *applied)
{
	CozeVector	held = {0};
	CozeHlc		last = 0;

	coze_held(&held);
	coze_vector_remove(&held, peer);
	coze_vector_set(&held, coze_own_origin(), coze_own_committed_max());
	for (int i = 0; i < held.n; i++)
		last = Max(last, Min(held.e[i].hlc, coze_vector_get(applied, held.e[i].origin)));
	coze_vector_free(&held);
	return last;
}

/* --- rows ----------------------------------------------------------------------------------- */

static const char *
state_name(const CozeTopology *topology, CozeOrigin peer, const CozeLinkStatus *link,
		   bool stopped)
{
	if (coze_topology_is_paused(topology, peer))
		return "paused";
	if (stopped)
		return "stopped";
	switch (link->state)
	{
		case COZE_LINK_IDLE:
		case COZE_LINK_CONNECTING:
		case COZE_LINK_GREETING:
			return "connecting";
		case COZE_LINK_STREAMING:
			return link->behind ? "catching up" : "streaming";
		case COZE_LINK_BACKOFF:
			return "backing off";
	}
	return NULL;
}

static void
put_stop(Row *row, const CozeApplyStop *stop)
{
	put(row, Int64GetDatum((int64) stop->origin), stop->origin == 0);
	put_time(row, stop->hlc);
	put_text(row, OidIsValid(stop->relid) && get_rel_name(stop->relid) != NULL ?
			 quote_qualified_identifier(get_namespace_name(get_rel_namespace(stop->relid)),
										get_rel_name(stop->relid)) : NULL);
	put_text(row, stop->key[0] != '\0' ? stop->key : NULL);
}

static void
put_link(Row *row, const CozeTopology *topology, const CozeMember *peer,
		 CozeLinkDirection direction, const CozePeerStatus *status)
{
	const CozeLinkStatus *link = &status->link[direction];
	CozeOrigin	own = coze_own_origin();
	bool		out = direction == COZE_LINK_OUT;
	TimestampTz now = GetCurrentTimestamp();
	char	   *closed = coze_identity_problem();
	CozeApplyStop stop = {0};
	bool		is_stopped = !out && coze_apply_stop_of(peer->origin, &stop);
	Lag			lag = {0};
	int			held_back_by = stop.held_back_by;

	if (out)
	{
		lag_behind_us(peer->origin, &status->applied, &lag);
		if (coze_own_committed_max() < coze_clock_horizon(&held_back_by))
			held_back_by = 0;
	}
	put(row, Int64GetDatum((int64) peer->origin), false);
	put_text(row, out ? "out" : "in");
	put_text(row, coze_link_mode_name(out ? coze_topology_mode(topology, own, peer->origin) :
									  coze_topology_mode(topology, peer->origin, own)));
	put_text(row, closed != NULL ? "stopped" :
			 state_name(topology, peer->origin, link, is_stopped));
	put_pid(row, link->pid);
	put_time(row, link->sent_hlc);
	put_time(row, out ? applied_of_ours(peer->origin, &status->applied) :
			 coze_held_of(peer->origin));
	put_lag(row, &lag, now);
	put(row, Int64GetDatum((int64) link->transactions), false);
	put(row, Int64GetDatum((int64) link->bytes), false);
	put(row, Int64GetDatum((int64) link->duplicates), false);
	put(row, Int64GetDatum((int64) link->duplicate_bytes), false);
	put_time(row, link->heard_at != 0 ? coze_wall_of(link->heard_at) : 0);
	put_interval(row, status->clock_skew, !status->has_skew);
	put_text(row, closed != NULL ? closed : is_stopped ? stop.error :
			 link->last_error_at != 0 ? link->last_error : NULL);
	put_text(row, link->last_error_at != 0 ? link->last_error_code : NULL);
	put_time(row, is_stopped ? stop.since : link->last_error_at);
	put_stop(row, &stop);
	put_pid(row, held_back_by);
}

/* A row for each link to and from this node that is not off. */
Datum
coze_link_stats(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	CozeTopology *topology;
	CozeNodeState state;

	coze_check_preloaded();
	InitMaterializedSRF(fcinfo, 0);
	state = coze_attach();
	if (state == COZE_NODE_NONE || state == COZE_NODE_LEFT)
		return (Datum) 0;
	topology = coze_topology_read();
	for (int i = 0; i < topology->nmembers; i++)
	{
		const CozeMember *peer = &topology->members[i];
		CozePeerStatus status;

		if (peer->is_local || peer->dropped)
			continue;
		coze_link_get_status(peer->origin, &status);
		for (int d = 0; d < COZE_LINK_DIRECTIONS; d++)
		{
			Row			row = {.n = 0};
			CozeOrigin	own = coze_own_origin();

			if ((d == COZE_LINK_OUT ? coze_topology_mode(topology, own, peer->origin) :
				 coze_topology_mode(topology, peer->origin, own)) == COZE_MODE_OFF)
				continue;
			put_link(&row, topology, peer, d, &status);
			Assert(row.n == COLUMNS);
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, row.values, row.nulls);
		}
		coze_vector_free(&status.applied);
	}
	return (Datum) 0;
}
