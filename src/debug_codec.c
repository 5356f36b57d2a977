/*-------------------------------------------------------------------------
 *
 * debug_codec.c
 *		SQL functions that encode and decode one value, for tests.
 *
 * Not in the install script: a test creates those that it needs.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#ifdef COZE_TESTING

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "base/codec.h"
#include "compat.h"
#include "compat.h"

PG_FUNCTION_INFO_V1(coze_debug_is_binary);
PG_FUNCTION_INFO_V1(coze_debug_encode);
PG_FUNCTION_INFO_V1(coze_debug_decode);
PG_FUNCTION_INFO_V1(coze_debug_roundtrip);

/* debug_is_binary(anyelement) -> bool: how values of the type travel */
Datum
coze_debug_is_binary(PG_FUNCTION_ARGS)
{
	CozeCodec  *codec = coze_codec_make(get_fn_expr_argtype(fcinfo->flinfo, 0), -1);

	PG_RETURN_BOOL(coze_codec_is_binary(codec));
}

/* debug_encode(anyelement) -> bytea: its bytes on the wire, with their length */
Datum
coze_debug_encode(PG_FUNCTION_ARGS)
{
	CozeCodec  *codec = coze_codec_make(get_fn_expr_argtype(fcinfo->flinfo, 0), -1);
	CozeBuf		buf;
	bytea	   *result;

	coze_buf_init(&buf);
	coze_codec_put(codec, &buf, PG_ARGISNULL(0) ? (Datum) 0 : PG_GETARG_DATUM(0),
				   PG_ARGISNULL(0));
	result = (bytea *) palloc(VARHDRSZ + buf.size);
	SET_VARSIZE(result, VARHDRSZ + buf.size);
	memcpy(VARDATA(result), buf.data, buf.size);
	coze_buf_free(&buf);
	PG_RETURN_BYTEA_P(result);
}

/* The one value that encoded bytes hold. */
static CozeValue
only_value(const char *data, Size size)
{
	CozeValue	value;
	uint8		first = size > 0 ? (uint8) data[0] : COZE_VALUE_NULL;
	Size		header = 1;

	value.size = first;
	if (first == COZE_VALUE_NULL)
		value.size = -1;
	else if (first == COZE_VALUE_SIZE16)
	{
		value.size = coze_load_u16(data + 1);
		header = 3;
	}
	else if (first == COZE_VALUE_SIZE32)
	{
		value.size = coze_load_u32(data + 1);
		header = 5;
	}
	value.data = data + header;
	if (header + Max(value.size, 0) != size)
		elog(ERROR, "not the bytes of one value");
	return value;
}

/* debug_decode(bytes bytea, anyelement, as_binary bool, typmod int) -> anyelement */
Datum
coze_debug_decode(PG_FUNCTION_ARGS)
{
	bytea	   *bytes = PG_GETARG_BYTEA_PP(0);
	CozeCodec  *codec = coze_codec_make(get_fn_expr_argtype(fcinfo->flinfo, 1),
										PG_GETARG_INT32(3));
	CozeValue	value = only_value(VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
	bool		isnull;
	Datum		result = coze_codec_get(codec, PG_GETARG_BOOL(2), &value, &isnull);

	if (isnull)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(result);
}

/* debug_roundtrip(anyelement) -> anyelement */
Datum
coze_debug_roundtrip(PG_FUNCTION_ARGS)
{
	CozeCodec  *codec = coze_codec_make(get_fn_expr_argtype(fcinfo->flinfo, 0), -1);
	CozeBuf		buf;
	CozeValue	value;
	bool		isnull;
	Datum		result;

	coze_buf_init(&buf);
	coze_codec_put(codec, &buf, PG_ARGISNULL(0) ? (Datum) 0 : PG_GETARG_DATUM(0),
				   PG_ARGISNULL(0));
	value = only_value(buf.data, buf.size);
	result = coze_codec_get(codec, coze_codec_is_binary(codec), &value, &isnull);
	/* what was decoded must not point into what it was decoded from */
	memset(buf.data, 0x7f, buf.size);
	coze_buf_free(&buf);
	if (isnull)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(result);
}

#endif							/* COZE_TESTING */
