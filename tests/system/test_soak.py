# SPDX-License-Identifier: Apache-2.0
"""A thousand moves in a row, one in five broken on purpose: nothing is lost, nothing is left.

$SOAK_SEED and $SOAK_MOVES repeat or change a run; the seed is printed.
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
from harness.injector import HANDED, LOST, MOVED, NOBODY, SOURCE
from harness.machine import Fleet, Machine
from harness.move import start, wait
from harness.resources import assert_same, resources
from harness.qmp import QmpClosed
from test_injector import ARCS

OPTIONS = {"memory": "64M", "cpus": 2, "guest_options": "hot=4M,rate=max,verify=on,tick=1ms"}
MOVES = int(os.environ.get("SOAK_MOVES", "1000"))
BROKEN = 0.2
CHECK_EACH = 20     # moves between two checks of all pages
VERIFIED = 0.2      # of the moves compare RAM on both sides
FAILURES = 100
GROWTH_MAX_KIB = 128
ENDED = (0, 6, -signal.SIGKILL)  # told to, as incoming failed, killed
BEFORE_GO = ("setup-active", "active-device", "listening-building", "building-receiving",
             "receiving-stopped", "stopped-loading")
# What a move takes on each side once it is connected, and can be broken at.
STEPS = [
    *(("source", arc) for arc in (
        "setup-active", "active-device", "device-sent", "sent-ready", "ready-handed-over",
        "handed-over-completed")),
    *(("destination", arc) for arc in (
        "listening-building", "building-receiving", "receiving-stopped", "stopped-loading",
        "loading-loaded", "loaded-taking-over", "taking-over-started", "started-running")),
]
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM}


def anonymous_kib(machine: Machine) -> int:
    """Memory of its own; the guest's is a memfd."""
    text = Path(f"/proc/{machine.process.pid}/smaps_rollup").read_text()
    return int(re.search(r"^Anonymous:\s+(\d+) kB$", text, re.MULTILINE).group(1))


def children() -> int:
    """Of this process, dead ones too."""
    return sum(len((task / "children").read_text().split())
               for task in Path("/proc/self/task").iterdir())


class Chain:
    """The guest, wherever it is, and the destination that comes next."""

    def __init__(self, fleet: Fleet, dice: random.Random) -> None:
        self.fleet, self.dice = fleet, dice
        self.number = 0
        self.outcomes: Counter[str] = Counter()
        self.ending: list[tuple[Machine, tuple[int, ...]]] = []
        self.owner = self.guest_anew()
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

    def begin(self, side: str = "", arc: str = "", action: str = "") -> Machine:
        """A move, to be broken at @arc; its destination."""
        source, destination = self.owner, self.next
        self.next = self.destination()
        destination.ready().serial
        uri = f"unix:{self.fleet.folder}/{destination.name}.in"
        # Logging of a move that fails ends before its threads are counted, or in the next one.
        source.qmp.command("migrate-set-parameters", x_log_stop_delay=0)
        source.qmp.command("migrate-set-capabilities", capabilities=[
            {"capability": "verify", "state": self.dice.random() < VERIFIED}])
        if arc:
            injector.arm(source if side == "source" else destination, arc, action)
        destination.qmp.command("migrate-incoming", uri=uri)
        source.qmp.take_events()
        try:
            start(source, uri)
        except QmpClosed:
            assert (side, action) == ("source", "exit")
        return destination

    def move(self) -> None:
        source, destination = self.owner, self.begin()
        assert wait(source, 30) == "completed", source.qmp.command("query-migrate")
        self.owner = self.arrived(destination)
        self.end(source)

    def move_broken(self) -> None:
        """The next move starts from whoever has the guest then."""
        side, arc = self.dice.choice(STEPS)
        action = self.dice.choice(("exit", "close", "stall", "garbage"))
        end = self.dice.choice(("cancel", *SIGNALS))
        print(f"move {self.number}: {arc},action={action}" + f" {end}" * (action == "stall"))
        source = self.owner
        before = resources(source)
        destination = self.begin(side, arc, action)
        broken, peer = (source, destination) if side == "source" else (destination, source)
        injector.wait_broken(broken, arc, action)
        if action == "stall":
            self.end_stall(broken, peer, arc, end)
        outcome = injector.settled(source, destination)
        expected = "killed" if action == "stall" and end in SIGNALS else action
        assert outcome in getattr(ARCS[arc], expected), (arc, action, end)
        self.outcomes[outcome] += 1
        if outcome == NOBODY:
            source.qmp.command("cont", force=True)
        if outcome in (SOURCE, NOBODY):
            assert_same(source, before)
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
        return destination

    def end_stall(self, broken: Machine, peer: Machine, arc: str, end: str) -> None:
        """Those that would end by themselves are cancelled too: comparing RAM may take long."""
        if end in SIGNALS:
            broken.kill(SIGNALS[end])
            broken.wait_end()
            return
        broken.qmp.command("migrate_cancel")
        if ARCS[arc].ended_by == "peer":
            peer.kill()
            peer.wait_end()

    def end(self, machine: Machine) -> None:
        """It ends, by itself or because it is told to; that is not waited for here."""
        codes = (0,)
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
        paths = [machine.qmp_path, machine.serial_path, f"{self.fleet.folder}/{machine.name}.in"]
        for path in paths:
            if os.path.exists(path):
                assert code == -signal.SIGKILL, path
                os.unlink(path)

    def check(self) -> None:
        """Every page is as the guest left it."""
        assert guest.ask(self.owner.serial, request=b"v")["errors"] == 0
        assert not guest.complaints(self.owner.serial)

    def finish(self) -> None:
        for machine in (self.owner, self.next):
            self.end(machine)
        while self.ending:
            self.reap()


@pytest.mark.limit(900)
def test_thousand_moves_one_in_five_broken_lose_and_leave_nothing(fleet: Fleet) -> None:
    seed = int(os.environ.get("SOAK_SEED", time.time_ns() % 1_000_000))
    print(f"SOAK_SEED={seed}")
    dice = random.Random(seed)
    before = children(), len(os.listdir("/proc/self/fd"))
    chain = Chain(fleet, dice)
    for number in range(1, MOVES + 1):
        if dice.random() < BROKEN:
            chain.move_broken()
        else:
            chain.move()
        if number % CHECK_EACH == 0:
            chain.check()
    chain.check()
    chain.finish()
    print(dict(chain.outcomes))
    assert (children(), len(os.listdir("/proc/self/fd"))) == before
    assert os.listdir(fleet.folder) == []
    assert {SOURCE, MOVED} <= set(chain.outcomes)


def test_hundred_failed_moves_leave_nothing_in_the_source(fleet: Fleet) -> None:
    dice = random.Random(1)
    chain = Chain(fleet, dice)
    source, warm, seen = chain.owner, 0, (0, 0)
    # Before GO: the guest stays, whatever breaks but the source itself.
    steps = [step for step in STEPS if step[1] in BEFORE_GO]
    for number in range(FAILURES):
        side, arc = dice.choice(steps)
        action = dice.choice(("close", "garbage") if side == "source" else ("exit", "close", "garbage"))
        destination = chain.begin(side, arc, action)
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
