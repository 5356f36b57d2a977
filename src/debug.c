/*-------------------------------------------------------------------------
 *
 * debug.c
 *		Places to stop at and rules to take out, for tests.
 *
 * Only in test builds.  A process that comes to a place for which a test has
 * called cozesync.debug_stop() waits there until cozesync.debug_go().  A rule
 * that was switched off stays off until it is switched on or the server stops; a
 * server that starts with COZE_RULES_OFF in its environment (names separated by
 * commas) starts without these.  Both hold for the whole server.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#ifdef COZE_TESTING

#include "fmgr.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "debug.h"
#include "log/state.h"

#define COZE_DEBUG_NAMES 64
#define COZE_DEBUG_NAME_SIZE 48

/* Who stops at a place; all others pass by. */
typedef enum CozeDebugWho
{
	COZE_DEBUG_ALL,
	COZE_DEBUG_SESSIONS,		/* client backends */
	COZE_DEBUG_WORKERS			/* background workers */
} CozeDebugWho;

/* A name that is set; of a place also who stops and how many wait there. */
typedef struct CozeDebugName
{
	char		name[COZE_DEBUG_NAME_SIZE];
	int			waiting;
	bool		only_first;		/* who comes second passes by */
	CozeDebugWho who;
} CozeDebugName;

typedef struct CozeDebug
{
	slock_t		mutex;
	pg_atomic_uint32 nset;		/* names in use: nothing to look for when 0 */
	CozeDebugName points[COZE_DEBUG_NAMES];
	CozeDebugName rules[COZE_DEBUG_NAMES];
} CozeDebug;

static CozeDebug *debug = NULL;

static CozeDebugName *
find(CozeDebugName *names, const char *name)
{
	for (int i = 0; i < COZE_DEBUG_NAMES; i++)
		if (strcmp(names[i].name, name) == 0)
			return &names[i];
	return NULL;
}

/* Set or clear a name; the lock is taken here. */
static void
set(CozeDebugName *names, const char *name, bool on, bool only_first, CozeDebugWho who)
{
	CozeDebugName *entry;
	bool		full = false;

	SpinLockAcquire(&debug->mutex);
	entry = find(names, name);
	if (on && entry == NULL)
	{
		entry = find(names, "");
		full = entry == NULL;
		if (!full)
		{
			strlcpy(entry->name, name, sizeof(entry->name));
			entry->waiting = 0;
			entry->only_first = only_first;
			entry->who = who;
			pg_atomic_fetch_add_u32(&debug->nset, 1);
		}
	}
	else if (!on && entry != NULL)
	{
		entry->name[0] = '\0';
		pg_atomic_fetch_sub_u32(&debug->nset, 1);
	}
	SpinLockRelease(&debug->mutex);
	if (full)
		elog(ERROR, "too many debug names");
}

Size
coze_debug_shmem_size(void)
{
	return sizeof(CozeDebug);
}

static void
rules_off_at_start(void)
{
	char	   *names = getenv("COZE_RULES_OFF");

	if (names == NULL)
		return;
	names = pstrdup(names);
	for (char *name = strtok(names, ","); name != NULL; name = strtok(NULL, ","))
		set(debug->rules, name, true, false, COZE_DEBUG_ALL);
}

void
coze_debug_shmem_init(void)
{
	bool		found;

	debug = ShmemInitStruct("cozesync debug", coze_debug_shmem_size(), &found);
	if (!found)
	{
		memset(debug, 0, sizeof(CozeDebug));
		SpinLockInit(&debug->mutex);
		pg_atomic_init_u32(&debug->nset, 0);
		rules_off_at_start();
	}
}

static CozeDebugWho
who_by_name(const char *name)
{
	if (strcmp(name, "all") == 0)
		return COZE_DEBUG_ALL;
	if (strcmp(name, "sessions") == 0)
		return COZE_DEBUG_SESSIONS;
	if (strcmp(name, "workers") == 0)
		return COZE_DEBUG_WORKERS;
	elog(ERROR, "nobody is called \"%s\"", name);
}

static bool
stops_us(const CozeDebugName *point)
{
	if (point->only_first && point->waiting > 0)
		return false;
	return point->who == COZE_DEBUG_ALL ||
		(point->who == COZE_DEBUG_SESSIONS) == (MyBackendType == B_BACKEND);
}

void
coze_debug_point(const char *name)
{
	bool		counted = false;

	if (debug == NULL || pg_atomic_read_u32(&debug->nset) == 0)
		return;
	for (;;)
	{
		CozeDebugName *entry;

		SpinLockAcquire(&debug->mutex);
		entry = find(debug->points, name);
		if (entry != NULL && !counted && !stops_us(entry))
			entry = NULL;
		else if (entry != NULL && !counted)
			entry->waiting++;
		SpinLockRelease(&debug->mutex);
		if (entry == NULL)
			return;
		counted = true;

		/* a stopped process can be cancelled only where any could be */
		if (InterruptHoldoffCount == 0 && CritSectionCount == 0)
			CHECK_FOR_INTERRUPTS();
		pg_usleep(1000L);
	}
}

bool
coze_debug_rule_is_off(const char *name)
{
	bool		off;

	if (debug == NULL || pg_atomic_read_u32(&debug->nset) == 0)
		return false;
	SpinLockAcquire(&debug->mutex);
	off = find(debug->rules, name) != NULL;
	SpinLockRelease(&debug->mutex);
	return off;
}

PG_FUNCTION_INFO_V1(coze_debug_stop);
PG_FUNCTION_INFO_V1(coze_debug_go);
PG_FUNCTION_INFO_V1(coze_debug_waiting);
PG_FUNCTION_INFO_V1(coze_debug_rule);
PG_FUNCTION_INFO_V1(coze_debug_clock);

/* debug_stop(point text, only_first bool, who text): who comes to this place waits. */
Datum
coze_debug_stop(PG_FUNCTION_ARGS)
{
	set(debug->points, text_to_cstring(PG_GETARG_TEXT_PP(0)), true, PG_GETARG_BOOL(1),
		who_by_name(text_to_cstring(PG_GETARG_TEXT_PP(2))));
	PG_RETURN_VOID();
}

/* debug_go(point text): let them go on. */
Datum
coze_debug_go(PG_FUNCTION_ARGS)
{
	set(debug->points, text_to_cstring(PG_GETARG_TEXT_PP(0)), false, false, COZE_DEBUG_ALL);
	PG_RETURN_VOID();
}

/* debug_waiting(point text) returns bool: does anybody wait there? */
Datum
coze_debug_waiting(PG_FUNCTION_ARGS)
{
	CozeDebugName *entry;
	bool		waiting;

	SpinLockAcquire(&debug->mutex);
	entry = find(debug->points, text_to_cstring(PG_GETARG_TEXT_PP(0)));
	waiting = entry != NULL && entry->waiting > 0;
	SpinLockRelease(&debug->mutex);
	PG_RETURN_BOOL(waiting);
}

/* debug_rule(rule text, off bool): take a rule out, or put it in force again. */
Datum
coze_debug_rule(PG_FUNCTION_ARGS)
{
	set(debug->rules, text_to_cstring(PG_GETARG_TEXT_PP(0)), PG_GETARG_BOOL(1), false,
		COZE_DEBUG_ALL);
	PG_RETURN_VOID();
}

/* debug_clock(ahead interval): the node's clock has received an hlc that far ahead. */
Datum
coze_debug_clock(PG_FUNCTION_ARGS)
{
	Interval   *ahead = PG_GETARG_INTERVAL_P(0);

	coze_check_member();
	if (!coze_clock_advance(GetCurrentTimestamp() + ahead->time))
		elog(ERROR, "that is beyond cozesync.max_clock_drift");
	PG_RETURN_VOID();
}

#endif							/* COZE_TESTING */
