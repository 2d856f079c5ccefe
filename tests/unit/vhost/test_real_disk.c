// SPDX-License-Identifier: Apache-2.0
/* A vhost-user disk of qemu-storage-daemon, which keeps no record of requests. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "bed.h"

#define DAEMON "qemu-storage-daemon"

struct fixture {
	struct bed bed;
	pid_t pid; /* 0: there is none */
};

/* It binds the socket some time before it listens. */
static bool is_connected(void *opaque)
{
	struct fixture *f = opaque;

	return bed_disk_new(&f->bed, 2, NULL) == 0;
}

static void start(struct fixture *f)
{
	char blockdev[160], export[256];

	snprintf(blockdev, sizeof(blockdev),
		 "driver=file,node-name=f,filename=%s", f->bed.image);
	snprintf(export, sizeof(export),
		 "type=vhost-user-blk,id=e,node-name=f,writable=on,"
		 "num-queues=2,addr.type=unix,addr.path=%s",
		 f->bed.socket);
	unlink(f->bed.socket);
	f->pid = fork();
	if (f->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		int null = open("/dev/null", O_RDWR);

		if (!getenv("GODWIT_TRACE"))
			dup2(null, 2);
		execlp(DAEMON, DAEMON, "--blockdev", blockdev, "--export",
		       export, NULL);
		_exit(127);
	}
}

static void kill_daemon(struct fixture *f)
{
	kill(f->pid, SIGKILL);
	waitpid(f->pid, NULL, 0);
	f->pid = 0;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	bed_init(&f->bed, false);
	start(f);
	if (!bed_until(is_connected, f))
		fail_msg(DAEMON " does not start");
	bed_drive(&f->bed);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	bed_disk_free(&f->bed);
	if (f->pid)
		kill_daemon(f);
	bed_fini(&f->bed);
	free(f);
	return 0;
}

static void submit_writes(struct fixture *f, uint8_t byte)
{
	for (unsigned int i = 0; i < 20; i++) {
		memset(bed_at(&f->bed, BED_DATA + i * 4096), byte + (int)i,
		       4096);
		bed_submit(&f->bed, 0, VIRTIO_BLK_T_OUT, 8 * i,
			   BED_DATA + i * 4096, 4096);
	}
	bed_kick(&f->bed, 0);
}

static void assert_blocks(struct fixture *f, uint8_t byte)
{
	uint64_t gpa = BED_HIGH + 0x2000;

	for (unsigned int i = 0; i < 20; i++) {
		uint8_t wanted[4096];

		memset(wanted, byte + (int)i, sizeof(wanted));
		assert_true(
			bed_do(&f->bed, 1, VIRTIO_BLK_T_IN, 8 * i, gpa, 4096));
		assert_memory_equal(bed_at(&f->bed, gpa), wanted, 4096);
	}
}

static void test_blocks_are_written_and_read_on_two_queues(void **state)
{
	struct fixture *f = *state;

	for (unsigned int i = 0; i < 20; i++) {
		submit_writes(f, (uint8_t)i);
		assert_true(bed_wait(&f->bed, 0, 20));
		assert_blocks(f, (uint8_t)i);
	}
}

/* It does not wait for its requests by itself. */
static void test_a_pause_waits_for_requests_in_flight(void **state)
{
	struct fixture *f = *state;

	for (unsigned int i = 0; i < 50; i++) {
		submit_writes(f, (uint8_t)i);
		vdev_pause_begin(f->bed.vdev);
		assert_int_equal(vdev_pause(f->bed.vdev,
					    clock_mono_ns() + BED_LIMIT_NS,
					    NULL),
				 0);
		assert_int_equal(f->bed.vdev->queues[0].next_used,
				 f->bed.driver[0].next_avail);
		assert_true(bed_wait(&f->bed, 0, 20));
		vdev_run(f->bed.vdev);
	}
	assert_blocks(f, 49);
	assert_false(bed_needs_reset(&f->bed));
}

static void test_an_idle_daemon_may_be_restarted(void **state)
{
	struct fixture *f = *state;

	for (unsigned int i = 0; i < 3; i++) {
		submit_writes(f, (uint8_t)i);
		assert_true(bed_wait(&f->bed, 0, 20));
		kill_daemon(f);
		bed_wait_away(&f->bed);
		start(f);
		assert_blocks(f, (uint8_t)i);
	}
	assert_false(bed_needs_reset(&f->bed));
}

static void
test_daemon_killed_at_work_asks_for_a_reset_or_had_done_it(void **state)
{
	struct fixture *f = *state;
	unsigned int resets = 0;

	for (unsigned int i = 0; i < 5; i++) {
		kill(f->pid, SIGSTOP); /* so that something is in flight */
		submit_writes(f, (uint8_t)i);
		kill_daemon(f);
		start(f);
		if (!bed_wait(&f->bed, 0, 20)) {
			resets++;
			assert_true(bed_needs_reset(&f->bed));
			bed_reset(&f->bed);
			bed_drive(&f->bed);
			submit_writes(f, (uint8_t)i);
			assert_true(bed_wait(&f->bed, 0, 20));
		}
		assert_blocks(f, (uint8_t)i);
	}
	assert_int_equal(resets, 5);
}

static bool take_dirty(struct ram_block *block, uint64_t offset)
{
	bool is_dirty = bitmap_test(block->dirty, offset / 4096);

	bitmap_clear(block->dirty, 0, block->pages);
	return is_dirty;
}

static void test_what_the_daemon_writes_is_in_the_log(void **state)
{
	struct fixture *f = *state;

	submit_writes(f, 1);
	assert_true(bed_wait(&f->bed, 0, 20));
	assert_int_equal(mem_log_global_start(f->bed.board.mem, NULL), 0);
	for (unsigned int i = 0; i < 20; i++) {
		uint64_t at = 0x1000 * i;

		assert_true(bed_do(&f->bed, 1, VIRTIO_BLK_T_IN, 8 * i,
				   BED_HIGH + at, 4096));
		mem_log_sync(f->bed.board.mem, false);
		assert_true(bitmap_test(f->bed.low->dirty, 0x28)); /* used */
		assert_true(take_dirty(f->bed.high, at));
		bitmap_clear(f->bed.low->dirty, 0, f->bed.low->pages);
	}
	vdev_pause_begin(f->bed.vdev);
	assert_int_equal(vdev_pause(f->bed.vdev, UINT64_MAX, NULL), 0);
	mem_log_sync(f->bed.board.mem, true);
	vdev_run(f->bed.vdev);
	assert_true(bed_do(&f->bed, 1, VIRTIO_BLK_T_IN, 0, BED_HIGH, 4096));
	mem_log_sync(f->bed.board.mem, false);
	assert_true(take_dirty(f->bed.high, 0));
	mem_log_global_stop(f->bed.board.mem, 0);
	assert_true(bed_do(&f->bed, 1, VIRTIO_BLK_T_IN, 0, BED_HIGH, 4096));
	assert_false(take_dirty(f->bed.high, 0));
}

static void test_ram_moves_under_the_daemon(void **state)
{
	struct fixture *f = *state;

	for (unsigned int i = 0; i < 20; i++) {
		submit_writes(f, (uint8_t)i);
		mem_region_set_offset(f->bed.high_region,
				      BED_HIGH + (i % 2 ? 0 : 0x2000000));
		assert_true(bed_wait(&f->bed, 0, 20));
	}
	assert_blocks(f, 19);
	assert_false(bed_needs_reset(&f->bed));
}

struct writer {
	struct fixture *f;
	bool is_done;       /* atomic */
	unsigned int count; /* atomic: of requests that ended */
	unsigned int seen;  /* of them, by who moves the RAM */
	bool is_good;
};

/* At once: without a pause as bed_wait() has it. */
static bool take_one(struct bed *bed, unsigned int queue)
{
	uint64_t limit = clock_mono_ns() + BED_LIMIT_NS;
	uint32_t size;
	uint16_t head;

	while (!bed_take(bed, queue, &head, &size)) {
		if (clock_mono_ns() > limit)
			return false;
		sched_yield();
	}
	return true;
}

/* Never idle: as some of its requests end, it kicks for others. */
static void *write_on(void *opaque)
{
	struct writer *writer = opaque;
	struct bed *bed = &writer->f->bed;
	unsigned int left = 20000, under_way = 0;

	writer->is_good = true;
	while (writer->is_good && (left || under_way)) {
		for (; left && under_way < 16; under_way++, left--) {
			bed_submit(bed, 1, VIRTIO_BLK_T_OUT, 8 * (left % 100),
				   BED_DATA, 4096);
			bed_kick(bed, 1);
		}
		writer->is_good = take_one(bed, 1);
		under_way--;
		__atomic_fetch_add(&writer->count, 1, __ATOMIC_RELEASE);
	}
	__atomic_store_n(&writer->is_done, true, __ATOMIC_RELEASE);
	return NULL;
}

static bool has_gone_on(void *opaque)
{
	struct writer *writer = opaque;
	unsigned int count = __atomic_load_n(&writer->count, __ATOMIC_ACQUIRE);

	if (count == writer->seen)
		return __atomic_load_n(&writer->is_done, __ATOMIC_ACQUIRE);
	writer->seen = count;
	return true;
}

/* As it finishes what it took, version 7.2 does not survive a kick for more. */
static void test_ram_moves_while_the_driver_kicks(void **state)
{
	struct fixture *f = *state;
	struct writer writer = { .f = f };
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, write_on, &writer), 0);
	for (unsigned int i = 0;
	     !__atomic_load_n(&writer.is_done, __ATOMIC_ACQUIRE) &&
	     bed_until(has_gone_on, &writer);
	     i++)
		mem_region_set_offset(f->bed.high_region,
				      BED_HIGH + (i % 2 ? 0 : 0x2000000));
	pthread_join(thread, NULL);
	assert_true(writer.is_good);
	assert_int_equal(waitpid(f->pid, NULL, WNOHANG), 0); /* it lives */
}

/* It is let go for what goes, since it does not wait for its requests, and is told
 * anew; of what comes it is told while it works. */
static void test_ram_that_comes_leaves_the_daemon_at_work(void **state)
{
	struct fixture *f = *state;
	struct vh_counts before, after;

	vh_board_counts(f->bed.vhost, VH_USER, &before);
	for (unsigned int i = 0; i < 20; i++) {
		mem_region_set_enabled(f->bed.high_region, false);
		submit_writes(f, (uint8_t)i);
		assert_true(bed_wait(&f->bed, 0, 20));
		submit_writes(f, (uint8_t)i);
		mem_region_set_enabled(f->bed.high_region, true);
		assert_true(bed_wait(&f->bed, 0, 20));
		assert_blocks(f, (uint8_t)i); /* into what came */
	}
	vh_board_counts(f->bed.vhost, VH_USER, &after);
	/* Low when it came back, and high. */
	assert_int_equal(after.regions_added - before.regions_added, 20 * 2);
	assert_int_equal(after.regions_removed, 0);
	assert_false(bed_needs_reset(&f->bed));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_blocks_are_written_and_read_on_two_queues),
		TEST(test_a_pause_waits_for_requests_in_flight),
		TEST(test_an_idle_daemon_may_be_restarted),
		TEST(test_daemon_killed_at_work_asks_for_a_reset_or_had_done_it),
		TEST(test_what_the_daemon_writes_is_in_the_log),
		TEST(test_ram_moves_under_the_daemon),
		TEST(test_ram_moves_while_the_driver_kicks),
		TEST(test_ram_that_comes_leaves_the_daemon_at_work),
	};

	if (system("command -v " DAEMON " >/dev/null") != 0) {
		printf("skipped: there is no " DAEMON "\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
