// SPDX-License-Identifier: Apache-2.0
#include "puppet/puppet.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/list.h"
#include "machine/machine.h"
#include "machine/vcpu.h"
#include "mem/ram.h"
#include "mem/space.h"
#include "state/state.h"

#define TSC_KHZ      1000000u
#define PUPPET_LINES 24u
/* Looked at between kicks; and the others get their turn. */
#define STEPS_A_TURN 16

struct puppet_tally puppet_tally;
unsigned int puppet_stuck;

struct puppet_setup {
	uint32_t used;
	uint8_t features[PUPPET_FEATURES];
};

struct puppet_vm {
	uint64_t clock_ns;
	uint8_t lines[PUPPET_LINES];
};

struct puppet_regs {
	uint64_t writes; /* as the ledger has them */
	uint64_t seed;
	uint32_t is_booted;
};

struct puppet;

struct puppet_vcpu {
	struct accel_vcpu vcpu;
	struct puppet *puppet;
	struct puppet_regs regs;
	struct state_entry entry;
	bool is_kicked; /* atomic */
};

struct puppet {
	struct accel accel;
	struct addr_space *ports; /* borrowed */
	struct mem_listener listener;
	struct ram_block *block; /* borrowed */
	uint64_t *log;           /* atomic; the "kernel's" bits */
	uint64_t log_pages;
	struct state_registry *state;
	struct puppet_setup setup;
	struct puppet_vm vm;
	uint8_t lines[PUPPET_LINES]; /* atomic */
	struct state_entry setup_entry, vm_entry;
};

static struct puppet *puppet_of(struct accel *accel)
{
	return container_of(accel, struct puppet, accel);
}

static struct puppet_vcpu *vcpu_of(struct accel_vcpu *vcpu)
{
	return container_of(vcpu, struct puppet_vcpu, vcpu);
}

/* ---- the guest ---- */

/* In the first page of a vCPU's part: how often each page was written. */
struct ledger {
	uint64_t total;
	uint32_t times[PUPPET_PAGES];
};

static uint64_t mix(uint64_t value)
{
	value *= 0x9e3779b97f4a7c15ull;
	return value ^ value >> 29;
}

/* Guest memory is read by the migration while it is written: no race that a
 * sanitizer should know of. */
#define GUEST_CODE __attribute__((no_sanitize("thread"), noinline))

GUEST_CODE static bool page_is_right(const volatile uint64_t *page,
				     uint64_t value)
{
	return page[0] == value && page[255] == value && page[511] == value;
}

GUEST_CODE static void page_write(volatile uint64_t *page, uint64_t value)
{
	page[0] = page[255] = page[511] = value;
}

/* After the write, as the hardware does it: a sync that misses the bit misses
 * the write too, and the next one finds both. */
static void log_write(struct puppet *puppet, const volatile void *at)
{
	uint64_t page = (uint64_t)((const uint8_t *)(uintptr_t)at -
				   puppet->block->host) >>
			RAM_PAGE_SHIFT;

	bitmap_or_word_atomic(puppet->log, page / 64, 1ull << page % 64);
}

GUEST_CODE static void step(struct puppet_vcpu *vcpu)
{
	struct puppet_regs *regs = &vcpu->regs;
	uint8_t *part =
		vcpu->puppet->block->host + PUPPET_START +
		(uint64_t)vcpu->vcpu.index * PUPPET_PAGES * RAM_PAGE_SIZE;
	volatile struct ledger *ledger = (volatile struct ledger *)part;
	uint64_t salt = (vcpu->vcpu.index + 1ull) << 32;
	volatile uint64_t *page;
	uint32_t number, times;

	regs->seed = regs->seed * 6364136223846793005ull + 1442695040888963407u;
	number = 1 + (uint32_t)(regs->seed >> 33) % (PUPPET_PAGES - 1);
	page = (volatile uint64_t *)(part + number * RAM_PAGE_SIZE);
	times = ledger->times[number];
	if (ledger->total != regs->writes ||
	    !page_is_right(page, times ? mix(salt + number + times) : 0))
		__atomic_add_fetch(&puppet_tally.losses, 1, __ATOMIC_RELAXED);
	page_write(page, mix(salt + number + times + 1));
	log_write(vcpu->puppet, page);
	ledger->times[number] = times + 1;
	ledger->total = ++regs->writes;
	log_write(vcpu->puppet, ledger);
	__atomic_add_fetch(&puppet_tally.writes, 1, __ATOMIC_RELAXED);
}

/* ---- the last words ---- */

/* Behind the vCPUs' parts: one page a vCPU, one for devices. */
static uint64_t *last_word(struct puppet *puppet, unsigned int number)
{
	return (uint64_t *)(puppet->block->host + PUPPET_START +
			    ((uint64_t)PUPPET_CPUS_MAX * PUPPET_PAGES +
			     number) *
				    RAM_PAGE_SIZE);
}

static void say_last_word(struct puppet *puppet, unsigned int number)
{
	uint64_t *word = last_word(puppet, number);

	(*word)++;
	log_write(puppet, word);
}

/* ---- the dirty log ---- */

static void on_region_add(void *opaque, const struct mem_section *section)
{
	struct puppet *puppet = opaque;

	if (!mem_region_is_ram(section->range.region))
		return;
	puppet->block = mem_region_block(section->range.region);
	puppet->log_pages = puppet->block->pages;
	puppet->log = bitmap_new(puppet->log_pages);
}

static int on_log_start(void *opaque, struct err *err)
{
	(void)opaque;
	(void)err;
	return 0;
}

static void on_log_sync(void *opaque, bool is_last)
{
	struct puppet *puppet = opaque;

	(void)is_last;
	for (uint64_t w = 0; w < bitmap_words(puppet->log_pages); w++)
		ram_block_mark_word(
			puppet->block, w * 64,
			__atomic_load_n(&puppet->log[w], __ATOMIC_ACQUIRE),
			true);
}

static int on_log_clear(void *opaque, struct ram_block *block, uint64_t first,
			uint64_t count, const uint64_t *bits, struct err *err)
{
	struct puppet *puppet = opaque;

	(void)block;
	(void)err;
	for (uint64_t w = 0; w < bitmap_words(count); w++)
		__atomic_fetch_and(&puppet->log[first / 64 + w], ~bits[w],
				   __ATOMIC_SEQ_CST);
	return 0;
}

static const struct mem_listener_ops listener_ops = {
	.region_add = on_region_add,
	.log_global_start = on_log_start,
	.log_sync_all = on_log_sync,
	.log_clear = on_log_clear,
};

/* ---- state ---- */

static const struct state_field setup_fields[] = {
	STATE_VARRAY(struct puppet_setup, features, STATE_U8, used),
};

static const struct state_desc setup_desc = {
	.version = 1,
	.min_version = 1,
	.fields = setup_fields,
	.field_count = array_size(setup_fields),
};

static const struct state_field vm_fields[] = {
	STATE_FIELD(struct puppet_vm, clock_ns, STATE_U64),
	STATE_FIELD_FULL(struct puppet_vm, lines, STATE_U8, PUPPET_LINES,
			 STATE_FIXED, 1, 1),
};

static const struct state_desc vm_desc = {
	.version = 1,
	.min_version = 1,
	.fields = vm_fields,
	.field_count = array_size(vm_fields),
};

static const struct state_field vcpu_fields[] = {
	STATE_FIELD(struct puppet_regs, writes, STATE_U64),
	STATE_FIELD(struct puppet_regs, seed, STATE_U64),
	STATE_FIELD_MAX(struct puppet_regs, is_booted, STATE_U32, 1),
};

static const struct state_desc vcpu_desc = {
	.version = 1,
	.min_version = 1,
	.fields = vcpu_fields,
	.field_count = array_size(vcpu_fields),
};

/* ---- operations ---- */

static void puppet_irq_set(struct accel *accel, unsigned int gsi, int level)
{
	__atomic_store_n(&puppet_of(accel)->lines[gsi], level != 0,
			 __ATOMIC_RELAXED);
}

static int puppet_vcpu_new(struct accel *accel, unsigned int index,
			   struct accel_vcpu **ret_vcpu, struct err *err)
{
	struct puppet_vcpu *vcpu = calloc(1, sizeof(*vcpu));
	char name[STATE_NAME_MAX];

	if (!vcpu)
		return err_set(err, -ENOMEM, "no memory for vCPU %u", index);
	vcpu->vcpu = (struct accel_vcpu){ accel->ops, index };
	vcpu->puppet = puppet_of(accel);
	vcpu->regs.seed = index;
	snprintf(name, sizeof(name), "vcpu%u", index);
	state_register(vcpu->puppet->state, &vcpu->entry, name, &vcpu_desc,
		       &vcpu->regs);
	*ret_vcpu = &vcpu->vcpu;
	return 0;
}

static void puppet_vcpu_free(struct accel_vcpu *accel_vcpu)
{
	struct puppet_vcpu *vcpu = vcpu_of(accel_vcpu);

	state_unregister(&vcpu->entry);
	free(vcpu);
}

static int puppet_vcpu_boot(struct accel_vcpu *vcpu,
			    const struct accel_boot_regs *regs, struct err *err)
{
	(void)regs;
	(void)err;
	vcpu_of(vcpu)->regs.is_booted = 1;
	return 0;
}

static void puppet_vcpu_kick(struct accel_vcpu *vcpu)
{
	__atomic_store_n(&vcpu_of(vcpu)->is_kicked, true, __ATOMIC_RELEASE);
}

static void puppet_vcpu_unkick(struct accel_vcpu *vcpu)
{
	__atomic_store_n(&vcpu_of(vcpu)->is_kicked, false, __ATOMIC_RELEASE);
}

static enum accel_exit puppet_vcpu_run(struct accel_vcpu *accel_vcpu,
				       struct err *err)
{
	struct puppet_vcpu *vcpu = vcpu_of(accel_vcpu);

	(void)err;
	if (__atomic_load_n(&vcpu->is_kicked, __ATOMIC_ACQUIRE))
		return ACCEL_EXIT_KICKED; /* before it entered its guest */
	__atomic_add_fetch(&puppet_tally.runs, 1, __ATOMIC_RELAXED);
	while (!__atomic_load_n(&vcpu->is_kicked, __ATOMIC_ACQUIRE) ||
	       __atomic_load_n(&puppet_stuck, __ATOMIC_ACQUIRE) ==
		       accel_vcpu->index + 1) {
		for (int i = 0; i < STEPS_A_TURN; i++)
			step(vcpu);
		sched_yield();
	}
	return ACCEL_EXIT_KICKED;
}

/* Registers are where the guest leaves them. */
static int puppet_vcpu_save(struct accel_vcpu *vcpu, struct err *err)
{
	(void)err;
	say_last_word(vcpu_of(vcpu)->puppet, vcpu->index);
	return 0;
}

static int puppet_vcpu_load(struct accel_vcpu *vcpu, struct err *err)
{
	return vcpu_of(vcpu)->regs.is_booted
		       ? 0
		       : err_set(err, -EINVAL, "vCPU %u was never booted",
				 vcpu->index);
}

static int puppet_vcpu_rehearse(struct accel_vcpu *vcpu, struct err *err)
{
	(void)vcpu;
	(void)err;
	return 0;
}

static int puppet_vm_save(struct accel *accel, struct err *err)
{
	struct puppet *puppet = puppet_of(accel);

	(void)err;
	for (size_t i = 0; i < PUPPET_LINES; i++)
		puppet->vm.lines[i] =
			__atomic_load_n(&puppet->lines[i], __ATOMIC_RELAXED);
	return 0;
}

static int puppet_vm_load(struct accel *accel, struct err *err)
{
	struct puppet *puppet = puppet_of(accel);

	(void)err;
	for (size_t i = 0; i < PUPPET_LINES; i++)
		__atomic_store_n(&puppet->lines[i], puppet->vm.lines[i],
				 __ATOMIC_RELAXED);
	return 0;
}

static int puppet_setup_load(struct accel *accel, struct err *err)
{
	const struct puppet_setup *setup = &puppet_of(accel)->setup;

	for (uint32_t i = 0; i < PUPPET_FEATURES; i++) {
		if (i >= setup->used || setup->features[i] != i)
			return err_set(err, -EINVAL,
				       "this host lacks feature %u", i);
	}
	return 0;
}

static uint32_t puppet_tsc_khz(struct accel *accel)
{
	(void)accel;
	return TSC_KHZ;
}

static void puppet_free(struct accel *accel)
{
	struct puppet *puppet = puppet_of(accel);

	mem_listener_del(&puppet->listener);
	state_unregister(&puppet->setup_entry);
	state_unregister(&puppet->vm_entry);
	bitmap_free(puppet->log, puppet->log_pages);
	free(puppet);
}

static const struct accel_ops puppet_ops = {
	.name = "puppet",
	.free = puppet_free,
	.irq_set = puppet_irq_set,
	.vcpu_new = puppet_vcpu_new,
	.vcpu_free = puppet_vcpu_free,
	.vcpu_boot = puppet_vcpu_boot,
	.vcpu_run = puppet_vcpu_run,
	.vcpu_kick = puppet_vcpu_kick,
	.vcpu_unkick = puppet_vcpu_unkick,
	.vcpu_save = puppet_vcpu_save,
	.vcpu_load = puppet_vcpu_load,
	.vcpu_rehearse = puppet_vcpu_rehearse,
	.vm_save = puppet_vm_save,
	.vm_load = puppet_vm_load,
	.setup_load = puppet_setup_load,
	.tsc_khz = puppet_tsc_khz,
};

static int puppet_create(const struct accel_config *config,
			 struct accel **ret_accel, struct err *err)
{
	struct puppet *puppet = calloc(1, sizeof(*puppet));

	if (!puppet)
		return err_set(err, -ENOMEM, "no memory for a puppet");
	puppet->accel.ops = &puppet_ops;
	puppet->ports = config->ports;
	puppet->state = config->state;
	puppet->setup.used = PUPPET_FEATURES;
	for (uint8_t i = 0; i < PUPPET_FEATURES; i++)
		puppet->setup.features[i] = i;
	mem_listener_add(config->memory, &puppet->listener, &listener_ops,
			 puppet, 10);
	state_register(config->setup_state, &puppet->setup_entry, "features",
		       &setup_desc, &puppet->setup);
	state_register(config->state, &puppet->vm_entry, "puppet", &vm_desc,
		       &puppet->vm);
	*ret_accel = &puppet->accel;
	return 0;
}

const struct accel_type puppet_type = {
	.name = "puppet",
	.create = puppet_create,
};

static struct puppet *puppet_in(struct machine *machine)
{
	return vcpu_of(vcpu_set_get(machine_vcpus(machine), 0))->puppet;
}

struct addr_space *puppet_ports(struct machine *machine)
{
	return puppet_in(machine)->ports;
}

void puppet_device_write(struct machine *machine)
{
	say_last_word(puppet_in(machine), PUPPET_DEVICES);
}

uint64_t puppet_last_word(struct machine *machine, unsigned int number)
{
	return *last_word(puppet_in(machine), number);
}

void puppet_options(struct machine_options *options, unsigned int cpus,
		    bool is_incoming)
{
	*options = (struct machine_options){
		.name = "puppet",
		.memory = MACHINE_MEMORY_MIN,
		.cpus = cpus,
		.guest = "stress",
		.serial = "null",
		.is_incoming = is_incoming,
		.accel = { .type = &puppet_type },
	};
}
