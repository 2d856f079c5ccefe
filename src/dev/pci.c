// SPDX-License-Identifier: Apache-2.0
/* A function's registers, capabilities, reset and saved state. */
#include "dev/pci.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/trace.h"
#include "dev/msix.h"
#include "dev/pci_priv.h"
#include "mem/space.h"

#define CAPABILITIES_AT PCI_STD_HEADER_SIZEOF

#define COMMAND_WRITABLE                                                \
	(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_PARITY | \
	 PCI_COMMAND_SERR | PCI_COMMAND_INTX_DISABLE)

/* An endpoint of the root complex: version 2, so all registers are there. */
#define EXPRESS_FLAGS    (2u | PCI_EXP_TYPE_RC_END << 4)
#define EXPRESS_SIZE     0x3cu
#define EXPRESS_DEVCAP   (PCI_EXP_DEVCAP_RBER | PCI_EXP_DEVCAP_FLR)
#define EXPRESS_WRITABLE 0x7fffu /* of device control: all but the reset */

#define MSIX_WRITABLE (PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL)

/* ---- accesses ---- */

static bool is_told(const struct pci_function *function, uint32_t offset,
		    uint32_t size)
{
	bool told = false;

	for (uint32_t i = offset; i < offset + size && i < PCI_WRITABLE_SIZE;
	     i++)
		told |= function->told[i];
	return told;
}

/* What of Device Status follows from the device. */
static uint32_t pending_bits(struct pci_function *function, uint32_t offset,
			     uint32_t size)
{
	uint32_t at = function->express_at + PCI_EXP_DEVSTA;

	if (!function->express_at || !pci_touches(offset, size, at, 1) ||
	    !function->ops || !function->ops->is_pending ||
	    !function->ops->is_pending(function->opaque))
		return 0;
	return (uint32_t)PCI_EXP_DEVSTA_TRPND << 8 * (at - offset);
}

uint32_t pci_function_read(struct pci_function *function, uint32_t offset,
			   uint32_t size)
{
	if (is_told(function, offset, size) && function->ops->config_read)
		function->ops->config_read(function->opaque, offset, size);
	return pci_config_get(function, offset, size) |
	       pending_bits(function, offset, size);
}

uint32_t pci_config_get(struct pci_function *function, uint32_t offset,
			uint32_t size)
{
	uint32_t value;

	lock_acquire(&function->lock);
	value = pci_get(function->config + offset, size);
	lock_release(&function->lock);
	return value;
}

void pci_config_put(struct pci_function *function, uint32_t offset,
		    uint32_t value, uint32_t size)
{
	lock_acquire(&function->lock);
	pci_put(function->config + offset, value, size);
	lock_release(&function->lock);
}

/* In a transaction (or with no vCPU), without the lock: MSI-X as the registers say.
 * An interrupt is a write to memory, which takes bus mastering. */
static void apply_msix(struct pci_function *function)
{
	uint32_t control;

	if (!function->msix)
		return;
	control =
		pci_config_get(function, function->msix_at + PCI_MSIX_FLAGS, 2);
	msix_set_control(function->msix,
			 (control & PCI_MSIX_FLAGS_ENABLE) &&
				 pci_may_master(function),
			 control & PCI_MSIX_FLAGS_MASKALL);
}

/* With the lock, in a transaction. */
static void apply_command(struct pci_function *function)
{
	uint32_t command = pci_get(function->config + PCI_COMMAND, 2);

	__atomic_store_n(&function->may_master,
			 (command & PCI_COMMAND_MASTER) != 0, __ATOMIC_RELEASE);
	pci_bars_show(function);
}

static void reset(struct pci_function *function)
{
	struct mem *mem = function->bus->at.mem;

	trace(pci_reset, "%s", function->state.name);
	if (function->ops && function->ops->reset)
		function->ops->reset(function->opaque);
	mem_begin(mem);
	lock_acquire(&function->lock);
	for (unsigned int i = 0; i < PCI_WRITABLE_SIZE; i++)
		function->config[i] &= (uint8_t)~function->writable[i];
	apply_command(function);
	lock_release(&function->lock);
	if (function->msix)
		msix_reset(function->msix);
	mem_commit(mem);
}

/* With the lock. */
static void write_bytes(struct pci_function *function, uint32_t offset,
			uint32_t value, uint32_t size)
{
	for (uint32_t i = 0; i < size; i++, value >>= 8) {
		uint8_t writable = function->writable[offset + i];
		uint8_t *byte = &function->config[offset + i];

		*byte = (uint8_t)((*byte & ~writable) | (value & writable));
	}
}

static bool asks_for_reset(const struct pci_function *function, uint32_t offset,
			   uint32_t value, uint32_t size)
{
	uint32_t at = function->express_at + PCI_EXP_DEVCTL + 1;

	return function->express_at && pci_touches(offset, size, at, 1) &&
	       (value >> 8 * (at - offset) & PCI_EXP_DEVCTL_BCR_FLR >> 8);
}

void pci_function_write(struct pci_function *function, uint32_t offset,
			uint32_t value, uint32_t size)
{
	struct mem *mem = function->bus->at.mem;
	bool is_command, is_moving, is_msix;

	if (offset + size > PCI_WRITABLE_SIZE)
		return;
	if (asks_for_reset(function, offset, value, size)) {
		reset(function);
		return;
	}
	is_command = pci_touches(offset, size, PCI_COMMAND, 2);
	is_moving = is_command ||
		    pci_touches(offset, size, PCI_BASE_ADDRESS_0, 4 * PCI_BARS);
	is_msix = is_command ||
		  (function->msix &&
		   pci_touches(offset, size, function->msix_at + PCI_MSIX_FLAGS,
			       2));
	if (is_moving || is_msix)
		mem_begin(mem);
	lock_acquire(&function->lock);
	write_bytes(function, offset, value, size);
	if (is_moving)
		apply_command(function);
	lock_release(&function->lock);
	if (is_msix)
		apply_msix(function);
	if (is_moving || is_msix)
		mem_commit(mem);
	if (is_command && function->ops && function->ops->command_written)
		function->ops->command_written(function->opaque);
	if (is_told(function, offset, size) && function->ops->config_written)
		function->ops->config_written(function->opaque, offset, size);
}

bool pci_may_master(const struct pci_function *function)
{
	return __atomic_load_n(&function->may_master, __ATOMIC_ACQUIRE);
}

/* ---- state ---- */

static const struct state_field fields[] = {
	STATE_ARRAY(struct pci_function, saved, STATE_U8),
	STATE_FIELD(struct pci_function, saved_slot, STATE_U8),
};

static int save(void *obj, struct err *err)
{
	struct pci_function *function = obj;

	(void)err;
	lock_acquire(&function->lock);
	memcpy(function->saved, function->config, sizeof(function->saved));
	function->saved_slot = (uint8_t)function->slot;
	lock_release(&function->lock);
	return 0;
}

/* Only what a guest could have written is taken, but it has to be of such a
 * function. */
static int load(void *obj, uint16_t version, struct err *err)
{
	struct pci_function *function = obj;
	const uint8_t *saved = function->saved;

	(void)version;
	if (memcmp(saved, function->config, PCI_COMMAND) != 0 ||
	    memcmp(saved + PCI_CLASS_REVISION,
		   function->config + PCI_CLASS_REVISION, 4) != 0)
		return err_set(
			err, -EBADMSG,
			"device %08x of class %08x, here it is %08x of "
			"%08x",
			pci_get(saved, 4),
			pci_get(saved + PCI_CLASS_REVISION, 4),
			pci_get(function->config, 4),
			pci_get(function->config + PCI_CLASS_REVISION, 4));
	/* A device is known by its name, and its driver by its slot. */
	if (function->saved_slot != function->slot)
		return err_set(
			err, -EBADMSG,
			"it was in PCI slot %u, here it is in %u; give both "
			"sides the same devices in the same order",
			function->saved_slot, function->slot);
	mem_begin(function->bus->at.mem);
	lock_acquire(&function->lock);
	for (unsigned int i = 0; i < PCI_WRITABLE_SIZE; i++)
		write_bytes(function, i, saved[i], 1);
	apply_command(function);
	lock_release(&function->lock);
	mem_commit(function->bus->at.mem);
	return 0;
}

static int activate(void *obj, struct err *err)
{
	struct pci_function *function = obj;

	(void)err;
	apply_msix(function);
	return 0;
}

static const struct state_desc state = {
	.version = 1,
	.min_version = 1,
	.fields = fields,
	.field_count = array_size(fields),
	.save = save,
	.load = load,
	.activate = activate,
};

/* ---- life ---- */

static void put_header(struct pci_function *function,
		       const struct pci_identity *identity)
{
	uint8_t *config = function->config;

	pci_put(config + PCI_VENDOR_ID, identity->vendor, 2);
	pci_put(config + PCI_DEVICE_ID, identity->device, 2);
	config[PCI_REVISION_ID] = identity->revision;
	pci_put(config + PCI_CLASS_PROG, identity->class_code, 3);
	pci_put(config + PCI_SUBSYSTEM_VENDOR_ID, identity->subsystem_vendor,
		2);
	pci_put(config + PCI_SUBSYSTEM_ID, identity->subsystem, 2);
	pci_put(function->writable + PCI_COMMAND, COMMAND_WRITABLE, 2);
	function->writable[PCI_CACHE_LINE_SIZE] = 0xff;
	function->writable[PCI_INTERRUPT_LINE] = 0xff;
	function->free_at = CAPABILITIES_AT;
}

static bool is_host_bridge(const struct pci_identity *identity)
{
	return identity->class_code == PCI_CLASS_HOST_BRIDGE;
}

/* What the guest resets it by. */
static void put_express(struct pci_function *function)
{
	uint8_t at =
		pci_capability_add(function, PCI_CAP_ID_EXP, EXPRESS_SIZE - 2);

	pci_put(function->config + at + PCI_EXP_FLAGS, EXPRESS_FLAGS, 2);
	pci_put(function->config + at + PCI_EXP_DEVCAP, EXPRESS_DEVCAP, 4);
	pci_put(function->writable + at + PCI_EXP_DEVCTL, EXPRESS_WRITABLE, 2);
	function->express_at = at;
}

static int put_msix(struct pci_function *function,
		    const struct pci_function_config *config, struct err *err)
{
	const struct pci_bus_config *at = &function->bus->at;
	uint8_t *to;
	int ret = msix_new(at->mem, config->name, at->accel, config->vectors,
			   at->setup_state, at->state, &function->msix, err);

	if (!ret)
		ret = pci_bar_add(function, config->msix_bar,
				  msix_region(function->msix), PCI_BAR_32, err);
	if (ret)
		return ret;
	function->msix_at = pci_capability_add(function, PCI_CAP_ID_MSIX,
					       PCI_CAP_MSIX_SIZEOF - 2);
	to = function->config + function->msix_at;
	pci_put(to + PCI_MSIX_FLAGS, config->vectors - 1, 2);
	pci_put(to + PCI_MSIX_TABLE, config->msix_bar, 4);
	pci_put(to + PCI_MSIX_PBA,
		msix_pba_offset(function->msix) | config->msix_bar, 4);
	pci_put(function->writable + function->msix_at + PCI_MSIX_FLAGS,
		MSIX_WRITABLE, 2);
	return 0;
}

/* Before MSI-X's: whether that is on has to be known when its pending interrupts
 * are. */
static void register_state(struct pci_function *function, const char *name)
{
	const struct pci_bus_config *at = &function->bus->at;
	char full[STATE_NAME_MAX];

	snprintf(full, sizeof(full), "%s-pci", name);
	state_register(at->state, &function->state, full, &state, function);
	if (!at->setup_state)
		return;
	/* A stream knows entries by name alone. */
	snprintf(full, sizeof(full), "%s-pci-setup", name);
	state_register(at->setup_state, &function->setup_state, full, &state,
		       function);
}

int pci_function_new(struct pci_bus *bus,
		     const struct pci_function_config *config,
		     struct pci_function **ret_function, struct err *err)
{
	struct pci_function *function;
	unsigned int slot = 0;
	int ret = 0;

	while (slot < PCI_SLOTS && bus->functions[slot])
		slot++;
	if (slot == PCI_SLOTS)
		return err_set(err, -ENOSPC,
			       "%s: at most %u devices on the PCI bus",
			       config->name, PCI_SLOTS - 1);
	function = calloc(1, sizeof(*function));
	if (!function)
		return err_set(err, -ENOMEM, "no memory for %s", config->name);
	function->bus = bus;
	function->slot = slot;
	function->ops = config->ops;
	function->opaque = config->opaque;
	lock_init(&function->lock, LOCK_DEVICE);
	put_header(function, &config->identity);
	register_state(function, config->name);
	if (!is_host_bridge(&config->identity))
		put_express(function);
	if (config->vectors)
		ret = put_msix(function, config, err);
	if (ret) {
		pci_function_free(function);
		return ret;
	}
	bus->functions[slot] = function;
	*ret_function = function;
	return 0;
}

void pci_function_free(struct pci_function *function)
{
	if (!function)
		return;
	if (function->bus->functions[function->slot] == function)
		function->bus->functions[function->slot] = NULL;
	state_unregister(&function->state);
	state_unregister(&function->setup_state);
	pci_bars_free(function);
	msix_free(function->msix);
	lock_fini(&function->lock);
	free(function);
}

uint8_t pci_capability_add(struct pci_function *function, uint8_t id,
			   uint8_t size)
{
	unsigned int at = function->free_at, end = at + 2u + size;
	uint8_t *config = function->config;

	if (end > PCI_WRITABLE_SIZE)
		return 0;
	config[at + PCI_CAP_LIST_ID] = id;
	if (function->last_at)
		config[function->last_at + PCI_CAP_LIST_NEXT] = (uint8_t)at;
	else
		config[PCI_CAPABILITY_LIST] = (uint8_t)at;
	config[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	function->last_at = at;
	function->free_at = align_up(end, 4);
	return (uint8_t)at;
}

void pci_claim(struct pci_function *function, uint32_t offset, uint32_t size,
	       bool is_told)
{
	assert(offset >= CAPABILITIES_AT && size <= PCI_WRITABLE_SIZE &&
	       offset <= PCI_WRITABLE_SIZE - size);
	memset(function->writable + offset, 0xff, size);
	memset(function->told + offset, is_told, size);
}

uint8_t *pci_config(struct pci_function *function)
{
	return function->config;
}

struct msix *pci_msix(struct pci_function *function)
{
	return function->msix;
}
