# SPDX-License-Identifier: Apache-2.0
"""set-vcpu-dirty-limit: what vCPUs may write, set by the operator."""
from __future__ import annotations

import statistics
import time
from typing import Any

import pytest

from harness import guest
from harness.machine import Fleet, Machine
from harness.move import move, wait
from harness.qmp import QmpError
from harness.scene import assert_works, endless

CPUS = 2
ACCELS = ["kvm", "kvm,dirty=ring", "sim", "sim,dirty=ring"]
# Rewritten as fast as it can: some hundred MiB are dirtied each second.
HEAVY = "hot=512M,rate=max,tick=1ms"
# MiB a second: more than a vCPU writes that has a hundredth of a processor.
LIMIT, LIMIT_FOR_SIM = 40, 200


def options(accelerator: str) -> dict[str, Any]:
    return {"cpus": CPUS, "memory": "1G", "guest_options": HEAVY,
            "extra": ["--accel", accelerator]}


@pytest.fixture(params=ACCELS)
def accelerator(request: pytest.FixtureRequest) -> str:
    if request.param.startswith("kvm"):
        request.getfixturevalue("kvm")
    return request.param


@pytest.fixture
def limit(accelerator: str) -> int:
    return LIMIT if accelerator.startswith("kvm") else LIMIT_FOR_SIM


@pytest.fixture
def machine(fleet: Fleet, accelerator: str) -> Machine:
    machine = fleet.start(**options(accelerator))
    machine.serial.wait_ticks(50)
    return machine


def query(machine: Machine) -> dict[int, dict[str, int]]:
    return {vcpu["cpu-index"]: vcpu for vcpu in machine.qmp.command("query-vcpu-dirty-limit")}


def wait_rate(machine: Machine, vcpu: int, limit: int, least: int = 1) -> None:
    deadline = time.monotonic() + 30
    while not least <= query(machine)[vcpu]["current-rate"] <= 2 * limit:
        assert time.monotonic() < deadline, query(machine)
        time.sleep(0.2)


def test_limit_holds_one_vcpu_and_not_the_other(machine: Machine, limit: int) -> None:
    assert query(machine) == {}
    machine.qmp.command("set-vcpu-dirty-limit", cpu_index=1, dirty_rate=limit)
    told = query(machine)
    assert [told[i]["limit-rate"] for i in range(CPUS)] == [0, limit]
    wait_rate(machine, 1, limit)
    for _ in range(5):  # one that is held as well would differ now and then, not by its median
        told = []
        for _ in range(3):
            time.sleep(1.1)  # rates are measured each second
            told.append([query(machine)[vcpu]["current-rate"] for vcpu in range(CPUS)])
        free, held = (statistics.median(rates) for rates in zip(*told))
        if free > 1.1 * held:
            break
    assert free > 1.1 * held, told
    machine.qmp.command("cancel-vcpu-dirty-limit", cpu_index=1)
    assert query(machine) == {}
    assert_works(machine)


def test_limit_without_an_index_is_for_all(machine: Machine, limit: int) -> None:
    machine.qmp.command("set-vcpu-dirty-limit", dirty_rate=limit)
    assert {vcpu["limit-rate"] for vcpu in query(machine).values()} == {limit}
    for vcpu in range(CPUS):
        wait_rate(machine, vcpu, limit)
    machine.qmp.command("set-vcpu-dirty-limit", cpu_index=0, dirty_rate=0)  # QEMU's way to cancel
    assert query(machine)[0]["limit-rate"] == 0
    machine.qmp.command("cancel-vcpu-dirty-limit")
    assert query(machine) == {}
    machine.qmp.command("cancel-vcpu-dirty-limit")  # of nothing
    assert_works(machine)


def test_rate_is_measured_beside_a_limit(machine: Machine, accelerator: str, limit: int) -> None:
    machine.qmp.command("set-vcpu-dirty-limit", dirty_rate=limit)
    for vcpu in range(CPUS):
        wait_rate(machine, vcpu, limit)
    mode = "dirty-ring" if "ring" in accelerator else "dirty-bitmap"
    # One second of a busy machine may be far from the limit, as any of wait_rate()'s.
    rates = [measure_rate(machine, mode)]
    while rates[-1] > 2 * CPUS * limit and len(rates) < 8:
        rates.append(measure_rate(machine, mode))
    assert rates[-1] <= 2 * CPUS * limit, rates
    wait_rate(machine, 0, limit)  # it has the log again


def measure_rate(machine: Machine, mode: str) -> int:
    machine.qmp.command("calc-dirty-rate", calc_time=1, mode=mode)
    deadline = time.monotonic() + 20
    while (told := machine.qmp.command("query-dirty-rate"))["status"] == "measuring":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert told["status"] == "measured", told
    return told["dirty-rate"]


def test_limited_guest_moves_whole_and_is_free_there(fleet: Fleet, machine: Machine,
                                                     accelerator: str, limit: int) -> None:
    machine.qmp.command("set-vcpu-dirty-limit", dirty_rate=limit)
    wait_rate(machine, 0, limit)
    uri = f"unix:{fleet.folder}/move"
    destination = fleet.start("destination", incoming=uri, **options(accelerator))
    moved = move(machine, destination, uri)
    assert moved.status == "completed", moved.info
    assert query(destination) == {}
    assert guest.ask(destination.serial, request=b"v")["errors"] == 0
    with pytest.raises(QmpError, match="postmigrate"):
        machine.qmp.command("set-vcpu-dirty-limit", dirty_rate=limit)


def test_limit_may_be_set_during_a_migration_and_outlives_it(fleet: Fleet) -> None:
    source, _ = endless(fleet)
    source.qmp.command("set-vcpu-dirty-limit", cpu_index=0, dirty_rate=LIMIT)
    source.qmp.command("migrate_cancel")
    assert wait(source) == "cancelled"
    wait_rate(source, 0, LIMIT)
    assert_works(source)


def test_held_machine_stops_goes_on_and_ends(machine: Machine, limit: int) -> None:
    machine.qmp.command("set-vcpu-dirty-limit", dirty_rate=1)
    wait_rate(machine, 0, limit, least=0)
    for _ in range(20):
        machine.qmp.command("stop", timeout_s=5)
        machine.qmp.command("cont", timeout_s=5)
    machine.serial.wait_ticks(20)
    machine.qmp.command("quit")
    assert machine.wait_end() == 0


@pytest.mark.parametrize("command, arguments, told", [
    ("set-vcpu-dirty-limit", {}, "'dirty-rate' is missing"),
    ("set-vcpu-dirty-limit", {"dirty_rate": -1}, "dirty-rate"),
    ("set-vcpu-dirty-limit", {"dirty_rate": "much"}, "dirty-rate"),
    ("set-vcpu-dirty-limit", {"dirty_rate": 1 << 32}, "at most 4294967295"),
    ("set-vcpu-dirty-limit", {"dirty_rate": (1 << 63) - 1}, "at most 4294967295"),
    ("set-vcpu-dirty-limit", {"dirty_rate": 1, "cpu_index": CPUS}, "incorrect cpu index"),
    ("set-vcpu-dirty-limit", {"dirty_rate": 1, "cpu_index": 1 << 40}, "incorrect cpu index"),
    ("set-vcpu-dirty-limit", {"dirty_rate": 1, "cpu_index": -1}, "cpu-index"),
    ("set-vcpu-dirty-limit", {"dirty_rate": 1, "cpu_index": "all"}, "cpu-index"),
    ("set-vcpu-dirty-limit", {"dirty_rate": 1, "vcpu": 0}, "'vcpu' is unexpected"),
    ("cancel-vcpu-dirty-limit", {"cpu_index": CPUS}, "incorrect cpu index"),
    ("cancel-vcpu-dirty-limit", {"dirty_rate": 1}, "'dirty-rate' is unexpected"),
    ("query-vcpu-dirty-limit", {"cpu_index": 0}, "'cpu-index' is unexpected"),
])
def test_wrong_arguments_are_refused(fleet: Fleet, command: str, arguments: dict, told: str) -> None:
    machine = fleet.start(cpus=CPUS)
    with pytest.raises(QmpError, match=told):
        machine.qmp.command(command, **arguments)
    assert query(machine) == {}


def test_machine_that_waits_for_its_guest_takes_no_limit(fleet: Fleet) -> None:
    machine = fleet.start(incoming=f"unix:{fleet.folder}/move").ready()
    with pytest.raises(QmpError, match="inmigrate"):
        machine.qmp.command("set-vcpu-dirty-limit", dirty_rate=1)
    machine.qmp.command("cancel-vcpu-dirty-limit")
