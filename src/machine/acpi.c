// SPDX-License-Identifier: Apache-2.0
/*
 * One structure a table, as ACPI lays it out, filled in and appended; its
 * checksum is set last.
 */
#include "machine/acpi.h"

#include <stddef.h>
#include <string.h>

#include "base/bytes.h"
#include "dev/acpi_pm.h"
#include "dev/pci.h"
#include "machine/aml.h"

#define LAPIC_ADDRESS  0xfee00000u
#define IOAPIC_ADDRESS 0xfec00000u
#define ALL_CPUS       0xffu
#define ALL_CPUS_WIDE  0xffffffffu

/* Local APIC entries name IDs below this; 255 is all of them. */
#define NARROW_APIC_IDS 255u

/* FADT, 5.2.9 */
#define FADT_LEGACY_DEVICES  0x0001u /* boot flags */
#define FADT_NO_VGA          0x0004u
#define FADT_WBINVD          0x00000001u /* flags */
#define FADT_C1              0x00000004u
#define FADT_NO_SLEEP_BUTTON 0x00000020u
#define FADT_NO_CLOCK_WAKE   0x00000040u
#define FADT_TIMER_32        0x00000100u
#define FADT_RESET           0x00000400u
#define FADT_NO_C2           101u /* latencies above these limits */
#define FADT_NO_C3           1001u
#define FADT_PM1_EVENT_SIZE  4u
#define FADT_PM1_CNT_SIZE    2u
#define FADT_TIMER_SIZE      4u

/* MADT, 5.2.12 */
#define MADT_HAS_8259     1u
#define MADT_ENABLED      1u
#define MADT_ACTIVE_HIGH  0x1u
#define MADT_LEVEL        0xcu
#define MADT_LOCAL_APIC   0u
#define MADT_IO_APIC      1u
#define MADT_OVERRIDE     2u
#define MADT_LOCAL_NMI    4u
#define MADT_LOCAL_X2APIC 9u
#define MADT_X2APIC_NMI   10u
#define LINT_NMI          1u

#define SPACE_IO 1u

/* Byte code, 20.2 */
#define AML_NAME  0x08u
#define AML_ROOT  '\\'
#define AML_QWORD 0x0eu

struct rsdp {
	char signature[8];
	uint8_t checksum; /* of the first 20 bytes */
	char oem[6];
	uint8_t revision;
	struct le32 rsdt;
	struct le32 size;
	struct le64 xsdt;
	uint8_t checksum_all;
	uint8_t reserved[3];
} __attribute__((packed));

#define RSDP_FIRST_PART 20u

struct table_header {
	char signature[4];
	struct le32 size;
	uint8_t revision;
	uint8_t checksum;
	char oem[6];
	char oem_table[8];
	struct le32 oem_revision;
	char creator[4];
	struct le32 creator_revision;
} __attribute__((packed));

struct address {
	uint8_t space;
	uint8_t bits, bit_offset;
	uint8_t access; /* log2 of bytes, and one */
	struct le64 address;
} __attribute__((packed));

struct fadt {
	struct table_header header;
	struct le32 facs;
	struct le32 dsdt;
	uint8_t reserved_1;
	uint8_t profile;
	struct le16 sci;
	struct le32 smi_command;
	uint8_t acpi_enable, acpi_disable, s4_bios, pstate;
	struct le32 pm1a_event, pm1b_event;
	struct le32 pm1a_control, pm1b_control, pm2_control;
	struct le32 timer;
	struct le32 gpe0, gpe1;
	uint8_t pm1_event_size, pm1_control_size, pm2_control_size, timer_size;
	uint8_t gpe0_size, gpe1_size, gpe1_base, cst;
	struct le16 c2_latency, c3_latency;
	struct le16 flush_size, flush_stride;
	uint8_t duty_offset, duty_width;
	uint8_t day_alarm, month_alarm, century;
	struct le16 boot_flags;
	uint8_t reserved_2;
	struct le32 flags;
	struct address reset;
	uint8_t reset_value;
	struct le16 arm_flags;
	uint8_t minor;
	struct le64 x_facs; /* 0: in @facs */
	struct le64 x_dsdt;
	struct address x_pm1a_event, x_pm1b_event;
	struct address x_pm1a_control, x_pm1b_control, x_pm2_control;
	struct address x_timer;
	struct address x_gpe0, x_gpe1;
	struct address sleep_control, sleep_status;
	struct le64 hypervisor;
} __attribute__((packed));

struct facs {
	char signature[4];
	struct le32 size;
	struct le32 hardware_signature;
	struct le32 waking_vector;
	struct le32 global_lock;
	struct le32 flags;
	struct le64 x_waking_vector;
	uint8_t version;
	uint8_t reserved[31];
} __attribute__((packed));

#define FACS_ALIGN 64u

struct madt {
	struct table_header header;
	struct le32 local_apic;
	struct le32 flags;
} __attribute__((packed));

struct madt_local_apic {
	uint8_t type, size;
	uint8_t processor, apic_id;
	struct le32 flags;
} __attribute__((packed));

struct madt_local_x2apic {
	uint8_t type, size;
	struct le16 reserved;
	struct le32 apic_id;
	struct le32 flags;
	struct le32 processor;
} __attribute__((packed));

struct madt_io_apic {
	uint8_t type, size;
	uint8_t id, reserved;
	struct le32 address;
	struct le32 first_gsi;
} __attribute__((packed));

struct madt_override {
	uint8_t type, size;
	uint8_t bus, irq;
	struct le32 gsi;
	struct le16 flags;
} __attribute__((packed));

struct madt_local_nmi {
	uint8_t type, size;
	uint8_t processor;
	struct le16 flags;
	uint8_t lint;
} __attribute__((packed));

struct madt_x2apic_nmi {
	uint8_t type, size;
	struct le16 flags;
	struct le32 processor;
	uint8_t lint;
	uint8_t reserved[3];
} __attribute__((packed));

struct mcfg {
	struct table_header header;
	uint8_t reserved_1[8];
	/* one segment */
	struct le64 ecam;
	struct le16 segment;
	uint8_t first_bus, last_bus;
	uint8_t reserved_2[4];
} __attribute__((packed));

/* Name (\M64S, value), which pci.asl reads. */
struct aml_window {
	uint8_t op;
	char name[5];
	uint8_t kind;
	struct le64 value;
} __attribute__((packed));

_Static_assert(sizeof(struct rsdp) == 36, "ACPI 6.3, 5.2.5.3");
_Static_assert(sizeof(struct fadt) == 276, "ACPI 6.3, 5.2.9");
_Static_assert(offsetof(struct fadt, flags) == 112, "ACPI 6.3, 5.2.9");
_Static_assert(offsetof(struct fadt, x_pm1a_event) == 148, "ACPI 6.3, 5.2.9");
_Static_assert(sizeof(struct facs) == 64, "ACPI 6.3, 5.2.10");
_Static_assert(sizeof(struct madt) == 44, "ACPI 6.3, 5.2.12");
_Static_assert(sizeof(struct mcfg) == 60, "PCI firmware 3.0, 4.1.2");
_Static_assert(sizeof(struct madt_local_x2apic) == 16, "ACPI 6.3, 5.2.12.12");

/* The byte that makes the sum of all 0. */
static uint8_t checksum(const void *data, size_t size)
{
	const uint8_t *bytes = data;
	uint8_t sum = 0;

	while (size > 0)
		sum += bytes[--size];
	return (uint8_t)-sum;
}

/* Sizes and checksums are set by table_end(). */
static struct table_header header(const char *signature, uint8_t revision)
{
	struct table_header h = {
		.revision = revision,
		.oem = "GODWIT",
		.oem_table = "GODWIT",
		.oem_revision = le32_of(1),
		.creator = { 'G', 'D', 'W', 'T' },
		.creator_revision = le32_of(1),
	};

	memcpy(h.signature, signature, sizeof(h.signature));
	return h;
}

/* Where the next table goes: its place in @to. */
static size_t table_begin(struct bytes_writer *to)
{
	bytes_put_padding(to);
	return to->size;
}

/* Finish the table that began at @start; its guest-physical address. */
static uint32_t table_end(struct bytes_writer *to, size_t start)
{
	struct table_header *h = (struct table_header *)(to->data + start);

	if (!to->is_failed) {
		h->size = le32_of((uint32_t)(to->size - start));
		h->checksum = 0;
		h->checksum = checksum(h, to->size - start);
	}
	return ACPI_GPA + (uint32_t)start;
}

/* No checksum here.  The guest writes into it: the global lock. */
static uint32_t put_facs(struct bytes_writer *to)
{
	const struct facs facs = {
		.signature = { 'F', 'A', 'C', 'S' },
		.size = le32_of(sizeof(facs)),
		.version = 2,
	};
	size_t start = align_up(to->size, FACS_ALIGN);

	bytes_put_space(to, start - to->size);
	bytes_put(to, &facs, sizeof(facs));
	return ACPI_GPA + (uint32_t)start;
}

static uint32_t put_dsdt(struct bytes_writer *to)
{
	size_t start = table_begin(to);

	bytes_put(to, dsdt_aml, (size_t)(dsdt_aml_end - dsdt_aml));
	return table_end(to, start);
}

static struct address port(uint32_t address, uint8_t bytes)
{
	return (struct address){
		.space = SPACE_IO,
		.bits = bytes * 8,
		.access = bytes == 4 ? 3 : bytes,
		.address = le64_of(address),
	};
}

static uint32_t put_fadt(const struct acpi_board *board, uint32_t facs,
			 uint32_t dsdt, struct bytes_writer *to)
{
	uint32_t event = board->pm_port + ACPI_PM_EVENT;
	uint32_t control = board->pm_port + ACPI_PM_CONTROL;
	uint32_t timer = board->pm_port + ACPI_PM_TIMER;
	const struct fadt fadt = {
		.header = header("FACP", 6),
		.minor = 3,
		.facs = le32_of(facs),
		.dsdt = le32_of(dsdt),
		.x_dsdt = le64_of(dsdt),
		.sci = le16_of(board->pm_gsi),
		.pm1a_event = le32_of(event),
		.pm1a_control = le32_of(control),
		.timer = le32_of(timer),
		.x_pm1a_event = port(event, FADT_PM1_EVENT_SIZE),
		.x_pm1a_control = port(control, FADT_PM1_CNT_SIZE),
		.x_timer = port(timer, FADT_TIMER_SIZE),
		.pm1_event_size = FADT_PM1_EVENT_SIZE,
		.pm1_control_size = FADT_PM1_CNT_SIZE,
		.timer_size = FADT_TIMER_SIZE,
		.c2_latency = le16_of(FADT_NO_C2),
		.c3_latency = le16_of(FADT_NO_C3),
		.century = board->century,
		.boot_flags = le16_of(FADT_LEGACY_DEVICES | FADT_NO_VGA),
		.flags = le32_of(FADT_WBINVD | FADT_C1 | FADT_NO_SLEEP_BUTTON |
				 FADT_NO_CLOCK_WAKE | FADT_TIMER_32 |
				 FADT_RESET),
		.reset = port(board->reset_port, 1),
		.reset_value = board->reset_value,
		.hypervisor = { .raw = 0 },
	};
	size_t start = table_begin(to);

	bytes_put(to, &fadt, sizeof(fadt));
	return table_end(to, start);
}

static void put_processors(unsigned int cpus, struct bytes_writer *to)
{
	for (unsigned int i = 0; i < cpus && i < NARROW_APIC_IDS; i++) {
		const struct madt_local_apic entry = {
			.type = MADT_LOCAL_APIC,
			.size = sizeof(entry),
			.processor = (uint8_t)i,
			.apic_id = (uint8_t)i,
			.flags = le32_of(MADT_ENABLED),
		};

		bytes_put(to, &entry, sizeof(entry));
	}
	for (unsigned int i = NARROW_APIC_IDS; i < cpus; i++) {
		const struct madt_local_x2apic entry = {
			.type = MADT_LOCAL_X2APIC,
			.size = sizeof(entry),
			.apic_id = le32_of(i),
			.processor = le32_of(i),
			.flags = le32_of(MADT_ENABLED),
		};

		bytes_put(to, &entry, sizeof(entry));
	}
}

/* GSI n is ISA interrupt n, the PIT's too: KVM's own routing, so that only the
 * level of the SCI has to be said. */
static uint32_t put_madt(const struct acpi_board *board,
			 struct bytes_writer *to)
{
	const struct madt madt = {
		.header = header("APIC", 5),
		.local_apic = le32_of(LAPIC_ADDRESS),
		.flags = le32_of(MADT_HAS_8259),
	};
	const struct madt_io_apic io_apic = {
		.type = MADT_IO_APIC,
		.size = sizeof(io_apic),
		.address = le32_of(IOAPIC_ADDRESS),
	};
	const struct madt_override sci = {
		.type = MADT_OVERRIDE,
		.size = sizeof(sci),
		.irq = board->pm_gsi,
		.gsi = le32_of(board->pm_gsi),
		.flags = le16_of(MADT_ACTIVE_HIGH | MADT_LEVEL),
	};
	const struct madt_local_nmi nmi = {
		.type = MADT_LOCAL_NMI,
		.size = sizeof(nmi),
		.processor = ALL_CPUS,
		.lint = LINT_NMI,
	};
	const struct madt_x2apic_nmi x2apic_nmi = {
		.type = MADT_X2APIC_NMI,
		.size = sizeof(x2apic_nmi),
		.processor = le32_of(ALL_CPUS_WIDE),
		.lint = LINT_NMI,
	};
	size_t start = table_begin(to);

	bytes_put(to, &madt, sizeof(madt));
	put_processors(board->cpus, to);
	bytes_put(to, &io_apic, sizeof(io_apic));
	bytes_put(to, &sci, sizeof(sci));
	bytes_put(to, &nmi, sizeof(nmi));
	if (board->cpus > NARROW_APIC_IDS)
		bytes_put(to, &x2apic_nmi, sizeof(x2apic_nmi));
	return table_end(to, start);
}

static uint32_t put_mcfg(struct bytes_writer *to)
{
	const struct mcfg mcfg = {
		.header = header("MCFG", 1),
		.ecam = le64_of(PCI_ECAM_START),
	};
	size_t start = table_begin(to);

	bytes_put(to, &mcfg, sizeof(mcfg));
	return table_end(to, start);
}

static uint32_t put_pci(const struct acpi_board *board, struct bytes_writer *to)
{
	const struct aml_window window = {
		.op = AML_NAME,
		.name = { AML_ROOT, 'M', '6', '4', 'S' },
		.kind = AML_QWORD,
		.value = le64_of(board->pci_mmio64_start),
	};
	size_t start = table_begin(to);

	bytes_put(to, pci_aml, (size_t)(pci_aml_end - pci_aml));
	bytes_put(to, &window, sizeof(window));
	return table_end(to, start);
}

static uint32_t put_xsdt(const uint32_t *tables, size_t count,
			 struct bytes_writer *to)
{
	const struct table_header h = header("XSDT", 1);
	size_t start = table_begin(to);

	bytes_put(to, &h, sizeof(h));
	for (size_t i = 0; i < count; i++)
		bytes_put_u64(to, tables[i]);
	return table_end(to, start);
}

void acpi_build(const struct acpi_board *board, struct bytes_writer *to)
{
	struct rsdp rsdp = {
		.signature = { 'R', 'S', 'D', ' ', 'P', 'T', 'R', ' ' },
		.oem = { 'G', 'O', 'D', 'W', 'I', 'T' },
		.revision = 2,
		.size = le32_of(sizeof(rsdp)),
	};
	uint32_t tables[4], facs, dsdt;
	size_t count = 0;

	bytes_put_space(to, sizeof(rsdp));
	facs = put_facs(to);
	dsdt = put_dsdt(to);
	tables[count++] = put_fadt(board, facs, dsdt, to);
	tables[count++] = put_madt(board, to);
	if (board->has_pci) {
		tables[count++] = put_mcfg(to);
		tables[count++] = put_pci(board, to);
	}
	rsdp.xsdt = le64_of(put_xsdt(tables, count, to));
	rsdp.checksum = checksum(&rsdp, RSDP_FIRST_PART);
	rsdp.checksum_all = checksum(&rsdp, sizeof(rsdp));
	if (!to->is_failed)
		memcpy(to->data, &rsdp, sizeof(rsdp));
}
