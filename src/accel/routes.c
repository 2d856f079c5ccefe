// SPDX-License-Identifier: Apache-2.0
/* The table; what is behind it is kvm/routes.c or sim/irqs.c. */
#include "accel/routes.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/trace.h"

#define CAPACITY_FIRST 16u

void accel_routes_init(struct accel_routes *routes,
		       const struct accel_routes_ops *ops, void *opaque,
		       unsigned int max)
{
	*routes = (struct accel_routes){
		.ops = ops,
		.opaque = opaque,
		.max = max,
	};
	lock_init(&routes->lock, LOCK_ROUTES);
}

void accel_routes_fini(struct accel_routes *routes)
{
	if (!routes->ops)
		return;
	lock_fini(&routes->lock);
	free(routes->routes);
}

/* With the lock. */
static struct accel_route *route_of(struct accel_routes *routes,
				    unsigned int gsi)
{
	assert(gsi >= ACCEL_ROUTE_FIRST &&
	       gsi - ACCEL_ROUTE_FIRST < routes->count &&
	       routes->routes[gsi - ACCEL_ROUTE_FIRST].is_used);
	return &routes->routes[gsi - ACCEL_ROUTE_FIRST];
}

static int grow(struct accel_routes *routes)
{
	unsigned int capacity =
		routes->capacity ? 2 * routes->capacity : CAPACITY_FIRST;
	struct accel_route *more =
		realloc(routes->routes, capacity * sizeof(*more));

	if (!more)
		return -ENOMEM;
	routes->routes = more;
	routes->capacity = capacity;
	return 0;
}

int accel_route_new(struct accel *accel, unsigned int *ret_gsi, struct err *err)
{
	struct accel_routes *routes = accel->routes;
	unsigned int at = 0;
	int ret = 0;

	lock_acquire(&routes->lock);
	while (at < routes->count && routes->routes[at].is_used)
		at++;
	if (at == routes->max)
		ret = err_set(err, -ENOSPC,
			      "interrupt routes: at most %u of all devices",
			      routes->max);
	else if (at == routes->capacity && grow(routes))
		ret = err_set(err, -ENOMEM, "no memory for interrupt routes");
	if (!ret) {
		routes->routes[at] =
			(struct accel_route){ .is_used = true, .fd = -1 };
		if (at == routes->count)
			routes->count++;
		*ret_gsi = ACCEL_ROUTE_FIRST + at;
	}
	lock_release(&routes->lock);
	return ret;
}

void accel_route_free(struct accel *accel, unsigned int gsi)
{
	struct accel_routes *routes = accel->routes;
	struct accel_route *route;

	lock_acquire(&routes->lock);
	route = route_of(routes, gsi);
	assert(route->fd < 0);
	/* Nothing uses it: it goes with the next change. */
	routes->is_changed |= route->has_msi;
	route->has_msi = false;
	route->is_used = false;
	lock_release(&routes->lock);
}

void accel_route_set(struct accel *accel, unsigned int gsi,
		     const struct accel_msi *msi)
{
	struct accel_routes *routes = accel->routes;
	struct accel_route *route;

	lock_acquire(&routes->lock);
	route = route_of(routes, gsi);
	if (msi ? !route->has_msi || route->msi.address != msi->address ||
			    route->msi.data != msi->data
		: route->has_msi) {
		route->has_msi = msi;
		if (msi)
			route->msi = *msi;
		routes->is_changed = true;
	}
	lock_release(&routes->lock);
}

/* With the lock: the routes, then the eventfds that waited for them. */
static int flush(struct accel_routes *routes, struct err *err)
{
	int ret;

	if (routes->is_changed) {
		trace(routes_commit, "%u routes", routes->count);
		ret = routes->ops->tell(routes->opaque, routes->routes,
					routes->count);
		if (ret)
			return err_set_errno(err, ret, "interrupt routes");
		routes->is_changed = false;
		routes->counts.route_commits++;
	}
	for (unsigned int i = 0; routes->to_bind && i < routes->count; i++) {
		struct accel_route *route = &routes->routes[i];

		if (route->fd < 0 || route->is_bound)
			continue;
		ret = routes->ops->irqfd(routes->opaque, ACCEL_ROUTE_FIRST + i,
					 route->fd, true);
		if (ret)
			return err_set_errno(err, ret, "interrupt eventfd");
		route->is_bound = true;
		routes->to_bind--;
		routes->counts.irqfd_calls++;
	}
	return 0;
}

/* With the lock: the calling thread's own group. */
static bool is_mine(const struct accel_routes *routes)
{
	return routes->depth && pthread_equal(routes->owner, pthread_self());
}

void accel_routes_begin(struct accel *accel)
{
	struct accel_routes *routes = accel->routes;

	lock_acquire(&routes->lock);
	if (!routes->depth)
		routes->owner = pthread_self();
	if (pthread_equal(routes->owner, pthread_self()))
		routes->depth++;
	lock_release(&routes->lock);
}

int accel_routes_commit(struct accel *accel, struct err *err)
{
	struct accel_routes *routes = accel->routes;
	int ret = 0;

	lock_acquire(&routes->lock);
	if (!is_mine(routes) || --routes->depth == 0)
		ret = flush(routes, err);
	lock_release(&routes->lock);
	return ret;
}

int accel_irqfd_set(struct accel *accel, unsigned int gsi, int fd,
		    bool is_bound, struct err *err)
{
	struct accel_routes *routes = accel->routes;
	struct accel_route *route;
	int ret = 0;

	lock_acquire(&routes->lock);
	route = route_of(routes, gsi);
	if (is_bound && route->fd < 0) {
		route->fd = fd;
		routes->to_bind++;
		if (!routes->depth)
			ret = flush(routes, err);
	} else if (!is_bound && route->fd >= 0) {
		if (route->is_bound) {
			routes->counts.irqfd_calls++;
			ret = routes->ops->irqfd(routes->opaque, gsi, route->fd,
						 false);
			if (ret)
				err_set_errno(err, ret, "interrupt eventfd");
		} else {
			routes->to_bind--;
		}
		route->is_bound = false;
		route->fd = -1;
	}
	lock_release(&routes->lock);
	return ret;
}

void accel_routes_count_message(struct accel_routes *routes)
{
	__atomic_fetch_add(&routes->messages, 1, __ATOMIC_RELAXED);
}

void accel_irq_counts(struct accel *accel, struct accel_irq_counts *ret_counts)
{
	struct accel_routes *routes = accel->routes;

	lock_acquire(&routes->lock);
	*ret_counts = routes->counts;
	lock_release(&routes->lock);
	ret_counts->messages =
		__atomic_load_n(&routes->messages, __ATOMIC_RELAXED);
}
