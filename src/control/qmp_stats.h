/* SPDX-License-Identifier: Apache-2.0 */
/* query-stats: the accelerator's counters of the VM and of its vCPUs. */
#ifndef GODWIT_CONTROL_QMP_STATS_H
#define GODWIT_CONTROL_QMP_STATS_H

#include "control/qmp_commands.h"

qmp_handler_fn qmp_run_query_stats;

/* What a vCPU is called where QEMU has a path in its object tree. */
json_t *qmp_vcpu_path_new(unsigned int index);

#endif
