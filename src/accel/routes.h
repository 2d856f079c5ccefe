/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The interrupt routes of one VM: what accel.h says of them, but for telling
 * whoever delivers.
 *
 * Eventfds are bound when the routes are told, never before: an eventfd that is
 * bound to a GSI without its message would lose what is written to it.
 *
 * A group belongs to the thread that began it.  Another thread's commit
 * meanwhile does not wait for its end but tells all that is known then.
 */
#ifndef GODWIT_ACCEL_ROUTES_H
#define GODWIT_ACCEL_ROUTES_H

#include <pthread.h>
#include <stdbool.h>

#include "accel/accel.h"
#include "base/lock.h"

struct err;

struct accel_route {
	bool is_used;
	bool has_msi;
	bool is_bound; /* @fd is; else it has to be yet */
	struct accel_msi msi;
	int fd; /* borrowed while it is to be bound; -1: none is */
};

/* Called with the routes' lock. */
struct accel_routes_ops {
	/* All of them: routes[i] is GSI ACCEL_ROUTE_FIRST + i. */
	int (*tell)(void *opaque, const struct accel_route *routes,
		    unsigned int count);
	int (*irqfd)(void *opaque, unsigned int gsi, int fd, bool is_bound);
};

struct accel_routes {
	/* immutable after init */
	const struct accel_routes_ops *ops;
	void *opaque;
	unsigned int max;

	struct lock lock; /* LOCK_ROUTES */
	/* protected by lock */
	struct accel_route *routes; /* owned */
	unsigned int count, capacity;
	unsigned int depth; /* of @owner's group; 0: no group is open */
	pthread_t owner;
	bool is_changed;      /* since they were told */
	unsigned int to_bind; /* how many wait for that */
	struct accel_irq_counts counts;

	uint64_t messages; /* atomic; counts.messages is not used */
};

/* For accel->routes: at most @max.  Nothing is allocated or told before there is
 * one. */
void accel_routes_init(struct accel_routes *routes,
		       const struct accel_routes_ops *ops, void *opaque,
		       unsigned int max);
/* Also a zeroed one.  Whoever was told is gone or does not care. */
void accel_routes_fini(struct accel_routes *routes);
/* For msi_send. */
void accel_routes_count_message(struct accel_routes *routes);

/* To be ops of an accelerator; accel_route_new: -ENOSPC, -ENOMEM. */
int accel_route_new(struct accel *accel, unsigned int *ret_gsi,
		    struct err *err);
void accel_route_free(struct accel *accel, unsigned int gsi);
void accel_routes_begin(struct accel *accel);
void accel_route_set(struct accel *accel, unsigned int gsi,
		     const struct accel_msi *msi);
int accel_routes_commit(struct accel *accel, struct err *err);
int accel_irqfd_set(struct accel *accel, unsigned int gsi, int fd,
		    bool is_bound, struct err *err);
void accel_irq_counts(struct accel *accel, struct accel_irq_counts *ret_counts);

#endif
