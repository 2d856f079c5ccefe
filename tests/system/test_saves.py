# SPDX-License-Identifier: Apache-2.0
"""A save that is cancelled leaves the guest and no file; one that is whole has its name."""
from __future__ import annotations

import time
from pathlib import Path

import pytest

from harness import guest
from harness.machine import Fleet, Machine
from harness.move import move, start, wait

PROMPT_S = 2.0


def working(fleet: Fleet, **options) -> Machine:
    source = fleet.start("source", **options)
    source.serial.wait_ticks(50)
    return source


def cancelled(source: Machine) -> float:
    """Cancel, and how long that took."""
    begun = time.monotonic()
    source.qmp.command("migrate_cancel")
    assert wait(source) == "cancelled"
    return time.monotonic() - begun


def assert_nothing_left(folder: Path) -> None:
    assert [path.name for path in folder.iterdir() if path.name.startswith("saved")] == []


def assert_moves_after_all(fleet: Fleet, source: Machine, **options) -> None:
    assert source.status == "running"
    before = source.report()
    source.serial.wait_ticks(50)
    after = guest.ask(source.serial, request=b"v")
    assert after["errors"] == 0 and after["pages"] > before["pages"]
    source.qmp.command("migrate-set-parameters", max_bandwidth=0, downtime_limit=300)
    uri = f"unix:{fleet.folder}/last"
    last = fleet.start("last", incoming=uri, **options)
    moved = move(source, last, uri)
    assert moved.status == "completed", moved.info
    last.serial.wait_ticks(50)
    assert guest.ask(last.serial, request=b"v")["errors"] == 0
    assert not guest.complaints(last.serial)


@pytest.mark.parametrize("ticks", [0, 20, 500])
def test_save_cancelled_while_active_leaves_the_guest_and_no_file(fleet: Fleet, ticks: int) -> None:
    source = working(fleet)
    source.qmp.command("migrate-set-parameters", max_bandwidth=20 << 20, downtime_limit=1)
    start(source, f"file:{fleet.folder}/saved")
    wait(source, 30, "active")
    if ticks:
        source.serial.wait_ticks(ticks)
    assert (fleet.folder / "saved.part").exists()
    assert not (fleet.folder / "saved").exists()
    assert cancelled(source) < PROMPT_S
    assert_nothing_left(fleet.folder)
    assert_moves_after_all(fleet, source)


def test_save_cancelled_while_stopped_leaves_the_guest_and_no_file(fleet: Fleet) -> None:
    # So much is rewritten that the last pass, with the guest stopped, takes a while.
    options = {"memory": "512M", "guest_options": "hot=256M,rate=max,verify=on,tick=1ms"}
    source = working(fleet, **options)
    source.qmp.command("migrate-set-parameters", downtime_limit=1_000_000)
    start(source, f"file:{fleet.folder}/saved")
    wait(source, 60, "device")
    cancelled(source)
    assert_nothing_left(fleet.folder)
    assert_moves_after_all(fleet, source, **options)


def test_cancel_of_a_save_that_does_not_converge_is_prompt(fleet: Fleet) -> None:
    source = working(fleet)
    source.qmp.command("migrate-set-parameters", downtime_limit=0)
    start(source, f"file:{fleet.folder}/saved")
    wait(source, 30, "active")
    rounds = 0
    while rounds < 3:
        event = source.qmp.wait_event("MIGRATION_PASS", 30)
        rounds = event["data"]["pass"]
    assert source.qmp.command("query-migrate")["status"] == "active"
    assert cancelled(source) < PROMPT_S
    assert_nothing_left(fleet.folder)
    assert_moves_after_all(fleet, source)


def test_cancelled_save_leaves_an_earlier_file_as_it_was(fleet: Fleet) -> None:
    source = working(fleet)
    path = fleet.folder / "saved"
    path.write_bytes(b"an earlier save")
    source.qmp.command("migrate-set-parameters", max_bandwidth=20 << 20, downtime_limit=1)
    start(source, f"file:{path}")
    wait(source, 30, "active")
    cancelled(source)
    assert path.read_bytes() == b"an earlier save"
    assert not (fleet.folder / "saved.part").exists()
