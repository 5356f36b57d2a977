/*-------------------------------------------------------------------------
 *
 * truncate.h
 *		Applying a TRUNCATE.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_TRUNCATE_H
#define COZE_TRUNCATE_H

#include "postgres.h"

#include "apply/decide.h"
#include "apply/row.h"

extern void coze_truncate_apply(CozeDeciding *deciding, CozeMap *map, CozeTarget *target,
								const CozeChange *change);

#endif							/* COZE_TRUNCATE_H */
