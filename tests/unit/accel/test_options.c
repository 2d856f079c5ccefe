// SPDX-License-Identifier: Apache-2.0
/* --accel: what is taken, and how the rest is refused. */
#include <cmocka.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "accel/accel.h"
#include "base/bytes.h"
#include "base/err.h"

static const struct accel_type untouched = { .name = "untouched" };

static void assert_taken(const char *text, bool use_plain_log)
{
	struct accel_options options = { .type = &untouched };
	struct err err = ERR_INIT;

	if (accel_options_parse(text, &options, &err))
		fail_msg("'%s': %s", text, err_msg(&err));
	assert_string_equal(options.type->name, "kvm");
	assert_int_equal(options.use_plain_log, use_plain_log);
	assert_int_equal(err.code, 0);
}

static void assert_rings(const char *text, enum accel_dirty dirty,
			 uint32_t entries)
{
	struct accel_options options = { .type = &untouched };
	struct err err = ERR_INIT;

	if (accel_options_parse(text, &options, &err))
		fail_msg("'%s': %s", text, err_msg(&err));
	assert_int_equal(options.dirty, dirty);
	assert_int_equal(options.ring_entries, entries);
}

static void assert_refused(const char *text, const char *reason)
{
	struct accel_options options = { .type = &untouched };
	struct err err = ERR_INIT;
	int ret = accel_options_parse(text, &options, &err);

	if (ret >= 0 || err.code != ret || !strstr(err_msg(&err), reason))
		fail_msg("'%s': %d, '%s' has no '%s'", text, ret, err_msg(&err),
			 reason);
	assert_ptr_equal(options.type, &untouched);
	assert_int_equal(accel_options_parse(text, &options, NULL), ret);
}

static void test_kvm_and_its_options_are_taken(void **state)
{
	(void)state;
	assert_taken("kvm", false);
	assert_taken("kvm,dirty=bitmap", false);
	assert_taken("kvm,x-plain-log", true);
	assert_taken("kvm,x-plain-log=on", true);
	assert_taken("kvm,x-plain-log=off,dirty=bitmap", false);
}

static void test_rings_are_taken(void **state)
{
	(void)state;
	assert_rings("kvm", ACCEL_DIRTY_BITMAP, 0);
	assert_rings("kvm,dirty=ring", ACCEL_DIRTY_RING, 0);
	assert_rings("kvm,dirty=ring,ring-entries=4096", ACCEL_DIRTY_RING,
		     4096);
	assert_rings("kvm,ring-entries=65536,dirty=ring-or-bitmap",
		     ACCEL_DIRTY_RING_OR_BITMAP, 65536);
	assert_rings("kvm,dirty=ring,ring-entries=1", ACCEL_DIRTY_RING, 1);
	assert_rings("kvm,dirty=ring-or-bitmap,x-plain-log=off",
		     ACCEL_DIRTY_RING_OR_BITMAP, 0);
}

static void test_ring_sizes_that_no_kernel_has_are_refused(void **state)
{
	static const char *const sizes[] = {
		"0",    "3",        "-4096",      "4096.0",
		"4k",   " 4096",    "",           "0x",
		"4095", "12288",    "4294967296", "18446744073709551616",
		"many", "99999999",
	};
	char text[80];

	(void)state;
	for (size_t i = 0; i < array_size(sizes); i++) {
		snprintf(text, sizeof(text), "kvm,dirty=ring,ring-entries=%s",
			 sizes[i]);
		assert_refused(text, "is no power of two");
	}
	assert_refused("kvm,dirty=ring,ring-entries", "ring-entries=on");
}

static void test_ways_to_stop_logging_are_taken(void **state)
{
	const struct {
		const char *text;
		bool is_inline;
	} cases[] = {
		{ "kvm", false },
		{ "kvm,x-log-stop=inline", true },
		{ "kvm,dirty=ring,x-log-stop=worker", false },
	};

	(void)state;
	for (size_t i = 0; i < array_size(cases); i++) {
		struct accel_options options;

		assert_int_equal(
			accel_options_parse(cases[i].text, &options, NULL), 0);
		assert_int_equal(options.is_log_stop_inline,
				 cases[i].is_inline);
	}
}

static void test_options_that_contradict_each_other_are_refused(void **state)
{
	(void)state;
	assert_refused("kvm,ring-entries=4096", "needs dirty=ring");
	assert_refused("kvm,dirty=bitmap,ring-entries=4096",
		       "needs dirty=ring");
	assert_refused("kvm,dirty=ring,x-plain-log", "x-plain-log=on");
	assert_refused("kvm,dirty=ring-or-bitmap,x-plain-log=on",
		       "x-plain-log=on");
}

static void test_options_that_are_given_twice_are_refused(void **state)
{
	static const char *const texts[] = {
		"kvm,dirty=ring,dirty=bitmap",
		"kvm,dirty=ring,dirty=ring",
		"kvm,dirty=ring,ring-entries=1024,x-plain-log=off,ring-entries=2048",
		"kvm,x-plain-log=on,x-plain-log=off",
		"kvm,x-log-stop=inline,x-log-stop=worker",
		"sim,dirty=ring,dirty=ring",
		"sim,leaf=2M,pv=on,leaf=4K",
	};

	(void)state;
	for (size_t i = 0; i < array_size(texts); i++)
		assert_refused(texts[i], "' is given twice");
	/* A value is none. */
	assert_refused("kvm,dirty=dirty", "dirty=dirty is unknown");
}

static void test_other_accelerators_are_refused_by_name(void **state)
{
	(void)state;
	assert_refused("", "''");
	assert_refused("tcg", "'tcg'");
	assert_refused("KVM", "'KVM'");
	assert_refused("kvm2", "'kvm2'");
	assert_refused(" kvm", "' kvm'");
	assert_refused("kvm=on", "use kvm");
	assert_refused("dirty=bitmap", "'dirty'");
}

static void test_unknown_options_and_values_are_refused_by_name(void **state)
{
	(void)state;
	assert_refused("kvm,", "accelerator options");
	assert_refused("kvm,,dirty=bitmap", "accelerator options");
	assert_refused("kvm,colour=red", "'colour'");
	assert_refused("kvm,dirty", "dirty=on");
	assert_refused("kvm,dirty=", "dirty=");
	assert_refused("kvm,dirty=log", "dirty=log");
	assert_refused("kvm,dirty=rings", "dirty=ring or");
	assert_refused("kvm,dirty=RING", "dirty=RING");
	assert_refused("kvm,x-plain-log=perhaps", "perhaps");
	assert_refused("kvm,x-log-stop=later", "worker or x-log-stop=inline");
	assert_refused("kvm,x-log-stop", "x-log-stop=on is unknown");
	assert_refused("kvm,kvm", "'kvm'");
}

static void test_options_too_long_are_refused(void **state)
{
	char text[6000] = "kvm,dirty=";
	char key[200] = "kvm,";

	(void)state;
	memset(text + strlen(text), 'a', sizeof(text) - 1 - strlen(text));
	text[sizeof(text) - 1] = '\0';
	assert_refused(text, "accelerator options");
	memset(key + 4, 'k', sizeof(key) - 5);
	key[sizeof(key) - 1] = '\0';
	assert_refused(key, "accelerator options");
	assert_refused(key + 4, "accelerator options");
}

static struct accel_options taken(const char *text)
{
	struct accel_options options;
	struct err err = ERR_INIT;

	if (accel_options_parse(text, &options, &err))
		fail_msg("'%s': %s", text, err_msg(&err));
	assert_string_equal(options.type->name, "sim");
	return options;
}

static struct sim_options sim_taken(const char *text)
{
	return taken(text).sim;
}

static void test_sim_and_its_options_are_taken(void **state)
{
	struct sim_options sim = sim_taken("sim");

	(void)state;
	assert_int_equal(sim.leaf, SIM_LEAF_1G);
	assert_false(sim.is_split_eager || sim.is_collapse_inline ||
		     sim.has_pv);
	assert_string_equal(sim.workload, "");
	assert_int_equal(taken("sim").dirty, ACCEL_DIRTY_BITMAP);
	assert_int_equal(taken("sim,dirty=bitmap").dirty, ACCEL_DIRTY_BITMAP);
	assert_int_equal(taken("sim,dirty=ring").dirty, ACCEL_DIRTY_RING);
	assert_int_equal(taken("sim,ring-entries=1024,dirty=ring").ring_entries,
			 1024);
	sim = sim_taken("sim,leaf=2M,split=eager,"
			"collapse=inline,pv=on,tables=8M");
	assert_int_equal(sim.leaf, SIM_LEAF_2M);
	assert_true(sim.is_split_eager && sim.is_collapse_inline && sim.has_pv);
	assert_int_equal(sim.tables_size, 8 << 20);
}

static void test_workload_becomes_the_guests_command_line(void **state)
{
	(void)state;
	assert_string_equal(
		sim_taken("sim,workload=zipf,rate=1k,hot=1M,reads=50,seed=7")
			.workload,
		"stress,hot=64M,pattern=zipf,rate=1k,hot=1M,reads=50,seed=7");
	assert_string_equal(
		sim_taken("sim,workload=burst,pattern=seq,burst=5ms").workload,
		"stress,hot=64M,burst=10ms,pattern=seq,burst=5ms");
}

static void test_sim_options_that_contradict_are_refused(void **state)
{
	static const char *const texts[][2] = {
		{ "sim,ring-entries=4096", "needs dirty=ring" },
		{ "sim,dirty=bitmap,ring-entries=4096", "needs dirty=ring" },
		{ "sim,dirty=ring,ring-entries=512", "from 1024 to 65536" },
		{ "sim,dirty=ring,ring-entries=3000", "power of two" },
		{ "sim,dirty=ring,ring-entries=131072", "65536" },
		{ "sim,dirty=log", "bitmap or ring" },
		{ "sim,split=eager,leaf=4K", "nothing is ever split" },
		{ "sim,leaf=3M", "4K, 2M or 1G" },
		{ "sim,split=never", "lazy or eager" },
		{ "sim,collapse=later", "worker or inline" },
		{ "sim,tables=5000", "multiple of 4K" },
		{ "sim,tables=1G", "at most 64M" },
		{ "sim,pv=perhaps", "perhaps" },
		{ "sim,x-plain-log", "'x-plain-log'" },
		{ "sim,workload=idle", "hotcold or burst" },
		{ "sim,workload=zipf,workload=seq", "given twice" },
		{ "sim,workload=zipf,pattern=seq", "contradicts workload=" },
		{ "sim,workload=zipf,burst=5ms", "needs workload=burst" },
		{ "sim,rate=100", "give workload= before it" },
		{ "sim,workload=seq,reads=101", "'reads=101' makes no sense" },
		{ "sim,workload=seq,rate=0", "'rate=0' makes no sense" },
	};

	(void)state;
	for (size_t i = 0; i < array_size(texts); i++)
		assert_refused(texts[i][0], texts[i][1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sim_and_its_options_are_taken),
		cmocka_unit_test(test_workload_becomes_the_guests_command_line),
		cmocka_unit_test(test_sim_options_that_contradict_are_refused),
		cmocka_unit_test(test_kvm_and_its_options_are_taken),
		cmocka_unit_test(test_rings_are_taken),
		cmocka_unit_test(
			test_ring_sizes_that_no_kernel_has_are_refused),
		cmocka_unit_test(test_ways_to_stop_logging_are_taken),
		cmocka_unit_test(
			test_options_that_contradict_each_other_are_refused),
		cmocka_unit_test(test_options_that_are_given_twice_are_refused),
		cmocka_unit_test(test_other_accelerators_are_refused_by_name),
		cmocka_unit_test(
			test_unknown_options_and_values_are_refused_by_name),
		cmocka_unit_test(test_options_too_long_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
