# SPDX-License-Identifier: Apache-2.0
"""Back ends of devices in processes of their own, which can be killed, stopped and started again."""
from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Sequence

import pytest

from .machine import END_S, binary


def listens(path: str) -> bool:
    """Flags, fourth, have __SO_ACCEPTCON; a connection to see it would be served."""
    with open("/proc/net/unix", encoding="ascii", errors="replace") as sockets:
        return any(line.split()[3] == "00010000" and line.rstrip().endswith(" " + path)
                   for line in sockets)


def connections(path: str) -> int:
    """To a socket: what was accepted, or waits for that, has its name."""
    with open("/proc/net/unix", encoding="ascii", errors="replace") as sockets:
        return sum(line.rstrip().endswith(" " + path) and line.split()[3] != "00010000"
                   for line in sockets)


def wait_listening(path: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + END_S
    while not listens(path):
        assert process.poll() is None and time.monotonic() < deadline, f"no {path}"
        time.sleep(0.005)


class BackEnd:
    """One process that serves @sockets, when it has printed @ready if that is given."""

    def __init__(self, sockets: Sequence[Path | str], argv: Sequence[str], ready: bytes = b""
                 ) -> None:
        self.sockets = [str(path) for path in sockets]
        self.argv = list(argv)
        self.ready = ready
        self.start()

    @property
    def socket(self) -> str:
        return self.sockets[0]

    def start(self) -> None:
        for path in self.sockets:
            Path(path).unlink(missing_ok=True)
        self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE)
        if self.ready:
            line = b"first"
            while line and self.ready not in line:
                line = self.process.stdout.readline()  # type: ignore[union-attr]
        for path in self.sockets:
            wait_listening(path, self.process)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=END_S)

    def restart(self) -> None:
        self.kill()
        self.start()

    def pause(self) -> None:
        """Once it is stopped: the signal alone may take a while."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def wait_end(self) -> int:
        return self.process.wait(END_S)

    def end(self) -> str:
        """Ask it to; what it printed."""
        self.process.terminate()
        out, _ = self.process.communicate(timeout=END_S)
        return out.decode(errors="replace")


class BackEnds:
    """Those of one test: all end with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.all: list[BackEnd] = []

    def add(self, sockets: Sequence[Path | str], argv: Sequence[str], ready: bytes = b""
            ) -> BackEnd:
        back_end = BackEnd(sockets, argv, ready)
        self.all.append(back_end)
        return back_end

    def recorded(self, name: str, image: Path, *options: str) -> BackEnd:
        """The one of tests/backend, which keeps a record of its requests (inflight)."""
        program = Path(binary()).resolve().parent / "tests" / "backend" / "vhost_user_blk"
        if not program.exists():
            pytest.skip(f"{program} is not built")
        path = self.folder / name
        return self.add([path], [str(program), str(path), str(image), *options])

    def daemon(self, name: str, image: Path, queues: int = 1) -> BackEnd:
        """qemu-storage-daemon, which keeps none.  Several may have one image."""
        path = self.folder / name
        return self.add([path], [
            tool("qemu-storage-daemon"),
            "--blockdev", f"driver=file,node-name=file,locking=off,filename={image}",
            "--export", f"type=vhost-user-blk,id=export,node-name=file,addr.type=unix,"
                        f"addr.path={path},writable=on,num-queues={queues}"])

    def nbd(self, name: str, image: Path) -> BackEnd:
        """nbdkit in the foreground."""
        path = self.folder / name
        return self.add([path], [tool("nbdkit"), "--foreground", "--unix", str(path), "file",
                                 str(image)])

    def end(self) -> None:
        for back_end in self.all:
            back_end.kill()


def tool(name: str) -> str:
    found = shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed")
    return found
