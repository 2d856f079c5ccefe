/* SPDX-License-Identifier: Apache-2.0 */
/* A VM of the simulated accelerator, without a machine around it. */
#ifndef GODWIT_TEST_ACCEL_SIM_VM_H
#define GODWIT_TEST_ACCEL_SIM_VM_H

#include <cmocka.h>

#include "accel/sim/sim_priv.h"
#include "base/err.h"
#include "mem/ram.h"

#define VM_CPUS   2u
#define VM_WINDOW (1ull << 32) /* gpa */

struct test_vm {
	struct mem *mem;
	struct mem_region *root, *ports_root, *ram;
	struct ram_block *block;
	struct mem_region
		*window; /* RAM of its own, if vm_window_new() made it */
	struct ram_block *window_block;
	struct addr_space *memory, *ports;
	struct state_registry setup_state, state;
	struct accel *accel;
	struct sim *sim;
	struct sim_vcpu *vcpus[VM_CPUS];
};

/* @ram_size bytes at guest-physical 0; @options as --accel takes them. */
static inline void vm_init(struct test_vm *vm, uint64_t ram_size,
			   const char *options)
{
	const struct ram_options aligned = { .align = 1ull << 30 };
	struct accel_config config = {
		.cpus = VM_CPUS,
		.setup_state = &vm->setup_state,
		.state = &vm->state,
	};
	struct err err = ERR_INIT;

	*vm = (struct test_vm){ .mem = mem_new() };
	assert_int_equal(ram_block_new(vm->mem, "ram", ram_size, &aligned,
				       &vm->block, NULL),
			 0);
	vm->root = mem_region_new_container(vm->mem, "root", MEM_SIZE_2_64);
	vm->ports_root = mem_region_new_container(vm->mem, "ports", 0x10000);
	vm->ram = mem_region_new_ram(vm->mem, "ram", vm->block);
	mem_region_add(vm->root, 0, vm->ram, 0);
	vm->memory = addr_space_new(vm->mem, "memory", vm->root);
	vm->ports = addr_space_new(vm->mem, "ports", vm->ports_root);
	state_registry_init(&vm->setup_state);
	state_registry_init(&vm->state);
	config.memory = vm->memory;
	config.ports = vm->ports;
	if (accel_options_parse(options, &config.options, &err) ||
	    accel_new(&config, &vm->accel, &err))
		fail_msg("%s: %s", options, err_msg(&err));
	vm->sim = sim_of(vm->accel);
	for (unsigned int i = 0; i < VM_CPUS; i++) {
		struct accel_vcpu *vcpu;

		if (vm->accel->ops->vcpu_new(vm->accel, i, &vcpu, &err))
			fail_msg("%s", err_msg(&err));
		vm->vcpus[i] = sim_vcpu_of(vcpu);
	}
}

static inline void vm_window_new(struct test_vm *vm, uint64_t size)
{
	assert_int_equal(ram_block_new(vm->mem, "window", size, NULL,
				       &vm->window_block, NULL),
			 0);
	vm->window = mem_region_new_ram(vm->mem, "window", vm->window_block);
}

static inline void vm_fini(struct test_vm *vm)
{
	for (unsigned int i = 0; i < VM_CPUS; i++)
		vm->accel->ops->vcpu_free(&vm->vcpus[i]->vcpu);
	accel_free(vm->accel);
	addr_space_free(vm->memory);
	addr_space_free(vm->ports);
	mem_region_put(vm->window);
	mem_region_put(vm->ram);
	mem_region_put(vm->root);
	mem_region_put(vm->ports_root);
	mem_synchronize(vm->mem);
	ram_block_free(vm->window_block);
	ram_block_free(vm->block);
	mem_free(vm->mem);
}

#endif
