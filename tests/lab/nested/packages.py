# SPDX-License-Identifier: Apache-2.0
"""Debian's kernel and busybox, fetched once, unpacked without being installed.

They stay in $XDG_CACHE_HOME/godwit/lab.  A set gets its name there only when it
is whole, so that an interrupted download is never taken for one; remove the
folder to have newer packages.
"""
from __future__ import annotations

import fcntl
import os
import re
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Callable

META, BUSYBOX = "linux-image-cloud-amd64", "busybox-static"
LAYOUT = "1"  # another name for a set that is laid out otherwise
FETCH_S, UNPACK_S = 300, 60
AS_ANYONE = ("-o", "APT::Sandbox::User=root")
LZ4_LEGACY = b"\x02\x21\x4c\x18"


class LabError(Exception):
    """The lab cannot be set up, and what to do about it."""


def cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "godwit" / "lab"


class Packages:
    """One unpacked set."""

    def __init__(self, folder: Path) -> None:
        self.busybox = folder / "bin" / "busybox"
        self.vmlinux = folder / "vmlinux"
        self.bzimage = next((folder / "boot").glob("vmlinuz-*"))
        self._modules = {_plain(path.stem): path for path in folder.rglob("*.ko")}

    def modules(self, *names: str) -> list[Path]:
        """@names and all that they need, each after what it needs."""
        found: list[Path] = []

        def add(name: str) -> None:
            path = self._modules[_plain(name)]
            needs = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
            for needed in filter(None, needs[1].decode().split(",") if needs else []):
                add(needed)
            if path not in found:
                found.append(path)

        for name in names:
            add(name)
        return found


def obtain() -> Packages:
    """The cached set, or a new one."""
    return Packages(kept(LAYOUT, _fetch))


def kept(name: str, fetch: Callable[[Path], None]) -> Path:
    """The cache's @name, or what @fetch leaves in "set" below an empty folder."""
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / name
    with (folder / "lock").open("w") as lock:  # one fetches, the others wait for it
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.exists():
            with tempfile.TemporaryDirectory(prefix="part-", dir=folder) as part:
                fetch(Path(part))
                (Path(part) / "set").rename(whole)
    return whole


def _plain(name: str) -> str:
    return name.replace("-", "_")


def run(*argv: str | Path, folder: Path, limit_s: int) -> str:
    """What @argv prints; LabError unless it succeeds."""
    # APT's own user may not write into a user's cache.
    done = subprocess.run([str(a) for a in argv], cwd=folder, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, errors="replace", timeout=limit_s,
                          check=False, env={**os.environ, "LC_ALL": "C"})
    if done.returncode:
        raise LabError(f"{argv[0]}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def own_lists(folder: Path, *options: str) -> list[str]:
    """New lists of packages in @folder, which needs no root: APT's options for them."""
    lists = folder / "lists"
    (lists / "partial").mkdir(parents=True)
    own = [*AS_ANYONE, "-o", f"Dir::State::lists={lists}", *options]
    run("apt-get", *own, "update", folder=folder, limit_s=FETCH_S)
    return own


def download(folder: Path, options: list[str], *names: str) -> None:
    """The packages, unpacked into "set"."""
    run("apt-get", *options, "download", *names, folder=folder, limit_s=FETCH_S)
    for package in folder.glob("*.deb"):
        run("dpkg-deb", "-x", package, folder / "set", folder=folder, limit_s=UNPACK_S)


def _download(folder: Path, options: list[str]) -> None:
    told = run("apt-cache", *options, "depends", META, folder=folder, limit_s=FETCH_S)
    kernel = re.search(r"Depends: (linux-image-\S+)", told)
    if not kernel:
        raise LabError(f"apt-cache knows no package that {META} stands for")
    download(folder, options, kernel[1], BUSYBOX)


def _fetch(folder: Path) -> None:
    if not shutil.which("apt-get"):
        raise LabError(f"the lab needs Debian's {META} and {BUSYBOX}, and there is no apt-get here")
    try:
        try:
            _download(folder, [*AS_ANYONE])
        except LabError:  # no lists, or old ones
            _download(folder, own_lists(folder))
    except (LabError, subprocess.TimeoutExpired) as error:
        raise LabError(f"the lab's packages ({META}, {BUSYBOX}) are not in {cache()} and cannot "
                       f"be fetched: {error}") from error
    _extract_vmlinux(folder / "set")


def _extract_vmlinux(folder: Path) -> None:
    """The ELF kernel inside the bzImage (Documentation/x86/boot.rst, payload_offset)."""
    image = next((folder / "boot").glob("vmlinuz-*")).read_bytes()
    setup_sectors = image[0x1f1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = image[start:start + length]
    if not payload.startswith(LZ4_LEGACY):
        raise LabError(f"the kernel of {META} is not packed by lz4: it starts with "
                       f"{payload[:4].hex()}")
    packed = folder / "vmlinux.lz4"
    packed.write_bytes(payload[:-4])  # without the unpacked size behind it
    run("lz4", "-d", "-q", "-f", packed, folder / "vmlinux", folder=folder, limit_s=UNPACK_S)
    packed.unlink()
