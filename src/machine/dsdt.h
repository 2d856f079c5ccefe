/* SPDX-License-Identifier: Apache-2.0 */
/* dsdt.asl as compiled by iasl at build time: a whole table. */
#ifndef GODWIT_MACHINE_DSDT_H
#define GODWIT_MACHINE_DSDT_H

extern const unsigned char dsdt_aml[];
extern const unsigned char dsdt_aml_end[];

#endif
