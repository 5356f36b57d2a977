/*-------------------------------------------------------------------------
 *
 * settings.h
 *		The configuration parameters of cozesync.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_SETTINGS_H
#define COZE_SETTINGS_H

extern int	cozesync_max_clock_drift;	/* ms */
extern int	cozesync_max_log_size;	/* MB; -1: no limit */
extern int	cozesync_batch_size;	/* kB */
extern int	cozesync_capture_buffer;	/* kB */
extern int	cozesync_retry_min;		/* ms */
extern int	cozesync_retry_max;		/* ms */
extern int	cozesync_link_timeout;	/* ms */
extern int	cozesync_index_memory;	/* kB */
extern int	cozesync_beat_interval; /* ms */
extern int	cozesync_conflict_retention;	/* minutes */
extern int	cozesync_max_conflicts_size;	/* MB */
extern int	cozesync_log_retention; /* minutes */
extern int	cozesync_segment_size;	/* kB */
extern int	cozesync_max_databases; /* postmaster */
extern int	cozesync_max_nodes;		/* postmaster */

extern void coze_settings_define(void);

#endif							/* COZE_SETTINGS_H */
