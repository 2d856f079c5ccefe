# SPDX-License-Identifier: Apache-2.0
"""godwit processes: start, watch, end; each one known by its pid."""
from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Sequence

from . import guest as guest_lines
from .qmp import Qmp, connect_unix
from .serial import Serial

ROOT = Path(__file__).resolve().parents[3]
END_S = 45.0  # KVM takes a VM apart in grace periods, and they take long on a busy host


def binary() -> str:
    """The godwit to drive: $GODWIT, or the one that `make` builds."""
    return os.environ.get("GODWIT") or str(ROOT / "build" / "godwit")


def accel() -> str:
    """What runs the guests: $GODWIT_ACCEL, as --accel takes it; KVM by default."""
    return os.environ.get("GODWIT_ACCEL") or "kvm"


def runs_code() -> bool:
    """Whether that is more than workloads."""
    return accel().split(",")[0] != "sim"


def with_accel(argv: Sequence[str]) -> list[str]:
    """The arguments of `godwit run`, with --accel unless they have it."""
    return [*argv] if accel() == "kvm" or "--accel" in argv else [*argv, "--accel", accel()]


def run(*argv: str, timeout_s: float = 30.0, **options: Any) -> subprocess.CompletedProcess[str]:
    """A short godwit command, to its end."""
    if argv[:1] == ("run",):
        argv = tuple(with_accel(argv))
    return subprocess.run([binary(), *argv], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, errors="replace", timeout=timeout_s, check=False, **options)


class Machine:
    """One godwit process with a QMP and a serial socket in @folder."""

    def __init__(self, folder: Path, name: str, *, memory: str = "256M", cpus: int = 2,
                 guest_options: str | None = "hot=64M,rate=max,verify=on,tick=1ms",
                 guest: str = "stress", incoming: str | None = None, extra: Sequence[str] = (),
                 pass_fds: Sequence[int] = (), program: str | None = None,
                 network: str | None = None, before: Callable[[], None] | None = None) -> None:
        self.folder, self.name = folder, name
        self.qmp_path = str(folder / f"{name}.qmp")
        self.serial_path = str(folder / f"{name}.serial")
        self._stderr = tempfile.TemporaryFile()
        argv = [program or binary(), "run", "--name", name, "--memory", memory,
                "--cpus", str(cpus), "--serial", f"unix:{self.serial_path}",
                "--qmp", f"unix:{self.qmp_path}"]
        if guest_options is not None:
            argv += ["--guest", guest + ("," + guest_options if guest_options else "")]
        if incoming is not None:
            argv += ["--incoming", incoming]
        self.argv = with_accel(argv + list(extra))
        if network:  # a namespace; `ip` becomes godwit, with its pid
            self.argv = ["ip", "netns", "exec", network, *self.argv]
        self._before = before  # called in the process before it becomes godwit
        self.started_ns = time.monotonic_ns()
        self.process = self._start(pass_fds)
        self._qmp: Qmp | None = None
        self._serial: Serial | None = None
        self.output_seen = 0  # of what it printed, see wait_output()

    def _start(self, pass_fds: Sequence[int]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=self._stderr,
                                stderr=self._stderr, pass_fds=pass_fds,
                                preexec_fn=self._before)

    def connect(self, path: str) -> socket.socket:
        """To one of its sockets."""
        return connect_unix(path)

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    @property
    def output(self) -> str:
        """What it printed on stdout and stderr so far."""
        size = os.fstat(self._stderr.fileno()).st_size
        return os.pread(self._stderr.fileno(), size, 0).decode(errors="replace")

    @property
    def qmp(self) -> Qmp:
        if self._qmp is None:
            self._qmp = Qmp(self.qmp_path, is_alive=lambda: self.is_alive, connect=self.connect)
        return self._qmp

    @property
    def serial(self) -> Serial:
        if self._serial is None:
            self._serial = Serial(self.serial_path, is_alive=lambda: self.is_alive,
                                  connect=self.connect)
        return self._serial

    @property
    def lines(self) -> list[str]:
        """What its guest said so far, if anybody reads its serial port."""
        return [line for _, line in self._serial.lines] if self._serial else []

    def ready(self) -> "Machine":
        """Wait until it runs, or listens for its migration: it answers QMP then."""
        self.qmp
        return self

    @property
    def status(self) -> str:
        return self.qmp.command("query-status")["status"]

    def wait_output(self, text: str, timeout_s: float = END_S) -> None:
        """Until it has printed @text behind `output_seen`, or has ended."""
        deadline = time.monotonic() + timeout_s
        while text not in self.output[self.output_seen:] and self.is_alive:
            assert time.monotonic() < deadline, f"{self} never printed {text!r}: {self.output}"
            time.sleep(0.001)
        assert text in self.output[self.output_seen:], \
            f"{self} ended without printing {text!r}: {self.output}"

    def report(self) -> guest_lines.Report:
        """Ask the guest how it is; it must be running."""
        return guest_lines.ask(self.serial)

    def wait_end(self, timeout_s: float = END_S) -> int:
        """The exit status; -N for signal N."""
        return self.process.wait(timeout_s)

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.is_alive:
            self.process.send_signal(number)

    def destroy(self) -> None:
        """End it whatever it does; for the end of a test."""
        if self._qmp is not None:
            self._qmp.close()
        self.kill()
        self.process.wait(END_S)
        if self._serial is not None:
            self._serial.close()
        self._stderr.close()

    def __repr__(self) -> str:
        return f"<{self.name} pid {self.process.pid}>"


class Fleet:
    """The machines of one test: names are unique, all end with it."""

    def __init__(self, folder: Path, make: Callable[..., Machine] = Machine) -> None:
        self.folder, self.make = folder, make
        self.machines: list[Machine] = []

    def start(self, name: str | None = None, **options: Any) -> Machine:
        machine = self.make(self.folder, name or f"m{len(self.machines)}", **options)
        self.machines.append(machine)
        return machine

    def retire(self, machine: Machine) -> None:
        """It has ended: forget it."""
        machine.destroy()
        self.machines.remove(machine)

    def end(self) -> str:
        """End all; returns what they printed, for a failed test's report."""
        told = []
        for machine in self.machines:
            text = machine.output.strip()
            code = machine.process.poll()
            told.append(f"-- {machine.name}: exit {code}: {' '.join(machine.argv)}\n{text}")
            machine.kill()
        stuck = []
        for machine in self.machines:
            try:
                machine.destroy()
            except subprocess.TimeoutExpired:
                stuck.append(f"{machine} is still there {END_S} s after SIGKILL")
        self.machines.clear()
        if stuck:
            raise RuntimeError("\n".join(stuck + told))
        return "\n".join(told)
