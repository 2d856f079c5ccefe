# SPDX-License-Identifier: Apache-2.0
"""A second reader of migration streams, written from docs/spec/stream.md alone.

It shares nothing with the C code, so that where both agree the specification
says it, and not only one program.  verify() takes the bytes of a saved stream,
or of what one side of a migration sent over a socket, and returns a Stream, or
raises the first Fault.  Nothing is trusted: each value is checked before it is
used, and memory stays within a small multiple of the input's size.

From top to bottom: the numbers of the specification, what is found (Stream
and its parts), how a fault is told (Fault, Body), and the readers: framing,
then one method for each record of the source, then those of the destination.
"""
from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import xxhash

MAGIC = b"GODWITMG"
MAJOR = 1
HEADER_SIZE = 32
RECORD_SIZE = 16
PAGE = 4096
OPTIONAL = 1 << 31
FLAG_FILE = 1  # header: the stream has no return path
FLAG_CHECKED = 1  # RAM: the pages are covered by the record's hash
FLAG_NEAR = 1  # ROUND
FLAG_VERIFY = 1  # STOPPED: VERIFY follows END

BODY_MAX = 1 << 20
RUNS_MAX = 1024
RUN_SIZE = 16
RUNS_HEAD = 16
PAGES_MAX = 1024
BLOCKS_MAX = 64
PAGE_SIZES = (PAGE, 2 << 20)
NAME_SIZE = 32
ENTRY_NAME_MAX = 31
FIELD_NAME_MAX = 47
FIELDS_MAX = 512
ELEMENTS_MAX = 1 << 20
REASON_MAX = 400
OPTIONAL_MAX = 64  # of a destination's that are unknown
COST_MAX = 1 << 40  # ns, bytes
KINDS = {1: "B", 2: "H", 3: "I", 4: "Q"}  # a field's kind: how it is packed
RUN_STATES = {1: "running", 2: "paused"}

TYPES = {1: "MACHINE", 2: "SCHEMA", 3: "SETUP_STATE", 4: "SETUP_END", 5: "RAM", 6: "RAM_ZERO",
         7: "ROUND", 8: "STOPPED", 9: "STATE", 10: "VERIFY", 11: "END", 12: "GO", 13: "CANCEL",
         14: "SWITCH", OPTIONAL | 0xf: "EARLY_STATE", OPTIONAL | 0x10: "SETUP_AGAIN",
         0x101: "BUILT", 0x102: "READY", 0x103: "RUNNING", 0x104: "FAILED", 0x105: "ROUND_DONE",
         OPTIONAL | 0x106: "COSTS", OPTIONAL | 0x107: "CALLS", OPTIONAL | 0x108: "TIMES"}

# For each record: the steps in which it may come, and the one it leads to (None: no change).
Order = dict[str, tuple[tuple[str, ...], str | None]]

SAVED: Order = {
    "MACHINE": (("start",), "setup"),
    "SCHEMA": (("setup",), None),
    "SETUP_STATE": (("setup",), None),
    "EARLY_STATE": (("setup",), None),
    "SETUP_END": (("setup",), "rounds"),
    "SETUP_AGAIN": (("rounds",), None),
    "RAM": (("rounds", "stopped"), None),
    "RAM_ZERO": (("rounds", "stopped"), None),
    "ROUND": (("rounds",), None),
    "SWITCH": (("rounds",), "switch"),
    "STOPPED": (("switch",), "stopped"),
    "STATE": (("stopped",), None),
    "END": (("stopped",), "whole"),  # or "verify", when STOPPED announced it
    "VERIFY": (("verify",), "whole"),
}
SENT: Order = {
    **SAVED,
    "GO": (("whole",), "gone"),
    "CANCEL": (("start", "setup", "rounds", "switch", "stopped", "verify", "whole"), "cancelled"),
}
REPLIES: Order = {
    "COSTS": (("start",), "costs"),
    "BUILT": (("start", "costs"), "rounds"),
    "ROUND_DONE": (("rounds",), None),
    "READY": (("rounds",), "ready"),
    "CALLS": (("ready",), "calls"),
    "TIMES": (("ready", "calls"), "times"),
    "RUNNING": (("ready", "calls", "times"), "running"),
    "FAILED": (("start", "costs", "rounds", "ready", "calls", "times"), "failed"),
}


def hash64(*parts: Any) -> int:
    """The specification's hash: XXH3-64, seed 0."""
    state = xxhash.xxh3_64()
    for part in parts:
        state.update(part)
    return state.intdigest()


# ---- what is found


@dataclass
class Block:
    size: int
    page_size: int
    name: str

    @property
    def pages(self) -> int:
        return self.size // PAGE


@dataclass
class Field:
    """One line of a schema."""
    name: str
    kind: int
    is_varying: bool
    since: int
    count: int


@dataclass
class Schema:
    name: str
    version: int
    fields: list[Field]


@dataclass
class Value:
    """What a state says of one field: its elements, and the bytes they were in."""
    field: Field
    elements: tuple[int, ...]
    raw: bytes


@dataclass
class State:
    record: str  # SETUP_STATE, EARLY_STATE, SETUP_AGAIN (the last one, which holds), or STATE
    name: str
    version: int
    size: int
    values: list[Value]


@dataclass
class Stream:
    """All that a whole stream says."""
    minor: int = 0
    flags: int = 0
    cpus: int = 0
    machine: str = ""
    blocks: list[Block] = field(default_factory=list)
    schemas: dict[str, Schema] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)  # the last of each entry
    said: list[State] = field(default_factory=list)  # all of them, in order
    records: list[str] = field(default_factory=list)  # names, in order
    pages: int = 0  # in RAM records
    zero_pages: int = 0  # in RAM_ZERO records
    rounds: list[int] = field(default_factory=list)
    run_state: str = ""
    verify: tuple[int, int] | None = None  # hash and pages, as they were found to be
    reason: str | None = None  # what CANCEL or FAILED gave
    costs: tuple[int, ...] = ()  # of COSTS: ns, bytes
    calls: tuple[int, ...] = ()  # of CALLS, as RepliesReader.CALLS names them
    times: tuple[int, ...] = ()  # of TIMES, likewise
    reports: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of READY and RUNNING

    def counts(self) -> dict[str, int]:
        """Records by name, in the order of their first."""
        return {name: self.records.count(name) for name in dict.fromkeys(self.records)}


# ---- how a fault is told


class Fault(Exception):
    """The first thing in a stream that the specification does not allow."""

    def __init__(self, offset: int, number: int, record: str, what: str, value: Any,
                 limit: str) -> None:
        where = f"record {number} {record}" if number else record
        super().__init__(f"offset {offset:#x}: {where}: {what} is {value}, must be {limit}")
        self.offset = offset
        self.number = number  # from 1; 0 is the header, or the end of the file
        self.record = record
        self.field = what
        self.value = value
        self.limit = limit

    def members(self) -> dict[str, Any]:
        return {"offset": self.offset, "number": self.number, "record": self.record,
                "field": self.field, "value": str(self.value), "limit": self.limit}


class Body:
    """A cursor over one record's body (or the header), that knows where it is."""

    def __init__(self, data: memoryview, offset: int, number: int, record: str) -> None:
        self.data, self.offset, self.number, self.record = data, offset, number, record
        self.at = 0  # behind what was taken last
        self.last = 0  # where that began

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def fault(self, what: str, value: Any, limit: str) -> Fault:
        return Fault(self.offset + self.last, self.number, self.record, what, value, limit)

    def check(self, is_right: bool, what: str, value: Any, limit: str) -> None:
        if not is_right:
            raise self.fault(what, value, limit)

    def take(self, size: int, what: str) -> memoryview:
        self.last = self.at
        self.check(size <= self.left, what, f"cut off after {self.left} bytes", f"{size} bytes")
        self.at += size
        return self.data[self.last:self.at]

    def number_of(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what), "little")

    def u8(self, what: str) -> int:
        return self.number_of(1, what)

    def u16(self, what: str) -> int:
        return self.number_of(2, what)

    def u32(self, what: str) -> int:
        return self.number_of(4, what)

    def u64(self, what: str) -> int:
        return self.number_of(8, what)

    def flags(self, known: int) -> int:
        value = self.u32("flags")
        self.check(not value & ~known, "flags", f"{value:#x}", f"within {known:#x}")
        return value

    def zero(self, size: int, what: str) -> None:
        value = self.number_of(size, what)
        self.check(value == 0, what, f"{value:#x}", "0")

    def text(self, size: int, what: str) -> str:
        """A name, possibly empty, of @size bytes: printable ASCII without blanks."""
        value = bytes(self.take(size, what))
        self.check(all(0x21 <= c <= 0x7e for c in value), what, repr(value),
                   "printable ASCII without blanks")
        return value.decode("ascii")

    def padded_text(self, size: int, what: str) -> str:
        """A name NUL-padded to @size bytes."""
        used = len(bytes(self.data[self.at:self.at + size]).rstrip(b"\0"))
        name = self.text(used, what)
        self.at = self.last
        self.take(size, what)
        return name

    def counted_text(self, most: int, what: str) -> str:
        """A name of 1 to @most bytes behind its length."""
        size = self.u16(f"{what} length")
        self.check(1 <= size <= most, f"{what} length", size, f"1 to {most}")
        return self.text(size, what)

    def end(self) -> None:
        self.last = self.at
        self.check(not self.left, "length", len(self.data), f"{self.at}")


# ---- the readers


class Memory:
    """Where in the stream each page's last content is; pages not here are zero."""

    def __init__(self, data: memoryview, blocks: list[Block]) -> None:
        self._data = data
        self._blocks: list[dict[int, int]] = [{} for _ in blocks]

    def fill(self, block: int, first: int, pages: int, offset: int) -> None:
        self._blocks[block].update(
            zip(range(first, first + pages), range(offset, offset + pages * PAGE, PAGE)))

    def clear(self, block: int, first: int, pages: int) -> None:
        held = self._blocks[block]
        end = first + pages
        # A run may be longer than anything this stream holds.
        gone = [page for page in held if first <= page < end] if pages > len(held) else \
            range(first, end)
        for page in gone:
            held.pop(page, None)

    def hash(self) -> tuple[int, int]:
        """As VERIFY has it: the hash, and the number of pages in it."""
        state, pages, nothing = xxhash.xxh3_64(), 0, bytes(PAGE)
        for held in self._blocks:
            for page in sorted(held):
                content = self._data[held[page]:held[page] + PAGE]
                if content != nothing:
                    state.update(struct.pack("<Q", page))
                    state.update(content)
                    pages += 1
        return state.intdigest(), pages


class Reader:
    """Framing and order; what a source saved or sent."""

    def __init__(self, data: Any, order: Order, final: tuple[str, ...]) -> None:
        self.data = memoryview(data)
        self.order = order
        self.final = final  # the steps that end a stream
        self.stream = Stream()
        self.step = "start"
        self.is_verify_due = False
        self.memory = Memory(self.data, [])

    @property
    def is_file(self) -> bool:
        return self.order is SAVED

    def read(self) -> Stream:
        at = self.header()
        while at < len(self.data):
            if self.step in self.final:
                raise Fault(at, 0, "behind the last record", "size", len(self.data) - at, "0")
            at = self.record(at)
        if self.step not in self.final:
            last = [name for name, (_, step) in self.order.items() if step in self.final]
            raise Fault(at, 0, "end of file", "last record",
                        (self.stream.records or ["missing"])[-1], " or ".join(last))
        return self.stream

    # -- framing

    def header(self) -> int:
        body = Body(self.data[:HEADER_SIZE], 0, 0, "header")
        magic = bytes(body.take(8, "magic"))
        body.check(magic == MAGIC, "magic", magic, f"{MAGIC!r}")
        major = body.u16("major version")
        body.check(major == MAJOR, "major version", major, f"{MAJOR}")
        self.stream.minor = body.u16("minor version")
        self.stream.flags = body.flags(FLAG_FILE)
        wanted = FLAG_FILE if self.is_file else 0
        body.check(self.stream.flags == wanted, "flags", self.stream.flags, f"{wanted}")
        body.zero(8, "reserved")
        self.check_hash(body, self.data[:HEADER_SIZE - 8])
        return HEADER_SIZE

    def check_hash(self, body: Body, *parts: memoryview) -> None:
        stored = body.u64("hash")
        actual = hash64(*parts)
        body.check(stored == actual, "hash", f"{stored:#018x}", f"{actual:#018x}")

    def record(self, at: int) -> int:
        """Check one record and hand its body to its method; returns where it ends."""
        number = len(self.stream.records) + 1
        head = Body(self.data[at:at + RECORD_SIZE], at, number, "head")
        kind = head.u32("type")
        # With its bit 31 a type is another one, even if it is known without.
        name = TYPES.get(kind, f"{kind:#x}")
        head.record = name = "optional" if kind & OPTIONAL and name not in self.order else name
        head.check(name == "optional" or name in self.order, "type", f"{kind:#x}",
                   f"optional, or one of {' '.join(self.order)}")
        self.check_optional(head)
        length = head.u32("length")
        most = RUNS_HEAD + RUNS_MAX * RUN_SIZE + PAGES_MAX * PAGE if name == "RAM" else BODY_MAX
        head.check(length <= most, "length", length, f"at most {most}")

        start = at + RECORD_SIZE
        padding = -length % 8
        rest = Body(self.data[start:start + length + padding], start, number, name)
        body = Body(rest.take(length, "body"), start, number, name)
        covered = self.covered(body) if name == "RAM" else length
        self.check_hash(head, self.data[at:at + 8], body.data[:covered])
        rest.zero(padding, "padding")

        if name != "optional":
            steps, following = self.order[name]
            body.check(self.step in steps, "step", self.step, " or ".join(steps))
            self.step = following or self.step
            getattr(self, f"read_{name.lower()}")(body)
            body.end()
        self.stream.records.append(name)
        return start + length + padding

    def check_optional(self, head: Body) -> None:
        """A source may send as many optional records as it likes."""

    def covered(self, body: Body) -> int:
        """How much of a RAM body its hash covers; the body is not checked yet."""
        if len(body.data) < RUNS_HEAD:
            return len(body.data)
        _, flags, runs, _ = struct.unpack_from("<IIII", body.data)
        return len(body.data) if flags & FLAG_CHECKED else RUNS_HEAD + runs * RUN_SIZE

    # -- records

    def read_empty(self, body: Body) -> None:
        pass

    read_setup_end = read_switch = read_go = read_empty

    def read_machine(self, body: Body) -> None:
        stream = self.stream
        stream.cpus = body.u32("cpus")
        body.check(stream.cpus >= 1, "cpus", stream.cpus, "at least 1")
        blocks = body.u32("block count")
        body.check(1 <= blocks <= BLOCKS_MAX, "block count", blocks, f"1 to {BLOCKS_MAX}")
        body.zero(8, "reserved")
        stream.machine = body.padded_text(64, "machine name")
        for index in range(blocks):
            what = f"block {index}"
            size = body.u64(f"{what} size")
            body.check(size > 0 and size % PAGE == 0, f"{what} size", size, f"a multiple of {PAGE}")
            page_size = body.u64(f"{what} page size")
            body.check(page_size in PAGE_SIZES, f"{what} page size", page_size,
                       " or ".join(map(str, PAGE_SIZES)))
            name = body.padded_text(NAME_SIZE, f"{what} name")
            stream.blocks.append(Block(size, page_size, name))
        self.memory = Memory(self.data, stream.blocks)

    def read_schema(self, body: Body) -> None:
        name = body.counted_text(ENTRY_NAME_MAX, "name")
        body.check(name not in self.stream.schemas, "name", name, "one not described yet")
        version = body.u16("version")
        body.check(version >= 1, "version", version, "at least 1")
        count = body.u16("field count")
        body.check(count <= FIELDS_MAX, "field count", count, f"at most {FIELDS_MAX}")
        fields = [self.read_field_schema(body, f"field {index}", version) for index in range(count)]
        self.stream.schemas[name] = Schema(name, version, fields)

    def read_field_schema(self, body: Body, what: str, version: int) -> Field:
        name = body.counted_text(FIELD_NAME_MAX, f"{what} name")
        kind = body.u8(f"{what} kind")
        body.check(kind in KINDS, f"{what} kind", kind, "1 to 4")
        varying = body.u8(f"{what} varying")
        body.check(varying <= 1, f"{what} varying", varying, "0 or 1")
        since = body.u16(f"{what} since-version")
        body.check(1 <= since <= version, f"{what} since-version", since, f"1 to {version}")
        count = body.u32(f"{what} count")
        body.check(1 <= count <= ELEMENTS_MAX, f"{what} count", count, f"1 to {ELEMENTS_MAX}")
        return Field(name, kind, bool(varying), since, count)

    def read_setup_state(self, body: Body) -> None:
        name = body.padded_text(NAME_SIZE, "entry name")
        body.check(name not in self.stream.states, "entry name", name, "one that has not come yet")
        self.read_entry(body, name)

    read_state = read_early_state = read_setup_state

    def read_setup_again(self, body: Body) -> None:
        name = body.padded_text(NAME_SIZE, "entry name")
        if name not in self.stream.states:
            raise body.fault("entry name", name or "empty", "one whose SETUP_STATE or EARLY_STATE has come")
        self.read_entry(body, name)

    def read_entry(self, body: Body, name: str) -> None:
        schema = self.stream.schemas.get(name)
        if schema is None:
            raise body.fault("entry name", name or "empty", "one that a SCHEMA described")
        version = body.u16("version")
        body.check(1 <= version <= schema.version, "version", version, f"1 to {schema.version}")
        body.zero(2, "reserved")
        size = body.u32("size")
        body.check(size == body.left, "size", size, f"{body.left}, the rest of the body")
        values = [self.read_field(body, each) for each in schema.fields if each.since <= version]
        state = State(body.record, name, version, size, values)
        self.stream.states[name] = state
        self.stream.said.append(state)

    def read_field(self, body: Body, of: Field) -> Value:
        count = of.count
        if of.is_varying:
            count = body.u32(f"count of {of.name}")
            body.check(count <= of.count, f"count of {of.name}", count, f"at most {of.count}")
        kind = KINDS[of.kind]
        raw = bytes(body.take(count * struct.calcsize(kind), of.name))
        return Value(of, struct.unpack(f"<{count}{kind}", raw), raw)

    def read_runs(self, body: Body, known_flags: int, needed_flags: int
                  ) -> tuple[int, list[tuple[int, int]]]:
        """What RAM and RAM_ZERO have in common: the block, and runs (first page, pages) in it."""
        index = body.u32("block")
        body.check(index < len(self.stream.blocks), "block", index,
                   f"below {len(self.stream.blocks)}")
        block = self.stream.blocks[index]
        flags = body.flags(known_flags)
        body.check(flags & needed_flags == needed_flags, "flags", f"{flags:#x}",
                   f"{needed_flags:#x} in a file")
        count = body.u32("run count")
        body.check(1 <= count <= RUNS_MAX, "run count", count, f"1 to {RUNS_MAX}")
        body.zero(4, "reserved")
        runs: list[tuple[int, int]] = []
        free = 0  # the first page that the next run may have
        for number in range(count):
            first = body.u64(f"run {number} first page")
            body.check(first >= free, f"run {number} first page", first, f"at least {free}")
            body.check(first < block.pages, f"run {number} first page", first,
                       f"below {block.pages}")
            pages = body.u64(f"run {number} pages")
            body.check(1 <= pages <= block.pages - first, f"run {number} pages", pages,
                       f"1 to {block.pages - first}")
            free = first + pages
            runs.append((first, pages))
        return index, runs

    def read_ram(self, body: Body) -> None:
        block, runs = self.read_runs(body, FLAG_CHECKED, FLAG_CHECKED if self.is_file else 0)
        total = sum(pages for _, pages in runs)
        body.check(total <= PAGES_MAX, "number of pages", total, f"at most {PAGES_MAX}")
        for first, pages in runs:
            body.take(pages * PAGE, f"pages from {first}")
            self.memory.fill(block, first, pages, body.offset + body.last)
        self.stream.pages += total

    def read_ram_zero(self, body: Body) -> None:
        block, runs = self.read_runs(body, 0, 0)
        for first, pages in runs:
            self.memory.clear(block, first, pages)
            self.stream.zero_pages += pages

    def read_round(self, body: Body) -> None:
        self.stream.rounds.append(body.u32("number"))
        body.flags(FLAG_NEAR)

    def read_stopped(self, body: Body) -> None:
        wanted = body.u32("run state")
        body.check(wanted in RUN_STATES, "run state", wanted, "1 or 2")
        self.stream.run_state = RUN_STATES[wanted]
        self.is_verify_due = bool(body.flags(FLAG_VERIFY) & FLAG_VERIFY)

    def read_end(self, body: Body) -> None:
        for what, counted in (("pages sent", self.stream.pages),
                              ("zero pages", self.stream.zero_pages)):
            said = body.u64(what)
            body.check(said == counted, what, said, f"{counted}, as counted")
        missing = sorted(self.stream.schemas.keys() - self.stream.states.keys())
        body.check(not missing, "number of states", len(self.stream.states),
                   f"{len(self.stream.schemas)}: none came of {' '.join(missing[:4])}")
        if self.is_verify_due:
            self.step = "verify"

    def read_verify(self, body: Body) -> None:
        actual, counted = self.memory.hash()
        said = body.u64("hash")
        body.check(said == actual, "hash of RAM", f"{said:#018x}", f"{actual:#018x}")
        pages = body.u64("pages")
        body.check(pages == counted, "pages", pages, f"{counted}, as counted")
        self.stream.verify = (actual, counted)

    def read_cancel(self, body: Body) -> None:
        body.check(len(body.data) <= REASON_MAX, "length", len(body.data), f"at most {REASON_MAX}")
        self.stream.reason = bytes(body.take(body.left, "reason")).decode("ascii", "replace")


class RepliesReader(Reader):
    """What a destination sent: records without a header."""

    REPORT = ("receive", "verify", "load", "activate", "start", "topology commits",
              "verified pages", "verify hash")
    CALLS = ("topology commits", "route commits", "eventfd calls", "vhost calls", "vhost tables")

    TIMES = ("STOPPED came", "load began", "load ended", "END came", "VERIFY came",
             "READY was sent", "GO came", "guest was entered", "devices were started")

    def header(self) -> int:
        return 0

    def check_optional(self, head: Body) -> None:
        count = self.stream.records.count("optional") + (head.record == "optional")
        head.check(count <= OPTIONAL_MAX, "number of optional records", count,
                   f"at most {OPTIONAL_MAX}")

    def read_costs(self, body: Body) -> None:
        for what in ("switch", "state bytes"):
            cost = body.u64(what)
            body.check(cost <= COST_MAX, what, cost, f"at most {COST_MAX}")
            self.stream.costs += (cost,)

    def read_calls(self, body: Body) -> None:
        self.stream.calls = tuple(body.u64(what) for what in self.CALLS)

    def read_times(self, body: Body) -> None:
        self.stream.times = tuple(body.u64(what) for what in self.TIMES)

    def read_built(self, body: Body) -> None:
        body.u64("build time")

    def read_round_done(self, body: Body) -> None:
        self.stream.rounds.append(body.u32("number"))
        body.flags(0)

    def read_ready(self, body: Body) -> None:
        report = tuple(body.u64(what) for what in self.REPORT)
        self.stream.reports[body.record] = report
        start = report[self.REPORT.index("start")]
        body.check(start == 0 or body.record != "READY", "start", start, "0 in READY")

    read_running = read_ready
    read_failed = Reader.read_cancel


def verify(data: Any) -> Stream:
    """A saved stream, in anything with the buffer protocol."""
    return Reader(data, SAVED, ("whole",)).read()


def verify_sent(data: Any) -> Stream:
    """What a source sent over a socket, up to its GO or CANCEL."""
    return Reader(data, SENT, ("gone", "cancelled")).read()


def verify_replies(data: Any) -> Stream:
    """What a destination sent over a socket, up to its RUNNING or FAILED."""
    return RepliesReader(data, REPLIES, ("running", "failed")).read()
