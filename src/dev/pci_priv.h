/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bus, shared by its files:
 *
 *	pci.c      a function: its registers, capabilities, reset and state
 *	pci_bar.c  its BARs, and where they are placed
 *	pci_bus.c  the bus: ports, ECAM, host bridge
 *
 * Whoever changes what BARs and MSI-X follow from (the command register, BARs,
 * MSI-X's control) does so in a transaction, and so one after the other.
 */
#ifndef GODWIT_DEV_PCI_PRIV_H
#define GODWIT_DEV_PCI_PRIV_H

#include <linux/pci_regs.h>

#include "base/lock.h"
#include "dev/pci.h"
#include "state/state.h"

/* What a guest may write, and so what is saved, is in the first part. */
#define PCI_WRITABLE_SIZE 256u

#define PCI_WINDOWS 2u

#define PCI_CLASS_HOST_BRIDGE 0x060000u

struct pci_bar {
	/* immutable after init */
	struct mem_region *region; /* owned reference; NULL: none */
	enum pci_bar_kind kind;
	uint64_t size;
	/* protected by the topology lock: as the region is */
	bool is_shown;
	uint64_t address;
};

struct pci_function {
	/* immutable after init */
	struct pci_bus *bus; /* borrowed */
	unsigned int slot;
	const struct pci_function_ops *ops; /* NULL: none */
	void *opaque;
	struct msix *msix;                   /* owned; NULL: none */
	unsigned int express_at, msix_at;    /* capabilities; 0: none */
	unsigned int last_at, free_at;       /* likewise: last, and behind it */
	uint8_t writable[PCI_WRITABLE_SIZE]; /* bits of config */
	uint8_t told[PCI_WRITABLE_SIZE];     /* bool of each byte */
	struct pci_bar bars[PCI_BARS];
	struct state_entry state, setup_state;

	struct lock lock; /* LOCK_DEVICE */
	/* protected by lock */
	uint8_t config[PCI_CONFIG_SIZE];
	uint8_t saved[PCI_WRITABLE_SIZE]; /* saved, loaded */
	uint8_t saved_slot;               /* likewise */

	bool may_master; /* atomic */
};

struct pci_bus {
	/* immutable after init */
	struct pci_bus_config at;
	/* owned references */
	struct mem_region *space; /* all addresses, with the BARs */
	struct mem_region *windows[PCI_WINDOWS];
	struct mem_region *ports, *ecam;
	bool has_regions; /* they are in their containers */
	struct pci_function *functions[PCI_SLOTS]; /* borrowed; NULL: none */
	struct pci_function *bridge;               /* owned */
	struct state_entry state;

	struct lock lock; /* LOCK_DEVICE */
	/* protected by lock */
	uint32_t address; /* port 0xcf8 */
};

static inline uint32_t pci_get(const uint8_t *bytes, unsigned int size)
{
	uint32_t value = 0;

	for (unsigned int i = 0; i < size; i++)
		value |= (uint32_t)bytes[i] << 8 * i;
	return value;
}

static inline void pci_put(uint8_t *bytes, uint32_t value, unsigned int size)
{
	for (unsigned int i = 0; i < size; i++)
		bytes[i] = (uint8_t)(value >> 8 * i);
}

/* [offset, offset + size) has a byte of [at, at + count). */
static inline bool pci_touches(uint32_t offset, uint32_t size, uint32_t at,
			       uint32_t count)
{
	return offset < at + count && at < offset + size;
}

/* pci.c */
/* A guest's access; @offset is a multiple of @size, which is 1, 2 or 4. */
uint32_t pci_function_read(struct pci_function *function, uint32_t offset,
			   uint32_t size);
void pci_function_write(struct pci_function *function, uint32_t offset,
			uint32_t value, uint32_t size);

/* pci_bar.c */
/* With the function's lock, in a transaction: regions are where the registers
 * say. */
void pci_bars_show(struct pci_function *function);
void pci_bars_free(struct pci_function *function);

#endif
