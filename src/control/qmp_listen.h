/* SPDX-License-Identifier: Apache-2.0 */
/* Listening UNIX sockets that clean up after a process that could not. */
#ifndef GODWIT_CONTROL_QMP_LISTEN_H
#define GODWIT_CONTROL_QMP_LISTEN_H

#include <sys/types.h>
#include <sys/un.h>

struct err;

struct qmp_listener {
	int fd;                  /* owned; -1 when closed */
	struct sockaddr_un addr; /* where it is bound */
	dev_t dev; /* of the socket file, to unlink only our own */
	ino_t ino;
};

/* See qmp_server_open().  Non-blocking and O_CLOEXEC. */
int qmp_listener_open(struct qmp_listener *listener, const char *path,
		      struct err *err);
void qmp_listener_close(struct qmp_listener *listener);

#endif
