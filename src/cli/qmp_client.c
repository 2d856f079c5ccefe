// SPDX-License-Identifier: Apache-2.0
/*
 * One socket, read into a scanner; each message is either the answer that somebody
 * waits for or an event, which is kept until it is taken.
 */
#include "cli/qmp_client.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/unix_listen.h"
#include "control/qmp_scan.h"

#define ANSWER_MS  30000
#define EVENTS_MAX 1024u
#define READ_SIZE  (16u << 10)

struct qmp_client {
	int fd; /* owned */
	struct qmp_scan scan;
	json_t *events; /* owned array, oldest first */
	json_t *answer; /* owned; greeting or response that nobody took */
};

static int connect_to(const char *address, struct err *err)
{
	static const char prefix[] = "unix:";
	struct sockaddr_un addr;
	const char *path = address + strlen(prefix);
	int fd, ret;

	if (strncmp(address, prefix, strlen(prefix)) != 0)
		return err_set(err, -EINVAL, "--qmp '%.100s' is not unix:PATH",
			       address);
	ret = unix_address(&addr, path, err);
	if (ret) {
		err_prefix(err, "--qmp");
		return ret;
	}
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_set_errno(err, -errno, "socket");
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		ret = -errno;
		close(fd);
		err_set_errno(err, ret, "no godwit answers at %s", path);
		return ret;
	}
	return fd;
}

static int gone(struct err *err)
{
	return err_set(err, -EPIPE, "godwit ended or closed the QMP socket");
}

/* Sort one message into events and answers. */
static int take_message(struct qmp_client *client, struct err *err)
{
	json_t *message =
		json_loadb(client->scan.text, client->scan.size, 0, NULL);

	if (!json_is_object(message)) {
		json_decref(message);
		return err_set(err, -EPROTO, "the QMP server sent bad JSON");
	}
	if (!json_object_get(message, "event")) {
		json_decref(client->answer);
		client->answer = message;
		return 0;
	}
	if (json_array_size(client->events) == EVENTS_MAX)
		json_array_remove(client->events, 0);
	json_array_append_new(client->events, message);
	return 0;
}

/* Read what is there, which is something or the end. */
static int receive(struct qmp_client *client, struct err *err)
{
	enum qmp_scan_result result;
	char data[READ_SIZE], *at = data;
	ssize_t got = recv(client->fd, data, sizeof(data), MSG_DONTWAIT);
	size_t used, size;
	int ret;

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (got <= 0)
		return gone(err);
	for (size = (size_t)got; size; size -= used, at += used) {
		used = qmp_scan_feed(&client->scan, at, size, &result);
		if (result == QMP_SCAN_MORE)
			continue;
		if (result != QMP_SCAN_VALUE)
			return err_set(err, -EPROTO, "the QMP server sent: %s",
				       qmp_scan_reason(result));
		ret = take_message(client, err);
		if (ret)
			return ret;
	}
	return 0;
}

/* 1: @fd or @other_fd is readable, 0: time is up. */
static int wait_readable(struct pollfd pfds[2], uint64_t deadline_ns)
{
	uint64_t now = clock_mono_ns();
	uint64_t left = deadline_ns > now ? deadline_ns - now : 0;
	struct timespec ts = {
		.tv_sec = (time_t)(left / NS_PER_SEC),
		.tv_nsec = (long)(left % NS_PER_SEC),
	};
	int ret = ppoll(pfds, 2, &ts, NULL);

	if (ret < 0)
		return errno == EINTR ? 1 : -errno;
	return ret > 0;
}

int qmp_client_wait(struct qmp_client *client, int other_fd, int timeout_ms,
		    struct err *err)
{
	uint64_t deadline = clock_mono_ns() + (uint64_t)timeout_ms * NS_PER_MS;
	struct pollfd pfds[2] = {
		{ .fd = client->fd, .events = POLLIN },
		{ .fd = other_fd, .events = POLLIN },
	};
	int ret;

	while (!json_array_size(client->events)) {
		ret = wait_readable(pfds, deadline);
		if (ret < 0)
			return err_set_errno(err, ret, "poll");
		if (ret == 0)
			return QMP_WAIT_TIME;
		if (pfds[1].revents)
			return QMP_WAIT_OTHER;
		ret = receive(client, err);
		if (ret)
			return ret;
	}
	return QMP_WAIT_EVENT;
}

json_t *qmp_client_take_event(struct qmp_client *client)
{
	json_t *event = json_incref(json_array_get(client->events, 0));

	json_array_remove(client->events, 0);
	return event;
}

static int wait_answer(struct qmp_client *client, json_t **ret_answer,
		       struct err *err)
{
	uint64_t deadline = clock_mono_ns() + ANSWER_MS * NS_PER_MS;
	struct pollfd pfds[2] = {
		{ .fd = client->fd, .events = POLLIN },
		{ .fd = -1 },
	};
	int ret;

	while (!client->answer) {
		ret = wait_readable(pfds, deadline);
		if (ret < 0)
			return err_set_errno(err, ret, "poll");
		if (ret == 0)
			return err_set(err, -ETIMEDOUT,
				       "no answer from the QMP server in %d s",
				       ANSWER_MS / 1000);
		ret = receive(client, err);
		if (ret)
			return ret;
	}
	*ret_answer = client->answer;
	client->answer = NULL;
	return 0;
}

static int send_all(struct qmp_client *client, const char *text,
		    struct err *err)
{
	size_t left = strlen(text);
	ssize_t sent;

	while (left) {
		sent = send(client->fd, text, left, MSG_NOSIGNAL);
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return gone(err);
		text += sent;
		left -= (size_t)sent;
	}
	return 0;
}

static int send_command(struct qmp_client *client, const char *command,
			json_t *args, struct err *err)
{
	json_t *request =
		json_pack("{s:s, s:o*}", "execute", command, "arguments", args);
	char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
	int ret;

	json_decref(request);
	if (!text)
		return err_set(err, -EINVAL, "%s: arguments are no UTF-8",
			       command);
	ret = send_all(client, text, err);
	free(text);
	return ret;
}

int qmp_client_execute(struct qmp_client *client, const char *command,
		       json_t *args, json_t **ret_result, struct err *err)
{
	json_t *answer, *error, *result;
	int ret;

	ret = send_command(client, command, args, err);
	if (!ret)
		ret = wait_answer(client, &answer, err);
	if (ret)
		return ret;
	error = json_object_get(answer, "error");
	result = json_object_get(answer, "return");
	if (error || !result) {
		const char *desc =
			json_string_value(json_object_get(error, "desc"));

		ret = err_set(err, -EREMOTEIO, "%s",
			      desc ? desc : "the QMP server refused");
	} else if (ret_result) {
		*ret_result = json_incref(result);
	}
	json_decref(answer);
	return ret;
}

static int negotiate(struct qmp_client *client, struct err *err)
{
	json_t *greeting;
	int ret = wait_answer(client, &greeting, err);

	if (ret)
		return ret;
	if (!json_object_get(greeting, "QMP"))
		ret = err_set(err, -EPROTO,
			      "what listens there is no QMP server");
	json_decref(greeting);
	return ret ? ret
		   : qmp_client_execute(client, "qmp_capabilities", NULL, NULL,
					err);
}

int qmp_client_open(const char *address, struct qmp_client **ret_client,
		    struct err *err)
{
	struct qmp_client *client;
	int ret = connect_to(address, err);

	if (ret < 0)
		return ret;
	client = calloc(1, sizeof(*client));
	if (!client) {
		close(ret);
		return err_set(err, -ENOMEM, "out of memory");
	}
	client->fd = ret;
	client->events = json_array();
	ret = negotiate(client, err);
	if (ret) {
		qmp_client_close(client);
		return ret;
	}
	*ret_client = client;
	return 0;
}

void qmp_client_close(struct qmp_client *client)
{
	if (!client)
		return;
	close(client->fd);
	qmp_scan_fini(&client->scan);
	json_decref(client->events);
	json_decref(client->answer);
	free(client);
}
