/*-------------------------------------------------------------------------
 *
 * debug_capture.c
 *		Another extension that writes while a transaction commits, for tests.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#ifdef COZE_TESTING

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "capture/precommit.h"

static char *late_command = NULL;

static void
write_late(XactEvent event, void *arg)
{
	char	   *command = late_command;

	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		late_command = NULL;
	if (event != XACT_EVENT_PRE_COMMIT || command == NULL)
		return;
	late_command = NULL;
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	SPI_execute(command, false, 0);
	SPI_finish();
	PopActiveSnapshot();
}

/* Callbacks are called last in, first out. */
void
coze_debug_capture_init(void)
{
	RegisterXactCallback(write_late, NULL);
}

PG_FUNCTION_INFO_V1(coze_debug_write_late);

/* write_late(command text): run it in this transaction, after its entry was written */
Datum
coze_debug_write_late(PG_FUNCTION_ARGS)
{
	late_command = MemoryContextStrdup(TopTransactionContext,
									   text_to_cstring(PG_GETARG_TEXT_PP(0)));
	PG_RETURN_VOID();
}

#endif							/* COZE_TESTING */
