/*-------------------------------------------------------------------------
 *
 * combine.h
 *		Combining values of a column: numbers, sets, objects.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_COMBINE_H
#define COZE_COMBINE_H

#include "postgres.h"

#include "base/fold.h"

/* For the fold, with the rights of the table's owner. */
extern int	coze_combine(void *arg, CozeColumnPolicy policy, int column, const CozeFoldRow *here,
						 const CozeFoldRow *old, const CozeFoldRow *new, CozeFoldRow *result);
extern int	coze_combine_compare(void *arg, int column, CozeFoldValue a, CozeFoldValue b);

#endif							/* COZE_COMBINE_H */
