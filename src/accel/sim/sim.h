/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated accelerator: KVM's half in user space.  It tracks writes as KVM
 * does, with second-stage tables, logs and rings of its own, and its vCPUs run
 * workloads instead of code.  Its constructor and its options; all else goes
 * through accel_ops.
 */
#ifndef GODWIT_ACCEL_SIM_H
#define GODWIT_ACCEL_SIM_H

#include "accel/accel.h"

struct parse_kv;

/* 1 when @kv is an option of this accelerator and is taken into @options, 0 when
 * it is not; -EINVAL or -ERANGE with a reason. */
int sim_option(struct accel_options *options, const struct parse_kv *kv,
	       struct err *err);
/* All options are there: -EINVAL when some contradict each other. */
int sim_options_check(struct accel_options *options, struct err *err);

/* -ENOMEM, or what listening to the memory said. */
int sim_new(const struct accel_config *config, struct accel **ret_accel,
	    struct err *err);

#endif
