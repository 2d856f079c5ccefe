/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A QMP client: blocking commands, and events that wait to be taken.
 *
 * It is event-driven: qmp_client_wait() sleeps until the server sends an
 * event, another descriptor (a signalfd, say) is readable, or time is up.
 * Whatever arrives is bounded by control/qmp_scan.h; at most 1024 events are
 * kept, the oldest go first.
 */
#ifndef GODWIT_CLI_QMP_CLIENT_H
#define GODWIT_CLI_QMP_CLIENT_H

#include <jansson.h>

struct err;
struct qmp_client;

/* Connect to "unix:PATH" and negotiate.  -EINVAL for another address,
 * -ECONNREFUSED and -ENOENT when no godwit is there. */
int qmp_client_open(const char *address, struct qmp_client **ret_client,
		    struct err *err);
void qmp_client_close(struct qmp_client *client); /* accepts NULL */

/*
 * Run @command and wait for its answer, up to 30 s.  @args is consumed and may
 * be NULL.  *ret_result (may be NULL) is the "return" member, owned by the
 * caller.  -EREMOTEIO with the server's words when it says no, -EPIPE when it
 * is gone, -ETIMEDOUT.
 */
int qmp_client_execute(struct qmp_client *client, const char *command,
		       json_t *args, json_t **ret_result, struct err *err);

enum qmp_wait {
	QMP_WAIT_EVENT, /* one or more events to take */
	QMP_WAIT_OTHER, /* the other descriptor is readable */
	QMP_WAIT_TIME,
};

/* @other_fd may be -1.  An enum qmp_wait, or -EPIPE when the server is gone. */
int qmp_client_wait(struct qmp_client *client, int other_fd, int timeout_ms,
		    struct err *err);

/* The oldest event (owned by the caller), or NULL. */
json_t *qmp_client_take_event(struct qmp_client *client);

#endif
