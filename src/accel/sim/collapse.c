// SPDX-License-Identifier: Apache-2.0
/*
 * What follows the end of logging.  Tables that were split for it are taken out,
 * and the next access maps a large leaf again.
 *
 * A worker does that slot by slot, from a list of the slots concerned.  It holds
 * its locks for one step (some tables, each one store to take out), and frees them
 * with none.  A slot that is logged again, or goes, is struck off the list; between
 * two steps that is all there is to it.  While it works, vCPUs that fault replace
 * tables by themselves (table.c), and leave it those.
 *
 * With collapse=inline the one who stops logging does it, at once and with the
 * lock held from first to last, leaf by leaf, as KVM did before it had a worker:
 * vCPUs that fault wait.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/trace.h"
#include "mem/ram.h"
#include "sim_priv.h"

/* One step, if nobody wants the lock before: so many tables taken out, so many pieces
 * looked at. */
#define STEP_TABLES 16u
#define STEP_PIECES 128u
/* It rests nine times as long as it worked, as the worker of accel/kvm does. */
#define REST_FACTOR 9

/* A slot whose logging ended. */
struct sim_work {
	struct list link;
	struct sim_slot *slot; /* borrowed; NULL: struck off */
	struct sim_log *log;   /* owned */
	uint64_t at;           /* gpa */
	uint64_t begin_ns;     /* not before */
};

/* Taken out in one step, or by vCPUs before it. */
struct trees {
	struct s2_orphan trees[STEP_TABLES];
	unsigned int count;
};

/* The largest leaf that can be at @gpa; 0: no more than 4 KiB. */
static unsigned int level_at(const struct sim *sim, const struct sim_slot *slot,
			     uint64_t gpa)
{
	uint64_t host = (uint64_t)(uintptr_t)slot->block->host + slot->offset;
	unsigned int level = sim->max_leaf;

	for (; level > 0; level--) {
		uint64_t mask = s2_size(level) - 1;

		if (!(gpa & mask) && !((host + (gpa - slot->gpa)) & mask) &&
		    slot->gpa + slot->size - gpa > mask)
			break;
	}
	return level;
}

/* The piece at @gpa; returns where the next one starts. */
static uint64_t take_piece(struct sim *sim, const struct sim_slot *slot,
			   uint64_t gpa, struct trees *trees)
{
	unsigned int level = level_at(sim, slot, gpa);
	uint64_t *table;

	if (level == 0) /* to where a larger one can begin */
		return align_down(gpa, s2_size(1)) + s2_size(1);
	table = s2_detach_table(&sim->s2, gpa, level);
	if (table)
		trees->trees[trees->count++] =
			(struct s2_orphan){ table, level };
	return gpa + s2_size(level);
}

/* With slots_lock.  True when the slot is done. */
static bool work_step(struct sim *sim, struct sim_work *work,
		      struct trees *trees)
{
	const struct sim_slot *slot = work->slot;
	uint64_t end;

	if (!slot || sim->max_leaf == 0)
		return true;
	end = slot->gpa + slot->size;
	s2_lock(&sim->s2);
	trees->count =
		s2_take_orphans(&sim->s2, true, trees->trees, STEP_TABLES);
	for (unsigned int i = 0;
	     i < STEP_PIECES && work->at < end && trees->count < STEP_TABLES;
	     i++) {
		work->at = take_piece(sim, slot, work->at, trees);
		if (s2_is_wanted(&sim->s2))
			break;
	}
	s2_unlock(&sim->s2);
	return work->at >= end;
}

/* With no lock.  What else is reachable no more may go after this as well. */
static void free_trees(struct sim *sim, const struct trees *trees)
{
	sim_wait_epoch(sim);
	for (unsigned int i = 0; i < trees->count; i++)
		s2_free_tree(&sim->s2, trees->trees[i].table,
			     trees->trees[i].level);
}

/* With slots_lock, which is released meanwhile; returns how long it worked. */
static uint64_t work_on(struct sim *sim, struct sim_work *work)
{
	uint64_t start_ns = clock_read_ns(CLOCK_THREAD_CPUTIME_ID);
	struct trees trees = { .count = 0 };
	struct sim_log *log = NULL;

	if (work_step(sim, work, &trees)) {
		if (work->slot)
			trace(sim_collapsed, "slot %u", work->slot->id);
		log = work->log;
		list_del(&work->link);
		free(work);
	}
	sim_slots_unlock(sim);
	free_trees(sim, &trees);
	sim_log_free(log);
	sim_slots_lock(sim);
	return clock_read_ns(CLOCK_THREAD_CPUTIME_ID) - start_ns;
}

/* No slot is to be worked on: vCPUs keep no more tables, and some of those that they have
 * kept go.  With slots_lock, which is released meanwhile; returns how long it worked, 0:
 * there is none. */
static uint64_t clean_up(struct sim *sim)
{
	uint64_t start_ns = clock_read_ns(CLOCK_THREAD_CPUTIME_ID);
	struct trees trees;

	s2_lock(&sim->s2);
	trees.count =
		s2_take_orphans(&sim->s2, false, trees.trees, STEP_TABLES);
	s2_unlock(&sim->s2);
	if (!trees.count)
		return 0;
	sim_slots_unlock(sim);
	free_trees(sim, &trees);
	sim_slots_lock(sim);
	return clock_read_ns(CLOCK_THREAD_CPUTIME_ID) - start_ns;
}

/* With slots_lock: one that was struck off, or else the one that may begin first, or
 * has been begun; NULL: there is none. */
static struct sim_work *next_work(struct sim_collapse *collapse)
{
	struct sim_work *work, *next = NULL;

	list_for_each (work, &collapse->works, link) {
		if (!work->slot)
			return work;
		if (!next || work->begin_ns < next->begin_ns)
			next = work;
	}
	return next;
}

static void *collapse_thread(void *opaque)
{
	struct sim *sim = opaque;
	struct sim_collapse *collapse = &sim->collapse;
	uint64_t due_ns = 0;

	sim_slots_lock(sim);
	while (!collapse->is_ending) {
		struct sim_work *work = next_work(collapse);
		uint64_t now = clock_mono_ns(), worked_ns;

		if (due_ns > now && !(work && !work->slot)) {
			sim_slots_wait(sim, &collapse->wake, due_ns);
			continue;
		}
		if (work && (!work->slot || work->begin_ns <= now)) {
			due_ns = now + (REST_FACTOR + 1) * work_on(sim, work);
			continue;
		}
		worked_ns = clean_up(sim);
		due_ns = now + (REST_FACTOR + 1) * worked_ns;
		if (!worked_ns)
			sim_slots_wait(sim, &collapse->wake,
				       work ? work->begin_ns : UINT64_MAX);
	}
	sim_slots_unlock(sim);
	return NULL;
}

/* Leaf by leaf with the lock, then what is left without it. */
static void collapse_inline(struct sim *sim, const struct sim_slot *slot)
{
	uint64_t end = slot->gpa + slot->size, at = slot->gpa;

	s2_lock(&sim->s2);
	while (at < end) {
		unsigned int level = level_at(sim, slot, at);

		if (level > 0)
			s2_zap(&sim->s2, at, level);
		at = align_down(at, s2_size(level ? level : 1)) +
		     s2_size(level ? level : 1);
	}
	s2_unlock(&sim->s2);
	for (at = slot->gpa; at < end;) {
		struct trees trees = { .count = 0 };

		s2_lock(&sim->s2);
		at = take_piece(sim, slot, at, &trees);
		s2_unlock(&sim->s2);
		free_trees(sim, &trees);
	}
}

void sim_collapse_add(struct sim *sim, struct sim_slot *slot,
		      struct sim_log *log, uint64_t grace_ns)
{
	struct sim_work *work = NULL;

	if (sim->options.is_collapse_inline) {
		collapse_inline(sim, slot);
	} else {
		work = calloc(1, sizeof(*work));
	}
	if (!work) { /* without memory the leaves stay small */
		sim_wait_epoch(sim);
		sim_log_free(log);
		return;
	}
	*work = (struct sim_work){
		.slot = slot,
		.log = log,
		.at = slot->gpa,
		.begin_ns = clock_mono_ns() + grace_ns,
	};
	trace(sim_collapse_later, "slot %u, in %llu ms", slot->id,
	      grace_ns / NS_PER_MS);
	sim_slots_lock(sim);
	list_add_tail(&sim->collapse.works, &work->link);
	pthread_cond_signal(&sim->collapse.wake);
	sim_slots_unlock(sim);
}

void sim_collapse_cancel(struct sim *sim, struct sim_slot *slot)
{
	struct sim_work *work;

	sim_slots_lock(sim);
	list_for_each (work, &sim->collapse.works, link) {
		if (work->slot != slot)
			continue;
		work->slot = NULL;
		trace(sim_collapse_called_off, "slot %u", slot->id);
	}
	pthread_cond_signal(&sim->collapse.wake); /* its log is free to go */
	sim_slots_unlock(sim);
}

int sim_collapse_init(struct sim *sim, struct err *err)
{
	int ret;

	list_init(&sim->collapse.works);
	lock_cond_init(&sim->collapse.wake);
	ret = pthread_create(&sim->collapse.thread, NULL, collapse_thread, sim);
	if (ret)
		return err_set_errno(err, -ret, "thread of the collapse");
	sim->collapse.has_thread = true;
	pthread_setname_np(sim->collapse.thread, "collapse");
	return 0;
}

/* After the listener is gone: every slot is, and struck off. */
void sim_collapse_fini(struct sim *sim)
{
	struct sim_work *work, *next;

	if (!sim->collapse.has_thread)
		return;
	sim_slots_lock(sim);
	sim->collapse.is_ending = true;
	pthread_cond_signal(&sim->collapse.wake);
	sim_slots_unlock(sim);
	pthread_join(sim->collapse.thread, NULL);
	list_for_each_safe (work, next, &sim->collapse.works, link) {
		sim_log_free(work->log);
		free(work);
	}
	pthread_cond_destroy(&sim->collapse.wake);
}
