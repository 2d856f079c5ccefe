// SPDX-License-Identifier: Apache-2.0
/* The queue of events: what may be lost, and what may not. */
#include <cmocka.h>

#include "base/clock.h"
#include "control/event_queue.h"

static struct event_queue queue;

static int setup(void **state)
{
	(void)state;
	event_queue_init(&queue);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	event_queue_fini(&queue);
	return 0;
}

static void put_passes(unsigned int count)
{
	struct event event = { .mig.is_pass = true };

	for (; count; count--) {
		event.mig.pass++;
		event_queue_put(&queue, &event);
	}
}

/* Take what was put first, all of it passes, up to another event. */
static unsigned int take_passes(struct event *ret_other)
{
	unsigned int count;

	for (count = 0; event_queue_take(&queue, ret_other); count++) {
		if (ret_other->is_machine || !ret_other->mig.is_pass)
			break;
		assert_int_equal(ret_other->mig.pass, count + 1);
	}
	return count;
}

static void test_events_come_in_order(void **state)
{
	struct event event = { .is_machine = true };

	(void)state;
	/* Past the end of the ring several times. */
	for (uint64_t i = 0; i < 5 * EVENT_QUEUE_MAX; i += 2) {
		event.real_ns = i;
		event_queue_put(&queue, &event);
		event.real_ns = i + 1;
		event_queue_put(&queue, &event);
		assert_true(event_queue_take(&queue, &event));
		assert_int_equal(event.real_ns, i);
		assert_true(event_queue_take(&queue, &event));
		assert_int_equal(event.real_ns, i + 1);
	}
	assert_false(event_queue_take(&queue, &event));
}

static void assert_due(uint64_t due, uint64_t earliest, uint64_t after)
{
	assert_true(due >= earliest + after);
	assert_true(due <= clock_mono_ns() + after);
}

static void test_events_are_told_soon_after_the_last_one(void **state)
{
	const struct event event = { .is_machine = true };
	const struct event ended = { .mig.state = MIG_COMPLETED };
	uint64_t start = clock_mono_ns(), first, due;
	struct event taken;

	(void)state;
	first = event_queue_put(&queue, &event);
	assert_due(first, start, EVENT_TELL_AFTER_NS);
	first += EVENT_TELL_WITHIN_NS - EVENT_TELL_AFTER_NS;
	do { /* as others come, until the first one has waited for long enough */
		start = clock_mono_ns();
		due = event_queue_put(&queue, &event);
		assert_true(due == first || due >= start + EVENT_TELL_AFTER_NS);
		assert_true(due <= first);
		while (clock_mono_ns() < start + NS_PER_MS)
			;
	} while (due < first);
	assert_true(start + EVENT_TELL_AFTER_NS + NS_PER_MS > first);
	start = clock_mono_ns();
	assert_true(event_queue_put(&queue, &ended) >= start);
	assert_true(event_queue_put(&queue, &ended) <= clock_mono_ns());
	/* Once it is taken, the second one is the first. */
	assert_true(event_queue_take(&queue, &taken));
	assert_true(event_queue_put(&queue, &event) > first);
}

static void test_failure_after_any_number_of_passes_arrives(void **state)
{
	const struct event failed = { .mig.state = MIG_FAILED };
	struct event event;

	(void)state;
	put_passes(10 * EVENT_QUEUE_MAX);
	event_queue_put(&queue, &failed);
	assert_int_equal(take_passes(&event),
			 EVENT_QUEUE_MAX - EVENT_QUEUE_RESERVE);
	assert_int_equal(event.mig.state, MIG_FAILED);
	assert_false(event_queue_take(&queue, &event));
}

static void test_shutdown_after_any_number_of_passes_arrives(void **state)
{
	const struct event shutdown = { .is_machine = true,
					.machine = MACHINE_EVENT_SHUTDOWN };
	struct event event;

	(void)state;
	put_passes(EVENT_QUEUE_MAX);
	event_queue_put(&queue, &shutdown);
	take_passes(&event);
	assert_true(event.is_machine);
	assert_int_equal(event.machine, MACHINE_EVENT_SHUTDOWN);
}

static void test_reserve_holds_what_is_no_pass(void **state)
{
	struct event event = { .is_machine = true,
			       .machine = MACHINE_EVENT_STOP };

	(void)state;
	put_passes(EVENT_QUEUE_MAX);
	for (unsigned int i = 0; i < EVENT_QUEUE_RESERVE; i++)
		event_queue_put(&queue, &event);
	put_passes(1); /* no room */
	take_passes(&event);
	for (unsigned int i = 1; i < EVENT_QUEUE_RESERVE; i++) {
		assert_true(event_queue_take(&queue, &event));
		assert_true(event.is_machine);
	}
	assert_false(event_queue_take(&queue, &event));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_events_come_in_order,
						setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_events_are_told_soon_after_the_last_one, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			test_failure_after_any_number_of_passes_arrives, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			test_shutdown_after_any_number_of_passes_arrives, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			test_reserve_holds_what_is_no_pass, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
