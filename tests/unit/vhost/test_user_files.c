// SPDX-License-Identifier: Apache-2.0
/* Files that a back end sends which nobody wants: they are closed in the end, and if that
 * waits for a file system of the back end's, nobody waits with it. */
#include <dirent.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bed.h"

#define LIMIT_S    60               /* SIGALRM ends what would wait for ever */
#define IN_TIME_NS (4 * NS_PER_SEC) /* a reply's limit is later */

struct fixture {
	struct bed bed;
	struct back_end be;
	struct be_options options;
	unsigned int fds; /* at the beginning */
};

/* What closes BE_PLAIN_FILE waits at it while it is shut. */
static struct {
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	bool is_shut;
	unsigned int waiting;
} gate = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, 0 };

int __real_close(int fd);
int __wrap_close(int fd);

static bool is_plain_file(int fd)
{
	struct stat plain, stat;

	return !fstat(fd, &stat) && !lstat(BE_PLAIN_FILE, &plain) &&
	       stat.st_dev == plain.st_dev && stat.st_ino == plain.st_ino;
}

int __wrap_close(int fd)
{
	if (is_plain_file(fd)) {
		pthread_mutex_lock(&gate.mutex);
		gate.waiting++;
		while (gate.is_shut)
			pthread_cond_wait(&gate.changed, &gate.mutex);
		gate.waiting--;
		pthread_mutex_unlock(&gate.mutex);
	}
	return __real_close(fd);
}

static void set_gate(bool is_shut)
{
	pthread_mutex_lock(&gate.mutex);
	gate.is_shut = is_shut;
	pthread_cond_broadcast(&gate.changed);
	pthread_mutex_unlock(&gate.mutex);
}

static unsigned int waiting_at_gate(void)
{
	unsigned int waiting;

	pthread_mutex_lock(&gate.mutex);
	waiting = gate.waiting;
	pthread_mutex_unlock(&gate.mutex);
	return waiting;
}

static bool is_at_gate(void *opaque)
{
	(void)opaque;
	return waiting_at_gate() > 0;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	const struct be_options options = BE_OPTIONS;

	bed_init(&f->bed, false);
	f->options = options;
	f->options.socket = f->bed.socket;
	f->options.image = f->bed.image;
	alarm(LIMIT_S);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	bed_fini(&f->bed);
	alarm(0);
	free(f);
	return 0;
}

static void start(struct fixture *f, enum um_request request,
		  enum be_fault_kind kind)
{
	struct err err = ERR_INIT;

	f->options.fault.request = request;
	f->options.fault.kind = kind;
	assert_int_equal(be_start(&f->be, &f->options), 0);
	if (bed_disk_new(&f->bed, 1, &err))
		fail_msg("%s", err_msg(&err));
	bed_drive(&f->bed);
}

static void end(struct fixture *f)
{
	bed_disk_free(&f->bed);
	be_end(&f->be);
}

static bool works_after_reset(void *opaque)
{
	struct bed *bed = opaque;

	bed_reset(bed);
	bed_drive(bed);
	return bed_do(bed, 0, VIRTIO_BLK_T_OUT, 0, BED_DATA, 4096);
}

static unsigned int count_fds(void)
{
	DIR *folder = opendir("/proc/self/fd");
	unsigned int count = 0;

	assert_non_null(folder);
	while (readdir(folder))
		count++;
	closedir(folder);
	return count;
}

static bool has_no_more_fds(void *opaque)
{
	const struct fixture *f = opaque;

	return count_fds() <= f->fds;
}

static void test_files_that_are_refused_leave_no_fd_behind(void **state)
{
	static const struct {
		enum um_request request;
		enum be_fault_kind kind;
	} cases[] = {
		{ UM_GET_INFLIGHT_FD, BE_PLAIN_FD },
		{ UM_GET_INFLIGHT_FD, BE_WITH_FDS },
		{ UM_GET_INFLIGHT_FD, BE_SHORT },
		{ UM_SET_INFLIGHT_FD, BE_WITH_FDS },
		{ UM_SET_VRING_NUM, BE_WITH_FDS },
	};
	struct fixture *f = *state;

	start(f, UM_GET_INFLIGHT_FD, BE_RIGHT);
	end(f);
	f->fds =
		count_fds(); /* with what the first device of a machine makes */
	for (unsigned int i = 0; i < array_size(cases); i++) {
		start(f, cases[i].request, cases[i].kind);
		bed_wait_broken(&f->bed);
		assert_true(bed_until(works_after_reset, &f->bed));
		end(f);
		assert_true(bed_until(has_no_more_fds, f));
	}
}

static void test_file_that_is_never_closed_holds_up_nobody(void **state)
{
	struct fixture *f = *state;
	uint64_t start_ns = clock_mono_ns();

	set_gate(true);
	f->options.fault.again = 1;
	start(f, UM_GET_INFLIGHT_FD, BE_PLAIN_FD);
	assert_true(bed_until(is_at_gate, NULL));
	for (unsigned int i = 0; i < 3; i++) {
		bed_wait_broken(&f->bed);
		bed_reset(&f->bed);
		bed_drive(&f->bed);
	}
	vdev_pause_begin(f->bed.vdev);
	assert_int_equal(
		vdev_pause(f->bed.vdev, clock_mono_ns() + IN_TIME_NS, NULL), 0);
	vdev_run(f->bed.vdev);
	assert_true(clock_mono_ns() - start_ns < IN_TIME_NS);
	/* None is taken while there is one. */
	assert_int_equal(waiting_at_gate(), 1);
	set_gate(false);
	assert_true(bed_until(works_after_reset, &f->bed));
	end(f);
}

static void test_device_ends_while_its_file_is_being_closed(void **state)
{
	struct fixture *f = *state;
	uint64_t start_ns = clock_mono_ns();

	set_gate(true);
	start(f, UM_GET_INFLIGHT_FD, BE_PLAIN_FD);
	assert_true(bed_until(is_at_gate, NULL));
	bed_disk_free(&f->bed);
	assert_true(clock_mono_ns() - start_ns < IN_TIME_NS);
	assert_int_equal(waiting_at_gate(), 1);
	set_gate(false);
	be_end(&f->be);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_files_that_are_refused_leave_no_fd_behind),
		TEST(test_file_that_is_never_closed_holds_up_nobody),
		TEST(test_device_ends_while_its_file_is_being_closed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
