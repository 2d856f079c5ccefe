/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The failure injector: breaks a migration on purpose, once, where it takes a
 * given arc of its state machine.
 *
 *	exit      the process dies at once, as by SIGKILL
 *	close     the link is cut (a file's disk is full), the thread goes on
 *	stall     the thread stands still until a cancel or the end of the
 *		  process, or until the peer closes
 *	garbage   bytes that are no record go to the peer, the thread goes on
 *
 * set_state() notes that the arc was taken, whoever takes it; the migration's
 * thread then breaks what is to be broken, outside the lock: queries are
 * answered while it stalls.
 */
#ifndef GODWIT_MIGRATE_FAIL_H
#define GODWIT_MIGRATE_FAIL_H

#include "migrate/states.h"

struct channel;
struct err;

enum fail_action {
	FAIL_EXIT,
	FAIL_CLOSE,
	FAIL_STALL,
	FAIL_GARBAGE,
	FAIL_ACTION_COUNT
};

struct fail {
	const struct arc *arc; /* NULL: none */
	enum fail_action action;
};

/* "ARC[,action=ACTION]", exit by default; "" is none.  -EINVAL. */
int fail_parse(const char *text, struct fail *ret_fail, struct err *err);
void fail_text(const struct fail *fail, char text[MIG_FAIL_MAX]);

/* Do it.  -ECANCELED: a stall was ended by @stop_fd. */
int fail_act(const struct fail *fail, struct channel *channel, int stop_fd);

#endif
