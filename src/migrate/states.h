/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state machines of a migration, drawn in states.c: one table of arcs.
 *
 * An arc is named after its two states, as in "device-sent".  set_state() in
 * mig.c is the only one who takes arcs; fail.c breaks a migration at one.
 */
#ifndef GODWIT_MIGRATE_STATES_H
#define GODWIT_MIGRATE_STATES_H

#include <stdbool.h>
#include <stddef.h>

#include "migrate/migrate.h"

struct arc {
	enum mig_state from, to;
	bool is_destination; /* whose thread is there */
	const char *owner;   /* of the guest, once the arc was taken */
};

#define ARC_NAME_MAX 40

/* NULL: the state machine has no such arc. */
const struct arc *arc_find(enum mig_state from, enum mig_state to);
/* All of them, in the order of the drawing; NULL behind the last. */
const struct arc *arc_at(size_t index);
void arc_name(const struct arc *arc, char name[ARC_NAME_MAX]);

const char *state_name(enum mig_state state);
/* Somebody was told to run the guest, or is next: too late for a cancel. */
bool state_is_past_go(enum mig_state state);

#endif
