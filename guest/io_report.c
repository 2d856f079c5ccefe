/* SPDX-License-Identifier: Apache-2.0 */
/* Report lines of `blk` and `net`: see io_report.h. */
#include "guest/io_report.h"

#include "guest/cpu.h"
#include "guest/gaps.h"
#include "guest/tsc.h"

/* Not all that is remembered: the oldest is overwritten during printing. */
#define WORK_MAX (GAUGE_RING - 64)

static void line_open(struct line *line, const char *text)
{
	line_begin(line, &io_cpu_of(0)->gauge, text);
}

void io_report_start(const struct io *io)
{
	struct line line;

	line_open(&line, "@");
	line_text(&line, io_program.name);
	line_decimal(&line, " cpus=", io->config->cpus);
	line_decimal(&line, " devices=", io->device_count);
	line_decimal(&line, " functions=", io->pci.count);
	line_decimal(&line, " ram_pages=", io->ram.pages);
	line_decimal(&line, " tsc_khz=", io->tsc_khz);
	line_text(&line, " options=");
	line_text(&line, io->config->text);
	line_end(&line);
}

void io_report_ready(void)
{
	struct line line;

	line_open(&line, "@ready ");
	line_decimal(&line, "tsc=", cpu_tsc());
	line_end(&line);
}

static void merge_gaps(const struct io *io, struct machine_gap *gaps, int n)
{
	for (int i = 0; i < n; i++)
		gaps[i] = (struct machine_gap){ 0 };
	for (uint64_t i = 0; i < io->config->cpus; i++) {
		const struct gauge *gauge = &io_cpu_of(i)->gauge;

		/* Not cleared yet: its gaps are from before the reset. */
		if (read_once(gauge->resets) == io->resets)
			gaps_merge(gaps, n, gauge, i);
	}
}

static void print_latency(const struct io *io, struct line *line)
{
	static const uint64_t permilles[] = { 500, 990, 999 };
	struct latency all = { .longest = 0 };

	for (uint64_t i = 0; i < io->config->cpus; i++)
		latency_merge(&all, &io_cpu_of(i)->latency);
	line_text(line, " lat_us=");
	for (int i = 0; i < 3; i++) {
		line_decimal(
			line, "",
			us_of_tsc(io->tsc_khz, latency_at(&all, permilles[i])));
		line_char(line, '/');
	}
	line_decimal(line, "", us_of_tsc(io->tsc_khz, all.longest));
}

static void print_churn(const struct io *io, struct line *line)
{
	bool is_first = true;

	if (!io->config->churn_us)
		return;
	line_text(line, " churn=");
	for (int i = 0; i < CHURN_KINDS; i++) {
		if (!(io->churn.what & 1ULL << i))
			continue;
		line_text(line, is_first ? "" : "+");
		line_text(line, churn_names[i]);
		line_decimal(line, ":", io->churn.counts[i]);
		is_first = false;
	}
}

uint64_t io_errors(const struct io *io)
{
	uint64_t errors = 0;

	for (uint64_t i = 0; i < io->config->cpus; i++)
		errors += read_once(io_cpu_of(i)->errors) +
			  read_once(io_cpu_of(i)->gauge.steps_back);
	return errors;
}

static void print_counters(const struct io *io, struct line *line)
{
	uint64_t ops = 0, bytes = 0, errors = 0, back = 0, interrupts = 0;

	for (uint64_t i = 0; i < io->config->cpus; i++) {
		const struct io_cpu *cpu = io_cpu_of(i);

		ops += read_once(cpu->ops);
		bytes += read_once(cpu->bytes);
		errors += read_once(cpu->errors);
		back += read_once(cpu->gauge.steps_back);
		interrupts += read_once(cpu->interrupts);
	}
	line_decimal(line, " ops=", ops);
	line_decimal(line, " bytes=", bytes);
	line_decimal(line, " errors=", errors);
	line_decimal(line, " tsc_back=", back);
	line_decimal(line, " irqs=", interrupts);
}

void io_report_counters(const struct io *io)
{
	struct machine_gap longest;
	struct line line;

	merge_gaps(io, &longest, 1);
	line_open(&line, "@report ");
	line_decimal(&line, "tsc=", cpu_tsc());
	gaps_print_longest(&line, &longest, io->tsc_khz);
	print_counters(io, &line);
	line_decimal(&line, " tsc_khz=", io->tsc_khz);
	print_latency(io, &line);
	line_decimal(&line, " resets=", io->resets_done);
	print_churn(io, &line);
	io_program.report(io, &line);
	line_end(&line);
}

void io_report_gaps(const struct io *io)
{
	struct machine_gap gaps[GAUGE_GAPS];
	struct line line;

	merge_gaps(io, gaps, GAUGE_GAPS);
	line_open(&line, "@gaps");
	gaps_print(&line, gaps, GAUGE_GAPS, io->tsc_khz);
	line_end(&line);
}

void io_report_work(const struct io *io)
{
	const struct gauge *gauge = &io_cpu_of(0)->gauge;
	uint64_t end = gauge->interval;
	uint64_t first = end > WORK_MAX ? end - WORK_MAX : 0;
	struct line line;

	line_open(&line, "@work ");
	line_decimal(&line, "", io->start + first * gauge->interval_tsc);
	line_decimal(&line, " ", gauge->interval_tsc);
	for (uint64_t n = first; n < end; n++) {
		uint64_t ops = 0;

		for (uint64_t i = 0; i < io->config->cpus; i++)
			ops += gauge_pages_in(&io_cpu_of(i)->gauge, n);
		line_decimal(&line, n == first ? " " : ",", ops);
	}
	line_end(&line);
}
