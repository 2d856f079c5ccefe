// SPDX-License-Identifier: Apache-2.0
/*
 * A guest's rates, as they are unhindered, are those of the round before it was
 * held back for the first time, and of any that wrote more than that since; limits
 * follow from them and the share.
 */
#include "migrate/converge.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/lock.h"
#include "base/trace.h"
#include "machine/machine.h"
#include "mem/ram.h"
#include "migrate/governor.h"
#include "migrate/policy.h"
#include "migrate/throttle.h"

struct converge {
	/* immutable after init */
	struct machine *machine;   /* borrowed */
	struct governor *governor; /* borrowed */
	unsigned int cpus;

	/* owned by the source */
	uint64_t *writes;         /* owned; of each vCPU, at the last round */
	double *rates;            /* owned; pages a second, unhindered */
	bool is_known;            /* who writes */
	uint64_t remaining_bytes; /* after the last round; 0: there was none */
	double cap;

	struct lock lock; /* LOCK_CONVERGE */
	/* protected by lock */
	bool is_active;
	double share, least_share; /* of their writing that vCPUs have */
	struct vcpu_held *held;    /* owned; what there was, once it is over */
};

struct converge *converge_new(struct machine *machine,
			      struct governor *governor)
{
	struct converge *converge = calloc(1, sizeof(*converge));

	if (!converge)
		return NULL;
	converge->machine = machine;
	converge->governor = governor;
	converge->cpus = machine_options(machine)->cpus;
	converge->share = converge->least_share = 1;
	lock_init(&converge->lock, LOCK_CONVERGE);
	converge->writes = calloc(converge->cpus, sizeof(uint64_t));
	converge->rates = calloc(converge->cpus, sizeof(double));
	converge->held = calloc(converge->cpus, sizeof(struct vcpu_held));
	if (converge->writes && converge->rates && converge->held)
		return converge;
	converge_free(converge);
	return NULL;
}

void converge_free(struct converge *converge)
{
	if (!converge)
		return;
	lock_fini(&converge->lock);
	free(converge->writes);
	free(converge->rates);
	free(converge->held);
	free(converge);
}

/* What vCPUs wrote in the last @round_ns (0: before it matters), in bytes.  Nobody
 * may know. */
static uint64_t measure(struct converge *converge, uint64_t round_ns)
{
	bool is_held = converge->share < 1; /* the source alone sets it */
	uint64_t total = 0;

	for (unsigned int i = 0; converge->is_known && i < converge->cpus;
	     i++) {
		uint64_t writes, before = converge->writes[i];
		double rate;

		if (machine_vcpu_writes(converge->machine, i, &writes)) {
			converge->is_known = false;
			break;
		}
		converge->writes[i] = writes;
		writes = writes > before ? writes - before : 0;
		total += writes << RAM_PAGE_SHIFT;
		if (!round_ns)
			continue;
		rate = (double)writes * (double)NS_PER_SEC / (double)round_ns;
		if (!is_held || rate > converge->rates[i])
			converge->rates[i] = rate;
	}
	return total;
}

void converge_begin(struct converge *converge)
{
	machine_forget_held(converge->machine);
	lock_acquire(&converge->lock);
	converge->is_active = true;
	converge->share = converge->least_share = 1;
	lock_release(&converge->lock);
	for (unsigned int i = 0; i < converge->cpus; i++)
		converge->rates[i] = 0;
	converge->remaining_bytes = 0;
	converge->is_known = true;
	measure(converge, 0);
}

static void set_share(struct converge *converge, double share)
{
	lock_acquire(&converge->lock);
	converge->share = share;
	if (share < converge->least_share)
		converge->least_share = share;
	lock_release(&converge->lock);
}

/* The same limit for all: whoever begins to write more is held to it as well. */
static int limit_all(struct converge *converge, struct err *err)
{
	int ret = 0;

	for (unsigned int i = 0; !ret && i < converge->cpus; i++)
		ret = governor_set(converge->governor, GOVERNOR_MIGRATION, i,
				   (uint64_t)converge->cap, err);
	return ret;
}

/* A hold that is under way when the guest is stopped goes straight over into the
 * pause, and the guest cannot tell one from the other: both together are to fit the
 * limit.  Where nothing fits yet, the pause will be what it is at least. */
static void limit_holds(struct converge *converge, const struct policy *policy)
{
	uint64_t pause_ns = policy->estimate_ns <= policy->limit_ns
				    ? policy->estimate_ns
				    : policy->fixed_ns;

	governor_set_hold_max(
		converge->governor,
		policy->limit_ns > pause_ns ? policy->limit_ns - pause_ns : 0);
}

/* After the round that has just ended. */
static double next_share(struct converge *converge, const struct policy *policy,
			 uint64_t remaining_bytes, uint64_t vcpu_bytes)
{
	uint64_t sent_bytes = converge->remaining_bytes;

	converge->remaining_bytes = remaining_bytes;
	if (!policy->idle_rounds ||
	    throttle_helps(policy, sent_bytes, remaining_bytes, vcpu_bytes))
		return throttle_share(policy, converge->share, remaining_bytes);
	trace(mig_throttle_futile, "%lu bytes are left, %lu of them vCPUs'",
	      remaining_bytes, vcpu_bytes);
	return 1;
}

static void let_go(struct converge *converge)
{
	governor_clear(converge->governor, GOVERNOR_MIGRATION);
	set_share(converge, 1);
}

void converge_round(struct converge *converge, const struct policy *policy,
		    uint64_t remaining_bytes, uint64_t round_ns,
		    unsigned int max_percent)
{
	double least = 1 - (double)max_percent / 100, share = 1;
	uint64_t vcpu_bytes = measure(converge, round_ns);
	struct err err = ERR_INIT;

	if (converge->is_known) {
		limit_holds(converge, policy);
		share = next_share(converge, policy, remaining_bytes,
				   vcpu_bytes);
	}
	if (share < least)
		share = least;
	if (share == converge->share)
		return;
	converge->cap = throttle_cap(converge->rates, converge->cpus, share);
	if (share == 1 || converge->cap < 1) { /* no vCPU is in the way */
		let_go(converge);
		return;
	}
	set_share(converge, share);
	trace(mig_throttle, "share %.3f: at most %.0f pages/s each", share,
	      converge->cap);
	if (limit_all(converge, &err)) {
		trace(mig_throttle_failed, "%s", err_msg(&err));
		let_go(converge);
		converge->is_known = false;
	}
}

void converge_end(struct converge *converge)
{
	governor_clear(converge->governor, GOVERNOR_MIGRATION);
	governor_set_hold_max(converge->governor, GOVERNOR_HOLD_MAX_NS);
	lock_acquire(&converge->lock);
	for (unsigned int i = 0; converge->is_active && i < converge->cpus; i++)
		machine_vcpu_held(converge->machine, i, &converge->held[i]);
	converge->is_active = false;
	converge->share = 1;
	lock_release(&converge->lock);
}

/* With the lock. */
static void held_of(struct converge *converge, unsigned int vcpu,
		    struct vcpu_held *ret_held)
{
	if (converge->is_active)
		machine_vcpu_held(converge->machine, vcpu, ret_held);
	else
		*ret_held = converge->held[vcpu];
}

static unsigned int percent_of(double share)
{
	return (unsigned int)((1 - share) * 100 + 0.5);
}

void converge_report(struct converge *converge,
		     struct converge_report *ret_report)
{
	struct converge_report report = { .total_ns = 0 };
	struct vcpu_held held;

	lock_acquire(&converge->lock);
	report.percent = percent_of(converge->share);
	report.most_percent = percent_of(converge->least_share);
	for (unsigned int i = 0; i < converge->cpus; i++) {
		held_of(converge, i, &held);
		report.total_ns += held.total_ns;
		if (held.longest_ns > report.longest_ns)
			report.longest_ns = held.longest_ns;
	}
	lock_release(&converge->lock);
	*ret_report = report;
}

void converge_held(struct converge *converge, unsigned int vcpu,
		   struct vcpu_held *ret_held)
{
	lock_acquire(&converge->lock);
	held_of(converge, vcpu, ret_held);
	lock_release(&converge->lock);
}
