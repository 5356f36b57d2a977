/*-------------------------------------------------------------------------
 *
 * debug.h
 *		Places to stop at and rules to take out, for tests.
 *
 * A test build (-DCOZE_TESTING) can stop any process at a named place and can
 * switch off a named rule, so that a test can show that it fails without it.
 * In other builds both are nothing.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_DEBUG_H
#define COZE_DEBUG_H

#ifdef COZE_TESTING
extern void coze_debug_point(const char *name);
extern bool coze_debug_rule_is_off(const char *name);
extern Size coze_debug_shmem_size(void);
extern void coze_debug_shmem_init(void);

/* Stop here while a test has asked for it with cozesync.debug_stop(name). */
#define COZE_DEBUG_POINT(name) coze_debug_point(name)
/* Is the rule in force?  False after cozesync.debug_rule(name, off => true). */
#define COZE_RULE(name) (!coze_debug_rule_is_off(name))
#else
#define COZE_DEBUG_POINT(name) ((void) 0)
#define COZE_RULE(name) true
#endif

#endif							/* COZE_DEBUG_H */
