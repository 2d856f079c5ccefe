# SPDX-License-Identifier: Apache-2.0
"""Every arc of both state machines, broken in every way: who has the guest then.

The arcs are those that the binary prints; ARCS (harness/arcs.py) says of each how it
is taken and who owns the guest there (docs/spec/stream.md).  An arc without an entry
fails, and so does an entry without an arc.
"""
from __future__ import annotations

import os
import signal
import time

import pytest

from harness import injector
from harness.arcs import ARCS, BEGINS, SMALL, Scene, moving
from harness.injector import LOST, NOBODY, SAVED, SOURCE
from harness.machine import Fleet, Machine, run
from harness.move import start, wait
from harness.qmp import QmpError
from harness.scene import assert_works, listening

FEW = 20  # ticks: there are hundreds of cases
ENDED_BY_HOST, INCOMING_FAILED, WRONG_COMMAND_LINE = 0, 6, 64  # docs/exit-codes.md
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}
# A stopped guest waits for its destination this long at most: 200 ms beyond the
# downtime limit of 300 ms, and what a busy machine adds.
STOP_MAX_NS = 500_000_000 + 1_000_000_000
# Where the destination was told of the cancel before the break, it may have ended by itself.
TOLD = ("device-cancelling", "sent-cancelling", "cancelling-cancelled")
NAMES = list(injector.printed())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "arc" not in metafunc.fixturenames:
        return
    names = NAMES
    if "number" in metafunc.fixturenames:
        # There, the process is ending already.
        names = [name for name in NAMES if name != "taking-over-failed"]
    if metafunc.function is test_kill_of_the_peer_at_every_step_leaves_one_guest_at_most:
        names = [name for name in NAMES if ARCS[name].peer]
    metafunc.parametrize("arc", names)


def test_every_arc_of_the_binary_has_its_entry_and_every_entry_its_arc() -> None:
    assert {name: (arc.side, arc.owner) for name, arc in ARCS.items()} == \
        injector.printed()


def play(fleet: Fleet, arc: str, action: str, exits_on_error: bool = True) -> Scene:
    source = fleet.start("source", **SMALL)
    destination = fleet.start("destination", incoming="defer", **SMALL)
    source.serial.wait_ticks(10)
    destination.ready().serial
    scene = Scene(fleet, arc, action, source, destination)
    scene.exits_on_error = exits_on_error
    ARCS[arc].reach(scene)
    injector.wait_broken(scene.broken, arc, action)
    return scene


def start_when_free(source: Machine, uri: str) -> None:
    """A stall at the last arc may end after its event."""
    deadline = time.monotonic() + 5
    while True:
        try:
            return start(source, uri)
        except QmpError as error:
            if "under way" not in error.desc or time.monotonic() > deadline:
                raise
        time.sleep(0.002)


def moves(fleet: Fleet, source: Machine) -> None:
    """The next migration goes well, and RAM is the same on both sides."""
    source.qmp.command("migrate-set-capabilities",
                       capabilities=[{"capability": "verify", "state": True}])
    last, uri = listening(fleet, "last", **SMALL)
    source.qmp.take_events()
    start_when_free(source, uri)
    assert wait(source, 20) == "completed", source.qmp.command("query-migrate")
    assert source.qmp.command("query-migrate")["verify"]["pages"] > 0
    assert_works(last, FEW)


def seen(scene: Scene) -> str:
    """Who has the guest, now that it is settled; and that it is whole."""
    source, destination = scene.source, scene.destination
    if scene.saved:
        assert not source.is_alive or (wait(source, 20) and source.status == "paused")
        destination.qmp.command("migrate-incoming", uri=scene.saved)
        assert wait(destination, 20, "running")
        assert_works(destination, FEW)
        return SAVED
    outcome = injector.settled(source, destination, scene.is_migrating)
    if outcome in (SOURCE, NOBODY):
        assert destination.serial.ticks == 0 or ARCS[scene.arc].owner == "destination"
        if outcome == NOBODY:
            with pytest.raises(QmpError, match="force"):
                source.qmp.command("cont")
            source.qmp.command("cont", force=True)
        assert_works(source, FEW)
        moves(scene.fleet, source)
    elif outcome != LOST:
        assert_works(destination, FEW)
        ticks = source.serial.ticks
        destination.serial.wait_ticks(10)
        assert source.serial.ticks == ticks
    return outcome


@pytest.mark.parametrize("action", ["exit", "close", "garbage"])
def test_one_side_at_most_runs_the_guest(fleet: Fleet, arc: str, action: str) -> None:
    scene = play(fleet, arc, action)
    if action != "exit" and scene.broken is scene.source:
        assert scene.broken.qmp.command("query-migrate-parameters")["x-fail"] == ""
    expected = getattr(ARCS[arc], action)
    if expected == SOURCE and ARCS[arc].reach is moving:
        assert wait(scene.source, 20) == "failed"
        scene.is_migrating = False
        told = scene.source.qmp.command("query-migrate")["error-desc"]
        assert action != "garbage" or "of unknown type" in told, told
    assert seen(scene) in expected


def test_stall_ends_and_one_side_runs_the_guest(fleet: Fleet, arc: str) -> None:
    scene = play(fleet, arc, "stall", exits_on_error=False)
    if ARCS[arc].ended_by != "self":
        scene.broken.qmp.command("migrate_cancel")
    if ARCS[arc].ended_by == "peer":
        # It stalls on, and answers.
        assert scene.broken.qmp.command("query-migrate")["status"] in ("device", "loaded")
        scene.peer.kill()
        scene.peer.wait_end()
    assert seen(scene) in ARCS[arc].stall
    if scene.broken is scene.destination:
        assert scene.source.serial.longest_gap_ns < STOP_MAX_NS


@pytest.mark.parametrize("number", SIGNALS.values(), ids=SIGNALS.keys())
def test_signal_at_every_step_leaves_one_guest_at_most(fleet: Fleet, arc: str, number: int) -> None:
    scene = play(fleet, arc, "stall", exits_on_error=False)
    broken = scene.broken
    broken.kill(number)
    assert broken.wait_end() == (-number if number == signal.SIGKILL else ENDED_BY_HOST)
    if number != signal.SIGKILL:
        assert not os.path.exists(broken.qmp_path) and not os.path.exists(broken.serial_path)
        assert broken is scene.source or not os.path.exists(scene.target)
    assert seen(scene) in ARCS[arc].killed


def assert_never_ran(destination: Machine) -> None:
    """It has ended by itself, and no instruction of the guest ran there."""
    assert destination.wait_end() in (ENDED_BY_HOST, INCOMING_FAILED), destination.output
    assert destination.serial.ticks == 0


def test_kill_of_the_peer_at_every_step_leaves_one_guest_at_most(fleet: Fleet, arc: str) -> None:
    scene = play(fleet, arc, "stall")
    scene.peer.kill()
    ended = scene.peer.wait_end()
    assert ended == -signal.SIGKILL or (arc in TOLD and ended == INCOMING_FAILED)
    if arc.endswith(BEGINS) or arc in ("none-listening", "cancelling-cancelled"):
        scene.broken.qmp.command("migrate_cancel")  # no link is there that could end with it
    outcome = seen(scene)
    assert outcome in ARCS[arc].peer
    if outcome == LOST and scene.broken is scene.destination:
        assert_never_ran(scene.destination)
    elif outcome == LOST:  # it ran there, for as long as that lived, and must not here as well
        assert scene.source.status == "postmigrate"
        with pytest.raises(QmpError, match="runs at the destination"):
            scene.source.qmp.command("cont")


def test_command_line_breaks_the_first_migration_only(fleet: Fleet) -> None:
    source = fleet.start("source", extra=["--x-fail", "device-sent,action=close"], **SMALL)
    source.serial.wait_ticks(10)
    uri = f"unix:{fleet.folder}/move"
    destination = fleet.start("destination", incoming=uri, **SMALL).ready()
    destination.serial
    start(source, uri)
    assert wait(source, 20) == "failed"
    assert destination.wait_end() == INCOMING_FAILED
    moves(fleet, source)


def test_arc_that_is_none_is_refused_with_those_nearby(fleet: Fleet) -> None:
    told = run("run", "--x-fail", "device-running")
    assert told.returncode == WRONG_COMMAND_LINE
    for word in ("device-running", "device-sent", "device-failed", "help"):
        assert word in told.stderr, told.stderr
    machine = fleet.start("machine", **SMALL).ready()
    with pytest.raises(QmpError, match="device-sent"):
        machine.qmp.command("migrate-set-parameters", x_fail="device-running", downtime_limit=7)
    parameters = machine.qmp.command("query-migrate-parameters")
    assert parameters["x-fail"] == "" and parameters["downtime-limit"] != 7


def test_what_is_armed_is_told_and_can_be_disarmed(fleet: Fleet) -> None:
    source = fleet.start("source", **SMALL).ready()
    source.qmp.command("migrate-set-parameters", x_fail="setup-active")
    source.qmp.command("migrate-set-parameters", downtime_limit=300)
    parameters = source.qmp.command("query-migrate-parameters")
    assert parameters["x-fail"] == "setup-active,action=exit"
    source.qmp.command("migrate-set-parameters", x_fail="")
    assert source.qmp.command("query-migrate-parameters")["x-fail"] == ""
    source.serial.wait_ticks(10)
    moves(fleet, source)
