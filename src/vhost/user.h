/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A back end in another process, over a socket on which that process listens:
 * negotiation, the ops of struct vh_dev, and reconnection when it ends and comes back.
 *
 * Each device has a thread, which sees the connection end, takes the back end's own
 * requests (its configuration changed), and connects again, with pauses that grow.
 * It takes no lock of the device's above struct vh_dev's.
 */
#ifndef GODWIT_VHOST_USER_H
#define GODWIT_VHOST_USER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct vh_board;
struct vh_dev;
struct vh_user;

struct vh_user_config {
	const char *name; /* of the device */
	const char *path; /* of the socket */
	unsigned int rings;
	uint64_t features; /* that the device may offer */
	bool needs_config; /* it cannot do without GET_CONFIG */
	bool may_lose;     /* see struct vh_dev */
	/* The back end says that its configuration changed.  Called by the
	 * device's thread with no lock; optional. */
	void (*config_changed)(void *opaque);
	void *opaque;
};

/* Connect, negotiate, and tell the memory table.  -ENOTSUP: the back end lacks what
 * cannot be done without; what the connection said. */
int vh_user_new(struct vh_board *board, const struct vh_user_config *config,
		struct vh_user **ret_user, struct err *err);
void vh_user_free(struct vh_user *user); /* NULL is accepted */

struct vh_dev *vh_user_dev(struct vh_user *user);
/* Of config->features, those that the back end has. */
uint64_t vh_user_features(const struct vh_user *user);

/* The first @size bytes of its configuration space. */
int vh_user_get_config(struct vh_user *user, void *bytes, size_t size,
		       struct err *err);
/* Have it tell the network where @mac is now.  Does not wait, nor ask whether it did:
 * -ENOTSUP when it cannot, -ETIMEDOUT when it has something else to answer first. */
int vh_user_send_rarp(struct vh_user *user, const uint8_t mac[6],
		      struct err *err);

#endif
