/*-------------------------------------------------------------------------
 *
 * buffer.c
 *		The captured changes of the transaction at hand.
 *
 * A stack of levels, one for each subtransaction that captured anything, each
 * with its pieces; a piece is what one level captured between two changes of
 * level, and pieces are numbered as they open.  The body of the entry is all
 * pieces in the order of their numbers.  Over cozesync.capture_buffer bytes go
 * out as chunks, whose numbers begin with that of their piece, so that they can
 * go out in any order.
 *
 * Invariant: a chunk written inside a subtransaction holds only what that
 * subtransaction, or one inside it that ended well, captured.  So a rollback
 * takes away the same changes from memory and from the log.
 *
 * A level writes out its own bytes only, and only whole chunks.  A level that
 * captures nothing itself, but has many short subtransactions that do, would have no
 * occasion to; so its bytes go out at the very end of one of those, and stay in
 * memory until that has ended well.  Hence memory is bounded by the setting, the
 * largest change and one chunk a level.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "utils/memutils.h"

#include "capture/buffer.h"
#include "debug.h"
#include "log/log.h"
#include "settings.h"

typedef struct CozePiece
{
	struct CozePiece *next;
	uint32		number;
	uint32		nchunks;		/* written */
	CozeBuf		buf;			/* what follows them */
	Size		complete;		/* bytes in buf of changes that were ended */
	uint32		lent_chunks;	/* written by a subtransaction that is about to end well */
	Size		lent_size;		/* bytes in buf that are in those */
	bool		open;			/* a change has begun and not ended */
	CozeChangeContext context;
} CozePiece;

typedef struct CozeLevel
{
	struct CozeLevel *parent;
	int			nest_level;
	CozePiece  *first;
	CozePiece  *last;			/* the one that takes changes */
	Size		in_memory;		/* bytes in the pieces' bufs */
	uint64		nchanges;
	uint64		nchunks;		/* written */
	uint64		body_size;
	int			ndescriptors;
	int			descriptors_cap;
	uint64	   *descriptors;
	List	   *truncates;		/* oids */
} CozeLevel;

typedef struct CozeBuffer
{
	MemoryContext context;		/* all of this */
	CozeLevel  *top;			/* level of the innermost subtransaction that has one */
	uint32		next_piece;
	Size		in_memory;		/* of all levels */
	CozeBuf		chunk;			/* scratch */
	MemoryContext scratch;		/* while chunks are written */
} CozeBuffer;

static CozeBuffer *buffer = NULL;	/* NULL: nothing captured */
static uint64 transaction = 1;

/* --- levels and pieces ------------------------------------------------------------ */

/* The level of the current subtransaction. */
static CozeLevel *
current_level(void)
{
	int			nest_level = GetCurrentTransactionNestLevel();
	CozeLevel  *level;

	if (buffer == NULL)
	{
		MemoryContext context = AllocSetContextCreate(TopTransactionContext, "cozesync capture",
													  ALLOCSET_DEFAULT_SIZES);

		buffer = MemoryContextAllocZero(context, sizeof(CozeBuffer));
		buffer->context = context;
	}
	level = buffer->top;
	if (level != NULL && level->nest_level == nest_level)
		return level;
	Assert(level == NULL || level->nest_level < nest_level);
	level = MemoryContextAllocZero(buffer->context, sizeof(CozeLevel));
	level->parent = buffer->top;
	level->nest_level = nest_level;
	buffer->top = level;
	return level;
}

/* The level's last piece comes after all others that are left. */
static CozePiece *
current_piece(CozeLevel *level)
{
	CozePiece  *piece = level->last;

	if (piece != NULL)
		return piece;
	piece = MemoryContextAllocZero(buffer->context, sizeof(CozePiece));
	if (buffer->next_piece == PG_INT32_MAX) /* numbers of chunks are signed in the log */
		elog(ERROR, "too many subtransactions captured changes");
	piece->number = buffer->next_piece++;
	level->first = level->last = piece;
	return piece;
}

static void
free_piece(CozePiece *piece)
{
	coze_buf_free(&piece->buf);
	pfree(piece);
}

static void
free_level(CozeLevel *level)
{
	while (level->first != NULL)
	{
		CozePiece  *piece = level->first;

		level->first = piece->next;
		free_piece(piece);
	}
	if (level->descriptors != NULL)
		pfree(level->descriptors);
	list_free(level->truncates);
	pfree(level);
}

/* --- writing chunks --------------------------------------------------------------- */

/* Write bytes of a piece as one chunk. */
static void
write_chunk(const CozePiece *piece, uint32 row, const char *body, Size size)
{
	CozeChunk	chunk = {((uint64) piece->number << 32) | row, body, size};
	MemoryContext old = MemoryContextSwitchTo(buffer->context);

	if (buffer->scratch == NULL)
		buffer->scratch = AllocSetContextCreate(buffer->context, "cozesync chunks",
												ALLOCSET_DEFAULT_SIZES);
	buffer->chunk.size = 0;
	coze_wire_put_chunk(&buffer->chunk, &chunk);
	MemoryContextSwitchTo(buffer->scratch);
	coze_log_append_chunk(coze_log_chunks_id(), chunk.seq, buffer->chunk.data,
						  buffer->chunk.size);
	MemoryContextSwitchTo(old);
	MemoryContextReset(buffer->scratch);
}

/*
 * Write the bytes of a piece that are not written yet; what does not fill a chunk is
 * left out unless all is set.  They are marked as lent.
 */
static void
lend_piece(CozePiece *piece, bool all)
{
	while (piece->buf.size - piece->lent_size >= COZE_WIRE_PIECE_MAX ||
		   (all && piece->lent_size < piece->buf.size))
	{
		Size		size = Min(piece->buf.size - piece->lent_size, COZE_WIRE_PIECE_MAX);

		CHECK_FOR_INTERRUPTS();
		write_chunk(piece, piece->nchunks + piece->lent_chunks,
					piece->buf.data + piece->lent_size, size);
		piece->lent_chunks++;
		piece->lent_size += size;
	}
}

/* Exchange a buffer that holds little for one of that size. */
static void
shrink(CozeBuf *buf)
{
	CozeBuf		small = {0};
	MemoryContext old = MemoryContextSwitchTo(buffer->context);

	coze_buf_put(&small, buf->data, buf->size);
	coze_buf_free(buf);
	*buf = small;
	MemoryContextSwitchTo(old);
}

/* What was lent is written for good. */
static void
settle_piece(CozeLevel *level, CozePiece *piece)
{
	CozeBuf    *buf = &piece->buf;

	if (piece->lent_chunks == 0)
		return;
	piece->nchunks += piece->lent_chunks;
	level->nchunks += piece->lent_chunks;
	buf->size -= piece->lent_size;
	piece->complete -= piece->lent_size;
	memmove(buf->data, buf->data + piece->lent_size, buf->size);
	level->in_memory -= piece->lent_size;
	buffer->in_memory -= piece->lent_size;
	piece->lent_chunks = 0;
	piece->lent_size = 0;

	/* A large value shall not keep its memory. */
	if (buf->cap > (Size) cozesync_capture_buffer * 2048 && buf->size < COZE_WIRE_PIECE_MAX)
		shrink(buf);
}

/*
 * Write the level's bytes, all of them or whole chunks; pieces other than the last
 * grow no more and go out whole.
 */
static void
lend_level(CozeLevel *level, bool all)
{
	for (CozePiece *piece = level->first; piece != NULL; piece = piece->next)
		lend_piece(piece, all || piece != level->last);
}

static void
settle_level(CozeLevel *level)
{
	CozePiece **link = &level->first;

	while (*link != NULL)
	{
		CozePiece  *piece = *link;

		settle_piece(level, piece);
		if (piece != level->last && piece->buf.size == 0)
		{
			*link = piece->next;
			free_piece(piece);
		}
		else
			link = &piece->next;
	}
}

/* What was lent went with the subtransaction that wrote it. */
static void
take_back_level(CozeLevel *level)
{
	for (CozePiece *piece = level->first; piece != NULL; piece = piece->next)
	{
		piece->lent_chunks = 0;
		piece->lent_size = 0;
	}
}

static void
write_level(CozeLevel *level, bool all)
{
	lend_level(level, all);
	settle_level(level);
}

static bool
buffer_is_full(void)
{
	return buffer->in_memory > (Size) cozesync_capture_buffer * 1024;
}

/* --- capturing -------------------------------------------------------------------- */

CozeBuf *
coze_buffer_begin_change(CozeChangeContext **context)
{
	CozePiece  *piece = current_piece(current_level());

	if (piece->open)
		elog(ERROR, "a change was captured while another was being encoded");
	if (piece->buf.data == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(buffer->context);

		coze_buf_reserve(&piece->buf, 512);
		MemoryContextSwitchTo(old);
	}
	Assert(piece->buf.size == piece->complete);
	piece->open = true;
	*context = &piece->context;
	return &piece->buf;
}

void
coze_buffer_end_change(void)
{
	CozeLevel  *level = buffer->top;
	CozePiece  *piece = level->last;
	Size		size = piece->buf.size - piece->complete;

	Assert(piece->open && level->nest_level == GetCurrentTransactionNestLevel());
	piece->open = false;
	piece->complete = piece->buf.size;
	level->nchanges++;
	level->body_size += size;
	level->in_memory += size;
	buffer->in_memory += size;
	if (buffer_is_full())
	{
		if (!COZE_RULE("savepoint-chunks"))
		{
			for (CozeLevel *l = level->parent; l != NULL; l = l->parent)
				write_level(l, true);
		}
		if (level->in_memory >= COZE_WIRE_PIECE_MAX)
			write_level(level, false);
	}
}

uint64
coze_buffer_transaction(void)
{
	return transaction;
}

/* --- descriptors, TRUNCATEs -------------------------------------------------------- */

static void
note_descriptor(CozeLevel *level, uint64 hash)
{
	if (level->ndescriptors == level->descriptors_cap)
	{
		int			cap = Max(8, level->descriptors_cap * 2);

		if (level->descriptors == NULL)
			level->descriptors = MemoryContextAlloc(buffer->context, cap * sizeof(uint64));
		else
			level->descriptors = repalloc(level->descriptors, cap * sizeof(uint64));
		level->descriptors_cap = cap;
	}
	level->descriptors[level->ndescriptors++] = hash;
}

void
coze_buffer_note_descriptor(uint64 hash)
{
	note_descriptor(current_level(), hash);
}

bool
coze_buffer_has_descriptor(uint64 hash)
{
	for (CozeLevel *level = buffer ? buffer->top : NULL; level != NULL; level = level->parent)
		for (int i = level->ndescriptors - 1; i >= 0; i--)
			if (level->descriptors[i] == hash)
				return true;
	return false;
}

void
coze_buffer_each_descriptor(CozeDescriptorCallback callback)
{
	for (CozeLevel *level = buffer ? buffer->top : NULL; level != NULL; level = level->parent)
		for (int i = 0; i < level->ndescriptors; i++)
			callback(level->descriptors[i]);
}

void
coze_buffer_begin_truncate(Oid root)
{
	CozeLevel  *level = current_level();
	MemoryContext old = MemoryContextSwitchTo(buffer->context);

	level->truncates = lappend_oid(level->truncates, root);
	MemoryContextSwitchTo(old);
}

void
coze_buffer_end_truncate(Oid root)
{
	for (CozeLevel *level = buffer ? buffer->top : NULL; level != NULL; level = level->parent)
		level->truncates = list_delete_oid(level->truncates, root);
}

bool
coze_buffer_in_truncate(Oid root)
{
	for (CozeLevel *level = buffer ? buffer->top : NULL; level != NULL; level = level->parent)
		if (list_member_oid(level->truncates, root))
			return true;
	return false;
}

/* --- the end of the transaction ----------------------------------------------------- */

bool
coze_buffer_has_changes(void)
{
	for (CozeLevel *level = buffer ? buffer->top : NULL; level != NULL; level = level->parent)
	{
		if (level->nchanges > 0)
			return true;
	}
	return false;
}

bool
coze_buffer_totals(CozeBufferTotals *totals)
{
	CozeLevel  *level = buffer ? buffer->top : NULL;

	memset(totals, 0, sizeof(*totals));
	if (level == NULL || level->nchanges == 0)
		return false;
	Assert(level->parent == NULL);
	if (level->nchanges > PG_UINT32_MAX || level->nchunks > PG_UINT32_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("transaction is too large to be replicated"),
				 errdetail("It changed %llu rows.", (unsigned long long) level->nchanges)));
	totals->nchanges = (uint32) level->nchanges;
	totals->nchunks = (uint32) level->nchunks;
	totals->body_size = level->body_size;

	/* Without a chunk written, what ended well was merged into one piece. */
	if (level->nchunks == 0)
	{
		Assert(level->first == level->last);
		totals->body = level->first->buf.data;
	}
	return true;
}

void
coze_buffer_write(void)
{
	if (buffer != NULL && buffer->top != NULL)
		write_level(buffer->top, true);
}

void
coze_buffer_forget(void)
{
	buffer = NULL;
	transaction++;
}

/* --- the end of a subtransaction ------------------------------------------------------ */

static bool
top_is_current(void)
{
	return buffer != NULL && buffer->top != NULL &&
		buffer->top->nest_level == GetCurrentTransactionNestLevel();
}

/*
 * The last moment to write chunks inside of the subtransaction.  What has written
 * some cannot be merged into a piece of the parent, which could not write it out
 * as long as it does not capture anything itself.
 */
void
coze_buffer_before_release(void)
{
	CozeLevel  *level;

	if (!top_is_current())
		return;
	level = buffer->top;
	if (level->nchunks > 0 || (buffer_is_full() && level->in_memory >= COZE_WIRE_PIECE_MAX))
		write_level(level, true);
	if (level->parent != NULL && level->parent->nest_level == level->nest_level - 1 &&
		buffer_is_full() && level->parent->in_memory >= COZE_WIRE_PIECE_MAX)
		lend_level(level->parent, false);
}

/* The bytes of a piece that wrote no chunk can follow those of the one before it. */
static void
append_piece(CozeLevel *parent, CozePiece *piece)
{
	CozePiece  *last = parent->last;

	piece->next = NULL;
	if (last == NULL)
		parent->first = parent->last = piece;
	else if (piece->nchunks == 0)
	{
		coze_buf_put(&last->buf, piece->buf.data, piece->buf.size);
		last->complete = last->buf.size;
		last->context = piece->context;
		free_piece(piece);
	}
	else if (last->buf.size == 0)
	{
		coze_buf_free(&last->buf);
		*last = *piece;
		pfree(piece);
	}
	else
		last = last->next = parent->last = piece;
}

static void
merge_into_parent(CozeLevel *level)
{
	CozeLevel  *parent = level->parent;
	MemoryContext old = MemoryContextSwitchTo(buffer->context);

	while (level->first != NULL)
	{
		CozePiece  *piece = level->first;

		level->first = piece->next;
		append_piece(parent, piece);
	}
	parent->in_memory += level->in_memory;
	parent->nchanges += level->nchanges;
	parent->nchunks += level->nchunks;
	parent->body_size += level->body_size;
	for (int i = 0; i < level->ndescriptors; i++)
		note_descriptor(parent, level->descriptors[i]);
	parent->truncates = list_concat(parent->truncates, level->truncates);
	MemoryContextSwitchTo(old);
}

void
coze_buffer_release(void)
{
	CozeLevel  *level;

	if (!top_is_current())
		return;
	level = buffer->top;
	if (level->parent == NULL || level->parent->nest_level < level->nest_level - 1)
	{
		level->nest_level--;
		return;
	}
	settle_level(level->parent);
	merge_into_parent(level);
	buffer->top = level->parent;
	free_level(level);
}

void
coze_buffer_roll_back(void)
{
	int			nest_level = GetCurrentTransactionNestLevel();

	while (buffer != NULL && buffer->top != NULL && buffer->top->nest_level >= nest_level)
	{
		CozeLevel  *level = buffer->top;

		buffer->top = level->parent;
		buffer->in_memory -= level->in_memory;
		free_level(level);
	}
	if (buffer != NULL && buffer->top != NULL)
		take_back_level(buffer->top);
}
