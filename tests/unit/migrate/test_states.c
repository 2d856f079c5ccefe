// SPDX-License-Identifier: Apache-2.0
/* The table of arcs, and the texts that name one to be broken. */
#include <cmocka.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/err.h"
#include "migrate/fail.h"
#include "migrate/states.h"

static void test_arc_stands_once_in_the_table_under_one_name(void **unused)
{
	char name[ARC_NAME_MAX], other[ARC_NAME_MAX];
	const struct arc *arc;

	(void)unused;
	for (size_t i = 0; (arc = arc_at(i)); i++) {
		assert_ptr_equal(arc_find(arc->from, arc->to), arc);
		arc_name(arc, name);
		for (size_t j = 0; j < i; j++) {
			arc_name(arc_at(j), other);
			assert_string_not_equal(name, other);
		}
	}
}

static void test_every_state_can_be_reached_and_left_by_a_failure(void **unused)
{
	(void)unused;
	for (int to = MIG_NONE + 1; to < MIG_STATE_COUNT; to++) {
		bool is_reached = false, is_left = false;
		const struct arc *arc;

		for (size_t i = 0; (arc = arc_at(i)); i++) {
			is_reached |= (int)arc->to == to;
			is_left |= (int)arc->from == to &&
				   (arc->to == MIG_FAILED ||
				    arc->to == MIG_CANCELLED ||
				    arc->to == MIG_SETUP);
		}
		assert_true(is_reached);
		/* A guest that was started here cannot be given back. */
		assert_true(is_left || to == MIG_STARTED);
	}
}

static void test_cancel_comes_too_late_once_go_may_be_sent(void **unused)
{
	(void)unused;
	for (int state = 0; state < MIG_STATE_COUNT; state++) {
		if (state_is_past_go(state))
			assert_null(arc_find(state, MIG_CANCELLING));
	}
	assert_true(state_is_past_go(MIG_READY));
	assert_true(state_is_past_go(MIG_HANDED_OVER));
	assert_false(state_is_past_go(MIG_SENT));
	assert_true(state_is_past_go(MIG_TAKING_OVER));
	assert_true(state_is_past_go(MIG_STARTED));
	assert_false(state_is_past_go(MIG_LOADED));
}

static void test_text_names_an_arc_and_an_action(void **unused)
{
	static const char *const texts[][2] = {
		{ "setup-active", "setup-active,action=exit" },
		{ "loaded-taking-over,action=stall",
		  "loaded-taking-over,action=stall" },
		{ "ready-handed-over,action=close",
		  "ready-handed-over,action=close" },
		{ "started-running,action=garbage",
		  "started-running,action=garbage" },
		{ "", "" },
	};
	char text[MIG_FAIL_MAX];
	struct fail fail;

	(void)unused;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		assert_int_equal(fail_parse(texts[i][0], &fail, NULL), 0);
		fail_text(&fail, text);
		assert_string_equal(text, texts[i][1]);
	}
}

static void test_text_without_an_arc_is_refused_with_those_nearby(void **unused)
{
	static const char *const texts[] = {
		"device",
		"device-",
		"device-active",
		"action=exit",
		"setup-active,action=die",
		"setup-active,action",
		"setup-active,exit",
		"setup-active,setup-failed",
		",",
		"setup-active,,",
	};
	struct fail fail;

	(void)unused;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		struct err err = ERR_INIT;

		assert_int_equal(fail_parse(texts[i], &fail, &err), -EINVAL);
		assert_true(*err_msg(&err));
		if (i < 3)
			assert_non_null(strstr(err_msg(&err),
					       "device-sent device-ready "
					       "device-failed "
					       "device-cancelling;"));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			test_arc_stands_once_in_the_table_under_one_name),
		cmocka_unit_test(
			test_every_state_can_be_reached_and_left_by_a_failure),
		cmocka_unit_test(
			test_cancel_comes_too_late_once_go_may_be_sent),
		cmocka_unit_test(test_text_names_an_arc_and_an_action),
		cmocka_unit_test(
			test_text_without_an_arc_is_refused_with_those_nearby),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
