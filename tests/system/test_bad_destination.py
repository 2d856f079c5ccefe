# SPDX-License-Identifier: Apache-2.0
"""A destination that stalls, reads slowly or talks nonsense at any step never hangs the guest."""
from __future__ import annotations

import random
import socket
import threading
from pathlib import Path
from typing import Callable

import pytest

from harness.edit import HEAD, HEADER_SIZE, NAMES, TYPES, Edited
from harness.machine import Fleet, Machine
from harness.move import start, wait
from harness.qmp import QmpError
from harness.scene import assert_moves_after_all, assert_works, working

SMALL = {"memory": "64M", "cpus": 1, "guest_options": "hot=1M,rate=1000/s,tick=1ms"}
DOWNTIME_LIMIT_MS = 500
# A stopped guest waits for its destination 200 ms beyond the limit; a busy
# machine adds to that, and makes a guest that runs miss ticks.
GAP_MAX_NS = DOWNTIME_LIMIT_MS * 1_000_000 + 1_000_000_000
END_S = 30.0
ACCEPT = "ACCEPT"  # no record: nothing was read yet


class Impostor:
    """Answers as it should until record @at came, or somebody to ACCEPT; then it does @misbehave."""

    def __init__(self, path: Path, at: str, misbehave: Callable[["Impostor"], None]) -> None:
        self.at, self.misbehave = at, misbehave
        self.was_reached = threading.Event()
        self.is_over = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self.is_over.set()
        self._thread.join(END_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        self.sock, _ = self._listener.accept()
        self._listener.close()
        with self.sock, self.sock.makefile("rb") as stream:
            name = ACCEPT
            if name != self.at:
                stream.read(HEADER_SIZE)
            while name != self.at:
                kind, length, _ = HEAD.unpack(stream.read(HEAD.size))
                body = stream.read(length + -length % 8)
                name = NAMES[kind]
                if name != self.at:
                    self._answer(name, body)
            self.was_reached.set()
            try:
                self.misbehave(self)
            except OSError:
                pass  # the source has had enough

    def _answer(self, name: str, body: bytes) -> None:
        if name == "SETUP_END":
            self.sock.sendall(Edited(TYPES["BUILT"], bytes(8)).pack())
        elif name == "ROUND":
            self.sock.sendall(Edited(TYPES["ROUND_DONE"], body[:4] + bytes(4)).pack())
        elif name == "END":
            self.sock.sendall(Edited(TYPES["READY"], bytes(64)).pack())


def stalls(peer: Impostor) -> None:
    peer.is_over.wait(END_S)


def reads_slowly(peer: Impostor) -> None:
    """Some KiB a second, without an answer."""
    while not peer.is_over.wait(0.05) and peer.sock.recv(256):
        pass


def drips(peer: Impostor) -> None:
    """An answer that is always about to be whole."""
    for byte in Edited(TYPES["READY"], bytes(1 << 19)).pack():
        peer.sock.sendall(bytes([byte]))
        if peer.is_over.wait(0.02):
            break


def makes_noise(peer: Impostor) -> None:
    dice = random.Random(1)
    while not peer.is_over.is_set():
        peer.sock.sendall(dice.randbytes(4096))


def floods(peer: Impostor) -> None:
    """Records that a source may skip, without an end."""
    some = Edited(0x80001234, b"from the future").pack() * 100
    while not peer.is_over.is_set():
        peer.sock.sendall(some)


REFUSED = {makes_noise: "bytes, at most", floods: "which is no reply"}
SILENT = pytest.mark.parametrize("misbehave", [stalls, reads_slowly, drips])
LOUD = pytest.mark.parametrize("misbehave", REFUSED)
LIVE_STEPS = [ACCEPT, "SETUP_END", "ROUND"]
STOPPED_STEPS = ["SWITCH", "STOPPED", "END"]


def moving(fleet: Fleet, at: str, misbehave: Callable[[Impostor], None]
           ) -> tuple[Machine, Impostor]:
    """On the way to a destination that has begun to misbehave."""
    source = working(fleet, **SMALL)
    source.qmp.command("migrate-set-parameters", downtime_limit=DOWNTIME_LIMIT_MS)
    source.serial.longest_gap_ns = 0
    impostor = Impostor(fleet.folder / "impostor", at, misbehave)
    start(source, f"unix:{fleet.folder}/impostor")
    assert impostor.was_reached.wait(END_S)
    return source, impostor


@pytest.mark.parametrize("at", LIVE_STEPS)
@SILENT
def test_guest_runs_on_while_its_destination_is_silent(
        fleet: Fleet, at: str, misbehave: Callable[[Impostor], None]) -> None:
    source, impostor = moving(fleet, at, misbehave)
    wait(source, 20, "active")  # the kernel may take seconds to turn logging on, and off
    source.serial.wait_ticks(1000)
    assert source.qmp.command("query-migrate")["status"] == "active"
    source.qmp.command("migrate_cancel")
    assert wait(source, 20) == "cancelled"
    assert source.serial.longest_gap_ns < GAP_MAX_NS
    impostor.end()
    assert_moves_after_all(fleet, source, **SMALL)


@pytest.mark.parametrize("at", STOPPED_STEPS)
@SILENT
def test_guest_is_stopped_no_longer_than_its_destination_may_take(
        fleet: Fleet, at: str, misbehave: Callable[[Impostor], None]) -> None:
    source, impostor = moving(fleet, at, misbehave)
    assert wait(source, 10) == "failed"
    source.serial.wait_ticks(50)
    assert source.serial.longest_gap_ns < GAP_MAX_NS
    impostor.end()
    assert_moves_after_all(fleet, source, **SMALL)


@LOUD
@pytest.mark.parametrize("at", [*LIVE_STEPS, *STOPPED_STEPS])
def test_nonsense_fails_the_migration_at_once_and_the_guest_runs(
        fleet: Fleet, at: str, misbehave: Callable[[Impostor], None]) -> None:
    source, impostor = moving(fleet, at, misbehave)
    assert wait(source, 10) == "failed"
    source.serial.wait_ticks(50)
    assert source.serial.longest_gap_ns < GAP_MAX_NS
    told = source.qmp.command("query-migrate")["error-desc"]
    assert REFUSED[misbehave] in told
    impostor.end()
    assert_moves_after_all(fleet, source, **SMALL)


@pytest.mark.parametrize("misbehave", [stalls, makes_noise, floods])
def test_guest_is_handed_over_to_a_destination_that_never_answers_go(
        fleet: Fleet, misbehave: Callable[[Impostor], None]) -> None:
    source, impostor = moving(fleet, "GO", misbehave)
    assert wait(source, 15) == "failed"  # after 10 s of silence
    assert source.status == "handed-over"
    impostor.end()
    with pytest.raises(QmpError, match="force"):
        source.qmp.command("cont")
    source.qmp.command("cont", force=True)
    assert_works(source)
