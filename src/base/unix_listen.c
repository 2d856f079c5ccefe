// SPDX-License-Identifier: Apache-2.0
/*
 * What is stale is found by connecting to it, which disturbs a live listener by
 * one client that leaves at once.
 */
#include "base/unix_listen.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"

int unix_address(struct sockaddr_un *ret_addr, const char *path,
		 struct err *err)
{
	size_t size = strlen(path);

	if (size == 0)
		return err_set(err, -EINVAL, "the socket's path is empty");
	if (size >= sizeof(ret_addr->sun_path))
		return err_set(err, -ENAMETOOLONG,
			       "%s: a path of %zu bytes, at most %zu for a "
			       "UNIX socket",
			       path, size, sizeof(ret_addr->sun_path) - 1);
	*ret_addr = (struct sockaddr_un){ .sun_family = AF_UNIX };
	memcpy(ret_addr->sun_path, path, size + 1);
	return 0;
}

static int new_socket(struct err *err)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	return fd < 0 ? err_set_errno(err, -errno, "socket") : fd;
}

/* 0 when the file at @addr was a socket without a listener and is gone. */
static int remove_stale(const struct sockaddr_un *addr, struct err *err)
{
	struct stat st;
	int fd, ret;

	if (lstat(addr->sun_path, &st) < 0)
		return errno == ENOENT ? 0
				       : err_set_errno(err, -errno, "lstat");
	if (!S_ISSOCK(st.st_mode))
		return err_set(err, -EEXIST,
			       "the file exists, and is no socket");
	fd = new_socket(err);
	if (fd < 0)
		return fd;
	ret = connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0
		      ? -errno
		      : 0;
	close(fd);
	/* EAGAIN: somebody listens, and is slow to accept. */
	if (ret == 0 || ret == -EAGAIN)
		return err_set(err, -EADDRINUSE,
			       "another process listens there");
	if (ret != -ECONNREFUSED)
		return err_set_errno(err, ret, "connect");
	if (unlink(addr->sun_path) < 0 && errno != ENOENT)
		return err_set_errno(err, -errno, "unlink");
	return 0;
}

static int bind_path(int fd, const struct sockaddr_un *addr, struct err *err)
{
	int ret;

	if (bind(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0)
		return 0;
	if (errno != EADDRINUSE)
		return err_set_errno(err, -errno, "bind");
	ret = remove_stale(addr, err);
	if (ret)
		return ret;
	if (bind(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0)
		return err_set_errno(err, -errno, "bind");
	return 0;
}

int unix_listener_open(struct unix_listener *listener, const char *path,
		       int backlog, struct err *err)
{
	struct stat st;
	int ret;

	*listener = (struct unix_listener)UNIX_LISTENER_INIT;
	ret = unix_address(&listener->addr, path, err);
	if (ret)
		return ret;
	ret = new_socket(err);
	if (ret < 0)
		goto out;
	listener->fd = ret;
	/* Linux gives the file the socket inode's mode, less the umask. */
	fchmod(listener->fd, 0600);
	ret = bind_path(listener->fd, &listener->addr, err);
	if (ret)
		goto out;
	if (lstat(path, &st) == 0) {
		listener->dev = st.st_dev;
		listener->ino = st.st_ino;
	}
	if (listen(listener->fd, backlog) < 0)
		ret = err_set_errno(err, -errno, "listen");
out:
	if (ret) {
		err_prefix(err, "%s", path);
		unix_listener_close(listener);
	}
	return ret;
}

void unix_listener_close(struct unix_listener *listener)
{
	struct stat st;

	if (listener->fd < 0)
		return;
	if (lstat(listener->addr.sun_path, &st) == 0 && listener->ino &&
	    st.st_dev == listener->dev && st.st_ino == listener->ino)
		unlink(listener->addr.sun_path);
	close(listener->fd);
	*listener = (struct unix_listener)UNIX_LISTENER_INIT;
}
