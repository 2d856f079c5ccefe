// SPDX-License-Identifier: Apache-2.0
/* Opening and closing; chardev_fd.c moves the bytes. */
#include "dev/chardev.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/list.h"
#include "dev/chardev_priv.h"

#define BACKLOG 8 /* clients that wait while one is served */

static int open_file(struct fd_chardev *cd, const char *path, struct err *err)
{
	cd->own_fd = open(path,
			  O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY |
				  O_NONBLOCK,
			  0644);
	if (cd->own_fd < 0)
		return err_set_errno(err, -errno, "%s", path);
	cd->out_kind = OUT_NONBLOCK;
	cd->out_fd = cd->own_fd;
	return 0;
}

/* In the background, tcsetattr() would stop the process. */
static bool owns_terminal(int fd)
{
	pid_t group = tcgetpgrp(fd);

	return group < 0 || group == getpgrp();
}

static void set_raw(struct fd_chardev *cd)
{
	struct termios raw;

	if (tcgetattr(cd->in_fd, &cd->termios) < 0 || !owns_terminal(cd->in_fd))
		return;
	raw = cd->termios;
	cfmakeraw(&raw);
	raw.c_oflag |= OPOST; /* other lines on this terminal stay straight */
	cd->is_raw = tcsetattr(cd->in_fd, TCSANOW, &raw) == 0;
}

static int open_stdio(struct fd_chardev *cd, struct err *err)
{
	char name[32];
	struct stat st;

	cd->in_fd = cd->options.in_fd;
	cd->out_fd = cd->options.out_fd;
	if (fstat(cd->out_fd, &st) < 0)
		return err_set_errno(err, -errno, "standard output");
	if (S_ISSOCK(st.st_mode)) {
		cd->out_kind = OUT_SOCKET;
	} else if (S_ISREG(st.st_mode)) {
		cd->out_kind = OUT_NONBLOCK;
	} else {
		/* O_NONBLOCK on the descriptor itself would be seen by the
		 * shell too, so the same file is opened once more. */
		snprintf(name, sizeof(name), "/proc/self/fd/%d", cd->out_fd);
		cd->own_fd = open(name,
				  O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		if (cd->own_fd >= 0)
			cd->out_fd = cd->own_fd;
		cd->out_kind = cd->own_fd >= 0 ? OUT_NONBLOCK : OUT_POLLED;
	}
	set_raw(cd);
	return fd_chardev_start_thread(cd, err);
}

static int open_unix(struct fd_chardev *cd, const char *path, struct err *err)
{
	int ret = unix_listener_open(&cd->listener, path, BACKLOG, err);

	if (ret)
		return ret;
	cd->out_kind = OUT_SOCKET;
	return fd_chardev_start_thread(cd, err);
}

void fd_chardev_free(struct chardev *chardev)
{
	struct fd_chardev *cd = container_of(chardev, struct fd_chardev, base);

	fd_chardev_end_thread(cd);
	if (cd->is_raw && owns_terminal(cd->in_fd))
		tcsetattr(cd->in_fd, TCSANOW, &cd->termios);
	if (cd->listener.fd >= 0 && cd->in_fd >= 0)
		close(cd->in_fd);
	unix_listener_close(&cd->listener);
	if (cd->own_fd >= 0)
		close(cd->own_fd);
	if (cd->wake_fd >= 0)
		close(cd->wake_fd);
	pthread_cond_destroy(&cd->idle);
	lock_fini(&cd->lock);
	free(cd->backlog);
	free(cd);
}

static struct fd_chardev *fd_new(const struct chardev_options *options)
{
	struct fd_chardev *cd = calloc(1, sizeof(*cd));

	if (!cd)
		return NULL;
	cd->base.ops = &fd_chardev_ops;
	cd->options = *options;
	cd->wake_fd = cd->listener.fd = cd->own_fd = -1;
	cd->in_fd = cd->out_fd = -1;
	lock_init(&cd->lock, LOCK_EVENT);
	lock_cond_init(&cd->idle);
	return cd;
}

int chardev_new(const char *spec, const struct chardev_options *options,
		struct chardev **ret_chardev, struct err *err)
{
	struct fd_chardev *cd = fd_new(options);
	int ret;

	if (!cd)
		return err_set(err, -ENOMEM, "no memory");
	if (strcmp(spec, "null") == 0)
		ret = 0;
	else if (strcmp(spec, "stdio") == 0)
		ret = open_stdio(cd, err);
	else if (strncmp(spec, "file:", 5) == 0)
		ret = open_file(cd, spec + 5, err);
	else if (strncmp(spec, "unix:", 5) == 0)
		ret = open_unix(cd, spec + 5, err);
	else
		ret = err_set(err, -EINVAL,
			      "'%s' is none of stdio, unix:PATH, file:PATH, "
			      "null",
			      spec);
	if (ret) {
		err_prefix(err, "%s", options->name ? options->name : "serial");
		fd_chardev_free(&cd->base);
		return ret;
	}
	*ret_chardev = &cd->base;
	return 0;
}

void chardev_free(struct chardev *chardev)
{
	if (chardev)
		chardev->ops->free(chardev);
}

void chardev_attach(struct chardev *chardev,
		    const struct chardev_front_ops *front, void *opaque)
{
	chardev->front = front;
	chardev->front_opaque = opaque;
}

void chardev_start(struct chardev *chardev)
{
	if (chardev->ops->start)
		chardev->ops->start(chardev);
}

void chardev_stop(struct chardev *chardev)
{
	if (chardev->ops->stop)
		chardev->ops->stop(chardev);
}

void chardev_write(struct chardev *chardev, const uint8_t *bytes, size_t size)
{
	chardev->ops->write(chardev, bytes, size);
}

void chardev_wake(struct chardev *chardev)
{
	if (chardev->ops->wake)
		chardev->ops->wake(chardev);
}

size_t chardev_room(struct chardev *chardev)
{
	return chardev->ops->room ? chardev->ops->room(chardev) : SIZE_MAX;
}

uint64_t chardev_dropped(struct chardev *chardev)
{
	return chardev->ops->dropped ? chardev->ops->dropped(chardev) : 0;
}
