/*-------------------------------------------------------------------------
 *
 * replay.c
 *		Replaying histories: as the model's nodes lived them, and in other orders.
 *
 *-------------------------------------------------------------------------
 */
#include "history.h"

static char problem[512];

static const char *
show_row(const CozeFoldRow *row, char *buffer)
{
	char	   *p = buffer;

	if (row == NULL)
		return "-";
	for (int c = 0; c < COLUMNS; c++)
	{
		if (!coze_row_knows(row, c))
			p += sprintf(p, "?,");
		else if (row->isnull[c])
			p += sprintf(p, "N,");
		else
			p += sprintf(p, "%d,", row_get(row, c));
	}
	return buffer;
}

static bool
collide(const CozeFoldTable *table, int index, const CozeFoldRow *a, const CozeFoldRow *b)
{
	uint32		x,
				y;

	return table->callbacks->unique_hash(table->arg, index, a, &x) &&
		table->callbacks->unique_hash(table->arg, index, b, &y) &&
		table->callbacks->unique_equal(table->arg, index, a, b);
}

static const char *
duplicates(History *h, Content *content)
{
	for (int i = 0; i < h->table.nuniques; i++)
	{
		for (int k = 0; k < KEYS; k++)
		{
			for (int l = 0; l < k; l++)
			{
				if (content->rows[k] && content->rows[l] &&
					collide(&h->table, i, content->rows[k], content->rows[l]))
				{
					snprintf(problem, sizeof(problem), "keys %d and %d collide in index %d",
							 l + 1, k + 1, i);
					return problem;
				}
			}
		}
	}
	return NULL;
}

/* What is wrong with what is here, if the other is right? */
const char *
content_differs(History *h, Content *here, Content *right, bool records)
{
	char		a[256],
				b[256];

	for (int k = 0; k < KEYS; k++)
	{
		if (!coze_row_equal(&h->table, here->rows[k], right->rows[k]))
		{
			snprintf(problem, sizeof(problem), "row %d is %s, not %s", k + 1,
					 show_row(here->rows[k], a), show_row(right->rows[k], b));
			return problem;
		}
		if (!records)
			continue;
		if ((here->records[k] != NULL) != (right->records[k] != NULL))
		{
			snprintf(problem, sizeof(problem), "record of %d is %s", k + 1,
					 here->records[k] ? "kept" : "missing");
			return problem;
		}
		if (here->records[k] && !coze_state_equal(&h->table, here->records[k], right->records[k]))
		{
			snprintf(problem, sizeof(problem), "record of %d is another", k + 1);
			return problem;
		}
	}
	if (!losses_equal(&here->losses, &right->losses))
	{
		snprintf(problem, sizeof(problem), "the conflict log differs: %d, not %d",
				 here->losses.n, right->losses.n);
		return problem;
	}
	if (h->bad_note)
		return "a note makes no sense";
	if (h->incomplete)
		return "a value was needed that is not known";
	return duplicates(h, here);
}

/* What one of the model's nodes did, step by step. */
const char *
replay_trace(History *h, Trace *trace)
{
	Node		node;
	Content		truth;
	const char *wrong = NULL;

	node_init(&node, h);
	for (int i = 0; i < trace->n && wrong == NULL; i++)
	{
		Event	   *event = &trace->events[i];

		if (event->entry >= 0)
		{
			if (!node_may_add(&node, event->entry))
				return "an entry came before its causes";
			node_add(&node, event->entry);
			continue;
		}
		if (node_reach(&node) != event->reach)
			return "the cut's reach is another";
		if (node_beat_due(&node, event->node) != event->due)
			return "a beat is due, or not";
		node_prune(&node, event->cut);
		wrong = content_differs(h, &node.content, &event->after, true);
		node_truth(&node, &truth);
		if (wrong == NULL)
			wrong = content_differs(h, &node.content, &truth, false);
	}
	return wrong;
}

/* An entry that may come next, or -1; of the given origin if there is one. */
static int
choose_next(const Node *node, CozeOrigin origin)
{
	const History *h = node->h;
	int			chosen = -1;
	uint32		candidates = 0,
				better = 0;

	for (int i = 0; i < h->nentries; i++)
	{
		const CozeVersion version = h->entries[i].fold.version;

		if (version.hlc > coze_vector_get(&h->final, version.origin) || !node_may_add(node, i))
			continue;
		if (version.origin == origin && better++ == 0)
			candidates = 0;
		if (better > 0 && version.origin != origin)
			continue;
		if (tap_random(++candidates) == 0)
			chosen = i;
	}
	return chosen;
}

/* Prune as far as the cut's reach, or at any place that its invariant allows. */
static const char *
prune_somewhere(Node *node)
{
	CozeHlc		reach = node_reach(node);
	CozeHlc		cut;

	if (!node_may_cut(node, reach))
		return "the cut reaches too far";
	cut = reach - node->cut > 0 && tap_random(2) ?
		node->cut + 1 + tap_random(reach - node->cut) : reach;
	if (tap_random(3) == 0)
	{
		const Entry *e = &node->h->entries[tap_random(node->h->nentries)];
		CozeHlc		other = e->fold.version.hlc - tap_random(2);

		if (other > cut && node_may_cut(node, other))
			cut = other;
	}
	if (cut > node->cut)
		node_prune(node, cut);
	return NULL;
}

/* One that is no member, and gets everything in an order that causes allow. */
const char *
replay_random(History *h)
{
	Node		node;
	Content		truth;
	const char *wrong = NULL;
	uint32		prunings = tap_random(4);
	CozeOrigin	ahead = 0;

	node_init(&node, h);
	while (wrong == NULL)
	{
		int			next;

		if (tap_random(6) == 0)
			ahead = tap_random(2) ? 1 + tap_random(NODES - 1) % 5 : 0;
		next = choose_next(&node, ahead);
		if (next < 0)
			break;
		node_add(&node, next);
		if (tap_random(4) < prunings)
			wrong = prune_somewhere(&node);
		if (wrong == NULL && tap_random(3) == 0)
		{
			node_truth(&node, &truth);
			wrong = content_differs(h, &node.content, &truth, false);
		}
	}
	if (wrong == NULL)
		wrong = content_differs(h, &node.content, &h->expected, false);
	return wrong;
}

/* --- last_update_wins without states --- */

static bool
is_plain(const History *h)
{
	if (h->table.nuniques > 1)
		return false;
	for (int p = 0; p < h->npolicies; p++)
	{
		for (int t = 0; t < COZE_CONFLICT_TYPES; t++)
		{
			if (h->policies[p].row[t] != COZE_ROW_LAST_UPDATE_WINS)
				return false;
		}
	}
	for (int i = 0; i < h->nentries; i++)
	{
		const CozeFoldEntry *e = &h->entries[i].fold;

		for (int j = 0; j < e->nops; j++)
		{
			if (e->ops[j].new && !e->ops[j].new->isnull[COLUMN_U])
				return false;
		}
	}
	return true;
}

static int
ops_on_key(const History *h, int key, CozeLatestOp *ops, const CozeFoldRow **rows)
{
	int			n = 0;

	for (int i = 0; i < h->nentries; i++)
	{
		const CozeFoldEntry *e = &h->entries[i].fold;

		if (e->version.hlc > coze_vector_get(&h->final, e->version.origin))
			continue;
		if (e->truncate)
		{
			rows[n] = NULL;
			ops[n++] = (CozeLatestOp) {e->version, e->seen, true, false, false};
		}
		for (int j = 0; j < e->nops; j++)
		{
			const CozeFoldOp *op = &e->ops[j];

			if (op->key != key)
				continue;
			rows[n] = op->new;
			ops[n++] = (CozeLatestOp) {e->version, e->seen, false, op->new != NULL, op->old != NULL};
		}
	}
	return n;
}

/* Entries must be in version order. */
const char *
replay_latest(History *h)
{
	int			room = 2 * h->nentries + 1;
	CozeLatestOp *ops = coze_alloc(room * sizeof(CozeLatestOp));
	CozeLatestLoss *losses = coze_alloc(room * sizeof(CozeLatestLoss));
	const CozeFoldRow **rows = coze_alloc(room * sizeof(CozeFoldRow *));
	Content		content;

	if (!is_plain(h))
		return NULL;
	memset(&content, 0, sizeof(content));
	for (int k = 0; k < KEYS; k++)
	{
		int			n = ops_on_key(h, k, ops, rows);
		int			nlosses;
		int			winner = coze_fold_latest(ops, n, losses, &nlosses);

		content.rows[k] = winner >= 0 ? rows[winner] : NULL;
		for (int i = 0; i < nlosses; i++)
			losses_add(&content.losses, (Loss)
					   {k, ops[losses[i].loser].version, ops[losses[i].decided].version,
						losses[i].outcome});
	}
	return content_differs(h, &content, &h->expected, false);
}
