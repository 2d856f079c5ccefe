// SPDX-License-Identifier: Apache-2.0
/*
 * The bus: the two ways to configuration space (ports, ECAM), the windows in which
 * BARs show, and the host bridge.
 *
 *	port 0xcf8  address: 31 enable, 27:24 register 11:8, 23:16 bus,
 *	            15:11 slot, 10:8 function, 7:2 register
 *	port 0xcfc  data
 *	ECAM        27:20 bus, 19:15 slot, 14:12 function, 11:0 register
 *
 * Register bits 27:24 are AMD's extension, which kernels use on AMD processors.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/err.h"
#include "dev/pch_reset.h"
#include "dev/pci_priv.h"
#include "mem/space.h"

#define PORTS_AT   0xcf8u
#define PORTS      8u
#define DATA       4u /* of its ports */
#define RESET_PORT (PCH_RESET_PORT - PORTS_AT)

#define ADDRESS_ENABLE   0x80000000u
#define ADDRESS_BUS      0x00ff0000u
#define ADDRESS_WRITABLE 0x8ffffffcu

#define FUNCTIONS 8u /* of a slot; only the first is there */

/* The function, or NULL. */
static struct pci_function *function_at(const struct pci_bus *bus,
					uint32_t number)
{
	return number % FUNCTIONS == 0
		       ? bus->functions[number / FUNCTIONS % PCI_SLOTS]
		       : NULL;
}

static uint32_t config_read(struct pci_bus *bus, uint32_t number,
			    uint32_t offset, uint32_t size)
{
	struct pci_function *function = function_at(bus, number);

	return function ? pci_function_read(function, offset, size)
			: UINT32_MAX;
}

static void config_write(struct pci_bus *bus, uint32_t number, uint32_t offset,
			 uint32_t value, uint32_t size)
{
	struct pci_function *function = function_at(bus, number);

	if (function)
		pci_function_write(function, offset, value, size);
}

/* ---- ports ---- */

/* Where data port @port leads; false: nowhere. */
static bool port_target(struct pci_bus *bus, uint64_t port,
			uint32_t *ret_number, uint32_t *ret_offset)
{
	uint32_t address;

	lock_acquire(&bus->lock);
	address = bus->address;
	lock_release(&bus->lock);
	*ret_number = address >> 8 & 0xff;
	*ret_offset = (address >> 16 & 0xf00) | (address & 0xfc) |
		      (uint32_t)(port - DATA);
	return (address & ADDRESS_ENABLE) && !(address & ADDRESS_BUS);
}

static uint64_t port_read(void *dev, uint64_t offset, unsigned int size)
{
	struct pci_bus *bus = dev;
	uint32_t value = UINT32_MAX, number, at;

	if (offset >= DATA) {
		if (port_target(bus, offset, &number, &at))
			value = config_read(bus, number, at, size);
	} else if (size == 4) {
		lock_acquire(&bus->lock);
		value = bus->address;
		lock_release(&bus->lock);
	} else if (size == 1 && offset == RESET_PORT && bus->at.reset) {
		value = pch_reset_read(bus->at.reset);
	}
	return value;
}

static void port_write(void *dev, uint64_t offset, uint64_t value,
		       unsigned int size)
{
	struct pci_bus *bus = dev;
	uint32_t number, at;

	if (offset >= DATA) {
		if (port_target(bus, offset, &number, &at))
			config_write(bus, number, at, (uint32_t)value, size);
	} else if (size == 4) {
		lock_acquire(&bus->lock);
		bus->address = (uint32_t)value & ADDRESS_WRITABLE;
		lock_release(&bus->lock);
	} else if (size == 1 && offset == RESET_PORT && bus->at.reset) {
		pch_reset_write(bus->at.reset, (uint8_t)value);
	}
}

static const struct mem_io_ops port_ops = {
	.read = port_read,
	.write = port_write,
	.max_access = 4,
};

/* ---- ECAM ---- */

static uint64_t ecam_read(void *dev, uint64_t offset, unsigned int size)
{
	return config_read(dev, (uint32_t)(offset / PCI_CONFIG_SIZE),
			   (uint32_t)(offset % PCI_CONFIG_SIZE), size);
}

static void ecam_write(void *dev, uint64_t offset, uint64_t value,
		       unsigned int size)
{
	config_write(dev, (uint32_t)(offset / PCI_CONFIG_SIZE),
		     (uint32_t)(offset % PCI_CONFIG_SIZE), (uint32_t)value,
		     size);
}

static const struct mem_io_ops ecam_ops = {
	.read = ecam_read,
	.write = ecam_write,
	.max_access = 4,
};

/* ---- state ---- */

static const struct state_field fields[] = {
	STATE_FIELD(struct pci_bus, address, STATE_U32),
};

static int load(void *obj, uint16_t version, struct err *err)
{
	struct pci_bus *bus = obj;

	(void)version;
	(void)err;
	bus->address &= ADDRESS_WRITABLE;
	return 0;
}

static const struct state_desc state = {
	.version = 1,
	.min_version = 1,
	.fields = fields,
	.field_count = array_size(fields),
	.load = load,
};

/* ---- life ---- */

/* In a transaction. */
static int add_regions(struct pci_bus *bus, struct err *err)
{
	const struct pci_bus_config *at = &bus->at;

	bus->space = mem_region_new_container(at->mem, "pci", MEM_SIZE_2_64);
	if (!bus->space)
		return err_set(err, -ENOMEM, "no memory for PCI");
	bus->windows[0] = mem_region_new_alias(
		at->mem, "pci-low", bus->space, PCI_MMIO32_START,
		PCI_MMIO32_END - PCI_MMIO32_START);
	bus->windows[1] =
		mem_region_new_alias(at->mem, "pci-high", bus->space,
				     at->mmio64_start, PCI_MMIO64_SIZE);
	bus->ports =
		mem_region_new_io(at->mem, "pci-ports", PORTS, &port_ops, bus);
	bus->ecam = mem_region_new_io(at->mem, "pci-ecam", PCI_ECAM_SIZE,
				      &ecam_ops, bus);
	if (!bus->windows[0] || !bus->windows[1] || !bus->ports || !bus->ecam)
		return err_set(err, -ENOMEM, "no memory for PCI");
	mem_region_add(at->memory, PCI_MMIO32_START, bus->windows[0], 0);
	mem_region_add(at->memory, at->mmio64_start, bus->windows[1], 0);
	mem_region_add(at->memory, PCI_ECAM_START, bus->ecam, 0);
	mem_region_add(at->ports, PORTS_AT, bus->ports, 0);
	bus->has_regions = true;
	return 0;
}

static int add_bridge(struct pci_bus *bus, struct err *err)
{
	/* A generic one, which no kernel has workarounds for. */
	const struct pci_function_config config = {
		.name = "host-bridge",
		.identity = { .vendor = 0x1b36,
			      .device = 0x0008,
			      .subsystem_vendor = 0x1af4,
			      .subsystem = 0x1100,
			      .class_code = PCI_CLASS_HOST_BRIDGE },
	};

	return pci_function_new(bus, &config, &bus->bridge, err);
}

int pci_bus_new(const struct pci_bus_config *config, struct pci_bus **ret_bus,
		struct err *err)
{
	struct pci_bus *bus = calloc(1, sizeof(*bus));
	int ret;

	if (!bus)
		return err_set(err, -ENOMEM, "no memory for PCI");
	bus->at = *config;
	lock_init(&bus->lock, LOCK_DEVICE);
	mem_begin(config->mem);
	ret = add_regions(bus, err);
	if (!ret)
		ret = add_bridge(bus, err);
	mem_commit(config->mem);
	if (ret) {
		pci_bus_free(bus);
		return ret;
	}
	state_register(config->state, &bus->state, "pci", &state, bus);
	*ret_bus = bus;
	return 0;
}

static void remove_regions(struct pci_bus *bus)
{
	mem_region_del(bus->ports);
	mem_region_del(bus->ecam);
	for (unsigned int i = 0; i < PCI_WINDOWS; i++)
		mem_region_del(bus->windows[i]);
}

void pci_bus_free(struct pci_bus *bus)
{
	if (!bus)
		return;
	state_unregister(&bus->state);
	pci_function_free(bus->bridge);
	mem_begin(bus->at.mem);
	if (bus->has_regions)
		remove_regions(bus);
	mem_region_put(bus->ports);
	mem_region_put(bus->ecam);
	for (unsigned int i = 0; i < PCI_WINDOWS; i++)
		mem_region_put(bus->windows[i]);
	mem_region_put(bus->space);
	mem_commit(bus->at.mem);
	lock_fini(&bus->lock);
	free(bus);
}
