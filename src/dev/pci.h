/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PCI: one root bus, its host bridge at 00.0, and functions.
 *
 * A guest reaches configuration space by ports 0xcf8/0xcfc and by ECAM.  A
 * function is an object of its device, which gives it BARs (memory regions),
 * capabilities and MSI-X; its registers, where the BARs lie, and all of that
 * across a migration are this file's.  A BAR that moves, and what else one write
 * changes, is one memory transaction.
 *
 * There is no firmware, so pci_bus_assign() places all BARs before the first
 * boot; memory decoding and bus mastering are off until the guest turns them on.
 *
 * BARs show in two windows, below 4 GiB and above RAM; what a guest places
 * elsewhere shows nowhere, so that it hides neither RAM nor other chips.
 *
 * Locks: a function's registers are protected by a LOCK_DEVICE, which is taken
 * inside a transaction where one is needed; ops are called without it.
 *
 * Source: PCI local bus 3.0, chapter 6; PCI Express base specification 4.0, 7.
 */
#ifndef GODWIT_DEV_PCI_H
#define GODWIT_DEV_PCI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PCI_SLOTS       32u
#define PCI_CONFIG_SIZE 4096u
#define PCI_BARS        6u

/* The bus's addresses (machine.c keeps RAM away from them). */
#define PCI_MMIO32_START 0xc0000000ull
#define PCI_MMIO32_END   0xe0000000ull
#define PCI_ECAM_START   0xe0000000ull
#define PCI_ECAM_SIZE    0x100000ull /* bus 0 */
#define PCI_MMIO64_SIZE  (64ull << 30)

struct accel;
struct err;
struct mem;
struct mem_region;
struct msix;
struct pch_reset;
struct pci_bus;
struct pci_function;
struct state_registry;

struct pci_bus_config {
	struct mem *mem;
	struct mem_region *memory, *ports; /* roots that it appears in */
	uint64_t mmio64_start;             /* behind RAM, aligned to 1 GiB */
	struct accel *accel;               /* for MSI-X */
	/* Borrowed: its port is the bus's.  May be NULL. */
	struct pch_reset *reset;
	/* What is saved, and what a destination is told early (may be NULL): where
	 * BARs are and interrupts go, so that nothing is left to do when the guest
	 * stops and has changed nothing. */
	struct state_registry *state, *setup_state;
};

int pci_bus_new(const struct pci_bus_config *config, struct pci_bus **ret_bus,
		struct err *err);
/* Its functions are gone.  NULL is accepted. */
void pci_bus_free(struct pci_bus *bus);
/* Place every BAR: 32-bit ones below 4 GiB, 64-bit prefetchable ones of 16 MiB and
 * more above RAM, others below 4 GiB while there is room.  Once, in one
 * transaction. */
int pci_bus_assign(struct pci_bus *bus, struct err *err);

struct pci_identity {
	uint16_t vendor, device, subsystem_vendor, subsystem;
	uint8_t revision;
	uint32_t class_code; /* 24 bits: class, subclass, interface */
};

/* Called by vCPU threads with no lock held; each may be NULL. */
struct pci_function_ops {
	/* A guest's access to the part of configuration space that the device
	 * claimed by pci_claim(), after (write) or before (read) the bytes there
	 * change hands; see pci_config(). */
	void (*config_read)(void *opaque, uint32_t offset, uint32_t size);
	void (*config_written)(void *opaque, uint32_t offset, uint32_t size);
	/* A guest wrote the command register, and what follows from it is done but
	 * for the device's own requests: pci_may_master(). */
	void (*command_written)(void *opaque);
	/* A guest reads Device Status: whether the device has requests under way that
	 * it could not begin now (Transactions Pending). */
	bool (*is_pending)(void *opaque);
	/* Function level reset: before MSI-X and registers are as after power-up
	 * (what the guest may write is 0). */
	void (*reset)(void *opaque);
};

/* At the next free slot of @bus, saved as "@name-pci".  @vectors 0: no MSI-X (and
 * no interrupt: there are no INTx lines); else MSI-X with a BAR of its own,
 * @msix_bar. */
struct pci_function_config {
	const char *name;
	struct pci_identity identity;
	const struct pci_function_ops *ops;
	void *opaque; /* borrowed until the function is freed */
	unsigned int vectors, msix_bar;
};

/* -ENOSPC when all slots are taken. */
int pci_function_new(struct pci_bus *bus,
		     const struct pci_function_config *config,
		     struct pci_function **ret_function, struct err *err);
/* Takes its BARs out of the address space.  No vCPU runs, or none reaches it.
 * NULL is accepted. */
void pci_function_free(struct pci_function *function);

enum pci_bar_kind {
	PCI_BAR_32,
	PCI_BAR_64,
	PCI_BAR_64_PREFETCH,
};

/* The next three: while the machine is built.  @region is referenced; its size is
 * a power of two, at least 16; a 64-bit BAR takes @index and @index + 1. */
int pci_bar_add(struct pci_function *function, unsigned int index,
		struct mem_region *region, enum pci_bar_kind kind,
		struct err *err);
/* A capability with @size bytes behind id and next pointer; returns its offset,
 * or 0 without room. */
uint8_t pci_capability_add(struct pci_function *function, uint8_t id,
			   uint8_t size);
/* Bytes [offset, offset + size), in a capability, that the guest may write, and of
 * whose accesses ops are told when @is_told.  They are 0 after power-up and move
 * with the function; other bytes are whatever their device builds. */
void pci_claim(struct pci_function *function, uint32_t offset, uint32_t size,
	       bool is_told);

/* PCI_CONFIG_SIZE bytes, little endian: while the machine is built.  A device
 * touches only what it claimed or put into its capabilities. */
uint8_t *pci_config(struct pci_function *function);
/* The same, 1 to 4 bytes, for ops and any other thread; without side effects. */
uint32_t pci_config_get(struct pci_function *function, uint32_t offset,
			uint32_t size);
void pci_config_put(struct pci_function *function, uint32_t offset,
		    uint32_t value, uint32_t size);
struct msix *pci_msix(struct pci_function *function); /* NULL without */
/* The guest lets it access memory (bus master enable); any thread. */
bool pci_may_master(const struct pci_function *function);

#endif
