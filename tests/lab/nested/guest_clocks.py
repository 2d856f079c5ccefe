# SPDX-License-Identifier: Apache-2.0
"""A guest's clocks against the one clock of all (clock.py), whatever it went through meanwhile."""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .lab import Lab
    from .linux import Traveller

LIMIT_NS = 1_000_000


@dataclass(frozen=True)
class Clocks:
    """A guest's clocks at one moment, and what time it truly was, within a bound."""
    true_ns: int
    bound_ns: int
    real_ns: int
    mono_ns: int
    tsc: int
    tsc_real_ns: int  # the guest's realtime when it read `tsc`
    cost: int         # of reading a clock, in TSC cycles


def read_clocks(lab: "Lab", traveller: "Traveller") -> Clocks:
    offset = lab.host(traveller.host).clock_offset()
    told = traveller.ask("clock")
    return Clocks(told["host"] - offset.ns, offset.bound_ns, told["real"], told["mono"],
                  told["tsc"], told["tsc_real"], told["cost"])


def assert_true_to(lab: "Lab", before: Clocks, after: Clocks) -> None:
    """Every clock advanced by the time that passed."""
    passed = after.true_ns - before.true_ns
    bound = before.bound_ns + after.bound_ns
    real = after.real_ns - before.real_ns - passed
    mono = after.mono_ns - before.mono_ns - passed
    tsc = round((after.tsc - before.tsc) * 1e6 / lab.tsc_khz) \
        - (after.tsc_real_ns - before.tsc_real_ns) + real
    print(f"after {passed / 1e6:.0f} ms, ahead by: realtime {real} ns, monotonic {mono} ns, "
          f"TSC {tsc} ns; within {bound} ns")
    assert max(abs(real), abs(mono), abs(tsc)) + bound < LIMIT_NS
