/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory that a vCPU writes and checks: its hot pages, stamped over and
 * over, and its fill pages, written once with random words.
 */
#ifndef GODWIT_GUEST_HOT_H
#define GODWIT_GUEST_HOT_H

#include <stdint.h>

#include "guest/vcpu.h"

/* Writes every page for the first time. */
void hot_warm(struct vcpu *vcpu);

/* Checks (with verify=on) and stamps hot page @i of the slice. */
void hot_stamp(struct vcpu *vcpu, uint64_t i);

/* Checks hot page @i; a bad one is reported and given a new stamp. */
void hot_check(struct vcpu *vcpu, uint64_t i);

/* Check the next hot page, the next fill page, round and round. */
void hot_scan(struct vcpu *vcpu);
void fill_scan(struct vcpu *vcpu);

/* Checks all of them. */
void hot_check_all(struct vcpu *vcpu);

/*
 * Damages pages of CPU 0 on purpose and prints whether each kind was found.
 * Returns how many were not.
 */
int hot_selftest(struct vcpu *vcpu);

#endif
