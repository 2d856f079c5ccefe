/* SPDX-License-Identifier: Apache-2.0 */
/* QMP commands about guest-physical memory. */
#ifndef GODWIT_CONTROL_QMP_MEMORY_H
#define GODWIT_CONTROL_QMP_MEMORY_H

#include "control/qmp_commands.h"

qmp_handler_fn qmp_run_query_memory_map;

#endif
