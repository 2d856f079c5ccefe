/* SPDX-License-Identifier: Apache-2.0 */
/* Configuration space and BARs: see pci.h.  PCI Local Bus 3.0, 6.1 and 6.2.5.1. */
#include "guest/pci.h"

#include <linux/pci_regs.h>
#include <stddef.h>

#include "guest/cpu.h"
#include "guest/mmio.h"
#include "guest/ram.h"

#define PORT_ADDRESS 0xcf8
#define PORT_DATA    0xcfc
#define DEVFNS       256
#define CAPS_MAX     48 /* 192 bytes hold no more */

static uint64_t config_address(const struct pci_function *f,
			       unsigned int offset)
{
	return PCI_ECAM + ((uint64_t)f->devfn << 12) + offset;
}

uint32_t pci_read32(const struct pci_function *f, unsigned int offset)
{
	return mmio_read32(config_address(f, offset));
}

uint16_t pci_read16(const struct pci_function *f, unsigned int offset)
{
	return mmio_read16(config_address(f, offset));
}

uint8_t pci_read8(const struct pci_function *f, unsigned int offset)
{
	return mmio_read8(config_address(f, offset));
}

void pci_write32(const struct pci_function *f, unsigned int offset,
		 uint32_t value)
{
	mmio_write32(config_address(f, offset), value);
}

void pci_write16(const struct pci_function *f, unsigned int offset,
		 uint16_t value)
{
	mmio_write16(config_address(f, offset), value);
}

static void set_command(const struct pci_function *f, uint16_t bits, bool is_on)
{
	uint16_t command = pci_read16(f, PCI_COMMAND);

	command = is_on ? command | bits : command & (uint16_t)~bits;
	pci_write16(f, PCI_COMMAND, command | PCI_COMMAND_INTX_DISABLE);
}

void pci_enable(const struct pci_function *f, bool is_on)
{
	set_command(f, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, is_on);
}

void pci_set_decoding(const struct pci_function *f, bool is_on)
{
	set_command(f, PCI_COMMAND_MEMORY, is_on);
}

void pci_set_master(const struct pci_function *f, bool is_on)
{
	set_command(f, PCI_COMMAND_MASTER, is_on);
}

bool pci_is_pending(const struct pci_function *f)
{
	uint8_t at = pci_capability(f, PCI_CAP_ID_EXP, 0);

	return at && pci_read16(f, at + PCI_EXP_DEVSTA) & PCI_EXP_DEVSTA_TRPND;
}

static unsigned int bar_offset(unsigned int i)
{
	return PCI_BASE_ADDRESS_0 + 4 * i;
}

void pci_move_bar(struct pci_function *f, unsigned int i, uint64_t addr)
{
	pci_write32(f, bar_offset(i), (uint32_t)addr);
	if (f->bars[i].is_64)
		pci_write32(f, bar_offset(i + 1), (uint32_t)(addr >> 32));
	f->bars[i].addr = addr;
}

/* Reads a BAR, also by writing all ones into it.  Returns registers used. */
static unsigned int size_bar(struct pci_function *f, unsigned int i)
{
	struct pci_bar *bar = &f->bars[i];
	uint32_t low = pci_read32(f, bar_offset(i)), high = 0;
	uint64_t mask;

	if (low & PCI_BASE_ADDRESS_SPACE_IO)
		return 1;
	bar->is_prefetchable = low & PCI_BASE_ADDRESS_MEM_PREFETCH;
	bar->is_64 =
		i + 1 < PCI_BARS && (low & PCI_BASE_ADDRESS_MEM_TYPE_MASK) ==
					    PCI_BASE_ADDRESS_MEM_TYPE_64;
	if (bar->is_64)
		high = pci_read32(f, bar_offset(i + 1));
	pci_move_bar(f, i, UINT64_MAX);
	mask = pci_read32(f, bar_offset(i)) & PCI_BASE_ADDRESS_MEM_MASK;
	if (mask)
		mask |= 0xffffffff00000000;
	if (bar->is_64)
		mask &= (uint64_t)pci_read32(f, bar_offset(i + 1)) << 32 |
			0xffffffff;
	bar->size = mask ? ~mask + 1 : 0;
	pci_move_bar(f, i,
		     (uint64_t)high << 32 | (low & PCI_BASE_ADDRESS_MEM_MASK));
	return bar->is_64 ? 2 : 1;
}

static void add_function(struct pci *pci, uint16_t devfn)
{
	struct pci_function *f = &pci->functions[pci->count];
	uint32_t id;

	*f = (struct pci_function){ .devfn = devfn };
	id = pci_read32(f, PCI_VENDOR_ID);
	if (!id || id == UINT32_MAX)
		return;
	f->vendor = (uint16_t)id;
	f->device = (uint16_t)(id >> 16);
	pci->count++;
	if ((pci_read8(f, PCI_HEADER_TYPE) & 0x7f) != PCI_HEADER_TYPE_NORMAL)
		return;
	pci_enable(f, false);
	for (unsigned int i = 0; i < PCI_BARS;)
		i += size_bar(f, i);
}

static bool overlaps(const struct pci_bar *bar, uint64_t start, uint64_t size)
{
	return bar->size && bar->addr && bar->addr < start + size &&
	       start < bar->addr + bar->size;
}

/* The end of a BAR that is in [start, start + size), or 0. */
static uint64_t end_of_other(const struct pci *pci, uint64_t start,
			     uint64_t size)
{
	for (unsigned int n = 0; n < pci->count; n++) {
		const struct pci_function *f = &pci->functions[n];

		for (unsigned int i = 0; i < PCI_BARS; i++) {
			if (overlaps(&f->bars[i], start, size))
				return f->bars[i].addr + f->bars[i].size;
		}
	}
	return 0;
}

static uint64_t find_between(const struct pci *pci, uint64_t size,
			     uint64_t start, uint64_t end)
{
	uint64_t at = (start + size - 1) & ~(size - 1), next;

	while (at + size <= end) {
		next = end_of_other(pci, at, size);
		if (!next)
			return at;
		at = (next + size - 1) & ~(size - 1);
	}
	return 0;
}

uint64_t pci_find_place(const struct pci *pci, uint64_t size, uint64_t from)
{
	uint64_t at = find_between(pci, size, from, PCI_WINDOW_END);

	return at ? at : find_between(pci, size, PCI_WINDOW, PCI_WINDOW_END);
}

/* Alone in its pages, as a real system would have it. */
static const char *place_bar(struct pci *pci, struct pci_function *f,
			     unsigned int i)
{
	struct pci_bar *bar = &f->bars[i];
	uint64_t size = bar->size < PAGE_SIZE ? PAGE_SIZE : bar->size;

	if (!bar->size)
		return NULL;
	if (!bar->addr) {
		uint64_t addr = pci_find_place(pci, size, PCI_WINDOW);

		if (!addr)
			return "no room for a BAR";
		pci_move_bar(f, i, addr);
	}
	if (!ram_map_device(bar->addr, bar->addr + bar->size))
		return "a BAR is out of reach";
	return NULL;
}

const char *pci_scan(struct pci *pci)
{
	struct pci_function first = { .devfn = 0 };
	const char *wrong = NULL;

	pci->count = 0;
	ram_map_device(PCI_WINDOW, 4ULL << 30);
	for (unsigned int devfn = 0; devfn < DEVFNS; devfn++) {
		first.devfn = devfn & 0xf8;
		if (devfn & 7 && !(pci_read8(&first, PCI_HEADER_TYPE) & 0x80)) {
			devfn |= 7;
			continue;
		}
		if (pci->count == PCI_FUNCTIONS_MAX)
			return "too many PCI functions";
		add_function(pci, (uint16_t)devfn);
	}
	for (unsigned int n = 0; n < pci->count; n++) {
		for (unsigned int i = 0; i < PCI_BARS && !wrong; i++)
			wrong = place_bar(pci, &pci->functions[n], i);
	}
	return pci->count ? wrong : "no PCI";
}

unsigned int pci_compare_ports(const struct pci *pci)
{
	unsigned int different = 0;

	for (unsigned int n = 0; n < pci->count; n++) {
		const struct pci_function *f = &pci->functions[n];

		for (unsigned int offset = 0; offset < 0x40; offset += 4) {
			port_out32(PORT_ADDRESS,
				   0x80000000 | (uint32_t)f->devfn << 8 |
					   offset);
			if (port_in32(PORT_DATA) == pci_read32(f, offset))
				continue;
			different++;
			break;
		}
	}
	return different;
}

uint8_t pci_capability(const struct pci_function *f, uint8_t id, uint8_t from)
{
	uint8_t at;

	if (!(pci_read16(f, PCI_STATUS) & PCI_STATUS_CAP_LIST))
		return 0;
	at = pci_read8(f,
		       from ? from + PCI_CAP_LIST_NEXT : PCI_CAPABILITY_LIST);
	for (int i = 0; i < CAPS_MAX && at >= 0x40; i++) {
		at &= 0xfc;
		if (pci_read8(f, at) == id)
			return at;
		at = pci_read8(f, at + PCI_CAP_LIST_NEXT);
	}
	return 0;
}
