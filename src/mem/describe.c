// SPDX-License-Identifier: Apache-2.0
/* The tree and the flat view for people to read.  Called by control/. */
#include "mem/describe.h"

#include "mem_priv.h"

struct walk {
	const struct mem_visitor *visitor;
	void *opaque;
	unsigned int depth;
	u128 addr; /* of the container */
};

static const char *const kind_names[] = {
	[MEM_CONTAINER] = "container",
	[MEM_RAM] = "ram",
	[MEM_ROM] = "rom",
	[MEM_IO] = "io",
	[MEM_ALIAS] = "alias",
};

static void visit_region(void *opaque, struct mem_region *region)
{
	struct walk *walk = opaque;
	struct walk below = {
		.visitor = walk->visitor,
		.opaque = walk->opaque,
		.depth = walk->depth + 1,
		.addr = walk->addr + region->offset,
	};
	struct mem_region_info info = {
		.depth = walk->depth,
		.name = region->name,
		.kind = kind_names[region->kind],
		.addr = below.addr,
		.offset = region->offset,
		.size = region->size,
		.priority = region->priority,
		.is_enabled = region->is_enabled,
		.is_readonly = region->is_readonly,
		.alias_target = region->target ? region->target->name : NULL,
		.alias_offset = region->alias_offset,
	};

	walk->visitor->region(walk->opaque, &info);
	region_index_visit(region, 0, (i128)MEM_SIZE_2_64, visit_region,
			   &below);
}

void mem_describe(struct addr_space *as, const struct mem_visitor *visitor,
		  void *opaque)
{
	struct walk walk = { .visitor = visitor, .opaque = opaque };
	const struct mem_range *range;

	mem_lock(as->mem);
	if (visitor->region) {
		/* a root's own offset, if any, is that in another tree */
		walk.addr = -(u128)as->root->offset;
		visit_region(&walk, as->root);
	}
	if (visitor->range) {
		flat_view_for_each(range, as->view)
			visitor->range(opaque, range);
	}
	mem_unlock(as->mem);
}
