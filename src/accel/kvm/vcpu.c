// SPDX-License-Identifier: Apache-2.0
/*
 * One vCPU: creation, run loop, exits.
 *
 * Kicks.  kv_vcpu_kick() sets immediate_exit in the shared kvm_run; its caller
 * then sends the thread a signal (machine/vcpu.c).  Whether the thread is in
 * KVM_RUN, on its way there or in an exit handler, the next (or current) KVM_RUN
 * returns EINTR, and by then KVM has completed the I/O of the last exit (api.rst,
 * KVM_RUN: "complete pending operations").  So kv_vcpu_run() returns
 * ACCEL_EXIT_KICKED only with the vCPU in a state that may be saved.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/err.h"
#include "kvm_priv.h"
#include "mem/access.h"

static void close_stats(struct kv_vcpu *vcpu)
{
	if (vcpu->stats_fd >= 0)
		close(vcpu->stats_fd);
}

int kv_vcpu_new(struct accel *accel, unsigned int index,
		struct accel_vcpu **ret_vcpu, struct err *err)
{
	struct kv *kv = kv_of(accel);
	struct kv_vcpu *vcpu = calloc(1, sizeof(*vcpu));
	void *run;
	int ret;

	if (!vcpu)
		return err_set(err, -ENOMEM, "no memory for vCPU %u", index);
	vcpu->vcpu.ops = accel->ops;
	vcpu->vcpu.index = index;
	vcpu->kv = kv;
	vcpu->fd = ioctl(kv->vm_fd, KVM_CREATE_VCPU, (unsigned long)index);
	if (vcpu->fd < 0) {
		ret = err_set_errno(err, -errno, "KVM_CREATE_VCPU %u", index);
		free(vcpu);
		return ret;
	}
	vcpu->stats_fd = kv_stats_open(vcpu->fd);
	run = mmap(NULL, kv->run_size, PROT_READ | PROT_WRITE, MAP_SHARED,
		   vcpu->fd, 0);
	if (run == MAP_FAILED) {
		ret = err_set_errno(err, -errno, "kvm_run of vCPU %u", index);
		goto out_close;
	}
	vcpu->run = run;
	if (index == 0)
		kv_tsc_rate_probe(vcpu);
	ret = kv_cpuid_apply(vcpu, err);
	if (!ret && index == 0)
		ret = kv_msr_list_probe(vcpu, err);
	if (ret)
		goto out_unmap;
	kv_vcpu_state_register(vcpu);
	kv->vcpus[index] = vcpu;
	/* Also so that the structure's pages exist when it is saved or loaded
	 * with the guest stopped. */
	ret = kv_vcpu_note_fresh(vcpu, err);
	if (ret) {
		kv_vcpu_free(&vcpu->vcpu);
		return ret;
	}
	*ret_vcpu = &vcpu->vcpu;
	return 0;

out_unmap:
	munmap(vcpu->run, kv->run_size);
out_close:
	close_stats(vcpu);
	close(vcpu->fd);
	free(vcpu);
	return ret;
}

void kv_vcpu_free(struct accel_vcpu *accel_vcpu)
{
	struct kv_vcpu *vcpu = kv_vcpu_of(accel_vcpu);

	vcpu->kv->vcpus[accel_vcpu->index] = NULL;
	state_unregister(&vcpu->entry);
	munmap(vcpu->run, vcpu->kv->run_size);
	close_stats(vcpu);
	close(vcpu->fd);
	kv_vcpu_forget_fresh(vcpu);
	free(vcpu);
}

void kv_vcpu_kick(struct accel_vcpu *vcpu)
{
	/* Pairs with the kernel's read on entry to KVM_RUN. */
	__atomic_store_n(&kv_vcpu_of(vcpu)->run->immediate_exit, 1,
			 __ATOMIC_SEQ_CST);
}

void kv_vcpu_unkick(struct accel_vcpu *vcpu)
{
	kv_vcpu_forget_fresh(kv_vcpu_of(vcpu));
	__atomic_store_n(&kv_vcpu_of(vcpu)->run->immediate_exit, 0,
			 __ATOMIC_SEQ_CST);
}

static void exit_io(struct kv_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;

	for (uint32_t i = 0; i < run->io.count; i++) {
		if (run->io.direction == KVM_EXIT_IO_OUT)
			mem_write(vcpu->kv->ports, run->io.port, data,
				  run->io.size);
		else
			mem_read(vcpu->kv->ports, run->io.port, data,
				 run->io.size);
		data += run->io.size;
	}
}

static void exit_mmio(struct kv_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	size_t size = run->mmio.len <= sizeof(run->mmio.data)
			      ? run->mmio.len
			      : sizeof(run->mmio.data);

	if (run->mmio.is_write)
		mem_write(vcpu->kv->memory, run->mmio.phys_addr, run->mmio.data,
			  size);
	else
		mem_read(vcpu->kv->memory, run->mmio.phys_addr, run->mmio.data,
			 size);
}

/* True when the vCPU goes on; otherwise *@ret_exit says why not. */
static bool handle_exit(struct kv_vcpu *vcpu, enum accel_exit *ret_exit,
			struct err *err)
{
	struct kvm_run *run = vcpu->run;

	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		exit_io(vcpu);
		return true;
	case KVM_EXIT_MMIO:
		exit_mmio(vcpu);
		return true;
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		return true;
	case KVM_EXIT_SHUTDOWN:
		*ret_exit = ACCEL_EXIT_SHUTDOWN;
		return false;
	case KVM_EXIT_FAIL_ENTRY:
		err_set(err, -EIO,
			"vCPU %u: entry failed, hardware reason "
			"0x%llx",
			vcpu->vcpu.index,
			run->fail_entry.hardware_entry_failure_reason);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		err_set(err, -EIO, "vCPU %u: KVM internal error %u%s",
			vcpu->vcpu.index, run->internal.suberror,
			run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION
				? " (an instruction it cannot emulate)"
				: "");
		break;
	default:
		err_set(err, -EIO, "vCPU %u: unexpected exit reason %u",
			vcpu->vcpu.index, run->exit_reason);
		break;
	}
	*ret_exit = ACCEL_EXIT_FAILED;
	return false;
}

enum accel_exit kv_vcpu_run(struct accel_vcpu *accel_vcpu, struct err *err)
{
	struct kv_vcpu *vcpu = kv_vcpu_of(accel_vcpu);
	enum accel_exit exit = ACCEL_EXIT_FAILED;

	for (;;) {
		if (ioctl(vcpu->fd, KVM_RUN, 0) < 0) {
			/* EAGAIN: a vCPU that waited for SIPI was made
			 * runnable meanwhile. */
			if (errno == EINTR &&
			    __atomic_load_n(&vcpu->run->immediate_exit,
					    __ATOMIC_SEQ_CST))
				return ACCEL_EXIT_KICKED;
			if (errno == EINTR || errno == EAGAIN)
				continue;
			err_set_errno(err, -errno, "KVM_RUN of vCPU %u",
				      accel_vcpu->index);
			return ACCEL_EXIT_FAILED;
		}
		if (!handle_exit(vcpu, &exit, err))
			return exit;
	}
}
