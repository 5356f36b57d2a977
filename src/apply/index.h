/*-------------------------------------------------------------------------
 *
 * index.h
 *		The suffix index: which operations of the suffix touch a key.
 *
 * By (table, key) and by unique value it finds the operations that some member
 * has perhaps not seen, so that an entry of his that is still to come can be
 * concurrent with them.  Entries hold a hash, not the key: who finds one asks
 * the log (coze_op_load) whether it is the key that he means.
 *
 * It lives in the applier's memory and is read off the log when it starts.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_INDEX_H
#define COZE_INDEX_H

#include "postgres.h"

#include "apply/body.h"
#include "apply/relation.h"
#include "base/vector.h"
#include "base/wire.h"

#define COZE_OP_LEAVES_ROW	0x01
#define COZE_OP_TRUNCATE	0x02
#define COZE_OP_EXISTED		0x04	/* the row was there for the author */
#define COZE_OP_FOLDS		0x08	/* of a table that folds: kept until the cut */

/* Places of an operation: its key, a TRUNCATE of the table, its i-th unique index. */
#define COZE_SLOT_KEY		0
#define COZE_SLOT_TRUNCATE	1
#define COZE_SLOT_UNIQUE(i) (2 + (i))

typedef struct CozeIndexOp
{
	struct CozeIndexOp *chain;	/* same bucket */
	struct CozeIndexOp *later;	/* same list of its origin */
	CozeHlc		hlc;
	uint64		seq;			/* place of the change: see coze_index_place() */
	Oid			relid;
	uint32		hash;
	uint16		origin;			/* number, see coze_index_version() */
	uint16		offset;
	uint16		context;
	uint8		slot;
	uint8		flags;
} CozeIndexOp;

/* In a transaction, before anything is decided: members, K, all that is visible. */
extern void coze_index_begin(void);
extern void coze_index_extend(void);
extern bool coze_index_extend_on(Oid relid);
extern void coze_index_trim(void);
extern void coze_index_reset(void);

extern CozeVersion coze_index_version(const CozeIndexOp *op);
extern CozePlace coze_index_place(const CozeIndexOp *op);
extern CozeIndexOp *coze_index_first(Oid relid, uint8 slot, uint32 hash);
extern CozeIndexOp *coze_index_next(const CozeIndexOp *op);

/* Versions above from, rising and each once, of what is known of a place but one; palloc'd. */
extern CozeVersion *coze_index_versions(Oid relid, uint8 slot, uint32 hash, CozeVersion from,
										CozeVersion except, int *n);
extern bool coze_index_has_truncates(void);
extern Size coze_index_size(void);

/* Every entry that has an operation on a key of the table, once, in version order. */
extern CozeVersion *coze_index_entries_on(Oid relid, int *n);

/* The next operations that are added belong to this entry, which is being applied. */
extern void coze_index_entry(const CozeEntryHead *head);
/* ... and stand at this place of it. */
extern void coze_index_at(const CozePlace *place);
extern void coze_index_add(const CozeTable *table, uint8 slot, uint32 hash, uint8 flags);

/*
 * What this transaction wrote.  If an own entry that touches it comes to light
 * later (coze_index_extend), the index is stale: undo and decide again.
 */
extern void coze_index_wrote(Oid relid, uint8 slot, uint32 hash);
extern bool coze_index_is_stale(void);
extern void coze_index_spoil(void);

/*
 * An own entry that has come to light and had not seen something that was applied
 * here before it: nothing kept the two apart, since the one left no row to
 * hold on to.  False: none.
 */
extern bool coze_index_take_late(CozeVersion *version);
/* It could not be dealt with yet: its turn comes after that of the others. */
extern void coze_index_put_back_late(CozeVersion version);
/* The lowest hlc of those that are not dealt with; PG_INT64_MAX: there are none. */
extern CozeHlc coze_index_lowest_late(void);

extern void coze_index_commit(void);
extern void coze_index_abort(void);

#endif							/* COZE_INDEX_H */
