/* SPDX-License-Identifier: Apache-2.0 */
/* set-vcpu-dirty-limit, cancel-vcpu-dirty-limit and query-vcpu-dirty-limit. */
#ifndef GODWIT_CONTROL_QMP_DIRTY_LIMIT_H
#define GODWIT_CONTROL_QMP_DIRTY_LIMIT_H

#include "control/qmp_commands.h"

qmp_handler_fn qmp_run_set_dirty_limit;
qmp_handler_fn qmp_run_cancel_dirty_limit;
qmp_handler_fn qmp_run_query_dirty_limit;

#endif
