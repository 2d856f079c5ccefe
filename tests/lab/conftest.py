# SPDX-License-Identifier: Apache-2.0
"""Fixtures: nested hosts that live as long as the session, machines that end with their test."""
from __future__ import annotations

import os
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any, Iterator

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "system")]

from harness.machine import binary  # noqa: E402
from nested import linux  # noqa: E402
from nested.emulator import QEMU  # noqa: E402
from nested.evidence import evidence  # noqa: E402
from nested.fleets import Fleets  # noqa: E402
from nested.lab import Lab  # noqa: E402
from nested.linux import Traveller  # noqa: E402
from nested.verdict import WrongContent, wrong_content  # noqa: E402
from nested.watch import EmulatorFault, explains_content  # noqa: E402

TEST_LIMIT_S, LOOK_S = 150, 4
REPEATS, FAULTS = 2, 5  # of a test that failed for no known reason; for the emulator's faults
CPUS, HUGE_CPUS, HUGE_MIB = 4, 2, 128
LAB = pytest.StashKey[Lab]()


class TookTooLong(Exception):
    """Not a TimeoutError: whoever waits for a socket takes that for its own, and waits on."""


def pytest_configure(config: pytest.Config) -> None:
    if not os.access(binary(), os.X_OK):
        pytest.exit(f"{binary()} is missing: run `make` first, or set GODWIT", returncode=2)
    # pytest-rerunfailures: see pytest_runtest_makereport().
    config.option.reruns = FAULTS


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """What failed runs again on new hosts, and why it failed is said aloud.

    Not all that the emulator does wrong leaves a trace (nested/watch.py): it loses interrupts, hosts
    and guests.  A fault of godwit's own fails again, but what loses a page may do so once in a hundred
    times: where content is wrong, only a fault of the emulator that changes content has it run again.
    """
    report = (yield).get_result()
    lab = item.config.stash.get(LAB, None)
    if not report.failed:
        return
    signal.alarm(0)  # limit()'s: what follows has limits of its own
    fault = lab.fault() if lab else ""
    is_wrong = (isinstance(call.excinfo.value, WrongContent) if call.excinfo else False) \
        or bool(lab and wrong_content(lab))
    if is_wrong and not explains_content(fault) or not fault and item.execution_count > REPEATS:
        item.add_marker(pytest.mark.flaky(condition=False))  # not again
    if lab is None:
        return
    told = getattr(report.longrepr, "reprcrash", None)
    why = f"{EmulatorFault.__name__}: {fault}" if fault else told.message if told else "no reason"
    left = "" if fault else evidence(lab)
    warnings.warn(f"failed: {item.nodeid}: {why.splitlines()[0]}\n{left}")
    lab.renew()


@pytest.fixture(autouse=True)
def limit(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test may hang, whatever it waits for; nor wait in vain once the emulator went wrong."""
    deadline = time.monotonic() + TEST_LIMIT_S

    def look(*_: object) -> None:
        if time.monotonic() > deadline:
            raise TookTooLong(f"the test took longer than {TEST_LIMIT_S} s")
        lab = request.config.stash.get(LAB, None)
        if fault := lab.fault() if lab else "":
            raise EmulatorFault(fault)
        signal.alarm(LOOK_S)

    before = signal.signal(signal.SIGALRM, look)
    signal.alarm(LOOK_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    if not shutil.which(QEMU):
        pytest.skip(f"the lab needs {QEMU} (tools/install-deps lab)")
    built = request.config.stash[LAB] = Lab(Path(binary()), linux.ADDRESSES)
    yield built
    built.end()


@pytest.fixture
def fleets(lab: Lab) -> Iterator[Fleets]:
    made = Fleets(lab)
    yield made
    made.end()


@pytest.fixture(scope="session")
def travellers(lab: Lab) -> Iterator[dict[str, Traveller]]:
    """Booting takes the longest: a guest of each kind for all tests."""
    fleets = Fleets(lab)
    yield {"vmlinux": Traveller(fleets, "vmlinux", cpus=CPUS),
           "huge": Traveller(fleets, "bzImage", cpus=HUGE_CPUS, memory=f"{HUGE_MIB}M,hugepages=2M")}
    fleets.end()


def working(traveller: Traveller) -> Iterator[Traveller]:
    """For one test; what it was told to do would cost the tests behind it both processors."""
    yield traveller.ready()
    if traveller.is_here:
        traveller.rest()


@pytest.fixture
def traveller(travellers: dict[str, Traveller]) -> Iterator[Traveller]:
    """A guest whose kernel came as an ELF file; on host a, idle."""
    yield from working(travellers["vmlinux"])


@pytest.fixture
def huge(lab: Lab, travellers: dict[str, Traveller]) -> Iterator[Traveller]:
    """A guest whose kernel came as a bzImage, on 2 MiB pages of hugetlbfs; on host a, idle."""
    lab.host("a").free_hugepages(2 * HUGE_MIB // 2)  # it and its destination
    lab.host("b").free_hugepages(HUGE_MIB // 2)
    yield from working(travellers["huge"])
