/*-------------------------------------------------------------------------
 *
 * records.h
 *		Base records: states at the cut that pruning keeps.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_RECORDS_H
#define COZE_RECORDS_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "apply/closure.h"
#include "apply/relation.h"
#include "base/fold.h"

typedef struct CozeBaseRecord
{
	Datum	   *key;
	const CozeState *state;
} CozeBaseRecord;

extern List *coze_records_read(CozeTable *table);
extern const CozeState *coze_record_of_key(List *records, CozeTable *table, const Datum *key);
extern void coze_records_with_value(CozeClosure *closure, int index, const CozeUniqueValue *value);

/* Set as coze_prune_hook. */
extern void coze_records_keep(CozeHlc old_cut, CozeHlc new_cut);

#endif							/* COZE_RECORDS_H */
