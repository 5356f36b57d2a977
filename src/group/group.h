/*-------------------------------------------------------------------------
 *
 * group.h
 *		Making and changing a group.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_GROUP_H
#define COZE_GROUP_H

#include "postgres.h"

/* From _PG_init. */
extern void coze_group_init(void);

/*
 * This transaction changed who this database is: all processes read it anew once it
 * has ended, and the launcher sees which workers that needs.
 */
extern void coze_group_node_changed_at_commit(void);

/*
 * The statement at hand may hold a password: error messages in the server log and
 * pg_stat_activity show another text from here on.
 */
extern void coze_group_hide_statement(const char *shown);

#endif							/* COZE_GROUP_H */
