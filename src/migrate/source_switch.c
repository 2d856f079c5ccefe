// SPDX-License-Identifier: Apache-2.0
/*
 * The switch of an outgoing migration: the guest is stopped, saved and given away, or
 * goes on here (docs/pause.md).  Called by source.c, on its thread.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/err.h"
#include "machine/machine.h"
#include "migrate/verify.h"
#include "source_priv.h"

/* The downtime limit is a promise to whoever uses the guest: a switch that has not come to
 * GO by then is given up, and the guest goes on here.  The estimate was within the limit,
 * so what is allowed beyond is what an estimate may be wrong by: a fourth, or what
 * wake-ups on a host with far too few CPUs take (to stop one vCPU: 100 ms now and then
 * with a load of 14 a CPU).  Nobody waits for a guest that was paused. */
#define SWITCH_LATE_NS        (200 * NS_PER_MS)
#define SWITCH_LATE_PART      4
#define SWITCH_LATE_PAUSED_NS (1 * NS_PER_SEC)
#define VERIFY_GRACE_NS       (120 * NS_PER_SEC)
/* After GO there is nothing to take back; this long until handed-over. */
#define RUNNING_WAIT_NS (10 * NS_PER_SEC)
/* What a guest that has begun maps first, and its first exits, take. */
#define BEGIN_NS (2 * NS_PER_MS)

/* A destination that hears of the end gives back what it claimed within this, or it hangs. */
#define RECLAIM_LEAST_NS (50 * NS_PER_MS)
#define RECLAIM_AGAIN_MS 2

/* What was expected is above the limit only where that does not decide: of a paused guest,
 * or by an estimate of the size alone. */
static uint64_t switch_time(const struct source *src, bool is_paused)
{
	uint64_t ns = src->policy.estimate_ns > src->policy.limit_ns
			      ? src->policy.estimate_ns
			      : src->policy.limit_ns;
	uint64_t late_ns = ns / SWITCH_LATE_PART;

	if (late_ns < SWITCH_LATE_NS)
		late_ns = SWITCH_LATE_NS;
	if (is_paused && late_ns < SWITCH_LATE_PAUSED_NS)
		late_ns = SWITCH_LATE_PAUSED_NS;
	return ns + late_ns;
}

static void set_deadline(struct source *src, bool is_paused)
{
	src->switch_until_ns =
		src->pause.begin_ns + switch_time(src, is_paused);
	src->channel->deadline_ns =
		src->switch_until_ns + (src->caps.verify ? VERIFY_GRACE_NS : 0);
}

/* Stop the guest and save it; from here to GO it is stopped and the source's. */
static int source_stop(struct source *src, struct err *err)
{
	struct fmt_stopped stopped;
	int ret;

	record_put(&src->out, FMT_SWITCH, NULL, 0);
	ret = stream_flush(src->channel, &src->out, err);
	if (ret)
		return ret;
	machine_hurry(src->machine, true);
	pause_begin(&src->pause, src->mig);
	set_deadline(src, false);
	ret = machine_switch_begin(src->machine, src->switch_until_ns,
				   &src->was_running, err);
	if (ret)
		return ret;
	src->is_stopped = true;
	set_deadline(src, !src->was_running);
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
	ret = machine_stop_backends(src->machine, src->switch_until_ns, err);
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
	ret = ram_send_pass(&src->ram, true, source_between_records, src, err);
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
	ret = source_await_reply(src, FMT_READY, err);
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
	/* On a host that it shares with the destination a thread that wakes for
	 * RUNNING would take its CPU from the guest that has just begun there, for
	 * 150 us and more. */
	machine_hurry(src->machine, false);
	channel_sleep(src->channel, clock_mono_ns() + BEGIN_NS);
	src->channel->deadline_ns = clock_mono_ns() + RUNNING_WAIT_NS;
	ret = source_await_reply(src, FMT_RUNNING, err);
	phase_end(&src->pause.phases, MIG_PHASE_WAIT_RUNNING);
	if (ret)
		return ret;
	memcpy(&report, src->reply.body, sizeof(report));
	pause_take_report(src->mig, &report);
	return 0;
}

void source_send_cancel(struct source *src, const struct err *err)
{
	const char *reason = source_is_cancelled(src)
				     ? "cancelled by the source"
				     : err_msg(err);
	struct bytes_writer w = { .data = NULL };
	struct channel quick = *src->channel;

	/* Before the header nobody would know it for a migration. */
	if (quick.fd < 0 || quick.is_file || !quick.sent || src->has_cancelled)
		return;
	src->has_cancelled = true;
	/* Only what fits at once.  In the middle of a RAM record it is taken for
	 * pages: the destination fails all the same, without the reason. */
	quick.stop_fd = -1;
	quick.deadline_ns = 1;
	record_put(&w, FMT_CANCEL, reason, strnlen(reason, FMT_REASON_MAX));
	stream_flush(&quick, &w, NULL);
	bytes_writer_fini(&w);
	if (quick.is_socket)
		shutdown(quick.fd, SHUT_RDWR);
}

/* The destination gives back what it claimed as soon as it knows; locks of files
 * tell nobody when, so they are asked for again and again.  Within the time of the
 * switch: later the machine does so by itself. */
static void reclaim(struct source *src)
{
	uint64_t deadline_ns = clock_mono_ns() + RECLAIM_LEAST_NS;

	if (deadline_ns < src->switch_until_ns)
		deadline_ns = src->switch_until_ns;
	while (machine_claim(src->machine, NULL) &&
	       clock_mono_ns() < deadline_ns)
		poll(NULL, 0, RECLAIM_AGAIN_MS);
}

/* Not given away: the guest is the source's, and runs on if it ran.  Unless
 * somebody has its disks: then it is paused until they are free. */
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
		err_prefix(
			err,
			"the guest is paused until it has its disks again (%s)",
			err_msg(&reason));
}

/* The way in which what is stopped and sent becomes another's. */
static int source_pass_on(struct source *src, struct err *err)
{
	if (!src->channel->is_file)
		return source_hand_over(src, err);
	return src->channel->save.name ? source_save(src, err)
				       : source_let_go(src, err);
}

int source_switch(struct source *src, struct err *err)
{
	uint64_t precopy = src->channel->sent;
	int ret;

	ret = source_stop(src, err);
	if (!ret)
		ret = source_send_rest(src, err);
	if (!ret)
		ret = source_pass_on(src, err);
	pause_end(&src->pause, src->mig, &src->replies);
	if (ret && !src->is_given) {
		if (src->is_stopped) /* it may have the disks */
			source_send_cancel(src, err);
		source_resume(src, err);
	}
	machine_hurry(src->machine, false);
	lock_acquire(&src->mig->lock);
	src->mig->info.precopy_bytes = precopy;
	src->mig->info.downtime_bytes = src->channel->sent - precopy;
	lock_release(&src->mig->lock);
	source_update_info(src, ret ? src->last_remaining : 0);
	return ret;
}
