// SPDX-License-Identifier: Apache-2.0
/* A whole machine, of puppets, from its making to its end. */
#include <cmocka.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include "base/err.h"
#include "machine/machine.h"
#include "machine/vcpu.h"
#include "puppet/puppet.h"

#define CPUS 2

int __real_vcpu_set_new(struct accel *accel, unsigned int count,
			vcpu_exit_fn *on_exit, void *opaque,
			struct vcpu_set **ret_set, struct err *err);
int __wrap_vcpu_set_new(struct accel *accel, unsigned int count,
			vcpu_exit_fn *on_exit, void *opaque,
			struct vcpu_set **ret_set, struct err *err);

static bool ends_early;

/* @opaque is the machine, which has no vCPUs yet. */
int __wrap_vcpu_set_new(struct accel *accel, unsigned int count,
			vcpu_exit_fn *on_exit, void *opaque,
			struct vcpu_set **ret_set, struct err *err)
{
	if (ends_early)
		machine_shutdown(opaque, SHUTDOWN_HOST, 0);
	return __real_vcpu_set_new(accel, count, on_exit, opaque, ret_set, err);
}

static void on_event(void *opaque, enum machine_event event)
{
	(void)opaque;
	(void)event;
}

static uint64_t runs_of_a_machine(void)
{
	uint64_t before = __atomic_load_n(&puppet_tally.runs, __ATOMIC_RELAXED);
	struct machine_options options;
	struct machine *machine;
	uint64_t runs = 0;

	puppet_options(&options, CPUS, false);
	assert_int_equal(machine_new(&options, on_event, NULL, &machine, NULL),
			 0);
	machine_start(machine, NULL);
	/* For what should not be, there is no event. */
	for (int i = 0; i < 100 && !runs; i++) {
		usleep(1000);
		runs = __atomic_load_n(&puppet_tally.runs, __ATOMIC_RELAXED) -
		       before;
	}
	machine_free(machine);
	return runs;
}

static void test_machine_ended_while_it_was_built_never_runs(void **state)
{
	(void)state;
	ends_early = true;
	assert_int_equal(runs_of_a_machine(), 0);
	ends_early = false;
	assert_int_not_equal(runs_of_a_machine(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			test_machine_ended_while_it_was_built_never_runs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
