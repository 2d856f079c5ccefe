// SPDX-License-Identifier: Apache-2.0
/* A hostile driver of a split virtqueue; see fuzz_vq.h. */
#include "fuzz_vq.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	return fuzz_vq(data, size, 1ull << VIRTIO_F_VERSION_1);
}
