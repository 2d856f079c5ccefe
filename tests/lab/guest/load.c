// SPDX-License-Identifier: Apache-2.0
#include "load.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "say.h"
#include "threads.h"

#define PAGE_WORDS  512
#define PAGE_BYTES  (PAGE_WORDS * sizeof(uint64_t))
#define STEADY_MIB  8
#define STEADY_SEED 0x676f64776974ull /* "godwit" */

#define CPUS_MAX 8

/* All atomic. */
static uint64_t pages, ring0, passes, errors, steady_hash;
static uint64_t holds[CPUS_MAX];
static int is_resting, is_holding;
static pthread_mutex_t rest_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t rest_over = PTHREAD_COND_INITIALIZER;

static void count(uint64_t *counter)
{
	__atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

/* A third of the time: the emulator is to have some left for a migration. */
#define BURST_PAGES 256
#define BREAK_US    30000

static void take_breaks(uint32_t *done)
{
	if (++*done % BURST_PAGES == 0)
		usleep(BREAK_US);
}

/* Whoever rests costs the host nothing: no timers. */
static void rest_if_told(void)
{
	if (!__atomic_load_n(&is_resting, __ATOMIC_RELAXED))
		return;
	pthread_mutex_lock(&rest_lock);
	while (__atomic_load_n(&is_resting, __ATOMIC_RELAXED))
		pthread_cond_wait(&rest_over, &rest_lock);
	pthread_mutex_unlock(&rest_lock);
}

/* xorshift64: each word follows from the one before, none is 0. */
static uint64_t next(uint64_t x)
{
	x ^= x << 13;
	x ^= x >> 7;
	return x ^ x << 17;
}

/* What a page holds follows from whose it is, which, and how often it was written. */
static uint64_t stamp(unsigned int owner, uint32_t page, uint32_t round)
{
	return (uint64_t)round << 32 ^ page ^ (uint64_t)owner << 56 ^
	       1ull << 63;
}

static void fill(uint64_t *words, uint64_t seed)
{
	for (int i = 0; i < PAGE_WORDS; i++)
		words[i] = seed = next(seed);
}

static void check(const uint64_t *words, uint64_t seed, const char *where,
		  uint32_t page)
{
	for (int i = 0; i < PAGE_WORDS; i++) {
		seed = next(seed);
		if (words[i] != seed) {
			count(&errors);
			say("error where=%s page=%u word=%d is=%llx want=%llx",
			    where, page, i, (unsigned long long)words[i],
			    (unsigned long long)seed);
			return;
		}
	}
}

/* One writer: how often each of its pages was written, kept apart from them. */
struct writer {
	unsigned int owner;
	uint32_t count;
	uint32_t *rounds;
	uint64_t *words; /* in ring 3: the pages; in ring 0: one to copy by */
	int file;        /* of ring 0 */
};

static void *write_ring3(void *arg)
{
	struct writer *w = arg;
	uint64_t at = w->owner + 1;
	uint32_t done = 0;

	for (;; at = next(at)) {
		uint32_t page = (uint32_t)(at >> 16) % w->count;
		uint64_t *words = w->words + (size_t)page * PAGE_WORDS;

		rest_if_told();
		take_breaks(&done);
		if (w->rounds[page])
			check(words, stamp(w->owner, page, w->rounds[page]),
			      "ring3", page);
		fill(words, stamp(w->owner, page, ++w->rounds[page]));
		count(&pages);
	}
	return NULL;
}

static void *write_ring0(void *arg)
{
	struct writer *w = arg;
	uint64_t at = w->owner + 1;
	uint32_t done = 0;

	for (;; at = next(at)) {
		uint32_t page = (uint32_t)(at >> 16) % w->count;
		off_t place = (off_t)(page * PAGE_BYTES);

		rest_if_told();
		take_breaks(&done);
		if (w->rounds[page]) {
			tried(pread(w->file, w->words, PAGE_BYTES, place),
			      "pread");
			check(w->words, stamp(w->owner, page, w->rounds[page]),
			      "ring0", page);
		}
		fill(w->words, stamp(w->owner, page, ++w->rounds[page]));
		tried(pwrite(w->file, w->words, PAGE_BYTES, place), "pwrite");
		count(&ring0);
	}
	return NULL;
}

static uint64_t hash(const uint64_t *words, size_t size)
{
	uint64_t h = 0xcbf29ce484222325ull; /* FNV-1a, by words */

	for (size_t i = 0; i < size; i++)
		h = (h ^ words[i]) * 0x100000001b3ull;
	return h;
}

static void *hash_steady(void *arg)
{
	const size_t size = (STEADY_MIB << 20) / sizeof(uint64_t);
	uint64_t *words = arg, x = STEADY_SEED, first;

	for (size_t i = 0; i < size; i++)
		words[i] = x = next(x);
	for (first = hash(words, size);; count(&passes)) {
		uint64_t now;

		rest_if_told();
		now = hash(words, size);
		if (now != first) {
			count(&errors);
			say("error where=steady is=%llx want=%llx",
			    (unsigned long long)now, (unsigned long long)first);
		}
		__atomic_store_n(&steady_hash, now, __ATOMIC_RELAXED);
		usleep(BREAK_US);
	}
	return NULL;
}

/* Mapped and touched only by whoever writes to it. */
static void *map(size_t size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED) {
		tried(-1, "mmap");
		exit(1);
	}
	return at;
}

static struct writer *writer_new(unsigned int owner, int mib, size_t room)
{
	struct writer *w = map(sizeof(*w));

	w->owner = owner;
	w->count = (uint32_t)(((size_t)mib << 20) / PAGE_BYTES);
	w->rounds = map(w->count * sizeof(w->rounds[0]));
	w->words = map(room);
	w->file = -1;
	return w;
}

void load_start(int mib)
{
	unsigned int cpus = (unsigned int)threads_cpus();
	struct writer *w;

	for (unsigned int cpu = 0; cpu < cpus; cpu++) {
		w = writer_new(cpu, mib, (size_t)mib << 20);
		threads_start((int)cpu, write_ring3, w);
	}
	w = writer_new(cpus, mib, PAGE_BYTES);
	w->file =
		memfd_create("ring0", MFD_CLOEXEC); /* in the kernel's tmpfs */
	tried(w->file, "memfd_create");
	threads_start((int)(cpus - 1), write_ring0, w);
	threads_start(0, hash_steady, map(STEADY_MIB << 20));
}

void load_go(int is_on)
{
	pthread_mutex_lock(&rest_lock);
	__atomic_store_n(&is_resting, !is_on, __ATOMIC_RELAXED);
	pthread_cond_broadcast(&rest_over);
	pthread_mutex_unlock(&rest_lock);
}

#define VECTORS   16
#define LANES_MAX 4 /* of 64 bits, in a ymm register */

/*
 * A function that loads all vector registers, spins, stores them: whatever stops
 * this processor meanwhile finds them in use.
 */
#define EACH(x)                                                             \
	x(0) x(1) x(2) x(3) x(4) x(5) x(6) x(7) x(8) x(9) x(10) x(11) x(12) \
		x(13) x(14) x(15)
#define CLOBBERED(n) , "xmm" #n
#define THROUGH(name, load, store)                                   \
	static void name(const uint64_t *in, uint64_t *out)          \
	{                                                            \
		long rounds = 1000000;                               \
                                                                     \
		__asm__ volatile(EACH(load) "1: dec %2\n\t"          \
					    "jnz 1b\n\t" EACH(store) \
				 : "+r"(in), "+r"(out), "+r"(rounds) \
				 :                                   \
				 : "memory", "cc" EACH(CLOBBERED));  \
	}
#define LOAD_XMM(n)  "movdqu 16*" #n "(%0), %%xmm" #n "\n\t"
#define STORE_XMM(n) "movdqu %%xmm" #n ", 16*" #n "(%1)\n\t"
#define LOAD_YMM(n)  "vmovdqu 32*" #n "(%0), %%ymm" #n "\n\t"
#define STORE_YMM(n) "vmovdqu %%ymm" #n ", 32*" #n "(%1)\n\t"

THROUGH(xmm_through, LOAD_XMM, STORE_XMM)
THROUGH(ymm_through, LOAD_YMM, STORE_YMM)

static int has_ymm(void)
{
	return __builtin_cpu_supports("avx");
}

static void *hold(void *arg)
{
	size_t cpu = (uintptr_t)arg;
	uint64_t seed = cpu + 1;
	uint64_t in[VECTORS * LANES_MAX], out[VECTORS * LANES_MAX];
	size_t words = VECTORS * (has_ymm() ? LANES_MAX : LANES_MAX / 2);

	for (; __atomic_load_n(&is_holding, __ATOMIC_RELAXED);
	     count(&holds[cpu])) {
		for (size_t i = 0; i < words; i++)
			in[i] = seed = next(seed);
		if (has_ymm())
			ymm_through(in, out);
		else
			xmm_through(in, out);
		if (memcmp(in, out, words * sizeof(*in)) != 0) {
			count(&errors);
			say("error where=vectors");
		}
	}
	return NULL;
}

void load_hold(int is_on)
{
	__atomic_store_n(&is_holding, is_on, __ATOMIC_RELAXED);
	for (int cpu = 0; is_on && cpu < threads_cpus() && cpu < CPUS_MAX;
	     cpu++)
		threads_start(cpu, hold, (void *)(uintptr_t)cpu);
}

static unsigned long long get(const uint64_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

/* Of the processor that is behind. */
static unsigned long long least_holds(void)
{
	unsigned long long least = get(&holds[0]);

	for (int cpu = 1; cpu < threads_cpus() && cpu < CPUS_MAX; cpu++) {
		if (get(&holds[cpu]) < least)
			least = get(&holds[cpu]);
	}
	return least;
}

void load_report(void)
{
	say("report cpus=%d pages=%llu ring0=%llu passes=%llu holds=%llu vector=%d errors=%llu hash=%llx",
	    threads_cpus(), get(&pages), get(&ring0), get(&passes),
	    least_holds(), has_ymm() ? 256 : 128, get(&errors),
	    get(&steady_hash));
}
