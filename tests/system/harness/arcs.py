# SPDX-License-Identifier: Apache-2.0
"""Every arc of both state machines: how it is taken, who has the guest there, how each break ends."""
from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Callable

from . import injector
from .edit import head
from .injector import HANDED, LOST, MOVED, NOBODY, SAVED, SOURCE
from .machine import Fleet, Machine
from .move import start, wait
from .qmp import QmpClosed
from .relay import Link

SMALL = {"memory": "64M", "cpus": 1, "guest_options": "hot=8M,rate=max,tick=1ms"}
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
        # It does not before it is told to.
        scene.source.qmp.command("migrate-set-parameters", downtime_limit=5000)
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
    peer: str  # its peer is killed then; "": there is none (any more) that has to do with the move
    # What ends a stall: a cancel of this side; "peer": its end, as a cancel
    # comes too late; "self": nothing has to.
    ended_by: str = "cancel"


def at_source(reach: Callable[[Scene], None], *, owner: str = "source", exit: str = LOST,
              close: str = SOURCE, garbage: str = SOURCE, stall: str = SOURCE,
              peer: str = SOURCE, ended_by: str = "cancel") -> Arc:
    return Arc("source", owner, reach, exit, close, garbage, stall, exit, peer, ended_by)


def at_destination(reach: Callable[[Scene], None], *, owner: str = "source", exit: str = SOURCE,
                   close: str = SOURCE, garbage: str = SOURCE, stall: str = SOURCE,
                   killed: str = "", peer: str = LOST, ended_by: str = "cancel") -> Arc:
    return Arc("destination", owner, reach, exit, close, garbage, stall, killed or exit, peer,
               ended_by)


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
                                   peer=f"{NOBODY} or {LOST}", ended_by="self"),
    "handed-over-completed": at_source(moving, owner="destination", exit=MOVED, close=MOVED,
                                       garbage=MOVED, stall=MOVED, peer=LOST),
    "ready-completed": at_source(saving, exit=SAVED, close=SAVED, garbage=SAVED, stall=SAVED,
                                 peer=""),

    "setup-failed": at_source(to_nobody, peer=""),
    "active-failed": at_source(without_its_destination_at("setup-active"), peer=""),
    "device-failed": at_source(without_its_destination_at("active-device"), peer=""),
    "sent-failed": at_source(killed_destination_at("stopped-loading"), peer=""),
    "ready-failed": at_source(without_its_destination_at("sent-ready"), peer=""),
    "handed-over-failed": at_source(killed_destination_at("loaded-taking-over"),
                                    owner="destination", close=NOBODY, garbage=NOBODY,
                                    stall=NOBODY, peer=""),
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
                                     garbage=HANDED, stall=EITHER, peer=f"{MOVED} or {LOST}"),
    "loaded-taking-over": at_destination(moving, owner="destination", exit=NOBODY, close=HANDED,
                                         garbage=HANDED, stall=MOVED, killed=NOBODY,
                                         peer=MOVED, ended_by="peer"),
    # One that is told to quit here still answers RUNNING.
    "taking-over-started": at_destination(moving, owner="destination", exit=NOBODY, close=HANDED,
                                          garbage=HANDED, stall=MOVED, killed=f"{NOBODY} or {LOST}",
                                          peer=MOVED, ended_by="peer"),
    "started-running": at_destination(moving, owner="destination", exit=LOST, close=MOVED,
                                      garbage=MOVED, stall=MOVED, peer=MOVED),

    "listening-failed": at_destination(from_a_stranger, peer=""),
    "building-failed": at_destination(without_its_source_at("listening-building")),
    "receiving-failed": at_destination(without_its_source_at("building-receiving")),
    "stopped-failed": at_destination(cut_before("END")),
    "loading-failed": at_destination(without_its_source_at("stopped-loading")),
    "loaded-failed": at_destination(cancelled_when_loaded),
    "taking-over-failed": at_destination(told_to_quit, owner="destination", exit=NOBODY,
                                         close=NOBODY, garbage=NOBODY, stall=NOBODY,
                                         ended_by="self"),
}
