# SPDX-License-Identifier: Apache-2.0
"""Take a stream apart, change one thing, and put it together again.

Written from docs/spec/stream.md, beside tools/stream_reader.py, which reads.
It checks nothing: lengths, padding and hashes are worked out anew, unless a
test sets one on purpose, so that a reader gets as far as the fault.
"""
from __future__ import annotations

import struct
import sys
from dataclasses import dataclass, field
from typing import Any, Callable, Sequence

from .machine import ROOT

sys.path.insert(0, str(ROOT / "tools"))

import stream_reader as reader  # noqa: E402

HEADER = struct.Struct("<8sHHIQ")
HEAD = struct.Struct("<IIQ")
RUNS = struct.Struct("<IIII")  # block, flags, run count, reserved
RUN = struct.Struct("<QQ")
PAGE = reader.PAGE
HEADER_SIZE = reader.HEADER_SIZE
NAMES = reader.TYPES
TYPES = {name: kind for kind, name in NAMES.items()}
RAM = TYPES["RAM"]
STATE_HEAD = 40  # name, version, reserved, size


@dataclass
class Edited:
    """One record; what is None is worked out."""
    kind: int
    body: bytes = b""
    length: int | None = None
    padding: bytes | None = None
    hash: int | None = None

    def pack(self) -> bytes:
        length = len(self.body) if self.length is None else self.length
        start = struct.pack("<II", self.kind, length)
        covered = len(self.body)
        if self.kind == RAM and covered >= RUNS.size:
            _, flags, runs, _ = RUNS.unpack_from(self.body)
            covered = covered if flags & 1 else RUNS.size + runs * RUN.size
        value = reader.hash64(start, self.body[:covered])
        padding = bytes(-len(self.body) % 8) if self.padding is None else self.padding
        return start + struct.pack("<Q", value if self.hash is None else self.hash) + \
            self.body + padding

    @property
    def name(self) -> str:
        return NAMES.get(self.kind, f"{self.kind:#x}")

    @property
    def entry(self) -> str:
        """What a SCHEMA or a STATE is about."""
        if self.kind == TYPES["SCHEMA"]:
            return self.body[2:2 + self.get(0, "H")].decode()
        return self.body[:reader.NAME_SIZE].rstrip(b"\0").decode()

    def put(self, offset: int, layout: str, *values: int | bytes) -> None:
        """Overwrite the body at @offset."""
        body = bytearray(self.body)
        struct.pack_into("<" + layout, body, offset, *values)
        self.body = bytes(body)

    def get(self, offset: int, layout: str) -> int:
        return struct.unpack_from("<" + layout, self.body, offset)[0]


@dataclass
class Edit:
    """A stream as its header's fields and its records."""
    records: list[Edited]
    magic: bytes = b"GODWITMG"
    major: int = 1
    minor: int = 0
    flags: int = 1
    reserved: int = 0
    hash: int | None = None
    tail: bytes = field(default=b"")  # behind the last record

    @classmethod
    def parse(cls, data: bytes) -> "Edit":
        magic, major, minor, flags, reserved = HEADER.unpack_from(data)
        records, at = [], HEADER.size + 8
        while at < len(data):
            kind, length, _ = HEAD.unpack_from(data, at)
            at += HEAD.size
            records.append(Edited(kind, data[at:at + length]))
            at += length + -length % 8
        return cls(records, magic, major, minor, flags, reserved)

    def pack(self) -> bytes:
        head = HEADER.pack(self.magic, self.major, self.minor, self.flags, self.reserved)
        value = reader.hash64(head) if self.hash is None else self.hash
        return head + struct.pack("<Q", value) + b"".join(
            record.pack() for record in self.records) + self.tail

    def find(self, name: str, which: int | str = 0) -> int:
        """The index of a record: which one of its name (-1: the last), or that of an entry."""
        found = [index for index, record in enumerate(self.records) if record.kind == TYPES[name]]
        if isinstance(which, int):
            return found[which]
        return next(index for index in found if self.records[index].entry == which)

    def at(self, name: str, which: int | str = 0) -> Edited:
        return self.records[self.find(name, which)]


def head(**members: Any) -> bytes:
    """A header alone."""
    return Edit([], **members).pack()


class States:
    """What states say, by the SCHEMA records that were heard before them."""

    def __init__(self) -> None:
        self._reader = reader.Reader(b"", reader.SENT, ())

    def hear(self, record: Edited) -> None:
        if record.name == "SCHEMA":
            self._reader.read_schema(self._body(record))

    def values(self, record: Edited) -> dict[str, reader.Value]:
        self._reader.stream.states.pop(record.entry, None)
        self._reader.read_state(self._body(record))
        return {value.field.name: value
                for value in self._reader.stream.states[record.entry].values}

    def changed(self, record: Edited, field: str, raw: bytes) -> Edited:
        """With other bytes in one field, and the count and size that they have."""
        data = b""
        for name, value in self.values(record).items():
            taken = raw if name == field else value.raw
            if value.field.is_varying:
                size = struct.calcsize(reader.KINDS[value.field.kind])
                data += struct.pack("<I", len(taken) // size)
            data += taken
        size = struct.pack("<I", len(data))
        return Edited(record.kind, record.body[:STATE_HEAD - 4] + size + data)

    @staticmethod
    def _body(record: Edited) -> reader.Body:
        return reader.Body(memoryview(record.body), 0, 1, record.name)


# ---- changes

Change = Callable[[Edit], int]  # returns the index of the record at fault


def put(name: str, offset: int, layout: str, *values: int | bytes, which: int | str = 0) -> Change:
    def change(edit: Edit) -> int:
        index = edit.find(name, which)
        edit.records[index].put(offset, layout, *values)
        return index
    return change


def add(name: str, offset: int, layout: str, more: int) -> Change:
    """To a number in a record."""
    def change(edit: Edit) -> int:
        index = edit.find(name)
        before, = struct.unpack_from("<" + layout, edit.records[index].body, offset)
        edit.records[index].put(offset, layout, before + more)
        return index
    return change


def replace(name: str, which: int | str = 0, **members: Any) -> Change:
    """Set members of a record; a `body` may be a function of the old one."""
    def change(edit: Edit) -> int:
        index = edit.find(name, which)
        record = edit.records[index]
        for member, value in members.items():
            setattr(record, member, value(record.body) if callable(value) else value)
        return index
    return change


def insert(record: Edited, before: str, which: int | str = 0) -> Change:
    def change(edit: Edit) -> int:
        index = edit.find(before, which)
        edit.records.insert(index, record)
        return index
    return change


def again(name: str, before: str, which: int | str = 0) -> Change:
    """A copy of a record, once more."""
    return lambda edit: insert(edit.at(name, which), before)(edit)


def drop(name: str, then: str = "", which: int | str = 0) -> Change:
    """Without a record; the fault is seen at the first @then, or at the record that followed."""
    def change(edit: Edit) -> int:
        index = edit.find(name, which)
        del edit.records[index]
        return edit.find(then) if then else index
    return change


def shift(name: str, before: str, which: int | str = 0) -> Change:
    """A record earlier or later than it was; the fault is at it."""
    def change(edit: Edit) -> int:
        record = edit.records.pop(edit.find(name, which))
        return insert(record, before)(edit)
    return change


def header(**members: Any) -> Change:
    def change(edit: Edit) -> int:
        for member, value in members.items():
            setattr(edit, member, value)
        return -1
    return change


def all_of(*changes: Change) -> Change:
    """Several; the last one is the fault."""
    return lambda edit: [change(edit) for change in changes][-1]


def where(name: str, which: int | str = 0) -> Change:
    """No change: only where the fault is found."""
    return lambda edit: edit.find(name, which)


def ends(change: Change) -> Change:
    """The fault is found where the file ends, or behind that."""
    return lambda edit: (change(edit), -1)[1]


def longer(body: bytes) -> bytes:
    return body + bytes(8)


def shorter(body: bytes) -> bytes:
    return body[:-4]


def runs(name: str, *pairs: tuple[int, int], block: int = 0, flags: int | None = None,
         reserved: int = 0, count: int | None = None, pages: int | None = None,
         fill: bytes = b"\x5a") -> Edited:
    """A RAM or RAM_ZERO record with these runs (first page, pages)."""
    is_ram = name == "RAM"
    body = struct.pack("<IIII", block, int(is_ram) if flags is None else flags,
                       len(pairs) if count is None else count, reserved)
    body += b"".join(struct.pack("<QQ", *pair) for pair in pairs)
    if is_ram:
        body += fill * (PAGE * (sum(n for _, n in pairs) if pages is None else pages))
    return Edited(TYPES[name], body)


def ram(*pairs: tuple[int, int], **members: Any) -> Change:
    return insert(runs("RAM", *pairs, **members), "ROUND")


def zero(*pairs: tuple[int, int], **members: Any) -> Change:
    return insert(runs("RAM_ZERO", *pairs, **members), "ROUND")


def schema_body(name: bytes = b"entry", version: int = 1, fields: Sequence[tuple] = (),
                count: int | None = None) -> bytes:
    body = struct.pack("<H", len(name)) + name
    body += struct.pack("<HH", version, len(fields) if count is None else count)
    for name_of_field, *rest in fields:
        body += struct.pack("<H", len(name_of_field)) + name_of_field
        body += struct.pack("<BBHI", *rest)
    return body
