// SPDX-License-Identifier: Apache-2.0
/*
 * Message-signalled interrupts on real KVM: what arrives in a local APIC's
 * interrupt request register.
 *
 * The program is linked with --wrap=ioctl, which counts what KVM is told.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "kvm_vm.h"

#define MIB     (1ull << 20)
#define ADDRESS 0xfee00000u

/* Registers of a local APIC. */
#define APIC_SPURIOUS 0x0f0
#define APIC_REQUEST  0x200

static struct {
	unsigned int routings, irqfds, ioeventfds;
	unsigned int entries; /* of the last table */
} seen;                       /* of the test's one thread */

int __real_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, void *arg);

int __wrap_ioctl(int fd, unsigned long request, void *arg)
{
	if (request == KVM_SET_GSI_ROUTING) {
		seen.routings++;
		seen.entries = ((const struct kvm_irq_routing *)arg)->nr;
	}
	seen.irqfds += request == KVM_IRQFD;
	seen.ioeventfds += request == KVM_IOEVENTFD;
	return __real_ioctl(fd, request, arg);
}

struct fixture {
	struct test_vm vm;
	const struct accel_ops *ops;
	struct accel *accel;
	unsigned int gsi;
	int fd;
};

static uint32_t apic_get(struct fixture *f, unsigned int at)
{
	struct kvm_lapic_state lapic;
	uint32_t value;

	assert_int_equal(ioctl(vm_vcpu_fd(&f->vm, 0), KVM_GET_LAPIC, &lapic),
			 0);
	memcpy(&value, lapic.regs + at, sizeof(value));
	return value;
}

static void apic_enable(struct fixture *f)
{
	const uint32_t enabled = 0x1ff;
	struct kvm_lapic_state lapic;

	assert_int_equal(ioctl(vm_vcpu_fd(&f->vm, 0), KVM_GET_LAPIC, &lapic),
			 0);
	memcpy(lapic.regs + APIC_SPURIOUS, &enabled, sizeof(enabled));
	assert_int_equal(ioctl(vm_vcpu_fd(&f->vm, 0), KVM_SET_LAPIC, &lapic),
			 0);
}

/* Forget what was requested. */
static void apic_clear(struct fixture *f)
{
	struct kvm_lapic_state lapic;

	assert_int_equal(ioctl(vm_vcpu_fd(&f->vm, 0), KVM_GET_LAPIC, &lapic),
			 0);
	for (unsigned int i = 0; i < 8; i++)
		memset(lapic.regs + APIC_REQUEST + 16 * i, 0, 4);
	assert_int_equal(ioctl(vm_vcpu_fd(&f->vm, 0), KVM_SET_LAPIC, &lapic),
			 0);
}

static bool is_requested(struct fixture *f, unsigned int vector)
{
	return apic_get(f, APIC_REQUEST + vector / 32 * 16) >> vector % 32 & 1;
}

/* What KVM does on a thread of its own is done when an irqfd was taken back. */
static void settle(struct fixture *f)
{
	int fd = eventfd(0, EFD_NONBLOCK);
	unsigned int gsi;

	assert_int_equal(f->ops->route_new(f->accel, &gsi, NULL), 0);
	f->ops->irqfd_set(f->accel, gsi, fd, true, NULL);
	f->ops->irqfd_set(f->accel, gsi, fd, false, NULL);
	f->ops->route_free(f->accel, gsi);
	close(fd);
}

static void bind_to(struct fixture *f, uint64_t address, uint32_t data)
{
	const struct accel_msi msi = { .address = address, .data = data };
	struct err err = ERR_INIT;

	f->ops->routes_begin(f->accel);
	f->ops->route_set(f->accel, f->gsi, &msi);
	f->ops->irqfd_set(f->accel, f->gsi, f->fd, true, &err);
	if (f->ops->routes_commit(f->accel, &err))
		fail_msg("%s", err_msg(&err));
}

static void unbind(struct fixture *f)
{
	assert_int_equal(
		f->ops->irqfd_set(f->accel, f->gsi, f->fd, false, NULL), 0);
}

static bool is_readable(int fd)
{
	return poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, 0) == 1;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	memset(&seen, 0, sizeof(seen));
	vm_init(&f->vm, 16 * MIB, "kvm");
	f->accel = f->vm.accel;
	f->ops = f->accel->ops;
	f->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	assert_int_equal(f->ops->route_new(f->accel, &f->gsi, NULL), 0);
	apic_enable(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	unbind(f);
	f->ops->route_free(f->accel, f->gsi);
	close(f->fd);
	vm_fini(&f->vm);
	free(f);
	return 0;
}

static void test_written_eventfd_interrupts(void **state)
{
	struct fixture *f = *state;

	bind_to(f, ADDRESS, 0x41);
	assert_false(is_requested(f, 0x41));
	eventfd_write(f->fd, 1);
	settle(f);
	assert_true(is_requested(f, 0x41));
	assert_false(is_readable(f->fd));
}

static void test_what_was_written_before_interrupts_once(void **state)
{
	struct fixture *f = *state;

	eventfd_write(f->fd, 1);
	bind_to(f, ADDRESS, 0x42);
	unbind(f); /* waits for it */
	assert_true(is_requested(f, 0x42));
	assert_false(is_readable(f->fd)); /* no longer pending */
	apic_clear(f);
	bind_to(f, ADDRESS, 0x42);
	unbind(f);
	assert_false(is_requested(f, 0x42));
}

/* As one that a back end has made so. */
static void test_eventfd_that_blocks_holds_up_nobody_who_binds_it(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(fcntl(f->fd, F_SETFL, 0), 0);
	alarm(30);
	bind_to(f, ADDRESS, 0x45);
	alarm(0);
	assert_false(is_requested(f, 0x45));
}

static void test_what_is_written_while_unbound_stays(void **state)
{
	struct fixture *f = *state;

	bind_to(f, ADDRESS, 0x43);
	unbind(f);
	eventfd_write(f->fd, 1);
	assert_true(is_readable(f->fd));
	assert_false(is_requested(f, 0x43));
	bind_to(f, ADDRESS, 0x43);
	unbind(f);
	assert_true(is_requested(f, 0x43));
}

static void test_message_changes_while_it_is_bound(void **state)
{
	struct fixture *f = *state;
	const struct accel_msi other = { .address = ADDRESS, .data = 0x99 };

	bind_to(f, ADDRESS, 0x44);
	f->ops->routes_begin(f->accel);
	f->ops->route_set(f->accel, f->gsi, &other);
	assert_int_equal(f->ops->routes_commit(f->accel, NULL), 0);
	eventfd_write(f->fd, 1);
	settle(f);
	assert_true(is_requested(f, 0x99));
	assert_false(is_requested(f, 0x44));
}

static void test_message_is_sent_without_a_route(void **state)
{
	struct fixture *f = *state;
	struct accel_msi msi = { .address = ADDRESS, .data = 0x51 };
	struct accel_irq_counts counts;

	f->ops->msi_send(f->accel, &msi);
	assert_true(is_requested(f, 0x51));
	msi = (struct accel_msi){ .address = 0x1000, .data = 0x52 };
	f->ops->msi_send(f->accel, &msi);
	assert_false(is_requested(f, 0x52));
	f->ops->irq_counts(f->accel, &counts);
	assert_int_equal(counts.messages, 2);
	assert_int_equal(counts.route_commits, 0);
}

/* A guest programs what it likes; the others' routes are not its to break. */
static void test_message_that_is_no_interrupt_breaks_no_other(void **state)
{
	struct fixture *f = *state;
	const struct accel_msi wild[] = {
		{ .address = 0, .data = 0x61 },
		{ .address = UINT64_MAX, .data = UINT32_MAX },
		{ .address = ADDRESS | 0x100000000ull, .data = 0x62 },
		{ .address = ADDRESS | 0x1000000000000ull, .data = 0x63 },
		{ .address = ADDRESS + 0x100000, .data = 0x64 },
	};
	unsigned int gsis[array_size(wild)];

	f->ops->routes_begin(f->accel);
	for (size_t i = 0; i < array_size(wild); i++) {
		assert_int_equal(f->ops->route_new(f->accel, &gsis[i], NULL),
				 0);
		f->ops->route_set(f->accel, gsis[i], &wild[i]);
		f->ops->msi_send(f->accel, &wild[i]);
	}
	assert_int_equal(f->ops->routes_commit(f->accel, NULL), 0);
	bind_to(f, ADDRESS, 0x45);
	eventfd_write(f->fd, 1);
	settle(f);
	assert_true(is_requested(f, 0x45));
	for (unsigned int vector = 0x61; vector <= 0x64; vector++)
		assert_false(is_requested(f, vector));
	for (size_t i = 0; i < array_size(wild); i++)
		f->ops->route_free(f->accel, gsis[i]);
}

/* KVM's table is replaced whole: the controllers' pins have to be in it. */
static void test_interrupt_lines_still_work_with_routes(void **state)
{
	struct fixture *f = *state;
	struct kvm_irqchip ioapic = { .chip_id = KVM_IRQCHIP_IOAPIC };

	bind_to(f, ADDRESS, 0x46);
	assert_int_equal(ioctl(f->vm.kv->vm_fd, KVM_GET_IRQCHIP, &ioapic), 0);
	for (unsigned int pin = 3; pin < 24; pin++) {
		ioapic.chip.ioapic.redirtbl[pin].bits = 0x70 + pin;
	}
	assert_int_equal(ioctl(f->vm.kv->vm_fd, KVM_SET_IRQCHIP, &ioapic), 0);
	for (unsigned int pin = 3; pin < 24; pin++) {
		f->ops->irq_set(f->accel, pin, 1);
		f->ops->irq_set(f->accel, pin, 0);
		assert_true(is_requested(f, 0x70 + pin));
	}
}

static void test_group_is_one_call_and_no_change_is_none(void **state)
{
	struct fixture *f = *state;
	unsigned int gsis[64];
	int fds[array_size(gsis)];
	struct accel_irq_counts counts;

	f->ops->routes_begin(f->accel);
	for (size_t i = 0; i < array_size(gsis); i++) {
		const struct accel_msi msi = { .address = ADDRESS,
					       .data = 0x80 + (uint32_t)i };

		fds[i] = eventfd(0, EFD_NONBLOCK);
		assert_int_equal(f->ops->route_new(f->accel, &gsis[i], NULL),
				 0);
		f->ops->routes_begin(f->accel);
		f->ops->route_set(f->accel, gsis[i], &msi);
		f->ops->irqfd_set(f->accel, gsis[i], fds[i], true, NULL);
		f->ops->routes_commit(f->accel, NULL);
	}
	assert_int_equal(seen.routings, 0);
	assert_int_equal(seen.irqfds, 0);
	assert_int_equal(f->ops->routes_commit(f->accel, NULL), 0);
	assert_int_equal(seen.routings, 1);
	assert_int_equal(seen.entries, 40 + array_size(gsis));
	assert_int_equal(seen.irqfds, array_size(gsis));
	f->ops->routes_begin(f->accel);
	assert_int_equal(f->ops->routes_commit(f->accel, NULL), 0);
	assert_int_equal(seen.routings, 1);
	for (size_t i = 0; i < array_size(gsis); i++)
		eventfd_write(fds[i], 1);
	settle(f);
	for (unsigned int i = 0; i < array_size(gsis); i++) {
		assert_true(is_requested(f, 0x80 + i));
		f->ops->irqfd_set(f->accel, gsis[i], fds[i], false, NULL);
		f->ops->route_free(f->accel, gsis[i]);
		close(fds[i]);
	}
	f->ops->irq_counts(f->accel, &counts);
	assert_int_equal(counts.irqfd_calls, seen.irqfds);
	assert_int_equal(counts.route_commits, seen.routings);
}

/* In guests of which nothing moves, none: a commit that changes nothing tells nobody. */
static void
test_each_call_for_a_notification_that_moves_is_counted(void **state)
{
	static const struct mem_io_ops no_ops;
	struct fixture *f = *state;
	struct mem_region *bar =
		mem_region_new_io(f->vm.mem, "bar", 0x1000, &no_ops, NULL);
	const struct mem_eventfd events[] = {
		{ .offset = 0, .size = 2, .fd = f->fd },
		{ .offset = 4, .size = 2, .fd = f->fd },
	};
	struct accel_irq_counts counts;

	for (size_t i = 0; i < array_size(events); i++)
		assert_int_equal(mem_region_add_eventfd(bar, &events[i]), 0);
	mem_region_add(f->vm.root, 0xe0000000, bar, 0);
	f->ops->irq_counts(f->accel, &counts);
	assert_int_equal(counts.ioeventfd_calls, 2);
	mem_begin(f->vm.mem);
	mem_region_set_offset(bar, 0xe0001000);
	mem_region_set_offset(bar, 0xe0000000);
	mem_commit(f->vm.mem);
	f->ops->irq_counts(f->accel, &counts);
	assert_int_equal(counts.ioeventfd_calls, 2);
	mem_region_set_offset(bar, 0xe0001000);
	mem_region_del(bar);
	f->ops->irq_counts(f->accel, &counts);
	assert_int_equal(counts.ioeventfd_calls, 2 + 4 + 2);
	assert_int_equal(seen.ioeventfds, counts.ioeventfd_calls);
	mem_region_put(bar);
}

static void test_routes_fill_kvm_s_table_and_no_more(void **state)
{
	struct fixture *f = *state;
	const struct accel_msi msi = { .address = ADDRESS, .data = 0x47 };
	struct err err = ERR_INIT;
	unsigned int last = f->gsi, gsi;

	f->ops->routes_begin(f->accel);
	while (f->ops->route_new(f->accel, &gsi, &err) == 0) {
		f->ops->route_set(f->accel, gsi, &msi);
		last = gsi;
	}
	assert_int_equal(err.code, -ENOSPC);
	assert_int_equal(f->ops->routes_commit(f->accel, NULL), 0);
	assert_true(last > 1000);
	for (gsi = f->gsi + 1; gsi <= last; gsi++)
		f->ops->route_free(f->accel, gsi);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_written_eventfd_interrupts),
		T(test_eventfd_that_blocks_holds_up_nobody_who_binds_it),
		T(test_what_was_written_before_interrupts_once),
		T(test_what_is_written_while_unbound_stays),
		T(test_message_changes_while_it_is_bound),
		T(test_message_is_sent_without_a_route),
		T(test_message_that_is_no_interrupt_breaks_no_other),
		T(test_interrupt_lines_still_work_with_routes),
		T(test_group_is_one_call_and_no_change_is_none),
		T(test_each_call_for_a_notification_that_moves_is_counted),
		T(test_routes_fill_kvm_s_table_and_no_more),
	};

	need_kvm();
	return cmocka_run_group_tests_name("kvm irqs", tests, NULL, NULL);
}
