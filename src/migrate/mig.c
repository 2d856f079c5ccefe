// SPDX-License-Identifier: Apache-2.0
/*
 * The part of a migration that other threads see.  Its state machines are drawn
 * in states.c.
 */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "base/trace.h"
#include "machine/machine.h"
#include "mig_priv.h"

#define DEFAULT_DOWNTIME_LIMIT_MS 300
#define DEFAULT_MAX_CPU_THROTTLE  99
#define DEFAULT_LOG_STOP_DELAY_MS 1000

#define LINGER_MS 10

/* With the lock. */
static void set_state(struct mig *mig, enum mig_state to)
{
	enum mig_state from = mig->info.state;
	const struct arc *arc = arc_find(from, to);
	const struct mig_event event = { .state = to };

	lock_assert_held(&mig->lock);
	if (!arc) {
		log_warn("no arc from migration state %s to %s",
			 state_name(from), state_name(to));
		abort(); /* our own bug: go no further with this guest */
	}
	trace(mig_state, "%s to %s", state_name(from), state_name(to));
	mig->info.state = to;
	if (mig->fail.arc == arc) {
		mig->broken = mig->fail;
		mig->fail.arc = NULL;
	}
	/* In the pause, no event that tells a client nothing new. */
	if (strcmp(mig_status(from), mig_status(to)) != 0)
		mig->on_event(mig->opaque, &event);
}

int mig_break(struct mig *mig, struct err *err)
{
	struct fail broken;
	uint64_t drained;
	int ret;

	lock_acquire(&mig->lock);
	broken = mig->broken;
	mig->broken.arc = NULL;
	/* The cancel that took this arc does not end a stall at it. */
	if (broken.arc && !mig->is_ending &&
	    (broken.arc->to == MIG_CANCELLING ||
	     broken.arc->to == MIG_CANCELLED) &&
	    read(mig->stop_fd, &drained, sizeof(drained)) < 0)
		assert(errno == EAGAIN);
	lock_release(&mig->lock);
	if (!broken.arc)
		return 0;
	ret = fail_act(&broken, &mig->channel, mig->stop_fd);
	return ret ? err_set(err, ret, "stopped") : 0;
}

int mig_set_state(struct mig *mig, enum mig_state to, struct err *err)
{
	bool is_broken;
	int ret = 0;

	lock_acquire(&mig->lock);
	if (mig->info.state == MIG_CANCELLING)
		ret = err_set(err, -ECANCELED, "cancelled");
	else
		set_state(mig, to);
	is_broken = mig->broken.arc != NULL;
	lock_release(&mig->lock);
	return !ret && is_broken ? mig_break(mig, err) : ret;
}

static bool make_parts(struct mig *mig)
{
	mig->governor = governor_new(mig->machine);
	if (!mig->governor)
		return false;
	mig->limit = dirty_limit_new(mig->machine, mig->governor);
	mig->converge = converge_new(mig->machine, mig->governor);
	if (mig->limit)
		mig->rate = dirty_rate_new(mig->machine, mig->limit);
	return mig->limit && mig->converge && mig->rate;
}

struct mig *mig_new(struct machine *machine, mig_event_fn *on_event,
		    void *opaque)
{
	struct mig *mig = calloc(1, sizeof(*mig));

	if (!mig)
		return NULL;
	mig->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (mig->stop_fd < 0) {
		free(mig);
		return NULL;
	}
	mig->machine = machine;
	lock_init(&mig->lock, LOCK_MIGRATE);
	list_init(&mig->fds);
	if (!make_parts(mig)) {
		mig_free(mig);
		return NULL;
	}
	mig->on_event = on_event;
	mig->opaque = opaque;
	mig->params.downtime_limit_ms = DEFAULT_DOWNTIME_LIMIT_MS;
	mig->params.max_cpu_throttle = DEFAULT_MAX_CPU_THROTTLE;
	mig->params.log_stop_delay_ms = DEFAULT_LOG_STOP_DELAY_MS;
	mig->caps.events = true;
	mig->channel = (struct channel)CHANNEL_INIT;
	mig->listener = (struct channel_listener)CHANNEL_LISTENER_INIT;
	return mig;
}

/* With the lock: make the thread give up. */
static void stop_thread(struct mig *mig)
{
	const uint64_t one = 1;

	if (mig->is_active && arc_find(mig->info.state, MIG_CANCELLING))
		set_state(mig, MIG_CANCELLING);
	if (write(mig->stop_fd, &one, sizeof(one)) < 0)
		assert(errno == EAGAIN); /* it is readable already */
}

/* It has finished, or was told to. */
static void join_thread(struct mig *mig)
{
	if (mig->has_thread)
		pthread_join(mig->thread, NULL);
	mig->has_thread = false;
}

void mig_free(struct mig *mig)
{
	struct mig_fd *named, *next;

	if (!mig)
		return;
	/* Whose guest it is now, the end of this process does not change. */
	lock_acquire(&mig->lock);
	mig->is_ending = true;
	stop_thread(mig);
	lock_release(&mig->lock);
	join_thread(mig);
	dirty_rate_free(mig->rate);
	dirty_limit_free(mig->limit);
	converge_free(mig->converge);
	governor_free(mig->governor);
	list_for_each_safe (named, next, &mig->fds, link) {
		close(named->fd);
		list_del(&named->link);
		free(named);
	}
	close(mig->stop_fd);
	lock_fini(&mig->lock);
	free(mig);
}

static void *thread_main(void *opaque)
{
	struct mig *mig = opaque;
	struct err err = ERR_INIT;
	bool is_incoming = mig->info.is_incoming;

	thread_want_low_latency();
	thread_map_now();
	mig_break(mig, NULL); /* its first arc; a stop is noticed soon */
	if (is_incoming)
		destination_run(mig, &err);
	else
		source_run(mig, &err);
	return NULL;
}

void mig_finish(struct mig *mig, enum mig_state to, const struct err *err)
{
	lock_acquire(&mig->lock);
	if (err)
		mig->info.error = *err;
	mig->info.total_ns = clock_mono_ns() - mig->start_ns;
	if (mig->info.state == MIG_CANCELLING)
		to = MIG_CANCELLED;
	set_state(mig, to);
	if (mig->broken.arc) {
		lock_release(&mig->lock);
		mig_break(mig, NULL);
		lock_acquire(&mig->lock);
	}
	mig->is_active = false;
	lock_release(&mig->lock);
}

void mig_linger(struct mig *mig)
{
	struct pollfd stop = { .fd = mig->stop_fd, .events = POLLIN };

	poll(&stop, 1, LINGER_MS);
}

/* With the lock: a thread for one migration.  @first is its first state. */
static int start_thread(struct mig *mig, const char *uri, bool is_incoming,
			enum mig_state first, struct err *err)
{
	uint64_t drained;
	int ret;

	stop_thread(mig); /* an earlier one, which lingers at most */
	join_thread(mig);
	while (read(mig->stop_fd, &drained, sizeof(drained)) > 0)
		;
	mig->info = (struct mig_info){ .state = mig->info.state,
				       .is_incoming = is_incoming };
	snprintf(mig->info.uri, sizeof(mig->info.uri), "%s", uri);
	snprintf(mig->uri, sizeof(mig->uri), "%s", uri);
	mig->broken.arc = NULL; /* of a thread that could not be made */
	mig->is_active = true;
	mig->start_ns = clock_mono_ns();
	set_state(mig, first);
	ret = pthread_create(&mig->thread, NULL, thread_main, mig);
	if (ret) {
		mig->is_active = false;
		set_state(mig, MIG_FAILED);
		return err_set_errno(err, -ret, "migration thread");
	}
	mig->has_thread = true;
	pthread_setname_np(mig->thread, is_incoming ? "mig-in" : "mig-out");
	return 0;
}

static int check_start(struct mig *mig, const char *uri, struct err *err)
{
	if (mig->is_active)
		return err_set(err, -EBUSY, "a migration is under way");
	if (strlen(uri) >= sizeof(mig->uri))
		return err_set(err, -EINVAL, "URI of %zu bytes, at most %zu",
			       strlen(uri), sizeof(mig->uri) - 1);
	return channel_check_uri(uri, err);
}

int mig_start(struct mig *mig, const char *uri, struct err *err)
{
	enum run_state state = machine_run_state(mig->machine);
	int ret;

	lock_acquire(&mig->lock);
	ret = check_start(mig, uri, err);
	if (!ret && state != RUN_STATE_RUNNING && state != RUN_STATE_PAUSED)
		ret = err_set(err, -EINVAL, "cannot move a machine that is %s",
			      run_state_name(state));
	if (!ret) {
		dirty_rate_end(mig->rate);
		ret = start_thread(mig, uri, false, MIG_SETUP, err);
	}
	lock_release(&mig->lock);
	return ret;
}

int mig_incoming(struct mig *mig, const char *uri, struct err *err)
{
	enum run_state state = machine_run_state(mig->machine);
	int ret;

	lock_acquire(&mig->lock);
	ret = check_start(mig, uri, err);
	if (!ret &&
	    (state != RUN_STATE_INMIGRATE || mig->info.state != MIG_NONE))
		ret = err_set(err, -EINVAL,
			      "only a machine started with --incoming that "
			      "received nothing yet takes one in");
	lock_release(&mig->lock);
	/* Without the lock, for mig_take_fd(); the callers are one thread. */
	if (!ret)
		ret = channel_listen(&mig->listener, uri, mig_take_fd, mig,
				     err);
	if (ret)
		return ret;
	lock_acquire(&mig->lock);
	ret = start_thread(mig, uri, true, MIG_LISTENING, err);
	lock_release(&mig->lock);
	if (ret)
		channel_listener_close(&mig->listener);
	return ret;
}

void mig_cancel(struct mig *mig)
{
	lock_acquire(&mig->lock);
	if (!state_is_past_go(mig->info.state))
		stop_thread(mig);
	lock_release(&mig->lock);
}

void mig_query(struct mig *mig, struct mig_info *ret_info)
{
	lock_acquire(&mig->lock);
	*ret_info = mig->info;
	if (mig->is_active)
		ret_info->total_ns = clock_mono_ns() - mig->start_ns;
	lock_release(&mig->lock);
}

void mig_params(struct mig *mig, struct mig_params *ret_params)
{
	lock_acquire(&mig->lock);
	*ret_params = mig->params;
	lock_release(&mig->lock);
}

const char *mig_switch_name(enum mig_switch how)
{
	static const char *const names[MIG_SWITCH_COUNT] = {
		[MIG_SWITCH_EARLY] = "early",
		[MIG_SWITCH_BATCHED] = "batched",
		[MIG_SWITCH_NAIVE] = "naive",
	};

	return names[how];
}

int mig_set_params(struct mig *mig, const struct mig_params *params,
		   struct err *err)
{
	if (params->downtime_limit_ms > MIG_DOWNTIME_LIMIT_MAX_MS)
		return err_set(
			err, -ERANGE, "downtime-limit of %lu ms, at most %llu",
			params->downtime_limit_ms, MIG_DOWNTIME_LIMIT_MAX_MS);
	if (params->max_cpu_throttle > MIG_CPU_THROTTLE_MAX)
		return err_set(err, -ERANGE,
			       "max-cpu-throttle of %lu per cent, at most %u",
			       params->max_cpu_throttle, MIG_CPU_THROTTLE_MAX);
	if (params->log_stop_delay_ms > MIG_LOG_STOP_DELAY_MAX_MS)
		return err_set(err, -ERANGE,
			       "x-log-stop-delay of %lu ms, at most %llu",
			       params->log_stop_delay_ms,
			       MIG_LOG_STOP_DELAY_MAX_MS);
	lock_acquire(&mig->lock);
	mig->params = *params;
	lock_release(&mig->lock);
	return 0;
}

int mig_set_fail(struct mig *mig, const char *text, struct err *err)
{
	struct fail fail;
	int ret = fail_parse(text, &fail, err);

	if (ret)
		return ret;
	lock_acquire(&mig->lock);
	mig->fail = fail;
	lock_release(&mig->lock);
	return 0;
}

void mig_fail(struct mig *mig, char ret_text[MIG_FAIL_MAX])
{
	lock_acquire(&mig->lock);
	fail_text(&mig->fail, ret_text);
	lock_release(&mig->lock);
}

void mig_caps(struct mig *mig, struct mig_caps *ret_caps)
{
	lock_acquire(&mig->lock);
	*ret_caps = mig->caps;
	lock_release(&mig->lock);
}

int mig_set_caps(struct mig *mig, const struct mig_caps *caps, struct err *err)
{
	int ret = 0;

	lock_acquire(&mig->lock);
	if (mig->is_active && !mig->info.is_incoming)
		ret = err_set(err, -EBUSY, "a migration is under way");
	else
		mig->caps = *caps;
	lock_release(&mig->lock);
	return ret;
}

int mig_add_fd(struct mig *mig, const char *name, int fd, struct err *err)
{
	struct mig_fd *named = calloc(1, sizeof(*named));
	int old;

	if (!named || strlen(name) >= sizeof(named->name)) {
		free(named);
		return err_set(err, -EINVAL,
			       "descriptor name of %zu bytes, at "
			       "most %zu",
			       strlen(name), sizeof(named->name) - 1);
	}
	/* As in QEMU, a name given again replaces the descriptor. */
	old = mig_take_fd(mig, name);
	if (old >= 0)
		close(old);
	snprintf(named->name, sizeof(named->name), "%s", name);
	named->fd = fd;
	lock_acquire(&mig->lock);
	list_add_tail(&mig->fds, &named->link);
	lock_release(&mig->lock);
	return 0;
}

int mig_del_fd(struct mig *mig, const char *name, struct err *err)
{
	int fd = mig_take_fd(mig, name);

	if (fd < 0)
		return err_set(err, -ENOENT, "no descriptor named '%s'", name);
	close(fd);
	return 0;
}

int mig_take_fd(void *opaque, const char *name)
{
	struct mig *mig = opaque;
	struct mig_fd *named, *next;
	int fd = -1;

	lock_acquire(&mig->lock);
	list_for_each_safe (named, next, &mig->fds, link) {
		if (strcmp(named->name, name) != 0)
			continue;
		fd = named->fd;
		list_del(&named->link);
		free(named);
		break;
	}
	lock_release(&mig->lock);
	return fd;
}

int mig_calc_dirty_rate(struct mig *mig, const struct dirty_rate_params *params,
			struct err *err)
{
	enum run_state state = machine_run_state(mig->machine);
	int ret = 0;

	lock_acquire(&mig->lock);
	if (mig->is_active)
		ret = err_set(err, -EBUSY, "a migration is under way");
	else if (state != RUN_STATE_RUNNING && state != RUN_STATE_PAUSED)
		ret = err_set(err, -EINVAL,
			      "cannot measure a machine that is %s",
			      run_state_name(state));
	else
		ret = dirty_rate_start(mig->rate, params, err);
	lock_release(&mig->lock);
	return ret;
}

int mig_set_dirty_limit(struct mig *mig, unsigned int vcpu,
			uint64_t mib_per_sec, struct err *err)
{
	enum run_state state = machine_run_state(mig->machine);

	if (mib_per_sec && state != RUN_STATE_RUNNING &&
	    state != RUN_STATE_PAUSED && state != RUN_STATE_FINISH_MIGRATE)
		return err_set(err, -EINVAL,
			       "cannot limit a machine that is %s",
			       run_state_name(state));
	return dirty_limit_set(mig->limit, vcpu, mib_per_sec, err);
}

struct dirty_rate *mig_dirty_rate(struct mig *mig)
{
	return mig->rate;
}

struct dirty_limit *mig_dirty_limit(struct mig *mig)
{
	return mig->limit;
}

struct converge *mig_converge(struct mig *mig)
{
	return mig->converge;
}

unsigned int mig_cpus(const struct mig *mig)
{
	return machine_options(mig->machine)->cpus;
}
