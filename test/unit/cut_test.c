/*-------------------------------------------------------------------------
 *
 * cut_test.c
 *		The arithmetic of the cut, on cases that can be done by hand.
 *
 * How it does over whole lives of groups is for history_test.
 *
 *-------------------------------------------------------------------------
 */
#include "base/cut.h"
#include "tap.h"

enum
{
	A, B, C, MEMBERS
};

static CozeVector seen[MEMBERS];
static CozeCutMember members[MEMBERS];

/* Member m's last entry, and what that had seen of the three. */
static void
says(int m, CozeHlc last, CozeHlc a, CozeHlc b, CozeHlc c)
{
	CozeHlc		of[MEMBERS] = {a, b, c};

	seen[m].n = 0;
	for (int o = 0; o < MEMBERS; o++)
	{
		if (o != m && of[o] > 0)
			coze_vector_set(&seen[m], o + 1, of[o]);
	}
	members[m] = (CozeCutMember) {m + 1, last, &seen[m], {0, 0}};
}

static void
test_reach(void)
{
	int			by;

	says(A, 10, 0, 9, 8);
	says(B, 20, 10, 0, 7);
	members[C] = (CozeCutMember) {C + 1, 0, NULL, {0, 0}};
	tap_ok(coze_cut_reach(members, MEMBERS, 0, &by) == 0 && by == C,
		   "one that never wrote holds the cut at nothing");
	says(C, 30, 6, 5, 0);
	tap_ok(coze_cut_reach(members, MEMBERS, 0, &by) == 5 && by == C,
		   "the least that anybody knows of anybody");
	tap_ok(coze_cut_reach(members, MEMBERS, 6, NULL) == 6, "never back");
	tap_ok(coze_cut_reach(members, 2, 0, &by) == 9 && by == A, "over the members alone");
	says(A, 4, 0, 9, 8);
	tap_ok(coze_cut_reach(members, MEMBERS, 0, &by) == 4 && by == A, "own entries count too");
	tap_ok(coze_cut_reach(members, 0, 3, &by) == 3 && by == -1, "nobody: where it is");
	tap_ok(coze_cut_reach(members, 1, 0, NULL) == 4, "alone: the own last entry");
}

static void
test_drop(void)
{
	/* A drops C at 50. */
	says(A, 60, 0, 40, 30);
	says(B, 55, 45, 0, 35);
	says(C, 35, 10, 10, 0);
	tap_ok(!coze_cut_closed(members, MEMBERS, C), "a member is not closed");
	members[C].drop = (CozeVersion) {50, A + 1};
	tap_ok(!coze_cut_closed(members, MEMBERS, C), "a survivor has not seen the drop");
	says(B, 57, 50, 0, 35);
	tap_ok(!coze_cut_closed(members, MEMBERS, C), "the survivors name different last entries");
	tap_ok(coze_cut_reach(members, MEMBERS, 0, NULL) == 10, "until then it counts");
	says(A, 61, 0, 40, 35);
	tap_ok(coze_cut_closed(members, MEMBERS, C), "closed when its tail is even");
	tap_ok(coze_cut_reach(members, MEMBERS, 0, NULL) == 40, "then it counts no more");
	members[A].drop = members[B].drop = members[C].drop;
	tap_ok(!coze_cut_closed(members, MEMBERS, C), "without survivors nobody is closed");
}

/*
 * D was dropped and all name the same of it; but B does not know yet that C was dropped,
 * too, and may still get from C what C has of D.
 */
static void
test_two_drops(void)
{
	CozeVector	seen_by[2] = {{0}};
	CozeCutMember four[] = {
		{A + 1, 70, &seen_by[0], {0, 0}},
		{B + 1, 65, &seen_by[1], {0, 0}},
		{C + 1, 0, NULL, {60, A + 1}},
		{C + 2, 30, NULL, {50, A + 1}},
	};

	coze_vector_set(&seen_by[0], C + 2, 30);
	coze_vector_set(&seen_by[1], A + 1, 55);
	coze_vector_set(&seen_by[1], C + 2, 30);
	tap_ok(!coze_cut_closed(four, 4, 3), "not closed while another drop is not known to all");
	coze_vector_set(&seen_by[1], A + 1, 60);
	tap_ok(coze_cut_closed(four, 4, 3), "closed when it is");
	tap_ok(coze_cut_closed(four, 4, 2), "both of them");
	coze_vector_free(&seen_by[0]);
	coze_vector_free(&seen_by[1]);
}

static void
test_beats(void)
{
	CozeVector	held;

	coze_vector_init(&held);
	says(A, 60, 0, 40, 30);
	says(B, 55, 45, 0, 35);
	says(C, 35, 10, 10, 0);
	coze_vector_set(&held, A + 1, 60);
	coze_vector_set(&held, B + 1, 40);
	coze_vector_set(&held, C + 1, 30);
	tap_ok(!coze_cut_beat_due(members, MEMBERS, A + 1, 0, &held), "nothing is kept: no beat");
	tap_ok(coze_cut_beat_due(members, MEMBERS, A + 1, 61, &held), "the own last entry lies below");
	tap_ok(coze_cut_beat_due(members, MEMBERS, 99, 20, &held), "there is none yet");
	tap_ok(!coze_cut_beat_due(members, MEMBERS, A + 1, 60, &held), "nothing new is held");
	coze_vector_set(&held, B + 1, 55);
	tap_ok(coze_cut_beat_due(members, MEMBERS, A + 1, 60, &held), "news from below the highest");
	tap_ok(!coze_cut_beat_due(members, MEMBERS, A + 1, 40, &held),
		   "who was known up to the highest is quiet");
	coze_vector_set(&held, C + 1, 31);
	tap_ok(!coze_cut_beat_due(members, MEMBERS, A + 1, 30, &held), "news of a member");
	members[C].drop = (CozeVersion) {50, A + 1};
	tap_ok(coze_cut_beat_due(members, MEMBERS, A + 1, 30, &held), "but one that is to be closed");
	coze_vector_set(&held, A + 1, 99);
	coze_vector_set(&held, C + 1, 30);
	tap_ok(!coze_cut_beat_due(members, MEMBERS, A + 1, 30, &held), "the own origin is no news");
}

static void
test_join(void)
{
	CozeVersion add = {42, A + 1};

	says(A, 60, 0, 40, 30);
	says(B, 55, 41, 0, 35);
	says(C, 35, 10, 10, 0);
	tap_ok(coze_cut_unaware(members, MEMBERS, add, C + 1) == B, "a member that has not seen the joiner");
	says(B, 56, 42, 0, 35);
	tap_ok(coze_cut_unaware(members, MEMBERS, add, C + 1) == -1, "the joiner itself does not count");
	tap_ok(coze_cut_unaware(members, MEMBERS, add, 0) == C, "anybody else does");
	members[C].drop = (CozeVersion) {50, A + 1};
	tap_ok(coze_cut_unaware(members, MEMBERS, add, 0) == -1, "but for the dropped");
}

int
main(void)
{
	test_reach();
	test_drop();
	test_two_drops();
	test_beats();
	test_join();
	tap_free_all();
	return tap_done();
}
