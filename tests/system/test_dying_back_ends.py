# SPDX-License-Identifier: Apache-2.0
"""A destination's back end that ends, refuses or is silent at any message: the guest runs at one side.

Ahead of the switch that is the source.  In the pause it is whichever knew first.  After GO it is the
destination, where the disk goes on with the next back end.
"""
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.back_end import BackEnd, BackEnds
from harness.machine import Fleet, Machine
from harness.move import start, wait
from harness.scene import listening
from test_accounting import phases
from test_back_ends import assert_whole, image, options_of, wait_progress, working  # noqa: F401
from test_silent_back_ends import (SLACK_S, STOP_MAX_S, assert_moves_next, fails_in_time, in_rounds,
                                   runs_on, wait_built)

pytestmark = pytest.mark.few  # it measures how long what waits takes

# tests/backend/back_end.h
SILENT, LATE, GONE, EXIT = 1, 2, 13, 14
NAMES = {SILENT: "silent", LATE: "late", GONE: "gone", EXIT: "exits"}
# vhost-user
GET_FEATURES, SET_FEATURES, SET_MEM_TABLE, SET_VRING_NUM, SET_VRING_ADDR = 1, 2, 5, 8, 9
SET_VRING_BASE, SET_VRING_KICK, SET_VRING_CALL, GET_PROTOCOL_FEATURES = 10, 12, 13, 15
GET_QUEUE_NUM, SET_VRING_ENABLE, SET_BACKEND_REQ_FD = 17, 18, 21
GET_INFLIGHT_FD, SET_INFLIGHT_FD, GET_MAX_MEM_SLOTS, ADD_MEM_REG = 31, 32, 36, 37

ALWAYS = 1000


def fault(request: int, kind: int, skip: int = 0, ms: int = 0, again: int = 0) -> str:
    return f"fault={request},{kind},{skip},{ms},{again}"


def cases(requests: tuple[int, ...], kinds: tuple[int, ...]) -> Any:
    return pytest.mark.parametrize("request_number, kind", [
        pytest.param(request, kind, id=f"{request}-{NAMES[kind]}")
        for request in requests for kind in kinds])


def assert_tells_and_moves_next(fleet: Fleet, back_ends: BackEnds, image: Path,  # noqa: F811
                                source: Machine, told: str) -> None:
    assert "disk0" in told and "back end" in told, told
    again = back_ends.recorded("blk2", image)
    assert_moves_next(fleet, source, **options_of(again, extra=()))


def assert_goes_on(back_end: BackEnd, machine: Machine, kind: int) -> None:
    """At @machine, with a back end that is started again if it has ended."""
    if kind == EXIT:
        assert back_end.wait_end() == 9
        back_end.argv.pop()
        back_end.start()
    wait_progress(machine)
    assert_whole(machine)


# ---- ahead


@cases((SET_FEATURES, GET_INFLIGHT_FD, SET_INFLIGHT_FD, SET_VRING_NUM, SET_VRING_CALL,
        SET_VRING_ENABLE), (GONE, EXIT))
def test_guest_runs_on_where_it_is_when_its_back_end_to_be_ends_ahead(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path, request_number: int,  # noqa: F811
        kind: int) -> None:
    here = back_ends.recorded("blk0", image)
    there = back_ends.recorded("blk1", image, fault(request_number, kind, again=ALWAYS))
    source, destination = in_rounds(fleet, options_of(here, extra=()),
                                    options_of(there, extra=()))
    told = fails_in_time(source, destination)
    assert_tells_and_moves_next(fleet, back_ends, image, source, told)


@cases((GET_FEATURES, GET_PROTOCOL_FEATURES, GET_QUEUE_NUM, SET_BACKEND_REQ_FD, SET_MEM_TABLE,
        ADD_MEM_REG, GET_MAX_MEM_SLOTS, SET_INFLIGHT_FD), (SILENT, GONE, EXIT))
def test_guest_runs_on_where_it_is_when_its_back_end_to_be_comes_back_and_fails(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path, request_number: int,  # noqa: F811
        kind: int) -> None:
    slots = ("slots=8",) if request_number in (ADD_MEM_REG, GET_MAX_MEM_SLOTS) else ()
    here = back_ends.recorded("blk0", image)
    there = back_ends.recorded("blk1", image, *slots)
    source, destination = in_rounds(fleet, options_of(here, extra=()),
                                    options_of(there, extra=()))
    wait_built(source)
    there.kill()
    there.argv.append(fault(request_number, kind, again=ALWAYS))
    there.start()
    fails_in_time(source, destination)
    again = back_ends.recorded("blk2", image)
    assert_moves_next(fleet, source, **options_of(again, extra=()))


def test_back_end_that_is_silent_about_its_record_fails_the_move_before_the_guest_stops(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path) -> None:  # noqa: F811
    here = back_ends.recorded("blk0", image)
    there = back_ends.recorded("blk1", image, fault(GET_INFLIGHT_FD, SILENT))
    source, destination, status = moved(fleet, here, there)
    assert status == "failed"
    told = runs_on(source, destination, SLACK_S)
    assert_tells_and_moves_next(fleet, back_ends, image, source, told)


# ---- in the pause


def moved(fleet: Fleet, here: BackEnd, there: BackEnd) -> tuple[Machine, Machine, str]:
    source = working(fleet, **options_of(here, extra=()))
    destination, uri = listening(fleet, **options_of(there, extra=()))
    source.serial.longest_gap_ns = 0
    source.qmp.take_events()
    start(source, uri)
    return source, destination, wait(source, 60)


@cases((SET_VRING_BASE, SET_VRING_ADDR), (GONE, EXIT))
def test_guest_runs_at_one_side_when_its_back_end_ends_in_the_pause(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path, request_number: int,  # noqa: F811
        kind: int) -> None:
    here = back_ends.recorded("blk0", image)
    there = back_ends.recorded("blk1", image, fault(request_number, kind))
    source, destination, status = moved(fleet, here, there)
    if status == "completed":  # nobody knew yet
        assert_goes_on(there, destination, kind)
        return
    told = runs_on(source, destination, STOP_MAX_S + SLACK_S)
    assert_tells_and_moves_next(fleet, back_ends, image, source, told)


LATE_MS = 1500
LOOK_MS = 500  # for so long a start looks for the answer


@cases((SET_VRING_BASE, SET_VRING_ADDR, SET_VRING_KICK), (LATE,))
def test_guest_does_not_wait_for_a_back_end_that_is_told_where_rings_are(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path, request_number: int,  # noqa: F811
        kind: int) -> None:
    here = back_ends.recorded("blk0", image)
    there = back_ends.recorded("blk1", image, fault(request_number, kind, ms=LATE_MS))
    source, destination, status = moved(fleet, here, there)
    assert status == "completed", source.qmp.command("query-migrate")
    took = phases(source.qmp.command("query-migrate"), "destination")
    assert took["dst-load"] + took["dst-activate"] < LATE_MS * 1000 / 2, took
    assert LOOK_MS * 1000 / 2 < took["dst-start"] < LATE_MS * 1000, took
    wait_progress(destination)
    assert_whole(destination)


# ---- after GO


@cases((SET_VRING_KICK,), (GONE, EXIT))
def test_guest_goes_on_at_the_destination_when_its_back_end_ends_at_the_kick(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path, request_number: int,  # noqa: F811
        kind: int) -> None:
    here = back_ends.recorded("blk0", image)
    there = back_ends.recorded("blk1", image, fault(request_number, kind))
    source, destination, status = moved(fleet, here, there)
    assert status == "completed", source.qmp.command("query-migrate")
    assert_goes_on(there, destination, kind)
