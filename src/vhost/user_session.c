// SPDX-License-Identifier: Apache-2.0
/*
 * The beginning of a vhost-user connection: features, protocol features, numbers of
 * queues and of memory slots, the socket for the back end's own requests.  Called by user.c, with no
 * lock: a back end that does not answer holds up nobody but the thread that asks.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/vhost_types.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "user_priv.h"

/* DPDK 22.11 looks for new connections once a second. */
#define SESSION_NS (3 * NS_PER_SEC)

#define BIT(n) (1ull << (n))

/* What a back end may have of what is used here. */
static uint64_t wanted(const struct vh_user *user)
{
	uint64_t features = BIT(UM_PROTOCOL_MQ) | BIT(UM_PROTOCOL_LOG_SHMFD) |
			    BIT(UM_PROTOCOL_REPLY_ACK) |
			    BIT(UM_PROTOCOL_CONFIGURE_MEM_SLOTS);

	if (user->config.needs_config)
		features |=
			BIT(UM_PROTOCOL_CONFIG) | BIT(UM_PROTOCOL_BACKEND_REQ);
	if (user->config.may_lose)
		return features | BIT(UM_PROTOCOL_RARP);
	return features | BIT(UM_PROTOCOL_INFLIGHT_SHMFD);
}

static int ask_u64(struct session *session, enum um_request request,
		   uint64_t *ret_value, uint64_t deadline_ns, struct err *err)
{
	const struct conn_message message = { .request = request };

	return conn_ask(&session->conn, &message, ret_value, sizeof(*ret_value),
			NULL, deadline_ns, err);
}

static int negotiate_protocol(struct session *session,
			      const struct vh_user *user, uint64_t deadline_ns,
			      struct err *err)
{
	struct conn_message message = {
		.request = UM_SET_PROTOCOL_FEATURES,
		.payload = &session->protocol,
		.size = sizeof(session->protocol),
	};
	uint64_t offered = 0;
	int ret = ask_u64(session, UM_GET_PROTOCOL_FEATURES, &offered,
			  deadline_ns, err);

	if (ret)
		return ret;
	session->protocol = offered & wanted(user);
	ret = conn_send(&session->conn, &message, deadline_ns, err);
	session->conn.has_ack = session->protocol & BIT(UM_PROTOCOL_REPLY_ACK);
	return ret;
}

static int check_queues(struct session *session, const struct vh_user *user,
			uint64_t deadline_ns, struct err *err)
{
	uint64_t queues = 1;
	int ret = 0;

	if (user->config.may_lose)
		queues = 2; /* a pair */
	if (session->protocol & BIT(UM_PROTOCOL_MQ))
		ret = ask_u64(session, UM_GET_QUEUE_NUM, &queues, deadline_ns,
			      err);
	if (ret)
		return ret;
	/* Network back ends count pairs. */
	if (user->config.may_lose && session->protocol & BIT(UM_PROTOCOL_MQ) &&
	    queues <= UINT64_MAX / 2)
		queues *= 2;
	if (queues < user->config.rings)
		return err_set(err, -ENOTSUP,
			       "%s: its back end has %" PRIu64
			       " queues, %u are wanted",
			       user->name, queues, user->config.rings);
	return 0;
}

/* How many regions it takes; more than there ever are is as good as those. */
static int ask_slots(struct session *session, uint64_t deadline_ns,
		     struct err *err)
{
	uint64_t slots = UM_REGIONS_MAX;
	int ret = 0;

	if (session->protocol & BIT(UM_PROTOCOL_CONFIGURE_MEM_SLOTS))
		ret = ask_u64(session, UM_GET_MAX_MEM_SLOTS, &slots,
			      deadline_ns, err);
	if (ret)
		return ret;
	if (!slots)
		return err_set(err, -ENOTSUP,
			       "%s: its back end takes no memory at all",
			       session->conn.name);
	session->regions_max =
		slots < VH_REGIONS_MAX ? (unsigned int)slots : VH_REGIONS_MAX;
	return 0;
}

static int open_requests(struct session *session, uint64_t deadline_ns,
			 struct err *err)
{
	int fds[2], ret;
	struct conn_message message = {
		.request = UM_SET_BACKEND_REQ_FD,
		.fds = &fds[1],
		.fd_count = 1,
		.reply = CONN_ACK,
	};

	if (!(session->protocol & BIT(UM_PROTOCOL_BACKEND_REQ)))
		return 0;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return err_set_errno(err, -errno, "%s: socketpair",
				     session->conn.name);
	session->request_fd = fds[0];
	ret = conn_send(&session->conn, &message, deadline_ns, err);
	close(fds[1]);
	return ret;
}

static int check_features(const struct session *session,
			  const struct vh_user *user, struct err *err)
{
	uint64_t missing = user->offered & ~session->features;

	if (missing)
		return err_set(err, -ENOTSUP,
			       "%s: its back end has come back without "
			       "features 0x%" PRIx64,
			       user->name, missing);
	if (user->config.needs_config &&
	    !(session->protocol & BIT(UM_PROTOCOL_CONFIG)))
		return err_set(err, -ENOTSUP,
			       "%s: its back end has no configuration to ask "
			       "for",
			       user->name);
	return 0;
}

int session_open(struct session *session, const struct vh_user *user,
		 struct err *err)
{
	const struct conn_message own = { .request = UM_SET_OWNER };
	uint64_t deadline_ns = clock_mono_ns() + SESSION_NS;
	int ret;

	*session = (struct session){ .request_fd = -1 };
	conn_init(&session->conn, user->name);
	ret = conn_connect(&session->conn, user->path, err);
	if (!ret)
		ret = ask_u64(session, UM_GET_FEATURES, &session->features,
			      deadline_ns, err);
	if (!ret)
		ret = conn_send(&session->conn, &own, deadline_ns, err);
	if (!ret && session->features & BIT(UM_F_PROTOCOL_FEATURES))
		ret = negotiate_protocol(session, user, deadline_ns, err);
	if (!ret)
		ret = check_features(session, user, err);
	if (!ret)
		ret = check_queues(session, user, deadline_ns, err);
	if (!ret)
		ret = ask_slots(session, deadline_ns, err);
	if (!ret)
		ret = open_requests(session, deadline_ns, err);
	return ret ? ret : conn_settle(&session->conn, deadline_ns, err);
}

bool session_is_stranger(const struct session *session,
			 const struct vh_user *user)
{
	pid_t peer = session->conn.peer;

	if (user->dev.is_parted)
		return !peer || peer != user->peer;
	return user->dev.has_inflight &&
	       !(session->protocol & BIT(UM_PROTOCOL_INFLIGHT_SHMFD));
}

void session_close(struct session *session)
{
	conn_close(&session->conn);
	if (session->request_fd >= 0)
		close(session->request_fd);
	session->request_fd = -1;
}
