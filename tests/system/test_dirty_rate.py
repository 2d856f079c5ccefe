# SPDX-License-Identifier: Apache-2.0
"""calc-dirty-rate, against what the guest says of itself."""
from __future__ import annotations

import time
from typing import Any

import pytest

from harness import guest
from harness.machine import Fleet, Machine, runs_code
from harness.move import move
from harness.qmp import QmpError

pytestmark = pytest.mark.alone  # it compares rates

CPUS = 2
LOG, RING = "dirty-bitmap", "dirty-ring"
KIND = "kvm" if runs_code() else "sim"
MODES = ["page-sampling", LOG, RING]
# 8,000 pages a second, each other than those of the 4 s before: 31 MiB/s.
STEADY = "hot=128M,rate=8000,pattern=seq,tick=1ms"


def options(mode: str, guest_options: str = STEADY) -> dict[str, Any]:
    return {"cpus": CPUS, "guest_options": guest_options,
            "extra": ["--accel", f"{KIND},dirty=ring"] if mode == RING else []}


@pytest.fixture
def machine(fleet: Fleet) -> Machine:
    return ready(fleet.start(**options(LOG)))


def ready(machine: Machine) -> Machine:
    machine.serial.wait_ticks(50)
    return machine


def measure(machine: Machine, mode: str, seconds: int = 1, **more: Any) -> dict[str, Any]:
    machine.qmp.command("calc-dirty-rate", calc_time=seconds, mode=mode, **more)
    told = machine.qmp.command("query-dirty-rate")
    assert (told["status"], told["mode"], told["calc-time"]) == ("measuring", mode, seconds)
    assert "dirty-rate" not in told
    return finished(machine)


def finished(machine: Machine) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while (told := machine.qmp.command("query-dirty-rate"))["status"] == "measuring":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return told


def written(machine: Machine) -> int:
    return guest.ask(machine.serial)["pages"]


@pytest.mark.parametrize("mode", MODES)
def test_rate_is_what_the_guest_writes(fleet: Fleet, mode: str) -> None:
    machine = ready(fleet.start(**options(mode)))
    more = {"sample_pages": 16384} if mode == "page-sampling" else {}
    pages, start = written(machine), time.monotonic()
    told = measure(machine, mode, **more)
    truth = (written(machine) - pages) / (time.monotonic() - start) * 4096 / (1 << 20)
    print(f"measured {told['dirty-rate']} MiB/s, the guest says {truth:.1f}")
    assert told["status"] == "measured"
    assert told["dirty-rate"] == pytest.approx(truth, rel=0.35)  # it is not the same moment


@pytest.mark.parametrize("mode", [LOG, RING])
def test_vcpus_have_their_shares(fleet: Fleet, mode: str) -> None:
    told = measure(ready(fleet.start(**options(mode))), mode)
    shares = {vcpu["id"]: vcpu["dirty-rate"] for vcpu in told["vcpu-dirty-rate"]}
    assert set(shares) == set(range(CPUS)) and min(shares.values()) > 0
    # Rounded down, each.  Faults of pages that were not mapped any more count as well.
    assert sum(shares.values()) == pytest.approx(told["dirty-rate"], rel=0.2, abs=CPUS + 1)


@pytest.mark.parametrize("mode", [LOG, RING])
def test_vcpu_that_only_reads_has_no_rate(fleet: Fleet, mode: str) -> None:
    machine = ready(fleet.start(**options(mode, "hot=16M,rate=max,writers=1,tick=1ms")))
    told = measure(machine, mode)
    shares = {vcpu["id"]: vcpu["dirty-rate"] for vcpu in told["vcpu-dirty-rate"]}
    print(shares)
    # Each of the writer's pages once; the reader's stack and clock.
    assert shares[0] > 0 and shares[1] <= 1


@pytest.mark.parametrize("mode", MODES)
def test_idle_guest_writes_nothing(fleet: Fleet, mode: str) -> None:
    machine = ready(fleet.start(**options(mode, "hot=0,tick=10ms")))
    told = measure(machine, mode, seconds=1)
    assert told["status"] == "measured" and told["dirty-rate"] == 0


def test_holes_stay_holes(fleet: Fleet) -> None:
    """What the guest never touched is not memory because somebody looked."""
    machine = ready(fleet.start(memory="4G", guest_options="hot=1M,rate=100,tick=1ms"))

    def resident() -> int:
        with open(f"/proc/{machine.process.pid}/smaps_rollup", encoding="ascii") as file:
            return int(next(line for line in file if line.startswith("Rss:")).split()[1])

    before = resident()
    measure(machine, "page-sampling", seconds=1, sample_pages=16384)
    assert resident() - before < 2048


def test_milliseconds(machine: Machine) -> None:
    machine.qmp.command("calc-dirty-rate", calc_time=100, calc_time_unit="millisecond", mode=LOG)
    assert finished(machine)["calc-time"] == 0
    told = machine.qmp.command("query-dirty-rate", calc_time_unit="millisecond")
    assert (told["calc-time"], told["calc-time-unit"]) == (100, "millisecond")


@pytest.mark.parametrize("mode", MODES)
def test_migration_ends_a_measurement_and_goes_well(fleet: Fleet, mode: str) -> None:
    told = options(mode, "hot=32M,rate=max,verify=on,tick=1ms")
    source = ready(fleet.start("source", **told))
    uri = f"unix:{fleet.folder}/move"
    destination = fleet.start("destination", incoming=uri, **told)
    source.qmp.command("calc-dirty-rate", calc_time=60, mode=mode)
    moved = move(source, destination, uri)
    assert moved.status == "completed", moved.info
    told = source.qmp.command("query-dirty-rate")
    assert told["status"] == "unstarted" and "migration" in told["error-desc"]
    assert guest.ask(destination.serial, request=b"v")["errors"] == 0
    with pytest.raises(QmpError, match="postmigrate"):
        source.qmp.command("calc-dirty-rate", calc_time=1)
    assert measure(destination, mode, seconds=1)["dirty-rate"] > 0


def test_machine_ends_while_it_is_measured(machine: Machine) -> None:
    machine.qmp.command("calc-dirty-rate", calc_time=60, mode=LOG)
    machine.qmp.command("quit")
    assert machine.wait_end() == 0


@pytest.mark.parametrize("arguments, told", [
    ({}, "'calc-time' is missing"),
    ({"calc_time": 0}, "calc-time of 0 ms"),
    ({"calc_time": 61}, "calc-time of 61000 ms"),
    ({"calc_time": 1 << 62}, "calc-time of"),
    ({"calc_time": 1, "calc_time_unit": "day"}, "does not accept value 'day'"),
    ({"calc_time": 1, "mode": "guess"}, "does not accept value 'guess'"),
    ({"calc_time": 1, "sample_pages": 127}, "sample-pages of 127"),
    ({"calc_time": 1, "sample_pages": 512, "mode": LOG}, "page-sampling only"),
    ({"calc_time": 1, "mode": RING}, "no dirty rings"),
])
def test_wrong_arguments_are_refused(machine: Machine, arguments: dict, told: str) -> None:
    with pytest.raises(QmpError, match=told):
        machine.qmp.command("calc-dirty-rate", **arguments)
    assert machine.qmp.command("query-dirty-rate")["status"] == "unstarted"


def test_one_at_a_time(machine: Machine) -> None:
    machine.qmp.command("calc-dirty-rate", calc_time=60)
    with pytest.raises(QmpError, match="measured already"):
        machine.qmp.command("calc-dirty-rate", calc_time=1)
