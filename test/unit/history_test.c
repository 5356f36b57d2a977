/*-------------------------------------------------------------------------
 *
 * history_test.c
 *		The fold, base records and the cut agree with the model.
 *
 * Each history of the model is lived again as each of its nodes lived it, and
 * then in other orders of arrival with prunings at other places; rows, base
 * records and conflict logs must be the model's every time.
 *
 * Usage: history_test [-o orders] [-s seed] file...  (- is standard input)
 *
 *-------------------------------------------------------------------------
 */
#include <unistd.h>

#include "history.h"

static long histories = 0;
static long replays = 0;
static int	orders = 4;

static const char *
test_history(History *h, const char **what)
{
	const char *wrong = NULL;

	for (int t = 0; t < h->ntraces && wrong == NULL; t++, replays++)
	{
		*what = "as lived";
		wrong = replay_trace(h, &h->traces[t]);
	}
	for (int i = 0; i < orders && wrong == NULL; i++, replays++)
	{
		*what = "in another order";
		wrong = replay_random(h);
	}
	if (wrong == NULL)
	{
		*what = "last_update_wins without states";
		wrong = replay_latest(h);
	}
	return wrong;
}

static bool
test_file(FILE *file, const char *name)
{
	History    *h;
	bool		ok = true;

	while (ok && (h = history_read(file)) != NULL)
	{
		const char *what = "";
		const char *wrong;

		tap_seed(h->seed);
		wrong = test_history(h, &what);
		histories++;
		if (wrong != NULL)
		{
			tap_note("%s: --policy %s --seed %ld, %s: %s", name, h->policy, h->seed, what, wrong);
			ok = false;
		}
		tap_free_all();
	}
	tap_free_all();
	return ok;
}

int
main(int argc, char **argv)
{
	int			option;

	while ((option = getopt(argc, argv, "o:")) != -1)
	{
		if (option != 'o')
			return 2;
		orders = atoi(optarg);
	}
	for (int i = optind; i < argc; i++)
	{
		FILE	   *file = strcmp(argv[i], "-") == 0 ? stdin : fopen(argv[i], "r");
		long		before = histories;
		bool		ok = file != NULL && test_file(file, argv[i]) && histories > before;
		const char *base = strrchr(argv[i], '/');

		tap_ok(ok, "rows, records and conflicts are the model's: %s, %ld histories",
			   base ? base + 1 : argv[i], histories - before);
		if (file != NULL && file != stdin)
			fclose(file);
	}
	tap_note("%ld histories, %ld replays", histories, replays);
	return tap_done();
}
