// SPDX-License-Identifier: Apache-2.0
/* The loop of plan.h.  Times are nanoseconds since the first sync. */
#include "migrate/plan.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "mem/ram.h"
#include "migrate/format.h"
#include "migrate/throttle.h"

#define PAGE            ((double)RAM_PAGE_SIZE)
#define SECOND          ((double)NS_PER_SEC)
#define WINDOW          ((double)FMT_RAM_PAGES) /* pages */
#define RUN_BYTES       16.0                    /* of a page that lies alone */
#define NO_LIMIT        1e15                    /* bytes a second */
#define DECISION_MAX_NS 4e18                    /* uint64_t for policy.c */

/* Connect, BUILT, and three rounds of nothing. */
#define SETUP_ROUND_TRIPS 5
/* Points of a pass at which the exposure of its pages is looked at. */
#define POINTS 32
/* Halvings of the guest's speed until it fits its time. */
#define HALVINGS 24
/* So many rounds in a row that brought nothing, and no more will; fewer where
 * even nothing left would not fit. */
#define IDLE_ROUNDS_ENOUGH         64
#define OUT_OF_REACH_ROUNDS_ENOUGH 8

struct model {
	const struct plan_input *input; /* borrowed */
	struct plan *plan;              /* borrowed, filled in */
	struct policy policy;
	struct writes writes;
	struct writes_class classes[WRITES_CLASSES_MAX];
	double dirty[WRITES_CLASSES_MAX]; /* pages of each */
	double next[WRITES_CLASSES_MAX];  /* after the pass under way */
	int count;
	double static_dirty; /* touched pages that nobody writes, unsent */
	bool is_first_pass;
	double now_ns;
	double share;      /* of the pages that become dirty a second */
	double dirty_rate; /* those, with all of it, in the last stretch: per ns */
};

/* From the start of a pass to the end of the sync that follows it. */
struct stretch {
	double start_ns, end_ns;
	double hot_ns; /* the pass's way through the working set; 0: no pass */
};

static double cost(const struct model *model, enum plan_cost which)
{
	return model->input->costs.value[which];
}

static double vcpu_cost(const struct model *model, enum plan_cost fixed,
			enum plan_cost each)
{
	return cost(model, fixed) +
	       cost(model, each) * model->input->guest.cpus;
}

static double smaller(double a, double b)
{
	return a < b ? a : b;
}

static double larger(double a, double b)
{
	return a > b ? a : b;
}

static uint64_t whole(double ns)
{
	return (uint64_t)smaller(larger(ns, 0), DECISION_MAX_NS);
}

static double link_rate(const struct model *model)
{
	uint64_t rate = model->input->link.rate;

	return rate ? (double)rate : NO_LIMIT;
}

static double round_trip_ns(const struct model *model)
{
	return 2 * ((double)model->input->link.latency_ns +
		    cost(model, PLAN_COST_MESSAGE));
}

static double hot_dirty(const struct model *model)
{
	double pages = 0;

	for (int i = 0; i < model->count; i++)
		pages += model->dirty[i];
	return pages;
}

static double remaining(const struct model *model)
{
	return hot_dirty(model) + model->static_dirty;
}

/* What the two hosts manage between them, of memory that is there when it is not the
 * first pass. */
static double alone_rate(const struct model *model)
{
	return cost(model,
		    model->is_first_pass ? PLAN_COST_FRESH : PLAN_COST_WARM);
}

/* The same beside the guest. */
static double host_rate(const struct model *model)
{
	double crowd =
		cost(model, PLAN_COST_CROWD) / 100 * model->input->guest.cpus;

	return alone_rate(model) / (1 + crowd);
}

static double send_rate(const struct model *model)
{
	return smaller(link_rate(model), host_rate(model));
}

/* ---- the guest ---- */

/* Pages that are dirty after the stretch, with the guest at @speed of what it
 * wants; into model->next.  Returns how many became so. */
static double dirty_in(struct model *model, const struct stretch *stretch,
		       double speed)
{
	double end = writes_active(&model->writes, stretch->end_ns / SECOND);
	double exposed[POINTS + 1], sum = 0;

	/* In the middle of each piece of the pass; last a page that is not sent
	 * and is watched all the time. */
	for (int k = 0; k <= POINTS; k++) {
		double at = k < POINTS ? (k + 0.5) / POINTS : 0;
		double ns = stretch->start_ns + at * stretch->hot_ns;

		exposed[k] = speed *
			     (end - writes_active(&model->writes, ns / SECOND));
	}
	for (int i = 0; i < model->count; i++) {
		const struct writes_class *one = &model->classes[i];
		double sent = model->dirty[i], clean = one->pages - sent;
		double found = clean * writes_chance(one, exposed[POINTS]);

		for (int k = 0; stretch->hot_ns > 0 && k < POINTS; k++)
			found += sent / POINTS * writes_chance(one, exposed[k]);
		model->next[i] = stretch->hot_ns > 0 ? found : sent + found;
		sum += found;
	}
	return sum;
}

/* The guest lives through the stretch: its writes and their faults take as much
 * of its processors' time as there is, and where it is throttled, no more pages
 * become dirty than its share. */
static void live(struct model *model, const struct stretch *stretch)
{
	double stretch_ns = stretch->end_ns - stretch->start_ns;
	double most = model->share < 1
			      ? model->share * model->dirty_rate * stretch_ns
			      : INFINITY;
	double active =
		(writes_active(&model->writes, stretch->end_ns / SECOND) -
		 writes_active(&model->writes, stretch->start_ns / SECOND));
	double wanted = active * model->writes.rate;
	double room = active * SECOND * model->input->guest.cpus;
	double low = 0, high = 1, speed = high, faults;

	for (int i = 0; i < HALVINGS; i++) {
		bool fits;

		faults = dirty_in(model, stretch, speed);
		fits = faults <= most &&
		       speed * wanted * cost(model, PLAN_COST_WRITE) +
				       faults * cost(model, PLAN_COST_FAULT) <=
			       room;

		if (fits && i == 0)
			break;
		if (fits)
			low = speed;
		else
			high = speed;
		speed = (low + high) / 2;
	}
	faults = dirty_in(model, stretch, speed);
	if (model->share == 1 && stretch_ns > 0)
		model->dirty_rate = faults / stretch_ns;
	memcpy(model->dirty, model->next, sizeof(model->dirty));
	model->plan->writes_wanted += wanted;
	model->plan->writes += wanted * speed;
}

/* ---- the source ---- */

static double sync_ns(const struct model *model, double pages)
{
	double gib = (double)model->input->guest.touched / (double)(1ull << 30);

	return cost(model, PLAN_COST_SYNC) +
	       cost(model, PLAN_COST_SYNC_GIB) * gib +
	       cost(model, PLAN_COST_SYNC_PAGE) * pages;
}

/* Windows of 4 MiB in which some of @pages lie, spread over @among. */
static double windows(double pages, double among)
{
	double all = ceil(among / WINDOW);

	if (pages <= 0 || among <= 0)
		return 0;
	return smaller(pages, all * -expm1(-pages / all));
}

/* Of the source's thread, before it sends. */
static double prepare_ns(const struct model *model, double pages)
{
	double hot = hot_dirty(model);
	double hot_pages = (double)(model->input->guest.hot >> RAM_PAGE_SHIFT);
	double cleared =
		windows(hot, hot_pages) + ceil(model->static_dirty / WINDOW);

	return cleared * cost(model, PLAN_COST_CLEAR_WINDOW) +
	       pages * cost(model, PLAN_COST_SCAN_PAGE);
}

static double page_bytes(const struct model *model)
{
	return PAGE + (model->is_first_pass ? 0 : RUN_BYTES);
}

/* All that is dirty goes over the link, while the guest runs. */
static void pass(struct model *model, struct policy_round *round)
{
	struct plan *plan = model->plan;
	double limit = (double)model->input->limits.max_bandwidth;
	double pages = remaining(model), bytes = pages * page_bytes(model);
	double busy = bytes / send_rate(model) * SECOND;
	double taken = larger(prepare_ns(model, pages) +
				      bytes / host_rate(model) * SECOND,
			      bytes / link_rate(model) * SECOND);
	struct stretch stretch;

	if (limit > 0)
		taken = larger(taken, bytes / limit * SECOND);
	stretch = (struct stretch){
		.start_ns = model->now_ns,
		.hot_ns = pages > 0 ? taken * hot_dirty(model) / pages : 0,
	};
	taken += round_trip_ns(model);
	stretch.end_ns = model->now_ns + taken + sync_ns(model, pages);
	live(model, &stretch);
	model->now_ns += taken;
	model->static_dirty = 0;
	model->is_first_pass = false;
	round->sent_bytes = whole(bytes);
	round->busy_ns = whole(busy + round_trip_ns(model));
	plan->precopy_bytes += bytes;
	plan->round[plan->rounds - 1].pass_ns = taken;
	if (model->share < 1)
		plan->throttled_ns += taken;
}

static bool decide(struct model *model, struct policy_round *round)
{
	struct plan *plan = model->plan;
	struct plan_round *told = &plan->round[plan->rounds++];
	double pages = remaining(model);
	bool is_time;

	*told = (struct plan_round){
		.remaining = pages,
		.sync_ns = sync_ns(model, pages),
		.share = model->share,
	};
	if (model->is_first_pass) /* all that exists is new */
		told->sync_ns += pages * cost(model, PLAN_COST_FIND_PAGE);
	model->now_ns += told->sync_ns;
	round->remaining_bytes = whole(floor(pages + 0.5) * PAGE);
	round->sync_ns = whole(told->sync_ns);
	is_time = policy_decide(&model->policy, round);
	told->estimate_ns = model->policy.estimate_ns;
	if (!is_time && model->input->limits.throttle)
		model->share = throttle_share(&model->policy, model->share,
					      round->remaining_bytes);
	return is_time;
}

/* More rounds bring nothing. */
static bool is_hopeless(const struct model *model)
{
	if (model->plan->rounds >= PLAN_ROUNDS_MAX)
		return true;
	if (model->policy.is_out_of_reach)
		return model->plan->rounds >= OUT_OF_REACH_ROUNDS_ENOUGH;
	return model->policy.idle_rounds >= IDLE_ROUNDS_ENOUGH &&
	       model->policy.estimate_ns > model->policy.limit_ns;
}

/* ---- the pause ---- */

/* The phases of source_switch(), and the destination's beside them: it loads
 * while RAM still arrives. */
static void stop_and_switch(struct model *model)
{
	struct plan *plan = model->plan;
	double *phase = plan->phase_ns;
	double one_way = round_trip_ns(model) / 2;
	double state = vcpu_cost(model, PLAN_COST_STATE, PLAN_COST_STATE_VCPU);
	double load = vcpu_cost(model, PLAN_COST_LOAD, PLAN_COST_LOAD_VCPU);
	double state_ns = state / send_rate(model) * SECOND;
	double pages, page_ns, ram_ns, sent, arrived;
	struct stretch stretch;

	phase[MIG_PHASE_STOP_VCPUS] =
		vcpu_cost(model, PLAN_COST_STOP, PLAN_COST_STOP_VCPU);
	phase[MIG_PHASE_SAVE_VCPUS] =
		vcpu_cost(model, PLAN_COST_SAVE, PLAN_COST_SAVE_VCPU);
	/* Written after the decision, until all vCPUs have stopped; nothing is
	 * sent. */
	stretch = (struct stretch){
		.start_ns = model->now_ns,
		.end_ns = model->now_ns + phase[MIG_PHASE_STOP_VCPUS],
	};
	live(model, &stretch);
	pages = remaining(model);
	/* Each side has its processors for itself, and hashes what it sends or was
	 * sent; the last record is not looked at before it is whole. */
	page_ns = cost(model, PLAN_COST_CHECK_PAGE) +
		  page_bytes(model) / alone_rate(model) * SECOND;
	ram_ns = larger(pages * (cost(model, PLAN_COST_SCAN_PAGE) + page_ns),
			pages * page_bytes(model) / link_rate(model) * SECOND);
	phase[MIG_PHASE_SEND_STATE] = state_ns;
	phase[MIG_PHASE_LAST_SYNC] = sync_ns(model, pages);
	phase[MIG_PHASE_SEND_RAM] = ram_ns;
	phase[MIG_PHASE_DST_LOAD] = load;
	phase[MIG_PHASE_DST_START] = cost(model, PLAN_COST_START);
	sent = phase[MIG_PHASE_LAST_SYNC] + ram_ns;
	arrived = sent + smaller(pages, WINDOW) * page_ns;
	phase[MIG_PHASE_WAIT_READY] =
		larger(load, arrived) - sent + 2 * one_way;
	phase[MIG_PHASE_WAIT_RUNNING] = 2 * one_way +
					phase[MIG_PHASE_DST_START] +
					cost(model, PLAN_COST_REST);
	for (int i = 0; i < MIG_PHASE_DST_RECEIVE; i++)
		plan->downtime_ns += phase[i];
	plan->downtime_bytes = state + pages * page_bytes(model);
}

/* ---- all of it ---- */

static void model_init(struct model *model, const struct plan_input *input,
		       struct plan *plan)
{
	const struct plan_guest *guest = &input->guest;
	double fastest =
		guest->cpus * SECOND / input->costs.value[PLAN_COST_WRITE];
	double rate =
		guest->is_rate_max ? fastest : smaller(guest->rate, fastest);

	*model = (struct model){ .input = input, .plan = plan, .share = 1 };
	model->writes = (struct writes){
		.pattern = guest->pattern,
		.pages = guest->hot >> RAM_PAGE_SHIFT,
		.vcpus = guest->cpus,
		.rate = rate * (100 - guest->reads) / 100,
		.burst_s = (double)guest->burst_ns / SECOND,
	};
	model->count = writes_classes(&model->writes, model->classes);
	model->static_dirty = (double)(guest->touched >> RAM_PAGE_SHIFT);
	for (int i = 0; i < model->count; i++) {
		model->dirty[i] = model->classes[i].pages;
		model->static_dirty -= model->dirty[i];
	}
	model->is_first_pass = true;
	policy_init(&model->policy, input->limits.downtime_ms * NS_PER_MS);
	/* What COSTS will say, and the round trip (source.c, await_built()). */
	policy_set_costs(
		&model->policy,
		whole(vcpu_cost(model, PLAN_COST_STOP, PLAN_COST_STOP_VCPU) +
		      vcpu_cost(model, PLAN_COST_SAVE, PLAN_COST_SAVE_VCPU) +
		      vcpu_cost(model, PLAN_COST_LOAD, PLAN_COST_LOAD_VCPU)),
		whole(vcpu_cost(model, PLAN_COST_STATE, PLAN_COST_STATE_VCPU)));
	policy_set_rtt(&model->policy, whole(round_trip_ns(model)));
}

void plan_run(const struct plan_input *input, struct plan *plan)
{
	struct policy_round round = { .sent_bytes = 0 };
	struct model model;
	bool is_time;

	memset(plan, 0, sizeof(*plan));
	model_init(&model, input, plan);
	plan->setup_ns = cost(&model, PLAN_COST_SETUP) +
			 SETUP_ROUND_TRIPS * round_trip_ns(&model);
	while (!(is_time = decide(&model, &round)) && !is_hopeless(&model))
		pass(&model, &round);
	plan->expected_ns = model.policy.estimate_ns;
	plan->share = model.share;
	plan->precopy_ns = model.now_ns;
	if (is_time)
		stop_and_switch(&model);
	else
		plan->outcome = model.policy.is_out_of_reach
					? PLAN_OUT_OF_REACH
					: PLAN_LINK_TOO_SLOW;
}

const char *plan_outcome_name(enum plan_outcome outcome)
{
	static const char *const names[] = {
		[PLAN_MOVES] = "moves",
		[PLAN_LINK_TOO_SLOW] = "link-too-slow",
		[PLAN_OUT_OF_REACH] = "out-of-reach",
	};

	return names[outcome];
}

const char *plan_outcome_text(enum plan_outcome outcome)
{
	static const char *const texts[] = {
		[PLAN_MOVES] = "it moves",
		[PLAN_LINK_TOO_SLOW] =
			"it never moves: the guest writes faster than the link carries away, so rounds stop shrinking above the downtime limit",
		[PLAN_OUT_OF_REACH] =
			"it never moves: the pause's fixed costs alone are above the downtime limit",
	};

	return texts[outcome];
}

/* ---- what may be asked ---- */

static int check_guest(const struct plan_guest *guest, struct err *err)
{
	if (guest->memory < RAM_PAGE_SIZE || guest->memory > PLAN_MEMORY_MAX)
		return err_set(err, -ERANGE,
			       "memory of %lu bytes is not between 4K and 1P",
			       guest->memory);
	if (!guest->cpus || guest->cpus > PLAN_CPUS_MAX)
		return err_set(err, -ERANGE,
			       "%u vCPUs are not between 1 and %u", guest->cpus,
			       PLAN_CPUS_MAX);
	if (guest->reads > 100)
		return err_set(err, -ERANGE,
			       "reads=%u: of a hundred accesses, at most 100",
			       guest->reads);
	if (guest->touched > guest->memory)
		return err_set(
			err, -EINVAL,
			"touched memory (%lu bytes) is more than the guest has (%lu)",
			guest->touched, guest->memory);
	if (guest->hot > guest->touched)
		return err_set(
			err, -EINVAL,
			"hot memory (%lu bytes) is more than was ever touched (%lu)",
			guest->hot, guest->touched);
	if (guest->hot && guest->hot / RAM_PAGE_SIZE < guest->cpus)
		return err_set(
			err, -EINVAL,
			"hot memory of %lu bytes is less than a page for each of %u vCPUs",
			guest->hot, guest->cpus);
	if (!guest->hot && (guest->rate > 0 || guest->burst_ns))
		return err_set(
			err, -EINVAL,
			"a guest with a rate or bursts needs hot memory to write to (hot=SIZE)");
	return 0;
}

int plan_check(const struct plan_input *input, struct err *err)
{
	int ret = check_guest(&input->guest, err);

	if (ret)
		return ret;
	if (input->link.latency_ns > PLAN_LATENCY_MAX_NS)
		return err_set(err, -ERANGE, "a latency of %lu ns is past 10 s",
			       input->link.latency_ns);
	if (input->limits.downtime_ms > MIG_DOWNTIME_LIMIT_MAX_MS)
		return err_set(
			err, -ERANGE, "downtime limit of %lu ms, at most %llu",
			input->limits.downtime_ms, MIG_DOWNTIME_LIMIT_MAX_MS);
	for (int i = 0; i < PLAN_COST_COUNT; i++) {
		double value = input->costs.value[i];
		bool is_rate =
			plan_cost_unit((enum plan_cost)i) == PLAN_BYTES_PER_S;
		bool is_least = is_rate || i == PLAN_COST_WRITE;

		if (!(value >= (is_least ? 1 : 0)) || value > PLAN_COST_MAX)
			return err_set(err, -ERANGE,
				       "cost %s=%g is not between %d and %g",
				       plan_cost_name((enum plan_cost)i), value,
				       is_least, PLAN_COST_MAX);
	}
	return 0;
}
