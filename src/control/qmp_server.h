/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A QMP listener on a UNIX path: bytes in, JSON requests up, responses and
 * events down.  It knows the framing, the greeting and the limits; what a
 * request means is its owner's business (control/qmp_commands.h).
 *
 * Everything here runs on the thread of the uv loop.  Each client ("peer") is
 * independent: a request is executed, and its response queued, before its next
 * one is looked at.  Input is bounded by control/qmp_scan.h; a peer that lets
 * more than QMP_PEER_QUEUE_MAX bytes wait is dropped.
 */
#ifndef GODWIT_CONTROL_QMP_SERVER_H
#define GODWIT_CONTROL_QMP_SERVER_H

#include <jansson.h>
#include <stdbool.h>
#include <uv.h>

#define QMP_PEERS_MAX      64u        /* a further one is told and closed */
#define QMP_PEER_QUEUE_MAX (4u << 20) /* bytes waiting to be sent */

/* Flags for jansson's dump functions: doubles without rounding noise. */
#define QMP_DUMP_FLAGS JSON_REAL_PRECISION(15)

struct err;
struct qmp_peer;
struct qmp_server;

/* @request: the parsed text, an object or array, borrowed.  Returns the
 * response (a new reference), or NULL without memory. */
typedef json_t *qmp_execute_fn(void *opaque, struct qmp_peer *peer,
			       const json_t *request);

/*
 * Listen on @path.  A socket file that nobody listens on any more is replaced.
 * The file's mode is 0600: whoever connects controls the guest.  -EADDRINUSE
 * when another process listens there, or what socket/bind/listen said.
 */
int qmp_server_open(uv_loop_t *loop, const char *path,
		    qmp_execute_fn *on_execute, void *opaque,
		    struct qmp_server **ret_server, struct err *err);

/* Waits up to 500 ms for peers to take what is queued, closes them and the
 * listener, unlinks the path.  Memory goes when the loop has run the close
 * callbacks.  NULL is accepted. */
void qmp_server_close(struct qmp_server *server);

/* Send @event to every negotiated peer. */
void qmp_server_broadcast(struct qmp_server *server, const json_t *event);

bool qmp_peer_is_negotiated(const struct qmp_peer *peer);
void qmp_peer_set_negotiated(struct qmp_peer *peer);

/* The file descriptor that came with the last SCM_RIGHTS message, now owned by
 * the caller; -1 without one. */
int qmp_peer_take_fd(struct qmp_peer *peer);

/* {"error": {"class": @class, "desc": @desc}}; bytes of @desc that are no
 * UTF-8 become '?'. */
json_t *qmp_error_new(const char *class, const char *desc);

/* {"qemu": {...}, "package": "godwit 0.1.0"}: godwit's own version, in the
 * shape that QMP clients expect. */
json_t *qmp_version_new(void);

/* {"seconds": ..., "microseconds": ...} of a CLOCK_REALTIME time. */
json_t *qmp_timestamp_new(uint64_t real_ns);

/* @text as a JSON string whatever bytes it has. */
json_t *qmp_string_new(const char *text);

#endif
