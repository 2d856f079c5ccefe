// SPDX-License-Identifier: Apache-2.0
/* Who is told of what, and who has asked not to be. */
#include <cmocka.h>

#include "formats.h"

/* As a network device does whose next packet needs more buffers. */
static void test_who_put_back_is_called_for_more(void **state)
{
	struct rig *rig = *state;

	rig_start(rig);
	rig_must_kick(rig);
	rig_add_one(rig);
	assert_int_equal(rig_pop(rig), 1);
	assert_int_equal(rig_pop(rig), 0);
	vq_unpop(&rig->vq, &rig->request);
	rig_must_kick(rig);
	assert_false(vq_want_kicks(&rig->vq));
	rig_add_one(rig);
	assert_true(rig_must_kick(rig));
	assert_int_equal(rig_pop(rig), 1);
	assert_int_equal(rig_pop(rig), 1);
}

static void test_who_took_some_of_it_again_is_called_for_more(void **state)
{
	struct rig *rig = *state;
	struct vq_request first;

	rig_start(rig);
	rig_add_one(rig);
	rig_add_one(rig);
	assert_int_equal(rig_pop(rig), 1);
	first = rig->request;
	assert_int_equal(rig_pop(rig), 1);
	vq_unpop(&rig->vq, &rig->request);
	vq_unpop(&rig->vq, &first);
	assert_int_equal(rig_pop(rig), 1);
	rig_must_kick(rig);
	assert_false(vq_want_kicks(&rig->vq));
	rig_add_one(rig);
	assert_true(rig_must_kick(rig));
}

static void test_driver_notifies_only_who_waits(void **state)
{
	struct rig *rig = *state;

	rig_start(rig);
	for (unsigned int i = 0; i < 0x8000 + 5 * QUEUE_SIZE; i++) {
		rig_pass_one(rig);
		assert_true(rig_must_kick(rig));
		vq_ignore_kicks(&rig->vq);
		rig_pass_one(rig);
		assert_false(rig_must_kick(rig));
		assert_false(vq_want_kicks(&rig->vq));
	}
}

/* A simple back end pops until there is nothing, and never says that it waits. */
static void test_empty_pop_makes_the_driver_notify(void **state)
{
	struct rig *rig = *state;

	rig_start(rig);
	for (unsigned int i = 0; i < 3 * QUEUE_SIZE; i++) {
		rig_pass_one(rig);
		assert_true(rig_must_kick(rig));
		assert_int_equal(rig_pop(rig), 0);
	}
}

static void test_request_that_came_meanwhile_is_told(void **state)
{
	struct rig *rig = *state;

	rig_start(rig);
	vq_ignore_kicks(&rig->vq);
	assert_int_equal(rig_pop(rig), 0);
	rig_add_one(rig);
	assert_true(vq_want_kicks(&rig->vq));
	assert_int_equal(rig_pop(rig), 1);
	assert_false(vq_want_kicks(&rig->vq));
}

static void test_flags_suppress_interrupts(void **state)
{
	struct rig *rig = *state;

	rig_start(rig);
	rig_pass_one(rig);
	rig->calls = 0;
	rig_want_calls(rig, false);
	rig_pass_one(rig);
	assert_int_equal(rig->calls, 0);
	rig_want_calls(rig, true);
	rig_pass_one(rig);
	assert_int_equal(rig->calls, 1);
}

/* At each position of the ring, so also where index and wrap counter wrap. */
static void test_event_index_says_when_to_interrupt(void **state)
{
	struct rig *rig = *state;
	const struct rig_buffer buffer = { RIG_BUFFERS, 1, true };

	rig_start(rig);
	rig_pass_one(rig);
	for (unsigned int i = 0; i < 0x10000 / 3 + 2 * QUEUE_SIZE; i++) {
		rig_want_call_at(rig, 2);
		for (unsigned int n = 0; n < 3; n++) {
			uint16_t id = rig_add(rig, &buffer, 1);

			rig->calls = 0;
			rig_pop_one(rig, id);
			vq_push(&rig->vq, &rig->request, 1);
			vq_flush(&rig->vq);
			rig_take_one(rig, id, 1);
			assert_int_equal(rig->calls, n == 2);
		}
	}
}

static void test_batch_across_the_event_interrupts_once(void **state)
{
	struct rig *rig = *state;
	const struct rig_buffer buffer = { RIG_BUFFERS, 1, true };

	rig_start(rig);
	rig_pass_one(rig);
	for (unsigned int i = 0; i < 0x10000 / QUEUE_SIZE + 3; i++) {
		uint32_t written;
		uint16_t id;

		rig->calls = 0;
		rig_want_call_at(rig, i % QUEUE_SIZE);
		for (unsigned int n = 0; n < QUEUE_SIZE; n++)
			rig_add(rig, &buffer, 1);
		while (rig_pop(rig) > 0)
			vq_push(&rig->vq, &rig->request, 1);
		vq_flush(&rig->vq);
		assert_int_equal(rig->calls, 1);
		while (rig_take(rig, &id, &written))
			;
	}
}

/* Whether the one before had come as far is not known. */
static void test_first_flush_after_a_start_interrupts(void **state)
{
	struct rig *rig = *state;

	rig_start(rig);
	rig_pass_one(rig);
	rig_want_call_at(rig, 5);
	rig->calls = 0;
	rig_start(rig);
	rig_pass_one(rig);
	assert_int_equal(rig->calls, 1);
	rig_pass_one(rig);
	assert_int_equal(rig->calls, 1);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST_BOTH(test_who_put_back_is_called_for_more),
		TEST_BOTH(test_who_took_some_of_it_again_is_called_for_more),
		TEST_BOTH(test_driver_notifies_only_who_waits),
		TEST_BOTH(test_empty_pop_makes_the_driver_notify),
		TEST_BOTH(test_request_that_came_meanwhile_is_told),
		TEST_FLAGS(test_flags_suppress_interrupts),
		TEST_EVENTS(test_event_index_says_when_to_interrupt),
		TEST_EVENTS(test_batch_across_the_event_interrupts_once),
		TEST_EVENTS(test_first_flush_after_a_start_interrupts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
