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

#include "guest/cpu.h"
#include "guest/hot.h"
#include "guest/report.h"
#include "guest/serial.h"
#include "guest/vcpu.h"

/* Out to this port ends the machine (QEMU: isa-debug-exit). */
#define EXIT_PORT 0xf4

enum exit_code {
	EXIT_OK,
	EXIT_ERRORS,
	EXIT_CONFIG,
	EXIT_TRAP
};

#define MAX_BACKLOG_US     1000
#define SCAN_US            100
#define POLL_BYTES_MAX     16
#define ARRIVAL_TIMEOUT_MS 10000
#define KVM_SIGNATURE      0x4b4d564b /* "KVMK", first of KVMKVMKVM */

void vcpu_main(uint32_t index, uint64_t start_info);
void trap_main(uint64_t vector, uint64_t error, uint64_t rip, uint64_t addr,
	       uint64_t rsp);
void trap_exit_failed(void); /* start.S */
void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int c, size_t n);

/* One program, one machine: unlike the VMM, a guest may have such a thing. */
static struct machine machine;

/* The compiler calls these for structs. */
void *memcpy(void *to, const void *from, size_t n)
{
	void *at = to;

	__asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(n)::"memory");
	return to;
}

void *memset(void *to, int c, size_t n)
{
	void *at = to;

	__asm__ volatile("rep stosb" : "+D"(at), "+c"(n) : "a"(c) : "memory");
	return to;
}

/* Godwit ends at the first; other VMMs are asked in other ways, too. */
static _Noreturn void machine_exit(uint32_t code)
{
	port_out32(EXIT_PORT, code);
	port_out8(0x64, 0xfe); /* i8042: reset */
	trap_exit_failed();
	__builtin_unreachable();
}

void trap_main(uint64_t vector, uint64_t error, uint64_t rip, uint64_t addr,
	       uint64_t rsp)
{
	struct line line;

	line_begin_forced(&line, "@trap ");
	line_decimal(&line, "vector=", vector);
	line_hex(&line, " error=", error);
	line_hex(&line, " rip=", rip);
	line_hex(&line, " addr=", addr);
	line_hex(&line, " rsp=", rsp);
	line_end(&line);
	machine_exit(EXIT_TRAP);
}

/* @culprit: more text up to a separator, or NULL. */
static _Noreturn void fail(const char *why, const char *culprit)
{
	struct line line;

	line_begin(&line, NULL, "@fail ");
	line_text(&line, why);
	for (; culprit && *culprit && *culprit != ',' && *culprit != ' ';
	     culprit++)
		line_char(&line, *culprit);
	line_end(&line);
	machine_exit(EXIT_CONFIG);
}

static uint64_t tsc_of_us(const struct machine *m, uint64_t us)
{
	return us * m->tsc_khz / 1000;
}

static uint64_t find_tsc_khz(const struct machine *m)
{
	struct line line;
	uint32_t regs[4];

	if (m->config.tsc_khz)
		return m->config.tsc_khz;
	cpu_cpuid(0x40000000, regs);
	if (regs[1] == KVM_SIGNATURE && regs[0] >= 0x40000010) {
		cpu_cpuid(0x40000010, regs);
		if (regs[0])
			return regs[0];
	}
	cpu_cpuid(0, regs);
	if (regs[0] >= 0x15) {
		cpu_cpuid(0x15, regs);
		if (regs[0] && regs[1] && regs[2])
			return (uint64_t)regs[2] * regs[1] / regs[0] / 1000;
	}
	line_begin(&line, NULL, "@warning no tsc-khz: 2000000 assumed");
	line_end(&line);
	return 2000000;
}

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
	vcpu->max_backlog = tsc_of_us(m, MAX_BACKLOG_US) << 8;
	vcpu->scan_tsc = tsc_of_us(m, SCAN_US);
	vcpu->burst_tsc = tsc_of_us(m, config->burst_us);
	gauge_start(&vcpu->gauge, cpu_tsc(), tsc_of_us(m, config->interval_us),
		    vcpu->ring);
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
		fail("skip, hot and fill do not fit in RAM", NULL);
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
	uint64_t end = cpu_tsc() + tsc_of_us(m, ARRIVAL_TIMEOUT_MS * 1000);

	for (uint64_t i = 1; i < m->config.cpus; i++) {
		while (!load_acquire(m->has_arrived[i])) {
			if (cpu_tsc() >= end)
				fail("fewer vCPUs came up than cpus= says",
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
		fail(wrong, NULL);
	wrong = config_parse(&m->config, ram_cmdline(start_info));
	if (wrong)
		fail("bad option ", wrong);
	m->tsc_khz = find_tsc_khz(m);
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

/* What CPU 0 does beside: TSC of the next time, UINT64_MAX for never. */
struct chores {
	uint64_t tick, poll, report, end;
	uint64_t next; /* the earliest of them */
};

static bool is_due(uint64_t *when, uint64_t now, uint64_t period)
{
	if (now < *when)
		return false;
	*when += period;
	if (*when <= now) /* no burst after a pause */
		*when = now + period;
	return true;
}

static void chores_plan(struct chores *c)
{
	c->next = c->tick < c->poll ? c->tick : c->poll;
	if (c->report < c->next)
		c->next = c->report;
	if (c->end < c->next)
		c->next = c->end;
}

static void chores_start(struct chores *c, const struct machine *m)
{
	const struct config *config = &m->config;

	*c = (struct chores){ m->start, m->start, m->start, m->start, 0 };
	c->tick += config->tick_us ? 0 : UINT64_MAX - m->start;
	c->poll += config->poll_us ? 0 : UINT64_MAX - m->start;
	c->report += config->report_s ? tsc_of_us(m, config->report_s * 1000000)
				      : UINT64_MAX - m->start;
	c->end += config->run_s ? tsc_of_us(m, config->run_s * 1000000)
				: UINT64_MAX - m->start;
	chores_plan(c);
}

static void chores_do(struct chores *c, struct machine *m, uint64_t now)
{
	const struct config *config = &m->config;

	if (is_due(&c->tick, now, tsc_of_us(m, config->tick_us)))
		serial_tick('.');
	if (is_due(&c->poll, now, tsc_of_us(m, config->poll_us))) {
		for (int i = 0; i < POLL_BYTES_MAX; i++) {
			int command = serial_poll();

			if (command < 0)
				break;
			obey(m, command);
		}
	}
	if (is_due(&c->report, now, tsc_of_us(m, config->report_s * 1000000)))
		report_counters(m);
	if (now >= c->end)
		finish(m);
	chores_plan(c);
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
		chores_start(&chores, m);
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
			chores_do(&chores, m, now);
	}
}

/* Gaps and work count from here, the same moment for all vCPUs. */
static void begin_gauge(struct vcpu *vcpu)
{
	struct machine *m = vcpu->machine;

	gauge_start(&vcpu->gauge, m->start, tsc_of_us(m, m->config.interval_us),
		    vcpu->ring);
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
			fail("selftest needs hot=8K or more for CPU 0", NULL);
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
	while (!load_acquire(m->is_published) || index >= m->config.cpus)
		cpu_pause();
	hot_warm(vcpu);
	store_release(vcpu->is_warm, 1);
	if (index == 0)
		machine_go(m);
	else
		wait_to_go(vcpu);
	work(vcpu);
}
