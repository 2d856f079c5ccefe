// SPDX-License-Identifier: Apache-2.0
/*
 * Back ends that answer wrongly: each request that has a reply, with each fault of
 * back_end.h.  Whatever it is, the machine goes on: an error when the device is
 * built, a device that asks for a reset, or nothing at all; and when the back end
 * has come to its senses, the device works.
 */
#include <errno.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bed.h"
#include "vhost/conn.h"

/* A reply may be waited for so long, and there may be one more. */
#define PATIENCE_NS (12 * NS_PER_SEC)

/* When a request is made first. */
enum stage {
	AT_NEW,
	AT_START,
	AT_LOG,
	AT_STOP
};

enum answer {
	VALUE,
	ACK,
	NONE, /* those of a fence behind them */
};

static const struct {
	enum um_request request;
	enum stage stage;
	enum answer answer;
	unsigned int skip;
} requests[] = {
	{ UM_GET_FEATURES, AT_NEW, VALUE, 0 },
	{ UM_GET_PROTOCOL_FEATURES, AT_NEW, VALUE, 0 },
	{ UM_GET_QUEUE_NUM, AT_NEW, VALUE, 0 },
	{ UM_SET_BACKEND_REQ_FD, AT_NEW, ACK, 0 },
	{ UM_GET_CONFIG, AT_NEW, VALUE, 0 },
	{ UM_SET_MEM_TABLE, AT_NEW, ACK, 0 },
	{ UM_SET_FEATURES, AT_START, ACK, 0 },
	{ UM_GET_INFLIGHT_FD, AT_START, VALUE, 0 },
	{ UM_SET_INFLIGHT_FD, AT_START, ACK, 0 },
	{ UM_SET_VRING_NUM, AT_START, ACK, 0 },
	{ UM_SET_VRING_BASE, AT_START, NONE, 0 },
	{ UM_SET_VRING_ADDR, AT_START, NONE, 0 },
	{ UM_SET_VRING_CALL, AT_START, ACK, 0 },
	{ UM_SET_VRING_KICK, AT_START, NONE, 0 },
	{ UM_SET_VRING_ENABLE, AT_START, ACK, 0 },
	{ UM_GET_FEATURES, AT_START, VALUE, 1 }, /* a fence */
	{ UM_SET_LOG_BASE, AT_LOG, VALUE, 0 },
	{ UM_GET_VRING_BASE, AT_STOP, VALUE, 0 },
};

struct fixture {
	struct bed bed;
	struct back_end be;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	bed_init(&f->bed, false);
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

static void start(struct fixture *f, enum um_request request,
		  enum be_fault_kind kind)
{
	struct be_options options = BE_OPTIONS;

	options.socket = f->bed.socket;
	options.image = f->bed.image;
	options.queues = 2;
	options.fault = (struct be_fault){ .request = request,
					   .kind = kind,
					   .delay_ms = 20 };
	assert_int_equal(be_start(&f->be, &options), 0);
}

static bool write_once(struct bed *bed)
{
	return bed_do(bed, 0, VIRTIO_BLK_T_OUT, 0, BED_DATA, 4096);
}

/* The device works, with a reset if it asks for one. */
static void assert_recovers(struct bed *bed)
{
	if (!write_once(bed)) {
		assert_true(bed_needs_reset(bed));
		bed_reset(bed);
		bed_drive(bed);
		assert_true(write_once(bed));
	}
}

static void pause_and_run(struct bed *bed)
{
	vdev_pause_begin(bed->vdev);
	vdev_pause(bed->vdev, clock_mono_ns() + 100 * NS_PER_MS, NULL);
	vdev_run(bed->vdev);
}

/* All that a device does in its life, with a back end that fails once. */
static void live(struct fixture *f, enum stage stage, bool must_fail)
{
	struct bed *bed = &f->bed;
	struct err err = ERR_INIT;
	int ret = bed_disk_new(bed, 2, &err);

	if (ret) {
		assert_int_equal(stage, AT_NEW);
		if (strncmp(err_msg(&err), "disk0: ", 7))
			fail_msg("'%s'", err_msg(&err));
		return;
	}
	/* Replies to what is sent ahead are collected with those of the start. */
	bed_drive(bed);
	if (stage == AT_START && must_fail)
		assert_true(bed_needs_reset(bed));
	assert_recovers(bed);
	if (mem_log_global_start(bed->board.mem, NULL) == 0)
		mem_log_sync(bed->board.mem, false);
	mem_log_global_stop(bed->board.mem, 0);
	assert_recovers(bed);
	pause_and_run(bed);
	assert_recovers(bed);
	bed_disk_free(bed);
}

static bool applies(unsigned int i, enum be_fault_kind kind)
{
	/* Their limits are seconds: tested below.  This one is a thread. */
	if (kind == BE_SILENT || kind == BE_EXIT)
		return false;
	if (kind == BE_NO_FD || kind == BE_PLAIN_FD)
		return requests[i].request == UM_GET_INFLIGHT_FD;
	if (requests[i].answer == NONE)
		return kind == BE_GONE;
	return true;
}

static bool must_fail(unsigned int i, enum be_fault_kind kind)
{
	switch (kind) {
	case BE_RIGHT:
	case BE_LATE:
	case BE_TWICE: /* once all was answered, it is seen at the next request */
	case BE_GONE: /* it comes back */
	case BE_TORN:
		return false;
	case BE_REFUSED:
		return requests[i].answer == ACK;
	default:
		return true;
	}
}

static void test_wrong_replies_break_the_device_and_nothing_else(void **state)
{
	struct fixture *f = *state;

	for (unsigned int i = 0; i < array_size(requests); i++) {
		for (int kind = BE_RIGHT; kind < BE_KIND_COUNT; kind++) {
			uint64_t start_ns = clock_mono_ns();

			if (!applies(i, (enum be_fault_kind)kind))
				continue;
			start(f, requests[i].request, (enum be_fault_kind)kind);
			f->be.options.fault.skip = requests[i].skip;
			live(f, requests[i].stage,
			     must_fail(i, (enum be_fault_kind)kind));
			be_end(&f->be);
			if (clock_mono_ns() - start_ns > PATIENCE_NS)
				fail_msg("request %u, fault %d: too long",
					 requests[i].request, kind);
		}
	}
}

static void test_back_end_that_does_not_answer_is_given_up(void **state)
{
	static const unsigned int silent[] = { 0, 4, 12, 15 };
	struct fixture *f = *state;

	for (unsigned int i = 0; i < array_size(silent); i++) {
		uint64_t start_ns = clock_mono_ns();

		start(f, requests[silent[i]].request, BE_SILENT);
		f->be.options.fault.skip = requests[silent[i]].skip;
		/* Behind one that is acknowledged come other answers, which it gets.  That
		 * of the fence does not come: it is let go, and goes on. */
		live(f, requests[silent[i]].stage,
		     requests[silent[i]].answer == ACK);
		be_end(&f->be);
		assert_true(clock_mono_ns() - start_ns < PATIENCE_NS);
	}
}

static void
test_end_of_logging_does_not_wait_for_a_silent_back_end(void **state)
{
	struct fixture *f = *state;
	struct bed *bed = &f->bed;
	struct err err = ERR_INIT;
	uint64_t start_ns;

	start(f, UM_SET_FEATURES, BE_SILENT);
	f->be.options.fault.skip = 2; /* of the start, and of the log's */
	assert_int_equal(bed_disk_new(bed, 2, &err), 0);
	bed_drive(bed);
	assert_true(write_once(bed));
	assert_int_equal(mem_log_global_start(bed->board.mem, NULL), 0);
	start_ns = clock_mono_ns();
	mem_log_global_stop(bed->board.mem, 0);
	assert_true(clock_mono_ns() - start_ns < NS_PER_SEC);
	assert_true(write_once(bed));
	pause_and_run(bed);
	assert_recovers(bed);
	bed_disk_free(bed);
	be_end(&f->be);
}

static unsigned int connections(const struct fixture *f)
{
	return __atomic_load_n(&f->be.counts.connections, __ATOMIC_RELAXED);
}

static bool is_pausable(void *opaque)
{
	struct bed *bed = opaque;
	int ret = vdev_pause(bed->vdev, clock_mono_ns() + 10 * NS_PER_MS, NULL);

	vdev_run(bed->vdev);
	return !ret;
}

/* It is let go 5 s after it was asked to stop, and wakes up after 7. */
static void
test_back_end_that_was_let_go_has_no_successor_before_it_ends(void **state)
{
	struct fixture *f = *state;
	struct bed *bed = &f->bed;
	struct err err = ERR_INIT;

	start(f, UM_GET_VRING_BASE, BE_LATE);
	f->be.options.fault.delay_ms = 7000;
	assert_int_equal(bed_disk_new(bed, 1, &err), 0);
	bed_drive(bed);
	assert_true(write_once(bed));
	assert_false(is_pausable(bed));
	bed_wait_away(bed);
	assert_false(is_pausable(bed));
	assert_int_equal(connections(f), 1);
	assert_true(bed_until(is_pausable, bed));
	assert_false(bed_needs_reset(bed));
	assert_true(write_once(bed));
	assert_int_equal(connections(f), 2);
	bed_disk_free(bed);
	be_end(&f->be);
}

static void test_back_ends_that_lack_what_is_needed_are_refused(void **state)
{
	struct fixture *f = *state;
	struct be_options options = BE_OPTIONS;
	struct err err = ERR_INIT;

	options.socket = f->bed.socket;
	options.image = f->bed.image;
	options.has_config = false;
	assert_int_equal(be_start(&f->be, &options), 0);
	assert_int_equal(bed_disk_new(&f->bed, 1, &err), -ENOTSUP);
	assert_string_equal(err_msg(&err), "disk0: its back end has no "
					   "configuration to ask for");
	be_end(&f->be);
}

static void test_back_end_without_log_refuses_the_migration_only(void **state)
{
	struct fixture *f = *state;
	struct be_options options = BE_OPTIONS;
	struct err err = ERR_INIT;

	options.socket = f->bed.socket;
	options.image = f->bed.image;
	options.has_log = options.has_reply_ack = false;
	assert_int_equal(be_start(&f->be, &options), 0);
	assert_int_equal(bed_disk_new(&f->bed, 1, &err), 0);
	bed_drive(&f->bed);
	assert_true(write_once(&f->bed));
	assert_int_equal(mem_log_global_start(f->bed.board.mem, &err),
			 -ENOTSUP);
	assert_string_equal(err_msg(&err), "disk0: its back end cannot log "
					   "what it writes");
	assert_true(write_once(&f->bed));
	bed_disk_free(&f->bed);
	be_end(&f->be);
}

/* ---- one connection ---- */

struct wire {
	struct conn conn;
	int peer;
};

static void wire_open(struct wire *wire)
{
	int fds[2];

	assert_int_equal(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	conn_init(&wire->conn, "dev");
	conn_open(&wire->conn, fds[0]);
	wire->conn.has_ack = true;
	wire->peer = fds[1];
}

static void wire_close(struct wire *wire)
{
	conn_close(&wire->conn);
	close(wire->peer);
}

static uint64_t soon(void)
{
	return clock_mono_ns() + 20 * NS_PER_MS;
}

static void say_ack(struct wire *wire, uint32_t request, uint64_t value)
{
	const struct um_header head = { request, UM_VERSION | UM_REPLY, 8 };

	assert_int_equal(write(wire->peer, &head, sizeof(head)), 12);
	assert_int_equal(write(wire->peer, &value, sizeof(value)), 8);
}

static const struct conn_message some = { .request = UM_SET_VRING_NUM,
					  .reply = CONN_ACK };

static void test_reply_cut_by_a_deadline_is_taken_up_again(void **state)
{
	const struct um_header head = { UM_SET_VRING_NUM, UM_VERSION | UM_REPLY,
					8 };
	struct err err = ERR_INIT;
	uint8_t bytes[20] = { 0 };
	struct wire wire;

	(void)state;
	wire_open(&wire);
	memcpy(bytes, &head, sizeof(head));
	assert_int_equal(conn_send(&wire.conn, &some, soon(), &err), 0);
	for (unsigned int i = 0; i < sizeof(bytes); i++) {
		err_clear(&err);
		assert_int_equal(conn_settle(&wire.conn,
					     clock_mono_ns() + NS_PER_MS, &err),
				 -ETIMEDOUT);
		assert_int_equal(write(wire.peer, &bytes[i], 1), 1);
	}
	assert_int_equal(conn_settle(&wire.conn, soon(), &err), 0);
	wire_close(&wire);
}

static void test_what_nobody_asked_is_seen_at_the_next_request(void **state)
{
	struct err err = ERR_INIT;
	struct wire wire;

	(void)state;
	wire_open(&wire);
	assert_int_equal(conn_send(&wire.conn, &some, soon(), &err), 0);
	say_ack(&wire, UM_SET_VRING_NUM, 0);
	say_ack(&wire, UM_SET_VRING_NUM, 0);
	assert_int_equal(conn_settle(&wire.conn, soon(), &err), 0);
	assert_int_equal(conn_send(&wire.conn, &some, soon(), &err), -EBADMSG);
	assert_string_equal(err_msg(&err), "dev: its back end answers what "
					   "nobody asked");
	wire_close(&wire);
}

static void test_replies_under_way_are_bounded(void **state)
{
	struct err err = ERR_INIT;
	struct wire wire;
	unsigned int sent = 0;

	(void)state;
	wire_open(&wire);
	while (conn_send(&wire.conn, &some, soon(), &err) == 0)
		sent++;
	assert_int_equal(err.code, -ETIMEDOUT);
	assert_int_equal(sent, CONN_PENDING_MAX);
	wire_close(&wire);
}

static size_t drain(const struct wire *wire)
{
	uint8_t bytes[4096];
	size_t total = 0;
	ssize_t got;

	while ((got = recv(wire->peer, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0)
		total += (size_t)got;
	return total;
}

/* The peer reads nothing, until all that waits has no room. */
static void test_what_a_deadline_kept_back_goes_out_later(void **state)
{
	const struct um_state payload = { 1, 2 };
	const struct conn_message later = { .request = UM_SET_VRING_BASE,
					    .payload = &payload,
					    .size = sizeof(payload),
					    .may_wait = true };
	struct err err = ERR_INIT;
	struct wire wire;
	size_t sent = 0;

	(void)state;
	wire_open(&wire);
	while (conn_send(&wire.conn, &later, clock_mono_ns(), &err) == 0)
		sent += 20;
	assert_int_equal(err.code, -ETIMEDOUT);
	assert_true(wire.conn.out_size > 0);
	assert_int_equal(drain(&wire) + wire.conn.out_size, sent);
	sent = wire.conn.out_size;
	assert_int_equal(conn_send(&wire.conn, &later, soon(), NULL), 0);
	assert_int_equal(conn_settle(&wire.conn, soon(), NULL), 0);
	assert_int_equal(drain(&wire), sent + 20);
	wire_close(&wire);
}

static void test_base_of_another_ring_or_past_16_bits_is_refused(void **state)
{
	static const struct um_state states[] = { { 1, 5 }, { 2, 0x10000 } };
	const struct um_header head = { UM_GET_VRING_BASE,
					UM_VERSION | UM_REPLY, 8 };
	uint32_t base = 77;
	const struct conn_message ask = { .request = UM_GET_VRING_BASE,
					  .reply = CONN_BASE,
					  .index = 2,
					  .ret_base = &base };

	(void)state;
	for (unsigned int i = 0; i < array_size(states); i++) {
		struct err err = ERR_INIT;
		struct wire wire;

		wire_open(&wire);
		assert_int_equal(conn_send(&wire.conn, &ask, soon(), &err), 0);
		assert_int_equal(write(wire.peer, &head, 12), 12);
		assert_int_equal(write(wire.peer, &states[i], 8), 8);
		assert_int_equal(conn_settle(&wire.conn, soon(), &err),
				 -EBADMSG);
		assert_int_equal(base, 77);
		wire_close(&wire);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			test_reply_cut_by_a_deadline_is_taken_up_again),
		cmocka_unit_test(
			test_what_nobody_asked_is_seen_at_the_next_request),
		cmocka_unit_test(test_replies_under_way_are_bounded),
		cmocka_unit_test(test_what_a_deadline_kept_back_goes_out_later),
		cmocka_unit_test(
			test_base_of_another_ring_or_past_16_bits_is_refused),
		TEST(test_wrong_replies_break_the_device_and_nothing_else),
		TEST(test_back_end_that_does_not_answer_is_given_up),
		TEST(test_end_of_logging_does_not_wait_for_a_silent_back_end),
		TEST(test_back_end_that_was_let_go_has_no_successor_before_it_ends),
		TEST(test_back_ends_that_lack_what_is_needed_are_refused),
		TEST(test_back_end_without_log_refuses_the_migration_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
