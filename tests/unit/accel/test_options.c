// SPDX-License-Identifier: Apache-2.0
/* --accel: what is taken, and how the rest is refused. */
#include <cmocka.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
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
	assert_taken("kvm,x-plain-log=on,x-plain-log=off", false);
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
	assert_refused("kvm,x-plain-log=perhaps", "perhaps");
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_kvm_and_its_options_are_taken),
		cmocka_unit_test(test_other_accelerators_are_refused_by_name),
		cmocka_unit_test(
			test_unknown_options_and_values_are_refused_by_name),
		cmocka_unit_test(test_options_too_long_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
