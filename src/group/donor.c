/*-------------------------------------------------------------------------
 *
 * donor.c
 *		What a member does for a node that joins through it.
 *
 * Invariant: in a snapshot given to a joiner the own entries are a prefix: with an
 * entry every lower one of this node is in it.  So one hlc says which of them the
 * copied rows hold, and the stream goes on exactly there.  A commit is never made
 * to wait for that; a moment is looked for at which it is so.
 *
 * The cut stands still from the admission to the joiner's first entry, so that
 * nothing that the joiner has yet to take over is pruned.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "base/codec.h"
#include "base/wire.h"
#include "capture/precommit.h"
#include "capture/relation.h"
#include "debug.h"
#include "log/log.h"
#include "log/state.h"

PG_FUNCTION_INFO_V1(coze_donor_take_snapshot);
PG_FUNCTION_INFO_V1(coze_donor_last_version);
PG_FUNCTION_INFO_V1(coze_donor_changed_keys);
PG_FUNCTION_INFO_V1(coze_donor_last_logged);

/* How long to look for a moment without holes among the own entries. */
#define SNAPSHOT_PATIENCE_MS 60000

/* --- the snapshot ------------------------------------------------------------------ */

/* Does the snapshot show no own entry at or above the horizon that was read before it? */
static bool
is_prefix(Snapshot snapshot, CozeHlc horizon)
{
	CozeHlc		last;

	if (!COZE_RULE("clean-snapshot"))
		return true;
	return !coze_log_last(coze_own_origin(), PG_INT64_MAX, snapshot, &last, NULL, NULL) ||
		last < horizon;
}

/*
 * take_snapshot() returns text: the name of an exported snapshot, valid until the end
 * of the transaction.
 */
Datum
coze_donor_take_snapshot(PG_FUNCTION_ARGS)
{
	TimestampTz start = GetCurrentTimestamp();

	coze_check_member();
	for (;;)
	{
		CozeHlc		horizon = coze_clock_horizon(NULL);
		Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());

		if (is_prefix(snapshot, horizon))
		{
			char	   *name = ExportSnapshot(snapshot);

			UnregisterSnapshot(snapshot);
			PG_RETURN_TEXT_P(cstring_to_text(name));
		}
		UnregisterSnapshot(snapshot);
		if (TimestampDifferenceExceeds(start, GetCurrentTimestamp(), SNAPSHOT_PATIENCE_MS))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("found no moment for a snapshot within %d seconds",
							SNAPSHOT_PATIENCE_MS / 1000),
					 errdetail("There were always commits under way that had overtaken others."),
					 errhint("Try again when fewer transactions commit at a time.")));
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 1L,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* last_logged(origin bigint) returns bigint: of the last entry in the log, NULL if there is none */
Datum
coze_donor_last_logged(PG_FUNCTION_ARGS)
{
	CozeHlc		hlc = coze_log_highest((CozeOrigin) PG_GETARG_INT64(0), GetActiveSnapshot());

	if (hlc == 0)
		PG_RETURN_NULL();
	PG_RETURN_INT64(hlc);
}

/* last_version(OUT origin bigint, OUT hlc bigint): of this session's last entry */
Datum
coze_donor_last_version(PG_FUNCTION_ARGS)
{
	CozeVersion version = coze_capture_last_version();
	TupleDesc	desc;
	Datum		values[2] = {Int64GetDatum((int64) version.origin), Int64GetDatum(version.hlc)};
	bool		nulls[2] = {version.hlc == 0, version.hlc == 0};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* --- which keys of a table have changed since ------------------------------------------ */

typedef struct KeySearch
{
	ReturnSetInfo *result;
	Relation	rel;
	CozeRelationDescriptor described;	/* as the table is now */
	FmgrInfo   *output;			/* by key column */
	bool		lost;			/* keys alone do not tell: the whole table has changed */
	bool		is_joined;		/* by a second unique key: an operation may change other rows, too */
	CozeChangeReader reader;
} KeySearch;

/* Text of each key column, as an array. */
static void
put_key(KeySearch *search, const CozeImage *key)
{
	CozeDescriptor *d = &search->described.descriptor;
	Datum	   *texts = palloc(key->n * sizeof(Datum));
	Datum		values[1];
	bool		nulls[1] = {false};

	for (int i = 0; i < key->n; i++)
	{
		bool		isnull;
		Datum		value = coze_codec_get(search->described.codecs[i],
										   (d->columns[i].flags & COZE_COLUMN_BINARY) != 0,
										   &key->values[i], &isnull);

		texts[i] = CStringGetTextDatum(OutputFunctionCall(&search->output[i], value));
	}
	values[0] = PointerGetDatum(construct_array(texts, key->n, TEXTOID, -1, false, TYPALIGN_INT));
	tuplestore_putvalues(search->result->setResult, search->result->setDesc, values, nulls);
}

/* Is it the table that we look at, whatever it looked like? */
static bool
names_table(KeySearch *search, uint64 hash)
{
	Size		size;
	char	   *data;
	CozeDescriptor d;

	if (hash == search->described.descriptor.hash)
		return true;
	data = coze_log_get_descriptor(hash, &size);
	if (data == NULL || coze_wire_get_descriptor(data, size, &d) != NULL)
		return true;			/* cannot tell, so suppose the worst */
	return strcmp(d.table, RelationGetRelationName(search->rel)) == 0 &&
		strcmp(d.schema, get_namespace_name(RelationGetNamespace(search->rel))) == 0;
}

static void
take_changes(void *arg, const char *data, Size size)
{
	KeySearch  *search = arg;
	CozeChange	change;
	int			got;

	coze_wire_reader_feed(&search->reader, data, size);
	while ((got = coze_wire_reader_next(&search->reader, &change)) > 0)
	{
		if (search->lost || !names_table(search, change.relation))
			continue;
		if (change.kind == COZE_CHANGE_TRUNCATE || search->is_joined ||
			change.relation != search->described.descriptor.hash)
		{
			search->lost = true;
			continue;
		}
		put_key(search, &change.key);
		if (change.flags & COZE_CHANGE_OLD_KEY)
			put_key(search, &change.old_key);
	}
	if (got < 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("entry in the change log is damaged: %s", search->reader.error)));
}

static void
take_chunk(void *arg, const char *data, Size size)
{
	CozeChunk	chunk;
	const char *error = coze_wire_get_chunk(data, size, &chunk);

	if (error != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("entry in the change log is damaged: %s", error)));
	take_changes(arg, chunk.body, chunk.size);
}

static void
take_entry(KeySearch *search, const CozeLogEntry *entry, Snapshot snapshot)
{
	CozeEntryHead head;
	const char *error = coze_wire_get_head(entry->head, entry->size, &head);

	if (error != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("entry in the change log is damaged: %s", error)));
	coze_wire_reader_init(&search->reader);
	if (head.nchunks > 0)
		coze_log_read_chunks(entry->chunks, snapshot, take_chunk, search);
	else
		take_changes(search, head.inline_body, head.inline_size);
	coze_wire_reader_free(&search->reader);
}

/* Vector from two arrays of the same length. */
static void
vector_from_arrays(CozeVector *v, ArrayType *origins, ArrayType *hlcs)
{
	Datum	   *o;
	Datum	   *h;
	int			no;
	int			nh;

	deconstruct_array(origins, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &o, NULL, &no);
	deconstruct_array(hlcs, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &h, NULL, &nh);
	coze_vector_init(v);
	for (int i = 0; i < Min(no, nh); i++)
		coze_vector_set(v, (CozeOrigin) DatumGetInt64(o[i]), DatumGetInt64(h[i]));
}

static bool
has_second_unique(Relation rel, Oid key_index)
{
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *lc;
	bool		found = false;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		found |= lfirst_oid(lc) != key_index && index->rd_index->indisunique;
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	return found;
}

static void
begin_search(KeySearch *search, ReturnSetInfo *result, Relation rel)
{
	Oid			key_index = coze_capture_key_index(rel);

	memset(search, 0, sizeof(*search));
	search->result = result;
	search->rel = rel;
	if (!OidIsValid(key_index))
	{
		search->lost = true;
		return;
	}
	search->is_joined = has_second_unique(rel, key_index);
	coze_relation_descriptor(rel, key_index, &search->described);
	search->output = palloc(search->described.descriptor.nkeys * sizeof(FmgrInfo));
	for (int i = 0; i < search->described.descriptor.nkeys; i++)
	{
		Oid			type = TupleDescAttr(RelationGetDescr(rel), search->described.attnums[i] - 1)->atttypid;
		Oid			output;
		bool		varlena;

		getTypeOutputInfo(type, &output, &varlena);
		fmgr_info(output, &search->output[i]);
	}
}

/*
 * changed_keys(relation regclass, origins bigint[], hlcs bigint[], upto_origins bigint[],
 * upto_hlcs bigint[]) returns setof text[]: the keys of a table that entries above the
 * first vector and up to the second touch, some of them more than once.  A NULL among
 * them: more has changed than keys can tell, or the log has been pruned since.
 */
Datum
coze_donor_changed_keys(PG_FUNCTION_ARGS)
{
	KeySearch	search;
	CozeVector	after;
	CozeVector	upto;
	CozeLogReader *reader;
	CozeLogEntry entry;
	Snapshot	snapshot = GetActiveSnapshot();
	Relation	rel = table_open(PG_GETARG_OID(0), AccessShareLock);
	MemoryContext per_entry = AllocSetContextCreate(CurrentMemoryContext, "cozesync entry",
													ALLOCSET_DEFAULT_SIZES);

	coze_check_member();
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	vector_from_arrays(&after, PG_GETARG_ARRAYTYPE_P(1), PG_GETARG_ARRAYTYPE_P(2));
	vector_from_arrays(&upto, PG_GETARG_ARRAYTYPE_P(3), PG_GETARG_ARRAYTYPE_P(4));
	for (int i = 0; i < upto.n; i++)
		coze_vector_set(&after, upto.e[i].origin, coze_vector_get(&after, upto.e[i].origin));
	begin_search(&search, (ReturnSetInfo *) fcinfo->resultinfo, rel);

	reader = coze_log_open(&after, &upto, snapshot);
	while (!search.lost && coze_log_next(reader, &entry))
	{
		MemoryContext old = MemoryContextSwitchTo(per_entry);

		CHECK_FOR_INTERRUPTS();
		take_entry(&search, &entry, snapshot);
		MemoryContextSwitchTo(old);
		MemoryContextReset(per_entry);
	}
	coze_log_close(reader);
	if (search.lost || !coze_log_read_is_whole(&after))
	{
		Datum		values[1] = {(Datum) 0};
		bool		nulls[1] = {true};

		tuplestore_putvalues(search.result->setResult, search.result->setDesc, values, nulls);
	}
	table_close(rel, AccessShareLock);
	return (Datum) 0;
}
