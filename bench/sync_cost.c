// SPDX-License-Identifier: Apache-2.0
/*
 * What a round of a migration costs the dirty log, in godwit's own code on real KVM, or
 * on the simulated accelerator, without a machine around it:
 *
 *	sync_cost ACCEL MEMORY-MIB DIRTY-PAGES RUNS ORDER [STEP]
 *
 * A guest of one vCPU wrote @DIRTY-PAGES pages once; they were sent, and it writes them
 * again: ORDER is `row`, one after the other, of which a reset protects 64 at once, or
 * `scattered`, no two that follow each other close together.  One page of each memslot
 * was touched, or one of each STEP.  A line for each run, in microseconds:
 *
 *	guest    the second writing, with a ring: with the harvests meanwhile
 *	log      mem_log_sync(): the kernel's log alone
 *	sync     the same in a next, equal round with residency (ram_watch_sync())
 *	clear    ram_watch_again() of all windows of 4 MiB that have dirty pages
 *	reset    of all that: KVM_RESET_DIRTY_RINGS
 *	last     the last sync, with all of that still in the log
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "accel/kvm/kvm_priv.h"
#include "accel/sim/sim_priv.h"
#include "base/bitmap.h"
#include "base/clock.h"
#include "base/err.h"
#include "kvm_ring3.h"
#include "mem/access.h"
#include "migrate/ram_watch.h"

#define MIB    (1ull << 20)
#define DATA   (16 * MIB)
#define WINDOW 1024ull /* pages */

struct bed {
	struct mem *mem;
	struct mem_region *root, *ports_root, *ram, *port;
	struct ram_block *block;
	struct addr_space *memory, *ports;
	struct state_registry setup_state, state;
	struct accel *accel;
	struct accel_vcpu *vcpu;
	struct ram_watch watch;
	uint64_t pages, stride; /* from one page to the next, round and round */
	bool is_sim;
};

static void must(int ret, const struct err *err)
{
	if (!ret)
		return;
	fprintf(stderr, "sync_cost: %s\n", err_msg(err));
	exit(ret == -ENOTSUP || ret == -EINVAL ? 77 : 1);
}

static uint64_t port_read(void *opaque, uint64_t offset, unsigned int size)
{
	(void)opaque;
	(void)offset;
	(void)size;
	return 0;
}

/* The guest has done its writing. */
static void port_write(void *opaque, uint64_t offset, uint64_t value,
		       unsigned int size)
{
	struct bed *bed = opaque;

	(void)offset;
	(void)value;
	(void)size;
	bed->vcpu->ops->vcpu_kick(bed->vcpu);
}

static const struct mem_io_ops port_ops = { .read = port_read,
					    .write = port_write };

static void on_kick(int signal)
{
	(void)signal;
}

static void bed_init(struct bed *bed, const char *accel, uint64_t size,
		     uint64_t step)
{
	static const uint8_t program[] = {
		0x48, 0xff, 0x07, /* next: inc qword [rdi] */
		0x48, 0x01, 0xdf, /* add rdi, rbx */
		0x48, 0x39, 0xd7, /* cmp rdi, rdx */
		0x72, 0x03,       /* jb below */
		0x48, 0x29, 0xf7, /* sub rdi, rsi */
		0x48, 0xff, 0xc9, /* below: dec rcx */
		0x75, 0xed,       /* jnz next */
		0xe6, 0x80,       /* out 0x80, al */
		0xeb, 0xfc,       /* again */
	};
	const struct sigaction action = { .sa_handler = on_kick };
	struct accel_config config = { .cpus = 1 };
	struct err err = ERR_INIT;

	sigaction(ACCEL_KICK_SIGNAL, &action, NULL);
	bed->mem = mem_new();
	must(ram_block_new(bed->mem, "ram", size, NULL, &bed->block, &err),
	     &err);
	bed->root = mem_region_new_container(bed->mem, "root", MEM_SIZE_2_64);
	bed->ports_root = mem_region_new_container(bed->mem, "ports", 0x10000);
	bed->ram = mem_region_new_ram(bed->mem, "ram", bed->block);
	mem_region_add(bed->root, 0, bed->ram, 0);
	bed->port = mem_region_new_io(bed->mem, "port", 1, &port_ops, bed);
	mem_region_add(bed->ports_root, 0x80, bed->port, 0);
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
	/* So that each memslot is watched. */
	for (uint64_t at = 0; at < size; at += step)
		bed->block->host[at] = 1;
	bed->block->host[0] = 0;
	bed->is_sim = strcmp(bed->accel->ops->name, "sim") == 0;
	if (!bed->is_sim)
		ring3_load(bed->block->host, program, sizeof(program));
}

static double us_since(uint64_t start_ns)
{
	return (double)(clock_mono_ns() - start_ns) / NS_PER_US;
}

/* As the program above does; this thread is the vCPU's. */
static double sim_guest_us(struct bed *bed)
{
	struct sim_vcpu *vcpu = sim_vcpu_of(bed->vcpu);
	uint64_t start = clock_mono_ns(), page = 0;

	sim_enter(vcpu);
	for (uint64_t i = 0; i < bed->pages; i++) {
		uint64_t gpa = DATA + page * RAM_PAGE_SIZE;
		uint64_t *at;

		if (sim_is_wanted(vcpu)) {
			sim_leave(vcpu);
			sim_ring_full(vcpu);
			sim_enter(vcpu);
		}
		at = sim_write_begin(vcpu, gpa);
		++*at;
		sim_write_end(vcpu, gpa);
		page += bed->stride;
		if (page >= bed->pages)
			page -= bed->pages;
	}
	sim_leave(vcpu);
	return us_since(start);
}

static double guest_us(struct bed *bed)
{
	const struct kvm_regs regs = {
		.rdi = DATA,
		.rcx = bed->pages,
		.rbx = bed->stride * RAM_PAGE_SIZE,
		.rdx = DATA + bed->pages * RAM_PAGE_SIZE,
		.rsi = bed->pages * RAM_PAGE_SIZE,
	};
	struct err err = ERR_INIT;
	uint64_t start;

	if (!bed->pages)
		return 0;
	if (bed->is_sim)
		return sim_guest_us(bed);
	err_set(&err, -EIO, "the guest's registers");
	must(ring3_regs(kv_vcpu_of(bed->vcpu)->fd, &regs), &err);
	bed->vcpu->ops->vcpu_unkick(bed->vcpu);
	start = clock_mono_ns();
	if (bed->vcpu->ops->vcpu_run(bed->vcpu, &err) != ACCEL_EXIT_KICKED)
		must(-EIO, &err);
	return us_since(start);
}

/* Take all that is dirty, and have it watched again. */
static double clear_us(struct bed *bed)
{
	uint64_t window[WINDOW / 64], first = 0, count;
	struct err err = ERR_INIT;
	double us = 0;

	while ((count = ram_watch_window(bed->block, &first, WINDOW))) {
		uint64_t start;

		ram_watch_take(bed->block, first, count, window);
		start = clock_mono_ns();
		must(ram_watch_again(&bed->watch, bed->block, first, count,
				     window, &err),
		     &err);
		us += us_since(start);
		first += count;
	}
	return us;
}

static double reset_us(struct bed *bed)
{
	struct accel_ring_stats stats;

	return bed->accel->ops->ring_stats(bed->accel, &stats)
		       ? (double)stats.reset_ns / NS_PER_US
		       : 0;
}

static void run(struct bed *bed)
{
	double guest, log, sync, clear, reset, last;
	struct err err = ERR_INIT;
	uint64_t start;

	guest_us(bed);
	must(ram_watch_start(&bed->watch, bed->mem, &err), &err);
	ram_watch_sync(&bed->watch, false);
	clear_us(bed);

	reset = reset_us(bed);
	guest = guest_us(bed);
	start = clock_mono_ns();
	mem_log_sync(bed->mem, false);
	log = us_since(start);
	reset = reset_us(bed) - reset;
	clear = clear_us(bed);

	guest_us(bed);
	start = clock_mono_ns();
	ram_watch_sync(&bed->watch, false);
	sync = us_since(start);
	clear_us(bed);

	guest_us(bed);
	start = clock_mono_ns();
	mem_log_sync(bed->mem, true);
	last = us_since(start);
	ram_watch_stop(&bed->watch, 0);
	printf("%.1f %.1f %.1f %.1f %.1f %.1f\n", guest, log, sync, clear,
	       reset, last);
	fflush(stdout);
}

/* As many steps as there are pages come to each once, and the next one is a good third
 * of them away. */
static uint64_t scattered(uint64_t pages)
{
	uint64_t stride = pages * 618 / 1000;

	for (;; stride++) {
		uint64_t a = pages, b = stride;

		while (b) {
			uint64_t rest = a % b;

			a = b;
			b = rest;
		}
		if (a <= 1)
			return stride;
	}
}

int main(int argc, char **argv)
{
	struct bed bed = { .pages = 0 };
	uint64_t size, step = 1024 * MIB;

	if (argc != 6 && argc != 7) {
		fprintf(stderr,
			"usage: %s ACCEL MEMORY-MIB DIRTY-PAGES RUNS "
			"row|scattered [STEP]\n",
			argv[0]);
		return 64;
	}
	size = strtoull(argv[2], NULL, 10) * MIB;
	bed.pages = strtoull(argv[3], NULL, 10);
	if (size < 2 * DATA || bed.pages > (size - DATA) / RAM_PAGE_SIZE ||
	    bed.pages > ((4ull << 30) - DATA) / RAM_PAGE_SIZE) {
		fprintf(stderr, "sync_cost: %lu pages do not fit\n", bed.pages);
		return 64;
	}
	bed.stride = strcmp(argv[5], "row") == 0 ? 1 : scattered(bed.pages);
	if (argc == 7 && atoi(argv[6]) > 0)
		step = (uint64_t)atoi(argv[6]) * RAM_PAGE_SIZE;
	bed_init(&bed, argv[1], size, step);
	for (int i = atoi(argv[4]); i > 0; i--)
		run(&bed);
	return 0;
}
