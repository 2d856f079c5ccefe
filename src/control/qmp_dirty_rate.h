/* SPDX-License-Identifier: Apache-2.0 */
/* calc-dirty-rate and query-dirty-rate. */
#ifndef GODWIT_CONTROL_QMP_DIRTY_RATE_H
#define GODWIT_CONTROL_QMP_DIRTY_RATE_H

#include "control/qmp_commands.h"

qmp_handler_fn qmp_run_calc_dirty_rate;
qmp_handler_fn qmp_run_query_dirty_rate;

#endif
