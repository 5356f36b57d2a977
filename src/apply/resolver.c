/*-------------------------------------------------------------------------
 *
 * resolver.c
 *		Functions of users that decide conflicts.
 *
 * Every node must make of the same rows the same, so the function is IMMUTABLE, its
 * definition must be what it was when it was chosen, and it sees nothing of the
 * session but pinned settings.  It runs with the rights of the table's owner, as
 * everything does that he may have planted, and under a savepoint: its error holds the
 * conflict, on every node alike.  An error that says nothing about the rows (memory,
 * locks, being cancelled) is no answer and goes on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_proc.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "apply/policy.h"
#include "apply/resolver.h"
#include "apply/unique.h"
#include "debug.h"

struct CozeResolver
{
	char	   *name;
	char	   *digest;
	MemoryContext context;		/* as long as this */
	Oid			oid;
	TransactionId xmin;			/* of the function's row in pg_proc when it was compared */
	ItemPointerData tid;
	FmgrInfo	function;
};

PG_FUNCTION_INFO_V1(coze_policy_resolver_digest);

CozeResolver *
coze_resolver_make(const char *name, const char *digest)
{
	CozeResolver *resolver = palloc0(sizeof(CozeResolver));

	resolver->name = pstrdup(name);
	resolver->digest = pstrdup(digest);
	resolver->context = CurrentMemoryContext;
	return resolver;
}

/* --- which function --- */

/* cozesync.resolver_digest(oid) -> text: of all that CREATE FUNCTION says */
Datum
coze_policy_resolver_digest(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(DirectFunctionCall1(md5_text, DirectFunctionCall1(pg_get_functiondef,
																	 PG_GETARG_DATUM(0))));
}

static void
compare_digest(CozeResolver *resolver, Oid oid)
{
	char	   *digest = TextDatumGetCString(DirectFunctionCall1(coze_policy_resolver_digest,
																 ObjectIdGetDatum(oid)));

	if (strcmp(digest, resolver->digest) != 0 && COZE_RULE("resolver-digest"))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("resolver %s is not what it was when it was chosen", resolver->name),
				 errdetail("Its definition here differs from that on the node where cozesync.set_conflict_policy() was called."),
				 errhint("Create it here as it was.  A changed function gets another name and is chosen anew.")));
}

static Oid
find_function(const char *name)
{
	LOCAL_FCINFO(call, 1);
	Datum		oid;

	InitFunctionCallInfoData(*call, NULL, 1, InvalidOid, NULL, NULL);
	call->args[0].value = CStringGetTextDatum(name);
	call->args[0].isnull = false;
	oid = to_regprocedure(call);
	if (call->isnull)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("resolver %s does not exist here", name),
				 errhint("Create it as it is on the other nodes.")));
	return DatumGetObjectId(oid);
}

/* Ready to be called.  What the definition is, is looked at anew when it has changed. */
static void
prepare(CozeResolver *resolver)
{
	HeapTuple	tuple = OidIsValid(resolver->oid) ?
		SearchSysCache1(PROCOID, ObjectIdGetDatum(resolver->oid)) : NULL;
	Oid			oid;

	if (HeapTupleIsValid(tuple))
	{
		bool		same = HeapTupleHeaderGetRawXmin(tuple->t_data) == resolver->xmin &&
			ItemPointerEquals(&tuple->t_self, &resolver->tid);

		ReleaseSysCache(tuple);
		if (same)
			return;
	}
	oid = find_function(resolver->name);
	compare_digest(resolver, oid);
	fmgr_info_cxt(oid, &resolver->function, resolver->context);
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(oid));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", oid);
	resolver->oid = oid;
	resolver->xmin = HeapTupleHeaderGetRawXmin(tuple->t_data);
	resolver->tid = tuple->t_self;
	ReleaseSysCache(tuple);
}

/* --- calling it --- */

/* What the call is about. */
typedef struct ResolverCall
{
	CozeTable  *table;
	CozeResolver *resolver;
	CozeConflictType type;
	const CozeFoldRow *rows[3]; /* earlier, later, base */
	CozeFoldRow *result;
	MemoryContext context;		/* of the result */
} ResolverCall;

static Datum
row_datum(CozeTable *table, const CozeFoldRow *row, bool *isnull)
{
	HeapTuple	tuple = coze_fold_tuple(table, row);

	*isnull = tuple == NULL;
	return tuple == NULL ? (Datum) 0 : heap_copy_tuple_as_datum(tuple, table->desc);
}

/* The row that came back; *reason: what is wrong with it, and then it holds. */
static CozeResolution
take_row(ResolverCall *c, Datum datum, const char **reason)
{
	CozeTable  *table = c->table;
	const CozeFoldRow *side = c->rows[1] != NULL ? c->rows[1] : c->rows[0];
	HeapTupleHeader header = DatumGetHeapTupleHeader(datum);
	TupleDesc	desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(header),
											  HeapTupleHeaderGetTypMod(header));
	HeapTupleData tuple = {.t_len = HeapTupleHeaderGetDatumLength(header),.t_data = header};
	int			natts = desc->natts;
	Datum	   *values = palloc(natts * sizeof(Datum));
	bool	   *isnull = palloc(natts * sizeof(bool));
	Datum		key[INDEX_MAX_KEYS],
				key_of_side[INDEX_MAX_KEYS];
	MemoryContext old;

	heap_deform_tuple(&tuple, desc, values, isnull);
	ReleaseTupleDesc(desc);
	if (natts != table->desc->natts)
		elog(ERROR, "the resolver returned a row of another type");
	for (int i = 0; i < table->nkeys; i++)
	{
		int			column = table->keys[i] - 1;

		if (isnull[column])
			return COZE_RESOLUTION_DELETE;
		key[i] = values[column];
		key_of_side[i] = side != NULL ? (Datum) side->values[column] : key[i];
	}
	if (!coze_key_equal(table, key, key_of_side))
	{
		*reason = "the resolver returned a row with another key";
		return COZE_RESOLUTION_HOLD;
	}
	old = MemoryContextSwitchTo(c->context);
	for (int i = 0; i < natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(table->desc, i);

		c->result->isnull[i] = isnull[i] || table->codecs[i] == NULL;
		c->result->values[i] = 0;
		if (c->result->isnull[i])
			continue;
		c->result->values[i] = att->attlen == -1 ?
			(CozeFoldValue) PointerGetDatum(PG_DETOAST_DATUM_COPY(values[i])) :
			(CozeFoldValue) datumCopy(values[i], att->attbyval, att->attlen);
	}
	MemoryContextSwitchTo(old);
	return COZE_RESOLUTION_ROW;
}

static CozeResolution
call(ResolverCall *c, const char **reason)
{
	LOCAL_FCINFO(fcinfo, 4);
	Datum		datum;

	InitFunctionCallInfoData(*fcinfo, &c->resolver->function, 4, InvalidOid, NULL, NULL);
	for (int i = 0; i < 3; i++)
		fcinfo->args[i].value = row_datum(c->table, c->rows[i], &fcinfo->args[i].isnull);
	fcinfo->args[3].value = CStringGetTextDatum(coze_conflict_type_name(c->type));
	fcinfo->args[3].isnull = false;
	for (int i = 0; c->resolver->function.fn_strict && i < 3; i++)
	{
		if (fcinfo->args[i].isnull)
			return COZE_RESOLUTION_HOLD;
	}
	datum = FunctionCallInvoke(fcinfo);
	return fcinfo->isnull ? COZE_RESOLUTION_HOLD : take_row(c, datum, reason);
}

/* Does an error say something about the rows, rather than about this moment or node? */
static bool
is_an_answer(int code)
{
	switch (ERRCODE_TO_CATEGORY(code))
	{
		case MAKE_SQLSTATE('4', '0', '0', '0', '0'):
		case MAKE_SQLSTATE('5', '3', '0', '0', '0'):
		case MAKE_SQLSTATE('5', '5', '0', '0', '0'):
		case MAKE_SQLSTATE('5', '7', '0', '0', '0'):
		case MAKE_SQLSTATE('5', '8', '0', '0', '0'):
		case MAKE_SQLSTATE('X', 'X', '0', '0', '0'):
			return false;
	}
	return code != ERRCODE_STATEMENT_TOO_COMPLEX;
}

/*
 * Under a savepoint: an error holds the conflict, and says why.  Each call finds the pinned
 * settings: what one sets is undone at its end, or the number of calls before would tell.
 */
static CozeResolution
call_guarded(ResolverCall *c, const char **reason)
{
	MemoryContext work = AllocSetContextCreate(CurrentMemoryContext, "cozesync resolver",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile CozeResolution resolution = COZE_RESOLUTION_HOLD;
	int			guc_level;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(work);
	guc_level = NewGUCNestLevel();
	PG_TRY();
	{
		resolution = call(c, reason);
		AtEOXact_GUC(false, guc_level);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(old);
		error = CopyErrorData();
		if (!is_an_answer(error->sqlerrcode))
			PG_RE_THROW();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		*reason = psprintf("resolver failed: %s", error->message);
		resolution = COZE_RESOLUTION_HOLD;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	CurrentResourceOwner = owner;
	MemoryContextDelete(work);
	return resolution;
}

CozeResolution
coze_resolver_call(void *arg, const CozeFoldPolicy *policy, CozeConflictType type,
				   const CozeFoldRow *earlier, const CozeFoldRow *later, const CozeFoldRow *base,
				   CozeFoldRow *result, const char **reason)
{
	CozeTable  *table = ((CozeFoldArg *) arg)->table;
	CozeResolver *resolver = ((CozePolicy *) policy->extra)->resolver;
	ResolverCall c = {
		.table = table,
		.resolver = resolver,
		.type = type == COZE_CONFLICT_DELETE_DELETED ? COZE_CONFLICT_DELETE_UPDATED : type,
		.rows = {earlier, later, base},
		.result = result,
		.context = CurrentMemoryContext,
	};

	prepare(resolver);
	return call_guarded(&c, reason);
}
