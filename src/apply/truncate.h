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

extern void coze_truncate_apply(CozeDeciding *deciding, CozeTable *table, CozeTarget *target);

#endif							/* COZE_TRUNCATE_H */
