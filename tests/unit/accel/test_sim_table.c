// SPDX-License-Identifier: Apache-2.0
/* Second-stage tables, and what slots and the collapse do with them. */
#include <cmocka.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/clock.h"
#include "mem/access.h"
#include "sim_vm.h"

#define KIB 1024ull
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

static struct s2_walk walk_at(const struct test_vm *vm, uint64_t gpa)
{
	struct s2_walk walk;

	s2_walk(&vm->sim->s2, gpa, &walk);
	return walk;
}

static bool is_mapped(const struct test_vm *vm, uint64_t gpa)
{
	struct s2_walk walk;

	return s2_walk(&vm->sim->s2, gpa, &walk);
}

static void assert_leaf(const struct test_vm *vm, uint64_t gpa,
			unsigned int level, bool is_writable)
{
	struct s2_walk walk = walk_at(vm, gpa);

	assert_true(walk.value & S2_PRESENT);
	assert_int_equal(walk.level, level);
	assert_int_equal(walk.is_writable, is_writable);
}

static struct s2_stats stats_of(struct test_vm *vm)
{
	struct s2_stats stats;

	s2_stats(&vm->sim->s2, &stats);
	return stats;
}

/* One write in the guest. */
static void guest_write(struct test_vm *vm, uint64_t gpa)
{
	sim_enter(vm->vcpus[0]);
	sim_store(vm->vcpus[0], gpa, gpa + 1, 8);
	sim_leave(vm->vcpus[0]);
}

static void guest_read(struct test_vm *vm, uint64_t gpa)
{
	sim_enter(vm->vcpus[0]);
	sim_load(vm->vcpus[0], gpa, 8);
	sim_leave(vm->vcpus[0]);
}

static void clear_pages(struct test_vm *vm, uint64_t first, uint64_t count)
{
	uint64_t *bits = bitmap_new(count);

	bitmap_set(bits, 0, count);
	assert_int_equal(
		mem_log_clear(vm->mem, vm->block, first, count, bits, NULL), 0);
	bitmap_free(bits, count);
}

/* Until the worker has nothing left. */
static void wait_collapsed(struct test_vm *vm)
{
	bool is_done = false;

	while (!is_done) {
		lock_acquire(&vm->sim->slots_lock);
		is_done = list_is_empty(&vm->sim->collapse.works);
		lock_release(&vm->sim->slots_lock);
		sched_yield();
	}
}

/* ---- tests ---- */

static void test_memory_is_mapped_by_the_largest_leaf_that_fits(void **state)
{
	struct test_vm vm;

	(void)state;
	vm_init(&vm, 2 * GIB + 5 * MIB + 4 * KIB, "sim");
	assert_false(is_mapped(&vm, 0));
	guest_read(&vm, 1 * GIB + 128);
	assert_leaf(&vm, 1 * GIB, 2, true); /* not logged: a write is free */
	guest_read(&vm, 2 * GIB);
	assert_leaf(&vm, 2 * GIB, 1, true);
	guest_read(&vm, 2 * GIB + 4 * MIB);
	assert_leaf(&vm, 2 * GIB + 4 * MIB, 0, true);
	assert_false(is_mapped(&vm, 0));
	assert_ptr_equal(s2_host(&(struct s2_walk){ walk_at(&vm, GIB + 5).entry,
						    walk_at(&vm, GIB + 5).value,
						    2, true, true },
				 GIB + 5),
			 vm.block->host + GIB + 5);
	assert_int_equal(stats_of(&vm).leaves[2], 1);
	vm_fini(&vm);
	vm_init(&vm, 2 * GIB, "sim,leaf=2M");
	guest_read(&vm, GIB);
	assert_leaf(&vm, GIB, 1, true);
	vm_fini(&vm);
	vm_init(&vm, 2 * GIB, "sim,leaf=4K");
	guest_read(&vm, GIB);
	assert_leaf(&vm, GIB, 0, true);
	vm_fini(&vm);
}

static void test_write_lands_in_host_memory_at_each_level(void **state)
{
	static const char *const options[] = { "sim", "sim,leaf=2M",
					       "sim,leaf=4K" };

	(void)state;
	for (int i = 0; i < 3; i++) {
		const uint64_t gpa = GIB + 3 * MIB + 16;
		struct test_vm vm;
		uint64_t value;

		vm_init(&vm, 2 * GIB, options[i]);
		guest_write(&vm, gpa);
		memcpy(&value, vm.block->host + gpa, sizeof(value));
		assert_int_equal(value, gpa + 1);
		vm_fini(&vm);
	}
}

static void test_bitmap_start_protects_nothing_and_clear_one_page(void **state)
{
	struct test_vm vm;

	(void)state;
	vm_init(&vm, 2 * GIB, "sim");
	guest_write(&vm, 0);
	assert_int_equal(mem_log_global_start(vm.mem, NULL), 0);
	assert_leaf(&vm, 0, 2, true);
	clear_pages(&vm, 0, 1);
	assert_leaf(&vm, 0, 1, false);      /* 2 MiB of it, protected whole */
	assert_leaf(&vm, 2 * MIB, 1, true); /* and no more */
	guest_write(&vm, 4096);
	assert_leaf(&vm, 4096, 0, true);
	assert_leaf(&vm, 0, 0, false);
	assert_leaf(&vm, 2 * MIB, 1, true);
	assert_int_equal(stats_of(&vm).splits, 2);
	vm_fini(&vm);
}

static void test_eager_split_leaves_single_pages_to_fault(void **state)
{
	struct test_vm vm;

	(void)state;
	vm_init(&vm, 2 * GIB, "sim,split=eager");
	guest_write(&vm, 0);
	assert_int_equal(mem_log_global_start(vm.mem, NULL), 0);
	clear_pages(&vm, 0, 1);
	assert_leaf(&vm, 0, 0, false);
	assert_leaf(&vm, 4096, 0, true);
	vm_fini(&vm);
	vm_init(&vm, 2 * GIB, "sim,split=eager,dirty=ring");
	guest_write(&vm, 0);
	assert_int_equal(mem_log_global_start(vm.mem, NULL), 0);
	assert_leaf(&vm, 0, 0, false);
	assert_leaf(&vm, GIB - 4096, 0, false);
	assert_false(is_mapped(&vm, GIB));
	vm_fini(&vm);
}

static void test_ring_start_protects_all_by_a_bit_at_the_top(void **state)
{
	struct test_vm vm;

	(void)state;
	vm_init(&vm, 3 * GIB, "sim,dirty=ring,leaf=4K");
	guest_write(&vm, 0);
	guest_write(&vm, 8192);
	guest_write(&vm, 2 * GIB);
	assert_int_equal(mem_log_global_start(vm.mem, NULL), 0);
	assert_leaf(&vm, 0, 0, false);
	assert_true(walk_at(&vm, 0).value & S2_WRITE); /* not its own bit */
	assert_leaf(&vm, 2 * GIB, 0, false);
	guest_write(&vm, 0);
	assert_leaf(&vm, 0, 0, true);
	assert_leaf(&vm, 8192, 0, false);
	assert_leaf(&vm, 2 * GIB, 0, false);
	vm_fini(&vm);
}

static void test_new_memory_is_small_and_logged_while_logging(void **state)
{
	struct test_vm vm;

	(void)state;
	vm_init(&vm, 2 * GIB, "sim");
	assert_int_equal(mem_log_global_start(vm.mem, NULL), 0);
	bitmap_set(vm.block->known, 0, vm.block->pages);
	guest_read(&vm, 4096);
	assert_leaf(&vm, 4096, 0, false);
	guest_write(&vm, 4096);
	assert_leaf(&vm, 4096, 0, true);
	mem_log_sync(vm.mem, true);
	assert_int_equal(bitmap_count(vm.block->dirty, 0, vm.block->pages), 1);
	assert_true(bitmap_test(vm.block->dirty, 1));
	vm_fini(&vm);
}

static void check_collapse(const char *options)
{
	struct s2_stats before, logged, after;
	struct test_vm vm;

	vm_init(&vm, 4 * GIB, options);
	for (uint64_t gpa = 0; gpa < 4 * GIB; gpa += GIB)
		guest_write(&vm, gpa);
	before = stats_of(&vm);
	assert_int_equal(before.leaves[2], 4);
	assert_int_equal(mem_log_global_start(vm.mem, NULL), 0);
	for (uint64_t gpa = 0; gpa < 4 * GIB; gpa += GIB) {
		clear_pages(&vm, gpa >> RAM_PAGE_SHIFT, 64);
		guest_write(&vm, gpa);
	}
	logged = stats_of(&vm);
	assert_int_equal(logged.leaves[2], 0);
	assert_true(logged.leaves[0] >= 4 * 512 && logged.tables > 8);
	mem_log_global_stop(vm.mem, 0);
	wait_collapsed(&vm);
	for (uint64_t gpa = 0; gpa < 4 * GIB; gpa += GIB) {
		guest_write(&vm, gpa);
		assert_leaf(&vm, gpa, 2, true);
	}
	/* Freed once the worker is past the grace period. */
	do {
		after = stats_of(&vm);
		sched_yield();
	} while (after.tables > before.tables);
	assert_int_equal(after.leaves[2], 4);
	assert_int_equal(after.leaves[1], 0);
	assert_int_equal(after.leaves[0], 0);
	vm_fini(&vm);
}

static void test_large_leaves_come_back_after_logging(void **state)
{
	(void)state;
	check_collapse("sim");
	check_collapse("sim,dirty=ring");
	check_collapse("sim,collapse=inline");
	check_collapse("sim,dirty=ring,split=eager");
}

/* Tables alone: where the host's memory lies is nothing to them. */
static void tables_init(struct s2 *s2, struct s2_range *range, uint64_t size,
			unsigned int max_leaf)
{
	*range = (struct s2_range){
		.size = size,
		.host = (uint8_t *)(uintptr_t)(1ull << 40),
		.max_leaf = max_leaf,
	};
	assert_int_equal(s2_init(s2), 0);
	assert_int_equal(s2_populate(s2, range, 0), 0);
	s2_lock(s2);
	s2_protect_range(s2, 0, size);
	s2_unlock(s2);
}

static unsigned int
level_after_fault(struct s2 *s2, const struct s2_range *range, uint64_t gpa)
{
	struct s2_walk walk;

	s2_lock(s2);
	assert_int_equal(s2_fault(s2, range, gpa, true), 0);
	s2_unlock(s2);
	s2_walk(s2, gpa, &walk);
	assert_true(walk.is_writable);
	assert_ptr_equal(s2_host(&walk, gpa), range->host + gpa);
	return walk.level;
}

static unsigned int take_orphans(struct s2 *s2, bool keeps_more,
				 struct s2_orphan *orphans)
{
	unsigned int count;

	s2_lock(s2);
	count = s2_take_orphans(s2, keeps_more, orphans, 2);
	s2_unlock(s2);
	return count;
}

static void
test_fault_behind_logging_puts_a_large_leaf_over_a_table(void **state)
{
	struct s2_orphan orphans[2];
	struct s2_range range;
	struct s2_stats stats;
	struct s2 s2;

	(void)state;
	tables_init(&s2, &range, 3 * GIB, 2);
	/* Nobody would free a table. */
	assert_int_equal(level_after_fault(&s2, &range, 5 * MIB), 0);
	assert_int_equal(take_orphans(&s2, true, orphans), 0);
	range.is_logged = true;
	assert_int_equal(level_after_fault(&s2, &range, GIB), 0);
	range.is_logged = false;
	assert_int_equal(level_after_fault(&s2, &range, 2 * GIB + 9 * MIB), 2);
	assert_int_equal(take_orphans(&s2, false, orphans), 1);
	assert_int_equal(orphans[0].level, 2);
	assert_int_equal(level_after_fault(&s2, &range, GIB + 4096), 0);
	s2_free_tree(&s2, orphans[0].table, 2);
	s2_stats(&s2, &stats);
	assert_int_equal(stats.leaves[2], 1);
	assert_int_equal(stats.leaves[0], 2 * GIB / 4096);
	assert_int_equal(stats.tables, 2 * (1 + 512) + 2);
	s2_fini(&s2);
}

static void test_no_more_tables_wait_than_there_is_room_for(void **state)
{
	struct s2_orphan orphans[2];
	struct s2_range range;
	struct s2 s2;

	(void)state;
	tables_init(&s2, &range, (S2_ORPHANS + 3) * 2 * MIB, 1);
	take_orphans(&s2, true, orphans);
	for (uint64_t i = 0; i < S2_ORPHANS; i++)
		assert_int_equal(level_after_fault(&s2, &range, i * 2 * MIB),
				 1);
	assert_int_equal(
		level_after_fault(&s2, &range, S2_ORPHANS * 2 * MIB + 4096), 0);
	assert_int_equal(take_orphans(&s2, true, orphans), 2);
	for (uint64_t i = S2_ORPHANS; i < S2_ORPHANS + 3; i++)
		assert_int_equal(
			level_after_fault(&s2, &range, i * 2 * MIB + 8192),
			i < S2_ORPHANS + 2 ? 1 : 0);
	s2_fini(&s2);
}

static void test_start_strikes_the_slot_off_the_workers_list(void **state)
{
	struct test_vm vm;

	(void)state;
	vm_init(&vm, 4 * GIB, "sim,dirty=ring");
	for (int n = 0; n < 200; n++) {
		assert_int_equal(mem_log_global_start(vm.mem, NULL), 0);
		guest_write(&vm, (uint64_t)(n % 4) * GIB);
		/* Logged small, whatever the worker was at. */
		assert_leaf(&vm, (uint64_t)(n % 4) * GIB, 0, true);
		mem_log_global_stop(vm.mem, 0);
	}
	wait_collapsed(&vm);
	vm_fini(&vm);
}

static unsigned int works(struct test_vm *vm)
{
	unsigned int count = 0;
	struct list *link;

	lock_acquire(&vm->sim->slots_lock);
	for (link = vm->sim->collapse.works.next;
	     link != &vm->sim->collapse.works; link = link->next)
		count++;
	lock_release(&vm->sim->slots_lock);
	return count;
}

static void test_what_is_struck_off_is_freed_at_once(void **state)
{
	const uint64_t hour_ns = 3600 * NS_PER_SEC;
	struct test_vm vm;

	(void)state;
	vm_init(&vm, 64 * MIB, "sim");
	assert_int_equal(mem_log_global_start(vm.mem, NULL), 0);
	mem_log_global_stop(vm.mem, hour_ns);
	assert_int_equal(works(&vm), 1);
	assert_int_equal(mem_log_global_start(vm.mem, NULL), 0);
	wait_collapsed(&vm);
	mem_log_global_stop(vm.mem, hour_ns);
	vm_fini(&vm);
}

static void test_what_may_begin_first_is_done_first(void **state)
{
	struct test_vm vm;

	(void)state;
	vm_init(&vm, 64 * MIB, "sim");
	vm_window_new(&vm, 4 * MIB);
	mem_region_add(vm.root, VM_WINDOW, vm.window, 0);
	assert_int_equal(mem_log_global_start(vm.mem, NULL), 0);
	mem_log_global_stop(vm.mem, 3600 * NS_PER_SEC);
	assert_int_equal(works(&vm), 2);
	mem_region_set_log(vm.window, true);
	mem_region_set_log(vm.window, false); /* without grace */
	while (works(&vm) > 1)
		sched_yield();
	mem_region_del(vm.window);
	vm_fini(&vm);
}

static void test_slot_that_goes_is_unmapped_and_its_tables_freed(void **state)
{
	struct s2_stats before;
	struct test_vm vm;

	(void)state;
	vm_init(&vm, 64 * MIB, "sim,leaf=4K");
	vm_window_new(&vm, 4 * MIB);
	before = stats_of(&vm);
	for (int n = 0; n < 100; n++) {
		uint64_t value = 0;

		mem_region_add(vm.root, VM_WINDOW, vm.window, 0);
		guest_write(&vm, VM_WINDOW + 3 * MIB);
		assert_leaf(&vm, VM_WINDOW + 3 * MIB, 0, true);
		mem_region_del(vm.window);
		assert_false(is_mapped(&vm, VM_WINDOW + 3 * MIB));
		assert_int_equal(stats_of(&vm).leaves[0], before.leaves[0]);
		guest_write(&vm, VM_WINDOW + 3 * MIB); /* to nobody */
		memcpy(&value, vm.window_block->host + 3 * MIB, sizeof(value));
		assert_int_equal(value, VM_WINDOW + 3 * MIB + 1);
	}
	vm_fini(&vm);
}

static void test_read_only_memory_drops_the_guests_writes(void **state)
{
	struct test_vm vm;

	(void)state;
	vm_init(&vm, 64 * MIB, "sim");
	vm_window_new(&vm, 4 * MIB);
	mem_region_set_readonly(vm.window, true);
	mem_region_add(vm.root, VM_WINDOW, vm.window, 0);
	guest_read(&vm, VM_WINDOW);
	guest_write(&vm, VM_WINDOW);
	assert_int_equal(vm.window_block->host[0], 0);
	assert_leaf(&vm, VM_WINDOW, 1, false);
	vm_fini(&vm);
}

struct device {
	uint64_t written, read;
};

static uint64_t device_read(void *opaque, uint64_t offset, unsigned int size)
{
	struct device *device = opaque;

	(void)size;
	device->read++;
	return offset + 7;
}

static void device_write(void *opaque, uint64_t offset, uint64_t value,
			 unsigned int size)
{
	struct device *device = opaque;

	(void)offset;
	(void)size;
	device->written = value;
}

static void test_mmio_and_ports_reach_devices(void **state)
{
	static const struct mem_io_ops ops = { .read = device_read,
					       .write = device_write };
	struct device device = { 0, 0 };
	struct mem_region *mmio, *port;
	struct test_vm vm;
	uint32_t value = 0x1234;

	(void)state;
	vm_init(&vm, 64 * MIB, "sim");
	mmio = mem_region_new_io(vm.mem, "mmio", 4096, &ops, &device);
	port = mem_region_new_io(vm.mem, "port", 8, &ops, &device);
	mem_region_add(vm.root, 0xfe000000, mmio, 0);
	mem_region_add(vm.ports_root, 0x60, port, 0);
	sim_enter(vm.vcpus[0]);
	sim_store(vm.vcpus[0], 0xfe000010, 0xabcd, 4);
	assert_int_equal(device.written, 0xabcd);
	assert_int_equal(sim_load(vm.vcpus[0], 0xfe000010, 4), 0x17);
	sim_out(vm.vcpus[0], 0x60, &value, 1, 4);
	assert_int_equal(device.written, 0x1234);
	assert_int_equal(sim_in(vm.vcpus[0], 0x64, 1), 11);
	assert_int_equal(sim_load(vm.vcpus[0], 1ull << 50, 8), UINT64_MAX);
	sim_leave(vm.vcpus[0]);
	mem_region_del(mmio);
	mem_region_del(port);
	mem_region_put(mmio);
	mem_region_put(port);
	vm_fini(&vm);
}

static void test_populated_memory_is_all_there(void **state)
{
	struct s2_range range;
	struct test_vm vm;

	(void)state;
	vm_init(&vm, 3 * GIB, "sim,leaf=4K");
	range = sim_slot_range(vm.sim, sim_slot_find(vm.sim, 0));
	assert_int_equal(s2_populate(&vm.sim->s2, &range, 0), 0);
	assert_int_equal(stats_of(&vm).leaves[0], 3 * GIB / 4096);
	assert_int_equal(stats_of(&vm).tables, 3 * 512 + 3 + 2);
	assert_leaf(&vm, 3 * GIB - 4096, 0, true);
	vm_fini(&vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			test_memory_is_mapped_by_the_largest_leaf_that_fits),
		cmocka_unit_test(test_write_lands_in_host_memory_at_each_level),
		cmocka_unit_test(
			test_bitmap_start_protects_nothing_and_clear_one_page),
		cmocka_unit_test(test_eager_split_leaves_single_pages_to_fault),
		cmocka_unit_test(
			test_ring_start_protects_all_by_a_bit_at_the_top),
		cmocka_unit_test(
			test_new_memory_is_small_and_logged_while_logging),
		cmocka_unit_test(test_large_leaves_come_back_after_logging),
		cmocka_unit_test(
			test_fault_behind_logging_puts_a_large_leaf_over_a_table),
		cmocka_unit_test(
			test_no_more_tables_wait_than_there_is_room_for),
		cmocka_unit_test(
			test_start_strikes_the_slot_off_the_workers_list),
		cmocka_unit_test(test_what_is_struck_off_is_freed_at_once),
		cmocka_unit_test(test_what_may_begin_first_is_done_first),
		cmocka_unit_test(
			test_slot_that_goes_is_unmapped_and_its_tables_freed),
		cmocka_unit_test(test_read_only_memory_drops_the_guests_writes),
		cmocka_unit_test(test_mmio_and_ports_reach_devices),
		cmocka_unit_test(test_populated_memory_is_all_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
