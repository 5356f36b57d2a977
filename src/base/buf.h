/*-------------------------------------------------------------------------
 *
 * buf.h
 *		A growing run of bytes, for encoders.
 *
 * What StringInfo is in the server, without its limit of 1 GB and usable
 * outside of a backend.  Integers go in in network byte order.
 *
 * In the server the bytes lie in the memory context that is current when the
 * first byte goes in, and stay there.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_BUF_H
#define COZE_BUF_H

#include <string.h>

#include "base/alloc.h"

typedef struct CozeBuf
{
	char	   *data;
	Size		size;
	Size		cap;
} CozeBuf;

extern void coze_buf_enlarge(CozeBuf *buf, Size more);

/* Something outgrew its length field: an ERROR, or the end where there is none. */
extern void coze_buf_too_large(void) __attribute__((noreturn));

/* --- integers in network byte order, at any address ------------------------ */

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define COZE_NET16(x) __builtin_bswap16(x)
#define COZE_NET32(x) __builtin_bswap32(x)
#define COZE_NET64(x) __builtin_bswap64(x)
#else
#define COZE_NET16(x) (x)
#define COZE_NET32(x) (x)
#define COZE_NET64(x) (x)
#endif

static inline void
coze_store_u16(char *to, uint16 value)
{
	value = COZE_NET16(value);
	memcpy(to, &value, sizeof(value));
}

static inline void
coze_store_u32(char *to, uint32 value)
{
	value = COZE_NET32(value);
	memcpy(to, &value, sizeof(value));
}

static inline void
coze_store_u64(char *to, uint64 value)
{
	value = COZE_NET64(value);
	memcpy(to, &value, sizeof(value));
}

static inline uint16
coze_load_u16(const char *from)
{
	uint16		value;

	memcpy(&value, from, sizeof(value));
	return COZE_NET16(value);
}

static inline uint32
coze_load_u32(const char *from)
{
	uint32		value;

	memcpy(&value, from, sizeof(value));
	return COZE_NET32(value);
}

static inline uint64
coze_load_u64(const char *from)
{
	uint64		value;

	memcpy(&value, from, sizeof(value));
	return COZE_NET64(value);
}

/* --- the buffer ------------------------------------------------------------ */

static inline void
coze_buf_init(CozeBuf *buf)
{
	memset(buf, 0, sizeof(*buf));
}

/* Make room for more bytes behind the end. */
static inline void
coze_buf_reserve(CozeBuf *buf, Size more)
{
	if (buf->cap - buf->size < more)
		coze_buf_enlarge(buf, more);
}

/* data must not lie in buf. */
static inline void
coze_buf_put(CozeBuf *buf, const void *data, Size size)
{
	if (size == 0)
		return;
	coze_buf_reserve(buf, size);
	memcpy(buf->data + buf->size, data, size);
	buf->size += size;
}

static inline void
coze_buf_put_u8(CozeBuf *buf, uint8 value)
{
	coze_buf_reserve(buf, 1);
	buf->data[buf->size++] = (char) value;
}

static inline void
coze_buf_put_u16(CozeBuf *buf, uint16 value)
{
	coze_buf_reserve(buf, 2);
	coze_store_u16(buf->data + buf->size, value);
	buf->size += 2;
}

static inline void
coze_buf_put_u32(CozeBuf *buf, uint32 value)
{
	coze_buf_reserve(buf, 4);
	coze_store_u32(buf->data + buf->size, value);
	buf->size += 4;
}

static inline void
coze_buf_put_u64(CozeBuf *buf, uint64 value)
{
	coze_buf_reserve(buf, 8);
	coze_store_u64(buf->data + buf->size, value);
	buf->size += 8;
}

/* Most bytes that a number of seven bits a byte takes. */
#define COZE_VARINT_MAX 10

/* Seven bits a byte, the lowest first; there is room for them.  Returns their end. */
static inline char *
coze_store_varint(char *to, uint64 value)
{
	while (value >= 0x80)
	{
		*to++ = (char) (value | 0x80);
		value >>= 7;
	}
	*to++ = (char) value;
	return to;
}

static inline void
coze_buf_put_varint(CozeBuf *buf, uint64 value)
{
	coze_buf_reserve(buf, COZE_VARINT_MAX);
	buf->size = coze_store_varint(buf->data + buf->size, value) - buf->data;
}

static inline void
coze_buf_free(CozeBuf *buf)
{
	if (buf->data)
		coze_free(buf->data);
	coze_buf_init(buf);
}

#endif							/* COZE_BUF_H */
