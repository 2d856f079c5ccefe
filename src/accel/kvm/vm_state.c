// SPDX-License-Identifier: Apache-2.0
/*
 * VM-wide state: clock, interrupt controllers, PIT.
 *
 * Time (Documentation/virt/kvm/devices/vcpu.rst, KVM_VCPU_TSC_OFFSET).
 * Saved together: kvmclock, the host's realtime and the host's TSC.  Loaded
 * before any vCPU, and with none running:
 *
 *	1. KVM_SET_TSC_KHZ, if the guest's TSC has another frequency;
 *	2. KVM_SET_CLOCK, so that kvmclock advances by the realtime that passed;
 *	3. read the three again here;
 *	4. tsc_delta = (source host TSC - this host's TSC)
 *	               + (kvmclock here - kvmclock there) * frequency
 *	   is added to each vCPU's offset: the guest's TSC has then advanced by
 *	   the same time as kvmclock.
 *
 * A guest's TSC is the host's, scaled to the guest's frequency, plus the offset.
 * So each side scales its host's TSC as its KVM does before it is saved or used:
 * the offset alone says nothing about a host that counts faster.
 *
 * Where the kernel does not give the three at one moment (flags 0; a VM whose vCPUs
 * never ran has none), they are read here one after the other.
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <x86intrin.h>

#include "base/clock.h"
#include "base/err.h"
#include "kvm_priv.h"

/* KVM's tsc_tolerance_ppm, unless the host's administrator changed it: a guest
 * whose frequency is that near to the host's is not scaled. */
#define TSC_TOLERANCE_PPM 250

static const struct state_field vm_fields[] = {
	STATE_BYTES(struct kv_vm_state, pic_master),
	STATE_BYTES(struct kv_vm_state, pic_slave),
	STATE_BYTES(struct kv_vm_state, ioapic),
	STATE_BYTES(struct kv_vm_state, pit),
	STATE_FIELD(struct kv_vm_state, kvmclock_ns, STATE_U64),
	STATE_FIELD(struct kv_vm_state, realtime_ns, STATE_U64),
	STATE_FIELD(struct kv_vm_state, host_tsc, STATE_U64),
	STATE_FIELD(struct kv_vm_state, tsc_khz, STATE_U32),
};

static int vm_state_load(void *obj, uint16_t version, struct err *err)
{
	struct kv_vm_state *s = obj;

	(void)version;
	if (s->pic_master.chip_id != KVM_IRQCHIP_PIC_MASTER ||
	    s->pic_slave.chip_id != KVM_IRQCHIP_PIC_SLAVE ||
	    s->ioapic.chip_id != KVM_IRQCHIP_IOAPIC)
		return err_set(err, -EBADMSG,
			       "interrupt controllers %u, %u, %u in place of "
			       "0, 1, 2",
			       s->pic_master.chip_id, s->pic_slave.chip_id,
			       s->ioapic.chip_id);
	return 0;
}

static const struct state_desc vm_desc = {
	.version = 1,
	.min_version = 1,
	.fields = vm_fields,
	.field_count = array_size(vm_fields),
	.load = vm_state_load,
};

void kv_vm_state_register(struct kv *kv)
{
	state_register(kv->state, &kv->vm_entry, "kvm", &vm_desc,
		       &kv->vm_state);
}

bool kv_tsc_is_scaled(const struct kv_tsc_rate *rate)
{
	const uint64_t million = 1000000, host = rate->host_khz;

	return host && (rate->guest_khz < host * (million - TSC_TOLERANCE_PPM) /
						  million ||
			rate->guest_khz >
				host * (million + TSC_TOLERANCE_PPM) / million);
}

uint64_t kv_tsc_scale(const struct kv_tsc_rate *rate, uint64_t host_tsc)
{
	uint64_t ratio;

	if (!kv_tsc_is_scaled(rate))
		return host_tsc;
	ratio = (uint64_t)(((unsigned __int128)rate->guest_khz
			    << rate->frac_bits) /
			   rate->host_khz);
	return (uint64_t)((unsigned __int128)host_tsc * ratio >>
			  rate->frac_bits);
}

uint64_t kv_tsc_delta(const struct kv_vm_state *then,
		      const struct kv_vm_state *now)
{
	int64_t advance_ns = (int64_t)(now->kvmclock_ns - then->kvmclock_ns);

	return then->host_tsc - now->host_tsc +
	       (uint64_t)((__int128)advance_ns * then->tsc_khz / 1000000);
}

/* kvmclock, realtime and host TSC (scaled) at one moment. */
static int read_clock(struct kv *kv, struct kv_vm_state *s, struct err *err)
{
	const uint32_t pair = KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC;
	struct kvm_clock_data clock = { .flags = 0 };

	if (ioctl(kv->vm_fd, KVM_GET_CLOCK, &clock) < 0)
		return err_set_errno(err, -errno, "KVM_GET_CLOCK");
	s->kvmclock_ns = clock.clock;
	if ((clock.flags & pair) == pair) {
		s->realtime_ns = clock.realtime;
		s->host_tsc = clock.host_tsc;
	} else {
		s->host_tsc = __rdtsc();
		s->realtime_ns = clock_real_ns();
	}
	s->host_tsc = kv_tsc_scale(&kv->tsc_rate, s->host_tsc);
	return 0;
}

static int irqchip(struct kv *kv, unsigned long request,
		   struct kvm_irqchip *chip, uint32_t id, struct err *err)
{
	chip->chip_id = id;
	if (ioctl(kv->vm_fd, request, chip) < 0)
		return err_set_errno(err, -errno, "interrupt controller %u",
				     id);
	return 0;
}

static int irqchips(struct kv *kv, unsigned long request, struct err *err)
{
	struct kv_vm_state *s = &kv->vm_state;
	int ret;

	ret = irqchip(kv, request, &s->pic_master, KVM_IRQCHIP_PIC_MASTER, err);
	if (!ret)
		ret = irqchip(kv, request, &s->pic_slave, KVM_IRQCHIP_PIC_SLAVE,
			      err);
	if (!ret)
		ret = irqchip(kv, request, &s->ioapic, KVM_IRQCHIP_IOAPIC, err);
	return ret;
}

int kv_vm_save(struct accel *accel, struct err *err)
{
	struct kv *kv = kv_of(accel);
	struct kv_vm_state *s = &kv->vm_state;
	int ret;

	ret = irqchips(kv, KVM_GET_IRQCHIP, err);
	if (ret)
		return ret;
	if (kv->has_pit && ioctl(kv->vm_fd, KVM_GET_PIT2, &s->pit) < 0)
		return err_set_errno(err, -errno, "KVM_GET_PIT2");
	s->tsc_khz = kv->tsc_rate.guest_khz;
	return read_clock(kv, s, err);
}

static int load_clock(struct kv *kv, struct err *err)
{
	const struct kv_vm_state *then = &kv->vm_state;
	struct kv_vm_state now = { .host_tsc = 0 };
	struct kvm_clock_data clock = { .clock = then->kvmclock_ns };
	uint64_t real_ns = clock_real_ns();
	int ret;

	/*
	 * By the kernel, if it can: what passes before it has done so is lost
	 * otherwise, 40-400 us in the lab (tests/lab/test_clocks.py).  Either way a
	 * realtime that is earlier here does not turn the guest's time back.
	 */
	if (kv->has_clock_realtime) {
		clock.flags = KVM_CLOCK_REALTIME;
		clock.realtime = then->realtime_ns;
	} else if (real_ns > then->realtime_ns) {
		clock.clock += real_ns - then->realtime_ns;
	}
	if (ioctl(kv->vm_fd, KVM_SET_CLOCK, &clock) < 0)
		return err_set_errno(err, -errno, "KVM_SET_CLOCK");
	ret = read_clock(kv, &now, err);
	if (ret)
		return ret;
	kv->tsc_delta = kv_tsc_delta(then, &now);
	return 0;
}

/* Without its own scaling, KVM would take some frequencies and then nudge the
 * offset now and then: not what the guest was promised. */
static int load_tsc_rate(struct kv *kv, struct err *err)
{
	struct kv_tsc_rate rate = kv->tsc_rate;
	bool is_refused;

	rate.guest_khz = kv->vm_state.tsc_khz;
	if (!rate.guest_khz || rate.guest_khz == kv->tsc_rate.guest_khz)
		return 0;
	is_refused = kv_tsc_is_scaled(&rate) && !rate.frac_bits;
	for (unsigned int i = 0; !is_refused && i < kv->cpus; i++)
		is_refused = ioctl(kv->vcpus[i]->fd, KVM_SET_TSC_KHZ,
				   (unsigned long)rate.guest_khz) < 0;
	if (is_refused)
		return err_set(err, -ENOTSUP,
			       "the guest's TSC runs at %u kHz, this host's at "
			       "%u and KVM cannot scale it",
			       rate.guest_khz, rate.host_khz);
	kv->tsc_rate = rate;
	return 0;
}

int kv_vm_load(struct accel *accel, struct err *err)
{
	struct kv *kv = kv_of(accel);
	struct kv_vm_state *s = &kv->vm_state;
	int ret;

	ret = load_tsc_rate(kv, err);
	if (ret)
		return ret;
	ret = irqchips(kv, KVM_SET_IRQCHIP, err);
	if (ret)
		return ret;
	if (kv->has_pit && ioctl(kv->vm_fd, KVM_SET_PIT2, &s->pit) < 0)
		return err_set_errno(err, -errno, "KVM_SET_PIT2");
	return load_clock(kv, err);
}
