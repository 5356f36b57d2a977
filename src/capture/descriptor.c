/*-------------------------------------------------------------------------
 *
 * descriptor.c
 *		The key of a table, and its descriptor.
 *
 * Nodes look at their own tables alone and must come to the same key, so nothing
 * here depends on oids or on the order in which things were created.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "capture/relation.h"
#include "debug.h"

/* Are these columns of the table different, NOT NULL, and stored as they were given? */
static bool
columns_are_suitable(TupleDesc desc, const int2vector *columns, int n)
{
	for (int i = 0; i < n; i++)
	{
		AttrNumber	attnum = columns->values[i];
		Form_pg_attribute att;

		if (attnum <= 0)
			return false;
		att = TupleDescAttr(desc, attnum - 1);
		if (!att->attnotnull || att->attgenerated != '\0')
			return false;
		for (int j = 0; j < i; j++)
			if (columns->values[j] == attnum)
				return false;
	}
	return true;
}

static bool
is_btree(Oid index)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(index));
	bool		result;

	if (!HeapTupleIsValid(tuple))
		return false;
	result = ((Form_pg_class) GETSTRUCT(tuple))->relam == BTREE_AM_OID;
	ReleaseSysCache(tuple);
	return result;
}

static bool
index_is_suitable(Relation rel, HeapTuple tuple)
{
	Form_pg_index form = (Form_pg_index) GETSTRUCT(tuple);

	return form->indisunique && form->indisvalid &&
		(form->indimmediate || !COZE_RULE("immediate-key")) &&
		!form->indisexclusion &&
		heap_attisnull(tuple, Anum_pg_index_indpred, NULL) &&
		heap_attisnull(tuple, Anum_pg_index_indexprs, NULL) &&
		is_btree(form->indexrelid) &&
		columns_are_suitable(RelationGetDescr(rel), &form->indkey, form->indnkeyatts);
}

/* How good a key the index is: the lower the better; 0: none at all. */
static int
index_rank(Relation rel, Oid index)
{
	HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(index));
	Form_pg_index form;
	int			rank = 0;

	if (!HeapTupleIsValid(tuple))
		return 0;
	form = (Form_pg_index) GETSTRUCT(tuple);
	if (index_is_suitable(rel, tuple))
	{
		if (form->indisprimary)
			rank = 1;
		else if (form->indisreplident)
			rank = 2;
		else
			rank = 3;
	}
	ReleaseSysCache(tuple);
	return rank;
}

Oid
coze_capture_key_index(Relation rel)
{
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *lc;
	Oid			best = InvalidOid;
	int			best_rank = 0;
	char	   *best_name = NULL;

	foreach(lc, indexes)
	{
		Oid			index = lfirst_oid(lc);
		int			rank = index_rank(rel, index);
		char	   *name;

		if (rank == 0 || (best_rank != 0 && rank > best_rank))
			continue;
		name = get_rel_name(index);
		if (name == NULL)
			continue;
		if (best_rank == 0 || rank < best_rank || strcmp(name, best_name) < 0)
		{
			best = index;
			best_rank = rank;
			best_name = name;
		}
	}
	list_free(indexes);
	return best;
}

/* Which columns the descriptor has, in its order; returns how many are the key's. */
static int
choose_columns(Relation rel, Oid key_index, AttrNumber *attnums, int *ncolumns)
{
	TupleDesc	desc = RelationGetDescr(rel);
	HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(key_index));
	Form_pg_index form;
	bool	   *is_key = palloc0(sizeof(bool) * desc->natts);
	int			nkeys;
	int			n = 0;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for index %u", key_index);
	form = (Form_pg_index) GETSTRUCT(tuple);
	nkeys = form->indnkeyatts;
	for (int i = 0; i < nkeys; i++)
	{
		attnums[n++] = form->indkey.values[i];
		is_key[form->indkey.values[i] - 1] = true;
	}
	ReleaseSysCache(tuple);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!is_key[i] && !att->attisdropped && att->attgenerated == '\0')
			attnums[n++] = att->attnum;
	}
	pfree(is_key);
	*ncolumns = n;
	return nkeys;
}

static void
describe_column(CozeDescriptorColumn *column, Form_pg_attribute att, CozeCodec *codec)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(att->atttypid));
	Form_pg_type type;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", att->atttypid);
	type = (Form_pg_type) GETSTRUCT(tuple);
	column->name = pstrdup(NameStr(att->attname));
	column->type_schema = get_namespace_name(type->typnamespace);
	column->type_name = pstrdup(NameStr(type->typname));
	column->typmod = att->atttypmod;
	column->flags = coze_codec_is_binary(codec) ? COZE_COLUMN_BINARY : 0;
	ReleaseSysCache(tuple);
}

void
coze_relation_descriptor(Relation rel, Oid key_index, CozeRelationDescriptor *result)
{
	TupleDesc	desc = RelationGetDescr(rel);
	CozeDescriptor *d = &result->descriptor;

	memset(result, 0, sizeof(*result));
	result->attnums = palloc(sizeof(AttrNumber) * desc->natts);
	d->nkeys = choose_columns(rel, key_index, result->attnums, &d->ncolumns);
	d->schema = get_namespace_name(RelationGetNamespace(rel));
	d->table = pstrdup(RelationGetRelationName(rel));
	d->columns = palloc0(sizeof(CozeDescriptorColumn) * d->ncolumns);
	result->codecs = palloc(sizeof(CozeCodec *) * d->ncolumns);
	for (int i = 0; i < d->ncolumns; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, result->attnums[i] - 1);

		result->codecs[i] = coze_codec_make(att->atttypid, att->atttypmod);
		describe_column(&d->columns[i], att, result->codecs[i]);
	}
	coze_wire_put_descriptor(&result->encoded, d);
	d->hash = coze_codec_descriptor_hash(result->encoded.data, result->encoded.size);
}
