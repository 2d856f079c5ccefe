/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What holds one running machine in a process: the event loop, the QMP server,
 * signals, and the way the process ends.
 *
 * Order of calls, all by the main thread:
 *
 *	control_new()                     events may arrive, and signals are
 *	                                  caught, from here on
 *	machine_new(.., control_on_machine, control)
 *	mig_new(.., control_on_migration, control)
 *	control_is_ending()               if so, on to control_close()
 *	control_open()                    QMP listens
 *	machine_start() or control_incoming()
 *	control_run()                     until the machine ends
 *	control_close()                   QMP is gone
 *	mig_free(), machine_free()
 *	control_free()                    signals act as before
 *
 * The machine and the migration call control_on_*() from any thread; they only
 * queue, and the loop sends the QMP events.  A struct control belongs to the
 * main thread but for that queue.
 */
#ifndef GODWIT_CONTROL_CONTROL_H
#define GODWIT_CONTROL_CONTROL_H

#include <stdbool.h>

#include "machine/machine.h"
#include "migrate/migrate.h"

struct control;
struct err;

/* How `godwit run` ends: docs/exit-codes.md. */
enum control_exit {
	CONTROL_EXIT_OK = 0,
	CONTROL_EXIT_FAILED = 1,
	CONTROL_EXIT_RESET = 3,
	CONTROL_EXIT_TRIPLE_FAULT = 4,
	CONTROL_EXIT_GUEST_ERROR = 5,
	CONTROL_EXIT_INCOMING = 6,
	CONTROL_EXIT_DEBUG = 192, /* and the low 6 bits of the guest's value */
};

int control_exit_code(enum shutdown_cause cause, uint32_t guest_code);

/*
 * From here to control_free() SIGTERM, SIGINT and SIGHUP are only noted, so that
 * they leave no socket file and no raw terminal behind; they end control_run().
 * SIGPIPE is ignored.
 */
int control_new(struct control **ret_control, struct err *err);
/* NULL is accepted; no more events may arrive. */
void control_free(struct control *control);

/* Before control_open(): a signal came while the machine was built. */
bool control_is_ending(struct control *control);

/* For machine_new() and mig_new(), with the struct control as opaque. */
machine_event_fn control_on_machine;
mig_event_fn control_on_migration;

/*
 * @machine and @mig are borrowed until control_close().  @qmp is "unix:PATH",
 * or NULL for no server.  -EINVAL for another kind of address, or what
 * qmp_server_open() says.
 */
int control_open(struct control *control, struct machine *machine,
		 struct mig *mig, const char *qmp, struct err *err);
/* Idempotent; NULL is accepted. */
void control_close(struct control *control);

/* mig_incoming(); with @exits_on_error, control_run() returns
 * CONTROL_EXIT_INCOMING when the migration fails later. */
int control_incoming(struct control *control, const char *uri,
		     bool exits_on_error, struct err *err);

/* End the machine from the host's side, as `quit` does, once the command that
 * asks for it has been answered. */
void control_quit(struct control *control);

/* Serve until the machine ends; the exit code. */
int control_run(struct control *control);

#endif
