// SPDX-License-Identifier: Apache-2.0
/* Counters, by the names of KVM's where those count the same. */
#include "base/bytes.h"
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
	uint64_t collapsed, reset_entries, reset_ns;

	s2_stats(&sim->s2, &s2);
	lock_acquire(&sim->slots_lock);
	collapsed = sim->collapse.collapsed;
	reset_entries = sim->stats.resets;
	reset_ns = sim->stats.reset_ns;
	lock_release(&sim->slots_lock);

	const struct counter counters[] = {
		{ "pages_4k", s2.leaves[0] },
		{ "pages_2m", s2.leaves[1] },
		{ "pages_1g", s2.leaves[2] },
		{ "tables", s2.tables },
		{ "splits", s2.splits },
		{ "tables_collapsed", collapsed },
		{ "ring_reset_entries", reset_entries },
		{ "ring_reset_ns", reset_ns },
	};

	tell(counters, array_size(counters), fn, opaque);
}

int sim_stats_read(struct accel *accel, int index, accel_stat_fn *fn,
		   void *opaque, struct err *err)
{
	struct sim *sim = sim_of(accel);
	struct sim_vcpu *vcpu;

	(void)err;
	if (index < 0) {
		tell_vm(sim, fn, opaque);
		return 0;
	}
	vcpu = __atomic_load_n(&sim->vcpus[index], __ATOMIC_ACQUIRE);

	const struct counter counters[] = {
		{ "exits", __atomic_load_n(&vcpu->exits, __ATOMIC_RELAXED) },
		{ "pf_fixed",
		  __atomic_load_n(&vcpu->write_faults, __ATOMIC_RELAXED) },
		{ "ring_full_exits",
		  __atomic_load_n(&vcpu->ring_full_exits, __ATOMIC_RELAXED) },
	};

	tell(counters, array_size(counters), fn, opaque);
	return 0;
}
