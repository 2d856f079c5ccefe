# SPDX-License-Identifier: Apache-2.0
"""Logging that ends later: nobody waits for it, and nothing is lost where it is still on."""
from __future__ import annotations

import json
import time
from typing import Callable

import pytest

from harness.machine import Fleet, Machine, run, runs_code
from harness.move import move, start, wait
from harness.resources import assert_same, resources, threads
from harness.scene import (assert_moves, assert_moves_after_all, assert_works, endless, listening,
                           save, slow, working)

# Logging ends when KVM's worker tells it so; sim's has ended, and what it broke up comes back.
WORKER, LATER, STOPPED, CALLED_OFF = \
    ("log-stop", "kvm_log_stop_later", "kvm_log_stopped", "kvm_log_stop_called_off") if runs_code() \
    else ("collapse", "sim_collapse_later", "sim_collapsed", "sim_collapse_called_off")
TRACE = ["--trace", "kvm_log_stop*,sim_collapse*"]
NEVER_MS = 3_600_000
PROMPT_S = 10.0  # on a busy machine; the worker would take an hour


def delay(machine: Machine, delay_ms: int) -> None:
    machine.qmp.command("migrate-set-parameters", x_log_stop_delay=delay_ms)


def wait_logged(machine: Machine) -> None:
    """A round was sent: its memslots are logged."""
    machine.qmp.wait_event("MIGRATION_PASS", 30, lambda data: data["pass"] >= 2)


def cancel(machine: Machine) -> None:
    machine.qmp.command("migrate_cancel")
    assert wait(machine, 30) == "cancelled"


def cancelled(fleet: Fleet) -> Machine:
    source, _ = endless(fleet, extra=TRACE)
    wait_logged(source)
    delay(source, NEVER_MS)
    cancel(source)
    return source


def failed(fleet: Fleet) -> Machine:
    source, destination = endless(fleet, extra=TRACE)
    wait_logged(source)
    delay(source, NEVER_MS)
    destination.kill()
    assert wait(source, 30) == "failed"
    return source


def saved(fleet: Fleet) -> Machine:
    # Each round of it goes to the disk: fewer pages than the others write.
    source = working(fleet, extra=TRACE, guest_options="hot=8M,rate=max,verify=on,tick=1ms")
    delay(source, NEVER_MS)
    save(source, fleet.folder / "saved")
    source.qmp.command("cont")
    return source


def moved(fleet: Fleet) -> Machine:
    source = working(fleet, extra=TRACE)
    delay(source, NEVER_MS)
    destination, uri = listening(fleet)
    assert move(source, destination, uri).status == "completed"
    return source


ENDS = [cancelled, failed, saved, moved]


def wait_worker(machine: Machine) -> None:
    """It has its work as the migration's thread ends, maybe after the last event."""
    machine.wait_output(LATER)
    deadline = time.monotonic() + 5
    while WORKER not in threads(machine):
        assert time.monotonic() < deadline, machine.output
        time.sleep(0.002)


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_nobody_waits_for_logging_to_end(fleet: Fleet, end: Callable[[Fleet], Machine]) -> None:
    machine = end(fleet)
    wait_worker(machine)
    begun = time.monotonic()
    machine.qmp.command("query-migrate")
    machine.qmp.command("query-status")
    if end is not moved:
        machine.qmp.command("stop")
        machine.qmp.command("cont")
        assert time.monotonic() - begun < PROMPT_S
        assert_works(machine)
    assert STOPPED not in machine.output
    assert WORKER in threads(machine)


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_machine_ends_while_logging_is_still_on(fleet: Fleet, end: Callable[[Fleet], Machine]
                                                ) -> None:
    machine = end(fleet)
    wait_worker(machine)
    machine.qmp.command("quit")
    assert machine.wait_end() == 0  # within a limit of seconds
    assert STOPPED not in machine.output


@pytest.mark.parametrize("end", [cancelled, failed, saved], ids=lambda end: end.__name__)
def test_migration_that_finds_logging_on_is_whole(fleet: Fleet, end: Callable[[Fleet], Machine]
                                                  ) -> None:
    source = end(fleet)
    wait_worker(source)
    source.qmp.command("migrate-set-capabilities",
                       capabilities=[{"capability": "verify", "state": True}])
    slow(source)
    # Twice cut short, then to the end: the guest writes all the time.
    for name in ("one", "two"):
        destination, uri = listening(fleet, name)
        source.qmp.take_events()
        start(source, uri)
        wait_logged(source)
        cancel(source)
        destination.kill()
    assert_moves_after_all(fleet, source)
    assert source.qmp.command("query-migrate")["verify"]["pages"] > 0
    assert CALLED_OFF in source.output
    assert STOPPED not in source.output


def test_migrations_that_meet_the_worker_are_whole(fleet: Fleet) -> None:
    # 3 GiB: memslots enough for the worker to be among them.
    options = {"memory": "3G", "extra": TRACE,
               "guest_options": "hot=64M,rate=max,verify=on,tick=1ms"}
    source = working(fleet, **options)
    delay(source, 0)
    for number in range(6):
        destination, uri = listening(fleet, f"cut{number}", **options)
        slow(source)
        source.qmp.take_events()
        start(source, uri)
        wait_logged(source)
        cancel(source)
        destination.kill()
    assert_moves_after_all(fleet, source, **options)


def test_nothing_is_left_once_logging_has_ended(kvm: None, fleet: Fleet) -> None:
    source, _ = endless(fleet, extra=TRACE)
    wait_logged(source)
    cancel(source)
    source.wait_output("kvm_log_stop_end")
    wait_ended(source)
    before = resources(source)
    for name in ("a", "b", "c"):
        delay(source, 5)
        _, uri = listening(fleet, name, extra=TRACE)
        source.output_seen = len(source.output)
        source.qmp.take_events()
        start(source, uri)
        wait_logged(source)
        cancel(source)
        source.wait_output("kvm_log_stop_end")
        assert_same(source, before)
    assert f"{STOPPED}: slot" in source.output
    assert_works(source)


def wait_ended(machine: Machine) -> None:
    deadline = time.monotonic() + 5
    while {WORKER, "mig-out"} & set(threads(machine)):
        assert time.monotonic() < deadline, threads(machine)
        time.sleep(0.002)


def test_delay_is_a_parameter_everywhere(fleet: Fleet) -> None:
    source = working(fleet)
    assert source.qmp.command("query-migrate-parameters")["x-log-stop-delay"] == 1000
    destination, uri = listening(fleet)
    told = run("migrate", "--qmp", f"unix:{source.qmp_path}", "--x-log-stop-delay", "77",
               "--json", uri, timeout_s=60)
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["status"] == "completed"
    assert source.qmp.command("query-migrate-parameters")["x-log-stop-delay"] == 77
    told = run("migrate", "--qmp", f"unix:{destination.qmp_path}", "--x-log-stop-delay", "x", uri)
    assert told.returncode == 64 and "--x-log-stop-delay" in told.stderr
    assert destination.qmp.command("query-migrate-parameters")["x-log-stop-delay"] == 1000
