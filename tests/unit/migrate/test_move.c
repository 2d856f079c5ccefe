// SPDX-License-Identifier: Apache-2.0
/*
 * Whole migrations in one process: the real source and the real destination,
 * both with machines of puppets, over a socket pair.  Under the thread
 * sanitizer it is this program that runs the migration's threads.
 */
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "migrate/stream.h"
#include "side.h"

int __real_machine_stop_backends(struct machine *machine, uint64_t deadline_ns,
				 struct err *err);
int __wrap_machine_stop_backends(struct machine *machine, uint64_t deadline_ns,
				 struct err *err);

/* A back end ends what it is doing: nothing is written after, but this is. */
int __wrap_machine_stop_backends(struct machine *machine, uint64_t deadline_ns,
				 struct err *err)
{
	puppet_device_write(machine);
	return __real_machine_stop_backends(machine, deadline_ns, err);
}

#define CPUS 3
/* Bytes a second: the guest writes all of its pages again meanwhile. */
#define SLOW (4u << 20)

static void start_source(struct side *source)
{
	side_start(source, CPUS, false);
	assert_int_equal(machine_start(source->machine, NULL), 0);
}

static void start_destination(struct side *destination)
{
	side_start(destination, CPUS, true);
}

static void pair_up(struct side *source, struct side *destination)
{
	int fds[2];

	assert_int_equal(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	side_receive(destination, fds[0]);
	side_send(source, fds[1]);
}

static uint64_t writes(void)
{
	return __atomic_load_n(&puppet_tally.writes, __ATOMIC_RELAXED);
}

static void wait_for_writes(uint64_t count)
{
	uint64_t since = writes();

	for (int i = 0; writes() - since < count; i++) {
		assert_true(i < SIDE_LIMIT_S * 1000);
		usleep(1000);
	}
}

static void assert_nothing_lost(void)
{
	assert_int_equal(
		__atomic_load_n(&puppet_tally.losses, __ATOMIC_RELAXED), 0);
}

static void assert_moved(struct side *source, struct side *destination)
{
	struct mig_info info;
	enum mig_state end = side_wait_end(source);

	if (end != MIG_COMPLETED)
		fail_msg("source %s: %s", mig_status(end),
			 side_error(source, &info));
	end = side_wait_end(destination);
	if (end != MIG_RUNNING)
		fail_msg("destination %s: %s", mig_status(end),
			 side_error(destination, &info));
	assert_int_equal(machine_run_state(source->machine),
			 RUN_STATE_POSTMIGRATE);
	assert_int_equal(machine_run_state(destination->machine),
			 RUN_STATE_RUNNING);
}

static void test_guest_that_writes_moves_five_times_whole(void **state)
{
	struct side sides[2];

	(void)state;
	start_source(&sides[0]);
	for (int i = 0; i < 5; i++) {
		struct side *from = &sides[i % 2], *to = &sides[(i + 1) % 2];
		const struct mig_caps caps = { .verify = i % 2,
					       .ram_checksum = i / 2 % 2,
					       .events = true };

		start_destination(to);
		assert_int_equal(mig_set_caps(from->mig, &caps, NULL), 0);
		wait_for_writes(2000);
		pair_up(from, to);
		assert_moved(from, to);
		side_fini(from);
	}
	wait_for_writes(2000);
	assert_nothing_lost();
	side_fini(&sides[1]);
	assert_nothing_lost();
}

/* To pages that were never touched before, the first time, and that are clean
 * the second time. */
static void test_lesson_what_stopping_and_saving_writes_is_sent(void **state)
{
	struct side sides[3];

	(void)state;
	start_source(&sides[0]);
	for (unsigned int i = 0; i < 2; i++) {
		struct machine *to;

		wait_for_writes(500);
		start_destination(&sides[i + 1]);
		to = sides[i + 1].machine;
		pair_up(&sides[i], &sides[i + 1]);
		assert_moved(&sides[i], &sides[i + 1]);
		assert_int_equal(puppet_last_word(to, PUPPET_DEVICES), i + 1);
		for (unsigned int cpu = 0; cpu < CPUS; cpu++)
			assert_int_equal(puppet_last_word(to, cpu), i + 1);
		side_fini(&sides[i]);
	}
	side_fini(&sides[2]);
	assert_nothing_lost();
}

static void test_two_machines_move_side_by_side(void **state)
{
	struct side sources[2], destinations[2];

	(void)state;
	for (int i = 0; i < 2; i++) {
		start_source(&sources[i]);
		start_destination(&destinations[i]);
	}
	wait_for_writes(2000);
	for (int i = 0; i < 2; i++)
		pair_up(&sources[i], &destinations[i]);
	for (int i = 0; i < 2; i++)
		assert_moved(&sources[i], &destinations[i]);
	wait_for_writes(2000);
	for (int i = 0; i < 2; i++) {
		side_fini(&sources[i]);
		side_fini(&destinations[i]);
	}
	assert_nothing_lost();
}

/* Whether the guest may be stopped: a pause of no time at all never fits. */
static void let_switch(struct side *side, bool may_switch)
{
	const struct mig_params params = {
		.max_bandwidth = may_switch ? 0 : SLOW,
		.downtime_limit_ms = may_switch ? 300 : 0,
	};

	assert_int_equal(mig_set_params(side->mig, &params, NULL), 0);
}

static void
test_cancelled_anywhere_the_guest_stays_and_moves_later(void **state)
{
	struct side sides[2];
	struct side *source = &sides[0], *destination = &sides[1];
	unsigned int cancelled = 0;

	(void)state;
	start_source(source);
	wait_for_writes(500);
	for (unsigned int i = 0; i < 24; i++) {
		struct mig_info info;
		enum mig_state end;

		start_destination(destination);
		let_switch(source, i % 4 == 0);
		pair_up(source, destination);
		wait_for_writes(1 + i * 40);
		mig_cancel(source->mig);
		end = side_wait_end(source);
		if (end == MIG_COMPLETED) {
			assert_moved(source, destination);
			side_fini(source);
			source = destination;
			destination = source == sides ? &sides[1] : sides;
			continue;
		}
		assert_int_equal(end, MIG_CANCELLED);
		assert_int_equal(machine_run_state(source->machine),
				 RUN_STATE_RUNNING);
		assert_int_equal(side_wait_end(destination), MIG_FAILED);
		assert_non_null(side_error(destination, &info));
		assert_int_equal(machine_run_state(destination->machine),
				 RUN_STATE_INMIGRATE);
		side_fini(destination);
		cancelled++;
	}
	assert_true(cancelled > 0);
	let_switch(source, true);
	start_destination(destination);
	pair_up(source, destination);
	assert_moved(source, destination);
	wait_for_writes(2000);
	side_fini(source);
	side_fini(destination);
	assert_nothing_lost();
}

static void
test_destination_that_gives_up_leaves_the_guest_to_the_source(void **state)
{
	struct side source, destination;

	(void)state;
	start_source(&source);
	wait_for_writes(500);
	for (unsigned int i = 0; i < 8; i++) {
		struct mig_info info;

		start_destination(&destination);
		let_switch(&source, false);
		pair_up(&source, &destination);
		side_wait(&destination, i % 2 ? MIG_RECEIVING : MIG_BUILDING);
		wait_for_writes(1 + i * 40);
		side_fini(&destination); /* with its migration under way */
		assert_int_equal(side_wait_end(&source), MIG_FAILED);
		assert_non_null(strstr(side_error(&source, &info), "stopped"));
		assert_int_equal(machine_run_state(source.machine),
				 RUN_STATE_RUNNING);
	}
	let_switch(&source, true);
	start_destination(&destination);
	pair_up(&source, &destination);
	assert_moved(&source, &destination);
	side_fini(&source);
	side_fini(&destination);
	assert_nothing_lost();
}

struct meddler {
	struct side *side;
	/* atomic */
	bool is_ending;
	unsigned int turns;
};

/* What QMP clients may do at any time. */
static void *meddle(void *opaque)
{
	struct meddler *meddler = opaque;
	struct side *side = meddler->side;

	while (!__atomic_load_n(&meddler->is_ending, __ATOMIC_ACQUIRE)) {
		unsigned int turn = __atomic_fetch_add(&meddler->turns, 1,
						       __ATOMIC_ACQ_REL);
		struct mig_params params;
		struct mig_info info;
		struct mig_caps caps;

		mig_query(side->mig, &info);
		mig_caps(side->mig, &caps);
		mig_params(side->mig, &params);
		params.max_bandwidth = turn % 3 ? 0 : 256u << 20;
		mig_set_params(side->mig, &params, NULL);
		machine_run_state(side->machine);
		if (turn % 8 == 0) {
			machine_stop(side->machine, NULL);
			machine_cont(side->machine, false, NULL);
		}
		usleep(100);
	}
	return NULL;
}

static void test_clients_may_ask_stop_and_go_while_it_moves(void **state)
{
	(void)state;
	for (int i = 0; i < 6; i++) {
		struct side source, destination;
		struct meddler meddler = { .side = &source };
		enum mig_state end;
		pthread_t thread;

		start_source(&source);
		start_destination(&destination);
		wait_for_writes(500);
		pthread_create(&thread, NULL, meddle, &meddler);
		while (!__atomic_load_n(&meddler.turns, __ATOMIC_ACQUIRE))
			usleep(100);
		pair_up(&source, &destination);
		end = side_wait_end(&source);
		__atomic_store_n(&meddler.is_ending, true, __ATOMIC_RELEASE);
		pthread_join(thread, NULL);
		assert_int_equal(end, MIG_COMPLETED);
		assert_int_equal(side_wait_end(&destination), MIG_RUNNING);
		side_fini(&source);
		side_fini(&destination);
	}
	assert_nothing_lost();
}

static void test_saved_guest_goes_on_here_and_where_it_is_restored(void **state)
{
	struct side source, destination;
	int fd = memfd_create("saved", MFD_CLOEXEC);

	(void)state;
	start_source(&source);
	wait_for_writes(500);
	side_send(&source, dup(fd));
	assert_int_equal(side_wait_end(&source), MIG_COMPLETED);
	assert_int_equal(machine_run_state(source.machine), RUN_STATE_PAUSED);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);

	start_destination(&destination);
	side_receive(&destination, fd);
	assert_int_equal(side_wait_end(&destination), MIG_RUNNING);
	assert_int_equal(machine_run_state(destination.machine),
			 RUN_STATE_RUNNING);
	wait_for_writes(500);
	assert_int_equal(machine_cont(source.machine, false, NULL), 0);
	wait_for_writes(500);
	side_fini(&source);
	side_fini(&destination);
	assert_nothing_lost();
}

/* ---- what the host refuses ---- */

static bool no_records, no_threads;

int __real_record_init(struct record *record, struct err *err);
int __wrap_record_init(struct record *record, struct err *err);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr,
			  void *(*start)(void *), void *opaque);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr,
			  void *(*start)(void *), void *opaque);

int __wrap_record_init(struct record *record, struct err *err)
{
	*record = (struct record){ .body = NULL };
	return no_records ? err_set(err, -ENOMEM, "no memory for records")
			  : __real_record_init(record, err);
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr,
			  void *(*start)(void *), void *opaque)
{
	return no_threads ? EAGAIN
			  : __real_pthread_create(thread, attr, start, opaque);
}

static void set_downtime_limit(struct side *side, uint64_t ms)
{
	const struct mig_params params = { .downtime_limit_ms = ms };

	assert_int_equal(mig_set_params(side->mig, &params, NULL), 0);
}

static void set_stuck(unsigned int vcpu)
{
	__atomic_store_n(&puppet_stuck, vcpu, __ATOMIC_RELEASE);
}

static void test_vcpu_inside_a_device_fails_the_move_in_time(void **state)
{
	struct side source, first, second;
	struct mig_info info;

	(void)state;
	start_source(&source);
	start_destination(&first);
	set_downtime_limit(&source, 0); /* rounds do not end */
	pair_up(&source, &first);
	side_wait(&first, MIG_RECEIVING);
	set_stuck(2);
	set_downtime_limit(&source, 1);
	assert_int_equal(side_wait_end(&source), MIG_FAILED);
	assert_non_null(
		strstr(side_error(&source, &info), "vCPU 1 does not stop"));
	assert_int_equal(machine_run_state(source.machine), RUN_STATE_RUNNING);
	wait_for_writes(2000);
	set_stuck(0);
	assert_int_equal(side_wait_end(&first), MIG_FAILED);
	side_fini(&first);

	set_downtime_limit(&source, 300);
	pthread_mutex_lock(&source.mutex);
	source.state = MIG_NONE;
	pthread_mutex_unlock(&source.mutex);
	start_destination(&second);
	pair_up(&source, &second);
	assert_moved(&source, &second);
	side_fini(&source);
	wait_for_writes(2000);
	assert_nothing_lost();
	side_fini(&second);
}

static void test_destination_without_memory_removes_its_socket(void **state)
{
	struct side destination;
	char path[64], uri[80];

	(void)state;
	snprintf(path, sizeof(path), "/tmp/godwit-move-%d", getpid());
	snprintf(uri, sizeof(uri), "unix:%s", path);
	start_destination(&destination);
	no_records = true;
	assert_int_equal(mig_incoming(destination.mig, uri, NULL), 0);
	assert_int_equal(side_wait_end(&destination), MIG_FAILED);
	no_records = false;
	side_fini(&destination);
	assert_int_equal(access(path, F_OK), -1);
}

/* What was to be broken in a migration that got no thread is not broken in the
 * next one. */
static void
test_migration_without_a_thread_leaves_nothing_to_break(void **state)
{
	struct side source, destination;

	(void)state;
	start_source(&source);
	start_destination(&destination);
	assert_int_equal(
		mig_set_fail(source.mig, "none-setup,action=stall", NULL), 0);
	no_threads = true;
	assert_int_equal(mig_start(source.mig, "unix:/nowhere", NULL), -EAGAIN);
	no_threads = false;
	assert_int_equal(side_wait_end(&source), MIG_FAILED);
	pthread_mutex_lock(&source.mutex);
	source.state = MIG_NONE;
	pthread_mutex_unlock(&source.mutex);
	pair_up(&source, &destination);
	assert_moved(&source, &destination);
	side_fini(&source);
	side_fini(&destination);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_guest_that_writes_moves_five_times_whole),
		cmocka_unit_test(
			test_lesson_what_stopping_and_saving_writes_is_sent),
		cmocka_unit_test(test_two_machines_move_side_by_side),
		cmocka_unit_test(
			test_cancelled_anywhere_the_guest_stays_and_moves_later),
		cmocka_unit_test(
			test_destination_that_gives_up_leaves_the_guest_to_the_source),
		cmocka_unit_test(
			test_clients_may_ask_stop_and_go_while_it_moves),
		cmocka_unit_test(
			test_saved_guest_goes_on_here_and_where_it_is_restored),
		cmocka_unit_test(
			test_vcpu_inside_a_device_fails_the_move_in_time),
		cmocka_unit_test(
			test_destination_without_memory_removes_its_socket),
		cmocka_unit_test(
			test_migration_without_a_thread_leaves_nothing_to_break),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
