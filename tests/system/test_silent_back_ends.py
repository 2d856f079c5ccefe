# SPDX-License-Identifier: Apache-2.0
"""Back ends that stop answering: the move fails in time, the guest runs on, the next succeeds."""
from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from harness import guest
from harness.back_end import BackEnd, BackEnds
from harness.machine import Fleet, Machine
from harness.move import start, wait
from harness.scene import listening, slow
from test_back_ends import (OPTIONS, SLOW, assert_whole, image, options_of,  # noqa: F401
                            resets, wait_progress, working)

pytestmark = pytest.mark.alone  # the guest's pause is measured

DOWNTIME_LIMIT_MS = 100
STOP_MAX_S = 0.1 * 2 + 1  # what a source gives its devices
SLACK_S = 1.5             # for a busy machine


def fails_in_time(source: Machine, destination: Machine) -> str:
    """It switches now, and gives up, which is told at once; its message."""
    source.qmp.take_events()
    start_s = time.monotonic()
    source.qmp.command("migrate-set-parameters", max_bandwidth=0, max_cpu_throttle=99,
                       downtime_limit=DOWNTIME_LIMIT_MS)
    assert wait(source, 60) == "failed"
    assert time.monotonic() - start_s < STOP_MAX_S + SLACK_S
    assert source.status == "running"
    source.serial.wait_ticks(50)
    assert source.serial.longest_gap_ns < (STOP_MAX_S + SLACK_S) * 1e9
    assert destination.wait_end() == 6
    return source.qmp.command("query-migrate")["error-desc"]


def stopped_at_switch(fleet: Fleet, stops: BackEnd, *options: dict[str, Any]
                      ) -> tuple[Machine, str]:
    """The source after a move in whose rounds @stops stopped, and why the move failed."""
    source = working(fleet, **options[0])
    destination, uri = listening(fleet, **options[1])
    source.serial.longest_gap_ns = 0
    slow(source, SLOW)
    start(source, uri)
    wait(source, 30, "active")
    stops.pause()
    told = fails_in_time(source, destination)
    stops.go_on()
    return source, told


def assert_moves_next(fleet: Fleet, source: Machine, **options: Any) -> None:
    wait_progress(source)
    source.qmp.command("migrate-set-parameters", downtime_limit=300)
    source.qmp.take_events()
    destination, uri = listening(fleet, "next", **options)
    start(source, uri)
    assert wait(source) == "completed", source.qmp.command("query-migrate")
    assert not guest.complaints(source.serial)
    assert not resets(source)
    destination.serial.wait_ticks(20)
    wait_progress(destination)
    assert_whole(destination)


@pytest.mark.parametrize("kind", ["recorded", "daemon"])
def test_back_end_that_does_not_answer_at_the_switch_fails_it_in_time(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path, kind: str) -> None:
    ends = [getattr(back_ends, kind)(f"blk{number}", image) for number in range(2)]
    sides = [options_of(end, extra=()) for end in ends]  # --verify gives a switch minutes
    source, told = stopped_at_switch(fleet, ends[0], *sides)
    assert "disk0" in told and "back end" in told, told
    assert_moves_next(fleet, source, **sides[1])


def test_nbd_server_that_does_not_answer_at_the_switch_fails_it_in_time(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path) -> None:
    servers = [back_ends.nbd(f"nbd{number}", image) for number in range(2)]
    sides = [{"guest": "blk", "guest_options": OPTIONS, "cpus": 1,
              "extra": ["--disk", f"nbd=nbd+unix:///?socket={server.socket}"]}
             for server in servers]
    source, told = stopped_at_switch(fleet, servers[0], *sides)
    assert "disk0" in told, told
    assert_moves_next(fleet, source, **sides[1])
