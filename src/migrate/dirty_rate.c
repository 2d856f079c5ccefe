// SPDX-License-Identifier: Apache-2.0
/*
 * Two ways to count the pages written in a while: watch all of them, as a migration
 * does (ram_watch.h), or look at a few twice.
 */
#include "migrate/dirty_rate.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <xxhash.h>

#include "base/clock.h"
#include "base/lock.h"
#include "base/trace.h"
#include "machine/machine.h"
#include "mem/space.h"
#include "migrate/dirty_limit.h"
#include "migrate/ram_watch.h"

/* A few in a hundred would be enough; more of a large guest say no more. */
#define ALL_SAMPLES_MAX (1u << 22)

struct sample {
	const struct ram_block *block;
	uint64_t page;
	uint64_t hash; /* 0: a hole */
};

struct dirty_rate {
	/* immutable after init */
	struct machine *machine;   /* borrowed */
	struct dirty_limit *limit; /* borrowed */
	unsigned int cpus;

	struct lock lock; /* LOCK_DIRTY_RATE */
	/* protected by lock */
	pthread_cond_t is_over;
	bool is_ending, has_thread;
	struct dirty_rate_info info;
	uint64_t *vcpu_bytes_per_sec; /* owned; one a vCPU */
	pthread_t thread;

	/* owned by the thread */
	uint64_t *vcpu_writes; /* before; one a vCPU */
};

static uint64_t muldiv64(uint64_t a, uint64_t b, uint64_t c)
{
	return (uint64_t)((unsigned __int128)a * b / c);
}

static const char *const mode_names[DIRTY_RATE_MODE_COUNT] = {
	[DIRTY_RATE_PAGE_SAMPLING] = "page-sampling",
	[DIRTY_RATE_DIRTY_BITMAP] = "dirty-bitmap",
	[DIRTY_RATE_DIRTY_RING] = "dirty-ring",
};

const char *dirty_rate_mode_name(enum dirty_rate_mode mode)
{
	return mode_names[mode];
}

struct dirty_rate *dirty_rate_new(struct machine *machine,
				  struct dirty_limit *limit)
{
	struct dirty_rate *rate = calloc(1, sizeof(*rate));

	if (!rate)
		return NULL;
	rate->machine = machine;
	rate->limit = limit;
	rate->cpus = machine_options(machine)->cpus;
	rate->vcpu_bytes_per_sec = calloc(rate->cpus, sizeof(uint64_t));
	rate->vcpu_writes = calloc(rate->cpus, sizeof(uint64_t));
	rate->info.params.sample_pages = DIRTY_RATE_SAMPLES_USUAL;
	lock_init(&rate->lock, LOCK_DIRTY_RATE);
	lock_cond_init(&rate->is_over);
	if (rate->vcpu_bytes_per_sec && rate->vcpu_writes)
		return rate;
	dirty_rate_free(rate);
	return NULL;
}

void dirty_rate_free(struct dirty_rate *rate)
{
	if (!rate)
		return;
	dirty_rate_end(rate);
	pthread_cond_destroy(&rate->is_over);
	lock_fini(&rate->lock);
	free(rate->vcpu_bytes_per_sec);
	free(rate->vcpu_writes);
	free(rate);
}

/* -ECANCELED when it is to end before. */
static int wait_ms(struct dirty_rate *rate, uint64_t ms)
{
	uint64_t until = clock_mono_ns() + ms * NS_PER_MS;
	bool is_ending;

	lock_acquire(&rate->lock);
	while (!rate->is_ending && clock_mono_ns() < until)
		lock_wait_until(&rate->lock, &rate->is_over, until);
	is_ending = rate->is_ending;
	lock_release(&rate->lock);
	return is_ending ? -ECANCELED : 0;
}

/* ---- all pages ---- */

/* From here on each page's next write is told. */
static int watch_all(struct dirty_rate *rate, struct ram_watch *watch,
		     struct err *err)
{
	uint64_t window[RAM_WATCH_PAGES / 64], first, count;
	struct ram_block *block = NULL;
	int ret;

	ram_watch_sync(watch, false);
	while ((block = ram_block_next(watch->mem, block))) {
		for (first = 0;
		     (count = ram_watch_window(block, &first, RAM_WATCH_PAGES));
		     first += RAM_WATCH_PAGES) {
			ram_watch_take(block, first, count, window);
			ret = ram_watch_again(watch, block, first, count,
					      window, err);
			if (!ret)
				ret = wait_ms(rate, 0);
			if (ret)
				return ret;
		}
	}
	return 0;
}

/* The pages that each vCPU wrote since: into rates, if @elapsed_ns. */
static bool count_vcpus(struct dirty_rate *rate, uint64_t elapsed_ns)
{
	for (unsigned int i = 0; i < rate->cpus; i++) {
		uint64_t writes, before = rate->vcpu_writes[i];

		if (machine_vcpu_writes(rate->machine, i, &writes))
			return false;
		if (elapsed_ns) {
			uint64_t pages = writes > before ? writes - before : 0;

			lock_acquire(&rate->lock);
			rate->vcpu_bytes_per_sec[i] = muldiv64(
				pages * RAM_PAGE_SIZE, NS_PER_SEC, elapsed_ns);
			lock_release(&rate->lock);
		}
		rate->vcpu_writes[i] = writes;
	}
	return true;
}

static int measure_all(struct dirty_rate *rate,
		       const struct dirty_rate_params *params,
		       struct dirty_rate_info *ret_info, struct err *err)
{
	struct ram_watch watch;
	uint64_t start, elapsed, pages;
	int ret;

	dirty_limit_take_log(rate->limit);
	ret = ram_watch_start(&watch, machine_mem(rate->machine), err);
	if (!ret)
		ret = watch_all(rate, &watch, err);
	if (!ret) {
		start = clock_mono_ns();
		ret_info->has_vcpus = count_vcpus(rate, 0);
		ret = wait_ms(rate, params->calc_ms);
	}
	if (!ret) {
		pages = ram_watch_sync(&watch, false);
		elapsed = clock_mono_ns() - start;
		if (ret_info->has_vcpus)
			ret_info->has_vcpus = count_vcpus(rate, elapsed);
		ret_info->bytes_per_sec =
			muldiv64(pages * RAM_PAGE_SIZE, NS_PER_SEC, elapsed);
	}
	ram_watch_stop(&watch, 0);
	dirty_limit_give_log(rate->limit);
	return ret;
}

/* ---- samples ---- */

static uint64_t hash_of(const struct sample *sample)
{
	uint64_t at = sample->page << RAM_PAGE_SHIFT, data;

	/* To read a hole would make it memory. */
	if (!ram_block_find_data(sample->block, at, at + RAM_PAGE_SIZE, &data))
		return 0;
	return XXH3_64bits(sample->block->host + at, RAM_PAGE_SIZE) | 1;
}

/* In how many places to look at a block, one at least. */
static uint64_t share_of(const struct ram_block *block, uint64_t sample_pages,
			 uint64_t total)
{
	uint64_t wanted = muldiv64(total, sample_pages, 1u << 30);
	uint64_t share;

	if (wanted > ALL_SAMPLES_MAX)
		wanted = ALL_SAMPLES_MAX;
	share = muldiv64(wanted, block->size, total) + 1;
	return share < block->pages ? share : block->pages;
}

static uint64_t changed_pages(struct dirty_rate *rate,
			      const struct sample *samples, uint64_t count)
{
	uint64_t changed = 0;

	for (uint64_t i = 0; i < count && !wait_ms(rate, 0); i++)
		changed += hash_of(&samples[i]) != samples[i].hash;
	return changed;
}

/* Random pages of all blocks, with their hashes; owned by the caller, NULL
 * without memory. */
static struct sample *take_samples(struct dirty_rate *rate,
				   uint64_t sample_pages, uint64_t *ret_count)
{
	struct mem *mem = machine_mem(rate->machine);
	struct ram_block *block = NULL;
	uint64_t count = 0, total = 0, seed = clock_mono_ns();
	struct sample *samples;

	while ((block = ram_block_next(mem, block)))
		total += block->size;
	while ((block = ram_block_next(mem, block)))
		count += share_of(block, sample_pages, total);
	samples = calloc(count ? count : 1, sizeof(*samples));
	if (!samples)
		return NULL;
	/* Where the guest writes does not depend on where we look. */
	if (getrandom(&seed, sizeof(seed), GRND_NONBLOCK) < 0)
		trace(dirty_rate_seed, "%s", strerror(errno));
	count = 0;
	while ((block = ram_block_next(mem, block))) {
		uint64_t share = share_of(block, sample_pages, total);

		for (uint64_t i = 0; i < share && !wait_ms(rate, 0);
		     i++, count++) {
			struct sample *sample = &samples[count];

			sample->block = block;
			sample->page = XXH3_64bits_withSeed(
					       &count, sizeof(count), seed) %
				       block->pages;
			sample->hash = hash_of(sample);
		}
	}
	*ret_count = count;
	return samples;
}

static int measure_samples(struct dirty_rate *rate,
			   const struct dirty_rate_params *params,
			   struct dirty_rate_info *ret_info, struct err *err)
{
	uint64_t start = clock_mono_ns(), count, elapsed, bytes = 0, from = 0;
	struct sample *samples =
		take_samples(rate, params->sample_pages, &count);
	int ret;

	if (!samples)
		return err_set(err, -ENOMEM, "no memory for samples");
	ret = wait_ms(rate, params->calc_ms);
	elapsed = clock_mono_ns() - start;
	/* Runs of samples of one block, each of which stands for it. */
	while (!ret && from < count) {
		const struct ram_block *block = samples[from].block;
		uint64_t share = 0;

		while (from + share < count &&
		       samples[from + share].block == block)
			share++;
		bytes += muldiv64(changed_pages(rate, samples + from, share),
				  block->size, share);
		from += share;
	}
	free(samples);
	if (!ret)
		ret = wait_ms(rate, 0);
	if (!ret)
		ret_info->bytes_per_sec = muldiv64(bytes, NS_PER_SEC, elapsed);
	return ret;
}

static void *thread_main(void *opaque)
{
	struct dirty_rate *rate = opaque;
	struct dirty_rate_info info;
	int ret;

	dirty_rate_query(rate, &info);
	info.has_vcpus = false;
	ret = info.params.mode == DIRTY_RATE_PAGE_SAMPLING
		      ? measure_samples(rate, &info.params, &info, &info.error)
		      : measure_all(rate, &info.params, &info, &info.error);
	if (ret == -ECANCELED)
		err_set(&info.error, ret, "a migration began");
	info.status = ret ? DIRTY_RATE_UNSTARTED : DIRTY_RATE_MEASURED;
	trace(dirty_rate, "%s: %d, %lu bytes/s",
	      dirty_rate_mode_name(info.params.mode), ret, info.bytes_per_sec);
	lock_acquire(&rate->lock);
	rate->info = info;
	lock_release(&rate->lock);
	return NULL;
}

static void join(struct dirty_rate *rate)
{
	if (rate->has_thread)
		pthread_join(rate->thread, NULL);
	rate->has_thread = false;
}

static int check(const struct dirty_rate *rate,
		 const struct dirty_rate_params *params, struct err *err)
{
	struct accel_ring_stats stats;
	bool has_rings = machine_ring_stats(rate->machine, &stats);

	if (rate->info.status == DIRTY_RATE_MEASURING)
		return err_set(err, -EBUSY,
			       "the dirty rate is being measured already");
	if (params->calc_ms < DIRTY_RATE_CALC_MIN_MS ||
	    params->calc_ms > DIRTY_RATE_CALC_MAX_MS)
		return err_set(err, -ERANGE,
			       "calc-time of %" PRIu64 " ms, %u to %u",
			       params->calc_ms, DIRTY_RATE_CALC_MIN_MS,
			       DIRTY_RATE_CALC_MAX_MS);
	if (params->sample_pages < DIRTY_RATE_SAMPLES_MIN ||
	    params->sample_pages > DIRTY_RATE_SAMPLES_MAX)
		return err_set(err, -ERANGE,
			       "sample-pages of %" PRIu64 ", %u to %u",
			       params->sample_pages, DIRTY_RATE_SAMPLES_MIN,
			       DIRTY_RATE_SAMPLES_MAX);
	if (params->mode == DIRTY_RATE_DIRTY_RING && !has_rings)
		return err_set(err, -ENOTSUP,
			       "this machine has no dirty rings (run it with "
			       "--accel kvm,dirty=ring), use dirty-bitmap");
	if (params->mode == DIRTY_RATE_DIRTY_BITMAP && has_rings)
		return err_set(err, -ENOTSUP,
			       "this machine has dirty rings, use dirty-ring");
	return 0;
}

int dirty_rate_start(struct dirty_rate *rate,
		     const struct dirty_rate_params *params, struct err *err)
{
	int ret;

	lock_acquire(&rate->lock);
	ret = check(rate, params, err);
	if (!ret) {
		join(rate); /* an earlier one, which takes no lock any more */
		rate->is_ending = false;
		rate->info = (struct dirty_rate_info){
			.status = DIRTY_RATE_MEASURING,
			.params = *params,
			.start_ns = clock_mono_ns(),
			.error = ERR_INIT,
		};
		ret = pthread_create(&rate->thread, NULL, thread_main, rate);
		rate->has_thread = !ret;
	}
	if (ret > 0) {
		rate->info.status = DIRTY_RATE_UNSTARTED;
		ret = err_set_errno(err, -ret, "dirty rate thread");
	}
	if (!ret)
		pthread_setname_np(rate->thread, "dirty-rate");
	lock_release(&rate->lock);
	return ret;
}

void dirty_rate_end(struct dirty_rate *rate)
{
	lock_acquire(&rate->lock);
	rate->is_ending = true;
	pthread_cond_broadcast(&rate->is_over);
	lock_release(&rate->lock);
	join(rate);
}

void dirty_rate_query(struct dirty_rate *rate, struct dirty_rate_info *ret_info)
{
	lock_acquire(&rate->lock);
	*ret_info = rate->info;
	lock_release(&rate->lock);
}

uint64_t dirty_rate_of_vcpu(struct dirty_rate *rate, unsigned int index)
{
	uint64_t bytes_per_sec;

	lock_acquire(&rate->lock);
	bytes_per_sec = rate->vcpu_bytes_per_sec[index];
	lock_release(&rate->lock);
	return bytes_per_sec;
}
