// SPDX-License-Identifier: Apache-2.0
/*
 * Message-signalled interrupts: KVM's table of routes and its irqfds.
 *
 * KVM_SET_GSI_ROUTING replaces the whole table, the lines of the interrupt
 * controllers with it.  It is first called when a guest has unmasked a vector, so
 * a machine without PCI devices never pays for it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/event.h"
#include "base/trace.h"
#include "kvm_priv.h"

#define PIC_PINS    8u
#define IOAPIC_PINS 24u
#define CHIP_ROUTES (2 * PIC_PINS + IOAPIC_PINS)

/* Where a write interrupts: SDM volume 3, 11.11.1.  The upper half has bits 8 to
 * 31 of the APIC ID if KVM was told so, and is 0 otherwise. */
#define MSI_BASE      0xfee00000u
#define MSI_BASE_MASK 0xfff00000u

static bool is_interrupt(const struct kv *kv, const struct accel_msi *msi)
{
	uint32_t high = (uint32_t)(msi->address >> 32);

	return ((uint32_t)msi->address & MSI_BASE_MASK) == MSI_BASE &&
	       (kv->has_wide_apic_ids ? (high & 0xff) == 0 : high == 0);
}

static void put_pin(struct kvm_irq_routing *table, unsigned int gsi,
		    unsigned int chip, unsigned int pin)
{
	table->entries[table->nr++] = (struct kvm_irq_routing_entry){
		.gsi = gsi,
		.type = KVM_IRQ_ROUTING_IRQCHIP,
		.u.irqchip = { .irqchip = chip, .pin = pin },
	};
}

/* As KVM_CREATE_IRQCHIP has them. */
static void put_pins(struct kvm_irq_routing *table)
{
	for (unsigned int gsi = 0; gsi < IOAPIC_PINS; gsi++) {
		put_pin(table, gsi, KVM_IRQCHIP_IOAPIC, gsi);
		if (gsi < PIC_PINS)
			put_pin(table, gsi, KVM_IRQCHIP_PIC_MASTER, gsi);
		else if (gsi < 2 * PIC_PINS)
			put_pin(table, gsi, KVM_IRQCHIP_PIC_SLAVE,
				gsi - PIC_PINS);
	}
}

static int tell(void *opaque, const struct accel_route *routes,
		unsigned int count)
{
	struct kv *kv = opaque;
	struct kvm_irq_routing *table =
		calloc(1, sizeof(*table) + (CHIP_ROUTES + count) *
						   sizeof(table->entries[0]));
	int ret = 0;

	if (!table)
		return -ENOMEM;
	put_pins(table);
	for (unsigned int i = 0; i < count; i++) {
		const struct accel_msi *msi = &routes[i].msi;

		/* What is no interrupt goes nowhere: KVM would refuse the whole
		 * table for it. */
		if (!routes[i].has_msi || !is_interrupt(kv, msi))
			continue;
		table->entries[table->nr++] = (struct kvm_irq_routing_entry){
			.gsi = ACCEL_ROUTE_FIRST + i,
			.type = KVM_IRQ_ROUTING_MSI,
			.u.msi = { .address_lo = (uint32_t)msi->address,
				   .address_hi = (uint32_t)(msi->address >> 32),
				   .data = msi->data },
		};
	}
	if (ioctl(kv->vm_fd, KVM_SET_GSI_ROUTING, table) < 0)
		ret = -errno;
	free(table);
	return ret;
}

static int tell_irqfd(void *opaque, unsigned int gsi, int fd, bool is_bound)
{
	struct kv *kv = opaque;
	struct kvm_irqfd irqfd = {
		.fd = (uint32_t)fd,
		.gsi = gsi,
		.flags = is_bound ? 0 : KVM_IRQFD_FLAG_DEASSIGN,
	};

	if (kv->vm_fd < 0) /* the VM is gone, and all its irqfds */
		return 0;
	if (ioctl(kv->vm_fd, KVM_IRQFD, &irqfd) < 0)
		return -errno;
	/* KVM has interrupted for what it held, and left it there: it is not to
	 * be seen again when it is unbound.  What comes from here on, KVM takes
	 * out as it is written. */
	if (is_bound && event_take(fd))
		trace(kvm_irqfd_pending, "GSI %u", gsi);
	return 0;
}

static const struct accel_routes_ops ops = { .tell = tell,
					     .irqfd = tell_irqfd };

void kv_routes_init(struct kv *kv)
{
	int max = ioctl(kv->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_IRQ_ROUTING);

	/* As many GSIs as entries: the controllers' pins have two for some. */
	kv->accel.routes = &kv->routes;
	accel_routes_init(
		&kv->routes, &ops, kv,
		max > (int)CHIP_ROUTES ? (unsigned int)max - CHIP_ROUTES : 0);
}

void kv_msi_send(struct accel *accel, const struct accel_msi *msi)
{
	struct kv *kv = kv_of(accel);
	struct kvm_msi message = {
		.address_lo = (uint32_t)msi->address,
		.address_hi = (uint32_t)(msi->address >> 32),
		.data = msi->data,
	};

	accel_routes_count_message(accel->routes);
	if (is_interrupt(kv, msi) &&
	    ioctl(kv->vm_fd, KVM_SIGNAL_MSI, &message) < 0)
		trace(kvm_irq_failed, "message 0x%x: %s", msi->data,
		      strerror(errno));
}
