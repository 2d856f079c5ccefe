// SPDX-License-Identifier: Apache-2.0
/* The arithmetic of the decision; source.c measures. */
#include "migrate/policy.h"

#include "base/clock.h"

/* Until something was measured: what one core moves through a local socket. */
#define BANDWIDTH_GUESS (1ull << 30)
/* What nothing measures: the messages' wake-ups, events, and letting go. */
#define UNMEASURED_NS (150 * NS_PER_US)
/* Until COSTS came (or none comes: a file): stop, save and load of a small guest
 * without devices. */
#define SWITCH_GUESS_NS (150 * NS_PER_US)
/* Rounds shrink to a few percent in ten; a bandwidth that swings (a disk's) must
 * not hold out for ever for the best it once showed. */
#define FITTING_ROUNDS_MAX 24
#define FITTING_IDLE_NS    (5 * NS_PER_SEC)
#define IDLE_ROUNDS_MAX    3
/* For ever; leaves room for the other costs. */
#define SEND_MAX_NS (1ull << 62)

void policy_init(struct policy *policy, uint64_t limit_ns)
{
	*policy = (struct policy){
		.limit_ns = limit_ns,
		.bandwidth = BANDWIDTH_GUESS,
		.switch_ns = SWITCH_GUESS_NS,
		.least_sync_ns = UINT64_MAX,
		.best_ns = UINT64_MAX,
	};
}

void policy_set_costs(struct policy *policy, uint64_t switch_ns,
		      uint64_t state_bytes)
{
	policy->switch_ns = switch_ns;
	policy->state_bytes = state_bytes;
}

void policy_set_rtt(struct policy *policy, uint64_t rtt_ns)
{
	policy->rtt_ns = rtt_ns;
}

static void measure_bandwidth(struct policy *policy,
			      const struct policy_round *round)
{
	uint64_t now;

	if (round->sent_bytes < POLICY_SAMPLE_MIN || round->busy_ns == 0)
		return;
	now = (uint64_t)((double)round->sent_bytes * (double)NS_PER_SEC /
			 (double)round->busy_ns);
	policy->bandwidth = policy->bandwidth == BANDWIDTH_GUESS
				    ? now
				    : (policy->bandwidth + 3 * now) / 4;
	if (policy->bandwidth == 0)
		policy->bandwidth = 1;
}

static uint64_t send_time(const struct policy *policy, uint64_t bytes)
{
	double ns =
		(double)bytes * (double)NS_PER_SEC / (double)policy->bandwidth;

	return ns < (double)SEND_MAX_NS ? (uint64_t)ns : SEND_MAX_NS;
}

/* READY and GO each cross the link once in the pause, and so does the rest. */
static void measure_fixed(struct policy *policy,
			  const struct policy_round *round)
{
	if (round->sync_ns < policy->least_sync_ns)
		policy->least_sync_ns = round->sync_ns;
	policy->fixed_ns = UNMEASURED_NS + policy->switch_ns +
			   policy->least_sync_ns + policy->rtt_ns * 3 / 2 +
			   send_time(policy, policy->state_bytes);
}

bool policy_decide(struct policy *policy, const struct policy_round *round)
{
	uint64_t send_ns, floor_ns;
	bool is_idle;

	measure_bandwidth(policy, round);
	measure_fixed(policy, round);
	send_ns = send_time(policy, round->remaining_bytes);
	floor_ns = policy->fixed_ns + round->sync_ns - policy->least_sync_ns;
	policy->estimate_ns = floor_ns + send_ns;
	policy->is_out_of_reach = policy->fixed_ns > policy->limit_ns &&
				  !round->is_paused && !policy->divides_only;

	is_idle = policy->estimate_ns >= policy->best_ns - policy->best_ns / 10;
	policy->idle_rounds = is_idle ? policy->idle_rounds + 1 : 0;
	/* The best seen ages, so that one lucky round does not hold out for
	 * another for ever. */
	if (policy->idle_rounds > IDLE_ROUNDS_MAX)
		policy->best_ns += policy->best_ns / 16;
	if (policy->estimate_ns < policy->best_ns)
		policy->best_ns = policy->estimate_ns;

	if (policy->divides_only)
		return send_ns <= policy->limit_ns || round->is_paused;
	if (policy->estimate_ns > policy->limit_ns && !round->is_paused)
		return false;
	/* Another round cannot leave less. */
	if (round->remaining_bytes == 0)
		return true;
	if (is_idle)
		policy->fitting_idle_ns += round->busy_ns;
	if (++policy->fitting_rounds >= FITTING_ROUNDS_MAX ||
	    policy->fitting_idle_ns >= FITTING_IDLE_NS)
		return true;
	/* Nothing more to win; but what nobody has sent yet is never the least,
	 * and travels beside a guest that runs. */
	if (send_ns <= floor_ns / 8 &&
	    (round->sent_bytes > 0 || round->is_paused))
		return true;
	/* No round has become better for a while: take one that is near the
	 * best seen. */
	return policy->idle_rounds >= IDLE_ROUNDS_MAX &&
	       policy->estimate_ns <= policy->best_ns + policy->best_ns / 8;
}
