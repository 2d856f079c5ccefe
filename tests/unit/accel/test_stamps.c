// SPDX-License-Identifier: Apache-2.0
/*
 * Real KVM, dirty bitmap and dirty rings: more than a million stamped writes by the
 * guest's own log, of which a destination would have lost none.  And a test of
 * this test: with the order of things broken, it must find losses.
 *
 * The breaks are made between godwit and the kernel, by the linker's --wrap: the
 * code under test is the one that is installed.
 */
#include <cmocka.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "stamp_guest.h"

/* ---- breaks ---- */

#define LATE_RESETS 8 /* one in so many is done */

static struct {
	/* KVM_CLEAR_DIRTY_LOG and KVM_RESET_DIRTY_RINGS say that they are done,
	 * and are at a later call: the pages are read before. */
	bool is_late;
	bool has_no_last_sync;
	bool forgets_slots; /* nothing becomes dirty when one goes (D5) */

	unsigned int resets; /* asked for */
	struct kvm_clear_dirty_log clear;
	uint64_t clear_bits[64 + 1];
	bool is_clear_due;
} broken;

int __real_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, void *arg);
void __real_kv_ring_sync(struct kv *kv, bool is_last);
void __wrap_kv_ring_sync(struct kv *kv, bool is_last);
void __real_kv_bitmap_harvest(struct kv *kv, struct kv_slot *slot);
void __wrap_kv_bitmap_harvest(struct kv *kv, struct kv_slot *slot);
void __real_kv_slot_mark_dirty(const struct kv_slot *slot);
void __wrap_kv_slot_mark_dirty(const struct kv_slot *slot);

static int clear_late(int fd, const struct kvm_clear_dirty_log *clear)
{
	if (broken.is_clear_due)
		__real_ioctl(fd, KVM_CLEAR_DIRTY_LOG, &broken.clear);
	broken.clear = *clear;
	broken.clear.dirty_bitmap = broken.clear_bits;
	assert_true(clear->num_pages <= 64 * 64);
	memcpy(broken.clear_bits, clear->dirty_bitmap,
	       bitmap_words(clear->num_pages) * sizeof(uint64_t));
	broken.is_clear_due = true;
	return 0;
}

/* In the turn of whoever harvests, one thread at a time. */
static int reset_late(int fd)
{
	if (++broken.resets % LATE_RESETS == 0)
		__real_ioctl(fd, KVM_RESET_DIRTY_RINGS, NULL);
	return INT32_MAX;
}

int __wrap_ioctl(int fd, unsigned long request, void *arg)
{
	if (broken.is_late && request == KVM_CLEAR_DIRTY_LOG)
		return clear_late(fd, arg);
	if (broken.is_late && request == KVM_RESET_DIRTY_RINGS)
		return reset_late(fd);
	return __real_ioctl(fd, request, arg);
}

static bool is_last_sync;

void __wrap_kv_ring_sync(struct kv *kv, bool is_last)
{
	if (!is_last || !broken.has_no_last_sync)
		__real_kv_ring_sync(kv, is_last);
}

void __wrap_kv_bitmap_harvest(struct kv *kv, struct kv_slot *slot)
{
	if (!is_last_sync || !broken.has_no_last_sync)
		__real_kv_bitmap_harvest(kv, slot);
}

void __wrap_kv_slot_mark_dirty(const struct kv_slot *slot)
{
	if (!broken.forgets_slots)
		__real_kv_slot_mark_dirty(slot);
}

#define STRIDE  50u
#define A_ROUND 10000u /* stamps */
/* In visits to the port: a part of a round, so that whatever keeps the test from
 * running, the guest has not finished before it is logged, or between rounds. */
#define LEAD 100

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MANY 200000u
#else
#define MANY 1001000u
#endif

/* ---- one life: start, rounds, slots that go, cancel, restart, end ---- */

/* A page of I/O behind the data: the slot with the data is taken away and comes
 * back as two, or the two as one.  The guest's writes meanwhile come to godwit,
 * which finds the memory. */
static void split_slot(struct stamp_guest *g, struct mem_region *io, bool is_on)
{
	if (is_on)
		mem_region_add(g->vm.root,
			       STAMP_DATA + g->pages * RAM_PAGE_SIZE, io, 1);
	else
		mem_region_del(io);
}

static void rounds_until(struct stamp_guest *g, struct mem_region *io,
			 uint64_t stamp, uint64_t a_round)
{
	bool is_split = false;

	for (int i = 0; !stamp_is_past(g, stamp); i++) {
		stamp_wait(g, a_round);
		stamp_round(g);
		if (io && i % 3 == 0) {
			is_split = !is_split;
			split_slot(g, io, is_split);
		}
	}
	if (is_split)
		split_slot(g, io, false);
}

/* What a switch does: stop, last sync, send. */
static uint64_t switch_and_count(struct stamp_guest *g)
{
	stamp_stop(g);
	is_last_sync = true;
	ram_send_sync(&g->send, true);
	is_last_sync = false;
	stamp_send(g);
	ram_send_stop(&g->send, 0);
	return stamp_count_lost(g);
}

static void life(const char *accel, uint64_t stamps)
{
	struct stamp_guest *g = stamp_new(accel, STAMP_PAGES, STRIDE);
	struct mem_region *io = mem_region_new_io(
		g->vm.mem, "io", RAM_PAGE_SIZE, &stamp_port_ops, g);
	struct accel_ring_stats rings;
	uint64_t step = stamps / 5 / VM_CPUS, total = 0;

	g->lead = LEAD;
	stamp_start(g, 5 * step);
	stamp_log_start(g);
	rounds_until(g, NULL, step, A_ROUND);
	rounds_until(g, io, 2 * step, A_ROUND);
	ram_send_stop(&g->send, 0); /* cancelled in the middle of a round */
	stamp_log_start(g);
	rounds_until(g, io, 3 * step, A_ROUND);
	assert_int_equal(switch_and_count(g), 0);

	/* That switch failed: the guest goes on here, and moves once more. */
	stamp_start(g, 2 * step);
	stamp_wait(g, step / 8);
	stamp_log_start(g);
	rounds_until(g, io, 5 * step - 100, A_ROUND);
	assert_int_equal(switch_and_count(g), 0);

	for (unsigned int i = 0; i < VM_CPUS; i++)
		total += g->vcpus[i].stamps;
	assert_true(total >= stamps - 2 * 100);
	if (g->vm.accel->ops->ring_stats(g->vm.accel, &rings)) {
		assert_int_not_equal(rings.entries, 0);
		print_message("%lu stamps: %lu entries, %lu full exits, "
			      "%lu strays, reset %lu ns an entry\n",
			      total, rings.entries, rings.full_exits,
			      rings.strays, rings.reset_ns / rings.entries);
		assert_int_equal(rings.strays, 0);
	}
	mem_region_put(io);
	stamp_free(g);
}

static void test_bitmap_loses_none_of_a_million_writes(void **state)
{
	(void)state;
	life("kvm", MANY);
}

static void test_plain_bitmap_loses_none(void **state)
{
	(void)state;
	life("kvm,x-plain-log", 200000);
}

static void test_rings_lose_none_of_a_million_writes(void **state)
{
	(void)state;
	life("kvm,dirty=ring", MANY);
}

static void test_small_rings_lose_none(void **state)
{
	(void)state;
	life("kvm,dirty=ring,ring-entries=1024", 200000);
}

/* ---- the same, broken ---- */

/* Losses in one of a few moves, @is_split: of memory that goes and returns, lastly in
 * the middle of a round. */
static bool loses_of(const char *accel, bool is_split)
{
	uint64_t lost = 0;

	for (int try = 0; try < 20 && !lost; try++) {
		struct stamp_guest *g = stamp_new(accel, STAMP_PAGES, STRIDE);
		struct mem_region *io = mem_region_new_io(
			g->vm.mem, "io", RAM_PAGE_SIZE, &stamp_port_ops, g);

		g->lead = LEAD;
		stamp_start(g, STAMP_MAX / 2);
		stamp_log_start(g);
		rounds_until(g, is_split ? io : NULL, 20000, 2000);
		if (is_split) {
			stamp_wait(g, 1000);
			split_slot(g, io, true);
		}
		lost = switch_and_count(g);
		if (is_split)
			split_slot(g, io, false);
		mem_region_put(io);
		stamp_free(g);
		broken.resets = 0;
		broken.is_clear_due = false;
	}
	return lost;
}

static bool loses(const char *accel)
{
	return loses_of(accel, false);
}

static void
test_this_test_finds_pages_read_before_they_are_cleared(void **state)
{
	(void)state;
	assert_false(loses("kvm"));
	broken.is_late = true;
	assert_true(loses("kvm"));
	broken.is_late = false;
}

static void
test_this_test_finds_entries_published_before_the_reset(void **state)
{
	(void)state;
	assert_false(loses("kvm,dirty=ring"));
	broken.is_late = true;
	assert_true(loses("kvm,dirty=ring"));
	broken.is_late = false;
}

static void test_this_test_finds_that_the_last_sync_is_missing(void **state)
{
	(void)state;
	broken.has_no_last_sync = true;
	assert_true(loses("kvm"));
	assert_true(loses("kvm,dirty=ring"));
	broken.has_no_last_sync = false;
}

/* With manual protect a slot that comes back begins with all of its bits set; and
 * entries of one that went name the same pages of the next, which has its number. */
static void test_this_test_finds_that_a_slot_went_unnoticed(void **state)
{
	(void)state;
	assert_false(loses_of("kvm,x-plain-log", true));
	broken.forgets_slots = true;
	assert_true(loses_of("kvm,x-plain-log", true));
	broken.forgets_slots = false;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bitmap_loses_none_of_a_million_writes),
		cmocka_unit_test(test_plain_bitmap_loses_none),
		cmocka_unit_test(test_rings_lose_none_of_a_million_writes),
		cmocka_unit_test(test_small_rings_lose_none),
		cmocka_unit_test(
			test_this_test_finds_pages_read_before_they_are_cleared),
		cmocka_unit_test(
			test_this_test_finds_entries_published_before_the_reset),
		cmocka_unit_test(
			test_this_test_finds_that_the_last_sync_is_missing),
		cmocka_unit_test(
			test_this_test_finds_that_a_slot_went_unnoticed),
	};

	need_kvm();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
