/* SPDX-License-Identifier: Apache-2.0 */
/* The network device in front of a back end that notes what it is told, and its driver.
 * The test's program wraps what driver.h says. */
#ifndef GODWIT_TESTS_VIRTIO_NET_TOLD_H
#define GODWIT_TESTS_VIRTIO_NET_TOLD_H

#include <errno.h>
#include <linux/virtio_net.h>

#include "driver.h"
#include "virtio/net.h"

#define BIT(feature) (1ull << VIRTIO_NET_F_##feature)

#define CONTROL                                                       \
	(BIT(CTRL_VQ) | BIT(CTRL_RX) | BIT(CTRL_MAC_ADDR) | BIT(MQ) | \
	 BIT(GUEST_ANNOUNCE) | BIT(STATUS) | BIT(MAC))

#define PAIRS 4u

struct told {
	unsigned int starts, stops, pairs, claimed, disclaims, filters;
	unsigned int stop_begins, start_waits;
	unsigned int built;         /* pairs, by the last build */
	unsigned int stop_timeouts; /* stops to fail from now on */
	int fail;                   /* what set_pairs and set_filter return */
	uint64_t features;
	struct net_rx_filter filter;
	uint8_t announced[6];
	unsigned int frees;
	int announce_fd; /* eventfd: told to announce */
	/* set_pairs signals the first, and waits for the second; eventfds */
	bool is_slow;
	int busy_fd, gate_fd;
	/* In start_wait: to do something there. */
	void (*in_start_wait)(void *opaque);
	void *opaque;
};

struct fixture {
	struct driver driver;
	struct told told;
};

static inline uint64_t told_features(void *opaque)
{
	(void)opaque;
	return BIT(CSUM) | BIT(HOST_TSO4) | BIT(MRG_RXBUF) | NET_GUEST_OFFLOADS;
}

static inline int told_accept(void *opaque, uint64_t features, struct err *err)
{
	(void)err;
	((struct told *)opaque)->features = features;
	return 0;
}

static inline int told_build(void *opaque, struct vdev *dev, unsigned int pairs,
			     enum vdev_stage stage, struct err *err)
{
	(void)dev, (void)stage, (void)err;
	((struct told *)opaque)->built = pairs;
	return 0;
}

static inline int told_start(void *opaque, struct vdev *dev, unsigned int pairs,
			     struct err *err)
{
	struct told *told = opaque;

	(void)dev, (void)err;
	told->starts++;
	told->pairs = pairs;
	return 0;
}

static inline int told_start_wait(void *opaque, struct err *err)
{
	struct told *told = opaque;

	(void)err;
	told->start_waits++;
	if (told->in_start_wait)
		told->in_start_wait(told->opaque);
	return 0;
}

static inline void told_stop_begin(void *opaque)
{
	((struct told *)opaque)->stop_begins++;
}

static inline int told_stop(void *opaque, uint64_t deadline_ns, struct err *err)
{
	struct told *told = opaque;

	(void)deadline_ns;
	if (told->stop_timeouts) {
		told->stop_timeouts--;
		return err_set(err, -ETIMEDOUT, "it works on");
	}
	told->stops++;
	return 0;
}

static inline int told_set_pairs(void *opaque, unsigned int pairs,
				 struct err *err)
{
	struct told *told = opaque;

	if (told->is_slow) {
		driver_signal(told->busy_fd);
		driver_await(told->gate_fd);
	}
	if (told->fail)
		return err_set(err, told->fail, "told to");
	told->pairs = pairs;
	return 0;
}

static inline int told_claim(void *opaque, unsigned int pairs, struct err *err)
{
	struct told *told = opaque;

	(void)err;
	told->claimed = pairs;
	return 0;
}

static inline void told_disclaim(void *opaque)
{
	struct told *told = opaque;

	told->disclaims++;
	told->claimed = 0;
}

static inline int told_set_filter(void *opaque,
				  const struct net_rx_filter *filter,
				  struct err *err)
{
	struct told *told = opaque;

	if (told->fail)
		return err_set(err, told->fail, "told to");
	told->filters++;
	told->filter = *filter;
	return 0;
}

static inline void told_announce(void *opaque, const uint8_t mac[6])
{
	struct told *told = opaque;

	memcpy(told->announced, mac, 6);
	driver_signal(told->announce_fd);
}

static inline void told_free(void *opaque)
{
	((struct told *)opaque)->frees++;
}

static const struct net_backend_ops told_ops = {
	.features = told_features,
	.accept = told_accept,
	.build = told_build,
	.start = told_start,
	.start_wait = told_start_wait,
	.stop_begin = told_stop_begin,
	.stop = told_stop,
	.set_pairs = told_set_pairs,
	.claim = told_claim,
	.disclaim = told_disclaim,
	.set_filter = told_set_filter,
	.announce = told_announce,
	.free = told_free,
};

static inline void fixture_init(struct fixture *f, const uint8_t *mac)
{
	struct net_config config = { .pairs = PAIRS,
				     .ops = &told_ops,
				     .opaque = &f->told };

	memset(f, 0, sizeof(*f));
	driver_init(&f->driver, "net3");
	f->told.announce_fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
	f->driver.site.setup_state = &f->driver.board.setup_state;
	f->told.busy_fd = eventfd(0, EFD_CLOEXEC);
	f->told.gate_fd = eventfd(0, EFD_CLOEXEC);
	if (mac)
		memcpy(config.mac, mac, 6);
	if (net_new_with(&f->driver.site, &config, &f->driver.dev,
			 &f->driver.err))
		fail_msg("%s", err_msg(&f->driver.err));
}

static inline int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	fixture_init(f, NULL);
	*state = f;
	return 0;
}

static inline void fixture_fini(struct fixture *f)
{
	driver_fini(&f->driver);
	assert_int_equal(f->told.frees, 1);
	close(f->told.announce_fd);
	close(f->told.busy_fd);
	close(f->told.gate_fd);
}

static inline int teardown(void **state)
{
	fixture_fini(*state);
	free(*state);
	return 0;
}

static inline uint8_t *answer_at(struct fixture *f, unsigned int queue)
{
	return driver_at(&f->driver, driver_buffer(queue, 32));
}

/* A command of @size bytes, class and number first. */
static inline void command_begin(struct fixture *f, unsigned int queue,
				 const void *bytes, uint32_t size)
{
	const struct driver_buffer buffers[] = {
		{ driver_buffer(queue, 0), size, false },
		{ driver_buffer(queue, 32), 1, true },
	};

	memcpy(driver_at(&f->driver, buffers[0].gpa), bytes, size);
	*answer_at(f, queue) = 0xee;
	driver_add(&f->driver, queue, buffers, 2);
	driver_kick(&f->driver, queue);
}

/* And its answer. */
static inline uint8_t command_at(struct fixture *f, unsigned int queue,
				 const void *bytes, uint32_t size)
{
	command_begin(f, queue, bytes, size);
	assert_int_equal(driver_take(&f->driver, queue, NULL), 1);
	return *answer_at(f, queue);
}

static inline uint8_t command(struct fixture *f, const void *bytes,
			      uint32_t size)
{
	return command_at(f, 2 * PAIRS, bytes, size);
}

static inline uint8_t command_pairs(struct fixture *f, unsigned int pairs)
{
	return command(f,
		       (uint8_t[]){ VIRTIO_NET_CTRL_MQ, 0, (uint8_t)pairs,
				    (uint8_t)(pairs >> 8) },
		       4);
}

#endif
