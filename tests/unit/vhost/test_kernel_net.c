// SPDX-License-Identifier: Apache-2.0
/*
 * A card of several pairs on vhost-net, without the kernel's part and the tap's: which
 * queues of the tap are in use.  Linked with --wrap of what is defined below.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/vhost.h>
#include <linux/virtio_net.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

#include "bed.h"
#include "virtio/tap.h"

#define PAIRS  2u
#define TAP_FD 77

static struct {
	int fds[PAIRS];        /* of /dev/vhost-net, a pair each */
	int errors[2 * PAIRS]; /* what each ring was told to signal */
	unsigned int count;
	int failing;         /* this one begins no ring; -1: none */
	unsigned int active; /* queues of the tap */
	unsigned int announcements;
	uint8_t announced[6];
} seen;

int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);
int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);
int __wrap_tap_new(const char *name, unsigned int queues, bool is_incoming,
		   struct tap **ret_tap, struct err *err);
void __wrap_tap_free(struct tap *tap);
int __wrap_tap_fd(const struct tap *tap, unsigned int queue);
uint64_t __wrap_tap_features(const struct tap *tap);
int __wrap_tap_set_features(struct tap *tap, uint64_t features,
			    struct err *err);
int __wrap_tap_set_active(struct tap *tap, unsigned int active,
			  struct err *err);

void __wrap_tap_announce(struct tap *tap, const uint8_t mac[6]);

int __wrap_open64(const char *path, int flags, ...)
{
	va_list list;
	mode_t mode;

	va_start(list, flags);
	mode = va_arg(list, mode_t);
	va_end(list);
	if (strcmp(path, "/dev/vhost-net"))
		return __real_open64(path, flags, mode);
	assert_true(seen.count < PAIRS);
	return seen.fds[seen.count++] = eventfd(0, EFD_CLOEXEC);
}

static int answer(int pair, unsigned long request, void *argument)
{
	const struct vhost_vring_file *file = argument;
	const uint64_t features = 1ull << VIRTIO_F_VERSION_1;
	struct vhost_vring_state *state = argument;

	if (request == VHOST_GET_FEATURES)
		memcpy(argument, &features, sizeof(features));
	else if (request == VHOST_SET_VRING_ERR)
		seen.errors[2 * pair + (int)file->index] = file->fd;
	else if (request == VHOST_GET_VRING_BASE)
		state->num = 0;
	else if (request == VHOST_NET_SET_BACKEND && pair == seen.failing &&
		 file->fd == TAP_FD) {
		errno = ENOMEM;
		return -1;
	}
	return 0;
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
	void *argument;
	va_list list;

	va_start(list, request);
	argument = va_arg(list, void *);
	va_end(list);
	for (unsigned int i = 0; i < seen.count; i++) {
		if (fd == seen.fds[i])
			return answer((int)i, request, argument);
	}
	return __real_ioctl(fd, request, argument);
}

int __wrap_tap_new(const char *name, unsigned int queues, bool is_incoming,
		   struct tap **ret_tap, struct err *err)
{
	(void)name;
	(void)queues;
	(void)is_incoming;
	(void)ret_tap; /* of which nobody sees the inside */
	(void)err;
	return 0;
}

void __wrap_tap_free(struct tap *tap)
{
	(void)tap;
}

int __wrap_tap_fd(const struct tap *tap, unsigned int queue)
{
	(void)tap;
	(void)queue;
	return TAP_FD;
}

uint64_t __wrap_tap_features(const struct tap *tap)
{
	(void)tap;
	return 0;
}

int __wrap_tap_set_features(struct tap *tap, uint64_t features, struct err *err)
{
	(void)tap;
	(void)features;
	(void)err;
	return 0;
}

int __wrap_tap_set_active(struct tap *tap, unsigned int active, struct err *err)
{
	(void)tap;
	(void)err;
	__atomic_store_n(&seen.active, active, __ATOMIC_RELEASE);
	return 0;
}

void __wrap_tap_announce(struct tap *tap, const uint8_t mac[6])
{
	(void)tap;
	memcpy(seen.announced, mac, 6);
	__atomic_fetch_add(&seen.announcements, 1, __ATOMIC_RELEASE);
}

static int setup(void **state)
{
	struct bed *bed = calloc(1, sizeof(*bed));
	struct err err = ERR_INIT;

	memset(&seen, 0, sizeof(seen));
	seen.failing = -1;
	bed_init(bed, false);
	if (bed_net_new_on(bed, "tap=t0,vhost=on", PAIRS, &err))
		fail_msg("%s", err_msg(&err));
	bed_drive(bed);
	*state = bed;
	return 0;
}

static int teardown(void **state)
{
	struct bed *bed = *state;

	bed_fini(bed);
	free(bed);
	return 0;
}

static uint8_t set_pairs(struct bed *bed, uint16_t pairs)
{
	bed_begin_pairs(bed, pairs);
	assert_true(bed_until(bed_has_answer, bed));
	return bed->answer;
}

static unsigned int active(void)
{
	return __atomic_load_n(&seen.active, __ATOMIC_ACQUIRE);
}

static void test_only_queues_of_pairs_that_work_are_in_use(void **state)
{
	struct bed *bed = *state;

	assert_int_equal(active(), 1);
	assert_int_equal(set_pairs(bed, 2), VIRTIO_NET_OK);
	assert_int_equal(active(), 2);
	assert_int_equal(set_pairs(bed, 1), VIRTIO_NET_OK);
	assert_int_equal(active(), 1);
}

static void test_queues_of_pairs_that_do_not_start_are_given_back(void **state)
{
	struct bed *bed = *state;

	seen.failing = 1;
	assert_int_equal(set_pairs(bed, 2), VIRTIO_NET_ERR);
	assert_int_equal(active(), 1);
	seen.failing = -1;
	assert_int_equal(set_pairs(bed, 2), VIRTIO_NET_OK);
	assert_int_equal(active(), 2);
}

static bool is_announced(void *opaque)
{
	(void)opaque;
	return __atomic_load_n(&seen.announcements, __ATOMIC_ACQUIRE) > 0;
}

static void test_guest_that_arrived_is_announced_by_the_tap(void **state)
{
	struct bed *bed = *state;

	vdev_arrived(bed->vdev);
	assert_true(bed_until(is_announced, NULL));
	for (unsigned int i = 0; i < 6; i++)
		assert_int_equal(seen.announced[i],
				 board_load(&bed->board,
					    bed->bar + VDEV_PCI_CONFIG + i, 1));
}

static bool needs_reset(void *opaque)
{
	return bed_needs_reset(opaque);
}

static void
test_ring_that_the_kernel_cannot_read_breaks_the_device(void **state)
{
	struct bed *bed = *state;

	for (unsigned int i = 0; i < 2 * PAIRS; i++) {
		assert_false(bed_needs_reset(bed));
		assert_int_equal(eventfd_write(seen.errors[i], 1), 0);
		assert_true(bed_until(needs_reset, bed));
		bed_reset(bed);
		bed_drive(bed);
	}
}

static void test_error_of_rings_that_have_stopped_breaks_nothing(void **state)
{
	struct bed *bed = *state;

	for (unsigned int i = 0; i < 2 * PAIRS; i++) {
		vdev_pause_begin(bed->vdev);
		assert_int_equal(vdev_pause(bed->vdev, UINT64_MAX, NULL), 0);
		assert_int_equal(eventfd_write(seen.errors[i], 1), 0);
		vdev_run(bed->vdev);
	}
	/* The thread has looked by the time that it has answered. */
	assert_int_equal(set_pairs(bed, 2), VIRTIO_NET_OK);
	assert_int_equal(set_pairs(bed, 1), VIRTIO_NET_OK);
	assert_false(bed_needs_reset(bed));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_only_queues_of_pairs_that_work_are_in_use),
		TEST(test_queues_of_pairs_that_do_not_start_are_given_back),
		TEST(test_guest_that_arrived_is_announced_by_the_tap),
		TEST(test_ring_that_the_kernel_cannot_read_breaks_the_device),
		TEST(test_error_of_rings_that_have_stopped_breaks_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
