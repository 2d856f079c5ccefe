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
 * Any of them but the last two of a source goes to shutdown or internal-error
 * when the guest ends.
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
	[RUN_STATE_PRELAUNCH] = TO(RUNNING) | TO(SHUTDOWN),
	[RUN_STATE_INMIGRATE] = TO(RUNNING) | TO(PAUSED) | TO(SHUTDOWN),
	[RUN_STATE_RUNNING] = TO(PAUSED) | TO(FINISH_MIGRATE) | TO(SHUTDOWN) |
			      TO(INTERNAL_ERROR),
	[RUN_STATE_PAUSED] = TO(RUNNING) | TO(FINISH_MIGRATE) | TO(SHUTDOWN) |
			     TO(INTERNAL_ERROR),
	[RUN_STATE_FINISH_MIGRATE] = TO(RUNNING) | TO(PAUSED) |
				     TO(POSTMIGRATE) | TO(HANDED_OVER) |
				     TO(SHUTDOWN) | TO(INTERNAL_ERROR),
	[RUN_STATE_HANDED_OVER] = TO(RUNNING) | TO(SHUTDOWN),
	[RUN_STATE_POSTMIGRATE] = TO(SHUTDOWN),
	[RUN_STATE_SHUTDOWN] = 0,
	[RUN_STATE_INTERNAL_ERROR] = TO(SHUTDOWN),
};

const char *run_state_name(enum run_state state)
{
	return names[state];
}

bool run_state_may_go(enum run_state from, enum run_state to)
{
	return arcs[from] >> to & 1;
}
