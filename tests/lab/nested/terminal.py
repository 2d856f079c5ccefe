# SPDX-License-Identifier: Apache-2.0
"""Someone at a Linux guest's serial port."""
from __future__ import annotations

from harness.machine import Machine

from . import userland

LONG_S = 60.0


class Terminal:
    """What is typed at a serial port, and what was printed since."""

    def __init__(self, machine: Machine) -> None:
        self._serial = machine.serial
        self._seen = 0

    def expect(self, text: str) -> str:
        """Wait for @text; what came in front of it."""
        self._serial.wait(lambda: text.encode() in self._unseen(), f"{text!r}", LONG_S)
        before = self._unseen().partition(text.encode())[0]
        self._seen += len(before) + len(text)
        return before.decode()

    def _unseen(self) -> bytes:
        return self._serial.other[self._seen:]

    def type(self, line: str) -> None:
        self._serial.send(line.encode() + b"\n")

    def log_in(self) -> None:
        """From the login's prompt to the shell's, for run()."""
        self.expect("login: ")
        self.type(userland.USER)
        self.expect("Password: ")
        self.type(userland.PASSWORD)
        self.expect("# ")
        self.type("stty cols 999; set -o pipefail; echo read''y")  # nothing typed is wrapped
        self.expect("ready")
        self.expect("# ")

    def run(self, command: str) -> str:
        """What a shell command prints, with a comma for each point (a tick to the harness); it
        succeeds."""
        self.type(f"{{ {command}; }} 2>&1 | tr . ,; echo status $?,")
        self.expect("status $?,")  # the echo of what was typed
        said = self.expect("status ").replace("\r", "").strip()
        status = self.expect(",")
        assert status == "0", f"{command}: {status}: {said}"
        return said
