// SPDX-License-Identifier: Apache-2.0
/*
 * The program that vCPUs run: what the built-in guest does (guest/stress.c,
 * guest/README.md), one short step at a time and with all that it remembers in
 * registers and guest memory.  It takes the options of that guest, from where that
 * guest finds them, and its patterns, stamps and gauges are that guest's.
 *
 *	         page by page         all are         vCPU 0 says so
 *	  boot -> warm ---------> ready -------> ready --------------> work
 *
 * Where memory is, beside the areas of guest/layout.h: at the end of the RAM below
 * 4 GiB the sequence that each hot page should have, and the interrupt
 * controller's tables; each vCPU's 8 KiB from VCPUS_BASE on have the page of steal
 * time, and the work of each interval; behind those of all are the pages of clock and
 * interrupts (sim_priv.h).
 */
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "guest/cpu.h"
#include "guest/stamp.h"
#include "sim_priv.h"

#define EXIT_PORT 0xf4

/* COM1, a 16550 */
#define RBR_PORT   0x3f8
#define FCR_PORT   0x3fa
#define LCR_PORT   0x3fb
#define MCR_PORT   0x3fc
#define LSR_PORT   0x3fd
#define FCR_ENABLE 0x01
#define LCR_8N1    0x03
#define MCR_DTRRTS 0x03
#define LSR_DR     0x01

#define POLL_BYTES_MAX  16
#define ERROR_LINES_MAX 16
#define IDLE_MAX_NS     NS_PER_MS
/* Less than this is not worth sleeping for. */
#define IDLE_MIN_NS   (20 * NS_PER_US)
#define WAIT_NS       (50 * NS_PER_US)
#define CHECKS_A_STEP 8u
#define FILL_WORDS    (PAGE_SIZE / 8)

static struct sim_regs *leader(const struct sim_vcpu *vcpu)
{
	return &vcpu->sim->vcpus[0]->regs;
}

/* ---- guest memory ---- */

#define GUEST_ACCESS __attribute__((no_sanitize("thread"), noinline))

GUEST_ACCESS static void words_out(volatile uint64_t *to, const uint64_t *from,
				   size_t count)
{
	for (size_t i = 0; i < count; i++)
		to[i] = from[i];
}

GUEST_ACCESS static void words_in(uint64_t *to, const volatile uint64_t *from,
				  size_t count)
{
	for (size_t i = 0; i < count; i++)
		to[i] = from[i];
}

/* Only what a stamp consists of. */
static void stamp_out(uint8_t *host, const struct stamp *stamp)
{
	words_out((uint64_t *)(host + offsetof(struct stamp, head)),
		  (const uint64_t *)&stamp->head, sizeof(stamp->head) / 8);
	words_out((uint64_t *)(host + offsetof(struct stamp, middle)),
		  stamp->middle, sizeof(stamp->middle) / 8);
	words_out((uint64_t *)(host + offsetof(struct stamp, tail)),
		  (const uint64_t *)&stamp->tail, sizeof(stamp->tail) / 8);
}

static void stamp_in(struct stamp *stamp, const uint8_t *host)
{
	words_in((uint64_t *)&stamp->head,
		 (const uint64_t *)(host + offsetof(struct stamp, head)),
		 sizeof(stamp->head) / 8);
	words_in(stamp->middle,
		 (const uint64_t *)(host + offsetof(struct stamp, middle)),
		 sizeof(stamp->middle) / 8);
	words_in((uint64_t *)&stamp->tail,
		 (const uint64_t *)(host + offsetof(struct stamp, tail)),
		 sizeof(stamp->tail) / 8);
}

/* ---- findings ---- */

struct finding {
	enum fault fault;
	uint64_t gpa, expected, found, from;
};

static void report(struct sim_vcpu *vcpu, const struct finding *finding)
{
	char from[32] = "";

	sim_reg_set(&vcpu->regs.errors, vcpu->regs.errors + 1);
	if (__atomic_fetch_add(&vcpu->sim->error_lines, 1, __ATOMIC_RELAXED) >=
	    ERROR_LINES_MAX)
		return;
	if (finding->fault == FAULT_SWAPPED)
		snprintf(from, sizeof(from), " from=0x%lx", finding->from);
	sim_print(vcpu,
		  "@error %s gpa=0x%lx cpu=%u expected=%lu found=%lu%s tsc=%lu",
		  fault_names[finding->fault], finding->gpa, vcpu->vcpu.index,
		  finding->expected, finding->found, from, sim_tsc(vcpu->sim));
}

/* ---- hot pages ---- */

static uint64_t hot_gpa(const struct sim_vcpu *vcpu, uint64_t i)
{
	return ram_gpa(&vcpu->program->ram, vcpu->program->hot_first + i);
}

static uint64_t expected_gpa(const struct sim_vcpu *vcpu, uint64_t i)
{
	return vcpu->program->expected + i * sizeof(uint64_t);
}

static void hot_write(struct sim_vcpu *vcpu, uint64_t i, uint64_t before)
{
	struct sim_regs *regs = &vcpu->regs;
	uint64_t gpa = hot_gpa(vcpu, i), sequence = regs->stamped + 1;
	void *host = sim_write_begin(vcpu, gpa);
	struct stamp stamp;

	if (!host)
		return;
	stamp_write(&stamp, gpa, vcpu->vcpu.index, sequence);
	stamp_out(host, &stamp);
	sim_write_end(vcpu, gpa);
	sim_store(vcpu, expected_gpa(vcpu, i), sequence, sizeof(sequence));
	sim_reg_set(&regs->stamped, sequence);
	regs->sum += sequence - before;
	if (i < regs->hot_at)
		regs->sum_below += sequence - before;
}

/* True when the page is as expected; otherwise says what is wrong with it. */
static bool hot_check(struct sim_vcpu *vcpu, uint64_t i, uint64_t expected)
{
	uint64_t gpa = hot_gpa(vcpu, i);
	struct finding finding = { .gpa = gpa, .expected = expected };
	const void *host = sim_read_begin(vcpu, gpa);
	struct stamp stamp;

	if (!host)
		return false;
	stamp_in(&stamp, host);
	sim_reg_set(&vcpu->regs.checked, vcpu->regs.checked + 1);
	if (stamp_is_good(&stamp, gpa, vcpu->vcpu.index, expected))
		return true;
	finding.fault = stamp_judge(&stamp, gpa, vcpu->vcpu.index,
				    &finding.found, &finding.from);
	report(vcpu, &finding);
	return false;
}

static void hot_stamp(struct sim_vcpu *vcpu, uint64_t i)
{
	uint64_t expected =
		sim_load(vcpu, expected_gpa(vcpu, i), sizeof(expected));

	if (vcpu->program->config.verify)
		hot_check(vcpu, i, expected);
	hot_write(vcpu, i, expected);
}

static uint64_t hot_look(struct sim_vcpu *vcpu, uint64_t i)
{
	uint64_t expected =
		sim_load(vcpu, expected_gpa(vcpu, i), sizeof(expected));

	if (!hot_check(vcpu, i, expected)) {
		hot_write(vcpu, i, expected); /* so that it is reported once */
		expected = vcpu->regs.stamped;
	}
	return expected;
}

/* When the scan has come round, the two sums are of the same words: pages that
 * went back in time together with what was expected of them. */
static void hot_scan(struct sim_vcpu *vcpu)
{
	struct sim_regs *regs = &vcpu->regs;

	if (!vcpu->program->hot_pages)
		return;
	regs->sum_below += hot_look(vcpu, regs->hot_at);
	if (++regs->hot_at < vcpu->program->hot_pages)
		return;
	if (regs->sum_below != regs->sum)
		report(vcpu, &(struct finding){
				     .fault = FAULT_STALE,
				     .gpa = vcpu->program->expected,
				     .expected = regs->sum,
				     .found = regs->sum_below,
			     });
	regs->sum = regs->sum_below;
	regs->sum_below = 0;
	regs->hot_at = 0;
}

/* ---- fill pages ---- */

static uint64_t fill_gpa(const struct sim_vcpu *vcpu, uint64_t i)
{
	return ram_gpa(&vcpu->program->ram, vcpu->program->fill_first + i);
}

static void fill_write(struct sim_vcpu *vcpu, uint64_t i)
{
	uint64_t gpa = fill_gpa(vcpu, i), words[FILL_WORDS];
	uint64_t first = gpa + vcpu->program->config.seed;
	void *host = sim_write_begin(vcpu, gpa);

	if (!host)
		return;
	for (uint64_t n = 0; n < FILL_WORDS; n++)
		words[n] = mix64(first + 8 * n);
	words_out(host, words, FILL_WORDS);
	sim_write_end(vcpu, gpa);
}

static void fill_check(struct sim_vcpu *vcpu, uint64_t i)
{
	uint64_t gpa = fill_gpa(vcpu, i), words[FILL_WORDS], any = 0;
	uint64_t first = gpa + vcpu->program->config.seed;
	const void *host = sim_read_begin(vcpu, gpa);

	if (!host)
		return;
	words_in(words, host, FILL_WORDS);
	sim_reg_set(&vcpu->regs.checked, vcpu->regs.checked + 1);
	for (uint64_t n = 0; n < FILL_WORDS; n++)
		any |= words[n];
	for (uint64_t n = 0; n < FILL_WORDS; n++) {
		if (words[n] == mix64(first + 8 * n))
			continue;
		report(vcpu, &(struct finding){
				     .fault = any ? FAULT_CORRUPT : FAULT_LOST,
				     .gpa = gpa,
				     .expected = mix64(first + 8 * n),
				     .found = words[n],
			     });
		fill_write(vcpu, i);
		return;
	}
}

static void fill_scan(struct sim_vcpu *vcpu)
{
	struct sim_regs *regs = &vcpu->regs;

	if (!vcpu->program->fill_pages)
		return;
	fill_check(vcpu, regs->fill_at);
	if (++regs->fill_at == vcpu->program->fill_pages)
		regs->fill_at = 0;
}

/* ---- what no vCPU writes ---- */

static void count_aside(struct sim_vcpu *vcpu, uint64_t gpa, uint64_t *writes)
{
	uint64_t count = *writes + 1;

	if (sim_write_aside(vcpu->sim, gpa, &count, sizeof(count)) == 0)
		*writes = count;
}

void sim_program_pv(struct sim_vcpu *vcpu)
{
	unsigned int index = vcpu->vcpu.index;

	count_aside(vcpu, sim_steal_gpa(index), &vcpu->regs.pv_writes);
	count_aside(vcpu, sim_clock_gpa(index), &vcpu->regs.clock_writes);
}

static void count_check(struct sim_vcpu *vcpu, uint64_t gpa, uint64_t expected,
			uint64_t found)
{
	if (found != expected)
		report(vcpu, &(struct finding){
				     .fault = FAULT_STALE,
				     .gpa = gpa,
				     .expected = expected,
				     .found = found,
			     });
}

/* Reported without the lock: that is I/O. */
static void eoi_check(struct sim_vcpu *vcpu)
{
	uint64_t gpa = sim_eoi_gpa(vcpu->vcpu.index), expected, found = 0;
	const void *host;

	lock_acquire(&vcpu->sim->eoi_lock);
	expected = vcpu->regs.eois;
	host = sim_read_begin(vcpu, gpa);
	if (host)
		words_in(&found, host, 1);
	lock_release(&vcpu->sim->eoi_lock);
	count_check(vcpu, gpa, expected, found);
}

static void pv_check(struct sim_vcpu *vcpu)
{
	unsigned int index = vcpu->vcpu.index;
	uint64_t steal = sim_steal_gpa(index), clock = sim_clock_gpa(index);

	if (!vcpu->sim->options.has_pv)
		return;
	count_check(vcpu, steal, vcpu->regs.pv_writes,
		    sim_load(vcpu, steal, sizeof(uint64_t)));
	count_check(vcpu, clock, vcpu->regs.clock_writes,
		    sim_load(vcpu, clock, sizeof(uint64_t)));
	eoi_check(vcpu);
}

uint64_t sim_table_word(uint64_t dumps, uint64_t number)
{
	return mix64(dumps << 32 | number);
}

/* vCPU 0, after it arrived: what was dumped last is what memory has. */
static void tables_check(struct sim_vcpu *vcpu)
{
	uint64_t pages = vcpu->sim->options.tables_size / PAGE_SIZE;
	uint64_t dumps = vcpu->sim->vm.dumps;

	for (uint64_t n = 0; dumps && n < pages; n++) {
		uint64_t gpa = vcpu->program->tables + n * PAGE_SIZE;
		uint64_t found = sim_load(vcpu, gpa, sizeof(found));

		if (found == sim_table_word(dumps, n))
			continue;
		report(vcpu, &(struct finding){
				     .fault = found ? FAULT_STALE : FAULT_LOST,
				     .gpa = gpa,
				     .expected = sim_table_word(dumps, n),
				     .found = found,
			     });
	}
}

/* ---- stages ---- */

static void warm_step(struct sim_vcpu *vcpu)
{
	const struct sim_program *program = vcpu->program;
	struct sim_regs *regs = &vcpu->regs;
	uint64_t at = regs->warm_at;

	if (at == 0 && vcpu->vcpu.index == 0) {
		sim_out(vcpu, LCR_PORT, &(uint8_t){ LCR_8N1 }, 1, 1);
		sim_out(vcpu, FCR_PORT, &(uint8_t){ FCR_ENABLE }, 1, 1);
		sim_out(vcpu, MCR_PORT, &(uint8_t){ MCR_DTRRTS }, 1, 1);
		sim_print_start(vcpu);
	}
	if (at < program->fill_pages)
		fill_write(vcpu, at);
	else if (at - program->fill_pages < program->hot_pages)
		hot_write(vcpu, at - program->fill_pages, 0);
	if (at == program->fill_pages + program->hot_pages)
		sim_reg_set(&regs->stage, SIM_READY);
	else
		regs->warm_at = at + 1;
}

static void begin_work(struct sim_vcpu *vcpu, uint64_t start)
{
	const struct config *config = &vcpu->program->config;
	struct sim_regs *regs = &vcpu->regs;
	uint64_t interval = config->interval_us * NS_PER_US;

	regs->start = start;
	regs->gauge = (struct gauge){
		.last = sim_tsc(vcpu->sim),
		.interval_tsc = interval,
		.interval_end = start + interval,
		.interval_pages = regs->stamped,
	};
	regs->to_scan = config->scan;
	regs->tick = config->tick_us ? start : UINT64_MAX;
	regs->poll = config->poll_us ? start : UINT64_MAX;
	regs->report = config->report_s ? start + config->report_s * NS_PER_SEC
					: UINT64_MAX;
	regs->end =
		config->run_s ? start + config->run_s * NS_PER_SEC : UINT64_MAX;
	sim_reg_set(&regs->stage, SIM_WORK);
}

/* vCPU 0 waits for all, the others for vCPU 0. */
static uint64_t ready_step(struct sim_vcpu *vcpu)
{
	if (vcpu->vcpu.index) {
		if (sim_reg_get(&leader(vcpu)->stage) != SIM_WORK)
			return WAIT_NS;
		begin_work(vcpu, leader(vcpu)->start);
		return 0;
	}
	for (uint64_t i = 1; i < vcpu->program->config.cpus; i++) {
		if (sim_reg_get(&vcpu->sim->vcpus[i]->regs.stage) < SIM_READY)
			return WAIT_NS;
	}
	begin_work(vcpu, sim_tsc(vcpu->sim));
	sim_print_ready(vcpu);
	return 0;
}

/* ---- full checks and commands ---- */

static void begin_check(struct sim_vcpu *vcpu)
{
	const struct sim_program *program = vcpu->program;
	struct sim_regs *regs = &vcpu->regs;

	pv_check(vcpu);
	if (!program->config.verify)
		return;
	/* The round that is under way to its end, then a whole one. */
	regs->check_left = program->hot_pages + program->fill_pages;
	if (regs->hot_at)
		regs->check_left += program->hot_pages - regs->hot_at;
}

/* False: nothing to check. */
static bool check_step(struct sim_vcpu *vcpu)
{
	struct sim_regs *regs = &vcpu->regs;
	uint64_t fill = vcpu->program->fill_pages;
	uint64_t asked = sim_reg_get(&leader(vcpu)->checks_asked);

	if (regs->full_checks == asked)
		return false;
	if (!regs->check_left)
		begin_check(vcpu);
	for (unsigned int i = 0; i < CHECKS_A_STEP && regs->check_left; i++) {
		if (regs->check_left > fill)
			hot_scan(vcpu);
		else
			fill_check(vcpu, fill - regs->check_left);
		regs->check_left--;
	}
	if (!regs->check_left)
		sim_reg_set(&regs->full_checks, asked);
	return true;
}

void sim_program_end(struct sim_vcpu *vcpu, uint32_t code)
{
	sim_reg_set(&vcpu->regs.stage, SIM_ENDED);
	sim_out(vcpu, EXIT_PORT, &code, 1, sizeof(code));
}

static void finish(struct sim_vcpu *vcpu)
{
	uint64_t errors = 0;

	sim_print_gaps(vcpu);
	for (uint64_t i = 0; i < vcpu->program->config.cpus; i++)
		errors += sim_reg_get(&vcpu->sim->vcpus[i]->regs.errors);
	sim_print(vcpu, "@exit code=%d",
		  errors ? SIM_EXIT_ERRORS : SIM_EXIT_OK);
	sim_program_end(vcpu, errors ? SIM_EXIT_ERRORS : SIM_EXIT_OK);
}

/* All have checked their memory, which vCPU 0 asked for. */
static bool all_checked(const struct sim_vcpu *vcpu)
{
	for (uint64_t i = 0; i < vcpu->program->config.cpus; i++) {
		if (sim_reg_get(&vcpu->sim->vcpus[i]->regs.full_checks) !=
		    vcpu->regs.checks_asked)
			return false;
	}
	return true;
}

static void order_check(struct sim_vcpu *vcpu, uint8_t command)
{
	vcpu->regs.order = command;
	sim_reg_set(&vcpu->regs.checks_asked, vcpu->regs.checks_asked + 1);
}

/* While an order is under way nothing else is done. */
static uint64_t order_step(struct sim_vcpu *vcpu)
{
	uint64_t order = vcpu->regs.order;

	if (!all_checked(vcpu))
		return WAIT_NS;
	vcpu->regs.order = 0;
	sim_print_counters(vcpu);
	if (order == 'q')
		finish(vcpu);
	return 0;
}

static void obey(struct sim_vcpu *vcpu, uint8_t command)
{
	switch (command) {
	case 'g':
		sim_print_counters(vcpu);
		sim_print_gaps(vcpu);
		break;
	case 'r':
		sim_reg_set(&vcpu->regs.resets_asked,
			    (uint32_t)(vcpu->regs.resets_asked + 1));
		break;
	case 'w':
		sim_print_work(vcpu);
		break;
	case 'v':
	case 'q':
		order_check(vcpu, command);
		break;
	default:
		break;
	}
}

static void poll_commands(struct sim_vcpu *vcpu)
{
	for (int i = 0; i < POLL_BYTES_MAX && !vcpu->regs.order; i++) {
		if (!(sim_in(vcpu, LSR_PORT, 1) & LSR_DR))
			break;
		obey(vcpu, (uint8_t)sim_in(vcpu, RBR_PORT, 1));
	}
}

static bool is_due(uint64_t *when, uint64_t now, uint64_t period)
{
	if (now < *when)
		return false;
	*when += period;
	if (*when <= now) /* no burst after a pause */
		*when = now + period;
	return true;
}

static void chores(struct sim_vcpu *vcpu, uint64_t now)
{
	const struct config *config = &vcpu->program->config;
	struct sim_regs *regs = &vcpu->regs;

	if (is_due(&regs->tick, now, config->tick_us * NS_PER_US))
		sim_tick(vcpu);
	if (is_due(&regs->poll, now, config->poll_us * NS_PER_US))
		poll_commands(vcpu);
	if (is_due(&regs->report, now, config->report_s * NS_PER_SEC))
		sim_print_counters(vcpu);
	if (now >= regs->end && !regs->order)
		order_check(vcpu, 'q');
}

static uint64_t min(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t next_chore(const struct sim_regs *regs)
{
	return min(min(regs->tick, regs->poll), min(regs->report, regs->end));
}

/* ---- work ---- */

/* TSC of the next stamp; what a pause made late is caught up for a millisecond
 * only. */
static uint64_t stamp_due(const struct sim_vcpu *vcpu, uint64_t now)
{
	const struct sim_program *program = vcpu->program;
	const struct sim_regs *regs = &vcpu->regs;
	uint64_t elapsed = now - regs->start, due = now;

	if (!program->hot_pages)
		return UINT64_MAX;
	if (program->stamp_tsc)
		due = regs->start + (regs->next_stamp >> 8);
	if (program->burst_tsc && elapsed / program->burst_tsc % 2)
		due = regs->start +
		      (elapsed / program->burst_tsc + 1) * program->burst_tsc;
	return due;
}

static void stamp_next(struct sim_vcpu *vcpu, uint64_t now)
{
	const struct sim_program *program = vcpu->program;
	struct sim_regs *regs = &vcpu->regs;
	uint64_t elapsed = (now - regs->start) << 8, page;
	uint64_t reads = program->config.reads;

	if (vcpu->vcpu.index >= program->config.writers)
		reads = 100;
	regs->next_stamp += program->stamp_tsc;
	if (regs->next_stamp + program->max_backlog < elapsed)
		regs->next_stamp = elapsed;
	if (pattern_reads(&regs->pattern, reads)) {
		hot_look(vcpu, pattern_next(&regs->pattern));
		return;
	}
	page = pattern_next(&regs->pattern);
	hot_stamp(vcpu, page);
}

static void scan_when_due(struct sim_vcpu *vcpu, uint64_t now, bool has_stamped)
{
	struct sim_regs *regs = &vcpu->regs;
	bool is_time = now >= regs->next_scan;

	if (!vcpu->program->config.verify)
		return;
	if (has_stamped && regs->to_scan)
		regs->to_scan--;
	if (is_time) {
		fill_scan(vcpu);
		regs->next_scan = now + vcpu->program->scan_tsc;
	}
	if (is_time || !regs->to_scan) {
		hot_scan(vcpu);
		regs->to_scan = vcpu->program->config.scan;
	}
}

/* The work of the intervals that are over, into guest memory. */
static void close_intervals(struct sim_vcpu *vcpu, uint64_t now)
{
	struct gauge *gauge = &vcpu->regs.gauge;
	uint64_t first = gauge->interval, last;
	uint32_t ring[GAUGE_RING];

	gauge->ring = ring;
	gauge_close_intervals(gauge, now, vcpu->regs.stamped);
	gauge->ring = NULL;
	last = min(gauge->interval, first + GAUGE_RING - 1);
	for (uint64_t n = first; n <= last; n++)
		sim_store(vcpu,
			  vcpu->program->ring +
				  n % GAUGE_RING * sizeof(uint32_t),
			  ring[n % GAUGE_RING], sizeof(uint32_t));
}

static void look_at_time(struct sim_vcpu *vcpu, uint64_t now)
{
	struct sim_regs *regs = &vcpu->regs;
	uint32_t resets = (uint32_t)sim_reg_get(&leader(vcpu)->resets_asked);

	gauge_look(&regs->gauge, now);
	if (now >= regs->gauge.interval_end)
		close_intervals(vcpu, now);
	if (regs->gauge.resets != resets)
		gauge_reset(&regs->gauge, resets);
}

static uint64_t idle_for(const struct sim_vcpu *vcpu, uint64_t now)
{
	const struct sim_program *program = vcpu->program;
	const struct sim_regs *regs = &vcpu->regs;
	uint64_t next = min(now + IDLE_MAX_NS, stamp_due(vcpu, now));

	if (program->config.verify && program->hot_pages + program->fill_pages)
		next = min(next, regs->next_scan);
	if (vcpu->vcpu.index == 0)
		next = min(next, next_chore(regs));
	return next > now + IDLE_MIN_NS ? next - now : 0;
}

static uint64_t work_step(struct sim_vcpu *vcpu)
{
	struct sim_regs *regs = &vcpu->regs;
	uint64_t now = sim_tsc(vcpu->sim);
	bool has_stamped;

	look_at_time(vcpu, now);
	if (check_step(vcpu))
		return 0;
	if (regs->order)
		return order_step(vcpu);
	has_stamped = now >= stamp_due(vcpu, now);
	if (has_stamped)
		stamp_next(vcpu, now);
	scan_when_due(vcpu, now, has_stamped);
	if (vcpu->vcpu.index == 0 && now >= next_chore(regs))
		chores(vcpu, now);
	if (has_stamped || regs->order)
		return 0;
	return idle_for(vcpu, sim_tsc(vcpu->sim));
}

uint64_t sim_program_step(struct sim_vcpu *vcpu)
{
	if (vcpu->has_arrived) {
		vcpu->has_arrived = false;
		pv_check(vcpu);
		if (vcpu->vcpu.index == 0)
			tables_check(vcpu);
	}
	switch (vcpu->regs.stage) {
	case SIM_WARM:
		warm_step(vcpu);
		return 0;
	case SIM_READY:
		return ready_step(vcpu);
	case SIM_WORK:
		return work_step(vcpu);
	default:
		return IDLE_MAX_NS;
	}
}

void sim_program_slept(struct sim_vcpu *vcpu, uint64_t until_tsc)
{
	struct gauge *gauge = &vcpu->regs.gauge;
	uint64_t now = sim_tsc(vcpu->sim);

	if (gauge->last < until_tsc)
		gauge->last = min(now, until_tsc);
}
