// SPDX-License-Identifier: Apache-2.0
#include "registers.h"

#include <string.h>

#define COMMAND_BITS                                                    \
	(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_PARITY | \
	 PCI_COMMAND_SERR | PCI_COMMAND_INTX_DISABLE)
#define MSIX_BITS     (PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL)
#define ENTRY_CONTROL 3u

static void reset_queue(struct reg_queue *queue)
{
	*queue = (struct reg_queue){
		.size_max = queue->size_max,
		.size = queue->size_max,
		.vector = NO_VECTOR,
	};
}

static void reset_virtio(struct registers *regs)
{
	regs->status = 0;
	regs->features = 0;
	regs->device_select = regs->driver_select = 0;
	regs->queue_select = 0;
	regs->config_vector = NO_VECTOR;
	for (unsigned int i = 0; i < regs->queue_count; i++)
		reset_queue(&regs->queues[i]);
}

void registers_reset(struct registers *regs)
{
	regs->command = regs->msix_control = regs->express_control = 0;
	regs->line = 0;
	for (unsigned int i = 0; i < REG_BARS; i++)
		regs->bars[i].address = 0;
	memset(regs->table, 0, sizeof(regs->table));
	for (unsigned int i = 0; i < REG_VECTORS; i++)
		regs->table[i][ENTRY_CONTROL] = 1;
	reset_virtio(regs);
}

/* ---- configuration space ---- */

static void set_bar(struct registers *regs, unsigned int index, uint32_t value)
{
	bool is_high = index > 0 && regs->bars[index - 1].is_64;
	struct reg_bar *bar = &regs->bars[is_high ? index - 1 : index];
	uint64_t address = bar->address;

	if (is_high)
		address = (uint32_t)address | (uint64_t)value << 32;
	else
		address = (address & ~0xffffffffull) | value;
	bar->address = address & ~(bar->size - 1);
}

void registers_config(struct registers *regs, uint32_t offset, uint32_t value)
{
	if (offset == PCI_COMMAND)
		regs->command = value & COMMAND_BITS;
	else if (offset == PCI_INTERRUPT_LINE)
		regs->line = (uint8_t)value;
	else if (offset >= PCI_BASE_ADDRESS_0 && offset <= PCI_BASE_ADDRESS_5)
		set_bar(regs, (offset - PCI_BASE_ADDRESS_0) / 4, value);
	else if (regs->msix_at && offset == regs->msix_at + PCI_MSIX_FLAGS)
		regs->msix_control = value & MSIX_BITS;
	else if (offset == regs->express_at + PCI_EXP_DEVCTL) {
		if (value & PCI_EXP_DEVCTL_BCR_FLR)
			registers_reset(regs);
		else
			regs->express_control = (uint16_t)value;
	}
}

/* ---- BARs ---- */

static struct reg_queue *open_queue(struct registers *regs)
{
	struct reg_queue *queue = &regs->queues[regs->queue_select];

	return regs->queue_select < regs->queue_count && !queue->is_enabled
		       ? queue
		       : NULL;
}

static uint16_t vector_of(const struct registers *regs, uint64_t value)
{
	return value <= regs->queue_count ? (uint16_t)value : NO_VECTOR;
}

static void set_features(struct registers *regs, uint32_t value)
{
	unsigned int shift = 32 * regs->driver_select;

	if (regs->driver_select > 1 ||
	    (regs->status & VIRTIO_CONFIG_S_FEATURES_OK))
		return;
	regs->features &= ~(0xffffffffull << shift);
	regs->features |= (uint64_t)value << shift;
}

/* The driver sets bits in their order. */
static void set_status(struct registers *regs, uint8_t value)
{
	if (!value) {
		reset_virtio(regs);
		return;
	}
	if ((value & VIRTIO_CONFIG_S_FEATURES_OK) &&
	    (regs->features & ~regs->offered))
		value &= (uint8_t)~VIRTIO_CONFIG_S_FEATURES_OK;
	regs->status |= value;
}

static void set_queue(struct reg_queue *queue, uint32_t offset, uint64_t value)
{
	switch (offset) {
	case VIRTIO_PCI_COMMON_Q_SIZE:
		if (value && value <= queue->size_max)
			queue->size = (uint16_t)value;
		break;
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		queue->is_enabled = 1;
		break;
	case VIRTIO_PCI_COMMON_Q_DESCLO:
		queue->desc = value;
		break;
	case VIRTIO_PCI_COMMON_Q_AVAILLO:
		queue->driver = value;
		break;
	case VIRTIO_PCI_COMMON_Q_USEDLO:
		queue->device = value;
		break;
	}
}

static void set_common(struct registers *regs, uint32_t offset, uint64_t value)
{
	struct reg_queue *open = open_queue(regs);

	switch (offset) {
	case VIRTIO_PCI_COMMON_DFSELECT:
		regs->device_select = (uint32_t)value;
		break;
	case VIRTIO_PCI_COMMON_GFSELECT:
		regs->driver_select = (uint32_t)value;
		break;
	case VIRTIO_PCI_COMMON_GF:
		set_features(regs, (uint32_t)value);
		break;
	case VIRTIO_PCI_COMMON_MSIX:
		regs->config_vector = vector_of(regs, value);
		break;
	case VIRTIO_PCI_COMMON_STATUS:
		set_status(regs, (uint8_t)value);
		break;
	case VIRTIO_PCI_COMMON_Q_SELECT:
		regs->queue_select = (uint16_t)value;
		break;
	case VIRTIO_PCI_COMMON_Q_MSIX:
		if (open)
			open->vector = vector_of(regs, value);
		break;
	case VIRTIO_PCI_COMMON_Q_RESET:
		if (!open && regs->queue_select < regs->queue_count)
			reset_queue(&regs->queues[regs->queue_select]);
		break;
	default:
		if (open)
			set_queue(open, offset, value);
	}
}

void registers_mmio(struct registers *regs, unsigned int bar, uint32_t offset,
		    uint64_t value)
{
	if (bar == BAR_MSIX)
		regs->table[offset / 16][offset / 4 % 4] = (uint32_t)value;
	else if (bar == BAR_VIRTIO)
		set_common(regs, offset, value);
}

bool registers_can_interrupt(const struct registers *regs, unsigned int vector)
{
	return (regs->command & PCI_COMMAND_MASTER) &&
	       (regs->msix_control & MSIX_BITS) == PCI_MSIX_FLAGS_ENABLE &&
	       !(regs->table[vector][ENTRY_CONTROL] & 1);
}

/* ---- what it reads as ---- */

static uint32_t bar_reads(const struct registers *regs, unsigned int index)
{
	const struct reg_bar *bar = &regs->bars[index];

	if (index > 0 && regs->bars[index - 1].is_64)
		return (uint32_t)(regs->bars[index - 1].address >> 32);
	return (uint32_t)bar->address |
	       (bar->is_64 ? PCI_BASE_ADDRESS_MEM_TYPE_64 |
				     PCI_BASE_ADDRESS_MEM_PREFETCH
			   : 0u);
}

bool registers_next_config(const struct registers *regs, unsigned int *at,
			   struct reg_read *ret_read)
{
	unsigned int i = (*at)++;

	if (i < REG_BARS)
		*ret_read = (struct reg_read){ PCI_BASE_ADDRESS_0 + 4 * i, 4,
					       bar_reads(regs, i) };
	else if (i == REG_BARS)
		*ret_read = (struct reg_read){ PCI_COMMAND, 2, regs->command };
	else if (i == REG_BARS + 1)
		*ret_read =
			(struct reg_read){ PCI_INTERRUPT_LINE, 1, regs->line };
	else if (i == REG_BARS + 2)
		*ret_read =
			(struct reg_read){ regs->express_at + PCI_EXP_DEVCTL, 2,
					   regs->express_control };
	else if (i == REG_BARS + 3 && regs->msix_at)
		*ret_read =
			(struct reg_read){ regs->msix_at + PCI_MSIX_FLAGS, 2,
					   regs->msix_control |
						   regs->queue_count };
	else
		return false;
	return true;
}

bool registers_next_common(const struct registers *regs, unsigned int *at,
			   struct reg_read *ret_read)
{
	const struct reg_queue *q = &regs->queues[regs->queue_select];
	const struct reg_read reads[] = {
		{ VIRTIO_PCI_COMMON_DFSELECT, 4, regs->device_select },
		{ VIRTIO_PCI_COMMON_GFSELECT, 4, regs->driver_select },
		{ VIRTIO_PCI_COMMON_GF, 4,
		  (uint32_t)(regs->features >> 32 * regs->driver_select) },
		{ VIRTIO_PCI_COMMON_MSIX, 2, regs->config_vector },
		{ VIRTIO_PCI_COMMON_NUMQ, 2, regs->queue_count },
		{ VIRTIO_PCI_COMMON_STATUS, 1, regs->status },
		{ VIRTIO_PCI_COMMON_Q_SELECT, 2, regs->queue_select },
		{ VIRTIO_PCI_COMMON_Q_SIZE, 2, q->size },
		{ VIRTIO_PCI_COMMON_Q_MSIX, 2, q->vector },
		{ VIRTIO_PCI_COMMON_Q_ENABLE, 2, q->is_enabled },
		{ VIRTIO_PCI_COMMON_Q_DESCLO, 8, q->desc },
		{ VIRTIO_PCI_COMMON_Q_AVAILLO, 8, q->driver },
		{ VIRTIO_PCI_COMMON_Q_USEDLO, 8, q->device },
	};

	if (*at == sizeof(reads) / sizeof(reads[0]))
		return false;
	*ret_read = reads[(*at)++];
	return true;
}
