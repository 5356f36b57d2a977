/*-------------------------------------------------------------------------
 *
 * wire_entry.c
 *		Heads of entries, chunks, and the vectors in them.
 *
 * A head ends with a checksum of all before it, a chunk begins with one of all that
 * follows.  What a head says of its body is checked as far as it can be without it.
 *
 * Pure.
 *
 *-------------------------------------------------------------------------
 */
#include "base/wire_read.h"

/* origin, hlc, wire version, kind, xid, size of the vector, crc; numbers take a byte at least */
#define HEAD_MIN_SIZE (COZE_WIRE_VERSION_SIZE + 1 + 1 + 1 + 1 + 4)
/* What is neither vector nor body. */
#define HEAD_FIXED_MAX (COZE_WIRE_VERSION_SIZE + 1 + 1 + 5 * COZE_VARINT_MAX + 4)
/* crc, seq */
#define CHUNK_FIXED_SIZE (4 + 8)
#define VECTOR_ENTRY_SIZE (8 + 8)
/* kind, flags, length, number of keys */
#define CHANGE_MIN_SIZE (1 + 1 + 1 + 1)

/* The kind of an entry of data whose body is in chunks. */
#define KIND_IN_CHUNKS 'c'

/*
 * Zeroes mean the same as what is not there and are left out, and so is the
 * origin "without" (0: none).
 */
void
coze_wire_put_vector(CozeBuf *buf, const CozeVector *v, CozeOrigin without)
{
	Size		count_at;
	uint32		n = 0;

	coze_buf_reserve(buf, 2 + (Size) v->n * VECTOR_ENTRY_SIZE);
	count_at = buf->size;
	buf->size += 2;
	for (int i = 0; i < v->n; i++)
	{
		if (v->e[i].hlc <= 0 || v->e[i].origin == without)
			continue;
		coze_store_u64(buf->data + buf->size, v->e[i].origin);
		coze_store_u64(buf->data + buf->size + 8, (uint64) v->e[i].hlc);
		buf->size += VECTOR_ENTRY_SIZE;
		n++;
	}
	if (n > UINT16_MAX)
		coze_buf_too_large();
	coze_store_u16(buf->data + count_at, (uint16) n);
}

/* On error the vector is empty and owns nothing. */
const char *
coze_wire_read_vector(CozeCursor *c, CozeVector *v)
{
	int			n = coze_read_u16(c);

	coze_vector_init(v);
	if (c->failed || coze_cursor_left(c) / VECTOR_ENTRY_SIZE < (Size) n)
		return "a vector is cut off";
	coze_vector_reserve(v, n);
	for (int i = 0; i < n; i++)
	{
		CozeVectorEntry e = {.origin = coze_read_u64(c)};

		e.hlc = coze_read_i64(c);
		if (!coze_origin_is_valid(e.origin) || e.hlc <= 0 ||
			(i > 0 && v->e[i - 1].origin >= e.origin))
		{
			coze_vector_free(v);
			return "a vector has an invalid entry";
		}
		v->e[v->n++] = e;
	}
	return NULL;
}

/* What the entry had seen: of each origin how far below the entry's own hlc that lies. */
static void
put_seen(CozeBuf *buf, const CozeEntryHead *head)
{
	uint64		n = 0;

	for (int i = 0; i < head->seen.n; i++)
		n += head->seen.e[i].hlc > 0 && head->seen.e[i].origin != head->version.origin;
	coze_buf_put_varint(buf, n);
	coze_buf_reserve(buf, n * (8 + COZE_VARINT_MAX));
	for (int i = 0; i < head->seen.n; i++)
	{
		const CozeVectorEntry *e = &head->seen.e[i];
		char	   *p = buf->data + buf->size;

		if (e->hlc <= 0 || e->origin == head->version.origin)
			continue;
		coze_store_u64(p, e->origin);
		buf->size = coze_store_varint(p + 8, (uint64) (head->version.hlc - e->hlc)) - buf->data;
	}
}

/* On error the vector is empty and owns nothing. */
static const char *
read_seen(CozeCursor *c, CozeEntryHead *head)
{
	CozeVector *v = &head->seen;
	int			n = coze_read_count(c);

	coze_vector_init(v);
	if (c->failed || coze_cursor_left(c) / (8 + 1) < (Size) n)
		return "a vector is cut off";
	coze_vector_reserve(v, n);
	for (int i = 0; i < n; i++)
	{
		CozeVectorEntry e = {.origin = coze_read_u64(c)};
		uint64		below = coze_read_varint(c);
		const char *error = NULL;

		if (c->failed)
			error = "a vector is cut off";
		else if (e.origin == head->version.origin)
			error = "the entry's vector holds its own origin";
		else if (below == 0)
			error = "the entry's vector is not below its hlc";
		else if (!coze_origin_is_valid(e.origin) || below >= (uint64) head->version.hlc ||
				 (i > 0 && v->e[i - 1].origin >= e.origin))
			error = "a vector has an invalid entry";
		if (error != NULL)
		{
			coze_vector_free(v);
			return error;
		}
		e.hlc = head->version.hlc - (CozeHlc) below;
		v->e[v->n++] = e;
	}
	return NULL;
}

void
coze_wire_put_head(CozeBuf *buf, const CozeEntryHead *head)
{
	Size		begin = buf->size;
	bool		in_chunks = head->nchunks > 0;
	char	   *p;

	coze_buf_reserve(buf, HEAD_FIXED_MAX + head->inline_size);
	p = buf->data + begin;
	coze_store_u64(p, head->version.origin);
	coze_store_u64(p + 8, (uint64) head->version.hlc);
	p += COZE_WIRE_VERSION_SIZE;
	*p++ = COZE_WIRE_VERSION;
	*p++ = in_chunks ? KIND_IN_CHUNKS : (char) head->kind;
	buf->size = coze_store_varint(p, head->xid) - buf->data;
	put_seen(buf, head);
	if (head->kind != COZE_ENTRY_BEAT)
		coze_buf_put_varint(buf, head->nchanges);
	if (in_chunks)
	{
		coze_buf_put_varint(buf, head->nchunks);
		coze_buf_put_varint(buf, head->body_size);
	}
	coze_buf_put(buf, head->inline_body, head->inline_size);
	coze_buf_put_u32(buf, coze_wire_crc(buf->data + begin, buf->size - begin));
}

/* What an entry's counts must be to each other; NULL or what is wrong. */
static const char *
check_counts(const CozeEntryHead *head, bool in_chunks)
{
	if (head->kind == COZE_ENTRY_BEAT)
		return head->inline_size > 0 ? "a beat is not empty" : NULL;
	if (in_chunks && head->inline_size > 0)
		return "the entry's body is not as long as its head says";
	if (in_chunks != (head->nchunks > 0) || head->nchunks > head->body_size ||
		head->nchanges > head->body_size / CHANGE_MIN_SIZE ||
		(head->nchanges == 0) != (head->body_size == 0))
		return "the entry's counts do not fit its size";
	return NULL;
}

/* The numbers of an entry that is no beat; what is left is its body. */
static void
read_counts(CozeCursor *c, CozeEntryHead *head, bool in_chunks)
{
	uint64		nchanges = coze_read_varint(c);
	uint64		nchunks = in_chunks ? coze_read_varint(c) : 0;

	c->failed |= nchanges > UINT32_MAX || nchunks > UINT32_MAX;
	head->nchanges = (uint32) nchanges;
	head->nchunks = (uint32) nchunks;
	head->body_size = in_chunks ? coze_read_varint(c) : coze_cursor_left(c);
}

static const char *
read_head(CozeCursor *c, CozeEntryHead *head)
{
	const char *error;
	uint8		kind;
	bool		in_chunks;

	head->version.origin = coze_read_u64(c);
	head->version.hlc = coze_read_i64(c);
	if (coze_read_u8(c) != COZE_WIRE_VERSION)
		return "the entry has an unknown wire version";
	kind = coze_read_u8(c);
	in_chunks = kind == KIND_IN_CHUNKS;
	if (kind != COZE_ENTRY_DATA && kind != COZE_ENTRY_BEAT && !in_chunks)
		return "the entry is of an unknown kind";
	head->kind = kind == COZE_ENTRY_BEAT ? COZE_ENTRY_BEAT : COZE_ENTRY_DATA;
	if (!coze_origin_is_valid(head->version.origin) || head->version.hlc <= 0)
		return "the entry has no valid version";
	head->xid = coze_read_varint(c);
	error = read_seen(c, head);
	if (error != NULL)
		return error;
	if (head->kind != COZE_ENTRY_BEAT)
		read_counts(c, head, in_chunks);
	if (c->failed)
		return "the entry is cut off";
	head->inline_body = c->p;
	head->inline_size = coze_cursor_left(c);
	return check_counts(head, in_chunks);
}

/* On error head->seen owns nothing; else the caller frees it. */
const char *
coze_wire_get_head(const char *data, Size size, CozeEntryHead *head)
{
	CozeCursor	c;
	const char *error;

	memset(head, 0, sizeof(*head));
	if (size < HEAD_MIN_SIZE)
		return "the entry is cut off";
	if (coze_load_u32(data + size - 4) != coze_wire_crc(data, size - 4))
		return "the entry's checksum is wrong";
	c = coze_cursor(data, size - 4);
	error = read_head(&c, head);
	if (error != NULL)
		coze_vector_free(&head->seen);
	return error;
}

uint32
coze_wire_head_crc(const char *data, Size size)
{
	return size >= 4 ? coze_load_u32(data + size - 4) : 0;
}

void
coze_wire_put_chunk(CozeBuf *buf, const CozeChunk *chunk)
{
	Size		begin = buf->size;

	coze_buf_reserve(buf, CHUNK_FIXED_SIZE + chunk->size);
	coze_store_u64(buf->data + begin + 4, chunk->seq);
	buf->size += CHUNK_FIXED_SIZE;
	coze_buf_put(buf, chunk->body, chunk->size);
	coze_store_u32(buf->data + begin,
				   coze_wire_crc(buf->data + begin + 4, buf->size - begin - 4));
}

const char *
coze_wire_get_chunk(const char *data, Size size, CozeChunk *chunk)
{
	memset(chunk, 0, sizeof(*chunk));
	if (size <= CHUNK_FIXED_SIZE)
		return "the chunk is cut off";
	if (coze_load_u32(data) != coze_wire_crc(data + 4, size - 4))
		return "the chunk's checksum is wrong";
	chunk->seq = coze_load_u64(data + 4);
	chunk->body = data + CHUNK_FIXED_SIZE;
	chunk->size = size - CHUNK_FIXED_SIZE;
	return NULL;
}
