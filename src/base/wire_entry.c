/*-------------------------------------------------------------------------
 *
 * wire_entry.c
 *		Heads of entries, chunks, and the vectors in them.
 *
 * Both begin with a checksum of all that follows.  What a head says of its body
 * is checked as far as it can be without the body.
 *
 * Pure.
 *
 *-------------------------------------------------------------------------
 */
#include "base/wire_read.h"

/* crc, wire version, kind, origin, hlc, xid, nchanges, nchunks, body_size */
#define HEAD_FIXED_SIZE (4 + 1 + 1 + 8 + 8 + 8 + 4 + 4 + 8)
/* crc, seq */
#define CHUNK_FIXED_SIZE (4 + 8)
#define VECTOR_ENTRY_SIZE (8 + 8)
/* kind, flags, length, number of keys */
#define CHANGE_MIN_SIZE (1 + 1 + 4 + 1)

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

void
coze_wire_put_head(CozeBuf *buf, const CozeEntryHead *head)
{
	Size		begin = buf->size;
	char	   *p;

	coze_buf_reserve(buf, HEAD_FIXED_SIZE);
	p = buf->data + begin;
	p[4] = COZE_WIRE_VERSION;
	p[5] = (char) head->kind;
	coze_store_u64(p + 6, head->version.origin);
	coze_store_u64(p + 14, (uint64) head->version.hlc);
	coze_store_u64(p + 22, head->xid);
	coze_store_u32(p + 30, head->nchanges);
	coze_store_u32(p + 34, head->nchunks);
	coze_store_u64(p + 38, head->body_size);
	buf->size += HEAD_FIXED_SIZE;

	coze_wire_put_vector(buf, &head->seen, head->version.origin);
	coze_buf_put(buf, head->inline_body, head->inline_size);
	coze_store_u32(buf->data + begin,
				   coze_wire_crc(buf->data + begin + 4, buf->size - begin - 4));
}

/* What an entry's fields must be to each other; NULL or what is wrong. */
static const char *
check_head(const CozeEntryHead *head)
{
	if (head->kind != COZE_ENTRY_DATA && head->kind != COZE_ENTRY_BEAT)
		return "the entry is of an unknown kind";
	if (!coze_origin_is_valid(head->version.origin) || head->version.hlc <= 0)
		return "the entry has no valid version";
	for (int i = 0; i < head->seen.n; i++)
	{
		if (head->seen.e[i].origin == head->version.origin)
			return "the entry's vector holds its own origin";
		if (head->seen.e[i].hlc >= head->version.hlc)
			return "the entry's vector is not below its hlc";
	}
	if (head->kind == COZE_ENTRY_BEAT &&
		(head->nchanges > 0 || head->nchunks > 0 || head->body_size > 0 || head->inline_size > 0))
		return "a beat is not empty";
	if (head->nchunks > 0 ? head->inline_size > 0 : head->inline_size != head->body_size)
		return "the entry's body is not as long as its head says";
	if (head->nchunks > head->body_size || head->nchanges > head->body_size / CHANGE_MIN_SIZE ||
		(head->nchanges == 0) != (head->body_size == 0))
		return "the entry's counts do not fit its size";
	return NULL;
}

/* On error head->seen owns nothing; else the caller frees it. */
const char *
coze_wire_get_head(const char *data, Size size, CozeEntryHead *head)
{
	CozeCursor	c = coze_cursor(data, size);
	uint32		crc = coze_read_u32(&c);
	const char *error;

	memset(head, 0, sizeof(*head));
	if (size < HEAD_FIXED_SIZE)
		return "the entry is cut off";
	if (crc != coze_wire_crc(data + 4, size - 4))
		return "the entry's checksum is wrong";
	if (coze_read_u8(&c) != COZE_WIRE_VERSION)
		return "the entry has an unknown wire version";
	head->kind = (CozeEntryKind) coze_read_u8(&c);
	head->version.origin = coze_read_u64(&c);
	head->version.hlc = coze_read_i64(&c);
	head->xid = coze_read_u64(&c);
	head->nchanges = coze_read_u32(&c);
	head->nchunks = coze_read_u32(&c);
	head->body_size = coze_read_u64(&c);
	error = coze_wire_read_vector(&c, &head->seen);
	if (error != NULL)
		return error;
	head->inline_body = c.p;
	head->inline_size = coze_cursor_left(&c);
	error = check_head(head);
	if (error != NULL)
		coze_vector_free(&head->seen);
	return error;
}

uint32
coze_wire_head_crc(const char *data, Size size)
{
	return size >= 4 ? coze_load_u32(data) : 0;
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
