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

/* The two tables of a segment of the log, each with an index on its first two columns. */
typedef enum CozeSegmentTable
{
	COZE_SEGMENT_LOG,			/* heads of entries */
	COZE_SEGMENT_CHUNK,			/* bodies that do not fit beside them */
} CozeSegmentTable;

/* Oid of the table; kept until something in pg_class changes. */
extern Oid	coze_segment_oid(CozeSegmentTable table, int segment);

/* Who owns the extension's tables: what is written there on the way is written as he. */
extern Oid	coze_extension_owner(void);

#endif							/* COZE_CATALOG_H */
