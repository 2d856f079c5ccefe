// SPDX-License-Identifier: Apache-2.0
/* The tables are read back as a guest does: from the RSDP on, by address. */
#include <cmocka.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "dev/acpi_pm.h"
#include "dev/pci.h"
#include "machine/acpi.h"
#include "machine/machine.h"

struct fixture {
	struct bytes_writer bytes;
};

static const struct acpi_board board = {
	.cpus = 3,
	.pm_port = 0x600,
	.pm_gsi = 9,
	.reset_port = 0xcf9,
	.reset_value = 6,
	.century = 0x32,
};

static void build(struct fixture *f, unsigned int cpus)
{
	struct acpi_board other = board;

	other.cpus = cpus;
	bytes_writer_fini(&f->bytes);
	f->bytes = (struct bytes_writer){ .data = NULL };
	acpi_build(&other, &f->bytes);
	assert_false(f->bytes.is_failed);
	assert_true(f->bytes.size <= ACPI_SIZE_MAX);
}

/* With a PCI bus, whose second window is at an address of its own. */
static void build_pci(struct fixture *f)
{
	struct acpi_board other = board;

	other.has_pci = true;
	other.pci_mmio64_start = 0x123440000000;
	bytes_writer_fini(&f->bytes);
	f->bytes = (struct bytes_writer){ .data = NULL };
	acpi_build(&other, &f->bytes);
	assert_false(f->bytes.is_failed);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	build(f, board.cpus);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	bytes_writer_fini(&f->bytes);
	free(f);
	return 0;
}

/* @size bytes at a guest-physical address; fails outside of the tables. */
static const uint8_t *at(struct fixture *f, uint64_t gpa, size_t size)
{
	assert_true(gpa >= ACPI_GPA);
	assert_true(gpa - ACPI_GPA + size <= f->bytes.size);
	return f->bytes.data + (gpa - ACPI_GPA);
}

static uint64_t word(struct fixture *f, uint64_t gpa, size_t size)
{
	uint64_t value = 0;

	memcpy(&value, at(f, gpa, size), size);
	return le64toh(value);
}

static void assert_sum_is_zero(struct fixture *f, uint64_t gpa, size_t size)
{
	const uint8_t *bytes = at(f, gpa, size);
	uint8_t sum = 0;

	for (size_t i = 0; i < size; i++)
		sum += bytes[i];
	assert_int_equal(sum, 0);
}

/* A table with its checksum right; its size. */
static uint32_t check_table(struct fixture *f, uint64_t gpa, const char *name)
{
	uint32_t size = (uint32_t)word(f, gpa + 4, 4);

	assert_memory_equal(at(f, gpa, 36), name, 4);
	assert_true(size >= 36);
	assert_int_equal(gpa % 8, 0);
	assert_sum_is_zero(f, gpa, size);
	return size;
}

/* What the XSDT names: entry @index. */
static uint64_t table(struct fixture *f, unsigned int index)
{
	uint64_t xsdt = word(f, ACPI_GPA + 24, 8);
	uint32_t size = check_table(f, xsdt, "XSDT");

	assert_true(36 + 8 * (index + 1) <= size);
	return word(f, xsdt + 36 + 8 * index, 8);
}

static uint64_t fadt(struct fixture *f)
{
	return table(f, 0);
}

static uint64_t madt(struct fixture *f)
{
	return table(f, 1);
}

static unsigned int table_count(struct fixture *f)
{
	uint64_t xsdt = word(f, ACPI_GPA + 24, 8);

	return (check_table(f, xsdt, "XSDT") - 36) / 8;
}

static void test_root_pointer_leads_to_the_tables(void **state)
{
	struct fixture *f = *state;

	assert_memory_equal(at(f, ACPI_GPA, 8), "RSD PTR ", 8);
	assert_sum_is_zero(f, ACPI_GPA, 20);
	assert_sum_is_zero(f, ACPI_GPA, 36);
	assert_int_equal(word(f, ACPI_GPA + 15, 1), 2);
	assert_int_equal(word(f, ACPI_GPA + 20, 4), 36);
	assert_int_equal(check_table(f, fadt(f), "FACP"), 276);
	check_table(f, madt(f), "APIC");
	check_table(f, word(f, fadt(f) + 140, 8), "DSDT");
	assert_int_equal(word(f, fadt(f) + 40, 4), word(f, fadt(f) + 140, 8));
}

static void test_fixed_hardware_is_where_the_board_has_it(void **state)
{
	struct fixture *f = *state;
	uint64_t flags = word(f, fadt(f) + 112, 4);

	assert_int_equal(word(f, fadt(f) + 46, 2), 9);
	assert_int_equal(word(f, fadt(f) + 48, 4), 0); /* always ACPI mode */
	assert_int_equal(word(f, fadt(f) + 56, 4), 0x600);
	assert_int_equal(word(f, fadt(f) + 64, 4), 0x604);
	assert_int_equal(word(f, fadt(f) + 76, 4), 0x608);
	assert_int_equal(word(f, fadt(f) + 88, 2), 0x0204);
	assert_int_equal(word(f, fadt(f) + 91, 1), 4);
	assert_int_equal(word(f, fadt(f) + 108, 1), 0x32);
	assert_int_equal(flags >> 4 & 1, 0);  /* a power button */
	assert_int_equal(flags >> 5 & 1, 1);  /* no sleep button */
	assert_int_equal(flags >> 8 & 1, 1);  /* 32 bits of timer */
	assert_int_equal(flags >> 10 & 1, 1); /* a reset register */
	assert_int_equal(flags >> 20 & 1, 0); /* not hardware-reduced */
	/* The long forms say the same: space, bits, offset, access, address. */
	assert_int_equal(word(f, fadt(f) + 148, 4), 0x03002001);
	assert_int_equal(word(f, fadt(f) + 152, 8), 0x600);
	assert_int_equal(word(f, fadt(f) + 172, 4), 0x02001001);
	assert_int_equal(word(f, fadt(f) + 176, 8), 0x604);
	assert_int_equal(word(f, fadt(f) + 208, 4), 0x03002001);
	assert_int_equal(word(f, fadt(f) + 212, 8), 0x608);
	assert_int_equal(word(f, fadt(f) + 116, 4), 0x01000801);
	assert_int_equal(word(f, fadt(f) + 120, 8), 0xcf9);
	assert_int_equal(word(f, fadt(f) + 128, 1), 6);
}

static void test_firmware_control_structure_is_aligned(void **state)
{
	struct fixture *f = *state;
	uint64_t facs = word(f, fadt(f) + 36, 4);

	assert_int_equal(facs % 64, 0);
	assert_memory_equal(at(f, facs, 64), "FACS", 4);
	assert_int_equal(word(f, facs + 4, 4), 64);
	assert_int_equal(word(f, fadt(f) + 132, 8), 0);
}

/* How many entries of @type, each checked to be one of @size bytes. */
static unsigned int count_entries(struct fixture *f, unsigned int type,
				  unsigned int size)
{
	uint64_t end = madt(f) + check_table(f, madt(f), "APIC");
	unsigned int count = 0;

	for (uint64_t gpa = madt(f) + 44; gpa < end;) {
		const uint8_t *entry = at(f, gpa, 2);

		assert_true(entry[1] >= 6 && gpa + entry[1] <= end);
		if (entry[0] == type) {
			assert_int_equal(entry[1], size);
			count++;
		}
		gpa += entry[1];
	}
	return count;
}

static void test_each_vcpu_has_one_entry(void **state)
{
	struct fixture *f = *state;
	static const struct {
		unsigned int cpus, narrow, wide;
	} cases[] = { { 1, 1, 0 },
		      { 255, 255, 0 },
		      { 256, 255, 1 },
		      { MACHINE_CPUS_MAX, 255, MACHINE_CPUS_MAX - 255 } };

	for (size_t i = 0; i < array_size(cases); i++) {
		build(f, cases[i].cpus);
		assert_int_equal(count_entries(f, 0, 8), cases[i].narrow);
		assert_int_equal(count_entries(f, 9, 16), cases[i].wide);
		assert_int_equal(count_entries(f, 10, 12), cases[i].wide > 0);
	}
}

static void test_pci_is_described_only_where_there_is_a_bus(void **state)
{
	struct fixture *f = *state;
	uint64_t mcfg, pci;
	uint32_t size;

	assert_int_equal(table_count(f), 2);
	build_pci(f);
	assert_int_equal(table_count(f), 4);
	mcfg = table(f, 2);
	assert_int_equal(check_table(f, mcfg, "MCFG"), 60);
	assert_int_equal(word(f, mcfg + 36, 8), 0);
	assert_int_equal(word(f, mcfg + 44, 8), PCI_ECAM_START);
	assert_int_equal(word(f, mcfg + 52, 8), 0); /* segment 0, bus 0 */
	pci = table(f, 3);
	size = check_table(f, pci, "SSDT");
	/* Its end names the window behind RAM. */
	assert_memory_equal(at(f, pci + size - 15, 15),
			    "\x08\\M64S\x0e\x00\x00\x00\x40\x34\x12\x00\x00",
			    15);
}

static void test_interrupt_controllers_are_named(void **state)
{
	struct fixture *f = *state;
	uint64_t entries = madt(f) + 44;
	/* vCPU 2; the I/O APIC; IRQ 9 is level, active high; NMI is LINT1. */
	static const uint8_t expected[] = {
		0, 8,  2,    2, 1, 0, 0,    0,                   /**/
		1, 12, 0,    0, 0, 0, 0xc0, 0xfe, 0,    0, 0, 0, /**/
		2, 10, 0,    9, 9, 0, 0,    0,    0x0d, 0,       /**/
		4, 6,  0xff, 0, 0, 1,
	};

	assert_int_equal(word(f, madt(f) + 36, 4), 0xfee00000);
	assert_int_equal(word(f, madt(f) + 40, 4), 1);
	assert_memory_equal(at(f, entries + 16, sizeof(expected)), expected,
			    sizeof(expected));
	assert_int_equal(check_table(f, madt(f), "APIC"),
			 44 + 16 + sizeof(expected));
}

/* What acpica's disassembler makes of one table; the caller frees it. */
static char *disassemble(struct fixture *f, uint64_t gpa, const char *name)
{
	char folder[] = "/tmp/godwit-test-acpi-XXXXXX";
	uint32_t size = check_table(f, gpa, name);
	char path[128], command[512];
	char *text = calloc(1, 1 << 20);
	FILE *file;

	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/table.dat", folder);
	file = fopen(path, "w");
	assert_non_null(file);
	assert_int_equal(fwrite(at(f, gpa, size), 1, size, file), size);
	fclose(file);
	snprintf(command, sizeof(command),
		 "cd %s && iasl -d table.dat >log 2>&1 && cat log table.dsl; "
		 "ret=$?; rm -r %s; exit $ret",
		 folder, folder);
	file = popen(command, "r");
	assert_non_null(file);
	assert_true(fread(text, 1, (1 << 20) - 1, file) > 0);
	assert_int_equal(pclose(file), 0);
	assert_null(strstr(text, "Error"));
	assert_null(strstr(text, "Warning"));
	assert_null(strstr(text, "Invalid"));
	assert_null(strstr(text, "incorrect"));
	return text;
}

static void test_acpica_decodes_every_table(void **state)
{
	struct fixture *f = *state;
	char *text;

	if (system("command -v iasl >/dev/null") != 0) {
		print_message("skipped: no iasl\n");
		skip();
	}
	text = disassemble(f, word(f, fadt(f) + 140, 8), "DSDT");
	assert_non_null(strstr(text, "PNP0501"));
	assert_non_null(strstr(text, "PNP0B00"));
	assert_non_null(strstr(text, "_S5"));
	free(text);
	text = disassemble(f, fadt(f), "FACP");
	assert_non_null(strstr(text, "Hardware Reduced (V5) : 0"));
	free(text);
	build(f, 300);
	text = disassemble(f, madt(f), "APIC");
	assert_non_null(strstr(text, "Processor x2Apic ID : 0000012B"));
	free(text);
	build_pci(f);
	text = disassemble(f, table(f, 2), "MCFG");
	assert_non_null(strstr(text, "Base Address : 00000000E0000000"));
	free(text);
	text = disassemble(f, table(f, 3), "SSDT");
	assert_non_null(strstr(text, "Name (\\M64S, 0x0000123440000000)"));
	/* As dev/pci.h has them. */
	assert_non_null(strstr(text, "0xC0000000"));
	assert_non_null(strstr(text, "0xDFFFFFFF"));
	assert_non_null(strstr(text, "0xE0000000"));
	free(text);
}

/* _S5 is a package whose first number is the type that the chip knows. */
static void test_sleep_type_is_the_chips(void **state)
{
	struct fixture *f = *state;
	uint64_t dsdt = word(f, fadt(f) + 140, 8);
	const uint8_t *aml = at(f, dsdt, word(f, dsdt + 4, 4));
	const uint8_t *s5 = memmem(aml, word(f, dsdt + 4, 4), "_S5_", 4);

	assert_non_null(s5);
	assert_int_equal(s5[4], 0x12); /* PackageOp, length, 4 elements */
	assert_int_equal(s5[6], 4);
	assert_int_equal(s5[7], 0x0a); /* BytePrefix */
	assert_int_equal(s5[8], ACPI_PM_SLEEP_OFF);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_root_pointer_leads_to_the_tables),
		TEST(test_fixed_hardware_is_where_the_board_has_it),
		TEST(test_firmware_control_structure_is_aligned),
		TEST(test_each_vcpu_has_one_entry),
		TEST(test_interrupt_controllers_are_named),
		TEST(test_pci_is_described_only_where_there_is_a_bus),
		TEST(test_acpica_decodes_every_table),
		TEST(test_sleep_type_is_the_chips),
	};

	return cmocka_run_group_tests_name("acpi", tests, NULL, NULL);
}
