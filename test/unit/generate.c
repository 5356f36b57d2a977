/*-------------------------------------------------------------------------
 *
 * generate.c
 *		Histories made up here, for what the model does not have.
 *
 * A second unique index, over two columns and with a predicate; json_merge;
 * counters that overflow; policies that differ by type of conflict and in their
 * columns; NULL under max and min.  The nodes that write are made to see exactly
 * what node_truth() says, so that no rule but those of the fold is relied on.
 *
 *-------------------------------------------------------------------------
 */
#include "history.h"

#define MAX_WRITERS 4

typedef struct World
{
	History    *h;
	int			nwriters;
	Node		writers[MAX_WRITERS];
	CozeHlc		clock[MAX_WRITERS];
	int			skew[MAX_WRITERS];
	CozeHlc		now;
	bool		truncates;
} World;

static CozeRowPolicy
some_row_policy(void)
{
	return (CozeRowPolicy) tap_random(COZE_ROW_POLICIES);
}

static void
make_policies(History *h, int nwriters)
{
	CozeRowPolicy main_policy = some_row_policy();

	h->npolicies = 1 + (int) tap_random(3);
	h->policies = coze_alloc0(h->npolicies * sizeof(CozeFoldPolicy));
	for (int i = 0; i < h->npolicies; i++)
	{
		CozeFoldPolicy *p = &h->policies[i];
		CozeOrigin *order = coze_alloc(nwriters * sizeof(CozeOrigin));
		CozeRowPolicy row = tap_random(3) ? main_policy : some_row_policy();
		bool		by_type = tap_random(4) == 0;

		for (int t = 0; t < COZE_CONFLICT_TYPES; t++)
			p->row[t] = by_type ? some_row_policy() : row;
		p->unique = tap_random(3) ? COZE_ROW_FIRST_UPDATE_WINS : COZE_ROW_LAST_UPDATE_WINS;
		p->columns = tap_random(2) ? table_columns : table_columns_other;
		if (tap_random(8) == 0)
			p->columns = NULL;
		/* Whoever is left out comes last. */
		p->norder = nwriters - (int) tap_random(2);
		p->order = order;
		for (int o = 0; o < p->norder; o++)
			order[o] = 1 + (o + i) % nwriters;
	}
}

static bool
always_latest(const CozeFoldPolicy *policy)
{
	for (int t = 0; t < COZE_CONFLICT_TYPES; t++)
	{
		if (policy->row[t] != COZE_ROW_LAST_UPDATE_WINS)
			return false;
	}
	return true;
}

static bool
may_be_stored(const History *h, const CozeFoldRow *const *view, int key, const CozeFoldRow *row)
{
	const CozeFoldTable *table = &h->table;

	if (!table->callbacks->valid(table->arg, row))
		return false;
	for (int i = 0; i < table->nuniques; i++)
	{
		uint32		mine,
					theirs;

		if (!table->callbacks->unique_hash(table->arg, i, row, &mine))
			continue;
		for (int k = 0; k < KEYS; k++)
		{
			if (k != key && view[k] != NULL &&
				table->callbacks->unique_hash(table->arg, i, view[k], &theirs) &&
				table->callbacks->unique_equal(table->arg, i, row, view[k]))
				return false;
		}
	}
	return true;
}

/* One member becomes another, or goes; now and then there is no object.  See table.c. */
static int
some_object(int old)
{
	int			value = tap_random(4);

	if (tap_random(16) == 0)
		return 1 << 10 | (1 + (int) tap_random(3));
	if (old & 1 << 10)
		old = 0;
	switch (tap_random(5))
	{
		case 0:
			return (old & ~3) | value;
		case 1:
			return (old & ~(3 << 2)) | value << 2;
		case 2:					/* o as a whole: nothing, or a value */
			return (old & 15) | (value > 0 ? 1 << 4 | value << 6 : 0);
		default:
			if ((old & 3 << 4) != 2 << 4)
				old = (old & 15) | 2 << 4;
			return tap_random(2) ? (old & ~(3 << 6)) | value << 6 : (old & ~(3 << 8)) | value << 8;
	}
}

static int
some_value(int column, int old)
{
	switch (column)
	{
		case COLUMN_N:
			return tap_random(12) == 0 ? 0 : old + (int) tap_random(13) - 3;
		case COLUMN_M:
		case COLUMN_L:
			return tap_random(8) == 0 ? INT32_MIN : (int) tap_random(3);
		case COLUMN_S:
			return old ^ (1 << tap_random(16));
		case COLUMN_J:
			return some_object(old);
		case COLUMN_U:
			return tap_random(3) == 0 ? INT32_MIN : 1 + (int) tap_random(3);
		default:
			return (int) tap_random(5);
	}
}

/* A row after an UPDATE of a few columns, or INSERT where old is NULL. */
static CozeFoldRow *
some_row(const History *h, const CozeFoldRow *const *view, int key)
{
	const CozeFoldRow *old = view[key];

	for (int attempt = 0; attempt < 8; attempt++)
	{
		int			values[COLUMNS];
		CozeFoldRow *row;

		for (int c = 0; c < COLUMNS; c++)
		{
			values[c] = old != NULL ? row_get(old, c) : 0;
			if (old == NULL || tap_random(4) == 0)
				values[c] = some_value(c, values[c]);
		}
		row = row_make(values);
		if (abs(values[COLUMN_N]) <= h->limit && may_be_stored(h, view, key, row))
			return row;
	}
	return NULL;
}

/* Under plain last_update_wins an UPDATE carries the columns of unique indexes alone. */
static const CozeFoldRow *
carried_old(const CozeFoldRow *old, const CozeFoldRow *new, const CozeFoldPolicy *policy)
{
	CozeFoldRow *row;

	if (old == NULL || new == NULL || !always_latest(policy))
		return old;
	row = coze_row_copy(COLUMNS, old);
	row->known = coze_alloc0(COLUMNS * sizeof(bool));
	row->known[COLUMN_U] = row->known[COLUMN_L] = row->known[COLUMN_M] = row->known[COLUMN_A] = true;
	for (int c = 0; c < COLUMNS; c++)
	{
		if (!row->known[c])
			row->values[c] = 0xDEAD;
	}
	return row;
}

static Entry *
commit(World *world, int writer)
{
	Node	   *node = &world->writers[writer];
	History    *h = world->h;
	Entry	   *e = history_append(h);

	world->clock[writer] = coze_hlc_next(world->clock[writer], world->now + world->skew[writer]);
	e->fold.version = (CozeVersion) {world->clock[writer], (CozeOrigin) writer + 1};
	for (int o = 1; o < NODES; o++)
	{
		if (node->last[o] >= 0 && o != writer + 1)
			coze_vector_set(&e->seen, o, h->entries[node->last[o]].fold.version.hlc);
	}
	return e;
}

static void
hold(World *world, int writer, int entry)
{
	Node	   *node = &world->writers[writer];
	CozeVersion version = world->h->entries[entry].fold.version;

	node->held[entry] = node->logged[entry] = true;
	node->last[version.origin] = entry;
	world->clock[writer] = Max(world->clock[writer], version.hlc);
}

static void
write_something(World *world, int writer)
{
	History    *h = world->h;
	const CozeFoldPolicy *policy = &h->policies[tap_random(h->npolicies)];
	bool		truncate = world->truncates && tap_random(16) == 0;
	CozeFoldOp *ops = coze_alloc0(KEYS * sizeof(CozeFoldOp));
	const CozeFoldRow *view[KEYS];
	Content		truth;
	Entry	   *e;
	int			nops = 0;

	node_truth(&world->writers[writer], &truth);
	memcpy(view, truth.rows, sizeof(view));
	if (truncate)
		memset(view, 0, sizeof(view));
	for (int k = 0; k < KEYS; k++)
	{
		const CozeFoldRow *old = view[k];

		if (tap_random(k < 3 ? 3 : 6) != 0)
			continue;
		view[k] = old != NULL && tap_random(5) == 0 ? NULL : some_row(h, view, k);
		if (coze_row_equal(&h->table, old, view[k]))
			continue;
		ops[nops++] = (CozeFoldOp) {k, policy, carried_old(old, view[k], policy), view[k]};
	}
	e = commit(world, writer);
	e->kind = nops > 0 || truncate ? KIND_DATA : KIND_BEAT;
	e->fold.truncate = truncate;
	e->fold.nops = nops;
	e->fold.ops = ops;
}

static void
receive_something(World *world, int writer)
{
	const Node *from = &world->writers[tap_random(world->nwriters)];

	for (int i = 0; i < world->h->nentries; i++)
	{
		if (from->held[i] && node_may_add(&world->writers[writer], i))
		{
			hold(world, writer, i);
			if (tap_random(3) == 0)
				return;
		}
	}
}

static int
compare_entries(const void *a, const void *b)
{
	return coze_version_cmp(((const Entry *) a)->fold.version, ((const Entry *) b)->fold.version);
}

/* What all hold at the end, and what must come of it. */
static void
finish(World *world)
{
	History    *h = world->h;
	Node		all;

	qsort(h->entries, h->nentries, sizeof(Entry), compare_entries);
	history_link(h);
	node_init(&all, h);
	for (int i = 0; i < h->nentries; i++)
	{
		CozeVersion version = h->entries[i].fold.version;

		coze_vector_raise(&h->final, version.origin, version.hlc);
		all.held[i] = true;
	}
	node_truth(&all, &h->expected);
}

History *
history_generate(long seed)
{
	World	   *world = coze_alloc0(sizeof(World));
	History    *h = world->h = coze_alloc0(sizeof(History));
	int			steps = 20 + (int) tap_random(60);

	h->seed = seed;
	strcpy(h->policy, "made up");
	h->limit = tap_random(3) ? 1000000 : 20;
	history_set_table(h, (int) tap_random(3));
	world->nwriters = 2 + (int) tap_random(MAX_WRITERS - 1);
	world->truncates = tap_random(3) == 0;
	world->now = 100;
	make_policies(h, world->nwriters);
	for (int w = 0; w < world->nwriters; w++)
	{
		h->members[h->nmembers++] = (CozeOrigin) w + 1;
		world->skew[w] = (int) tap_random(80) - 40;
	}
	for (int w = 0; w < world->nwriters; w++)
		node_init(&world->writers[w], h);
	while (steps-- > 0 && h->nentries < 250)
	{
		int			w = (int) tap_random(world->nwriters);

		world->now += tap_random(4);
		if (tap_random(5) < 2)
		{
			write_something(world, w);
			history_link(h);
			hold(world, w, h->nentries - 1);
		}
		else
			receive_something(world, w);
	}
	finish(world);
	return h;
}
