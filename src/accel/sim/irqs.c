// SPDX-License-Identifier: Apache-2.0
/*
 * The vCPUs take no interrupts: routes are kept, and all calls counted.  With pv=on
 * a message is counted in guest memory too, as a hypervisor notes there that an end of
 * interrupt is due: a write with no vCPU behind it, from whichever thread has an
 * interrupt to send.
 */
#include "base/event.h"
#include "sim_priv.h"

#define ROUTES_MAX 4056u /* as KVM's */

/* Of a message's address (Intel SDM, 11.11.1). */
#define MSI_DESTINATION_SHIFT 12
#define MSI_DESTINATION_MASK  0xffu

static void eoi_write(struct sim *sim, unsigned int index)
{
	struct sim_vcpu *vcpu =
		__atomic_load_n(&sim->vcpus[index], __ATOMIC_ACQUIRE);
	uint64_t count;

	if (!vcpu || !sim->options.has_pv)
		return;
	lock_acquire(&sim->eoi_lock);
	count = vcpu->regs.eois + 1;
	if (sim_write_aside(sim, sim_eoi_gpa(index), &count, sizeof(count)) ==
	    0)
		vcpu->regs.eois = count;
	lock_release(&sim->eoi_lock);
}

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
	(void)gsi;
	(void)is_bound;
	if (event_take(fd))
		eoi_write(opaque, 0);
	return 0;
}

static const struct accel_routes_ops ops = { .tell = tell,
					     .irqfd = tell_irqfd };

void sim_routes_init(struct sim *sim)
{
	sim->accel.routes = &sim->routes;
	accel_routes_init(&sim->routes, &ops, sim, ROUTES_MAX);
	lock_init(&sim->eoi_lock, LOCK_EOI);
}

void sim_msi_send(struct accel *accel, const struct accel_msi *msi)
{
	struct sim *sim = sim_of(accel);
	uint64_t destination =
		msi->address >> MSI_DESTINATION_SHIFT & MSI_DESTINATION_MASK;

	accel_routes_count_message(accel->routes);
	eoi_write(sim, (unsigned int)destination % sim->cpus);
}
