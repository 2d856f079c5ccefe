// SPDX-License-Identifier: Apache-2.0
/* A virtio device as its driver and its machine see it; over PCI: test_pci.c, the reset
 * of one queue: test_queue_reset.c. */
#include <cmocka.h>
#include <stdio.h>

#include "toy.h"

/* ---- life ---- */

static void test_device_without_a_slot_is_taken_apart(void **state)
{
	struct toy *toy = *state;
	static const uint16_t sizes[] = { 16, 16 };
	static struct vdev devs[PCI_SLOTS];
	struct vdev_site site = { .mem = toy->board.mem,
				  .memory = toy->board.memory,
				  .bus = toy->board.bus,
				  .state = &toy->board.state };
	struct err err = ERR_INIT;
	unsigned int built = 0;
	char name[16];
	int ret;

	do {
		snprintf(name, sizeof(name), "more%u", built);
		site.name = name;
		ret = vdev_init(&devs[built++], &toy_type, &site, 0, 0, 2,
				sizes, &err);
	} while (ret == 0);
	assert_int_equal(ret, -ENOSPC);
	assert_int_equal(built, PCI_SLOTS - 1); /* a bridge and a toy */
	assert_null(state_find(&toy->board.state, "more30-virtio"));
	while (built)
		vdev_fini(&devs[--built]);
	assert_null(state_find(&toy->board.state, "more30"));
	vdev_fini(&devs[0]); /* once more, and a zeroed one */
	vdev_fini(&devs[PCI_SLOTS - 1]);
}

/* ---- status and features ---- */

static void test_status_bits_are_set_in_their_order(void **state)
{
	struct toy *toy = *state;

	toy_choose(toy, 1ull << VIRTIO_F_VERSION_1);
	assert_int_equal(toy_add_status(toy, DRIVER), 0);
	assert_int_equal(toy_add_status(toy, DRIVER_OK), 0);
	assert_int_equal(toy_add_status(toy, ACKNOWLEDGE), ACKNOWLEDGE);
	assert_int_equal(toy_add_status(toy, FEATURES_OK), ACKNOWLEDGE);
	assert_int_equal(toy_add_status(toy, DRIVER), ACKNOWLEDGE | DRIVER);
	assert_int_equal(toy_add_status(toy, DRIVER_OK), ACKNOWLEDGE | DRIVER);
	assert_int_equal(toy_add_status(toy, FEATURES_OK), SET_UP);
	assert_int_equal(toy_add_status(toy, 0x30 | NEEDS_RESET), SET_UP);
	assert_int_equal(toy->starts, 0);
	assert_int_equal(toy_add_status(toy, DRIVER_OK), SET_UP | DRIVER_OK);
	assert_int_equal(toy->starts, 1);
	assert_int_equal(toy_add_status(toy, VIRTIO_CONFIG_S_FAILED),
			 SET_UP | DRIVER_OK | VIRTIO_CONFIG_S_FAILED);
}

static void test_status_bits_are_not_taken_away_but_by_a_reset(void **state)
{
	struct toy *toy = *state;

	toy_negotiate(toy, 0);
	toy_put(toy, STATUS, ACKNOWLEDGE, 1);
	assert_int_equal(toy_status(toy), SET_UP);
	toy_put(toy, STATUS, 0, 1);
	assert_int_equal(toy_status(toy), 0);
}

static void test_features_without_version_1_are_refused(void **state)
{
	struct toy *toy = *state;

	toy_add_status(toy, ACKNOWLEDGE | DRIVER);
	toy_choose(toy, 1ull << TOY_FEATURE);
	assert_int_equal(toy_add_status(toy, FEATURES_OK),
			 ACKNOWLEDGE | DRIVER);
	assert_int_equal(toy->accepts, 0);
}

static void test_features_that_are_not_offered_are_refused(void **state)
{
	struct toy *toy = *state;

	toy_add_status(toy, ACKNOWLEDGE | DRIVER);
	for (unsigned int bit = 0; bit < 64; bit++) {
		if (toy->dev.offered >> bit & 1)
			continue;
		toy_choose(toy, 1ull << VIRTIO_F_VERSION_1 | 1ull << bit);
		assert_int_equal(toy_add_status(toy, FEATURES_OK),
				 ACKNOWLEDGE | DRIVER);
	}
	assert_false(toy->dev.offered >> VIRTIO_F_IN_ORDER & 1);
}

static void test_type_may_refuse_a_choice(void **state)
{
	struct toy *toy = *state;

	toy_add_status(toy, ACKNOWLEDGE | DRIVER);
	toy_choose(toy, 1ull << VIRTIO_F_VERSION_1 | 1ull << TOY_FEATURE);
	toy->accept_result = -EINVAL;
	assert_int_equal(toy_add_status(toy, FEATURES_OK),
			 ACKNOWLEDGE | DRIVER);
	toy->accept_result = 0;
	assert_int_equal(toy_add_status(toy, FEATURES_OK), SET_UP);
	assert_true(vdev_has(&toy->dev, TOY_FEATURE));
}

static void test_features_are_frozen_by_features_ok(void **state)
{
	struct toy *toy = *state;

	toy_negotiate(toy, 1ull << TOY_FEATURE);
	toy_choose(toy, 0);
	assert_true(vdev_has(&toy->dev, TOY_FEATURE));
	assert_true(vdev_has(&toy->dev, VIRTIO_F_VERSION_1));
}

/* ---- start and stop ---- */

static void test_device_works_while_machine_and_driver_want_it(void **state)
{
	struct toy *toy = *state;

	assert_int_equal(vdev_pause(&toy->dev, UINT64_MAX, NULL), 0);
	assert_int_equal(toy->stops, 0);
	toy_set_up(toy, 0);
	assert_int_equal(toy->starts, 0);
	vdev_run(&toy->dev);
	assert_int_equal(toy->starts, 1);
	assert_int_equal(toy->enabled_at_start, 2);
	assert_true(toy->dev.is_working);
	vdev_run(&toy->dev);
	assert_int_equal(toy->starts, 1);
	vdev_pause_begin(&toy->dev);
	assert_int_equal(toy->begins, 1);
	assert_int_equal(vdev_pause(&toy->dev, UINT64_MAX, NULL), 0);
	assert_int_equal(toy->stops, 1);
	assert_false(toy->dev.is_working);
	assert_int_equal(toy_status(toy), SET_UP | DRIVER_OK);
}

static void test_start_and_stop_leave_the_topology_alone(void **state)
{
	struct toy *toy = *state;
	uint64_t commits = mem_commit_count(toy->board.mem);

	toy_set_up(toy, 0);
	assert_int_equal(vdev_pause(&toy->dev, UINT64_MAX, NULL), 0);
	vdev_run(&toy->dev);
	assert_int_equal(mem_commit_count(toy->board.mem), commits);
}

static void test_pause_that_comes_too_late_leaves_it_working(void **state)
{
	struct toy *toy = *state;
	struct err err = ERR_INIT;

	toy_set_up(toy, 0);
	toy->stop_result = -ETIMEDOUT;
	vdev_pause_begin(&toy->dev);
	assert_int_equal(vdev_pause(&toy->dev, 0, &err), -ETIMEDOUT);
	assert_non_null(strstr(err_msg(&err), "toy0: "));
	assert_true(toy->dev.is_working);
	vdev_run(&toy->dev);
	assert_int_equal(toy->starts, 1);
	assert_int_equal(toy_status(toy), SET_UP | DRIVER_OK);
}

static void test_start_that_fails_breaks_the_device(void **state)
{
	struct toy *toy = *state;

	toy->start_result = -EFAULT;
	toy_negotiate(toy, 0);
	assert_int_equal(toy_add_status(toy, DRIVER_OK),
			 SET_UP | DRIVER_OK | NEEDS_RESET);
	assert_false(toy->dev.is_working);
	toy->start_result = 0;
	vdev_run(&toy->dev);
	assert_int_equal(toy->starts, 1);
	toy_put(toy, STATUS, 0, 1);
	toy_set_up(toy, 0);
	assert_int_equal(toy->starts, 2);
	assert_true(toy->dev.is_working);
}

static void test_broken_device_rests_until_it_is_reset(void **state)
{
	struct toy *toy = *state;
	const struct err reason = { .code = -EBADMSG, .msg = "a loop" };
	uint8_t isr;

	toy_set_up(toy, 0);
	vdev_break(&toy->dev, &reason);
	vdev_break(&toy->dev, &reason);
	assert_int_equal(toy_status(toy), SET_UP | DRIVER_OK | NEEDS_RESET);
	isr = (uint8_t)board_load(&toy->board, toy->bar + VDEV_PCI_ISR, 1);
	assert_int_equal(isr, 2);
	assert_int_equal(vdev_pause(&toy->dev, UINT64_MAX, NULL), 0);
	assert_int_equal(toy->stops, 1);
	vdev_run(&toy->dev);
	assert_int_equal(toy->starts, 1);
	toy_put(toy, STATUS, 0, 1);
	assert_int_equal(toy_status(toy), 0);
	toy_set_up(toy, 0);
	assert_int_equal(toy->starts, 2);
}

/* ---- reset ---- */

static void test_reset_brings_registers_back(void **state)
{
	struct toy *toy = *state;

	toy_set_up(toy, 1ull << TOY_FEATURE | 1ull << VIRTIO_F_RING_PACKED);
	toy_put(toy, CONFIG_VECTOR, 1, 2);
	toy_put(toy, DEVICE_SELECT, 1, 4);
	toy_put(toy, STATUS, 0, 1);
	assert_int_equal(toy->stops, 1);
	assert_int_equal(toy->resets, 1);
	assert_int_equal(toy_status(toy), 0);
	assert_int_equal(toy->dev.features, 0);
	assert_int_equal(toy_get(toy, CONFIG_VECTOR, 2), MSIX_NO_VECTOR);
	assert_int_equal(toy_get(toy, DEVICE_SELECT, 4), 0);
	assert_int_equal(toy_get(toy, QUEUE_SELECT, 2), 0);
	assert_int_equal(toy_get(toy, QUEUE_SIZE, 2), TOY_SIZE);
	assert_int_equal(toy_get(toy, QUEUE_ENABLE, 2), 0);
	assert_int_equal(toy_get(toy, QUEUE_DESC, 8), 0);
	assert_int_equal(toy->dev.queues[0].next_avail, 0);
	assert_int_not_equal(toy->dev.queues[0].kick_fd, -1);
}

static void test_reset_waits_for_a_back_end_that_does_not_stop(void **state)
{
	struct toy *toy = *state;

	toy_set_up(toy, 0);
	toy->stop_result = -ETIMEDOUT;
	toy_put(toy, STATUS, 0, 1);
	assert_int_equal(toy_status(toy), SET_UP | DRIVER_OK);
	/* Nothing of it changes under the back end. */
	toy_put(toy, STATUS, VIRTIO_CONFIG_S_FAILED, 1);
	toy_enable(toy, 2);
	toy_put(toy, QUEUE_SIZE, 8, 2);
	toy_choose(toy, 0);
	board_store(&toy->board, toy->bar + VDEV_PCI_CONFIG, 1, 1);
	assert_int_equal(toy->dev.queues[0].is_enabled, 1);
	assert_int_equal(toy->dev.queues[2].is_enabled, 0);
	assert_int_equal(toy->dev.queues[2].size, 16);
	assert_int_equal(toy->dev.status, SET_UP | DRIVER_OK);
	assert_false(toy->dev.is_broken);
	assert_int_equal(toy->write_size, 0);
	assert_true(vdev_has(&toy->dev, VIRTIO_F_VERSION_1));
	assert_int_equal(toy->resets, 0);
	assert_true(toy->dev.is_working);
	toy->stop_result = 0;
	assert_int_equal(toy_status(toy), 0);
	assert_int_equal(toy->resets, 1);
	toy_set_up(toy, 0);
	assert_int_equal(toy->starts, 2);
}

static void test_lesson_reset_that_waits_does_not_hold_up_a_pause(void **state)
{
	struct toy *toy = *state;

	toy_set_up(toy, 0);
	toy->stop_result = -ETIMEDOUT;
	toy_put(toy, STATUS, 0, 1);
	assert_int_equal(vdev_pause(&toy->dev, 0, NULL), -ETIMEDOUT);
	assert_int_equal(toy->resets, 0);
	toy->stop_result = 0;
	assert_int_equal(vdev_pause(&toy->dev, 0, NULL), 0);
	assert_int_equal(toy->resets, 1);
	vdev_run(&toy->dev);
	assert_int_equal(toy->starts, 1);
	assert_int_equal(toy_status(toy), 0);
}

/* ---- queues ---- */

static void
test_lesson_queue_size_does_not_change_once_it_is_checked(void **state)
{
	struct toy *toy = *state;

	toy_set_up(toy, 0);
	toy_put(toy, QUEUE_SELECT, 0, 2);
	toy_put(toy, QUEUE_SIZE, 8, 2);
	toy_put(toy, QUEUE_DESC, 0x1000, 8);
	toy_put(toy, QUEUE_DRIVER, 0x1000, 4);
	toy_put(toy, QUEUE_DEVICE + 4, 1, 4);
	toy_put(toy, QUEUE_VECTOR, 2, 2);
	toy_put(toy, QUEUE_ENABLE, 0, 2);
	assert_int_equal(toy_get(toy, QUEUE_SIZE, 2), TOY_SIZE);
	assert_int_equal(toy_get(toy, QUEUE_DESC, 8), toy_ring(0, 0));
	assert_int_equal(toy_get(toy, QUEUE_DRIVER, 8), toy_ring(0, 1));
	assert_int_equal(toy_get(toy, QUEUE_DEVICE, 8), toy_ring(0, 2));
	assert_int_equal(toy_get(toy, QUEUE_VECTOR, 2), MSIX_NO_VECTOR);
	assert_int_equal(toy_get(toy, QUEUE_ENABLE, 2), 1);
	/* Nor while the machine stands still. */
	assert_int_equal(vdev_pause(&toy->dev, UINT64_MAX, NULL), 0);
	toy_put(toy, QUEUE_SIZE, 8, 2);
	assert_int_equal(toy_get(toy, QUEUE_SIZE, 2), TOY_SIZE);
}

static void test_queue_size_is_within_its_bounds(void **state)
{
	struct toy *toy = *state;

	toy_put(toy, QUEUE_SIZE, 0, 2);
	assert_int_equal(toy_get(toy, QUEUE_SIZE, 2), TOY_SIZE);
	toy_put(toy, QUEUE_SIZE, 2 * TOY_SIZE, 2);
	assert_int_equal(toy_get(toy, QUEUE_SIZE, 2), TOY_SIZE);
	toy_put(toy, QUEUE_SIZE, 8, 2);
	assert_int_equal(toy_get(toy, QUEUE_SIZE, 2), 8);
	toy_put(toy, QUEUE_SELECT, TOY_QUEUES, 2);
	assert_int_equal(toy_get(toy, QUEUE_SIZE, 2), 0);
}

static void test_queue_that_makes_no_sense_breaks_the_device(void **state)
{
	struct toy *toy = *state;
	static const struct {
		unsigned int reg;
		uint64_t value;
		bool is_packed;
	} cases[] = {
		{ QUEUE_SIZE, 6, false },
		{ QUEUE_DESC, 0x10008, false },
		{ QUEUE_DRIVER, 0x10001, false },
		{ QUEUE_DRIVER, 0x10002, true },
		{ QUEUE_DEVICE, 0x10002, false },
		{ QUEUE_DESC, UINT64_MAX - 0xf, false },
		{ QUEUE_DEVICE, UINT64_MAX - 3, false },
	};

	for (unsigned int i = 0; i < array_size(cases); i++) {
		toy_negotiate(toy, cases[i].is_packed
					   ? 1ull << VIRTIO_F_RING_PACKED
					   : 0);
		toy_place(toy, 1);
		toy_put(toy, cases[i].reg, cases[i].value,
			cases[i].reg == QUEUE_SIZE ? 2 : 8);
		toy_put(toy, QUEUE_ENABLE, 1, 2);
		assert_int_equal(toy_status(toy), SET_UP | NEEDS_RESET);
		assert_int_equal(toy_get(toy, QUEUE_ENABLE, 2), 0);
		toy_add_status(toy, DRIVER_OK);
		assert_int_equal(toy->starts, 0);
		toy_put(toy, STATUS, 0, 1);
	}
	/* A packed one has any size. */
	toy_negotiate(toy, 1ull << VIRTIO_F_RING_PACKED);
	toy_place(toy, 1);
	toy_put(toy, QUEUE_SIZE, 6, 2);
	toy_put(toy, QUEUE_ENABLE, 1, 2);
	assert_int_equal(toy_get(toy, QUEUE_ENABLE, 2), 1);
	assert_int_equal(toy->dev.queues[1].next_avail, 0x8000);
	assert_int_equal(toy->dev.queues[1].next_used, 0x8000);
}

static void test_queue_is_not_enabled_before_features_ok(void **state)
{
	struct toy *toy = *state;

	toy_add_status(toy, ACKNOWLEDGE | DRIVER);
	toy_enable(toy, 0);
	assert_int_equal(toy_get(toy, QUEUE_ENABLE, 2), 0);
	assert_int_equal(toy_status(toy), ACKNOWLEDGE | DRIVER | NEEDS_RESET);
}

/* ---- configuration ---- */

static void test_configuration_is_read_and_written_within_its_size(void **state)
{
	struct toy *toy = *state;
	uint64_t config = toy->bar + VDEV_PCI_CONFIG;

	assert_int_equal(board_load(&toy->board, config, 1), 0xc0);
	assert_int_equal(board_load(&toy->board, config + 4, 4), 0xc7c6c5c4);
	assert_int_equal(board_load(&toy->board, config + 8, 8), 0xcbcac9c8);
	assert_int_equal(board_load(&toy->board, config + TOY_CONFIG, 8), 0);
	assert_int_equal(board_load(&toy->board, config + 0xff8, 8), 0);
	assert_true(toy->config_reads >= 3);
	board_store(&toy->board, config + 2, 0x1234, 2);
	assert_int_equal(toy->write_offset, 2);
	assert_int_equal(toy->write_size, 2);
	assert_memory_equal(toy->written, "\x34\x12", 2);
	board_store(&toy->board, config + 8, 0, 8); /* half of it is outside */
	board_store(&toy->board, config + TOY_CONFIG, 0, 4);
	assert_int_equal(toy->write_offset, 2);
}

static void test_changed_configuration_has_a_new_generation(void **state)
{
	struct toy *toy = *state;
	uint64_t before = toy_get(toy, GENERATION, 1);

	vdev_config_changed(&toy->dev);
	assert_int_not_equal(toy_get(toy, GENERATION, 1), before);
	assert_int_equal(board_load(&toy->board, toy->bar + VDEV_PCI_ISR, 1),
			 2);
	assert_int_equal(board_load(&toy->board, toy->bar + VDEV_PCI_ISR, 1),
			 0);
}

#define TEST(name) \
	cmocka_unit_test_setup_teardown(name, toy_setup, toy_teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_device_without_a_slot_is_taken_apart),
		TEST(test_status_bits_are_set_in_their_order),
		TEST(test_status_bits_are_not_taken_away_but_by_a_reset),
		TEST(test_features_without_version_1_are_refused),
		TEST(test_features_that_are_not_offered_are_refused),
		TEST(test_type_may_refuse_a_choice),
		TEST(test_features_are_frozen_by_features_ok),
		TEST(test_device_works_while_machine_and_driver_want_it),
		TEST(test_start_and_stop_leave_the_topology_alone),
		TEST(test_pause_that_comes_too_late_leaves_it_working),
		TEST(test_start_that_fails_breaks_the_device),
		TEST(test_broken_device_rests_until_it_is_reset),
		TEST(test_reset_brings_registers_back),
		TEST(test_reset_waits_for_a_back_end_that_does_not_stop),
		TEST(test_lesson_reset_that_waits_does_not_hold_up_a_pause),
		TEST(test_lesson_queue_size_does_not_change_once_it_is_checked),
		TEST(test_queue_size_is_within_its_bounds),
		TEST(test_queue_that_makes_no_sense_breaks_the_device),
		TEST(test_queue_is_not_enabled_before_features_ok),
		TEST(test_configuration_is_read_and_written_within_its_size),
		TEST(test_changed_configuration_has_a_new_generation),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
