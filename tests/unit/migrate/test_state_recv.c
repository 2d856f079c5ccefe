// SPDX-License-Identifier: Apache-2.0
/* Whatever loads as it comes, or in the switch, fills fields only: who translates an
 * address then is caught. */
#include <cmocka.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "mem/access.h"
#include "mem/space.h"
#include "mem/stale.h"
#include "migrate/records.h"
#include "migrate/state_recv.h"
#include "side.h"
#include "state/state.h"

struct chip {
	struct machine *machine;
	uint32_t word;
	bool is_early; /* translates in load, and not in activate */
};

static void chip_translate(struct chip *chip)
{
	uint8_t byte;

	mem_read(machine_memory(chip->machine), 0, &byte, sizeof(byte));
}

static int chip_load(void *obj, uint16_t version, struct err *err)
{
	struct chip *chip = obj;

	(void)version;
	(void)err;
	if (chip->is_early)
		chip_translate(chip);
	return 0;
}

static int chip_activate(void *obj, struct err *err)
{
	struct chip *chip = obj;

	(void)err;
	if (!chip->is_early)
		chip_translate(chip);
	return 0;
}

static const struct state_field fields[] = {
	STATE_FIELD(struct chip, word, STATE_U32),
};

static const struct state_desc desc = {
	.version = 1,
	.min_version = 1,
	.fields = fields,
	.field_count = array_size(fields),
	.load = chip_load,
	.activate = chip_activate,
};

static const uint8_t word[] = { 1, 2, 3, 4 };
#define WORD 0x04030201u

static const struct said_state said = {
	.name = "chip", .version = 1, .size = sizeof(word), .data = word
};

/* One chip more in a destination. */
struct fixture {
	struct side side;
	struct state_recv recv;
	struct state_entry entry;
	struct chip chip;
};

static struct fixture *fixture_new(bool is_ahead, bool is_early)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct machine_options options;

	puppet_options(&options, 1, true);
	side_init(&f->side, &options);
	f->chip.machine = f->side.machine;
	f->chip.is_early = is_early;
	state_register(is_ahead ? machine_setup_state(f->side.machine)
				: machine_state(f->side.machine),
		       &f->entry, "chip", &desc, &f->chip);
	state_recv_init(&f->recv, f->side.machine, MIG_SWITCH_EARLY);
	return f;
}

/* What is not to be taken for a count, unless all went well. */
#define NOT_LOADED 100u

static uint64_t fixture_result(struct fixture *f, int ret)
{
	return ret || f->chip.word != WORD
		       ? NOT_LOADED
		       : mem_stale_reads(machine_mem(f->side.machine));
}

static uint64_t move_setup(bool is_early)
{
	struct fixture *f = fixture_new(true, is_early);
	int ret = state_recv_setup(&f->recv, &said, 1, NULL);

	return fixture_result(f, ret ? ret : state_activate(&f->entry, NULL));
}

static uint64_t move_again(bool is_early)
{
	struct fixture *f = fixture_new(true, is_early);

	f->entry.is_loaded = true;
	return fixture_result(f, state_recv_again(&f->recv, &said, 1, NULL));
}

static uint64_t load_setup(void)
{
	return move_setup(true);
}

static uint64_t load_again(void)
{
	return move_again(true);
}

static uint64_t load_rest(void)
{
	struct fixture *f = fixture_new(false, true);
	int ret = state_recv_rest(&f->recv, &said, 1, NULL);

	/* The chip; nothing came of the accelerator, and it refuses. */
	state_recv_load(&f->recv, NULL);
	return fixture_result(f, ret);
}

static void test_load_of_the_pre_state_that_translates_is_caught(void **state)
{
	(void)state;
	assert_stale(load_setup, "is being loaded");
}

static void
test_load_of_pre_state_that_changed_that_translates_is_caught(void **state)
{
	(void)state;
	assert_stale(load_again, "is being loaded");
}

static void test_load_in_the_switch_that_translates_is_caught(void **state)
{
	(void)state;
	assert_stale(load_rest, "is being loaded");
}

static uint64_t activate_setup(void)
{
	return move_setup(false);
}

static uint64_t activate_again(void)
{
	return move_again(false);
}

static void test_activate_of_the_pre_state_may_translate(void **state)
{
	(void)state;
	assert_stale(activate_setup, NULL);
	assert_stale(activate_again, NULL);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			test_load_of_the_pre_state_that_translates_is_caught),
		cmocka_unit_test(
			test_load_of_pre_state_that_changed_that_translates_is_caught),
		cmocka_unit_test(
			test_load_in_the_switch_that_translates_is_caught),
		cmocka_unit_test(test_activate_of_the_pre_state_may_translate),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
