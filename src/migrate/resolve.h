/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host names to addresses without getting stuck: getaddrinfo() waits for name
 * servers for half a minute and cannot be interrupted, so it runs in a thread of
 * its own.  Whoever gives up leaves it behind; it frees what it had when the name
 * servers have answered, or ends with the process.
 */
#ifndef GODWIT_MIGRATE_RESOLVE_H
#define GODWIT_MIGRATE_RESOLVE_H

#include <netdb.h>

struct err;
struct resolve;

/* @flags: those of getaddrinfo(); an empty @host is this one.  -ENOMEM, or what
 * pthread_create() or eventfd() said. */
int resolve_start(const char *host, const char *port, int flags,
		  struct resolve **ret_resolve, struct err *err);
/* Readable once there is an answer. */
int resolve_fd(const struct resolve *resolve);
/* The answer, once; freed with freeaddrinfo().  -EHOSTUNREACH. */
int resolve_take(struct resolve *resolve, struct addrinfo **ret_info,
		 struct err *err);
/* Answered or not.  NULL is accepted. */
void resolve_put(struct resolve *resolve);

#endif
