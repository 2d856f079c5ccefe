/* SPDX-License-Identifier: Apache-2.0 */
/* Options, times and latencies of the guest programs. */
#include <cmocka.h>
#include <string.h>

#include "guest/blk.h"
#include "guest/chores.h"
#include "guest/config.h"
#include "guest/latency.h"
#include "guest/net.h"
#include "guest/pace.h"

static const char *parse_blk(struct blk_config *config, const char *cmdline)
{
	const struct option_table tables[] = { io_options, blk_options };

	blk_config_init(config);
	return options_parse(tables, 2, config, "blk", config->io.text,
			     sizeof(config->io.text), cmdline);
}

static const char *parse_net(struct net_config *config, const char *cmdline)
{
	const struct option_table tables[] = { io_options, net_options };

	net_config_init(config);
	return options_parse(tables, 2, config, "net", config->io.text,
			     sizeof(config->io.text), cmdline);
}

static void test_blk_options_reach_their_fields(void **state)
{
	struct blk_config config;

	(void)state;
	assert_null(parse_blk(
		&config, "blk,disk=1,queues=all,depth=64,size=4K+64K+512 "
			 "span=1G,pattern=seq,reads=70,flush=50,rate=10k/s,"
			 "packed=on,msix=masked,churn=50ms,"
			 "what=bars+shmem,pci=ports"));
	assert_int_equal(config.io.device, 1);
	assert_int_equal(config.io.queues, IO_ALL);
	assert_int_equal(config.io.depth, 64);
	assert_int_equal(config.io.size.count, 3);
	assert_int_equal(config.io.size.sizes[1], 65536);
	assert_int_equal(config.span, 1 << 30);
	assert_int_equal(config.pattern, BLK_SEQ);
	assert_int_equal(config.reads, 70);
	assert_int_equal(config.flush, 50);
	assert_int_equal(config.io.rate_per_s, 10000);
	assert_int_equal(config.io.is_packed, 1);
	assert_int_equal(config.io.msix, MSIX_MASKED);
	assert_int_equal(config.io.churn_us, 50000);
	assert_int_equal(config.io.churn_what,
			 1 << CHURN_BARS | 1 << CHURN_SHMEM);
	assert_int_equal(config.io.pci, PCI_BY_PORTS);
}

static void test_net_options_reach_their_fields(void **state)
{
	struct net_config config;

	(void)state;
	assert_null(parse_net(&config,
			      "mode=echo,ip=10.0.0.255,mac=02:00:0a:FF:00:01,"
			      "mergeable=off,rx-size=2K,peer=1"));
	assert_int_equal(config.mode, NET_ECHO);
	assert_int_equal(config.ip, 0x0a0000ff);
	assert_int_equal(config.mac, 0x02000aff0001);
	assert_int_equal(config.is_mergeable, 0);
	assert_int_equal(config.rx_size, 2048);
	assert_int_equal(config.peer, 1);
}

static void test_bad_option_is_named(void **state)
{
	static const char *const bad[] = {
		"size=",       "size=4K+",    "size=2M",     "what=bars+",
		"what=barsx",  "what=nosuch", "depth=0",     "depth=1025",
		"msix=maybe",  "disk=x",      "colour=red",  "churn=5",
		"queues=none", "pattern=",    "pattern=zipf"
	};
	struct blk_config config;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		char line[64] = "blk,reads=50,";
		const char *wrong;

		strcat(line, bad[i]);
		wrong = parse_blk(&config, line);
		assert_non_null(wrong);
		assert_string_equal(wrong, bad[i]);
	}
}

static void test_bad_address_is_refused(void **state)
{
	static const char *const bad[] = {
		"ip=1.2.3",  "ip=1.2.3.256",     "ip=1.2.3.4.5",
		"mac=02:00", "mac=020000000001", "mac=02:00:00:00:00:0g",
		"to=",
	};
	struct net_config config;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_non_null(parse_net(&config, bad[i]));
}

static void test_stress_takes_only_the_fill_there_is(void **state)
{
	struct config config;

	(void)state;
	assert_null(config_parse(&config, "stress,fill-pattern=random"));
	assert_int_equal(config.fill_random, 1);
	assert_non_null(config_parse(&config, "fill-pattern="));
	assert_non_null(config_parse(&config, "fill-pattern=zero"));
	assert_null(config_parse(&config, "pattern=hotcold,rate=max"));
	assert_int_equal(config.pattern, PATTERN_HOTCOLD);
	assert_non_null(config_parse(&config, "rate=0"));
}

static void test_percentile_is_at_most_an_eighth_above(void **state)
{
	struct latency latency = { .longest = 0 };

	(void)state;
	assert_int_equal(latency_at(&latency, 500), 0);
	for (uint64_t ticks = 1; ticks <= 100000; ticks++)
		latency_add(&latency, ticks);
	for (uint64_t permille = 100; permille < 1000; permille += 100) {
		uint64_t at = latency_at(&latency, permille);

		assert_true(at >= permille * 100);
		assert_true(at <= permille * 100 * 9 / 8 + 1);
	}
	assert_int_equal(latency_at(&latency, 1000), 100000);
	latency_add(&latency, UINT64_MAX);
	assert_int_equal(latency.longest, UINT64_MAX);
}

static void test_pace_catches_up_for_its_backlog_only(void **state)
{
	struct pace pace = { .step = 10 << 8, .max_backlog = 100 << 8 };
	int taken = 0;

	(void)state;
	for (uint64_t now = 0; now < 1000; now++)
		taken += pace_takes(&pace, now);
	assert_int_equal(taken, 100);
	taken = 0;
	while (pace_takes(&pace, 100000))
		taken++;
	assert_true(taken <= 12);
}

static void
test_chores_are_due_once_a_period_and_after_a_pause_once(void **state)
{
	const struct chore_periods periods = { .tick = 10, .end = 1000 };
	struct chores chores;
	int ticks = 0;

	(void)state;
	chores_start(&chores, 0, &periods);
	for (uint64_t now = 0; now < 100; now++) {
		if (now >= chores.next)
			ticks += chores_due(&chores, now) == CHORE_TICK;
	}
	assert_int_equal(ticks, 10);
	assert_int_equal(chores_due(&chores, 500), CHORE_TICK);
	assert_int_equal(chores_due(&chores, 500), 0);
	assert_int_equal(chores_due(&chores, 1000), CHORE_TICK | CHORE_END);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_blk_options_reach_their_fields),
		cmocka_unit_test(test_net_options_reach_their_fields),
		cmocka_unit_test(test_bad_option_is_named),
		cmocka_unit_test(test_bad_address_is_refused),
		cmocka_unit_test(test_stress_takes_only_the_fill_there_is),
		cmocka_unit_test(test_percentile_is_at_most_an_eighth_above),
		cmocka_unit_test(test_pace_catches_up_for_its_backlog_only),
		cmocka_unit_test(
			test_chores_are_due_once_a_period_and_after_a_pause_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
