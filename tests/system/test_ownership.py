# SPDX-License-Identifier: Apache-2.0
"""Who owns the guest when the link loses a record (docs/spec/stream.md).

What breaks at the steps themselves is in test_injector.py.
"""
from __future__ import annotations

import pytest

from harness.machine import Fleet, Machine
from harness.move import start, wait
from harness.qmp import QmpError
from harness.relay import Link
from harness.scene import assert_works

MEMORY = {"memory": "64M", "guest_options": "hot=8M,rate=max,tick=1ms"}


def broken(fleet: Fleet, record: str, source: Machine) -> tuple[Machine, str]:
    """Break the link in front of @record: the destination, the source's status."""
    target = f"{fleet.folder}/target-{record}"
    destination = fleet.start(f"destination-{record}", incoming=f"unix:{target}", **MEMORY)
    destination.ready().serial
    link = Link(f"{fleet.folder}/link-{record}", target, cut_before=record)
    if record == "VERIFY":
        source.qmp.command("migrate-set-capabilities",
                           capabilities=[{"capability": "verify", "state": True}])
    start(source, f"unix:{fleet.folder}/link-{record}")
    status = wait(source)
    link.join()
    assert link.was_cut.is_set(), "the record never came"
    return destination, status


@pytest.mark.parametrize("record", ["SCHEMA", "RAM", "STATE", "VERIFY"])
def test_source_runs_on_when_the_link_breaks_inside_a_step(fleet: Fleet, record: str) -> None:
    source = fleet.start("source", **MEMORY)
    source.serial.wait_ticks(50)
    destination, status = broken(fleet, record, source)
    assert status == "failed"
    assert source.status == "running"
    assert destination.wait_end() > 0
    assert destination.serial.ticks == 0
    assert_works(source)


def test_lesson_no_two_copies_when_go_is_lost(fleet: Fleet) -> None:
    source = fleet.start("source", **MEMORY)
    source.serial.wait_ticks(50)
    destination, status = broken(fleet, "GO", source)
    assert destination.wait_end() > 0
    assert destination.serial.ticks == 0
    assert status == "failed" and source.status == "handed-over"
    with pytest.raises(QmpError) as refused:
        source.qmp.command("cont")
    assert "force" in refused.value.desc
    assert source.status == "handed-over"
    source.qmp.command("cont", force=True)
    assert source.status == "running"
    assert_works(source)


def test_lesson_no_two_copies_when_the_answer_to_go_is_lost(fleet: Fleet) -> None:
    source = fleet.start("source", **MEMORY)
    source.serial.wait_ticks(50)
    destination, status = broken(fleet, "RUNNING", source)
    assert status == "failed" and source.status == "handed-over"
    with pytest.raises(QmpError):
        source.qmp.command("cont")
    ticks = source.serial.ticks
    destination.serial.wait_ticks(50)
    assert destination.status == "running"
    assert_works(destination)
    assert source.serial.ticks == ticks


def test_guest_that_was_paused_is_paused_after_a_broken_link(fleet: Fleet) -> None:
    source = fleet.start("source", **MEMORY)
    source.serial.wait_ticks(50)
    source.qmp.command("stop")
    broken(fleet, "READY", source)
    assert source.status == "paused"
    source.qmp.command("cont")
    assert_works(source)
