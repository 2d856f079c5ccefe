/* SPDX-License-Identifier: Apache-2.0 */
/* What guest.c and check.c, which run on vCPU threads, have in common. */
#ifndef GODWIT_TEST_SEEDED_GUEST_PRIV_H
#define GODWIT_TEST_SEEDED_GUEST_PRIV_H

#include "accel/sim/sim_priv.h"
#include "dev/pci.h"
#include "guest.h"

static inline uint64_t guest_config_at(const struct guest_device *dev,
				       uint32_t offset)
{
	return PCI_ECAM_START + ((uint64_t)dev->regs.slot << 15) + offset;
}

static inline uint64_t guest_bar_at(const struct guest_device *dev,
				    unsigned int bar, uint64_t offset)
{
	return dev->regs.bars[bar].address + offset;
}

/* Word @i of what is written with @stamp. */
static inline uint64_t guest_word(uint64_t stamp, unsigned int i)
{
	uint64_t state = stamp + i;

	return guest_random(&state, UINT64_MAX);
}

/* check.c: RAM behind BAR 2, which shows; and all that @cpu has to look after. */
void guest_check_shmem(struct sim_vcpu *vcpu, const struct guest_device *dev);
void guest_check(struct sim_vcpu *vcpu, struct guest_cpu *cpu);

#endif
