/*-------------------------------------------------------------------------
 *
 * node.c
 *		A node that holds entries in some order, prunes, and knows nothing but
 *		what it holds.
 *
 * Class Node of the model, without clock and links: its rows are always the
 * fold over base records, or old rows, or its own rows.  node_truth() is the fold
 * by one who never forgets.
 *
 *-------------------------------------------------------------------------
 */
#include "history.h"

void
node_init(Node *node, History *h)
{
	memset(node, 0, sizeof(Node));
	node->h = h;
	node->held = coze_alloc0(h->nentries + 256);
	node->logged = coze_alloc0(h->nentries + 256);
	for (int o = 0; o < NODES; o++)
		node->last[o] = -1;
	for (int m = 0; m < h->nmembers; m++)
		node->members[node->nmembers++] = h->members[m];
}

/* Are the prefix and the causes of an entry there, and not the entry? */
bool
node_may_add(const Node *node, int entry)
{
	const Entry *e = &node->h->entries[entry];

	if (node->held[entry] || (e->previous >= 0 && !node->held[e->previous]))
		return false;
	for (int i = 0; i < e->seen.n; i++)
	{
		int			last = node->last[e->seen.e[i].origin];

		if (last < 0 || node->h->entries[last].fold.version.hlc < e->seen.e[i].hlc)
			return false;
	}
	return true;
}

static int
compare_entries(const void *a, const void *b)
{
	return coze_version_cmp(((const CozeFoldEntry *) a)->version,
							((const CozeFoldEntry *) b)->version);
}

/* The entries to fold among those with above < hlc <= upto, in version order. */
static CozeFoldEntry *
entries_of(const Node *node, const bool *which, CozeHlc above, CozeHlc upto, int *n)
{
	const History *h = node->h;
	CozeFoldEntry *entries = coze_alloc((h->nentries + 1) * sizeof(CozeFoldEntry));

	*n = 0;
	for (int i = 0; i < h->nentries; i++)
	{
		const CozeFoldEntry *e = &h->entries[i].fold;

		if (which[i] && entry_folds(&h->entries[i]) && e->version.hlc > above &&
			e->version.hlc <= upto)
			entries[(*n)++] = *e;
	}
	qsort(entries, *n, sizeof(CozeFoldEntry), compare_entries);
	return entries;
}

/* The state of every key at the cut. */
static void
base_states(const Node *node, const CozeState **states)
{
	const CozeFoldOp *lowest[KEYS] = {NULL};
	bool		truncated = false;
	int			n;
	CozeFoldEntry *suffix = entries_of(node, node->logged, node->cut, INT64_MAX, &n);

	for (int i = n - 1; i >= 0; i--)
	{
		truncated |= suffix[i].truncate;
		for (int j = 0; j < suffix[i].nops; j++)
			lowest[suffix[i].ops[j].key] = &suffix[i].ops[j];
	}
	for (int k = 0; k < KEYS; k++)
		states[k] = coze_fold_base(node->content.records[k], lowest[k], truncated,
								   node->content.rows[k]);
}

/* Of each origin the last entry at or below a cut. */
static void
at_cut(const Node *node, CozeHlc cut, CozeVector *last)
{
	coze_vector_init(last);
	coze_vector_copy(last, &node->base_vector);
	for (int i = 0; i < node->h->nentries; i++)
	{
		CozeVersion version = node->h->entries[i].fold.version;

		if (node->logged[i] && version.hlc <= cut)
			coze_vector_raise(last, version.origin, version.hlc);
	}
}

static void
keep_records(Node *node, const CozeState *const *base, CozeHlc cut)
{
	bool		record[KEYS];
	CozeVector	last;
	int			n;
	CozeFoldEntry *suffix = entries_of(node, node->logged, cut, INT64_MAX, &n);

	for (int k = 0; k < KEYS; k++)
		record[k] = node->content.records[k] != NULL;
	at_cut(node, cut, &last);
	coze_fold_keep_records(&node->h->table, KEYS, base, suffix, n, &last, record);
	for (int k = 0; k < KEYS; k++)
		node->content.records[k] = record[k] ? base[k] : NULL;
}

/* What is decided above the cut is withdrawn unless it still holds. */
static void
take_losses(Node *node)
{
	Losses	   *mine = &node->content.losses;
	Losses	   *now = &node->h->notes;
	int			n = 0;

	for (int i = 0; i < mine->n; i++)
	{
		if (mine->loss[i].decided.hlc <= node->cut)
			mine->loss[n++] = mine->loss[i];
	}
	mine->n = n;
	for (int i = 0; i < now->n; i++)
		losses_add(mine, now->loss[i]);
}

static void
refold(Node *node)
{
	History    *h = node->h;
	const CozeState *base[KEYS];
	CozeFold   *fold;
	int			n;
	CozeFoldEntry *suffix = entries_of(node, node->logged, node->cut, INT64_MAX, &n);
	int			first = n > 0 ? (int) tap_random(n + 1) : 0;

	base_states(node, base);
	h->notes.n = 0;
	/* In two parts: a fold goes on from any states. */
	fold = coze_fold(&h->table, KEYS, base, suffix, first);
	h->incomplete |= fold->incomplete;
	fold = coze_fold(&h->table, KEYS, fold->states, suffix + first, n - first);
	h->incomplete |= fold->incomplete;
	for (int k = 0; k < KEYS; k++)
	{
		node->content.rows[k] = fold->states[k]->row;
		if (fold->states[k]->row != NULL && !coze_row_complete(COLUMNS, fold->states[k]->row))
			h->incomplete = true;
	}
	take_losses(node);
}

/* Group entries change who counts. */
static void
group(Node *node, const Entry *e)
{
	if (e->kind == KIND_ADD)
		node->members[node->nmembers++] = e->arg;
	else if (e->kind == KIND_DROP)
		node->drops[e->arg] = e->fold.version;
}

void
node_add(Node *node, int entry)
{
	const Entry *e = &node->h->entries[entry];
	const CozeState *base[KEYS];

	if (entry_folds(e))
		base_states(node, base);
	node->held[entry] = node->logged[entry] = true;
	node->last[e->fold.version.origin] = entry;
	group(node, e);
	if (entry_folds(e))
	{
		keep_records(node, base, node->cut);
		refold(node);
	}
}

static int
cut_members(const Node *node, CozeCutMember *members)
{
	memset(members, 0, NODES * sizeof(CozeCutMember));
	for (int m = 0; m < node->nmembers; m++)
	{
		int			last = node->last[node->members[m]];

		members[m].origin = node->members[m];
		members[m].drop = node->drops[node->members[m]];
		if (last >= 0)
		{
			members[m].last = node->h->entries[last].fold.version.hlc;
			members[m].seen = &node->h->entries[last].seen;
		}
	}
	return node->nmembers;
}

CozeHlc
node_reach(const Node *node)
{
	CozeCutMember members[NODES];
	int			n = cut_members(node, members);

	return coze_cut_reach(members, n, node->cut, NULL);
}

bool
node_beat_due(const Node *node, CozeOrigin own)
{
	CozeCutMember members[NODES];
	int			n = cut_members(node, members);
	CozeHlc		highest = 0;
	CozeVector	held;

	coze_vector_init(&held);
	for (int i = 0; i < node->h->nentries; i++)
	{
		const Entry *e = &node->h->entries[i];

		if (node->held[i])
			coze_vector_raise(&held, e->fold.version.origin, e->fold.version.hlc);
		if (node->logged[i] && e->kind != KIND_BEAT)
			highest = Max(highest, e->fold.version.hlc);
	}
	return coze_cut_beat_due(members, n, own, highest, &held);
}

/*
 * Does the cut's invariant allow a cut, by what is really still to arrive?
 */
bool
node_may_cut(const Node *node, CozeHlc cut)
{
	const History *h = node->h;
	CozeVector	last;

	at_cut(node, cut, &last);
	for (int i = 0; i < h->nentries; i++)
	{
		const CozeFoldEntry *e = &h->entries[i].fold;

		if (node->held[i] || e->version.hlc > coze_vector_get(&h->final, e->version.origin))
			continue;
		if (e->version.hlc <= cut)
			return false;
		if (h->entries[i].kind != KIND_BEAT && coze_fold_partial(e, &last))
			return false;
	}
	return true;
}

void
node_prune(Node *node, CozeHlc cut)
{
	History    *h = node->h;
	const CozeState *base[KEYS];
	int			n;
	CozeFoldEntry *below = entries_of(node, node->logged, node->cut, cut, &n);
	CozeVector	last;
	bool		any = false;

	for (int i = 0; i < h->nentries; i++)
		any |= node->logged[i] && h->entries[i].fold.version.hlc <= cut;
	if (any)
	{
		base_states(node, base);
		keep_records(node, coze_fold(&h->table, KEYS, base, below, n)->states, cut);
		at_cut(node, cut, &last);
		node->base_vector = last;
	}
	for (int i = 0; i < h->nentries; i++)
	{
		if (h->entries[i].fold.version.hlc <= cut)
			node->logged[i] = false;
	}
	node->cut = Max(node->cut, cut);
}

/* What the node must show, by the fold of all that it holds from the first on. */
void
node_truth(const Node *node, Content *truth)
{
	History    *h = node->h;
	const CozeState *states[KEYS];
	CozeFold   *fold;
	int			n;
	CozeFoldEntry *all = entries_of(node, node->held, -1, INT64_MAX, &n);

	memset(truth, 0, sizeof(Content));
	for (int k = 0; k < KEYS; k++)
		states[k] = coze_state_of_row(NULL);
	h->notes.n = 0;
	fold = coze_fold(&h->table, KEYS, states, all, n);
	for (int k = 0; k < KEYS; k++)
		truth->rows[k] = fold->states[k]->row;
	for (int i = 0; i < h->notes.n; i++)
		losses_add(&truth->losses, h->notes.loss[i]);
}
