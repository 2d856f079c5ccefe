// SPDX-License-Identifier: Apache-2.0
/* Gathers the counters of memory core, accelerator and vhost. */
#include "machine/calls.h"

#include "accel/accel.h"
#include "machine/devices.h"
#include "machine_priv.h"
#include "mem/space.h"
#include "vhost/vhost.h"

void machine_count_calls(struct machine *machine,
			 struct machine_calls *ret_calls)
{
	const struct accel_ops *ops = machine->accel->ops;
	struct accel_irq_counts irqs = { .messages = 0 };
	struct vh_counts vhost;

	if (ops->irq_counts)
		ops->irq_counts(machine->accel, &irqs);
	devices_vhost_counts(machine->devices, &vhost);
	*ret_calls = (struct machine_calls){
		.commits = mem_commit_count(machine->mem),
		.route_commits = irqs.route_commits,
		.eventfd_calls = irqs.irqfd_calls + irqs.ioeventfd_calls,
		.vhost_calls = vhost.calls,
		.vhost_tables = vhost.tables_told,
	};
}

void machine_calls_since(struct machine_calls *calls,
			 const struct machine_calls *before)
{
	calls->commits -= before->commits;
	calls->route_commits -= before->route_commits;
	calls->eventfd_calls -= before->eventfd_calls;
	calls->vhost_calls -= before->vhost_calls;
	calls->vhost_tables -= before->vhost_tables;
}
