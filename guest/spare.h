/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A vCPU that no queue belongs to, brought up and down by INIT and SIPI as a kernel does
 * it: the one behind those that take part, if the machine has one more.
 *
 *	     INIT, seen to stand still          SIPI
 *	up ----------------------------> down --------> started, seen to work: up
 *	 +---- INIT and SIPI at once ---------------------^
 *
 * It counts while it is up.  CPU 0 looks at that, and never waits for it.
 */
#ifndef GODWIT_GUEST_SPARE_H
#define GODWIT_GUEST_SPARE_H

#include <stdbool.h>
#include <stdint.h>

struct io;

enum spare_state {
	SPARE_STARTED, /* it has to count soon */
	SPARE_UP,
	SPARE_STOPPED, /* INIT was sent */
	SPARE_DOWN,    /* and what it had counted then is known */
};

struct spare {
	/* owned by CPU 0 */
	enum spare_state state;
	uint32_t starts; /* that were asked for */
	uint32_t count;  /* as seen last */
	uint64_t since;  /* TSC, of @state */

	/* written by the spare vCPU */
	uint32_t starts_made, count_made;
};

/* CPU 0, once, from io->start on; false when no such vCPU comes. */
bool spare_init(struct io *io);
/* CPU 0: its next step, by @dice.  False: it is not time yet. */
bool spare_change(struct io *io, uint64_t dice, uint64_t now);
/* Where vCPU @index comes to, which takes no part: it halts for ever if it is not such a one. */
_Noreturn void spare_main(struct io *io, uint32_t index);

#endif
