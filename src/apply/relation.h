/*-------------------------------------------------------------------------
 *
 * relation.h
 *		Descriptors of captured relations, mapped to the tables here.
 *
 * Columns are matched by name, a key by its set of columns.  Both are cached and
 * looked up anew when the server says that something changed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_RELATION_H
#define COZE_RELATION_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "fmgr.h"
#include "nodes/execnodes.h"
#include "utils/relcache.h"

#include "base/codec.h"
#include "base/wire.h"

/* A unique index besides the key's. */
typedef struct CozeUnique
{
	Oid			index;
	int			nkeys;			/* columns or expressions */
	IndexInfo  *info;
	FmgrInfo   *hash;			/* by key; fn_oid 0: no hash function, all collide */
	FmgrInfo   *equal;
	Oid		   *collations;
	Oid		   *operators;
	bool	   *byval;			/* how its values are copied */
	int16	   *len;
	bool		nulls_not_distinct;
	int			ncolumns;		/* that its keys and predicate read; of a generated */
	int		   *columns;		/* one those that it is made of; numbers from 0 */
} CozeUnique;

typedef struct CozeEvaluation CozeEvaluation;

/* A table here. */
typedef struct CozeTable
{
	Oid			relid;
	bool		valid;			/* false: something changed, look it up anew */
	bool		group;			/* one of cozesync's own */
	bool		partitioned;
	char	   *schema;
	char	   *name;
	Oid			owner;
	TupleDesc	desc;
	int			nkeys;
	AttrNumber *keys;			/* in ascending order */
	CozeCodec **codecs;			/* by attnum - 1; NULL: dropped or generated */
	FmgrInfo   *equal;			/* by key */
	FmgrInfo   *hash;			/* by key; fn_oid 0: no hash function, all collide */
	FmgrInfo   *compare;		/* by key */
	Oid		   *collations;
	Oid		   *operators;
	int			nuniques;
	CozeUnique *uniques;
	CozeEvaluation *evaluation; /* unique.c */
	bool		folds;			/* some policy of it does, or did; policy.c */
	List	   *policies;		/* CozePolicy, by version; policy.c */
	MemoryContext context;
} CozeTable;

/* A descriptor and what it means here. */
typedef struct CozeMap
{
	uint64		hash;
	CozeDescriptor desc;
	char	   *bytes;
	Size		size;
	bool		stored;			/* in cozesync.descriptor, as far as we know */
	bool		skipped;		/* the index left out changes of it: no table */
	uint64		signature;		/* of the table's identity and keys when last resolved */
	CozeTable  *table;			/* NULL: to be looked up */
	AttrNumber *attnums;		/* by descriptor column; 0: no such column here */
	bool	   *dropped;		/* there is none since execute_everywhere() dropped it */
	int		   *keys;			/* by key of the table: its place among the descriptor's */
	MemoryContext context;		/* of the last three */
} CozeMap;

/* An image of a row: by attnum - 1. */
typedef struct CozeRow
{
	Datum	   *values;
	bool	   *isnull;
	bool	   *known;			/* does the entry say? */
} CozeRow;

extern void coze_map_offer(const char *data, Size size);
extern CozeMap *coze_map_get(uint64 hash);
extern bool coze_map_resolve(CozeMap *map, bool missing_ok);
extern bool coze_table_is_current(const CozeTable *table);
extern void coze_map_store(CozeMap *map);
extern void coze_map_forget_stored(void);
extern bool coze_map_take_changed(void);
extern List *coze_tables_known(void);
extern bool coze_tables_refresh_rules(void);
extern CozeTable *coze_table_get(Relation rel, Bitmapset *keys);	/* numbers of its columns */

extern Oid	coze_find_key_index(Relation rel, const Bitmapset *keys);
extern void coze_map_key(const CozeMap *map, const CozeImage *image, Datum *key);
extern void coze_map_row(const CozeMap *map, const CozeImage *key, const CozeImage *image,
						 CozeRow *row);
extern void coze_map_old_unique(const CozeMap *map, const CozeChange *change, CozeRow *row);

extern CozeRow *coze_row_alloc(const CozeTable *table);
extern CozeRow *coze_row_clone(const CozeTable *table, const CozeRow *row);
extern uint32 coze_key_hash(const CozeTable *table, const Datum *key);
extern bool coze_key_equal(const CozeTable *table, const Datum *a, const Datum *b);
extern Datum *coze_key_copy(const CozeTable *table, const Datum *key);
extern void coze_key_of_row(const CozeTable *table, const CozeRow *row, Datum *key);

/* Run what follows with the rights of the table's owner and of nobody else. */
typedef struct CozeOwnerState
{
	Oid			user;
	int			context;
	int			guc_level;
} CozeOwnerState;

extern void coze_owner_enter(const CozeTable *table, CozeOwnerState *state);
extern void coze_owner_leave(const CozeOwnerState *state);

#endif							/* COZE_RELATION_H */
