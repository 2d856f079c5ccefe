// SPDX-License-Identifier: Apache-2.0
/* A whole machine, of puppets, from its making to its end. */
#include <cmocka.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "dev/pci.h"
#include "machine/acpi.h"
#include "machine/machine.h"
#include "machine/vcpu.h"
#include "mem/access.h"
#include "puppet/puppet.h"
#include "state/state.h"

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

/* What the tables say of where PCI's window behind RAM begins; 0: nothing. */
static uint64_t told_window(struct machine *machine)
{
	const uint8_t name[] = { 0x08, '\\', 'M', '6', '4', 'S', 0x0e };
	uint8_t tables[ACPI_SIZE_MAX];
	struct le64 value = { 0 };
	const uint8_t *at;

	assert_int_equal(mem_read(machine_memory(machine), ACPI_GPA, tables,
				  sizeof(tables)),
			 0);
	at = memmem(tables, sizeof(tables) - sizeof(value), name, sizeof(name));
	if (at)
		memcpy(&value, at + sizeof(name), sizeof(value));
	return le64_get(value);
}

/* A machine of @memory, the smallest for 0, with @devices of 64 KiB. */
static struct machine *pci_machine(uint64_t memory, unsigned int devices)
{
	struct machine_options options;
	struct machine *machine;
	struct err err = ERR_INIT;

	puppet_options(&options, 1, false);
	if (memory)
		options.memory = memory;
	for (unsigned int i = 0; i < devices; i++)
		options.devices[i] =
			(struct device_option){ DEVICE_SHMEM, "size=64K" };
	options.device_count = devices;
	if (machine_new(&options, on_event, NULL, &machine, &err))
		fail_msg("%s", err_msg(&err));
	return machine;
}

static uint32_t bridge_of(struct machine *machine)
{
	struct le32 value;

	mem_read(machine_memory(machine), PCI_ECAM_START, &value,
		 sizeof(value));
	return le32_get(value);
}

static void test_machine_without_devices_has_no_pci_bus(void **state)
{
	struct machine *machine = pci_machine(0, 0);

	(void)state;
	assert_int_equal(bridge_of(machine), UINT32_MAX);
	assert_int_equal(told_window(machine), 0);
	assert_null(state_find(machine_state(machine), "pci"));
	machine_free(machine);
}

static void test_pci_window_begins_behind_ram(void **state)
{
	static const struct {
		uint64_t memory, window;
	} cases[] = { { 0, 4ull << 30 },
		      { 3ull << 30, 4ull << 30 },
		      { 3584ull << 20, 5ull << 30 },
		      { 5ull << 30, 6ull << 30 } };

	(void)state;
	for (size_t i = 0; i < array_size(cases); i++) {
		struct machine *machine = pci_machine(cases[i].memory, 1);

		assert_int_not_equal(bridge_of(machine), UINT32_MAX);
		assert_int_equal(told_window(machine), cases[i].window);
		assert_non_null(state_find(machine_state(machine), "pci"));
		machine_free(machine);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			test_machine_ended_while_it_was_built_never_runs),
		cmocka_unit_test(test_machine_without_devices_has_no_pci_bus),
		cmocka_unit_test(test_pci_window_begins_behind_ram),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
