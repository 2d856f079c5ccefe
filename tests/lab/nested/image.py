# SPDX-License-Identifier: Apache-2.0
"""What a nested host boots: Debian's kernel, busybox, this machine's Python, godwit, the guests."""
from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from . import agent
from .cpio import Archive
from .packages import LabError, Packages

ROOT = Path(__file__).resolve().parents[3]
PYTHON = Path("/usr/bin/python3")
MODULES = ("kvm_amd", "virtio_pci", "virtio_net", "tun", "tap", "vhost_net", "bridge")
# Of Python's library: what neither the agent nor the harness can reach.
LEFT_OUT = {"test", "idlelib", "tkinter", "lib2to3", "ensurepip", "pydoc_data", "site-packages",
            "dist-packages", "turtledemo", "unittest", "distutils", "sqlite3"}
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin HOME=/tmp PYTHONDONTWRITEBYTECODE=1
mkdir -p /proc /sys /dev /tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tracefs tracefs /sys/kernel/tracing
mkdir /dev/shm
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
for module in {modules}; do insmod /lib/modules/$module; done
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
exec {python} {agent}
"""


def libraries(program: Path) -> list[Path]:
    """The shared objects that @program is loaded with."""
    told = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False).stdout
    return [Path(path) for path in re.findall(r"(/\S+) \(0x", told)]


def installed(library: str) -> Path:
    """Where a shared object is that a program loads by its name."""
    told = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=False).stdout
    found = re.search(rf"{re.escape(library)} \(.*x86-64.*\) => (\S+)", told)
    if not found:
        raise LabError(f"the lab needs {library}: run tools/install-deps")
    return Path(found[1])


class Image:
    """An initial RAM disk under construction."""

    def __init__(self, packages: Packages) -> None:
        self.packages = packages
        self.archive = Archive()
        self.archive.copy(packages.busybox, "/bin/busybox")
        self.archive.device("/dev/console", 5, 1)
        modules = packages.modules(*MODULES)
        for module in modules:
            self.archive.copy(module, f"/lib/modules/{module.name}")
        self._python()
        self.archive.copy(Path(agent.__file__), "/lab/agent.py")
        self.archive.file("/init", INIT.format(modules=" ".join(m.name for m in modules),
                                               python=PYTHON, agent="/lab/agent.py").encode())

    def program(self, path: Path, name: str | None = None, *loads: str) -> None:
        """An executable with its libraries, and those that it @loads later."""
        self.archive.copy(path, name)
        for loaded in [path, *map(installed, loads)]:
            for library in libraries(loaded):
                self._once(library)
        for library in map(installed, loads):
            self._once(library)

    def tree(self, folder: Path, name: str, pattern: str = "*.py") -> None:
        for path in sorted(folder.rglob(pattern)):
            self.archive.copy(path, f"{name}/{path.relative_to(folder)}")

    def pack(self) -> bytes:
        return self.archive.pack()

    def _once(self, path: Path) -> None:
        if str(path) not in self.archive:
            self.archive.copy(path)

    def _python(self) -> None:
        ask = "import json, sysconfig as s; print(json.dumps(s.get_path('stdlib')))"
        told = subprocess.run([str(PYTHON), "-c", ask], capture_output=True, text=True, check=False)
        if told.returncode:
            raise LabError(f"the lab needs {PYTHON}: {told.stderr}")
        stdlib = Path(json.loads(told.stdout))
        self.program(PYTHON)
        for path in sorted(stdlib.rglob("*")):
            inner = path.relative_to(stdlib).parts
            if path.is_file() and not LEFT_OUT & set(inner) and not inner[0].startswith("config-"):
                self._once(path)
                if path.suffix == ".so":
                    for library in libraries(path):
                        self._once(library)
