/* SPDX-License-Identifier: Apache-2.0 */
/* Report lines: see report.h. */
#include "guest/report.h"

#include "guest/cpu.h"
#include "guest/gaps.h"
#include "guest/serial.h"
#include "guest/tsc.h"

/* Not all that is remembered: the oldest is overwritten during printing. */
#define WORK_MAX (GAUGE_RING - 64)

static void line_open(struct line *line, const char *text)
{
	line_begin(line, &vcpu_of(0)->gauge, text);
}

void report_start(const struct machine *m)
{
	struct line line;

	line_open(&line, "@stress ");
	line_decimal(&line, "cpus=", m->config.cpus);
	line_decimal(&line, " hot=", m->config.hot);
	line_decimal(&line, " fill=", m->config.fill);
	line_hex(&line,
		 " first=", ram_gpa(&m->ram, vcpu_of(0)->hot.slice.first));
	line_decimal(&line,
		     " pages=", vcpu_of(0)->hot.slice.pages * m->config.cpus);
	line_decimal(&line, " ram_pages=", m->ram.pages);
	line_decimal(&line, " tsc_khz=", m->tsc_khz);
	line_text(&line, " options=");
	line_text(&line, m->config.text);
	line_end(&line);
}

void report_ready(const struct machine *m)
{
	struct line line;

	line_open(&line, "@ready ");
	line_decimal(&line, "tsc=", m->start);
	line_end(&line);
}

/* The @n longest of all vCPUs, longest first. */
static void merge_gaps(const struct machine *m, struct machine_gap *gaps, int n)
{
	for (int i = 0; i < n; i++)
		gaps[i] = (struct machine_gap){ 0 };
	for (uint64_t cpu = 0; cpu < m->config.cpus; cpu++) {
		const struct gauge *gauge = &vcpu_of(cpu)->gauge;

		/* Not cleared yet: its gaps are from before the reset. */
		if (read_once(gauge->resets) == m->resets)
			gaps_merge(gaps, n, gauge, cpu);
	}
}

void report_counters(const struct machine *m)
{
	uint64_t pages = 0, checked = 0, errors = 0, steps_back = 0;
	struct machine_gap longest;
	struct line line;

	for (uint64_t cpu = 0; cpu < m->config.cpus; cpu++) {
		const struct vcpu *vcpu = vcpu_of(cpu);

		pages += read_once(vcpu->stamped);
		checked += read_once(vcpu->checked);
		errors += read_once(vcpu->errors);
		steps_back += read_once(vcpu->gauge.steps_back);
	}
	merge_gaps(m, &longest, 1);
	line_open(&line, "@report ");
	line_decimal(&line, "tsc=", cpu_tsc());
	gaps_print_longest(&line, &longest, m->tsc_khz);
	line_decimal(&line, " pages=", pages);
	line_decimal(&line, " checked=", checked);
	line_decimal(&line, " errors=", errors);
	line_decimal(&line, " tsc_back=", steps_back);
	line_decimal(&line, " tsc_khz=", m->tsc_khz);
	line_end(&line);
}

void report_gaps(const struct machine *m)
{
	struct machine_gap gaps[GAUGE_GAPS];
	struct line line;

	merge_gaps(m, gaps, GAUGE_GAPS);
	line_open(&line, "@gaps");
	gaps_print(&line, gaps, GAUGE_GAPS, m->tsc_khz);
	line_end(&line);
}

void report_work(const struct machine *m)
{
	const struct gauge *gauge = &vcpu_of(0)->gauge;
	uint64_t end = gauge->interval;
	uint64_t first = end > WORK_MAX ? end - WORK_MAX : 0;
	struct line line;

	line_open(&line, "@work ");
	line_decimal(&line, "", m->start + first * gauge->interval_tsc);
	line_decimal(&line, " ", gauge->interval_tsc);
	for (uint64_t n = first; n < end; n++) {
		uint64_t pages = 0;

		for (uint64_t cpu = 0; cpu < m->config.cpus; cpu++)
			pages += gauge_pages_in(&vcpu_of(cpu)->gauge, n);
		line_decimal(&line, n == first ? " " : ",", pages);
	}
	line_end(&line);
}
