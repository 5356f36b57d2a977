/*-------------------------------------------------------------------------
 *
 * drop.c
 *		By which entry a member was dropped.
 *
 * Invariant: whoever has seen the entry noted for a drop has applied a drop of
 * that member.  So it may be any such entry, and of several the first that this node
 * meets is kept.  The author of a drop learns its version only when it commits.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/snapmgr.h"

#include "apply/apply.h"
#include "apply/stop.h"
#include "capture/precommit.h"
#include "log/catalog.h"

PG_FUNCTION_INFO_V1(coze_group_note_drop);

/* Every drop that is known here, and of which no entry is noted, was made known by this one. */
static void
note_drops(CozeVersion version)
{
	Oid			types[2] = {INT8OID, INT8OID};
	Datum		values[2] = {Int64GetDatum((int64) version.origin), Int64GetDatum(version.hlc)};

	Oid			user;
	int			context;

	/* the role of a peer that leaves has no right on any table */
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(coze_extension_owner(), context | SECURITY_LOCAL_USERID_CHANGE);
	CommandCounterIncrement();
	PushActiveSnapshot(GetLatestSnapshot());
	SPI_connect();
	if (SPI_execute_with_args("INSERT INTO cozesync.drop_entry (origin, by_origin, by_hlc)"
							  " SELECT d.origin, $1, $2 FROM cozesync.dropped_member AS d"
							  " ON CONFLICT DO NOTHING",
							  2, types, values, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not note who was dropped");
	SPI_finish();
	PopActiveSnapshot();
	SetUserIdAndSecContext(user, context);
}

/* note_drop(origin bigint) */
Datum
coze_group_note_drop(PG_FUNCTION_ARGS)
{
	if (!coze_in_applier)
		coze_capture_when_drawn(note_drops);
	else if (coze_applying.version.hlc != 0)
		note_drops(coze_applying.version);
	PG_RETURN_VOID();
}
