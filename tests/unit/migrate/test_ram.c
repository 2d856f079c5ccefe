// SPDX-License-Identifier: Apache-2.0
/*
 * RAM from a source to a destination: the invariants D1 and D4 of dirty
 * tracking, holes, zero pages, and runs that a hostile peer tells.
 */
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "ram_pair.h"

#define ROUNDS          3000
#define THREADED_ROUNDS 300

static void write_some(struct pair *pair, unsigned int count)
{
	while (count--) {
		uint32_t block = pair_rand(pair) % 4 ? 0 : 2;
		uint64_t page = pair_rand(pair) % block_pages[block];

		/* a third of them zero */
		guest_write(pair, block, page,
			    pair_rand(pair) % 3 ? pair_rand(pair) : 0);
	}
}

static uint64_t dirty_pages(const struct pair *pair)
{
	uint64_t count = 0;

	for (int i = 0; i < BLOCKS; i++)
		count += bitmap_count(pair->from.blocks[i]->dirty, 0,
				      block_pages[i]);
	return count;
}

static uint64_t value_at(const struct side *side, uint32_t block, uint64_t page)
{
	uint64_t value;

	memcpy(&value, page_at(side, block, page), sizeof(value));
	return value;
}

/* ---- rounds ---- */

static void test_all_that_was_touched_arrives(void **state)
{
	struct pair *pair = *state;

	write_some(pair, 500);
	guest_write(pair, 0, 2089, 7);
	guest_write(pair, 1, 0, 8);
	guest_write(pair, 2, 69, 9);
	pair_start(pair, false);
	assert_int_equal(pair_round(pair), resident_pages(&pair->from));
	assert_true(pair_is_same(pair));
	assert_int_equal(pair->send.watch.known_pages,
			 resident_pages(&pair->from));
	assert_int_equal(pair->recv_pages, pair->send.pages);
	assert_int_equal(pair->recv_zero_pages, pair->send.zero_pages);
	/* Each window has a page that was touched, and is watched as a whole. */
	assert_int_equal(pair->cleared_pages, 2090 + 1 + 70);
	assert_int_equal(pair_last_round(pair), 0);
}

static void test_each_log_is_asked_once_a_sync(void **state)
{
	struct pair *pair = *state;

	pair_start(pair, false);
	assert_int_equal(pair->starts, 1);
	for (unsigned int i = 1; i < 5; i++) {
		ram_send_sync(&pair->send, false);
		assert_int_equal(pair->syncs, i);
		assert_false(pair->was_last);
	}
	ram_send_sync(&pair->send, true);
	assert_int_equal(pair->syncs, 5);
	assert_true(pair->was_last);
	ram_send_stop(&pair->send, 7);
	assert_int_equal(pair->stops, 1);
	assert_int_equal(pair->grace_ns, 7);
}

static void test_a_page_written_after_its_send_is_sent_again(void **state)
{
	struct pair *pair = *state;

	guest_write(pair, 0, 100, 1);
	guest_write(pair, 0, 101, 1);
	pair_start(pair, false);
	assert_int_equal(pair_round(pair), 2);
	assert_int_equal(pair_round(pair), 0);
	guest_write(pair, 0, 100, 2);
	assert_int_equal(value_at(&pair->to, 0, 100), 1);
	assert_int_equal(pair_round(pair), 1);
	assert_int_equal(value_at(&pair->to, 0, 100), 2);
	assert_int_equal(pair->send.pages, 3);
}

static void test_a_page_first_touched_in_a_later_round_arrives(void **state)
{
	struct pair *pair = *state;

	pair_start(pair, false);
	assert_int_equal(pair_round(pair), 0);
	/* Not even the log heard of this one. */
	guest_store(page_at(&pair->from, 0, 64), 1);
	guest_write(pair, 2, 3, 1);
	assert_int_equal(pair_round(pair), 2);
	assert_true(pair_is_same(pair));
}

static void test_a_device_write_arrives(void **state)
{
	struct pair *pair = *state;

	guest_write(pair, 0, 5, 1);
	pair_start(pair, false);
	pair_round(pair);
	guest_store(page_at(&pair->from, 0, 5), 2);
	ram_block_mark_dirty(pair->from.blocks[0], (5 << 12) + 4000, 200);
	guest_store(page_at(&pair->from, 0, 6), 2);
	assert_int_equal(pair_last_round(pair), 2);
	assert_true(pair_is_same(pair));
}

static void write_at_random(struct pair *pair, uint32_t block, uint64_t page)
{
	if (pair_rand(pair) % 8 == 0)
		guest_write(pair, block, page, pair_rand(pair));
	else if (pair_rand(pair) % 64 == 0)
		write_some(pair, 3);
}

static void go_random_rounds(struct pair *pair, bool is_checked)
{
	pair->before_clear = pair->after_clear = write_at_random;
	write_some(pair, 200);
	pair_start(pair, is_checked);
	for (int i = 1; i <= ROUNDS; i++) {
		write_some(pair, pair_rand(pair) % 20);
		pair_round(pair);
		if (i % 500)
			continue;
		pair_last_round(pair);
		assert_true(pair_is_same(pair));
	}
	assert_true(resident_pages(&pair->from) > 1000);
}

static void
test_after_thousands_of_random_rounds_both_sides_are_the_same(void **state)
{
	struct pair *pair = *state;

	go_random_rounds(pair, false);
	assert_true(pair->unchecked > ROUNDS / 2);
	assert_true(pair->checked > 0);
}

static void test_with_copied_and_checked_pages_too(void **state)
{
	struct pair *pair = *state;

	go_random_rounds(pair, true);
	assert_int_equal(pair->unchecked, 0);
	assert_true(pair->checked > ROUNDS / 2);
}

struct guest {
	struct pair *pair;
	pthread_t thread;
	bool is_over; /* atomic */
	uint32_t seed;
};

static void *guest_thread(void *opaque)
{
	struct guest *guest = opaque;
	uint64_t value = 1;

	while (!__atomic_load_n(&guest->is_over, __ATOMIC_ACQUIRE)) {
		uint32_t r = guest->seed = guest->seed * 1664525u + 1013904223u;
		uint32_t block = r >> 30 ? 0 : 2;

		guest_write(guest->pair, block, (r >> 8) % block_pages[block],
			    r & 0x80 ? value++ : 0);
		if ((r >> 8) % 16 == 0)
			sched_yield();
	}
	return NULL;
}

static void test_a_guest_that_runs_meanwhile_arrives_whole(void **state)
{
	struct pair *pair = *state;
	struct guest guest = { .pair = pair, .seed = 5 };

	pair_start(pair, false);
	pthread_create(&guest.thread, NULL, guest_thread, &guest);
	for (int i = 0; i < THREADED_ROUNDS || pair->send.pages < 1000; i++) {
		pair_round(pair);
		sched_yield();
	}
	__atomic_store_n(&guest.is_over, true, __ATOMIC_RELEASE);
	pthread_join(guest.thread, NULL);
	pair_last_round(pair);
	assert_true(pair_is_same(pair));
}

/* ---- D1 ---- */

/* Not to holes, which are watched with them. */
static void write_42(struct pair *pair, uint32_t block, uint64_t page)
{
	uint64_t at = page << RAM_PAGE_SHIFT;

	if (ram_block_find_data(pair->from.blocks[block], at,
				at + RAM_PAGE_SIZE, &at))
		guest_write(pair, block, page, 42);
}

static void clear_is_before_the_read(struct pair *pair, bool is_checked)
{
	guest_write(pair, 0, 1000, 1);
	guest_write(pair, 0, 1001, 0);
	pair_start(pair, is_checked);
	/* These writes' bits go with the clear. */
	pair->before_clear = write_42;
	assert_int_equal(pair_round(pair), 2);
	assert_int_equal(value_at(&pair->to, 0, 1000), 42);
	assert_int_equal(value_at(&pair->to, 0, 1001), 42);
	assert_int_equal(pair_round(pair), 0);
	assert_int_equal(pair->clears, 1);
}

static void test_a_page_is_watched_again_before_it_is_read(void **state)
{
	clear_is_before_the_read(*state, false);
}

static void test_a_page_is_watched_again_before_it_is_copied(void **state)
{
	clear_is_before_the_read(*state, true);
}

static void
test_a_write_after_the_clear_is_reported_by_the_next_sync(void **state)
{
	struct pair *pair = *state;

	guest_write(pair, 0, 1000, 1);
	guest_write(pair, 2, 1, 1);
	pair_start(pair, false);
	pair->after_clear = write_42;
	assert_int_equal(pair_round(pair), 2);
	pair->after_clear = NULL;
	assert_int_equal(pair_round(pair), 2);
	assert_int_equal(pair_round(pair), 0);
	assert_true(pair_is_same(pair));
}

static void
test_a_stopped_guest_is_not_watched_again_and_always_checked(void **state)
{
	struct pair *pair = *state;

	write_some(pair, 300);
	guest_write(pair, 0, 0, 1);
	pair_start(pair, false);
	pair_last_round(pair);
	assert_int_equal(pair->clears, 0);
	assert_int_equal(pair->unchecked, 0);
	assert_true(pair->checked > 0);
	assert_true(pair_is_same(pair));
}

/* ---- tests of the tests ---- */

static void test_one_lost_dirty_bit_is_seen_by_the_comparison(void **state)
{
	struct pair *pair = *state;

	write_some(pair, 300);
	guest_write(pair, 0, 77, 1);
	pair_start(pair, false);
	pair_round(pair);
	assert_true(pair_is_same(pair));
	guest_store(page_at(&pair->from, 0, 77), 2);
	assert_int_equal(pair_last_round(pair), 0);
	assert_false(pair_is_same(pair));
}

static bool is_same_after_a_write_behind_the_read(struct pair *pair,
						  bool is_clear_late)
{
	guest_write(pair, 0, 77, 1);
	pair_start(pair, false);
	pair->is_clear_late = is_clear_late;
	pair->is_writing_between = true;
	pair_round(pair);
	pair->is_writing_between = false;
	assert_int_equal(pair_last_round(pair), !is_clear_late);
	return pair_is_same(pair);
}

static void test_a_write_right_behind_the_read_arrives(void **state)
{
	assert_true(is_same_after_a_write_behind_the_read(*state, false));
}

static void test_a_log_that_clears_after_the_read_loses_that_write(void **state)
{
	assert_false(is_same_after_a_write_behind_the_read(*state, true));
}

/* ---- D4 ---- */

static int stop_at_once(void *opaque, uint64_t pages, struct err *err)
{
	(void)opaque;
	(void)pages;
	return err_set(err, -ECANCELED, "stop");
}

static void test_a_cancelled_pass_keeps_what_it_did_not_send(void **state)
{
	struct pair *pair = *state;
	struct err err = ERR_INIT;

	for (uint64_t page = 0; page < 2090; page++)
		guest_write(pair, 0, page, page + 1);
	pair_start(pair, false);
	assert_int_equal(ram_send_sync(&pair->send, false), 2090);
	assert_int_equal(
		ram_send_pass(&pair->send, false, stop_at_once, NULL, &err),
		-ECANCELED);
	assert_int_equal(dirty_pages(pair), 2090 - 1024);
	assert_int_equal(bitmap_next_set(pair->from.blocks[0]->dirty, 0, 2090),
			 1024);
	/* and the next pass sends it */
	pair_pass(pair, false);
	assert_true(pair_is_same(pair));
}

static void test_pages_that_nobody_can_watch_are_not_sent(void **state)
{
	struct pair *pair = *state;
	struct err err = ERR_INIT;
	uint64_t dirty;

	write_some(pair, 100);
	pair_start(pair, false);
	dirty = ram_send_sync(&pair->send, false);
	pair->is_clear_refused = true;
	assert_int_equal(
		ram_send_pass(&pair->send, false, pair_between, pair, &err),
		-EIO);
	assert_string_equal(err_msg(&err), "nobody watches");
	assert_int_equal(pair->send.pages + pair->send.zero_pages, 0);
	assert_int_equal(dirty_pages(pair), dirty);
	pair->is_clear_refused = false;
	pair_pass(pair, false);
	assert_true(pair_is_same(pair));
}

/* What goes into a socket that nobody reads; then the send fails inside a
 * record. */
static void test_a_failed_send_gives_its_bits_back(void **state)
{
	struct pair *pair = *state;
	int fds[2], small = 65536;
	struct err err = ERR_INIT;
	uint64_t sent = 0;
	uint64_t was_dirty;

	assert_int_equal(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	for (uint64_t page = 0; page < 2090; page++)
		guest_write(pair, 0, page, page % 2 ? page : 0);
	guest_write(pair, 1, 0, 1);
	pair_start(pair, false);
	was_dirty = ram_send_sync(&pair->send, false);
	close(pair->out.fd);
	pair->out.fd = fds[0];
	pair->out.is_socket = true;
	pair->out.deadline_ns = 1;
	assert_int_equal(
		ram_send_pass(&pair->send, false, pair_between, pair, &err),
		-ETIMEDOUT);
	assert_int_equal(dirty_pages(pair), was_dirty);

	/* Again as long as the peer reads: what arrived whole is no longer
	 * dirty, and the rest is, page by page. */
	channel_close(&pair->in);
	pair->in.fd = fds[1];
	pair->in.is_socket = true;
	pair->in.deadline_ns = 1;
	assert_int_equal(shutdown(fds[0], SHUT_WR), 0);
	while (record_recv(&pair->in, &pair->record, NULL) == 0 &&
	       take_record(pair, NULL) == 0)
		sent++;
	for (uint64_t page = 0; page < 2090; page++) {
		if (!bitmap_test(pair->from.blocks[0]->dirty, page))
			assert_memory_equal(page_at(&pair->from, 0, page),
					    page_at(&pair->to, 0, page),
					    RAM_PAGE_SIZE);
	}
	assert_int_equal(sent, 1); /* the zero pages of the first window */
	assert_int_equal(
		ram_send_pass(&pair->send, false, pair_between, pair, &err),
		-EPIPE);
	assert_int_equal(dirty_pages(pair), was_dirty);
}

static void
test_a_page_dirtied_during_a_failed_send_stays_dirty_once(void **state)
{
	struct pair *pair = *state;
	int full = open("/dev/full", O_WRONLY | O_CLOEXEC), stream;

	guest_write(pair, 0, 3, 1);
	pair_start(pair, false);
	ram_send_sync(&pair->send, false);
	pair->after_clear = write_42;
	stream = pair->out.fd;
	pair->out.fd = full;
	assert_int_equal(
		ram_send_pass(&pair->send, false, pair_between, pair, NULL),
		-ENOSPC);
	pair->out.fd = stream;
	close(full);
	pair->after_clear = NULL;
	assert_int_equal(ram_send_sync(&pair->send, false), 1);
	pair_pass(pair, false);
	assert_true(pair_is_same(pair));
}

static void
test_a_second_user_of_the_logs_is_refused_and_harms_nobody(void **state)
{
	struct pair *pair = *state;
	struct ram_send *other = calloc(1, sizeof(*other));
	struct err err = ERR_INIT;

	write_some(pair, 100);
	pair_start(pair, false);
	ram_send_sync(&pair->send, false);
	assert_int_equal(
		ram_send_start(other, pair->from.mem, &pair->out, true, &err),
		-EBUSY);
	ram_send_stop(other, 0);
	free(other);
	assert_int_equal(pair->stops, 0);
	assert_int_equal(dirty_pages(pair), resident_pages(&pair->from));
	pair_pass(pair, false);
	assert_int_equal(pair_round(pair), 0);
	assert_true(pair_is_same(pair));
}

static void test_a_new_start_sends_all_again(void **state)
{
	struct pair *pair = *state;
	uint64_t resident;

	write_some(pair, 100);
	resident = resident_pages(&pair->from);
	for (int i = 0; i < 3; i++) {
		pair_start(pair, false);
		assert_int_equal(pair_round(pair), resident);
		ram_send_stop(&pair->send, 0);
	}
}

/* ---- holes and zeroes ---- */

static void write_hole(struct pair *pair, uint32_t block, uint64_t page)
{
	if (block == 0 && page == 101)
		guest_write(pair, block, page, 42);
}

/* Every other page was touched. */
static void start_with_holes(struct pair *pair)
{
	for (uint64_t page = 0; page < block_pages[0]; page += 2)
		guest_write(pair, 0, page, 1);
	pair_start(pair, false);
}

static void test_holes_near_what_was_sent_are_not_looked_for_again(void **state)
{
	struct pair *pair = *state;
	struct ram_block *block = pair->from.blocks[0];

	start_with_holes(pair);
	assert_int_equal(pair_round(pair), block->pages / 2);
	assert_int_equal(ram_block_next_unknown(block, 0), block->pages);
	assert_int_equal(pair->send.watch.known_pages, block->pages / 2);
	assert_int_equal(pair_round(pair), 0);
	/* The log tells. */
	write_hole(pair, 0, 101);
	assert_int_equal(pair_round(pair), 1);
	assert_true(pair_is_same(pair));
}

static void test_hole_written_before_it_is_watched_is_sent(void **state)
{
	struct pair *pair = *state;

	start_with_holes(pair);
	pair->before_clear = write_hole; /* the bit goes with the clear */
	pair_round(pair);
	pair->before_clear = NULL;
	assert_int_equal(pair_round(pair), 1);
	assert_int_equal(value_at(&pair->to, 0, 101), 42);
	assert_int_equal(pair->send.watch.known_pages,
			 resident_pages(&pair->from));
}

static void test_hole_written_after_it_is_watched_is_sent(void **state)
{
	struct pair *pair = *state;

	start_with_holes(pair);
	pair->after_clear = write_hole;
	pair_round(pair);
	pair->after_clear = NULL;
	pair_round(pair);
	assert_int_equal(value_at(&pair->to, 0, 101), 42);
}

static void test_holes_are_neither_read_nor_sent(void **state)
{
	struct pair *pair = *state;
	uint64_t start, end;

	guest_write(pair, 0, 100, 1);
	guest_write(pair, 0, 2000, 1);
	pair_start(pair, false);
	pair_round(pair);
	pair_last_round(pair);
	/* Of both windows: [64, 1088) and [1984, 2090). */
	assert_int_equal(pair->cleared_pages, 1024 + 106);
	assert_int_equal(pair->send.pages, 2);
	assert_int_equal(pair->send.zero_pages, 0);
	for (int i = 0; i < 2; i++) {
		const struct side *side = i ? &pair->to : &pair->from;

		assert_int_equal(resident_pages(side), 2);
		assert_true(ram_block_next_data(side->blocks[0], 0, UINT64_MAX,
						&start, &end));
		assert_int_equal(start, 100 << 12);
		assert_int_equal(end, 101 << 12);
	}
}

static void test_a_zero_page_over_a_hole_stays_a_hole(void **state)
{
	struct pair *pair = *state;

	guest_write(pair, 0, 10, 0);
	guest_write(pair, 2, 69, 0);
	pair_start(pair, false);
	assert_int_equal(pair_round(pair), 2);
	assert_int_equal(pair->recv_zero_pages, 2);
	assert_int_equal(resident_pages(&pair->from), 2);
	assert_int_equal(resident_pages(&pair->to), 0);
	assert_true(pair_is_same(pair));
}

static void test_a_zero_page_over_data_is_zero(void **state)
{
	static const uint8_t zeroes[RAM_PAGE_SIZE];
	struct pair *pair = *state;

	memset(page_at(&pair->from, 0, 10), 0xff, 2 * RAM_PAGE_SIZE);
	pair_start(pair, false);
	pair_round(pair);
	memset(page_at(&pair->from, 0, 10), 0, RAM_PAGE_SIZE);
	guest_write(pair, 0, 10, 0);
	assert_int_equal(pair_round(pair), 1);
	assert_int_equal(pair->recv_zero_pages, 1);
	assert_memory_equal(page_at(&pair->to, 0, 10), zeroes, RAM_PAGE_SIZE);
	assert_int_equal(*page_at(&pair->to, 0, 11), 0xff);
}

static void test_one_byte_makes_a_page_data(void **state)
{
	struct pair *pair = *state;

	page_at(&pair->from, 0, 10)[4095] = 1;
	page_at(&pair->from, 0, 11)[0] = 1;
	pair_start(pair, false);
	pair_round(pair);
	assert_int_equal(pair->recv_pages, 2);
	assert_true(pair_is_same(pair));
}

/* ---- what a hostile peer tells ---- */

#define RUNS_MAX 4

struct told {
	uint32_t block, flags, runs, reserved;
	uint64_t run[RUNS_MAX][2];
	uint64_t pages; /* behind the runs */
	const char *reason;
};

static int tell(struct pair *pair, uint32_t type, const struct told *told,
		struct err *err)
{
	struct fmt_ram head = { le32_of(told->block), le32_of(told->flags),
				le32_of(told->runs), le32_of(told->reserved) };
	struct bytes_writer body = { .data = NULL }, w = { .data = NULL };
	struct fmt_record *record;
	uint32_t length;
	int ret;

	bytes_put(&body, &head, sizeof(head));
	for (uint32_t i = 0; i < told->runs && i < RUNS_MAX; i++) {
		bytes_put_u64(&body, told->run[i][0]);
		bytes_put_u64(&body, told->run[i][1]);
	}
	/* The hash covers no pages here. */
	length = (uint32_t)(body.size + (told->pages << 12));
	if (type == FMT_RAM) {
		XXH3_state_t *hasher = XXH3_createState();

		bytes_put_space(&w, sizeof(*record));
		record = (struct fmt_record *)w.data;
		record->type = le32_of(type);
		record->length = le32_of(length);
		XXH3_64bits_reset(hasher);
		XXH3_64bits_update(hasher, record, 8);
		XXH3_64bits_update(hasher, body.data, body.size);
		record->hash = le64_of(XXH3_64bits_digest(hasher));
		XXH3_freeState(hasher);
		bytes_put(&w, body.data, body.size);
		memset(bytes_put_space(&w, told->pages << 12), 0x77,
		       told->pages << 12);
	} else {
		record_put(&w, type, body.data, body.size);
	}
	ret = stream_flush(&pair->out, &w, err);
	if (!ret)
		ret = pair_receive(pair, err);
	bytes_writer_fini(&body);
	bytes_writer_fini(&w);
	return ret;
}

static const struct told bad_runs[] = {
	{ 3, 0, 1, 0, { { 0, 1 } }, 1, "no RAM block 3" },
	{ UINT32_MAX, 0, 1, 0, { { 0, 1 } }, 1, "no RAM block" },
	{ 0, 0, 1, 1, { { 0, 1 } }, 1, "reserved" },
	{ 0, 2, 1, 0, { { 0, 1 } }, 1, "reserved" },
	{ 0, 0, 1, 0, { { 0, 0 } }, 0, "not in order" },
	{ 0, 0, 1, 0, { { 2090, 1 } }, 1, "not in order" },
	{ 0, 0, 1, 0, { { 2089, 2 } }, 2, "not in order" },
	{ 1, 0, 1, 0, { { 1, 1 } }, 1, "not in order" },
	{ 0, 0, 1, 0, { { UINT64_MAX, 1 } }, 1, "not in order" },
	{ 0, 0, 1, 0, { { 1, UINT64_MAX } }, 1, "not in order" },
	{ 0, 0, 1, 0, { { 1ull << 52, 1 } }, 1, "not in order" },
	{ 0, 0, 2, 0, { { 5, 2 }, { 6, 1 } }, 3, "not in order" },
	{ 0, 0, 2, 0, { { 5, 1 }, { 5, 1 } }, 2, "not in order" },
	{ 0, 0, 2, 0, { { 5, 1 }, { 4, 1 } }, 2, "not in order" },
	{ 0, 0, 3, 0, { { 1, 1 }, { 9, 1 }, { 7, 1 } }, 3, "not in order" },
};

static void assert_refused(struct pair *pair, uint32_t type,
			   const struct told *told, const char *reason)
{
	struct err err = ERR_INIT;
	int ret = tell(pair, type, told, &err);

	if (ret != -EBADMSG || !strstr(err_msg(&err), reason))
		fail_msg("%d, '%s' has no '%s'", ret, err_msg(&err), reason);
	assert_int_equal(err.code, ret);
	assert_int_equal(resident_pages(&pair->to), 0);
}

static void
test_runs_that_are_not_ascending_inside_a_block_are_refused(void **state)
{
	struct pair *pair = *state;

	for (size_t i = 0; i < array_size(bad_runs); i++) {
		assert_refused(pair, FMT_RAM, &bad_runs[i], bad_runs[i].reason);
		assert_refused(pair, FMT_RAM_ZERO, &bad_runs[i],
			       bad_runs[i].reason);
	}
}

static void test_pages_that_do_not_fit_their_runs_are_refused(void **state)
{
	const struct told more = { 0, 0, 1, 0, { { 0, 1 } }, 2, "" };
	const struct told fewer = { 0, 0, 1, 0, { { 0, 2 } }, 1, "" };
	const struct told none = { 0, 0, 1, 0, { { 0, 1 } }, 0, "" };
	const struct told many = { 0, 0, 1, 0, { { 0, 1025 } }, 1025, "" };
	struct pair *pair = *state;

	assert_refused(pair, FMT_RAM, &more, "1 pages in");
	assert_refused(pair, FMT_RAM, &fewer, "2 pages in");
	assert_refused(pair, FMT_RAM, &none, "1 pages in");
	/* Fits the record's limit, for it has few runs. */
	assert_refused(pair, FMT_RAM, &many, "1025 pages");
}

static void
test_zero_runs_without_their_bytes_or_with_flags_are_refused(void **state)
{
	const struct told flags = { 0, 1, 1, 0, { { 0, 1 } }, 0, "" };
	const struct told none = { 0, 0, 0, 0, { { 0, 0 } }, 0, "" };
	const struct told more = { 0, 0, 9, 0, { { 0, 1 } }, 0, "" };
	const struct told most = { 0, 0, 1025, 0, { { 0, 1 } }, 0, "" };
	struct bytes_writer w = { .data = NULL };
	struct pair *pair = *state;

	assert_refused(pair, FMT_RAM_ZERO, &flags, "reserved bits");
	assert_refused(pair, FMT_RAM_ZERO, &none, "0 runs");
	assert_refused(pair, FMT_RAM_ZERO, &more, "9 runs");
	assert_refused(pair, FMT_RAM_ZERO, &most, "1025 runs");
	record_put(&w, FMT_RAM_ZERO, "short", 5);
	assert_int_equal(stream_flush(&pair->out, &w, NULL), 0);
	assert_int_equal(pair_receive(pair, NULL), -EBADMSG);
	bytes_writer_fini(&w);
}

static void test_a_whole_block_of_zeroes_takes_no_memory(void **state)
{
	const struct told all = {
		0, 0, 2, 0, { { 0, 90 }, { 90, 2000 } }, 0, ""
	};
	struct pair *pair = *state;

	assert_int_equal(tell(pair, FMT_RAM_ZERO, &all, NULL), 0);
	assert_int_equal(pair->recv_zero_pages, 2090);
	assert_int_equal(resident_pages(&pair->to), 0);
}

static void test_unchecked_pages_in_a_file_are_refused(void **state)
{
	const struct told live = { 0, 0, 1, 0, { { 0, 1 } }, 1, "" };
	struct pair *pair = *state;

	pair->in.is_file = true;
	assert_refused(pair, FMT_RAM, &live, "not checked");
	pair->in.is_file = false;
	assert_int_equal(tell(pair, FMT_RAM, &live, NULL), 0);
	assert_int_equal(resident_pages(&pair->to), 1);
}

static void test_a_flip_in_checked_pages_is_found(void **state)
{
	struct pair *pair = *state;
	struct err err = ERR_INIT;
	uint8_t byte;

	guest_write(pair, 0, 0, 1);
	pair_start(pair, true);
	ram_send_sync(&pair->send, false);
	assert_int_equal(
		ram_send_pass(&pair->send, false, pair_between, pair, NULL), 0);
	assert_int_equal(pread(pair->out.fd, &byte, 1, 3000), 1);
	byte ^= 0x10;
	assert_int_equal(pwrite(pair->out.fd, &byte, 1, 3000), 1);
	assert_int_equal(pair_receive(pair, &err), -EBADMSG);
	assert_non_null(strstr(err_msg(&err), "checksum"));
}

static void test_hashing_ends_at_a_stop(void **state)
{
	struct pair *pair = *state;
	int stop_fd = eventfd(0, EFD_CLOEXEC);
	uint64_t hash, pages;
	struct err err = ERR_INIT;

	guest_write(pair, 0, 0, 1);
	assert_int_equal(
		verify_ram(pair->from.mem, stop_fd, &hash, &pages, NULL), 0);
	eventfd_write(stop_fd, 1);
	assert_int_equal(
		verify_ram(pair->from.mem, stop_fd, &hash, &pages, &err),
		-ECANCELED);
	assert_string_equal(err_msg(&err), "stopped");
	close(stop_fd);
}

#define fact(name) \
	cmocka_unit_test_setup_teardown(name, pair_setup, pair_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		fact(test_all_that_was_touched_arrives),
		fact(test_each_log_is_asked_once_a_sync),
		fact(test_a_page_written_after_its_send_is_sent_again),
		fact(test_a_page_first_touched_in_a_later_round_arrives),
		fact(test_a_device_write_arrives),
		fact(test_after_thousands_of_random_rounds_both_sides_are_the_same),
		fact(test_with_copied_and_checked_pages_too),
		fact(test_a_guest_that_runs_meanwhile_arrives_whole),
		fact(test_a_page_is_watched_again_before_it_is_read),
		fact(test_a_page_is_watched_again_before_it_is_copied),
		fact(test_a_write_after_the_clear_is_reported_by_the_next_sync),
		fact(test_a_stopped_guest_is_not_watched_again_and_always_checked),
		fact(test_one_lost_dirty_bit_is_seen_by_the_comparison),
		fact(test_a_write_right_behind_the_read_arrives),
		fact(test_a_log_that_clears_after_the_read_loses_that_write),
		fact(test_a_cancelled_pass_keeps_what_it_did_not_send),
		fact(test_pages_that_nobody_can_watch_are_not_sent),
		fact(test_a_failed_send_gives_its_bits_back),
		fact(test_a_page_dirtied_during_a_failed_send_stays_dirty_once),
		fact(test_a_second_user_of_the_logs_is_refused_and_harms_nobody),
		fact(test_a_new_start_sends_all_again),
		fact(test_holes_near_what_was_sent_are_not_looked_for_again),
		fact(test_hole_written_before_it_is_watched_is_sent),
		fact(test_hole_written_after_it_is_watched_is_sent),
		fact(test_holes_are_neither_read_nor_sent),
		fact(test_a_zero_page_over_a_hole_stays_a_hole),
		fact(test_a_zero_page_over_data_is_zero),
		fact(test_one_byte_makes_a_page_data),
		fact(test_runs_that_are_not_ascending_inside_a_block_are_refused),
		fact(test_pages_that_do_not_fit_their_runs_are_refused),
		fact(test_zero_runs_without_their_bytes_or_with_flags_are_refused),
		fact(test_a_whole_block_of_zeroes_takes_no_memory),
		fact(test_unchecked_pages_in_a_file_are_refused),
		fact(test_a_flip_in_checked_pages_is_found),
		fact(test_hashing_ends_at_a_stop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
