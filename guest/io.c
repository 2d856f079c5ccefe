/* SPDX-License-Identifier: Apache-2.0 */
/* Main loop of the programs that drive devices: see io.h. */
#include "guest/io.h"

#include <stddef.h>

#include "guest/chores.h"
#include "guest/cpu.h"
#include "guest/exit.h"
#include "guest/io_report.h"
#include "guest/io_start.h"
#include "guest/tsc.h"

#define CHECK_LIMIT_US 60000000

void vcpu_main(uint32_t index, uint64_t start_info);

/* One program, one machine: unlike the VMM, a guest may have such a thing. */
static struct io machine;

static enum io_order order_of(uint32_t orders)
{
	return (enum io_order)(orders & 3);
}

void io_give_order(struct io *io, enum io_order order)
{
	io->order_given = cpu_tsc();
	store_release(io->orders, ((io->orders >> 2) + 1) << 2 | order);
}

void io_break(struct io *io, const struct vdev *dev)
{
	__atomic_fetch_or(&io->broken, 1U << dev->index, __ATOMIC_RELAXED);
}

/* Once an order other than RUN is followed, devices are CPU 0's. */
static void follow_order(struct io_cpu *cpu, uint64_t now)
{
	uint32_t orders = load_acquire(cpu->io->orders);
	enum io_order order = order_of(orders);
	uint64_t waited;

	if (order != IO_RUN && cpu->orders == orders) {
		cpu_pause();
		return;
	}
	if (order != IO_STOP)
		io_program.work(cpu, now, order == IO_RUN);
	/* @now may be from just before. */
	waited = now > cpu->io->order_given ? now - cpu->io->order_given : 0;
	if (order == IO_DRAIN && !io_program.is_idle(cpu, waited))
		return;
	if (cpu->orders != orders)
		store_release(cpu->orders, orders);
}

static void follow_checks(struct io_cpu *cpu)
{
	uint32_t checks = load_acquire(cpu->io->checks);
	uint32_t resets = load_acquire(cpu->io->resets);

	if (cpu->gauge.resets != resets)
		gauge_reset(&cpu->gauge, resets);
	if (cpu->checks == checks)
		return;
	if (cpu->checks_begun != checks) {
		cpu->checks_begun = checks;
		io_program.check(cpu);
	}
	if (io_program.is_checked(cpu))
		store_release(cpu->checks, checks);
}

static bool have_followed(const struct io *io)
{
	for (uint64_t i = 0; i < io->config->cpus; i++) {
		if (load_acquire(io_cpu_of(i)->orders) != io->orders)
			return false;
	}
	return true;
}

static bool have_checked(const struct io *io)
{
	for (uint64_t i = 0; i < io->config->cpus; i++) {
		if (load_acquire(io_cpu_of(i)->checks) != io->checks)
			return false;
	}
	return true;
}

static void repair(struct io *io, struct vdev *dev)
{
	struct line line;

	line_begin(&line, &io_cpu_of(0)->gauge, "@reset ");
	line_decimal(&line, "dev=", dev->index);
	line_decimal(&line, " asked=", vdev_needs_reset(dev));
	line_decimal(&line, " tsc=", cpu_tsc());
	line_end(&line);
	io_program.restart(io, dev, (unsigned int)io->config->ring);
	io->resets_done++;
}

/* CPU 0, nobody else is at any device: does what that was for. */
static void act(struct io *io, uint64_t now)
{
	uint32_t broken = __atomic_exchange_n(&io->broken, 0, __ATOMIC_RELAXED);

	for (unsigned int i = 0; i < io->device_count; i++) {
		if (broken & 1U << i)
			repair(io, &io->devices[i]);
	}
	/* Requests that were to end first were begun again instead. */
	if (io->churn.is_pending && broken)
		churn_put_off(io, now);
	else if (io->churn.is_pending)
		churn_do(io, now);
	io_give_order(io, IO_RUN);
}

static void watch(struct io *io, uint64_t now)
{
	if (now < io->next_watch)
		return;
	io->next_watch = now + tsc_of_us(io->tsc_khz, io->config->watch_us);
	for (unsigned int i = 0; i < io->device_count; i++) {
		if (vdev_needs_reset(&io->devices[i]))
			io_break(io, &io->devices[i]);
		else if (io_program.look)
			io_program.look(io, &io->devices[i]);
	}
}

static void direct_devices(struct io *io, uint64_t now)
{
	enum io_order order = order_of(io->orders);

	if (read_once(io->broken) && order != IO_STOP)
		io_give_order(io, IO_STOP);
	else if (order != IO_RUN && have_followed(io))
		act(io, now);
	else if (order == IO_RUN && !churn_begin(io, now))
		watch(io, now);
	else if (order == IO_DRAIN)
		watch(io, now);
}

static _Noreturn void finish(struct io *io)
{
	uint64_t errors;
	struct line line;

	io_report_gaps(io);
	errors = io_errors(io);
	line_begin(&line, NULL, "@exit ");
	line_decimal(&line, "code=", errors ? EXIT_ERRORS : EXIT_OK);
	line_end(&line);
	machine_exit(errors ? EXIT_ERRORS : EXIT_OK);
}

static void begin_check(struct io *io)
{
	if (io->is_reporting)
		return;
	store_release(io->checks, io->checks + 1);
	io->is_reporting = true;
	io->check_end = cpu_tsc() + tsc_of_us(io->tsc_khz, CHECK_LIMIT_US);
}

static void end_check(struct io *io, uint64_t now)
{
	struct line line;

	if (!io->is_reporting || (!have_checked(io) && now < io->check_end))
		return;
	io->is_reporting = false;
	if (!have_checked(io) &&
	    io_error_begin(io_cpu_of(0), &line, "check-unfinished", 0))
		io_error_end(&line);
	churn_check(io);
	io_report_counters(io);
	if (io->is_finishing)
		finish(io);
}

static void obey(struct io *io, int command)
{
	switch (command) {
	case 'g':
		io_report_counters(io);
		io_report_gaps(io);
		break;
	case 'r':
		store_release(io->resets, io->resets + 1);
		break;
	case 'w':
		io_report_work(io);
		break;
	case 'q':
		io->is_finishing = true;
		begin_check(io);
		break;
	case 'v':
		begin_check(io);
		break;
	default:
		break;
	}
}

static void begin_chores(struct chores *chores, const struct io *io)
{
	const struct io_config *config = io->config;
	uint64_t khz = io->tsc_khz;

	chores_start(
		chores, io->start,
		&(struct chore_periods){
			.tick = tsc_of_us(khz, config->tick_us),
			.poll = tsc_of_us(khz, config->poll_us),
			.report = tsc_of_us(khz, config->report_s * 1000000),
			.end = tsc_of_us(khz, config->run_s * 1000000),
		});
}

static void do_chores(struct chores *chores, struct io *io, uint64_t now)
{
	unsigned int due = chores_due(chores, now);

	if (due & CHORE_TICK)
		serial_tick('.');
	for (int i = 0; (due & CHORE_POLL) && i < CHORE_BYTES_MAX; i++) {
		int command = serial_poll();

		if (command < 0)
			break;
		obey(io, command);
	}
	if (due & CHORE_REPORT)
		io_report_counters(io);
	if (due & CHORE_END)
		obey(io, 'q');
}

static _Noreturn void work(struct io_cpu *cpu)
{
	struct io *io = cpu->io;
	struct chores chores = { .next = UINT64_MAX };

	if (cpu->index == 0)
		begin_chores(&chores, io);
	for (;;) {
		uint64_t now = cpu_tsc();

		gauge_look(&cpu->gauge, now);
		gauge_work(&cpu->gauge, now, cpu->ops);
		follow_order(cpu, now);
		follow_checks(cpu);
		if (cpu->index == 0) {
			direct_devices(io, now);
			end_check(io, now);
			if (now >= chores.next)
				do_chores(&chores, io, now);
		}
	}
}

void vcpu_main(uint32_t index, uint64_t start_info)
{
	struct io *io = &machine;
	struct io_cpu *cpu = io_cpu_of(index);

	store_release(io->has_arrived[index], 1);
	if (index == 0)
		io_start(io, start_info);
	while (!load_acquire(io->is_published))
		cpu_pause();
	if (index >= io->config->cpus)
		spare_main(io, index);
	if (io->config->msix == MSIX_ON)
		apic_enable();
	if (index == 0)
		io_go(io);
	while (!load_acquire(io->is_going))
		cpu_pause();
	gauge_start(&cpu->gauge, io->start,
		    tsc_of_us(io->tsc_khz, io->config->interval_us), cpu->ring);
	work(cpu);
}
