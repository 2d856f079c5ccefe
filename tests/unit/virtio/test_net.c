// SPDX-License-Identifier: Apache-2.0
/* The network device in front of a back end that notes what it is told. */
#include <cmocka.h>

#include "net_told.h"
#include "virtio/net_priv.h"

static struct virtio_net_config config_of(struct fixture *f)
{
	struct virtio_net_config config = { 0 };

	driver_config(&f->driver, &config, 12);
	return config;
}

static void test_config_has_mac_link_and_pairs(void **state)
{
	struct virtio_net_config config = config_of(*state);
	/* "net3" */
	const uint8_t mac[6] = { 0x52, 0x54, 0, 0x67, 0, 3 };

	assert_memory_equal(config.mac, mac, 6);
	assert_int_equal(config.status, VIRTIO_NET_S_LINK_UP);
	assert_int_equal(config.max_virtqueue_pairs, PAIRS);
	assert_int_equal(config.mtu, 0);
	assert_false(((struct fixture *)*state)->driver.dev->offered &
		     BIT(MTU));
}

static void test_mac_of_another_device_is_refused(void **state)
{
	struct fixture *f = *state;
	struct told told = { 0 };
	struct net_config config = { .mac = { 0x52, 0x54, 0, 0x67, 0, 3 },
				     .pairs = 1,
				     .ops = &told_ops,
				     .opaque = &told };
	struct vdev_site site = f->driver.site;
	struct err err = ERR_INIT;
	struct vdev *dev;

	site.name = "net4";
	assert_int_equal(net_new_with(&site, &config, &dev, &err), -EEXIST);
	assert_string_equal(err_msg(&err), "net4: net3 has that mac already");
	assert_int_equal(told.frees, 1);
}

static void test_feature_without_what_it_needs_is_refused(void **state)
{
	struct fixture *f = *state;

	assert_false(driver_start(&f->driver, BIT(GUEST_TSO4)));
	driver_reset(&f->driver);
	assert_false(driver_start(&f->driver, BIT(HOST_TSO4)));
	driver_reset(&f->driver);
	assert_false(driver_start(&f->driver, BIT(MQ)));
	driver_reset(&f->driver);
	assert_false(driver_start(&f->driver, 1ull << NET_F_GUEST_USO4));
	driver_reset(&f->driver);
	assert_true(
		driver_start(&f->driver, BIT(GUEST_CSUM) | BIT(GUEST_TSO4)));
	assert_int_equal(f->told.features & NET_GUEST_OFFLOADS,
			 BIT(GUEST_CSUM) | BIT(GUEST_TSO4));
}

static void test_driver_chooses_its_pairs(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->driver, CONTROL));
	assert_int_equal(f->told.pairs, 1);
	assert_int_equal(command_pairs(f, PAIRS), VIRTIO_NET_OK);
	assert_int_equal(f->told.pairs, PAIRS);
	assert_int_equal(command_pairs(f, 2), VIRTIO_NET_OK);
	assert_int_equal(command_pairs(f, 0), VIRTIO_NET_ERR);
	assert_int_equal(command_pairs(f, PAIRS + 1), VIRTIO_NET_ERR);
	assert_int_equal(command_pairs(f, 0x8000), VIRTIO_NET_ERR);
	assert_int_equal(f->told.pairs, 2);
	/* A pause keeps it, a reset does not. */
	driver_pause(&f->driver);
	f->told.pairs = 0;
	vdev_run(f->driver.dev);
	assert_int_equal(f->told.pairs, 2);
	driver_reset(&f->driver);
	assert_true(driver_start(&f->driver, CONTROL));
	assert_int_equal(f->told.pairs, 1);
}

static void test_pairs_that_the_back_end_refuses_are_not_counted(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->driver, CONTROL));
	f->told.fail = -ENOSPC;
	assert_int_equal(command_pairs(f, 3), VIRTIO_NET_ERR);
	f->told.fail = 0;
	driver_pause(&f->driver);
	vdev_run(f->driver.dev);
	assert_int_equal(f->told.pairs, 1);
}

static void test_control_queue_without_mq_is_queue_two(void **state)
{
	struct fixture *f = *state;
	const uint8_t rx[] = { VIRTIO_NET_CTRL_RX, 0, 0 };

	assert_true(driver_start(&f->driver, CONTROL & ~BIT(MQ)));
	assert_int_equal(command_at(f, 2, rx, 3), VIRTIO_NET_OK);
	assert_int_equal(f->told.filter.is_promisc, 0);
}

static void test_address_of_the_driver_is_shown(void **state)
{
	struct fixture *f = *state;
	const uint8_t set[] = { VIRTIO_NET_CTRL_MAC, 1, 2, 4, 6, 8, 10, 12 };
	uint8_t group[sizeof(set)];

	assert_true(driver_start(&f->driver, CONTROL));
	assert_int_equal(command(f, set, sizeof(set)), VIRTIO_NET_OK);
	assert_memory_equal(config_of(f).mac, set + 2, 6);
	assert_memory_equal(f->told.filter.mac, set + 2, 6);
	/* No station has a group's address. */
	memcpy(group, set, sizeof(set));
	group[2] |= 1;
	assert_int_equal(command(f, group, sizeof(group)), VIRTIO_NET_ERR);
	assert_memory_equal(config_of(f).mac, set + 2, 6);
	driver_reset(&f->driver);
	assert_int_equal(config_of(f).mac[5], 3);
}

static void test_filter_begins_open_and_follows_the_driver(void **state)
{
	struct fixture *f = *state;
	const uint8_t closed[] = { VIRTIO_NET_CTRL_RX, 0, 0 };
	const uint8_t groups[] = { VIRTIO_NET_CTRL_RX, 1, 7 };
	const uint8_t other[] = { VIRTIO_NET_CTRL_RX, 2, 1 };

	assert_true(driver_start(&f->driver, CONTROL));
	assert_int_equal(f->told.filter.is_promisc, 1);
	assert_int_equal(command(f, closed, 3), VIRTIO_NET_OK);
	assert_int_equal(command(f, groups, 3), VIRTIO_NET_OK);
	assert_int_equal(command(f, other, 3), VIRTIO_NET_ERR);
	assert_int_equal(f->told.filter.is_promisc, 0);
	assert_int_equal(f->told.filter.is_all_multicast, 1);
	f->told.fail = -EIO;
	assert_int_equal(command(f, (uint8_t[]){ 0, 0, 1 }, 3), VIRTIO_NET_ERR);
	f->told.fail = 0;
	driver_pause(&f->driver);
	vdev_run(f->driver.dev);
	assert_int_equal(f->told.filter.is_promisc, 0);
}

/* Both tables, of @unicast and @multicast addresses; returns the size. */
static uint32_t tables_of(uint8_t *bytes, uint32_t unicast, uint32_t multicast)
{
	uint32_t at = 2;

	bytes[0] = VIRTIO_NET_CTRL_MAC;
	bytes[1] = VIRTIO_NET_CTRL_MAC_TABLE_SET;
	memcpy(bytes + at, &unicast, 4);
	at += 4;
	memset(bytes + at, 0x22, 6 * unicast);
	at += 6 * unicast;
	memcpy(bytes + at, &multicast, 4);
	at += 4;
	memset(bytes + at, 0x33, 6 * multicast);
	return at + 6 * multicast;
}

static void test_filter_takes_what_was_asked_for(void **state)
{
	const uint8_t own[] = { 2, 0, 0, 0, 0, 1 },
		      other[] = { 2, 0, 0, 0, 0, 2 };
	const uint8_t group[] = { 3, 0, 0, 0, 0, 1 };
	const uint8_t all[] = { 255, 255, 255, 255, 255, 255 };
	struct net_rx_filter filter = { .mac = { 2, 0, 0, 0, 0, 1 } };

	(void)state;
	assert_true(net_filter_takes(&filter, own));
	assert_true(net_filter_takes(&filter, all));
	assert_false(net_filter_takes(&filter, other));
	assert_false(net_filter_takes(&filter, group));
	filter.is_all_multicast = 1;
	assert_true(net_filter_takes(&filter, group));
	assert_false(net_filter_takes(&filter, other));
	filter.is_all_multicast = 0;
	memcpy(filter.unicast[1], other, 6);
	memcpy(filter.multicast[0], group, 6);
	filter.unicast_count = 1;
	assert_false(net_filter_takes(&filter, other));
	filter.unicast_count = 2;
	assert_true(net_filter_takes(&filter, other));
	assert_false(net_filter_takes(&filter, group));
	filter.multicast_count = 1;
	assert_true(net_filter_takes(&filter, group));
	filter.unicast_count = filter.multicast_count = 0;
	filter.is_unicast_over = 1;
	assert_true(net_filter_takes(&filter, other));
	assert_false(net_filter_takes(&filter, group));
	filter.is_unicast_over = 0;
	filter.is_multicast_over = 1;
	assert_true(net_filter_takes(&filter, group));
	filter.is_multicast_over = 0;
	filter.is_promisc = 1;
	assert_true(net_filter_takes(&filter, other));
	assert_true(net_filter_takes(&filter, group));
}

static void test_address_tables_are_taken_and_bounded(void **state)
{
	struct fixture *f = *state;
	uint8_t bytes[2 + 8 + 6 * 200];

	assert_true(driver_start(&f->driver, CONTROL));
	assert_int_equal(command(f, bytes, tables_of(bytes, 2, NET_FILTER_MAX)),
			 VIRTIO_NET_OK);
	assert_int_equal(f->told.filter.unicast_count, 2);
	assert_int_equal(f->told.filter.multicast_count, NET_FILTER_MAX);
	assert_int_equal(f->told.filter.unicast[1][5], 0x22);
	assert_int_equal(f->told.filter.multicast[NET_FILTER_MAX - 1][5], 0x33);
	assert_int_equal(f->told.filter.is_multicast_over, 0);
	/* More than there is room for: all of that kind. */
	assert_int_equal(command(f, bytes, tables_of(bytes, 0, 65)),
			 VIRTIO_NET_OK);
	assert_int_equal(f->told.filter.unicast_count, 0);
	assert_int_equal(f->told.filter.multicast_count, 0);
	assert_int_equal(f->told.filter.is_multicast_over, 1);
	assert_int_equal(f->told.filter.is_unicast_over, 0);
}

static void test_tables_that_lie_about_their_size_change_nothing(void **state)
{
	const uint32_t huge[] = { 1, 0x10000, 0x2aaaaaab, 0x80000000,
				  0xffffffff };
	struct fixture *f = *state;
	uint8_t bytes[2 + 8 + 6 * 200];
	uint32_t size;

	assert_true(driver_start(&f->driver, CONTROL));
	f->told.filters = 0;
	for (size_t i = 0; i < array_size(huge); i++) {
		size = tables_of(bytes, 0, 0);
		memcpy(bytes + 2, &huge[i], 4);
		assert_int_equal(command(f, bytes, size), VIRTIO_NET_ERR);
		size = tables_of(bytes, 0, 0);
		memcpy(bytes + 6, &huge[i], 4);
		assert_int_equal(command(f, bytes, size), VIRTIO_NET_ERR);
	}
	size = tables_of(bytes, 3, 3);
	for (uint32_t cut = 2; cut < size; cut++)
		assert_int_equal(command(f, bytes, cut), VIRTIO_NET_ERR);
	assert_int_equal(command(f, bytes, size + 1), VIRTIO_NET_ERR);
	assert_int_equal(f->told.filters, 0);
}

static void test_unknown_commands_are_answered_with_an_error(void **state)
{
	struct fixture *f = *state;
	uint8_t bytes[16];

	assert_true(driver_start(&f->driver, CONTROL));
	f->told.filters = 0;
	for (unsigned int i = 0; i < 4096; i++) {
		memset(bytes, (int)(i * 7), sizeof(bytes));
		bytes[0] = (uint8_t)(5 + i % 251); /* no class */
		bytes[1] = (uint8_t)(i >> 4);
		assert_int_equal(command(f, bytes, 1 + i % 16), VIRTIO_NET_ERR);
	}
	assert_int_equal(command(f, (uint8_t[]){ 3, 1 }, 2), VIRTIO_NET_ERR);
	assert_int_equal(command(f, (uint8_t[]){ 3, 0, 0 }, 3), VIRTIO_NET_ERR);
	assert_int_equal(command(f, (uint8_t[]){ 4, 1, 1, 0 }, 4),
			 VIRTIO_NET_ERR);
	assert_int_equal(f->told.filters, 0);
	assert_false(driver_is_broken(&f->driver));
}

static void test_commands_that_were_not_negotiated_are_refused(void **state)
{
	struct fixture *f = *state;
	const uint8_t commands[][8] = { { VIRTIO_NET_CTRL_RX },
					{ VIRTIO_NET_CTRL_MAC, 1, 2 },
					{ VIRTIO_NET_CTRL_ANNOUNCE },
					{ VIRTIO_NET_CTRL_MQ, 0, 1 } };
	const uint32_t sizes[] = { 3, 8, 2, 4 };

	assert_true(driver_start(&f->driver, BIT(CTRL_VQ)));
	for (size_t i = 0; i < array_size(sizes); i++)
		assert_int_equal(command_at(f, 2, commands[i], sizes[i]),
				 VIRTIO_NET_ERR);
}

static void test_command_without_room_for_an_answer_is_used_up(void **state)
{
	struct fixture *f = *state;
	const struct driver_buffer only = { driver_buffer(2 * PAIRS, 0), 3,
					    false };
	const struct driver_buffer ack = { driver_buffer(2 * PAIRS, 1), 1,
					   true };

	assert_true(driver_start(&f->driver, CONTROL));
	driver_add(&f->driver, 2 * PAIRS, &only, 1);
	driver_kick(&f->driver, 2 * PAIRS);
	assert_int_equal(driver_take(&f->driver, 2 * PAIRS, NULL), 0);
	/* Nor is there one with an answer only. */
	driver_add(&f->driver, 2 * PAIRS, &ack, 1);
	driver_kick(&f->driver, 2 * PAIRS);
	assert_int_equal(driver_take(&f->driver, 2 * PAIRS, NULL), 1);
	assert_int_equal(*(uint8_t *)driver_at(&f->driver, ack.gpa),
			 VIRTIO_NET_ERR);
}

static void test_command_outside_of_ram_breaks_the_device(void **state)
{
	struct fixture *f = *state;
	const struct driver_buffer wild = { 0x7000000000, 3, false };

	assert_true(driver_start(&f->driver, CONTROL));
	driver_add(&f->driver, 2 * PAIRS, &wild, 1);
	driver_kick(&f->driver, 2 * PAIRS);
	while (!driver_is_broken(&f->driver))
		sched_yield();
	driver_reset(&f->driver);
	assert_true(driver_start(&f->driver, CONTROL));
	assert_int_equal(command_pairs(f, 2), VIRTIO_NET_OK);
}

/* ---- moves ---- */

static uint8_t acknowledge(struct fixture *f)
{
	return command(f, (uint8_t[]){ VIRTIO_NET_CTRL_ANNOUNCE, 0 }, 2);
}

static void test_lesson_network_hears_of_the_move_from_the_driver(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->driver, CONTROL));
	f->driver.dev->type->arrived(f->driver.dev);
	for (unsigned int i = 0; i < 5; i++) {
		driver_await(f->driver.config_fd);
		assert_int_equal(config_of(f).status,
				 VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
		assert_int_equal(acknowledge(f), VIRTIO_NET_OK);
		assert_int_equal(config_of(f).status, VIRTIO_NET_S_LINK_UP);
	}
}

static void
test_lesson_network_hears_of_the_move_without_the_driver(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->driver, CONTROL & ~BIT(GUEST_ANNOUNCE)));
	f->driver.dev->type->arrived(f->driver.dev);
	for (unsigned int i = 0; i < 5; i++)
		driver_await(f->told.announce_fd);
	assert_memory_equal(f->told.announced, config_of(f).mac, 6);
	assert_int_equal(config_of(f).status, VIRTIO_NET_S_LINK_UP);
}

static void test_driver_that_does_not_answer_is_announced(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->driver, CONTROL));
	f->driver.dev->type->arrived(f->driver.dev);
	for (unsigned int i = 0; i < 4; i++)
		driver_await(f->told.announce_fd);
}

static void
test_guest_that_stops_is_announced_no_more_until_it_runs(void **state)
{
	struct fixture *f = *state;
	struct pollfd p = { .fd = f->told.announce_fd, .events = POLLIN };

	assert_true(driver_start(&f->driver, 0));
	f->driver.dev->type->arrived(f->driver.dev);
	driver_await(f->told.announce_fd);
	driver_pause(&f->driver);
	while (poll(&p, 1, 0) == 1)
		driver_await(p.fd);
	/* Longer than the next pause would have been. */
	assert_int_equal(poll(&p, 1, 500), 0);
	vdev_run(f->driver.dev);
	driver_await(p.fd);
}

static void test_control_state_moves(void **state)
{
	struct fixture *f = *state, *to = calloc(1, sizeof(*to));
	const uint8_t mac[] = { 2, 4, 6, 8, 10, 12 };
	uint8_t bytes[2 + 8 + 6 * 200];

	fixture_init(to, mac);
	assert_true(driver_start(&f->driver, CONTROL));
	command_pairs(f, 3);
	command(f, (uint8_t[]){ VIRTIO_NET_CTRL_RX, 0, 0 }, 3);
	command(f, bytes, tables_of(bytes, 2, 65));
	f->driver.dev->type->arrived(f->driver.dev);
	driver_await(f->driver.config_fd);
	driver_pause(&f->driver);

	driver_move(&f->driver, &to->driver);
	assert_memory_equal(config_of(to).mac, config_of(f).mac, 6);
	assert_true(config_of(to).status & VIRTIO_NET_S_ANNOUNCE);
	assert_int_equal(to->driver.dev->type->claim(to->driver.dev, NULL), 0);
	assert_int_equal(to->told.claimed, 3);
	vdev_run(to->driver.dev);
	assert_int_equal(to->told.pairs, 3);
	assert_memory_equal(&to->told.filter, &f->told.filter,
			    sizeof(to->told.filter));
	assert_int_equal(acknowledge(to), VIRTIO_NET_OK);
	fixture_fini(to);
	free(to);
}

/* A card often has more than its driver uses. */
static void test_pairs_in_use_are_known_before_the_guest_comes(void **state)
{
	struct fixture *f = *state, *to = calloc(1, sizeof(*to));
	const uint8_t mac[] = { 2, 4, 6, 8, 10, 12 };

	fixture_init(to, mac);
	assert_true(driver_start(&f->driver, CONTROL));
	assert_int_equal(board_move_setup(&f->driver.board, &to->driver.board),
			 0);
	assert_int_equal(to->told.built, 1);
	command_pairs(f, 3);
	assert_int_equal(board_move_setup(&f->driver.board, &to->driver.board),
			 0);
	assert_int_equal(to->told.built, 3);
	command_pairs(f, 2); /* too late for that */
	driver_pause(&f->driver);
	driver_move(&f->driver, &to->driver);
	assert_int_equal(to->told.built, 2);
	fixture_fini(to);
	free(to);
}

static void
test_all_pairs_are_built_for_a_source_that_does_not_tell(void **state)
{
	struct fixture *f = *state, *to = calloc(1, sizeof(*to));
	const uint8_t mac[] = { 2, 4, 6, 8, 10, 12 };

	fixture_init(to, mac);
	assert_true(driver_start(&f->driver, CONTROL));
	net_ahead_fini(net_of(f->driver.dev));
	assert_int_equal(board_move_setup(&f->driver.board, &to->driver.board),
			 0);
	assert_int_equal(to->told.built, PAIRS);
	driver_pause(&f->driver);
	driver_move(&f->driver, &to->driver);
	assert_int_equal(to->told.built, 1);
	fixture_fini(to);
	free(to);
}

static int load_entry(struct state_entry *entry, size_t at, uint8_t value)
{
	struct bytes_writer bytes = { .data = NULL };
	int ret;

	assert_non_null(entry);
	assert_int_equal(state_save(entry, &bytes, NULL), 0);
	bytes.data[at] = value;
	ret = state_load(entry, 1, bytes.data, bytes.size, NULL);
	bytes_writer_fini(&bytes);
	return ret;
}

static int load_net_state(struct fixture *f, size_t at, uint8_t value)
{
	return load_entry(state_find(&f->driver.board.state, "net3-net"), at,
			  value);
}

static int load_pairs(struct fixture *f, uint8_t pairs)
{
	return load_entry(
		state_find(&f->driver.board.setup_state, "net3-pairs"), 0,
		pairs);
}

static void test_state_with_impossible_numbers_is_refused(void **state)
{
	struct fixture *f = *state;
	const size_t flags = 6, counts = 10,
		     pairs = 18 + 2 * 6 * NET_FILTER_MAX;

	assert_int_equal(load_net_state(f, flags, 2), -EBADMSG);
	assert_int_equal(load_net_state(f, flags, 1), 0);
	assert_int_equal(load_net_state(f, counts, NET_FILTER_MAX + 1),
			 -EBADMSG);
	assert_int_equal(load_net_state(f, counts, 0), 0);
	assert_int_equal(load_net_state(f, pairs, 0), -EBADMSG);
	assert_int_equal(load_net_state(f, pairs, PAIRS + 1), -EBADMSG);
	assert_int_equal(load_net_state(f, pairs, PAIRS), 0);
	assert_int_equal(load_net_state(f, pairs + 2, 2), -EBADMSG);
	assert_int_equal(load_net_state(f, pairs + 2, 0), 0);
	assert_int_equal(load_pairs(f, 0), -EBADMSG);
	assert_int_equal(load_pairs(f, PAIRS + 1), -EBADMSG);
	assert_int_equal(load_pairs(f, PAIRS), 0);
}

static void test_claim_comes_behind_a_disclaim(void **state)
{
	struct fixture *f = *state;
	const struct vdev_type *type = f->driver.dev->type;

	for (unsigned int i = 1; i <= 50; i++) {
		type->disclaim(f->driver.dev);
		assert_int_equal(type->claim(f->driver.dev, NULL), 0);
		assert_int_equal(f->told.disclaims, i);
		assert_int_equal(f->told.claimed, 1);
	}
}

static void test_device_whose_back_end_cannot_stop_works_on(void **state)
{
	struct fixture *f = *state;

	assert_true(driver_start(&f->driver, CONTROL));
	f->told.stop_timeouts = 1;
	vdev_pause_begin(f->driver.dev);
	assert_int_equal(vdev_pause(f->driver.dev, UINT64_MAX, &f->driver.err),
			 -ETIMEDOUT);
	vdev_run(f->driver.dev);
	assert_int_equal(command_pairs(f, 2), VIRTIO_NET_OK);
	assert_int_equal(f->told.starts - f->told.stops, 1);
}

/* ---- the option ---- */

static void expect_refused(const char *text, const char *message)
{
	struct net_options options;
	struct err err = ERR_INIT;

	assert_int_equal(net_options_read(text, &options, &err), -EINVAL);
	assert_string_equal(err_msg(&err), message);
}

static void test_option_says_what_is_wrong_with_it(void **state)
{
	(void)state;
	expect_refused("queues=2",
		       "one of tap=IF and vhost-user=SOCK is needed");
	expect_refused("tap=a,vhost-user=b",
		       "one of tap=IF and vhost-user=SOCK is needed");
	expect_refused("vhost-user=b,vhost=on",
		       "vhost=on is for tap=IF, not for vhost-user");
	expect_refused("tap=a,speed=9", "'speed' is none of tap, vhost-user, "
					"vhost, queues, mac, mtu");
	expect_refused("tap", "tap needs a value");
	expect_refused("tap=", "tap: 0 bytes, 1 to 107 are possible");
	expect_refused("tap=a,mac=1:2:3:4:5:6",
		       "mac '1:2:3:4:5:6' is not like 52:54:00:12:34:56");
	expect_refused("tap=a,mac=52:54:00:12:34:5 ",
		       "mac '52:54:00:12:34:5 ' is not like 52:54:00:12:34:56");
	expect_refused("tap=a,mac=52:54:00:12:34::",
		       "mac '52:54:00:12:34::' is not like 52:54:00:12:34:56");
	expect_refused("tap=a,mac=53:54:00:12:34:56",
		       "mac '53:54:00:12:34:56' is no station's address");
	expect_refused("tap=a,mac=00:00:00:00:00:00",
		       "mac '00:00:00:00:00:00' is no station's address");
	assert_int_equal(net_options_read("tap=a,queues=0",
					  &(struct net_options){ 0 }, NULL),
			 -ERANGE);
	assert_int_equal(net_options_read("tap=a,queues=65",
					  &(struct net_options){ 0 }, NULL),
			 -ERANGE);
	assert_int_equal(net_options_read("tap=a,mtu=67",
					  &(struct net_options){ 0 }, NULL),
			 -ERANGE);
}

static void test_option_is_read(void **state)
{
	const uint8_t mac[] = { 0x52, 0x54, 0, 0xab, 0xCD, 1 };
	struct net_options options;

	(void)state;
	assert_int_equal(net_options_read("tap=tap0,vhost=on,queues=64,"
					  "mac=52:54:00:ab:CD:01,mtu=9000",
					  &options, NULL),
			 0);
	assert_string_equal(options.tap, "tap0");
	assert_true(options.has_vhost);
	assert_int_equal(options.queues, 64);
	assert_int_equal(options.mtu, 9000);
	assert_memory_equal(options.mac, mac, 6);
	assert_int_equal(net_options_read("vhost-user=/run/x", &options, NULL),
			 0);
	assert_string_equal(options.vhost_user, "/run/x");
	assert_int_equal(options.queues, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_config_has_mac_link_and_pairs),
		TEST(test_mac_of_another_device_is_refused),
		TEST(test_feature_without_what_it_needs_is_refused),
		TEST(test_driver_chooses_its_pairs),
		TEST(test_pairs_that_the_back_end_refuses_are_not_counted),
		TEST(test_control_queue_without_mq_is_queue_two),
		TEST(test_address_of_the_driver_is_shown),
		TEST(test_filter_begins_open_and_follows_the_driver),
		cmocka_unit_test(test_filter_takes_what_was_asked_for),
		TEST(test_address_tables_are_taken_and_bounded),
		TEST(test_tables_that_lie_about_their_size_change_nothing),
		TEST(test_unknown_commands_are_answered_with_an_error),
		TEST(test_commands_that_were_not_negotiated_are_refused),
		TEST(test_command_without_room_for_an_answer_is_used_up),
		TEST(test_command_outside_of_ram_breaks_the_device),
		TEST(test_lesson_network_hears_of_the_move_from_the_driver),
		TEST(test_lesson_network_hears_of_the_move_without_the_driver),
		TEST(test_driver_that_does_not_answer_is_announced),
		TEST(test_guest_that_stops_is_announced_no_more_until_it_runs),
		TEST(test_control_state_moves),
		TEST(test_pairs_in_use_are_known_before_the_guest_comes),
		TEST(test_all_pairs_are_built_for_a_source_that_does_not_tell),
		TEST(test_state_with_impossible_numbers_is_refused),
		TEST(test_claim_comes_behind_a_disclaim),
		TEST(test_device_whose_back_end_cannot_stop_works_on),
		cmocka_unit_test(test_option_says_what_is_wrong_with_it),
		cmocka_unit_test(test_option_is_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
