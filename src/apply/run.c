/*-------------------------------------------------------------------------
 *
 * run.c
 *		Sorted runs of operations in temporary files.
 *
 * What the suffix index has no memory for.  A run is written once, in the order of
 * the hash of its operations' places, and then only read: a filter in memory tells
 * for most places that the run has nothing there; for the others the first hash of
 * each block tells which block to read.  In memory there are some bits for each
 * operation, however many there are.
 *
 * A temporary file rather than an unlogged table: the index is the applier's own
 * and is read off the log when it starts, so nobody else needs to see it, nothing
 * has to be vacuumed, and no transaction is in the way.
 *
 * Files live until they are freed, whatever becomes of the transaction; all of them
 * are known here, so that none is lost by an error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "lib/ilist.h"
#include "lib/binaryheap.h"
#include "miscadmin.h"
#include "storage/buffile.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "apply/run.h"

#define BLOCK_OPS 256

/* The filter is made of parts of 512 bits; all bits of an operation are in one. */
#define FILTER_WORDS 8
#define FILTER_PROBES 5

struct CozeRun
{
	dlist_node	node;
	MemoryContext context;
	BufFile    *file;
	uint64		nops;
	uint32		nblocks;
	uint32	   *first;			/* hash of each block's first operation */
	uint32		first_cap;
	uint32		nparts;			/* of the filter; 0: there is none */
	uint64	   *filter;
	uint32		cached;			/* number of the block in block, or nblocks */
	CozeRunOp	block[BLOCK_OPS];	/* being written, or read last */
};

static dlist_head runs = DLIST_STATIC_INIT(runs);

uint32
coze_place_hash(Oid relid, uint8 slot, uint32 hash)
{
	return murmurhash32(hash ^ (relid * 0x9E3779B1u) ^ slot);
}

static uint32
hash_of(const CozeRunOp *op)
{
	return coze_place_hash(op->relid, op->slot, op->hash);
}

/* --- the filter --- */

static uint64 *
filter_part(const CozeRun *run, uint32 hash, uint32 *bits)
{
	*bits = murmurhash32(hash + 0x9E3779B9u);
	return run->filter + (Size) (((uint64) hash * run->nparts) >> 32) * FILTER_WORDS;
}

static void
filter_add(CozeRun *run, uint32 hash)
{
	uint32		bits;
	uint64	   *part;

	if (run->nparts == 0)
		return;
	part = filter_part(run, hash, &bits);
	for (int i = 0; i < FILTER_PROBES; i++, bits = bits * 0x01000193u + 0x9E37u)
		part[(bits >> 6) % FILTER_WORDS] |= UINT64CONST(1) << ((bits >> 20) % 64);
}

static bool
filter_may_have(const CozeRun *run, uint32 hash)
{
	uint32		bits;
	uint64	   *part;

	if (run->nparts == 0)
		return true;
	part = filter_part(run, hash, &bits);
	for (int i = 0; i < FILTER_PROBES; i++, bits = bits * 0x01000193u + 0x9E37u)
	{
		if ((part[(bits >> 6) % FILTER_WORDS] & (UINT64CONST(1) << ((bits >> 20) % 64))) == 0)
			return false;
	}
	return true;
}

/* --- writing --- */

static CozeRun *
make_run(uint64 nops, int filter_bits)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "cozesync run", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	ResourceOwner owner = CurrentResourceOwner;
	CozeRun    *run = palloc0(sizeof(CozeRun));

	run->context = context;
	dlist_push_head(&runs, &run->node);
	run->nparts = (uint32) ((nops * filter_bits + FILTER_WORDS * 64 - 1) / (FILTER_WORDS * 64));
	if (run->nparts > 0)
		run->filter = palloc_extended(run->nparts * FILTER_WORDS * sizeof(uint64),
									  MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	run->first_cap = (uint32) (nops / BLOCK_OPS + 1);
	run->first = palloc_extended(run->first_cap * sizeof(uint32), MCXT_ALLOC_HUGE);
	/* It outlives transactions, so it must not remember one's resource owner. */
	CurrentResourceOwner = NULL;
	run->file = BufFileCreateTemp(true);
	CurrentResourceOwner = owner;
	MemoryContextSwitchTo(old);
	return run;
}

static void
write_block(CozeRun *run, Size n)
{
	run->first[run->nblocks++] = hash_of(&run->block[0]);
	BufFileWrite(run->file, run->block, n * sizeof(CozeRunOp));
}

/* In the order of hashes; no more than were announced. */
static void
put_op(CozeRun *run, const CozeRunOp *op)
{
	Size		at = run->nops % BLOCK_OPS;

	run->block[at] = *op;
	filter_add(run, hash_of(op));
	run->nops++;
	if (at == BLOCK_OPS - 1)
		write_block(run, BLOCK_OPS);
}

static void
end_writing(CozeRun *run)
{
	if (run->nops % BLOCK_OPS != 0)
		write_block(run, run->nops % BLOCK_OPS);
	run->cached = run->nblocks;
}

static int
compare_ops(const void *a, const void *b)
{
	const CozeRunOp *oa = a;
	const CozeRunOp *ob = b;
	uint32		ha = hash_of(oa);
	uint32		hb = hash_of(ob);

	if (ha != hb)
		return ha < hb ? -1 : 1;
	return oa->hlc < ob->hlc ? 1 : oa->hlc > ob->hlc ? -1 : 0;
}

CozeRun *
coze_run_write(CozeRunOp *ops, Size n, int filter_bits)
{
	CozeRun    *run = make_run(n, filter_bits);

	qsort(ops, n, sizeof(CozeRunOp), compare_ops);
	for (Size i = 0; i < n; i++)
		put_op(run, &ops[i]);
	end_writing(run);
	return run;
}

/* --- freeing --- */

void
coze_run_free(CozeRun *run)
{
	dlist_delete(&run->node);
	if (run->file != NULL)
		BufFileClose(run->file);
	MemoryContextDelete(run->context);
}

void
coze_run_free_all(void)
{
	while (!dlist_is_empty(&runs))
		coze_run_free(dlist_container(CozeRun, node, dlist_head_node(&runs)));
}

Size
coze_run_memory(const CozeRun *run)
{
	return MemoryContextMemAllocated(run->context, false);
}

uint64
coze_run_count(const CozeRun *run)
{
	return run->nops;
}

/* --- reading --- */

static Size
read_block(CozeRun *run, uint32 number)
{
	Size		n = number < run->nblocks - 1 ? BLOCK_OPS : (run->nops - 1) % BLOCK_OPS + 1;
	off_t		offset = (off_t) number * BLOCK_OPS * sizeof(CozeRunOp);

	if (run->cached == number)
		return n;
	run->cached = run->nblocks;
	/* A file of a BufFile holds a gigabyte. */
	if (BufFileSeek(run->file, (int) (offset / 0x40000000), offset % 0x40000000, SEEK_SET) != 0 ||
		BufFileRead(run->file, run->block, n * sizeof(CozeRunOp)) != n * sizeof(CozeRunOp))
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read back the index of operations from a temporary file")));
	run->cached = number;
	return n;
}

/* The first block in which an operation with the hash can be. */
static uint32
first_block(const CozeRun *run, uint32 hash)
{
	uint32		low = 0;
	uint32		high = run->nblocks;

	/* the first block that begins with the hash or above it, and the one before that */
	while (low < high)
	{
		uint32		middle = low + (high - low) / 2;

		if (run->first[middle] < hash)
			low = middle + 1;
		else
			high = middle;
	}
	return low > 0 ? low - 1 : 0;
}

/*
 * The callback may look for something else in the same run, so it gets operations
 * that are copied out of the block.
 */
void
coze_run_find(CozeRun *run, Oid relid, uint8 slot, uint32 hash, CozeRunCallback callback, void *arg)
{
	uint32		place = coze_place_hash(relid, slot, hash);

	if (run->nops == 0 || !filter_may_have(run, place))
		return;
	for (uint32 b = first_block(run, place); b < run->nblocks && run->first[b] <= place; b++)
	{
		Size		n = read_block(run, b);

		for (Size i = 0; i < n; i++)
		{
			CozeRunOp	op = run->block[i];

			if (op.hash == hash && op.relid == relid && op.slot == slot && !callback(arg, &op))
				return;
		}
	}
}

void
coze_run_each(CozeRun *run, CozeRunCallback callback, void *arg)
{
	for (uint32 b = 0; b < run->nblocks; b++)
	{
		Size		n = read_block(run, b);

		CHECK_FOR_INTERRUPTS();
		for (Size i = 0; i < n; i++)
		{
			if (!callback(arg, &run->block[i]))
				return;
		}
	}
}

/* --- merging --- */

/* Where a run has got to. */
typedef struct Reading
{
	CozeRun    *run;
	uint32		block;
	Size		at;
	Size		n;
} Reading;

static bool
advance(Reading *r)
{
	if (++r->at < r->n)
		return true;
	if (++r->block >= r->run->nblocks)
		return false;
	r->n = read_block(r->run, r->block);
	r->at = 0;
	return true;
}

static const CozeRunOp *
current(const Reading *r)
{
	return &r->run->block[r->at];
}

/* For a heap whose first is the least. */
static int
compare_readings(Datum a, Datum b, void *arg)
{
	return -compare_ops(current((Reading *) DatumGetPointer(a)), current((Reading *) DatumGetPointer(b)));
}

CozeRun *
coze_run_merge(CozeRun *const *all, int n, int filter_bits, bool (*keep) (const CozeRunOp *op))
{
	binaryheap *heap = binaryheap_allocate(n, compare_readings, NULL);
	Reading    *readings = palloc0(n * sizeof(Reading));
	uint64		nops = 0;
	CozeRun    *merged;

	for (int i = 0; i < n; i++)
	{
		nops += all[i]->nops;
		if (all[i]->nops == 0)
			continue;
		readings[i].run = all[i];
		readings[i].n = read_block(all[i], 0);
		binaryheap_add_unordered(heap, PointerGetDatum(&readings[i]));
	}
	binaryheap_build(heap);
	merged = make_run(nops, filter_bits);
	while (!binaryheap_empty(heap))
	{
		Reading    *r = (Reading *) DatumGetPointer(binaryheap_first(heap));

		if (keep(current(r)))
			put_op(merged, current(r));
		if (!advance(r))
			(void) binaryheap_remove_first(heap);
		else
			binaryheap_replace_first(heap, PointerGetDatum(r));
		if (merged->nops % 65536 == 0)
			CHECK_FOR_INTERRUPTS();
	}
	end_writing(merged);
	binaryheap_free(heap);
	pfree(readings);
	return merged;
}
