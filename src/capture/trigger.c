/*-------------------------------------------------------------------------
 *
 * trigger.c
 *		The row trigger: what happened to a row, as changes.
 *
 * Runs once for every row that any command writes, so it calls no SQL, and a plan
 * and a buffer do the rest.  See history.c for why a change may have lost its
 * effect by the time its trigger runs; a change of key is one change as long as
 * both of its halves have theirs.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "fmgr.h"

#include "apply/apply.h"
#include "capture/capture.h"
#include "capture/history.h"
#include "debug.h"
#include "log/state.h"

PG_FUNCTION_INFO_V1(coze_capture);

bool		coze_capture_closed = false;

/* One call of the trigger. */
typedef struct CozeCall
{
	Relation	rel;
	CozePlan *plan;
	CozeTableHistory *history;
	TupleTableSlot *old;
	TupleTableSlot *new;
	HeapTupleHeader old_header;
	HeapTupleHeader new_header;
} CozeCall;

bool
coze_capture_wanted(Relation rel)
{
	switch (coze_attach())
	{
		case COZE_NODE_NONE:
		case COZE_NODE_LEFT:
			return false;
		case COZE_NODE_JOINING:
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("cannot write to table \"%s\" while this node joins its group",
							RelationGetRelationName(rel)),
					 errhint("See cozesync.join_progress for how far it is.")));
			break;
		case COZE_NODE_READY:
			break;
	}
	if (coze_capture_closed && COZE_RULE("late-capture"))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot write to table \"%s\" at this point of the commit",
						RelationGetRelationName(rel)),
				 errdetail("The changes of the transaction have already been handed over for replication."),
				 errhint("Another extension writes to synced tables while the transaction commits; load it after cozesync in shared_preload_libraries.")));
	return true;
}

/* The row with this key went away or had none, and another change tells the rest. */
static void
put_superseded(CozeCall *call, TupleTableSlot *key, TupleTableSlot *old_row)
{
	CozeRowChange change = {COZE_CHANGE_SUPERSEDED, .key = key, .old_row = old_row};

	change.old_own = old_row != NULL && coze_history_is_own(call->history, call->old_header);
	coze_capture_put(call->plan, &change);
}

static void
put_delete(CozeCall *call)
{
	CozeRowChange change = {COZE_CHANGE_DELETE, .key = call->old, .old_row = call->old};

	change.old_own = coze_history_is_own(call->history, call->old_header);
	coze_capture_put(call->plan, &change);
}

static void
put_insert(CozeCall *call)
{
	CozeRowChange change = {COZE_CHANGE_INSERT, .key = call->new, .new_row = call->new};

	coze_capture_put(call->plan, &change);
}

static void
put_update(CozeCall *call, bool key_changed)
{
	CozeRowChange change = {COZE_CHANGE_UPDATE, .key = call->new, .new_row = call->new};
	bool		folds;

	coze_capture_policy(call->plan, &folds);
	if (key_changed)
		change.old_key = call->old;
	if (call->plan->has_unique)
		change.old_unique = call->old;
	if (folds)
		change.old_row = call->old;
	change.old_own = coze_history_is_own(call->history, call->old_header);
	coze_capture_put(call->plan, &change);
}

static void
capture_insert(CozeCall *call)
{
	CommandId	command = coze_row_made_by(call->new_header);

	coze_history_begin(call->history, call->rel, command);
	if (coze_row_is_superseded(call->new_header))
		put_superseded(call, call->new, NULL);
	else
		put_insert(call);
	coze_history_note_insert(call->history, command);
}

static void
capture_delete(CozeCall *call)
{
	CommandId	command = coze_row_ended_by(call->old_header);

	coze_history_begin(call->history, call->rel, command);
	if (coze_history_key_lives(call->history, call->plan, call->rel, call->old, command))
		put_superseded(call, call->old, call->old);
	else
		put_delete(call);
}

/* Does the key's index tell the two rows apart? */
static bool
key_differs(const CozeCall *call)
{
	CozePlan *plan = call->plan;

	slot_getsomeattrs(call->old, plan->key_natts);
	slot_getsomeattrs(call->new, plan->key_natts);
	for (int i = 0; i < plan->nkeys; i++)
	{
		int			c = plan->columns[i].attindex;
		Datum		old = call->old->tts_values[c];
		Datum		new = call->new->tts_values[c];

		if (plan->columns[i].byval && old == new)
			continue;
		if (!DatumGetBool(FunctionCall2Coll(&plan->key_equal[i],
											plan->key_collations[i], old, new)))
			return true;
	}
	return false;
}

static void
capture_key_change(CozeCall *call, CommandId command)
{
	bool		superseded = coze_row_is_superseded(call->new_header);
	bool		lives = coze_history_key_lives(call->history, call->plan, call->rel,
											   call->old, command);

	if (!superseded && !lives)
		put_update(call, true);
	else
	{
		if (lives)
			put_superseded(call, call->old, call->old);
		else
			put_delete(call);
		if (superseded)
			put_superseded(call, call->new, NULL);
		else
			put_insert(call);
	}
	coze_history_note_insert(call->history, command);
}

static void
capture_update(CozeCall *call)
{
	CommandId	command = coze_row_made_by(call->new_header);

	coze_history_begin(call->history, call->rel, command);
	if (key_differs(call))
		capture_key_change(call, command);
	else if (coze_row_is_superseded(call->new_header))
		put_superseded(call, call->new, call->old);
	else
		put_update(call, false);
}

/*
 * cozesync.capture(): trigger, AFTER INSERT OR UPDATE OR DELETE FOR EACH ROW.
 */
Datum
coze_capture(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	CozeCall	call = {0};

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(data->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(data->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" must be an AFTER trigger for each row",
						"cozesync.capture")));
	if (coze_in_applier || !coze_capture_wanted(data->tg_relation))
		return PointerGetDatum(NULL);

	call.rel = data->tg_relation;
	call.plan = coze_plan_get(call.rel, data->tg_trigger->tgoid, &call.history);
	if (TRIGGER_FIRED_BY_INSERT(data->tg_event))
	{
		call.new = data->tg_trigslot;
		call.new_header = data->tg_trigtuple->t_data;
	}
	else
	{
		call.old = data->tg_trigslot;
		call.old_header = data->tg_trigtuple->t_data;
	}
	if (TRIGGER_FIRED_BY_UPDATE(data->tg_event))
	{
		call.new = data->tg_newslot;
		call.new_header = data->tg_newtuple->t_data;
	}
	if (TRIGGER_FIRED_BY_INSERT(data->tg_event))
		capture_insert(&call);
	else if (TRIGGER_FIRED_BY_UPDATE(data->tg_event))
		capture_update(&call);
	else
		capture_delete(&call);
	return PointerGetDatum(NULL);
}
