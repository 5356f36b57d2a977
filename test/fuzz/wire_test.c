/*-------------------------------------------------------------------------
 *
 * wire_test.c
 *		The wire format: random things there and back, and known bytes.
 *
 * Prints TAP.  With a folder as argument it writes what its encoders made there
 * instead, one folder a fuzz target: the seeds of the fuzzers.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <sys/stat.h>

#include "base/wire_read.h"

#define ROUNDS 20000
#define SEEDS 200

static uint64 state = 0x9E3779B97F4A7C15ULL;
static const char *seed_folder = NULL;

static uint64
random_u64(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state * 0x2545F4914F6CDD1DULL;
}

static uint32
pick(uint32 below)
{
	return (uint32) (random_u64() >> 32) % below;
}

/* --- TAP ---------------------------------------------------------------------- */

static int	ntests = 0;
static int	nfailed = 0;

static void
ok(bool passed, const char *name)
{
	ntests++;
	nfailed += !passed;
	if (seed_folder == NULL)
		printf("%sok %d - %s\n", passed ? "" : "not ", ntests, name);
}

/* An error, or none, as expected? */
static void
is_error(const char *error, const char *expected, const char *name)
{
	bool		passed = error == NULL ? expected == NULL :
		expected != NULL && strstr(error, expected) != NULL;

	ok(passed, name);
	if (!passed && seed_folder == NULL)
		printf("# got: %s\n", error ? error : "no error");
}

static void
write_seed(const char *target, int number, const CozeBuf *buf, int first_byte)
{
	char		path[1024];
	FILE	   *file;

	snprintf(path, sizeof(path), "%s/%s", seed_folder, target);
	(void) mkdir(path, 0777);
	snprintf(path, sizeof(path), "%s/%s/%03d", seed_folder, target, number);
	file = fopen(path, "wb");
	if (file == NULL)
		abort();
	if (first_byte >= 0)
		fputc(first_byte, file);
	if (buf->size > 0)
		fwrite(buf->data, 1, buf->size, file);
	fclose(file);
}

/* --- random things -------------------------------------------------------------- */

static CozeOrigin
random_origin(void)
{
	return (pick(2) ? random_u64() >> 1 : pick(1000)) | 1;
}

static CozeHlc
random_hlc(void)
{
	return 1 + (CozeHlc) (random_u64() >> (2 + pick(40)));
}

/* Below an hlc, without an origin; zeroes are among them. */
static CozeVector
random_vector(CozeHlc below, CozeOrigin without)
{
	CozeVector	v;

	coze_vector_init(&v);
	for (uint32 n = pick(6); n > 0; n--)
	{
		CozeOrigin	origin = random_origin();

		if (origin != without)
			coze_vector_set(&v, origin, pick(8) == 0 ? 0 : (CozeHlc) (random_u64() % (uint64) below));
	}
	return v;
}

static char pool[200000];

static CozeValue
random_value(void)
{
	static const int64 sizes[] = {0, 1, 4, 8, 16, 249, 250, 251, 252, 300, 65535, 65536, 100000};
	CozeValue	value = {NULL, -1};

	if (pick(6) == 0)
		return value;
	value.size = pick(20) == 0 && seed_folder == NULL ? sizes[pick(13)] : sizes[pick(5)];
	value.data = pool + pick((uint32) (sizeof(pool) - value.size));
	return value;
}

/* values must stay as long as the image */
static CozeImage
random_image(CozeValue *values, int n)
{
	CozeImage	image = {n, values};

	for (int i = 0; i < n; i++)
		values[i] = random_value();
	return image;
}

#define MAX_VALUES 8

/* A change with room for what it points to. */
typedef struct TestChange
{
	CozeChange	change;
	CozeValue	values[5][MAX_VALUES];
	uint16		columns[MAX_VALUES];
} TestChange;

static void
random_change(TestChange *test, const CozeChangeContext *before)
{
	static const CozeChangeKind kinds[] = {COZE_CHANGE_INSERT, COZE_CHANGE_UPDATE,
	COZE_CHANGE_DELETE, COZE_CHANGE_TRUNCATE, COZE_CHANGE_SUPERSEDED};
	CozeChange *change = &test->change;
	uint8		old = (uint8) (pick(4) << 2);

	if (pick(2))
		old |= COZE_CHANGE_OLD_ROW | (pick(2) ? COZE_CHANGE_OLD_OWN : 0);
	memset(test, 0, sizeof(*test));
	change->kind = kinds[pick(5)];
	switch (change->kind)
	{
		case COZE_CHANGE_INSERT:
			change->flags = COZE_CHANGE_NEW_ROW;
			break;
		case COZE_CHANGE_UPDATE:
			change->flags = old | COZE_CHANGE_NEW_ROW;
			break;
		case COZE_CHANGE_DELETE:
			change->flags = COZE_CHANGE_OLD_ROW | (pick(2) ? COZE_CHANGE_OLD_OWN : 0);
			break;
		case COZE_CHANGE_TRUNCATE:
			break;
		case COZE_CHANGE_SUPERSEDED:
			change->flags = old;
			break;
	}
	change->relation = before->relation && pick(3) ? before->relation : random_u64() | 1;
	change->policy = before->policy;
	if (pick(3) == 0)
	{
		change->policy.hlc = pick(2) ? random_hlc() : 0;
		change->policy.origin = change->policy.hlc ? random_origin() : 0;
	}
	if (change->kind != COZE_CHANGE_TRUNCATE)
		change->key = random_image(test->values[0], 1 + pick(3));
	if (change->flags & COZE_CHANGE_OLD_KEY)
		change->old_key = random_image(test->values[1], change->key.n);
	if (change->flags & COZE_CHANGE_NEW_ROW)
		change->new_row = random_image(test->values[2], pick(MAX_VALUES));
	if (change->flags & COZE_CHANGE_OLD_ROW)
		change->old_row = random_image(test->values[3], pick(MAX_VALUES));
	if (change->flags & COZE_CHANGE_OLD_UNIQUE)
	{
		change->nold_unique = 1 + pick(3);
		change->old_unique_columns = test->columns;
		change->old_unique = random_image(test->values[4], change->nold_unique).values;
		for (int i = 0; i < change->nold_unique; i++)
			test->columns[i] = (uint16) random_u64();
	}
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
	Size		begin = coze_wire_begin_change(buf, change->kind, change->flags,
											   change->relation, change->policy, context,
											   change->key.n);

	put_values(buf, &change->key);
	put_values(buf, &change->old_key);
	if (change->flags & COZE_CHANGE_NEW_ROW)
	{
		coze_wire_put_count(buf, change->new_row.n);
		put_values(buf, &change->new_row);
	}
	if (change->flags & COZE_CHANGE_OLD_ROW)
	{
		coze_wire_put_count(buf, change->old_row.n);
		put_values(buf, &change->old_row);
	}
	if (change->flags & COZE_CHANGE_OLD_UNIQUE)
	{
		coze_wire_put_count(buf, change->nold_unique);
		for (int i = 0; i < change->nold_unique; i++)
			coze_wire_put_unique_value(buf, change->old_unique_columns[i],
									   change->old_unique[i].data, change->old_unique[i].size);
	}
	coze_wire_end_change(buf, begin);
}

/* --- there and back --------------------------------------------------------------- */

static bool
same_values(const CozeValue *a, const CozeValue *b, int n)
{
	for (int i = 0; i < n; i++)
	{
		if (a[i].size != b[i].size ||
			(a[i].size > 0 && memcmp(a[i].data, b[i].data, (Size) a[i].size) != 0))
			return false;
	}
	return true;
}

static bool
same_image(const CozeImage *a, const CozeImage *b)
{
	return a->n == b->n && same_values(a->values, b->values, a->n);
}

static bool
same_change(const CozeChange *a, const CozeChange *b)
{
	const uint8 parts = COZE_CHANGE_OLD_KEY | COZE_CHANGE_OLD_UNIQUE |
		COZE_CHANGE_OLD_ROW | COZE_CHANGE_NEW_ROW | COZE_CHANGE_OLD_OWN;

	return a->kind == b->kind && (a->flags & parts) == (b->flags & parts) &&
		a->relation == b->relation && coze_version_equal(a->policy, b->policy) &&
		same_image(&a->key, &b->key) && same_image(&a->old_key, &b->old_key) &&
		same_image(&a->new_row, &b->new_row) && same_image(&a->old_row, &b->old_row) &&
		a->nold_unique == b->nold_unique &&
		same_values(a->old_unique, b->old_unique, a->nold_unique) &&
		(a->nold_unique == 0 || memcmp(a->old_unique_columns, b->old_unique_columns,
									   a->nold_unique * sizeof(uint16)) == 0);
}

/* A body of a few changes, read in pieces of random length. */
static bool
body_returns(int round)
{
	TestChange	tests[4];
	int			n = 1 + pick(4),
				read = 0,
				said;
	CozeChangeContext context = {0};
	CozeChangeReader reader;
	CozeChange	change;
	CozeBuf		buf;
	Size		fed = 0;
	bool		same = true;

	coze_buf_init(&buf);
	for (int i = 0; i < n; i++)
	{
		random_change(&tests[i], &context);
		put_change(&buf, &tests[i].change, &context);
	}
	if (seed_folder != NULL)
		write_seed("change", round, &buf, (int) pick(256));
	coze_wire_reader_init(&reader);
	while (fed < buf.size)
	{
		Size		piece = 1 + pick(pick(2) ? 20 : 5000);

		piece = Min(piece, buf.size - fed);
		coze_wire_reader_feed(&reader, buf.data + fed, piece);
		fed += piece;
		while ((said = coze_wire_reader_next(&reader, &change)) > 0)
			same = same && read < n && same_change(&tests[read++].change, &change);
		same = same && said == 0;
	}
	same = same && read == n && coze_wire_reader_at_end(&reader);
	coze_wire_reader_free(&reader);
	coze_buf_free(&buf);
	return same;
}

/* Equal but for what encoders leave out. */
static bool
same_vector(const CozeVector *a, const CozeVector *b)
{
	return coze_vector_equal(a, b);
}

static bool
head_returns(int round)
{
	CozeEntryHead head = {0},
				back;
	CozeBuf		buf;
	bool		same;

	head.kind = pick(4) ? COZE_ENTRY_DATA : COZE_ENTRY_BEAT;
	head.version.hlc = random_hlc();
	head.version.origin = random_origin();
	head.xid = random_u64();
	head.seen = random_vector(head.version.hlc, head.version.origin);
	if (head.kind == COZE_ENTRY_DATA && pick(4) > 0)
	{
		head.body_size = 7 + pick(500);
		head.nchanges = 1 + pick((uint32) head.body_size / 7);
		if (pick(3) == 0)
			head.nchunks = 1 + pick(7);
		else
		{
			head.inline_body = pool + pick(1000);
			head.inline_size = head.body_size;
		}
	}
	coze_buf_init(&buf);
	coze_wire_put_head(&buf, &head);
	if (seed_folder != NULL)
		write_seed("head", round, &buf, -1);
	same = coze_wire_get_head(buf.data, buf.size, &back) == NULL &&
		back.kind == head.kind && coze_version_equal(back.version, head.version) &&
		back.xid == head.xid && same_vector(&back.seen, &head.seen) &&
		back.nchanges == head.nchanges && back.nchunks == head.nchunks &&
		back.body_size == head.body_size && back.inline_size == head.inline_size &&
		(head.inline_size == 0 ||
		 memcmp(back.inline_body, head.inline_body, head.inline_size) == 0);
	coze_vector_free(&back.seen);
	coze_vector_free(&head.seen);
	if (same)
	{
		/* any flipped bit is noticed */
		buf.data[pick((uint32) buf.size)] ^= (char) (1 << pick(8));
		same = coze_wire_get_head(buf.data, buf.size, &back) != NULL;
	}
	coze_buf_free(&buf);
	return same;
}

static bool
chunk_returns(int round)
{
	CozeChunk	chunk = {random_u64(), pool + pick(1000), 1 + pick(500)},
				back;
	CozeBuf		buf;
	bool		same;

	coze_buf_init(&buf);
	coze_wire_put_chunk(&buf, &chunk);
	if (seed_folder != NULL)
		write_seed("chunk", round, &buf, -1);
	same = coze_wire_get_chunk(buf.data, buf.size, &back) == NULL &&
		back.seq == chunk.seq && back.size == chunk.size &&
		memcmp(back.body, chunk.body, chunk.size) == 0;
	coze_buf_free(&buf);
	return same;
}

static bool
descriptor_returns(int round)
{
	static const char *const names[] = {"public", "users", "id", "größer", "int4", "pg_catalog", "x"};
	CozeDescriptorColumn columns[6];
	CozeDescriptor descriptor = {0, names[pick(7)], names[pick(7)], 0, 1 + pick(6), columns},
				back;
	CozeBuf		buf;
	bool		same;

	descriptor.nkeys = 1 + pick(descriptor.ncolumns);
	for (int i = 0; i < descriptor.ncolumns; i++)
	{
		CozeDescriptorColumn column = {names[pick(7)], names[pick(7)], names[pick(7)],
		(int32) pick(3) - 1, (uint8) pick(2)};

		columns[i] = column;
	}
	coze_buf_init(&buf);
	coze_wire_put_descriptor(&buf, &descriptor);
	if (seed_folder != NULL)
		write_seed("descriptor", round, &buf, -1);
	same = coze_wire_get_descriptor(buf.data, buf.size, &back) == NULL &&
		strcmp(back.schema, descriptor.schema) == 0 &&
		strcmp(back.table, descriptor.table) == 0 &&
		back.nkeys == descriptor.nkeys && back.ncolumns == descriptor.ncolumns;
	for (int i = 0; same && i < back.ncolumns; i++)
		same = strcmp(back.columns[i].name, columns[i].name) == 0 &&
			strcmp(back.columns[i].type_schema, columns[i].type_schema) == 0 &&
			strcmp(back.columns[i].type_name, columns[i].type_name) == 0 &&
			back.columns[i].typmod == columns[i].typmod &&
			back.columns[i].flags == columns[i].flags;
	coze_wire_free_descriptor(&back);
	coze_buf_free(&buf);
	return same;
}

static bool
frames_return(int round)
{
	static const CozeFrameKind kinds[] = {COZE_FRAME_RELATION, COZE_FRAME_ENTRY, COZE_FRAME_CHUNK};
	CozeFrame	frames[4],
				back;
	int			n = pick(5),
				read = 0;
	CozeBuf		buf;
	Size		pos = 0;
	bool		same = true;

	coze_buf_init(&buf);
	for (int i = 0; i < n; i++)
	{
		frames[i].kind = kinds[pick(3)];
		frames[i].prev = frames[i].kind == COZE_FRAME_ENTRY && pick(3) ? random_hlc() : 0;
		frames[i].data = pool + pick(1000);
		frames[i].size = 1 + pick(300);
		coze_wire_put_frame(&buf, &frames[i]);
	}
	if (seed_folder != NULL)
		write_seed("frame", round, &buf, -1);
	while (same && coze_wire_get_frame(buf.data, buf.size, &pos, &back) == NULL &&
		   back.kind != COZE_FRAME_END)
	{
		same = read < n && back.kind == frames[read].kind && back.prev == frames[read].prev &&
			back.size == frames[read].size && memcmp(back.data, frames[read].data, back.size) == 0;
		read++;
	}
	same = same && read == n && pos == buf.size;
	coze_buf_free(&buf);
	return same;
}

static bool
hello_returns(int round)
{
	CozePosition positions[4];
	CozeHello	hello = {.protocol = COZE_WIRE_VERSION, .node_name = "berlin"};
	CozeHello	back;
	CozeBuf		buf;
	bool		same;

	memcpy(hello.group_id, pool + pick(1000), 16);
	hello.origin = random_origin();
	hello.system_identifier = random_u64();
	hello.database_oid = (uint32) random_u64();
	hello.server_version = 150000 + pick(50000);
	hello.instance = random_u64();
	hello.clock = random_hlc();
	hello.held.n = pick(5);
	hello.held.p = positions;
	for (int i = 0; i < hello.held.n; i++)
	{
		positions[i].origin = (i > 0 ? positions[i - 1].origin : 0) + 1 + pick(1000000);
		positions[i].hlc = random_hlc();
		positions[i].crc = (uint32) random_u64();
	}
	coze_buf_init(&buf);
	coze_wire_put_hello(&buf, &hello);
	if (seed_folder != NULL)
		write_seed("hello", round, &buf, -1);
	same = coze_wire_get_hello(buf.data, buf.size, &back) == NULL &&
		back.protocol == hello.protocol && memcmp(back.group_id, hello.group_id, 16) == 0 &&
		back.origin == hello.origin && back.system_identifier == hello.system_identifier &&
		back.database_oid == hello.database_oid && back.server_version == hello.server_version &&
		back.instance == hello.instance &&
		back.clock == hello.clock && strcmp(back.node_name, hello.node_name) == 0 &&
		back.held.n == hello.held.n;
	for (int i = 0; same && i < back.held.n; i++)
		same = back.held.p[i].origin == positions[i].origin &&
			back.held.p[i].hlc == positions[i].hlc && back.held.p[i].crc == positions[i].crc;
	coze_wire_free_hello(&back);
	coze_buf_free(&buf);
	return same;
}

static bool
ack_returns(int round)
{
	CozeAck		ack = {random_hlc(), random_u64(), random_vector(INT64_MAX, 0),
	random_vector(INT64_MAX, 0), random_vector(INT64_MAX, 0)};
	CozeAck		back;
	CozeBuf		buf;
	bool		same;

	coze_buf_init(&buf);
	for (int i = 0; i < ack.leave.n; i++)
		ack.leave.e[i].hlc = 1;
	coze_wire_put_ack(&buf, &ack);
	if (seed_folder != NULL)
		write_seed("ack", round, &buf, -1);
	same = coze_wire_get_ack(buf.data, buf.size, &back) == NULL &&
		back.clock == ack.clock && back.window == ack.window &&
		same_vector(&back.applied, &ack.applied) && same_vector(&back.queued, &ack.queued) &&
		same_vector(&back.leave, &ack.leave);
	coze_wire_free_ack(&back);
	coze_wire_free_ack(&ack);
	coze_buf_free(&buf);
	return same;
}

static void
there_and_back(bool (*returns) (int round), const char *name)
{
	bool		same = true;

	for (int i = 0; same && i < (seed_folder ? SEEDS : ROUNDS); i++)
		same = returns(i);
	ok(same, name);
}

/* --- known bytes, and bytes that must be refused ----------------------------------- */

static void
put_hex(CozeBuf *buf, const char *hex)
{
	unsigned	byte;

	coze_buf_init(buf);
	for (; *hex != '\0'; hex++)
	{
		if (*hex == ' ')
			continue;
		if (sscanf(hex, "%2x", &byte) != 1)
			abort();
		coze_buf_put_u8(buf, (uint8) byte);
		hex++;
	}
}

/* The examples of doc/wire-protocol.md */
static void
known_bytes(void)
{
	CozeVectorEntry seen = {0x22, 99};
	CozeEntryHead head = {.kind = COZE_ENTRY_BEAT,.version = {100, 0x11},.xid = 7,
	.seen = {.n = 1,.e = &seen}};
	CozeVersion none = {0};
	CozeBuf		buf,
				expected;
	Size		begin;

	ok(coze_wire_crc("123456789", 9) == 0xE3069283, "the checksum is CRC-32C");

	coze_buf_init(&buf);
	coze_wire_put_head(&buf, &head);
	put_hex(&expected, "0000000000000011 0000000000000064 01 62 07 01 0000000000000022 01 f7500f6e");
	ok(buf.size == expected.size && memcmp(buf.data, expected.data, buf.size) == 0,
	   "a head is written as the manual says");
	coze_buf_free(&buf);
	coze_buf_free(&expected);

	begin = coze_wire_begin_change(&buf, COZE_CHANGE_INSERT, COZE_CHANGE_NEW_ROW,
								   0x0102030405060708, none, NULL, 1);
	coze_wire_put_value(&buf, "\7", 1);
	coze_wire_put_count(&buf, 2);
	coze_wire_put_value(&buf, "ann", 3);
	coze_wire_put_null(&buf);
	coze_wire_end_change(&buf, begin);
	put_hex(&expected, "49 20 11 0102030405060708 01 01 07 02 03 616e6e fb");
	ok(buf.size == expected.size && memcmp(buf.data, expected.data, buf.size) == 0,
	   "a change is written as the manual says");
	coze_buf_free(&buf);
	coze_buf_free(&expected);
}

/* Decode a head, to which its checksum is added. */
static const char *
head_error(const char *hex)
{
	CozeEntryHead head;
	const char *error;
	CozeBuf		buf;

	put_hex(&buf, hex);
	coze_buf_put_u32(&buf, coze_wire_crc(buf.data, buf.size));
	error = coze_wire_get_head(buf.data, buf.size, &head);
	coze_vector_free(&head.seen);
	coze_buf_free(&buf);
	return error;
}

/* Up to the transaction id. */
#define HEAD(version, kind, origin, hlc) \
	"00000000000000" origin "00000000000000" hlc version kind "07"
#define SEEN(origin, below) "00000000000000" origin below

static void
refused_heads(void)
{
	is_error(head_error(HEAD("01", "62", "11", "64") "01" SEEN("22", "01")), NULL, "a beat");
	is_error(head_error(HEAD("01", "64", "11", "64") "00" "01" "49010100"), NULL, "an entry");
	is_error(head_error(HEAD("01", "63", "11", "64") "00" "01" "01" "07"), NULL,
			 "an entry with its body in chunks");
	is_error(head_error(HEAD("02", "62", "11", "64") "00"), "wire version",
			 "another wire version is refused");
	is_error(head_error(HEAD("01", "65", "11", "64") "00"), "unknown kind",
			 "an unknown kind is refused");
	is_error(head_error(HEAD("01", "62", "00", "64") "00"), "valid version",
			 "an entry without origin is refused");
	is_error(head_error(HEAD("01", "62", "11", "00") "00"), "valid version",
			 "an entry without hlc is refused");
	is_error(head_error(HEAD("01", "62", "11", "64") "01" SEEN("11", "01")), "own origin",
			 "a vector with the own origin is refused");
	is_error(head_error(HEAD("01", "62", "11", "64") "01" SEEN("22", "00")), "not below",
			 "a vector that is not below the hlc is refused");
	is_error(head_error(HEAD("01", "62", "11", "64") "01" SEEN("22", "64")),
			 "invalid entry", "a vector with a zero is refused");
	is_error(head_error(HEAD("01", "62", "11", "64") "02" SEEN("22", "01") SEEN("22", "01")),
			 "invalid entry", "a vector with an origin twice is refused");
	is_error(head_error(HEAD("01", "62", "11", "64") "02" SEEN("23", "01") SEEN("22", "01")),
			 "invalid entry", "an unsorted vector is refused");
	is_error(head_error(HEAD("01", "62", "11", "64") "7f" SEEN("22", "01")), "cut off",
			 "a vector longer than its bytes is refused");
	is_error(head_error(HEAD("01", "62", "11", "64") "01" SEEN("22", "80")), "cut off",
			 "a vector that ends in a number is refused");
	is_error(head_error(HEAD("01", "62", "11", "64") "8000"), "cut off",
			 "a number that is not in its shortest form is refused");
	is_error(head_error(HEAD("01", "62", "11", "64") "00" "00"), "beat",
			 "a beat with a body is refused");
	is_error(head_error(HEAD("01", "63", "11", "64") "00" "01" "01" "07" "00"), "not as long",
			 "a body here and in chunks is refused");
	is_error(head_error(HEAD("01", "63", "11", "64") "00" "01" "00" "07"), "do not fit",
			 "a body in no chunks is refused");
	is_error(head_error(HEAD("01", "64", "11", "64") "00" "02" "00000000000000"), "do not fit",
			 "more changes than fit are refused");
	is_error(head_error(HEAD("01", "64", "11", "64") "00" "00" "00"), "do not fit",
			 "a body without changes is refused");
}

static const char *
change_error(const char *hex)
{
	CozeChangeReader reader;
	CozeChange	change;
	const char *error;
	CozeBuf		buf;
	int			said;

	put_hex(&buf, hex);
	coze_wire_reader_init(&reader);
	coze_wire_reader_feed(&reader, buf.data, buf.size);
	while ((said = coze_wire_reader_next(&reader, &change)) > 0);
	error = said < 0 ? reader.error : coze_wire_reader_at_end(&reader) ? NULL : "half-read";
	coze_wire_reader_free(&reader);
	coze_buf_free(&buf);
	return error;
}

#define RELATION "0102030405060708"

static void
refused_changes(void)
{
	is_error(change_error("49 20 0c" RELATION "01 0107 00"), NULL, "an insert");
	is_error(change_error("49 20 0c" RELATION "01 0107"), "half-read",
			 "a change that is cut off is waited for");
	is_error(change_error("49 20 8c"), "half-read", "a length that is cut off is waited for");
	is_error(change_error("49 20 8c00" RELATION "01 0107 00"), "valid length",
			 "a length that is not in its shortest form is refused");
	is_error(change_error("49 20 ffffffff1f" RELATION "01 0107 00"), "valid length",
			 "a length of more than 32 bits is refused");
	is_error(change_error("49 20 0d" RELATION "01 0107 00 00"), "length",
			 "a change with bytes too many is refused");
	is_error(change_error("49 20 0b" RELATION "01 0107 00"), "length",
			 "a change with bytes too few is refused");
	is_error(change_error("49 21 04" "01 0107 00"), "names no relation",
			 "a first change without relation is refused");
	is_error(change_error("49 00 0b" RELATION "01 0107"), "flags",
			 "an insert without a row is refused");
	is_error(change_error("44 30 0d" RELATION "01 0107 00 00"), "flags",
			 "a delete with a new row is refused");
	is_error(change_error("53 40 0b" RELATION "01 0107"), "flags",
			 "a superseded change with an own old row that is not there is refused");
	is_error(change_error("54 00 0b" RELATION "01 0107"), "key",
			 "a truncate with a key is refused");
	is_error(change_error("49 20 0a" RELATION "00 00"), "key",
			 "an insert without a key is refused");
	is_error(change_error("49 20 0e" RELATION "01 fc000107 00"), "length",
			 "a size that is not in its shortest form is refused");
	is_error(change_error("49 20 0b" RELATION "01 fe 00"), "length",
			 "an unknown size mark is refused");
	is_error(change_error("49 20 0e" RELATION "01 0107 ffff03"), "length",
			 "more values than there are bytes are refused");
	is_error(change_error("49 20 0f" RELATION "01 0107 80808004"), "length",
			 "more values than a row has are refused");
	is_error(change_error("49 a0 0c" RELATION "01 0107 00"), "flags",
			 "an unknown flag is refused");
}

int
main(int argc, char **argv)
{
	for (Size i = 0; i < sizeof(pool); i++)
		pool[i] = (char) random_u64();
	if (argc > 1)
		seed_folder = argv[1];

	there_and_back(head_returns, "heads return, and flipped bits are noticed");
	there_and_back(chunk_returns, "chunks return");
	there_and_back(body_returns, "changes return, in whatever pieces they are read");
	there_and_back(descriptor_returns, "descriptors return");
	there_and_back(frames_return, "frames return");
	there_and_back(hello_returns, "greetings return");
	there_and_back(ack_returns, "acknowledgements return");
	known_bytes();
	refused_heads();
	refused_changes();
	if (seed_folder == NULL)
		printf("1..%d\n", ntests);
	return nfailed > 0;
}
