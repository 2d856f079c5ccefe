# SPDX-License-Identifier: Apache-2.0
"""Debian's kernel as a guest, with tests/lab/guest as its only program."""
from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from harness import guest
from harness.machine import Machine
from harness.move import Move, move, start, wait

from . import emulator
from .cpio import Archive
from .packages import Packages
from .verdict import must_be_right, must_have_moved

if TYPE_CHECKING:
    from .fleets import Fleets

MODULES = ("ptp_kvm",)
KERNELS = {"vmlinux": "/lab/vmlinux", "bzImage": "/lab/bzImage"}
INITRD = "/lab/guest.cpio"
# Only a panic may come between the lines of the guest's program.
COMMAND_LINE = "console=ttyS0 loglevel=1 panic=-1 mitigations=off cryptomgr.notests=1"
# What hashing 8 MiB that follow from its seed must give (guest/load.c).
STEADY_HASH = "eea2669fc13ac105"
ADDRESSES = {"a": "10.7.0.1", "b": "10.7.0.2"}
PORT = 4000
WORK_MIB = 2  # a processor
BOOT_S, ASK_S, DOWNTIME_MS = 60.0, 30.0, 10_000
LOOK_S = 0.1  # between two questions, each of which takes of what the guest works with


def initrd(packages: Packages, program: Path) -> bytes:
    archive = Archive()
    archive.copy(program, "/init")
    archive.device("/dev/console", 5, 1)
    modules = packages.modules(*MODULES)
    for module in modules:
        archive.copy(module, f"/{module.name}")
    archive.file("/modules", "".join(f"/{module.name}\n" for module in modules).encode())
    return archive.pack()


def options(kernel: str, cpus: int = 1, memory: str = "128M", initrd: str = INITRD,
            **more: Any) -> dict[str, Any]:
    """For Fleet.start(); the same for a source and its destination."""
    append = COMMAND_LINE if emulator.has_xsave() else f"{COMMAND_LINE} noxsave"
    return {"memory": memory, "cpus": cpus, "guest_options": None, **more,
            "extra": ["--kernel", KERNELS[kernel], "--initrd", initrd, "--append", append]}


class Traveller:
    """A guest that goes from process to process, on one host or between two.

    It outlives the tests that use it: each finds it well, and leaves it so.  Only a failed test, with
    which its host ended, or one that ended it has the next one boot another.
    """

    def __init__(self, fleets: "Fleets", kernel: str, **told: Any) -> None:
        self._fleets, self._options = fleets, options(kernel, **told)
        self._kernel, self._count = kernel, 0
        self._has_work = False
        self._generation = -1  # of the hosts that it was booted in
        self.cpus: int = self._options["cpus"]
        self.host, self.machine = "", None

    def ready(self, host: str = "a") -> "Traveller":
        """Running on @host, and idle."""
        if not self.is_here:
            self.host = host
            self.machine = self._start(host)
            self._generation = self._fleets.generation
            self.machine.serial.wait_line(r"up\b", timeout_s=BOOT_S)
            self._has_work = False
        self.rest()
        if self.host != host:
            self.move(host)
        return self

    @property
    def is_here(self) -> bool:
        """Nobody has ended it."""
        return self.machine is not None and self._generation == self._fleets.generation

    def rest(self) -> None:
        """No work; and it is well."""
        assert self.machine.is_alive, self.epitaph()
        for command in ("go", "hold", "watch"):
            self.tell(f"{command} 0")
        self.check()

    def end(self, command: str) -> int:
        """By what it does at @command: the exit status."""
        self.tell(command)
        code = self.machine.wait_end()
        self.machine = None
        return code

    def work(self) -> guest.Report:
        """Writers, ring 3 and ring 0, and hashes, on all processors until the next ready()."""
        if not self._has_work:
            self.tell(f"load {WORK_MIB}")
            self._has_work = True
        self.tell("go 1")
        return self.check()

    def tell(self, command: str) -> None:
        self.machine.serial.send(f"{command}\n".encode())

    def ask(self, command: str, kind: str = "") -> guest.Report:
        """The line that @command causes, of the same name or @kind."""
        return guest.ask(self.machine.serial, ASK_S, f"{command}\n".encode(), kind or command)

    def move(self, host: str = "", once_ready: Callable[[Machine], None] = lambda machine: None
             ) -> Move:
        """To a new process on @host, or on this one; @once_ready is told of it first."""
        host = host or self.host
        source, fleet = self.machine, self._fleets(host)
        uri = f"unix:{fleet.folder}/{self._name()}.move" if host == self.host else \
            f"tcp:{ADDRESSES[host]}:{PORT}"
        try:
            following = self._start(host, uri)
            once_ready(following)
            moved = move(source, following, uri, is_silent=True)
        except BaseException:
            source.kill()  # nobody knows what it is up to
            raise
        must_have_moved(moved)
        assert moved.info["verify"]["pages"] > 0  # both sides' hashes were compared
        self.machine, self.host = following, host
        source.qmp.command("quit")
        assert source.wait_end() == 0
        return moved

    def save(self) -> str:
        """Into a file on its host, with which it ends there: the file's path."""
        path = f"{self._fleets(self.host).folder}/{self._name()}.saved"
        start(self.machine, f"file:{path}")
        assert wait(self.machine) == "completed"
        self.machine.qmp.command("quit")
        assert self.machine.wait_end() == 0
        self.machine = None
        return path

    def restore(self, path: str) -> None:
        """On the host where it was saved."""
        self.machine = self._start(self.host, f"file:{path}")

    def check(self) -> guest.Report:
        """How its work goes; nothing may be wrong."""
        report = self.ask("report")
        lines = self.machine.lines
        wrong = [line for line in lines if line.startswith("error")]
        must_be_right(not wrong and report["errors"] == 0, (report, wrong))
        assert not [line for line in lines if line.startswith("failed")]
        assert report["cpus"] == self.cpus  # online
        return report

    def wait_for(self, key: str, value: int) -> guest.Report:
        """The first report that says at least that."""
        deadline = time.monotonic() + ASK_S
        while (report := self.check())[key] < value:
            assert time.monotonic() < deadline, f"{key} stays below {value}: {report}"
            time.sleep(LOOK_S)
        return report

    def epitaph(self) -> str:
        """What a failed test's report should say of a guest that died."""
        if self.machine is None or self.machine.is_alive:
            return ""
        return f"{self.machine.name}: exit {self.machine.wait_end()}: {self.machine.output}"

    def _name(self) -> str:
        return f"{self._kernel}{self._count}"

    def _start(self, host: str, incoming: str | None = None) -> Machine:
        self._count += 1
        machine = self._fleets(host).start(self._name(), incoming=incoming, **self._options)
        machine.qmp.command("migrate-set-capabilities",
                            capabilities=[{"capability": "verify", "state": True}])
        # Between hosts the guest writes faster than the link sends, and nobody waits for it here.
        machine.qmp.command("migrate-set-parameters", downtime_limit=DOWNTIME_MS)
        return machine
