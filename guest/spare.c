/* SPDX-License-Identifier: Apache-2.0 */
/* See spare.h.  Intel SDM volume 3, 8.4.4 and 10.6. */
#include "guest/spare.h"

#include "guest/cpu.h"
#include "guest/io.h"
#include "guest/msix.h"
#include "guest/tsc.h"

#define WAKE_PAGE 0x20u /* at 128 KiB: neither image nor start information */
#define LATE_US   5000000

/* start.S */
extern const uint8_t wake_start[], wake_end[];
extern uint32_t wake_index;

bool spare_init(struct io *io)
{
	volatile uint8_t *to = (volatile uint8_t *)(WAKE_PAGE * PAGE_SIZE);
	uint64_t index = io->config->cpus;

	while (index < MAX_VCPUS && !load_acquire(io->has_arrived[index])) {
		if (cpu_tsc() - io->start > tsc_of_us(io->tsc_khz, LATE_US))
			return false;
		cpu_pause();
	}
	for (const uint8_t *from = wake_start; from < wake_end; from++)
		*to++ = *from;
	wake_index = (uint32_t)index;
	io->spare.starts = 1;
	apic_enable();
	return true;
}

static void enter(struct spare *spare, enum spare_state state, uint64_t now)
{
	spare->state = state;
	spare->since = now;
}

static void complain(struct io *io, const char *what)
{
	const struct spare *spare = &io->spare;
	struct line line;

	if (!io_error_begin(io_cpu_of(0), &line, "vcpu", io->config->cpus))
		return;
	line_text(&line, what);
	line_decimal(&line, " starts=", spare->starts);
	line_decimal(&line, " made=", read_once(spare->starts_made));
	line_decimal(&line, " count=", spare->count);
	line_decimal(&line, " found=", read_once(spare->count_made));
	io_error_end(&line);
}

static void start(struct io *io, bool with_init, uint64_t now)
{
	struct spare *spare = &io->spare;
	uint32_t id = (uint32_t)io->config->cpus;

	if (with_init)
		apic_send_init(id);
	/* It may be there before this looks again. */
	spare->count = read_once(spare->count_made);
	spare->starts++;
	apic_send_sipi(id, WAKE_PAGE);
	enter(spare, SPARE_STARTED, now);
}

/* It has come up once for each start, and counts. */
static bool is_up(struct io *io, uint64_t now)
{
	struct spare *spare = &io->spare;
	bool is_started = load_acquire(spare->starts_made) == spare->starts;

	if (is_started && read_once(spare->count_made) != spare->count)
		return true;
	if (now - spare->since > tsc_of_us(io->tsc_khz, LATE_US)) {
		complain(io, " does not start");
		enter(spare, SPARE_STARTED, now);
	}
	return false;
}

bool spare_change(struct io *io, uint64_t dice, uint64_t now)
{
	struct spare *spare = &io->spare;

	switch (spare->state) {
	case SPARE_STARTED:
		if (!is_up(io, now))
			return false;
		enter(spare, SPARE_UP, now);
		return true;
	case SPARE_UP:
		if (dice & 1) {
			start(io, true, now);
			return true;
		}
		apic_send_init((uint32_t)io->config->cpus);
		enter(spare, SPARE_STOPPED, now);
		return true;
	case SPARE_STOPPED:
		spare->count = read_once(spare->count_made);
		enter(spare, SPARE_DOWN, now);
		return true;
	case SPARE_DOWN:
		if (read_once(spare->count_made) != spare->count ||
		    load_acquire(spare->starts_made) != spare->starts)
			complain(io, " does not stand still");
		start(io, dice & 1, now);
		return true;
	}
	return false;
}

_Noreturn void spare_main(struct io *io, uint32_t index)
{
	struct spare *spare = &io->spare;

	if (index != io->config->cpus || !io->config->churn_us ||
	    !(io->config->churn_what & 1ULL << CHURN_CPUS))
		cpu_park();
	store_release(spare->starts_made, spare->starts_made + 1);
	for (;;) {
		write_once(spare->count_made, spare->count_made + 1);
		cpu_pause();
	}
}
