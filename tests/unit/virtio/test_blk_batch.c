// SPDX-License-Identifier: Apache-2.0
/* A block device's thread that is called in the middle of a batch.  Linked with
 * --wrap=vq_pop. */
#include <cmocka.h>

#include "disk_scene.h"

#define REQUESTS 3u

/* Of this program's one disk: its thread stops once before it looks into queue 0. */
static struct {
	bool is_armed;      /* atomic */
	int at_fd, gate_fd; /* eventfds: it does; it goes on */
} halt;

int __wrap_vq_pop(struct vq *vq, struct vq_request *request, struct err *err);
int __real_vq_pop(struct vq *vq, struct vq_request *request, struct err *err);

int __wrap_vq_pop(struct vq *vq, struct vq_request *request, struct err *err)
{
	eventfd_t count;

	if (vq->queue == &vq->dev->queues[0] &&
	    __atomic_exchange_n(&halt.is_armed, false, __ATOMIC_ACQ_REL)) {
		eventfd_write(halt.at_fd, 1);
		eventfd_read(halt.gate_fd, &count);
	}
	return __real_vq_pop(vq, request, err);
}

static int setup(void **state)
{
	halt.at_fd = eventfd(0, EFD_CLOEXEC);
	halt.gate_fd = eventfd(0, EFD_CLOEXEC);
	return disk_setup(state);
}

static int teardown(void **state)
{
	int ret = disk_teardown(state);

	close(halt.at_fd);
	close(halt.gate_fd);
	return ret;
}

/* All are there when the thread looks for the first, and has been called then. */
static void stop_in_a_batch(struct scene *s)
{
	eventfd_t count;

	__atomic_store_n(&halt.is_armed, true, __ATOMIC_RELEASE);
	disk_begin(&s->disk, 0, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
	eventfd_read(halt.at_fd, &count);
	for (unsigned int i = 1; i < REQUESTS; i++)
		disk_begin(&s->disk, 0, i, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
	vdev_pause_begin(s->disk.dev);
	eventfd_write(halt.gate_fd, 1);
	assert_int_equal(vdev_pause(s->disk.dev, UINT64_MAX, NULL), 0);
}

static void test_stop_leaves_what_was_not_taken_yet_in_its_queue(void **state)
{
	struct scene *s = *state;

	stop_in_a_batch(s);
	assert_int_equal(s->disk.dev->queues[0].next_avail, 1);
	assert_int_equal(s->disk.dev->queues[0].next_used, 1);
	vdev_run(s->disk.dev);
	disk_wait(&s->disk, 0);
	for (unsigned int i = 0; i < REQUESTS; i++)
		assert_int_equal(*disk_status(&s->disk, 0, i), VIRTIO_BLK_S_OK);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			test_stop_leaves_what_was_not_taken_yet_in_its_queue,
			setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
