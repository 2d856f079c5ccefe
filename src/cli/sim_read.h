/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Migrations that happened, from a file: JSON objects one after another, each
 * what `godwit status --json` of the source or `godwit migrate --json` printed.
 * The former knows the number of vCPUs.  A member "workload", added to the
 * former, says as --workload what the guest did.
 */
#ifndef GODWIT_CLI_SIM_READ_H
#define GODWIT_CLI_SIM_READ_H

#include "cli/sim_params.h"

struct err;

/* Calibrate the costs of @params from @path.  Objects that are no completed
 * outgoing migration are passed over.  -EBADMSG: not JSON, or a workload that
 * makes no sense; -ENODATA: nothing to learn from; or why it cannot be read. */
int sim_read_costs(const char *path, struct sim_params *params,
		   struct err *err);

#endif
