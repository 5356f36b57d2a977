/*-------------------------------------------------------------------------
 *
 * segment.c
 *		Rotation and emptying of the change log's segments.
 *
 * One segment is current and takes what is written; the segments that hold
 * anything form a run of the ring that ends in the current one.  When it is large
 * enough and the next one is empty, the next one becomes current.  Which one is
 * current is not durable: after a restart it is the end of the run.
 *
 * Invariants: a segment is emptied only when every transaction that wrote in it
 * has ended (its exclusive lock is taken, never waited for) and every entry that
 * has its head or a chunk there lies at or below the cut.  The current one
 * is never emptied.  While the cut stands still the current segment grows.
 *
 * Of the segments most are empty, and readers need not open them: one that has neither
 * heads nor chunks and is not the current one stays empty until it becomes current.
 * For who writes in a segment has seen, with its lock held, that it is the current one; so
 * it had something in it when another one followed, and is not emptied before
 * he ends.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "executor/spi.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "log/catalog.h"
#include "log/log.h"
#include "log/state.h"
#include "settings.h"

static BlockNumber
segment_blocks(int segment)
{
	BlockNumber blocks = 0;

	for (CozeSegmentTable i = COZE_SEGMENT_LOG; i <= COZE_SEGMENT_CHUNK; i++)
	{
		Relation	rel = table_open(coze_segment_oid(i, segment), AccessShareLock);

		blocks += RelationGetNumberOfBlocks(rel);
		table_close(rel, AccessShareLock);
	}
	return blocks;
}

static int
next_segment(int segment)
{
	return segment % COZE_LOG_SEGMENTS + 1;
}

/* Where writing goes on after a restart: the end of the run of filled segments. */
int
coze_log_last_segment(void)
{
	bool		filled[COZE_LOG_SEGMENTS + 1];

	for (int i = 1; i <= COZE_LOG_SEGMENTS; i++)
		filled[i] = segment_blocks(i) > 0;
	for (int i = 1; i <= COZE_LOG_SEGMENTS; i++)
		if (filled[i] && !filled[next_segment(i)])
			return i;
	return 1;
}

/* Look at all segments that are not the current one; not if another becomes it meanwhile. */
static bool
look_at_segments(uint64 rotations, bool *empty)
{
	int			current = coze_current_segment();

	for (int i = 1; i <= COZE_LOG_SEGMENTS; i++)
		empty[i] = i != current && segment_blocks(i) == 0;
	pg_read_barrier();
	return rotations == coze_segment_rotations();
}

/*
 * What was seen holds until the number of rotations rises, which it does before another
 * segment becomes the current one: so the number is looked at once more behind that.
 */
bool
coze_log_segment_is_empty(int segment)
{
	static uint64 known_at = 0; /* of rotations */
	static bool empty[COZE_LOG_SEGMENTS + 1];

	/* On a standby others write. */
	if (RecoveryInProgress())
		return false;
	for (;;)
	{
		uint64		rotations = coze_segment_rotations();
		int			current;

		if (rotations == 0)
			return false;
		if (rotations != known_at)
		{
			known_at = 0;
			if (!look_at_segments(rotations, empty))
				continue;
			known_at = rotations;
		}
		pg_read_barrier();
		current = coze_current_segment();
		pg_read_barrier();
		if (rotations == coze_segment_rotations())
			return empty[segment] && segment != current;
	}
}

int64
coze_log_size(void)
{
	int64		blocks = 0;

	for (int i = 1; i <= COZE_LOG_SEGMENTS; i++)
		blocks += segment_blocks(i);
	return blocks * BLCKSZ;
}

/* Before the segment is locked, since who has the row may be about to empty it, too. */
static bool
note_emptied(CozeHlc limit)
{
	char	   *command = psprintf("UPDATE cozesync.local_node SET emptied = " INT64_FORMAT
								   " WHERE emptied OPERATOR(pg_catalog.<) " INT64_FORMAT, limit, limit);

	if (SPI_execute(command, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not execute \"%s\"", command);
	return true;
}

/* Up to where entries may be missing because the segment that they were in was emptied. */
CozeHlc
coze_log_emptied(void)
{
	Relation	rel = table_open(coze_relation_oid("local_node", false), AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0, NULL);
	HeapTuple	tuple = systable_getnext(scan);
	bool		isnull;
	CozeHlc		emptied = tuple == NULL ? PG_INT64_MAX :
		DatumGetInt64(heap_getattr(tuple, 9, RelationGetDescr(rel), &isnull));

	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	return emptied;
}

/* Empty a segment if nobody needs it or has it in use. */
static bool
empty_segment(int segment, CozeHlc limit)
{
	bool		emptied = false;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	if (!coze_log_segment_is_needed(segment, limit, GetActiveSnapshot()) &&
		note_emptied(limit) &&
		ConditionalLockRelationOid(coze_segment_oid(COZE_SEGMENT_LOG, segment), AccessExclusiveLock) &&
		ConditionalLockRelationOid(coze_segment_oid(COZE_SEGMENT_CHUNK, segment), AccessExclusiveLock))
	{
		/* who wrote in it has ended: look again, with a snapshot that shows it */
		PushActiveSnapshot(GetLatestSnapshot());
		if (!coze_log_segment_is_needed(segment, limit, GetActiveSnapshot()))
		{
			char	   *command = psprintf("TRUNCATE cozesync.log_%d, cozesync.chunk_%d",
										   segment, segment);

			if (SPI_execute(command, false, 0) != SPI_OK_UTILITY)
				elog(ERROR, "could not execute \"%s\"", command);
			emptied = true;
		}
		PopActiveSnapshot();
	}
	SPI_finish();
	PopActiveSnapshot();
	if (emptied)
		CommitTransactionCommand();
	else
		AbortCurrentTransaction();
	return emptied;
}

/*
 * Make the next segment current if it is time, then empty those that are not
 * needed, the oldest first.
 */
bool
coze_log_rotate(void)
{
	int			current = coze_current_segment();
	CozeHlc		limit = coze_cut();
	bool		done = false;
	bool		filled[COZE_LOG_SEGMENTS + 1];

	if (cozesync_log_retention > 0)
		limit = Min(limit, GetCurrentTimestamp() - cozesync_log_retention * USECS_PER_MINUTE);

	StartTransactionCommand();
	if (segment_blocks(current) >= (BlockNumber) cozesync_segment_size / (BLCKSZ / 1024) &&
		segment_blocks(next_segment(current)) == 0)
	{
		current = next_segment(current);
		coze_set_current_segment(current);
		done = true;
	}
	for (int i = 1; i <= COZE_LOG_SEGMENTS; i++)
		filled[i] = segment_blocks(i) > 0;
	CommitTransactionCommand();

	for (int i = next_segment(current); i != current; i = next_segment(i))
	{
		if (!filled[i])
			continue;
		if (!empty_segment(i, limit))
			break;
		done = true;
	}
	return done;
}
