/* SPDX-License-Identifier: Apache-2.0 */
/* The run state of a machine; names are QEMU's RunState where it has one. */
#ifndef GODWIT_MACHINE_RUN_STATE_H
#define GODWIT_MACHINE_RUN_STATE_H

#include <stdbool.h>

enum run_state {
	RUN_STATE_PRELAUNCH, /* built, never ran */
	RUN_STATE_INMIGRATE, /* waits for, or receives, a migration */
	RUN_STATE_RUNNING,
	RUN_STATE_PAUSED,         /* by `stop`, or arrived paused */
	RUN_STATE_FINISH_MIGRATE, /* source, stopped for the switch */
	RUN_STATE_POSTMIGRATE,    /* source, the destination runs */
	RUN_STATE_HANDED_OVER,    /* source, given away and no answer */
	RUN_STATE_SHUTDOWN,       /* the guest ended */
	RUN_STATE_INTERNAL_ERROR, /* a vCPU cannot go on */
	RUN_STATE_COUNT
};

const char *run_state_name(enum run_state state); /* "finish-migrate" */
bool run_state_may_go(enum run_state from, enum run_state to);

#endif
