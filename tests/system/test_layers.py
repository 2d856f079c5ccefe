# SPDX-License-Identifier: Apache-2.0
"""tools/check-layers finds each breach of the architecture, and nothing else."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).resolve().parents[2] / "tools" / "check-layers"
GOOD = {
    "meson.build": "",
    "guest/images.h": "",
    "src/base/list.h": "#include <stddef.h>\n",
    "src/mem/own.h": "",
    "src/mem/ram.h": '#include "base/list.h"\n',
    "src/mem/ram.c": '#include <sys/mman.h>\n#include <linux/kvm.h>\n#include "mem/ram.h"\n'
                     '#include "own.h"\n#include "guest/images.h"\n',
    "src/cli/progress.h": "",
}


def checked(folder: Path, files: dict[str, str], *flags: str) -> tuple[int, list[str]]:
    """The exit code and the breaches."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    told = subprocess.run([sys.executable, str(CHECK), "--root", str(folder), *flags],
                          capture_output=True, text=True, timeout=60, check=False)
    assert told.stderr == ""
    *found, last = told.stdout.splitlines()
    assert last.endswith(f" {len(found)} breaches")
    return told.returncode, found


def test_tree_without_a_breach_passes(tmp_path: Path) -> None:
    assert checked(tmp_path, GOOD) == (0, [])


@pytest.mark.parametrize("line, why", [
    ('#include "cli/progress.h"', "points down"),
    ('#include"cli/progress.h"', "points down"),
    ('  #  include   "cli/progress.h"', "points down"),
    ("#include <cli/progress.h>", "is ours"),
    ("#include<cli/progress.h>", "is ours"),
    ("#include <base/list.h>", "is ours"),  # up, but not to be seen as such
    ("#include <guest/images.h>", "is ours"),
    ("#include <src/cli/progress.h>", "is ours"),
    ("#include <../src/cli/progress.h>", "is ours"),
    ('#include "mem/../cli/progress.h"', "leaves its folder"),
    ('#include "tests/some.h"', "'tests' is not a layer"),
    ('#include "progress.h"', "has no folder"),
])
def test_include_that_breaches_the_layers_is_told_of(tmp_path: Path, line: str, why: str) -> None:
    code, found = checked(tmp_path, {**GOOD, "src/mem/ram.c": f"/* */\n{line}\n"}, "--no-headers")
    assert code == 1
    told, = found
    assert told.startswith("src/mem/ram.c:2: ") and why in told


def test_folder_that_is_no_layer_is_told_of(tmp_path: Path) -> None:
    code, found = checked(tmp_path, {**GOOD, "src/util/misc.c": ""}, "--no-headers")
    assert (code, found) == (1, ["src/util/misc.c: folder 'util' is not a layer"])


def test_header_that_needs_another_before_it_is_told_of(tmp_path: Path) -> None:
    code, found = checked(tmp_path, {**GOOD, "src/mem/own.h": "int own(size_t size);\n"})
    assert code == 1
    told, = found
    assert told.startswith("src/mem/own.h does not compile alone: ") and "size_t" in told
