// SPDX-License-Identifier: Apache-2.0
/*
 * Writes against what is harvested.  vCPU threads number their writes; a copy of
 * memory is kept as a migration would, by what the log says, round after round.
 * Whenever the writers pause, and one more round was made, the copy must equal the
 * memory: a write that was not reported shows as an old number.
 *
 * Four mutants keep the test honest: each breaks one rule of the order, and the
 * same comparison must find it.
 */
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "sim_vm.h"

#define MIB      (1ull << 20)
#define RAM_SIZE (8 * MIB)
#define PAGES    (RAM_SIZE >> RAM_PAGE_SHIFT)
#define ASIDE    (PAGES - 64) /* from here on no vCPU writes */
#define WRITES   1000000u
#define PERIOD   5000u /* writes from pause to pause */
/* Made where a mutant leaves a gap. */
#define GAP_WRITES 1000u

enum mutant {
	NONE,
	NO_FLUSH,          /* log buffers are not emptied before a sync */
	PUBLISH_FIRST,     /* ring: read, then reset (D2) */
	READ_BEFORE_CLEAR, /* bitmap: read, then clear (D1) */
	NO_ASIDE,          /* writes with no vCPU are not looked at */
};

struct world {
	struct test_vm vm;
	enum mutant mutant;
	uint64_t copy[PAGES]; /* first word of each page, as "sent" */
	uint64_t *seen;       /* bitmap of one pass */
	pthread_t threads[VM_CPUS];
	bool writes_aside;
	bool has_gap;          /* a mutant leaves one in this round */
	uint64_t window_pages; /* written too */

	/* atomic */
	bool is_over;
	uint64_t quota; /* writes that all writers may have made */
	uint64_t writes;
	bool is_busy[VM_CPUS];
};

/* ---- the guest ---- */

static uint64_t next(uint64_t *random)
{
	*random = *random * 6364136223846793005u + 1442695040888963407u;
	return *random >> 33;
}

static void leave_and_enter(struct sim_vcpu *vcpu)
{
	sim_leave(vcpu);
	if (sim_ring_is_full(&vcpu->ring))
		sim_ring_full(vcpu);
	sim_enter(vcpu);
}

/* Every page is one writer's.  Half of the writes go to a few pages. */
static uint64_t pick_page(const struct world *w, unsigned int index,
			  uint64_t *random)
{
	uint64_t pages = next(random) % 2 ? ASIDE : ASIDE / 64;

	if (w->window_pages && next(random) % 4 == 0)
		return (VM_WINDOW >> RAM_PAGE_SHIFT) +
		       next(random) % (w->window_pages / VM_CPUS) * VM_CPUS +
		       index;
	return next(random) % (pages / VM_CPUS) * VM_CPUS + index;
}

/* Stays in the guest when it pauses: only a flush empties its log buffer. */
static void *writer(void *opaque)
{
	struct sim_vcpu *vcpu = ((struct sim_vcpu **)opaque)[0];
	struct world *w = ((struct world **)opaque)[1];
	bool *is_busy = &w->is_busy[vcpu->vcpu.index];
	uint64_t random = vcpu->vcpu.index + 1, number = 0;

	sim_enter(vcpu);
	while (!__atomic_load_n(&w->is_over, __ATOMIC_ACQUIRE)) {
		if (sim_is_wanted(vcpu))
			leave_and_enter(vcpu);
		/* Pairs with wait_paused(). */
		__atomic_store_n(is_busy, true, __ATOMIC_SEQ_CST);
		if (__atomic_load_n(&w->writes, __ATOMIC_SEQ_CST) <
		    __atomic_load_n(&w->quota, __ATOMIC_SEQ_CST)) {
			sim_store(vcpu,
				  pick_page(w, vcpu->vcpu.index, &random)
					  << RAM_PAGE_SHIFT,
				  ++number, sizeof(number));
			__atomic_add_fetch(&w->writes, 1, __ATOMIC_SEQ_CST);
			continue;
		}
		__atomic_store_n(is_busy, false, __ATOMIC_SEQ_CST);
		sched_yield();
	}
	sim_leave(vcpu);
	return NULL;
}

/* ---- the migration ---- */

__attribute__((no_sanitize("thread"), noinline)) static uint64_t
first_word(const struct ram_block *block, uint64_t page)
{
	return *(const volatile uint64_t *)(block->host +
					    (page << RAM_PAGE_SHIFT));
}

static void read_pages(struct world *w)
{
	uint64_t page = 0;

	while ((page = bitmap_next_set(w->seen, page, PAGES)) < PAGES) {
		w->copy[page] = first_word(w->vm.block, page);
		page++;
	}
}

static void take_dirty(struct world *w)
{
	for (uint64_t i = 0; i < bitmap_words(PAGES); i++)
		w->seen[i] = bitmap_take_word_atomic(w->vm.block->dirty, i);
}

/* The quota is used up, and nobody writes. */
static void wait_paused(struct world *w)
{
	while (__atomic_load_n(&w->writes, __ATOMIC_SEQ_CST) <
	       __atomic_load_n(&w->quota, __ATOMIC_SEQ_CST))
		sched_yield();
	for (unsigned int i = 0; i < VM_CPUS; i++) {
		while (__atomic_load_n(&w->is_busy[i], __ATOMIC_SEQ_CST))
			sched_yield();
	}
}

/* Where a mutant has read and not yet protected, let them write. */
static void let_them_write(struct world *w)
{
	if (!w->has_gap)
		return;
	__atomic_add_fetch(&w->quota, GAP_WRITES, __ATOMIC_SEQ_CST);
	wait_paused(w);
}

static void clear(struct world *w)
{
	assert_int_equal(
		mem_log_clear(w->vm.mem, w->vm.block, 0, PAGES, w->seen, NULL),
		0);
}

/* A ring's entries are published, and read, ahead of the reset. */
static void publish_first(struct world *w, struct sim_ring *ring)
{
	struct sim *sim = w->vm.sim;
	uint32_t count = sim_ring_collect(ring, sim->harvest, ring->size);

	for (uint32_t i = 0; i < count; i++)
		ram_block_mark_dirty(w->vm.block,
				     sim->harvest[i].offset << RAM_PAGE_SHIFT,
				     RAM_PAGE_SIZE);
	take_dirty(w);
	read_pages(w);
	let_them_write(w);
	sim_ring_reset(sim, ring);
}

static void round_of(struct world *w)
{
	struct sim *sim = w->vm.sim;

	switch (w->mutant) {
	case NO_FLUSH:
		sim_harvest_all(sim);
		break;
	case PUBLISH_FIRST:
		sim_flush_all(sim);
		for (unsigned int i = 0; i < VM_CPUS; i++) {
			lock_acquire(&sim->slots_lock);
			publish_first(w, &w->vm.vcpus[i]->ring);
			lock_release(&sim->slots_lock);
		}
		return;
	case NO_ASIDE:
		sim_flush_all(sim);
		for (unsigned int i = 0; i < VM_CPUS; i++) {
			lock_acquire(&sim->slots_lock);
			sim_harvest_ring(sim, &w->vm.vcpus[i]->ring);
			lock_release(&sim->slots_lock);
		}
		break;
	default:
		mem_log_sync(w->vm.mem, false);
		break;
	}
	take_dirty(w);
	if (w->mutant == READ_BEFORE_CLEAR) {
		read_pages(w);
		let_them_write(w);
		clear(w);
	} else {
		clear(w);
		read_pages(w);
	}
}

/* A table dump, say: more pages than a ring holds. */
static void write_aside(struct world *w, uint64_t number)
{
	for (uint64_t page = 0; page < PAGES; page++)
		assert_int_equal(sim_write_aside(w->vm.sim,
						 (page << RAM_PAGE_SHIFT) + 8,
						 &number, sizeof(number)),
				 0);
	for (uint64_t page = ASIDE; page < PAGES; page++)
		assert_int_equal(sim_write_aside(w->vm.sim,
						 page << RAM_PAGE_SHIFT,
						 &number, sizeof(number)),
				 0);
}

/* How many pages of the copy are not what memory has. */
static uint64_t count_wrong(const struct world *w)
{
	uint64_t wrong = 0;

	for (uint64_t page = 0; page < PAGES; page++)
		wrong += w->copy[page] != first_word(w->vm.block, page);
	return wrong;
}

static void start_log(struct world *w)
{
	assert_int_equal(mem_log_global_start(w->vm.mem, NULL), 0);
	bitmap_set(w->vm.block->known, 0, PAGES);
	bitmap_set(w->seen, 0, PAGES);
	clear(w);
	read_pages(w);
}

/* Ends with the writers paused. */
static uint64_t run_period(struct world *w, unsigned int rounds)
{
	__atomic_add_fetch(&w->quota, PERIOD, __ATOMIC_SEQ_CST);
	if (w->mutant)
		wait_paused(w);
	w->has_gap = true;
	for (unsigned int i = 0; i < rounds; i++)
		round_of(w);
	w->has_gap = false;
	wait_paused(w);
	round_of(w);
	return count_wrong(w);
}

static void *world_args[VM_CPUS][2];

static void world_init(struct world *w, const char *options, enum mutant mutant)
{
	memset(w, 0, sizeof(*w));
	vm_init(&w->vm, RAM_SIZE, options);
	w->mutant = mutant;
	w->seen = bitmap_new(PAGES);
	for (unsigned int i = 0; i < VM_CPUS; i++) {
		world_args[i][0] = w->vm.vcpus[i];
		world_args[i][1] = w;
		pthread_create(&w->threads[i], NULL, writer, world_args[i]);
	}
}

static void world_fini(struct world *w)
{
	__atomic_store_n(&w->is_over, true, __ATOMIC_SEQ_CST);
	for (unsigned int i = 0; i < VM_CPUS; i++)
		pthread_join(w->threads[i], NULL);
	mem_log_global_stop(w->vm.mem, 0);
	bitmap_free(w->seen, PAGES);
	vm_fini(&w->vm);
}

/* Pages that were lost in @writes writes. */
static uint64_t lost_in(const char *options, enum mutant mutant,
			uint64_t writes)
{
	static struct world w;
	uint64_t wrong = 0;

	world_init(&w, options, mutant);
	w.writes_aside = mutant == NO_ASIDE;
	start_log(&w);
	for (uint64_t n = 0; n < writes / PERIOD; n++) {
		if (w.writes_aside)
			write_aside(&w, n + 1);
		wrong += run_period(&w, mutant ? 1 : 1 + n % 3);
		if (mutant && wrong)
			break;
	}
	if (!mutant)
		assert_true(w.writes >= writes);
	world_fini(&w);
	return wrong;
}

/* ---- tests ---- */

static void test_bitmap_misses_none_of_a_million_writes(void **state)
{
	(void)state;
	assert_int_equal(lost_in("sim", NONE, WRITES), 0);
	assert_int_equal(lost_in("sim,split=eager,leaf=2M", NONE, WRITES / 4),
			 0);
}

static void test_ring_misses_none_of_a_million_writes(void **state)
{
	(void)state;
	assert_int_equal(lost_in("sim,dirty=ring", NONE, WRITES), 0);
	assert_int_equal(
		lost_in("sim,dirty=ring,split=eager,leaf=2M", NONE, WRITES / 4),
		0);
}

static void test_smallest_ring_misses_none_of_a_million_writes(void **state)
{
	(void)state;
	assert_int_equal(lost_in("sim,dirty=ring,ring-entries=1024,leaf=4K",
				 NONE, WRITES),
			 0);
}

static void test_missing_flush_is_found(void **state)
{
	(void)state;
	assert_true(lost_in("sim", NO_FLUSH, WRITES) > 0);
	assert_true(lost_in("sim,dirty=ring", NO_FLUSH, WRITES) > 0);
}

static void test_publishing_before_the_reset_is_found(void **state)
{
	(void)state;
	assert_true(lost_in("sim,dirty=ring", PUBLISH_FIRST, WRITES) > 0);
}

static void test_reading_before_the_clear_is_found(void **state)
{
	(void)state;
	assert_true(lost_in("sim", READ_BEFORE_CLEAR, WRITES) > 0);
}

static void test_unread_side_bitmap_is_found(void **state)
{
	(void)state;
	assert_true(lost_in("sim,dirty=ring", NO_ASIDE, WRITES) > 0);
}

/* Nobody with a ring wrote them, and there are more than a ring holds. */
static void check_writes_aside(const char *options)
{
	static struct world w;

	world_init(&w, options, NONE);
	start_log(&w);
	for (uint64_t n = 0; n < 20; n++) {
		write_aside(&w, n + 1);
		assert_int_equal(run_period(&w, n % 2), 0);
		assert_int_equal(w.copy[PAGES - 1],
				 first_word(w.vm.block, PAGES - 1));
	}
	world_fini(&w);
}

static void test_writes_with_no_vcpu_are_found_in_both_modes(void **state)
{
	(void)state;
	check_writes_aside("sim");
	check_writes_aside("sim,dirty=ring,ring-entries=1024");
}

static void test_write_aside_of_what_is_no_ram_is_refused(void **state)
{
	struct test_vm vm;
	uint64_t value = 1;

	(void)state;
	vm_init(&vm, RAM_SIZE, "sim");
	assert_int_equal(sim_write_aside(vm.sim, RAM_SIZE, &value, 8), -EFAULT);
	assert_int_equal(sim_write_aside(vm.sim, RAM_SIZE - 4, &value, 8),
			 -EFAULT);
	assert_int_equal(sim_write_aside(vm.sim, RAM_SIZE - 8, &value, 8), 0);
	vm_fini(&vm);
}

static void test_start_stop_and_start_again_lose_nothing(void **state)
{
	static const char *const options[] = {
		"sim",
		"sim,dirty=ring,ring-entries=1024",
		"sim,collapse=inline",
		"sim,dirty=ring,collapse=inline",
	};
	static struct world w;

	(void)state;
	for (size_t i = 0; i < array_size(options); i++) {
		world_init(&w, options[i], NONE);
		for (unsigned int n = 0; n < 40; n++) {
			start_log(&w);
			assert_int_equal(run_period(&w, n % 3), 0);
			__atomic_add_fetch(&w.quota, PERIOD, __ATOMIC_SEQ_CST);
			if (n % 2) /* a cancel in the middle of a round */
				mem_log_sync(w.vm.mem, false);
			mem_log_global_stop(w.vm.mem, 0);
			take_dirty(&w);
		}
		world_fini(&w);
	}
}

/* D5.  Writers never stop; whatever was written to the window by the time that it
 * is gone is reported. */
static void check_slot_removal(const char *options)
{
	static struct world w;
	const uint64_t size = 2 * MIB, pages = size >> RAM_PAGE_SHIFT;

	world_init(&w, options, NONE);
	vm_window_new(&w.vm, size);
	w.window_pages = pages;
	start_log(&w);
	__atomic_store_n(&w.quota, UINT64_MAX, __ATOMIC_SEQ_CST);
	for (unsigned int n = 0; n < 50; n++) {
		struct ram_block *block = w.vm.window_block;
		uint64_t until;

		mem_region_add(w.vm.root, VM_WINDOW, w.vm.window, 0);
		until = __atomic_load_n(&w.writes, __ATOMIC_SEQ_CST) + 2000;
		while (__atomic_load_n(&w.writes, __ATOMIC_SEQ_CST) < until)
			sched_yield();
		for (uint64_t i = 0; i < bitmap_words(pages); i++)
			bitmap_take_word_atomic(block->dirty, i);
		mem_region_del(w.vm.window);
		/* A vCPU that found no mapping any more may still be writing as
		 * a device does, by the view before. */
		mem_synchronize(w.vm.mem);
		for (uint64_t page = 0; page < pages; page++) {
			if (first_word(block, page))
				assert_true(bitmap_test(block->dirty, page));
		}
		memset(block->host, 0, size);
	}
	world_fini(&w);
}

static void test_slot_that_goes_while_it_is_written_is_dirty(void **state)
{
	(void)state;
	check_slot_removal("sim");
	check_slot_removal("sim,dirty=ring,ring-entries=1024");
}

static void test_all_rings_full_at_once_go_on(void **state)
{
	static struct world w;

	(void)state;
	world_init(&w, "sim,dirty=ring,ring-entries=1024", NONE);
	start_log(&w);
	__atomic_add_fetch(&w.quota, 100 * PERIOD, __ATOMIC_SEQ_CST);
	wait_paused(&w); /* no sync: rings fill, vCPUs empty them */
	for (unsigned int i = 0; i < VM_CPUS; i++)
		assert_true(__atomic_load_n(&w.vm.vcpus[i]->ring_full_exits,
					    __ATOMIC_RELAXED) > 0);
	round_of(&w);
	assert_int_equal(count_wrong(&w), 0);
	world_fini(&w);
}

static void test_ring_entries_go_round_by_the_flag_protocol(void **state)
{
	struct sim_ring_entry taken[4];
	struct test_vm vm;
	struct sim_ring *ring;

	(void)state;
	vm_init(&vm, RAM_SIZE, "sim,dirty=ring,ring-entries=1024");
	ring = &vm.vcpus[0]->ring;
	assert_int_equal(mem_log_global_start(vm.mem, NULL), 0);
	sim_enter(vm.vcpus[0]);
	for (uint64_t page = 0; page < 6; page++)
		sim_store(vm.vcpus[0], page << RAM_PAGE_SHIFT, page, 8);
	assert_int_equal(ring->entries[0].flags, 0); /* in the buffer */
	sim_leave(vm.vcpus[0]);
	assert_int_equal(ring->entries[0].flags, SIM_RING_DIRTY);
	assert_int_equal(ring->entries[5].flags, SIM_RING_DIRTY);
	assert_int_equal(ring->entries[6].flags, 0);

	lock_acquire(&vm.sim->slots_lock);
	assert_int_equal(sim_ring_reset(vm.sim, ring), 0);
	assert_int_equal(sim_ring_collect(ring, taken, 4), 4);
	assert_int_equal(taken[3].offset, 3);
	assert_int_equal(ring->entries[3].flags, SIM_RING_RESET);
	assert_int_equal(ring->entries[4].flags, SIM_RING_DIRTY);
	assert_int_equal(sim_ring_reset(vm.sim, ring), 4);
	assert_int_equal(ring->entries[3].flags, 0);
	lock_release(&vm.sim->slots_lock);

	/* Of the four, written again; the other two are still writable. */
	sim_enter(vm.vcpus[0]);
	for (uint64_t page = 0; page < 6; page++)
		sim_store(vm.vcpus[0], page << RAM_PAGE_SHIFT, page, 8);
	sim_leave(vm.vcpus[0]);
	assert_int_equal(ring->dirty_index, 10);
	mem_log_global_stop(vm.mem, 0);
	vm_fini(&vm);
}

/* ---- who wrote how much ---- */

#define COUNTED 600u /* pages: more than a log buffer holds, less than a ring */

static uint64_t writes_of(const struct test_vm *vm, unsigned int vcpu)
{
	uint64_t pages;

	assert_int_equal(vm->accel->ops->vcpu_writes(vm->accel, vcpu, &pages),
			 0);
	return pages;
}

static void write_counted(struct test_vm *vm, unsigned int vcpu)
{
	sim_enter(vm->vcpus[vcpu]);
	for (uint64_t page = 0; page < COUNTED; page++)
		sim_store(vm->vcpus[vcpu], page << RAM_PAGE_SHIFT, page, 8);
	sim_leave(vm->vcpus[vcpu]);
}

/* As it is sent. */
static void take_and_clear(struct test_vm *vm)
{
	uint64_t seen[PAGES / BITMAP_WORD_BITS];

	for (uint64_t i = 0; i < bitmap_words(PAGES); i++)
		seen[i] = bitmap_take_word_atomic(vm->block->dirty, i);
	assert_int_equal(bitmap_count(seen, 0, PAGES), COUNTED);
	assert_int_equal(
		mem_log_clear(vm->mem, vm->block, 0, PAGES, seen, NULL), 0);
}

/* However often the log is asked before a page is sent. */
static void check_page_counts_once_a_round(const char *options)
{
	struct test_vm vm;

	vm_init(&vm, RAM_SIZE, options);
	assert_int_equal(mem_log_global_start(vm.mem, NULL), 0);
	bitmap_set(vm.block->known, 0, PAGES);
	for (uint64_t round = 1; round <= 3; round++) {
		for (unsigned int i = 0; i < 5; i++) {
			write_counted(&vm, 0);
			mem_log_sync(vm.mem, false);
			assert_int_equal(writes_of(&vm, 0), round * COUNTED);
		}
		write_counted(&vm, 1);
		mem_log_sync(vm.mem, false);
		assert_int_equal(writes_of(&vm, 1), 0);
		take_and_clear(&vm);
	}
	mem_log_global_stop(vm.mem, 0);
	vm_fini(&vm);
}

static void test_page_that_waits_to_be_sent_counts_once(void **state)
{
	(void)state;
	check_page_counts_once_a_round("sim");
	check_page_counts_once_a_round("sim,dirty=ring,ring-entries=2048");
}

/* A guest that goes round its pages faster than they are sent empties its ring again
 * and again. */
static void test_full_ring_makes_no_page_dirty_again(void **state)
{
	struct test_vm vm;

	(void)state;
	vm_init(&vm, RAM_SIZE, "sim,dirty=ring,ring-entries=2048");
	assert_int_equal(mem_log_global_start(vm.mem, NULL), 0);
	write_counted(&vm, 0);
	assert_int_equal(writes_of(&vm, 0), COUNTED);
	for (unsigned int i = 0; i < 100; i++) {
		sim_ring_full(vm.vcpus[0]);
		assert_int_equal(writes_of(&vm, 0), COUNTED);
		/* Faults again, and may be sent before it is harvested. */
		write_counted(&vm, 0);
		assert_int_equal(writes_of(&vm, 0), 2 * COUNTED);
	}
	take_and_clear(&vm);
	sim_ring_full(vm.vcpus[0]);
	assert_int_equal(writes_of(&vm, 0), 2 * COUNTED);
	take_and_clear(&vm);
	mem_log_global_stop(vm.mem, 0);
	vm_fini(&vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bitmap_misses_none_of_a_million_writes),
		cmocka_unit_test(test_ring_misses_none_of_a_million_writes),
		cmocka_unit_test(
			test_smallest_ring_misses_none_of_a_million_writes),
		cmocka_unit_test(test_missing_flush_is_found),
		cmocka_unit_test(test_publishing_before_the_reset_is_found),
		cmocka_unit_test(test_reading_before_the_clear_is_found),
		cmocka_unit_test(test_unread_side_bitmap_is_found),
		cmocka_unit_test(
			test_writes_with_no_vcpu_are_found_in_both_modes),
		cmocka_unit_test(test_write_aside_of_what_is_no_ram_is_refused),
		cmocka_unit_test(test_start_stop_and_start_again_lose_nothing),
		cmocka_unit_test(
			test_slot_that_goes_while_it_is_written_is_dirty),
		cmocka_unit_test(test_all_rings_full_at_once_go_on),
		cmocka_unit_test(
			test_ring_entries_go_round_by_the_flag_protocol),
		cmocka_unit_test(test_page_that_waits_to_be_sent_counts_once),
		cmocka_unit_test(test_full_ring_makes_no_page_dirty_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
