# SPDX-License-Identifier: Apache-2.0
"""Streams whose checksums are right and whose contents are not."""
from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from harness.machine import Fleet, binary, run
from harness.move import move, start, wait
from harness.relay import Link
from harness.stream import (HEADER_SIZE, TYPES, Field, Record, cut_state, entry_name, header, locate,
                            parse, schema)

MEMORY_MIB = 32
INCOMING_FAILED = 6  # docs/exit-codes.md
# Guest memory, program and libraries, and what a restore may take beside.
PEAK_MAX_MIB = MEMORY_MIB + 96


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    if not os.path.exists("/dev/kvm"):
        pytest.skip("this machine has no /dev/kvm")
    folder = tmp_path_factory.mktemp("saved")
    fleet = Fleet(folder)
    try:
        machine = fleet.start("s", memory=f"{MEMORY_MIB}M", cpus=1,
                              guest_options="hot=1M,rate=10000/s,tick=1ms")
        machine.serial.wait_ticks(50)
        machine.qmp.command("migrate", uri=f"file:{folder}/saved")
        assert wait(machine) == "completed"
        return (folder / "saved").read_bytes()
    finally:
        fleet.end()


def restore(folder: Path, head: bytes, records: list[Record | bytes], limit_s: float = 8.0
            ) -> tuple[int | None, str]:
    """Exit status (None: it runs) and stderr; the peak of its memory is checked."""
    path = folder / "stream"
    path.write_bytes(head + b"".join(r.pack() if isinstance(r, Record) else r for r in records))
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([binary(), "run", "--memory", f"{MEMORY_MIB}M", "--cpus", "1",
                                    "--guest", "stress,hot=1M,rate=10000/s,tick=1ms", "--serial",
                                    "null", "--incoming", f"file:{path}"],
                                   stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        ended = time.monotonic() + limit_s
        is_ours = False
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > ended:
                is_ours = True
                process.send_signal(signal.SIGTERM)
                _, status, usage = os.wait4(process.pid, 0)
                break
            time.sleep(0.005)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        told = output.read().decode(errors="replace")
    assert process.returncode >= 0, told
    assert usage.ru_maxrss < PEAK_MAX_MIB << 10
    return None if is_ours else process.returncode, told


def assert_refused(folder: Path, head: bytes, records: list[Record | bytes], what: object) -> None:
    code, told = restore(folder, head, records)
    assert code == INCOMING_FAILED, (what, code, told)
    assert len(told.strip().splitlines()) == 1, (what, told)
    explained = run("stream", str(folder / "stream"))
    assert explained.returncode in (0, 1), (what, explained)


def test_second_reader_agrees_with_the_specification(saved: bytes) -> None:
    records = list(parse(saved))
    assert header(flags=1) == saved[:HEADER_SIZE]
    assert records[0].name == "MACHINE" and records[-1].name == "END"
    assert all(record.pack()[8:16] == struct.pack("<Q", record.stored_hash) for record in records)
    names = [record.name for record in records]
    assert names.count("SETUP_END") == names.count("STOPPED") == 1
    assert not {"GO", "CANCEL"} & set(names)
    pages = 0
    for record in records:
        if record.name == "RAM":
            count = struct.unpack_from("<I", record.body, 8)[0]
            pages += sum(struct.unpack_from("<Q", record.body, 24 + 16 * n)[0] for n in range(count))
    assert pages == struct.unpack_from("<Q", records[-1].body)[0]
    assert saved[HEADER_SIZE:] == b"".join(record.pack() for record in records)


@pytest.mark.parametrize("head", [
    header(flags=1, magic=b"GODWITMH"), header(flags=1, major=2), header(flags=1, major=0),
    header(flags=0), header(flags=3), header(flags=1, reserved=1),
    header(flags=1)[:24] + bytes(8),
], ids=["magic", "major 2", "major 0", "return path", "flag", "reserved", "hash"])
def test_header_out_of_the_specification_is_refused(saved: bytes, folder: Path, head: bytes) -> None:
    assert_refused(folder, head, list(parse(saved)), head)


def test_newer_minor_version_and_optional_records_are_accepted(saved: bytes, folder: Path) -> None:
    records: list[Record | bytes] = []
    for record in parse(saved):
        records += [Record(0x80001234, b"from the future"), record]
    code, told = restore(folder, header(flags=1, minor=7), records, limit_s=2)
    assert code is None, told


def indices(records: list[Record]) -> dict[str, int]:
    """The first record of each name."""
    found: dict[str, int] = {}
    for index, record in enumerate(records):
        found.setdefault(record.name, index)
    return found


def test_record_that_is_missing_is_noticed(saved: bytes, folder: Path) -> None:
    records = list(parse(saved))
    for name, index in indices(records).items():
        if name in ("ROUND", "SCHEMA"):
            continue  # they explain, nothing is built from them
        assert_refused(folder, saved[:HEADER_SIZE], records[:index] + records[index + 1:], name)


def test_record_that_comes_twice_or_too_late_is_refused(saved: bytes, folder: Path) -> None:
    records = list(parse(saved))
    found = indices(records)
    for name in ("MACHINE", "SETUP_END", "SWITCH", "STOPPED", "STATE", "END"):
        if name not in found:
            continue
        record = records[found[name]]
        twice = records[:found[name]] + [record] + records[found[name]:]
        assert_refused(folder, saved[:HEADER_SIZE], twice, f"{name} twice")
    for name in ("MACHINE", "SETUP_END"):
        rest = [record for record in records if record.name != name]
        assert_refused(folder, saved[:HEADER_SIZE], rest[:-1] + [records[found[name]], rest[-1]],
                       f"{name} late")


def test_record_of_the_other_side_or_unknown_is_refused(saved: bytes, folder: Path) -> None:
    records = list(parse(saved))
    for type_ in (0, 15, 0x101, 0x104, 0x7fffffff, TYPES["GO"]):
        for at in (0, 1, len(records) // 2, len(records) - 1):
            assert_refused(folder, saved[:HEADER_SIZE],
                           records[:at] + [Record(type_, bytes(8))] + records[at:], (type_, at))


def test_lesson_receiver_allocates_no_more_than_its_bounds(saved: bytes, folder: Path) -> None:
    records = list(parse(saved))
    for type_ in (1, 2, 3, 5, 6, 7, 9, 11, 0x80001234):
        for length in (0xffffffff, 0x80000000, 0x10000000, (4 << 20) + (1 << 17)):
            lying = struct.pack("<IIQ", type_, length, 0) + bytes(64)
            for at in (0, len(records) // 2):
                assert_refused(folder, saved[:HEADER_SIZE], [*records[:at], lying], (type_, length))


def with_field(record: Record, at: int, kind: str, value: int) -> Record:
    body = bytearray(record.body)
    struct.pack_into(kind, body, at, value)
    return Record(record.type, bytes(body))


HUGE = [1 << 31, (1 << 32) - 1]
HUGE64 = [1 << 31, 1 << 32, 1 << 52, 1 << 63, (1 << 64) - 1]
FIELDS = [
    # record, offset in the body, format, values
    ("MACHINE", 0, "<I", [0, 2, 1000, *HUGE]), ("MACHINE", 4, "<I", [0, 2, 65, *HUGE]),
    ("MACHINE", 8, "<Q", [1]), ("MACHINE", 80, "<Q", [0, 4096, *HUGE64]),
    ("MACHINE", 88, "<Q", [0, 3, *HUGE64]), ("MACHINE", 96, "<Q", [0, *HUGE64]),
    ("RAM", 0, "<I", [1, 63, 64, *HUGE]), ("RAM", 4, "<I", [2, *HUGE]),
    ("RAM", 8, "<I", [0, 1025, *HUGE]), ("RAM", 12, "<I", [1]),
    ("RAM", 16, "<Q", [MEMORY_MIB * 256, *HUGE64]), ("RAM", 24, "<Q", [0, 1025, *HUGE64]),
    ("RAM_ZERO", 0, "<I", [1, *HUGE]), ("RAM_ZERO", 8, "<I", [0, 2, 1025, *HUGE]),
    ("RAM_ZERO", 16, "<Q", [MEMORY_MIB * 256, *HUGE64]), ("RAM_ZERO", 24, "<Q", [0, *HUGE64]),
    ("STOPPED", 0, "<I", [0, 3, *HUGE]), ("STOPPED", 4, "<I", [1, 2, *HUGE]), ("ROUND", 4, "<I", [2, *HUGE]),
    ("STATE", 0, "<I", [0x20202020, 0xffffffff]), ("STATE", 32, "<H", [0, 0xffff]),
    ("STATE", 34, "<H", [1]), ("STATE", 36, "<I", [0, 1, *HUGE]),
    ("SETUP_STATE", 0, "<I", [0x20202020]), ("SETUP_STATE", 36, "<I", [0, 1, *HUGE]),
    ("END", 0, "<Q", [0, 1, *HUGE64]), ("END", 8, "<Q", HUGE64),
]


@pytest.mark.parametrize("name, at, kind, values", FIELDS,
                         ids=[f"{name}+{at}" for name, at, _, _ in FIELDS])
def test_lesson_field_out_of_its_bounds_is_refused(saved: bytes, folder: Path, name: str, at: int,
                                                   kind: str, values: list[int]) -> None:
    records = list(parse(saved))
    found = indices(records)
    if name not in found:
        pages = struct.pack("<4I2Q", 0, 0, 1, 0, MEMORY_MIB * 256 - 1, 1)
        records.insert(found["STOPPED"], Record(TYPES[name], pages))
        found = indices(records)
    index = found[name]
    for value in values:
        changed = with_field(records[index], at, kind, value)
        if changed.body != records[index].body:
            assert_refused(folder, saved[:HEADER_SIZE],
                           records[:index] + [changed] + records[index + 1:], (name, at, value))


def test_body_cut_short_with_a_right_hash_is_refused(saved: bytes, folder: Path) -> None:
    records = list(parse(saved))
    for name, index in indices(records).items():
        if name in ("ROUND", "SCHEMA"):
            continue
        body = records[index].body
        for size in {0, 1, 4, len(body) // 2, len(body) - 1}:
            if 0 <= size < len(body):
                changed = Record(records[index].type, body[:size])
                assert_refused(folder, saved[:HEADER_SIZE],
                               records[:index] + [changed] + records[index + 1:], (name, size))


def test_random_state_with_right_hashes_never_crashes_godwit(saved: bytes, folder: Path) -> None:
    source = random.Random(7)
    records = list(parse(saved))
    states = [index for index, record in enumerate(records) if record.name in ("STATE", "SETUP_STATE")]
    for _ in range(40):
        changed: list[Record | bytes] = list(records)
        index = source.choice(states)
        body = bytearray(records[index].body)
        for _ in range(source.randint(1, 4)):
            if len(body) > 40:
                body[source.randrange(40, len(body))] = source.choice((0, 1, 0x80, 0xff))
        changed[index] = Record(records[index].type, bytes(body))
        restore(folder, saved[:HEADER_SIZE], changed, limit_s=0.3)


Schemas = dict[str, list[Field]]


def with_refused_msr(state: Record, schemas: Schemas) -> Record:
    field = locate(state, schemas["vcpu0"])["msr_index"]
    return with_field(state, field.at, "<I", 0xdeadbeef)


def with_xsave_cut(state: Record, schemas: Schemas) -> Record:
    return cut_state(state, locate(state, schemas["vcpu0"])["xsave"], 8)


def xsave_size(saved: bytes) -> int:
    records = list(parse(saved))
    schemas = dict(schema(record) for record in records if record.name == "SCHEMA")
    state = next(record for record in records
                 if record.name == "STATE" and entry_name(record) == "vcpu0")
    return locate(state, schemas["vcpu0"])["xsave"].count


def restored_with(saved: bytes, folder: Path, change) -> tuple[int | None, str]:
    """Restore @saved after @change(state, schemas) of vcpu0's record."""
    records = list(parse(saved))
    schemas = dict(schema(record) for record in records if record.name == "SCHEMA")
    return restore(folder, saved[:HEADER_SIZE],
                   [change(record, schemas) if record.name == "STATE"
                    and entry_name(record) == "vcpu0" else record for record in records])


def test_every_state_has_the_bytes_of_its_schema(saved: bytes) -> None:
    records = list(parse(saved))
    schemas = dict(schema(record) for record in records if record.name == "SCHEMA")
    states = [record for record in records if record.name in ("STATE", "SETUP_STATE")]
    assert {entry_name(state) for state in states} == set(schemas)
    for state in states:
        locate(state, schemas[entry_name(state)])


def test_msr_that_kvm_refuses_is_named(saved: bytes, folder: Path) -> None:
    code, told = restored_with(saved, folder, with_refused_msr)
    assert code == INCOMING_FAILED, told
    assert "0xdeadbeef" in told and "MSR" in told and len(told.strip().splitlines()) == 1


def test_lesson_xsave_state_cut(saved: bytes, folder: Path) -> None:
    size = xsave_size(saved)
    assert size >= 4096
    code, told = restored_with(saved, folder, with_xsave_cut)
    assert code == INCOMING_FAILED, told
    assert "XSAVE" in told and str(size) in told and str(size - 8) in told
    assert len(told.strip().splitlines()) == 1


@pytest.mark.parametrize("change, word", [(with_refused_msr, "0xdeadbeef"),
                                          (with_xsave_cut, "XSAVE")], ids=["msr", "xsave"])
def test_lesson_receivers_reason_reaches_the_source_which_resumes(fleet: Fleet, change, word: str
                                                                  ) -> None:
    options = {"memory": f"{MEMORY_MIB}M", "cpus": 1,
               "guest_options": "hot=1M,rate=10000/s,tick=1ms"}
    source = fleet.start("source", **options)
    source.serial.wait_ticks(50)
    schemas: Schemas = {}

    def edit(record: Record) -> Record:
        if record.name == "SCHEMA":
            name, fields = schema(record)
            schemas[name] = fields
        is_it = record.name == "STATE" and entry_name(record) == "vcpu0"
        return change(record, schemas) if is_it else record

    target = f"{fleet.folder}/target"
    destination = fleet.start("destination", incoming=f"unix:{target}", **options).ready()
    destination.serial
    Link(f"{fleet.folder}/link", target, edit=edit)
    start(source, f"unix:{fleet.folder}/link")
    wait(source, 20, "device")
    assert wait(source) == "failed"
    assert word in source.qmp.command("query-migrate")["error-desc"]
    assert destination.wait_end() == INCOMING_FAILED
    assert word in destination.output and destination.serial.ticks == 0
    assert source.status == "running"
    source.serial.wait_ticks(50)
    uri = f"unix:{fleet.folder}/last"
    last = fleet.start("last", incoming=uri, **options)
    assert move(source, last, uri).status == "completed"
    last.serial.wait_ticks(50)
    assert last.report()["errors"] == 0
