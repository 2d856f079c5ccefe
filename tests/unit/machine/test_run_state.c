// SPDX-License-Identifier: Apache-2.0
/* The arcs of the run state machine, against the drawing in run_state.c. */
#include <cmocka.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/bytes.h"
#include "machine/run_state.h"

/* The arrows of the drawing. */
static const struct {
	enum run_state from;
	const char *to; /* names, a space after each */
} drawn[] = {
	{ RUN_STATE_PRELAUNCH, "running " },
	{ RUN_STATE_INMIGRATE, "running paused " },
	{ RUN_STATE_RUNNING, "paused finish-migrate " },
	{ RUN_STATE_PAUSED, "running finish-migrate " },
	{ RUN_STATE_FINISH_MIGRATE, "running paused postmigrate handed-over " },
	{ RUN_STATE_POSTMIGRATE, "" },
	{ RUN_STATE_HANDED_OVER, "running " },
	{ RUN_STATE_SHUTDOWN, "" },
	{ RUN_STATE_INTERNAL_ERROR, "" },
};

static void test_every_arc_is_as_drawn(void **state)
{
	(void)state;
	assert_int_equal(array_size(drawn), RUN_STATE_COUNT);
	for (size_t i = 0; i < array_size(drawn); i++) {
		size_t arcs = 0, spaces = 0;

		for (int to = 0; to < RUN_STATE_COUNT; to++) {
			char name[32];

			strcpy(name, run_state_name((enum run_state)to));
			strcat(name, " ");
			if (!run_state_may_go(drawn[i].from,
					      (enum run_state)to))
				continue;
			arcs++;
			assert_non_null(strstr(drawn[i].to, name));
		}
		for (const char *at = drawn[i].to; *at; at++)
			spaces += *at == ' ';
		assert_int_equal(arcs, spaces);
	}
}

static void test_every_state_has_a_name_of_its_own(void **state)
{
	(void)state;
	for (int a = 0; a < RUN_STATE_COUNT; a++) {
		assert_non_null(run_state_name((enum run_state)a));
		for (int b = 0; b < a; b++)
			assert_string_not_equal(
				run_state_name((enum run_state)a),
				run_state_name((enum run_state)b));
	}
}

static void test_no_state_follows_itself(void **state)
{
	(void)state;
	for (int s = 0; s < RUN_STATE_COUNT; s++)
		assert_false(
			run_state_may_go((enum run_state)s, (enum run_state)s));
}

static bool is_reachable(enum run_state from, enum run_state to, unsigned seen)
{
	if (from == to)
		return true;
	for (int s = 0; s < RUN_STATE_COUNT; s++) {
		if (!(seen >> s & 1) &&
		    run_state_may_go(from, (enum run_state)s) &&
		    is_reachable((enum run_state)s, to, seen | 1u << s))
			return true;
	}
	return false;
}

static void test_a_guest_that_was_given_away_never_runs_here_again(void **state)
{
	(void)state;
	assert_false(is_reachable(RUN_STATE_POSTMIGRATE, RUN_STATE_RUNNING, 0));
	assert_false(is_reachable(RUN_STATE_POSTMIGRATE, RUN_STATE_PAUSED, 0));
	assert_false(is_reachable(RUN_STATE_SHUTDOWN, RUN_STATE_RUNNING, 0));
	assert_false(
		is_reachable(RUN_STATE_INTERNAL_ERROR, RUN_STATE_RUNNING, 0));
}

static void test_a_guest_is_given_away_only_after_it_stopped(void **state)
{
	(void)state;
	for (int s = 0; s < RUN_STATE_COUNT; s++) {
		bool is_stopped = s == RUN_STATE_FINISH_MIGRATE;

		assert_int_equal(run_state_may_go((enum run_state)s,
						  RUN_STATE_POSTMIGRATE),
				 is_stopped);
		assert_int_equal(run_state_may_go((enum run_state)s,
						  RUN_STATE_HANDED_OVER),
				 is_stopped);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_arc_is_as_drawn),
		cmocka_unit_test(test_every_state_has_a_name_of_its_own),
		cmocka_unit_test(test_no_state_follows_itself),
		cmocka_unit_test(
			test_a_guest_that_was_given_away_never_runs_here_again),
		cmocka_unit_test(
			test_a_guest_is_given_away_only_after_it_stopped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
