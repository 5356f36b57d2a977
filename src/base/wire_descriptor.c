/*-------------------------------------------------------------------------
 *
 * wire_descriptor.c
 *		Relation descriptors: what the columns of a change's relation are.
 *
 * A descriptor is named by the hash of its bytes, so there is one way to write
 * down a given relation.
 *
 * Pure.
 *
 *-------------------------------------------------------------------------
 */
#include "base/wire_read.h"

#define KNOWN_COLUMN_FLAGS COZE_COLUMN_BINARY

/* three names with a length byte and at least one more, typmod, flags */
#define COLUMN_MIN_SIZE (3 * 2 + 4 + 1)

/* A name: its length in one byte, then it, without an end mark. */
static void
put_name(CozeBuf *buf, const char *name)
{
	Size		size = strlen(name);

	if (size > UINT8_MAX)
		coze_buf_too_large();
	coze_buf_put_u8(buf, (uint8) size);
	coze_buf_put(buf, name, size);
}

void
coze_wire_put_descriptor(CozeBuf *buf, const CozeDescriptor *descriptor)
{
	coze_buf_put_u8(buf, COZE_WIRE_VERSION);
	put_name(buf, descriptor->schema);
	put_name(buf, descriptor->table);
	coze_buf_put_u8(buf, (uint8) descriptor->nkeys);
	coze_buf_put_u16(buf, (uint16) descriptor->ncolumns);
	for (int i = 0; i < descriptor->ncolumns; i++)
	{
		const CozeDescriptorColumn *column = &descriptor->columns[i];

		put_name(buf, column->name);
		put_name(buf, column->type_schema);
		put_name(buf, column->type_name);
		coze_buf_put_u32(buf, (uint32) column->typmod);
		coze_buf_put_u8(buf, column->flags);
	}
}

/*
 * Read a name into *text, which moves on behind its end mark.  A name needs no
 * more room there than in the input, where its length takes a byte.
 */
static const char *
read_name(CozeCursor *c, char **text)
{
	Size		size = coze_read_u8(c);
	const char *bytes = coze_read_bytes(c, size);
	char	   *name = *text;

	if (bytes == NULL || size == 0 || memchr(bytes, '\0', size) != NULL)
	{
		c->failed = true;
		return NULL;
	}
	memcpy(name, bytes, size);
	name[size] = '\0';
	*text += size + 1;
	return name;
}

void
coze_wire_free_descriptor(CozeDescriptor *descriptor)
{
	/* schema is the first of all names, which lie in one piece */
	coze_free((void *) descriptor->schema);
	coze_free(descriptor->columns);
	memset(descriptor, 0, sizeof(*descriptor));
}

/* Returns NULL, or what is wrong; then the caller frees what was allocated. */
static const char *
read_descriptor(CozeCursor *c, char *text, CozeDescriptor *descriptor)
{
	int			ncolumns;

	if (coze_read_u8(c) != COZE_WIRE_VERSION)
		return "the descriptor has an unknown wire version";
	descriptor->schema = text;
	read_name(c, &text);
	descriptor->table = read_name(c, &text);
	descriptor->nkeys = coze_read_u8(c);
	ncolumns = coze_read_u16(c);
	if (c->failed || coze_cursor_left(c) / COLUMN_MIN_SIZE < (Size) ncolumns)
		return "the descriptor is cut off";
	if (descriptor->nkeys == 0 || descriptor->nkeys > ncolumns)
		return "the descriptor's key does not fit its columns";
	descriptor->ncolumns = ncolumns;
	descriptor->columns = coze_alloc0(ncolumns * sizeof(CozeDescriptorColumn));
	for (int i = 0; i < ncolumns; i++)
	{
		CozeDescriptorColumn *column = &descriptor->columns[i];

		column->name = read_name(c, &text);
		column->type_schema = read_name(c, &text);
		column->type_name = read_name(c, &text);
		column->typmod = (int32) coze_read_u32(c);
		column->flags = coze_read_u8(c);
		if (c->failed || (column->flags & ~KNOWN_COLUMN_FLAGS) != 0)
			return "the descriptor has an invalid column";
	}
	if (coze_cursor_left(c) != 0)
		return "the descriptor is longer than it should be";
	return NULL;
}

const char *
coze_wire_get_descriptor(const char *data, Size size, CozeDescriptor *descriptor)
{
	CozeCursor	c = coze_cursor(data, size);
	char	   *text = coze_alloc(size);
	const char *error;

	memset(descriptor, 0, sizeof(*descriptor));
	error = read_descriptor(&c, text, descriptor);
	if (error != NULL)
	{
		descriptor->schema = text;
		coze_wire_free_descriptor(descriptor);
	}
	return error;
}
