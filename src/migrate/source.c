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
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/thread.h"
#include "base/trace.h"
#include "machine/machine.h"
#include "mem/ram.h"
#include "mem/space.h"
#include "source_priv.h"
#include "state/state.h"

/* A vCPU inside a device comes back within this: its back end has answered, or was let go
 * (VH_REPLY_NS).  The guest runs on meanwhile. */
#define EARLY_WAIT_NS (10 * NS_PER_SEC)

/* How often a sender that sleeps for the bandwidth limit looks around. */
#define LIMIT_CHECK_NS (50 * NS_PER_MS)
/* While the downtime limit is out of reach, a round serves only to notice that
 * it no longer is. */
#define FUTILE_ROUND_NS (50 * NS_PER_MS)
/* Behind a pass of few pages, before the guest is stopped or they are looked for again: on
 * one host, the destination's work on that pass took a CPU from the guest. */
#define BREATH_NS (500 * NS_PER_US)

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
int source_await_reply(struct source *src, uint32_t type, struct err *err)
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

/* The vCPUs leave the guest and are saved, as they will be in the switch and as urgently:
 * so what that takes is known, too. */
static int save_vcpus(struct source *src, struct err *err)
{
	uint64_t start;
	int ret;

	machine_hurry(src->machine, true);
	start = clock_mono_ns();
	ret = machine_save_setup(src->machine, start + EARLY_WAIT_NS,
				 src->channel->stop_fd, err);
	src->save_ns = ret ? 0 : clock_mono_ns() - start;
	machine_hurry(src->machine, false);
	return ret;
}

/* Of the vCPUs, which may do without it. */
static int save_early(struct source *src, bool *ret_has_early, struct err *err)
{
	struct err why = ERR_INIT;
	int ret = save_vcpus(src, &why);

	*ret_has_early = !ret;
	if (!ret || ret == -ETIMEDOUT) {
		if (ret)
			trace(mig_no_early, "%s", err_msg(&why));
		return 0;
	}
	return err_set(err, ret, "%s", err_msg(&why));
}

static int source_setup(struct source *src, struct err *err)
{
	struct mig *mig = src->mig;
	bool is_file, has_early;
	int ret;

	ret = channel_connect(src->channel, mig->uri, mig->stop_fd, mig_take_fd,
			      mig, err);
	if (ret)
		return ret;
	/* At once: a destination that knows who has come is told of a cancel. */
	is_file = src->channel->is_file;
	record_put_header(&src->out, is_file ? FMT_FLAG_NO_PATH : 0);
	ret = stream_flush(src->channel, &src->out, err);
	/* Before the rest: a vCPU inside a device may have locks for as long as its back
	 * end is silent. */
	if (!ret)
		ret = save_early(src, &has_early, err);
	if (ret)
		return ret;
	src->has_rings = machine_ring_stats(src->machine, &src->rings);
	/* For the switch, which fills it with the guest stopped. */
	bytes_reserve(&src->out,
		      STATE_ROOM(machine_options(src->machine)->cpus));
	put_machine(src);
	state_send_schemas(&src->out, machine_setup_state(src->machine));
	state_send_schemas(&src->out, machine_state(src->machine));
	ret = state_send_setup(&src->ahead, &src->out,
			       machine_setup_state(src->machine), has_early,
			       err);
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
		if (due_ns > now + LIMIT_CHECK_NS)
			due_ns = now + LIMIT_CHECK_NS;
		channel_await_taken(src->channel, due_ns, src->policy.rtt_ns);
		ret = channel_sleep(src->channel, due_ns);
		if (ret)
			return err_set(err, ret, "cancelled");
		ret = poll_replies(src, err);
		if (ret)
			return ret;
	}
}

void source_update_info(struct source *src, uint64_t remaining_pages)
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

bool source_is_cancelled(struct source *src)
{
	bool ret;

	lock_acquire(&src->mig->lock);
	ret = src->mig->info.state == MIG_CANCELLING;
	lock_release(&src->mig->lock);
	return ret;
}

/* After each record of a pass. */
int source_between_records(void *opaque, uint64_t pages, struct err *err)
{
	struct source *src = opaque;
	int ret;

	/* A file never makes the channel wait, where it would be noticed. */
	if (source_is_cancelled(src))
		return err_set(err, -ECANCELED, "cancelled");
	if (src->is_stopped)
		return 0;
	source_update_info(src, src->last_remaining > pages
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
		ret = source_await_reply(src, FMT_ROUND_DONE, err);
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

	ret = ram_send_pass(&src->ram, false, source_between_records, src, err);
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
 * would be mostly a wait for the guest's vCPUs, and say nothing about the link.  One that is
 * no measure anyway does not take a CPU from them: on a host with the destination, two urgent
 * threads have one of a guest's two CPUs, until the guest is stopped. */
static int source_pass(struct source *src, struct policy_round *round,
		       struct err *err)
{
	bool is_small = round->remaining_bytes <= MIG_SMALL_PASS;
	bool is_urgent =
		is_small && round->remaining_bytes >= POLICY_SAMPLE_MIN;
	bool is_near =
		is_small || src->policy.estimate_ns <= src->policy.limit_ns;
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

/* What stopping, saving, loading and starting take, by the destination's rehearsal or by
 * what was seen here, whichever is more: hosts differ.  A vCPU or a back end that was busy
 * once is not believed at once. */
static int take_costs(struct source *src, struct err *err)
{
	uint64_t backends_ns, here_ns, there_ns = src->policy.switch_ns;
	uint64_t first_ns = src->save_ns;
	int ret = 0;

	if (src->replies.has_costs)
		there_ns = src->replies.switch_ns;
	machine_hurry(src->machine, true);
	backends_ns = machine_time_backends(src->machine);
	machine_hurry(src->machine, false);
	if (first_ns && first_ns + backends_ns > there_ns) {
		ret = save_vcpus(src, err);
		if (ret == -ETIMEDOUT)
			ret = 0;
		if (src->save_ns > first_ns || !src->save_ns)
			src->save_ns = first_ns;
	}
	here_ns = src->save_ns + backends_ns;
	trace(mig_costs, "a save %lu us, back ends %lu us; there all %lu us",
	      src->save_ns / 1000, backends_ns / 1000, there_ns / 1000);
	policy_set_costs(&src->policy, here_ns > there_ns ? here_ns : there_ns,
			 src->replies.has_costs ? src->replies.state_bytes : 0);
	return ret;
}

/* Before any RAM is sent: what waits for a destination that is still being built
 * says nothing about the link.  It reads none before that either. */
static int await_built(struct source *src, struct err *err)
{
	int ret;

	if (src->channel->is_file)
		return take_costs(src, err);
	/* What is resident is looked for meanwhile. */
	ram_watch_look(&src->ram.watch);
	ret = source_await_reply(src, FMT_BUILT, err);
	if (!ret)
		ret = take_costs(src, err);
	return ret ? ret : measure_round_trip(src, err);
}

static int pace_rounds(struct source *src, const struct policy_round *round,
		       struct err *err)
{
	uint64_t until = 0;

	if (src->policy.is_out_of_reach)
		until = src->sync_start_ns + FUTILE_ROUND_NS;
	else if (round->sent_bytes < POLICY_SAMPLE_MIN && !round->is_paused &&
		 !src->channel->is_file &&
		 src->policy.estimate_ns + BREATH_NS <= src->policy.limit_ns)
		until = clock_mono_ns() + BREATH_NS;
	if (until && channel_sleep(src->channel, until))
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
		source_update_info(src, src->last_remaining);
		if (is_time)
			return 0;
		hold_back(src, &round);
		ret = source_pass(src, &round, err);
		if (!ret)
			ret = send_changed(src, err);
		if (!ret)
			ret = pace_rounds(src, &round, err);
	}
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
