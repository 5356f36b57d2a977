/*-------------------------------------------------------------------------
 *
 * image.h
 *		Images of the change log as jsonb, for people to look at.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_CAPTURE_IMAGE_H
#define COZE_CAPTURE_IMAGE_H

#include "postgres.h"

#include "base/wire.h"

typedef struct CozeImageReader CozeImageReader;

/* In CurrentMemoryContext; keeps the descriptors that it has met. */
extern CozeImageReader *coze_image_reader_make(void);

/* What a relation was called when it was captured. */
extern const CozeDescriptor *coze_image_descriptor(CozeImageReader *reader, uint64 hash);

/*
 * An object with these columns of the descriptor (NULL: 0 .. n - 1), by name.  The
 * caller's CurrentMemoryContext takes the result and what is left over.
 */
extern Datum coze_image_jsonb(CozeImageReader *reader, uint64 hash, const CozeValue *values,
							  const int *columns, int n);

#endif							/* COZE_CAPTURE_IMAGE_H */
