# SPDX-License-Identifier: Apache-2.0
"""One guest that reconfigures its devices and a vCPU at random, and moves again and again.

BARs move, decoding and bus mastering go off, vectors are reprogrammed, devices are
reset with other rings, RAM behind a BAR comes and goes, a vCPU comes and goes by INIT
and SIPI, all by the guest's own clock: before BUILT, in rounds, around the switch, after
it, and after moves that were cancelled or broken.  RAM is hashed on both sides.

$SEEDED_SEED and $SEEDED_KVM_MOVES repeat or change a run; the seed is printed.
"""
from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness import guest, injector
from harness.back_end import BackEnds
from harness.machine import Fleet, Machine
from harness.move import start, wait
from harness.scene import listening
from harness.travel import last_report, leave
from test_churn import SHMEM, TRICKLE, changes, wait_changes

MOVES = int(os.environ.get("SEEDED_KVM_MOVES", "40"))
# In the setup, in rounds, around the switch: where the guest is waited for to change something.
ENDINGS = ("moved",) * 12 + ("moved slowly",) * 2 + ("cancelled in the setup", "cancelled", "broken")
BROKEN = [  # and the guest stays
    *(("source", arc) for arc in ("setup-active", "active-device", "device-sent", "sent-ready")),
    *(("destination", arc) for arc in ("listening-building", "building-receiving",
                                       "receiving-stopped", "stopped-loading")),
]
WHAT = "bars+reset+msix+queues+shmem+command+cpus"
CHECK_EACH = 20  # moves between two checks of all sectors
QUICK = {"max_bandwidth": 0, "downtime_limit": 2000}  # a busy host's disk takes a second at times
SLOW = {"max_bandwidth": TRICKLE, "downtime_limit": 0, "max_cpu_throttle": 0}  # and without an end


class Journey:
    """The guest, wherever it is."""

    def __init__(self, fleet: Fleet, back_ends: BackEnds, folder: Path, seed: int) -> None:
        self.fleet, self.dice = fleet, random.Random(seed)
        self.number = 0
        self.endings: Counter[str] = Counter()
        self.late = 0  # moves in which something had changed behind the last round
        images = [folder / name for name in ("direct", "served")]
        for image in images:
            image.write_bytes(bytes(4 << 20))  # holes would wait for the file system's journal
        self.ends = [back_ends.recorded(f"end{number}", images[1], "queues=2")
                     for number in range(2)]
        options = [f"cpus=2,span=1M,queues=all,depth=8,churn=2ms,watch=5ms,tick=1ms,seed={seed}",
                   f"what={WHAT}", self.dice.choice(("msix=on", "msix=masked"))]
        self.common: dict[str, Any] = {
            "guest": "blk", "memory": "64M", "cpus": 3, "guest_options": ",".join(options)}
        self.extra = [*SHMEM, "--rng", "on", "--console", "null",
                      "--disk", f"path={images[0]},queues=2,direct=on"]
        self.machine = fleet.start("m0", **self.options(0))
        self.machine.serial.wait_line(r"ready\b")

    def options(self, side: int) -> dict[str, Any]:
        disk = f"vhost-user={self.ends[side].socket},queues=2"
        return {**self.common, "extra": [*self.extra, "--disk", disk]}

    def destination(self) -> tuple[Machine, str]:
        """With the back end that the source does not have."""
        self.number += 1
        self.side = 1 - getattr(self, "side", 0)
        return listening(self.fleet, f"m{self.number}", **self.options(self.side))

    def move(self) -> None:
        ending = self.dice.choice(ENDINGS)
        source = self.machine
        there, uri = self.destination()
        print(f"{there.name}: {ending}", flush=True)
        source.qmp.command("migrate-set-parameters", **QUICK)
        source.qmp.command("migrate-set-capabilities", capabilities=[
            {"capability": "verify", "state": True}])
        source.qmp.take_events()
        {"moved": self.let_go, "moved slowly": self.let_go_slowly, "cancelled": self.cancel,
         "cancelled in the setup": self.cancel_early, "broken": self.break_off,
         }[ending](source, there, uri)
        self.endings[ending] += 1
        assert not guest.complaints(source.serial)
        gone = there if self.machine is source else source
        if gone is there:  # its back end is free again
            self.side = 1 - self.side
            gone.kill()
            gone.wait_end()
            self.fleet.retire(gone)
        else:
            leave(self.fleet, gone)

    def arrived(self, source: Machine, there: Machine) -> None:
        assert wait(source) == "completed", source.qmp.command("query-migrate")
        info = source.qmp.command("query-migrate")
        assert info["verify"]["pages"] > 0, info
        self.late += info["pause"]["switch-commits"] > 0
        self.machine = there

    def stays(self, source: Machine, status: str) -> None:
        assert wait(source) == status, source.qmp.command("query-migrate")
        assert source.status == "running"
        wait_changes(source, 1)

    def let_go(self, source: Machine, there: Machine, uri: str) -> None:
        start(source, uri)
        self.arrived(source, there)

    def begin_slowly(self, source: Machine, uri: str) -> None:
        """In rounds, until the guest has changed something."""
        source.qmp.command("migrate-set-parameters", **SLOW)
        start(source, uri)
        wait(source, 30, "active")
        wait_changes(source, self.dice.randint(1, 3))

    def let_go_slowly(self, source: Machine, there: Machine, uri: str) -> None:
        self.begin_slowly(source, uri)
        source.qmp.command("migrate-set-parameters", **QUICK)
        self.arrived(source, there)

    def cancel(self, source: Machine, there: Machine, uri: str) -> None:
        self.begin_slowly(source, uri)
        source.qmp.command("migrate_cancel")
        self.stays(source, "cancelled")

    def cancel_early(self, source: Machine, there: Machine, uri: str) -> None:
        injector.arm(there, "listening-building", "stall")
        start(source, uri)
        injector.wait_broken(there, "listening-building", "stall")
        wait_changes(source, self.dice.randint(1, 3))
        source.qmp.command("migrate_cancel")
        self.stays(source, "cancelled")

    def break_off(self, source: Machine, there: Machine, uri: str) -> None:
        side, arc = self.dice.choice(BROKEN)
        injector.arm(source if side == "source" else there, arc, "close")
        start(source, uri)
        self.stays(source, "failed")


@pytest.mark.limit(900)
def test_guest_that_reconfigures_all_it_has_moves_often_and_is_whole(
        kvm: None, fleet: Fleet, back_ends: BackEnds, folder: Path) -> None:
    seed = int(os.environ.get("SEEDED_SEED", time.time_ns() % 1_000_000))
    print(f"SEEDED_SEED={seed} SEEDED_KVM_MOVES={MOVES}")
    journey = Journey(fleet, back_ends, folder, seed)
    for number in range(1, MOVES + 1):
        journey.move()
        if number % CHECK_EACH == 0:
            assert guest.ask(journey.machine.serial, request=b"v")["errors"] == 0
    wait_changes(journey.machine, 6)
    last = last_report(journey.machine)
    print(journey.endings, journey.late, last)
    assert min(changes(last).values()) > 0, last
