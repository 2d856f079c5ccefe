# SPDX-License-Identifier: Apache-2.0
"""Each rule of docs/spec/stream.md broken once: godwit and tools/verify-stream both say where.

Each fault is one change to a saved stream, with the checksums made right again;
and what the specification allows, both take.
"""
from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import pytest

from harness.edit import (STATE_HEAD, TYPES, Change, Edit, Edited, add, again, all_of, drop, ends,
                          header, insert, longer, put, ram, replace, runs, schema_body, shift,
                          shorter, where, zero)
from harness.machine import ROOT, Fleet, run, runs_code
from harness.second import SMALL, assert_restores, reader, save

INCOMING_FAILED = 6  # docs/exit-codes.md
BLOCK_PAGES = 64 << 20 >> 12
SETUP = "cpuid" if runs_code() else "sim-setup"  # the pre-state
FREE = BLOCK_PAGES - 2100  # from here on this guest has no pages


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small stream with everything in it but RAM_ZERO, which the edits bring."""
    if runs_code() and not os.path.exists("/dev/kvm"):
        pytest.skip("this machine has no /dev/kvm")
    folder = tmp_path_factory.mktemp("second")
    fleet = Fleet(folder)
    try:
        return save(fleet, folder / "saved", "--verify", **SMALL)
    finally:
        fleet.end()


# ---- what breaks one rule

# What the state of i8042 is; a test that breaks it puts another in its place.
FIELDS = [(b"status", 1, 0, 1, 1), (b"control", 1, 0, 1, 1), (b"pending", 1, 0, 1, 1),
          (b"output", 1, 0, 1, 1)]


def schema(**members: Any) -> Change:
    """Another SCHEMA for i8042."""
    described = {"name": b"i8042", "fields": FIELDS, **members}
    return replace("SCHEMA", "i8042", body=schema_body(**described))


def first_field(name: bytes = b"status", kind: int = 1, varying: int = 0, since: int = 1,
                count: int = 1) -> Change:
    return schema(fields=[(name, kind, varying, since, count), *FIELDS[1:]])


def state_data(change: Callable[[bytes], bytes]) -> Change:
    """Other fields for i8042, and the size that they have then."""
    def changed(body: bytes) -> bytes:
        data = change(body[STATE_HEAD:])
        return body[:STATE_HEAD - 4] + struct.pack("<I", len(data)) + data
    return replace("STATE", "i8042", body=changed)


def received(count: int, elements: bytes) -> Change:
    """The varying field of serial0, its received bytes, with any count and bytes."""
    def change(edit: Edit) -> int:
        data = b""
        for value in reader.verify(edit.pack()).states["serial0"].values:
            if value.field.name == "rx":
                data += struct.pack("<I", count) + elements
            else:
                assert not value.field.is_varying
                data += value.raw
        record = edit.at("STATE", "serial0")
        record.body = record.body[:STATE_HEAD - 4] + struct.pack("<I", len(data)) + data
        return edit.find("STATE", "serial0")
    return change


def set_up_again(name: str, which: int | str, before: str) -> Change:
    """What a state said, as a SETUP_AGAIN."""
    return lambda edit: insert(Edited(TYPES["SETUP_AGAIN"], edit.at(name, which).body), before)(edit)


def early(name: str, which: int | str, before: str) -> Change:
    """What a state says, as an EARLY_STATE."""
    return lambda edit: insert(Edited(TYPES["EARLY_STATE"], edit.at(name, which).body), before)(edit)


def state_body(name: bytes) -> bytes:
    """The state of an entry without fields."""
    return struct.pack("<32sHHI", name, 1, 0, 0)


NEW_SCHEMA = insert(Edited(TYPES["SCHEMA"], schema_body(name=b"new")), "SETUP_STATE")
NEW_EARLY = insert(Edited(TYPES["EARLY_STATE"], state_body(b"new")), "SETUP_END")


EVERY_OTHER = [(2 * index, 1) for index in range(1025)]
PLACES = ("header", "end of file", "behind the last record")  # where no record is at fault


@dataclass(frozen=True)
class Wrong:
    """A stream that breaks one rule, and how each reader has to say it.

    Both name the record by number and name; @told is what the destination says
    beside.  None: it has descriptions of its own, can do without those in SCHEMA,
    and loads the stream.  `godwit stream` names it as well, unless @is_explained: it
    hashes no memory.
    """
    what: str
    change: Change
    record: str  # as verify-stream names it
    field: str
    told: str | None = ""
    blamed: str = ""  # the record that the destination names, when it is another one
    is_explained: bool = False

    def named(self, number: int) -> str:
        """How godwit begins when it speaks of this record."""
        if self.record in PLACES:
            return ""
        is_known = self.record in TYPES
        return f"record {number}, {self.record if is_known else 'of unknown type'}: "


WRONG = [
    # header
    Wrong("magic", header(magic=b"GODWITMH"), "header", "magic", "not a godwit migration stream"),
    Wrong("newer major", header(major=2), "header", "major version", "version 2."),
    Wrong("older major", header(major=0), "header", "major version", "version 0."),
    Wrong("unknown flag", header(flags=3), "header", "flags", "stream header"),
    Wrong("file with a return path", header(flags=0), "header", "flags", "a way back"),
    Wrong("header reserved", header(reserved=1 << 63), "header", "reserved", "stream header"),
    Wrong("header hash", header(hash=1), "header", "hash", "stream header: wrong checksum"),
    # records
    Wrong("type 0", insert(Edited(0), "SETUP_END"), "0x0", "type", "0x0"),
    Wrong("unknown type", insert(Edited(15), "ROUND"), "0xf", "type", "0xf"),
    Wrong("BUILT", insert(Edited(0x101, bytes(8)), "ROUND"), "BUILT", "type", "0x101"),
    Wrong("hash", replace("SETUP_STATE", hash=1), "SETUP_STATE", "hash",
          "wrong checksum"),
    Wrong("hash of RAM", replace("RAM", hash=1), "RAM", "hash", "wrong checksum"),
    Wrong("optional with a wrong hash", insert(Edited(0x80001234, b"x", hash=1), "ROUND"),
          "optional", "hash", "wrong checksum"),
    Wrong("length", replace("STATE", length=(1 << 20) + 1), "STATE", "length",
          "1048577 bytes, at most 1048576"),
    Wrong("length of RAM", replace("RAM", length=16 + 16384 + (4 << 20) + 1), "RAM", "length",
          "4210705 bytes, at most 4210704"),
    Wrong("optional too long", insert(Edited(0x80001234, bytes(1 << 20) + b"x"), "ROUND"),
          "optional", "length", "1048577 bytes"),
    Wrong("padding", replace("SETUP_STATE", padding=b"\0\0\0\1"), "SETUP_STATE", "padding",
          "padding is not zero"),
    Wrong("optional padding", insert(Edited(0x80001234, b"x", padding=b"\0\0\0\0\0\0\1"), "ROUND"),
          "optional", "padding", "padding is not zero"),
    # order
    Wrong("no MACHINE", drop("MACHINE", "SCHEMA"), "SCHEMA", "step"),
    Wrong("two MACHINE", again("MACHINE", "SCHEMA"), "MACHINE", "step"),
    Wrong("SCHEMA after the setup", shift("SCHEMA", "ROUND", which=-1), "SCHEMA", "step"),
    Wrong("SETUP_STATE after the setup", shift("SETUP_STATE", "RAM"), "SETUP_STATE", "step",
          f"the state of '{SETUP}' is missing", "SETUP_END"),
    Wrong("RAM in the setup", shift("RAM", "SETUP_END"), "RAM", "step"),
    Wrong("ROUND in the setup", shift("ROUND", "SETUP_END"), "ROUND", "step"),
    # What follows may be RAM or RAM_ZERO.
    Wrong("no SETUP_END", drop("SETUP_END"), "", "step"),
    Wrong("two SETUP_END", again("SETUP_END", "RAM"), "SETUP_END", "step"),
    Wrong("no SWITCH", drop("SWITCH", "STOPPED"), "STOPPED", "step"),
    Wrong("two SWITCH", again("SWITCH", "STOPPED"), "SWITCH", "step"),
    Wrong("ROUND after SWITCH", shift("ROUND", "STOPPED"), "ROUND", "step"),
    Wrong("RAM after SWITCH", shift("RAM", "STOPPED"), "RAM", "step"),
    Wrong("RAM_ZERO after SWITCH", insert(runs("RAM_ZERO", (0, 1)), "STOPPED"), "RAM_ZERO",
          "step"),
    Wrong("STATE before STOPPED", shift("STATE", "SWITCH"), "STATE", "step"),
    Wrong("no STOPPED", drop("STOPPED", "STATE"), "STATE", "step"),
    Wrong("two STOPPED", again("STOPPED", "STATE"), "STOPPED", "step"),
    Wrong("SWITCH after STOPPED", insert(Edited(14), "STATE"), "SWITCH", "step"),
    Wrong("ROUND after STOPPED", shift("ROUND", "STATE"), "ROUND", "step"),
    Wrong("STATE after END", again("STATE", "VERIFY"), "STATE", "step"),
    Wrong("RAM after END", again("RAM", "VERIFY"), "RAM", "step"),
    Wrong("VERIFY before END", shift("VERIFY", "END"), "VERIFY", "step"),
    Wrong("two END", again("END", "VERIFY"), "END", "step"),
    Wrong("no END", drop("END", "VERIFY"), "VERIFY", "step"),
    Wrong("no VERIFY", ends(lambda edit: edit.records.pop() and 0), "end of file", "last record",
          "the stream ends"),
    Wrong("VERIFY not announced", ends(put("STOPPED", 4, "I", 0)), "behind the last record",
          "size", "data after this last record"),
    Wrong("GO in a file", insert(Edited(12), "END"), "GO", "type", "out of turn"),
    Wrong("CANCEL in a file", insert(Edited(13, b"no more"), "ROUND"), "CANCEL", "type",
          "not in a saved stream"),
    Wrong("a byte behind", ends(header(tail=b"\0")), "behind the last record", "size",
          "data after this last record"),
    Wrong("an optional record behind", ends(
        lambda edit: edit.records.append(Edited(0x80001234)) or 0), "behind the last record",
          "size", "data after this last record"),
    Wrong("header alone", ends(lambda edit: edit.records.clear() or 0), "end of file",
          "last record", "the stream ends"),
    # empty bodies
    Wrong("SETUP_END with a body", replace("SETUP_END", body=longer), "SETUP_END", "length"),
    Wrong("SWITCH with a body", replace("SWITCH", body=longer), "SWITCH", "length"),
    # machine
    Wrong("no vCPU", put("MACHINE", 0, "I", 0), "MACHINE", "cpus", "0 vCPUs"),
    Wrong("no block", put("MACHINE", 4, "I", 0), "MACHINE", "block count"),
    Wrong("65 blocks", replace(
        "MACHINE", body=lambda b: b[:4] + struct.pack("<I", 65) + b[8:80] + b[80:] * 65),
          "MACHINE", "block count"),
    Wrong("block count too high", put("MACHINE", 4, "I", 2), "MACHINE", "block 1 size"),
    Wrong("machine reserved", put("MACHINE", 8, "Q", 1), "MACHINE", "reserved"),
    Wrong("blank in a name", put("MACHINE", 16, "3s", b"m 0"), "MACHINE", "machine name"),
    Wrong("NUL in a name", put("MACHINE", 16, "3s", b"m\x000"), "MACHINE", "machine name"),
    Wrong("byte of no ASCII", put("MACHINE", 16, "3s", b"m\xff0"), "MACHINE", "machine name"),
    Wrong("block without bytes", put("MACHINE", 80, "Q", 0), "MACHINE", "block 0 size",
          "0 bytes of RAM"),
    Wrong("part of a page", put("MACHINE", 80, "Q", (64 << 20) + 1), "MACHINE", "block 0 size",
          "67108865 bytes of RAM"),
    Wrong("page size", put("MACHINE", 88, "Q", 8192), "MACHINE", "block 0 page size"),
    Wrong("block's name", put("MACHINE", 96, "4s", b"ra m"), "MACHINE", "block 0 name"),
    Wrong("machine too long", replace("MACHINE", body=longer), "MACHINE", "length"),
    Wrong("machine too short", replace("MACHINE", body=shorter), "MACHINE", "block 0 name"),
    # schema
    Wrong("schema without a name", schema(name=b""), "SCHEMA", "name length"),
    Wrong("schema's long name", schema(name=b"i" * 32), "SCHEMA", "name length"),
    Wrong("schema's name", schema(name=b"i 042"), "SCHEMA", "name"),
    Wrong("schema version 0", schema(version=0), "SCHEMA", "version"),
    Wrong("513 fields", schema(fields=FIELDS[:1] * 513), "SCHEMA", "field count"),
    Wrong("schema cut", schema(count=5), "SCHEMA", "field 4 name length"),
    Wrong("schema too long", replace("SCHEMA", body=longer), "SCHEMA", "length"),
    Wrong("schema empty", replace("SCHEMA", body=b""), "SCHEMA", "name length"),
    Wrong("field without a name", first_field(name=b""), "SCHEMA", "field 0 name length"),
    Wrong("field's long name", first_field(name=b"s" * 48), "SCHEMA", "field 0 name length"),
    Wrong("field's name", first_field(name=b"st\x7f"), "SCHEMA", "field 0 name"),
    Wrong("kind 0", first_field(kind=0), "SCHEMA", "field 0 kind"),
    Wrong("kind 5", first_field(kind=5), "SCHEMA", "field 0 kind"),
    Wrong("varying", first_field(varying=2), "SCHEMA", "field 0 varying"),
    Wrong("since 0", first_field(since=0), "SCHEMA", "field 0 since-version"),
    Wrong("since later", first_field(since=2), "SCHEMA", "field 0 since-version"),
    Wrong("no element", first_field(count=0), "SCHEMA", "field 0 count"),
    Wrong("too many elements", first_field(count=(1 << 20) + 1), "SCHEMA", "field 0 count"),
    Wrong("schema twice", again("SCHEMA", "SETUP_STATE"), "SCHEMA", "name", None),
    Wrong("schema behind its state", shift("SETUP_STATE", "SCHEMA"), "SETUP_STATE",
          "entry name", None),
    Wrong("schema missing", drop("SCHEMA", "SETUP_STATE"), "SETUP_STATE", "entry name", None),
    Wrong("schema without state", all_of(insert(Edited(2, schema_body(name=b"new")), "SETUP_STATE"),
                                         where("END")), "END", "number of states", None),
    Wrong("schema of wider fields", all_of(first_field(kind=2), where("STATE", "i8042")),
          "STATE", "output", "i8042: field 0 of version 1 is 'status, 1 x u16 since version 1' at"
          " the source, 'status, 1 x u8 since version 1' here", "SCHEMA"),
    Wrong("schema of fewer fields", all_of(schema(fields=FIELDS[:3]), where("STATE", "i8042")),
          "STATE", "length", "i8042: field 3 of version 1 is 'none' at the source", "SCHEMA"),
    # state
    Wrong("unknown entry", put("STATE", 0, "5s", b"other", which="i8042"), "STATE", "entry name",
          "no 'other' here"),
    Wrong("entry's name", put("STATE", 0, "5s", b"i 042", which="i8042"), "STATE", "entry name"),
    Wrong("entry without a name", put("STATE", 0, "5s", b"", which="i8042"), "STATE", "entry name",
          "no '' here"),
    Wrong("entry's name with more behind", put("STATE", 31, "c", b"x", which="i8042"), "STATE",
          "entry name"),
    Wrong("state version 0", put("STATE", 32, "H", 0, which="i8042"), "STATE", "version",
          "i8042: state version 0"),
    Wrong("state version 2", put("STATE", 32, "H", 2, which="i8042"), "STATE", "version",
          "i8042: state version 2"),
    Wrong("state reserved", put("STATE", 34, "H", 1, which="i8042"), "STATE", "reserved"),
    Wrong("state size too high", put("STATE", 36, "I", 5, which="i8042"), "STATE", "size"),
    Wrong("state size too low", put("STATE", 36, "I", 3, which="i8042"), "STATE", "size"),
    Wrong("state too short for its head", replace("STATE", "i8042", body=lambda b: b[:39]), "STATE",
          "size"),
    Wrong("a field missing", state_data(lambda data: data[:-1]), "STATE", "output",
          "i8042: the state ends inside output"),
    Wrong("a byte too many", state_data(lambda data: data + b"\0"), "STATE", "length",
          "i8042: 1 bytes of state left over"),
    Wrong("more elements than the schema has", received(17, bytes(17)), "STATE", "count of rx",
          "serial0: rx: 17 elements"),
    Wrong("more elements than there are", received(16, b""), "STATE", "rx",
          "serial0: the state ends inside rx"),
    Wrong("state twice", again("STATE", "END"), "STATE", "entry name"),
    Wrong("setup state twice", again("SETUP_STATE", "SETUP_END"), "SETUP_STATE", "entry name",
          f"'{SETUP}' came twice"),
    Wrong("EARLY_STATE after the setup", early("SETUP_STATE", 0, "RAM"), "EARLY_STATE", "step"),
    Wrong("EARLY_STATE after STOPPED", early("SETUP_STATE", 0, "STATE"), "EARLY_STATE", "step"),
    Wrong("early state twice", all_of(early("SETUP_STATE", 0, "SETUP_STATE"),
                                      early("SETUP_STATE", 0, "SETUP_STATE")), "EARLY_STATE",
          "entry name", f"'{SETUP}' came twice"),
    Wrong("early state, then in SETUP_STATE", all_of(early("SETUP_STATE", 0, "SETUP_STATE"),
                                                     where("SETUP_STATE")), "SETUP_STATE",
          "entry name", f"'{SETUP}' came twice"),
    Wrong("early state behind its SETUP_STATE", early("SETUP_STATE", 0, "SETUP_END"), "EARLY_STATE",
          "entry name", f"'{SETUP}' came twice"),
    Wrong("early state, then in STATE", all_of(early("STATE", "i8042", "SETUP_END"),
                                               where("STATE", "i8042")), "STATE", "entry name",
          "'i8042' is nothing that comes early", "EARLY_STATE"),
    Wrong("early state too short", insert(Edited(TYPES["EARLY_STATE"], b"x"), "SETUP_END"),
          "EARLY_STATE", "entry name", "too short"),
    # What a destination does not know it skips, whatever else is wrong with it.
    Wrong("early state without a schema", NEW_EARLY, "EARLY_STATE", "entry name", None),
    Wrong("unknown early state twice", all_of(NEW_SCHEMA, NEW_EARLY, NEW_EARLY), "EARLY_STATE",
          "entry name", None),
    Wrong("set up again in the setup", set_up_again("SETUP_STATE", 0, "SETUP_END"), "SETUP_AGAIN",
          "step"),
    Wrong("set up again after SWITCH", set_up_again("SETUP_STATE", 0, "STOPPED"), "SETUP_AGAIN",
          "step"),
    Wrong("set up again, never before", set_up_again("STATE", "i8042", "ROUND"), "SETUP_AGAIN",
          "entry name", "'i8042' changes before it was set up"),
    Wrong("set up again, too short", insert(Edited(TYPES["SETUP_AGAIN"], b"x"), "ROUND"),
          "SETUP_AGAIN", "entry name"),
    Wrong("state missing", drop("STATE", "END", which="i8042"), "END", "number of states",
          "the state of 'i8042' is missing"),
    # ram and runs
    Wrong("RAM too short", insert(Edited(5, struct.pack("<II", 0, 1)), "ROUND"), "RAM",
          "run count"),
    Wrong("unknown block", ram((FREE, 1), block=1), "RAM", "block"),
    Wrong("RAM flag", ram((FREE, 1), flags=3), "RAM", "flags"),
    Wrong("RAM not checked", ram((FREE, 1), flags=0), "RAM", "flags"),
    Wrong("RAM reserved", ram((FREE, 1), reserved=1), "RAM", "reserved"),
    Wrong("no run", ram(), "RAM", "run count"),
    Wrong("1025 runs", ram(*EVERY_OTHER, pages=0), "RAM", "run count"),
    Wrong("2^32 - 1 runs", ram((FREE, 1), count=(1 << 32) - 1), "RAM", "run count"),
    Wrong("run without pages", ram((FREE, 0)), "RAM", "run 0 pages"),
    Wrong("run behind the block", ram((BLOCK_PAGES, 1)), "RAM", "run 0 first page"),
    Wrong("run over the block's end", ram((BLOCK_PAGES - 1, 2)), "RAM", "run 0 pages"),
    Wrong("run's sum too big", ram((1, (1 << 64) - 1), pages=1), "RAM", "run 0 pages"),
    Wrong("run's address too big", ram((1 << 52, 1)), "RAM", "run 0 first page"),
    Wrong("runs overlap", ram((FREE, 2), (FREE + 1, 1)), "RAM", "run 1 first page"),
    Wrong("runs descend", ram((FREE + 2, 1), (FREE, 1)), "RAM", "run 1 first page"),
    Wrong("1025 pages", ram((FREE, 1025)), "RAM", "number of pages"),
    Wrong("page missing", ram((FREE, 2), pages=1), "RAM", f"pages from {FREE}"),
    Wrong("page too many", ram((FREE, 1), pages=2), "RAM", "length"),
    Wrong("zero: unknown block", zero((0, 1), block=1), "RAM_ZERO", "block"),
    Wrong("zero: checked", zero((0, 1), flags=1), "RAM_ZERO", "flags"),
    Wrong("zero: reserved", zero((0, 1), reserved=1), "RAM_ZERO", "reserved"),
    Wrong("zero: no run", zero(), "RAM_ZERO", "run count"),
    Wrong("zero: 1025 runs", zero(*EVERY_OTHER), "RAM_ZERO", "run count"),
    Wrong("zero: run without pages", zero((5, 0)), "RAM_ZERO", "run 0 pages"),
    Wrong("zero: run over the block's end", zero((0, BLOCK_PAGES + 1)), "RAM_ZERO", "run 0 pages"),
    Wrong("zero: runs overlap", zero((0, 5), (4, 1)), "RAM_ZERO", "run 1 first page"),
    Wrong("zero: run missing", zero((0, 5), count=2), "RAM_ZERO", "run 1 first page"),
    Wrong("zero: run too many", zero((0, 5), (7, 1), count=1), "RAM_ZERO", "length"),
    # the others
    Wrong("round flags", put("ROUND", 4, "I", 2), "ROUND", "flags"),
    Wrong("round too long", replace("ROUND", body=longer), "ROUND", "length"),
    Wrong("round too short", replace("ROUND", body=shorter), "ROUND", "flags"),
    Wrong("run state 0", put("STOPPED", 0, "I", 0), "STOPPED", "run state"),
    Wrong("run state 3", put("STOPPED", 0, "I", 3), "STOPPED", "run state"),
    Wrong("stopped flags", put("STOPPED", 4, "I", 3), "STOPPED", "flags"),
    Wrong("stopped too long", replace("STOPPED", body=longer), "STOPPED", "length"),
    Wrong("stopped too short", replace("STOPPED", body=shorter), "STOPPED", "flags"),
    Wrong("fewer pages than END says", drop("RAM", "END"), "END", "pages sent"),
    Wrong("fewer zero pages than END says", add("END", 8, "Q", 1), "END", "zero pages"),
    Wrong("end too long", replace("END", body=longer), "END", "length"),
    Wrong("end too short", replace("END", body=shorter), "END", "zero pages"),
    Wrong("hash of memory", put("VERIFY", 0, "Q", 1), "VERIFY", "hash of RAM", "RAM differs",
          is_explained=True),
    Wrong("pages in the hash", put("VERIFY", 8, "Q", 1), "VERIFY", "pages", "RAM differs",
          is_explained=True),
    Wrong("verify too long", replace("VERIFY", body=longer), "VERIFY", "length"),
    Wrong("verify too short", replace("VERIFY", body=shorter), "VERIFY", "pages"),
]
if runs_code():  # other machines without devices have no EARLY_STATE of their own
    WRONG += [
        Wrong("vCPU's early state twice", again("EARLY_STATE", "SETUP_END"), "EARLY_STATE",
              "entry name", "'vcpu0-setup' came twice"),
        Wrong("vCPU's early state after the setup", shift("EARLY_STATE", "RAM"), "EARLY_STATE",
              "step"),
        Wrong("early state too short for its head", replace("EARLY_STATE", body=lambda b: b[:39]),
              "EARLY_STATE", "size", "too short"),
        Wrong("early state reserved", put("EARLY_STATE", 34, "H", 1), "EARLY_STATE", "reserved"),
        Wrong("early state version 0", put("EARLY_STATE", 32, "H", 0), "EARLY_STATE", "version",
              "vcpu0-setup: state version 0"),
        Wrong("early state missing", drop("EARLY_STATE", "END"), "END", "number of states", None),
    ]


def written(saved: bytes, change: Change, path: Path) -> tuple[bytes, int]:
    """The changed stream, also in a file, and the index of the record at fault."""
    edit = Edit.parse(saved)
    index = change(edit)
    data = edit.pack()
    path.write_bytes(data)
    return data, index


def restore(path: Path) -> subprocess.CompletedProcess[str]:
    """A destination's verdict on what it should refuse; it is given no time to run."""
    return run("run", "--name", "m0", "--memory", SMALL["memory"], "--cpus", str(SMALL["cpus"]),
               "--guest", f"stress,{SMALL['guest_options']}", "--serial", "null", "--verify",
               "--incoming", f"file:{path}", timeout_s=20)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.what)
def test_each_broken_rule_is_named_by_both(saved: bytes, fleet: Fleet, wrong: Wrong) -> None:
    path = fleet.folder / "wrong"
    data, index = written(saved, wrong.change, path)
    with pytest.raises(reader.Fault) as caught:
        reader.verify(data)
    fault = caught.value
    if not wrong.record:
        wrong = dataclasses.replace(wrong, record=Edit.parse(data).records[index].name)
    assert (fault.number, fault.record, fault.field) == (index + 1, wrong.record, wrong.field)
    if wrong.told is None:
        assert_restores(fleet, path, **SMALL, extra=["--verify"])
    else:
        told = restore(path)
        assert told.returncode == INCOMING_FAILED, (told, str(fault))
        assert len(told.stderr.splitlines()) == 1
        blamed = f", {wrong.blamed}: " if wrong.blamed else wrong.named(index + 1)
        assert blamed in told.stderr and wrong.told in told.stderr, str(fault)
    explained = run("stream", str(path))
    if wrong.is_explained:
        assert explained.returncode == 0, explained
        return
    assert explained.returncode == 1 and len(explained.stderr.splitlines()) == 1, explained
    assert explained.stderr.startswith(f"godwit: {wrong.named(index + 1)}")


@pytest.mark.parametrize("change, told", [
    (first_field(name=b"other"), "is 'other, 1 x u8 since version 1' at the source, 'status, "),
    (schema(fields=[*FIELDS[1::-1], *FIELDS[2:]]), "is 'control, 1 x u8 since version 1' at the"),
    (schema(fields=[*FIELDS, (b"more", 4, 1, 1, 9)]), "is 'more, up to 9 x u64 since version 1'"),
], ids=["renamed", "changed places", "one more"])
def test_layout_that_is_not_the_destinations_is_refused(saved: bytes, folder: Path, change: Change,
                                                        told: str) -> None:
    written(saved, change, folder / "wrong")
    refused = restore(folder / "wrong")
    assert refused.returncode == INCOMING_FAILED and told in refused.stderr, refused
    assert ", SCHEMA: i8042: field " in refused.stderr


def test_reason_longer_than_its_limit_is_refused(saved: bytes, folder: Path) -> None:
    written(saved, insert(Edited(TYPES["CANCEL"], b"x" * 401), "ROUND"), folder / "wrong")
    assert "401 bytes" in restore(folder / "wrong").stderr


# ---- what the specification allows


def test_stream_is_put_together_as_it_was(saved: bytes) -> None:
    assert Edit.parse(saved).pack() == saved


def hashed(change: Change) -> Change:
    """Memory is changed: END and VERIFY say so, the hash being the second reader's."""
    def all_changes(edit: Edit) -> int:
        index = change(edit)
        for offset, name in ((0, "RAM"), (8, "RAM_ZERO")):
            edit.at("END").put(offset, "Q", sum(
                record.get(24 + 16 * run, "Q") for record in edit.records
                if record.kind == TYPES[name] for run in range(record.get(8, "I"))))
        reading = reader.Reader(edit.pack(), reader.SAVED, ("whole",))
        with contextlib.suppress(reader.Fault):  # VERIFY is still that of the old memory
            reading.read()
        edit.at("VERIFY").put(0, "QQ", *reading.memory.hash())
        return index
    return all_changes


def optional_everywhere(edit: Edit) -> int:
    edit.records = [each for record in edit.records
                    for each in (Edited(0x80001234, b"from the future"), record)]
    return -1


def without_rounds(edit: Edit) -> int:
    edit.records = [record for record in edit.records if record.kind != TYPES["ROUND"]]
    return -1


def states_reversed(edit: Edit) -> int:
    first, last = edit.find("STATE"), edit.find("STATE", -1)
    edit.records[first:last + 1] = edit.records[first:last + 1][::-1]
    return -1


ALLOWED: dict[str, Change] = {
    "newer minor version": header(minor=7),
    "optional records in front of all": optional_everywhere,
    "known number with the optional bit": insert(Edited(0x80000000 | TYPES["RAM"], b"x"), "SWITCH"),
    "no machine name": put("MACHINE", 16, "2s", b"\0\0"),
    "machine name of 64 bytes": put("MACHINE", 16, "64s", b"m" * 64),
    "backing in huge pages": put("MACHINE", 88, "Q", 2 << 20),
    "schema of a newer version": schema(version=2),
    "states in another order": states_reversed,
    "early state of an entry that is new": all_of(NEW_SCHEMA, NEW_EARLY),
    "RAM among the states": shift("RAM", "END", which=-1),
    "no ROUND": without_rounds,
    "ROUND with another number": put("ROUND", 0, "I", 77),
    "near": put("ROUND", 4, "I", 1),
    "as many elements as there may be": received(16, bytes(16)),
    "no elements": received(0, b""),
    "last page of the block": hashed(ram((BLOCK_PAGES - 1, 1))),
    "runs that touch": hashed(ram((FREE, 1), (FREE + 1, 1))),
    "1024 runs": hashed(ram(*[(FREE + 2 * index, 1) for index in range(1024)])),
    "1024 pages": hashed(ram((FREE, 1024))),
    "page of zeroes in RAM": hashed(ram((FREE, 1), fill=b"\0")),
    "page sent, then zero": hashed(all_of(ram((FREE, 4)), zero((FREE, 3)))),
    "1024 zero runs": hashed(zero(*[(FREE + 2 * index, 1) for index in range(1024)])),
    "many zero pages": hashed(zero((FREE, 2100))),
}


@pytest.mark.parametrize("what", ALLOWED)
def test_what_the_specification_allows_is_accepted_by_both(saved: bytes, fleet: Fleet, what: str
                                                          ) -> None:
    path = fleet.folder / "allowed"
    data, _ = written(saved, ALLOWED[what], path)
    reader.verify(data)
    assert run("stream", str(path)).returncode == 0
    assert_restores(fleet, path, **SMALL, extra=["--verify"])


# ---- flipped and cut


def test_every_flipped_bit_is_found_by_both(saved: bytes, folder: Path) -> None:
    """A file is covered whole: header, heads, bodies, pages, padding."""
    chance = random.Random(20)
    for number in range(400):
        # Half of them outside of the pages, of which nearly all of it consists.
        at = chance.randrange(reader.HEADER_SIZE + 5000) if number % 2 else \
            chance.randrange(len(saved))
        flipped = bytearray(saved)
        flipped[at] ^= 1 << chance.randrange(8)
        with pytest.raises(reader.Fault):
            reader.verify(flipped)
        if number % 8 < 2:
            (folder / "flipped").write_bytes(flipped)
            assert restore(folder / "flipped").returncode == INCOMING_FAILED, (at, flipped[at])


def test_stream_cut_anywhere_is_not_whole_for_both(saved: bytes, folder: Path) -> None:
    ends = [reader.HEADER_SIZE]
    for record in Edit.parse(saved).records:
        ends.append(ends[-1] + len(record.pack()))
    assert ends[-1] == len(saved)
    for number, end in enumerate(ends):
        for cut, is_boundary in ((end, True), (end - 1, False), (end + 9, False)):
            if cut >= len(saved) and end == len(saved) and cut != end - 1:
                continue
            with pytest.raises(reader.Fault) as caught:
                reader.verify(saved[:cut])
            assert (caught.value.record == "end of file") is is_boundary, (number, cut)
            (folder / "cut").write_bytes(saved[:cut])
            assert run("stream", str(folder / "cut")).returncode == 1
        if end < len(saved):
            (folder / "cut").write_bytes(saved[:end])
            assert restore(folder / "cut").returncode == INCOMING_FAILED


# ---- the program


def verify_stream(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(ROOT / "tools" / "verify-stream"), *argv],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                          check=False)


def test_program_says_what_it_read_and_where_a_fault_is(saved: bytes, folder: Path) -> None:
    whole, wrong = folder / "whole", folder / "wrong"
    whole.write_bytes(saved)
    written(saved, put("MACHINE", 4, "I", 65), wrong)
    told = verify_stream(str(whole))
    assert told.returncode == 0 and not told.stderr
    assert told.stdout.startswith(f"{whole}: whole; 1 MACHINE, ") and "STATE rtc" in told.stdout
    assert "realtime_ns" not in told.stdout and "realtime_ns = 0x" in verify_stream("-v", str(whole)).stdout

    told = verify_stream(str(wrong), str(whole))
    assert told.returncode == 1 and told.stdout.startswith(f"{whole}: whole")
    assert told.stderr == f"verify-stream: {wrong}: offset 0x34: record 1 MACHINE: block count" \
        " is 65, must be 1 to 64\n"

    told = verify_stream("--json", str(whole), str(wrong))
    right, fault = map(json.loads, told.stdout.splitlines())
    assert right["whole"] and right["states"]["i8042"]["fields"]["control"] == [0x20]
    assert right["verify"]["pages"] > 256 and right["records"]["SCHEMA"] == len(right["states"])
    assert fault == {"file": str(wrong), "whole": False, "fault": {
        "offset": 0x34, "number": 1, "record": "MACHINE", "field": "block count", "value": "65",
        "limit": "1 to 64"}}


def test_program_tells_a_fault_from_a_wrong_command_line(folder: Path) -> None:
    (folder / "empty").touch()
    assert verify_stream(str(folder / "empty")).returncode == 1
    for argv in ([], ["--of", "elsewhere", "x"], [str(folder / "missing")]):
        told = verify_stream(*argv)
        assert told.returncode == 2 and "verify-stream: " in told.stderr
