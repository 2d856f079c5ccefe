/* SPDX-License-Identifier: Apache-2.0 */
/* Answers to ARP and ICMP: see inet.h.  RFC 826, 903, 791, 792. */
#include "guest/inet.h"

#define TYPE_IPV4 0x0800
#define TYPE_ARP  0x0806
#define TYPE_RARP 0x8035

/* Offsets in a frame. */
#define ARP_OPERATION  20
#define ARP_SENDER_MAC 22
#define ARP_SENDER_IP  28
#define ARP_TARGET_MAC 32
#define ARP_TARGET_IP  38
#define ARP_END        42
#define IP_START       14
#define IP_LENGTH      16
#define IP_FRAGMENT    20
#define IP_TTL         22
#define IP_PROTOCOL    23
#define IP_CHECKSUM    24
#define IP_SOURCE      26
#define IP_TARGET      30
#define ICMP_START     34 /* without IP options */

#define ARP_REQUEST       1
#define ARP_REPLY         2
#define RARP_REQUEST      3
#define ICMP              1
#define ICMP_ECHO_REQUEST 8

static uint16_t get16(const uint8_t *at)
{
	return (uint16_t)(at[0] << 8 | at[1]);
}

static void put16(uint8_t *at, uint16_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static uint32_t get32(const uint8_t *at)
{
	return (uint32_t)get16(at) << 16 | get16(at + 2);
}

static void put32(uint8_t *at, uint32_t value)
{
	put16(at, (uint16_t)(value >> 16));
	put16(at + 2, (uint16_t)value);
}

static uint16_t checksum(const uint8_t *at, uint32_t size)
{
	uint32_t sum = 0;

	for (uint32_t i = 0; i < size; i++)
		sum += i % 2 ? at[i] : (uint32_t)at[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

static void write_arp(uint8_t *frame, const struct inet_host *from,
		      uint16_t type, uint16_t operation)
{
	static const uint8_t ipv4_on_ethernet[] = { 0, 1, 8, 0, 6, 4 };

	for (int i = 0; i < FRAME_MIN; i++)
		frame[i] = 0;
	frame_copy(frame + 6, from->mac.bytes, 6);
	put16(frame + 12, type);
	frame_copy(frame + 14, ipv4_on_ethernet, sizeof(ipv4_on_ethernet));
	put16(frame + ARP_OPERATION, operation);
	frame_copy(frame + ARP_SENDER_MAC, from->mac.bytes, 6);
	put32(frame + ARP_SENDER_IP, from->ip);
}

static bool answer_arp(const struct inet_host *host, const uint8_t *frame,
		       uint8_t *answer)
{
	if (get16(frame + ARP_OPERATION) != ARP_REQUEST ||
	    get32(frame + ARP_TARGET_IP) != host->ip)
		return false;
	write_arp(answer, host, TYPE_ARP, ARP_REPLY);
	frame_copy(answer, frame + ARP_SENDER_MAC, 6);
	frame_copy(answer + ARP_TARGET_MAC, frame + ARP_SENDER_MAC, 10);
	return true;
}

/* Bytes of the answer, 0 for none. */
static uint32_t answer_ping(const struct inet_host *host, const uint8_t *frame,
			    uint32_t size, uint8_t *answer)
{
	uint32_t end = IP_START + get16(frame + IP_LENGTH);

	if (frame[IP_START] != 0x45 || get16(frame + IP_FRAGMENT) & 0x3fff ||
	    frame[IP_PROTOCOL] != ICMP ||
	    get32(frame + IP_TARGET) != host->ip || end > size ||
	    end < ICMP_START + 8 || frame[ICMP_START] != ICMP_ECHO_REQUEST)
		return 0;
	frame_copy(answer, frame, end);
	frame_swap_macs(answer);
	frame_copy(answer + 6, host->mac.bytes, 6);
	frame_copy(answer + IP_SOURCE, frame + IP_TARGET, 4);
	frame_copy(answer + IP_TARGET, frame + IP_SOURCE, 4);
	answer[IP_TTL] = 64;
	put16(answer + IP_CHECKSUM, 0);
	put16(answer + IP_CHECKSUM,
	      checksum(answer + IP_START, ICMP_START - IP_START));
	answer[ICMP_START] = 0; /* echo reply */
	put16(answer + ICMP_START + 2, 0);
	put16(answer + ICMP_START + 2,
	      checksum(answer + ICMP_START, end - ICMP_START));
	return end;
}

enum inet_kind inet_answer(const struct inet_host *host, const uint8_t *frame,
			   uint32_t size, uint8_t *ret_answer,
			   uint32_t *ret_size)
{
	uint32_t bytes;

	if (!host->ip || size < ARP_END)
		return INET_NONE;
	if (frame_type(frame) == TYPE_ARP &&
	    answer_arp(host, frame, ret_answer)) {
		*ret_size = FRAME_MIN;
		return INET_ARP;
	}
	if (frame_type(frame) != TYPE_IPV4)
		return INET_NONE;
	bytes = answer_ping(host, frame, size, ret_answer);
	if (!bytes)
		return INET_NONE;
	*ret_size = bytes;
	return INET_PING;
}

void inet_announce(const struct inet_host *host, uint8_t *frame)
{
	write_arp(frame, host, host->ip ? TYPE_ARP : TYPE_RARP,
		  host->ip ? ARP_REQUEST : RARP_REQUEST);
	for (int i = 0; i < 6; i++)
		frame[i] = 0xff;
	put32(frame + ARP_TARGET_IP, host->ip);
	if (!host->ip)
		frame_copy(frame + ARP_TARGET_MAC, host->mac.bytes, 6);
}
