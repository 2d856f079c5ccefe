// SPDX-License-Identifier: Apache-2.0
/* Listeners: order of calls, eventfds, and the drivers of dirty logging. */
#include <cmocka.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/err.h"
#include "mem/ram.h"
#include "mem/space.h"
#include "recorder.h"

static const struct mem_io_ops no_ops;

struct fixture {
	struct mem *mem;
	struct mem_region *root, *io;
	struct addr_space *as;
	struct ram_block *block;
	struct recorder low, high;
	char text[4096];
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->mem = mem_new();
	ram_block_new(f->mem, "ram", 0x8000, NULL, &f->block, NULL);
	f->root = mem_region_new_container(f->mem, "root", MEM_SIZE_2_64);
	f->io = mem_region_new_io(f->mem, "io", 0x1000, &no_ops, NULL);
	mem_region_add(f->root, 0x1000, f->io, 0);
	f->as = addr_space_new(f->mem, "memory", f->root);
	f->low.name = "low ";
	f->high.name = "high ";
	f->low.text = f->high.text = f->text;
	f->low.size = f->high.size = sizeof(f->text);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	addr_space_free(f->as);
	mem_region_put(f->io);
	mem_region_put(f->root);
	mem_synchronize(f->mem);
	ram_block_free(f->block);
	mem_free(f->mem);
	free(f);
	return 0;
}

/* Forget what was recorded. */
static void listen_both(struct fixture *f)
{
	mem_listener_add(f->as, &f->high.listener, &recorder_ops, &f->high, 9);
	mem_listener_add(f->as, &f->low.listener, &recorder_ops, &f->low, -9);
	f->text[0] = '\0';
}

static void unlisten_both(struct fixture *f)
{
	mem_listener_del(&f->low.listener);
	mem_listener_del(&f->high.listener);
}

static void
test_deletes_run_from_high_to_low_before_adds_from_low_to_high(void **state)
{
	struct fixture *f = *state;

	listen_both(f);
	mem_region_set_offset(f->io, 0x3000);
	assert_string_equal(f->text, "low begin\n"
				     "high begin\n"
				     "high del 1000+1000:io@0\n"
				     "low del 1000+1000:io@0\n"
				     "low add 3000+1000:io@0\n"
				     "high add 3000+1000:io@0\n"
				     "low commit\n"
				     "high commit\n");
	unlisten_both(f);
}

static void
test_a_new_listener_hears_the_view_and_a_leaving_one_its_reverse(void **state)
{
	struct fixture *f = *state;
	struct mem_eventfd event = { .offset = 0x10, .size = 2, .fd = 5 };

	assert_int_equal(mem_region_add_eventfd(f->io, &event), 0);
	mem_listener_add(f->as, &f->low.listener, &recorder_ops, &f->low, 0);
	assert_string_equal(f->text, "low begin\n"
				     "low add 1000+1000:io@0\n"
				     "low eventfd-add 1010/2 fd 5\n"
				     "low commit\n");
	f->text[0] = '\0';
	mem_listener_del(&f->low.listener);
	assert_string_equal(f->text, "low eventfd-del 1010/2 fd 5\n"
				     "low del 1000+1000:io@0\n");
}

static void
test_eventfds_of_one_transaction_are_told_in_one_commit(void **state)
{
	struct fixture *f = *state;
	struct mem_eventfd event = { .size = 2, .has_value = true, .fd = 7 };
	uint64_t commits = mem_commit_count(f->mem);

	mem_listener_add(f->as, &f->low.listener, &recorder_ops, &f->low, 0);
	f->text[0] = '\0';
	mem_begin(f->mem);
	for (event.value = 0; event.value < 3; event.value++)
		mem_region_add_eventfd(f->io, &event);
	mem_commit(f->mem);
	assert_string_equal(f->text, "low begin\n"
				     "low eventfd-add 1000/2 fd 7 =0\n"
				     "low eventfd-add 1000/2 fd 7 =1\n"
				     "low eventfd-add 1000/2 fd 7 =2\n"
				     "low commit\n");
	assert_int_equal(mem_commit_count(f->mem), commits + 1);
	event.value = 1;
	assert_int_equal(mem_region_add_eventfd(f->io, &event), -EEXIST);
	f->text[0] = '\0';
	mem_region_del_eventfd(f->io, &event);
	assert_string_equal(f->text, "low begin\n"
				     "low eventfd-del 1000/2 fd 7 =1\n"
				     "low commit\n");
	mem_listener_del(&f->low.listener);
}

static void test_an_eventfd_moves_with_its_region(void **state)
{
	struct fixture *f = *state;
	struct mem_eventfd event = { .offset = 8, .size = 4, .fd = 3 };

	mem_listener_add(f->as, &f->low.listener, &recorder_ops, &f->low, 0);
	mem_region_add_eventfd(f->io, &event);
	f->text[0] = '\0';
	mem_region_set_offset(f->io, 0x5000);
	assert_string_equal(f->text, "low begin\n"
				     "low del 1000+1000:io@0\n"
				     "low add 5000+1000:io@0\n"
				     "low eventfd-del 1008/4 fd 3\n"
				     "low eventfd-add 5008/4 fd 3\n"
				     "low commit\n");
	mem_listener_del(&f->low.listener);
}

static void test_an_eventfd_that_stays_in_place_is_not_told_again(void **state)
{
	struct fixture *f = *state;
	struct mem_eventfd event = { .offset = 8, .size = 4, .fd = 3 };

	mem_listener_add(f->as, &f->low.listener, &recorder_ops, &f->low, 0);
	mem_region_add_eventfd(f->io, &event);
	f->text[0] = '\0';
	mem_region_set_size(f->io, 0x800);
	assert_string_equal(f->text, "low begin\n"
				     "low del 1000+1000:io@0\n"
				     "low add 1000+800:io@0\n"
				     "low commit\n");
	f->text[0] = '\0';
	mem_begin(f->mem);
	mem_region_del_eventfd(f->io, &event);
	mem_region_add_eventfd(f->io, &event);
	mem_commit(f->mem);
	assert_string_equal(f->text, "");
	mem_listener_del(&f->low.listener);
}

static void
test_an_eventfd_shows_where_all_of_it_lies_in_one_range(void **state)
{
	struct fixture *f = *state;
	struct mem_eventfd event = { .offset = 0x7fc, .size = 8, .fd = 3 };

	mem_listener_add(f->as, &f->low.listener, &recorder_ops, &f->low, 0);
	mem_region_set_size(f->io, 0x800);
	f->text[0] = '\0';
	mem_region_add_eventfd(f->io, &event);
	assert_string_equal(f->text, "");
	mem_region_set_size(f->io, 0x804);
	assert_string_equal(f->text, "low begin\n"
				     "low del 1000+800:io@0\n"
				     "low add 1000+804:io@0\n"
				     "low eventfd-add 17fc/8 fd 3\n"
				     "low commit\n");
	mem_listener_del(&f->low.listener);
}

static void test_region_log_starts_for_shown_and_later_ranges(void **state)
{
	struct fixture *f = *state;
	struct mem_region *ram = mem_region_new_ram(f->mem, "ram", f->block);

	mem_region_add(f->root, 0x10000, ram, 0);
	listen_both(f);
	mem_region_set_log(ram, true);
	mem_region_set_log(ram, true);
	assert_string_equal(f->text, "low log-start 10000+8000:ram@0\n"
				     "high log-start 10000+8000:ram@0\n");
	f->text[0] = '\0';
	mem_region_set_offset(ram, 0x20000);
	assert_string_equal(f->text, "low begin\n"
				     "high begin\n"
				     "high del 10000+8000:ram@0\n"
				     "low del 10000+8000:ram@0\n"
				     "low add 20000+8000:ram@0\n"
				     "high add 20000+8000:ram@0\n"
				     "low log-start 20000+8000:ram@0\n"
				     "high log-start 20000+8000:ram@0\n"
				     "low commit\n"
				     "high commit\n");
	f->text[0] = '\0';
	mem_region_set_log(ram, false);
	assert_string_equal(f->text, "high log-stop 20000+8000:ram@0\n"
				     "low log-stop 20000+8000:ram@0\n");
	unlisten_both(f);
	mem_region_del(ram);
	mem_region_put(ram);
}

/* A dirty source that can refuse. */
struct source {
	struct mem_listener listener;
	char *text;
	const char *name;
	bool is_refusing;
};

static void source_say(struct source *s, const char *what)
{
	text_add(s->text, 4096, "%s %s\n", s->name, what);
}

static int source_start(void *opaque, struct err *err)
{
	struct source *s = opaque;

	source_say(s, "start");
	return s->is_refusing ? err_set(err, -EIO, "%s refuses", s->name) : 0;
}

static void source_stop(void *opaque, uint64_t grace_ns)
{
	(void)grace_ns;
	source_say(opaque, "stop");
}

static void source_sync(void *opaque, const struct mem_section *section,
			bool is_last)
{
	struct source *s = opaque;

	text_add(s->text, 4096, "%s sync%s ", s->name, is_last ? " last" : "");
	text_add_range(s->text, 4096, &section->range);
	text_add(s->text, 4096, "\n");
}

static void source_sync_all(void *opaque, bool is_last)
{
	source_say(opaque, is_last ? "sync-all last" : "sync-all");
}

static int source_clear(void *opaque, struct ram_block *block, uint64_t first,
			uint64_t count, const uint64_t *bits, struct err *err)
{
	struct source *s = opaque;

	text_add(s->text, 4096, "%s clear %s %lu+%lu %lx\n", s->name,
		 block->name, first, count, bits[0]);
	return s->is_refusing ? err_set(err, -EIO, "%s refuses", s->name) : 0;
}

static const struct mem_listener_ops section_source = {
	.log_global_start = source_start,
	.log_global_stop = source_stop,
	.log_sync = source_sync,
	.log_clear = source_clear,
};

static const struct mem_listener_ops whole_source = {
	.log_global_start = source_start,
	.log_global_stop = source_stop,
	.log_sync_all = source_sync_all,
};

static void test_a_refused_log_start_stops_those_already_started(void **state)
{
	struct fixture *f = *state;
	struct source a = { .text = f->text, .name = "a" };
	struct source b = { .text = f->text, .name = "b" };
	struct source c = { .text = f->text, .name = "c" };
	struct err err = ERR_INIT;

	mem_listener_add(f->as, &a.listener, &section_source, &a, 1);
	mem_listener_add(f->as, &b.listener, &whole_source, &b, 2);
	mem_listener_add(f->as, &c.listener, &whole_source, &c, 3);
	c.is_refusing = true;
	assert_int_equal(mem_log_global_start(f->mem, &err), -EIO);
	assert_string_equal(err_msg(&err), "c refuses");
	assert_string_equal(f->text, "a start\nb start\nc start\n"
				     "b stop\na stop\n");
	f->text[0] = '\0';
	mem_log_global_stop(f->mem, 0);
	assert_string_equal(f->text, "");
	c.is_refusing = false;
	assert_int_equal(mem_log_global_start(f->mem, NULL), 0);
	assert_int_equal(mem_log_global_start(f->mem, NULL), -EBUSY);
	mem_log_global_stop(f->mem, 0);
	assert_string_equal(f->text, "a start\nb start\nc start\n"
				     "c stop\nb stop\na stop\n");
	mem_listener_del(&a.listener);
	mem_listener_del(&b.listener);
	mem_listener_del(&c.listener);
}

static void
test_a_round_calls_each_source_once_or_once_per_ram_range(void **state)
{
	struct fixture *f = *state;
	struct mem_region *ram = mem_region_new_ram(f->mem, "ram", f->block);
	struct source a = { .text = f->text, .name = "a" };
	struct source b = { .text = f->text, .name = "b" };
	struct err err = ERR_INIT;
	uint64_t bits = 0x5;

	mem_region_add(f->root, 0, ram, -1);
	mem_listener_add(f->as, &a.listener, &section_source, &a, 1);
	mem_listener_add(f->as, &b.listener, &whole_source, &b, 2);
	mem_log_sync(f->mem, false);
	mem_log_sync(f->mem, true);
	assert_int_equal(mem_log_clear(f->mem, f->block, 0, 3, &bits, NULL), 0);
	a.is_refusing = true;
	assert_int_equal(mem_log_clear(f->mem, f->block, 0, 3, &bits, &err),
			 -EIO);
	assert_string_equal(err_msg(&err), "a refuses");
	assert_string_equal(f->text, "a sync 0+1000:ram@0\n"
				     "a sync 2000+6000:ram@2000\n"
				     "b sync-all\n"
				     "a sync last 0+1000:ram@0\n"
				     "a sync last 2000+6000:ram@2000\n"
				     "b sync-all last\n"
				     "a clear ram 0+3 5\n"
				     "a clear ram 0+3 5\n");
	mem_listener_del(&a.listener);
	mem_listener_del(&b.listener);
	mem_region_del(ram);
	mem_region_put(ram);
}

static void
test_a_source_that_comes_or_goes_while_logging_is_started_or_stopped(
	void **state)
{
	struct fixture *f = *state;
	struct source a = { .text = f->text, .name = "a" };
	struct source b = { .text = f->text, .name = "b" };

	assert_int_equal(mem_log_global_start(f->mem, NULL), 0);
	assert_int_equal(
		mem_listener_add(f->as, &a.listener, &whole_source, &a, 0), 0);
	b.is_refusing = true;
	assert_int_equal(
		mem_listener_add(f->as, &b.listener, &whole_source, &b, 0),
		-EIO);
	mem_listener_del(&a.listener);
	assert_string_equal(f->text, "a start\nb start\na stop\n");
	mem_log_global_stop(f->mem, 0);
}

#define fact(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		fact(test_deletes_run_from_high_to_low_before_adds_from_low_to_high),
		fact(test_a_new_listener_hears_the_view_and_a_leaving_one_its_reverse),
		fact(test_eventfds_of_one_transaction_are_told_in_one_commit),
		fact(test_an_eventfd_moves_with_its_region),
		fact(test_an_eventfd_that_stays_in_place_is_not_told_again),
		fact(test_an_eventfd_shows_where_all_of_it_lies_in_one_range),
		fact(test_region_log_starts_for_shown_and_later_ranges),
		fact(test_a_refused_log_start_stops_those_already_started),
		fact(test_a_round_calls_each_source_once_or_once_per_ram_range),
		fact(test_a_source_that_comes_or_goes_while_logging_is_started_or_stopped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
