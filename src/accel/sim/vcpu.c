// SPDX-License-Identifier: Apache-2.0
/*
 * One vCPU: in the guest it takes one step of its program after another; it leaves
 * for I/O, when it is kicked, when a sync wants its log buffer, when its ring is
 * full, and when it has nothing to do.
 *
 * Epochs.  Between two steps a vCPU notes the VM's epoch, and 0 outside of the
 * guest.  Who took out a table or a slot advances the epoch and waits until no
 * vCPU shows an older one: then none uses it.
 *
 * Kicks.  sim_vcpu_kick() sets a flag that is looked at between two steps, and
 * rings the doorbell that a vCPU with nothing to do sleeps on.  An exit's I/O is
 * complete before that: state may be saved whenever sim_vcpu_run() has come back.
 */
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/trace.h"
#include "mem/access.h"
#include "mem/ram.h"
#include "sim_priv.h"

#define SPINS_A_YIELD 64u

static void futex_wake(uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

/* ---- in and out of the guest ---- */

static void note_epoch(struct sim_vcpu *vcpu)
{
	/* In the one order with what was taken out before the epoch advanced. */
	__atomic_store_n(&vcpu->epoch,
			 __atomic_load_n(&vcpu->sim->epoch, __ATOMIC_SEQ_CST),
			 __ATOMIC_SEQ_CST);
}

void sim_enter(struct sim_vcpu *vcpu)
{
	note_epoch(vcpu);
}

/* Pairs with sim_flush_all(), which reads the exits, asks, and looks whether the vCPU is in the
 * guest.  Whoever asks behind the exchange finds that it has left, or it is asked still when
 * it enters. */
void sim_leave(struct sim_vcpu *vcpu)
{
	bool is_asked;

	sim_log_flush(vcpu);
	is_asked = __atomic_exchange_n(&vcpu->is_flush_asked, false,
				       __ATOMIC_SEQ_CST);
	__atomic_store_n(&vcpu->epoch, 0, __ATOMIC_SEQ_CST);
	__atomic_add_fetch(&vcpu->exits, 1, __ATOMIC_SEQ_CST);
	if (is_asked ||
	    __atomic_load_n(&vcpu->is_flush_asked, __ATOMIC_SEQ_CST))
		futex_wake(&vcpu->exits);
}

bool sim_is_wanted(struct sim_vcpu *vcpu)
{
	note_epoch(vcpu);
	return __atomic_load_n(&vcpu->is_kicked, __ATOMIC_SEQ_CST) ||
	       __atomic_load_n(&vcpu->is_flush_asked, __ATOMIC_SEQ_CST) ||
	       sim_ring_is_full(&vcpu->ring);
}

void sim_wait_epoch(struct sim *sim)
{
	uint64_t epoch = __atomic_add_fetch(&sim->epoch, 1, __ATOMIC_SEQ_CST);

	for (unsigned int i = 0; i < sim->cpus; i++) {
		struct sim_vcpu *vcpu =
			__atomic_load_n(&sim->vcpus[i], __ATOMIC_ACQUIRE);
		unsigned int spins = 0;
		uint64_t seen;

		while (vcpu &&
		       (seen = __atomic_load_n(&vcpu->epoch,
					       __ATOMIC_SEQ_CST)) != 0 &&
		       seen < epoch) {
			if (++spins % SPINS_A_YIELD == 0)
				sched_yield();
			__builtin_ia32_pause();
		}
	}
}

/* ---- memory ---- */

/* Map or open the page: false where there is no such RAM. */
static bool fault(struct sim_vcpu *vcpu, uint64_t gpa, bool is_write,
		  bool *ret_is_logged)
{
	struct sim *sim = vcpu->sim;
	struct sim_slot *slot;
	int ret = -EFAULT;

	s2_lock(&sim->s2);
	slot = sim_slot_find(sim, gpa);
	if (slot && !(is_write && slot->is_readonly)) {
		struct s2_range range = sim_slot_range(sim, slot);

		ret = s2_fault(&sim->s2, &range, gpa, is_write);
		*ret_is_logged = range.is_logged;
	}
	s2_unlock(&sim->s2);
	return ret == 0;
}

/*
 * A protected 4 KiB leaf and nothing else in the way: no lock.
 *
 * KVM's fast path repairs such a leaf whether or not the slot is still logged, so that
 * every page that was protected last faults once more behind the end of logging.  Here
 * that goes the slow way, which maps a large leaf: one fault for all that is below it.
 */
static bool fault_fast(struct sim_vcpu *vcpu, uint64_t gpa,
		       struct s2_walk *walk, bool *ret_is_logged)
{
	const struct sim_slot *slot;

	if (walk->level != 0 || !walk->is_open_above ||
	    !(walk->value & S2_PRESENT))
		return false;
	slot = sim_slot_find(vcpu->sim, gpa);
	if (!slot || slot->is_readonly ||
	    !__atomic_load_n(&slot->is_logged, __ATOMIC_ACQUIRE))
		return false;
	if (!__atomic_compare_exchange_n(walk->entry, &walk->value,
					 walk->value | S2_WRITE, false,
					 __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE))
		return false;
	*ret_is_logged = __atomic_load_n(&slot->is_logged, __ATOMIC_SEQ_CST);
	return true;
}

void *sim_read_begin(struct sim_vcpu *vcpu, uint64_t gpa)
{
	bool is_logged;
	struct s2_walk walk;

	if (gpa >> S2_GPA_BITS)
		return NULL;
	while (!s2_walk(&vcpu->sim->s2, gpa, &walk)) {
		if (!fault(vcpu, gpa, false, &is_logged))
			return NULL;
	}
	return s2_host(&walk, gpa);
}

void *sim_write_begin(struct sim_vcpu *vcpu, uint64_t gpa)
{
	if (gpa >> S2_GPA_BITS)
		return NULL;
	for (;;) {
		bool is_logged = false;
		struct s2_walk walk;

		s2_walk(&vcpu->sim->s2, gpa, &walk);
		if (walk.is_writable)
			return s2_host(&walk, gpa);
		if (!fault_fast(vcpu, gpa, &walk, &is_logged) &&
		    !fault(vcpu, gpa, true, &is_logged))
			return NULL;
		__atomic_add_fetch(&vcpu->write_faults, 1, __ATOMIC_RELAXED);
		if (is_logged)
			sim_log_write(vcpu, gpa >> RAM_PAGE_SHIFT);
	}
}

void sim_write_end(struct sim_vcpu *vcpu, uint64_t gpa)
{
	struct s2_walk walk;

	/* A full barrier: what was written is seen by whoever cleared the write
	 * bit, or the walk sees it cleared (s2_protect_page()). */
	__atomic_fetch_add(&vcpu->barrier, 1, __ATOMIC_SEQ_CST);
	s2_walk(&vcpu->sim->s2, gpa, &walk);
	if (!walk.is_writable)
		sim_write_begin(vcpu, gpa);
}

/* Guest memory is read by a migration while it is written: no race that a
 * sanitizer should know of. */
#define GUEST_ACCESS __attribute__((no_sanitize("thread"), noinline))

/* As a guest may have them: anywhere. */
typedef uint16_t guest_u16 __attribute__((aligned(1)));
typedef uint32_t guest_u32 __attribute__((aligned(1)));
typedef uint64_t guest_u64 __attribute__((aligned(1)));

GUEST_ACCESS static uint64_t ram_load(const void *host, unsigned int size)
{
	switch (size) {
	case 1:
		return *(const volatile uint8_t *)host;
	case 2:
		return *(const volatile guest_u16 *)host;
	case 4:
		return *(const volatile guest_u32 *)host;
	default:
		return *(const volatile guest_u64 *)host;
	}
}

GUEST_ACCESS static void ram_store(void *host, uint64_t value,
				   unsigned int size)
{
	switch (size) {
	case 1:
		*(volatile uint8_t *)host = (uint8_t)value;
		break;
	case 2:
		*(volatile guest_u16 *)host = (uint16_t)value;
		break;
	case 4:
		*(volatile guest_u32 *)host = (uint32_t)value;
		break;
	default:
		*(volatile guest_u64 *)host = value;
		break;
	}
}

uint64_t sim_load(struct sim_vcpu *vcpu, uint64_t gpa, unsigned int size)
{
	const void *host = sim_read_begin(vcpu, gpa);
	uint64_t value = 0;

	if (host)
		return ram_load(host, size);
	sim_leave(vcpu);
	mem_read(vcpu->sim->memory, gpa, &value, size);
	sim_enter(vcpu);
	return value;
}

void sim_store(struct sim_vcpu *vcpu, uint64_t gpa, uint64_t value,
	       unsigned int size)
{
	void *host = sim_write_begin(vcpu, gpa);

	if (host) {
		ram_store(host, value, size);
		sim_write_end(vcpu, gpa);
		return;
	}
	sim_leave(vcpu);
	mem_write(vcpu->sim->memory, gpa, &value, size);
	sim_enter(vcpu);
}

uint32_t sim_in(struct sim_vcpu *vcpu, uint16_t port, unsigned int size)
{
	uint32_t value = 0;

	sim_leave(vcpu);
	mem_read(vcpu->sim->ports, port, &value, size);
	sim_enter(vcpu);
	return value;
}

void sim_out(struct sim_vcpu *vcpu, uint16_t port, const void *data,
	     size_t count, unsigned int size)
{
	const uint8_t *at = data;

	sim_leave(vcpu);
	for (size_t i = 0; i < count; i++, at += size)
		mem_write(vcpu->sim->ports, port, at, size);
	sim_enter(vcpu);
}

/* ---- life ---- */

int sim_vcpu_new(struct accel *accel, unsigned int index,
		 struct accel_vcpu **ret_vcpu, struct err *err)
{
	struct sim *sim = sim_of(accel);
	struct sim_vcpu *vcpu = calloc(1, sizeof(*vcpu));
	char name[STATE_NAME_MAX];

	if (!vcpu || (sim_has_rings(sim) &&
		      sim_ring_init(&vcpu->ring, sim->ring_entries))) {
		free(vcpu);
		return err_set(err, -ENOMEM, "no memory for vCPU %u", index);
	}
	vcpu->vcpu = (struct accel_vcpu){ accel->ops, index };
	vcpu->sim = sim;
	snprintf(name, sizeof(name), "vcpu%u", index);
	state_register(sim->state, &vcpu->entry, name, &sim_vcpu_desc,
		       &vcpu->regs);
	__atomic_store_n(&sim->vcpus[index], vcpu, __ATOMIC_RELEASE);
	*ret_vcpu = &vcpu->vcpu;
	return 0;
}

/* The collapse worker may be looking at it: it stays until the end. */
void sim_vcpu_free(struct accel_vcpu *accel_vcpu)
{
	struct sim_vcpu *vcpu = sim_vcpu_of(accel_vcpu);
	struct sim *sim = vcpu->sim;

	__atomic_store_n(&sim->vcpus[accel_vcpu->index], NULL,
			 __ATOMIC_RELEASE);
	state_unregister(&vcpu->entry);
	list_add_tail(&sim->retired, &vcpu->link);
}

void sim_vcpu_kick(struct accel_vcpu *accel_vcpu)
{
	struct sim_vcpu *vcpu = sim_vcpu_of(accel_vcpu);

	__atomic_store_n(&vcpu->is_kicked, true, __ATOMIC_SEQ_CST);
	__atomic_add_fetch(&vcpu->doorbell, 1, __ATOMIC_SEQ_CST);
	futex_wake(&vcpu->doorbell);
}

void sim_vcpu_unkick(struct accel_vcpu *accel_vcpu)
{
	__atomic_store_n(&sim_vcpu_of(accel_vcpu)->is_kicked, false,
			 __ATOMIC_SEQ_CST);
}

int sim_vcpu_boot(struct accel_vcpu *accel_vcpu,
		  const struct accel_boot_regs *regs, struct err *err)
{
	struct sim_vcpu *vcpu = sim_vcpu_of(accel_vcpu);

	if (regs->is_long)
		return err_set(err, -ENOTSUP,
			       "the simulated accelerator runs no code");
	vcpu->regs.stage = SIM_WARM;
	vcpu->regs.start_info = regs->rbx;
	return 0;
}

/* Registers are where the program leaves them. */
int sim_vcpu_save(struct accel_vcpu *accel_vcpu, struct err *err)
{
	struct sim_vcpu *vcpu = sim_vcpu_of(accel_vcpu);

	(void)err;
	if (vcpu->sim->options.has_pv && vcpu->program)
		sim_program_pv(vcpu);
	return 0;
}

int sim_vcpu_load(struct accel_vcpu *accel_vcpu, struct err *err)
{
	(void)err;
	sim_vcpu_of(accel_vcpu)->is_program_checked = false;
	return 0;
}

/* Neither takes time. */
int sim_vcpu_rehearse(struct accel_vcpu *accel_vcpu, struct err *err)
{
	(void)accel_vcpu;
	(void)err;
	return 0;
}

/* ---- running ---- */

static bool is_kicked(const struct sim_vcpu *vcpu)
{
	return __atomic_load_n(&vcpu->is_kicked, __ATOMIC_SEQ_CST);
}

void sim_ring_full(struct sim_vcpu *vcpu)
{
	struct sim *sim = vcpu->sim;

	__atomic_add_fetch(&vcpu->ring_full_exits, 1, __ATOMIC_RELAXED);
	sim_slots_lock(sim);
	sim_harvest_ring(sim, &vcpu->ring);
	sim_slots_unlock(sim);
	trace(sim_ring_full, "vCPU %u", vcpu->vcpu.index);
}

/* Outside of the guest, for @idle_ns or until the doorbell rings. */
static void nap(struct sim_vcpu *vcpu, uint64_t idle_ns)
{
	uint32_t bell = __atomic_load_n(&vcpu->doorbell, __ATOMIC_SEQ_CST);
	struct timespec ts = { .tv_sec = (time_t)(idle_ns / NS_PER_SEC),
			       .tv_nsec = (long)(idle_ns % NS_PER_SEC) };
	uint64_t until_tsc = sim_tsc(vcpu->sim) + idle_ns;

	if (!is_kicked(vcpu))
		syscall(SYS_futex, &vcpu->doorbell, FUTEX_WAIT_PRIVATE, bell,
			&ts, NULL, 0);
	sim_program_slept(vcpu, until_tsc);
}

/* In the guest from here to the end; returns how long there is nothing to do. */
static uint64_t run_guest(struct sim_vcpu *vcpu)
{
	uint64_t idle_ns = 0;

	sim_enter(vcpu);
	while (!idle_ns && !sim_is_wanted(vcpu))
		idle_ns = sim_program_step(vcpu);
	sim_leave(vcpu);
	return idle_ns;
}

enum accel_exit sim_vcpu_run(struct accel_vcpu *accel_vcpu, struct err *err)
{
	struct sim_vcpu *vcpu = sim_vcpu_of(accel_vcpu);

	while (!is_kicked(vcpu)) {
		uint64_t idle_ns;

		if (!vcpu->is_program_checked && sim_program_bind(vcpu, err))
			return ACCEL_EXIT_FAILED;
		if (vcpu->sim->options.has_pv)
			sim_program_pv(vcpu);
		if (sim_ring_is_full(&vcpu->ring))
			sim_ring_full(vcpu);
		idle_ns = run_guest(vcpu);
		if (idle_ns)
			nap(vcpu, idle_ns);
	}
	return ACCEL_EXIT_KICKED;
}
