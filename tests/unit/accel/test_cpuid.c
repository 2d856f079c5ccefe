// SPDX-License-Identifier: Apache-2.0
/* The processor that a guest sees, made from what this host's KVM offers. */
#include <asm/kvm_para.h>
#include <fcntl.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "kvm_vm.h"

struct fixture {
	struct kv kv; /* no vCPUs, no memory */
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->kv.fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	f->kv.vm_fd = ioctl(f->kv.fd, KVM_CREATE_VM, 0);
	assert_true(f->kv.vm_fd >= 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	close(f->kv.vm_fd);
	close(f->kv.fd);
	free(f);
	return 0;
}

/* NULL without that leaf. */
static const struct kvm_cpuid_entry2 *leaf(const struct kv_cpuid *cpuid,
					   uint32_t function, uint32_t index)
{
	for (uint32_t i = 0; i < cpuid->count; i++) {
		const struct kvm_cpuid_entry2 *e = &cpuid->entries[i];

		if (e->function == function && e->index == index)
			return e;
	}
	return NULL;
}

static void build(struct fixture *f, unsigned int cpus)
{
	struct err err = ERR_INIT;

	f->kv.cpus = cpus;
	if (kv_cpuid_init(&f->kv, &err))
		fail_msg("%s", err_msg(&err));
}

static const struct {
	unsigned int cpus;
	uint32_t bits; /* of an APIC ID */
} sizes[] = { { 1, 0 },   { 2, 1 },   { 3, 2 },   { 4, 2 },    { 5, 3 },
	      { 255, 8 }, { 256, 8 }, { 257, 9 }, { 1024, 10 } };

static void test_one_package_has_a_core_for_each_vcpu(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < array_size(sizes); i++) {
		const struct kvm_cpuid_entry2 *e;
		uint32_t bits = sizes[i].bits, cpus = sizes[i].cpus;

		build(f, cpus);
		e = leaf(&f->kv.cpuid, 1, 0);
		assert_non_null(e);
		assert_int_equal(e->ebx >> 16 & 0xff,
				 bits < 8 ? 1u << bits : 0xff);
		assert_int_equal(e->edx >> 28 & 1, cpus > 1);
		e = leaf(&f->kv.cpuid, 0xb, 0);
		if (!e)
			continue; /* an old host */
		assert_int_equal(e->eax, 0);
		assert_int_equal(e->ebx, 1);
		assert_int_equal(e->ecx, 0x100);
		e = leaf(&f->kv.cpuid, 0xb, 1);
		assert_int_equal(e->eax, bits);
		assert_int_equal(e->ebx, cpus);
		assert_int_equal(e->ecx, 0x201);
		e = leaf(&f->kv.cpuid, 0xb, 2);
		assert_int_equal(e->ebx, 0);
		assert_int_equal(e->ecx, 2);
		assert_null(leaf(&f->kv.cpuid, 0xb, 3));
	}
}

static void test_amd_leaves_agree_on_the_number_of_cores(void **state)
{
	struct fixture *f = *state;
	const struct kvm_cpuid_entry2 *e;

	build(f, 6);
	e = leaf(&f->kv.cpuid, 0x80000008, 0);
	assert_non_null(e);
	assert_int_equal(e->ecx & 0xff, 5);
	assert_int_equal(e->ecx >> 12 & 15, 3);
	for (uint32_t i = 0; (e = leaf(&f->kv.cpuid, 0x8000001d, i)); i++) {
		if (e->eax & 0x1f)
			assert_int_equal(e->eax >> 14 & 0xfff,
					 (e->eax >> 5 & 7) < 3 ? 0 : 5);
	}
	e = leaf(&f->kv.cpuid, 0x8000001e, 0);
	if (e) {
		assert_int_equal(e->ebx, 0);
		assert_int_equal(e->ecx, 0);
	}
}

static void test_timer_and_clock_of_a_guest_are_offered(void **state)
{
	struct fixture *f = *state;
	const struct kvm_cpuid_entry2 *e;

	build(f, 1);
	assert_int_equal(leaf(&f->kv.cpuid, 1, 0)->ecx >> 24 & 1,
			 ioctl(f->kv.vm_fd, KVM_CHECK_EXTENSION,
			       KVM_CAP_TSC_DEADLINE_TIMER) > 0);
	e = leaf(&f->kv.cpuid, 0x40000000, 0);
	assert_non_null(e);
	assert_true(e->eax >= 0x40000010);
	assert_non_null(leaf(&f->kv.cpuid, 0x40000010, 0));
	e = leaf(&f->kv.cpuid, 0x40000001, 0);
	assert_true(e->eax & 1u << KVM_FEATURE_CLOCKSOURCE2);
	assert_false(e->eax & 1u << KVM_FEATURE_ASYNC_PF_VMEXIT);
}

static void test_what_cannot_move_is_hidden(void **state)
{
	struct fixture *f = *state;
	const struct kvm_cpuid_entry2 *e;

	build(f, 1);
	assert_false(leaf(&f->kv.cpuid, 1, 0)->ecx & 1u << 5);
	e = leaf(&f->kv.cpuid, 7, 0);
	assert_false(e && e->ecx & 1u << 7);
	e = leaf(&f->kv.cpuid, 0x80000001, 0);
	assert_false(e && e->ecx & 1u << 2);
}

/* As KVM answers the guest. */
static void test_each_vcpu_has_its_own_apic_id(void **state)
{
	struct test_vm vm;

	(void)state;
	vm_init(&vm, 2 << 20, "kvm");
	for (uint32_t cpu = 0; cpu < VM_CPUS; cpu++) {
		union {
			struct kvm_cpuid2 head;
			uint8_t room[sizeof(struct kvm_cpuid2) +
				     KV_CPUID_MAX *
					     sizeof(struct kvm_cpuid_entry2)];
		} got = { .head.nent = KV_CPUID_MAX };
		unsigned int seen = 0;

		assert_int_equal(
			ioctl(vm_vcpu_fd(&vm, cpu), KVM_GET_CPUID2, &got), 0);
		for (uint32_t i = 0; i < got.head.nent; i++) {
			const struct kvm_cpuid_entry2 *e = &got.head.entries[i];

			if (e->function == 1) {
				assert_int_equal(e->ebx >> 24, cpu);
				assert_true(e->ecx & 1u << 31);
				seen++;
			} else if (e->function == 0xb) {
				assert_int_equal(e->edx, cpu);
			} else if (e->function == 0x8000001e) {
				assert_int_equal(e->eax, cpu);
				assert_int_equal(e->ebx & 0xff, cpu);
			}
		}
		assert_int_equal(seen, 1);
	}
	vm_fini(&vm);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_one_package_has_a_core_for_each_vcpu),
		TEST(test_amd_leaves_agree_on_the_number_of_cores),
		TEST(test_timer_and_clock_of_a_guest_are_offered),
		TEST(test_what_cannot_move_is_hidden),
		cmocka_unit_test(test_each_vcpu_has_its_own_apic_id),
	};

	need_kvm();
	return cmocka_run_group_tests_name("cpuid", tests, NULL, NULL);
}
