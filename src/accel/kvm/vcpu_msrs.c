// SPDX-License-Identifier: Apache-2.0
/*
 * One vCPU's model-specific registers, out of the kernel and back.
 *
 * The TSC itself (MSR 0x10) and its deadline are not among those that are listed:
 * vcpu_state.c has them.
 *
 * A kernel may list MSRs that it then refuses to set (0x10a on some hosts).
 * Those are found once, on a fresh vCPU, and compared on load instead of set;
 * any other refusal fails the load.
 */
#include <asm/kvm_para.h>
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/err.h"
#include "kvm_priv.h"

/* KVM answers a call with MAX_IO_MSRS (256) or more by E2BIG. */
#define MSRS_A_CALL 255u

/* KVM's structures end in a flexible array; these are one with room. */
union msr_buffer {
	struct kvm_msrs msrs;
	uint8_t room[sizeof(struct kvm_msrs) +
		     MSRS_A_CALL * sizeof(struct kvm_msr_entry)];
};

union msr_list_buffer {
	struct kvm_msr_list list;
	uint8_t room[sizeof(struct kvm_msr_list) +
		     KV_MSR_MAX * sizeof(uint32_t)];
};

/* How many of @entries were read or set, all before one that KVM refuses; or
 * -errno. */
static int msrs_do(struct kv_vcpu *vcpu, unsigned long request,
		   struct kvm_msr_entry *entries, uint32_t count)
{
	union msr_buffer call;
	uint32_t done = 0, size, did;

	do {
		int ret;

		size = count - done < MSRS_A_CALL ? count - done : MSRS_A_CALL;
		call.msrs = (struct kvm_msrs){ .nmsrs = size };
		memcpy(call.msrs.entries, entries + done,
		       size * sizeof(*entries));
		ret = ioctl(vcpu->fd, request, &call);
		if (ret < 0)
			return -errno;
		did = (uint32_t)ret;
		memcpy(entries + done, call.msrs.entries,
		       did * sizeof(*entries));
		done += did;
	} while (did == size && done < count);
	return (int)done;
}

int kv_msr_do(struct kv_vcpu *vcpu, unsigned long request, uint32_t index,
	      uint64_t *value)
{
	struct kvm_msr_entry entry = { .index = index, .data = *value };

	if (msrs_do(vcpu, request, &entry, 1) != 1)
		return -EINVAL;
	*value = entry.data;
	return 0;
}

int kv_msr_list_probe(struct kv_vcpu *vcpu, struct err *err)
{
	struct kv_msr_list *msrs = &vcpu->kv->msrs;
	union msr_list_buffer buffer = { .list.nmsrs = KV_MSR_MAX };
	const struct kvm_msr_list *list = &buffer.list;

	if (ioctl(vcpu->kv->fd, KVM_GET_MSR_INDEX_LIST, &buffer) < 0)
		return err_set_errno(err, -errno,
				     "list of MSRs (%u, at most "
				     "%u)",
				     list->nmsrs, KV_MSR_MAX);
	for (uint32_t i = 0; i < list->nmsrs; i++) {
		uint32_t index = list->indices[i];
		uint64_t value = 0;

		if (index == MSR_TSC || index == MSR_TSC_DEADLINE)
			continue;
		if (kv_msr_do(vcpu, KVM_GET_MSRS, index, &value))
			continue; /* this host has no such register */
		msrs->is_fixed[msrs->count] =
			kv_msr_do(vcpu, KVM_SET_MSRS, index, &value) != 0;
		msrs->index[msrs->count++] = index;
	}
	return 0;
}

int kv_msrs_save(struct kv_vcpu *vcpu, struct err *err)
{
	const struct kv_msr_list *msrs = &vcpu->kv->msrs;
	struct kv_vcpu_state *s = &vcpu->state;
	struct kvm_msr_entry entries[KV_MSR_MAX + 1];
	int got;

	for (uint32_t i = 0; i < msrs->count; i++)
		entries[i] = (struct kvm_msr_entry){ .index = msrs->index[i] };
	/* Behind all others: KVM stops at the first that it does not know. */
	entries[msrs->count] =
		(struct kvm_msr_entry){ .index = MSR_TSC_DEADLINE };
	got = msrs_do(vcpu, KVM_GET_MSRS, entries, msrs->count + 1);
	if (got < 0)
		return err_set_errno(err, got, "KVM_GET_MSRS");
	if (got < (int)msrs->count)
		return err_set(err, -EIO, "MSR 0x%x cannot be read",
			       msrs->index[got]);
	s->msr_used = s->msr_values = msrs->count;
	for (uint32_t i = 0; i < msrs->count; i++) {
		s->msr_index[i] = entries[i].index;
		s->msr_value[i] = entries[i].data;
	}
	/* 0 where the guest has no such timer. */
	s->tsc_deadline =
		got > (int)msrs->count ? entries[msrs->count].data : 0;
	return 0;
}

static bool is_fixed_msr(const struct kv *kv, uint32_t index)
{
	for (uint32_t i = 0; i < kv->msrs.count; i++) {
		if (kv->msrs.index[i] == index)
			return kv->msrs.is_fixed[i];
	}
	return false;
}

/* MSRs of kvmclock, steal time and asynchronous page faults, and of Hyper-V: KVM
 * writes guest memory for them; the TSC's. */
bool kv_msr_has_effect(uint32_t index)
{
	return (index >= 0x4b564d00 && index <= 0x4b564dff) ||
	       (index >= 0x40000000 && index <= 0x40000fff) ||
	       index == MSR_KVM_WALL_CLOCK || index == MSR_KVM_SYSTEM_TIME ||
	       index == MSR_TSC || index == MSR_TSC_DEADLINE;
}

static int compare_fixed(struct kv_vcpu *vcpu, uint32_t index, uint64_t value,
			 struct err *err)
{
	uint64_t here = 0;

	if (!kv_msr_do(vcpu, KVM_GET_MSRS, index, &here) && here == value)
		return 0;
	return err_set(err, -EINVAL,
		       "MSR 0x%x is 0x%lx on the source, 0x%lx here, and KVM "
		       "does not let it be set",
		       index, value, here);
}

static int set_msrs(struct kv_vcpu *vcpu, struct kvm_msr_entry *entries,
		    uint32_t count, struct err *err)
{
	int set = count ? msrs_do(vcpu, KVM_SET_MSRS, entries, count) : 0;

	if (set < 0)
		return err_set_errno(err, set, "KVM_SET_MSRS");
	if (set != (int)count)
		return err_set(
			err, -EINVAL,
			"KVM refuses MSR 0x%x = 0x%llx: use hosts with the same processor and kernel",
			entries[set].index, entries[set].data);
	return 0;
}

static int load_msrs(struct kv_vcpu *vcpu, bool is_early, struct err *err)
{
	const struct kv_vcpu_state *s = &vcpu->state;
	struct kvm_msr_entry entries[KV_MSR_MAX];
	uint32_t count = 0;
	int ret = 0;

	for (uint32_t i = 0; i < s->msr_used && !ret; i++) {
		uint32_t index = s->msr_index[i];

		if (is_fixed_msr(vcpu->kv, index))
			ret = compare_fixed(vcpu, index, s->msr_value[i], err);
		else if (is_early ? !kv_msr_has_effect(index)
				  : !kv_vcpu_knows_msr(vcpu, i))
			entries[count++] = (struct kvm_msr_entry){
				.index = index,
				.data = s->msr_value[i],
			};
	}
	return ret ? ret : set_msrs(vcpu, entries, count, err);
}

int kv_msrs_load(struct kv_vcpu *vcpu, struct err *err)
{
	return load_msrs(vcpu, false, err);
}

int kv_msrs_load_early(struct kv_vcpu *vcpu, struct err *err)
{
	return load_msrs(vcpu, true, err);
}
