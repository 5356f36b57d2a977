/*-------------------------------------------------------------------------
 *
 * catalog.h
 *		The extension's own tables, found by name.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_CATALOG_H
#define COZE_CATALOG_H

#include "postgres.h"

/*
 * Oid of relation cozesync.name; if there is none InvalidOid, or ERROR unless
 * missing_ok.  Two cache look-ups.
 */
extern Oid	coze_relation_oid(const char *name, bool missing_ok);

/* Who owns the extension's tables: what is written there on the way is written as he. */
extern Oid	coze_extension_owner(void);

#endif							/* COZE_CATALOG_H */
