/* SPDX-License-Identifier: Apache-2.0 */
/* MSI-X and the local APIC: see msix.h.  PCI Local Bus 3.0, 6.8.2. */
#include "guest/msix.h"

#include <linux/pci_regs.h>
#include <stddef.h>

#include "guest/mmio.h"

#define APIC_BASE      0xfee00000
#define APIC_ID        (APIC_BASE + 0x20)
#define APIC_SVR       (APIC_BASE + 0xf0)
#define APIC_IRR       (APIC_BASE + 0x200)
#define APIC_ICR       (APIC_BASE + 0x300)
#define APIC_ICR_HIGH  (APIC_BASE + 0x310)
#define SVR_ENABLE     0x1ff
#define ICR_INIT       0x4500
#define ICR_SIPI       0x4600
#define ENTRY_SIZE     16
#define ENTRY_DATA     8
#define ENTRY_CONTROL  12
#define CONTROL_MASKED 1

bool msix_find(struct msix *msix, const struct pci_function *f)
{
	uint8_t at = pci_capability(f, PCI_CAP_ID_MSIX, 0);
	uint32_t table, pending;

	*msix = (struct msix){ .function = NULL };
	if (!at)
		return false;
	table = pci_read32(f, at + PCI_MSIX_TABLE);
	pending = pci_read32(f, at + PCI_MSIX_PBA);
	if ((table & PCI_MSIX_TABLE_BIR) >= PCI_BARS ||
	    (pending & PCI_MSIX_PBA_BIR) >= PCI_BARS)
		return false;
	*msix = (struct msix){
		.function = f,
		.capability = at,
		.count = (pci_read16(f, at + PCI_MSIX_FLAGS) &
			  PCI_MSIX_FLAGS_QSIZE) +
			 1,
		.table_bar = table & PCI_MSIX_TABLE_BIR,
		.table_offset = table & PCI_MSIX_TABLE_OFFSET,
		.pending_bar = pending & PCI_MSIX_PBA_BIR,
		.pending_offset = pending & PCI_MSIX_PBA_OFFSET,
	};
	return true;
}

void msix_enable(const struct msix *msix, bool is_on)
{
	const struct pci_function *f = msix->function;
	unsigned int at = msix->capability + PCI_MSIX_FLAGS;
	uint16_t flags = pci_read16(f, at);

	flags &= (uint16_t) ~(PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	pci_write16(f, at, is_on ? flags | PCI_MSIX_FLAGS_ENABLE : flags);
}

static uint64_t entry_address(const struct msix *msix, unsigned int n)
{
	return msix->function->bars[msix->table_bar].addr + msix->table_offset +
	       (uint64_t)n * ENTRY_SIZE;
}

void msix_program(const struct msix *msix, unsigned int n, uint32_t to,
		  uint8_t vector)
{
	uint64_t entry = entry_address(msix, n);

	mmio_write32(entry + ENTRY_CONTROL, CONTROL_MASKED);
	mmio_write32(entry, APIC_BASE | to << 12);
	mmio_write32(entry + 4, 0);
	mmio_write32(entry + ENTRY_DATA, vector);
}

void msix_mask(const struct msix *msix, unsigned int n, bool is_masked)
{
	mmio_write32(entry_address(msix, n) + ENTRY_CONTROL,
		     is_masked ? CONTROL_MASKED : 0);
}

bool msix_is_pending(const struct msix *msix, unsigned int n)
{
	uint64_t words = msix->function->bars[msix->pending_bar].addr +
			 msix->pending_offset;

	return mmio_read32(words + n / 32 * 4) & 1U << n % 32;
}

void apic_enable(void)
{
	mmio_write32(APIC_SVR, SVR_ENABLE);
}

static void send(uint32_t to, uint32_t what)
{
	mmio_write32(APIC_ICR_HIGH, to << 24);
	mmio_write32(APIC_ICR, what);
}

void apic_send_init(uint32_t to)
{
	send(to, ICR_INIT);
}

void apic_send_sipi(uint32_t to, uint8_t page)
{
	send(to, ICR_SIPI | page);
}

uint32_t apic_id(void)
{
	return mmio_read32(APIC_ID) >> 24;
}

bool apic_has_request(uint8_t vector)
{
	return mmio_read32(APIC_IRR + vector / 32U * 0x10) & 1U << vector % 32;
}
