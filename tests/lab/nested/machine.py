# SPDX-License-Identifier: Apache-2.0
"""godwit processes in a nested host, as the system tests' harness knows them."""
from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Sequence

from harness.machine import END_S, Machine

from .host import Host

SOCKETS = Path("/tmp")  # in the host, not here
GODWIT = "/bin/godwit"
FRAMES, WHEREABOUTS_S = 6, 15.0


class RemoteProcess:
    """As much of subprocess.Popen as a Machine uses."""

    def __init__(self, host: Host, argv: list[str], output: str) -> None:
        self.host, self.returncode = host, None
        self.pid: int = host.ask("spawn", argv=argv, output=output)["pid"]

    def poll(self) -> int | None:
        return self._wait(0)

    def wait(self, timeout_s: float = END_S) -> int:
        deadline = time.monotonic() + timeout_s
        while self._wait(1) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"pid {self.pid} in {self.host.name}", timeout_s)
        return self.returncode

    def send_signal(self, number: int) -> None:
        self.host.ask("signal", pid=self.pid, number=number)

    def _wait(self, limit_s: float) -> int | None:
        if self.returncode is None and not self.host.is_alive:
            self.returncode = -signal.SIGKILL
        if self.returncode is None:
            self.returncode = self.host.ask("wait", pid=self.pid, limit_s=limit_s)["code"]
        return self.returncode


class LabMachine(Machine):
    """A godwit process in @host; everything else as in the harness."""

    def __init__(self, host: Host, folder: Path, name: str, **options: Any) -> None:
        self.host = host
        super().__init__(folder, name, program=GODWIT, **options)

    def _start(self, pass_fds: Sequence[int]) -> RemoteProcess:
        return RemoteProcess(self.host, self.argv, f"{self.folder}/{self.name}.out")

    def connect(self, path: str) -> socket.socket:
        return self.host.connect(path)

    @property
    def output(self) -> str:
        if not self.host.is_alive:
            return "its host is gone"
        return self.host.ask("read", path=f"{self.folder}/{self.name}.out")["text"]

    def whereabouts(self) -> str:
        """What each of its threads waits for in the host's kernel."""
        return self.host.sh(f"""cd /proc/{self.process.pid}/task; for task in *; do
            echo $(cat $task/comm $task/stack | sed 's/^[^ ]* //; s/+0x.*//' | head -n {FRAMES})
            done""", WHEREABOUTS_S)
