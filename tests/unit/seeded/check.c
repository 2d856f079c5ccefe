// SPDX-License-Identifier: Apache-2.0
/* All that a guest can read of its devices, beside what it must be. */
#include "guest_priv.h"
#include "mem/ram.h"

void guest_check_shmem(struct sim_vcpu *vcpu, const struct guest_device *dev)
{
	const struct reg_bar *bar = &dev->regs.bars[2];

	for (uint64_t at = 0; at < bar->size; at += RAM_PAGE_SIZE) {
		uint64_t found = sim_load(vcpu, bar->address + at, 8);
		uint64_t expected =
			dev->shmem_stamp
				? guest_word(dev->shmem_stamp, (unsigned int)at)
				: 0;

		if (found != expected)
			guest_complain("%s: 0x%lx at 0x%lx, not 0x%lx",
				       dev->name, found, at, expected);
	}
}

static void check_read(struct sim_vcpu *vcpu, const struct guest_device *dev,
		       const char *what, uint64_t gpa,
		       const struct reg_read *read)
{
	uint64_t found = sim_load(vcpu, gpa, read->size);

	if (found != read->value)
		guest_complain("%s: %s 0x%02x is 0x%lx, not 0x%lx", dev->name,
			       what, read->offset, found, read->value);
}

/* Selected meanwhile is @queue and the half @half of the features. */
static void check_common(struct sim_vcpu *vcpu, const struct guest_device *dev,
			 uint16_t queue, uint32_t half)
{
	struct registers regs = dev->regs;
	uint64_t common = guest_bar_at(dev, BAR_VIRTIO, 0);
	struct reg_read read;
	unsigned int at = 0;

	sim_store(vcpu, common + VIRTIO_PCI_COMMON_Q_SELECT, queue, 2);
	sim_store(vcpu, common + VIRTIO_PCI_COMMON_GFSELECT, half, 4);
	registers_mmio(&regs, BAR_VIRTIO, VIRTIO_PCI_COMMON_Q_SELECT, queue);
	registers_mmio(&regs, BAR_VIRTIO, VIRTIO_PCI_COMMON_GFSELECT, half);
	while (registers_next_common(&regs, &at, &read))
		check_read(vcpu, dev, "register", common + read.offset, &read);
}

static void check_virtio(struct sim_vcpu *vcpu, const struct guest_device *dev)
{
	const struct registers *regs = &dev->regs;

	for (unsigned int i = 0; i <= regs->queue_count; i++) {
		for (unsigned int word = 0; word < 4; word++) {
			const struct reg_read read = { 16 * i + 4 * word, 4,
						       regs->table[i][word] };

			check_read(vcpu, dev, "vector table",
				   guest_bar_at(dev, BAR_MSIX, read.offset),
				   &read);
		}
	}
	for (uint16_t i = 0; i < regs->queue_count; i++)
		check_common(vcpu, dev, i, i % 2);
	check_common(vcpu, dev, 0, 1);
	/* And last as it was left: the selectors too. */
	check_common(vcpu, dev, regs->queue_select, regs->driver_select);
}

static void check_selectors(struct sim_vcpu *vcpu,
			    const struct guest_device *dev)
{
	const struct reg_read queue = { VIRTIO_PCI_COMMON_Q_SELECT, 2,
					dev->regs.queue_select };
	const struct reg_read half = { VIRTIO_PCI_COMMON_GFSELECT, 4,
				       dev->regs.driver_select };

	check_read(vcpu, dev, "register",
		   guest_bar_at(dev, BAR_VIRTIO, queue.offset), &queue);
	check_read(vcpu, dev, "register",
		   guest_bar_at(dev, BAR_VIRTIO, half.offset), &half);
}

static void check_device(struct sim_vcpu *vcpu, const struct guest_device *dev)
{
	struct reg_read read;
	unsigned int at = 0;

	while (registers_next_config(&dev->regs, &at, &read))
		check_read(vcpu, dev, "configuration",
			   guest_config_at(dev, read.offset), &read);
	if (!registers_are_shown(&dev->regs))
		return;
	if (dev->kind == GUEST_SHMEM) {
		guest_check_shmem(vcpu, dev);
		return;
	}
	check_selectors(vcpu, dev);
	check_virtio(vcpu, dev);
}

/* vCPU 0 looks at what belongs to those that are parked. */
void guest_check(struct sim_vcpu *vcpu, struct guest_cpu *cpu)
{
	for (unsigned int i = 0; i < guest.device_count; i++) {
		struct guest_cpu *owner =
			&guest.cpus[guest_owner(&guest.devices[i])];

		if (owner == cpu || (cpu == &guest.cpus[0] && !owner->is_up))
			check_device(vcpu, &guest.devices[i]);
	}
	if (vcpu->regs.stamped != cpu->total)
		guest_complain("vCPU %u: registers of access %lu, not %lu",
			       vcpu->vcpu.index, vcpu->regs.stamped,
			       cpu->total);
	pthread_mutex_lock(&guest.mutex);
	cpu->is_check_asked = false;
	pthread_cond_broadcast(&guest.changed);
	pthread_mutex_unlock(&guest.mutex);
}
