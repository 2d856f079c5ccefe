// SPDX-License-Identifier: Apache-2.0
/* A vhost-user disk whose back end changes its configuration while the driver reads it, in
 * two halves and with the generation around them (virtio 1.2, 4.1.4.3.1). */
#include "bed.h"

#define GENERATION 0x15u
#define CHANGES    5000u

/* Nothing of one looks like the other's. */
static const uint64_t sizes[] = { 0x100001000, 0x200002000 };

static uint8_t generation(struct bed *bed)
{
	return (uint8_t)board_load(&bed->board,
				   bed->bar + VDEV_PCI_COMMON + GENERATION, 1);
}

static uint64_t half(struct bed *bed, unsigned int index)
{
	return board_load(&bed->board, bed->bar + VDEV_PCI_CONFIG + 4 * index,
			  4);
}

/* As a driver does. */
static uint64_t capacity(struct bed *bed)
{
	uint64_t value;
	uint8_t before;

	do {
		before = generation(bed);
		value = half(bed, 0) | half(bed, 1) << 32;
	} while (generation(bed) != before);
	return value;
}

static void test_no_read_mixes_two_configurations(void **state)
{
	struct be_options options = BE_OPTIONS;
	struct back_end be;
	struct err err = ERR_INIT;
	struct bed bed;

	(void)state;
	bed_init(&bed, false);
	options.socket = bed.socket;
	options.image = bed.image;
	assert_int_equal(be_start(&be, &options), 0);
	if (bed_disk_new(&bed, 1, &err))
		fail_msg("%s", err_msg(&err));
	bed_drive(&bed);
	for (unsigned int i = 0; i < CHANGES; i++) {
		uint64_t limit = clock_mono_ns() + BED_LIMIT_NS, seen;
		uint64_t last = i ? sizes[1 - i % 2] : BED_IMAGE_SECTORS;

		be_resize(&be, sizes[i % 2]);
		while ((seen = capacity(&bed)) != sizes[i % 2]) {
			assert_int_equal(seen, last);
			assert_true(clock_mono_ns() < limit);
		}
	}
	bed_disk_free(&bed);
	be_end(&be);
	bed_fini(&bed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_read_mixes_two_configurations),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
