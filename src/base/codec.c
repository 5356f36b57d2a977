/*-------------------------------------------------------------------------
 *
 * codec.c
 *		Values of PostgreSQL types to bytes of the wire and back.
 *
 * Equal rows should be equal bytes on every node and in every session, so no
 * setting may show in them.  Common types have encoders here that depend on
 * nothing; other binary forms can depend on client_encoding alone, which is
 * swapped for the encoding of the database around the call; text can depend on
 * more, which is set in a nested level of settings that an error unwinds.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "pgtime.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/bytea.h"
#include "utils/float.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/pg_locale.h"
#include "utils/syscache.h"
#include "utils/uuid.h"
#include "utils/xml.h"

#include "base/codec.h"
#include "compat.h"

/* How the bytes of a value are made. */
typedef enum CozeCodecForm
{
	COZE_FORM_BOOL,				/* one byte, 0 or 1 */
	COZE_FORM_CHAR,				/* one byte */
	COZE_FORM_INT2,				/* as many bytes as the number needs, of two */
	COZE_FORM_INT4,				/* of four */
	COZE_FORM_INT8,				/* of eight */
	COZE_FORM_OID,				/* four bytes */
	COZE_FORM_FLOAT4,			/* four bytes */
	COZE_FORM_FLOAT8,			/* eight bytes */
	COZE_FORM_DATE,				/* four bytes, with a range to be checked */
	COZE_FORM_TIMESTAMP,		/* eight bytes, with a range and a precision */
	COZE_FORM_UUID,				/* sixteen bytes */
	COZE_FORM_NAME,				/* characters of a name */
	COZE_FORM_BYTES,			/* a varlena's bytes */
	COZE_FORM_CHARACTERS,		/* a varlena's bytes, which are characters */
	COZE_FORM_SEND,				/* the type's send and receive functions */
	COZE_FORM_TEXT,				/* the type's output and input functions */
} CozeCodecForm;

struct CozeCodec
{
	CozeCodecForm form;
	Oid			typid;			/* as declared, perhaps a domain */
	Oid			base_typid;
	int32		typmod;			/* of the base type */
	MemoryContext context;		/* in which the codec lives */
	void	   *domain_extra;	/* cache of domain_check() */

	/* Looked up when first used: fn_oid is 0 until then. */
	FmgrInfo	encode;			/* send or output function */
	FmgrInfo	receive;
	FmgrInfo	input;
	Oid			receive_param;
	Oid			input_param;

	/* The last jsonb: what a row is in one operation it was before the next. */
	Size		last_size;		/* 0: none */
	char	   *last_bytes;
	struct varlena *last_value;
};

/* Larger ones are parsed again. */
#define LAST_BYTES_MAX 1024

/* --- which form -------------------------------------------------------------- */

/* Types that stand for an object of this database by its OID. */
static bool
is_object_reference(Oid typid)
{
	switch (typid)
	{
		case REGPROCOID:
		case REGPROCEDUREOID:
		case REGOPEROID:
		case REGOPERATOROID:
		case REGCLASSOID:
		case REGTYPEOID:
		case REGROLEOID:
		case REGNAMESPACEOID:
		case REGCOLLATIONOID:
		case REGCONFIGOID:
		case REGDICTIONARYOID:
#ifdef REGDATABASEOID
		case REGDATABASEOID:
#endif
			return true;
	}
	return false;
}

static bool
has_binary_functions(Oid typid)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(typid));
	Form_pg_type type;
	bool		result;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", typid);
	type = (Form_pg_type) GETSTRUCT(tuple);
	result = OidIsValid(type->typsend) && OidIsValid(type->typreceive);
	ReleaseSysCache(tuple);
	return result;
}

/*
 * Does the type's binary format mean the same on every node?
 *
 * An array's format holds the OID of its element type, which is the same
 * everywhere only if it was assigned by hand; a composite's those of its
 * columns.  Ranges hold none.  xml is left out, as it is received according to
 * xmloption.
 */
static bool
binary_is_portable(Oid typid)
{
	Oid			element;

	check_stack_depth();
	typid = getBaseType(typid);
	switch (get_typtype(typid))
	{
		case TYPTYPE_BASE:
			break;
		case TYPTYPE_ENUM:
			return true;
		case TYPTYPE_RANGE:
			return binary_is_portable(get_range_subtype(typid));
		case TYPTYPE_MULTIRANGE:
			return binary_is_portable(get_multirange_range(typid));
		default:
			return false;
	}
	if (is_object_reference(typid) || typid == XMLOID || !has_binary_functions(typid))
		return false;
	element = get_element_type(typid);
	if (OidIsValid(element))
		return element < FirstGenbkiObjectId && binary_is_portable(element);
	return true;
}

static CozeCodecForm
choose_form(Oid base_typid)
{
	switch (base_typid)
	{
		case BOOLOID:
			return COZE_FORM_BOOL;
		case CHAROID:
			return COZE_FORM_CHAR;
		case INT2OID:
			return COZE_FORM_INT2;
		case INT4OID:
			return COZE_FORM_INT4;
		case FLOAT4OID:
			return COZE_FORM_FLOAT4;
		case OIDOID:
			return COZE_FORM_OID;
		case INT8OID:
			return COZE_FORM_INT8;
		case FLOAT8OID:
			return COZE_FORM_FLOAT8;
		case DATEOID:
			return COZE_FORM_DATE;
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			return COZE_FORM_TIMESTAMP;
		case UUIDOID:
			return COZE_FORM_UUID;
		case NAMEOID:
			return COZE_FORM_NAME;
		case BYTEAOID:
			return COZE_FORM_BYTES;
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case JSONOID:
		case XMLOID:
			return COZE_FORM_CHARACTERS;
	}
	return binary_is_portable(base_typid) ? COZE_FORM_SEND : COZE_FORM_TEXT;
}

CozeCodec *
coze_codec_make(Oid typid, int32 typmod)
{
	CozeCodec  *codec = palloc0(sizeof(CozeCodec));
	Oid			function;
	bool		is_varlena;

	codec->typid = typid;
	codec->typmod = typmod;
	codec->base_typid = getBaseTypeAndTypmod(typid, &codec->typmod);
	codec->form = choose_form(codec->base_typid);
	codec->context = CurrentMemoryContext;
	if (codec->form == COZE_FORM_SEND)
		getTypeBinaryOutputInfo(codec->base_typid, &function, &is_varlena);
	else if (codec->form == COZE_FORM_TEXT)
		getTypeOutputInfo(codec->base_typid, &function, &is_varlena);
	else
		return codec;
	fmgr_info(function, &codec->encode);
	return codec;
}

bool
coze_codec_is_binary(const CozeCodec *codec)
{
	return codec->form != COZE_FORM_TEXT;
}

/* --- settings ------------------------------------------------------------------ */

static void
set_for_now(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/*
 * Set everything that output and input functions look at, where it is not so
 * already.  Returns the level for leave_text_settings().
 *
 * pg_temp stands last in the path, so that names of the catalog mean the catalog.
 */
static int
enter_text_settings(void)
{
	static const char path[] = "pg_catalog, pg_temp";
	int			level = NewGUCNestLevel();

	if (DateStyle != USE_ISO_DATES)
		set_for_now("datestyle", "ISO");
	if (IntervalStyle != INTSTYLE_POSTGRES)
		set_for_now("intervalstyle", "postgres");
	if (extra_float_digits < 1)
		set_for_now("extra_float_digits", "1");
	if (bytea_output != BYTEA_OUTPUT_HEX)
		set_for_now("bytea_output", "hex");
	if (xmloption != XMLOPTION_CONTENT)
		set_for_now("xmloption", "content");
	if (!Array_nulls)
		set_for_now("array_nulls", "on");
	if (quote_all_identifiers)
		set_for_now("quote_all_identifiers", "off");
	if (strcmp(locale_monetary, "C") != 0)
		set_for_now("lc_monetary", "C");
	if (strcmp(pg_get_timezone_name(session_timezone), "UTC") != 0)
		set_for_now("timezone", "UTC");
	if (strcmp(namespace_search_path, path) != 0)
		set_for_now("search_path", path);
	return level;
}

static void
leave_text_settings(int level)
{
	AtEOXact_GUC(true, level);
}

/*
 * The session's client_encoding while binary functions run, which convert to it
 * and from it.  It is swapped below the setting, so that nothing is reported to
 * the client, and must be back before an error is.
 */
static void
swap_client_encoding(int encoding)
{
	if (SetClientEncoding(encoding) < 0)
		elog(ERROR, "could not set the client encoding to %d", encoding);
}

static bytea *
call_send(CozeCodec *codec, Datum value)
{
	int			client_encoding = pg_get_client_encoding();
	bytea	   *result;

	if (client_encoding == GetDatabaseEncoding())
		return SendFunctionCall(&codec->encode, value);

	swap_client_encoding(GetDatabaseEncoding());
	PG_TRY();
	{
		result = SendFunctionCall(&codec->encode, value);
	}
	PG_FINALLY();
	{
		swap_client_encoding(client_encoding);
	}
	PG_END_TRY();
	return result;
}

static Datum
call_receive(CozeCodec *codec, StringInfo bytes)
{
	int			client_encoding = pg_get_client_encoding();
	Datum		result;

	if (client_encoding == GetDatabaseEncoding())
		return ReceiveFunctionCall(&codec->receive, bytes, codec->receive_param, codec->typmod);

	swap_client_encoding(GetDatabaseEncoding());
	PG_TRY();
	{
		result = ReceiveFunctionCall(&codec->receive, bytes, codec->receive_param, codec->typmod);
	}
	PG_FINALLY();
	{
		swap_client_encoding(client_encoding);
	}
	PG_END_TRY();
	return result;
}

/* --- encoding ------------------------------------------------------------------- */

static inline void
put_varlena(CozeBuf *buf, Datum value)
{
	struct varlena *original = (struct varlena *) DatumGetPointer(value);
	struct varlena *plain = pg_detoast_datum_packed(original);

	coze_wire_put_value(buf, VARDATA_ANY(plain), VARSIZE_ANY_EXHDR(plain));
	if (plain != original)
		pfree(plain);
}

static void
put_send(CozeCodec *codec, CozeBuf *buf, Datum value)
{
	bytea	   *bytes = call_send(codec, value);

	coze_wire_put_value(buf, VARDATA(bytes), VARSIZE(bytes) - VARHDRSZ);
	pfree(bytes);
}

static void
put_text(CozeCodec *codec, CozeBuf *buf, Datum value)
{
	int			level = enter_text_settings();
	char	   *text = OutputFunctionCall(&codec->encode, value);

	leave_text_settings(level);
	coze_wire_put_value(buf, text, strlen(text));
	pfree(text);
}

/* Room for a value of a fixed size, its size written. */
static inline char *
put_fixed(CozeBuf *buf, uint8 size)
{
	char	   *p;

	coze_buf_reserve(buf, 1 + 16);
	p = buf->data + buf->size;
	*p = (char) size;
	buf->size += 1 + size;
	return p + 1;
}

/* Bytes that a number needs, its sign among them. */
static inline int
integer_size(int64 value)
{
	uint64		magnitude = (uint64) (value < 0 ? ~value : value);

	return magnitude == 0 ? 1 : (pg_leftmost_one_pos64(magnitude) + 1) / 8 + 1;
}

/* The last bytes of a number, without those that only repeat its sign. */
static inline void
put_integer(CozeBuf *buf, int64 value)
{
	int			size = integer_size(value);

	coze_store_u64(put_fixed(buf, size), (uint64) value << (64 - 8 * size));
}

void
coze_codec_put(CozeCodec *codec, CozeBuf *buf, Datum value, bool isnull)
{
	if (isnull)
	{
		coze_wire_put_null(buf);
		return;
	}
	switch (codec->form)
	{
		case COZE_FORM_BOOL:
			*put_fixed(buf, 1) = DatumGetBool(value) ? 1 : 0;
			break;
		case COZE_FORM_CHAR:
			*put_fixed(buf, 1) = DatumGetChar(value);
			break;
		case COZE_FORM_INT2:
			put_integer(buf, DatumGetInt16(value));
			break;
		case COZE_FORM_INT4:
			put_integer(buf, DatumGetInt32(value));
			break;
		case COZE_FORM_INT8:
			put_integer(buf, DatumGetInt64(value));
			break;
		case COZE_FORM_FLOAT4:
		case COZE_FORM_DATE:
			coze_store_u32(put_fixed(buf, 4), (uint32) DatumGetInt32(value));
			break;
		case COZE_FORM_OID:
			coze_store_u32(put_fixed(buf, 4), DatumGetObjectId(value));
			break;
		case COZE_FORM_FLOAT8:
		case COZE_FORM_TIMESTAMP:
			coze_store_u64(put_fixed(buf, 8), (uint64) DatumGetInt64(value));
			break;
		case COZE_FORM_UUID:
			memcpy(put_fixed(buf, UUID_LEN), DatumGetPointer(value), UUID_LEN);
			break;
		case COZE_FORM_NAME:
			coze_wire_put_value(buf, NameStr(*DatumGetName(value)),
								strnlen(NameStr(*DatumGetName(value)), NAMEDATALEN));
			break;
		case COZE_FORM_BYTES:
		case COZE_FORM_CHARACTERS:
			put_varlena(buf, value);
			break;
		case COZE_FORM_SEND:
			put_send(codec, buf, value);
			break;
		case COZE_FORM_TEXT:
			put_text(codec, buf, value);
			break;
	}
}

/* --- decoding -------------------------------------------------------------------- */

/* The one error for bytes that are no value of the type. */
static void
refuse(const CozeCodec *codec)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
			 errmsg("received bytes are not a valid value of type %s",
					format_type_be(codec->base_typid))));
}

static inline const char *
expect_size(const CozeCodec *codec, const CozeValue *value, int64 size)
{
	if (value->size != size)
		refuse(codec);
	return value->data;
}

/* A number of at most that many bytes, in no more than it needs. */
static inline int64
get_integer(const CozeCodec *codec, const CozeValue *value, int64 max_size)
{
	char		bytes[8] = {0};
	int64		result;

	if (value->size < 1 || value->size > max_size)
		refuse(codec);
	memcpy(bytes, value->data, value->size);
	result = (int64) coze_load_u64(bytes) >> (64 - 8 * value->size);
	if (integer_size(result) != value->size)
		refuse(codec);
	return result;
}

/* Characters must be of our encoding, and none of them NUL. */
static void
check_characters(const CozeValue *value)
{
	(void) pg_verifymbstr(value->data, (int) value->size, false);
}

static Datum
get_varlena(const CozeValue *value)
{
	struct varlena *result = palloc(VARHDRSZ + value->size);

	SET_VARSIZE(result, VARHDRSZ + value->size);
	memcpy(VARDATA(result), value->data, value->size);
	return PointerGetDatum(result);
}

static Datum
get_characters(const CozeCodec *codec, const CozeValue *value)
{
	Datum		result;

	check_characters(value);
	result = get_varlena(value);
	if (codec->typmod < 0)
		return result;
	/* The column here may be shorter, or padded to more, than at the author's. */
	if (codec->base_typid == VARCHAROID)
		return DirectFunctionCall3(varchar, result, Int32GetDatum(codec->typmod),
								   BoolGetDatum(false));
	if (codec->base_typid == BPCHAROID)
		return DirectFunctionCall3(bpchar, result, Int32GetDatum(codec->typmod),
								   BoolGetDatum(false));
	return result;
}

static Datum
get_name(const CozeCodec *codec, const CozeValue *value)
{
	char	   *name;

	if (value->size >= NAMEDATALEN)
		refuse(codec);
	check_characters(value);
	name = palloc0(NAMEDATALEN);
	memcpy(name, value->data, value->size);
	return PointerGetDatum(name);
}

/* Is it what was parsed last?  The result depends on the bytes alone. */
static bool
is_last(const CozeCodec *codec, const CozeValue *value)
{
	return codec->last_size > 0 && codec->last_size == (Size) value->size &&
		memcmp(codec->last_bytes, value->data, codec->last_size) == 0;
}

static void
remember_last(CozeCodec *codec, const CozeValue *value, Datum result)
{
	struct varlena *jsonb = (struct varlena *) DatumGetPointer(result);
	Size		size = VARSIZE_ANY(jsonb);

	if (value->size == 0 || value->size > LAST_BYTES_MAX || size > 4 * LAST_BYTES_MAX)
		return;
	if (codec->last_bytes == NULL)
	{
		codec->last_bytes = MemoryContextAlloc(codec->context, LAST_BYTES_MAX);
		codec->last_value = MemoryContextAlloc(codec->context, 4 * LAST_BYTES_MAX);
	}
	memcpy(codec->last_bytes, value->data, value->size);
	memcpy(codec->last_value, jsonb, size);
	codec->last_size = value->size;
}

static Datum
get_received(CozeCodec *codec, const CozeValue *value)
{
	StringInfoData bytes;
	Datum		result;

	if (!OidIsValid(codec->receive.fn_oid))
	{
		Oid			function;

		getTypeBinaryInputInfo(codec->base_typid, &function, &codec->receive_param);
		fmgr_info_cxt(function, &codec->receive, codec->context);
	}

	/* A copy: receive functions may write into their input and one byte beyond. */
	bytes.data = palloc(value->size + 1);
	memcpy(bytes.data, value->data, value->size);
	bytes.data[value->size] = '\0';
	bytes.len = (int) value->size;
	bytes.maxlen = bytes.len + 1;
	bytes.cursor = 0;
	result = call_receive(codec, &bytes);
	if (bytes.cursor != bytes.len)
		refuse(codec);
	return result;
}

static Datum
get_jsonb(CozeCodec *codec, const CozeValue *value)
{
	Datum		result;

	if (is_last(codec, value))
		return PointerGetDatum(memcpy(palloc(VARSIZE_ANY(codec->last_value)), codec->last_value,
									  VARSIZE_ANY(codec->last_value)));
	result = get_received(codec, value);
	remember_last(codec, value, result);
	return result;
}

static Datum
get_input(CozeCodec *codec, const CozeValue *value)
{
	int			level;
	Datum		result;

	if (!OidIsValid(codec->input.fn_oid))
	{
		Oid			function;

		getTypeInputInfo(codec->base_typid, &function, &codec->input_param);
		fmgr_info_cxt(function, &codec->input, codec->context);
	}
	check_characters(value);
	level = enter_text_settings();
	result = InputFunctionCall(&codec->input, pnstrdup(value->data, value->size),
							   codec->input_param, codec->typmod);
	leave_text_settings(level);
	return result;
}

static Datum
get_binary(CozeCodec *codec, const CozeValue *value)
{
	switch (codec->form)
	{
		case COZE_FORM_BOOL:
			return BoolGetDatum(*expect_size(codec, value, 1) != 0);
		case COZE_FORM_CHAR:
			return CharGetDatum(*expect_size(codec, value, 1));
		case COZE_FORM_INT2:
			return Int16GetDatum((int16) get_integer(codec, value, 2));
		case COZE_FORM_INT4:
			return Int32GetDatum((int32) get_integer(codec, value, 4));
		case COZE_FORM_INT8:
			return Int64GetDatum(get_integer(codec, value, 8));
		case COZE_FORM_FLOAT4:
			return Int32GetDatum((int32) coze_load_u32(expect_size(codec, value, 4)));
		case COZE_FORM_OID:
			return ObjectIdGetDatum(coze_load_u32(expect_size(codec, value, 4)));
		case COZE_FORM_FLOAT8:
			return Int64GetDatum((int64) coze_load_u64(expect_size(codec, value, 8)));
		case COZE_FORM_UUID:
			return PointerGetDatum(memcpy(palloc(UUID_LEN),
										  expect_size(codec, value, UUID_LEN), UUID_LEN));
		case COZE_FORM_NAME:
			return get_name(codec, value);
		case COZE_FORM_BYTES:
			return get_varlena(value);
		case COZE_FORM_CHARACTERS:
			return get_characters(codec, value);
		case COZE_FORM_DATE:
		case COZE_FORM_TIMESTAMP:
		case COZE_FORM_SEND:
			return codec->base_typid == JSONBOID ? get_jsonb(codec, value) : get_received(codec, value);
		case COZE_FORM_TEXT:
			break;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
			 errmsg("values of type %s cannot be received in binary format",
					format_type_be(codec->base_typid)),
			 errdetail("The binary format would hold OIDs of the other database."),
			 errhint("Make the type the same on every node.")));
	return (Datum) 0;
}

Datum
coze_codec_get(CozeCodec *codec, bool binary, const CozeValue *value, bool *isnull)
{
	Datum		result = (Datum) 0;

	*isnull = value->size < 0;
	if (!*isnull)
	{
		if (value->size > (int64) (MaxAllocSize - VARHDRSZ - 1))
			refuse(codec);
		result = binary ? get_binary(codec, value) : get_input(codec, value);
	}
	if (codec->typid != codec->base_typid)
		domain_check(result, *isnull, codec->typid, &codec->domain_extra, codec->context);
	return result;
}

/* --- names of descriptors ---------------------------------------------------------- */

uint64
coze_codec_descriptor_hash(const char *data, Size size)
{
	uint8		digest[PG_SHA256_DIGEST_LENGTH];
	pg_cryptohash_ctx *context = pg_cryptohash_create(PG_SHA256);
	uint64		hash;

	if (context == NULL ||
		pg_cryptohash_init(context) < 0 ||
		pg_cryptohash_update(context, (const uint8 *) data, size) < 0 ||
		pg_cryptohash_final(context, digest, sizeof(digest)) < 0)
		elog(ERROR, "could not compute a SHA-256");
	pg_cryptohash_free(context);
	hash = coze_load_u64((const char *) digest);
	return hash != 0 ? hash : 1;
}
