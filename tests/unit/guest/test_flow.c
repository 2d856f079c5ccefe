/* SPDX-License-Identifier: Apache-2.0 */
/* Windows of frames: every one is accounted for. */
#include <cmocka.h>

#include "guest/flow.h"

#define WINDOW 4
#define LIMIT  100
#define NEVER  1000000

struct setup {
	struct flow flow;
	struct flow_slot slots[WINDOW];
	uint64_t ticks;
};

static void init(struct setup *s)
{
	flow_init(&s->flow, 1, s->slots, WINDOW);
}

static void send(struct setup *s, uint64_t now)
{
	struct frame_stamp stamp;

	assert_true(flow_may_send(&s->flow));
	flow_send(&s->flow, now, 60, &stamp);
}

static void test_window_opens_when_the_first_frame_is_back(void **state)
{
	struct setup s;

	(void)state;
	init(&s);
	for (int i = 0; i < WINDOW; i++)
		send(&s, 10);
	assert_false(flow_may_send(&s.flow));
	assert_int_equal(flow_receive(&s.flow, 2, 20, &s.ticks), FLOW_BACK);
	assert_false(flow_may_send(&s.flow));
	assert_int_equal(flow_receive(&s.flow, 1, 25, &s.ticks), FLOW_BACK);
	assert_int_equal(s.ticks, 15);
	assert_int_equal(flow_pending(&s.flow), 2);
	send(&s, 30);
	send(&s, 30);
	assert_false(flow_may_send(&s.flow));
	assert_int_equal(s.flow.reordered, 1);
}

static void test_late_frame_is_sent_again_with_its_number_and_size(void **state)
{
	struct frame_stamp stamp;
	struct setup s;

	(void)state;
	init(&s);
	send(&s, 10);
	send(&s, 50);
	assert_false(flow_next_late(&s.flow, 10 + LIMIT - 1, LIMIT, &stamp));
	s.flow.next_look = 0;
	assert_true(flow_next_late(&s.flow, 10 + LIMIT, LIMIT, &stamp));
	assert_int_equal(stamp.sequence, 1);
	assert_int_equal(stamp.size, 60);
	assert_false(flow_next_late(&s.flow, 10 + LIMIT, LIMIT, &stamp));
	assert_int_equal(s.flow.resent, 1);
}

static void test_duplicate_of_a_frame_sent_twice_is_explained(void **state)
{
	struct frame_stamp stamp;
	struct setup s;

	(void)state;
	init(&s);
	send(&s, 0);
	assert_true(flow_next_late(&s.flow, LIMIT, LIMIT, &stamp));
	assert_int_equal(flow_receive(&s.flow, 1, LIMIT, &s.ticks), FLOW_BACK);
	assert_int_equal(flow_receive(&s.flow, 1, LIMIT, &s.ticks), FLOW_TWICE);
	assert_int_equal(s.flow.back, 1);
	assert_int_equal(s.flow.twice, 1);
	assert_int_equal(s.flow.unasked, 0);
}

static void test_duplicate_of_a_frame_sent_once_is_not(void **state)
{
	struct setup s;

	(void)state;
	init(&s);
	send(&s, 0);
	assert_int_equal(flow_receive(&s.flow, 1, 1, &s.ticks), FLOW_BACK);
	assert_int_equal(flow_receive(&s.flow, 1, 2, &s.ticks), FLOW_UNASKED);
	assert_int_equal(s.flow.unasked, 1);
}

/* The sender may be giving its slot to another frame as the duplicate arrives. */
static void
test_duplicate_of_a_frame_that_leaves_its_slot_is_not_judged(void **state)
{
	struct setup s;

	(void)state;
	init(&s);
	for (int i = 1; i < WINDOW; i++)
		send(&s, 0);
	assert_int_equal(flow_receive(&s.flow, 1, 1, &s.ticks), FLOW_BACK);
	assert_int_equal(flow_receive(&s.flow, 1, 2, &s.ticks), FLOW_UNASKED);
	send(&s, 3);
	assert_int_equal(flow_receive(&s.flow, 1, 4, &s.ticks), FLOW_TWICE);
	send(&s, 5); /* into that slot */
	assert_int_equal(flow_receive(&s.flow, 1, 6, &s.ticks), FLOW_TWICE);
	assert_int_equal(s.flow.unasked, 1);
}

static void test_frame_that_was_never_sent_is_unknown(void **state)
{
	struct setup s;

	(void)state;
	init(&s);
	send(&s, 0);
	assert_int_equal(flow_receive(&s.flow, 2, 1, &s.ticks), FLOW_UNKNOWN);
	assert_int_equal(flow_receive(&s.flow, 0, 1, &s.ticks), FLOW_UNKNOWN);
	assert_int_equal(s.flow.back, 0);
}

static void test_frame_that_never_comes_is_lost_once(void **state)
{
	uint64_t sequence;
	struct setup s;

	(void)state;
	init(&s);
	send(&s, 0);
	send(&s, 0);
	assert_int_equal(flow_receive(&s.flow, 2, 1, &s.ticks), FLOW_BACK);
	assert_false(flow_give_up(&s.flow, LIMIT - 1, LIMIT, &sequence));
	assert_true(flow_give_up(&s.flow, LIMIT, LIMIT, &sequence));
	assert_int_equal(sequence, 1);
	assert_false(flow_give_up(&s.flow, NEVER, LIMIT, &sequence));
	assert_int_equal(flow_pending(&s.flow), 0);
	assert_int_equal(s.flow.sent, s.flow.back + s.flow.lost);
}

static void test_what_is_heard_is_received_missing_or_late(void **state)
{
	static const uint64_t sequences[] = { 1, 2, 5, 3, 5, 6 };
	struct flow_heard heard = { .name = 1 };

	(void)state;
	for (int i = 0; i < 6; i++)
		flow_hear(&heard, sequences[i]);
	assert_int_equal(heard.received, 6);
	assert_int_equal(heard.missing, 2); /* 3 and 4 */
	assert_int_equal(heard.late, 2);    /* 3, and 5 again */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			test_window_opens_when_the_first_frame_is_back),
		cmocka_unit_test(
			test_late_frame_is_sent_again_with_its_number_and_size),
		cmocka_unit_test(
			test_duplicate_of_a_frame_sent_twice_is_explained),
		cmocka_unit_test(test_duplicate_of_a_frame_sent_once_is_not),
		cmocka_unit_test(
			test_duplicate_of_a_frame_that_leaves_its_slot_is_not_judged),
		cmocka_unit_test(test_frame_that_was_never_sent_is_unknown),
		cmocka_unit_test(test_frame_that_never_comes_is_lost_once),
		cmocka_unit_test(
			test_what_is_heard_is_received_missing_or_late),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
