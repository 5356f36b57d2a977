/*-------------------------------------------------------------------------
 *
 * wire.h
 *		The wire format: entries, changes, frames, messages.
 *
 * doc/wire-protocol.md describes it byte by byte.  The same bytes are made at
 * capture, stored in the change log, sent to peers, forwarded and applied, so
 * there is one encoder and one decoder.  All integers are in network byte
 * order.  Decoders never trust a length: they look only inside the bytes that
 * they are given and return NULL, or an English phrase that says what is wrong.
 *
 * Pure: no tables, no shared memory, no backend.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_WIRE_H
#define COZE_WIRE_H

#include "base/buf.h"
#include "base/vector.h"
#include "base/version.h"

#define COZE_WIRE_VERSION 1

/* A row of the change log holds at most this much, so that it needs no TOAST. */
#define COZE_WIRE_PIECE_MAX 7900

/* --- entries -------------------------------------------------------------- */

typedef enum CozeEntryKind
{
	COZE_ENTRY_DATA = 'd',		/* changes; on the wire another letter where they are in chunks */
	COZE_ENTRY_BEAT = 'b',		/* empty: tells its node's vector */
} CozeEntryKind;

/*
 * The head of an entry.  The body, a run of changes, follows inline, or is
 * spread over nchunks chunks (inline_body is then empty).
 */
typedef struct CozeEntryHead
{
	CozeEntryKind kind;
	CozeVersion version;
	uint64		xid;			/* origin's 64-bit transaction id, for display */
	CozeVector	seen;			/* V without the own origin; decoder: coze_alloc'd */
	uint32		nchanges;
	uint32		nchunks;
	uint64		body_size;		/* bytes, inline or in all chunks, headers not counted */
	const char *inline_body;	/* decoder: points into the input */
	Size		inline_size;
} CozeEntryHead;

/*
 * The version first, in COZE_WIRE_VERSION_SIZE bytes; the CRC-32C of all else last,
 * checked by the decoder.  Of the vector the encoder leaves out zeroes and the own
 * origin, and the decoder refuses them.
 */
#define COZE_WIRE_VERSION_SIZE 16

extern void coze_wire_put_head(CozeBuf *buf, const CozeEntryHead *head);
extern const char *coze_wire_get_head(const char *data, Size size, CozeEntryHead *head);

/* Only the checksum of an encoded head: part of a position. */
extern uint32 coze_wire_head_crc(const char *data, Size size);

/*
 * A chunk: CRC-32C, number in the order of the body, bytes of the body, at least
 * one.  Numbers rise within an entry, with gaps.  get points into the input.
 */
typedef struct CozeChunk
{
	uint64		seq;
	const char *body;
	Size		size;
} CozeChunk;

extern void coze_wire_put_chunk(CozeBuf *buf, const CozeChunk *chunk);
extern const char *coze_wire_get_chunk(const char *data, Size size, CozeChunk *chunk);

/* --- changes -------------------------------------------------------------- */

typedef enum CozeChangeKind
{
	COZE_CHANGE_INSERT = 'I',	/* new row */
	COZE_CHANGE_UPDATE = 'U',	/* new row; old key, old unique values, old row as flagged */
	COZE_CHANGE_DELETE = 'D',	/* old row */
	COZE_CHANGE_TRUNCATE = 'T', /* neither key nor rows */
	COZE_CHANGE_SUPERSEDED = 'S',	/* has no effect, since another change of the entry,
									 * perhaps before it, tells what the key came to;
									 * with old row: what the key had, else: that it had
									 * none; old key: as for an update */
} CozeChangeKind;

#define COZE_CHANGE_SAME_RELATION	0x01	/* relation and policy as in the change before */
#define COZE_CHANGE_HAS_POLICY		0x02	/* names a policy version; else (0, 0) */
#define COZE_CHANGE_OLD_KEY			0x04	/* the key changed */
#define COZE_CHANGE_OLD_UNIQUE		0x08	/* values of unique columns that changed */
#define COZE_CHANGE_OLD_ROW			0x10
#define COZE_CHANGE_NEW_ROW			0x20
#define COZE_CHANGE_OLD_OWN			0x40	/* the row it changed was written by the same entry */

/*
 * Changes stand in the order in which they are to be made.  That is not always the
 * order in which their author made them: what a trigger did to a row that was
 * waiting for its turn stands before the change of that row.  So the row that a key
 * had before the entry is that of the first update, deletion or superseded change
 * with an old row that is not OLD_OWN; if there is none it had none.
 */

/* A value as bytes; size < 0 is NULL. */
typedef struct CozeValue
{
	const char *data;
	int64		size;
} CozeValue;

/* An image: the columns of a row that are not key columns, in descriptor order. */
typedef struct CozeImage
{
	int			n;
	CozeValue  *values;
} CozeImage;

/*
 * A decoded change.  Columns are numbered as in the relation's descriptor, where
 * the key columns come first; a full row is key followed by image.
 */
typedef struct CozeChange
{
	CozeChangeKind kind;
	uint8		flags;
	uint64		relation;		/* hash of the descriptor */
	CozeVersion policy;			/* policy version under which it was captured */
	CozeImage	key;			/* of the new row; DELETE: of the old */
	CozeImage	old_key;		/* n = 0 unless OLD_KEY */
	CozeImage	new_row;
	CozeImage	old_row;
	int			nold_unique;
	uint16	   *old_unique_columns;
	CozeValue  *old_unique;
	Size		size;			/* encoded, with its header */
} CozeChange;

/*
 * Encoding, in this order and streaming, so that capture copies each value
 * once: begin, the key values, the old key values if announced, then each image
 * that was announced (new row, old row), with put_count before its values, the
 * old unique values if announced, also after their count, and end, which fills
 * in the length.
 *
 * begin: parts are the flags OLD_KEY, OLD_UNIQUE, OLD_ROW, NEW_ROW, OLD_OWN; previous is
 * the (relation, policy) of the change before it in the same piece, and is moved
 * on, or NULL.  A piece is what can vanish or be reordered alone (what one
 * subtransaction captured between two others), so the first change of a piece
 * always names its relation.  Whoever takes back bytes of a piece sets its
 * context back too.
 */
typedef struct CozeChangeContext
{
	uint64		relation;		/* 0: none yet */
	CozeVersion policy;
} CozeChangeContext;

extern Size coze_wire_begin_change(CozeBuf *buf, CozeChangeKind kind, uint8 parts,
								   uint64 relation, CozeVersion policy,
								   CozeChangeContext *previous, int nkeys);
extern void coze_wire_put_large_size(CozeBuf *buf, Size size);
extern void coze_wire_end_change(CozeBuf *buf, Size begin);

/* A value begins with its size in one byte, or with one of these. */
#define COZE_VALUE_SMALL_MAX	250
#define COZE_VALUE_NULL			251
#define COZE_VALUE_SIZE16		252 /* size follows as u16 */
#define COZE_VALUE_SIZE32		253 /* size follows as u32 */

/* Most that is needed before the bytes of a value. */
#define COZE_VALUE_HEADER_MAX	5

/* How many values follow: of an image, or of the old unique values. */
static inline void
coze_wire_put_count(CozeBuf *buf, int n)
{
	coze_buf_put_varint(buf, (uint64) n);
}

/* The size of a value whose bytes the caller puts next; makes room for them. */
static inline void
coze_wire_put_size(CozeBuf *buf, Size size)
{
	coze_buf_reserve(buf, size + COZE_VALUE_HEADER_MAX);
	if (size <= COZE_VALUE_SMALL_MAX)
		buf->data[buf->size++] = (char) size;
	else
		coze_wire_put_large_size(buf, size);
}

static inline void
coze_wire_put_value(CozeBuf *buf, const char *data, Size size)
{
	coze_wire_put_size(buf, size);
	memcpy(buf->data + buf->size, data, size);
	buf->size += size;
}

static inline void
coze_wire_put_null(CozeBuf *buf)
{
	coze_buf_put_u8(buf, COZE_VALUE_NULL);
}

/* size < 0: NULL */
static inline void
coze_wire_put_unique_value(CozeBuf *buf, uint16 column, const char *data, int64 size)
{
	coze_buf_put_varint(buf, column);
	if (size < 0)
		coze_wire_put_null(buf);
	else
		coze_wire_put_value(buf, data, (Size) size);
}

/*
 * Reading a body change by change.  Bytes may come in pieces: feed() appends,
 * next() returns 1 and a change (valid until the next call), 0 when more bytes
 * are needed, -1 with reader->error set.  Memory grows with the bytes that were
 * fed, never with what they claim.
 */
typedef struct CozeChangeReader
{
	CozeBuf		buf;
	Size		pos;			/* of the next change in buf */
	CozeChangeContext context;
	const char *error;
	int			values_cap;
	CozeValue  *values;
	int			columns_cap;
	uint16	   *columns;
} CozeChangeReader;

extern void coze_wire_reader_init(CozeChangeReader *reader);
extern void coze_wire_reader_feed(CozeChangeReader *reader, const char *data, Size size);
extern int	coze_wire_reader_next(CozeChangeReader *reader, CozeChange *change);
extern bool coze_wire_reader_at_end(const CozeChangeReader *reader);	/* nothing half-read? */
extern void coze_wire_reader_free(CozeChangeReader *reader);

/* --- relation descriptors ------------------------------------------------- */

#define COZE_COLUMN_BINARY	0x01	/* values in the type's binary send format, else text */

typedef struct CozeDescriptorColumn
{
	const char *name;
	const char *type_schema;
	const char *type_name;
	int32		typmod;
	uint8		flags;
} CozeDescriptorColumn;

/* Key columns come first; a partitioned table is named by its root. */
typedef struct CozeDescriptor
{
	uint64		hash;			/* of the encoded bytes; not itself in them */
	const char *schema;
	const char *table;
	int			nkeys;
	int			ncolumns;
	CozeDescriptorColumn *columns;
} CozeDescriptor;

extern void coze_wire_put_descriptor(CozeBuf *buf, const CozeDescriptor *descriptor);
/* decoder: everything coze_alloc'd; hash is left 0, see codec.h */
extern const char *coze_wire_get_descriptor(const char *data, Size size, CozeDescriptor *descriptor);
extern void coze_wire_free_descriptor(CozeDescriptor *descriptor);	/* a decoded one */

/* --- frames: what a batch consists of -------------------------------------- */

typedef enum CozeFrameKind
{
	COZE_FRAME_END = 0,			/* not a frame: none is left */
	COZE_FRAME_RELATION = 'R',	/* a descriptor, before the first entry that names it */
	COZE_FRAME_ENTRY = 'E',		/* an entry's head, with the position it continues */
	COZE_FRAME_CHUNK = 'C',		/* the next chunk of the entry begun last */
} CozeFrameKind;

typedef struct CozeFrame
{
	CozeFrameKind kind;
	CozeHlc		prev;			/* ENTRY: hlc of the entry of its origin that the source
								 * holds before it, 0 if none */
	const char *data;			/* encoded head, chunk or descriptor */
	Size		size;
} CozeFrame;

extern void coze_wire_put_frame(CozeBuf *buf, const CozeFrame *frame);
/* Next frame at *pos, which moves on; COZE_FRAME_END at the end of the batch. */
extern const char *coze_wire_get_frame(const char *data, Size size, Size *pos, CozeFrame *frame);

/* --- messages: what links say to each other --------------------------------- */

/* A position: the last entry of an origin that a node holds, and its checksum. */
typedef struct CozePosition
{
	CozeOrigin	origin;
	CozeHlc		hlc;
	uint32		crc;			/* of its head; 0: pruned, not known */
} CozePosition;

typedef struct CozePositions
{
	int			n;
	CozePosition *p;			/* sorted by origin */
} CozePositions;

/* First message, both ways. */
typedef struct CozeHello
{
	uint32		protocol;
	uint8		group_id[16];
	CozeOrigin	origin;
	uint64		system_identifier;
	uint32		database_oid;
	uint32		server_version;
	uint64		instance;		/* drawn when its server started; 0: not told */
	CozeHlc		clock;			/* wall clock when sent */
	const char *node_name;
	CozePositions held;			/* what the sender holds, applied and flushed */
} CozeHello;

/* What the target tells: with every answer to a batch, with every request. */
typedef struct CozeAck
{
	CozeHlc		clock;			/* wall clock when sent */
	uint64		window;			/* bytes that may be sent now */
	CozeVector	applied;		/* applied and flushed there */
	CozeVector	queued;			/* received there in full */
	CozeVector	leave;			/* origins that come by another road; hlc 1 */
} CozeAck;

/*
 * Positions with hlc 0 are left out; decoders coze_alloc what has no fixed size.
 * When a hello is refused for its protocol, hello->protocol is set.
 */
extern void coze_wire_put_hello(CozeBuf *buf, const CozeHello *hello);
extern const char *coze_wire_get_hello(const char *data, Size size, CozeHello *hello);
extern void coze_wire_free_hello(CozeHello *hello); /* a decoded one */
extern void coze_wire_put_ack(CozeBuf *buf, const CozeAck *ack);
extern const char *coze_wire_get_ack(const char *data, Size size, CozeAck *ack);
extern void coze_wire_free_ack(CozeAck *ack);

#endif							/* COZE_WIRE_H */
