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
	if (replies->has_calls || !replies->is_ready)
		return err_set(err, -EBADMSG, "it came twice, or before READY");
	replies->has_calls = true;
	replies->calls = (struct machine_calls){
		.commits = le64_get(calls.commits),
		.route_commits = le64_get(calls.route_commits),
		.irqfd_calls = le64_get(calls.irqfd_calls),
		.vhost_calls = le64_get(calls.vhost_calls),
		.vhost_tables = le64_get(calls.vhost_tables),
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
