// SPDX-License-Identifier: Apache-2.0
/*
 * What KVM takes for memslots of one size, without godwit's code:
 *
 *	slot_cost MEMORY-MIB SLOT-MIB TOUCHED-MIB
 *
 * A guest in ring 3 writes to each page of the first TOUCHED-MIB; then logging is
 * turned on for all memslots, all of their bits are cleared, read, and logging is
 * turned off again.  One line, in microseconds:
 *
 *	create start start-longest sync stop-longest
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"

#define MIB        (1ull << 20)
#define PAGE       4096ull
#define LARGE_PAGE (2 * MIB)

/* Where the guest has its tables, task state and program; the data follows. */
#define PML4 0x1000u
#define PDPT 0x2000u
#define TSS  0x7000u
#define CODE 0x8000u
#define PDS  0x10000u
#define DATA 0x200000u

#define CLEAR_PAGES 1024u /* at once, as a migration does */

struct bed {
	int kvm, vm, vcpu;
	struct kvm_run *run;
	uint8_t *ram;
	uint64_t memory, slot_size, touched;
	uint32_t slots;
	uint64_t *bits;
};

/* Of one call after another. */
struct cost {
	uint64_t total_ns, longest_ns;
};

static void must(bool is_true, const char *what)
{
	if (is_true)
		return;
	perror(what);
	exit(1);
}

static void cost_add(struct cost *cost, uint64_t start_ns)
{
	uint64_t ns = clock_mono_ns() - start_ns;

	cost->total_ns += ns;
	if (ns > cost->longest_ns)
		cost->longest_ns = ns;
}

static struct cost set_all(struct bed *bed, uint32_t flags)
{
	struct cost cost = { 0 };

	for (uint32_t i = 0; i < bed->slots; i++) {
		uint64_t gpa = i * bed->slot_size, start;
		struct kvm_userspace_memory_region region = {
			.slot = i,
			.flags = flags,
			.guest_phys_addr = gpa,
			.memory_size = bed->slot_size,
			.userspace_addr = (uintptr_t)bed->ram + gpa,
		};

		start = clock_mono_ns();
		must(ioctl(bed->vm, KVM_SET_USER_MEMORY_REGION, &region) == 0,
		     "memslot");
		cost_add(&cost, start);
	}
	return cost;
}

static void clear_all(struct bed *bed)
{
	memset(bed->bits, 0xff, CLEAR_PAGES / 8);
	for (uint64_t gpa = 0; gpa < bed->touched; gpa += CLEAR_PAGES * PAGE) {
		struct kvm_clear_dirty_log clear = {
			.slot = (uint32_t)(gpa / bed->slot_size),
			.first_page = gpa % bed->slot_size / PAGE,
			.num_pages = CLEAR_PAGES,
			.dirty_bitmap = bed->bits,
		};

		must(ioctl(bed->vm, KVM_CLEAR_DIRTY_LOG, &clear) == 0, "clear");
	}
}

static struct cost get_all(struct bed *bed)
{
	struct cost cost = { 0 };

	for (uint32_t i = 0; i < bed->slots; i++) {
		struct kvm_dirty_log log = { .slot = i,
					     .dirty_bitmap = bed->bits };
		uint64_t start = clock_mono_ns();

		must(ioctl(bed->vm, KVM_GET_DIRTY_LOG, &log) == 0, "dirty log");
		cost_add(&cost, start);
	}
	return cost;
}

static void guest_load(struct bed *bed)
{
	static const uint8_t program[] = {
		0x48, 0xff, 0x07,                         /* inc qword [rdi] */
		0x48, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, /* add rdi, 4096 */
		0x48, 0xff, 0xc9,                         /* dec rcx */
		0x75, 0xf1,                               /* jnz */
		0xe6, 0x80,                               /* out 0x80, al */
	};
	uint64_t *pml4 = (uint64_t *)(bed->ram + PML4);
	uint64_t *pdpt = (uint64_t *)(bed->ram + PDPT);
	uint64_t *pd = (uint64_t *)(bed->ram + PDS);

	pml4[0] = PDPT | 0x27; /* accessed, user, writable, present */
	for (uint64_t i = 0; i < 4; i++)
		pdpt[i] = (PDS + i * PAGE) | 0x27;
	for (uint64_t i = 0; i < 4 * 512; i++)
		pd[i] = i * LARGE_PAGE | 0xe7;
	bed->ram[TSS + 102] = 104; /* the bitmap of ports, all open */
	bed->ram[TSS + 104 + 32] = 0xff;
	memcpy(bed->ram + CODE, program, sizeof(program));
}

/* Every page that is touched becomes a small mapping. */
static void guest_run(struct bed *bed)
{
	const struct kvm_segment data = { .limit = 0xffffffff,
					  .selector = 0x13,
					  .type = 3,
					  .present = 1,
					  .dpl = 3,
					  .db = 1,
					  .s = 1,
					  .g = 1 };
	const struct kvm_regs regs = { .rip = CODE,
				       .rdi = DATA,
				       .rcx = (bed->touched - DATA) / PAGE,
				       .rsp = CODE + PAGE,
				       .rflags = 0x3002 };
	struct kvm_sregs sregs;

	must(ioctl(bed->vcpu, KVM_GET_SREGS, &sregs) == 0, "registers");
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = sregs.cs = data;
	sregs.cs.selector = 0x1b;
	sregs.cs.type = 11;
	sregs.cs.db = 0;
	sregs.cs.l = 1;
	sregs.tr = (struct kvm_segment){ .base = TSS,
					 .limit = 104 + 32,
					 .selector = 0x20,
					 .type = 11,
					 .present = 1 };
	sregs.cr0 = 0x80000033;
	sregs.cr3 = PML4;
	sregs.cr4 = 0x620;
	sregs.efer = 0x500;
	must(ioctl(bed->vcpu, KVM_SET_SREGS, &sregs) == 0, "registers");
	must(ioctl(bed->vcpu, KVM_SET_REGS, &regs) == 0, "registers");
	must(ioctl(bed->vcpu, KVM_RUN, 0) == 0 &&
		     bed->run->exit_reason == KVM_EXIT_IO,
	     "guest");
}

static void open_vm(struct bed *bed)
{
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		.args = { KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE |
			  KVM_DIRTY_LOG_INITIALLY_SET },
	};
	uint64_t room = bed->memory + LARGE_PAGE;

	bed->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	must(bed->kvm >= 0, "/dev/kvm");
	bed->vm = ioctl(bed->kvm, KVM_CREATE_VM, 0);
	must(bed->vm >= 0, "VM");
	must(ioctl(bed->vm, KVM_ENABLE_CAP, &cap) == 0, "manual protect");
	bed->ram = mmap(NULL, room, PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	must(bed->ram != MAP_FAILED, "memory");
	bed->ram += -(uintptr_t)bed->ram % LARGE_PAGE;
	bed->bits = calloc(bed->slot_size / PAGE / 64 + 1, sizeof(uint64_t));
	must(bed->bits != NULL, "bitmap");
}

static void open_vcpu(struct bed *bed)
{
	int size = ioctl(bed->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);

	must(ioctl(bed->vm, KVM_CREATE_IRQCHIP, 0) == 0, "irqchip");
	bed->vcpu = ioctl(bed->vm, KVM_CREATE_VCPU, 0);
	must(bed->vcpu >= 0 && size > 0, "vCPU");
	bed->run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED,
			bed->vcpu, 0);
	must(bed->run != MAP_FAILED, "vCPU");
}

static double us(uint64_t ns)
{
	return (double)ns / NS_PER_US;
}

int main(int argc, char **argv)
{
	struct bed bed = { 0 };
	struct cost create, start, sync, stop;

	if (argc != 4) {
		fprintf(stderr, "usage: %s MEMORY-MIB SLOT-MIB TOUCHED-MIB\n",
			argv[0]);
		return 64;
	}
	bed.memory = strtoull(argv[1], NULL, 10) * MIB;
	bed.slot_size = strtoull(argv[2], NULL, 10) * MIB;
	bed.touched = strtoull(argv[3], NULL, 10) * MIB;
	if (!bed.slot_size || bed.memory % bed.slot_size ||
	    bed.touched <= DATA || bed.touched > bed.memory ||
	    bed.touched > 4096 * MIB) {
		fprintf(stderr, "slot_cost: sizes that do not fit\n");
		return 64;
	}
	bed.slots = (uint32_t)(bed.memory / bed.slot_size);
	open_vm(&bed);
	create = set_all(&bed, 0);
	open_vcpu(&bed);
	guest_load(&bed);
	guest_run(&bed);
	start = set_all(&bed, KVM_MEM_LOG_DIRTY_PAGES);
	clear_all(&bed);
	sync = get_all(&bed);
	stop = set_all(&bed, 0);
	printf("%.1f %.1f %.1f %.1f %.1f\n", us(create.total_ns),
	       us(start.total_ns), us(start.longest_ns), us(sync.total_ns),
	       us(stop.longest_ns));
	return 0;
}
