# SPDX-License-Identifier: Apache-2.0
"""Networks of a guest that moves while it sends, receives and accounts for each frame."""
from __future__ import annotations

from typing import Any, Iterator

import pytest

from harness import network
from harness.machine import Fleet
from harness.network import Network
from harness.travel import hop, last_report, travel

MOVES = 6
ANNOUNCE_LOOKS = 100
TAPS = ("tap0", "tap1")


@pytest.fixture
def net(kvm: None) -> Iterator[Network]:
    yield from network.namespace()


def options_of(net: Network, program: str, *cards: str) -> dict[str, Any]:
    extra = [word for card in cards for word in ("--net", card)]
    return {"guest": "net", "guest_options": program, "cpus": 1, "network": net.name,
            "extra": extra}


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
    options = options_of(net, "tick=1ms,depth=16,peer=1" + program, *cards)
    last = last_report(travel(fleet, options, moves=MOVES))
    assert last["lost"] == 0 and last["back"] == last["flow_sent"]
    assert last["unasked"] == 0 and last["twice"] <= last["resent"], last


def assert_answers(net: Network, address: str) -> None:
    """Once the bridge forwards to it, which the kernel's workers see to, each ping comes back."""
    ping = ("ping", "-q", "-W", "5", address)
    assert net.run(*ping, "-c", "1", "-w", "20").returncode == 0
    told = net.run(*ping, "-c", "20", "-i", "0.01").stdout
    assert " 20 received" in told, told


def test_guest_answers_pings_from_outside_after_each_move(fleet: Fleet, net: Network) -> None:
    net.bridge("tap0")
    net.ip("addr", "add", "10.7.0.1/24", "dev", "br0")
    options = options_of(net, "tick=1ms,mode=sink,ip=10.7.0.2", "tap=tap0,mac=52:54:00:00:07:02")
    machine = fleet.start("m0", **options)
    machine.serial.wait_line(r"ready\b")
    for number in range(1, 4):
        assert_answers(net, "10.7.0.2")
        machine = hop(fleet, machine, number, options)
    assert_answers(net, "10.7.0.2")
    assert machine.report()["errors"] == 0


def test_guest_announces_itself_where_it_came_to(fleet: Fleet, net: Network) -> None:
    net.bridge("tap0")
    options = options_of(net, "tick=1ms,mode=sink", "tap=tap0")
    machine = fleet.start("m0", **options)
    machine.serial.wait_line(r"ready\b")
    there = hop(fleet, machine, 1, options)
    there.serial.wait_line(r"announce dev=0\b")
    for _ in range(ANNOUNCE_LOOKS):  # it sends after it said so
        if announced := there.report()["announced"]:
            break
        there.serial.wait_ticks(10)
    assert announced > 0
