# SPDX-License-Identifier: Apache-2.0
"""Migrations whose source logs writes in dirty rings, beside those that use the bitmap."""
from __future__ import annotations

import re
import time
from typing import Any

import pytest

from harness.injector import arm
from harness.machine import Fleet, Machine, run
from harness.move import move, start, wait
from harness.resources import threads
from harness.scene import assert_moves_after_all, assert_works, endless, listening, slow, working

BITMAP, RING, SMALLEST = "kvm", "kvm,dirty=ring", "kvm,dirty=ring,ring-entries=256"
IDLE_S = 1.0

pytestmark = pytest.mark.usefixtures("kvm")


def accel(name: str, *more: str) -> dict[str, Any]:
    return {"extra": ["--accel", name, *more]}


def verify(machine: Machine) -> None:
    machine.qmp.command("migrate-set-capabilities",
                        capabilities=[{"capability": "verify", "state": True}])


def ring_trace(machine: Machine, name: str) -> list[str]:
    return re.findall(rf" kvm_ring_{name}: (.*)", machine.output)


@pytest.mark.parametrize("here,there", [(RING, RING), (BITMAP, RING), (RING, BITMAP),
                                        (SMALLEST, SMALLEST)])
def test_memory_is_the_same_whatever_either_side_logs_with(fleet: Fleet, here: str,
                                                           there: str) -> None:
    machine = working(fleet, **accel(here))
    for number, name in enumerate((there, here, there)):
        destination, uri = listening(fleet, f"d{number}", **accel(name))
        verify(machine)
        moved = move(machine, destination, uri)
        assert moved.status == "completed", moved.info
        assert moved.info["verify"]["pages"] > 16384
        # Only who used rings has something to say of them.
        source_name = (here, there)[number % 2]
        assert ("dirty-ring" in moved.info) == (source_name != BITMAP)
        assert_works(destination)
        fleet.retire(machine)
        machine = destination


def test_query_migrate_tells_of_full_rings_entries_and_resets(fleet: Fleet) -> None:
    source, _ = endless(fleet, **accel(SMALLEST))
    source.qmp.wait_event("MIGRATION_PASS", 60, lambda data: data["pass"] >= 3)
    told = source.qmp.command("query-migrate")["dirty-ring"]
    assert set(told) == {"full-exits", "entries", "reset-us"}
    assert told["full-exits"] > 0 and told["entries"] > 256 and told["reset-us"] > 0
    source.qmp.command("migrate_cancel")
    assert wait(source) == "cancelled"


def test_rings_are_traced_with_vcpu_count_and_time(fleet: Fleet) -> None:
    source, _ = endless(fleet, **accel(SMALLEST, "--trace", "kvm_ring*"))
    source.qmp.wait_event("MIGRATION_PASS", 60, lambda data: data["pass"] >= 3)
    source.qmp.command("migrate_cancel")
    assert wait(source) == "cancelled"
    for name in ("full", "reap"):
        lines = ring_trace(source, name)
        assert lines and all(re.fullmatch(r"vCPU [01]: \d+ entries, \d+ us", line)
                             for line in lines), lines[:3]
    assert re.fullmatch(r"\d+ entries, \d+ us", ring_trace(source, "reset")[0])
    assert re.fullmatch(r"\d vCPUs kicked, \d+ us", ring_trace(source, "flush")[0])


def test_reaper_is_idle_when_nothing_is_written_and_gone_without_a_migration(fleet: Fleet) -> None:
    source = working(fleet, guest_options="hot=1M,rate=max,tick=1ms",
                     **accel(RING, "--trace", "kvm_ring_reaper"))
    destination, uri = listening(fleet, guest_options="hot=1M,rate=max,tick=1ms")
    assert "reaper" not in threads(source)
    source.qmp.command("stop")
    slow(source, 1 << 20)
    start(source, uri)
    wait(source, 30, "active")
    looks = len(ring_trace(source, "reaper"))
    time.sleep(IDLE_S)  # nothing is to happen
    assert "reaper" in threads(source)
    assert len(ring_trace(source, "reaper")) == looks
    source.qmp.command("migrate_cancel")
    assert wait(source) == "cancelled"
    deadline = time.monotonic() + 10
    while "reaper" in threads(source):
        assert time.monotonic() < deadline


@pytest.mark.parametrize("name", [RING, SMALLEST])
def test_cancelled_move_with_rings_loses_nothing(fleet: Fleet, name: str) -> None:
    source, _ = endless(fleet, **accel(name))
    source.qmp.wait_event("MIGRATION_PASS", 60, lambda data: data["pass"] >= 2)
    source.qmp.command("migrate_cancel")
    assert wait(source) == "cancelled"
    verify(source)
    assert_moves_after_all(fleet, source, **accel(name))


# After the last sync: what it harvested is protected again by the next move only.
@pytest.mark.parametrize("arc", ["device-sent", "sent-ready"])
def test_move_with_rings_that_failed_in_the_switch_loses_nothing(fleet: Fleet, arc: str) -> None:
    source = working(fleet, **accel(RING))
    for number in range(3):
        _, uri = listening(fleet, f"broken{number}", **accel(RING))
        arm(source, arc, "close")
        start(source, uri)
        assert wait(source) == "failed"
    verify(source)
    assert_moves_after_all(fleet, source, **accel(RING))


def test_command_says_what_kernels_rings_may_be(fleet: Fleet) -> None:
    told = run("run", "--memory", "64M", "--guest", "stress", "--serial", "null",
               "--accel", "kvm,dirty=ring,ring-entries=131072")
    assert told.returncode == 1
    assert re.search(r"ring-entries=131072; this KVM takes \d+ to \d+$", told.stderr.strip())
