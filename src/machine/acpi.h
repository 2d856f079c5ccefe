/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ACPI tables: what a guest kernel learns of processors, interrupt controllers
 * and the chips without a bus of their own.
 *
 *	RSDP -> XSDT -> FADT -> DSDT (compiled from dsdt.asl), FACS
 *	             -> MADT
 *	             -> MCFG, SSDT (compiled from pci.asl): with a PCI bus
 *
 * They lie in the BIOS area, which the guest is told to leave alone and may
 * scan for the RSDP (machine/boot.h).  They are written once, before the first
 * boot, and move with RAM.  Nothing is declared that the machine lacks.
 *
 * Source: ACPI 6.3, chapter 5; PCI firmware specification 3.0, 4.1 (MCFG).
 */
#ifndef GODWIT_MACHINE_ACPI_H
#define GODWIT_MACHINE_ACPI_H

#include <stdbool.h>
#include <stdint.h>

struct bytes_writer;

#define ACPI_GPA      0xe0000u /* the RSDP comes first */
#define ACPI_SIZE_MAX 0x20000u

/* Where the chips are that the tables speak of. */
struct acpi_board {
	unsigned int cpus; /* APIC ID = index */
	uint16_t pm_port;  /* dev/acpi_pm.h */
	uint8_t pm_gsi;
	uint16_t reset_port; /* a byte written there resets */
	uint8_t reset_value;
	uint8_t century; /* CMOS byte */
	bool has_pci;    /* dev/pci.h */
	uint64_t pci_mmio64_start;
};

/* Append all of them to the empty @to, which is_failed without memory.  At most
 * ACPI_SIZE_MAX bytes for 1024 vCPUs. */
void acpi_build(const struct acpi_board *board, struct bytes_writer *to);

#endif
