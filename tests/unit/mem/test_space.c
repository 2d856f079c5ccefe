// SPDX-License-Identifier: Apache-2.0
/* Trees, views and transactions by example; random ones are in test_random.c. */
#include <cmocka.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "mem/describe.h"
#include "mem/mem_priv.h"
#include "mem/ram.h"
#include "mem/space.h"
#include "recorder.h"

static const struct mem_io_ops no_ops;

struct fixture {
	struct mem *mem;
	struct mem_region *root;
	struct addr_space *as;
	struct recorder recorder;
	char text[4096];
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->mem = mem_new();
	f->root = mem_region_new_container(f->mem, "root", MEM_SIZE_2_64);
	f->as = addr_space_new(f->mem, "memory", f->root);
	f->recorder.name = "";
	f->recorder.text = f->text;
	f->recorder.size = sizeof(f->text);
	mem_listener_add(f->as, &f->recorder.listener, &recorder_ops,
			 &f->recorder, 0);
	f->text[0] = '\0';
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	mem_listener_del(&f->recorder.listener);
	addr_space_free(f->as);
	mem_region_put(f->root);
	mem_free(f->mem); /* which asserts that no region is left */
	free(f);
	return 0;
}

/* A region that the tree alone holds. */
static struct mem_region *put_in(struct mem_region *container, uint64_t offset,
				 struct mem_region *sub, int priority)
{
	mem_region_add(container, offset, sub, priority);
	mem_region_put(sub);
	return sub;
}

static struct mem_region *io_in(struct mem_region *container, const char *name,
				uint64_t offset, u128 size, int priority)
{
	return put_in(
		container, offset,
		mem_region_new_io(container->mem, name, size, &no_ops, NULL),
		priority);
}

static struct mem_region *container_in(struct mem_region *container,
				       const char *name, uint64_t offset,
				       u128 size, int priority)
{
	return put_in(container, offset,
		      mem_region_new_container(container->mem, name, size),
		      priority);
}

static void test_higher_priority_covers_lower_and_gaps_show_it(void **state)
{
	struct fixture *f = *state;

	io_in(f->root, "low", 0x1000, 0x3000, 0);
	io_in(f->root, "high", 0x2000, 0x1000, 1);
	assert_view(f->as,
		    "1000+1000:low@0 2000+1000:high@0 3000+1000:low@2000");
}

static void test_among_equals_the_later_added_wins(void **state)
{
	struct fixture *f = *state;

	io_in(f->root, "first", 0x0, 0x2000, 5);
	io_in(f->root, "second", 0x1000, 0x2000, 5);
	assert_view(f->as, "0+1000:first@0 1000+2000:second@0");
}

/*
 * The overlap example held against S5: in container A, B lies above C.  D then
 * comes into C with a higher number than B has.  Priorities count among
 * siblings only, so B still wins; a list of stale regions that compared the
 * numbers of B and D would be wrong.
 */
static void test_priority_is_local_so_b_still_wins_over_d_in_c(void **state)
{
	struct fixture *f = *state;
	struct mem_region *a = container_in(f->root, "A", 0x10000, 0x10000, 0);
	struct mem_region *c;

	io_in(a, "B", 0x1000, 0x2000, 2);
	c = container_in(a, "C", 0x0, 0x8000, 1);
	assert_view(f->as, "11000+2000:B@0");
	io_in(c, "D", 0x0, 0x8000, 1000);
	assert_view(f->as, "10000+1000:D@0 11000+2000:B@0 13000+5000:D@3000");
}

static void test_holes_of_a_container_show_what_lies_below(void **state)
{
	struct fixture *f = *state;
	struct mem_region *c;

	io_in(f->root, "below", 0x0, 0x4000, 0);
	c = container_in(f->root, "c", 0x0, 0x4000, 1);
	io_in(c, "in", 0x1000, 0x1000, 0);
	assert_view(f->as,
		    "0+1000:below@0 1000+1000:in@0 2000+2000:below@2000");
}

static void test_io_with_sub_regions_shows_where_they_do_not(void **state)
{
	struct fixture *f = *state;
	struct mem_region *bar = io_in(f->root, "bar", 0x0, 0x4000, 0);

	io_in(bar, "msix", 0x1000, 0x1000, 0);
	assert_view(f->as, "0+1000:bar@0 1000+1000:msix@0 2000+2000:bar@2000");
}

static void test_a_sub_region_is_cut_at_its_container(void **state)
{
	struct fixture *f = *state;
	struct mem_region *c = container_in(f->root, "c", 0x1000, 0x1000, 0);

	io_in(c, "long", 0x800, 0x2000, 0);
	assert_view(f->as, "1800+800:long@0");
}

static void test_a_region_may_be_all_2_64_bytes(void **state)
{
	struct fixture *f = *state;
	struct mem_region *all = io_in(f->root, "all", 0, MEM_SIZE_2_64, -1);
	const struct mem_range *range;

	assert_true(mem_region_size(all) == MEM_SIZE_2_64);
	rcu_read_lock();
	range = flat_view_find(addr_space_view(f->as), UINT64_MAX);
	assert_non_null(range);
	assert_true(range->size == MEM_SIZE_2_64);
	rcu_read_unlock();
	io_in(f->root, "last", UINT64_MAX, 1, 0);
	assert_view(f->as, "0+ffffffffffffffff:all@0 "
			   "ffffffffffffffff+1:last@0");
}

static void test_an_alias_shows_a_window_and_its_readonly_flag(void **state)
{
	struct fixture *f = *state;
	struct mem_region *target =
		mem_region_new_io(f->mem, "io", 0x10000, &no_ops, NULL);
	struct mem_region *alias =
		mem_region_new_alias(f->mem, "alias", target, 0x4000, 0x2000);
	struct mem_region *second =
		mem_region_new_alias(f->mem, "second", alias, 0x1000, 0x800);

	put_in(f->root, 0x100000, alias, 0);
	put_in(f->root, 0x200000, second, 0);
	mem_region_set_readonly(alias, true);
	assert_view(f->as, "100000+2000:io@4000! 200000+800:io@5000!");
	mem_region_set_readonly(alias, false);
	mem_region_set_alias_offset(alias, 0xf000);
	assert_view(f->as, "100000+1000:io@f000");
	mem_region_put(target);
}

static void test_a_disabled_region_shows_nowhere(void **state)
{
	struct fixture *f = *state;
	struct mem_region *target = io_in(f->root, "io", 0x0, 0x1000, 0);

	put_in(f->root, 0x8000,
	       mem_region_new_alias(f->mem, "alias", target, 0, 0x1000), 0);
	assert_view(f->as, "0+1000:io@0 8000+1000:io@0");
	mem_region_set_enabled(target, false);
	assert_view(f->as, "");
	mem_region_set_enabled(target, true);
	assert_view(f->as, "0+1000:io@0 8000+1000:io@0");
}

static void test_adjacent_parts_of_one_region_are_one_range(void **state)
{
	struct fixture *f = *state;
	struct mem_region *cut;

	io_in(f->root, "io", 0x0, 0x3000, 0);
	cut = io_in(f->root, "cut", 0x1000, 0x1000, 1);
	assert_view(f->as, "0+1000:io@0 1000+1000:cut@0 2000+1000:io@2000");
	mem_region_del(cut);
	assert_view(f->as, "0+3000:io@0");
}

static void test_listeners_hear_of_differences_only(void **state)
{
	struct fixture *f = *state;
	struct mem_region *bar;

	io_in(f->root, "stays", 0x8000, 0x1000, 0);
	bar = io_in(f->root, "bar", 0x1000, 0x1000, 0);
	f->text[0] = '\0';
	mem_region_set_offset(bar, 0x4000);
	assert_string_equal(f->text, "begin\n"
				     "del 1000+1000:bar@0\n"
				     "add 4000+1000:bar@0\n"
				     "commit\n");
}

static void test_a_commit_without_difference_calls_nobody(void **state)
{
	struct fixture *f = *state;
	struct mem_region *bar = io_in(f->root, "bar", 0x1000, 0x1000, 0);
	struct mem_region *hidden = io_in(f->root, "hidden", 0x1000, 8, -1);
	uint64_t commits = mem_commit_count(f->mem);

	f->text[0] = '\0';
	mem_begin(f->mem);
	mem_commit(f->mem);
	mem_begin(f->mem);
	mem_region_set_offset(bar, 0x2000);
	mem_region_set_enabled(bar, false);
	mem_region_set_offset(bar, 0x1000);
	mem_region_set_enabled(bar, true);
	mem_commit(f->mem);
	mem_region_set_offset(hidden, 0x1800);
	mem_region_set_readonly(hidden, true);
	assert_string_equal(f->text, "");
	assert_int_equal(mem_commit_count(f->mem), commits);
}

static void test_transactions_nest_and_render_once(void **state)
{
	struct fixture *f = *state;
	uint64_t commits = mem_commit_count(f->mem);
	uint64_t renders = f->mem->renders;

	mem_begin(f->mem);
	for (unsigned int i = 0; i < 100; i++) {
		mem_begin(f->mem);
		io_in(f->root, "io", i * 0x1000, 0x800, 0);
		mem_commit(f->mem);
		assert_int_equal(f->mem->renders, renders);
		assert_string_equal(f->text, "");
	}
	mem_commit(f->mem);
	assert_int_equal(f->mem->renders, renders + 1);
	assert_int_equal(mem_commit_count(f->mem), commits + 1);
	rcu_read_lock();
	assert_int_equal(flat_view_count(addr_space_view(f->as)), 100);
	rcu_read_unlock();
}

static void test_only_changed_address_spaces_render(void **state)
{
	struct fixture *f = *state;
	struct mem_region *ports =
		mem_region_new_container(f->mem, "ports", 0x10000);
	struct addr_space *as = addr_space_new(f->mem, "ports", ports);
	uint64_t renders = f->mem->renders;

	io_in(ports, "com1", 0x3f8, 8, 0);
	assert_int_equal(f->mem->renders, renders + 1);
	assert_string_equal(f->text, "");
	assert_view(as, "3f8+8:com1@0");
	addr_space_free(as);
	mem_region_put(ports);
}

static void
test_a_change_inside_a_disabled_container_renders_nothing(void **state)
{
	struct fixture *f = *state;
	struct mem_region *c = container_in(f->root, "c", 0, 0x10000, 0);
	uint64_t renders;

	mem_region_set_enabled(c, false);
	renders = f->mem->renders;
	io_in(c, "io", 0, 0x1000, 0);
	assert_int_equal(f->mem->renders, renders);
	mem_region_set_enabled(c, true);
	assert_view(f->as, "0+1000:io@0");
}

static void
test_a_region_dropped_in_a_transaction_stays_in_the_view(void **state)
{
	struct fixture *f = *state;
	struct mem_region *bar = io_in(f->root, "bar", 0x1000, 0x1000, 0);
	const struct flat_view *view;

	rcu_read_lock();
	view = addr_space_view(f->as);
	mem_region_del(bar); /* the last reference */
	assert_string_equal(
		mem_region_name(flat_view_find(view, 0x1000)->region), "bar");
	assert_null(flat_view_find(addr_space_view(f->as), 0x1000));
	rcu_read_unlock();
}

static void test_a_region_may_move_to_another_container(void **state)
{
	struct fixture *f = *state;
	struct mem_region *old =
		mem_region_new_container(f->mem, "old", 0x1000);
	struct mem_region *io =
		mem_region_new_io(f->mem, "io", 0x100, &no_ops, NULL);

	mem_region_add(old, 0, io, 0);
	mem_begin(f->mem);
	mem_region_put(old); /* dead, and with it its hold on the region */
	mem_region_add(f->root, 0x100, io, 0);
	mem_commit(f->mem);
	assert_view(f->as, "100+100:io@0");
	mem_region_put(io);
}

static void test_lookup_finds_the_range_or_the_next_one(void **state)
{
	struct fixture *f = *state;
	const struct flat_view *view;

	mem_begin(f->mem);
	for (uint64_t i = 1; i <= 1000; i++)
		io_in(f->root, "io", i * 0x1000, 0x800, 0);
	mem_commit(f->mem);
	rcu_read_lock();
	view = addr_space_view(f->as);
	assert_null(flat_view_find(view, 0xfff));
	assert_int_equal(flat_view_find_from(view, 0)->gpa, 0x1000);
	for (uint64_t i = 1; i <= 1000; i++) {
		uint64_t gpa = i * 0x1000;

		assert_int_equal(flat_view_find(view, gpa)->gpa, gpa);
		assert_int_equal(flat_view_find(view, gpa + 0x7ff)->gpa, gpa);
		assert_int_equal(flat_view_find_from(view, gpa + 1)->gpa, gpa);
		assert_null(flat_view_find(view, gpa + 0x800));
		if (i < 1000)
			assert_int_equal(
				flat_view_find_from(view, gpa + 0x800)->gpa,
				gpa + 0x1000);
	}
	assert_null(flat_view_find_from(view, 1000 * 0x1000 + 0x800));
	rcu_read_unlock();
}

static void describe_region(void *opaque, const struct mem_region_info *info)
{
	struct fixture *f = opaque;

	text_add(f->text, sizeof(f->text), "%*s%s %s %lx+%lx p%d%s",
		 (int)info->depth, "", info->kind, info->name,
		 (unsigned long)info->addr, (unsigned long)info->size,
		 info->priority, info->is_enabled ? "" : " off");
	if (info->alias_target)
		text_add(f->text, sizeof(f->text), " -> %s@%lx",
			 info->alias_target, info->alias_offset);
	text_add(f->text, sizeof(f->text), "\n");
}

static void describe_range(void *opaque, const struct mem_range *range)
{
	struct fixture *f = opaque;

	text_add_range(f->text, sizeof(f->text), range);
	text_add(f->text, sizeof(f->text), "\n");
}

static void test_describe_walks_the_tree_and_the_view(void **state)
{
	static const struct mem_visitor visitor = {
		.region = describe_region,
		.range = describe_range,
	};
	struct fixture *f = *state;
	struct mem_region *c = container_in(f->root, "pci", 0x8000, 0x8000, -1);
	struct mem_region *io = io_in(c, "bar", 0x1000, 0x1000, 0);

	put_in(f->root, 0x0,
	       mem_region_new_alias(f->mem, "low", io, 0x800, 0x800), 3);
	mem_region_set_enabled(io_in(c, "off", 0x3000, 0x10, 0), false);
	f->text[0] = '\0';
	mem_describe(f->as, &visitor, f);
	assert_string_equal(f->text, "container root 0+0 p0\n"
				     " alias low 0+800 p3 -> bar@800\n"
				     " container pci 8000+8000 p-1\n"
				     "  io bar 9000+1000 p0\n"
				     "  io off b000+10 p0 off\n"
				     "0+800:bar@800\n"
				     "9000+1000:bar@0\n");
}

#define fact(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		fact(test_higher_priority_covers_lower_and_gaps_show_it),
		fact(test_among_equals_the_later_added_wins),
		fact(test_priority_is_local_so_b_still_wins_over_d_in_c),
		fact(test_holes_of_a_container_show_what_lies_below),
		fact(test_io_with_sub_regions_shows_where_they_do_not),
		fact(test_a_sub_region_is_cut_at_its_container),
		fact(test_a_region_may_be_all_2_64_bytes),
		fact(test_an_alias_shows_a_window_and_its_readonly_flag),
		fact(test_a_disabled_region_shows_nowhere),
		fact(test_adjacent_parts_of_one_region_are_one_range),
		fact(test_listeners_hear_of_differences_only),
		fact(test_a_commit_without_difference_calls_nobody),
		fact(test_transactions_nest_and_render_once),
		fact(test_only_changed_address_spaces_render),
		fact(test_a_change_inside_a_disabled_container_renders_nothing),
		fact(test_a_region_dropped_in_a_transaction_stays_in_the_view),
		fact(test_a_region_may_move_to_another_container),
		fact(test_lookup_finds_the_range_or_the_next_one),
		fact(test_describe_walks_the_tree_and_the_view),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
