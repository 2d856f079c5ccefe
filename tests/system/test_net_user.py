# SPDX-License-Identifier: Apache-2.0
"""Cards on DPDK's testpmd, which forwards between two of them: each frame is accounted for."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness import guest
from harness.back_end import BackEnd, BackEnds, tool
from harness.machine import Fleet, Machine
from harness.move import move

# testpmd's core polls, and takes one of the machine's.
pytestmark = pytest.mark.alone

MOVES = 6
OPTIONS = "tick=1ms,depth=16,peer=1"


def forwarder(back_ends: BackEnds, name: str, pairs: int, folder: Path) -> BackEnd:
    """Two ports, each frame of one goes out at the other.  It forwards when it has statistics."""
    ports = [folder / f"{name}{port}" for port in range(2)]
    argv = [tool("dpdk-testpmd"), "--no-huge", "-m", "256", "--no-pci", "--no-telemetry", "-l",
            "0,1", "--file-prefix", f"{folder.name}-{name}"]
    for number, path in enumerate(ports):
        argv += ["--vdev", f"net_vhost{number},iface={path},queues={pairs}"]
    argv += ["--", f"--rxq={pairs}", f"--txq={pairs}", "--total-num-mbufs=4096",
             "--forward-mode=io", "--auto-start", "--nb-cores=1", "--stats-period=1000",
             "--disable-link-check", "--no-mlockall"]  # locked, all of a guest's RAM is touched
    return back_ends.add(ports, argv, ready=b"Port statistics")


def options_of(back_end: BackEnd, program: str, card: str) -> dict[str, Any]:
    cards = [word for path in back_end.sockets for word in ("--net", f"vhost-user={path}{card}")]
    return {"guest": "net", "guest_options": OPTIONS + program, "cpus": 1, "memory": "64M",
            "extra": [*cards, "--verify"]}


def moved(fleet: Fleet, machine: Machine, number: int, options: dict[str, Any]) -> Machine:
    uri = f"unix:{fleet.folder}/{number}.move"
    there = fleet.start(f"m{number}", incoming=uri, **options)
    done = move(machine, there, uri)
    assert done.status == "completed", done.info
    machine.qmp.command("quit")
    assert machine.wait_end() == 0
    fleet.retire(machine)
    return there


def wait_more(machine: Machine, ops: int) -> int:
    """A hundred frames more than @ops have come back: how many."""
    while machine.report()["ops"] < ops + 100:
        machine.serial.wait_ticks(10)
    report = machine.report()
    assert report["errors"] == 0
    return report["ops"]


def assert_all_came_back(machine: Machine) -> guest.Report:
    """`back` counts once what came twice since it was sent again in a pause."""
    last = guest.ask(machine.serial, timeout_s=60, request=b"q")
    assert last["errors"] == 0 and last["lost"] == 0 and last["unasked"] == 0, last
    assert last["back"] == last["flow_sent"] and last["twice"] <= last["resent"], last
    assert machine.wait_end() == 0
    assert not guest.complaints(machine.serial)
    return last


@pytest.mark.parametrize("pairs, program", [
    (2, ",queues=all"),
    (1, ",mergeable=off,event-idx=off,indirect=on"),
])
def test_each_frame_comes_back_from_testpmd_through_moves(
        kvm: None, back_ends: BackEnds, fleet: Fleet, folder: Path, pairs: int, program: str
        ) -> None:
    sides = [options_of(forwarder(back_ends, name, pairs, folder), program,
                        f",queues={pairs}" if pairs > 1 else "") for name in "ab"]
    machine = fleet.start("m0", **sides[0])
    machine.serial.wait_ticks(1)
    ops = 0
    for number in range(1, MOVES + 1):
        ops = wait_more(machine, ops)
        machine = moved(fleet, machine, number, sides[number % 2])
    wait_more(machine, ops)
    assert_all_came_back(machine)


def test_each_frame_comes_back_when_testpmd_is_killed_and_started_again(
        kvm: None, back_ends: BackEnds, fleet: Fleet, folder: Path) -> None:
    back_end = forwarder(back_ends, "a", 1, folder)
    machine = fleet.start("m0", **options_of(back_end, "", ""))
    machine.serial.wait_ticks(1)
    ops = wait_more(machine, 0)
    back_end.restart()
    wait_more(machine, ops)
    assert_all_came_back(machine)
