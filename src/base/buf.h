/*-------------------------------------------------------------------------
 *
 * buf.h
 *		A growing run of bytes, for encoders.
 *
 * What StringInfo is in the server, without its limit of 1 GB and usable
 * outside of a backend.  Integers go in in network byte order.
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

static inline void
coze_buf_put(CozeBuf *buf, const void *data, Size size)
{
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
	coze_buf_put_u8(buf, value >> 8);
	coze_buf_put_u8(buf, value & 0xff);
}

static inline void
coze_buf_put_u32(CozeBuf *buf, uint32 value)
{
	coze_buf_put_u16(buf, value >> 16);
	coze_buf_put_u16(buf, value & 0xffff);
}

static inline void
coze_buf_put_u64(CozeBuf *buf, uint64 value)
{
	coze_buf_put_u32(buf, value >> 32);
	coze_buf_put_u32(buf, value & 0xffffffff);
}

static inline void
coze_buf_free(CozeBuf *buf)
{
	if (buf->data)
		coze_free(buf->data);
	coze_buf_init(buf);
}

#endif							/* COZE_BUF_H */
