/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small streams that load: what a source with a machine of puppets saves, and
 * what it and its destination say to each other.
 */
#ifndef GODWIT_TEST_MIGRATE_STREAM_RECORD_H
#define GODWIT_TEST_MIGRATE_STREAM_RECORD_H

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "mem/ram.h"
#include "side.h"
#include "stream_edit.h"

#define RECORD_CPUS   1
#define RECORD_WRITES 20

/* Stopped after a few writes, of which its memory holds nothing else: the
 * stream is short, says `paused`, and has runs of many lengths. */
static inline void record_start(struct side *source)
{
	uint64_t since =
		__atomic_load_n(&puppet_tally.writes, __ATOMIC_RELAXED);
	struct ram_block *block;

	side_start(source, RECORD_CPUS, false);
	block = ram_block_next(machine_mem(source->machine), NULL);
	assert_int_equal(fallocate(block->fd,
				   FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				   0, (off_t)block->size),
			 0);
	assert_int_equal(machine_start(source->machine, NULL), 0);
	while (__atomic_load_n(&puppet_tally.writes, __ATOMIC_RELAXED) - since <
	       RECORD_WRITES)
		usleep(100);
	assert_int_equal(machine_stop(source->machine, NULL), 0);
}

static inline void record_saved(struct text *ret_stream)
{
	struct side source;
	int fd = memfd_create("saved", MFD_CLOEXEC);

	record_start(&source);
	side_send(&source, dup(fd));
	assert_int_equal(side_wait_end(&source), MIG_COMPLETED);
	side_fini(&source);
	text_read(ret_stream, fd);
	close(fd);
}

/* Of a relay: flip byte @at of what the destination says, and from then on hang
 * up when nothing has come for a while: it may have made the source wait. */
struct record_flip {
	size_t at;
	uint8_t bits;
};
#define RECORD_PATIENCE_MS 300

/* What goes by, until both sides are done: texts[0] from @source.  @flip may be
 * NULL.  False: it hung up. */
static inline bool record_relay(int source, int destination,
				struct text *texts[2],
				const struct record_flip *flip)
{
	struct pollfd fds[2] = { { .fd = source, .events = POLLIN },
				 { .fd = destination, .events = POLLIN } };
	uint8_t buffer[4096];

	for (;;) {
		bool is_flipped = flip && flip->at < texts[1]->size;
		int ready = poll(fds, 2,
				 is_flipped ? RECORD_PATIENCE_MS
					    : SIDE_LIMIT_S * 1000);

		if (is_flipped && !ready)
			return false;
		assert_int_not_equal(ready, 0);
		for (int i = 0; i < 2; i++) {
			ssize_t size;

			if (!fds[i].revents)
				continue;
			size = read(fds[i].fd, buffer, sizeof(buffer));
			if (size <= 0)
				return true;
			if (flip && i == 1 && flip->at >= texts[1]->size &&
			    flip->at - texts[1]->size < (size_t)size)
				buffer[flip->at - texts[1]->size] ^= flip->bits;
			text_add(texts[i], buffer, (size_t)size);
			if (send(fds[!i].fd, buffer, (size_t)size,
				 MSG_NOSIGNAL) != size) {
				assert_non_null(flip);
				return true;
			}
		}
	}
}

/* Move a guest from one side to the other, with a relay between them. */
static inline bool record_move(struct side *source, struct side *destination,
			       struct text *texts[2],
			       const struct record_flip *flip)
{
	int near[2], far[2];
	bool is_over;

	record_start(source);
	side_start(destination, RECORD_CPUS, true);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, near), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, far), 0);
	side_receive(destination, far[0]);
	side_send(source, near[0]);
	is_over = record_relay(near[1], far[1], texts, flip);
	close(near[1]);
	close(far[1]);
	return is_over;
}

static inline void record_live(struct text *ret_stream,
			       struct text *ret_replies)
{
	struct text *texts[2] = { ret_stream, ret_replies };
	struct side source, destination;

	record_move(&source, &destination, texts, NULL);
	assert_int_equal(side_wait_end(&source), MIG_COMPLETED);
	assert_int_equal(side_wait_end(&destination), MIG_RUNNING);
	side_fini(&source);
	side_fini(&destination);
}

#endif
