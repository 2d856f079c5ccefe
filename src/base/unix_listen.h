/* SPDX-License-Identifier: Apache-2.0 */
/*
 * UNIX sockets by path: their addresses, and listening ones that clean up after
 * a process that could not.  The serial port, QMP and incoming migrations listen
 * this way.
 *
 * A socket file that nobody listens on any more is replaced; any other file is
 * left alone.  Closing removes the file only while it is still the one made
 * here.  Its mode is 0600: whoever connects reads or controls the guest.
 */
#ifndef GODWIT_BASE_UNIX_LISTEN_H
#define GODWIT_BASE_UNIX_LISTEN_H

#include <sys/types.h>
#include <sys/un.h>

struct err;

struct unix_listener {
	int fd;                  /* owned; -1 when closed */
	struct sockaddr_un addr; /* where it is bound */
	dev_t dev;               /* of the socket file */
	ino_t ino;
};

#define UNIX_LISTENER_INIT \
	{                  \
		.fd = -1   \
	}

/* -EINVAL for an empty path, -ENAMETOOLONG. */
int unix_address(struct sockaddr_un *ret_addr, const char *path,
		 struct err *err);

/*
 * Non-blocking and O_CLOEXEC.  -EADDRINUSE: another process listens there;
 * -EEXIST: the file is no socket; what unix_address() or a system call said.
 * The message names the path.  Closed after a failure.
 */
int unix_listener_open(struct unix_listener *listener, const char *path,
		       int backlog, struct err *err);
/* Nothing for one that is closed. */
void unix_listener_close(struct unix_listener *listener);

#endif
