# SPDX-License-Identifier: Apache-2.0
"""Back ends that stop answering: the move fails in time, the guest runs on, the next succeeds."""
from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from harness import guest
from harness.back_end import BackEnd, BackEnds, connections
from harness.machine import Fleet, Machine
from harness.move import start, wait
from harness.qmp import QmpError
from harness.scene import listening, slow
from test_back_ends import (OPTIONS, SLOW, assert_whole, image, options_of,  # noqa: F401
                            resets, scans, wait_progress, working)

pytestmark = pytest.mark.alone  # it measures times, and KVM ends slowly beside others

DOWNTIME_LIMIT_MS = 500
STOP_MAX_S = DOWNTIME_LIMIT_MS / 1000
REACH_S = 1.5  # until the switch, with the guest at work
SLACK_S = 1.0  # for a busy machine, with the 200 ms that a switch may be late


def runs_on(source: Machine, destination: Machine, longest_s: float) -> str:
    """The move failed, and the guest never stood for longer; why it failed."""
    assert source.status == "running"
    source.serial.wait_ticks(50)
    assert source.serial.longest_gap_ns < longest_s * 1e9
    assert destination.wait_end() == 6
    return source.qmp.command("query-migrate")["error-desc"]


def fails_in_time(source: Machine, destination: Machine) -> str:
    """It switches now, and gives up, which is told at once; its message."""
    source.qmp.take_events()
    start_s = time.monotonic()
    source.qmp.command("migrate-set-parameters", max_bandwidth=0, max_cpu_throttle=99,
                       downtime_limit=DOWNTIME_LIMIT_MS)
    assert wait(source, 60) == "failed"
    assert time.monotonic() - start_s < REACH_S + STOP_MAX_S + SLACK_S
    return runs_on(source, destination, STOP_MAX_S + SLACK_S)


def in_rounds(fleet: Fleet, *options: dict[str, Any]) -> tuple[Machine, Machine]:
    """Both sides of a move that does not end."""
    source = working(fleet, **options[0])
    destination, uri = listening(fleet, **options[1])
    source.serial.longest_gap_ns = 0
    slow(source, SLOW)
    start(source, uri)
    wait(source, 30, "active")
    return source, destination


def stopped_at_switch(fleet: Fleet, stops: BackEnd, *options: dict[str, Any]
                      ) -> tuple[Machine, str]:
    """The source after a move in whose rounds @stops stopped, and why the move failed."""
    source, destination = in_rounds(fleet, *options)
    stops.pause()
    told = fails_in_time(source, destination)
    stops.go_on()
    return source, told


QUIT_MAX_S = 2  # what a machine that ends gives its devices


@pytest.mark.parametrize("kind", ["recorded", "daemon"])
def test_machine_whose_back_end_does_not_answer_can_quit(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path, kind: str) -> None:  # noqa: F811
    back_end = getattr(back_ends, kind)("blk", image)
    machine = working(fleet, **options_of(back_end, extra=()))
    back_end.pause()
    start_s = time.monotonic()
    machine.qmp.command("quit")
    assert machine.wait_end() == 0
    assert time.monotonic() - start_s < QUIT_MAX_S + SLACK_S


STOP_COMMAND_MAX_S = 3


def test_stop_gives_up_on_a_vcpu_that_waits_for_a_back_end(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path) -> None:  # noqa: F811
    """Its change of RAM has to be told to a back end that does not answer."""
    back_end = back_ends.recorded("blk", image)
    options = options_of(back_end, program=",churn=100ms,what=shmem",
                         extra=("--shmem", "size=1M", "--trace", "vh_table"))
    machine = working(fleet, **options)
    back_end.pause()
    machine.output_seen = len(machine.output)
    machine.wait_output("vh_table")
    start_s = time.monotonic()
    with pytest.raises(QmpError, match="vCPU 0 does not stop"):
        machine.qmp.command("stop")
    assert time.monotonic() - start_s < STOP_COMMAND_MAX_S + SLACK_S
    assert machine.status == "running"
    back_end.go_on()
    wait_progress(machine)
    assert not resets(machine)
    machine.qmp.command("stop")
    machine.qmp.command("cont")
    assert_whole(machine)


AT_ONCE_S = 0.5


def test_move_whose_vcpu_waits_for_a_back_end_can_be_cancelled(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path) -> None:  # noqa: F811
    """The same, as it is to leave the guest for the pre-state."""
    ends = [back_ends.recorded(f"blk{number}", image) for number in range(2)]
    sides = [options_of(end, program=",churn=100ms,what=shmem",
                        extra=("--shmem", "size=1M", "--trace", "vh_table")) for end in ends]
    source = working(fleet, **sides[0])
    destination, uri = listening(fleet, **sides[1])
    ends[0].pause()
    source.output_seen = len(source.output)
    source.wait_output("vh_table")
    start(source, uri)
    while not connections(uri.removeprefix("unix:")):
        time.sleep(0.001)
    assert source.qmp.command("query-migrate")["status"] == "setup"
    start_s = time.monotonic()
    source.qmp.command("migrate_cancel")
    assert wait(source, 60) == "cancelled"
    assert time.monotonic() - start_s < AT_ONCE_S + SLACK_S
    assert destination.wait_end() == 6  # docs/exit-codes.md: it was told
    ends[0].go_on()
    wait_progress(source)
    destination, uri = listening(fleet, "next", **sides[1])
    start(source, uri)
    assert wait(source) == "completed", source.qmp.command("query-migrate")
    assert not resets(source)
    destination.serial.wait_ticks(20)
    assert_whole(destination)


# SET_VRING_KICK; what is asked behind it is not answered before that.  After 5 s it is let go.
STARTS_SILENT = "fault=12,2,{},6000"
START_MAX_S = 0.5  # what a machine gives a back end to start


def test_cont_is_answered_though_a_back_end_is_silent_as_it_starts(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path) -> None:  # noqa: F811
    back_end = back_ends.recorded("blk", image, STARTS_SILENT.format(1))
    machine = working(fleet, **options_of(back_end, extra=()))
    machine.qmp.command("stop")
    start_s = time.monotonic()
    machine.qmp.command("cont")
    assert time.monotonic() - start_s < START_MAX_S + SLACK_S
    assert machine.status == "running"
    machine.serial.wait_ticks(20)
    wait_progress(machine)
    assert not resets(machine)
    assert_whole(machine)


def test_stop_is_answered_though_a_back_end_is_silent_as_it_starts_after_a_move(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path) -> None:  # noqa: F811
    ends = [back_ends.recorded("blk0", image),
            back_ends.recorded("blk1", image, STARTS_SILENT.format(0))]
    source = working(fleet, **options_of(ends[0], extra=()))
    destination, uri = listening(fleet, **options_of(ends[1], extra=()))
    start(source, uri)
    destination.serial.wait_ticks(1)
    start_s = time.monotonic()
    with pytest.raises(QmpError, match="disk0"):
        destination.qmp.command("stop")
    assert destination.status == "running"
    assert time.monotonic() - start_s < START_MAX_S + STOP_COMMAND_MAX_S + SLACK_S
    assert wait(source) == "completed", source.qmp.command("query-migrate")
    destination.serial.wait_ticks(20)
    wait_progress(destination)
    assert not resets(destination)
    destination.qmp.command("stop")
    destination.qmp.command("cont")
    assert_whole(destination)


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


def test_cancel_while_a_back_end_does_not_stop_gives_the_guest_back_in_time(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path) -> None:  # noqa: F811
    ends = [back_ends.recorded(f"blk{number}", image) for number in range(2)]
    sides = [options_of(end, extra=()) for end in ends]
    source, destination = in_rounds(fleet, *sides)
    ends[0].pause()
    source.qmp.take_events()
    source.qmp.command("migrate-set-parameters", max_bandwidth=0, max_cpu_throttle=99,
                       downtime_limit=DOWNTIME_LIMIT_MS)
    wait(source, 60, "device")
    start_s = time.monotonic()
    source.qmp.command("migrate_cancel")
    assert wait(source, 60) == "cancelled"
    assert time.monotonic() - start_s < STOP_MAX_S + SLACK_S
    runs_on(source, destination, STOP_MAX_S + SLACK_S)
    ends[0].go_on()
    assert_moves_next(fleet, source, **sides[1])


# tests/backend/back_end.h: from the second time on that its features are asked for, which is when
# a connection has been negotiated and its rings have begun
COMES_BACK_SILENT = "fault=1,2,1,4000"


def test_back_end_that_comes_back_silent_before_the_switch_fails_it_in_time(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path) -> None:  # noqa: F811
    ends = [back_ends.recorded(f"blk{number}", image) for number in range(2)]
    sides = [options_of(end, extra=()) for end in ends]
    source, destination = in_rounds(fleet, *sides)
    ends[0].kill()
    calls = scans(source)["calls"]
    ends[0].argv.append(COMES_BACK_SILENT)
    ends[0].start()
    while scans(source)["calls"] == calls:
        time.sleep(0.005)
    told = fails_in_time(source, destination)
    assert "disk0" in told and "back end" in told, told
    assert_moves_next(fleet, source, **sides[1])


def test_back_end_that_comes_back_without_a_log_fails_the_move_and_works_on(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path) -> None:  # noqa: F811
    ends = [back_ends.recorded(f"blk{number}", image) for number in range(2)]
    sides = [options_of(end, extra=()) for end in ends]
    source, destination = in_rounds(fleet, *sides)
    source.qmp.take_events()
    ends[0].kill()
    ends[0].argv.append("log=off")
    ends[0].start()
    assert wait(source, 60) == "failed"
    told = runs_on(source, destination, STOP_MAX_S + SLACK_S)
    assert "disk0" in told and "cannot log" in told, told
    wait_progress(source)
    ends[0].argv.pop()
    ends[0].restart()
    assert_moves_next(fleet, source, **sides[1])


# The configuration, when it is asked for again: whoever does so has the device until then.
CHANGES_SILENT = "fault=24,2,1,4000"


def wait_silent(machine: Machine) -> None:
    """Its back end finishes no request."""
    deadline = time.monotonic() + 10
    ops = -1
    while machine.report()["ops"] != ops:
        assert time.monotonic() < deadline
        ops = machine.report()["ops"]
        machine.serial.wait_ticks(50)


def test_end_of_a_move_is_told_at_once_though_a_back_end_is_silent(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path) -> None:  # noqa: F811
    ends = [back_ends.recorded("blk0", image, CHANGES_SILENT), back_ends.recorded("blk1", image)]
    sides = [options_of(end, extra=()) for end in ends]
    source, _ = in_rounds(fleet, *sides)
    # Else a round in which a guest that waits writes nothing is the last one.
    source.qmp.command("migrate-set-parameters", downtime_limit=0)
    ends[0].process.send_signal(signal.SIGUSR1)
    wait_silent(source)
    start_s = time.monotonic()
    source.qmp.command("migrate_cancel")
    assert wait(source) == "cancelled"
    assert time.monotonic() - start_s < 1
    assert source.status == "running"
    source.qmp.command("migrate-set-parameters", max_bandwidth=0, max_cpu_throttle=99)
    again = back_ends.recorded("blk2", image)
    assert_moves_next(fleet, source, **options_of(again, extra=()))


def test_nbd_server_that_does_not_answer_at_the_switch_fails_it_in_time(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path) -> None:
    servers = [back_ends.nbd(f"nbd{number}", image) for number in range(2)]
    sides = [{"guest": "blk", "guest_options": OPTIONS, "cpus": 1,
              "extra": ["--disk", f"nbd=nbd+unix:///?socket={server.socket}"]}
             for server in servers]
    source, told = stopped_at_switch(fleet, servers[0], *sides)
    assert "disk0" in told, told
    assert_moves_next(fleet, source, **sides[1])


# ---- at the destination: the source's guest never stops for long


# tests/backend/back_end.h
SILENT, REFUSED = 1, 12
# vhost-user: what a destination tells ahead, which is acknowledged
SET_FEATURES, SET_VRING_NUM, SET_VRING_CALL, SET_VRING_ENABLE, SET_INFLIGHT_FD = 2, 8, 13, 18, 32


def wait_built(source: Machine) -> None:
    """The first round begins when the destination has been built."""
    deadline = time.monotonic() + 30
    while not source.qmp.command("query-migrate")["ram"]["dirty-sync-count"]:
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("request_number", [SET_FEATURES, SET_VRING_NUM, SET_VRING_CALL,
                                            SET_VRING_ENABLE, SET_INFLIGHT_FD])
@pytest.mark.parametrize("kind", [SILENT, REFUSED], ids=["silent", "refuses"])
def test_destination_whose_back_end_cannot_be_built_fails_the_move_before_the_guest_stops(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path, request_number: int,  # noqa: F811
        kind: int) -> None:
    here = back_ends.recorded("blk0", image)
    there = back_ends.recorded("blk1", image, f"fault={request_number},{kind}")
    source = working(fleet, **options_of(here, extra=()))
    destination, uri = listening(fleet, **options_of(there, extra=()))
    source.serial.longest_gap_ns = 0
    source.qmp.take_events()
    start(source, uri)
    assert wait(source, 60) == "failed"
    told = runs_on(source, destination, SLACK_S)
    assert "disk0" in told and "back end" in told, told
    again = back_ends.recorded("blk2", image)
    assert_moves_next(fleet, source, **options_of(again, extra=()))


@pytest.mark.parametrize("kind", ["recorded", "daemon"])
@pytest.mark.parametrize("fate", ["killed", "silent"])
def test_destination_whose_back_end_is_gone_at_the_switch_gives_the_guest_back(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path, kind: str,  # noqa: F811
        fate: str) -> None:
    ends = [getattr(back_ends, kind)(f"blk{number}", image) for number in range(2)]
    sides = [options_of(end, extra=()) for end in ends]
    source, destination = in_rounds(fleet, *sides)
    wait_built(source)
    if fate == "killed":
        ends[1].kill()
    else:
        ends[1].pause()
    told = fails_in_time(source, destination)
    if fate == "killed":
        assert "disk0" in told and "back end" in told, told
    else:
        ends[1].go_on()
    again = getattr(back_ends, kind)("blk2", image)
    assert_moves_next(fleet, source, **options_of(again, extra=()))
