# SPDX-License-Identifier: Apache-2.0
"""`godwit migrate` that is told to stop: its exit codes, what it says, and where the guest is."""
from __future__ import annotations

import contextlib
import signal
import subprocess
from typing import Iterator

import pytest

from harness.injector import arm, wait_broken
from harness.machine import Fleet, Machine, binary
from harness.move import wait
from harness.scene import assert_moves_after_all, pair

TIMEOUT, INTERRUPTED = 124, 130  # docs/exit-codes.md
MEMORY = {"memory": "128M", "guest_options": "hot=64M,rate=max,tick=1ms"}
# A round takes seconds, so that nothing but a cancel ends it.
SLOW = ("--max-bandwidth", "16M", "--downtime-limit", "1", "--max-cpu-throttle", "0")
END_S = 30


class Client:
    """A `godwit migrate` at work; what it says is read line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.told: list[str] = []

    def wait_line(self, text: str) -> None:
        while not self.told or text not in self.told[-1]:
            line = self.process.stderr.readline()
            assert line, f"ended with {self.process.wait(END_S)}: {self.told}"
            self.told.append(line)

    def end(self) -> tuple[int, str]:
        """Its exit code, and the rest of what it says."""
        out, rest = self.process.communicate(timeout=END_S)
        assert out == "", out  # the summary of a move
        return self.process.returncode, rest


@contextlib.contextmanager
def migrating(source: Machine, uri: str, *options: str) -> Iterator[Client]:
    with subprocess.Popen(
            [binary(), "migrate", "--qmp", f"unix:{source.qmp_path}", *SLOW, *options, uri],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True) as process:
        try:
            yield Client(process)
        finally:
            process.kill()  # unless it has ended


def assert_stays(fleet: Fleet, source: Machine, destination: Machine) -> None:
    """Its guest runs on here, whole, nowhere else, and moves when it is asked to again."""
    destination.wait_end()
    assert destination.serial.ticks == 0
    assert source.qmp.command("query-migrate")["status"] == "cancelled"
    source.qmp.take_events()  # of what was cancelled
    assert_moves_after_all(fleet, source, **MEMORY)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_cancels_and_the_guest_runs_on_here(fleet: Fleet, number: signal.Signals) -> None:
    source, destination, uri = pair(fleet, **MEMORY)
    with migrating(source, uri) as client:
        client.wait_line("active  round ")
        client.process.send_signal(number)
        client.wait_line("cancelling; once more to leave without waiting")
        code, rest = client.end()
    assert code == INTERRUPTED
    assert "the migration was cancelled\n" in rest and "the guest is here, running\n" in rest
    assert_stays(fleet, source, destination)


def test_second_signal_leaves_and_says_that_it_does(fleet: Fleet) -> None:
    source, destination, uri = pair(fleet, **MEMORY)
    # A source that stands still here has not cancelled before the second one comes.
    arm(source, "active-cancelling", "stall")
    with migrating(source, uri) as client:
        client.wait_line("active  round ")
        client.process.send_signal(signal.SIGINT)
        client.wait_line("cancelling; once more to leave without waiting")
        wait_broken(source, "active-cancelling", "stall")
        client.process.send_signal(signal.SIGINT)
        code, rest = client.end()
    assert code == INTERRUPTED
    assert "left before the migration was cancelled" in rest and "`godwit status'" in rest
    assert "the guest is here" not in rest  # it does not know
    assert source.status == "running"
    assert source.qmp.command("query-migrate")["status"] == "cancelling"
    source.qmp.command("migrate_cancel")  # ends the stall
    assert wait(source) == "cancelled"
    assert_stays(fleet, source, destination)


def test_timeout_cancels_and_says_that_time_is_up(fleet: Fleet) -> None:
    source, destination, uri = pair(fleet, **MEMORY)
    with migrating(source, uri, "--timeout", "1") as client:
        client.wait_line("active  round ")
        code, rest = client.end()
    assert code == TIMEOUT
    assert "the migration was cancelled: time is up\n" in rest
    assert "the guest is here, running\n" in rest and "once more to leave" not in rest
    assert_stays(fleet, source, destination)


def test_cancel_of_somebody_else_is_no_interrupt(fleet: Fleet) -> None:
    source, destination, uri = pair(fleet, **MEMORY)
    with migrating(source, uri) as client:
        client.wait_line("active  round ")
        source.qmp.command("migrate_cancel")
        code, rest = client.end()
    assert code == 1
    assert "the migration was cancelled\n" in rest and "the guest is here, running\n" in rest
    assert_stays(fleet, source, destination)
