// SPDX-License-Identifier: Apache-2.0
#include "stalls.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "clocks.h"
#include "guest/latency.h"
#include "say.h"
#include "threads.h"

#define PAGE_BYTES 4096
#define PHASES     8
#define CPUS_MAX   8

struct toucher {
	struct latency phases[PHASES]; /* its thread's; others only read */
	unsigned char *memory;
	uint32_t pages;
};

static struct toucher touchers[CPUS_MAX];
static int phase, ready; /* atomic */

static void *touch(void *arg)
{
	struct toucher *toucher = arg;
	uint64_t at = 88172645463325252ull;

	for (uint32_t page = 0; page < toucher->pages; page++)
		toucher->memory[(size_t)page * PAGE_BYTES] = 1;
	if (__atomic_add_fetch(&ready, 1, __ATOMIC_SEQ_CST) == threads_cpus())
		say("stalls pages=%lu",
		    (unsigned long)toucher->pages * (unsigned)threads_cpus());
	for (;;) {
		int now = __atomic_load_n(&phase, __ATOMIC_RELAXED);
		uint64_t before;

		at ^= at << 13; /* xorshift64 */
		at ^= at >> 7;
		at ^= at << 17;
		before = tsc_read();
		toucher->memory[at % toucher->pages * PAGE_BYTES]++;
		latency_add(&toucher->phases[now], tsc_read() - before);
	}
	return NULL;
}

void stalls_start(int mib)
{
	size_t size = (size_t)mib << 20;

	for (int cpu = 0; cpu < threads_cpus() && cpu < CPUS_MAX; cpu++) {
		struct toucher *toucher = &touchers[cpu];

		toucher->pages = (uint32_t)(size / PAGE_BYTES);
		toucher->memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (toucher->memory == MAP_FAILED) {
			tried(-1, "mmap");
			exit(1);
		}
		threads_start(cpu, touch, toucher);
	}
}

void stalls_phase(int number)
{
	if (number >= 0 && number < PHASES)
		__atomic_store_n(&phase, number, __ATOMIC_RELAXED);
}

void stalls_say(int number)
{
	struct latency all = { .longest = 0 };
	unsigned long long count = 0;

	if (number < 0 || number >= PHASES)
		return;
	for (int cpu = 0; cpu < CPUS_MAX; cpu++)
		latency_merge(&all, &touchers[cpu].phases[number]);
	for (int i = 0; i < LATENCY_CLASSES; i++)
		count += all.counts[i];
	say("stalled phase=%d count=%llu p50=%llu p999=%llu longest=%llu",
	    number, count, (unsigned long long)latency_at(&all, 500),
	    (unsigned long long)latency_at(&all, 999),
	    (unsigned long long)all.longest);
}
