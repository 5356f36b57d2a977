/*-------------------------------------------------------------------------
 *
 * ops.h
 *		Operations: what one entry does to one key, read off its changes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_OPS_H
#define COZE_OPS_H

#include "postgres.h"

#include "apply/relation.h"
#include "apply/unique.h"
#include "base/vector.h"
#include "base/wire.h"
#include "log/log.h"

/* From the first old row of a key to its last new row. */
typedef struct CozeOp
{
	CozeVersion version;
	CozeVector	seen;
	bool		truncate;		/* the entry truncates the table, before the rest */
	bool		found;			/* it has an operation on the key */
	bool		existed;		/* for the author */
	bool		leaves_row;
	CozeVersion policy;
	CozeRow    *old;			/* known: in full, or columns of unique indexes */
	CozeRow    *new;			/* NULL unless leaves_row */
} CozeOp;

/* Does deciding about one key need the states of several? */
extern bool coze_table_folds(const CozeTable *table);

/* Add what a change does to the suffix index. */
extern void coze_ops_index(const CozeChange *change);

extern void coze_ops_unique_values(const CozeMap *map, const CozeChange *change,
								   void (*callback) (void *arg, CozeTable *table, int index,
													 const CozeUniqueValue *value), void *arg);
extern void coze_ops_index_uniques(const CozeMap *map, const CozeChange *change);

/*
 * Take a change of the entry at hand into an operation on key.  Changes come in
 * their order; op begins zeroed.  Rows are made in CurrentMemoryContext.
 */
extern void coze_op_take(CozeOp *op, const CozeMap *map, const Datum *key,
						 const CozeChange *change);

/* Loading operations off the log, in version order or any other. */
typedef struct CozeOpLoader
{
	CozeTable  *table;
	Snapshot	snapshot;
	CozeLogFinder *finder;		/* NULL: all was known so far */
} CozeOpLoader;

extern void coze_ops_load_begin(CozeOpLoader *loader, CozeTable *table);
extern void coze_ops_load_end(CozeOpLoader *loader);

/*
 * The operation of an entry of the log on a key; false: it has none.  Points into
 * a cache, or is in CurrentMemoryContext: valid until coze_ops_trim_cache().
 */
extern bool coze_op_load(CozeOpLoader *loader, CozeVersion version, const Datum *key, CozeOp *op);
extern bool coze_ops_each(CozeOpLoader *loader, CozeVersion version,
						  void (*callback) (void *arg, const Datum *key, const CozeOp *op), void *arg);
extern void coze_ops_trim_cache(void);
extern void coze_ops_forget_cache(void);

#endif							/* COZE_OPS_H */
