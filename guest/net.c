/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest program `net`: sends stamped frames, receives and checks them, sends
 * again what was lost on the way, and answers ARP and ping.
 */
#include "guest/net.h"

#include <stddef.h>

#include "guest/cpu.h"
#include "guest/exit.h"
#include "guest/io.h"
#include "guest/tsc.h"

#define PAIRS_MAX   128
#define RESENDS_MAX 16 /* at a time */
#define DRAIN_US    10000

static struct net_config config;
static struct net_nic nics[IO_DEVICES_MAX];
static struct net_pair pairs[PAIRS_MAX];
static unsigned int pair_count;

static const char *net_parse(struct io *io, const char *cmdline)
{
	const struct option_table tables[] = { io_options, net_options };
	const char *wrong;

	net_config_init(&config);
	io->config = &config.io;
	wrong = options_parse(tables, 2, &config, "net", config.io.text,
			      sizeof(config.io.text), cmdline);
	for (uint64_t i = 0; !wrong && i < config.io.size.count; i++) {
		if (config.io.size.sizes[i] < FRAME_MIN ||
		    config.io.size.sizes[i] > FRAME_MAX)
			wrong = "size";
	}
	if (config.mode == NET_PING && !config.io.rate_per_s)
		config.io.rate_per_s = 1000;
	return wrong;
}

static bool expects_back(void)
{
	return config.mode == NET_LOOP || config.mode == NET_PING;
}

/* ---- setup ---- */

/* Its sender's MAC, in part, and the number of the pair. */
static uint32_t flow_name(const struct net_pair *pair)
{
	const uint8_t *mac = pair->nic->host.mac.bytes;

	return (uint32_t)mac[3] << 24 | (uint32_t)mac[4] << 16 |
	       (uint32_t)mac[5] << 8 | pair->number;
}

static void make_pair(struct io *io, struct net_nic *nic, unsigned int n)
{
	struct net_pair *pair = &pairs[pair_count++];
	uint32_t window =
		config.mode == NET_PING ? 1 : (uint32_t)config.io.depth;

	*pair = (struct net_pair){
		.nic = nic,
		.number = n,
		.rx = &nic->dev->queues[2 * n],
		.tx = &nic->dev->queues[2 * n + 1],
		.cpu = nic->dev->queues[2 * n].owner,
		.random = mix64(config.io.seed + pair_count),
	};
	net_pair_init(io, pair, &config);
	flow_init(&pair->flow, flow_name(pair),
		  io_take(io, window * sizeof(struct flow_slot)), window);
	net_pair_fill(pair);
}

static struct frame_mac mac_to(const struct net_nic *nic, unsigned int count)
{
	const struct net_nic *peer = nic;
	struct frame_mac mac;

	if (config.peer != IO_ALL && config.peer >= count)
		machine_fail("peer= is no network card", NULL);
	/* The peer sends to the others, which would be itself, too. */
	if (config.peer != IO_ALL)
		peer = &nics[config.peer] == nic ? &nics[!config.peer]
						 : &nics[config.peer];
	if (!peer->dev)
		machine_fail("peer= needs two network cards", NULL);
	for (int i = 0; i < 6; i++)
		mac.bytes[i] = config.to ? (uint8_t)(config.to >> (40 - 8 * i))
					 : peer->host.mac.bytes[i];
	return mac;
}

static void net_setup(struct io *io)
{
	for (unsigned int i = 0; i < io->device_count; i++) {
		struct net_nic *nic = &nics[i];

		nic->dev = &io->devices[i];
		net_nic_start(io, nic, &config, (unsigned int)config.io.ring);
		if (config.ip)
			nic->host.ip = (uint32_t)config.ip + i;
		nic->first = pair_count;
		if (pair_count + nic->pairs > PAIRS_MAX)
			machine_fail("too many queues", NULL);
		if (!vdev_has(nic->dev, VIRTIO_NET_F_MRG_RXBUF) &&
		    config.rx_size < 1514 + NET_HEADER)
			machine_fail("rx-size is too small", NULL);
		for (unsigned int n = 0; n < nic->pairs; n++)
			make_pair(io, nic, n);
		net_nic_ready(io, nic, &config);
		net_nic_print(nic);
	}
	for (unsigned int i = 0; i < io->device_count; i++)
		nics[i].to = mac_to(&nics[i], io->device_count);
	for (unsigned int i = 0; i < pair_count; i++)
		io_pace(io, &pairs[i].pace, pair_count);
}

/* What was on the way is lost, or not: the flows will know. */
static void net_restart(struct io *io, struct vdev *dev, unsigned int ring)
{
	struct net_nic *nic = &nics[dev->index];

	net_nic_start(io, nic, &config, ring);
	for (unsigned int n = 0; n < nic->pairs; n++)
		net_pair_fill(&pairs[nic->first + n]);
	net_nic_ready(io, nic, &config);
}

/* ---- receiving ---- */

static void count_op(struct io_cpu *cpu, uint64_t bytes)
{
	write_once(cpu->ops, cpu->ops + 1);
	write_once(cpu->bytes, cpu->bytes + bytes);
}

static void report_frame(struct net_pair *pair, const char *kind,
			 const struct frame_stamp *stamp, uint32_t size)
{
	struct line line;

	if (!net_error_begin(pair, &line, kind))
		return;
	line_hex(&line, " flow=", stamp->flow);
	line_decimal(&line, " sequence=", stamp->sequence);
	line_decimal(&line, " stated=", stamp->size);
	line_decimal(&line, " bytes=", size);
	io_error_end(&line);
}

static struct flow *find_flow(uint32_t name)
{
	for (unsigned int i = 0; i < pair_count; i++) {
		if (pairs[i].flow.name == name)
			return &pairs[i].flow;
	}
	return NULL;
}

static void hear(struct net_pair *pair, const struct frame_stamp *stamp)
{
	for (int i = 0; i < NET_HEARD_MAX; i++) {
		struct flow_heard *heard = &pair->heard[i];

		if (!heard->name)
			heard->name = stamp->flow;
		if (heard->name != stamp->flow)
			continue;
		flow_hear(heard, stamp->sequence);
		return;
	}
}

static void take_back(struct net_pair *pair, const struct frame_stamp *stamp,
		      uint32_t size)
{
	struct flow *flow = find_flow(stamp->flow);
	uint64_t ticks;

	if (!flow) {
		pair->counts.other++;
		return;
	}
	switch (flow_receive(flow, stamp->sequence, cpu_tsc(), &ticks)) {
	case FLOW_BACK:
		latency_add(&pair->cpu->latency, ticks);
		count_op(pair->cpu, size);
		break;
	case FLOW_UNKNOWN:
		report_frame(pair, "unknown-frame", stamp, size);
		break;
	case FLOW_TWICE:
	case FLOW_UNASKED:
		break;
	}
}

static void echo(struct net_pair *pair, const uint8_t *frame, uint32_t size)
{
	uint8_t *answer = net_frame(pair);

	if (!answer || size > pair->tx_size - NET_SHIFT - NET_HEADER) {
		pair->counts.dropped++;
		return;
	}
	frame_copy(answer, frame, size);
	frame_swap_macs(answer);
	net_send(pair, size);
}

static void handle_stamped(struct net_pair *pair, const uint8_t *frame,
			   uint32_t size)
{
	struct frame_stamp stamp;

	if (!frame_check(frame, size, &stamp)) {
		report_frame(pair, "corrupt", &stamp, size);
		return;
	}
	if (expects_back()) {
		take_back(pair, &stamp, size);
		return;
	}
	hear(pair, &stamp);
	count_op(pair->cpu, size);
	if (config.mode == NET_ECHO)
		echo(pair, frame, size);
}

static void handle(struct net_pair *pair, const uint8_t *frame, uint32_t size)
{
	uint8_t *answer;
	enum inet_kind kind;

	if (size < 14 ||
	    (!frame_is_to(frame, &pair->nic->host.mac) && !config.is_promisc)) {
		pair->counts.other++;
		return;
	}
	if (frame_is_stamped(frame, size)) {
		handle_stamped(pair, frame, size);
		return;
	}
	answer = net_frame(pair);
	if (!answer || size > pair->tx_size - NET_SHIFT - NET_HEADER) {
		pair->counts.dropped++;
		return;
	}
	kind = inet_answer(&pair->nic->host, frame, size, answer, &size);
	pair->counts.arps += kind == INET_ARP;
	pair->counts.pings += kind == INET_PING;
	pair->counts.other += kind == INET_NONE;
	if (kind != INET_NONE)
		net_send(pair, size);
}

/* ---- sending ---- */

static void send_stamped(struct net_pair *pair, const struct frame_stamp *stamp)
{
	uint8_t *frame = net_frame(pair);

	frame_write(frame, &pair->nic->to, &pair->nic->host.mac, stamp);
	net_send(pair, stamp->size);
}

static uint32_t next_size(struct net_pair *pair)
{
	const struct size_mix *mix = &config.io.size;

	pair->random += 0x9e3779b97f4a7c15;
	return (uint32_t)mix->sizes[mul_high(mix64(pair->random), mix->count)];
}

static void send_new(struct net_pair *pair, uint64_t now)
{
	uint64_t elapsed = now - pair->cpu->io->start;
	struct frame_stamp stamp;

	while (net_frame(pair)) {
		if (expects_back() && !flow_may_send(&pair->flow))
			break;
		if (!pace_takes(&pair->pace, elapsed))
			break;
		flow_send(&pair->flow, cpu_tsc(), next_size(pair), &stamp);
		send_stamped(pair, &stamp);
		if (expects_back())
			continue;
		pair->flow.base = pair->flow.next;
		count_op(pair->cpu, stamp.size);
	}
}

static void send_again(struct net_pair *pair, uint64_t now)
{
	const struct io *io = pair->cpu->io;
	uint64_t limit = tsc_of_us(io->tsc_khz, config.resend_us);
	uint64_t lost = tsc_of_us(io->tsc_khz, config.io.timeout_us);
	struct frame_stamp stamp = { 0 };

	for (int i = 0; i < RESENDS_MAX && net_frame(pair); i++) {
		if (!flow_next_late(&pair->flow, now, limit, &stamp))
			break;
		send_stamped(pair, &stamp);
	}
	while (flow_give_up(&pair->flow, now, lost, &stamp.sequence)) {
		stamp.flow = pair->flow.name;
		report_frame(pair, "lost", &stamp, 0);
	}
}

static void send_announcement(struct net_pair *pair)
{
	uint8_t *frame = net_frame(pair);

	if (!frame)
		return;
	inet_announce(&pair->nic->host, frame);
	net_send(pair, FRAME_MIN);
	pair->counts.announced++;
	pair->announces++;
}

static void work_pair(struct net_pair *pair, uint64_t now, bool may_start)
{
	struct vdev *dev = pair->nic->dev;
	bool sends = config.mode == NET_SOURCE || expects_back();

	if (pair->rx->is_broken || pair->tx->is_broken)
		return;
	net_reap(pair, now);
	if (may_start)
		net_receive(pair, now, handle);
	if (pair->rx->is_broken || pair->tx->is_broken)
		return;
	if (may_start && pair->number == 0 &&
	    pair->announces != load_acquire(pair->nic->announces))
		send_announcement(pair);
	if (may_start && expects_back())
		send_again(pair, now);
	if (may_start && sends && !pair->is_checking)
		send_new(pair, now);
	io_flush(dev, pair->tx);
	io_flush(dev, pair->rx);
}

static void net_work(struct io_cpu *cpu, uint64_t now, bool may_start)
{
	for (unsigned int i = 0; i < pair_count; i++) {
		if (pairs[i].cpu == cpu)
			work_pair(&pairs[i], now, may_start);
	}
}

/*
 * Receive buffers stay out, and the flows know what is on the way.  What cannot be
 * sent, because its receiver has stopped, too, is not waited for.
 */
static bool net_is_idle(const struct io_cpu *cpu, uint64_t ticks)
{
	if (ticks >= tsc_of_us(cpu->io->tsc_khz, DRAIN_US))
		return true;
	for (unsigned int i = 0; i < pair_count; i++) {
		if (pairs[i].cpu == cpu &&
		    pairs[i].tx_idle_count != pairs[i].tx_count)
			return false;
	}
	return true;
}

/* All that was sent comes back, or is given up after a while. */
static void net_check(struct io_cpu *cpu)
{
	for (unsigned int i = 0; i < pair_count; i++) {
		if (pairs[i].cpu == cpu)
			pairs[i].is_checking = true;
	}
}

static bool net_is_checked(const struct io_cpu *cpu)
{
	for (unsigned int i = 0; i < pair_count; i++) {
		if (pairs[i].cpu == cpu && expects_back() &&
		    flow_pending(&pairs[i].flow))
			return false;
	}
	if (!net_is_idle(cpu, 0))
		return false;
	for (unsigned int i = 0; i < pair_count; i++) {
		if (pairs[i].cpu == cpu)
			pairs[i].is_checking = read_once(cpu->io->is_finishing);
	}
	return true;
}

static void net_look(struct io *io, struct vdev *dev)
{
	net_nic_look(io, &nics[dev->index]);
}

/* ---- report ---- */

static void print_flows(struct line *line)
{
	struct flow sum = { 0 };

	for (unsigned int i = 0; i < pair_count; i++) {
		const struct flow *flow = &pairs[i].flow;

		sum.sent += read_once(flow->sent);
		sum.resent += read_once(flow->resent);
		sum.lost += read_once(flow->lost);
		sum.back += read_once(flow->back);
		sum.twice += read_once(flow->twice);
		sum.unasked += read_once(flow->unasked);
		sum.reordered += read_once(flow->reordered);
	}
	line_decimal(line, " flow_sent=", sum.sent);
	line_decimal(line, " back=", sum.back);
	line_decimal(line, " resent=", sum.resent);
	line_decimal(line, " lost=", sum.lost);
	line_decimal(line, " twice=", sum.twice);
	line_decimal(line, " unasked=", sum.unasked);
	line_decimal(line, " reordered=", sum.reordered);
}

static void print_heard(struct line *line)
{
	struct flow_heard sum = { 0 };

	for (unsigned int i = 0; i < pair_count; i++) {
		for (int n = 0; n < NET_HEARD_MAX; n++) {
			const struct flow_heard *heard = &pairs[i].heard[n];

			sum.received += read_once(heard->received);
			sum.missing += read_once(heard->missing);
			sum.late += read_once(heard->late);
		}
	}
	line_decimal(line, " heard=", sum.received);
	line_decimal(line, " missing=", sum.missing);
	line_decimal(line, " late=", sum.late);
}

static void net_report(const struct io *io, struct line *line)
{
	struct net_counts sum = { 0 };

	(void)io;
	for (unsigned int i = 0; i < pair_count; i++) {
		const struct net_counts *counts = &pairs[i].counts;

		sum.sent += read_once(counts->sent);
		sum.received += read_once(counts->received);
		sum.other += read_once(counts->other);
		sum.dropped += read_once(counts->dropped);
		sum.arps += read_once(counts->arps);
		sum.pings += read_once(counts->pings);
		sum.merged += read_once(counts->merged);
		sum.announced += read_once(counts->announced);
	}
	line_decimal(line, " sent=", sum.sent);
	line_decimal(line, " received=", sum.received);
	print_flows(line);
	print_heard(line);
	line_decimal(line, " merged=", sum.merged);
	line_decimal(line, " other=", sum.other);
	line_decimal(line, " dropped=", sum.dropped);
	line_decimal(line, " arps=", sum.arps);
	line_decimal(line, " pings=", sum.pings);
	line_decimal(line, " announced=", sum.announced);
}

const struct io_program io_program = {
	.name = "net",
	.device_type = 1,
	.parse = net_parse,
	.setup = net_setup,
	.work = net_work,
	.is_idle = net_is_idle,
	.check = net_check,
	.is_checked = net_is_checked,
	.restart = net_restart,
	.look = net_look,
	.report = net_report,
};
