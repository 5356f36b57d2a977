/*-------------------------------------------------------------------------
 *
 * settings.c
 *		The configuration parameters of cozesync.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "utils/guc.h"

#include "settings.h"

int			cozesync_max_clock_drift;
int			cozesync_max_log_size;
int			cozesync_batch_size;
int			cozesync_capture_buffer;
int			cozesync_retry_min;
int			cozesync_retry_max;
int			cozesync_link_timeout;
int			cozesync_index_memory;
int			cozesync_beat_interval;
int			cozesync_conflict_retention;
int			cozesync_max_conflicts_size;
int			cozesync_log_retention;
int			cozesync_segment_size;
int			cozesync_max_databases;
int			cozesync_max_nodes;

/*
 * Define every parameter.  The two that size shared memory can only be set
 * while the server starts, so they are defined even where nothing is shared.
 */
void
coze_settings_define(void)
{
	DefineCustomIntVariable("cozesync.max_clock_drift",
							"A peer whose clock is ahead by more is delayed and reported.",
							NULL, &cozesync_max_clock_drift,
							60000, 10, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("cozesync.max_log_size",
							"Size of the change log above which an alarm is raised; -1 means never.",
							"Writers are never stopped.", &cozesync_max_log_size,
							-1, -1, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MB, NULL, NULL, NULL);
	DefineCustomIntVariable("cozesync.batch_size",
							"Most that is sent to a peer in one message.",
							NULL, &cozesync_batch_size,
							4096, 64, 256 * 1024,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("cozesync.capture_buffer",
							"Memory for the captured changes of a transaction before they go to the log.",
							NULL, &cozesync_capture_buffer,
							256, 16, 1024 * 1024,
							PGC_USERSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("cozesync.retry_min",
							"First wait before an error on a link is tried again.",
							NULL, &cozesync_retry_min,
							200, 10, 3600 * 1000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("cozesync.retry_max",
							"Longest wait before an error on a link is tried again.",
							NULL, &cozesync_retry_max,
							30000, 10, 24 * 3600 * 1000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("cozesync.link_timeout",
							"A peer that does not answer for so long is taken for gone.",
							NULL, &cozesync_link_timeout,
							30000, 4000, 3600 * 1000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("cozesync.index_memory",
							"Memory of the suffix index before it spills.",
							NULL, &cozesync_index_memory,
							65536, 1024, MAX_KILOBYTES,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("cozesync.beat_interval",
							"How often a node that wrote nothing tells what it holds.",
							NULL, &cozesync_beat_interval,
							1000, 10, 3600 * 1000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("cozesync.conflict_retention",
							"How long settled conflicts are kept.",
							NULL, &cozesync_conflict_retention,
							30 * 24 * 60, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MIN, NULL, NULL, NULL);
	DefineCustomIntVariable("cozesync.max_conflicts_size",
							"Size of the conflict log above which the oldest settled conflicts go.",
							NULL, &cozesync_max_conflicts_size,
							1024, 1, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MB, NULL, NULL, NULL);
	DefineCustomIntVariable("cozesync.log_retention",
							"How long entries are kept that no node needs any more.",
							NULL, &cozesync_log_retention,
							0, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MIN, NULL, NULL, NULL);
	DefineCustomIntVariable("cozesync.segment_size",
							"Size at which the next segment of the change log is begun.",
							NULL, &cozesync_segment_size,
							65536, 64, MAX_KILOBYTES,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("cozesync.max_databases",
							"Databases of this server that can be nodes.",
							NULL, &cozesync_max_databases,
							8, 1, 1024,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("cozesync.max_nodes",
							"Nodes of a group, counting former incarnations still remembered.",
							NULL, &cozesync_max_nodes,
							128, 2, 8192,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	MarkGUCPrefixReserved("cozesync");
}
