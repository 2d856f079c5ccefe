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
 *
 * kv_vcpus_flush() does the same, but for is_kicked, so that the vCPU goes on
 * again at once.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/trace.h"
#include "kvm_priv.h"
#include "mem/access.h"

/* libc's sigset_t is longer. */
#define KERNEL_SIGSET_SIZE 8u

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
	if (!ret)
		ret = kv_ring_vcpu_add(vcpu, err);
	if (ret)
		goto out_unmap;
	kv_vcpu_state_register(vcpu);
	kv_vcpu_setup_register(vcpu);
	kv->vcpus[index] = vcpu;
	/* Also so that the structure's pages exist when it is saved or loaded
	 * with the guest stopped. */
	ret = kv_vcpu_known_note(vcpu, err);
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
	state_unregister(&vcpu->setup_entry);
	kv_ring_vcpu_del(vcpu);
	munmap(vcpu->run, vcpu->kv->run_size);
	close_stats(vcpu);
	close(vcpu->fd);
	kv_vcpu_known_drop(vcpu);
	free(vcpu);
}

/* Pairs with the kernel's read on entry to KVM_RUN. */
static void set_immediate_exit(struct kv_vcpu *vcpu, uint8_t value)
{
	__atomic_store_n(&vcpu->run->immediate_exit, value, __ATOMIC_SEQ_CST);
}

/* In this order: was_kicked() looks the other way round. */
void kv_vcpu_kick(struct accel_vcpu *accel_vcpu)
{
	struct kv_vcpu *vcpu = kv_vcpu_of(accel_vcpu);

	__atomic_store_n(&vcpu->is_kicked, true, __ATOMIC_SEQ_CST);
	set_immediate_exit(vcpu, 1);
}

void kv_vcpu_unkick(struct accel_vcpu *accel_vcpu)
{
	struct kv_vcpu *vcpu = kv_vcpu_of(accel_vcpu);

	kv_vcpu_known_drop(vcpu);
	__atomic_store_n(&vcpu->is_kicked, false, __ATOMIC_SEQ_CST);
	set_immediate_exit(vcpu, 0);
}

/* After EINTR: true for kv_vcpu_kick(), whose mark stays.  After a flush the next
 * KVM_RUN is to enter the guest; a kick meanwhile is either seen here, or sets
 * immediate_exit after this has cleared it. */
static bool was_kicked(struct kv_vcpu *vcpu)
{
	if (!__atomic_load_n(&vcpu->is_kicked, __ATOMIC_SEQ_CST))
		set_immediate_exit(vcpu, 0);
	return __atomic_load_n(&vcpu->is_kicked, __ATOMIC_SEQ_CST);
}

/* KVM_RUN, between the two marks that kv_vcpus_flush() looks at. */
static int enter_guest(struct kv_vcpu *vcpu)
{
	struct kv *kv = vcpu->kv;
	int ret;

	__atomic_add_fetch(&vcpu->run_seq, 1, __ATOMIC_SEQ_CST);
	ret = ioctl(vcpu->fd, KVM_RUN, 0) < 0 ? -errno : 0;
	__atomic_add_fetch(&vcpu->run_seq, 1, __ATOMIC_SEQ_CST);
	/* Pairs with the store in kv_vcpus_flush(): either this sees that
	 * somebody waits, or that one sees that the vCPU left. */
	if (__atomic_load_n(&kv->left_is_awaited, __ATOMIC_SEQ_CST)) {
		lock_acquire(&kv->left_lock);
		pthread_cond_signal(&kv->left);
		lock_release(&kv->left_lock);
	}
	return ret;
}

uint64_t kv_vcpu_run_seq(const struct kv_vcpu *vcpu)
{
	return __atomic_load_n(&vcpu->run_seq, __ATOMIC_SEQ_CST);
}

static bool all_left(const struct kv *kv)
{
	for (unsigned int i = 0; i < kv->cpus; i++) {
		if (kv->left_seqs[i] & 1 &&
		    kv_vcpu_run_seq(kv->vcpus[i]) == kv->left_seqs[i])
			return false;
	}
	return true;
}

void kv_vcpus_flush(struct kv *kv)
{
	uint64_t start = clock_mono_ns();
	unsigned int kicked = 0;

	for (unsigned int i = 0; i < kv->cpus; i++) {
		struct kv_vcpu *vcpu = kv->vcpus[i];

		kv->left_seqs[i] = kv_vcpu_run_seq(vcpu);
		if (!(kv->left_seqs[i] & 1))
			continue;
		set_immediate_exit(vcpu, 1);
		tgkill(getpid(),
		       __atomic_load_n(&vcpu->thread_id, __ATOMIC_RELAXED),
		       ACCEL_KICK_SIGNAL);
		kicked++;
	}
	lock_acquire(&kv->left_lock);
	__atomic_store_n(&kv->left_is_awaited, true, __ATOMIC_SEQ_CST);
	while (!all_left(kv))
		lock_wait(&kv->left_lock, &kv->left);
	__atomic_store_n(&kv->left_is_awaited, false, __ATOMIC_SEQ_CST);
	lock_release(&kv->left_lock);
	trace(kvm_ring_flush, "%u vCPUs kicked, %lu us", kicked,
	      (clock_mono_ns() - start) / 1000);
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
	case KVM_EXIT_DIRTY_RING_FULL:
		return kv_ring_full(vcpu, err) == 0;
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

static int mask_in_run(struct kv_vcpu *vcpu, const sigset_t *mask)
{
	uint32_t arg[1 + KERNEL_SIGSET_SIZE / sizeof(uint32_t)] = {
		KERNEL_SIGSET_SIZE /* struct kvm_signal_mask, whose end varies */
	};

	if (!mask)
		return ioctl(vcpu->fd, KVM_SET_SIGNAL_MASK, NULL);
	memcpy(arg + 1, mask, KERNEL_SIGSET_SIZE);
	return ioctl(vcpu->fd, KVM_SET_SIGNAL_MASK, arg);
}

/*
 * A first KVM_RUN makes the vCPU's part of KVM's MMU: 120 pages with shadow page
 * tables, 55 us, which would be in the pause of a guest that arrives.  With
 * immediate_exit KVM does not come so far; with a signal that waits to be delivered
 * it does, and still returns before the guest.  In vain where the vCPU waits for
 * SIPI (all but the first, before their state is loaded).
 */
void kv_vcpu_warm_up(struct accel_vcpu *accel_vcpu)
{
	struct kv_vcpu *vcpu = kv_vcpu_of(accel_vcpu);
	sigset_t kick, before;

	sigemptyset(&kick);
	sigaddset(&kick, ACCEL_KICK_SIGNAL);
	pthread_sigmask(SIG_BLOCK, &kick, &before);
	if (!mask_in_run(vcpu, &before)) {
		pthread_kill(pthread_self(), ACCEL_KICK_SIGNAL);
		set_immediate_exit(vcpu, 0);
		ioctl(vcpu->fd, KVM_RUN, 0); /* EINTR */
		set_immediate_exit(vcpu, 1);
		mask_in_run(vcpu, NULL);
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

enum accel_exit kv_vcpu_run(struct accel_vcpu *accel_vcpu, struct err *err)
{
	struct kv_vcpu *vcpu = kv_vcpu_of(accel_vcpu);
	enum accel_exit exit = ACCEL_EXIT_FAILED;

	__atomic_store_n(&vcpu->thread_id, gettid(), __ATOMIC_RELAXED);
	for (;;) {
		int ret = enter_guest(vcpu);

		if (ret == -EINTR && was_kicked(vcpu))
			return ACCEL_EXIT_KICKED;
		/* EAGAIN: a vCPU that waited for SIPI was made runnable
		 * meanwhile. */
		if (ret == -EINTR || ret == -EAGAIN)
			continue;
		if (ret < 0) {
			err_set_errno(err, ret, "KVM_RUN of vCPU %u",
				      accel_vcpu->index);
			return ACCEL_EXIT_FAILED;
		}
		if (!handle_exit(vcpu, &exit, err))
			return exit;
	}
}
