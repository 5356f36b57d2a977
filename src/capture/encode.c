/*-------------------------------------------------------------------------
 *
 * encode.c
 *		One change of one row, into the buffer, in the wire format.
 *
 * Values go from the slots straight to where they leave from.  Slots are deformed here,
 * and no further than what is written needs: of most old rows that is the key.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/datum.h"

#include "capture/buffer.h"
#include "capture/capture.h"

/* Columns from..to - 1 of the descriptor, which the slot is deformed up to. */
static void
put_columns(CozeBuf *buf, CozePlan *plan, TupleTableSlot *slot, int from, int to)
{
	for (int i = from; i < to; i++)
	{
		const CozePlanColumn *column = &plan->columns[i];

		coze_codec_put(column->codec, buf, slot->tts_values[column->attindex],
					   slot->tts_isnull[column->attindex]);
	}
}

static void
put_key(CozeBuf *buf, CozePlan *plan, TupleTableSlot *slot)
{
	slot_getsomeattrs(slot, plan->key_natts);
	put_columns(buf, plan, slot, 0, plan->nkeys);
}

/* All columns but those of the key. */
static void
put_image(CozeBuf *buf, CozePlan *plan, TupleTableSlot *slot)
{
	slot_getallattrs(slot);
	coze_wire_put_count(buf, plan->ncolumns - plan->nkeys);
	put_columns(buf, plan, slot, plan->nkeys, plan->ncolumns);
}

static bool
column_changed(const CozePlanColumn *column, TupleTableSlot *a, TupleTableSlot *b)
{
	int			i = column->attindex;

	if (a->tts_isnull[i] || b->tts_isnull[i])
		return a->tts_isnull[i] != b->tts_isnull[i];
	return !datum_image_eq(a->tts_values[i], b->tts_values[i], column->byval, column->typlen);
}

/*
 * Numbers of the columns of unique indexes in which two rows differ.  To be on the
 * safe side they differ if their bytes do.
 */
static int
changed_unique_columns(CozePlan *plan, TupleTableSlot *a, TupleTableSlot *b,
					   uint16 *columns)
{
	int			n = 0;

	slot_getallattrs(a);
	slot_getallattrs(b);
	for (int i = 0; i < plan->ncolumns; i++)
		if (plan->columns[i].unique && column_changed(&plan->columns[i], a, b))
			columns[n++] = (uint16) i;
	return n;
}

static void
put_unique(CozeBuf *buf, CozePlan *plan, TupleTableSlot *slot,
		   const uint16 *columns, int n)
{
	coze_wire_put_count(buf, n);
	for (int i = 0; i < n; i++)
	{
		coze_buf_put_varint(buf, columns[i]);
		put_columns(buf, plan, slot, columns[i], columns[i] + 1);
	}
}

void
coze_capture_put(CozePlan *plan, const CozeRowChange *change)
{
	CozeChangeContext *context;
	CozeBuf    *buf;
	Size		begin;
	uint8		parts = 0;
	uint16		columns[MaxHeapAttributeNumber];
	int			ncolumns = 0;
	bool		folds;
	CozeVersion policy = coze_capture_policy(plan, &folds);

	if (change->checkpoint)
		policy = (CozeVersion) {0, 0};
	coze_plan_store_descriptor(plan);
	if (change->old_unique != NULL)
		ncolumns = changed_unique_columns(plan, change->old_unique, change->new_row, columns);
	if (change->old_key != NULL)
		parts |= COZE_CHANGE_OLD_KEY;
	if (change->new_row != NULL)
		parts |= COZE_CHANGE_NEW_ROW;
	if (change->old_row != NULL)
		parts |= COZE_CHANGE_OLD_ROW;
	if (ncolumns > 0)
		parts |= COZE_CHANGE_OLD_UNIQUE;
	if (change->old_own)
		parts |= COZE_CHANGE_OLD_OWN;

	buf = coze_buffer_begin_change(&context);
	begin = coze_wire_begin_change(buf, change->kind, parts, plan->descriptor_hash, policy,
								   context, change->key != NULL ? plan->nkeys : 0);
	if (change->key != NULL)
		put_key(buf, plan, change->key);
	if (change->old_key != NULL)
		put_key(buf, plan, change->old_key);
	if (change->new_row != NULL)
		put_image(buf, plan, change->new_row);
	if (change->old_row != NULL)
		put_image(buf, plan, change->old_row);
	if (ncolumns > 0)
		put_unique(buf, plan, change->old_unique, columns, ncolumns);
	coze_wire_end_change(buf, begin);
	coze_buffer_end_change();
}
