// SPDX-License-Identifier: Apache-2.0
/* Counters, by the names of KVM's where those count the same. */
#include "sim_priv.h"

struct counter {
	const char *name;
	uint64_t value;
};

static void tell(const struct counter *counters, size_t count,
		 accel_stat_fn *fn, void *opaque)
{
	for (size_t i = 0; i < count; i++) {
		const struct accel_stat stat = { .name = counters[i].name,
						 .values = &counters[i].value,
						 .count = 1 };

		fn(opaque, &stat);
	}
}

static void tell_vm(struct sim *sim, accel_stat_fn *fn, void *opaque)
{
	struct s2_stats s2;

	s2_stats(&sim->s2, &s2);
	tell((const struct counter[]){ { "pages_4k", s2.leaves[0] },
				       { "pages_2m", s2.leaves[1] },
				       { "pages_1g", s2.leaves[2] },
				       { "tables", s2.tables },
				       { "splits", s2.splits } },
	     5, fn, opaque);
}

static uint64_t counter_of(const uint64_t *value)
{
	return __atomic_load_n(value, __ATOMIC_RELAXED);
}

static void tell_vcpu(struct sim_vcpu *vcpu, accel_stat_fn *fn, void *opaque)
{
	uint64_t exits = __atomic_load_n(&vcpu->exits, __ATOMIC_RELAXED);

	tell(
		(const struct counter[]){
			{ "exits", exits },
			{ "pf_fixed", counter_of(&vcpu->write_faults) },
			{ "ring_full_exits",
			  counter_of(&vcpu->ring_full_exits) },
		},
		3, fn, opaque);
}

int sim_stats_read(struct accel *accel, int index, accel_stat_fn *fn,
		   void *opaque, struct err *err)
{
	struct sim *sim = sim_of(accel);

	(void)err;
	if (index < 0)
		tell_vm(sim, fn, opaque);
	else
		tell_vcpu(__atomic_load_n(&sim->vcpus[index], __ATOMIC_ACQUIRE),
			  fn, opaque);
	return 0;
}

bool sim_ring_stats(struct accel *accel, struct accel_ring_stats *ret_stats)
{
	struct sim *sim = sim_of(accel);

	if (!sim_has_rings(sim))
		return false;
	sim_slots_lock(sim);
	*ret_stats = sim->rings;
	sim_slots_unlock(sim);
	for (unsigned int i = 0; i < sim->cpus; i++) {
		const struct sim_vcpu *vcpu =
			__atomic_load_n(&sim->vcpus[i], __ATOMIC_ACQUIRE);

		if (vcpu)
			ret_stats->full_exits +=
				counter_of(&vcpu->ring_full_exits);
	}
	return true;
}

int sim_vcpu_writes(struct accel *accel, unsigned int index,
		    uint64_t *ret_pages)
{
	const struct sim_vcpu *vcpu =
		__atomic_load_n(&sim_of(accel)->vcpus[index], __ATOMIC_ACQUIRE);
	/* In that order: of more pages than those, if anything. */
	uint64_t logged = counter_of(&vcpu->logged);
	uint64_t repeats = counter_of(&vcpu->ring.repeats);

	*ret_pages = logged > repeats ? logged - repeats : 0;
	return 0;
}
