/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ethernet frames that carry a stamp, so that whoever receives one can tell which
 * it is and that all of it arrived.
 *
 *	  0	destination, source, type 0x88b5 (local experiments)
 *	 14	magic number (2 bytes)
 *	 16	struct frame_stamp
 *	 48	a row of words that starts at the stamp's key, to the end
 */
#ifndef GODWIT_GUEST_FRAME_H
#define GODWIT_GUEST_FRAME_H

#include <stdbool.h>
#include <stdint.h>

#define FRAME_TYPE 0x88b5
#define FRAME_MIN  60 /* without its checksum; padding is ours */
#define FRAME_MAX  16384

struct frame_mac {
	uint8_t bytes[6];
};

struct frame_stamp {
	uint64_t sequence;
	uint32_t flow; /* the sender's name for itself */
	uint32_t size; /* of the frame */
	uint64_t key;  /* follows from these three */
	uint64_t unused;
};

/* Writes a frame of @stamp->size bytes, which are at least FRAME_MIN. */
void frame_write(uint8_t *frame, const struct frame_mac *to,
		 const struct frame_mac *from, const struct frame_stamp *stamp);

/* Whether it is one of these at all. */
bool frame_is_stamped(const uint8_t *frame, uint32_t size);

/*
 * Whether a stamped frame of @size bytes is whole; @ret_stamp is set in any case.
 * More bytes than were sent are padding and are allowed.
 */
bool frame_check(const uint8_t *frame, uint32_t size,
		 struct frame_stamp *ret_stamp);

uint16_t frame_type(const uint8_t *frame);
bool frame_is_to(const uint8_t *frame, const struct frame_mac *mac);
void frame_swap_macs(uint8_t *frame);
void frame_copy(uint8_t *to, const uint8_t *from, uint32_t size);

#endif
