/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated accelerator, shared by its files:
 *
 *	options.c   what --accel sim,... takes
 *	sim.c       the VM: creation, clock, interrupt lines, both ways
 *	table.c     second-stage tables (table.h); table_pool.c: their memory and lock
 *	slots.c     memslots, and logging on and off, as a memory listener
 *	log.c       the kernel's half of logging: buffer, rings, bitmap
 *	harvest.c   the user's half: sync, clear, collect, reset, publish
 *	collapse.c  what follows the end of logging: large leaves come back
 *	vcpu.c      one vCPU: run loop, memory access, exits
 *	program.c   the program that vCPUs run: options, memory, registers
 *	workload.c  the same, one step at a time
 *	report.c    the lines that it prints
 *	irqs.c      message-signalled interrupts: counted
 *	stats.c     counters
 *
 * How a write is tracked (D1, D2; ARCHITECTURE, "Dirty pages"):
 *
 *	vCPU: write fault -> leaf writable, page into its log buffer (512 entries)
 *	      buffer full, or the vCPU leaves the guest -> bitmap, or its ring
 *	sync: kick every vCPU out once, so that no buffer holds anything
 *	      bitmap: report it; each page is cleared and protected before the read
 *	      ring: collect; reset, which protects again; publish
 *
 * Lock ranks, outermost first: the topology lock (all listener calls), eoi_lock,
 * slots_lock, the second stage's.  vCPUs in the guest take only the last, on a fault,
 * and eoi_lock for a look at one word.
 */
#ifndef GODWIT_ACCEL_SIM_PRIV_H
#define GODWIT_ACCEL_SIM_PRIV_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "accel/accel.h"
#include "accel/routes.h"
#include "accel/sim/table.h"
#include "base/list.h"
#include "base/lock.h"
#include "guest/config.h"
#include "guest/gauge.h"
#include "guest/pattern.h"
#include "guest/ram.h"
#include "mem/space.h"
#include "state/state.h"

/* The guest's TSC counts nanoseconds. */
#define SIM_TSC_KHZ 1000000u
#define SIM_LINES   24u

/* As PML's. */
#define SIM_BUFFER_ENTRIES 512u
/* KVM's reserve, and what one flush of the buffer may add: a ring with fewer free
 * entries is full for its vCPU. */
#define SIM_RING_RESERVE (64u + SIM_BUFFER_ENTRIES)

/* Of struct sim_ring_entry: the kernel's protocol (api.rst, 8.29).
 *
 *	   dirty, by the vCPU     harvested, by the user
 *	00 ------------------> 01 ------------------> 1x
 *	 ^                                             |
 *	 +-------------------- reset ------------------+
 */
#define SIM_RING_DIRTY 1u
#define SIM_RING_RESET 2u

struct sim_ring_entry {
	uint32_t flags; /* atomic */
	uint32_t slot;
	uint64_t offset; /* in pages, in the slot */
};

struct sim_ring {
	/* immutable after init */
	struct sim_ring_entry *entries; /* owned; NULL in bitmap mode */
	uint32_t size;                  /* a power of two */
	/* owned by the vCPU's thread */
	uint32_t dirty_index;
	/* atomic; protected by slots_lock */
	uint32_t reset_index;
	/* protected by slots_lock */
	uint32_t fetch_index;
	/* atomic; written with slots_lock: harvested, of pages that were dirty */
	uint64_t repeats;
};

/* The bitmap of a logged slot: in bitmap mode all writes, in ring mode those with
 * no vCPU behind them. */
struct sim_log {
	uint64_t pages;
	uint64_t *bits;    /* owned, atomic; a bit a page */
	uint64_t *summary; /* owned, atomic; a bit for each word of @bits */
	bool is_used;      /* atomic: something may be set */
};

/* One RAM range of the flat view. */
struct sim_slot {
	/* immutable after init */
	uint32_t id;
	uint64_t gpa, size;
	struct ram_block *block; /* borrowed while the range is mapped */
	uint64_t offset;         /* in @block */
	bool is_readonly;
	/* protected by the topology lock */
	bool is_region_log; /* wanted by mem_region_set_log() */
	/* atomic; written with the second stage's lock */
	bool is_logged;
	struct sim_log *log; /* owned; NULL while not logged */
};

/* Never changed: replaced. */
struct sim_slot_set {
	uint32_t count;
	struct sim_slot *slots[];
};

/* What a vCPU is at, saved and loaded.  The program's options are where those of
 * the built-in guest are: in guest memory, behind @start_info. */
enum sim_stage {
	SIM_OFF,   /* never booted */
	SIM_WARM,  /* writes every page for the first time */
	SIM_READY, /* waits for the others */
	SIM_WORK,
	SIM_ENDED, /* asked for the end of the machine */
	SIM_STAGES,
};

struct sim_regs {
	/* atomic for other vCPUs */
	uint64_t stage; /* enum sim_stage */
	uint64_t stamped, checked, errors, full_checks;
	uint64_t checks_asked, resets_asked; /* vCPU 0 */

	uint64_t start_info; /* gpa */
	uint64_t start;      /* TSC of "@ready" */
	uint64_t warm_at;    /* fill pages, then hot ones */
	uint64_t next_stamp; /* TSC since start << 8 */
	uint64_t next_scan;  /* TSC */
	uint64_t to_scan;    /* stamps until then */
	uint64_t hot_at;     /* next hot page to be only read */
	uint64_t fill_at;    /* likewise */
	uint64_t sum;        /* of what is expected of each hot page */
	uint64_t sum_below;  /* of those below hot_at */
	uint64_t check_left; /* of a full check: hot pages, then fill pages */
	/* To the pages of steal time and clock. */
	uint64_t pv_writes, clock_writes;
	uint64_t eois; /* to that of interrupts; protected by eoi_lock */
	uint64_t tick, poll, report, end; /* vCPU 0: TSC of the next */
	uint64_t order;                   /* vCPU 0: command under way, or 0 */
	struct pattern pattern;
	struct gauge gauge; /* its ring is in guest memory */
};

/*
 * Pages that are written for a vCPU and not by it, each the count of such writes:
 *
 *	VCPUS_BASE + n * VCPU_SIZE	steal time of vCPU n
 *	SIM_PV_BASE + n * 8 KiB		its clock
 *	4 KiB behind that		its interrupts: where KVM notes that an
 *					EOI is due
 */
#define SIM_PV_BASE  (VCPUS_BASE + (uint64_t)MAX_VCPUS * VCPU_SIZE)
#define SIM_PV_PAGES 2u

_Static_assert(SIM_PV_BASE + MAX_VCPUS * SIM_PV_PAGES * PAGE_SIZE <= AREA_BASE,
	       "what is written for vCPUs lies below what they write");

static inline uint64_t sim_steal_gpa(unsigned int index)
{
	return VCPUS_BASE + (uint64_t)index * VCPU_SIZE;
}

static inline uint64_t sim_clock_gpa(unsigned int index)
{
	return SIM_PV_BASE + (uint64_t)index * SIM_PV_PAGES * PAGE_SIZE;
}

static inline uint64_t sim_eoi_gpa(unsigned int index)
{
	return sim_clock_gpa(index) + PAGE_SIZE;
}

/* As the built-in guest's. */
enum sim_exit {
	SIM_EXIT_OK,
	SIM_EXIT_ERRORS,
	SIM_EXIT_CONFIG,
};

/* Registers that other vCPUs look at. */
static inline uint64_t sim_reg_get(const uint64_t *reg)
{
	return __atomic_load_n(reg, __ATOMIC_ACQUIRE);
}

static inline void sim_reg_set(uint64_t *reg, uint64_t value)
{
	__atomic_store_n(reg, value, __ATOMIC_RELEASE);
}

/* What follows from the options, the memory map and the vCPU's number. */
struct sim_program {
	struct config config;
	struct ram ram;
	uint64_t hot_first, hot_pages;
	uint64_t fill_first, fill_pages;
	uint64_t expected; /* gpa: the sequence of each hot page, u64 */
	uint64_t ring;     /* gpa: stamps of each interval, u32 */
	uint64_t tables;   /* gpa: of the interrupt controller */
	uint64_t stamp_tsc, max_backlog, scan_tsc, burst_tsc;
};

struct sim_vcpu {
	struct accel_vcpu vcpu;
	struct sim *sim;
	struct state_entry entry;
	struct list link; /* in sim->retired */

	/* atomic */
	uint64_t epoch; /* 0: outside of the guest; see sim_wait_epoch() */
	bool is_kicked;
	bool is_flush_asked;
	uint32_t doorbell; /* futex: something above changed */
	uint32_t exits;    /* futex */
	uint64_t barrier;  /* whose value says nothing */
	uint64_t ring_full_exits, write_faults;
	uint64_t logged; /* pages, each time that it was protected */

	/* owned by the vCPU's thread */
	uint64_t buffer[SIM_BUFFER_ENTRIES]; /* page numbers */
	uint32_t buffered;
	struct sim_ring ring;
	struct sim_regs regs;
	struct sim_program *program; /* owned; NULL until it first runs */
	bool is_program_checked; /* against @regs, since these were loaded */
	bool has_arrived;        /* and has not looked yet at what came along */
};

/* Saved and loaded. */
struct sim_setup {
	uint64_t tables_size;
	uint32_t has_pv;
};

struct sim_vm_state {
	uint64_t tsc;         /* the guest's, at @realtime_ns */
	uint64_t realtime_ns; /* of the host */
	uint64_t dumps;       /* of the interrupt controller's tables */
	uint8_t lines[SIM_LINES];
};

/* How long a lock was held and waited for, at most. */
struct sim_lock_times {
	uint64_t since_ns; /* that it is held */
	uint64_t hold_max_ns, wait_max_ns;
};

struct sim_collapse {
	pthread_t thread;
	bool has_thread;
	pthread_cond_t wake;
	/* protected by slots_lock */
	bool is_ending;
	struct list works; /* struct sim_work */
};

struct sim {
	struct accel accel;

	/* immutable after init */
	struct sim_options options;
	unsigned int max_leaf; /* level */
	uint32_t ring_entries; /* of each vCPU; 0: bitmap mode */
	unsigned int cpus;
	struct addr_space *memory, *ports;
	struct state_registry *state;
	struct mem_listener listener;
	bool has_listener;

	struct s2 s2;
	uint64_t epoch; /* atomic */

	struct lock slots_lock;
	/* written with topology lock, slots_lock and the second stage's, read with
	 * any of them, or by a vCPU in the guest */
	struct sim_slot_set *slots;
	/* protected by the topology lock */
	uint32_t next_slot;
	bool is_logging;
	/* protected by slots_lock */
	struct sim_lock_times slots_times;
	struct sim_ring_entry *harvest; /* room for one ring */
	struct accel_ring_stats rings;  /* but for full_exits */

	struct sim_collapse collapse;
	struct accel_routes routes;
	struct lock eoi_lock; /* count and page together */

	/* owned by whoever builds, saves or loads the machine */
	struct sim_setup setup;
	struct sim_vm_state vm;
	struct state_entry setup_entry, vm_entry;
	uint64_t tsc_offset;      /* atomic; to CLOCK_MONOTONIC */
	uint64_t tables_gpa;      /* atomic; 0: no program has placed them */
	uint8_t lines[SIM_LINES]; /* atomic */
	struct sim_vcpu **vcpus;  /* by index, atomic */
	struct list retired;      /* vCPUs that others may still look at */

	bool is_printing;     /* atomic: one line at a time */
	uint64_t error_lines; /* atomic */
};

static inline struct sim *sim_of(struct accel *accel)
{
	return container_of(accel, struct sim, accel);
}

static inline struct sim_vcpu *sim_vcpu_of(struct accel_vcpu *vcpu)
{
	return container_of(vcpu, struct sim_vcpu, vcpu);
}

static inline bool sim_has_rings(const struct sim *sim)
{
	return sim->ring_entries != 0;
}

extern const struct accel_ops sim_accel_ops;

/* sim.c */
uint64_t sim_tsc(const struct sim *sim);

/* slots.c */
/* For slots_lock. */
void sim_slots_lock(struct sim *sim);
void sim_slots_unlock(struct sim *sim);
/* Wait on @cond at most until @deadline_ns (clock_mono_ns() time; UINT64_MAX: no limit),
 * without the lock. */
void sim_slots_wait(struct sim *sim, pthread_cond_t *cond,
		    uint64_t deadline_ns);
int sim_slots_init(struct sim *sim, struct err *err);
void sim_slots_fini(struct sim *sim);
/* The slot of @gpa, or NULL; who may ask, see sim.slots. */
struct sim_slot *sim_slot_find(const struct sim *sim, uint64_t gpa);
struct sim_slot *sim_slot_by_id(const struct sim *sim, uint32_t id);
struct s2_range sim_slot_range(const struct sim *sim,
			       const struct sim_slot *slot);

/* log.c */
struct sim_log *sim_log_new(uint64_t pages); /* or NULL */
void sim_log_free(struct sim_log *log);
int sim_ring_init(struct sim_ring *ring, uint32_t size);
void sim_ring_fini(struct sim_ring *ring);
/* The vCPU may not enter the guest until its ring was reset. */
bool sim_ring_is_full(const struct sim_ring *ring);
/* The vCPU wrote page @gfn: into its buffer. */
void sim_log_write(struct sim_vcpu *vcpu, uint64_t gfn);
/* Its buffer into bitmap or ring; the vCPU's thread, before it leaves the guest. */
void sim_log_flush(struct sim_vcpu *vcpu);
/* Take at most @room dirty entries; with slots_lock. */
uint32_t sim_ring_collect(struct sim_ring *ring, struct sim_ring_entry *to,
			  uint32_t room);
/* Protect the pages of what was collected, free the entries; with slots_lock. */
uint32_t sim_ring_reset(struct sim *sim, struct sim_ring *ring);
/* A write with no vCPU behind it: @size bytes at @gpa, of RAM.  Any thread; takes the
 * second stage's lock.  -EFAULT when it is not RAM. */
int sim_write_aside(struct sim *sim, uint64_t gpa, const void *from,
		    size_t size);

/* harvest.c */
/* Every vCPU has left the guest once, its buffer empty then. */
void sim_flush_all(struct sim *sim);
/* Collect, reset, publish (D2) what one ring holds; with slots_lock. */
void sim_harvest_ring(struct sim *sim, struct sim_ring *ring);
/* All rings and logs; what is still in a log buffer is missed. */
void sim_harvest_all(struct sim *sim);
void sim_log_sync_all(void *opaque, bool is_last);
int sim_log_clear(void *opaque, struct ram_block *block, uint64_t first,
		  uint64_t count, const uint64_t *bits, struct err *err);

/* collapse.c */
int sim_collapse_init(struct sim *sim, struct err *err);
void sim_collapse_fini(struct sim *sim);
/* @slot is logged no more, and what was its log is now the worker's to free.  It
 * begins after @grace_ns. */
void sim_collapse_add(struct sim *sim, struct sim_slot *slot,
		      struct sim_log *log, uint64_t grace_ns);
/* @slot is logged again, or goes: when this returns, nobody works on it. */
void sim_collapse_cancel(struct sim *sim, struct sim_slot *slot);

/* vcpu.c */
int sim_vcpu_new(struct accel *accel, unsigned int index,
		 struct accel_vcpu **ret_vcpu, struct err *err);
void sim_vcpu_free(struct accel_vcpu *vcpu);
enum accel_exit sim_vcpu_run(struct accel_vcpu *vcpu, struct err *err);
void sim_vcpu_kick(struct accel_vcpu *vcpu);
void sim_vcpu_unkick(struct accel_vcpu *vcpu);
int sim_vcpu_boot(struct accel_vcpu *vcpu, const struct accel_boot_regs *regs,
		  struct err *err);
int sim_vcpu_save(struct accel_vcpu *vcpu, struct err *err);
int sim_vcpu_load(struct accel_vcpu *vcpu, struct err *err);
int sim_vcpu_rehearse(struct accel_vcpu *vcpu, struct err *err);
/* Into the guest and out of it; the latter flushes the log buffer. */
void sim_enter(struct sim_vcpu *vcpu);
void sim_leave(struct sim_vcpu *vcpu);
/* Outside: its ring has no room, so it collects and resets for itself. */
void sim_ring_full(struct sim_vcpu *vcpu);
/* In the guest, between two accesses: whether the vCPU has to leave. */
bool sim_is_wanted(struct sim_vcpu *vcpu);
/*
 * In the guest: host memory behind @gpa, up to the end of its page, to be read,
 * or to be written; NULL where there is no RAM (or ROM, for a write).  A write is
 * done when sim_write_end() has come back.
 */
void *sim_read_begin(struct sim_vcpu *vcpu, uint64_t gpa);
void *sim_write_begin(struct sim_vcpu *vcpu, uint64_t gpa);
void sim_write_end(struct sim_vcpu *vcpu, uint64_t gpa);
/* One aligned access of 1, 2, 4 or 8 bytes, be it RAM or a device's registers. */
uint64_t sim_load(struct sim_vcpu *vcpu, uint64_t gpa, unsigned int size);
void sim_store(struct sim_vcpu *vcpu, uint64_t gpa, uint64_t value,
	       unsigned int size);
/* Port I/O: an exit each. */
uint32_t sim_in(struct sim_vcpu *vcpu, uint16_t port, unsigned int size);
void sim_out(struct sim_vcpu *vcpu, uint16_t port, const void *data,
	     size_t count, unsigned int size);
/* Every vCPU has passed between two accesses, or is outside, since this was
 * called: nobody uses what was unreachable before. */
void sim_wait_epoch(struct sim *sim);

/* irqs.c */
void sim_routes_init(struct sim *sim);
void sim_msi_send(struct accel *accel, const struct accel_msi *msi);

/* stats.c */
int sim_stats_read(struct accel *accel, int index, accel_stat_fn *fn,
		   void *opaque, struct err *err);

bool sim_ring_stats(struct accel *accel, struct accel_ring_stats *ret_stats);
int sim_vcpu_writes(struct accel *accel, unsigned int index,
		    uint64_t *ret_pages);

/* program.c */
/* Before the first step after boot or load: the options are read, and what the
 * registers say must fit them.  -EINVAL. */
int sim_program_bind(struct sim_vcpu *vcpu, struct err *err);
extern const struct state_desc sim_vcpu_desc;

/* workload.c */
/* One short piece of work, in the guest; how many ns there is nothing to do. */
uint64_t sim_program_step(struct sim_vcpu *vcpu);
/* It was asleep on purpose up to @until_tsc: no gap. */
void sim_program_slept(struct sim_vcpu *vcpu, uint64_t until_tsc);
/* Steal time and clock: written for the vCPU, outside of the guest. */
void sim_program_pv(struct sim_vcpu *vcpu);
/* What page @number of the interrupt controller's tables holds after @dumps. */
uint64_t sim_table_word(uint64_t dumps, uint64_t number);
/* Out to the debug exit. */
void sim_program_end(struct sim_vcpu *vcpu, uint32_t code);

/* report.c */
void sim_print_start(struct sim_vcpu *vcpu);
void sim_print_ready(struct sim_vcpu *vcpu);
void sim_print_counters(struct sim_vcpu *vcpu);
void sim_print_gaps(struct sim_vcpu *vcpu);
void sim_print_work(struct sim_vcpu *vcpu);
void sim_print(struct sim_vcpu *vcpu, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
void sim_tick(struct sim_vcpu *vcpu);

#endif
