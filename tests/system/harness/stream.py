# SPDX-License-Identifier: Apache-2.0
"""A second reader and writer of the migration stream, from docs/spec/stream.md alone."""
from __future__ import annotations

import ctypes
import ctypes.util
import struct
from dataclasses import dataclass
from typing import Iterator

HEADER_SIZE, RECORD_SIZE, RAM_HEAD, RUN_SIZE = 32, 16, 16, 16
RAM_CHECKED = 1

SOURCE = {"MACHINE": 1, "SCHEMA": 2, "SETUP_STATE": 3, "SETUP_END": 4, "RAM": 5, "RAM_ZERO": 6,
          "ROUND": 7, "STOPPED": 8, "STATE": 9, "VERIFY": 10, "END": 11, "GO": 12,
          "CANCEL": 13, "SWITCH": 14}
DESTINATION = {"BUILT": 0x101, "READY": 0x102, "RUNNING": 0x103, "FAILED": 0x104,
               "ROUND_DONE": 0x105}
TYPES = {**SOURCE, **DESTINATION}
NAMES = {number: name for name, number in TYPES.items()}


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(ctypes.util.find_library("xxhash") or "libxxhash.so.0")
    library.XXH3_64bits.restype = ctypes.c_uint64
    library.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    return library


def xxh3(data: bytes) -> int:
    return _library().XXH3_64bits(data, len(data))


@dataclass
class Record:
    type: int
    body: bytes
    stored_hash: int = 0

    @property
    def name(self) -> str:
        return NAMES.get(self.type, f"{self.type:#x}")

    @property
    def covered(self) -> bytes:
        """What the hash covers of the body."""
        if self.type != TYPES["RAM"] or len(self.body) < RAM_HEAD:
            return self.body
        _, flags, runs, _ = struct.unpack_from("<4I", self.body)
        if flags & RAM_CHECKED:
            return self.body
        return self.body[:RAM_HEAD + runs * RUN_SIZE]

    def pack(self) -> bytes:
        """As bytes, with the right hash."""
        head = struct.pack("<II", self.type, len(self.body))
        hash_ = xxh3(head + self.covered)
        return head + struct.pack("<Q", hash_) + self.body + bytes(-len(self.body) % 8)


def header(major: int = 1, minor: int = 0, flags: int = 0, magic: bytes = b"GODWITMG",
           reserved: int = 0) -> bytes:
    head = magic + struct.pack("<HHIQ", major, minor, flags, reserved)
    return head + struct.pack("<Q", xxh3(head))


def padded(length: int) -> int:
    return (length + 7) & ~7


def parse(data: bytes) -> Iterator[Record]:
    """The records of a saved stream; ValueError when it is cut off."""
    at = HEADER_SIZE
    while at < len(data):
        if len(data) - at < RECORD_SIZE:
            raise ValueError(f"{len(data) - at} bytes at the end")
        type_, length, hash_ = struct.unpack_from("<IIQ", data, at)
        at += RECORD_SIZE
        if len(data) - at < padded(length):
            raise ValueError(f"record {type_:#x} is cut off")
        yield Record(type_, data[at:at + length], hash_)
        at += padded(length)


KINDS = {1: 1, 2: 2, 3: 4, 4: 8}  # bytes of u8, u16, u32, u64
STATE_HEAD = 40


@dataclass
class Field:
    """One field of a schema, and where it is in a state body."""
    name: str
    size: int     # of an element
    count: int    # of elements
    is_varying: bool
    since: int
    at: int = 0   # of the first element; a varying field's count is 4 bytes before


def schema(record: Record) -> tuple[str, list[Field]]:
    """The entry that a SCHEMA record describes, and its fields."""
    body, at = record.body, 0

    def take(kind: str) -> int:
        nonlocal at
        value = struct.unpack_from(kind, body, at)[0]
        at += struct.calcsize(kind)
        return value

    def text() -> str:
        nonlocal at
        size = take("<H")
        at += size
        return body[at - size:at].decode()

    name, _, count = text(), take("<H"), take("<H")
    fields = []
    for _ in range(count):
        field, kind, varying, since = text(), take("B"), take("B"), take("<H")
        fields.append(Field(field, KINDS[kind], take("<I"), bool(varying), since))
    return name, fields


def entry_name(state: Record) -> str:
    return state.body[:32].rstrip(b"\0").decode()


def locate(state: Record, fields: list[Field]) -> dict[str, Field]:
    """The fields of a STATE record, with their places and their counts there."""
    version, at = struct.unpack_from("<H", state.body, 32)[0], STATE_HEAD
    found = {}
    for field in fields:
        if field.since > version:
            continue
        count = field.count
        if field.is_varying:
            count = struct.unpack_from("<I", state.body, at)[0]
            at += 4
        found[field.name] = Field(field.name, field.size, count, field.is_varying, field.since, at)
        at += count * field.size
    if at != len(state.body):
        raise ValueError(f"{entry_name(state)}: {len(state.body)} bytes, the schema has {at}")
    return found


def cut_state(state: Record, field: Field, count: int) -> Record:
    """Without the last @count elements of a varying field."""
    body = bytearray(state.body)
    end = field.at + field.count * field.size
    del body[end - count * field.size:end]
    struct.pack_into("<I", body, field.at - 4, field.count - count)
    struct.pack_into("<I", body, 36, len(body) - STATE_HEAD)
    return Record(state.type, bytes(body))
