/*-------------------------------------------------------------------------
 *
 * target.h
 *		A table that is open for applying; for row.c and write.c alone.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_TARGET_H
#define COZE_TARGET_H

#include "postgres.h"

#include "access/genam.h"
#include "access/skey.h"
#include "executor/execPartition.h"
#include "executor/executor.h"

#include "apply/row.h"

struct CozeHeap
{
	CozeHeap   *next;
	CozeTarget *target;
	Oid			relid;
	Relation	rel;
	ResultRelInfo *rri;
	Relation	key_index;
	IndexScanDesc key_scan;		/* on it, for one search after the other */
	ScanKeyData scan_keys[INDEX_MAX_KEYS];	/* in the order of the index */
	int			key_of[INDEX_MAX_KEYS]; /* the table's key at that place */
	TupleTableSlot *found;
	TupleTableSlot *written;
	AttrNumber *attnums;		/* by the table's attnum - 1; NULL: the same */
	bool		fires;			/* has triggers that fire while applying */
	int			nbuffered;		/* rows that wait to be inserted together */
	Size		buffered_bytes;
	TupleTableSlot **buffered;	/* made when first needed */
};

struct CozeTarget
{
	CozeTarget *next;
	CozeTable  *table;
	Relation	rel;
	EState	   *estate;
	ResultRelInfo *rri;
	EPQState	epq;
	CozeHeap   *heaps;
	ModifyTableState *mtstate;	/* partitioned: */
	PartitionTupleRouting *routing;
	TupleTableSlot *root_slot;
	ExprState **defaults;		/* by attnum - 1, made when first needed */
	bool		have_defaults;
};


extern AttrNumber *coze_map_attributes(TupleDesc from, TupleDesc to);
extern CozeHeap *coze_target_route(CozeTarget *target);
extern CozeHeap *coze_heap_for_key(CozeTarget *target, const Datum *key);
extern CozeHeap *coze_heap_for_value(CozeTarget *target, const CozeUnique *unique,
									 const CozeUniqueValue *value);
extern MemoryContext coze_target_context(void);
extern void coze_row_forget_buffered(void);

static inline AttrNumber
coze_heap_attnum(const CozeHeap *heap, AttrNumber attnum)
{
	return heap->attnums != NULL ? heap->attnums[attnum - 1] : attnum;
}

/* In a virtual row of the table's root: nothing, but for what is set next. */
static inline TupleTableSlot *
coze_target_begin_root(CozeTarget *target)
{
	TupleTableSlot *slot = target->root_slot;

	ExecClearTuple(slot);
	memset(slot->tts_isnull, true, slot->tts_tupleDescriptor->natts * sizeof(bool));
	return slot;
}

#endif							/* COZE_TARGET_H */
