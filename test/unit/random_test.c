/*-------------------------------------------------------------------------
 *
 * random_test.c
 *		Same set, same rows: whatever the order of arrival and the prunings.
 *
 * Over histories made up here (see generate.c): what a node shows that folds on
 * from base records equals what comes of a fold from the first entry on, rows and
 * conflicts alike, and no unique value appears twice.
 *
 * Usage: random_test [histories [seed]]
 *
 *-------------------------------------------------------------------------
 */
#include "history.h"

#ifndef DEFAULT_RUNS
#define DEFAULT_RUNS 8000
#endif

int
main(int argc, char **argv)
{
	long		runs = argc > 1 ? atol(argv[1]) : DEFAULT_RUNS;
	long		seed = argc > 2 ? atol(argv[2]) : 1;
	long		i;
	long		entries = 0,
				losses = 0;
	const char *wrong = NULL;

	for (i = 0; i < runs && wrong == NULL; i++, seed++)
	{
		History    *h;

		tap_seed(seed);
		h = history_generate(seed);
		entries += h->nentries;
		losses += h->expected.losses.n;
		for (int order = 0; order < 4 && wrong == NULL; order++)
			wrong = replay_random(h);
		if (wrong == NULL)
			wrong = replay_latest(h);
		if (wrong != NULL)
			tap_note("seed %ld: %s", seed, wrong);
		tap_free_all();
	}
	tap_ok(wrong == NULL, "same set, same rows: %ld histories", i);
	tap_ok(losses > runs, "they have conflicts: %ld in %ld entries", losses, entries);
	return tap_done();
}
