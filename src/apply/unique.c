/*-------------------------------------------------------------------------
 *
 * unique.c
 *		Unique values of rows, beside the key: computed, hashed, compared.
 *
 * Expressions, predicates, generated columns and CHECK constraints are compiled
 * once per table and kept as long as the table's description.  All of them must be
 * immutable, or the server would not have had them there, so the same row has
 * the same values on every node.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "access/table.h"
#include "apply/combine.h"
#include "apply/policy.h"
#include "apply/resolver.h"
#include "apply/unique.h"
#include "common/hashfn.h"

/* Compiled expressions of one table. */
struct CozeEvaluation
{
	EState	   *estate;
	TupleTableSlot *slot;
	ExprState **generated;		/* by attnum - 1; NULL: plain */
	bool		any_generated;
	List	  **keys;			/* by unique index: ExprStates of its expressions */
	ExprState **predicates;		/* by unique index; NULL: none */
	int			nchecks;
	ExprState **checks;
};

/* --- compiling --- */

static ExprState *
compile(Node *expr)
{
	return ExecInitExpr(expression_planner((Expr *) expr), NULL);
}

static void
compile_generated(CozeTable *table, CozeEvaluation *e)
{
	Relation	rel = NULL;

	e->generated = palloc0(table->desc->natts * sizeof(ExprState *));
	for (int i = 0; i < table->desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(table->desc, i);

		if (att->attisdropped || att->attgenerated != ATTRIBUTE_GENERATED_STORED)
			continue;
		if (rel == NULL)
			rel = table_open(table->relid, AccessShareLock);
		e->generated[i] = compile(build_column_default(rel, i + 1));
		e->any_generated = true;
	}
	if (rel != NULL)
		table_close(rel, AccessShareLock);
}

static void
compile_indexes(CozeTable *table, CozeEvaluation *e)
{
	e->keys = palloc0(Max(1, table->nuniques) * sizeof(List *));
	e->predicates = palloc0(Max(1, table->nuniques) * sizeof(ExprState *));
	for (int i = 0; i < table->nuniques; i++)
	{
		IndexInfo  *info = table->uniques[i].info;
		ListCell   *lc;

		foreach(lc, info->ii_Expressions)
		{
			e->keys[i] = lappend(e->keys[i], compile(lfirst(lc)));
		}
		if (info->ii_Predicate != NIL)
			e->predicates[i] = ExecPrepareQual(info->ii_Predicate, e->estate);
	}
}

static void
compile_checks(CozeTable *table, CozeEvaluation *e)
{
	TupleConstr *constr = table->desc->constr;

	e->nchecks = constr != NULL ? constr->num_check : 0;
	e->checks = palloc0(Max(1, e->nchecks) * sizeof(ExprState *));
	for (int i = 0; i < e->nchecks; i++)
		e->checks[i] = ExecPrepareCheck(list_make1(stringToNode(constr->check[i].ccbin)), e->estate);
}

static CozeEvaluation *
evaluation_of(CozeTable *table)
{
	MemoryContext old;
	CozeEvaluation *e;

	if (table->evaluation != NULL)
		return table->evaluation;
	old = MemoryContextSwitchTo(table->context);
	e = palloc0(sizeof(CozeEvaluation));
	e->estate = CreateExecutorState();
	MemoryContextSwitchTo(e->estate->es_query_cxt);
	e->slot = MakeSingleTupleTableSlot(table->desc, &TTSOpsVirtual);
	compile_generated(table, e);
	compile_indexes(table, e);
	compile_checks(table, e);
	table->evaluation = e;
	MemoryContextSwitchTo(old);
	return e;
}

/* --- evaluating --- */

/* Put a row where expressions look for it, with generated columns. */
static ExprContext *
store(CozeTable *table, CozeEvaluation *e, const Datum *values, const bool *isnull)
{
	ExprContext *econtext = GetPerTupleExprContext(e->estate);
	TupleTableSlot *slot = e->slot;
	int			natts = table->desc->natts;
	MemoryContext old;

	ResetPerTupleExprContext(e->estate);
	ExecClearTuple(slot);
	memcpy(slot->tts_values, values, natts * sizeof(Datum));
	memcpy(slot->tts_isnull, isnull, natts * sizeof(bool));
	ExecStoreVirtualTuple(slot);
	econtext->ecxt_scantuple = slot;
	if (!e->any_generated)
		return econtext;
	old = MemoryContextSwitchTo(econtext->ecxt_per_tuple_memory);
	for (int i = 0; i < natts; i++)
	{
		if (e->generated[i] != NULL)
		{
			bool		null;
			Datum		value = ExecEvalExpr(e->generated[i], econtext, &null);

			slot->tts_values[i] = value;
			slot->tts_isnull[i] = null;
		}
	}
	MemoryContextSwitchTo(old);
	return econtext;
}

static bool
index_knows(const CozeUnique *unique, const bool *known)
{
	for (int i = 0; known != NULL && i < unique->ncolumns; i++)
	{
		if (!known[unique->columns[i]])
			return false;
	}
	return true;
}

static uint32
hash_value(const CozeUnique *unique, const CozeUniqueValue *value)
{
	uint32		hash = unique->index;

	for (int i = 0; i < value->n; i++)
	{
		uint32		h = 1;

		if (!value->isnull[i])
			h = OidIsValid(unique->hash[i].fn_oid) ?
				DatumGetUInt32(FunctionCall1Coll(&unique->hash[i], unique->collations[i],
												 value->values[i])) : 0;
		hash = hash_combine(hash, h);
	}
	return hash;
}

static bool
value_of(CozeTable *table, int index, const Datum *values, const bool *isnull, const bool *known,
		 CozeUniqueValue *value)
{
	CozeUnique *unique = &table->uniques[index];
	CozeEvaluation *e = evaluation_of(table);
	ExprContext *econtext;
	ListCell   *lc;
	MemoryContext old;

	if (!index_knows(unique, known))
		return false;
	econtext = store(table, e, values, isnull);
	old = MemoryContextSwitchTo(econtext->ecxt_per_tuple_memory);
	value->n = 0;
	if (e->predicates[index] == NULL || ExecQual(e->predicates[index], econtext))
	{
		lc = list_head(e->keys[index]);
		for (int i = 0; i < unique->nkeys; i++)
		{
			AttrNumber	attnum = unique->info->ii_IndexAttrNumbers[i];

			if (attnum != 0)
			{
				value->values[i] = e->slot->tts_values[attnum - 1];
				value->isnull[i] = e->slot->tts_isnull[attnum - 1];
			}
			else
			{
				value->values[i] = ExecEvalExpr((ExprState *) lfirst(lc), econtext, &value->isnull[i]);
				lc = lnext(e->keys[index], lc);
			}
			if (value->isnull[i] && !unique->nulls_not_distinct)
			{
				value->n = 0;
				break;
			}
			value->n = i + 1;
		}
	}
	if (value->n > 0)
		value->hash = hash_value(unique, value);
	MemoryContextSwitchTo(old);
	return value->n > 0;
}

bool
coze_unique_value(CozeTable *table, int index, const CozeRow *row, CozeUniqueValue *value)
{
	return value_of(table, index, row->values, row->isnull, row->known, value);
}

bool
coze_unique_same(CozeTable *table, int index, const CozeUniqueValue *a, const CozeUniqueValue *b)
{
	CozeUnique *unique = &table->uniques[index];

	if (a->hash != b->hash)
		return false;
	for (int i = 0; i < unique->nkeys; i++)
	{
		if (a->isnull[i] || b->isnull[i])
		{
			if (a->isnull[i] != b->isnull[i])
				return false;
		}
		else if (!DatumGetBool(FunctionCall2Coll(&unique->equal[i], unique->collations[i],
												 a->values[i], b->values[i])))
			return false;
	}
	return true;
}

/* Into CurrentMemoryContext. */
void
coze_unique_copy(CozeTable *table, int index, CozeUniqueValue *to, const CozeUniqueValue *from)
{
	CozeUnique *unique = &table->uniques[index];

	*to = *from;
	for (int i = 0; i < from->n; i++)
	{
		if (!from->isnull[i])
			to->values[i] = datumCopy(from->values[i], unique->byval[i], unique->len[i]);
	}
}

/* --- for the fold --- */

CozeFoldRow *
coze_fold_row(const CozeTable *table, const CozeRow *row)
{
	CozeFoldRow *fold;
	int			n = table->desc->natts;
	bool		complete = true;

	if (row == NULL)
		return NULL;
	fold = coze_row_make(n);
	memcpy(fold->values, row->values, n * sizeof(Datum));
	memcpy(fold->isnull, row->isnull, n * sizeof(bool));
	for (int i = 0; i < n; i++)
	{
		/* What is dropped or computed is no part of a row. */
		if (!row->known[i] && table->codecs[i] != NULL)
			complete = false;
	}
	if (!complete)
	{
		fold->known = palloc(n * sizeof(bool));
		for (int i = 0; i < n; i++)
			fold->known[i] = row->known[i] || table->codecs[i] == NULL;
	}
	return fold;
}

CozeRow *
coze_row_of_fold(const CozeTable *table, const CozeFoldRow *row)
{
	CozeRow    *result;
	int			n = table->desc->natts;

	if (row == NULL)
		return NULL;
	result = coze_row_alloc(table);
	memcpy(result->values, row->values, n * sizeof(Datum));
	memcpy(result->isnull, row->isnull, n * sizeof(bool));
	for (int i = 0; i < n; i++)
		result->known[i] = table->codecs[i] != NULL && coze_row_knows(row, i);
	return result;
}

HeapTuple
coze_fold_tuple(CozeTable *table, const CozeFoldRow *row)
{
	CozeEvaluation *e = evaluation_of(table);

	if (row == NULL)
		return NULL;
	store(table, e, (Datum *) row->values, row->isnull);
	return heap_form_tuple(table->desc, e->slot->tts_values, e->slot->tts_isnull);
}

static bool
fold_equal(void *arg, int column, CozeFoldValue a, CozeFoldValue b)
{
	Form_pg_attribute att = TupleDescAttr(((CozeFoldArg *) arg)->table->desc, column);

	return datum_image_eq((Datum) a, (Datum) b, att->attbyval, att->attlen);
}

static bool
fold_unique_hash(void *arg, int index, const CozeFoldRow *row, uint32 *hash)
{
	CozeUniqueValue value;

	if (!value_of(((CozeFoldArg *) arg)->table, index, (Datum *) row->values, row->isnull,
				  row->known, &value))
		return false;
	*hash = value.hash;
	return true;
}

static bool
fold_unique_equal(void *arg, int index, const CozeFoldRow *a, const CozeFoldRow *b)
{
	CozeTable  *table = ((CozeFoldArg *) arg)->table;
	CozeUniqueValue va,
				vb,
				copy;

	if (!value_of(table, index, (Datum *) a->values, a->isnull, a->known, &va))
		return false;
	/* the second evaluation takes the memory of the first */
	coze_unique_copy(table, index, &copy, &va);
	return value_of(table, index, (Datum *) b->values, b->isnull, b->known, &vb) &&
		coze_unique_same(table, index, &copy, &vb);
}

/* NOT NULL and CHECK constraints. */
static bool
fold_valid(void *arg, const CozeFoldRow *row)
{
	CozeTable  *table = ((CozeFoldArg *) arg)->table;
	CozeEvaluation *e = evaluation_of(table);
	ExprContext *econtext;

	if (!coze_row_complete(table->desc->natts, row))
		return true;
	econtext = store(table, e, (Datum *) row->values, row->isnull);
	for (int i = 0; i < table->desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(table->desc, i);

		if (att->attnotnull && !att->attisdropped && e->slot->tts_isnull[i])
			return false;
	}
	for (int i = 0; i < e->nchecks; i++)
	{
		if (!ExecCheck(e->checks[i], econtext))
			return false;
	}
	return true;
}

void
coze_unique_fold_table(CozeTable *table, CozeFoldTable *fold, CozeFoldCallbacks *callbacks,
					   void (*note) (void *arg, const CozeFoldNote *note), void *arg)
{
	CozeFoldUnique *uniques = palloc0(Max(1, table->nuniques) * sizeof(CozeFoldUnique));

	Assert(((CozeFoldArg *) arg)->table == table);
	for (int i = 0; i < table->nuniques; i++)
	{
		uniques[i].ncolumns = table->uniques[i].ncolumns;
		uniques[i].columns = table->uniques[i].columns;
	}
	memset(callbacks, 0, sizeof(*callbacks));
	callbacks->equal = fold_equal;
	callbacks->compare = coze_combine_compare;
	callbacks->combine = coze_combine;
	callbacks->valid = fold_valid;
	callbacks->rank = coze_policy_rank;
	callbacks->resolve = coze_resolver_call;
	callbacks->unique_hash = fold_unique_hash;
	callbacks->unique_equal = fold_unique_equal;
	callbacks->note = note;
	fold->ncolumns = table->desc->natts;
	fold->nuniques = table->nuniques;
	fold->uniques = uniques;
	fold->callbacks = callbacks;
	fold->arg = arg;
}
