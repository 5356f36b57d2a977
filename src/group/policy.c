/*-------------------------------------------------------------------------
 *
 * policy.c
 *		What setting and trying out conflict policies needs in C.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "apply/conflict.h"
#include "apply/policy.h"
#include "apply/unique.h"
#include "capture/relation.h"
#include "log/rules.h"
#include "log/state.h"

PG_FUNCTION_INFO_V1(coze_policy_clock);
PG_FUNCTION_INFO_V1(coze_policy_is_comparable);
PG_FUNCTION_INFO_V1(coze_policy_try_fold);

/* policy_clock() returns bigint */
Datum
coze_policy_clock(PG_FUNCTION_ARGS)
{
	coze_check_member();
	PG_RETURN_INT64(Max(coze_clock_last() + 1, GetCurrentTimestamp()));
}

/* is_comparable(type regtype, only_equality boolean) returns boolean */
Datum
coze_policy_is_comparable(PG_FUNCTION_ARGS)
{
	Oid			type = PG_GETARG_OID(0);
	TypeCacheEntry *entry = lookup_type_cache(type, TYPECACHE_CMP_PROC | TYPECACHE_EQ_OPR);

	PG_RETURN_BOOL(OidIsValid(PG_GETARG_BOOL(1) ? entry->eq_opr : entry->cmp_proc));
}

/* --- trying a policy ------------------------------------------------------------- */

static char *
text_attribute(HeapTupleHeader rule, const char *name)
{
	bool		isnull;
	Datum		datum = GetAttributeByName(rule, name, &isnull);

	return isnull ? NULL : TextDatumGetCString(datum);
}

static List *
node_order_of(HeapTupleHeader rule)
{
	bool		isnull;
	Datum		datum = GetAttributeByName(rule, "node_order", &isnull);
	Datum	   *names;
	bool	   *nulls;
	int			n;
	List	   *order = NIL;

	if (isnull)
		return NIL;
	deconstruct_array(DatumGetArrayTypePCopy(datum), TEXTOID, -1, false, TYPALIGN_INT, &names, &nulls, &n);
	for (int i = 0; i < n; i++)
		order = lappend(order, TextDatumGetCString(names[i]));
	return order;
}

/* An array of cozesync.rule. */
static List *
rules_of(ArrayType *array)
{
	TypeCacheEntry *type = lookup_type_cache(ARR_ELEMTYPE(array), 0);
	Datum	   *elements;
	bool	   *nulls;
	int			n;
	List	   *rules = NIL;

	deconstruct_array(array, type->type_id, type->typlen, type->typbyval, type->typalign,
					  &elements, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		HeapTupleHeader row = DatumGetHeapTupleHeader(elements[i]);
		CozeRule   *rule = palloc0(sizeof(CozeRule));

		rule->column = text_attribute(row, "column_name");
		rule->conflict_type = text_attribute(row, "conflict_type");
		rule->policy = text_attribute(row, "policy");
		rule->version_column = text_attribute(row, "version_column");
		rule->node_order = node_order_of(row);
		rule->resolver = text_attribute(row, "resolver");
		rule->resolver_digest = text_attribute(row, "resolver_digest");
		rules = lappend(rules, rule);
	}
	return rules;
}

/* The table as the applier sees it. */
static CozeTable *
table_of(Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	Oid			key = coze_capture_key_index(rel);
	Relation	index;
	Bitmapset  *keys = NULL;
	CozeTable  *table;

	if (!OidIsValid(key))
		elog(ERROR, "table \"%s\" has no key", RelationGetRelationName(rel));
	index = relation_open(key, AccessShareLock);
	for (int i = 0; i < index->rd_index->indnkeyatts; i++)
		keys = bms_add_member(keys, index->rd_index->indkey.values[i]);
	relation_close(index, AccessShareLock);
	table = coze_table_get(rel, keys);
	table_close(rel, NoLock);
	return table;
}

/* A row that was given as a record; NULL if it was none. */
static CozeFoldRow *
row_of(CozeTable *table, FunctionCallInfo fcinfo, int arg)
{
	CozeRow    *row;
	HeapTupleHeader header;
	HeapTupleData tuple;

	if (PG_ARGISNULL(arg))
		return NULL;
	header = PG_GETARG_HEAPTUPLEHEADER(arg);
	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	tuple.t_data = header;
	row = coze_row_alloc(table);
	heap_deform_tuple(&tuple, table->desc, row->values, row->isnull);
	memset(row->known, true, table->desc->natts * sizeof(bool));
	return coze_fold_row(table, row);
}

typedef struct Trying
{
	CozeFoldArg arg;			/* first: what the fold's callbacks get */
	const char *outcome;
} Trying;

static void
take_note(void *arg, const CozeFoldNote *note)
{
	((Trying *) arg)->outcome = coze_outcome_name(note->outcome);
}

static const CozeState *
fold_two(CozeTable *table, Trying *trying, const CozeFoldPolicy *policy, FunctionCallInfo fcinfo)
{
	CozeFoldTable fold_table;
	CozeFoldCallbacks callbacks;
	CozeFoldRow *base = row_of(table, fcinfo, 2);
	CozeFoldRow *earlier = row_of(table, fcinfo, 3);
	CozeFoldRow *later = row_of(table, fcinfo, 4);
	const CozeState *state = coze_state_of_row(base);
	CozeVector	none = {0};
	CozeFoldOp	ops[2] = {
		{.policy = policy,.old = base,.new = earlier}, {.policy = policy,.old = base,.new = later}
	};
	CozeFoldEntry entries[2] = {
		{{PG_GETARG_INT64(5), (CozeOrigin) PG_GETARG_INT64(6)}, &none, false, 1, &ops[0]},
		{{PG_GETARG_INT64(7), (CozeOrigin) PG_GETARG_INT64(8)}, &none, false, 1, &ops[1]},
	};

	/* Without its base an update is told from an insert by the row that it met. */
	for (int i = 0; i < 2; i++)
	{
		if (base == NULL && (earlier == NULL || later == NULL))
			ops[i].old = earlier != NULL ? earlier : later;
	}
	trying->arg.table = table;
	coze_unique_fold_table(table, &fold_table, &callbacks, take_note, trying);
	fold_table.nuniques = 0;
	return coze_fold(&fold_table, 1, &state, entries, 2)->states[0];
}

/*
 * try_fold(relation regclass, rules cozesync.rule[], base record, earlier record, later record,
 * earlier_hlc bigint, earlier_origin bigint, later_hlc bigint, later_origin bigint,
 * OUT result jsonb, OUT outcome text)
 */
Datum
coze_policy_try_fold(PG_FUNCTION_ARGS)
{
	CozeTable  *table;
	CozeVersion version = {1, 1};	/* any that is not the default's */
	Trying		trying = {.outcome = "replaced"};
	CozePolicy *policy;
	CozeOwnerState owner;
	const CozeState *state;
	TupleDesc	desc;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	coze_check_member();
	table = table_of(PG_GETARG_OID(0));
	coze_owner_enter(table, &owner);
	policy = coze_policy_make(table, version, rules_of(PG_GETARG_ARRAYTYPE_P(1)));
	coze_policy_prepare(table, policy);
	state = fold_two(table, &trying, &policy->fold, fcinfo);
	values[0] = coze_row_to_jsonb(table, coze_row_of_fold(table, state->row));
	coze_owner_leave(&owner);
	nulls[0] = values[0] == (Datum) 0;
	values[1] = CStringGetTextDatum(trying.outcome);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
