// SPDX-License-Identifier: Apache-2.0
/*
 * The whole destination, with a machine, reads a hostile stream.  The first
 * byte chooses how: bit 0, over a socket or from a file; bit 7, with checksums
 * made right first, so that what is behind them is reached.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "migrate/side.h"
#include "migrate/stream_edit.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define OVER_SOCKET 0x01
#define REPAIRED    0x80

/* A hang-up in the end, so that nothing waits for more. */
static int open_stream(const struct text *text, bool is_socket, int *ret_near)
{
	int fds[2];

	*ret_near = -1;
	if (!is_socket) {
		fds[0] = memfd_create("stream", MFD_CLOEXEC);
		must(pwrite(fds[0], text->bytes, text->size, 0) ==
		     (ssize_t)text->size);
		return fds[0];
	}
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
	*ret_near = fds[1];
	return fds[0];
}

static void feed(const struct text *text, int fd)
{
	size_t at = 0;

	while (at < text->size) {
		ssize_t done = send(fd, text->bytes + at, text->size - at,
				    MSG_NOSIGNAL);

		if (done < 0)
			break;
		at += (size_t)done;
	}
	shutdown(fd, SHUT_WR);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct text text = { .bytes = NULL };
	struct mig_info info;
	enum mig_state end;
	struct side side;
	int fd, near;

	if (size < 2)
		return 0;
	text_add(&text, data + 1, size - 1);
	if (data[0] & REPAIRED)
		text_repair(&text);
	fd = open_stream(&text, data[0] & OVER_SOCKET, &near);
	side_start(&side, 1, true);
	side_receive(&side, fd);
	if (near >= 0)
		feed(&text, near);
	end = side_wait_end(&side);
	/* It says why it failed, and then no guest runs. */
	if (end == MIG_FAILED) {
		must(*side_error(&side, &info));
		must(machine_run_state(side.machine) == RUN_STATE_INMIGRATE);
	} else {
		must(end == MIG_RUNNING);
	}
	side_fini(&side);
	if (near >= 0)
		close(near);
	text_fini(&text);
	return 0;
}
