/*-------------------------------------------------------------------------
 *
 * records.c
 *		Base records: states at the cut that pruning keeps.
 *
 * Only tables that fold have them, and only while an operation above the cut is
 * partial: its author did not hold everything at or below the cut.  They are
 * written by the transaction that moves the cut.
 *
 * A record is stored by column name and in the bytes of the wire, so that a node
 * that joins can take it over:
 *
 *	key:	n, then n times: name, form, value
 *	state:	flags; marks of presence; marks of all columns, or n and n times: name,
 *			marks; the row if there is one: n, then n times: name, form, value; what
 *			an absence is ranked by, likewise
 *
 * with counts of 2 bytes, a name as 1 byte of length and its bytes, a form of 1
 * byte (1: binary), marks as a count and (hlc, origin) of 8 bytes each.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "apply/index.h"
#include "apply/records.h"
#include "base/wire_read.h"
#include "debug.h"
#include "log/catalog.h"
#include "log/log.h"

#define STATE_ROW		0x01
#define STATE_RANKED	0x02	/* differs from the row */
#define STATE_TRUNCATED	0x04
#define STATE_COLUMNS	0x08	/* marks differ by column */

/* --- bytes --- */

static void
put_name(CozeBuf *buf, const CozeTable *table, int column)
{
	const char *name = NameStr(TupleDescAttr(table->desc, column)->attname);

	coze_buf_put_u8(buf, (uint8) strlen(name));
	coze_buf_put(buf, name, strlen(name));
}

static void
put_value(CozeBuf *buf, const CozeTable *table, int column, Datum value, bool isnull)
{
	CozeCodec  *codec = table->codecs[column];

	put_name(buf, table, column);
	coze_buf_put_u8(buf, coze_codec_is_binary(codec) ? 1 : 0);
	coze_codec_put(codec, buf, value, isnull);
}

static void
put_marks(CozeBuf *buf, const CozeMarks *marks)
{
	int			n = marks != NULL ? marks->n : 0;

	coze_buf_put_u16(buf, (uint16) n);
	for (int i = 0; i < n; i++)
	{
		coze_buf_put_u64(buf, (uint64) marks->v[i].hlc);
		coze_buf_put_u64(buf, marks->v[i].origin);
	}
}

static void
put_row(CozeBuf *buf, const CozeTable *table, const CozeFoldRow *row)
{
	int			n = 0;

	for (int i = 0; i < table->desc->natts; i++)
		n += table->codecs[i] != NULL && coze_row_knows(row, i);
	coze_buf_put_u16(buf, (uint16) n);
	for (int i = 0; i < table->desc->natts; i++)
	{
		if (table->codecs[i] != NULL && coze_row_knows(row, i))
			put_value(buf, table, i, (Datum) row->values[i], row->isnull[i]);
	}
}

static void
put_state(CozeBuf *buf, const CozeTable *table, const CozeState *state)
{
	bool		ranked = state->ranked != NULL && state->ranked != state->row;

	coze_buf_put_u8(buf, (state->row != NULL ? STATE_ROW : 0) | (ranked ? STATE_RANKED : 0) |
					(state->truncated ? STATE_TRUNCATED : 0) |
					(state->columns != NULL ? STATE_COLUMNS : 0));
	put_marks(buf, state->presence);
	if (state->columns == NULL)
		put_marks(buf, state->all_columns);
	else
	{
		int			n = 0;

		for (int i = 0; i < table->desc->natts; i++)
			n += table->codecs[i] != NULL;
		coze_buf_put_u16(buf, (uint16) n);
		for (int i = 0; i < table->desc->natts; i++)
		{
			if (table->codecs[i] == NULL)
				continue;
			put_name(buf, table, i);
			put_marks(buf, state->columns[i]);
		}
	}
	if (state->row != NULL)
		put_row(buf, table, state->row);
	if (ranked)
		put_row(buf, table, state->ranked);
}

static void
put_key(CozeBuf *buf, const CozeTable *table, const Datum *key)
{
	coze_buf_put_u16(buf, (uint16) table->nkeys);
	for (int i = 0; i < table->nkeys; i++)
		put_value(buf, table, table->keys[i] - 1, key[i], false);
}

/* --- and back --- */

static void
damaged(const CozeTable *table)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("a base record of table \"%s.%s\" is damaged", table->schema, table->name)));
}

/* -1: no such column here any more. */
static int
get_name(CozeCursor *c, const CozeTable *table)
{
	Size		size = coze_read_u8(c);
	const char *name = coze_read_bytes(c, size);

	if (name == NULL)
		damaged(table);
	for (int i = 0; i < table->desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(table->desc, i);

		if (table->codecs[i] != NULL && strlen(NameStr(att->attname)) == size &&
			memcmp(NameStr(att->attname), name, size) == 0)
			return i;
	}
	return -1;
}

static int
get_value(CozeCursor *c, const CozeTable *table, Datum *datum, bool *isnull)
{
	int			column = get_name(c, table);
	bool		binary = coze_read_u8(c) != 0;
	CozeValue	value;

	if (c->failed)
		damaged(table);
	value = coze_wire_read_value(c);
	if (c->failed)
		damaged(table);
	if (column >= 0)
		*datum = coze_codec_get(table->codecs[column], binary, &value, isnull);
	return column;
}

static CozeFoldRow *
get_row(CozeCursor *c, const CozeTable *table)
{
	int			n = coze_read_u16(c);
	CozeFoldRow *row = coze_row_make(table->desc->natts);

	row->known = palloc(table->desc->natts * sizeof(bool));
	for (int i = 0; i < table->desc->natts; i++)
		row->known[i] = table->codecs[i] == NULL;
	for (int i = 0; i < n; i++)
	{
		Datum		datum;
		bool		isnull;
		int			column = get_value(c, table, &datum, &isnull);

		if (column < 0)
			continue;
		row->values[column] = isnull ? (Datum) 0 : datum;
		row->isnull[column] = isnull;
		row->known[column] = true;
	}
	if (coze_row_complete(table->desc->natts, row))
		row->known = NULL;
	return row;
}

static const CozeMarks *
get_marks(CozeCursor *c, const CozeTable *table)
{
	int			n = coze_read_u16(c);
	CozeMarks  *marks;

	if (n == 0)
		return NULL;
	if (coze_cursor_left(c) / 16 < (Size) n)
		damaged(table);
	marks = palloc(offsetof(CozeMarks, v) + n * sizeof(CozeVersion));
	marks->n = n;
	for (int i = 0; i < n; i++)
	{
		marks->v[i].hlc = coze_read_i64(c);
		marks->v[i].origin = coze_read_u64(c);
	}
	return marks;
}

static const CozeState *
get_state(const CozeTable *table, bytea *bytes)
{
	CozeCursor	c = coze_cursor(VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
	CozeState  *state = palloc0(sizeof(CozeState));
	uint8		flags = coze_read_u8(&c);

	state->truncated = (flags & STATE_TRUNCATED) != 0;
	state->presence = get_marks(&c, table);
	if (flags & STATE_COLUMNS)
	{
		const CozeMarks **columns = palloc0(table->desc->natts * sizeof(CozeMarks *));
		int			n = coze_read_u16(&c);

		for (int i = 0; i < n; i++)
		{
			int			column = get_name(&c, table);
			const CozeMarks *marks = get_marks(&c, table);

			if (column >= 0)
				columns[column] = marks;
		}
		state->columns = columns;
	}
	else
		state->all_columns = get_marks(&c, table);
	if (flags & STATE_ROW)
		state->row = state->ranked = get_row(&c, table);
	if (flags & STATE_RANKED)
		state->ranked = get_row(&c, table);
	if (c.failed)
		damaged(table);
	return state;
}

static Datum *
get_key(const CozeTable *table, bytea *bytes)
{
	CozeCursor	c = coze_cursor(VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
	Datum	   *key = palloc0(table->nkeys * sizeof(Datum));
	int			n = coze_read_u16(&c);
	int			found = 0;

	for (int i = 0; i < n; i++)
	{
		Datum		datum;
		bool		isnull;
		int			column = get_value(&c, table, &datum, &isnull);

		for (int k = 0; k < table->nkeys; k++)
		{
			if (column == table->keys[k] - 1 && !isnull)
			{
				key[k] = datum;
				found++;
			}
		}
	}
	if (found != table->nkeys)
		damaged(table);
	return key;
}

/* --- reading --- */

List *
coze_records_read(CozeTable *table)
{
	Relation	rel = table_open(coze_relation_oid("base_record", false), AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0, NULL);
	TupleDesc	desc = RelationGetDescr(rel);
	HeapTuple	tuple;
	List	   *records = NIL;

	/* There are few: an unfinished conflict has to straddle the cut. */
	while ((tuple = systable_getnext(scan)) != NULL)
	{
		bool		isnull;
		CozeBaseRecord *record;

		if (strcmp(TextDatumGetCString(heap_getattr(tuple, 1, desc, &isnull)), table->schema) != 0 ||
			strcmp(TextDatumGetCString(heap_getattr(tuple, 2, desc, &isnull)), table->name) != 0)
			continue;
		record = palloc(sizeof(CozeBaseRecord));
		record->key = get_key(table, DatumGetByteaPP(heap_getattr(tuple, 3, desc, &isnull)));
		record->state = get_state(table, DatumGetByteaPCopy(heap_getattr(tuple, 4, desc, &isnull)));
		records = lappend(records, record);
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	return records;
}

const CozeState *
coze_record_of_key(List *records, CozeTable *table, const Datum *key)
{
	ListCell   *lc;

	foreach(lc, records)
	{
		CozeBaseRecord *record = lfirst(lc);

		if (coze_key_equal(table, record->key, key))
			return record->state;
	}
	return NULL;
}

/* Add the keys of records whose row has a unique value. */
void
coze_records_with_value(CozeClosure *closure, int index, const CozeUniqueValue *value)
{
	ListCell   *lc;

	foreach(lc, closure->records)
	{
		CozeBaseRecord *record = lfirst(lc);
		CozeUniqueValue theirs;

		if (record->state->row != NULL &&
			coze_unique_value(closure->table, index,
							  coze_row_of_fold(closure->table, record->state->row), &theirs) &&
			coze_unique_same(closure->table, index, &theirs, value))
			coze_closure_add_key(closure, record->key);
	}
}

/* --- keeping --- */

static Datum
bytes_of(CozeBuf *buf)
{
	bytea	   *b = palloc(VARHDRSZ + buf->size);

	SET_VARSIZE(b, VARHDRSZ + buf->size);
	memcpy(VARDATA(b), buf->data, buf->size);
	coze_buf_free(buf);
	return PointerGetDatum(b);
}

static void
delete_records(const CozeTable *table)
{
	Oid			types[] = {TEXTOID, TEXTOID};
	Datum		values[] = {CStringGetTextDatum(table->schema), CStringGetTextDatum(table->name)};

	if (SPI_execute_with_args("DELETE FROM cozesync.base_record WHERE schema_name = $1 AND table_name = $2",
							  2, types, values, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not delete base records");
}

static void
insert_record(const CozeTable *table, const Datum *key, const CozeState *state)
{
	Oid			types[] = {TEXTOID, TEXTOID, BYTEAOID, BYTEAOID};
	Datum		values[4];
	CozeBuf		buf;

	values[0] = CStringGetTextDatum(table->schema);
	values[1] = CStringGetTextDatum(table->name);
	coze_buf_init(&buf);
	put_key(&buf, table, key);
	values[2] = bytes_of(&buf);
	put_state(&buf, table, state);
	values[3] = bytes_of(&buf);
	if (SPI_execute_with_args("INSERT INTO cozesync.base_record VALUES ($1, $2, $3, $4)",
							  4, types, values, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not write a base record");
}

/* The last entry of each origin at or below the new cut, as this transaction left it. */
static void
read_at_cut(CozeVector *at_cut)
{
	Relation	rel = table_open(coze_relation_oid("base", false), AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0, NULL);
	HeapTuple	tuple;

	while ((tuple = systable_getnext(scan)) != NULL)
	{
		bool		isnull;

		coze_vector_set(at_cut,
						(CozeOrigin) DatumGetInt64(heap_getattr(tuple, 1, RelationGetDescr(rel), &isnull)),
						DatumGetInt64(heap_getattr(tuple, 2, RelationGetDescr(rel), &isnull)));
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
}

typedef struct PartialArg
{
	CozeClosure *closure;
	CozeTable  *table;
	bool		truncate;
} PartialArg;

static void
add_changed_key(void *arg, const CozeChange *change)
{
	PartialArg *p = arg;
	CozeMap    *map = coze_map_get(change->relation);
	Datum		key[INDEX_MAX_KEYS];

	if (!coze_map_resolve(map, true) || map->table != p->table)
		return;
	if (change->kind == COZE_CHANGE_TRUNCATE)
	{
		p->truncate = true;
		return;
	}
	coze_map_key(map, &change->key, key);
	coze_closure_add_key(p->closure, key);
	if (change->flags & COZE_CHANGE_OLD_KEY)
	{
		coze_map_key(map, &change->old_key, key);
		coze_closure_add_key(p->closure, key);
	}
}

static void
ignore_change(void *arg, const CozeChange *change)
{
}

static bool
is_partial(CozeVersion version, const CozeVector *at_cut)
{
	CozeEntryHead head;
	CozeFoldEntry entry = {.version = version,.seen = &head.seen};

	return coze_read_entry(version, &head, 0, ignore_change, NULL) && coze_fold_partial(&entry, at_cut);
}

/*
 * Origins of which an entry was met that is not partial: since V never falls, no
 * later one is.
 */
static bool
is_done(const CozeVector *done, CozeVersion version)
{
	return coze_vector_get(done, version.origin) != 0;
}

/* Add the keys that partial operations bear on; false: there are none. */
static bool
add_partial(CozeClosure *closure, CozeHlc new_cut, const CozeVector *at_cut)
{
	CozeTable  *table = closure->table;
	PartialArg	arg = {closure, table, false};
	CozeVector	done = {0};
	CozeVersion *versions;
	int			n;
	bool		any = false;

	versions = coze_index_entries_on(table->relid, &n);
	for (int i = 0; i < n; i++)
	{
		CozeEntryHead head;

		if (versions[i].hlc <= new_cut || is_done(&done, versions[i]))
			continue;
		if (!is_partial(versions[i], at_cut))
		{
			coze_vector_set(&done, versions[i].origin, versions[i].hlc);
			continue;
		}
		any = true;
		coze_read_entry(versions[i], &head, UINT32_MAX, add_changed_key, &arg);
	}
	for (CozeIndexOp *op = coze_index_first(table->relid, COZE_SLOT_TRUNCATE, 0); op != NULL;
		 op = coze_index_next(op))
	{
		if (op->hlc > new_cut && is_partial(coze_index_version(op), at_cut))
			any = arg.truncate = true;
	}
	if (arg.truncate)
		coze_closure_add_all(closure);
	return any;
}

/*
 * Fold the closure up to the new cut; the states, and which of them must be kept.
 *
 * Nothing is locked, so users go on writing.  What a row shows must be known when the
 * fold begins, be it above the cut: so the index is brought up to date after rows were read.
 */
static const CozeState **
states_at(CozeClosure *closure, CozeClosureFold *f, CozeHlc new_cut, const CozeVector *at_cut,
		  bool **record)
{
	CozeFold   *fold;
	int			below = 0;
	ListCell   *lc;

	foreach(lc, closure->records)
	{
		coze_closure_add_key(closure, ((CozeBaseRecord *) lfirst(lc))->key);
	}
	COZE_DEBUG_POINT("records-before-rows");
	do
		coze_closure_complete(closure);
	while (COZE_RULE("rows-then-index") && coze_index_extend_on(closure->table->relid) &&
		   coze_closure_recheck(closure));
	coze_closure_prepare(closure, f, NULL, closure);
	while (below < f->nentries && f->entries[below].version.hlc <= new_cut)
		below++;
	fold = coze_fold(&f->table, f->nkeys, f->base, f->entries, below);
	*record = palloc0(Max(1, f->nkeys) * sizeof(bool));
	for (int k = 0; k < f->nkeys; k++)
		(*record)[k] = f->keys[k]->record != NULL;
	coze_fold_keep_records(&f->table, f->nkeys, fold->states, f->entries + below,
						   f->nentries - below, at_cut, *record);
	return fold->states;
}

static CozeTarget *
open_target(CozeTable *table)
{
	CozeTarget *target = coze_target_open(table);

	if (target == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("table \"%s.%s\" is being altered", table->schema, table->name)));
	return target;
}

static void
keep_of_table(CozeTable *table, CozeHlc new_cut, const CozeVector *at_cut)
{
	CozeClosure closure;
	CozeClosureFold f;
	CozeVersion none = {0, 0};
	CozeOwnerState owner;
	const CozeState **states = NULL;
	bool	   *record;

	coze_owner_enter(table, &owner);
	coze_closure_begin(&closure, table, NULL, false, none);
	if (add_partial(&closure, new_cut, at_cut))
	{
		closure.target = open_target(table);
		states = states_at(&closure, &f, new_cut, at_cut, &record);
	}
	coze_owner_leave(&owner);
	if (closure.records != NIL)
		delete_records(table);
	for (int k = 0; states != NULL && k < f.nkeys; k++)
	{
		if (record[k])
			insert_record(table, f.keys[k]->key, states[k]);
	}
}

/* The cut moves: keep what an operation above it may still have to be joined with. */
void
coze_records_keep(CozeHlc old_cut, CozeHlc new_cut)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cozesync base records",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	CozeVector	at_cut = {0};
	ListCell   *lc;

	coze_index_begin();
	read_at_cut(&at_cut);
	SPI_connect();
	foreach(lc, coze_tables_known())
	{
		CozeTable  *table = lfirst(lc);

		if (coze_table_folds(table))
			keep_of_table(table, new_cut, &at_cut);
	}
	SPI_finish();
	coze_target_close_all();
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
