/*-------------------------------------------------------------------------
 *
 * wire_read.h
 *		Reading bytes that are not to be trusted; private to the decoders.
 *
 * A cursor never leaves its bytes.  A read beyond them gives 0 and sets failed,
 * which stays, so that a decoder can read a few fields and then look once; it
 * must look before it believes anything that it read, above all a count.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_WIRE_READ_H
#define COZE_WIRE_READ_H

#include "base/wire.h"

typedef struct CozeCursor
{
	const char *p;
	const char *end;
	bool		failed;
} CozeCursor;

static inline CozeCursor
coze_cursor(const char *data, Size size)
{
	CozeCursor	c = {data, size > 0 ? data + size : data, false};

	return c;
}

static inline Size
coze_cursor_left(const CozeCursor *c)
{
	return c->end - c->p;
}

/* The next size bytes, or NULL. */
static inline const char *
coze_read_bytes(CozeCursor *c, Size size)
{
	const char *p = c->p;

	if (c->failed || coze_cursor_left(c) < size)
	{
		c->failed = true;
		return NULL;
	}
	c->p += size;
	return p;
}

static inline uint8
coze_read_u8(CozeCursor *c)
{
	const char *p = coze_read_bytes(c, 1);

	return p ? (uint8) *p : 0;
}

static inline uint16
coze_read_u16(CozeCursor *c)
{
	const char *p = coze_read_bytes(c, 2);

	return p ? coze_load_u16(p) : 0;
}

static inline uint32
coze_read_u32(CozeCursor *c)
{
	const char *p = coze_read_bytes(c, 4);

	return p ? coze_load_u32(p) : 0;
}

static inline uint64
coze_read_u64(CozeCursor *c)
{
	const char *p = coze_read_bytes(c, 8);

	return p ? coze_load_u64(p) : 0;
}

static inline int64
coze_read_i64(CozeCursor *c)
{
	return (int64) coze_read_u64(c);
}

/* In no more bytes than it takes. */
static inline uint64
coze_read_varint(CozeCursor *c)
{
	uint64		value = 0;

	for (int shift = 0; shift < 64; shift += 7)
	{
		uint8		byte = coze_read_u8(c);

		if ((shift > 0 && byte == 0) || (shift == 63 && byte > 1))
			break;
		value |= (uint64) (byte & 0x7F) << shift;
		if (byte < 0x80)
			return c->failed ? 0 : value;
	}
	c->failed = true;
	return 0;
}

/* How many of something follow; nothing has more than 16 bits of them. */
static inline int
coze_read_count(CozeCursor *c)
{
	uint64		n = coze_read_varint(c);

	if (n > UINT16_MAX)
		c->failed = true;
	return c->failed ? 0 : (int) n;
}

/* 63 bits, and not none */
static inline bool
coze_origin_is_valid(CozeOrigin origin)
{
	return origin != 0 && (origin >> 63) == 0;
}

extern uint32 coze_wire_crc(const char *data, Size size);

extern void coze_wire_put_vector(CozeBuf *buf, const CozeVector *v, CozeOrigin without);
extern const char *coze_wire_read_vector(CozeCursor *c, CozeVector *v);
extern CozeValue coze_wire_read_value(CozeCursor *c);

#endif							/* COZE_WIRE_READ_H */
