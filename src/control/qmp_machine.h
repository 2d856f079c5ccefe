/* SPDX-License-Identifier: Apache-2.0 */
/* QMP commands about godwit, the machine and its run state. */
#ifndef GODWIT_CONTROL_QMP_MACHINE_H
#define GODWIT_CONTROL_QMP_MACHINE_H

#include "control/qmp_commands.h"

qmp_handler_fn qmp_run_query_version;
qmp_handler_fn qmp_run_query_name;
qmp_handler_fn qmp_run_query_status;
qmp_handler_fn qmp_run_query_cpus_fast;
qmp_handler_fn qmp_run_stop;
qmp_handler_fn qmp_run_cont;
qmp_handler_fn qmp_run_quit;
qmp_handler_fn qmp_run_system_powerdown;

#endif
