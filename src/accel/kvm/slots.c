// SPDX-License-Identifier: Apache-2.0
/*
 * Memslots: a listener of the machine's memory.  Each RAM range of the flat view
 * becomes memslots of at most kv->slot_size, cut where the guest-physical address
 * is a multiple of it.  The cut is private to accel/kvm.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/err.h"
#include "base/trace.h"
#include "kvm_priv.h"
#include "mem/ram.h"

static int slot_id_take(struct kv *kv, uint32_t *ret_id)
{
	uint8_t *free_id = memchr(kv->slot_ids, 0, kv->slot_max);

	if (!free_id)
		return -ENOSPC;
	*free_id = 1;
	*ret_id = (uint32_t)(free_id - kv->slot_ids);
	return 0;
}

/* Keep kv->slots sorted by block and offset. */
static void slot_insert(struct kv *kv, struct kv_slot *slot)
{
	struct kv_slot *other;

	kv->cleared.link = NULL;
	list_for_each_reverse(other, &kv->slots, link)
	{
		if (other->block->index < slot->block->index ||
		    (other->block == slot->block &&
		     other->offset <= slot->offset))
			break;
	}
	list_add_before(other->link.next, &slot->link);
}

/* While the machine is built, it fails for it.  Later the guest goes on without
 * the slot: its accesses leave for mem/access.h, which finds the memory. */
static void slot_failed(struct kv *kv, int code, uint64_t gpa)
{
	err_set_errno(&kv->slot_err, code, "guest memory at 0x%lx", gpa);
	trace(kvm_slot_failed, "gpa 0x%lx: %s", gpa, strerror(-code));
}

static void slot_add(struct kv *kv, const struct mem_range *range, uint64_t gpa,
		     uint64_t size)
{
	struct kv_slot *slot = calloc(1, sizeof(*slot));
	int ret;

	if (!slot || slot_id_take(kv, &slot->id)) {
		slot_failed(kv, -ENOSPC, gpa);
		free(slot);
		return;
	}
	slot->gpa = gpa;
	slot->size = size;
	slot->block = mem_region_block(range->region);
	slot->offset = range->offset + (gpa - range->gpa);
	slot->is_readonly = range->is_readonly;
	list_init(&slot->stop_link);
	/* Its pages may be known, and sent, from a slot that was here before:
	 * watched from the start, and all asked once (INITIALLY_SET). */
	slot->is_logged = kv->is_logging;
	slot->is_watched = kv->is_logging;
	kv_ring_slot_add(kv, slot);
	ret = kv_slot_tell(kv, slot, slot->is_logged, size);
	if (ret) {
		slot_failed(kv, ret, gpa);
		kv_ring_slot_del(kv, slot);
		kv->slot_ids[slot->id] = 0;
		free(slot);
		return;
	}
	slot_insert(kv, slot);
}

/* The page-aligned part of a RAM range; false when there is none. */
static bool ram_part(const struct mem_range *range, uint64_t *ret_start,
		     uint64_t *ret_end)
{
	u128 end = (u128)range->gpa + range->size;

	if (!mem_region_is_ram(range->region) || end > UINT64_MAX)
		return false;
	*ret_start = (range->gpa + RAM_PAGE_SIZE - 1) & ~(RAM_PAGE_SIZE - 1);
	*ret_end = (uint64_t)end & ~(RAM_PAGE_SIZE - 1);
	return *ret_start < *ret_end;
}

static void kv_region_add(void *opaque, const struct mem_section *section)
{
	struct kv *kv = opaque;
	uint64_t at, end;

	if (!ram_part(&section->range, &at, &end))
		return;
	while (at < end) {
		uint64_t cut = (at & ~(kv->slot_size - 1)) + kv->slot_size;
		uint64_t stop = cut < end ? cut : end;

		slot_add(kv, &section->range, at, stop - at);
		at = stop;
	}
}

static bool slot_is_wanted(const struct kv *kv, const struct kv_slot *slot)
{
	return kv->is_logging || slot->is_region_log;
}

/* D5: vCPUs write until KVM has taken the slot away, so all of a logged one
 * becomes dirty, and after that.  One that is logged only because nobody has
 * turned it off yet has no reader. */
static void slot_del(struct kv *kv, struct kv_slot *slot)
{
	kv_log_stop_take(kv, slot);
	kv_slot_tell(kv, slot, false, 0);
	kv_ring_slot_del(kv, slot);
	if (slot_is_wanted(kv, slot))
		kv_slot_mark_dirty(slot);
	kv->slot_ids[slot->id] = 0;
	kv->cleared.link = NULL;
	list_del(&slot->link);
	free(slot);
}

static void kv_region_del(void *opaque, const struct mem_section *section)
{
	struct kv *kv = opaque;
	struct kv_slot *slot, *next;
	uint64_t start, end;

	if (!ram_part(&section->range, &start, &end))
		return;
	list_for_each_safe (slot, next, &kv->slots, link) {
		if (slot->gpa < start || slot->gpa >= end)
			continue;
		slot_del(kv, slot);
	}
}

static int slot_set_log(struct kv *kv, struct kv_slot *slot, bool is_logged)
{
	int ret;

	kv_log_stop_take(kv, slot);
	if (slot->is_logged == is_logged)
		return 0;
	ret = kv_slot_tell(kv, slot, is_logged, slot->size);
	if (!ret)
		slot->is_logged = is_logged;
	return ret;
}

static void kv_log_global_stop(void *opaque, uint64_t grace_ns)
{
	struct kv *kv = opaque;

	kv->is_logging = false;
	kv_ring_stop(kv);
	kv_log_stop_later(kv, grace_ns);
}

/* Each memslot waits for slot_watch(): turning one on takes 10 us to 4 ms (KVM
 * waits for its own readers, who need a CPU), and there may be thousands. */
static int kv_log_global_start(void *opaque, struct err *err)
{
	struct kv *kv = opaque;
	struct kv_slot *slot;
	int ret = kv_ring_start(kv, err);

	if (ret)
		return ret;
	kv->is_logging = true;
	kv_log_stop_call_off(kv);
	list_for_each (slot, &kv->slots, link)
		slot->is_watched = false;
	return 0;
}

/* From here on writes to the slot are found.  Called before its first page is
 * read (D1): until then all that is resident in it is unsent, whoever wrote it.
 * It may be logged from before: a page that is not dirty in KVM is protected
 * then, and one that is will be cleared, or is forgotten here.  One of which that is
 * in doubt is turned off first: KVM then protects all of it. */
static int slot_watch(struct kv *kv, struct kv_slot *slot, struct err *err)
{
	bool was_doubtful = __atomic_exchange_n(&slot->is_doubtful, false,
						__ATOMIC_RELAXED);
	int ret = 0;

	kv_log_stop_take(kv, slot);
	if (slot->is_logged && !kv->ring) /* which the first sync emptied */
		kv_bitmap_forget(kv, slot);
	if (was_doubtful)
		ret = slot_set_log(kv, slot, false);
	if (!ret)
		ret = slot_set_log(kv, slot, true);
	if (ret && was_doubtful)
		__atomic_store_n(&slot->is_doubtful, true, __ATOMIC_RELAXED);
	if (ret)
		return err_set_errno(err, ret,
				     "cannot log writes to memory at 0x%lx",
				     slot->gpa);
	slot->is_watched = true;
	return 0;
}

static void section_set_log(struct kv *kv, const struct mem_section *section,
			    bool is_logged)
{
	struct kv_slot *slot;
	uint64_t start, end;

	if (!ram_part(&section->range, &start, &end))
		return;
	list_for_each (slot, &kv->slots, link) {
		if (slot->gpa < start || slot->gpa >= end)
			continue;
		slot->is_region_log = is_logged;
		if (is_logged || !kv->is_logging)
			slot_set_log(kv, slot, is_logged);
	}
}

static void kv_log_start(void *opaque, const struct mem_section *section)
{
	section_set_log(opaque, section, true);
}

static void kv_log_stop(void *opaque, const struct mem_section *section)
{
	section_set_log(opaque, section, false);
}

static void kv_log_sync_all(void *opaque, bool is_last)
{
	struct kv *kv = opaque;
	struct kv_slot *slot;

	if (kv->ring) {
		kv_ring_sync(kv, is_last);
		return;
	}
	list_for_each (slot, &kv->slots, link) {
		if (slot->is_watched && slot_is_wanted(kv, slot))
			kv_bitmap_harvest(kv, slot);
	}
}

/* In kv->slots: behind all that end before page @first of @block.  The windows of a
 * pass come in order, a thousand for each of what may be thousands of memslots, so
 * that the walk begins where the last one ended. */
static struct list *seek(struct kv *kv, const struct ram_block *block,
			 uint64_t first)
{
	struct list *at = kv->cleared.link;

	if (!at || block->index < kv->cleared.block ||
	    (block->index == kv->cleared.block && first < kv->cleared.first))
		at = kv->slots.next;
	while (at != &kv->slots &&
	       kv_slot_order(list_entry(at, struct kv_slot, link), block, first,
			     1) < 0)
		at = at->next;
	kv->cleared.link = at;
	kv->cleared.block = block->index;
	kv->cleared.first = first;
	return at;
}

/* Pages [first, first + count) of its block, as far as they are in it. */
static int slot_clear(struct kv *kv, struct kv_slot *slot, uint64_t first,
		      uint64_t count, const uint64_t *bits, struct err *err)
{
	uint64_t start = slot->offset >> RAM_PAGE_SHIFT;
	uint64_t end = start + (slot->size >> RAM_PAGE_SHIFT);
	int ret = 0;

	if (!slot->is_watched)
		ret = slot_watch(kv, slot, err);
	if (ret || kv->ring) /* whose reset did it */
		return ret;
	if (start < first)
		start = first;
	if (end > first + count)
		end = first + count;
	kv_bitmap_clear(kv, slot, start, end, bits, first);
	return 0;
}

static int kv_log_clear(void *opaque, struct ram_block *block, uint64_t first,
			uint64_t count, const uint64_t *bits, struct err *err)
{
	struct kv *kv = opaque;
	int ret = 0;

	for (struct list *at = seek(kv, block, first); !ret && at != &kv->slots;
	     at = at->next) {
		struct kv_slot *slot = list_entry(at, struct kv_slot, link);
		int order = kv_slot_order(slot, block, first, count);

		if (order > 0)
			break;
		/* Before it all the same, where memory is mapped twice. */
		if (order == 0 && slot_is_wanted(kv, slot))
			ret = slot_clear(kv, slot, first, count, bits, err);
	}
	return ret;
}

static int eventfd_tell(struct kv *kv, const struct mem_section *section,
			const struct mem_eventfd *event, uint32_t flags)
{
	struct kvm_ioeventfd io = {
		.datamatch = event->has_value ? event->value : 0,
		.addr = section->range.gpa +
			(event->offset - section->range.offset),
		.len = event->size,
		.fd = event->fd,
		.flags =
			flags |
			(event->has_value ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0) |
			(section->as == kv->ports ? KVM_IOEVENTFD_FLAG_PIO : 0),
	};

	if (kv->vm_fd < 0) /* the VM is gone, and all its eventfds */
		return 0;
	__atomic_fetch_add(&kv->ioeventfd_calls, 1, __ATOMIC_RELAXED);
	return ioctl(kv->vm_fd, KVM_IOEVENTFD, &io) < 0 ? -errno : 0;
}

static void kv_eventfd_add(void *opaque, const struct mem_section *section,
			   const struct mem_eventfd *event)
{
	int ret = eventfd_tell(opaque, section, event, 0);

	/* The write then reaches the device, which signals for itself. */
	if (ret)
		trace(kvm_eventfd_failed, "0x%lx: %s", section->range.gpa,
		      strerror(-ret));
}

static void kv_eventfd_del(void *opaque, const struct mem_section *section,
			   const struct mem_eventfd *event)
{
	eventfd_tell(opaque, section, event, KVM_IOEVENTFD_FLAG_DEASSIGN);
}

static const struct mem_listener_ops memory_ops = {
	.region_add = kv_region_add,
	.region_del = kv_region_del,
	.log_start = kv_log_start,
	.log_stop = kv_log_stop,
	.log_global_start = kv_log_global_start,
	.log_global_stop = kv_log_global_stop,
	.log_sync_all = kv_log_sync_all,
	.log_clear = kv_log_clear,
	.eventfd_add = kv_eventfd_add,
	.eventfd_del = kv_eventfd_del,
};

static const struct mem_listener_ops port_ops = {
	.eventfd_add = kv_eventfd_add,
	.eventfd_del = kv_eventfd_del,
};

/* Half of them at most: what devices put into the guest's memory splits it. */
void kv_slots_choose_size(struct kv *kv)
{
	const struct mem_range *range;
	u128 total = 0;

	rcu_read_lock();
	flat_view_for_each(range, addr_space_view(kv->memory))
	{
		if (mem_region_is_ram(range->region))
			total += range->size;
	}
	rcu_read_unlock();
	kv->slot_size = KV_SLOT_SIZE_MIN;
	while (kv->slot_size < KV_SLOT_SIZE_MAX &&
	       total / kv->slot_size > kv->slot_max / 2)
		kv->slot_size *= 2;
}

int kv_slots_init(struct kv *kv, struct err *err)
{
	int ret;

	list_init(&kv->slots);
	kv->slot_ids = calloc(kv->slot_max, 1);
	if (!kv->slot_ids)
		return err_set(err, -ENOMEM, "no memory for memslots");
	ret = mem_listener_add(kv->memory, &kv->listener, &memory_ops, kv, 10);
	if (!ret) {
		ret = mem_listener_add(kv->ports, &kv->port_listener, &port_ops,
				       kv, 10);
		if (ret)
			mem_listener_del(&kv->listener);
	}
	if (ret)
		return err_set_errno(err, ret, "listening to memory changes");
	kv->has_listeners = true;
	return kv->slot_err.code ? err_set(err, kv->slot_err.code, "%s",
					   err_msg(&kv->slot_err))
				 : 0;
}

void kv_slots_fini(struct kv *kv)
{
	if (kv->has_listeners) {
		mem_listener_del(&kv->port_listener);
		mem_listener_del(&kv->listener);
	}
	free(kv->slot_ids);
}
