// SPDX-License-Identifier: Apache-2.0
/* A card whose back end tells the network where the guest is (VHOST_USER_SEND_RARP). */
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

	bed_disk_free(&f->bed);
	be_end(&f->be);
	bed_fini(&f->bed);
	free(f);
	return 0;
}

static void start(struct fixture *f)
{
	struct err err = ERR_INIT;

	assert_int_equal(be_start(&f->be, &f->options), 0);
	if (bed_net_new(&f->bed, 1, &err))
		fail_msg("%s", err_msg(&err));
	bed_drive(&f->bed);
}

static bool is_announced(void *opaque)
{
	const struct fixture *f = opaque;

	return __atomic_load_n(&f->be.counts.announcements, __ATOMIC_ACQUIRE) >
	       0;
}

/* The address in the order in which it is in a frame, and nothing behind it. */
static void
test_back_end_is_told_the_address_of_a_guest_that_arrived(void **state)
{
	struct fixture *f = *state;
	uint8_t mac[8] = { 0 };
	uint64_t announced;

	f->options.has_rarp = true;
	start(f);
	for (unsigned int i = 0; i < 6; i++)
		mac[i] = (uint8_t)board_load(
			&f->bed.board, f->bed.bar + VDEV_PCI_CONFIG + i, 1);
	assert_true(mac[0] != mac[5]);
	vdev_arrived(f->bed.vdev);
	assert_true(bed_until(is_announced, f));
	announced = __atomic_load_n(&f->be.counts.announced, __ATOMIC_RELAXED);
	assert_memory_equal(&announced, mac, sizeof(mac));
}

/* The answer to what comes behind it would tell of a refusal. */
static void test_back_end_that_refuses_to_tell_works_on(void **state)
{
	struct fixture *f = *state;

	f->options.has_rarp = true;
	f->options.fault = (struct be_fault){
		.request = UM_SEND_RARP,
		.kind = BE_REFUSED,
		.again = 9,
	};
	start(f);
	vdev_arrived(f->bed.vdev);
	assert_true(bed_until(is_announced, f));
	vdev_pause_begin(f->bed.vdev);
	assert_int_equal(
		vdev_pause(f->bed.vdev, clock_mono_ns() + BED_LIMIT_NS, NULL),
		0);
	vdev_run(f->bed.vdev);
	assert_false(bed_needs_reset(&f->bed));
	assert_int_equal(f->be.counts.connections, 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_back_end_is_told_the_address_of_a_guest_that_arrived),
		TEST(test_back_end_that_refuses_to_tell_works_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
