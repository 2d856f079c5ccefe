// SPDX-License-Identifier: Apache-2.0
/*
 * The whole source, with a machine, and a destination that says what it likes.
 * The first byte chooses: bit 0, whether the guest ran; bit 7, whether checksums
 * are made right.  Then come pieces, each behind its length (u16): one for each
 * record of the source that a destination answers, and the last one before the
 * link ends.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "migrate/side.h"
#include "migrate/stream.h"
#include "migrate/stream_edit.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define IS_RUNNING 0x01
#define REPAIRED   0x80

/* After this the source waits for more than it was told. */
#define PATIENCE_NS (20 * NS_PER_MS)

struct liar {
	int fd;
	bool is_repaired;
	struct bytes_reader input;
	bool has_seen_go;
};

static void repair(struct text *text)
{
	struct span span = { .end = 0 };

	while (span_at(text, span.end, &span))
		span_repair(text, &span);
}

/* False at the end of the input, or of the link. */
static bool say_next(struct liar *liar)
{
	uint16_t size = bytes_take_u16(&liar->input);
	struct text text = { .bytes = NULL };
	bool is_said;

	if (liar->input.is_short)
		return false;
	if (size > bytes_left(&liar->input))
		size = (uint16_t)bytes_left(&liar->input);
	if (!size)
		return false;
	text_add(&text, bytes_take(&liar->input, size), size);
	if (liar->is_repaired)
		repair(&text);
	is_said = send(liar->fd, text.bytes, text.size,
		       MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)text.size;
	text_fini(&text);
	return is_said;
}

static bool is_answered(uint32_t type)
{
	return type == FMT_SETUP_END || type == FMT_ROUND || type == FMT_END ||
	       type == FMT_GO;
}

/* RAM is read past by the piece. */
static bool skip_pages(struct channel *channel, const struct record *record)
{
	size_t left = align_up((size_t)record->length, 8) - record->fixed;
	uint8_t buffer[4096];

	while (left) {
		size_t size = left < sizeof(buffer) ? left : sizeof(buffer);

		if (channel_recv_bytes(channel, buffer, size, NULL))
			return false;
		left -= size;
	}
	return true;
}

/* Read a record of the source; an error when it has none more, -ETIMEDOUT while
 * it waits for an answer. */
static int listen_once(struct liar *liar, struct channel *channel,
		       struct record *record)
{
	int ret;

	channel->deadline_ns = clock_mono_ns() + PATIENCE_NS;
	ret = record_recv(channel, record, NULL);
	if (!ret && record->type == FMT_RAM && !skip_pages(channel, record))
		return -EBADMSG;
	if (!ret && record->type == FMT_GO)
		liar->has_seen_go = true;
	return ret;
}

static void *lie(void *opaque)
{
	struct liar *liar = opaque;
	struct channel channel = { .fd = liar->fd, .stop_fd = -1 };
	struct fmt_header header;
	struct record record;
	int ret;

	must(record_init(&record, NULL) == 0);
	ret = stream_read_header(&channel, &header, NULL);
	while (!ret || ret == -ETIMEDOUT) {
		if ((ret || is_answered(record.type)) && !say_next(liar))
			break;
		ret = listen_once(liar, &channel, &record);
	}
	shutdown(liar->fd, SHUT_RDWR);
	record_fini(&record);
	return NULL;
}

static void judge(struct side *side, enum mig_state end, bool was_running,
		  const struct liar *liar)
{
	enum run_state now = machine_run_state(side->machine);
	struct mig_info info;

	if (end == MIG_COMPLETED) {
		must(now == RUN_STATE_POSTMIGRATE);
		must(liar->has_seen_go);
		return;
	}
	must(end == MIG_FAILED);
	must(*side_error(side, &info));
	/* After GO nobody but the destination; before it, as if nothing had
	 * been.  (GO may be under way when the link ends.) */
	if (now != RUN_STATE_HANDED_OVER) {
		must(!liar->has_seen_go);
		must(now ==
		     (was_running ? RUN_STATE_RUNNING : RUN_STATE_PAUSED));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct liar liar = { .fd = -1 };
	pthread_t thread;
	struct side side;
	bool was_running;
	int fds[2];

	if (!size)
		return 0;
	was_running = data[0] & IS_RUNNING;
	liar.is_repaired = data[0] & REPAIRED;
	liar.input = bytes_read(data + 1, size - 1);
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
	liar.fd = fds[1];
	fcntl(liar.fd, F_SETFL, O_NONBLOCK); /* for the deadline */
	side_start(&side, 1, false);
	must(machine_start(side.machine, NULL) == 0);
	if (!was_running)
		must(machine_stop(side.machine, NULL) == 0);
	must(pthread_create(&thread, NULL, lie, &liar) == 0);
	side_send(&side, fds[0]);
	side_wait_end(&side);
	pthread_join(thread, NULL);
	judge(&side, side_wait_end(&side), was_running, &liar);
	side_fini(&side);
	close(liar.fd);
	return 0;
}
