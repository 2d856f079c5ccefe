// SPDX-License-Identifier: Apache-2.0
/*
 *	source                                   destination
 *
 *	none                                     none
 *	 | migrate                                | --incoming, migrate-incoming
 *	 v                                        v
 *	setup ------------+--+                   listening ----+
 *	 | SETUP_END sent |  |                    | accepted   |
 *	 v                |  |                    v            |
 *	active -----------+--+                   building -----+
 *	 | vCPUs stopped  |  |                    | BUILT sent |
 *	 v                |  |                    v            |
 *  +--	device -----------+--+                   receiving ----+
 *  |	 | END sent       |  |                    | STOPPED    |
 *  |	 v                |  |                    v            |
 *  |	sent -------------+--+--> cancelling     stopped ------+
 *  |	 | READY          |        |              | END        |
 *  |	 v                |        v              v            |
 *  +->	ready ------------+       cancelled      loading ------+
 *	 | GO sent        |                       | READY sent |
 *	 v                |                       v            |
 *	handed-over ------+--> failed            loaded -------+--> failed
 *	 | RUNNING                                | GO         |
 *	 v                                        v            |
 *	completed                                taking-over --+
 *	                                          | guest runs
 *	                                          v
 *	                                         started
 *	                                          | RUNNING sent
 *	                                          v
 *	                                         running
 *
 * From ready on it is too late to cancel.  A save to a file has no peer: it is
 * completed from ready, when the file gets its name, and arrives without GO.
 * Where no answer comes back and no name is to be given (a pipe, a device), END
 * is what GO is elsewhere: from device the way is to ready at once, END is sent
 * from there, and nothing is heard between handed-over and completed.  A source
 * may start again from failed, cancelled, or completed (a save), and a
 * destination that runs may become a source.
 */
#include "migrate/states.h"

#include <stdio.h>

#include "base/bytes.h"

/* Clients see QEMU's states: some of ours are parts of one. */
static const struct {
	const char *name, *status;
} states[MIG_STATE_COUNT] = {
	[MIG_NONE] = { "none", "none" },
	[MIG_SETUP] = { "setup", "setup" },
	[MIG_ACTIVE] = { "active", "active" },
	[MIG_DEVICE] = { "device", "device" },
	[MIG_SENT] = { "sent", "device" },
	[MIG_READY] = { "ready", "device" },
	[MIG_HANDED_OVER] = { "handed-over", "device" },
	[MIG_CANCELLING] = { "cancelling", "cancelling" },
	[MIG_COMPLETED] = { "completed", "completed" },
	[MIG_FAILED] = { "failed", "failed" },
	[MIG_CANCELLED] = { "cancelled", "cancelled" },
	[MIG_LISTENING] = { "listening", "listening" },
	[MIG_BUILDING] = { "building", "building" },
	[MIG_RECEIVING] = { "receiving", "receiving" },
	[MIG_STOPPED] = { "stopped", "receiving" },
	[MIG_LOADING] = { "loading", "receiving" },
	[MIG_LOADED] = { "loaded", "loaded" },
	[MIG_TAKING_OVER] = { "taking-over", "loaded" },
	[MIG_STARTED] = { "started", "loaded" },
	[MIG_RUNNING] = { "running", "running" },
};

#define SOURCE(from, to, owner)                    \
	{                                          \
		MIG_##from, MIG_##to, false, owner \
	}
#define DESTINATION(from, to, owner)              \
	{                                         \
		MIG_##from, MIG_##to, true, owner \
	}

/* Who owns the guest: docs/spec/stream.md. */
static const struct arc arcs[] = {
	SOURCE(NONE, SETUP, "source"),
	SOURCE(SETUP, ACTIVE, "source"),
	SOURCE(ACTIVE, DEVICE, "source"),
	SOURCE(DEVICE, SENT, "source"),
	SOURCE(SENT, READY, "source"),
	SOURCE(DEVICE, READY, "source"), /* END is still to be sent */
	SOURCE(READY, HANDED_OVER, "destination"),
	SOURCE(HANDED_OVER, COMPLETED, "destination"),
	SOURCE(READY, COMPLETED, "source"), /* a save */
	SOURCE(SETUP, FAILED, "source"),
	SOURCE(ACTIVE, FAILED, "source"),
	SOURCE(DEVICE, FAILED, "source"),
	SOURCE(SENT, FAILED, "source"),
	SOURCE(READY, FAILED, "source"), /* no byte of GO, or END */
	SOURCE(HANDED_OVER, FAILED, "destination"),
	SOURCE(SETUP, CANCELLING, "source"),
	SOURCE(ACTIVE, CANCELLING, "source"),
	SOURCE(DEVICE, CANCELLING, "source"),
	SOURCE(SENT, CANCELLING, "source"),
	SOURCE(CANCELLING, CANCELLED, "source"),
	SOURCE(COMPLETED, SETUP, "source"), /* after a save */
	SOURCE(FAILED, SETUP, "source"),
	SOURCE(CANCELLED, SETUP, "source"),
	SOURCE(RUNNING, SETUP, "source"), /* it arrived here and moves on */

	DESTINATION(NONE, LISTENING, "source"),
	DESTINATION(LISTENING, BUILDING, "source"),
	DESTINATION(BUILDING, RECEIVING, "source"),
	DESTINATION(RECEIVING, STOPPED, "source"),
	DESTINATION(STOPPED, LOADING, "source"),
	DESTINATION(LOADING, LOADED, "source"),
	DESTINATION(LOADED, TAKING_OVER, "destination"),
	DESTINATION(TAKING_OVER, STARTED, "destination"),
	DESTINATION(STARTED, RUNNING, "destination"),
	DESTINATION(LISTENING, FAILED, "source"),
	DESTINATION(BUILDING, FAILED, "source"),
	DESTINATION(RECEIVING, FAILED, "source"),
	DESTINATION(STOPPED, FAILED, "source"),
	DESTINATION(LOADING, FAILED, "source"),
	DESTINATION(LOADED, FAILED, "source"),
	DESTINATION(TAKING_OVER, FAILED, "destination"),
};

const struct arc *arc_at(size_t index)
{
	return index < array_size(arcs) ? &arcs[index] : NULL;
}

const struct arc *arc_find(enum mig_state from, enum mig_state to)
{
	for (size_t i = 0; i < array_size(arcs); i++) {
		if (arcs[i].from == from && arcs[i].to == to)
			return &arcs[i];
	}
	return NULL;
}

void arc_name(const struct arc *arc, char name[ARC_NAME_MAX])
{
	snprintf(name, ARC_NAME_MAX, "%s-%s", states[arc->from].name,
		 states[arc->to].name);
}

const char *state_name(enum mig_state state)
{
	return states[state].name;
}

const char *mig_status(enum mig_state state)
{
	return states[state].status;
}

bool state_is_past_go(enum mig_state state)
{
	return state == MIG_READY || state == MIG_HANDED_OVER ||
	       state == MIG_TAKING_OVER || state == MIG_STARTED;
}
