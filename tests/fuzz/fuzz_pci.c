// SPDX-License-Identifier: Apache-2.0
/*
 * A guest at a PCI bus: accesses of every width to ports, ECAM and whatever is
 * behind BARs, at two functions with MSI-X and one that is RAM, while interrupts
 * come.  Whatever it does, what must not change does not, regions are where the
 * registers say, an eventfd is bound exactly while its vector can be delivered,
 * with that vector's message, and the state loads elsewhere and is the same there.
 *
 * The first byte says whether the state moves at the end (bit 0), and the pre-state
 * before it (bit 1).  Each step is a byte that says what (see enum step), then its
 * arguments.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/bytes.h"
#include "dev/ivshmem.h"
#include "dev/pci_board.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FUNCTIONS 2u
#define VECTORS   5u
#define BAR_SIZE  (32ull << 20)
#define CLAIMED   24u

/* The low bits of a step's first byte; then IS_WRITE and log2 of the size.  The
 * second byte says which port, slot, function or register. */
enum step {
	STEP_PORT,    /* from 0xcf8 on */
	STEP_ECAM,    /* u16 register */
	STEP_CONFIG,  /* u8 register; by ports, address and data in one */
	STEP_MSIX,    /* u16 offset in its BAR, wherever that is */
	STEP_MEMORY,  /* u64 address */
	STEP_NOTIFY,  /* u8 vector */
	STEP_COMMAND, /* of the registers that matter most */
	STEP_COUNT = 8,
};

#define IS_WRITE   0x08
#define SIZE_SHIFT 4

static const char *const names[FUNCTIONS] = { "one", "two" };

static const uint8_t hot[] = {
	PCI_COMMAND,
	PCI_BASE_ADDRESS_0,
	PCI_BASE_ADDRESS_1,
	PCI_BASE_ADDRESS_2,
	PCI_BASE_ADDRESS_3,
	0x48, /* device control */
	0x7e, /* MSI-X control */
};

struct guest {
	struct board board;
	struct pci_function *functions[FUNCTIONS];
	struct mem_region *bars[FUNCTIONS];
	uint8_t built[FUNCTIONS][PCI_CONFIG_SIZE];
	struct shmem *shmem;
	unsigned int resets;
};

static void on_access(void *opaque, uint32_t offset, uint32_t size)
{
	(void)opaque;
	must(size >= 1 && size <= 4 && offset + size <= 256);
}

static void on_reset(void *opaque)
{
	((struct guest *)opaque)->resets++;
}

static const struct pci_function_ops ops = {
	.config_read = on_access,
	.config_written = on_access,
	.reset = on_reset,
};

static const struct mem_io_ops no_registers = { .read = NULL };

static void add_function(struct guest *g, unsigned int i)
{
	const struct pci_function_config config = {
		.name = names[i],
		.identity = { .vendor = 0x1af4, .device = 0x1041 },
		.ops = &ops,
		.opaque = g,
		.vectors = VECTORS,
		.msix_bar = 1,
	};
	unsigned int at;

	must(pci_function_new(g->board.bus, &config, &g->functions[i], NULL) ==
	     0);
	g->bars[i] = mem_region_new_io(g->board.mem, "bar", BAR_SIZE,
				       &no_registers, g);
	must(pci_bar_add(g->functions[i], 2, g->bars[i], PCI_BAR_64_PREFETCH,
			 NULL) == 0);
	at = pci_capability_add(g->functions[i], PCI_CAP_ID_VNDR, CLAIMED);
	pci_claim(g->functions[i], at + 4, CLAIMED - 8, true);
}

static void guest_init(struct guest *g)
{
	board_init(&g->board);
	for (unsigned int i = 0; i < FUNCTIONS; i++)
		add_function(g, i);
	must(shmem_new(g->board.mem, g->board.bus, "ram", "size=64K", &g->shmem,
		       NULL) == 0);
	must(pci_bus_assign(g->board.bus, NULL) == 0);
	for (unsigned int i = 0; i < FUNCTIONS; i++)
		memcpy(g->built[i], pci_config(g->functions[i]),
		       PCI_CONFIG_SIZE);
}

static void guest_fini(struct guest *g)
{
	for (unsigned int i = 0; i < FUNCTIONS; i++) {
		pci_function_free(g->functions[i]);
		mem_region_put(g->bars[i]);
	}
	shmem_free(g->shmem);
	board_fini(&g->board);
}

/* ---- what it does ---- */

static void port_access(struct guest *g, uint16_t port, unsigned int size,
			bool is_write, struct bytes_reader *r)
{
	if (size == 8)
		size = 4;
	if (is_write)
		board_out(&g->board, port, bytes_take_u32(r), size);
	else
		board_in(&g->board, port, size);
}

static void config_access(struct guest *g, unsigned int slot,
			  unsigned int offset, unsigned int size, bool is_write,
			  struct bytes_reader *r)
{
	board_out(&g->board, 0xcf8,
		  0x80000000u | slot % 4 << 11 | (offset & 0xfc), 4);
	port_access(g, (uint16_t)(0xcfc + offset % 4), size, is_write, r);
}

static void memory_access(struct guest *g, uint64_t gpa, unsigned int size,
			  bool is_write, struct bytes_reader *r)
{
	if (is_write)
		board_store(&g->board, gpa, bytes_take_u64(r), size);
	else
		board_load(&g->board, gpa, size);
}

static uint64_t msix_at(struct guest *g, unsigned int i)
{
	return board_config(&g->board, i + 1, PCI_BASE_ADDRESS_1, 4);
}

static void step(struct guest *g, struct bytes_reader *r)
{
	uint8_t what = bytes_take_u8(r);
	unsigned int size = 1u << (what >> SIZE_SHIFT & 3);
	bool is_write = what & IS_WRITE;
	uint8_t which = bytes_take_u8(r);
	uint64_t gpa;

	switch (what % STEP_COUNT) {
	case STEP_PORT:
		port_access(g, 0xcf8 + which % 8, size, is_write, r);
		break;
	case STEP_ECAM:
		gpa = board_ecam(which % PCI_SLOTS, bytes_take_u16(r));
		memory_access(g, gpa, size, is_write, r);
		break;
	case STEP_CONFIG:
		config_access(g, which, bytes_take_u8(r), size, is_write, r);
		break;
	case STEP_COMMAND:
		config_access(g, which, hot[which / 4 % array_size(hot)], size,
			      is_write, r);
		break;
	case STEP_MSIX:
		gpa = msix_at(g, which % FUNCTIONS) + bytes_take_u16(r) % 4096;
		memory_access(g, gpa, size, is_write, r);
		break;
	case STEP_MEMORY:
		memory_access(g, bytes_take_u64(r), size, is_write, r);
		break;
	case STEP_NOTIFY:
		msix_notify(pci_msix(g->functions[which % FUNCTIONS]),
			    bytes_take_u8(r));
		break;
	}
}

/* ---- what must hold ---- */

static uint32_t word(const uint8_t *at)
{
	struct le32 value;

	memcpy(&value, at, sizeof(value));
	return le32_get(value);
}

static void check_registers(struct guest *g, unsigned int i)
{
	const uint8_t *config = pci_config(g->functions[i]);
	const uint8_t *built = g->built[i];

	must(memcmp(config, built, PCI_COMMAND) == 0);
	must(memcmp(config + PCI_STATUS, built + PCI_STATUS, 6) == 0);
	must(memcmp(config + PCI_SUBSYSTEM_VENDOR_ID,
		    built + PCI_SUBSYSTEM_VENDOR_ID, 16) == 0);
	must(memcmp(config + 256, built + 256, PCI_CONFIG_SIZE - 256) == 0);
	for (unsigned int at = built[PCI_CAPABILITY_LIST]; at;
	     at = built[at + 1])
		must(memcmp(config + at, built + at, 2) == 0);
	must((config[PCI_BASE_ADDRESS_2] & 0xf) == 0xc);
	must(pci_may_master(g->functions[i]) ==
	     ((config[PCI_COMMAND] & PCI_COMMAND_MASTER) != 0));
}

/* The large BARs: nothing else is as far up, but the other one and RAM. */
static void check_bar(struct guest *g, unsigned int i)
{
	const uint8_t *config = pci_config(g->functions[i]);
	uint64_t at = (uint64_t)word(config + PCI_BASE_ADDRESS_3) << 32 |
		      (word(config + PCI_BASE_ADDRESS_2) & ~0xfu);
	const struct mem_range *range;
	bool is_shown, is_wanted = (config[PCI_COMMAND] & PCI_COMMAND_MEMORY) &&
				   at >= BOARD_HIGH &&
				   at < BOARD_HIGH + PCI_MMIO64_SIZE;

	rcu_read_lock();
	range = flat_view_find(addr_space_view(g->board.memory), at);
	is_shown = range && range->region == g->bars[i];
	if (is_shown)
		must(range->gpa - range->offset == at);
	must(!is_shown || (config[PCI_COMMAND] & PCI_COMMAND_MEMORY));
	must(!is_wanted || range); /* or what is in front of it */
	rcu_read_unlock();
}

static void check_vectors(struct guest *g, unsigned int i)
{
	const uint8_t *config = pci_config(g->functions[i]);
	unsigned int cap = board_capability(&g->board, i + 1, PCI_CAP_ID_MSIX);
	bool is_on = (config[cap + 3] & 0xc0) == 0x80 &&
		     (config[PCI_COMMAND] & PCI_COMMAND_MASTER);
	struct bytes_writer saved = { .data = NULL };
	struct bytes_reader r;
	char name[16];

	snprintf(name, sizeof(name), "%s-msix", names[i]);
	must(state_save(state_find(&g->board.state, name), &saved, NULL) == 0);
	r = bytes_read(saved.data, saved.size);
	must(bytes_take_u32(&r) == 4 * VECTORS);
	for (unsigned int v = 0; v < VECTORS; v++) {
		uint64_t address = bytes_take_u64(&r);
		uint32_t data = bytes_take_u32(&r);
		bool is_masked = bytes_take_u32(&r) & 1;
		const struct board_gsi *gsi = &g->board.gsis[i * VECTORS + v];

		must((gsi->fd >= 0) == (is_on && !is_masked));
		if (gsi->fd < 0)
			continue;
		must(gsi->fd == msix_fd(pci_msix(g->functions[i]), v));
		must(gsi->has_msi && gsi->msi.address == address &&
		     gsi->msi.data == data);
	}
	bytes_writer_fini(&saved);
}

static void check(struct guest *g)
{
	for (unsigned int i = 0; i < FUNCTIONS; i++) {
		check_registers(g, i);
		check_bar(g, i);
		check_vectors(g, i);
	}
}

static void check_move(struct guest *g, bool has_setup)
{
	struct guest there = { .resets = 0 };
	uint64_t commits;
	unsigned int calls;

	guest_init(&there);
	if (has_setup)
		must(board_move_setup(&g->board, &there.board) == 0);
	commits = mem_commit_count(there.board.mem);
	calls = there.board.tells + there.board.irqfds;
	must(board_move_state(&g->board, &there.board) == 0);
	for (unsigned int i = 0; i < FUNCTIONS; i++)
		must(memcmp(pci_config(g->functions[i]),
			    pci_config(there.functions[i]),
			    PCI_CONFIG_SIZE) == 0);
	check(&there);
	must(there.board.tells <= FUNCTIONS);
	/* All was done before the switch. */
	must(!has_setup || (mem_commit_count(there.board.mem) == commits &&
			    there.board.tells + there.board.irqfds == calls));
	must(there.resets == 0);
	guest_fini(&there);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct bytes_reader r = bytes_read(data, size);
	struct guest g = { .resets = 0 };
	uint8_t moves = bytes_take_u8(&r);

	guest_init(&g);
	while (bytes_left(&r) && !r.is_short)
		step(&g, &r);
	check(&g);
	if (moves & 1)
		check_move(&g, moves & 2);
	guest_fini(&g);
	return 0;
}
