# SPDX-License-Identifier: Apache-2.0
"""The first process of a nested host: does what the tests outside ask for.

One TCP connection a request: a line of JSON {"do": NAME, ...}, answered by a line
of JSON.  After the answer to "connect" the connection carries the bytes of a UNIX
socket, after that to "stream" what a program prints, after that to "fetch" a file.
"""
from __future__ import annotations

import json
import os
import signal
import socket
import socketserver
import subprocess
import threading
from typing import Any

PORT = 7000
PIECE = 1 << 16


class Processes:
    """What was started here, by pid."""

    def __init__(self) -> None:
        self._all: dict[int, subprocess.Popen[bytes]] = {}

    def spawn(self, argv: list[str], output: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        self._all[process.pid] = process
        return process

    def wait(self, pid: int, timeout_s: float) -> int | None:
        try:
            return self._all[pid].wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def signal(self, pid: int, number: int) -> None:
        self._all[pid].send_signal(number)


def pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(PIECE):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


class Handler(socketserver.BaseRequestHandler):
    processes = Processes()

    def handle(self) -> None:
        try:
            request = json.loads(self._line())
            getattr(self, "do_" + request.pop("do"))(**request)
        except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            self.answer(error=f"{type(error).__name__}: {error}")

    def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            data = self.request.recv(PIECE)
            if not data:
                raise ValueError("no request")
            line += data
        return line

    def answer(self, **members: Any) -> None:
        self.request.sendall(json.dumps(members).encode() + b"\n")

    def do_run(self, argv: list[str], limit_s: float) -> None:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=limit_s, check=False)
        self.answer(code=done.returncode, output=done.stdout.decode(errors="replace"))

    def do_stream(self, argv: list[str]) -> None:
        """What it prints as it comes, then a zero byte and its exit status."""
        self.answer()
        code = self.processes.spawn(argv, self.request).wait()
        self.request.sendall(b"\0%d" % code)

    def do_spawn(self, argv: list[str], output: str) -> None:
        with open(output, "wb") as file:
            self.answer(pid=self.processes.spawn(argv, file).pid)

    def do_wait(self, pid: int, limit_s: float) -> None:
        self.answer(code=self.processes.wait(pid, limit_s))

    def do_signal(self, pid: int, number: int) -> None:
        self.processes.signal(pid, number)
        self.answer()

    def do_read(self, path: str) -> None:
        with open(path, encoding="utf-8", errors="replace") as file:
            self.answer(text=file.read())

    def do_fetch(self, path: str) -> None:
        with open(path, "rb") as file:
            self.answer(size=os.fstat(file.fileno()).st_size)
            self.request.sendfile(file)

    def do_connect(self, path: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as far:
            far.connect(path)
            self.answer()
            back = threading.Thread(target=pump, args=(far, self.request), daemon=True)
            back.start()
            pump(self.request, far)
            back.join()


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Server(("", PORT), Handler) as server:
        print("lab: up", flush=True)
        server.serve_forever()
