// SPDX-License-Identifier: Apache-2.0
/* The block device as its driver and its machine see it, over real files. */
#include <cmocka.h>
#include <fcntl.h>

#include "base/bitmap.h"
#include "disk_rig.h"

struct scene {
	struct disk disk;
	char folder[64], path[96], text[160];
};

static void make_image(const char *path, off_t size)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, size), 0);
	close(fd);
}

static int setup_with(void **state, const char *options)
{
	struct scene *s = calloc(1, sizeof(*s));

	snprintf(s->folder, sizeof(s->folder), "/var/tmp/godwit-disk-XXXXXX");
	if (!mkdtemp(s->folder))
		return -1;
	snprintf(s->path, sizeof(s->path), "%s/disk", s->folder);
	snprintf(s->text, sizeof(s->text), "path=%s,queues=%u%s", s->path,
		 DISK_QUEUES, options);
	make_image(s->path, DISK_SIZE);
	disk_board_init(&s->disk);
	if (disk_build(&s->disk, s->text, false))
		fail_msg("%s", err_msg(&s->disk.err));
	vdev_run(s->disk.dev);
	*state = s;
	return 0;
}

static int setup(void **state)
{
	int ret = setup_with(state, "");

	disk_set_up(&((struct scene *)*state)->disk, DISK_FEATURES);
	return ret;
}

static int setup_readonly(void **state)
{
	int ret = setup_with(state, ",readonly=on");

	disk_set_up(&((struct scene *)*state)->disk,
		    BIT(VIRTIO_BLK_F_RO) | BIT(VIRTIO_BLK_F_MQ));
	return ret;
}

static int setup_bare(void **state)
{
	return setup_with(state, ",serial=abc,discard=off");
}

static int teardown(void **state)
{
	struct scene *s = *state;

	disk_fini(&s->disk);
	unlink(s->path);
	rmdir(s->folder);
	free(s);
	return 0;
}

static void fill(struct disk *disk, uint64_t gpa, size_t size, uint8_t seed)
{
	uint8_t *at = disk_at(disk, gpa);

	for (size_t i = 0; i < size; i++)
		at[i] = (uint8_t)(seed + i * 3 + (i >> 9));
}

static uint64_t config_get(struct disk *disk, unsigned int offset,
			   unsigned int size)
{
	return board_load(&disk->toy.board,
			  disk->toy.bar + VDEV_PCI_CONFIG + offset, size);
}

static bool is_broken(struct disk *disk)
{
	uint64_t end = clock_mono_ns() + DISK_LIMIT;

	while (!(toy_status(&disk->toy) & NEEDS_RESET)) {
		if (clock_mono_ns() > end)
			return false;
		sched_yield();
	}
	return true;
}

/* ---- what the driver sees ---- */

static void test_configuration_says_what_the_disk_is(void **state)
{
	struct disk *disk = &((struct scene *)*state)->disk;

#define GET(field)                                                  \
	config_get(disk, offsetof(struct virtio_blk_config, field), \
		   sizeof(((struct virtio_blk_config *)0)->field))
	assert_int_equal(GET(capacity), DISK_SIZE / 512);
	assert_int_equal(GET(seg_max), 254);
	assert_int_equal(GET(blk_size), 512);
	assert_int_equal(GET(physical_block_exp), 3);
	assert_int_equal(GET(num_queues), DISK_QUEUES);
	assert_int_equal(GET(wce), 1);
	assert_int_equal(GET(max_discard_sectors), BLK_DISCARD_MAX);
	assert_int_equal(GET(max_discard_seg), 1);
	assert_int_equal(GET(max_write_zeroes_sectors), BLK_ZERO_MAX);
	assert_int_equal(GET(max_write_zeroes_seg), 1);
	assert_int_equal(GET(write_zeroes_may_unmap), 1);
	assert_false(vdev_has(disk->dev, VIRTIO_BLK_F_RO));
}

static void
test_blocks_written_through_one_queue_are_read_by_another(void **state)
{
	struct disk *disk = &((struct scene *)*state)->disk;

	fill(disk, DISK_DATA, 65536, 1);
	assert_int_equal(disk_do(disk, VIRTIO_BLK_T_OUT, 8, DISK_DATA, 65536),
			 VIRTIO_BLK_S_OK);
	disk_begin(disk, 1, 5, VIRTIO_BLK_T_IN, 8, DISK_DATA + 65536, 65536);
	disk_wait(disk, 1);
	assert_int_equal(*disk_status(disk, 1, 5), VIRTIO_BLK_S_OK);
	assert_memory_equal(disk_at(disk, DISK_DATA + 65536),
			    disk_at(disk, DISK_DATA), 65536);
}

static void test_each_type_of_request_is_answered(void **state)
{
	struct disk *disk = &((struct scene *)*state)->disk;
	static const char id[VIRTIO_BLK_ID_BYTES] = "godwit-disk0";
	uint8_t *data = disk_at(disk, DISK_DATA);
	struct disk_counts counts;

	fill(disk, DISK_DATA, 8192, 9);
	assert_int_equal(disk_do(disk, VIRTIO_BLK_T_OUT, 0, DISK_DATA, 8192),
			 VIRTIO_BLK_S_OK);
	assert_int_equal(disk_do(disk, VIRTIO_BLK_T_FLUSH, 0, 0, 0),
			 VIRTIO_BLK_S_OK);
	assert_int_equal(disk_range(disk, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 0),
			 VIRTIO_BLK_S_OK);
	assert_int_equal(disk_range(disk, VIRTIO_BLK_T_DISCARD, 8, 8, 0),
			 VIRTIO_BLK_S_OK);
	assert_int_equal(disk_do(disk, VIRTIO_BLK_T_IN, 0, DISK_DATA, 8192),
			 VIRTIO_BLK_S_OK);
	for (unsigned int i = 0; i < 8192; i++)
		assert_int_equal(data[i], 0);
	memset(data, 0xee, 64);
	assert_int_equal(disk_do(disk, VIRTIO_BLK_T_GET_ID, 0, DISK_DATA, 20),
			 VIRTIO_BLK_S_OK);
	assert_memory_equal(data, id, sizeof(id));
	assert_int_equal(data[20], 0xee);
	assert_int_equal(disk_do(disk, VIRTIO_BLK_T_GET_ID, 0, DISK_DATA, 3),
			 VIRTIO_BLK_S_OK);
	disk_counts(disk->dev, &counts);
	assert_int_equal(counts.reads, 1);
	assert_int_equal(counts.writes, 1);
	assert_int_equal(counts.flushes, 1);
	assert_int_equal(counts.others, 4);
	assert_int_equal(counts.failed + counts.refused, 0);
}

static void test_pages_that_were_read_into_are_dirty(void **state)
{
	struct disk *disk = &((struct scene *)*state)->disk;
	struct ram_block *ram = disk->toy.ram;

	assert_int_equal(vdev_pause(disk->dev, UINT64_MAX, NULL), 0);
	bitmap_clear(ram->dirty, 0, ram->pages);
	vdev_run(disk->dev);
	assert_int_equal(
		disk_do(disk, VIRTIO_BLK_T_IN, 0, DISK_DATA + 4096, 8192),
		VIRTIO_BLK_S_OK);
	assert_int_equal(vdev_pause(disk->dev, UINT64_MAX, NULL), 0);
	assert_false(bitmap_test(ram->dirty, DISK_DATA >> 12));
	assert_true(bitmap_test(ram->dirty, (DISK_DATA >> 12) + 1));
	assert_true(bitmap_test(ram->dirty, (DISK_DATA >> 12) + 2));
	assert_false(bitmap_test(ram->dirty, (DISK_DATA >> 12) + 3));
	assert_true(bitmap_test(ram->dirty, DISK_HEADERS >> 12));
	assert_true(bitmap_test(ram->dirty, toy_ring(0, 2) >> 12));
}

static void test_the_write_cache_is_switched_by_the_driver(void **state)
{
	struct disk *disk = &((struct scene *)*state)->disk;
	unsigned int at = offsetof(struct virtio_blk_config, wce);
	struct blk *blk = (struct blk *)disk->dev;

	assert_false(blk->is_durable);
	board_store(&disk->toy.board, disk->toy.bar + VDEV_PCI_CONFIG + at, 0,
		    1);
	assert_int_equal(config_get(disk, at, 1), 0);
	assert_true(blk->is_durable);
	fill(disk, DISK_DATA, 4096, 3);
	assert_int_equal(disk_do(disk, VIRTIO_BLK_T_OUT, 0, DISK_DATA, 4096),
			 VIRTIO_BLK_S_OK);
	/* Other fields are not the driver's. */
	board_store(&disk->toy.board, disk->toy.bar + VDEV_PCI_CONFIG, 1, 8);
	assert_int_equal(config_get(disk, 0, 8), DISK_SIZE / 512);
	toy_put(&disk->toy, STATUS, 0, 1);
	assert_int_equal(config_get(disk, at, 1), 1);
	/* A driver that knows of no cache gets none. */
	disk_set_up(disk, BIT(VIRTIO_BLK_F_MQ));
	assert_true(blk->is_durable);
}

/* ---- requests that make no sense ---- */

static void test_requests_outside_of_the_disk_are_errors(void **state)
{
	struct disk *disk = &((struct scene *)*state)->disk;
	static const struct {
		uint64_t sector;
		uint32_t size;
	} wrong[] = {
		{ DISK_SIZE / 512, 512 },
		{ DISK_SIZE / 512 - 1, 1024 },
		{ UINT64_MAX, 512 },
		{ UINT64_MAX / 512, 512 },
		{ 1ull << 55, 512 },
		{ 0, 100 },
		{ 0, 513 },
		{ 0, 0x70000 + 511 },
	};
	static const uint32_t types[] = { VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT };
	struct disk_counts counts;

	for (unsigned int i = 0; i < array_size(wrong); i++) {
		for (unsigned int t = 0; t < 2; t++)
			assert_int_equal(disk_do(disk, types[t],
						 wrong[i].sector, DISK_DATA,
						 wrong[i].size),
					 VIRTIO_BLK_S_IOERR);
	}
	assert_int_equal(disk_do(disk, VIRTIO_BLK_T_IN, DISK_SIZE / 512 - 1,
				 DISK_DATA, 512),
			 VIRTIO_BLK_S_OK);
	assert_int_equal(disk_do(disk, VIRTIO_BLK_T_IN, 0, 0, 0),
			 VIRTIO_BLK_S_OK);
	disk_counts(disk->dev, &counts);
	assert_int_equal(counts.refused, 2 * array_size(wrong));
}

static void test_ranges_that_make_no_sense_are_errors(void **state)
{
	struct disk *disk = &((struct scene *)*state)->disk;
	static const uint32_t types[] = { VIRTIO_BLK_T_DISCARD,
					  VIRTIO_BLK_T_WRITE_ZEROES };

	for (unsigned int t = 0; t < 2; t++) {
		assert_int_equal(disk_range(disk, types[t], 0, 0, 0),
				 VIRTIO_BLK_S_OK);
		assert_int_equal(
			disk_range(disk, types[t], DISK_SIZE / 512, 1, 0),
			VIRTIO_BLK_S_IOERR);
		assert_int_equal(disk_range(disk, types[t], UINT64_MAX, 1, 0),
				 VIRTIO_BLK_S_IOERR);
		assert_int_equal(disk_range(disk, types[t], 0, UINT32_MAX, 0),
				 VIRTIO_BLK_S_IOERR);
		assert_int_equal(disk_range(disk, types[t], 0, 1, 2),
				 VIRTIO_BLK_S_UNSUPP);
		assert_int_equal(disk_do(disk, types[t], 0, DISK_DATA, 8),
				 VIRTIO_BLK_S_IOERR);
		assert_int_equal(disk_do(disk, types[t], 0, DISK_DATA, 32),
				 VIRTIO_BLK_S_IOERR);
		assert_int_equal(disk_do(disk, types[t], 0, 0, 0),
				 VIRTIO_BLK_S_IOERR);
	}
	/* Unmapping is a write of zeroes' choice. */
	assert_int_equal(disk_range(disk, VIRTIO_BLK_T_DISCARD, 0, 1, 1),
			 VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(disk_range(disk, VIRTIO_BLK_T_WRITE_ZEROES, 0, 1, 1),
			 VIRTIO_BLK_S_OK);
}

static void test_types_that_there_are_not_are_unsupported(void **state)
{
	struct disk *disk = &((struct scene *)*state)->disk;
	static const uint32_t types[] = { 2, 3, 9, 14, 0x80000000, UINT32_MAX };

	for (unsigned int i = 0; i < array_size(types); i++)
		assert_int_equal(disk_do(disk, types[i], 0, DISK_DATA, 512),
				 VIRTIO_BLK_S_UNSUPP);
}

static void test_what_was_not_negotiated_is_unsupported(void **state)
{
	struct disk *disk = &((struct scene *)*state)->disk;

	assert_int_equal(disk->dev->offered & BIT(VIRTIO_BLK_F_DISCARD), 0);
	disk_set_up(disk, BIT(VIRTIO_BLK_F_MQ));
	assert_int_equal(disk_range(disk, VIRTIO_BLK_T_DISCARD, 0, 8, 0),
			 VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(disk_range(disk, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 0),
			 VIRTIO_BLK_S_UNSUPP);
}

static void test_nothing_writes_to_a_readonly_disk(void **state)
{
	struct disk *disk = &((struct scene *)*state)->disk;

	assert_int_equal(disk_do(disk, VIRTIO_BLK_T_IN, 0, DISK_DATA, 512),
			 VIRTIO_BLK_S_OK);
	assert_int_equal(disk_do(disk, VIRTIO_BLK_T_OUT, 0, DISK_DATA, 512),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(disk_range(disk, VIRTIO_BLK_T_DISCARD, 0, 8, 0),
			 VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(disk_do(disk, VIRTIO_BLK_T_FLUSH, 0, 0, 0),
			 VIRTIO_BLK_S_OK);
}

static void reset_and_read(struct disk *disk)
{
	toy_put(&disk->toy, STATUS, 0, 1);
	assert_int_equal(toy_status(&disk->toy), 0);
	disk_set_up(disk, DISK_FEATURES);
	assert_int_equal(disk_do(disk, VIRTIO_BLK_T_IN, 0, DISK_DATA, 512),
			 VIRTIO_BLK_S_OK);
}

static void test_requests_that_cannot_be_answered_break_the_device(void **state)
{
	struct disk *disk = &((struct scene *)*state)->disk;
	uint64_t header = disk_header(0, 0);
	const struct disk_part no_status[] = { { header, 16, false },
					       { DISK_DATA, 512, false } };
	const struct disk_part half_header[] = { { header, 15, false },
						 { header + 32, 1, true } };
	const struct disk_part no_header[] = { { DISK_DATA, 512, true } };
	const struct disk_part huge[] = { { header, 16, false },
					  { 0x1000, UINT32_MAX, true } };

	disk_add(disk, 0, 0, no_status, 2);
	assert_true(is_broken(disk));
	/* It rests, and so does the other queue. */
	disk_begin(disk, 1, 0, VIRTIO_BLK_T_IN, 0, DISK_DATA, 512);
	reset_and_read(disk);
	disk_add(disk, 0, 0, half_header, 2);
	assert_true(is_broken(disk));
	reset_and_read(disk);
	disk_add(disk, 0, 0, no_header, 1);
	assert_true(is_broken(disk));
	reset_and_read(disk);
	disk_add(disk, 0, 0, huge, 2);
	assert_true(is_broken(disk));
	reset_and_read(disk);
}

/* ---- starting and stopping ---- */

static void begin_many(struct disk *disk, uint32_t type, unsigned int round)
{
	for (unsigned int queue = 0; queue < DISK_QUEUES; queue++) {
		for (unsigned int i = 0; i < DISK_SLOTS; i++) {
			unsigned int at = queue * DISK_SLOTS + i;
			uint64_t gpa = DISK_DATA + at * 2048u;

			if (type == VIRTIO_BLK_T_OUT)
				fill(disk, gpa, 2048, (uint8_t)(round + at));
			disk_begin(disk, queue, i, type, at * 4u, gpa, 2048);
		}
	}
}

static void wait_many(struct disk *disk)
{
	for (unsigned int queue = 0; queue < DISK_QUEUES; queue++) {
		disk_wait(disk, queue);
		for (unsigned int i = 0; i < DISK_SLOTS; i++)
			assert_int_equal(*disk_status(disk, queue, i),
					 VIRTIO_BLK_S_OK);
	}
}

/* What begin_many() wrote in @round. */
static void assert_read(struct disk *disk, unsigned int round)
{
	for (unsigned int at = 0; at < DISK_QUEUES * DISK_SLOTS; at++) {
		const uint8_t *data = disk_at(disk, DISK_DATA + at * 2048u);

		assert_int_equal(data[0], (uint8_t)(round + at));
		assert_int_equal(data[2047],
				 (uint8_t)(round + at + 2047 * 3 + 3));
	}
}

/* Requests that were not taken are taken after the pause. */
static void test_no_request_is_lost_or_done_twice_over_pauses(void **state)
{
	struct disk *disk = &((struct scene *)*state)->disk;
	struct disk_counts counts;

	for (unsigned int round = 0; round < 20; round++) {
		begin_many(disk, VIRTIO_BLK_T_OUT, round);
		vdev_pause_begin(disk->dev);
		assert_int_equal(vdev_pause(disk->dev, UINT64_MAX, NULL), 0);
		for (unsigned int i = 0; i < DISK_QUEUES; i++)
			assert_int_equal(disk->dev->queues[i].next_avail,
					 disk->dev->queues[i].next_used);
		vdev_run(disk->dev);
		wait_many(disk);
		memset(disk_at(disk, DISK_DATA), 0,
		       DISK_QUEUES * DISK_SLOTS * 2048);
		begin_many(disk, VIRTIO_BLK_T_IN, round);
		wait_many(disk);
		assert_read(disk, round);
	}
	disk_counts(disk->dev, &counts);
	assert_int_equal(counts.writes, 20 * DISK_QUEUES * DISK_SLOTS);
	assert_int_equal(counts.reads, counts.writes);
}

static void test_nothing_is_written_after_a_pause(void **state)
{
	struct disk *disk = &((struct scene *)*state)->disk;
	struct ram_block *ram = disk->toy.ram;
	uint8_t *copy = malloc(ram->size);

	for (unsigned int round = 0; round < 10; round++) {
		begin_many(disk, VIRTIO_BLK_T_IN, round);
		vdev_pause_begin(disk->dev);
		assert_int_equal(vdev_pause(disk->dev, UINT64_MAX, NULL), 0);
		bitmap_clear(ram->dirty, 0, ram->pages);
		memcpy(copy, ram->host, ram->size);
		/* The next round's would be, should any be late. */
		memset(disk_at(disk, DISK_DATA), (int)round, 65536);
		memset(copy + DISK_DATA, (int)round, 65536);
		assert_memory_equal(copy, ram->host, ram->size);
		for (uint64_t page = 0; page < ram->pages; page++)
			assert_false(bitmap_test(ram->dirty, page));
		vdev_run(disk->dev);
		wait_many(disk);
	}
	free(copy);
}

static void test_a_reset_waits_for_requests_in_flight(void **state)
{
	struct disk *disk = &((struct scene *)*state)->disk;

	for (unsigned int round = 0; round < 10; round++) {
		uint64_t end = clock_mono_ns() + DISK_LIMIT;
		uint8_t *data = disk_at(disk, DISK_DATA);

		begin_many(disk, VIRTIO_BLK_T_IN, round);
		toy_put(&disk->toy, STATUS, 0, 1);
		while (toy_status(&disk->toy) != 0)
			assert_true(clock_mono_ns() < end);
		/* Its memory is the driver's again. */
		memset(data, 0x5a, 65536);
		disk_set_up(disk, DISK_FEATURES);
		assert_int_equal(disk_do(disk, VIRTIO_BLK_T_FLUSH, 0, 0, 0),
				 VIRTIO_BLK_S_OK);
		for (unsigned int i = 0; i < 65536; i++)
			assert_int_equal(data[i], 0x5a);
	}
}

/* As a driver does it: until nothing is pending, and the configuration again. */
static void function_level_reset(struct disk *disk)
{
	struct board *board = &disk->toy.board;
	unsigned int at = board_capability(board, TOY_SLOT, PCI_CAP_ID_EXP);
	uint64_t end = clock_mono_ns() + DISK_LIMIT;

	board_config_set(board, TOY_SLOT, at + PCI_EXP_DEVCTL,
			 PCI_EXP_DEVCTL_BCR_FLR, 2);
	while (board_config(board, TOY_SLOT, at + PCI_EXP_DEVSTA, 2) &
	       PCI_EXP_DEVSTA_TRPND)
		assert_true(clock_mono_ns() < end);
	board_config_set(board, TOY_SLOT, PCI_BASE_ADDRESS_4,
			 (uint32_t)disk->toy.bar, 4);
	board_config_set(board, TOY_SLOT, PCI_BASE_ADDRESS_5,
			 (uint32_t)(disk->toy.bar >> 32), 4);
	board_config_set(board, TOY_SLOT, PCI_COMMAND,
			 PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
	assert_int_equal(toy_status(&disk->toy), 0);
}

static bool is_any_done(struct disk *disk)
{
	const struct vring_used *used = disk_at(disk, toy_ring(0, 2));

	return __atomic_load_n(&used->idx, __ATOMIC_ACQUIRE) > 0;
}

static void
test_function_level_reset_under_load_loses_nothing_and_writes_nothing(
	void **state)
{
	struct disk *disk = &((struct scene *)*state)->disk;
	uint8_t *data = disk_at(disk, DISK_DATA);
	size_t size = DISK_QUEUES * DISK_SLOTS * 2048;

	for (unsigned int round = 0; round < 20; round++) {
		uint64_t end = clock_mono_ns() + DISK_LIMIT;

		begin_many(disk, round % 2 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT,
			   round);
		/* In the middle, or before the first one has been taken. */
		while (round % 4 > 1 && !is_any_done(disk))
			assert_true(clock_mono_ns() < end);
		function_level_reset(disk);
		/* Its memory is the driver's again. */
		memset(data, 0x5a, size);
		disk_set_up(disk, DISK_FEATURES);
		assert_int_equal(disk_do(disk, VIRTIO_BLK_T_FLUSH, 0, 0, 0),
				 VIRTIO_BLK_S_OK);
		for (size_t i = 0; i < size; i++)
			assert_int_equal(data[i], 0x5a);
		/* What it does not know to be done, it does again. */
		begin_many(disk, VIRTIO_BLK_T_OUT, round);
		wait_many(disk);
		memset(data, 0, size);
		begin_many(disk, VIRTIO_BLK_T_IN, round);
		wait_many(disk);
		assert_read(disk, round);
	}
}

/* ---- moves ---- */

/* What the disk of @text says to the state of @s. */
static int move(struct scene *s, struct disk *to, const char *text)
{
	struct disk *from = &s->disk;

	disk_board_init(to);
	if (disk_build(to, text, true))
		fail_msg("%s", err_msg(&to->err));
	assert_int_equal(vdev_pause(from->dev, UINT64_MAX, NULL), 0);
	return toy_move(&from->toy, &to->toy, &to->err);
}

static void test_a_moved_disk_goes_on_where_it_was(void **state)
{
	struct scene *s = *state;
	struct disk to;

	fill(&s->disk, DISK_DATA, 4096, 77);
	assert_int_equal(
		disk_do(&s->disk, VIRTIO_BLK_T_OUT, 0, DISK_DATA, 4096),
		VIRTIO_BLK_S_OK);
	if (move(s, &to, s->text))
		fail_msg("%s", err_msg(&to.err));
	memcpy(to.toy.ram->host, s->disk.toy.ram->host, to.toy.ram->size);
	memcpy(to.avail, s->disk.avail, sizeof(to.avail));
	memset(disk_at(&to, DISK_DATA), 0, 4096);
	s->disk.dev->type->disclaim(s->disk.dev);
	assert_int_equal(to.dev->type->claim(to.dev, &to.err), 0);
	vdev_run(to.dev);
	assert_int_equal(disk_do(&to, VIRTIO_BLK_T_IN, 0, DISK_DATA, 4096),
			 VIRTIO_BLK_S_OK);
	assert_memory_equal(disk_at(&to, DISK_DATA),
			    disk_at(&s->disk, DISK_DATA), 4096);
	disk_fini(&to);
}

static void test_the_disk_is_locked_by_the_side_that_runs(void **state)
{
	struct scene *s = *state;
	struct vdev *from = s->disk.dev;
	struct disk to, other;

	disk_board_init(&other);
	assert_int_equal(disk_build(&other, s->text, false), -EBUSY);
	assert_non_null(strstr(err_msg(&other.err), "disk0: "));
	assert_non_null(strstr(err_msg(&other.err), "another process uses it"));
	disk_fini(&other);

	assert_int_equal(move(s, &to, s->text), 0);
	assert_int_equal(to.dev->type->claim(to.dev, NULL), -EBUSY);
	from->type->disclaim(from);
	assert_int_equal(to.dev->type->claim(to.dev, NULL), 0);
	assert_int_equal(from->type->claim(from, NULL), -EBUSY);
	/* The move fails behind that: its owner has it again. */
	to.dev->type->disclaim(to.dev);
	assert_int_equal(from->type->claim(from, NULL), 0);
	disk_fini(&to);
}

static void assert_move_refused(struct scene *s, const char *text,
				const char *reason)
{
	struct disk to;

	assert_int_equal(move(s, &to, text), -EBADMSG);
	if (!strstr(err_msg(&to.err), reason))
		print_message("'%s' lacks '%s'\n", err_msg(&to.err), reason);
	assert_non_null(strstr(err_msg(&to.err), reason));
	disk_fini(&to);
}

static void test_a_move_to_another_disk_is_refused(void **state)
{
	struct scene *s = *state;
	char other[128], text[256];

	snprintf(other, sizeof(other), "%s/other", s->folder);
	make_image(other, DISK_SIZE / 2);
	snprintf(text, sizeof(text), "path=%s,queues=2", other);
	assert_move_refused(s, text, "smaller");
	make_image(other, DISK_SIZE * 2);
	assert_move_refused(s, text, "larger");
	unlink(other);
	snprintf(text, sizeof(text), "%s,serial=x", s->text);
	assert_move_refused(s, text, "serial=");
	/* A driver that uses what is lacking there is told apart before that. */
	snprintf(text, sizeof(text), "%s,readonly=on", s->text);
	assert_move_refused(s, text, "not offered");
	toy_put(&s->disk.toy, STATUS, 0, 1);
	assert_move_refused(s, text, "readonly=on");
	snprintf(text, sizeof(text), "%s,discard=off", s->text);
	assert_move_refused(s, text, "discard=off");
}

/* ---- options ---- */

static void test_options_that_make_no_sense_are_refused(void **state)
{
	static const char *const texts[][2] = {
		{ "", "path=FILE and nbd=URI" },
		{ "queues=2", "path=FILE and nbd=URI" },
		{ "path=/x,nbd=nbd://y", "path=FILE and nbd=URI" },
		{ "path=", "no value" },
		{ "path", "no value" },
		{ "path=/x,queues=0", "queues" },
		{ "path=/x,queues=65", "queues" },
		{ "path=/x,queues", "queues" },
		{ "path=/x,readonly=maybe", "maybe" },
		{ "path=/x,colour=red", "no sub-option 'colour'" },
		{ "path=/x,,", "does not exist" },
		{ "path=/x,=1", "KEY=VALUE" },
		{ "path=/x,serial=123456789012345678901", "at most 20" },
		{ "nbd=nbd://localhost,direct=on", "direct=on" },
		{ "nbd=gopher://localhost", "gopher" },
	};
	struct disk disk;

	(void)state;
	disk_board_init(&disk);
	for (unsigned int i = 0; i < array_size(texts); i++) {
		assert_true(disk_build(&disk, texts[i][0], false) < 0);
		if (!strstr(err_msg(&disk.err), texts[i][1]))
			fail_msg("'%s': '%s'", texts[i][0], err_msg(&disk.err));
		assert_int_equal(strncmp(err_msg(&disk.err), "disk0: ", 7), 0);
	}
	disk_fini(&disk);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_configuration_says_what_the_disk_is),
		TEST(test_blocks_written_through_one_queue_are_read_by_another),
		TEST(test_each_type_of_request_is_answered),
		TEST(test_pages_that_were_read_into_are_dirty),
		TEST(test_the_write_cache_is_switched_by_the_driver),
		TEST(test_requests_outside_of_the_disk_are_errors),
		TEST(test_ranges_that_make_no_sense_are_errors),
		TEST(test_types_that_there_are_not_are_unsupported),
		cmocka_unit_test_setup_teardown(
			test_what_was_not_negotiated_is_unsupported, setup_bare,
			teardown),
		cmocka_unit_test_setup_teardown(
			test_nothing_writes_to_a_readonly_disk, setup_readonly,
			teardown),
		TEST(test_requests_that_cannot_be_answered_break_the_device),
		TEST(test_no_request_is_lost_or_done_twice_over_pauses),
		TEST(test_nothing_is_written_after_a_pause),
		TEST(test_a_reset_waits_for_requests_in_flight),
		TEST(test_function_level_reset_under_load_loses_nothing_and_writes_nothing),
		TEST(test_a_moved_disk_goes_on_where_it_was),
		TEST(test_the_disk_is_locked_by_the_side_that_runs),
		TEST(test_a_move_to_another_disk_is_refused),
		cmocka_unit_test(test_options_that_make_no_sense_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
