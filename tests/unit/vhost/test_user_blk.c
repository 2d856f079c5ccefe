// SPDX-License-Identifier: Apache-2.0
/* A vhost-user disk: its driver on one side, a back end that may die on the other. */
#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bed.h"

struct fixture {
	struct bed bed;
	struct back_end be;
	struct be_options options;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	const struct be_options options = BE_OPTIONS;

	bed_init(&f->bed, false);
	f->options = options;
	f->options.socket = f->bed.socket;
	f->options.image = f->bed.image;
	f->options.queues = 2;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	bed_fini(&f->bed);
	free(f);
	return 0;
}

static void start(struct fixture *f)
{
	assert_int_equal(be_start(&f->be, &f->options), 0);
}

static void disk(struct fixture *f, unsigned int queues)
{
	struct err err = ERR_INIT;

	if (bed_disk_new(&f->bed, queues, &err))
		fail_msg("%s", err_msg(&err));
	bed_drive(&f->bed);
}

static void end(struct fixture *f)
{
	bed_disk_free(&f->bed);
	be_end(&f->be);
}

static void fill(struct fixture *f, uint64_t gpa, uint8_t byte)
{
	memset(bed_at(&f->bed, gpa), byte, 4096);
}

static void assert_filled(struct fixture *f, uint64_t gpa, uint8_t byte)
{
	const uint8_t *bytes = bed_at(&f->bed, gpa);

	for (unsigned int i = 0; i < 4096; i++) {
		if (bytes[i] != byte)
			fail_msg("byte %u is 0x%02x, not 0x%02x", i, bytes[i],
				 byte);
	}
}

static void write_block(struct fixture *f, unsigned int queue, uint64_t block,
			uint8_t byte)
{
	fill(f, BED_DATA, byte);
	assert_true(bed_do(&f->bed, queue, VIRTIO_BLK_T_OUT, 8 * block,
			   BED_DATA, 4096));
}

static void read_block(struct fixture *f, unsigned int queue, uint64_t block,
		       uint8_t byte)
{
	fill(f, BED_HIGH + 0x1000, (uint8_t)~byte);
	assert_true(bed_do(&f->bed, queue, VIRTIO_BLK_T_IN, 8 * block,
			   BED_HIGH + 0x1000, 4096));
	assert_filled(f, BED_HIGH + 0x1000, byte);
}

static void test_blocks_written_on_one_queue_are_read_on_another(void **state)
{
	struct fixture *f = *state;

	start(f);
	disk(f, 2);
	for (unsigned int i = 0; i < 200; i++) {
		write_block(f, i % 2, i % 100, (uint8_t)i);
		read_block(f, 1 - i % 2, i % 100, (uint8_t)i);
	}
	assert_true(bed_do(&f->bed, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0));
	end(f);
	assert_int_equal(f->be.counts.writes, 200);
	assert_int_equal(f->be.counts.connections, 1);
}

static unsigned int messages(const struct fixture *f)
{
	return __atomic_load_n(&f->be.counts.messages, __ATOMIC_RELAXED);
}

/* What a load does, of a guest that set up both queues elsewhere. */
static void arrive(struct vdev *vdev)
{
	vdev->features = vdev->offered & ~(1ull << VIRTIO_F_RING_PACKED);
	vdev->status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
		       VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;
	for (unsigned int i = 0; i < 2; i++) {
		struct vdev_queue *queue = &vdev->queues[i];

		queue->size = BED_QUEUE;
		queue->desc = 0x10000ull * (i + 1);
		queue->driver = queue->desc + 0x2000;
		queue->device = queue->desc + 0x4000;
		queue->is_enabled = 1;
	}
}

static void build(struct vdev *vdev, enum vdev_stage stage)
{
	struct err err = ERR_INIT;

	lock_acquire(&vdev->lock);
	if (vdev->type->build(vdev, stage, &err))
		fail_msg("%s", err_msg(&err));
	lock_release(&vdev->lock);
}

static void test_device_that_arrives_costs_three_messages_a_ring(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;
	unsigned int before;

	start(f);
	assert_int_equal(bed_disk_new(&f->bed, 2, &err), 0);
	arrive(f->bed.vdev);
	before = messages(f);
	build(f->bed.vdev, VDEV_AHEAD);
	/* Features; record of requests, asked for and told; of each ring size,
	 * interrupt, enable. */
	assert_int_equal(messages(f) - before, 1 + 2 + 2 * 3);
	assert_int_equal(f->be.counts.starts, 0);
	before = messages(f);
	vdev_probe(f->bed.vdev);
	build(f->bed.vdev, VDEV_STOPPED);
	build(f->bed.vdev, VDEV_WHOLE);
	vdev_run_begin(f->bed.vdev);
	vdev_run(f->bed.vdev);
	/* Whether it is there; of each ring base, addresses, kick; and whether
	 * all were taken. */
	assert_int_equal(messages(f) - before, 1 + 2 * 3 + 1);
	assert_int_equal(f->be.counts.starts, 2);
	assert_int_equal(f->be.counts.features, 1);
	assert_int_equal(f->be.counts.tables, 1);
	assert_false(bed_needs_reset(&f->bed));
	end(f);
}

static bool has_stopped(void *opaque)
{
	struct fixture *f = opaque;

	return __atomic_load_n(&f->be.counts.stops, __ATOMIC_RELAXED) == 2;
}

/* One without a record of requests must have done all before it is asked. */
static void
test_back_end_without_a_record_is_asked_to_stop_when_it_is_idle(void **state)
{
	struct fixture *f = *state;

	f->options.has_inflight = false;
	start(f);
	disk(f, 2);
	write_block(f, 0, 1, 1);
	vdev_pause_begin(f->bed.vdev);
	assert_true(bed_until(has_stopped, f));
	assert_int_equal(vdev_pause(f->bed.vdev, UINT64_MAX, NULL), 0);
	end(f);
}

static void
test_back_end_without_a_record_is_asked_to_stop_as_soon_as_it_is(void **state)
{
	struct fixture *f = *state;
	uint64_t limit_ns = clock_mono_ns() + BED_LIMIT_NS;

	f->options.has_inflight = false;
	start(f);
	disk(f, 2);
	be_hold(&f->be, true);
	bed_submit(&f->bed, 0, VIRTIO_BLK_T_OUT, 0, BED_DATA, 4096);
	bed_kick(&f->bed, 0);
	vdev_pause_begin(f->bed.vdev);
	vdev_pause_ask(f->bed.vdev, clock_mono_ns() + 20 * NS_PER_MS);
	assert_int_equal(f->be.counts.stops, 0);
	be_hold(&f->be, false);
	vdev_pause_ask(f->bed.vdev, limit_ns);
	assert_true(bed_until(has_stopped, f));
	assert_int_equal(vdev_pause(f->bed.vdev, limit_ns, NULL), 0);
	assert_true(bed_wait(&f->bed, 0, 1));
	end(f);
}

static void test_a_pause_keeps_the_place_in_the_rings(void **state)
{
	struct fixture *f = *state;

	start(f);
	disk(f, 2);
	for (unsigned int i = 0; i < 100; i++) {
		write_block(f, i % 2, i, (uint8_t)i);
		vdev_pause_begin(f->bed.vdev);
		assert_int_equal(vdev_pause(f->bed.vdev, UINT64_MAX, NULL), 0);
		assert_int_equal(f->bed.vdev->queues[i % 2].next_avail,
				 f->bed.driver[i % 2].next_avail);
		vdev_run(f->bed.vdev);
	}
	read_block(f, 0, 99, 99);
	end(f);
}

static void
test_what_is_made_available_in_a_pause_is_done_after_it(void **state)
{
	struct fixture *f = *state;

	start(f);
	disk(f, 1);
	vdev_pause_begin(f->bed.vdev);
	assert_int_equal(vdev_pause(f->bed.vdev, UINT64_MAX, NULL), 0);
	fill(f, BED_DATA, 7);
	bed_submit(&f->bed, 0, VIRTIO_BLK_T_OUT, 0, BED_DATA, 4096);
	vdev_run(f->bed.vdev);
	assert_true(bed_wait(&f->bed, 0, 1));
	read_block(f, 0, 0, 7);
	end(f);
}

static void test_the_memory_table_is_told_once(void **state)
{
	struct fixture *f = *state;
	struct vh_counts counts;

	start(f);
	disk(f, 1);
	for (unsigned int i = 0; i < 10; i++) {
		bed_reset(&f->bed);
		bed_drive(&f->bed);
		write_block(f, 0, i, 1);
	}
	/* What is no RAM does not matter. */
	board_config_set(&f->bed.board, 1, PCI_COMMAND, 0, 2);
	board_config_set(&f->bed.board, 1, PCI_COMMAND,
			 PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
	vh_board_counts(f->bed.vhost, VH_USER, &counts);
	assert_int_equal(counts.tables_told, 1);
	end(f);
	assert_int_equal(f->be.counts.tables, 1);
}

/* Nothing of it is left for the pause of a move. */
static void
test_lesson_back_end_is_connected_when_the_device_is_built(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;

	start(f);
	assert_int_equal(bed_disk_new(&f->bed, 2, &err), 0);
	assert_int_equal(
		__atomic_load_n(&f->be.counts.connections, __ATOMIC_RELAXED),
		1);
	assert_int_equal(
		__atomic_load_n(&f->be.counts.tables, __ATOMIC_RELAXED), 1);
	bed_drive(&f->bed);
	write_block(f, 0, 0, 1);
	end(f);
	assert_int_equal(f->be.counts.connections, 1);
	assert_int_equal(f->be.counts.tables, 1);
}

static void test_ram_that_moves_under_load_moves_in_the_back_end(void **state)
{
	struct fixture *f = *state;

	start(f);
	disk(f, 1);
	for (unsigned int i = 0; i < 20; i++) {
		for (unsigned int k = 0; k < 10; k++)
			bed_submit(&f->bed, 0, VIRTIO_BLK_T_OUT, 8 * k,
				   BED_DATA, 4096);
		bed_kick(&f->bed, 0);
		mem_region_set_offset(f->bed.high_region,
				      BED_HIGH + (i % 2 ? 0 : 0x2000000));
		assert_true(bed_wait(&f->bed, 0, 10));
	}
	read_block(f, 0, 1, 0);
	end(f);
	assert_int_equal(f->be.counts.tables, 21);
}

static void test_a_ring_that_is_taken_away_breaks_only_the_device(void **state)
{
	struct fixture *f = *state;

	start(f);
	disk(f, 1);
	write_block(f, 0, 0, 1);
	mem_region_set_enabled(f->bed.low_region, false);
	assert_true(bed_needs_reset(&f->bed));
	mem_region_set_enabled(f->bed.low_region, true);
	bed_reset(&f->bed);
	bed_drive(&f->bed);
	read_block(f, 0, 0, 1);
	end(f);
}

/* ---- back ends that end ---- */

/* Writes with @death in one of them; true when all were done. */
static bool write_through_death(struct fixture *f, enum be_death death,
				bool has_inflight)
{
	f->options.death = death;
	f->options.die_at = 7;
	f->options.has_inflight = has_inflight;
	start(f);
	disk(f, 1);
	for (unsigned int i = 0; i < 20; i++) {
		fill(f, BED_DATA + i * 4096, (uint8_t)(i + 1));
		bed_submit(&f->bed, 0, VIRTIO_BLK_T_OUT, 8 * i,
			   BED_DATA + i * 4096, 4096);
	}
	bed_kick(&f->bed, 0);
	return bed_wait(&f->bed, 0, 20);
}

static void
test_no_write_is_lost_when_a_back_end_with_inflight_ends(void **state)
{
	struct fixture *f = *state;

	for (int death = BE_DIES_TAKEN; death <= BE_DIES_USED; death++) {
		assert_true(write_through_death(f, (enum be_death)death, true));
		assert_false(bed_needs_reset(&f->bed));
		for (unsigned int i = 0; i < 20; i++)
			read_block(f, 0, i, (uint8_t)(i + 1));
		end(f);
		assert_int_equal(f->be.counts.connections, 2);
		assert_int_equal(f->be.counts.resubmitted,
				 death == BE_DIES_USED ? 0 : 1);
	}
}

static void
test_device_needs_reset_when_a_back_end_without_inflight_ends(void **state)
{
	struct fixture *f = *state;

	assert_false(write_through_death(f, BE_DIES_TAKEN, false));
	assert_true(bed_needs_reset(&f->bed));
	bed_reset(&f->bed);
	bed_drive(&f->bed);
	write_block(f, 0, 3, 99);
	read_block(f, 0, 3, 99);
	end(f);
	assert_int_equal(f->be.counts.connections, 2);
}

static void test_an_idle_back_end_may_end_even_without_inflight(void **state)
{
	struct fixture *f = *state;

	f->options.has_inflight = false;
	start(f);
	disk(f, 1);
	for (unsigned int i = 0; i < 3; i++) {
		write_block(f, 0, i, (uint8_t)i);
		be_end(&f->be);
		bed_wait_away(&f->bed);
		start(f);
		read_block(f, 0, i, (uint8_t)i);
	}
	assert_false(bed_needs_reset(&f->bed));
	end(f);
}

static void test_requests_of_a_time_without_back_end_wait_for_it(void **state)
{
	struct fixture *f = *state;

	start(f);
	disk(f, 1);
	write_block(f, 0, 0, 1);
	be_end(&f->be);
	fill(f, BED_DATA, 2);
	bed_submit(&f->bed, 0, VIRTIO_BLK_T_OUT, 0, BED_DATA, 4096);
	bed_kick(&f->bed, 0);
	start(f);
	assert_true(bed_wait(&f->bed, 0, 1));
	read_block(f, 0, 0, 2);
	end(f);
}

/* ---- stop ---- */

static void
test_a_stop_is_given_up_at_its_deadline_and_work_goes_on(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;

	f->options.fault = (struct be_fault){ .request = UM_GET_VRING_BASE,
					      .kind = BE_LATE,
					      .delay_ms = 300 };
	start(f);
	disk(f, 2);
	write_block(f, 0, 0, 1);
	vdev_pause_begin(f->bed.vdev);
	assert_int_equal(
		vdev_pause(f->bed.vdev, clock_mono_ns() + 50 * NS_PER_MS, &err),
		-ETIMEDOUT);
	vdev_run(f->bed.vdev);
	read_block(f, 0, 0, 1);
	read_block(f, 1, 0, 1);
	vdev_pause_begin(f->bed.vdev);
	assert_int_equal(vdev_pause(f->bed.vdev, UINT64_MAX, &err), 0);
	vdev_run(f->bed.vdev);
	read_block(f, 1, 0, 1);
	assert_false(bed_needs_reset(&f->bed));
	end(f);
	assert_int_equal(f->be.counts.connections, 1);
}

static void
test_a_back_end_that_never_stops_fails_the_stop_in_time(void **state)
{
	struct fixture *f = *state;
	uint64_t start_ns;

	f->options.fault = (struct be_fault){ .request = UM_GET_VRING_BASE,
					      .kind = BE_SILENT };
	start(f);
	disk(f, 1);
	start_ns = clock_mono_ns();
	vdev_pause_begin(f->bed.vdev);
	assert_int_equal(
		vdev_pause(f->bed.vdev, clock_mono_ns() + 50 * NS_PER_MS, NULL),
		-ETIMEDOUT);
	assert_true(clock_mono_ns() - start_ns < 2 * NS_PER_SEC);
	end(f);
}

static void
test_a_driver_can_reset_a_device_whose_back_end_is_away(void **state)
{
	struct fixture *f = *state;

	f->options.death = BE_DIES_TAKEN;
	f->options.die_at = 1;
	start(f);
	disk(f, 1);
	be_hold(&f->be, true);
	bed_submit(&f->bed, 0, VIRTIO_BLK_T_OUT, 0, BED_DATA, 4096);
	bed_kick(&f->bed, 0);
	be_end(&f->be);
	bed_reset(&f->bed);
	bed_drive(&f->bed);
	f->options.death = BE_LIVES;
	start(f);
	write_block(f, 0, 0, 5);
	read_block(f, 0, 0, 5);
	end(f);
}

static bool has_capacity(void *opaque)
{
	struct bed *bed = opaque;

	return board_load(&bed->board, bed->bar + VDEV_PCI_CONFIG, 8) == 8192;
}

static void test_a_change_of_configuration_reaches_the_driver(void **state)
{
	struct fixture *f = *state;

	start(f);
	disk(f, 1);
	write_block(f, 0, 0, 5);
	be_resize(&f->be, 8192);
	assert_true(bed_until(has_capacity, &f->bed));
	end(f);
}

static void test_more_queues_than_the_back_end_has_are_refused(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;

	start(f);
	assert_int_equal(bed_disk_new(&f->bed, 3, &err), -ENOTSUP);
	assert_string_equal(err_msg(&err), "disk0: its back end has 2 queues, "
					   "3 are wanted");
	be_end(&f->be);
}

static void test_nobody_at_the_socket_is_a_clear_error(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;

	assert_int_equal(bed_disk_new(&f->bed, 1, &err), -ENOENT);
	assert_non_null(strstr(err_msg(&err), f->bed.socket));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_blocks_written_on_one_queue_are_read_on_another),
		TEST(test_device_that_arrives_costs_three_messages_a_ring),
		TEST(test_back_end_without_a_record_is_asked_to_stop_when_it_is_idle),
		TEST(test_back_end_without_a_record_is_asked_to_stop_as_soon_as_it_is),
		TEST(test_a_pause_keeps_the_place_in_the_rings),
		TEST(test_what_is_made_available_in_a_pause_is_done_after_it),
		TEST(test_the_memory_table_is_told_once),
		TEST(test_lesson_back_end_is_connected_when_the_device_is_built),
		TEST(test_ram_that_moves_under_load_moves_in_the_back_end),
		TEST(test_a_ring_that_is_taken_away_breaks_only_the_device),
		TEST(test_no_write_is_lost_when_a_back_end_with_inflight_ends),
		TEST(test_device_needs_reset_when_a_back_end_without_inflight_ends),
		TEST(test_an_idle_back_end_may_end_even_without_inflight),
		TEST(test_requests_of_a_time_without_back_end_wait_for_it),
		TEST(test_a_stop_is_given_up_at_its_deadline_and_work_goes_on),
		TEST(test_a_back_end_that_never_stops_fails_the_stop_in_time),
		TEST(test_a_driver_can_reset_a_device_whose_back_end_is_away),
		TEST(test_a_change_of_configuration_reaches_the_driver),
		TEST(test_more_queues_than_the_back_end_has_are_refused),
		TEST(test_nobody_at_the_socket_is_a_clear_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
