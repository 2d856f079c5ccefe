# SPDX-License-Identifier: Apache-2.0
"""vhost-user disks and their back ends, for benches that move machines with many."""
from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Sequence

START_S = 30.0
DAEMON = "qemu-storage-daemon"
IMAGE_SIZE = 64 << 20


def listens(path: str) -> bool:
    with open("/proc/net/unix", encoding="ascii", errors="replace") as sockets:
        return any(line.split()[3] == "00010000" and line.rstrip().endswith(" " + path)
                   for line in sockets)


def wait_listening(paths: list[str], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    for path in paths:
        while not listens(path):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{process.args[0]}: nobody listens at {path}")  # type: ignore
            time.sleep(0.01)


def disk_socket(folder: str, side: str, number: int) -> str:
    return f"{folder}/blk-{side}{number}"


def start_daemon(folder: str, disks: int, queues: int, sides: Sequence[str]
                 ) -> subprocess.Popen[bytes]:
    """One process for the @disks of all @sides, each side at a socket of its own."""
    argv, paths = [DAEMON], []
    for number in range(disks):
        image = Path(f"{folder}/disk{number}")
        with image.open("wb") as file:
            file.truncate(IMAGE_SIZE)
        argv += ["--blockdev", f"driver=file,node-name=f{number},filename={image}"]
        for side in sides:
            paths.append(disk_socket(folder, side, number))
            argv += ["--export", f"type=vhost-user-blk,id=e{side}{number},node-name=f{number},"
                                 f"addr.type=unix,addr.path={paths[-1]},writable=on,"
                                 f"num-queues={queues}"]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    wait_listening(paths, process)
    return process


def disk_devices(kind: str, folder: str, side: str, disks: int, queues: int) -> list[str]:
    """Arguments of a monitor of @kind that has the @side's."""
    argv = []
    for number in range(disks):
        path = disk_socket(folder, side, number)
        argv += ["--disk", f"vhost-user={path},queues={queues}"] if kind == "godwit" else [
            "-chardev", f"socket,id=dc{number},path={path}",
            "-device", f"vhost-user-blk-pci,disable-legacy=on,chardev=dc{number},"
                       f"num-queues={queues}"]
    return argv
