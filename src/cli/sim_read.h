/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Migrations that happened, from a file: JSON objects one after another, each
 * what `godwit status --json` of the source or `godwit migrate --json` printed.
 * The former knows the number of vCPUs.
 */
#ifndef GODWIT_CLI_SIM_READ_H
#define GODWIT_CLI_SIM_READ_H

#include "migrate/plan.h"

struct err;

/* Calibrate @costs from @path.  Objects that are no completed outgoing migration
 * are passed over.  -EBADMSG: not JSON; -ENODATA: nothing to learn from;
 * or why it cannot be read. */
int sim_read_costs(const char *path, struct plan_costs *costs, struct err *err);

#endif
