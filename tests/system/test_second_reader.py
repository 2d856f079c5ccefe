# SPDX-License-Identifier: Apache-2.0
"""tools/verify-stream, written from docs/spec/stream.md alone, on what godwit saves and sends."""
from __future__ import annotations

import re
import socket
import struct
import threading
from typing import Any

import pytest

from harness.edit import TYPES, Edit, Edited
from harness.machine import Fleet, run
from harness.move import move
from harness.second import SMALL, assert_restores, end, reader, save
from test_backing import hugepages  # noqa: F401

JOIN_S = 20.0


# ---- what godwit saves


def matches(line: str, value: reader.Value) -> bool:
    """Whether a line of `godwit stream` says of a field what the second reader found."""
    name, _, shown = line.strip().partition(" =")
    elements = list(value.elements)
    is_scalar = value.field.count == 1 and not value.field.is_varying
    if name != (value.field.name if is_scalar else f"{value.field.name}[{len(elements)}]"):
        return False
    hashed = re.fullmatch(r" (\d+) bytes, hash ([0-9a-f]{16})", shown)
    if hashed:
        return (int(hashed[1]), int(hashed[2], 16)) == (len(value.raw), reader.hash64(value.raw))
    return [int(word, 16) for word in shown.split()] == elements


def assert_told_alike(told: str, stream: reader.Stream) -> None:
    """Each line of `godwit stream` against the second reader's Stream."""
    names = list(stream.records)
    schemas, states = list(stream.schemas.values()), list(stream.said)
    blocks = list(stream.blocks)
    ram_records, last_ram = 0, (0, 0)
    fields: list[reader.Value] = []
    for line in told.splitlines():
        if re.match(r"\s+\d+ [A-Z_]+", line):
            assert not fields, f"{fields[0].field.name} is not told"
            number, name, rest = re.match(r"\s+(\d+) ([A-Z_]+)(.*)", line).groups()
            assert names[int(number) - 1] == name, line
            names[int(number) - 1] = ""
            if name == "MACHINE":
                assert rest == f": {stream.cpus} vCPUs"
            elif name == "SCHEMA":
                assert rest == f": {schemas.pop(0).name}"
            elif name in ("STATE", "SETUP_STATE", "EARLY_STATE", "SETUP_AGAIN"):
                state = states.pop(0)
                assert (name, rest) == (state.record, f": {state.name}, version {state.version},"
                                                      f" {state.size} bytes")
                fields = list(state.values)
            elif name == "STOPPED":
                assert rest.endswith(stream.run_state), line
            elif name == "END":
                assert rest == f": {stream.pages} pages, {stream.zero_pages} zero pages"
            elif name == "VERIFY":
                assert rest == ": {1} pages, hash {0:016x}".format(*stream.verify)
        elif "RAM block" in line:
            block = blocks.pop(0)
            assert line.endswith(f": {block.size} bytes in pages of {block.page_size}")
        elif line.strip().startswith("... RAM:"):
            counted = [int(word) for word in re.findall(r"\d+", line)]
            ram_records, last_ram = ram_records + counted[0], (counted[1], counted[2])
        elif line.startswith("header:"):
            assert line == f"header: version 1.{stream.minor}, flags {stream.flags:#x}"
        else:
            assert fields and matches(line, fields[0]), (line, fields[:1])
            del fields[0]
    assert not (schemas or states or blocks or fields)
    assert {name for name in names if name} <= {"RAM", "RAM_ZERO"}
    assert ram_records == sum(name in ("RAM", "RAM_ZERO") for name in names)
    assert last_ram == (stream.pages, stream.zero_pages)


SAVES: dict[str, dict[str, Any]] = {
    "small": SMALL,
    "32 MiB, one vCPU": {"memory": "32M", "cpus": 1, "guest_options": "hot=1M,rate=max,tick=1ms"},
    "busy": {"memory": "64M", "guest_options": "hot=1M,rate=max,verify=on,tick=1ms"},
    "random in huge mappings": {"memory": "256M,thp=on", "cpus": 4, "extra": ["--verify"],
                                "guest_options": "hot=16M,rate=10000/s,pattern=random,tick=1ms"},
    "64 GiB, mostly empty": {"memory": "64G",
                             "guest_options": "hot=4M,rate=10000/s,pattern=zipf,tick=1ms"},
    "40 vCPUs": {"memory": "1G", "cpus": 40, "guest_options": "hot=8M,rate=100/s,tick=1ms"},
    "paused": {**SMALL, "is_paused": True},
}


def assert_agree(fleet: Fleet, flags: list[str], is_paused: bool = False, **options: Any
                 ) -> reader.Stream:
    path = fleet.folder / "saved"
    data = save(fleet, path, *flags, is_paused=is_paused, **options)
    stream = reader.verify(data)
    assert (stream.verify is not None) == ("--verify" in [*flags, *options.get("extra", [])])
    assert stream.run_state == ("paused" if is_paused else "running")
    assert stream.machine == "m0" and stream.cpus == options.get("cpus", 2)
    told = run("stream", str(path))
    assert told.returncode == 0, told.stderr
    assert_told_alike(told.stdout, stream)
    if not is_paused:
        assert_restores(fleet, path, **options)
    return stream


@pytest.mark.parametrize("flags", [[], ["--verify"]], ids=["plain", "verify"])
@pytest.mark.parametrize("case", SAVES)
def test_saved_stream_reads_alike_for_both(fleet: Fleet, case: str, flags: list[str]) -> None:
    assert_agree(fleet, flags, **SAVES[case])


def test_saved_huge_pages_read_alike_for_both(hugepages: None, fleet: Fleet) -> None:  # noqa: F811
    stream = assert_agree(fleet, ["--verify"], memory="64M,hugepages=2M",
                          guest_options="hot=4M,rate=10000/s,tick=1ms")
    fleet.end()
    assert stream.blocks[0].page_size == 2 << 20
    assert "RAM_ZERO" in stream.records and stream.zero_pages > 1024
    assert stream.verify[1] <= stream.blocks[0].pages - stream.zero_pages + stream.pages


# ---- what two godwits say to each other


class Ear:
    """Between two godwits: passes on what each says and keeps a copy."""

    def __init__(self, listen: str, target: str) -> None:
        self.heard = {"source": bytearray(), "destination": bytearray()}
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(listen)
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._run, args=(target,), daemon=True)
        self._thread.start()

    def _run(self, target: str) -> None:
        near, _ = self._listener.accept()
        far = socket.socket(socket.AF_UNIX)
        far.connect(target)
        back = threading.Thread(target=self._pass, args=(far, near, "destination"), daemon=True)
        back.start()
        self._pass(near, far, "source")
        back.join(JOIN_S)

    def _pass(self, come: socket.socket, go: socket.socket, who: str) -> None:
        while data := come.recv(1 << 20):
            self.heard[who] += data
            go.sendall(data)
        go.shutdown(socket.SHUT_WR)

    def join(self) -> None:
        self._thread.join(JOIN_S)
        assert not self._thread.is_alive()


@pytest.mark.parametrize("is_checked", [False, True], ids=["live", "ram-checksum"])
def test_both_directions_of_a_move_follow_the_specification(fleet: Fleet, is_checked: bool) -> None:
    near, far = f"unix:{fleet.folder}/near", f"unix:{fleet.folder}/far"
    options = {"memory": "64M", "guest_options": "hot=4M,rate=10000/s,verify=on,tick=1ms",
               "extra": ["--verify"]}
    source, destination = fleet.start("source", **options), fleet.start(
        "destination", incoming=far, **options)
    source.serial.wait_ticks(20)
    source.qmp.command("migrate-set-capabilities", capabilities=[
        {"capability": "ram-checksum", "state": is_checked}])
    destination.ready()
    ear = Ear(near.removeprefix("unix:"), far.removeprefix("unix:"))
    moved = move(source, destination, near)
    assert moved.status == "completed", moved.info
    end(source)
    end(destination)
    ear.join()

    sent = reader.verify_sent(ear.heard["source"])
    replies = reader.verify_replies(ear.heard["destination"])
    assert sent.records[-1] == "GO" and replies.records[-1] == "RUNNING"
    assert replies.rounds == sent.rounds and sent.rounds
    _, state_bytes = replies.costs
    assert state_bytes == sum(len(record.body) for record in
                              Edit.parse(bytes(ear.heard["source"])).records
                              if record.kind == TYPES["STATE"])
    topology_commits, pages, ram_hash = replies.reports["RUNNING"][5:]
    assert (ram_hash, pages) == sent.verify and topology_commits == 0
    # Nothing of this machine has queues.
    assert replies.calls == (0, 0, 0, 0, 0)
    stopped, load, loaded, whole, verified, ready, go, entered, started = replies.times
    assert stopped <= whole <= verified <= ready <= go <= started
    assert stopped <= load <= loaded <= ready and (go <= entered or entered == 0)
    checked = {record.body[4] & reader.FLAG_CHECKED
               for record in Edit.parse(bytes(ear.heard["source"])).records
               if record.kind == TYPES["RAM"]}
    assert checked <= ({1} if is_checked else {0, 1}) and (is_checked or 0 in checked)
    # Neither is the stream of a file.
    for heard in ear.heard.values():
        with pytest.raises(reader.Fault, match="^offset 0x[0c]: header: "):
            reader.verify(heard)


# ---- what only a socket carries


def replies(*records: tuple[int, bytes]) -> bytes:
    return b"".join(Edited(kind, body).pack() for kind, body in records)


BUILT, READY, RUNNING, FAILED, ROUND_DONE = range(0x101, 0x106)
COSTS, CALLS, TIMES = 0x80000106, 0x80000107, 0x80000108
REPORT = struct.pack("<8Q", 1, 2, 3, 4, 0, 0, 7, 8)
DONE = struct.pack("<II", 1, 0)
TIME = bytes(8)
MOMENTS = struct.pack("<9Q", *range(9))


def test_whole_replies_are_read() -> None:
    stream = reader.verify_replies(replies(
        (BUILT, TIME), (0x80000101, b"x"), (ROUND_DONE, DONE), (READY, REPORT), (RUNNING, REPORT)))
    assert stream.rounds == [1] and stream.reports["READY"][6:] == (7, 8)
    assert reader.verify_replies(replies((FAILED, b"no room"))).reason == "no room"
    stream = reader.verify_replies(replies(
        (BUILT, TIME), (READY, REPORT), (CALLS, REPORT[:40]), (RUNNING, REPORT)))
    assert stream.calls == (1, 2, 3, 4, 0)
    for calls in [], [(CALLS, REPORT[:40])]:
        stream = reader.verify_replies(replies(
            (BUILT, TIME), (READY, REPORT), *calls, (TIMES, MOMENTS), (RUNNING, REPORT)))
        assert stream.times == tuple(range(9))


@pytest.mark.parametrize("record, field, records", [
    ("ROUND_DONE", "step", [(ROUND_DONE, DONE)]),
    ("BUILT", "step", [(BUILT, TIME), (BUILT, TIME)]),
    ("COSTS", "step", [(COSTS, REPORT[:16]), (COSTS, REPORT[:16])]),
    ("COSTS", "step", [(BUILT, TIME), (COSTS, REPORT[:16])]),
    ("COSTS", "switch", [(COSTS, struct.pack("<QQ", (1 << 40) + 1, 0))]),
    ("COSTS", "state bytes", [(COSTS, TIME)]),
    ("CALLS", "step", [(BUILT, TIME), (CALLS, REPORT[:40])]),
    ("CALLS", "step", [(BUILT, TIME), (READY, REPORT), (CALLS, REPORT[:40]), (CALLS, REPORT[:40])]),
    ("CALLS", "vhost tables", [(BUILT, TIME), (READY, REPORT), (CALLS, REPORT[:32])]),
    ("CALLS", "length", [(BUILT, TIME), (READY, REPORT), (CALLS, REPORT[:48])]),
    ("CALLS", "step", [(BUILT, TIME), (READY, REPORT), (TIMES, MOMENTS), (CALLS, REPORT[:40])]),
    ("TIMES", "step", [(BUILT, TIME), (TIMES, MOMENTS)]),
    ("TIMES", "step", [(BUILT, TIME), (READY, REPORT), (TIMES, MOMENTS), (TIMES, MOMENTS)]),
    ("TIMES", "devices were started", [(BUILT, TIME), (READY, REPORT), (TIMES, MOMENTS[:64])]),
    ("TIMES", "length", [(BUILT, TIME), (READY, REPORT), (TIMES, MOMENTS + TIME)]),
    ("RUNNING", "step", [(BUILT, TIME), (RUNNING, REPORT)]),
    ("ROUND_DONE", "step", [(BUILT, TIME), (READY, REPORT), (ROUND_DONE, DONE)]),
    ("ROUND_DONE", "flags", [(BUILT, TIME), (ROUND_DONE, struct.pack("<II", 1, 1))]),
    ("READY", "start", [(BUILT, TIME), (READY, struct.pack("<8Q", 1, 2, 3, 4, 5, 0, 7, 8))]),
    ("READY", "verify hash", [(BUILT, TIME), (READY, REPORT[:56])]),
    ("READY", "length", [(BUILT, TIME), (READY, REPORT + TIME)]),
    ("FAILED", "length", [(FAILED, b"x" * 401)]),
    ("MACHINE", "type", [(1, b"")]),
    ("end of file", "last record", [(BUILT, TIME)]),
    ("behind the last record", "size", [(FAILED, b""), (FAILED, b"")]),
])
def test_wrong_reply_is_named(record: str, field: str, records: list[tuple[int, bytes]]) -> None:
    with pytest.raises(reader.Fault) as caught:
        reader.verify_replies(replies(*records))
    assert (caught.value.record, caught.value.field) == (record, field)


def test_cancel_ends_what_a_source_sent() -> None:
    sent = Edit([Edited(TYPES["CANCEL"], b"enough")], flags=0)
    assert reader.verify_sent(sent.pack()).reason == "enough"
    sent.records[0].body *= 67
    with pytest.raises(reader.Fault, match="record 1 CANCEL: length is 402, must be at most 400"):
        reader.verify_sent(sent.pack())
