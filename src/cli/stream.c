// SPDX-License-Identifier: Apache-2.0
/* godwit stream: explains a saved migration stream. */
#include <argp.h>
#include <errno.h>
#include <stdio.h>

#include "base/err.h"
#include "base/log.h"
#include "cli/commands.h"
#include "migrate/migrate.h"

static error_t parse(int key, char *arg, struct argp_state *state)
{
	const char **path = state->input;

	switch (key) {
	case ARGP_KEY_ARG:
		if (*path)
			argp_error(state, "'%s': one FILE at a time", arg);
		*path = arg;
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "say which FILE");
		return EINVAL;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int cli_stream(int argc, char **argv)
{
	static const struct argp argp = {
		.parser = parse,
		.args_doc = "FILE",
		.doc = "Explain a migration stream that was saved with file:PATH."
		       "\vThe exit status is 0 for a stream that is whole, 64 for a wrong command line, otherwise 1.",
	};
	struct err err = ERR_INIT;
	const char *path = NULL;

	if (argp_parse(&argp, argc, argv, 0, NULL, &path))
		return CLI_EXIT_USAGE;
	if (mig_explain(path, stdout, &err)) {
		fflush(stdout);
		log_info("%s", err_msg(&err));
		return CLI_EXIT_FAILED;
	}
	return CLI_EXIT_OK;
}
