// SPDX-License-Identifier: Apache-2.0
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/err.h"
#include "dev/acpi_pm_priv.h"

#define STATUS  0
#define ENABLE  2
#define CONTROL 4
#define TIMER   8
#define BUTTON  0x100
#define ALL     0xffff

struct fixture {
	struct acpi_pm pm;
	struct acpi_pm_time now; /* of the host */
	struct state_registry registry;
	int level; /* of the interrupt */
	unsigned int offs;
};

static void set_level(void *opaque, unsigned int gsi, int level)
{
	struct fixture *f = opaque;

	assert_int_equal(gsi, 9);
	f->level = level;
}

static void on_power_off(void *opaque)
{
	((struct fixture *)opaque)->offs++;
}

static struct acpi_pm_time test_now(void *source)
{
	return ((struct fixture *)source)->now;
}

static void init(struct fixture *f, uint64_t mono_ns, uint64_t real_ns)
{
	const struct irq_line sci = { set_level, f, 9 };

	acpi_pm_init(&f->pm, sci, on_power_off, f);
	f->pm.now = test_now;
	f->pm.source = f;
	f->now = (struct acpi_pm_time){ mono_ns, real_ns };
	f->pm.zero_ns = mono_ns;
	state_registry_init(&f->registry);
	state_register(&f->registry, &f->pm.state, "acpi-pm", &acpi_pm_state,
		       &f->pm);
}

static void fini(struct fixture *f)
{
	state_unregister(&f->pm.state);
	acpi_pm_fini(&f->pm);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	init(f, 5000, 1000 * NS_PER_SEC);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	fini(f);
	free(f);
	return 0;
}

static uint32_t get(struct fixture *f, uint64_t offset, unsigned int size)
{
	uint64_t value = acpi_pm_io_ops.read(&f->pm, offset, size);

	return (uint32_t)(size == 4 ? value : value & ((1u << 8 * size) - 1));
}

static void put(struct fixture *f, uint64_t offset, uint32_t value,
		unsigned int size)
{
	acpi_pm_io_ops.write(&f->pm, offset, value, size);
}

static void test_button_interrupts_once_it_is_enabled(void **state)
{
	struct fixture *f = *state;

	acpi_pm_press_power_button(&f->pm);
	assert_int_equal(get(f, STATUS, 2), BUTTON);
	assert_int_equal(f->level, 0);
	put(f, ENABLE, BUTTON, 2);
	assert_int_equal(f->level, 1);
	put(f, STATUS, ALL & ~BUTTON, 2); /* a 0 does not clear */
	assert_int_equal(f->level, 1);
	put(f, STATUS, BUTTON, 2);
	assert_int_equal(get(f, STATUS, 2), 0);
	assert_int_equal(f->level, 0);
	acpi_pm_press_power_button(&f->pm);
	assert_int_equal(f->level, 1);
}

static void test_registers_keep_what_drivers_read_back(void **state)
{
	struct fixture *f = *state;

	put(f, ENABLE, ALL, 2);
	assert_int_equal(get(f, ENABLE, 2), 0x0721);
	put(f, CONTROL, 0x0002, 2);
	assert_int_equal(get(f, CONTROL, 2), 0x0003); /* ACPI mode is on */
	put(f, CONTROL, 0, 2);
	assert_int_equal(get(f, CONTROL, 2), 0x0001);
	assert_int_equal(get(f, 6, 2), 0); /* nothing there */
}

static void test_accesses_of_other_widths_reach_the_same_registers(void **state)
{
	struct fixture *f = *state;

	put(f, STATUS, 0x0521 << 16, 4);
	assert_int_equal(get(f, ENABLE, 2), 0x0521);
	put(f, ENABLE, 0x20, 1);
	put(f, ENABLE + 1, 0x01, 1);
	acpi_pm_press_power_button(&f->pm);
	assert_int_equal(get(f, STATUS, 4), 0x0120 << 16 | BUTTON);
	assert_int_equal(get(f, ENABLE + 1, 1), 0x01);
	put(f, STATUS + 1, 0x01, 1);
	assert_int_equal(get(f, STATUS, 2), 0);
}

static void test_only_sleep_type_5_powers_off(void **state)
{
	struct fixture *f = *state;

	for (uint32_t type = 0; type < 8; type++)
		put(f, CONTROL, type << 10 | (type == 5 ? 0 : 0x2000), 2);
	assert_int_equal(f->offs, 0);
	put(f, CONTROL, 5 << 10 | 0x2000, 2);
	assert_int_equal(f->offs, 1);
	assert_int_equal(get(f, CONTROL, 2), 5 << 10 | 1);
	put(f, CONTROL + 1, 0x34, 1); /* the byte alone */
	assert_int_equal(f->offs, 2);
}

static void test_timer_counts_at_its_rate_and_wraps(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(get(f, TIMER, 4), 0);
	f->now.mono_ns += NS_PER_SEC;
	assert_int_equal(get(f, TIMER, 4), 3579545);
	f->now.mono_ns += 1200 * NS_PER_SEC; /* past 2^32 */
	assert_int_equal(get(f, TIMER, 4), (uint32_t)(1201ull * 3579545));
	assert_int_equal(get(f, TIMER + 2, 2),
			 (uint32_t)(1201ull * 3579545) >> 16);
	put(f, TIMER, 0, 4); /* read only */
	assert_int_equal(get(f, TIMER, 4), (uint32_t)(1201ull * 3579545));
}

/* Save @from and load it into @to. */
static void move(struct fixture *from, struct fixture *to)
{
	struct bytes_writer saved = { .data = NULL };
	struct err err = ERR_INIT;

	if (state_save(&from->pm.state, &saved, &err) ||
	    state_load(&to->pm.state, 1, saved.data, saved.size, &err) ||
	    state_activate(&to->pm.state, &err))
		fail_msg("%s", err_msg(&err));
	bytes_writer_fini(&saved);
}

static void test_timer_passes_the_time_of_a_move(void **state)
{
	struct fixture *f = *state;
	struct fixture other = { .level = 0 };

	f->now.mono_ns += 7 * NS_PER_SEC;
	f->now.real_ns += 7 * NS_PER_SEC;
	/* Another host, where 250 ms have passed. */
	init(&other, 999 * NS_PER_SEC + 3, f->now.real_ns + 250 * NS_PER_MS);
	move(f, &other);
	assert_int_equal(get(&other, TIMER, 4), 7250 * 3579545ull / 1000);
	other.now.mono_ns += NS_PER_SEC;
	assert_int_equal(get(&other, TIMER, 4), 8250 * 3579545ull / 1000);
	fini(&other);
}

static void test_timer_does_not_step_back_with_the_hosts_realtime(void **state)
{
	struct fixture *f = *state;
	struct fixture other = { .level = 0 };

	f->now.mono_ns += 7 * NS_PER_SEC;
	init(&other, 1, f->now.real_ns - 3 * NS_PER_SEC);
	move(f, &other);
	assert_int_equal(get(&other, TIMER, 4), 7 * 3579545);
	fini(&other);
}

static void test_timer_loses_nothing_over_many_moves(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 10000; i++) {
		f->now.mono_ns += 97; /* less than a tick */
		move(f, f);
	}
	assert_int_equal(get(f, TIMER, 4), 970000 * 3579545ull / NS_PER_SEC);
}

static void test_pending_button_arrives_with_the_guest(void **state)
{
	struct fixture *f = *state;
	struct fixture other = { .level = 0 };

	put(f, ENABLE, BUTTON, 2);
	acpi_pm_press_power_button(&f->pm);
	put(f, CONTROL, 5 << 10, 2);
	init(&other, 1, f->now.real_ns);
	move(f, &other);
	assert_int_equal(other.level, 1);
	assert_int_equal(get(&other, STATUS, 4), BUTTON << 16 | BUTTON);
	assert_int_equal(get(&other, CONTROL, 2), 5 << 10 | 1);
	assert_int_equal(other.offs, 0);
	fini(&other);
}

static void test_state_with_foreign_bits_is_refused(void **state)
{
	struct fixture *f = *state;
	struct bytes_writer saved = { .data = NULL };

	assert_int_equal(state_save(&f->pm.state, &saved, NULL), 0);
	for (unsigned int bit = 0; bit < 48; bit++) {
		const unsigned int known[] = { 8,  16, 21, 24, 25,
					       26, 33, 42, 43, 44 };
		struct err err = ERR_INIT;
		bool is_known = false;

		for (size_t i = 0; i < array_size(known); i++)
			is_known |= known[i] == bit;
		saved.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(state_load(&f->pm.state, 1, saved.data,
					    saved.size, &err),
				 is_known ? 0 : -EBADMSG);
		saved.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	bytes_writer_fini(&saved);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_button_interrupts_once_it_is_enabled),
		TEST(test_registers_keep_what_drivers_read_back),
		TEST(test_accesses_of_other_widths_reach_the_same_registers),
		TEST(test_only_sleep_type_5_powers_off),
		TEST(test_timer_counts_at_its_rate_and_wraps),
		TEST(test_timer_passes_the_time_of_a_move),
		TEST(test_timer_does_not_step_back_with_the_hosts_realtime),
		TEST(test_timer_loses_nothing_over_many_moves),
		TEST(test_pending_button_arrives_with_the_guest),
		TEST(test_state_with_foreign_bits_is_refused),
	};

	return cmocka_run_group_tests_name("acpi_pm", tests, NULL, NULL);
}
