// SPDX-License-Identifier: Apache-2.0
/*
 * RAM behind a BAR: where it shows, and that none of it is lost when a guest moves
 * it while it is logged and sent (D5, on real KVM).
 */
#include <errno.h>

#include "accel/kvm_guest.h"
#include "dev/ivshmem.h"
#include "pci_board.h"

#define SLOT   1u
#define SIZE   (8 * MIB)
#define MOVES  8u /* of four memslots each, for each of which KVM waits */
#define LOW_AT PCI_MMIO32_START /* where the memory is placed */

/* ---- without KVM ---- */

struct plain {
	struct board board;
	struct shmem *shmem;
	struct ram_block *block;
};

static struct plain *plain_new(void)
{
	struct plain *p = calloc(1, sizeof(*p));
	struct err err = ERR_INIT;

	board_init(&p->board);
	if (shmem_new(p->board.mem, p->board.bus, "shmem0", "size=8M",
		      &p->shmem, &err) ||
	    pci_bus_assign(p->board.bus, &err))
		fail_msg("%s", err_msg(&err));
	p->block = ram_block_find(p->board.mem, "shmem0");
	assert_non_null(p->block);
	return p;
}

static void plain_free(struct plain *p)
{
	shmem_free(p->shmem);
	board_fini(&p->board);
	free(p);
}

static int setup(void **state)
{
	*state = plain_new();
	return 0;
}

static int teardown(void **state)
{
	plain_free(*state);
	return 0;
}

static void set(struct plain *p, unsigned int offset, uint32_t value)
{
	board_config_set(&p->board, SLOT, offset, value, 4);
}

static void test_function_is_what_drivers_look_for(void **state)
{
	struct plain *p = *state;

	assert_int_equal(board_config(&p->board, SLOT, PCI_VENDOR_ID, 4),
			 0x11101af4);
	assert_int_equal(board_config(&p->board, SLOT, PCI_CLASS_REVISION, 4),
			 0x05000001);
	assert_int_equal(board_config(&p->board, SLOT, PCI_BASE_ADDRESS_2, 1) &
				 0xf,
			 0xc);
	set(p, PCI_BASE_ADDRESS_0, ~0u);
	assert_int_equal(board_config(&p->board, SLOT, PCI_BASE_ADDRESS_0, 4),
			 0xffffff00);
	set(p, PCI_BASE_ADDRESS_2, ~0u);
	assert_int_equal(board_config(&p->board, SLOT, PCI_BASE_ADDRESS_2, 4),
			 (uint32_t)-SIZE | 0xc);
	assert_int_equal(board_capability(&p->board, SLOT, PCI_CAP_ID_MSIX), 0);
}

static void test_memory_is_where_its_bar_is(void **state)
{
	struct plain *p = *state;

	set(p, PCI_COMMAND, PCI_COMMAND_MEMORY);
	board_store(&p->board, LOW_AT + 0x1238, 0x1122334455667788, 8);
	set(p, PCI_BASE_ADDRESS_2, LOW_AT + 2 * SIZE);
	assert_int_equal(board_load(&p->board, LOW_AT + 2 * SIZE + 0x1238, 8),
			 0x1122334455667788);
	assert_int_equal(board_load(&p->board, LOW_AT + 0x1238, 8), ~0ull);
	set(p, PCI_BASE_ADDRESS_2 + 4, BOARD_HIGH >> 32);
	set(p, PCI_BASE_ADDRESS_2, SIZE);
	assert_int_equal(board_load(&p->board, BOARD_HIGH + SIZE + 0x1238, 8),
			 0x1122334455667788);
	set(p, PCI_COMMAND, 0);
	assert_int_equal(board_load(&p->board, BOARD_HIGH + SIZE + 0x1238, 8),
			 ~0ull);
	assert_int_equal(p->block->host[0x1238], 0x88);
}

static void test_registers_say_that_nobody_shares_it(void **state)
{
	struct plain *p = *state;
	uint64_t at = board_config(&p->board, SLOT, PCI_BASE_ADDRESS_0, 4);

	set(p, PCI_COMMAND, PCI_COMMAND_MEMORY);
	for (uint64_t offset = 0; offset < 256; offset += 4) {
		board_store(&p->board, at + offset, ~0u, 4);
		assert_int_equal(board_load(&p->board, at + offset, 4), 0);
	}
}

static void test_reset_leaves_the_memory_as_it_is(void **state)
{
	struct plain *p = *state;
	unsigned int express =
		board_capability(&p->board, SLOT, PCI_CAP_ID_EXP);

	set(p, PCI_COMMAND, PCI_COMMAND_MEMORY);
	board_store(&p->board, LOW_AT, 0x5a, 1);
	board_config_set(&p->board, SLOT, express + PCI_EXP_DEVCTL,
			 PCI_EXP_DEVCTL_BCR_FLR, 2);
	assert_int_equal(board_load(&p->board, LOW_AT, 1), 0xff);
	set(p, PCI_BASE_ADDRESS_2, LOW_AT);
	set(p, PCI_COMMAND, PCI_COMMAND_MEMORY);
	assert_int_equal(board_load(&p->board, LOW_AT, 1), 0x5a);
}

static void test_options_that_make_no_sense_are_refused(void **state)
{
	struct plain *p = *state;
	static const char *const texts[] = {
		"",        "size",      "size=",  "size=0",   "size=2K",
		"size=3M", "size=1M,x", "path=x", "size=1M,,"
	};

	for (size_t i = 0; i < array_size(texts); i++) {
		struct err err = ERR_INIT;
		struct shmem *shmem;

		assert_int_equal(shmem_new(p->board.mem, p->board.bus, "x",
					   texts[i], &shmem, &err),
				 -EINVAL);
		assert_true(err.code);
	}
	assert_int_equal(shmem_new(p->board.mem, p->board.bus, "shmem0",
				   "size=1M", &p->shmem, NULL),
			 -EEXIST);
}

static void test_memory_larger_than_the_window_has_no_room(void **state)
{
	struct board *board = calloc(1, sizeof(*board));
	struct shmem *shmem;
	struct err err = ERR_INIT;

	(void)state;
	board_init(board);
	assert_int_equal(shmem_new(board->mem, board->bus, "large", "size=128G",
				   &shmem, NULL),
			 0);
	assert_int_equal(pci_bus_assign(board->bus, &err), -ENOSPC);
	assert_non_null(strstr(err_msg(&err), "large-pci"));
	shmem_free(shmem);
	board_fini(board);
	free(board);
}

/* ---- with KVM, and a guest that writes ---- */

struct moving {
	struct fixture *guest;
	struct pci_bus *bus;
	struct shmem *shmem;
	pthread_t thread;
	bool is_ending; /* atomic */
	unsigned int moves;
};

static void config_set(struct moving *m, unsigned int offset, uint32_t value)
{
	assert_int_equal(mem_write(m->guest->vm.memory,
				   board_ecam(SLOT, offset), &value, 4),
			 0);
}

static int moving_setup(void **state, const char *accel)
{
	struct moving *m = calloc(1, sizeof(*m));
	struct err err = ERR_INIT;
	struct pci_bus_config config = { .mmio64_start = BOARD_HIGH };

	m->guest = fixture_new(accel);
	config.mem = m->guest->vm.mem;
	config.memory = m->guest->vm.root;
	config.ports = m->guest->vm.ports_root;
	config.accel = m->guest->vm.accel;
	config.state = &m->guest->vm.state;
	if (pci_bus_new(&config, &m->bus, &err) ||
	    shmem_new(config.mem, m->bus, "shmem0", "size=8M", &m->shmem,
		      &err) ||
	    pci_bus_assign(m->bus, &err))
		fail_msg("%s", err_msg(&err));
	config_set(m, PCI_COMMAND, PCI_COMMAND_MEMORY);
	*state = m;
	return 0;
}

static int setup_bitmap(void **state)
{
	return moving_setup(state, "kvm");
}

static int setup_ring(void **state)
{
	return moving_setup(state, "kvm,dirty=ring");
}

static int moving_teardown(void **state)
{
	struct moving *m = *state;

	ram_send_stop(&m->guest->send, 0);
	shmem_free(m->shmem);
	pci_bus_free(m->bus);
	fixture_free(m->guest);
	free(m);
	return 0;
}

/* As another vCPU of the guest would: away, back, off, on; the longest at the place
 * where the guest writes. */
static void *mover(void *opaque)
{
	struct moving *m = opaque;

	while (!__atomic_load_n(&m->is_ending, __ATOMIC_ACQUIRE)) {
		config_set(m, PCI_BASE_ADDRESS_2, LOW_AT + 4 * SIZE);
		config_set(m, PCI_BASE_ADDRESS_2, LOW_AT);
		guest_wait_pass(m->guest);
		config_set(m, PCI_COMMAND, 0);
		config_set(m, PCI_COMMAND, PCI_COMMAND_MEMORY);
		guest_wait_pass(m->guest);
		__atomic_fetch_add(&m->moves, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void test_d5_memory_moved_while_it_is_sent_is_sent_whole(void **state)
{
	struct moving *m = *state;
	struct fixture *f = m->guest;

	guest_start(f, LOW_AT + 3 * PAGE, 200);
	log_start(f);
	round_of(f);
	assert_int_equal(pthread_create(&m->thread, NULL, mover, m), 0);
	while (__atomic_load_n(&m->moves, __ATOMIC_RELAXED) < MOVES)
		round_of(f);
	__atomic_store_n(&m->is_ending, true, __ATOMIC_RELEASE);
	pthread_join(m->thread, NULL);
	guest_stop(f);
	ram_send_sync(&f->send, true);
	send_dirty(f);
	assert_copy_is_whole(f);
}

/* Written, moved away at once, and never back: nobody asks KVM again. */
static void
test_d5_what_was_written_before_a_move_is_found_after_it(void **state)
{
	struct moving *m = *state;
	struct fixture *f = m->guest;

	log_start(f);
	guest_write(f, LOW_AT, 64);
	round_of(f);
	for (unsigned int i = 0; i < 8; i++) {
		uint64_t at = i % 2 ? LOW_AT + 4 * SIZE : LOW_AT;

		config_set(m, PCI_BASE_ADDRESS_2, (uint32_t)at);
		round_of(f);
		guest_write(f, at + i * PAGE, 50);
		if (i == 5)
			config_set(m, PCI_COMMAND, 0);
		else
			config_set(m, PCI_BASE_ADDRESS_2,
				   (uint32_t)(LOW_AT + 8 * SIZE));
		ram_send_sync(&f->send, true);
		send_dirty(f);
		assert_copy_is_whole(f);
		config_set(m, PCI_COMMAND, PCI_COMMAND_MEMORY);
	}
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TEST_BOTH(name)                                                       \
	cmocka_unit_test_setup_teardown(name, setup_bitmap, moving_teardown), \
		cmocka_unit_test_setup_teardown(name, setup_ring,             \
						moving_teardown)
	const struct CMUnitTest plain[] = {
		T(test_function_is_what_drivers_look_for),
		T(test_memory_is_where_its_bar_is),
		T(test_registers_say_that_nobody_shares_it),
		T(test_reset_leaves_the_memory_as_it_is),
		T(test_options_that_make_no_sense_are_refused),
		cmocka_unit_test(
			test_memory_larger_than_the_window_has_no_room),
	};
	const struct CMUnitTest on_kvm[] = {
		TEST_BOTH(test_d5_memory_moved_while_it_is_sent_is_sent_whole),
		TEST_BOTH(
			test_d5_what_was_written_before_a_move_is_found_after_it),
	};
	int failed = cmocka_run_group_tests_name("ivshmem", plain, NULL, NULL);

	if (failed)
		return failed;
	need_kvm();
	return cmocka_run_group_tests_name("ivshmem on KVM", on_kvm, NULL,
					   NULL);
}
