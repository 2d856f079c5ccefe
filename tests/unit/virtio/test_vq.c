// SPDX-License-Identifier: Apache-2.0
/*
 * Virtqueues with a driver that keeps the rules; test_vq_events.c has notifications
 * and interrupts, and test_vq_hostile.c the other driver.
 */
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "formats.h"

static void test_request_goes_there_and_back(void **state)
{
	struct rig *rig = *state;
	uint16_t id;

	rig_start(rig);
	assert_int_equal(rig_pop(rig), 0);
	id = rig_add_one(rig);
	rig_pop_one(rig, id);
	assert_int_equal(rig->request.readable, 1);
	assert_int_equal(rig->request.writable, 1);
	assert_int_equal(rig->request.readable_size, 16);
	assert_int_equal(rig->request.writable_size, 64);
	assert_int_equal(rig->request.count, 2);
	assert_ptr_equal(rig->segments[0].host, rig_at(rig, RIG_BUFFERS));
	assert_ptr_equal(rig->segments[1].host,
			 rig_at(rig, RIG_BUFFERS + 0x1000));
	assert_int_equal(rig_pop(rig), 0);
	vq_push(&rig->vq, &rig->request, 64);
	rig_take_none(rig);
	vq_flush(&rig->vq);
	rig_take_one(rig, id, 64);
	rig_take_none(rig);
	assert_int_equal(rig->calls, 1);
}

static void test_requests_are_there_before_the_start(void **state)
{
	struct rig *rig = *state;
	uint16_t id = rig_add_one(rig);

	rig_start(rig);
	rig_pop_one(rig, id);
}

static void test_requests_complete_in_any_order(void **state)
{
	struct rig *rig = *state;
	struct vq_request requests[3];
	uint16_t ids[3];

	rig_start(rig);
	for (unsigned int round = 0; round < 20; round++) {
		for (unsigned int i = 0; i < 3; i++)
			ids[i] = rig_add_one(rig);
		for (unsigned int i = 0; i < 3; i++) {
			rig_pop_one(rig, ids[i]);
			requests[i] = rig->request;
		}
		for (unsigned int i = 0; i < 3; i++)
			vq_push(&rig->vq, &requests[2 - i], 1 + i);
		rig_take_none(rig);
		vq_flush(&rig->vq);
		for (unsigned int i = 0; i < 3; i++)
			rig_take_one(rig, ids[2 - i], 1 + i);
		rig_take_none(rig);
	}
}

/* More often than an index has values, the ring has rounds, and with both. */
static void test_indices_wrap(void **state)
{
	struct rig *rig = *state;

	rig_start(rig);
	for (unsigned int i = 0; i < 0x10000 + 3 * QUEUE_SIZE; i++)
		rig_pass_one(rig);
	assert_int_equal(rig_pop(rig), 0);
}

static void test_whole_ring_is_in_flight(void **state)
{
	struct rig *rig = *state;
	const struct rig_buffer buffer = { RIG_BUFFERS, 1, true };
	struct vq_request requests[QUEUE_SIZE];
	uint16_t ids[QUEUE_SIZE];

	rig_start(rig);
	for (unsigned int round = 0; round < 5; round++) {
		for (unsigned int i = 0; i < QUEUE_SIZE; i++)
			ids[i] = rig_add(rig, &buffer, 1);
		for (unsigned int i = 0; i < QUEUE_SIZE; i++) {
			rig_pop_one(rig, ids[i]);
			requests[i] = rig->request;
		}
		assert_int_equal(rig_pop(rig), 0);
		for (unsigned int i = 0; i < QUEUE_SIZE; i++)
			vq_push(&rig->vq, &requests[i], 1);
		vq_flush(&rig->vq);
		for (unsigned int i = 0; i < QUEUE_SIZE; i++)
			rig_take_one(rig, ids[i], 1);
	}
}

static void test_indirect_table_takes_one_descriptor(void **state)
{
	struct rig *rig = *state;
	const struct rig_buffer buffers[] = {
		{ RIG_BUFFERS, 16, false },
		{ RIG_BUFFERS + 0x100, 0x200, false },
		{ RIG_BUFFERS + 0x1000, 0x300, true },
		{ RIG_BUFFERS + 0x2000, 1, true },
	};

	rig_start(rig);
	for (unsigned int i = 0; i < 3 * QUEUE_SIZE; i++) {
		uint16_t id = rig_add_indirect(rig, RIG_TABLES, buffers, 4);

		rig_pop_one(rig, id);
		assert_int_equal(rig->request.count, 1);
		assert_int_equal(rig->request.readable, 2);
		assert_int_equal(rig->request.writable, 2);
		assert_int_equal(rig->request.readable_size, 0x210);
		assert_int_equal(rig->request.writable_size, 0x301);
		vq_push(&rig->vq, &rig->request, 0x301);
		vq_flush(&rig->vq);
		rig_take_one(rig, id, 0x301);
	}
}

/* As Linux's driver makes them. */
static void test_indirect_chain_may_be_longer_than_the_queue(void **state)
{
	struct rig *rig = *state;
	struct rig_buffer buffers[3 * QUEUE_SIZE];

	for (unsigned int i = 0; i < 3 * QUEUE_SIZE; i++)
		buffers[i] = (struct rig_buffer){ RIG_BUFFERS + 16 * i, 16,
						  i > QUEUE_SIZE };
	rig_start(rig);
	rig_add_indirect(rig, RIG_TABLES, buffers, 3 * QUEUE_SIZE);
	assert_int_equal(rig_pop(rig), 1);
	assert_int_equal(rig->request.readable + rig->request.writable,
			 3 * QUEUE_SIZE);
}

static void test_split_chain_ends_in_an_indirect_table(void **state)
{
	struct rig *rig = *state;

	rig_start(rig);
	rig_put_desc(rig, RIG_TABLES, RIG_BUFFERS + 0x100, 8, 0, 0);
	rig_put_desc(rig, RIG_RINGS, RIG_BUFFERS, 4, VRING_DESC_F_NEXT, 5);
	rig_put_desc(rig, RIG_RINGS + 16 * 5, RIG_TABLES, 16,
		     VRING_DESC_F_INDIRECT, 0);
	rig_put16(rig, RIG_DRIVER + 4, 0);
	rig_put16(rig, RIG_DRIVER + 2, 1);
	assert_int_equal(rig_pop(rig), 1);
	assert_int_equal(rig->request.count, 2);
	assert_int_equal(rig->request.readable_size, 12);
}

static void test_table_across_ram_ranges_is_read(void **state)
{
	struct rig *rig = *state;
	const struct rig_buffer buffers[] = {
		{ RIG_BUFFERS, 16, false },
		{ RIG_BUFFERS + 0x100, 32, true },
	};

	rig_start(rig);
	rig_add_indirect(rig, RIG_TABLES, buffers, 2);
	/* the second entry itself lies half and half */
	memcpy(rig_at(rig, RIG_HIGH - 24), rig_at(rig, RIG_TABLES), 24);
	memcpy(rig_at(rig, RIG_HIGH), rig_at(rig, RIG_TABLES + 24), 8);
	rig_put_desc(rig, RIG_RINGS, RIG_HIGH - 24, 32,
		     rig->driver.is_packed ? 0 : VRING_DESC_F_INDIRECT,
		     rig->driver.is_packed ? rig_get16(rig, RIG_RINGS + 14)
					   : 0);
	assert_int_equal(rig_pop(rig), 1);
	assert_int_equal(rig->request.readable_size, 16);
	assert_int_equal(rig->request.writable_size, 32);
}

static void test_buffer_across_ram_ranges_is_two_segments(void **state)
{
	struct rig *rig = *state;
	const struct rig_buffer buffer = { RIG_HIGH - 24, 64, true };

	rig_start(rig);
	rig_add(rig, &buffer, 1);
	assert_int_equal(rig_pop(rig), 1);
	assert_int_equal(rig->request.writable, 2);
	assert_int_equal(rig->request.writable_size, 64);
	assert_int_equal(rig->segments[0].size, 24);
	assert_int_equal(rig->segments[1].size, 40);
	assert_ptr_equal(rig->segments[0].block, rig->low);
	assert_ptr_equal(rig->segments[1].block, rig->high);
	assert_ptr_equal(rig->segments[1].host, rig->high->host);
}

static void test_written_part_of_buffers_and_rings_is_dirty(void **state)
{
	struct rig *rig = *state;
	const struct rig_buffer buffers[] = {
		{ RIG_BUFFERS, 16, false },
		{ RIG_BUFFERS + 0x1000, 0x3000, true },
	};
	uint64_t used = rig->driver.is_packed ? RIG_RINGS : RIG_DEVICE;

	rig_start(rig);
	rig_add(rig, buffers, 2);
	assert_int_equal(rig_pop(rig), 1);
	rig_take_dirty(rig, used);
	assert_false(rig_take_dirty(rig, RIG_BUFFERS + 0x1000));
	vq_push(&rig->vq, &rig->request, 0x1001);
	vq_flush(&rig->vq);
	assert_true(rig_take_dirty(rig, used));
	assert_false(rig_take_dirty(rig, RIG_BUFFERS));
	assert_true(rig_take_dirty(rig, RIG_BUFFERS + 0x1000));
	assert_true(rig_take_dirty(rig, RIG_BUFFERS + 0x2000));
	assert_false(rig_take_dirty(rig, RIG_BUFFERS + 0x3000));
	assert_false(rig_take_dirty(rig, RIG_DRIVER));
}

/* A queue of 1024 in which @count requests of one byte went there and back. */
static void use_large(struct rig *rig, unsigned int count)
{
	const struct rig_buffer buffer = { RIG_BUFFERS, 1, true };
	uint64_t features = rig->dev.features;

	rig_fini(rig);
	rig_init(rig, features, 1024);
	rig_start(rig);
	for (unsigned int i = 0; i < count; i++) {
		rig_add(rig, &buffer, 1);
		assert_int_equal(rig_pop(rig), 1);
		vq_push(&rig->vq, &rig->request, 1);
		vq_flush(&rig->vq);
	}
}

/* Pages of the part with the used elements that @count requests more make dirty, as
 * bits. */
static unsigned int dirty_by_batch(struct rig *rig, unsigned int count)
{
	const struct rig_buffer buffer = { RIG_BUFFERS, 1, true };
	uint64_t ring = rig->driver.is_packed ? RIG_RINGS : RIG_DEVICE;
	unsigned int pages = 0;

	for (unsigned int i = 0; i < count; i++)
		rig_add(rig, &buffer, 1);
	while (rig_pop(rig) > 0)
		vq_push(&rig->vq, &rig->request, 1);
	for (unsigned int i = 0; i < 8; i++)
		rig_take_dirty(rig, ring + RAM_PAGE_SIZE * i);
	vq_flush(&rig->vq);
	for (unsigned int i = 0; i < 8; i++)
		pages |= (unsigned int)rig_take_dirty(rig,
						      ring + RAM_PAGE_SIZE * i)
			 << i;
	return pages;
}

/* Used elements: of 8 bytes behind the index (split), or descriptors. */
static void test_used_elements_are_dirty_and_no_page_beside(void **state)
{
	struct rig *rig = *state;

	use_large(rig, 600);
	assert_int_equal(dirty_by_batch(rig, 1),
			 rig->driver.is_packed ? 0x4 : 0x3);
}

static void test_batch_across_the_rings_end_is_dirty(void **state)
{
	struct rig *rig = *state;

	use_large(rig, 1000);
	assert_int_equal(dirty_by_batch(rig, 1000),
			 rig->driver.is_packed ? 0xf : 0x7);
}

static void test_what_was_put_back_comes_again(void **state)
{
	struct rig *rig = *state;
	struct vq_request first, second;

	rig_start(rig);
	for (unsigned int round = 0; round < 3 * QUEUE_SIZE; round++) {
		uint16_t id = rig_add_one(rig), next = rig_add_one(rig);

		rig_pop_one(rig, id);
		first = rig->request;
		rig_pop_one(rig, next);
		second = rig->request;
		assert_int_equal(rig_pop(rig), 0);
		vq_unpop(&rig->vq, &second);
		vq_unpop(&rig->vq, &first);
		rig_pop_one(rig, id);
		vq_push(&rig->vq, &rig->request, 0);
		rig_pop_one(rig, next);
		vq_push(&rig->vq, &rig->request, 0);
		vq_flush(&rig->vq);
		rig_take_one(rig, id, 0);
		rig_take_one(rig, next, 0);
	}
}

static void test_queue_goes_on_where_it_was(void **state)
{
	struct rig *rig = *state;

	for (unsigned int i = 0; i < 5 * QUEUE_SIZE; i++) {
		rig_start(rig);
		rig_pass_one(rig);
	}
}

static void test_rings_follow_memory_that_moves(void **state)
{
	struct rig *rig = *state;
	uint16_t id;

	rig_start(rig);
	rig_pass_one(rig);
	/* What was at 0 is at 16 MiB, and there is nothing at 0. */
	mem_region_set_offset(rig->low_region, 0x1000000);
	assert_int_equal(rig_pop(rig), -EFAULT);
	vq_flush(&rig->vq);
	assert_true(vq_want_kicks(&rig->vq));
	mem_region_set_offset(rig->low_region, 0);
	assert_int_equal(rig_pop(rig), 0);
	rig_pass_one(rig);
	/* Gone while a request is in flight: nothing is written anywhere. */
	id = rig_add_one(rig);
	rig_pop_one(rig, id);
	mem_region_set_enabled(rig->low_region, false);
	vq_push(&rig->vq, &rig->request, 1);
	vq_flush(&rig->vq);
	mem_region_set_enabled(rig->low_region, true);
	rig_take_none(rig);
}

static void test_copies_span_segments(void **state)
{
	struct rig *rig = *state;
	const struct rig_buffer buffers[] = {
		{ RIG_BUFFERS, 3, false },
		{ RIG_BUFFERS + 0x100, 5, false },
		{ RIG_BUFFERS + 0x1000, 2, true },
		{ RIG_BUFFERS + 0x1100, 4, true },
	};
	struct iovec iovecs[4];
	char text[16] = "";

	memcpy(rig_at(rig, RIG_BUFFERS), "abc", 3);
	memcpy(rig_at(rig, RIG_BUFFERS + 0x100), "defgh", 5);
	rig_start(rig);
	rig_add(rig, buffers, 4);
	assert_int_equal(rig_pop(rig), 1);
	assert_int_equal(vq_read(&rig->request, 1, text, 15), 7);
	assert_string_equal(text, "bcdefgh");
	assert_int_equal(vq_read(&rig->request, 8, text, 15), 0);
	assert_int_equal(vq_read(&rig->request, 99, text, 15), 0);
	assert_int_equal(vq_read(&rig->request, 2, text, 3), 3);
	assert_memory_equal(text, "cde", 3);
	assert_int_equal(vq_write(&rig->request, 1, "WXYZ!?", 6), 5);
	assert_memory_equal(rig_at(rig, RIG_BUFFERS + 0x1000), "\0W", 3);
	assert_memory_equal(rig_at(rig, RIG_BUFFERS + 0x1100), "XYZ!", 5);
	assert_int_equal(vq_iovecs(&rig->request, false, 4, iovecs, 4), 1);
	assert_ptr_equal(iovecs[0].iov_base, rig_at(rig, RIG_BUFFERS + 0x101));
	assert_int_equal(iovecs[0].iov_len, 4);
	assert_int_equal(vq_iovecs(&rig->request, true, 0, iovecs, 4), 2);
	assert_int_equal(iovecs[1].iov_len, 4);
	assert_int_equal(vq_iovecs(&rig->request, true, 0, iovecs, 1), 1);
	assert_int_equal(vq_iovecs(&rig->request, true, 6, iovecs, 4), 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST_BOTH(test_request_goes_there_and_back),
		TEST_BOTH(test_requests_are_there_before_the_start),
		TEST_BOTH(test_requests_complete_in_any_order),
		TEST_BOTH(test_indices_wrap),
		TEST_BOTH(test_whole_ring_is_in_flight),
		TEST_BOTH(test_indirect_table_takes_one_descriptor),
		TEST_BOTH(test_indirect_chain_may_be_longer_than_the_queue),
		TEST_OF(test_split_chain_ends_in_an_indirect_table, split),
		TEST_BOTH(test_table_across_ram_ranges_is_read),
		TEST_BOTH(test_buffer_across_ram_ranges_is_two_segments),
		TEST_BOTH(test_written_part_of_buffers_and_rings_is_dirty),
		TEST_BOTH(test_used_elements_are_dirty_and_no_page_beside),
		TEST_BOTH(test_batch_across_the_rings_end_is_dirty),
		TEST_BOTH(test_what_was_put_back_comes_again),
		TEST_BOTH(test_queue_goes_on_where_it_was),
		TEST_BOTH(test_rings_follow_memory_that_moves),
		TEST_BOTH(test_copies_span_segments),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
