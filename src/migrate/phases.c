// SPDX-License-Identifier: Apache-2.0
/* The clock of a pause's phases, and their names (docs/pause.md). */
#include "migrate/phases.h"

#include "base/clock.h"

static const char *const phase_names[MIG_PHASE_COUNT] = {
	[MIG_PHASE_STOP_VCPUS] = "stop-vcpus",
	[MIG_PHASE_STOP_BACKENDS] = "stop-backends",
	[MIG_PHASE_SAVE_VCPUS] = "save-state",
	[MIG_PHASE_LAST_SYNC] = "last-sync",
	[MIG_PHASE_SEND_RAM] = "send-ram",
	[MIG_PHASE_SEND_STATE] = "send-state",
	[MIG_PHASE_VERIFY] = "verify",
	[MIG_PHASE_WAIT_READY] = "wait-ready",
	[MIG_PHASE_WAIT_RUNNING] = "wait-running",
	[MIG_PHASE_DST_RECEIVE] = "dst-receive",
	[MIG_PHASE_DST_VERIFY] = "dst-verify",
	[MIG_PHASE_DST_LOAD] = "dst-load",
	[MIG_PHASE_DST_ACTIVATE] = "dst-activate",
	[MIG_PHASE_DST_START] = "dst-start",
};

const char *mig_phase_name(enum mig_phase phase)
{
	return phase_names[phase];
}

void phase_start(struct phase_clock *clock)
{
	clock->last_ns = clock_mono_ns();
}

void phase_end(struct phase_clock *clock, enum mig_phase phase)
{
	uint64_t now = clock_mono_ns();

	clock->ns[phase] += now - clock->last_ns;
	if (clock->span_count < PHASE_SPANS_MAX)
		clock->spans[clock->span_count++] =
			(struct phase_span){ phase, clock->last_ns, now };
	clock->last_ns = now;
}
