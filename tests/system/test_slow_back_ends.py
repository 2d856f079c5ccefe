# SPDX-License-Identifier: Apache-2.0
"""Several back ends that each take their time to stop or to start do so at one time."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.back_end import BackEnd, BackEnds
from harness.machine import Fleet
from harness.move import start, wait
from harness.scene import listening
from test_accounting import phases
from test_back_ends import assert_whole, images, options_of, working

pytestmark = pytest.mark.alone  # it measures times

COUNT = 4
LATE_MS = 200
# One after the other they take four times as long; one may come late on a busy machine.
AT_A_TIME_US = 3 * LATE_MS * 1000
# tests/backend/back_end.h: GET_VRING_BASE, SET_VRING_KICK; late
LATE_STOP = f"fault=11,2,0,{LATE_MS}"
LATE_START = f"fault=12,2,0,{LATE_MS}"


def ends_of(back_ends: BackEnds, folder: Path, name: str, *options: str) -> list[BackEnd]:
    return [back_ends.recorded(f"{name}{number}", image, *options)
            for number, image in enumerate(images(folder, COUNT))]


def moved(fleet: Fleet, here: list[BackEnd], there: list[BackEnd]) -> dict[str, Any]:
    """What query-migrate says of a move from @here to @there."""
    source = working(fleet, **options_of(*here, extra=()))
    destination, uri = listening(fleet, **options_of(*there, extra=()))
    source.qmp.command("migrate-set-parameters", downtime_limit=2000)
    start(source, uri)
    assert wait(source) == "completed", source.qmp.command("query-migrate")
    destination.serial.wait_ticks(20)
    assert_whole(destination)
    info: dict[str, Any] = source.qmp.command("query-migrate")
    return info


def test_back_ends_that_stop_slowly_do_so_at_one_time(
        kvm: None, back_ends: BackEnds, fleet: Fleet, folder: Path) -> None:
    info = moved(fleet, ends_of(back_ends, folder, "a", LATE_STOP),
                 ends_of(back_ends, folder, "b"))
    assert LATE_MS * 1000 <= phases(info, "source")["stop-backends"] < AT_A_TIME_US


def test_back_ends_that_start_slowly_do_so_at_one_time(
        kvm: None, back_ends: BackEnds, fleet: Fleet, folder: Path) -> None:
    info = moved(fleet, ends_of(back_ends, folder, "a"),
                 ends_of(back_ends, folder, "b", LATE_START))
    assert LATE_MS * 1000 <= phases(info, "destination")["dst-start"] < AT_A_TIME_US
