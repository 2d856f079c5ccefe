// SPDX-License-Identifier: Apache-2.0
/*
 * Turning dirty logging off, later and elsewhere; called by slots.c.
 *
 * KVM walks all mappings of a memslot whose logging ends and collapses the small
 * ones: 9 ms a GiB here (bench/memslot-size), seconds for a large guest, and
 * nothing needs it urgently.  So a stop leaves the memslots logged, on a list,
 * and a worker takes them from it one by one after a grace period, with rests
 * between.  It lives until the list is empty.
 *
 * Who owns a memslot: the holder of the topology lock, but while it is on the
 * list or `busy`, the lock below.  The holder of both takes it back by
 * unlinking it; only for a busy one does he wait (kv_log_stop_take()), for one
 * ioctl.  The worker never takes the topology lock, nor does it hold its own
 * during that ioctl, so what needs either goes on meanwhile; another change of a
 * memslot waits in the kernel for the same ioctl, with or without us
 * (kvm->slots_lock).
 *
 *	unwanted --stop--> on the list --due--> busy --KVM has done it--> not logged
 *	   ^                   |                  |
 *	   +---new migration---+--removed, moved--+
 *
 * A new migration calls the list off and finds memslots still logged: see
 * slot_watch().  One that is removed meanwhile has nobody who reads its log, so
 * that there is nothing to harvest (D5).  tests/model/log_stop.pml is this file
 * as a model.
 */
#include <assert.h>
#include <string.h>

#include "base/clock.h"
#include "base/trace.h"
#include "kvm_priv.h"

/* The worker rests nine times as long as it worked (not: as it waited), so that
 * it takes a tenth of a CPU, and KVM's locks are free most of the time. */
#define REST_FACTOR 9

static uint64_t worked_ns(void)
{
	return clock_read_ns(CLOCK_THREAD_CPUTIME_ID);
}

void kv_log_stop_init(struct kv *kv, bool is_inline)
{
	struct kv_log_stop *stop = &kv->log_stop;

	stop->is_inline = is_inline;
	lock_init(&stop->lock, LOCK_LOG_STOP);
	lock_cond_init(&stop->changed);
	list_init(&stop->slots);
}

/* With the lock: forget them; they stay logged. */
static unsigned int empty(struct kv_log_stop *stop)
{
	struct kv_slot *slot, *next;
	unsigned int count = 0;

	list_for_each_safe (slot, next, &stop->slots, stop_link) {
		list_del(&slot->stop_link);
		count++;
	}
	pthread_cond_broadcast(&stop->changed);
	return count;
}

static void join_worker(struct kv_log_stop *stop)
{
	if (stop->has_thread)
		pthread_join(stop->thread, NULL);
	stop->has_thread = false;
}

void kv_log_stop_end(struct kv *kv)
{
	struct kv_log_stop *stop = &kv->log_stop;

	lock_acquire(&stop->lock);
	stop->is_ending = true;
	empty(stop);
	lock_release(&stop->lock);
	join_worker(stop);
}

void kv_log_stop_fini(struct kv *kv)
{
	pthread_cond_destroy(&kv->log_stop.changed);
	lock_fini(&kv->log_stop.lock);
}

/* With the lock, which is released meanwhile: one memslot. */
static void stop_one(struct kv *kv, struct kv_slot *slot)
{
	struct kv_log_stop *stop = &kv->log_stop;
	uint64_t start = worked_ns(), spent;
	int ret;

	list_del(&slot->stop_link);
	stop->busy = slot;
	lock_release(&stop->lock);
	ret = kv_slot_tell(kv, slot, false, slot->size);
	spent = worked_ns() - start;
	if (ret) /* it stays logged: the next stop tries again */
		trace(kvm_log_stop_failed, "slot %u: %s", slot->id,
		      strerror(-ret));
	else
		trace(kvm_log_stopped, "slot %u: %lu us", slot->id,
		      spent / 1000);
	lock_acquire(&stop->lock);
	if (!ret)
		slot->is_logged = false;
	stop->busy = NULL;
	stop->due_ns = clock_mono_ns() + REST_FACTOR * spent;
	pthread_cond_broadcast(&stop->changed);
}

/* With the lock. */
static void stop_next(struct kv *kv)
{
	stop_one(kv, list_entry(kv->log_stop.slots.next, struct kv_slot,
				stop_link));
}

static void *worker_main(void *opaque)
{
	struct kv *kv = opaque;
	struct kv_log_stop *stop = &kv->log_stop;

	lock_acquire(&stop->lock);
	while (!list_is_empty(&stop->slots)) {
		if (clock_mono_ns() < stop->due_ns)
			lock_wait_until(&stop->lock, &stop->changed,
					stop->due_ns);
		else
			stop_next(kv);
	}
	stop->is_alive = false;
	lock_release(&stop->lock);
	trace(kvm_log_stop_end, "nothing is left to stop");
	return NULL;
}

/* With the lock. */
static void start_worker(struct kv *kv)
{
	struct kv_log_stop *stop = &kv->log_stop;
	int ret;

	if (stop->is_alive)
		return;
	join_worker(stop); /* one that takes no lock any more */
	ret = pthread_create(&stop->thread, NULL, worker_main, kv);
	if (ret) {
		trace(kvm_log_stop_failed, "no thread: %s", strerror(ret));
		empty(stop); /* the next stop tries again */
		return;
	}
	pthread_setname_np(stop->thread, "log-stop");
	stop->has_thread = true;
	stop->is_alive = true;
}

void kv_log_stop_later(struct kv *kv, uint64_t grace_ns)
{
	struct kv_log_stop *stop = &kv->log_stop;
	struct kv_slot *slot;
	unsigned int count = 0;

	lock_acquire(&stop->lock);
	list_for_each (slot, &kv->slots, link) {
		if (!slot->is_logged || slot->is_region_log ||
		    slot == stop->busy || stop->is_ending)
			continue;
		assert(list_is_empty(&slot->stop_link));
		list_add_tail(&stop->slots, &slot->stop_link);
		count++;
	}
	while (stop->is_inline && !list_is_empty(&stop->slots))
		stop_next(kv);
	if (count && !stop->is_inline) {
		stop->due_ns = clock_mono_ns() + grace_ns;
		pthread_cond_broadcast(&stop->changed);
		trace(kvm_log_stop_later, "%u slots, in %lu ms", count,
		      grace_ns / 1000000);
		start_worker(kv);
	}
	lock_release(&stop->lock);
}

void kv_log_stop_call_off(struct kv *kv)
{
	struct kv_log_stop *stop = &kv->log_stop;
	unsigned int count;

	lock_acquire(&stop->lock);
	count = empty(stop);
	lock_release(&stop->lock);
	if (count)
		trace(kvm_log_stop_called_off, "%u slots stay logged", count);
}

void kv_log_stop_take(struct kv *kv, struct kv_slot *slot)
{
	struct kv_log_stop *stop = &kv->log_stop;

	lock_acquire(&stop->lock);
	list_del(&slot->stop_link);
	while (stop->busy == slot)
		lock_wait(&stop->lock, &stop->changed);
	lock_release(&stop->lock);
}
