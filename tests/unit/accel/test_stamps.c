// SPDX-License-Identifier: Apache-2.0
/*
 * Real KVM, dirty bitmap and dirty rings: more than a million stamped writes by the
 * guest's own log, of which a destination would have lost none.  A life: start,
 * rounds, slots that go, cancel, restart, end.  That these tests find losses is
 * test_stamps_broken.c's.
 */
#include <cmocka.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "stamp_guest.h"

#define A_ROUND 10000u /* stamps */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MANY 200000u
#else
#define MANY 1001000u
#endif

static void life(const char *accel, uint64_t stamps)
{
	struct stamp_guest *g = stamp_new(accel, STAMP_PAGES, STAMP_STRIDE);
	struct mem_region *io = mem_region_new_io(
		g->vm.mem, "io", RAM_PAGE_SIZE, &stamp_port_ops, g);
	struct accel_ring_stats rings;
	uint64_t step = stamps / 5 / VM_CPUS, total = 0;

	g->lead = STAMP_LEAD;
	stamp_start(g, 5 * step);
	stamp_log_start(g);
	stamp_rounds_until(g, NULL, step, A_ROUND);
	stamp_rounds_until(g, io, 2 * step, A_ROUND);
	ram_send_stop(&g->send, 0); /* cancelled in the middle of a round */
	stamp_log_start(g);
	stamp_rounds_until(g, io, 3 * step, A_ROUND);
	assert_int_equal(stamp_switch_and_count(g), 0);

	/* That switch failed: the guest goes on here, and moves once more. */
	stamp_start(g, 2 * step);
	stamp_wait(g, step / 8);
	stamp_log_start(g);
	stamp_rounds_until(g, io, 5 * step - 100, A_ROUND);
	assert_int_equal(stamp_switch_and_count(g), 0);

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bitmap_loses_none_of_a_million_writes),
		cmocka_unit_test(test_plain_bitmap_loses_none),
		cmocka_unit_test(test_rings_lose_none_of_a_million_writes),
		cmocka_unit_test(test_small_rings_lose_none),
	};

	need_kvm();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
