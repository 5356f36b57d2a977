/*-------------------------------------------------------------------------
 *
 * combine.c
 *		Combining values of a column: numbers, sets, objects.
 *
 * Each does to the value that is here what was done to it elsewhere, old -> new.  None
 * raises an error over what the values are: a result that cannot be is told as such,
 * and then the later row stays, by definition and on every node.
 *
 * A NULL counts as 0, as the empty set, as the empty object; the result is NULL only if
 * it comes to that and the new value is NULL.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "common/int.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/typcache.h"

#include "apply/combine.h"
#include "apply/unique.h"

/* The three values; absent ones are NULL. */
typedef struct Three
{
	Form_pg_attribute att;
	Datum		here;
	Datum		old;
	Datum		new;
	bool		no_here;
	bool		no_old;
	bool		no_new;
} Three;

/* By the type's btree order, with the column's collation. */
int
coze_combine_compare(void *arg, int column, CozeFoldValue a, CozeFoldValue b)
{
	Form_pg_attribute att = TupleDescAttr(((CozeFoldArg *) arg)->table->desc, column);
	TypeCacheEntry *type = lookup_type_cache(att->atttypid, TYPECACHE_CMP_PROC_FINFO);

	if (!OidIsValid(type->cmp_proc_finfo.fn_oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("values of column \"%s\" cannot be compared", NameStr(att->attname))));
	return DatumGetInt32(FunctionCall2Coll(&type->cmp_proc_finfo, att->attcollation,
										   (Datum) a, (Datum) b));
}

/* --- delta --- */

static int64
integer_of(Oid type, Datum value, bool isnull)
{
	if (isnull)
		return 0;
	return type == INT2OID ? DatumGetInt16(value) : type == INT4OID ? DatumGetInt32(value) :
		DatumGetInt64(value);
}

/* here + (new - old): the sum may fit where the difference does not. */
static bool
add_integers(Oid type, const Three *v, Datum *result)
{
	int64		here = integer_of(type, v->here, v->no_here);
	int64		old = integer_of(type, v->old, v->no_old);
	int64		new = integer_of(type, v->new, v->no_new);
	int64		sum;

	if (pg_sub_s64_overflow(new, old, &sum) || pg_add_s64_overflow(here, sum, &sum))
	{
		if (pg_add_s64_overflow(here, new, &sum) || pg_sub_s64_overflow(sum, old, &sum))
			return false;
	}
	if (type == INT2OID)
	{
		*result = Int16GetDatum((int16) sum);
		return sum >= PG_INT16_MIN && sum <= PG_INT16_MAX;
	}
	if (type == INT4OID)
	{
		*result = Int32GetDatum((int32) sum);
		return sum >= PG_INT32_MIN && sum <= PG_INT32_MAX;
	}
	*result = Int64GetDatum(sum);
	return true;
}

static double
float_of(Oid type, Datum value, bool isnull)
{
	if (isnull)
		return 0;
	return type == FLOAT4OID ? DatumGetFloat4(value) : DatumGetFloat8(value);
}

static bool
add_floats(Oid type, const Three *v, Datum *result)
{
	double		here = float_of(type, v->here, v->no_here);
	double		old = float_of(type, v->old, v->no_old);
	double		new = float_of(type, v->new, v->no_new);
	double		sum = here + (new - old);
	bool		finite = isfinite(here) && isfinite(old) && isfinite(new);

	if (type == FLOAT4OID)
	{
		*result = Float4GetDatum((float4) sum);
		return !finite || isfinite((float4) sum);
	}
	*result = Float8GetDatum(sum);
	return !finite || isfinite(sum);
}

/* Does it have more digits before the point than the column takes? */
static bool
is_too_large(Numeric n, int32 typmod)
{
	int			precision = ((typmod - VARHDRSZ) >> 16) & 0xffff;
	int			scale = (((typmod - VARHDRSZ) & 0x7ff) ^ 1024) - 1024;
	Datum		limit;

	if (typmod < (int32) VARHDRSZ || numeric_is_nan(n))
		return false;
	if (numeric_is_inf(n))
		return true;
	limit = DirectFunctionCall2(numeric_power, NumericGetDatum(int64_to_numeric(10)),
								NumericGetDatum(int64_to_numeric(precision - scale)));
	return DatumGetBool(DirectFunctionCall2(numeric_ge,
											DirectFunctionCall1(numeric_abs, NumericGetDatum(n)), limit));
}

static bool
add_numerics(const Three *v, Datum *result)
{
	Numeric		zero = int64_to_numeric(0);
	Numeric		here = v->no_here ? zero : DatumGetNumeric(v->here);
	Numeric		old = v->no_old ? zero : DatumGetNumeric(v->old);
	Numeric		new = v->no_new ? zero : DatumGetNumeric(v->new);
	bool		error = false;
	Numeric		sum = numeric_sub_opt_error(new, old, &error);

	if (!error)
		sum = numeric_add_opt_error(here, sum, &error);
	if (error || is_too_large(sum, v->att->atttypmod))
		return false;
	*result = NumericGetDatum(sum);
	return true;
}

static int
add(const Three *v, Datum *result)
{
	Oid			type = getBaseType(v->att->atttypid);
	bool		possible;

	switch (type)
	{
		case INT2OID:
		case INT4OID:
		case INT8OID:
			possible = add_integers(type, v, result);
			break;
		case FLOAT4OID:
		case FLOAT8OID:
			possible = add_floats(type, v, result);
			break;
		case NUMERICOID:
			possible = add_numerics(v, result);
			break;
		default:
			return COZE_COMBINE_UNLIKE;
	}
	return possible ? COZE_COMBINE_BOTH : COZE_COMBINE_IMPOSSIBLE;
}

/* --- set_merge --- */

typedef struct Set
{
	int			n;
	Datum	   *values;
	bool	   *isnull;
} Set;

/* What an element type is like. */
typedef struct ElementType
{
	TypeCacheEntry *type;
	Oid			collation;
} ElementType;

/* False: not an array of one dimension. */
static bool
make_set(const ElementType *e, Datum array, bool isnull, Set *set)
{
	ArrayType  *a;

	memset(set, 0, sizeof(*set));
	if (isnull)
		return true;
	a = DatumGetArrayTypeP(array);
	if (ARR_NDIM(a) > 1)
		return false;
	deconstruct_array(a, e->type->type_id, e->type->typlen, e->type->typbyval, e->type->typalign,
					  &set->values, &set->isnull, &set->n);
	return true;
}

static bool
has_element(const ElementType *e, const Set *set, Datum value, bool isnull)
{
	for (int i = 0; i < set->n; i++)
	{
		if (set->isnull[i] || isnull)
		{
			if (set->isnull[i] && isnull)
				return true;
		}
		else if (DatumGetBool(FunctionCall2Coll(&e->type->eq_opr_finfo, e->collation,
												set->values[i], value)))
			return true;
	}
	return false;
}

static void
add_element(const ElementType *e, Set *set, Datum value, bool isnull)
{
	if (has_element(e, set, value, isnull))
		return;
	set->values[set->n] = value;
	set->isnull[set->n++] = isnull;
}

/* (here without old - new) with new - old, in this order. */
static int
unite(const Three *v, Datum *result, bool *isnull)
{
	ElementType e = {.collation = v->att->attcollation};
	Oid			element = get_base_element_type(v->att->atttypid);
	Set			here,
				old,
				new,
				all;
	int			bounds[1] = {1};

	if (!OidIsValid(element))
		return COZE_COMBINE_UNLIKE;
	e.type = lookup_type_cache(element, TYPECACHE_EQ_OPR_FINFO);
	if (!OidIsValid(e.type->eq_opr_finfo.fn_oid) ||
		!make_set(&e, v->here, v->no_here, &here) || !make_set(&e, v->new, v->no_new, &new))
		return COZE_COMBINE_UNLIKE;
	if (!make_set(&e, v->old, v->no_old, &old))
		memset(&old, 0, sizeof(old));
	all.n = 0;
	all.values = palloc((here.n + new.n + 1) * sizeof(Datum));
	all.isnull = palloc((here.n + new.n + 1) * sizeof(bool));
	for (int i = 0; i < here.n; i++)
	{
		if (!has_element(&e, &old, here.values[i], here.isnull[i]) ||
			has_element(&e, &new, here.values[i], here.isnull[i]))
			add_element(&e, &all, here.values[i], here.isnull[i]);
	}
	for (int i = 0; i < new.n; i++)
	{
		if (!has_element(&e, &old, new.values[i], new.isnull[i]))
			add_element(&e, &all, new.values[i], new.isnull[i]);
	}
	*isnull = all.n == 0 && v->no_new;
	if (all.n == 0)
		*result = PointerGetDatum(construct_empty_array(element));
	else
		*result = PointerGetDatum(construct_md_array(all.values, all.isnull, 1, &all.n, bounds, element,
													 e.type->typlen, e.type->typbyval, e.type->typalign));
	return COZE_COMBINE_BOTH;
}

/* --- json_merge --- */

/* The same value, by jsonb's own equality?  NULL: no such member. */
static bool
same_value(JsonbValue *a, JsonbValue *b)
{
	if (a == NULL || b == NULL)
		return a == b;
	return compareJsonbContainers(&JsonbValueToJsonb(a)->root, &JsonbValueToJsonb(b)->root) == 0;
}

/* As an object, or NULL. */
static JsonbContainer *
object_of(JsonbValue *value)
{
	if (value == NULL || value->type != jbvBinary || !JsonContainerIsObject(value->val.binary.data))
		return NULL;
	return value->val.binary.data;
}

static JsonbValue *
member(JsonbContainer *object, const JsonbValue *key)
{
	return object == NULL ? NULL :
		getKeyJsonValueFromContainer(object, key->val.string.val, key->val.string.len, NULL);
}

static Jsonb *merge_objects(JsonbContainer *here, JsonbContainer *old, JsonbContainer *new, int *lost);

/*
 * What becomes of one member; NULL: it is not there.  Of two changes the later stays;
 * of a change and a deletion the change, whichever is later.
 */
static JsonbValue *
merge_member(JsonbValue *now, JsonbValue *was, JsonbValue *to, int *lost)
{
	if (same_value(was, to) || same_value(now, to))
		return now;
	if (object_of(now) != NULL && object_of(to) != NULL)
	{
		JsonbValue *merged = palloc(sizeof(JsonbValue));
		Jsonb	   *object = merge_objects(object_of(now), object_of(was), object_of(to), lost);

		merged->type = jbvBinary;
		merged->val.binary.data = &object->root;
		merged->val.binary.len = VARSIZE(object) - VARHDRSZ;
		return merged;
	}
	if (same_value(now, was))
		return to;
	*lost |= to == NULL ? COZE_COMBINE_LOST_LATER : COZE_COMBINE_LOST_EARLIER;
	return to == NULL ? now : to;
}

static void
put_member(JsonbParseState **state, JsonbValue *key, JsonbValue *value)
{
	if (value == NULL)
		return;
	pushJsonbValue(state, WJB_KEY, key);
	pushJsonbValue(state, WJB_VALUE, value);
}

/* Do to an object, member by member, what was done to it elsewhere; old may be NULL. */
static Jsonb *
merge_objects(JsonbContainer *here, JsonbContainer *old, JsonbContainer *new, int *lost)
{
	JsonbParseState *state = NULL;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	key;

	check_stack_depth();
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	it = JsonbIteratorInit(here);
	while ((token = JsonbIteratorNext(&it, &key, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			put_member(&state, &key, merge_member(member(here, &key), member(old, &key),
												  member(new, &key), lost));
	}
	it = JsonbIteratorInit(new);
	while ((token = JsonbIteratorNext(&it, &key, true)) != WJB_DONE)
	{
		if (token == WJB_KEY && member(here, &key) == NULL)
			put_member(&state, &key, merge_member(NULL, member(old, &key), member(new, &key), lost));
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

static Jsonb *
object_or_empty(Datum value, bool isnull)
{
	return isnull ? DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"))) :
		DatumGetJsonbP(value);
}

static int
merge_json(const Three *v, Datum *result, bool *isnull)
{
	Jsonb	   *here = object_or_empty(v->here, v->no_here);
	Jsonb	   *old = object_or_empty(v->old, v->no_old);
	Jsonb	   *new = object_or_empty(v->new, v->no_new);
	Jsonb	   *merged;
	int			lost = 0;

	if (getBaseType(v->att->atttypid) != JSONBOID || !JB_ROOT_IS_OBJECT(here) || !JB_ROOT_IS_OBJECT(new))
		return COZE_COMBINE_UNLIKE;
	merged = merge_objects(&here->root, JB_ROOT_IS_OBJECT(old) ? &old->root : NULL, &new->root, &lost);
	*isnull = v->no_new && JB_ROOT_COUNT(merged) == 0;
	*result = JsonbPGetDatum(merged);
	return COZE_COMBINE_BOTH | lost;
}

/* --- any of them --- */

static void
take(const CozeFoldRow *row, int column, Datum *value, bool *isnull)
{
	*isnull = row == NULL || row->isnull[column];
	*value = *isnull ? (Datum) 0 : (Datum) row->values[column];
}

int
coze_combine(void *arg, CozeColumnPolicy policy, int column, const CozeFoldRow *here,
			 const CozeFoldRow *old, const CozeFoldRow *new, CozeFoldRow *result)
{
	Three		v = {.att = TupleDescAttr(((CozeFoldArg *) arg)->table->desc, column)};
	Datum		datum = (Datum) 0;
	bool		isnull = false;
	int			done = COZE_COMBINE_UNLIKE;

	take(here, column, &v.here, &v.no_here);
	take(old, column, &v.old, &v.no_old);
	take(new, column, &v.new, &v.no_new);
	switch (policy)
	{
		case COZE_COLUMN_DELTA:
			done = add(&v, &datum);
			isnull = v.no_here && v.no_new;
			break;
		case COZE_COLUMN_SET_MERGE:
			done = unite(&v, &datum, &isnull);
			break;
		case COZE_COLUMN_JSON_MERGE:
			done = merge_json(&v, &datum, &isnull);
			break;
		case COZE_COLUMN_LAST_UPDATE_WINS:
		case COZE_COLUMN_MAX:
		case COZE_COLUMN_MIN:
		case COZE_COLUMN_HOLD:
			break;
	}
	if (done & COZE_COMBINE_BOTH)
	{
		result->values[column] = isnull ? 0 : (CozeFoldValue) datum;
		result->isnull[column] = isnull;
	}
	return done;
}
