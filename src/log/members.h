/*-------------------------------------------------------------------------
 *
 * members.h
 *		The members of the group, as this node knows them.
 *
 * Read from cozesync.member, which travels through the log like any synced
 * table.  Callers keep what they read until coze_group_generation() rises.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_MEMBERS_H
#define COZE_MEMBERS_H

#include "postgres.h"

#include "base/version.h"

typedef struct CozeMember
{
	CozeOrigin	origin;
	char	   *node_name;
	char	   *dsn;			/* NULL: cannot be reached from outside */
	bool		dropped;
	bool		is_local;
	uint64		system_identifier;
	Oid			database_oid;
} CozeMember;

/* palloc'd in CurrentMemoryContext; needs a transaction with an active snapshot. */
extern CozeMember *coze_members_read(int *n);

/* A member that was dropped, and the entry by which this node has learnt of it. */
typedef struct CozeDrop
{
	CozeOrigin	origin;
	CozeVersion entry;
} CozeDrop;

/* From cozesync.drop_entry, likewise. */
extern CozeDrop *coze_drops_read(int *n);

/* Entries that are to have no effect, from cozesync.skipped_entry, likewise. */
extern CozeVersion *coze_skipped_read(int *n);

#endif							/* COZE_MEMBERS_H */
