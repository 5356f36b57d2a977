/*-------------------------------------------------------------------------
 *
 * fold.h
 *		The fold: from the state of keys at the cut, and the operations of the
 *		suffix in version order, to their rows and conflicts.
 *
 * Pure: looks only at its arguments, so that every node given the same states
 * and operations reaches the same rows and the same conflict log.
 *
 * Keys are numbered 0 .. nkeys - 1 by the caller, in an order that every node
 * agrees on (that of the key's index): where several rows of one entry collide,
 * the order decides who gives way.  Keys that shared a unique value at any point
 * from the cut on must be folded together.  Columns are numbered
 * 0 .. ncolumns - 1; a value is a word whose meaning only the callbacks know.
 *
 * Memory: everything is allocated in the current context and nothing of it is
 * freed, since states share their rows and marks with each other and with what
 * was passed in.  Use a context of its own for a fold; coze_state_copy() takes a
 * state out of it.  States and rows are never changed once made, so that a
 * caller may keep fold->states[k] after any entry and later go on from there.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_FOLD_H
#define COZE_FOLD_H

#include "base/policy.h"
#include "base/vector.h"

typedef uintptr_t CozeFoldValue;	/* a Datum in the server */

/* A row, or what is known of it. */
typedef struct CozeFoldRow
{
	CozeFoldValue *values;
	bool	   *isnull;
	bool	   *known;			/* NULL: every column is known */
} CozeFoldRow;

/* A set of versions, in version order; NULL is the empty one. */
typedef struct CozeMarks
{
	int			n;
	CozeVersion v[];
} CozeMarks;

/*
 * A key's row or absence, and which operations are in it: a mark is an operation
 * whose effect the column (or presence) shows, less those that a later one among
 * them has seen.  What was set aside or beaten is in no mark.
 */
typedef struct CozeState
{
	const CozeFoldRow *row;		/* NULL: absent */
	const CozeFoldRow *ranked;	/* what an absence is ranked by; may be NULL */
	const CozeMarks *presence;
	const CozeMarks *all_columns;	/* marks of every column, if columns is NULL */
	const CozeMarks *const *columns;
	bool		truncated;		/* an absence that a TRUNCATE left */
} CozeState;

/* A table's rules as of one policy version. */
typedef struct CozeFoldPolicy
{
	/* by CozeConflictType; the first four and TRUNCATE_WRITE are asked for */
	CozeRowPolicy row[COZE_CONFLICT_TYPES];
	CozeRowPolicy unique;		/* COZE_ROW_{FIRST,LAST}_UPDATE_WINS */
	const CozeColumnPolicy *columns;	/* NULL: all last_update_wins */
	int			norder;			/* node_order; who is not in it comes last */
	const CozeOrigin *order;
	void	   *extra;			/* the callbacks': resolver, version column */
} CozeFoldPolicy;

/* What one entry does to one key: its first old row to its last new row. */
typedef struct CozeFoldOp
{
	int			key;
	const CozeFoldPolicy *policy;	/* the version that the change names */

	/*
	 * NULL iff the key was absent for the author.  Known in full where the
	 * policy folds or the operation deletes; else the columns of unique indexes
	 * are.
	 */
	const CozeFoldRow *old;

	/*
	 * NULL: deletes.  A column that is not known here keeps the value it has.
	 */
	const CozeFoldRow *new;
} CozeFoldOp;

typedef struct CozeFoldEntry
{
	CozeVersion version;
	const CozeVector *seen;		/* V, its own origin left out */
	bool		truncate;		/* the table, before the operations */
	int			nops;			/* in the order of their keys, each once */
	const CozeFoldOp *ops;
} CozeFoldEntry;

typedef enum CozeResolution
{
	COZE_RESOLUTION_ROW,		/* as returned */
	COZE_RESOLUTION_DELETE,
	COZE_RESOLUTION_HOLD,
} CozeResolution;

/*
 * A loss.  Named by (key, loser, decided); each is reported once in a fold.
 *
 * The loser is decided itself where an operation was set aside or gave way; also
 * where it took another key's unique value without a concurrent operation there:
 * then key is not among its operations and op is NULL.
 */
typedef struct CozeFoldNote
{
	int			key;
	CozeVersion loser;
	CozeVersion decided;		/* the entry at whose turn it was decided */
	CozeVersion winner;			/* decided, or the highest that it had not seen */
	CozeOutcome outcome;
	CozeConflictType type;
	const CozeFoldOp *op;		/* the later operation on key; NULL: a TRUNCATE,
								 * or the value went to another key */
	const CozeState *before;	/* of key, as the entry met it */
	const CozeState *after;		/* of key, as the entry leaves it */
	const char *reason;			/* what the resolver said, or NULL */
	const bool *columns;		/* those of a merge that it is about; NULL: the whole row */
	int			index;			/* unique index, or -1 */
	int			other;			/* key of the other row that had the unique value, or -1 */
	const CozeState *other_state;	/* its state when they met, or NULL */
} CozeFoldNote;

/*
 * What came of combining two values of a column.  IMPOSSIBLE: the result cannot be
 * (overflow); the later row stays, whole.  UNLIKE: they are not of a shape that can be
 * combined; the later value stays.  Else a value was made of both; LOST_EARLIER and
 * LOST_LATER are added where it does not show all that one of them did.
 */
#define COZE_COMBINE_IMPOSSIBLE		0
#define COZE_COMBINE_UNLIKE			0x01
#define COZE_COMBINE_BOTH			0x02
#define COZE_COMBINE_LOST_EARLIER	0x04
#define COZE_COMBINE_LOST_LATER		0x08

/*
 * What the fold asks of the world.  All must depend on nothing but their
 * arguments.  Only what the policies in use need must be set.
 */
typedef struct CozeFoldCallbacks
{
	/* The same bytes?  Neither is NULL. */
	bool		(*equal) (void *arg, int column, CozeFoldValue a, CozeFoldValue b);

	/* By the type's order, for max and min.  Neither is NULL. */
	int			(*compare) (void *arg, int column, CozeFoldValue a, CozeFoldValue b);

	/*
	 * delta, set_merge, json_merge: put into *result what comes of `here` when
	 * `old` -> `new` was done to it.  Any may be NULL; old is where nothing was.
	 * Returns COZE_COMBINE flags.
	 */
	int			(*combine) (void *arg, CozeColumnPolicy policy, int column,
							const CozeFoldRow *here, const CozeFoldRow *old,
							const CozeFoldRow *new, CozeFoldRow *result);

	/* May the row be stored (CHECK, NOT NULL)?  NULL callback: always. */
	bool		(*valid) (void *arg, const CozeFoldRow *row);

	/* highest_version: <0, 0, >0 as a ranks below, with or above b. */
	int			(*rank) (void *arg, const CozeFoldPolicy *policy,
						 const CozeFoldRow *a, const CozeFoldRow *b);

	/*
	 * NULL for a deleted side; result has room for all columns.  Columns of a
	 * unique index that are neither side's become the later side's.  Who holds may
	 * say why.
	 */
	CozeResolution (*resolve) (void *arg, const CozeFoldPolicy *policy, CozeConflictType type,
							   const CozeFoldRow *earlier, const CozeFoldRow *later,
							   const CozeFoldRow *base, CozeFoldRow *result,
							   const char **reason);

	/*
	 * Does the row have an entry in unique index i, and with which hash?  No for a
	 * row that the predicate excludes, or with a NULL where NULLs are distinct.
	 */
	bool		(*unique_hash) (void *arg, int index, const CozeFoldRow *row, uint32 *hash);

	/* Do two rows of which both have an entry in unique index i collide there? */
	bool		(*unique_equal) (void *arg, int index, const CozeFoldRow *a,
								 const CozeFoldRow *b);

	/* A conflict.  NULL callback: nobody wants to know. */
	void		(*note) (void *arg, const CozeFoldNote *note);
} CozeFoldCallbacks;

/*
 * A unique index besides the key's.
 *
 * Its columns are a unit: a merge takes all of them from one operation, and where
 * a row gives way all of them keep the values that the key had.  (Indexes that
 * share a column make one unit.)  So each unique value that a state carries was
 * carried by an operation, or by the state at the cut: whose keys must be folded
 * together, and which base records are needed, can be told from the operations.
 */
typedef struct CozeFoldUnique
{
	int			ncolumns;
	const int  *columns;		/* all that its expressions and predicate read */
} CozeFoldUnique;

typedef struct CozeFoldTable
{
	int			ncolumns;
	int			nuniques;
	const CozeFoldUnique *uniques;
	const CozeFoldCallbacks *callbacks;
	void	   *arg;			/* passed to the callbacks */
} CozeFoldTable;

typedef struct CozeFoldHash CozeFoldHash;
typedef struct CozeFoldNotes CozeFoldNotes;

typedef struct CozeFold
{
	const CozeFoldTable *table;
	int			nkeys;
	const CozeState **states;	/* by key, as of the last entry folded */

	/*
	 * A value was needed of which only unique columns are known: what was passed
	 * in does not obey the cut, and the states are not to be used.
	 */
	bool		incomplete;

	int		   *unit;			/* by column: first column of its unit, or -1; may be NULL */
	CozeFoldHash *hash;			/* unique values of the states */
	CozeFoldNotes *notes;		/* of the entry at hand */
} CozeFold;

extern CozeFold *coze_fold_begin(const CozeFoldTable *table, int nkeys,
								 const CozeState *const *states);
extern void coze_fold_entry(CozeFold *fold, const CozeFoldEntry *entry);
extern CozeFold *coze_fold(const CozeFoldTable *table, int nkeys,
						   const CozeState *const *states,
						   const CozeFoldEntry *entries, int n);

/* Rows and states */
extern CozeFoldRow *coze_row_make(int ncolumns);
extern CozeFoldRow *coze_row_copy(int ncolumns, const CozeFoldRow *row);
extern bool coze_row_knows(const CozeFoldRow *row, int column);
extern bool coze_row_complete(int ncolumns, const CozeFoldRow *row);
extern bool coze_row_equal(const CozeFoldTable *table, const CozeFoldRow *a,
						   const CozeFoldRow *b);
extern const CozeState *coze_state_of_row(const CozeFoldRow *row);
extern const CozeMarks *coze_state_marks(const CozeState *state, int column);
extern bool coze_state_equal(const CozeFoldTable *table, const CozeState *a,
							 const CozeState *b);
extern CozeState *coze_state_copy(const CozeFoldTable *table, const CozeState *state,
								  CozeFoldValue (*copy) (void *arg, int column,
														 CozeFoldValue value));

/* Base states and base records */
extern const CozeState *coze_fold_base(const CozeState *record, const CozeFoldOp *lowest,
									   bool truncated, const CozeFoldRow *row);
extern bool coze_fold_partial(const CozeFoldEntry *entry, const CozeVector *at_cut);
extern void coze_fold_keep_records(const CozeFoldTable *table, int nkeys,
								   const CozeState *const *base,
								   const CozeFoldEntry *suffix, int n,
								   const CozeVector *at_cut, bool *record);

/*
 * Plain last_update_wins without unique indexes needs no states: one operation
 * (or TRUNCATE) on a key.
 */
typedef struct CozeLatestOp
{
	CozeVersion version;
	const CozeVector *seen;
	bool		truncate;
	bool		leaves_row;
	bool		existed;		/* for the author */
} CozeLatestOp;

typedef struct CozeLatestLoss
{
	int			loser;			/* number of the operation */
	int			decided;		/* likewise: the one that replaced it */
	CozeOutcome outcome;
	CozeConflictType type;
} CozeLatestLoss;

extern int	coze_fold_latest(const CozeLatestOp *ops, int n, CozeLatestLoss *losses, int *nlosses);

#endif							/* COZE_FOLD_H */
