/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libnbd, loaded when the first NBD disk is opened.  It brings GnuTLS, libxml2 and ICU
 * with it, which would cost every start of a machine 5 ms and 4 MiB of private memory.
 */
#ifndef GODWIT_VIRTIO_BLK_NBD_LIB_H
#define GODWIT_VIRTIO_BLK_NBD_LIB_H

#include <libnbd.h>

struct err;

#define BLK_NBD_FUNCTIONS(X)    \
	X(create)               \
	X(close)                \
	X(get_error)            \
	X(poll)                 \
	X(set_pread_initialize) \
	X(get_block_size)       \
	X(get_size)             \
	X(is_read_only)         \
	X(can_flush)            \
	X(can_fua)              \
	X(can_trim)             \
	X(can_zero)             \
	X(can_multi_conn)       \
	X(aio_connect_uri)      \
	X(aio_disconnect)       \
	X(aio_is_connecting)    \
	X(aio_is_ready)         \
	X(aio_is_dead)          \
	X(aio_is_closed)        \
	X(aio_get_fd)           \
	X(aio_get_direction)    \
	X(aio_pread)            \
	X(aio_pwrite)           \
	X(aio_flush)            \
	X(aio_trim)             \
	X(aio_zero)

/* Each as nbd_NAME() in libnbd(3). */
struct blk_nbd_lib {
#define X(name) __typeof__(nbd_##name) *name;
	BLK_NBD_FUNCTIONS(X)
#undef X
};

/* It stays loaded.  -ENOENT: there is none that has all of it. */
int blk_nbd_lib_load(struct blk_nbd_lib *lib, struct err *err);

#endif
