// SPDX-License-Identifier: Apache-2.0
/* MSI-X as a guest programs it, and what the accelerator is told of it. */
#include <cmocka.h>
#include <errno.h>
#include <poll.h>

#include "pci_board.h"

#define SLOT    1u
#define VECTORS 70u
#define TABLE   0xc0000000ull /* the first BAR that is placed */
#define ADDRESS 0xfee00000u

enum {
	LOW = 0,
	HIGH = 4,
	DATA = 8,
	CONTROL = 12,
};

struct fixture {
	struct board board;
	struct pci_function *function;
	struct msix *msix;
	unsigned int at; /* of the capability */
};

static void fixture_init(struct fixture *f)
{
	const struct pci_function_config config = {
		.name = "dev0",
		.identity = { .vendor = 0x1af4, .device = 0x1041 },
		.vectors = VECTORS,
		.msix_bar = 1,
	};
	struct err err = ERR_INIT;

	board_init(&f->board);
	if (pci_function_new(f->board.bus, &config, &f->function, &err) ||
	    pci_bus_assign(f->board.bus, &err))
		fail_msg("%s", err_msg(&err));
	f->msix = pci_msix(f->function);
	f->at = board_capability(&f->board, SLOT, PCI_CAP_ID_MSIX);
	assert_int_not_equal(f->at, 0);
	assert_int_equal(board_config(&f->board, SLOT, PCI_BASE_ADDRESS_1, 4),
			 TABLE);
}

static void fixture_fini(struct fixture *f)
{
	pci_function_free(f->function);
	board_fini(&f->board);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	fixture_init(f);
	board_config_set(&f->board, SLOT, PCI_COMMAND,
			 PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	fixture_fini(*state);
	free(*state);
	return 0;
}

static void entry_set(struct fixture *f, unsigned int vector, unsigned int word,
		      uint32_t value)
{
	board_store(&f->board, TABLE + vector * 16 + word, value, 4);
}

static uint32_t entry_get(struct fixture *f, unsigned int vector,
			  unsigned int word)
{
	return (uint32_t)board_load(&f->board, TABLE + vector * 16 + word, 4);
}

static void mask(struct fixture *f, unsigned int vector, bool is_masked)
{
	entry_set(f, vector, CONTROL, is_masked);
}

static void program(struct fixture *f, unsigned int vector)
{
	entry_set(f, vector, LOW, ADDRESS | vector << 12);
	entry_set(f, vector, DATA, 0x40 + vector);
	mask(f, vector, false);
}

static void control(struct fixture *f, uint32_t flags)
{
	board_config_set(&f->board, SLOT, f->at + PCI_MSIX_FLAGS, flags, 2);
}

static bool is_pending(struct fixture *f, unsigned int vector)
{
	uint64_t at = TABLE + msix_pba_offset(f->msix) + vector / 32 * 4;

	return board_load(&f->board, at, 4) >> vector % 32 & 1;
}

/* How many eventfds the accelerator has, all with the right message. */
static unsigned int bound(struct fixture *f)
{
	unsigned int count = 0;

	for (unsigned int i = 0; i < VECTORS; i++) {
		const struct board_gsi *gsi = &f->board.gsis[i];

		if (gsi->fd < 0)
			continue;
		count++;
		assert_true(gsi->has_msi);
		assert_int_equal(gsi->fd, msix_fd(f->msix, i));
		assert_int_equal(gsi->msi.data, entry_get(f, i, DATA));
		assert_int_equal(gsi->msi.address,
				 entry_get(f, i, LOW) |
					 (uint64_t)entry_get(f, i, HIGH) << 32);
	}
	return count;
}

static void test_vector_is_bound_while_it_can_be_delivered(void **state)
{
	struct fixture *f = *state;

	program(f, 3);
	assert_int_equal(bound(f), 0); /* MSI-X is off */
	control(f, PCI_MSIX_FLAGS_ENABLE);
	assert_int_equal(bound(f), 1);
	assert_int_equal(f->board.gsis[3].fd, msix_fd(f->msix, 3));
	assert_int_equal(f->board.gsis[3].msi.address, ADDRESS | 3 << 12);
	mask(f, 3, true);
	assert_int_equal(bound(f), 0);
	mask(f, 3, false);
	assert_int_equal(bound(f), 1);
	control(f, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	assert_int_equal(bound(f), 0);
	control(f, PCI_MSIX_FLAGS_ENABLE);
	assert_int_equal(bound(f), 1);
	board_config_set(&f->board, SLOT, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
	assert_int_equal(bound(f), 0); /* it may not write to memory */
	board_config_set(&f->board, SLOT, PCI_COMMAND,
			 PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
	assert_int_equal(bound(f), 1);
	control(f, 0);
	assert_int_equal(bound(f), 0);
}

static void test_write_that_unmasks_all_is_one_route_commit(void **state)
{
	struct fixture *f = *state;
	struct accel_irq_counts counts;

	for (unsigned int i = 0; i < VECTORS; i++)
		program(f, i);
	assert_int_equal(f->board.tells, 0);
	control(f, PCI_MSIX_FLAGS_ENABLE);
	assert_int_equal(f->board.tells, 1);
	assert_int_equal(f->board.irqfds, VECTORS);
	assert_int_equal(bound(f), VECTORS);
	accel_irq_counts(&f->board.accel, &counts);
	assert_int_equal(counts.route_commits, 1);
	assert_int_equal(counts.irqfd_calls, VECTORS);
}

static void test_masking_and_unmasking_changes_no_routes(void **state)
{
	struct fixture *f = *state;

	program(f, 0);
	control(f, PCI_MSIX_FLAGS_ENABLE);
	assert_int_equal(f->board.tells, 1);
	for (int i = 0; i < 5; i++) {
		mask(f, 0, true);
		mask(f, 0, false);
	}
	assert_int_equal(f->board.tells, 1);
	entry_set(f, 0, DATA, 0x99); /* unmasked: at once */
	assert_int_equal(f->board.tells, 2);
	assert_int_equal(bound(f), 1);
	mask(f, 0, true);
	entry_set(f, 0, DATA, 0x9a);
	entry_set(f, 0, LOW, ADDRESS | 7 << 12);
	assert_int_equal(f->board.tells, 2); /* when it is unmasked */
	mask(f, 0, false);
	assert_int_equal(f->board.tells, 3);
	assert_int_equal(bound(f), 1);
}

static void test_interrupt_of_a_masked_vector_is_pending(void **state)
{
	struct fixture *f = *state;

	control(f, PCI_MSIX_FLAGS_ENABLE);
	program(f, 69);
	mask(f, 69, true);
	assert_false(is_pending(f, 69));
	eventfd_write(msix_fd(f->msix, 69), 1); /* a back end somewhere */
	msix_notify(f->msix, 2);
	assert_true(is_pending(f, 69));
	assert_true(is_pending(f, 2));
	assert_false(is_pending(f, 68));
	/* By the widest and the narrowest access. */
	assert_int_equal(
		board_load(&f->board, TABLE + msix_pba_offset(f->msix), 8), 4);
	assert_int_equal(
		board_load(&f->board, TABLE + msix_pba_offset(f->msix) + 8, 1),
		1 << 5);
	mask(f, 69, false);
	assert_false(is_pending(f, 69)); /* the accelerator's now */
	assert_int_equal(bound(f), 1);
	assert_true(is_pending(f, 2));
}

static void test_pending_bits_cannot_be_written(void **state)
{
	struct fixture *f = *state;
	uint64_t at = TABLE + msix_pba_offset(f->msix);

	msix_notify(f->msix, 1);
	board_store(&f->board, at, ~0ull, 8);
	assert_int_equal(board_load(&f->board, at, 8), 2);
	board_store(&f->board, at, 0, 8);
	assert_int_equal(board_load(&f->board, at, 8), 2);
}

static void test_table_takes_words_and_reads_by_any_width(void **state)
{
	struct fixture *f = *state;

	entry_set(f, 5, LOW, 0xfee12347);
	assert_int_equal(entry_get(f, 5, LOW), 0xfee12344);
	entry_set(f, 5, CONTROL, 0xffffffff);
	assert_int_equal(entry_get(f, 5, CONTROL), 1);
	board_store(&f->board, TABLE + 5 * 16 + DATA, 0xaa, 1);
	board_store(&f->board, TABLE + 5 * 16 + DATA, 0xaabb, 2);
	assert_int_equal(entry_get(f, 5, DATA), 0);
	board_store(&f->board, TABLE + 5 * 16 + DATA, 0xddccbbaa, 8);
	assert_int_equal(entry_get(f, 5, DATA), 0xddccbbaa);
	assert_int_equal(entry_get(f, 5, CONTROL), 0);
	for (unsigned int i = 0; i < 4; i++)
		assert_int_equal(
			board_load(&f->board, TABLE + 5 * 16 + DATA + i, 1),
			0xaa + 0x11 * i);
	assert_int_equal(board_load(&f->board, TABLE + 5 * 16 + DATA + 2, 2),
			 0xddcc);
	/* What is neither table nor pending bits. */
	board_store(&f->board, TABLE + 0xffc, 0xffffffff, 4);
	assert_int_equal(board_load(&f->board, TABLE + 0xffc, 4), 0);
}

static void test_reset_unbinds_masks_and_forgets(void **state)
{
	struct fixture *f = *state;

	program(f, 0);
	control(f, PCI_MSIX_FLAGS_ENABLE);
	msix_notify(f->msix, 1);
	assert_true(is_pending(f, 1));
	msix_reset(f->msix);
	assert_int_equal(bound(f), 0);
	assert_false(is_pending(f, 1));
	assert_int_equal(entry_get(f, 0, LOW), 0);
	assert_int_equal(entry_get(f, 0, CONTROL), 1);
}

static void test_vectors_that_are_not_there_do_nothing(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(msix_fd(f->msix, VECTORS), -1);
	assert_int_equal(msix_fd(f->msix, MSIX_NO_VECTOR), -1);
	msix_notify(f->msix, VECTORS);
	msix_notify(f->msix, MSIX_NO_VECTOR);
	for (unsigned int i = 0; i < VECTORS; i++)
		assert_false(is_pending(f, i));
}

static void test_failure_to_route_is_made_good_by_the_next_write(void **state)
{
	struct fixture *f = *state;

	control(f, PCI_MSIX_FLAGS_ENABLE);
	f->board.fail = -ENOMEM;
	program(f, 0);
	f->board.fail = 0;
	assert_int_equal(bound(f), 0);
	program(f, 1);
	assert_int_equal(bound(f), 2);
}

static void test_move_binds_all_in_one_commit(void **state)
{
	struct fixture *f = *state, there;
	uint64_t at = TABLE + 16 * VECTORS;

	for (unsigned int i = 0; i < VECTORS; i++)
		program(f, i);
	control(f, PCI_MSIX_FLAGS_ENABLE);
	mask(f, 7, true);
	mask(f, 65, true);
	msix_notify(f->msix, 65);

	fixture_init(&there);
	assert_int_equal(board_move_state(&f->board, &there.board), 0);
	assert_int_equal(there.board.tells, 1);
	assert_int_equal(bound(&there), VECTORS - 2);
	for (unsigned int i = 0; i < VECTORS; i++)
		for (unsigned int word = 0; word < 16; word += 4)
			assert_int_equal(entry_get(&there, i, word),
					 entry_get(f, i, word));
	assert_true(is_pending(&there, 65));
	assert_false(is_pending(&there, 7));
	assert_int_equal(board_load(&there.board, at + 8, 4), 2);
	mask(&there, 65, false);
	assert_int_equal(bound(&there), VECTORS - 1);
	assert_int_equal(poll(&(struct pollfd){ .fd = msix_fd(there.msix, 65),
						.events = POLLIN },
			      1, 0),
			 1); /* for the accelerator, which finds it so */
	fixture_fini(&there);
}

/* Loads two arrays as the state's fields have them. */
static int load(struct fixture *f, uint32_t words, uint32_t pending_words,
		uint32_t fill)
{
	struct state_entry *entry = state_find(&f->board.state, "dev0-msix");
	struct bytes_writer bytes = { .data = NULL };
	int ret;

	bytes_put_u32(&bytes, words);
	for (uint32_t i = 0; i < words; i++)
		bytes_put_u32(&bytes, fill);
	bytes_put_u32(&bytes, pending_words);
	for (uint32_t i = 0; i < pending_words; i++)
		bytes_put_u64(&bytes, fill | (uint64_t)fill << 32);
	ret = state_load(entry, 1, bytes.data, bytes.size, NULL);
	bytes_writer_fini(&bytes);
	return ret;
}

static void test_hostile_state_is_refused_or_masked(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(load(f, VECTORS * 4 - 1, 2, 0), -EBADMSG);
	assert_int_equal(load(f, VECTORS * 4 + 4, 2, 0), -EBADMSG);
	assert_int_equal(load(f, VECTORS * 4, 1, 0), -EBADMSG);
	assert_int_equal(load(f, VECTORS * 4, 32, 0), -EBADMSG);
	assert_int_equal(load(f, 0, 0, 0), -EBADMSG);
	assert_int_equal(load(f, VECTORS * 4, 2, 0xffffffff), 0);
	assert_int_equal(
		state_activate(state_find(&f->board.state, "dev0-msix"), NULL),
		0);
	assert_int_equal(entry_get(f, 0, LOW), 0xfffffffc);
	assert_int_equal(entry_get(f, 0, CONTROL), 1);
	for (unsigned int i = 0; i < VECTORS; i++)
		assert_true(is_pending(f, i));
	assert_int_equal(
		board_load(&f->board, TABLE + msix_pba_offset(f->msix) + 8, 8),
		(1 << (VECTORS - 64)) - 1);
}

/* An accelerator that has no such interrupts. */
static const struct accel_ops no_ops = { .name = "none" };
static struct accel none = { .ops = &no_ops };

static void test_region_has_room_for_table_and_pending_bits(void **state)
{
	struct fixture *f = *state;
	const struct {
		unsigned int vectors;
		uint64_t size;
	} cases[] = {
		{ 1, 4096 }, { 254, 4096 }, { 255, 8192 }, { 2048, 65536 }
	};

	for (size_t i = 0; i < array_size(cases); i++) {
		struct msix *msix;

		assert_int_equal(msix_new(f->board.mem, "x", &none,
					  cases[i].vectors, NULL,
					  &f->board.state, &msix, NULL),
				 0);
		assert_int_equal(mem_region_size(msix_region(msix)),
				 cases[i].size);
		assert_true(msix_pba_offset(msix) >= cases[i].vectors * 16);
		msix_free(msix);
	}
}

static void test_too_many_vectors_are_refused(void **state)
{
	struct fixture *f = *state;
	struct msix *msix;
	struct err err = ERR_INIT;

	assert_int_equal(msix_new(f->board.mem, "x", &none, 0, NULL,
				  &f->board.state, &msix, NULL),
			 -ERANGE);
	assert_int_equal(msix_new(f->board.mem, "x", &none, 2049, NULL,
				  &f->board.state, &msix, NULL),
			 -ERANGE);
	/* More than the accelerator has routes left. */
	assert_int_equal(msix_new(f->board.mem, "x", &f->board.accel,
				  256 - VECTORS + 1, NULL, &f->board.state,
				  &msix, &err),
			 -ENOSPC);
	assert_non_null(strstr(err_msg(&err), "256"));
	/* And none was kept. */
	assert_int_equal(msix_new(f->board.mem, "x", &f->board.accel,
				  256 - VECTORS, NULL, &f->board.state, &msix,
				  NULL),
			 0);
	msix_free(msix);
}

static void test_accelerator_without_such_interrupts_keeps_them(void **state)
{
	struct fixture *f = *state;
	struct msix *msix;
	struct pollfd poll_of;

	assert_int_equal(msix_new(f->board.mem, "x", &none, 2048, NULL,
				  &f->board.state, &msix, NULL),
			 0);
	msix_set_control(msix, true, false);
	msix_notify(msix, 2047);
	poll_of =
		(struct pollfd){ .fd = msix_fd(msix, 2047), .events = POLLIN };
	assert_int_equal(poll(&poll_of, 1, 0), 1);
	msix_reset(msix);
	assert_int_equal(poll(&poll_of, 1, 0), 0);
	msix_free(msix);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_vector_is_bound_while_it_can_be_delivered),
		T(test_write_that_unmasks_all_is_one_route_commit),
		T(test_masking_and_unmasking_changes_no_routes),
		T(test_interrupt_of_a_masked_vector_is_pending),
		T(test_pending_bits_cannot_be_written),
		T(test_table_takes_words_and_reads_by_any_width),
		T(test_reset_unbinds_masks_and_forgets),
		T(test_vectors_that_are_not_there_do_nothing),
		T(test_failure_to_route_is_made_good_by_the_next_write),
		T(test_move_binds_all_in_one_commit),
		T(test_hostile_state_is_refused_or_masked),
		T(test_region_has_room_for_table_and_pending_bits),
		T(test_too_many_vectors_are_refused),
		T(test_accelerator_without_such_interrupts_keeps_them),
	};

	return cmocka_run_group_tests_name("msix", tests, NULL, NULL);
}
