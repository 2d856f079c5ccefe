// SPDX-License-Identifier: Apache-2.0
/*
 * What a vCPU has before the switch: as it was created, and then what came early of
 * the source's ("vcpuN-setup"), loaded while the source runs.  At the switch only what
 * differs from that is set: an ioctl less in the pause for each, 5 to 12 us.
 *
 * Early is what only keeps a value.  Not so
 *
 * - what touches guest memory, which is not there yet: the MSRs of kvmclock, steal
 *   time and Hyper-V, and CR3 with PAE paging, whose PDPTRs are read at once;
 * - what may begin to work: the LAPIC's timer, events, an interrupt that SREGS queue;
 * - what differs every time.
 */
#include <asm/kvm_para.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/err.h"
#include "kvm_priv.h"

#define NO_MSR UINT32_MAX

static const struct state_field setup_fields[] = {
	STATE_BYTES(struct kv_vcpu_state, sregs),
	STATE_BYTES(struct kv_vcpu_state, xcrs),
	STATE_BYTES(struct kv_vcpu_state, debugregs),
	STATE_VARRAY(struct kv_vcpu_state, xsave, STATE_U8, xsave_used),
	STATE_VARRAY(struct kv_vcpu_state, msr_index, STATE_U32, msr_used),
	STATE_VARRAY(struct kv_vcpu_state, msr_value, STATE_U64, msr_values),
};

static const struct state_desc setup_desc = {
	.version = 1,
	.min_version = 1,
	.fields = setup_fields,
	.field_count = array_size(setup_fields),
	.load = kv_vcpu_state_check,
	.is_optional = true, /* since minor version 3 of the stream */
};

void kv_vcpu_setup_register(struct kv_vcpu *vcpu)
{
	char name[STATE_NAME_MAX];

	snprintf(name, sizeof(name), "vcpu%u-setup", vcpu->vcpu.index);
	state_register(vcpu->kv->setup_state, &vcpu->setup_entry, name,
		       &setup_desc, &vcpu->state);
}

int kv_vcpu_known_note(struct kv_vcpu *vcpu, struct err *err)
{
	int ret = kv_vcpu_save(&vcpu->vcpu, err);

	if (ret)
		return ret;
	if (!vcpu->known)
		vcpu->known = malloc(sizeof(*vcpu->known));
	if (!vcpu->known)
		return err_set(err, -ENOMEM, "no memory for vCPU %u",
			       vcpu->vcpu.index);
	*vcpu->known = vcpu->state;
	return 0;
}

void kv_vcpu_known_drop(struct kv_vcpu *vcpu)
{
	free(vcpu->known);
	vcpu->known = NULL;
}

bool kv_vcpu_knows(const struct kv_vcpu *vcpu, const void *member, size_t size)
{
	size_t offset =
		(size_t)((const char *)member - (const char *)&vcpu->state);

	return vcpu->known &&
	       memcmp(member, (const char *)vcpu->known + offset, size) == 0;
}

bool kv_vcpu_knows_msr(const struct kv_vcpu *vcpu, uint32_t at)
{
	const struct kv_vcpu_state *known = vcpu->known, *s = &vcpu->state;

	return known && at < known->msr_used &&
	       known->msr_index[at] == s->msr_index[at] &&
	       known->msr_value[at] == s->msr_value[at];
}

static int set(struct kv_vcpu *vcpu, unsigned long request, const char *name,
	       void *arg, struct err *err)
{
	return ioctl(vcpu->fd, request, arg) < 0
		       ? err_set_errno(err, -errno, "%s", name)
		       : 0;
}

static int load_early(struct kv_vcpu *vcpu, struct err *err)
{
	struct kv_vcpu_state *s = &vcpu->state;
	int ret = kv_vcpu_check_xsave(vcpu, err);

	memset(s->sregs.interrupt_bitmap, 0, sizeof(s->sregs.interrupt_bitmap));
	if (!ret && !kv_has_pdptrs(&s->sregs))
		ret = set(vcpu, KVM_SET_SREGS, "KVM_SET_SREGS", &s->sregs, err);
	if (!ret)
		ret = set(vcpu, KVM_SET_XCRS, "KVM_SET_XCRS", &s->xcrs, err);
	if (!ret)
		ret = set(vcpu, KVM_SET_DEBUGREGS, "KVM_SET_DEBUGREGS",
			  &s->debugregs, err);
	if (!ret)
		ret = set(vcpu, KVM_SET_XSAVE, "KVM_SET_XSAVE", s->xsave, err);
	return ret ? ret : kv_msrs_load_early(vcpu, err);
}

static void know_msrs(struct kv_vcpu_state *known,
		      const struct kv_vcpu_state *came)
{
	for (uint32_t i = 0; i < came->msr_used; i++) {
		uint32_t index = came->msr_index[i];

		if (!kv_msr_has_effect(index)) {
			known->msr_index[i] = index;
			known->msr_value[i] = came->msr_value[i];
		} else if (i >= known->msr_used ||
			   known->msr_index[i] != index) {
			known->msr_index[i] = NO_MSR;
		}
	}
	known->msr_used = came->msr_used;
}

/* Of what was set, what the source said counts: the same is the same again. */
static void know_what_came(struct kv_vcpu *vcpu,
			   const struct kv_vcpu_state *came)
{
	struct kv_vcpu_state *known = vcpu->known;

	if (!kv_has_pdptrs(&came->sregs))
		known->sregs = came->sregs;
	known->xcrs = came->xcrs;
	known->debugregs = came->debugregs;
	memcpy(known->xsave, came->xsave, came->xsave_used);
	know_msrs(known, came);
}

int kv_vcpu_setup_load(struct accel_vcpu *accel_vcpu, struct err *err)
{
	struct kv_vcpu *vcpu = kv_vcpu_of(accel_vcpu);
	struct kv_vcpu_state *came = NULL;
	int ret = 0;

	vcpu->is_saved = false;
	if (vcpu->setup_entry.is_loaded) {
		ret = load_early(vcpu, err);
		came = malloc(sizeof(*came));
		if (!ret && !came)
			ret = err_set(err, -ENOMEM, "no memory");
		if (!ret)
			*came = vcpu->state;
	}
	/* Also what the source's CPUID changed. */
	if (!ret)
		ret = kv_vcpu_known_note(vcpu, err);
	if (!ret && came)
		know_what_came(vcpu, came);
	free(came);
	err_prefix(err, "building vCPU %u", accel_vcpu->index);
	return ret;
}
