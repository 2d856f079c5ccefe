/* SPDX-License-Identifier: Apache-2.0 */
/* What conn.c (the socket, and what goes out) and conn_in.c (what comes in) share. */
#ifndef GODWIT_VHOST_CONN_PRIV_H
#define GODWIT_VHOST_CONN_PRIV_H

#include "vhost/conn.h"

#define CONN_HEADER_SIZE sizeof(struct um_header)

/* ---- conn.c ---- */

/* For @events, or until the peer has gone: 0, also when a signal came; -ETIMEDOUT: it
 * does not @what in time. */
int conn_wait_for(struct conn *conn, short events, uint64_t deadline_ns,
		  const char *what, struct err *err);
/* Behind all that waits.  @flags: beside the version. */
int conn_write_message(struct conn *conn, const struct conn_message *message,
		       uint32_t flags, uint64_t deadline_ns, struct err *err);

/* ---- conn_in.c ---- */

/* The oldest of the replies that are due. */
int conn_settle_one(struct conn *conn, uint64_t deadline_ns, struct err *err);
/* -EBADMSG: something has come, and nothing is due. */
int conn_check_quiet(const struct conn *conn, struct err *err);

#endif
