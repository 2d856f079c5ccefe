// SPDX-License-Identifier: Apache-2.0
/* Bus mastering, which lets a function access memory: while a driver has it off, its
 * device's queues rest; a vhost-user device's: ../vhost/test_mastering.c. */
#include <cmocka.h>

#include "disk_scene.h"

#define LIMIT_NS DISK_LIMIT

static void set_master(struct board *board, bool is_on)
{
	board_config_set(board, TOY_SLOT, PCI_COMMAND,
			 PCI_COMMAND_MEMORY | (is_on ? PCI_COMMAND_MASTER : 0),
			 2);
}

static bool is_pending(struct board *board)
{
	unsigned int at = board_capability(board, TOY_SLOT, PCI_CAP_ID_EXP);

	return board_config(board, TOY_SLOT, at + PCI_EXP_DEVSTA, 2) &
	       PCI_EXP_DEVSTA_TRPND;
}

/* ---- a toy ---- */

static void test_queues_rest_while_it_is_off(void **state)
{
	struct toy *toy = *state;

	toy_set_up(toy, 0);
	for (unsigned int i = 1; i <= 3; i++) {
		assert_true(toy->dev.is_working);
		set_master(&toy->board, false);
		assert_false(toy->dev.is_working);
		assert_int_equal(toy->begins, i);
		assert_int_equal(toy->stops, i);
		/* Nothing else of it is another. */
		assert_int_equal(toy_status(toy), SET_UP | DRIVER_OK);
		toy_put(toy, QUEUE_SELECT, 0, 2);
		assert_int_equal(toy_get(toy, QUEUE_ENABLE, 2), 1);
		assert_int_equal(toy_get(toy, QUEUE_DESC, 8), toy_ring(0, 0));
		set_master(&toy->board, true);
		assert_int_equal(toy->starts, 1 + i);
	}
	assert_int_equal(toy->resets, 0);
}

static void test_what_does_not_change_it_stops_nothing(void **state)
{
	struct toy *toy = *state;

	toy_set_up(toy, 0);
	set_master(&toy->board, true);
	board_config_set(&toy->board, TOY_SLOT, PCI_COMMAND, PCI_COMMAND_MASTER,
			 2); /* decoding is off */
	set_master(&toy->board, true);
	assert_int_equal(toy->starts, 1);
	assert_int_equal(toy->stops, 0);
}

static void test_driver_ok_waits_for_it(void **state)
{
	struct toy *toy = *state;

	set_master(&toy->board, false);
	toy_set_up(toy, 0);
	assert_int_equal(toy->starts, 0);
	set_master(&toy->board, true);
	assert_int_equal(toy->starts, 1);
	assert_int_equal(toy->enabled_at_start, 2);
}

static void test_queue_may_be_enabled_while_it_is_off(void **state)
{
	struct toy *toy = *state;

	toy_set_up(toy, 0);
	set_master(&toy->board, false);
	toy_enable(toy, 2);
	assert_int_equal(toy->starts, 1);
	set_master(&toy->board, true);
	assert_int_equal(toy->enabled_at_start, 3);
}

static void test_device_rests_in_a_machine_that_goes_on(void **state)
{
	struct toy *toy = *state;

	toy_set_up(toy, 0);
	set_master(&toy->board, false);
	assert_int_equal(vdev_pause(&toy->dev, UINT64_MAX, NULL), 0);
	vdev_run(&toy->dev);
	assert_int_equal(toy->starts, 1);
	set_master(&toy->board, true);
	assert_int_equal(toy->starts, 2);
}

static void test_back_end_that_works_on_is_a_pending_transaction(void **state)
{
	struct toy *toy = *state;

	toy_set_up(toy, 0);
	assert_false(is_pending(&toy->board));
	toy->stop_result = -ETIMEDOUT;
	set_master(&toy->board, false);
	assert_true(is_pending(&toy->board));
	assert_true(toy->dev.is_working);
	assert_int_equal(toy_status(toy), SET_UP | DRIVER_OK);
	toy->stop_result = 0;
	assert_false(is_pending(&toy->board)); /* it is asked again */
	assert_false(toy->dev.is_working);
	set_master(&toy->board, true);
	assert_true(toy->dev.is_working);
}

static void test_pending_transaction_ends_when_it_is_on_again(void **state)
{
	struct toy *toy = *state;

	toy_set_up(toy, 0);
	toy->stop_result = -ETIMEDOUT;
	set_master(&toy->board, false);
	set_master(&toy->board, true);
	assert_false(is_pending(&toy->board));
	assert_int_equal(toy->starts, 1);
}

static void test_reset_that_waits_is_a_pending_transaction(void **state)
{
	struct toy *toy = *state;
	unsigned int at =
		board_capability(&toy->board, TOY_SLOT, PCI_CAP_ID_EXP);

	toy_set_up(toy, 0);
	toy->stop_result = -ETIMEDOUT;
	board_config_set(&toy->board, TOY_SLOT, at + PCI_EXP_DEVCTL,
			 PCI_EXP_DEVCTL_BCR_FLR, 2);
	assert_true(is_pending(&toy->board));
	toy->stop_result = 0;
	assert_false(is_pending(&toy->board));
	assert_int_equal(toy->resets, 1);
	assert_int_equal(toy->dev.status, 0);
}

static void test_device_that_rests_goes_on_elsewhere(void **state)
{
	struct toy *toy = *state;
	struct err err = ERR_INIT;
	struct toy there;

	toy_init(&there);
	set_master(&there.board, false);
	toy_set_up(toy, 0);
	set_master(&toy->board, false);
	assert_int_equal(vdev_pause(&toy->dev, UINT64_MAX, NULL), 0);
	if (toy_move_ahead(toy, &there, &err) || toy_move(toy, &there, &err))
		fail_msg("%s", err_msg(&err));
	vdev_run(&there.dev);
	vdev_arrived(&there.dev);
	assert_int_equal(there.starts, 0);
	assert_int_equal(toy_status(&there), SET_UP | DRIVER_OK);
	set_master(&there.board, true);
	assert_int_equal(there.starts, 1);
	assert_int_equal(there.enabled_at_start, 2);
	toy_fini(&there);
}

/* ---- a disk at work ---- */

/* Block @i of the disk at its place, and of @byte. */
static void begin(struct disk *disk, uint32_t type, unsigned int i,
		  uint8_t byte)
{
	uint64_t gpa = DISK_DATA + 4096u * i;

	memset(disk_at(disk, gpa), byte, 4096);
	disk_begin(disk, 0, i, type, 8 * i, gpa, 4096);
}

/* All of memory that a device may write. */
static void copy_memory(struct disk *disk, uint8_t *to)
{
	memcpy(to, disk->toy.ram->host, TOY_RAM);
}

static void
test_nothing_is_written_while_it_is_off_and_nothing_lost(void **state)
{
	struct scene *s = *state;
	struct disk *disk = &s->disk;
	uint8_t *before = malloc(TOY_RAM);
	uint8_t wanted[4096];

	for (unsigned int round = 0; round < 20; round++) {
		for (unsigned int i = 0; i < 16; i++)
			begin(disk, VIRTIO_BLK_T_OUT, i, (uint8_t)(round + i));
		set_master(&disk->toy.board, false); /* some are under way */
		assert_false(is_pending(&disk->toy.board));
		for (unsigned int i = 16; i < 32; i++)
			begin(disk, VIRTIO_BLK_T_IN, i - 16 + 16, 0xee);
		copy_memory(disk, before);
		/* As long as it takes to do all of that. */
		usleep(2000);
		assert_memory_equal(disk->toy.ram->host, before, TOY_RAM);
		set_master(&disk->toy.board, true);
		disk_wait(disk, 0);
		for (unsigned int i = 0; i < 32; i++)
			assert_int_equal(*disk_status(disk, 0, i),
					 VIRTIO_BLK_S_OK);
		for (unsigned int i = 0; i < 16; i++) {
			begin(disk, VIRTIO_BLK_T_IN, i, 0xee);
			disk_wait(disk, 0);
			memset(wanted, (uint8_t)(round + i), sizeof(wanted));
			assert_memory_equal(
				disk_at(disk, DISK_DATA + 4096u * i), wanted,
				sizeof(wanted));
		}
	}
	free(before);
}

int main(void)
{
#define TEST(name) \
	cmocka_unit_test_setup_teardown(name, toy_setup, toy_teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_queues_rest_while_it_is_off),
		TEST(test_what_does_not_change_it_stops_nothing),
		TEST(test_driver_ok_waits_for_it),
		TEST(test_queue_may_be_enabled_while_it_is_off),
		TEST(test_device_rests_in_a_machine_that_goes_on),
		TEST(test_back_end_that_works_on_is_a_pending_transaction),
		TEST(test_pending_transaction_ends_when_it_is_on_again),
		TEST(test_reset_that_waits_is_a_pending_transaction),
		TEST(test_device_that_rests_goes_on_elsewhere),
		cmocka_unit_test_setup_teardown(
			test_nothing_is_written_while_it_is_off_and_nothing_lost,
			disk_setup, disk_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
