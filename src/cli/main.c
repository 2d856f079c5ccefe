// SPDX-License-Identifier: Apache-2.0
/* godwit: finds the sub-command.  The rest of this folder is one file each. */
#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/version.h"
#include "cli/commands.h"

const char *argp_program_version = "godwit " GODWIT_VERSION;

static const struct {
	const char *name;
	const char *argv0;
	int (*run)(int argc, char **argv);
} commands[] = {
	{ "run", "godwit run", cli_run },
	{ "migrate", "godwit migrate", cli_migrate },
	{ "status", "godwit status", cli_status },
	{ "stream", "godwit stream", cli_stream },
	{ "sim", "godwit sim", cli_sim },
};

static const char doc[] =
	"Run virtual machines, and move them while they run."
	"\vCommands:\n"
	"  run       start a machine, or receive one (--incoming)\n"
	"  migrate   move a running machine to another godwit\n"
	"  status    say what a machine is doing\n"
	"  stream    explain a saved migration stream\n"
	"  sim       predict a migration\n"
	"\n"
	"`godwit COMMAND --help' lists a command's options.";

struct choice {
	int argc;
	char **argv; /* from the command's name on */
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct choice *choice = state->input;

	switch (key) {
	case ARGP_KEY_ARG:
		(void)arg;
		choice->argv = state->argv + state->next - 1;
		choice->argc = state->argc - state->next + 1;
		state->next = state->argc;
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "a command is missing");
		return EINVAL;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int main(int argc, char **argv)
{
	static const struct argp argp = {
		.parser = parse,
		.args_doc = "COMMAND [OPTION...]",
		.doc = doc,
	};
	struct choice choice = { .argc = 0 };
	char name[] = "godwit";
	size_t i;

	if (argc > 0)
		argv[0] = name;
	/* In order: options after the command are the command's. */
	if (argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &choice))
		return CLI_EXIT_USAGE;
	for (i = 0; i < array_size(commands); i++) {
		char argv0[32];

		if (strcmp(choice.argv[0], commands[i].name))
			continue;
		strcpy(argv0, commands[i].argv0);
		choice.argv[0] = argv0;
		return commands[i].run(choice.argc, choice.argv);
	}
	fprintf(stderr,
		"godwit: '%s' is no command; it is one of run, migrate, status, stream, sim\n"
		"Try `godwit --help' for more information.\n",
		choice.argv[0]);
	return CLI_EXIT_USAGE;
}
