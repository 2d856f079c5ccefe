# SPDX-License-Identifier: Apache-2.0
"""Who owns the guest when the link breaks, step by step (docs/spec/stream.md)."""
from __future__ import annotations

import pytest

from harness import guest
from harness.machine import Fleet, Machine
from harness.move import start, wait
from harness.qmp import QmpError
from harness.relay import Link

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


def assert_works(machine: Machine) -> None:
    before = machine.report()
    machine.serial.wait_ticks(100)
    after = guest.ask(machine.serial, request=b"v")
    assert after["errors"] == 0 and after["pages"] > before["pages"]


@pytest.mark.parametrize("record", ["MACHINE", "SCHEMA", "SETUP_STATE", "SETUP_END", "BUILT", "RAM",
                                    "ROUND", "ROUND_DONE", "SWITCH", "STOPPED", "STATE", "VERIFY", "END", "READY"])
def test_source_runs_on_when_the_link_breaks_before_go(fleet: Fleet, record: str) -> None:
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


def test_guest_survives_a_chain_of_broken_links(fleet: Fleet) -> None:
    source = fleet.start("source", **MEMORY)
    source.serial.wait_ticks(50)
    for record in ("RAM", "STOPPED", "END", "READY"):
        destination, status = broken(fleet, record, source)
        assert status == "failed"
        assert destination.wait_end() > 0
    assert_works(source)


def test_guest_that_was_paused_is_paused_after_a_broken_link(fleet: Fleet) -> None:
    source = fleet.start("source", **MEMORY)
    source.serial.wait_ticks(50)
    source.qmp.command("stop")
    broken(fleet, "READY", source)
    assert source.status == "paused"
    source.qmp.command("cont")
    assert_works(source)
