# SPDX-License-Identifier: Apache-2.0
"""The QEMU that emulates a nested host.

QEMU 7.2 did a #VMEXIT twice (see watch.py) or lost its host three times in ten minutes of the lab on
a busy machine, 10.0 twice in thirty.  So where the system's is old, the backport for the same Debian
release is fetched into the cache, unpacked without being installed.
"""
from __future__ import annotations

import functools
import platform
import re
import shutil
import subprocess
import warnings
from pathlib import Path

from . import packages
from .packages import LabError

QEMU = "qemu-system-x86_64"
WANTED = 10
BACKPORTS = ("qemu-system-x86", "qemu-system-data", "qemu-system-common", "seabios")
VERSION_S = 20


@functools.cache
def obtain() -> tuple[str, ...]:
    """What to start, and its first arguments."""
    system = (QEMU,)
    if _version(system) >= WANTED:
        return system
    try:
        folder = packages.kept("qemu", _fetch)
        data = folder / "usr" / "share"
        backport = (str(folder / "usr" / "bin" / QEMU), "-L", str(data / "qemu"),
                    "-L", str(data / "seabios"))
        if _version(backport) >= WANTED:
            return backport
        why = "it does not run here"
    except (LabError, OSError, subprocess.TimeoutExpired) as error:
        why = str(error)
    warnings.warn(f"the lab runs on QEMU {_version(system)}; no backport of {WANTED} or later: {why}")
    return system


def has_xsave() -> bool:
    """Whether XSETBV is trapped.

    Before, KVM never learned what its guest wants to be saved, and told it wrong sizes.
    """
    return _version(obtain()) >= WANTED


def _version(command: tuple[str, ...]) -> int:
    """The major number; 0 when it cannot tell."""
    if not shutil.which(command[0]):
        return 0
    told = subprocess.run([*command, "--version"], capture_output=True, text=True,
                          timeout=VERSION_S, check=False).stdout
    number = re.search(r"version (\d+)\.", told)
    return int(number[1]) if number else 0


def _fetch(folder: Path) -> None:
    """From where the system has its own packages."""
    if not shutil.which("apt-get"):
        raise LabError("there is no apt-get here")
    release = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    told = packages.run("apt-get", "indextargets", "--format",
                        "$(CREATED_BY) $(RELEASE) $(COMPONENT) $(REPO_URI)",
                        folder=folder, limit_s=packages.FETCH_S)
    main = re.search(rf"^Packages {release} main (\S+)$", told, re.MULTILINE)
    if not main:
        raise LabError("this is not a release of Debian's")
    sources = folder / "sources.list"
    sources.write_text(f"deb {main[1]} {release}-backports main\n")
    options = packages.own_lists(folder, "-o", f"Dir::Etc::sourcelist={sources}",
                                 "-o", "Dir::Etc::sourceparts=/dev/null")
    packages.download(folder, options, *BACKPORTS)
