// SPDX-License-Identifier: Apache-2.0
/*
 * The loop's handles (signals, an async wake-up, a timer of events, QMP), and the one
 * place where the machine and the migration meet what the operator wants.
 */
#include "control/control.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include <uv.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "control/event_queue.h"
#include "control/qmp_commands.h"
#include "control/qmp_server.h"

struct control {
	struct machine *machine; /* borrowed from open to close */
	struct mig *mig;         /* likewise */

	/* owned by the main thread */
	uv_loop_t loop;
	uv_async_t wakeup;
	uv_poll_t tell;
	uv_signal_t signals[3];
	struct qmp_server *server; /* owned; NULL without */
	bool is_open;
	bool quit_is_wanted;   /* by `quit` or a signal */
	bool quit_by_signal;   /* for the reason in SHUTDOWN */
	bool shutdown_is_told; /* SHUTDOWN was sent */
	bool has_ended;        /* the machine said so */
	bool exits_on_error;   /* a failed incoming migration ends it */
	bool incoming_has_failed;

	struct event_queue events; /* put by any thread */
	int tell_fd; /* owned timerfd, set by any thread: events are to be told; or -1 */
};

int control_exit_code(enum shutdown_cause cause, uint32_t guest_code)
{
	switch (cause) {
	case SHUTDOWN_NONE:
	case SHUTDOWN_HOST:
	case SHUTDOWN_GUEST_POWEROFF:
		return CONTROL_EXIT_OK;
	case SHUTDOWN_GUEST_RESET:
		return CONTROL_EXIT_RESET;
	case SHUTDOWN_TRIPLE_FAULT:
		return CONTROL_EXIT_TRIPLE_FAULT;
	case SHUTDOWN_DEBUG_EXIT:
		return guest_code ? CONTROL_EXIT_DEBUG | (guest_code & 0x3f)
				  : CONTROL_EXIT_OK;
	case SHUTDOWN_ERROR:
		return CONTROL_EXIT_GUEST_ERROR;
	}
	return CONTROL_EXIT_GUEST_ERROR;
}

/* Events: queued by any thread, sent by the loop */

static void queue_event(struct control *control, const struct event *event)
{
	uint64_t at = event_queue_put(&control->events, event);
	const struct itimerspec timer = {
		.it_value.tv_sec = (time_t)(at / NS_PER_SEC),
		.it_value.tv_nsec = (long)(at % NS_PER_SEC),
	};

	timerfd_settime(control->tell_fd, TFD_TIMER_ABSTIME, &timer, NULL);
}

void control_on_machine(void *opaque, enum machine_event event)
{
	struct event queued = {
		.is_machine = true,
		.machine = event,
		.real_ns = clock_real_ns(),
	};

	queue_event(opaque, &queued);
}

void control_on_migration(void *opaque, const struct mig_event *event)
{
	struct event queued = {
		.mig = *event,
		.real_ns = clock_real_ns(),
	};

	queue_event(opaque, &queued);
}

/* Consumes @data, which may be NULL for an event without any. */
static void broadcast(struct control *control, const char *name, json_t *data,
		      uint64_t real_ns)
{
	json_t *event = json_pack("{s:s, s:o}", "event", name, "timestamp",
				  qmp_timestamp_new(real_ns));

	if (data)
		json_object_set_new(event, "data", data);
	if (event && control->server)
		qmp_server_broadcast(control->server, event);
	json_decref(event);
}

/* QEMU's ShutdownCause where it has one. */
static const char *shutdown_reason(const struct control *control,
				   enum shutdown_cause cause)
{
	switch (cause) {
	case SHUTDOWN_GUEST_POWEROFF:
		return "guest-shutdown";
	case SHUTDOWN_GUEST_RESET:
		return "guest-reset";
	case SHUTDOWN_TRIPLE_FAULT:
		return "guest-panic";
	case SHUTDOWN_DEBUG_EXIT:
		return "guest-debug-exit";
	case SHUTDOWN_ERROR:
		return "host-error";
	case SHUTDOWN_NONE:
	case SHUTDOWN_HOST:
		break;
	}
	if (control->incoming_has_failed && !control->quit_is_wanted)
		return "host-error";
	return control->quit_by_signal ? "host-signal" : "host-qmp-quit";
}

static void tell_shutdown(struct control *control, uint64_t real_ns)
{
	uint32_t code;
	enum shutdown_cause cause =
		machine_shutdown_cause(control->machine, &code);
	bool by_guest = cause == SHUTDOWN_GUEST_POWEROFF ||
			cause == SHUTDOWN_GUEST_RESET ||
			cause == SHUTDOWN_TRIPLE_FAULT ||
			cause == SHUTDOWN_DEBUG_EXIT;

	if (control->shutdown_is_told)
		return;
	control->shutdown_is_told = true;
	broadcast(control, "SHUTDOWN",
		  json_pack("{s:b, s:s}", "guest", by_guest, "reason",
			    shutdown_reason(control, cause)),
		  real_ns);
}

static void tell_machine(struct control *control, const struct event *event)
{
	const struct err *fault;

	switch (event->machine) {
	case MACHINE_EVENT_STOP:
		broadcast(control, "STOP", NULL, event->real_ns);
		break;
	case MACHINE_EVENT_RESUME:
		broadcast(control, "RESUME", NULL, event->real_ns);
		break;
	case MACHINE_EVENT_POWERDOWN:
		broadcast(control, "POWERDOWN", NULL, event->real_ns);
		break;
	case MACHINE_EVENT_SHUTDOWN:
		control->has_ended = true;
		fault = machine_shutdown_err(control->machine);
		if (fault->code)
			log_warn("%s", err_msg(fault));
		tell_shutdown(control, event->real_ns);
		break;
	}
}

static void tell_migration(struct control *control, const struct event *event)
{
	const struct mig_event *mig = &event->mig;
	struct mig_caps caps;

	mig_caps(control->mig, &caps);
	if (caps.events && mig->is_pass)
		broadcast(control, "MIGRATION_PASS",
			  json_pack("{s:I}", "pass", (json_int_t)mig->pass),
			  event->real_ns);
	else if (caps.events)
		broadcast(control, "MIGRATION",
			  json_pack("{s:s}", "status", mig_status(mig->state)),
			  event->real_ns);
	if (!mig->is_pass && mig->state == MIG_FAILED &&
	    control->exits_on_error) {
		struct mig_info info;

		mig_query(control->mig, &info);
		control->incoming_has_failed = info.is_incoming;
	}
}

static void tell_events(struct control *control)
{
	struct event event;

	while (event_queue_take(&control->events, &event)) {
		if (event.is_machine)
			tell_machine(control, &event);
		else
			tell_migration(control, &event);
	}
}

static void tell_and_end(struct control *control)
{
	if (!control->is_open)
		return;
	if (control->quit_is_wanted)
		machine_shutdown(control->machine, SHUTDOWN_HOST, 0);
	tell_events(control);
	if (control->has_ended || control->incoming_has_failed ||
	    control->quit_is_wanted) {
		tell_shutdown(control, clock_real_ns());
		uv_stop(&control->loop);
	}
}

static void on_wakeup(uv_async_t *async)
{
	tell_and_end(async->data);
}

static void on_tell(uv_poll_t *poll, int status, int events)
{
	struct control *control = poll->data;
	uint64_t expirations;

	(void)status;
	(void)events;
	/* EAGAIN: an event came between, and set it anew. */
	if (read(control->tell_fd, &expirations, sizeof(expirations)) > 0)
		tell_and_end(control);
}

void control_quit(struct control *control)
{
	control->quit_is_wanted = true;
	uv_async_send(&control->wakeup);
}

static void on_signal(uv_signal_t *handle, int signum)
{
	struct control *control = handle->data;

	if (control->quit_by_signal)
		return; /* once more: it is ending already */
	log_info("terminating on signal %d (%s)", signum, strsignal(signum));
	control->quit_by_signal = true;
	control_quit(control);
}

/* Commands */

static json_t *on_execute(void *opaque, struct qmp_peer *peer,
			  const json_t *request)
{
	struct control *control = opaque;
	struct qmp_call call = {
		.control = control,
		.machine = control->machine,
		.mig = control->mig,
		.peer = peer,
	};
	json_t *response = qmp_request_execute(&call, request);

	/* As in QEMU, what a command causes is told before its answer. */
	tell_events(control);
	return response;
}

int control_incoming(struct control *control, const char *uri,
		     bool exits_on_error, struct err *err)
{
	int ret = mig_incoming(control->mig, uri, err);

	/* It cannot have been told to have failed yet: this thread does. */
	if (!ret)
		control->exits_on_error = exits_on_error;
	return ret;
}

/* Life */

static int catch_signals(struct control *control, struct err *err)
{
	static const int signums[] = { SIGTERM, SIGINT, SIGHUP };
	size_t i;
	int ret;

	_Static_assert(array_size(signums) == array_size(control->signals),
		       "one handle a signal");
	signal(SIGPIPE, SIG_IGN);
	for (i = 0; i < array_size(signums); i++) {
		ret = uv_signal_init(&control->loop, &control->signals[i]);
		if (ret)
			return err_set_errno(err, ret, "signals");
		control->signals[i].data = control;
		ret = uv_signal_start(&control->signals[i], on_signal,
				      signums[i]);
		if (ret)
			return err_set_errno(err, ret, "signals");
	}
	return 0;
}

static int open_tell(struct control *control, struct err *err)
{
	int ret;

	control->tell_fd =
		timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (control->tell_fd < 0)
		return err_set_errno(err, -errno, "timer of events");
	ret = uv_poll_init(&control->loop, &control->tell, control->tell_fd);
	if (!ret)
		ret = uv_poll_start(&control->tell, UV_READABLE, on_tell);
	control->tell.data = control;
	return ret ? err_set_errno(err, ret, "timer of events") : 0;
}

int control_new(struct control **ret_control, struct err *err)
{
	struct control *control = calloc(1, sizeof(*control));
	int ret;

	if (!control)
		return err_set(err, -ENOMEM, "out of memory");
	ret = uv_loop_init(&control->loop);
	if (ret) {
		free(control);
		return err_set_errno(err, ret, "event loop");
	}
	event_queue_init(&control->events);
	control->tell_fd = -1;
	control->wakeup.data = control;
	ret = uv_async_init(&control->loop, &control->wakeup, on_wakeup);
	if (ret)
		err_set_errno(err, ret, "event loop");
	else
		ret = open_tell(control, err);
	if (!ret)
		ret = catch_signals(control, err);
	if (ret) {
		control_free(control);
		return ret;
	}
	*ret_control = control;
	return 0;
}

bool control_is_ending(struct control *control)
{
	/* The handlers have written to the loop what came so far. */
	uv_run(&control->loop, UV_RUN_NOWAIT);
	return control->quit_is_wanted;
}

int control_open(struct control *control, struct machine *machine,
		 struct mig *mig, const char *qmp, struct err *err)
{
	static const char prefix[] = "unix:";

	control->machine = machine;
	control->mig = mig;
	control->is_open = true;
	/* A wake-up before this was for nothing. */
	uv_async_send(&control->wakeup);
	if (!qmp)
		return 0;
	if (strncmp(qmp, prefix, strlen(prefix)) != 0)
		return err_set(err, -EINVAL,
			       "QMP address '%.100s' is not unix:PATH", qmp);
	return qmp_server_open(&control->loop, qmp + strlen(prefix), on_execute,
			       control, &control->server, err);
}

void control_close(struct control *control)
{
	if (!control || !control->is_open)
		return;
	control->is_open = false;
	qmp_server_close(control->server);
	control->server = NULL;
	/* The timer stays, as other threads may still set it, and so do
	 * the signals, which must not cut short what follows. */
	uv_run(&control->loop, UV_RUN_NOWAIT);
}

static void close_handle(uv_handle_t *handle, void *opaque)
{
	(void)opaque;
	if (!uv_is_closing(handle))
		uv_close(handle, NULL);
}

void control_free(struct control *control)
{
	if (!control)
		return;
	control_close(control);
	uv_walk(&control->loop, close_handle, NULL);
	uv_run(&control->loop, UV_RUN_DEFAULT);
	uv_loop_close(&control->loop);
	if (control->tell_fd >= 0)
		close(control->tell_fd);
	event_queue_fini(&control->events);
	free(control);
}

int control_run(struct control *control)
{
	enum shutdown_cause cause;
	uint32_t guest_code = 0;
	struct mig_info info;

	uv_run(&control->loop, UV_RUN_DEFAULT);
	cause = machine_shutdown_cause(control->machine, &guest_code);
	if (control->incoming_has_failed && cause == SHUTDOWN_NONE) {
		mig_query(control->mig, &info);
		log_info("incoming migration failed: %s", err_msg(&info.error));
		return CONTROL_EXIT_INCOMING;
	}
	return control_exit_code(cause, guest_code);
}
