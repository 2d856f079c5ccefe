// SPDX-License-Identifier: Apache-2.0
/*
 * The outgoing migration, on a thread of its own.
 *
 * Who owns the guest (docs/spec/stream.md): the source until GO is sent, and
 * again whenever something fails before that; nobody but the destination
 * afterwards.  Here that is source_give(): before it every error ends in
 * source_resume(), after it in run state handed-over.  Where no answer comes
 * back, END gives the guest away, unless the file gets its name after it: then
 * it is no copy before that, and the guest stays here.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/thread.h"
#include "base/trace.h"
#include "machine/machine.h"
#include "mem/ram.h"
#include "mem/space.h"
#include "mig_priv.h"
#include "migrate/pause.h"
#include "migrate/policy.h"
#include "migrate/ram_send.h"
#include "migrate/replies.h"
#include "migrate/state_send.h"
#include "migrate/stream.h"
#include "migrate/verify.h"
#include "state/state.h"

/* How long a destination may keep a stopped guest waiting beyond the downtime
 * limit, before the source takes it back. */
#define SWITCH_GRACE_NS (1 * NS_PER_SEC)
#define VERIFY_GRACE_NS (120 * NS_PER_SEC)
/* After GO there is nothing to take back; this long until handed-over. */
#define RUNNING_WAIT_NS (10 * NS_PER_SEC)

/* How often a sender that sleeps for the bandwidth limit looks around. */
#define LIMIT_CHECK_NS (50 * NS_PER_MS)
/* While the downtime limit is out of reach, a round serves only to notice that
 * it no longer is. */
#define FUTILE_ROUND_NS (50 * NS_PER_MS)

/* Disks that the destination claimed come back within this, or it hangs. */
#define RECLAIM_WAIT_NS  (2 * NS_PER_SEC)
#define RECLAIM_AGAIN_MS 2

struct source {
	struct mig *mig;
	struct machine *machine;
	struct channel *channel;
	struct mig_caps caps;
	struct ram_send ram;
	struct state_send ahead;
	struct policy policy;
	struct bytes_writer out; /* records on their way */
	struct record reply;
	struct replies replies;
	bool was_running, is_stopped, is_given;
	struct pause pause;

	/* of the current pass */
	uint64_t last_remaining;
	uint64_t sync_start_ns;
	uint64_t round_ns; /* between the last two of these; 0: there was one */

	bool has_rings;
	struct accel_ring_stats rings; /* as the migration began */

	/* bandwidth limit */
	uint64_t limit, limit_start_ns, limit_start_sent;

	uint64_t hash, hash_pages;
};

/* ---- replies ---- */

/* Read one record from the destination; FAILED becomes an error. */
static int read_reply(struct source *src, struct err *err)
{
	char reason[FMT_REASON_MAX + 1];
	int ret = record_recv(src->channel, &src->reply, err);

	if (!ret && src->reply.type == FMT_FAILED) {
		record_reason(&src->reply, reason, sizeof(reason));
		ret = err_set(err, -EREMOTEIO, "%s", reason);
	} else if (!ret) {
		ret = replies_take(&src->replies, &src->reply, err);
		if (ret)
			record_blame(&src->reply, err);
	}
	if (ret)
		err_prefix(err, "destination");
	return ret;
}

/* Read replies until one of @type. */
static int await_reply(struct source *src, uint32_t type, struct err *err)
{
	int ret;

	do {
		ret = read_reply(src, err);
		if (ret)
			return ret;
		if (src->reply.type != type &&
		    !(src->reply.type & FMT_OPTIONAL))
			return err_set(err, -EBADMSG,
				       "destination sent %s out of turn",
				       record_name(src->reply.type));
	} while (src->reply.type != type);
	return 0;
}

/* Take what the destination said meanwhile, without waiting for it. */
static int poll_replies(struct source *src, struct err *err)
{
	while (channel_is_readable(src->channel)) {
		int ret = read_reply(src, err);

		if (ret)
			return ret;
		if (!(src->reply.type & FMT_OPTIONAL))
			return err_set(err, -EBADMSG,
				       "destination sent %s out of turn",
				       record_name(src->reply.type));
	}
	return 0;
}

/* A send failed: the reason may be waiting to be read. */
static void explain_failure(struct source *src, int code, struct err *err)
{
	struct err reason = ERR_INIT;

	if ((code != -EPIPE && code != -ECONNRESET) || src->channel->is_file)
		return;
	src->channel->deadline_ns = clock_mono_ns() + NS_PER_SEC;
	for (int i = 0; i < REPLIES_SKIPPED_MAX && !read_reply(src, &reason);
	     i++)
		;
	if (reason.code == -EREMOTEIO)
		*err = reason;
}

/* ---- setup ---- */

static void put_machine(struct source *src)
{
	const struct machine_options *options = machine_options(src->machine);
	struct mem *mem = machine_mem(src->machine);
	size_t begin = record_begin(&src->out, FMT_MACHINE);
	struct fmt_machine machine = { .cpus = le32_of(options->cpus) };
	struct ram_block *block = NULL;
	uint32_t blocks = 0;

	while ((block = ram_block_next(mem, block)))
		blocks++;
	machine.blocks = le32_of(blocks);
	memcpy(machine.name, options->name,
	       strnlen(options->name, sizeof(machine.name)));
	bytes_put(&src->out, &machine, sizeof(machine));
	while ((block = ram_block_next(mem, block))) {
		struct fmt_block b = {
			.size = le64_of(block->size),
			.page_size = le64_of(block->hugepage_size
						     ? block->hugepage_size
						     : RAM_PAGE_SIZE),
		};

		memcpy(b.name, block->name,
		       strnlen(block->name, sizeof(b.name)));
		bytes_put(&src->out, &b, sizeof(b));
	}
	record_end(&src->out, begin);
}

static int source_setup(struct source *src, struct err *err)
{
	struct mig *mig = src->mig;
	bool is_file;
	int ret;

	ret = channel_connect(src->channel, mig->uri, mig->stop_fd, mig_take_fd,
			      mig, err);
	if (ret)
		return ret;
	is_file = src->channel->is_file;
	src->has_rings = machine_ring_stats(src->machine, &src->rings);
	/* For the switch, which fills it with the guest stopped. */
	bytes_reserve(&src->out,
		      STATE_ROOM(machine_options(src->machine)->cpus));
	record_put_header(&src->out, is_file ? FMT_FLAG_NO_PATH : 0);
	put_machine(src);
	state_send_schemas(&src->out, machine_setup_state(src->machine));
	state_send_schemas(&src->out, machine_state(src->machine));
	ret = machine_save_setup(src->machine, err);
	if (!ret)
		ret = state_send_setup(&src->ahead, &src->out,
				       machine_setup_state(src->machine), err);
	if (ret)
		return ret;
	record_put(&src->out, FMT_SETUP_END, NULL, 0);
	ret = stream_flush(src->channel, &src->out, err);
	if (ret)
		return ret;
	ret = ram_send_start(&src->ram, machine_mem(src->machine), src->channel,
			     is_file || src->caps.ram_checksum, err);
	if (ret)
		return ret;
	lock_acquire(&mig->lock);
	mig->info.setup_ns = clock_mono_ns() - mig->start_ns;
	mig->info.ram_total = machine_options(src->machine)->memory;
	lock_release(&mig->lock);
	return mig_set_state(mig, MIG_ACTIVE, err);
}

/* ---- rounds ---- */

/* Wait until what was sent is within the limit; the limit may change and the
 * destination may speak meanwhile. */
static int obey_bandwidth_limit(struct source *src, struct err *err)
{
	for (;;) {
		uint64_t now = clock_mono_ns(), due_ns;
		struct mig_params params;
		int ret;

		mig_params(src->mig, &params);
		if (params.max_bandwidth != src->limit) {
			src->limit = params.max_bandwidth;
			src->limit_start_ns = now;
			src->limit_start_sent = src->channel->sent;
		}
		if (!src->limit)
			return 0;
		due_ns = src->limit_start_ns +
			 (uint64_t)((double)(src->channel->sent -
					     src->limit_start_sent) *
				    (double)NS_PER_SEC / (double)src->limit);
		if (due_ns <= now) {
			/* Time not used is not made up for in a burst. */
			src->limit_start_ns = now;
			src->limit_start_sent = src->channel->sent;
			return 0;
		}
		ret = channel_sleep(src->channel,
				    due_ns < now + LIMIT_CHECK_NS
					    ? due_ns
					    : now + LIMIT_CHECK_NS);
		if (ret)
			return err_set(err, ret, "cancelled");
		ret = poll_replies(src, err);
		if (ret)
			return ret;
	}
}

static void update_info(struct source *src, uint64_t remaining_pages)
{
	struct mig_info *info = &src->mig->info;
	struct accel_ring_stats rings = src->rings;

	machine_ring_stats(src->machine, &rings);

	lock_acquire(&src->mig->lock);
	info->ram_remaining = remaining_pages << RAM_PAGE_SHIFT;
	info->ram_transferred = src->channel->sent;
	info->pages_normal = src->ram.pages;
	info->pages_zero = src->ram.zero_pages;
	info->pages_hole = (info->ram_total >> RAM_PAGE_SHIFT) -
			   src->ram.watch.known_pages;
	info->bandwidth = src->policy.bandwidth;
	info->expected_downtime_ns = src->policy.estimate_ns;
	info->fixed_downtime_ns = src->policy.fixed_ns;
	info->downtime_limit_ns = src->policy.limit_ns;
	info->is_out_of_reach = src->policy.is_out_of_reach;
	info->has_rings = src->has_rings;
	info->ring_full_exits = rings.full_exits - src->rings.full_exits;
	info->ring_entries = rings.entries - src->rings.entries;
	info->ring_strays = rings.strays - src->rings.strays;
	info->ring_reset_ns = rings.reset_ns - src->rings.reset_ns;
	lock_release(&src->mig->lock);
}

static bool is_cancelled(struct source *src)
{
	bool ret;

	lock_acquire(&src->mig->lock);
	ret = src->mig->info.state == MIG_CANCELLING;
	lock_release(&src->mig->lock);
	return ret;
}

/* After each record of a pass. */
static int between_records(void *opaque, uint64_t pages, struct err *err)
{
	struct source *src = opaque;
	int ret;

	/* A file never makes the channel wait, where it would be noticed. */
	if (is_cancelled(src))
		return err_set(err, -ECANCELED, "cancelled");
	if (src->is_stopped)
		return 0;
	update_info(src, src->last_remaining > pages
				 ? src->last_remaining - pages
				 : 0);
	ret = poll_replies(src, err);
	return ret ? ret : obey_bandwidth_limit(src, err);
}

/* Harvest, and note how the round before it went.  True: time to switch. */
static bool source_sync(struct source *src, struct policy_round *round)
{
	struct mig *mig = src->mig;
	const struct mig_event event = { .is_pass = true,
					 .pass = mig->info.rounds + 1 };
	uint64_t start = clock_mono_ns(), since = start - src->sync_start_ns;
	struct mig_params params;
	uint64_t remaining;

	remaining = ram_send_sync(&src->ram, false);
	round->sync_ns = clock_mono_ns() - start;
	round->remaining_bytes = remaining << RAM_PAGE_SHIFT;
	round->is_paused = machine_run_state(src->machine) == RUN_STATE_PAUSED;
	mig_params(mig, &params);
	src->policy.limit_ns = params.downtime_limit_ms * NS_PER_MS;

	lock_acquire(&mig->lock);
	mig->info.rounds++;
	if (src->sync_start_ns && since)
		mig->info.dirty_pages_rate = remaining * NS_PER_SEC / since;
	mig->on_event(mig->opaque, &event);
	lock_release(&mig->lock);
	src->round_ns = src->sync_start_ns ? since : 0;
	src->sync_start_ns = start;
	src->last_remaining = remaining;
	return policy_decide(&src->policy, round);
}

/* Send ROUND; over a link, wait until the destination has all that came before
 * it. */
static int end_round(struct source *src, uint64_t number, uint32_t flags,
		     struct err *err)
{
	const struct fmt_round note = {
		.number = le32_of((uint32_t)number),
		.flags = le32_of(flags),
	};
	struct fmt_round done;
	int ret;

	record_put(&src->out, FMT_ROUND, &note, sizeof(note));
	ret = stream_flush(src->channel, &src->out, err);
	if (!ret && !src->channel->is_file)
		ret = await_reply(src, FMT_ROUND_DONE, err);
	if (ret || src->channel->is_file)
		return ret;
	memcpy(&done, src->reply.body, sizeof(done));
	if (le32_get(done.number) != le32_get(note.number))
		return err_set(err, -EBADMSG,
			       "destination answered round %u with %u",
			       le32_get(note.number), le32_get(done.number));
	return 0;
}

static int send_round(struct source *src, struct policy_round *round,
		      bool is_near, struct err *err)
{
	uint64_t sent = src->channel->sent, busy = src->channel->busy_ns;
	uint64_t start;
	int ret;

	ret = ram_send_pass(&src->ram, false, between_records, src, err);
	if (ret)
		return ret;
	busy = src->channel->busy_ns - busy;
	start = clock_mono_ns();
	ret = end_round(src, src->mig->info.rounds,
			is_near ? FMT_ROUND_NEAR : 0, err);
	round->sent_bytes = src->channel->sent - sent;
	round->busy_ns = busy + clock_mono_ns() - start;
	return ret;
}

/* One pass over what is dirty; done when the destination has all of it.  A small one's time
 * would be mostly a wait for the guest's vCPUs, and say nothing about the link. */
static int source_pass(struct source *src, struct policy_round *round,
		       struct err *err)
{
	bool is_urgent = round->remaining_bytes <= MIG_SMALL_PASS;
	bool is_near =
		is_urgent || src->policy.estimate_ns <= src->policy.limit_ns;
	int ret;

	if (is_urgent)
		thread_set_urgent(pthread_self(), true);
	ret = send_round(src, round, is_near, err);
	if (is_urgent)
		thread_set_urgent(pthread_self(), false);
	return ret;
}

/* What the guest changed of its devices is built while it runs.  A round of its own: the
 * time that takes says nothing about the link. */
static int send_changed(struct source *src, struct err *err)
{
	bool any;
	int ret = state_send_changed(&src->ahead, &src->out,
				     machine_setup_state(src->machine), &any,
				     err);

	return ret || !any ? ret
			   : end_round(src, src->mig->info.rounds, 0, err);
}

/* Once, by rounds of nothing, with both sides as quick to wake as they are in
 * the pause: the first makes the destination so.  Other rounds' answers wait for
 * whatever else these hosts run, a guest that is not stopped yet for one. */
static int measure_round_trip(struct source *src, struct err *err)
{
	uint64_t least = UINT64_MAX;
	int ret = 0;

	thread_set_urgent(pthread_self(), true);
	for (int i = 0; !ret && i < 3; i++) {
		uint64_t start = clock_mono_ns(), took;

		ret = end_round(src, 1, FMT_ROUND_NEAR, err);
		took = clock_mono_ns() - start;
		least = took < least ? took : least;
	}
	thread_set_urgent(pthread_self(), false);
	policy_set_rtt(&src->policy, least);
	return ret;
}

/* Before any RAM is sent: what waits for a destination that is still being built
 * says nothing about the link.  It reads none before that either. */
static int await_built(struct source *src, struct err *err)
{
	int ret;

	if (src->channel->is_file)
		return 0;
	/* What is resident is looked for meanwhile. */
	ram_watch_look(&src->ram.watch);
	ret = await_reply(src, FMT_BUILT, err);
	if (ret)
		return ret;
	if (src->replies.has_costs)
		policy_set_costs(&src->policy, src->replies.switch_ns,
				 src->replies.state_bytes);
	return measure_round_trip(src, err);
}

static int pace_rounds(struct source *src, struct err *err)
{
	if (src->policy.is_out_of_reach &&
	    channel_sleep(src->channel, src->sync_start_ns + FUTILE_ROUND_NS))
		return err_set(err, -ECANCELED, "cancelled");
	return 0;
}

/* This round is not the last: is the guest in the way? */
static void hold_back(struct source *src, const struct policy_round *round)
{
	struct mig_params params;

	mig_params(src->mig, &params);
	converge_round(src->mig->converge, &src->policy, round->remaining_bytes,
		       src->round_ns, (unsigned int)params.max_cpu_throttle);
}

static int source_rounds(struct source *src, struct err *err)
{
	struct policy_round round = { .sent_bytes = 0 };
	int ret = await_built(src, err);

	while (!ret) {
		bool is_time = source_sync(src, &round);

		trace(mig_round,
		      "round %lu: %lu pages, sync %lu us, round trip %lu us, "
		      "%lu MB/s, switch %lu us, pause estimate %lu us",
		      src->mig->info.rounds, src->last_remaining,
		      round.sync_ns / 1000, src->policy.rtt_ns / 1000,
		      src->policy.bandwidth / 1000000,
		      src->policy.switch_ns / 1000,
		      src->policy.estimate_ns / 1000);
		update_info(src, src->last_remaining);
		if (is_time)
			return 0;
		hold_back(src, &round);
		ret = source_pass(src, &round, err);
		if (!ret)
			ret = send_changed(src, err);
		if (!ret)
			ret = pace_rounds(src, err);
	}
	return ret;
}

/* ---- the switch ---- */

/* Stop the guest and save it; from here to GO it is stopped and the source's. */
static int source_stop(struct source *src, struct err *err)
{
	struct mig_params params;
	struct fmt_stopped stopped;
	uint64_t deadline_ns;
	int ret;

	mig_params(src->mig, &params);
	record_put(&src->out, FMT_SWITCH, NULL, 0);
	ret = stream_flush(src->channel, &src->out, err);
	if (ret)
		return ret;
	machine_hurry(src->machine, true);
	pause_begin(&src->pause, src->mig);
	deadline_ns = src->pause.begin_ns +
		      2 * params.downtime_limit_ms * NS_PER_MS +
		      SWITCH_GRACE_NS;
	src->channel->deadline_ns =
		deadline_ns + (src->caps.verify ? VERIFY_GRACE_NS : 0);
	ret = machine_switch_begin(src->machine, deadline_ns, &src->was_running,
				   err);
	if (ret)
		return ret;
	src->is_stopped = true;
	converge_end(src->mig->converge); /* none that runs again is held */
	phase_end(&src->pause.phases, MIG_PHASE_STOP_VCPUS);
	ret = mig_set_state(src->mig, MIG_DEVICE, err);
	if (ret)
		return ret;
	/* Ahead of the state, so that it is awake when that comes. */
	stopped = (struct fmt_stopped){
		.want = le32_of(src->was_running ? FMT_WANT_RUN
						 : FMT_WANT_PAUSE),
		.flags = le32_of(src->caps.verify ? FMT_STOPPED_VERIFY : 0),
	};
	record_put(&src->out, FMT_STOPPED, &stopped, sizeof(stopped));
	ret = stream_flush(src->channel, &src->out, err);
	if (ret)
		return ret;
	ret = machine_stop_backends(src->machine, deadline_ns, err);
	phase_end(&src->pause.phases, MIG_PHASE_STOP_BACKENDS);
	if (!ret)
		ret = machine_save_accel(src->machine, err);
	if (ret)
		return ret;
	ret = state_send_all(&src->out, machine_state(src->machine), err);
	phase_end(&src->pause.phases, MIG_PHASE_SAVE_VCPUS);
	return ret;
}

/* D3: everything has stopped and is saved; what was written is found now.  The
 * state travels meanwhile. */
static int source_send_rest(struct source *src, struct err *err)
{
	int ret = stream_flush(src->channel, &src->out, err);

	phase_end(&src->pause.phases, MIG_PHASE_SEND_STATE);
	if (ret)
		return ret;
	src->last_remaining = ram_send_sync(&src->ram, true);
	phase_end(&src->pause.phases, MIG_PHASE_LAST_SYNC);
	ret = ram_send_pass(&src->ram, true, between_records, src, err);
	phase_end(&src->pause.phases, MIG_PHASE_SEND_RAM);
	return ret;
}

static void put_end(struct source *src)
{
	struct fmt_end end = { .pages = le64_of(src->ram.pages),
			       .zero_pages = le64_of(src->ram.zero_pages) };

	record_put(&src->out, FMT_END, &end, sizeof(end));
}

static int put_verify(struct source *src, struct err *err)
{
	struct fmt_verify verify;
	int ret = verify_ram(machine_mem(src->machine), src->channel->stop_fd,
			     &src->hash, &src->hash_pages, err);

	if (ret)
		return ret;
	verify = (struct fmt_verify){ le64_of(src->hash),
				      le64_of(src->hash_pages) };
	record_put(&src->out, FMT_VERIFY, &verify, sizeof(verify));
	return 0;
}

/* Both sides hash at the same time. */
static int source_send_end(struct source *src, struct err *err)
{
	int ret;

	put_end(src);
	ret = stream_flush(src->channel, &src->out, err);
	phase_end(&src->pause.phases, MIG_PHASE_SEND_STATE);
	if (!ret && src->caps.verify) {
		ret = put_verify(src, err);
		if (!ret)
			ret = stream_flush(src->channel, &src->out, err);
		phase_end(&src->pause.phases, MIG_PHASE_VERIFY);
	}
	return ret ? ret : mig_set_state(src->mig, MIG_SENT, err);
}

/* Whether the destination's hash agrees, when there is one to compare. */
static int check_ready(struct source *src, struct err *err)
{
	struct fmt_report report;

	memcpy(&report, src->reply.body, sizeof(report));
	pause_take_report(src->mig, &report);
	if (!src->caps.verify)
		return 0;
	if (le64_get(report.verify_hash) != src->hash ||
	    le64_get(report.verified_pages) != src->hash_pages)
		return err_set(err, -EIO,
			       "RAM differs: hash 0x%lx of %lu pages here, "
			       "0x%lx of %lu at the destination",
			       src->hash, src->hash_pages,
			       le64_get(report.verify_hash),
			       le64_get(report.verified_pages));
	lock_acquire(&src->mig->lock);
	src->mig->info.is_verified = true;
	src->mig->info.verified_pages = src->hash_pages;
	src->mig->info.verify_hash = src->hash;
	lock_release(&src->mig->lock);
	return 0;
}

/* The guest changes hands here, by what is about to be sent.  With an error
 * too, when a part of that was: is_given tells. */
static int source_give(struct source *src, struct err *err)
{
	uint64_t sent = src->channel->sent;
	int ret = mig_set_state(src->mig, MIG_READY, err);

	if (ret)
		return ret;
	ret = stream_flush(src->channel, &src->out, err);
	if (ret && src->channel->sent == sent)
		return ret;
	src->is_given = true;
	return mig_set_state(src->mig, MIG_HANDED_OVER, err) ? -ECANCELED : ret;
}

/* Nobody will answer, and whoever has read END, and that nothing follows, may
 * run the guest: a reader at the other end of a pipe does.  So all that may
 * fail comes before END, and it goes out once it is too late to cancel. */
static int source_let_go(struct source *src, struct err *err)
{
	int ret = 0;

	put_end(src);
	if (src->caps.verify) {
		ret = put_verify(src, err);
		phase_end(&src->pause.phases, MIG_PHASE_VERIFY);
	}
	if (!ret) {
		machine_disclaim(src->machine);
		ret = source_give(src, err);
	}
	phase_end(&src->pause.phases, MIG_PHASE_SEND_STATE);
	return ret ? ret : channel_sync(src->channel, err);
}

/* A file has the guest once it has its name. */
static int source_save(struct source *src, struct err *err)
{
	int ret = source_send_end(src, err);

	if (!ret)
		ret = channel_sync(src->channel, err);
	if (!ret)
		ret = mig_set_state(src->mig, MIG_READY, err);
	return ret ? ret : channel_commit(src->channel, err);
}

static int source_hand_over(struct source *src, struct err *err)
{
	struct fmt_report report;
	int ret;

	/* The destination claims its disks once it has END. */
	machine_disclaim(src->machine);
	ret = source_send_end(src, err);
	if (ret)
		return ret;
	src->channel->spin_ns = MIG_SPIN_NS;
	ret = await_reply(src, FMT_READY, err);
	src->channel->spin_ns = 0;
	phase_end(&src->pause.phases, MIG_PHASE_WAIT_READY);
	if (!ret)
		ret = check_ready(src, err);
	if (ret)
		return ret;
	record_put(&src->out, FMT_GO, NULL, 0);
	src->pause.moments.go_ns = clock_mono_ns();
	ret = source_give(src, err);
	if (ret)
		return ret;
	/* On a host that it shares with the destination an urgent thread that wakes
	 * for RUNNING would take its CPU from the guest that has just begun there,
	 * for 200 us. */
	machine_hurry(src->machine, false);
	src->channel->deadline_ns = clock_mono_ns() + RUNNING_WAIT_NS;
	ret = await_reply(src, FMT_RUNNING, err);
	phase_end(&src->pause.phases, MIG_PHASE_WAIT_RUNNING);
	if (ret)
		return ret;
	memcpy(&report, src->reply.body, sizeof(report));
	pause_take_report(src->mig, &report);
	return 0;
}

/* The destination gives back what it claimed as soon as it knows; locks of files
 * tell nobody when, so they are asked for again and again. */
static void reclaim(struct source *src)
{
	uint64_t deadline_ns = clock_mono_ns() + RECLAIM_WAIT_NS;

	while (machine_claim(src->machine, NULL) &&
	       clock_mono_ns() < deadline_ns)
		poll(NULL, 0, RECLAIM_AGAIN_MS);
}

/* Not given away: the guest is the source's, and runs on if it ran.  Unless
 * somebody has its disks: then it is paused. */
static void source_resume(struct source *src, struct err *err)
{
	struct err reason = ERR_INIT;

	if (!src->is_stopped)
		return;
	reclaim(src);
	if (machine_switch_end(src->machine,
			       src->was_running ? RUN_STATE_RUNNING
						: RUN_STATE_PAUSED,
			       &reason))
		err_prefix(err, "the guest is paused (%s)", err_msg(&reason));
}

/* The way in which what is stopped and sent becomes another's. */
static int source_pass_on(struct source *src, struct err *err)
{
	if (!src->channel->is_file)
		return source_hand_over(src, err);
	return src->channel->save.name ? source_save(src, err)
				       : source_let_go(src, err);
}

static int source_switch(struct source *src, struct err *err)
{
	uint64_t precopy = src->channel->sent;
	int ret;

	ret = source_stop(src, err);
	if (!ret)
		ret = source_send_rest(src, err);
	if (!ret)
		ret = source_pass_on(src, err);
	pause_end(&src->pause, src->mig, &src->replies);
	if (ret && !src->is_given)
		source_resume(src, err);
	machine_hurry(src->machine, false);
	lock_acquire(&src->mig->lock);
	src->mig->info.precopy_bytes = precopy;
	src->mig->info.downtime_bytes = src->channel->sent - precopy;
	lock_release(&src->mig->lock);
	update_info(src, ret ? src->last_remaining : 0);
	return ret;
}

/* ---- ends ---- */

/* What nothing waits for; it returns at once. */
static void source_stop_log(struct source *src)
{
	struct mig_params params;

	mig_params(src->mig, &params);
	ram_send_stop(&src->ram, params.log_stop_delay_ms * NS_PER_MS);
}

/* Tell the destination that the guest stays here, if it still listens. */
static void source_send_cancel(struct source *src, const struct err *err)
{
	const char *reason =
		is_cancelled(src) ? "cancelled by the source" : err_msg(err);
	struct bytes_writer w = { .data = NULL };
	struct channel quick = *src->channel;

	if (quick.fd < 0 || quick.is_file)
		return;
	/* Only what fits at once.  In the middle of a RAM record it is taken for
	 * pages: the destination fails all the same, without the reason. */
	quick.stop_fd = -1;
	quick.deadline_ns = 1;
	record_put(&w, FMT_CANCEL, reason, strnlen(reason, FMT_REASON_MAX));
	stream_flush(&quick, &w, NULL);
	bytes_writer_fini(&w);
}

static void source_fail(struct source *src, int code, struct err *err)
{
	mig_break(src->mig, NULL); /* a cancel took the last arc */
	if (src->is_given) {
		machine_switch_end(src->machine, RUN_STATE_HANDED_OVER, NULL);
		err_prefix(err, src->channel->is_file
					? "END was sent, who reads it may run "
					  "the guest"
					: "GO was sent, the destination may "
					  "run the guest");
	} else {
		converge_end(src->mig->converge);
		explain_failure(src, code, err);
		source_send_cancel(src, err);
	}
	channel_close(src->channel);
	source_stop_log(src);
	mig_finish(src->mig, MIG_FAILED, err);
}

static void source_complete(struct source *src)
{
	enum run_state state = RUN_STATE_POSTMIGRATE;

	if (src->channel->is_kept)
		state = RUN_STATE_PAUSED; /* nobody runs a saved guest yet */
	else if (src->channel->is_file)
		state = RUN_STATE_HANDED_OVER; /* nobody said RUNNING */
	/* Before a reader finds the end of its pipe. */
	machine_switch_end(src->machine, state, NULL);
	channel_close(src->channel);
	source_stop_log(src);
	mig_finish(src->mig, MIG_COMPLETED, NULL);
}

void source_run(struct mig *mig, struct err *err)
{
	struct source src = {
		.mig = mig,
		.machine = mig->machine,
		.channel = &mig->channel,
	};
	struct mig_params params;
	int ret;

	dirty_limit_take_log(mig->limit);
	converge_begin(mig->converge);
	mig_params(mig, &params);
	mig_caps(mig, &src.caps);
	policy_init(&src.policy, params.downtime_limit_ms * NS_PER_MS);
	src.policy.divides_only = params.divides_only;
	ret = record_init(&src.reply, err);
	if (!ret)
		ret = source_setup(&src, err);
	if (!ret)
		ret = source_rounds(&src, err);
	if (!ret)
		ret = source_switch(&src, err);
	if (ret)
		source_fail(&src, ret, err);
	else
		source_complete(&src);
	dirty_limit_give_log(mig->limit);
	state_send_fini(&src.ahead);
	bytes_writer_fini(&src.out);
	record_fini(&src.reply);
}
