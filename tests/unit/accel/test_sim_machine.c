// SPDX-License-Identifier: Apache-2.0
/*
 * Whole machines on the simulated accelerator, moved in one process: vCPUs work,
 * their registers travel, and what they check of their memory on the way stays
 * right, in both modes.
 */
#include <cmocka.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../migrate/side.h"
#include "accel/sim/sim_priv.h"
#include "base/bytes.h"
#include "machine/vcpu.h"

#define CPUS 2u

static void start_side(struct side *side, const char *accel, bool is_incoming)
{
	struct machine_options options = {
		.name = "sim",
		.memory = 64u << 20,
		.cpus = CPUS,
		.serial = "null",
		.is_incoming = is_incoming,
	};
	struct err err = ERR_INIT;

	if (accel_options_parse(accel, &options.accel, &err))
		fail_msg("%s", err_msg(&err));
	side_init(side, &options);
}

static struct sim_vcpu *vcpu_in(struct side *side, unsigned int index)
{
	return sim_vcpu_of(vcpu_set_get(machine_vcpus(side->machine), index));
}

static uint64_t stamped(struct side *side)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < CPUS; i++)
		sum += sim_reg_get(&vcpu_in(side, i)->regs.stamped);
	return sum;
}

static uint64_t errors(struct side *side)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < CPUS; i++)
		sum += sim_reg_get(&vcpu_in(side, i)->regs.errors);
	return sum;
}

static void wait_for_work(struct side *side, uint64_t pages)
{
	uint64_t goal = stamped(side) + pages;

	for (int i = 0; stamped(side) < goal ||
			sim_reg_get(&vcpu_in(side, 0)->regs.stage) != SIM_WORK;
	     i++) {
		assert_true(i < SIDE_LIMIT_S * 1000);
		usleep(1000);
	}
}

/* Every page once more, by the vCPUs themselves. */
static void check_all(struct side *side)
{
	machine_stop(side->machine, NULL);
	for (unsigned int i = 0; i < CPUS; i++) {
		struct sim_regs *regs = &vcpu_in(side, i)->regs;

		sim_reg_set(&regs->full_checks, 0);
	}
	sim_reg_set(&vcpu_in(side, 0)->regs.checks_asked, 1);
	assert_int_equal(machine_cont(side->machine, false, NULL), 0);
	for (unsigned int i = 0; i < CPUS; i++) {
		for (int n = 0;
		     sim_reg_get(&vcpu_in(side, i)->regs.full_checks) != 1;
		     n++) {
			assert_true(n < SIDE_LIMIT_S * 1000);
			usleep(1000);
		}
	}
	assert_int_equal(errors(side), 0);
}

static void begin_move(struct side *from, struct side *to)
{
	const struct mig_caps caps = { .verify = true, .events = true };
	int fds[2];

	assert_int_equal(mig_set_caps(from->mig, &caps, NULL), 0);
	assert_int_equal(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	side_receive(to, fds[0]);
	side_send(from, fds[1]);
}

static void end_move(struct side *from, struct side *to)
{
	struct mig_info info;

	if (side_wait_end(from) != MIG_COMPLETED)
		fail_msg("source: %s", side_error(from, &info));
	if (side_wait_end(to) != MIG_RUNNING)
		fail_msg("destination: %s", side_error(to, &info));
}

static void move(struct side *from, struct side *to)
{
	begin_move(from, to);
	end_move(from, to);
}

static void move_three_times(const char *accel)
{
	struct side sides[2];

	start_side(&sides[0], accel, false);
	assert_int_equal(machine_start(sides[0].machine, NULL), 0);
	for (int i = 0; i < 3; i++) {
		struct side *from = &sides[i % 2], *to = &sides[(i + 1) % 2];
		uint64_t before;

		start_side(to, accel, true);
		wait_for_work(from, 2000);
		before = stamped(from);
		move(from, to);
		assert_true(stamped(to) >= before);
		side_fini(from);
		wait_for_work(to, 500);
		assert_int_equal(errors(to), 0);
	}
	check_all(&sides[1]);
	side_fini(&sides[1]);
}

static void test_guest_moves_three_times_whole_in_each_mode(void **state)
{
	static const char *const accels[] = {
		"sim,workload=zipf,hot=4M,fill=2M",
		"sim,workload=random,hot=4M,dirty=ring",
		"sim,workload=hotcold,hot=4M,leaf=4K,reads=30,rate=50000",
		("sim,workload=burst,pattern=seq,hot=8M,dirty=ring,"
		 "ring-entries=1024,leaf=2M,split=eager,collapse=inline"),
	};

	(void)state;
	for (size_t i = 0; i < array_size(accels); i++)
		move_three_times(accels[i]);
}

/* Tables of 1536 pages, where a ring holds 1024; clock and steal time at every
 * entry and when a vCPU is saved. */
static void test_what_no_vcpu_writes_moves_too(void **state)
{
	(void)state;
	move_three_times("sim,workload=zipf,hot=4M,pv=on,tables=6M");
	move_three_times("sim,workload=zipf,hot=4M,pv=on,tables=6M,dirty=ring,"
			 "ring-entries=1024");
}

struct interrupter {
	struct side *side;
	pthread_t thread;
	bool is_over; /* atomic */
};

/* As a device does: from a thread of its own, to one vCPU after the other. */
static void *interrupt(void *opaque)
{
	struct interrupter *from = opaque;
	struct accel *accel = &vcpu_in(from->side, 0)->sim->accel;

	for (uint64_t n = 0; !__atomic_load_n(&from->is_over, __ATOMIC_ACQUIRE);
	     n++) {
		struct accel_msi msi = { .address =
						 0xfee00000 | n % CPUS << 12 };

		accel->ops->msi_send(accel, &msi);
		usleep(100);
	}
	return NULL;
}

static void set_params(struct side *side, uint64_t bandwidth,
		       uint64_t downtime_ms)
{
	struct mig_params params;

	mig_params(side->mig, &params);
	params.max_bandwidth = bandwidth;
	params.downtime_limit_ms = downtime_ms;
	params.max_cpu_throttle = 0;
	assert_int_equal(mig_set_params(side->mig, &params, NULL), 0);
}

static unsigned int passes(struct side *side)
{
	unsigned int count;

	pthread_mutex_lock(&side->mutex);
	count = side->passes;
	pthread_mutex_unlock(&side->mutex);
	return count;
}

/* Interrupts come in every round, and none once devices rest: this one does when the
 * switch is not yet allowed. */
static void move_interrupted(struct side *from, struct side *to)
{
	struct interrupter interrupter = { .side = from };

	set_params(from, 32u << 20, 1);
	assert_int_equal(pthread_create(&interrupter.thread, NULL, interrupt,
					&interrupter),
			 0);
	begin_move(from, to);
	for (int i = 0; passes(from) < 3; i++) {
		assert_true(i < SIDE_LIMIT_S * 1000);
		usleep(1000);
	}
	__atomic_store_n(&interrupter.is_over, true, __ATOMIC_RELEASE);
	pthread_join(interrupter.thread, NULL);
	set_params(from, 0, 1000);
	end_move(from, to);
}

static void check_interrupts(const char *accel)
{
	struct side sides[2];

	start_side(&sides[0], accel, false);
	start_side(&sides[1], accel, true);
	assert_int_equal(machine_start(sides[0].machine, NULL), 0);
	wait_for_work(&sides[0], 2000);
	move_interrupted(&sides[0], &sides[1]);
	for (unsigned int i = 0; i < CPUS; i++) {
		uint64_t sent = vcpu_in(&sides[0], i)->regs.eois;

		assert_true(sent > 0);
		assert_int_equal(vcpu_in(&sides[1], i)->regs.eois, sent);
	}
	side_fini(&sides[0]);
	wait_for_work(&sides[1], 500);
	check_all(&sides[1]);
	side_fini(&sides[1]);
}

static void test_what_interrupts_write_moves_too(void **state)
{
	(void)state;
	check_interrupts("sim,workload=random,hot=8M,pv=on");
	check_interrupts("sim,workload=random,hot=8M,pv=on,dirty=ring,"
			 "ring-entries=1024");
}

static void test_registers_that_cannot_be_fail_the_vcpu(void **state)
{
	struct err err = ERR_INIT;
	struct sim_vcpu *vcpu;
	struct side side;

	(void)state;
	start_side(&side, "sim,workload=seq,hot=4M", false);
	assert_int_equal(machine_start(side.machine, NULL), 0);
	wait_for_work(&side, 100);
	machine_stop(side.machine, NULL);
	vcpu = vcpu_in(&side, 0);
	assert_int_equal(sim_program_bind(vcpu, &err), 0);
	vcpu->regs.hot_at = vcpu->program->hot_pages;
	assert_int_equal(sim_program_bind(vcpu, &err), -EINVAL);
	vcpu->regs.hot_at = 0;
	vcpu->regs.pattern.next = UINT64_MAX;
	assert_int_equal(sim_program_bind(vcpu, NULL), -EINVAL);
	vcpu->regs.pattern.next = 0;
	vcpu->regs.check_left = 1ull << 40;
	assert_int_equal(sim_program_bind(vcpu, NULL), -EINVAL);
	vcpu->regs.check_left = 0;
	vcpu->regs.start_info = 1ull << 60;
	err_clear(&err);
	assert_int_equal(sim_program_bind(vcpu, &err), -EINVAL);
	assert_non_null(strstr(err_msg(&err), "no start information"));
	side_fini(&side);
}

static void test_machine_options_that_contradict_sim_are_refused(void **state)
{
	struct machine_options options = {
		.name = "sim",
		.memory = 64u << 20,
		.cpus = 1,
		.serial = "null",
		.kernel = "/none",
	};
	struct machine *machine;
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(accel_options_parse("sim", &options.accel, NULL), 0);
	assert_int_equal(
		machine_new(&options, side_on_machine, NULL, &machine, &err),
		-EINVAL);
	assert_non_null(strstr(err_msg(&err), "runs workloads, no code"));
	err_clear(&err);
	assert_int_equal(
		accel_options_parse("sim,workload=seq", &options.accel, NULL),
		0);
	options.kernel = NULL;
	options.guest = "stress";
	assert_int_equal(
		machine_new(&options, side_on_machine, NULL, &machine, &err),
		-EINVAL);
	assert_non_null(strstr(err_msg(&err), "exclude each other"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			test_guest_moves_three_times_whole_in_each_mode),
		cmocka_unit_test(test_what_no_vcpu_writes_moves_too),
		cmocka_unit_test(test_what_interrupts_write_moves_too),
		cmocka_unit_test(test_registers_that_cannot_be_fail_the_vcpu),
		cmocka_unit_test(
			test_machine_options_that_contradict_sim_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
