/* SPDX-License-Identifier: Apache-2.0 */
/* The KVM accelerator's constructor; all else goes through accel_ops. */
#ifndef GODWIT_ACCEL_KVM_H
#define GODWIT_ACCEL_KVM_H

#include "accel/accel.h"

/* -EACCES, -ENOENT: /dev/kvm cannot be opened; -ENOTSUP: this KVM lacks
 * something; the message says what to do. */
int kv_new(const struct accel_config *config, struct accel **ret_accel,
	   struct err *err);

/* A row of the table in accel.c: see there. */
int kv_option(struct accel_options *options, const struct parse_kv *kv,
	      struct err *err);
int kv_options_check(struct accel_options *options, struct err *err);

#endif
