# SPDX-License-Identifier: Apache-2.0
"""Every command in every state: an answer or a clear error, and never a hang.

A state is one of the run state and the migration together, held still by the
failure injector where it would pass by.  Not there: states without a process
(`shutdown`) or without an option that leads there (`prelaunch`).
"""
from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Callable

import pytest

from harness import injector
from harness.machine import Fleet, Machine
from harness.move import move, start, wait
from harness.qmp import QmpError
from harness.relay import Link
from harness.scene import assert_works

SMALL = {"memory": "32M", "cpus": 1, "guest_options": "hot=1M,rate=10000/s,tick=1ms"}
ANSWER_S = 5.0
ENDED_BY_HOST, INCOMING_FAILED = 0, 6  # docs/exit-codes.md

OK = ""  # no error
CANNOT = "cannot .* a machine that is "
BUSY = "a migration is under way"
NOT_INCOMING = "only a machine started with --incoming"


@dataclass
class State:
    """How to get there, and what each command that changes something is told."""
    reach: Callable[[Fleet], Machine]
    status: str     # query-status
    migration: str  # query-migrate
    stop: str = OK
    cont: str = OK
    force: str = OK     # cont with force
    migrate: str = OK   # to where nobody listens
    incoming: str = NOT_INCOMING
    powerdown: str = OK
    caps: str = OK
    # A cancel ends the process with this.
    cancelled: int | None = None
    quits: int = ENDED_BY_HOST

    @property
    def rate(self) -> str:
        """calc-dirty-rate: who may not migrate may not be measured."""
        return self.migrate

    @property
    def limit(self) -> str:
        return OK if self.status in ("running", "paused", "finish-migrate") else CANNOT


# ---- ways there ----

def working(fleet: Fleet) -> Machine:
    source = fleet.start("source", **SMALL)
    source.serial.wait_ticks(5)
    return source


def paused(fleet: Fleet) -> Machine:
    source = working(fleet)
    source.qmp.command("stop")
    return source


def waiting(fleet: Fleet) -> Machine:
    return fleet.start("destination", incoming="defer", **SMALL).ready()


def listening(fleet: Fleet, name: str = "destination", arc: str = "") -> tuple[Machine, str]:
    destination = fleet.start(name, incoming="defer", **SMALL).ready()
    if arc:
        injector.arm(destination, arc, "stall")
    uri = f"unix:{fleet.folder}/{name}.move"
    destination.qmp.command("migrate-incoming", uri=uri)
    return destination, uri


def source_at(arc: str) -> Callable[[Fleet], Machine]:
    def reach(fleet: Fleet) -> Machine:
        source = working(fleet)
        _, uri = listening(fleet)
        injector.arm(source, arc, "stall")
        start(source, uri)
        injector.wait_broken(source, arc, "stall")
        return source
    return reach


def destination_at(arc: str) -> Callable[[Fleet], Machine]:
    def reach(fleet: Fleet) -> Machine:
        source = working(fleet)
        source.qmp.command("migrate-set-parameters", downtime_limit=60000)  # for READY
        destination, uri = listening(fleet, arc=arc)
        start(source, uri)
        injector.wait_broken(destination, arc, "stall")
        return destination
    return reach


def ended(status: str) -> Callable[[Fleet], Machine]:
    def reach(fleet: Fleet) -> Machine:
        source = working(fleet)
        uri = f"unix:{fleet.folder}/nobody"
        if status == "completed":
            _, uri = listening(fleet)
        elif status == "cancelled":
            _, uri = listening(fleet, arc="building-receiving")
        start(source, uri)
        if status == "cancelled":
            wait(source, 20, "active")
            source.qmp.command("migrate_cancel")
        assert wait(source) == status
        return source
    return reach


def saved(fleet: Fleet) -> Machine:
    source = working(fleet)
    start(source, f"file:{fleet.folder}/saved")
    assert wait(source) == "completed"
    return source


def let_go(fleet: Fleet) -> Machine:
    """To who knows whom: nobody answers."""
    source = working(fleet)
    start(source, "file:/dev/null")
    assert wait(source) == "completed"
    return source


def arrived(fleet: Fleet) -> Machine:
    source = working(fleet)
    destination, uri = listening(fleet)
    assert move(source, destination, uri).status == "completed"
    wait(destination, 20, "running")
    return destination


def past_go(fleet: Fleet) -> Machine:
    """A source that was not answered yet."""
    source = working(fleet)
    destination, uri = listening(fleet, arc="loaded-taking-over")
    start(source, uri)
    injector.wait_broken(destination, "loaded-taking-over", "stall")
    return source


def cancelling(fleet: Fleet) -> Machine:
    source = source_at("setup-active")(fleet)
    injector.arm(source, "active-cancelling", "stall")
    source.qmp.command("migrate_cancel")
    injector.wait_broken(source, "active-cancelling", "stall")
    return source


def handed_over(fleet: Fleet) -> Machine:
    source = working(fleet)
    _, uri = listening(fleet)
    Link(f"{fleet.folder}/link", uri.removeprefix("unix:"), cut_before="RUNNING")
    start(source, f"unix:{fleet.folder}/link")
    assert wait(source) == "failed"
    return source


def refused(fleet: Fleet) -> Machine:
    """A destination that failed and stays."""
    destination = waiting(fleet)
    (fleet.folder / "nothing").write_bytes(bytes(64))
    destination.qmp.command("migrate-incoming", uri=f"file:{fleet.folder}/nothing",
                            exit_on_error=False)
    assert wait(destination) == "failed"
    return destination


MOVING = {"migrate": BUSY, "incoming": BUSY, "caps": BUSY}
STILL = {"stop": CANNOT, "cont": CANNOT, "force": CANNOT, "powerdown": CANNOT}
ARRIVING = {**STILL, "migrate": BUSY, "incoming": BUSY, "cancelled": INCOMING_FAILED}
STATES = {
    "running": State(working, "running", "none"),
    "paused": State(paused, "paused", "none", powerdown=CANNOT),
    "setup": State(source_at("none-setup"), "running", "setup", **MOVING),
    "active": State(source_at("setup-active"), "running", "active", **MOVING),
    "device": State(source_at("active-device"), "finish-migrate", "device", **MOVING, **STILL),
    "sent": State(source_at("device-sent"), "finish-migrate", "device", **MOVING, **STILL),
    "ready": State(source_at("sent-ready"), "finish-migrate", "device", **MOVING, **STILL),
    "cancelling": State(cancelling, "running", "cancelling", **MOVING),
    "past go": State(past_go, "finish-migrate", "device", **MOVING, **STILL),
    "completed": State(ended("completed"), "postmigrate", "completed",
                       **{**STILL, "cont": "runs at the destination", "force": "runs at the dest"},
                       migrate=CANNOT),
    "failed": State(ended("failed"), "running", "failed"),
    "cancelled": State(ended("cancelled"), "running", "cancelled"),
    "saved": State(saved, "paused", "completed", powerdown=CANNOT),
    "handed over": State(handed_over, "handed-over", "failed", stop=CANNOT, cont="with force",
                         powerdown=CANNOT, migrate=CANNOT),
    "let go": State(let_go, "handed-over", "completed", stop=CANNOT, cont="with force",
                    powerdown=CANNOT, migrate=CANNOT),
    "waiting": State(waiting, "inmigrate", "none", **STILL, migrate=CANNOT, incoming=OK),
    "listening": State(lambda fleet: listening(fleet)[0], "inmigrate", "listening", **ARRIVING),
    "building": State(destination_at("listening-building"), "inmigrate", "building", **ARRIVING),
    "receiving": State(destination_at("building-receiving"), "inmigrate", "receiving", **ARRIVING),
    "stopped": State(destination_at("receiving-stopped"), "inmigrate", "receiving", **ARRIVING),
    "loading": State(destination_at("stopped-loading"), "inmigrate", "receiving", **ARRIVING),
    "loaded": State(destination_at("loading-loaded"), "inmigrate", "loaded", **ARRIVING),
    "taking-over": State(destination_at("loaded-taking-over"), "inmigrate", "loaded",
                         **{**ARRIVING, "cancelled": None}),
    "started": State(destination_at("taking-over-started"), "running", "loaded", migrate=BUSY,
                     incoming=BUSY),
    "refused": State(refused, "inmigrate", "failed", **STILL, migrate=CANNOT),
    "arrived": State(arrived, "running", "running"),
}

# The migration's states (docs/spec/stream.md) that entries of other names are in.
STATE_OF = {
    "running": "none", "paused": "none", "waiting": "none", "past go": "handed-over",
    "saved": "completed", "let go": "completed", "handed over": "failed", "refused": "failed",
    "arrived": "running",
}

OF_THEIR_OWN = {"migrate_cancel", "quit"}  # tests
NONE = "no-such-command"
# What changes nothing but itself, and is answered alike in every state.
ALWAYS: list[tuple[str, dict[str, Any], str]] = [
    ("qmp_capabilities", {}, "already complete"),
    ("query-commands", {}, OK), ("query-version", {}, OK), ("query-name", {}, OK),
    ("query-status", {}, OK), ("query-cpus-fast", {}, OK), ("query-memory-map", {}, OK),
    ("query-stats", {"target": "vcpu"}, OK),
    ("query-dirty-rate", {}, OK), ("calc-dirty-rate", {}, "'calc-time' is missing"),
    ("query-vcpu-dirty-limit", {}, OK), ("cancel-vcpu-dirty-limit", {}, OK),
    ("set-vcpu-dirty-limit", {}, "'dirty-rate' is missing"),
    ("query-migrate", {}, OK), ("query-migrate-parameters", {}, OK),
    ("query-migrate-capabilities", {}, OK),
    ("migrate-set-parameters", {"max_bandwidth": 1 << 30}, OK),
    ("migrate-set-parameters", {"downtime_limit": 1 << 40}, "at most"),
    ("migrate-set-parameters", {"x_log_stop_delay": 1 << 40}, "at most"),
    ("migrate-set-parameters", {"x_fail": "no-such-arc"}, "no-such-arc"),
    ("migrate-set-capabilities", {"capabilities": [{"capability": "no", "state": True}]}, "'no'"),
    ("getfd", {"fdname": "x"}, "No file descriptor"), ("closefd", {"fdname": "x"}, "named 'x'"),
    ("migrate", {}, "'uri' is missing"), ("migrate-incoming", {"uri": 5}, "string"),
    (NONE, {}, "has not been found"),
]
CHANGING = {
    "stop": ("stop", {}), "cont": ("cont", {}), "force": ("cont", {"force": True}),
    "migrate": ("migrate", {"uri": "unix:/nonexistent/socket"}),
    "incoming": ("migrate-incoming", {"uri": "tcp:127.0.0.1:0"}),
    "powerdown": ("system_powerdown", {}),
    "rate": ("calc-dirty-rate", {"calc_time": 1}),
    "limit": ("set-vcpu-dirty-limit", {"dirty_rate": 100}),
    "caps": ("migrate-set-capabilities", {"capabilities": [{"capability": "events",
                                                            "state": True}]}),
}


def told(machine: Machine, command: str, arguments: dict[str, Any], timeout_s: float = ANSWER_S
         ) -> str:
    try:
        machine.qmp.command(command, timeout_s, **arguments)
    except QmpError as error:
        assert error.desc
        return error.desc
    return OK


def assert_told(machine: Machine, command: str, arguments: dict[str, Any], wanted: str) -> None:
    answer = told(machine, command, arguments)
    assert re.search(wanted, answer) if wanted else answer == OK, (command, arguments, answer)


def assert_in(machine: Machine, state: State) -> None:
    assert machine.status == state.status
    assert machine.qmp.command("query-migrate")["status"] == state.migration


def test_every_command_is_given_in_every_state(fleet: Fleet) -> None:
    machine = waiting(fleet)
    names = {command["name"] for command in machine.qmp.command("query-commands")}
    given = {command for command, _, _ in ALWAYS} | {command for command, _ in CHANGING.values()}
    assert (given | OF_THEIR_OWN) - {NONE} == names


def test_every_state_of_the_migration_is_in_the_table() -> None:
    """By the arcs that the binary prints: each leads from a state to another."""
    states = {STATE_OF.get(name, name) for name in STATES}
    between = {f"{begin}-{end}": {begin, end} for begin in states for end in states}
    arcs = set(injector.printed())
    assert arcs - set(between) == set()
    assert states == set().union(*(between[arc] for arc in arcs))


@pytest.mark.parametrize("name", STATES)
def test_command_that_may_not_change_a_state_is_answered_and_does_not(fleet: Fleet, name: str
                                                                     ) -> None:
    state = STATES[name]
    machine = state.reach(fleet)
    assert_in(machine, state)
    for command, arguments, wanted in ALWAYS:
        assert_told(machine, command, arguments, wanted)
        assert_in(machine, state)
    for key, (command, arguments) in CHANGING.items():
        if getattr(state, key) != OK:
            assert_told(machine, command, arguments, getattr(state, key))
            assert_in(machine, state)


@pytest.mark.parametrize("name", STATES)
def test_command_that_changes_a_state_is_answered_and_godwit_serves_on(fleet: Fleet, name: str
                                                                      ) -> None:
    state = STATES[name]
    for number, key in enumerate(key for key in CHANGING if getattr(state, key) == OK):
        folder = fleet.folder / str(number)
        folder.mkdir()
        own = Fleet(folder)
        try:
            machine = state.reach(own)
            assert_told(machine, *CHANGING[key], OK)
            assert machine.status
            machine.qmp.command("query-migrate", timeout_s=ANSWER_S)
        finally:
            print(own.end())


@pytest.mark.parametrize("name", STATES)
def test_cancel_is_answered_in_every_state(fleet: Fleet, name: str) -> None:
    state = STATES[name]
    machine = state.reach(fleet)
    assert told(machine, "migrate_cancel", {}) == OK
    if state.cancelled is not None:
        assert machine.wait_end() == state.cancelled
    elif state.migration in ("setup", "active", "cancelling") or name in ("device", "sent"):
        assert wait(machine) == "cancelled"
        assert_works(machine)
    else:
        assert_in(machine, state)


@pytest.mark.parametrize("name", STATES)
def test_quit_is_answered_and_ends_the_process_in_every_state(fleet: Fleet, name: str) -> None:
    state = STATES[name]
    machine = state.reach(fleet)
    assert told(machine, "quit", {}) == OK
    assert machine.wait_end() == state.quits
    leftovers = [path for path in (machine.qmp_path, machine.serial_path)
                 if (fleet.folder / path).exists()]
    assert not leftovers
