/*-------------------------------------------------------------------------
 *
 * conflict.c
 *		Writing the conflict log.
 *
 * Records are gathered in memory while the entries of a transaction are decided
 * and written at its end, so that what a table owner planted (casts to json)
 * runs with his rights, and the writing with ours.
 *
 * A record that exists already is left as it is, unless another kind of conflict
 * has become of it.  That somebody settled it changes neither: what there is a record
 * of follows the set of entries, and who settled it the settlements, which every node
 * has, so that a node where the settlement came before the conflict ends up with the
 * same.  Of tables that do not fold a loser has one record, whoever won: which of
 * several winners a node meets first depends on the order of arrival.
 *
 * Listeners are told in a transaction of its own, after the conflict is visible,
 * so that a full notification queue stops nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "nodes/pg_list.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "apply/conflict.h"
#include "apply/ops.h"
#include "settings.h"

/* A notification's payload must be shorter than 8000 bytes. */
#define PAYLOAD_MAX 7900
#define NOTES_MAX 1000

/* What to do to the conflict log, in the order in which it was found out. */
typedef enum ActionKind
{
	ACTION_NOTE,
	ACTION_WITHDRAW,			/* conflict: only what names it */
	ACTION_WITHDRAW_SEEN,		/* conflict: table, key; decided names the entry */
} ActionKind;

typedef struct Action
{
	ActionKind	kind;
	CozeConflict conflict;
	ArrayType  *seen;			/* by the entry, as bigint: origin and hlc */
} Action;

static MemoryContext conflict_context = NULL;	/* of this transaction */
static List *actions = NIL;
static int	nwritten = 0;		/* notes of this transaction that are written already */

/* So many are gathered before they are written. */
#define ACTIONS_MAX 1000

static MemoryContext notify_context = NULL;
static List *payloads = NIL;	/* of the transactions since the last notification */
static SPIPlanPtr insert_plan = NULL;
static SPIPlanPtr withdraw_plan = NULL;
static SPIPlanPtr withdraw_seen_plan = NULL;
static SPIPlanPtr settled_plan = NULL;

/* --- rows as jsonb --- */

static Datum
text_to_jsonb(text *json)
{
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(text_to_cstring(json)));
}

/* A row as to_jsonb() has it, without what is not known of it. */
Datum
coze_row_to_jsonb(const CozeTable *table, const CozeRow *row)
{
	TupleDesc	desc;
	HeapTuple	tuple;
	Datum		datum;

	if (row == NULL)
		return (Datum) 0;
	desc = CreateTupleDescCopy(table->desc);
	for (int i = 0; i < desc->natts; i++)
	{
		if (!row->known[i])
			TupleDescAttr(desc, i)->attisdropped = true;
	}
	desc->tdtypeid = RECORDOID;
	desc->tdtypmod = -1;
	BlessTupleDesc(desc);
	tuple = heap_form_tuple(desc, row->values, row->isnull);
	datum = heap_copy_tuple_as_datum(tuple, desc);
	return text_to_jsonb(DatumGetTextPP(DirectFunctionCall1(row_to_json, datum)));
}

Datum
coze_key_to_jsonb(const CozeTable *table, const Datum *key)
{
	CozeRow    *row = coze_row_alloc(table);

	for (int i = 0; i < table->nkeys; i++)
	{
		row->values[table->keys[i] - 1] = key[i];
		row->isnull[table->keys[i] - 1] = false;
		row->known[table->keys[i] - 1] = true;
	}
	return coze_row_to_jsonb(table, row);
}

/* --- gathering --- */

static Datum
keep(Datum jsonb)
{
	return jsonb == (Datum) 0 ? jsonb : PointerGetDatum(PG_DETOAST_DATUM_COPY(jsonb));
}

static MemoryContext
enter_context(void)
{
	if (conflict_context == NULL)
		conflict_context = AllocSetContextCreate(TopTransactionContext, "cozesync conflicts",
												 ALLOCSET_DEFAULT_SIZES);
	return MemoryContextSwitchTo(conflict_context);
}

static Action *
add_action(ActionKind kind, const CozeConflict *conflict)
{
	Action	   *action = palloc0(sizeof(Action));

	action->kind = kind;
	action->conflict = *conflict;
	action->conflict.key = keep(conflict->key);
	actions = lappend(actions, action);
	return action;
}

static Datum
but_for_drop(Datum row)
{
	return DirectFunctionCall2(jsonb_delete, row, CStringGetTextDatum("dropped_at"));
}

/* A member that two nodes have dropped at once: they agree. */
static bool
is_second_drop(const CozeConflict *c)
{
	if (!c->table->group)
		return false;
	if (strcmp(c->table->name, "dropped_member") == 0)
		return true;
	return strcmp(c->table->name, "member") == 0 && c->local_row != (Datum) 0 && c->remote_row != (Datum) 0 &&
		DatumGetBool(DirectFunctionCall2(jsonb_eq, but_for_drop(c->local_row), but_for_drop(c->remote_row)));
}

void
coze_conflict_note(const CozeConflict *conflict)
{
	MemoryContext old;
	CozeConflict *copy;
	ListCell   *lc;

	if (is_second_drop(conflict))
		return;
	old = enter_context();
	copy = &add_action(ACTION_NOTE, conflict)->conflict;
	copy->reason = conflict->reason != NULL ? pstrdup(conflict->reason) : NULL;
	copy->columns = NIL;
	foreach(lc, conflict->columns)
	{
		copy->columns = lappend(copy->columns, pstrdup(lfirst(lc)));
	}
	copy->local_row = keep(conflict->local_row);
	copy->remote_row = keep(conflict->remote_row);
	copy->base_row = keep(conflict->base_row);
	copy->result_row = keep(conflict->result_row);
	MemoryContextSwitchTo(old);
}

void
coze_conflict_withdraw(const CozeTable *table, Datum key, CozeVersion loser, CozeVersion decided)
{
	MemoryContext old = enter_context();
	CozeConflict named = {.table = table,.key = key,.loser = loser,.decided = decided};

	add_action(ACTION_WITHDRAW, &named);
	MemoryContextSwitchTo(old);
}

/*
 * What an entry had seen lost nothing to what is later than the entry.  Such a loss
 * was noted when the loser came, which the index need not know any more.
 */
void
coze_conflict_withdraw_seen(const CozeTable *table, Datum key, CozeVersion version,
							const CozeVector *seen)
{
	MemoryContext old = enter_context();
	CozeConflict named = {.table = table,.key = key,.decided = version};
	Datum	   *values = palloc(Max(1, 2 * seen->n) * sizeof(Datum));

	for (int i = 0; i < seen->n; i++)
	{
		values[2 * i] = Int64GetDatum((int64) seen->e[i].origin);
		values[2 * i + 1] = Int64GetDatum(seen->e[i].hlc);
	}
	add_action(ACTION_WITHDRAW_SEEN, &named)->seen =
		construct_array(values, 2 * seen->n, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);
	MemoryContextSwitchTo(old);
}

/* After an abort: the context is gone with the transaction. */
void
coze_conflict_forget(void)
{
	conflict_context = NULL;
	actions = NIL;
	nwritten = 0;
}

/* --- writing --- */

/* All of these look up one key in an index, whatever it is: planned once. */
static SPIPlanPtr
prepare(const char *query, int n, Oid *types)
{
	SPIPlanPtr	plan = SPI_prepare_cursor(query, n, types, CURSOR_OPT_GENERIC_PLAN);

	if (plan == NULL || SPI_keepplan(plan) != 0)
		elog(ERROR, "could not prepare the writing of conflicts");
	return plan;
}

static void
prepare_withdraw(void)
{
	Oid			types[] = {INT8OID, INT8OID, INT8OID, INT8OID, TEXTOID, TEXTOID, JSONBOID};

	withdraw_plan = prepare("DELETE FROM cozesync.conflict WHERE loser_hlc = $1 AND loser_origin = $2"
							" AND decided_hlc = $3 AND decided_origin = $4 AND schema_name = $5"
							" AND table_name = $6 AND md5(key::text) = md5($7::text)", lengthof(types), types);
}

static void
withdraw(const CozeConflict *c)
{
	Datum		values[] = {
		Int64GetDatum(c->loser.hlc), Int64GetDatum((int64) c->loser.origin),
		Int64GetDatum(c->decided.hlc), Int64GetDatum((int64) c->decided.origin),
		CStringGetTextDatum(c->table->schema), CStringGetTextDatum(c->table->name), c->key
	};

	if (SPI_execute_plan(withdraw_plan, values, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not withdraw a conflict");
}

/* By the key; an entry counts as having seen all of its own origin before it. */
static void
prepare_withdraw_seen(void)
{
	Oid			types[] = {TEXTOID, TEXTOID, JSONBOID, INT8OID, INT8OID, INT8ARRAYOID};

	withdraw_seen_plan = prepare("DELETE FROM cozesync.conflict WHERE schema_name = $1 AND table_name = $2"
								 " AND md5(key::text) = md5($3::text)"
								 " AND loser_hlc < $4 AND decided_hlc > $4"
								 " AND (loser_origin = $5 OR EXISTS ("
								 "SELECT FROM generate_series(1, cardinality($6), 2) i"
								 " WHERE $6[i] = loser_origin AND $6[i + 1] >= loser_hlc))",
								 lengthof(types), types);
}

static void
withdraw_seen(const CozeConflict *c, ArrayType *seen)
{
	Datum		values[] = {
		CStringGetTextDatum(c->table->schema), CStringGetTextDatum(c->table->name), c->key,
		Int64GetDatum(c->decided.hlc), Int64GetDatum((int64) c->decided.origin),
		PointerGetDatum(seen)
	};

	if (SPI_execute_plan(withdraw_seen_plan, values, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not withdraw conflicts");
}

static void
prepare_insert(void)
{
	Oid			types[] = {
		TEXTOID, TEXTOID, JSONBOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID,
		INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID,
		JSONBOID, JSONBOID, JSONBOID, JSONBOID, BOOLOID, TEXTARRAYOID
	};

	insert_plan = prepare("INSERT INTO cozesync.conflict AS c (schema_name, table_name, key,"
						  " conflict_type, policy, outcome, reason,"
						  " loser_hlc, loser_origin, decided_hlc, decided_origin,"
						  " local_hlc, local_origin, remote_hlc, remote_origin,"
						  " local_row, remote_row, base_row, result_row, columns)"
						  " SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13,"
						  " $14, $15, $16, $17, $18, $19, $21 WHERE $20 OR NOT EXISTS ("
						  "SELECT FROM cozesync.conflict o WHERE o.loser_hlc = $8 AND o.loser_origin = $9"
						  " AND o.schema_name = $1 AND o.table_name = $2"
						  " AND md5(o.key::text) = md5($3::text))"
						  " ON CONFLICT (md5(key::text), loser_origin, loser_hlc, decided_origin, decided_hlc,"
						  " schema_name, table_name) DO UPDATE"
						  " SET conflict_type = excluded.conflict_type, reason = excluded.reason,"
						  " policy = excluded.policy, columns = excluded.columns, base_row = excluded.base_row,"
						  " outcome = CASE WHEN c.resolved_at IS NULL THEN excluded.outcome ELSE c.outcome END,"
						  " local_row = excluded.local_row, remote_row = excluded.remote_row,"
						  " result_row = CASE WHEN c.resolved_at IS NULL THEN excluded.result_row ELSE c.result_row END"
						  " WHERE (c.conflict_type, c.reason, c.outcome = 'held') IS DISTINCT FROM"
						  " (excluded.conflict_type, excluded.reason, excluded.outcome = 'held' AND c.resolved_at IS NULL)"
						  " RETURNING id",
						  lengthof(types), types);
}

/* What listeners get; the key is left out where it would be too long. */
static void
keep_payload(const CozeConflict *c, int64 id, const char *outcome)
{
	StringInfoData json;
	MemoryContext old;
	char	   *key = JsonbToCString(NULL, &DatumGetJsonbP(c->key)->root, VARSIZE(DatumGetPointer(c->key)));

	initStringInfo(&json);
	appendStringInfo(&json, "{\"id\": " INT64_FORMAT ", \"relation\": ", id);
	escape_json(&json, quote_qualified_identifier(c->table->schema, c->table->name));
	if (json.len + strlen(key) < PAYLOAD_MAX - 200)
		appendStringInfo(&json, ", \"key\": %s", key);
	appendStringInfo(&json, ", \"conflict_type\": \"%s\", \"outcome\": \"%s\"}",
					 coze_conflict_type_name(c->type), outcome);
	if (notify_context == NULL)
		notify_context = AllocSetContextCreate(TopMemoryContext, "cozesync notifications",
											   ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(notify_context);
	if (json.len < PAYLOAD_MAX && list_length(payloads) < NOTES_MAX)
		payloads = lappend(payloads, pstrdup(json.data));
	MemoryContextSwitchTo(old);
}

/*
 * The settlement may have come with the very entries that brought the conflict, and then it
 * was here before the record.  Of several the last counts.
 */
static void
prepare_settled(void)
{
	Oid			types[] = {INT8OID};

	settled_plan = prepare("UPDATE cozesync.conflict AS c SET outcome = 'resolved', result_row = s.result_row,"
						   " resolved_at = s.settled_at, resolved_by = s.settled_by"
						   " FROM (SELECT s.* FROM cozesync.settlement AS s JOIN cozesync.conflict AS o"
						   " ON s.loser_hlc = o.loser_hlc AND s.loser_origin = o.loser_origin"
						   " AND s.schema_name = o.schema_name AND s.table_name = o.table_name AND s.key = o.key"
						   " WHERE o.id = $1 ORDER BY s.settled_at DESC, s.settlement_id DESC LIMIT 1) AS s"
						   " WHERE c.id = $1",
						   lengthof(types), types);
}

static bool
close_if_settled(int64 id)
{
	Datum		values[] = {Int64GetDatum(id)};

	if (SPI_execute_plan(settled_plan, values, NULL, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not close a conflict");
	return SPI_processed > 0;
}

static Datum
columns_of(const CozeConflict *c)
{
	int			n = 0;
	Datum	   *names = palloc(Max(1, list_length(c->columns)) * sizeof(Datum));
	ListCell   *lc;

	if (c->columns == NIL)
		return (Datum) 0;
	foreach(lc, c->columns)
	{
		names[n++] = CStringGetTextDatum(lfirst(lc));
	}
	return PointerGetDatum(construct_array(names, n, TEXTOID, -1, false, TYPALIGN_INT));
}

static void
insert(const CozeConflict *c)
{
	Datum		values[21];
	char		nulls[22];
	bool		isnull;

	memset(nulls, ' ', sizeof(nulls));
	values[0] = CStringGetTextDatum(c->table->schema);
	values[1] = CStringGetTextDatum(c->table->name);
	values[2] = c->key;
	values[3] = CStringGetTextDatum(coze_conflict_type_name(c->type));
	values[4] = CStringGetTextDatum(c->policy);
	values[5] = CStringGetTextDatum(c->outcome);
	values[6] = c->reason != NULL ? CStringGetTextDatum(c->reason) : (Datum) 0;
	nulls[6] = c->reason != NULL ? ' ' : 'n';
	values[7] = Int64GetDatum(c->loser.hlc);
	values[8] = Int64GetDatum((int64) c->loser.origin);
	values[9] = Int64GetDatum(c->decided.hlc);
	values[10] = Int64GetDatum((int64) c->decided.origin);
	values[11] = Int64GetDatum(c->local.hlc);
	values[12] = Int64GetDatum((int64) c->local.origin);
	nulls[11] = nulls[12] = c->local.hlc != 0 ? ' ' : 'n';
	values[13] = Int64GetDatum(c->remote.hlc);
	values[14] = Int64GetDatum((int64) c->remote.origin);
	nulls[13] = nulls[14] = c->remote.hlc != 0 ? ' ' : 'n';
	values[15] = c->local_row;
	values[16] = c->remote_row;
	values[17] = c->base_row;
	values[18] = c->result_row;
	for (int i = 15; i < 19; i++)
		nulls[i] = values[i] != (Datum) 0 ? ' ' : 'n';
	values[19] = BoolGetDatum(coze_table_folds(c->table));
	values[20] = columns_of(c);
	nulls[20] = values[20] != (Datum) 0 ? ' ' : 'n';
	nulls[21] = '\0';
	if (SPI_execute_plan(insert_plan, values, nulls, false, 0) != SPI_OK_INSERT_RETURNING)
		elog(ERROR, "could not write a conflict");
	if (SPI_processed > 0)
	{
		int64		id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
													 1, &isnull));

		SPI_freetuptable(SPI_tuptable);
		keep_payload(c, id, close_if_settled(id) ? "resolved" : c->outcome);
	}
	else
		SPI_freetuptable(SPI_tuptable);
}

static void
prepare_all(void)
{
	if (insert_plan != NULL)
		return;
	prepare_withdraw();
	prepare_withdraw_seen();
	prepare_settled();
	prepare_insert();
}

static void
take_action(const Action *action)
{
	switch (action->kind)
	{
		case ACTION_NOTE:
			insert(&action->conflict);
			break;
		case ACTION_WITHDRAW:
			withdraw(&action->conflict);
			break;
		case ACTION_WITHDRAW_SEEN:
			withdraw_seen(&action->conflict, action->seen);
			break;
	}
}

static void
write_actions(void)
{
	ListCell   *lc;

	if (actions == NIL)
		return;
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	prepare_all();
	foreach(lc, actions)
	{
		const Action *action = lfirst(lc);

		take_action(action);
		nwritten += action->kind == ACTION_NOTE;
	}
	SPI_finish();
	PopActiveSnapshot();
	actions = NIL;
	MemoryContextReset(conflict_context);
}

/* Write what is gathered if it is much; with our own rights, between two conflicts. */
void
coze_conflict_relieve(void)
{
	if (list_length(actions) >= ACTIONS_MAX)
		write_actions();
}

/* At the end of a transaction; how many conflicts there were. */
int
coze_conflict_flush(void)
{
	int			n;

	write_actions();
	n = nwritten;
	if (conflict_context != NULL)
		MemoryContextDelete(conflict_context);
	coze_conflict_forget();
	return n;
}

/* --- listeners, retention --- */

void
coze_conflict_notify(void)
{
	ListCell   *lc;

	if (payloads == NIL)
		return;
	StartTransactionCommand();
	foreach(lc, payloads)
		Async_Notify("cozesync_conflict", lfirst(lc));
	payloads = NIL;
	MemoryContextReset(notify_context);
	CommitTransactionCommand();
}

/*
 * Forget settled conflicts: those that are old, and the oldest if there are too many.  Of one
 * that was settled age counts from that.  Not what was decided above the cut: decided again, it
 * would come back.
 */
void
coze_conflict_retain(void)
{
	Oid			types[] = {INT8OID, INT8OID};
	Datum		values[] = {
		Int64GetDatum((int64) cozesync_conflict_retention),
		Int64GetDatum((int64) cozesync_max_conflicts_size * 1024 * 1024)
	};

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	if (SPI_execute_with_args("DELETE FROM cozesync.conflict WHERE outcome <> 'held' AND"
							  " decided_hlc <= (SELECT cut FROM cozesync.local_node) AND"
							  " coalesce(resolved_at, detected_at) < now() - $1 * interval '1 minute'",
							  1, types, values, NULL, false, 0) != SPI_OK_DELETE ||
		SPI_execute_with_args("DELETE FROM cozesync.conflict"
							  " WHERE (SELECT pg_table_size('cozesync.conflict')) > $2 AND $1 >= 0"
							  " AND decided_hlc <= (SELECT cut FROM cozesync.local_node) AND id IN ("
							  "SELECT id FROM (SELECT id, sum(pg_column_size(c)) OVER"
							  " (ORDER BY coalesce(resolved_at, detected_at) DESC, id DESC) AS size"
							  " FROM cozesync.conflict c WHERE outcome <> 'held') s WHERE size > $2)",
							  2, types, values, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not forget old conflicts");
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
}
