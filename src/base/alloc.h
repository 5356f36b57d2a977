/*-------------------------------------------------------------------------
 *
 * alloc.h
 *		What the pure core needs of its surroundings: integer types, memory.
 *
 * Files that include this compile in two ways: in the server, where memory
 * comes from the current memory context and an error unwinds, and standalone
 * (COZE_STANDALONE), with nothing but the C library, for unit tests and
 * fuzzers.  In both an allocation either succeeds or does not return.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_ALLOC_H
#define COZE_ALLOC_H

#ifdef COZE_STANDALONE

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef int8_t int8;
typedef int16_t int16;
typedef int32_t int32;
typedef int64_t int64;
typedef uint8_t uint8;
typedef uint16_t uint16;
typedef uint32_t uint32;
typedef uint64_t uint64;
typedef size_t Size;

#ifndef Assert
#define Assert(condition) assert(condition)
#endif
#ifndef Max
#define Max(x, y) ((x) > (y) ? (x) : (y))
#define Min(x, y) ((x) < (y) ? (x) : (y))
#endif
#ifndef pg_attribute_unused
#define pg_attribute_unused() __attribute__((unused))
#endif

#ifdef COZE_STANDALONE_ARENA

/* The test brings memory of its own, which it frees at one stroke. */
extern void *coze_alloc(Size size);
extern void *coze_realloc(void *p, Size size);
extern void coze_free(void *p);

#else

static inline void *
coze_alloc(Size size)
{
	void	   *p = malloc(size > 0 ? size : 1);

	if (p == NULL)
		abort();
	return p;
}

/* p may be NULL. */
static inline void *
coze_realloc(void *p, Size size)
{
	p = realloc(p, size > 0 ? size : 1);
	if (p == NULL)
		abort();
	return p;
}

/* p may be NULL. */
static inline void
coze_free(void *p)
{
	free(p);
}

#endif							/* COZE_STANDALONE_ARENA */

#else							/* !COZE_STANDALONE */

#include "postgres.h"

static inline void *
coze_alloc(Size size)
{
	return palloc(size);
}

static inline void *
coze_realloc(void *p, Size size)
{
	return p != NULL ? repalloc(p, size) : palloc(size);
}

static inline void
coze_free(void *p)
{
	if (p != NULL)
		pfree(p);
}

#endif							/* COZE_STANDALONE */

static inline void *
coze_alloc0(Size size)
{
	void	   *p = coze_alloc(size);

	memset(p, 0, size);
	return p;
}

#endif							/* COZE_ALLOC_H */
