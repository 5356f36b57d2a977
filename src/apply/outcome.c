/*-------------------------------------------------------------------------
 *
 * outcome.c
 *		What comes of a fold: conflicts to be recorded or withdrawn, rows that
 *		differ.
 *
 * An entry is folded into what was there twice, with it and without it.  Conflicts
 * that are in both folds are recorded already; those that only the first has are
 * new, and those that only the second has no longer hold.  So the log follows the
 * set of entries, whatever the order of arrival.
 *
 * The second fold also says what the row here should be.  One that is not was
 * changed behind the log's back, and is noted before it is lost.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"

#include "apply/conflict.h"
#include "apply/outcome.h"
#include "apply/policy.h"
#include "debug.h"
#include "log/state.h"

/* --- conflicts --- */

static Datum
state_row(CozeTable *table, const CozeState *state)
{
	return state != NULL && state->row != NULL ?
		coze_row_to_jsonb(table, coze_row_of_fold(table, state->row)) : (Datum) 0;
}

static Datum
op_row(CozeTable *table, const CozeFoldOp *op)
{
	return op != NULL && op->new != NULL ?
		coze_row_to_jsonb(table, coze_row_of_fold(table, op->new)) : (Datum) 0;
}

/* What both had seen, where the policy had it captured. */
static Datum
base_row(CozeTable *table, const CozeFoldNote *note)
{
	const CozeFoldOp *op = note->op;

	if (op == NULL || op->old == NULL || !coze_row_complete(table->desc->natts, op->old))
		return (Datum) 0;
	return coze_row_to_jsonb(table, coze_row_of_fold(table, op->old));
}

static const char *
columns_reason(CozeTable *table, const CozeFoldNote *note)
{
	StringInfoData s;
	int			n = 0;

	initStringInfo(&s);
	for (int i = 0; i < table->desc->natts; i++)
	{
		if (note->columns[i])
			appendStringInfo(&s, "%s%s", n++ > 0 ? ", " : "",
							 quote_identifier(NameStr(TupleDescAttr(table->desc, i)->attname)));
	}
	return psprintf(n > 1 ? "both changed columns %s" : "both changed column %s", s.data);
}

static const char *
reason_of(CozeTable *table, const CozeFoldNote *note)
{
	if (note->reason != NULL)
		return note->reason;
	if (note->index >= 0)
		return psprintf("another row has the value in unique index \"%s\"",
						get_rel_name(table->uniques[note->index].index));
	return note->columns != NULL ? columns_reason(table, note) : NULL;
}

static List *
column_names(CozeTable *table, const CozeFoldNote *note)
{
	List	   *names = NIL;

	for (int i = 0; note->columns != NULL && i < table->desc->natts; i++)
	{
		if (note->columns[i])
			names = lappend(names, NameStr(TupleDescAttr(table->desc, i)->attname));
	}
	return names;
}

/* Whose row is which, as seen from here: "remote" is the entry that came. */
static void
take_sides(const CozeOutcomes *o, const CozeFoldNote *note, CozeConflict *c, Datum loser_row,
		   Datum winner_row)
{
	bool		loser_is_remote;

	if (o->version.origin == coze_own_origin())
		loser_is_remote = !coze_version_equal(note->loser, o->version);
	else if (coze_version_equal(note->loser, o->version))
		loser_is_remote = true;
	else
		loser_is_remote = !coze_version_equal(note->winner, o->version) &&
			note->loser.origin != coze_own_origin();

	c->local = loser_is_remote ? note->winner : note->loser;
	c->remote = loser_is_remote ? note->loser : note->winner;
	c->local_row = loser_is_remote ? winner_row : loser_row;
	c->remote_row = loser_is_remote ? loser_row : winner_row;
	c->outcome = loser_is_remote ? "kept local" : "took remote";
}

void
coze_outcomes_note(void *arg, const CozeFoldNote *note)
{
	CozeOutcomes *o = arg;
	CozeFoldNote *copy = palloc(sizeof(CozeFoldNote));

	*copy = *note;
	if (o->without)
		o->former = lappend(o->former, copy);
	else
		o->notes = lappend(o->notes, copy);
}

/* By which policy was it decided? */
static const char *
policy_of(CozeOutcomes *o, const CozeFoldNote *note)
{
	const CozeFoldPolicy *policy = note->op != NULL ? note->op->policy :
		note->index >= 0 && o->policy != NULL ? o->policy : &coze_default_policy;

	return coze_policy_name(policy, note->type);
}

static void
record(CozeOutcomes *o, const CozeFoldNote *note)
{
	CozeTable  *table = o->arg.table;
	CozeConflict c = {0};
	bool		gave_way = note->op != NULL && coze_version_equal(note->loser, note->decided);
	Datum		loser_row;
	Datum		winner_row;

	loser_row = gave_way ? op_row(table, note->op) : state_row(table, note->before);
	winner_row = note->index >= 0 ? state_row(table, note->other_state) :
		gave_way ? state_row(table, note->before) : op_row(table, note->op);
	c.table = table;
	c.key = coze_key_to_jsonb(table, o->keys[note->key]);
	c.type = note->type;
	c.policy = policy_of(o, note);
	c.reason = reason_of(table, note);
	c.columns = column_names(table, note);
	c.loser = note->loser;
	c.decided = note->decided;
	c.base_row = base_row(table, note);
	c.result_row = state_row(table, note->after);
	take_sides(o, note, &c, loser_row, winner_row);
	if (note->outcome == COZE_OUTCOME_HELD)
		c.outcome = "held";
	else if (note->outcome == COZE_OUTCOME_MERGED ||
			 (gave_way && note->index >= 0 && note->after->row != NULL && note->before->row != NULL &&
			  note->after != note->before))
		c.outcome = "merged";
	coze_conflict_note(&c);
}

static int
compare_notes(const ListCell *a, const ListCell *b)
{
	const CozeFoldNote *na = lfirst(a);
	const CozeFoldNote *nb = lfirst(b);
	int			result = coze_version_cmp(na->decided, nb->decided);

	if (result == 0)
		result = coze_version_cmp(na->loser, nb->loser);
	return result != 0 ? result : na->key - nb->key;
}

/* The same type and outcome, for the same reason? */
static bool
same_kind(const CozeFoldNote *a, const CozeFoldNote *b)
{
	return a->type == b->type && a->index == b->index && a->outcome == b->outcome;
}

void
coze_outcomes_report(CozeOutcomes *o)
{
	ListCell   *with,
			   *without;

	list_sort(o->notes, compare_notes);
	list_sort(o->former, compare_notes);
	with = list_head(o->notes);
	without = list_head(o->former);
	while (with != NULL || without != NULL)
	{
		int			order = with == NULL ? 1 : without == NULL ? -1 : compare_notes(with, without);

		if (order < 0 || (order == 0 && !same_kind(lfirst(with), lfirst(without))))
			record(o, lfirst(with));
		else if (order > 0)
		{
			const CozeFoldNote *note = lfirst(without);
			CozeTable  *table = o->arg.table;

			coze_conflict_withdraw(table, coze_key_to_jsonb(table, o->keys[note->key]),
								   note->loser, note->decided);
		}
		if (order <= 0)
			with = lnext(o->notes, with);
		if (order >= 0)
			without = lnext(o->former, without);
	}
}

/* --- rows --- */

/* columns: NULL: the first n. */
static bool
columns_same(const CozeTable *table, const CozeRow *a, const CozeRow *b, const int *columns, int n)
{
	for (int i = 0; i < n; i++)
	{
		int			c = columns != NULL ? columns[i] : i;
		Form_pg_attribute att = TupleDescAttr(table->desc, c);

		if (table->codecs[c] == NULL || !b->known[c])
			continue;
		if (a->isnull[c] != b->isnull[c] ||
			(!a->isnull[c] && !datum_image_eq(a->values[c], b->values[c], att->attbyval, att->attlen)))
			return false;
	}
	return true;
}

bool
coze_outcome_same(const CozeTable *table, const CozeRow *here, const CozeRow *row)
{
	return columns_same(table, here, row, NULL, table->desc->natts);
}

bool
coze_outcome_unique_same(const CozeTable *table, const CozeRow *here, const CozeRow *row)
{
	for (int i = 0; i < table->nuniques; i++)
	{
		if (!columns_same(table, here, row, table->uniques[i].columns, table->uniques[i].ncolumns))
			return false;
	}
	return true;
}

void
coze_outcome_fill_in(const CozeTable *table, CozeRow *row, const CozeRow *here)
{
	for (int i = 0; here != NULL && i < table->desc->natts; i++)
	{
		if (row->known[i] || table->codecs[i] == NULL)
			continue;
		row->values[i] = here->values[i];
		row->isnull[i] = here->isnull[i];
		row->known[i] = true;
	}
}

/* --- rows that are not as the log has them --- */

/* Is the row what an own operation left, of which it is not known here yet that it lost? */
static bool
is_own_image(const CozeTable *table, const List *ops, const CozeRow *here)
{
	ListCell   *lc;

	foreach(lc, ops)
	{
		const CozeOp *op = lfirst(lc);

		if (op->version.origin == coze_own_origin() && op->leaves_row == (here != NULL) &&
			(here == NULL || coze_outcome_same(table, here, op->new)))
			return true;
	}
	return false;
}

static bool
is_row(const CozeTable *table, const CozeRow *here, const CozeRow *row)
{
	return row == NULL || here == NULL ? row == here : coze_outcome_same(table, here, row);
}

static void
note_unexplained(const CozeOutcomes *o, const Datum *key, const CozeRow *here,
				 const CozeRow *expected, const CozeOp *own)
{
	CozeTable  *table = o->arg.table;
	CozeRow    *remote = own != NULL && own->leaves_row ? own->new : NULL;
	CozeConflict conflict = {
		.table = table,
		.key = coze_key_to_jsonb(table, key),
		.type = here == NULL ?
		(remote != NULL ? COZE_CONFLICT_UPDATE_MISSING : COZE_CONFLICT_DELETE_MISSING) :
		expected == NULL ? COZE_CONFLICT_INSERT_EXISTS : COZE_CONFLICT_UPDATE_UPDATE,
		.policy = coze_row_policy_name(COZE_ROW_LAST_UPDATE_WINS),
		.outcome = "took remote",
		.reason = COZE_REASON_UNEXPLAINED,
		.loser = o->version,
		.decided = o->version,
		.remote = o->version,
		.local_row = coze_row_to_jsonb(table, here),
		.remote_row = coze_row_to_jsonb(table, remote),
		.result_row = coze_row_to_jsonb(table, remote),
	};

	coze_conflict_note(&conflict);
}

/*
 * A row that was changed behind the log's back would be lost without a trace when it is
 * folded again.  ops: those on the key; expected: as the fold without the entry has it;
 * result: with it, since an own entry may have come to light when its row shows it already.
 */
void
coze_outcome_check_row(const CozeOutcomes *o, const Datum *key, const List *ops, const CozeRow *here,
					   const CozeFoldRow *expected, const CozeFoldRow *result)
{
	CozeTable  *table = o->arg.table;
	CozeRow    *row = coze_row_of_fold(table, expected);
	const CozeOp *own = NULL;
	ListCell   *lc;

	if (is_row(table, here, row) ||
		(COZE_RULE("own-shown") && is_row(table, here, coze_row_of_fold(table, result))))
		return;
	foreach(lc, ops)
	{
		if (coze_version_equal(((const CozeOp *) lfirst(lc))->version, o->version))
			own = lfirst(lc);
	}
	if (COZE_RULE("hidden-changes") && !is_own_image(table, ops, here))
		note_unexplained(o, key, here, row, own);
}
