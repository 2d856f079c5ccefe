/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The vCPU threads of a machine.
 *
 * One thread a vCPU, named "vcpuN".  It is parked (waits here), runs the guest,
 * is held back from that for a while, or does a piece of work that was handed to
 * all vCPUs:
 *
 *	          vcpu_set_resume()             vcpu_set_hold()
 *	  parked -------------------> running ------------------> held
 *	   ^  |  <------------------          <------------------   |
 *	   |  |   vcpu_set_pause(), or         its time is over     |
 *	   |  |   the guest ended (then it                          |
 *	   |  |   stays parked)                                     |
 *	   |  |  <--------------------------------------------------+
 *	   |  |                    vcpu_set_pause(): at once
 *	   |  | vcpu_set_work()
 *	   |  v
 *	  working
 *
 * The control functions are called by one thread at a time: the holder of the
 * machine's LOCK_RUN_STATE, or the migration thread while the machine is in
 * finish-migrate or inmigrate.
 */
#ifndef GODWIT_MACHINE_VCPU_H
#define GODWIT_MACHINE_VCPU_H

#include <stdbool.h>

#include "accel/accel.h"

struct err;
struct vcpu_set;

/* The guest ended on vCPU @index; @err is set for ACCEL_EXIT_FAILED.  Called on
 * the vCPU's thread with no lock held; may not wait for vCPUs. */
typedef void vcpu_exit_fn(void *opaque, unsigned int index,
			  enum accel_exit exit, const struct err *err);

/* Create @count vCPUs of @accel and their threads, all parked. */
int vcpu_set_new(struct accel *accel, unsigned int count, vcpu_exit_fn *on_exit,
		 void *opaque, struct vcpu_set **ret_set, struct err *err);
/* Pauses, joins the threads, frees the vCPUs.  Accepts NULL. */
void vcpu_set_free(struct vcpu_set *set);

struct accel_vcpu *vcpu_set_get(struct vcpu_set *set, unsigned int index);
/* The kernel's id of the vCPU's thread; 0 while it has not started. */
int vcpu_set_thread_id(struct vcpu_set *set, unsigned int index);

/* While a switch is under way: parked vCPUs are urgent (base/thread.h), and so
 * is one that is to park, once it was kicked.  Guest code never runs urgently. */
void vcpu_set_urgent(struct vcpu_set *set, bool is_urgent);

/* They run soon, or not at all: until vcpu_set_resume(), at most until @deadline_ns, which
 * should be near, the first one looks out for it, instead of being woken then (25 us), and
 * for nothing else.  The others would only take CPUs from it, and from who is to say so. */
void vcpu_set_expect(struct vcpu_set *set, uint64_t deadline_ns);
/* Let all run; returns at once. */
void vcpu_set_resume(struct vcpu_set *set);
/* When (clock_mono_ns()) the first one entered its guest after that; 0: none has by
 * @deadline_ns, which should be near: the wait is a spin, so that no vCPU on its
 * way has anybody to wake. */
uint64_t vcpu_set_await_entry(struct vcpu_set *set, uint64_t deadline_ns);
/* Signal all, then wait until all are parked. */
void vcpu_set_pause(struct vcpu_set *set);
/* The same, until @deadline_ns (clock_mono_ns()): -ETIMEDOUT when one is inside a device
 * still, with the others parked; a resume lets all go on. */
int vcpu_set_pause_until(struct vcpu_set *set, uint64_t deadline_ns,
			 struct err *err);

/* Keep vCPU @index from running its guest until @until_ns (clock_mono_ns()); a
 * time that has passed, as 0, lets it go.  Returns at once.  Any thread, whatever
 * else is under way; a pause needs no end of it. */
void vcpu_set_hold(struct vcpu_set *set, unsigned int index, uint64_t until_ns);

/* What a vCPU was held back, since it began or vcpu_set_forget_held(); the number
 * and the longest are of holds that are over.  Any thread. */
struct vcpu_held {
	uint64_t holds, total_ns, longest_ns;
};
void vcpu_set_held(struct vcpu_set *set, unsigned int index,
		   struct vcpu_held *ret_held);
void vcpu_set_forget_held(struct vcpu_set *set);

/* How long a vCPU's thread has had a CPU.  Any thread. */
uint64_t vcpu_set_cpu_ns(struct vcpu_set *set, unsigned int index);

/* Signal all and return: the machine ends, and a resume that comes later (or
 * runs beside this) lets none of them run again.  Any thread, a vCPU's own
 * too. */
void vcpu_set_halt(struct vcpu_set *set);

/* Run @work for every vCPU in parallel, all parked: for the first one on this
 * thread, for the others on their own.  Returns when all are done: 0, or the
 * first error of the lowest vCPU. */
typedef int vcpu_work_fn(struct accel_vcpu *vcpu, struct err *err);
int vcpu_set_work(struct vcpu_set *set, vcpu_work_fn *work, struct err *err);
/* The same for vCPUs that may run: each leaves the guest for it, on its own thread,
 * and goes on.  -ETIMEDOUT when one has not left at @deadline_ns (clock_mono_ns()), being
 * inside a device, -ECANCELED when @stop_fd (an eventfd; -1: none) became readable before
 * that: the work is not done on those that had not begun, and not later either. */
int vcpu_set_interrupt(struct vcpu_set *set, vcpu_work_fn *work,
		       uint64_t deadline_ns, int stop_fd, struct err *err);

#endif
