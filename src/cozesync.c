/*-------------------------------------------------------------------------
 *
 * cozesync.c
 *		Load the library: settings, shared memory, hooks, workers.
 *
 * Only a preloaded library does anything.  Loaded later, by a call of one of its
 * functions, it leaves everything alone, and calls that need shared memory say
 * which line is missing (coze_check_preloaded).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "apply/apply.h"
#include "apply/queue.h"
#include "capture/precommit.h"
#include "debug.h"
#include "group/group.h"
#include "link/launcher.h"
#include "link/link_state.h"
#include "link/roads.h"
#include "link/utility.h"
#include "log/state.h"
#include "log/wall.h"
#include "settings.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

static shmem_request_hook_type previous_shmem_request_hook = NULL;
static shmem_startup_hook_type previous_shmem_startup_hook = NULL;

static void
request_shared_memory(void)
{
	if (previous_shmem_request_hook)
		previous_shmem_request_hook();
	RequestAddinShmemSpace(coze_wall_shmem_size());
	RequestAddinShmemSpace(coze_state_shmem_size());
	RequestAddinShmemSpace(coze_queue_shmem_size());
	RequestAddinShmemSpace(coze_apply_shmem_size());
	RequestAddinShmemSpace(coze_link_state_shmem_size());
	RequestAddinShmemSpace(coze_roads_shmem_size());
	RequestAddinShmemSpace(coze_launcher_shmem_size());
#ifdef COZE_TESTING
	RequestAddinShmemSpace(coze_debug_shmem_size());
#endif
}

static void
start_shared_memory(void)
{
	if (previous_shmem_startup_hook)
		previous_shmem_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	coze_wall_shmem_init();
	coze_state_shmem_init();
	coze_queue_shmem_init();
	coze_apply_shmem_init();
	coze_link_state_shmem_init();
	coze_roads_shmem_init();
	coze_launcher_shmem_init();
#ifdef COZE_TESTING
	coze_debug_shmem_init();
#endif
	LWLockRelease(AddinShmemInitLock);
}

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	coze_settings_define();
	previous_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shared_memory;
	coze_capture_init();
	previous_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = start_shared_memory;
	coze_utility_init();
	coze_launcher_register();
	coze_group_init();
}
