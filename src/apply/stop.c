/*-------------------------------------------------------------------------
 *
 * stop.c
 *		What is being applied now, and which origins' streams are stopped.
 *
 * Invariant: no message kept here, and nothing of a row beyond its key, may
 * hold a password; so of the extension's own tables only messages are kept,
 * no details.
 *
 * Locking: one LWLock per database for the list of stopped origins; counters
 * are atomics.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "apply/stop.h"
#include "log/state.h"
#include "settings.h"

typedef struct CozeStops
{
	Oid			dboid;
	pg_atomic_uint64 transactions;
	pg_atomic_uint64 rows;
	pg_atomic_uint64 conflicts;
	pg_atomic_uint64 retries;	/* rises with each coze_apply_retry() */
	CozeApplyStop *stops;		/* cozesync_max_nodes */
} CozeStops;

typedef struct CozeAllStops
{
	LWLock		lock;
	CozeStops	db[FLEXIBLE_ARRAY_MEMBER];
} CozeAllStops;

CozeApplying coze_applying;

static CozeAllStops *all = NULL;
static CozeStops *mine = NULL;

/* Whose stream is shown as stopped for no other reason than a wait; 0: nobody's. */
static CozeOrigin only_waiting = 0;

Size
coze_apply_shmem_size(void)
{
	Size		size = MAXALIGN(offsetof(CozeAllStops, db) + cozesync_max_databases * sizeof(CozeStops));

	return add_size(size, mul_size(cozesync_max_databases,
								   mul_size(cozesync_max_nodes, sizeof(CozeApplyStop))));
}

void
coze_apply_shmem_init(void)
{
	bool		found;
	char	   *p;

	all = ShmemInitStruct("cozesync applier", coze_apply_shmem_size(), &found);
	if (found)
		return;
	memset(all, 0, coze_apply_shmem_size());
	LWLockInitialize(&all->lock, LWLockNewTrancheId());
	p = (char *) all + MAXALIGN(offsetof(CozeAllStops, db) + cozesync_max_databases * sizeof(CozeStops));
	for (int i = 0; i < cozesync_max_databases; i++)
	{
		pg_atomic_init_u64(&all->db[i].transactions, 0);
		pg_atomic_init_u64(&all->db[i].rows, 0);
		pg_atomic_init_u64(&all->db[i].conflicts, 0);
		pg_atomic_init_u64(&all->db[i].retries, 0);
		all->db[i].stops = (CozeApplyStop *) p;
		p += cozesync_max_nodes * sizeof(CozeApplyStop);
	}
}

/* NULL if there is no room; then nothing is shown, and nothing else is lost. */
static CozeStops *
my_stops(void)
{
	if (mine != NULL || all == NULL)
		return mine;
	LWLockAcquire(&all->lock, LW_EXCLUSIVE);
	for (int i = 0; i < cozesync_max_databases && mine == NULL; i++)
	{
		if (all->db[i].dboid == MyDatabaseId)
			mine = &all->db[i];
	}
	for (int i = 0; i < cozesync_max_databases && mine == NULL; i++)
	{
		if (all->db[i].dboid == InvalidOid)
		{
			mine = &all->db[i];
			mine->dboid = MyDatabaseId;
		}
	}
	LWLockRelease(&all->lock);
	return mine;
}

void
coze_stop_forget_database(Oid dboid)
{
	LWLockAcquire(&all->lock, LW_EXCLUSIVE);
	for (int i = 0; i < cozesync_max_databases; i++)
	{
		CozeStops  *db = &all->db[i];

		if (db->dboid != dboid)
			continue;
		pg_atomic_write_u64(&db->transactions, 0);
		pg_atomic_write_u64(&db->rows, 0);
		pg_atomic_write_u64(&db->conflicts, 0);
		memset(db->stops, 0, cozesync_max_nodes * sizeof(CozeApplyStop));
		db->dboid = InvalidOid;
	}
	LWLockRelease(&all->lock);
}

/* --- stopped origins --- */

/* Under the lock; NULL: none, or no room. */
static CozeApplyStop *
find_stop(CozeStops *db, CozeOrigin origin, bool make)
{
	CozeApplyStop *unused = NULL;

	for (int i = 0; i < cozesync_max_nodes; i++)
	{
		if (db->stops[i].origin == origin)
			return &db->stops[i];
		if (unused == NULL && db->stops[i].origin == 0)
			unused = &db->stops[i];
	}
	if (make && unused != NULL)
	{
		memset(unused, 0, sizeof(*unused));
		unused->origin = origin;
		unused->since = GetCurrentTimestamp();
		return unused;
	}
	return NULL;
}

void
coze_stop_set(CozeOrigin origin, CozeHlc hlc, Oid relid, int held_back_by,
			  const char *key, const char *error)
{
	CozeStops  *db = my_stops();
	CozeApplyStop *stop;

	if (db == NULL)
		return;
	LWLockAcquire(&all->lock, LW_EXCLUSIVE);
	stop = find_stop(db, origin, true);
	if (stop != NULL)
	{
		stop->hlc = hlc;
		stop->relid = relid;
		stop->held_back_by = held_back_by;
		strlcpy(stop->key, key, sizeof(stop->key));
		strlcpy(stop->error, error, sizeof(stop->error));
	}
	LWLockRelease(&all->lock);
}

/* Show that what is being applied waits for coze_applying.held_back_by. */
void
coze_stop_waiting(void)
{
	char		key[COZE_KEY_TEXT_SIZE];
	CozeApplyStop stop;

	if (coze_applying.version.hlc == 0)
		return;
	coze_applying_key(key);
	if (!coze_apply_stop_of(coze_applying.version.origin, &stop))
		only_waiting = coze_applying.version.origin;
	coze_stop_set(coze_applying.version.origin, coze_applying.version.hlc, coze_applying.relid,
				  coze_applying.held_back_by, key, "waiting for a lock");
}

/* The wait is over, whether or not it brought the lock. */
void
coze_stop_waited(void)
{
	coze_applying.held_back_by = 0;
	if (only_waiting != 0)
		coze_stop_clear(only_waiting);
	only_waiting = 0;
}

void
coze_stop_clear(CozeOrigin origin)
{
	CozeStops  *db = my_stops();
	CozeApplyStop *stop;

	if (db == NULL)
		return;
	LWLockAcquire(&all->lock, LW_EXCLUSIVE);
	stop = find_stop(db, origin, false);
	if (stop != NULL)
		stop->origin = 0;
	LWLockRelease(&all->lock);
}

void
coze_stop_clear_all(void)
{
	CozeStops  *db = my_stops();

	if (db == NULL)
		return;
	LWLockAcquire(&all->lock, LW_EXCLUSIVE);
	for (int i = 0; i < cozesync_max_nodes; i++)
		db->stops[i].origin = 0;
	LWLockRelease(&all->lock);
}

bool
coze_apply_stop_of(CozeOrigin origin, CozeApplyStop *stop)
{
	CozeStops  *db = my_stops();
	CozeApplyStop *found;

	if (db == NULL)
		return false;
	LWLockAcquire(&all->lock, LW_SHARED);
	found = find_stop(db, origin, false);
	if (found != NULL)
		*stop = *found;
	LWLockRelease(&all->lock);
	return found != NULL;
}

/* --- counters, retries --- */

void
coze_stop_count(uint64 transactions, uint64 rows, uint64 conflicts)
{
	CozeStops  *db = my_stops();

	if (db == NULL)
		return;
	pg_atomic_fetch_add_u64(&db->transactions, transactions);
	pg_atomic_fetch_add_u64(&db->rows, rows);
	pg_atomic_fetch_add_u64(&db->conflicts, conflicts);
}

void
coze_apply_counters(CozeApplyCounters *counters)
{
	CozeStops  *db = my_stops();

	memset(counters, 0, sizeof(*counters));
	if (db == NULL)
		return;
	counters->transactions = pg_atomic_read_u64(&db->transactions);
	counters->rows = pg_atomic_read_u64(&db->rows);
	counters->conflicts = pg_atomic_read_u64(&db->conflicts);
}

uint64
coze_stop_retries(void)
{
	CozeStops  *db = my_stops();

	return db != NULL ? pg_atomic_read_u64(&db->retries) : 0;
}

void
coze_apply_retry(void)
{
	CozeStops  *db = my_stops();

	if (db == NULL)
		return;
	pg_atomic_fetch_add_u64(&db->retries, 1);
	coze_worker_wake(COZE_WORKER_APPLIER);
}

/* --- errors --- */

void
coze_applying_clear(void)
{
	coze_stop_waited();
	memset(&coze_applying, 0, sizeof(coze_applying));
}

static int64
big_endian(const char *data, int64 size)
{
	int64		value = (data[0] & 0x80) ? -1 : 0;

	for (int64 i = 0; i < size; i++)
		value = (int64) ((uint64) value << 8) | (uint8) data[i];
	return value;
}

/*
 * The key of the row at hand, for people.  Made of the bytes alone, since in the
 * middle of an error no catalog can be asked: whole numbers and text as such, all
 * else in hexadecimal.
 */
void
coze_applying_key(char *text)
{
	const CozeApplying *a = &coze_applying;
	int			size = COZE_KEY_TEXT_SIZE;
	int			n = 0;

	text[0] = '\0';
	for (int i = 0; a->key != NULL && i < a->key->n && n < size - 1; i++)
	{
		const CozeValue *value = &a->key->values[i];
		const char *type = a->relation->columns[i].type_name;

		if (i > 0)
			n += snprintf(text + n, size - n, ", ");
		if (n >= size - 1)
			break;
		if (value->size > 0 && value->size <= 8 && strncmp(type, "int", 3) == 0 &&
			(a->relation->columns[i].flags & COZE_COLUMN_BINARY))
			n += snprintf(text + n, size - n, INT64_FORMAT, big_endian(value->data, value->size));
		else if (strcmp(type, "text") == 0 || strcmp(type, "varchar") == 0 ||
				 strcmp(type, "bpchar") == 0 ||
				 !(a->relation->columns[i].flags & COZE_COLUMN_BINARY))
		{
			int			length = Min(value->size, size - 1 - n);

			length = pg_mbcliplen(value->data, value->size, length);
			memcpy(text + n, value->data, length);
			n += length;
			text[n] = '\0';
		}
		else
		{
			for (int64 j = 0; j < value->size && n < size - 2; j++)
				n += snprintf(text + n, size - n, "%02x", (uint8) value->data[j]);
		}
	}
}

void
coze_applying_context(void *arg)
{
	const CozeApplying *a = &coze_applying;
	char		key[COZE_KEY_TEXT_SIZE];

	if (a->version.hlc == 0)
		return;
	if (a->relation == NULL)
	{
		errcontext("applying entry %s of origin %llu",
				   timestamptz_to_str(a->version.hlc), (unsigned long long) a->version.origin);
		return;
	}
	coze_applying_key(key);
	errcontext("applying entry %s of origin %llu, table \"%s.%s\", key %s%s%s",
			   timestamptz_to_str(a->version.hlc), (unsigned long long) a->version.origin,
			   a->relation->schema, a->relation->table, key[0] != '\0' ? key : "(none)",
			   a->column != NULL ? ", column " : "", a->column != NULL ? a->column : "");
}
