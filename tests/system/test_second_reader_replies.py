# SPDX-License-Identifier: Apache-2.0
"""A destination, written from docs/spec/stream.md alone, that answers a real source."""
from __future__ import annotations

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import Callable

import pytest

from harness.edit import HEAD, TYPES, Edited
from harness.machine import Fleet, Machine
from harness.move import wait
from harness.second import reader

JOIN_S = 20.0
Answer = list[Edited] | None  # None: hangs up
Change = Callable[[list[Edited]], Answer]  # of the right answer to a wrong one
Script = Callable[[str, list[Edited]], Answer]  # the name of what it heard, the right answer


@dataclass
class Destination:
    """Accepts once; hears records and answers each as @script has it."""
    path: str
    script: Script
    sent: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def join(self) -> None:
        self._thread.join(JOIN_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        sock, _ = self._listener.accept()
        # A source that has had enough closes its end.
        with sock, sock.makefile("rb") as stream, contextlib.suppress(ConnectionError):
            stream.read(reader.HEADER_SIZE)
            verify = bytes(16)
            while head := stream.read(reader.RECORD_SIZE):
                kind, length, _ = HEAD.unpack(head)
                body = stream.read(length + -length % 8)[:length]
                name = reader.TYPES[kind]
                verify = body if name == "VERIFY" else verify
                answer = self.script(name, rightly(name, body, verify))
                if answer is None:
                    break
                data = b"".join(record.pack() for record in answer)
                self.sent += data
                sock.sendall(data)


def rightly(name: str, body: bytes, verify: bytes) -> list[Edited]:
    ram_hash, pages = struct.unpack("<QQ", verify)
    if name == "SETUP_END":
        return [Edited(TYPES["BUILT"], bytes(8))]
    if name == "ROUND":
        return [Edited(TYPES["ROUND_DONE"], body[:4] + bytes(4))]
    if name == "VERIFY":
        return [Edited(TYPES["READY"], struct.pack("<8Q", 1, 2, 3, 4, 0, 0, pages, ram_hash))]
    if name == "GO":
        return [Edited(TYPES["RUNNING"], struct.pack("<8Q", 1, 2, 3, 4, 5, 0, pages, ram_hash))]
    return []


def answered(fleet: Fleet, script: Script) -> tuple[str, Machine, str, bytes]:
    """How the move to such a destination ended: status, source, its reason, what was sent."""
    source = fleet.start("source", memory="64M", cpus=1, extra=["--verify"],
                         guest_options="hot=1M,rate=1000/s,tick=1ms")
    source.serial.wait_ticks(5)
    source.qmp.command("migrate-set-capabilities", capabilities=[
        {"capability": "verify", "state": True}])
    destination = Destination(f"{fleet.folder}/x", script)
    source.qmp.command("migrate", uri=f"unix:{fleet.folder}/x")
    status = wait(source)
    destination.join()
    told = source.qmp.command("query-migrate").get("error-desc", "")
    return status, source, told, bytes(destination.sent)


def on(name: str, change: Change) -> Script:
    """Another answer to @name."""
    return lambda heard, right: change(right) if heard == name else right


def body(change: Callable[[bytes], bytes]) -> Change:
    return lambda right: [Edited(right[0].kind, change(right[0].body))]


def optional(count: int) -> Change:
    return lambda right: [Edited(0x80001234, b"from the future")] * count + right


def costs(switch_ns: int, state_bytes: int, count: int = 1) -> Change:
    body = struct.pack("<QQ", switch_ns, state_bytes)
    return lambda right: [Edited(TYPES["COSTS"], body)] * count + right


def calls(size: int = 40, count: int = 1) -> Change:
    return lambda right: [Edited(TYPES["CALLS"], bytes(size))] * count + right


def times(*moments: int, count: int = 1) -> Change:
    body = struct.pack(f"<{len(moments)}Q", *moments)
    return lambda right: [Edited(TYPES["TIMES"], body)] * count + right


def failed(reason: bytes) -> Change:
    return lambda right: [Edited(TYPES["FAILED"], reason)]


@pytest.mark.parametrize("script", [
    lambda heard, right: right, on("SETUP_END", optional(64)), on("GO", optional(1)),
    on("SETUP_END", costs(10 ** 6, 10 ** 4)),
    on("SETUP_END", lambda right: costs(0, 1)(optional(64)(right))), on("GO", calls()),
    on("GO", lambda right: calls()(times(*range(1, 10))(right))), on("GO", times(*[0] * 9)),
    on("GO", times(*[(1 << 64) - 1] * 9)), on("GO", times(*[1 << 63, 0] * 4, 1 << 62)),
], ids=["as it should", "64 optional records", "optional after GO", "COSTS",
        "COSTS and 64 optional records", "CALLS", "CALLS and TIMES", "TIMES of 0",
        "last TIMES there are", "TIMES at random"])
def test_destination_from_the_specification_gets_the_guest(fleet: Fleet, script: Script) -> None:
    status, source, told, sent = answered(fleet, script)
    assert (status, source.status, told) == ("completed", "postmigrate", "")
    assert reader.verify_replies(sent).records[-1] == "RUNNING"
    # None of these fits the source's own times.
    pause = source.qmp.command("query-migrate")["pause"]
    assert "timeline" not in pause and pause["downtime-us"] > 0


@pytest.mark.parametrize("script, record, what, told", [
    (on("SETUP_END", lambda right: right * 2), "BUILT", "step", "BUILT"),
    (on("SETUP_END", body(lambda b: b[:4])), "BUILT", "build time", "BUILT"),
    (on("SETUP_END", body(lambda b: b * 2)), "BUILT", "length", "BUILT"),
    (on("SETUP_END", lambda right: [Edited(TYPES["BUILT"], bytes(8), hash=1)]), "BUILT", "hash",
     "BUILT: wrong checksum"),
    (on("SETUP_END", costs(1, 1, count=2)), "COSTS", "step", "COSTS: it came twice"),
    (on("SETUP_END", lambda right: right + costs(1, 1)([])), "COSTS", "step",
     "COSTS: it came twice, or after BUILT"),
    (on("SETUP_END", costs(1 << 40 | 1, 1)), "COSTS", "switch", "COSTS: 1099511627777 ns"),
    (on("SETUP_END", costs(1, 1 << 63)), "COSTS", "state bytes",
     "COSTS: 9223372036854775808 bytes of state"),
    (on("SETUP_END", lambda right: [Edited(TYPES["COSTS"], bytes(8))] + right), "COSTS",
     "state bytes", "COSTS: 8 bytes, must be 16"),
    (on("SETUP_END", lambda right: [Edited(TYPES["COSTS"], bytes(24))] + right), "COSTS", "length",
     "COSTS: 24 bytes, must be 16"),
    (on("SETUP_END", calls()), "CALLS", "step", "CALLS: it came twice, or not between"),
    (on("VERIFY", calls(32)), "CALLS", "step", "CALLS: 32 bytes, must be 40"),
    (on("VERIFY", times(*[1] * 9)), "TIMES", "step", "TIMES: it came twice, or before READY"),
    (on("VERIFY", times(*[1] * 8)), "TIMES", "step", "TIMES: 64 bytes, must be 72"),
    (on("SETUP_END", lambda right: [Edited(0x106)] + right), "0x106", "type", "0x106"),
    (on("SETUP_END", lambda right: [Edited(TYPES["ROUND"], bytes(8))] + right), "ROUND", "type",
     "ROUND"),
    (on("SETUP_END", optional(65)), "optional", "number of optional records", "0x80001234"),
    (on("SETUP_END", lambda right: [Edited(0x80001234, b"x", padding=b"\0\0\0\0\0\0\1")] + right),
     "optional", "padding", "padding is not zero"),
    (on("ROUND", body(lambda b: b[:4] + struct.pack("<I", 1))), "ROUND_DONE", "flags",
     "ROUND_DONE: reserved bits"),
    (on("ROUND", body(lambda b: b + bytes(8))), "ROUND_DONE", "length", "ROUND_DONE"),
    (on("VERIFY", body(lambda b: b[:56])), "READY", "verify hash", "READY"),
    (on("VERIFY", body(lambda b: b + bytes(8))), "READY", "length", "READY"),
    (on("VERIFY", body(lambda b: b[:32] + struct.pack("<Q", 5) + b[40:])), "READY", "start",
     "READY: 5 ns to start"),
    (on("VERIFY", lambda right: [Edited(TYPES["FAILED"], b"n" * 401)]), "FAILED", "length",
     "FAILED: 401 bytes, at most 400"),
])
def test_reply_out_of_the_specification_leaves_the_guest_here(
        fleet: Fleet, script: Script, record: str, what: str, told: str) -> None:
    status, source, reason, sent = answered(fleet, script)
    assert (status, source.status) == ("failed", "running") and told in reason
    with pytest.raises(reader.Fault) as caught:
        reader.verify_replies(sent)
    assert (caught.value.record, caught.value.field) == (record, what)


@pytest.mark.parametrize("script, told", [
    (on("SETUP_END", lambda right: right + [Edited(TYPES["READY"], bytes(64))]),
     "READY out of turn"),
    (on("ROUND", body(lambda b: b"\x09" + b[1:])), "answered round 1 with 9"),
    (on("VERIFY", body(lambda b: b[:56] + bytes(8))), "RAM differs"),
    (on("VERIFY", body(lambda b: b[:48] + bytes(8) + b[56:])), "RAM differs"),
    (on("VERIFY", failed(b"no room here")), "destination: no room here"),
])
def test_reply_that_does_not_fit_what_was_sent_leaves_the_guest_here(
        fleet: Fleet, script: Script, told: str) -> None:
    status, source, reason, _ = answered(fleet, script)
    assert (status, source.status) == ("failed", "running") and told in reason


@pytest.mark.parametrize("change", [body(lambda b: b[:56]), failed(b"oops"), lambda right: None],
                         ids=["short RUNNING", "FAILED", "nothing"])
def test_guest_is_handed_over_when_go_is_not_answered_rightly(fleet: Fleet, change: Change) -> None:
    status, source, reason, _ = answered(fleet, on("GO", change))
    assert (status, source.status) == ("failed", "handed-over") and "GO was sent" in reason
