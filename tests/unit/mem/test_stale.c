// SPDX-License-Identifier: Apache-2.0
/*
 * Stale reads abort in debug builds, with both stacks, and are counted in
 * release builds.
 */
#include <cmocka.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "mem/access.h"
#include "mem/space.h"
#include "mem/stale.h"

static const struct mem_io_ops no_ops;

struct fixture {
	struct mem *mem;
	struct mem_region *root, *io, *ports;
	struct addr_space *as, *port_as;
};

/* In the child only. */
static struct fixture *fixture_new(void)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->mem = mem_new();
	f->root = mem_region_new_container(f->mem, "root", MEM_SIZE_2_64);
	f->ports = mem_region_new_container(f->mem, "ports", 0x10000);
	f->io = mem_region_new_io(f->mem, "io", 0x1000, &no_ops, NULL);
	mem_region_add(f->root, 0, f->io, 0);
	f->as = addr_space_new(f->mem, "memory", f->root);
	f->port_as = addr_space_new(f->mem, "ports", f->ports);
	return f;
}

static void translate(struct addr_space *as)
{
	uint8_t byte;

	mem_read(as, 0, &byte, sizeof(byte));
}

static void *translate_thread(void *as)
{
	translate(as);
	return NULL;
}

static void translate_elsewhere(struct addr_space *as)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, translate_thread, as))
		abort();
	pthread_join(thread, NULL);
}

static uint64_t read_in_own_transaction(void)
{
	struct fixture *f = fixture_new();

	mem_begin(f->mem);
	mem_region_set_offset(f->io, 0x1000);
	translate(f->as);
	mem_commit(f->mem);
	return mem_stale_reads(f->mem);
}

static void
test_reading_what_ones_own_transaction_changed_is_caught(void **state)
{
	(void)state;
	assert_stale(read_in_own_transaction, "has not committed yet");
}

static uint64_t read_other_space(void)
{
	struct fixture *f = fixture_new();

	mem_begin(f->mem);
	translate(f->as); /* not changed yet */
	mem_region_set_offset(f->io, 0x1000);
	translate(f->port_as);
	translate_elsewhere(f->as);
	mem_commit(f->mem);
	translate(f->as);
	return mem_stale_reads(f->mem);
}

static void test_unchanged_spaces_and_other_threads_may_read_on(void **state)
{
	(void)state;
	assert_stale(read_other_space, NULL);
}

static uint64_t read_while_loading(void)
{
	struct fixture *f = fixture_new();

	mem_load_begin(f->mem);
	translate(f->as);
	mem_load_end(f->mem);
	return mem_stale_reads(f->mem);
}

static void test_reading_while_state_loads_is_caught(void **state)
{
	(void)state;
	assert_stale(read_while_loading, "is being loaded");
}

static uint64_t read_elsewhere_while_loading(void)
{
	struct fixture *f = fixture_new();

	mem_load_begin(f->mem);
	translate_elsewhere(f->as);
	mem_load_end(f->mem);
	return mem_stale_reads(f->mem);
}

static void test_reading_while_state_loads_is_caught_in_any_thread(void **state)
{
	(void)state;
	assert_stale(read_elsewhere_while_loading, "is being loaded");
}

static uint64_t load_and_read(void)
{
	struct fixture *f = fixture_new();

	mem_load_begin(f->mem);
	mem_begin(f->mem);
	mem_region_set_offset(f->io, 0x1000);
	mem_commit(f->mem);
	mem_load_end(f->mem);
	translate(f->as);
	translate_elsewhere(f->as);
	return mem_stale_reads(f->mem);
}

static void test_reading_after_the_load_and_its_commit_is_fine(void **state)
{
	(void)state;
	assert_stale(load_and_read, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			test_reading_what_ones_own_transaction_changed_is_caught),
		cmocka_unit_test(
			test_unchanged_spaces_and_other_threads_may_read_on),
		cmocka_unit_test(test_reading_while_state_loads_is_caught),
		cmocka_unit_test(
			test_reading_while_state_loads_is_caught_in_any_thread),
		cmocka_unit_test(
			test_reading_after_the_load_and_its_commit_is_fine),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
