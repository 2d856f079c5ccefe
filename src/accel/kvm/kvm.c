// SPDX-License-Identifier: Apache-2.0
/*
 * The VM: creation, capabilities, interrupt lines and CPUID.
 *
 * CPUID is what KVM supports, without nested virtualisation (its state would not
 * move), plus the TSC frequency in leaf 0x40000010 (eax, kHz: the layout VMware
 * defined and Linux and KVM guests read).  It is the pre-state: a destination
 * takes the source's before any vCPU runs, unless it has a feature that this host
 * lacks; KVM itself would accept it, and the guest would die of #UD later.
 */
#include "kvm.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "kvm_priv.h"

/* Three pages for Intel's real-mode task state, below the BIOS area. */
#define KV_TSS_ADDR      0xfffbd000u
#define KV_IDENTITY_ADDR 0xfffbc000ull

#define CPUID_KVM_SIGNATURE 0x40000000u
#define CPUID_KVM_FEATURES  0x40000001u
#define CPUID_TSC_KHZ       0x40000010u
#define NARROW_APIC_CPUS    255u
#define APIC_BUS_KHZ        1000000u

static int check_capabilities(struct kv *kv, const struct accel_config *config,
			      struct err *err)
{
	static const struct {
		int cap;
		const char *name;
	} needed[] = {
		{ KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP" },
		{ KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY" },
		{ KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT" },
		{ KVM_CAP_XSAVE, "KVM_CAP_XSAVE" },
		{ KVM_CAP_XCRS, "KVM_CAP_XCRS" },
		{ KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS" },
		{ KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS" },
		{ KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE" },
		{ KVM_CAP_ADJUST_CLOCK, "KVM_CAP_ADJUST_CLOCK" },
		{ KVM_CAP_READONLY_MEM, "KVM_CAP_READONLY_MEM" },
		{ KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD" },
	};
	int max_cpus, size;

	for (size_t i = 0; i < array_size(needed); i++) {
		if (ioctl(kv->vm_fd, KVM_CHECK_EXTENSION, needed[i].cap) <= 0)
			return err_set(err, -ENOTSUP,
				       "this kernel's KVM lacks %s",
				       needed[i].name);
	}
	max_cpus = ioctl(kv->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);
	if (max_cpus > 0 && config->cpus > (unsigned int)max_cpus)
		return err_set(err, -ERANGE,
			       "%u vCPUs; this KVM takes at most %d",
			       config->cpus, max_cpus);

	size = ioctl(kv->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
	kv->xsave_size = size > 0 ? (uint32_t)size : sizeof(struct kvm_xsave);
	if (kv->xsave_size > KV_XSAVE_MAX)
		return err_set(err, -ENOTSUP,
			       "XSAVE area of %u bytes, at most %u",
			       kv->xsave_size, KV_XSAVE_MAX);
	size = ioctl(kv->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_NR_MEMSLOTS);
	kv->slot_max = size > 0 ? (uint32_t)size : 32;
	return 0;
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

/* Only Intel hosts use the two areas; the others accept the calls. */
static void set_private_areas(struct kv *kv)
{
	uint64_t identity = KV_IDENTITY_ADDR;

	ioctl(kv->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
	ioctl(kv->vm_fd, KVM_SET_TSS_ADDR, KV_TSS_ADDR);
}

/* APIC IDs past 8 bits, in the kernel's interfaces too. */
static int enable_wide_apic_ids(struct kv *kv, struct err *err)
{
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_X2APIC_API,
		.args = { KVM_X2APIC_API_USE_32BIT_IDS |
			  KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK },
	};

	if (kv->cpus <= NARROW_APIC_CPUS)
		return 0;
	return ioctl(kv->vm_fd, KVM_ENABLE_CAP, &cap) < 0
		       ? err_set_errno(err, -errno,
				       "more than %u vCPUs need "
				       "KVM_CAP_X2APIC_API",
				       NARROW_APIC_CPUS)
		       : 0;
}

static int create_irqchip(struct kv *kv, struct err *err)
{
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };

	if (ioctl(kv->vm_fd, KVM_CREATE_IRQCHIP, 0) < 0)
		return err_set_errno(err, -errno, "KVM interrupt controllers");
	kv->has_pit = ioctl(kv->vm_fd, KVM_CREATE_PIT2, &pit) == 0;
	return 0;
}

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

static void hide_nested(struct kv_cpuid *cpuid)
{
	struct kvm_cpuid_entry2 *leaf = cpuid_find(cpuid, 1);

	if (leaf)
		leaf->ecx &= ~(1u << 5); /* VMX */
	leaf = cpuid_find(cpuid, 0x80000001);
	if (leaf)
		leaf->ecx &= ~(1u << 2); /* SVM */
}

static int cpuid_init(struct kv *kv, struct err *err)
{
	struct kvm_cpuid2 *got = cpuid_buffer_new();
	struct kvm_cpuid_entry2 *kvm_leaf;

	if (!got)
		return err_set(err, -ENOMEM, "no memory for CPUID");
	got->nent = KV_CPUID_MAX - 1;
	if (ioctl(kv->fd, KVM_GET_SUPPORTED_CPUID, got) < 0) {
		free(got);
		return err_set_errno(err, -errno, "KVM_GET_SUPPORTED_CPUID");
	}
	kv->cpuid.count = got->nent;
	memcpy(kv->cpuid.entries, got->entries,
	       got->nent * sizeof(got->entries[0]));
	free(got);

	hide_nested(&kv->cpuid);
	kvm_leaf = cpuid_find(&kv->cpuid, CPUID_KVM_SIGNATURE);
	if (kvm_leaf && !cpuid_find(&kv->cpuid, CPUID_TSC_KHZ)) {
		if (kvm_leaf->eax < CPUID_TSC_KHZ)
			kvm_leaf->eax = CPUID_TSC_KHZ;
		kv->cpuid.entries[kv->cpuid.count++] =
			(struct kvm_cpuid_entry2){
				.function = CPUID_TSC_KHZ,
				.ebx = APIC_BUS_KHZ,
			};
	}
	kv->host_cpuid = kv->cpuid;
	return 0;
}

void kv_tsc_khz_probe(struct kv_vcpu *vcpu)
{
	struct kv *kv = vcpu->kv;
	struct kvm_cpuid_entry2 *leaf = cpuid_find(&kv->cpuid, CPUID_TSC_KHZ);
	int khz = ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0);

	kv->vm_tsc_khz = khz > 0 ? (uint32_t)khz : 0;
	if (leaf)
		leaf->eax = kv->vm_tsc_khz;
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
		case 1: /* initial APIC ID; CLFLUSH size and features stay */
			e->ebx = (e->ebx & 0xffffff) | id << 24;
			e->ecx |= 1u << 31; /* hypervisor present */
			break;
		case 0xb: /* x2APIC ID */
		case 0x1f:
			e->edx = id;
			break;
		case 0x8000001e: /* extended APIC ID (AMD) */
			e->eax = id;
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
	FEATURES(1, 0, ecx, 1u << 27 | 1u << 31), /* OSXSAVE, hypervisor */
	FEATURES(1, 0, edx, 0),
	FEATURES(7, 0, ebx, 0),
	FEATURES(7, 0, ecx, 1u << 4), /* OSPKE */
	FEATURES(7, 0, edx, 0),
	FEATURES(7, 1, eax, 0),
	FEATURES(0xd, 0, eax, 0), /* XCR0 */
	FEATURES(0xd, 0, edx, 0),
	FEATURES(0xd, 1, eax, 0),
	FEATURES(0x80000001, 0, ecx, 0),
	FEATURES(0x80000001, 0, edx, 0),
	FEATURES(0x80000007, 0, edx, 0),
	FEATURES(0x80000008, 0, ebx, 0),
	FEATURES(CPUID_KVM_FEATURES, 0, eax, 0),
#undef FEATURES
};

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

static int check_features(const struct kv *kv, struct err *err)
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

/* The source's CPUID arrived: every vCPU takes it. */
static int kv_setup_load(struct accel *accel, struct err *err)
{
	struct kv *kv = kv_of(accel);
	int ret = check_features(kv, err);

	for (unsigned int i = 0; !ret && i < kv->cpus; i++)
		ret = kv_cpuid_apply(kv->vcpus[i], err);
	return ret;
}

static void kv_irq_set(struct accel *accel, unsigned int gsi, int level)
{
	struct kvm_irq_level irq = { .irq = gsi, .level = (uint32_t)level };

	if (ioctl(kv_of(accel)->vm_fd, KVM_IRQ_LINE, &irq) < 0)
		log_warn("interrupt line %u: %s", gsi, strerror(errno));
}

static uint32_t kv_tsc_khz(struct accel *accel)
{
	return kv_of(accel)->vm_tsc_khz;
}

static void kv_free(struct accel *accel)
{
	struct kv *kv = kv_of(accel);

	/* First, so that no slot is deleted one by one. */
	if (kv->vm_fd >= 0)
		close(kv->vm_fd);
	kv->vm_fd = -1;
	kv_slots_fini(kv);
	if (kv->is_registered) {
		state_unregister(&kv->cpuid_entry);
		state_unregister(&kv->vm_entry);
	}
	if (kv->fd >= 0)
		close(kv->fd);
	free(kv->vcpus);
	free(kv);
}

const struct accel_ops kv_accel_ops = {
	.name = "kvm",
	.free = kv_free,
	.irq_set = kv_irq_set,
	.vcpu_new = kv_vcpu_new,
	.vcpu_free = kv_vcpu_free,
	.vcpu_boot = kv_vcpu_boot,
	.vcpu_run = kv_vcpu_run,
	.vcpu_kick = kv_vcpu_kick,
	.vcpu_unkick = kv_vcpu_unkick,
	.vcpu_save = kv_vcpu_save,
	.vcpu_load = kv_vcpu_load,
	.vm_save = kv_vm_save,
	.vm_load = kv_vm_load,
	.setup_load = kv_setup_load,
	.tsc_khz = kv_tsc_khz,
};

static int open_kvm(struct kv *kv, struct err *err)
{
	int version, size;

	kv->fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kv->fd < 0) {
		int code = -errno;

		return err_set(
			err, code, "cannot open /dev/kvm: %s; %s",
			strerror(-code),
			code == -EACCES
				? "add this user to the group kvm"
				: "load the kvm_intel or kvm_amd module");
	}
	version = ioctl(kv->fd, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION)
		return err_set(err, -ENOTSUP, "KVM API version %d, need %d",
			       version, KVM_API_VERSION);
	size = ioctl(kv->fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (size < (int)sizeof(struct kvm_run))
		return err_set(err, -ENOTSUP, "kvm_run of %d bytes", size);
	kv->run_size = (size_t)size;

	do {
		kv->vm_fd = ioctl(kv->fd, KVM_CREATE_VM, 0);
	} while (kv->vm_fd < 0 && errno == EINTR);
	if (kv->vm_fd < 0)
		return err_set_errno(err, -errno, "KVM_CREATE_VM");
	return 0;
}

int kv_new(const struct accel_config *config, struct accel **ret_accel,
	   struct err *err)
{
	struct kv *kv = calloc(1, sizeof(*kv));
	int ret;

	if (!kv)
		return err_set(err, -ENOMEM, "no memory for the VM");
	kv->accel.ops = &kv_accel_ops;
	kv->fd = kv->vm_fd = -1;
	kv->cpus = config->cpus;
	kv->memory = config->memory;
	kv->ports = config->ports;
	kv->state = config->state;
	kv->vcpus = calloc(config->cpus, sizeof(struct kv_vcpu *));
	ret = kv->vcpus ? open_kvm(kv, err)
			: err_set(err, -ENOMEM, "no memory for vCPUs");
	if (!ret)
		ret = check_capabilities(kv, config, err);
	if (!ret)
		ret = cpuid_init(kv, err);
	if (!ret && !config->options.use_plain_log)
		enable_manual_protect(kv);
	/* Memory before the interrupt controllers: they register on KVM's I/O
	 * buses, and a memslot set after that waits 4 to 7 ms for the SRCU grace
	 * period they began. */
	if (!ret) {
		set_private_areas(kv);
		ret = kv_slots_init(kv, err);
	}
	if (!ret)
		ret = enable_wide_apic_ids(kv, err);
	if (!ret)
		ret = create_irqchip(kv, err);
	if (ret) {
		kv_free(&kv->accel);
		return ret;
	}
	state_register(config->setup_state, &kv->cpuid_entry, "cpuid",
		       &cpuid_desc, &kv->cpuid);
	kv_vm_state_register(kv);
	kv->is_registered = true;
	*ret_accel = &kv->accel;
	return 0;
}
