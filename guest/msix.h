/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MSI-X of one function, and the local APIC that its messages go to.  Interrupts
 * stay off: a message that arrived is a bit in the APIC's IRR, and stays one.
 */
#ifndef GODWIT_GUEST_MSIX_H
#define GODWIT_GUEST_MSIX_H

#include <stdbool.h>
#include <stdint.h>

#include "guest/pci.h"

struct msix {
	const struct pci_function *function; /* borrowed; NULL: no MSI-X */
	uint8_t capability;
	uint16_t count; /* of vectors */
	uint8_t table_bar, pending_bar;
	uint32_t table_offset, pending_offset;
};

bool msix_find(struct msix *msix, const struct pci_function *f);
void msix_enable(const struct msix *msix, bool is_on);

/* Leaves entry @n masked; msix_mask() ends that. */
void msix_program(const struct msix *msix, unsigned int n, uint32_t apic_id,
		  uint8_t vector);
void msix_mask(const struct msix *msix, unsigned int n, bool is_masked);
bool msix_is_pending(const struct msix *msix, unsigned int n);

/* Of the vCPU that asks.  Without the first no message is accepted. */
void apic_enable(void);
uint32_t apic_id(void);
bool apic_has_request(uint8_t vector);
/* To another vCPU; by the second it starts at @page * 4 KiB, in real mode. */
void apic_send_init(uint32_t to);
void apic_send_sipi(uint32_t to, uint8_t page);

#endif
