// SPDX-License-Identifier: Apache-2.0
/* Drivers that break the rules: an error each, and nothing is touched. */
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "formats.h"

/* The error is one, says where, and is the same again. */
static void refuse(struct rig *rig, int code, const char *what)
{
	for (unsigned int i = 0; i < 2; i++) {
		assert_int_equal(rig_pop(rig), code);
		assert_int_equal(strncmp(err_msg(&rig->err), "queue 0: ", 9),
				 0);
		if (!strstr(err_msg(&rig->err), what))
			fail_msg("'%s' is not about '%s'", err_msg(&rig->err),
				 what);
	}
	assert_int_equal(rig->mmio_accesses, 0);
	assert_int_equal(rig->vq.in_flight, 0);
}

static void refuse_buffer(void **state, struct rig_buffer buffer, int code,
			  const char *what)
{
	struct rig *rig = *state;

	rig_start(rig);
	rig_add(rig, &buffer, 1);
	refuse(rig, code, what);
}

static void test_buffer_outside_of_ram_is_refused(void **state)
{
	refuse_buffer(state, (struct rig_buffer){ 0x4000000, 16, false },
		      -EFAULT, "0x4000000");
}

static void test_buffer_in_a_devices_registers_is_refused(void **state)
{
	refuse_buffer(state, (struct rig_buffer){ RIG_MMIO, 16, true }, -EFAULT,
		      "0xc0000");
}

static void test_buffer_that_runs_into_registers_is_refused(void **state)
{
	struct rig *rig = *state;
	struct mem_region *more = mem_region_new_alias(
		rig->mem, "more", rig->high_region, 0, 0x1000);

	/* RAM just in front of them */
	mem_region_add(rig->root, RIG_MMIO - 0x1000, more, 0);
	mem_region_put(more);
	refuse_buffer(state, (struct rig_buffer){ RIG_MMIO - 16, 32, true },
		      -EFAULT, "0xc0000");
}

static void test_buffer_past_the_end_of_addresses_is_refused(void **state)
{
	refuse_buffer(state, (struct rig_buffer){ UINT64_MAX - 7, 16, false },
		      -EFAULT, "2^64");
}

static void test_writing_to_rom_is_refused(void **state)
{
	refuse_buffer(state, (struct rig_buffer){ RIG_ROM, 16, true }, -EFAULT,
		      "writable RAM");
}

static void test_reading_from_rom_is_fine(void **state)
{
	struct rig *rig = *state;
	const struct rig_buffer buffer = { RIG_ROM, 16, false };

	rig_start(rig);
	rig_add(rig, &buffer, 1);
	assert_int_equal(rig_pop(rig), 1);
}

static void test_buffer_without_bytes_is_refused(void **state)
{
	refuse_buffer(state, (struct rig_buffer){ RIG_BUFFERS, 0, false },
		      -EBADMSG, "0 bytes");
}

static void test_readable_behind_writable_is_refused(void **state)
{
	struct rig *rig = *state;
	const struct rig_buffer buffers[] = {
		{ RIG_BUFFERS, 16, true },
		{ RIG_BUFFERS + 0x100, 16, false },
	};

	rig_start(rig);
	rig_add(rig, buffers, 2);
	refuse(rig, -EBADMSG, "behind a writable");
}

static void test_chain_of_more_than_4_gib_is_refused(void **state)
{
	struct rig *rig = *state;
	struct rig_buffer buffers[3];
	struct mem_region *large;
	struct ram_block *block;

	if (ram_block_new(rig->mem, "large", 2ull << 30,
			  &(struct ram_options){ 0 }, &block, &rig->err))
		fail_msg("%s", err_msg(&rig->err));
	large = mem_region_new_ram(rig->mem, "large", block);
	mem_region_add(rig->root, 1ull << 32, large, 0);
	for (unsigned int i = 0; i < 3; i++)
		buffers[i] = (struct rig_buffer){ 1ull << 32, 1u << 31, false };
	rig_start(rig);
	rig_add(rig, buffers, 2);
	assert_int_equal(rig_pop(rig), 1);
	vq_unpop(&rig->vq, &rig->request);
	if (rig->driver.is_packed)
		rig_put16(rig, RIG_RINGS + 16 + 14,
			  rig_get16(rig, RIG_RINGS + 14));
	else
		rig_put_desc(rig, RIG_RINGS + 16, 1ull << 32, 1u << 31,
			     VRING_DESC_F_NEXT, 2);
	rig_put_desc(rig, RIG_RINGS + 32, RIG_BUFFERS, 1, 0, 0);
	refuse(rig, -EBADMSG, "2^32");
	mem_region_del(large);
	mem_region_put(large);
	mem_synchronize(rig->mem);
	ram_block_free(block);
}

static void test_more_segments_than_there_is_room_are_refused(void **state)
{
	struct rig *rig = *state;
	struct rig_buffer buffers[RIG_SEGMENTS + 1];

	for (unsigned int i = 0; i < RIG_SEGMENTS + 1; i++)
		buffers[i] = (struct rig_buffer){ RIG_BUFFERS, 1, true };
	rig_start(rig);
	rig_add_indirect(rig, RIG_TABLES, buffers, RIG_SEGMENTS + 1);
	refuse(rig, -E2BIG, "64 segments");
}

/* ---- split ---- */

static void publish(struct rig *rig, uint16_t head, uint16_t idx)
{
	rig_put16(rig, RIG_DRIVER + 4, head);
	rig_put16(rig, RIG_DRIVER + 2, idx);
}

static void test_index_that_jumps_is_refused(void **state)
{
	struct rig *rig = *state;

	rig_start(rig);
	publish(rig, 0, QUEUE_SIZE + 1);
	refuse(rig, -EBADMSG, "available index");
	publish(rig, 0, 0x8000);
	refuse(rig, -EBADMSG, "available index");
	publish(rig, 0, 0xffff); /* back, that is */
	refuse(rig, -EBADMSG, "available index");
	publish(rig, 0, 0);
	assert_int_equal(rig_pop(rig), 0);
}

static void test_queue_whose_index_jumped_does_not_start(void **state)
{
	struct rig *rig = *state;

	publish(rig, 0, QUEUE_SIZE + 1);
	assert_int_equal(vq_start(&rig->vq, &rig->dev, 0, &rig->err), -EBADMSG);
	publish(rig, 0, QUEUE_SIZE);
	rig_start(rig);
}

static void test_head_out_of_bounds_is_refused(void **state)
{
	struct rig *rig = *state;

	rig_start(rig);
	publish(rig, QUEUE_SIZE, 1);
	refuse(rig, -EBADMSG, "descriptor 8 of a queue of 8");
	publish(rig, 0xffff, 1);
	refuse(rig, -EBADMSG, "descriptor 65535");
}

static void test_next_out_of_bounds_is_refused(void **state)
{
	struct rig *rig = *state;

	rig_start(rig);
	rig_put_desc(rig, RIG_RINGS, RIG_BUFFERS, 1, VRING_DESC_F_NEXT,
		     QUEUE_SIZE);
	publish(rig, 0, 1);
	refuse(rig, -EBADMSG, "descriptor 8");
}

static void test_loop_is_refused(void **state)
{
	struct rig *rig = *state;

	rig_start(rig);
	rig_put_desc(rig, RIG_RINGS, RIG_BUFFERS, 1, VRING_DESC_F_NEXT, 1);
	rig_put_desc(rig, RIG_RINGS + 16, RIG_BUFFERS, 1, VRING_DESC_F_NEXT, 0);
	publish(rig, 0, 1);
	refuse(rig, -EBADMSG, "longer than its queue");
}

static void test_loop_in_an_indirect_table_is_refused(void **state)
{
	struct rig *rig = *state;
	static struct vq_segment segments[2 * VDEV_QUEUE_SIZE_MAX];

	rig->request.segments = segments;
	rig->request.room = 2 * VDEV_QUEUE_SIZE_MAX;
	rig_start(rig);
	rig_put_desc(rig, RIG_TABLES, RIG_BUFFERS, 1, VRING_DESC_F_NEXT, 0);
	rig_put_desc(rig, RIG_RINGS, RIG_TABLES, 16, VRING_DESC_F_INDIRECT, 0);
	publish(rig, 0, 1);
	refuse(rig, -EBADMSG, "more than 1024 descriptors");
}

static void test_next_out_of_an_indirect_table_is_refused(void **state)
{
	struct rig *rig = *state;

	rig_start(rig);
	rig_put_desc(rig, RIG_TABLES, RIG_BUFFERS, 1, VRING_DESC_F_NEXT, 2);
	rig_put_desc(rig, RIG_RINGS, RIG_TABLES, 32, VRING_DESC_F_INDIRECT, 0);
	publish(rig, 0, 1);
	refuse(rig, -EBADMSG, "descriptor 2 of an indirect table of 2");
}

static void test_descriptors_in_flight_are_refused(void **state)
{
	struct rig *rig = *state;

	rig_start(rig);
	rig_put_desc(rig, RIG_RINGS, RIG_BUFFERS, 1, VRING_DESC_F_NEXT, 1);
	rig_put_desc(rig, RIG_RINGS + 16, RIG_BUFFERS, 1, 0, 0);
	for (unsigned int i = 0; i < QUEUE_SIZE; i++)
		rig_put16(rig, RIG_DRIVER + 4 + 2 * i, 0);
	rig_put16(rig, RIG_DRIVER + 2, QUEUE_SIZE);
	/* The same two again and again: the queue has no more than eight. */
	for (unsigned int i = 0; i < QUEUE_SIZE / 2; i++)
		assert_int_equal(rig_pop(rig), 1);
	assert_int_equal(rig_pop(rig), -EBADMSG);
	/* The driver does not know yet what was used. */
	vq_push(&rig->vq, &rig->request, 0);
	vq_push(&rig->vq, &rig->request, 0);
	assert_int_equal(rig_pop(rig), 1);
	assert_int_equal(rig_pop(rig), -EBADMSG);
	vq_flush(&rig->vq);
	assert_int_equal(rig_pop(rig), 1);
}

/* ---- both: indirect tables ---- */

/* Descriptor 0 is one of @size bytes at @table with @flags more. */
static void publish_table(struct rig *rig, uint64_t table, uint32_t size,
			  uint16_t flags)
{
	flags |= VRING_DESC_F_INDIRECT;
	if (rig->driver.is_packed) {
		rig_put_desc(rig, RIG_RINGS, table, size, 0,
			     flags | 1u << VRING_PACKED_DESC_F_AVAIL);
	} else {
		rig_put_desc(rig, RIG_RINGS, table, size, flags, 1);
		publish(rig, 0, 1);
	}
}

static void test_table_of_odd_size_is_refused(void **state)
{
	struct rig *rig = *state;
	static const uint32_t sizes[] = { 0, 1, 15, 17, UINT32_MAX };

	rig_start(rig);
	for (unsigned int i = 0; i < array_size(sizes); i++) {
		publish_table(rig, RIG_TABLES, sizes[i], 0);
		refuse(rig, -EBADMSG, "an indirect table of ");
	}
}

static void test_table_outside_of_ram_is_refused(void **state)
{
	struct rig *rig = *state;
	static const uint64_t places[] = { RIG_MMIO, 0x4000000, RIG_MMIO - 8,
					   RIG_HIGH + RIG_HIGH_SIZE - 8,
					   UINT64_MAX - 7 };

	rig_start(rig);
	for (unsigned int i = 0; i < array_size(places); i++) {
		publish_table(rig, places[i], 16, 0);
		refuse(rig, -EFAULT, "an indirect table at");
	}
}

/* What is at the start of a huge one counts, and nothing beyond is walked. */
static void test_huge_table_is_bounded(void **state)
{
	struct rig *rig = *state;

	rig_start(rig);
	for (unsigned int i = 0; i < 0x4000; i += 16)
		rig_put_desc(rig, RIG_TABLES + i, RIG_BUFFERS, 1,
			     rig->driver.is_packed ? 0 : VRING_DESC_F_NEXT,
			     rig->driver.is_packed ? 0
						   : (uint16_t)(i / 16 + 1));
	publish_table(rig, RIG_TABLES, 0xfffffff0, 0);
	refuse(rig, -E2BIG, "segments");
}

static void test_table_in_a_table_is_refused(void **state)
{
	struct rig *rig = *state;
	bool is_packed = rig->driver.is_packed;

	rig_start(rig);
	rig_put_desc(rig, RIG_TABLES, RIG_TABLES, 16,
		     is_packed ? 0 : VRING_DESC_F_INDIRECT,
		     is_packed ? VRING_DESC_F_INDIRECT : 0);
	publish_table(rig, RIG_TABLES, 16, 0);
	refuse(rig, -EBADMSG, "in an indirect table");
}

static void test_table_with_a_successor_is_refused(void **state)
{
	struct rig *rig = *state;

	rig_start(rig);
	publish_table(rig, RIG_TABLES, 16, VRING_DESC_F_NEXT);
	refuse(rig, -EBADMSG, "table");
}

static void test_table_that_was_not_negotiated_is_refused(void **state)
{
	struct rig *rig = *state;

	rig->dev.features &= ~INDIRECT;
	rig_start(rig);
	publish_table(rig, RIG_TABLES, 16, 0);
	refuse(rig, -EBADMSG, "not negotiated");
}

/* ---- packed ---- */

static void test_endless_chain_is_refused(void **state)
{
	struct rig *rig = *state;
	uint16_t flags = 1u << VRING_PACKED_DESC_F_AVAIL | VRING_DESC_F_NEXT;

	rig_start(rig);
	for (unsigned int i = 0; i < QUEUE_SIZE; i++)
		rig_put_desc(rig, RIG_RINGS + 16 * i, RIG_BUFFERS, 1, 0, flags);
	refuse(rig, -EBADMSG, "longer than its queue");
}

static void test_chain_into_what_is_in_flight_is_refused(void **state)
{
	struct rig *rig = *state;
	uint16_t flags = 1u << VRING_PACKED_DESC_F_AVAIL;

	rig_start(rig);
	for (unsigned int i = 0; i < QUEUE_SIZE; i++)
		rig_put_desc(rig, RIG_RINGS + 16 * i, RIG_BUFFERS, 1, 0,
			     i == 1 ? flags | VRING_DESC_F_NEXT : flags);
	assert_int_equal(rig_pop(rig), 1);
	for (unsigned int i = 1; i < QUEUE_SIZE; i++)
		rig_put16(rig, RIG_RINGS + 16 * i + 14,
			  flags | VRING_DESC_F_NEXT);
	/* It goes past the end to the first, which is not done. */
	assert_int_equal(rig_pop(rig), -EBADMSG);
	assert_int_equal(rig->vq.in_flight, 1);
}

static void test_table_behind_another_descriptor_is_refused(void **state)
{
	struct rig *rig = *state;
	uint16_t flags = 1u << VRING_PACKED_DESC_F_AVAIL;

	rig_start(rig);
	rig_put_desc(rig, RIG_RINGS + 16, RIG_TABLES, 16, 0,
		     flags | VRING_DESC_F_INDIRECT);
	rig_put_desc(rig, RIG_RINGS, RIG_BUFFERS, 1, 0,
		     flags | VRING_DESC_F_NEXT);
	refuse(rig, -EBADMSG, "in a chain of descriptors");
}

/* ---- rings ---- */

static void test_rings_outside_of_ram_do_not_start(void **state)
{
	struct rig *rig = *state;
	uint64_t *parts[] = { &rig->queue.desc, &rig->queue.driver,
			      &rig->queue.device };
	static const uint64_t places[] = { RIG_MMIO, 0x4000000,
					   RIG_HIGH + RIG_HIGH_SIZE - 2 };

	for (unsigned int i = 0; i < array_size(parts); i++) {
		for (unsigned int n = 0; n < array_size(places); n++) {
			uint64_t was = *parts[i];

			*parts[i] = places[n];
			err_clear(&rig->err);
			assert_int_equal(
				vq_start(&rig->vq, &rig->dev, 0, &rig->err),
				-EFAULT);
			*parts[i] = was;
		}
	}
	rig->queue.device = RIG_ROM;
	assert_int_equal(vq_start(&rig->vq, &rig->dev, 0, NULL), -EFAULT);
	assert_int_equal(rig->mmio_accesses, 0);
}

static void test_misaligned_rings_do_not_start(void **state)
{
	struct rig *rig = *state;

	rig->queue.desc += 8;
	assert_int_equal(vq_start(&rig->vq, &rig->dev, 0, NULL), -EFAULT);
	rig->queue.desc -= 8;
	rig->queue.device += 2;
	assert_int_equal(vq_start(&rig->vq, &rig->dev, 0, NULL), -EFAULT);
	rig->queue.device -= 2;
	rig->queue.driver += 1;
	assert_int_equal(vq_start(&rig->vq, &rig->dev, 0, NULL), -EFAULT);
}

static void test_requests_that_nobody_has_do_not_start(void **state)
{
	struct rig *rig = *state;

	rig->queue.next_avail++;
	assert_int_equal(vq_start(&rig->vq, &rig->dev, 0, NULL), -EBADMSG);
	rig->queue.next_used++;
	if (rig->driver.is_packed)
		rig_start(rig);
	rig->queue.next_avail = rig->queue.next_used = 0x8000 | QUEUE_SIZE;
	assert_int_equal(vq_start(&rig->vq, &rig->dev, 0, NULL), -EBADMSG);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST_BOTH(test_buffer_outside_of_ram_is_refused),
		TEST_BOTH(test_buffer_in_a_devices_registers_is_refused),
		TEST_BOTH(test_buffer_that_runs_into_registers_is_refused),
		TEST_BOTH(test_buffer_past_the_end_of_addresses_is_refused),
		TEST_BOTH(test_writing_to_rom_is_refused),
		TEST_BOTH(test_reading_from_rom_is_fine),
		TEST_BOTH(test_buffer_without_bytes_is_refused),
		TEST_BOTH(test_readable_behind_writable_is_refused),
		TEST_BOTH(test_chain_of_more_than_4_gib_is_refused),
		TEST_BOTH(test_more_segments_than_there_is_room_are_refused),
		TEST_SPLIT(test_index_that_jumps_is_refused),
		TEST_SPLIT(test_queue_whose_index_jumped_does_not_start),
		TEST_SPLIT(test_head_out_of_bounds_is_refused),
		TEST_SPLIT(test_next_out_of_bounds_is_refused),
		TEST_SPLIT(test_loop_is_refused),
		TEST_SPLIT(test_loop_in_an_indirect_table_is_refused),
		TEST_SPLIT(test_next_out_of_an_indirect_table_is_refused),
		TEST_SPLIT(test_descriptors_in_flight_are_refused),
		TEST_BOTH(test_table_of_odd_size_is_refused),
		TEST_BOTH(test_table_outside_of_ram_is_refused),
		TEST_BOTH(test_huge_table_is_bounded),
		TEST_BOTH(test_table_in_a_table_is_refused),
		TEST_BOTH(test_table_with_a_successor_is_refused),
		TEST_BOTH(test_table_that_was_not_negotiated_is_refused),
		TEST_PACKED(test_endless_chain_is_refused),
		TEST_PACKED(test_chain_into_what_is_in_flight_is_refused),
		TEST_PACKED(test_table_behind_another_descriptor_is_refused),
		TEST_BOTH(test_rings_outside_of_ram_do_not_start),
		TEST_BOTH(test_misaligned_rings_do_not_start),
		TEST_BOTH(test_requests_that_nobody_has_do_not_start),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
