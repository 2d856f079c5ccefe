// SPDX-License-Identifier: Apache-2.0
/*
 * Opening a disk's file or block device: what it is, how large it is, what
 * O_DIRECT wants of it, and who may use it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "virtio/blk_file_priv.h"
#include "virtio/blk_lock.h"

#define SECTOR    512u
#define BLOCK_MAX 4096u /* what every driver can have for a logical block */

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

/* Their page cache is all there is: one host mounts them at a time. */
static bool is_local(const struct blk_file *file)
{
	static const long magics[] = { EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC,
				       BTRFS_SUPER_MAGIC, F2FS_SUPER_MAGIC,
				       TMPFS_MAGIC };
	struct statfs fs;

	if (fstatfs(file->fd, &fs) < 0)
		return false;
	for (unsigned int i = 0; i < array_size(magics); i++) {
		if ((long)fs.f_type == magics[i])
			return true;
	}
	return false;
}

static int open_error(const struct blk_where *where, int code, struct err *err)
{
	switch (code) {
	case -ENOENT:
		return err_set(err, code,
			       "%s does not exist; make it with "
			       "'truncate -s SIZE %s'",
			       where->path, where->path);
	case -EROFS:
	case -EACCES:
	case -EPERM:
		if (!where->is_readonly && access(where->path, R_OK) == 0)
			return err_set(err, code,
				       "%s may be read, but not written; give "
				       "readonly=on, or its permission",
				       where->path);
		return err_set(err, code,
			       "%s may not be opened by this user; change its "
			       "owner or permissions",
			       where->path);
	case -EISDIR:
		return err_set(err, code,
			       "%s is a directory; name an image in it",
			       where->path);
	case -EINVAL:
		if (where->is_direct)
			return err_set(err, code,
				       "%s: its file system has no direct I/O; "
				       "leave direct=on away",
				       where->path);
		break;
	}
	return err_set_errno(err, code, "%s", where->path);
}

static int open_fd(const struct blk_where *where, struct err *err)
{
	int flags = O_CLOEXEC | O_NOCTTY |
		    (where->is_readonly ? O_RDONLY : O_RDWR) |
		    (where->is_direct ? O_DIRECT : 0);
	struct stat st;
	int fd;

	/* A pipe would be opened, and a directory read-only. */
	if (stat(where->path, &st) < 0)
		return open_error(where, -errno, err);
	if (S_ISDIR(st.st_mode))
		return open_error(where, -EISDIR, err);
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return err_set(err, -EINVAL,
			       "%s is neither a file nor a block device",
			       where->path);
	fd = open(where->path, flags);
	return fd < 0 ? open_error(where, -errno, err) : fd;
}

static int find_size(struct blk_file *file, bool is_block, struct err *err)
{
	uint64_t *size = &file->base.info.size;
	struct stat st;

	if (is_block && ioctl(file->fd, BLKGETSIZE64, size) < 0)
		return err_set_errno(err, -errno, "%s: its size", file->path);
	if (!is_block && fstat(file->fd, &st) < 0)
		return err_set_errno(err, -errno, "%s: its size", file->path);
	if (!is_block)
		*size = (uint64_t)st.st_size;
	if (*size == 0)
		return err_set(err, -EINVAL,
			       "%s is empty; give it a size with "
			       "'truncate -s SIZE %s'",
			       file->path, file->path);
	if (*size % file->base.info.block_size)
		return err_set(
			err, -EINVAL,
			"%s has %llu bytes, no multiple of %u; extend it "
			"with 'truncate -s %%%u %s'",
			file->path, (unsigned long long)*size,
			file->base.info.block_size, file->base.info.block_size,
			file->path);
	return 0;
}

/* Whether a direct read of @size bytes works; probing is all that is left where
 * the kernel does not tell. */
static bool can_read(const struct blk_file *file, size_t size)
{
	void *buf = NULL;
	bool can;

	if (posix_memalign(&buf, BLOCK_MAX, BLOCK_MAX))
		return false;
	can = pread(file->fd, buf, size, 0) >= 0;
	free(buf);
	return can;
}

static int find_alignment(struct blk_file *file, struct err *err)
{
	uint32_t offset_align = 0;

	file->memory_align = 1;
	file->base.info.block_size = SECTOR;
	if (!file->is_direct)
		return 0;
	file->memory_align = BLOCK_MAX;
#ifdef STATX_DIOALIGN
	struct statx st;

	if (statx(file->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &st) == 0 &&
	    (st.stx_mask & STATX_DIOALIGN) && st.stx_dio_mem_align > 0) {
		file->memory_align = st.stx_dio_mem_align;
		offset_align = st.stx_dio_offset_align;
	}
#endif
	if (offset_align == 0)
		offset_align = can_read(file, SECTOR) ? SECTOR : BLOCK_MAX;
	if (offset_align > BLOCK_MAX || file->memory_align > BLOCK_MAX)
		return err_set(err, -EINVAL,
			       "%s: direct I/O there is in blocks of %u bytes, "
			       "at most %u; leave direct=on away",
			       file->path, offset_align, BLOCK_MAX);
	if (offset_align > SECTOR)
		file->base.info.block_size = offset_align;
	return 0;
}

/* io_uring holds on to a file for a while after the process has ended, and with it
 * to its locks: those are on a description of their own. */
static int open_lock_fd(struct blk_file *file, struct err *err)
{
	char same[32];

	snprintf(same, sizeof(same), "/proc/self/fd/%d", file->fd);
	file->lock_fd =
		open(same, (file->base.info.is_readonly ? O_RDONLY : O_RDWR) |
				   O_CLOEXEC);
	return file->lock_fd < 0
		       ? err_set_errno(err, -errno, "%s, again for its lock",
				       file->path)
		       : 0;
}

static int examine(struct blk_file *file, struct err *err)
{
	struct stat st;
	bool is_block;
	int ret;

	if (fstat(file->fd, &st) < 0)
		return err_set_errno(err, -errno, "%s", file->path);
	is_block = S_ISBLK(st.st_mode);
	ret = find_alignment(file, err);
	if (ret)
		return ret;
	ret = find_size(file, is_block, err);
	if (ret)
		return ret;
	/* A block device may be another host's too. */
	file->may_be_stale = !file->is_direct && (is_block || !is_local(file));
	file->base.info.needs_flush_to_share = file->may_be_stale;
	return 0;
}

int blk_file_open(const struct blk_where *where,
		  struct blk_backend **ret_backend, struct err *err)
{
	struct blk_file *file = calloc(1, sizeof(*file));
	int ret = -ENOMEM;

	if (!file)
		return err_set(err, -ENOMEM, "%s: no memory", where->path);
	file->base.ops = &blk_file_ops;
	file->base.info.is_readonly = where->is_readonly;
	file->base.info.is_poll_cheap = true;
	file->is_direct = where->is_direct;
	file->has_unmap = file->has_zero_range = true;
	file->event_fd = file->fd = file->lock_fd = -1;
	list_init(&file->waiting);
	file->path = strdup(where->path);
	if (!file->path || blk_bounce_init(&file->bounce, where->is_direct)) {
		err_set(err, -ENOMEM, "%s: no memory", where->path);
		goto out;
	}
	file->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (file->event_fd < 0) {
		ret = err_set_errno(err, -errno, "%s: eventfd", where->path);
		goto out;
	}
	ret = open_fd(where, err);
	if (ret < 0)
		goto out;
	file->fd = ret;
	ret = open_lock_fd(file, err);
	if (ret == 0)
		ret = examine(file, err);
out:
	if (ret) {
		blk_file_free(&file->base);
		return ret;
	}
	*ret_backend = &file->base;
	return 0;
}

int blk_file_claim(struct blk_backend *backend, struct err *err)
{
	struct blk_file *file = container_of(backend, struct blk_file, base);
	int ret = blk_lock_take(file->lock_fd, file->path,
				backend->info.is_readonly, err);

	/* What this host read while another one was writing. */
	if (ret == 0 && file->may_be_stale)
		posix_fadvise(file->fd, 0, 0, POSIX_FADV_DONTNEED);
	return ret;
}

void blk_file_disclaim(struct blk_backend *backend)
{
	blk_lock_drop(container_of(backend, struct blk_file, base)->lock_fd);
}

void blk_file_free(struct blk_backend *backend)
{
	struct blk_file *file = container_of(backend, struct blk_file, base);

	blk_bounce_fini(&file->bounce);
	if (file->event_fd >= 0)
		close(file->event_fd);
	if (file->fd >= 0)
		close(file->fd);
	if (file->lock_fd >= 0)
		close(file->lock_fd);
	free(file->path);
	free(file);
}
