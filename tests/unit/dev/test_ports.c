// SPDX-License-Identifier: Apache-2.0
/* The devices as a vCPU meets them: by port, through an address space. */
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "dev/chardev.h"
#include "dev/debug_exit.h"
#include "dev/i8042.h"
#include "dev/mc146818.h"
#include "dev/ns16550.h"
#include "dev/pch_reset.h"
#include "mem/access.h"
#include "mem/space.h"
#include "state/state.h"

#define COM1 0x3f8
#define RTC  0x70

struct fixture {
	struct mem *mem;
	struct mem_region *io;
	struct addr_space *as;
	struct state_registry registry;

	struct chardev *chardev;
	struct ns16550 *uart;
	struct mc146818 *rtc;
	struct debug_exit *debug_exit;
	struct i8042 *i8042;
	struct pch_reset *pch_reset;

	unsigned int resets, exits;
	uint32_t exit_value;
	int level;
	struct err err;
};

static void on_reset(void *opaque)
{
	((struct fixture *)opaque)->resets++;
}

static void on_exit_value(void *opaque, uint32_t value)
{
	struct fixture *f = opaque;

	f->exits++;
	f->exit_value = value;
}

static void set_line(void *opaque, unsigned int gsi, int level)
{
	(void)gsi;
	((struct fixture *)opaque)->level = level;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	const struct chardev_options options = { .in_fd = 0, .out_fd = 1 };
	struct irq_line irq = { set_line, f, 4 };

	f->mem = mem_new();
	f->io = mem_region_new_container(f->mem, "io", 65536);
	f->as = addr_space_new(f->mem, "io", f->io);
	state_registry_init(&f->registry);
	assert_int_equal(chardev_new("null", &options, &f->chardev, NULL), 0);
	f->uart = ns16550_new(f->mem, f->io, COM1, irq, f->chardev,
			      &f->registry, "serial0");
	f->rtc = mc146818_new(f->mem, f->io, RTC, &f->registry, "rtc");
	f->debug_exit = debug_exit_new(f->mem, f->io, DEBUG_EXIT_PORT,
				       on_exit_value, f);
	f->i8042 = i8042_new(f->mem, f->io, on_reset, f, &f->registry, "i8042");
	f->pch_reset = pch_reset_new(f->mem, f->io, on_reset, f, &f->registry,
				     "pch-reset");
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	ns16550_free(f->uart);
	chardev_free(f->chardev);
	mc146818_free(f->rtc);
	debug_exit_free(f->debug_exit);
	i8042_free(f->i8042);
	pch_reset_free(f->pch_reset);
	assert_true(list_is_empty(&f->registry.entries));
	addr_space_free(f->as);
	mem_region_put(f->io);
	mem_free(f->mem);
	free(f);
	return 0;
}

static void out(struct fixture *f, uint16_t port, uint32_t value, size_t size)
{
	mem_write(f->as, port, &value, size);
}

static uint8_t in(struct fixture *f, uint16_t port)
{
	uint8_t value = 0;

	mem_read(f->as, port, &value, 1);
	return value;
}

static void test_serial_port_answers_at_its_ports(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(in(f, COM1 + 5), 0x60);
	out(f, COM1 + 7, 0x5a, 1);
	assert_int_equal(in(f, COM1 + 7), 0x5a);
	out(f, COM1 + 1, 0x02, 1);
	assert_int_equal(f->level, 1);
	assert_int_equal(in(f, COM1 + 8), 0xff);
	ns16550_start(f->uart);
	ns16550_stop(f->uart);
}

static void test_wide_access_reaches_two_registers(void **state)
{
	struct fixture *f = *state;

	out(f, COM1 + 3, 0x80, 1);
	out(f, COM1, 0x1234, 2); /* the divisor at once */
	assert_int_equal(in(f, COM1), 0x34);
	assert_int_equal(in(f, COM1 + 1), 0x12);
	out(f, RTC, 0x7740, 2); /* index and data at once */
	out(f, RTC, 0x40, 1);
	assert_int_equal(in(f, RTC + 1), 0x77);
}

static void test_debug_exit_hands_on_1_to_4_bytes(void **state)
{
	struct fixture *f = *state;

	out(f, DEBUG_EXIT_PORT, 0x21, 1);
	assert_int_equal(f->exit_value, 0x21);
	out(f, DEBUG_EXIT_PORT, 0x4321, 2);
	assert_int_equal(f->exit_value, 0x4321);
	out(f, DEBUG_EXIT_PORT, 0x87654321, 4);
	assert_int_equal(f->exit_value, 0x87654321);
	assert_int_equal(f->exits, 3);
	assert_int_equal(in(f, DEBUG_EXIT_PORT), 0);
	assert_int_equal(f->exits, 3);
}

static void test_keyboard_controller_resets(void **state)
{
	struct fixture *f = *state;

	/* What Linux does first: wait until the controller takes input. */
	assert_int_equal(in(f, 0x64) & 0x02, 0);
	out(f, 0x64, 0xfe, 1);
	assert_int_equal(f->resets, 1);
	out(f, 0x64, 0xff, 1); /* pulses nothing */
	assert_int_equal(f->resets, 1);
	out(f, 0x64, 0xd1, 1);
	out(f, 0x60, 0x03, 1);
	assert_int_equal(f->resets, 1);
	out(f, 0x64, 0xd1, 1);
	out(f, 0x60, 0x02, 1);
	assert_int_equal(f->resets, 2);
}

static void test_keyboard_controller_answers_at_once(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(in(f, 0x64), 0x14);
	out(f, 0x64, 0xaa, 1);
	assert_int_equal(in(f, 0x64) & 0x01, 1);
	assert_int_equal(in(f, 0x60), 0x55);
	assert_int_equal(in(f, 0x64) & 0x01, 0);
	out(f, 0x64, 0x60, 1);
	out(f, 0x60, 0x47, 1);
	out(f, 0x64, 0x20, 1);
	assert_int_equal(in(f, 0x60), 0x47);
	out(f, 0x64, 0xad, 1);
	out(f, 0x64, 0x20, 1);
	assert_int_equal(in(f, 0x60), 0x57);
	out(f, 0x64, 0xd2, 1);
	out(f, 0x60, 0x99, 1);
	assert_int_equal(in(f, 0x60), 0x99);
}

static void test_there_is_no_keyboard(void **state)
{
	struct fixture *f = *state;

	out(f, 0x60, 0xf2, 1); /* identify */
	assert_int_equal(in(f, 0x64) & 0x41, 0x41);
	assert_int_equal(in(f, 0x60), 0xfe);
	assert_int_equal(in(f, 0x64) & 0x41, 0);
	out(f, 0x64, 0xa9, 1);
	assert_int_not_equal(in(f, 0x60), 0);
}

static void test_reset_control_acts_on_the_rising_bit(void **state)
{
	struct fixture *f = *state;

	out(f, PCH_RESET_PORT, 0x02, 1);
	assert_int_equal(f->resets, 0);
	assert_int_equal(in(f, PCH_RESET_PORT), 0x02);
	out(f, PCH_RESET_PORT, 0x06, 1);
	assert_int_equal(f->resets, 1);
	out(f, PCH_RESET_PORT, 0x06, 1);
	assert_int_equal(f->resets, 1);
	out(f, PCH_RESET_PORT, 0xf1, 1);
	assert_int_equal(in(f, PCH_RESET_PORT), 0);
	out(f, PCH_RESET_PORT, 0x0e, 1);
	assert_int_equal(f->resets, 2);
}

static void test_reset_control_works_without_a_port_of_its_own(void **state)
{
	struct fixture *f = *state;

	pch_reset_free(f->pch_reset);
	f->pch_reset = pch_reset_new(f->mem, NULL, on_reset, f, &f->registry,
				     "pch-reset");
	assert_int_equal(in(f, PCH_RESET_PORT), 0xff);
	pch_reset_write(f->pch_reset, 0x06);
	assert_int_equal(f->resets, 1);
	assert_int_equal(pch_reset_read(f->pch_reset), 0x06);
}

static void load_one(struct fixture *f, const char *name, const void *bytes,
		     size_t size, int expected)
{
	struct state_entry *entry = state_find(&f->registry, name);

	assert_non_null(entry);
	err_clear(&f->err);
	assert_int_equal(state_load(entry, 1, bytes, size, &f->err), expected);
	if (expected == 0)
		assert_int_equal(state_activate(entry, &f->err), 0);
}

static void test_hostile_state_is_refused(void **state)
{
	struct fixture *f = *state;

	load_one(f, "pch-reset", "\x06", 1, 0);
	load_one(f, "pch-reset", "\x0f", 1, -EBADMSG);
	load_one(f, "pch-reset", "\x05", 1, -EBADMSG);
	load_one(f, "i8042", "\x49\x47\xd1\x55", 4, 0);
	load_one(f, "i8042", "\x02\x00\x00\x00", 4, -EBADMSG);
	load_one(f, "i8042", "\xff\x00\x00\x00", 4, -EBADMSG);
}

static void test_loaded_state_goes_on_where_it_was(void **state)
{
	struct fixture *f = *state;

	/* In the middle of 0xd1, with an answer not yet read. */
	load_one(f, "i8042", "\x09\x47\xd1\x55", 4, 0);
	assert_int_equal(in(f, 0x64), 0x1d);
	assert_int_equal(in(f, 0x60), 0x55);
	out(f, 0x60, 0x02, 1);
	assert_int_equal(f->resets, 1);
	load_one(f, "pch-reset", "\x04", 1, 0);
	out(f, PCH_RESET_PORT, 0x06, 1);
	assert_int_equal(f->resets, 1);
}

static void test_devices_accept_null(void **state)
{
	(void)state;
	ns16550_free(NULL);
	chardev_free(NULL);
	mc146818_free(NULL);
	debug_exit_free(NULL);
	i8042_free(NULL);
	pch_reset_free(NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_serial_port_answers_at_its_ports),
		TEST(test_wide_access_reaches_two_registers),
		TEST(test_debug_exit_hands_on_1_to_4_bytes),
		TEST(test_keyboard_controller_resets),
		TEST(test_keyboard_controller_answers_at_once),
		TEST(test_there_is_no_keyboard),
		TEST(test_reset_control_acts_on_the_rising_bit),
		TEST(test_reset_control_works_without_a_port_of_its_own),
		TEST(test_hostile_state_is_refused),
		TEST(test_loaded_state_goes_on_where_it_was),
		cmocka_unit_test(test_devices_accept_null),
	};

	return cmocka_run_group_tests_name("ports", tests, NULL, NULL);
}
