// SPDX-License-Identifier: Apache-2.0
/*
 * godwit migrate: has a running machine move, over QMP, and stays until it has
 * moved or not.  The first Ctrl-C cancels and waits; the second only leaves.
 */
#include "migrate/migrate.h"

#include <argp.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/parse.h"
#include "cli/answer.h"
#include "cli/commands.h"
#include "cli/progress.h"
#include "cli/qmp_client.h"
#include "control/qmp_server.h"

#define PROGRESS_MS 100

struct migrate_options {
	const char *qmp, *uri;
	json_t *params; /* owned: of migrate-set-parameters */
	bool verify, json;
	uint64_t timeout_s; /* 0: none */
};

struct move {
	const struct migrate_options *options;
	struct qmp_client *client; /* owned */
	int signal_fd;             /* owned */
	uint64_t deadline_ns;      /* 0: none */
	struct progress progress;
	json_t *info;        /* owned: the last query-migrate */
	int cancel_exit;     /* exit code once cancelled; 0: not asked to */
	bool leaves_at_once; /* second Ctrl-C */
	bool has_warned;     /* that the downtime limit is out of reach */
};

enum key {
	KEY_QMP = 256,
	KEY_DOWNTIME,
	KEY_BANDWIDTH,
	KEY_CPU_THROTTLE,
	KEY_LOG_STOP_DELAY,
	KEY_VERIFY,
	KEY_JSON,
	KEY_TIMEOUT,
};

static const struct argp_option option_list[] = {
	{ "qmp", KEY_QMP, "unix:PATH", 0, "control socket of the machine", 0 },
	{ "downtime-limit", KEY_DOWNTIME, "MS", 0,
	  "longest pause that is acceptable, in milliseconds", 0 },
	{ "max-bandwidth", KEY_BANDWIDTH, "RATE", 0,
	  "bytes a second, with suffixes K, M, G; 0 for no limit", 0 },
	{ "max-cpu-throttle", KEY_CPU_THROTTLE, "PERCENT", 0,
	  "how much of the guest's writing may be held back where it outruns the link, at most 99 (the default); 0 to leave it alone",
	  0 },
	{ "x-log-stop-delay", KEY_LOG_STOP_DELAY, "MS", 0,
	  "how long dirty logging stays on afterwards, in milliseconds", 0 },
	{ "verify", KEY_VERIFY, NULL, 0, "hash RAM on both sides and compare",
	  0 },
	{ "timeout", KEY_TIMEOUT, "SECONDS", 0,
	  "cancel when it has not moved by then", 0 },
	{ "json", KEY_JSON, NULL, 0,
	  "only the last query-migrate answer, on stdout", 0 },
	{ .name = NULL },
};

static const char doc[] =
	"Move a running machine to the godwit that waits at URI: tcp:HOST:PORT, "
	"unix:PATH, fd:NAME, or save it to file:PATH."
	"\vEXIT STATUS\n"
	"  0    it has moved\n"
	"  1    it has not; the message says where the guest runs\n"
	"  64   wrong command line\n"
	"  124  cancelled by --timeout\n"
	"  130  cancelled by Ctrl-C (SIGINT) or SIGTERM";

/* At most @max; 0: a size. */
static int set_number(json_t *params, const char *name, const char *text,
		      uint64_t max, struct err *err)
{
	uint64_t value;
	int ret = max ? parse_u64(text, 0, max, &value, err)
		      : parse_size(text, &value, err);

	if (!ret && value > INT64_MAX)
		ret = err_set(err, -ERANGE, "'%.64s' is past 63 bits", text);
	if (!ret)
		json_object_set_new(params, name,
				    json_integer((json_int_t)value));
	return ret;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct migrate_options *migrate = state->input;
	struct err err = ERR_INIT;
	const char *option = "";

	switch (key) {
	case KEY_QMP:
		migrate->qmp = arg;
		break;
	case KEY_DOWNTIME:
		option = "--downtime-limit";
		set_number(migrate->params, "downtime-limit", arg,
			   MIG_DOWNTIME_LIMIT_MAX_MS, &err);
		break;
	case KEY_BANDWIDTH:
		option = "--max-bandwidth";
		set_number(migrate->params, "max-bandwidth", arg, 0, &err);
		break;
	case KEY_CPU_THROTTLE:
		option = "--max-cpu-throttle";
		set_number(migrate->params, "max-cpu-throttle", arg,
			   MIG_CPU_THROTTLE_MAX, &err);
		break;
	case KEY_LOG_STOP_DELAY:
		option = "--x-log-stop-delay";
		set_number(migrate->params, "x-log-stop-delay", arg,
			   MIG_LOG_STOP_DELAY_MAX_MS, &err);
		break;
	case KEY_TIMEOUT:
		option = "--timeout";
		parse_u64(arg, 1, 1000000, &migrate->timeout_s, &err);
		break;
	case KEY_VERIFY:
		migrate->verify = true;
		break;
	case KEY_JSON:
		migrate->json = true;
		break;
	case ARGP_KEY_ARG:
		if (migrate->uri)
			argp_error(state, "'%s': one URI at a time", arg);
		migrate->uri = arg;
		break;
	case ARGP_KEY_END:
		if (!migrate->qmp)
			argp_error(state, "say which machine: --qmp unix:PATH");
		if (!migrate->uri)
			argp_error(state, "say where to: URI");
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	if (err.code)
		argp_error(state, "%s: %s", option, err_msg(&err));
	return 0;
}

static int set_capabilities(struct move *move, struct err *err)
{
	json_t *list =
		json_pack("[{s:s, s:b}]", "capability", "events", "state", 1);

	if (move->options->verify)
		json_array_append_new(list,
				      json_pack("{s:s, s:b}", "capability",
						"verify", "state", 1));
	return qmp_client_execute(move->client, "migrate-set-capabilities",
				  json_pack("{s:o}", "capabilities", list),
				  NULL, err);
}

static int catch_signals(struct move *move, struct err *err)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	move->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (move->signal_fd < 0)
		return err_set_errno(err, -errno, "signalfd");
	return 0;
}

/* Connect, say how, and start it. */
static int begin(struct move *move, struct err *err)
{
	const struct migrate_options *options = move->options;
	int ret;

	ret = qmp_client_open(options->qmp, &move->client, err);
	if (!ret)
		ret = set_capabilities(move, err);
	if (!ret && json_object_size(options->params))
		ret = qmp_client_execute(move->client, "migrate-set-parameters",
					 json_incref(options->params), NULL,
					 err);
	/* From the start on, Ctrl-C means to cancel. */
	if (!ret)
		ret = catch_signals(move, err);
	if (!ret)
		ret = qmp_client_execute(
			move->client, "migrate",
			json_pack("{s:s}", "uri", options->uri), NULL, err);
	if (!ret && options->timeout_s)
		move->deadline_ns =
			clock_mono_ns() + options->timeout_s * NS_PER_SEC;
	return ret;
}

static bool status_is(const struct move *move, const char *status)
{
	const char *now =
		json_string_value(json_object_get(move->info, "status"));

	return now && strcmp(now, status) == 0;
}

static int cancel(struct move *move, int exit_code, struct err *err)
{
	move->cancel_exit = exit_code;
	return qmp_client_execute(move->client, "migrate_cancel", NULL, NULL,
				  err);
}

static int on_signal(struct move *move, struct err *err)
{
	struct signalfd_siginfo info;

	if (read(move->signal_fd, &info, sizeof(info)) != sizeof(info))
		return 0;
	if (move->cancel_exit) {
		move->leaves_at_once = true;
		return err_set(
			err, -EINTR,
			"left before the migration was cancelled; `godwit status' tells what became of it");
	}
	progress_end(&move->progress);
	log_info("cancelling; once more to leave without waiting");
	return cancel(move, CLI_EXIT_INTERRUPTED, err);
}

/* Sleep until something may have changed, and ask. */
static int step(struct move *move, struct err *err)
{
	json_t *info;
	int ret;

	ret = qmp_client_wait(move->client, move->signal_fd, PROGRESS_MS, err);
	if (ret < 0)
		return ret;
	if (ret == QMP_WAIT_OTHER) {
		ret = on_signal(move, err);
		if (ret)
			return ret;
	}
	while (ret == QMP_WAIT_EVENT &&
	       (info = qmp_client_take_event(move->client)) != NULL)
		json_decref(info);

	ret = qmp_client_execute(move->client, "query-migrate", NULL, &info,
				 err);
	if (ret)
		return ret;
	json_decref(move->info);
	move->info = info;
	if (move->deadline_ns && clock_mono_ns() >= move->deadline_ns &&
	    !move->cancel_exit)
		return cancel(move, CLI_EXIT_TIMEOUT, err);
	return 0;
}

/* Once: it goes on for as long as nobody does anything about it. */
static void warn_out_of_reach(struct move *move)
{
	const json_t *pause = json_object_get(move->info, "pause");

	if (move->has_warned ||
	    !json_is_true(json_object_get(pause, "out-of-reach")))
		return;
	move->has_warned = true;
	progress_end(&move->progress);
	log_warn(
		"a pause takes %.1f ms here with nothing left to send, and the downtime limit is %.1f ms: the guest runs on until you raise that (--downtime-limit, migrate-set-parameters) or cancel",
		(double)answer_int(pause, "fixed-us") / 1e3,
		(double)answer_int(pause, "limit-us") / 1e3);
}

static int watch(struct move *move, struct err *err)
{
	int ret;

	do {
		ret = step(move, err);
		if (!ret)
			warn_out_of_reach(move);
		if (!ret && !move->options->json)
			progress_show(&move->progress, move->info);
	} while (!ret && !status_is(move, "completed") &&
		 !status_is(move, "failed") && !status_is(move, "cancelled"));
	progress_end(&move->progress);
	return ret;
}

/* Where the guest is, unless that is clear. */
static void tell_guest(struct move *move)
{
	const char *status;
	json_t *answer;

	if (qmp_client_execute(move->client, "query-status", NULL, &answer,
			       NULL))
		return;
	status = json_string_value(json_object_get(answer, "status"));
	if (status && strcmp(status, "handed-over") == 0)
		log_info(
			"the guest is stopped here, and may run at the destination: look there, and only if it does not, `cont' with force here");
	else if (status && !status_is(move, "completed"))
		log_info("the guest is here, %s", status);
	json_decref(answer);
}

/* The exit code, and the words for it. */
static int report(struct move *move)
{
	const char *desc =
		json_string_value(json_object_get(move->info, "error-desc"));
	bool json = move->options->json;

	if (json) {
		json_dumpf(move->info, stdout, QMP_DUMP_FLAGS);
		putchar('\n');
	}
	if (status_is(move, "completed")) {
		if (!json)
			progress_summary(move->info);
		tell_guest(move);
		return CLI_EXIT_OK;
	}
	if (status_is(move, "cancelled"))
		log_info("the migration was cancelled%s",
			 move->cancel_exit == CLI_EXIT_TIMEOUT ? ": time is up"
							       : "");
	else
		log_info("the migration failed: %s",
			 desc ? desc : "no reason given");
	tell_guest(move);
	if (status_is(move, "cancelled") && move->cancel_exit)
		return move->cancel_exit;
	return CLI_EXIT_FAILED;
}

int cli_migrate(int argc, char **argv)
{
	static const struct argp argp = {
		.options = option_list,
		.parser = parse,
		.args_doc = "URI",
		.doc = doc,
	};
	struct migrate_options migrate = { .params = json_object() };
	struct move move = { .options = &migrate, .signal_fd = -1 };
	struct err err = ERR_INIT;
	int ret, code;

	if (argp_parse(&argp, argc, argv, 0, NULL, &migrate))
		return CLI_EXIT_USAGE;
	progress_init(&move.progress);
	ret = begin(&move, &err);
	if (!ret)
		ret = watch(&move, &err);
	if (ret) {
		log_info("%s", err_msg(&err));
		code = move.leaves_at_once ? CLI_EXIT_INTERRUPTED
					   : CLI_EXIT_FAILED;
	} else {
		code = report(&move);
	}
	if (move.signal_fd >= 0)
		close(move.signal_fd);
	qmp_client_close(move.client);
	json_decref(move.info);
	json_decref(migrate.params);
	return code;
}
