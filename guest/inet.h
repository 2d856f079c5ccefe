/* SPDX-License-Identifier: Apache-2.0 */
/* As much of ARP and ICMP as it takes to be pinged. */
#ifndef GODWIT_GUEST_INET_H
#define GODWIT_GUEST_INET_H

#include <stdint.h>

#include "guest/frame.h"

enum inet_kind {
	INET_NONE, /* nothing to answer */
	INET_ARP,
	INET_PING
};

/* A host; IPv4 address as a number, 0 = it has none. */
struct inet_host {
	struct frame_mac mac;
	uint32_t ip;
};

/*
 * Writes the answer of @host to @frame, of @size bytes, to @ret_answer, which is
 * as long as @frame; *ret_size is how long it is.
 */
enum inet_kind inet_answer(const struct inet_host *host, const uint8_t *frame,
			   uint32_t size, uint8_t *ret_answer,
			   uint32_t *ret_size);

/*
 * Writes FRAME_MIN bytes that tell everybody where @host is: ARP when it has an
 * address, else RARP.
 */
void inet_announce(const struct inet_host *host, uint8_t *frame);

#endif
