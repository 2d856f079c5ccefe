# SPDX-License-Identifier: Apache-2.0
"""Operations a second of a built-in guest that polls virtio devices, under either monitor.

Beside the rate stands the time that the monitor's threads take for each operation, but for the
vCPU's: that hardly depends on what else the machine does.
"""
from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from figures import Figure
from sides import QEMU  # also puts harness on the path

from harness.guest import Report, ask, complaints
from harness.serial import Serial, SerialTimeout

RATIO = 1.0  # of QEMU; 1.2 is aimed at
WARM_S, MEASURED_S = 0.5, 2.0


def command_line(kind: str, build: Path, program: str, folder: str, append: str,
                 devices: list[str], memory: str = "1G", is_shared: bool = False) -> list[str]:
    """Back ends can have QEMU's memory if it @is_shared; godwit's always."""
    kernel = str(build / "guest" / f"{program}.elf")
    if kind == "godwit":
        return [str(build / "godwit"), "run", "--memory", memory, "--cpus", "1", "--kernel", kernel,
                "--append", append, "--serial", f"unix:{folder}/serial", *devices]
    machine = ["-machine", "microvm,pcie=on"] if not is_shared else [
        "-machine", "microvm,pcie=on,memory-backend=ram",
        "-object", f"memory-backend-memfd,id=ram,size={memory},share=on"]
    return [QEMU, "-accel", "kvm", *machine, "-cpu",
            "host,-arch-capabilities", "-m", memory, "-smp", "1", "-nodefaults", "-no-user-config",
            "-nographic", "-no-reboot", "-name", f"{program},debug-threads=on", "-kernel", kernel,
            "-append", append, "-serial", f"unix:{folder}/serial,server=on,wait=off", *devices]


def worked_us(pid: int) -> float:
    """Processor time so far of all threads, also those that have ended, but the vCPU's."""
    total = time.clock_gettime_ns(((~pid) << 3) | 2)  # CPUCLOCK_SCHED of a process
    for task in Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().startswith(("vcpu", "CPU ")):
            total -= int((task / "schedstat").read_text().split()[0])
    return total / 1000


@dataclass
class Sample:
    """Of one side: the guest's account, and the monitor's time."""
    report: Report
    us: float


def rate(before: Sample, after: Sample) -> float:
    """Operations a second, by the guest's TSC."""
    first, last = before.report, after.report
    return ((last["ops"] - first["ops"]) / (last["tsc"] - first["tsc"])
            * last["tsc_khz"] * 1000)


def cost_us(before: Sample, after: Sample) -> float:
    return (after.us - before.us) / max(1, after.report["ops"] - before.report["ops"])


def await_guest(serial: Serial) -> None:
    """Its first answer: what it said before may have found no client, and what it
    was asked before was not heard."""
    for _ in range(30):
        try:
            ask(serial, timeout_s=1)
            return
        except SerialTimeout:
            continue
    raise RuntimeError("the guest does not answer")


def measure(argv: list[str], folder: str) -> tuple[float, float]:
    """Operations a second, and microseconds of processor time for each, of the monitor that
    @argv starts; its serial port is the socket folder/serial."""
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        serial = Serial(f"{folder}/serial", is_alive=lambda: process.poll() is None)

        def sample() -> Sample:
            return Sample(ask(serial), worked_us(process.pid))

        await_guest(serial)
        time.sleep(WARM_S)
        before = sample()
        time.sleep(MEASURED_S)
        after = sample()
        wrong = complaints(serial)
        serial.close()
        if wrong:
            raise RuntimeError(f"{argv[0]}: {wrong[0]}")
        return rate(before, after), cost_us(before, after)
    finally:
        process.kill()
        process.wait()


def compare(name: str, runs: int, peer: str,
            command: Callable[[str, str], list[str]]) -> list[Figure]:
    """Rate and cost of one load, both monitors in turn; @peer is "" for none."""
    rates: dict[str, list[float]] = {"godwit": [], "qemu": []}
    costs: dict[str, list[float]] = {"godwit": [], "qemu": []}
    for number in range(runs):
        for kind in ["godwit", "qemu"] if peer else ["godwit"]:
            with tempfile.TemporaryDirectory(prefix="godwit-") as folder:
                a_second, us = measure(command(kind, folder), folder)
            rates[kind].append(a_second)
            costs[kind].append(us)
            print(f"{name}: {number + 1:3} {kind:7} {a_second:10.0f} /s {us:6.2f} us each",
                  flush=True)
    limit = RATIO if peer else None
    return [Figure(name, "/s", rates["godwit"], peer, rates["qemu"], is_floor=True,
                   ratio_limit=limit),
            Figure(f"{name}: processor time of each", "us", costs["godwit"], peer, costs["qemu"],
                   ratio_limit=limit)]
