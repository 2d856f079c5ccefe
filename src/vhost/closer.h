/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Closes files that another process chose, of which that may take for as long as that
 * process likes: a FUSE server is asked first.  So a thread does it for which nobody
 * waits, and of which there is one a closer.  Owned by a vhost-user device; its calls
 * come with the device's lock.
 */
#ifndef GODWIT_VHOST_CLOSER_H
#define GODWIT_VHOST_CLOSER_H

#include <stdbool.h>

struct closer;
struct err;

/* -ENOMEM. */
int closer_new(struct closer **ret_closer, struct err *err);
/* Does not wait: what it is at goes on.  NULL is accepted. */
void closer_free(struct closer *closer);
/* It is at one still, or could not begin with it: no other one may come. */
bool closer_is_busy(const struct closer *closer);
/* Takes over @fd; not while it is busy. */
void closer_close(struct closer *closer, int fd);

#endif
