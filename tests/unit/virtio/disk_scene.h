/* SPDX-License-Identifier: Apache-2.0 */
/* A disk of a file of its own, at work: a fixture. */
#ifndef GODWIT_TESTS_VIRTIO_DISK_SCENE_H
#define GODWIT_TESTS_VIRTIO_DISK_SCENE_H

#include "disk_rig.h"

struct scene {
	struct disk disk;
	char path[64];
};

static inline int disk_setup(void **state)
{
	struct scene *s = calloc(1, sizeof(*s));
	char text[96];
	int fd;

	snprintf(s->path, sizeof(s->path), "/var/tmp/godwit-disk-XXXXXX");
	fd = mkstemp(s->path);
	if (fd < 0 || ftruncate(fd, DISK_SIZE) < 0)
		return -1;
	close(fd);
	snprintf(text, sizeof(text), "path=%s,queues=%u", s->path, DISK_QUEUES);
	disk_board_init(&s->disk);
	if (disk_build(&s->disk, text, false))
		fail_msg("%s", err_msg(&s->disk.err));
	vdev_run(s->disk.dev);
	disk_set_up(&s->disk, DISK_FEATURES);
	*state = s;
	return 0;
}

static inline int disk_teardown(void **state)
{
	struct scene *s = *state;

	assert_int_equal(vdev_pause(s->disk.dev, UINT64_MAX, NULL), 0);
	disk_fini(&s->disk);
	unlink(s->path);
	free(s);
	return 0;
}

#endif
