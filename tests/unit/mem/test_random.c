// SPDX-License-Identifier: Apache-2.0
/*
 * Random trees under random changes.  After every commit:
 *
 *  - each address that could matter shows what the naive resolver of model.h
 *    says;
 *  - the view is sorted, without overlap and as merged as can be, and equals
 *    one rendered in one piece;
 *  - the calls to three listeners, replayed on a copy of the view, turned the
 *    old one into the new one, in the order of mem/listener.h.
 */
#include <cmocka.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "mem/mem_priv.h"
#include "model.h"

/* One thread: nothing for the thread sanitizer to find, slowly. */
#if defined(GRACE_IS_TRACED)
#define SMALL_TREES 500
#define LARGE_TREES 6
#elif defined(__SANITIZE_ADDRESS__)
#define SMALL_TREES 3000
#define LARGE_TREES 20
#else
#define SMALL_TREES 10000
#define LARGE_TREES 60
#endif
#define BLOCK_SIZE   0x8000
#define MIRROR_COUNT 3

static const int priorities[MIRROR_COUNT] = { -7, 0, 12 };

enum phase {
	PHASE_IDLE,
	PHASE_BEGIN,
	PHASE_DEL,
	PHASE_ADD,
	PHASE_EVENT_DEL,
	PHASE_EVENT_ADD,
	PHASE_COMMIT,
};

struct mirror_event {
	uint64_t gpa;
	struct mem_eventfd event;
};

/* One address space as its listeners know it. */
struct mirrors {
	struct model *model;
	struct addr_space *as;
	struct flat_view *old_view;
	int root;
	enum phase phase;
	int next; /* the listener whose turn it is */
	uint64_t last_gpa;
	uint64_t commits;
	bool is_replay; /* adding or removing a listener */
	struct mirror {
		struct mirrors *all;
		struct mem_listener listener;
		int index;
		struct range_list ranges; /* in no order */
		struct mirror_event *events;
		size_t event_count, event_capacity;
	} each[MIRROR_COUNT];
};

/* Phases only go forward, addresses rise within one, and the listeners take
 * turns by priority. */
static void take_turn(struct mirror *mirror, enum phase phase, uint64_t gpa)
{
	struct mirrors *all = mirror->all;
	bool is_reverse = phase == PHASE_DEL || phase == PHASE_EVENT_DEL;

	if (all->is_replay)
		return;
	if (all->next == 0) {
		if (phase == all->phase)
			assert_true(gpa >= all->last_gpa);
		else
			assert_true(phase > all->phase);
		all->phase = phase;
		all->last_gpa = gpa;
	}
	assert_int_equal(phase, all->phase);
	assert_true(gpa == all->last_gpa);
	assert_int_equal(mirror->index,
			 is_reverse ? MIRROR_COUNT - 1 - all->next : all->next);
	all->next = (all->next + 1) % MIRROR_COUNT;
}

static bool range_equal(const struct mem_range *a, const struct mem_range *b)
{
	return a->gpa == b->gpa && a->size == b->size &&
	       a->region == b->region && a->offset == b->offset &&
	       a->is_readonly == b->is_readonly;
}

static void mirror_begin(void *opaque, struct addr_space *as)
{
	struct mirror *mirror = opaque;

	assert_ptr_equal(as, mirror->all->as);
	take_turn(mirror, PHASE_BEGIN, 0);
}

static void mirror_add(void *opaque, const struct mem_section *section)
{
	struct mirror *mirror = opaque;
	const struct mem_range *range = &section->range;

	take_turn(mirror, PHASE_ADD, range->gpa);
	for (size_t i = 0; i < mirror->ranges.count; i++) {
		const struct mem_range *other = &mirror->ranges.ranges[i];

		assert_true(range->gpa + range->size <= other->gpa ||
			    other->gpa + other->size <= range->gpa);
	}
	if (!mirror->all->is_replay)
		assert_ptr_not_equal(addr_space_peek(section->as),
				     mirror->all->old_view);
	/* merging appends are not wanted here */
	if (mirror->ranges.count == mirror->ranges.capacity) {
		mirror->ranges.capacity = 2 * mirror->ranges.capacity + 16;
		mirror->ranges.ranges =
			realloc(mirror->ranges.ranges,
				mirror->ranges.capacity * sizeof(*range));
	}
	mirror->ranges.ranges[mirror->ranges.count++] = *range;
}

static void mirror_del(void *opaque, const struct mem_section *section)
{
	struct mirror *mirror = opaque;
	struct range_list *list = &mirror->ranges;
	size_t i = 0;

	take_turn(mirror, PHASE_DEL, section->range.gpa);
	if (!mirror->all->is_replay)
		assert_ptr_equal(addr_space_peek(section->as),
				 mirror->all->old_view);
	while (i < list->count &&
	       !range_equal(&list->ranges[i], &section->range))
		i++;
	assert_true(i < list->count);
	list->ranges[i] = list->ranges[--list->count];
}

static bool mirror_event_equal(const struct mirror_event *a,
			       const struct mirror_event *b)
{
	return a->gpa == b->gpa && a->event.size == b->event.size &&
	       a->event.fd == b->event.fd &&
	       a->event.has_value == b->event.has_value &&
	       (!a->event.has_value || a->event.value == b->event.value);
}

static size_t mirror_event_find(const struct mirror *mirror,
				const struct mirror_event *event)
{
	size_t i = 0;

	while (i < mirror->event_count &&
	       !mirror_event_equal(&mirror->events[i], event))
		i++;
	return i;
}

static struct mirror_event event_at(const struct mem_range *range,
				    const struct mem_eventfd *event)
{
	return (struct mirror_event){
		range->gpa + (event->offset - range->offset), *event
	};
}

static void mirror_eventfd_add(void *opaque, const struct mem_section *section,
			       const struct mem_eventfd *event)
{
	struct mirror *mirror = opaque;
	struct mirror_event at = event_at(&section->range, event);

	take_turn(mirror, PHASE_EVENT_ADD, at.gpa);
	assert_int_equal(mirror_event_find(mirror, &at), mirror->event_count);
	if (mirror->event_count == mirror->event_capacity) {
		mirror->event_capacity = 2 * mirror->event_capacity + 16;
		mirror->events = realloc(mirror->events,
					 mirror->event_capacity *
						 sizeof(*mirror->events));
	}
	mirror->events[mirror->event_count++] = at;
}

static void mirror_eventfd_del(void *opaque, const struct mem_section *section,
			       const struct mem_eventfd *event)
{
	struct mirror *mirror = opaque;
	struct mirror_event at = event_at(&section->range, event);
	size_t i = mirror_event_find(mirror, &at);

	take_turn(mirror, PHASE_EVENT_DEL, at.gpa);
	assert_true(i < mirror->event_count);
	mirror->events[i] = mirror->events[--mirror->event_count];
}

static void mirror_commit(void *opaque, struct addr_space *as,
			  const struct flat_view *view)
{
	struct mirror *mirror = opaque;

	take_turn(mirror, PHASE_COMMIT, 0);
	assert_ptr_equal(view, addr_space_peek(as));
	mirror->all->commits += mirror->index == 0 && !mirror->all->is_replay;
}

static const struct mem_listener_ops mirror_ops = {
	.begin = mirror_begin,
	.region_add = mirror_add,
	.region_del = mirror_del,
	.commit = mirror_commit,
	.eventfd_add = mirror_eventfd_add,
	.eventfd_del = mirror_eventfd_del,
};

static void mirrors_init(struct mirrors *all, struct model *model, int root)
{
	static const int order[MIRROR_COUNT] = { 1, 2, 0 };

	memset(all, 0, sizeof(*all));
	all->model = model;
	all->root = root;
	all->as = addr_space_new(model->mem, "as", model->nodes[root].region);
	all->old_view = addr_space_peek(all->as);
	all->is_replay = true;
	for (int i = 0; i < MIRROR_COUNT; i++) {
		struct mirror *mirror = &all->each[order[i]];

		mirror->all = all;
		mirror->index = order[i];
		mem_listener_add(all->as, &mirror->listener, &mirror_ops,
				 mirror, priorities[order[i]]);
	}
	all->is_replay = false;
}

static void mirrors_fini(struct mirrors *all)
{
	all->is_replay = true;
	for (int i = 0; i < MIRROR_COUNT; i++) {
		struct mirror *mirror = &all->each[i];

		mem_listener_del(&mirror->listener);
		assert_int_equal(mirror->ranges.count, 0);
		assert_int_equal(mirror->event_count, 0);
		range_list_fini(&mirror->ranges);
		free(mirror->events);
	}
	addr_space_free(all->as);
}

static void check_address(const struct mirrors *all, uint64_t gpa)
{
	struct shown want =
		model_resolve(all->model, all->root, (i128)gpa, false);
	const struct mem_range *got =
		flat_view_find(addr_space_peek(all->as), gpa);

	if (want.node < 0) {
		assert_null(got);
		return;
	}
	assert_non_null(got);
	assert_ptr_equal(got->region, all->model->nodes[want.node].region);
	assert_true(got->offset + (gpa - got->gpa) == want.offset);
	assert_int_equal(got->is_readonly, want.is_readonly);
}

static void check_addresses(const struct mirrors *all, size_t limit)
{
	struct addresses list = { 0 };
	const struct mem_range *range;

	model_boundaries(all->model, all->root, 0, &list);
	flat_view_for_each(range, addr_space_peek(all->as))
	{
		addresses_add(&list, range->gpa);
		addresses_add(&list, (i128)range->gpa - 1);
		addresses_add(&list, (i128)range->gpa + (i128)range->size - 1);
		addresses_add(&list, (i128)range->gpa + (i128)range->size);
	}
	for (int i = 0; i < 10; i++)
		addresses_add(&list, (i128)model_offset(all->model));
	for (size_t i = 0; i < list.count && i < limit; i++) {
		size_t pick = i;

		if (list.count > limit)
			pick = model_random(all->model) % list.count;
		check_address(all, list.at[pick]);
	}
	free(list.at);
}

/* An incremental rendering equals one in one piece. */
static void check_shape(const struct mirrors *all)
{
	const struct flat_view *view = addr_space_peek(all->as);
	const struct mem_range *range, *last = NULL;
	struct range_list whole = { 0 };
	size_t i = 0;

	mem_lock(all->model->mem);
	mem_render(all->model->nodes[all->root].region, 0, MEM_SIZE_2_64,
		   &whole);
	mem_unlock(all->model->mem);
	assert_int_equal(flat_view_count(view), whole.count);
	flat_view_for_each(range, view)
	{
		assert_true(range->size > 0);
		assert_true(i < whole.count);
		assert_true(range_equal(range, &whole.ranges[i++]));
		if (last) {
			u128 end = last->gpa + last->size;

			assert_true(end <= range->gpa);
			assert_false(end == range->gpa &&
				     last->region == range->region &&
				     last->is_readonly == range->is_readonly &&
				     last->offset + last->size ==
					     range->offset);
		}
		last = range;
	}
	assert_int_equal(i, whole.count);
	range_list_fini(&whole);
}

/* The eventfds that must show, by what the model wants and the view says. */
static size_t expected_events(const struct mirrors *all,
			      const struct mirror *mirror)
{
	const struct mem_range *range;
	size_t count = 0;

	flat_view_for_each(range, addr_space_peek(all->as))
	{
		const struct node *n = &all->model->nodes[node_of_region(
			all->model, range->region)];

		for (int i = 0; i < n->event_count; i++) {
			const struct mem_eventfd *e = &n->events[i];
			struct mirror_event at = event_at(range, e);

			if (e->offset < range->offset ||
			    e->offset + (u128)e->size >
				    range->offset + range->size)
				continue;
			assert_true(mirror_event_find(mirror, &at) <
				    mirror->event_count);
			count++;
		}
	}
	return count;
}

static void check_mirror(const struct mirrors *all, const struct mirror *mirror)
{
	const struct flat_view *view = addr_space_peek(all->as);

	assert_int_equal(mirror->ranges.count, flat_view_count(view));
	for (size_t i = 0; i < mirror->ranges.count; i++) {
		const struct mem_range *range = &mirror->ranges.ranges[i];
		const struct mem_range *shown =
			flat_view_find(view, range->gpa);

		assert_non_null(shown);
		assert_true(range_equal(range, shown));
	}
	assert_int_equal(expected_events(all, mirror), mirror->event_count);
}

/* After a commit. */
static void check(struct mirrors *all, size_t address_limit)
{
	bool was_called = all->phase != PHASE_IDLE;

	assert_int_equal(all->next, 0);
	if (was_called)
		assert_int_equal(all->phase, PHASE_COMMIT);
	else
		assert_ptr_equal(addr_space_peek(all->as), all->old_view);
	check_addresses(all, address_limit);
	check_shape(all);
	check_mirror(all, &all->each[0]);
	check_mirror(all, &all->each[MIRROR_COUNT - 1]);
	all->old_view = addr_space_peek(all->as);
	all->phase = PHASE_IDLE;
}

static void run_tree(struct ram_block **blocks, int size, bool is_wide,
		     int transactions, int changes, size_t address_limit,
		     uint64_t seed)
{
	struct mem *mem = blocks[0]->mem;
	struct mirrors all[2];
	struct model model;
	int second;

	model_init(&model, mem, blocks[0], blocks[1], size, is_wide, seed);
	second = size / 2 + model_below(&model, size / 2);
	mirrors_init(&all[0], &model, size - 1);
	mirrors_init(&all[1], &model, second);
	for (int t = 0; t < transactions; t++) {
		uint64_t commits = mem_commit_count(mem);
		uint64_t heard = all[0].commits + all[1].commits;
		/* the first one builds most of the tree */
		int count = t ? 1 + model_below(&model, changes) : 12 * size;

		mem_begin(mem);
		while (count--)
			model_change(&model);
		mem_commit(mem);
		assert_int_equal(mem_commit_count(mem) - commits,
				 all[0].commits + all[1].commits > heard);
		for (size_t i = 0; i < array_size(all); i++)
			check(&all[i], address_limit);
	}
	for (size_t i = 0; i < array_size(all); i++)
		mirrors_fini(&all[i]);
	model_fini(&model);
}

struct fixture {
	struct mem *mem;
	struct ram_block *blocks[2];
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->mem = mem_new();
	ram_block_new(f->mem, "a", BLOCK_SIZE, NULL, &f->blocks[0], NULL);
	ram_block_new(f->mem, "b", BLOCK_SIZE, NULL, &f->blocks[1], NULL);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	mem_synchronize(f->mem);
	ram_block_free(f->blocks[0]);
	ram_block_free(f->blocks[1]);
	mem_free(f->mem);
	free(f);
	return 0;
}

static void test_small_random_trees_show_what_the_model_says(void **state)
{
	struct fixture *f = *state;

	for (uint64_t seed = 1; seed <= SMALL_TREES; seed++)
		run_tree(f->blocks, 3 + (int)(seed % 14), false, 5, 4, SIZE_MAX,
			 seed);
}

/* Large enough for many chunks in a view. */
static void test_large_random_trees_show_what_the_model_says(void **state)
{
	struct fixture *f = *state;

	for (uint64_t seed = 1; seed <= LARGE_TREES; seed++)
		run_tree(f->blocks, 100 << seed % 6, seed % 3 != 0, 12,
			 1 << seed % 8, 300, ~seed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			test_small_random_trees_show_what_the_model_says, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			test_large_random_trees_show_what_the_model_says, setup,
			teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
