// SPDX-License-Identifier: Apache-2.0
/* No state of its own: its registers are the function's, its memory is RAM. */
#include "dev/ivshmem.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/parse.h"
#include "dev/pci.h"
#include "mem/ram.h"
#include "mem/space.h"

#define REGISTERS_SIZE 256u
#define REGISTERS_BAR  0u
#define MEMORY_BAR     2u

#define MEMORY_ALIGN (1ull << 30) /* so that memslots can be that large */

struct shmem {
	/* immutable after init */
	struct mem *mem; /* borrowed */
	/* owned */
	struct ram_block *block;
	struct mem_region *registers, *memory; /* references */
	struct pci_function *function;
};

/* Nothing to read or write: reads are 0. */
static uint64_t io_read(void *dev, uint64_t offset, unsigned int size)
{
	(void)dev;
	(void)offset;
	(void)size;
	return 0;
}

static const struct mem_io_ops io_ops = {
	.read = io_read,
	.max_access = 4,
};

static int parse(const char *text, uint64_t *ret_size, struct err *err)
{
	const char *at = text;
	struct parse_kv kv;
	uint64_t size = 0;
	int ret;

	while ((ret = parse_kv_next(&at, &kv)) > 0) {
		if (strcmp(kv.key, "size") != 0 || !kv.value)
			return err_set(err, -EINVAL,
				       "no sub-option '%s'; there is size=N",
				       kv.key);
		ret = parse_size(kv.value, &size, err);
		if (ret)
			return ret;
	}
	if (ret)
		return err_set(err, ret, "'%s' is not KEY=VALUE", at);
	if (size < RAM_PAGE_SIZE || (size & (size - 1)))
		return err_set(err, -EINVAL,
			       "size of %" PRIu64 " bytes, must be a power of "
			       "two of at least 4K",
			       size);
	*ret_size = size;
	return 0;
}

static int shmem_init(struct shmem *shmem, struct pci_bus *bus,
		      const char *name, uint64_t size, struct err *err)
{
	const struct ram_options options = {
		.align = size >= MEMORY_ALIGN ? MEMORY_ALIGN : 0,
	};
	const struct pci_function_config config = {
		.name = name,
		.identity = { .vendor = 0x1af4,
			      .device = 0x1110,
			      .subsystem_vendor = 0x1af4,
			      .subsystem = 0x1100,
			      .revision = 1,
			      .class_code = 0x050000 }, /* memory: RAM */
	};
	int ret = ram_block_new(shmem->mem, name, size, &options, &shmem->block,
				err);

	if (ret)
		return ret;
	shmem->registers = mem_region_new_io(shmem->mem, name, REGISTERS_SIZE,
					     &io_ops, shmem);
	shmem->memory = mem_region_new_ram(shmem->mem, name, shmem->block);
	if (!shmem->registers || !shmem->memory)
		return err_set(err, -ENOMEM, "no memory for %s", name);
	ret = pci_function_new(bus, &config, &shmem->function, err);
	if (!ret)
		ret = pci_bar_add(shmem->function, REGISTERS_BAR,
				  shmem->registers, PCI_BAR_32, err);
	if (!ret)
		ret = pci_bar_add(shmem->function, MEMORY_BAR, shmem->memory,
				  PCI_BAR_64_PREFETCH, err);
	return ret;
}

int shmem_new(struct mem *mem, struct pci_bus *bus, const char *name,
	      const char *text, struct shmem **ret_shmem, struct err *err)
{
	struct shmem *shmem;
	uint64_t size;
	int ret = parse(text, &size, err);

	if (ret)
		return ret;
	shmem = calloc(1, sizeof(*shmem));
	if (!shmem)
		return err_set(err, -ENOMEM, "no memory for %s", name);
	shmem->mem = mem;
	ret = shmem_init(shmem, bus, name, size, err);
	if (ret)
		shmem_free(shmem);
	else
		*ret_shmem = shmem;
	return ret;
}

void shmem_free(struct shmem *shmem)
{
	if (!shmem)
		return;
	pci_function_free(shmem->function);
	mem_region_put(shmem->registers);
	mem_region_put(shmem->memory);
	mem_synchronize(shmem->mem); /* views show the block until then */
	ram_block_free(shmem->block);
	free(shmem);
}
