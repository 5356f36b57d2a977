/*-------------------------------------------------------------------------
 *
 * history.c
 *		Reading the histories that model.py --export writes.
 *
 * The format is described there (class Export).  A line that does not fit ends
 * the program: it is an error of the tests.
 *
 *-------------------------------------------------------------------------
 */
#include "history.h"

#define WORDS 32

static void
fail(const char *what, const char *word)
{
	printf("Bail out! bad history: %s \"%s\"\n", what, word ? word : "");
	exit(2);
}

static CozeVersion
read_version(char *word)
{
	CozeVersion version = {0, 0};
	char	   *end;

	version.hlc = strtoll(word, &end, 10);
	if (*end != '.')
		fail("version", word);
	version.origin = strtoull(end + 1, NULL, 10);
	return version;
}

static const CozeMarks *
read_marks(char *word)
{
	CozeMarks  *marks = coze_alloc(offsetof(CozeMarks, v) + strlen(word) * sizeof(CozeVersion));

	if (strcmp(word, "-") == 0)
		return NULL;
	marks->n = 0;
	for (char *save, *w = strtok_r(word, "+", &save); w; w = strtok_r(NULL, "+", &save))
		marks->v[marks->n++] = read_version(w);
	return marks;
}

static void
read_vector(char *word, CozeVector *v)
{
	if (strcmp(word, "-") == 0)
		return;
	for (char *save, *w = strtok_r(word, ",", &save); w; w = strtok_r(NULL, ",", &save))
	{
		char	   *colon = strchr(w, ':');

		if (colon == NULL)
			fail("vector", w);
		coze_vector_set(v, strtoull(w, NULL, 10), strtoll(colon + 1, NULL, 10));
	}
}

static CozeFoldRow *
read_row(char *word)
{
	int			values[COLUMNS];
	bool		known[COLUMNS];
	bool		all = true;
	int			c = 0;
	CozeFoldRow *row;

	if (strcmp(word, "-") == 0)
		return NULL;
	for (char *save, *w = strtok_r(word, ",", &save); w; w = strtok_r(NULL, ",", &save), c++)
	{
		if (c == COLUMNS)
			fail("row", w);
		known[c] = *w != '?';
		all &= known[c];
		values[c] = *w == '?' || *w == 'N' ? INT32_MIN : atoi(w);
	}
	if (c != COLUMNS)
		fail("row", word);
	row = row_make(values);
	if (!all)
	{
		row->known = coze_alloc(sizeof(known));
		memcpy(row->known, known, sizeof(known));
	}
	return row;
}

static int
by_name(int (*number) (const char *), const char *name)
{
	int			n = number(name);

	if (n < 0)
		fail("name", name);
	return n;
}

static CozeOutcome
read_outcome(char *word)
{
	char	   *blank = strchr(word, '_');

	if (blank)
		*blank = ' ';
	for (int i = 0; i < COZE_OUTCOMES; i++)
	{
		if (strcmp(coze_outcome_name(i), word) == 0)
			return i;
	}
	fail("outcome", word);
	return 0;
}

static void
read_policy(History *h, char **word)
{
	CozeFoldPolicy *p;
	CozeOrigin *order = coze_alloc(NODES * sizeof(CozeOrigin));
	static const CozeConflictType types[] = {
		COZE_CONFLICT_INSERT_EXISTS, COZE_CONFLICT_UPDATE_UPDATE, COZE_CONFLICT_UPDATE_DELETED,
		COZE_CONFLICT_DELETE_UPDATED, COZE_CONFLICT_TRUNCATE_WRITE
	};
	int			n = 0;

	/* Operations point at them, so there is room for all from the start. */
	if (h->policies == NULL)
		h->policies = coze_alloc0(256 * sizeof(CozeFoldPolicy));
	p = &h->policies[h->npolicies++];
	for (char *save, *w = strtok_r(word[2], "/", &save); w; w = strtok_r(NULL, "/", &save))
	{
		if (n == 5)
			fail("row policies", w);
		p->row[types[n++]] = by_name(coze_row_policy_by_name, w);
	}
	p->unique = by_name(coze_row_policy_by_name, word[3]);
	p->columns = table_columns;
	p->order = order;
	for (char *save, *w = strtok_r(word[4], ",", &save); w; w = strtok_r(NULL, ",", &save))
		order[p->norder++] = strtoull(w, NULL, 10);
}

Entry *
history_append(History *h)
{
	if (h->nentries == h->cap)
	{
		h->cap = Max(64, 2 * h->cap);
		h->entries = coze_realloc(h->entries, h->cap * sizeof(Entry));
	}
	memset(&h->entries[h->nentries], 0, sizeof(Entry));
	return &h->entries[h->nentries++];
}

static void
read_entry(History *h, char **word)
{
	static const char *const kinds[] = {"data", "beat", "policy", "add", "drop"};
	Entry	   *e = history_append(h);

	e->fold.version.origin = strtoull(word[1], NULL, 10);
	e->fold.version.hlc = strtoll(word[2], NULL, 10);
	while (strcmp(kinds[e->kind], word[3]) != 0)
		e->kind++;
	e->fold.truncate = atoi(word[4]);
	e->arg = strtoull(word[5], NULL, 10);
	read_vector(word[6], &e->seen);
}

static void
read_op(History *h, char **word)
{
	Entry	   *e = &h->entries[h->nentries - 1];
	CozeFoldOp *ops = (CozeFoldOp *) e->fold.ops;

	if (ops == NULL)
		e->fold.ops = ops = coze_alloc0(KEYS * sizeof(CozeFoldOp));
	ops += e->fold.nops++;
	ops->key = atoi(word[1]) - 1;
	ops->policy = &h->policies[atoi(word[2])];
	ops->old = read_row(word[3]);
	ops->new = read_row(word[4]);
}

/* When all entries are there: what points at one of them, or follows from all. */
void
history_link(History *h)
{
	for (int i = 0; i < h->nentries; i++)
	{
		Entry	   *e = &h->entries[i];

		e->fold.seen = &e->seen;
		e->previous = i - 1;
		while (e->previous >= 0 &&
			   h->entries[e->previous].fold.version.origin != e->fold.version.origin)
			e->previous--;
	}
}

int
history_find(const History *h, CozeVersion version)
{
	int			i = 0;

	while (i < h->nentries && !coze_version_equal(h->entries[i].fold.version, version))
		i++;
	if (i == h->nentries)
		fail("no such entry", "");
	return i;
}

bool
entry_folds(const Entry *entry)
{
	return entry->fold.nops > 0 || entry->fold.truncate;
}

static const CozeState *
read_record(char **word)
{
	CozeState  *state = coze_alloc0(sizeof(CozeState));
	const CozeMarks **columns = coze_alloc(COLUMNS * sizeof(CozeMarks *));

	state->row = read_row(word[2]);
	state->ranked = read_row(word[3]);
	state->presence = read_marks(word[4]);
	for (int c = 0; c < COLUMNS; c++)
		columns[c] = read_marks(word[5 + c]);
	state->columns = columns;
	return state;
}

static Trace *
read_trace(History *h, char **word)
{
	Trace	   *trace = &h->traces[h->ntraces++];

	trace->node = strtoull(word[1], NULL, 10);
	h->nmembers = 0;
	for (char *save, *w = strtok_r(word[2], ",", &save); w; w = strtok_r(NULL, ",", &save))
		h->members[h->nmembers++] = strtoull(w, NULL, 10);
	return trace;
}

static Event *
add_event(Trace *trace, int entry)
{
	Event	   *event;

	if (trace->n == trace->cap)
	{
		trace->cap = Max(64, 2 * trace->cap);
		trace->events = coze_realloc(trace->events, trace->cap * sizeof(Event));
	}
	event = &trace->events[trace->n++];
	memset(event, 0, sizeof(Event));
	event->entry = entry;
	return event;
}

static int
split(char *line, char **word)
{
	int			n = 0;

	for (char *save, *w = strtok_r(line, " \n", &save); w; w = strtok_r(NULL, " \n", &save))
	{
		if (n == WORDS)
			fail("line", line);
		word[n++] = w;
	}
	return n;
}

/* One line of a history, but its first and last. */
static void
read_item(History *h, char **word, Content **content)
{
	Trace	   *trace = h->ntraces > 0 ? &h->traces[h->ntraces - 1] : NULL;
	Event	   *event;

	switch (word[0][0])
	{
		case 'P':
			read_policy(h, word);
			break;
		case 'E':
			read_entry(h, word);
			break;
		case 'O':
			read_op(h, word);
			break;
		case 'F':
			history_link(h);
			read_vector(word[1], &h->final);
			*content = &h->expected;
			break;
		case 'R':
			(*content)->rows[atoi(word[1]) - 1] = read_row(word[2]);
			break;
		case 'L':
			losses_add(&(*content)->losses,
					   (Loss) {atoi(word[1]) - 1, read_version(word[2]), read_version(word[3]),
							   read_outcome(word[4])});
			break;
		case 'N':
			read_trace(h, word);
			break;
		case 'A':
			add_event(trace, history_find(h, (CozeVersion)
										  {strtoll(word[2], NULL, 10), strtoull(word[1], NULL, 10)}));
			break;
		case 'C':
			event = add_event(trace, -1);
			event->cut = strtoll(word[1], NULL, 10);
			event->reach = strtoll(word[2], NULL, 10);
			event->node = strtoull(word[3], NULL, 10);
			event->due = atoi(word[4]);
			*content = &event->after;
			break;
		case 'B':
			(*content)->records[atoi(word[1]) - 1] = read_record(word);
			break;
		default:
			fail("item", word[0]);
	}
}

/* The next history, or NULL. */
History *
history_read(FILE *file)
{
	static char line[65536];
	char	   *word[WORDS];
	History    *h = NULL;
	Content    *content = NULL;

	while (fgets(line, sizeof(line), file) != NULL)
	{
		if (split(line, word) == 0)
			continue;
		if (h == NULL)
		{
			if (strcmp(word[0], "H") != 0)
				fail("start", word[0]);
			h = coze_alloc0(sizeof(History));
			history_set_table(h, 1);
			h->limit = 1000000;
			h->seed = atol(word[1]);
			snprintf(h->policy, sizeof(h->policy), "%s", word[2]);
		}
		else if (strcmp(word[0], ".") == 0)
			return h;
		else
			read_item(h, word, &content);
	}
	if (h != NULL)
		fail("end", "");
	return NULL;
}
