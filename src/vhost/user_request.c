// SPDX-License-Identifier: Apache-2.0
/*
 * What a vhost-user back end asks, on a socket of its own; called by the device's
 * thread (user.c).  Only a change of configuration means something here; any other
 * request is told that it failed.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "user_priv.h"

#define HEADER_SIZE sizeof(struct um_header)
#define ROOM        sizeof(((struct request_channel *)0)->in)

void request_channel_open(struct request_channel *channel, int fd)
{
	request_channel_close(channel);
	channel->fd = fd;
}

void request_channel_close(struct request_channel *channel)
{
	if (channel->fd >= 0)
		close(channel->fd);
	channel->fd = -1;
	channel->in_size = 0;
}

/* A back end that does not read its answers gets none. */
static void answer(const struct request_channel *channel,
		   const struct um_header *head, uint64_t value)
{
	const struct um_header reply = {
		.request = head->request,
		.flags = UM_VERSION | UM_REPLY,
		.size = sizeof(value),
	};
	uint8_t out[HEADER_SIZE + sizeof(value)];

	if (!(head->flags & UM_NEED_REPLY))
		return;
	memcpy(out, &reply, HEADER_SIZE);
	memcpy(out + HEADER_SIZE, &value, sizeof(value));
	if (send(channel->fd, out, sizeof(out), MSG_NOSIGNAL | MSG_DONTWAIT) <
	    0)
		return;
}

/* Bytes for the message so far; what it takes of the rest is what it says. */
static int read_part(struct request_channel *channel, size_t end,
		     const char *name, struct err *err)
{
	/* No room for control messages: the kernel closes fds that come. */
	ssize_t got = recv(channel->fd, channel->in + channel->in_size,
			   end - channel->in_size, MSG_DONTWAIT);

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (got <= 0)
		return err_set(err, -ECONNRESET,
			       "%s: its back end has gone: its requests", name);
	channel->in_size += (size_t)got;
	return 1;
}

int request_channel_read(struct request_channel *channel, const char *name,
			 void (*changed)(void *opaque), void *opaque,
			 struct err *err)
{
	struct um_header head = { 0 };
	size_t end = HEADER_SIZE;
	int ret;

	while (channel->in_size < end) {
		ret = read_part(channel, end, name, err);
		if (ret <= 0)
			return ret;
		if (channel->in_size < HEADER_SIZE)
			continue;
		memcpy(&head, channel->in, HEADER_SIZE);
		if ((head.flags & UM_VERSION_MASK) != UM_VERSION ||
		    head.size > ROOM - HEADER_SIZE)
			return err_set(err, -EBADMSG,
				       "%s: its back end asks %u with %u bytes "
				       "and flags 0x%x",
				       name, head.request, head.size,
				       head.flags);
		end = HEADER_SIZE + head.size;
	}
	channel->in_size = 0;
	if (head.request == UM_BACKEND_CONFIG_CHANGE && changed)
		changed(opaque);
	answer(channel, &head, head.request != UM_BACKEND_CONFIG_CHANGE);
	return 0;
}
