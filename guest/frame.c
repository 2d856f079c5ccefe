/* SPDX-License-Identifier: Apache-2.0 */
/* Stamped frames: see frame.h. */
#include "guest/frame.h"

#include "guest/cpu.h"

#define STEP     0x9e3779b97f4a7c15
#define MAGIC    0x6477
#define AT_TYPE  12
#define AT_MAGIC 14
#define AT_STAMP 16
#define AT_ROW   (AT_STAMP + sizeof(struct frame_stamp))

static uint64_t key_of(const struct frame_stamp *stamp)
{
	return mix64(stamp->sequence * STEP ^
		     ((uint64_t)stamp->flow << 32 | stamp->size));
}

uint16_t frame_type(const uint8_t *frame)
{
	return (uint16_t)(frame[AT_TYPE] << 8 | frame[AT_TYPE + 1]);
}

void frame_copy(uint8_t *to, const uint8_t *from, uint32_t size)
{
	for (uint32_t i = 0; i < size; i++)
		to[i] = from[i];
}

bool frame_is_to(const uint8_t *frame, const struct frame_mac *mac)
{
	bool is_same = true;

	for (int i = 0; i < 6; i++)
		is_same = is_same && frame[i] == mac->bytes[i];
	return is_same || frame[0] & 1;
}

void frame_swap_macs(uint8_t *frame)
{
	for (int i = 0; i < 6; i++) {
		uint8_t byte = frame[i];

		frame[i] = frame[6 + i];
		frame[6 + i] = byte;
	}
}

void frame_write(uint8_t *frame, const struct frame_mac *to,
		 const struct frame_mac *from, const struct frame_stamp *stamp)
{
	struct frame_stamp *own = (struct frame_stamp *)(frame + AT_STAMP);
	uint64_t word = key_of(stamp);
	uint32_t at = AT_ROW;

	frame_copy(frame, to->bytes, 6);
	frame_copy(frame + 6, from->bytes, 6);
	frame[AT_TYPE] = FRAME_TYPE >> 8;
	frame[AT_TYPE + 1] = FRAME_TYPE & 0xff;
	frame[AT_MAGIC] = MAGIC & 0xff;
	frame[AT_MAGIC + 1] = MAGIC >> 8;
	*own = *stamp;
	own->key = word;
	own->unused = 0;
	for (; at + sizeof(word) <= stamp->size; at += sizeof(word))
		*(uint64_t *)(frame + at) = word += STEP;
	for (word += STEP; at < stamp->size; at++, word >>= 8)
		frame[at] = (uint8_t)word;
}

bool frame_is_stamped(const uint8_t *frame, uint32_t size)
{
	return size >= FRAME_MIN && frame_type(frame) == FRAME_TYPE &&
	       frame[AT_MAGIC] == (MAGIC & 0xff) &&
	       frame[AT_MAGIC + 1] == MAGIC >> 8;
}

bool frame_check(const uint8_t *frame, uint32_t size,
		 struct frame_stamp *ret_stamp)
{
	const struct frame_stamp *stamp =
		(const struct frame_stamp *)(frame + AT_STAMP);
	uint64_t word = key_of(stamp), wrong = word ^ stamp->key;
	uint32_t at = AT_ROW;

	*ret_stamp = *stamp;
	if (stamp->size < FRAME_MIN || stamp->size > size || wrong)
		return false;
	wrong = stamp->unused;
	for (; at + sizeof(word) <= stamp->size; at += sizeof(word))
		wrong |= *(const uint64_t *)(frame + at) ^ (word += STEP);
	for (word += STEP; at < stamp->size; at++, word >>= 8)
		wrong |= frame[at] ^ (uint8_t)word;
	return !wrong;
}
