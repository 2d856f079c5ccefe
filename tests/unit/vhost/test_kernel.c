// SPDX-License-Identifier: Apache-2.0
/*
 * vhost-net's ioctls: which, in which order, with what; without the kernel's part.
 * Linked with --wrap=ioctl,--wrap=open64.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "fake.h"
#include "vhost/kernel.h"

#define TAP_FD   77
#define ERROR_FD 78

static struct {
	char told[4096];
	uint64_t features;   /* that it has */
	unsigned long fails; /* the request that does */
	uint64_t log_base, set_features;
	struct vhost_vring_addr addr;
	struct vhost_memory_region region; /* the second */
	unsigned int regions;
	int fd; /* of /dev/vhost-net */
} seen;

int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);
int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);

int __wrap_open64(const char *path, int flags, ...)
{
	va_list list;
	mode_t mode;

	va_start(list, flags);
	mode = va_arg(list, mode_t);
	va_end(list);
	if (strcmp(path, "/dev/vhost-net"))
		return __real_open64(path, flags, mode);
	seen.fd = eventfd(0, EFD_CLOEXEC);
	return seen.fd;
}

__attribute__((format(printf, 1, 2))) static void note(const char *format, ...)
{
	size_t used = strlen(seen.told);
	va_list list;

	va_start(list, format);
	vsnprintf(seen.told + used, sizeof(seen.told) - used, format, list);
	va_end(list);
}

static void note_memory(const struct vhost_memory *memory)
{
	note("table ");
	seen.regions = memory->nregions;
	if (memory->nregions > 1)
		seen.region = memory->regions[1];
}

static int answer(unsigned long request, void *argument)
{
	struct vhost_vring_state *state = argument;
	const struct vhost_vring_file *file = argument;

	switch (request) {
	case VHOST_SET_OWNER:
		note("owner ");
		return 0;
	case VHOST_GET_FEATURES:
		memcpy(argument, &seen.features, 8);
		return 0;
	case VHOST_SET_FEATURES:
		note("features ");
		memcpy(&seen.set_features, argument, 8);
		return 0;
	case VHOST_SET_MEM_TABLE:
		note_memory(argument);
		return 0;
	case VHOST_SET_LOG_BASE:
		note("log ");
		memcpy(&seen.log_base, argument, 8);
		return 0;
	case VHOST_SET_VRING_NUM:
		note("num%u=%u ", state->index, state->num);
		return 0;
	case VHOST_SET_VRING_BASE:
		note("base%u=%u ", state->index, state->num);
		return 0;
	case VHOST_SET_VRING_ADDR:
		seen.addr = *(struct vhost_vring_addr *)argument;
		note("addr%u%s ", seen.addr.index,
		     seen.addr.flags ? "+log" : "");
		return 0;
	case VHOST_SET_VRING_KICK:
		note("kick%u ", file->index);
		return 0;
	case VHOST_SET_VRING_CALL:
		note("call%u=%d ", file->index, file->fd);
		return 0;
	case VHOST_SET_VRING_ERR:
		note("err%u=%d ", file->index, file->fd);
		return 0;
	case VHOST_NET_SET_BACKEND:
		note("backend%u=%d ", file->index, file->fd);
		return 0;
	case VHOST_GET_VRING_BASE:
		note("get%u ", state->index);
		state->num = 9 + state->index;
		return 0;
	default:
		return -1;
	}
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
	void *argument;
	va_list list;

	va_start(list, request);
	argument = va_arg(list, void *);
	va_end(list);
	if (fd != seen.fd)
		return __real_ioctl(fd, request, argument);
	if (request == seen.fails) {
		errno = EINVAL;
		return -1;
	}
	return answer(request, argument);
}

struct fixture {
	struct world world;
	struct vh_kernel *kernel;
	struct fake fake; /* only its queues */
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	memset(&seen, 0, sizeof(seen));
	seen.features = 1ull << VIRTIO_F_VERSION_1 | 1ull << VHOST_F_LOG_ALL |
			1ull << 29;
	world_init(&f->world, false);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	if (f->kernel)
		vh_dev_stop(vh_kernel_dev(f->kernel), UINT64_MAX, NULL);
	vh_kernel_free(f->kernel);
	world_fini(&f->world);
	free(f);
	return 0;
}

static void build(struct fixture *f)
{
	struct err err = ERR_INIT;

	if (vh_kernel_new(f->world.board, "net0", ERROR_FD, &f->kernel, &err))
		fail_msg("%s", err_msg(&err));
}

#define CHOSEN (1ull << VIRTIO_F_VERSION_1 | 1ull << 40)

static void set_queues(struct fixture *f)
{
	f->fake.call_fd = -1;
	f->fake.vdev.queues = f->fake.queues;
	for (unsigned int i = 0; i < 2; i++)
		f->fake.queues[i] = (struct vdev_queue){
			.size = 16,
			.is_enabled = 1,
			.kick_fd = -1,
			.desc = 0x10000 + 0x3000 * i,
			.driver = 0x11000 + 0x3000 * i,
			.device = 0x12000 + 0x3000 * i,
			.next_avail = (uint16_t)(5 + i),
		};
}

static int start(struct fixture *f, struct err *err)
{
	set_queues(f);
	return vh_kernel_start(f->kernel, TAP_FD, &f->fake.vdev, 0, CHOSEN,
			       err);
}

static void test_table_and_errors_are_told_when_it_is_built(void **state)
{
	struct fixture *f = *state;

	build(f);
	assert_string_equal(seen.told, "owner err0=78 err1=78 table ");
	assert_int_equal(seen.regions, 2);
	assert_int_equal(seen.region.guest_phys_addr, WORLD_HIGH);
	assert_int_equal(seen.region.memory_size, WORLD_HIGH_SIZE);
	assert_int_equal(seen.region.userspace_addr,
			 (uintptr_t)f->world.high->host);
}

static void test_rings_work_once_they_have_the_tap(void **state)
{
	struct fixture *f = *state;

	build(f);
	seen.told[0] = '\0';
	assert_int_equal(start(f, NULL), 0);
	assert_string_equal(seen.told, "features "
				       "num0=16 base0=5 addr0 call0=-1 "
				       "num1=16 base1=6 addr1 call1=-1 "
				       "kick0 backend0=77 kick1 backend1=77 ");
	/* Of the driver's choice, what is the kernel's. */
	assert_int_equal(seen.set_features, 1ull << VIRTIO_F_VERSION_1);
	assert_int_equal(seen.addr.used_user_addr,
			 (uintptr_t)f->world.low->host + 0x15000);
	assert_int_equal(seen.addr.log_guest_addr, 0x15000);
}

static const char *ahead(struct fixture *f, enum vdev_stage stage)
{
	seen.told[0] = '\0';
	assert_int_equal(vh_kernel_build(f->kernel, &f->fake.vdev, 0, CHOSEN,
					 stage, NULL),
			 0);
	return seen.told;
}

/* Without the tap, whatever else they have. */
static void test_rings_that_were_told_ahead_do_not_work_yet(void **state)
{
	struct fixture *f = *state;

	build(f);
	set_queues(f);
	assert_string_equal(ahead(f, VDEV_AHEAD), "features num0=16 call0=-1 "
						  "num1=16 call1=-1 ");
	assert_string_equal(ahead(f, VDEV_STOPPED), "base0=5 base1=6 ");
	assert_string_equal(ahead(f, VDEV_WHOLE), "addr0 addr1 ");
	seen.told[0] = '\0';
	assert_int_equal(start(f, NULL), 0);
	assert_string_equal(seen.told, "kick0 backend0=77 kick1 backend1=77 ");
}

static void test_stop_takes_the_tap_away_and_then_asks(void **state)
{
	struct fixture *f = *state;

	build(f);
	assert_int_equal(start(f, NULL), 0);
	seen.told[0] = '\0';
	assert_int_equal(
		vh_dev_stop(vh_kernel_dev(f->kernel), UINT64_MAX, NULL), 0);
	assert_string_equal(seen.told, "backend0=-1 get0 backend1=-1 get1 ");
	assert_int_equal(f->fake.queues[0].next_avail, 9);
	assert_int_equal(f->fake.queues[1].next_used, 10);
}

static void test_log_is_told_before_features_and_rings(void **state)
{
	struct fixture *f = *state;

	build(f);
	assert_int_equal(start(f, NULL), 0);
	seen.told[0] = '\0';
	assert_int_equal(mem_log_global_start(f->world.mem, NULL), 0);
	assert_string_equal(seen.told, "log features addr0+log addr1+log ");
	assert_int_equal(
		seen.log_base,
		(uintptr_t)f->world.board->sides[VH_KERNEL].log->words);
	assert_true(seen.set_features >> VHOST_F_LOG_ALL & 1);
	seen.told[0] = '\0';
	mem_log_global_stop(f->world.mem, 0);
	assert_string_equal(seen.told, "features addr0 addr1 ");
	assert_false(seen.set_features >> VHOST_F_LOG_ALL & 1);
}

static void test_pages_that_the_kernel_logs_are_marked(void **state)
{
	struct fixture *f = *state;

	build(f);
	assert_int_equal(start(f, NULL), 0);
	assert_int_equal(mem_log_global_start(f->world.mem, NULL), 0);
	((uint8_t *)(uintptr_t)seen.log_base)[WORLD_HIGH / 4096 / 8] |= 1;
	mem_log_sync(f->world.mem, false);
	assert_true(bitmap_test(f->world.high->dirty, 0));
	mem_log_global_stop(f->world.mem, 0);
}

static void test_what_the_kernel_refuses_breaks_the_device(void **state)
{
	static const unsigned long requests[] = {
		VHOST_SET_FEATURES,   VHOST_SET_VRING_NUM,
		VHOST_SET_VRING_BASE, VHOST_SET_VRING_ADDR,
		VHOST_SET_VRING_CALL, VHOST_SET_VRING_KICK,
		VHOST_NET_SET_BACKEND
	};
	struct fixture *f = *state;

	build(f);
	for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
		struct err err = ERR_INIT;

		seen.fails = requests[i];
		assert_int_equal(start(f, &err), -EINVAL);
		assert_memory_equal(err_msg(&err), "net0: VHOST_", 12);
		seen.fails = 0;
		assert_int_equal(start(f, &err), 0);
		vh_dev_stop(vh_kernel_dev(f->kernel), UINT64_MAX, NULL);
	}
}

static void test_kernel_that_tells_no_errors_is_refused(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;

	seen.fails = VHOST_SET_VRING_ERR;
	assert_int_equal(vh_kernel_new(f->world.board, "net0", ERROR_FD,
				       &f->kernel, &err),
			 -EINVAL);
	assert_memory_equal(err_msg(&err), "net0: VHOST_SET_VRING_ERR", 25);
}

static void test_kernel_without_virtio_1_is_refused(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;

	seen.features = 1ull << 29;
	assert_int_equal(vh_kernel_new(f->world.board, "net0", ERROR_FD,
				       &f->kernel, &err),
			 -ENOTSUP);
	assert_string_equal(err_msg(&err), "net0: this kernel's vhost-net "
					   "knows no virtio 1");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_table_and_errors_are_told_when_it_is_built),
		TEST(test_rings_work_once_they_have_the_tap),
		TEST(test_rings_that_were_told_ahead_do_not_work_yet),
		TEST(test_stop_takes_the_tap_away_and_then_asks),
		TEST(test_log_is_told_before_features_and_rings),
		TEST(test_pages_that_the_kernel_logs_are_marked),
		TEST(test_what_the_kernel_refuses_breaks_the_device),
		TEST(test_kernel_that_tells_no_errors_is_refused),
		TEST(test_kernel_without_virtio_1_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
