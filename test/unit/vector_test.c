/*-------------------------------------------------------------------------
 *
 * vector_test.c
 *		Versions, the clock's arithmetic, vectors, the names of policies.
 *
 *-------------------------------------------------------------------------
 */
#include "base/policy.h"
#include "base/vector.h"
#include "tap.h"

#define ORIGINS 12

static CozeVersion
version(CozeHlc hlc, CozeOrigin origin)
{
	return (CozeVersion) {hlc, origin};
}

static void
test_versions(void)
{
	tap_ok(coze_version_cmp(version(1, 9), version(2, 1)) < 0, "hlc first");
	tap_ok(coze_version_cmp(version(2, 1), version(2, 9)) < 0, "then origin");
	tap_ok(coze_version_cmp(version(2, UINT64_MAX), version(2, 1)) > 0, "origins are unsigned");
	tap_ok(coze_version_cmp(version(2, 1), version(2, 1)) == 0 &&
		   coze_version_equal(version(2, 1), version(2, 1)), "a version equals itself");
	tap_ok(coze_version_cmp(version(INT64_MIN, 1), version(INT64_MAX, 1)) < 0,
		   "no overflow at the ends");
}

static void
test_clock(void)
{
	tap_ok(coze_hlc_next(10, 50) == 50, "the wall clock when it is ahead");
	tap_ok(coze_hlc_next(50, 10) == 51, "never back when the wall clock steps back");
	tap_ok(coze_hlc_next(50, 50) == 51, "never the same twice");
	tap_ok(!coze_hlc_too_far(160, 100, 60) && coze_hlc_too_far(161, 100, 60),
		   "drift is allowed up to its limit");
	tap_ok(!coze_hlc_too_far(-5, 100, 60), "the past is never too far");
}

/* Against an array; sets, raises, removals, merges, copies in any order. */
static void
test_against_array(void)
{
	CozeVector	v;
	CozeHlc		plain[ORIGINS + 1] = {0};
	bool		same = true,
				raised = true,
				sorted = true;

	coze_vector_init(&v);
	tap_seed(7);
	for (int i = 0; i < 5000; i++)
	{
		CozeOrigin	o = 1 + tap_random(ORIGINS);
		CozeHlc		hlc = tap_random(1000);

		switch (tap_random(4))
		{
			case 0:
				coze_vector_set(&v, o, hlc);
				plain[o] = hlc;
				break;
			case 1:
				raised &= coze_vector_raise(&v, o, hlc) == (hlc > plain[o]);
				plain[o] = Max(plain[o], hlc);
				break;
			case 2:
				coze_vector_remove(&v, o);
				plain[o] = 0;
				break;
			case 3:
				{
					CozeVector	w;

					coze_vector_init(&w);
					coze_vector_copy(&w, &v);
					coze_vector_set(&w, o, hlc);
					coze_vector_merge(&v, &w);
					plain[o] = Max(plain[o], hlc);
					coze_vector_free(&w);
				}
		}
		sorted &= coze_vector_is_valid(&v);
		for (o = 1; o <= ORIGINS; o++)
			same &= coze_vector_get(&v, o) == plain[o];
	}
	tap_ok(same, "a vector is what was put into it");
	tap_ok(raised, "raise says whether it did");
	tap_ok(sorted, "sorted, no origin twice");
	coze_vector_free(&v);
	tap_ok(v.n == 0 && coze_vector_get(&v, 1) == 0, "empty when freed");
}

static void
test_order(void)
{
	CozeVector	a,
				b,
				least;
	const CozeVector *both[] = {&a, &b};

	coze_vector_init(&a);
	coze_vector_init(&b);
	coze_vector_init(&least);
	tap_ok(coze_vector_covers(&a, &b) && coze_vector_equal(&a, &b), "empty ones are equal");
	coze_vector_set(&a, 1, 10);
	coze_vector_set(&a, 3, 30);
	coze_vector_set(&b, 1, 10);
	tap_ok(coze_vector_covers(&a, &b) && !coze_vector_covers(&b, &a), "more origins cover fewer");
	tap_ok(coze_vector_missing(&b, &a) == 3, "what is missing is named");
	coze_vector_set(&b, 2, 0);
	tap_ok(coze_vector_covers(&a, &b), "a stored 0 is nothing");
	coze_vector_set(&b, 2, 5);
	tap_ok(!coze_vector_covers(&a, &b) && !coze_vector_covers(&b, &a), "neither covers");
	coze_vector_set(&b, 3, 29);
	coze_vector_least(&least, both, 2);
	tap_ok(least.n == 2 && coze_vector_get(&least, 1) == 10 && coze_vector_get(&least, 3) == 29,
		   "the least leaves out who is missing somewhere");
	tap_ok(coze_vector_max(&a) == 30 && coze_vector_max(&least) == 29, "the highest");
	coze_vector_least(&least, both, 0);
	tap_ok(least.n == 0, "the least of none is empty");
}

static void
test_seen(void)
{
	CozeVector	seen;

	coze_vector_init(&seen);
	coze_vector_set(&seen, 2, 20);
	tap_ok(coze_vector_has_seen(&seen, version(50, 1), version(20, 2)), "up to V");
	tap_ok(!coze_vector_has_seen(&seen, version(50, 1), version(21, 2)), "not beyond");
	tap_ok(coze_vector_has_seen(&seen, version(50, 1), version(49, 1)), "all of its own origin");
	tap_ok(coze_vector_has_seen(&seen, version(50, 1), version(50, 1)), "itself");
	tap_ok(!coze_vector_has_seen(&seen, version(50, 1), version(51, 1)), "not its own future");
	tap_ok(!coze_vector_has_seen(&seen, version(50, 1), version(1, 3)), "nobody unheard of");
}

static void
test_borrowed(void)
{
	CozeVectorEntry lent[] = {{1, 10}, {2, 20}};
	CozeVector	v = {2, 0, lent};
	CozeVector	bad = {2, 0, (CozeVectorEntry[]) {{2, 1}, {1, 1}}};

	tap_ok(coze_vector_get(&v, 2) == 20, "a borrowed vector can be read");
	coze_vector_set(&v, 2, 21);
	coze_vector_set(&v, 5, 50);
	tap_ok(lent[1].hlc == 20 && v.n == 3 && coze_vector_get(&v, 1) == 10 &&
		   coze_vector_get(&v, 2) == 21, "and is copied before it is changed");
	coze_vector_free(&v);
	v = (CozeVector) {2, 0, lent};
	coze_vector_remove(&v, 1);
	tap_ok(lent[0].origin == 1 && v.n == 1 && coze_vector_get(&v, 2) == 20, "also by a removal");
	coze_vector_copy(&v, &bad);
	tap_ok(!coze_vector_is_valid(&v), "disorder is found");
	v.n = 1;
	v.e[0].origin = 0;
	tap_ok(!coze_vector_is_valid(&v), "and an origin that is none");
}

static void
test_names(void)
{
	bool		back = true;

	for (int i = 0; i < COZE_ROW_POLICIES; i++)
		back &= coze_row_policy_by_name(coze_row_policy_name(i)) == i;
	for (int i = 0; i < COZE_COLUMN_POLICIES; i++)
		back &= coze_column_policy_by_name(coze_column_policy_name(i)) == i;
	for (int i = 0; i < COZE_CONFLICT_TYPES; i++)
		back &= coze_conflict_type_by_name(coze_conflict_type_name(i)) == i;
	tap_ok(back, "every name leads back to its number");
	tap_ok(coze_row_policy_by_name("newest") == -1 && coze_row_policy_name(99) == NULL &&
		   coze_outcome_name(-1) == NULL, "what is no name is none");
	tap_ok(coze_row_policy_by_name("merge") == COZE_ROW_MERGE &&
		   coze_column_policy_by_name("delta") == COZE_COLUMN_DELTA &&
		   coze_conflict_type_by_name("delete_updated") == COZE_CONFLICT_DELETE_UPDATED,
		   "names stand where they belong");
}

int
main(void)
{
	test_versions();
	test_clock();
	test_against_array();
	test_order();
	test_seen();
	test_borrowed();
	test_names();
	tap_free_all();
	return tap_done();
}
