# SPDX-License-Identifier: Apache-2.0
"""A QMP client: commands, events, limits on every wait."""
from __future__ import annotations

import array
import json
import socket
import time
from typing import Any, Callable

TIMEOUT_S = 20.0
LISTEN_S = 60.0  # on a busy host KVM makes no VM while it ends others that have irqfds: up to 45 s


class QmpError(Exception):
    """The server answered with an error."""

    def __init__(self, command: str, error: dict[str, Any]) -> None:
        super().__init__(f"{command}: {error.get('class')}: {error.get('desc')}")
        self.error_class = error.get("class", "")
        self.desc = error.get("desc", "")


class QmpClosed(Exception):
    """The server hung up."""


class QmpTimeout(Exception):
    """Nothing came in time."""


def connect_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock


def connect_soon(path: str, timeout_s: float, is_alive: Callable[[], bool] = lambda: True,
                 connect: Callable[[str], socket.socket] = connect_unix) -> socket.socket:
    """Connect as soon as somebody listens on @path."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return connect(path)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            if not is_alive():
                raise QmpClosed(f"{path}: the process ended before it listened") from error
            if time.monotonic() > deadline:
                raise QmpTimeout(f"{path}: nobody listens after {timeout_s} s") from error
        time.sleep(0.001)


class Qmp:
    """One connection.  Used by one thread; events wait in `events`."""

    def __init__(self, path: str, timeout_s: float = LISTEN_S,
                 is_alive: Callable[[], bool] = lambda: True,
                 connect: Callable[[str], socket.socket] = connect_unix) -> None:
        self.path = path
        self.events: list[dict[str, Any]] = []
        self._buffer = b""
        self._serial = 0
        self._sock = connect_soon(path, timeout_s, is_alive, connect)
        self.greeting = self._receive(time.monotonic() + timeout_s)
        self.command("qmp_capabilities")

    def close(self) -> None:
        self._sock.close()

    def __enter__(self) -> "Qmp":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def command(self, name: str, timeout_s: float = TIMEOUT_S, fd: int | None = None,
                **arguments: Any) -> Any:
        """Run a command and return its "return" member, or raise QmpError.

        Python names may not hold a dash: write max_bandwidth for max-bandwidth.
        """
        self._serial += 1
        request: dict[str, Any] = {"execute": name, "id": self._serial}
        if arguments:
            request["arguments"] = {key.replace("_", "-"): value
                                    for key, value in arguments.items()}
        self.send(json.dumps(request).encode() + b"\n", fd)
        deadline = time.monotonic() + timeout_s
        while True:
            answer = self._receive(deadline)
            if "event" in answer:
                self.events.append(answer)
            elif answer.get("id", self._serial) == self._serial:
                # What is no JSON to the server is answered without its id.
                if "error" in answer:
                    raise QmpError(name, answer["error"])
                return answer["return"]

    def send(self, data: bytes, fd: int | None = None) -> None:
        try:
            if fd is None:
                self._sock.sendall(data)
            else:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
                self._sock.sendmsg([data], rights)
        except ConnectionError as error:
            raise QmpClosed(f"{self.path}: {error}") from error

    def wait_event(self, name: str, timeout_s: float = TIMEOUT_S,
                   match: Callable[[dict[str, Any]], bool] = lambda data: True) -> dict[str, Any]:
        """The oldest event @name not yet taken whose data satisfy @match.

        What came before it stays in `events`.
        """
        deadline = time.monotonic() + timeout_s
        seen = 0
        while True:
            for index in range(seen, len(self.events)):
                event = self.events[index]
                if event["event"] == name and match(event.get("data", {})):
                    return self.events.pop(index)
            seen = len(self.events)
            self.pump(deadline)

    def pump(self, deadline: float) -> None:
        """Take in one message, which must be an event."""
        message = self._receive(deadline)
        if "event" in message:
            self.events.append(message)

    def take_events(self) -> list[dict[str, Any]]:
        events, self.events = self.events, []
        return events

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise QmpTimeout(f"{self.path}: no message in time; events so far: {self.events}")
            self._sock.settimeout(remaining)
            try:
                data = self._sock.recv(65536)
            except TimeoutError:
                continue
            except ConnectionError as error:
                raise QmpClosed(f"{self.path}: {error}") from error
            if not data:
                raise QmpClosed(f"{self.path}: the server hung up")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return json.loads(line)
