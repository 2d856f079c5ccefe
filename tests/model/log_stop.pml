// SPDX-License-Identifier: Apache-2.0
/*
 * src/accel/kvm/log_stop.c and its callers in slots.c as a model: the list of
 * memslots whose logging ends later, against memslots that go away and come
 * back, migrations that start anew, and the machine's end.
 *
 * Processes: the worker; the migration and the device, each with the topology
 * lock for each of its calls; a vCPU that writes; the end.  A memslot has one
 * page.
 *
 * What must hold:
 *
 *	TELL    the worker tells KVM only of a memslot that is there, and is the one
 *	        that was on the list, and only while there is a VM
 *	ONCE    no memslot is put on the list twice
 *	D1, D5  what was written since it was sent is known after a sync
 *	OFF     in the end nothing is logged, unless the machine ended before that
 *	        was due
 *	and nobody waits for ever (invalid end states).
 *
 * Each of these mutants must fail, as tools/check-models checks:
 *
 *	MUTANT REMOVE   a memslot that goes away stays on the list
 *	MUTANT BUSY     nobody waits for the memslot that the worker is at
 *	MUTANT RESTART  a new migration leaves the list as it is
 *	MUTANT WATCHED  a new migration takes memslots for watched that were
 *	MUTANT WAKE     the end does not wake a worker that waits
 *	MUTANT JOIN     the end does not wait for the worker
 */

#define SLOTS  2
#define NONE   255
#define ROUNDS 2 /* migrations */
#define SWAPS  2 /* a memslot goes, or comes back */

/* struct kv_slot */
bool is_there[SLOTS], is_logged[SLOTS], is_watched[SLOTS], on_list[SLOTS];
byte serial[SLOTS]; /* another one each time */

/* struct kv and struct kv_log_stop */
bool is_logging, is_ending, is_alive, is_due, was_woken;
byte busy = NONE;
bool topology, lock;

/* KVM: logged, and not dirty means protected */
bool kvm_logged[SLOTS], kvm_dirty[SLOTS], is_gone;

/* ram_block.dirty; and whether the destination's copy is old */
bool is_dirty[SLOTS], is_stale[SLOTS];

byte at_work = 3; /* migration, device, vCPU */

#define acquire(l) atomic { !l -> l = true }
#define release(l) l = false
#define has_work   (on_list[0] || on_list[1])

/* KVM_SET_USER_MEMORY_REGION: the kernel's own lock makes it one step.  With
 * INITIALLY_SET all is dirty at first. */
#define tell_log(s, on)                                        \
	kvm_dirty[s] = on && (!kvm_logged[s] || kvm_dirty[s]); \
	kvm_logged[s] = on

/* kv_log_stop_take() */
inline take(s)
{
	acquire(lock);
	on_list[s] = false;
#ifndef BUSY
	do
	:: busy == s ->
		release(lock);
		busy != s;
		acquire(lock)
	:: else -> break
	od;
#endif
	release(lock)
}

/* ---- the worker ---- */

proctype worker()
{
	byte s, which;

	acquire(lock);
	do
	:: has_work && !is_due ->
		was_woken = false;
		release(lock);
		was_woken || is_due;
		acquire(lock)
	:: has_work && is_due ->
		if
		:: on_list[0] -> s = 0
		:: on_list[1] -> s = 1
		fi;
		on_list[s] = false;
		busy = s;
		which = serial[s];
		release(lock);
		d_step {
			assert(is_there[s] && serial[s] == which); /* TELL */
			assert(!is_gone);
			tell_log(s, false)
		}
		acquire(lock);
		is_logged[s] = false;
		busy = NONE;
		was_woken = true
	:: !has_work -> break
	od;
	is_alive = false;
	release(lock)
}

/* kv_log_stop_later() */
inline stop_later(i)
{
	acquire(lock);
	i = 0;
	do
	:: i < SLOTS ->
		if
		:: is_there[i] && is_logged[i] && busy != i ->
			assert(!on_list[i]); /* ONCE */
			on_list[i] = true
		:: else
		fi;
		i++
	:: else -> break
	od;
	if /* sometimes so late that it never comes */
	:: is_due = true
	:: is_due = false
	fi;
	was_woken = true;
	if
	:: has_work && !is_alive ->
		is_alive = true;
		run worker()
	:: else
	fi;
	release(lock)
}

/* kv_log_stop_call_off() */
inline call_off()
{
#ifndef RESTART
	acquire(lock);
	on_list[0] = false;
	on_list[1] = false;
	was_woken = true;
	release(lock)
#else
	skip
#endif
}

/* ---- the migration ---- */

/* kv_log_clear() of its one page, which is then read. */
inline clear_and_read(s)
{
	acquire(topology);
	if
	:: is_there[s] && !is_watched[s] ->
		take(s);
		if
		:: !is_logged[s] ->
			d_step { tell_log(s, true) };
			is_logged[s] = true
		:: else
		fi;
		is_watched[s] = true
	:: else
	fi;
	d_step {
		if
		:: is_there[s] && kvm_logged[s] -> kvm_dirty[s] = false
		:: else
		fi
	};
	release(topology);
	is_stale[s] = false
}

/* kv_log_sync_all(), and what it is for. */
inline sync(s)
{
	acquire(topology);
	s = 0;
	do
	:: s < SLOTS ->
		d_step {
			if
			:: is_there[s] && is_watched[s] && kvm_logged[s] &&
			   kvm_dirty[s] ->
				is_dirty[s] = true
			:: else
			fi;
			assert(!is_stale[s] || is_dirty[s]) /* D1, D5 */
		};
		s++
	:: else -> break
	od;
	release(topology)
}

proctype migration()
{
	byte round, s;

	do
	:: round < ROUNDS ->
		acquire(topology);
		is_logging = true;
		call_off();
#ifndef WATCHED
		is_watched[0] = false;
		is_watched[1] = false;
#endif
		release(topology);
		d_step { /* all that is resident is unsent */
			is_dirty[0] = true;
			is_dirty[1] = true;
			is_stale[0] = true;
			is_stale[1] = true
		};
		s = 0;
		do
		:: s < SLOTS ->
			is_dirty[s] = false;
			clear_and_read(s);
			s++
		:: break /* failed, or cancelled */
		od;
		sync(s);
		acquire(topology);
		is_logging = false;
		stop_later(s);
		release(topology);
		round++
	:: else -> break
	od;
	at_work--
}

/* ---- the device, the vCPU, the end ---- */

/* slot_del() and slot_add() */
proctype device()
{
	byte swap;

	do
	:: swap < SWAPS ->
		acquire(topology);
		if
		:: is_there[0] ->
#ifndef REMOVE
			take(0);
#endif
			d_step {
				is_there[0] = false;
				kvm_logged[0] = false;
				kvm_dirty[0] = false
			};
			is_dirty[0] = is_dirty[0] || is_logging /* D5 */
		:: else ->
			d_step {
				serial[0]++;
				is_there[0] = true;
				is_logged[0] = is_logging;
				is_watched[0] = is_logging;
				tell_log(0, is_logging)
			}
		fi;
		release(topology);
		swap++
	:: break
	od;
	at_work--
}

proctype vcpu()
{
	byte s;

	do
	:: atomic {
			at_work > 1 ->
			if
			:: s = 0
			:: s = 1
			fi;
			if
			:: is_there[s] ->
				is_stale[s] = true;
				kvm_dirty[s] = kvm_dirty[s] || kvm_logged[s]
			:: else
			fi
		}
	:: break
	od;
	at_work--
}

init
{
	atomic {
		is_there[0] = true;
		is_there[1] = true;
		run migration();
		run device();
		run vcpu()
	};
	at_work == 0;
	if
	:: is_due ->
		!is_alive;
		assert(!kvm_logged[0] && !kvm_logged[1]) /* OFF */
	:: true
	fi;
	/* kv_log_stop_end(), and the VM is closed */
	acquire(lock);
	is_ending = true;
	on_list[0] = false;
	on_list[1] = false;
#ifndef WAKE
	was_woken = true;
#endif
	release(lock);
#ifndef JOIN
	!is_alive;
#endif
	is_gone = true
}
