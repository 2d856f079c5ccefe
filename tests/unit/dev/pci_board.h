/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A PCI bus with nothing around it but memory and an accelerator that delivers
 * nothing and notes what it is told.  Configuration space is reached as a vCPU
 * does, through the address spaces.
 */
#ifndef GODWIT_TEST_DEV_PCI_BOARD_H
#define GODWIT_TEST_DEV_PCI_BOARD_H

#include <linux/pci_regs.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "accel/routes.h"
#include "base/bytes.h"
#include "base/err.h"
#include "dev/msix.h"
#include "dev/pci.h"
#include "mem/access.h"
#include "mem/space.h"
#include "state/state.h"

#define BOARD_HIGH (8ull << 30)

/* What the accelerator knows of one GSI. */
struct board_gsi {
	bool has_msi;
	struct accel_msi msi;
	int fd; /* bound; -1: none */
};

struct board {
	struct mem *mem;
	struct mem_region *memory_root, *ports_root;
	struct addr_space *memory, *ports;
	struct state_registry state, setup_state;

	struct accel accel;
	struct accel_ops ops;
	struct accel_routes routes;
	struct board_gsi gsis[256]; /* from ACCEL_ROUTE_FIRST on */
	unsigned int tells, irqfds; /* calls */
	int fail;                   /* what they return */
	bool refuses_written;       /* nothing is pending at an irqfd call */

	struct pci_bus *bus;
};

static inline int board_tell(void *opaque, const struct accel_route *routes,
			     unsigned int count)
{
	struct board *board = opaque;

	board->tells++;
	if (board->fail)
		return board->fail;
	for (unsigned int i = 0; i < array_size(board->gsis); i++) {
		board->gsis[i].has_msi = i < count && routes[i].has_msi;
		if (board->gsis[i].has_msi)
			board->gsis[i].msi = routes[i].msi;
	}
	return 0;
}

static inline int board_irqfd(void *opaque, unsigned int gsi, int fd,
			      bool is_bound)
{
	struct board *board = opaque;
	struct board_gsi *known = &board->gsis[gsi - ACCEL_ROUTE_FIRST];

	board->irqfds++;
	if (board->fail)
		return board->fail;
	/* Never without a message: it would be lost. */
	if (is_bound)
		assert_true(known->has_msi);
	if (board->refuses_written)
		assert_int_equal(
			poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1,
			     0),
			0);
	assert_int_equal(known->fd, is_bound ? -1 : fd);
	known->fd = is_bound ? fd : -1;
	return 0;
}

static const struct accel_routes_ops board_routes_ops = {
	.tell = board_tell,
	.irqfd = board_irqfd,
};

static inline void board_init(struct board *board)
{
	struct err err = ERR_INIT;
	struct pci_bus_config config = {
		.accel = &board->accel,
		.state = &board->state,
		.setup_state = &board->setup_state,
		.mmio64_start = BOARD_HIGH,
	};

	*board = (struct board){
		.mem = mem_new(),
		.ops = { .route_new = accel_route_new,
			 .route_free = accel_route_free,
			 .routes_begin = accel_routes_begin,
			 .route_set = accel_route_set,
			 .routes_commit = accel_routes_commit,
			 .irqfd_set = accel_irqfd_set,
			 .irq_counts = accel_irq_counts },
	};
	for (unsigned int i = 0; i < array_size(board->gsis); i++)
		board->gsis[i].fd = -1;
	board->accel.ops = &board->ops;
	board->accel.routes = &board->routes;
	accel_routes_init(&board->routes, &board_routes_ops, board,
			  array_size(board->gsis));
	state_registry_init(&board->state);
	state_registry_init(&board->setup_state);
	board->memory_root =
		mem_region_new_container(board->mem, "memory", MEM_SIZE_2_64);
	board->ports_root =
		mem_region_new_container(board->mem, "ports", 0x10000);
	board->memory =
		addr_space_new(board->mem, "memory", board->memory_root);
	board->ports = addr_space_new(board->mem, "ports", board->ports_root);
	config.mem = board->mem;
	config.memory = board->memory_root;
	config.ports = board->ports_root;
	if (pci_bus_new(&config, &board->bus, &err))
		fail_msg("%s", err_msg(&err));
}

/* Its functions are gone. */
static inline void board_fini(struct board *board)
{
	pci_bus_free(board->bus);
	addr_space_free(board->memory);
	addr_space_free(board->ports);
	mem_region_put(board->memory_root);
	mem_region_put(board->ports_root);
	mem_synchronize(board->mem);
	mem_free(board->mem);
	accel_routes_fini(&board->routes);
}

static inline uint64_t board_get(struct addr_space *as, uint64_t at,
				 unsigned int size)
{
	struct le64 value = { 0 };

	mem_read(as, at, &value, size);
	return le64_get(value);
}

static inline void board_put(struct addr_space *as, uint64_t at, uint64_t value,
			     unsigned int size)
{
	struct le64 bytes = le64_of(value);

	mem_write(as, at, &bytes, size);
}

static inline uint64_t board_load(struct board *board, uint64_t gpa,
				  unsigned int size)
{
	return board_get(board->memory, gpa, size);
}

static inline void board_store(struct board *board, uint64_t gpa,
			       uint64_t value, unsigned int size)
{
	board_put(board->memory, gpa, value, size);
}

static inline uint64_t board_in(struct board *board, uint16_t port,
				unsigned int size)
{
	return board_get(board->ports, port, size);
}

static inline void board_out(struct board *board, uint16_t port, uint32_t value,
			     unsigned int size)
{
	board_put(board->ports, port, value, size);
}

/* Where register @offset of the function in @slot is in ECAM. */
static inline uint64_t board_ecam(unsigned int slot, unsigned int offset)
{
	return PCI_ECAM_START + ((uint64_t)slot << 15) + offset;
}

static inline uint32_t board_config(struct board *board, unsigned int slot,
				    unsigned int offset, unsigned int size)
{
	return (uint32_t)board_load(board, board_ecam(slot, offset), size);
}

static inline void board_config_set(struct board *board, unsigned int slot,
				    unsigned int offset, uint32_t value,
				    unsigned int size)
{
	board_store(board, board_ecam(slot, offset), value, size);
}

/* The offset of capability @id, or 0. */
static inline unsigned int board_capability(struct board *board,
					    unsigned int slot, unsigned int id)
{
	unsigned int at = board_config(board, slot, PCI_CAPABILITY_LIST, 1);

	for (int i = 0; at && i < 48; i++) {
		if (board_config(board, slot, at, 1) == id)
			return at;
		at = board_config(board, slot, at + 1, 1);
	}
	return 0;
}

/* Save @from, and load it into @to; what the first said that failed. */
static inline int board_load_state(struct state_registry *from,
				   struct state_registry *to)
{
	struct state_entry *entry;
	int ret = 0;

	list_for_each (entry, &from->entries, link) {
		struct state_entry *other = state_find(to, entry->name);
		struct bytes_writer bytes = { .data = NULL };

		assert_int_equal(state_save(entry, &bytes, NULL), 0);
		if (other && !ret)
			ret = state_load(other, entry->desc->version,
					 bytes.data, bytes.size, NULL);
		bytes_writer_fini(&bytes);
	}
	return ret;
}

static inline void board_activate(struct state_registry *registry)
{
	struct state_entry *entry;

	list_for_each (entry, &registry->entries, link)
		assert_int_equal(state_activate(entry, NULL), 0);
}

/* As a migration does when the guest has stopped; what load said. */
static inline int board_move_state(struct board *from, struct board *to)
{
	int ret;

	mem_load_begin(to->mem);
	mem_begin(to->mem);
	ret = board_load_state(&from->state, &to->state);
	mem_commit(to->mem);
	mem_load_end(to->mem);
	if (!ret)
		board_activate(&to->state);
	return ret;
}

/* As it does before that. */
static inline int board_move_setup(struct board *from, struct board *to)
{
	int ret;

	mem_load_begin(to->mem);
	ret = board_load_state(&from->setup_state, &to->setup_state);
	mem_load_end(to->mem);
	if (!ret)
		board_activate(&to->setup_state);
	return ret;
}

#endif
