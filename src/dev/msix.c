// SPDX-License-Identifier: Apache-2.0
/*
 * A vector is bound while MSI-X is on and neither the function nor the vector is
 * masked; update() makes that so after each change, in one group of routes.
 *
 * Nothing here is undone by a stop: what a back end wrote while its vector was
 * bound is with the interrupt controllers already, and what it wrote otherwise is
 * in the eventfd, from where save() copies it.
 */
#include "dev/msix.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "accel/accel.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/event.h"
#include "base/lock.h"
#include "base/trace.h"
#include "mem/region.h"
#include "state/state.h"

#define ENTRY_SIZE   16u
#define ENTRY_WORDS  4u
#define REGION_MIN   4096u
#define PENDING_BITS 64u

/* Words of an entry. */
enum {
	ADDRESS_LOW,
	ADDRESS_HIGH,
	DATA,
	CONTROL,
};

#define ADDRESS_LOW_MASK 0xfffffffcu
#define CONTROL_MASKED   1u

struct vector {
	int fd; /* owned eventfd */
	bool has_route;
	unsigned int gsi;
	bool is_bound; /* protected by lock */
};

/* The table as it travels ahead, of a guest that runs. */
struct msix_ahead {
	struct msix *msix; /* borrowed; not saved */
	uint32_t table_used;
	uint32_t table[MSIX_VECTORS_MAX * ENTRY_WORDS];
};

struct msix {
	/* immutable after init */
	struct accel *accel; /* borrowed */
	bool can_deliver;    /* @accel has such interrupts */
	unsigned int count;
	struct vector *vectors;    /* owned */
	struct mem_region *region; /* owned reference */
	uint32_t region_size, pba;
	struct event_writer
		*writer; /* borrowed; NULL: msix_share() was not called */
	struct state_entry state, setup_state;

	struct lock lock; /* LOCK_DEVICE */
	/* protected by lock */
	bool is_enabled, is_masked;
	uint32_t table_used, pending_used; /* as saved; else constant */
	uint32_t table[MSIX_VECTORS_MAX * ENTRY_WORDS];
	uint64_t pending[MSIX_VECTORS_MAX / PENDING_BITS]; /* saved, loaded */

	struct msix_ahead ahead; /* the migration thread's */
};

static uint32_t *entry_of(struct msix *msix, unsigned int vector)
{
	return &msix->table[vector * ENTRY_WORDS];
}

static bool is_deliverable(struct msix *msix, unsigned int vector)
{
	return msix->can_deliver && msix->is_enabled && !msix->is_masked &&
	       !(entry_of(msix, vector)[CONTROL] & CONTROL_MASKED);
}

/* With the lock, inside a group of routes. */
static void update_vector(struct msix *msix, unsigned int number,
			  struct err *err)
{
	const struct accel_ops *ops = msix->accel->ops;
	struct vector *vector = &msix->vectors[number];
	const uint32_t *entry = entry_of(msix, number);
	const struct accel_msi msi = {
		.address = (uint64_t)entry[ADDRESS_HIGH] << 32 |
			   entry[ADDRESS_LOW],
		.data = entry[DATA],
	};
	bool is_bound = is_deliverable(msix, number);

	if (is_bound)
		ops->route_set(msix->accel, vector->gsi, &msi);
	if (is_bound == vector->is_bound)
		return;
	ops->irqfd_set(msix->accel, vector->gsi, vector->fd, is_bound, err);
	vector->is_bound = is_bound;
}

/* With the lock: vectors [first, end) changed.  A guest's write has nobody to
 * tell of a failure; a load has. */
static int update(struct msix *msix, unsigned int first, unsigned int end,
		  struct err *err)
{
	const struct accel_ops *ops = msix->accel->ops;
	struct err own = ERR_INIT;

	if (!msix->can_deliver)
		return 0;
	ops->routes_begin(msix->accel);
	for (unsigned int i = first; i < end; i++)
		update_vector(msix, i, &own);
	ops->routes_commit(msix->accel, &own);
	if (!own.code)
		return 0;
	trace(msix_failed, "%s: %s", msix->state.name, err_msg(&own));
	return err_set(err, own.code, "%s", err_msg(&own));
}

/* ---- pending bits ---- */

/* With the lock.  Those of vectors [64 * word, 64 * word + 64). */
static uint64_t pending_word(struct msix *msix, unsigned int word)
{
	struct pollfd polls[PENDING_BITS];
	unsigned int first = word * PENDING_BITS, count = 0;
	uint64_t bits = 0;

	for (unsigned int i = first; i < msix->count && count < PENDING_BITS;
	     i++, count++)
		polls[count] = (struct pollfd){
			/* What is bound is not pending; poll() skips it. */
			.fd = msix->vectors[i].is_bound ? -1
							: msix->vectors[i].fd,
			.events = POLLIN,
		};
	if (count == 0 || poll(polls, count, 0) <= 0)
		return 0;
	for (unsigned int i = 0; i < count; i++)
		bits |= (uint64_t)((polls[i].revents & POLLIN) != 0) << i;
	return bits;
}

static void drain(struct msix *msix)
{
	for (unsigned int i = 0; i < msix->count; i++)
		event_take(msix->vectors[i].fd);
}

/* ---- registers ---- */

static uint64_t io_read(void *dev, uint64_t offset, unsigned int size)
{
	struct msix *msix = dev;
	uint64_t value = 0;

	lock_acquire(&msix->lock);
	if (offset < msix->count * ENTRY_SIZE)
		value = msix->table[offset / 4] >> offset % 4 * 8;
	else if (offset >= msix->pba && offset < msix->region_size)
		value = pending_word(msix,
				     (unsigned int)(offset - msix->pba) / 8) >>
			(offset - msix->pba) % 8 * 8;
	lock_release(&msix->lock);
	(void)size; /* whoever asked takes the low bytes */
	return value;
}

/* Only whole words count: the specification allows no others. */
static void io_write(void *dev, uint64_t offset, uint64_t value,
		     unsigned int size)
{
	struct msix *msix = dev;
	unsigned int vector = (unsigned int)(offset / ENTRY_SIZE);
	uint32_t *word;

	if (offset >= msix->count * ENTRY_SIZE || size != 4)
		return;
	lock_acquire(&msix->lock);
	word = &msix->table[offset / 4];
	switch (offset / 4 % ENTRY_WORDS) {
	case ADDRESS_LOW:
		*word = (uint32_t)value & ADDRESS_LOW_MASK;
		break;
	case CONTROL:
		*word = (uint32_t)value & CONTROL_MASKED;
		break;
	default:
		*word = (uint32_t)value;
	}
	update(msix, vector, vector + 1, NULL);
	lock_release(&msix->lock);
}

static const struct mem_io_ops io_ops = {
	.read = io_read,
	.write = io_write,
	.max_access = 4,
};

void msix_set_control(struct msix *msix, bool is_enabled, bool is_masked)
{
	lock_acquire(&msix->lock);
	if (msix->is_enabled != is_enabled || msix->is_masked != is_masked) {
		msix->is_enabled = is_enabled;
		msix->is_masked = is_masked;
		update(msix, 0, msix->count, NULL);
	}
	lock_release(&msix->lock);
}

/* With the lock, or before anyone else has it. */
static void clear_table(struct msix *msix)
{
	memset(msix->table, 0, msix->count * ENTRY_SIZE);
	for (unsigned int i = 0; i < msix->count; i++)
		entry_of(msix, i)[CONTROL] = CONTROL_MASKED;
}

void msix_reset(struct msix *msix)
{
	lock_acquire(&msix->lock);
	msix->is_enabled = msix->is_masked = false;
	clear_table(msix);
	update(msix, 0, msix->count, NULL);
	drain(msix);
	lock_release(&msix->lock);
}

void msix_notify(struct msix *msix, unsigned int vector)
{
	if (vector < msix->count)
		event_write(msix->writer, msix->vectors[vector].fd);
}

/* ---- state ---- */

static const struct state_field fields[] = {
	STATE_VARRAY(struct msix, table, STATE_U32, table_used),
	STATE_VARRAY(struct msix, pending, STATE_U64, pending_used),
};

static uint32_t pending_words(const struct msix *msix)
{
	return (msix->count + PENDING_BITS - 1) / PENDING_BITS;
}

static int save(void *obj, struct err *err)
{
	struct msix *msix = obj;

	(void)err;
	lock_acquire(&msix->lock);
	for (unsigned int i = 0; i < pending_words(msix); i++)
		msix->pending[i] = pending_word(msix, i);
	lock_release(&msix->lock);
	return 0;
}

static int wrong_size(const struct msix *msix, struct err *err)
{
	return err_set(err, -EBADMSG,
		       "%u words of table, %u of pending bits; this function "
		       "has %u vectors",
		       msix->table_used, msix->pending_used, msix->count);
}

static int load_table(struct msix *msix, struct err *err)
{
	if (msix->table_used != msix->count * ENTRY_WORDS)
		return wrong_size(msix, err);
	for (unsigned int i = 0; i < msix->count; i++) {
		entry_of(msix, i)[ADDRESS_LOW] &= ADDRESS_LOW_MASK;
		entry_of(msix, i)[CONTROL] &= CONTROL_MASKED;
	}
	return 0;
}

static int load(void *obj, uint16_t version, struct err *err)
{
	struct msix *msix = obj;

	(void)version;
	if (msix->pending_used != pending_words(msix))
		return wrong_size(msix, err);
	if (msix->count % PENDING_BITS)
		msix->pending[pending_words(msix) - 1] &=
			(1ull << msix->count % PENDING_BITS) - 1;
	return load_table(msix, err);
}

/* Whether it is enabled comes from the function's registers, which are first. */
static int activate_table(struct msix *msix, struct err *err)
{
	int ret;

	lock_acquire(&msix->lock);
	ret = update(msix, 0, msix->count, err);
	lock_release(&msix->lock);
	return ret;
}

static int activate(void *obj, struct err *err)
{
	struct msix *msix = obj;
	int ret = activate_table(msix, err);

	for (unsigned int i = 0; i < msix->count; i++) {
		if (msix->pending[i / PENDING_BITS] >> i % PENDING_BITS & 1)
			msix_notify(msix, i);
	}
	return ret;
}

static const struct state_desc state = {
	.version = 1,
	.min_version = 1,
	.fields = fields,
	.field_count = array_size(fields),
	.save = save,
	.load = load,
	.activate = activate,
};

/* Early, of a guest that runs: so that routes and eventfds are there when it stops.
 * What is pending then is not to be seen here. */
static const struct state_field ahead_fields[] = {
	STATE_VARRAY(struct msix_ahead, table, STATE_U32, table_used),
};

static int save_ahead(void *obj, struct err *err)
{
	struct msix_ahead *ahead = obj;
	struct msix *msix = ahead->msix;

	(void)err;
	lock_acquire(&msix->lock);
	ahead->table_used = msix->table_used;
	memcpy(ahead->table, msix->table, msix->count * ENTRY_SIZE);
	lock_release(&msix->lock);
	return 0;
}

static int load_ahead(void *obj, uint16_t version, struct err *err)
{
	struct msix_ahead *ahead = obj;
	struct msix *msix = ahead->msix;

	(void)version;
	msix->table_used = ahead->table_used;
	memcpy(msix->table, ahead->table, msix->count * ENTRY_SIZE);
	return load_table(msix, err);
}

static int activate_ahead(void *obj, struct err *err)
{
	return activate_table(((struct msix_ahead *)obj)->msix, err);
}

static const struct state_desc ahead_state = {
	.version = 1,
	.min_version = 1,
	.fields = ahead_fields,
	.field_count = array_size(ahead_fields),
	.save = save_ahead,
	.load = load_ahead,
	.activate = activate_ahead,
};

/* ---- life ---- */

static int vector_init(struct msix *msix, struct vector *vector,
		       struct err *err)
{
	int ret = 0;

	vector->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (vector->fd < 0)
		return err_set_errno(err, -errno, "eventfd of an interrupt");
	if (!msix->can_deliver)
		return 0;
	ret = msix->accel->ops->route_new(msix->accel, &vector->gsi, err);
	vector->has_route = ret == 0;
	return ret;
}

static void vector_fini(struct msix *msix, struct vector *vector)
{
	const struct accel_ops *ops = msix->accel->ops;

	if (vector->is_bound)
		ops->irqfd_set(msix->accel, vector->gsi, vector->fd, false,
			       NULL);
	if (vector->has_route)
		ops->route_free(msix->accel, vector->gsi);
	if (vector->fd >= 0)
		close(vector->fd);
}

static int msix_init(struct msix *msix, struct mem *mem, const char *name,
		     struct err *err)
{
	int ret = 0;

	msix->vectors = calloc(msix->count, sizeof(*msix->vectors));
	if (!msix->vectors)
		return err_set(err, -ENOMEM, "no memory for MSI-X");
	for (unsigned int i = 0; i < msix->count; i++)
		msix->vectors[i].fd = -1;
	for (unsigned int i = 0; !ret && i < msix->count; i++)
		ret = vector_init(msix, &msix->vectors[i], err);
	if (ret)
		return ret;
	msix->pba = msix->count * ENTRY_SIZE;
	msix->region_size = REGION_MIN;
	while (msix->region_size < msix->pba + pending_words(msix) * 8)
		msix->region_size *= 2;
	msix->region =
		mem_region_new_io(mem, name, msix->region_size, &io_ops, msix);
	if (!msix->region)
		return err_set(err, -ENOMEM, "no memory for MSI-X");
	return 0;
}

int msix_new(struct mem *mem, const char *name, struct accel *accel,
	     unsigned int vectors, struct state_registry *setup_registry,
	     struct state_registry *registry, struct msix **ret_msix,
	     struct err *err)
{
	struct msix *msix;
	char full[STATE_NAME_MAX];
	int ret;

	if (vectors < 1 || vectors > MSIX_VECTORS_MAX)
		return err_set(err, -ERANGE,
			       "%u interrupt vectors, must be 1 to %u", vectors,
			       MSIX_VECTORS_MAX);
	msix = calloc(1, sizeof(*msix));
	if (!msix)
		return err_set(err, -ENOMEM, "no memory for MSI-X");
	msix->accel = accel;
	msix->can_deliver = accel->ops->route_new != NULL;
	msix->count = vectors;
	msix->table_used = vectors * ENTRY_WORDS;
	msix->pending_used = pending_words(msix);
	msix->ahead.msix = msix;
	lock_init(&msix->lock, LOCK_DEVICE);
	clear_table(msix);
	snprintf(full, sizeof(full), "%s-msix", name);
	ret = msix_init(msix, mem, full, err);
	if (ret) {
		msix_free(msix);
		return ret;
	}
	state_register(registry, &msix->state, full, &state, msix);
	if (setup_registry) {
		snprintf(full, sizeof(full), "%s-msix-setup", name);
		state_register(setup_registry, &msix->setup_state, full,
			       &ahead_state, &msix->ahead);
	}
	*ret_msix = msix;
	return 0;
}

void msix_free(struct msix *msix)
{
	if (!msix)
		return;
	state_unregister(&msix->state);
	state_unregister(&msix->setup_state);
	for (unsigned int i = 0; msix->vectors && i < msix->count; i++)
		vector_fini(msix, &msix->vectors[i]);
	mem_region_put(msix->region);
	lock_fini(&msix->lock);
	free(msix->vectors);
	free(msix);
}

struct mem_region *msix_region(struct msix *msix)
{
	return msix->region;
}

uint32_t msix_pba_offset(const struct msix *msix)
{
	return msix->pba;
}

void msix_share(struct msix *msix, struct event_writer *writer)
{
	msix->writer = writer;
}

unsigned int msix_vectors(const struct msix *msix)
{
	return msix->count;
}

int msix_fd(const struct msix *msix, unsigned int vector)
{
	return vector < msix->count ? msix->vectors[vector].fd : -1;
}
