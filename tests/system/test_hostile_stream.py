# SPDX-License-Identifier: Apache-2.0
"""Streams whose checksums are right and whose contents are not."""
from __future__ import annotations

import random
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Callable

import pytest

from harness.edit import HEAD, HEADER_SIZE, TYPES, Edit, Edited, States, head
from harness.machine import Fleet, Machine, binary, run, runs_code, with_accel
from harness.move import move, start, wait
from harness.relay import Link
from harness.scene import SAVED, SAVED_ARGV, assert_moves, working

MEMORY_MIB = 32
INCOMING_FAILED = 6  # docs/exit-codes.md
# Guest memory, program and libraries, and what a restore may take beside.
PEAK_MAX_MIB = MEMORY_MIB + 32
PEAK = str(Path(__file__).parent / "harness" / "peak.py")


def parse(saved: bytes) -> list[Edited]:
    return Edit.parse(saved).records


def restore(folder: Path, top: bytes, records: list[Edited | bytes], limit_s: float = 30.0
            ) -> tuple[int | None, str]:
    """Exit status (None: it runs) and stderr; the peak of its memory is checked."""
    path = folder / "stream"
    path.write_bytes(top + b"".join(r.pack() if isinstance(r, Edited) else r for r in records))
    done = subprocess.run([sys.executable, "-I", "-S", PEAK, str(limit_s), binary(),
                           *with_accel(["run", *SAVED_ARGV, "--incoming", f"file:{path}"])],
                          stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=60)
    status, peak_kib, is_ours = map(int, done.stdout.split())
    told = done.stderr.decode(errors="replace")
    # On a busy machine it may not have come to handling the signal that ended it.
    assert status >= 0 or (is_ours and status == -signal.SIGTERM), (status, told)
    assert peak_kib < PEAK_MAX_MIB << 10
    return None if is_ours else status, told


def assert_refused(folder: Path, top: bytes, records: list[Edited | bytes], what: object) -> None:
    code, told = restore(folder, top, records)
    assert code == INCOMING_FAILED, (what, code, told)
    assert len(told.strip().splitlines()) == 1, (what, told)
    explained = run("stream", str(folder / "stream"))
    assert explained.returncode in (0, 1), (what, explained)


@pytest.mark.parametrize("top", [
    head(magic=b"GODWITMH"), head(major=2), head(major=0), head(flags=0), head(flags=3),
    head(reserved=1), head(hash=0),
], ids=["magic", "major 2", "major 0", "return path", "flag", "reserved", "hash"])
def test_header_out_of_the_specification_is_refused(saved: bytes, folder: Path, top: bytes) -> None:
    assert_refused(folder, top, parse(saved), top)


def test_newer_minor_version_and_optional_records_are_accepted(saved: bytes, folder: Path) -> None:
    records: list[Edited | bytes] = []
    for record in parse(saved):
        records += [Edited(0x80001234, b"from the future"), record]
    code, told = restore(folder, head(minor=7), records, limit_s=2)
    assert code is None, told


def indices(records: list[Edited]) -> dict[str, int]:
    """The first record of each name."""
    found: dict[str, int] = {}
    for index, record in enumerate(records):
        found.setdefault(record.name, index)
    return found


def test_record_that_is_missing_is_noticed(saved: bytes, folder: Path) -> None:
    records = parse(saved)
    for name, index in indices(records).items():
        if name in ("ROUND", "SCHEMA", "EARLY_STATE"):
            continue  # they explain or come early, and nothing is lost without them
        assert_refused(folder, saved[:HEADER_SIZE], records[:index] + records[index + 1:], name)


def test_stream_without_early_state_restores(saved: bytes, folder: Path) -> None:
    records = [record for record in parse(saved) if record.name != "EARLY_STATE"]
    code, told = restore(folder, saved[:HEADER_SIZE], records, limit_s=5)
    assert code is None, (code, told)  # it runs until it is told to end


def test_record_that_comes_twice_or_too_late_is_refused(saved: bytes, folder: Path) -> None:
    records = parse(saved)
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
    records = parse(saved)
    for type_ in (0, 15, 0x101, 0x104, 0x7fffffff, TYPES["GO"]):
        for at in (0, 1, len(records) // 2, len(records) - 1):
            assert_refused(folder, saved[:HEADER_SIZE],
                           records[:at] + [Edited(type_, bytes(8))] + records[at:], (type_, at))


def test_lesson_receiver_allocates_no_more_than_its_bounds(saved: bytes, folder: Path) -> None:
    records = parse(saved)
    for type_ in (1, 2, 3, 5, 6, 7, 9, 11, 0x80001234):
        for length in (0xffffffff, 0x80000000, 0x10000000, (4 << 20) + (1 << 17)):
            lying = struct.pack("<IIQ", type_, length, 0) + bytes(64)
            for at in (0, len(records) // 2):
                assert_refused(folder, saved[:HEADER_SIZE], [*records[:at], lying], (type_, length))


def with_field(record: Edited, at: int, kind: str, value: int) -> Edited:
    body = bytearray(record.body)
    struct.pack_into(kind, body, at, value)
    return Edited(record.kind, bytes(body))


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
    records = parse(saved)
    found = indices(records)
    if name not in found:
        pages = struct.pack("<4I2Q", 0, 0, 1, 0, MEMORY_MIB * 256 - 1, 1)
        records.insert(found["STOPPED"], Edited(TYPES[name], pages))
        found = indices(records)
    index = found[name]
    for value in values:
        changed = with_field(records[index], at, kind, value)
        if changed.body != records[index].body:
            assert_refused(folder, saved[:HEADER_SIZE],
                           records[:index] + [changed] + records[index + 1:], (name, at, value))


def test_body_cut_short_with_a_right_hash_is_refused(saved: bytes, folder: Path) -> None:
    records = parse(saved)
    for name, index in indices(records).items():
        if name in ("ROUND", "SCHEMA"):
            continue
        body = records[index].body
        for size in {0, 1, 4, len(body) // 2, len(body) - 1}:
            if 0 <= size < len(body):
                changed = Edited(records[index].kind, body[:size])
                assert_refused(folder, saved[:HEADER_SIZE],
                               records[:index] + [changed] + records[index + 1:], (name, size))


def test_random_state_with_right_hashes_never_crashes_godwit(saved: bytes, folder: Path) -> None:
    source = random.Random(7)
    records = parse(saved)
    states = [index for index, record in enumerate(records) if record.name.endswith("STATE")]
    for _ in range(40):
        changed: list[Edited | bytes] = list(records)
        index = source.choice(states)
        body = bytearray(records[index].body)
        for _ in range(source.randint(1, 4)):
            if len(body) > 40:
                body[source.randrange(40, len(body))] = source.choice((0, 1, 0x80, 0xff))
        changed[index] = Edited(records[index].kind, bytes(body))
        restore(folder, saved[:HEADER_SIZE], changed, limit_s=0.3)


def spans(saved: bytes) -> list[tuple[int, int, str]]:
    """Where each record starts and ends, and what it is."""
    at, found = HEADER_SIZE, []
    for record in parse(saved):
        end = at + len(record.pack())
        found.append((at, end, record.name))
        at = end
    return found


def refusal(folder: Path, data: bytes, what: object) -> str:
    """The one line in which a restore of @data says why it fails."""
    code, told = restore(folder, data, [])
    assert code == INCOMING_FAILED, (what, code, told)
    assert len(told.strip().splitlines()) == 1, (what, told)
    assert sorted(path.name for path in folder.iterdir()) == ["stream"], what
    return told


def test_stream_cut_at_every_record_names_the_last_one(saved: bytes, folder: Path) -> None:
    source = random.Random(8)
    for number, (at, end, name) in enumerate(spans(saved), 1):
        told = refusal(folder, saved[:at], at)
        assert (f"after record {number - 1}, " if number > 1 else "before the first record") in told
        inside = source.randrange(at + HEAD.size, end) if end > at + HEAD.size else at + 8
        told = refusal(folder, saved[:inside], inside)
        assert f"record {number}, {name}: " in told or f"after record {number - 1}, " in told


def test_flip_anywhere_in_a_record_names_it(saved: bytes, folder: Path) -> None:
    source = random.Random(9)
    for number, (at, end, name) in enumerate(spans(saved), 1):
        regions = ((at, at + 8), (at + 8, at + 16), (at + 16, end), (end - 8, end))
        for first, last in 2 * regions:
            if first >= last:
                continue
            point = source.randrange(first, last)
            damaged = bytearray(saved)
            damaged[point] ^= 1 << source.randrange(8)
            told = refusal(folder, bytes(damaged), (number, name, point - at))
            # A length that grew may take the record behind for its own end.
            assert f"record {number}, " in told, (number, name, point - at, told)


def flip_first(name: str) -> Callable[[str, bytes], bytes]:
    """For a Link: the checksum of the first record @name, or of the header, is wrong."""
    is_done = False

    def touch(which: str, data: bytes) -> bytes:
        nonlocal is_done
        if which != name or is_done or not data:
            return data
        is_done = True
        at = 24 if name == "header" else 8
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]

    return touch


def with_version(which: str, data: bytes) -> bytes:
    return head(major=2, flags=0) if which == "header" and data else data


def in_body(name: str, at: int, kind: str, value: int) -> Callable[[Edited], Edited]:
    """For a Link: a record that lies, with a right checksum."""
    return lambda record: with_field(record, at, kind, value) if record.name == name else record


def with_feature(record: Edited) -> Edited:
    """CPUID 7.0 EBX: all features there are."""
    if record.name != "SETUP_STATE":
        return record
    body = bytearray(record.body)
    for at in range(44, len(body) - 40 + 1, 40):
        function, index = struct.unpack_from("<II", body, at)
        if (function, index) == (7, 0):
            struct.pack_into("<I", body, at + 16, 0xffffffff)
    return Edited(record.kind, bytes(body))


def without_serial(record: Edited) -> Edited:
    is_it = record.name == "STATE" and record.entry == "serial0"
    return with_field(record, 0, "<B", ord("X")) if is_it else record


# What is wrong, what both sides say of it, and what the link does.
LIES = [
    ("version", "stream version 2.0, this godwit reads 1", {"touch": with_version}),
    ("header", "stream header: wrong checksum", {"touch": flip_first("header")}),
    *([("features", "SETUP_END: this host lacks CPU features", {"edit": with_feature})]
      if runs_code() else []),  # a workload has none
    ("cpus", "MACHINE: machine differs: 2 vCPUs", {"edit": in_body("MACHINE", 0, "<I", 2)}),
    ("memory", "MACHINE: machine differs: 67108864 bytes",
     {"edit": in_body("MACHINE", 80, "<Q", 64 << 20)}),
    ("block", "MACHINE: machine differs: the source has RAM 'Xam'",
     {"edit": in_body("MACHINE", 96, "<B", ord("X"))}),
    ("block name", "MACHINE: malformed name", {"edit": in_body("MACHINE", 96, "<B", ord(" "))}),
    ("machine name", "MACHINE: malformed name", {"edit": in_body("MACHINE", 16, "<B", 7)}),
    ("device", "STATE: machine differs: no 'Xerial0' here", {"edit": without_serial}),
    *[(name, f"{name}: wrong checksum", {"touch": flip_first(name)}) for name in (
        "MACHINE", "SCHEMA", "SETUP_STATE", "SETUP_END", "RAM", "ROUND", "SWITCH", "STOPPED",
        "STATE", "END", "VERIFY")],
]


def failing_move(source: Machine, fleet: Fleet, name: str, lie: dict) -> Machine:
    """Move through a link that does what @lie says; returns the destination."""
    target = f"{fleet.folder}/{name}.target"
    destination = fleet.start(name, incoming=f"unix:{target}", **SAVED).ready()
    Link(f"{fleet.folder}/{name}.link", target, **lie)
    start(source, f"unix:{fleet.folder}/{name}.link")
    assert wait(source) == "failed"
    return destination


def test_damage_on_a_live_link_is_named_on_both_sides_and_the_guest_runs_on(fleet: Fleet) -> None:
    source = fleet.start("source", **SAVED)
    source.qmp.command("migrate-set-capabilities",
                       capabilities=[{"capability": "verify", "state": True}])
    for number, (what, reason, lie) in enumerate(LIES):
        source.serial.wait_ticks(5)
        destination = failing_move(source, fleet, f"d{number}", lie)
        told = source.qmp.command("query-migrate")["error-desc"]
        assert told.startswith("destination: ") and reason in told, (what, told)
        assert destination.wait_end() == INCOMING_FAILED, what
        assert reason in destination.output, (what, destination.output)
        assert len(destination.output.strip().splitlines()) == 1, (what, destination.output)
        assert source.status == "running", what
    assert_moves(fleet, source, **SAVED)


def test_damaged_reply_fails_the_move_and_the_guest_runs_on(fleet: Fleet) -> None:
    source = fleet.start("source", **SAVED)
    for number, name in enumerate(("BUILT", "ROUND_DONE", "READY")):
        source.serial.wait_ticks(5)
        destination = failing_move(source, fleet, f"d{number}", {"touch": flip_first(name)})
        told = source.qmp.command("query-migrate")["error-desc"]
        assert "destination: record " in told and f"{name}: wrong checksum" in told, told
        assert destination.wait_end() == INCOMING_FAILED
        assert "the source keeps the guest" in destination.output
        assert source.status == "running"
    assert_moves(fleet, source, **SAVED)


@pytest.mark.parametrize("name, is_at_destination", [("GO", False), ("RUNNING", True)])
def test_damage_after_go_leaves_at_most_one_copy(fleet: Fleet, name: str, is_at_destination: bool
                                                 ) -> None:
    source = fleet.start("source", **SAVED)
    source.serial.wait_ticks(5)
    destination = failing_move(source, fleet, "d", {"touch": flip_first(name)})
    told = source.qmp.command("query-migrate")["error-desc"]
    assert "GO was sent" in told and f"{name}: wrong checksum" in told
    assert source.status == "handed-over"
    if is_at_destination:
        destination.serial.wait_ticks(20)
        assert destination.report()["errors"] == 0
        return
    assert destination.wait_end() == INCOMING_FAILED
    assert "GO: wrong checksum" in destination.output
    source.qmp.command("cont", force=True)
    source.serial.wait_ticks(20)
    assert source.report()["errors"] == 0


def with_refused_msr(state: Edited, states: States) -> Edited:
    raw = states.values(state)["msr_index"].raw
    return states.changed(state, "msr_index", struct.pack("<I", 0xdeadbeef) + raw[4:])


def with_xsave_cut(state: Edited, states: States) -> Edited:
    return states.changed(state, "xsave", states.values(state)["xsave"].raw[:-8])


def is_of_vcpu0(record: Edited) -> bool:
    return record.name == "STATE" and record.entry == "vcpu0"


def states_of(records: list[Edited]) -> States:
    states = States()
    for record in records:
        states.hear(record)
    return states


def xsave_size(saved: bytes) -> int:
    records = parse(saved)
    return len(states_of(records).values(next(filter(is_of_vcpu0, records)))["xsave"].raw)


def restored_with(saved: bytes, folder: Path, change) -> tuple[int | None, str]:
    """Restore @saved after @change(state, states) of vcpu0's record."""
    records = parse(saved)
    states = states_of(records)
    return restore(folder, saved[:HEADER_SIZE],
                   [change(record, states) if is_of_vcpu0(record) else record
                    for record in records])


def test_msr_that_kvm_refuses_is_named(kvm: None, saved: bytes, folder: Path) -> None:
    code, told = restored_with(saved, folder, with_refused_msr)
    assert code == INCOMING_FAILED, told
    assert "0xdeadbeef" in told and "MSR" in told and len(told.strip().splitlines()) == 1


def test_lesson_xsave_state_cut(kvm: None, saved: bytes, folder: Path) -> None:
    size = xsave_size(saved)
    assert size >= 4096
    code, told = restored_with(saved, folder, with_xsave_cut)
    assert code == INCOMING_FAILED, told
    assert "XSAVE" in told and str(size) in told and str(size - 8) in told
    assert len(told.strip().splitlines()) == 1


@pytest.mark.parametrize("change, word", [(with_refused_msr, "0xdeadbeef"),
                                          (with_xsave_cut, "XSAVE")], ids=["msr", "xsave"])
def test_lesson_receivers_reason_reaches_the_source_which_resumes(kvm: None, fleet: Fleet, change,
                                                                  word: str) -> None:
    source = working(fleet, **SAVED)
    states = States()

    def edit(record: Edited) -> Edited:
        states.hear(record)
        return change(record, states) if is_of_vcpu0(record) else record

    target = f"{fleet.folder}/target"
    destination = fleet.start("destination", incoming=f"unix:{target}", **SAVED).ready()
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
    last = fleet.start("last", incoming=uri, **SAVED)
    assert move(source, last, uri).status == "completed"
    last.serial.wait_ticks(50)
    assert last.report()["errors"] == 0
