// SPDX-License-Identifier: Apache-2.0
/*
 * The kernel's counters of a VM and its vCPUs (Documentation/virt/kvm/api.rst,
 * KVM_GET_STATS_FD).
 *
 * A file of them is a header, descriptors and values; all but the values stays as
 * it is, and the values may be read while the vCPU runs.  To get the file of a
 * vCPU needs that it does not, so it is opened when the vCPU is created.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/err.h"
#include "kvm_priv.h"

#define DESCS_MAX 4096u
#define NAME_MAX  256u
#define DATA_MAX  (1u << 20)

struct stats {
	struct kvm_stats_header header;
	size_t desc_size; /* with its name */
	uint8_t *descs;   /* owned */
	uint64_t *values; /* owned */
	size_t value_count;
};

int kv_stats_open(int fd)
{
	return ioctl(fd, KVM_GET_STATS_FD, NULL);
}

static int read_at(int fd, void *to, size_t size, uint64_t offset)
{
	ssize_t got = pread(fd, to, size, (off_t)offset);

	if (got < 0)
		return -errno;
	return (size_t)got == size ? 0 : -EIO;
}

static const struct kvm_stats_desc *desc_at(const struct stats *stats,
					    size_t index)
{
	return (const void *)(stats->descs + index * stats->desc_size);
}

static int read_descs(struct stats *stats, int fd)
{
	const struct kvm_stats_header *header = &stats->header;
	size_t end = 0;

	stats->desc_size = sizeof(struct kvm_stats_desc) + header->name_size;
	stats->descs = malloc(stats->desc_size * header->num_desc);
	if (!stats->descs)
		return -ENOMEM;
	for (size_t i = 0; i < header->num_desc; i++) {
		const struct kvm_stats_desc *desc = desc_at(stats, i);
		int ret = read_at(fd, stats->descs + i * stats->desc_size,
				  stats->desc_size,
				  header->desc_offset + i * stats->desc_size);

		if (ret)
			return ret;
		if (desc->offset % sizeof(uint64_t) ||
		    desc->offset > DATA_MAX ||
		    !memchr(desc->name, 0, header->name_size))
			return -EPROTO;
		if (desc->offset / sizeof(uint64_t) + desc->size > end)
			end = desc->offset / sizeof(uint64_t) + desc->size;
	}
	stats->value_count = end;
	return 0;
}

static int stats_init(struct stats *stats, int fd)
{
	int ret;

	*stats = (struct stats){ .descs = NULL };
	ret = read_at(fd, &stats->header, sizeof(stats->header), 0);
	if (ret)
		return ret;
	if (stats->header.num_desc > DESCS_MAX || !stats->header.name_size ||
	    stats->header.name_size > NAME_MAX)
		return -EPROTO;
	ret = read_descs(stats, fd);
	if (ret)
		return ret;
	stats->values = calloc(stats->value_count + 1, sizeof(uint64_t));
	if (!stats->values)
		return -ENOMEM;
	return read_at(fd, stats->values, stats->value_count * sizeof(uint64_t),
		       stats->header.data_offset);
}

static void stats_fini(struct stats *stats)
{
	free(stats->descs);
	free(stats->values);
}

int kv_stats_read(struct accel *accel, int vcpu, accel_stat_fn *fn,
		  void *opaque, struct err *err)
{
	struct kv *kv = kv_of(accel);
	int fd = vcpu < 0 ? kv->stats_fd : kv->vcpus[vcpu]->stats_fd;
	struct stats stats;
	int ret;

	if (fd < 0)
		return err_set(err, -ENOTSUP,
			       "this kernel's KVM has no statistics "
			       "(KVM_CAP_BINARY_STATS_FD)");
	ret = stats_init(&stats, fd);
	if (ret)
		err_set_errno(err, ret, "KVM's statistics");
	for (size_t i = 0; !ret && i < stats.header.num_desc; i++) {
		const struct kvm_stats_desc *desc = desc_at(&stats, i);

		fn(opaque, &(struct accel_stat){
				   .name = desc->name,
				   .values = stats.values +
					     desc->offset / sizeof(uint64_t),
				   .count = desc->size,
			   });
	}
	stats_fini(&stats);
	return ret;
}

/* Where the one value @name is in the values of @stats. */
static size_t value_index(const struct stats *stats, const char *name)
{
	for (size_t i = 0; i < stats->header.num_desc; i++) {
		const struct kvm_stats_desc *desc = desc_at(stats, i);

		if (strcmp(desc->name, name) == 0 && desc->size == 1)
			return desc->offset / sizeof(uint64_t);
	}
	return SIZE_MAX;
}

/* Where a value is in the file of a vCPU, the same for all: learnt once, since
 * looking for it takes a hundred times as long as reading it; 0: there is none. */
static uint64_t value_offset(struct kv *kv, int fd, enum kv_stat stat)
{
	static const char *const names[KV_STATS] = {
		[KV_STAT_EXITS] = "exits",
		[KV_STAT_PF_FIXED] = "pf_fixed",
	};
	uint64_t *known = &kv->stat_offsets[stat];
	uint64_t offset = __atomic_load_n(known, __ATOMIC_RELAXED);
	struct stats stats;
	size_t index;

	if (offset)
		return offset;
	if (fd < 0)
		return 0;
	if (!stats_init(&stats, fd)) {
		index = value_index(&stats, names[stat]);
		if (index != SIZE_MAX)
			offset = stats.header.data_offset +
				 index * sizeof(uint64_t);
	}
	stats_fini(&stats);
	__atomic_store_n(known, offset, __ATOMIC_RELAXED);
	return offset;
}

int kv_vcpu_stat(const struct kv_vcpu *vcpu, enum kv_stat stat,
		 uint64_t *ret_value)
{
	uint64_t offset = value_offset(vcpu->kv, vcpu->stats_fd, stat);

	if (!offset ||
	    read_at(vcpu->stats_fd, ret_value, sizeof(*ret_value), offset))
		return -ENOTSUP;
	return 0;
}

/* By the ring; or, since a write to a page under write protection is one fault
 * that is fixed, and a read is none, those. */
int kv_vcpu_writes(struct accel *accel, unsigned int index, uint64_t *ret_pages)
{
	struct kv *kv = kv_of(accel);
	const struct kv_vcpu *vcpu = kv->vcpus[index];

	if (kv->ring) {
		*ret_pages = kv_ring_writes(vcpu);
		return 0;
	}
	return kv_vcpu_stat(vcpu, KV_STAT_PF_FIXED, ret_pages);
}
