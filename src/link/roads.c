/*-------------------------------------------------------------------------
 *
 * roads.c
 *		Over which peer the entries of each origin come to this node.
 *
 * Every peer could pass on all that it holds, and most of it would come once for
 * each of them.  So the target names one peer for each origin, its road: the origin
 * itself where it has a link to here, else a peer that holds most of it.  With every
 * acknowledgement each other peer is told to leave that origin out.
 *
 * A road is given up when something of the origin is known to be lacking here, because
 * another peer has it, and nothing of it came for a while though there was room.  Then
 * the peer that has most is the road.  The direct one is the road again when something of
 * the origin comes over it, or, unless it has failed lately, as soon as it is up.
 *
 * Invariant: this decides how often bytes travel, never whether they arrive.  Nobody
 * is told to leave out what he wrote himself; and while no road can be judged (no peer
 * tells what it holds), everybody may send everything.
 *
 * Locking: each database's lock for its roads; before it, never under it, those of
 * link_state.c and queue.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "apply/queue.h"
#include "debug.h"
#include "link/link_state.h"
#include "link/roads.h"
#include "link/source.h"
#include "log/state.h"
#include "log/wall.h"
#include "settings.h"

/* All in us. */
#define STALL INT64CONST(2000000)	/* with a road that is up */
#define GRACE INT64CONST(700000)	/* with one that is not */
#define SILENCE INT64CONST(5000000) /* a peer not heard of for so long is not up */
#define AVOID INT64CONST(30000000)	/* the direct road, once it has failed */
#define WEIGH_INTERVAL INT64CONST(50000)

typedef struct Road
{
	CozeOrigin	origin;
	CozeOrigin	peer;			/* who is to send; 0: everybody */
	bool		is_linked;		/* the origin has a link of its own to here */
	CozeMoment	moved_at;		/* when something last came over it, or it was named */
	CozeMoment	lacking_since;	/* a peer holds more than has come; 0: none does */
	CozeMoment	avoid_until;	/* the origin's own link has failed */
} Road;

typedef struct RoadMap
{
	LWLock		lock;
	Oid			database;		/* InvalidOid: free */
	CozeMoment	weighed_at;
	int			n;
	Road	   *roads;			/* cozesync_max_nodes */
} RoadMap;

typedef struct RoadMaps
{
	LWLock		lock;			/* for database of all */
	RoadMap		map[FLEXIBLE_ARRAY_MEMBER]; /* cozesync_max_databases */
} RoadMaps;

/* A peer that entries can come from. */
typedef struct Source
{
	CozeOrigin	peer;
	bool		is_up;
	bool		has_room;		/* it may send */
	bool		tells;			/* what it holds */
	CozeVector	holds;
} Source;

typedef struct Sources
{
	int			n;
	Source	   *s;
} Sources;

static RoadMaps *maps;
static RoadMap *mine;

/* --- shared memory ------------------------------------------------------------- */

static Size
maps_size(void)
{
	return MAXALIGN(add_size(offsetof(RoadMaps, map),
							 mul_size(cozesync_max_databases, sizeof(RoadMap))));
}

Size
coze_roads_shmem_size(void)
{
	return add_size(maps_size(), mul_size(cozesync_max_databases,
										  mul_size(cozesync_max_nodes, sizeof(Road))));
}

void
coze_roads_shmem_init(void)
{
	bool		found;
	Road	   *roads;

	maps = ShmemInitStruct("cozesync roads", coze_roads_shmem_size(), &found);
	if (!found)
	{
		memset(maps, 0, coze_roads_shmem_size());
		LWLockInitialize(&maps->lock, LWLockNewTrancheId());
		roads = (Road *) ((char *) maps + maps_size());
		for (int i = 0; i < cozesync_max_databases; i++)
		{
			LWLockInitialize(&maps->map[i].lock, maps->lock.tranche);
			maps->map[i].roads = roads + i * cozesync_max_nodes;
		}
	}
	LWLockRegisterTranche(maps->lock.tranche, "cozesync roads");
}

/* This database's; NULL: there is no place for it. */
static RoadMap *
my_map(void)
{
	RoadMap    *unused = NULL;

	if (mine != NULL)
		return mine;
	LWLockAcquire(&maps->lock, LW_EXCLUSIVE);
	for (int i = 0; i < cozesync_max_databases && mine == NULL; i++)
	{
		if (maps->map[i].database == MyDatabaseId)
			mine = &maps->map[i];
		else if (unused == NULL && !OidIsValid(maps->map[i].database))
			unused = &maps->map[i];
	}
	if (mine == NULL && unused != NULL)
	{
		mine = unused;
		mine->database = MyDatabaseId;
		mine->n = 0;
		mine->weighed_at = 0;
	}
	LWLockRelease(&maps->lock);
	return mine;
}

void
coze_roads_forget_database(Oid database)
{
	LWLockAcquire(&maps->lock, LW_EXCLUSIVE);
	for (int i = 0; i < cozesync_max_databases; i++)
	{
		if (maps->map[i].database == database)
			maps->map[i].database = InvalidOid;
	}
	LWLockRelease(&maps->lock);
}

/* --- which origins there are ------------------------------------------------------ */

/* The lock is held. */
static Road *
find_road(RoadMap *map, CozeOrigin origin)
{
	for (int i = 0; i < map->n; i++)
	{
		if (map->roads[i].origin == origin)
			return &map->roads[i];
	}
	return NULL;
}

/* An origin with a link of its own is waited for; another's road is found when weighed. */
static void
set_origin(RoadMap *map, CozeOrigin origin, bool is_linked, CozeMoment now)
{
	Road	   *road = find_road(map, origin);

	if (road == NULL)
	{
		if (map->n == cozesync_max_nodes)
			return;
		road = &map->roads[map->n++];
		memset(road, 0, sizeof(*road));
		road->origin = origin;
		road->moved_at = now;
	}
	if (is_linked && !road->is_linked)
		road->avoid_until = 0;
	if (is_linked && road->peer == 0)
		road->peer = origin;
	if (!is_linked && road->peer == origin)
		road->peer = 0;
	road->is_linked = is_linked;
}

void
coze_roads_set_topology(const CozeTopology *topology)
{
	RoadMap    *map = my_map();
	CozeMoment	now = coze_monotonic();
	CozeOrigin	own = coze_own_origin();

	if (map == NULL)
		return;
	LWLockAcquire(&map->lock, LW_EXCLUSIVE);
	for (int i = 0; i < topology->nmembers; i++)
	{
		CozeOrigin	origin = topology->members[i].origin;

		if (!topology->members[i].is_local)
			set_origin(map, origin, !coze_topology_is_paused(topology, origin) &&
					   coze_topology_mode(topology, origin, own) != COZE_MODE_OFF, now);
	}
	map->weighed_at = 0;
	LWLockRelease(&map->lock);
}

/* --- which peers there are ----------------------------------------------------------- */

static void
take_peer(void *arg, const CozePeerStatus *status)
{
	Sources    *sources = arg;
	Source	   *source = &sources->s[sources->n++];
	const CozeLinkStatus *in = &status->link[COZE_LINK_IN];
	CozeMoment	now = coze_monotonic();

	source->peer = status->peer;
	source->is_up = in->pid != 0 && in->state == COZE_LINK_STREAMING &&
		now - in->heard_at < SILENCE;
	source->tells = now - status->told_at < SILENCE;
	coze_vector_init(&source->holds);
	coze_vector_copy(&source->holds, &status->applied);
	source->has_room = true;
}

static void
find_sources(Sources *sources)
{
	sources->n = 0;
	sources->s = palloc(cozesync_max_nodes * sizeof(Source));
	coze_link_for_each_peer(take_peer, sources);
	for (int i = 0; i < sources->n; i++)
	{
		CozeVector	queued = {0};
		uint64		window;

		coze_queue_state(sources->s[i].peer, &queued, &window);
		sources->s[i].has_room = window > COZE_SOURCE_SLACK;
		coze_vector_free(&queued);
	}
}

static void
free_sources(Sources *sources)
{
	for (int i = 0; i < sources->n; i++)
		coze_vector_free(&sources->s[i].holds);
	pfree(sources->s);
}

static const Source *
source_of(const Sources *sources, CozeOrigin peer)
{
	for (int i = 0; i < sources->n; i++)
	{
		if (sources->s[i].peer == peer)
			return &sources->s[i];
	}
	return NULL;
}

static bool
is_up(const Sources *sources, CozeOrigin peer)
{
	const Source *source = source_of(sources, peer);

	return source != NULL && source->is_up;
}

/* The peer that holds most of an origin, has more of it than has come, and is not this one. */
static CozeOrigin
best_source(const Sources *sources, CozeOrigin origin, CozeHlc more_than, CozeOrigin without)
{
	CozeOrigin	best = 0;

	for (int i = 0; i < sources->n; i++)
	{
		const Source *source = &sources->s[i];
		CozeHlc		holds = coze_vector_get(&source->holds, origin);

		if (!source->is_up || source->peer == without || holds <= more_than)
			continue;
		best = source->peer;
		more_than = holds;
	}
	return best;
}

/* Can entries come that nobody tells us of? */
static bool
somebody_is_silent(const Sources *sources)
{
	for (int i = 0; i < sources->n; i++)
	{
		if (sources->s[i].is_up && !sources->s[i].tells)
			return true;
	}
	return false;
}

/* --- weighing ---------------------------------------------------------------------------- */

static void
name_road(Road *road, CozeOrigin peer, CozeMoment now)
{
	road->peer = peer;
	road->moved_at = now;
	if (road->lacking_since != 0)
		road->lacking_since = now;
}

/* Has the road had its chance, and nothing came of what is lacking? */
static bool
has_failed(const Road *road, const Sources *sources, CozeMoment now)
{
	const Source *source = source_of(sources, road->peer);
	bool		up = source != NULL && source->is_up;

	if (road->lacking_since == 0 || (up && !source->has_room))
		return false;
	return now - Max(road->lacking_since, road->moved_at) > (up ? STALL : GRACE);
}

static void
weigh(Road *road, const Sources *sources, CozeHlc queued, CozeMoment now)
{
	CozeOrigin	other;

	if (best_source(sources, road->origin, queued, road->peer) == 0)
		road->lacking_since = 0;
	else if (road->lacking_since == 0)
		road->lacking_since = now;
	if (road->is_linked && road->peer != road->origin && now >= road->avoid_until &&
		is_up(sources, road->origin))
	{
		name_road(road, road->origin, now);
		return;
	}
	if (has_failed(road, sources, now))
	{
		other = best_source(sources, road->origin, queued, road->peer);
		if (road->peer == road->origin)
			road->avoid_until = now + AVOID;
		name_road(road, other, now);
	}
	else if (road->peer != road->origin && now - road->moved_at > SILENCE &&
			 somebody_is_silent(sources))
		road->peer = 0;
	else if (!road->is_linked && (road->peer == 0 || !is_up(sources, road->peer)) &&
			 !somebody_is_silent(sources))
		name_road(road, best_source(sources, road->origin, 0, 0), now);
}

/* All roads, unless that was done a moment ago. */
static void
weigh_roads(RoadMap *map, const CozeVector *queued)
{
	CozeMoment	now = coze_monotonic();
	Sources		sources;

	if (now - map->weighed_at < WEIGH_INTERVAL && now >= map->weighed_at)
		return;
	find_sources(&sources);
	LWLockAcquire(&map->lock, LW_EXCLUSIVE);
	map->weighed_at = now;
	for (int i = 0; i < map->n; i++)
		weigh(&map->roads[i], &sources, coze_vector_get(queued, map->roads[i].origin), now);
	LWLockRelease(&map->lock);
	free_sources(&sources);
}

void
coze_roads_came(CozeOrigin peer, const CozeVector *origins)
{
	RoadMap    *map = my_map();
	CozeMoment	now = coze_monotonic();

	if (map == NULL)
		return;
	LWLockAcquire(&map->lock, LW_EXCLUSIVE);
	for (int i = 0; i < origins->n; i++)
	{
		Road	   *road = find_road(map, origins->e[i].origin);

		if (road == NULL ||
			(road->peer != peer && road->peer != 0 && road->origin != peer))
			continue;
		road->peer = peer;
		road->moved_at = now;
		if (road->origin == peer)
			road->avoid_until = 0;
	}
	LWLockRelease(&map->lock);
}

void
coze_roads_left_to_others(CozeOrigin peer, const CozeVector *queued, CozeVector *leave)
{
	RoadMap    *map = my_map();

	coze_vector_init(leave);
	if (map == NULL || !COZE_RULE("one-road"))
		return;
	weigh_roads(map, queued);
	coze_vector_reserve(leave, cozesync_max_nodes);
	LWLockAcquire(&map->lock, LW_SHARED);
	for (int i = 0; i < map->n; i++)
	{
		const Road *road = &map->roads[i];

		if (road->peer != 0 && road->peer != peer && road->origin != peer)
			coze_vector_set(leave, road->origin, 1);
	}
	LWLockRelease(&map->lock);
}
