/*-------------------------------------------------------------------------
 *
 * history.h
 *		Histories: entries of a small table, and what must come of them.
 *
 * They come from the model (model.py --export) or are made up here.  The table
 * is the model's, with five keys and one column of each policy; histories that
 * are made up here may have a second unique index, over two columns.
 *
 *-------------------------------------------------------------------------
 */
#ifndef HISTORY_H
#define HISTORY_H

#include <stdio.h>

#include "base/cut.h"
#include "base/fold.h"
#include "tap.h"

#define KEYS	5
#define COLUMNS 9
#define NODES	16				/* origins are 1 .. NODES - 1 */

enum
{
	COLUMN_A, COLUMN_N, COLUMN_M, COLUMN_L, COLUMN_S, COLUMN_H, COLUMN_V, COLUMN_U, COLUMN_J
};

typedef enum EntryKind
{
	KIND_DATA, KIND_BEAT, KIND_POLICY, KIND_ADD, KIND_DROP
} EntryKind;

typedef struct Entry
{
	CozeFoldEntry fold;
	CozeVector	seen;
	EntryKind	kind;
	CozeOrigin	arg;			/* who is added or dropped */
	int			previous;		/* of the same origin, or -1 */
} Entry;

typedef struct Loss
{
	int			key;
	CozeVersion loser;
	CozeVersion decided;
	CozeOutcome outcome;
} Loss;

typedef struct Losses
{
	int			n;
	int			cap;
	Loss	   *loss;
} Losses;

/* What a node shows. */
typedef struct Content
{
	const CozeFoldRow *rows[KEYS];
	const CozeState *records[KEYS];
	Losses		losses;
} Content;

typedef struct Event
{
	int			entry;			/* added, or -1: pruned */
	CozeHlc		cut;
	CozeHlc		reach;
	CozeOrigin	node;			/* who pruned: a joiner's donor, or the node itself */
	bool		due;
	Content		after;
} Event;

typedef struct Trace
{
	CozeOrigin	node;
	int			n;
	int			cap;
	Event	   *events;
} Trace;

typedef struct History
{
	long		seed;
	char		policy[32];
	CozeFoldTable table;
	Losses		notes;			/* where the callback writes */
	bool		bad_note;		/* it was given one that cannot be */
	bool		incomplete;		/* a value was needed that is not known */
	int			limit;			/* of counters: beyond, delta overflows */
	int			nentries;
	int			cap;
	Entry	   *entries;		/* in version order */
	int			npolicies;
	CozeFoldPolicy *policies;
	int			nmembers;		/* at the beginning */
	CozeOrigin	members[NODES];
	CozeVector	final;			/* what all hold at the end */
	Content		expected;		/* then */
	int			ntraces;
	Trace		traces[NODES];
} History;

/* table.c */
extern void history_set_table(History *h, int nuniques);
extern const CozeColumnPolicy table_columns[COLUMNS];
extern const CozeColumnPolicy table_columns_other[COLUMNS];
extern CozeFoldRow *row_make(const int *values);
extern int	row_get(const CozeFoldRow *row, int column);
extern void losses_add(Losses *losses, Loss loss);
extern void losses_sort(Losses *losses);
extern bool losses_equal(Losses *a, Losses *b);

/* history.c */
extern History *history_read(FILE *file);
extern Entry *history_append(History *h);
extern void history_link(History *h);
extern int	history_find(const History *h, CozeVersion version);
extern bool entry_folds(const Entry *entry);

/* generate.c */
extern History *history_generate(long seed);

/*
 * node.c: a node that holds entries in some order, prunes, and knows nothing
 * but what it holds.
 */
typedef struct Node
{
	History    *h;
	bool	   *held;			/* by entry */
	bool	   *logged;			/* held and not pruned */
	CozeHlc		cut;
	CozeVector	base_vector;
	int			last[NODES];	/* of an origin: entry, or -1 */
	int			nmembers;
	CozeOrigin	members[NODES];
	CozeVersion drops[NODES];
	Content		content;
} Node;

extern void node_init(Node *node, History *h);
extern bool node_may_add(const Node *node, int entry);
extern void node_add(Node *node, int entry);
extern CozeHlc node_reach(const Node *node);
extern bool node_beat_due(const Node *node, CozeOrigin own);
extern bool node_may_cut(const Node *node, CozeHlc cut);
extern void node_prune(Node *node, CozeHlc cut);
extern void node_truth(const Node *node, Content *truth);

/* replay.c: each returns what is wrong, or NULL. */
extern const char *content_differs(History *h, Content *here, Content *there, bool records);
extern const char *replay_trace(History *h, Trace *trace);
extern const char *replay_random(History *h);
extern const char *replay_latest(History *h);

#endif							/* HISTORY_H */
