/*-------------------------------------------------------------------------
 *
 * wire_message.c
 *		What links say to each other: frames, greetings, acknowledgements.
 *
 * Pure.
 *
 *-------------------------------------------------------------------------
 */
#include "base/wire_read.h"

/* "COZE": the first bytes of a greeting. */
#define HELLO_MAGIC 0x434F5A45

#define POSITION_SIZE (8 + 8 + 4)

/* --- frames ----------------------------------------------------------------- */

/* kind, then for an entry the position it continues, size, data */
void
coze_wire_put_frame(CozeBuf *buf, const CozeFrame *frame)
{
	if (frame->size > UINT32_MAX)
		coze_buf_too_large();
	coze_buf_reserve(buf, 1 + 8 + 4 + frame->size);
	coze_buf_put_u8(buf, (uint8) frame->kind);
	if (frame->kind == COZE_FRAME_ENTRY)
		coze_buf_put_u64(buf, (uint64) frame->prev);
	coze_buf_put_u32(buf, (uint32) frame->size);
	coze_buf_put(buf, frame->data, frame->size);
}

const char *
coze_wire_get_frame(const char *data, Size size, Size *pos, CozeFrame *frame)
{
	CozeCursor	c;

	memset(frame, 0, sizeof(*frame));
	if (*pos >= size)
		return NULL;
	c = coze_cursor(data + *pos, size - *pos);
	frame->kind = (CozeFrameKind) coze_read_u8(&c);
	switch (frame->kind)
	{
		case COZE_FRAME_ENTRY:
			frame->prev = coze_read_i64(&c);
			if (frame->prev < 0)
				return "a frame continues an invalid position";
			break;
		case COZE_FRAME_RELATION:
		case COZE_FRAME_CHUNK:
			break;
		case COZE_FRAME_END:
		default:				/* bytes can be anything */
			return "a frame is of an unknown kind";
	}
	frame->size = coze_read_u32(&c);
	frame->data = coze_read_bytes(&c, frame->size);
	if (c.failed || frame->size == 0)
		return "a frame is cut off or empty";
	*pos = c.p - data;
	return NULL;
}

/* --- greetings -------------------------------------------------------------- */

static void
put_positions(CozeBuf *buf, const CozePositions *positions)
{
	Size		count_at = buf->size;
	uint32		n = 0;

	coze_buf_put_u16(buf, 0);
	for (int i = 0; i < positions->n; i++)
	{
		const CozePosition *position = &positions->p[i];

		if (position->hlc <= 0)
			continue;
		coze_buf_put_u64(buf, position->origin);
		coze_buf_put_u64(buf, (uint64) position->hlc);
		coze_buf_put_u32(buf, position->crc);
		n++;
	}
	if (n > UINT16_MAX)
		coze_buf_too_large();
	coze_store_u16(buf->data + count_at, (uint16) n);
}

static const char *
read_positions(CozeCursor *c, CozePositions *positions)
{
	int			n = coze_read_u16(c);

	if (c->failed || coze_cursor_left(c) / POSITION_SIZE < (Size) n)
		return "the greeting is cut off";
	positions->p = coze_alloc(n * sizeof(CozePosition));
	positions->n = n;
	for (int i = 0; i < n; i++)
	{
		CozePosition *position = &positions->p[i];

		position->origin = coze_read_u64(c);
		position->hlc = coze_read_i64(c);
		position->crc = coze_read_u32(c);
		if (!coze_origin_is_valid(position->origin) || position->hlc <= 0 ||
			(i > 0 && positions->p[i - 1].origin >= position->origin))
			return "the greeting has an invalid position";
	}
	return NULL;
}

void
coze_wire_put_hello(CozeBuf *buf, const CozeHello *hello)
{
	Size		name_size = strlen(hello->node_name);

	if (name_size > UINT8_MAX)
		coze_buf_too_large();
	coze_buf_put_u32(buf, HELLO_MAGIC);
	coze_buf_put_u32(buf, hello->protocol);
	coze_buf_put(buf, hello->group_id, sizeof(hello->group_id));
	coze_buf_put_u64(buf, hello->origin);
	coze_buf_put_u64(buf, hello->system_identifier);
	coze_buf_put_u32(buf, hello->database_oid);
	coze_buf_put_u32(buf, hello->server_version);
	coze_buf_put_u64(buf, hello->instance);
	coze_buf_put_u64(buf, (uint64) hello->clock);
	coze_buf_put_u8(buf, (uint8) name_size);
	coze_buf_put(buf, hello->node_name, name_size);
	put_positions(buf, &hello->held);
}

/* Returns NULL, or what is wrong; then the caller frees what was allocated. */
static const char *
read_hello(CozeCursor *c, CozeHello *hello)
{
	const char *bytes;
	Size		size;
	const char *error;

	if (coze_read_u32(c) != HELLO_MAGIC)
		return "the greeting is not one of cozesync";
	hello->protocol = coze_read_u32(c);
	if (c->failed)
		return "the greeting is cut off";
	if (hello->protocol != COZE_WIRE_VERSION)
		return "the other node speaks another version of the protocol";
	bytes = coze_read_bytes(c, sizeof(hello->group_id));
	if (bytes != NULL)
		memcpy(hello->group_id, bytes, sizeof(hello->group_id));
	hello->origin = coze_read_u64(c);
	hello->system_identifier = coze_read_u64(c);
	hello->database_oid = coze_read_u32(c);
	hello->server_version = coze_read_u32(c);
	hello->instance = coze_read_u64(c);
	hello->clock = coze_read_i64(c);
	size = coze_read_u8(c);
	bytes = coze_read_bytes(c, size);
	if (bytes == NULL)
		return "the greeting is cut off";
	if (size == 0 || memchr(bytes, '\0', size) != NULL)
		return "the greeting has no valid node name";
	if (!coze_origin_is_valid(hello->origin))
		return "the greeting has no valid origin";
	hello->node_name = memcpy(coze_alloc0(size + 1), bytes, size);
	error = read_positions(c, &hello->held);
	if (error == NULL && coze_cursor_left(c) != 0)
		error = "the greeting is longer than it should be";
	return error;
}

void
coze_wire_free_hello(CozeHello *hello)
{
	coze_free((void *) hello->node_name);
	coze_free(hello->held.p);
	memset(hello, 0, sizeof(*hello));
}

const char *
coze_wire_get_hello(const char *data, Size size, CozeHello *hello)
{
	CozeCursor	c = coze_cursor(data, size);
	const char *error;

	memset(hello, 0, sizeof(*hello));
	error = read_hello(&c, hello);
	if (error != NULL)
	{
		uint32		protocol = hello->protocol;

		coze_wire_free_hello(hello);
		hello->protocol = protocol;
	}
	return error;
}

/* --- acknowledgements -------------------------------------------------------- */

static void
put_origins(CozeBuf *buf, const CozeVector *origins)
{
	if (origins->n > UINT16_MAX)
		coze_buf_too_large();
	coze_buf_put_u16(buf, (uint16) origins->n);
	for (int i = 0; i < origins->n; i++)
		coze_buf_put_u64(buf, origins->e[i].origin);
}

static const char *
read_origins(CozeCursor *c, CozeVector *origins)
{
	int			n = coze_read_u16(c);

	if (c->failed || coze_cursor_left(c) / sizeof(CozeOrigin) < (Size) n)
		return "the acknowledgement is cut off";
	coze_vector_reserve(origins, n);
	for (int i = 0; i < n; i++)
	{
		CozeVectorEntry entry = {.origin = coze_read_u64(c), .hlc = 1};

		if (!coze_origin_is_valid(entry.origin) ||
			(i > 0 && origins->e[i - 1].origin >= entry.origin))
			return "the acknowledgement names an invalid origin";
		origins->e[origins->n++] = entry;
	}
	return NULL;
}

void
coze_wire_put_ack(CozeBuf *buf, const CozeAck *ack)
{
	coze_buf_put_u64(buf, (uint64) ack->clock);
	coze_buf_put_u64(buf, ack->window);
	coze_wire_put_vector(buf, &ack->applied, 0);
	coze_wire_put_vector(buf, &ack->queued, 0);
	put_origins(buf, &ack->leave);
}

void
coze_wire_free_ack(CozeAck *ack)
{
	coze_vector_free(&ack->applied);
	coze_vector_free(&ack->queued);
	coze_vector_free(&ack->leave);
}

/* On error the vectors own nothing; else the caller frees them. */
const char *
coze_wire_get_ack(const char *data, Size size, CozeAck *ack)
{
	CozeCursor	c = coze_cursor(data, size);
	const char *error;

	memset(ack, 0, sizeof(*ack));
	ack->clock = coze_read_i64(&c);
	ack->window = coze_read_u64(&c);
	if (c.failed)
		return "the acknowledgement is cut off";
	error = coze_wire_read_vector(&c, &ack->applied);
	if (error == NULL)
		error = coze_wire_read_vector(&c, &ack->queued);
	if (error == NULL)
		error = read_origins(&c, &ack->leave);
	if (error == NULL && coze_cursor_left(&c) != 0)
		error = "the acknowledgement is longer than it should be";
	if (error != NULL)
		coze_wire_free_ack(ack);
	return error;
}
