// SPDX-License-Identifier: Apache-2.0
/* Virtio over PCI: what a driver finds there, and each way to reach the device. */
#include <cmocka.h>
#include <poll.h>

#include "mem/listener.h"
#include "toy.h"

#define RANDOM_ACCESSES 200000u

static uint32_t config(struct toy *toy, unsigned int offset, unsigned int size)
{
	return board_config(&toy->board, TOY_SLOT, offset, size);
}

static void config_set(struct toy *toy, unsigned int offset, uint32_t value,
		       unsigned int size)
{
	board_config_set(&toy->board, TOY_SLOT, offset, value, size);
}

/* The offset of the virtio capability of @type, or 0. */
static unsigned int capability(struct toy *toy, unsigned int type)
{
	unsigned int at = config(toy, PCI_CAPABILITY_LIST, 1);

	for (unsigned int i = 0; at && i < 48; i++) {
		if (config(toy, at, 1) == PCI_CAP_ID_VNDR &&
		    config(toy, at + 3, 1) == type)
			return at;
		at = config(toy, at + 1, 1);
	}
	return 0;
}

static bool is_signalled(int fd)
{
	eventfd_t seen;

	return eventfd_read(fd, &seen) == 0;
}

static void test_driver_recognises_a_modern_device(void **state)
{
	struct toy *toy = *state;

	assert_int_equal(config(toy, PCI_VENDOR_ID, 2), 0x1af4);
	assert_int_equal(config(toy, PCI_DEVICE_ID, 2), 0x1040 + 42);
	assert_int_equal(config(toy, PCI_SUBSYSTEM_ID, 2), 0x1040 + 42);
	assert_int_equal(config(toy, PCI_REVISION_ID, 1), 1);
	assert_int_equal(config(toy, PCI_CLASS_DEVICE, 2), 0x0880);
	assert_int_equal(toy_get(toy, NUM_QUEUES, 2), TOY_QUEUES);
	assert_int_equal(
		msix_vectors(pci_msix(vdev_pci_function(toy->dev.pci))),
		TOY_QUEUES + 1);
}

static void test_capabilities_lead_to_the_parts_of_the_bar(void **state)
{
	struct toy *toy = *state;
	static const struct {
		uint8_t type;
		uint32_t size, offset, length;
	} caps[] = {
		{ VIRTIO_PCI_CAP_COMMON_CFG, 16, 0x0000, 0x3c },
		{ VIRTIO_PCI_CAP_ISR_CFG, 16, 0x1000, 1 },
		{ VIRTIO_PCI_CAP_DEVICE_CFG, 16, 0x2000, TOY_CONFIG },
		{ VIRTIO_PCI_CAP_NOTIFY_CFG, 20, 0x3000, 4 * TOY_QUEUES },
	};

	for (unsigned int i = 0; i < array_size(caps); i++) {
		unsigned int at = capability(toy, caps[i].type);

		assert_int_not_equal(at, 0);
		assert_int_equal(config(toy, at + 2, 1), caps[i].size);
		assert_int_equal(config(toy, at + 4, 1), 4);
		assert_int_equal(config(toy, at + 8, 4), caps[i].offset);
		assert_int_equal(config(toy, at + 12, 4), caps[i].length);
	}
	assert_int_equal(
		config(toy, capability(toy, VIRTIO_PCI_CAP_NOTIFY_CFG) + 16, 4),
		VDEV_PCI_NOTIFY_MULTIPLIER);
	for (unsigned int i = 0; i < TOY_QUEUES; i++) {
		toy_put(toy, QUEUE_SELECT, i, 2);
		assert_int_equal(toy_get(toy, QUEUE_NOTIFY_OFF, 2), i);
	}
}

static void test_wide_registers_are_written_in_halves(void **state)
{
	struct toy *toy = *state;

	toy_put(toy, QUEUE_DESC, 0x11223344, 4);
	toy_put(toy, QUEUE_DESC + 4, 0x55667788, 4);
	assert_int_equal(toy_get(toy, QUEUE_DESC, 8), 0x5566778811223344);
	toy_put(toy, QUEUE_DESC, 0x99aabbcc, 4);
	assert_int_equal(toy_get(toy, QUEUE_DESC, 8), 0x5566778899aabbcc);
	assert_int_equal(toy_get(toy, QUEUE_DESC + 4, 4), 0x55667788);
	assert_int_equal(toy_get(toy, QUEUE_DESC + 6, 2), 0x5566);
}

static void test_writes_of_another_width_have_no_effect(void **state)
{
	struct toy *toy = *state;

	toy_put(toy, QUEUE_SIZE, 8, 1);
	toy_put(toy, QUEUE_SIZE, 8, 4);
	toy_put(toy, QUEUE_DESC, 8, 2);
	toy_put(toy, STATUS, ACKNOWLEDGE, 2);
	assert_int_equal(toy_get(toy, QUEUE_SIZE, 2), TOY_SIZE);
	assert_int_equal(toy_get(toy, QUEUE_DESC, 8), 0);
	assert_int_equal(toy_status(toy), 0);
	/* Reads are of any: status, generation and queue_select. */
	toy_put(toy, STATUS, ACKNOWLEDGE, 1);
	toy_put(toy, QUEUE_SELECT, 2, 2);
	assert_int_equal(toy_get(toy, STATUS, 4), 0x20001);
}

static void test_vector_that_cannot_be_had_reads_as_none(void **state)
{
	struct toy *toy = *state;

	toy_put(toy, QUEUE_SELECT, 1, 2);
	toy_put(toy, QUEUE_VECTOR, TOY_QUEUES, 2);
	toy_put(toy, CONFIG_VECTOR, TOY_QUEUES, 2);
	assert_int_equal(toy_get(toy, QUEUE_VECTOR, 2), TOY_QUEUES);
	assert_int_equal(toy_get(toy, CONFIG_VECTOR, 2), TOY_QUEUES);
	toy_put(toy, QUEUE_VECTOR, TOY_QUEUES + 1, 2);
	toy_put(toy, CONFIG_VECTOR, TOY_QUEUES + 1, 2);
	assert_int_equal(toy_get(toy, QUEUE_VECTOR, 2), MSIX_NO_VECTOR);
	assert_int_equal(toy_get(toy, CONFIG_VECTOR, 2), MSIX_NO_VECTOR);
}

static void test_interrupts_go_to_the_vectors_chosen(void **state)
{
	struct toy *toy = *state;
	struct msix *msix = pci_msix(vdev_pci_function(toy->dev.pci));

	toy_put(toy, QUEUE_SELECT, 1, 2);
	toy_put(toy, QUEUE_VECTOR, 2, 2);
	toy_put(toy, CONFIG_VECTOR, 3, 2);
	assert_int_equal(vdev_call_fd(&toy->dev, &toy->dev.queues[0]), -1);
	assert_int_equal(vdev_call_fd(&toy->dev, &toy->dev.queues[1]),
			 msix_fd(msix, 2));
	assert_int_equal(vdev_call_fd(&toy->dev, NULL), msix_fd(msix, 3));
	vdev_call(&toy->dev, &toy->dev.queues[1]);
	assert_true(is_signalled(msix_fd(msix, 2)));
	assert_false(is_signalled(msix_fd(msix, 3)));
	vdev_config_changed(&toy->dev);
	assert_true(is_signalled(msix_fd(msix, 3)));
	assert_int_equal(board_load(&toy->board, toy->bar + VDEV_PCI_ISR, 1),
			 0);
}

static void test_without_vectors_the_interrupt_status_says_why(void **state)
{
	struct toy *toy = *state;

	vdev_call(&toy->dev, &toy->dev.queues[1]);
	assert_int_equal(board_load(&toy->board, toy->bar + VDEV_PCI_ISR, 1),
			 VIRTIO_PCI_ISR_CONFIG >> 1);
	assert_int_equal(board_load(&toy->board, toy->bar + VDEV_PCI_ISR, 1),
			 0);
}

static void test_notification_reaches_its_queue_alone(void **state)
{
	struct toy *toy = *state;
	static const unsigned int sizes[] = { 1, 2, 4 };

	for (unsigned int i = 0; i < TOY_QUEUES; i++) {
		board_store(&toy->board, toy->bar + VDEV_PCI_NOTIFY + 4 * i, i,
			    sizes[i]);
		for (unsigned int n = 0; n < TOY_QUEUES; n++)
			assert_int_equal(
				is_signalled(toy->dev.queues[n].kick_fd),
				n == i);
	}
}

static void test_wild_doorbells_ring_nowhere(void **state)
{
	struct toy *toy = *state;

	for (uint64_t at = VDEV_PCI_NOTIFY + 4 * TOY_QUEUES; at < VDEV_PCI_SIZE;
	     at += 4)
		board_store(&toy->board, toy->bar + at, 0, 4);
	board_store(&toy->board, toy->bar + VDEV_PCI_NOTIFY + 1, 0, 1);
	board_store(&toy->board, toy->bar + VDEV_PCI_NOTIFY + 2, 0, 2);
	for (unsigned int n = 0; n < TOY_QUEUES; n++)
		assert_false(is_signalled(toy->dev.queues[n].kick_fd));
}

static void count_event(void *opaque, const struct mem_section *section,
			const struct mem_eventfd *event)
{
	unsigned int *changes = opaque;

	(void)section, (void)event;
	(*changes)++;
}

static const struct mem_listener_ops watcher_ops = {
	.eventfd_add = count_event,
	.eventfd_del = count_event,
};

static void test_notifications_are_armed_before_the_driver_comes(void **state)
{
	struct toy *toy = *state;
	struct mem_listener watcher;
	unsigned int changes = 0;

	assert_int_equal(mem_listener_add(toy->board.memory, &watcher,
					  &watcher_ops, &changes, 0),
			 0);
	assert_int_equal(changes, TOY_QUEUES);
	toy_set_up(toy, 0);
	toy_put(toy, STATUS, 0, 1);
	assert_int_equal(changes, TOY_QUEUES);
	mem_listener_del(&watcher);
}

static void test_function_level_reset_resets_the_device(void **state)
{
	struct toy *toy = *state;
	unsigned int at =
		board_capability(&toy->board, TOY_SLOT, PCI_CAP_ID_EXP);

	toy_set_up(toy, 0);
	config_set(toy, at + PCI_EXP_DEVCTL, PCI_EXP_DEVCTL_BCR_FLR, 2);
	assert_int_equal(toy->resets, 1);
	assert_false(toy->dev.is_working);
	assert_int_equal(toy->dev.status, 0);
	assert_int_equal(toy->dev.queues[0].is_enabled, 0);
}

/* ---- through configuration space ---- */

static void window_set(struct toy *toy, uint32_t bar, uint32_t offset,
		       uint32_t size)
{
	unsigned int at = capability(toy, VIRTIO_PCI_CAP_PCI_CFG);

	config_set(toy, at + 4, bar, 1);
	config_set(toy, at + 8, offset, 4);
	config_set(toy, at + 12, size, 4);
}

static void test_registers_are_reached_through_configuration_space(void **state)
{
	struct toy *toy = *state;
	unsigned int data = capability(toy, VIRTIO_PCI_CAP_PCI_CFG) + 16;

	/* where no memory is decoded, too */
	config_set(toy, PCI_COMMAND, 0, 2);
	window_set(toy, 4, STATUS, 1);
	config_set(toy, data, ACKNOWLEDGE, 1);
	assert_int_equal(toy->dev.status, ACKNOWLEDGE);
	assert_int_equal(config(toy, data, 1), ACKNOWLEDGE);
	window_set(toy, 4, NUM_QUEUES, 2);
	assert_int_equal(config(toy, data, 2), TOY_QUEUES);
	window_set(toy, 4, VDEV_PCI_CONFIG + 4, 4);
	assert_int_equal(config(toy, data, 4), 0xc7c6c5c4);
	window_set(toy, 4, VDEV_PCI_NOTIFY + 4, 2);
	config_set(toy, data, 1, 2);
	assert_true(is_signalled(toy->dev.queues[1].kick_fd));
}

static void test_window_that_makes_no_sense_does_nothing(void **state)
{
	struct toy *toy = *state;
	unsigned int data = capability(toy, VIRTIO_PCI_CAP_PCI_CFG) + 16;
	static const uint32_t cases[][3] = {
		{ 0, STATUS, 1 },         { 1, STATUS, 1 },
		{ 4, STATUS, 0 },         { 4, STATUS, 3 },
		{ 4, STATUS, 8 },         { 4, STATUS, UINT32_MAX },
		{ 4, STATUS + 1, 2 },     { 4, VDEV_PCI_SIZE + STATUS, 1 },
		{ 4, UINT32_MAX - 3, 4 }, { 4, 0x80000000 + STATUS, 1 },
		{ 5, STATUS, 1 },         { 255, STATUS, 1 },
	};

	for (unsigned int i = 0; i < array_size(cases); i++) {
		window_set(toy, cases[i][0], cases[i][1], cases[i][2]);
		config_set(toy, data, 0x0f0f0f0f, 4);
		assert_int_equal(config(toy, data, 4), 0x0f0f0f0f);
		assert_int_equal(toy->dev.status, 0);
	}
}

static uint32_t random_of(uint32_t *seed, uint32_t below)
{
	*seed = *seed * 1664525 + 1013904223;
	return (uint32_t)((uint64_t)*seed * below >> 32);
}

static void random_access(struct toy *toy, uint32_t *seed)
{
	unsigned int size = 1u << random_of(seed, 4);
	uint64_t value = random_of(seed, 4) ? random_of(seed, 256)
					    : (uint64_t)*seed * *seed;
	uint64_t at = toy->bar;

	if (random_of(seed, 8) == 0) {
		at = board_ecam(TOY_SLOT, random_of(seed, 256));
		/* where it lies is no business of this test */
		if (at % 4096 < 0x28)
			return;
	} else {
		at += random_of(seed, 8) ? random_of(seed, 0x40)
					 : random_of(seed, VDEV_PCI_SIZE);
	}
	if (random_of(seed, 4))
		board_store(&toy->board, at, value, size);
	else
		board_load(&toy->board, at, size);
}

/* Whatever a guest writes in whatever width, what comes out of it can be saved and
 * loaded. */
static void test_any_access_leaves_a_state_that_loads(void **state)
{
	struct toy *toy = *state, *other;
	struct err err = ERR_INIT;
	uint32_t seed = 4711;

	for (unsigned int round = 0; round < 20; round++) {
		for (unsigned int i = 0; i < RANDOM_ACCESSES / 20; i++)
			random_access(toy, &seed);
		assert_int_equal(vdev_pause(&toy->dev, UINT64_MAX, NULL), 0);
		other = calloc(1, sizeof(*other));
		toy_init(other);
		if (toy_move(toy, other, &err))
			fail_msg("%s", err_msg(&err));
		assert_int_equal(other->dev.status, toy->dev.status);
		assert_int_equal(other->dev.is_broken, toy->dev.is_broken);
		toy_fini(other);
		free(other);
		vdev_run(&toy->dev);
	}
}

#define TEST(name) \
	cmocka_unit_test_setup_teardown(name, toy_setup, toy_teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_driver_recognises_a_modern_device),
		TEST(test_capabilities_lead_to_the_parts_of_the_bar),
		TEST(test_wide_registers_are_written_in_halves),
		TEST(test_writes_of_another_width_have_no_effect),
		TEST(test_vector_that_cannot_be_had_reads_as_none),
		TEST(test_interrupts_go_to_the_vectors_chosen),
		TEST(test_without_vectors_the_interrupt_status_says_why),
		TEST(test_notification_reaches_its_queue_alone),
		TEST(test_wild_doorbells_ring_nowhere),
		TEST(test_notifications_are_armed_before_the_driver_comes),
		TEST(test_function_level_reset_resets_the_device),
		TEST(test_registers_are_reached_through_configuration_space),
		TEST(test_window_that_makes_no_sense_does_nothing),
		TEST(test_any_access_leaves_a_state_that_loads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
