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
        self._seen = self._runs = 0

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
        self.type("stty -echo; set -o pipefail")  # an echo costs more than most commands

    def run(self, command: str) -> str:
        """What a shell command prints, and it succeeds.  Neither points, ticks to the harness, nor
        line ends come through: they are commas and spaces."""
        self._runs += 1  # what was typed may be echoed twice, and differs from what is printed
        self.type(f"echo begi''n {self._runs},; {{ {command}; }} 2>&1 | tr '.\\n' ', '; "
                  f"echo en''d {self._runs} $?,")
        self.expect(f"begin {self._runs},")
        said = self.expect(f"end {self._runs} ").replace("\r", "").strip()
        status = self.expect(",")
        assert status == "0", f"{command}: {status}: {said}"
        return said
