/*-------------------------------------------------------------------------
 *
 * prune.c
 *		How far the log may be forgotten, and when a node owes a beat.
 *
 * Invariant (Cut): no entry still to arrive is at or below the cut, or fails to
 * have seen one that is.  What the members know is read off their own entries in
 * the log, never off acknowledgements: K of a member is the V of the last entry
 * of its stream that is applied here, with the prune base standing in for an
 * entry that was pruned.  The base vector, the base records (coze_prune_hook)
 * and the cut are stored by one transaction.
 *
 * Nor may the cut pass an own entry whose conflicts are still to be gone through here
 * (coze_prune_limit_hook): folded into the states at the cut once more, it would be taken
 * for the latest.
 *
 * A dropped member leaves the cut once every survivor has seen the entry that dropped it
 * and all name the same last entry of it (cut.h).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "portability/instr_time.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/cut.h"
#include "base/wire.h"
#include "debug.h"
#include "log/catalog.h"
#include "log/log.h"
#include "log/members.h"
#include "log/state.h"
#include "settings.h"

CozePruneHook coze_prune_hook = NULL;
CozePruneLimitHook coze_prune_limit_hook = NULL;

/* What one look at the log tells about the group. */
typedef struct CozeSurvey
{
	Snapshot	snapshot;
	CozeVector	held;			/* with the own origin, up to the horizon */
	int			n;
	CozeCutMember *members;
	CozeVector *seen;			/* of each member, what members[i].seen points at */
	bool	   *is_beat;		/* of each member, its last entry */
	CozeMember *named;			/* the same members */
} CozeSurvey;

#define ALARM_EVERY_S 3600

static CozeHlc highest_with_changes(const CozeSurvey *s);

/* Drops that this process knows of: since which own hlc. */
static CozeVector drops_seen;

/* --- vectors in cozesync.base ------------------------------------------------ */

static bytea *
vector_to_bytea(const CozeVector *v)
{
	Size		size = VARHDRSZ + v->n * 16;
	bytea	   *b = palloc(size);
	char	   *p = VARDATA(b);

	SET_VARSIZE(b, size);
	for (int i = 0; i < v->n; i++)
	{
		uint64		pair[2] = {pg_hton64(v->e[i].origin), pg_hton64((uint64) v->e[i].hlc)};

		memcpy(p, pair, 16);
		p += 16;
	}
	return b;
}

static void
vector_from_bytea(CozeVector *v, bytea *b)
{
	const char *p = VARDATA_ANY(b);

	for (Size left = VARSIZE_ANY_EXHDR(b); left >= 16; left -= 16, p += 16)
	{
		uint64		pair[2];

		memcpy(pair, p, 16);
		coze_vector_raise(v, pg_ntoh64(pair[0]), (CozeHlc) pg_ntoh64(pair[1]));
	}
}

/* The prune base's row of an origin. */
static bool
read_base(CozeOrigin origin, Snapshot snapshot, CozeHlc *hlc, CozeVector *seen)
{
	Relation	rel = table_open(coze_relation_oid("base", false), AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		isnull;
	bool		found = false;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum((int64) origin));
	scan = systable_beginscan(rel, coze_relation_oid("base_pkey", false), true, snapshot, 1, &key);
	tuple = systable_getnext(scan);
	if (tuple != NULL)
	{
		*hlc = DatumGetInt64(heap_getattr(tuple, 2, RelationGetDescr(rel), &isnull));
		vector_from_bytea(seen, DatumGetByteaPP(heap_getattr(tuple, 4, RelationGetDescr(rel), &isnull)));
		found = true;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/* --- the survey ------------------------------------------------------------------- */

static void
decode_head(const char *head, Size size, CozeEntryHead *decoded)
{
	const char *error = coze_wire_get_head(head, size, decoded);

	if (error != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("entry in the change log is damaged: %s", error)));
}

/* The last entry of an origin at or below an hlc. */
typedef struct CozeLastEntry
{
	CozeHlc		hlc;
	uint32		crc;			/* 0: only the base tells of it */
	bool		is_beat;
} CozeLastEntry;

/* From the log, or else the base. */
static bool
last_entry(CozeOrigin origin, CozeHlc upto, Snapshot snapshot,
		   CozeLastEntry *last, CozeVector *seen)
{
	char	   *head;
	Size		size;
	CozeEntryHead decoded;

	memset(last, 0, sizeof(*last));
	if (!coze_log_last(origin, upto, snapshot, &last->hlc, &head, &size))
		return read_base(origin, snapshot, &last->hlc, seen);
	decode_head(head, size, &decoded);
	coze_vector_copy(seen, &decoded.seen);
	coze_vector_free(&decoded.seen);
	last->is_beat = decoded.kind == COZE_ENTRY_BEAT;
	last->crc = coze_wire_head_crc(head, size);
	pfree(head);
	return true;
}

/*
 * The entry that dropped a member.  Where it is not known an own hlc stands in for it, from
 * which on our entries have seen the drop: that of the clock when this process first saw it.
 */
static CozeVersion
drop_of(CozeOrigin origin, const CozeDrop *drops, int ndrops)
{
	CozeVersion version = {coze_vector_get(&drops_seen, origin), coze_own_origin()};

	for (int i = 0; i < ndrops; i++)
		if (drops[i].origin == origin)
			return drops[i].entry;
	if (version.hlc == 0)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		version.hlc = coze_clock_last();
		coze_vector_set(&drops_seen, origin, version.hlc);
		MemoryContextSwitchTo(old);
	}
	return version;
}

/* Who was dropped, and by which entry. */
static void
survey_drops(CozeSurvey *s, const CozeMember *members, int survivors)
{
	int			ndrops;
	CozeDrop   *drops = coze_drops_read(&ndrops);

	for (int i = 0; i < s->n; i++)
	{
		if (!members[i].dropped)
			continue;
		s->members[i].drop = drop_of(members[i].origin, drops, ndrops);
		if (survivors == 1)
			s->members[i].drop.hlc = 1; /* nobody else has to learn of it */
	}
}

/* What a test sees that takes the rule out: a dropped member does not count from the start. */
static int
without_dropped(CozeMember *members, int n)
{
	int			left = 0;

	for (int i = 0; i < n; i++)
		if (!members[i].dropped)
			members[left++] = members[i];
	return left;
}

static void
survey(CozeSurvey *s)
{
	CozeHlc		horizon = coze_clock_horizon(NULL);
	CozeMember *members;
	int			survivors = 0;

	memset(s, 0, sizeof(*s));
	coze_held(&s->held);
	coze_vector_set(&s->held, coze_own_origin(), horizon - 1);
	PushActiveSnapshot(GetLatestSnapshot());
	s->snapshot = GetActiveSnapshot();

	s->named = members = coze_members_read(&s->n);
	if (!COZE_RULE("even"))
		s->n = without_dropped(members, s->n);
	s->members = palloc0(Max(1, s->n) * sizeof(CozeCutMember));
	s->seen = palloc0(Max(1, s->n) * sizeof(CozeVector));
	s->is_beat = palloc0(Max(1, s->n) * sizeof(bool));
	for (int i = 0; i < s->n; i++)
	{
		CozeCutMember *m = &s->members[i];
		CozeLastEntry last;

		m->origin = members[i].origin;
		if (last_entry(m->origin, coze_vector_get(&s->held, m->origin), s->snapshot,
					   &last, &s->seen[i]))
			m->seen = &s->seen[i];
		m->last = last.hlc;
		s->is_beat[i] = last.is_beat;
		if (!members[i].dropped)
			survivors++;
	}
	survey_drops(s, members, survivors);
}

static void
end_survey(void)
{
	PopActiveSnapshot();
}

/* --- moving the cut --------------------------------------------------------------------- */

static void
store_base(CozeOrigin origin, CozeHlc hlc, uint32 crc, const CozeVector *seen)
{
	Oid			types[4] = {INT8OID, INT8OID, INT8OID, BYTEAOID};
	Datum		values[4] = {Int64GetDatum((int64) origin), Int64GetDatum(hlc),
		Int64GetDatum((int64) crc), PointerGetDatum(vector_to_bytea(seen))};

	if (SPI_execute_with_args("INSERT INTO cozesync.base (origin, hlc, crc, seen) VALUES ($1, $2, $3, $4)"
							  " ON CONFLICT (origin) DO UPDATE SET hlc = excluded.hlc,"
							  " crc = excluded.crc, seen = excluded.seen",
							  4, types, values, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not store the prune base");
}

/* Store the last entry of each origin that the new cut passes; *base: those. */
static void
move_base(const CozeSurvey *s, CozeHlc cut, CozeVector *base)
{
	for (int i = 0; i < s->n; i++)
	{
		CozeOrigin	origin = s->members[i].origin;
		CozeLastEntry last;
		CozeVector	seen;

		coze_vector_init(&seen);
		if (!last_entry(origin, Min(cut, coze_vector_get(&s->held, origin)), s->snapshot,
						&last, &seen) ||
			last.hlc <= coze_base_of(origin))
			continue;
		store_base(origin, last.hlc, last.crc, &seen);
		coze_vector_set(base, origin, last.hlc);
	}
}

static void
store_cut(CozeHlc cut, const CozeVector *base)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(cut)};

	if (SPI_execute_with_args("UPDATE cozesync.local_node SET cut = $1", 1, types, values, NULL,
							  false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not store the cut");
	coze_set_cut_at_commit(cut, base);
}

bool
coze_log_prune(void)
{
	CozeSurvey	s;
	CozeHlc		limit = PG_INT64_MAX;
	CozeHlc		cut;
	CozeVector	base;
	bool		moved;

	coze_vector_init(&base);
	coze_vector_reserve(&base, cozesync_max_nodes);
	StartTransactionCommand();
	if (coze_attach() == COZE_NODE_READY)
	{
		SPI_connect();
		/* before the survey: what comes to light later lies above what that finds */
		if (coze_prune_limit_hook != NULL)
			limit = coze_prune_limit_hook();
		survey(&s);
		cut = Min(limit, coze_cut_reach(s.members, s.n, coze_cut(), NULL));
		if (cut > coze_cut())
			move_base(&s, cut, &base);
		if (base.n > 0)
		{
			if (coze_prune_hook != NULL)
				coze_prune_hook(coze_cut(), cut);
			store_cut(cut, &base);
		}
		end_survey();
		SPI_finish();
	}
	CommitTransactionCommand();
	moved = base.n > 0;
	coze_vector_free(&base);
	return moved;
}

/* --- what holds the cut back, and the alarm ----------------------------------------------- */

/*
 * The member for which entries are kept, palloc'd; NULL if it is this node itself, or
 * nothing is kept for anybody.  Needs a transaction and a snapshot is taken.
 */
char *
coze_log_held_by(void)
{
	CozeSurvey	s;
	int			by;
	char	   *name = NULL;

	survey(&s);
	(void) coze_cut_reach(s.members, s.n, coze_cut(), &by);
	if (by >= 0 && !s.named[by].is_local && highest_with_changes(&s) != 0)
		name = pstrdup(s.named[by].node_name);
	end_survey();
	return name;
}

bool
coze_log_is_too_large(void)
{
	return cozesync_max_log_size >= 0 &&
		coze_log_size() > (int64) cozesync_max_log_size * 1024 * 1024;
}

/* Writers are not stopped; somebody has to look. */
static void
warn_of_size(void)
{
	char	   *held_by = coze_log_held_by();

	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("the change log of database \"%s\" has %lld MB, more than cozesync.max_log_size allows",
					get_database_name(MyDatabaseId), (long long) (coze_log_size() / (1024 * 1024))),
			 held_by != NULL ?
			 errdetail("Entries since %s are kept for node \"%s\".", timestamptz_to_str(coze_cut()), held_by) :
			 errdetail("Entries since %s are kept.", timestamptz_to_str(coze_cut())),
			 held_by != NULL ?
			 errhint("Bring the node back, or drop it for good with cozesync.drop_node('%s').", held_by) : 0));
}

/* Once when the log has become too large, and every hour while it is. */
void
coze_log_alarm(void)
{
	static bool alarmed = false;
	static instr_time last;
	instr_time	now;
	bool		too_large;

	StartTransactionCommand();
	too_large = coze_attach() == COZE_NODE_READY && coze_log_is_too_large();
	INSTR_TIME_SET_CURRENT(now);
	if (too_large && (!alarmed || INSTR_TIME_GET_DOUBLE(now) - INSTR_TIME_GET_DOUBLE(last) > ALARM_EVERY_S))
	{
		warn_of_size();
		last = now;
	}
	else if (alarmed && !too_large)
		ereport(LOG, (errmsg("the change log is no larger any more than cozesync.max_log_size allows")));
	alarmed = too_large;
	CommitTransactionCommand();
}

/* --- beats ------------------------------------------------------------------------------------ */

/* Go back to the entry of a member before the one at *hlc; 0: there is none in the log. */
static void
step_back(const CozeSurvey *s, int which, CozeHlc *hlc, bool *is_beat)
{
	CozeEntryHead decoded;
	char	   *head;
	Size		size;

	if (!coze_log_last(s->members[which].origin, *hlc - 1, s->snapshot, hlc, &head, &size))
	{
		*hlc = 0;
		return;
	}
	decode_head(head, size, &decoded);
	*is_beat = decoded.kind == COZE_ENTRY_BEAT;
	coze_vector_free(&decoded.seen);
	pfree(head);
}

/*
 * The highest entry above the cut, of any origin, that is not a beat; 0 if none.  All
 * origins are gone back along together: one that has only beat for days, since
 * another is away, is not read through each time.
 */
static CozeHlc
highest_with_changes(const CozeSurvey *s)
{
	CozeHlc    *at = palloc((s->n + 1) * sizeof(CozeHlc));
	bool	   *is_beat = palloc((s->n + 1) * sizeof(bool));
	int			top = 0;

	for (int i = 0; i < s->n; i++)
	{
		at[i] = s->members[i].last;
		is_beat[i] = s->is_beat[i];
	}
	while (s->n > 0)
	{
		for (int i = 0; i < s->n; i++)
			if (at[i] > at[top])
				top = i;
		if (at[top] <= coze_cut())
			return 0;
		if (!is_beat[top])
			return at[top];
		step_back(s, top, &at[top], &is_beat[top]);
	}
	return 0;
}

bool
coze_log_beat_due(void)
{
	CozeSurvey	s;
	bool		due = false;

	if (coze_attach() != COZE_NODE_READY)
		return false;
	survey(&s);
	due = coze_cut_beat_due(s.members, s.n, coze_own_origin(), highest_with_changes(&s), &s.held);
	end_survey();
	return due;
}
