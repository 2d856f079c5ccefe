// SPDX-License-Identifier: Apache-2.0
/* What a destination may say; hostile, as all that comes from a peer. */
#include "migrate/replies.h"

#include <errno.h>

#include "base/err.h"
#include "migrate/format.h"
#include "migrate/stream.h"

static int take_built(struct replies *replies, const struct record *reply,
		      struct err *err)
{
	if (replies->is_built)
		return err_set(err, -EBADMSG, "it came twice");
	replies->is_built = true;
	return record_check_size(reply, sizeof(struct fmt_built), err);
}

static int take_costs(struct replies *replies, const struct record *reply,
		      struct err *err)
{
	struct fmt_costs costs;
	int ret = record_take(reply, &costs, sizeof(costs), err);

	if (ret)
		return ret;
	if (replies->has_costs || replies->is_built)
		return err_set(err, -EBADMSG, "it came twice, or after BUILT");
	replies->has_costs = true;
	replies->switch_ns = le64_get(costs.switch_ns);
	replies->state_bytes = le64_get(costs.state_bytes);
	if (replies->switch_ns > FMT_COSTS_MAX)
		return err_set(err, -EBADMSG, "%lu ns to switch, at most %llu",
			       replies->switch_ns, FMT_COSTS_MAX);
	if (replies->state_bytes > FMT_COSTS_MAX)
		return err_set(err, -EBADMSG,
			       "%lu bytes of state, at most %llu",
			       replies->state_bytes, FMT_COSTS_MAX);
	return 0;
}

static int take_round_done(const struct record *reply, struct err *err)
{
	struct fmt_round done;
	int ret = record_take(reply, &done, sizeof(done), err);

	if (!ret && le32_get(done.flags))
		ret = err_set(err, -EBADMSG, "reserved bits are set");
	return ret;
}

/* Nothing is decided by them, so any number will do. */
static int take_calls(struct replies *replies, const struct record *reply,
		      struct err *err)
{
	struct fmt_calls calls;
	int ret = record_take(reply, &calls, sizeof(calls), err);

	if (ret)
		return ret;
	if (replies->has_calls || replies->has_times || !replies->is_ready)
		return err_set(err, -EBADMSG,
			       "it came twice, or not between READY and TIMES");
	replies->has_calls = true;
	replies->calls = (struct machine_calls){
		.commits = le64_get(calls.commits),
		.route_commits = le64_get(calls.route_commits),
		.eventfd_calls = le64_get(calls.eventfd_calls),
		.vhost_calls = le64_get(calls.vhost_calls),
		.vhost_tables = le64_get(calls.vhost_tables),
	};
	return 0;
}

/* Nothing is decided by these either; timeline_build() looks whether they can be. */
static int take_times(struct replies *replies, const struct record *reply,
		      struct err *err)
{
	struct fmt_times times;
	int ret = record_take(reply, &times, sizeof(times), err);

	if (ret)
		return ret;
	if (replies->has_times || !replies->is_ready)
		return err_set(err, -EBADMSG, "it came twice, or before READY");
	replies->has_times = true;
	replies->times = (struct timeline_there){
		.stopped_ns = le64_get(times.stopped_ns),
		.load_ns = le64_get(times.load_ns),
		.loaded_ns = le64_get(times.loaded_ns),
		.end_ns = le64_get(times.end_ns),
		.verified_ns = le64_get(times.verified_ns),
		.ready_ns = le64_get(times.ready_ns),
		.go_ns = le64_get(times.go_ns),
		.entered_ns = le64_get(times.entered_ns),
		.started_ns = le64_get(times.started_ns),
	};
	return 0;
}

static int take_report(struct replies *replies, const struct record *reply,
		       struct err *err)
{
	struct fmt_report report;
	int ret = record_take(reply, &report, sizeof(report), err);

	/* It may not have started a guest that is not its own yet. */
	if (!ret && reply->type == FMT_READY && le64_get(report.start_ns))
		ret = err_set(err, -EBADMSG, "%lu ns to start, must be 0",
			      le64_get(report.start_ns));
	if (!ret && reply->type == FMT_READY)
		replies->is_ready = true;
	return ret;
}

int replies_take(struct replies *replies, const struct record *reply,
		 struct err *err)
{
	switch (reply->type) {
	case FMT_COSTS:
		return take_costs(replies, reply, err);
	case FMT_CALLS:
		return take_calls(replies, reply, err);
	case FMT_TIMES:
		return take_times(replies, reply, err);
	case FMT_BUILT:
		return take_built(replies, reply, err);
	case FMT_ROUND_DONE:
		return take_round_done(reply, err);
	case FMT_READY:
	case FMT_RUNNING:
		return take_report(replies, reply, err);
	default:
		if (reply->type & FMT_OPTIONAL &&
		    ++replies->skipped <= REPLIES_SKIPPED_MAX)
			return 0;
		return err_set(err, -EBADMSG, "0x%x, which is no reply",
			       reply->type);
	}
}
