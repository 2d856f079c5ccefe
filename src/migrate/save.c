// SPDX-License-Identifier: Apache-2.0
/*
 * Who has the guest is decided by the rename alone: what may fail without harm
 * comes before it, and nothing after it is a failure.
 */
#include "migrate/save.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"

/* Each one means that another save ended in between. */
#define TRIES 10

static int part_name(const char *name, char part[NAME_MAX + 1])
{
	return snprintf(part, NAME_MAX + 1, "%s.part", name) <= NAME_MAX
		       ? 0
		       : -ENAMETOOLONG;
}

static int open_folder(const char *path, const char *name, int *ret_fd)
{
	char folder[PATH_MAX];
	size_t size = (size_t)(name - path);

	if (size >= sizeof(folder))
		return -ENAMETOOLONG;
	memcpy(folder, path, size);
	folder[size] = '\0';
	*ret_fd = open(size ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return *ret_fd < 0 ? -errno : 0;
}

/* Not given its name, nor removed, by who had the lock before. */
static bool is_still_there(int folder_fd, const char *part, int fd)
{
	struct stat ours, there;

	return fstat(fd, &ours) == 0 &&
	       fstatat(folder_fd, part, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
	       ours.st_dev == there.st_dev && ours.st_ino == there.st_ino;
}

/* -EAGAIN: it is not called so any more. */
static int lock_part(int folder_fd, const char *part, int fd, struct err *err)
{
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK
			       ? err_set(err, -EBUSY, "somebody else writes %s",
					 part)
			       : -errno;
	if (!is_still_there(folder_fd, part, fd))
		return -EAGAIN;
	return ftruncate(fd, 0) < 0 ? -errno : 0;
}

static int open_part(int folder_fd, const char *part, int *ret_fd,
		     struct err *err)
{
	int ret = -EAGAIN;

	for (int i = 0; ret == -EAGAIN && i < TRIES; i++) {
		int fd = openat(folder_fd, part,
				O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK |
					O_CLOEXEC,
				0600);

		if (fd < 0)
			return -errno;
		ret = lock_part(folder_fd, part, fd, err);
		if (ret)
			close(fd);
		else
			*ret_fd = fd;
	}
	return ret;
}

int save_open(struct save *save, const char *path, int *ret_fd, struct err *err)
{
	const char *slash = strrchr(path, '/');
	struct save new = { .name = slash ? slash + 1 : path };
	char part[NAME_MAX + 1];
	int ret = *new.name ? part_name(new.name, part) : -EISDIR;

	if (!ret)
		ret = open_folder(path, new.name, &new.folder_fd);
	if (ret)
		return ret;
	ret = open_part(new.folder_fd, part, ret_fd, err);
	if (ret)
		close(new.folder_fd);
	else
		*save = new;
	return ret;
}

int save_commit(struct save *save, struct err *err)
{
	char part[NAME_MAX + 1];
	int ret = part_name(save->name, part);

	if (!ret &&
	    renameat(save->folder_fd, part, save->folder_fd, save->name) < 0)
		ret = -errno;
	if (ret)
		return err_set_errno(err, ret, "naming %s", save->name);
	/* Who opens the file finds it whole: this is no way back. */
	if (fsync(save->folder_fd) < 0 && errno != EINVAL)
		log_warn("%s is saved; its name may be lost when this host "
			 "crashes: %s",
			 save->name, strerror(errno));
	close(save->folder_fd);
	save->name = NULL;
	return 0;
}

void save_drop(struct save *save)
{
	char part[NAME_MAX + 1];

	if (!save->name)
		return;
	if (part_name(save->name, part) == 0)
		unlinkat(save->folder_fd, part, 0);
	close(save->folder_fd);
	save->name = NULL;
}
