/*-------------------------------------------------------------------------
 *
 * image.c
 *		Images of the change log as jsonb, for people to look at.
 *
 * Types are found by the names in the descriptor, not through tables, which may
 * have changed or gone.  Values of built-in types become what to_jsonb() makes of
 * them; all others become their text, since casts to json that users made are no
 * business of whoever reads the log.  What cannot be decoded here is shown as hex.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "base/codec.h"
#include "capture/image.h"
#include "log/log.h"

/* How a column is shown. */
typedef enum CozeShownAs
{
	COZE_SHOWN_AS_VALUE,		/* of its own type */
	COZE_SHOWN_AS_OUTPUT,		/* text that the type's output function makes */
	COZE_SHOWN_AS_TEXT,			/* its bytes are text */
	COZE_SHOWN_AS_HEX,			/* of a type that is not known here */
} CozeShownAs;

typedef struct CozeShownColumn
{
	CozeShownAs as;
	Oid			type;
	bool		binary;
	CozeCodec  *codec;
} CozeShownColumn;

typedef struct CozeShownRelation
{
	uint64		hash;			/* hash key */
	CozeDescriptor descriptor;
	CozeShownColumn *columns;
	TupleDesc	key_desc;		/* NULL until needed */
	TupleDesc	row_desc;
} CozeShownRelation;

struct CozeImageReader
{
	MemoryContext context;
	HTAB	   *relations;
	FmgrInfo	to_jsonb;		/* of a record */
};

CozeImageReader *
coze_image_reader_make(void)
{
	CozeImageReader *reader = palloc0(sizeof(CozeImageReader));
	HASHCTL		ctl = {0};
	Node	   *argument = (Node *) makeNullConst(RECORDOID, -1, InvalidOid);

	reader->context = CurrentMemoryContext;
	ctl.keysize = sizeof(uint64);
	ctl.entrysize = sizeof(CozeShownRelation);
	ctl.hcxt = CurrentMemoryContext;
	reader->relations = hash_create("cozesync shown relations", 16, &ctl,
									HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	fmgr_info(F_TO_JSONB, &reader->to_jsonb);
	fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID, list_make1(argument),
											 InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL),
					   &reader->to_jsonb);
	return reader;
}

/* --- relations ---------------------------------------------------------------------- */

static void
choose_shown(CozeShownColumn *shown, const CozeDescriptorColumn *column)
{
	Oid			schema = get_namespace_oid(column->type_schema, true);
	Oid			type = InvalidOid;

	if (OidIsValid(schema))
		type = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
							   CStringGetDatum(column->type_name), ObjectIdGetDatum(schema));
	if (OidIsValid(type))
		type = getBaseType(type);
	shown->binary = (column->flags & COZE_COLUMN_BINARY) != 0;
	shown->type = TEXTOID;
	if (!OidIsValid(type))
		shown->as = shown->binary ? COZE_SHOWN_AS_HEX : COZE_SHOWN_AS_TEXT;
	else if (type < FirstUnpinnedObjectId && (shown->binary || type_is_array(type)))
	{
		shown->as = COZE_SHOWN_AS_VALUE;
		shown->type = type;
	}
	else
		shown->as = shown->binary ? COZE_SHOWN_AS_OUTPUT : COZE_SHOWN_AS_TEXT;
	if (OidIsValid(type))
		shown->codec = coze_codec_make(type, -1);
	if (shown->as == COZE_SHOWN_AS_OUTPUT)
		shown->type = type;
}

static Oid
shown_type(const CozeShownColumn *column)
{
	return column->as == COZE_SHOWN_AS_VALUE ? column->type : TEXTOID;
}

static CozeShownRelation *
find_relation(CozeImageReader *reader, uint64 hash)
{
	bool		found;
	CozeShownRelation *relation = hash_search(reader->relations, &hash, HASH_ENTER, &found);
	MemoryContext old;
	const char *error = "it is not there";
	char	   *data;
	Size		size;

	if (found && relation->columns != NULL)
		return relation;
	relation->columns = NULL;
	relation->key_desc = relation->row_desc = NULL;
	old = MemoryContextSwitchTo(reader->context);
	data = coze_log_get_descriptor(hash, &size);
	if (data != NULL)
		error = coze_wire_get_descriptor(data, size, &relation->descriptor);
	if (error != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("cannot read the descriptor of a relation in the change log"),
				 errdetail_internal("Descriptor " UINT64_FORMAT ": %s.", hash, error)));
	relation->descriptor.hash = hash;
	relation->columns = palloc0(sizeof(CozeShownColumn) * relation->descriptor.ncolumns);
	for (int i = 0; i < relation->descriptor.ncolumns; i++)
		choose_shown(&relation->columns[i], &relation->descriptor.columns[i]);
	MemoryContextSwitchTo(old);
	return relation;
}

const CozeDescriptor *
coze_image_descriptor(CozeImageReader *reader, uint64 hash)
{
	return &find_relation(reader, hash)->descriptor;
}

/* --- values -------------------------------------------------------------------------- */

static Datum
hex_text(const CozeValue *value)
{
	static const char digits[] = "0123456789abcdef";
	char	   *text = palloc(2 * value->size + 3);
	char	   *p = text;

	*p++ = '\\';
	*p++ = 'x';
	for (int64 i = 0; i < value->size; i++)
	{
		*p++ = digits[((uint8) value->data[i]) >> 4];
		*p++ = digits[((uint8) value->data[i]) & 15];
	}
	return PointerGetDatum(cstring_to_text_with_len(text, p - text));
}

static Datum
show_value(const CozeShownColumn *column, const CozeValue *value, bool *isnull)
{
	Datum		datum = (Datum) 0;

	*isnull = value->size < 0;
	if (*isnull)
		return datum;
	switch (column->as)
	{
		case COZE_SHOWN_AS_VALUE:
			datum = coze_codec_get(column->codec, column->binary, value, isnull);
			break;
		case COZE_SHOWN_AS_OUTPUT:
			{
				Oid			function;
				bool		is_varlena;

				datum = coze_codec_get(column->codec, column->binary, value, isnull);
				getTypeOutputInfo(column->type, &function, &is_varlena);
				datum = CStringGetTextDatum(OidOutputFunctionCall(function, datum));
				break;
			}
		case COZE_SHOWN_AS_TEXT:
			datum = PointerGetDatum(cstring_to_text_with_len(value->data, value->size));
			break;
		case COZE_SHOWN_AS_HEX:
			datum = hex_text(value);
			break;
	}
	return datum;
}

/* The type of a record with these columns; made once for keys and for whole rows. */
static TupleDesc
record_type(CozeImageReader *reader, CozeShownRelation *relation, const int *columns, int n)
{
	TupleDesc  *kept = NULL;
	TupleDesc	desc;
	MemoryContext old = CurrentMemoryContext;

	if (columns == NULL && n == relation->descriptor.ncolumns)
		kept = &relation->row_desc;
	else if (columns == NULL && n == relation->descriptor.nkeys)
		kept = &relation->key_desc;
	if (kept != NULL && *kept != NULL)
		return *kept;
	if (kept != NULL)
		MemoryContextSwitchTo(reader->context);
	desc = CreateTemplateTupleDesc(n);
	for (int i = 0; i < n; i++)
	{
		int			c = columns ? columns[i] : i;

		TupleDescInitEntry(desc, i + 1, relation->descriptor.columns[c].name,
						   shown_type(&relation->columns[c]), -1, 0);
	}
	desc = BlessTupleDesc(desc);
	MemoryContextSwitchTo(old);
	if (kept != NULL)
		*kept = desc;
	return desc;
}

Datum
coze_image_jsonb(CozeImageReader *reader, uint64 hash, const CozeValue *values,
				 const int *columns, int n)
{
	CozeShownRelation *relation = find_relation(reader, hash);
	TupleDesc	desc = record_type(reader, relation, columns, n);
	Datum	   *datums = palloc(sizeof(Datum) * n);
	bool	   *isnull = palloc(sizeof(bool) * n);

	for (int i = 0; i < n; i++)
		datums[i] = show_value(&relation->columns[columns ? columns[i] : i], &values[i],
							   &isnull[i]);
	return FunctionCall1(&reader->to_jsonb,
						 HeapTupleGetDatum(heap_form_tuple(desc, datums, isnull)));
}
