// SPDX-License-Identifier: Apache-2.0
/*
 * The work of a block device's thread, in rounds: pop all requests of all queues,
 * submit them together, push what is done, publish each queue once.
 *
 * When a round found nothing the thread spins a little before it sleeps: a wake-up
 * costs more than most requests do.  How long follows what it was woken for, as
 * KVM does for halted vCPUs: waits that spinning would have caught lengthen it,
 * longer ones end it.  While it is awake the driver need not notify.
 *
 *	           kick, completion
 *	  asleep -------------------> rounds <----+
 *	     ^                          |         | something came
 *	     |        nothing came      v         |
 *	     +---------------------- spinning ----+
 *
 * A stop has it pop no more; the rest is done when nothing is in flight.
 */
#include <errno.h>
#include <sched.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/trace.h"
#include "virtio/blk_priv.h"

#define SPIN_MAX_NS 32000u /* bench/blk */
#define SPIN_MIN_NS 4000u

static void count(uint64_t *counter)
{
	/* One writer; readers want no torn value. */
	__atomic_store_n(counter, *counter + 1, __ATOMIC_RELAXED);
}

/* Somebody waits for the thread, to have it stop as a rule. */
static bool is_called(const struct blk *blk)
{
	return __atomic_load_n(&blk->calls, __ATOMIC_RELAXED) !=
	       blk->calls_seen;
}

static bool may_pop(const struct blk *blk)
{
	return blk->is_working && !blk->is_stopping &&
	       !__atomic_load_n(&blk->dev.is_broken, __ATOMIC_RELAXED);
}

/* ---- requests ---- */

static void release(struct blk *blk, struct blk_request *request)
{
	request->next = blk->free;
	blk->free = request;
	blk->in_flight--;
}

static void answer(struct blk *blk, struct blk_request *request, uint8_t status)
{
	struct blk_queue *queue = request->queue;
	uint64_t size = request->vq.writable_size;

	/* Data that was read in part counts too: its pages are dirty. */
	vq_write(&request->vq, size - 1, &status, sizeof(status));
	vq_push(&queue->vq, &request->vq, (uint32_t)size);
	queue->is_touched = true;
	release(blk, request);
}

static void count_done(struct blk *blk, enum blk_op op)
{
	switch (op) {
	case BLK_READ:
		count(&blk->counts.reads);
		break;
	case BLK_WRITE:
		count(&blk->counts.writes);
		break;
	case BLK_FLUSH:
		count(&blk->counts.flushes);
		break;
	default:
		count(&blk->counts.others);
	}
}

static void shared(struct blk *blk, int result)
{
	blk->is_sharing = false;
	if (result)
		trace(blk_error, "%s: flush at the end: errno %d",
		      blk->dev.name, -result);
	else
		blk->is_written = false;
	lock_acquire(&blk->lock);
	blk->share_result = result;
	lock_release(&blk->lock);
}

static void done(void *opaque, struct blk_io *io, int result)
{
	struct blk *blk = opaque;
	struct blk_request *request;

	if (io == &blk->share) {
		shared(blk, result);
		return;
	}
	request = container_of(io, struct blk_request, io);
	if (result) {
		trace(blk_error, "%s: op %d: errno %d", blk->dev.name, io->op,
		      -result);
		count(&blk->counts.failed);
	}
	count_done(blk, io->op);
	answer(blk, request,
	       result == 0             ? VIRTIO_BLK_S_OK
	       : result == -EOPNOTSUPP ? VIRTIO_BLK_S_UNSUPP
				       : VIRTIO_BLK_S_IOERR);
}

static void take(struct blk *blk, struct blk_request *request)
{
	struct err err = ERR_INIT;
	uint8_t status;
	int ret;

	blk->free = request->next;
	blk->in_flight++;
	ret = blk_request_read(blk, request, &status, &err);
	if (ret < 0) {
		vq_unpop(&request->queue->vq, &request->vq);
		release(blk, request);
		vdev_break(&blk->dev, &err);
	} else if (ret > 0) {
		blk->is_written |= request->io.op != BLK_READ &&
				   request->io.op != BLK_FLUSH;
		blk->backend->ops->submit(blk->backend, &request->io);
	} else {
		count(status == VIRTIO_BLK_S_OK ? &blk->counts.others
						: &blk->counts.refused);
		answer(blk, request, status);
	}
}

/* All that @queue has, while there are free requests; who calls the thread in between, to
 * stop it, need not wait for what has not been taken. */
static unsigned int pop_all(struct blk *blk, struct blk_queue *queue)
{
	struct err err = ERR_INIT;
	unsigned int popped = 0;
	int ret = 1;

	while (blk->free && may_pop(blk) && !is_called(blk)) {
		struct blk_request *request = blk->free;

		ret = vq_pop(&queue->vq, &request->vq, &err);
		if (ret <= 0)
			break;
		request->queue = queue;
		take(blk, request);
		popped++;
	}
	if (ret < 0)
		vdev_break(&blk->dev, &err);
	return popped;
}

/* ---- rounds ---- */

static void flush_queues(struct blk *blk)
{
	for (unsigned int i = 0; i < blk->queue_count; i++) {
		struct blk_queue *queue = &blk->queues[i];

		if (queue->is_touched)
			vq_flush(&queue->vq);
		queue->is_touched = false;
	}
}

/* Returns how much happened. */
static unsigned int do_round(struct blk *blk)
{
	unsigned int happened = 0;

	for (unsigned int i = 0; i < blk->queue_count && may_pop(blk); i++) {
		unsigned int at = (blk->first + i) % blk->queue_count;

		if (blk->queues[at].is_working)
			happened += pop_all(blk, &blk->queues[at]);
	}
	if (blk->queue_count > 1)
		blk->first = (blk->first + 1) % blk->queue_count;
	happened += blk->backend->ops->poll(blk->backend);
	if (happened > 0) {
		flush_queues(blk);
		count(&blk->counts.rounds);
	}
	return happened;
}

static void ignore_kicks(struct blk *blk)
{
	for (unsigned int i = 0; i < blk->queue_count; i++) {
		if (blk->queues[i].is_working)
			vq_ignore_kicks(&blk->queues[i].vq);
	}
}

/* False: something came meanwhile.  Without a free request a kick would tell
 * nothing, and a completion ends the sleep. */
static bool want_events(struct blk *blk)
{
	bool is_quiet = true;

	for (unsigned int i = 0; i < blk->queue_count; i++) {
		if (may_pop(blk) && blk->free && blk->queues[i].is_working &&
		    vq_want_kicks(&blk->queues[i].vq))
			is_quiet = false;
	}
	return blk->backend->ops->arm(blk->backend) && is_quiet;
}

static void adapt_spinning(struct blk *blk, uint64_t now)
{
	uint64_t slept = now - blk->slept_at;

	if (slept > SPIN_MAX_NS)
		blk->spin_ns =
			blk->spin_ns / 2 < SPIN_MIN_NS ? 0 : blk->spin_ns / 2;
	else if (blk->spin_ns < slept)
		blk->spin_ns = SPIN_MAX_NS;
}

/* Nothing happened: whether to look again rather than to sleep. */
static bool may_spin(struct blk *blk, uint64_t *idle_since)
{
	uint64_t now;

	if (blk->spin_ns == 0 || !blk->backend->info.is_poll_cheap ||
	    !(may_pop(blk) || blk->in_flight > 0))
		return false;
	now = clock_mono_ns();
	if (*idle_since == 0)
		*idle_since = now;
	if (blk->in_flight > 0)
		sched_yield(); /* the kernel's threads may need this CPU */
	else
		__builtin_ia32_pause();
	return now - *idle_since < blk->spin_ns;
}

static void drained(struct blk *blk)
{
	lock_acquire(&blk->lock);
	blk->is_drained = true;
	pthread_cond_broadcast(&blk->drained);
	lock_release(&blk->lock);
}

/* True: a last flush is under way, and the stop waits for it. */
static bool share(struct blk *blk)
{
	if (blk->has_shared || !blk->is_written ||
	    !blk->backend->info.needs_flush_to_share)
		return false;
	blk->has_shared = true;
	blk->is_sharing = true;
	blk->share = (struct blk_io){ .op = BLK_FLUSH };
	blk->backend->ops->submit(blk->backend, &blk->share);
	return true;
}

static void end_stop(struct blk *blk)
{
	for (unsigned int i = 0; i < blk->queue_count; i++) {
		struct blk_queue *queue = &blk->queues[i];

		if (queue->is_working)
			io_thread_del(blk->thread, &queue->kick);
		queue->is_working = false;
	}
	blk->is_working = false;
	trace(blk_stop, "%s", blk->dev.name);
	drained(blk);
}

/* Until there is nothing to do, or somebody called the thread. */
static void work(struct blk *blk)
{
	uint64_t idle_since = 0;

	if (blk->slept_at)
		adapt_spinning(blk, clock_mono_ns());
	blk->slept_at = 0;
	ignore_kicks(blk);
	while (!is_called(blk)) {
		bool is_idle = do_round(blk) == 0;

		if (blk->is_working && blk->is_stopping && !blk->is_sharing &&
		    blk->in_flight == 0 && !share(blk))
			end_stop(blk);
		if (!is_idle) {
			idle_since = 0;
		} else if (!may_spin(blk, &idle_since)) {
			if (want_events(blk)) {
				blk->slept_at = clock_mono_ns();
				return;
			}
			ignore_kicks(blk);
		}
	}
}

static void ready(void *opaque)
{
	work(opaque);
}

const struct blk_front blk_thread_front = { .done = done, .ready = ready };

static void kicked(void *opaque)
{
	struct blk_queue *queue = opaque;
	uint64_t value;

	/* Fails when it was emptied meanwhile. */
	if (read(queue->kick.fd, &value, sizeof(value)) < 0)
		return;
	work(queue->blk);
}

/* ---- what others have the thread do ---- */

static void begin(struct blk *blk)
{
	struct err err = ERR_INIT;

	blk->is_working = true;
	for (unsigned int i = 0; i < blk->queue_count; i++) {
		struct blk_queue *queue = &blk->queues[i];

		if (!queue->queue->is_enabled)
			continue;
		queue->kick = (struct io_source){ .fd = queue->queue->kick_fd,
						  .events = EPOLLIN,
						  .ready = kicked,
						  .opaque = queue };
		queue->is_working =
			io_thread_add(blk->thread, &queue->kick) == 0;
		if (!queue->is_working) {
			err_set(&err, -ENOMEM, "no memory to wait for kicks");
			vdev_break(&blk->dev, &err);
		}
	}
}

void blk_thread_start(void *opaque)
{
	struct blk *blk = opaque;

	blk->calls_seen++;
	blk->is_stopping = false;
	begin(blk);
	trace(blk_start, "%s", blk->dev.name);
	/* What the driver did before is not told by a kick. */
	work(blk);
}

void blk_thread_stop(void *opaque)
{
	struct blk *blk = opaque;

	blk->calls_seen++;
	blk->is_stopping = true;
	blk->has_shared = false;
	work(blk);
}

void blk_thread_resume(void *opaque)
{
	struct blk *blk = opaque;

	blk->calls_seen++;
	blk->is_stopping = false;
	/* It was over after all, just behind the deadline. */
	if (!blk->is_working)
		begin(blk);
	trace(blk_resume, "%s", blk->dev.name);
	work(blk);
}

void blk_thread_give_up(void *opaque)
{
	struct blk *blk = opaque;

	blk->calls_seen++;
	if (blk->backend->ops->give_up)
		blk->backend->ops->give_up(blk->backend);
	work(blk);
}
