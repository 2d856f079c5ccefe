# SPDX-License-Identifier: Apache-2.0
"""What a guest's clocks do while it moves.

The measure is this machine's clock.  A nested host's realtime is compared with it through shared
memory (nested/clock.py), the guest's with its host's by one hypercall that reads both at the same
TSC (KVM_HC_CLOCK_PAIRING); so of all the layers between only microseconds are left, on however busy
a machine.  What is asserted is the difference across a move: the guest's clocks advance by the time
that truly passed.
"""
from __future__ import annotations

import time

import pytest

from harness import guest
from harness.machine import Machine
from nested.guest_clocks import LIMIT_NS, assert_true_to, read_clocks
from nested.lab import Lab
from nested.linux import Traveller
from nested.trace import Trace

# Beyond the pause and what it waits for its processors anyway, a guest waits for each page's first use
# in its new process.
WAIT_NS = 250_000_000
# A timer that is lost fires when something else wakes its processor, seconds later or never.
LATE_US = 1_000_000
UNDISTURBED_S = 2
KINDS = ("monotonic", "realtime", "sleep")
OTHER = {"a": "b", "b": "a"}
WAY = (False, True)  # on the same host, then to the other
AFTER_MS = (8_000, 16_000, 64_000)


@pytest.mark.parametrize("is_far", [False, True], ids=["same-host", "other-host"])
def test_clocks_advance_by_the_time_that_passed(lab: Lab, traveller: Traveller, is_far: bool) -> None:
    for _ in range(2):
        before = read_clocks(lab, traveller)
        traveller.move(OTHER[traveller.host] if is_far else "")
        assert_true_to(lab, before, read_clocks(lab, traveller))


def test_lesson_guest_time_is_not_behind_by_the_pause(lab: Lab, traveller: Traveller) -> None:
    """KVM_CLOCK_REALTIME dropped: guest time is behind by the pause (CH 8256)."""
    traveller.work()
    traveller.machine.qmp.command("migrate-set-parameters", max_bandwidth=64 << 20)
    before = read_clocks(lab, traveller)
    moved = traveller.move()
    assert moved.info["downtime"] * 1_000_000 > 100 * LIMIT_NS
    assert_true_to(lab, before, read_clocks(lab, traveller))


def test_lesson_tsc_is_written_once_so_the_master_clock_stays(lab: Lab, traveller: Traveller) -> None:
    """The TSC written twice: the guest's clock reads 18 times slower (CH 8383)."""
    before = read_clocks(lab, traveller)
    called = traced_move(lab, traveller)
    offsets = [call for call in called if call.startswith("tsc-offset")]
    assert sorted(offsets) == [f"tsc-offset vcpu={cpu}" for cpu in range(traveller.cpus)]
    # Without the master clock the guest's clock is a system call, not a read of the TSC.
    assert read_clocks(lab, traveller).cost < 3 * before.cost


def test_lesson_clock_is_not_set_while_vcpus_run(lab: Lab, traveller: Traveller) -> None:
    """KVM_SET_CLOCK under running vCPUs: Windows-like guests are dead for minutes (CH 7930)."""
    called = traced_move(lab, traveller)
    assert called.count("set-clock") == 1
    assert called.index("set-clock") < called.index("run")


def traced_move(lab: Lab, traveller: Traveller) -> list[str]:
    """What the process that takes the guest in does about clocks, up to its first runs."""
    traces: list[Trace] = []

    def begin(machine: Machine) -> None:
        traces.append(Trace(lab.host(traveller.host), machine.process.pid))

    traveller.move(once_ready=begin)
    return traces[0].end()


@pytest.mark.parametrize("is_far", [False, True], ids=["same-host", "other-host"])
def test_clocks_step_only_by_the_pause_and_never_back(lab: Lab, traveller: Traveller, is_far: bool
                                                      ) -> None:
    traveller.tell("watch 1")
    traveller.ask("steps")
    time.sleep(UNDISTURBED_S)
    undisturbed = traveller.ask("steps")
    moved = traveller.move(OTHER[traveller.host] if is_far else "")
    steps = traveller.ask("steps")
    traveller.tell("watch 0")
    pause_ns = moved.info["downtime"] * 1_000_000
    tsc_ns = round(steps["tsc"] * 1e6 / lab.tsc_khz)
    print(f"pause {pause_ns / 1e6:.1f} ms, largest steps: monotonic {steps['mono'] / 1e6:.1f} ms, "
          f"realtime {steps['real'] / 1e6:.1f} ms, TSC {tsc_ns / 1e6:.1f} ms; "
          f"undisturbed {undisturbed['mono'] / 1e6:.1f} ms")
    assert undisturbed["back"] == 0 and steps["back"] == 0
    assert max(steps["mono"], steps["real"], tsc_ns) < pause_ns + undisturbed["mono"] + WAIT_NS


def test_timers_set_before_two_moves_fire(traveller: Traveller) -> None:
    """On the same host and to the other, while each processor sleeps with three of them pending and
    nothing else wakes it (Kata 13798)."""
    assert tickers(traveller) == traveller.cpus * ["lapic-deadline"]  # by IA32_TSC_DEADLINE
    count = len(KINDS) * traveller.cpus
    # Due after the moves, however slow this machine is.
    for after_ms in AFTER_MS:
        sources, known = [], len(fired(traveller.machine))
        set_at = time.monotonic()
        traveller.tell(f"timers {after_ms}")
        for is_far in WAY:
            sources.append(traveller.machine)
            traveller.move(OTHER[traveller.host] if is_far else "")
        early = sum(len(fired(source)) for source in sources) - known
        is_overdue = time.monotonic() - set_at > after_ms / 1000  # and may be late by the pause
        here = traveller.machine
        here.serial.wait(lambda: early + len(fired(here)) >= count, f"{count} timers",
                         after_ms / 1000 + LATE_US / 1e6 + 10)
        if not early and not is_overdue:
            break
    assert not early and not is_overdue
    found = fired(here)
    assert {(timer.members["kind"], timer["cpu"]) for timer in found} == \
        {(kind, cpu) for kind in KINDS for cpu in range(traveller.cpus)}
    late = [timer["late_us"] for timer in found]
    print(f"late by {min(late)} to {max(late)} us")
    assert len(found) == count and min(late) >= 0 and max(late) < LATE_US


def tickers(traveller: Traveller) -> list[str]:
    """What wakes each processor for its timers."""
    traveller.tell("tickers")
    return [traveller.machine.serial.wait_line(rf"ticker cpu={cpu}\b").rpartition("=")[2]
            for cpu in range(traveller.cpus)]


def fired(machine: Machine) -> list[guest.Report]:
    return [guest.parse(line) for _, line in machine.serial.lines if line.startswith("timer")]
