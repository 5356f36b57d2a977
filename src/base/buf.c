/*-------------------------------------------------------------------------
 *
 * buf.c
 *		A growing run of bytes, for encoders.
 *
 *-------------------------------------------------------------------------
 */
#include "base/buf.h"

#ifndef COZE_STANDALONE
#include "utils/memutils.h"
#endif

/* Where doubling begins. */
#define INITIAL_CAP 256

void
coze_buf_too_large(void)
{
#ifdef COZE_STANDALONE
	abort();
#else
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("row is too large to be replicated"),
			 errdetail("The values of a changed row, old and new together, may take up to 4 GB.")));
#endif
}

/* As coze_realloc(), and not limited to 1 GB in the server. */
static char *
resize(char *data, Size cap)
{
#ifdef COZE_STANDALONE
	return coze_realloc(data, cap);
#else
	if (data == NULL)
		return MemoryContextAllocHuge(CurrentMemoryContext, cap);
	return repalloc_huge(data, cap);
#endif
}

/* Make room for more bytes behind the end, and some for those to follow. */
void
coze_buf_enlarge(CozeBuf *buf, Size more)
{
	Size		cap;

	if (more > SIZE_MAX / 4 || buf->size > SIZE_MAX / 4)
		coze_buf_too_large();
	cap = Max(buf->cap * 2, INITIAL_CAP);
	while (cap < buf->size + more)
		cap *= 2;
	buf->data = resize(buf->data, cap);
	buf->cap = cap;
}
