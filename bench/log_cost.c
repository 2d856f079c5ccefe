// SPDX-License-Identifier: Apache-2.0
/*
 * What a migration waits for when dirty logging starts and stops, in godwit's own
 * code on real KVM, without a machine around it:
 *
 *	log_cost ACCEL MEMORY-MIB [RUNS]
 *
 * One page of each memslot is resident.  A line for each run, in microseconds:
 *
 *	start              ram_send_start() with logging off
 *	start-on           the same with logging still on
 *	watch              the first log_clear of every memslot, all together
 *	stop               ram_send_stop()
 *	eager-start        all memslots told at once, as mem_region_set_log() does
 *	eager-stop         likewise
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "accel/kvm/kvm_priv.h"
#include "base/clock.h"
#include "base/err.h"
#include "mem/ram.h"
#include "migrate/ram_send.h"

#define MIB      (1ull << 20)
#define GIB      (1ull << 30)
#define NEVER_NS (3600 * NS_PER_SEC)

struct bed {
	struct mem *mem;
	struct mem_region *root, *ports_root, *ram;
	struct ram_block *block;
	struct addr_space *memory, *ports;
	struct state_registry setup_state, state;
	struct accel *accel;
	struct accel_vcpu *vcpu;
	struct ram_send send;
};

static void must(int ret, const struct err *err)
{
	if (!ret)
		return;
	fprintf(stderr, "log_cost: %s\n", err_msg(err));
	exit(ret == -ENOTSUP || ret == -EINVAL ? 77 : 1);
}

static void bed_init(struct bed *bed, const char *accel, uint64_t size)
{
	struct accel_config config = { .cpus = 1 };
	struct err err = ERR_INIT;

	bed->mem = mem_new();
	must(ram_block_new(bed->mem, "ram", size, NULL, &bed->block, &err),
	     &err);
	bed->root = mem_region_new_container(bed->mem, "root", MEM_SIZE_2_64);
	bed->ports_root = mem_region_new_container(bed->mem, "ports", 0x10000);
	bed->ram = mem_region_new_ram(bed->mem, "ram", bed->block);
	mem_region_add(bed->root, 0, bed->ram, 0);
	bed->memory = addr_space_new(bed->mem, "memory", bed->root);
	bed->ports = addr_space_new(bed->mem, "ports", bed->ports_root);
	state_registry_init(&bed->setup_state);
	state_registry_init(&bed->state);
	config.memory = bed->memory;
	config.ports = bed->ports;
	config.setup_state = &bed->setup_state;
	config.state = &bed->state;
	must(accel_options_parse(accel, &config.options, &err), &err);
	must(accel_new(&config, &bed->accel, &err), &err);
	must(bed->accel->ops->vcpu_new(bed->accel, 0, &bed->vcpu, &err), &err);
	for (uint64_t at = 0; at < size; at += GIB)
		bed->block->host[at] = 1;
}

static double us_since(uint64_t start_ns)
{
	return (double)(clock_mono_ns() - start_ns) / NS_PER_US;
}

static double start_us(struct bed *bed)
{
	struct err err = ERR_INIT;
	uint64_t start = clock_mono_ns();

	must(ram_send_start(&bed->send, bed->mem, NULL, false, &err), &err);
	return us_since(start);
}

static double stop_us(struct bed *bed, uint64_t grace_ns)
{
	uint64_t start = clock_mono_ns();

	ram_send_stop(&bed->send, grace_ns);
	return us_since(start);
}

static double watch_us(struct bed *bed)
{
	const uint64_t bits = 1;
	struct err err = ERR_INIT;
	uint64_t start = clock_mono_ns();

	for (uint64_t at = 0; at < bed->block->size; at += GIB)
		must(mem_log_clear(bed->mem, bed->block, at >> RAM_PAGE_SHIFT,
				   64, &bits, &err),
		     &err);
	return us_since(start);
}

static double eager_us(struct bed *bed, bool is_logged)
{
	uint64_t start = clock_mono_ns();

	mem_region_set_log(bed->ram, is_logged);
	return us_since(start);
}

static void run(struct bed *bed)
{
	struct kv_log_stop *worker = &kv_of(bed->accel)->log_stop;
	double start, start_on, watch, stop, eager_start, eager_stop;

	start = start_us(bed);
	ram_send_sync(&bed->send, false);
	watch = watch_us(bed);
	stop = stop_us(bed, NEVER_NS);
	start_on = start_us(bed);
	stop_us(bed, 0);
	if (worker->has_thread)
		pthread_join(worker->thread, NULL);
	worker->has_thread = false;
	eager_start = eager_us(bed, true);
	eager_stop = eager_us(bed, false);
	printf("start %.1f start-on %.1f watch %.1f stop %.1f "
	       "eager-start %.1f eager-stop %.1f\n",
	       start, start_on, watch, stop, eager_start, eager_stop);
}

int main(int argc, char **argv)
{
	int runs = argc > 3 ? atoi(argv[3]) : 1;
	struct bed bed = { 0 };

	if (argc < 3) {
		fprintf(stderr, "usage: %s ACCEL MEMORY-MIB [RUNS]\n", argv[0]);
		return 64;
	}
	bed_init(&bed, argv[1], strtoull(argv[2], NULL, 10) * MIB);
	for (int i = 0; i < runs; i++)
		run(&bed);
	return 0;
}
