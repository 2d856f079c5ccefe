// SPDX-License-Identifier: Apache-2.0
/* Changes of devices, as a driver makes them; each ends with the device in use, or reset. */
#include <linux/virtio_ring.h>

#include "guest.h"

#define LOW_BASE   0xc8000000ull /* above where BARs are placed before the boot */
#define BAR_SLICE  0x800000ull   /* for each BAR, so that none covers another */
#define HIGH       (1ull << 32)
#define RINGS      0x800000ull
#define RING_ROOM  0x4000ull
#define RING_PLACE 4u
#define SIZE_MIN   8u
#define SIZES      4u

static uint64_t draw(struct guest_cpu *cpu, uint64_t below)
{
	return guest_random(&cpu->random, below);
}

static void put(struct guest_cpu *cpu, struct access access)
{
	if (cpu->count < GUEST_ACCESSES)
		cpu->script[cpu->count++] = access;
	else
		guest_complain("a script of more than %u accesses",
			       GUEST_ACCESSES);
}

static void put_config(struct guest_cpu *cpu, struct guest_device *dev,
		       uint32_t offset, unsigned int size, uint64_t value)
{
	bool is_first = cpu == &guest.cpus[0];

	/* The ports are one vCPU's: between the two others would come. */
	put(cpu,
	    (struct access){ .kind = is_first && draw(cpu, 2) ? ACCESS_PORTS
							      : ACCESS_CONFIG,
			     .dev = dev,
			     .size = size,
			     .offset = offset,
			     .value = value });
}

static void put_mmio(struct guest_cpu *cpu, struct guest_device *dev,
		     unsigned int bar, uint32_t offset, unsigned int size,
		     uint64_t value)
{
	put(cpu, (struct access){ .kind = ACCESS_MMIO,
				  .dev = dev,
				  .bar = bar,
				  .size = size,
				  .offset = offset,
				  .value = value });
}

static void put_common(struct guest_cpu *cpu, struct guest_device *dev,
		       uint32_t offset, unsigned int size, uint64_t value)
{
	put_mmio(cpu, dev, BAR_VIRTIO, offset, size, value);
}

/* The status, or a queue's reset, which take as long as the back end does. */
static void wait_common(struct guest_cpu *cpu, struct guest_device *dev,
			uint32_t offset, unsigned int size)
{
	put(cpu, (struct access){ .kind = ACCESS_RESET,
				  .dev = dev,
				  .offset = offset,
				  .size = size });
}

/* ---- PCI ---- */

static void put_command(struct guest_cpu *cpu, struct guest_device *dev)
{
	put_config(cpu, dev, PCI_COMMAND, 2,
		   PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER |
			   (draw(cpu, 2) ? PCI_COMMAND_INTX_DISABLE : 0u));
}

static void put_bar(struct guest_cpu *cpu, struct guest_device *dev,
		    unsigned int bar)
{
	const struct reg_bar *reg = &dev->regs.bars[bar];
	uint64_t slice = dev->regs.slot * 2 + (bar > 1);
	uint64_t address = LOW_BASE + slice * BAR_SLICE +
			   draw(cpu, BAR_SLICE / reg->size) * reg->size;
	bool is_high_first = draw(cpu, 2);
	uint32_t at = PCI_BASE_ADDRESS_0 + 4 * bar;

	if (reg->is_64 && is_high_first)
		put_config(cpu, dev, at + 4, 4, draw(cpu, 2));
	put_config(cpu, dev, at, 4, address);
	if (reg->is_64 && !is_high_first)
		put_config(cpu, dev, at + 4, 4, draw(cpu, 2));
}

/* With decoding off meanwhile, or on: then a 64-bit one is in a third place between. */
static void move_bar(struct guest_cpu *cpu, struct guest_device *dev)
{
	unsigned int bar;

	do {
		bar = (unsigned int)draw(cpu, REG_BARS);
	} while (!dev->regs.bars[bar].size);
	if (draw(cpu, 2))
		put_config(cpu, dev, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
	put_bar(cpu, dev, bar);
	put_command(cpu, dev);
}

static void toggle_command(struct guest_cpu *cpu, struct guest_device *dev)
{
	static const uint16_t others[] = {
		0, PCI_COMMAND_MEMORY, PCI_COMMAND_MASTER,
		PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_SERR
	};

	put_config(cpu, dev, PCI_COMMAND, 2, others[draw(cpu, 4)]);
	put_config(cpu, dev, PCI_INTERRUPT_LINE, 1, draw(cpu, 256));
	put_config(cpu, dev, dev->regs.express_at + PCI_EXP_DEVCTL, 2,
		   draw(cpu, 16));
	put_command(cpu, dev);
}

static void put_entry(struct guest_cpu *cpu, struct guest_device *dev,
		      unsigned int vector)
{
	uint32_t at = 16 * vector;

	put_mmio(cpu, dev, BAR_MSIX, at, 4, 0xfee00000u | draw(cpu, 256) << 12);
	put_mmio(cpu, dev, BAR_MSIX, at + 8, 4, draw(cpu, 1ull << 32));
	put_mmio(cpu, dev, BAR_MSIX, at + 12, 4, draw(cpu, 2));
}

static void change_msix(struct guest_cpu *cpu, struct guest_device *dev)
{
	unsigned int vector =
		(unsigned int)draw(cpu, dev->regs.queue_count + 1);
	uint32_t control = dev->regs.msix_at + PCI_MSIX_FLAGS;

	switch (draw(cpu, 4)) {
	case 0: /* masked meanwhile, as it should be */
		put_mmio(cpu, dev, BAR_MSIX, 16 * vector + 12, 4, 1);
		put_entry(cpu, dev, vector);
		break;
	case 1: /* or under its nose */
		put_entry(cpu, dev, vector);
		break;
	case 2:
		put_config(cpu, dev, control, 2,
			   PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
		put_entry(cpu, dev, vector);
		put_config(cpu, dev, control, 2, PCI_MSIX_FLAGS_ENABLE);
		break;
	default:
		put_config(cpu, dev, control, 2, 0);
		if (draw(cpu, 2))
			put_config(cpu, dev, control, 2, PCI_MSIX_FLAGS_ENABLE);
	}
}

/* ---- queues ---- */

static uint64_t place_of(struct guest_cpu *cpu, const struct guest_device *dev,
			 unsigned int queue)
{
	uint64_t number = dev->regs.slot * REG_QUEUES + queue;

	return RINGS +
	       (number * RING_PLACE + draw(cpu, RING_PLACE)) * RING_ROOM;
}

static void enable_queue(struct guest_cpu *cpu, struct guest_device *dev,
			 unsigned int queue)
{
	uint64_t at = place_of(cpu, dev, queue);

	put(cpu, (struct access){ .kind = ACCESS_CLEAR,
				  .dev = dev,
				  .bar = queue,
				  .value = at });
	put_common(cpu, dev, VIRTIO_PCI_COMMON_Q_SELECT, 2, queue);
	put_common(cpu, dev, VIRTIO_PCI_COMMON_Q_SIZE, 2,
		   SIZE_MIN << draw(cpu, SIZES));
	put_common(cpu, dev, VIRTIO_PCI_COMMON_Q_DESCLO, 8, at);
	put_common(cpu, dev, VIRTIO_PCI_COMMON_Q_AVAILLO, 8, at + 0x1000);
	put_common(cpu, dev, VIRTIO_PCI_COMMON_Q_USEDLO, 8, at + 0x2000);
	put_common(cpu, dev, VIRTIO_PCI_COMMON_Q_MSIX, 2,
		   draw(cpu, dev->regs.queue_count + 2));
	put_common(cpu, dev, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
}

/* Off, or on again elsewhere and with another size. */
static void change_queue(struct guest_cpu *cpu, struct guest_device *dev)
{
	unsigned int queue = (unsigned int)draw(cpu, dev->regs.queue_count);

	if (!(dev->regs.status & VIRTIO_CONFIG_S_FEATURES_OK))
		return;
	if (dev->regs.queues[queue].is_enabled) {
		if (!(dev->regs.features >> VIRTIO_F_RING_RESET & 1))
			return;
		put_common(cpu, dev, VIRTIO_PCI_COMMON_Q_SELECT, 2, queue);
		put_common(cpu, dev, VIRTIO_PCI_COMMON_Q_RESET, 2, 1);
		wait_common(cpu, dev, VIRTIO_PCI_COMMON_Q_RESET, 2);
	}
	if (draw(cpu, 4))
		enable_queue(cpu, dev, queue);
}

/* ---- the device ---- */

/* Not those whose rings this driver does not do. */
static uint64_t choose_features(struct guest_cpu *cpu,
				const struct guest_device *dev)
{
	uint64_t features = dev->regs.offered & draw(cpu, 1ull << 41);

	features &= ~(1ull << VIRTIO_F_RING_PACKED |
		      1ull << VIRTIO_RING_F_EVENT_IDX);
	return features | 1ull << VIRTIO_F_VERSION_1;
}

static void put_features(struct guest_cpu *cpu, struct guest_device *dev,
			 uint64_t features)
{
	for (unsigned int half = 0; half < 2; half++) {
		put_common(cpu, dev, VIRTIO_PCI_COMMON_GFSELECT, 4, half);
		put_common(cpu, dev, VIRTIO_PCI_COMMON_GF, 4,
			   (uint32_t)(features >> 32 * half));
	}
}

/* All of it, or only a part: then the next change finds it so. */
static void set_up(struct guest_cpu *cpu, struct guest_device *dev)
{
	uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE;

	put_common(cpu, dev, VIRTIO_PCI_COMMON_STATUS, 1, status);
	status |= VIRTIO_CONFIG_S_DRIVER;
	put_common(cpu, dev, VIRTIO_PCI_COMMON_STATUS, 1, status);
	/* It may write what it likes before it says that it means it. */
	if (!draw(cpu, 4))
		put_features(cpu, dev, ~0ull);
	put_features(cpu, dev, choose_features(cpu, dev));
	if (!draw(cpu, 16))
		return;
	status |= VIRTIO_CONFIG_S_FEATURES_OK;
	put_common(cpu, dev, VIRTIO_PCI_COMMON_STATUS, 1, status);
	for (unsigned int i = 0; i < dev->regs.queue_count; i++) {
		if (draw(cpu, 8))
			enable_queue(cpu, dev, i);
	}
	put_common(cpu, dev, VIRTIO_PCI_COMMON_MSIX, 2,
		   draw(cpu, dev->regs.queue_count + 2));
	if (!draw(cpu, 16))
		return;
	status |= VIRTIO_CONFIG_S_DRIVER_OK;
	put_common(cpu, dev, VIRTIO_PCI_COMMON_STATUS, 1, status);
}

static void reset_device(struct guest_cpu *cpu, struct guest_device *dev)
{
	put_common(cpu, dev, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	wait_common(cpu, dev, VIRTIO_PCI_COMMON_STATUS, 1);
	set_up(cpu, dev);
}

static void reset_function(struct guest_cpu *cpu, struct guest_device *dev)
{
	put_config(cpu, dev, dev->regs.express_at + PCI_EXP_DEVCTL, 2,
		   PCI_EXP_DEVCTL_BCR_FLR);
	for (unsigned int i = 0; i < REG_BARS; i++) {
		if (dev->regs.bars[i].size)
			put_bar(cpu, dev, i);
	}
	put_command(cpu, dev);
	if (dev->kind == GUEST_SHMEM)
		return;
	wait_common(cpu, dev, VIRTIO_PCI_COMMON_STATUS, 1);
	for (unsigned int i = 0; i <= dev->regs.queue_count; i++)
		put_entry(cpu, dev, i);
	put_config(cpu, dev, dev->regs.msix_at + PCI_MSIX_FLAGS, 2,
		   PCI_MSIX_FLAGS_ENABLE);
	set_up(cpu, dev);
}

/* Its two accesses are apart: a move may come between. */
static void request(struct guest_cpu *cpu, struct guest_device *dev)
{
	unsigned int queue = (unsigned int)draw(cpu, dev->regs.queue_count);

	if (!(dev->regs.status & VIRTIO_CONFIG_S_DRIVER_OK) ||
	    !dev->regs.queues[queue].is_enabled ||
	    (dev->kind != GUEST_DISK && dev->kind != GUEST_RNG))
		return;
	put(cpu, (struct access){ .kind = ACCESS_SUBMIT,
				  .dev = dev,
				  .bar = queue,
				  .value = draw(cpu, UINT64_MAX) });
	put(cpu, (struct access){
			 .kind = ACCESS_COLLECT, .dev = dev, .bar = queue });
}

/* ---- vCPUs ---- */

static enum guest_change change_cpu(struct guest_cpu *cpu)
{
	uint64_t number = 1 + draw(cpu, GUEST_CPUS - 1);

	put(cpu,
	    (struct access){ .kind = guest.cpus[number].is_up ? ACCESS_PARK
							      : ACCESS_WAKE,
			     .value = number });
	return CHANGE_CPU;
}

unsigned int guest_owner(const struct guest_device *dev)
{
	return dev->regs.slot % GUEST_CPUS;
}

static struct guest_device *choose_device(struct guest_cpu *cpu)
{
	unsigned int first = (unsigned int)draw(cpu, guest.device_count);

	for (unsigned int i = 0; i < guest.device_count; i++) {
		struct guest_device *dev =
			&guest.devices[(first + i) % guest.device_count];

		if (&guest.cpus[guest_owner(dev)] == cpu)
			return dev;
	}
	return NULL;
}

static enum guest_change change_shmem(struct guest_cpu *cpu,
				      struct guest_device *dev)
{
	enum guest_change change;

	switch (draw(cpu, 4)) {
	case 0:
		change = CHANGE_COMMAND;
		toggle_command(cpu, dev);
		break;
	case 1:
		change = CHANGE_FUNCTION;
		reset_function(cpu, dev);
		break;
	default:
		change = CHANGE_BAR;
		move_bar(cpu, dev);
	}
	put(cpu, (struct access){ .kind = ACCESS_STAMP,
				  .dev = dev,
				  .value = draw(cpu, UINT64_MAX) });
	return change;
}

static enum guest_change change_device(struct guest_cpu *cpu,
				       struct guest_device *dev)
{
	static const struct {
		enum guest_change change;
		void (*write)(struct guest_cpu *cpu, struct guest_device *dev);
		unsigned int share;
	} all[] = {
		{ CHANGE_BAR, move_bar, 2 },
		{ CHANGE_COMMAND, toggle_command, 1 },
		{ CHANGE_MSIX, change_msix, 2 },
		{ CHANGE_QUEUE, change_queue, 2 },
		{ CHANGE_RESET, reset_device, 1 },
		{ CHANGE_FUNCTION, reset_function, 1 },
		{ CHANGE_REQUEST, request, 3 },
	};
	uint64_t which = draw(cpu, 12);
	unsigned int i = 0;

	while (which >= all[i].share)
		which -= all[i++].share;
	all[i].write(cpu, dev);
	return all[i].change;
}

void script_next(struct guest_cpu *cpu)
{
	enum guest_change change;

	cpu->at = cpu->count = 0;
	while (!cpu->count) {
		struct guest_device *dev = choose_device(cpu);

		if (cpu == &guest.cpus[0] && !draw(cpu, 8))
			change = change_cpu(cpu);
		else if (dev->kind == GUEST_SHMEM)
			change = change_shmem(cpu, dev);
		else
			change = change_device(cpu, dev);
	}
	cpu->changes[cpu->phase][change]++;
}
