/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest program `stress`: rewrites memory at a given rate, checks what it
 * wrote, and measures from inside what a migration does to it.
 *
 * start.S calls vcpu_main() on every vCPU, in ring 3.  CPU 0 reads the options
 * and shares out the memory while the others wait; then all write their pages
 * once, and enter work(), which they only leave to exit.
 */
#include <stddef.h>

#include "guest/chores.h"
#include "guest/cpu.h"
#include "guest/exit.h"
#include "guest/hot.h"
#include "guest/report.h"
#include "guest/serial.h"
#include "guest/tsc.h"
#include "guest/vcpu.h"

#define MAX_BACKLOG_US     1000
#define SCAN_US            100
#define ARRIVAL_TIMEOUT_MS 10000

void vcpu_main(uint32_t index, uint64_t start_info);

/* One program, one machine: unlike the VMM, a guest may have such a thing. */
static struct machine machine;

/* Takes @pages in equal slices, the whole starting at a 2 MiB boundary. */
static uint64_t share_pages(uint64_t bytes, uint64_t cpus, uint64_t *next,
			    uint64_t *ret_first)
{
	uint64_t pages = bytes / PAGE_SIZE / cpus;

	*next = (*next + LARGE_PAGES - 1) & ~(uint64_t)(LARGE_PAGES - 1);
	*ret_first = *next;
	*next += pages * cpus;
	return pages;
}

static void vcpu_init(struct vcpu *vcpu, struct machine *m, uint64_t index)
{
	const struct config *config = &m->config;

	*vcpu = (struct vcpu){ .index = index, .machine = m };
	if (config->rate_per_s)
		vcpu->stamp_tsc = ((m->tsc_khz * 1000 * config->cpus) << 8) /
				  config->rate_per_s;
	vcpu->max_backlog = tsc_of_us(m->tsc_khz, MAX_BACKLOG_US) << 8;
	vcpu->scan_tsc = tsc_of_us(m->tsc_khz, SCAN_US);
	vcpu->burst_tsc = tsc_of_us(m->tsc_khz, config->burst_us);
	gauge_start(&vcpu->gauge, cpu_tsc(),
		    tsc_of_us(m->tsc_khz, config->interval_us), vcpu->ring);
}

static void share_memory(struct machine *m)
{
	uint64_t cpus = m->config.cpus, hot_first, fill_first;
	uint64_t next = m->config.skip / PAGE_SIZE;
	uint64_t hot = share_pages(m->config.hot, cpus, &next, &hot_first);
	uint64_t fill = share_pages(m->config.fill, cpus, &next, &fill_first);
	uint64_t table_pages = (hot * 8 + PAGE_SIZE - 1) / PAGE_SIZE;
	uint64_t tables = ram_take_low(&m->ram, table_pages * cpus);

	if (!tables || next > m->ram.pages)
		machine_fail("skip, hot and fill do not fit in RAM", NULL);
	for (uint64_t i = 0; i < cpus; i++) {
		struct vcpu *vcpu = vcpu_of(i);

		vcpu_init(vcpu, m, i);
		vcpu->hot.slice = (struct slice){ hot_first + i * hot, hot };
		vcpu->hot.expected =
			(uint64_t *)(tables + i * table_pages * PAGE_SIZE);
		vcpu->fill.slice =
			(struct slice){ fill_first + i * fill, fill };
		pattern_init(&vcpu->pattern,
			     (enum pattern_kind)m->config.pattern, hot,
			     m->config.seed + i);
	}
}

static void wait_for_arrivals(const struct machine *m)
{
	uint64_t end =
		cpu_tsc() + tsc_of_us(m->tsc_khz, ARRIVAL_TIMEOUT_MS * 1000);

	for (uint64_t i = 1; i < m->config.cpus; i++) {
		while (!load_acquire(m->has_arrived[i])) {
			if (cpu_tsc() >= end)
				machine_fail(
					"fewer vCPUs came up than cpus= says",
					NULL);
			cpu_pause();
		}
	}
}

/* CPU 0: from the start information to a published machine. */
static void machine_start(struct machine *m, uint64_t start_info)
{
	const char *wrong;

	serial_init();
	wrong = ram_init(&m->ram, start_info);
	if (wrong)
		machine_fail(wrong, NULL);
	wrong = config_parse(&m->config, ram_cmdline(start_info));
	if (wrong)
		machine_fail("bad option ", wrong);
	m->tsc_khz = tsc_find_khz(m->config.tsc_khz);
	share_memory(m);
	report_start(m);
	wait_for_arrivals(m);
	store_release(m->is_published, 1);
}

/* CPU 0 waits until another vCPU has set @word to @value or more. */
static void wait_for(const uint32_t *word, uint32_t value)
{
	while (load_acquire(*word) < value) {
		cpu_pause();
		gauge_look(&vcpu_of(0)->gauge, cpu_tsc());
	}
}

/* Every vCPU does what CPU 0 has asked all of them to do. */
static void follow_orders(struct vcpu *vcpu)
{
	const struct machine *m = vcpu->machine;
	uint32_t resets = load_acquire(m->resets);
	uint32_t full_checks = load_acquire(m->full_checks);

	if (vcpu->gauge.resets != resets)
		gauge_reset(&vcpu->gauge, resets);
	if (vcpu->full_checks != full_checks) {
		if (m->config.verify)
			hot_check_all(vcpu);
		store_release(vcpu->full_checks, full_checks);
	}
}

/* CPU 0: has all memory checked and reports. */
static void check_all(struct machine *m)
{
	store_release(m->full_checks, m->full_checks + 1);
	follow_orders(vcpu_of(0));
	for (uint64_t i = 0; i < m->config.cpus; i++)
		wait_for(&vcpu_of(i)->full_checks, m->full_checks);
	report_counters(m);
}

static _Noreturn void finish(struct machine *m)
{
	uint64_t errors = 0;
	struct line line;

	check_all(m);
	report_gaps(m);
	for (uint64_t i = 0; i < m->config.cpus; i++)
		errors += read_once(vcpu_of(i)->errors) +
			  read_once(vcpu_of(i)->gauge.steps_back);
	line_begin(&line, NULL, "@exit ");
	line_decimal(&line, "code=", errors ? EXIT_ERRORS : EXIT_OK);
	line_end(&line);
	machine_exit(errors ? EXIT_ERRORS : EXIT_OK);
}

static void obey(struct machine *m, int command)
{
	switch (command) {
	case 'g':
		report_counters(m);
		report_gaps(m);
		break;
	case 'r':
		store_release(m->resets, m->resets + 1);
		break;
	case 'w':
		report_work(m);
		break;
	case 'v':
		check_all(m);
		break;
	case 'q':
		finish(m);
	default:
		break;
	}
}

static void begin_chores(struct chores *chores, const struct machine *m)
{
	const struct config *config = &m->config;
	uint64_t khz = m->tsc_khz;

	chores_start(
		chores, m->start,
		&(struct chore_periods){
			.tick = tsc_of_us(khz, config->tick_us),
			.poll = tsc_of_us(khz, config->poll_us),
			.report = tsc_of_us(khz, config->report_s * 1000000),
			.end = tsc_of_us(khz, config->run_s * 1000000),
		});
}

static void do_chores(struct chores *chores, struct machine *m, uint64_t now)
{
	unsigned int due = chores_due(chores, now);

	if (due & CHORE_TICK)
		serial_tick('.');
	for (int i = 0; (due & CHORE_POLL) && i < CHORE_BYTES_MAX; i++) {
		int command = serial_poll();

		if (command < 0)
			break;
		obey(m, command);
	}
	if (due & CHORE_REPORT)
		report_counters(m);
	if (due & CHORE_END)
		finish(m);
}

/*
 * Whether a stamp is due at @now.  What a pause made late is caught up for one
 * millisecond only, so that the work lost stays lost and can be seen.
 */
static bool stamp_is_due(struct vcpu *vcpu, uint64_t now)
{
	uint64_t elapsed = (now - vcpu->machine->start) << 8;

	if (vcpu->burst_tsc && (elapsed >> 8) / vcpu->burst_tsc % 2)
		return false;
	if (!vcpu->stamp_tsc)
		return true;
	if (elapsed < vcpu->next_stamp)
		return false;
	vcpu->next_stamp += vcpu->stamp_tsc;
	if (vcpu->next_stamp + vcpu->max_backlog < elapsed)
		vcpu->next_stamp = elapsed;
	return true;
}

/* A hot page every so many stamps and at least every SCAN_US, a fill page then. */
static void scan_when_due(struct vcpu *vcpu, uint64_t now, bool has_stamped)
{
	const struct config *config = &vcpu->machine->config;
	bool is_time = now >= vcpu->next_scan;

	if (!config->verify)
		return;
	if (has_stamped)
		vcpu->stamps_to_scan--;
	if (is_time) {
		fill_scan(vcpu);
		vcpu->next_scan = now + vcpu->scan_tsc;
	}
	if (is_time || !vcpu->stamps_to_scan) {
		hot_scan(vcpu);
		vcpu->stamps_to_scan = config->scan;
	}
}

static _Noreturn void work(struct vcpu *vcpu)
{
	struct machine *m = vcpu->machine;
	bool is_busy = vcpu->hot.slice.pages;
	uint64_t reads =
		vcpu->index < m->config.writers ? m->config.reads : 100;
	struct chores chores = { .next = UINT64_MAX };

	if (vcpu->index == 0)
		begin_chores(&chores, m);
	vcpu->stamps_to_scan = m->config.scan;
	for (;;) {
		uint64_t now = cpu_tsc();
		bool has_stamped = is_busy && stamp_is_due(vcpu, now);

		gauge_look(&vcpu->gauge, now);
		gauge_work(&vcpu->gauge, now, vcpu->stamped);
		if (has_stamped && pattern_reads(&vcpu->pattern, reads))
			hot_check(vcpu, pattern_next(&vcpu->pattern));
		else if (has_stamped)
			hot_stamp(vcpu, pattern_next(&vcpu->pattern));
		else
			cpu_pause();
		scan_when_due(vcpu, now, has_stamped);
		follow_orders(vcpu);
		if (now >= chores.next)
			do_chores(&chores, m, now);
	}
}

/* Gaps and work count from here, the same moment for all vCPUs. */
static void begin_gauge(struct vcpu *vcpu)
{
	struct machine *m = vcpu->machine;

	gauge_start(&vcpu->gauge, m->start,
		    tsc_of_us(m->tsc_khz, m->config.interval_us), vcpu->ring);
	vcpu->gauge.interval_pages = vcpu->stamped;
}

/* CPU 0, while the others wait for is_going. */
static void machine_go(struct machine *m)
{
	struct vcpu *vcpu = vcpu_of(0);

	for (uint64_t i = 0; i < m->config.cpus; i++)
		wait_for(&vcpu_of(i)->is_warm, 1);
	if (m->config.selftest) {
		if (vcpu->hot.slice.pages < 2)
			machine_fail("selftest needs hot=8K or more for CPU 0",
				     NULL);
		if (hot_selftest(vcpu))
			machine_exit(EXIT_ERRORS);
	}
	m->start = cpu_tsc();
	begin_gauge(vcpu);
	store_release(m->is_going, 1);
	report_ready(m);
}

/* The others. */
static void wait_to_go(struct vcpu *vcpu)
{
	while (!load_acquire(vcpu->machine->is_going))
		cpu_pause();
	begin_gauge(vcpu);
}

void vcpu_main(uint32_t index, uint64_t start_info)
{
	struct machine *m = &machine;
	struct vcpu *vcpu = vcpu_of(index);

	store_release(m->has_arrived[index], 1);
	if (index == 0)
		machine_start(m, start_info);
	while (!load_acquire(m->is_published))
		cpu_pause();
	if (index >= m->config.cpus)
		cpu_park();
	hot_warm(vcpu);
	store_release(vcpu->is_warm, 1);
	if (index == 0)
		machine_go(m);
	else
		wait_to_go(vcpu);
	work(vcpu);
}
