// SPDX-License-Identifier: Apache-2.0
/*
 * Builds query-migrate's object out of a snapshot (struct mig_info): QEMU's members,
 * and `pause` with our phases of both sides.
 */
#include "control/qmp_info.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/clock.h"
#include "control/qmp_server.h"
#include "mem/ram.h"
#include "migrate/converge.h"
#include "migrate/migrate.h"

static json_t *integer(uint64_t value)
{
	return json_integer((json_int_t)value);
}

static double us(uint64_t ns)
{
	return (double)ns / (double)NS_PER_US;
}

static json_t *ram_new(const struct mig_info *info)
{
	json_t *ram = json_object();

	json_object_set_new(ram, "transferred", integer(info->ram_transferred));
	json_object_set_new(ram, "remaining", integer(info->ram_remaining));
	json_object_set_new(ram, "total", integer(info->ram_total));
	json_object_set_new(ram, "duplicate", integer(info->pages_zero));
	json_object_set_new(ram, "normal", integer(info->pages_normal));
	json_object_set_new(ram, "normal-bytes",
			    integer(info->pages_normal * RAM_PAGE_SIZE));
	json_object_set_new(ram, "holes", integer(info->pages_hole));
	json_object_set_new(ram, "dirty-pages-rate",
			    integer(info->dirty_pages_rate));
	json_object_set_new(ram, "mbps",
			    json_real((double)info->bandwidth * 8 / 1e6));
	json_object_set_new(ram, "dirty-sync-count", integer(info->rounds));
	json_object_set_new(ram, "page-size", integer(RAM_PAGE_SIZE));
	json_object_set_new(ram, "precopy-bytes", integer(info->precopy_bytes));
	json_object_set_new(ram, "downtime-bytes",
			    integer(info->downtime_bytes));
	return ram;
}

static bool is_under_way(enum mig_state state)
{
	return state >= MIG_SETUP && state <= MIG_CANCELLING;
}

static bool is_over(enum mig_state state)
{
	return state == MIG_COMPLETED || state == MIG_RUNNING;
}

static json_t *phases_new(const struct mig_info *info)
{
	json_t *phases = json_array();
	int i;

	/* A destination knows its own part of the pause only. */
	for (i = info->is_incoming ? MIG_PHASE_DST_RECEIVE : 0;
	     i < MIG_PHASE_COUNT; i++) {
		json_array_append_new(phases,
				      json_pack("{s:s, s:s, s:f}", "name",
						mig_phase_name(i), "side",
						i < MIG_PHASE_DST_RECEIVE
							? "source"
							: "destination",
						"us", us(info->phase_ns[i])));
	}
	return phases;
}

static json_t *timeline_new(const struct timeline *line)
{
	json_t *parts = json_array();

	for (unsigned int i = 0; i < line->count; i++) {
		const struct timeline_part *part = &line->parts[i];

		json_array_append_new(parts,
				      json_pack("{s:s, s:s, s:f, s:f, s:b}",
						"name", part->name, "side",
						timeline_side_name(part->side),
						"begin-us", us(part->begin_ns),
						"end-us", us(part->end_ns),
						"beside", part->is_beside));
	}
	return json_pack("{s:o, s:f, s:f, s:f, s:o}", "begin-ns",
			 integer(line->begin_ns), "gap-us", us(line->gap_ns),
			 "clock-offset-us",
			 (double)line->offset_ns / (double)NS_PER_US,
			 "clock-error-us", us(line->error_ns), "parts", parts);
}

static json_t *calls_new(const struct machine_calls *calls)
{
	return json_pack("{s:o, s:o, s:o, s:o, s:o}", "commits",
			 integer(calls->commits), "route-commits",
			 integer(calls->route_commits), "eventfd-calls",
			 integer(calls->eventfd_calls), "vhost-calls",
			 integer(calls->vhost_calls), "vhost-tables",
			 integer(calls->vhost_tables));
}

/* Of each side that is known. */
static void add_calls(json_t *pause, const struct mig_info *info)
{
	json_t *calls = json_object();

	if (!info->is_incoming)
		json_object_set_new(calls, "source",
				    calls_new(&info->source_calls));
	if (info->has_calls)
		json_object_set_new(calls, "destination",
				    calls_new(&info->destination_calls));
	json_object_set_new(pause, "calls", calls);
}

/* Ours: the times that matter here are below QEMU's milliseconds. */
static void add_pause(json_t *root, const struct mig_info *info)
{
	json_t *pause = json_object();

	if (is_under_way(info->state))
		json_object_set_new(
			root, "expected-downtime",
			integer(info->expected_downtime_ns / NS_PER_MS));
	if (!info->is_incoming) {
		json_object_set_new(
			pause, "expected-us",
			integer(info->expected_downtime_ns / NS_PER_US));
		json_object_set_new(
			pause, "fixed-us",
			integer(info->fixed_downtime_ns / NS_PER_US));
		json_object_set_new(
			pause, "limit-us",
			integer(info->downtime_limit_ns / NS_PER_US));
		json_object_set_new(pause, "out-of-reach",
				    json_boolean(info->is_out_of_reach));
	}
	if (is_over(info->state) && !info->is_incoming) {
		json_object_set_new(root, "downtime",
				    integer(info->downtime_ns / NS_PER_MS));
		json_object_set_new(pause, "downtime-us",
				    integer(info->downtime_ns / NS_PER_US));
	}
	if (is_over(info->state)) {
		json_object_set_new(pause, "phases", phases_new(info));
		json_object_set_new(pause, "switch-commits",
				    integer(info->switch_commits));
		add_calls(pause, info);
		if (info->timeline.count)
			json_object_set_new(pause, "timeline",
					    timeline_new(&info->timeline));
	}
	json_object_set_new(root, "pause", pause);
}

static json_t *rings_new(const struct mig_info *info)
{
	json_t *rings =
		json_pack("{s:I, s:I, s:I}", "full-exits",
			  (json_int_t)info->ring_full_exits, "entries",
			  (json_int_t)info->ring_entries, "reset-us",
			  (json_int_t)(info->ring_reset_ns / NS_PER_US));

	if (info->ring_strays)
		json_object_set_new(rings, "strays",
				    integer(info->ring_strays));
	return rings;
}

static json_t *throttled_vcpus_new(struct mig *mig)
{
	json_t *list = json_array();

	for (unsigned int i = 0; i < mig_cpus(mig); i++) {
		struct vcpu_held held;

		converge_held(mig_converge(mig), i, &held);
		json_array_append_new(
			list,
			json_pack("{s:i, s:I, s:I, s:I}", "id", (int)i,
				  "throttle-us",
				  (json_int_t)(held.total_ns / NS_PER_US),
				  "holds", (json_int_t)held.holds, "longest-us",
				  (json_int_t)(held.longest_ns / NS_PER_US)));
	}
	return list;
}

/* Only of a migration that held somebody back.  The percentage is that of QEMU's
 * auto-converge. */
static void add_throttle(json_t *root, struct mig *mig)
{
	struct converge_report report;

	converge_report(mig_converge(mig), &report);
	if (!report.most_percent && !report.total_ns)
		return;
	if (report.percent)
		json_object_set_new(root, "cpu-throttle-percentage",
				    integer(report.percent));
	json_object_set_new(
		root, "throttle",
		json_pack("{s:i, s:I, s:I, s:o}", "most-percentage",
			  (int)report.most_percent, "total-us",
			  (json_int_t)(report.total_ns / NS_PER_US),
			  "longest-us",
			  (json_int_t)(report.longest_ns / NS_PER_US), "vcpus",
			  throttled_vcpus_new(mig)));
}

json_t *qmp_info_new(const struct mig_info *info, struct mig *mig)
{
	json_t *root = json_object();
	char hash[24];

	json_object_set_new(root, "status",
			    json_string(mig_status(info->state)));
	if (info->state == MIG_NONE)
		return root;
	json_object_set_new(root, "incoming", json_boolean(info->is_incoming));
	json_object_set_new(root, "uri", qmp_string_new(info->uri));
	json_object_set_new(root, "total-time",
			    integer(info->total_ns / NS_PER_MS));
	json_object_set_new(root, "setup-time",
			    integer(info->setup_ns / NS_PER_MS));
	add_pause(root, info);
	json_object_set_new(root, "ram", ram_new(info));
	if (!info->is_incoming)
		add_throttle(root, mig);
	if (info->has_rings)
		json_object_set_new(root, "dirty-ring", rings_new(info));
	if (info->is_verified) {
		snprintf(hash, sizeof(hash), "%016" PRIx64, info->verify_hash);
		json_object_set_new(root, "verify",
				    json_pack("{s:I, s:s}", "pages",
					      (json_int_t)info->verified_pages,
					      "hash", hash));
	}
	if (info->error.code)
		json_object_set_new(root, "error-desc",
				    qmp_string_new(err_msg(&info->error)));
	return root;
}
