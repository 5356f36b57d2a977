/*-------------------------------------------------------------------------
 *
 * debug_apply.c
 *		SQL functions that carry entries from one database to another's applier
 *		without a link, for tests.
 *
 * Not in the install script: a test creates those that it needs.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#ifdef COZE_TESTING

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "apply/queue.h"
#include "compat.h"
#include "log/catalog.h"
#include "log/log.h"
#include "log/state.h"

PG_FUNCTION_INFO_V1(coze_debug_batch);
PG_FUNCTION_INFO_V1(coze_debug_put);
PG_FUNCTION_INFO_V1(coze_debug_start_applier);

static void
put_frame(CozeBuf *buf, CozeFrameKind kind, CozeHlc prev, const char *data, Size size)
{
	CozeFrame	frame = {.kind = kind,.prev = prev,.data = data,.size = size};

	coze_wire_put_frame(buf, &frame);
}

static void
put_descriptors(CozeBuf *buf, Snapshot snapshot)
{
	Relation	rel = table_open(coze_relation_oid("descriptor", false), AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0, NULL);
	HeapTuple	tuple;

	while ((tuple = systable_getnext(scan)) != NULL)
	{
		bool		isnull;
		bytea	   *b = DatumGetByteaPP(heap_getattr(tuple, 2, RelationGetDescr(rel), &isnull));

		put_frame(buf, COZE_FRAME_RELATION, 0, VARDATA_ANY(b), VARSIZE_ANY_EXHDR(b));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
}

static void
put_chunk(void *arg, const char *data, Size size)
{
	put_frame(arg, COZE_FRAME_CHUNK, 0, data, size);
}

/* debug_batch(origin bigint, after bigint, upto bigint) -> bytea: its entries as a batch */
Datum
coze_debug_batch(PG_FUNCTION_ARGS)
{
	CozeVectorEntry from = {(CozeOrigin) PG_GETARG_INT64(0), PG_GETARG_INT64(1)};
	CozeVectorEntry to = {from.origin, PG_GETARG_INT64(2)};
	CozeVector	after = {1, 0, &from};
	CozeVector	upto = {1, 0, &to};
	CozeHlc		prev = from.hlc;
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	CozeBuf		buf;
	CozeLogReader *reader;
	CozeLogEntry entry;
	bytea	   *result;

	coze_attach();
	coze_buf_init(&buf);
	put_descriptors(&buf, snapshot);
	reader = coze_log_open(&after, &upto, snapshot);
	while (coze_log_next(reader, &entry))
	{
		put_frame(&buf, COZE_FRAME_ENTRY, prev, entry.head, entry.size);
		if (entry.chunks != 0)
			coze_log_read_chunks(entry.chunks, snapshot, put_chunk, &buf);
		prev = entry.version.hlc;
	}
	coze_log_close(reader);
	UnregisterSnapshot(snapshot);
	result = palloc(VARHDRSZ + buf.size);
	SET_VARSIZE(result, VARHDRSZ + buf.size);
	memcpy(VARDATA(result), buf.data, buf.size);
	PG_RETURN_BYTEA_P(result);
}

/* debug_put(peer bigint, begin bool, batch bytea) -> text: into the applier's queue */
Datum
coze_debug_put(PG_FUNCTION_ARGS)
{
	static uint64 stream = 0;
	CozeOrigin	peer = (CozeOrigin) PG_GETARG_INT64(0);
	bytea	   *batch = PG_GETARG_BYTEA_PP(2);
	CozeVector	queued;

	coze_attach();
	coze_vector_init(&queued);
	if (PG_GETARG_BOOL(1))
		stream = coze_queue_begin(peer, &queued);
	switch (coze_queue_put(peer, stream, VARDATA_ANY(batch), VARSIZE_ANY_EXHDR(batch)))
	{
		case COZE_QUEUE_TAKEN:
			PG_RETURN_TEXT_P(cstring_to_text("taken"));
		case COZE_QUEUE_FULL:
			PG_RETURN_TEXT_P(cstring_to_text("full"));
		case COZE_QUEUE_GAP:
			break;
	}
	PG_RETURN_TEXT_P(cstring_to_text("gap"));
}

/* debug_start_applier() -> int: its pid */
Datum
coze_debug_start_applier(PG_FUNCTION_ARGS)
{
	BackgroundWorker worker = {0};
	BackgroundWorkerHandle *handle;
	pid_t		pid;

	strcpy(worker.bgw_name, "cozesync applier");
	strcpy(worker.bgw_type, "cozesync applier");
	strcpy(worker.bgw_library_name, "cozesync");
	strcpy(worker.bgw_function_name, "coze_applier_main");
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ObjectIdGetDatum(MyDatabaseId);
	worker.bgw_notify_pid = MyProcPid;
	if (!RegisterDynamicBackgroundWorker(&worker, &handle) ||
		WaitForBackgroundWorkerStartup(handle, &pid) != BGWH_STARTED)
		PG_RETURN_NULL();
	PG_RETURN_INT32(pid);
}

#endif							/* COZE_TESTING */
