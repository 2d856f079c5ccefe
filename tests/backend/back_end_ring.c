// SPDX-License-Identifier: Apache-2.0
/*
 * Requests: from the available ring to the disk image to the used ring, with the
 * record of what is in flight and the dirty log.  Guest memory is trusted here.
 *
 * Source: virtio 1.2, 2.7 and 5.2; "inflight" in the vhost-user specification.
 */
#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "back_end.h"

/* The record of one queue. */
struct record_entry {
	uint8_t is_in_flight;
	uint8_t padding[5];
	uint16_t next;
	uint64_t counter;
};

struct record {
	uint64_t features;
	uint16_t version, size, last_batch_head, used_idx;
	struct record_entry entries[];
};

static uint64_t record_size(unsigned int size)
{
	uint64_t bytes =
		sizeof(struct record) + size * sizeof(struct record_entry);

	return (bytes + 63) / 64 * 64;
}

uint64_t be_inflight_size(unsigned int queues, unsigned int size)
{
	return queues * record_size(size);
}

static struct record *record_of(struct back_end *be, unsigned int index)
{
	return be->inflight
		       ? (struct record *)(be->inflight +
					   index * record_size(
							   be->inflight_at
								   .queue_size))
		       : NULL;
}

struct request {
	uint16_t head;
	struct vring_desc chain[64];
	unsigned int count;
};

static bool read_chain(struct back_end *be, const struct be_ring *ring,
		       struct request *request)
{
	struct vring_desc *table =
		be_hva(be, ring->addr.desc, 16ull * ring->size);
	unsigned int at = request->head, size = ring->size;

	if (table && at < size && table[at].flags & VRING_DESC_F_INDIRECT) {
		size = table[at].len / 16;
		table = be_gpa(be, table[at].addr, table[at].len);
		at = 0;
	}
	request->count = 0;
	while (table && at < size && request->count < 64) {
		request->chain[request->count++] = table[at];
		if (!(table[at].flags & VRING_DESC_F_NEXT))
			return request->count >= 2;
		at = table[at].next;
	}
	return false;
}

static bool move_data(struct back_end *be, const struct request *request,
		      bool is_write, uint64_t sector, uint32_t *written)
{
	off_t at = (off_t)(sector * BE_SECTOR);

	for (unsigned int i = 1; i + 1 < request->count; i++) {
		const struct vring_desc *part = &request->chain[i];
		void *bytes = be_gpa(be, part->addr, part->len);
		ssize_t done;

		if (!bytes)
			return false;
		done = is_write ? pwrite(be->image_fd, bytes, part->len, at)
				: pread(be->image_fd, bytes, part->len, at);
		if (done != (ssize_t)part->len)
			return false;
		if (!is_write) {
			be_log_write(be, part->addr, part->len);
			*written += part->len;
		}
		at += part->len;
	}
	return true;
}

static void count(unsigned int *counter)
{
	__atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

/* How many bytes were written into guest memory. */
static uint32_t do_request(struct back_end *be, const struct request *request)
{
	struct virtio_blk_outhdr *head = be_gpa(be, request->chain[0].addr, 16);
	const struct vring_desc *end = &request->chain[request->count - 1];
	uint8_t *status = be_gpa(be, end->addr, 1);
	uint8_t value = VIRTIO_BLK_S_UNSUPP;
	uint32_t written = 1;

	if (!head || !status)
		return 0;
	if (head->type == VIRTIO_BLK_T_IN) {
		count(&be->counts.reads);
		value = move_data(be, request, false, head->sector, &written)
				? VIRTIO_BLK_S_OK
				: VIRTIO_BLK_S_IOERR;
	} else if (head->type == VIRTIO_BLK_T_OUT) {
		count(&be->counts.writes);
		if (be->counts.writes == be->options.die_at)
			be_die(be, BE_DIES_TAKEN);
		if (be->is_failed)
			return 0;
		value = move_data(be, request, true, head->sector, &written)
				? VIRTIO_BLK_S_OK
				: VIRTIO_BLK_S_IOERR;
		if (be->counts.writes == be->options.die_at)
			be_die(be, BE_DIES_WRITTEN);
	} else if (head->type == VIRTIO_BLK_T_FLUSH) {
		count(&be->counts.flushes);
		value = fdatasync(be->image_fd) ? VIRTIO_BLK_S_IOERR
						: VIRTIO_BLK_S_OK;
	}
	if (be->is_failed)
		return 0;
	*status = value;
	be_log_write(be, end->addr, 1);
	return written;
}

static void use(struct back_end *be, unsigned int index, uint16_t head,
		uint32_t written)
{
	struct be_ring *ring = &be->rings[index];
	struct record *record = record_of(be, index);
	struct vring_used *used =
		be_hva(be, ring->addr.used, 6 + 8ull * ring->size);
	uint16_t at = used->idx, slot = at % ring->size;

	used->ring[slot].id = head;
	used->ring[slot].len = written;
	if (record) {
		record->entries[head].next = record->last_batch_head;
		record->last_batch_head = head;
	}
	__atomic_store_n(&used->idx, (uint16_t)(at + 1), __ATOMIC_SEQ_CST);
	if (ring->is_logged) {
		be_log_write(be,
			     ring->addr.log +
				     offsetof(struct vring_used, ring) +
				     slot * sizeof(used->ring[0]),
			     sizeof(used->ring[0]));
		be_log_write(be,
			     ring->addr.log + offsetof(struct vring_used, idx),
			     2);
	}
	if (be->counts.writes == be->options.die_at)
		be_die(be, BE_DIES_USED);
	if (be->is_failed)
		return;
	if (record) {
		record->entries[head].is_in_flight = 0;
		record->used_idx = (uint16_t)(at + 1);
	}
	if (ring->call_fd >= 0 && be_has_room(ring->call_fd))
		eventfd_write(ring->call_fd, 1);
}

static void serve(struct back_end *be, unsigned int index, uint16_t head)
{
	struct be_ring *ring = &be->rings[index];
	struct request request = { .head = head };
	uint32_t written;

	if (!read_chain(be, ring, &request)) {
		be->is_failed = true;
		return;
	}
	written = do_request(be, &request);
	if (!be->is_failed)
		use(be, index, head, written);
}

static void take(struct back_end *be, unsigned int index, uint16_t head)
{
	struct be_ring *ring = &be->rings[index];
	struct record *record = record_of(be, index);

	ring->last_avail++;
	if (record) {
		record->entries[head].counter = ring->counter++;
		record->entries[head].is_in_flight = 1;
	}
	serve(be, index, head);
}

void be_ring_work(struct back_end *be, unsigned int index)
{
	struct be_ring *ring = &be->rings[index];
	struct vring_avail *avail =
		be_hva(be, ring->addr.avail, 6 + 2ull * ring->size);

	while (avail && ring->is_started && ring->is_enabled &&
	       !be->is_failed &&
	       !__atomic_load_n(&be->is_held, __ATOMIC_ACQUIRE) &&
	       ring->last_avail !=
		       __atomic_load_n(&avail->idx, __ATOMIC_SEQ_CST))
		take(be, index, avail->ring[ring->last_avail % ring->size]);
}

static int by_counter(const void *a, const void *b)
{
	const struct record_entry *const *x = a, *const *y = b;

	return (x[0]->counter > y[0]->counter) -
	       (x[0]->counter < y[0]->counter);
}

void be_ring_recover(struct back_end *be, unsigned int index)
{
	struct be_ring *ring = &be->rings[index];
	struct record *record = record_of(be, index);
	struct vring_used *used =
		be_hva(be, ring->addr.used, 6 + 8ull * ring->size);
	struct record_entry *flying[1024];
	unsigned int flying_count = 0;

	if (!record || !used)
		return;
	if (!record->version) {
		record->version = 1;
		record->size = (uint16_t)ring->size;
		record->used_idx = used->idx;
		return;
	}
	if (record->used_idx != used->idx) {
		record->entries[record->last_batch_head].is_in_flight = 0;
		record->used_idx = used->idx;
	}
	for (unsigned int i = 0; i < ring->size; i++) {
		if (record->entries[i].is_in_flight)
			flying[flying_count++] = &record->entries[i];
	}
	ring->last_avail = (uint16_t)(used->idx + flying_count);
	qsort(flying, flying_count, sizeof(flying[0]), by_counter);
	for (unsigned int i = 0; i < flying_count && !be->is_failed; i++) {
		ring->counter = flying[i]->counter + 1;
		count(&be->counts.resubmitted);
		serve(be, index, (uint16_t)(flying[i] - record->entries));
	}
}
