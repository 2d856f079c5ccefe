// SPDX-License-Identifier: Apache-2.0
/* See blk_lock.h. */
#include "virtio/blk_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/err.h"
#include "base/trace.h"

/* All of the file, however long it is or gets. */
static struct flock whole(short type)
{
	return (struct flock){ .l_type = type, .l_whence = SEEK_SET };
}

static int explain(int fd, const char *path, bool is_readonly, struct err *err)
{
	struct flock lock = whole(is_readonly ? F_RDLCK : F_WRLCK);
	const char *advice =
		is_readonly
			? "another process may write to it; stop that one first"
			: "another process uses it; stop that one, or give all "
			  "of them readonly=on";

	/* Only locks of a process (not of a descriptor) tell whose they are. */
	if (fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK &&
	    lock.l_pid > 0)
		return err_set(err, -EBUSY, "%s is locked by process %d: %s",
			       path, (int)lock.l_pid, advice);
	return err_set(err, -EBUSY, "%s is locked: %s", path, advice);
}

int blk_lock_take(int fd, const char *path, bool is_readonly, struct err *err)
{
	struct flock lock = whole(is_readonly ? F_RDLCK : F_WRLCK);

	if (fcntl(fd, F_OFD_SETLK, &lock) < 0) {
		trace(blk_lock, "%s: errno %d", path, errno);
		if (errno == EAGAIN || errno == EACCES)
			return explain(fd, path, is_readonly, err);
		return err_set_errno(
			err, -errno,
			"%s cannot be locked; its file system must "
			"have locks",
			path);
	}
	trace(blk_lock, "%s: %s", path, is_readonly ? "shared" : "exclusive");
	return 0;
}

void blk_lock_drop(int fd)
{
	struct flock lock = whole(F_UNLCK);

	/* Fails for a descriptor that is none only. */
	fcntl(fd, F_OFD_SETLK, &lock);
	trace(blk_unlock, "fd %d", fd);
}
