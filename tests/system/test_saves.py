# SPDX-License-Identifier: Apache-2.0
"""A save that is cancelled leaves the guest and no file; one that is whole has its name.
What has no name to get, a pipe or a device, has the guest once it has END."""
from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from harness import injector
from harness.machine import Fleet, Machine, run
from harness.move import start, wait
from harness.qmp import QmpError
from harness.scene import assert_moves_after_all, assert_works, working

PROMPT_S = 2.0
INCOMING_FAILED = 6  # docs/exit-codes.md


def cancelled(source: Machine) -> float:
    """Cancel, and how long that took."""
    begun = time.monotonic()
    source.qmp.command("migrate_cancel")
    assert wait(source) == "cancelled"
    return time.monotonic() - begun


def assert_nothing_left(folder: Path) -> None:
    assert [path.name for path in folder.iterdir() if path.name.startswith("saved")] == []


@pytest.mark.parametrize("ticks", [0, 20, 500])
def test_save_cancelled_while_active_leaves_the_guest_and_no_file(fleet: Fleet, ticks: int) -> None:
    source = working(fleet)
    source.qmp.command("migrate-set-parameters", max_bandwidth=20 << 20, downtime_limit=1,
                       max_cpu_throttle=0)
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
    source.qmp.command("migrate-set-parameters", max_bandwidth=20 << 20, downtime_limit=1,
                       max_cpu_throttle=0)
    start(source, f"file:{path}")
    wait(source, 30, "active")
    cancelled(source)
    assert path.read_bytes() == b"an earlier save"
    assert not (fleet.folder / "saved.part").exists()


def piped(fleet: Fleet, source: Machine, **options: Any) -> Machine:
    """A destination that reads what @source writes to its `fd:pipe`."""
    destination = fleet.start("destination", incoming="defer", **options).ready()
    destination.serial
    out, into = os.pipe()
    destination.qmp.command("getfd", fd=out, fdname="pipe")
    source.qmp.command("getfd", fd=into, fdname="pipe")
    os.close(out)
    os.close(into)
    destination.qmp.command("migrate-incoming", uri="fd:pipe")
    return destination


def assert_goes_on_by_force_only(source: Machine) -> None:
    assert source.status == "handed-over"
    with pytest.raises(QmpError, match="force"):
        source.qmp.command("cont")
    assert source.status == "handed-over"
    source.qmp.command("cont", force=True)
    assert_works(source)


@pytest.mark.parametrize("is_verified", [False, True])
def test_guest_that_went_through_a_pipe_runs_once(fleet: Fleet, is_verified: bool) -> None:
    source = working(fleet)
    destination = piped(fleet, source)
    source.qmp.command("migrate-set-capabilities",
                       capabilities=[{"capability": "verify", "state": is_verified}])
    start(source, "fd:pipe")
    assert wait(source) == "completed", source.qmp.command("query-migrate")
    wait(destination, 20, "running")
    assert destination.qmp.command("query-migrate").get("verify", {}).get("pages", 0) > 0 \
        or not is_verified
    assert_works(destination)
    destination.qmp.command("quit")
    destination.wait_end()
    assert_goes_on_by_force_only(source)


def test_cancel_with_end_in_the_pipe_comes_too_late(fleet: Fleet) -> None:
    source = working(fleet)
    destination = piped(fleet, source)
    injector.arm(source, "ready-handed-over", "stall")
    start(source, "fd:pipe")
    injector.wait_broken(source, "ready-handed-over", "stall")
    source.qmp.command("migrate_cancel")
    assert source.qmp.command("query-migrate")["status"] == "device"
    assert source.status == "finish-migrate"
    source.kill()  # its end of the pipe is what the destination waits for
    wait(destination, 20, "running")
    assert_works(destination)


def test_cancel_with_end_in_a_file_that_has_its_name_comes_too_late(fleet: Fleet) -> None:
    guest = {"guest_options": "hot=8M,rate=max,verify=on,tick=1ms"}
    source = working(fleet, **guest)
    path = fleet.folder / "stream"
    with path.open("wb") as file:
        source.qmp.command("getfd", fd=file.fileno(), fdname="stream")
    injector.arm(source, "ready-handed-over", "stall")
    start(source, "fd:stream")
    injector.wait_broken(source, "ready-handed-over", "stall")
    source.qmp.command("migrate_cancel")
    assert source.status == "finish-migrate"
    restored = fleet.start("restored", incoming=f"file:{path}", **guest)
    restored.serial
    wait(restored, 20, "running")
    assert_works(restored)
    assert source.status == "finish-migrate"


def test_cancel_before_end_leaves_the_pipe_without_a_guest(fleet: Fleet) -> None:
    source = working(fleet)
    destination = piped(fleet, source)
    injector.arm(source, "active-device", "stall")
    start(source, "fd:pipe")
    injector.wait_broken(source, "active-device", "stall")
    source.qmp.command("migrate_cancel")
    assert wait(source) == "cancelled"
    assert destination.wait_end() == INCOMING_FAILED
    assert_moves_after_all(fleet, source)


def test_end_that_a_device_did_not_take_leaves_the_guest(fleet: Fleet) -> None:
    source = working(fleet)
    with open("/dev/null", "wb") as file:
        source.qmp.command("getfd", fd=file.fileno(), fdname="stream")
    injector.arm(source, "device-ready", "close")  # full from there on
    start(source, "fd:stream")
    assert wait(source) == "failed"
    assert "No space" in source.qmp.command("query-migrate")["error-desc"]
    assert_moves_after_all(fleet, source)


def test_guest_given_to_a_device_is_told_of_by_the_command(fleet: Fleet) -> None:
    source = working(fleet)
    told = run("migrate", "--qmp", f"unix:{source.qmp_path}", "file:/dev/null")
    assert told.returncode == 0 and "may run at the destination" in told.stderr, told.stderr
    assert_goes_on_by_force_only(source)


def test_second_save_to_the_same_path_is_refused(fleet: Fleet) -> None:
    source, other = working(fleet), fleet.start("other")
    source.qmp.command("migrate-set-parameters", max_bandwidth=20 << 20, downtime_limit=1,
                       max_cpu_throttle=0)
    start(source, f"file:{fleet.folder}/saved")
    wait(source, 30, "active")
    other.serial.wait_ticks(10)
    start(other, f"file:{fleet.folder}/saved")
    assert wait(other) == "failed"
    assert "somebody else writes saved.part" in other.qmp.command("query-migrate")["error-desc"]
    assert (fleet.folder / "saved.part").exists()
    assert_works(other)
    cancelled(source)
    assert_nothing_left(fleet.folder)
