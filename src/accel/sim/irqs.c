// SPDX-License-Identifier: Apache-2.0
/* The vCPUs take no interrupts: routes are kept, and all calls counted. */
#include "base/event.h"
#include "sim_priv.h"

#define ROUTES_MAX 4056u /* as KVM's */

static int tell(void *opaque, const struct accel_route *routes,
		unsigned int count)
{
	(void)opaque;
	(void)routes;
	(void)count;
	return 0;
}

/* What was written while it was bound did interrupt. */
static int tell_irqfd(void *opaque, unsigned int gsi, int fd, bool is_bound)
{
	(void)opaque;
	(void)gsi;
	(void)is_bound;
	event_take(fd);
	return 0;
}

static const struct accel_routes_ops ops = { .tell = tell,
					     .irqfd = tell_irqfd };

void sim_routes_init(struct sim *sim)
{
	sim->accel.routes = &sim->routes;
	accel_routes_init(&sim->routes, &ops, sim, ROUTES_MAX);
}

void sim_msi_send(struct accel *accel, const struct accel_msi *msi)
{
	(void)msi;
	accel_routes_count_message(accel->routes);
}
