/*-------------------------------------------------------------------------
 *
 * utility.h
 *		Commands of others that the workers must make room for.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_UTILITY_H
#define COZE_UTILITY_H

/* From _PG_init. */
extern void coze_utility_init(void);

#endif							/* COZE_UTILITY_H */
