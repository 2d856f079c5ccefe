// SPDX-License-Identifier: Apache-2.0
/*
 * A vhost-user device: its life and its thread.
 *
 *	           session_open()             the connection ends, or is ended for
 *	  away  --------------------> there   what the back end said or did not say
 *	  ^ ^ ^_____ pause _____|      | |
 *	  | |__________________________| |
 *	  |___________ leaving __________|    it has not ended its side yet
 *
 * What becomes of its rings is dev_lost.c's.  A back end that ended is looked for again
 * after 10 ms, one that only had to finish its requests after 1 ms, and then after ever
 * longer pauses, up to one second.
 */
#include "vhost/user.h"

#include <assert.h>
#include <errno.h>
#include <linux/vhost_types.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/err.h"
#include "base/trace.h"
#include "user_priv.h"

#define FIRST_PAUSE_NS  (10 * NS_PER_MS)
#define LAST_PAUSE_NS   (1 * NS_PER_SEC)
#define PARTED_PAUSE_NS (1 * NS_PER_MS)

/* How often rings are looked at that finish what they took after a stop that was given
 * up: nothing tells of it. */
#define RESUME_LOOK_MS 2

static bool is_ending(const struct vh_user *user)
{
	return __atomic_load_n(&user->is_ending, __ATOMIC_ACQUIRE);
}

static bool is_away(const struct vh_user *user)
{
	return __atomic_load_n(&user->dev.is_away, __ATOMIC_ACQUIRE);
}

/* ---- a back end is there ---- */

static void take_session(struct vh_user *user, struct session *session)
{
	struct vh_dev *dev = &user->dev;

	dev->is_stranger = session_is_stranger(session, user);
	user->peer = session->conn.peer;
	user->conn = session->conn;
	user->request_fd = session->request_fd;
	user->protocol = session->protocol;
	session->conn.fd = session->request_fd = -1;
	dev->backend_features = session->features;
	dev->regions_max = session->regions_max;
	dev->has_slots = user_has(user, UM_PROTOCOL_CONFIGURE_MEM_SLOTS);
	dev->can_log = user_has(user, UM_PROTOCOL_LOG_SHMFD) &&
		       dev->backend_features >> VHOST_F_LOG_ALL & 1;
	dev->has_inflight = user_has(user, UM_PROTOCOL_INFLIGHT_SHMFD);
	/* Those that keep no record do not wait for their requests either. */
	dev->is_hasty = !dev->has_inflight && !dev->may_lose;
}

/* With no lock.  What the back end answers is seen by resume(): nobody is to wait for the
 * device's lock because it is silent. */
static int attach(struct vh_user *user, struct session *session,
		  struct err *err)
{
	struct vh_dev *dev = &user->dev;
	const struct vh_mem_table *table;
	const struct vh_log *log;
	int ret;

	vh_dev_lock_both(dev, UINT64_MAX);
	take_session(user, session);
	vh_dev_arrived(dev);
	table = dev->side->table;
	log = dev->side->is_logging ? dev->side->log : NULL;
	lock_release(&dev->side->lock);
	ret = vh_dev_back(dev, table, log, clock_mono_ns(), err);
	if (ret == -ETIMEDOUT) {
		err_clear(err);
		dev->ops->resume(dev);
		ret = 0;
	}
	if (ret)
		vh_dev_fail(dev, ret, err);
	lock_release(&dev->lock);
	trace(vh_user_attached, "%s: features 0x%lx, protocol 0x%lx",
	      user->name, dev->backend_features, user->protocol);
	return ret;
}

static int connect_once(struct vh_user *user, struct err *err)
{
	struct session session;
	int ret = session_open(&session, user, err);

	if (!ret)
		ret = attach(user, &session, err);
	session_close(&session);
	return ret;
}

/* ---- the thread ---- */

static void reconnect(struct vh_user *user)
{
	struct err err = ERR_INIT;
	int ret = connect_once(user, &err);

	if (!ret && !__atomic_load_n(&user->wants_resume, __ATOMIC_ACQUIRE)) {
		user->pause_ns = FIRST_PAUSE_NS;
		return;
	}
	if (ret)
		trace(vh_user_away, "%s: %s", user->name, err_msg(&err));
	/* One that ends again before it has answered is not tried all the time. */
	user->pause_ns *= 2;
	if (user->pause_ns > LAST_PAUSE_NS)
		user->pause_ns = LAST_PAUSE_NS;
}

static void lose(struct vh_user *user, int why, const struct err *reason)
{
	vh_dev_lock(&user->dev);
	if (!is_away(user))
		vh_dev_fail(&user->dev, why, reason);
	vh_dev_unlock(&user->dev);
}

/* With the device's lock: the connection there is. */
static int connection_fd(const struct vh_user *user)
{
	return user->dev.is_leaving ? user->leaving_fd : user->conn.fd;
}

/* The connection that was looked at may be another by now. */
static void check_connection(struct vh_user *user)
{
	struct pollfd poll_fd = { .events = POLLRDHUP };
	struct err err = ERR_INIT;

	vh_dev_lock(&user->dev);
	poll_fd.fd = connection_fd(user);
	if (poll_fd.fd < 0 || poll(&poll_fd, 1, 0) <= 0) {
		vh_dev_unlock(&user->dev);
		return;
	}
	if (user->dev.is_leaving) {
		user->dev.ops->wait_left(&user->dev, 0);
	} else if (!is_away(user)) {
		err_set(&err, -ECONNRESET, "%s: its back end has gone",
			user->name);
		vh_dev_fail(&user->dev, -ECONNRESET, &err);
	}
	vh_dev_unlock(&user->dev);
}

/* Go on after a stop that was given up, or with a back end that is there again.  Never
 * waits: it is called whenever there is something to be read. */
static void resume(struct vh_user *user)
{
	struct vh_dev *dev = &user->dev;
	struct err err = ERR_INIT;
	const struct vh_mem_table *table;
	const struct vh_log *log;
	int ret = 0;

	/* Before looking: it may be wanted again meanwhile. */
	__atomic_store_n(&user->wants_resume, false, __ATOMIC_RELEASE);
	vh_dev_lock_both(dev, UINT64_MAX);
	table = dev->side->table;
	log = dev->side->is_logging ? dev->side->log : NULL;
	lock_release(&dev->side->lock);
	if (!user->resume_until_ns)
		user->resume_until_ns = clock_mono_ns() + VH_STOP_LIMIT_NS;
	if (!is_away(user))
		ret = vh_dev_back(dev, table, log, clock_mono_ns(), &err);
	if (ret == -ETIMEDOUT && clock_mono_ns() >= user->resume_until_ns)
		ret = -ECONNRESET; /* the next one goes on, if one can */
	if (ret && ret != -ETIMEDOUT)
		vh_dev_fail(dev, ret, &err);
	if (ret == -ETIMEDOUT)
		__atomic_store_n(&user->wants_resume, true, __ATOMIC_RELEASE);
	else
		user->resume_until_ns = 0;
	if (!ret)
		user->pause_ns = FIRST_PAUSE_NS;
	lock_release(&dev->lock);
}

/* What the thread is to look at. */
enum {
	WAKE,
	CONNECTION,
	REQUESTS,
	POLL_COUNT
};

struct todo {
	bool wants_resume;
	bool wants_back_end;
};

static struct todo gather(struct vh_user *user, struct pollfd polls[POLL_COUNT])
{
	struct todo todo;
	eventfd_t count;

	eventfd_read(user->wake_fd, &count); /* before looking */

	vh_dev_lock(&user->dev);
	if (user->request_fd >= 0)
		request_channel_open(&user->requests, user->request_fd);
	user->request_fd = -1;
	if (is_away(user))
		request_channel_close(&user->requests);
	polls[CONNECTION].fd = connection_fd(user);
	todo.wants_resume =
		__atomic_load_n(&user->wants_resume, __ATOMIC_ACQUIRE);
	todo.wants_back_end = is_away(user) && !user->dev.is_leaving;
	if (user->has_parted)
		user->pause_ns = PARTED_PAUSE_NS;
	user->has_parted = false;
	vh_dev_unlock(&user->dev);
	polls[WAKE].fd = user->wake_fd;
	polls[REQUESTS].fd = user->requests.fd;
	polls[WAKE].events = polls[REQUESTS].events = POLLIN;
	polls[CONNECTION].events = POLLRDHUP;
	if (todo.wants_resume && !is_away(user))
		polls[CONNECTION].events |= POLLIN;
	return todo;
}

static void read_requests(struct vh_user *user)
{
	struct err err = ERR_INIT;
	int ret = request_channel_read(&user->requests, user->name,
				       user->config.config_changed,
				       user->config.opaque, &err);

	if (!ret)
		return;
	request_channel_close(&user->requests);
	lose(user, ret, &err);
}

static void *user_main(void *opaque)
{
	struct vh_user *user = opaque;
	struct pollfd polls[POLL_COUNT];

	while (!is_ending(user)) {
		struct todo todo = gather(user, polls);
		int timeout_ms = -1;

		if (todo.wants_back_end)
			timeout_ms = (int)(user->pause_ns / NS_PER_MS);
		else if (todo.wants_resume)
			timeout_ms = RESUME_LOOK_MS;
		if (poll(polls, POLL_COUNT, timeout_ms) == 0 &&
		    todo.wants_back_end)
			reconnect(user);
		if (todo.wants_resume)
			resume(user);
		if (polls[REQUESTS].revents)
			read_requests(user);
		if (polls[CONNECTION].revents)
			check_connection(user);
	}
	return NULL;
}

/* ---- new and free ---- */

static int start_thread(struct vh_user *user, struct err *err)
{
	int ret = pthread_create(&user->thread, NULL, user_main, user);

	if (ret)
		return err_set_errno(err, -ret, "%s: thread", user->name);
	user->has_thread = true;
	pthread_setname_np(user->thread, "vhost-user");
	return 0;
}

static int user_init(struct vh_user *user, struct vh_board *board,
		     struct err *err)
{
	struct vh_dev *dev = &user->dev;
	int ret;

	user->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	user->null_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (user->wake_fd < 0 || user->null_fd < 0)
		return err_set_errno(err, -errno, "%s: eventfd", user->name);
	ret = closer_new(&user->closer, err);
	if (ret)
		return ret;
	dev->ops = &user_ops;
	dev->name = user->name;
	dev->may_lose = user->config.may_lose;
	ret = vh_dev_join(dev, board, VH_USER, user->config.rings, err);
	if (!ret)
		ret = connect_once(user, err);
	if (ret)
		return ret;
	user->offered = user->config.features & dev->backend_features;
	return start_thread(user, err);
}

int vh_user_new(struct vh_board *board, const struct vh_user_config *config,
		struct vh_user **ret_user, struct err *err)
{
	struct vh_user *user;
	int ret;

	if (strlen(config->path) >= sizeof(user->path))
		return err_set(err, -ENAMETOOLONG,
			       "%s: a socket's path has at most %zu bytes",
			       config->name, sizeof(user->path) - 1);
	user = calloc(1, sizeof(*user));
	if (!user)
		return err_set(err, -ENOMEM, "%s", config->name);
	user->config = *config;
	snprintf(user->name, sizeof(user->name), "%s", config->name);
	strcpy(user->path, config->path);
	user->config.name = user->config.path = NULL; /* the caller's */
	user->wake_fd = user->null_fd = user->inflight_fd = -1;
	user->leaving_fd = -1;
	user->request_fd = user->requests.fd = -1;
	user->pause_ns = FIRST_PAUSE_NS;
	conn_init(&user->conn, user->name);
	ret = user_init(user, board, err);
	if (ret) {
		vh_user_free(user);
		return ret;
	}
	*ret_user = user;
	return 0;
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

void vh_user_free(struct vh_user *user)
{
	if (!user)
		return;
	__atomic_store_n(&user->is_ending, true, __ATOMIC_RELEASE);
	if (user->has_thread) {
		eventfd_write(user->wake_fd, 1);
		pthread_join(user->thread, NULL);
	}
	conn_close(&user->conn);
	vh_dev_leave(&user->dev);
	request_channel_close(&user->requests);
	close_fd(user->leaving_fd);
	close_fd(user->request_fd);
	close_fd(user->wake_fd);
	close_fd(user->null_fd);
	close_fd(user->inflight_fd);
	closer_free(user->closer);
	free(user);
}

struct vh_dev *vh_user_dev(struct vh_user *user)
{
	return &user->dev;
}

uint64_t vh_user_features(const struct vh_user *user)
{
	return user->offered;
}

/* ---- what a device type asks of its back end ---- */

/* With the device's lock: 0, or the back end has gone. */
static int begin(struct vh_user *user, struct err *err)
{
	vh_dev_lock(&user->dev);
	user->dev.deadline_ns = clock_mono_ns() + VH_REPLY_NS;
	return is_away(user) ? err_set(err, -ENOTCONN,
				       "%s: there is no back end", user->name)
			     : 0;
}

static int finish(struct vh_user *user, int ret, struct err *err)
{
	if (ret && !is_away(user))
		vh_dev_fail(&user->dev, ret, err);
	vh_dev_unlock(&user->dev);
	return ret;
}

int vh_user_get_config(struct vh_user *user, void *bytes, size_t size,
		       struct err *err)
{
	struct um_config config = { .size = (uint32_t)size };
	struct conn_message message = {
		.request = UM_GET_CONFIG,
		.payload = &config,
		.size = offsetof(struct um_config, bytes) + size,
	};
	int ret = begin(user, err);

	assert(size <= UM_CONFIG_MAX);
	if (!ret)
		ret = conn_ask(&user->conn, &message, &config, message.size,
			       NULL, user->dev.deadline_ns, err);
	if (!ret && (config.size != size || config.offset))
		ret = err_set(err, -EBADMSG,
			      "%s: its back end has %u bytes of configuration "
			      "at %u for %zu",
			      user->name, config.size, config.offset, size);
	if (!ret)
		memcpy(bytes, config.bytes, size);
	return finish(user, ret, err);
}

int vh_user_send_rarp(struct vh_user *user, const uint8_t mac[6],
		      struct err *err)
{
	uint8_t payload[8] = { 0 };
	struct conn_message message = {
		.request = UM_SEND_RARP,
		.payload = payload,
		.size = sizeof(payload),
		.reply = CONN_NO_REPLY, /* a card that says no works on */
	};
	int ret;

	memcpy(payload, mac, 6);
	ret = vh_dev_lock_until(&user->dev, clock_mono_ns() + VH_LOOK_NS, err);
	if (ret)
		return ret;
	if (is_away(user) || !user_has(user, UM_PROTOCOL_RARP))
		ret = err_set(err, -ENOTSUP,
			      "%s: there is no back end that can tell the "
			      "network",
			      user->name);
	else
		ret = conn_send(&user->conn, &message, clock_mono_ns(), err);
	if (ret && ret != -ENOTSUP && ret != -ETIMEDOUT)
		vh_dev_fail(&user->dev, ret, err);
	vh_dev_unlock(&user->dev);
	return ret;
}
