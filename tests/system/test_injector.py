# SPDX-License-Identifier: Apache-2.0
"""Every arc of both state machines, broken in every way: who has the guest then.

The arcs are those that the binary prints; ARCS says of each how it is taken and
who owns the guest there (docs/spec/stream.md).  An arc without an entry fails,
and so does an entry without an arc.
"""
from __future__ import annotations

import os
import signal
import socket
import time
from dataclasses import dataclass
from typing import Callable

import pytest

from harness import injector
from harness.edit import head
from harness.injector import HANDED, LOST, MOVED, NOBODY, SAVED, SOURCE
from harness.machine import Fleet, Machine, run
from harness.move import start, wait
from harness.qmp import QmpClosed, QmpError
from harness.relay import Link
from harness.scene import assert_works, listening

SMALL = {"memory": "64M", "cpus": 1, "guest_options": "hot=8M,rate=max,tick=1ms"}
FEW = 20  # ticks: there are hundreds of cases
ENDED_BY_HOST, INCOMING_FAILED, WRONG_COMMAND_LINE = 0, 6, 64  # docs/exit-codes.md
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}
# A stopped guest waits for its destination this long at most: 1 s beyond twice
# the downtime limit of 300 ms, and what a busy machine adds.
STOP_MAX_NS = 1_600_000_000 + 1_500_000_000
BEGINS = "-setup"  # the end of whichever arc comes first


def first_arc(source: Machine) -> str:
    """How its migration begins depends on how the last one ended."""
    return source.qmp.command("query-migrate")["status"] + BEGINS


class Scene:
    """A source at work, a destination that waits to be told, a way between them."""

    def __init__(self, fleet: Fleet, arc: str, action: str, source: Machine, destination: Machine
                 ) -> None:
        self.fleet, self.arc, self.action = fleet, arc, action
        self.source, self.destination = source, destination
        self.broken = source if ARCS[arc].side == "source" else destination
        self.target = f"{fleet.folder}/{destination.name}.in"
        self.uri = f"unix:{self.target}"
        self.exits_on_error = True
        self.is_migrating = False
        self.saved = ""

    @property
    def peer(self) -> Machine:
        return self.destination if self.broken is self.source else self.source

    def arm(self, machine: Machine | None = None, arc: str = "", action: str = "stall") -> None:
        """The arc under test, or another one on the way to it."""
        injector.arm(machine or self.broken, arc or self.arc, action if arc else self.action)

    def listen(self) -> None:
        self.tell(self.destination, "migrate-incoming", uri=self.uri,
                  exit_on_error=self.exits_on_error)

    def tell(self, machine: Machine, command: str, **arguments: object) -> None:
        """It may die of it."""
        try:
            machine.qmp.command(command, **arguments)
        except QmpClosed:
            assert self.action == "exit"

    def migrate(self, uri: str = "") -> None:
        self.is_migrating = True
        self.source.qmp.take_events()  # those of an earlier one
        self.tell(self.source, "migrate", uri=uri or self.uri)

    def stall_at(self, machine: Machine, arc: str) -> None:
        """Move until @machine stands still at @arc; a cancel or a lost peer ends that."""
        arc = first_arc(machine) if arc == BEGINS else arc
        self.arm(machine, arc)
        self.listen()
        self.migrate()
        injector.wait_broken(machine, arc, "stall")


def moving(scene: Scene) -> None:
    scene.arm()
    scene.listen()
    scene.migrate()


def arriving(scene: Scene) -> None:
    """The destination's arcs before anybody connects."""
    scene.arm()
    scene.listen()
    injector.wait_broken(scene.broken, scene.arc, scene.action)
    scene.migrate()


def cancelled_at(entry: str) -> Callable[[Scene], None]:
    def reach(scene: Scene) -> None:
        scene.stall_at(scene.source, entry)
        scene.arm()
        scene.tell(scene.source, "migrate_cancel")
    return reach


def without_its_destination_at(entry: str) -> Callable[[Scene], None]:
    def reach(scene: Scene) -> None:
        scene.stall_at(scene.source, entry)
        scene.arm()
        scene.destination.kill()
    return reach


def killed_destination_at(entry: str) -> Callable[[Scene], None]:
    """As above, by the destination's arc: the source waits for its answer."""
    def reach(scene: Scene) -> None:
        scene.arm()
        scene.stall_at(scene.destination, entry)
        scene.destination.kill()
    return reach


def without_its_source_at(entry: str) -> Callable[[Scene], None]:
    """The source gives up, and keeps its guest, while the destination is at @entry."""
    def reach(scene: Scene) -> None:
        scene.stall_at(scene.destination, entry)
        scene.arm()
        scene.tell(scene.source, "migrate_cancel")
    return reach


def to_nobody(scene: Scene) -> None:
    scene.arm()
    scene.migrate()


def from_a_stranger(scene: Scene) -> None:
    scene.arm()
    scene.listen()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(scene.target)
        sock.sendall(head(magic=b"NONSENSE"))
        injector.wait_broken(scene.broken, scene.arc, scene.action)


def cut_before(record: str) -> Callable[[Scene], None]:
    def reach(scene: Scene) -> None:
        scene.arm()
        scene.listen()
        Link(f"{scene.target}.link", scene.target, cut_before=record)
        scene.migrate(f"{scene.uri}.link")
    return reach


def cancelled_when_loaded(scene: Scene) -> None:
    scene.arm(scene.source, "device-sent")
    scene.arm()
    scene.listen()
    scene.migrate()
    wait(scene.destination, 20, "loaded")
    scene.tell(scene.source, "migrate_cancel")


def told_to_quit(scene: Scene) -> None:
    """With GO in its hands."""
    scene.stall_at(scene.destination, "loaded-taking-over")
    scene.arm()
    scene.tell(scene.destination, "quit")


def piping(scene: Scene) -> None:
    """The destination reads what the source writes, and cannot answer."""
    out, into = os.pipe()
    scene.destination.qmp.command("getfd", fd=out, fdname="pipe")
    scene.source.qmp.command("getfd", fd=into, fdname="pipe")
    os.close(out)
    os.close(into)
    scene.uri = "fd:pipe"
    moving(scene)


def saving(scene: Scene) -> None:
    scene.saved = f"file:{scene.fleet.folder}/saved"
    scene.arm()
    scene.migrate(scene.saved)


def saved(scene: Scene) -> None:
    scene.migrate(f"file:{scene.fleet.folder}/saved")
    assert wait(scene.source) == "completed"
    scene.source.qmp.command("cont")
    moving(scene)


def failed(scene: Scene) -> None:
    scene.migrate(f"unix:{scene.fleet.folder}/nobody")
    assert wait(scene.source) == "failed"
    moving(scene)


def cancelled(scene: Scene) -> None:
    scene.arm(scene.source, "none-setup")
    scene.migrate()
    scene.tell(scene.source, "migrate_cancel")
    assert wait(scene.source) == "cancelled"
    moving(scene)


def arrived(scene: Scene) -> None:
    """The source got its guest by a migration itself."""
    first = f"unix:{scene.fleet.folder}/first"
    arrival = scene.fleet.start("arrival", incoming=first, **SMALL)
    arrival.ready().serial
    start(scene.source, first)
    assert wait(scene.source) == "completed"
    wait(arrival, 20, "running")
    scene.source = scene.broken = arrival
    moving(scene)


@dataclass(frozen=True)
class Arc:
    """How an arc is taken, whose guest it is then, and how each break ends."""
    side: str
    owner: str
    reach: Callable[[Scene], None]
    exit: str
    close: str
    garbage: str
    stall: str
    killed: str  # by a signal, while it stalls
    # What ends a stall: a cancel of this side; "peer": its end, as a cancel
    # comes too late; "self": nothing has to.
    ended_by: str = "cancel"


def at_source(reach: Callable[[Scene], None], *, owner: str = "source", exit: str = LOST,
              close: str = SOURCE, garbage: str = SOURCE, stall: str = SOURCE,
              ended_by: str = "cancel") -> Arc:
    return Arc("source", owner, reach, exit, close, garbage, stall, exit, ended_by)


def at_destination(reach: Callable[[Scene], None], *, owner: str = "source", exit: str = SOURCE,
                   close: str = SOURCE, garbage: str = SOURCE, stall: str = SOURCE,
                   killed: str = "", ended_by: str = "cancel") -> Arc:
    return Arc("destination", owner, reach, exit, close, garbage, stall, killed or exit, ended_by)


def begins(reach: Callable[[Scene], None]) -> Arc:
    """No link yet that could be cut or get garbage."""
    return at_source(reach, close=MOVED, garbage=MOVED)


# Where two ends are named, what is on its way in the link decides.
EITHER = f"{SOURCE} or {NOBODY}"
ARCS = {
    "none-setup": begins(moving),
    "completed-setup": begins(saved),
    "failed-setup": begins(failed),
    "cancelled-setup": begins(cancelled),
    "running-setup": begins(arrived),
    "setup-active": at_source(moving),
    "active-device": at_source(moving),
    # The destination says READY before it meets the garbage.
    "device-sent": at_source(moving, garbage=EITHER),
    "sent-ready": at_source(moving, garbage=EITHER, ended_by="peer"),
    # No answer comes: what goes wrong with END is not heard of.
    "device-ready": at_source(piping, garbage=NOBODY, ended_by="peer"),
    # RUNNING may be here already.  The destination closes when all is done.
    "ready-handed-over": at_source(moving, owner="destination", exit=MOVED,
                                   close=f"{HANDED} or {MOVED}", garbage=MOVED, stall=MOVED,
                                   ended_by="self"),
    "handed-over-completed": at_source(moving, owner="destination", exit=MOVED, close=MOVED,
                                       garbage=MOVED, stall=MOVED),
    "ready-completed": at_source(saving, exit=SAVED, close=SAVED, garbage=SAVED, stall=SAVED),

    "setup-failed": at_source(to_nobody),
    "active-failed": at_source(without_its_destination_at("setup-active")),
    "device-failed": at_source(without_its_destination_at("active-device")),
    "sent-failed": at_source(killed_destination_at("stopped-loading")),
    "ready-failed": at_source(without_its_destination_at("sent-ready")),
    "handed-over-failed": at_source(killed_destination_at("loaded-taking-over"),
                                    owner="destination", close=NOBODY, garbage=NOBODY,
                                    stall=NOBODY),
    "setup-cancelling": at_source(cancelled_at(BEGINS)),
    "active-cancelling": at_source(cancelled_at("setup-active")),
    "device-cancelling": at_source(cancelled_at("active-device")),
    "sent-cancelling": at_source(cancelled_at("device-sent")),
    "cancelling-cancelled": at_source(cancelled_at("active-device")),

    "none-listening": at_destination(arriving, close=MOVED, garbage=MOVED),
    "listening-building": at_destination(moving),
    "building-receiving": at_destination(moving),
    # A guest that is stopped does not wait for a cancel.
    "receiving-stopped": at_destination(moving, ended_by="self"),
    "stopped-loading": at_destination(moving, ended_by="self"),
    # READY is on its way, and GO may be.
    "loading-loaded": at_destination(moving, exit=EITHER, close=f"{EITHER} or {HANDED}",
                                     garbage=HANDED, stall=EITHER),
    "loaded-taking-over": at_destination(moving, owner="destination", exit=NOBODY, close=HANDED,
                                         garbage=HANDED, stall=MOVED, killed=NOBODY,
                                         ended_by="peer"),
    # One that is told to quit here still answers RUNNING.
    "taking-over-started": at_destination(moving, owner="destination", exit=NOBODY, close=HANDED,
                                          garbage=HANDED, stall=MOVED, killed=f"{NOBODY} or {LOST}",
                                          ended_by="peer"),
    "started-running": at_destination(moving, owner="destination", exit=LOST, close=MOVED,
                                      garbage=MOVED, stall=MOVED),

    "listening-failed": at_destination(from_a_stranger),
    "building-failed": at_destination(without_its_source_at("listening-building")),
    "receiving-failed": at_destination(without_its_source_at("building-receiving")),
    "stopped-failed": at_destination(cut_before("END")),
    "loading-failed": at_destination(without_its_source_at("stopped-loading")),
    "loaded-failed": at_destination(cancelled_when_loaded),
    "taking-over-failed": at_destination(told_to_quit, owner="destination", exit=NOBODY,
                                         close=NOBODY, garbage=NOBODY, stall=NOBODY,
                                         ended_by="self"),
}


NAMES = list(injector.printed())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "arc" not in metafunc.fixturenames:
        return
    names = NAMES
    if "number" in metafunc.fixturenames:
        # There, the process is ending already.
        names = [name for name in NAMES if name != "taking-over-failed"]
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
