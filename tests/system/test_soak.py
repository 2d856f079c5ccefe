# SPDX-License-Identifier: Apache-2.0
"""A thousand moves in a row, one in five broken on purpose: nothing is lost, nothing is left.

$SOAK_SEED and $SOAK_MOVES repeat or change a run; the seed is printed.  $SOAK_ASAN is
a godwit under address sanitizer, which knows of every byte that a process lost.
"""
from __future__ import annotations

import os
import random
import re
import signal
import socket
import time
from collections import Counter
from pathlib import Path

import pytest

from harness import guest, injector
from harness.arcs import ARCS, BEGINS, Scene, first_arc, moving
from harness.injector import LOST, MOVED, NOBODY, SOURCE
from harness.machine import Fleet, Machine
from harness.move import start, wait
from harness.resources import assert_same, resources
from harness.qmp import QmpClosed

OPTIONS = {"memory": "64M", "cpus": 2, "guest_options": "hot=4M,rate=max,verify=on,tick=1ms"}
MOVES = int(os.environ.get("SOAK_MOVES", "1000"))
BROKEN = 0.2
BROKEN_LEAST = 0.15  # four standard deviations below, of a thousand
MANY = 1000
ARCS_LEAST = 0.8  # of those that there are
ASAN = os.environ.get("SOAK_ASAN", "")
ASAN_MOVES, ASAN_FOUND = 60, 99
CHECK_EACH = 20     # moves between two checks of all pages
VERIFIED = 0.2      # of the moves compare RAM on both sides
FAILURES = 100
LIMIT_MS = 1200  # of so many, some take long to stop a vCPU on a machine that does much else
GROWTH_MAX_KIB = 16  # over the last three quarters of them: 200 bytes of each
MOVED_MAX_KIB = 384  # more than a fresh process, of one that took the guest in or gave it away
ENDED = (0, 6, -signal.SIGKILL)  # told to, as incoming failed, killed
BEFORE_GO = ("setup-active", "active-device", "listening-building", "building-receiving",
             "receiving-stopped", "stopped-loading")
# All but those of files and pipes.
ELSEWHERE = ("completed-setup", "ready-completed", "device-ready")
STEPS = [BEGINS, *(arc for arc in ARCS if arc not in ELSEWHERE and not arc.endswith(BEGINS))]
ENDING = "taking-over-failed"  # the process ends already
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM}


def anonymous_kib(machine: Machine) -> int:
    """Memory of its own; the guest's is a memfd."""
    text = Path(f"/proc/{machine.process.pid}/smaps_rollup").read_text()
    return int(re.search(r"^Anonymous:\s+(\d+) kB$", text, re.MULTILINE).group(1))


def children() -> int:
    """Of this process, dead ones too."""
    return sum(len((task / "children").read_text().split())
               for task in Path("/proc/self/task").iterdir())


def assert_whole(machine: Machine) -> None:
    """Every page is as its guest left it."""
    assert guest.ask(machine.serial, request=b"v")["errors"] == 0
    assert not guest.complaints(machine.serial)


class Chain:
    """The guest, wherever it is, and the destination that comes next."""

    def __init__(self, fleet: Fleet, dice: random.Random, is_measured: bool = True) -> None:
        self.fleet, self.dice = fleet, dice
        self.is_measured = is_measured  # a sanitizer has memory of its own
        self.number = 0
        self.outcomes: Counter[str] = Counter()
        self.arcs: Counter[str] = Counter()
        self.most_kib = 0
        self.ending: list[tuple[Machine, tuple[int, ...]]] = []
        self.owner = self.guest_anew()
        # Of a process whose guest has never moved.
        self.fresh, self.fresh_kib = resources(self.owner), anonymous_kib(self.owner)
        self.next = self.destination()

    def destination(self) -> Machine:
        """Started ahead, so that the next move need not wait for it."""
        self.number += 1
        return self.fleet.start(f"m{self.number}", incoming="defer", **OPTIONS)

    def guest_anew(self) -> Machine:
        self.number += 1
        machine = self.fleet.start(f"m{self.number}", **OPTIONS).ready()
        machine.serial.wait_ticks(5)
        return machine

    def both(self) -> tuple[Machine, Machine]:
        """Who has the guest and where it goes, ready for a move."""
        source, destination = self.owner, self.next
        self.next = self.destination()
        destination.ready().serial
        # Logging of a move that fails ends before its threads are counted, or in the next one.
        source.qmp.command("migrate-set-parameters", x_log_stop_delay=0, downtime_limit=LIMIT_MS)
        source.qmp.command("migrate-set-capabilities", capabilities=[
            {"capability": "verify", "state": self.dice.random() < VERIFIED}])
        return source, destination

    def move(self) -> None:
        source, destination = self.both()
        uri = f"unix:{self.fleet.folder}/{destination.name}.in"
        destination.qmp.command("migrate-incoming", uri=uri)
        source.qmp.take_events()
        before = resources(source)
        start(source, uri)
        assert wait(source, 30) == "completed", source.qmp.command("query-migrate")
        self.owner = self.arrived(destination)
        self.assert_left_nothing(source, before)
        self.end(source)

    def arc(self) -> str:
        """One that the next move can be broken at."""
        arc = self.dice.choice(STEPS)
        return first_arc(self.owner) if arc == BEGINS else arc

    def break_move(self, arc: str, action: str) -> Scene:
        """It is broken there; it may not have settled yet."""
        scene = Scene(self.fleet, arc, action, *self.both())
        scene.exits_on_error = action != "stall"  # as its end would end that
        (moving if arc.endswith(BEGINS) else ARCS[arc].reach)(scene)
        injector.wait_broken(scene.broken, arc, action)
        return scene

    def move_broken(self) -> None:
        """The next move starts from whoever has the guest then."""
        arc = self.arc()
        action = self.dice.choice(("exit", "close", "stall", "garbage"))
        end = self.dice.choice(("cancel", *SIGNALS)) if arc != ENDING else ""
        print(f"move {self.number}: {arc},action={action}" + f" {end}" * (action == "stall"))
        expected = getattr(ARCS[arc], "killed" if action == "stall" and end in SIGNALS else action)
        before = resources(self.owner)
        if LOST in expected:
            self.check()  # nobody can ask it later
        scene = self.break_move(arc, action)
        source, destination = scene.source, scene.destination
        if action == "stall":
            self.end_stall(scene, end)
        outcome = injector.settled(source, destination, scene.is_migrating)
        assert outcome in expected, (arc, action, end)
        self.outcomes[outcome] += 1
        self.arcs[arc] += 1
        if outcome == NOBODY:
            source.qmp.command("cont", force=True)
        if source.is_alive:
            self.assert_left_nothing(source, before)
        if outcome in (SOURCE, NOBODY):
            self.end(destination)
        else:
            self.owner = self.guest_anew() if outcome == LOST else self.arrived(destination)
            self.end(source)
            if outcome == LOST:
                self.end(destination)
        self.owner.serial.wait_ticks(1)

    def arrived(self, destination: Machine) -> Machine:
        """It runs the guest, and is done with taking it in: it may move on."""
        wait(destination, 20, "running")
        destination.serial.wait_ticks(1)
        self.assert_left_nothing(destination, self.fresh)
        return destination

    def assert_left_nothing(self, machine: Machine, before: tuple[int, int]) -> None:
        """A move that is over has left nothing behind in it."""
        assert_same(machine, before)
        if not self.is_measured:
            return
        kib = anonymous_kib(machine)
        self.most_kib = max(self.most_kib, kib - self.fresh_kib)
        assert kib < self.fresh_kib + MOVED_MAX_KIB, machine

    def end_stall(self, scene: Scene, end: str) -> None:
        """Those that would end by themselves are cancelled too: comparing RAM may take long."""
        broken, peer = scene.broken, scene.peer
        if end in SIGNALS:
            if broken.status == "running":
                assert_whole(broken)
            broken.kill(SIGNALS[end])
            broken.wait_end()
        elif end:
            broken.qmp.command("migrate_cancel")
            if ARCS[scene.arc].ended_by == "peer":
                peer.kill()
                peer.wait_end()

    def end(self, machine: Machine) -> None:
        """It ends, by itself or because it is told to; that is not waited for here."""
        codes: tuple[int, ...] = (0,)
        if machine.is_alive:
            try:
                machine.qmp.command("quit")
            except QmpClosed:
                codes = ENDED
        else:
            codes = ENDED
        self.ending.append((machine, codes))
        while len(self.ending) > 4:
            self.reap()

    def reap(self) -> None:
        machine, codes = self.ending.pop(0)
        code = machine.wait_end()
        assert code in codes, (machine, code, machine.output)
        self.fleet.retire(machine)
        target = f"{self.fleet.folder}/{machine.name}.in"
        for path in (machine.qmp_path, machine.serial_path, target):
            if os.path.exists(path):
                assert code == -signal.SIGKILL, path
                os.unlink(path)
        Path(f"{target}.link").unlink(missing_ok=True)  # ours

    def check(self) -> None:
        assert_whole(self.owner)

    def finish(self) -> None:
        for machine in (self.owner, self.next):
            self.end(machine)
        while self.ending:
            self.reap()


def ours() -> tuple[int, int]:
    """Processes and descriptors."""
    return children(), len(os.listdir("/proc/self/fd"))


def soak(chain: Chain, moves: int) -> None:
    for number in range(1, moves + 1):
        if chain.dice.random() < BROKEN:
            chain.move_broken()
        else:
            chain.move()
        if number % CHECK_EACH == 0:
            chain.check()
    chain.check()
    chain.finish()


@pytest.mark.limit(900)
def test_thousand_moves_one_in_five_broken_lose_and_leave_nothing(fleet: Fleet) -> None:
    seed = int(os.environ.get("SOAK_SEED", time.time_ns() % 1_000_000))
    print(f"SOAK_SEED={seed}")
    dice = random.Random(seed)
    before = ours()
    chain = Chain(fleet, dice)
    soak(chain, MOVES)
    print(dict(chain.outcomes), dict(chain.arcs), f"at most {chain.most_kib} KiB more than at first")
    deadline = time.monotonic() + 5
    while ours() != before:  # a link of ours that was cut may be closing
        assert time.monotonic() < deadline, (ours(), before)
        time.sleep(0.002)
    assert os.listdir(fleet.folder) == []
    assert {SOURCE, MOVED} <= set(chain.outcomes)
    assert sum(chain.outcomes.values()) == sum(chain.arcs.values())
    if MOVES >= MANY:
        assert sum(chain.arcs.values()) > BROKEN_LEAST * MOVES
        assert len(chain.arcs) >= ARCS_LEAST * len(STEPS), set(STEPS) - set(chain.arcs)


@pytest.mark.skipif(not ASAN, reason="$SOAK_ASAN is no godwit under address sanitizer")
def test_moves_lose_no_memory_that_address_sanitizer_knows_of(
        fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GODWIT", ASAN)
    # Its exit code where memory was lost or misused is none of ours.
    monkeypatch.setenv("ASAN_OPTIONS", f"detect_leaks=1:exitcode={ASAN_FOUND}")
    soak(Chain(fleet, random.Random(1), is_measured=False), ASAN_MOVES)


def test_hundred_failed_moves_leave_nothing_in_the_source(fleet: Fleet) -> None:
    dice = random.Random(1)
    chain = Chain(fleet, dice)
    source, warm, seen = chain.owner, 0, (0, 0)
    for number in range(FAILURES):
        # Before GO: the guest stays, whatever breaks but the source itself.
        arc = dice.choice(BEFORE_GO)
        action = dice.choice(("close", "garbage") if ARCS[arc].side == "source"
                             else ("exit", "close", "garbage"))
        destination = chain.break_move(arc, action).destination
        assert injector.settled(source, destination) == SOURCE, (arc, action)
        chain.end(destination)
        if number == FAILURES // 4:
            warm, seen = anonymous_kib(source), resources(source)
    assert_same(source, seen)
    assert anonymous_kib(source) - warm < GROWTH_MAX_KIB
    chain.check()
    chain.finish()


def test_destination_that_is_probed_keeps_no_descriptor(fleet: Fleet) -> None:
    path = f"{fleet.folder}/in"
    destination = fleet.start("destination", incoming=f"unix:{path}", **OPTIONS).ready()
    seen = None
    for _ in range(200):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b""
        seen = seen or resources(destination)
    assert_same(destination, seen)
