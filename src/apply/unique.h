/*-------------------------------------------------------------------------
 *
 * unique.h
 *		Unique values of rows, beside the key: computed, hashed, compared.
 *
 * With the rights of the table's owner (coze_owner_enter), since expressions
 * and predicates of indexes are his.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_UNIQUE_H
#define COZE_UNIQUE_H

#include "postgres.h"

#include "apply/relation.h"
#include "base/fold.h"

/* What a row has in a unique index. */
typedef struct CozeUniqueValue
{
	int			n;
	Datum		values[INDEX_MAX_KEYS];
	bool		isnull[INDEX_MAX_KEYS];
	uint32		hash;
} CozeUniqueValue;

/*
 * False: the row has no entry in the index (predicate, NULL), or not all that the
 * index reads is known of it.  Values live in the table's evaluation memory, until
 * the next call.
 */
extern bool coze_unique_value(CozeTable *table, int index, const CozeRow *row,
							  CozeUniqueValue *value);
extern bool coze_unique_same(CozeTable *table, int index, const CozeUniqueValue *a,
							 const CozeUniqueValue *b);
extern void coze_unique_copy(CozeTable *table, int index, CozeUniqueValue *to,
							 const CozeUniqueValue *from);

/* The table as the fold sees it; note and arg are the caller's. */
extern void coze_unique_fold_table(CozeTable *table, CozeFoldTable *fold,
								   CozeFoldCallbacks *callbacks,
								   void (*note) (void *arg, const CozeFoldNote *note), void *arg);

/* The table that a fold's arg begins with. */
typedef struct CozeFoldArg
{
	CozeTable  *table;
} CozeFoldArg;

/* With its generated columns, in CurrentMemoryContext; NULL for an absence. */
extern HeapTuple coze_fold_tuple(CozeTable *table, const CozeFoldRow *row);

extern CozeFoldRow *coze_fold_row(const CozeTable *table, const CozeRow *row);
extern CozeRow *coze_row_of_fold(const CozeTable *table, const CozeFoldRow *row);

#endif							/* COZE_UNIQUE_H */
