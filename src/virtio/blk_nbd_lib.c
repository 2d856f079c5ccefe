// SPDX-License-Identifier: Apache-2.0
/* Finds libnbd and its functions. */
#include "virtio/blk_nbd_lib.h"

#include <dlfcn.h>
#include <errno.h>

#include "base/err.h"

#define SONAME "libnbd.so.0"

static int not_there(struct err *err)
{
	return err_set(err, -ENOENT,
		       "NBD disks need libnbd (Debian: libnbd0): %s",
		       dlerror());
}

int blk_nbd_lib_load(struct blk_nbd_lib *lib, struct err *err)
{
	/* What it brings along does not like to be unloaded. */
	void *handle = dlopen(SONAME, RTLD_NOW | RTLD_NODELETE);

	if (!handle)
		return not_there(err);
#define X(name)                                                                \
	lib->name =                                                            \
		(__typeof__(lib->name))(uintptr_t)dlsym(handle, "nbd_" #name); \
	if (!lib->name)                                                        \
		return not_there(err);
	BLK_NBD_FUNCTIONS(X)
#undef X
	return 0;
}
