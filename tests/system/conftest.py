# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a folder for sockets, machines that end with their test, limits."""
from __future__ import annotations

import faulthandler
import os
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Iterator

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness.back_end import BackEnds  # noqa: E402
from harness.machine import Fleet, binary, runs_code  # noqa: E402
from harness.move import wait  # noqa: E402
from harness.scene import SAVED, SAVED_HOT_PAGES, WORK_TICKS, working  # noqa: E402
from harness.tiny import Tiny  # noqa: E402

TEST_LIMIT_S = 120


class Expired(Exception):
    """Nobody who waits takes it for the end of a wait of theirs, as they would a TimeoutError."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"limit(seconds): instead of {TEST_LIMIT_S}")
    config.addinivalue_line("markers", "alone: no other test may run beside it")
    config.addinivalue_line("markers", "few: only such as wait as much as it does")
    if not os.access(binary(), os.X_OK):
        pytest.exit(f"{binary()} is missing: run `make` first, or set GODWIT", returncode=2)


@pytest.fixture(autouse=True)
def limit(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test may hang, whatever it waits for."""
    marker = request.node.get_closest_marker("limit")
    limit_s = marker.args[0] if marker else TEST_LIMIT_S
    if threading.current_thread() is not threading.main_thread():
        # A worker of pytest-xdist whose first request had not quite ended when the second came runs
        # its tests in a thread that no signal reaches: its limit ends the worker, and it is replaced.
        faulthandler.dump_traceback_later(limit_s, exit=True, file=sys.__stderr__)
        yield
        faulthandler.cancel_dump_traceback_later()
        return

    def expired(*_: object) -> None:
        raise Expired(f"the test took longer than {limit_s} s")

    before = signal.signal(signal.SIGALRM, expired)
    signal.alarm(limit_s)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: the name of a UNIX socket has room for 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="godwit-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def need_accel() -> None:
    if runs_code():
        need_kvm()


def need_kvm() -> None:
    if not runs_code():
        pytest.skip("the simulated accelerator runs workloads, no guest code")
    if not os.path.exists("/dev/kvm"):
        pytest.skip("this machine has no /dev/kvm")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.fail("/dev/kvm exists and may not be opened by this user: add it to group kvm")


@pytest.fixture
def accel() -> None:
    """Whatever runs guests here."""
    need_accel()


@pytest.fixture
def kvm() -> None:
    """Guest code is run, or KVM itself is what the test is about."""
    need_kvm()


@pytest.fixture
def fleet(accel: None, folder: Path) -> Iterator[Fleet]:
    machines = Fleet(folder)
    yield machines
    told = machines.end()
    if told:
        print(told)


@pytest.fixture
def back_ends(folder: Path) -> Iterator[BackEnds]:
    """To be asked for before `fleet`: machines end first."""
    processes = BackEnds(folder)
    yield processes
    processes.end()


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A stream saved by the machine SAVED."""
    need_accel()
    folder = tmp_path_factory.mktemp("saved")
    machines = Fleet(folder)
    try:
        machine = working(machines, **SAVED)
        # Memory that was looked at and not written yet would be saved as zeroes.
        while machine.report()["pages"] < 4 * SAVED_HOT_PAGES:
            machine.serial.wait_ticks(WORK_TICKS)
        machine.qmp.command("migrate", uri=f"file:{folder}/saved")
        assert wait(machine) == "completed"
        return (folder / "saved").read_bytes()
    finally:
        machines.end()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    need_kvm()
    return Tiny(tmp_path_factory.mktemp("tiny"))
