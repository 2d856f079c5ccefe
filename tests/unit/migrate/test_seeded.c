// SPDX-License-Identifier: Apache-2.0
/*
 * A guest that reconfigures its devices at random in every phase of a migration
 * (seeded/guest.h), moved again and again between machines on the simulated accelerator,
 * one in four times in vain.  After each move, and each that failed, the guest reads back
 * all of its registers, disks and pages, RAM was hashed on both sides, and what the
 * destination was told ahead, and what it told its accelerator, is what the guest wrote.
 *
 * $SEEDED_SEED and $SEEDED_MOVES repeat or change a run; what failed names the seed.
 */
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../seeded/guest.h"
#include "accel/sim/sim_priv.h"
#include "back_end.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/trace.h"
#include "machine/vcpu.h"
#include "migrate/policy.h"
#include "migrate/ram_send.h"
#include "side.h"
#include "state/state.h"

/* A second for fifty to a hundred, and for a few under a sanitizer. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MOVES 60u
#else
#define MOVES 3000u
#endif
#define CHANGES_SEEN 400u /* so many moves have each change in each phase */
#define ROUNDS_MAX   3u
#define BURST        24u /* accesses of a vCPU in one phase, less one */
#define IMAGE_SIZE   (64u << 10)
#define SIDES        2u
#define GUEST_WAIT_S 20

/* Where the migration stands when the guest is let loose. */
enum phase {
	PHASE_SETUP, /* before anything is said of it */
	PHASE_BUILD, /* what travels ahead has been sent */
	PHASE_ROUNDS,
	PHASE_NEAR = PHASE_ROUNDS + ROUNDS_MAX, /* SWITCH was sent */
	PHASE_AFTER,
	PHASES,
};

_Static_assert(PHASES <= GUEST_PHASES, "each is counted");

/* Of one move, all drawn before it begins. */
struct plan {
	unsigned int bursts[PHASES][GUEST_CPUS];
	/* The migration goes on at once, and finds the guest in the middle. */
	bool is_loose[PHASES];
	unsigned int rounds;
	enum phase cancel_at; /* PHASES: never */
	const char *fail;     /* x-fail, or NULL */
	bool fails_there;     /* at the destination */
};

struct scene {
	uint64_t seed, random;
	char folder[32], image[48], served[48], sockets[SIDES][48];
	struct back_end back_ends[SIDES];
	const char *accel;
	struct side sides[SIDES];
	unsigned int owner; /* which of them has the guest */
	struct plan plan;
	unsigned int number; /* of the move */
	/* owned by the migration's thread while there is one */
	unsigned int rounds;
	bool has_begun[PHASES];
};

/* Of this test's program: who the wrapped functions belong to.  NULL: no move is under
 * way. */
static struct scene *moving;

/* Failures that leave the guest with the source, whoever notices first. */
static const struct {
	const char *text;
	bool is_there;
} failures[] = {
	{ "setup-active,action=close", false },
	{ "setup-active,action=garbage", false },
	{ "active-device,action=close", false },
	{ "active-device,action=garbage", false },
	{ "device-sent,action=close", false },
	{ "sent-ready,action=close", false },
	{ "listening-building,action=close", true },
	{ "building-receiving,action=close", true },
	{ "building-receiving,action=garbage", true },
	{ "receiving-stopped,action=close", true },
	{ "stopped-loading,action=close", true },
};

static struct side *owner_of(struct scene *scene)
{
	return &scene->sides[scene->owner];
}

static struct sim_vcpu *vcpu_in(struct side *side, unsigned int index)
{
	return sim_vcpu_of(vcpu_set_get(machine_vcpus(side->machine), index));
}

static unsigned int draw(struct scene *scene, unsigned int below)
{
	return (unsigned int)guest_random(&scene->random, below);
}

/* Devices write guest memory while it is sent: what was read then is sent again. */
const char *__tsan_default_suppressions(void);

const char *__tsan_default_suppressions(void)
{
	return "race:channel_send\n";
}

/* ---- letting the guest loose ---- */

/* A vCPU with nothing to do sleeps until then. */
static void ring_bells(struct side *side)
{
	for (unsigned int i = 0; i < GUEST_CPUS; i++) {
		struct sim_vcpu *vcpu = vcpu_in(side, i);

		__atomic_add_fetch(&vcpu->doorbell, 1, __ATOMIC_SEQ_CST);
		syscall(SYS_futex, &vcpu->doorbell, FUTEX_WAKE_PRIVATE,
			INT32_MAX, NULL, NULL, 0);
	}
}

static bool is_busy(void)
{
	for (unsigned int i = 0; i < GUEST_CPUS; i++) {
		if (guest.cpus[i].done != guest.cpus[i].asked ||
		    guest.cpus[i].is_check_asked)
			return true;
	}
	return false;
}

/* Any thread; what went wrong is in guest.fault. */
static void wait_guest(void)
{
	struct timespec limit;
	int ret = 0;

	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += GUEST_WAIT_S;
	pthread_mutex_lock(&guest.mutex);
	while (!ret && is_busy() && !guest.fault[0])
		ret = pthread_cond_timedwait(&guest.changed, &guest.mutex,
					     &limit);
	pthread_mutex_unlock(&guest.mutex);
	for (unsigned int i = 0; ret && i < GUEST_CPUS; i++) {
		const struct guest_cpu *cpu = &guest.cpus[i];
		const struct access *access = &cpu->script[cpu->at];

		if (cpu->done != cpu->asked || cpu->is_check_asked)
			guest_complain(
				"vCPU %u does not get on: access %u (%s)", i,
				access->kind,
				access->dev ? access->dev->name : "vCPU");
	}
}

static void ask_guest(struct scene *scene, enum phase phase)
{
	pthread_mutex_lock(&guest.mutex);
	for (unsigned int i = 0; i < GUEST_CPUS; i++) {
		guest.cpus[i].phase = phase;
		if (guest.cpus[i].is_up)
			guest.cpus[i].asked += scene->plan.bursts[phase][i];
	}
	pthread_mutex_unlock(&guest.mutex);
	ring_bells(owner_of(scene));
}

/* Once in a move, each.  The one before may be under way still. */
static void begin_phase(struct scene *scene, enum phase phase)
{
	if (scene->has_begun[phase])
		return;
	scene->has_begun[phase] = true;
	wait_guest();
	ask_guest(scene, phase);
	if (!scene->plan.is_loose[phase])
		wait_guest();
}

/* ---- phases ---- */

int __real_machine_save_setup(struct machine *machine, uint64_t deadline_ns,
			      int stop_fd, struct err *err);
int __wrap_machine_save_setup(struct machine *machine, uint64_t deadline_ns,
			      int stop_fd, struct err *err);
int __real_ram_send_start(struct ram_send *send, struct mem *mem,
			  struct channel *channel, bool has_checksum,
			  struct err *err);
int __wrap_ram_send_start(struct ram_send *send, struct mem *mem,
			  struct channel *channel, bool has_checksum,
			  struct err *err);
bool __real_policy_decide(struct policy *policy,
			  const struct policy_round *round);
bool __wrap_policy_decide(struct policy *policy,
			  const struct policy_round *round);
int __real_machine_switch_begin(struct machine *machine, uint64_t deadline_ns,
				bool *ret_was_running, struct err *err);
int __wrap_machine_switch_begin(struct machine *machine, uint64_t deadline_ns,
				bool *ret_was_running, struct err *err);

/* On the migration's thread, while the guest runs. */
static void reach(enum phase phase)
{
	struct scene *scene = moving;

	if (!scene)
		return;
	begin_phase(scene, phase);
	if (scene->plan.cancel_at == phase)
		mig_cancel(owner_of(scene)->mig);
}

int __wrap_machine_save_setup(struct machine *machine, uint64_t deadline_ns,
			      int stop_fd, struct err *err)
{
	reach(PHASE_SETUP);
	return __real_machine_save_setup(machine, deadline_ns, stop_fd, err);
}

int __wrap_ram_send_start(struct ram_send *send, struct mem *mem,
			  struct channel *channel, bool has_checksum,
			  struct err *err)
{
	reach(PHASE_BUILD);
	return __real_ram_send_start(send, mem, channel, has_checksum, err);
}

/* So many rounds as were drawn, whatever they took. */
bool __wrap_policy_decide(struct policy *policy,
			  const struct policy_round *round)
{
	bool is_time = __real_policy_decide(policy, round);

	if (!moving)
		return is_time;
	reach(PHASE_ROUNDS + moving->rounds);
	return ++moving->rounds >= moving->plan.rounds;
}

int __wrap_machine_switch_begin(struct machine *machine, uint64_t deadline_ns,
				bool *ret_was_running, struct err *err)
{
	reach(PHASE_NEAR);
	return __real_machine_switch_begin(machine, deadline_ns,
					   ret_was_running, err);
}

static void draw_plan(struct scene *scene)
{
	struct plan *plan = &scene->plan;
	unsigned int end = draw(scene, 8);

	for (unsigned int phase = 0; phase < PHASES; phase++) {
		plan->is_loose[phase] = draw(scene, 2);
		for (unsigned int i = 0; i < GUEST_CPUS; i++)
			plan->bursts[phase][i] = draw(scene, BURST);
	}
	plan->rounds = 1 + draw(scene, ROUNDS_MAX);
	plan->cancel_at = PHASES;
	plan->fail = NULL;
	if (end == 0) {
		do {
			plan->cancel_at = draw(scene, PHASE_AFTER);
		} while (plan->cancel_at >= PHASE_ROUNDS + plan->rounds &&
			 plan->cancel_at < PHASE_NEAR);
	} else if (end == 1) {
		unsigned int which = draw(scene, array_size(failures));

		plan->fail = failures[which].text;
		plan->fails_there = failures[which].is_there;
	}
}

/* ---- machines ---- */

static void machine_side_init(struct scene *scene, unsigned int number,
			      bool is_incoming)
{
	char disk[64], user[80];
	struct machine_options options = {
		.name = "seeded",
		.memory = GUEST_MEMORY,
		.cpus = GUEST_CPUS,
		.serial = "null",
		.is_incoming = is_incoming,
		.device_count = GUEST_DEVICES,
		.devices = {
			{ DEVICE_DISK, disk },
			{ DEVICE_DISK, user },
			{ DEVICE_RNG, "on" },
			{ DEVICE_SHMEM, "size=64K" },
			{ DEVICE_CONSOLE, "null" },
			{ DEVICE_RNG, "on" },
		},
	};
	struct err err = ERR_INIT;

	snprintf(disk, sizeof(disk), "path=%s,queues=2", scene->image);
	snprintf(user, sizeof(user), "vhost-user=%s,queues=2",
		 scene->sockets[number]);
	if (accel_options_parse(scene->accel, &options.accel, &err))
		fail_msg("%s", err_msg(&err));
	side_init(&scene->sides[number], &options);
}

/* ---- what machines know ---- */

static void assert_no_fault(struct scene *scene)
{
	if (guest.fault[0])
		fail_msg(
			"SEEDED_SEED=%lu: move %u%s%s (rounds %u, cancel %d): %s",
			scene->seed, scene->number,
			scene->plan.fail ? ", " : "",
			scene->plan.fail ? scene->plan.fail : "",
			scene->plan.rounds, scene->plan.cancel_at, guest.fault);
}

/* The guest has nothing to do, and reads back all that it wrote. */
static void check_guest(struct scene *scene)
{
	wait_guest();
	pthread_mutex_lock(&guest.mutex);
	for (unsigned int i = 0; i < GUEST_CPUS; i++)
		guest.cpus[i].is_check_asked = guest.cpus[i].is_up;
	pthread_mutex_unlock(&guest.mutex);
	ring_bells(owner_of(scene));
	wait_guest();
	assert_no_fault(scene);
}

/* Who is up is in registers. */
static void check_vcpus(struct scene *scene)
{
	for (unsigned int i = 0; i < GUEST_CPUS; i++) {
		uint64_t stage =
			sim_reg_get(&vcpu_in(owner_of(scene), i)->regs.stage);

		if ((stage == SIM_WORK) != guest.cpus[i].is_up)
			guest_complain("vCPU %u is %s", i,
				       guest.cpus[i].is_up ? "down" : "up");
	}
	assert_no_fault(scene);
}

/* Every vector that can interrupt has a route, with its eventfd, and no other has. */
static void check_routes(struct scene *scene)
{
	struct accel_routes *routes = &vcpu_in(owner_of(scene), 0)->sim->routes;
	unsigned int at = 0;

	for (unsigned int i = 0; i < GUEST_DEVICES; i++) {
		const struct registers *regs = &guest.devices[i].regs;

		for (unsigned int v = 0;
		     regs->msix_at && v <= regs->queue_count; v++, at++) {
			const struct accel_route *route = &routes->routes[at];
			bool is_right =
				at < routes->count &&
				route->is_bound ==
					registers_can_interrupt(regs, v);

			if (is_right && route->is_bound)
				is_right =
					route->msi.data == regs->table[v][2] &&
					route->msi.address == regs->table[v][0];
			if (!is_right)
				guest_complain("%s: route of vector %u is "
					       "another",
					       guest.devices[i].name, v);
		}
	}
	assert_no_fault(scene);
}

/* All that travels ahead, byte by byte, as whoever moves on would send it. */
static void check_setup_state(struct scene *scene, struct side *from,
			      struct side *to)
{
	struct bytes_writer here = { .data = NULL }, there = { .data = NULL };
	struct state_entry *entry, *other;

	list_for_each (entry, &machine_setup_state(from->machine)->entries,
		       link) {
		if (!state_is_built(entry))
			continue;
		other = state_find(machine_setup_state(to->machine),
				   entry->name);
		here.size = there.size = 0;
		assert_non_null(other);
		assert_int_equal(state_save(entry, &here, NULL), 0);
		assert_int_equal(state_save(other, &there, NULL), 0);
		if (here.size != there.size ||
		    memcmp(here.data, there.data, here.size) != 0)
			guest_complain("%s has changed", entry->name);
	}
	bytes_writer_fini(&here);
	bytes_writer_fini(&there);
	assert_no_fault(scene);
}

static void check_all(struct scene *scene)
{
	check_guest(scene);
	check_vcpus(scene);
	check_routes(scene);
}

/* ---- moves ---- */

static void arm(struct scene *scene, struct side *from, struct side *to)
{
	struct side *side = scene->plan.fails_there ? to : from;

	if (scene->plan.fail)
		assert_int_equal(
			mig_set_fail(side->mig, scene->plan.fail, NULL), 0);
}

static void begin_move(struct scene *scene, struct side *from, struct side *to)
{
	const struct mig_caps caps = { .verify = true, .events = true };
	int fds[2];

	scene->rounds = 0;
	memset(scene->has_begun, 0, sizeof(scene->has_begun));
	moving = scene;
	assert_int_equal(mig_set_caps(from->mig, &caps, NULL), 0);
	arm(scene, from, to);
	assert_int_equal(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	side_receive(to, fds[0]);
	side_send(from, fds[1]);
}

/* What was not reached is done now: the same accesses, whoever noticed what when. */
static void end_phases(struct scene *scene)
{
	moving = NULL;
	for (unsigned int phase = 0; phase < PHASES; phase++) {
		bool is_round = phase >= PHASE_ROUNDS && phase < PHASE_NEAR;

		if (!is_round || phase < PHASE_ROUNDS + scene->plan.rounds)
			begin_phase(scene, phase);
	}
	check_all(scene);
}

static void arrive(struct scene *scene, struct side *from, struct side *to)
{
	struct mig_info info;
	enum mig_state end = side_wait_end(to);

	if (end != MIG_RUNNING)
		fail_msg("SEEDED_SEED=%lu: move %u: destination %s: %s",
			 scene->seed, scene->number, mig_status(end),
			 side_error(to, &info));
	mig_query(from->mig, &info);
	assert_true(info.is_verified);
	scene->owner = 1 - scene->owner;
	/* With what is under way there, and nothing new, until it can be compared. */
	moving = NULL;
	check_all(scene);
	if (!scene->plan.is_loose[PHASE_NEAR])
		check_setup_state(scene, from, to);
	end_phases(scene);
	side_fini(from);
}

static void stay(struct scene *scene, struct side *from, struct side *to)
{
	struct mig_info info;
	enum mig_state expected = scene->plan.fail ? MIG_FAILED : MIG_CANCELLED;

	mig_query(from->mig, &info);
	if (info.state != expected ||
	    machine_run_state(from->machine) != RUN_STATE_RUNNING)
		fail_msg("SEEDED_SEED=%lu: move %u (%s): source %s: %s",
			 scene->seed, scene->number,
			 scene->plan.fail ? scene->plan.fail : "cancelled",
			 mig_status(info.state), err_msg(&info.error));
	end_phases(scene);
	assert_int_equal(side_wait_end(to), MIG_FAILED);
	side_fini(to);
}

static void move(struct scene *scene)
{
	struct side *from = owner_of(scene);
	struct side *to = &scene->sides[1 - scene->owner];
	bool is_broken;

	draw_plan(scene);
	is_broken = scene->plan.fail || scene->plan.cancel_at != PHASES;
	machine_side_init(scene, 1 - scene->owner, true);
	begin_move(scene, from, to);
	if (side_wait_end(from) != MIG_COMPLETED && !is_broken) {
		struct mig_info info;

		assert_no_fault(scene);
		fail_msg("SEEDED_SEED=%lu: move %u: %s", scene->seed,
			 scene->number, side_error(from, &info));
	}
	if (is_broken)
		stay(scene, from, to);
	else
		arrive(scene, from, to);
}

/* ---- scenes ---- */

static void make_file(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, IMAGE_SIZE), 0);
	close(fd);
}

static void scene_init(struct scene *scene, const char *accel, uint64_t seed)
{
	*scene = (struct scene){ .seed = seed, .random = seed, .accel = accel };
	guest_init(seed);
	strcpy(scene->folder, "/tmp/godwit-seeded-XXXXXX");
	assert_non_null(mkdtemp(scene->folder));
	snprintf(scene->image, sizeof(scene->image), "%s/image", scene->folder);
	make_file(scene->image);
	snprintf(scene->served, sizeof(scene->served), "%s/user",
		 scene->folder);
	make_file(scene->served);
	for (unsigned int i = 0; i < SIDES; i++) {
		struct be_options options = BE_OPTIONS;

		snprintf(scene->sockets[i], sizeof(scene->sockets[i]),
			 "%s/socket%u", scene->folder, i);
		options.socket = scene->sockets[i];
		options.image = scene->served;
		options.queues = 2;
		assert_int_equal(be_start(&scene->back_ends[i], &options), 0);
	}
	machine_side_init(scene, 0, false);
	guest_find_devices(machine_memory(owner_of(scene)->machine));
	assert_int_equal(machine_start(owner_of(scene)->machine, NULL), 0);
	check_all(scene);
}

static void scene_fini(struct scene *scene)
{
	side_fini(owner_of(scene));
	for (unsigned int i = 0; i < SIDES; i++) {
		be_end(&scene->back_ends[i]);
		unlink(scene->sockets[i]);
	}
	unlink(scene->image);
	unlink(scene->served);
	rmdir(scene->folder);
}

static uint64_t number_from(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 10) : otherwise;
}

static void move_often(const char *accel, uint64_t seed, uint64_t moves,
		       uint64_t digests[GUEST_CPUS])
{
	struct scene scene;

	scene_init(&scene, accel, seed);
	for (scene.number = 1; scene.number <= moves; scene.number++)
		move(&scene);
	for (unsigned int i = 0; i < GUEST_CPUS; i++)
		digests[i] = guest.cpus[i].digest;
	scene_fini(&scene);
}

/* Nothing is left out: each change, in each phase. */
static void check_changes(void)
{
	for (unsigned int phase = 0; phase < PHASES; phase++) {
		for (unsigned int change = 0; change < CHANGES; change++) {
			uint64_t count = 0;

			for (unsigned int i = 0; i < GUEST_CPUS; i++)
				count += guest.cpus[i].changes[phase][change];
			if (!count)
				fail_msg("no change %u in phase %u", change,
					 phase);
		}
	}
}

static void
test_guest_that_changes_in_every_phase_arrives_as_it_is(void **state)
{
	static const char *const accels[] = {
		"sim,workload=seq",
		"sim,workload=seq,dirty=ring,ring-entries=1024,leaf=4K",
	};
	uint64_t seed = number_from("SEEDED_SEED", clock_real_ns() % 1000000);
	uint64_t moves = number_from("SEEDED_MOVES", MOVES);
	uint64_t digests[GUEST_CPUS];

	(void)state;
	print_message("SEEDED_SEED=%lu SEEDED_MOVES=%lu\n", seed, moves);
	for (unsigned int i = 0; i < array_size(accels); i++) {
		move_often(accels[i], seed + i, moves / array_size(accels),
			   digests);
		if (moves >= CHANGES_SEEN)
			check_changes();
	}
}

static void test_same_seed_makes_the_same_accesses(void **state)
{
	uint64_t first[GUEST_CPUS], second[GUEST_CPUS], other[GUEST_CPUS];

	(void)state;
	move_often("sim,workload=seq", 7, 8, first);
	move_often("sim,workload=seq", 7, 8, second);
	move_often("sim,workload=seq", 8, 8, other);
	assert_memory_equal(first, second, sizeof(first));
	assert_memory_not_equal(first, other, sizeof(first));
}

int main(void)
{
	const struct CMUnitTest moves[] = {
		cmocka_unit_test(
			test_guest_that_changes_in_every_phase_arrives_as_it_is),
	};
	const struct CMUnitTest seeds[] = {
		cmocka_unit_test(test_same_seed_makes_the_same_accesses),
	};
	int failed;

	/* GODWIT_TRACE for whoever looks for a fault */
	trace_enable(getenv("GODWIT_TRACE"));
	failed = cmocka_run_group_tests(moves, NULL, NULL);
	/* A guest whose test failed still runs. */
	return failed ? failed : cmocka_run_group_tests(seeds, NULL, NULL);
}
