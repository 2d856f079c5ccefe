// SPDX-License-Identifier: Apache-2.0
/* BARs: regions that are where a function's registers say. */
#include <errno.h>
#include <inttypes.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/trace.h"
#include "dev/pci_priv.h"
#include "mem/space.h"

#define SIZE_MIN      16u
#define SIZE_32_MAX   (1ull << 31)
#define SIZE_64_MAX   (1ull << 62)
#define HIGH_SIZE_MIN (16ull << 20) /* prefetchable ones above 4 GiB */

static bool is_64(const struct pci_bar *bar)
{
	return bar->kind != PCI_BAR_32;
}

static uint8_t *register_of(struct pci_function *function, unsigned int index)
{
	return function->config + PCI_BASE_ADDRESS_0 + 4 * index;
}

static uint64_t address_of(struct pci_function *function, unsigned int index)
{
	const uint8_t *at = register_of(function, index);
	uint64_t address = pci_get(at, 4) & PCI_BASE_ADDRESS_MEM_MASK;

	if (is_64(&function->bars[index]))
		address |= (uint64_t)pci_get(at + 4, 4) << 32;
	return address;
}

static void set_address(struct pci_function *function, unsigned int index,
			uint64_t address)
{
	uint8_t *at = register_of(function, index);

	pci_put(at, (uint32_t)address | (at[0] & 0xf), 4);
	if (is_64(&function->bars[index]))
		pci_put(at + 4, (uint32_t)(address >> 32), 4);
}

static void show(struct pci_function *function, unsigned int index,
		 bool is_shown)
{
	struct pci_bar *bar = &function->bars[index];
	uint64_t address = address_of(function, index);

	if (is_shown == bar->is_shown && (!is_shown || address == bar->address))
		return;
	trace(pci_bar, "%s BAR %u: %s 0x%" PRIx64, function->state.name, index,
	      is_shown ? "at" : "off", address);
	if (is_shown)
		mem_region_set_offset(bar->region, address);
	mem_region_set_enabled(bar->region, is_shown);
	bar->is_shown = is_shown;
	bar->address = address;
}

void pci_bars_show(struct pci_function *function)
{
	uint32_t command = pci_get(function->config + PCI_COMMAND, 2);

	lock_assert_held(&function->lock);
	for (unsigned int i = 0; i < PCI_BARS; i++) {
		if (function->bars[i].region)
			show(function, i, command & PCI_COMMAND_MEMORY);
	}
}

static int check(const struct pci_function *function, unsigned int index,
		 u128 size, enum pci_bar_kind kind, struct err *err)
{
	u128 max = kind == PCI_BAR_32 ? SIZE_32_MAX : SIZE_64_MAX;
	unsigned int last = index + (kind != PCI_BAR_32);

	if (size < SIZE_MIN || size > max || (size & (size - 1)))
		return err_set(err, -EINVAL,
			       "BAR %u of %" PRIu64
			       " bytes: must be a power of "
			       "two from %u to %" PRIu64,
			       index, (uint64_t)size, SIZE_MIN, (uint64_t)max);
	for (unsigned int i = 0; last < PCI_BARS && i <= last; i++) {
		const struct pci_bar *bar = &function->bars[i];

		if (bar->region && i + is_64(bar) >= index)
			last = PCI_BARS;
	}
	return last < PCI_BARS ? 0
			       : err_set(err, -EINVAL,
					 "there is no BAR %u left", index);
}

int pci_bar_add(struct pci_function *function, unsigned int index,
		struct mem_region *region, enum pci_bar_kind kind,
		struct err *err)
{
	static const uint8_t flags[] = {
		[PCI_BAR_32] = 0,
		[PCI_BAR_64] = PCI_BASE_ADDRESS_MEM_TYPE_64,
		[PCI_BAR_64_PREFETCH] = PCI_BASE_ADDRESS_MEM_TYPE_64 |
					PCI_BASE_ADDRESS_MEM_PREFETCH,
	};
	struct pci_bus *bus = function->bus;
	struct pci_bar *bar = &function->bars[index];
	uint8_t *writable;
	int ret;

	mem_begin(bus->at.mem);
	ret = check(function, index, mem_region_size(region), kind, err);
	if (!ret) {
		bar->region = mem_region_get(region);
		bar->kind = kind;
		bar->size = (uint64_t)mem_region_size(region);
		mem_region_set_enabled(region, false);
		mem_region_add(bus->space, 0, region, 0);
		writable = function->writable + PCI_BASE_ADDRESS_0 + 4 * index;
		pci_put(writable, (uint32_t)-bar->size, 4);
		if (is_64(bar))
			pci_put(writable + 4, (uint32_t)(-bar->size >> 32), 4);
		register_of(function, index)[0] = flags[kind];
	}
	mem_commit(bus->at.mem);
	return ret;
}

void pci_bars_free(struct pci_function *function)
{
	mem_begin(function->bus->at.mem);
	for (unsigned int i = 0; i < PCI_BARS; i++) {
		struct pci_bar *bar = &function->bars[i];

		if (bar->region) {
			mem_region_del(bar->region);
			mem_region_put(bar->region);
			bar->region = NULL;
		}
	}
	mem_commit(function->bus->at.mem);
}

/* ---- placing ---- */

struct place {
	uint64_t at, end;
};

/* Largest first, nothing is lost to alignment. */
static bool take(struct place *place, uint64_t size, uint64_t *ret_address)
{
	uint64_t address = align_up(place->at, size);

	if (address < place->at || address > place->end ||
	    size > place->end - address)
		return false;
	place->at = address + size;
	*ret_address = address;
	return true;
}

static int place_bar(struct pci_function *function, unsigned int index,
		     struct place *low, struct place *high, struct err *err)
{
	const struct pci_bar *bar = &function->bars[index];
	bool is_high =
		bar->kind == PCI_BAR_64_PREFETCH && bar->size >= HIGH_SIZE_MIN;
	uint64_t address = 0;

	if (!(is_high && take(high, bar->size, &address)) &&
	    !take(low, bar->size, &address) &&
	    !(is_64(bar) && take(high, bar->size, &address)))
		return err_set(err, -ENOSPC,
			       "%s: no room for BAR %u of %" PRIu64 " bytes",
			       function->state.name, index, bar->size);
	lock_acquire(&function->lock);
	set_address(function, index, address);
	pci_bars_show(function);
	lock_release(&function->lock);
	return 0;
}

int pci_bus_assign(struct pci_bus *bus, struct err *err)
{
	struct place low = { PCI_MMIO32_START, PCI_MMIO32_END };
	struct place high = { bus->at.mmio64_start,
			      bus->at.mmio64_start + PCI_MMIO64_SIZE };
	int ret = 0;

	mem_begin(bus->at.mem);
	for (uint64_t size = SIZE_64_MAX; !ret && size >= SIZE_MIN; size /= 2) {
		for (unsigned int i = 0; !ret && i < PCI_SLOTS * PCI_BARS;
		     i++) {
			struct pci_function *function =
				bus->functions[i / PCI_BARS];
			unsigned int index = i % PCI_BARS;

			if (function && function->bars[index].region &&
			    function->bars[index].size == size)
				ret = place_bar(function, index, &low, &high,
						err);
		}
	}
	mem_commit(bus->at.mem);
	return ret;
}
