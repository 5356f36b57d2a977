/*-------------------------------------------------------------------------
 *
 * ops.c
 *		Operations: what one entry does to one key, read off its changes.
 *
 * A change of a key is a deletion of the old one and an insert of the new one.
 * A superseded change says what was there before; what came of it is said by
 * another change of the same entry.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "apply/index.h"
#include "apply/ops.h"
#include "apply/policy.h"

static MemoryContext change_context = NULL;

/* Memory for one change. */
static MemoryContext
enter_change_context(void)
{
	if (change_context == NULL)
		change_context = AllocSetContextCreate(TopMemoryContext, "cozesync change",
											   ALLOCSET_DEFAULT_SIZES);
	return MemoryContextSwitchTo(change_context);
}

static void
leave_change_context(MemoryContext old)
{
	MemoryContextSwitchTo(old);
	MemoryContextReset(change_context);
}

bool
coze_table_folds(const CozeTable *table)
{
	return table->nuniques > 0 || table->folds;
}

/* --- for the index --- */

static uint32
hash_key(const CozeMap *map, const CozeImage *image)
{
	Datum		key[INDEX_MAX_KEYS];

	coze_map_key(map, image, key);
	return coze_key_hash(map->table, key);
}

static uint8
flags_of(const CozeChange *change)
{
	switch (change->kind)
	{
		case COZE_CHANGE_INSERT:
			return COZE_OP_LEAVES_ROW;
		case COZE_CHANGE_UPDATE:
			return COZE_OP_LEAVES_ROW | ((change->flags & COZE_CHANGE_OLD_KEY) ? 0 : COZE_OP_EXISTED);
		case COZE_CHANGE_DELETE:
			return COZE_OP_EXISTED;
		case COZE_CHANGE_TRUNCATE:
			return COZE_OP_TRUNCATE;
		case COZE_CHANGE_SUPERSEDED:
			break;
	}
	return 0;
}

/* Columns that decide about unique values. */
static void
know_unique_columns(const CozeTable *table, CozeRow *row)
{
	memset(row->known, false, table->desc->natts * sizeof(bool));
	for (int i = 0; i < table->nkeys; i++)
		row->known[table->keys[i] - 1] = true;
	for (int i = 0; i < table->nuniques; i++)
	{
		for (int j = 0; j < table->uniques[i].ncolumns; j++)
			row->known[table->uniques[i].columns[j]] = true;
	}
}

/* The row before a change, as far as the change says. */
static CozeRow *
old_row(const CozeMap *map, const CozeChange *change)
{
	CozeRow    *row = coze_row_alloc(map->table);
	const CozeImage *key = (change->flags & COZE_CHANGE_OLD_KEY) ? &change->old_key : &change->key;

	if (change->flags & COZE_CHANGE_OLD_ROW)
	{
		coze_map_row(map, key, &change->old_row, row);
		return row;
	}
	if (!(change->flags & COZE_CHANGE_NEW_ROW))
		return row;
	coze_map_row(map, key, &change->new_row, row);
	coze_map_old_unique(map, change, row);
	know_unique_columns(map->table, row);
	return row;
}

static CozeRow *
new_row(const CozeMap *map, const CozeChange *change)
{
	CozeRow    *row = coze_row_alloc(map->table);

	coze_map_row(map, &change->key, &change->new_row, row);
	return row;
}

/* Every value that a change puts into a unique index or takes out of it. */
void
coze_ops_unique_values(const CozeMap *map, const CozeChange *change,
					   void (*callback) (void *arg, CozeTable *table, int index,
										 const CozeUniqueValue *value), void *arg)
{
	CozeTable  *table = map->table;
	CozeRow    *new = NULL;
	CozeRow    *old = NULL;
	CozeUniqueValue value;

	if (change->flags & COZE_CHANGE_NEW_ROW)
		new = new_row(map, change);
	if (change->kind != COZE_CHANGE_INSERT &&
		(new == NULL || (change->flags & (COZE_CHANGE_OLD_UNIQUE | COZE_CHANGE_OLD_ROW))))
		old = old_row(map, change);
	for (int i = 0; i < table->nuniques; i++)
	{
		if (new != NULL && coze_unique_value(table, i, new, &value))
			callback(arg, table, i, &value);
		if (old != NULL && coze_unique_value(table, i, old, &value))
			callback(arg, table, i, &value);
	}
}

static void
index_unique_value(void *arg, CozeTable *table, int index, const CozeUniqueValue *value)
{
	coze_index_add(table, COZE_SLOT_UNIQUE(index), value->hash, *(uint8 *) arg);
}

/* Add what a change does to unique values to the index, as an entry that is applied. */
void
coze_ops_index_uniques(const CozeMap *map, const CozeChange *change)
{
	uint8		flags = flags_of(change);

	coze_ops_unique_values(map, change, index_unique_value, &flags);
}

static void
index_values(const CozeMap *map, const CozeChange *change)
{
	CozeOwnerState owner;
	MemoryContext old = enter_change_context();

	coze_owner_enter(map->table, &owner);
	if (coze_table_folds(map->table))
		coze_ops_index_uniques(map, change);
	coze_index_add(map->table, COZE_SLOT_KEY, hash_key(map, &change->key), flags_of(change));
	if (change->flags & COZE_CHANGE_OLD_KEY)
		coze_index_add(map->table, COZE_SLOT_KEY, hash_key(map, &change->old_key), COZE_OP_EXISTED);
	coze_owner_leave(&owner);
	leave_change_context(old);
}

void
coze_ops_index(const CozeChange *change)
{
	CozeMap    *map = coze_map_get(change->relation);

	if (!coze_map_resolve(map, true))
	{
		map->skipped = true;
		return;
	}
	if (coze_policy_is_news(map->table, change->policy))
		coze_index_spoil();
	if (change->kind == COZE_CHANGE_TRUNCATE)
		coze_index_add(map->table, COZE_SLOT_TRUNCATE, 0, COZE_OP_TRUNCATE);
	else
		index_values(map, change);
}

/* --- taking changes together --- */

static bool
is_key(const CozeMap *map, const CozeImage *image, const Datum *key)
{
	MemoryContext old = enter_change_context();
	Datum		other[INDEX_MAX_KEYS];
	bool		equal;

	coze_map_key(map, image, other);
	equal = coze_key_equal(map->table, other, key);
	leave_change_context(old);
	return equal;
}

/* The first one that was not made by the entry itself is what the author met. */
static void
take_old(CozeOp *op, const CozeMap *map, const CozeChange *change)
{
	if (op->existed || (change->flags & COZE_CHANGE_OLD_OWN))
		return;
	op->existed = true;
	op->old = old_row(map, change);
}

void
coze_op_take(CozeOp *op, const CozeMap *map, const Datum *key, const CozeChange *change)
{
	op->policy = change->policy;
	if (change->kind == COZE_CHANGE_TRUNCATE)
	{
		op->truncate = true;
		op->found = op->existed = op->leaves_row = false;
		op->old = op->new = NULL;
		return;
	}
	if ((change->flags & COZE_CHANGE_OLD_KEY) && is_key(map, &change->old_key, key))
	{
		op->found = true;
		op->leaves_row = false;
		op->new = NULL;
		take_old(op, map, change);
		return;
	}
	if (!is_key(map, &change->key, key))
		return;
	op->found = true;
	switch (change->kind)
	{
		case COZE_CHANGE_INSERT:
		case COZE_CHANGE_UPDATE:
			if (change->kind == COZE_CHANGE_UPDATE && !(change->flags & COZE_CHANGE_OLD_KEY))
				take_old(op, map, change);
			op->leaves_row = true;
			op->new = new_row(map, change);
			break;
		case COZE_CHANGE_DELETE:
			take_old(op, map, change);
			op->leaves_row = false;
			op->new = NULL;
			break;
		case COZE_CHANGE_SUPERSEDED:
			if (change->flags & COZE_CHANGE_OLD_ROW)
				take_old(op, map, change);
			break;
		case COZE_CHANGE_TRUNCATE:
			break;
	}
}
