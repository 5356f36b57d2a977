/*-------------------------------------------------------------------------
 *
 * written.h
 *		What the transaction at hand has written to.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_WRITTEN_H
#define COZE_WRITTEN_H

#include "postgres.h"

extern void coze_written_add(Oid relid, uint8 slot, uint32 hash);
extern bool coze_written_has(Oid relid, uint8 slot, uint32 hash);
extern bool coze_written_any(Oid relid);
extern void coze_written_forget(void);

#endif							/* COZE_WRITTEN_H */
