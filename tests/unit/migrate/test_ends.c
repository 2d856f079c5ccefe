// SPDX-License-Identifier: Apache-2.0
/*
 * What a source has done by the time it says that its migration is over.  From
 * then on another one may be asked for, and whoever asks waits for this one's
 * thread with the lock of struct mig in hand: what needs that lock, or must not
 * meet the next migration's, comes before.
 */
#include <cmocka.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <unistd.h>

#include "migrate/ram_watch.h"
#include "side.h"

void __real_ram_watch_stop(struct ram_watch *watch, uint64_t grace_ns);
void __wrap_ram_watch_stop(struct ram_watch *watch, uint64_t grace_ns);

/* Ends of logging at one source; all atomic. */
static struct {
	struct mig *mig; /* borrowed: whose state is looked at */
	unsigned int stops, late;
} seen;

void __wrap_ram_watch_stop(struct ram_watch *watch, uint64_t grace_ns)
{
	struct mig *mig = __atomic_load_n(&seen.mig, __ATOMIC_ACQUIRE);
	struct mig_info info;

	if (mig) {
		mig_query(mig, &info);
		__atomic_add_fetch(&seen.late, side_is_at_end(info.state),
				   __ATOMIC_RELAXED);
		__atomic_add_fetch(&seen.stops, 1, __ATOMIC_RELEASE);
	}
	__real_ram_watch_stop(watch, grace_ns);
}

/* A move under way whose rounds never end, if it may not @switch. */
static void begin(struct side *source, struct side *destination,
		  bool may_switch)
{
	const struct mig_params params = {
		.downtime_limit_ms = may_switch ? 300 : 0,
	};
	int fds[2];

	side_start(source, 1, false);
	assert_int_equal(machine_start(source->machine, NULL), 0);
	side_start(destination, 1, true);
	assert_int_equal(mig_set_params(source->mig, &params, NULL), 0);
	__atomic_store_n(&seen.stops, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&seen.late, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&seen.mig, source->mig, __ATOMIC_RELEASE);
	assert_int_equal(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	side_receive(destination, fds[0]);
	side_send(source, fds[1]);
}

static void assert_log_is_stopped(struct side *source, enum mig_state end)
{
	assert_int_equal(side_wait_end(source), end);
	assert_int_equal(__atomic_load_n(&seen.stops, __ATOMIC_ACQUIRE), 1);
	assert_int_equal(__atomic_load_n(&seen.late, __ATOMIC_RELAXED), 0);
	__atomic_store_n(&seen.mig, NULL, __ATOMIC_RELEASE);
}

static void test_log_is_stopped_before_a_move_is_completed(void **state)
{
	struct side source, destination;

	(void)state;
	begin(&source, &destination, true);
	assert_log_is_stopped(&source, MIG_COMPLETED);
	assert_int_equal(side_wait_end(&destination), MIG_RUNNING);
	side_fini(&source);
	side_fini(&destination);
}

static void test_log_is_stopped_before_a_move_is_cancelled(void **state)
{
	struct side source, destination;

	(void)state;
	begin(&source, &destination, false);
	side_wait(&destination, MIG_RECEIVING);
	mig_cancel(source.mig);
	assert_log_is_stopped(&source, MIG_CANCELLED);
	side_fini(&source);
	side_fini(&destination);
}

static void test_log_is_stopped_before_a_move_has_failed(void **state)
{
	struct side source, destination;

	(void)state;
	begin(&source, &destination, false);
	side_wait(&destination, MIG_RECEIVING);
	side_fini(&destination);
	assert_log_is_stopped(&source, MIG_FAILED);
	side_fini(&source);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			test_log_is_stopped_before_a_move_is_completed),
		cmocka_unit_test(
			test_log_is_stopped_before_a_move_is_cancelled),
		cmocka_unit_test(test_log_is_stopped_before_a_move_has_failed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
