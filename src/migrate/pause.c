// SPDX-License-Identifier: Apache-2.0
/* Accounts for the pause at its source, and tells of it at its destination. */
#include "migrate/pause.h"

#include "mig_priv.h"
#include "migrate/replies.h"
#include "migrate/stream.h"

void pause_begin(struct pause *pause, struct mig *mig)
{
	machine_count_calls(mig->machine, &pause->calls);
	phase_start(&pause->phases);
	pause->begin_ns = pause->phases.last_ns;
}

void pause_take_report(struct mig *mig, const struct fmt_report *report)
{
	struct mig_info *info = &mig->info;

	lock_acquire(&mig->lock);
	info->phase_ns[MIG_PHASE_DST_RECEIVE] = le64_get(report->receive_ns);
	info->phase_ns[MIG_PHASE_DST_VERIFY] = le64_get(report->verify_ns);
	info->phase_ns[MIG_PHASE_DST_LOAD] = le64_get(report->load_ns);
	info->phase_ns[MIG_PHASE_DST_ACTIVATE] = le64_get(report->activate_ns);
	info->phase_ns[MIG_PHASE_DST_START] = le64_get(report->start_ns);
	info->switch_commits = le64_get(report->commits);
	lock_release(&mig->lock);
}

/* RUNNING may have waited for a CPU, here or over there; the guest did not. */
static void forget_delay(struct mig_info *info)
{
	uint64_t late_ns = info->downtime_ns - info->timeline.end_ns;

	info->downtime_ns -= late_ns;
	info->phase_ns[MIG_PHASE_WAIT_RUNNING] -= late_ns;
}

void pause_end(const struct pause *pause, struct mig *mig,
	       const struct replies *replies)
{
	struct mig_info *info = &mig->info;
	struct machine_calls now;

	machine_count_calls(mig->machine, &now);
	machine_calls_since(&now, &pause->calls);
	lock_acquire(&mig->lock);
	info->source_calls = now;
	info->destination_calls = replies->calls;
	info->has_calls = replies->has_calls;
	info->downtime_ns = pause->phases.last_ns - pause->begin_ns;
	for (int i = 0; i < MIG_PHASE_DST_RECEIVE; i++)
		info->phase_ns[i] = pause->phases.ns[i];
	if (replies->has_times &&
	    timeline_build(&info->timeline, &pause->phases, &pause->moments,
			   &replies->times))
		forget_delay(info);
	lock_release(&mig->lock);
}

void pause_put_calls(struct bytes_writer *w, const struct machine_calls *calls)
{
	const struct fmt_calls body = {
		.commits = le64_of(calls->commits),
		.route_commits = le64_of(calls->route_commits),
		.eventfd_calls = le64_of(calls->eventfd_calls),
		.vhost_calls = le64_of(calls->vhost_calls),
		.vhost_tables = le64_of(calls->vhost_tables),
	};

	record_put(w, FMT_CALLS, &body, sizeof(body));
}

void pause_put_times(struct bytes_writer *w, const struct timeline_there *times)
{
	const struct fmt_times body = {
		.stopped_ns = le64_of(times->stopped_ns),
		.load_ns = le64_of(times->load_ns),
		.loaded_ns = le64_of(times->loaded_ns),
		.end_ns = le64_of(times->end_ns),
		.verified_ns = le64_of(times->verified_ns),
		.ready_ns = le64_of(times->ready_ns),
		.go_ns = le64_of(times->go_ns),
		.entered_ns = le64_of(times->entered_ns),
		.started_ns = le64_of(times->started_ns),
	};

	record_put(w, FMT_TIMES, &body, sizeof(body));
}
