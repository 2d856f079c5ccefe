/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an accelerator does: it runs vCPUs against an address space, knows
 * which pages they wrote, and turns vCPU and interrupt-controller state into
 * saveable structures and back.
 *
 * accel/kvm uses the kernel; accel/sim is the same in user space.  An
 * accelerator is a listener of its machine's memory address space, so memory
 * slots and dirty logging need no call here.
 *
 * Threads.  vcpu_run is called by the vCPU's own thread; vcpu_save, vcpu_load and
 * vcpu_rehearse by any one thread while the vCPU does not run, for several vCPUs
 * in parallel; vcpu_kick and irq_set by any.  A thread in vcpu_run handles
 * ACCEL_KICK_SIGNAL, by a handler that may do nothing, without SA_RESTART.  The
 * VM-wide functions are called by the thread that builds, stops or loads the
 * machine, with no vCPU running.
 */
#ifndef GODWIT_ACCEL_ACCEL_H
#define GODWIT_ACCEL_ACCEL_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

/* Interrupts vcpu_run, beside vcpu_kick; an accelerator may send it too. */
#define ACCEL_KICK_SIGNAL SIGUSR1

struct accel;
struct accel_vcpu;
struct addr_space;
struct err;
struct state_registry;

struct accel_config;
struct accel_options;
struct accel_routes;
struct parse_kv;

/* A kind of accelerator: a row of the table in accel.c, or a test's own. */
struct accel_type {
	const char *name; /* "kvm" */
	/* One option: 1 when it is taken, 0 when it is none of this kind's; then,
	 * with all of them there, whether they go together (may be NULL).  For
	 * the table. */
	int (*option)(struct accel_options *options, const struct parse_kv *kv,
		      struct err *err);
	int (*check)(struct accel_options *options, struct err *err);
	int (*create)(const struct accel_config *config,
		      struct accel **ret_accel, struct err *err);
	bool runs_no_code; /* but the built-in guest's workload */
};

/* Guest-physical memory that is the accelerator's own (Intel's KVM puts its
 * real-mode task state and page table there): the machine keeps its map and
 * its guest away from it. */
#define ACCEL_OWN_GPA  0xfffbc000u
#define ACCEL_OWN_SIZE 0x4000u

/* How guest writes are logged (docs/dirty-tracking.md). */
enum accel_dirty {
	ACCEL_DIRTY_BITMAP,
	ACCEL_DIRTY_RING, /* one a vCPU; -ENOTSUP where there are none */
	ACCEL_DIRTY_RING_OR_BITMAP, /* the bitmap there */
};

enum sim_leaf {
	SIM_LEAF_1G,
	SIM_LEAF_2M,
	SIM_LEAF_4K
};

/* Of accel/sim (sim/options.c); zero is what it does by default. */
struct sim_options {
	enum sim_leaf leaf;  /* the largest that memory is mapped with */
	bool is_split_eager; /* before the first write, not at it */
	bool is_collapse_inline;
	bool has_pv; /* steal time and clock are written */
	uint64_t
		tables_size; /* of the interrupt controller; dumped when saved */
	bool has_pattern;    /* in @workload */
	char workload[256];  /* command line of the built-in guest, or "" */
};

struct accel_options {
	const struct accel_type *type; /* a constant */
	/* Use KVM_GET_DIRTY_LOG without manual protect, as on kernels before
	 * 5.0, so that this path can be tested on any kernel. */
	bool use_plain_log;
	/* Whoever ends logging waits until KVM has collapsed everything, without
	 * grace or rests: what log_stop.c is measured beside. */
	bool is_log_stop_inline;
	enum accel_dirty dirty;
	uint32_t ring_entries; /* of each; 0: the default */
	struct sim_options sim;
};

/* "kvm[,dirty=bitmap|ring|ring-or-bitmap][,ring-entries=N][,x-plain-log=on|off]
 * [,x-log-stop=worker|inline]" or "sim[,KEY=VALUE...]", each key once; -EINVAL or
 * -ERANGE with a reason. */
int accel_options_parse(const char *text, struct accel_options *ret_options,
			struct err *err);

/* Why vcpu_run came back. */
enum accel_exit {
	ACCEL_EXIT_KICKED,   /* vcpu_kick; pending I/O is complete */
	ACCEL_EXIT_SHUTDOWN, /* triple fault */
	ACCEL_EXIT_FAILED,   /* cannot go on; the message says why */
};

/* Where a vCPU starts, with flat segments: 32-bit protected mode, paging off
 * (code 0x08, data 0x10); or 64-bit mode with what page tables and GDT the guest
 * was given (code 0x10, data 0x18). */
struct accel_boot_regs {
	bool is_long;
	uint64_t rip, rbx, rsi, rdi;
	/* is_long: guest-physical */
	uint64_t page_table, gdt;
	uint16_t gdt_limit;
};

/* A counter as it is now: one value, or the buckets of a histogram. */
struct accel_stat {
	const char *name;
	const uint64_t *values;
	unsigned int count;
};

typedef void accel_stat_fn(void *opaque, const struct accel_stat *stat);

/* A message-signalled interrupt: what the device writes, and where. */
struct accel_msi {
	uint64_t address;
	uint32_t data;
};

/* GSIs from here on are routes. */
#define ACCEL_ROUTE_FIRST 24u

/* Calls into the accelerator since the VM was made. */
struct accel_irq_counts {
	uint64_t route_commits; /* that changed something */
	uint64_t irqfd_calls;
	uint64_t ioeventfd_calls; /* of eventfds that a guest's write signals */
	uint64_t messages;        /* msi_send */
};

/* Of all dirty rings, since the VM was made. */
struct accel_ring_stats {
	uint64_t full_exits; /* a vCPU left the guest since its ring was full */
	uint64_t entries;    /* harvested */
	uint64_t strays;     /* of these, naming no memory (any more) */
	uint64_t reset_ns;   /* protecting pages again */
};

struct accel_ops {
	const char *name;
	/* The VM ends as a whole, before its devices are freed: taking from it
	 * what they had bound, one by one, waits for a grace period each.  Its
	 * vCPUs are gone.  NULL: nothing would wait. */
	void (*end)(struct accel *accel);
	void (*free)(struct accel *accel);

	/* Interrupt controllers; GSIs 0-23.  Any thread. */
	void (*irq_set)(struct accel *accel, unsigned int gsi, int level);

	/*
	 * Message-signalled interrupts; any thread.  A route is a GSI that stands
	 * for a message; an eventfd that is bound to it sends that message each
	 * time it is written, with nobody of this process in between (irqfd).
	 * Routes change in groups: the outermost routes_commit tells the kernel
	 * of all changes since the first routes_begin in one call, or of none in
	 * no call.  A new route has no message.  irqfd_set: @fd does not block;
	 * one a route.  It is bound when the routes are told, in a group by
	 * routes_commit (which then also fails for it), and interrupts at once
	 * if it was written before; it is unbound at once.
	 * NULL, all of them: there are no such interrupts.
	 */
	void (*msi_send)(struct accel *accel, const struct accel_msi *msi);
	int (*route_new)(struct accel *accel, unsigned int *ret_gsi,
			 struct err *err);
	void (*route_free)(struct accel *accel, unsigned int gsi);
	void (*routes_begin)(struct accel *accel);
	/* @msi NULL: no message. */
	void (*route_set)(struct accel *accel, unsigned int gsi,
			  const struct accel_msi *msi);
	int (*routes_commit)(struct accel *accel, struct err *err);
	int (*irqfd_set)(struct accel *accel, unsigned int gsi, int fd,
			 bool is_bound, struct err *err);
	void (*irq_counts)(struct accel *accel,
			   struct accel_irq_counts *ret_counts);

	int (*vcpu_new)(struct accel *accel, unsigned int index,
			struct accel_vcpu **ret_vcpu, struct err *err);
	void (*vcpu_free)(struct accel_vcpu *vcpu);
	int (*vcpu_boot)(struct accel_vcpu *vcpu,
			 const struct accel_boot_regs *regs, struct err *err);
	/* Optional: what a first run makes is there before it; on the vCPU's thread,
	 * kicked, before the first load. */
	void (*vcpu_warm_up)(struct accel_vcpu *vcpu);
	enum accel_exit (*vcpu_run)(struct accel_vcpu *vcpu, struct err *err);
	void (*vcpu_kick)(struct accel_vcpu *vcpu);
	/* Called by the vCPU's thread before it may run after a kick; a later
	 * kick is not lost. */
	void (*vcpu_unkick)(struct accel_vcpu *vcpu);

	/* Kernel state into the registered structure, and back. */
	int (*vcpu_save)(struct accel_vcpu *vcpu, struct err *err);
	int (*vcpu_load)(struct accel_vcpu *vcpu, struct err *err);
	/* The work of vcpu_save and then of vcpu_load, for its time: before the
	 * first run, with the state that the vCPU has.  Guest memory, the TSC and
	 * what vcpu_load does later are not touched. */
	int (*vcpu_rehearse)(struct accel_vcpu *vcpu, struct err *err);
	/* Clock and interrupt controllers, likewise. */
	int (*vm_save)(struct accel *accel, struct err *err);
	int (*vm_load)(struct accel *accel, struct err *err);
	/* After all of these, with guest memory complete, which it was not before:
	 * what of it loading read is read again.  NULL: none was. */
	int (*activate)(struct accel *accel, struct err *err);
	/* The pre-state (CPUID): once, before the first run; then, where there is
	 * one, that of each vCPU, as vcpu_load. */
	int (*setup_load)(struct accel *accel, struct err *err);
	int (*vcpu_setup_load)(struct accel_vcpu *vcpu, struct err *err);

	uint32_t (*tsc_khz)(struct accel *accel);

	/* How many pages vCPU @vcpu made dirty so far, a page once for each time
	 * that it was clean: what a write to a page that waits to be sent is not.
	 * Rings say of a page only that it was written, and that again after
	 * each reset; the entries that they hold are counted as if all of their
	 * pages were clean, until they are harvested.  So it may fall, by no more
	 * than a ring holds, and now and then it is a little behind.  Any thread,
	 * and cheap.  -ENOTSUP, or NULL: not known. */
	int (*vcpu_writes)(struct accel *accel, unsigned int vcpu,
			   uint64_t *ret_pages);

	/* Call @fn for each counter of vCPU @vcpu, or of the VM if that is
	 * negative; any thread.  -ENOTSUP where there are none; NULL when the
	 * accelerator never has any. */
	int (*stats_read)(struct accel *accel, int vcpu, accel_stat_fn *fn,
			  void *opaque, struct err *err);

	/* Any thread; false without dirty rings.  NULL: has none. */
	bool (*ring_stats)(struct accel *accel,
			   struct accel_ring_stats *ret_stats);
};

/* Embedded first in the accelerator's own structures. */
struct accel {
	const struct accel_ops *ops;
	struct accel_routes *routes; /* its own; for the ops of routes.h */
};

struct accel_vcpu {
	const struct accel_ops *ops;
	unsigned int index;
};

/*
 * Create the VM: a listener of @memory, with I/O ports in @ports.  Saveable
 * structures are registered in @setup_state (sent early) and @state.
 */
struct accel_config {
	struct accel_options options;
	unsigned int cpus;
	struct addr_space *memory, *ports;
	struct state_registry *setup_state, *state;
};

int accel_new(const struct accel_config *config, struct accel **ret_accel,
	      struct err *err);

static inline void accel_free(struct accel *accel)
{
	if (accel)
		accel->ops->free(accel);
}

#endif
