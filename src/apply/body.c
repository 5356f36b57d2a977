/*-------------------------------------------------------------------------
 *
 * body.c
 *		Bodies of entries: their changes, and where each stands.
 *
 * The suffix index remembers for each operation where its change begins, so that
 * one change of a large entry is read by itself.  A change may begin in one chunk
 * and end in another, and need not name its relation and policy if the one before it
 * did; so a place says what was named last, by a number that means something in
 * this process only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "apply/body.h"

/* --- what a change is understood by --- */

typedef struct ContextEntry
{
	CozeChangeContext named;
	uint16		number;
} ContextEntry;

static HTAB *numbers = NULL;	/* CozeChangeContext -> number */
static CozeChangeContext *contexts = NULL;	/* by number */
static int	ncontexts = 0;
static int	contexts_cap = 0;

static void
init_numbers(void)
{
	HASHCTL		ctl = {0};

	ctl.keysize = sizeof(CozeChangeContext);
	ctl.entrysize = sizeof(ContextEntry);
	ctl.hcxt = TopMemoryContext;
	numbers = hash_create("cozesync change contexts", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* Few in all: relations as they were captured, by policy versions. */
static uint16
number_of(const CozeChangeContext *named)
{
	ContextEntry *entry;
	bool		found;

	if (numbers == NULL)
		init_numbers();
	entry = hash_search(numbers, named, HASH_FIND, NULL);
	if (entry != NULL)
		return entry->number;
	if (ncontexts == COZE_CONTEXT_UNKNOWN)
		return COZE_CONTEXT_UNKNOWN;
	if (ncontexts == contexts_cap)
	{
		int			cap = Max(16, 2 * contexts_cap);

		contexts = contexts == NULL ?
			MemoryContextAlloc(TopMemoryContext, cap * sizeof(CozeChangeContext)) :
			repalloc(contexts, cap * sizeof(CozeChangeContext));
		contexts_cap = cap;
	}
	entry = hash_search(numbers, named, HASH_ENTER, &found);
	entry->number = (uint16) ncontexts;
	contexts[ncontexts++] = *named;
	return entry->number;
}

static bool
same_context(const CozeChangeContext *a, const CozeChangeContext *b)
{
	return a->relation == b->relation && coze_version_equal(a->policy, b->policy);
}

/* --- reading --- */

void
coze_body_begin(CozeBodyReader *body)
{
	memset(body, 0, sizeof(*body));
	coze_wire_reader_init(&body->reader);
}

void
coze_body_end(CozeBodyReader *body)
{
	coze_wire_reader_free(&body->reader);
}

bool
coze_body_at_end(const CozeBodyReader *body)
{
	return coze_wire_reader_at_end(&body->reader);
}

void
coze_body_feed(CozeBodyReader *body, uint64 seq, const char *data, Size size)
{
	CozeChangeReader *reader = &body->reader;

	/* A change that is there in part begins where it began. */
	if (reader->pos > 0 || body->rest == 0)
	{
		body->rest_seq = body->seq;
		body->rest_offset = reader->pos - Min(body->rest, reader->pos);
	}
	body->rest = reader->buf.size - reader->pos;
	body->seq = seq;
	coze_wire_reader_feed(reader, data, size);
}

/* As coze_wire_reader_next(). */
int
coze_body_next(CozeBodyReader *body, CozeChange *change, CozePlace *place)
{
	CozeChangeReader *reader = &body->reader;
	Size		begin = reader->pos;
	Size		offset;
	int			result = coze_wire_reader_next(reader, change);

	if (result <= 0)
		return result;
	if (body->named.relation == 0 || !same_context(&body->named, &reader->context))
	{
		body->named = reader->context;
		body->number = number_of(&body->named);
	}
	offset = begin < body->rest ? body->rest_offset : begin - body->rest;
	place->seq = begin < body->rest ? body->rest_seq : body->seq;
	place->offset = (uint16) offset;
	/* Chunks are small; but who sent this one? */
	place->context = offset <= UINT16_MAX ? body->number : COZE_CONTEXT_UNKNOWN;
	return result;
}

/* --- of the log --- */

typedef struct ReadArg
{
	CozeBodyReader body;
	CozePlacedCallback placed;	/* one of the two */
	CozeChangeCallback callback;
	void	   *arg;
} ReadArg;

static void
damaged(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("an entry of the change log is damaged: %s", what)));
}

static void
read_some(ReadArg *read, uint64 seq, const char *data, Size size)
{
	CozeChange	change;
	CozePlace	place;
	int			result;

	coze_body_feed(&read->body, seq, data, size);
	while ((result = coze_body_next(&read->body, &change, &place)) > 0)
	{
		if (read->placed != NULL)
			read->placed(read->arg, &change, &place);
		else
			read->callback(read->arg, &change);
	}
	if (result < 0)
		damaged(read->body.reader.error);
}

static void
get_chunk(const char *data, Size size, CozeChunk *chunk)
{
	const char *error = coze_wire_get_chunk(data, size, chunk);

	if (error != NULL)
		damaged(error);
}

static void
read_chunk(void *arg, const char *data, Size size)
{
	CozeChunk	chunk;

	get_chunk(data, size, &chunk);
	read_some(arg, chunk.seq, chunk.body, chunk.size);
}

static void
read_all(ReadArg *read, const CozeEntryHead *head, int64 chunks, Snapshot snapshot)
{
	if (chunks != 0)
		elog(DEBUG2, "reading a large entry");
	coze_body_begin(&read->body);
	if (chunks == 0)
		read_some(read, 0, head->inline_body, head->inline_size);
	else
		coze_log_read_chunks(chunks, snapshot, read_chunk, read);
	if (!coze_body_at_end(&read->body))
		damaged("its body is cut off");
	coze_body_end(&read->body);
}

/* Every change of an entry of the log, and where it is. */
void
coze_read_placed(const CozeEntryHead *head, int64 chunks, Snapshot snapshot,
				 CozePlacedCallback callback, void *arg)
{
	ReadArg		read = {.placed = callback,.arg = arg};

	read_all(&read, head, chunks, snapshot);
}

/* Every change of an entry whose head is at hand. */
void
coze_read_changes(const CozeEntryHead *head, int64 chunks, Snapshot snapshot,
				  CozeChangeCallback callback, void *arg)
{
	ReadArg		read = {.callback = callback,.arg = arg};

	read_all(&read, head, chunks, snapshot);
}

/* The head of one of several entries: its inline body is valid until the finder's next. */
bool
coze_find_head(CozeLogFinder *finder, CozeVersion version, CozeEntryHead *head, int64 *chunks)
{
	CozeLogEntry entry;
	const char *error;

	if (!coze_log_find(finder, version, &entry))
		return false;
	error = coze_wire_get_head(entry.head, entry.size, head);
	if (error != NULL)
		damaged(error);
	*chunks = entry.chunks;
	return true;
}

/*
 * One entry by its version; false: it is not in the log (any more).  Its changes
 * only if there are no more than max.
 */
bool
coze_read_entry(CozeVersion version, CozeEntryHead *head, uint32 max, CozeChangeCallback callback,
				void *arg)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	CozeLogFinder *finder = coze_log_find_begin(snapshot);
	int64		chunks;
	bool		found = coze_find_head(finder, version, head, &chunks);

	if (found && head->nchanges <= max)
		coze_read_changes(head, chunks, snapshot, callback, arg);
	head->inline_body = NULL;
	coze_log_find_end(finder);
	UnregisterSnapshot(snapshot);
	return found;
}

/* Feed what there is of a chunk from offset on; false: it is not there. */
static bool
feed_chunk(CozeBodyReader *body, const char *data, Size size, Size offset)
{
	CozeChunk	chunk;

	get_chunk(data, size, &chunk);
	if (offset >= chunk.size)
		return false;
	coze_body_feed(body, chunk.seq, chunk.body + offset, chunk.size - offset);
	return true;
}

/* It may go on in the chunks that follow. */
void
coze_read_change_at(int64 chunks, const CozePlace *place, CozeChangeCallback callback, void *arg)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	uint64		from = place->seq;
	CozeBodyReader body;
	CozeChange	change;
	int			result = 0;

	Assert(place->context < ncontexts);
	coze_body_begin(&body);
	body.reader.context = contexts[place->context];
	while (result == 0)
	{
		bool		first = from == place->seq;
		uint64		seq;
		char	   *data;
		Size		size;
		CozePlace	at;

		if (!coze_log_read_chunk(chunks, from, snapshot, &seq, &data, &size) ||
			(first && seq != from) || !feed_chunk(&body, data, size, first ? place->offset : 0))
			damaged("a change that was there is missing");
		pfree(data);
		from = seq + 1;
		result = coze_body_next(&body, &change, &at);
	}
	if (result < 0)
		damaged(body.reader.error);
	callback(arg, &change);
	coze_body_end(&body);
	UnregisterSnapshot(snapshot);
}
