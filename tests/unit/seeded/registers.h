/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a guest's devices must be like after what the guest wrote: a model of PCI
 * functions, MSI-X tables and virtio registers, written after the specifications and
 * apart from src/.  One write of the guest is one call; what the guest reads back, before
 * and after a move, must be what the model says.
 */
#ifndef GODWIT_TEST_SEEDED_REGISTERS_H
#define GODWIT_TEST_SEEDED_REGISTERS_H

#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#define VIRTIO_PCI_NO_LEGACY
#include <linux/virtio_pci.h>
#include <stdbool.h>
#include <stdint.h>

#define REG_QUEUES  2u
#define REG_VECTORS (REG_QUEUES + 1)
#define REG_BARS    6u
#define NO_VECTOR   0xffffu

/* Registers of the common configuration are VIRTIO_PCI_COMMON_*, 32-bit halves by the lower. */
#define BAR_MSIX   1u
#define BAR_VIRTIO 4u

struct reg_bar {
	uint64_t size; /* 0: none */
	bool is_64;
	uint64_t address;
};

struct reg_queue {
	uint16_t size_max, size, vector, is_enabled;
	uint64_t desc, driver, device;
};

/* One function. */
struct registers {
	/* constant */
	unsigned int slot, queue_count;
	uint32_t msix_at, express_at; /* capabilities; 0: none */
	uint64_t offered;

	uint16_t command, msix_control, express_control;
	uint8_t line;
	struct reg_bar bars[REG_BARS];
	uint32_t table[REG_VECTORS][4]; /* MSI-X */

	uint8_t status;
	uint64_t features;
	uint32_t device_select, driver_select;
	uint16_t queue_select, config_vector;
	struct reg_queue queues[REG_QUEUES];
};

/* As after power-up, but for what is constant, and size_max. */
void registers_reset(struct registers *regs);
/* The guest writes its configuration space; or a BAR of a virtio function. */
void registers_config(struct registers *regs, uint32_t offset, uint32_t value);
void registers_mmio(struct registers *regs, unsigned int bar, uint32_t offset,
		    uint64_t value);
/* Whether it can interrupt by @vector. */
bool registers_can_interrupt(const struct registers *regs, unsigned int vector);

/* What the next register reads as: offset, size and value; false behind the last.
 * *@at counts from 0.  Of the queue that is selected, for those of a queue. */
struct reg_read {
	uint32_t offset, size;
	uint64_t value;
};
bool registers_next_config(const struct registers *regs, unsigned int *at,
			   struct reg_read *ret_read);
bool registers_next_common(const struct registers *regs, unsigned int *at,
			   struct reg_read *ret_read);

static inline bool registers_are_shown(const struct registers *regs)
{
	return regs->command & PCI_COMMAND_MEMORY;
}

#endif
