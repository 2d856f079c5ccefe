// SPDX-License-Identifier: Apache-2.0
/*
 * A test of test_stamps.c: with the order of things broken, the guest's log must tell
 * of losses.
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
	struct stamp_guest *guest; /* whose switch is under way */
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

void __wrap_kv_ring_sync(struct kv *kv, bool is_last)
{
	if (!is_last || !broken.has_no_last_sync)
		__real_kv_ring_sync(kv, is_last);
}

void __wrap_kv_bitmap_harvest(struct kv *kv, struct kv_slot *slot)
{
	if (!broken.guest->is_last_sync || !broken.has_no_last_sync)
		__real_kv_bitmap_harvest(kv, slot);
}

void __wrap_kv_slot_mark_dirty(const struct kv_slot *slot)
{
	if (!broken.forgets_slots)
		__real_kv_slot_mark_dirty(slot);
}

/* ---- losses ---- */

#define TRIES_WHOLE  5 /* moves, with nothing broken */
#define TRIES_BROKEN 20

static bool is_whole(void)
{
	return !broken.is_late && !broken.has_no_last_sync &&
	       !broken.forgets_slots;
}

/* Losses in one of a few moves, @is_split: of memory that goes and returns, lastly in
 * the middle of a round. */
static bool loses_of(const char *accel, bool is_split)
{
	int tries = is_whole() ? TRIES_WHOLE : TRIES_BROKEN;
	uint64_t lost = 0;

	for (int try = 0; try < tries && !lost; try++) {
		struct stamp_guest *g =
			stamp_new(accel, STAMP_PAGES, STAMP_STRIDE);
		struct mem_region *io = mem_region_new_io(
			g->vm.mem, "io", RAM_PAGE_SIZE, &stamp_port_ops, g);

		broken.guest = g;
		g->lead = STAMP_LEAD;
		stamp_start(g, STAMP_MAX / 2);
		stamp_log_start(g);
		stamp_rounds_until(g, is_split ? io : NULL, 20000, 2000);
		if (is_split) {
			stamp_wait(g, 1000);
			stamp_split(g, io, true);
		}
		lost = stamp_switch_and_count(g);
		if (is_split)
			stamp_split(g, io, false);
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
