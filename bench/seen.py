# SPDX-License-Identifier: Apache-2.0
"""What a move did to its guest: the pause from outside, the rest as the guest saw it.

The pause is the gap in the serial output, from the last byte of the source to the
first of the destination.  Inside, it is the guest's longest gap by TSC from
`migrate` until AFTER_S after the switch, less the longest of an undisturbed time of
that length just before.  Lost work is the pages it did not stamp in that time, as
milliseconds of its undisturbed rate; a guest without `hot` does none.
"""
from __future__ import annotations

import time
from dataclasses import dataclass

from gap import GapReader

AFTER_S = 1.0
INTERVAL_MS = 10  # the guest's `interval` option


@dataclass
class Undisturbed:
    gap_us: int
    rate: float  # pages stamped in an interval


@dataclass
class Seen:
    pause_ms: float
    gap_ms: float        # the guest's longest, beyond undisturbed
    quiet_gap_ms: float  # the undisturbed time's longest
    lost_ms: float
    errors: int


def undisturbed(reader: GapReader) -> Undisturbed:
    """Watch the guest for as long as it will be watched after the move."""
    reader.send(0, "r")
    time.sleep(AFTER_S)
    rate = pages_per_interval(reader, AFTER_S)
    return Undisturbed(reader.report(0)["gap_us"], rate)


def forget_gaps(reader: GapReader) -> None:
    """The last thing before a move: printing the report above was one."""
    reader.send(0, "r")
    time.sleep(0.05)


def seen(reader: GapReader, before: Undisturbed, started: float) -> Seen:
    """Of a move whose command was given at @started (time.monotonic())."""
    reader.wait_first(1)
    source, destination = reader.stats()
    time.sleep(max(0.0, destination.first / 1e9 + AFTER_S - time.monotonic()))
    window = time.monotonic() - started
    _, work = reader.work(1)
    told = reader.report(1)

    rate, count = before.rate, round(window * 1000 / INTERVAL_MS)
    lost = sum(max(-rate, rate - pages) for pages in work[-count:]) if rate else 0.0
    return Seen(pause_ms=(destination.first - source.last) / 1e6,
                gap_ms=max(0, told["gap_us"] - before.gap_us) / 1e3,
                quiet_gap_ms=before.gap_us / 1e3,
                lost_ms=lost / rate * INTERVAL_MS if rate else 0.0,
                errors=told["errors"])


def pages_per_interval(reader: GapReader, seconds: float) -> float:
    _, work = reader.work(0)
    recent = work[-round(seconds * 1000 / INTERVAL_MS):]
    return sum(recent) / len(recent) if recent else 0.0
