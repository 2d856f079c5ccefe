// SPDX-License-Identifier: Apache-2.0
/*
 * What starting and stopping dirty logging costs where all memory is mapped by
 * leaves of 4 KiB, and what vCPUs feel of the collapse after it: of a worker with
 * lock breaks, and inline beside it, as KVM once did it.
 *
 *	sim-collapse [--json] [--memory SIZE]
 *
 * On the simulated accelerator, with real tables: 2 GiB of them for each TiB.  A
 * vCPU writes all over memory the whole time, one page in each 64 MiB; a stall is
 * the time that one of its accesses takes.  vCPU and worker run before the
 * machine's other threads (base/thread.h), as root, while they are measured.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "accel/sim/sim_priv.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/parse.h"
#include "base/thread.h"
#include "mem/ram.h"

#define STRIDE        (64ull << 20)
#define QUIET_MS      2000
#define CYCLES        21
#define RUNS          3
#define BUCKETS       40000 /* of 50 ns: to 2 ms */
#define BUCKET_NS     50
#define LIMIT_CALL_US 1000.0
#define LIMIT_LOCK_US 100.0
#define LIMIT_RATIO   2.0

/* How long the accesses of one phase took. */
struct stalls {
	uint64_t counts[BUCKETS];
	uint64_t count, max_ns;
};

struct bed {
	struct mem *mem;
	struct mem_region *root, *ports_root, *ram;
	struct ram_block *block;
	struct addr_space *memory, *ports;
	struct state_registry setup_state, state;
	struct accel *accel;
	struct sim *sim;
	struct accel_vcpu *vcpu;
	pthread_t thread;
	uint64_t memory_size;
	/* atomic */
	struct stalls *stalls; /* of the phase that it is */
	bool is_over;
};

struct spread {
	double median, min, max;
	int runs;
};

/* A value for each run. */
struct outcome {
	double start_us[CYCLES], stop_us[CYCLES]; /* collapse called off */
	double quiet_us[RUNS], quiet_longest_us[RUNS];
	double collapsing_stop_us[RUNS], seconds[RUNS];
	double stall_us[RUNS], longest_us[RUNS]; /* p99.9 */
	double hold_us[RUNS], wait_us[RUNS];     /* the second stage's lock */
	double slots_hold_us[RUNS], slots_wait_us[RUNS];
	double table_gib;
	int runs;
};

static void die(const char *what, const struct err *err)
{
	fprintf(stderr, "sim-collapse: %s: %s\n", what, err_msg(err));
	exit(1);
}

static void note(struct stalls *stalls, uint64_t ns)
{
	uint64_t bucket = ns / BUCKET_NS;

	stalls->counts[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
	stalls->count++;
	if (ns > stalls->max_ns)
		stalls->max_ns = ns;
}

/* In us. */
static double percentile(const struct stalls *stalls, double share)
{
	uint64_t below = 0, wanted = (uint64_t)((double)stalls->count * share);

	for (size_t i = 0; i < BUCKETS; i++) {
		below += stalls->counts[i];
		if (below > wanted)
			return (double)(i + 1) * BUCKET_NS / 1000;
	}
	return (double)stalls->max_ns / 1000;
}

static void *vcpu_thread(void *opaque)
{
	struct bed *bed = opaque;
	struct sim_vcpu *vcpu = sim_vcpu_of(bed->vcpu);
	uint64_t places = bed->memory_size / STRIDE, n = 0, place = 0;
	uint64_t before = clock_mono_ns(), now;

	sim_enter(vcpu);
	while (!__atomic_load_n(&bed->is_over, __ATOMIC_ACQUIRE)) {
		struct stalls *stalls;

		if (sim_is_wanted(vcpu)) {
			sim_leave(vcpu);
			if (sim_ring_is_full(&vcpu->ring))
				sim_ring_full(vcpu);
			sim_enter(vcpu);
			before = clock_mono_ns();
		}
		/* Behind the note of the epoch, for leave_phase(). */
		stalls = __atomic_load_n(&bed->stalls, __ATOMIC_SEQ_CST);
		place = (place + 2654435761u) % places;
		sim_store(vcpu, place * STRIDE, ++n, sizeof(n));
		now = clock_mono_ns();
		if (stalls)
			note(stalls, now - before);
		before = now;
	}
	sim_leave(vcpu);
	return NULL;
}

static void set_urgent(struct bed *bed, bool is_urgent)
{
	thread_set_urgent(bed->thread, is_urgent);
	thread_set_urgent(bed->sim->collapse.thread, is_urgent);
}

/* From now on @stalls, as long as nobody says otherwise; NULL: none. */
static void phase(struct bed *bed, struct stalls *stalls)
{
	__atomic_store_n(&bed->stalls, stalls, __ATOMIC_SEQ_CST);
}

/* The vCPU counts no more where it did. */
static void leave_phase(struct bed *bed)
{
	phase(bed, NULL);
	sim_wait_epoch(bed->sim);
}

static void bed_init(struct bed *bed, uint64_t size, const char *options)
{
	const struct ram_options aligned = { .align = 1ull << 30 };
	struct accel_config config = {
		.cpus = 1,
		.setup_state = &bed->setup_state,
		.state = &bed->state,
	};
	struct err err = ERR_INIT;

	*bed = (struct bed){ .mem = mem_new(), .memory_size = size };
	if (ram_block_new(bed->mem, "ram", size, &aligned, &bed->block, &err))
		die("memory", &err);
	bed->root = mem_region_new_container(bed->mem, "root", MEM_SIZE_2_64);
	bed->ports_root = mem_region_new_container(bed->mem, "ports", 0x10000);
	bed->ram = mem_region_new_ram(bed->mem, "ram", bed->block);
	mem_region_add(bed->root, 0, bed->ram, 0);
	config.memory = bed->memory =
		addr_space_new(bed->mem, "memory", bed->root);
	config.ports = bed->ports =
		addr_space_new(bed->mem, "ports", bed->ports_root);
	state_registry_init(&bed->setup_state);
	state_registry_init(&bed->state);
	if (accel_options_parse(options, &config.options, &err) ||
	    accel_new(&config, &bed->accel, &err) ||
	    bed->accel->ops->vcpu_new(bed->accel, 0, &bed->vcpu, &err))
		die(options, &err);
	bed->sim = sim_of(bed->accel);
}

static void bed_fini(struct bed *bed)
{
	__atomic_store_n(&bed->is_over, true, __ATOMIC_RELEASE);
	pthread_join(bed->thread, NULL);
	bed->accel->ops->vcpu_free(bed->vcpu);
	accel_free(bed->accel);
	addr_space_free(bed->memory);
	addr_space_free(bed->ports);
	mem_region_put(bed->ram);
	mem_region_put(bed->root);
	mem_region_put(bed->ports_root);
	mem_synchronize(bed->mem);
	ram_block_free(bed->block);
	mem_free(bed->mem);
}

/* Every page present, by a leaf of its own. */
static void map_small(struct bed *bed)
{
	struct s2 *s2 = &bed->sim->s2;
	struct s2_range range =
		sim_slot_range(bed->sim, sim_slot_find(bed->sim, 0));
	struct err err = ERR_INIT;
	int ret = s2_populate(s2, &range, 0);

	for (uint64_t gpa = 0; !ret && gpa < bed->memory_size;
	     gpa += s2_size(2)) {
		s2_lock(s2);
		ret = s2_split_range(s2, gpa, s2_size(2));
		s2_unlock(s2);
	}
	if (ret)
		die("tables", &err);
}

static bool is_collapsed(struct bed *bed)
{
	struct s2_stats stats;
	bool is_done;

	lock_acquire(&bed->sim->slots_lock);
	is_done = list_is_empty(&bed->sim->collapse.works);
	lock_release(&bed->sim->slots_lock);
	if (!is_done)
		return false;
	lock_acquire(&bed->sim->s2.lock);
	stats = bed->sim->s2.stats;
	lock_release(&bed->sim->s2.lock);
	return stats.leaves[0] == 0;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static struct spread spread_of(const double *values, int count)
{
	double sorted[CYCLES];

	memcpy(sorted, values, (size_t)count * sizeof(*values));
	qsort(sorted, (size_t)count, sizeof(*sorted), compare);
	return (struct spread){ sorted[count / 2], sorted[0], sorted[count - 1],
				count };
}

static double start_log(struct bed *bed)
{
	uint64_t start_ns = clock_mono_ns();
	struct err err = ERR_INIT;

	if (mem_log_global_start(bed->mem, &err))
		die("start", &err);
	return (double)(clock_mono_ns() - start_ns) / 1000;
}

static double stop_log(struct bed *bed, uint64_t grace_ns)
{
	uint64_t start_ns = clock_mono_ns();

	mem_log_global_stop(bed->mem, grace_ns);
	return (double)(clock_mono_ns() - start_ns) / 1000;
}

/* The collapse is called off by the next start, each time. */
static void measure_calls(struct bed *bed, struct outcome *out)
{
	for (int i = 0; i < CYCLES; i++) {
		out->start_us[i] = start_log(bed);
		usleep(10 * 1000);
		out->stop_us[i] = stop_log(bed, 3600 * NS_PER_SEC);
	}
}

static void measure_quiet(struct bed *bed, struct outcome *out)
{
	static struct stalls stalls;

	stalls = (struct stalls){ .count = 0 };
	set_urgent(bed, true);
	phase(bed, &stalls);
	usleep(QUIET_MS * 1000);
	leave_phase(bed);
	set_urgent(bed, false);
	out->quiet_us[out->runs] = percentile(&stalls, 0.999);
	out->quiet_longest_us[out->runs] = (double)stalls.max_ns / NS_PER_US;
}

static struct sim_lock_times slots_times_restart(struct sim *sim)
{
	struct sim_lock_times times;

	lock_acquire(&sim->slots_lock);
	times = sim->slots_times;
	sim->slots_times.hold_max_ns = sim->slots_times.wait_max_ns = 0;
	lock_release(&sim->slots_lock);
	return times;
}

/* Logging on for a while, and off; until large leaves have come back. */
static void measure_collapse(struct bed *bed, struct outcome *out)
{
	static struct stalls stalls;
	struct sim_lock_times times;
	struct s2_stats stats;
	uint64_t start_ns;
	int run = out->runs;

	stalls = (struct stalls){ .count = 0 };
	start_log(bed);
	usleep(200 * 1000);
	set_urgent(bed, true);
	thread_set_urgent(pthread_self(), true); /* it takes the locks too */
	mem_log_sync(bed->mem, true);            /* as at a migration's end */
	s2_stats_restart(&bed->sim->s2);
	slots_times_restart(bed->sim);
	phase(bed, &stalls);
	start_ns = clock_mono_ns();
	out->collapsing_stop_us[run] = stop_log(bed, 0);
	while (!is_collapsed(bed))
		usleep(1000);
	out->seconds[run] = (double)(clock_mono_ns() - start_ns) / NS_PER_SEC;
	s2_stats(&bed->sim->s2, &stats);
	times = slots_times_restart(bed->sim);
	leave_phase(bed);
	thread_set_urgent(pthread_self(), false);
	set_urgent(bed, false);
	out->stall_us[run] = percentile(&stalls, 0.999);
	out->longest_us[run] = (double)stalls.max_ns / NS_PER_US;
	out->hold_us[run] = (double)stats.hold_max_ns / NS_PER_US;
	out->wait_us[run] = (double)stats.wait_max_ns / NS_PER_US;
	out->slots_hold_us[run] = (double)times.hold_max_ns / NS_PER_US;
	out->slots_wait_us[run] = (double)times.wait_max_ns / NS_PER_US;
}

static void measure(struct bed *bed, const char *options, uint64_t memory,
		    int runs, struct outcome *out)
{
	struct s2_stats stats;

	bed_init(bed, memory, options);
	map_small(bed);
	s2_stats(&bed->sim->s2, &stats);
	out->table_gib = (double)stats.tables * 4096 / (1ull << 30);
	pthread_create(&bed->thread, NULL, vcpu_thread, bed);
	for (; out->runs < runs; out->runs++) {
		if (out->runs)
			map_small(bed);
		usleep(QUIET_MS * 1000);
		measure_quiet(bed, out);
		if (!out->runs && !bed->sim->options.is_collapse_inline)
			measure_calls(bed, out);
		measure_collapse(bed, out);
	}
	bed_fini(bed);
}

struct figure {
	const char *name, *unit; /* after the memory's size */
	struct spread own, peer;
	const char *peer_name;     /* or NULL */
	double limit, ratio_limit; /* 0: none */
};

static bool figure_is_ok(const struct figure *f)
{
	return (!f->limit || f->own.median <= f->limit) &&
	       (!f->ratio_limit ||
		f->own.median <= f->ratio_limit * f->peer.median);
}

static void print_table(const struct figure *figures, size_t count,
			const char *size)
{
	for (size_t i = 0; i < count; i++) {
		const struct figure *f = &figures[i];

		printf("%s: %-42s %10.2f (%.2f-%.2f) %s", size, f->name,
		       f->own.median, f->own.min, f->own.max, f->unit);
		if (f->peer_name)
			printf(", beside %.2f (%s)", f->peer.median,
			       f->peer_name);
		if (f->limit || f->ratio_limit)
			printf("  %s", figure_is_ok(f) ? "PASS" : "MISS");
		printf("\n");
	}
}

static void print_spread(const struct spread *s)
{
	printf("\"median\":%.3f,\"min\":%.3f,\"max\":%.3f,\"runs\":%d",
	       s->median, s->min, s->max, s->runs);
}

static void print_json(const struct figure *figures, size_t count,
		       const char *size)
{
	printf("{\"bench\":\"sim-collapse\",\"figures\":[");
	for (size_t i = 0; i < count; i++) {
		const struct figure *f = &figures[i];

		printf("%s{\"name\":\"%s: %s\",\"unit\":\"%s\",", i ? "," : "",
		       size, f->name, f->unit);
		print_spread(&f->own);
		if (f->peer_name) {
			printf(",\"peer\":{\"name\":\"%s\",", f->peer_name);
			print_spread(&f->peer);
			printf("},\"ratio\":%.4f",
			       f->own.median / f->peer.median);
		}
		if (f->limit)
			printf(",\"limit\":%g", f->limit);
		if (f->ratio_limit)
			printf(",\"ratio_limit\":%g", f->ratio_limit);
		if (f->limit || f->ratio_limit)
			printf(",\"ok\":%s",
			       figure_is_ok(f) ? "true" : "false");
		printf(",\"is_floor\":false}");
	}
	printf("]}\n");
}

static int report(const struct outcome *worker, const struct outcome *inlined,
		  const char *size, bool is_json)
{
	const struct spread none = { 0 };
#define OF(member)     spread_of(worker->member, worker->runs)
#define INLINE(member) spread_of(inlined->member, inlined->runs), "inline"
	const struct figure figures[] = {
		{ "tables, all mapped small", "GiB",
		  spread_of(&worker->table_gib, 1), none, NULL, 0, 0 },
		{ "starting logging", "us", spread_of(worker->start_us, CYCLES),
		  none, NULL, LIMIT_CALL_US, 0 },
		{ "stopping logging", "us", spread_of(worker->stop_us, CYCLES),
		  INLINE(collapsing_stop_us), LIMIT_CALL_US, 0 },
		{ "until all is large again", "s", OF(seconds), INLINE(seconds),
		  0, 0 },
		{ "longest hold of the lock meanwhile", "us", OF(hold_us),
		  INLINE(hold_us), LIMIT_LOCK_US, 0 },
		{ "longest wait for the lock meanwhile", "us", OF(wait_us),
		  INLINE(wait_us), LIMIT_LOCK_US, 0 },
		{ "longest hold of the memslots' lock", "us", OF(slots_hold_us),
		  none, NULL, LIMIT_LOCK_US, 0 },
		{ "longest wait for the memslots' lock", "us",
		  OF(slots_wait_us), none, NULL, LIMIT_LOCK_US, 0 },
		{ "stall of the vCPU meanwhile, p99.9", "us", OF(stall_us),
		  OF(quiet_us), "undisturbed", 0, LIMIT_RATIO },
		{ "stall of the vCPU meanwhile, longest", "us", OF(longest_us),
		  INLINE(longest_us), 0, 0 },
		{ "the same, undisturbed", "us", OF(quiet_longest_us), none,
		  NULL, 0, 0 },
	};
#undef OF
#undef INLINE
	int status = 0;

	print_table(figures, array_size(figures), size);
	for (size_t i = 0; i < array_size(figures); i++)
		status |= !figure_is_ok(&figures[i]);
	if (is_json)
		print_json(figures, array_size(figures), size);
	return status;
}

/* 4 TiB where their tables have room. */
static uint64_t default_memory(void)
{
	uint64_t free_gib = (uint64_t)sysconf(_SC_AVPHYS_PAGES) >> 18;

	return free_gib >= 12 ? 4ull << 40 : 64ull << 30;
}

int main(int argc, char **argv)
{
	static struct outcome worker, inlined;
	static struct bed bed;
	struct err err = ERR_INIT;
	uint64_t memory = default_memory();
	bool is_json = false;
	char size[32];

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--json") == 0) {
			is_json = true;
		} else if (strcmp(argv[i], "--memory") == 0 && i + 1 < argc) {
			if (parse_size(argv[++i], &memory, &err))
				die("--memory", &err);
			memory = align_up(memory, s2_size(2));
		} else {
			fprintf(stderr, "usage: sim-collapse [--json] "
					"[--memory SIZE]\n");
			return 64;
		}
	}
	snprintf(size, sizeof(size), "%lu GiB", memory >> 30);
	measure(&bed, "sim,dirty=ring", memory, RUNS, &worker);
	measure(&bed, "sim,dirty=ring,collapse=inline", memory, 1, &inlined);
	return report(&worker, &inlined, size, is_json);
}
