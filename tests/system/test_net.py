# SPDX-License-Identifier: Apache-2.0
"""Networks of a guest that moves while it sends, receives and accounts for each frame."""
from __future__ import annotations

import re
from typing import Any, Iterator

import pytest

from harness import guest, network
from harness.machine import Fleet, Machine
from harness.move import move
from harness.network import Network

MOVES = 6
TAPS = ("tap0", "tap1")


@pytest.fixture
def net(kvm: None) -> Iterator[Network]:
    yield from network.namespace()


def options_of(net: Network, program: str, *cards: str) -> dict[str, Any]:
    extra = [word for card in cards for word in ("--net", card)]
    return {"guest": "net", "guest_options": program, "cpus": 1, "network": net.name,
            "extra": extra}


def next_machine(fleet: Fleet, machine: Machine, number: int, options: dict[str, Any]) -> Machine:
    uri = f"unix:{fleet.folder}/{number}.move"
    there = fleet.start(f"m{number}", incoming=uri, **options)
    moved = move(machine, there, uri)
    assert moved.status == "completed", moved.info
    machine.qmp.command("quit")
    assert machine.wait_end() == 0
    fleet.retire(machine)
    return there


def assert_all_came_back(machine: Machine) -> guest.Report:
    last = guest.ask(machine.serial, timeout_s=60, request=b"q")
    assert last["errors"] == 0 and last["lost"] == 0, machine.serial.lines
    assert last["back"] == last["flow_sent"]
    assert machine.wait_end() == 0
    assert not guest.complaints(machine.serial)
    return last


def move_often(fleet: Fleet, options: dict[str, Any], moves: int = MOVES) -> guest.Report:
    machine = fleet.start("m0", **options)
    machine.serial.wait_line(r"ready\b")
    ops = 0
    for number in range(1, moves + 1):
        machine.serial.wait_ticks(50)
        report = machine.report()
        assert report["errors"] == 0 and report["ops"] > ops
        ops = report["ops"]
        machine = next_machine(fleet, machine, number, options)
    machine.serial.wait_ticks(50)
    assert machine.report()["ops"] > ops
    return assert_all_came_back(machine)


@pytest.mark.parametrize("card, program", [
    ("", ""),
    (",queues=2", ",queues=all"),
    ("", ",packed=on"),
    ("", ",mergeable=off,event-idx=off,indirect=on"),
    ("", ",msix=on,size=60+1514"),
])
def test_each_frame_comes_back_through_moves_under_load(fleet: Fleet, net: Network, card: str,
                                                        program: str) -> None:
    """From card 0 over a bridge to card 1; what a pause loses is sent again."""
    net.bridge(*TAPS)
    cards = [f"tap={tap}{card}" for tap in TAPS]
    move_often(fleet, options_of(net, "tick=1ms,depth=16,peer=1" + program, *cards))


def test_guest_answers_pings_from_outside_after_each_move(fleet: Fleet, net: Network) -> None:
    net.bridge("tap0")
    net.ip("addr", "add", "10.7.0.1/24", "dev", "br0")
    options = options_of(net, "tick=1ms,mode=sink,ip=10.7.0.2", "tap=tap0,mac=52:54:00:00:07:02")
    machine = fleet.start("m0", **options)
    machine.serial.wait_line(r"ready\b")
    for number in range(1, 4):
        told = net.run("ping", "-q", "-c", "20", "-i", "0.01", "-W", "5", "10.7.0.2")
        assert re.search(r" 20 received", told.stdout), told.stdout + told.stderr
        machine = next_machine(fleet, machine, number, options)
    told = net.run("ping", "-q", "-c", "20", "-i", "0.01", "-W", "5", "10.7.0.2")
    assert re.search(r" 20 received", told.stdout), told.stdout + told.stderr
    assert machine.report()["errors"] == 0


def test_guest_announces_itself_where_it_came_to(fleet: Fleet, net: Network) -> None:
    net.bridge("tap0")
    options = options_of(net, "tick=1ms,mode=sink", "tap=tap0")
    machine = fleet.start("m0", **options)
    machine.serial.wait_line(r"ready\b")
    there = next_machine(fleet, machine, 1, options)
    there.serial.wait_line(r"announce dev=0\b")
    assert there.report()["announced"] > 0
