# SPDX-License-Identifier: Apache-2.0
"""The monitors that are measured: godwit and, beside it, QEMU's microvm.

Both run the same PVH ELF and are driven by the same QMP.
"""
from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Sequence

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "system"))

from harness.qmp import Qmp  # noqa: E402

QEMU = "qemu-system-x86_64"
NO_LIMIT = 1 << 40  # bytes a second
# The most that QEMU takes; godwit's 0 is "no limit".
KVM_CREATE_VM, KVM_CREATE_VCPU, KVM_GET_TSC_KHZ = 0xAE01, 0xAE41, 0xAEA3


def tsc_khz() -> int:
    """The rate that KVM gives a guest: not every monitor tells the guest."""
    kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    vcpu = fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)
    try:
        return fcntl.ioctl(vcpu, KVM_GET_TSC_KHZ, 0)
    finally:
        for fd in (vcpu, vm, kvm):
            os.close(fd)


def qemu_version(qemu: Sequence[str] = (QEMU,)) -> str:
    told = subprocess.run([*qemu, "--version"], capture_output=True, text=True, check=True)
    # "QEMU emulator version 7.2.22 (Debian ...)"
    return "QEMU " + told.stdout.split("version ", 1)[1].split()[0]


class Side:
    """One process of either monitor that runs guest program @program; @devices are arguments in
    the monitor's own words, their back ends can have the memory if that @is_shared; @qemu is
    what to start for QEMU, and its first arguments."""

    def __init__(self, kind: str, build: Path, folder: Path, name: str, memory: str, append: str,
                 incoming: str | None = None, accel: str = "kvm", qemu: Sequence[str] = (QEMU,),
                 program: str = "stress", devices: Sequence[str] = (),
                 is_shared: bool = False, cpus: int = 1) -> None:
        self.kind, self.name = kind, name
        self.qmp_path, self.serial_path = f"{folder}/{name}.qmp", f"{folder}/{name}.serial"
        self.argv = command_line(kind, str(build / "guest" / f"{program}.elf"),
                                 str(build / "godwit"), self.qmp_path, self.serial_path, memory,
                                 append, accel, qemu, is_shared, cpus)
        self.argv += [*devices, *(["--incoming" if kind == "godwit" else "-incoming", incoming]
                                  if incoming else [])]
        self._output = tempfile.TemporaryFile()
        self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=self._output,
                                        stderr=self._output)
        try:
            self.qmp = Qmp(self.qmp_path, is_alive=lambda: self.process.poll() is None)
            if kind == "qemu":
                self.qmp.command("migrate-set-capabilities",
                                 capabilities=[{"capability": "events", "state": True}])
            self.qmp.command("migrate-set-parameters",
                             max_bandwidth=NO_LIMIT if kind == "qemu" else 0)
        except Exception as error:
            raise RuntimeError(f"{kind} did not start: {self.output()}") from error

    def output(self) -> str:
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), size, 0).decode(errors="replace")

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if hasattr(self, "qmp"):
            self.qmp.close()
        self._output.close()


def command_line(kind: str, kernel: str, godwit: str, qmp: str, serial: str, memory: str,
                 append: str, accel: str, qemu: Sequence[str], is_shared: bool,
                 cpus: int) -> list[str]:
    if kind == "godwit":
        return [godwit, "run", "--accel", accel, "--memory", memory, "--cpus", str(cpus),
                "--kernel", kernel, "--append", append, "--serial", f"unix:{serial}",
                "--qmp", f"unix:{qmp}"]
    machine, backend = "microvm", []
    if is_shared:
        machine += ",pcie=on,memory-backend=ram"
        backend = ["-object", f"memory-backend-memfd,id=ram,size={memory},share=on,reserve=off"]
    elif memory.endswith("G") and int(memory[:-1]) > 8:
        # More than the machine has is refused unless none of it is reserved.
        machine += ",memory-backend=ram"
        backend = ["-object", f"memory-backend-ram,id=ram,size={memory},reserve=off"]
    return [*qemu, "-accel", accel, "-machine", machine, *backend, "-cpu",
            "host,-arch-capabilities", "-m", memory, "-smp", str(cpus), "-nodefaults", "-no-user-config",
            "-nographic", "-no-reboot", "-name", "guest,debug-threads=on", "-kernel", kernel,
            "-append", append, "-serial", f"unix:{serial},server=on,wait=off",
            "-qmp", f"unix:{qmp},server=on,wait=off"]


def migrate(source: Side, uri: str, limit_s: float = 120.0) -> float:
    """Move; returns seconds from the command to the "completed" event."""
    started = time.monotonic()
    source.qmp.command("migrate", uri=uri)
    event = source.qmp.wait_event("MIGRATION", limit_s, lambda data: data["status"] in
                                  ("completed", "failed", "cancelled"))
    ended = time.monotonic()
    if event["data"]["status"] != "completed":
        raise RuntimeError(f"{source.kind}: migration {event['data']['status']}: "
                           f"{source.qmp.command('query-migrate')}\n{source.output()}")
    return ended - started


def need(is_qemu: bool) -> None:
    """End with a clear line when the machine lacks what a bench needs."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        sys.exit("bench: needs /dev/kvm (77)")
    if is_qemu and not shutil.which(QEMU):
        sys.exit(f"bench: needs {QEMU}: run tools/install-deps bench, or give --no-peer")
