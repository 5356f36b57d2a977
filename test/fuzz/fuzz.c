/*-------------------------------------------------------------------------
 *
 * fuzz.c
 *		Any bytes to the decoders of the wire format.
 *
 * One program a target (-DTARGET=head and so on).  Whatever a decoder accepts
 * must come out of the encoder as the very bytes that went in; the sanitizers
 * watch the rest.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>

#include "base/wire_read.h"

#define CONCATENATE(a, b) a##b
#define TARGET_FUNCTION(target) CONCATENATE(fuzz_, target)

#define CHECK(condition) \
	do { \
		if (!(condition)) \
		{ \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
			abort(); \
		} \
	} while (0)

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
check_same(CozeBuf *again, const char *data, Size size)
{
	CHECK(again->size == size);
	CHECK(size == 0 || memcmp(again->data, data, size) == 0);
	coze_buf_free(again);
}

/* A copy whose checksum, at its end or else its beginning, is right: no fuzzer finds one. */
static char *
with_checksum(const char *data, Size size, bool at_end)
{
	char	   *copy = coze_alloc(size);

	if (size > 0)
		memcpy(copy, data, size);
	if (size >= 4 && at_end)
		coze_store_u32(copy + size - 4, coze_wire_crc(copy, size - 4));
	else if (size >= 4)
		coze_store_u32(copy, coze_wire_crc(copy + 4, size - 4));
	return copy;
}

pg_attribute_unused() static void
fuzz_head(const char *data, Size size)
{
	char	   *copy = with_checksum(data, size, true);
	CozeEntryHead head;
	CozeBuf		again;

	if (coze_wire_get_head(data, size, &head) == NULL)
		coze_vector_free(&head.seen);
	coze_buf_init(&again);
	if (coze_wire_get_head(copy, size, &head) == NULL)
	{
		CHECK(coze_vector_is_valid(&head.seen));
		CHECK(coze_vector_get(&head.seen, head.version.origin) == 0);
		CHECK(coze_vector_max(&head.seen) < head.version.hlc);
		coze_wire_put_head(&again, &head);
		CHECK(coze_wire_head_crc(copy, size) == coze_wire_head_crc(again.data, again.size));
		check_same(&again, copy, size);
	}
	coze_vector_free(&head.seen);
	free(copy);
}

pg_attribute_unused() static void
fuzz_chunk(const char *data, Size size)
{
	char	   *copy = with_checksum(data, size, false);
	CozeChunk	chunk;
	CozeBuf		again;

	(void) coze_wire_get_chunk(data, size, &chunk);
	coze_buf_init(&again);
	if (coze_wire_get_chunk(copy, size, &chunk) == NULL)
	{
		coze_wire_put_chunk(&again, &chunk);
		check_same(&again, copy, size);
	}
	free(copy);
}

static void
put_values(CozeBuf *buf, const CozeImage *image)
{
	for (int i = 0; i < image->n; i++)
	{
		if (image->values[i].size < 0)
			coze_wire_put_null(buf);
		else
			coze_wire_put_value(buf, image->values[i].data, (Size) image->values[i].size);
	}
}

static void
put_change(CozeBuf *buf, const CozeChange *change, CozeChangeContext *context)
{
	uint8		flags = change->flags;
	bool		same = (flags & COZE_CHANGE_SAME_RELATION) != 0;
	Size		begin = coze_wire_begin_change(buf, change->kind, flags, change->relation,
											   change->policy, same ? context : NULL,
											   change->key.n);

	context->relation = change->relation;
	context->policy = change->policy;
	put_values(buf, &change->key);
	if (flags & COZE_CHANGE_OLD_KEY)
		put_values(buf, &change->old_key);
	if (flags & COZE_CHANGE_NEW_ROW)
	{
		coze_wire_put_count(buf, change->new_row.n);
		put_values(buf, &change->new_row);
	}
	if (flags & COZE_CHANGE_OLD_ROW)
	{
		coze_wire_put_count(buf, change->old_row.n);
		put_values(buf, &change->old_row);
	}
	if (flags & COZE_CHANGE_OLD_UNIQUE)
	{
		coze_wire_put_count(buf, change->nold_unique);
		for (int i = 0; i < change->nold_unique; i++)
			coze_wire_put_unique_value(buf, change->old_unique_columns[i],
									   change->old_unique[i].data, change->old_unique[i].size);
	}
	coze_wire_end_change(buf, begin);
	CHECK(buf->size - begin == change->size);
}

/* No room behind the end, so that a sanitizer sees each byte too far. */
static void
shrink(CozeBuf *buf)
{
	buf->data = coze_realloc(buf->data, buf->size);
	buf->cap = buf->size;
}

/*
 * Read a body in pieces as the seed has it (0: in one), writing what was read to
 * again.  Returns what the last call of next said.
 */
static int
read_body(const char *data, Size size, uint32 seed, CozeBuf *again, bool *at_end)
{
	CozeChangeReader reader;
	CozeChangeContext context = {0};
	CozeChange	change;
	Size		fed = 0;
	int			said = 0;

	coze_wire_reader_init(&reader);
	while (fed < size && said >= 0)
	{
		Size		piece = size - fed;

		if (seed != 0)
		{
			seed = seed * 1664525 + 1013904223;
			piece = Min(piece, (seed >> 24) & 31);
		}
		coze_wire_reader_feed(&reader, data + fed, piece);
		shrink(&reader.buf);
		fed += piece;
		while ((said = coze_wire_reader_next(&reader, &change)) > 0)
			put_change(again, &change, &context);
	}
	CHECK((said < 0) == (reader.error != NULL));
	*at_end = coze_wire_reader_at_end(&reader);
	CHECK(!*at_end || said == 0);
	coze_wire_reader_free(&reader);
	return said;
}

pg_attribute_unused() static void
fuzz_change(const char *data, Size size)
{
	CozeBuf		whole,
				pieces;
	uint32		seed = 1;
	int			said;
	bool		at_end,
				pieces_at_end;

	if (size > 0)
	{
		seed = (uint8) *data | 256;
		data++;
		size--;
	}
	coze_buf_init(&whole);
	coze_buf_init(&pieces);
	said = read_body(data, size, 0, &whole, &at_end);
	CHECK(read_body(data, size, seed, &pieces, &pieces_at_end) == said);
	CHECK(at_end == pieces_at_end);
	CHECK(whole.size <= size && (!at_end || whole.size == size));
	check_same(&pieces, data, whole.size);
	check_same(&whole, data, whole.size);
}

pg_attribute_unused() static void
fuzz_descriptor(const char *data, Size size)
{
	CozeDescriptor descriptor;
	CozeBuf		again;

	coze_buf_init(&again);
	if (coze_wire_get_descriptor(data, size, &descriptor) != NULL)
		return;
	coze_wire_put_descriptor(&again, &descriptor);
	check_same(&again, data, size);
	coze_wire_free_descriptor(&descriptor);
}

pg_attribute_unused() static void
fuzz_frame(const char *data, Size size)
{
	CozeFrame	frame;
	CozeBuf		again;
	Size		pos = 0;

	coze_buf_init(&again);
	for (;;)
	{
		Size		before = pos;
		const char *error = coze_wire_get_frame(data, size, &pos, &frame);

		if (error != NULL)
		{
			CHECK(pos == before);
			break;
		}
		if (frame.kind == COZE_FRAME_END)
		{
			CHECK(pos == size);
			break;
		}
		coze_wire_put_frame(&again, &frame);
		CHECK(again.size == pos);
	}
	check_same(&again, data, pos);
}

pg_attribute_unused() static void
fuzz_hello(const char *data, Size size)
{
	CozeHello	hello;
	CozeBuf		again;

	coze_buf_init(&again);
	if (coze_wire_get_hello(data, size, &hello) != NULL)
		return;
	coze_wire_put_hello(&again, &hello);
	check_same(&again, data, size);
	coze_wire_free_hello(&hello);
}

pg_attribute_unused() static void
fuzz_ack(const char *data, Size size)
{
	CozeAck		ack;
	CozeBuf		again;

	coze_buf_init(&again);
	if (coze_wire_get_ack(data, size, &ack) != NULL)
		return;
	CHECK(coze_vector_is_valid(&ack.applied) && coze_vector_is_valid(&ack.queued) &&
		  coze_vector_is_valid(&ack.leave));
	coze_wire_put_ack(&again, &ack);
	check_same(&again, data, size);
	coze_wire_free_ack(&ack);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	TARGET_FUNCTION(TARGET) ((const char *) data, size);
	return 0;
}
