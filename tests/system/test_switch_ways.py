# SPDX-License-Identifier: Apache-2.0
"""The three ways to switch (x-switch), and what each calls in the pause."""
from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import test_churn
from harness import guest
from harness.back_end import BackEnds
from harness.machine import Fleet, Machine
from harness.move import move, start, wait
from harness.scene import listening, slow
from harness.second import reader
from harness.travel import leave
from test_back_ends import assert_whole, image, options_of, wait_progress, working  # noqa: F401
from test_net_user import assert_all_came_back, forwarder, wait_more
from test_net_user import options_of as cards_of
from test_switch import DISKS, options

WAYS = ("early", "batched", "naive")
LATE_MOVES = 120  # of which one in five to twenty has such a change


def switched(fleet: Fleet, source: Machine, way: str, name: str, **both: Any
             ) -> tuple[Machine, dict[str, dict[str, int]]]:
    """Where the guest is now, and the calls of its pause."""
    there, uri = listening(fleet, name, **both)
    there.qmp.command("migrate-set-parameters", x_switch=way)
    assert there.qmp.command("query-migrate-parameters")["x-switch"] == way
    moved = move(source, there, uri)
    assert moved.status == "completed", moved.info
    return there, moved.info["pause"]["calls"]


def test_each_way_commits_as_often_as_it_says(kvm: None, fleet: Fleet, folder: Path) -> None:
    every = options(folder, ",msix=on")
    machine = fleet.start("m0", **every)
    machine.serial.wait_ticks(50)
    for number, way in enumerate(WAYS):
        there, both = switched(fleet, machine, way, f"m{number + 1}", **every)
        calls = both["destination"]
        leave(fleet, machine)
        machine = there
        assert not any(both["source"].values()), both
        if way == "early":
            assert not any(calls.values()), calls
        elif way == "batched":
            assert (calls["commits"], calls["route-commits"]) == (1, 1), calls
            # One queue each, and one vector in use.
            assert calls["eventfd-calls"] == DISKS * (1 + 1), calls
        else:
            assert calls["commits"] >= DISKS and calls["route-commits"] >= DISKS, calls
    machine.serial.wait_ticks(50)
    assert machine.report()["errors"] == 0 and not guest.complaints(machine.serial)


def test_bar_that_moves_behind_the_last_round_is_in_the_calls(kvm: None, fleet: Fleet,
                                                              folder: Path) -> None:
    """One that queues are notified by: of MSI-X's own nobody but the topology is told."""
    every = test_churn.disk_machine(folder, "what=bars")
    every["guest_options"] = every["guest_options"].replace("churn=2ms", "churn=400us")
    machine = fleet.start("m0", **every)
    machine.serial.wait_line(r"ready\b")
    seen: list[dict[str, int]] = []
    while not any(calls["commits"] and calls["eventfd-calls"] for calls in seen):
        assert len(seen) < LATE_MOVES, seen
        test_churn.wait_changes(machine, 1)
        there, both = switched(fleet, machine, "early", f"m{len(seen) + 1}", **every)
        seen.append(both["destination"])
        leave(fleet, machine)
        machine = there
    assert not any(calls["route-commits"] for calls in seen), seen


@pytest.mark.parametrize("way", WAYS[1:])
def test_guest_that_changes_its_devices_is_whole_whichever_way_it_goes(
        kvm: None, fleet: Fleet, folder: Path, way: str) -> None:
    every = test_churn.disk_machine(folder, "what=bars+msix+reset+queues")
    machine = fleet.start("m0", **every)
    machine.serial.wait_ticks(20)
    for number in range(1, test_churn.MOVES + 1):
        test_churn.wait_changes(machine, 1)
        there, _ = switched(fleet, machine, way, f"m{number}", **every)
        assert not guest.complaints(machine.serial)
        leave(fleet, machine)
        machine = there
    test_churn.wait_changes(machine, test_churn.CHANGES)
    assert test_churn.last_report(machine)["errors"] == 0


# Of a guest that is paused, by entry and field: what goes on by itself between two saves.
CLOCKS = {("acpi-pm", "passed_ns"), ("acpi-pm", "realtime_ns"), ("kvm", "host_tsc"),
          ("kvm", "kvmclock_ns"), ("kvm", "pit"), ("kvm", "realtime_ns")}


def saved(machine: Machine, path: Path) -> dict[tuple[str, str], bytes]:
    """All that it would send, by entry and field; it is paused, and stays here."""
    machine.qmp.take_events()
    start(machine, f"file:{path}")
    assert wait(machine) == "completed", machine.qmp.command("query-migrate")
    stream = reader.verify(path.read_bytes())
    path.unlink()
    return {(state.name, value.field.name): value.raw
            for state in stream.states.values() for value in state.values}


def test_each_way_ends_in_the_same_state(kvm: None, fleet: Fleet, folder: Path) -> None:
    every = options(folder, ",msix=on,queues=all")
    every["extra"] += ["--rng", "on", "--console", "null", "--shmem", "size=64K"]
    machine = fleet.start("m0", **every)
    machine.serial.wait_ticks(50)
    machine.qmp.command("stop")
    states: dict[str, dict[tuple[str, str], bytes]] = {}
    # Whoever arrives gets an interrupt for each queue: that of the first move is in all of them.
    for number, way in enumerate(("early", *WAYS)):
        there, uri = listening(fleet, f"m{number + 1}", **every)
        there.qmp.command("migrate-set-parameters", x_switch=way)
        moved = move(machine, there, uri, is_silent=True)
        assert moved.status == "completed", moved.info
        leave(fleet, machine)
        machine = there
        states[way] = saved(machine, folder / "state")
    early = states["early"]
    assert len(early) > 100 and {name for name, _ in early} >= {"disk0", "rng0", "console0", "vcpu0"}
    for way in WAYS[1:]:
        assert states[way].keys() == early.keys()
        others = {key for key in early if states[way][key] != early[key]}
        assert others <= CLOCKS, (way, others - CLOCKS)
    machine.qmp.command("cont")
    machine.serial.wait_ticks(50)
    assert machine.report()["errors"] == 0 and not guest.complaints(machine.serial)


AGAIN = 5  # changes that are sent


@pytest.mark.parametrize("what, entries", [
    ("bars", r"disk\d-pci-setup"), ("msix", r"disk\d-(pci|msix)-setup|disk\d-setup"),
    ("reset", r"disk\d-(pci|msix)-setup|disk\d-setup"),
])
def test_only_what_the_guest_changed_is_sent_again(kvm: None, fleet: Fleet, folder: Path, what: str,
                                                   entries: str) -> None:
    every = test_churn.disk_machine(folder, f"what={what}")
    every["extra"] += ["--trace", "mig_setup_again"]
    source = fleet.start("m0", **every)
    source.serial.wait_ticks(20)
    there, uri = listening(fleet, "m1", **every)
    slow(source, test_churn.TRICKLE)
    start(source, uri)
    while source.output.count("mig_setup_again") < AGAIN:
        assert source.qmp.command("query-migrate")["status"] in ("setup", "active")
        source.serial.wait_ticks(2)
    source.qmp.command("migrate-set-parameters", max_bandwidth=0, downtime_limit=300)
    assert wait(source) == "completed", source.qmp.command("query-migrate")
    sent = re.findall(r"mig_setup_again\W+(\S+)", source.output)
    assert len(sent) >= AGAIN and all(re.fullmatch(entries, name) for name in sent), set(sent)
    test_churn.wait_changes(there, test_churn.CHANGES)
    assert test_churn.last_report(there)["errors"] == 0


@pytest.mark.parametrize("kind", ["recorded", "daemon"])
def test_ring_costs_its_base_its_addresses_and_its_kick(
        kvm: None, back_ends: BackEnds, fleet: Fleet, image: Path, kind: str) -> None:  # noqa: F811
    queues = 4
    argument = "queues=4" if kind == "recorded" else queues
    ends = [getattr(back_ends, kind)(f"blk{number}", image, argument) for number in range(2)]
    sides = [options_of(end, program=",queues=all", disk=f",queues={queues}", extra=())
             for end in ends]
    source = working(fleet, **sides[0])
    there, calls = switched(fleet, source, "early", "m1", **sides[1])
    told = calls["destination"]
    # And whether all of them have been taken.
    assert told["vhost-calls"] == 3 * queues + 1, told
    assert told["vhost-tables"] == told["commits"] == 0 and told["route-commits"] <= 1, told
    assert calls["source"]["vhost-calls"] == queues
    wait_progress(there)
    assert_whole(there)


@pytest.mark.alone  # testpmd's core polls
@pytest.mark.parametrize("program", [",queues=all", ",idle=on"], ids=["all-used", "one-pair-used"])
def test_ring_of_a_card_costs_the_same_whether_it_is_used_or_not(
        kvm: None, back_ends: BackEnds, fleet: Fleet, folder: Path, program: str) -> None:
    pairs, cards = 2, 2
    sides = [cards_of(forwarder(back_ends, name, pairs, folder), program, f",queues={pairs}")
             for name in "ab"]
    source = fleet.start("m0", **sides[0])
    source.serial.wait_ticks(1)
    ops = wait_more(source, 0)
    there, calls = switched(fleet, source, "early", "m1", **sides[1])
    told = calls["destination"]
    assert told["vhost-calls"] == cards * (3 * 2 * pairs + 1), told
    assert calls["source"]["vhost-calls"] == cards * 2 * pairs
    wait_more(there, ops)
    assert_all_came_back(there)


def test_devices_that_change_in_the_rounds_are_built_before_the_switch(
        kvm: None, fleet: Fleet, folder: Path) -> None:
    """Each change goes out again, and those that came too late are made in one transaction."""
    every = test_churn.disk_machine(folder, "what=bars+msix")
    every["extra"] += ["--trace", "mig_setup_again"]
    source = fleet.start("m0", **every)
    source.serial.wait_ticks(20)
    there, uri = listening(fleet, "m1", **every)
    slow(source, test_churn.TRICKLE)
    start(source, uri)
    wait(source, 30, "active")
    test_churn.wait_rounds(source)
    source.qmp.command("migrate-set-parameters", max_bandwidth=0, downtime_limit=300)
    assert wait(source) == "completed", source.qmp.command("query-migrate")
    # The calls of the destination may have some of the guest's, which goes on there.
    assert source.qmp.command("query-migrate")["pause"]["switch-commits"] <= 1
    sent = re.findall(r"mig_setup_again.*", source.output)
    assert sent and len(re.findall(r"mig_setup_again.*", there.output)) == len(sent)
    test_churn.wait_changes(there, test_churn.CHANGES)
    assert test_churn.last_report(there)["errors"] == 0
