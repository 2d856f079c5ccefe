// SPDX-License-Identifier: Apache-2.0
/* Back ends that went: how often they are looked for, and who is taken for the one that
 * comes back. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/err.h"
#include "bed.h"
#include "vhost/user_priv.h"

/* At pauses that double from 1 ms on there are 9 in that time. */
#define LOOK_MS   500
#define LOOKS_MAX 20

struct fixture {
	struct bed bed;
	struct back_end be;
	struct be_options options;
};

/* There is one thread that connects. */
static struct {
	unsigned int connects; /* atomic */
	bool is_nobody_there;  /* atomic */
} door;

int __real_conn_connect(struct conn *conn, const char *path, struct err *err);
int __wrap_conn_connect(struct conn *conn, const char *path, struct err *err);

int __wrap_conn_connect(struct conn *conn, const char *path, struct err *err)
{
	__atomic_fetch_add(&door.connects, 1, __ATOMIC_RELAXED);
	if (__atomic_load_n(&door.is_nobody_there, __ATOMIC_ACQUIRE))
		return err_set(err, -ECONNREFUSED, "nobody is there");
	return __real_conn_connect(conn, path, err);
}

static void set_nobody_there(bool is_nobody_there)
{
	__atomic_store_n(&door.is_nobody_there, is_nobody_there,
			 __ATOMIC_RELEASE);
}

static unsigned int connects(void)
{
	return __atomic_load_n(&door.connects, __ATOMIC_RELAXED);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	const struct be_options options = BE_OPTIONS;

	bed_init(&f->bed, false);
	f->options = options;
	f->options.socket = f->bed.socket;
	f->options.image = f->bed.image;
	f->options.has_inflight = false;
	set_nobody_there(false);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	bed_fini(&f->bed);
	free(f);
	return 0;
}

static void disk(struct fixture *f)
{
	struct err err = ERR_INIT;

	if (bed_disk_new(&f->bed, 1, &err))
		fail_msg("%s", err_msg(&err));
	bed_drive(&f->bed);
}

/* RAM moves while it has a request, which it is let go to finish. */
static void part_with_one(struct fixture *f)
{
	bed_submit(&f->bed, 0, VIRTIO_BLK_T_OUT, 0, BED_DATA, 4096);
	bed_kick(&f->bed, 0);
	mem_region_set_offset(f->bed.high_region, BED_HIGH + 0x2000000);
}

static void
test_one_that_finishes_and_stays_away_is_looked_for_rarely(void **state)
{
	struct fixture *f = *state;
	unsigned int before;

	assert_int_equal(be_start(&f->be, &f->options), 0);
	disk(f);
	be_hold(&f->be, true);
	set_nobody_there(true);
	before = connects();
	part_with_one(f);
	poll(NULL, 0, LOOK_MS); /* for what it is not to do */
	assert_in_range(connects() - before, 1, LOOKS_MAX);
	be_hold(&f->be, false);
	set_nobody_there(false);
	assert_true(bed_wait(&f->bed, 0, 1));
	assert_false(bed_needs_reset(&f->bed));
	bed_disk_free(&f->bed);
	be_end(&f->be);
}

/* ---- who is a stranger ---- */

#define RECORDS (1ull << UM_PROTOCOL_INFLIGHT_SHMFD)

static void test_process_that_finished_is_told_by_its_number(void **state)
{
	static const struct {
		pid_t was, is;
		bool is_stranger;
	} cases[] = {
		{ 7, 7, false }, { 7, 8, true }, { 7, 0, true },
		{ 0, 7, true },  { 0, 0, true }, /* of another name space */
	};

	(void)state;
	for (unsigned int i = 0; i < array_size(cases); i++) {
		struct vh_user user = { .dev = { .is_parted = true },
					.peer = cases[i].was };
		const struct session session = {
			.conn = { .peer = cases[i].is }
		};

		assert_int_equal(session_is_stranger(&session, &user),
				 cases[i].is_stranger);
	}
}

static void test_record_is_good_for_any_process_that_knows_records(void **state)
{
	struct vh_user user = { .dev = { .has_inflight = true }, .peer = 7 };
	struct session session = { .protocol = RECORDS };

	(void)state;
	assert_false(session_is_stranger(&session, &user));
	session.protocol = 0;
	assert_true(session_is_stranger(&session, &user));
	user.dev.has_inflight = false;
	assert_false(session_is_stranger(&session, &user));
}

/* ---- behind a listener of somebody else's ---- */

static void serve_alone(struct back_end *be, bool is_held)
{
	pid_t pid = fork();

	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		__atomic_store_n(&be->is_held, is_held, __ATOMIC_RELEASE);
		be_serve(be);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, NULL, 0) != pid)
		_exit(1);
}

/* As a service manager does: one process listens, and others accept, one after the
 * other.  The first leaves all requests where they are. */
static pid_t launch(struct fixture *f)
{
	pid_t pid;

	f->options.is_single = true;
	assert_int_equal(be_open(&f->be, &f->options), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	serve_alone(&f->be, true);
	serve_alone(&f->be, false);
	_exit(0);
}

static void test_next_process_behind_one_listener_is_a_stranger(void **state)
{
	struct fixture *f = *state;
	pid_t pid = launch(f);
	int status = -1;

	disk(f);
	part_with_one(f);
	bed_wait_broken(&f->bed);
	bed_reset(&f->bed);
	bed_drive(&f->bed);
	assert_true(bed_do(&f->bed, 0, VIRTIO_BLK_T_OUT, 0, BED_DATA, 4096));
	bed_disk_free(&f->bed);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	be_close(&f->be);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_one_that_finishes_and_stays_away_is_looked_for_rarely),
		TEST(test_next_process_behind_one_listener_is_a_stranger),
		cmocka_unit_test(
			test_process_that_finished_is_told_by_its_number),
		cmocka_unit_test(
			test_record_is_good_for_any_process_that_knows_records),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
