// SPDX-License-Identifier: Apache-2.0
/*
 * src/accel/kvm/ring.c as a model: one vCPU's ring of two entries, its flags, and
 * who harvests it, against the kernel's reset and a vCPU that writes meanwhile.
 *
 * Processes: the vCPU, which makes room itself when its ring is full; the reaper;
 * the migration, which syncs, sends, and ends with a last sync of a vCPU that has
 * stopped.  The kernel is in the steps that they take in it.  There are two pages.
 *
 * The vCPU writes a page without the kernel as long as its TLB says that it may.
 * KVM_RESET_DIRTY_RINGS protects page by page, may stop early for a signal, and
 * flushes TLBs only after it has let go of the kernel's lock.
 *
 * What must hold:
 *
 *	D1, D2  what was written since it was sent is dirty after the last sync
 *	ROOM    the kernel never pushes into an entry that is in use
 *	and nobody waits for ever (invalid end states).
 *
 * Each of these mutants must fail, as tools/check-models checks:
 *
 *	MUTANT PUBLISH  entries are published before they are reset
 *	MUTANT TURN     two harvest at the same time
 *	MUTANT EARLY    a reset that stopped early is taken for a whole one
 *	MUTANT FLAG     entries are not flagged in the order they came
 *	MUTANT LAST     the last sync does not look at the ring
 */

#define PAGES  2
#define SIZE   2 /* of the ring, and of a batch */
#define WRITES 4
#define ROUNDS 2
#define REAPS  1

/* The ring: what is shared, and the indices on either side. */
mtype = { invalid, dirty, reset };
mtype flags[SIZE] = invalid;
byte entry[SIZE];
byte pushed, was_reset; /* the kernel's, mod SIZE; and how many are in use */
byte used;
byte fetch; /* ours */

/* The guest's page tables, and the vCPU's TLB: may it write? */
bool is_writable[PAGES], is_cached[PAGES];

/* ram_block.dirty; and whether the destination's copy is old */
bool is_dirty[PAGES], is_stale[PAGES];

bool turn, slots_lock, has_stopped;
byte unreset;

#define acquire(l) atomic { !l -> l = true }
#define release(l) l = false

#ifdef TURN
#define turn_take() skip
#define turn_give() skip
#else
#define turn_take() acquire(turn)
#define turn_give() release(turn)
#endif

/* Of each who harvests: batch[SIZE], how many are in it, and what a reset says. */

/* ---- the kernel ---- */

/* KVM_RESET_DIRTY_RINGS.  Each page is one step, under the MMU's lock. */
inline kernel_reset()
{
	cleared = 0;
	acquire(slots_lock);
	do
	:: d_step {
			flags[was_reset] == reset ->
			is_writable[entry[was_reset]] = false;
			flags[was_reset] = invalid;
			was_reset = (was_reset + 1) % SIZE;
			used--;
			cleared++
		}
	:: flags[was_reset] != reset -> break
	:: break /* a signal */
	od;
	release(slots_lock);
	if
	:: cleared > 0 -> d_step {
			is_cached[0] = false;
			is_cached[1] = false
		}
	:: else
	fi
}

/* ---- one turn ---- */

inline collect()
{
	count = 0;
	do
	:: count < SIZE && flags[fetch] == dirty ->
		batch[count] = entry[fetch];
		count++;
#ifdef FLAG
		flags[(fetch + 1) % SIZE] = reset;
#else
		flags[fetch] = reset;
#endif
		fetch = (fetch + 1) % SIZE;
		unreset++
	:: else -> break
	od
}

inline reset_all()
{
	do
	:: unreset > 0 ->
		kernel_reset();
		d_step {
			if
			:: cleared < unreset -> unreset = unreset - cleared
			:: else -> unreset = 0
			fi
		}
#ifdef EARLY
		break
#endif
	:: else -> break
	od
}

inline publish()
{
	do
	:: count > 0 ->
		count--;
		is_dirty[batch[count]] = true
	:: else -> break
	od
}

inline harvest()
{
	turn_take();
	collect();
#ifdef PUBLISH
	publish();
	reset_all();
#else
	reset_all();
	publish();
#endif
	turn_give()
}

/* ---- who does all that ---- */

/* One write, or the fault before it; false when the ring was full. */
inline write(p, is_done)
{
	atomic {
		if
		:: is_cached[p] -> is_stale[p] = true
		:: !is_cached[p] && is_writable[p] ->
			is_cached[p] = true;
			is_stale[p] = true
		:: !is_cached[p] && !is_writable[p] && used < SIZE ->
			assert(flags[pushed] == invalid); /* ROOM */
			entry[pushed] = p;
			flags[pushed] = dirty;
			pushed = (pushed + 1) % SIZE;
			used++;
			is_writable[p] = true;
			is_cached[p] = true;
			is_stale[p] = true
		:: else -> is_done = false
		fi
	}
}

proctype vcpu()
{
	byte batch[SIZE], count, cleared, i, p;
	bool is_done;

	do
	:: i < WRITES ->
		if
		:: p = 0
		:: p = 1
		fi;
		is_done = true;
		write(p, is_done);
		if
		:: !is_done -> harvest()
		:: else -> i++
		fi
	:: break
	od;
	has_stopped = true
}

proctype reaper()
{
	byte batch[SIZE], count, cleared, i;

	do
	:: i < REAPS ->
		harvest();
		i++
	:: break
	od
}

/* Taken, then read: both bits may be set again at any time. */
inline send(p)
{
	p = 0;
	do
	:: p < PAGES ->
		if
		:: is_dirty[p] ->
			is_dirty[p] = false;
			is_stale[p] = false
		:: else
		fi;
		p++
	:: else -> break
	od
}

proctype migration()
{
	byte batch[SIZE], count, cleared, round, p;

	do
	:: round < ROUNDS ->
		harvest();
		send(p);
		round++
	:: break
	od;
	has_stopped;
#ifndef LAST
	/* Without a reset: nothing runs. */
	turn_take();
	collect();
	publish();
	turn_give();
#endif
	assert(!is_stale[0] || is_dirty[0]); /* D1, D2 */
	assert(!is_stale[1] || is_dirty[1])
}

init
{
	atomic {
		is_dirty[0] = true; /* all that is resident is unsent */
		is_dirty[1] = true;
		is_stale[0] = true;
		is_stale[1] = true;
		run vcpu();
		run reaper();
		run migration()
	}
}
