// SPDX-License-Identifier: Apache-2.0
/* query-memory-map: what `info mtree` shows, as JSON. */
#include "control/qmp_memory.h"

#include <inttypes.h>
#include <stdio.h>

#include "control/qmp_server.h"
#include "machine/machine.h"
#include "mem/describe.h"
#include "mem/space.h"
#include "mem/view.h"

/* Addresses and sizes are strings: JSON's integers end at 2^63. */
static json_t *address_new(u128 value)
{
	char text[40];

	if (value >> 64)
		snprintf(text, sizeof(text), "0x%" PRIx64 "%016" PRIx64,
			 (uint64_t)(value >> 64), (uint64_t)value);
	else
		snprintf(text, sizeof(text), "0x%" PRIx64, (uint64_t)value);
	return json_string(text);
}

struct description {
	json_t *regions, *view; /* owned arrays */
};

static void add_region(void *opaque, const struct mem_region_info *info)
{
	struct description *description = opaque;
	json_t *region = json_object();

	json_object_set_new(region, "depth", json_integer(info->depth));
	json_object_set_new(region, "name", qmp_string_new(info->name));
	json_object_set_new(region, "kind", json_string(info->kind));
	json_object_set_new(region, "address", address_new(info->addr));
	json_object_set_new(region, "size", address_new(info->size));
	json_object_set_new(region, "priority", json_integer(info->priority));
	json_object_set_new(region, "enabled", json_boolean(info->is_enabled));
	json_object_set_new(region, "readonly",
			    json_boolean(info->is_readonly));
	if (info->alias_target) {
		json_object_set_new(region, "target",
				    qmp_string_new(info->alias_target));
		json_object_set_new(region, "target-offset",
				    address_new(info->alias_offset));
	}
	json_array_append_new(description->regions, region);
}

static void add_range(void *opaque, const struct mem_range *range)
{
	struct description *description = opaque;
	json_t *entry = json_object();

	json_object_set_new(entry, "address", address_new(range->gpa));
	json_object_set_new(entry, "size", address_new(range->size));
	json_object_set_new(entry, "region",
			    qmp_string_new(mem_region_name(range->region)));
	json_object_set_new(entry, "offset", address_new(range->offset));
	json_object_set_new(entry, "ram",
			    json_boolean(mem_region_is_ram(range->region)));
	json_object_set_new(entry, "readonly",
			    json_boolean(range->is_readonly));
	json_array_append_new(description->view, entry);
}

json_t *qmp_run_query_memory_map(struct qmp_call *call, const json_t *args,
				 struct err *err)
{
	static const struct mem_visitor visitor = {
		.region = add_region,
		.range = add_range,
	};
	struct description description = {
		.regions = json_array(),
		.view = json_array(),
	};
	struct addr_space *memory = machine_memory(call->machine);

	(void)args;
	(void)err;
	mem_describe(memory, &visitor, &description);
	return json_pack("{s:s, s:o, s:o}", "name", addr_space_name(memory),
			 "regions", description.regions, "view",
			 description.view);
}
