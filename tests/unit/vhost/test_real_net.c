// SPDX-License-Identifier: Apache-2.0
/*
 * A vhost-user network device of DPDK's testpmd, which sends back what it gets.  Each
 * frame has a number; what comes back is compared.
 */
#include <fcntl.h>
#include <linux/virtio_net.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "bed.h"

#define PROGRAM "dpdk-testpmd"

#define HEADER   12u /* struct virtio_net_hdr_v1 */
#define FRAME    (HEADER + 64u)
#define BUFFER   2048u
#define BUFFERS  32u
#define RX_AT(n) (BED_HIGH + 0x1000ull * (n))
#define TX_AT(n) (BED_DATA + 0x1000ull * (n))

struct fixture {
	struct bed bed;
	pid_t pid;
	uint32_t heads[2][BED_QUEUE]; /* buffer by head, of the pairs' RX */
	uint32_t next;                /* number of a frame */
};

/* It binds the socket some time before it listens. */
static bool is_connected(void *opaque)
{
	struct fixture *f = opaque;

	return access(f->bed.socket, F_OK) == 0 &&
	       bed_net_new(&f->bed, 2, NULL) == 0;
}

static void start(struct fixture *f)
{
	char device[160], prefix[96];
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	const char *arguments[] = { PROGRAM,
				    "--no-huge",
				    "-m",
				    "256",
				    "--no-pci",
				    "--no-telemetry",
				    "-l",
				    "0,1",
				    "--file-prefix",
				    prefix,
				    "--vdev",
				    device,
				    "--",
				    "--rxq=2",
				    "--txq=2",
				    "--total-num-mbufs=4096",
				    "--forward-mode=io",
				    "--auto-start",
				    "--nb-cores=1",
				    "--stats-period=1000",
				    NULL };

	snprintf(device, sizeof(device), "net_vhost0,iface=%s,queues=2",
		 f->bed.socket);
	snprintf(prefix, sizeof(prefix), "godwit-%d", (int)getpid());
	unlink(f->bed.socket);
	f->pid = fork();
	if (f->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(null, 0);
		if (!getenv("GODWIT_TRACE")) {
			dup2(null, 1);
			dup2(null, 2);
		}
		execvp(PROGRAM, (char *const *)(uintptr_t)arguments);
		_exit(127);
	}
	close(null);
}

static void kill_program(struct fixture *f)
{
	kill(f->pid, SIGKILL);
	waitpid(f->pid, NULL, 0);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	bed_init(&f->bed, false);
	start(f);
	if (!bed_until(is_connected, f))
		fail_msg(PROGRAM " does not start");
	bed_drive(&f->bed);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	bed_disk_free(&f->bed);
	kill_program(f);
	bed_fini(&f->bed);
	free(f);
	return 0;
}

static void give_buffer(struct fixture *f, unsigned int pair, uint32_t buffer)
{
	const struct bed_part part = { RX_AT(buffer), BUFFER, true };
	uint16_t head = bed_add(&f->bed, 2 * pair, &part, 1);

	f->heads[pair][head] = buffer;
}

/* One half of them to each pair. */
static void give_buffers(struct fixture *f, unsigned int pair)
{
	for (unsigned int i = 0; i < BUFFERS; i++)
		give_buffer(f, pair, pair * BUFFERS + i);
	bed_kick(&f->bed, 2 * pair);
}

static void send_frame(struct fixture *f, unsigned int pair)
{
	uint32_t number = f->next++;
	uint64_t at = TX_AT(number % 64);
	uint8_t *bytes = bed_at(&f->bed, at);
	const struct bed_part part = { at, FRAME, false };

	memset(bytes, 0, FRAME);
	memset(bytes + HEADER, 0x52, 12);
	bytes[HEADER + 12] = 0x88; /* an EtherType for experiments */
	bytes[HEADER + 13] = 0xb5;
	memcpy(bytes + HEADER + 14, &number, sizeof(number));
	bed_add(&f->bed, 2 * pair + 1, &part, 1);
	bed_kick(&f->bed, 2 * pair + 1);
}

/* The number of a frame that came; -1: none. */
static int64_t receive(struct fixture *f, unsigned int pair)
{
	uint32_t size, number, buffer;
	uint16_t head;

	if (!bed_take(&f->bed, 2 * pair, &head, &size))
		return -1;
	buffer = f->heads[pair][head];
	assert_int_equal(size, FRAME);
	memcpy(&number, (uint8_t *)bed_at(&f->bed, RX_AT(buffer)) + HEADER + 14,
	       sizeof(number));
	give_buffer(f, pair, buffer);
	bed_kick(&f->bed, 2 * pair);
	return number;
}

/* Send one, and have it back; others that were under way may come first. */
static bool echo(struct fixture *f, unsigned int pair, unsigned int limit_ms)
{
	uint64_t limit = clock_mono_ns() + limit_ms * NS_PER_MS;
	uint32_t wanted = f->next, size;
	uint16_t head;

	send_frame(f, pair);
	while (clock_mono_ns() < limit) {
		if (receive(f, pair) == wanted) {
			while (bed_take(&f->bed, 2 * pair + 1, &head, &size))
				continue;
			return true;
		}
		poll(NULL, 0, 1);
	}
	return false;
}

/* As its ports come up, testpmd drops what it gets. */
static void echo_first(struct fixture *f, unsigned int pair)
{
	for (int i = 0; i < 40; i++) {
		if (echo(f, pair, 500))
			return;
	}
	fail_msg("nothing comes back");
}

static void set_pairs(struct fixture *f, uint16_t pairs)
{
	bed_begin_pairs(&f->bed, pairs);
	assert_true(bed_until(bed_has_answer, &f->bed));
	assert_int_equal(f->bed.answer, VIRTIO_NET_OK);
}

static void test_frames_come_back_on_one_pair_and_on_two(void **state)
{
	struct fixture *f = *state;

	give_buffers(f, 0);
	echo_first(f, 0);
	for (unsigned int i = 0; i < 200; i++)
		assert_true(echo(f, 0, 5000));
	set_pairs(f, 2);
	give_buffers(f, 1);
	echo_first(f, 1);
	for (unsigned int i = 0; i < 200; i++)
		assert_true(echo(f, i % 2, 5000));
	set_pairs(f, 1);
	echo_first(f, 0);
	set_pairs(f, 2);
	echo_first(f, 1);
}

static void test_pauses_and_logging_lose_no_page(void **state)
{
	struct fixture *f = *state;
	uint64_t high_pages;

	give_buffers(f, 0);
	echo_first(f, 0);
	high_pages = f->bed.high->pages;
	for (unsigned int i = 0; i < 10; i++) {
		assert_int_equal(mem_log_global_start(f->bed.board.mem, NULL),
				 0);
		bitmap_clear(f->bed.high->dirty, 0, high_pages);
		for (unsigned int k = 0; k < BUFFERS; k++)
			assert_true(echo(f, 0, 5000));
		vdev_pause_begin(f->bed.vdev);
		assert_int_equal(vdev_pause(f->bed.vdev,
					    clock_mono_ns() + NS_PER_SEC, NULL),
				 0);
		mem_log_sync(f->bed.board.mem, true);
		for (unsigned int k = 0; k < BUFFERS; k++)
			assert_true(bitmap_test(f->bed.high->dirty, k));
		assert_false(bitmap_test(f->bed.high->dirty, BUFFERS));
		vdev_run(f->bed.vdev);
		mem_log_global_stop(f->bed.board.mem, 0);
		assert_true(echo(f, 0, 5000));
	}
}

static void test_device_goes_on_with_a_program_that_was_restarted(void **state)
{
	struct fixture *f = *state;

	give_buffers(f, 0);
	echo_first(f, 0);
	kill_program(f);
	start(f);
	echo_first(f, 0);
	assert_false(bed_needs_reset(&f->bed));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_frames_come_back_on_one_pair_and_on_two),
		TEST(test_pauses_and_logging_lose_no_page),
		TEST(test_device_goes_on_with_a_program_that_was_restarted),
	};

	if (system("command -v " PROGRAM " >/dev/null") != 0) {
		printf("skipped: there is no " PROGRAM "\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
