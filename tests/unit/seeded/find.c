// SPDX-License-Identifier: Apache-2.0
/* What firmware does before the guest starts: where devices are, and what they are. */
#include <cmocka.h>
#include <string.h>

#include "dev/pci.h"
#include "guest.h"
#include "mem/access.h"
#include "virtio/pci.h"

static const struct {
	enum guest_kind kind;
	const char *name;
} devices[GUEST_DEVICES] = {
	{ GUEST_DISK, "disk0" },       { GUEST_DISK, "disk1" },
	{ GUEST_RNG, "rng0" },         { GUEST_SHMEM, "shmem0" },
	{ GUEST_CONSOLE, "console0" }, { GUEST_RNG, "rng1" },
};

static uint64_t get(struct addr_space *as, uint64_t gpa, unsigned int size)
{
	uint64_t value = 0;

	assert_int_equal(mem_read(as, gpa, &value, size), 0);
	return value;
}

static void set(struct addr_space *as, uint64_t gpa, uint64_t value,
		unsigned int size)
{
	assert_int_equal(mem_write(as, gpa, &value, size), 0);
}

static void find_bars(struct guest_device *dev, struct addr_space *as,
		      uint64_t config)
{
	static const struct reg_bar virtio[REG_BARS] = {
		[BAR_MSIX] = { .size = 0x1000 },
		[BAR_VIRTIO] = { .size = VDEV_PCI_SIZE, .is_64 = true },
	};
	static const struct reg_bar shmem[REG_BARS] = {
		[0] = { .size = 256 },
		[2] = { .size = 64 << 10, .is_64 = true },
	};

	memcpy(dev->regs.bars, dev->kind == GUEST_SHMEM ? shmem : virtio,
	       sizeof(virtio));
	for (unsigned int i = 0; i < REG_BARS; i++) {
		uint64_t at = config + PCI_BASE_ADDRESS_0 + 4 * i;
		struct reg_bar *bar = &dev->regs.bars[i];

		if (bar->size)
			bar->address = get(as, at, bar->is_64 ? 8 : 4) &
				       PCI_BASE_ADDRESS_MEM_MASK;
	}
}

static void find_capabilities(struct guest_device *dev, struct addr_space *as,
			      uint64_t config)
{
	uint64_t at = get(as, config + PCI_CAPABILITY_LIST, 1);

	while (at) {
		uint64_t id = get(as, config + at, 1);

		if (id == PCI_CAP_ID_MSIX)
			dev->regs.msix_at = (uint32_t)at;
		if (id == PCI_CAP_ID_EXP)
			dev->regs.express_at = (uint32_t)at;
		at = get(as, config + at + 1, 1);
	}
}

static void find_registers(struct registers *regs, struct addr_space *as)
{
	uint64_t common = regs->bars[BAR_VIRTIO].address;

	for (uint32_t half = 0; half < 2; half++) {
		set(as, common + VIRTIO_PCI_COMMON_DFSELECT, half, 4);
		regs->offered |= get(as, common + VIRTIO_PCI_COMMON_DF, 4)
				 << 32 * half;
	}
	regs->device_select = 1;
	for (uint16_t i = 0; i < regs->queue_count; i++) {
		set(as, common + VIRTIO_PCI_COMMON_Q_SELECT, i, 2);
		regs->queues[i].size_max = regs->queues[i].size =
			(uint16_t)get(as, common + VIRTIO_PCI_COMMON_Q_SIZE, 2);
	}
	regs->queue_select = (uint16_t)(regs->queue_count - 1);
}

void guest_find_devices(struct addr_space *as)
{
	for (unsigned int i = 0; i < GUEST_DEVICES; i++) {
		struct guest_device *dev = &guest.devices[i];
		uint64_t config = PCI_ECAM_START + ((i + 1ull) << 15);
		struct registers *regs = &dev->regs;

		dev->kind = devices[i].kind;
		dev->name = devices[i].name;
		regs->slot = i + 1;
		find_bars(dev, as, config);
		find_capabilities(dev, as, config);
		regs->command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
		set(as, config + PCI_COMMAND, regs->command, 2);
		if (dev->kind == GUEST_SHMEM)
			continue;
		regs->config_vector = NO_VECTOR;
		regs->queue_count = (unsigned int)get(
			as,
			regs->bars[BAR_VIRTIO].address + VIRTIO_PCI_COMMON_NUMQ,
			2);
		assert_in_range(regs->queue_count, 1, REG_QUEUES);
		for (unsigned int v = 0; v < REG_VECTORS; v++)
			regs->table[v][3] = 1;
		for (unsigned int q = 0; q < REG_QUEUES; q++)
			regs->queues[q].vector = NO_VECTOR;
		find_registers(regs, as);
	}
	guest.device_count = GUEST_DEVICES;
}
