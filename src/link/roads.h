/*-------------------------------------------------------------------------
 *
 * roads.h
 *		Over which peer the entries of each origin come to this node.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COZE_ROADS_H
#define COZE_ROADS_H

#include "postgres.h"

#include "base/vector.h"
#include "link/topology.h"

extern Size coze_roads_shmem_size(void);
extern void coze_roads_shmem_init(void);
extern void coze_roads_forget_database(Oid database);

/* Which origins there are, and which have a link of their own to this node. */
extern void coze_roads_set_topology(const CozeTopology *topology);

/* Frames of these origins have come from a peer. */
extern void coze_roads_came(CozeOrigin peer, const CozeVector *origins);

/*
 * The origins whose entries a peer shall leave to others (with hlc 1 each): their
 * road is another one.  queued: what this node has queued.
 */
extern void coze_roads_left_to_others(CozeOrigin peer, const CozeVector *queued,
									  CozeVector *leave);

#endif							/* COZE_ROADS_H */
