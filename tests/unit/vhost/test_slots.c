// SPDX-License-Identifier: Apache-2.0
/* Devices whose back ends take regions of RAM one by one: what they are told when the
 * memory table changes, and whether their rings rest meanwhile. */
#include <errno.h>

#include "fake.h"

struct fixture {
	struct world world;
	struct fake a, b;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	world_init(&f->world, false);
	fake_init(&f->a, &f->world, "a");
	fake_init(&f->b, &f->world, "b");
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	mem_log_global_stop(f->world.mem, 0);
	fake_fini(&f->a);
	fake_fini(&f->b);
	world_fini(&f->world);
	free(f);
	return 0;
}

static void log_on(struct fixture *f)
{
	struct err err = ERR_INIT;

	if (mem_log_global_start(f->world.mem, &err))
		fail_msg("%s", err_msg(&err));
}

/* After a sync. */
static bool is_dirty(struct fixture *f, uint64_t gpa)
{
	mem_log_sync(f->world.mem, false);
	return gpa >= WORLD_HIGH ? bitmap_test(f->world.high->dirty,
					       (gpa - WORLD_HIGH) / 4096)
				 : bitmap_test(f->world.low->dirty, gpa / 4096);
}

static void start_with_slots(struct fixture *f)
{
	f->a.dev.has_slots = true;
	f->a.dev.regions_max = 2;
	fake_arrive(&f->a);
	fake_start_at(&f->a, 0x10000);
}

static void test_region_is_removed_before_another_is_added(void **state)
{
	struct fixture *f = *state;

	start_with_slots(f);
	assert_memory_equal(f->a.told, "add add features ", 17);
	f->a.told[0] = '\0';
	mem_region_set_offset(f->world.high_region, WORLD_HIGH + 0x40000);
	assert_memory_equal(f->a.told,
			    "stop stop stop stop remove add features ", 40);
	assert_int_equal(f->a.breaks, 0);
	assert_int_equal(world_counts(&f->world).regions_added, 3);
	assert_int_equal(world_counts(&f->world).regions_removed, 1);
}

static void test_rings_with_slots_work_on_while_ram_is_added(void **state)
{
	struct fixture *f = *state;

	mem_region_set_enabled(f->world.high_region, false);
	start_with_slots(f);
	fake_start_at(&f->b, 0x20000); /* it takes tables */
	log_on(f);
	world_log(&f->world, 3);
	f->a.told[0] = f->b.told[0] = '\0';
	mem_region_set_enabled(f->world.high_region, true);
	assert_string_equal(f->a.told, "add ");
	assert_memory_equal(f->b.told, "stop stop stop stop table ", 26);
	/* What it wrote meanwhile, in both. */
	world_log(&f->world, WORLD_HIGH / 4096 + 5);
	assert_true(is_dirty(f, 3 * 4096));
	assert_true(is_dirty(f, WORLD_HIGH + 5 * 4096));
}

static int fence(struct vh_dev *dev, struct err *err)
{
	return fake_note(dev, "fence", err);
}

/* It may have nothing else that says so, and a request may use that RAM at once. */
static void
test_live_back_end_has_ram_that_is_added_before_the_guest(void **state)
{
	struct fixture *f = *state;
	struct vh_ops ops = fake_ops;

	ops.fence = fence;
	mem_region_set_enabled(f->world.high_region, false);
	start_with_slots(f);
	f->a.dev.ops = &ops;
	f->a.told[0] = '\0';
	mem_region_set_enabled(f->world.high_region, true);
	assert_string_equal(f->a.told, "add fence ");
	/* At rest it uses none. */
	vh_dev_stop(&f->a.dev, UINT64_MAX, NULL);
	f->a.told[0] = '\0';
	mem_region_set_enabled(f->world.high_region, false);
	assert_string_equal(f->a.told, "remove ");
	mem_region_set_enabled(f->world.high_region, true);
	f->a.dev.ops = &fake_ops;
}

static void test_rings_with_slots_rest_while_the_log_grows(void **state)
{
	struct fixture *f = *state;

	mem_region_set_enabled(f->world.high_region, false);
	mem_region_set_offset(f->world.high_region, 0x10000000);
	start_with_slots(f);
	log_on(f);
	world_log(&f->world, 3);
	f->a.told[0] = '\0';
	mem_region_set_enabled(f->world.high_region, true);
	assert_memory_equal(f->a.told, "stop stop stop stop add log ", 28);
	assert_true(is_dirty(f, 3 * 4096));
}

static void test_more_regions_than_slots_break_a_device_untold(void **state)
{
	struct fixture *f = *state;

	mem_region_set_enabled(f->world.high_region, false);
	start_with_slots(f);
	f->a.dev.regions_max = 1;
	f->a.told[0] = '\0';
	mem_region_set_enabled(f->world.high_region, true);
	assert_string_equal(f->a.told, "stop stop stop stop fail ");
	assert_int_equal(f->a.breaks, 1);
	/* Another back end is told all, since it knows nothing. */
	mem_region_set_enabled(f->world.high_region, false);
	fake_arrive(&f->a);
	f->a.told[0] = '\0';
	fake_start_at(&f->a, 0x10000);
	assert_memory_equal(f->a.told, "add features ", 13);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_region_is_removed_before_another_is_added),
		TEST(test_rings_with_slots_work_on_while_ram_is_added),
		TEST(test_live_back_end_has_ram_that_is_added_before_the_guest),
		TEST(test_rings_with_slots_rest_while_the_log_grows),
		TEST(test_more_regions_than_slots_break_a_device_untold),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
