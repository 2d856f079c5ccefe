/* SPDX-License-Identifier: Apache-2.0 */
/* QMP commands about migration. */
#ifndef GODWIT_CONTROL_QMP_MIGRATE_H
#define GODWIT_CONTROL_QMP_MIGRATE_H

#include "control/qmp_commands.h"

qmp_handler_fn qmp_run_migrate;
qmp_handler_fn qmp_run_migrate_incoming;
qmp_handler_fn qmp_run_migrate_cancel;
qmp_handler_fn qmp_run_query_migrate;
qmp_handler_fn qmp_run_set_parameters;
qmp_handler_fn qmp_run_query_parameters;
qmp_handler_fn qmp_run_set_capabilities;
qmp_handler_fn qmp_run_query_capabilities;
qmp_handler_fn qmp_run_getfd;
qmp_handler_fn qmp_run_closefd;

#endif
