/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The KVM accelerator, shared by its files:
 *
 *	kvm.c        the VM: creation, capabilities, interrupt lines
 *	cpuid.c      what processor the guest sees
 *	slots.c      memslots and dirty logging on and off, as a memory listener
 *	slot.c       one of them
 *	bitmap.c     the dirty bitmap of a memslot
 *	log_stop.c   turns logging off when nothing wants it any more
 *	ring.c       the dirty rings of vCPUs, instead
 *	vcpu.c       one vCPU: creation, run loop, exits
 *	vcpu_state.c one vCPU's registers, both ways
 *	vcpu_msrs.c  the model-specific ones among them
 *	vcpu_setup.c what of them a destination has before the switch
 *	routes.c     message-signalled interrupts: routes and irqfds
 *	stats.c      the kernel's counters
 *	vm_state.c   clock, interrupt controllers and PIT, both ways
 *
 * Source of all ioctls: Documentation/virt/kvm/api.rst.
 */
#ifndef GODWIT_ACCEL_KVM_PRIV_H
#define GODWIT_ACCEL_KVM_PRIV_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "accel/accel.h"
#include "accel/routes.h"
#include "base/err.h"
#include "base/list.h"
#include "base/lock.h"
#include "mem/space.h"
#include "ring.h"
#include "state/state.h"

#define KV_CPUID_MAX 256u
#define KV_MSR_MAX   512u
#define KV_XSAVE_MAX 16384u

/* CPUID as the guest sees it, but for the parts that name a vCPU. */
struct kv_cpuid {
	uint32_t count;
	struct kvm_cpuid_entry2 entries[KV_CPUID_MAX];
	/* The same as bytes, for the stream. */
	uint32_t bytes_used;
	uint8_t bytes[KV_CPUID_MAX * sizeof(struct kvm_cpuid_entry2)];
};

/* Which MSRs this kernel lets us save. */
struct kv_msr_list {
	uint32_t count;
	uint32_t index[KV_MSR_MAX];
	bool is_fixed[KV_MSR_MAX]; /* KVM refuses to set it: compared instead */
};

/* 1 GiB: turning logging off takes 9 ms, for which other changes of memslots wait;
 * why no less and no more: docs/dirty-tracking.md.  More where a guest would need most
 * of the memslots that there are; KVM takes none of 8 TiB. */
#define KV_SLOT_SIZE_MIN (1ull << 30)
#define KV_SLOT_SIZE_MAX (1ull << 42)

/* A memslot: at most kv.slot_size of one RAM block. */
struct kv_slot {
	struct list link; /* in kv.slots, by block and offset */
	uint32_t id;
	uint64_t gpa, size;
	struct ram_block *block; /* borrowed while the range is mapped */
	uint64_t offset;         /* in @block */
	bool is_readonly;
	bool is_logged;  /* KVM_MEM_LOG_DIRTY_PAGES is set (log_stop.c) */
	bool is_watched; /* logged since before its first page was read */
	/* atomic: some of it may be writable and in no ring (ring.c), until its
	 * logging was turned off and on again */
	bool is_doubtful;
	bool is_region_log;    /* wanted by mem_region_set_log() */
	struct list stop_link; /* in kv.log_stop.slots */
};

/* The memslots that are logged and that nobody wants logged: see log_stop.c. */
struct kv_log_stop {
	struct lock lock; /* LOCK_LOG_STOP */
	bool is_inline;   /* no worker; immutable after init */
	/* protected by lock */
	struct list slots;
	struct kv_slot *busy; /* what the worker tells KVM of, or NULL */
	uint64_t due_ns;      /* of the next slot */
	bool is_ending;       /* no more work is taken */
	bool is_alive;        /* the worker will look at the list again */
	bool has_thread;      /* and was not joined yet */
	pthread_t thread;
	pthread_cond_t changed; /* the list, is_ending, or busy */
};

/* Of what KVM counts of a vCPU (stats.c): how often it left the guest, and page
 * faults that were fixed. */
enum kv_stat {
	KV_STAT_EXITS,
	KV_STAT_PF_FIXED,
	KV_STATS
};

/* Saved and loaded: see vm_state.c. */
struct kv_vm_state {
	struct kvm_irqchip pic_master, pic_slave, ioapic;
	struct kvm_pit_state2 pit;
	uint64_t kvmclock_ns;
	uint64_t realtime_ns; /* of the host at @kvmclock_ns and @host_tsc */
	uint64_t host_tsc;    /* scaled to the guest's frequency */
	uint32_t tsc_khz;     /* the guest's */
};

/* How KVM makes a guest's TSC of its host's. */
struct kv_tsc_rate {
	uint32_t guest_khz, host_khz; /* 0: unknown */
	unsigned int frac_bits;       /* of KVM's ratio; 0: it cannot scale */
};

struct kv {
	struct accel accel;

	/* immutable after init */
	int fd, vm_fd;
	int stats_fd;    /* -1: none */
	size_t run_size; /* of the shared kvm_run mapping */
	uint32_t xsave_size;
	uint32_t slot_max;
	uint64_t slot_size; /* a power of two */
	bool has_manual_protect;
	bool has_clock_realtime; /* KVM_SET_CLOCK adds what passed since */
	bool has_pit;
	bool has_wide_apic_ids; /* in messages too */
	unsigned int cpus;
	struct addr_space *memory, *ports;
	struct state_registry *setup_state, *state;
	struct kv_msr_list msrs; /* filled when the first vCPU is created */

	struct kv_ring *ring; /* owned; NULL: writes are logged in bitmaps */
	uint64_t stat_offsets[KV_STATS]; /* atomic; see stats.c */

	struct mem_listener listener, port_listener;
	bool has_listeners, is_registered;

	/* protected by the topology lock */
	struct list slots;
	struct {
		struct list *link; /* in @slots; NULL: they have changed */
		uint32_t block;    /* by index */
		uint64_t first;    /* page */
	} cleared;                 /* what was last: see slots.c, seek() */
	uint8_t *slot_ids;         /* 1: in use */
	struct err slot_err;       /* the first slot that could not be set */
	bool is_logging;           /* global logging */
	uint64_t *harvest;         /* room for one slot's bitmap */

	uint64_t ioeventfd_calls; /* atomic */
	struct accel_routes routes;
	struct kv_log_stop log_stop;
	struct lock left_lock;
	pthread_cond_t left;  /* a vCPU left the guest; with left_lock */
	uint64_t *left_seqs;  /* owned by kv_vcpus_flush(): run_seq of each */
	bool left_is_awaited; /* atomic */

	/* owned by whoever builds, saves or loads the machine */
	struct kv_cpuid cpuid;      /* the guest's */
	struct kv_cpuid host_cpuid; /* what this host offers */
	struct kv_vm_state vm_state;
	struct kv_tsc_rate tsc_rate; /* as created, then as loaded */
	uint64_t tsc_delta; /* vm_load(): added to every vCPU's TSC offset */
	struct kv_vcpu **vcpus; /* by index; borrowed from the machine */
	struct state_entry cpuid_entry, vm_entry;
};

/* Saved and loaded: see vcpu_state.c. */
struct kv_vcpu_state {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_xcrs xcrs;
	struct kvm_vcpu_events events;
	struct kvm_debugregs debugregs;
	struct kvm_mp_state mp_state;
	struct kvm_lapic_state lapic;
	uint32_t xsave_used;
	uint8_t xsave[KV_XSAVE_MAX];
	uint32_t msr_used, msr_values; /* equal */
	uint32_t msr_index[KV_MSR_MAX];
	uint64_t msr_value[KV_MSR_MAX];
	uint64_t tsc_offset;
	uint64_t tsc_deadline;
};

struct kv_vcpu {
	struct accel_vcpu vcpu;
	struct kv *kv;
	int fd;
	int stats_fd;        /* -1: none */
	struct kvm_run *run; /* shared with the kernel */
	/* atomic */
	uint64_t run_seq; /* odd: in KVM_RUN */
	int thread_id;    /* of who runs it */
	bool is_kicked;   /* to return, not only to leave the guest */

	struct kv_vcpu_ring ring; /* see ring.h */
	struct state_entry entry, setup_entry;
	struct kv_vcpu_state state;
	/* Of the last save, whose results @state still has: see kv_vcpu_save(). */
	bool is_saved;
	uint64_t saved_exits;
	/* owned: what it has; NULL once it may differ from that (vcpu_setup.c) */
	struct kv_vcpu_state *known;
};

static inline struct kv *kv_of(struct accel *accel)
{
	return container_of(accel, struct kv, accel);
}

static inline struct kv_vcpu *kv_vcpu_of(struct accel_vcpu *vcpu)
{
	return container_of(vcpu, struct kv_vcpu, vcpu);
}

extern const struct accel_ops kv_accel_ops;

/* cpuid.c */
/* What this host can give a guest; before any vCPU. */
int kv_cpuid_init(struct kv *kv, struct err *err);
void kv_cpuid_register(struct kv *kv, struct state_registry *registry);
/* -EINVAL when the guest's CPUID, which arrived, has a feature that this host
 * lacks. */
int kv_cpuid_check_features(const struct kv *kv, struct err *err);
/* Learn the frequency that vCPUs are created with, from the first one, and put
 * it into CPUID; and how KVM scales to others. */
void kv_tsc_rate_probe(struct kv_vcpu *vcpu);
/* Give @vcpu its CPUID. */
int kv_cpuid_apply(struct kv_vcpu *vcpu, struct err *err);

/* slots.c */
/* Choose kv->slot_size by the memory that is there. */
void kv_slots_choose_size(struct kv *kv);
int kv_slots_init(struct kv *kv, struct err *err);
void kv_slots_fini(struct kv *kv);

/* slot.c */
/* Tell KVM of @slot; of @size 0: it goes away. */
int kv_slot_tell(const struct kv *kv, const struct kv_slot *slot,
		 bool is_logged, uint64_t size);
/* Nothing is known of its writes: all of it that was touched becomes dirty (a
 * hole that is touched later is found resident). */
void kv_slot_mark_dirty(const struct kv_slot *slot);
/* In the order of kv.slots: negative when all of it is before pages
 * [first, first + count) of @block, positive when all is behind them, else 0. */
int kv_slot_order(const struct kv_slot *slot, const struct ram_block *block,
		  uint64_t first, uint64_t count);

/* log_stop.c; the last three with the topology lock */
void kv_log_stop_init(struct kv *kv, bool is_inline);
/* Ends the worker, before the VM goes; what still waits stays logged. */
void kv_log_stop_end(struct kv *kv);
void kv_log_stop_fini(struct kv *kv);
/* Turn off what is logged and unwanted, after @grace_ns.  Returns at once; inline,
 * when all is turned off. */
void kv_log_stop_later(struct kv *kv, uint64_t grace_ns);
/* Nothing is to be turned off any more.  Returns at once, although one slot may
 * still be on its way. */
void kv_log_stop_call_off(struct kv *kv);
/* @slot is the caller's, and its is_logged true to KVM; waits for the worker if
 * it is at this very slot. */
void kv_log_stop_take(struct kv *kv, struct kv_slot *slot);

/* bitmap.c; all with the topology lock */
int kv_bitmap_init(struct kv *kv, bool use_plain_log, struct err *err);
void kv_bitmap_fini(struct kv *kv);
/* Report the slot's dirty pages; with manual protect the kernel keeps its bits
 * until kv_bitmap_clear(). */
void kv_bitmap_harvest(struct kv *kv, struct kv_slot *slot);
/* What was written so far is of no interest: with manual protect it still is until
 * kv_bitmap_clear(). */
void kv_bitmap_forget(struct kv *kv, const struct kv_slot *slot);
/* Clear the kernel's bits of block pages [from, to) that are set in @bits, whose
 * bit 0 is block page @bits_first; all of them lie in the slot. */
void kv_bitmap_clear(struct kv *kv, struct kv_slot *slot, uint64_t from,
		     uint64_t to, const uint64_t *bits, uint64_t bits_first);

/* vcpu.c */
int kv_vcpu_new(struct accel *accel, unsigned int index,
		struct accel_vcpu **ret_vcpu, struct err *err);
void kv_vcpu_free(struct accel_vcpu *vcpu);
void kv_vcpu_warm_up(struct accel_vcpu *vcpu);
enum accel_exit kv_vcpu_run(struct accel_vcpu *vcpu, struct err *err);
void kv_vcpu_kick(struct accel_vcpu *vcpu);
void kv_vcpu_unkick(struct accel_vcpu *vcpu);
/* Have every vCPU leave the guest once; returns when each has, or was not in it.
 * With the topology lock. */
void kv_vcpus_flush(struct kv *kv);
/* Changes whenever it enters or leaves the guest; odd: it is in it. */
uint64_t kv_vcpu_run_seq(const struct kv_vcpu *vcpu);

/* routes.c */
void kv_routes_init(struct kv *kv);
void kv_msi_send(struct accel *accel, const struct accel_msi *msi);

/* stats.c */
/* Of a VM or a vCPU that does not run: a descriptor, or -1. */
int kv_stats_open(int fd);
int kv_stats_read(struct accel *accel, int vcpu, accel_stat_fn *fn,
		  void *opaque, struct err *err);
/* -ENOTSUP where this kernel does not count it. */
int kv_vcpu_stat(const struct kv_vcpu *vcpu, enum kv_stat stat,
		 uint64_t *ret_value);
int kv_vcpu_writes(struct accel *accel, unsigned int vcpu, uint64_t *ret_pages);

/* vcpu_state.c */
void kv_vcpu_state_register(struct kv_vcpu *vcpu);
int kv_vcpu_boot(struct accel_vcpu *vcpu, const struct accel_boot_regs *regs,
		 struct err *err);
int kv_vcpu_save(struct accel_vcpu *vcpu, struct err *err);
int kv_vcpu_load(struct accel_vcpu *vcpu, struct err *err);
int kv_vcpu_rehearse(struct accel_vcpu *vcpu, struct err *err);
int kv_activate(struct accel *accel, struct err *err);
/* PAE paging: to set CR3 then has KVM read four entries of guest memory at once. */
bool kv_has_pdptrs(const struct kvm_sregs *sregs);
/* As load of struct state_desc, of a struct kv_vcpu_state. */
int kv_vcpu_state_check(void *obj, uint16_t version, struct err *err);
/* -EINVAL: what came is of another size than this host's. */
int kv_vcpu_check_xsave(const struct kv_vcpu *vcpu, struct err *err);
/* The vCPU's TSC offset (guest = host + offset): 0 or -errno. */
int kv_tsc_offset_get(struct kv_vcpu *vcpu, uint64_t *ret_offset);

/* vcpu_msrs.c */
#define MSR_TSC          0x10u
#define MSR_TSC_DEADLINE 0x6e0u

/* Find out which MSRs can be saved and set, on a vCPU that never ran. */
int kv_msr_list_probe(struct kv_vcpu *vcpu, struct err *err);
/* KVM_GET_MSRS or KVM_SET_MSRS of one.  -EINVAL: KVM refuses. */
int kv_msr_do(struct kv_vcpu *vcpu, unsigned long request, uint32_t index,
	      uint64_t *value);
/* Setting it does more than to keep a value. */
bool kv_msr_has_effect(uint32_t index);
int kv_msrs_save(struct kv_vcpu *vcpu, struct err *err);
/* But those that the vCPU has already. */
int kv_msrs_load(struct kv_vcpu *vcpu, struct err *err);
/* Those without an effect. */
int kv_msrs_load_early(struct kv_vcpu *vcpu, struct err *err);

/* vcpu_setup.c */
void kv_vcpu_setup_register(struct kv_vcpu *vcpu);
int kv_vcpu_setup_load(struct accel_vcpu *vcpu, struct err *err);
/* Note what a vCPU has, until it is booted, loaded, or may run. */
int kv_vcpu_known_note(struct kv_vcpu *vcpu, struct err *err);
void kv_vcpu_known_drop(struct kv_vcpu *vcpu);
/* @member of vcpu->state is what the vCPU has; MSR number @at. */
bool kv_vcpu_knows(const struct kv_vcpu *vcpu, const void *member, size_t size);
bool kv_vcpu_knows_msr(const struct kv_vcpu *vcpu, uint32_t at);

/* vm_state.c */
void kv_vm_state_register(struct kv *kv);
int kv_vm_save(struct accel *accel, struct err *err);
int kv_vm_load(struct accel *accel, struct err *err);
/* Whether KVM scales at all: not between frequencies that are nearly equal. */
bool kv_tsc_is_scaled(const struct kv_tsc_rate *rate);
/* What the guest's TSC is when the host's is @host_tsc, but for the offset;
 * to the cycle, as KVM computes it.  @rate can be scaled if it must be. */
uint64_t kv_tsc_scale(const struct kv_tsc_rate *rate, uint64_t host_tsc);
/* To be added to the TSC offsets that go with @then, when it is @now here. */
uint64_t kv_tsc_delta(const struct kv_vm_state *then,
		      const struct kv_vm_state *now);

#endif
