/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VM made by the accelerator alone, without a machine around it: an address
 * space with some RAM, and vCPUs that a test sets up by raw ioctls.
 */
#ifndef GODWIT_TEST_ACCEL_KVM_VM_H
#define GODWIT_TEST_ACCEL_KVM_VM_H

#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "accel/kvm/kvm_priv.h"
#include "mem/ram.h"

#define VM_CPUS 2

struct test_vm {
	struct mem *mem;
	struct mem_region *root, *ports_root, *ram;
	struct ram_block *block;
	/* A block of its own, if vm_window_new() made it, not mapped yet. */
	struct mem_region *window;
	struct ram_block *window_block;
	struct addr_space *memory, *ports;
	struct state_registry setup_state, state;
	struct accel *accel;
	struct kv *kv;
	struct accel_vcpu *vcpus[VM_CPUS];
};

/* Exits as a skipped test, which tools/check counts (and fails where there is
 * a /dev/kvm). */
static inline void need_kvm(void)
{
	if (access("/dev/kvm", R_OK | W_OK) == 0)
		return;
	printf("skipped: no /dev/kvm that may be used\n");
	exit(77);
}

static inline void vm_on_kick(int signal)
{
	(void)signal;
}

/* @ram_size bytes at guest-physical 0; @accel as for --accel. */
static inline void vm_init(struct test_vm *vm, uint64_t ram_size,
			   const char *accel)
{
	const struct sigaction action = { .sa_handler = vm_on_kick };
	struct accel_config config = {
		.cpus = VM_CPUS,
		.setup_state = &vm->setup_state,
		.state = &vm->state,
	};
	struct err err = ERR_INIT;

	*vm = (struct test_vm){ .mem = mem_new() };
	assert_int_equal(
		ram_block_new(vm->mem, "ram", ram_size, NULL, &vm->block, NULL),
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
	sigaction(ACCEL_KICK_SIGNAL, &action, NULL);
	if (accel_options_parse(accel, &config.options, &err) ||
	    accel_new(&config, &vm->accel, &err))
		fail_msg("%s", err_msg(&err));
	vm->kv = kv_of(vm->accel);
	for (unsigned int i = 0; i < VM_CPUS; i++) {
		if (vm->accel->ops->vcpu_new(vm->accel, i, &vm->vcpus[i], &err))
			fail_msg("%s", err_msg(&err));
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
		vm->accel->ops->vcpu_free(vm->vcpus[i]);
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

/* Wait until what a stop left to the worker is done. */
static inline void vm_wait_log_stop(struct test_vm *vm)
{
	struct kv_log_stop *stop = &vm->kv->log_stop;

	if (stop->has_thread)
		assert_int_equal(pthread_join(stop->thread, NULL), 0);
	stop->has_thread = false;
}

static inline int vm_vcpu_fd(const struct test_vm *vm, unsigned int index)
{
	return kv_vcpu_of(vm->vcpus[index])->fd;
}

#endif
