/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lock of a disk image: one writer, or any number of readers, among all
 * processes on all hosts that see the file.
 *
 * It is an open file description lock (fcntl(2), F_OFD_SETLK) on the whole file,
 * so that two machines in one process exclude each other too, and a lock does not
 * vanish because some other descriptor of the file was closed.  It conflicts with
 * the locks that QEMU keeps on bytes of its images.
 */
#ifndef GODWIT_VIRTIO_BLK_LOCK_H
#define GODWIT_VIRTIO_BLK_LOCK_H

#include <stdbool.h>

struct err;

/* -EBUSY: somebody else has it.  Taking one that is held already succeeds. */
int blk_lock_take(int fd, const char *path, bool is_readonly, struct err *err);
void blk_lock_drop(int fd);

#endif
