/*-------------------------------------------------------------------------
 *
 * wire_change.c
 *		Changes: encoding while they are captured, and reading them back.
 *
 * A change tells its own length, and each value its own, so a change can be
 * read without the descriptor of its relation.  There is one way to write down
 * a given change; what is not in that form is refused, so that equal changes
 * are equal bytes.
 *
 * Pure.
 *
 *-------------------------------------------------------------------------
 */
#include "base/wire_read.h"

/* kind, flags; the length of what follows takes a byte at least */
#define CHANGE_FIXED_SIZE (1 + 1)
#define LENGTH_SIZE_MAX 5

#define PARTS (COZE_CHANGE_OLD_KEY | COZE_CHANGE_OLD_UNIQUE | \
			   COZE_CHANGE_OLD_ROW | COZE_CHANGE_NEW_ROW | COZE_CHANGE_OLD_OWN)
#define ALL_FLAGS (PARTS | COZE_CHANGE_SAME_RELATION | COZE_CHANGE_HAS_POLICY)

/* --- encoding --------------------------------------------------------------- */

/* Returns where the change begins in buf, for coze_wire_end_change(). */
Size
coze_wire_begin_change(CozeBuf *buf, CozeChangeKind kind, uint8 parts,
					   uint64 relation, CozeVersion policy,
					   CozeChangeContext *previous, int nkeys)
{
	Size		begin = buf->size;
	uint8		flags = parts & PARTS;
	char	   *p;

	Assert(relation != 0 && nkeys >= 0 && nkeys <= UINT8_MAX);
	coze_buf_reserve(buf, CHANGE_FIXED_SIZE + 1 + 8 + 16 + 1);
	p = buf->data + begin + CHANGE_FIXED_SIZE + 1;
	if (previous != NULL && previous->relation == relation &&
		coze_version_equal(previous->policy, policy))
		flags |= COZE_CHANGE_SAME_RELATION;
	else
	{
		coze_store_u64(p, relation);
		p += 8;
		if (policy.hlc != 0)
		{
			flags |= COZE_CHANGE_HAS_POLICY;
			coze_store_u64(p, (uint64) policy.hlc);
			coze_store_u64(p + 8, policy.origin);
			p += 16;
		}
	}
	*p++ = (char) nkeys;
	buf->data[begin] = (char) kind;
	buf->data[begin + 1] = (char) flags;
	buf->size = p - buf->data;
	if (previous != NULL)
	{
		previous->relation = relation;
		previous->policy = policy;
	}
	return begin;
}

/* The size of a value when it takes more than a byte; there is room for it. */
void
coze_wire_put_large_size(CozeBuf *buf, Size size)
{
	char	   *p = buf->data + buf->size;

	if (size <= UINT16_MAX)
	{
		p[0] = (char) COZE_VALUE_SIZE16;
		coze_store_u16(p + 1, (uint16) size);
		buf->size += 3;
	}
	else
	{
		if (size > UINT32_MAX)
			coze_buf_too_large();
		p[0] = (char) COZE_VALUE_SIZE32;
		coze_store_u32(p + 1, (uint32) size);
		buf->size += 5;
	}
}

/* A length of more than the byte that was left for it moves what follows. */
void
coze_wire_end_change(CozeBuf *buf, Size begin)
{
	Size		at = begin + CHANGE_FIXED_SIZE;
	Size		size = buf->size - at - 1;
	char		length[COZE_VARINT_MAX];
	Size		more;

	if (size > UINT32_MAX)
		coze_buf_too_large();
	more = coze_store_varint(length, size) - length - 1;
	if (more > 0)
	{
		coze_buf_reserve(buf, more);
		memmove(buf->data + at + 1 + more, buf->data + at + 1, size);
		buf->size += more;
	}
	memcpy(buf->data + at, length, 1 + more);
}

/* --- reading ---------------------------------------------------------------- */

void
coze_wire_reader_init(CozeChangeReader *reader)
{
	memset(reader, 0, sizeof(*reader));
}

void
coze_wire_reader_free(CozeChangeReader *reader)
{
	coze_buf_free(&reader->buf);
	coze_free(reader->values);
	coze_free(reader->columns);
	coze_wire_reader_init(reader);
}

/* Makes the change that was returned last invalid. */
void
coze_wire_reader_feed(CozeChangeReader *reader, const char *data, Size size)
{
	CozeBuf    *buf = &reader->buf;

	if (reader->pos > 0)
	{
		buf->size -= reader->pos;
		memmove(buf->data, buf->data + reader->pos, buf->size);
		reader->pos = 0;
	}
	coze_buf_put(buf, data, size);
}

bool
coze_wire_reader_at_end(const CozeChangeReader *reader)
{
	return reader->error == NULL && reader->pos == reader->buf.size;
}

/* Which parts a change of this kind must have, and which it may. */
static bool
parts_fit_kind(CozeChangeKind kind, uint8 flags)
{
	uint8		parts = flags & PARTS;

	switch (kind)
	{
		case COZE_CHANGE_INSERT:
			return parts == COZE_CHANGE_NEW_ROW;
		case COZE_CHANGE_UPDATE:
			return (parts & COZE_CHANGE_NEW_ROW) != 0;
		case COZE_CHANGE_DELETE:
			return (parts & ~COZE_CHANGE_OLD_OWN) == COZE_CHANGE_OLD_ROW;
		case COZE_CHANGE_TRUNCATE:
			return parts == 0;
		case COZE_CHANGE_SUPERSEDED:
			return (parts & COZE_CHANGE_NEW_ROW) == 0 &&
				((parts & COZE_CHANGE_OLD_OWN) == 0 || (parts & COZE_CHANGE_OLD_ROW) != 0);
	}
	return false;
}

/* Read a value; its bytes stay where they are.  Not to be used if c failed. */
CozeValue
coze_wire_read_value(CozeCursor *c)
{
	CozeValue	value = {NULL, -1};
	uint8		first = coze_read_u8(c);
	Size		size = first;

	if (first == COZE_VALUE_NULL)
		return value;
	if (first == COZE_VALUE_SIZE16)
	{
		size = coze_read_u16(c);
		c->failed |= size <= COZE_VALUE_SMALL_MAX;
	}
	else if (first == COZE_VALUE_SIZE32)
	{
		size = coze_read_u32(c);
		c->failed |= size <= UINT16_MAX;
	}
	else if (first > COZE_VALUE_SMALL_MAX)
		c->failed = true;
	value.data = coze_read_bytes(c, size);
	value.size = (int64) size;
	return value;
}

/*
 * Where values go while a change is read.  The array moves as it grows, so
 * images point into it only when all of them have been read.
 */
typedef struct ValueSink
{
	CozeChangeReader *reader;
	int			n;
} ValueSink;

static int
read_values(CozeCursor *c, ValueSink *sink, int n, CozeImage *image)
{
	CozeChangeReader *reader = sink->reader;
	int			first = sink->n;

	/* A value takes a byte at least. */
	if (c->failed || coze_cursor_left(c) < (Size) n)
	{
		c->failed = true;
		return first;
	}
	if (reader->values == NULL || reader->values_cap < first + n)
	{
		reader->values_cap = Max(2 * (first + n), 64);
		reader->values = coze_realloc(reader->values, reader->values_cap * sizeof(CozeValue));
	}
	for (int i = 0; i < n && !c->failed; i++)
		reader->values[first + i] = coze_wire_read_value(c);
	sink->n += n;
	image->n = n;
	return first;
}

/* Read the old unique values: each with its column. */
static int
read_unique(CozeCursor *c, ValueSink *sink, CozeChange *change)
{
	CozeChangeReader *reader = sink->reader;
	int			n = coze_read_count(c);
	int			first = sink->n;
	CozeImage	one;

	if (n == 0 || coze_cursor_left(c) / 2 < (Size) n)
	{
		c->failed = true;
		return first;
	}
	if (reader->columns_cap < n)
	{
		reader->columns_cap = Max(n, 16);
		reader->columns = coze_realloc(reader->columns, reader->columns_cap * sizeof(uint16));
	}
	for (int i = 0; i < n && !c->failed; i++)
	{
		reader->columns[i] = (uint16) coze_read_count(c);
		read_values(c, sink, 1, &one);
	}
	change->nold_unique = n;
	change->old_unique_columns = reader->columns;
	return first;
}

/* Relation and policy: named, or those of the change before. */
static const char *
read_relation(CozeCursor *c, CozeChangeContext *context, CozeChange *change)
{
	if (change->flags & COZE_CHANGE_SAME_RELATION)
	{
		if (context->relation == 0)
			return "a change names no relation";
	}
	else
	{
		CozeChangeContext named = {0};

		named.relation = coze_read_u64(c);
		if (change->flags & COZE_CHANGE_HAS_POLICY)
		{
			named.policy.hlc = coze_read_i64(c);
			named.policy.origin = coze_read_u64(c);
			if (named.policy.hlc <= 0 || !coze_origin_is_valid(named.policy.origin))
				c->failed = true;
		}
		if (c->failed || named.relation == 0)
			return "a change names no valid relation or policy";
		*context = named;
	}
	change->relation = context->relation;
	change->policy = context->policy;
	return NULL;
}

/* Read what follows the header; all of it, and nothing but it, must be there. */
static const char *
read_body(CozeChangeReader *reader, CozeCursor *c, CozeChange *change)
{
	ValueSink	sink = {reader, 0};
	const char *error = read_relation(c, &reader->context, change);
	int			key,
				old_key = 0,
				new_row = 0,
				old_row = 0,
				unique = 0;

	if (error != NULL)
		return error;
	key = read_values(c, &sink, coze_read_u8(c), &change->key);
	if (change->flags & COZE_CHANGE_OLD_KEY)
		old_key = read_values(c, &sink, change->key.n, &change->old_key);
	if (change->flags & COZE_CHANGE_NEW_ROW)
		new_row = read_values(c, &sink, coze_read_count(c), &change->new_row);
	if (change->flags & COZE_CHANGE_OLD_ROW)
		old_row = read_values(c, &sink, coze_read_count(c), &change->old_row);
	if (change->flags & COZE_CHANGE_OLD_UNIQUE)
		unique = read_unique(c, &sink, change);
	if (c->failed || coze_cursor_left(c) != 0)
		return "a change does not have the length that it claims";
	if ((change->key.n == 0) != (change->kind == COZE_CHANGE_TRUNCATE))
		return "a change has no key, or one where none belongs";

	change->key.values = reader->values + key;
	change->old_key.values = reader->values + old_key;
	change->new_row.values = reader->values + new_row;
	change->old_row.values = reader->values + old_row;
	change->old_unique = reader->values + unique;
	return NULL;
}

/* The length of a change; false: it is cut off.  One that none could have is an error. */
static bool
read_length(CozeChangeReader *reader, CozeCursor *c, Size *length)
{
	const char *begin = c->p;
	Size		left = coze_cursor_left(c);
	bool		ends = false;

	for (Size i = 0; i < Min(left, LENGTH_SIZE_MAX) && !ends; i++)
		ends = (begin[i] & 0x80) == 0;
	if (!ends && left < LENGTH_SIZE_MAX)
		return false;
	*length = coze_read_varint(c);
	if (c->failed || !ends || *length > UINT32_MAX)
		reader->error = "a change has no valid length";
	return true;
}

int
coze_wire_reader_next(CozeChangeReader *reader, CozeChange *change)
{
	Size		left = reader->buf.size - reader->pos;
	CozeCursor	c;
	Size		length;

	memset(change, 0, sizeof(*change));
	if (reader->error != NULL)
		return -1;
	if (left < CHANGE_FIXED_SIZE)
		return 0;
	c = coze_cursor(reader->buf.data + reader->pos, left);
	change->kind = (CozeChangeKind) coze_read_u8(&c);
	change->flags = coze_read_u8(&c);
	if ((change->flags & ~ALL_FLAGS) != 0 || !parts_fit_kind(change->kind, change->flags) ||
		((change->flags & COZE_CHANGE_SAME_RELATION) && (change->flags & COZE_CHANGE_HAS_POLICY)))
	{
		reader->error = "a change is of an unknown kind or has flags that do not fit it";
		return -1;
	}
	if (!read_length(reader, &c, &length))
		return 0;
	if (reader->error != NULL)
		return -1;
	if (coze_cursor_left(&c) < length)
		return 0;
	c.end = c.p + length;
	reader->error = read_body(reader, &c, change);
	if (reader->error != NULL)
		return -1;
	change->size = c.end - (reader->buf.data + reader->pos);
	reader->pos += change->size;
	return 1;
}
