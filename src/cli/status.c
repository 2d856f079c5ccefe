// SPDX-License-Identifier: Apache-2.0
/* godwit status: what a machine is doing, asked over QMP. */
#include <argp.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "cli/answer.h"
#include "cli/commands.h"
#include "cli/qmp_client.h"
#include "control/qmp_server.h"

struct status_options {
	const char *qmp;
	bool json;
};

enum key {
	KEY_QMP = 256,
	KEY_JSON,
};

static const struct argp_option option_list[] = {
	{ "qmp", KEY_QMP, "unix:PATH", 0, "control socket of the machine", 0 },
	{ "json", KEY_JSON, NULL, 0, "one JSON object on stdout", 0 },
	{ .name = NULL },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct status_options *status = state->input;

	switch (key) {
	case KEY_QMP:
		status->qmp = arg;
		break;
	case KEY_JSON:
		status->json = true;
		break;
	case ARGP_KEY_ARG:
		argp_error(state, "'%s' is no option; options start with --",
			   arg);
		break;
	case ARGP_KEY_END:
		if (!status->qmp)
			argp_error(state, "say which machine: --qmp unix:PATH");
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

/* Ask all questions: {"name": ..., "status": ..., "cpus": ..., ...}. */
static int ask(struct qmp_client *client, json_t *answers, struct err *err)
{
	static const struct {
		const char *name, *command;
	} questions[] = {
		{ "version", "query-version" },   { "name", "query-name" },
		{ "status", "query-status" },     { "cpus", "query-cpus-fast" },
		{ "migration", "query-migrate" },
	};
	json_t *answer;
	size_t i;
	int ret;

	for (i = 0; i < array_size(questions); i++) {
		ret = qmp_client_execute(client, questions[i].command, NULL,
					 &answer, err);
		if (ret)
			return ret;
		json_object_set_new(answers, questions[i].name, answer);
	}
	return 0;
}

static void print(const json_t *answers)
{
	const json_t *migration = json_object_get(answers, "migration");
	const json_t *pause = json_object_get(migration, "pause");
	const json_t *downtime = json_object_get(pause, "downtime-us");
	const char *name =
		answer_text(json_object_get(answers, "name"), "name");

	if (*name)
		printf("name       %s\n", name);
	printf("status     %s\n",
	       answer_text(json_object_get(answers, "status"), "status"));
	printf("vcpus      %zu\n",
	       json_array_size(json_object_get(answers, "cpus")));
	printf("migration  %s", answer_text(migration, "status"));
	if (*answer_text(migration, "uri"))
		printf(" %s %s",
		       json_is_true(json_object_get(migration, "incoming"))
			       ? "from"
			       : "to",
		       answer_text(migration, "uri"));
	if (json_integer_value(downtime))
		printf(", pause %lld us",
		       (long long)json_integer_value(downtime));
	if (json_is_true(json_object_get(pause, "out-of-reach")))
		printf(", downtime limit of %lld us out of reach: a pause takes %lld us",
		       (long long)answer_int(pause, "limit-us"),
		       (long long)answer_int(pause, "fixed-us"));
	if (*answer_text(migration, "error-desc"))
		printf(": %s", answer_text(migration, "error-desc"));
	printf("\n");
}

int cli_status(int argc, char **argv)
{
	static const struct argp argp = {
		.options = option_list,
		.parser = parse,
		.doc = "Say what a machine is doing."
		       "\vThe exit status is 0, 1 when no machine answers, or 64 for a wrong command line.",
	};
	struct status_options status = { .qmp = NULL };
	struct qmp_client *client = NULL;
	struct err err = ERR_INIT;
	json_t *answers;
	int ret;

	if (argp_parse(&argp, argc, argv, 0, NULL, &status))
		return CLI_EXIT_USAGE;
	answers = json_object();
	ret = qmp_client_open(status.qmp, &client, &err);
	if (!ret)
		ret = ask(client, answers, &err);
	if (!ret && status.json) {
		json_dumpf(answers, stdout, QMP_DUMP_FLAGS);
		putchar('\n');
	} else if (!ret) {
		print(answers);
	} else {
		log_info("%s", err_msg(&err));
	}
	qmp_client_close(client);
	json_decref(answers);
	return ret ? CLI_EXIT_FAILED : CLI_EXIT_OK;
}
