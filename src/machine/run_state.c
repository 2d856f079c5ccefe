// SPDX-License-Identifier: Apache-2.0
/*
 *	prelaunch ----> running <----> paused          inmigrate
 *	                 |  ^           |  ^           |      |
 *	                 v  |           v  |           v      v
 *	               finish-migrate ------+        running  paused
 *	                 |        |
 *	                 v        v
 *	      postmigrate       handed-over --cont force--> running
 *
 * The guest's end is not an arc: it may come on a vCPU's thread at any time, and
 * machine_run_state() shows it over whatever state the machine is in.  After a
 * save to a file, finish-migrate goes to paused.
 */
#include "machine/run_state.h"

#include <stdint.h>

static const char *const names[RUN_STATE_COUNT] = {
	[RUN_STATE_PRELAUNCH] = "prelaunch",
	[RUN_STATE_INMIGRATE] = "inmigrate",
	[RUN_STATE_RUNNING] = "running",
	[RUN_STATE_PAUSED] = "paused",
	[RUN_STATE_FINISH_MIGRATE] = "finish-migrate",
	[RUN_STATE_POSTMIGRATE] = "postmigrate",
	[RUN_STATE_HANDED_OVER] = "handed-over",
	[RUN_STATE_SHUTDOWN] = "shutdown",
	[RUN_STATE_INTERNAL_ERROR] = "internal-error",
};

#define TO(state) (1u << RUN_STATE_##state)

/* arcs[from] is the set of states that may follow. */
static const uint32_t arcs[RUN_STATE_COUNT] = {
	[RUN_STATE_PRELAUNCH] = TO(RUNNING),
	[RUN_STATE_INMIGRATE] = TO(RUNNING) | TO(PAUSED),
	[RUN_STATE_RUNNING] = TO(PAUSED) | TO(FINISH_MIGRATE),
	[RUN_STATE_PAUSED] = TO(RUNNING) | TO(FINISH_MIGRATE),
	[RUN_STATE_FINISH_MIGRATE] =
		TO(RUNNING) | TO(PAUSED) | TO(POSTMIGRATE) | TO(HANDED_OVER),
	[RUN_STATE_HANDED_OVER] = TO(RUNNING),
};

const char *run_state_name(enum run_state state)
{
	return names[state];
}

bool run_state_may_go(enum run_state from, enum run_state to)
{
	return arcs[from] >> to & 1;
}
