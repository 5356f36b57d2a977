/*-------------------------------------------------------------------------
 *
 * empty_trigger.c
 *		A row trigger that does nothing.
 *
 * What remains of the cost of a row trigger in C when its function is free: the
 * server's queue of events, fetching the row again, the call.  No capture by
 * triggers can be cheaper, so the benchmark sets cozesync beside it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(empty_trigger);

Datum
empty_trigger(PG_FUNCTION_ARGS)
{
	return PointerGetDatum(NULL);
}
