/* SPDX-License-Identifier: Apache-2.0 */
/* ACPI's byte code as compiled by iasl at build time, whole tables: dsdt.asl, and
 * pci.asl for machines with a PCI bus. */
#ifndef GODWIT_MACHINE_AML_H
#define GODWIT_MACHINE_AML_H

extern const unsigned char dsdt_aml[];
extern const unsigned char dsdt_aml_end[];
extern const unsigned char pci_aml[];
extern const unsigned char pci_aml_end[];

#endif
