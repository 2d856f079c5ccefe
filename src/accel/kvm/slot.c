// SPDX-License-Identifier: Apache-2.0
/* One memslot: what KVM is told of it, and where it lies.  slots.c has them all. */
#include <errno.h>
#include <stdint.h>
#include <sys/ioctl.h>

#include "base/trace.h"
#include "kvm_priv.h"
#include "mem/ram.h"

int kv_slot_tell(const struct kv *kv, const struct kv_slot *slot,
		 bool is_logged, uint64_t size)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot->id,
		.flags = (is_logged ? KVM_MEM_LOG_DIRTY_PAGES : 0) |
			 (slot->is_readonly ? KVM_MEM_READONLY : 0),
		.guest_phys_addr = slot->gpa,
		.memory_size = size,
		.userspace_addr =
			(uint64_t)(uintptr_t)(slot->block->host + slot->offset),
	};

	if (kv->vm_fd < 0) /* the VM is gone, and all its slots */
		return 0;
	trace(kvm_slot, "slot %u: gpa 0x%lx size 0x%lx flags 0x%x", slot->id,
	      slot->gpa, size, region.flags);
	if (ioctl(kv->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		return -errno;
	return 0;
}

void kv_slot_mark_dirty(const struct kv_slot *slot)
{
	uint64_t at = slot->offset, end = slot->offset + slot->size, start;

	while (ram_block_next_data(slot->block, at, end, &start, &at))
		ram_block_mark_dirty(slot->block, start, at - start);
}

int kv_slot_order(const struct kv_slot *slot, const struct ram_block *block,
		  uint64_t first, uint64_t count)
{
	uint64_t start = slot->offset >> RAM_PAGE_SHIFT;
	uint64_t end = start + (slot->size >> RAM_PAGE_SHIFT);

	if (slot->block != block)
		return slot->block->index < block->index ? -1 : 1;
	if (end <= first)
		return -1;
	return start >= first + count;
}
