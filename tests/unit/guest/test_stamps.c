/* SPDX-License-Identifier: Apache-2.0 */
/* Stamps of sectors and frames: whatever happens to one, it is noticed. */
#include <cmocka.h>
#include <string.h>

#include "guest/frame.h"
#include "guest/inet.h"
#include "guest/sector.h"

static const struct sector_stamp stamp = { 3, 1000, 77 };
static const struct frame_mac from = { { 2, 0, 0, 0, 0, 1 } };
static const struct frame_mac to = { { 2, 0, 0, 0, 0, 2 } };

static enum sector_fault judge(const uint64_t *words,
			       struct sector_stamp *ret_found)
{
	assert_false(sector_is_good(words, &stamp));
	return sector_judge(words, &stamp, ret_found);
}

static void test_every_flipped_bit_of_a_sector_is_noticed(void **state)
{
	uint64_t words[SECTOR_WORDS];
	struct sector_stamp found;

	(void)state;
	sector_write(words, &stamp);
	assert_true(sector_is_good(words, &stamp));
	for (int bit = 0; bit < SECTOR_SIZE * 8; bit++) {
		words[bit / 64] ^= 1ULL << bit % 64;
		assert_int_equal(judge(words, &found), SECTOR_CORRUPT);
		words[bit / 64] ^= 1ULL << bit % 64;
	}
}

static void test_sector_of_another_time_is_stale(void **state)
{
	struct sector_stamp old = stamp, found;
	uint64_t words[SECTOR_WORDS];

	(void)state;
	old.sequence = 76;
	sector_write(words, &old);
	assert_int_equal(judge(words, &found), SECTOR_STALE);
	assert_int_equal(found.sequence, 76);
}

static void test_sector_of_another_place_or_disk_is_misplaced(void **state)
{
	struct sector_stamp other = stamp, found;
	uint64_t words[SECTOR_WORDS];

	(void)state;
	other.sector = 1001;
	sector_write(words, &other);
	assert_int_equal(judge(words, &found), SECTOR_MISPLACED);
	assert_int_equal(found.sector, 1001);
	other = stamp;
	other.disk = 4;
	sector_write(words, &other);
	assert_int_equal(judge(words, &found), SECTOR_MISPLACED);
	assert_int_equal(found.disk, 4);
}

static void test_sector_cut_anywhere_is_torn(void **state)
{
	struct sector_stamp old = stamp, found;
	uint64_t before[SECTOR_WORDS], words[SECTOR_WORDS];

	(void)state;
	old.sequence = 70;
	sector_write(before, &old);
	/* Up to its third word a sector says nothing of itself. */
	for (size_t cut = 4; cut < SECTOR_WORDS - 1; cut++) {
		sector_write(words, &stamp);
		memcpy(words, before, cut * sizeof(words[0]));
		assert_int_equal(judge(words, &found), SECTOR_TORN);
		assert_int_equal(found.sequence, 70);
	}
}

static void test_zeroes_where_a_sector_was_are_lost(void **state)
{
	uint64_t words[SECTOR_WORDS] = { 0 };
	struct sector_stamp found;

	(void)state;
	assert_true(sector_is_zero(words));
	assert_int_equal(judge(words, &found), SECTOR_LOST);
	words[63] = 1;
	assert_false(sector_is_zero(words));
}

static void test_every_flipped_bit_of_a_frame_is_noticed(void **state)
{
	static const uint32_t sizes[] = { 60, 61, 67, 512, 1514 };
	_Alignas(8) uint8_t frame[1600];
	struct frame_stamp found;

	(void)state;
	for (int i = 0; i < 5; i++) {
		const struct frame_stamp sent = { .sequence = 5,
						  .flow = 9,
						  .size = sizes[i] };

		frame_write(frame, &to, &from, &sent);
		assert_true(frame_is_stamped(frame, sizes[i]));
		assert_true(frame_check(frame, sizes[i], &found));
		assert_int_equal(found.sequence, 5);
		assert_int_equal(found.flow, 9);
		for (uint32_t bit = 16 * 8; bit < sizes[i] * 8; bit++) {
			frame[bit / 8] ^= (uint8_t)(1 << bit % 8);
			assert_false(frame_check(frame, sizes[i], &found));
			frame[bit / 8] ^= (uint8_t)(1 << bit % 8);
		}
		assert_false(frame_check(frame, sizes[i] - 1, &found));
	}
}

static void test_padded_frame_is_whole(void **state)
{
	const struct frame_stamp sent = { .sequence = 1,
					  .flow = 1,
					  .size = 60 };
	_Alignas(8) uint8_t frame[64] = { 0 };
	struct frame_stamp found;

	(void)state;
	frame_write(frame, &to, &from, &sent);
	assert_true(frame_check(frame, 64, &found));
	frame_swap_macs(frame);
	assert_true(frame_is_to(frame, &from));
	assert_true(frame_check(frame, 64, &found));
}

static void test_arp_request_for_the_host_is_answered(void **state)
{
	static const uint8_t request[FRAME_MIN] = {
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0,  1, 8, 6,
		0,    1,    8,    0,    6,    4,    0, 1, 2, 0, 0,  0, 0, 1,
		10,   0,    0,    1,    0,    0,    0, 0, 0, 0, 10, 0, 0, 2
	};
	static const uint8_t expected[42] = { 2, 0, 0, 0, 0, 1,  2,  0, 0, 0, 0,
					      2, 8, 6, 0, 1, 8,  0,  6, 4, 0, 2,
					      2, 0, 0, 0, 0, 2,  10, 0, 0, 2, 2,
					      0, 0, 0, 0, 1, 10, 0,  0, 1 };
	struct inet_host host = { to, 0x0a000002 };
	uint8_t answer[FRAME_MIN];
	uint32_t size = 0;

	(void)state;
	assert_int_equal(
		inet_answer(&host, request, sizeof(request), answer, &size),
		INET_ARP);
	assert_int_equal(size, FRAME_MIN);
	assert_memory_equal(answer, expected, sizeof(expected));
	host.ip++;
	assert_int_equal(
		inet_answer(&host, request, sizeof(request), answer, &size),
		INET_NONE);
}

static uint16_t sum_of(const uint8_t *at, size_t size)
{
	uint32_t sum = 0;

	for (size_t i = 0; i < size; i += 2)
		sum += (uint32_t)(at[i] << 8 | at[i + 1]);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

static void test_ping_is_answered_with_its_own_data(void **state)
{
	uint8_t request[98] = { 2,    0, 0,  0,  0, 2, 2, 0, 0, 0, 0, 1, 8,  0,
				0x45, 0, 0,  84, 1, 2, 0, 0, 9, 1, 0, 0, 10, 0,
				0,    1, 10, 0,  0, 2, 8, 0, 0, 0, 1, 2 };
	const struct inet_host host = { to, 0x0a000002 };
	uint8_t answer[98];
	uint32_t size = 0;

	(void)state;
	for (int i = 40; i < 98; i++)
		request[i] = (uint8_t)i;
	assert_int_equal(inet_answer(&host, request, 98, answer, &size),
			 INET_PING);
	assert_int_equal(size, 98);
	assert_int_equal(answer[34], 0);
	assert_memory_equal(answer + 38, request + 38, 60);
	assert_memory_equal(answer + 26, request + 30, 4);
	assert_memory_equal(answer + 30, request + 26, 4);
	assert_int_equal(sum_of(answer + 14, 20), 0xffff);
	assert_int_equal(sum_of(answer + 34, 64), 0xffff);
	/* One that says it is longer than it is. */
	request[16] = 1;
	assert_int_equal(inet_answer(&host, request, 98, answer, &size),
			 INET_NONE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_flipped_bit_of_a_sector_is_noticed),
		cmocka_unit_test(test_sector_of_another_time_is_stale),
		cmocka_unit_test(
			test_sector_of_another_place_or_disk_is_misplaced),
		cmocka_unit_test(test_sector_cut_anywhere_is_torn),
		cmocka_unit_test(test_zeroes_where_a_sector_was_are_lost),
		cmocka_unit_test(test_every_flipped_bit_of_a_frame_is_noticed),
		cmocka_unit_test(test_padded_frame_is_whole),
		cmocka_unit_test(test_arp_request_for_the_host_is_answered),
		cmocka_unit_test(test_ping_is_answered_with_its_own_data),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
