# SPDX-License-Identifier: Apache-2.0
"""The whole lab: up to two nested hosts from one image, and the wire between them."""
from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Sequence

from . import linux, packages, userland, watch
from .host import CLOCK_OFFSET, Host
from .image import ROOT, Image
from .machine import GODWIT
from .resident import PEER, TAP

if TYPE_CHECKING:
    from .fleets import Fleets

SOURCES = ROOT / "tests" / "lab"
DEMO = "/lab/tools/demo"
BACK_END = "/bin/vhost_user_blk"
KVM_STATE = "/bin/accel_test_kvm_state"  # tests/unit/accel/test_kvm_state.c
# Called by their paths: a name alone is busybox's own, where it has it.
TOOLS = ("/usr/sbin/mke2fs", "/usr/sbin/e2fsck", "/usr/bin/nbdkit")
COMPILE_S = 60


class Lab:
    """Its hosts, @names, come up when one is first asked for; all end with end()."""

    def __init__(self, godwit: Path, names: Sequence[str] = ("a",)) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="godwit-lab-"))
        self._names, self._hosts = names, {}
        self.fleets: list[Fleets] = []  # which have not ended
        self.generation = 0  # of hosts: whatever was in the earlier ones is gone
        self._wire = dict(zip(linux.ADDRESSES, socket.socketpair()))
        try:
            self._packages = packages.obtain()
            self._initrd = self._build_image(godwit)
            self.tsc_khz = self._measure_tsc()
        except BaseException:
            self.end()
            raise

    def host(self, name: str = "a") -> Host:
        if name not in self._hosts:
            self._boot([*{*self._names, name} - self._hosts.keys()])
        return self._hosts[name]

    def _boot(self, names: Sequence[str]) -> None:
        """At the same time: a kernel boots on one processor."""
        def boot(name: str) -> None:
            self._hosts[name] = Host(self.folder, name, self._packages, self._initrd, self.tsc_khz,
                                     link=self._wire[name], address=linux.ADDRESSES[name])

        with ThreadPoolExecutor() as pool:
            for booting in [pool.submit(boot, name) for name in names]:
                booting.result()
        for name in names:  # one by one: two of our threads would wait for each other
            self._hosts[name].clock_offset("set")

    def fault(self) -> str:
        """What the emulator did wrong, if that is known."""
        return next(filter(None, map(watch.fault, [*self._hosts.values()])), "")

    def traced(self) -> list[str]:
        """What the hosts keep of their guests' exits."""
        return [f"{host.name}: {line}" for host in self._hosts.values() if host.is_alive
                for line in watch.traced(host)]

    def renew(self) -> None:
        """Hosts asked for from now on are new ones."""
        for host in self._hosts.values():
            host.end()
        self._hosts.clear()
        self.generation += 1

    def end(self) -> None:
        self.renew()
        for wire in self._wire.values():
            wire.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _compile(self, name: str, sources: Sequence[Path]) -> Path:
        target = self.folder / name
        argv = ["gcc", "-static", "-O2", "-pthread", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror",
                "-I", str(ROOT), *map(str, sources), "-o", str(target)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=COMPILE_S, check=False)
        if done.returncode:
            raise packages.LabError(done.stderr)
        return target

    def _measure_tsc(self) -> int:
        program = self._compile("tsc_khz", [SOURCES / "host" / "tsc_khz.c"])
        return int(subprocess.run([str(program)], capture_output=True, text=True, timeout=COMPILE_S,
                                  check=True).stdout)

    @staticmethod
    def _nbdkit_plugin(name: str) -> Path:
        told = subprocess.run(["nbdkit", "--dump-config"], capture_output=True, text=True,
                              check=True).stdout
        folder = next(line for line in told.splitlines() if line.startswith("plugindir="))
        return Path(folder.partition("=")[2]) / f"nbdkit-{name}-plugin.so"

    def _build_image(self, godwit: Path) -> Path:
        image = Image(self._packages)
        image.program(godwit, GODWIT, "libnbd.so.0")
        image.program(self._compile("clock_offset", [SOURCES / "host" / "clock_offset.c"]),
                      CLOCK_OFFSET)
        init = self._compile("init", [*sorted((SOURCES / "guest").glob("*.c")),
                                      ROOT / "guest" / "latency.c"])
        image.archive.copy(self._packages.vmlinux, linux.KERNELS["vmlinux"])
        image.archive.copy(self._packages.bzimage, linux.KERNELS["bzImage"])
        image.archive.file(linux.INITRD, linux.initrd(self._packages, init))
        image.archive.file(userland.INITRD, userland.initrd(self._packages))
        image.archive.copy(ROOT / "tools" / "demo", DEMO)
        for program in TOOLS:
            image.program(Path(program))
        image.program(self._nbdkit_plugin("file"))
        image.program(godwit.parent / "tests" / "backend" / "vhost_user_blk", BACK_END)
        image.program(godwit.parent / "tests" / "unit" / "accel_test_kvm_state_c", KVM_STATE)
        for script in (PEER, TAP):
            image.archive.copy(SOURCES / "host" / Path(script).name, script)
        image.tree(ROOT / "tests" / "system" / "harness", "/lab/tests/system/harness")
        path = self.folder / "host.cpio"
        path.write_bytes(image.pack())
        return path
