/*-------------------------------------------------------------------------
 *
 * tap.c
 *		Test results as the Test Anything Protocol; memory freed at one stroke.
 *
 * Every allocation of the core is a block of malloc's own, so that a sanitizer
 * sees its bounds, and in a list, so that it can be given back.
 *
 *-------------------------------------------------------------------------
 */
#include "tap.h"

#include <stdarg.h>
#include <stdio.h>

static int	tests = 0;
static int	failures = 0;

bool
tap_ok(bool ok, const char *format,...)
{
	va_list		args;

	printf("%sok %d - ", ok ? "" : "not ", ++tests);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
	if (!ok)
		failures++;
	return ok;
}

void
tap_note(const char *format,...)
{
	va_list		args;

	printf("# ");
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
}

int
tap_done(void)
{
	printf("1..%d\n", tests);
	return failures > 0 || tests == 0 ? 1 : 0;
}

static uint64 random_state = 1;

void
tap_seed(uint64 seed)
{
	random_state = seed * UINT64_C(0x9E3779B97F4A7C15) + 1;
}

uint32
tap_random(uint32 below)
{
	uint64		z = (random_state += UINT64_C(0x9E3779B97F4A7C15));

	z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
	return (uint32) ((z ^ (z >> 31)) % below);
}

typedef struct Block
{
	struct Block *prev;
	struct Block *next;
} Block;

static Block blocks = {&blocks, &blocks};

static void *
link_block(Block *block)
{
	if (block == NULL)
		abort();
	block->prev = &blocks;
	block->next = blocks.next;
	block->next->prev = blocks.next = block;
	return block + 1;
}

static Block *
unlink_block(void *p)
{
	Block	   *block = (Block *) p - 1;

	block->prev->next = block->next;
	block->next->prev = block->prev;
	return block;
}

void *
coze_alloc(Size size)
{
	return link_block(malloc(sizeof(Block) + size));
}

void *
coze_realloc(void *p, Size size)
{
	return link_block(realloc(p != NULL ? unlink_block(p) : NULL, sizeof(Block) + size));
}

void
coze_free(void *p)
{
	if (p != NULL)
		free(unlink_block(p));
}

void
tap_free_all(void)
{
	while (blocks.next != &blocks)
		free(unlink_block(blocks.next + 1));
}
