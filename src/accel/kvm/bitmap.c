// SPDX-License-Identifier: Apache-2.0
/*
 * The dirty bitmap of a memslot (ARCHITECTURE, "Dirty pages"), called by slots.c.
 *
 * With manual protect and INITIALLY_SET, turning logging on costs nothing: all
 * bits start set and nothing is write-protected.  A bit means "written" only
 * after kv_bitmap_clear() has cleared it; so a slot none of whose pages was ever
 * cleared is not even asked, and of the others only pages known to the migration
 * count (ram_block.known).  Clearing protects the pages again and is done just
 * before they are read (D1).  Without manual protect, KVM_GET_DIRTY_LOG itself
 * protects what it reports, which is before the read as well.
 */
#include "base/bitmap.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/trace.h"
#include "kvm_priv.h"
#include "mem/ram.h"

/* A slot's bitmap and a word for bits shifted past its end. */
static uint64_t harvest_bits(const struct kv *kv)
{
	return (kv->slot_size >> RAM_PAGE_SHIFT) + BITMAP_WORD_BITS;
}

static void enable_manual_protect(struct kv *kv)
{
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		.args = { KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE |
			  KVM_DIRTY_LOG_INITIALLY_SET },
	};
	int can = ioctl(kv->vm_fd, KVM_CHECK_EXTENSION, cap.cap);

	if (can > 0 && ((uint64_t)can & cap.args[0]) == cap.args[0] &&
	    ioctl(kv->vm_fd, KVM_ENABLE_CAP, &cap) == 0)
		kv->has_manual_protect = true;
}

int kv_bitmap_init(struct kv *kv, bool use_plain_log, struct err *err)
{
	kv->harvest = bitmap_new(harvest_bits(kv));
	if (!kv->harvest)
		return err_set(err, -ENOMEM, "no memory for dirty bitmaps");
	if (!use_plain_log)
		enable_manual_protect(kv);
	return 0;
}

void kv_bitmap_fini(struct kv *kv)
{
	bitmap_free(kv->harvest, harvest_bits(kv));
}

/* Into kv->harvest.  False: it could not be read. */
static bool fetch(struct kv *kv, const struct kv_slot *slot)
{
	struct kvm_dirty_log log = {
		.slot = slot->id,
		.dirty_bitmap = kv->harvest,
	};

	if (ioctl(kv->vm_fd, KVM_GET_DIRTY_LOG, &log) == 0)
		return true;
	/* Nothing lost: the whole slot is sent again. */
	trace(kvm_log_failed, "slot %u: %s", slot->id, strerror(errno));
	kv_slot_mark_dirty(slot);
	return false;
}

void kv_bitmap_forget(struct kv *kv, const struct kv_slot *slot)
{
	if (!kv->has_manual_protect)
		fetch(kv, slot);
}

void kv_bitmap_harvest(struct kv *kv, struct kv_slot *slot)
{
	if (fetch(kv, slot))
		ram_block_mark_log(slot->block, slot->offset >> RAM_PAGE_SHIFT,
				   kv->harvest, slot->size >> RAM_PAGE_SHIFT);
}

/* KVM wants first_page and num_pages to be multiples of 64, the latter unless it
 * reaches the end of the slot. */
void kv_bitmap_clear(struct kv *kv, struct kv_slot *slot, uint64_t from,
		     uint64_t to, const uint64_t *bits, uint64_t bits_first)
{
	uint64_t slot_first = slot->offset >> RAM_PAGE_SHIFT;
	uint64_t slot_pages = slot->size >> RAM_PAGE_SHIFT;
	uint64_t first = align_down(from - slot_first, 64);
	uint64_t last = align_up(to - slot_first, 64);
	struct kvm_clear_dirty_log clear = {
		.slot = slot->id,
		.first_page = first,
		.dirty_bitmap = kv->harvest,
	};

	if (!kv->has_manual_protect) /* KVM_GET_DIRTY_LOG did */
		return;
	if (last > slot_pages)
		last = slot_pages;
	clear.num_pages = (uint32_t)(last - first);
	memset(kv->harvest, 0, bitmap_words(last - first) * sizeof(uint64_t));
	for (uint64_t w = (from - bits_first) / BITMAP_WORD_BITS;
	     w < bitmap_words(to - bits_first); w++) {
		uint64_t v = bits[w] & bitmap_word_mask(w, from - bits_first,
							to - bits_first);
		/* where bit 0 of v goes; below 0 only for bits masked out */
		int64_t at = (int64_t)(bits_first + w * BITMAP_WORD_BITS) -
			     (int64_t)(slot_first + first);

		if (at < 0) {
			kv->harvest[0] |= v >> -at;
			continue;
		}
		kv->harvest[at / 64] |= v << at % 64;
		if (at % 64)
			kv->harvest[at / 64 + 1] |= v >> (64 - at % 64);
	}
	/* Nothing lost either: bits that stay set are reported again. */
	if (ioctl(kv->vm_fd, KVM_CLEAR_DIRTY_LOG, &clear) < 0)
		trace(kvm_clear_failed, "slot %u: %s", slot->id,
		      strerror(errno));
}
