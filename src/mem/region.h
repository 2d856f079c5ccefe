/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tree of memory regions.
 *
 * A region is a container, RAM, ROM, device I/O or an alias (a window onto
 * another region).  It has a size (up to 2^64 bytes, hence u128) and, once it
 * is put into a container, an offset there, a priority that counts only among
 * its siblings, and an enabled flag.  Sub-regions render highest priority
 * first (the later added first among equals); lower ones fill the gaps, and a
 * container that is itself RAM, ROM or I/O shows through where no sub-region
 * covers it.
 *
 * All of it belongs to one `struct mem`.  Every change is made inside a
 * transaction (mem_begin/mem_commit, mem/space.h); called outside one, a
 * function opens and commits a transaction of its own.
 */
#ifndef GODWIT_MEM_REGION_H
#define GODWIT_MEM_REGION_H

#include <stdbool.h>
#include <stdint.h>

typedef unsigned __int128 u128;

#define MEM_SIZE_2_64 ((u128)1 << 64)

struct mem;
struct mem_region;
struct ram_block;

/*
 * A device's registers.  Called by vCPU threads (and by whoever uses
 * mem/access.h) with no lock held and inside an RCU read section, so that the
 * region cannot go away under the call; hence never mem_synchronize() there
 * (commits are fine).  @offset is inside the region and a multiple of @size,
 * which is 1, 2, 4 or 8 and at most @max_access; any other guest access
 * arrives as several, lowest address first.  Values are little-endian.
 */
struct mem_io_ops {
	uint64_t (*read)(void *dev, uint64_t offset, unsigned int size);
	void (*write)(void *dev, uint64_t offset, uint64_t value,
		      unsigned int size);
	unsigned int max_access; /* 0 means 8 */
};

/* Constructors.  @name is copied.  The new region has one reference, held by
 * the caller; NULL without memory.  Sizes are in bytes and above zero. */
struct mem_region *mem_region_new_container(struct mem *mem, const char *name,
					    u128 size);
/* The whole of @block, which is borrowed and must outlive the region and
 * every view that shows it (mem_synchronize()). */
struct mem_region *mem_region_new_ram(struct mem *mem, const char *name,
				      struct ram_block *block);
struct mem_region *mem_region_new_rom(struct mem *mem, const char *name,
				      struct ram_block *block);
struct mem_region *mem_region_new_io(struct mem *mem, const char *name,
				     u128 size, const struct mem_io_ops *ops,
				     void *dev);
/* A window of @size bytes onto @target from @offset there; holds a reference
 * on @target. */
struct mem_region *mem_region_new_alias(struct mem *mem, const char *name,
					struct mem_region *target,
					uint64_t offset, u128 size);

struct mem_region *mem_region_get(struct mem_region *region);
/* Drops a reference; any thread, any time.  After the last one, the region is
 * taken apart by the next transaction and freed when no reader can see it any
 * more.  NULL is accepted. */
void mem_region_put(struct mem_region *region);

/* Put @sub (which has no container yet) into @container at @offset; the
 * container holds a reference.  A region is never inside itself, be it by
 * way of aliases, and an alias has no sub-regions. */
void mem_region_add(struct mem_region *container, uint64_t offset,
		    struct mem_region *sub, int priority);
/* Take @sub out of its container. */
void mem_region_del(struct mem_region *sub);

/* A disabled region shows nowhere: in its container, through an alias or as a
 * root.  A readonly one drops writes, and so does all that is seen through
 * it; ROM starts readonly.  RAM cannot become larger than its block. */
void mem_region_set_enabled(struct mem_region *region, bool is_enabled);
void mem_region_set_offset(struct mem_region *region, uint64_t offset);
void mem_region_set_size(struct mem_region *region, u128 size);
void mem_region_set_readonly(struct mem_region *region, bool is_readonly);
void mem_region_set_alias_offset(struct mem_region *region, uint64_t offset);

/* A guest's write of @size bytes (0: any size) at @offset of an I/O region
 * signals @fd where the accelerator can do that, and otherwise reaches the
 * device (which signals for itself); with @has_value, only a write of @value.
 * An event shows where all of it lies in one range.  @fd is borrowed until
 * the commit that removes the event. */
struct mem_eventfd {
	uint64_t offset;
	unsigned int size;
	bool has_value;
	uint64_t value;
	int fd;
};

/* -EEXIST when that very event is there already, -ENOMEM. */
int mem_region_add_eventfd(struct mem_region *region,
			   const struct mem_eventfd *event);
void mem_region_del_eventfd(struct mem_region *region,
			    const struct mem_eventfd *event);

/* Name, kind and block never change and may be asked by any thread; size
 * inside a transaction. */
const char *mem_region_name(const struct mem_region *region);
u128 mem_region_size(const struct mem_region *region);
bool mem_region_is_ram(const struct mem_region *region); /* RAM or ROM */
struct ram_block *mem_region_block(const struct mem_region *region);

#endif
