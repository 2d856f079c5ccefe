# SPDX-License-Identifier: Apache-2.0
"""vhost-user disks at work while RAM behind a BAR moves, goes and comes back.

A back end with slots is told only of what changed.  That of tests/backend ends the
connection when it is told of a region twice, of one that it does not have, when a
ring at work loses its memory, and when it has slots and is sent a table.
"""
from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from harness import guest
from harness.back_end import BackEnd, BackEnds, connections
from harness.machine import Fleet, Machine
from harness.move import start, wait
from harness.scene import listening
from harness.travel import travel

OPTIONS = "span=4M,depth=16,tick=1ms,queues=all,churn=10ms,what=shmem"
MOVES = 6
CHANGES = 20
KINDS = ["slots", "table", "daemon"]


def back_end_of(back_ends: BackEnds, kind: str, name: str, image: Path) -> BackEnd:
    if kind == "daemon":
        return back_ends.daemon(name, image, queues=2)
    return back_ends.recorded(name, image, "queues=2", *(["slots=3"] if kind == "slots" else []))


def options_of(back_end: BackEnd) -> dict[str, Any]:
    return {"guest": "blk", "guest_options": OPTIONS, "memory": "64M", "cpus": 2,
            "extra": ["--disk", f"vhost-user={back_end.socket},queues=2",
                      "--shmem", "size=1M", "--verify"]}


@pytest.fixture
def image(folder: Path) -> Path:
    path = folder / "image"
    path.write_bytes(b"")
    os.truncate(path, 8 << 20)
    return path


def working(fleet: Fleet, back_end: BackEnd, **options: Any) -> Machine:
    machine = fleet.start("source", **{**options_of(back_end), **options})
    machine.serial.wait_line(r"ready\b")
    return machine


def changes(machine: Machine) -> int:
    counts = machine.report().members["churn"]
    return sum(int(word.split(":")[1]) for word in counts.split("+"))


def wait_changes(machine: Machine, count: int = CHANGES) -> None:
    goal = changes(machine) + count
    while changes(machine) < goal:
        machine.serial.wait_ticks(5)


def told(machine: Machine) -> dict[str, int]:
    """What the back ends were, by a guest that does not change it meanwhile."""
    machine.qmp.command("stop")
    counts = told_at(machine)
    machine.qmp.command("cont")
    return counts


def told_at(machine: Machine) -> dict[str, int]:
    """So far."""
    provider, = machine.qmp.command("query-stats", target="vm", providers=[{"provider": "vhost"}])
    return {stat["name"].removeprefix("user-"): stat["value"] for stat in provider["stats"]
            if stat["name"].startswith("user-")}


def assert_whole(machine: Machine) -> None:
    last = guest.ask(machine.serial, timeout_s=60, request=b"q")
    assert last["errors"] == 0, guest.complaints(machine.serial)
    assert not guest.complaints(machine.serial)
    assert not [line for _, line in machine.serial.lines if line.startswith("reset ")]
    assert machine.wait_end() == 0


def counted(back_end: BackEnd) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", back_end.end())}


@pytest.mark.parametrize("kind", KINDS)
def test_disk_works_on_while_ram_moves_goes_and_comes_back(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path, kind: str) -> None:
    back_end = back_end_of(back_ends, kind, "blk", image)
    machine = working(fleet, back_end)
    wait_changes(machine, 3 * CHANGES)
    seen = told(machine)
    assert_whole(machine)
    if kind == "table":
        assert seen["regions-added"] == seen["regions-removed"] == 0
        assert counted(back_end)["tables"] >= seen["tables-told"] > CHANGES
    elif kind == "slots":
        at_end = counted(back_end)
        assert at_end["connections"] == 1 and at_end["tables"] == 0
        # RAM is told once, and one region with each change.
        assert seen["tables-told"] > CHANGES
        assert seen["regions-added"] + seen["regions-removed"] <= 2 * seen["tables-told"]
        assert at_end["added"] >= seen["regions-added"] > CHANGES
        assert 0 <= at_end["added"] - at_end["removed"] <= 3
        # Rings were stopped for what went, not for what came.
        assert at_end["stops"] <= 2 * (at_end["removed"] + 2)
    else:
        # Let go for what goes, it is told all by slots when it is back.
        assert seen["regions-added"] > CHANGES


@pytest.mark.parametrize("kind", KINDS)
def test_guest_moves_while_ram_behind_a_bar_does(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path, kind: str) -> None:
    ends = [back_end_of(back_ends, kind, f"blk{number}", image) for number in range(2)]
    machine = travel(fleet, *(options_of(end) for end in ends), moves=MOVES)
    wait_changes(machine)
    assert_whole(machine)
    if kind == "slots":
        # Each side of a move is another connection: none ended for what it was told.
        connections = [counted(end)["connections"] for end in ends]
        assert sorted(connections) == [MOVES // 2, MOVES // 2 + 1], connections


@pytest.mark.parametrize("kind", ["slots", "table"])
def test_lesson_back_end_is_connected_and_told_of_ram_before_the_pause(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path, kind: str) -> None:
    here, there = (back_end_of(back_ends, kind, f"blk{number}", image) for number in range(2))
    still = {"guest_options": OPTIONS.replace("churn=10ms", "churn=off")}
    source = working(fleet, here, **still)
    destination, uri = listening(fleet, **{**options_of(there), **still})
    source.qmp.take_events()
    source.qmp.command("migrate-set-parameters", downtime_limit=0)
    start(source, uri)
    for _ in range(3):
        source.qmp.wait_event("MIGRATION_PASS", 30)
    assert connections(there.socket) == 1
    told_before = told_at(destination)
    assert source.qmp.command("query-migrate")["status"] == "active"
    source.qmp.command("migrate-set-parameters", downtime_limit=1000)
    assert wait(source) == "completed"
    assert connections(there.socket) == 1
    calls = source.qmp.command("query-migrate")["pause"]["calls"]["destination"]
    assert calls["vhost-tables"] == 0 < calls["vhost-calls"], calls
    assert told(destination)["tables-told"] == told_before["tables-told"] == 1
    assert_whole(destination)
    at_end = counted(there)
    assert at_end["connections"] == 1
    assert (at_end["tables"], at_end["added"]) == ((1, 0) if kind == "table" else (0, 1)), at_end


def test_region_that_has_no_slot_asks_for_a_reset_until_it_goes(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path) -> None:
    """The guest's RAM alone has one; each time that the BAR shows, the disk rests."""
    back_end = back_ends.recorded("blk", image, "queues=2", "slots=1")
    machine = working(fleet, back_end)
    machine.serial.wait_line(r"reset .*asked=1")
    assert machine.status == "running"
    assert machine.process.poll() is None


def wait_attached(machine: Machine) -> None:
    """It has just come back from a change of RAM, and works."""
    machine.output_seen = len(machine.output)
    machine.wait_output("vh_user_attached")
    machine.output_seen = len(machine.output)
    ops = machine.report()["ops"]
    while machine.report()["ops"] == ops:
        machine.serial.wait_ticks(5)


def test_back_end_killed_while_it_was_to_finish_its_requests_asks_for_a_reset(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path) -> None:
    """Let go for a change of RAM, it comes back when all is done, or it is another process."""
    back_end = back_ends.recorded("blk", image, "queues=2", "inflight=off")
    options = options_of(back_end)
    options["guest_options"] = OPTIONS.replace("churn=10ms", "churn=500ms")
    options["extra"] += ["--trace", "vh_failed,vh_user_attached"]
    machine = working(fleet, back_end, **options)
    wait_attached(machine)
    back_end.pause()
    machine.wait_output("let go, to finish its requests")
    back_end.restart()
    machine.serial.wait_line(r"reset .*asked=1")
    wait_changes(machine, 1)
    last = guest.ask(machine.serial, timeout_s=60, request=b"q")
    assert last["errors"] == 0 and not guest.complaints(machine.serial)
    assert machine.wait_end() == 0
