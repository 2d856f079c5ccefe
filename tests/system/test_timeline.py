# SPDX-License-Identifier: Apache-2.0
"""The pause on one line of time, and the guest's own clock beside it."""
from __future__ import annotations

import contextlib
import itertools
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from harness import guest
from harness.machine import Fleet, Machine, run
from harness.move import move
from harness.scene import listening, pair, working
from harness.travel import leave

pytestmark = pytest.mark.alone  # it compares times

NEAR_US = 100.0
TICK_US = 1000.0
IDLE = {"memory": "64M", "cpus": 1, "guest_options": "hot=0,tick=1ms,poll=5ms"}
MOVES, MOVES_MAX = 9, 40  # with free CPUs, of so many
PRINTED_S = 0.06  # a report, at most: an exit a byte
# A vCPU has a CPU at once, here and there: 0.1 ms for each that begins, and 50 ms where the kernel
# lets nobody have a CPU for good.
FREE_US = 500.0
BUSY = 2.5  # load for each CPU; the test itself makes about 1
WAITING = ("wait-ready", "wait-running")  # the line has what took that time


@dataclass(frozen=True)
class Seen:
    """The pause of one move: by the line, by the guest's TSC (inf: other gaps were longer), and in
    its serial output."""
    line: dict[str, Any] | None
    phases: dict[str, float]
    guest_us: float
    serial_us: float
    waited_us: float  # for a CPU: the guest's first vCPU, on both sides
    near_us: float  # what it may be off by

    @property
    def is_free(self) -> bool:
        return self.waited_us < FREE_US

    def less_line(self, us: float) -> float:
        return round(us - self.line["gap-us"], 1) if self.line else float("inf")


@dataclass(frozen=True)
class GuestClock:
    """The guest's TSC was @tsc at @at_ns of this host's clock, or up to PRINTED_S before that."""
    at_ns: int
    tsc: int
    khz: int
    byte_us: float  # that it takes to print one: a few exits

    @classmethod
    def read(cls, machine: Machine) -> GuestClock:
        since = len(machine.serial.lines)

        def reports() -> list[tuple[int, str]]:
            return [told for told in machine.serial.lines[since:] if told[1].startswith("report")]

        machine.serial.send(b"gg")
        machine.serial.wait(lambda: len(reports()) == 2, "two reports", guest.TIMEOUT_S)
        (first_ns, _), (at_ns, line) = reports()
        report = guest.parse(line)
        return cls(at_ns, report["tsc"], report["tsc_khz"],
                   (at_ns - first_ns) / 1000 / (len(line) + 1))

    def longest_gap_us(self, machine: Machine, begin_ns: int) -> float:
        """Of those that may have begun at @begin_ns."""
        guest.ask(machine.serial, kind="gaps")
        line = next(line for _, line in machine.serial.lines if line.startswith("gaps"))
        early = self.tsc + (begin_ns - self.at_ns) * self.khz // 10 ** 6 - self.khz
        late = early + int(self.khz * (1 + PRINTED_S * 1e3))
        gaps = [gap.split("@") for gap in line.split()[1:]]
        return max((float(us) for us, tsc, _ in gaps if early <= int(tsc) <= late),
                   default=float("inf"))


@pytest.fixture(autouse=True)
def before_others() -> Iterator[None]:
    """A guest that waits for a CPU measures the scheduler: all that is started here has one before
    anything else has.  Without the right to, it goes on without."""
    policy, before = os.sched_getscheduler(0), os.sched_getparam(0)
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    yield
    os.sched_setscheduler(0, policy, before)


def waited_us(machine: Machine) -> float:
    """What the first vCPU's thread waited for a CPU so far."""
    for task in Path(f"/proc/{machine.process.pid}/task").iterdir():
        with contextlib.suppress(OSError):  # others end
            if (task / "comm").read_text() == "vcpu0\n":
                return int((task / "schedstat").read_text().split()[1]) / 1000
    raise AssertionError("no vCPU")


def moves(fleet: Fleet, is_verified: bool = False, **options: Any) -> Iterator[Seen]:
    """A guest goes from machine to machine."""
    options = options or IDLE
    here = working(fleet, **options)
    for number in range(MOVES_MAX):
        there, uri = listening(fleet, f"to{number}", **options)
        here.qmp.command("migrate-set-capabilities",
                         capabilities=[{"capability": "verify", "state": is_verified}])
        clock = GuestClock.read(here)
        here.serial.send(b"r")  # it forgets its gaps at the next poll
        here.serial.wait_ticks(10)
        waited = waited_us(here) + waited_us(there)
        moved = move(here, there, uri)
        assert moved.status == "completed"
        waited = waited_us(here) + waited_us(there) - waited
        line = moved.info["pause"].get("timeline")
        guest_us = clock.longest_gap_us(there, line["begin-ns"]) if line else float("inf")
        phases = {phase["name"]: phase["us"] for phase in moved.info["pause"]["phases"]}
        yield Seen(line, phases, guest_us, moved.pause_ns / 1000, waited,
                   max(NEAR_US, clock.byte_us))
        leave(fleet, here)
        here = there


def lines(fleet: Fleet, count: int, **options: Any) -> list[Seen]:
    """The first moves that have a line; a busy host may have others."""
    return list(itertools.islice((seen for seen in moves(fleet, **options) if seen.line), count))


def assert_near(found: Iterator[Seen], clock: Callable[[Seen], float], low: float,
                high: Callable[[Seen], float]) -> None:
    """In a third of the moves in which the guest had its CPU when it wanted it: who else is at work
    only makes the gap longer.  One of these without a line is as bad as one with a wrong line."""
    less, all_waited, at_most = [], [], 0.0
    for seen in found:
        all_waited.append(round(seen.waited_us))
        at_most = max(at_most, high(seen))
        if seen.is_free:
            less.append(seen.less_line(clock(seen)))
        if len(less) == MOVES:
            break
    load = os.getloadavg()[0]
    told = f"gap less the line, us: {sorted(less)}, at most {at_most:.0f}; waited for a CPU, us: {sorted(all_waited)}"
    if len(less) < MOVES:
        pytest.skip(f"this machine has other work, load {load}; {told}")
    third = sorted(less)[MOVES // 3]
    is_near = low <= third <= at_most
    # What others do slows down what a vCPU does on a CPU of its own, too; it takes no line away.
    if not is_near and third < float("inf") and load > BUSY * (os.cpu_count() or 1):
        pytest.skip(f"this machine has other work, load {load}; {told}")
    assert is_near, told


def assert_whole(line: dict[str, Any]) -> None:
    at = 0.0
    for part in line["parts"]:
        assert 0 <= part["begin-us"] < part["end-us"] <= line["gap-us"] + 0.01, line
        if not part["beside"]:
            assert part["begin-us"] == pytest.approx(at, abs=0.01), line
            at = part["end-us"]
    assert at == pytest.approx(line["gap-us"], abs=0.01)


def assert_complete(seen: Seen) -> None:
    """Each phase is on the line, as long as it was; of the destination's start what is before the
    first entry, and what comes meanwhile (`dst-receive`) as often as it does."""
    assert seen.line
    on_line: Counter[str] = Counter()
    for part in seen.line["parts"]:
        on_line[part["name"]] += part["end-us"] - part["begin-us"]
    assert seen.line["parts"][0]["name"] == "stop-vcpus"
    for name, us in seen.phases.items():
        if name in WAITING:
            assert name not in on_line, seen
        elif name == "dst-start":
            assert on_line[name] > 0, seen
        elif name != "dst-receive":
            assert on_line[name] == pytest.approx(us, abs=0.1), (name, seen)


def disks(folder: Path) -> dict[str, Any]:
    extra = []
    for number in range(4):
        image = folder / f"image{number}"
        image.write_bytes(bytes(1 << 20))
        extra += ["--disk", f"path={image}"]
    # One that looks at the clock all the time; on two CPUs there is room for no other.
    return {"guest": "blk", "memory": "64M", "cpus": 4, "extra": extra,
            "guest_options": "cpus=1,span=1M,depth=1,rate=200,tick=1ms,poll=5ms"}


def test_line_is_as_long_as_the_gap_by_the_guests_own_clock(fleet: Fleet, kvm: None) -> None:
    """Longer by what KVM maps as the guest begins, which takes some exits: 0.1 ms, or where those
    are dear no more than to print one byte; shorter where the migration's thread lost its CPU
    between a look at the clock and what it looked for."""
    assert_near(moves(fleet), lambda seen: seen.guest_us, -NEAR_US / 2, lambda seen: seen.near_us)


def test_line_with_vcpus_and_disks_is_as_long_as_the_gap_by_the_guests_own_clock(
        fleet: Fleet, kvm: None, folder: Path) -> None:
    """It ends when the first vCPU enters, which need not be the one that looks at its clock."""
    options = disks(folder)
    assert_near(moves(fleet, **options), lambda seen: seen.guest_us, -NEAR_US / 2,
                lambda seen: seen.near_us * options["cpus"])


def test_line_is_as_long_as_the_gap_in_the_serial_output(fleet: Fleet) -> None:
    """From the last tick before it, up to one tick ago, to the first one after it, which comes at
    once."""
    assert_near(moves(fleet), lambda seen: seen.serial_us, -NEAR_US, lambda seen: TICK_US + 2 * seen.near_us)


def test_line_has_all_phases_as_long_as_they_were(fleet: Fleet) -> None:
    for seen in lines(fleet, 5):
        assert_complete(seen)


def test_line_with_vcpus_and_disks_has_all_phases_as_long_as_they_were(
        fleet: Fleet, kvm: None, folder: Path) -> None:
    for seen in lines(fleet, 5, **disks(folder)):
        assert_complete(seen)


def test_parts_of_both_sides_and_the_link_fill_the_line(fleet: Fleet) -> None:
    found = [seen.line for seen in lines(fleet, 3)]
    for line in found:
        assert_whole(line)
        parts = {(part["side"], part["name"]) for part in line["parts"]}
        assert {("source", "stop-vcpus"), ("source", "save-state"), ("destination", "dst-load"),
                ("link", "ready-flight"), ("link", "go-flight"),
                ("destination", "dst-start")} <= parts
    assert len(found) == 3


def test_clocks_of_one_host_are_found_to_agree(fleet: Fleet) -> None:
    errors = []
    for seen in lines(fleet, 5):
        assert abs(seen.line["clock-offset-us"]) <= seen.line["clock-error-us"] + 0.01, seen
        errors.append(seen.line["clock-error-us"])
    assert min(errors) < NEAR_US


def test_hashing_in_the_pause_is_on_the_line(fleet: Fleet) -> None:
    line = lines(fleet, 1, is_verified=True)[0].line
    assert_whole(line)
    assert ("source", "verify") in {(part["side"], part["name"]) for part in line["parts"]}


def test_paused_guest_has_no_line(fleet: Fleet) -> None:
    source, destination, uri = pair(fleet, **IDLE)
    source.qmp.command("stop")
    moved = move(source, destination, uri, is_silent=True)
    assert moved.status == "completed" and "timeline" not in moved.info["pause"]
    assert moved.info["pause"]["phases"]


def test_command_line_draws_a_bar_for_each_part(fleet: Fleet) -> None:
    here, line = working(fleet, **IDLE), None
    for number in range(MOVES):  # on a busy machine some have no line
        there, uri = listening(fleet, f"to{number}", **IDLE)
        told = run("migrate", "--qmp", f"unix:{here.qmp_path}", uri)
        assert told.returncode == 0, told.stderr
        line = here.qmp.command("query-migrate")["pause"].get("timeline")
        there.serial.wait_ticks(10)
        if line:
            break
        here = there
    assert line
    parts = line["parts"]
    drawn = [line for line in told.stdout.splitlines() if line.endswith("|")]
    assert len(drawn) == len(parts)
    for line, part in zip(drawn, parts):
        side, name, _, _, bar = line.split(maxsplit=4)
        assert (side, name) == (part["side"], part["name"])
        assert len(bar) == 62 and set(bar[1:-1]) <= {" ", "-" if part["beside"] else "#"}
        assert bar.strip("| ")
    # Each begins where the one before it ended, a column more or less.
    waited = [line.split(maxsplit=4)[4] for line in drawn if "#" in line]
    for before, after in itertools.pairwise(waited):
        assert abs(after.index("#") - before.rindex("#")) <= 2
