/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sub-commands of godwit, called by main() with argv[0] "godwit NAME".
 * Each returns the exit code (docs/exit-codes.md).  argp ends the process by
 * itself for --help, --usage, --version and a wrong command line.
 */
#ifndef GODWIT_CLI_COMMANDS_H
#define GODWIT_CLI_COMMANDS_H

enum cli_exit {
	CLI_EXIT_OK = 0,
	CLI_EXIT_FAILED = 1,
	CLI_EXIT_NONSENSE = 2,      /* `sim`: readable, but impossible */
	CLI_EXIT_USAGE = 64,        /* argp's, EX_USAGE of <sysexits.h> */
	CLI_EXIT_TIMEOUT = 124,     /* as timeout(1) */
	CLI_EXIT_INTERRUPTED = 130, /* as a shell says of SIGINT */
};

int cli_run(int argc, char **argv);
int cli_migrate(int argc, char **argv);
int cli_status(int argc, char **argv);
int cli_stream(int argc, char **argv);
int cli_sim(int argc, char **argv);

#endif
