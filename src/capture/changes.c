/*-------------------------------------------------------------------------
 *
 * changes.c
 *		The change log as rows: cozesync.changes().
 *
 * Reads what is visible below the horizon, so that nothing shows up later before
 * what was shown.  Tables of the extension itself are left out: they hold DSNs.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/wire.h"
#include "capture/image.h"
#include "log/log.h"
#include "log/members.h"
#include "log/state.h"

PG_FUNCTION_INFO_V1(coze_changes);
PG_FUNCTION_INFO_V1(coze_entry_changes);

#define COZE_CHANGES_COLUMNS 8

/* One call. */
typedef struct CozeListing
{
	ReturnSetInfo *result;
	CozeMember *members;
	int			nmembers;
	int64		left;			/* rows still wanted */
	bool		shows_facts;	/* changes of the extension's own tables, too */
	Snapshot	snapshot;
	CozeImageReader *images;
	MemoryContext row_context;
	CozeEntryHead head;			/* of the entry at hand */
	CozeChangeReader changes;
} CozeListing;

static const char *
operation_name(CozeChangeKind kind)
{
	switch (kind)
	{
		case COZE_CHANGE_INSERT:
			return "insert";
		case COZE_CHANGE_UPDATE:
			return "update";
		case COZE_CHANGE_DELETE:
			return "delete";
		case COZE_CHANGE_TRUNCATE:
			return "truncate";
		case COZE_CHANGE_SUPERSEDED:
			return "superseded";
	}
	return "?";
}

static Datum
origin_name(const CozeListing *listing, CozeOrigin origin)
{
	for (int i = 0; i < listing->nmembers; i++)
		if (listing->members[i].origin == origin)
			return CStringGetTextDatum(listing->members[i].node_name);
	return CStringGetTextDatum(psprintf(UINT64_FORMAT, origin));
}

/* Key and image, in one array. */
static Datum
row_jsonb(CozeListing *listing, const CozeChange *change, const CozeImage *key,
		  const CozeImage *image)
{
	int			n = key->n + image->n;
	CozeValue  *values = palloc(sizeof(CozeValue) * n);

	memcpy(values, key->values, sizeof(CozeValue) * key->n);
	memcpy(values + key->n, image->values, sizeof(CozeValue) * image->n);
	return coze_image_jsonb(listing->images, change->relation, values, NULL, n);
}

/* What is known of the old row when it is not there: old key, old unique values. */
static Datum
partial_jsonb(CozeListing *listing, const CozeChange *change)
{
	int			n = 0;
	CozeValue  *values = palloc(sizeof(CozeValue) * (change->old_key.n + change->nold_unique));
	int		   *columns = palloc(sizeof(int) * (change->old_key.n + change->nold_unique));

	for (int i = 0; i < change->old_key.n; i++)
	{
		columns[n] = i;
		values[n++] = change->old_key.values[i];
	}
	for (int i = 0; i < change->nold_unique; i++)
	{
		if (change->old_unique_columns[i] < change->old_key.n)
			continue;
		columns[n] = change->old_unique_columns[i];
		values[n++] = change->old_unique[i];
	}
	return coze_image_jsonb(listing->images, change->relation, values, columns, n);
}

/* ERROR unless the change's numbers fit its relation. */
static void
check_change(const CozeChange *change, const CozeDescriptor *d)
{
	bool		fits = change->kind == COZE_CHANGE_TRUNCATE || change->key.n == d->nkeys;

	if (change->flags & COZE_CHANGE_NEW_ROW)
		fits &= change->new_row.n == d->ncolumns - d->nkeys;
	if (change->flags & COZE_CHANGE_OLD_ROW)
		fits &= change->old_row.n == d->ncolumns - d->nkeys;
	for (int i = 0; i < change->nold_unique; i++)
		fits &= change->old_unique_columns[i] < d->ncolumns;
	if (!fits)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("a change in the change log does not fit its relation's descriptor")));
}

static void
list_change(CozeListing *listing, const CozeChange *change)
{
	Datum		values[COZE_CHANGES_COLUMNS] = {0};
	bool		isnull[COZE_CHANGES_COLUMNS] = {0};
	const CozeDescriptor *d = coze_image_descriptor(listing->images, change->relation);
	const CozeImage *old_key = &change->key;

	if (!listing->shows_facts && strcmp(d->schema, "cozesync") == 0)
		return;
	check_change(change, d);
	if (change->flags & COZE_CHANGE_OLD_KEY)
		old_key = &change->old_key;
	values[0] = origin_name(listing, listing->head.version.origin);
	values[1] = TimestampTzGetDatum(listing->head.version.hlc);
	values[2] = Int64GetDatum((int64) listing->head.xid);
	values[3] = CStringGetTextDatum(quote_qualified_identifier(d->schema, d->table));
	values[4] = CStringGetTextDatum(operation_name(change->kind));
	isnull[5] = change->key.n == 0;
	if (!isnull[5])
		values[5] = coze_image_jsonb(listing->images, change->relation, change->key.values,
									 NULL, change->key.n);
	if (change->flags & COZE_CHANGE_OLD_ROW)
		values[6] = row_jsonb(listing, change, old_key, &change->old_row);
	else if (change->flags & (COZE_CHANGE_OLD_KEY | COZE_CHANGE_OLD_UNIQUE))
		values[6] = partial_jsonb(listing, change);
	else
		isnull[6] = true;
	isnull[7] = (change->flags & COZE_CHANGE_NEW_ROW) == 0;
	if (!isnull[7])
		values[7] = row_jsonb(listing, change, &change->key, &change->new_row);
	tuplestore_putvalues(listing->result->setResult, listing->result->setDesc, values, isnull);
	listing->left--;
}

/* --- entries --------------------------------------------------------------------------- */

static void
bad_entry(const char *error)
{
	/* also when a segment was emptied just now under who reads at or below the cut */
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("cannot read an entry of the change log"),
			 errdetail_internal("%s", error)));
}

/* More bytes of the body of the entry at hand. */
static void
list_bytes(CozeListing *listing, const char *data, Size size)
{
	MemoryContext old;
	CozeChange	change;

	if (listing->left <= 0)
		return;
	coze_wire_reader_feed(&listing->changes, data, size);
	while (listing->left > 0 && coze_wire_reader_next(&listing->changes, &change) > 0)
	{
		CHECK_FOR_INTERRUPTS();
		old = MemoryContextSwitchTo(listing->row_context);
		list_change(listing, &change);
		MemoryContextSwitchTo(old);
		MemoryContextReset(listing->row_context);
	}
	if (listing->changes.error != NULL)
		bad_entry(listing->changes.error);
}

static void
list_chunk(void *arg, const char *data, Size size)
{
	CozeChunk	chunk;
	const char *error = coze_wire_get_chunk(data, size, &chunk);

	if (error != NULL)
		bad_entry(error);
	list_bytes((CozeListing *) arg, chunk.body, chunk.size);
}

static void
count_chunk(void *arg, const char *data, Size size)
{
	(*(uint32 *) arg)++;
}

/*
 * Are the chunks of the entry at hand all there?  Of an entry at or below the cut they
 * may be gone while its head is still there.
 */
static bool
chunks_are_there(CozeListing *listing, int64 chunks)
{
	uint32		n = 0;

	if (listing->head.version.hlc > coze_cut())
		return true;
	coze_log_read_chunks(chunks, listing->snapshot, count_chunk, &n);
	return n == listing->head.nchunks;
}

static void
list_entry(CozeListing *listing, const CozeLogEntry *entry)
{
	const char *error = coze_wire_get_head(entry->head, entry->size, &listing->head);

	if (error != NULL)
		bad_entry(error);
	if (listing->head.nchanges > 0)
	{
		coze_wire_reader_init(&listing->changes);
		if (listing->head.nchunks == 0)
			list_bytes(listing, listing->head.inline_body, listing->head.inline_size);
		else if (chunks_are_there(listing, entry->chunks))
			coze_log_read_chunks(entry->chunks, listing->snapshot, list_chunk, listing);
		coze_wire_reader_free(&listing->changes);
	}
	coze_vector_free(&listing->head.seen);
}

/*
 * What is to be read: of all origins, or of those that have the name (a node has
 * one for each of its incarnations).
 */
static void
choose_origins(const CozeListing *listing, const char *name, CozeHlc from,
			   CozeVector *after, CozeVector *upto)
{
	CozeHlc		horizon;
	bool		found = false;
	CozeVector	all;

	coze_vector_init(&all);
	coze_held(&all);
	horizon = coze_clock_horizon(NULL);
	coze_vector_set(&all, coze_own_origin(), horizon - 1);
	for (int i = 0; name != NULL && i < listing->nmembers; i++)
	{
		CozeOrigin	origin = listing->members[i].origin;

		if (strcmp(listing->members[i].node_name, name) != 0)
			continue;
		found = true;
		coze_vector_raise(upto, origin, coze_vector_get(&all, origin));
	}
	if (name == NULL)
		coze_vector_merge(upto, &all);
	else if (!found)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("node \"%s\" does not exist", name)));
	for (int i = 0; i < upto->n; i++)
		coze_vector_set(after, upto->e[i].origin, from);
}

static void
begin_listing(CozeListing *listing, FunctionCallInfo fcinfo)
{
	memset(listing, 0, sizeof(*listing));
	if (coze_attach() == COZE_NODE_NONE)
		coze_check_member();
	InitMaterializedSRF(fcinfo, 0);
	listing->result = (ReturnSetInfo *) fcinfo->resultinfo;
	listing->left = PG_INT64_MAX;
	listing->members = coze_members_read(&listing->nmembers);
	listing->images = coze_image_reader_make();
	listing->row_context = AllocSetContextCreate(CurrentMemoryContext, "cozesync change",
												 ALLOCSET_DEFAULT_SIZES);
}

/* The horizon was read before, so that all below it is visible. */
static void
list_entries(CozeListing *listing, const CozeVector *after, const CozeVector *upto)
{
	CozeLogReader *reader;
	CozeLogEntry entry;

	listing->snapshot = RegisterSnapshot(GetLatestSnapshot());
	reader = coze_log_open(after, upto, listing->snapshot);
	while (listing->left > 0 && coze_log_next(reader, &entry))
		list_entry(listing, &entry);
	coze_log_close(reader);
	UnregisterSnapshot(listing->snapshot);
}

/*
 * cozesync.changes(after timestamptz, origin text, max_rows int)
 */
Datum
coze_changes(PG_FUNCTION_ARGS)
{
	CozeListing listing;
	CozeVector	after = {0};
	CozeVector	upto = {0};

	begin_listing(&listing, fcinfo);
	if (!PG_ARGISNULL(2))
		listing.left = PG_GETARG_INT32(2);
	choose_origins(&listing, PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1)),
				   PG_ARGISNULL(0) ? 0 : PG_GETARG_TIMESTAMPTZ(0), &after, &upto);
	list_entries(&listing, &after, &upto);
	return (Datum) 0;
}

/* cozesync.entry_changes(origin bigint, hlc bigint): of one entry that is held here */
Datum
coze_entry_changes(PG_FUNCTION_ARGS)
{
	CozeOrigin	origin = (CozeOrigin) PG_GETARG_INT64(0);
	CozeHlc		hlc = PG_GETARG_INT64(1);
	CozeListing listing;
	CozeVector	after = {0};
	CozeVector	upto = {0};

	begin_listing(&listing, fcinfo);
	listing.shows_facts = true;
	coze_vector_set(&after, origin, hlc - 1);
	coze_vector_set(&upto, origin, hlc);
	list_entries(&listing, &after, &upto);
	return (Datum) 0;
}
