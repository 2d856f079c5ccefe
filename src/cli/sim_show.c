// SPDX-License-Identifier: Apache-2.0
/* Layout only: all figures are plan.c's. */
#include "cli/sim_show.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "cli/amount.h"
#include "mem/ram.h"

#define ROUNDS_SHOWN 12
#define COLUMN_MIN   9

static double us(double ns)
{
	return ns / (double)NS_PER_US;
}

/* Per cent of its work that the guest did not do in the rounds. */
static double slowed(const struct plan *plan)
{
	return plan->writes_wanted > 0
		       ? 100 * (1 - plan->writes / plan->writes_wanted)
		       : 0;
}

static double total_ns(const struct plan *plan)
{
	return plan->setup_ns + plan->precopy_ns + plan->downtime_ns;
}

/* ---- one ---- */

static void show_guest(const struct plan_guest *guest)
{
	char memory[AMOUNT_MAX], touched[AMOUNT_MAX], hot[AMOUNT_MAX],
		burst[AMOUNT_MAX];

	printf("guest  %s, %s touched, %u vCPU%s\n",
	       amount_size((double)guest->memory, memory),
	       amount_size((double)guest->touched, touched), guest->cpus,
	       guest->cpus == 1 ? "" : "s");
	if (!guest->hot) {
		printf("       writes nothing\n");
		return;
	}
	printf("       writes %s, %s, ", amount_size((double)guest->hot, hot),
	       writes_pattern_name(guest->pattern));
	if (guest->is_rate_max)
		printf("as fast as it can");
	else
		printf("%.0f accesses/s", guest->rate);
	if (guest->reads)
		printf(", %u %% of them reads", guest->reads);
	if (guest->burst_ns)
		printf(", in bursts of %s",
		       amount_us(us((double)guest->burst_ns), burst));
	printf("\n");
}

static void show_link(const struct plan_input *input)
{
	char rate[AMOUNT_MAX], latency[AMOUNT_MAX], limit[AMOUNT_MAX];

	printf("link   ");
	if (input->link.rate)
		printf("%s/s", amount_size((double)input->link.rate, rate));
	else
		printf("as fast as the hosts");
	printf(", %s one way",
	       amount_us(us((double)input->link.latency_ns), latency));
	if (input->limits.max_bandwidth)
		printf(", limited to %s/s",
		       amount_size((double)input->limits.max_bandwidth, limit));
	printf("\nlimit  %lu ms of pause, writers %s\n",
	       input->limits.downtime_ms,
	       input->limits.throttle ? "may be held back"
				      : "are not held back");
}

static void show_round(const struct plan *plan, int number)
{
	const struct plan_round *round = &plan->round[number];
	char left[AMOUNT_MAX], pass[AMOUNT_MAX], pause[AMOUNT_MAX];

	printf("  round %-4d %12s left, pause about %s", number + 1,
	       amount_size(round->remaining * RAM_PAGE_SIZE, left),
	       amount_us(us((double)round->estimate_ns), pause));
	if (round->pass_ns > 0)
		printf(", sent in %s", amount_us(us(round->pass_ns), pass));
	if (round->share < 1)
		printf(", writers at %.0f %%", 100 * round->share);
	printf("\n");
}

static void show_rounds(const struct plan *plan)
{
	for (int i = 0; i < plan->rounds; i++) {
		if (plan->rounds > ROUNDS_SHOWN && i == ROUNDS_SHOWN - 2) {
			printf("  ...\n");
			i = plan->rounds - 2;
		}
		show_round(plan, i);
	}
}

static void show_pause(const struct plan *plan)
{
	char text[AMOUNT_MAX], expected[AMOUNT_MAX];

	printf("pause %s (the estimate before it: %s)\n",
	       amount_us(us(plan->downtime_ns), text),
	       amount_us(us((double)plan->expected_ns), expected));
	for (int i = 0; i < MIG_PHASE_COUNT; i++) {
		if (plan->phase_ns[i] > 0)
			printf("  %-11s  %-14s %10.1f us\n",
			       i < MIG_PHASE_DST_RECEIVE ? "source"
							 : "destination",
			       mig_phase_name((enum mig_phase)i),
			       us(plan->phase_ns[i]));
	}
}

void sim_show(const struct sim_params *params, const struct plan *plan)
{
	char sent[AMOUNT_MAX], stopped[AMOUNT_MAX], held[AMOUNT_MAX],
		after[AMOUNT_MAX];

	show_guest(&params->input.guest);
	show_link(&params->input);
	show_rounds(plan);
	if (plan->outcome == PLAN_MOVES) {
		printf("moves in %s, %d round%s\n",
		       amount_us(us(total_ns(plan)), after), plan->rounds,
		       plan->rounds == 1 ? "" : "s");
		printf("sends %s, %s of it in the pause\n",
		       amount_size(plan->precopy_bytes + plan->downtime_bytes,
				   sent),
		       amount_size(plan->downtime_bytes, stopped));
	} else {
		printf("%s (after %s, %d rounds)\n",
		       plan_outcome_text(plan->outcome),
		       amount_us(us(total_ns(plan)), after), plan->rounds);
	}
	if (plan->writes_wanted > 0)
		printf("the guest does %.1f %% less while it lasts\n",
		       slowed(plan));
	if (plan->throttled_ns > 0)
		printf("writers are held back for %s, to %.0f %% at the end\n",
		       amount_us(us(plan->throttled_ns), held),
		       100 * plan->share);
	if (plan->outcome == PLAN_MOVES)
		show_pause(plan);
}

/* ---- many ---- */

static int width(const char *name)
{
	int size = (int)strlen(name);

	return size < COLUMN_MIN ? COLUMN_MIN : size;
}

void sim_show_head(const char *const *names, size_t count)
{
	for (size_t i = 0; i < count; i++)
		printf("%-*s  ", width(names[i]), names[i]);
	printf("%6s  %10s  %10s  %12s  %8s  %6s  %s\n", "rounds", "total",
	       "pause", "sent", "slowed", "share", "outcome");
}

void sim_show_row(const char *const *values, const char *const *names,
		  size_t count, const struct plan *plan)
{
	char total[AMOUNT_MAX], pause[AMOUNT_MAX], sent[AMOUNT_MAX];
	bool moves = plan->outcome == PLAN_MOVES;

	for (size_t i = 0; i < count; i++)
		printf("%-*s  ", width(names[i]), values[i]);
	printf("%6d  %10s  %10s  %12s  %6.1f %%  %4.0f %%  %s\n", plan->rounds,
	       moves ? amount_us(us(total_ns(plan)), total) : "-",
	       moves ? amount_us(us(plan->downtime_ns), pause) : "-",
	       amount_size(plan->precopy_bytes + plan->downtime_bytes, sent),
	       slowed(plan), 100 * plan->share,
	       plan_outcome_name(plan->outcome));
}

/* ---- JSON ---- */

static json_t *pause_json(const struct plan *plan)
{
	json_t *phases = json_array();

	for (int i = 0; i < MIG_PHASE_COUNT; i++)
		json_array_append_new(
			phases,
			json_pack("{s:s, s:s, s:f}", "name",
				  mig_phase_name((enum mig_phase)i), "side",
				  i < MIG_PHASE_DST_RECEIVE ? "source"
							    : "destination",
				  "us", us(plan->phase_ns[i])));
	return json_pack("{s:I, s:I, s:o}", "downtime-us",
			 (json_int_t)us(plan->downtime_ns), "expected-us",
			 (json_int_t)us((double)plan->expected_ns), "phases",
			 phases);
}

static json_t *rounds_json(const struct plan *plan)
{
	json_t *rounds = json_array();

	for (int i = 0; i < plan->rounds; i++) {
		const struct plan_round *round = &plan->round[i];

		json_array_append_new(
			rounds,
			json_pack("{s:f, s:f, s:f, s:I, s:f}",
				  "remaining-bytes",
				  round->remaining * RAM_PAGE_SIZE, "sync-us",
				  us(round->sync_ns), "pass-us",
				  us(round->pass_ns), "expected-us",
				  (json_int_t)us((double)round->estimate_ns),
				  "throttle-share", round->share));
	}
	return rounds;
}

json_t *sim_show_json(const struct sim_params *params, const struct plan *plan,
		      bool has_rounds)
{
	bool moves = plan->outcome == PLAN_MOVES;
	json_t *root = json_pack("{s:o, s:b, s:s, s:f, s:f, s:i}", "parameters",
				 sim_params_json(params), "moves", moves,
				 "outcome", plan_outcome_name(plan->outcome),
				 "total-us", us(total_ns(plan)), "setup-us",
				 us(plan->setup_ns), "rounds", plan->rounds);

	json_object_set_new(root, "pause",
			    moves ? pause_json(plan) : json_null());
	json_object_set_new(
		root, "ram",
		json_pack("{s:I, s:I, s:I}", "transferred",
			  (json_int_t)(plan->precopy_bytes +
				       plan->downtime_bytes),
			  "precopy-bytes", (json_int_t)plan->precopy_bytes,
			  "downtime-bytes", (json_int_t)plan->downtime_bytes));
	json_object_set_new(root, "guest",
			    json_pack("{s:f}", "slowed-percent", slowed(plan)));
	json_object_set_new(root, "throttle",
			    json_pack("{s:f, s:f}", "us",
				      us(plan->throttled_ns), "share",
				      plan->share));
	if (has_rounds)
		json_object_set_new(root, "round-list", rounds_json(plan));
	return root;
}
