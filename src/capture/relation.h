/*-------------------------------------------------------------------------
 *
 * relation.h
 *		What capture knows of a relation: its key, its descriptor, its plan.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_CAPTURE_RELATION_H
#define COZE_CAPTURE_RELATION_H

#include "postgres.h"

#include "access/attnum.h"
#include "fmgr.h"
#include "utils/rel.h"

#include "base/codec.h"
#include "base/version.h"
#include "base/wire.h"

/* The triggers that attach_capture() makes; '!' sorts them first. */
#define COZE_ROW_TRIGGER "!cozesync_capture"
#define COZE_TRUNCATE_TRIGGER "!cozesync_truncate"

/* --- key and descriptor (descriptor.c) ------------------------------------------ */

/*
 * The index whose columns are the key: the primary key, else the replica identity
 * index, else of the other suitable indexes that with the lowest name, so that all
 * nodes choose alike.  Suitable is a valid, immediate, complete unique btree over
 * plain NOT NULL columns that are not generated.  InvalidOid: there is none.
 */
extern Oid	coze_capture_key_index(Relation rel);

/* A descriptor, with what it was made of. */
typedef struct CozeRelationDescriptor
{
	CozeDescriptor descriptor;	/* with its hash */
	CozeBuf		encoded;
	AttrNumber *attnums;		/* column of the relation, by column of the descriptor */
	CozeCodec **codecs;			/* by column of the descriptor */
} CozeRelationDescriptor;

/*
 * Describe a table or partitioned table: key columns in the order of the key's
 * index, then the others in the order of the table; dropped and generated columns
 * left out.  Allocated in CurrentMemoryContext.
 */
extern void coze_relation_descriptor(Relation rel, Oid key_index, CozeRelationDescriptor *result);

/* --- plans (relation.c) ---------------------------------------------------------- */

typedef struct CozePlanColumn
{
	int			attindex;		/* into a slot of the table that the trigger is on */
	CozeCodec  *codec;
	bool		unique;			/* of a unique index besides the key's */
	bool		byval;
	int16		typlen;
	uint32		type_hash;		/* as invalidations name its type */
} CozePlanColumn;

struct CozeTableHistory;

/*
 * How to capture changes of one table, made at its first change and made anew when
 * its definition, or its root's, may have changed.  A plan in use stays valid until
 * the end of the transaction.
 */
typedef struct CozePlan
{
	Oid			relid;
	Oid			root;			/* by which it is named; itself unless a partition */
	uint64		descriptor_hash;
	const char *descriptor;		/* encoded */
	Size		descriptor_size;
	bool		descriptor_known;	/* stored, and that has committed */
	int			nkeys;
	int			key_natts;		/* the key is among so many first attributes of this table */
	int			ncolumns;
	CozePlanColumn *columns;	/* in the order of the descriptor */
	bool		has_unique;
	FmgrInfo   *key_equal;		/* equality of the key's index, by key column */
	Oid		   *key_collations;
	Oid			key_index;		/* of this table, not of its root */
	struct CozeTableHistory *history;
} CozePlan;

/* What happened to a table in the transaction at hand; outlives its plan. */
typedef struct CozeTableHistory
{
	uint64		transaction;	/* coze_buffer_transaction() to which this belongs */
	bool		inserted;		/* has a key appeared, by insert or change of key? */
	CommandId	newest_insert;	/* if so, the latest command that made one appear */
	uint64		policy_transaction; /* to which the next two belong */
	CozeVersion policy;			/* version under which this transaction captures */
	bool		folds;			/* it needs old rows */
	Oid			filenode;
	CommandId	rewritten;		/* rows of older commands may have been rewritten */
} CozeTableHistory;

/*
 * The plan of the table; trigger is the oid of its row trigger.  ERROR if it
 * cannot be captured.
 */
extern CozePlan *coze_plan_get(Relation rel, Oid trigger, CozeTableHistory **history);

/* See to it that the transaction stores the descriptor, or that it is there. */
extern void coze_plan_store_descriptor(CozePlan *plan);

/* The descriptors that the transaction stored have committed. */
extern void coze_plan_descriptors_committed(void);

/*
 * The policy version under which this transaction captures the table, and whether it
 * needs old rows: the one in force when it first wrote to it.
 */
extern CozeVersion coze_capture_policy(CozePlan *plan, bool *folds);

#endif							/* COZE_CAPTURE_RELATION_H */
