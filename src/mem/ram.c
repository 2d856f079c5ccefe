// SPDX-License-Identifier: Apache-2.0
/*
 * RAM blocks.  Called by the machine when it is built, by the accessors, and
 * by migration (residency, dirty bitmaps).  A block is one memfd, sealed so
 * that no process it is shared with can shrink it under our feet, nor forbid the
 * next one to map it (F_SEAL_FUTURE_WRITE), mapped once inside a larger reservation
 * so that the mapping can be aligned.
 */
#include "mem/ram.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/trace.h"
#include "mem_priv.h"

#define DEFAULT_ALIGN (2ull << 20)
#define HUGEPAGE_SIZE (2ull << 20)

static int open_memfd(struct ram_block *block, struct err *err)
{
	unsigned int flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	char name[48];

	if (block->hugepage_size)
		flags |= MFD_HUGETLB | MFD_HUGE_2MB;
	snprintf(name, sizeof(name), "godwit:%s", block->name);
	block->fd = memfd_create(name, flags);
	if (block->fd < 0)
		return err_set_errno(err, -errno, "memory %s: memfd",
				     block->name);
	if (ftruncate(block->fd, (off_t)block->size) < 0)
		return err_set_errno(err, -errno, "memory %s: %lu bytes",
				     block->name, block->size);
	if (fcntl(block->fd, F_ADD_SEALS,
		  F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return err_set_errno(err, -errno, "memory %s: seals",
				     block->name);
	return 0;
}

/* hugetlbfs takes its pages from the pool at mmap() unless told not to
 * reserve; ordinary memory is meant to be overcommitted. */
static int map_at(struct ram_block *block, uint8_t *at, struct err *err)
{
	int flags = MAP_SHARED | MAP_FIXED;

	if (!block->hugepage_size)
		flags |= MAP_NORESERVE;
	if (mmap(at, block->size, PROT_READ | PROT_WRITE, flags, block->fd,
		 0) != MAP_FAILED)
		return 0;
	if (block->hugepage_size && errno == ENOMEM)
		return err_set(err, -ENOMEM,
			       "memory %s: %lu free huge pages of 2 MiB are "
			       "needed (write that many more than are in use "
			       "to /proc/sys/vm/nr_hugepages)",
			       block->name, block->size >> 21);
	return err_set_errno(err, -errno, "memory %s: mapping %lu bytes",
			     block->name, block->size);
}

/* Reserve addresses, map inside where it is aligned, give back the rest. */
static int map_aligned(struct ram_block *block, uint64_t align, struct err *err)
{
	uint64_t room;
	uint8_t *base, *at;
	int ret;

	if (__builtin_add_overflow(block->size, align, &room))
		return err_set(err, -ENOMEM, "memory %s: %lu bytes",
			       block->name, block->size);
	base = mmap(NULL, room, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED)
		return err_set_errno(err, -errno,
				     "memory %s: %lu bytes of address space",
				     block->name, room);
	at = (uint8_t *)align_up((uintptr_t)base, align);
	ret = map_at(block, at, err);
	if (ret) {
		munmap(base, room);
		return ret;
	}
	if (at > base)
		munmap(base, (size_t)(at - base));
	if (base + room > at + block->size)
		munmap(at + block->size,
		       (size_t)(base + room - (at + block->size)));
	block->host = at;
	return 0;
}

static int check_options(const char *name, uint64_t size,
			 const struct ram_options *options, struct err *err)
{
	uint64_t align = options->align;

	if (strlen(name) >= sizeof(((struct ram_block *)0)->name))
		return err_set(err, -EINVAL,
			       "memory %s: a name has at most %zu characters",
			       name, sizeof(((struct ram_block *)0)->name) - 1);
	if (size == 0 || size > INT64_MAX - HUGEPAGE_SIZE)
		return err_set(err, -EINVAL, "memory %s: %lu bytes", name,
			       size);
	if (options->hugepage_size && options->hugepage_size != HUGEPAGE_SIZE)
		return err_set(err, -EINVAL,
			       "memory %s: huge pages of %lu bytes, only 2 MiB",
			       name, options->hugepage_size);
	if (align & (align - 1))
		return err_set(err, -EINVAL,
			       "memory %s: alignment %lu is no power of two",
			       name, align);
	return 0;
}

/* Everything but the name, which must be looked for and taken in one go. */
static int block_init(struct ram_block *block,
		      const struct ram_options *options, struct err *err)
{
	uint64_t align = options->align ? options->align : DEFAULT_ALIGN;
	uint64_t groups = ram_block_groups(block);
	int ret;

	if (align < block->hugepage_size)
		align = block->hugepage_size;
	ret = open_memfd(block, err);
	if (ret == 0)
		ret = map_aligned(block, align, err);
	if (ret)
		return ret;
	/* advice: a kernel built without these loses nothing else */
	madvise(block->host, block->size, MADV_DONTDUMP);
	if (options->use_thp)
		madvise(block->host, block->size, MADV_HUGEPAGE);
	block->dirty = bitmap_new(block->pages);
	block->dirty_groups = bitmap_new(groups);
	block->known = bitmap_new(block->pages);
	block->known_groups = bitmap_new(groups);
	if (!block->dirty || !block->dirty_groups || !block->known ||
	    !block->known_groups)
		return err_set(err, -ENOMEM, "memory %s: no room for bitmaps",
			       block->name);
	return 0;
}

static void block_destroy(struct ram_block *block)
{
	uint64_t groups = ram_block_groups(block);

	bitmap_free(block->dirty, block->pages);
	bitmap_free(block->dirty_groups, groups);
	bitmap_free(block->known, block->pages);
	bitmap_free(block->known_groups, groups);
	if (block->host)
		munmap(block->host, block->size);
	if (block->fd >= 0)
		close(block->fd);
	free(block);
}

int ram_block_new(struct mem *mem, const char *name, uint64_t size,
		  const struct ram_options *options,
		  struct ram_block **ret_block, struct err *err)
{
	static const struct ram_options defaults;
	struct ram_block *block;
	int ret;

	if (!options)
		options = &defaults;
	ret = check_options(name, size, options, err);
	if (ret)
		return ret;
	block = calloc(1, sizeof(*block));
	if (!block)
		return err_set(err, -ENOMEM, "memory %s", name);
	block->mem = mem;
	block->fd = -1;
	strcpy(block->name, name);
	block->hugepage_size = options->hugepage_size;
	block->is_huge = options->hugepage_size || options->use_thp;
	block->size = align_up(size, block->hugepage_size ? block->hugepage_size
							  : RAM_PAGE_SIZE);
	block->pages = block->size >> RAM_PAGE_SHIFT;
	list_init(&block->link);

	mem_lock(mem);
	if (ram_block_find(mem, name))
		ret = err_set(err, -EEXIST, "memory %s exists already", name);
	else
		ret = block_init(block, options, err);
	if (ret == 0) {
		block->index = mem->next_block_index++;
		list_add_tail(&mem->blocks, &block->link);
	}
	mem_unlock(mem);
	if (ret) {
		block_destroy(block);
		return ret;
	}
	trace(ram_block_new, "%s: %lu bytes at %p", block->name, block->size,
	      (void *)block->host);
	*ret_block = block;
	return 0;
}

void ram_block_free(struct ram_block *block)
{
	if (!block)
		return;
	mem_lock(block->mem);
	list_del(&block->link);
	mem_unlock(block->mem);
	block_destroy(block);
}

struct ram_block *ram_block_find(struct mem *mem, const char *name)
{
	struct ram_block *block, *found = NULL;

	mem_lock(mem);
	list_for_each (block, &mem->blocks, link) {
		if (strcmp(block->name, name) == 0) {
			found = block;
			break;
		}
	}
	mem_unlock(mem);
	return found;
}

struct ram_block *ram_block_next(struct mem *mem, struct ram_block *block)
{
	struct list *next;

	mem_lock(mem);
	next = block ? block->link.next : mem->blocks.next;
	mem_unlock(mem);
	return next == &mem->blocks ? NULL
				    : list_entry(next, struct ram_block, link);
}

/* lseek() moves the offset that all users of the fd share; only its result
 * counts, so callers may race. */
bool ram_block_find_data(const struct ram_block *block, uint64_t start,
			 uint64_t end, uint64_t *ret_at)
{
	off_t data = (off_t)start;

	if (end > block->size)
		end = block->size;
	if (start >= end)
		return false;
	if (!block->hugepage_size) {
		data = lseek(block->fd, (off_t)start, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			return false;
		if (data < 0) /* a host that cannot tell: all is touched */
			data = (off_t)start;
	}
	data = (off_t)align_down((uint64_t)data, RAM_PAGE_SIZE);
	if (data < (off_t)start)
		data = (off_t)start;
	if (data >= (off_t)end)
		return false;
	*ret_at = (uint64_t)data;
	return true;
}

bool ram_block_next_data(const struct ram_block *block, uint64_t start,
			 uint64_t end, uint64_t *ret_start, uint64_t *ret_end)
{
	off_t hole = -1;

	if (!ram_block_find_data(block, start, end, &start))
		return false;
	if (end > block->size)
		end = block->size;
	if (!block->hugepage_size)
		hole = lseek(block->fd, (off_t)start, SEEK_HOLE);
	hole = hole < 0 ? (off_t)end
			: (off_t)align_up((uint64_t)hole, RAM_PAGE_SIZE);
	if (hole <= (off_t)start) /* punched between the two calls */
		hole = (off_t)(start + RAM_PAGE_SIZE);
	*ret_start = start;
	*ret_end = hole > (off_t)end ? end : (uint64_t)hole;
	return true;
}
