// SPDX-License-Identifier: Apache-2.0
/* The VM: creation, capabilities, interrupt lines. */
#include "kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/err.h"
#include "base/trace.h"
#include "kvm_priv.h"

/* In what is the accelerator's own: a page table of one page, and three pages of
 * task state. */
#define KV_IDENTITY_ADDR ACCEL_OWN_GPA
#define KV_TSS_ADDR      (ACCEL_OWN_GPA + 0x1000)

#define NARROW_APIC_CPUS 255u

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
		{ KVM_CAP_IRQFD, "KVM_CAP_IRQFD" },
		{ KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING" },
		{ KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI" },
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
		return err_set(
			err, -ENOTSUP,
			"XSAVE area of %u bytes, at most %u: godwit does not know all that this processor has",
			kv->xsave_size, KV_XSAVE_MAX);
	size = ioctl(kv->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_NR_MEMSLOTS);
	kv->slot_max = size > 0 ? (uint32_t)size : 32;
	kv->has_clock_realtime =
		ioctl(kv->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_ADJUST_CLOCK) &
		KVM_CLOCK_REALTIME;
	return 0;
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
	if (ioctl(kv->vm_fd, KVM_ENABLE_CAP, &cap) < 0)
		return err_set_errno(err, -errno,
				     "more than %u vCPUs need "
				     "KVM_CAP_X2APIC_API",
				     NARROW_APIC_CPUS);
	kv->has_wide_apic_ids = true;
	return 0;
}

static int create_irqchip(struct kv *kv, struct err *err)
{
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };

	if (ioctl(kv->vm_fd, KVM_CREATE_IRQCHIP, 0) < 0)
		return err_set_errno(err, -errno, "KVM interrupt controllers");
	kv->has_pit = ioctl(kv->vm_fd, KVM_CREATE_PIT2, &pit) == 0;
	return 0;
}

/* The source's CPUID arrived: every vCPU takes it. */
static int kv_setup_load(struct accel *accel, struct err *err)
{
	struct kv *kv = kv_of(accel);
	int ret = kv_cpuid_check_features(kv, err);

	for (unsigned int i = 0; !ret && i < kv->cpus; i++)
		ret = kv_cpuid_apply(kv->vcpus[i], err);
	return ret;
}

static void kv_irq_set(struct accel *accel, unsigned int gsi, int level)
{
	struct kvm_irq_level irq = { .irq = gsi, .level = (uint32_t)level };

	if (ioctl(kv_of(accel)->vm_fd, KVM_IRQ_LINE, &irq) < 0)
		trace(kvm_irq_failed, "line %u: %s", gsi, strerror(errno));
}

static uint32_t kv_tsc_khz(struct accel *accel)
{
	return kv_of(accel)->tsc_rate.guest_khz;
}

static bool kv_get_ring_stats(struct accel *accel,
			      struct accel_ring_stats *ret_stats)
{
	struct kv *kv = kv_of(accel);

	if (kv->ring)
		kv_ring_stats(kv, ret_stats);
	return kv->ring;
}

static void kv_end(struct accel *accel)
{
	struct kv *kv = kv_of(accel);

	kv_log_stop_end(kv);
	if (kv->stats_fd >= 0)
		close(kv->stats_fd);
	if (kv->vm_fd >= 0)
		close(kv->vm_fd);
	kv->stats_fd = kv->vm_fd = -1;
}

static void kv_free(struct accel *accel)
{
	struct kv *kv = kv_of(accel);

	kv_end(accel);
	kv_slots_fini(kv);
	kv_log_stop_fini(kv);
	kv_ring_fini(kv);
	kv_bitmap_fini(kv);
	accel_routes_fini(&kv->routes);
	if (kv->is_registered) {
		state_unregister(&kv->cpuid_entry);
		state_unregister(&kv->vm_entry);
	}
	if (kv->fd >= 0)
		close(kv->fd);
	pthread_cond_destroy(&kv->left);
	lock_fini(&kv->left_lock);
	free(kv->left_seqs);
	free(kv->vcpus);
	free(kv);
}

static void kv_irq_counts(struct accel *accel,
			  struct accel_irq_counts *ret_counts)
{
	accel_irq_counts(accel, ret_counts);
	ret_counts->ioeventfd_calls = __atomic_load_n(
		&kv_of(accel)->ioeventfd_calls, __ATOMIC_RELAXED);
}

const struct accel_ops kv_accel_ops = {
	.name = "kvm",
	.end = kv_end,
	.free = kv_free,
	.irq_set = kv_irq_set,
	.msi_send = kv_msi_send,
	.route_new = accel_route_new,
	.route_free = accel_route_free,
	.routes_begin = accel_routes_begin,
	.route_set = accel_route_set,
	.routes_commit = accel_routes_commit,
	.irqfd_set = accel_irqfd_set,
	.irq_counts = kv_irq_counts,
	.vcpu_new = kv_vcpu_new,
	.vcpu_free = kv_vcpu_free,
	.vcpu_boot = kv_vcpu_boot,
	.vcpu_warm_up = kv_vcpu_warm_up,
	.vcpu_run = kv_vcpu_run,
	.vcpu_kick = kv_vcpu_kick,
	.vcpu_unkick = kv_vcpu_unkick,
	.vcpu_save = kv_vcpu_save,
	.vcpu_load = kv_vcpu_load,
	.vcpu_rehearse = kv_vcpu_rehearse,
	.activate = kv_activate,
	.vcpu_setup_load = kv_vcpu_setup_load,
	.vm_save = kv_vm_save,
	.vm_load = kv_vm_load,
	.setup_load = kv_setup_load,
	.tsc_khz = kv_tsc_khz,
	.vcpu_writes = kv_vcpu_writes,
	.stats_read = kv_stats_read,
	.ring_stats = kv_get_ring_stats,
};

/* What to do where /dev/kvm does not open. */
static const char *advice_of(int code)
{
	switch (code) {
	case -EACCES:
		return "; add this user to the group kvm";
	case -EPERM:
		return "; this container or sandbox does not allow the device: give it /dev/kvm";
	case -ENOENT:
	case -ENODEV:
	case -ENXIO:
		return "; load the kvm_intel or kvm_amd module";
	default:
		return "";
	}
}

static int open_kvm(struct kv *kv, struct err *err)
{
	int version, size;

	kv->fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kv->fd < 0) {
		int code = -errno;

		return err_set(err, code, "cannot open /dev/kvm: %s%s",
			       strerror(-code), advice_of(code));
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
	kv->stats_fd = kv_stats_open(kv->vm_fd);
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
	kv->fd = kv->vm_fd = kv->stats_fd = -1;
	kv_log_stop_init(kv, config->options.is_log_stop_inline);
	kv->cpus = config->cpus;
	kv->memory = config->memory;
	kv->ports = config->ports;
	kv->state = config->state;
	kv->setup_state = config->setup_state;
	kv->vcpus = calloc(config->cpus, sizeof(struct kv_vcpu *));
	kv->left_seqs = calloc(config->cpus, sizeof(uint64_t));
	lock_init(&kv->left_lock, LOCK_RING);
	pthread_cond_init(&kv->left, NULL);
	ret = kv->vcpus && kv->left_seqs
		      ? open_kvm(kv, err)
		      : err_set(err, -ENOMEM, "no memory for vCPUs");
	if (!ret)
		ret = check_capabilities(kv, config, err);
	if (!ret) {
		kv_slots_choose_size(kv);
		kv_routes_init(kv);
		ret = kv_cpuid_init(kv, err);
	}
	if (!ret)
		ret = kv_ring_init(kv, &config->options, err);
	/* Manual protect would leave all pages writable at the start: no write
	 * would reach a ring. */
	if (!ret)
		ret = kv_bitmap_init(
			kv, kv->ring || config->options.use_plain_log, err);
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
	kv_cpuid_register(kv, config->setup_state);
	kv_vm_state_register(kv);
	kv->is_registered = true;
	*ret_accel = &kv->accel;
	return 0;
}
