// SPDX-License-Identifier: Apache-2.0
/*
 * What a vCPU's program starts from: its registers as they are saved, the options
 * and the memory map, which are where the built-in guest finds them, and how memory
 * is shared out.  Registers that came from a stream are checked here before they
 * index anything.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "mem/access.h"
#include "sim_priv.h"

#define MAX_BACKLOG_NS NS_PER_MS
#define SCAN_NS        (100 * NS_PER_US)

/* Xen's public/arch-x86/hvm/start_info.h */
#define HVM_START_MAGIC 0x336ec578
#define HVM_MEMMAP_RAM  1
#define HVM_MEMMAP_MAX  64u

struct hvm_start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr;
	uint32_t memmap_entries, reserved;
};

struct hvm_memmap_entry {
	uint64_t addr, size;
	uint32_t type, reserved;
};

#define REG(member)       STATE_FIELD(struct sim_regs, member, STATE_U64)
#define REG_GAUGE(member) STATE_FIELD(struct sim_regs, gauge.member, STATE_U64)

static const struct state_field vcpu_fields[] = {
	STATE_FIELD_MAX(struct sim_regs, stage, STATE_U64, SIM_STAGES - 1),
	REG(stamped),
	REG(checked),
	REG(errors),
	REG(full_checks),
	REG(checks_asked),
	REG(resets_asked),
	REG(start_info),
	REG(start),
	REG(warm_at),
	REG(next_stamp),
	REG(next_scan),
	REG(to_scan),
	REG(hot_at),
	REG(fill_at),
	REG(sum),
	REG(sum_below),
	REG(check_left),
	REG(pv_writes),
	REG(tick),
	REG(poll),
	REG(report),
	REG(end),
	STATE_FIELD_MAX(struct sim_regs, order, STATE_U64, 0xff),
	REG(pattern.next),
	REG(pattern.random),
	REG_GAUGE(last),
	STATE_FIELD_FULL(struct sim_regs, gauge.gaps, STATE_U64, 2 * GAUGE_GAPS,
			 STATE_FIXED, 1, 0),
	STATE_FIELD(struct sim_regs, gauge.resets, STATE_U32),
	REG_GAUGE(steps_back),
	REG_GAUGE(interval_end),
	REG_GAUGE(interval),
	REG_GAUGE(interval_pages),
	STATE_SINCE(struct sim_regs, clock_writes, STATE_U64, 2),
	STATE_SINCE(struct sim_regs, eois, STATE_U64, 2),
};

const struct state_desc sim_vcpu_desc = {
	.version = 2,
	.min_version = 1,
	.fields = vcpu_fields,
	.field_count = array_size(vcpu_fields),
};

static int read_memory_map(struct sim_vcpu *vcpu,
			   const struct hvm_start_info *info, struct ram *ram)
{
	const uint64_t large = LARGE_PAGES * (uint64_t)PAGE_SIZE;
	const uint64_t high = 4ull << 30;
	uint64_t low_end = 0, high_start = 0, high_end = 0;

	for (uint32_t i = 0; i < info->memmap_entries && i < HVM_MEMMAP_MAX;
	     i++) {
		struct hvm_memmap_entry entry;
		uint64_t end;

		if (mem_read(vcpu->sim->memory,
			     info->memmap_paddr + i * sizeof(entry), &entry,
			     sizeof(entry)) ||
		    __builtin_add_overflow(entry.addr, entry.size, &end))
			return -EINVAL;
		if (entry.type != HVM_MEMMAP_RAM || end >> S2_GPA_BITS)
			continue;
		if (entry.addr <= AREA_BASE && end > AREA_BASE)
			low_end = end & ~(large - 1);
		if (entry.addr >= high && !high_end) {
			high_start = entry.addr;
			high_end = end;
		}
	}
	if (!low_end)
		return -EINVAL;
	ram->low_pages = (low_end - AREA_BASE) / PAGE_SIZE;
	ram->high_add = high_end ? high_start - low_end : 0;
	ram->pages = ram->low_pages + (high_end - high_start) / PAGE_SIZE;
	return 0;
}

static int read_options(struct sim_vcpu *vcpu, struct sim_program *program,
			struct err *err)
{
	struct addr_space *memory = vcpu->sim->memory;
	struct hvm_start_info info;
	char text[CONFIG_TEXT_MAX + 1];
	const char *wrong;
	size_t n = 0;

	if (mem_read(memory, vcpu->regs.start_info, &info, sizeof(info)) ||
	    info.magic != HVM_START_MAGIC || info.version < 1 ||
	    read_memory_map(vcpu, &info, &program->ram))
		return err_set(err, -EINVAL,
			       "vCPU %u: no start information at 0x%lx",
			       vcpu->vcpu.index, vcpu->regs.start_info);
	for (; n < CONFIG_TEXT_MAX; n++) {
		if (mem_read(memory, info.cmdline_paddr + n, &text[n], 1) ||
		    !text[n])
			break;
	}
	text[n] = '\0';
	wrong = config_parse(&program->config, text);
	if (!wrong && program->config.cpus > vcpu->sim->cpus)
		return err_set(err, -EINVAL,
			       "fewer vCPUs came up than cpus= says");
	return wrong ? err_set(err, -EINVAL, "bad option %.*s",
			       (int)strcspn(wrong, ", "), wrong)
		     : 0;
}

/* The @index-th of equal slices, the whole starting at a 2 MiB boundary. */
static uint64_t share(uint64_t bytes, uint64_t cpus, uint64_t index,
		      uint64_t *next, uint64_t *ret_first)
{
	uint64_t pages = bytes / PAGE_SIZE / cpus;

	*next = align_up(*next, LARGE_PAGES);
	*ret_first = *next + index * pages;
	*next += pages * cpus;
	return pages;
}

static int share_memory(struct sim_vcpu *vcpu, struct sim_program *program,
			struct err *err)
{
	const struct config *config = &program->config;
	uint64_t index = vcpu->vcpu.index, cpus = config->cpus;
	uint64_t next = config->skip / PAGE_SIZE, expected, pages;
	uint64_t tables = vcpu->sim->options.tables_size / PAGE_SIZE;

	program->hot_pages =
		share(config->hot, cpus, index, &next, &program->hot_first);
	program->fill_pages =
		share(config->fill, cpus, index, &next, &program->fill_first);
	pages = (program->hot_pages * 8 + PAGE_SIZE - 1) / PAGE_SIZE;
	expected = ram_take_low(&program->ram, pages * cpus);
	program->expected = expected + index * pages * PAGE_SIZE;
	if (tables)
		program->tables = ram_take_low(&program->ram, tables);
	if (!expected || (tables && !program->tables) ||
	    next > program->ram.pages)
		return err_set(err, -EINVAL,
			       "skip, hot and fill do not fit in RAM");
	program->ring = VCPUS_BASE + index * VCPU_SIZE + PAGE_SIZE;
	return 0;
}

/* What came from a stream is used to index. */
static int check_regs(const struct sim_vcpu *vcpu,
		      const struct sim_program *program, struct err *err)
{
	const struct sim_regs *regs = &vcpu->regs;
	uint64_t hot = program->hot_pages, fill = program->fill_pages;

	if (regs->hot_at > hot || (hot && regs->hot_at == hot) ||
	    regs->fill_at > fill || (fill && regs->fill_at == fill) ||
	    regs->warm_at > hot + fill || regs->pattern.next > hot ||
	    (hot && regs->pattern.next == hot) ||
	    regs->check_left > 2 * hot + fill)
		return err_set(err, -EINVAL,
			       "vCPU %u: registers that its workload cannot "
			       "have",
			       vcpu->vcpu.index);
	return 0;
}

static void start_program(struct sim_vcpu *vcpu, struct sim_program *program)
{
	const struct config *config = &program->config;
	struct sim_regs *regs = &vcpu->regs;
	const struct pattern before = regs->pattern;

	if (config->rate_per_s)
		program->stamp_tsc =
			((NS_PER_SEC * config->cpus) << 8) / config->rate_per_s;
	program->max_backlog = MAX_BACKLOG_NS << 8;
	program->scan_tsc = SCAN_NS;
	program->burst_tsc = config->burst_us * NS_PER_US;
	pattern_init(&regs->pattern, (enum pattern_kind)config->pattern,
		     program->hot_pages, config->seed + vcpu->vcpu.index);
	if (before.random) { /* arrived: it goes on where it was */
		regs->pattern.next = before.next;
		regs->pattern.random = before.random;
	}
	regs->gauge.interval_tsc = config->interval_us * NS_PER_US;
	if (vcpu->vcpu.index >= config->cpus)
		sim_reg_set(&regs->stage, SIM_ENDED);
}

/* As the guest does it: it says why on its serial port, and ends the machine. */
static void refuse(struct sim_vcpu *vcpu, const struct err *why)
{
	if (vcpu->vcpu.index) {
		sim_reg_set(&vcpu->regs.stage, SIM_ENDED);
		return;
	}
	sim_print(vcpu, "@fail %s", err_msg(why));
	sim_leave(vcpu);
	sim_program_end(vcpu, SIM_EXIT_CONFIG);
	sim_leave(vcpu);
}

int sim_program_bind(struct sim_vcpu *vcpu, struct err *err)
{
	bool is_fresh = vcpu->regs.stage == SIM_WARM && !vcpu->regs.warm_at;
	struct sim_program *program = calloc(1, sizeof(*program));
	struct err why = ERR_INIT;
	int ret;

	if (!program)
		return err_set(err, -ENOMEM, "no memory for a workload");
	free(vcpu->program);
	vcpu->program = program;
	vcpu->is_program_checked = true;
	if (vcpu->regs.stage == SIM_OFF || vcpu->regs.stage == SIM_ENDED)
		return 0;
	ret = read_options(vcpu, program, &why);
	if (!ret)
		ret = share_memory(vcpu, program, &why);
	if (!ret && program->config.selftest)
		ret = err_set(&why, -EINVAL, "bad option selftest");
	if (!ret)
		ret = check_regs(vcpu, program, &why);
	if (ret && !is_fresh)
		return err_set(err, ret, "%s", err_msg(&why));
	if (ret) {
		refuse(vcpu, &why);
		return 0;
	}
	start_program(vcpu, program);
	if (program->tables)
		__atomic_store_n(&vcpu->sim->tables_gpa, program->tables,
				 __ATOMIC_RELEASE);
	vcpu->has_arrived = !is_fresh;
	return 0;
}
