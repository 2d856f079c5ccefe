/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PCI, bus 0, through ECAM: finds functions, sizes their BARs and places those
 * that have no address.  Only CPU 0 changes anything here, and only while the
 * other vCPUs leave the function alone.
 */
#ifndef GODWIT_GUEST_PCI_H
#define GODWIT_GUEST_PCI_H

#include <stdbool.h>
#include <stdint.h>

#define PCI_ECAM          0xe0000000
#define PCI_WINDOW        0xc0000000
#define PCI_WINDOW_END    0xe0000000
#define PCI_FUNCTIONS_MAX 64
#define PCI_BARS          6

struct pci_bar {
	uint64_t addr;
	uint64_t size; /* 0: there is none, or it is not memory */
	bool is_64;
	bool is_prefetchable;
};

struct pci_function {
	uint16_t devfn;
	uint16_t vendor, device;
	struct pci_bar bars[PCI_BARS];
};

struct pci {
	struct pci_function functions[PCI_FUNCTIONS_MAX];
	unsigned int count;
};

uint32_t pci_read32(const struct pci_function *f, unsigned int offset);
uint16_t pci_read16(const struct pci_function *f, unsigned int offset);
uint8_t pci_read8(const struct pci_function *f, unsigned int offset);
void pci_write32(const struct pci_function *f, unsigned int offset,
		 uint32_t value);
void pci_write16(const struct pci_function *f, unsigned int offset,
		 uint16_t value);

/* Returns NULL or what is wrong, as a phrase. */
const char *pci_scan(struct pci *pci);

/* Functions that look different through ports CF8 and CFC. */
unsigned int pci_compare_ports(const struct pci *pci);

/* Memory decoding and bus mastering, both on or both off. */
void pci_enable(const struct pci_function *f, bool is_on);

/* One of them alone. */
void pci_set_decoding(const struct pci_function *f, bool is_on);
void pci_set_master(const struct pci_function *f, bool is_on);

/* Whether it has accesses to memory under way (Transactions Pending). */
bool pci_is_pending(const struct pci_function *f);

/* The capability @id after @from (0: the first), or 0. */
uint8_t pci_capability(const struct pci_function *f, uint8_t id, uint8_t from);

/*
 * An address in the window at or above @from, else from its start on, where a
 * BAR of @size would overlap no other; 0 when it is full.
 */
uint64_t pci_find_place(const struct pci *pci, uint64_t size, uint64_t from);

/* Writes the address of BAR @i.  Decoding must be off. */
void pci_move_bar(struct pci_function *f, unsigned int i, uint64_t addr);

#endif
