// SPDX-License-Identifier: Apache-2.0
/*
 * What a topology commit costs: moving one BAR among 100, 1,000 and 10,000
 * regions, and 1,000 moves in one transaction against 1,000 transactions.
 *
 * Beside each move, the same commit with the whole address space rendered anew
 * (the peer: what a commit costs that does not look at what changed).
 *
 *	mem-commit [--json]
 *
 * The tree: BARs of 4 KiB in a PCI container with a low-priority I/O region
 * behind them, which shows in all gaps; so each BAR makes two ranges.  One
 * listener counts the calls.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "mem/mem_priv.h"
#include "mem/space.h"

#define BAR_SIZE   0x1000ull
#define BAR_STRIDE 0x4000ull
#define RUNS       2001
#define PEER_RUNS  51
#define BATCH      1000
#define BATCH_RUNS 21

static const struct mem_io_ops no_ops;

struct bed {
	struct mem *mem;
	struct mem_region *root, *pci, **bars;
	bool *is_moved;
	size_t count;
	struct addr_space *as;
	struct mem_listener listener;
	uint64_t calls;
};

struct spread {
	double median, min, max;
	int runs;
};

struct figure {
	char name[48];
	struct spread own, peer;
	const char *peer_name;
	double ratio_limit; /* own by peer, at most */
};

static void count_call(void *opaque, const struct mem_section *section)
{
	struct bed *bed = opaque;

	(void)section;
	bed->calls++;
}

static const struct mem_listener_ops count_ops = {
	.region_add = count_call,
	.region_del = count_call,
};

/* A BAR moves between its place and a gap half the tree away. */
static uint64_t bar_offset(const struct bed *bed, size_t index, bool is_moved)
{
	if (is_moved)
		return (index + bed->count / 2) % bed->count * BAR_STRIDE +
		       BAR_STRIDE / 2;
	return index * BAR_STRIDE;
}

static void bar_move(struct bed *bed, size_t index)
{
	bed->is_moved[index] = !bed->is_moved[index];
	mem_region_set_offset(bed->bars[index],
			      bar_offset(bed, index, bed->is_moved[index]));
}

static void bed_init(struct bed *bed, size_t count)
{
	struct mem_region *behind;

	memset(bed, 0, sizeof(*bed));
	bed->count = count;
	bed->mem = mem_new();
	bed->bars = calloc(count, sizeof(*bed->bars));
	bed->is_moved = calloc(count, sizeof(*bed->is_moved));
	bed->root = mem_region_new_container(bed->mem, "root", MEM_SIZE_2_64);
	bed->as = addr_space_new(bed->mem, "memory", bed->root);
	mem_listener_add(bed->as, &bed->listener, &count_ops, bed, 0);
	mem_begin(bed->mem);
	bed->pci = mem_region_new_container(bed->mem, "pci", MEM_SIZE_2_64);
	mem_region_add(bed->root, 0, bed->pci, -1);
	behind = mem_region_new_io(bed->mem, "behind", MEM_SIZE_2_64, &no_ops,
				   NULL);
	mem_region_add(bed->pci, 0, behind, -1);
	mem_region_put(behind);
	for (size_t i = 0; i < count; i++) {
		bed->bars[i] = mem_region_new_io(bed->mem, "bar", BAR_SIZE,
						 &no_ops, NULL);
		mem_region_add(bed->pci, bar_offset(bed, i, false),
			       bed->bars[i], 0);
	}
	mem_commit(bed->mem);
}

static void bed_fini(struct bed *bed)
{
	mem_listener_del(&bed->listener);
	for (size_t i = 0; i < bed->count; i++)
		mem_region_put(bed->bars[i]);
	addr_space_free(bed->as);
	mem_region_put(bed->pci);
	mem_region_put(bed->root);
	mem_free(bed->mem);
	free(bed->is_moved);
	free(bed->bars);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void spread_of(struct spread *spread, double *us, int runs)
{
	qsort(us, (size_t)runs, sizeof(*us), compare);
	*spread = (struct spread){ us[runs / 2], us[0], us[runs - 1], runs };
}

static double us_since(uint64_t start_ns)
{
	return (double)(clock_mono_ns() - start_ns) / NS_PER_US;
}

/* Moves of BARs all over the tree, one commit each. */
static void measure_move(struct bed *bed, struct spread *spread, int runs,
			 bool is_full)
{
	static double us[RUNS];

	for (int i = 0; i < runs; i++) {
		uint64_t start = clock_mono_ns();

		mem_begin(bed->mem);
		bar_move(bed, (size_t)i * 7919 % bed->count);
		if (is_full)
			mem_region_touch(bed->root, 0, MEM_SIZE_2_64);
		mem_commit(bed->mem);
		us[i] = us_since(start);
	}
	spread_of(spread, us, runs);
}

static void measure_batch(struct bed *bed, struct spread *spread, bool is_one)
{
	static double us[BATCH_RUNS];

	for (int run = 0; run < BATCH_RUNS; run++) {
		uint64_t start = clock_mono_ns();

		if (is_one)
			mem_begin(bed->mem);
		for (size_t i = 0; i < BATCH; i++)
			bar_move(bed, i * 7919 % bed->count);
		if (is_one)
			mem_commit(bed->mem);
		us[run] = us_since(start);
	}
	spread_of(spread, us, BATCH_RUNS);
}

static void print_spread(const struct spread *s)
{
	printf("\"median\":%.3f,\"min\":%.3f,\"max\":%.3f,\"runs\":%d",
	       s->median, s->min, s->max, s->runs);
}

static double figure_ratio(const struct figure *f)
{
	return f->own.median / f->peer.median;
}

static bool figure_is_ok(const struct figure *f)
{
	return figure_ratio(f) <= f->ratio_limit;
}

static void print_json(const struct figure *figures, size_t count)
{
	printf("{\"bench\":\"mem-commit\",\"figures\":[");
	for (size_t i = 0; i < count; i++) {
		const struct figure *f = &figures[i];

		printf("%s{\"name\":\"%s\",\"unit\":\"us\",", i ? "," : "",
		       f->name);
		print_spread(&f->own);
		printf(",\"peer\":{\"name\":\"%s\",", f->peer_name);
		print_spread(&f->peer);
		printf("},\"limit\":null,\"ratio\":%.4f,\"ratio_limit\":%g,"
		       "\"is_floor\":false,\"ok\":%s}",
		       figure_ratio(f), f->ratio_limit,
		       figure_is_ok(f) ? "true" : "false");
	}
	printf("]}\n");
}

static void print_table(const struct figure *figures, size_t count)
{
	printf("%-36s %9s %9s %9s %5s %9s %6s %6s\n", "us", "median", "min",
	       "max", "runs", "beside", "ratio", "limit");
	for (size_t i = 0; i < count; i++) {
		const struct figure *f = &figures[i];

		printf("%-36s %9.2f %9.2f %9.2f %5d %9.2f %6.3f %6g  %s (%s)\n",
		       f->name, f->own.median, f->own.min, f->own.max,
		       f->own.runs, f->peer.median, figure_ratio(f),
		       f->ratio_limit, figure_is_ok(f) ? "PASS" : "MISS",
		       f->peer_name);
	}
}

static void measure_size(struct figure *f, size_t count)
{
	struct bed bed;

	bed_init(&bed, count);
	measure_move(&bed, &f->peer, PEER_RUNS, true);
	measure_move(&bed, &f->own, RUNS, false);
	bed_fini(&bed);
	snprintf(f->name, sizeof(f->name), "move one BAR among %zu regions",
		 count);
	f->peer_name = "everything rendered anew";
	f->ratio_limit = 1;
}

int main(int argc, char **argv)
{
	struct figure figures[5] = { 0 };
	struct bed bed;
	int status = 0;

	measure_size(&figures[0], 100);
	measure_size(&figures[1], 1000);
	measure_size(&figures[2], 10000);

	figures[3] = (struct figure){
		.name = "the same among 10000",
		.own = figures[2].own,
		.peer = figures[0].own,
		.peer_name = "among 100",
		.ratio_limit = 3,
	};

	bed_init(&bed, 10000);
	measure_batch(&bed, &figures[4].peer, false);
	measure_batch(&bed, &figures[4].own, true);
	bed_fini(&bed);
	snprintf(figures[4].name, sizeof(figures[4].name),
		 "1000 moves in one transaction");
	figures[4].peer_name = "in 1000 transactions";
	figures[4].ratio_limit = 1;

	print_table(figures, array_size(figures));
	for (size_t i = 0; i < array_size(figures); i++)
		status |= !figure_is_ok(&figures[i]);
	if (argc > 1 && strcmp(argv[1], "--json") == 0)
		print_json(figures, array_size(figures));
	return status;
}
