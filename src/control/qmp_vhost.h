/* SPDX-License-Identifier: Apache-2.0 */
/* QMP command about vhost back ends. */
#ifndef GODWIT_CONTROL_QMP_VHOST_H
#define GODWIT_CONTROL_QMP_VHOST_H

#include "control/qmp_commands.h"

qmp_handler_fn qmp_run_query_vhost;

#endif
