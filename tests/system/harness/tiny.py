# SPDX-License-Identifier: Apache-2.0
"""PVH kernels of a dozen instructions that do one thing each (tiny.S)."""
from __future__ import annotations

import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("tiny.S")
BZIMAGE = Path(__file__).with_name("bzimage.S")


class Tiny:
    """Builds each kind once, in @folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def build(self, kind: str, **values: int) -> Path:
        """@kind is one of the TINY_ names in tiny.S, in lower case."""
        name = "-".join([kind, *(f"{key}{value}" for key, value in values.items())])
        path = self.folder / f"{name}.elf"
        if not path.exists():
            defines = [f"-DTINY_{kind.upper()}", *(f"-D{key.upper()}={value}"
                                                  for key, value in values.items())]
            subprocess.run(["gcc", "-m32", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none",
                            "-Wl,-z,noexecstack", "-Wl,-N", "-Wl,--no-warn-rwx-segments",
                            "-Wl,-Ttext=0x100000", "-Wl,--section-start=.note.Xen=0x101000", *defines, str(SOURCE),
                            "-o", str(path)], check=True, capture_output=True)
        return path

    def bzimage(self) -> Path:
        """A bzImage that prints command line and RSDP, and exits with its code selector."""
        path = self.folder / "bzImage"
        subprocess.run(["gcc", "-m64", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none",
                        "-Wl,-Ttext=0", "-Wl,--oformat=binary", str(BZIMAGE), "-o", str(path)],
                       check=True, capture_output=True)
        return path
