// SPDX-License-Identifier: Apache-2.0
/*
 * CPUID as the guest sees it.
 *
 * It is what KVM supports, except that
 *
 *	- what has state that would not move is hidden: nested virtualisation, and
 *	  shadow stacks, whose pointer is in none of KVM's structures;
 *	- the topology is the guest's own: one package, a core a vCPU, whose APIC
 *	  ID is its index;
 *	- the TSC-deadline timer is there wherever KVM emulates the local APIC,
 *	  of which old kernels do not tell here;
 *	- the TSC frequency is in leaf 0x40000010 (eax, kHz: the layout VMware
 *	  defined and KVM guests read).
 *
 * Of KVM's own features all are kept but asynchronous page faults by VM exit,
 * which serve nested guests: what the others keep in MSRs is in the list that
 * moves, and what they keep in guest memory is written by a vCPU that runs.
 *
 * CPUID is the pre-state: a destination takes the source's before any vCPU
 * runs, unless it has a feature that this host lacks; KVM itself would accept
 * it, and the guest would die of #UD later.
 *
 * Sources: Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E;
 * Documentation/virt/kvm/x86/cpuid.rst.
 */
#include <asm/kvm_para.h>
#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/bytes.h"
#include "base/err.h"
#include "kvm_priv.h"

#define CPUID_FEATURES      1u
#define CPUID_CACHE         4u
#define CPUID_FEATURES_7    7u
#define CPUID_TOPOLOGY      0xbu
#define CPUID_TOPOLOGY_V2   0x1fu
#define CPUID_KVM_SIGNATURE 0x40000000u
#define CPUID_KVM_FEATURES  0x40000001u
#define CPUID_TSC_KHZ       0x40000010u
#define CPUID_AMD_FEATURES  0x80000001u
#define CPUID_AMD_SIZES     0x80000008u
#define CPUID_AMD_CACHE     0x8000001du
#define CPUID_AMD_TOPOLOGY  0x8000001eu

#define ECX_VMX          (1u << 5)  /* of CPUID_FEATURES */
#define ECX_TSC_DEADLINE (1u << 24) /* likewise */
#define ECX_HYPERVISOR   (1u << 31) /* likewise */
#define ECX_SHADOW_STACK (1u << 7)  /* of CPUID_FEATURES_7 */
#define EDX_HTT          (1u << 28) /* of CPUID_FEATURES: several logical processors */
#define ECX_CMP_LEGACY   (1u << 1) /* of CPUID_AMD_FEATURES: cores */
#define ECX_SVM          (1u << 2) /* likewise */

#define LEVEL_SMT  1u
#define LEVEL_CORE 2u

#define APIC_BUS_KHZ 1000000u

static struct kvm_cpuid_entry2 *cpuid_find(struct kv_cpuid *cpuid,
					   uint32_t function)
{
	for (uint32_t i = 0; i < cpuid->count; i++) {
		if (cpuid->entries[i].function == function)
			return &cpuid->entries[i];
	}
	return NULL;
}

/* As KVM takes it: room for KV_CPUID_MAX entries. */
static struct kvm_cpuid2 *cpuid_buffer_new(void)
{
	return calloc(1,
		      sizeof(struct kvm_cpuid2) +
			      KV_CPUID_MAX * sizeof(struct kvm_cpuid_entry2));
}

static bool has_leaf(const struct kv_cpuid *cpuid, uint32_t function)
{
	return cpuid_find((struct kv_cpuid *)cpuid, function) != NULL;
}

static void hide_unmovable(struct kv_cpuid *cpuid)
{
	struct kvm_cpuid_entry2 *leaf = cpuid_find(cpuid, CPUID_FEATURES);

	if (leaf)
		leaf->ecx &= ~ECX_VMX;
	leaf = cpuid_find(cpuid, CPUID_FEATURES_7);
	if (leaf)
		leaf->ecx &= ~ECX_SHADOW_STACK;
	leaf = cpuid_find(cpuid, CPUID_AMD_FEATURES);
	if (leaf)
		leaf->ecx &= ~ECX_SVM;
	leaf = cpuid_find(cpuid, CPUID_KVM_FEATURES);
	if (leaf)
		leaf->eax &= ~(1u << KVM_FEATURE_ASYNC_PF_VMEXIT);
}

/* Bits of an APIC ID that tell @cpus cores apart. */
static uint32_t core_bits(unsigned int cpus)
{
	return cpus > 1 ? 32 - (uint32_t)__builtin_clz(cpus - 1) : 0;
}

/* How many logical processors share a cache: the last level is everybody's. */
static uint32_t cache_sharers(const struct kvm_cpuid_entry2 *cache,
			      unsigned int cpus)
{
	uint32_t level = cache->eax >> 5 & 7;

	return level >= 3 ? cpus : 1;
}

/* What of @e says how many processors there are. */
static void set_topology(struct kvm_cpuid_entry2 *e, unsigned int cpus)
{
	uint32_t bits = core_bits(cpus);
	uint32_t ids = 1u << bits;

	switch (e->function) {
	case CPUID_FEATURES:
		e->ebx = (e->ebx & 0xff00ffff) | (ids < 0xff ? ids : 0xff)
							 << 16;
		e->edx = cpus > 1 ? e->edx | EDX_HTT : e->edx & ~EDX_HTT;
		break;
	case CPUID_CACHE:
		if (!(e->eax & 0x1f))
			break; /* no more caches */
		e->eax = (e->eax & 0x3fff) |
			 ((cache_sharers(e, ids) - 1) & 0xfff) << 14 |
			 (ids < 64 ? ids - 1 : 63) << 26;
		break;
	case CPUID_AMD_FEATURES:
		e->ecx = cpus > 1 ? e->ecx | ECX_CMP_LEGACY
				  : e->ecx & ~ECX_CMP_LEGACY;
		break;
	case CPUID_AMD_SIZES:
		e->ecx = (e->ecx & 0xffff0000) | bits << 12 |
			 (cpus <= 0x100 ? cpus - 1 : 0xff);
		break;
	case CPUID_AMD_CACHE:
		if (e->eax & 0x1f)
			e->eax = (e->eax & 0x3fff) |
				 ((cache_sharers(e, cpus) - 1) & 0xfff) << 14;
		break;
	case CPUID_AMD_TOPOLOGY: /* one thread a core, one node */
		e->ebx = e->ecx = 0;
		break;
	}
}

static void drop_leaf(struct kv_cpuid *cpuid, uint32_t function)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < cpuid->count; i++) {
		if (cpuid->entries[i].function != function)
			cpuid->entries[kept++] = cpuid->entries[i];
	}
	cpuid->count = kept;
}

static void add_leaf(struct kv_cpuid *cpuid, struct kvm_cpuid_entry2 leaf)
{
	if (cpuid->count < KV_CPUID_MAX)
		cpuid->entries[cpuid->count++] = leaf;
}

/* Levels of the extended topology: one thread a core, @cpus cores. */
static void add_levels(struct kv_cpuid *cpuid, uint32_t function,
		       unsigned int cpus)
{
	const struct kvm_cpuid_entry2 levels[] = {
		{ .index = 0, .eax = 0, .ebx = 1, .ecx = LEVEL_SMT << 8 },
		{ .index = 1,
		  .eax = core_bits(cpus),
		  .ebx = cpus,
		  .ecx = LEVEL_CORE << 8 | 1 },
		{ .index = 2, .ecx = 2 },
	};

	for (size_t i = 0; i < array_size(levels); i++) {
		struct kvm_cpuid_entry2 level = levels[i];

		level.function = function;
		level.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
		add_leaf(cpuid, level);
	}
}

static void build_topology(struct kv_cpuid *cpuid, unsigned int cpus)
{
	static const uint32_t extended[] = { CPUID_TOPOLOGY,
					     CPUID_TOPOLOGY_V2 };

	for (uint32_t i = 0; i < cpuid->count; i++)
		set_topology(&cpuid->entries[i], cpus);
	for (size_t i = 0; i < array_size(extended); i++) {
		if (!has_leaf(cpuid, extended[i]))
			continue;
		drop_leaf(cpuid, extended[i]);
		add_levels(cpuid, extended[i], cpus);
	}
}

static void add_tsc(struct kv *kv)
{
	struct kvm_cpuid_entry2 *leaf = cpuid_find(&kv->cpuid, CPUID_FEATURES);

	if (leaf && ioctl(kv->vm_fd, KVM_CHECK_EXTENSION,
			  KVM_CAP_TSC_DEADLINE_TIMER) > 0)
		leaf->ecx |= ECX_TSC_DEADLINE;
	leaf = cpuid_find(&kv->cpuid, CPUID_KVM_SIGNATURE);
	if (!leaf || has_leaf(&kv->cpuid, CPUID_TSC_KHZ))
		return;
	if (leaf->eax < CPUID_TSC_KHZ)
		leaf->eax = CPUID_TSC_KHZ;
	add_leaf(&kv->cpuid,
		 (struct kvm_cpuid_entry2){ .function = CPUID_TSC_KHZ,
					    .ebx = APIC_BUS_KHZ });
}

int kv_cpuid_init(struct kv *kv, struct err *err)
{
	struct kvm_cpuid2 *got = cpuid_buffer_new();

	if (!got)
		return err_set(err, -ENOMEM, "no memory for CPUID");
	got->nent = KV_CPUID_MAX;
	if (ioctl(kv->fd, KVM_GET_SUPPORTED_CPUID, got) < 0) {
		free(got);
		return err_set_errno(err, -errno, "KVM_GET_SUPPORTED_CPUID");
	}
	kv->cpuid.count = got->nent;
	memcpy(kv->cpuid.entries, got->entries,
	       got->nent * sizeof(got->entries[0]));
	free(got);

	hide_unmovable(&kv->cpuid);
	build_topology(&kv->cpuid, kv->cpus);
	add_tsc(kv);
	kv->host_cpuid = kv->cpuid;
	return 0;
}

/* AMD's TSC ratio has 32 bits behind the point, Intel's multiplier 48. */
static unsigned int tsc_frac_bits(struct kv *kv)
{
	unsigned int eax, ebx, ecx = 0, edx;

	if (ioctl(kv->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) <= 0)
		return 0;
	__get_cpuid(CPUID_AMD_FEATURES, &eax, &ebx, &ecx, &edx);
	return ecx & ECX_SVM ? 32 : 48;
}

void kv_tsc_rate_probe(struct kv_vcpu *vcpu)
{
	struct kv *kv = vcpu->kv;
	struct kvm_cpuid_entry2 *leaf = cpuid_find(&kv->cpuid, CPUID_TSC_KHZ);
	int khz = ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0);

	kv->tsc_rate.host_khz = khz > 0 ? (uint32_t)khz : 0;
	kv->tsc_rate.guest_khz = kv->tsc_rate.host_khz;
	kv->tsc_rate.frac_bits = tsc_frac_bits(kv);
	if (leaf)
		leaf->eax = kv->tsc_rate.guest_khz;
}

int kv_cpuid_apply(struct kv_vcpu *vcpu, struct err *err)
{
	struct kv *kv = vcpu->kv;
	uint32_t id = vcpu->vcpu.index;
	struct kvm_cpuid2 *set = cpuid_buffer_new();
	int ret = 0;

	if (!set)
		return err_set(err, -ENOMEM, "no memory for CPUID");
	set->nent = kv->cpuid.count;
	for (uint32_t i = 0; i < kv->cpuid.count; i++) {
		struct kvm_cpuid_entry2 *e = &set->entries[i];

		*e = kv->cpuid.entries[i];
		switch (e->function) {
		case CPUID_FEATURES: /* initial APIC ID */
			e->ebx = (e->ebx & 0xffffff) | id << 24;
			e->ecx |= ECX_HYPERVISOR;
			break;
		case CPUID_TOPOLOGY: /* x2APIC ID */
		case CPUID_TOPOLOGY_V2:
			e->edx = id;
			break;
		case CPUID_AMD_TOPOLOGY: /* extended APIC ID, core */
			e->eax = id;
			e->ebx = (e->ebx & ~0xffu) | (id & 0xff);
			break;
		}
	}
	if (ioctl(vcpu->fd, KVM_SET_CPUID2, set) < 0)
		ret = err_set_errno(err, -errno,
				    "vCPU %u: this host's KVM "
				    "refuses the guest's CPUID",
				    id);
	free(set);
	return ret;
}

static int cpuid_save(void *obj, struct err *err)
{
	struct kv_cpuid *cpuid = obj;

	(void)err;
	cpuid->bytes_used =
		(uint32_t)(cpuid->count * sizeof(cpuid->entries[0]));
	memcpy(cpuid->bytes, cpuid->entries, cpuid->bytes_used);
	return 0;
}

static int cpuid_load(void *obj, uint16_t version, struct err *err)
{
	struct kv_cpuid *cpuid = obj;

	(void)version;
	if (cpuid->bytes_used % sizeof(cpuid->entries[0]) != 0)
		return err_set(err, -EBADMSG,
			       "CPUID of %u bytes is not a list of entries",
			       cpuid->bytes_used);
	cpuid->count =
		(uint32_t)(cpuid->bytes_used / sizeof(cpuid->entries[0]));
	memcpy(cpuid->entries, cpuid->bytes, cpuid->bytes_used);
	return 0;
}

static const struct state_field cpuid_fields[] = {
	STATE_VARRAY(struct kv_cpuid, bytes, STATE_U8, bytes_used),
};

static const struct state_desc cpuid_desc = {
	.version = 1,
	.min_version = 1,
	.fields = cpuid_fields,
	.field_count = array_size(cpuid_fields),
	.save = cpuid_save,
	.load = cpuid_load,
};

/* The registers that list features, one bit each. */
static const struct {
	uint32_t function, index;
	const char *reg;
	size_t offset;
	uint32_t ignored; /* bits that follow the guest's own settings */
} feature_regs[] = {
#define FEATURES(function_, index_, reg_, ignored_)                       \
	{                                                                 \
		.function = (function_), .index = (index_), .reg = #reg_, \
		.offset = offsetof(struct kvm_cpuid_entry2, reg_),        \
		.ignored = (ignored_)                                     \
	}
	FEATURES(CPUID_FEATURES, 0, ecx,
		 1u << 27 | ECX_HYPERVISOR), /* OSXSAVE */
	FEATURES(CPUID_FEATURES, 0, edx, 0),
	FEATURES(CPUID_FEATURES_7, 0, ebx, 0),
	FEATURES(CPUID_FEATURES_7, 0, ecx, 1u << 4), /* OSPKE */
	FEATURES(CPUID_FEATURES_7, 0, edx, 0),
	FEATURES(CPUID_FEATURES_7, 1, eax, 0),
	FEATURES(0xd, 0, eax, 0), /* XCR0 */
	FEATURES(0xd, 0, edx, 0),
	FEATURES(0xd, 1, eax, 0),
	FEATURES(CPUID_AMD_FEATURES, 0, ecx, 0),
	FEATURES(CPUID_AMD_FEATURES, 0, edx, 0),
	FEATURES(0x80000007, 0, edx, 0),
	FEATURES(CPUID_AMD_SIZES, 0, ebx, 0),
	FEATURES(CPUID_KVM_FEATURES, 0, eax, 0),
#undef FEATURES
};

void kv_cpuid_register(struct kv *kv, struct state_registry *registry)
{
	state_register(registry, &kv->cpuid_entry, "cpuid", &cpuid_desc,
		       &kv->cpuid);
}

static uint32_t feature_bits(const struct kv_cpuid *cpuid, size_t i)
{
	for (uint32_t n = 0; n < cpuid->count; n++) {
		const struct kvm_cpuid_entry2 *e = &cpuid->entries[n];

		if (e->function == feature_regs[i].function &&
		    e->index == feature_regs[i].index)
			return *(const uint32_t *)((const char *)e +
						   feature_regs[i].offset);
	}
	return 0;
}

int kv_cpuid_check_features(const struct kv *kv, struct err *err)
{
	for (size_t i = 0; i < array_size(feature_regs); i++) {
		uint32_t lacking = feature_bits(&kv->cpuid, i) &
				   ~feature_bits(&kv->host_cpuid, i) &
				   ~feature_regs[i].ignored;

		if (lacking)
			return err_set(err, -EINVAL,
				       "this host lacks CPU features that the "
				       "guest has: CPUID 0x%x.%u %s, bits 0x%x",
				       feature_regs[i].function,
				       feature_regs[i].index,
				       feature_regs[i].reg, lacking);
	}
	return 0;
}
