// SPDX-License-Identifier: Apache-2.0
/*
 * One vCPU's registers, out of the kernel and back.
 *
 * Order of loading: CPUID was set before; SREGS (the APIC base) before the
 * LAPIC; the TSC offset and the LAPIC before the TSC-deadline MSR, or the timer
 * is lost; events after the registers they refer to; the MP state last.
 *
 * The TSC moves as the vCPU's TSC offset, corrected by vm_state.c.  Where KVM has no
 * offset attribute, one write of its MSR stands in for it.
 *
 * What the vCPU has already (vcpu_setup.c) is not set again.
 */
#include <asm/kvm_para.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <x86intrin.h>

#include "base/err.h"
#include "kvm_priv.h"

#define CR0_PE   0x1u
#define CR0_ET   0x10u
#define CR0_PG   0x80000000u
#define CR4_PAE  0x20u
#define EFER_LME 0x100u
#define EFER_LMA 0x400u

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

int kv_vcpu_state_check(void *obj, uint16_t version, struct err *err)
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
	.load = kv_vcpu_state_check,
};

void kv_vcpu_state_register(struct kv_vcpu *vcpu)
{
	char name[STATE_NAME_MAX];

	snprintf(name, sizeof(name), "vcpu%u", vcpu->vcpu.index);
	state_register(vcpu->kv->state, &vcpu->entry, name, &vcpu_desc,
		       &vcpu->state);
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
	return kv_msr_do(vcpu, KVM_SET_MSRS, MSR_TSC, &now);
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

	kv_vcpu_known_drop(vcpu);
	vcpu->is_saved = false;
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

static int save_tsc(struct kv_vcpu *vcpu, struct err *err)
{
	uint64_t tsc = 0;

	if (kv_tsc_offset_get(vcpu, &vcpu->state.tsc_offset) == 0)
		return 0;
	if (kv_msr_do(vcpu, KVM_GET_MSRS, MSR_TSC, &tsc))
		return err_set(err, -EIO, "the TSC cannot be read");
	vcpu->state.tsc_offset =
		tsc - kv_tsc_scale(&vcpu->kv->tsc_rate, __rdtsc());
	return 0;
}

/* The ioctls that move one plain structure each, in load order but for
 * mp_state, which is saved first: reading it settles pending INIT and SIPI. */
#define VCPU_IOCTL(get_, set_, member, is_live_)                              \
	{                                                                     \
		get_, set_, #get_, #set_,                                     \
			offsetof(struct kv_vcpu_state, member),               \
			sizeof(((struct kv_vcpu_state *)0)->member), is_live_ \
	}

static const struct plain {
	unsigned long get, set;
	const char *get_name, *set_name;
	size_t offset, size;
	bool is_live; /* may change while the vCPU waits */
} plain_state[] = {
	VCPU_IOCTL(KVM_GET_SREGS, KVM_SET_SREGS, sregs, false),
	VCPU_IOCTL(KVM_GET_XCRS, KVM_SET_XCRS, xcrs, false),
	VCPU_IOCTL(KVM_GET_LAPIC, KVM_SET_LAPIC, lapic, true),
	VCPU_IOCTL(KVM_GET_REGS, KVM_SET_REGS, regs, false),
	VCPU_IOCTL(KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, debugregs, false),
	VCPU_IOCTL(KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, events, true),
};

static int save_plain(struct kv_vcpu *vcpu, bool is_all, struct err *err)
{
	for (size_t i = 0; i < array_size(plain_state); i++) {
		const struct plain *plain = &plain_state[i];

		if (!is_all && !plain->is_live)
			continue;
		if (ioctl(vcpu->fd, plain->get,
			  (char *)&vcpu->state + plain->offset) < 0)
			return err_set_errno(err, -errno, "%s",
					     plain->get_name);
	}
	return 0;
}

static int save_rest(struct kv_vcpu *vcpu, struct err *err)
{
	struct kv_vcpu_state *s = &vcpu->state;

	s->xsave_used = vcpu->kv->xsave_size;
	if (ioctl(vcpu->fd,
		  s->xsave_used > sizeof(struct kvm_xsave) ? KVM_GET_XSAVE2
							   : KVM_GET_XSAVE,
		  s->xsave) < 0)
		return err_set_errno(err, -errno, "KVM_GET_XSAVE");
	return kv_msrs_save(vcpu, err);
}

/*
 * Whether the vCPU has waited in HLT ever since the last save: it did then, does
 * now, and KVM has not entered the guest, or it would have left it.  Only what comes
 * from elsewhere has changed then, interrupts and events, and its timer where it was
 * armed.  (Woken by INIT or by an interrupt it is not halted, and back in HLT it
 * would have been through the guest.)
 */
static bool has_waited(const struct kv_vcpu *vcpu, uint32_t mp_state_then,
		       uint64_t exits)
{
	const struct kv_vcpu_state *s = &vcpu->state;

	return vcpu->is_saved && mp_state_then == KVM_MP_STATE_HALTED &&
	       s->mp_state.mp_state == KVM_MP_STATE_HALTED &&
	       exits == vcpu->saved_exits && !s->tsc_deadline;
}

int kv_vcpu_save(struct accel_vcpu *accel_vcpu, struct err *err)
{
	struct kv_vcpu *vcpu = kv_vcpu_of(accel_vcpu);
	struct kv_vcpu_state *s = &vcpu->state;
	uint32_t mp_state_then = s->mp_state.mp_state;
	uint64_t exits = 0;
	bool is_counted, is_all;
	int ret;

	if (ioctl(vcpu->fd, KVM_GET_MP_STATE, &s->mp_state) < 0) {
		ret = err_set_errno(err, -errno, "KVM_GET_MP_STATE");
		goto out;
	}
	is_counted = !kv_vcpu_stat(vcpu, KV_STAT_EXITS, &exits);
	is_all = !has_waited(vcpu, mp_state_then, exits);
	ret = save_plain(vcpu, is_all, err);
	if (!ret && is_all)
		ret = save_rest(vcpu, err);
	/* KVM corrects it on hosts whose own TSC is unstable. */
	if (!ret)
		ret = save_tsc(vcpu, err);
	vcpu->is_saved = !ret && is_counted;
	vcpu->saved_exits = exits;
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

		if (kv_vcpu_knows(vcpu, member, plain_state[i].size))
			continue;
		if (ioctl(vcpu->fd, plain_state[i].set, member) < 0)
			return err_set_errno(err, -errno, "%s",
					     plain_state[i].set_name);
	}
	if (!kv_vcpu_knows(vcpu, s->xsave, s->xsave_used) &&
	    ioctl(vcpu->fd, KVM_SET_XSAVE, s->xsave) < 0)
		return err_set_errno(err, -errno, "KVM_SET_XSAVE");
	return 0;
}

int kv_vcpu_check_xsave(const struct kv_vcpu *vcpu, struct err *err)
{
	if (vcpu->state.xsave_used == vcpu->kv->xsave_size)
		return 0;
	return err_set(
		err, -EINVAL,
		"XSAVE area of %u bytes, this host's has %u: use hosts with the same processor features",
		vcpu->state.xsave_used, vcpu->kv->xsave_size);
}

int kv_vcpu_load(struct accel_vcpu *accel_vcpu, struct err *err)
{
	struct kv_vcpu *vcpu = kv_vcpu_of(accel_vcpu);
	struct kv_vcpu_state *s = &vcpu->state;
	int ret = kv_vcpu_check_xsave(vcpu, err);

	vcpu->is_saved = false;
	if (ret)
		goto out;
	ret = load_plain(vcpu, err);
	if (ret)
		goto out;
	ret = tsc_offset_set(vcpu, s->tsc_offset + vcpu->kv->tsc_delta);
	if (ret) {
		err_set_errno(err, ret, "TSC offset");
		goto out;
	}
	ret = kv_msrs_load(vcpu, err);
	if (ret)
		goto out;
	if (s->tsc_deadline &&
	    kv_msr_do(vcpu, KVM_SET_MSRS, MSR_TSC_DEADLINE, &s->tsc_deadline)) {
		ret = err_set(
			err, -EINVAL,
			"KVM refuses TSC deadline 0x%lx: use hosts with the same processor and kernel",
			s->tsc_deadline);
		goto out;
	}
	if (!kv_vcpu_knows(vcpu, &s->mp_state, sizeof(s->mp_state)) &&
	    ioctl(vcpu->fd, KVM_SET_MP_STATE, &s->mp_state) < 0) {
		ret = err_set_errno(err, -errno, "KVM_SET_MP_STATE");
		goto out;
	}
	/* Tells a kvmclock guest that it was paused, so that its watchdog does
	 * not bark. */
	if (has_kvmclock(s))
		ioctl(vcpu->fd, KVM_KVMCLOCK_CTRL, 0);
out:
	kv_vcpu_known_drop(vcpu);
	err_prefix(err, "loading vCPU %u", accel_vcpu->index);
	return ret;
}

bool kv_has_pdptrs(const struct kvm_sregs *sregs)
{
	return sregs->cr0 & CR0_PG && sregs->cr4 & CR4_PAE &&
	       !(sregs->efer & EFER_LMA);
}

/* State is loaded while the last pages are still on their way. */
int kv_activate(struct accel *accel, struct err *err)
{
	const struct kv *kv = kv_of(accel);

	for (unsigned int i = 0; i < kv->cpus; i++) {
		struct kv_vcpu *vcpu = kv->vcpus[i];

		if (kv_has_pdptrs(&vcpu->state.sregs) &&
		    ioctl(vcpu->fd, KVM_SET_SREGS, &vcpu->state.sregs) < 0)
			return err_set_errno(err, -errno,
					     "KVM_SET_SREGS of vCPU %u", i);
	}
	return 0;
}

/* The TSC is set once in a vCPU's life (docs/lessons.md), so not here. */
int kv_vcpu_rehearse(struct accel_vcpu *accel_vcpu, struct err *err)
{
	struct kv_vcpu *vcpu = kv_vcpu_of(accel_vcpu);
	struct kv_vcpu_state *known = vcpu->known;
	int ret = kv_vcpu_save(accel_vcpu, err);

	if (ret)
		return ret;
	vcpu->known = NULL; /* for its time, set what it has */
	ret = load_plain(vcpu, err);
	if (!ret)
		ret = kv_msrs_load(vcpu, err);
	vcpu->known = known;
	err_prefix(err, "rehearsing vCPU %u", accel_vcpu->index);
	return ret;
}
