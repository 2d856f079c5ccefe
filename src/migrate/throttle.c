// SPDX-License-Identifier: Apache-2.0
/* The arithmetic of throttle.h. */
#include "migrate/throttle.h"

#include "base/clock.h"
#include "migrate/policy.h"

/* The rest that does not fit should fit after the next round, or be half; less
 * than a tenth would not be noticed (policy.c). */
#define STEP_MIN 0.5
#define STEP_MAX 0.9

/* Bytes that the pause that was promised has no time for. */
static double excess_of(const struct policy *policy)
{
	if (policy->estimate_ns <= policy->limit_ns)
		return 0;
	return (double)(policy->estimate_ns - policy->limit_ns) *
	       (double)policy->bandwidth / (double)NS_PER_SEC;
}

bool throttle_helps(const struct policy *policy, uint64_t sent_bytes,
		    uint64_t remaining_bytes, uint64_t vcpu_bytes)
{
	double others = (double)remaining_bytes - (double)vcpu_bytes;

	return !sent_bytes || (double)vcpu_bytes >= excess_of(policy) ||
	       others < STEP_MAX * (double)sent_bytes;
}

double throttle_share(const struct policy *policy, double share,
		      uint64_t remaining_bytes)
{
	double rest = (double)remaining_bytes;
	double step;

	if (policy->is_out_of_reach)
		return 1;
	if (policy->estimate_ns <= policy->limit_ns || !policy->idle_rounds ||
	    !remaining_bytes)
		return share;
	step = (rest - excess_of(policy)) / rest;
	if (step < STEP_MIN)
		step = STEP_MIN;
	share *= step < STEP_MAX ? step : STEP_MAX;
	return share < THROTTLE_SHARE_MIN ? THROTTLE_SHARE_MIN : share;
}

/* Halvings between 0 and the highest rate: to a millionth of it. */
#define CAP_STEPS 20

double throttle_cap(const double *rates, unsigned int count, double share)
{
	double total = 0, low = 0, high = 0;

	for (unsigned int i = 0; i < count; i++) {
		total += rates[i];
		high = rates[i] > high ? rates[i] : high;
	}
	for (int step = 0; share < 1 && step < CAP_STEPS; step++) {
		double cap = (low + high) / 2, sum = 0;

		for (unsigned int i = 0; i < count; i++)
			sum += rates[i] < cap ? rates[i] : cap;
		if (sum <= total * share)
			low = cap;
		else
			high = cap;
	}
	return share < 1 ? low : high;
}
