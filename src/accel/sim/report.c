// SPDX-License-Identifier: Apache-2.0
/* What the workload prints on COM1, as the built-in guest does (guest/README.md). */
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "sim_priv.h"

#define COM1 0x3f8

/* Between two looks at the TSC. */
#define PIECE 64u

/* As the guest: the oldest of what is remembered is being overwritten. */
#define WORK_MAX (GAUGE_RING - 64)

struct line {
	char text[16384];
	size_t used;
};

static void add(struct line *line, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

static void add_list(struct line *line, const char *fmt, va_list args)
	__attribute__((format(printf, 2, 0)));

static void add_list(struct line *line, const char *fmt, va_list args)
{
	size_t room = sizeof(line->text) - line->used;
	int n = vsnprintf(line->text + line->used, room, fmt, args);

	line->used += n < 0 ? 0 : (size_t)n < room ? (size_t)n : room - 1;
}

static void add(struct line *line, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	add_list(line, fmt, args);
	va_end(args);
}

static bool may_print(struct sim *sim)
{
	return !__atomic_exchange_n(&sim->is_printing, true, __ATOMIC_ACQUIRE);
}

/* Each line in one piece, whichever vCPU it comes from.  Whoever waits for another's does
 * so outside: an epoch, or a flush of all log buffers, may be waiting for him. */
static void print(struct sim_vcpu *vcpu, const struct line *line)
{
	struct sim *sim = vcpu->sim;

	if (!may_print(sim)) {
		sim_leave(vcpu);
		while (!may_print(sim))
			sched_yield();
		sim_enter(vcpu);
	}
	for (size_t at = 0; at < line->used; at += PIECE) {
		size_t rest = line->used - at;

		sim_out(vcpu, COM1, line->text + at,
			rest < PIECE ? rest : PIECE, 1);
		gauge_look(&vcpu->regs.gauge, sim_tsc(sim));
	}
	__atomic_store_n(&sim->is_printing, false, __ATOMIC_RELEASE);
}

void sim_print(struct sim_vcpu *vcpu, const char *fmt, ...)
{
	struct line line = { .used = 0 };
	va_list args;

	add(&line, "\n");
	va_start(args, fmt);
	add_list(&line, fmt, args);
	va_end(args);
	add(&line, "\n");
	print(vcpu, &line);
}

void sim_tick(struct sim_vcpu *vcpu)
{
	struct sim *sim = vcpu->sim;

	if (__atomic_exchange_n(&sim->is_printing, true, __ATOMIC_ACQUIRE))
		return;
	sim_out(vcpu, COM1, ".", 1, 1);
	__atomic_store_n(&sim->is_printing, false, __ATOMIC_RELEASE);
}

void sim_print_start(struct sim_vcpu *vcpu)
{
	const struct sim_program *program = vcpu->program;
	const struct config *config = &program->config;

	sim_print(vcpu,
		  "@stress cpus=%lu hot=%lu fill=%lu first=0x%lx pages=%lu "
		  "ram_pages=%lu tsc_khz=%u options=%s",
		  config->cpus, config->hot, config->fill,
		  ram_gpa(&program->ram, program->hot_first),
		  program->hot_pages * config->cpus, program->ram.pages,
		  SIM_TSC_KHZ, config->text);
}

void sim_print_ready(struct sim_vcpu *vcpu)
{
	sim_print(vcpu, "@ready tsc=%lu", vcpu->regs.start);
}

/* A gauge while its vCPU uses it: a figure may be one step old. */
__attribute__((no_sanitize("thread"), noinline)) static void
peek(struct gauge *to, const volatile struct gauge *from)
{
	*to = *from;
}

struct machine_gap {
	struct gap gap;
	unsigned int cpu;
};

/* The @n longest of all vCPUs, longest first. */
static void merge_gaps(struct sim_vcpu *vcpu, struct machine_gap *gaps, int n)
{
	memset(gaps, 0, (size_t)n * sizeof(*gaps));
	for (unsigned int cpu = 0; cpu < vcpu->program->config.cpus; cpu++) {
		struct gauge gauge;

		peek(&gauge, &vcpu->sim->vcpus[cpu]->regs.gauge);
		/* Not cleared yet: its gaps are from before the reset. */
		if (gauge.resets != vcpu->regs.resets_asked)
			continue;
		for (int i = 0; i < GAUGE_GAPS; i++) {
			struct gap gap = gauge.gaps[i];
			int at = n - 1;

			if (gap.length <= gaps[at].gap.length)
				continue;
			for (; at > 0 && gaps[at - 1].gap.length < gap.length;
			     at--)
				gaps[at] = gaps[at - 1];
			gaps[at] = (struct machine_gap){ gap, cpu };
		}
	}
}

static uint64_t read_of(const uint64_t *value)
{
	return __atomic_load_n(value, __ATOMIC_RELAXED);
}

void sim_print_counters(struct sim_vcpu *vcpu)
{
	uint64_t pages = 0, checked = 0, errors = 0, steps_back = 0;
	struct machine_gap longest;

	for (unsigned int cpu = 0; cpu < vcpu->program->config.cpus; cpu++) {
		const struct sim_regs *regs = &vcpu->sim->vcpus[cpu]->regs;
		struct gauge gauge;

		peek(&gauge, &regs->gauge);
		pages += read_of(&regs->stamped);
		checked += read_of(&regs->checked);
		errors += read_of(&regs->errors);
		steps_back += gauge.steps_back;
	}
	merge_gaps(vcpu, &longest, 1);
	sim_print(vcpu,
		  "@report tsc=%lu gap_us=%lu gap_at=%lu gap_cpu=%u pages=%lu "
		  "checked=%lu errors=%lu tsc_back=%lu tsc_khz=%u",
		  sim_tsc(vcpu->sim), longest.gap.length / 1000,
		  longest.gap.start, longest.cpu, pages, checked, errors,
		  steps_back, SIM_TSC_KHZ);
}

void sim_print_gaps(struct sim_vcpu *vcpu)
{
	struct machine_gap gaps[GAUGE_GAPS];
	struct line line = { .used = 0 };

	merge_gaps(vcpu, gaps, GAUGE_GAPS);
	add(&line, "\n@gaps");
	for (int i = 0; i < GAUGE_GAPS && gaps[i].gap.length; i++)
		add(&line, " %lu@%lu@%u", gaps[i].gap.length / 1000,
		    gaps[i].gap.start, gaps[i].cpu);
	add(&line, "\n");
	print(vcpu, &line);
}

/* From guest memory, through the tables of the vCPU that prints. */
static uint64_t pages_in(struct sim_vcpu *vcpu, unsigned int cpu,
			 uint64_t interval)
{
	const struct sim_vcpu *other = vcpu->sim->vcpus[cpu];
	struct gauge gauge;

	peek(&gauge, &other->regs.gauge);
	if (interval >= gauge.interval ||
	    interval + GAUGE_RING < gauge.interval)
		return 0;
	return sim_load(vcpu,
			VCPUS_BASE + cpu * VCPU_SIZE + PAGE_SIZE +
				interval % GAUGE_RING * sizeof(uint32_t),
			sizeof(uint32_t));
}

void sim_print_work(struct sim_vcpu *vcpu)
{
	const struct gauge *gauge = &vcpu->regs.gauge;
	uint64_t end = gauge->interval;
	uint64_t first = end > WORK_MAX ? end - WORK_MAX : 0;
	struct line line = { .used = 0 };

	add(&line, "\n@work %lu %lu ",
	    vcpu->regs.start + first * gauge->interval_tsc,
	    gauge->interval_tsc);
	for (uint64_t n = first; n < end; n++) {
		uint64_t pages = 0;

		for (unsigned int cpu = 0; cpu < vcpu->program->config.cpus;
		     cpu++)
			pages += pages_in(vcpu, cpu, n);
		add(&line, "%s%lu", n == first ? "" : ",", pages);
	}
	add(&line, "\n");
	print(vcpu, &line);
}
