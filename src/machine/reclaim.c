// SPDX-License-Identifier: Apache-2.0
/*
 * A guest that is to run on after a move that failed, and cannot: somebody has what only the
 * copy that runs may hold, a destination that hangs with a disk's lock.  It is paused, and
 * goes on by itself as soon as that is free.  Nothing tells when locks of files are, so
 * they are asked for again and again, on a thread of its own.
 *
 * Whoever changes the run state meanwhile, or says `stop`, ends that.  Who else takes such a
 * lock in between has AGAIN_NS for it: it is the destination that has it, or nobody.
 */
#include <errno.h>

#include "base/clock.h"
#include "base/trace.h"
#include "machine_priv.h"

#define AGAIN_NS (10 * NS_PER_MS)

static void *reclaimer(void *opaque)
{
	struct machine *machine = opaque;

	lock_acquire(&machine->lock);
	while (!machine->is_ending) {
		if (!machine->is_owed)
			lock_wait(&machine->lock, &machine->owed);
		else if (lock_wait_until(&machine->lock, &machine->owed,
					 clock_mono_ns() + AGAIN_NS) ==
				 -ETIMEDOUT &&
			 machine->is_owed)
			machine_go(machine, NULL);
	}
	lock_release(&machine->lock);
	return NULL;
}

void machine_reclaim_begin(struct machine *machine)
{
	lock_assert_held(&machine->lock);
	if (!machine->has_reclaimer) {
		if (pthread_create(&machine->reclaimer, NULL, reclaimer,
				   machine))
			return; /* `cont` tries again */
		machine->has_reclaimer = true;
		pthread_setname_np(machine->reclaimer, "reclaim");
	}
	trace(reclaim, "until it can be had");
	machine->is_owed = true;
	pthread_cond_signal(&machine->owed);
}

void machine_reclaim_end(struct machine *machine)
{
	lock_assert_held(&machine->lock);
	machine->is_owed = false;
}

void machine_reclaim_join(struct machine *machine)
{
	lock_acquire(&machine->lock);
	machine->is_ending = true;
	pthread_cond_signal(&machine->owed);
	lock_release(&machine->lock);
	if (machine->has_reclaimer)
		pthread_join(machine->reclaimer, NULL);
	machine->has_reclaimer = false;
}
