// SPDX-License-Identifier: Apache-2.0
/* The text of --x-fail both ways, and what each action does. */
#include "migrate/fail.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/parse.h"
#include "migrate/channel.h"

static const char *const actions[FAIL_ACTION_COUNT] = {
	[FAIL_EXIT] = "exit",
	[FAIL_CLOSE] = "close",
	[FAIL_STALL] = "stall",
	[FAIL_GARBAGE] = "garbage",
};

/* The message has room for the arcs from one state, not for all. */
static int refuse_arc(const char *text, struct err *err)
{
	char name[ARC_NAME_MAX], list[5 * ARC_NAME_MAX] = "";
	size_t used = 0, size = strcspn(text, "-");
	const struct arc *arc;

	for (size_t i = 0; (arc = arc_at(i)); i++) {
		arc_name(arc, name);
		if (strncmp(text, name, size) == 0 && name[size] == '-' &&
		    used < sizeof(list))
			used += (size_t)snprintf(
				list + used, sizeof(list) - used, " %s", name);
	}
	return err_set(err, -EINVAL,
		       "no arc '%.*s'%s%s; `godwit run --x-fail help' lists "
		       "all",
		       ARC_NAME_MAX, text, used ? "; there are" : "", list);
}

static int parse_arc(const char *text, struct fail *fail, struct err *err)
{
	char name[ARC_NAME_MAX];
	const struct arc *arc;

	for (size_t i = 0; (arc = arc_at(i)); i++) {
		arc_name(arc, name);
		if (strcmp(text, name) == 0) {
			fail->arc = arc;
			return 0;
		}
	}
	return refuse_arc(text, err);
}

static int parse_action(const struct parse_kv *kv, struct fail *fail,
			struct err *err)
{
	if (strcmp(kv->key, "action") != 0)
		return err_set(err, -EINVAL,
			       "no sub-option '%s'; there is action", kv->key);
	for (int i = 0; kv->value && i < FAIL_ACTION_COUNT; i++) {
		if (strcmp(kv->value, actions[i]) == 0) {
			fail->action = (enum fail_action)i;
			return 0;
		}
	}
	return err_set(err, -EINVAL,
		       "action is exit, close, stall or garbage, not '%s'",
		       kv->value ? kv->value : "");
}

int fail_parse(const char *text, struct fail *ret_fail, struct err *err)
{
	struct fail fail = { .arc = NULL };
	struct parse_kv kv;
	int ret;

	while ((ret = parse_kv_next(&text, &kv)) > 0) {
		ret = fail.arc ? parse_action(&kv, &fail, err)
			       : parse_arc(kv.key, &fail, err);
		if (ret)
			return ret;
	}
	if (ret)
		return err_set(err, ret, "'%s' is not ARC[,action=ACTION]",
			       text);
	*ret_fail = fail;
	return 0;
}

int mig_check_fail(const char *text, struct err *err)
{
	struct fail fail;

	return fail_parse(text, &fail, err);
}

void fail_text(const struct fail *fail, char text[MIG_FAIL_MAX])
{
	char name[ARC_NAME_MAX];

	text[0] = '\0';
	if (!fail->arc)
		return;
	arc_name(fail->arc, name);
	snprintf(text, MIG_FAIL_MAX, "%s,action=%s", name,
		 actions[fail->action]);
}

void mig_print_arcs(FILE *out)
{
	char name[ARC_NAME_MAX];
	const struct arc *arc;

	fprintf(out, "%-24s %-12s %s\n", "ARC", "SIDE", "OWNER OF THE GUEST");
	for (size_t i = 0; (arc = arc_at(i)); i++) {
		arc_name(arc, name);
		fprintf(out, "%-24s %-12s %s\n", name,
			arc->is_destination ? "destination" : "source",
			arc->owner);
	}
}

static void cut(const struct channel *channel)
{
	int full;

	if (channel->fd < 0 || shutdown(channel->fd, SHUT_RDWR) == 0)
		return;
	full = open("/dev/full", O_WRONLY | O_CLOEXEC);
	if (full >= 0 && dup3(full, channel->fd, O_CLOEXEC) >= 0)
		close(full);
}

static int stall(const struct channel *channel, int stop_fd)
{
	struct pollfd fds[] = {
		{ .fd = channel->fd, .events = POLLRDHUP },
		{ .fd = stop_fd, .events = POLLIN },
	};

	while (poll(fds, array_size(fds), -1) < 0 && errno == EINTR)
		;
	return fds[1].revents ? -ECANCELED : 0;
}

/* No reader takes its length, so it is noticed wherever a record is due. */
static void send_garbage(const struct channel *channel)
{
	struct channel other = *channel; /* not counted as sent */
	uint8_t bytes[64];
	struct iovec iov = { .iov_base = bytes, .iov_len = sizeof(bytes) };

	if (channel->fd < 0)
		return;
	memset(bytes, 0xff, sizeof(bytes));
	other.deadline_ns = clock_mono_ns() + NS_PER_SEC;
	channel_send(&other, &iov, 1, NULL);
}

int fail_act(const struct fail *fail, struct channel *channel, int stop_fd)
{
	char text[MIG_FAIL_MAX];

	fail_text(fail, text);
	log_info("x-fail: %s", text);
	switch (fail->action) {
	case FAIL_EXIT:
		kill(getpid(), SIGKILL);
		break;
	case FAIL_CLOSE:
		cut(channel);
		break;
	case FAIL_STALL:
		return stall(channel, stop_fd);
	case FAIL_GARBAGE:
		send_garbage(channel);
		break;
	case FAIL_ACTION_COUNT:
		break;
	}
	return 0;
}
