// SPDX-License-Identifier: Apache-2.0
/*
 * Memslots and the dirty bitmap on real KVM, with a guest that writes while
 * memory moves under it (D5).
 *
 * The program is linked with --wrap=ioctl: what KVM is told of memslots is kept
 * in a model beside it, calls are counted by request, and one request at a time
 * can be made to fail.
 */
#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "kvm_guest.h"

/* ---- KVM, seen from outside ---- */

#define SLOTS_SEEN 256

static struct {
	struct kvm_userspace_memory_region slots[SLOTS_SEEN];
	unsigned int gets, clears, sets; /* of dirty logs and of slots */
	unsigned int looks;              /* at slots, for a window */
	uint64_t protect_flags; /* of KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 */
	/* In place of what KVM answers; 0: none. */
	unsigned long fail_request;
	int slot_max;
	/* A pass that takes this block's dirty bits just before a slot goes. */
	struct ram_block *taken_on_delete;
} seen; /* of the thread that builds, changes and logs memory */

int __real_kv_slot_order(const struct kv_slot *slot,
			 const struct ram_block *block, uint64_t first,
			 uint64_t count);
int __wrap_kv_slot_order(const struct kv_slot *slot,
			 const struct ram_block *block, uint64_t first,
			 uint64_t count);

int __wrap_kv_slot_order(const struct kv_slot *slot,
			 const struct ram_block *block, uint64_t first,
			 uint64_t count)
{
	seen.looks++;
	return __real_kv_slot_order(slot, block, first, count);
}

int __real_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, void *arg);

int __wrap_ioctl(int fd, unsigned long request, void *arg)
{
	const struct kvm_userspace_memory_region *region = arg;
	const struct kvm_enable_cap *cap = arg;
	int ret;

	/* Of threads of their own. */
	if (request == KVM_RUN || request == KVM_RESET_DIRTY_RINGS)
		return __real_ioctl(fd, request, arg);
	if (request == KVM_CHECK_EXTENSION && seen.slot_max &&
	    (uintptr_t)arg == KVM_CAP_NR_MEMSLOTS)
		return seen.slot_max;
	if (request == seen.fail_request) {
		errno = EIO;
		return -1;
	}
	if (request == KVM_SET_USER_MEMORY_REGION && !region->memory_size &&
	    seen.taken_on_delete)
		bitmap_clear(seen.taken_on_delete->dirty, 0,
			     seen.taken_on_delete->pages);
	ret = __real_ioctl(fd, request, arg);
	if (request == KVM_SET_USER_MEMORY_REGION) {
		/* Overlaps and the like: never, not even in passing. */
		assert_int_equal(ret, 0);
		assert_true(region->slot < SLOTS_SEEN);
		seen.slots[region->slot] = *region;
		seen.sets++;
	}
	seen.gets += request == KVM_GET_DIRTY_LOG;
	seen.clears += request == KVM_CLEAR_DIRTY_LOG;
	if (request == KVM_ENABLE_CAP && ret == 0 &&
	    cap->cap == KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2)
		seen.protect_flags = cap->args[0];
	return ret;
}

/* The slot at @gpa as KVM knows it, or NULL. */
static const struct kvm_userspace_memory_region *slot_at(uint64_t gpa)
{
	for (size_t i = 0; i < SLOTS_SEEN; i++) {
		if (seen.slots[i].memory_size &&
		    seen.slots[i].guest_phys_addr == gpa)
			return &seen.slots[i];
	}
	return NULL;
}

static unsigned int slot_count(void)
{
	unsigned int count = 0;

	for (size_t i = 0; i < SLOTS_SEEN; i++)
		count += seen.slots[i].memory_size != 0;
	return count;
}

static void assert_slot(uint64_t gpa, uint64_t size, const void *host,
			uint32_t flags)
{
	const struct kvm_userspace_memory_region *slot = slot_at(gpa);

	if (!slot)
		fail_msg("no slot at 0x%lx", gpa);
	assert_int_equal(slot->memory_size, size);
	assert_int_equal(slot->userspace_addr, (uintptr_t)host);
	assert_int_equal(slot->flags, flags);
}

static int set_up(void **state, const char *accel)
{
	memset(&seen, 0, sizeof(seen));
	*state = fixture_new(accel);
	return 0;
}

static int setup(void **state)
{
	return set_up(state, "kvm");
}

static int setup_plain(void **state)
{
	return set_up(state, "kvm,x-plain-log");
}

static int setup_ring(void **state)
{
	return set_up(state, "kvm,dirty=ring");
}

static int teardown(void **state)
{
	seen.fail_request = 0;
	fixture_free(*state);
	return 0;
}

/* ---- slots ---- */

static void test_ram_is_cut_at_every_gibibyte_of_the_guest(void **state)
{
	struct fixture *f = *state;
	const uint64_t at = GIB - 5 * PAGE;
	uint8_t *host;

	vm_window_new(&f->vm, 2 * GIB + 64 * MIB);
	host = f->vm.window_block->host;
	mem_region_add(f->vm.root, at, f->vm.window, 0);
	assert_int_equal(slot_count(), 1 + 4);
	assert_slot(at, 5 * PAGE, host, 0);
	assert_slot(GIB, GIB, host + 5 * PAGE, 0);
	assert_slot(2 * GIB, GIB, host + 5 * PAGE + GIB, 0);
	assert_slot(3 * GIB, 64 * MIB - 5 * PAGE, host + 5 * PAGE + 2 * GIB, 0);
	mem_region_del(f->vm.window);
	assert_int_equal(slot_count(), 1);
}

static void test_rom_is_readonly_for_the_guest(void **state)
{
	struct fixture *f = *state;

	vm_window_new(&f->vm, 4 * PAGE);
	memset(f->vm.window_block->host, 0x5a, 4 * PAGE);
	mem_begin(f->vm.mem);
	mem_region_set_readonly(f->vm.window, true);
	mem_region_add(f->vm.root, 32 * MIB, f->vm.window, 0);
	mem_commit(f->vm.mem);
	assert_slot(32 * MIB, 4 * PAGE, f->vm.window_block->host,
		    KVM_MEM_READONLY);
	guest_write(f, 32 * MIB, 4);
	for (size_t i = 0; i < 4 * PAGE; i++)
		assert_int_equal(f->vm.window_block->host[i], 0x5a);

	mem_region_set_readonly(f->vm.window, false);
	assert_slot(32 * MIB, 4 * PAGE, f->vm.window_block->host, 0);
	guest_write(f, 32 * MIB, 4);
	for (size_t i = 0; i < 4 * PAGE; i += PAGE)
		assert_int_not_equal(f->vm.window_block->host[i], 0x5a);
}

static void test_parts_of_pages_are_left_to_emulation(void **state)
{
	struct fixture *f = *state;
	struct mem_region *io =
		mem_region_new_io(f->vm.mem, "io", 16, &port_ops, f);

	/* Splits a page: neither side of the rest is a whole one. */
	mem_region_add(f->vm.root, 4 * MIB + 100, io, 1);
	assert_int_equal(slot_count(), 2);
	assert_slot(0, 4 * MIB, f->vm.block->host, 0);
	assert_slot(4 * MIB + PAGE, 12 * MIB - PAGE,
		    f->vm.block->host + 4 * MIB + PAGE, 0);
	mem_region_del(io);
	mem_region_put(io);
	assert_int_equal(slot_count(), 1);
}

/* The wrapper fails on the first overlap; afterwards KVM has what the view
 * shows. */
static void test_changes_in_one_transaction_never_overlap_in_kvm(void **state)
{
	struct fixture *f = *state;
	struct mem_region *part[6];
	uint32_t seed = 1;

	vm_window_new(&f->vm, 64 * MIB);
	for (size_t i = 0; i < array_size(part); i++) {
		part[i] = mem_region_new_alias(f->vm.mem, "part", f->vm.window,
					       i * 8 * MIB, 8 * MIB);
		mem_region_add(f->vm.root, 32 * MIB + i * 8 * MIB, part[i],
			       (int)i);
	}
	for (int round = 0; round < 150; round++) {
		const struct mem_range *range;
		unsigned int ranges = 0;

		mem_begin(f->vm.mem);
		for (int change = 0; change < 4; change++) {
			struct mem_region *which;
			uint64_t pages;

			seed = seed * 1664525u + 1013904223u;
			which = part[seed >> 8 & 3];
			pages = 1 + (seed >> 12 & 0x7ff);
			if (seed >> 28 < 4)
				mem_region_set_enabled(which, seed >> 27 & 1);
			else if (seed >> 28 < 8)
				mem_region_set_size(which, pages * PAGE);
			else /* some across the first gibibyte's end */
				mem_region_set_offset(
					which, GIB - 5 * MIB + pages * PAGE);
		}
		mem_commit(f->vm.mem);
		rcu_read_lock();
		flat_view_for_each(range, addr_space_view(f->vm.memory))
		{
			uint64_t at = range->gpa;
			uint64_t end = at + (uint64_t)range->size;
			const uint8_t *host =
				mem_region_block(range->region)->host +
				range->offset;

			while (at < end) {
				uint64_t cut = (at / GIB + 1) * GIB;

				if (cut > end)
					cut = end;
				assert_slot(at, cut - at,
					    host + (at - range->gpa), 0);
				at = cut;
				ranges++;
			}
		}
		rcu_read_unlock();
		assert_int_equal(slot_count(), ranges);
	}
	for (size_t i = 0; i < array_size(part); i++) {
		mem_region_del(part[i]);
		mem_region_put(part[i]);
	}
}

/* One more VM, of @f's memory and so much from 1 GiB on, where KVM has @slot_max
 * memslots; its state in two registries. */
static int second_vm(struct fixture *f, uint64_t size, int slot_max,
		     struct state_registry *state, struct accel **ret_accel,
		     struct err *err)
{
	struct accel_config config = {
		.cpus = 1,
		.memory = f->vm.memory,
		.ports = f->vm.ports,
		.setup_state = &state[0],
		.state = &state[1],
	};
	int ret;

	state_registry_init(&state[0]);
	state_registry_init(&state[1]);
	vm_window_new(&f->vm, size);
	mem_region_add(f->vm.root, GIB, f->vm.window, 0);
	memset(seen.slots, 0, sizeof(seen.slots));
	seen.slot_max = slot_max;
	assert_int_equal(accel_options_parse("kvm", &config.options, NULL), 0);
	ret = accel_new(&config, ret_accel, err);
	seen.slot_max = 0;
	return ret;
}

static void test_more_slots_than_kvm_has_is_an_error_at_the_start(void **state)
{
	struct fixture *f = *state;
	struct state_registry registries[2];
	struct accel *accel = NULL;
	struct err err = ERR_INIT;

	/* 3 of 4 GiB are needed, and there are 2. */
	assert_int_equal(second_vm(f, 4 * GIB, 2, registries, &accel, &err),
			 -ENOSPC);
	assert_null(accel);
	assert_non_null(strstr(err_msg(&err), "0x100000000"));
}

/* Of 32 half are enough for 41 pieces of 1 GiB if they are of 4. */
static void test_guest_that_needs_too_many_slots_has_larger_ones(void **state)
{
	struct fixture *f = *state;
	struct state_registry registries[2];
	struct accel *accel = NULL;
	struct err err = ERR_INIT;
	const uint8_t *host;

	if (second_vm(f, 40 * GIB, 32, registries, &accel, &err))
		fail_msg("%s", err_msg(&err));
	host = f->vm.window_block->host;
	assert_int_equal(slot_count(), 1 + 11);
	assert_slot(GIB, 3 * GIB, host, 0);
	assert_slot(4 * GIB, 4 * GIB, host + 3 * GIB, 0);
	assert_slot(40 * GIB, GIB, host + 39 * GIB, 0);
	accel_free(accel);
}

/* ---- logging ---- */

static void test_only_pages_that_were_written_are_reported(void **state)
{
	struct fixture *f = *state;

	log_start(f);
	round_of(f);
	guest_write(f, 2 * MIB + 3 * PAGE, 130);
	mem_log_sync(f->vm.mem, false);
	assert_dirty_data(f, 2 * MIB + 3 * PAGE, 130);
	send_dirty(f);
	/* And no more once they were sent. */
	mem_log_sync(f->vm.mem, false);
	assert_dirty_data(f, 0, 0);
	guest_write(f, 3 * MIB, 1);
	mem_log_sync(f->vm.mem, true);
	assert_dirty_data(f, 3 * MIB, 1);
}

static void test_pages_first_touched_after_the_start_are_sent(void **state)
{
	struct fixture *f = *state;

	vm_window_new(&f->vm, 8 * MIB);
	mem_region_add(f->vm.root, 32 * MIB, f->vm.window, 0);
	log_start(f);
	assert_int_equal(round_of(f), f->vm.block->pages);
	guest_write(f, 32 * MIB + 5 * PAGE, 300);
	ram_send_sync(&f->send, false);
	assert_int_equal(bitmap_count(f->vm.window_block->dirty, 0,
				      f->vm.window_block->pages),
			 300);
	send_dirty(f);
	assert_copy_is_whole(f);
}

static void test_a_guest_that_writes_all_the_time_loses_nothing(void **state)
{
	struct fixture *f = *state;

	guest_start(f, GUEST_DATA, 500);
	log_start(f);
	for (int i = 0; i < 40; i++) {
		round_of(f);
		if (i % 8 == 0)
			guest_wait_pass(f);
	}
	guest_stop(f);
	ram_send_sync(&f->send, true);
	send_dirty(f);
	assert_copy_is_whole(f);
}

/* Block pages and slot pages are five apart. */
static void
test_slots_that_begin_in_the_middle_of_a_word_are_exact(void **state)
{
	struct fixture *f = *state;
	const uint64_t at = GIB - 5 * PAGE;
	struct ram_block *block;

	vm_window_new(&f->vm, 8 * MIB);
	block = f->vm.window_block;
	mem_region_add(f->vm.root, at, f->vm.window, 0);
	memset(block->host, 1, block->size);
	log_start(f);
	round_of(f);
	guest_write(f, at + 3 * PAGE, 4);
	mem_log_sync(f->vm.mem, false);
	assert_int_equal(bitmap_next_set(block->dirty, 0, block->pages), 3);
	assert_int_equal(bitmap_count(block->dirty, 0, block->pages), 4);
	send_dirty(f);
	guest_write(f, at + 1000 * PAGE, 200);
	mem_log_sync(f->vm.mem, false);
	assert_int_equal(bitmap_next_set(block->dirty, 0, block->pages), 1000);
	assert_int_equal(bitmap_count(block->dirty, 0, block->pages), 200);
	send_dirty(f);
	assert_copy_is_whole(f);
}

/* docs/lessons.md: "guest bitmap sync 73 ms, 61 of them in ranges not 64-page aligned":
 * one clear a window and slot, however the slots lie. */
static void test_lesson_unaligned_ranges_are_cleared_in_one_call(void **state)
{
	struct fixture *f = *state;
	struct ram_block *block;

	vm_window_new(&f->vm, FMT_RAM_PAGES * PAGE);
	block = f->vm.window_block;
	mem_region_add(f->vm.root, GIB - 5 * PAGE, f->vm.window, 0);
	memset(block->host, 1, block->size);
	log_start(f);
	ram_send_sync(&f->send, false);
	seen.clears = 0;
	assert_int_equal(mem_log_clear(f->vm.mem, block, 0, block->pages,
				       block->dirty, NULL),
			 0);
	assert_int_equal(seen.clears, 2); /* it lies in two slots */
}

#define PARTS      100u
#define PART_PAGES 64u

/* A slot each, of one block. */
static void add_parts(struct fixture *f, struct mem_region **part)
{
	vm_window_new(&f->vm, PARTS * PART_PAGES * PAGE);
	memset(f->vm.window_block->host, 1, f->vm.window_block->size);
	mem_begin(f->vm.mem);
	for (uint64_t i = 0; i < PARTS; i++) {
		part[i] = mem_region_new_alias(f->vm.mem, "part", f->vm.window,
					       i * PART_PAGES * PAGE,
					       PART_PAGES * PAGE);
		mem_region_add(f->vm.root, 32 * MIB + 2 * i * PART_PAGES * PAGE,
			       part[i], 0);
	}
	mem_commit(f->vm.mem);
}

/* How many calls it took. */
static unsigned int clear_part(struct fixture *f, uint64_t i)
{
	static const uint64_t all = UINT64_MAX;
	unsigned int before = seen.clears;

	assert_int_equal(mem_log_clear(f->vm.mem, f->vm.window_block,
				       i * PART_PAGES, PART_PAGES, &all, NULL),
			 0);
	return seen.clears - before;
}

/* Thousands of slots in a large guest, and for each of them hundreds of windows. */
static void test_a_pass_looks_at_the_slots_of_each_window_alone(void **state)
{
	struct fixture *f = *state;
	struct mem_region *part[PARTS];

	if (!f->vm.kv->has_manual_protect) {
		print_message("skipped: this KVM has no manual protect\n");
		skip();
	}
	add_parts(f, part);
	log_start(f);
	ram_send_sync(&f->send, false);
	for (int pass = 0; pass < 2; pass++) {
		seen.looks = 0;
		for (uint64_t i = 0; i < PARTS; i++)
			assert_int_equal(clear_part(f, i), 1);
		/* One that is passed, itself twice, and the next. */
		assert_true(seen.looks <= 4 * PARTS + 1);
	}
	/* In any other order they are found as well. */
	for (uint64_t i = PARTS; i-- > 0;)
		assert_int_equal(clear_part(f, i), 1);
	/* And none that is gone, or has come back. */
	for (uint64_t i = PARTS / 2; i < PARTS; i++) {
		assert_int_equal(clear_part(f, i), 1);
		mem_region_del(part[i]);
		assert_int_equal(clear_part(f, i), 0);
		mem_region_add(f->vm.root, 128 * MIB + i * PART_PAGES * PAGE,
			       part[i], 0);
		assert_int_equal(clear_part(f, i), 1);
	}
	for (uint64_t i = 0; i < PARTS; i++) {
		mem_region_del(part[i]);
		mem_region_put(part[i]);
	}
}

/* docs/lessons.md: "logging start 270-340 ms at 64 GiB": with INITIALLY_SET a start
 * protects no page, and nobody asks for bits that say nothing yet. */
static void test_lesson_starting_to_log_touches_no_page(void **state)
{
	struct fixture *f = *state;

	if (!f->vm.kv->has_manual_protect) {
		print_message("skipped: this KVM has no manual protect\n");
		skip();
	}
	assert_int_equal(seen.protect_flags,
			 KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE |
				 KVM_DIRTY_LOG_INITIALLY_SET);
	seen.sets = seen.gets = 0;
	log_start(f);
	assert_int_equal(ram_send_sync(&f->send, false), f->vm.block->pages);
	assert_int_equal(seen.sets + seen.gets + seen.clears, 0);
	send_dirty(f);
	assert_int_equal(seen.sets, 1); /* when its first page is sent */
	assert_int_equal(seen.gets, 0);
}

static void test_logging_ends_and_begins_anew(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 3; i++) {
		log_start(f);
		assert_slot(0, RAM_SIZE, f->vm.block->host, 0);
		/* What was sent before counts for nothing. */
		assert_int_equal(round_of(f), f->vm.block->pages);
		assert_slot(0, RAM_SIZE, f->vm.block->host,
			    KVM_MEM_LOG_DIRTY_PAGES);
		guest_write(f, GUEST_DATA, 20);
		mem_log_sync(f->vm.mem, true);
		assert_dirty_data(f, GUEST_DATA, 20);
		ram_send_stop(&f->send, 0);
		vm_wait_log_stop(&f->vm);
		assert_slot(0, RAM_SIZE, f->vm.block->host, 0);
		guest_write(f, GUEST_DATA, 70); /* nobody watches */
	}
}

/* Left on by a region's own logging, its bits cleared once: all of the memory
 * is unsent all the same. */
static void test_logging_found_on_means_every_resident_page(void **state)
{
	struct fixture *f = *state;
	struct mem *mem = f->vm.mem;

	mem_region_set_log(f->vm.ram, true);
	assert_slot(0, RAM_SIZE, f->vm.block->host, KVM_MEM_LOG_DIRTY_PAGES);
	guest_write(f, GUEST_DATA, 20);
	for (int i = 0; i < 2; i++) {
		seen.sets = 0;
		log_start(f);
		assert_int_equal(seen.sets, 0); /* on already */
		assert_int_equal(round_of(f), f->vm.block->pages);
		guest_write(f, GUEST_DATA, 33);
		ram_send_sync(&f->send, true);
		assert_dirty_data(f, GUEST_DATA, 33);
		ram_send_stop(&f->send, 0);
	}
	assert_slot(0, RAM_SIZE, f->vm.block->host, KVM_MEM_LOG_DIRTY_PAGES);
	mem_region_set_log(f->vm.ram, false);
	assert_slot(0, RAM_SIZE, f->vm.block->host, 0);
	assert_int_equal(mem_log_global_start(mem, NULL), 0);
	assert_int_equal(mem_log_global_start(mem, NULL), -EBUSY);
	mem_log_global_stop(mem, 0);
}

static void test_bitmap_that_cannot_be_read_makes_all_dirty(void **state)
{
	struct fixture *f = *state;

	log_start(f);
	round_of(f);
	seen.fail_request = KVM_GET_DIRTY_LOG;
	assert_int_equal(ram_send_sync(&f->send, false), f->vm.block->pages);
}

/* The kernel's bits then stay set, which is "dirty". */
static void test_bits_that_cannot_be_cleared_are_sent_again(void **state)
{
	struct fixture *f = *state;

	if (!f->vm.kv->has_manual_protect) {
		print_message("skipped: this KVM has no manual protect\n");
		skip();
	}
	log_start(f);
	seen.fail_request = KVM_CLEAR_DIRTY_LOG;
	round_of(f);
	seen.fail_request = 0;
	assert_int_equal(ram_send_sync(&f->send, false), f->vm.block->pages);
}

static void test_logging_that_cannot_start_says_where(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;

	vm_window_new(&f->vm, 4 * MIB);
	mem_region_add(f->vm.root, 32 * MIB, f->vm.window, 0);
	memset(f->vm.window_block->host, 1, PAGE);
	log_start(f);
	ram_send_sync(&f->send, false);
	seen.fail_request = KVM_SET_USER_MEMORY_REGION;
	assert_int_equal(mem_log_clear(f->vm.mem, f->vm.window_block, 0, 1,
				       f->vm.window_block->dirty, &err),
			 -EIO);
	assert_non_null(strstr(err_msg(&err), "0x2000000"));
	seen.fail_request = 0;
	send_dirty(f);
	assert_slot(32 * MIB, 4 * MIB, f->vm.window_block->host,
		    KVM_MEM_LOG_DIRTY_PAGES);
}

/* ---- D5 ---- */

static void test_d5_removed_slot_leaves_its_touched_pages_dirty(void **state)
{
	struct fixture *f = *state;
	struct ram_block *block;

	vm_window_new(&f->vm, 8 * MIB);
	block = f->vm.window_block;
	mem_region_add(f->vm.root, 32 * MIB, f->vm.window, 0);
	block->host[3 * PAGE] = 1;
	memset(block->host + 700 * PAGE, 1, 100 * PAGE);
	log_start(f);
	round_of(f);
	assert_int_equal(bitmap_count(block->dirty, 0, block->pages), 0);
	seen.taken_on_delete = block;
	mem_region_del(f->vm.window);
	assert_int_equal(bitmap_count(block->dirty, 0, block->pages), 101);
	assert_true(bitmap_test(block->dirty, 3));
	assert_int_equal(bitmap_count(block->dirty, 700, 800), 100);
}

/* Its writes go on during every one of these moves, and while the memory is
 * away, nowhere. */
static void test_d5_memory_that_moves_under_a_writer_loses_nothing(void **state)
{
	struct fixture *f = *state;
	uint64_t any = 0;

	vm_window_new(&f->vm, 8 * MIB);
	mem_region_add(f->vm.root, 32 * MIB, f->vm.window, 0);
	guest_start(f, 32 * MIB, 200);
	log_start(f);
	for (int i = 0; i < 60; i++) {
		round_of(f);
		if (i % 10 == 0)
			guest_wait_pass(f);
		switch (i % 4) {
		case 0: /* elsewhere and back */
			mem_region_set_offset(f->vm.window, 64 * MIB);
			break;
		case 1:
			mem_region_set_offset(f->vm.window, 32 * MIB);
			break;
		case 2: /* a smaller part of it, and all again */
			mem_region_set_size(f->vm.window, 100 * PAGE);
			break;
		case 3:
			mem_region_set_size(f->vm.window, 8 * MIB);
			break;
		}
	}
	guest_stop(f);
	ram_send_sync(&f->send, true);
	send_dirty(f);
	assert_copy_is_whole(f);
	/* Not each page's: what is read while the memory is away, all ones, may be
	 * added to and written when it is back. */
	for (size_t page = 0; page < 200; page++)
		any |= *(uint64_t *)(f->vm.window_block->host + page * PAGE);
	assert_int_not_equal(any, 0);
}

/* It comes back at another place with the bits of what it was before. */
static void test_d5_slot_that_returns_is_watched_from_the_start(void **state)
{
	struct fixture *f = *state;
	struct ram_block *block;

	vm_window_new(&f->vm, 8 * MIB);
	block = f->vm.window_block;
	memset(block->host, 1, block->size);
	mem_region_add(f->vm.root, 32 * MIB, f->vm.window, 0);
	log_start(f);
	round_of(f);
	mem_region_set_offset(f->vm.window, 64 * MIB);
	send_dirty(f);
	guest_write(f, 64 * MIB + 10 * PAGE, 5);
	mem_log_sync(f->vm.mem, false);
	assert_int_equal(bitmap_count(block->dirty, 10, 15), 5);
	send_dirty(f);
	mem_log_sync(f->vm.mem, false);
	assert_int_equal(bitmap_count(block->dirty, 0, block->pages), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
/* Also as on kernels without manual protect. */
#define TEST_BOTH(name)                                                    \
	TEST(name),                                                        \
	{                                                                  \
#name "_with_plain_log", name, setup_plain, teardown, NULL \
	}
/* And with dirty rings. */
#define TEST_RING(name)                                               \
	{                                                             \
#name "_with_rings", name, setup_ring, teardown, NULL \
	}
	const struct CMUnitTest tests[] = {
		TEST(test_ram_is_cut_at_every_gibibyte_of_the_guest),
		TEST(test_rom_is_readonly_for_the_guest),
		TEST(test_parts_of_pages_are_left_to_emulation),
		TEST(test_changes_in_one_transaction_never_overlap_in_kvm),
		TEST(test_more_slots_than_kvm_has_is_an_error_at_the_start),
		TEST(test_guest_that_needs_too_many_slots_has_larger_ones),
		TEST_BOTH(test_only_pages_that_were_written_are_reported),
		TEST_BOTH(test_pages_first_touched_after_the_start_are_sent),
		TEST_BOTH(test_a_guest_that_writes_all_the_time_loses_nothing),
		TEST_BOTH(
			test_slots_that_begin_in_the_middle_of_a_word_are_exact),
		TEST(test_lesson_unaligned_ranges_are_cleared_in_one_call),
		TEST(test_a_pass_looks_at_the_slots_of_each_window_alone),
		TEST(test_lesson_starting_to_log_touches_no_page),
		TEST_BOTH(test_logging_ends_and_begins_anew),
		TEST_BOTH(test_logging_found_on_means_every_resident_page),
		TEST_BOTH(test_bitmap_that_cannot_be_read_makes_all_dirty),
		TEST(test_bits_that_cannot_be_cleared_are_sent_again),
		TEST(test_logging_that_cannot_start_says_where),
		TEST_BOTH(test_d5_removed_slot_leaves_its_touched_pages_dirty),
		TEST_BOTH(
			test_d5_memory_that_moves_under_a_writer_loses_nothing),
		TEST_BOTH(test_d5_slot_that_returns_is_watched_from_the_start),
		TEST_RING(test_changes_in_one_transaction_never_overlap_in_kvm),
		TEST_RING(test_only_pages_that_were_written_are_reported),
		TEST_RING(test_pages_first_touched_after_the_start_are_sent),
		TEST_RING(test_a_guest_that_writes_all_the_time_loses_nothing),
		TEST_RING(
			test_slots_that_begin_in_the_middle_of_a_word_are_exact),
		TEST_RING(test_d5_removed_slot_leaves_its_touched_pages_dirty),
		TEST_RING(
			test_d5_memory_that_moves_under_a_writer_loses_nothing),
		TEST_RING(test_d5_slot_that_returns_is_watched_from_the_start),
	};

	need_kvm();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
