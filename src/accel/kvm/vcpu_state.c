// SPDX-License-Identifier: Apache-2.0
/*
 * One vCPU's registers, out of the kernel and back.
 *
 * Order of loading: CPUID was set before; SREGS (the APIC base) before the
 * LAPIC; the TSC offset and the LAPIC before the TSC-deadline MSR, or the timer
 * is lost; events after the registers they refer to; the MP state last.
 *
 * The TSC itself (MSR 0x10) is not among the MSRs: it moves as the vCPU's TSC
 * offset, corrected by vm_state.c.  Where KVM has no offset attribute, one write
 * of the MSR stands in for it.
 *
 * A kernel may list MSRs that it then refuses to set (0x10a on some hosts).
 * Those are found once, on a fresh vCPU, and compared on load instead of set;
 * any other refusal fails the load.
 */
#include <asm/kvm_para.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <x86intrin.h>

#include "base/err.h"
#include "kvm_priv.h"

#define MSR_TSC          0x10u
#define MSR_TSC_DEADLINE 0x6e0u

#define CR0_PE   0x1u
#define CR0_ET   0x10u
#define CR0_PG   0x80000000u
#define CR4_PAE  0x20u
#define EFER_LME 0x100u
#define EFER_LMA 0x400u

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

static const struct state_field vcpu_fields[] = {
	STATE_BYTES(struct kv_vcpu_state, regs),
	STATE_BYTES(struct kv_vcpu_state, sregs),
	STATE_BYTES(struct kv_vcpu_state, xcrs),
	STATE_BYTES(struct kv_vcpu_state, events),
	STATE_BYTES(struct kv_vcpu_state, debugregs),
	STATE_BYTES(struct kv_vcpu_state, mp_state),
	STATE_BYTES(struct kv_vcpu_state, lapic),
	STATE_VARRAY(struct kv_vcpu_state, xsave, STATE_U8, xsave_used),
	STATE_VARRAY(struct kv_vcpu_state, msr_index, STATE_U32, msr_used),
	STATE_VARRAY(struct kv_vcpu_state, msr_value, STATE_U64, msr_values),
	STATE_FIELD(struct kv_vcpu_state, tsc_offset, STATE_U64),
	STATE_FIELD(struct kv_vcpu_state, tsc_deadline, STATE_U64),
};

static int vcpu_state_load(void *obj, uint16_t version, struct err *err)
{
	const struct kv_vcpu_state *s = obj;

	(void)version;
	return s->msr_used == s->msr_values
		       ? 0
		       : err_set(err, -EBADMSG, "%u MSRs with %u values",
				 s->msr_used, s->msr_values);
}

static const struct state_desc vcpu_desc = {
	.version = 1,
	.min_version = 1,
	.fields = vcpu_fields,
	.field_count = array_size(vcpu_fields),
	.load = vcpu_state_load,
};

void kv_vcpu_state_register(struct kv_vcpu *vcpu)
{
	char name[STATE_NAME_MAX];

	snprintf(name, sizeof(name), "vcpu%u", vcpu->vcpu.index);
	state_register(vcpu->kv->state, &vcpu->entry, name, &vcpu_desc,
		       &vcpu->state);
}

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

static int msr_one(struct kv_vcpu *vcpu, unsigned long request, uint32_t index,
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
		if (msr_one(vcpu, KVM_GET_MSRS, index, &value))
			continue; /* this host has no such register */
		msrs->is_fixed[msrs->count] =
			msr_one(vcpu, KVM_SET_MSRS, index, &value) != 0;
		msrs->index[msrs->count++] = index;
	}
	return 0;
}

int kv_tsc_offset_get(struct kv_vcpu *vcpu, uint64_t *ret_offset)
{
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
		.addr = (uint64_t)(uintptr_t)ret_offset,
	};

	return ioctl(vcpu->fd, KVM_GET_DEVICE_ATTR, &attr) < 0 ? -errno : 0;
}

static int tsc_offset_set(struct kv_vcpu *vcpu, uint64_t offset)
{
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
		.addr = (uint64_t)(uintptr_t)&offset,
	};
	uint64_t now;

	if (ioctl(vcpu->fd, KVM_SET_DEVICE_ATTR, &attr) == 0)
		return 0;
	if (errno != ENXIO)
		return -errno;
	now = kv_tsc_scale(&vcpu->kv->tsc_rate, __rdtsc()) + offset;
	return msr_one(vcpu, KVM_SET_MSRS, MSR_TSC, &now);
}

/* Code or data, as flat as its mode has it. */
static struct kvm_segment flat_segment(uint16_t selector, uint8_t type,
				       bool is_long)
{
	return (struct kvm_segment){
		.limit = 0xffffffff,
		.selector = selector,
		.type = type,
		.present = 1,
		.db = !is_long,
		.s = 1,
		.l = is_long,
		.g = 1,
	};
}

static void boot_sregs(struct kvm_sregs *sregs,
		       const struct accel_boot_regs *boot)
{
	uint16_t code = boot->is_long ? 0x10 : 0x08;

	sregs->cs = flat_segment(code, 0xb, boot->is_long);
	sregs->ds = flat_segment((uint16_t)(code + 8), 0x3, false);
	sregs->es = sregs->fs = sregs->gs = sregs->ss = sregs->ds;
	sregs->tr = (struct kvm_segment){
		.limit = 0x67,
		.selector = (uint16_t)(code + 16),
		.type = 0xb, /* busy */
		.present = 1,
	};
	sregs->cr0 = CR0_PE | CR0_ET;
	sregs->cr4 = 0;
	sregs->efer = 0;
	if (boot->is_long) {
		sregs->gdt.base = boot->gdt;
		sregs->gdt.limit = boot->gdt_limit;
		sregs->cr3 = boot->page_table;
		sregs->cr0 |= CR0_PG;
		sregs->cr4 = CR4_PAE;
		sregs->efer = EFER_LME | EFER_LMA;
	}
}

int kv_vcpu_boot(struct accel_vcpu *accel_vcpu,
		 const struct accel_boot_regs *boot, struct err *err)
{
	struct kv_vcpu *vcpu = kv_vcpu_of(accel_vcpu);
	struct kvm_mp_state runnable = { .mp_state = KVM_MP_STATE_RUNNABLE };
	struct kvm_sregs sregs;
	struct kvm_regs regs = {
		.rip = boot->rip,
		.rbx = boot->rbx,
		.rsi = boot->rsi,
		.rdi = boot->rdi,
		.rflags = 2,
	};

	kv_vcpu_forget_fresh(vcpu);
	if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs) < 0)
		return err_set_errno(err, -errno, "KVM_GET_SREGS");
	boot_sregs(&sregs, boot);
	if (ioctl(vcpu->fd, KVM_SET_SREGS, &sregs) < 0)
		return err_set_errno(err, -errno, "KVM_SET_SREGS");
	if (ioctl(vcpu->fd, KVM_SET_REGS, &regs) < 0)
		return err_set_errno(err, -errno, "KVM_SET_REGS");
	if (ioctl(vcpu->fd, KVM_SET_MP_STATE, &runnable) < 0)
		return err_set_errno(err, -errno, "KVM_SET_MP_STATE");
	return 0;
}

static int save_msrs(struct kv_vcpu *vcpu, struct err *err)
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

static int save_tsc(struct kv_vcpu *vcpu, struct err *err)
{
	uint64_t tsc = 0;

	if (kv_tsc_offset_get(vcpu, &vcpu->state.tsc_offset) == 0)
		return 0;
	if (msr_one(vcpu, KVM_GET_MSRS, MSR_TSC, &tsc))
		return err_set(err, -EIO, "the TSC cannot be read");
	vcpu->state.tsc_offset =
		tsc - kv_tsc_scale(&vcpu->kv->tsc_rate, __rdtsc());
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

static int load_msrs(struct kv_vcpu *vcpu, struct err *err)
{
	const struct kv_vcpu_state *s = &vcpu->state;
	struct kvm_msr_entry entries[KV_MSR_MAX];
	uint32_t count = 0;
	int set;

	for (uint32_t i = 0; i < s->msr_used; i++) {
		uint64_t here = 0;

		if (!is_fixed_msr(vcpu->kv, s->msr_index[i])) {
			entries[count++] = (struct kvm_msr_entry){
				.index = s->msr_index[i],
				.data = s->msr_value[i],
			};
			continue;
		}
		if (msr_one(vcpu, KVM_GET_MSRS, s->msr_index[i], &here) ||
		    here != s->msr_value[i])
			return err_set(err, -EINVAL,
				       "MSR 0x%x is 0x%lx on the source, 0x%lx "
				       "here, and KVM does not let it be set",
				       s->msr_index[i], s->msr_value[i], here);
	}
	set = msrs_do(vcpu, KVM_SET_MSRS, entries, count);
	if (set < 0)
		return err_set_errno(err, set, "KVM_SET_MSRS");
	if (set != (int)count)
		return err_set(
			err, -EINVAL,
			"KVM refuses MSR 0x%x = 0x%llx: use hosts with the same processor and kernel",
			entries[set].index, entries[set].data);
	return 0;
}

/* The ioctls that move one plain structure each, in load order but for
 * mp_state, which is saved first: reading it settles pending INIT and SIPI. */
#define VCPU_IOCTL(get_, set_, member)                              \
	{                                                           \
		get_, set_, #get_, #set_,                           \
			offsetof(struct kv_vcpu_state, member),     \
			sizeof(((struct kv_vcpu_state *)0)->member) \
	}

static const struct {
	unsigned long get, set;
	const char *get_name, *set_name;
	size_t offset, size;
} plain_state[] = {
	VCPU_IOCTL(KVM_GET_SREGS, KVM_SET_SREGS, sregs),
	VCPU_IOCTL(KVM_GET_XCRS, KVM_SET_XCRS, xcrs),
	VCPU_IOCTL(KVM_GET_LAPIC, KVM_SET_LAPIC, lapic),
	VCPU_IOCTL(KVM_GET_REGS, KVM_SET_REGS, regs),
	VCPU_IOCTL(KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, debugregs),
	VCPU_IOCTL(KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, events),
};

int kv_vcpu_note_fresh(struct kv_vcpu *vcpu, struct err *err)
{
	int ret = kv_vcpu_save(&vcpu->vcpu, err);

	if (ret)
		return ret;
	vcpu->fresh = malloc(sizeof(*vcpu->fresh));
	if (!vcpu->fresh)
		return err_set(err, -ENOMEM, "no memory for vCPU %u",
			       vcpu->vcpu.index);
	*vcpu->fresh = vcpu->state;
	return 0;
}

void kv_vcpu_forget_fresh(struct kv_vcpu *vcpu)
{
	free(vcpu->fresh);
	vcpu->fresh = NULL;
}

/* The vCPU has it already: an ioctl less in the pause, 5 us each. */
static bool is_fresh(const struct kv_vcpu *vcpu, const void *member,
		     size_t size)
{
	size_t offset =
		(size_t)((const char *)member - (const char *)&vcpu->state);

	return vcpu->fresh &&
	       memcmp(member, (const char *)vcpu->fresh + offset, size) == 0;
}

int kv_vcpu_save(struct accel_vcpu *accel_vcpu, struct err *err)
{
	struct kv_vcpu *vcpu = kv_vcpu_of(accel_vcpu);
	struct kv_vcpu_state *s = &vcpu->state;
	int ret;

	if (ioctl(vcpu->fd, KVM_GET_MP_STATE, &s->mp_state) < 0) {
		ret = err_set_errno(err, -errno, "KVM_GET_MP_STATE");
		goto out;
	}
	for (size_t i = 0; i < array_size(plain_state); i++) {
		if (ioctl(vcpu->fd, plain_state[i].get,
			  (char *)s + plain_state[i].offset) < 0) {
			ret = err_set_errno(err, -errno, "%s",
					    plain_state[i].get_name);
			goto out;
		}
	}
	s->xsave_used = vcpu->kv->xsave_size;
	if (ioctl(vcpu->fd,
		  s->xsave_used > sizeof(struct kvm_xsave) ? KVM_GET_XSAVE2
							   : KVM_GET_XSAVE,
		  s->xsave) < 0) {
		ret = err_set_errno(err, -errno, "KVM_GET_XSAVE");
		goto out;
	}
	ret = save_msrs(vcpu, err);
	if (!ret)
		ret = save_tsc(vcpu, err);
out:
	err_prefix(err, "saving vCPU %u", accel_vcpu->index);
	return ret;
}

/* Whether the guest turned kvmclock on (Documentation/virt/kvm/x86/msr.rst). */
static bool has_kvmclock(const struct kv_vcpu_state *s)
{
	for (uint32_t i = 0; i < s->msr_used; i++) {
		if ((s->msr_index[i] == MSR_KVM_SYSTEM_TIME ||
		     s->msr_index[i] == MSR_KVM_SYSTEM_TIME_NEW) &&
		    s->msr_value[i] & 1)
			return true;
	}
	return false;
}

static int load_plain(struct kv_vcpu *vcpu, struct err *err)
{
	struct kv_vcpu_state *s = &vcpu->state;

	for (size_t i = 0; i < array_size(plain_state); i++) {
		char *member = (char *)s + plain_state[i].offset;

		if (is_fresh(vcpu, member, plain_state[i].size))
			continue;
		if (ioctl(vcpu->fd, plain_state[i].set, member) < 0)
			return err_set_errno(err, -errno, "%s",
					     plain_state[i].set_name);
	}
	if (ioctl(vcpu->fd, KVM_SET_XSAVE, s->xsave) < 0)
		return err_set_errno(err, -errno, "KVM_SET_XSAVE");
	return 0;
}

int kv_vcpu_load(struct accel_vcpu *accel_vcpu, struct err *err)
{
	struct kv_vcpu *vcpu = kv_vcpu_of(accel_vcpu);
	struct kv_vcpu_state *s = &vcpu->state;
	int ret;

	if (s->xsave_used != vcpu->kv->xsave_size) {
		ret = err_set(
			err, -EINVAL,
			"XSAVE area of %u bytes, this host's has %u: use hosts with the same processor features",
			s->xsave_used, vcpu->kv->xsave_size);
		goto out;
	}
	ret = load_plain(vcpu, err);
	if (ret)
		goto out;
	ret = tsc_offset_set(vcpu, s->tsc_offset + vcpu->kv->tsc_delta);
	if (ret) {
		err_set_errno(err, ret, "TSC offset");
		goto out;
	}
	ret = load_msrs(vcpu, err);
	if (ret)
		goto out;
	if (s->tsc_deadline &&
	    msr_one(vcpu, KVM_SET_MSRS, MSR_TSC_DEADLINE, &s->tsc_deadline)) {
		ret = err_set(
			err, -EINVAL,
			"KVM refuses TSC deadline 0x%lx: use hosts with the same processor and kernel",
			s->tsc_deadline);
		goto out;
	}
	if (!is_fresh(vcpu, &s->mp_state, sizeof(s->mp_state)) &&
	    ioctl(vcpu->fd, KVM_SET_MP_STATE, &s->mp_state) < 0) {
		ret = err_set_errno(err, -errno, "KVM_SET_MP_STATE");
		goto out;
	}
	/* Tells a kvmclock guest that it was paused, so that its watchdog does
	 * not bark. */
	if (has_kvmclock(s))
		ioctl(vcpu->fd, KVM_KVMCLOCK_CTRL, 0);
out:
	kv_vcpu_forget_fresh(vcpu);
	err_prefix(err, "loading vCPU %u", accel_vcpu->index);
	return ret;
}

/* The TSC is set once in a vCPU's life (docs/lessons.md), so not here. */
int kv_vcpu_rehearse(struct accel_vcpu *accel_vcpu, struct err *err)
{
	struct kv_vcpu *vcpu = kv_vcpu_of(accel_vcpu);
	struct kv_vcpu_state *fresh = vcpu->fresh;
	int ret = kv_vcpu_save(accel_vcpu, err);

	if (ret)
		return ret;
	vcpu->fresh = NULL; /* for its time, set what it has */
	ret = load_plain(vcpu, err);
	if (!ret)
		ret = load_msrs(vcpu, err);
	vcpu->fresh = fresh;
	err_prefix(err, "rehearsing vCPU %u", accel_vcpu->index);
	return ret;
}
