# SPDX-License-Identifier: Apache-2.0
"""Guests that turn their devices' bus mastering off and on with requests under way, and move.

The guest looks at all rings of the device while it is off: nothing may be written, and
afterwards all is done.  That is off about half of the time, also when a move pauses it.
"""
from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Iterator

import pytest

from harness import guest, network
from harness.back_end import BackEnds
from harness.machine import Fleet, Machine
from harness.network import Network
from harness.travel import last_report, travel

MOVES = 6
PROGRAM = "span=4M,depth=16,tick=1ms,queues=all,churn=5ms,what=master"
TAPS = ("tap0", "tap1")


@pytest.fixture
def net(kvm: None) -> Iterator[Network]:
    yield from network.namespace()


@pytest.fixture
def image(folder: Path) -> Path:
    path = folder / "image"
    path.write_bytes(b"")
    os.truncate(path, 8 << 20)
    return path


def options_of(disk: str, program: str = "") -> dict[str, Any]:
    return {"guest": "blk", "guest_options": PROGRAM + program, "memory": "64M", "cpus": 2,
            "extra": ["--disk", f"{disk},queues=2", "--verify"]}


def changes(report: guest.Report) -> int:
    return int(report.members["churn"].split(":")[1])


def assert_whole(machine: Machine) -> guest.Report:
    last = last_report(machine)
    assert changes(last) > MOVES, last
    return last


@pytest.mark.parametrize("program", ["", ",packed=on,indirect=on", ",msix=masked"])
def test_disk_writes_nothing_while_it_may_not_and_loses_nothing(
        kvm: None, fleet: Fleet, image: Path, program: str) -> None:
    options = options_of(f"path={image}", program)
    assert_whole(travel(fleet, options, moves=MOVES))


@pytest.mark.parametrize("kind", ["recorded", "daemon"])
def test_vhost_user_disk_rests_and_goes_on(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path, kind: str) -> None:
    ends = [back_ends.daemon(name, image, queues=2) if kind == "daemon"
            else back_ends.recorded(name, image, "queues=2") for name in ("blk0", "blk1")]
    assert_whole(travel(fleet, *(options_of(f"vhost-user={end.socket}") for end in ends),
                        moves=MOVES))


def test_card_rests_and_gets_every_frame(fleet: Fleet, net: Network) -> None:
    net.bridge(*TAPS)
    options = {"guest": "net", "memory": "64M", "cpus": 2, "network": net.name,
               "extra": [word for tap in TAPS for word in ("--net", f"tap={tap},queues=2")],
               "guest_options": "peer=1,queues=all,depth=16,resend=20ms,tick=1ms,"
                                "churn=5ms,what=master"}
    last = assert_whole(travel(fleet, options, moves=MOVES))
    assert last["back"] == last["flow_sent"] > 0
    assert last["lost"] == last["unasked"] == 0
