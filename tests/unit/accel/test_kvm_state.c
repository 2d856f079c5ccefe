// SPDX-License-Identifier: Apache-2.0
/*
 * Complete vCPU and VM state, register by register: every field that KVM lets
 * be set gets a value of its own on one VM, is saved, put into state bytes and
 * loaded on a second VM in the same process, and is then read back there by raw
 * ioctls, which this file does itself (it takes the kernel's structures from
 * the accelerator, but neither its code nor its list of MSRs).
 *
 * A field is also compared with that of a vCPU that was never touched, so that
 * none is "equal" because nothing was ever written to it.  Where KVM leaves no
 * choice, the table says why.
 */
#include <cmocka.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <x86intrin.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "kvm_vm.h"

#define RAM_SIZE (16ull << 20)

#define MSR_TSC          0x10u
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_STAR         0xc0000081u
#define MSR_LSTAR        0xc0000082u
#define MSR_CSTAR        0xc0000083u
#define MSR_SFMASK       0xc0000084u
#define MSR_KERNEL_GS    0xc0000102u
#define MSR_PAT          0x277u
#define MSR_SYSENTER_CS  0x174u
#define MSR_SYSENTER_ESP 0x175u
#define MSR_SYSENTER_EIP 0x176u
#define MSR_KVMCLOCK     0x4b564d01u

#define LAPIC_TPR      0x80
#define LAPIC_SVR      0xf0
#define LAPIC_LVTT     0x320
#define LAPIC_TMICT    0x380
#define LAPIC_TMCCT    0x390
#define LAPIC_TDCR     0x3e0
#define LAPIC_PERIODIC (1u << 17)
#define LAPIC_DEADLINE (1u << 18)
#define LAPIC_MASKED   (1u << 16)

/* What the destination got of the vCPUs before the switch. */
enum early {
	EARLY_SAME,
	EARLY_OTHER,
	EARLY_NONE, /* of an old stream */
};

struct fixture {
	struct test_vm source, destination;
	enum early early;
	bool is_built;
};

/* ---- KVM, seen from outside (linked with --wrap=ioctl) ---- */

/* How often the TSC was set, in each of the two ways. */
static unsigned int tsc_msr_writes, tsc_offset_writes;
/* KVM takes whatever frequency, without a word to the real one. */
static bool takes_tsc_khz;
/* KVM has no memory for calls about several MSRs by this request. */
static unsigned long no_memory_for;
/* Calls about several MSRs. */
static unsigned int msr_calls;
/* KVM_KVMCLOCK_CTRL, and the TSCs that had been set when KVM took it last. */
static unsigned int pauses_told, tscs_set_before;
/* As in older kernels: no KVM_VCPU_TSC_OFFSET.  The guest's TSC, which is read as its
 * MSR then, is ahead of the host's. */
static bool has_no_tsc_offset;
#define TSC_AHEAD (1ull << 50)
/* What KVM_GET_CLOCK says, if it says any time. */
static struct kvm_clock_data clock_told;
/* The last that was set. */
static struct kvm_clock_data clock_set;
static uint64_t tsc_set[VM_CPUS]; /* by MSR, in turn */

int __real_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, void *arg);

/* True: the real one is not asked. */
static bool is_answered(unsigned long request, void *arg, int *ret)
{
	const struct kvm_device_attr *attr = arg;
	struct kvm_msrs *msrs = arg;

	*ret = 0;
	if (request == KVM_SET_TSC_KHZ)
		return takes_tsc_khz;
	if (request == KVM_GET_CLOCK && clock_told.clock) {
		*(struct kvm_clock_data *)arg = clock_told;
		return true;
	}
	if (!has_no_tsc_offset)
		return false;
	if ((request == KVM_GET_DEVICE_ATTR ||
	     request == KVM_SET_DEVICE_ATTR) &&
	    attr->group == KVM_VCPU_TSC_CTRL) {
		errno = ENXIO;
		*ret = -1;
		return true;
	}
	if (request != KVM_GET_MSRS || msrs->nmsrs != 1 ||
	    msrs->entries[0].index != MSR_TSC)
		return false;
	msrs->entries[0].data = __rdtsc() + TSC_AHEAD;
	*ret = 1;
	return true;
}

static void note_msrs(unsigned long request, const struct kvm_msrs *msrs)
{
	msr_calls += msrs->nmsrs > 1;
	for (uint32_t i = 0; request == KVM_SET_MSRS && i < msrs->nmsrs; i++) {
		if (msrs->entries[i].index == MSR_TSC)
			tsc_set[tsc_msr_writes++ % VM_CPUS] =
				msrs->entries[i].data;
	}
}

int __wrap_ioctl(int fd, unsigned long request, void *arg)
{
	const struct kvm_device_attr *attr = arg;
	const struct kvm_msrs *msrs = arg;
	int ret;

	if (is_answered(request, arg, &ret))
		return ret;
	if (request == KVM_SET_DEVICE_ATTR && attr->group == KVM_VCPU_TSC_CTRL)
		tsc_offset_writes++;
	if (request == KVM_SET_CLOCK)
		clock_set = *(const struct kvm_clock_data *)arg;
	if (request == KVM_GET_MSRS || request == KVM_SET_MSRS) {
		note_msrs(request, msrs);
		if (request == no_memory_for && msrs->nmsrs > 1) {
			errno = ENOMEM;
			return -1;
		}
	}
	ret = __real_ioctl(fd, request, arg);
	pauses_told += request == KVM_KVMCLOCK_CTRL;
	if (request == KVM_KVMCLOCK_CTRL && ret == 0)
		tscs_set_before = tsc_msr_writes + tsc_offset_writes;
	return ret;
}

/* ---- raw access ---- */

/* What one vCPU holds but for its MSRs. */
struct image {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_xcrs xcrs;
	struct kvm_vcpu_events events;
	struct kvm_debugregs debugregs;
	struct kvm_mp_state mp_state;
	struct kvm_lapic_state lapic;
	uint8_t xsave[KV_XSAVE_MAX];
};

/* ... and a VM. */
struct vm_image {
	struct kvm_irqchip pic_master, pic_slave, ioapic;
	struct kvm_pit_state2 pit;
};

#define assert_ioctl(fd, request, arg)                                \
	do {                                                          \
		if (ioctl(fd, request, arg) < 0)                      \
			fail_msg("%s:%d: %s: %s", __FILE__, __LINE__, \
				 #request, strerror(errno));          \
	} while (0)

static void read_xsave(const struct test_vm *vm, int fd, uint8_t *area)
{
	if (vm->kv->xsave_size > sizeof(struct kvm_xsave))
		assert_ioctl(fd, KVM_GET_XSAVE2, area);
	else
		assert_ioctl(fd, KVM_GET_XSAVE, area);
}

static void read_image(const struct test_vm *vm, unsigned int cpu,
		       struct image *image)
{
	int fd = vm_vcpu_fd(vm, cpu);

	memset(image, 0, sizeof(*image));
	assert_ioctl(fd, KVM_GET_MP_STATE, &image->mp_state);
	assert_ioctl(fd, KVM_GET_REGS, &image->regs);
	assert_ioctl(fd, KVM_GET_SREGS, &image->sregs);
	assert_ioctl(fd, KVM_GET_XCRS, &image->xcrs);
	assert_ioctl(fd, KVM_GET_VCPU_EVENTS, &image->events);
	assert_ioctl(fd, KVM_GET_DEBUGREGS, &image->debugregs);
	assert_ioctl(fd, KVM_GET_LAPIC, &image->lapic);
	read_xsave(vm, fd, image->xsave);
}

static void read_vm_image(const struct test_vm *vm, struct vm_image *image)
{
	int fd = vm->kv->vm_fd;

	memset(image, 0, sizeof(*image));
	image->pic_master.chip_id = KVM_IRQCHIP_PIC_MASTER;
	image->pic_slave.chip_id = KVM_IRQCHIP_PIC_SLAVE;
	image->ioapic.chip_id = KVM_IRQCHIP_IOAPIC;
	assert_ioctl(fd, KVM_GET_IRQCHIP, &image->pic_master);
	assert_ioctl(fd, KVM_GET_IRQCHIP, &image->pic_slave);
	assert_ioctl(fd, KVM_GET_IRQCHIP, &image->ioapic);
	assert_ioctl(fd, KVM_GET_PIT2, &image->pit);
}

static bool msr_do(int fd, unsigned long request, uint32_t index,
		   uint64_t *value)
{
	union {
		struct kvm_msrs msrs;
		uint8_t room[sizeof(struct kvm_msrs) +
			     sizeof(struct kvm_msr_entry)];
	} one = { .msrs.nmsrs = 1 };

	one.msrs.entries[0] =
		(struct kvm_msr_entry){ .index = index, .data = *value };
	if (ioctl(fd, request, &one) != 1)
		return false;
	*value = one.msrs.entries[0].data;
	return true;
}

static uint64_t msr_get(int fd, uint32_t index)
{
	uint64_t value = 0;

	if (!msr_do(fd, KVM_GET_MSRS, index, &value))
		fail_msg("MSR 0x%x cannot be read", index);
	return value;
}

static void msr_set(int fd, uint32_t index, uint64_t value)
{
	if (!msr_do(fd, KVM_SET_MSRS, index, &value))
		fail_msg("MSR 0x%x = 0x%lx is refused", index, value);
}

/* A fixed seed a vCPU: xorshift64*. */
static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed >> 12;
	*seed ^= *seed << 25;
	*seed ^= *seed >> 27;
	return *seed * 0x2545f4914f6cdd1dull;
}

static uint32_t lapic_get(const struct image *image, unsigned int reg)
{
	uint32_t value;

	memcpy(&value, image->lapic.regs + reg, sizeof(value));
	return value;
}

static void lapic_put(struct image *image, unsigned int reg, uint32_t value)
{
	memcpy(image->lapic.regs + reg, &value, sizeof(value));
}

/* ---- values of their own ---- */

static void fill_segment(struct kvm_segment *s, uint64_t *seed, uint8_t type)
{
	s->base = next_random(seed) & 0x7ffffffff000ull;
	s->limit = (uint32_t)next_random(seed) | 0xfff;
	s->selector = (uint16_t)(next_random(seed) | 8) & ~3u;
	s->type = type;
	s->present = 1;
	s->s = type != 2 && type != 11;
	s->g = 1;
	s->avl = 1;
	s->dpl = 0;
}

static void fill_regs(int fd, uint64_t *seed)
{
	struct kvm_regs regs;
	__u64 *reg = &regs.rax;

	for (size_t i = 0; i < 16; i++) /* rax to r15 */
		reg[i] = next_random(seed);
	regs.rip = 0x1000 | (next_random(seed) & 0x7ffffffff000ull);
	regs.rflags = 0x40cd7; /* all six conditions, IF off, DF, AC */
	assert_ioctl(fd, KVM_SET_REGS, &regs);
}

/* Long mode, ring 0; @is_x2apic needs APIC and x2APIC enabled at once. */
static void fill_sregs(int fd, uint64_t *seed, bool is_x2apic)
{
	struct kvm_sregs sregs;

	assert_ioctl(fd, KVM_GET_SREGS, &sregs);
	fill_segment(&sregs.cs, seed, 11);
	sregs.cs.s = 1;
	sregs.cs.l = 1;
	sregs.cs.base = 0;
	fill_segment(&sregs.ds, seed, 3);
	fill_segment(&sregs.es, seed, 3);
	fill_segment(&sregs.fs, seed, 3);
	fill_segment(&sregs.gs, seed, 3);
	fill_segment(&sregs.ss, seed, 3);
	sregs.ss.db = 1;
	fill_segment(&sregs.tr, seed, 11);
	fill_segment(&sregs.ldt, seed, 2);
	sregs.gdt.base = next_random(seed) & 0x7ffffffff000ull;
	sregs.gdt.limit = (uint16_t)next_random(seed);
	sregs.idt.base = next_random(seed) & 0x7ffffffff000ull;
	sregs.idt.limit = (uint16_t)next_random(seed);
	sregs.cr0 = 0x80050033; /* PG AM WP NE ET MP PE */
	sregs.cr2 = next_random(seed);
	sregs.cr3 = 0x5000 + (next_random(seed) & 0xff000);
	sregs.cr4 = 0x6b0; /* PSE PAE PGE OSFXSR OSXMMEXCPT */
	sregs.cr8 = 1 + next_random(seed) % 15;
	sregs.efer = 0xd01; /* NXE LMA LME SCE */
	sregs.apic_base |= 0x800 | (is_x2apic ? 0x400 : 0);
	memset(sregs.interrupt_bitmap, 0, sizeof(sregs.interrupt_bitmap));
	assert_ioctl(fd, KVM_SET_SREGS, &sregs);
}

static void fill_debugregs(int fd, uint64_t *seed)
{
	struct kvm_debugregs debug = { .dr6 = 0xffff4ff5, .dr7 = 0x400 };

	for (size_t i = 0; i < 4; i++)
		debug.db[i] = next_random(seed) & 0x7fffffffffffull;
	debug.dr7 |= 0x23 | (next_random(seed) & 0xff000000);
	assert_ioctl(fd, KVM_SET_DEBUGREGS, &debug);
}

/* The XSAVE components this VM's guests may have, each filled. */
static void fill_xsave(const struct test_vm *vm, int fd, uint64_t *seed)
{
	static uint8_t area[KV_XSAVE_MAX];
	struct kvm_xcrs xcrs = { .nr_xcrs = 1 };
	uint64_t supported = 3;

	read_xsave(vm, fd, area);
	for (size_t i = 32; i < 416; i++) /* st0-7, xmm0-15 */
		area[i] = i < 160 && i % 16 >= 10 ? 0
						  : (uint8_t)next_random(seed);
	area[0] = 0x7f; /* FCW */
	area[1] = 0x0b;
	area[2] = 0x41; /* FSW, TOP 5 */
	area[3] = 0x2b;
	area[4] = 0xe0;                 /* FTW */
	area[6] = 0x23;                 /* FOP */
	for (size_t i = 8; i < 24; i++) /* FIP, FDP */
		area[i] = (uint8_t)next_random(seed) & 0x7f;
	area[14] = area[15] = area[22] = area[23] = 0;
	area[24] = 0xbf; /* MXCSR */
	area[25] = 0x7f;
	for (uint32_t i = 0; i < vm->kv->cpuid.count; i++) {
		const struct kvm_cpuid_entry2 *e = &vm->kv->cpuid.entries[i];
		bool is_pkru = e->index == 9;

		if (e->function != 0xd)
			continue;
		if (e->index == 0)
			supported |= e->eax;
		if (e->index < 2 || e->ecx & 1 || e->ebx < 576 ||
		    e->ebx + e->eax > vm->kv->xsave_size)
			continue;
		for (uint32_t at = 0; at < (is_pkru ? 4 : e->eax); at++)
			area[e->ebx + at] = (uint8_t)next_random(seed);
	}
	memcpy(area + 512, &supported, sizeof(supported)); /* XSTATE_BV */
	assert_ioctl(fd, KVM_SET_XSAVE, area);
	xcrs.xcrs[0].value = supported;
	assert_ioctl(fd, KVM_SET_XCRS, &xcrs);
}

/* Every register of the page but its identity, a running periodic timer. */
static void fill_lapic(int fd, uint64_t *seed, bool is_x2apic)
{
	struct image image;
	struct kvm_lapic_state *lapic = &image.lapic;

	assert_ioctl(fd, KVM_GET_LAPIC, lapic);
	lapic_put(&image, LAPIC_SVR, 0x1ff);
	lapic_put(&image, LAPIC_TPR,
		  (uint32_t)(1 + next_random(seed) % 15) << 4);
	if (!is_x2apic) { /* there, the kernel derives the LDR */
		lapic_put(&image, 0xd0, (uint32_t)next_random(seed) << 24);
		lapic_put(&image, 0xe0, 0x0fffffff); /* DFR: cluster */
	}
	for (unsigned int reg = 0x100; reg < 0x280; reg += 0x10)
		lapic_put(&image, reg, (uint32_t)next_random(seed) << 16);
	lapic_put(&image, 0x280, 0x40);    /* ESR */
	lapic_put(&image, 0x300, 0xc4500); /* ICR */
	lapic_put(&image, 0x310, (uint32_t)next_random(seed) << 24);
	for (unsigned int reg = 0x330; reg <= 0x370; reg += 0x10)
		lapic_put(&image, reg,
			  LAPIC_MASKED | (uint32_t)next_random(seed) % 256);
	lapic_put(&image, LAPIC_LVTT, LAPIC_PERIODIC | LAPIC_MASKED | 0xe5);
	lapic_put(&image, LAPIC_TMICT, 0xf0000000);
	lapic_put(&image, LAPIC_TDCR, 0xa); /* by 128 */
	assert_ioctl(fd, KVM_SET_LAPIC, lapic);
}

static void fill_events(int fd, bool is_exception)
{
	struct kvm_vcpu_events events;

	assert_ioctl(fd, KVM_GET_VCPU_EVENTS, &events);
	events.flags =
		KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
	if (is_exception) {
		events.exception.injected = 1;
		events.exception.nr = 13;
		events.exception.has_error_code = 1;
		events.exception.error_code = 0x5a8;
		events.interrupt.shadow = KVM_X86_SHADOW_INT_STI;
	} else {
		events.interrupt.injected = 1;
		events.interrupt.nr = 0x77;
	}
	events.nmi.pending = 1;
	events.nmi.masked = 1;
	assert_ioctl(fd, KVM_SET_VCPU_EVENTS, &events);
}

/* A value that this MSR takes and that it did not hold; false: there is none
 * among some ninety. */
static bool fill_msr(int fd, uint32_t index, uint64_t *seed)
{
	uint64_t old = msr_get(fd, index), now, candidate[6 + 64];
	size_t count = 0;

	candidate[count++] = (next_random(seed) & 0x7ffffffff000ull) | 0x321;
	candidate[count++] = 0x5001 | (next_random(seed) & 0xff000);
	candidate[count++] = next_random(seed) & 0xffff;
	candidate[count++] = next_random(seed) & 0xff;
	candidate[count++] = next_random(seed);
	candidate[count++] = next_random(seed) & 0xffffffff;
	for (unsigned int bit = 0; bit < 64; bit++)
		candidate[count++] = old ^ 1ull << bit;
	for (size_t i = 0; i < count; i++) {
		now = candidate[i];
		if (msr_do(fd, KVM_SET_MSRS, index, &now) &&
		    msr_get(fd, index) != old)
			return true;
	}
	/* A refused write may have been taken in part. */
	now = old;
	msr_do(fd, KVM_SET_MSRS, index, &now);
	return false;
}

union msr_list {
	struct kvm_msr_list list;
	uint8_t room[sizeof(struct kvm_msr_list) +
		     KV_MSR_MAX * sizeof(uint32_t)];
};

static void read_msr_list(const struct test_vm *vm, union msr_list *list)
{
	list->list.nmsrs = KV_MSR_MAX;
	assert_ioctl(vm->kv->fd, KVM_GET_MSR_INDEX_LIST, list);
}

/* Those that go on by themselves: see the tests of the clock; the last two are
 * Hyper-V's. */
static bool is_clock_msr(uint32_t index)
{
	return index == MSR_TSC || index == MSR_TSC_DEADLINE ||
	       index == 0x40000010 || index == 0x40000020;
}

static void fill_msrs(const struct test_vm *vm, int fd, uint64_t *seed)
{
	static const uint32_t needed[] = {
		MSR_STAR,        MSR_LSTAR,        MSR_CSTAR,
		MSR_SFMASK,      MSR_KERNEL_GS,    MSR_PAT,
		MSR_SYSENTER_CS, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP,
		MSR_KVMCLOCK,
	};
	union msr_list list;
	unsigned int needed_left = array_size(needed);

	read_msr_list(vm, &list);
	for (uint32_t i = 0; i < list.list.nmsrs; i++) {
		uint32_t index = list.list.indices[i];
		uint64_t value = 0;

		if (is_clock_msr(index) ||
		    !msr_do(fd, KVM_GET_MSRS, index, &value))
			continue;
		if (!fill_msr(fd, index, seed))
			continue;
		for (size_t n = 0; n < array_size(needed); n++)
			needed_left -= needed[n] == index;
	}
	assert_int_equal(needed_left, 0);
}

static uint64_t fill_seed; /* another one: other values */

static void fill_vcpu(const struct test_vm *vm, unsigned int cpu)
{
	bool is_x2apic = cpu == 1;
	struct kvm_mp_state halted = { .mp_state = KVM_MP_STATE_HALTED };
	int fd = vm_vcpu_fd(vm, cpu);
	uint64_t seed = 0x9e3779b97f4a7c15ull + cpu + fill_seed;

	fill_sregs(fd, &seed, is_x2apic);
	fill_regs(fd, &seed);
	fill_xsave(vm, fd, &seed);
	fill_debugregs(fd, &seed);
	fill_msrs(vm, fd, &seed);
	fill_lapic(fd, &seed, is_x2apic);
	fill_events(fd, cpu == 0);
	assert_ioctl(fd, KVM_SET_MP_STATE, &halted);
}

static void fill_pic(struct kvm_irqchip *chip, uint8_t base)
{
	struct kvm_pic_state *pic = &chip->chip.pic;

	/* A masked request, so that loading it delivers nothing. */
	pic->last_irr = base | 0x41;
	pic->irr = base | 0x41;
	pic->imr = 0xff;
	pic->isr = 0x80;
	pic->priority_add = 3;
	pic->irq_base = base;
	pic->read_reg_select = 1;
	pic->poll = 0;
	pic->special_mask = 1;
	pic->init_state = 2;
	pic->auto_eoi = 1;
	pic->rotate_on_auto_eoi = 1;
	pic->special_fully_nested_mode = 1;
	pic->init4 = 1;
	pic->elcr = 0x20;
}

static void fill_vm(const struct test_vm *vm)
{
	struct vm_image image;
	struct kvm_ioapic_state *ioapic = &image.ioapic.chip.ioapic;
	uint64_t seed = 77;

	read_vm_image(vm, &image);
	fill_pic(&image.pic_master, 0x30);
	fill_pic(&image.pic_slave, 0x28);
	ioapic->ioregsel = 0x13;
	ioapic->id = 5;
	ioapic->irr = 0x00a0c0;
	for (size_t i = 0; i < KVM_IOAPIC_NUM_PINS; i++)
		ioapic->redirtbl[i].bits =
			(next_random(&seed) & 0xff0000000000a7ffull) |
			LAPIC_MASKED;
	for (size_t i = 0; i < array_size(image.pit.channels); i++) {
		struct kvm_pit_channel_state *c = &image.pit.channels[i];

		c->count = 40000 + (uint32_t)(next_random(&seed) % 20000);
		c->latched_count = (uint16_t)next_random(&seed);
		c->count_latched = 3;
		c->status_latched = 1;
		c->status = (uint8_t)next_random(&seed);
		c->read_state = 2;
		c->write_state = 3;
		c->write_latch = (uint8_t)next_random(&seed) | 1;
		c->rw_mode = 3;
		c->mode = 2 + (uint8_t)(i % 2);
		c->gate = 1; /* wired but for channel 2 */
	}
	assert_ioctl(vm->kv->vm_fd, KVM_SET_IRQCHIP, &image.pic_master);
	assert_ioctl(vm->kv->vm_fd, KVM_SET_IRQCHIP, &image.pic_slave);
	assert_ioctl(vm->kv->vm_fd, KVM_SET_IRQCHIP, &image.ioapic);
	assert_ioctl(vm->kv->vm_fd, KVM_SET_PIT2, &image.pit);
}

/* ---- as a migration does it ---- */

static void save_all(struct test_vm *vm)
{
	struct err err = ERR_INIT;

	for (unsigned int i = 0; i < VM_CPUS; i++) {
		if (vm->accel->ops->vcpu_save(vm->vcpus[i], &err))
			fail_msg("%s", err_msg(&err));
	}
	if (vm->accel->ops->vm_save(vm->accel, &err))
		fail_msg("%s", err_msg(&err));
}

static void registry_move(struct state_registry *from,
			  struct state_registry *to, bool is_old)
{
	struct state_entry *entry;
	struct err err = ERR_INIT;

	list_for_each (entry, &from->entries, link) {
		struct bytes_writer bytes = { .data = NULL };
		struct state_entry *there = state_find(to, entry->name);

		assert_non_null(there);
		if (is_old && entry->desc->is_optional)
			continue;
		there->is_loaded = true;
		if (state_save(entry, &bytes, &err) ||
		    state_load(there, entry->desc->version, bytes.data,
			       bytes.size, &err))
			fail_msg("%s: %s", entry->name, err_msg(&err));
		bytes_writer_fini(&bytes);
	}
}

static void rehearse(struct test_vm *vm)
{
	struct err err = ERR_INIT;

	for (unsigned int i = 0; i < VM_CPUS; i++) {
		if (vm->accel->ops->vcpu_rehearse(vm->vcpus[i], &err))
			fail_msg("%s", err_msg(&err));
	}
}

/* With what save_all() saved last. */
static int try_build(struct fixture *f, struct err *err)
{
	struct test_vm *vm = &f->destination;
	int ret;

	registry_move(&f->source.setup_state, &vm->setup_state,
		      f->early == EARLY_NONE);
	ret = vm->accel->ops->setup_load(vm->accel, err);
	for (unsigned int i = 0; !ret && i < VM_CPUS; i++)
		ret = vm->accel->ops->vcpu_setup_load(vm->vcpus[i], err);
	return ret;
}

static void build(struct fixture *f)
{
	struct err err = ERR_INIT;

	if (try_build(f, &err))
		fail_msg("%s", err_msg(&err));
	rehearse(&f->destination);
	f->is_built = true;
}

static void move_fields(struct fixture *f)
{
	if (!f->is_built)
		build(f);
	f->is_built = false;
	registry_move(&f->source.state, &f->destination.state, false);
}

/* Registers that are filled, and were others as the destination was built. */
static void fill_all(struct fixture *f)
{
	if (f->early == EARLY_OTHER) {
		fill_seed = 1;
		for (unsigned int cpu = 0; cpu < VM_CPUS; cpu++)
			fill_vcpu(&f->source, cpu);
		save_all(&f->source);
		build(f);
		fill_seed = 0;
	}
	for (unsigned int cpu = 0; cpu < VM_CPUS; cpu++) {
		fill_vcpu(&f->source, cpu);
		/* As if the guest had done it. */
		kv_vcpu_of(f->source.vcpus[cpu])->is_saved = false;
	}
}

static int activate(struct test_vm *vm, struct err *err)
{
	int ret = vm->accel->ops->vm_load(vm->accel, err);

	for (unsigned int i = 0; !ret && i < VM_CPUS; i++)
		ret = vm->accel->ops->vcpu_load(vm->vcpus[i], err);
	return ret;
}

static void move(struct fixture *f)
{
	struct err err = ERR_INIT;

	save_all(&f->source);
	move_fields(f);
	if (activate(&f->destination, &err))
		fail_msg("%s", err_msg(&err));
}

/* ---- comparing ---- */

struct field {
	const char *name;
	size_t offset, size;
	/* Why it is the same on a fresh vCPU here, or NULL. */
	const char *fixed;
	/* Why it is not the same on both sides, or NULL. */
	const char *differs;
};

#define FIELD_FULL(type, member, fixed_, differs_)                      \
	{                                                               \
		.name = #member, .offset = offsetof(type, member),      \
		.size = sizeof(((type *)0)->member), .fixed = (fixed_), \
		.differs = (differs_),                                  \
	}
#define V(member)              FIELD_FULL(struct image, member, NULL, NULL)
#define V_FIXED(member, why)   FIELD_FULL(struct image, member, why, NULL)
#define VM(member)             FIELD_FULL(struct vm_image, member, NULL, NULL)
#define VM_FIXED(member, why)  FIELD_FULL(struct vm_image, member, why, NULL)
#define VM_DIFFER(member, why) FIELD_FULL(struct vm_image, member, NULL, why)

static const struct field vcpu_fields[] = {
	V(regs.rax),
	V(regs.rbx),
	V(regs.rcx),
	V(regs.rdx),
	V(regs.rsi),
	V(regs.rdi),
	V(regs.rsp),
	V(regs.rbp),
	V(regs.r8),
	V(regs.r9),
	V(regs.r10),
	V(regs.r11),
	V(regs.r12),
	V(regs.r13),
	V(regs.r14),
	V(regs.r15),
	V(regs.rip),
	V(regs.rflags),
	V(sregs.cs),
	V(sregs.ds),
	V(sregs.es),
	V(sregs.fs),
	V(sregs.gs),
	V(sregs.ss),
	V(sregs.tr),
	V(sregs.ldt),
	V(sregs.gdt.base),
	V(sregs.gdt.limit),
	V(sregs.idt.base),
	V(sregs.idt.limit),
	V(sregs.cr0),
	V(sregs.cr2),
	V(sregs.cr3),
	V(sregs.cr4),
	V(sregs.cr8),
	V(sregs.efer),
	V(sregs.apic_base),
	V(sregs.interrupt_bitmap),
	V(xcrs.xcrs[0].value),
	V(debugregs.db),
	V(debugregs.dr6),
	V(debugregs.dr7),
	V_FIXED(debugregs.flags, "none is defined"),
	V(events.exception.injected),
	V(events.exception.nr),
	V(events.exception.has_error_code),
	V_FIXED(events.exception.pending,
		"needs KVM_CAP_EXCEPTION_PAYLOAD, which is for nested guests"),
	V(events.exception.error_code),
	V(events.interrupt.injected),
	V(events.interrupt.nr),
	V_FIXED(events.interrupt.soft, "KVM never shows it set"),
	V(events.interrupt.shadow),
	V_FIXED(events.nmi.injected, "excludes the pending one"),
	V(events.nmi.pending),
	V(events.nmi.masked),
	V_FIXED(events.sipi_vector, "KVM never shows it"),
	V_FIXED(events.smi.smm, "no firmware, no system management mode"),
	V_FIXED(events.smi.pending, "no system management mode"),
	V_FIXED(events.smi.smm_inside_nmi, "no system management mode"),
	V_FIXED(events.smi.latched_init, "no system management mode"),
	V(mp_state),
};

#define PIC(name)                                                             \
	VM(name.chip.pic.last_irr), VM(name.chip.pic.irr),                    \
		VM(name.chip.pic.imr), VM(name.chip.pic.isr),                 \
		VM(name.chip.pic.priority_add), VM(name.chip.pic.irq_base),   \
		VM(name.chip.pic.read_reg_select),                            \
		VM_FIXED(name.chip.pic.poll, "excludes read_reg_select"),     \
		VM(name.chip.pic.special_mask), VM(name.chip.pic.init_state), \
		VM(name.chip.pic.auto_eoi),                                   \
		VM(name.chip.pic.rotate_on_auto_eoi),                         \
		VM(name.chip.pic.special_fully_nested_mode),                  \
		VM(name.chip.pic.init4), VM(name.chip.pic.elcr),              \
		VM_FIXED(name.chip.pic.elcr_mask, "wired")

#define PIT_CHANNEL(i)                                                        \
	VM(pit.channels[i].count), VM(pit.channels[i].latched_count),         \
		VM(pit.channels[i].count_latched),                            \
		VM(pit.channels[i].status_latched),                           \
		VM(pit.channels[i].status), VM(pit.channels[i].read_state),   \
		VM(pit.channels[i].write_state),                              \
		VM(pit.channels[i].write_latch), VM(pit.channels[i].rw_mode), \
		VM(pit.channels[i].mode),                                     \
		VM_FIXED(pit.channels[i].bcd, "KVM counts in binary only"),   \
		VM_DIFFER(pit.channels[i].count_load_time,                    \
			  "host time of the load, which starts the count")

static const struct field vm_fields[] = {
	PIC(pic_master),
	PIC(pic_slave),
	VM_FIXED(ioapic.chip.ioapic.base_address, "wired"),
	VM(ioapic.chip.ioapic.ioregsel),
	VM(ioapic.chip.ioapic.id),
	VM(ioapic.chip.ioapic.irr),
	VM(ioapic.chip.ioapic.redirtbl),
	PIT_CHANNEL(0),
	PIT_CHANNEL(1),
	PIT_CHANNEL(2),
	VM(pit.channels[2].gate),
	VM_FIXED(pit.flags, "set by the host for its speaker and HPET"),
};

/* 1 where @there differs from @here although it may not; *@changed when @here
 * is not what a fresh one holds. */
static unsigned int field_compare(const struct field *field, const void *fresh,
				  const void *here, const void *there,
				  bool *changed)
{
	const uint8_t *a = (const uint8_t *)here + field->offset;
	const uint8_t *b = (const uint8_t *)there + field->offset;

	if (memcmp(a, (const uint8_t *)fresh + field->offset, field->size))
		*changed = true;
	if (field->differs || memcmp(a, b, field->size) == 0)
		return 0;
	for (size_t i = 0; i < field->size; i++) {
		if (a[i] != b[i])
			print_message("%s: byte %zu is 0x%02x on the source, "
				      "0x%02x on the destination\n",
				      field->name, i, a[i], b[i]);
	}
	return 1;
}

/* A field that nobody changed and that is not said to be fixed. */
static unsigned int unchanged(const struct field *field, bool changed)
{
	if (changed || field->fixed || field->differs)
		return 0;
	print_message("%s holds what it holds on a fresh vCPU\n", field->name);
	return 1;
}

/* ---- tests ---- */

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	vm_init(&f->source, RAM_SIZE, "kvm");
	vm_init(&f->destination, RAM_SIZE, "kvm");
	*state = f;
	return 0;
}

static int setup_early_other(void **state)
{
	int ret = setup(state);

	((struct fixture *)*state)->early = EARLY_OTHER;
	return ret;
}

static int setup_early_none(void **state)
{
	int ret = setup(state);

	((struct fixture *)*state)->early = EARLY_NONE;
	return ret;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	has_no_tsc_offset = false;
	clock_told.clock = 0;
	vm_fini(&f->source);
	vm_fini(&f->destination);
	free(f);
	return 0;
}

static void test_every_register_is_the_same_on_the_destination(void **state)
{
	static struct image fresh, here, there;
	struct fixture *f = *state;
	bool changed[array_size(vcpu_fields)] = { false };
	unsigned int wrong = 0;

	fill_all(f);
	move(f);
	for (unsigned int cpu = 0; cpu < VM_CPUS; cpu++) {
		struct test_vm untouched;

		vm_init(&untouched, RAM_SIZE, "kvm");
		read_image(&untouched, cpu, &fresh);
		vm_fini(&untouched);
		read_image(&f->source, cpu, &here);
		read_image(&f->destination, cpu, &there);
		for (size_t i = 0; i < array_size(vcpu_fields); i++)
			wrong += field_compare(&vcpu_fields[i], &fresh, &here,
					       &there, &changed[i]);
	}
	for (size_t i = 0; i < array_size(vcpu_fields); i++)
		wrong += unchanged(&vcpu_fields[i], changed[i]);
	assert_int_equal(wrong, 0);
}

/* docs/lessons.md: "XSAVE state cut". */
static void test_lesson_xsave_state_is_whole(void **state)
{
	static struct image fresh, here, there;
	struct fixture *f = *state;
	uint64_t seed = 5;

	read_image(&f->source, 0, &fresh);
	fill_xsave(&f->source, vm_vcpu_fd(&f->source, 0), &seed);
	move(f);
	read_image(&f->source, 0, &here);
	read_image(&f->destination, 0, &there);
	for (size_t i = 0; i < f->source.kv->xsave_size; i++) {
		if (here.xsave[i] != there.xsave[i])
			fail_msg("byte %zu is 0x%02x on the source, 0x%02x on "
				 "the destination",
				 i, here.xsave[i], there.xsave[i]);
	}
	/* Each component that lies behind the legacy area was filled. */
	for (uint32_t i = 0; i < f->source.kv->cpuid.count; i++) {
		const struct kvm_cpuid_entry2 *e =
			&f->source.kv->cpuid.entries[i];

		if (e->function == 0xd && e->index >= 2 && !(e->ecx & 1) &&
		    e->ebx >= 576)
			assert_memory_not_equal(here.xsave + e->ebx,
						fresh.xsave + e->ebx, 4);
	}
}

static void test_every_msr_is_the_same_on_the_destination(void **state)
{
	struct fixture *f = *state;
	union msr_list list;
	uint64_t fresh[KV_MSR_MAX] = { 0 };
	unsigned int wrong = 0;

	read_msr_list(&f->source, &list);
	for (uint32_t i = 0; i < list.list.nmsrs; i++)
		msr_do(vm_vcpu_fd(&f->destination, 0), KVM_GET_MSRS,
		       list.list.indices[i], &fresh[i]);
	fill_all(f);
	move(f);
	for (unsigned int cpu = 0; cpu < VM_CPUS; cpu++) {
		for (uint32_t i = 0; i < list.list.nmsrs; i++) {
			uint32_t index = list.list.indices[i];
			uint64_t here = 0, there;

			if (is_clock_msr(index) ||
			    !msr_do(vm_vcpu_fd(&f->source, cpu), KVM_GET_MSRS,
				    index, &here))
				continue;
			there = msr_get(vm_vcpu_fd(&f->destination, cpu),
					index);
			if (cpu == 0 && here == fresh[i])
				print_message("MSR 0x%x takes no value but "
					      "0x%lx here\n",
					      index, here);
			if (here == there)
				continue;
			print_message("vCPU %u, MSR 0x%x: 0x%lx on the source, "
				      "0x%lx on the destination\n",
				      cpu, index, here, there);
			wrong++;
		}
	}
	assert_int_equal(wrong, 0);
}

static void test_every_lapic_register_is_the_same(void **state)
{
	static struct image fresh, here, there;
	struct fixture *f = *state;
	unsigned int changed = 0;

	read_image(&f->destination, 0, &fresh);
	fill_all(f);
	move(f);
	for (unsigned int cpu = 0; cpu < VM_CPUS; cpu++) {
		read_image(&f->source, cpu, &here);
		read_image(&f->destination, cpu, &there);
		for (unsigned int reg = 0x20; reg <= LAPIC_TDCR; reg += 0x10) {
			changed +=
				lapic_get(&here, reg) != lapic_get(&fresh, reg);
			if (reg == LAPIC_TMCCT) /* counts; see below */
				continue;
			if (lapic_get(&here, reg) != lapic_get(&there, reg))
				fail_msg("vCPU %u, LAPIC register 0x%x: 0x%x "
					 "on the source, 0x%x on the "
					 "destination",
					 cpu, reg, lapic_get(&here, reg),
					 lapic_get(&there, reg));
		}
		/* The timer runs, and did not start anew: 0xf0000000 counts
		 * of 128 ns are eight minutes, a test takes no second of it. */
		assert_in_range(lapic_get(&there, LAPIC_TMCCT), 0xef000000,
				lapic_get(&here, LAPIC_TMICT));
	}
	/* Both vCPUs: TPR, SVR, 24 of ISR/TMR/IRR, LVTs, ICR, timer... */
	assert_in_range(changed, 2 * 36, 2 * 64);
}

static void test_every_mp_state_is_the_same_on_the_destination(void **state)
{
	static const uint32_t states[] = {
		KVM_MP_STATE_RUNNABLE,      KVM_MP_STATE_HALTED,
		KVM_MP_STATE_UNINITIALIZED, KVM_MP_STATE_INIT_RECEIVED,
		KVM_MP_STATE_SIPI_RECEIVED,
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < array_size(states); i++) {
		struct kvm_mp_state here = { .mp_state = states[i] }, there;

		/* The boot processor cannot wait for a SIPI. */
		assert_ioctl(vm_vcpu_fd(&f->source, 1), KVM_SET_MP_STATE,
			     &here);
		move(f);
		assert_ioctl(vm_vcpu_fd(&f->source, 1), KVM_GET_MP_STATE,
			     &here);
		assert_ioctl(vm_vcpu_fd(&f->destination, 1), KVM_GET_MP_STATE,
			     &there);
		assert_int_equal(here.mp_state, there.mp_state);
	}
}

static void test_interrupt_controllers_and_timer_are_the_same(void **state)
{
	static struct vm_image fresh, here, there;
	struct fixture *f = *state;
	unsigned int wrong = 0;

	read_vm_image(&f->destination, &fresh);
	fill_vm(&f->source);
	move(f);
	read_vm_image(&f->source, &here);
	read_vm_image(&f->destination, &there);
	for (size_t i = 0; i < array_size(vm_fields); i++) {
		bool changed = false;

		wrong += field_compare(&vm_fields[i], &fresh, &here, &there,
				       &changed);
		wrong += unchanged(&vm_fields[i], changed);
	}
	assert_int_equal(wrong, 0);
}

/* As if the state had been ten seconds on its way: kvmclock has moved on by
 * them, and the guest's TSC by as much. */
static void test_clocks_go_on_by_the_time_that_passed(void **state)
{
	const uint64_t away_ns = 10 * NS_PER_SEC;
	/* Two readings that KVM does not pair may have a pause between them. */
	const uint64_t slack_ns = NS_PER_SEC / 2;
	struct fixture *f = *state;
	struct kv_vm_state *sent = &f->destination.kv->vm_state;
	struct kvm_clock_data clock = { .clock = 3600 * NS_PER_SEC };
	uint64_t offset_here, offset_there, away_tsc;
	struct err err = ERR_INIT;
	int64_t off;

	assert_ioctl(f->source.kv->vm_fd, KVM_SET_CLOCK, &clock);
	msr_set(vm_vcpu_fd(&f->source, 0), MSR_TSC, 1ull << 50);
	save_all(&f->source);
	move_fields(f);
	assert_in_range(sent->kvmclock_ns, clock.clock, clock.clock + slack_ns);
	away_tsc = away_ns / 1000000 * sent->tsc_khz;
	sent->realtime_ns -= away_ns;
	sent->host_tsc -= away_tsc;
	if (activate(&f->destination, &err))
		fail_msg("%s", err_msg(&err));

	assert_ioctl(f->destination.kv->vm_fd, KVM_GET_CLOCK, &clock);
	assert_in_range(clock.clock, sent->kvmclock_ns + away_ns - slack_ns,
			sent->kvmclock_ns + away_ns + slack_ns);
	/* The host's TSC counted those ten seconds as well: same offset. */
	if (kv_tsc_offset_get(kv_vcpu_of(f->source.vcpus[0]), &offset_here))
		offset_here =
			msr_get(vm_vcpu_fd(&f->source, 0), MSR_TSC) - __rdtsc();
	if (kv_tsc_offset_get(kv_vcpu_of(f->destination.vcpus[0]),
			      &offset_there))
		offset_there =
			msr_get(vm_vcpu_fd(&f->destination, 0), MSR_TSC) -
			__rdtsc();
	off = (int64_t)(offset_there - offset_here);
	assert_in_range((uint64_t)llabs(off), 0,
			slack_ns / 1000000 * sent->tsc_khz);
}

/* Where KVM gives them, the three are of one moment; else as near as can be, and
 * what it left in their place does not matter. */
static void test_clock_without_its_pair_is_read_with_the_hosts(void **state)
{
	struct fixture *f = *state;
	const struct kv_vm_state *saved = &f->source.kv->vm_state;
	uint64_t tsc, real_ns;

	clock_told = (struct kvm_clock_data){
		.clock = 5 * NS_PER_SEC,
		.flags = KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC,
		.realtime = 77,
		.host_tsc = 78,
	};
	save_all(&f->source);
	assert_int_equal(saved->kvmclock_ns, 5 * NS_PER_SEC);
	assert_int_equal(saved->realtime_ns, 77);
	assert_int_equal(saved->host_tsc, 78);

	for (uint32_t has_one = 0; has_one < 2; has_one++) {
		clock_told.flags = has_one ? KVM_CLOCK_HOST_TSC : 0;
		tsc = __rdtsc();
		real_ns = clock_real_ns();
		save_all(&f->source);
		assert_int_equal(saved->kvmclock_ns, 5 * NS_PER_SEC);
		assert_in_range(saved->host_tsc, tsc, __rdtsc());
		assert_in_range(saved->realtime_ns, real_ns, clock_real_ns());
	}
}

/* ... by us, and never back. */
static void test_kernel_without_realtime_has_the_clock_advanced(void **state)
{
	struct fixture *f = *state;
	struct kv *kv = f->destination.kv;
	struct kv_vm_state *sent = &kv->vm_state;
	struct err err = ERR_INIT;
	uint64_t before_ns;

	kv->has_clock_realtime = false;
	save_all(&f->source);
	move_fields(f);
	sent->kvmclock_ns = 3600 * NS_PER_SEC;
	sent->realtime_ns -= 10 * NS_PER_SEC;
	before_ns = clock_real_ns();
	assert_int_equal(activate(&f->destination, &err), 0);
	assert_int_equal(clock_set.flags, 0);
	assert_in_range(clock_set.clock - sent->kvmclock_ns,
			before_ns - sent->realtime_ns,
			clock_real_ns() - sent->realtime_ns);

	sent->realtime_ns = clock_real_ns() + 10 * NS_PER_SEC;
	assert_int_equal(activate(&f->destination, &err), 0);
	assert_int_equal(clock_set.clock, sent->kvmclock_ns);
}

/* KVM takes TSCs that are written within a second, and are about what one clock
 * says by then, as one. */
static void test_kernel_without_tsc_offsets_is_told_one_tsc(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;
	uint64_t saving, begin, end, delta;

	has_no_tsc_offset = true;
	saving = __rdtsc();
	save_all(&f->source);
	saving = __rdtsc() - saving;
	move_fields(f);
	tsc_msr_writes = 0;
	begin = __rdtsc();
	if (activate(&f->destination, &err))
		fail_msg("%s", err_msg(&err));
	end = __rdtsc();
	assert_int_equal(tsc_msr_writes, VM_CPUS);
	delta = f->destination.kv->tsc_delta;
	for (unsigned int cpu = 0; cpu < VM_CPUS; cpu++)
		assert_in_range(tsc_set[cpu] - TSC_AHEAD,
				begin + delta - saving, end + delta);
}

/* Host and guest at 2.5 and 2 GHz, and what KVM's ratio loses below the point. */
static void test_host_tsc_is_scaled_as_kvm_does_it(void **state)
{
	static const struct {
		struct kv_tsc_rate rate;
		uint64_t host_tsc, guest_tsc;
	} cases[] = {
		{ { 2500000, 2500000, 48 }, 1ull << 63, 1ull << 63 },
		{ { 5000000, 2500000, 48 }, 1ull << 50, 1ull << 51 },
		{ { 1250000, 2500000, 32 }, 1ull << 50, 1ull << 49 },
		{ { 2000000, 2500000, 48 },
		  10000000000000000,
		  7999999999999971 },
		{ { 2000000, 2500000, 32 },
		  10000000000000000,
		  7999999998137354 },
		{ { 2500000, 2000000, 32 },
		  10000000000000000,
		  12500000000000000 },
		{ { 3700001, 2899999, 48 }, 123456789012345, 157513931143584 },
		/* The product has more than 64 bits, the result too. */
		{ { 5000000, 2500000, 48 }, (1ull << 63) + 5, 10 },
		{ { 5000000, 2500000, 32 }, UINT64_MAX, UINT64_MAX - 1 },
		/* Within 250 ppm, KVM leaves the host's TSC as it is. */
		{ { 2500625, 2500000, 48 }, 1ull << 60, 1ull << 60 },
		{ { 2499375, 2500000, 48 }, 1ull << 60, 1ull << 60 },
		{ { 2500000, 0, 0 }, 77, 77 },
	};
	static const struct kv_tsc_rate beyond[] = { { 2500626, 2500000, 48 },
						     { 2499374, 2500000, 48 } };

	(void)state;
	for (size_t i = 0; i < array_size(cases); i++)
		assert_int_equal(
			kv_tsc_scale(&cases[i].rate, cases[i].host_tsc),
			cases[i].guest_tsc);
	for (size_t i = 0; i < array_size(beyond); i++)
		assert_int_not_equal(kv_tsc_scale(&beyond[i], 1ull << 60),
				     1ull << 60);
}

/* Between hosts of other frequencies, up for years or seconds: the guest's TSC
 * counts on at its own. */
static void test_guest_tsc_goes_on_whatever_hosts_count(void **state)
{
	static const struct {
		struct kv_tsc_rate from, to;
		uint64_t host_then, host_now;
	} moves[] = {
		{ { 2000000, 2000000, 48 },
		  { 2000000, 2500000, 48 },
		  1ull << 56,
		  1ull << 33 },
		{ { 2000000, 2500000, 48 },
		  { 2000000, 3100000, 32 },
		  1ull << 33,
		  1ull << 57 },
		{ { 3600000, 2400000, 32 },
		  { 3600000, 3600000, 32 },
		  1ull << 63,
		  12345 },
		{ { 3600000, 3600400, 0 },
		  { 3600000, 1800000, 48 },
		  UINT64_MAX - 7,
		  UINT64_MAX / 3 },
	};
	/* A TSC that is near its end wraps around, as processors' do. */
	static const uint64_t guest_tscs[] = { 0, 1ull << 52,
					       UINT64_MAX - 1000 };

	(void)state;
	for (size_t i = 0; i < array_size(moves) * array_size(guest_tscs);
	     i++) {
		const struct kv_tsc_rate *from = &moves[i / 3].from;
		const struct kv_tsc_rate *to = &moves[i / 3].to;
		uint64_t tsc = guest_tscs[i % 3], offset;
		struct kv_vm_state then = {
			.kvmclock_ns = 5 * NS_PER_SEC,
			.host_tsc = kv_tsc_scale(from, moves[i / 3].host_then),
			.tsc_khz = from->guest_khz,
		};
		struct kv_vm_state now = {
			.kvmclock_ns = 8 * NS_PER_SEC,
			.host_tsc = kv_tsc_scale(to, moves[i / 3].host_now),
		};

		offset = tsc - kv_tsc_scale(from, moves[i / 3].host_then);
		offset += kv_tsc_delta(&then, &now);
		assert_int_equal(kv_tsc_scale(to, moves[i / 3].host_now) +
					 offset,
				 tsc + 3000ull * from->guest_khz);
	}
}

/* As moved on from a host that scales. */
static void test_tsc_frequency_that_was_loaded_is_saved(void **state)
{
	struct fixture *f = *state;
	struct kv *kv = f->destination.kv;
	uint32_t khz = kv->tsc_rate.host_khz / 5 * 4;

	takes_tsc_khz = true;
	kv->tsc_rate.frac_bits = 48;
	save_all(&f->source);
	move_fields(f);
	kv->vm_state.tsc_khz = khz;
	assert_int_equal(activate(&f->destination, NULL), 0);
	save_all(&f->destination);
	takes_tsc_khz = false;
	assert_int_equal(kv->vm_state.tsc_khz, khz);
	/* ... and the host's TSC is told at that frequency. */
	assert_in_range(kv->vm_state.host_tsc, 1, __rdtsc() / 5 * 4 + 4);
}

/* KVM takes a faster TSC without scaling, and then runs after it. */
static void test_tsc_that_kvm_cannot_scale_is_refused(void **state)
{
	struct fixture *f = *state;
	struct kv *kv = f->destination.kv;
	struct err err = ERR_INIT;

	takes_tsc_khz = true;
	kv->tsc_rate.frac_bits = 0;
	save_all(&f->source);
	move_fields(f);
	kv->vm_state.tsc_khz = kv->tsc_rate.host_khz * 2;
	assert_int_equal(activate(&f->destination, &err), -ENOTSUP);
	takes_tsc_khz = false;
	assert_non_null(strstr(err_msg(&err), "cannot scale"));
}

static void set_deadline(int fd, uint64_t deadline)
{
	static struct image image;

	assert_ioctl(fd, KVM_GET_LAPIC, &image.lapic);
	lapic_put(&image, LAPIC_SVR, 0x1ff);
	lapic_put(&image, LAPIC_LVTT, LAPIC_DEADLINE | 0xe5);
	assert_ioctl(fd, KVM_SET_LAPIC, &image.lapic);
	msr_set(fd, MSR_TSC_DEADLINE, deadline);
	assert_int_equal(msr_get(fd, MSR_TSC_DEADLINE), deadline);
}

/* docs/lessons.md: "a few per cent of restores hang": KVM drops a deadline that is set
 * before the LAPIC's timer is in deadline mode. */
static void test_lesson_tsc_deadline_is_loaded_after_the_lapic(void **state)
{
	struct fixture *f = *state;
	int fd = vm_vcpu_fd(&f->source, 0);
	uint64_t deadline = msr_get(fd, MSR_TSC) + (1ull << 45);

	set_deadline(fd, deadline);
	move(f);
	assert_int_equal(
		msr_get(vm_vcpu_fd(&f->destination, 0), MSR_TSC_DEADLINE),
		deadline);
}

static uint32_t msr_position(const struct kv_msr_list *msrs, uint32_t index)
{
	uint32_t at = 0;

	while (at < msrs->count && msrs->index[at] != index)
		at++;
	assert_true(at < msrs->count);
	return at;
}

/* docs/lessons.md: "clock reads 18 times slower after a restore": a second write of the
 * TSC makes KVM give up its master clock. */
static void test_lesson_tsc_of_each_vcpu_is_set_once_by_its_offset(void **state)
{
	struct fixture *f = *state;
	uint64_t offset;
	bool has_offset =
		!kv_tsc_offset_get(kv_vcpu_of(f->source.vcpus[0]), &offset);

	save_all(&f->source);
	move_fields(f);
	tsc_msr_writes = tsc_offset_writes = 0;
	assert_int_equal(activate(&f->destination, NULL), 0);
	assert_int_equal(tsc_offset_writes, VM_CPUS);
	assert_int_equal(tsc_msr_writes, has_offset ? 0 : VM_CPUS);
}

/* Its watchdog would take the pause for a lockup. */
static void test_vcpu_with_kvmclock_is_told_that_it_was_paused(void **state)
{
	struct fixture *f = *state;
	struct test_vm *there = &f->destination;
	const bool is_on[VM_CPUS] = { [1] = true };
	struct err err = ERR_INIT;

	for (unsigned int cpu = 0; cpu < VM_CPUS; cpu++)
		msr_set(vm_vcpu_fd(&f->source, cpu), MSR_KVMCLOCK,
			0x5000 | is_on[cpu]);
	save_all(&f->source);
	move_fields(f);
	pauses_told = 0;
	assert_int_equal(there->accel->ops->vm_load(there->accel, &err), 0);
	assert_int_equal(pauses_told, 0);
	for (unsigned int cpu = 0; cpu < VM_CPUS; cpu++) {
		pauses_told = tscs_set_before = 0;
		tsc_msr_writes = tsc_offset_writes = 0;
		if (there->accel->ops->vcpu_load(there->vcpus[cpu], &err))
			fail_msg("%s", err_msg(&err));
		assert_int_equal(pauses_told, is_on[cpu]);
		assert_int_equal(tscs_set_before != 0, is_on[cpu]);
	}
}

static void test_rehearsal_leaves_a_vcpu_and_its_time_as_they_were(void **state)
{
	struct fixture *f = *state;
	const struct kv_vcpu *vcpu = kv_vcpu_of(f->destination.vcpus[1]);
	uint64_t offset = 0, after = 0;
	struct image was, is;
	bool has_offset;

	read_image(&f->destination, 1, &was);
	has_offset = !kv_tsc_offset_get(kv_vcpu_of(f->destination.vcpus[1]),
					&offset);
	tsc_msr_writes = tsc_offset_writes = msr_calls = 0;
	rehearse(&f->destination);
	read_image(&f->destination, 1, &is);
	assert_memory_equal(&was, &is, sizeof(was));
	/* It was no empty gesture. */
	assert_in_range(msr_calls, 2 * VM_CPUS, 4 * VM_CPUS);
	assert_int_equal(tsc_msr_writes + tsc_offset_writes, 0);
	if (has_offset)
		kv_tsc_offset_get(kv_vcpu_of(f->destination.vcpus[1]), &after);
	assert_int_equal(after, offset);
	/* What the load may leave out is still known. */
	assert_non_null(vcpu->known);
}

/* Saved, then moved with MSR number @at (of the list) changed: the load must
 * fail and name it, before the switch or at it. */
static void assert_msr_refused(struct fixture *f, uint32_t at, uint32_t index,
			       uint64_t value)
{
	struct kv_vcpu_state *saved = &kv_vcpu_of(f->source.vcpus[1])->state;
	struct err err = ERR_INIT;
	char name[32];

	save_all(&f->source);
	saved->msr_index[at] = index;
	saved->msr_value[at] = value;
	if (f->early != EARLY_NONE) {
		assert_int_equal(try_build(f, &err), -EINVAL);
	} else {
		move_fields(f);
		assert_int_equal(activate(&f->destination, &err), -EINVAL);
	}
	snprintf(name, sizeof(name), "MSR 0x%x ", index);
	if (!strstr(err_msg(&err), name) || !strstr(err_msg(&err), "vCPU 1"))
		fail_msg("%s", err_msg(&err));
}

static void test_msr_that_kvm_refuses_fails_the_load(void **state)
{
	struct fixture *f = *state;
	uint32_t at = msr_position(&f->source.kv->msrs, MSR_LSTAR);

	/* A number that no CPU has, and a value that is not canonical. */
	assert_msr_refused(f, at, 0xdeadbeef, 1);
	assert_msr_refused(f, at, MSR_LSTAR, 0x1234567800000000ull);
}

/* As on hosts that list MSRs which they then do not let be set. */
static void test_msr_that_cannot_be_set_must_be_equal(void **state)
{
	struct fixture *f = *state;
	struct kv_msr_list *msrs = &f->destination.kv->msrs;
	uint32_t at = msr_position(msrs, MSR_LSTAR);

	msrs->is_fixed[at] = true;
	move(f);
	assert_msr_refused(f, at, MSR_LSTAR, 0x5000);
}

static void test_few_msrs_take_one_call_each_way(void **state)
{
	struct fixture *f = *state;

	assert_in_range(f->source.kv->msrs.count, 2, 200);
	msr_calls = 0;
	save_all(&f->source);
	assert_int_equal(msr_calls, VM_CPUS);
	move_fields(f);
	msr_calls = 0;
	assert_int_equal(activate(&f->destination, NULL), 0);
	assert_int_equal(msr_calls, 0); /* all came early */
}

static void test_few_msrs_that_changed_take_one_call(void **state)
{
	struct fixture *f = *state;

	f->early = EARLY_OTHER;
	fill_all(f);
	save_all(&f->source);
	move_fields(f);
	msr_calls = 0;
	assert_int_equal(activate(&f->destination, NULL), 0);
	assert_in_range(msr_calls, VM_CPUS, 2 * VM_CPUS); /* and a deadline */
}

static void halt(struct test_vm *vm)
{
	struct kvm_mp_state halted = { .mp_state = KVM_MP_STATE_HALTED };

	for (unsigned int cpu = 0; cpu < VM_CPUS; cpu++)
		assert_int_equal(
			ioctl(vm_vcpu_fd(vm, cpu), KVM_SET_MP_STATE, &halted),
			0);
}

/* How many of the vCPUs had all their registers saved. */
static unsigned int saved_whole(struct test_vm *vm)
{
	msr_calls = 0;
	save_all(vm);
	return msr_calls;
}

static void test_registers_of_who_waits_in_hlt_are_not_saved_again(void **state)
{
	struct fixture *f = *state;
	struct kv_vcpu *first = kv_vcpu_of(f->source.vcpus[0]);
	uint64_t exits;

	if (kv_vcpu_stat(first, KV_STAT_EXITS, &exits)) {
		printf("skipped: this kernel has no statistics of vCPUs\n");
		skip();
	}
	assert_int_equal(saved_whole(&f->source), VM_CPUS);
	assert_int_equal(saved_whole(&f->source), VM_CPUS); /* not in HLT */
	halt(&f->source);
	assert_int_equal(saved_whole(&f->source), VM_CPUS); /* only now */
	assert_int_equal(saved_whole(&f->source), 0);
	first->saved_exits--; /* it was in the guest meanwhile */
	assert_int_equal(saved_whole(&f->source), 1);
	first->state.tsc_deadline = 1;
	assert_int_equal(saved_whole(&f->source), 1);
	first->is_saved = false;
	assert_int_equal(saved_whole(&f->source), 1);
	assert_int_equal(saved_whole(&f->source), 0);
}

/* They go on while a vCPU waits, and are not read again. */
static void clear_clock_msrs(struct kv_vcpu_state *s)
{
	for (uint32_t i = 0; i < s->msr_used; i++) {
		if (is_clock_msr(s->msr_index[i]))
			s->msr_value[i] = 0;
	}
}

static void test_what_reaches_who_waits_in_hlt_is_saved(void **state)
{
	struct fixture *f = *state;
	int fd = vm_vcpu_fd(&f->source, 0);
	struct kv_vcpu *vcpu = kv_vcpu_of(f->source.vcpus[0]);
	struct kvm_lapic_state lapic;
	struct kv_vcpu_state *then = malloc(sizeof(*then));

	assert_non_null(then);
	halt(&f->source);
	save_all(&f->source);
	*then = vcpu->state;
	assert_int_equal(ioctl(fd, KVM_NMI), 0);
	assert_int_equal(ioctl(fd, KVM_GET_LAPIC, &lapic), 0);
	lapic.regs[0x220] = 2; /* IRR: vector 0x41 */
	assert_int_equal(ioctl(fd, KVM_SET_LAPIC, &lapic), 0);
	save_all(&f->source);
	assert_int_not_equal(then->events.nmi.pending,
			     vcpu->state.events.nmi.pending);
	assert_memory_not_equal(&then->lapic, &vcpu->state.lapic,
				sizeof(then->lapic));
	*then = vcpu->state;
	vcpu->is_saved = false; /* all of it, and it is the same */
	save_all(&f->source);
	clear_clock_msrs(then);
	clear_clock_msrs(&vcpu->state);
	assert_memory_equal(then, &vcpu->state, sizeof(*then));
	free(then);
}

#define PDPT 0x5000u

/* False: this KVM keeps no such state. */
static bool fill_pae(struct test_vm *vm)
{
	int fd = vm_vcpu_fd(vm, 0);
	struct kvm_sregs sregs;

	assert_int_equal(ioctl(fd, KVM_GET_SREGS, &sregs), 0);
	sregs.cs.l = 0;
	sregs.cs.db = 1;
	sregs.efer = 0;
	sregs.cr3 = PDPT;
	sregs.cr4 = 0x20;       /* PAE */
	sregs.cr0 = 0x80000011; /* PG, ET, PE */
	assert_int_equal(ioctl(fd, KVM_SET_SREGS, &sregs), 0);
	assert_int_equal(ioctl(fd, KVM_GET_SREGS, &sregs), 0);
	kv_vcpu_of(vm->vcpus[0])->is_saved = false;
	return kv_has_pdptrs(&sregs);
}

/* KVM keeps them from when CR3 was set, and the page that they are in may be among
 * the last that come. */
static void test_pdptrs_are_those_of_the_memory_that_came(void **state)
{
	struct fixture *f = *state;
	struct test_vm *there = &f->destination;
	uint64_t entries[4] = { 0x6001, 0x7001, 0x8001, 0x9001 };
	struct kvm_sregs2 sregs;

	if (ioctl(f->source.kv->fd, KVM_CHECK_EXTENSION, KVM_CAP_SREGS2) <= 0 ||
	    !fill_pae(&f->source)) {
		printf("skipped: no PAE paging, or no way to read PDPTRs\n");
		skip();
	}
	move(f);
	memcpy(there->block->host + PDPT, entries, sizeof(entries));
	assert_int_equal(there->accel->ops->activate(there->accel, NULL), 0);
	assert_int_equal(ioctl(vm_vcpu_fd(there, 0), KVM_GET_SREGS2, &sregs),
			 0);
	assert_true(sregs.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID);
	assert_memory_equal(sregs.pdptrs, entries, sizeof(entries));
}

/* KVM takes 255 a call; here the list names some again and again. */
static void test_as_many_msrs_as_we_hold_are_moved(void **state)
{
	struct fixture *f = *state;
	struct kv_msr_list *msrs = &f->source.kv->msrs;
	int here = vm_vcpu_fd(&f->source, 0);
	int there = vm_vcpu_fd(&f->destination, 0);
	uint64_t deadline = msr_get(here, MSR_TSC) + (1ull << 45);
	uint32_t sizes[] = { 254, 255, 256, KV_MSR_MAX };

	msrs->index[msr_position(msrs, MSR_LSTAR)] = MSR_STAR;
	set_deadline(here, deadline);
	for (size_t i = 0; i < array_size(sizes); i++) {
		while (msrs->count < sizes[i])
			msrs->index[msrs->count++] = MSR_STAR;
		msrs->index[msrs->count - 1] = MSR_LSTAR;
		msr_set(here, MSR_LSTAR, 0x5000 + i);
		msr_set(there, MSR_TSC_DEADLINE, 0);
		move(f);
		assert_int_equal(msr_get(there, MSR_LSTAR), 0x5000 + i);
		assert_int_equal(msr_get(there, MSR_TSC_DEADLINE), deadline);
		msrs->index[msrs->count - 1] = MSR_STAR;
	}
}

static void test_call_that_fails_is_not_blamed_on_an_msr(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;
	int ret;

	no_memory_for = KVM_GET_MSRS;
	ret = f->source.accel->ops->vcpu_save(f->source.vcpus[0], &err);
	no_memory_for = 0;
	assert_int_equal(ret, -ENOMEM);
	assert_non_null(strstr(err_msg(&err), "KVM_GET_MSRS: "));

	err = (struct err)ERR_INIT;
	f->early = EARLY_OTHER; /* so that there is something to set */
	fill_all(f);
	save_all(&f->source);
	move_fields(f);
	no_memory_for = KVM_SET_MSRS;
	ret = activate(&f->destination, &err);
	no_memory_for = 0;
	assert_int_equal(ret, -ENOMEM);
	assert_non_null(strstr(err_msg(&err), "KVM_SET_MSRS: "));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
#define TEST_EARLY(name)                                                 \
	TEST(name),                                                      \
		cmocka_unit_test_setup_teardown(name, setup_early_other, \
						teardown),               \
		cmocka_unit_test_setup_teardown(name, setup_early_none,  \
						teardown)
		TEST_EARLY(test_every_register_is_the_same_on_the_destination),
		TEST(test_lesson_xsave_state_is_whole),
		TEST_EARLY(test_every_msr_is_the_same_on_the_destination),
		TEST(test_every_lapic_register_is_the_same),
		TEST(test_every_mp_state_is_the_same_on_the_destination),
		TEST(test_interrupt_controllers_and_timer_are_the_same),
		TEST(test_clocks_go_on_by_the_time_that_passed),
		TEST(test_clock_without_its_pair_is_read_with_the_hosts),
		TEST(test_kernel_without_realtime_has_the_clock_advanced),
		TEST(test_kernel_without_tsc_offsets_is_told_one_tsc),
		TEST(test_host_tsc_is_scaled_as_kvm_does_it),
		TEST(test_guest_tsc_goes_on_whatever_hosts_count),
		TEST(test_tsc_frequency_that_was_loaded_is_saved),
		TEST(test_tsc_that_kvm_cannot_scale_is_refused),
		TEST(test_lesson_tsc_deadline_is_loaded_after_the_lapic),
		TEST(test_lesson_tsc_of_each_vcpu_is_set_once_by_its_offset),
		TEST(test_vcpu_with_kvmclock_is_told_that_it_was_paused),
		TEST(test_rehearsal_leaves_a_vcpu_and_its_time_as_they_were),
		TEST(test_few_msrs_take_one_call_each_way),
		TEST(test_few_msrs_that_changed_take_one_call),
		TEST(test_registers_of_who_waits_in_hlt_are_not_saved_again),
		TEST(test_what_reaches_who_waits_in_hlt_is_saved),
		TEST(test_pdptrs_are_those_of_the_memory_that_came),
		TEST(test_as_many_msrs_as_we_hold_are_moved),
		TEST(test_call_that_fails_is_not_blamed_on_an_msr),
		TEST_EARLY(test_msr_that_kvm_refuses_fails_the_load),
		TEST_EARLY(test_msr_that_cannot_be_set_must_be_equal),
	};

	need_kvm();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
