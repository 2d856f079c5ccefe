// SPDX-License-Identifier: Apache-2.0
/*
 * A pause on one line.  Moves are made up on a true clock, and told by each side on
 * its own; what comes out is compared with what was true.
 */
#include <cmocka.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "migrate/phases.h"
#include "migrate/timeline.h"

#define US    NS_PER_US
#define START (1000 * NS_PER_SEC)

struct told {
	struct phase_clock phases;
	struct timeline_here here;
	struct timeline_there there;
	uint64_t entered_ns; /* by the source's clock */
	int64_t offset_ns;
};

static uint64_t seed;

static uint64_t draw(uint64_t below)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (seed >> 16) % below;
}

static void span(struct told *told, enum mig_phase phase, uint64_t ns)
{
	struct phase_clock *clock = &told->phases;

	clock->spans[clock->span_count++] =
		(struct phase_span){ phase, clock->last_ns,
				     clock->last_ns + ns };
	clock->last_ns += ns;
}

/* A move whose messages take @flights: STOPPED, END, READY, GO, RUNNING.  With
 * @is_verified RAM is hashed for 1 ms on both sides, and state loaded after that. */
static struct told told_move(int64_t offset_ns, const uint64_t flights[5],
			     bool is_verified)
{
	struct told told = { .phases = { .last_ns = START },
			     .offset_ns = offset_ns };
	struct timeline_there *there = &told.there;
	uint64_t now;

	span(&told, MIG_PHASE_STOP_VCPUS, 50 * US);
	there->stopped_ns = told.phases.last_ns + flights[0];
	span(&told, MIG_PHASE_STOP_BACKENDS, 10 * US);
	span(&told, MIG_PHASE_SAVE_VCPUS, 80 * US);
	span(&told, MIG_PHASE_SEND_STATE, 5 * US);
	span(&told, MIG_PHASE_LAST_SYNC, 20 * US);
	span(&told, MIG_PHASE_SEND_RAM, 30 * US);
	span(&told, MIG_PHASE_SEND_STATE, 5 * US);
	if (is_verified)
		span(&told, MIG_PHASE_VERIFY, 1000 * US);
	now = told.phases.last_ns + flights[1];
	if (now < there->stopped_ns) /* nothing overtakes on a link */
		now = there->stopped_ns;
	there->load_ns = is_verified ? now : now - 20 * US;
	if (there->load_ns < there->stopped_ns)
		there->load_ns = there->stopped_ns;
	there->loaded_ns = there->load_ns + 60 * US;
	there->end_ns = is_verified ? now - 900 * US : there->loaded_ns;
	if (there->end_ns < there->stopped_ns)
		there->end_ns = there->stopped_ns;
	there->verified_ns = is_verified ? now : there->end_ns;
	there->ready_ns = there->loaded_ns + 15 * US;
	span(&told, MIG_PHASE_WAIT_READY,
	     there->ready_ns + flights[2] - told.phases.last_ns);
	told.here.go_ns = told.phases.last_ns + 1 * US;
	there->go_ns = told.here.go_ns + flights[3];
	told.entered_ns = there->go_ns + 40 * US;
	there->entered_ns = told.entered_ns;
	there->started_ns = there->entered_ns + 10 * US;
	span(&told, MIG_PHASE_WAIT_RUNNING,
	     there->started_ns + flights[4] - told.phases.last_ns);
	for (size_t i = 0; i < sizeof(*there) / sizeof(uint64_t); i++)
		((uint64_t *)there)[i] += (uint64_t)offset_ns;
	return told;
}

static bool build(struct timeline *line, const struct told *told)
{
	*line = (struct timeline){ .count = 0 };
	return timeline_build(line, &told->phases, &told->here, &told->there);
}

/* Whatever is told: those that are waited for fill the line, in order. */
static void assert_whole(const struct timeline *line)
{
	uint64_t at = 0, last = 0;

	assert_in_range(line->count, 1, TIMELINE_PARTS_MAX);
	for (unsigned int i = 0; i < line->count; i++) {
		const struct timeline_part *part = &line->parts[i];

		assert_true(part->begin_ns < part->end_ns);
		assert_true(part->begin_ns >= last);
		last = part->begin_ns;
		if (part->is_beside) {
			assert_true(part->end_ns <= line->gap_ns);
			continue;
		}
		assert_int_equal(part->begin_ns, at);
		at = part->end_ns;
	}
	assert_int_equal(at, line->gap_ns);
}

static uint64_t in_all(const struct timeline *line, enum timeline_side side,
		       const char *name, bool is_beside)
{
	uint64_t ns = 0;

	for (unsigned int i = 0; i < line->count; i++) {
		const struct timeline_part *part = &line->parts[i];

		if (part->side == side && part->is_beside == is_beside &&
		    strcmp(part->name, name) == 0)
			ns += part->end_ns - part->begin_ns;
	}
	return ns;
}

static const uint64_t even[5] = { 10 * US, 10 * US, 10 * US, 10 * US, 10 * US };

static void test_parts_of_both_sides_fill_the_line(void **state)
{
	const struct told told =
		told_move(-7 * (int64_t)NS_PER_SEC, even, false);
	struct timeline line;

	(void)state;
	assert_true(build(&line, &told));
	assert_whole(&line);
	assert_int_equal(line.begin_ns, START);
	assert_int_equal(line.offset_ns, told.offset_ns);
	assert_int_equal(line.error_ns, 10 * US);
	assert_int_equal(line.gap_ns, told.entered_ns - START);
	assert_int_equal(line.end_ns, line.gap_ns + 10 * US);
	assert_int_equal(in_all(&line, TIMELINE_SOURCE, "save-state", false),
			 80 * US);
	assert_int_equal(in_all(&line, TIMELINE_SOURCE, "send-state", false),
			 10 * US);
	assert_int_equal(
		in_all(&line, TIMELINE_DESTINATION, "dst-activate", false),
		15 * US);
	assert_int_equal(in_all(&line, TIMELINE_LINK, "ready-flight", false),
			 10 * US);
	assert_int_equal(in_all(&line, TIMELINE_LINK, "go-flight", false),
			 10 * US);
	assert_int_equal(
		in_all(&line, TIMELINE_DESTINATION, "dst-start", false),
		40 * US);
}

/* It began 10 us before the source was through. */
static void
test_load_beside_the_source_is_waited_for_only_after_it(void **state)
{
	const struct told told = told_move(0, even, false);
	struct timeline line;

	(void)state;
	assert_true(build(&line, &told));
	assert_int_equal(in_all(&line, TIMELINE_DESTINATION, "dst-load", true),
			 10 * US);
	assert_int_equal(in_all(&line, TIMELINE_DESTINATION, "dst-load", false),
			 50 * US);
	assert_int_equal(in_all(&line, TIMELINE_LINK, "end-flight", false), 0);
}

static void test_hashing_on_both_sides_counts_once(void **state)
{
	const struct told told = told_move(NS_PER_SEC, even, true);
	struct timeline line;

	(void)state;
	assert_true(build(&line, &told));
	assert_whole(&line);
	assert_int_equal(in_all(&line, TIMELINE_SOURCE, "verify", false),
			 1000 * US);
	assert_int_equal(
		in_all(&line, TIMELINE_DESTINATION, "dst-verify", true),
		890 * US);
	assert_int_equal(
		in_all(&line, TIMELINE_DESTINATION, "dst-verify", false),
		10 * US);
	assert_int_equal(in_all(&line, TIMELINE_DESTINATION, "dst-load", false),
			 60 * US);
}

static void test_clocks_are_apart_by_no_more_than_the_error(void **state)
{
	(void)state;
	seed = 1;
	for (int i = 0; i < 20000; i++) {
		int64_t offset = (int64_t)draw(1ull << 50) - (1ll << 49);
		uint64_t flights[5];
		struct timeline line;
		struct told told;

		if (offset < -(int64_t)START / 2)
			offset = -(int64_t)START / 2;
		for (int f = 0; f < 5; f++)
			flights[f] = draw(draw(2) ? 20 * US : 5000 * US);
		told = told_move(offset, flights, draw(2));
		assert_true(build(&line, &told));
		assert_whole(&line);
		assert_true((uint64_t)llabs(line.offset_ns - offset) <=
			    line.error_ns);
		assert_true((uint64_t)llabs((int64_t)(told.entered_ns - START -
						      line.gap_ns)) <=
			    line.error_ns);
	}
}

/* A round trip on the way in decides, however slow the others are. */
static void test_quickest_messages_bound_the_error(void **state)
{
	const uint64_t flights[5] = { 9000 * US, 9000 * US, 4 * US, 6 * US,
				      9000 * US };
	const struct told told = told_move(123456789, flights, false);
	struct timeline line;

	(void)state;
	assert_true(build(&line, &told));
	assert_int_equal(line.error_ns, 5 * US);
	assert_int_equal(line.offset_ns, told.offset_ns + (int64_t)(1 * US));
}

static void test_times_that_cannot_be_make_no_line(void **state)
{
	const struct told right = told_move(0, even, false);
	struct timeline line;
	uint64_t *times;
	struct told told;

	(void)state;
	for (size_t i = 0; i < sizeof(right.there) / sizeof(uint64_t); i++) {
		told = right;
		times = (uint64_t *)&told.there;
		times[i] = 1;
		assert_false(build(&line, &told));
		times[i] = UINT64_MAX;
		assert_false(build(&line, &told));
		times[i] = 1ull << 63;
		assert_false(build(&line, &told));
	}
	/* GO came before it was sent, seen from READY. */
	told = right;
	told.there.ready_ns += 30 * US;
	told.there.go_ns = told.there.ready_ns;
	assert_false(build(&line, &told));
	assert_int_equal(line.count, 0);
}

static void test_guest_that_was_not_given_away_has_no_line(void **state)
{
	struct told told = told_move(0, even, false);
	struct timeline line;

	(void)state;
	told.here.go_ns = 0;
	assert_false(build(&line, &told));
	told = told_move(0, even, false);
	told.phases.span_count--; /* RUNNING did not come */
	assert_false(build(&line, &told));
	told.phases.span_count = 0;
	assert_false(build(&line, &told));
}

/* It is paused, or had to wait too long for a CPU; when all was done is known. */
static void test_guest_that_was_not_entered_has_no_parts(void **state)
{
	struct told told = told_move(NS_PER_SEC, even, false);
	struct timeline line;

	(void)state;
	told.there.entered_ns = 0;
	assert_true(build(&line, &told));
	assert_int_equal(line.count, 0);
	assert_int_equal(line.end_ns, told.entered_ns + 10 * US - START);
}

/* Anything, and what is nearly right. */
static void test_hostile_times_make_no_line_or_a_whole_one(void **state)
{
	unsigned int built = 0;

	(void)state;
	seed = 2;
	for (int i = 0; i < 100000; i++) {
		struct told told = told_move(0, even, draw(2));
		uint64_t *times = (uint64_t *)&told.there;
		const uint64_t running_ns = told.phases.last_ns;
		struct timeline line;

		for (int n = (int)draw(10); n > 0; n--) {
			size_t at = draw(sizeof(told.there) / sizeof(uint64_t));

			switch (draw(4)) {
			case 0:
				times[at] = draw(UINT64_MAX);
				break;
			case 1:
				times[at] = times[draw(9)];
				break;
			case 2:
				times[at] += draw(40 * US) - 20 * US;
				break;
			default:
				times[at] = 1ull << draw(64);
			}
		}
		if (!build(&line, &told) || !line.count)
			continue;
		built++;
		assert_whole(&line);
		assert_true(line.gap_ns <= line.end_ns);
		assert_true(line.end_ns <= running_ns - START);
		assert_true(line.end_ns >= told.here.go_ns - START);
	}
	assert_true(built > 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parts_of_both_sides_fill_the_line),
		cmocka_unit_test(
			test_load_beside_the_source_is_waited_for_only_after_it),
		cmocka_unit_test(test_hashing_on_both_sides_counts_once),
		cmocka_unit_test(
			test_clocks_are_apart_by_no_more_than_the_error),
		cmocka_unit_test(test_quickest_messages_bound_the_error),
		cmocka_unit_test(test_times_that_cannot_be_make_no_line),
		cmocka_unit_test(
			test_guest_that_was_not_given_away_has_no_line),
		cmocka_unit_test(test_guest_that_was_not_entered_has_no_parts),
		cmocka_unit_test(
			test_hostile_times_make_no_line_or_a_whole_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
